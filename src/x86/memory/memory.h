/*
 * Memory as the processor sees it.
 *
 * mem_* take linear addresses: TLB, page walk, port. Any size up to 4096 bytes, across pages; an access
 * that crosses a page translates both pages before it transfers a byte. seg_* check a segment and give the
 * linear address. False always means: nothing happened, cpu->leave (LEAVE_FAULT or LEAVE_EXIT) is set.
 */
#ifndef OWHP_X86_MEMORY_H
#define OWHP_X86_MEMORY_H

#include "x86/cpu.h"
#include "x86/port.h"

/* At whose privilege: the current one, or the processor's own (descriptor tables, TSS, inner stacks). */
enum mem_privilege { MEM_CURRENT, MEM_SYSTEM, MEM_USER };

must_check bool mem_read(struct cpu *cpu, gva_t linear, void *to, size_t size, enum mem_privilege privilege);
must_check bool mem_write(struct cpu *cpu, gva_t linear, const void *from, size_t size, enum mem_privilege privilege);
/* Would the access succeed? Raises what it would raise; transfers nothing. Device memory passes. */
must_check bool mem_probe(struct cpu *cpu, gva_t linear, size_t size, enum access_type type, enum mem_privilege privilege);

/* For what is checked as a load of a byte but loads nothing: raises what a load would raise, and exits where it would, too. A port
 * that never has memory is not asked: a load may do something there. */
must_check bool mem_touch(struct cpu *cpu, gva_t linear);

/* The guest physical address behind a linear one, for an access to it; raises what the access would raise. */
must_check bool mem_translate(struct cpu *cpu, gva_t linear, enum access_type type, gpa_t *gpa);

/* Naturally sized accesses at the current privilege: the fast ones. */
must_check bool mem_read8(struct cpu *cpu, gva_t linear, uint8_t *value);
must_check bool mem_read16(struct cpu *cpu, gva_t linear, uint16_t *value);
must_check bool mem_read32(struct cpu *cpu, gva_t linear, uint32_t *value);
must_check bool mem_read64(struct cpu *cpu, gva_t linear, uint64_t *value);
must_check bool mem_write8(struct cpu *cpu, gva_t linear, uint8_t value);
must_check bool mem_write16(struct cpu *cpu, gva_t linear, uint16_t value);
must_check bool mem_write32(struct cpu *cpu, gva_t linear, uint32_t value);
must_check bool mem_write64(struct cpu *cpu, gva_t linear, uint64_t value);

/*
 * Direct host memory for [linear, linear+size) within one page, if there is any: for string
 * instructions. Returns NULL when the slow way must be taken (no fault is raised by that).
 * Access it with os/guarded.h only. Valid until the end of the instruction.
 */
uint8_t *mem_direct(struct cpu *cpu, gva_t linear, enum access_type type);

/* Atomic compare-exchange of 1, 2, 4, 8 bytes (16 through mem_cas128). *equal tells the outcome; *old is what was there. */
must_check bool mem_cas(struct cpu *cpu, gva_t linear, unsigned size, uint64_t expected, uint64_t desired, uint64_t *old,
                        bool *equal);
/*
 * Atomic read-modify-write of 1, 2, 4, 8 bytes: `compute` gets the old value and gives the new one; over memory it may run
 * more than once, over a device there is one read and one write.
 */
typedef uint64_t mem_compute(uint64_t old, void *context);
must_check bool mem_modify_locked(struct cpu *cpu, gva_t linear, unsigned size, mem_compute *compute, void *context);
/* The same for the processor's own structures (accessed and busy bits of descriptors): MEM_SYSTEM. */
must_check bool mem_modify_system(struct cpu *cpu, gva_t linear, unsigned size, mem_compute *compute, void *context);
must_check bool mem_cas128(struct cpu *cpu, gva_t linear, uint64_t expected[2], const uint64_t desired[2], bool *equal);

/* Does alignment checking (SDM 3A 6.15, #AC) object to a data access of the current privilege? */
bool mem_is_misaligned(const struct cpu *cpu, gva_t linear, size_t size);

/* Segment check of [offset, offset+size) and linear address; in 64-bit mode canonical check only. */
must_check bool seg_linear(struct cpu *cpu, enum segment_index segment, uint64_t offset, size_t size,
                           enum access_type type, gva_t *linear);

#endif
