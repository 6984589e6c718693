/* What the files of snapshots of memory share. */
#ifndef OWHP_MEM_GPA_SNAPSHOT_STATE_H
#define OWHP_MEM_GPA_SNAPSHOT_STATE_H

#include "mem/gpa_snapshot.h"
#include "mem/gpa_space_state.h"

static inline struct extent gpa_snapshot_extent(const struct gpa_snapshot_range *range)
{
    return (struct extent){range->gpa, range->size, range->target, range->owner, range->flags};
}

static inline bool gpa_snapshot_contains(const struct gpa_snapshot_range *range, gpa_t gpa)
{
    return gpa - range->gpa < range->size;
}

/* The index of the range that contains gpa, or of the first one behind it. */
static inline size_t gpa_snapshot_find(const struct gpa_snapshot *s, gpa_t gpa)
{
    size_t low = 0, high = s->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->ranges[middle].gpa + s->ranges[middle].size <= gpa)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Does it have a page in the range? */
static inline bool gpa_snapshot_has_part(const struct gpa_snapshot *s, struct gpa_range range)
{
    size_t i = gpa_snapshot_find(s, range.gpa);

    return i < s->count && s->ranges[i].gpa < range_end(range);
}

/* The next page of the words, which it is taken from; false: there is none left. */
static inline bool gpa_snapshot_next_page(struct gpa_dirty_bits *left, const struct gpa_dirty_bits **words,
                                          const struct gpa_dirty_bits *end, gpa_t *gpa)
{
    if (!left->bits && *words == end)
        return false;
    if (!left->bits)
        *left = *(*words)++;
    *gpa = (left->first + (uint64_t)__builtin_ctzll(left->bits)) << PAGE_SHIFT;
    left->bits &= left->bits - 1;
    return true;
}

/* ---- gpa_snapshot_alias.c ---- */

/* Get the memory to find ranges by their targets. */
must_check bool gpa_snapshot_index(struct gpa_snapshot *s);

/* Write down what files its memory is of. NULL: the kernel does not tell. */
struct host_data;
void gpa_snapshot_index_files(struct gpa_snapshot *s, const struct host_data *data);

/* Is one page of memory at two guest addresses? If that cannot be told, perhaps. `like` has the same mappings: what is found is
 * kept there, too. */
bool gpa_snapshot_has_aliases(struct gpa_snapshot *s, struct gpa_snapshot *like);

#endif
