/*
 * The caller's buffers: copied in and out with the guarded accesses of os/guarded.h, so that a wild pointer
 * is a status and not the end of the process.
 */
#ifndef OWHP_CORE_CALLER_MEMORY_H
#define OWHP_CORE_CALLER_MEMORY_H

#include <string.h>

#include "os/guarded.h"
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

/*
 * The same in line for structures, of which each exit moves some: their size is a constant and a multiple of 8. In words, as most
 * of their members are: what was stored in other pieces than it is loaded in has to reach the cache first.
 */
enum status caller_refuse(const void *pointer, size_t size, const char *what); /* STATUS_BAD_POINTER */

must_check static always_inline enum status caller_read_struct(void *to, const void *from, size_t size, const char *what)
{
    uint64_t word;

    if (unlikely(!guarded_init()))
        goto refuse;
#pragma GCC unroll 32
    for (size_t at = 0; at < size; at += 8) {
        if (unlikely(!guarded_load64((const uint8_t *)from + at, &word)))
            goto refuse;
        memcpy((uint8_t *)to + at, &word, 8);
    }
    return STATUS_OK;
refuse:
    (void)caller_refuse(from, size, what);
    return STATUS_BAD_POINTER;
}

must_check static always_inline enum status caller_write_struct(void *to, const void *from, size_t size, const char *what)
{
    uint64_t word;

    if (unlikely(!guarded_init()))
        goto refuse;
#pragma GCC unroll 32
    for (size_t at = 0; at < size; at += 8) {
        memcpy(&word, (const uint8_t *)from + at, 8);
        if (unlikely(!guarded_store64((uint8_t *)to + at, word)))
            goto refuse;
    }
    return STATUS_OK;
refuse:
    (void)caller_refuse(to, size, what);
    return STATUS_BAD_POINTER;
}

/* Zeros, by a thread that has been through one of the others; the size is a multiple of 16. */
must_check static always_inline enum status caller_clear_struct(void *to, size_t size, const char *what)
{
    static const uint64_t zeros[2];

#pragma GCC unroll 32
    for (size_t at = 0; at < size; at += 16)
        if (unlikely(!guarded_store128((uint8_t *)to + at, zeros))) {
            (void)caller_refuse(to, size, what);
            return STATUS_BAD_POINTER;
        }
    return STATUS_OK;
}

/* What is there is written again: the caller's own thread is in this call, and nobody else has business in its answer. */
static always_inline bool caller_can_write(uint8_t *at)
{
    uint8_t byte;

    return guarded_load8(at, &byte) && guarded_store8(at, byte);
}

/* At least a byte and at most a page. */
must_check static always_inline enum status caller_writable_struct(void *to, size_t size, const char *what)
{
    if (likely(guarded_init() && caller_can_write(to) && caller_can_write((uint8_t *)to + size - 1)))
        return STATUS_OK;
    return caller_refuse(to, size, what);
}

#endif
