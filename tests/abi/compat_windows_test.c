/*
 * compat/windows.h: VirtualAlloc and its relatives behave as a WHP client expects of Windows.
 */
#include <windows.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define KIB ((SIZE_T)1024)
#define MIB (1024 * KIB)

/* Whether a byte can be read, asked of the kernel, not of the processor. */
static int readable(const void *address)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int found = 0;
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps)) {
        unsigned long low, high;
        char r;
        if (sscanf(line, "%lx-%lx %c", &low, &high, &r) == 3 && (ULONG_PTR)address >= low &&
            (ULONG_PTR)address < high)
            found = r == 'r';
    }
    fclose(maps);
    return found;
}

static void allocates_zeroed_memory_at_the_granularity(void **state)
{
    static const SIZE_T sizes[] = {1, 4096, 64 * KIB, 3 * MIB};
    (void)state;
    for (size_t i = 0; i < ARRAYSIZE(sizes); i++) {
        BYTE *memory = VirtualAlloc(NULL, sizes[i], MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
        assert_non_null(memory);
        assert_int_equal((ULONG_PTR)memory % (64 * KIB), 0);
        assert_int_equal(memory[0], 0);
        assert_int_equal(memory[sizes[i] - 1], 0);
        memory[0] = memory[sizes[i] - 1] = 0xA5;
        assert_true(VirtualFree(memory, 0, MEM_RELEASE));
        assert_false(readable(memory));
    }
}

static void commit_alone_reserves_too(void **state)
{
    (void)state;
    BYTE *memory = VirtualAlloc(NULL, 4096, MEM_COMMIT, PAGE_READWRITE);
    assert_non_null(memory);
    memory[4095] = 1;
    assert_true(VirtualFree(memory, 0, MEM_RELEASE));
}

static void reserved_memory_becomes_usable_by_commit_and_zero_after_decommit(void **state)
{
    (void)state;
    BYTE *memory = VirtualAlloc(NULL, MIB, MEM_RESERVE, PAGE_READWRITE);
    assert_non_null(memory);
    assert_false(readable(memory));
    /* The committed range is the pages that the byte range touches. */
    assert_ptr_equal(VirtualAlloc(memory + 5000, 4096, MEM_COMMIT, PAGE_READWRITE), memory + 4096);
    assert_false(readable(memory));
    assert_true(readable(memory + 4096) && readable(memory + 8192));
    assert_false(readable(memory + 12288));
    memory[4096] = 7;
    assert_true(VirtualFree(memory + 4096, 4096, MEM_DECOMMIT));
    assert_false(readable(memory + 4096));
    assert_true(readable(memory + 8192));
    assert_non_null(VirtualAlloc(memory + 4096, 4096, MEM_COMMIT, PAGE_READWRITE));
    assert_int_equal(memory[4096], 0);
    /* Size 0 at the base: everything. */
    assert_true(VirtualFree(memory, 0, MEM_DECOMMIT));
    assert_false(readable(memory + 8192));
    assert_true(VirtualFree(memory, 0, MEM_RELEASE));
    assert_null(VirtualAlloc(memory, 4096, MEM_COMMIT, PAGE_READWRITE));
    assert_int_equal(GetLastError(), ERROR_INVALID_ADDRESS);
}

static void an_address_can_be_asked_for_once(void **state)
{
    (void)state;
    BYTE *wanted = (BYTE *)(ULONG_PTR)0x200000000000;
    assert_ptr_equal(VirtualAlloc(wanted, 64 * KIB, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE),
                     wanted);
    wanted[0] = 1;
    assert_null(VirtualAlloc(wanted, 4096, MEM_RESERVE, PAGE_READWRITE));
    assert_int_equal(GetLastError(), ERROR_INVALID_ADDRESS);
    assert_int_equal(wanted[0], 1);
    assert_true(VirtualFree(wanted, 0, MEM_RELEASE));
}

static void release_wants_the_base_and_size_0(void **state)
{
    (void)state;
    BYTE local;
    BYTE *memory = VirtualAlloc(NULL, MIB, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
    assert_non_null(memory);
    assert_false(VirtualFree(memory, MIB, MEM_RELEASE));
    assert_int_equal(GetLastError(), ERROR_INVALID_PARAMETER);
    assert_false(VirtualFree(memory + 4096, 0, MEM_RELEASE));
    assert_int_equal(GetLastError(), ERROR_INVALID_ADDRESS);
    assert_false(VirtualFree(memory, 0, 0));
    assert_false(VirtualFree(NULL, 0, MEM_RELEASE));
    assert_false(VirtualFree(&local, 0, MEM_RELEASE));
    assert_true(readable(memory));
    assert_true(VirtualFree(memory, 0, MEM_RELEASE));
    assert_false(VirtualFree(memory, 0, MEM_RELEASE));
}

static void impossible_requests_fail_and_say_why(void **state)
{
    (void)state;
    assert_null(VirtualAlloc(NULL, 0, MEM_COMMIT, PAGE_READWRITE));
    assert_int_equal(GetLastError(), ERROR_INVALID_PARAMETER);
    assert_null(VirtualAlloc(NULL, 4096, MEM_COMMIT, 0));
    assert_null(VirtualAlloc(NULL, 4096, MEM_COMMIT, PAGE_READWRITE | PAGE_GUARD));
    assert_null(VirtualAlloc(NULL, 4096, 0, PAGE_READWRITE));
    assert_null(VirtualAlloc(NULL, 4096, MEM_RESERVE | MEM_LARGE_PAGES, PAGE_READWRITE));
    assert_int_equal(GetLastError(), ERROR_INVALID_PARAMETER);
    assert_null(VirtualAlloc(NULL, (SIZE_T)-1, MEM_COMMIT, PAGE_READWRITE));
    assert_null(VirtualAlloc(NULL, (SIZE_T)1 << 60, MEM_RESERVE, PAGE_READWRITE));
    assert_int_equal(GetLastError(), ERROR_NOT_ENOUGH_MEMORY);
}

static void protection_changes_and_tells_the_old_one(void **state)
{
    DWORD old = 0;
    (void)state;
    BYTE *memory = VirtualAlloc(NULL, 2 * 4096, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
    assert_non_null(memory);
    assert_true(VirtualProtect(memory, 4096, PAGE_READONLY, &old));
    assert_int_equal(old, PAGE_READWRITE);
    assert_true(VirtualProtect(memory, 4096, PAGE_NOACCESS, &old));
    assert_int_equal(old, PAGE_READONLY);
    assert_false(readable(memory));
    assert_true(readable(memory + 4096));
    assert_false(VirtualProtect(memory, 4096, PAGE_READWRITE, NULL));
    assert_int_equal(GetLastError(), ERROR_NOACCESS);
    assert_false(VirtualProtect(memory, 4096, 0x1234, &old));
    assert_int_equal(GetLastError(), ERROR_INVALID_PARAMETER);
    assert_true(VirtualFree(memory, 0, MEM_RELEASE));
    assert_false(VirtualProtect(memory, 4096, PAGE_READWRITE, &old));
    assert_int_equal(GetLastError(), ERROR_INVALID_ADDRESS);
}

static void memory_macros_do_what_they_say(void **state)
{
    BYTE bytes[4] = {1, 2, 3, 4};
    (void)state;
    MoveMemory(bytes + 1, bytes, 3);
    assert_int_equal(bytes[3], 3);
    FillMemory(bytes, 2, 9);
    assert_int_equal(bytes[1], 9);
    ZeroMemory(bytes, sizeof bytes);
    assert_int_equal(bytes[0] | bytes[1] | bytes[2] | bytes[3], 0);
    assert_int_equal(min(3, 4) + max(3, 4), 7);
}

static void the_rest_answers(void **state)
{
    SYSTEM_INFO info;
    LARGE_INTEGER now, then, frequency;
    (void)state;
    GetSystemInfo(&info);
    assert_int_equal(info.dwPageSize, 4096);
    assert_int_equal(info.dwAllocationGranularity, 65536);
    assert_true(info.dwNumberOfProcessors >= 1);
    assert_true(QueryPerformanceCounter(&now) && QueryPerformanceFrequency(&frequency));
    Sleep(1);
    assert_true(QueryPerformanceCounter(&then));
    assert_true(then.QuadPart > now.QuadPart && frequency.QuadPart > 0);
    assert_ptr_equal(GetCurrentProcess(), (HANDLE)(LONG_PTR)-1);
    assert_int_equal(GetCurrentProcessId(), getpid());
    SetLastError(1234);
    assert_int_equal(GetLastError(), 1234);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocates_zeroed_memory_at_the_granularity),
        cmocka_unit_test(commit_alone_reserves_too),
        cmocka_unit_test(reserved_memory_becomes_usable_by_commit_and_zero_after_decommit),
        cmocka_unit_test(an_address_can_be_asked_for_once),
        cmocka_unit_test(release_wants_the_base_and_size_0),
        cmocka_unit_test(impossible_requests_fail_and_say_why),
        cmocka_unit_test(protection_changes_and_tells_the_old_one),
        cmocka_unit_test(memory_macros_do_what_they_say),
        cmocka_unit_test(the_rest_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
