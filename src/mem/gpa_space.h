/*
 * The guest physical address space of one partition: which host memory backs which guest pages,
 * with which rights, and which of them were written. The essay in gpa_space.c explains the parts
 * and the change protocol; docs/memory.md is the overview.
 *
 * Units: addresses and sizes are bytes; ranges are half-open. Every status that is not STATUS_OK
 * has a text in util/last_error.h that names the address, the size and the rule, and leaves
 * everything as it was.
 *
 * Who may call what:
 *   running processors   gpa_space_find, gpa_view_mark_dirty, without any lock (the change protocol
 *                        keeps the space still while they run);
 *   any other thread     everything else, at any time; gpa_space_find only between
 *                        gpa_space_read_begin and gpa_space_read_end.
 */
#ifndef OWHP_MEM_GPA_SPACE_H
#define OWHP_MEM_GPA_SPACE_H

#include "mem/gpa_dirty.h"
#include "mem/gpa_range.h"
#include "util/compiler.h"
#include "util/status.h"
#include "util/types.h"

struct gpa_space;
struct process;        /* os/process.h */
struct process_source; /* memory of another process: mem/process_source.h */

/* Rights of a mapping; the numbers are the API's. */
enum {
    GPA_READ = 1,
    GPA_WRITE = 2,
    GPA_EXECUTE = 4,
    GPA_TRACK_DIRTY = 8,
    GPA_ALL_FLAGS = 15,
};

/* The kind of an access; the numbers are the API's. */
enum gpa_access { GPA_ACCESS_READ, GPA_ACCESS_WRITE, GPA_ACCESS_EXECUTE };

/* The right that an access needs. */
static inline uint32_t gpa_access_right(enum gpa_access access)
{
    return 1u << access;
}

/* ---- life ---- */

/* An empty space of 2^physical_address_bits bytes (at least 32 bits, at most 52: SDM vol. 3A
 * 4.1.4). NULL when there is no memory or the width is out of bounds. */
struct gpa_space *gpa_space_create(unsigned physical_address_bits);

/* Drops all mappings and pins. No processor runs, no listener is left, no call is in progress. */
void gpa_space_destroy(struct gpa_space *space);

/* The first address beyond the space: 2^physical_address_bits. */
gpa_t gpa_space_limit(const struct gpa_space *space);

/* ---- mapping ---- */

/* Whose memory a mapping is; the numbers are the API's. */
enum gpa_from {
    GPA_FROM_SELF,
    GPA_FROM_SHARED, /* of another process, which shares it */
    GPA_FROM_COPIED, /* of another process, reached by copying */
};

struct gpa_mapping {
    gpa_t gpa;
    uint64_t size;
    void *host; /* page aligned, in the process it belongs to; the space neither owns, touches, faults in nor pins it */
    uint32_t flags;
    /* Told by gpa_space_list; what is mapped is memory of this process, or given by gpa_space_map_process. */
    enum gpa_from from;
    uint32_t process_id; /* 0: this process */
    void *local;         /* where it is in this process; NULL: it is not */
};

/*
 * Map, replacing page by page what was there. A running processor sees the old or the new mapping
 * of a page, never a hole; when the call returns nobody touches replaced memory any more. Pending
 * dirty bits and pins of replaced pages are gone. Whether the host memory exists does not matter
 * here.
 * STATUS_INVALID_ARGUMENT  gpa, size or host not page aligned; size 0; gpa + size beyond the space
 *                          or host + size wrapping; host NULL; unknown flags; write or execute
 *                          without read; write and execute without read
 * STATUS_NO_MEMORY
 */
must_check enum status gpa_space_map(struct gpa_space *space, const struct gpa_mapping *mapping);

/*
 * Unmap whatever is mapped in the range; unmapping nothing is a success. When it returns nobody
 * touches the memory any more: the caller may free it.
 * STATUS_INVALID_ARGUMENT  alignment, size 0, beyond the space
 * STATUS_NO_MEMORY         a mapping had to be split
 */
must_check enum status gpa_space_unmap(struct gpa_space *space, gpa_t gpa, uint64_t size);

/*
 * The mapped ranges from the first one that ends above `from`, in ascending order, as one
 * consistent picture; adjacent mappings that continue each other in host memory with the same flags
 * are one. Returns how many were stored (at most capacity; fewer means the end was reached).
 */
size_t gpa_space_list(struct gpa_space *space, gpa_t from, struct gpa_mapping *array,
                      size_t capacity);

/* The number of 4 KiB pages mapped, and of ranges as gpa_space_list counts them. */
uint64_t gpa_space_mapped_pages(struct gpa_space *space);
uint64_t gpa_space_range_count(struct gpa_space *space);

/* ---- lookup ---- */

/* A piece of the space in which guest and host addresses run in parallel. A copy is valid until the
 * next change that touches its range is released (struct gpa_listener). */
struct gpa_view {
    gpa_t gpa;     /* page aligned; the view holds x if x - gpa < size */
    uint64_t size; /* of the mapping, or of the hole when nothing is mapped */
    uint8_t *host; /* host address of gpa; NULL in a hole */
    uint32_t flags;
    struct gpa_dirty *dirty; /* NULL: writes need not be recorded */
    struct process_source *source; /* not NULL: host is an address of another process, reached by copying */
};

/*
 * The mapping that contains gpa. False when nothing is mapped there: the view is then the hole
 * around gpa (flags 0, host NULL), so that it may be cached like a mapping. The host memory behind
 * a view may be absent or protected at any moment: access it through os/guarded.h or an equivalent.
 */
bool gpa_space_find(const struct gpa_space *space, gpa_t gpa, struct gpa_view *view);

/* The host address of gpa, which lies in the mapped view. */
static inline uint8_t *gpa_view_host(const struct gpa_view *view, gpa_t gpa)
{
    return view->host + (gpa - view->gpa);
}

/*
 * Where the memory behind gpa is, as a number: the same for all guest addresses that are mapped to it, so that what is known of
 * memory can be found by any of them. Memory of several processes may share a number.
 */
static inline uint64_t gpa_view_place(const struct gpa_view *view, gpa_t gpa)
{
    return (uintptr_t)gpa_view_host(view, gpa) + ((uint64_t)(uintptr_t)view->source << PAGE_SHIFT);
}

/*
 * Record that the page of gpa is about to be written; before the store, and before a write-TLB
 * entry for the page exists (invariant W, gpa_dirty.c). Tests first, so marking a marked page only
 * reads.
 */
static inline void gpa_view_mark_dirty(const struct gpa_view *view, gpa_t gpa)
{
    if (view->dirty)
        gpa_dirty_mark(view->dirty, gpa >> PAGE_SHIFT);
}

/* Readers that are not processors. Short, not nested; no gpa_space_* call but gpa_space_find and
 * the ones whose contract says "inside a read section". */
void gpa_space_read_begin(struct gpa_space *space);
void gpa_space_read_end(struct gpa_space *space);

/* ---- the change protocol ---- */

enum gpa_change_kind {
    GPA_CHANGE_MAP,         /* mapped or replaced: forget everything derived from the range */
    GPA_CHANGE_UNMAP,       /* likewise */
    GPA_CHANGE_DIRTY_CLEAR, /* dirty bits were cleared: forget write permission only */
};

struct gpa_change {
    enum gpa_change_kind kind;
    struct gpa_range range; /* whole pages */
};

/*
 * Somebody whose processors use the space. The functions are called by the thread that changes the
 * space, one change at a time, and must not call back into the space.
 */
struct gpa_listener {
    /* Bring every running processor to a safe point and keep it there (one that does not run counts
     * as safe, and must not start to run). Returns when all are. Cannot fail. */
    void (*hold)(void *ctx);
    /* The change is done: drop what was derived from the range (TLB entries, cached views, decoded
     * code), then let the processors go. Called once for every hold; change is NULL when in the end
     * nothing was changed. */
    void (*release)(void *ctx, const struct gpa_change *change);
    /* A thread that is not a processor wrote `size` bytes of guest memory, in one mapping, at this place (gpa_view_place):
     * decoded code of it is stale, wherever it is mapped. May be NULL. Called by any thread, several at a time,
     * processors running; it must not wait for a processor. */
    void (*wrote)(void *ctx, uint64_t place, uint64_t size);
    void *ctx;
    struct gpa_listener *next; /* the space's */
    /* Its processors mark pages only when they come to a safe point: who wants to know has to hold them. */
    bool marks_late;
};

/* The listener is the caller's and stays until it is removed. While either call runs, its
 * processors do not run. */
void gpa_space_add_listener(struct gpa_space *space, struct gpa_listener *listener);
void gpa_space_remove_listener(struct gpa_space *space, struct gpa_listener *listener);

/* Tell the listeners of a write to one mapping. In a read section, or for a sink while processors are held. */
void gpa_space_wrote(const struct gpa_space *space, uint64_t place, uint64_t size);

/* ---- dirty pages ---- */

/*
 * Read and clear the dirty bits of a range. Page i of the range is bit i % 64 of bitmap[i / 64];
 * every word that covers the range is written, bits past its end are zero, words beyond it are left
 * alone. bitmap_bytes 0: clear only (bitmap may be anything). The cost follows the dirty pages, not
 * the size (but for zeroing the bitmap). Clean ranges do not disturb processors.
 * STATUS_INVALID_ARGUMENT     alignment, size 0, beyond the space; bitmap NULL or not 8-byte
 *                             aligned
 * STATUS_GPA_RANGE_NOT_FOUND  part of the range is unmapped or not tracked
 * STATUS_INSUFFICIENT_BUFFER  bitmap_bytes is less than 8 bytes for each 64 pages begun
 * STATUS_BAD_POINTER          the bitmap is not writable memory
 */
must_check enum status gpa_space_query_dirty(struct gpa_space *space, gpa_t gpa, uint64_t size,
                                             uint64_t *bitmap, size_t bitmap_bytes);

/* The same without clearing: processors are not stopped, so stores in progress may or may not be
 * seen; those finished before the call are. count (may be NULL) receives the number of pages. */
must_check enum status gpa_space_peek_dirty(struct gpa_space *space, gpa_t gpa, uint64_t size,
                                            uint64_t *bitmap, size_t bitmap_bytes, uint64_t *count);

/*
 * The host stored through its own pointer: mark the pages that the range touches (any alignment).
 * Notifies as a write does.
 * STATUS_INVALID_ARGUMENT     size 0, beyond the space
 * STATUS_GPA_RANGE_NOT_FOUND  part of the pages is unmapped, or not tracked while no
 *                             consumer sees untracked ones (gpa_consumer.h); nothing marked
 */
must_check enum status gpa_space_mark_dirty(struct gpa_space *space, gpa_t gpa, uint64_t size);

#endif
