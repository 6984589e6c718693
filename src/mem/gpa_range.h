/*
 * Half-open ranges of guest physical addresses and the overflow-checked arithmetic on them, in one
 * place. A range is (gpa, size) with gpa + size never above the address space's limit, so the sums
 * of a checked range cannot wrap; every range that comes from outside passes one of the checks
 * here.
 */
#ifndef OWHP_MEM_GPA_RANGE_H
#define OWHP_MEM_GPA_RANGE_H

#include "util/types.h"

struct gpa_range {
    gpa_t gpa;
    uint64_t size; /* bytes; the range is [gpa, gpa + size) */
};

static inline bool page_aligned(uint64_t value)
{
    return (value & ~PAGE_MASK) == 0;
}

/* The number of 4 KiB pages in size bytes, size being page aligned. */
static inline uint64_t pages_of(uint64_t size)
{
    return size >> PAGE_SHIFT;
}

/* True if [start, start + size) lies in [0, limit); no sum is formed that could wrap. */
static inline bool range_fits(uint64_t start, uint64_t size, uint64_t limit)
{
    return start <= limit && size <= limit - start;
}

/* True if start + size is representable, or is exactly 2^64. */
static inline bool range_wraps(uint64_t start, uint64_t size)
{
    return size != 0 && size - 1 > UINT64_MAX - start;
}

/* One comparison, right for every value: an address below the start wraps to a huge offset. */
static inline bool range_contains(struct gpa_range range, gpa_t gpa)
{
    return gpa - range.gpa < range.size;
}

static inline gpa_t range_end(struct gpa_range range)
{
    return range.gpa + range.size;
}

/* The common part; size 0 when there is none. Both ranges are checked ones. */
static inline struct gpa_range range_intersect(struct gpa_range a, struct gpa_range b)
{
    gpa_t start = a.gpa > b.gpa ? a.gpa : b.gpa;
    gpa_t end = range_end(a) < range_end(b) ? range_end(a) : range_end(b);
    return (struct gpa_range){start, end > start ? end - start : 0};
}

/* The smallest range of whole pages around a checked, non-empty range whose end fits the limit. */
static inline struct gpa_range range_round_out(struct gpa_range range)
{
    gpa_t start = range.gpa & PAGE_MASK;
    gpa_t last = (range_end(range) - 1) | ~PAGE_MASK;
    return (struct gpa_range){start, last - start + 1};
}

#endif
