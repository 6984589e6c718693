/*
 * Where things go in guest RAM: a list of taken ranges below 4 GiB and the search for free ones, so that
 * a boot protocol's blocks never overwrite what was loaded.
 */
#ifndef OPENWHP_TOOL_PLACEMENT_H
#define OPENWHP_TOOL_PLACEMENT_H

#include <stdbool.h>
#include <stdint.h>

enum { PLACEMENT_MAX_RANGES = 96 };

struct placement {
    struct {
        uint64_t first, end;
    } taken[PLACEMENT_MAX_RANGES];
    unsigned count;
};

/* Takes [first, first + size); false when some of it is taken already or the list is full. */
bool placement_take(struct placement *placement, uint64_t first, uint64_t size);

/*
 * Finds and takes the lowest free range of that size in [from, end), aligned to a power of two; false when there
 * is none.
 */
bool placement_find(struct placement *placement, uint64_t size, uint64_t alignment, uint64_t from,
                    uint64_t end, uint64_t *first);

#endif
