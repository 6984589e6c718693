#include "mem/page_store.h"

#include <string.h>
#include <sys/mman.h>

#include "util/check.h"

/* Addresses for what may come. */
static void *reserve(uint64_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

bool page_room_reserve_pages(struct page_room *room, uint64_t pages)
{
    const uint64_t size = pages << PAGE_SHIFT;
    uint8_t *memory = pages ? reserve(size) : NULL;

    if (!memory)
        return pages == 0;
    (void)madvise(memory, size, MADV_NOHUGEPAGE); /* a page must not cost 512 */
    room->memory = memory;
    room->memory_size = size;
    return true;
}

bool page_room_reserve_words(struct page_room *room, uint64_t words)
{
    const uint64_t size = words * sizeof(*room->bitmaps);
    uint64_t *bitmaps = words ? reserve(size) : NULL;

    if (!bitmaps)
        return words == 0;
    room->bitmaps = bitmaps;
    room->bitmaps_size = size;
    return true;
}

bool page_room_map(struct page_room *room, int fd, uint64_t offset, uint64_t size)
{
    void *memory = size ? mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, fd, (off_t)offset) : MAP_FAILED;

    if (memory == MAP_FAILED)
        return size == 0;
    room->memory = memory;
    room->memory_size = size;
    return true;
}

void page_room_free(struct page_room *room)
{
    if (room->memory)
        munmap(room->memory, room->memory_size);
    if (room->bitmaps)
        munmap(room->bitmaps, room->bitmaps_size);
    *room = (struct page_room){0};
}

static uint64_t *take_words(struct page_room *room, uint64_t pages)
{
    uint64_t *words = room->bitmaps + room->words_taken;

    room->words_taken += page_store_words(pages);
    check(room->words_taken * sizeof(*words) <= room->bitmaps_size);
    return words;
}

static uint8_t *take_pages(struct page_room *room, uint64_t pages)
{
    uint8_t *memory = room->memory + (room->pages_taken << PAGE_SHIFT);

    room->pages_taken += pages;
    check(room->pages_taken << PAGE_SHIFT <= room->memory_size);
    return memory;
}

void page_store_init(struct page_store *store, uint64_t pages, const struct page_store *parent, struct page_room *room,
                     uint8_t *memory)
{
    *store = (struct page_store){.pages = pages, .parent = parent, .memory = memory ? memory : take_pages(room, pages)};
    store->held = take_words(room, pages);
    store->own = parent ? take_words(room, pages) : NULL;
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

uint64_t page_store_zero_words(const struct page_store *store, uint64_t word, uint64_t end)
{
    const uint64_t from = word, *held = store->held;

    for (; !store->own && end - word >= 8; word += 8) {
        uint64_t any = 0;
        for (unsigned i = 0; i < 8; i++)
            any |= held[word + i];
        if (any)
            break;
    }
    while (word < end && !page_store_word(store, word))
        word++;
    return word - from;
}

bool page_is_zero(const uint8_t *page)
{
    uint64_t first;

    memcpy(&first, page, sizeof(first));
    return first == 0 && memcmp(page, page + 8, PAGE_SIZE - 8) == 0;
}
