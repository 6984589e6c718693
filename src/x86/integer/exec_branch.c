/*
 * Near CALL, JMP, RET, Jcc, LOOP, JrCXZ (SDM 2A, 2B). The far forms are bound elsewhere (exec_far.c).
 *
 * The operand size of a branch in 64-bit mode is the decoder's decision: 8 always for Intel, which
 * ignores prefix 66; 2 under that prefix for AMD. Displacements count from the next instruction.
 */
#include "x86/integer/exec_branch.h"

#include "x86/integer/condition.h"
#include "x86/integer/exec_sized.h"
#include "x86/system/control.h"

bool branch_target(struct cpu *cpu, unsigned size, uint64_t *target)
{
    *target &= size_mask(size);
    if (cpu_is_64(cpu) ? !cpu_is_canonical(cpu, *target) : *target > cpu->segment[SEG_CS].limit)
        return raise_gp(cpu, 0);
    return true;
}

static enum exec_result go(struct cpu *cpu, uint64_t target)
{
    cpu->next_rip = target;
    return EXEC_END;
}

/* The target of operand 0, not checked yet: relative or absolute. */
static bool read_target(struct cpu *cpu, const struct insn *insn, uint64_t *target)
{
    if (insn->operand[0].kind != OPERAND_IMMEDIATE)
        return operand_read(cpu, insn, 0, target);
    *target = cpu->next_rip + insn->operand[0].immediate;
    return true;
}

static enum exec_result exec_jmp(struct cpu *cpu, const struct insn *insn)
{
    uint64_t target;

    if (!read_target(cpu, insn, &target) || !branch_target(cpu, insn->operand_size, &target))
        return EXEC_LEAVE;
    return go(cpu, target);
}

/* The return address is stored before the target is checked, as on silicon; RSP moves last. */
static enum exec_result exec_call(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand_size;
    uint64_t target;

    if (!read_target(cpu, insn, &target) || !stack_write(cpu, -(int64_t)size, size, cpu->next_rip) ||
        !branch_target(cpu, size, &target))
        return EXEC_LEAVE;
    stack_adjust(cpu, -(int64_t)size);
    return go(cpu, target);
}

/* c3, c2 iw: the immediate is released after the return address. */
static enum exec_result exec_ret(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand_size;
    const uint16_t release = insn->operand_count ? (uint16_t)insn->operand[0].immediate : 0;
    uint64_t target;

    if (!stack_read(cpu, 0, size, &target) || !branch_target(cpu, size, &target))
        return EXEC_LEAVE;
    stack_adjust(cpu, (int64_t)size + release);
    return go(cpu, target);
}

/* 70-7f, 0f 80-8f */
static enum exec_result exec_jcc(struct cpu *cpu, const struct insn *insn)
{
    if (!condition(cpu->aflags, insn->opcode & 15))
        return EXEC_END;
    return exec_jmp(cpu, insn);
}

/* e0 LOOPNE, e1 LOOPE, e2 LOOP: the counter is of the address size. */
static enum exec_result exec_loop(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->address_size;
    const uint64_t count = (gpr_read(cpu, REG_RCX, size) - 1) & size_mask(size);
    uint64_t target = cpu->next_rip;
    bool taken = count != 0;

    if (insn->opcode != 0xe2)
        taken = taken && cond_z(cpu->aflags) == (insn->opcode == 0xe1);
    if (taken && (!read_target(cpu, insn, &target) || !branch_target(cpu, insn->operand_size, &target)))
        return EXEC_LEAVE;
    gpr_write(cpu, REG_RCX, size, count);
    return go(cpu, target);
}

/* e3 */
static enum exec_result exec_jrcxz(struct cpu *cpu, const struct insn *insn)
{
    if (gpr_read(cpu, REG_RCX, insn->address_size) != 0)
        return EXEC_END;
    return exec_jmp(cpu, insn);
}

/* clang-format off */
const struct exec_entry exec_branch_table[] = {
    {ZYDIS_MNEMONIC_JMP, exec_jmp, 1},         /* e9 eb, ff /4 */
    {ZYDIS_MNEMONIC_CALL, exec_call, 1},       /* e8, ff /2 */
    {ZYDIS_MNEMONIC_RET, exec_ret, 1},         /* c2 c3 */
    {ZYDIS_MNEMONIC_JO, exec_jcc, 1},  {ZYDIS_MNEMONIC_JNO, exec_jcc, 1},
    {ZYDIS_MNEMONIC_JB, exec_jcc, 1},  {ZYDIS_MNEMONIC_JNB, exec_jcc, 1},
    {ZYDIS_MNEMONIC_JZ, exec_jcc, 1},  {ZYDIS_MNEMONIC_JNZ, exec_jcc, 1},
    {ZYDIS_MNEMONIC_JBE, exec_jcc, 1}, {ZYDIS_MNEMONIC_JNBE, exec_jcc, 1},
    {ZYDIS_MNEMONIC_JS, exec_jcc, 1},  {ZYDIS_MNEMONIC_JNS, exec_jcc, 1},
    {ZYDIS_MNEMONIC_JP, exec_jcc, 1},  {ZYDIS_MNEMONIC_JNP, exec_jcc, 1},
    {ZYDIS_MNEMONIC_JL, exec_jcc, 1},  {ZYDIS_MNEMONIC_JNL, exec_jcc, 1},
    {ZYDIS_MNEMONIC_JLE, exec_jcc, 1}, {ZYDIS_MNEMONIC_JNLE, exec_jcc, 1},
    {ZYDIS_MNEMONIC_LOOPNE, exec_loop, 1},     /* e0 */
    {ZYDIS_MNEMONIC_LOOPE, exec_loop, 1},      /* e1 */
    {ZYDIS_MNEMONIC_LOOP, exec_loop, 1},       /* e2 */
    {ZYDIS_MNEMONIC_JCXZ, exec_jrcxz, 1}, {ZYDIS_MNEMONIC_JECXZ, exec_jrcxz, 1},
    {ZYDIS_MNEMONIC_JRCXZ, exec_jrcxz, 1},     /* e3 */
    {ZYDIS_MNEMONIC_INVALID, NULL, 0},
};
/* clang-format on */
