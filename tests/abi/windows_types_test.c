/*
 * openwhp/windows_types.h: error codes and macros have the values of Windows. Most of it is
 * checked by the compiler; what is left are the macros that compute.
 */
#include <openwhp.h>
#include <WinHvPlatform.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static const struct {
    HRESULT value;
    UINT32 expected;
} codes[] = {
    {S_OK, 0},
    {S_FALSE, 1},
    {E_NOTIMPL, 0x80004001},
    {E_POINTER, 0x80004003},
    {E_FAIL, 0x80004005},
    {E_UNEXPECTED, 0x8000FFFF},
    {E_ACCESSDENIED, 0x80070005},
    {E_HANDLE, 0x80070006},
    {E_OUTOFMEMORY, 0x8007000E},
    {E_INVALIDARG, 0x80070057},
    {HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED), 0x80070032},
    {HRESULT_FROM_WIN32(ERROR_INVALID_STATE), 0x8007139F},
    {HRESULT_FROM_WIN32(ERROR_NOT_FOUND), 0x80070490},
    {HRESULT_FROM_WIN32(ERROR_ACCESS_DENIED), 0x80070005},
    {HRESULT_FROM_WIN32(ERROR_INVALID_PARAMETER), 0x80070057},
    {ERROR_HV_INVALID_PARAMETER, 0xC0350005},
    {ERROR_HV_ACCESS_DENIED, 0xC0350006},
    {ERROR_HV_OPERATION_DENIED, 0xC0350008},
    {ERROR_HV_INVALID_VP_STATE, 0xC0350015},
    {ERROR_HV_INVALID_REGISTER_VALUE, 0xC0350050},
    {ERROR_VID_PARTITION_ALREADY_EXISTS, 0xC0370008},
};

static void codes_have_the_values_of_windows(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        assert_int_equal((UINT32)codes[i].value, codes[i].expected);
}

static void failure_is_bit_31(void **state)
{
    (void)state;
    assert_true(SUCCEEDED(S_OK) && SUCCEEDED(S_FALSE));
    assert_true(FAILED(E_INVALIDARG) && FAILED(ERROR_HV_INVALID_PARAMETER));
    assert_false(FAILED(S_FALSE) || SUCCEEDED(WHV_E_INVALID_VP_STATE));
}

static void from_win32_keeps_success_and_hresults(void **state)
{
    (void)state;
    assert_int_equal(HRESULT_FROM_WIN32(ERROR_SUCCESS), S_OK);
    assert_int_equal(HRESULT_FROM_WIN32(E_POINTER), E_POINTER);
    assert_int_equal(HRESULT_CODE(HRESULT_FROM_WIN32(ERROR_NOT_FOUND)), ERROR_NOT_FOUND);
    assert_int_equal(HRESULT_FACILITY(E_INVALIDARG), FACILITY_WIN32);
    assert_int_equal(HRESULT_FACILITY(WHV_E_UNKNOWN_PROPERTY), 0x37);
    assert_int_equal(HRESULT_FACILITY(ERROR_HV_INVALID_PARAMETER), 0x35);
}

static void base_types_have_the_sizes_of_windows(void **state)
{
    (void)state;
    assert_int_equal(sizeof(HRESULT), 4);
    assert_int_equal(sizeof(BOOL), 4);
    assert_int_equal(sizeof(ULONG), 4);
    assert_int_equal(sizeof(LONG), 4);
    assert_int_equal(sizeof(DWORD), 4);
    assert_int_equal(sizeof(WCHAR), 2);
    assert_int_equal(sizeof(HANDLE), 8);
    assert_int_equal(sizeof(SIZE_T), 8);
    assert_int_equal(sizeof(GUID), 16);
    assert_int_equal(sizeof(u"ab"), 3 * sizeof(WCHAR));
    assert_int_equal(PowerDeviceD0, 1);
    assert_int_equal(PowerDeviceMaximum, 5);
}

/* A code of ours must never meet one of Windows'. */
static void our_property_code_is_in_a_range_of_its_own(void **state)
{
    (void)state;
    assert_int_equal(OwhpPartitionPropertyCodeEngine, 0x4F570001);
    assert_int_equal(OwhpEngineAuto, 0);
    assert_int_equal(OwhpEngineSoft, 1);
    assert_int_equal(OwhpEngineKvm, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_have_the_values_of_windows),
        cmocka_unit_test(failure_is_bit_31),
        cmocka_unit_test(from_win32_keeps_success_and_hresults),
        cmocka_unit_test(base_types_have_the_sizes_of_windows),
        cmocka_unit_test(our_property_code_is_in_a_range_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
