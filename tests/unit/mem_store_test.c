/* What snapshots are made of: checksums, pages kept aside, finding what was ever used. */
#include "mem_test.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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
    uint64_t model[STORES][PAGES] = {{0}};

    (void)state;
    for (size_t s = 0; s < STORES; s++) {
        bool done[PAGES] = {false};

        assert_true(page_store_init(&store[s], PAGES, s ? &store[s - 1] : NULL));
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
        }
    }
    for (size_t s = 0; s < STORES; s++)
        for (uint64_t page = 0; page < PAGES; page++) {
            const uint8_t *content = page_store_get(&store[s], page);
            assert_int_equal(content ? content[17] : 0, model[s][page]);
            assert_int_equal(page_store_word(&store[s], page / 64) >> page % 64 & 1, model[s][page] != 0);
        }
    for (size_t s = STORES; s-- > 0;)
        page_store_fini(&store[s]);
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
    host_each_data(memory, 4096 * PAGE_SIZE, note, &f);
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
    assert_ptr_equal(mmap(memory + 8 * PAGE_SIZE, 4 * PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0), memory + 8 * PAGE_SIZE);
    host_each_data(memory, 16 * PAGE_SIZE, note, &f);
    assert_true(f.seen[0]);
    for (int i = 1; i < 8; i++)
        assert_false(f.seen[i] && i < 4);
    for (int i = 8; i < 12; i++)
        assert_true(f.seen[i]);
    munmap(memory, 16 * PAGE_SIZE);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksums),      cmocka_unit_test(chain),         cmocka_unit_test(zero_pages),
        cmocka_unit_test(private_memory), cmocka_unit_test(shared_memory), cmocka_unit_test(holes_and_files),
    };
    return cmocka_run_group_tests_name("what snapshots are made of", tests, NULL, NULL);
}
