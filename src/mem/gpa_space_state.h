/*
 * The inside of struct gpa_space, for the files of this directory only.
 */
#ifndef OWHP_MEM_GPA_SPACE_STATE_H
#define OWHP_MEM_GPA_SPACE_STATE_H

#include "mem/extent_tree.h"
#include "mem/gpa_doorbell.h"
#include "mem/gpa_snapshot.h"
#include "mem/gpa_space.h"
#include "os/read_section.h"

#include <inttypes.h>
#include <pthread.h>

/* Where mappings of other processes' memory come from (gpa_sources.h). Written under `change`; entries of mapped owners, and
 * the array itself, only with processors held. */
struct gpa_sources {
    struct process_source **array; /* by owner - 1; some NULL */
    uint32_t count, capacity, live;
};

/* A reader of dirty pages (gpa_consumer.c). What is not said to change is fixed after create. */
struct gpa_consumer {
    struct gpa_consumer *next;
    uint32_t id, flags;
    struct gpa_range range;
    struct gpa_dirty *pending; /* bits change: dirty for this one, and no longer marked in space->dirty */
    struct extent_tree replaced; /* GPA_CONSUMER_REPLACED: ranges all of which count as dirty; under `change` */
    struct gpa_snapshot *snapshot; /* GPA_CONSUMER_REPLACED: whose it is, once there is one. Under `change` */
};

/* gpa_doorbell.c. Written like the mappings; in the order of their addresses. */
struct gpa_doorbell_entry {
    struct gpa_doorbell match;
    uint64_t id;
    int event; /* our descriptor */
};
struct gpa_doorbells {
    struct gpa_doorbell_entry *array;
    size_t count;
    uint64_t last_id;
};

struct gpa_space {
    gpa_t limit; /* fixed after create */

    /* Serializes everything that changes the space. Taken before any listener's
     * own locks. */
    pthread_mutex_t change;

    /* Keeps the mappings still for threads that are not processors. */
    struct read_gate *gate;

    /* Written with `change` held, `gate` closed and all processors held; so holding `change`, being in
     * a read section, or being a running processor is enough to read. Extents: target is the host address, owner the
     * source (gpa_sources.h) or 0, attributes the flags. */
    struct extent_tree mappings;
    uint64_t map_changes;    /* how often the mappings were changed */
    struct gpa_dirty *dirty; /* what processors mark */
    struct gpa_sources sources;
    struct gpa_doorbells doorbells;

    /* Written like the mappings. The first is always there. */
    struct gpa_consumer *consumers;
    uint32_t last_consumer;
    uint32_t record_all; /* consumers of untracked pages: every page is recorded */

    /* Pins per guest page, under `change`: target is the host address that was locked, attributes
     * the number of pins. */
    struct extent_tree pins;

    struct gpa_listener *listeners; /* written under `change` with `gate` closed */
};

/* Does a listener's record lag behind its processors? Under `change` or in a read section. */
static inline bool gpa_space_marks_late(const struct gpa_space *space)
{
    for (const struct gpa_listener *l = space->listeners; l; l = l->next)
        if (l->marks_late)
            return true;
    return false;
}

/* Such processors have marked when they have been held. Under `change`, before a look at the record without holding them. */
void gpa_space_bring_in_marks(struct gpa_space *space);

/* How every complaint about a range begins; takes gpa and size. */
#define RANGE_FORMAT "guest range at 0x%" PRIx64 ", size 0x%" PRIx64 ": "

/* The rules for every range that must consist of whole pages of the space. */
must_check enum status gpa_space_check_pages(const struct gpa_space *space, gpa_t gpa,
                                             uint64_t size);
/* And for those of any alignment. */
must_check enum status gpa_space_check_bytes(const struct gpa_space *space, gpa_t gpa,
                                             uint64_t size);

/* Those for a new mapping, but for its source. */
must_check enum status gpa_space_check_mapping(const struct gpa_space *space, const struct gpa_mapping *mapping);

/* Replace what is in the range by pieces that fill it, of equal flags; by nothing (count 0). Under `change`.
 * STATUS_NO_MEMORY */
must_check enum status gpa_space_replace(struct gpa_space *space, struct gpa_range range, const struct extent *pieces,
                                         size_t count);

/* The source of an owner that is not 0, if it is reached by copying. */
struct process_source *gpa_space_copied(const struct gpa_space *space, uint32_t owner);

/* gpa_space_find as if there were no doorbells: for what is about the memory and not about accesses. */
bool gpa_space_find_mapped(const struct gpa_space *space, gpa_t gpa, struct gpa_view *view);

/* The bytes from start on that are mapped without a hole, with all of the flags (0: any); no more
 * than size. Under `change` or in a read section. */
uint64_t gpa_space_covered(const struct gpa_space *space, gpa_t start, uint64_t size,
                           uint32_t flags);

/* Between these nothing but the caller touches the space. Under `change`. */
void gpa_space_hold(struct gpa_space *space);
void gpa_space_release(struct gpa_space *space, const struct gpa_change *change);

/* gpa_access.c: how many bytes of host memory from start on can be loaded (or also stored to), at
 * most size; tried page by page, nothing changes. */
uint64_t gpa_probe_host(uint8_t *start, uint64_t size, bool write);

/* gpa_advise.c: get the memory to drop the pins of a range; drop them. Under `change`. */
must_check bool gpa_pins_reserve_drop(struct gpa_space *space);
void gpa_pins_drop(struct gpa_space *space, gpa_t gpa, uint64_t size);

/* gpa_doorbell.c: what the doorbells leave of the view that contains gpa, where there are any. */
void gpa_doorbells_hide(const struct gpa_space *space, gpa_t gpa, struct gpa_view *view);
void gpa_doorbells_fini(struct gpa_space *space);

/* ---- gpa_consumer.c ---- */

must_check bool gpa_consumers_init(struct gpa_space *space);
void gpa_consumers_fini(struct gpa_space *space);

/* Under `change` or in a read section. */
struct gpa_consumer *gpa_consumer_find(const struct gpa_space *space, uint32_t id);

/* Get the memory to mark the pages of a range that is to be mapped with these flags. Under `change`. */
must_check bool gpa_consumers_cover(struct gpa_space *space, struct gpa_range range, uint32_t flags);

/* The pages of the range are others now: nothing of them is dirty but for consumers with one of the flags `keepers`.
 * Processors are held. */
void gpa_consumers_forget(struct gpa_space *space, struct gpa_range range, uint32_t keepers);

/* All pages of the range that the consumer is told of are dirty, for all consumers. Under `change`. */
void gpa_consumer_mark_all(struct gpa_space *space, const struct gpa_consumer *consumer, struct gpa_range range);

/* A gpa_dirty_sink: the pages are dirty for all consumers but one. Its context. Under `change`. */
struct gpa_consumers {
    struct gpa_space *space;
    const struct gpa_consumer *except;
};
bool gpa_consumers_give(void *ctx, const struct gpa_dirty_bits *words, size_t count);

/* Empty the processors' record of a range: it is dirty for the consumers, but for one (or none). Processors are held. */
void gpa_consumers_hand_on(struct gpa_space *space, struct gpa_range range, const struct gpa_consumer *except);

/* ---- gpa_snapshot_alias.c ---- */

/* What files the memory is of that is to be mapped, as far as it matters to a snapshot. */
struct gpa_mapped_files {
    struct gpa_snapshot_places places;
    bool unknown, no_memory;
};

/* Pieces are to be mapped: get the memory, and the files, to tell whose snapshots have their memory elsewhere. The caller frees
 * files->places.array. Under `change`. */
must_check bool gpa_consumers_expect_mapped(struct gpa_space *space, const struct extent *pieces, size_t count,
                                            struct gpa_mapped_files *files);
/* They are mapped: pages of snapshots that can be stored to through them, without a mark at their own addresses, are dirty for
 * the snapshots' consumers. Processors are held. */
void gpa_consumers_mapped(struct gpa_space *space, const struct extent *pieces, size_t count,
                          const struct gpa_mapped_files *files);

/* ---- gpa_replaced.c. Processors are held ---- */

/* The pages of the range were mapped, replaced or unmapped: dirty for consumers that want to know. */
void gpa_consumers_replaced(struct gpa_space *space, struct gpa_range range);

/* All of the range is dirty for one such consumer; is a page part of such a range? */
void gpa_consumer_note(struct gpa_consumer *consumer, struct gpa_range range);
bool gpa_consumer_is_noted(const struct gpa_consumer *consumer, gpa_t gpa);

/* In its noted ranges nothing is marked any more for this consumer, and the others were told of what was. */
void gpa_consumer_settle_noted(struct gpa_space *space, struct gpa_consumer *consumer);

/* All of the range is dirty, for all consumers but one. */
void gpa_consumers_wrote(struct gpa_space *space, const struct gpa_consumer *except, struct gpa_range range);

static inline struct gpa_view gpa_view_of(const struct gpa_space *space,
                                          const struct extent *extent)
{
    uint32_t flags = extent->attributes;
    return (struct gpa_view){
        .gpa = extent->start,
        .size = extent->size,
        .host = (uint8_t *)(uintptr_t)extent->target,
        .flags = flags,
        .dirty = flags & GPA_TRACK_DIRTY || unlikely(space->record_all && extent->target) ? space->dirty : NULL,
        .source = unlikely(extent->owner) ? gpa_space_copied(space, extent->owner) : NULL,
    };
}

#endif
