/*
 * Pieces of the windows of a record of dirty pages: gpa_dirty.c's and gpa_dirty_visit.c's only.
 */
#ifndef OWHP_MEM_GPA_DIRTY_WINDOW_H
#define OWHP_MEM_GPA_DIRTY_WINDOW_H

#include "mem/gpa_dirty.h"

#define WINDOW_PAGES ((uint64_t)1 << GPA_DIRTY_WINDOW_SHIFT)
#define TOP_LEVEL    (GPA_DIRTY_LEVELS - 1)

/* A half-open range of page numbers inside one window. */
struct piece {
    gpa_dirty_word *window; /* NULL: clean */
    uint64_t base;          /* first page number of the window */
    uint64_t first, end;    /* relative to base */
};

static inline struct piece next_piece(const struct gpa_dirty *dirty, uint64_t page, uint64_t end)
{
    uint64_t index = page >> GPA_DIRTY_WINDOW_SHIFT;
    uint64_t base = index << GPA_DIRTY_WINDOW_SHIFT;
    uint64_t stop = end - base < WINDOW_PAGES ? end - base : WINDOW_PAGES;
    return (struct piece){dirty->windows[index], base, page - base, stop};
}

/* The bits of a level's word `index` that lie in [first, end), indices of the same level. */
static inline uint64_t word_mask(uint64_t index, uint64_t first, uint64_t end)
{
    uint64_t start = index << 6;
    uint64_t mask = ~(uint64_t)0;
    if (first > start)
        mask &= ~(uint64_t)0 << (first - start);
    if (end - start < 64)
        mask &= ((uint64_t)1 << (end - start)) - 1;
    return mask;
}

/* The bits of a level's word under which pages of the piece lie. */
static inline uint64_t piece_mask(const struct piece *piece, unsigned level, uint64_t index)
{
    unsigned shift = 6 * level;
    return word_mask(index, piece->first >> shift, ((piece->end - 1) >> shift) + 1);
}

static inline gpa_dirty_word *word_at(gpa_dirty_word *window, unsigned level, uint64_t index)
{
    return window + gpa_dirty_level_start[level] + index;
}

#endif
