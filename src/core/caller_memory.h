/*
 * The caller's buffers: copied in and out with the guarded accesses of os/guarded.h, so that a wild pointer
 * is a status and not the end of the process.
 */
#ifndef OWHP_CORE_CALLER_MEMORY_H
#define OWHP_CORE_CALLER_MEMORY_H

#include "util/compiler.h"
#include "util/status.h"
#include "util/types.h"

/* Copy size bytes from or to the caller. STATUS_BAD_POINTER: NULL (with a size above 0) or not accessible;
 * `what` names the argument in the error text. A failed store may have written a part. */
must_check enum status caller_read(void *to, const void *from, size_t size, const char *what);
must_check enum status caller_write(void *to, const void *from, size_t size, const char *what);

/* STATUS_BAD_POINTER unless the first and last byte, and one in each page between, can be written; changes
 * nothing. */
must_check enum status caller_writable(void *to, size_t size, const char *what);

#endif
