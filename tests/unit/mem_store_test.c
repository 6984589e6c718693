/* What snapshots are made of: checksums, pages kept aside, finding what was ever used; and snapshots of memory by themselves. */
#include "mem_test.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mem/gpa_snapshot.h"
#include "mem/page_store.h"
#include "os/host_data.h"
#include "util/crc32c.h"

static uint64_t random_state = 7;

static uint64_t draw(uint64_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % below;
}

/* RFC 3720 B.4 */
static void checksums(void **state)
{
    uint8_t bytes[300];

    (void)state;
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(crc32c_portable(0, "123456789", 9), 0xe3069283);
    memset(bytes, 0, sizeof(bytes));
    assert_int_equal(crc32c(0, bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, sizeof(bytes));
    assert_int_equal(crc32c(0, bytes, 32), 0x62a8ab43);
    for (int i = 0; i < 2000; i++) {
        size_t size = draw(sizeof(bytes)), cut = size ? draw(size) : 0;
        for (size_t j = 0; j < size; j++)
            bytes[j] = (uint8_t)draw(256);
        uint32_t whole = crc32c(0, bytes, size);
        assert_int_equal(whole, crc32c_portable(0, bytes, size));
        assert_int_equal(whole, crc32c(crc32c(0, bytes, cut), bytes + cut, size - cut));
    }
}

enum { PAGES = 200, STORES = 5 };

/* A chain of stores against arrays of numbers: the number fills the page, 0 is a page of zeros. */
static void chain(void **state)
{
    struct page_store store[STORES];
    struct page_room room[STORES] = {{0}};
    uint64_t held[STORES] = {0};
    uint64_t model[STORES][PAGES] = {{0}};

    (void)state;
    for (size_t s = 0; s < STORES; s++) {
        bool done[PAGES] = {false};

        assert_true(page_room_reserve_pages(&room[s], PAGES) && page_room_reserve_words(&room[s], 2 * page_store_words(PAGES)));
        page_store_init(&store[s], PAGES, s ? &store[s - 1] : NULL, &room[s], NULL);
        if (s)
            memcpy(model[s], model[s - 1], sizeof(model[s]));
        for (int i = 0; i < 60; i++) {
            uint64_t page = draw(PAGES), number = draw(3);
            if (done[page])
                continue; /* each page once */
            done[page] = true;
            model[s][page] = number;
            if (number)
                memset(page_store_slot(&store[s], page), (int)number, PAGE_SIZE);
            page_store_set(&store[s], page, number != 0);
            held[s] += number != 0;
        }
        assert_int_equal(store[s].count, held[s]);
    }
    for (size_t s = 0; s < STORES; s++)
        for (uint64_t page = 0; page < PAGES; page++) {
            const uint8_t *content = page_store_get(&store[s], page);
            assert_int_equal(content ? content[17] : 0, model[s][page]);
            assert_int_equal(page_store_word(&store[s], page / 64) >> page % 64 & 1, model[s][page] != 0);
        }
    for (size_t s = STORES; s-- > 0;)
        page_room_free(&room[s]);
}

static void zero_pages(void **state)
{
    _Alignas(64) uint8_t page[PAGE_SIZE] = {0};

    (void)state;
    assert_true(page_is_zero(page));
    for (size_t i = 0; i < PAGE_SIZE; i++) {
        page[i] = 1;
        assert_false(page_is_zero(page));
        page[i] = 0;
    }
}

struct found {
    uintptr_t base;
    uint64_t pages, before; /* before: the end of the last run */
    uint8_t seen[4096];
};

static void note(void *context, uintptr_t start, uintptr_t end)
{
    struct found *f = context;

    assert_true(start >= f->before && end > start);
    assert_int_equal((start | end) % PAGE_SIZE, 0);
    f->before = end;
    for (; start < end; start += PAGE_SIZE, f->pages++)
        f->seen[(start - f->base) / PAGE_SIZE] = 1;
}

/* Everything that was touched is found; of the rest little. */
static void find(uint8_t *memory, uint64_t most)
{
    struct found f = {.base = (uintptr_t)memory};
    bool touched[4096] = {false};

    for (int i = 0; i < 40; i++) {
        uint64_t page = draw(4096);
        memory[page * PAGE_SIZE + draw(PAGE_SIZE)] = 1;
        touched[page] = true;
    }
    struct host_data *data = host_data_open();
    assert_non_null(data);
    host_data_each(data, memory, 4096 * PAGE_SIZE, note, &f);
    assert_true(host_data_is_writable(data, memory, 4096 * PAGE_SIZE));
    host_data_close(data);
    for (size_t i = 0; i < 4096; i++)
        assert_true(f.seen[i] || !touched[i]);
    assert_true(f.pages <= most);
}

static void private_memory(void **state)
{
    uint8_t *memory = mmap(NULL, 4096 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)state;
    assert_true(memory != MAP_FAILED);
    assert_int_equal(madvise(memory, 4096 * PAGE_SIZE, MADV_NOHUGEPAGE), 0);
    find(memory, 40);
    munmap(memory, 4096 * PAGE_SIZE);
}

static void shared_memory(void **state)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    (void)state;
    assert_int_equal(ftruncate(fd, 5000 * PAGE_SIZE), 0);
    uint8_t *memory = mmap(NULL, 4096 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 100 * PAGE_SIZE);
    assert_true(memory != MAP_FAILED);
    find(memory, 4096);
    munmap(memory, 4096 * PAGE_SIZE);
    close(fd);
}

/* Where nothing is mapped there is nothing; a file's private pages are all something. */
static void holes_and_files(void **state)
{
    uint8_t *memory = mmap(NULL, 16 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct found f = {.base = (uintptr_t)memory};
    int fd = memfd_create("test", MFD_CLOEXEC);

    (void)state;
    assert_int_equal(ftruncate(fd, 4 * PAGE_SIZE), 0);
    memory[0] = 1;
    munmap(memory + PAGE_SIZE, 3 * PAGE_SIZE);
    assert_ptr_equal(mmap(memory + 8 * PAGE_SIZE, 4 * PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0),
                     memory + 8 * PAGE_SIZE);
    struct host_data *data = host_data_open();
    host_data_each(data, memory, 16 * PAGE_SIZE, note, &f);
    assert_true(host_data_is_writable(data, memory, PAGE_SIZE));
    assert_false(host_data_is_writable(data, memory, 2 * PAGE_SIZE));
    assert_false(host_data_is_writable(data, memory + PAGE_SIZE, PAGE_SIZE));
    assert_false(host_data_is_writable(data, memory + 8 * PAGE_SIZE, PAGE_SIZE)); /* a file's, and read-only */
    assert_true(host_data_is_writable(data, memory + 12 * PAGE_SIZE, 4 * PAGE_SIZE));
    host_data_close(data);
    assert_true(f.seen[0]);
    for (int i = 1; i < 8; i++)
        assert_false(f.seen[i] && i < 4);
    for (int i = 8; i < 12; i++)
        assert_true(f.seen[i]);
    munmap(memory, 16 * PAGE_SIZE);
    close(fd);
}

/* Behind the end of a file there is nothing, though it is mapped. */
static void shared_beyond_the_end(void **state)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    (void)state;
    assert_int_equal(ftruncate(fd, 4 * PAGE_SIZE), 0);
    uint8_t *memory = mmap(NULL, 8 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    struct host_data *data = host_data_open();
    assert_true(host_data_is_writable(data, memory, 4 * PAGE_SIZE));
    assert_false(host_data_is_writable(data, memory, 5 * PAGE_SIZE));
    host_data_close(data);
    munmap(memory, 8 * PAGE_SIZE);
    close(fd);
}

/* Nothing known: everything may be there, nothing may be stored to. */
static void nothing_known(void **state)
{
    struct found f = {0};

    (void)state;
    host_data_each(NULL, (void *)(4 * PAGE_SIZE), 3 * PAGE_SIZE, note, &f);
    assert_int_equal(f.pages, 3);
    assert_false(host_data_is_writable(NULL, &f, PAGE_SIZE));
    host_data_close(NULL);
}

/* ---- snapshots of memory ---- */

/* More ranges than a process may have mappings, of a page each: every second page of one piece of memory. */
static void many_ranges(void **state)
{
    enum { RANGES = 70000 };
    struct gpa_space *space = gpa_space_create(40);
    uint8_t *memory = host_pages(2 * RANGES);
    struct gpa_snapshot *first, *second;
    uint64_t pages;

    (void)state;
    for (uint64_t i = 0; i < RANGES; i++)
        assert_ok(map(space, PAGES(2 * i), PAGE_SIZE, memory + PAGES(2 * i), RW));
    for (uint64_t i = 0; i < RANGES; i += 7)
        memory[PAGES(2 * i)] = 1;
    assert_ok(gpa_snapshot_create(space, NULL, &first));
    assert_int_equal(first->count, RANGES);
    assert_int_equal(gpa_snapshot_held(first), RANGES / 7);
    for (uint64_t i = 0; i < RANGES; i += 7)
        assert_ok(gpa_space_write(space, PAGES(2 * i), "\2", 1));
    assert_ok(gpa_snapshot_create(space, first, &second)); /* the difference only */
    assert_int_equal(gpa_snapshot_held(second), RANGES / 7);
    assert_ok(gpa_space_write(space, PAGES(2), "\3", 1));
    for (struct gpa_snapshot *s = second; s; s = s == second ? first : NULL) {
        assert_ok(gpa_snapshot_restore(s, false, &pages));
        for (uint64_t i = 0; i < RANGES; i++)
            assert_int_equal(memory[PAGES(2 * i)], i % 7 ? 0 : s == second ? 2 : 1);
    }
    gpa_snapshot_destroy(second);
    gpa_snapshot_destroy(first);
    gpa_space_destroy(space);
    free_pages(memory, 2 * RANGES);
}

static uint64_t resident(uint8_t *memory, size_t pages)
{
    unsigned char present[4096];
    uint64_t count = 0;

    assert_true(pages <= sizeof(present));
    assert_int_equal(mincore(memory, PAGES(pages), present), 0);
    for (size_t i = 0; i < pages; i++)
        count += present[i] & 1;
    return count;
}

/* Memory that is mapped anew counts as changed; what of it was never touched is not brought into being, what was is zero
 * again. */
static void restores_nothing_into_being(uint8_t *memory, size_t pages)
{
    struct gpa_space *space = gpa_space_create(40);
    struct gpa_snapshot *snapshot;
    uint64_t written;

    assert_ok(map(space, 0, PAGES(pages), memory, RW));
    memory[PAGES(100)] = 7;
    assert_ok(gpa_snapshot_create(space, NULL, &snapshot));
    assert_ok(gpa_space_unmap(space, 0, PAGES(pages)));
    assert_ok(map(space, 0, PAGES(pages), memory, RW));
    memory[PAGES(100)] = 8;
    memory[PAGES(300) + 5] = 9;
    memory[PAGES(pages - 1) + 5] = 9;
    assert_ok(gpa_snapshot_restore(snapshot, false, &written));
    assert_int_equal(written, pages);
    assert_int_equal(memory[PAGES(100)], 7);
    assert_int_equal(memory[PAGES(300) + 5], 0);
    assert_int_equal(memory[PAGES(pages - 1) + 5], 0);
    assert_in_range(resident(memory, pages), 3, 200);
    gpa_snapshot_destroy(snapshot);
    gpa_space_destroy(space);
}

static void untouched_private(void **state)
{
    uint8_t *memory = host_pages(4096);

    (void)state;
    assert_int_equal(madvise(memory, PAGES(4096), MADV_NOHUGEPAGE), 0);
    restores_nothing_into_being(memory, 4096);
    free_pages(memory, 4096);
}

static void untouched_shared(void **state)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    (void)state;
    assert_int_equal(ftruncate(fd, (off_t)PAGES(4096)), 0);
    uint8_t *memory = mmap(NULL, PAGES(4096), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    restores_nothing_into_being(memory, 4096);
    free_pages(memory, 4096);
    close(fd);
}

/* Memory that is missing is said to be, in long runs and short ones, and tried again. */
static void missing_in_a_run(void **state)
{
    struct gpa_space *space = gpa_space_create(40);
    uint8_t *memory = host_pages(1024);
    struct gpa_snapshot *snapshot;
    uint64_t written;

    (void)state;
    arm_guard();
    assert_ok(map(space, 0, PAGES(1024), memory, RW));
    assert_ok(gpa_snapshot_create(space, NULL, &snapshot));
    assert_ok(gpa_space_unmap(space, 0, PAGES(1024)));
    assert_ok(map(space, 0, PAGES(1024), memory, RW));
    assert_int_equal(mprotect(memory + PAGES(500), PAGE_SIZE, PROT_NONE), 0);
    assert_status(gpa_snapshot_restore(snapshot, false, &written), STATUS_ACCESS_DENIED);
    assert_non_null(strstr(last_error_text(), "0x1f4000 and 0 more"));
    assert_int_equal(gpa_snapshot_changed(snapshot), 1);
    assert_int_equal(mprotect(memory + PAGES(500), PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
    memory[PAGES(500)] = 1;
    assert_ok(gpa_snapshot_restore(snapshot, false, &written));
    assert_int_equal(written, 1);
    assert_int_equal(memory[PAGES(500)], 0);
    gpa_snapshot_destroy(snapshot);
    gpa_space_destroy(space);
    free_pages(memory, 1024);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksums),      cmocka_unit_test(chain),         cmocka_unit_test(zero_pages),
        cmocka_unit_test(private_memory), cmocka_unit_test(shared_memory), cmocka_unit_test(holes_and_files),
        cmocka_unit_test(shared_beyond_the_end), cmocka_unit_test(nothing_known),
        cmocka_unit_test(many_ranges), cmocka_unit_test(untouched_private), cmocka_unit_test(untouched_shared),
        cmocka_unit_test(missing_in_a_run),
    };
    return run_group(tests, array_size(tests));
}
