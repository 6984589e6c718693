/*
 * The content of a run of pages, kept aside: sparse (pages of zeros cost nothing), and where most of it is that of another
 * store, only what differs from it. Or it is in a file, and mapped.
 *
 * Content does not change once it is read by others. No locks of its own.
 */
#ifndef OWHP_MEM_PAGE_STORE_H
#define OWHP_MEM_PAGE_STORE_H

#include "util/compiler.h"
#include "util/types.h"

struct page_store {
    uint64_t pages;
    uint8_t *memory; /* addresses for all pages; touched where something is held */
    uint64_t *held;  /* a bit a page: its content is in memory; the others are zero */
    uint64_t *own;   /* a bit a page: held says what it is; the others are the parent's. NULL: all are own */
    const struct page_store *parent;
    bool is_mapped;  /* memory is a file's: read only */
};

/* All zero, or all the parent's, which has as many pages and stays as long as this one. False: no memory. */
must_check bool page_store_init(struct page_store *store, uint64_t pages, const struct page_store *parent);

/* The pages at a page-aligned offset of a file, which the store does not keep open. The caller fills `held`. */
must_check bool page_store_init_mapped(struct page_store *store, uint64_t pages, int fd, uint64_t offset);

void page_store_fini(struct page_store *store);

/* Where to put the content of a page; and that it is there, or that the page is zero. */
static inline uint8_t *page_store_slot(const struct page_store *store, uint64_t page)
{
    return store->memory + (page << PAGE_SHIFT);
}

static inline void page_store_set(struct page_store *store, uint64_t page, bool is_held)
{
    uint64_t bit = (uint64_t)1 << (page & 63);

    if (is_held)
        store->held[page >> 6] |= bit;
    if (store->own)
        store->own[page >> 6] |= bit;
}

/* The content of a page; NULL: zeros. */
static inline const uint8_t *page_store_get(const struct page_store *store, uint64_t page)
{
    while (store->own && !(store->own[page >> 6] >> (page & 63) & 1))
        store = store->parent;
    return store->held[page >> 6] >> (page & 63) & 1 ? page_store_slot(store, page) : NULL;
}

/* Of pages 64 * word to 64 * word + 63: which are not zero. */
uint64_t page_store_word(const struct page_store *store, uint64_t word);

/* Pages with content in this store itself. */
uint64_t page_store_held(const struct page_store *store);

/* Is the page at the address, in memory of the library, all zeros? */
bool page_is_zero(const uint8_t *page);

#endif
