/*
 * Consumers of dirty pages.
 *
 * Processors mark one record, space->dirty, and invariant W (gpa_dirty.c) is about its bits only: the price of a store does
 * not depend on the number of consumers. Each consumer has a record of its own, `pending`: pages that were taken out of
 * space->dirty by somebody else and that it has not been told yet. What a consumer has to see is always
 *
 *     (space->dirty | pending), in its range
 *
 * and whoever takes bits out of space->dirty hands them to the pending of all others before processors go on. With one
 * consumer nothing is handed on, and its pending stays empty, without even memory.
 *
 * Untracked pages are recorded while a consumer with GPA_CONSUMER_UNTRACKED exists (space->record_all): gpa_view_of then
 * gives every view the record. Bits of untracked pages may then also come into the pending of consumers that see tracked
 * pages only. They cannot be seen there: such a consumer may ask for tracked ranges only, and a page becomes tracked by a map
 * or by gpa_space_set_tracking, which clear it.
 *
 * Locks. The list, and every pending, change under `change`; the list moreover with the gate closed, so that a read section
 * is enough to find a consumer and look.
 */
#include "mem/gpa_consumer.h"

#include "mem/gpa_space_state.h"
#include "util/last_error.h"

#include <stdlib.h>

static struct gpa_range whole(const struct gpa_space *space)
{
    return (struct gpa_range){0, space->limit};
}

struct gpa_consumer *gpa_consumer_find(const struct gpa_space *space, uint32_t id)
{
    for (struct gpa_consumer *c = space->consumers; c; c = c->next)
        if (c->id == id)
            return c;
    return NULL;
}

/* ---- memory for marks ---- */

/* Make the pages of the range that are mapped with the flags markable in the record. */
static bool cover_mapped(const struct gpa_space *space, struct gpa_range range, uint32_t flags, struct gpa_dirty *record)
{
    struct extent array[32];
    gpa_t at = range.gpa, end = range_end(range);
    size_t n;

    do {
        n = extent_tree_list(&space->mappings, at, array, array_size(array));
        for (size_t i = 0; i < n && array[i].start < end; i++) {
            struct extent e = extent_clip(&array[i], range.gpa, range.size);
            at = e.start + e.size;
            if ((e.attributes & flags) == flags && !gpa_dirty_cover(record, pages_of(e.start), pages_of(e.size)))
                return false;
        }
    } while (n == array_size(array) && array[n - 1].start < end && at < end);
    return true;
}

/* The flags that a page's mapping must have for a consumer to be told of it. */
static uint32_t flags_seen(const struct gpa_consumer *consumer)
{
    return consumer->flags & GPA_CONSUMER_UNTRACKED ? 0 : GPA_TRACK_DIRTY;
}

bool gpa_consumers_cover(struct gpa_space *space, struct gpa_range range, uint32_t flags)
{
    bool tracked = flags & GPA_TRACK_DIRTY;

    if ((tracked || space->record_all) && !gpa_dirty_cover(space->dirty, pages_of(range.gpa), pages_of(range.size)))
        return false;
    if (likely(!space->consumers->next))
        return true;
    for (struct gpa_consumer *c = space->consumers; c; c = c->next) {
        struct gpa_range seen = range_intersect(range, c->range);
        if (seen.size && (flags & flags_seen(c)) == flags_seen(c) &&
            !gpa_dirty_cover(c->pending, pages_of(seen.gpa), pages_of(seen.size)))
            return false;
    }
    return true;
}

/* What a new consumer makes necessary: room for all that is mapped, in its record, in the first one's, which has none as
 * long as it is alone, and in the processors'. */
static bool cover_for(struct gpa_space *space, const struct gpa_consumer *new)
{
    return cover_mapped(space, new->range, flags_seen(new), new->pending) &&
           (space->consumers->next || cover_mapped(space, whole(space), GPA_TRACK_DIRTY, space->consumers->pending)) &&
           (!(new->flags & GPA_CONSUMER_UNTRACKED) || space->record_all ||
            cover_mapped(space, whole(space), 0, space->dirty));
}

void gpa_consumer_mark_all(struct gpa_space *space, const struct gpa_consumer *consumer, struct gpa_range range)
{
    gpa_t at = range.gpa, end = range_end(range);
    struct extent e;

    for (; at < end; at += e.size) {
        e = extent_tree_piece(&space->mappings, at, end);
        if (e.target && (e.attributes & flags_seen(consumer)) == flags_seen(consumer))
            gpa_dirty_mark_range(space->dirty, pages_of(e.start), pages_of(e.size));
    }
}

/* ---- handing on ---- */

static void give_word(struct gpa_consumer *c, uint64_t first, uint64_t bits)
{
    uint64_t start = pages_of(c->range.gpa), end = pages_of(range_end(c->range));

    if (end <= first || start >= first + 64)
        return;
    if (start > first)
        bits &= ~(uint64_t)0 << (start - first);
    if (end - first < 64)
        bits &= ((uint64_t)1 << (end - first)) - 1;
    if (bits)
        gpa_dirty_mark_bits(c->pending, first, bits);
}

bool gpa_consumers_give(void *ctx, const struct gpa_dirty_bits *words, size_t count)
{
    const struct gpa_consumers *to = ctx;

    for (struct gpa_consumer *c = to->space->consumers; c; c = c->next)
        for (size_t i = 0; c != to->except && i < count; i++)
            give_word(c, words[i].first, words[i].bits);
    return true;
}

void gpa_consumers_hand_on(struct gpa_space *space, struct gpa_range range, const struct gpa_consumer *except)
{
    struct gpa_consumers to = {space, except};
    gpa_dirty_visit_take(&(struct gpa_dirty_visit){space->dirty, NULL, pages_of(range.gpa), pages_of(range.size),
                                                   space->consumers->next ? gpa_consumers_give : NULL, &to, NULL, NULL, true});
}

void gpa_consumers_forget(struct gpa_space *space, struct gpa_range range, uint32_t keepers)
{
    gpa_consumers_hand_on(space, range, NULL);
    for (struct gpa_consumer *c = space->consumers; c; c = c->next)
        if (!(c->flags & keepers))
            gpa_dirty_take(c->pending, pages_of(range.gpa), pages_of(range.size), NULL, NULL);
}

/* ---- life ---- */

bool gpa_consumers_init(struct gpa_space *space)
{
    struct gpa_consumer *first = calloc(1, sizeof(*first));

    if (!first)
        return false;
    first->range = whole(space);
    first->pending = gpa_dirty_create(pages_of(space->limit));
    space->consumers = first;
    return first->pending != NULL;
}

static void free_consumer(struct gpa_consumer *consumer)
{
    gpa_dirty_destroy(consumer->pending);
    extent_tree_fini(&consumer->replaced);
    free(consumer);
}

void gpa_consumers_fini(struct gpa_space *space)
{
    while (space->consumers) {
        struct gpa_consumer *next = space->consumers->next;
        free_consumer(space->consumers);
        space->consumers = next;
    }
}

static struct gpa_consumer *new_consumer(struct gpa_space *space, struct gpa_range range, uint32_t flags)
{
    struct gpa_consumer *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    *c = (struct gpa_consumer){.flags = flags, .range = range, .pending = gpa_dirty_create(pages_of(space->limit))};
    if (c->pending && cover_for(space, c))
        return c;
    free_consumer(c);
    return NULL;
}

/* What processors have marked so far is the others' business; from the release on marks count for the new one too. Untracked
 * pages become recorded by forgetting everything about them. */
static void add(struct gpa_space *space, struct gpa_consumer *c)
{
    bool begin = c->flags & GPA_CONSUMER_UNTRACKED && !space->record_all;
    struct gpa_change change = {begin ? GPA_CHANGE_MAP : GPA_CHANGE_DIRTY_CLEAR, begin ? whole(space) : c->range};

    do
        c->id = ++space->last_consumer;
    while (c->id == GPA_CONSUMER_FIRST || gpa_consumer_find(space, c->id));
    gpa_space_hold(space);
    c->next = space->consumers->next;
    space->consumers->next = c;
    gpa_consumers_hand_on(space, c->range, c);
    space->record_all += c->flags & GPA_CONSUMER_UNTRACKED ? 1 : 0;
    gpa_space_release(space, &change);
}

enum status gpa_consumer_create(struct gpa_space *space, struct gpa_range range, uint32_t flags, uint32_t *id)
{
    enum status status = gpa_space_check_pages(space, range.gpa, range.size);
    if (status != STATUS_OK)
        return status;
    if (flags & ~(uint32_t)(GPA_CONSUMER_ALL_FLAGS | GPA_CONSUMER_REPLACED))
        return fail(STATUS_INVALID_ARGUMENT, "unknown flags 0x%x of a dirty consumer", flags);
    if (flags == GPA_CONSUMER_KEEP)
        return fail(STATUS_INVALID_ARGUMENT, "a dirty consumer keeps unmapped pages only if it sees all pages");

    pthread_mutex_lock(&space->change);
    struct gpa_consumer *c = new_consumer(space, range, flags);
    if (c) {
        add(space, c);
        *id = c->id;
    }
    pthread_mutex_unlock(&space->change);
    return c ? STATUS_OK : fail(STATUS_NO_MEMORY, RANGE_FORMAT "no memory for a dirty consumer", range.gpa, range.size);
}

static void take_out(struct gpa_space *space, struct gpa_consumer *c)
{
    struct gpa_consumer **link = &space->consumers;
    bool untracked = c->flags & GPA_CONSUMER_UNTRACKED;
    struct gpa_change change = {GPA_CHANGE_MAP, whole(space)};

    gpa_space_hold(space);
    while (*link != c)
        link = &(*link)->next;
    *link = c->next;
    space->record_all -= untracked ? 1 : 0;
    gpa_space_release(space, untracked && !space->record_all ? &change : NULL);
}

enum status gpa_consumer_destroy(struct gpa_space *space, uint32_t id)
{
    if (id == GPA_CONSUMER_FIRST)
        return fail(STATUS_INVALID_ARGUMENT, "dirty consumer 0 is that of WHvQueryGpaRangeDirtyBitmap and stays");
    pthread_mutex_lock(&space->change);
    struct gpa_consumer *c = gpa_consumer_find(space, id);
    if (c)
        take_out(space, c);
    pthread_mutex_unlock(&space->change);
    if (!c)
        return fail(STATUS_NOT_FOUND, "no dirty consumer %u", id);
    free_consumer(c);
    return STATUS_OK;
}

enum status gpa_consumer_range(struct gpa_space *space, uint32_t id, struct gpa_range *range)
{
    gpa_space_read_begin(space);
    const struct gpa_consumer *c = gpa_consumer_find(space, id);
    if (c)
        *range = c->range;
    gpa_space_read_end(space);
    return c ? STATUS_OK : fail(STATUS_NOT_FOUND, "no dirty consumer %u", id);
}

/* ---- switching tracking ---- */

/* The extents of a range that need other flags, one after the other. False at the end. */
static bool next_to_switch(const struct gpa_space *space, gpa_t *at, gpa_t end, bool on, struct extent *out)
{
    while (*at < end) {
        *out = extent_tree_piece(&space->mappings, *at, end);
        *at += out->size;
        if (!(out->attributes & GPA_TRACK_DIRTY) == on)
            return true;
    }
    return false;
}

static bool reserve_switch(struct gpa_space *space, struct gpa_range range, bool on)
{
    return extent_tree_reserve(&space->mappings, 1) && (!on || gpa_consumers_cover(space, range, GPA_TRACK_DIRTY));
}

static uint32_t with_tracking(uint32_t flags, uint32_t on)
{
    return on ? flags | GPA_TRACK_DIRTY : flags & ~(uint32_t)GPA_TRACK_DIRTY;
}

static void switch_tracking(struct gpa_space *space, struct gpa_range range, bool on)
{
    const struct gpa_change change = {GPA_CHANGE_MAP, range};
    struct extent extent;

    gpa_space_hold(space);
    for (gpa_t at = range.gpa; next_to_switch(space, &at, range_end(range), on, &extent);)
        gpa_consumers_forget(space, (struct gpa_range){extent.start, extent.size}, GPA_CONSUMER_UNTRACKED);
    extent_tree_update(&space->mappings, range.gpa, range.size, with_tracking, on);
    gpa_space_release(space, &change);
}

enum status gpa_space_set_tracking(struct gpa_space *space, struct gpa_range range, bool on)
{
    enum status status = gpa_space_check_pages(space, range.gpa, range.size);
    if (status != STATUS_OK)
        return status;

    pthread_mutex_lock(&space->change);
    uint64_t mapped = gpa_space_covered(space, range.gpa, range.size, 0);
    if (mapped < range.size)
        status = fail(STATUS_GPA_RANGE_NOT_FOUND, RANGE_FORMAT "the page at 0x%" PRIx64 " is not mapped", range.gpa, range.size,
                      range.gpa + mapped);
    else if (!reserve_switch(space, range, on))
        status = fail(STATUS_NO_MEMORY, RANGE_FORMAT "no memory to record the change", range.gpa, range.size);
    if (status == STATUS_OK)
        switch_tracking(space, range, on);
    extent_tree_trim(&space->mappings);
    pthread_mutex_unlock(&space->change);
    return status;
}
