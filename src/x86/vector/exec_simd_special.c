/* SSE instructions without a stub: masked stores and MXCSR. */
#include "x86/vector/exec_simd.h"

/*
 * The bytes whose mask has its top bit, to seg:[rDI]. The whole range must be writable, as on the
 * processors of today, even where the mask is zero.
 */
bool simd_store_masked(struct cpu *cpu, const struct insn *insn, const uint8_t *data,
                       const uint8_t *mask, unsigned size)
{
    /* One alignment check, for the operand's first 8 bytes, whatever is written of it. */
    const enum mem_privilege privilege = cpu->cpl == 3 ? MEM_USER : MEM_CURRENT;
    gva_t linear;
    if (!operand_linear(cpu, insn, size, ACCESS_WRITE, &linear) || !mem_probe(cpu, linear, 8, ACCESS_WRITE, MEM_CURRENT) ||
        !mem_probe(cpu, linear, size, ACCESS_WRITE, privilege))
        return false;
    for (unsigned start = 0; start < size; start++) {
        unsigned run = 0;
        while (start + run < size && (mask[start + run] & 0x80))
            run++;
        if (run > 0 && !mem_write(cpu, linear + start, data + start, run, privilege))
            return false;
        start += run; /* the byte behind the run is not to be written */
    }
    return true;
}

enum exec_result exec_maskmovdqu(struct cpu *cpu, const struct insn *insn)
{
    if (!simd_usable(cpu))
        return EXEC_LEAVE;
    const union vector *data = simd_place(cpu, &insn->operand[0]),
                       *mask = simd_place(cpu, &insn->operand[1]);
    return exec_done(simd_store_masked(cpu, insn, data->b, mask->b, 16));
}

enum exec_result exec_ldmxcsr(struct cpu *cpu, const struct insn *insn)
{
    union simd_buffer buffer;
    if (!simd_usable(cpu) || !simd_load(cpu, insn, &buffer, 4, false))
        return EXEC_LEAVE;
    if (buffer.d[0] & ~MXCSR_VALID)
        return exec_done(raise_gp(cpu, 0));
    cpu->mxcsr = buffer.d[0];
    return EXEC_NEXT;
}

enum exec_result exec_stmxcsr(struct cpu *cpu, const struct insn *insn)
{
    if (!simd_usable(cpu))
        return EXEC_LEAVE;
    return exec_done(simd_store(cpu, insn, &cpu->mxcsr, 4, false));
}
