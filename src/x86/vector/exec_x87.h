/*
 * The x87 unit: what its parts share. State is cpu->x87, the head of an FXSAVE64 image, with ST(0)
 * first.
 *
 * Arithmetic is executed by the host's unit from stubs, on a copy of the image, so that the copy is
 * committed after memory was written. Status and control may have been written from outside
 * (registers of the API, FXRSTOR): nothing here trusts the ES bit, it is computed from flags and
 * masks.
 */
#ifndef OWHP_X86_EXEC_X87_H
#define OWHP_X86_EXEC_X87_H

#include "x86/exec.h"

/* Status word (SDM 1 8.1.3): exceptions 0-5, SF 6, ES 7, C0-C2 8-10, TOP 11-13, C3 14, B 15.
 * Control word: masks 0-5. */
#define X87_EXCEPTIONS      0x003fu
#define X87_IE              0x0001u
#define X87_OE              0x0008u
#define X87_UE              0x0010u
#define X87_SF              0x0040u
#define X87_ES              0x0080u
#define X87_B               0x8000u
#define X87_TOP_SHIFT       11
#define X87_TOP_MASK        0x3800u
#define X87_INITIAL_CONTROL 0x037fu

static inline unsigned x87_top(const struct x87_image *image)
{
    return image->status >> X87_TOP_SHIFT & 7;
}

/* Is an unmasked exception waiting? The next waiting instruction raises #MF. */
static inline bool x87_is_pending(const struct x87_image *image)
{
    return image->status & ~image->control & X87_EXCEPTIONS;
}

/*
 * May an x87 instruction run: #NM with CR0.EM or CR0.TS (SDM 3A 2.5). x87_usable_waiting also
 * raises #MF for a pending exception. With CR0.NE = 0 a PC signals it through FERR# and IRQ 13
 * outside the processor; there is no such pin here, so #MF is raised in that case too.
 */
must_check bool x87_usable(struct cpu *cpu);
must_check bool x87_usable_waiting(struct cpu *cpu);
must_check bool x87_check_pending(struct cpu *cpu); /* #MF when one is pending */

/* Set TOP; registers stay where they physically are, so their order in the image turns. */
void x87_set_top(struct x87_image *image, unsigned top);

/* The state after FNINIT: registers keep their contents. */
void x87_initialize(struct x87_image *image);

/*
 * Bring control, status (ES and B) and the tag into the form the host's unit gives them, after they
 * were loaded from memory.
 */
void x87_settle(struct x87_image *image);

/* The 16-bit tag word (SDM 1 8.1.7) and the abridged one it is made of. */
uint16_t x87_full_tag(const struct x87_image *image);
uint8_t x87_abridged_tag(uint16_t full);

/*
 * Run a stub `void stub(const struct x87_image *in, void *buffer, struct x87_image *out, struct cpu
 * *cpu)` that begins with FXRSTOR64 [RDI] and ends with FXSAVE64 [RDX]. The host's control word and
 * MXCSR are kept. `in` and `out` may be the same; in->mxcsr is overwritten.
 */
typedef void x87_stub(const struct x87_image *in, void *buffer, struct x87_image *out,
                      struct cpu *cpu);
void x87_run(x87_stub *stub, struct x87_image *in, void *buffer, struct x87_image *out,
             struct cpu *cpu);

/* exec_x87_control.c: instructions that move control and environment. NULL: not one of them. */
exec_fn *x87_control_instruction(ZydisMnemonic mnemonic);

/* fxsave.c */
exec_fn exec_fxsave, exec_fxsave64, exec_fxrstor, exec_fxrstor64;

#endif
