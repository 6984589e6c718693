/*
 * Making memory what it was when a snapshot was taken, and what that would cost.
 *
 * Pages that were zero are gathered into runs. A long run is most often memory that was mapped again and has not been touched
 * since: of it only the pages in which there is something are written, for writing zeros would bring all of it into being.
 */
#include <stdlib.h>
#include <string.h>

#include "mem/gpa_consumer.h"
#include "mem/gpa_snapshot_state.h"
#include "mem/gpa_sources.h"
#include "os/guarded.h"
#include "os/host_data.h"
#include "util/last_error.h"

enum { RIGHTS = GPA_READ | GPA_WRITE | GPA_EXECUTE };

/* ---- are the mappings what they were? ---- */

/* What a stretch from `at` on should be mapped to; it ends where that changes. */
static struct extent wanted_piece(const struct gpa_snapshot *s, gpa_t at)
{
    size_t i = gpa_snapshot_find(s, at);
    struct extent e = {.start = at, .size = s->space->limit - at};

    if (i == s->count)
        return e;
    struct extent next = gpa_snapshot_extent(&s->ranges[i]);
    if (gpa_snapshot_contains(&s->ranges[i], at))
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

/* ---- pages ---- */

enum { LONG_RUN = 64 }; /* pages */

struct restore {
    const struct gpa_snapshot *snapshot;
    struct gpa_consumer *consumer;
    const struct gpa_snapshot_range *range; /* the one looked at last */
    struct gpa_range zeros;                 /* a run of pages of that range which are to be zero, and are not yet */
    struct host_data *data;                 /* once it was needed */
    uint64_t pages;
    uint64_t failed;     /* pages */
    gpa_t first_failed;  /* the lowest of them */
};

static void note_failure(struct restore *r, gpa_t gpa)
{
    gpa_dirty_mark(r->consumer->pending, pages_of(gpa)); /* to try again next time */
    if (!r->failed++ || gpa < r->first_failed)
        r->first_failed = gpa;
}

static bool is_page(const uint8_t *page, const uint8_t *content)
{
    return content ? memcmp(page, content, PAGE_SIZE) == 0 : page_is_zero(page);
}

/* What cannot be written need not be, if it is what it was: a ROM that was unmapped and mapped again. */
static bool host_has(const uint8_t *host, const uint8_t *content)
{
    uint8_t now[PAGE_SIZE];

    return guarded_copy(now, host, PAGE_SIZE) && is_page(now, content);
}

static bool write_source(const struct gpa_snapshot *s, const struct gpa_snapshot_range *range, gpa_t gpa, const uint8_t *content)
{
    static const uint8_t zeros[PAGE_SIZE];
    const struct extent extent = gpa_snapshot_extent(range);
    const struct gpa_view view = gpa_view_of(s->space, &extent);
    uint8_t now[PAGE_SIZE];

    return gpa_source_write(&view, gpa, content ? content : zeros, PAGE_SIZE) ||
           (gpa_source_read(&view, gpa, now, PAGE_SIZE) && is_page(now, content));
}

static bool is_reached_by_copying(const struct gpa_snapshot *s, const struct gpa_snapshot_range *range)
{
    return unlikely(range->owner) && gpa_space_copied(s->space, range->owner);
}

static uint8_t *host_of(const struct gpa_snapshot_range *range, gpa_t gpa)
{
    return (uint8_t *)(uintptr_t)(range->target + (gpa - range->gpa));
}

/* ---- pages of zeros ---- */

static void zero_run(void *context, uintptr_t start, uintptr_t end)
{
    struct restore *r = context;

    for (; start < end; start += PAGE_SIZE)
        if (unlikely(guarded_fill_partial((void *)start, 0, PAGE_SIZE)) && !host_has((const uint8_t *)start, NULL))
            note_failure(r, r->range->gpa + (start - r->range->target));
}

static void finish_zeros(struct restore *r)
{
    const struct gpa_range run = r->zeros;

    r->zeros.size = 0;
    if (!run.size)
        return;
    uint8_t *host = host_of(r->range, run.gpa);
    if (run.size >= PAGE_SIZE * LONG_RUN && !r->data)
        r->data = host_data_open();
    if (run.size >= PAGE_SIZE * LONG_RUN && host_data_is_writable(r->data, host, run.size))
        host_data_each(r->data, host, run.size, zero_run, r);
    else
        zero_run(r, (uintptr_t)host, (uintptr_t)host + run.size);
}

static void add_zeros(struct restore *r, gpa_t gpa, uint64_t size)
{
    if (r->zeros.size && range_end(r->zeros) == gpa) {
        r->zeros.size += size;
        return;
    }
    finish_zeros(r);
    r->zeros = (struct gpa_range){gpa, size};
}

/* ---- all pages ---- */

static void write_page(struct restore *r, gpa_t gpa)
{
    const struct gpa_snapshot *s = r->snapshot;
    const uint8_t *content = page_store_get(&r->range->store, pages_of(gpa - r->range->gpa));

    if (is_reached_by_copying(s, r->range)) {
        if (!write_source(s, r->range, gpa, content))
            note_failure(r, gpa);
    } else if (!content) {
        add_zeros(r, gpa, PAGE_SIZE);
    } else if (unlikely(!guarded_copy(host_of(r->range, gpa), content, PAGE_SIZE)) &&
               !host_has(host_of(r->range, gpa), content)) {
        note_failure(r, gpa);
    }
}

/* False: the page was, and is, not mapped. */
static bool put_page_back(struct restore *r, gpa_t gpa)
{
    const struct gpa_snapshot *s = r->snapshot;

    if (!r->range || !gpa_snapshot_contains(r->range, gpa)) {
        size_t i = gpa_snapshot_find(s, gpa);
        if (i == s->count || !gpa_snapshot_contains(&s->ranges[i], gpa))
            return false;
        finish_zeros(r);
        r->range = &s->ranges[i];
    }
    r->pages++;
    write_page(r, gpa);
    return true;
}

/* A gpa_dirty_sink. The others are told of what is written, not of pages that were mapped and unmapped again since. */
static bool put_back(void *context, const struct gpa_dirty_bits *words, size_t count)
{
    struct restore *r = context;
    struct gpa_consumers others = {r->snapshot->space, r->consumer};
    struct gpa_dirty_bits written[GPA_DIRTY_TOLD_AT_ONCE];
    size_t n = 0;

    for (size_t i = 0; i < count; i++) {
        uint64_t bits = 0;
        for (uint64_t left = words[i].bits; left; left &= left - 1)
            if (likely(put_page_back(r, (words[i].first + (uint64_t)__builtin_ctzll(left)) << PAGE_SHIFT)))
                bits |= left & -left;
        if (likely(bits))
            written[n++] = (struct gpa_dirty_bits){words[i].first, bits};
    }
    (void)gpa_consumers_give(&others, written, n);
    return true;
}

/* ---- ranges that changed as a whole ---- */

/* A part of r->range. Where the store holds nothing it is gone through by words: 64 pages are as good as one. */
static void put_part_back(struct restore *r, struct gpa_range part)
{
    const uint64_t first = pages_of(part.gpa - r->range->gpa), end = first + pages_of(part.size);
    const bool by_words = !is_reached_by_copying(r->snapshot, r->range);

    for (uint64_t page = first; page < end;) {
        uint64_t zeros = by_words && !(page & 63) ? 64 * page_store_zero_words(&r->range->store, page >> 6, end >> 6) : 0;
        if (zeros)
            add_zeros(r, r->range->gpa + (page << PAGE_SHIFT), zeros << PAGE_SHIFT);
        else
            write_page(r, r->range->gpa + (page << PAGE_SHIFT));
        page += zeros ? zeros : 1;
    }
    r->pages += pages_of(part.size);
    gpa_consumers_wrote(r->snapshot->space, r->consumer, part);
}

static void put_range_back(struct restore *r, struct gpa_range range)
{
    const struct gpa_snapshot *s = r->snapshot;

    for (size_t i = gpa_snapshot_find(s, range.gpa); i < s->count && s->ranges[i].gpa < range_end(range); i++) {
        finish_zeros(r);
        r->range = &s->ranges[i];
        put_part_back(r, range_intersect(range, (struct gpa_range){r->range->gpa, r->range->size}));
    }
}

static void put_ranges_back(struct restore *r, const struct extent_tree *ranges)
{
    struct extent array[32];
    size_t n = array_size(array);

    for (gpa_t at = 0; ranges->count && n == array_size(array);) {
        n = extent_tree_list(ranges, at, array, array_size(array));
        for (size_t i = 0; i < n; i++) {
            put_range_back(r, (struct gpa_range){array[i].start, array[i].size});
            at = array[i].start + array[i].size;
        }
    }
}

/* ---- restore ---- */

static enum status outcome(const struct restore *r)
{
    if (likely(!r->failed))
        return STATUS_OK;
    return fail(STATUS_ACCESS_DENIED,
                "guest page at 0x%" PRIx64 " and %" PRIu64
                " more: the host memory is missing, or is not what it was and cannot be written",
                r->first_failed, r->failed - 1);
}

static void take_changed(struct restore *r)
{
    struct gpa_space *space = r->snapshot->space;
    const struct gpa_range all = {0, space->limit};
    const uint64_t pages = pages_of(space->limit);

    gpa_space_bring_in_marks(space);
    if (!gpa_dirty_any(space->dirty, 0, pages) && !gpa_dirty_any(r->consumer->pending, 0, pages) && !r->consumer->replaced.count)
        return;
    gpa_space_hold(space);
    gpa_consumer_settle_noted(space, r->consumer);
    gpa_dirty_visit_take(&(struct gpa_dirty_visit){.record = space->dirty, .other = r->consumer->pending,
                                                   .count = pages, .sink = put_back, .ctx = r});
    put_ranges_back(r, &r->consumer->replaced); /* last: what fails here is marked, for the next time */
    finish_zeros(r);
    extent_tree_fini(&r->consumer->replaced);
    host_data_close(r->data);
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
    const struct gpa_consumer *consumer;
    uint64_t pages;
};

static bool count_bits(void *context, const struct gpa_dirty_bits *words, size_t number)
{
    struct count *count = context;
    const struct gpa_snapshot *s = count->snapshot;
    const struct gpa_dirty_bits *const end = words + number;
    struct gpa_dirty_bits left = {0};
    gpa_t gpa;

    while (gpa_snapshot_next_page(&left, &words, end, &gpa)) {
        size_t i = gpa_snapshot_find(s, gpa);
        count->pages += i < s->count && gpa_snapshot_contains(&s->ranges[i], gpa) && !gpa_consumer_is_noted(count->consumer, gpa);
    }
    return true;
}

static uint64_t count_noted(const struct gpa_snapshot *s, const struct extent_tree *noted)
{
    uint64_t pages = 0;
    struct extent e;

    for (size_t i = 0; i < s->count && noted->count; i++)
        for (gpa_t at = s->ranges[i].gpa, end = at + s->ranges[i].size; at < end; at += e.size) {
            e = extent_tree_piece(noted, at, end);
            pages += e.attributes ? pages_of(e.size) : 0; /* 0: a hole */
        }
    return pages;
}

uint64_t gpa_snapshot_changed(const struct gpa_snapshot *s)
{
    struct count count = {.snapshot = s};

    if (!s->space)
        return 0;
    pthread_mutex_lock(&s->space->change);
    count.consumer = gpa_consumer_find(s->space, s->consumer);
    count.pages = count_noted(s, &count.consumer->replaced);
    gpa_space_bring_in_marks(s->space);
    gpa_dirty_visit_peek(&(struct gpa_dirty_visit){.record = s->space->dirty,
                                                   .other = count.consumer->pending,
                                                   .count = pages_of(s->space->limit), .sink = count_bits, .ctx = &count});
    pthread_mutex_unlock(&s->space->change);
    return count.pages;
}

uint64_t gpa_snapshot_held(const struct gpa_snapshot *s)
{
    uint64_t pages = 0;

    for (size_t i = 0; i < s->count; i++)
        pages += s->ranges[i].store.count;
    return pages;
}
