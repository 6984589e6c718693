/*
 * Control registers, debug registers' checks, EFER: what values they take, and what else changes with them
 * (SDM 3A 2.5, 4.1; APM 2 3.1).
 */
#ifndef OWHP_X86_CONTROL_H
#define OWHP_X86_CONTROL_H

#include "x86/cpu.h"

#define DR6_FIXED    0xffff0ff0ull /* always read as one */
#define DR6_WRITABLE 0x0000e00full /* B0-B3, BD, BS, BT */
#define DR6_BD       BIT64(13)
#define DR6_BS       BIT64(14)
#define DR6_BT       BIT64(15)
#define DR7_FIXED    BIT64(10)
#define DR7_GD       BIT64(13)
#define DR7_WRITABLE 0xffff23ffull /* L/G 0-3, LE, GE, GD, R/W and LEN */

#define EFER_NXE_SCE_LME (EFER_SCE | EFER_LME | EFER_NXE)

/*
 * The guest writes: MOV to CRn, LMSW, WRMSR EFER. All checks, then the new value, paging entries (PAE), the mode, and
 * the flushes that go with it. False: #GP was raised (or an exit recorded while PDPTEs were read), nothing changed.
 * The caller has checked the privilege level, and ends the block.
 */
must_check bool cpu_set_cr0(struct cpu *cpu, uint64_t value);
must_check bool cpu_set_cr3(struct cpu *cpu, uint64_t value);
must_check bool cpu_set_cr4(struct cpu *cpu, uint64_t value);
must_check bool cpu_set_cr8(struct cpu *cpu, uint64_t value);
must_check bool cpu_set_efer(struct cpu *cpu, uint64_t value);

/* Protection keys: the new rights hold from the next access on. */
void cpu_set_pkru(struct cpu *cpu, uint32_t value);
void cpu_set_pkrs(struct cpu *cpu, uint32_t value);

/* DR0..DR7 without the DR7.GD and privilege checks. False: #GP. */
must_check bool cpu_set_dr(struct cpu *cpu, unsigned number, uint64_t value);

/* Bits of CR4 and EFER this processor has, by its features. */
uint64_t cpu_cr4_mask(const struct cpu *cpu);
uint64_t cpu_efer_mask(const struct cpu *cpu);

/*
 * XCR0 (SDM 3A 2.6): the state components that the guest may enable, and whether it may be set to a value. XSAVE_SIZE_*:
 * bytes of an XSAVE area up to the end of that component (there is none between SSE and AVX, and
 * PKRU comes right behind AVX; CPUID tells guests where).
 */
#define XCR0_X87 1ull
#define XCR0_SSE 2ull
#define XCR0_AVX 4ull
#define XCR0_PKRU BIT64(9)
#define XSAVE_SIZE_SSE 576u
#define XSAVE_SIZE_AVX 832u
#define XSAVE_SIZE_PKRU 840u
uint64_t cpu_xcr0_mask(const struct cpu *cpu);
must_check bool cpu_xcr0_is_valid(const struct cpu *cpu, uint64_t value);

/*
 * Registers set from outside (the API writes any of them in any order): could a processor be in the state that the
 * registers of `cpu` describe now? NULL: yes. Else why not, in words.
 */
const char *cpu_control_problem(const struct cpu *cpu);

/* The same for segment registers whose hidden parts were set (bits of `which` by SEG_*; SDM 3C 26.3.1.2). */
const char *cpu_segment_problem(const struct cpu *cpu, unsigned which);

/* After registers were set from outside: PDPTEs, mode, keys, flush. PDPTEs that cannot be read count as not present. */
void cpu_control_changed(struct cpu *cpu);

/* For accesses and branches: by what CR4.LA57 says. */
bool cpu_is_canonical(const struct cpu *cpu, uint64_t address);
/*
 * For what only keeps an address (bases of tables and system segments, MSRs, but not WRFSBASE) or invalidates one (INVLPG,
 * INVPCID): processors with 57-bit addresses take all of those, whatever CR4.LA57 says.
 */
bool cpu_is_storable(const struct cpu *cpu, uint64_t address);

#endif
