/*
 * Dirty pages of a space: query (read and clear), peek, mark. The record is gpa_dirty.c, the
 * protocol gpa_space.c; here they meet the caller's bitmap.
 */
#include "mem/gpa_space.h"

#include "mem/gpa_space_state.h"
#include "os/guarded.h"
#include "util/last_error.h"

/* Where dirty pages go: page `first` of the space is bit 0 of the bitmap. */
struct collector {
    uint64_t first;
    uint64_t *bitmap; /* NULL: only count */
    uint64_t count;
};

static void collect(void *ctx, uint64_t page, uint64_t bits)
{
    struct collector *collector = ctx;
    collector->count += (uint64_t)__builtin_popcountll(bits);
    if (!collector->bitmap)
        return;
    if (page < collector->first) { /* the range begins inside this word */
        collector->bitmap[0] |= bits >> (collector->first - page);
        return;
    }
    uint64_t *word = collector->bitmap + (page - collector->first) / 64;
    unsigned shift = (page - collector->first) % 64;
    word[0] |= bits << shift;
    if (shift && bits >> (64 - shift))
        word[1] |= bits >> (64 - shift);
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

/* Every page of the range must be mapped and tracked. Under `change` or in a read section. */
static enum status check_tracked(const struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    uint64_t good = gpa_space_covered(space, gpa, size, GPA_TRACK_DIRTY);
    if (good == size)
        return STATUS_OK;
    return fail(STATUS_GPA_RANGE_NOT_FOUND,
                RANGE_FORMAT "the page at 0x%" PRIx64 " is not mapped with dirty tracking", gpa,
                size, gpa + good);
}

static enum status check_query(const struct gpa_space *space, gpa_t gpa, uint64_t size,
                               const uint64_t *bitmap, size_t bytes)
{
    enum status status = gpa_space_check_pages(space, gpa, size);
    return status == STATUS_OK ? check_bitmap(gpa, size, bitmap, bytes) : status;
}

/* Also finds out whether the bitmap can be written, before anything is cleared. */
static enum status zero_bitmap(gpa_t gpa, uint64_t size, uint64_t *bitmap, size_t bytes)
{
    if (bytes == 0 || guarded_fill_partial(bitmap, 0, bitmap_size(size)) == 0)
        return STATUS_OK;
    return fail(STATUS_BAD_POINTER, RANGE_FORMAT "the bitmap at %p cannot be written", gpa, size,
                (void *)bitmap);
}

static void harvest(struct gpa_space *space, struct gpa_range range, struct collector *collector)
{
    uint64_t page = pages_of(range.gpa), pages = pages_of(range.size);

    if (!gpa_dirty_any(space->dirty, page, pages))
        return; /* no dirty bit, so no write-TLB entry: nobody need be held (invariant W) */
    gpa_space_hold(space);
    gpa_dirty_take(space->dirty, page, pages, collect, collector);
    gpa_space_release(space, &(struct gpa_change){GPA_CHANGE_DIRTY_CLEAR, range});
}

enum status gpa_space_query_dirty(struct gpa_space *space, gpa_t gpa, uint64_t size,
                                  uint64_t *bitmap, size_t bitmap_bytes)
{
    enum status status = check_query(space, gpa, size, bitmap, bitmap_bytes);
    if (status != STATUS_OK)
        return status;

    struct collector collector = {pages_of(gpa), bitmap_bytes ? bitmap : NULL, 0};
    pthread_mutex_lock(&space->change);
    status = check_tracked(space, gpa, size);
    if (status == STATUS_OK)
        status = zero_bitmap(gpa, size, bitmap, bitmap_bytes);
    if (status == STATUS_OK)
        harvest(space, (struct gpa_range){gpa, size}, &collector);
    pthread_mutex_unlock(&space->change);
    return status;
}

enum status gpa_space_peek_dirty(struct gpa_space *space, gpa_t gpa, uint64_t size,
                                 uint64_t *bitmap, size_t bitmap_bytes, uint64_t *count)
{
    enum status status = check_query(space, gpa, size, bitmap, bitmap_bytes);
    if (status != STATUS_OK)
        return status;

    struct collector collector = {pages_of(gpa), bitmap_bytes ? bitmap : NULL, 0};
    gpa_space_read_begin(space);
    status = check_tracked(space, gpa, size);
    if (status == STATUS_OK)
        status = zero_bitmap(gpa, size, bitmap, bitmap_bytes);
    if (status == STATUS_OK)
        gpa_dirty_peek(space->dirty, pages_of(gpa), pages_of(size), collect, &collector);
    gpa_space_read_end(space);
    if (status == STATUS_OK && count)
        *count = collector.count;
    return status;
}

enum status gpa_space_mark_dirty(struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    enum status status = gpa_space_check_bytes(space, gpa, size);
    if (status != STATUS_OK)
        return status;

    struct gpa_range pages = range_round_out((struct gpa_range){gpa, size});
    gpa_space_read_begin(space);
    status = check_tracked(space, pages.gpa, pages.size);
    if (status == STATUS_OK) {
        gpa_dirty_mark_range(space->dirty, pages_of(pages.gpa), pages_of(pages.size));
        gpa_space_wrote(space, gpa, size);
    }
    gpa_space_read_end(space);
    return status;
}
