/*
 * Ranges that changed as a whole, for the consumers of snapshots: what was mapped, unmapped or replaced there since is other
 * memory, and all of it counts as changed. A terabyte of bits would take as long to set as the mapping takes no time to go, so
 * the range is noted; what a restore does with it then is its matter.
 *
 * To note is never refused, for it happens when a change can no longer fail: without memory for it, or beyond some thousand
 * ranges, the pages are marked as a store would mark them. Noted or marked is the same to who asks; a page may be both.
 */
#include "mem/gpa_consumer.h"
#include "mem/gpa_snapshot_state.h"

enum { NOTED_LIMIT = 4096, IS_NOTED = 1 };

/* What was never covered was never mapped while the consumer exists. */
static void mark_covered(struct gpa_dirty *record, struct gpa_range range)
{
    const uint64_t window = (uint64_t)1 << GPA_DIRTY_WINDOW_SHIFT, end = pages_of(range_end(range));

    for (uint64_t page = pages_of(range.gpa), next; page < end; page = next) {
        next = (page | (window - 1)) + 1;
        next = next < end ? next : end;
        if (record->windows[page >> GPA_DIRTY_WINDOW_SHIFT])
            gpa_dirty_mark_range(record, page, next - page);
    }
}

void gpa_consumer_note(struct gpa_consumer *c, struct gpa_range range)
{
    if (c->snapshot && !gpa_snapshot_has_part(c->snapshot, range))
        return;
    if (c->replaced.count < NOTED_LIMIT && extent_tree_reserve(&c->replaced, 1))
        extent_tree_set(&c->replaced, &(struct extent){range.gpa, range.size, range.gpa, 0, IS_NOTED});
    else
        mark_covered(c->pending, range);
}

bool gpa_consumer_is_noted(const struct gpa_consumer *c, gpa_t gpa)
{
    struct extent unused;

    return unlikely(c->replaced.count) && extent_tree_find(&c->replaced, gpa, &unused);
}

void gpa_consumers_replaced(struct gpa_space *space, struct gpa_range range)
{
    for (struct gpa_consumer *c = space->consumers->next; c; c = c->next) {
        struct gpa_range seen = range_intersect(range, c->range);
        if ((c->flags & GPA_CONSUMER_REPLACED) && seen.size)
            gpa_consumer_note(c, seen);
    }
}

/* What the consumer is told of. */
static void mark_seen(const struct gpa_space *space, struct gpa_consumer *c, struct gpa_range range)
{
    const uint32_t flags = c->flags & GPA_CONSUMER_UNTRACKED ? 0 : GPA_TRACK_DIRTY;
    struct extent e;

    for (gpa_t at = range.gpa; at < range_end(range); at += e.size) {
        e = extent_tree_piece(&space->mappings, at, range_end(range));
        if (e.target && (e.attributes & flags) == flags)
            mark_covered(c->pending, (struct gpa_range){e.start, e.size});
    }
}

void gpa_consumers_wrote(struct gpa_space *space, const struct gpa_consumer *except, struct gpa_range range)
{
    for (struct gpa_consumer *c = space->consumers; c; c = c->next) {
        struct gpa_range seen = range_intersect(range, c->range);
        if (c == except || !seen.size)
            continue;
        if (c->flags & GPA_CONSUMER_REPLACED)
            gpa_consumer_note(c, seen);
        else
            mark_seen(space, c, seen);
    }
}

void gpa_consumer_settle_noted(struct gpa_space *space, struct gpa_consumer *c)
{
    struct extent array[32];
    size_t n = array_size(array);

    for (gpa_t at = 0; c->replaced.count && n == array_size(array);) {
        n = extent_tree_list(&c->replaced, at, array, array_size(array));
        for (size_t i = 0; i < n; i++) {
            gpa_consumers_hand_on(space, (struct gpa_range){array[i].start, array[i].size}, c);
            gpa_dirty_take(c->pending, pages_of(array[i].start), pages_of(array[i].size), NULL, NULL);
            at = array[i].start + array[i].size;
        }
    }
}
