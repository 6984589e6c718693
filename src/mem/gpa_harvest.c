/*
 * Dirty pages of a space: query (read and clear), peek, mark; as a bitmap, as a list of ranges, and for whoever works on the
 * pages themselves. The records are gpa_dirty.c and gpa_consumer.c, the protocol gpa_space.c; here they meet the caller's
 * buffers.
 *
 * A harvest takes what processors have marked, with processors held, and what others have handed on to this consumer, for
 * which nobody need be held. It looks at both as one.
 */
#include "mem/gpa_consumer.h"

#include "mem/gpa_dirty_list.h"
#include "mem/gpa_space_state.h"
#include "mem/word_bits.h"
#include "os/guarded.h"
#include "util/last_error.h"

/* ---- bitmaps ---- */

/* Where dirty pages go: page `first` of the space is bit 0 of the bitmap. */
struct collector {
    uint64_t first;
    uint64_t *bitmap; /* NULL: only count */
    uint64_t count;
    bool bad_bitmap;
};

/* It could be written a moment ago; but it is the caller's, and he may have other threads. */
static bool put_bits(uint64_t *word, uint64_t bits)
{
    uint64_t before;

    return likely(guarded_load64(word, &before) && guarded_store64(word, before | bits));
}

/* Of a bitmap whose words are not those of the record. */
static bool collect_shifted(const struct collector *collector, uint64_t page, uint64_t bits)
{
    if (page < collector->first) /* the range begins inside this word */
        return put_bits(collector->bitmap, bits >> (collector->first - page));
    uint64_t *word = collector->bitmap + (page - collector->first) / 64;
    unsigned shift = (page - collector->first) % 64;
    return put_bits(word, bits << shift) && (!(bits >> (64 - shift)) || put_bits(word + 1, bits >> (64 - shift)));
}

static always_inline bool collect_word(const struct collector *collector, uint64_t page, uint64_t bits)
{
    if (unlikely(collector->first % 64))
        return collect_shifted(collector, page, bits);
    return likely(guarded_store64(collector->bitmap + (page - collector->first) / 64, bits));
}

static bool collect(void *ctx, const struct gpa_dirty_bits *words, size_t count)
{
    struct collector *collector = ctx;

    for (size_t i = 0; i < count; i++) {
        collector->count += count_bits(words[i].bits, BITS_PLAIN);
        if (collector->bitmap && unlikely(!collect_word(collector, words[i].first, words[i].bits))) {
            collector->bad_bitmap = true;
            return false;
        }
    }
    return true;
}

static uint64_t bitmap_size(uint64_t size)
{
    return (pages_of(size) + 63) / 64 * sizeof(uint64_t);
}

static enum status check_bitmap(gpa_t gpa, uint64_t size, const uint64_t *bitmap, size_t bytes)
{
    if (bytes == 0)
        return STATUS_OK;
    if (!bitmap || (uintptr_t)bitmap % sizeof(*bitmap))
        return fail(STATUS_INVALID_ARGUMENT,
                    RANGE_FORMAT "the bitmap %p is null or not a multiple of 8", gpa, size,
                    (const void *)bitmap);
    if (bytes < bitmap_size(size))
        return fail(STATUS_INSUFFICIENT_BUFFER,
                    RANGE_FORMAT "the bitmap has %zu bytes, %" PRIu64 " are needed", gpa, size,
                    bytes, bitmap_size(size));
    return STATUS_OK;
}

/* Also finds out whether the bitmap can be written, before anything is cleared. */
static enum status bad_bitmap(struct gpa_range range, const uint64_t *bitmap)
{
    return fail(STATUS_BAD_POINTER, RANGE_FORMAT "the bitmap at %p cannot be written", range.gpa, range.size,
                (const void *)bitmap);
}

static enum status zero_bitmap(struct gpa_range range, uint64_t *bitmap, size_t bytes)
{
    return bytes == 0 || guarded_fill_partial(bitmap, 0, bitmap_size(range.size)) == 0 ? STATUS_OK : bad_bitmap(range, bitmap);
}

/* ---- who may ask for what ---- */

/* Every page of the range must be mapped and tracked (or only mapped: flags 0). Under `change` or in a read section. */
static enum status check_tracked(const struct gpa_space *space, struct gpa_range range, uint32_t flags)
{
    uint64_t good = gpa_space_covered(space, range.gpa, range.size, flags);
    if (good == range.size)
        return STATUS_OK;
    return fail(STATUS_GPA_RANGE_NOT_FOUND, RANGE_FORMAT "the page at 0x%" PRIx64 " is not mapped%s", range.gpa, range.size,
                range.gpa + good, flags ? " with dirty tracking" : "");
}

/* The consumer, if it may ask this. Under `change` or in a read section. */
static enum status check_consumer(const struct gpa_space *space, const struct gpa_dirty_query *query,
                                  struct gpa_consumer **consumer)
{
    struct gpa_consumer *c = gpa_consumer_find(space, query->consumer);
    *consumer = c;
    if (!c)
        return fail(STATUS_NOT_FOUND, "no dirty consumer %u", query->consumer);
    if (query->range.gpa < c->range.gpa || range_end(query->range) > range_end(c->range))
        return fail(STATUS_INVALID_ARGUMENT, RANGE_FORMAT "not in that of dirty consumer %u, 0x%" PRIx64 ", size 0x%" PRIx64,
                    query->range.gpa, query->range.size, c->id, c->range.gpa, c->range.size);
    return c->flags & GPA_CONSUMER_UNTRACKED ? STATUS_OK : check_tracked(space, query->range, GPA_TRACK_DIRTY);
}

/* ---- harvest ---- */

/* A harvest in progress. Under `change`. */
struct harvest {
    struct gpa_space *space;
    struct gpa_consumer *consumer;
    struct gpa_range range;
    struct gpa_consumers others;
    bool marked, held;
    struct gpa_dirty_visit visit; /* takes what there is */
};

/* False: nothing is dirty, and there is nothing to end. No dirty bit of the processors' means no write-TLB entry: nobody need
 * be held (invariant W), and nobody must look at the record, which they may be marking. */
static bool harvest_begin(struct harvest *h, bool always_hold)
{
    uint64_t page = pages_of(h->range.gpa), pages = pages_of(h->range.size);
    struct gpa_dirty *pending = h->consumer->pending;

    h->others = (struct gpa_consumers){h->space, h->consumer};
    h->held = gpa_space_marks_late(h->space);
    if (h->held)
        gpa_space_hold(h->space);
    h->marked = gpa_dirty_any(h->space->dirty, page, pages);
    h->visit = (struct gpa_dirty_visit){pending, NULL, page, pages, NULL, NULL, NULL, &h->others, true, NULL};
    if (h->marked) {
        h->visit.record = h->space->dirty;
        h->visit.other = pending;
        h->visit.tee = h->space->consumers->next ? gpa_consumers_give : NULL;
    } else if (!gpa_dirty_any(pending, page, pages)) {
        if (h->held)
            gpa_space_release(h->space, NULL);
        return false;
    }
    if (!h->held && (h->marked || always_hold)) {
        h->held = true;
        gpa_space_hold(h->space);
    }
    return true;
}

static void harvest_end(struct harvest *h)
{
    const struct gpa_change change = {GPA_CHANGE_DIRTY_CLEAR, h->range};

    if (h->held)
        gpa_space_release(h->space, h->marked ? &change : NULL);
}

static void take(struct gpa_space *space, struct gpa_consumer *consumer, struct gpa_range range, gpa_dirty_sink *sink, void *ctx)
{
    struct harvest h = {.space = space, .consumer = consumer, .range = range};

    if (!harvest_begin(&h, false))
        return;
    h.visit.sink = sink;
    h.visit.ctx = ctx;
    gpa_dirty_visit_take(&h.visit);
    harvest_end(&h);
}

static void peek(struct gpa_space *space, struct gpa_consumer *consumer, struct gpa_range range, gpa_dirty_sink *sink, void *ctx)
{
    gpa_dirty_visit_peek(&(struct gpa_dirty_visit){space->dirty, consumer->pending, pages_of(range.gpa), pages_of(range.size),
                                                   sink, ctx, NULL, NULL, false, NULL});
}

/*
 * Where a page goes that was taken and cannot be told: to be seen by this consumer, and by no other. A consumer that is alone may
 * have no memory in its own record. If processors are not held, they mark theirs at this moment; but then nothing was taken from
 * it, and what came from the consumer's own finds its place there again.
 */
static struct gpa_dirty *untold(const struct harvest *h)
{
    return h->held && !h->space->consumers->next ? h->space->dirty : h->consumer->pending;
}

static void take_list(struct gpa_space *space, struct gpa_consumer *consumer, struct gpa_range range, struct gpa_lister *lister)
{
    struct harvest h = {.space = space, .consumer = consumer, .range = range};

    if (!harvest_begin(&h, false))
        return;
    h.visit.sink = gpa_lister_sink;
    h.visit.taker = gpa_lister_take;
    h.visit.ctx = lister;
    gpa_dirty_visit_take(&h.visit);
    gpa_lister_end(lister);
    if ((lister->rest_count || lister->bad_array) && !gpa_lister_put_back(lister, range, untold(&h)))
        gpa_consumer_mark_all(space, consumer, range);
    harvest_end(&h);
}

/* ---- calls ---- */

/* Between these nobody changes the space or takes dirty pages. A peek lets processors and readers go on. */
static void query_begin(struct gpa_space *space, const struct gpa_dirty_query *query)
{
    pthread_mutex_lock(&space->change);
    if (query->flags & GPA_QUERY_PEEK)
        gpa_space_bring_in_marks(space);
}

static void query_end(struct gpa_space *space)
{
    pthread_mutex_unlock(&space->change);
}

enum status gpa_consumer_bitmap(struct gpa_space *space, const struct gpa_dirty_query *query, uint64_t *bitmap,
                                size_t bitmap_bytes, uint64_t *count)
{
    const struct gpa_range range = query->range;
    struct gpa_consumer *consumer;
    enum status status = gpa_space_check_pages(space, range.gpa, range.size);
    if (status == STATUS_OK)
        status = check_bitmap(range.gpa, range.size, bitmap, bitmap_bytes);
    if (status != STATUS_OK)
        return status;

    struct collector collector = {pages_of(range.gpa), bitmap_bytes ? bitmap : NULL, 0, false};
    query_begin(space, query);
    status = check_consumer(space, query, &consumer);
    if (status == STATUS_OK)
        status = zero_bitmap(range, bitmap, bitmap_bytes);
    if (status == STATUS_OK)
        (query->flags & GPA_QUERY_PEEK ? peek : take)(space, consumer, range, collect, &collector);
    if (unlikely(collector.bad_bitmap)) {
        if (!(query->flags & GPA_QUERY_PEEK))
            gpa_consumer_mark_all(space, consumer, range); /* what was cleared is in a bitmap that nobody can read */
        status = bad_bitmap(range, bitmap);
    }
    query_end(space);
    if (status == STATUS_OK && count)
        *count = collector.count;
    return status;
}

enum status gpa_consumer_list(struct gpa_space *space, const struct gpa_dirty_query *query, struct gpa_dirty_list *list)
{
    const struct gpa_range range = query->range;
    struct gpa_lister lister;
    struct gpa_consumer *consumer;
    enum status status = gpa_space_check_pages(space, range.gpa, range.size);
    if (status != STATUS_OK)
        return status;
    if (list->capacity == 0)
        return fail(STATUS_INVALID_ARGUMENT, RANGE_FORMAT "no room for a range", range.gpa, range.size);

    gpa_lister_begin(&lister, list);
    query_begin(space, query);
    status = check_consumer(space, query, &consumer);
    if (status == STATUS_OK && query->flags & GPA_QUERY_PEEK) {
        peek(space, consumer, range, gpa_lister_sink, &lister);
        gpa_lister_end(&lister);
    } else if (status == STATUS_OK) {
        take_list(space, consumer, range, &lister);
    }
    query_end(space);
    if (lister.bad_array)
        return fail(STATUS_BAD_POINTER, RANGE_FORMAT "the array at %p cannot be written", range.gpa, range.size,
                    (void *)list->array);
    return status;
}

/* On its way to the client: what the client changes is dirty for the others. */
struct rewriter {
    struct gpa_consumers *others;
    gpa_dirty_sink *sink;
    void *ctx;
};

static bool rewrite(void *ctx, const struct gpa_dirty_bits *words, size_t count)
{
    struct rewriter *rewriter = ctx;
    gpa_consumers_give(rewriter->others, words, count);
    return rewriter->sink(rewriter->ctx, words, count);
}

enum status gpa_consumer_visit(struct gpa_space *space, const struct gpa_dirty_query *query, gpa_dirty_sink *sink, void *ctx)
{
    struct harvest h = {.space = space, .range = query->range};
    struct rewriter rewriter = {&h.others, sink, ctx};
    bool rewrites = query->flags & GPA_QUERY_REWRITES;
    enum status status = gpa_space_check_pages(space, query->range.gpa, query->range.size);
    if (status != STATUS_OK)
        return status;
    if (query->flags & GPA_QUERY_PEEK)
        return fail(STATUS_INVALID_ARGUMENT, "a visit takes the pages");

    pthread_mutex_lock(&space->change);
    status = check_consumer(space, query, &h.consumer);
    if (status == STATUS_OK && harvest_begin(&h, true)) {
        h.visit.sink = rewrites ? rewrite : sink;
        h.visit.ctx = rewrites ? &rewriter : ctx;
        gpa_dirty_visit_take(&h.visit);
        harvest_end(&h);
    }
    pthread_mutex_unlock(&space->change);
    return status;
}

/* ---- the first consumer ---- */

enum status gpa_space_query_dirty(struct gpa_space *space, gpa_t gpa, uint64_t size,
                                  uint64_t *bitmap, size_t bitmap_bytes)
{
    const struct gpa_dirty_query query = {GPA_CONSUMER_FIRST, 0, {gpa, size}};
    return gpa_consumer_bitmap(space, &query, bitmap, bitmap_bytes, NULL);
}

enum status gpa_space_peek_dirty(struct gpa_space *space, gpa_t gpa, uint64_t size,
                                 uint64_t *bitmap, size_t bitmap_bytes, uint64_t *count)
{
    const struct gpa_dirty_query query = {GPA_CONSUMER_FIRST, GPA_QUERY_PEEK, {gpa, size}};
    return gpa_consumer_bitmap(space, &query, bitmap, bitmap_bytes, count);
}

/* What the listeners are told of is memory: mapping by mapping. All of it is mapped. */
static void tell_wrote(const struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    struct gpa_view view;

    for (uint64_t part; size; gpa += part, size -= part) {
        if (!gpa_space_find_mapped(space, gpa, &view))
            return;
        part = view.size - (gpa - view.gpa);
        part = part < size ? part : size;
        gpa_space_wrote(space, gpa_view_place(&view, gpa), part);
    }
}

enum status gpa_space_mark_dirty(struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    enum status status = gpa_space_check_bytes(space, gpa, size);
    if (status != STATUS_OK)
        return status;

    struct gpa_range pages = range_round_out((struct gpa_range){gpa, size});
    gpa_space_read_begin(space);
    status = check_tracked(space, pages, space->record_all ? 0 : GPA_TRACK_DIRTY);
    if (status == STATUS_OK) {
        gpa_dirty_mark_range(space->dirty, pages_of(pages.gpa), pages_of(pages.size));
        tell_wrote(space, gpa, size);
    }
    gpa_space_read_end(space);
    return status;
}
