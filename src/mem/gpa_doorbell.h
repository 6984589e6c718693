/*
 * Doorbells: guest stores that signal an event instead of leaving the processor.
 *
 * The page of a doorbell counts as unmapped while the doorbell is there: gpa_space_find shows a hole, whatever is mapped or
 * gets mapped; so every access to it comes to the engine, which asks here whether a store rings. The mapping itself stays
 * and serves again when the page's last doorbell is gone.
 *
 * Threads: gpa_doorbell_ring as gpa_space_find; the others any thread but a running processor.
 */
#ifndef OWHP_MEM_GPA_DOORBELL_H
#define OWHP_MEM_GPA_DOORBELL_H

#include "mem/gpa_space.h"

/* Which stores ring. */
struct gpa_doorbell {
    gpa_t gpa;
    uint64_t value;    /* 0 unless match_value */
    uint32_t length;   /* bytes: 1, 2, 4 or 8, for stores of that length only; 0: of any */
    bool match_value;  /* only stores of this value; needs a length */
};

/*
 * event: an eventfd, which stays the caller's. *id: a number for gpa_doorbell_delete, never 0 nor given twice.
 * STATUS_INVALID_ARGUMENT      beyond the space; across pages; a value too large for the length
 * STATUS_HV_INVALID_PARAMETER  another doorbell at this address rings for the same stores, for stores of another length, or
 *                              one of the two for any value
 * STATUS_BAD_HANDLE            not an eventfd
 * STATUS_NO_MEMORY
 */
must_check enum status gpa_doorbell_create(struct gpa_space *space, const struct gpa_doorbell *doorbell, int event,
                                           uint64_t *id);

/* STATUS_NOT_FOUND */
must_check enum status gpa_doorbell_delete(struct gpa_space *space, uint64_t id);

/* The doorbell that rings for just these stores. STATUS_NOT_FOUND */
must_check enum status gpa_doorbell_find(struct gpa_space *space, const struct gpa_doorbell *doorbell, uint64_t *id);

/* Is there a doorbell of this number? */
bool gpa_doorbell_exists(struct gpa_space *space, uint64_t id);

/* A store of size bytes: signal the doorbell that it rings. False: none. */
bool gpa_doorbell_ring(const struct gpa_space *space, gpa_t gpa, const void *data, unsigned size);

#endif
