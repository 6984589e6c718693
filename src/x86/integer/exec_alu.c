/*
 * ADD .. CMP, TEST, INC, DEC, NEG, NOT, ADCX, ADOX, XCHG, XADD, CMPXCHG and its wide forms, for every
 * operand form (SDM 2A-2C under each name).
 */
#include "x86/integer/exec_sized.h"

#include "x86/integer/alu_bits.h"

#define BINARY(name)                                                                               \
    SIZED_KERNEL(name, alu_##name)                                                                 \
    static enum exec_result exec_##name(struct cpu *cpu, const struct insn *insn)                  \
    {                                                                                              \
        return sized_binary(cpu, insn, name##_sized);                                              \
    }

#define UNARY(name)                                                                                \
    SIZED_KERNEL_UNARY(name, alu_##name)                                                           \
    static enum exec_result exec_##name(struct cpu *cpu, const struct insn *insn)                  \
    {                                                                                              \
        return sized_modify(cpu, insn, name##_sized, 0);                                           \
    }

/* clang-format off */
BINARY(add) BINARY(or) BINARY(adc) BINARY(sbb) BINARY(and) BINARY(sub) BINARY(xor)
UNARY(inc) UNARY(dec) UNARY(neg)
/* clang-format on */

static uint64_t not_sized(uint64_t a, uint64_t b, unsigned size, uint32_t *aflags)
{
    (void)b, (void)size, (void)aflags;
    return ~a;
}

static enum exec_result exec_not(struct cpu *cpu, const struct insn *insn)
{
    return sized_modify(cpu, insn, not_sized, 0);
}

/* CMP and TEST as kernels that return the destination as it was. */
#define COMPARE(name)                                                                              \
    static uint64_t name##_sized(uint64_t a, uint64_t b, unsigned size, uint32_t *aflags)          \
    {                                                                                              \
        switch (size) {                                                                            \
        case 1: alu_##name##8((uint8_t)a, (uint8_t)b, aflags); break;                              \
        case 2: alu_##name##16((uint16_t)a, (uint16_t)b, aflags); break;                           \
        case 4: alu_##name##32((uint32_t)a, (uint32_t)b, aflags); break;                           \
        default: alu_##name##64(a, b, aflags); break;                                              \
        }                                                                                          \
        return a;                                                                                  \
    }                                                                                              \
    static enum exec_result exec_##name(struct cpu *cpu, const struct insn *insn)                  \
    {                                                                                              \
        uint64_t a, b;                                                                             \
        if (!operand_read(cpu, insn, 0, &a) || !operand_read(cpu, insn, 1, &b))                    \
            return EXEC_LEAVE;                                                                     \
        name##_sized(a, b, insn->operand[0].size, &cpu->aflags);                                   \
        return EXEC_NEXT;                                                                          \
    }

COMPARE(cmp)
COMPARE(test)

static uint64_t adcx_sized(uint64_t a, uint64_t b, unsigned size, uint32_t *aflags)
{
    return size == 8 ? alu_adcx64(a, b, aflags) : alu_adcx32((uint32_t)a, (uint32_t)b, aflags);
}

static enum exec_result exec_adcx(struct cpu *cpu, const struct insn *insn)
{
    if (!require(cpu, FEATURE_ADX))
        return EXEC_LEAVE;
    return sized_binary(cpu, insn, adcx_sized);
}

static uint64_t adox_sized(uint64_t a, uint64_t b, unsigned size, uint32_t *aflags)
{
    return size == 8 ? alu_adox64(a, b, aflags) : alu_adox32((uint32_t)a, (uint32_t)b, aflags);
}

static enum exec_result exec_adox(struct cpu *cpu, const struct insn *insn)
{
    if (!require(cpu, FEATURE_ADX))
        return EXEC_LEAVE;
    return sized_binary(cpu, insn, adox_sized);
}

/* ---- exchanges ---- */

static uint64_t replace_sized(uint64_t a, uint64_t b, unsigned size, uint32_t *aflags)
{
    (void)a, (void)size, (void)aflags;
    return b;
}

/* Registers: both are read before either is written. Memory: locked, and memory is the first to change. */
static bool exchange(struct cpu *cpu, const struct insn *insn, sized_kernel *kernel)
{
    struct sized_work work = {
        .kernel = kernel, .size = insn->operand[0].size, .before = cpu->aflags};
    uint64_t result;

    if (!operand_read(cpu, insn, 1, &work.b))
        return false;
    if (operand_is_memory(insn, 0)) {
        if (!operand_modify(cpu, insn, 0, sized_compute, &work) ||
            !operand_write(cpu, insn, 1, work.old))
            return false;
    } else {
        if (!operand_read(cpu, insn, 0, &work.old))
            return false;
        result = sized_compute(work.old, &work);
        if (!operand_write(cpu, insn, 1, work.old) || !operand_write(cpu, insn, 0, result))
            return false;
    }
    cpu->aflags = work.after;
    return true;
}

static enum exec_result exec_xchg(struct cpu *cpu, const struct insn *insn)
{
    return exec_done(exchange(cpu, insn, replace_sized));
}

static enum exec_result exec_xadd(struct cpu *cpu, const struct insn *insn)
{
    return exec_done(exchange(cpu, insn, add_sized));
}

struct cmpxchg {
    uint64_t accumulator, desired, old;
};

static uint64_t cmpxchg_compute(uint64_t old, void *context)
{
    struct cmpxchg *c = context;

    c->old = old;
    return old == c->accumulator ? c->desired : old;
}

/*
 * The destination is written in either case; the accumulator only when they differ (SDM 2A CMPXCHG). A
 * 32-bit register destination that differs is not written: its upper half stays, as on silicon.
 */
static enum exec_result exec_cmpxchg(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand[0].size;
    struct cmpxchg c = {.accumulator = gpr_read(cpu, REG_RAX, size)};

    if (!operand_read(cpu, insn, 1, &c.desired))
        return EXEC_LEAVE;
    if (operand_is_memory(insn, 0)) {
        if (!operand_modify(cpu, insn, 0, cmpxchg_compute, &c))
            return EXEC_LEAVE;
    } else {
        if (!operand_read(cpu, insn, 0, &c.old))
            return EXEC_LEAVE;
        if (c.old == c.accumulator && !operand_write(cpu, insn, 0, c.desired))
            return EXEC_LEAVE;
    }
    cmp_sized(c.accumulator, c.old, size, &cpu->aflags);
    if (c.old != c.accumulator)
        gpr_write(cpu, REG_RAX, size, c.old);
    return EXEC_NEXT;
}

static void set_zf(struct cpu *cpu, bool is)
{
    cpu->aflags = (cpu->aflags & ~AFLAG_ZF) | (is ? AFLAG_ZF : 0);
}

static enum exec_result exec_cmpxchg8b(struct cpu *cpu, const struct insn *insn)
{
    struct cmpxchg c = {
        .accumulator = (uint64_t)cpu->gpr[REG_RDX].d << 32 | cpu->gpr[REG_RAX].d,
        .desired = (uint64_t)cpu->gpr[REG_RCX].d << 32 | cpu->gpr[REG_RBX].d};

    if (!operand_modify(cpu, insn, 0, cmpxchg_compute, &c))
        return EXEC_LEAVE;
    set_zf(cpu, c.old == c.accumulator);
    if (c.old != c.accumulator) {
        cpu->gpr[REG_RAX].q = (uint32_t)c.old;
        cpu->gpr[REG_RDX].q = c.old >> 32;
    }
    return EXEC_NEXT;
}

static enum exec_result exec_cmpxchg16b(struct cpu *cpu, const struct insn *insn)
{
    uint64_t expected[2] = {cpu->gpr[REG_RAX].q, cpu->gpr[REG_RDX].q};
    const uint64_t desired[2] = {cpu->gpr[REG_RBX].q, cpu->gpr[REG_RCX].q};
    gva_t linear;
    bool equal;

    if (!require(cpu, FEATURE_CX16) || !operand_linear_aligned(cpu, insn, 16, 16, ACCESS_WRITE, &linear))
        return EXEC_LEAVE;
    if (!mem_cas128(cpu, linear, expected, desired, &equal))
        return EXEC_LEAVE;
    set_zf(cpu, equal);
    if (!equal) {
        cpu->gpr[REG_RAX].q = expected[0];
        cpu->gpr[REG_RDX].q = expected[1];
    }
    return EXEC_NEXT;
}

/* clang-format off */
const struct exec_entry exec_alu_table[] = {
    {ZYDIS_MNEMONIC_ADD, exec_add, 0},           /* 00-05, 80-83 /0 */
    {ZYDIS_MNEMONIC_OR, exec_or, 0},             /* 08-0d, /1 */
    {ZYDIS_MNEMONIC_ADC, exec_adc, 0},           /* 10-15, /2 */
    {ZYDIS_MNEMONIC_SBB, exec_sbb, 0},           /* 18-1d, /3 */
    {ZYDIS_MNEMONIC_AND, exec_and, 0},           /* 20-25, /4 */
    {ZYDIS_MNEMONIC_SUB, exec_sub, 0},           /* 28-2d, /5 */
    {ZYDIS_MNEMONIC_XOR, exec_xor, 0},           /* 30-35, /6 */
    {ZYDIS_MNEMONIC_CMP, exec_cmp, 0},           /* 38-3d, /7 */
    {ZYDIS_MNEMONIC_TEST, exec_test, 0},         /* 84 85 a8 a9, f6 f7 /0 /1 */
    {ZYDIS_MNEMONIC_INC, exec_inc, 0},           /* 40-47, fe ff /0 */
    {ZYDIS_MNEMONIC_DEC, exec_dec, 0},           /* 48-4f, fe ff /1 */
    {ZYDIS_MNEMONIC_NOT, exec_not, 0},           /* f6 f7 /2 */
    {ZYDIS_MNEMONIC_NEG, exec_neg, 0},           /* f6 f7 /3 */
    {ZYDIS_MNEMONIC_ADCX, exec_adcx, 0},         /* 66 0f 38 f6 */
    {ZYDIS_MNEMONIC_ADOX, exec_adox, 0},         /* f3 0f 38 f6 */
    {ZYDIS_MNEMONIC_XCHG, exec_xchg, 0},         /* 86 87 90-97 */
    {ZYDIS_MNEMONIC_XADD, exec_xadd, 0},         /* 0f c0 c1 */
    {ZYDIS_MNEMONIC_CMPXCHG, exec_cmpxchg, 0},   /* 0f b0 b1 */
    {ZYDIS_MNEMONIC_CMPXCHG8B, exec_cmpxchg8b, 0},   /* 0f c7 /1 */
    {ZYDIS_MNEMONIC_CMPXCHG16B, exec_cmpxchg16b, 0}, /* REX.W 0f c7 /1 */
    {ZYDIS_MNEMONIC_INVALID, NULL, 0},
};
/* clang-format on */
