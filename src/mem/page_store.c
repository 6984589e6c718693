#include "mem/page_store.h"

#include <string.h>
#include <sys/mman.h>

#include "os/host_data.h"

static uint64_t bitmap_bytes(const struct page_store *store)
{
    return ((store->pages + 63) / 64 * 8 + PAGE_SIZE - 1) & PAGE_MASK;
}

/* Addresses for what may come. */
static void *reserve(uint64_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

static bool finish_init(struct page_store *store)
{
    store->held = reserve(bitmap_bytes(store));
    store->own = store->parent ? reserve(bitmap_bytes(store)) : NULL;
    if (store->memory && store->held && (!store->parent || store->own))
        return true;
    page_store_fini(store);
    return false;
}

bool page_store_init(struct page_store *store, uint64_t pages, const struct page_store *parent)
{
    *store = (struct page_store){.pages = pages, .parent = parent, .memory = reserve(pages << PAGE_SHIFT)};
    if (store->memory)
        (void)madvise(store->memory, pages << PAGE_SHIFT, MADV_NOHUGEPAGE); /* a page must not cost 512 */
    return finish_init(store);
}

bool page_store_init_mapped(struct page_store *store, uint64_t pages, int fd, uint64_t offset)
{
    void *memory = mmap(NULL, pages << PAGE_SHIFT, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, fd, (off_t)offset);

    *store = (struct page_store){.pages = pages, .memory = memory == MAP_FAILED ? NULL : memory, .is_mapped = true};
    return finish_init(store);
}

void page_store_fini(struct page_store *store)
{
    if (store->memory)
        munmap(store->memory, store->pages << PAGE_SHIFT);
    if (store->held)
        munmap(store->held, bitmap_bytes(store));
    if (store->own)
        munmap(store->own, bitmap_bytes(store));
    *store = (struct page_store){0};
}

uint64_t page_store_word(const struct page_store *store, uint64_t word)
{
    uint64_t result = 0, open = ~(uint64_t)0;

    for (; store->own; store = store->parent) {
        result |= open & store->own[word] & store->held[word];
        open &= ~store->own[word];
    }
    return result | (open & store->held[word]);
}

struct count {
    uint64_t bits;
};

/* Only where the bitmap was touched. */
static void count_bits(void *context, uintptr_t start, uintptr_t end)
{
    struct count *count = context;

    for (const uint64_t *word = (const uint64_t *)start; word < (const uint64_t *)end; word++)
        count->bits += (uint64_t)__builtin_popcountll(*word);
}

uint64_t page_store_held(const struct page_store *store)
{
    struct count count = {0};

    host_each_data(store->held, bitmap_bytes(store), count_bits, &count);
    return count.bits;
}

bool page_is_zero(const uint8_t *page)
{
    uint64_t first;

    memcpy(&first, page, sizeof(first));
    return first == 0 && memcmp(page, page + 8, PAGE_SIZE - 8) == 0;
}
