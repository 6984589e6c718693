/* What the tests of src/mem share. */
#ifndef OWHP_TESTS_MEM_TEST_H
#define OWHP_TESTS_MEM_TEST_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
/* util/last_error.h has a function of the same name as cmocka's macro. */
#undef fail
#undef fail_msg
#define fail_msg(...) (print_error(__VA_ARGS__), print_error("\n"), _fail(__FILE__, __LINE__))

#include "mem/gpa_access.h"
#include "mem/gpa_advise.h"
#include "mem/gpa_space.h"
#include "os/guarded.h"
#include "util/last_error.h"

#include <sys/mman.h>

#define PAGES(n) ((uint64_t)(n)*PAGE_SIZE)
#define R        GPA_READ
#define RW       (GPA_READ | GPA_WRITE)
#define RX       (GPA_READ | GPA_EXECUTE)
#define RWX      (GPA_READ | GPA_WRITE | GPA_EXECUTE)
#define T        GPA_TRACK_DIRTY

/* The statuses by name, so that a failure says what happened. */
#define assert_status(call, expected)                                                              \
    do {                                                                                           \
        enum status got_ = (call), want_ = (expected);                                             \
        if (got_ != want_)                                                                         \
            fail_msg("%s: status %d, expected %d (%s)", #call, got_, want_, last_error_text());    \
    } while (0)

#define assert_ok(call) assert_status(call, STATUS_OK)

/*
 * While a test runs, cmocka catches SIGSEGV and SIGBUS itself, in place of os/guarded.c. A test
 * in which memory is missing puts the guard back first.
 */
static struct sigaction guard_segv, guard_bus;

static inline void arm_guard(void)
{
    sigaction(SIGSEGV, &guard_segv, NULL);
    sigaction(SIGBUS, &guard_bus, NULL);
}

static inline int run_group(const struct CMUnitTest *tests, size_t count)
{
    if (!guarded_init())
        return 1;
    sigaction(SIGSEGV, NULL, &guard_segv);
    sigaction(SIGBUS, NULL, &guard_bus);
    return _cmocka_run_group_tests("mem", tests, count, NULL, NULL);
}

/* xorshift64*: the same sequence everywhere. */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1DULL;
}

static inline uint64_t random_below(uint64_t *state, uint64_t limit)
{
    return next_random(state) % limit;
}

static inline uint8_t *host_pages(size_t count)
{
    void *p = mmap(NULL, PAGES(count), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(p != MAP_FAILED);
    return p;
}

static inline void free_pages(void *p, size_t count)
{
    assert_int_equal(munmap(p, PAGES(count)), 0);
}

static inline enum status map(struct gpa_space *space, gpa_t gpa, uint64_t size, void *host,
                              uint32_t flags)
{
    return gpa_space_map(space, &(struct gpa_mapping){gpa, size, host, flags});
}

#endif
