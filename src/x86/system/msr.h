/*
 * The processor's own model-specific registers (SDM 4 chapter 2, APM 2 appendix A). RDMSR and WRMSR ask the port first:
 * the local APIC's registers, exits and partition-wide registers are its; what it leaves (PORT_DEFAULT) comes here.
 */
#ifndef OWHP_X86_MSR_H
#define OWHP_X86_MSR_H

#include "x86/cpu.h"

/* clang-format off */
enum {
    MSR_P5_MC_ADDR = 0x0, MSR_P5_MC_TYPE = 0x1, MSR_TSC = 0x10, MSR_PLATFORM_ID = 0x17, MSR_APIC_BASE = 0x1b, MSR_FEATURE_CONTROL = 0x3a,
    MSR_TSC_ADJUST = 0x3b, MSR_SPEC_CTRL = 0x48, MSR_PRED_CMD = 0x49, MSR_MICROCODE_UPDATE = 0x79, MSR_MICROCODE_REVISION = 0x8b,
    MSR_MTRR_CAP = 0xfe, MSR_ARCH_CAPABILITIES = 0x10a, MSR_SYSENTER_CS = 0x174, MSR_SYSENTER_ESP = 0x175, MSR_SYSENTER_EIP = 0x176,
    MSR_MCG_CAP = 0x179, MSR_MCG_STATUS = 0x17a, MSR_MISC_ENABLE = 0x1a0, MSR_DEBUG_CONTROL = 0x1d9,
    MSR_MTRR_BASE_0 = 0x200, MSR_MTRR_MASK_7 = 0x20f, MSR_MTRR_FIX64K_00000 = 0x250, MSR_MTRR_FIX16K_80000 = 0x258,
    MSR_MTRR_FIX16K_A0000 = 0x259, MSR_MTRR_FIX4K_C0000 = 0x268, MSR_MTRR_FIX4K_F8000 = 0x26f, MSR_PAT = 0x277, MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_TSC_DEADLINE = 0x6e0, MSR_PKRS = 0x6e1, MSR_X2APIC_FIRST = 0x800, MSR_X2APIC_LAST = 0x8ff, MSR_XSS = 0xda0,
};
#define MSR_EFER           0xc0000080u
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_SFMASK         0xc0000084u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX        0xc0000103u

#define MTRR_CAPABILITIES  0x508ull       /* 8 variable ranges, fixed ranges, write-combining */
#define MISC_ENABLE_RESET  0x1801ull      /* fast strings, no branch trace storage, no PEBS */
#define PAT_RESET          0x0007040600070406ull
#define MSR_SPEC_CTRL_BITS 0x403ull       /* IBRS, STIBP, BHI_DIS_S */
#define FEATURE_CONTROL_LOCKED 1ull       /* and nothing enabled */
#define APIC_BASE_RESET    0xfee00000ull
/* clang-format on */

enum msr_status {
    MSR_OK,
    MSR_REFUSED, /* the value or the direction is not allowed, or memory had to be read and was not there: #GP(0) */
    MSR_UNKNOWN, /* the processor has no such register: #GP(0), or the port's "unhandled MSR" exit */
};

/* Nothing changes unless MSR_OK. */
must_check enum msr_status msr_read(struct cpu *cpu, uint32_t index, uint64_t *value);
must_check enum msr_status msr_write(struct cpu *cpu, uint32_t index, uint64_t value);

/* Does the processor itself have the register, readable or writable? */
bool msr_is_known(const struct cpu *cpu, uint32_t index);

/* The time stamp by the processor's own reckoning: host TSC and the offset guests and owners set. */
uint64_t msr_tsc(const struct cpu *cpu);

/* Would the value be accepted (memory types valid, reserved bits clear)? For registers set from outside. */
bool msr_pat_is_valid(uint64_t value);
bool msr_mtrr_def_type_is_valid(uint64_t value);
bool msr_mtrr_base_is_valid(const struct cpu *cpu, uint64_t value);
bool msr_mtrr_mask_is_valid(const struct cpu *cpu, uint64_t value);
bool msr_mtrr_fixed_is_valid(uint64_t value);

#endif
