/*
 * Snapshots of the memory of a space: the content of all mapped pages, and which pages may have changed since. Restoring
 * costs what changed. The design is in docs/snapshot.md.
 *
 * Threads: the functions of one space are called by one thread at a time, while no processor runs; others may read, write,
 * map and mark meanwhile. What the caller's threads store through their own pointers meanwhile is there or not.
 */
#ifndef OWHP_MEM_GPA_SNAPSHOT_H
#define OWHP_MEM_GPA_SNAPSHOT_H

#include "mem/extent_tree.h"
#include "mem/gpa_space.h"
#include "mem/page_store.h"

/* A run of pages that were mapped alike. */
struct gpa_snapshot_range {
    gpa_t gpa;
    uint64_t size;
    uint64_t target; /* as in struct extent */
    uint32_t owner, flags;
    bool is_current; /* gpa_snapshot_adopt: the memory has the store's content already */
    struct page_store store;
};

/* Where memory of a snapshot is: host addresses of an owner, or bytes of a file (device, inode). */
struct gpa_snapshot_place {
    uint64_t of[2];      /* {owner, 0} or {device, inode} */
    uint64_t start, end; /* addresses or offsets */
    uint64_t farthest;   /* the greatest end of it and all before it of the same owner or file, in ascending order */
    gpa_t gpa;
};
struct gpa_snapshot_places {
    struct gpa_snapshot_place *array; /* ascending */
    size_t count, capacity;
};

struct gpa_snapshot {
    struct gpa_space *space; /* NULL: detached */
    uint32_t consumer;       /* whose dirty pages differ from the snapshot */
    uint64_t map_changes;    /* the space's, when the mappings were last seen to be those of the snapshot */
    struct gpa_snapshot *parent; /* where pages are that this one does not have; has a reference */
    _Atomic uint32_t references; /* owner and children */
    uint32_t depth;
    struct extent_tree unread; /* pages that could not be read: they count as zeros, but are not */
    bool is_no_base;           /* not all of those are in it */
    bool is_unaliased; /* no page of memory is at two guest addresses; false: not known */
    size_t count;
    struct gpa_snapshot_range *ranges; /* ascending */
    struct gpa_snapshot_places targets; /* the same by owner and target; empty: not needed yet */
    struct gpa_snapshot_places files;   /* and what of it is a file's, shared; a parent's are the children's */
    struct gpa_snapshot_places copies;  /* private, and a file's until it is written; likewise */
    bool files_unknown;                 /* the host did not tell all of them */
    bool files_overlap;                 /* a piece of a file is there twice, and shared */
    struct page_room room; /* of their stores */
};

/*
 * Take one. `like` (may be NULL): an earlier one of the same space; if the mappings are still the same, only what differs
 * from it is copied.
 * Host memory that is not there counts as zeros; the next one looks again. STATUS_NO_MEMORY
 */
must_check enum status gpa_snapshot_create(struct gpa_space *space, struct gpa_snapshot *like, struct gpa_snapshot **out);

/* Its space goes away: it can be read from now on, and destroyed. */
void gpa_snapshot_detach(struct gpa_snapshot *snapshot);
/* Detaches, too. NULL: nothing. */
void gpa_snapshot_destroy(struct gpa_snapshot *snapshot);

/*
 * Make the memory what it was. *pages: how many were written.
 * remap: map what is not mapped as it was, and unmap what was not mapped. Without it:
 * STATUS_GPA_RANGE_NOT_FOUND  the mappings differ; nothing has changed
 * STATUS_NO_MEMORY            remap; mappings may have been changed, nothing else
 * STATUS_ACCESS_DENIED        host memory of a page is missing, or protected and not what it was (named in the text); all others
 *                             are restored
 */
must_check enum status gpa_snapshot_restore(struct gpa_snapshot *snapshot, bool remap, uint64_t *pages);

/* How the space is mapped from gpa on: *range without its store, up to `end` at most; target 0: not mapped. */
void gpa_snapshot_piece(struct gpa_space *space, gpa_t gpa, gpa_t end, struct gpa_snapshot_range *range);

/* One whose pages come from elsewhere (a file): `ranges`, an allocated array with stores, and their room become its, whatever
 * happens. What is mapped was, a moment ago, what they say; but for those that are current all their memory counts as changed.
 * STATUS_NO_MEMORY
 * STATUS_GPA_RANGE_NOT_FOUND  memory of another process is not mapped there any more */
must_check enum status gpa_snapshot_adopt(struct gpa_space *space, struct gpa_snapshot_range *ranges, size_t count,
                                          struct page_room *room, struct gpa_snapshot **out);

/* Pages of the space that would be written now (0 if detached), and pages held. */
uint64_t gpa_snapshot_changed(const struct gpa_snapshot *snapshot);
uint64_t gpa_snapshot_held(const struct gpa_snapshot *snapshot);

#endif
