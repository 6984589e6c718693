#include "engine/soft/register_place.h"

#include <stddef.h>

#define ENTRY(name) [((name) & 0xff) | ((name) >= 0x2000 ? 0x100 : 0)]
#define PLAIN(name, field) ENTRY(name) = {offsetof(struct cpu, field), PLACE_PLAIN}
#define GPR(i) PLAIN(VREG_RAX + (i), gpr[i])
#define SEGMENT(i) ENTRY(VREG_ES + (i)) = {offsetof(struct cpu, segment[i]), PLACE_SEGMENT}
#define VARIABLE(i) PLAIN(VREG_MTRR_PHYS_BASE0 + (i), mtrr_base[i]), PLAIN(VREG_MTRR_PHYS_MASK0 + (i), mtrr_mask[i])
#define FIXED(i) PLAIN(VREG_MTRR_FIX64K_00000 + (i), mtrr_fixed[i])

_Static_assert(VREG_TR - VREG_ES == SEG_TR, "segments in the order of their names");

/* clang-format off */
const struct register_place register_places[0x200] = {
    GPR(0), GPR(1), GPR(2), GPR(3), GPR(4), GPR(5), GPR(6), GPR(7),
    GPR(8), GPR(9), GPR(10), GPR(11), GPR(12), GPR(13), GPR(14), GPR(15),
    PLAIN(VREG_RIP, rip),
    SEGMENT(SEG_ES), SEGMENT(SEG_CS), SEGMENT(SEG_SS), SEGMENT(SEG_DS), SEGMENT(SEG_FS), SEGMENT(SEG_GS), SEGMENT(SEG_LDTR),
    SEGMENT(SEG_TR),
    ENTRY(VREG_IDTR) = {offsetof(struct cpu, idtr), PLACE_TABLE}, ENTRY(VREG_GDTR) = {offsetof(struct cpu, gdtr), PLACE_TABLE},
    PLAIN(VREG_CR0, cr0), PLAIN(VREG_CR2, cr2), PLAIN(VREG_CR3, cr3), PLAIN(VREG_CR4, cr4),
    PLAIN(VREG_DR0, dr[0]), PLAIN(VREG_DR1, dr[1]), PLAIN(VREG_DR2, dr[2]), PLAIN(VREG_DR3, dr[3]),
    PLAIN(VREG_DR6, dr6), PLAIN(VREG_DR7, dr7), PLAIN(VREG_XCR0, xcr0),
    PLAIN(VREG_EFER, efer), PLAIN(VREG_KERNEL_GS_BASE, kernel_gs_base), PLAIN(VREG_PAT, pat),
    PLAIN(VREG_SYSENTER_CS, sysenter_cs), PLAIN(VREG_SYSENTER_EIP, sysenter_eip), PLAIN(VREG_SYSENTER_ESP, sysenter_esp),
    PLAIN(VREG_STAR, star), PLAIN(VREG_LSTAR, lstar), PLAIN(VREG_CSTAR, cstar), PLAIN(VREG_SFMASK, sfmask),
    PLAIN(VREG_MTRR_DEF_TYPE, mtrr_def_type), PLAIN(VREG_TSC_AUX, tsc_aux), PLAIN(VREG_SPEC_CTRL, spec_ctrl),
    PLAIN(VREG_XSS, xss), PLAIN(VREG_MISC_ENABLE, misc_enable),
    VARIABLE(0), VARIABLE(1), VARIABLE(2), VARIABLE(3), VARIABLE(4), VARIABLE(5), VARIABLE(6), VARIABLE(7),
    FIXED(0), FIXED(1), FIXED(2), FIXED(3), FIXED(4), FIXED(5), FIXED(6), FIXED(7), FIXED(8), FIXED(9), FIXED(10),
};
/* clang-format on */
