/* The sources of a space (process_source.h), for the files of this directory only. All but gpa_sources_of: under `change`. */
#ifndef OWHP_MEM_GPA_SOURCES_H
#define OWHP_MEM_GPA_SOURCES_H

#include "mem/gpa_space_state.h"
#include "mem/process_source.h"
#include "os/process_view.h"

struct process_source {
    struct process *process;
    struct process_view *view; /* NULL: reached by copying */
    uint64_t pages;            /* mapped; under `change` */
    uint32_t owner;            /* in extents; fixed */
};

/* By the owner of an extent; NULL for 0. */
struct process_source *gpa_sources_of(const struct gpa_space *space, uint32_t owner);

/* What is mapped in the range is about to be replaced. */
void gpa_sources_forget(struct gpa_space *space, struct gpa_range range);

/* Drop the sources without pages; after the change was released. */
void gpa_sources_sweep(struct gpa_space *space);

void gpa_sources_fini(struct gpa_space *space);

#endif
