/*
 * Decimal adjustment: AAA AAS AAM AAD DAA DAS (SDM 2A; not in 64-bit mode), and SALC. What the manual
 * calls undefined is 0, but for SF ZF PF of AAA and AAS, which follow AL.
 */
#include "x86/integer/exec_sized.h"

static bool flag(const struct cpu *cpu, uint32_t mask) { return cpu->aflags & mask; }

/* SF ZF PF by the value, CF and AF as given, OF 0. */
static void set_flags(struct cpu *cpu, uint8_t value, bool carry, bool adjust)
{
    alu_test8(value, value, &cpu->aflags);
    cpu->aflags = (cpu->aflags & ~(AFLAG_CF | AFLAG_AF)) | (carry ? AFLAG_CF : 0) |
                  (adjust ? AFLAG_AF : 0);
}

static enum exec_result adjust_ascii(struct cpu *cpu, int sign)
{
    const uint16_t ax = cpu->gpr[REG_RAX].w;
    const bool adjust = (ax & 15) > 9 || flag(cpu, AFLAG_AF);
    /* AAA adds 0106h; AAS takes 6 from AX and then 1 from AH. */
    const uint16_t adjusted = (uint16_t)(ax + (adjust ? sign * 0x106 : 0));

    cpu->gpr[REG_RAX].w = adjusted & 0xff0f;
    set_flags(cpu, adjusted & 0x0f, adjust, adjust);
    return EXEC_NEXT;
}

static enum exec_result exec_aaa(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return adjust_ascii(cpu, 1);
}

static enum exec_result exec_aas(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return adjust_ascii(cpu, -1);
}

static enum exec_result adjust_decimal(struct cpu *cpu, int sign)
{
    const uint8_t old = cpu->gpr[REG_RAX].b[0];
    const bool low = (old & 15) > 9 || flag(cpu, AFLAG_AF);
    const bool high = old > 0x99 || flag(cpu, AFLAG_CF);
    const int by = (low ? 6 : 0) + (high ? 0x60 : 0);
    /* DAS alone can borrow in its first step without needing the second. */
    const bool borrow = sign < 0 && low && old < 6;
    const uint8_t adjusted = (uint8_t)(old + sign * by);

    cpu->gpr[REG_RAX].b[0] = adjusted;
    set_flags(cpu, adjusted, high || borrow, low);
    return EXEC_NEXT;
}

static enum exec_result exec_daa(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return adjust_decimal(cpu, 1);
}

static enum exec_result exec_das(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return adjust_decimal(cpu, -1);
}

static enum exec_result exec_aam(struct cpu *cpu, const struct insn *insn)
{
    const uint8_t al = cpu->gpr[REG_RAX].b[0], base = (uint8_t)insn->operand[0].immediate;

    if (base == 0)
        return exec_done(raise_de(cpu));
    cpu->gpr[REG_RAX].b[1] = al / base;
    cpu->gpr[REG_RAX].b[0] = al % base;
    set_flags(cpu, al % base, false, false);
    return EXEC_NEXT;
}

static enum exec_result exec_aad(struct cpu *cpu, const struct insn *insn)
{
    const uint8_t base = (uint8_t)insn->operand[0].immediate;
    const uint8_t al = (uint8_t)(cpu->gpr[REG_RAX].b[0] + cpu->gpr[REG_RAX].b[1] * base);

    cpu->gpr[REG_RAX].w = al;
    set_flags(cpu, al, false, false);
    return EXEC_NEXT;
}

/* Undocumented: AL = CF ? ffh : 0. */
static enum exec_result exec_salc(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    cpu->gpr[REG_RAX].b[0] = flag(cpu, AFLAG_CF) ? 0xff : 0;
    return EXEC_NEXT;
}

/* clang-format off */
const struct exec_entry exec_bcd_table[] = {
    {ZYDIS_MNEMONIC_DAA, exec_daa, 0},   /* 27 */
    {ZYDIS_MNEMONIC_DAS, exec_das, 0},   /* 2f */
    {ZYDIS_MNEMONIC_AAA, exec_aaa, 0},   /* 37 */
    {ZYDIS_MNEMONIC_AAS, exec_aas, 0},   /* 3f */
    {ZYDIS_MNEMONIC_AAM, exec_aam, 0},   /* d4 */
    {ZYDIS_MNEMONIC_AAD, exec_aad, 0},   /* d5 */
    {ZYDIS_MNEMONIC_SALC, exec_salc, 0}, /* d6 */
    {ZYDIS_MNEMONIC_INVALID, NULL, 0},
};
/* clang-format on */
