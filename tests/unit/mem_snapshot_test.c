/* Snapshots whose mappings others change: a loaded one before it was adopted, one of terabytes, one of a file mapped twice; and
 * of memory that is missing for a while, or cannot be written. */
#include "mem_test.h"

#include "mem/gpa_consumer.h"
#include "mem/gpa_snapshot.h"
#include "os/host_data.h"

#include <stdlib.h>
#include <unistd.h>

static const gpa_t FAR = (gpa_t)1 << 43; /* where nothing was ever mapped: no record has memory for it */

static enum status adopt_one(struct gpa_space *space, const struct gpa_snapshot_range *range, struct gpa_snapshot **out)
{
    struct gpa_snapshot_range *ranges = malloc(sizeof(*ranges));
    struct page_room room = {0};

    assert_non_null(ranges);
    *ranges = *range;
    return gpa_snapshot_adopt(space, ranges, 1, &room, out);
}

static void test_unmapped_meanwhile(void **state)
{
    struct gpa_space *space = gpa_space_create(46);
    uint8_t *host = host_pages(2);
    const struct gpa_snapshot_range range = {.gpa = FAR, .size = PAGES(2), .target = (uintptr_t)host, .flags = RW};
    struct gpa_snapshot *snapshot;
    uint64_t pages;

    (void)state;
    host[PAGE_SIZE] = 1; /* to be marked */
    assert_ok(adopt_one(space, &range, &snapshot));
    assert_status(gpa_snapshot_restore(snapshot, false, &pages), STATUS_GPA_RANGE_NOT_FOUND);
    assert_ok(map(space, PAGES(5), PAGES(2), host, RW)); /* its memory, elsewhere: marks, too */
    assert_status(gpa_snapshot_restore(snapshot, false, &pages), STATUS_GPA_RANGE_NOT_FOUND);
    gpa_snapshot_destroy(snapshot);
    gpa_space_destroy(space);
    free_pages(host, 2);
}

static void test_process_gone_meanwhile(void **state)
{
    struct gpa_space *space = gpa_space_create(46);
    const struct gpa_snapshot_range range = {.gpa = FAR, .size = PAGES(2), .target = 0x100000, .owner = 1, .flags = RW};
    struct gpa_snapshot *snapshot = NULL;

    (void)state;
    assert_status(adopt_one(space, &range, &snapshot), STATUS_GPA_RANGE_NOT_FOUND);
    assert_null(snapshot);
    gpa_space_destroy(space);
}

/* ---- all of it is replaced ---- */

static uint64_t resident_pages(void)
{
    unsigned long long all, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");

    assert_non_null(file);
    assert_int_equal(fscanf(file, "%llu %llu", &all, &resident), 2);
    fclose(file);
    return resident;
}

static int file_of(uint64_t pages)
{
    int fd = memfd_create("snapshot", MFD_CLOEXEC);

    assert_int_equal(ftruncate(fd, (off_t)PAGES(pages)), 0);
    return fd;
}

static uint8_t *view_of(int fd, uint64_t first, uint64_t pages)
{
    void *p = mmap(NULL, PAGES(pages), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)PAGES(first));

    assert_true(p != MAP_FAILED);
    return p;
}

static uint8_t *file_pages(uint64_t pages)
{
    int fd = file_of(pages);
    uint8_t *p = view_of(fd, 0, pages);

    close(fd);
    return p;
}

/* To unmap terabytes takes no memory to speak of; all pages count as changed, and those that are are put back. */
static void test_huge_unmap(void **state)
{
    enum { COUNT = 1 << 30 }; /* 4 TiB: 128 MiB of bits, if there were any */
    static const uint32_t full[] = {0, 5, 64, 1 << 20, COUNT - 1};
    static const uint32_t scribbled[] = {5, 6, 63, 77, 1 << 20, (1 << 20) + 3, COUNT - 2};
    struct gpa_space *space = gpa_space_create(46);
    uint8_t *host = file_pages(COUNT);
    struct gpa_snapshot *snapshot;
    uint64_t pages;

    (void)state;
    for (size_t i = 0; i < array_size(full); i++)
        memset(host + PAGES(full[i]), (int)i + 1, PAGE_SIZE);
    assert_ok(map(space, PAGES(7), PAGES(COUNT), host, RW));
    assert_ok(gpa_snapshot_create(space, NULL, &snapshot));
    const uint64_t before = resident_pages();
    assert_ok(gpa_space_unmap(space, PAGES(100), PAGES(1)));
    assert_int_equal(gpa_snapshot_changed(snapshot), 1);
    assert_ok(gpa_space_unmap(space, 0, (gpa_t)1 << 46));
    assert_true(resident_pages() < before + 4096);
    assert_int_equal(gpa_snapshot_changed(snapshot), COUNT);
    assert_status(gpa_snapshot_restore(snapshot, false, &pages), STATUS_GPA_RANGE_NOT_FOUND);
    assert_ok(map(space, PAGES(7), PAGES(COUNT), host, RW));
    assert_int_equal(gpa_snapshot_changed(snapshot), COUNT);
    for (size_t i = 0; i < array_size(scribbled); i++)
        memset(host + PAGES(scribbled[i]), 0x99, PAGE_SIZE);
    assert_ok(gpa_space_write(space, PAGES(7 + 9), "a page that is marked, too", 9));
    assert_ok(gpa_snapshot_restore(snapshot, false, &pages));
    assert_int_equal(pages, COUNT);
    for (size_t i = 0; i < array_size(scribbled); i++)
        assert_int_equal(host[PAGES(scribbled[i])], scribbled[i] == 5 ? 2 : scribbled[i] == 1 << 20 ? 4 : 0);
    for (size_t i = 0; i < array_size(full); i++)
        assert_int_equal(host[PAGES(full[i]) + 4095], i + 1);
    assert_int_equal(host[PAGES(9)], 0);
    assert_int_equal(gpa_snapshot_changed(snapshot), 0);
    assert_ok(gpa_snapshot_restore(snapshot, true, &pages));
    assert_int_equal(pages, 0);
    gpa_snapshot_destroy(snapshot);
    gpa_space_destroy(space);
    free_pages(host, COUNT);
}

static uint64_t dirty_for(struct gpa_space *space, uint32_t consumer)
{
    const struct gpa_dirty_query query = {.consumer = consumer, .range = {0, PAGES(4096)}};
    static uint64_t bitmap[64];
    uint64_t count;

    assert_ok(gpa_consumer_bitmap(space, &query, bitmap, sizeof(bitmap), &count));
    return count;
}

/* Many pieces, more than are noted as ranges, with pages between that stay; others are told of all that is put back, another
 * snapshot among them. */
static void test_many_unmaps(void **state)
{
    enum { COUNT = 1 << 14 };
    struct gpa_space *space = gpa_space_create(46);
    uint8_t *host = host_pages(COUNT);
    struct gpa_snapshot *one, *two;
    uint64_t pages;
    uint32_t all, early;

    (void)state;
    for (uint64_t i = 0; i < COUNT; i++)
        host[PAGES(i)] = (uint8_t)(i % 3);
    assert_ok(map(space, 0, PAGES(COUNT), host, RW));
    assert_ok(gpa_snapshot_create(space, NULL, &one));
    assert_ok(gpa_snapshot_create(space, one, &two));
    assert_ok(gpa_consumer_create(space, (struct gpa_range){0, PAGES(COUNT)}, GPA_CONSUMER_UNTRACKED, &all));
    for (uint64_t i = 0; i < COUNT; i += 2)
        assert_ok(map(space, PAGES(i), PAGES(1), host + PAGES(i), RW));
    assert_int_equal(gpa_snapshot_changed(one), COUNT / 2);
    assert_ok(gpa_consumer_create(space, (struct gpa_range){0, PAGES(4096)}, GPA_CONSUMER_UNTRACKED, &early));
    memset(host, 0x77, PAGES(1));
    memset(host + PAGES(COUNT - 2), 0x77, PAGES(1));
    assert_ok(gpa_space_write(space, PAGES(3) + 8, "changed", 7));
    assert_int_equal(dirty_for(space, early), 1);
    assert_ok(gpa_snapshot_restore(one, false, &pages));
    assert_int_equal(pages, COUNT / 2 + 1);
    for (uint64_t i = 0; i < COUNT; i++)
        assert_int_equal(host[PAGES(i)] + host[PAGES(i) + 8], i % 3);
    assert_int_equal(dirty_for(space, early), 2048 + 1);
    assert_int_equal(gpa_snapshot_changed(one), 0);
    assert_int_equal(gpa_snapshot_changed(two), COUNT / 2 + 1);
    host[PAGES(2)] = 9;
    assert_ok(gpa_snapshot_restore(two, false, &pages));
    assert_int_equal(pages, COUNT / 2 + 1);
    assert_int_equal(host[PAGES(2)], 2);
    gpa_snapshot_destroy(one);
    gpa_snapshot_destroy(two);
    gpa_space_destroy(space);
    free_pages(host, COUNT);
}

/* ---- a file that is mapped twice ---- */

/* Pages 10 to 29 of a file are in the snapshot; others of it, or these, are mapped from another place in the host. */
static void test_same_file_elsewhere(void **state)
{
    static const struct {
        uint32_t first, count; /* pages of the file */
        uint64_t shared;       /* with the snapshot */
    } rows[] = {{10, 20, 20}, {0, 40, 20}, {12, 3, 3}, {0, 10, 0}, {5, 6, 1}, {29, 4, 1}, {30, 10, 0}};
    int file = file_of(40);
    uint8_t *host = view_of(file, 0, 40), *private = host_pages(1);

    (void)state;
    for (size_t i = 0; i < array_size(rows); i++) {
        struct gpa_space *space = gpa_space_create(46);
        uint8_t *alias = view_of(file, rows[i].first, rows[i].count);
        struct gpa_snapshot *snapshot, *next;
        uint64_t pages;
        memset(host, 3, PAGES(40));
        assert_ok(map(space, 0, PAGES(8), host + PAGES(10), RW));
        assert_ok(map(space, PAGES(1000), PAGES(12), host + PAGES(18), RW));
        assert_ok(map(space, PAGES(2000), PAGES(1), private, RW));
        assert_ok(gpa_snapshot_create(space, NULL, &snapshot));
        assert_ok(gpa_snapshot_create(space, snapshot, &next));
        gpa_snapshot_destroy(snapshot); /* the next one knows the files from it */
        assert_ok(map(space, PAGES(500), PAGES(rows[i].count), alias, RW));
        for (uint64_t page = 0; page < rows[i].count; page++)
            assert_ok(gpa_space_write(space, PAGES(500 + page) + 7, "x", 1));
        assert_ok(gpa_space_unmap(space, PAGES(500), PAGES(rows[i].count)));
        munmap(alias, PAGES(rows[i].count));
        assert_int_equal(gpa_snapshot_changed(next), rows[i].shared);
        assert_ok(gpa_snapshot_restore(next, false, &pages));
        assert_int_equal(pages, rows[i].shared);
        for (uint64_t page = 10; page < 30; page++)
            assert_int_equal(host[PAGES(page) + 7], 3);
        gpa_snapshot_destroy(next);
        gpa_space_destroy(space);
    }
    close(file);
    free_pages(host, 40);
    free_pages(private, 1);
}

/* Memory that is no alias changes nothing: private memory, another file, the same bytes of a private mapping of the file. */
static void test_other_memory(void **state)
{
    struct gpa_space *space = gpa_space_create(46);
    int file = file_of(8), other = file_of(8);
    uint8_t *host = view_of(file, 0, 8), *elsewhere = view_of(other, 0, 8), *private = host_pages(8);
    uint8_t *copy = mmap(NULL, PAGES(8), PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    struct gpa_snapshot *snapshot;

    (void)state;
    assert_ok(map(space, 0, PAGES(8), host, RW));
    assert_ok(gpa_snapshot_create(space, NULL, &snapshot));
    assert_ok(map(space, PAGES(100), PAGES(8), elsewhere, RW));
    assert_ok(map(space, PAGES(200), PAGES(8), private, RW));
    assert_ok(map(space, PAGES(300), PAGES(8), copy, RW));
    assert_ok(map(space, PAGES(400), PAGES(8), (void *)(uintptr_t)0x10000, RW)); /* nothing there */
    assert_int_equal(gpa_snapshot_changed(snapshot), 0);
    gpa_snapshot_destroy(snapshot);
    gpa_space_destroy(space);
    free_pages(host, 8);
    free_pages(elsewhere, 8);
    free_pages(private, 8);
    free_pages(copy, 8);
    close(file);
    close(other);
}

/* A private mapping of a file shows what is stored to the file's shared memory, until it is written itself. */
static void test_private_view(void **state)
{
    struct gpa_space *space = gpa_space_create(46);
    int file = file_of(8);
    uint8_t *shared = view_of(file, 0, 8), byte;
    uint8_t *copy = mmap(NULL, PAGES(4), PROT_READ | PROT_WRITE, MAP_PRIVATE, file, (off_t)PAGES(2));
    struct gpa_snapshot *first, *second;
    uint64_t pages;

    (void)state;
    memset(shared, 1, PAGES(8));
    assert_ok(map(space, 0, PAGES(4), copy, RW));
    assert_ok(gpa_snapshot_create(space, NULL, &first));
    assert_ok(map(space, PAGES(100), PAGES(8), shared, RW)); /* made after the snapshot */
    assert_int_equal(gpa_snapshot_changed(first), 4);
    assert_ok(gpa_space_write(space, PAGES(103), "2", 1));
    assert_ok(gpa_space_read(space, PAGES(1), &byte, 1));
    assert_int_equal(byte, '2');
    assert_ok(gpa_snapshot_restore(first, true, &pages));
    assert_ok(gpa_space_read(space, PAGES(1), &byte, 1));
    assert_int_equal(byte, 1);
    gpa_snapshot_destroy(first);
    madvise(copy, PAGES(4), MADV_DONTNEED); /* a view again */

    assert_ok(map(space, PAGES(100), PAGES(8), shared, RW)); /* both are in the snapshots */
    assert_ok(gpa_snapshot_create(space, NULL, &first));
    assert_ok(gpa_space_write(space, PAGES(104), "3", 1));
    assert_ok(gpa_snapshot_create(space, first, &second));
    assert_ok(gpa_space_write(space, PAGES(2), "4", 1));
    assert_ok(gpa_snapshot_restore(second, false, &pages));
    assert_ok(gpa_space_read(space, PAGES(2), &byte, 1));
    assert_int_equal(byte, '3');
    gpa_snapshot_destroy(first);
    gpa_snapshot_destroy(second);
    gpa_space_destroy(space);
    free_pages(shared, 8);
    free_pages(copy, 4);
    close(file);
}

/* Private mappings of one file are no aliases of each other: a second snapshot takes only what changed. */
static void test_private_twice(void **state)
{
    struct gpa_space *space = gpa_space_create(46);
    int file = file_of(4);
    uint8_t *a = mmap(NULL, PAGES(4), PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    uint8_t *b = mmap(NULL, PAGES(4), PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    struct gpa_snapshot *first, *second;

    (void)state;
    memset(a, 1, PAGES(4));
    assert_ok(map(space, 0, PAGES(4), a, RW));
    assert_ok(map(space, PAGES(100), PAGES(4), b, RW));
    assert_ok(gpa_snapshot_create(space, NULL, &first));
    assert_int_equal(gpa_snapshot_held(first), 4);
    assert_ok(gpa_space_write(space, PAGES(100), "2", 1));
    assert_ok(gpa_snapshot_create(space, first, &second));
    assert_int_equal(gpa_snapshot_held(second), 1);
    gpa_snapshot_destroy(first);
    gpa_snapshot_destroy(second);
    gpa_space_destroy(space);
    free_pages(a, 4);
    free_pages(b, 4);
    close(file);
}

struct pieces {
    struct host_file_piece array[16];
    size_t count;
};

static void note_piece(void *context, const struct host_file_piece *piece)
{
    struct pieces *p = context;

    assert_true(p->count < array_size(p->array));
    p->array[p->count++] = *piece;
}

static void assert_same_piece(const struct host_file_piece *a, const struct host_file_piece *b)
{
    assert_int_equal(a->address, b->address);
    assert_true(a->device == b->device && a->inode == b->inode);
    assert_int_equal(a->offset, b->offset);
    assert_int_equal(a->size, b->size);
    assert_int_equal(a->is_private, b->is_private);
}

/* The kernel says the same of a range as its list does. */
static void test_files_of_a_range(void **state)
{
    int file = file_of(8);
    uint8_t *host = host_pages(16), *where = host + PAGES(1);
    const struct {
        uint64_t from, pages;
    } rows[] = {{0, 15}, {1, 4}, {2, 1}, {3, 2}, {6, 9}, {11, 1}, {12, 3}};

    (void)state;
    mmap(where + PAGES(1), PAGES(4), PROT_READ, MAP_SHARED | MAP_FIXED, file, (off_t)PAGES(2));
    mmap(where + PAGES(5), PAGES(2), PROT_READ, MAP_PRIVATE | MAP_FIXED, file, 0);
    mmap(where + PAGES(8), PAGES(3), PROT_NONE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    munmap(where + PAGES(11), PAGES(1));
    mmap(where + PAGES(12), PAGES(1), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, (off_t)PAGES(7));
    struct host_data *data = host_data_open();
    assert_non_null(data);
    for (size_t i = 0; i < array_size(rows); i++) {
        struct pieces asked = {0}, listed = {0};
        assert_true(host_files_each(where + PAGES(rows[i].from), PAGES(rows[i].pages), note_piece, &asked));
        host_data_each_file(data, where + PAGES(rows[i].from), PAGES(rows[i].pages), note_piece, &listed);
        assert_int_equal(asked.count, listed.count);
        for (size_t k = 0; k < asked.count; k++)
            assert_same_piece(&asked.array[k], &listed.array[k]);
    }
    host_data_close(data);
    free_pages(host, 16);
    close(file);
}

/* ---- memory that comes and goes ---- */

/* Where the kernel puts nothing by itself: a hole there stays one. */
static uint8_t *lonely_view_of(int fd, uint64_t pages)
{
    void *at = (void *)0x200000000000;
    void *p = mmap(at, PAGES(pages), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
    assert_ptr_equal(p, at);
    return p;
}

static void take_away(int file, uint8_t *host, bool truncate)
{
    if (truncate)
        assert_int_equal(ftruncate(file, (off_t)PAGES(4)), 0);
    else
        munmap(host + PAGES(4), PAGES(4));
}

static void bring_back(int file, uint8_t *host, bool truncate)
{
    uint8_t page[PAGE_SIZE];

    memset(page, 7, sizeof(page));
    if (truncate)
        assert_int_equal(pwrite(file, page, sizeof(page), (off_t)PAGES(6)), PAGE_SIZE);
    else
        assert_ptr_equal(mmap(host + PAGES(4), PAGES(4), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, (off_t)PAGES(4)),
                         host + PAGES(4));
}

/* What was missing when snapshots were taken is in the next one that finds it, though nobody stored to it. */
static void check_missing(bool truncate)
{
    struct gpa_space *space = gpa_space_create(46);
    struct gpa_snapshot *s[3];
    int file = file_of(8);
    uint8_t *host = lonely_view_of(file, 8), byte;
    uint64_t pages;

    memset(host + PAGES(6), 7, PAGE_SIZE);
    assert_ok(map(space, PAGES(16), PAGES(8), host, RW));
    take_away(file, host, truncate);
    assert_ok(gpa_snapshot_create(space, NULL, &s[0]));
    assert_ok(gpa_snapshot_create(space, s[0], &s[1]));
    bring_back(file, host, truncate);
    assert_ok(gpa_snapshot_create(space, s[1], &s[2]));
    assert_int_equal(gpa_snapshot_held(s[2]), 1);
    assert_ok(gpa_space_write(space, PAGES(22), "other", 5));
    assert_ok(gpa_snapshot_restore(s[2], false, &pages));
    assert_int_equal(pages, 1);
    assert_ok(gpa_space_read(space, PAGES(22), &byte, 1));
    assert_int_equal(byte, 7);
    for (size_t i = 0; i < array_size(s); i++)
        gpa_snapshot_destroy(s[i]);
    gpa_space_destroy(space);
    free_pages(host, 8);
    close(file);
}

static void test_missing_meanwhile(void **state)
{
    (void)state;
    arm_guard();
    check_missing(false);
    check_missing(true);
}

/* A ROM that cannot be written is what it was, however often it is unmapped and mapped; or it is not, and then that is said. */
static void test_rom(void **state)
{
    enum { COUNT = 130 }; /* more zeros than a long run */
    struct gpa_space *space = gpa_space_create(46);
    uint8_t *host = host_pages(COUNT);
    struct gpa_snapshot *snapshot;
    uint64_t pages;

    (void)state;
    arm_guard();
    memset(host, 7, PAGE_SIZE);
    mprotect(host, PAGES(COUNT), PROT_READ);
    assert_ok(map(space, 0, PAGES(COUNT), host, RW));
    assert_ok(gpa_snapshot_create(space, NULL, &snapshot));
    for (int i = 0; i < 2; i++) {
        assert_ok(gpa_space_unmap(space, 0, PAGES(COUNT)));
        assert_ok(gpa_snapshot_restore(snapshot, true, &pages));
        assert_int_equal(pages, COUNT);
        assert_int_equal(gpa_snapshot_changed(snapshot), 0);
    }
    for (uint64_t other = 0; other < 3; other += 2) { /* one that had something, one that was zero */
        mprotect(host, PAGES(COUNT), PROT_READ | PROT_WRITE);
        host[PAGES(other) + 5] ^= 1;
        mprotect(host, PAGES(COUNT), PROT_READ);
        assert_ok(gpa_space_unmap(space, 0, PAGES(COUNT)));
        assert_status(gpa_snapshot_restore(snapshot, true, &pages), STATUS_ACCESS_DENIED);
        assert_int_equal(gpa_snapshot_changed(snapshot), 1);
        mprotect(host, PAGES(COUNT), PROT_READ | PROT_WRITE);
        assert_ok(gpa_snapshot_restore(snapshot, false, &pages));
        assert_int_equal(host[PAGES(other) + 5], other ? 0 : 7);
    }
    gpa_snapshot_destroy(snapshot);
    gpa_space_destroy(space);
    free_pages(host, COUNT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unmapped_meanwhile),
        cmocka_unit_test(test_process_gone_meanwhile),
        cmocka_unit_test(test_huge_unmap),
        cmocka_unit_test(test_many_unmaps),
        cmocka_unit_test(test_same_file_elsewhere),
        cmocka_unit_test(test_other_memory),
        cmocka_unit_test(test_private_view),
        cmocka_unit_test(test_private_twice),
        cmocka_unit_test(test_files_of_a_range),
        cmocka_unit_test(test_missing_meanwhile),
        cmocka_unit_test(test_rom),
    };
    return run_group(tests, array_size(tests));
}
