/* gpa_advise.h: populate makes pages resident, pins are counted. */
#include "mem_test.h"

#include "mem/gpa_doorbell.h"
#include "mem/host_pins.h"

#include <stdlib.h>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

struct fixture {
    struct gpa_space *space;
    uint8_t *host; /* 64 pages */
};

static int setup(void **state)
{
    static struct fixture f;
    f.space = gpa_space_create(40);
    f.host = host_pages(64);
    madvise(f.host, PAGES(64), MADV_NOHUGEPAGE);
    *state = &f;
    return f.space ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    gpa_space_destroy(f->space);
    free_pages(f->host, 64);
    return 0;
}

static unsigned resident(uint8_t *host, size_t pages)
{
    unsigned char map_of[64];
    unsigned count = 0;
    assert_true(pages <= 64);
    assert_int_equal(mincore(host, PAGES(pages), map_of), 0);
    for (size_t i = 0; i < pages; i++)
        count += map_of[i] & 1;
    return count;
}

#define BASE PAGES(0x200)

static struct gpa_range range(gpa_t gpa, uint64_t size)
{
    return (struct gpa_range){gpa, size};
}

static void test_map_touches_nothing(void **state)
{
    struct fixture *f = *state;
    assert_ok(map(f->space, BASE, PAGES(64), f->host, RWX | T));
    assert_int_equal(resident(f->host, 64), 0);
}

static void test_populate(void **state)
{
    struct fixture *f = *state;
    assert_ok(map(f->space, BASE, PAGES(64), f->host, RW | T));
    /* One byte means its page; two bytes across a seam mean two. */
    assert_ok(gpa_space_populate(f->space, range(BASE + PAGES(5) + 7, 1), GPA_ACCESS_WRITE, 0));
    assert_int_equal(resident(f->host, 64), 1);
    assert_int_equal(resident(f->host + PAGES(5), 1), 1);
    assert_ok(gpa_space_populate(f->space, range(BASE + PAGES(8) - 1, 2), GPA_ACCESS_WRITE, 0));
    assert_int_equal(resident(f->host, 64), 3);
    assert_ok(gpa_space_populate(f->space, range(BASE, PAGES(64)), GPA_ACCESS_READ,
                                 GPA_POPULATE_PREFETCH));
    assert_int_equal(resident(f->host, 64), 64);
    uint64_t count;
    assert_ok(gpa_space_peek_dirty(f->space, BASE, PAGES(64), NULL, 0, &count));
    assert_int_equal(count, 0);
}

/* A doorbell keeps guests off its page; the memory under it, and behind it, is what it was. */
static void test_populate_doorbell(void **state)
{
    struct fixture *f = *state;
    const struct gpa_doorbell first = {.gpa = BASE}, fifth = {.gpa = BASE + PAGES(5) + 8, .length = 4};
    const int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    uint64_t id;

    assert_true(event >= 0);
    assert_ok(map(f->space, BASE, PAGES(64), f->host, RW));
    assert_ok(gpa_doorbell_create(f->space, &first, event, &id));
    assert_ok(gpa_doorbell_create(f->space, &fifth, event, &id));
    assert_ok(gpa_space_populate(f->space, range(BASE, PAGES(64)), GPA_ACCESS_WRITE, 0));
    assert_int_equal(resident(f->host, 64), 64);
    close(event);
}

static void test_populate_pieces(void **state)
{
    struct fixture *f = *state;
    uint8_t *big = host_pages(6000); /* more than one piece */
    madvise(big, PAGES(6000), MADV_NOHUGEPAGE);
    assert_ok(map(f->space, BASE, PAGES(6000), big, RW));
    assert_ok(map(f->space, BASE + PAGES(100), PAGES(1), f->host, RWX));
    assert_ok(gpa_space_populate(f->space, range(BASE, PAGES(6000)), GPA_ACCESS_WRITE, 0));
    for (size_t i = 0; i < 6000; i += 50)
        assert_int_equal(resident(big + PAGES(i), 50), i == 100 ? 49 : 50);
    assert_int_equal(resident(f->host, 64), 1);
    gpa_space_destroy(f->space);
    f->space = gpa_space_create(40);
    free_pages(big, 6000);
}

static void test_populate_arguments(void **state)
{
    struct fixture *f = *state;
    assert_ok(map(f->space, BASE, PAGES(4), f->host, R));
    assert_status(gpa_space_populate(f->space, range(BASE, 0), GPA_ACCESS_READ, 0),
                  STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_populate(f->space, range(BASE, UINT64_MAX), GPA_ACCESS_READ, 0),
                  STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_populate(f->space, range(BASE, 1), GPA_ACCESS_READ, 4),
                  STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_populate(f->space, range(BASE, 1), (enum gpa_access)3, 0),
                  STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_populate(f->space, range(BASE, PAGES(5)), GPA_ACCESS_READ, 0),
                  STATUS_GPA_RANGE_NOT_FOUND);
    assert_status(gpa_space_populate(f->space, range(BASE, PAGES(4)), GPA_ACCESS_WRITE, 0),
                  STATUS_ACCESS_DENIED);
    assert_status(gpa_space_populate(f->space, range(BASE, PAGES(4)), GPA_ACCESS_EXECUTE, 0),
                  STATUS_ACCESS_DENIED);
    assert_int_equal(resident(f->host, 64), 0); /* nothing done */
}

static void test_populate_missing_host(void **state)
{
    arm_guard();
    struct fixture *f = *state;
    char page[32];
    uint8_t *gone = host_pages(4);
    assert_int_equal(mprotect(gone + PAGES(2), PAGE_SIZE, PROT_READ), 0);
    assert_ok(map(f->space, BASE, PAGES(4), gone, RW));
    assert_status(gpa_space_populate(f->space, range(BASE, PAGES(4)), GPA_ACCESS_WRITE, 0),
                  STATUS_ACCESS_DENIED);
    snprintf(page, sizeof(page), "%p", (void *)(gone + PAGES(2)));
    assert_non_null(strstr(last_error_text(), page)); /* the page is named */
    assert_ok(gpa_space_populate(f->space, range(BASE, PAGES(4)), GPA_ACCESS_READ, 0));
    assert_ok(gpa_space_populate(f->space, range(BASE, PAGES(4)), GPA_ACCESS_WRITE,
                                 GPA_POPULATE_PREFETCH));
    free_pages(gone, 4);
    assert_status(gpa_space_populate(f->space, range(BASE, PAGES(4)), GPA_ACCESS_READ, 0),
                  STATUS_ACCESS_DENIED);
    assert_status(gpa_space_populate(f->space, range(BASE, PAGES(4)), GPA_ACCESS_READ, GPA_POPULATE_AVOID_HARD_FAULTS),
                  STATUS_ACCESS_DENIED);
}

static void test_populate_without_disk(void **state)
{
    struct fixture *f = *state;
    f->host[PAGES(3)] = 1;
    assert_ok(map(f->space, BASE, PAGES(64), f->host, RW));
    assert_ok(gpa_space_populate(f->space, range(BASE + PAGES(2), PAGES(62)), GPA_ACCESS_WRITE, GPA_POPULATE_AVOID_HARD_FAULTS));
    assert_int_equal(resident(f->host, 64), 62); /* what was never used is on no disk */
}

/* A file's pages that are not in memory have to be read, if the file system lets us drop them; its holes have not. */
static void test_populate_without_disk_file(void **state)
{
    struct fixture *f = *state;
    char name[] = "populate-test-XXXXXX";
    uint8_t bytes[PAGE_SIZE] = {1};
    int file = mkstemp(name);

    assert_true(file >= 0 && unlink(name) == 0);
    assert_int_equal(pwrite(file, bytes, sizeof(bytes), 0), sizeof(bytes));
    assert_true(ftruncate(file, PAGES(512)) == 0 && fsync(file) == 0);
    uint8_t *memory = mmap(NULL, PAGES(512), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    assert_true(memory != MAP_FAILED);
    (void)posix_fadvise(file, 0, PAGES(512), POSIX_FADV_DONTNEED);
    const unsigned before = resident(memory, 1);
    assert_ok(map(f->space, BASE, PAGES(512), memory, RW));
    assert_ok(gpa_space_populate(f->space, range(BASE, PAGES(1)), GPA_ACCESS_READ, GPA_POPULATE_AVOID_HARD_FAULTS));
    assert_int_equal(resident(memory, 1), before);
    assert_ok(gpa_space_populate(f->space, range(BASE + PAGES(511), PAGES(1)), GPA_ACCESS_READ, GPA_POPULATE_AVOID_HARD_FAULTS));
    assert_int_equal(resident(memory + PAGES(511), 1), 1);
    assert_true(munmap(memory, PAGES(512)) == 0 && close(file) == 0);
}

static void test_pin_counts(void **state)
{
    struct fixture *f = *state;
    struct gpa_space *s = f->space;
    assert_ok(map(s, BASE, PAGES(16), f->host, RW));
    assert_status(gpa_space_unpin(s, BASE, PAGES(1)), STATUS_INVALID_ARGUMENT);

    assert_ok(gpa_space_pin(s, BASE, PAGES(8)));
    assert_ok(gpa_space_pin(s, BASE + PAGES(4), PAGES(8))); /* 4..7 have two now */
    assert_int_equal(gpa_space_pinned_pages(s), 12);
    assert_status(gpa_space_unpin(s, BASE, PAGES(13)), STATUS_INVALID_ARGUMENT);
    assert_int_equal(gpa_space_pinned_pages(s), 12); /* nothing changed */
    assert_ok(gpa_space_unpin(s, BASE, PAGES(12)));
    assert_int_equal(gpa_space_pinned_pages(s), 4);
    assert_status(gpa_space_unpin(s, BASE + PAGES(3), PAGES(2)), STATUS_INVALID_ARGUMENT);
    assert_ok(gpa_space_unpin(s, BASE + PAGES(4), PAGES(4)));
    assert_int_equal(gpa_space_pinned_pages(s), 0);
}

static void test_pin_drops(void **state)
{
    struct fixture *f = *state;
    struct gpa_space *s = f->space;
    assert_ok(map(s, BASE, PAGES(16), f->host, RW));
    assert_ok(gpa_space_pin(s, BASE, PAGES(16)));
    assert_ok(gpa_space_unmap(s, BASE + PAGES(4), PAGES(4)));
    assert_int_equal(gpa_space_pinned_pages(s), 12);
    assert_ok(map(s, BASE, PAGES(2), f->host, RW)); /* a replacing map drops them too */
    assert_int_equal(gpa_space_pinned_pages(s), 10);
    assert_status(gpa_space_unpin(s, BASE, PAGES(4)), STATUS_INVALID_ARGUMENT);
    assert_ok(gpa_space_unpin(s, BASE + PAGES(2), PAGES(2)));
    assert_int_equal(gpa_space_pinned_pages(s), 8);
}

static void test_pin_arguments(void **state)
{
    arm_guard();
    struct fixture *f = *state;
    struct gpa_space *s = f->space;
    uint8_t *gone = host_pages(2);
    assert_ok(map(s, BASE, PAGES(4), f->host, RW));
    assert_status(gpa_space_pin(s, BASE + 1, PAGES(1)), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_pin(s, BASE, 100), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_pin(s, BASE, 0), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_pin(s, (gpa_t)1 << 40, PAGES(1)), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_unpin(s, BASE + 1, PAGES(1)), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_unpin(s, BASE, 0), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_pin(s, BASE, PAGES(5)), STATUS_GPA_RANGE_NOT_FOUND);
    assert_int_equal(gpa_space_pinned_pages(s), 0);

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* there mlock does nothing */
    assert_ok(map(s, BASE + PAGES(4), PAGES(2), gone, RW));
    free_pages(gone + PAGES(1), 1);
    assert_status(gpa_space_pin(s, BASE, PAGES(6)), STATUS_ACCESS_DENIED);
    assert_int_equal(gpa_space_pinned_pages(s), 0); /* nothing pinned */
    assert_ok(gpa_space_pin(s, BASE, PAGES(5)));
    assert_int_equal(resident(f->host, 4), 4);
    free_pages(gone, 1);
#else
    free_pages(gone, 2);
#endif
}

/* Two guest pages over one host page: each has its count, the host page the sum. */
static void test_pin_alias(void **state)
{
    struct fixture *f = *state;
    struct gpa_space *s = f->space, *other = gpa_space_create(40);
    assert_ok(map(s, BASE, PAGES(2), f->host, RW));
    assert_ok(map(s, BASE + PAGES(8), PAGES(2), f->host + PAGES(1), RW));
    assert_ok(map(other, 0, PAGES(4), f->host, RW));
    assert_ok(gpa_space_pin(s, BASE, PAGES(2)));
    assert_ok(gpa_space_pin(s, BASE + PAGES(8), PAGES(2)));
    assert_ok(gpa_space_pin(other, 0, PAGES(4)));
    assert_int_equal(gpa_space_pinned_pages(s), 4);
    assert_ok(gpa_space_unpin(s, BASE, PAGES(2)));
    gpa_space_destroy(other);
    assert_int_equal(gpa_space_pinned_pages(s), 2);
    assert_ok(gpa_space_unpin(s, BASE + PAGES(8), PAGES(2)));
}

/* How much of the process is locked, in KiB, as the kernel counts it. */
static unsigned long locked(void)
{
    char line[128];
    unsigned long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    assert_non_null(status);
    while (fgets(line, sizeof(line), status))
        if (sscanf(line, "VmLck: %lu", &kib) == 1)
            break;
    fclose(status);
    return kib;
}

static void test_host_locks(void **state)
{
    struct fixture *f = *state;
    uint64_t host = (uintptr_t)f->host;
    unsigned long before = locked();
    assert_ok(host_pins_add(host, PAGES(4)));
    if (locked() == before) {
        print_message("SKIPPED: mlock does nothing in this build (a sanitizer)\n");
        host_pins_drop(host, PAGES(4));
        skip();
    }
    assert_int_equal(locked() - before, 16);
    assert_ok(host_pins_add(host + PAGES(2), PAGES(4)));
    assert_int_equal(locked() - before, 24);
    host_pins_drop(host, PAGES(4));
    assert_int_equal(locked() - before, 16); /* 2..5 */
    host_pins_drop(host + PAGES(2), PAGES(4));
    assert_int_equal(locked(), before);
}

static uint8_t counts[64];

/* Random pins against an array of counts. */
static void test_pin_model(void **state)
{
    struct fixture *f = *state;
    uint64_t random = 9;
    memset(counts, 0, sizeof(counts));
    assert_ok(map(f->space, BASE, PAGES(32), f->host, RW));
    assert_ok(map(f->space, BASE + PAGES(32), PAGES(32), f->host, RW)); /* the same host pages */
    for (unsigned step = 0; step < 4000; step++) {
        uint64_t first = random_below(&random, 64), n = 1 + random_below(&random, 64 - first);
        bool pin = random_below(&random, 2), all = true;
        unsigned pinned = 0;
        for (uint64_t i = first; i < first + n; i++)
            all &= counts[i] != 0;
        if (pin)
            assert_ok(gpa_space_pin(f->space, BASE + PAGES(first), PAGES(n)));
        else
            assert_status(gpa_space_unpin(f->space, BASE + PAGES(first), PAGES(n)),
                          all ? STATUS_OK : STATUS_INVALID_ARGUMENT);
        for (uint64_t i = first; i < first + n && (pin || all); i++)
            counts[i] = (uint8_t)(counts[i] + (pin ? 1 : -1));
        for (uint64_t i = 0; i < 64; i++)
            pinned += counts[i] != 0;
        assert_int_equal(gpa_space_pinned_pages(f->space), pinned);
        pinned = 0;
        for (uint64_t i = first; i < first + n; i++)
            pinned += counts[i] != 0;
        assert_int_equal(gpa_space_pinned_in(f->space, BASE + PAGES(first), PAGES(n)), pinned);
        if (step % 200 == 199) {
            assert_ok(map(f->space, BASE + PAGES(16), PAGES(20), f->host + PAGES(16), RW));
            memset(counts + 16, 0, 20);
        }
    }
}

/* ---- populate: many threads ---- */

/* Enough for several threads; a page in the middle cannot be had. */
static void test_populate_threads(void **state)
{
    enum { MANY = 24576, GONE = 17000 }; /* 96 MiB */
    struct fixture *f = *state;
    arm_guard();
    uint8_t *big = host_pages(MANY);
    madvise(big, PAGES(MANY), MADV_NOHUGEPAGE);
    assert_ok(map(f->space, BASE, PAGES(MANY), big, RW));
    assert_int_equal(munmap(big + PAGES(GONE), PAGE_SIZE), 0);
    assert_status(gpa_space_populate(f->space, range(BASE, PAGES(MANY)), GPA_ACCESS_READ, 0), STATUS_ACCESS_DENIED);
    char page[32];
    snprintf(page, sizeof(page), "0x%lx:", (unsigned long)(BASE + PAGES(GONE)));
    assert_non_null(strstr(last_error_text(), page)); /* the page to blame */
    /* As a hint: all others, also those behind it. */
    assert_ok(gpa_space_populate(f->space, range(BASE, PAGES(MANY)), GPA_ACCESS_WRITE, GPA_POPULATE_PREFETCH));
    for (size_t i = 0; i < MANY; i += 25)
        if (i > GONE || i + 25 <= GONE)
            assert_int_equal(resident(big + PAGES(i), MANY - i < 25 ? MANY - i : 25), MANY - i < 25 ? MANY - i : 25);
    assert_ok(gpa_space_unmap(f->space, BASE, PAGES(MANY)));
    munmap(big, PAGES(GONE));
    munmap(big + PAGES(GONE + 1), PAGES(MANY - GONE - 1));
}

/* ---- discard ---- */

static uint8_t *file_pages(int fd, size_t count, int protection, int sharing)
{
    void *p = mmap(NULL, PAGES(count), protection, sharing, fd, 0);
    assert_true(p != MAP_FAILED);
    return p;
}

static bool all(const uint8_t *bytes, size_t size, uint8_t value)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != value)
            return false;
    return true;
}

/* Private and shared memory side by side, one call; an alias and another mapping of the file see zeros, nothing else is
 * touched. */
static void test_discard(void **state)
{
    struct fixture *f = *state;
    int fd = memfd_create("test", MFD_CLOEXEC);
    uint64_t bits;

    assert_int_equal(ftruncate(fd, (off_t)PAGES(8)), 0);
    uint8_t *shared = file_pages(fd, 8, PROT_READ | PROT_WRITE, MAP_SHARED), *other = file_pages(fd, 8, PROT_READ, MAP_SHARED);
    memset(f->host, 1, PAGES(64));
    memset(shared, 2, PAGES(8));
    assert_ok(map(f->space, BASE, PAGES(8), f->host, RW | T));
    assert_ok(map(f->space, BASE + PAGES(8), PAGES(8), shared, R | T));
    assert_ok(map(f->space, BASE + PAGES(100), PAGES(8), shared, RW | T));
    assert_ok(gpa_space_discard(f->space, BASE + PAGES(6), PAGES(5)));
    assert_true(all(f->host, PAGES(6), 1) && all(f->host + PAGES(6), PAGES(2), 0) && all(f->host + PAGES(8), PAGES(56), 1));
    assert_true(all(shared, PAGES(3), 0) && all(shared + PAGES(3), PAGES(5), 2));
    assert_true(all(other, PAGES(3), 0) && all(other + PAGES(3), PAGES(5), 2));
    assert_ok(gpa_space_query_dirty(f->space, BASE, PAGES(16), &bits, 8));
    assert_int_equal(bits, 0x7c0); /* the pages discarded */
    gpa_space_destroy(f->space);
    f->space = gpa_space_create(40);
    munmap(shared, PAGES(8));
    munmap(other, PAGES(8));
    close(fd);
}

static void test_discard_gives_back(void **state)
{
    struct fixture *f = *state;
    memset(f->host, 1, PAGES(64));
    assert_ok(map(f->space, BASE, PAGES(64), f->host, RW));
    assert_int_equal(resident(f->host, 64), 64);
    assert_ok(gpa_space_discard(f->space, BASE + PAGES(10), PAGES(20)));
    assert_int_equal(resident(f->host, 64), 44);
}

static void test_discard_refusals(void **state)
{
    struct fixture *f = *state;
    char name[] = "/tmp/owhp-discard-XXXXXX";
    int fd = mkstemp(name), memory = memfd_create("test", MFD_CLOEXEC);
    uint64_t count;

    assert_true(fd >= 0 && unlink(name) == 0 && ftruncate(fd, (off_t)PAGES(4)) == 0 && ftruncate(memory, (off_t)PAGES(4)) == 0);
    uint8_t *private = file_pages(fd, 4, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    uint8_t *fixed = file_pages(memory, 4, PROT_READ, MAP_SHARED);
    uint8_t *gone = host_pages(4);
    munmap(gone + PAGES(2), PAGE_SIZE);
    memset(f->host, 1, PAGES(64));
    memset(private, 3, PAGES(4));
    assert_ok(map(f->space, BASE, PAGES(8), f->host, RW | T));
    assert_ok(map(f->space, BASE + PAGES(8), PAGES(4), private, RW | T));
    assert_ok(map(f->space, BASE + PAGES(12), PAGES(4), fixed, RW | T));
    assert_ok(map(f->space, BASE + PAGES(16), PAGES(4), gone, RW | T));
    const struct {
        gpa_t gpa;
        uint64_t size;
        enum status status;
    } rows[] = {
        {BASE, 0, STATUS_INVALID_ARGUMENT},
        {BASE + 1, PAGE_SIZE, STATUS_INVALID_ARGUMENT},
        {BASE, PAGE_SIZE + 1, STATUS_INVALID_ARGUMENT},
        {(gpa_t)1 << 40, PAGE_SIZE, STATUS_INVALID_ARGUMENT},
        {BASE + PAGES(19), PAGES(2), STATUS_GPA_RANGE_NOT_FOUND},
        {BASE, PAGES(9), STATUS_NOT_SUPPORTED},                /* a private mapping of a file */
        {BASE + PAGES(12), PAGES(1), STATUS_NOT_SUPPORTED},    /* read-only, shared */
        {BASE + PAGES(16), PAGES(4), STATUS_ACCESS_DENIED},    /* a hole in host memory */
    };
    for (size_t i = 0; i < array_size(rows); i++)
        assert_status(gpa_space_discard(f->space, rows[i].gpa, rows[i].size), rows[i].status);
    assert_ok(gpa_space_pin(f->space, BASE + PAGES(3), PAGES(1)));
    assert_status(gpa_space_discard(f->space, BASE, PAGES(8)), STATUS_ACCESS_DENIED);
    assert_ok(gpa_space_unpin(f->space, BASE + PAGES(3), PAGES(1)));
    assert_true(all(f->host, PAGES(8), 1) && all(private, PAGES(4), 3)); /* nothing was done */
    assert_ok(gpa_space_peek_dirty(f->space, BASE, PAGES(20), NULL, 0, &count));
    assert_int_equal(count, 0);
    /* Locked by somebody else: only the kernel finds out. */
    assert_int_equal(syscall(SYS_mlock, f->host + PAGES(5), PAGE_SIZE), 0); /* (sanitizers make mlock do nothing) */
    assert_status(gpa_space_discard(f->space, BASE + PAGES(4), PAGES(4)), STATUS_NOT_SUPPORTED);
    assert_int_equal(syscall(SYS_munlock, f->host + PAGES(5), PAGE_SIZE), 0);
    assert_ok(gpa_space_discard(f->space, BASE, PAGES(8)));
    gpa_space_destroy(f->space);
    f->space = gpa_space_create(40);
    munmap(private, PAGES(4));
    munmap(fixed, PAGES(4));
    munmap(gone, PAGES(2));
    munmap(gone + PAGES(3), PAGE_SIZE);
    close(fd);
    close(memory);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_map_touches_nothing),
        TEST(test_populate),
        TEST(test_populate_doorbell),
        TEST(test_populate_pieces),
        TEST(test_populate_arguments),
        TEST(test_populate_missing_host),
        TEST(test_populate_without_disk),
        TEST(test_populate_without_disk_file),
        TEST(test_populate_threads),
        TEST(test_discard),
        TEST(test_discard_gives_back),
        TEST(test_discard_refusals),
        TEST(test_pin_counts),
        TEST(test_pin_drops),
        TEST(test_pin_arguments),
        TEST(test_pin_alias),
        TEST(test_host_locks),
        TEST(test_pin_model),
    };
    return run_group(tests, array_size(tests));
}
