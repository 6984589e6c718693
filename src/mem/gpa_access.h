/*
 * Guest memory by guest physical address, for threads that are not processors. All of it survives
 * host memory that is absent, protected or going away.
 */
#ifndef OWHP_MEM_GPA_ACCESS_H
#define OWHP_MEM_GPA_ACCESS_H

#include "mem/gpa_space.h"

/*
 * Copy out of, or into, guest memory; any address, any length, across mappings. All or nothing:
 * every page is checked first (mapped, allowed, host memory there). A write marks the pages dirty
 * and tells the listeners (wrote).
 * STATUS_INVALID_ARGUMENT  size 0; gpa + size wraps
 * STATUS_ACCESS_DENIED     a page is not mapped (or beyond the space), its rights forbid the
 *                          access, or its host memory is missing or protected
 * STATUS_BAD_POINTER       the buffer is not accessible memory
 */
must_check enum status gpa_space_read(struct gpa_space *space, gpa_t gpa, void *buffer,
                                      uint64_t size);
must_check enum status gpa_space_write(struct gpa_space *space, gpa_t gpa, const void *buffer,
                                       uint64_t size);

/* The same, leaving out what lies in one page of the guest, and the bytes for it in the buffer (which must be accessible all the
 * same). */
must_check enum status gpa_space_read_around(struct gpa_space *space, gpa_t page, gpa_t gpa, void *buffer, uint64_t size);
must_check enum status gpa_space_write_around(struct gpa_space *space, gpa_t page, gpa_t gpa, const void *buffer, uint64_t size);

/*
 * What a thread found when it last read or wrote within a page, for its next access near by; it may be of a space that is gone.
 * All zero: nothing.
 */
struct gpa_recent {
    struct gpa_space *space;
    struct read_gate *gate;
    uint64_t version;         /* of the gate; while it has that, what follows is so */
    gpa_t gpa;                /* of a mapping of memory of ours */
    uint64_t readable, writable; /* its size; 0: not allowed, or nothing is remembered */
    uint8_t *host;
    struct gpa_dirty *dirty;
};

/* gpa_space_read and gpa_space_write, which leave there what they found. */
must_check enum status gpa_space_read_first(struct gpa_space *space, gpa_t gpa, void *buffer, uint64_t size,
                                            struct gpa_recent *found);
must_check enum status gpa_space_write_first(struct gpa_space *space, gpa_t gpa, const void *buffer, uint64_t size,
                                             struct gpa_recent *found);

/* What stopped a single access; a value for page walks, not an error. */
enum gpa_result {
    GPA_RESULT_OK,
    GPA_RESULT_UNMAPPED,
    GPA_RESULT_NO_ACCESS, /* the rights of the mapping forbid it */
    GPA_RESULT_NO_HOST,   /* mapped and allowed, but the host memory is not there */
};

/*
 * One naturally aligned 4- or 8-byte entry of a page table, inside a read section. The load is one
 * access. The exchange stores `desired` if the entry still is `expected`, marks the page dirty
 * when it did, and says so in *done.
 */
must_check enum gpa_result gpa_space_load_entry(const struct gpa_space *space, gpa_t gpa,
                                                unsigned size, uint64_t *value);
/* gpa_space_load_entry with a memory of one view: *view is all zero, or what the last call in the same read section left. */
must_check enum gpa_result gpa_space_load_entry_by(const struct gpa_space *space, struct gpa_view *view, gpa_t gpa,
                                                   unsigned size, uint64_t *value);
must_check enum gpa_result gpa_space_exchange_entry(const struct gpa_space *space, gpa_t gpa,
                                                    unsigned size, uint64_t expected,
                                                    uint64_t desired, bool *done);

#endif
