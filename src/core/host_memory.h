/* Host memory that serves as guest RAM: allocated here, or only looked at. Any thread. */
#ifndef OWHP_CORE_HOST_MEMORY_H
#define OWHP_CORE_HOST_MEMORY_H

#include "util/compiler.h"
#include "util/status.h"
#include "util/types.h"

/*
 * Zeroed memory on a sealed memfd of exactly this size, 2 MiB aligned, provided page by page on first touch. It is
 * the caller's until host_memory_free.
 * STATUS_INVALID_ARGUMENT   size 0 or not a multiple of 4096
 * STATUS_NO_MEMORY          the host refuses
 */
must_check enum status host_memory_allocate(uint64_t size, void **address);

/* STATUS_INVALID_ARGUMENT   not an address that host_memory_allocate gave and that was not freed since */
must_check enum status host_memory_free(void *address);

/* How many bytes of [address, address + size) (whole pages) are in host memory now; what does not exist counts
 * as absent. */
uint64_t host_memory_resident(const void *address, uint64_t size);

#endif
