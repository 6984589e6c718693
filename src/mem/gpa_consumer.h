/*
 * Consumers of dirty pages: any number of independent readers of one space (the WHP call, a display, a snapshot, a
 * migration). Each sees every page that was dirtied since it last took it, whatever the others take. Consumer 0 always
 * exists; it is that of gpa_space_query_dirty, over the whole space.
 *
 * All calls: any thread, any time. How it works: gpa_consumer.c.
 */
#ifndef OWHP_MEM_GPA_CONSUMER_H
#define OWHP_MEM_GPA_CONSUMER_H

#include "mem/gpa_space.h"

enum { GPA_CONSUMER_FIRST = 0 };

/* Flags of a consumer; the numbers are the API's. */
enum {
    GPA_CONSUMER_UNTRACKED = 1, /* also pages that are mapped without GPA_TRACK_DIRTY; holes in a queried range are clean */
    GPA_CONSUMER_KEEP = 2,      /* only with that: what was dirtied stays so when the page is unmapped or replaced */
    GPA_CONSUMER_ALL_FLAGS = 3,
    GPA_CONSUMER_REPLACED = 0x100, /* not for clients: pages that were mapped, replaced or unmapped are dirty */
};

/*
 * A new consumer of a range, which begins clean.
 * STATUS_INVALID_ARGUMENT  alignment, size 0, beyond the space; unknown flags; KEEP without UNTRACKED
 * STATUS_NO_MEMORY
 */
must_check enum status gpa_consumer_create(struct gpa_space *space, struct gpa_range range, uint32_t flags, uint32_t *id);

/* STATUS_NOT_FOUND: no such consumer. STATUS_INVALID_ARGUMENT: it is the first. */
must_check enum status gpa_consumer_destroy(struct gpa_space *space, uint32_t id);

/* STATUS_NOT_FOUND: no such consumer. */
must_check enum status gpa_consumer_range(struct gpa_space *space, uint32_t id, struct gpa_range *range);

enum {
    GPA_QUERY_PEEK = 1,     /* do not clear, and do not stop processors */
    GPA_QUERY_REWRITES = 2, /* gpa_consumer_visit: the sink changes the pages it is told, so the other consumers see them dirty */
};

struct gpa_dirty_query {
    uint32_t consumer;
    uint32_t flags; /* GPA_QUERY_* */
    struct gpa_range range;
};

/*
 * The dirty pages of the range as a bitmap, as gpa_space_query_dirty has it; *count (may be NULL) receives their number.
 * STATUS_NOT_FOUND            no such consumer
 * STATUS_INVALID_ARGUMENT     the range is not in the consumer's; and as gpa_space_query_dirty
 * STATUS_GPA_RANGE_NOT_FOUND  part of the range is not tracked (not with GPA_CONSUMER_UNTRACKED)
 * STATUS_INSUFFICIENT_BUFFER, STATUS_BAD_POINTER
 */
must_check enum status gpa_consumer_bitmap(struct gpa_space *space, const struct gpa_dirty_query *query, uint64_t *bitmap,
                                           size_t bitmap_bytes, uint64_t *count);

/* A caller's array of ranges. */
struct gpa_dirty_list {
    struct gpa_range *array; /* the caller's memory */
    size_t capacity;         /* at least 1 */
    size_t count;            /* out: how many were stored */
    bool more;               /* out: the array was full before the end of the range */
};

/*
 * The dirty pages of the range as ranges: ascending, neighbours joined. Those that found no room stay dirty.
 * As gpa_consumer_bitmap; STATUS_INVALID_ARGUMENT also: capacity 0.
 */
must_check enum status gpa_consumer_list(struct gpa_space *space, const struct gpa_dirty_query *query,
                                         struct gpa_dirty_list *list);

/*
 * Take the dirty pages of the range with all processors held and everybody else locked out (unless nothing is dirty): the
 * sink may do with the memory what it likes. It must not call the space, but for gpa_space_find and gpa_space_wrote.
 * As gpa_consumer_bitmap; STATUS_INVALID_ARGUMENT also: GPA_QUERY_PEEK.
 */
must_check enum status gpa_consumer_visit(struct gpa_space *space, const struct gpa_dirty_query *query, gpa_dirty_sink *sink,
                                          void *ctx);

/*
 * Switch the dirty tracking of mapped pages on or off, processors running. Pages begin clean; switched off, what was
 * dirty is forgotten. Consumers with GPA_CONSUMER_UNTRACKED notice nothing.
 * STATUS_INVALID_ARGUMENT     alignment, size 0, beyond the space
 * STATUS_GPA_RANGE_NOT_FOUND  a page is not mapped; nothing is changed
 * STATUS_NO_MEMORY
 */
must_check enum status gpa_space_set_tracking(struct gpa_space *space, struct gpa_range range, bool on);

#endif
