/* What every conformance program has; apart from the rest because <signal.h> and the processor's headers name the same
 * registers. */
#include "conform.h"
#include "differences.h"

#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

void check_hr(HRESULT actual, HRESULT expected, const char *what, const char *file, int line)
{
    if (actual == expected)
        return;
    print_error("%s\n  is %08x (%s)\n  not %08x\n", what, (unsigned)actual, FAILED(actual) ? OwhpGetLastErrorText() : "",
                (unsigned)expected);
    _fail(file, line);
}

void check_dirty(UINT64 actual, UINT64 stored, UINT64 read, const char *file, int line)
{
    UINT64 may = engine_differs(OwhpEngineDifferenceReadsMayBeDirty) ? read : 0;

    if ((actual & ~may) == (stored & ~may) && (actual & stored) == stored)
        return;
    print_error("dirty: %#llx; stored to: %#llx, only read: %#llx\n", (unsigned long long)actual, (unsigned long long)stored,
                (unsigned long long)read);
    _fail(file, line);
}

void check_dirty_count(UINT64 actual, UINT64 stored, UINT64 read, const char *file, int line)
{
    UINT64 may = engine_differs(OwhpEngineDifferenceReadsMayBeDirty) ? read : 0;

    if (actual >= stored && actual <= stored + may)
        return;
    print_error("%llu dirty pages; stored to: %llu, only read: %llu\n", (unsigned long long)actual, (unsigned long long)stored,
                (unsigned long long)read);
    _fail(file, line);
}

unsigned test_rounds(unsigned rounds)
{
    const char *shorter = getenv("OPENWHP_TEST_SHORTER");
    unsigned part = shorter ? (unsigned)strtoul(shorter, NULL, 0) : 1;

    if (part < 2)
        return rounds;
    unsigned fewer = (rounds + part - 1) / part;
    print_message("SHORTER (OPENWHP_TEST_SHORTER=%u): %u instead of %u\n", part, fewer, rounds);
    return fewer;
}

void *wild_pointer(void)
{
    static void *address;

    if (!address)
        address = mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return address;
}

/* Any call that writes to its caller makes the library install its handlers. */
static bool install_handlers(void)
{
    char reason;

    (void)OwhpQueryEngine(OwhpEngineSoft, &reason, 1);
    return true;
}

void run_case(void **state)
{
    static struct sigaction guard[2];
    static bool saved;
    const struct test_case *one = *state;
    const char *difference = engine_difference(one->id);

    if (difference) {
        print_message("SKIPPED: %s\n", difference);
        skip();
    }

    if (saved) {
        sigaction(SIGSEGV, &guard[0], NULL);
        sigaction(SIGBUS, &guard[1], NULL);
    } else if ((saved = install_handlers())) {
        sigaction(SIGSEGV, NULL, &guard[0]);
        sigaction(SIGBUS, NULL, &guard[1]);
    }
    one->function(state);
}
