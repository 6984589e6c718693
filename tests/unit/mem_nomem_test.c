/*
 * No memory: every call of src/mem, with each of its allocations failing in turn, answers
 * STATUS_NO_MEMORY and leaves mappings, dirty pages and pins as they were. The linker puts the
 * functions here between src/mem and the C library.
 */
#include "mem_test.h"

#include "mem/gpa_consumer.h"

#include <stdlib.h>

static long allocations_left = -1; /* negative: no limit */

static bool refused(void)
{
    return allocations_left >= 0 && allocations_left-- == 0;
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t size)
{
    return refused() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return refused() ? NULL : __real_calloc(n, size);
}

void *__wrap_mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return refused() ? MAP_FAILED : __real_mmap64(at, size, protection, flags, fd, offset);
}

static uint8_t *host;

struct picture {
    struct gpa_mapping list[3000];
    size_t count;
    uint64_t mapped, pinned, dirty;
};

static void take_picture(struct gpa_space *space, struct picture *picture)
{
    memset(picture, 0, sizeof(*picture));
    picture->count = gpa_space_list(space, 0, picture->list, array_size(picture->list));
    picture->mapped = gpa_space_mapped_pages(space);
    picture->pinned = gpa_space_pinned_pages(space);
    assert_ok(gpa_space_peek_dirty(space, 0, PAGES(100), NULL, 0, &picture->dirty));
}

enum { PIECES = 2500 };

/* 100 pages in one tracked mapping, partly pinned and dirty, and 64 lone pages: a few leaves. And as many pages side by side as
 * make their pins more nodes than there are at first. */
static struct gpa_space *create(void)
{
    struct gpa_space *space = gpa_space_create(48);
    assert_non_null(space);
    assert_ok(map(space, 0, PAGES(100), host, RW | T));
    for (unsigned i = 0; i < 64; i++)
        assert_ok(map(space, PAGES(1000 + 2 * i), PAGE_SIZE, host + PAGES(i), RW));
    for (unsigned i = 0; i < PIECES; i++)
        assert_ok(map(space, PAGES(2000 + i), PAGE_SIZE, host + PAGES(199 - i % 200), RW));
    assert_ok(gpa_space_mark_dirty(space, PAGES(10), PAGES(30)));
    assert_ok(gpa_space_pin(space, PAGES(20), PAGES(20)));
    for (unsigned i = 0; i < 16; i += 2)
        assert_ok(gpa_space_pin(space, PAGES(24 + i), PAGES(1)));
    return space;
}

static enum status map_in_the_middle(struct gpa_space *space)
{
    return map(space, PAGES(30), PAGES(3), host, RX);
}

static enum status map_far_away(struct gpa_space *space) /* new windows of the dirty record */
{
    return map(space, ((gpa_t)8 << 42) - PAGE_SIZE, PAGES(2), host, RW | T);
}

static enum status unmap_in_the_middle(struct gpa_space *space)
{
    return gpa_space_unmap(space, PAGES(31), PAGES(1));
}

static enum status pin_more(struct gpa_space *space)
{
    return gpa_space_pin(space, PAGES(2000), PAGES(PIECES));
}

static enum status unpin_some(struct gpa_space *space)
{
    return gpa_space_unpin(space, PAGES(21), PAGES(18));
}

static enum status switch_tracking(struct gpa_space *space)
{
    return gpa_space_set_tracking(space, (struct gpa_range){PAGES(1100), PAGES(1)}, true);
}

static enum status create_consumer(struct gpa_space *space)
{
    uint32_t id;
    return gpa_consumer_create(space, (struct gpa_range){0, (gpa_t)1 << 48}, GPA_CONSUMER_UNTRACKED, &id);
}

/* A new window for the processors' record and for those of two consumers. */
static enum status map_for_consumers(struct gpa_space *space)
{
    enum status status = create_consumer(space);
    return status == STATUS_OK ? map_far_away(space) : status;
}

/* Returns how many allocations were refused before the call succeeded. */
static unsigned try(enum status (*call)(struct gpa_space *))
{
    static struct picture before, after;
    for (long n = 0;; n++) {
        struct gpa_space *space = create();
        take_picture(space, &before);
        allocations_left = n;
        enum status status = call(space);
        allocations_left = -1;
        if (status == STATUS_OK) {
            gpa_space_destroy(space);
            return (unsigned)n;
        }
        assert_int_equal(status, STATUS_NO_MEMORY);
        take_picture(space, &after);
        assert_memory_equal(&before, &after, sizeof(before));
        assert_ok(call(space)); /* and it can be had later */
        gpa_space_destroy(space);
        assert_true(n < 1000);
    }
}

static void test_map(void **state)
{
    (void)state;
    try(map_in_the_middle);
    assert_true(try(map_far_away) >= 2);
}

static void test_unmap(void **state)
{
    (void)state;
    try(unmap_in_the_middle);
}

static void test_consumers(void **state)
{
    (void)state;
    assert_true(try(create_consumer) >= 4); /* itself, its record and two windows */
    assert_true(try(map_for_consumers) >= 8);
    try(switch_tracking);
}

static void test_pin(void **state)
{
    (void)state;
    assert_true(try(pin_more) > 0);
    try(unpin_some);
}

/* From nothing to the first mapping. */
static void test_create(void **state)
{
    (void)state;
    long n = 0;
    for (enum status status = STATUS_NO_MEMORY; status != STATUS_OK; n++) {
        allocations_left = n;
        struct gpa_space *space = gpa_space_create(40);
        status = STATUS_NO_MEMORY;
        if (space)
            status = map(space, 0, PAGES(4), host, RW | T);
        allocations_left = -1;
        assert_true(status == STATUS_OK || status == STATUS_NO_MEMORY);
        if (space)
            assert_int_equal(gpa_space_mapped_pages(space), status == STATUS_OK ? 4 : 0);
        gpa_space_destroy(space);
    }
    assert_true(n > 4); /* the space, its dirty record, nodes, a window */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_unmap),
        cmocka_unit_test(test_consumers),
        cmocka_unit_test(test_pin),
        cmocka_unit_test(test_create),
    };
    host = host_pages(200);
    return run_group(tests, array_size(tests));
}
