#include "x86/integer/exec_sized.h"

uint64_t sized_compute(uint64_t old, void *context)
{
    struct sized_work *work = context;

    work->old = old;
    work->after = work->before;
    return work->kernel(old, work->b, work->size, &work->after);
}

enum exec_result sized_modify(struct cpu *cpu, const struct insn *insn, sized_kernel *kernel, uint64_t b)
{
    struct sized_work work = {
        .kernel = kernel, .b = b, .size = insn->operand[0].size, .before = cpu->aflags};

    if (!operand_modify(cpu, insn, 0, sized_compute, &work))
        return EXEC_LEAVE;
    cpu->aflags = work.after;
    return EXEC_NEXT;
}

enum exec_result sized_binary(struct cpu *cpu, const struct insn *insn, sized_kernel *kernel)
{
    uint64_t b;

    if (!operand_read(cpu, insn, 1, &b))
        return EXEC_LEAVE;
    return sized_modify(cpu, insn, kernel, b);
}

enum exec_result sized_assign(struct cpu *cpu, const struct insn *insn, sized_kernel *kernel, uint64_t b)
{
    uint64_t a, result;
    uint32_t aflags = cpu->aflags;

    if (!operand_read(cpu, insn, 1, &a))
        return EXEC_LEAVE;
    result = kernel(a, b, insn->operand[0].size, &aflags);
    if (!operand_write(cpu, insn, 0, result))
        return EXEC_LEAVE;
    cpu->aflags = aflags;
    return EXEC_NEXT;
}
