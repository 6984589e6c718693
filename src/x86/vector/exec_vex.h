/*
 * VEX-encoded vector instructions: AVX, AVX2, FMA, F16C and the VEX forms of AES and PCLMULQDQ.
 *
 * As with SSE (exec_simd.h) the host executes them from stubs with renamed operands, of the type
 *
 *      void stub(void *first, const void *const places[], struct cpu *cpu)
 *
 * `first` is where the result goes: operand 0's register or the buffer of a memory operand.
 * places[i] is where explicit operand i is; a memory operand is in cpu->scratch. Registers are
 * loaded and stored with all 32 bytes, so that what VEX does to upper halves is the host's doing.
 */
#ifndef OWHP_X86_EXEC_VEX_H
#define OWHP_X86_EXEC_VEX_H

#include "x86/vector/exec_simd.h"

/* Feature tags (host_stub.h) of instructions beyond AVX itself, which XCR0 stands for. */
enum vex_tag {
    VEX_TAG_AVX, /* nothing more */
    VEX_TAG_AVX2,
    VEX_TAG_FMA,
    VEX_TAG_F16C,
    VEX_TAG_AES,
    VEX_TAG_PCLMULQDQ,
    VEX_TAG_VAES,
    VEX_TAG_VPCLMULQDQ,
    VEX_TAG_COUNT
};

/* May it run now? Raises #UD or #NM (SDM 2A 2.4, the AVX exception classes). */
must_check bool vex_usable(struct cpu *cpu, unsigned tag);

/* exec_vex_stub.c. NULL: none can be made. */
simd_stub *vex_stub_for(const ZydisDecodedInstruction *decoded,
                        const ZydisDecodedOperand *operands, unsigned tag);

/* exec_vex_move.c: moves that check alignment, VZEROALL and the like, masked moves, gathers. NULL:
 * an instruction for a stub. They find their tag in insn->extra. */
exec_fn *vex_special(struct insn *insn, const ZydisDecodedOperand *operands);
static inline unsigned vex_tag(const struct insn *insn)
{
    return (unsigned)(uintptr_t)insn->extra;
}

/* exec_vex_gather.c. NULL: not a gather, or one that is #UD. */
exec_fn *vex_gather(struct insn *insn, const ZydisDecodedOperand *operands);

/* Memory to or from a buffer; with `aligned` #GP(0) when not on a boundary of the size. */
must_check bool vex_load(struct cpu *cpu, const struct insn *insn, void *buffer, size_t size,
                         bool aligned);
must_check bool vex_store(struct cpu *cpu, const struct insn *insn, const void *from, size_t size,
                          bool aligned);

#endif
