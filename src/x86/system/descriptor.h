/*
 * Descriptors and segment loads (SDM 3A chapters 3 and 5, 2B MOV; APM 2 chapter 4).
 *
 * A load has two halves: everything that can fault, which yields a struct segment and leaves only accessed bits
 * behind; and the assignment to cpu->segment, which the caller makes when the whole instruction can no longer fail,
 * followed by cpu_update_mode().
 */
#ifndef OWHP_X86_DESCRIPTOR_H
#define OWHP_X86_DESCRIPTOR_H

#include "x86/cpu.h"
#include "x86/memory/memory.h"

/* Types of system descriptors (SDM 3A table 3-2). */
enum {
    SYSTEM_TSS16_AVAILABLE = 1, SYSTEM_LDT = 2, SYSTEM_TSS16_BUSY = 3, SYSTEM_CALL_GATE16 = 4, SYSTEM_TASK_GATE = 5,
    SYSTEM_INTERRUPT_GATE16 = 6, SYSTEM_TRAP_GATE16 = 7, SYSTEM_TSS_AVAILABLE = 9, SYSTEM_TSS_BUSY = 11, SYSTEM_CALL_GATE = 12,
    SYSTEM_INTERRUPT_GATE = 14, SYSTEM_TRAP_GATE = 15,
};

#define SELECTOR_RPL 3u
#define SELECTOR_TI  4u
/* The error code that names a selector; `ext` is 1 during the delivery of external events, else 0. */
#define SELECTOR_ERROR(selector, ext) (((uint32_t)(selector) & 0xfffcu) | (ext))

static inline bool selector_is_null(uint16_t selector) { return !(selector & ~SELECTOR_RPL); }

/* A descriptor as it is in the table; `high` is the second half of 16-byte ones. */
struct descriptor {
    uint64_t low, high;
};

static inline unsigned descriptor_type(const struct descriptor *d) { return (d->low >> 40) & 15; }
static inline bool descriptor_is_system(const struct descriptor *d) { return !((d->low >> 44) & 1); }
static inline unsigned descriptor_dpl(const struct descriptor *d) { return (d->low >> 45) & 3; }
static inline bool descriptor_is_present(const struct descriptor *d) { return (d->low >> 47) & 1; }
static inline bool descriptor_is_long(const struct descriptor *d) { return (d->low >> 53) & 1; }
static inline bool descriptor_is_big(const struct descriptor *d) { return (d->low >> 54) & 1; }
static inline bool descriptor_is_code(const struct descriptor *d)
{
    return ((d->low >> 43) & 3) == 3;
}
static inline bool descriptor_is_conforming(const struct descriptor *d) { return (d->low >> 42) & 1; }
static inline bool descriptor_is_writable_data(const struct descriptor *d)
{
    return ((d->low >> 41) & 0xd) == 0x9; /* S, not code, W */
}

/* Where an entry of `size` bytes (8 or 16) is; false when it is outside its table (no fault is raised). */
bool descriptor_address(const struct cpu *cpu, uint16_t selector, unsigned size, gva_t *linear);

/* Read it. False: outside the table (`vector` with the selector's error code was raised), or a page fault. */
must_check bool descriptor_read(struct cpu *cpu, uint16_t selector, uint8_t vector, uint32_t ext, struct descriptor *out);
/* All 16 bytes of a system descriptor in long mode; elsewhere `high` is 0. */
must_check bool descriptor_read_system(struct cpu *cpu, uint16_t selector, uint8_t vector, uint32_t ext, struct descriptor *out);

/* Set the accessed bit (code, data) or a TSS's busy bit by a locked update, and in *d. */
must_check bool descriptor_set_accessed(struct cpu *cpu, uint16_t selector, struct descriptor *d);
must_check bool descriptor_set_busy(struct cpu *cpu, uint16_t selector, bool busy, struct descriptor *d);

/* The hidden part a descriptor describes; the base is 32 bits wide unless `high` has more (system, long mode). */
void descriptor_to_segment(const struct descriptor *d, uint16_t selector, struct segment *out);

/* The hidden part of CS, SS, ... in real and virtual-8086 mode. Real mode keeps limit and attributes (`old`). */
void segment_real(const struct cpu *cpu, const struct segment *old, uint16_t selector, struct segment *out);

/* A null selector; DPL is kept for SS, whose privilege is the CPL. */
void segment_null(uint16_t selector, unsigned dpl, struct segment *out);

/* Checks of a load of ES, DS, FS, GS or SS in the current mode. False: fault raised. */
must_check bool segment_check(struct cpu *cpu, enum segment_index index, uint16_t selector, struct segment *out);

/* Check and assign, with the mode update. */
must_check bool load_segment(struct cpu *cpu, enum segment_index index, uint16_t selector);

/* SS for privilege level `cpl` from a TSS or a stack: null only where 64-bit mode allows; faults are `vector` (#TS or #GP; #SS
 * when not present) with the selector and `ext`. */
must_check bool segment_check_stack(struct cpu *cpu, uint16_t selector, unsigned cpl, uint8_t vector, uint32_t ext,
                                    struct segment *out);

/* Is [offset, offset+size) inside the segment (legacy: limit, expand-down; not the type)? */
bool segment_contains(const struct segment *s, uint64_t offset, uint64_t size);

#endif
