/*
 * Snapshots of memory.
 *
 * What changed since is a consumer of dirty pages (gpa_consumer.h), one a snapshot, that sees every page however it is
 * mapped, and pages whose mapping was replaced. So a restore is a harvest: take the consumer's pages, and copy the content
 * back while everybody is held. What it writes is dirty for all other consumers, other snapshots among them.
 *
 * The content is in a page_store a range. A second snapshot of unchanged mappings takes the pages in which it differs from
 * the first, which are the dirty pages of the first, and refers to it for the others. Through aliases a page can change
 * without being dirty (docs/snapshot.md); then it is copied whole.
 *
 * A page that cannot be read, being protected or not there, counts as zeros. But that is not what it is: the next snapshot looks
 * again.
 */
#include "mem/gpa_snapshot.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "mem/gpa_consumer.h"
#include "mem/gpa_sources.h"
#include "mem/gpa_snapshot_state.h"
#include "os/guarded.h"
#include "os/host_data.h"
#include "util/last_error.h"

enum { DEPTH_LIMIT = 8, IS_UNREAD = 1 };

/* ---- ranges ---- */

/* Write down what is mapped. Under `change`. */
static bool list_ranges(struct gpa_snapshot *s)
{
    const struct extent_tree *tree = &s->space->mappings;
    size_t room = tree->count, n;
    struct extent extents[32];
    gpa_t at = 0;

    s->ranges = calloc(room ? room : 1, sizeof(*s->ranges));
    if (!s->ranges)
        return false;
    while (s->count < room && (n = extent_tree_list(tree, at, extents, array_size(extents))) > 0)
        for (size_t i = 0; i < n && s->count < room; i++) {
            const struct extent *e = &extents[i];
            s->ranges[s->count++] = (struct gpa_snapshot_range){
                .gpa = e->start, .size = e->size, .target = e->target, .owner = e->owner, .flags = e->attributes};
            at = e->start + e->size;
        }
    return true;
}

/* Memory of other processes stays within reach as long as a snapshot may map it back. */
static void hold_sources(struct gpa_snapshot *s, bool hold)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->ranges[i].owner)
            gpa_sources_of(s->space, s->ranges[i].owner)->pages += hold ? 1 : (uint64_t)-1;
}

/* ---- copying out ---- */

/* Keep what is at a host address, which may vanish: then false. Pages that begin with zeros are looked at. */
static bool keep_host_page(struct page_store *store, uint64_t page, const uint8_t *host)
{
    uint8_t *slot = page_store_slot(store, page);
    uint8_t copy[PAGE_SIZE];
    uint64_t first;
    bool held = false, read;

    if (guarded_load64(host, &first) && first) {
        read = held = guarded_copy(slot, host, PAGE_SIZE);
    } else {
        read = guarded_copy(copy, host, PAGE_SIZE);
        held = read && !page_is_zero(copy);
        if (held)
            memcpy(slot, copy, PAGE_SIZE);
    }
    page_store_set(store, page, held);
    return read;
}

static bool keep_source_page(struct page_store *store, uint64_t page, const struct gpa_view *view, gpa_t gpa)
{
    uint8_t copy[PAGE_SIZE];
    bool read = gpa_source_read(view, gpa, copy, PAGE_SIZE), held = read && !page_is_zero(copy);

    if (held)
        memcpy(page_store_slot(store, page), copy, PAGE_SIZE);
    page_store_set(store, page, held);
    return read;
}

/* Processors are held, and memory may be scarce: then no other snapshot refers to this one. */
static void note_unread(struct gpa_snapshot *s, gpa_t gpa, uint64_t size)
{
    if (extent_tree_reserve(&s->unread, 1))
        extent_tree_set(&s->unread, &(struct extent){gpa, size, gpa, 0, IS_UNREAD});
    else
        s->is_no_base = true;
}

static void keep_page(struct gpa_snapshot *s, struct gpa_snapshot_range *range, gpa_t gpa)
{
    const struct extent extent = gpa_snapshot_extent(range);
    const struct gpa_view view = gpa_view_of(s->space, &extent);
    uint64_t page = pages_of(gpa - range->gpa);

    if (!(unlikely(view.source != NULL) ? keep_source_page(&range->store, page, &view, gpa)
                                        : keep_host_page(&range->store, page, gpa_view_host(&view, gpa))))
        note_unread(s, gpa, PAGE_SIZE);
}

struct keeping {
    struct gpa_snapshot *snapshot;
    struct gpa_snapshot_range *range;
};

static void keep_run(void *context, uintptr_t start, uintptr_t end)
{
    const struct keeping *k = context;

    for (; start < end; start += PAGE_SIZE) {
        const uint64_t page = pages_of(start - k->range->target);
        if (!page_store_is_set(&k->range->store, page) && !keep_host_page(&k->range->store, page, (const uint8_t *)start))
            note_unread(k->snapshot, k->range->gpa + (page << PAGE_SHIFT), PAGE_SIZE);
    }
}

static void keep_missing(void *context, uintptr_t start, uintptr_t end)
{
    const struct keeping *k = context;

    note_unread(k->snapshot, k->range->gpa + (start - k->range->target), end - start);
}

/* A part of a range of the snapshot, but for pages that it has. */
static void keep_part(struct gpa_snapshot *s, struct gpa_snapshot_range *range, struct gpa_range part, struct host_data *data)
{
    const struct extent extent = gpa_snapshot_extent(range);

    if (likely(!gpa_view_of(s->space, &extent).source)) {
        const void *host = (const void *)(uintptr_t)(range->target + (part.gpa - range->gpa));
        host_data_each(data, host, part.size, keep_run, &(struct keeping){s, range});
        host_data_each_missing(data, host, part.size, keep_missing, &(struct keeping){s, range});
        return;
    }
    for (gpa_t gpa = part.gpa; gpa < range_end(part); gpa += PAGE_SIZE)
        if (!page_store_is_set(&range->store, pages_of(gpa - range->gpa)))
            keep_page(s, range, gpa);
}

static void keep_all(struct gpa_snapshot *s)
{
    struct host_data *data = host_data_open();

    for (size_t i = 0; i < s->count; i++)
        keep_part(s, &s->ranges[i], (struct gpa_range){s->ranges[i].gpa, s->ranges[i].size}, data);
    gpa_snapshot_index_files(s, data);
    host_data_close(data);
}

/* A gpa_dirty_sink. */
static bool keep_bits(void *context, const struct gpa_dirty_bits *words, size_t count)
{
    struct gpa_snapshot *s = context;
    const struct gpa_dirty_bits *const end = words + count;
    struct gpa_dirty_bits left = {0};
    gpa_t gpa;

    while (gpa_snapshot_next_page(&left, &words, end, &gpa)) {
        size_t i = gpa_snapshot_find(s, gpa);
        if (i < s->count && gpa_snapshot_contains(&s->ranges[i], gpa))
            keep_page(s, &s->ranges[i], gpa);
    }
    return true;
}

static void keep_changed(struct gpa_snapshot *s, const struct gpa_snapshot *like)
{
    const struct gpa_consumer *c = gpa_consumer_find(s->space, like->consumer);

    gpa_dirty_visit_peek(&(struct gpa_dirty_visit){
        .record = s->space->dirty, .other = c->pending, .count = pages_of(s->space->limit), .sink = keep_bits, .ctx = s});
}

/* What the other one could not read. */
static void keep_unread(struct gpa_snapshot *s, const struct gpa_snapshot *like)
{
    struct host_data *data = host_data_open();
    struct extent e;

    for (size_t i = 0; i < s->count; i++)
        for (gpa_t at = s->ranges[i].gpa, end = at + s->ranges[i].size; at < end; at += e.size) {
            e = extent_tree_piece(&like->unread, at, end);
            if (e.attributes)
                keep_part(s, &s->ranges[i], (struct gpa_range){e.start, e.size}, data);
        }
    host_data_close(data);
}

/* ---- create ---- */

/* Can the pages that are not dirty be taken from the other one? Same mappings ever since, so the same ranges. */
static bool is_base(struct gpa_snapshot *s, struct gpa_snapshot *like)
{
    if (!like || like->space != s->space || like->map_changes != s->space->map_changes || like->count != s->count ||
        like->depth >= DEPTH_LIMIT || like->is_no_base)
        return false;
    for (size_t i = 0; i < s->count; i++)
        if (like->ranges[i].gpa != s->ranges[i].gpa || like->ranges[i].size != s->ranges[i].size)
            return false;
    return !gpa_consumer_find(s->space, like->consumer)->replaced.count && !gpa_snapshot_has_aliases(s, like);
}

static bool make_stores(struct gpa_snapshot *s)
{
    uint64_t pages = 0, words = 0;

    for (size_t i = 0; i < s->count; i++) {
        pages += pages_of(s->ranges[i].size);
        words += page_store_words(pages_of(s->ranges[i].size));
    }
    if (!page_room_reserve_pages(&s->room, pages) || !page_room_reserve_words(&s->room, s->parent ? 2 * words : words))
        return false;
    for (size_t i = 0; i < s->count; i++)
        page_store_init(&s->ranges[i].store, pages_of(s->ranges[i].size), s->parent ? &s->parent->ranges[i].store : NULL,
                        &s->room, NULL);
    return true;
}

static void set_parent(struct gpa_snapshot *s, struct gpa_snapshot *parent)
{
    s->parent = parent;
    s->depth = parent->depth + 1;
    atomic_fetch_add(&parent->references, 1);
}

/* Under `change`: the mappings stand still. */
static bool fill(struct gpa_snapshot *s, struct gpa_snapshot *like)
{
    if (!list_ranges(s))
        return false;
    hold_sources(s, true);
    if (is_base(s, like))
        set_parent(s, like);
    if (!make_stores(s))
        return false;
    s->map_changes = s->space->map_changes;
    gpa_consumer_find(s->space, s->consumer)->snapshot = s;
    gpa_space_hold(s->space);
    if (s->parent)
        keep_changed(s, like);
    else
        keep_all(s);
    if (s->parent && unlikely(like->unread.count))
        keep_unread(s, like);
    gpa_space_release(s->space, NULL);
    return true;
}

static struct gpa_snapshot *new_snapshot(struct gpa_space *space)
{
    struct gpa_snapshot *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->space = space;
    atomic_init(&s->references, 1);
    return s;
}

static enum status no_memory(struct gpa_snapshot *s)
{
    gpa_snapshot_destroy(s);
    return fail(STATUS_NO_MEMORY, "no memory for a snapshot");
}

/* The consumer comes first: what others write while the content is copied is seen. */
static enum status attach(struct gpa_snapshot *s)
{
    return gpa_consumer_create(s->space, (struct gpa_range){0, s->space->limit},
                               GPA_CONSUMER_UNTRACKED | GPA_CONSUMER_KEEP | GPA_CONSUMER_REPLACED, &s->consumer);
}

enum status gpa_snapshot_create(struct gpa_space *space, struct gpa_snapshot *like, struct gpa_snapshot **out)
{
    struct gpa_snapshot *s = new_snapshot(space);
    bool good;

    if (!s || attach(s) != STATUS_OK)
        return no_memory(s);
    pthread_mutex_lock(&space->change);
    good = fill(s, like);
    pthread_mutex_unlock(&space->change);
    if (!good)
        return no_memory(s);
    *out = s;
    return STATUS_OK;
}

static void mark_run(void *context, uintptr_t start, uintptr_t end)
{
    void **pair = context;
    const struct gpa_snapshot_range *range = pair[0];
    struct gpa_dirty *record = pair[1];

    gpa_dirty_mark_range(record, pages_of(range->gpa + (start - range->target)), pages_of(end - start));
}

/* What has content in the store, or may have some in memory, is to be written by the next restore. */
static void mark_all(const struct gpa_snapshot_range *range, struct host_data *data, struct gpa_dirty *record)
{
    const void *pair[] = {range, record};
    uint64_t first = pages_of(range->gpa);

    for (uint64_t word = 0; word << 6 < range->store.pages; word++)
        for (uint64_t bits = page_store_word(&range->store, word); bits; bits &= bits - 1)
            gpa_dirty_mark(record, first + (word << 6) + (uint64_t)__builtin_ctzll(bits));
    if (range->owner)
        gpa_dirty_mark_range(record, first, range->store.pages);
    else
        host_data_each(data, (const void *)(uintptr_t)range->target, range->size, mark_run, pair);
}

static void mark_what_is_not_current(struct gpa_snapshot *s)
{
    struct host_data *data = host_data_open();

    for (size_t i = 0; i < s->count; i++)
        if (!s->ranges[i].is_current)
            mark_all(&s->ranges[i], data, gpa_consumer_find(s->space, s->consumer)->pending);
    gpa_snapshot_index_files(s, data);
    host_data_close(data);
}

void gpa_snapshot_piece(struct gpa_space *space, gpa_t gpa, gpa_t end, struct gpa_snapshot_range *range)
{
    struct extent e;

    gpa_space_read_begin(space);
    e = extent_tree_piece(&space->mappings, gpa, end);
    gpa_space_read_end(space);
    *range = (struct gpa_snapshot_range){
        .gpa = e.start, .size = e.size, .target = e.target, .owner = e.owner, .flags = e.attributes};
}

/* The ranges were mapped when the file was read; others may have unmapped them meanwhile. Then the next restore says so; but
 * what the snapshot is to hold must be there: the processes behind them, and room to mark the pages. */
static enum status adopt(struct gpa_snapshot *s, size_t count)
{
    struct gpa_consumer *consumer = gpa_consumer_find(s->space, s->consumer);

    for (size_t i = 0; i < count; i++) {
        const struct gpa_snapshot_range *r = &s->ranges[i];
        if (r->owner && extent_tree_piece(&s->space->mappings, r->gpa, r->gpa + r->size).owner != r->owner)
            return fail(STATUS_GPA_RANGE_NOT_FOUND, RANGE_FORMAT "it was unmapped while the snapshot was loaded", r->gpa,
                        r->size);
        if (!gpa_dirty_cover(consumer->pending, pages_of(r->gpa), pages_of(r->size)))
            return fail(STATUS_NO_MEMORY, "no memory for a snapshot");
    }
    s->count = count;
    hold_sources(s, true);
    s->map_changes = s->space->map_changes - 1; /* look, at the first restore */
    consumer->snapshot = s;
    mark_what_is_not_current(s);
    return STATUS_OK;
}

enum status gpa_snapshot_adopt(struct gpa_space *space, struct gpa_snapshot_range *ranges, size_t count,
                               struct page_room *room, struct gpa_snapshot **out)
{
    struct gpa_snapshot *s = new_snapshot(space);
    enum status status;

    if (!s) {
        free(ranges);
        page_room_free(room);
        return no_memory(NULL);
    }
    s->room = *room;
    *room = (struct page_room){0};
    s->ranges = ranges;
    if (attach(s) != STATUS_OK)
        return no_memory(s);
    pthread_mutex_lock(&space->change);
    status = adopt(s, count);
    pthread_mutex_unlock(&space->change);
    if (status == STATUS_OK)
        *out = s;
    else
        gpa_snapshot_destroy(s);
    return status;
}

/* ---- destroy ---- */

void gpa_snapshot_detach(struct gpa_snapshot *s)
{
    struct gpa_space *space = s->space;

    if (!space)
        return;
    if (s->consumer && gpa_consumer_destroy(space, s->consumer) != STATUS_OK)
        last_error_clear();
    pthread_mutex_lock(&space->change);
    hold_sources(s, false);
    if (unlikely(space->sources.live))
        gpa_sources_sweep(space);
    pthread_mutex_unlock(&space->change);
    s->space = NULL;
}

void gpa_snapshot_destroy(struct gpa_snapshot *s)
{
    if (s)
        gpa_snapshot_detach(s);
    while (s && atomic_fetch_sub(&s->references, 1) == 1) {
        struct gpa_snapshot *parent = s->parent;
        free(s->ranges);
        free(s->targets.array);
        free(s->files.array);
        free(s->copies.array);
        extent_tree_fini(&s->unread);
        page_room_free(&s->room);
        free(s);
        s = parent;
    }
}
