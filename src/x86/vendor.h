/*
 * Where the processors of Intel and AMD differ, and this one follows the vendor that CPUID leaf 0 presents to the guest
 * (cpuid.is_amd; the host's, unless CPUID results say otherwise): all of it is named here. CPUID leaves (cpuid.c) and MSRs that
 * only AMD has (msr.c) differ besides. Sources: APM 3 under each name, APM 2 6.1; SDM 2.
 *
 *                                                          Intel                       AMD
 *   near branch with prefix 66 in 64-bit mode              prefix ignored              16-bit target and stack slot
 *   SYSCALL, SYSRET outside 64-bit mode                    #UD                         exist
 *   SYSRET to an address that is not canonical             #GP at privilege 0          faults at privilege 3
 *   SYSRET and the hidden part of SS                       flat                        as it was, but for the DPL
 *   SYSENTER, SYSEXIT in long mode                         exist                       #UD
 *   LSS, LFS, LGS, far JMP and CALL with REX.W             m16:64                      m16:32
 *   PUSH of a segment register, 32-bit operands            2 bytes written             4 bytes written
 *   REP with 32-bit addresses in 64-bit mode               upper halves cleared        left alone at a count of 0
 *   MMX store that faults                                  x87 TOP is 0 already        nothing has changed
 *
 * The same for both here, though some models differ: BSF and BSR of 0 leave their destination; a null selector in FS or GS
 * clears the base; FXSAVE and XSAVE always write the x87 pointers. VMX and SVM are absent, their instructions #UD; so are the
 * sets that only one vendor has (docs/opcodes.md).
 */
#ifndef OWHP_X86_VENDOR_H
#define OWHP_X86_VENDOR_H

#include "x86/cpu.h"

static inline bool vendor_is_amd(const struct cpu *cpu) { return cpu->cpuid.is_amd; }

/* Part of the decode mode: what prefix 66 means for near branches. */
static inline uint32_t vendor_mode(const struct cpu *cpu) { return vendor_is_amd(cpu) ? MODE_AMD_BRANCHES : 0; }

static inline bool vendor_has_legacy_syscall(const struct cpu *cpu) { return vendor_is_amd(cpu); }
static inline bool vendor_checks_sysret(const struct cpu *cpu) { return !vendor_is_amd(cpu); }
static inline bool vendor_has_long_sysenter(const struct cpu *cpu) { return !vendor_is_amd(cpu); }

/* Bytes of the offset in a far pointer in memory. */
static inline unsigned vendor_far_size(const struct cpu *cpu, unsigned operand_size)
{
    return operand_size == 8 && vendor_is_amd(cpu) ? 4 : operand_size;
}

static inline bool vendor_pushes_16_bits(const struct cpu *cpu) { return !vendor_is_amd(cpu); }
static inline bool vendor_sets_top_first(const struct cpu *cpu) { return !vendor_is_amd(cpu); }
static inline bool vendor_sysret_keeps_ss(const struct cpu *cpu) { return vendor_is_amd(cpu); }
static inline bool vendor_clears_upper_halves(const struct cpu *cpu) { return !vendor_is_amd(cpu); }

#endif
