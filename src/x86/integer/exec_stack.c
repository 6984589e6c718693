/*
 * PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE, BOUND (SDM 2A, 2B).
 *
 * The width of an element is the operand size, the width of the stack pointer is insn->stack_size; stack_*
 * know the latter. Elements below the stack pointer may have been written when an instruction faults
 * half-way: RSP has not moved, and the repeated instruction writes the same.
 */
#include "x86/integer/exec_sized.h"

/* ---- PUSH and POP ---- */

/* (Segment registers are bound elsewhere, exec_segment.c.) */
static enum exec_result exec_push(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value;

    return exec_done(operand_read(cpu, insn, 0, &value) && stack_push(cpu, insn->operand_size, value));
}

/* RSP is incremented before it takes part in the destination's address, and before POP RSP writes it. */
static enum exec_result exec_pop(struct cpu *cpu, const struct insn *insn)
{
    const uint64_t rsp = cpu->gpr[REG_RSP].q;
    uint64_t value;

    if (!stack_pop(cpu, insn->operand_size, &value))
        return EXEC_LEAVE;
    if (operand_write(cpu, insn, 0, value))
        return EXEC_NEXT;
    cpu->gpr[REG_RSP].q = rsp;
    return EXEC_LEAVE;
}

/* 60: AX CX DX BX, the old SP, BP SI DI. */
static enum exec_result exec_pusha(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand_size;

    for (unsigned i = 0; i < 8; i++)
        if (!stack_write(cpu, -(int64_t)((i + 1) * size), size, gpr_read(cpu, i, size)))
            return EXEC_LEAVE;
    stack_adjust(cpu, -(int64_t)(8 * size));
    return EXEC_NEXT;
}

/* 61: the other way round; the image of SP is skipped. */
static enum exec_result exec_popa(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand_size;
    uint64_t values[8];
    unsigned left = 8;

    while (left && stack_read(cpu, (int64_t)((8 - left) * size), size, &values[left - 1]))
        left--;
    /* What was read before a fault goes to its register, on silicon too; rSP is as it was, and POPA starts again. Of an exit
     * nothing has happened. */
    if (left && cpu->leave != LEAVE_FAULT)
        return EXEC_LEAVE;
    for (unsigned i = 8; i-- > left;)
        if (i != REG_RSP)
            gpr_write(cpu, i, size, values[i]);
    if (left)
        return EXEC_LEAVE;
    stack_adjust(cpu, (int64_t)(8 * size));
    return EXEC_NEXT;
}

/* ---- PUSHF and POPF ---- */

static unsigned iopl(const struct cpu *cpu) { return (cpu->rflags & RFLAGS_IOPL) >> 12; }

/* Virtual-8086 mode with IOPL < 3: only 16-bit forms, and only with CR4.VME (SDM 3B 21.3). */
static bool is_virtual_flags(const struct cpu *cpu) { return cpu_is_v86(cpu) && iopl(cpu) < 3; }

static bool virtual_flags_allowed(struct cpu *cpu, const struct insn *insn)
{
    if (!(cpu->cr4 & CR4_VME) || insn->operand_size != 2)
        return raise_gp(cpu, 0);
    return true;
}

/* 9c: VM and RF are pushed as 0. */
static enum exec_result exec_pushf(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value = cpu_rflags(cpu) & ~(RFLAGS_VM | RFLAGS_RF);

    if (is_virtual_flags(cpu)) {
        if (!virtual_flags_allowed(cpu, insn))
            return EXEC_LEAVE;
        value = (value & ~RFLAGS_IF) | RFLAGS_IOPL | (value & RFLAGS_VIF ? RFLAGS_IF : 0);
    }
    return exec_done(stack_push(cpu, insn->operand_size, value));
}

/* The bits POPF changes (SDM 2B POPF, table 4-16); RF is always cleared, VM VIF VIP stay. */
static uint64_t popf_mask(const struct cpu *cpu, unsigned size)
{
    uint64_t mask = RFLAGS_ARITHMETIC | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID;

    if (cpu_is_real(cpu) || (cpu->cpl == 0 && !cpu_is_v86(cpu)))
        mask |= RFLAGS_IOPL | RFLAGS_IF;
    else if (cpu->cpl <= iopl(cpu))
        mask |= RFLAGS_IF;
    return mask & size_mask(size);
}

/* VME: IF of the image goes to VIF; #GP(0) when it would let a pending virtual interrupt in, or for TF. */
static bool popf_virtual(struct cpu *cpu, const struct insn *insn, uint64_t *value, uint64_t *mask)
{
    if (!virtual_flags_allowed(cpu, insn))
        return false;
    if ((*value & RFLAGS_TF) || ((*value & RFLAGS_IF) && (cpu->rflags & RFLAGS_VIP)))
        return raise_gp(cpu, 0);
    *mask = (*mask & ~(RFLAGS_IF | RFLAGS_IOPL)) | RFLAGS_VIF;
    *value = (*value & ~RFLAGS_VIF) | (*value & RFLAGS_IF ? RFLAGS_VIF : 0);
    return true;
}

/* 9d */
static enum exec_result exec_popf(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand_size;
    uint64_t mask = popf_mask(cpu, size);
    uint64_t value;

    if (is_virtual_flags(cpu) && !virtual_flags_allowed(cpu, insn))
        return EXEC_LEAVE;
    if (!stack_read(cpu, 0, size, &value))
        return EXEC_LEAVE;
    if (is_virtual_flags(cpu) && !popf_virtual(cpu, insn, &value, &mask))
        return EXEC_LEAVE;
    stack_adjust(cpu, size);
    cpu_set_rflags(cpu, (cpu_rflags(cpu) & ~(mask | RFLAGS_RF)) | (value & mask));
    cpu_interrupts_enabled(cpu);
    return EXEC_END;
}

/* ---- frames ---- */

static uint64_t stack_mask(const struct insn *insn) { return size_mask(insn->stack_size); }

/* From the stack pointer to where rBP points. */
static int64_t frame_displacement(const struct cpu *cpu, const struct insn *insn)
{
    return (int64_t)((cpu->gpr[REG_RBP].q & stack_mask(insn)) - (cpu->gpr[REG_RSP].q & stack_mask(insn)));
}

/* Push the frame pointers of the enclosing levels and the new one behind the saved rBP. */
static bool enter_display(struct cpu *cpu, const struct insn *insn, unsigned level, uint64_t frame)
{
    const unsigned size = insn->operand_size;
    const int64_t old = frame_displacement(cpu, insn);
    uint64_t value;

    for (unsigned i = 1; i < level; i++)
        if (!stack_read(cpu, old - (int64_t)(i * size), size, &value) ||
            !stack_write(cpu, -(int64_t)((i + 1) * size), size, value))
            return false;
    return level == 0 || stack_write(cpu, -(int64_t)((level + 1) * size), size, frame);
}

/* c8 iw ib. An element at the final stack pointer must be writable, too (SDM 2A ENTER). */
static enum exec_result exec_enter(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand_size, level = insn->operand[1].immediate & 31;
    const uint64_t rsp = cpu->gpr[REG_RSP].q;
    /* A 16-bit stack pointer, but 32 bits of rBP: the upper half is ESP's. */
    const uint64_t frame = ((rsp - size) & stack_mask(insn)) | (rsp & ~stack_mask(insn));
    const int64_t depth = (int64_t)((level + 1) * size + (insn->operand[0].immediate & 0xffff));
    gva_t last;

    if (!stack_write(cpu, -(int64_t)size, size, gpr_read(cpu, REG_RBP, size)) ||
        !enter_display(cpu, insn, level, frame) ||
        !seg_linear(cpu, SEG_SS, (rsp - (uint64_t)depth) & stack_mask(insn), size, ACCESS_WRITE, &last) ||
        !mem_probe(cpu, last, size, ACCESS_WRITE, MEM_CURRENT))
        return EXEC_LEAVE;
    gpr_write(cpu, REG_RBP, size, frame);
    stack_adjust(cpu, -depth);
    return EXEC_NEXT;
}

/* c9: rSP = rBP, POP rBP */
static enum exec_result exec_leave(struct cpu *cpu, const struct insn *insn)
{
    const int64_t displacement = frame_displacement(cpu, insn);
    const unsigned size = insn->operand_size;
    uint64_t value;

    if (!stack_read(cpu, displacement, size, &value))
        return EXEC_LEAVE;
    stack_adjust(cpu, displacement + (int64_t)size);
    gpr_write(cpu, REG_RBP, size, value);
    return EXEC_NEXT;
}

/* One of the bounds, sign-extended. */
static bool read_bound(struct cpu *cpu, gva_t linear, unsigned size, int64_t *bound)
{
    uint64_t value = 0;

    if (!mem_read(cpu, linear, &value, size, MEM_CURRENT))
        return false;
    *bound = (int64_t)sign_extend(value, size);
    return true;
}

/* 62: both bounds belong to the range. The upper one is not read when the lower one has failed, as on silicon. */
static enum exec_result exec_bound(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand_size;
    const int64_t index = (int64_t)sign_extend(gpr_read(cpu, insn->operand[0].number, size), size);
    struct insn second = *insn; /* the bounds are two operands: the lower one is checked and read first */
    int64_t lower, upper;
    gva_t linear;

    if (!operand_linear(cpu, insn, size, ACCESS_READ, &linear) || !read_bound(cpu, linear, size, &lower))
        return EXEC_LEAVE;
    second.memory.displacement += size;
    if (index < lower)
        return exec_done(raise_fault(cpu, VECTOR_BR));
    if (!operand_linear(cpu, &second, size, ACCESS_READ, &linear) || !read_bound(cpu, linear, size, &upper))
        return EXEC_LEAVE;
    return index <= upper ? EXEC_NEXT : exec_done(raise_fault(cpu, VECTOR_BR));
}

/* clang-format off */
const struct exec_entry exec_stack_table[] = {
    {ZYDIS_MNEMONIC_PUSH, exec_push, 0},   /* 50-57 68 6a, ff /6 */
    {ZYDIS_MNEMONIC_POP, exec_pop, 0},     /* 58-5f, 8f /0 */
    {ZYDIS_MNEMONIC_PUSHA, exec_pusha, 0}, {ZYDIS_MNEMONIC_PUSHAD, exec_pusha, 0}, /* 60 */
    {ZYDIS_MNEMONIC_POPA, exec_popa, 0}, {ZYDIS_MNEMONIC_POPAD, exec_popa, 0},     /* 61 */
    {ZYDIS_MNEMONIC_PUSHF, exec_pushf, 0}, {ZYDIS_MNEMONIC_PUSHFD, exec_pushf, 0},
    {ZYDIS_MNEMONIC_PUSHFQ, exec_pushf, 0}, /* 9c */
    {ZYDIS_MNEMONIC_POPF, exec_popf, 1}, {ZYDIS_MNEMONIC_POPFD, exec_popf, 1},
    {ZYDIS_MNEMONIC_POPFQ, exec_popf, 1},   /* 9d */
    {ZYDIS_MNEMONIC_ENTER, exec_enter, 0}, /* c8 */
    {ZYDIS_MNEMONIC_LEAVE, exec_leave, 0}, /* c9 */
    {ZYDIS_MNEMONIC_BOUND, exec_bound, 0}, /* 62 */
    {ZYDIS_MNEMONIC_INVALID, NULL, 0},
};
/* clang-format on */
