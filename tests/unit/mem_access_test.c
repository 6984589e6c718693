/* gpa_access.h: reads and writes across seams, all or nothing, and page-table entries. */
#include "mem_test.h"

#include <unistd.h>

struct fixture {
    struct gpa_space *space;
    uint8_t *host; /* 16 pages */
};

static int setup(void **state)
{
    static struct fixture f;
    f.space = gpa_space_create(40);
    f.host = host_pages(16);
    for (size_t i = 0; i < PAGES(16); i++)
        f.host[i] = (uint8_t)(i * 7 + (i >> 12));
    *state = &f;
    return f.space ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    gpa_space_destroy(f->space);
    free_pages(f->host, 16);
    return 0;
}

static uint64_t dirty_pages(struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    uint64_t count = 0;
    assert_ok(gpa_space_peek_dirty(space, gpa, size, NULL, 0, &count));
    return count;
}

/* Guest pages 0..3 are host pages 3, 1, 8, 2: four mappings that do not continue each other. */
static void map_shuffled(struct fixture *f, uint32_t flags)
{
    static const unsigned order[] = {3, 1, 8, 2};
    for (unsigned i = 0; i < 4; i++)
        assert_ok(map(f->space, PAGES(0x100 + i), PAGE_SIZE, f->host + PAGES(order[i]), flags));
}

#define BASE PAGES(0x100)

static void test_across_mappings(void **state)
{
    struct fixture *f = *state;
    uint8_t out[3 * 4096], in[3 * 4096];
    map_shuffled(f, RW | T);

    assert_ok(gpa_space_read(f->space, BASE + 100, out, sizeof(out)));
    assert_memory_equal(out, f->host + PAGES(3) + 100, 4096 - 100);
    assert_memory_equal(out + 4096 - 100, f->host + PAGES(1), 4096);
    assert_memory_equal(out + 2 * 4096 - 100, f->host + PAGES(8), 4096);
    assert_memory_equal(out + 3 * 4096 - 100, f->host + PAGES(2), 100);
    assert_int_equal(dirty_pages(f->space, BASE, PAGES(4)), 0);

    for (size_t i = 0; i < sizeof(in); i++)
        in[i] = (uint8_t)(200 - i);
    uint8_t before = f->host[PAGES(3) + 99], after = f->host[PAGES(2) + 100];
    assert_ok(gpa_space_write(f->space, BASE + 100, in, sizeof(in)));
    assert_memory_equal(f->host + PAGES(3) + 100, in, 4096 - 100);
    assert_memory_equal(f->host + PAGES(2), in + 3 * 4096 - 100, 100);
    assert_int_equal(f->host[PAGES(3) + 99], before);
    assert_int_equal(f->host[PAGES(2) + 100], after);
    assert_int_equal(dirty_pages(f->space, BASE, PAGES(4)), 4);
    assert_ok(gpa_space_read(f->space, BASE + 100, out, sizeof(out)));
    assert_memory_equal(out, in, sizeof(in));
}

static void test_marks_only_what_is_written(void **state)
{
    struct fixture *f = *state;
    uint64_t bitmap = 0;
    assert_ok(map(f->space, BASE, PAGES(8), f->host, RW | T));
    assert_ok(gpa_space_write(f->space, BASE + PAGES(2) - 1, "ab", 2)); /* pages 1 and 2 */
    assert_ok(gpa_space_write(f->space, BASE + PAGES(5), "c", 1));
    assert_ok(gpa_space_write(f->space, BASE + PAGES(7) - 1, "d", 1)); /* the end of page 6 */
    assert_ok(gpa_space_query_dirty(f->space, BASE, PAGES(8), &bitmap, 8));
    assert_int_equal(bitmap, 0x66);
}

static void test_refusals(void **state)
{
    struct fixture *f = *state;
    uint8_t buffer[3 * 4096];
    static uint8_t old[PAGES(16)];
    memcpy(old, f->host, sizeof(old));
    assert_ok(map(f->space, BASE, PAGES(2), f->host, RW | T));
    assert_ok(map(f->space, BASE + PAGES(2), PAGES(1), f->host + PAGES(2), R));
    assert_ok(map(f->space, BASE + PAGES(3), PAGES(1), f->host + PAGES(3), 0));
    memset(buffer, 0x77, sizeof(buffer));

    /* Nothing is moved, whichever page refuses. */
    assert_status(gpa_space_write(f->space, BASE + PAGES(1), buffer, 4097), STATUS_ACCESS_DENIED);
    assert_non_null(strstr(last_error_text(), "rights"));
    assert_status(gpa_space_write(f->space, BASE - 1, buffer, 10), STATUS_ACCESS_DENIED);
    assert_non_null(strstr(last_error_text(), "not mapped"));
    assert_memory_equal(old, f->host, sizeof(old));
    assert_int_equal(dirty_pages(f->space, BASE, PAGES(2)), 0);

    assert_status(gpa_space_read(f->space, BASE + PAGES(2), buffer, 4097), STATUS_ACCESS_DENIED);
    assert_status(gpa_space_read(f->space, BASE + PAGES(3), buffer, 1), STATUS_ACCESS_DENIED);
    assert_status(gpa_space_read(f->space, BASE - 1, buffer, 2), STATUS_ACCESS_DENIED);
    assert_status(gpa_space_read(f->space, (gpa_t)1 << 40, buffer, 1), STATUS_ACCESS_DENIED);
    assert_status(gpa_space_read(f->space, UINT64_MAX, buffer, 1), STATUS_ACCESS_DENIED);
    for (size_t i = 0; i < sizeof(buffer); i++)
        assert_int_equal(buffer[i], 0x77);
    assert_ok(gpa_space_read(f->space, BASE + PAGES(2), buffer, 4096));

    assert_status(gpa_space_read(f->space, BASE, buffer, 0), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_write(f->space, BASE, buffer, 0), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_read(f->space, UINT64_MAX, buffer, 2), STATUS_INVALID_ARGUMENT);
}

static void test_host_memory_gone(void **state)
{
    arm_guard();
    struct fixture *f = *state;
    uint8_t *gone = host_pages(4), buffer[2 * 4096] = {0};
    assert_ok(map(f->space, BASE, PAGES(4), gone, RW | T));
    memset(gone, 0x11, PAGES(4));

    assert_int_equal(mprotect(gone + PAGES(2), PAGE_SIZE, PROT_READ), 0);
    assert_status(gpa_space_write(f->space, BASE + PAGES(1), buffer, 4097), STATUS_ACCESS_DENIED);
    assert_int_equal(gone[PAGES(1)], 0x11); /* the page that could be written was not */
    assert_int_equal(dirty_pages(f->space, BASE, PAGES(4)), 0);
    assert_ok(gpa_space_read(f->space, BASE + PAGES(2), buffer, 4096));
    assert_int_equal(buffer[0], 0x11);

    free_pages(gone + PAGES(3), 1);
    buffer[0] = 0;
    assert_status(gpa_space_read(f->space, BASE + PAGES(2), buffer, 4097), STATUS_ACCESS_DENIED);
    assert_non_null(strstr(last_error_text(), "missing or protected"));
    assert_int_equal(buffer[0], 0);
    free_pages(gone, 3);
    assert_status(gpa_space_read(f->space, BASE, buffer, 1), STATUS_ACCESS_DENIED);
}

/* A file that became shorter behind its mapping answers with SIGBUS. */
static void test_truncated_file(void **state)
{
    arm_guard();
    struct fixture *f = *state;
    uint8_t buffer[8];
    int fd = memfd_create("guest", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)PAGES(2)), 0);
    uint8_t *file = mmap(NULL, PAGES(2), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(file != MAP_FAILED);
    assert_ok(map(f->space, BASE, PAGES(2), file, RW));
    assert_ok(gpa_space_write(f->space, BASE + PAGES(1), "x", 1));
    assert_int_equal(ftruncate(fd, (off_t)PAGES(1)), 0);
    assert_status(gpa_space_read(f->space, BASE + PAGES(1), buffer, 8), STATUS_ACCESS_DENIED);
    assert_status(gpa_space_write(f->space, BASE + PAGES(1), "x", 1), STATUS_ACCESS_DENIED);
    assert_ok(gpa_space_write(f->space, BASE + PAGES(1) - 1, "x", 1));
    free_pages(file, 2);
    close(fd);
}

static void test_bad_buffers(void **state)
{
    arm_guard();
    struct fixture *f = *state;
    uint8_t *hole = host_pages(2), before = f->host[0];
    free_pages(hole + PAGE_SIZE, 1);
    assert_ok(map(f->space, BASE, PAGES(4), f->host, RW));
    assert_status(gpa_space_read(f->space, BASE, NULL, 8), STATUS_BAD_POINTER);
    assert_status(gpa_space_write(f->space, BASE, NULL, 8), STATUS_BAD_POINTER);
    hole[4095] = (uint8_t)~before;
    assert_status(gpa_space_write(f->space, BASE, hole + 4095, 2), STATUS_BAD_POINTER);
    assert_int_equal(f->host[0], before);
    assert_status(gpa_space_read(f->space, BASE, hole + 4095, 2), STATUS_BAD_POINTER);
    assert_int_equal(hole[4095], (uint8_t)~before);
    free_pages(hole, 1);

    assert_ok(map(f->space, BASE, PAGES(4), f->host, RW | T));
    assert_ok(gpa_space_mark_dirty(f->space, BASE, 1));
    uint64_t *nowhere = (uint64_t *)8;
    assert_status(gpa_space_query_dirty(f->space, BASE, PAGES(4), nowhere, 8), STATUS_BAD_POINTER);
    assert_int_equal(dirty_pages(f->space, BASE, PAGES(4)), 1); /* nothing cleared */
}

static unsigned wrote_calls;
static uint64_t wrote_place;
static uint64_t wrote_size;

static void on_wrote(void *ctx, uint64_t place, uint64_t size)
{
    (void)ctx;
    wrote_calls++;
    wrote_place = place;
    wrote_size = size;
}

static void nothing(void *ctx)
{
    (void)ctx;
}

static void no_change(void *ctx, const struct gpa_change *change)
{
    (void)ctx;
    (void)change;
}

static void test_wrote(void **state)
{
    struct fixture *f = *state;
    struct gpa_listener listens = {nothing, no_change, on_wrote, NULL, NULL};
    struct gpa_listener deaf = {nothing, no_change, NULL, NULL, NULL};
    uint8_t buffer[100] = {0};
    gpa_space_add_listener(f->space, &listens);
    gpa_space_add_listener(f->space, &deaf);
    assert_ok(map(f->space, BASE, PAGES(4), f->host, RW | T));

    wrote_calls = 0;
    assert_ok(gpa_space_read(f->space, BASE, buffer, 100));
    assert_int_equal(wrote_calls, 0);
    assert_ok(gpa_space_write(f->space, BASE + 4050, buffer, 100));
    assert_int_equal(wrote_calls, 1);
    assert_int_equal(wrote_place, (uintptr_t)f->host + 4050);
    assert_int_equal(wrote_size, 100);
    assert_status(gpa_space_write(f->space, BASE + PAGES(4) - 1, buffer, 2), STATUS_ACCESS_DENIED);
    assert_int_equal(wrote_calls, 1);
    assert_ok(gpa_space_mark_dirty(f->space, BASE, 1));
    assert_int_equal(wrote_calls, 2);
    gpa_space_remove_listener(f->space, &listens);
    gpa_space_remove_listener(f->space, &deaf);
    assert_ok(gpa_space_write(f->space, BASE, buffer, 1));
    assert_int_equal(wrote_calls, 2);
}

static void take_second_page_away(void *ctx, uint64_t place, uint64_t size)
{
    on_wrote(NULL, place, size);
    assert_int_equal(mprotect(ctx, PAGE_SIZE, PROT_NONE), 0);
}

/* A write that fails in the middle, because memory goes away after it was looked at, is told as far as it came, and dirty. */
static void test_wrote_half(void **state)
{
    struct fixture *f = *state;
    struct gpa_listener listens = {nothing, no_change, take_second_page_away, f->host + PAGES(3), NULL};
    uint8_t buffer[100] = {0};
    uint64_t bitmap;

    arm_guard();
    gpa_space_add_listener(f->space, &listens);
    assert_ok(map(f->space, BASE, PAGES(1), f->host, RW | T));
    assert_ok(map(f->space, BASE + PAGES(1), PAGES(1), f->host + PAGES(3), RW | T));
    wrote_calls = 0;
    assert_status(gpa_space_write(f->space, BASE + 4050, buffer, 100), STATUS_ACCESS_DENIED);
    assert_int_equal(wrote_calls, 1);
    assert_int_equal(wrote_size, 46);
    assert_ok(gpa_space_query_dirty(f->space, BASE, PAGES(2), &bitmap, 8));
    assert_int_equal(bitmap, 1);
    assert_int_equal(mprotect(f->host + PAGES(3), PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
    gpa_space_remove_listener(f->space, &listens);
}

static void test_entries(void **state)
{
    struct fixture *f = *state;
    uint64_t value = 0, *entry = (uint64_t *)(void *)(f->host + 8);
    bool done;
    assert_ok(map(f->space, BASE, PAGES(1), f->host, RW | T));
    assert_ok(map(f->space, BASE + PAGES(1), PAGES(1), f->host + PAGES(1), R));
    assert_ok(map(f->space, BASE + PAGES(2), PAGES(1), f->host + PAGES(2), 0));
    *entry = 0x1122334455667788;

    gpa_space_read_begin(f->space);
    assert_int_equal(gpa_space_load_entry(f->space, BASE + 8, 8, &value), GPA_RESULT_OK);
    assert_int_equal(value, 0x1122334455667788);
    assert_int_equal(gpa_space_load_entry(f->space, BASE + 8, 4, &value), GPA_RESULT_OK);
    assert_int_equal(value, 0x55667788);
    assert_int_equal(gpa_space_load_entry(f->space, BASE - 8, 8, &value), GPA_RESULT_UNMAPPED);
    assert_int_equal(gpa_space_load_entry(f->space, BASE + PAGES(2), 8, &value),
                     GPA_RESULT_NO_ACCESS);

    assert_int_equal(gpa_space_exchange_entry(f->space, BASE + 8, 8, 0x1122334455667788, 5, &done),
                     GPA_RESULT_OK);
    assert_true(done);
    assert_int_equal(*entry, 5);
    assert_int_equal(gpa_space_exchange_entry(f->space, BASE + 8, 8, 6, 7, &done), GPA_RESULT_OK);
    assert_false(done);
    assert_int_equal(*entry, 5);
    assert_int_equal(gpa_space_exchange_entry(f->space, BASE + 12, 4, 0, 9, &done), GPA_RESULT_OK);
    assert_true(done);
    assert_int_equal(*entry, 0x900000005);
    assert_int_equal(gpa_space_exchange_entry(f->space, BASE + PAGES(1), 8, 0, 1, &done),
                     GPA_RESULT_NO_ACCESS);
    assert_int_equal(gpa_space_exchange_entry(f->space, BASE + PAGES(3), 8, 0, 1, &done),
                     GPA_RESULT_UNMAPPED);
    gpa_space_read_end(f->space);
    assert_int_equal(dirty_pages(f->space, BASE, PAGES(1)), 1);
}

static void test_entries_without_host(void **state)
{
    arm_guard();
    struct fixture *f = *state;
    uint8_t *gone = host_pages(1);
    uint64_t value;
    bool done;
    assert_ok(map(f->space, BASE, PAGES(1), gone, RW | T));
    assert_int_equal(mprotect(gone, PAGE_SIZE, PROT_READ), 0);
    gpa_space_read_begin(f->space);
    assert_int_equal(gpa_space_load_entry(f->space, BASE, 8, &value), GPA_RESULT_OK);
    assert_int_equal(gpa_space_exchange_entry(f->space, BASE, 8, 0, 1, &done), GPA_RESULT_NO_HOST);
    free_pages(gone, 1);
    assert_int_equal(gpa_space_load_entry(f->space, BASE, 4, &value), GPA_RESULT_NO_HOST);
    gpa_space_read_end(f->space);
    assert_int_equal(dirty_pages(f->space, BASE, PAGES(1)), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* A copy that meets a missing page has moved every byte before it and none behind, whatever vectors it was made of. */
static void test_copy_stops_exactly(void **state)
{
    enum { SPAN = 600 };
    uint8_t *from = host_pages(3), *to = host_pages(3), expected[SPAN];
    static const size_t sizes[] = {1, 2, 3, 4, 7, 8, 9, 16, 100, 127, 128, 129, 256, 300, 511, 512, 600};

    (void)state;
    arm_guard();
    assert_int_equal(mprotect(from + PAGES(2), PAGE_SIZE, PROT_NONE), 0);
    assert_int_equal(mprotect(to + PAGES(2), PAGE_SIZE, PROT_READ), 0);
    for (size_t i = 0; i < PAGES(2); i++)
        from[i] = (uint8_t)(i * 7 + i / 251);
    for (size_t s = 0; s < array_size(sizes); s++)
        for (size_t there = 0; there <= sizes[s]; there++)
            for (int which = 0; which < 2; which++) { /* which of the two ends early */
                uint8_t *f = which ? from + 100 : from + PAGES(2) - there, *t = which ? to + PAGES(2) - there : to + 100;
                memset(to + PAGES(2) - SPAN, 0xee, SPAN);
                memset(to + 100, 0xee, SPAN);
                memset(expected, 0xee, SPAN);
                memcpy(expected, f, there);
                assert_int_equal(guarded_copy_partial(t, f, sizes[s]), sizes[s] - there);
                assert_memory_equal(t, expected, which ? there : SPAN);
            }
    /* Onto higher addresses it overlaps with, a copy repeats what it copied (MOVS). */
    for (size_t distance = 1; distance < 300; distance += 13) {
        memcpy(to, from, 1000);
        memcpy(from + 5000, from, 1000);
        for (size_t i = 0; i < 500; i++)
            from[5000 + distance + i] = from[5000 + i];
        assert_true(guarded_copy(to + distance, to, 500));
        assert_memory_equal(to, from + 5000, 1000);
        memcpy(to, from, 1000);
        assert_true(guarded_copy(to, to + distance, 500));
        assert_memory_equal(to, from + distance, 500);
    }
    free_pages(from, 3);
    free_pages(to, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_across_mappings),
        TEST(test_marks_only_what_is_written),
        TEST(test_refusals),
        TEST(test_host_memory_gone),
        TEST(test_truncated_file),
        TEST(test_bad_buffers),
        TEST(test_wrote), TEST(test_wrote_half),
        TEST(test_entries),
        TEST(test_entries_without_host),
        TEST(test_copy_stops_exactly),
    };
    return run_group(tests, array_size(tests));
}
