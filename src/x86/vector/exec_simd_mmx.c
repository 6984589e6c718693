/*
 * MMX: the registers are the mantissas of the physical x87 registers (SDM 1 9.2).
 *
 * Every MMX instruction but EMMS sets TOP to 0 and tags all registers valid; what it writes gets an
 * exponent of all ones (SDM 1 9.5.1). In the image ST(0) comes first, so MM(n) is at (n - TOP)
 * modulo 8. A stub works on 8-byte copies; the transition is committed when memory has been read or
 * written.
 */
#include "x86/vector/exec_simd.h"
#include "x86/vendor.h"

#include "x86/vector/exec_x87.h"

#include <string.h>

static inline unsigned place_in_image(const struct cpu *cpu, unsigned number)
{
    return (number - x87_top(&cpu->x87)) & 7;
}

static void enter_mmx(struct cpu *cpu)
{
    x87_set_top(&cpu->x87, 0);
    cpu->x87.tag = 0xff;
}

/*
 * A store that faults has not happened, but Intel's processors have set TOP by then (the tags are as they were). What was
 * in ST(i) is so elsewhere for a handler that looks at it; the instruction itself starts again all the same.
 */
static enum exec_result store_failed(struct cpu *cpu)
{
    if (cpu->leave == LEAVE_FAULT && vendor_sets_top_first(cpu))
        x87_set_top(&cpu->x87, 0);
    return EXEC_LEAVE;
}

/* CR0 checks and #MF (SDM 3A 13.1 and the exception tables of SDM 3B 23.25.3). */
static bool mmx_usable(struct cpu *cpu, bool is_sse)
{
    if (cpu->cr0 & CR0_EM || (is_sse && !(cpu->cr4 & CR4_OSFXSR)))
        return raise_ud(cpu);
    if (cpu->cr0 & CR0_TS)
        return raise_nm(cpu);
    return x87_check_pending(cpu);
}

/* Where the stub finds operand i: its register, or a copy in *buffer (MMX registers, memory). */
static void *gather(struct cpu *cpu, const struct insn *insn, unsigned i, union simd_buffer *buffer)
{
    const struct operand *operand = &insn->operand[i];
    if (operand->kind == OPERAND_REGISTER && operand->reg_class != CLASS_MMX)
        return simd_place(cpu, operand);
    if (operand->kind == OPERAND_REGISTER)
        buffer->q[0] = cpu->x87.st[place_in_image(cpu, operand->number)].mantissa;
    return buffer;
}

static enum exec_result run(struct cpu *cpu, const struct insn *insn, bool is_sse, bool is_float)
{
    const struct operand *first = &insn->operand[0], *second = &insn->operand[1];
    union simd_buffer buffer[2] = {{{0}}, {{0}}};
    simd_stub *stub = (simd_stub *)(uintptr_t)insn->extra;

    if (!simd_has_feature(cpu, insn->extra) || !mmx_usable(cpu, is_sse))
        return EXEC_LEAVE;
    if (second->kind == OPERAND_MEMORY &&
        !simd_load(cpu, insn, &buffer[1], second->size, second->size == 16))
        return EXEC_LEAVE;
    void *a = gather(cpu, insn, 0, &buffer[0]), *b = gather(cpu, insn, 1, &buffer[1]);
    if (is_float) {
        if (!simd_run_float(cpu, stub, a, first->reg_class == CLASS_XMM ? 16 : 8, b)) {
            enter_mmx(
                cpu); /* processors have made the transition when they find a numeric exception */
            return EXEC_LEAVE;
        }
    } else {
        stub(a, b, cpu);
    }
    if (first->kind == OPERAND_MEMORY && !simd_store(cpu, insn, &buffer[0], first->size, false))
        return store_failed(cpu);
    enter_mmx(cpu);
    if (first->kind == OPERAND_REGISTER && first->reg_class == CLASS_MMX && first->is_written) {
        cpu->x87.st[first->number].mantissa = buffer[0].q[0];
        cpu->x87.st[first->number].exponent = 0xffff;
    }
    return EXEC_NEXT;
}

enum exec_result exec_mmx(struct cpu *cpu, const struct insn *insn)
{
    return run(cpu, insn, false, false);
}
enum exec_result exec_mmx_sse(struct cpu *cpu, const struct insn *insn)
{
    return run(cpu, insn, true, false);
}
enum exec_result exec_mmx_sse_float(struct cpu *cpu, const struct insn *insn)
{
    return run(cpu, insn, true, true);
}

enum exec_result exec_emms(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (!mmx_usable(cpu, false))
        return EXEC_LEAVE;
    x87_set_top(&cpu->x87, 0);
    cpu->x87.tag = 0;
    return EXEC_NEXT;
}

enum exec_result exec_maskmovq(struct cpu *cpu, const struct insn *insn)
{
    union simd_buffer data, mask;
    if (!mmx_usable(cpu, false))
        return EXEC_LEAVE;
    (void)gather(cpu, insn, 0, &data);
    (void)gather(cpu, insn, 1, &mask);
    const bool stored = simd_store_masked(cpu, insn, data.bytes, mask.bytes, 8);
    /* Here they have made the whole transition when the store faults. */
    if (stored || (cpu->leave == LEAVE_FAULT && vendor_sets_top_first(cpu)))
        enter_mmx(cpu);
    if (!stored)
        return EXEC_LEAVE;
    return EXEC_NEXT;
}
