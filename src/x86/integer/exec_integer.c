/*
 * Moves, conversions, LEA, CMOVcc, SETcc, XLAT and the instructions on single flags (SDM 2A, 2B).
 */
#include "x86/integer/condition.h"
#include "x86/integer/exec_sized.h"

/*
 * MOV, MOVZX, MOVNTI: what operand_read delivers is zero-extended already. (MOV with segment, control and
 * debug registers is bound elsewhere.)
 */
static enum exec_result exec_mov(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value;

    return exec_done(operand_read(cpu, insn, 1, &value) && operand_write(cpu, insn, 0, value));
}

static enum exec_result exec_movsx(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value;

    return exec_done(operand_read(cpu, insn, 1, &value) &&
                     operand_write(cpu, insn, 0, sign_extend(value, insn->operand[1].size)));
}

/* 63: with a 16-bit operand size the source has 16 bits, too (SDM 2B MOVSXD), which Zydis does not know. */
static enum exec_result exec_movsxd(struct cpu *cpu, const struct insn *insn)
{
    struct insn narrow;

    if (likely(insn->operand[0].size != 2))
        return exec_movsx(cpu, insn);
    narrow = *insn;
    narrow.operand[1].size = 2;
    return exec_movsx(cpu, &narrow);
}

/* 0f 38 f0 f1 */
static enum exec_result exec_movbe(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand[0].size;
    uint64_t value;

    return exec_done(require(cpu, FEATURE_MOVBE) && operand_read(cpu, insn, 1, &value) &&
                     operand_write(cpu, insn, 0, __builtin_bswap64(value) >> (64 - size * 8)));
}

static enum exec_result exec_lea(struct cpu *cpu, const struct insn *insn)
{
    return exec_done(operand_write(cpu, insn, 0, operand_offset(cpu, insn)));
}

/* 0f 40-4f: the source is read, and a 32-bit destination zero-extended, whatever the condition. */
static enum exec_result exec_cmov(struct cpu *cpu, const struct insn *insn)
{
    const unsigned from = condition(cpu->aflags, insn->opcode & 15) ? 1 : 0;
    uint64_t value[2];

    return exec_done(operand_read(cpu, insn, 0, &value[0]) && operand_read(cpu, insn, 1, &value[1]) &&
                     operand_write(cpu, insn, 0, value[from]));
}

/* 0f 90-9f */
static enum exec_result exec_setcc(struct cpu *cpu, const struct insn *insn)
{
    return exec_done(operand_write(cpu, insn, 0, condition(cpu->aflags, insn->opcode & 15)));
}

/* d7: AL = [rBX + AL], address size, segment override */
static enum exec_result exec_xlat(struct cpu *cpu, const struct insn *insn)
{
    const uint64_t offset = (cpu->gpr[REG_RBX].q + cpu->gpr[REG_RAX].b[0]) & size_mask(insn->address_size);
    gva_t linear;

    return exec_done(seg_linear(cpu, insn->memory.segment, offset, 1, ACCESS_READ, &linear) &&
                     mem_read8(cpu, linear, &cpu->gpr[REG_RAX].b[0]));
}

/* ---- conversions within rAX and rDX (98, 99) ---- */

/* The lower half of rAX into all of it. */
static enum exec_result exec_cbw(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand_size;

    gpr_write(cpu, REG_RAX, size, sign_extend(cpu->gpr[REG_RAX].q, size / 2));
    return EXEC_NEXT;
}

/* The sign of rAX into all of rDX. */
static enum exec_result exec_cwd(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand_size;
    const bool is_negative = sign_extend(cpu->gpr[REG_RAX].q, size) >> 63;

    gpr_write(cpu, REG_RDX, size, is_negative ? ~(uint64_t)0 : 0);
    return EXEC_NEXT;
}

/* ---- flags ---- */

/* In 64-bit mode the two are a feature. */
static bool flags_in_ah(struct cpu *cpu)
{
    return !cpu_is_64(cpu) || require(cpu, FEATURE_LAHF64);
}

/* SF ZF AF PF CF of aflags are AH of LAHF and SAHF but for bit 1, which reads as one. */
static enum exec_result exec_lahf(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (!flags_in_ah(cpu))
        return EXEC_LEAVE;
    cpu->gpr[REG_RAX].b[1] = (uint8_t)(aflags_to_rflags(cpu->aflags & ~AFLAG_OF) | RFLAGS_ONE);
    return EXEC_NEXT;
}

static enum exec_result exec_sahf(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (!flags_in_ah(cpu))
        return EXEC_LEAVE;
    cpu->aflags = (aflags_from_rflags(cpu->gpr[REG_RAX].b[1]) & ~AFLAG_OF) | (cpu->aflags & AFLAG_OF);
    return EXEC_NEXT;
}

static enum exec_result exec_clc(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    cpu->aflags &= ~AFLAG_CF;
    return EXEC_NEXT;
}

static enum exec_result exec_stc(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    cpu->aflags |= AFLAG_CF;
    return EXEC_NEXT;
}

static enum exec_result exec_cmc(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    cpu->aflags ^= AFLAG_CF;
    return EXEC_NEXT;
}

static enum exec_result exec_cld(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    cpu->rflags &= ~RFLAGS_DF;
    return EXEC_NEXT;
}

static enum exec_result exec_std(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    cpu->rflags |= RFLAGS_DF;
    return EXEC_NEXT;
}

/* clang-format off */
#define EACH_CONDITION(prefix, function)                                                           \
    {prefix##O, function, 0}, {prefix##NO, function, 0}, {prefix##B, function, 0}, {prefix##NB, function, 0},   \
    {prefix##Z, function, 0}, {prefix##NZ, function, 0}, {prefix##BE, function, 0}, {prefix##NBE, function, 0}, \
    {prefix##S, function, 0}, {prefix##NS, function, 0}, {prefix##P, function, 0}, {prefix##NP, function, 0},   \
    {prefix##L, function, 0}, {prefix##NL, function, 0}, {prefix##LE, function, 0}, {prefix##NLE, function, 0}

const struct exec_entry exec_integer_table[] = {
    {ZYDIS_MNEMONIC_MOV, exec_mov, 0},        /* 88-8b a0-a3 b0-bf c6 c7 */
    {ZYDIS_MNEMONIC_MOVZX, exec_mov, 0},      /* 0f b6 b7 */
    {ZYDIS_MNEMONIC_MOVSX, exec_movsx, 0},    /* 0f be bf */
    {ZYDIS_MNEMONIC_MOVSXD, exec_movsxd, 0},  /* 63 in 64-bit mode */
    {ZYDIS_MNEMONIC_MOVNTI, exec_mov, 0},     /* 0f c3 */
    {ZYDIS_MNEMONIC_MOVBE, exec_movbe, 0},    /* 0f 38 f0 f1 */
    {ZYDIS_MNEMONIC_LEA, exec_lea, 0},        /* 8d */
    EACH_CONDITION(ZYDIS_MNEMONIC_CMOV, exec_cmov),
    EACH_CONDITION(ZYDIS_MNEMONIC_SET, exec_setcc),
    {ZYDIS_MNEMONIC_XLAT, exec_xlat, 0},      /* d7 */
    {ZYDIS_MNEMONIC_CBW, exec_cbw, 0}, {ZYDIS_MNEMONIC_CWDE, exec_cbw, 0}, {ZYDIS_MNEMONIC_CDQE, exec_cbw, 0},
    {ZYDIS_MNEMONIC_CWD, exec_cwd, 0}, {ZYDIS_MNEMONIC_CDQ, exec_cwd, 0}, {ZYDIS_MNEMONIC_CQO, exec_cwd, 0},
    {ZYDIS_MNEMONIC_LAHF, exec_lahf, 0},      /* 9f */
    {ZYDIS_MNEMONIC_SAHF, exec_sahf, 0},      /* 9e */
    {ZYDIS_MNEMONIC_CMC, exec_cmc, 0},        /* f5 */
    {ZYDIS_MNEMONIC_CLC, exec_clc, 0},        /* f8 */
    {ZYDIS_MNEMONIC_STC, exec_stc, 0},        /* f9 */
    {ZYDIS_MNEMONIC_CLD, exec_cld, 0},        /* fc */
    {ZYDIS_MNEMONIC_STD, exec_std, 0},        /* fd */
    {ZYDIS_MNEMONIC_INVALID, NULL, 0},
};
/* clang-format on */
