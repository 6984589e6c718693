/*
 * Host pages locked in memory, counted for the whole process: mlock does not nest, but several
 * guest pages and partitions may share a host page. Thread safe.
 */
#ifndef OWHP_MEM_HOST_PINS_H
#define OWHP_MEM_HOST_PINS_H

#include "util/compiler.h"
#include "util/status.h"
#include "util/types.h"

/* Count one more pin on each page of [address, address + size), page aligned; the first makes the
 * page resident and locks it. All or nothing.
 * STATUS_NO_MEMORY      the host refuses to lock; the text names the limit
 * STATUS_ACCESS_DENIED  a page is missing or protected */
must_check enum status host_pins_add(uint64_t address, uint64_t size);

/* Count one less on each page, all of which are pinned; the last unlocks. Cannot fail: without
 * memory to split the record, pages stay locked longer than needed. */
void host_pins_drop(uint64_t address, uint64_t size);

#endif
