/*
 * Advice about guest memory: bring it in (populate), keep it in (pin), give it back (discard).
 * Populate and pins do not stop processors.
 */
#ifndef OWHP_MEM_GPA_ADVISE_H
#define OWHP_MEM_GPA_ADVISE_H

#include "mem/gpa_space.h"

/* The numbers are the API's. */
enum {
    GPA_POPULATE_PREFETCH = 1,          /* only a hint: memory that cannot be had is not an error */
    GPA_POPULATE_AVOID_HARD_FAULTS = 2, /* nothing that has to be read from a disk */
    GPA_POPULATE_ALL_FLAGS = 3,
};

/*
 * Make the host pages behind the range (any alignment, rounded outwards) resident, for the given
 * access: for a write also private, so that the first store does not fault.
 * Large ranges are populated by several threads; for writing, private memory gets huge pages where
 * it holds whole ones and the host has some.
 * STATUS_INVALID_ARGUMENT     size 0, beyond the space, unknown flags or access
 * STATUS_GPA_RANGE_NOT_FOUND  part of the range is not mapped; nothing done
 * STATUS_ACCESS_DENIED        a mapping forbids the access; nothing done. Or host memory is missing
 *                             or protected: pages before the one named in the text are populated,
 *                             later ones perhaps
 */
must_check enum status gpa_space_populate(struct gpa_space *space, struct gpa_range range,
                                          enum gpa_access access, uint32_t flags);

/*
 * Pin: the pages become resident and stay so until as many unpins, an unmap or a replacing map.
 * Counts are kept per guest page; host pages shared by several guest pages or partitions stay
 * locked until the last is unpinned.
 * STATUS_INVALID_ARGUMENT     alignment, size 0, beyond the space; unpin: some page has no pin
 * STATUS_GPA_RANGE_NOT_FOUND  part of the range is not mapped
 * STATUS_NO_MEMORY            the host refuses to lock (the text names the limit); nothing pinned
 * STATUS_ACCESS_DENIED        host memory is missing or protected; nothing pinned
 * STATUS_NOT_SUPPORTED        memory of another process that is reached by copying; nothing pinned
 */
must_check enum status gpa_space_pin(struct gpa_space *space, gpa_t gpa, uint64_t size);
must_check enum status gpa_space_unpin(struct gpa_space *space, gpa_t gpa, uint64_t size);

/*
 * Discard: the host takes the pages back, and who touches them next finds zeros: processors, this process, and whoever shares
 * the memory. The pages become dirty. When the call returns no processor sees old bytes.
 * STATUS_INVALID_ARGUMENT     alignment, size 0, beyond the space
 * STATUS_GPA_RANGE_NOT_FOUND  part of the range is not mapped
 * STATUS_ACCESS_DENIED        a page is pinned; its host memory is missing
 * STATUS_NOT_SUPPORTED        a page is of a kind that cannot be discarded: a private mapping of a file, a read-only shared
 *                             one, private memory of another process
 * Nothing has been done then, unless the host itself refuses (a file system without holes, memory that somebody else has
 * locked): STATUS_NOT_SUPPORTED, and pages before the ones named in the text are discarded.
 */
must_check enum status gpa_space_discard(struct gpa_space *space, gpa_t gpa, uint64_t size);

/* The number of 4 KiB guest pages with at least one pin. */
uint64_t gpa_space_pinned_pages(struct gpa_space *space);

/* The same in a range; 0 for a bad one. */
uint64_t gpa_space_pinned_in(struct gpa_space *space, gpa_t gpa, uint64_t size);

#endif
