/*
 * Running a stub under the guest's MXCSR.
 *
 * All exceptions masked in the guest's MXCSR is the usual state, and usually the host's control
 * bits are the same: then nothing is loaded, the flags the instruction raises accumulate in the
 * host's MXCSR and are taken over from there. (The flags in the host's MXCSR are not preserved: the
 * ABI says that no function preserves them. Control bits always are.)
 *
 * With unmasked exceptions the stub still runs with all of them masked, on a copy of the
 * destination, and the flags it raised tell whether one would have happened. Except that an
 * unmasked underflow is raised for a tiny result even when it is exact, while the masked response
 * sets UE only when it is inexact (SDM 1 4.9.1.5): a second run with flush-to-zero, where UE means
 * tiny, tells. Which flags an exception leaves is then up to the host, see exec_simd_trap.c.
 */
#include "x86/vector/exec_simd.h"

#include <string.h>

static inline uint32_t mxcsr_read(void)
{
    uint32_t value;
    __asm__ volatile("stmxcsr %0" : "=m"(value)::"memory");
    return value;
}

static inline void mxcsr_write(uint32_t value)
{
    __asm__ volatile("ldmxcsr %0" ::"m"(value) : "memory");
}

/* Flags raised by one run under `mxcsr` (masks set, flags clear), with the host's control bits put
 * back. */
static uint32_t run_under(uint32_t mxcsr, simd_stub *stub, void *first, void *second,
                          struct cpu *cpu)
{
    uint32_t host = mxcsr_read();
    mxcsr_write(mxcsr);
    stub(first, second, cpu);
    uint32_t raised = mxcsr_read() & MXCSR_FLAGS;
    mxcsr_write(host);
    return raised;
}

bool simd_raise_xm(struct cpu *cpu)
{
    return cpu->cr4 & CR4_OSXMMEXCPT ? raise_fault(cpu, VECTOR_XM) : raise_ud(cpu);
}

static noinline bool run_unmasked(struct cpu *cpu, simd_stub *stub, void *first, size_t first_size,
                                  void *second)
{
    uint32_t unmasked = ~cpu->mxcsr >> MXCSR_MASK_SHIFT & MXCSR_FLAGS;
    uint32_t control = (cpu->mxcsr & MXCSR_CONTROL) | MXCSR_MASKS;
    uint32_t aflags = cpu->aflags;
    union simd_buffer result, again, operand;

    memcpy(&result, first, first_size);
    memcpy(&again, first, first_size);
    if (first == second) { /* ADDPS XMM1, XMM1: the copy is the source too, and must stay */
        memcpy(&operand, second, first_size);
        second = &operand;
    }
    uint32_t raised = run_under(control, stub, &result, second, cpu);
    uint32_t flags_after = cpu->aflags;
    bool is_tiny = (unmasked & MXCSR_UE) &&
                   (run_under(control | MXCSR_FTZ, stub, &again, second, cpu) & MXCSR_UE);
    if (!(raised & unmasked) && !is_tiny) {
        cpu->mxcsr |= raised;
        cpu->aflags = flags_after;
        memcpy(first, &result, first_size);
        return true;
    }
    memcpy(&again, first, first_size);
    uint32_t mxcsr = cpu->mxcsr;
    if (!simd_trap_flags(&mxcsr, stub, &again, second, cpu))
        mxcsr = cpu->mxcsr | raised | (is_tiny ? MXCSR_UE : 0);
    cpu->mxcsr = mxcsr;
    cpu->aflags = aflags;
    return simd_raise_xm(cpu);
}

bool simd_run_float(struct cpu *cpu, simd_stub *stub, void *first, size_t first_size, void *second)
{
    uint32_t guest = cpu->mxcsr, host = mxcsr_read();
    if (unlikely((guest & MXCSR_MASKS) != MXCSR_MASKS))
        return run_unmasked(cpu, stub, first, first_size, second);
    if (likely(!((host ^ guest) & MXCSR_CONTROL) && !(host & ~guest & MXCSR_FLAGS))) {
        stub(first, second, cpu);
        cpu->mxcsr = guest | (mxcsr_read() & MXCSR_FLAGS);
        return true;
    }
    mxcsr_write(guest);
    stub(first, second, cpu);
    uint32_t after = mxcsr_read() & MXCSR_FLAGS;
    cpu->mxcsr = guest | after;
    if ((host ^ guest) & MXCSR_CONTROL)
        mxcsr_write(host);
    return true;
}
