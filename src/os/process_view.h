/*
 * Shared memory of another process, mapped here as well: the same pages, live in both directions.
 *
 * The view holds the memory, not the mapping over there: what the process unmaps or protects later stays as it is here.
 * When the process ends, its views become inaccessible (soon: a thread waits for it), as everything else of it does.
 */
#ifndef OWHP_OS_PROCESS_VIEW_H
#define OWHP_OS_PROCESS_VIEW_H

#include "os/process.h"

struct process_view;

/* Map the whole of a shared area with the rights it has. It holds a reference to the process. NULL: it cannot be had (no
 * file behind it that can be opened, no memory). */
must_check struct process_view *process_view_open(struct process *process, const struct process_area *area);
void process_view_close(struct process_view *view);

/* Is it a view of this area, of the same pages? */
bool process_view_is_of(const struct process_view *view, const struct process_area *area);

/* Where `address` of the process is here; and back. Both inside the area. */
void *process_view_local(const struct process_view *view, uint64_t address);
uint64_t process_view_remote(const struct process_view *view, const void *local);

#endif
