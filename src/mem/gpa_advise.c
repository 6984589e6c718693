/*
 * Advice: populate and pin.
 *
 * Populate works on one piece of host memory at a time, each in a read section of its own, so that
 * a change of the mappings waits for megabytes, not for terabytes, and so that memory is never
 * touched after an unmap returned. Where the kernel refuses a piece, the pages are tried one by
 * one: that finds the page to blame, and serves kernels before 5.14, which cannot populate.
 *
 * Pins are counted per guest page (space->pins) and, because guest pages may share a host page,
 * again per host page (host_pins.c).
 */
#include "mem/gpa_advise.h"

#include "mem/gpa_space_state.h"
#include "mem/host_pins.h"
#include "mem/process_source.h"
#include "util/last_error.h"

#include <sys/mman.h>

/* ---- populate ---- */

#define PIECE_BYTES ((uint64_t)8 << 20)

/* Populate host pages; returns how many bytes from host on were. */
static uint64_t populate_host(uint8_t *host, uint64_t size, bool write)
{
    if (madvise(host, size, write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0)
        return size;
    return gpa_probe_host(host, size, write);
}

/* The same for those pages that are in memory already, and only need to be entered in the page
 * tables. Others are left alone: not an error. */
static uint64_t populate_resident(uint8_t *host, uint64_t size, bool write)
{
    unsigned char resident[PIECE_BYTES / 4096];
    if (mincore(host, size, resident) != 0)
        return gpa_probe_host(host, size, write); /* something is missing: find out what */
    for (uint64_t at = 0; at < size; at += PAGE_SIZE)
        if (resident[at >> PAGE_SHIFT] & 1 && populate_host(host + at, PAGE_SIZE, write) == 0)
            return at;
    return size;
}

struct populate {
    struct gpa_space *space;
    struct gpa_range pages;
    uint32_t right;
    uint32_t flags;
};

/* Every page is mapped and allows the access. In a read section. */
static enum status check_populate(const struct populate *p, gpa_t at)
{
    uint64_t size = range_end(p->pages) - at;
    uint64_t mapped = gpa_space_covered(p->space, at, size, 0);
    if (mapped < size)
        return fail(STATUS_GPA_RANGE_NOT_FOUND,
                    RANGE_FORMAT "populate: the page at 0x%" PRIx64 " is not mapped", p->pages.gpa,
                    p->pages.size, at + mapped);
    uint64_t allowed = gpa_space_covered(p->space, at, size, p->right);
    if (allowed < size)
        return fail(STATUS_ACCESS_DENIED,
                    RANGE_FORMAT "populate: the mapping of the page at 0x%" PRIx64
                                 " forbids the access",
                    p->pages.gpa, p->pages.size, at + allowed);
    return STATUS_OK;
}

/* Populate the piece at *at and advance. The mappings may have changed since the last piece. */
static enum status populate_piece(const struct populate *p, gpa_t *at)
{
    enum status status = check_populate(p, *at);
    struct gpa_view view;
    if (status != STATUS_OK || !gpa_space_find(p->space, *at, &view))
        return status;

    struct gpa_range piece = range_intersect((struct gpa_range){view.gpa, view.size},
                                             (struct gpa_range){*at, range_end(p->pages) - *at});
    if (piece.size > PIECE_BYTES)
        piece.size = PIECE_BYTES;
    uint8_t *host = gpa_view_host(&view, *at);
    bool write = p->right == GPA_WRITE;
    uint64_t done = view.source ? gpa_source_probe(&view, *at, piece.size, write)
                    : p->flags & GPA_POPULATE_AVOID_HARD_FAULTS
                        ? populate_resident(host, piece.size, write)
                        : populate_host(host, piece.size, write);
    *at += piece.size;
    if (done == piece.size || p->flags & GPA_POPULATE_PREFETCH)
        return STATUS_OK;
    return fail(STATUS_ACCESS_DENIED,
                RANGE_FORMAT "populate: the host memory at %p is missing or protected",
                p->pages.gpa, p->pages.size, (void *)(host + done));
}

enum status gpa_space_populate(struct gpa_space *space, struct gpa_range range,
                               enum gpa_access access, uint32_t flags)
{
    enum status status = gpa_space_check_bytes(space, range.gpa, range.size);
    if (status != STATUS_OK)
        return status;
    if ((unsigned)access > GPA_ACCESS_EXECUTE || flags & ~(uint32_t)GPA_POPULATE_ALL_FLAGS)
        return fail(STATUS_INVALID_ARGUMENT, "populate: unknown access type %u or flags 0x%x",
                    (unsigned)access, flags);

    struct populate p = {space, range_round_out(range), gpa_access_right(access), flags};
    for (gpa_t at = p.pages.gpa; status == STATUS_OK && at < range_end(p.pages);) {
        gpa_space_read_begin(space);
        status = populate_piece(&p, &at);
        gpa_space_read_end(space);
    }
    return status;
}

/* ---- pin ---- */

/* What an entry of space->pins becomes when `by` is added to its count. */
static void add_to_count(struct gpa_space *space, struct extent piece, int by)
{
    piece.attributes += (uint32_t)by;
    if (piece.attributes)
        extent_tree_set(&space->pins, &piece);
    else
        extent_tree_clear(&space->pins, piece.start, piece.size);
}

/* Take one pin off every page between. All are pinned, the memory is reserved. */
static void drop_one(struct gpa_space *space, gpa_t from, gpa_t end)
{
    struct extent piece;
    for (gpa_t at = from; at < end; at += piece.size) {
        piece = extent_tree_piece(&space->pins, at, end);
        host_pins_drop(piece.target, piece.size);
        add_to_count(space, piece, -1);
    }
}

/* How many pieces of equal count and mapping the range has. */
static size_t count_pieces(const struct gpa_space *space, gpa_t gpa, gpa_t end)
{
    size_t count = 0;
    uint64_t step;
    for (gpa_t at = gpa; at < end; at += step, count++) {
        uint64_t pinned = extent_tree_piece(&space->pins, at, end).size;
        uint64_t mapped = extent_tree_piece(&space->mappings, at, end).size;
        step = pinned < mapped ? pinned : mapped;
    }
    return count;
}

/* Pin the pages up to the next change of count or mapping; advance. */
static enum status pin_piece(struct gpa_space *space, gpa_t *at, gpa_t end)
{
    struct extent mapped = extent_tree_piece(&space->mappings, *at, end);
    struct extent piece = extent_tree_piece(&space->pins, *at, mapped.start + mapped.size);
    if (mapped.owner && gpa_space_copied(space, mapped.owner))
        return fail(STATUS_NOT_SUPPORTED, "pin: the memory at 0x%" PRIx64 " is another process's", *at);
    enum status status = host_pins_add(mapped.target, piece.size);
    if (status != STATUS_OK)
        return status;
    piece.target = mapped.target;
    add_to_count(space, piece, 1);
    *at += piece.size;
    return STATUS_OK;
}

static enum status pin_all(struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    gpa_t at = gpa, end = gpa + size;
    uint64_t mapped = gpa_space_covered(space, gpa, size, 0);
    if (mapped < size)
        return fail(STATUS_GPA_RANGE_NOT_FOUND,
                    RANGE_FORMAT "pin: the page at 0x%" PRIx64 " is not mapped", gpa, size,
                    gpa + mapped);
    /* Twice: a failure half way takes the pins off again. */
    if (!extent_tree_reserve(&space->pins, 2 * count_pieces(space, gpa, end)))
        return fail(STATUS_NO_MEMORY, RANGE_FORMAT "pin: no memory to record the pins", gpa, size);
    while (at < end) {
        enum status status = pin_piece(space, &at, end);
        if (status != STATUS_OK) {
            drop_one(space, gpa, at);
            return status;
        }
    }
    return STATUS_OK;
}

/* The bytes from gpa on that are pinned without a gap. */
static uint64_t pinned_bytes(const struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    struct extent piece;
    gpa_t at = gpa, end = gpa + size;
    for (; at < end; at += piece.size) {
        piece = extent_tree_piece(&space->pins, at, end);
        if (piece.attributes == 0)
            break;
    }
    return at - gpa;
}

static enum status unpin_all(struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    uint64_t pinned = pinned_bytes(space, gpa, size);
    if (pinned < size)
        return fail(STATUS_INVALID_ARGUMENT,
                    RANGE_FORMAT "unpin: the page at 0x%" PRIx64 " is not pinned", gpa, size,
                    gpa + pinned);
    if (!extent_tree_reserve(&space->pins, count_pieces(space, gpa, gpa + size)))
        return fail(STATUS_NO_MEMORY, RANGE_FORMAT "unpin: no memory to record it", gpa, size);
    drop_one(space, gpa, gpa + size);
    return STATUS_OK;
}

/* What pin and unpin share: the argument rules, and `change`. */
static enum status change_pins(struct gpa_space *space, gpa_t gpa, uint64_t size,
                               enum status (*how)(struct gpa_space *, gpa_t, uint64_t))
{
    enum status status = gpa_space_check_pages(space, gpa, size);
    if (status != STATUS_OK)
        return status;
    pthread_mutex_lock(&space->change);
    status = how(space, gpa, size);
    extent_tree_trim(&space->pins);
    pthread_mutex_unlock(&space->change);
    return status;
}

enum status gpa_space_pin(struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    return change_pins(space, gpa, size, pin_all);
}

enum status gpa_space_unpin(struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    return change_pins(space, gpa, size, unpin_all);
}

uint64_t gpa_space_pinned_pages(struct gpa_space *space)
{
    pthread_mutex_lock(&space->change);
    uint64_t pages = pages_of(space->pins.total);
    pthread_mutex_unlock(&space->change);
    return pages;
}

uint64_t gpa_space_pinned_in(struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    struct extent piece;
    uint64_t bytes = 0;
    if (gpa_space_check_pages(space, gpa, size) != STATUS_OK)
        return 0;
    pthread_mutex_lock(&space->change);
    for (gpa_t at = gpa; at < gpa + size; at += piece.size) {
        piece = extent_tree_piece(&space->pins, at, gpa + size);
        bytes += piece.attributes ? piece.size : 0;
    }
    pthread_mutex_unlock(&space->change);
    return pages_of(bytes);
}

bool gpa_pins_reserve_drop(struct gpa_space *space)
{
    return space->pins.count == 0 || extent_tree_reserve(&space->pins, 1);
}

void gpa_pins_drop(struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    struct extent piece;
    gpa_t end = gpa + size;

    if (space->pins.count == 0)
        return;
    for (gpa_t at = gpa; at < end; at += piece.size) {
        piece = extent_tree_piece(&space->pins, at, end);
        for (uint32_t i = 0; i < piece.attributes; i++)
            host_pins_drop(piece.target, piece.size);
    }
    extent_tree_clear(&space->pins, gpa, size);
}
