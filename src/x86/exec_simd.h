/*
 * The MMX and SSE families, up to SSE4.2, AES, PCLMULQDQ, SHA and the legacy GFNI instructions.
 *
 * The host processor executes the guest's instruction itself, from a stub (x86/host_stub.h) whose operands
 * are renamed, so that one stub serves all registers:
 *
 *      void stub(void *first, void *second, struct cpu *cpu)
 *
 * `first` and `second` are the places of explicit operands 0 and 1: a register's bytes in struct cpu, or a
 * buffer with the bytes of the memory operand, aligned to 16. The stub loads register operands, executes,
 * stores the written ones back; implicit operands and arithmetic flags it finds in `cpu`. MMX registers come
 * in 8-byte copies (their place in the image depends on TOP). Plain moves need no stub: exec_simd_move.c.
 */
#ifndef OWHP_X86_EXEC_SIMD_H
#define OWHP_X86_EXEC_SIMD_H

#include "x86/exec.h"
#include "x86/exec_simd_trap.h"

/* Is this instruction among those CPUID shows (exec_simd_cpuid)? What it does not show is #UD. */
bool exec_simd_allowed(const ZydisDecodedInstruction *decoded);

/*
 * The CPUID feature bits of these families and of x87 that can be shown: implemented here and present in the
 * host. Leaf 1: *ecx, *edx. Leaf 7, subleaf 0: *ebx, *ecx. Other leaves give 0. Bits 6 and 13 of leaf
 * 7 EBX (x87 data pointer only on exceptions, no FCS and FDS) describe what the x87 family does and must be
 * shown as given here.
 */
void exec_simd_cpuid(uint32_t leaf, uint32_t *ebx, uint32_t *ecx, uint32_t *edx);

/* May an SSE instruction run now? Raises #UD or #NM (SDM 3A 13.1, table "Action taken for combinations of EM, MP, TS"). */
must_check bool simd_usable_slow(struct cpu *cpu);
must_check static inline bool simd_usable(struct cpu *cpu)
{
    if (likely(!(cpu->cr0 & (CR0_EM | CR0_TS)) && (cpu->cr4 & CR4_OSFXSR)))
        return true;
    return simd_usable_slow(cpu);
}

/* A memory operand's bytes on their way to or from a stub. */
union simd_buffer {
    uint8_t bytes[32];
    uint64_t q[4];
    uint32_t d[8];
} __attribute__((aligned(32)));

/* Read or write the memory operand of `size` bytes. With `aligned`: #GP(0) when it is not on a 16-byte boundary. */
must_check bool simd_load(struct cpu *cpu, const struct insn *insn, union simd_buffer *buffer, size_t size, bool aligned);
must_check bool simd_store(struct cpu *cpu, const struct insn *insn, const void *from, size_t size, bool aligned);

/*
 * Run a stub under the guest's MXCSR. `first_size`: bytes of a register as operand 0 that it may write (to be
 * held back when an unmasked exception is raised). False: #XM (or #UD) was raised, flags are in MXCSR and
 * nothing else has changed.
 */
must_check bool simd_run_float(struct cpu *cpu, simd_stub *stub, void *first, size_t first_size, void *second);

/* Where a register operand is in struct cpu (bind has put the offset there for vector registers too). */
static inline void *simd_place(struct cpu *cpu, const struct operand *operand)
{
    return (char *)cpu + operand->offset;
}

/* exec_simd_stub.c: the stub for an instruction with operands at ModRM. NULL: none can be made. */
simd_stub *simd_stub_for(const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands);

/* exec_simd_move.c: plain moves between vector registers, and to and from memory. NULL: not a plain move. */
exec_fn *simd_plain_move(const struct insn *insn);

/* exec_simd_mmx.c */
exec_fn exec_mmx, exec_mmx_sse, exec_mmx_sse_float, exec_emms, exec_maskmovq;

/* exec_simd_special.c */
exec_fn exec_maskmovdqu, exec_ldmxcsr, exec_stmxcsr;
must_check bool simd_store_masked(struct cpu *cpu, const struct insn *insn, const uint8_t *data, const uint8_t *mask,
                                  unsigned size);

#endif
