/*
 * What conformance tests share. A case has an id and names the fact it stands for: a section of the collected facts
 * on the API (F 9.6), a row of the page of settled questions (S), or the header's contract (H).
 */
#ifndef OWHP_TESTS_CONFORM_CONFORM_H
#define OWHP_TESTS_CONFORM_CONFORM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <WinHvPlatform.h>
#include <openwhp.h>

#define CASE(id, fact, function)                                                                   \
    {                                                                                              \
        id " [" fact "] " #function, run_case, before, after, &(struct test_case){id, function}    \
    }

#define E_INVALID_STATE  HRESULT_FROM_WIN32(ERROR_INVALID_STATE)
#define E_NOT_SUPPORTED  HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)
#define E_NOT_FOUND      HRESULT_FROM_WIN32(ERROR_NOT_FOUND)

void check_hr(HRESULT actual, HRESULT expected, const char *what, const char *file, int line);
#define assert_hr(call, expected) check_hr((call), (expected), #call, __FILE__, __LINE__)
#define assert_ok(call)           assert_hr(call, S_OK)

/* A failure whose HRESULT must come with words that name the function. */
#define assert_refused(call, expected)                                                             \
    do {                                                                                           \
        assert_hr(call, expected);                                                                 \
        assert_memory_equal(OwhpGetLastErrorText(), #call, strcspn(#call, "("));                   \
    } while (0)

/*
 * Dirty pages, as bits or counted. `read`: those that were read or executed and not stored to; an engine that cannot tell
 * (OwhpEngineDifferenceReadsMayBeDirty) may report some of them too.
 */
void check_dirty(UINT64 actual, UINT64 stored, UINT64 read, const char *file, int line);
void check_dirty_count(UINT64 actual, UINT64 stored, UINT64 read, const char *file, int line);
#define assert_dirty(actual, stored, read)       check_dirty((actual), (stored), (read), __FILE__, __LINE__)
#define assert_dirty_count(actual, stored, read) check_dirty_count((actual), (stored), (read), __FILE__, __LINE__)

/* How often to do what costs long: `rounds`, or a part of it where OPENWHP_TEST_SHORTER says how small a part. */
unsigned test_rounds(unsigned rounds);

/* An address at which nothing can be read or written (no constant: sanitizers have their memory everywhere). */
void *wild_pointer(void);
#define WILD (wild_pointer())

/* Puts the fake engine in, takes it out; after() finds leaks of engine objects. */
int before(void **state);
int after(void **state);

struct test_case {
    const char *id;
    void (*function)(void **state);
};

/* Runs the case with the library's own handlers of SIGSEGV and SIGBUS, which cmocka replaces by its. */
void run_case(void **state);

/* A partition with this many processors allowed (0: the property is not set); set up; with processor 0. */
WHV_PARTITION_HANDLE partition_created(UINT32 processors);
WHV_PARTITION_HANDLE partition_set_up(UINT32 processors);
WHV_PARTITION_HANDLE partition_with_vcpu(void);
WHV_PARTITION_HANDLE partition_with_apic(UINT32 processors);

void set_property(WHV_PARTITION_HANDLE partition, UINT32 code, UINT64 value, UINT32 size);

/* Run processor 0 on another thread until run_end; run_begin returns when it is inside the engine. */
struct runner;
struct runner *run_begin(WHV_PARTITION_HANDLE partition, UINT32 vp);
HRESULT run_end(struct runner *runner, WHV_RUN_VP_EXIT_CONTEXT *context);

/* Zeroed pages, for mapping; released by the test's end. */
void *host_pages(size_t count);

#endif
