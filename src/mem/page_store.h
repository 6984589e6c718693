/*
 * The content of a run of pages, kept aside: sparse (pages of zeros cost nothing), and where most of it is that of another
 * store, only what differs from it. Or it is in a file, and mapped.
 *
 * The stores of a snapshot share one room: a range may be a page, and a process has only some ten thousands of mappings.
 *
 * Content does not change once it is read by others. No locks of its own.
 */
#ifndef OWHP_MEM_PAGE_STORE_H
#define OWHP_MEM_PAGE_STORE_H

#include "util/compiler.h"
#include "util/types.h"

struct page_store {
    uint64_t pages;
    uint64_t count;  /* pages whose content this store itself holds */
    uint8_t *memory; /* addresses for all pages; touched where something is held, or a file's and read only */
    uint64_t *held;  /* a bit a page: its content is in memory; the others are zero */
    uint64_t *own;   /* a bit a page: held says what it is; the others are the parent's. NULL: all are own */
    const struct page_store *parent;
};

/* Addresses for stores. All zero: none. */
struct page_room {
    uint8_t *memory;
    uint64_t memory_size; /* bytes */
    uint64_t *bitmaps;
    uint64_t bitmaps_size;             /* bytes */
    uint64_t pages_taken, words_taken; /* what stores have of both */
};

/* How many words a bitmap of a store has. */
static inline uint64_t page_store_words(uint64_t pages)
{
    return (pages + 63) / 64;
}

/* False: no memory; the room is what it was. Each is called once at most, with 0 nothing happens. */
must_check bool page_room_reserve_pages(struct page_room *room, uint64_t pages);
must_check bool page_room_reserve_words(struct page_room *room, uint64_t words);
/* The bytes of a file from a page-aligned offset on instead of pages of its own; the file is not kept open. */
must_check bool page_room_map(struct page_room *room, int fd, uint64_t offset, uint64_t size);
void page_room_free(struct page_room *room);

/* A store whose bitmaps are the room's, which has reserved them: page_store_words() of them, twice that with a parent. All zero,
 * or all the parent's, which has as many pages and stays as long as this one. memory NULL: its pages are the room's too. */
void page_store_init(struct page_store *store, uint64_t pages, const struct page_store *parent, struct page_room *room,
                     uint8_t *memory);

/* Where to put the content of a page; and that it is there, or that the page is zero: once a page. */
static inline uint8_t *page_store_slot(const struct page_store *store, uint64_t page)
{
    return store->memory + (page << PAGE_SHIFT);
}

static inline void page_store_set(struct page_store *store, uint64_t page, bool is_held)
{
    uint64_t bit = (uint64_t)1 << (page & 63);

    if (is_held) {
        store->held[page >> 6] |= bit;
        store->count++;
    }
    if (store->own)
        store->own[page >> 6] |= bit;
}

/* Was it said what a page is, though the store has a parent? */
static inline bool page_store_is_set(const struct page_store *store, uint64_t page)
{
    return store->own && (store->own[page >> 6] >> (page & 63) & 1);
}

/* The content of a page; NULL: zeros. */
static inline const uint8_t *page_store_get(const struct page_store *store, uint64_t page)
{
    while (store->own && !page_store_is_set(store, page))
        store = store->parent;
    return store->held[page >> 6] >> (page & 63) & 1 ? page_store_slot(store, page) : NULL;
}

/* Of pages 64 * word to 64 * word + 63: which are not zero. */
uint64_t page_store_word(const struct page_store *store, uint64_t word);

/* How many words from this one on, up to `end`, say that all their pages are zero. */
uint64_t page_store_zero_words(const struct page_store *store, uint64_t word, uint64_t end);

/* Is the page at the address, in memory of the library, all zeros? */
bool page_is_zero(const uint8_t *page);

#endif
