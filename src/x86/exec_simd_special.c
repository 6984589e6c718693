/* SSE instructions without a stub: masked stores and MXCSR. */
#include "x86/exec_simd.h"

/*
 * The bytes whose mask has its top bit, to seg:[rDI]. All of the range is translated before the first byte is written; an
 * all-zero mask touches nothing.
 */
bool simd_store_masked(struct cpu *cpu, const struct insn *insn, const uint8_t *data, const uint8_t *mask, unsigned size)
{
    gva_t linear;
    unsigned first = 0, end = size;
    while (end > 0 && !(mask[end - 1] & 0x80))
        end--;
    if (end == 0)
        return true;
    while (!(mask[first] & 0x80))
        first++;
    if (!operand_linear(cpu, insn, size, ACCESS_WRITE, &linear) ||
        !mem_probe(cpu, linear + first, end - first, ACCESS_WRITE, MEM_CURRENT))
        return false;
    for (unsigned start = first; start < end; start++) {
        unsigned run = 0;
        while (start + run < end && (mask[start + run] & 0x80))
            run++;
        if (run > 0 && !mem_write(cpu, linear + start, data + start, run, MEM_CURRENT))
            return false;
        start += run; /* the byte behind the run is not to be written */
    }
    return true;
}

enum exec_result exec_maskmovdqu(struct cpu *cpu, const struct insn *insn)
{
    if (!simd_usable(cpu))
        return EXEC_LEAVE;
    const union vector *data = simd_place(cpu, &insn->operand[0]), *mask = simd_place(cpu, &insn->operand[1]);
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
