/*
 * Pins.
 *
 * They are counted per guest page (space->pins) and, because guest pages may share a host page,
 * again per host page (host_pins.c).
 */
#include "mem/gpa_advise.h"

#include "mem/gpa_space_state.h"
#include "mem/host_pins.h"
#include "util/last_error.h"

static uint32_t one_less(uint32_t count, uint32_t unused)
{
    (void)unused;
    return count - 1;
}

/* Take one pin off every page between. All are pinned, the memory for one change is reserved. */
static void drop_one(struct gpa_space *space, gpa_t from, gpa_t end)
{
    struct extent piece;
    if (from == end)
        return;
    for (gpa_t at = from; at < end; at += piece.size) {
        piece = extent_tree_piece(&space->pins, at, end);
        host_pins_drop(piece.target, piece.size);
    }
    extent_tree_update(&space->pins, from, end - from, one_less, 0);
    for (gpa_t at = from; at < end; at += piece.size) {
        piece = extent_tree_piece(&space->pins, at, end);
        if (piece.attributes == 0)
            extent_tree_clear(&space->pins, at, piece.size); /* a whole one: needs no memory */
    }
}

/* Pin the pages up to the next change of count or mapping; advance. */
static enum status pin_piece(struct gpa_space *space, gpa_t *at, gpa_t end)
{
    struct extent mapped = extent_tree_piece(&space->mappings, *at, end);
    struct extent piece = extent_tree_piece(&space->pins, *at, mapped.start + mapped.size);
    if (mapped.owner && gpa_space_copied(space, mapped.owner))
        return fail(STATUS_NOT_SUPPORTED, "pin: the memory at 0x%" PRIx64 " is another process's", *at);
    if (!extent_tree_reserve(&space->pins, 2)) /* for this, and to take all of them back */
        return fail(STATUS_NO_MEMORY, "pin: no memory to record the pins");
    enum status status = host_pins_add(mapped.target, piece.size);
    if (status != STATUS_OK)
        return status;
    piece.target = mapped.target;
    piece.attributes++;
    extent_tree_set(&space->pins, &piece);
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
    if (!extent_tree_reserve(&space->pins, 1))
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
