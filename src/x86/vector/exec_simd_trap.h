/*
 * MXCSR, and what an unmasked exception leaves in it. Without cpu.h, whose register names signal.h
 * has too.
 */
#ifndef OWHP_X86_EXEC_SIMD_TRAP_H
#define OWHP_X86_EXEC_SIMD_TRAP_H

#include "util/types.h"

struct cpu;

/* A stub, see exec_simd.h. */
typedef void simd_stub(void *first, void *second, struct cpu *cpu);

/* MXCSR (SDM 1 10.2.3) */
#define MXCSR_IE         0x0001u
#define MXCSR_DE         0x0002u
#define MXCSR_ZE         0x0004u
#define MXCSR_OE         0x0008u
#define MXCSR_UE         0x0010u
#define MXCSR_PE         0x0020u
#define MXCSR_FLAGS      0x003fu
#define MXCSR_MASKS      0x1f80u
#define MXCSR_MASK_SHIFT 7
#define MXCSR_FTZ        0x8000u
#define MXCSR_CONTROL    0xffc0u
#define MXCSR_VALID      0xffffu /* what MXCSR_MASK shows */

/*
 * Run a stub that is known to raise an unmasked exception under *mxcsr, for the flags in it
 * afterwards. What is at `first` is not to be used then. False: none was raised.
 */
bool simd_trap_flags(uint32_t *mxcsr, simd_stub *stub, void *first, void *second, struct cpu *cpu);

#endif
