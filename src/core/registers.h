/*
 * Register identifiers and values inside the library. The identifiers have the numbers of the API's register
 * names (statically asserted in src/api/api_registers.c), so no table is needed to convert them; the
 * complete list is in the reference tables. Values are 128 bits, laid out as in the API.
 */
#ifndef OWHP_CORE_REGISTERS_H
#define OWHP_CORE_REGISTERS_H

#include "util/types.h"

/* clang-format off */
enum {
    VREG_RAX = 0x0, VREG_R15 = 0xf, VREG_RIP = 0x10, VREG_RFLAGS = 0x11,
    VREG_ES = 0x12, VREG_CS, VREG_SS, VREG_DS, VREG_FS, VREG_GS, VREG_LDTR, VREG_TR, VREG_IDTR, VREG_GDTR,
    VREG_CR0 = 0x1c, VREG_CR2, VREG_CR3, VREG_CR4, VREG_CR8, VREG_DR0, VREG_DR1, VREG_DR2, VREG_DR3, VREG_DR6, VREG_DR7,
    VREG_XCR0,
    VREG_XMM0 = 0x1000, VREG_XMM15 = 0x100f, VREG_FPMMX0 = 0x1010, VREG_FPMMX7 = 0x1017,
    VREG_FP_CONTROL_STATUS = 0x1018, VREG_XMM_CONTROL_STATUS = 0x1019,
    VREG_TSC = 0x2000, VREG_EFER, VREG_KERNEL_GS_BASE, VREG_APIC_BASE, VREG_PAT, VREG_SYSENTER_CS, VREG_SYSENTER_EIP,
    VREG_SYSENTER_ESP, VREG_STAR, VREG_LSTAR, VREG_CSTAR, VREG_SFMASK, VREG_INITIAL_APIC_ID, VREG_MTRR_CAP, VREG_MTRR_DEF_TYPE,
    VREG_MTRR_PHYS_BASE0 = 0x2010, VREG_MTRR_PHYS_MASK0 = 0x2040, VREG_MTRR_FIX64K_00000 = 0x2070, VREG_MTRR_FIX4K_F8000 = 0x207a,
    VREG_TSC_AUX = 0x207b, VREG_SPEC_CTRL = 0x2084, VREG_PRED_CMD = 0x2085, VREG_TSC_VIRTUAL_OFFSET = 0x2087, VREG_XSS = 0x208b,
    VREG_TSC_DEADLINE = 0x2095, VREG_TSC_ADJUST = 0x2096, VREG_MISC_ENABLE = 0x20a0, VREG_FEATURE_CONTROL = 0x20a1,
    VREG_APIC_FIRST = 0x3002, VREG_APIC_LAST = 0x303f, /* 0x3000 + x2APIC register number */
    VREG_VP_RUNTIME = 0x5000,
    VREG_YMM0_HIGH = 0x4f571000, VREG_YMM15_HIGH = 0x4f57100f, VREG_PKRU = 0x4f571010, /* our own (openwhp.h) */
    VREG_PENDING_INTERRUPTION = (int)0x80000000u, VREG_INTERRUPT_STATE, VREG_PENDING_EVENT, VREG_PENDING_EVENT1,
    VREG_DELIVERABILITY_NOTIFICATIONS, VREG_INTERNAL_ACTIVITY_STATE, VREG_PENDING_DEBUG_EXCEPTION,
    VREG_PENDING_EVENT2, VREG_PENDING_EVENT3,
};
/* clang-format on */

/* 16 bytes, as WHV_REGISTER_VALUE: segments are {u64 base, u32 limit, u16 selector, u16 attributes},
 * tables {u16 pad[3], u16 limit, u64 base}, all else little endian from byte 0. */
union vreg_value {
    uint64_t q[2];
    uint32_t d[4];
    uint16_t w[8];
    struct {
        uint64_t base;
        uint32_t limit;
        uint16_t selector, attributes;
    } segment;
    struct {
        uint16_t pad[3];
        uint16_t limit;
        uint64_t base;
    } table;
} __attribute__((aligned(16)));

#endif
