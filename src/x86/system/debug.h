/*
 * Debug registers at work: breakpoints on instructions, data and ports, and the debug exceptions that wait to be
 * delivered (SDM 3B 17.2, 17.3; APM 2 13.1).
 *
 * While DR7 enables nothing this costs nothing: cpu->debug_watch is 0. An instruction breakpoint makes the processor go one
 * instruction at a time and compare before each. A data breakpoint takes the TLB away from it (TLB_MODE_SLOW), so that every
 * access comes to memory.c, which tells us.
 *
 * Traps are collected in cpu->debug_pending, in the layout of DR6, while an instruction runs, and delivered at the boundary
 * behind it, before anything else is. What an instruction that did not complete has collected is forgotten: it will run again.
 *
 * RFLAGS.RF counts for one instruction only, but clearing it after each would cost. So whoever sets it notes for which RIP
 * it is (debug_set_resume), and at every other RIP it counts as clear (debug_resumes).
 */
#ifndef OWHP_X86_DEBUG_H
#define OWHP_X86_DEBUG_H

#include "x86/port.h"
#include "x86/system/control.h"

/* IA32_DEBUGCTL (SDM 4 table 2-2): of its bits BTF is there, single-stepping on branches; the others are 0. */
#define DEBUG_CONTROL_BTF 2ull

/* Bits of cpu->debug_watch: what kinds of breakpoints are enabled. */
enum { DEBUG_CODE = 1, DEBUG_DATA = 2, DEBUG_IO = 4 };

/* DR7, CR4.DE or the mode has changed (cpu_update_mode calls it). */
void debug_update(struct cpu *cpu);

/* Is there an instruction breakpoint at CS:RIP? Then cpu->fault is the #DB. */
bool debug_code_fault(struct cpu *cpu);

/* Which breakpoints such an access hits: bits of DR6. */
uint64_t debug_hits_data(const struct cpu *cpu, gva_t linear, size_t size, enum access_type type);
uint64_t debug_hits_io(const struct cpu *cpu, uint16_t port, unsigned size);

/* The slow parts of debug_data and debug_io. */
void debug_match_data(struct cpu *cpu, gva_t linear, size_t size, enum access_type type);
void debug_match_io(struct cpu *cpu, uint16_t port, unsigned size);

/* An instruction has read or written these bytes, or reached this port. */
static always_inline void debug_data(struct cpu *cpu, gva_t linear, size_t size, enum access_type type)
{
    if (unlikely(cpu->debug_watch & DEBUG_DATA))
        debug_match_data(cpu, linear, size, type);
}

static always_inline void debug_io(struct cpu *cpu, uint16_t port, unsigned size)
{
    if (unlikely(cpu->debug_watch & DEBUG_IO))
        debug_match_io(cpu, port, size);
}

/* Something is to be delivered at this boundary: make it cpu->fault. Not in the shadow of MOV SS. */
static inline bool debug_is_due(const struct cpu *cpu)
{
    return cpu->debug_pending && !cpu->debug_shadow;
}
void debug_take(struct cpu *cpu);

/* The instruction with cpu->leave did not complete. */
static inline void debug_abandon(struct cpu *cpu)
{
    if (unlikely(cpu->debug_pending) && cpu->leave != LEAVE_HALT && !(cpu->leave == LEAVE_FAULT && cpu->fault.is_trap))
        cpu->debug_pending = cpu->debug_held;
}

/* RFLAGS.RF was set for the instruction at `rip`. */
static inline void debug_set_resume(struct cpu *cpu, uint64_t rip)
{
    cpu->rflags |= RFLAGS_RF;
    cpu->resume_rip = rip;
}

/* RFLAGS with the RF that counts at cpu->rip. */
static inline uint64_t debug_flags(const struct cpu *cpu)
{
    const uint64_t flags = cpu_rflags(cpu);
    return cpu->rip == cpu->resume_rip ? flags : flags & ~RFLAGS_RF;
}

#endif
