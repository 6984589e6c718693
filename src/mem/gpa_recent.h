/*
 * Reads and writes within a page by what the thread found the last time: no lookup, no lock, one section.
 *
 * The section is begun on the condition that the gate has still the version of the finding (os/read_section.h). Every change of
 * the space, its end included, closes the gate; so a section that has begun sees the mapping as it is, and whatever of the
 * partition is freed behind a change is there until the section ends.
 */
#ifndef OWHP_MEM_GPA_RECENT_H
#define OWHP_MEM_GPA_RECENT_H

#include "mem/gpa_access.h"
#include "os/guarded.h"
#include "os/read_section.h"

/* Nothing is touched. */
static always_inline bool gpa_recent_covers(const struct gpa_recent *recent, gpa_t gpa, uint64_t size, bool write)
{
    const uint64_t offset = gpa - recent->gpa;

    return offset < (write ? recent->writable : recent->readable) && size - 1 < PAGE_SIZE - (offset & (PAGE_SIZE - 1));
}

/* Is all of the buffer there, if its first page is? Nothing changes. */
static always_inline bool gpa_recent_has_end(uint8_t *buffer, uint64_t size, bool write)
{
    uint8_t *last = buffer + size - 1, byte;

    if (likely(((uintptr_t)buffer ^ (uintptr_t)last) < PAGE_SIZE))
        return true;
    return guarded_load8(last, &byte) && (write || guarded_store8(last, byte));
}

/* In a section, what is covered: false: a part of the bytes, or none, was copied. */
static always_inline bool gpa_recent_copy(const struct gpa_recent *recent, gpa_t gpa, uint8_t *buffer, uint64_t size, bool write)
{
    uint8_t *host = recent->host + (gpa - recent->gpa);

    if (!gpa_recent_has_end(buffer, size, write))
        return false;
    if (!write)
        return guarded_copy_partial(buffer, host, size) == 0;
    const uint64_t left = guarded_copy_partial(host, buffer, size);
    if (recent->dirty && left < size)
        gpa_dirty_mark(recent->dirty, gpa >> PAGE_SHIFT);
    if (likely(left < size))
        gpa_space_wrote(recent->space, (uintptr_t)host, size); /* its place: there is no source */
    return left == 0;
}

#endif
