/*
 * Snapshots of memory.
 *
 * What changed since is a consumer of dirty pages (gpa_consumer.h), one a snapshot, that sees every page however it is
 * mapped, and pages whose mapping was replaced. So a restore is a harvest: take the consumer's pages, and copy the content
 * back while everybody is held. What it writes is dirty for all other consumers, other snapshots among them.
 *
 * The content is in a page_store a range. A second snapshot of unchanged mappings takes the pages in which it differs from
 * the first, which are the dirty pages of the first, and refers to it for the others. Through aliases a page can change
 * without being dirty; then it is copied whole.
 */
#include "mem/gpa_snapshot.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "mem/gpa_consumer.h"
#include "mem/gpa_sources.h"
#include "mem/gpa_space_state.h"
#include "os/guarded.h"
#include "os/host_data.h"
#include "util/last_error.h"

enum { RIGHTS = GPA_READ | GPA_WRITE | GPA_EXECUTE, DEPTH_LIMIT = 8 };

/* ---- ranges ---- */

static struct extent extent_of(const struct gpa_snapshot_range *range)
{
    return (struct extent){range->gpa, range->size, range->target, range->owner, range->flags};
}

/* The index of the range that contains gpa, or of the first one behind it. */
static size_t find_range(const struct gpa_snapshot *s, gpa_t gpa)
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

static bool contains(const struct gpa_snapshot_range *range, gpa_t gpa)
{
    return gpa - range->gpa < range->size;
}

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

/* ---- are the mappings what they were? ---- */

/* What a stretch from `at` on should be mapped to; it ends where that changes. */
static struct extent wanted_piece(const struct gpa_snapshot *s, gpa_t at)
{
    size_t i = find_range(s, at);
    struct extent e = {.start = at, .size = s->space->limit - at};

    if (i == s->count)
        return e;
    struct extent next = extent_of(&s->ranges[i]);
    if (contains(&s->ranges[i], at))
        return extent_clip(&next, at, s->space->limit - at);
    e.size = next.start - at;
    return e;
}

/* The next stretch from *at on that is mapped otherwise; tracking does not count. False: none. */
static bool next_difference(const struct gpa_snapshot *s, gpa_t *at, struct extent *wanted)
{
    while (*at < s->space->limit) {
        *wanted = wanted_piece(s, *at);
        struct extent now = extent_tree_piece(&s->space->mappings, *at, *at + wanted->size);
        *wanted = extent_clip(wanted, now.start, now.size);
        *at = now.start + now.size;
        if (now.target != wanted->target || now.owner != wanted->owner || (now.attributes ^ wanted->attributes) & RIGHTS)
            return true;
    }
    return false;
}

static enum status remap(struct gpa_snapshot *s)
{
    struct extent wanted;
    enum status status = STATUS_OK;

    for (gpa_t at = 0; status == STATUS_OK && next_difference(s, &at, &wanted);)
        status = gpa_space_replace(s->space, (struct gpa_range){wanted.start, wanted.size}, wanted.target ? &wanted : NULL,
                                   wanted.target ? 1 : 0);
    return status;
}

static enum status check_mappings(struct gpa_snapshot *s, bool may_remap)
{
    struct extent wanted;
    enum status status = STATUS_OK;
    gpa_t at = 0;

    if (likely(s->map_changes == s->space->map_changes))
        return STATUS_OK;
    if (may_remap)
        status = remap(s);
    else if (next_difference(s, &at, &wanted))
        status = fail(STATUS_GPA_RANGE_NOT_FOUND, RANGE_FORMAT "not mapped as it was when the snapshot was taken (%s then)",
                      wanted.start, wanted.size, wanted.target ? "mapped" : "unmapped");
    if (status == STATUS_OK)
        s->map_changes = s->space->map_changes;
    return status;
}

/* ---- copying out ---- */

/* Keep what is at a host address, which may vanish: then the page is zero. Pages that begin with zeros are looked at. */
static void keep_host_page(struct page_store *store, uint64_t page, const uint8_t *host)
{
    uint8_t *slot = page_store_slot(store, page);
    uint8_t copy[PAGE_SIZE];
    uint64_t first;
    bool held = false;

    if (guarded_load64(host, &first) && first) {
        held = guarded_copy(slot, host, PAGE_SIZE);
    } else if (guarded_copy(copy, host, PAGE_SIZE) && !page_is_zero(copy)) {
        memcpy(slot, copy, PAGE_SIZE);
        held = true;
    }
    page_store_set(store, page, held);
}

static void keep_source_page(struct page_store *store, uint64_t page, const struct gpa_view *view, gpa_t gpa)
{
    uint8_t copy[PAGE_SIZE];
    bool held = gpa_source_read(view, gpa, copy, PAGE_SIZE) && !page_is_zero(copy);

    if (held)
        memcpy(page_store_slot(store, page), copy, PAGE_SIZE);
    page_store_set(store, page, held);
}

static void keep_page(const struct gpa_snapshot *s, struct gpa_snapshot_range *range, gpa_t gpa)
{
    const struct extent extent = extent_of(range);
    const struct gpa_view view = gpa_view_of(s->space, &extent);
    uint64_t page = pages_of(gpa - range->gpa);

    if (unlikely(view.source != NULL))
        keep_source_page(&range->store, page, &view, gpa);
    else
        keep_host_page(&range->store, page, gpa_view_host(&view, gpa));
}

static void keep_run(void *context, uintptr_t start, uintptr_t end)
{
    struct gpa_snapshot_range *range = context;

    for (; start < end; start += PAGE_SIZE)
        keep_host_page(&range->store, pages_of(start - range->target), (const uint8_t *)start);
}

static void keep_all(const struct gpa_snapshot *s)
{
    for (size_t i = 0; i < s->count; i++) {
        struct gpa_snapshot_range *range = &s->ranges[i];
        const struct extent extent = extent_of(range);

        if (likely(!gpa_view_of(s->space, &extent).source)) {
            host_each_data((const void *)(uintptr_t)range->target, range->size, keep_run, range);
            continue;
        }
        for (uint64_t at = 0; at < range->size; at += PAGE_SIZE)
            keep_page(s, range, range->gpa + at);
    }
}

/* The next page of the words, which it is taken from; false: there is none left. */
static bool next_page(struct gpa_dirty_bits *left, const struct gpa_dirty_bits **words, const struct gpa_dirty_bits *end, gpa_t *gpa)
{
    if (!left->bits && *words == end)
        return false;
    if (!left->bits)
        *left = *(*words)++;
    *gpa = (left->first + (uint64_t)__builtin_ctzll(left->bits)) << PAGE_SHIFT;
    left->bits &= left->bits - 1;
    return true;
}

/* A gpa_dirty_sink. */
static bool keep_bits(void *context, const struct gpa_dirty_bits *words, size_t count)
{
    const struct gpa_snapshot *s = context;
    const struct gpa_dirty_bits *const end = words + count;
    struct gpa_dirty_bits left = {0};
    gpa_t gpa;

    while (next_page(&left, &words, end, &gpa)) {
        size_t i = find_range(s, gpa);
        if (i < s->count && contains(&s->ranges[i], gpa))
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

/* ---- create ---- */

static int by_target(const void *a, const void *b)
{
    const struct extent *x = a, *y = b;

    if (x->owner != y->owner)
        return x->owner < y->owner ? -1 : 1;
    return x->target < y->target ? -1 : x->target > y->target;
}

/* Is one host page at two guest addresses? Without memory to tell, perhaps. */
static bool has_aliases(const struct gpa_snapshot *s)
{
    struct extent *sorted = malloc((s->count + 1) * sizeof(*sorted));
    bool found = !sorted;

    for (size_t i = 0; sorted && i < s->count; i++)
        sorted[i] = extent_of(&s->ranges[i]);
    if (sorted)
        qsort(sorted, s->count, sizeof(*sorted), by_target);
    for (size_t i = 1; !found && i < s->count; i++)
        found = sorted[i].owner == sorted[i - 1].owner && sorted[i].target < sorted[i - 1].target + sorted[i - 1].size;
    free(sorted);
    return found;
}

/* Can the pages that are not dirty be taken from the other one? Same mappings ever since, so the same ranges. */
static bool is_base(const struct gpa_snapshot *s, const struct gpa_snapshot *like)
{
    if (!like || like->space != s->space || like->map_changes != s->space->map_changes || like->count != s->count ||
        like->depth >= DEPTH_LIMIT)
        return false;
    for (size_t i = 0; i < s->count; i++)
        if (like->ranges[i].gpa != s->ranges[i].gpa || like->ranges[i].size != s->ranges[i].size)
            return false;
    return !has_aliases(s);
}

static bool make_stores(struct gpa_snapshot *s)
{
    for (size_t i = 0; i < s->count; i++)
        if (!page_store_init(&s->ranges[i].store, pages_of(s->ranges[i].size), s->parent ? &s->parent->ranges[i].store : NULL))
            return false;
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
    gpa_space_hold(s->space);
    if (s->parent)
        keep_changed(s, like);
    else
        keep_all(s);
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
static void mark_all(const struct gpa_snapshot_range *range, struct gpa_dirty *record)
{
    const void *pair[] = {range, record};
    uint64_t first = pages_of(range->gpa);

    for (uint64_t word = 0; word << 6 < range->store.pages; word++)
        for (uint64_t bits = page_store_word(&range->store, word); bits; bits &= bits - 1)
            gpa_dirty_mark(record, first + (word << 6) + (uint64_t)__builtin_ctzll(bits));
    if (range->owner)
        gpa_dirty_mark_range(record, first, range->store.pages);
    else
        host_each_data((const void *)(uintptr_t)range->target, range->size, mark_run, pair);
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

void gpa_snapshot_free_ranges(struct gpa_snapshot_range *ranges, size_t count)
{
    for (size_t i = 0; i < count; i++)
        page_store_fini(&ranges[i].store);
    free(ranges);
}

enum status gpa_snapshot_adopt(struct gpa_space *space, struct gpa_snapshot_range *ranges, size_t count,
                               struct gpa_snapshot **out)
{
    struct gpa_snapshot *s = new_snapshot(space);

    if (!s) {
        gpa_snapshot_free_ranges(ranges, count);
        return no_memory(NULL);
    }
    s->ranges = ranges;
    s->count = count;
    if (attach(s) != STATUS_OK)
        return no_memory(s);
    pthread_mutex_lock(&space->change);
    hold_sources(s, true);
    s->map_changes = space->map_changes - 1; /* look, at the first restore */
    for (size_t i = 0; i < count; i++)
        if (!ranges[i].is_current)
            mark_all(&ranges[i], gpa_consumer_find(space, s->consumer)->pending);
    pthread_mutex_unlock(&space->change);
    *out = s;
    return STATUS_OK;
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
        gpa_snapshot_free_ranges(s->ranges, s->count);
        free(s);
        s = parent;
    }
}

/* ---- restore ---- */

struct restore {
    const struct gpa_snapshot *snapshot;
    struct gpa_consumer *consumer;
    const struct gpa_snapshot_range *range; /* the one looked at last */
    uint64_t pages;
    uint64_t failed;     /* pages */
    gpa_t first_failed;
};

static bool write_source(const struct gpa_snapshot *s, const struct gpa_snapshot_range *range, gpa_t gpa, const uint8_t *content)
{
    static const uint8_t zeros[PAGE_SIZE];
    const struct extent extent = extent_of(range);
    const struct gpa_view view = gpa_view_of(s->space, &extent);

    return gpa_source_write(&view, gpa, content ? content : zeros, PAGE_SIZE);
}

static bool is_reached_by_copying(const struct gpa_snapshot *s, const struct gpa_snapshot_range *range)
{
    return unlikely(range->owner) && gpa_space_copied(s->space, range->owner);
}

static bool write_page(const struct gpa_snapshot *s, const struct gpa_snapshot_range *range, gpa_t gpa)
{
    const uint8_t *content = page_store_get(&range->store, pages_of(gpa - range->gpa));
    uint8_t *host = (uint8_t *)(uintptr_t)(range->target + (gpa - range->gpa));

    if (is_reached_by_copying(s, range))
        return write_source(s, range, gpa, content);
    return content ? guarded_copy(host, content, PAGE_SIZE) : guarded_fill_partial(host, 0, PAGE_SIZE) == 0;
}

static void put_page_back(struct restore *r, gpa_t gpa)
{
    const struct gpa_snapshot *s = r->snapshot;

    if (!r->range || !contains(r->range, gpa)) {
        size_t i = find_range(s, gpa);
        if (i == s->count || !contains(&s->ranges[i], gpa))
            return; /* was, and is, not mapped */
        r->range = &s->ranges[i];
    }
    r->pages++;
    if (likely(write_page(s, r->range, gpa)))
        return;
    gpa_dirty_mark(r->consumer->pending, pages_of(gpa)); /* to try again next time */
    if (!r->failed++)
        r->first_failed = gpa;
}

/* A gpa_dirty_sink. */
static bool put_back(void *context, const struct gpa_dirty_bits *words, size_t count)
{
    struct restore *r = context;
    struct gpa_consumers others = {r->snapshot->space, r->consumer};
    const struct gpa_dirty_bits *const end = words + count, *at = words;
    struct gpa_dirty_bits left = {0};
    gpa_t gpa;

    while (next_page(&left, &at, end, &gpa))
        put_page_back(r, gpa);
    if (r->snapshot->space->consumers->next)
        (void)gpa_consumers_give(&others, words, count);
    return true;
}

static enum status outcome(const struct restore *r)
{
    if (likely(!r->failed))
        return STATUS_OK;
    return fail(STATUS_ACCESS_DENIED, "guest page at 0x%" PRIx64 " and %" PRIu64 " more: the host memory is missing or cannot be written",
                r->first_failed, r->failed - 1);
}

static void take_changed(struct restore *r)
{
    struct gpa_space *space = r->snapshot->space;
    const struct gpa_range all = {0, space->limit};

    gpa_space_bring_in_marks(space);
    if (!gpa_dirty_any(space->dirty, 0, pages_of(space->limit)) && !gpa_dirty_any(r->consumer->pending, 0, pages_of(space->limit)))
        return;
    gpa_space_hold(space);
    gpa_dirty_visit_take(&(struct gpa_dirty_visit){.record = space->dirty, .other = r->consumer->pending,
                                                   .count = pages_of(space->limit), .sink = put_back, .ctx = r});
    gpa_space_release(space, &(struct gpa_change){GPA_CHANGE_DIRTY_CLEAR, all});
}

enum status gpa_snapshot_restore(struct gpa_snapshot *s, bool may_remap, uint64_t *pages)
{
    struct gpa_space *space = s->space;
    struct restore r = {.snapshot = s};
    enum status status;

    pthread_mutex_lock(&space->change);
    status = check_mappings(s, may_remap);
    if (status == STATUS_OK) {
        r.consumer = gpa_consumer_find(space, s->consumer);
        take_changed(&r);
        status = outcome(&r);
    }
    pthread_mutex_unlock(&space->change);
    *pages = r.pages;
    return status;
}

/* ---- figures ---- */

struct count {
    const struct gpa_snapshot *snapshot;
    uint64_t pages;
};

static bool count_bits(void *context, const struct gpa_dirty_bits *words, size_t number)
{
    struct count *count = context;
    const struct gpa_snapshot *s = count->snapshot;
    const struct gpa_dirty_bits *const end = words + number;
    struct gpa_dirty_bits left = {0};
    gpa_t gpa;

    while (next_page(&left, &words, end, &gpa)) {
        size_t i = find_range(s, gpa);
        count->pages += i < s->count && contains(&s->ranges[i], gpa);
    }
    return true;
}

uint64_t gpa_snapshot_changed(const struct gpa_snapshot *s)
{
    struct count count = {s, 0};

    if (!s->space)
        return 0;
    pthread_mutex_lock(&s->space->change);
    gpa_space_bring_in_marks(s->space);
    gpa_dirty_visit_peek(&(struct gpa_dirty_visit){.record = s->space->dirty,
                                                   .other = gpa_consumer_find(s->space, s->consumer)->pending,
                                                   .count = pages_of(s->space->limit), .sink = count_bits, .ctx = &count});
    pthread_mutex_unlock(&s->space->change);
    return count.pages;
}

uint64_t gpa_snapshot_held(const struct gpa_snapshot *s)
{
    uint64_t pages = 0;

    for (size_t i = 0; i < s->count; i++)
        pages += page_store_held(&s->ranges[i].store);
    return pages;
}
