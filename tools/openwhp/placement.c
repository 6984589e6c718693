/* Where things go in guest RAM; see placement.h. */
#include "placement.h"

#include "bytes.h"

/* The end of a taken range that meets [first, end), 0 when there is none. */
static uint64_t conflict(const struct placement *placement, uint64_t first, uint64_t end)
{
    for (unsigned i = 0; i < placement->count; i++)
        if (first < placement->taken[i].end && placement->taken[i].first < end)
            return placement->taken[i].end;
    return 0;
}

bool placement_take(struct placement *placement, uint64_t first, uint64_t size)
{
    if (size == 0)
        return true;
    uint64_t end = first + size;
    if (end < first || placement->count == PLACEMENT_MAX_RANGES || conflict(placement, first, end) != 0)
        return false;
    placement->taken[placement->count].first = first;
    placement->taken[placement->count++].end = end;
    return true;
}

bool placement_find(struct placement *placement, uint64_t size, uint64_t alignment, uint64_t from,
                    uint64_t end, uint64_t *first)
{
    uint64_t at = align_up(from, alignment), next;
    while (at < end && size <= end - at) {
        next = conflict(placement, at, at + size);
        if (next == 0) {
            *first = at;
            return placement_take(placement, at, size);
        }
        at = align_up(next, alignment);
    }
    return false;
}
