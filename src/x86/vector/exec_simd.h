/*
 * The MMX and SSE families, up to SSE4.2, AES, PCLMULQDQ and SHA.
 *
 * The host processor executes the guest's instruction itself, from a stub (x86/vector/host_stub.h) whose
 * operands are renamed, so that one stub serves all registers:
 *
 *      void stub(void *first, void *second, struct cpu *cpu)
 *
 * `first` and `second` are the places of explicit operands 0 and 1: a register's bytes in struct
 * cpu, or a buffer with the bytes of the memory operand, aligned to 16. The stub loads register
 * operands, executes, stores the written ones back; implicit operands and arithmetic flags it finds
 * in `cpu`. MMX registers come in 8-byte copies (their place in the image depends on TOP). Plain
 * moves need no stub: exec_simd_move.c.
 */
#ifndef OWHP_X86_EXEC_SIMD_H
#define OWHP_X86_EXEC_SIMD_H

#include "os/guarded.h"
#include "x86/exec.h"
#include "x86/memory/tlb.h"
#include "x86/vector/exec_simd_trap.h"
#include "x86/vector/host_stub.h"

/*
 * Take out of `config` what the host's processor does not have of the features that are implemented
 * by letting it execute the instruction: x87, MMX, SSE and so on.
 */
void exec_simd_limit(struct cpuid_config *config);

/* Does the host have it (of leaves 1 and 7)? AVX: and its kernel enables it. */
must_check bool simd_host_has(enum cpu_feature feature);

/* exec_vex.c: exec_simd_bind for VEX encodings. */
bool exec_vex_bind(struct insn *insn, const ZydisDecodedInstruction *decoded,
                   const ZydisDecodedOperand *operands);

/*
 * Features a partition may take away: instructions that need one are bound all the same (decoded
 * code does not know the processor) and ask when they run. bind puts the feature into the stub's
 * tag; 0: always there.
 */
uint8_t simd_feature_tag(const ZydisDecodedInstruction *decoded);
must_check bool simd_has_feature_slow(struct cpu *cpu, uint8_t tag);
must_check static inline bool simd_has_feature(struct cpu *cpu, const void *stub)
{
    uint8_t tag = host_stub_tag(stub);
    return likely(tag == 0) || simd_has_feature_slow(cpu, tag);
}

/* May an SSE instruction run now? Raises #UD or #NM (SDM 3A 13.1, table "Action taken for
 * combinations of EM, MP, TS"). */
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

/* 16 bytes of memory, the TLB inline; a failing read may have filled a part. */
must_check static inline bool simd_read16(struct cpu *cpu, gva_t linear, union simd_buffer *buffer)
{
    const uint8_t *host = tlb_read(cpu, linear, 16);
    return (likely(host) && likely(guarded_load128(host, buffer))) ||
           mem_read(cpu, linear, buffer, 16, MEM_CURRENT);
}
must_check static inline bool simd_write16(struct cpu *cpu, gva_t linear, const void *from)
{
    uint8_t *host = tlb_write(cpu, linear, 16);
    return (likely(host) && likely(guarded_store128(host, from))) ||
           mem_write(cpu, linear, from, 16, MEM_CURRENT);
}

/* Read or write the memory operand of `size` bytes. With `aligned`: #GP(0) when it is not on a
 * 16-byte boundary. */
must_check bool simd_load(struct cpu *cpu, const struct insn *insn, union simd_buffer *buffer,
                          size_t size, bool aligned);
must_check bool simd_store(struct cpu *cpu, const struct insn *insn, const void *from, size_t size,
                           bool aligned);

/*
 * Run a stub under the guest's MXCSR. `first_size`: bytes of a register as operand 0 that it may
 * write (to be held back when an unmasked exception is raised). False: #XM (or #UD) was raised,
 * flags are in MXCSR and nothing else has changed.
 */
must_check bool simd_run_float(struct cpu *cpu, simd_stub *stub, void *first, size_t first_size,
                               void *second);

/* #XM, or #UD when the guest's kernel does not want it (CR4.OSXMMEXCPT). */
must_check bool simd_raise_xm(struct cpu *cpu);

/* Where a register operand is in struct cpu (bind has put the offset there for vector registers
 * too). */
static inline void *simd_place(struct cpu *cpu, const struct operand *operand)
{
    return (char *)cpu + operand->offset;
}

/* exec_simd_stub.c: the stub for an instruction with operands at ModRM. NULL: none can be made. */
simd_stub *simd_stub_for(const ZydisDecodedInstruction *decoded,
                         const ZydisDecodedOperand *operands);

/* exec_simd_move.c: plain moves between vector registers, and to and from memory. NULL: not a plain
 * move. */
exec_fn *simd_plain_move(const struct insn *insn);

/* exec_simd_mmx.c */
exec_fn exec_mmx, exec_mmx_sse, exec_mmx_sse_float, exec_emms, exec_maskmovq;

/* exec_simd_special.c */
exec_fn exec_maskmovdqu, exec_ldmxcsr, exec_stmxcsr;
must_check bool simd_store_masked(struct cpu *cpu, const struct insn *insn, const uint8_t *data,
                                  const uint8_t *mask, unsigned size);

/* ---- for the interpreter's fast operations ---- */

/* What an instruction bound to a stub looks like; insn->extra is the stub, operands are placed. */
enum simd_shape {
    SIMD_SHAPE_OTHER,
    SIMD_SHAPE_REGISTERS,
    SIMD_SHAPE_LOAD4,
    SIMD_SHAPE_LOAD8,
    SIMD_SHAPE_LOAD16,         /* any alignment */
    SIMD_SHAPE_LOAD16_ALIGNED,
    SIMD_SHAPE_FLOAT = 8,      /* added to one of those: MXCSR governs it */
};

unsigned simd_shape(const struct insn *insn);

/* Can a fast operation run a stub of this kind now? The exec function does what there is to do when not. */
static inline bool simd_ready(const struct cpu *cpu)
{
    return likely(!(cpu->cr0 & (CR0_EM | CR0_TS)) && (cpu->cr4 & CR4_OSFXSR));
}

#endif
