/*
 * Memory of other processes in a space. A source is where a run of guest pages comes from: shared memory of a process, seen
 * through a mapping of our own (then the pages are plain host memory to everybody), or memory that is reached by copying
 * (then gpa_view.source is set, and the view's host addresses are addresses over there).
 *
 * A source lives as long as pages of it are mapped. What changes sources does so under the space's `change`.
 */
#ifndef OWHP_MEM_PROCESS_SOURCE_H
#define OWHP_MEM_PROCESS_SOURCE_H

#include "mem/gpa_space.h"

/*
 * Map memory of another process; mapping->host is an address over there. As gpa_space_map, page by page: what the process
 * maps shared is mapped here too and stays live, whatever else is there, or is not there, is reached by copying when it is
 * accessed. Our own process: plain memory.
 * STATUS_NOT_SUPPORTED  part of the range can only be reached by copying, and may_copy is false
 * STATUS_ACCESS_DENIED  the process has ended
 * and those of gpa_space_map.
 */
must_check enum status gpa_space_map_process(struct gpa_space *space, const struct gpa_mapping *mapping,
                                             struct process *process, bool may_copy);

/* Copy from or to a view with a source, inside one mapping. True: all of it was. A write does not mark the page. */
must_check bool gpa_source_read(const struct gpa_view *view, gpa_t gpa, void *to, uint64_t size);
must_check bool gpa_source_write(const struct gpa_view *view, gpa_t gpa, const void *from, uint64_t size);

/* How many bytes from gpa on, at most size, can be read or also written, without doing so. */
uint64_t gpa_source_probe(const struct gpa_view *view, gpa_t gpa, uint64_t size, bool write);

/* Store `desired` if the entry of 4 or 8 bytes is `expected`; *done tells. Nobody who writes through sources of this process
 * comes between. False: the memory is not there. */
must_check bool gpa_source_exchange(const struct gpa_view *view, gpa_t gpa, unsigned size, uint64_t expected,
                                    uint64_t desired, bool *done);

/* How many bytes of the range, which a copied mapping covers (else 0), are in memory over there. */
uint64_t gpa_space_resident_copied(struct gpa_space *space, gpa_t gpa, uint64_t size);

#endif
