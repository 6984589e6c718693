/* WHvGetCapability. */
#include "conform.h"

#include <string.h>

#include "fake_engine.h"

static const struct row {
    UINT32 code, size;
    UINT64 value; /* of the first 8 bytes */
} rows[] = {
    {WHvCapabilityCodeHypervisorPresent, 4, TRUE},
    {WHvCapabilityCodeFeatures, 8, 0xf},
    {WHvCapabilityCodeExtendedVmExits, 8, 0x7fff},
    {WHvCapabilityCodeExceptionExitBitmap, 8, 0x3fffff},
    {WHvCapabilityCodeX64MsrExitBitmap, 8, 0x3f},
    {WHvCapabilityCodeGpaRangePopulateFlags, 4, 3},
    {WHvCapabilityCodeSchedulerFeatures, 8, 0},
    {WHvCapabilityCodeProcessorVendor, 4, WHvProcessorVendorIntel},
    {WHvCapabilityCodeProcessorFeatures, 8, 0x0000ffff0000ffff},
    {WHvCapabilityCodeProcessorClFlushSize, 1, 6},
    {WHvCapabilityCodeProcessorXsaveFeatures, 8, 7},
    {WHvCapabilityCodeProcessorClockFrequency, 8, 2000000000},
    {WHvCapabilityCodeInterruptClockFrequency, 8, 200000000},
    {WHvCapabilityCodeProcessorFeaturesBanks, 24, 2},
    {WHvCapabilityCodeProcessorFrequencyCap, 20, 0},
    {WHvCapabilityCodeSyntheticProcessorFeaturesBanks, 16, 1},
    {WHvCapabilityCodeProcessorPerfmonFeatures, 8, 0},
    {WHvCapabilityCodePhysicalAddressWidth, 4, 46},
    {(UINT32)OwhpCapabilityCodeEngineDifferences, 8, 5},
};

static HRESULT get(UINT32 code, void *buffer, UINT32 size, UINT32 *written)
{
    return WHvGetCapability((WHV_CAPABILITY_CODE)code, buffer, size, written);
}

static void values_and_sizes(void **state)
{
    (void)state;
    for (const struct row *r = rows; r < rows + sizeof(rows) / sizeof(rows[0]); r++) {
        UINT8 buffer[64];
        UINT64 value = 0;
        UINT32 written = 0;
        memset(buffer, 0xcc, sizeof(buffer));
        assert_ok(get(r->code, buffer, sizeof(WHV_CAPABILITY), &written));
        assert_int_equal(written, r->size);
        assert_int_equal(buffer[r->size], 0xcc);
        memcpy(&value, buffer, r->size < 8 ? r->size : 8);
        assert_int_equal(value, r->value);
        assert_ok(get(r->code, buffer, r->size, NULL));
        written = 0;
        memset(buffer, 0xcc, sizeof(buffer));
        assert_hr(get(r->code, buffer, r->size - 1, &written), WHV_E_INSUFFICIENT_BUFFER);
        assert_int_equal(written, r->size);
        assert_int_equal(buffer[0], 0xcc);
    }
}

static void banks(void **state)
{
    WHV_CAPABILITY capability;

    (void)state;
    assert_ok(get(WHvCapabilityCodeProcessorFeaturesBanks, &capability, sizeof(capability), NULL));
    assert_int_equal(capability.ProcessorFeaturesBanks.AsUINT64[0], 0x0000ffff0000ffff);
    assert_int_equal(capability.ProcessorFeaturesBanks.AsUINT64[1], 3);
}

static void bad_codes(void **state)
{
    const UINT32 codes[] = {7, 0xfff, 0x100b, 0x1fff, 0x2011, 0x3000, 0xffffffff};
    UINT64 buffer[4];

    (void)state;
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        assert_hr(get(codes[i], buffer, sizeof(buffer), NULL), WHV_E_UNKNOWN_CAPABILITY);
    for (UINT32 code = WHvCapabilityCodeVmxBasic; code <= WHvCapabilityCodeVmxTrueEntryCtls; code++)
        assert_hr(get(code, buffer, sizeof(buffer), NULL), E_NOT_SUPPORTED);
}

static void pointers(void **state)
{
    UINT64 buffer = 5;

    (void)state;
    for (const struct row *r = rows; r < rows + sizeof(rows) / sizeof(rows[0]); r++) {
        assert_hr(get(r->code, NULL, r->size, NULL), E_POINTER);
        assert_hr(get(r->code, WILD, 64, NULL), E_POINTER);
    }
    assert_hr(get(WHvCapabilityCodeFeatures, &buffer, 8, WILD), E_POINTER);
    assert_int_equal(buffer, 5);
}

static void without_engine(void **state)
{
    BOOL present = 7;

    (void)state;
    fake_usable = false;
    assert_ok(WHvGetCapability(WHvCapabilityCodeHypervisorPresent, &present, sizeof(present), NULL));
    assert_int_equal(present, FALSE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("CAP-1", "F 9.7", values_and_sizes), CASE("CAP-2", "F 9.7", banks),
        CASE("CAP-3", "F 9.7: WHV_E_UNKNOWN_CAPABILITY", bad_codes), CASE("CAP-4", "H WHvGetCapability", pointers),
        CASE("CAP-5", "H WHvGetCapability", without_engine),
    };
    return cmocka_run_group_tests_name("capability", tests, NULL, NULL);
}
