#include "x86/exec_sized.h"

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

/* SDM 2A 2.1.1: group 2 prefixes. In 64-bit mode only FS and GS count (SDM 1 3.3.7.1). */
enum segment_index implicit_segment(const struct cpu *cpu, const struct insn *insn)
{
    enum segment_index segment = SEG_DS;
    const bool is_64 = cpu_is_64(cpu);

    for (unsigned i = 0; i < insn->length; i++) {
        switch (insn->bytes[i]) {
        case 0x26: segment = is_64 ? segment : SEG_ES; break;
        case 0x2e: segment = is_64 ? segment : SEG_CS; break;
        case 0x36: segment = is_64 ? segment : SEG_SS; break;
        case 0x3e: segment = is_64 ? segment : SEG_DS; break;
        case 0x64: segment = SEG_FS; break;
        case 0x65: segment = SEG_GS; break;
        case 0x66: case 0x67: case 0xf0: case 0xf2: case 0xf3: break;
        default: return segment;
        }
    }
    return segment;
}
