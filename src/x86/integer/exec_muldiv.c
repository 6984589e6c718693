/* MUL, IMUL, DIV, IDIV, MULX (SDM 2A, 2B). */
#include "x86/integer/exec_sized.h"

#include "x86/integer/alu_bits.h"
#include "x86/integer/alu_muldiv.h"

/* The register pair of group 3: AH:AL for bytes, else rDX:rAX. */
struct pair {
    uint64_t high, low;
};

static struct pair pair_read(const struct cpu *cpu, unsigned size)
{
    if (size == 1)
        return (struct pair){cpu->gpr[REG_RAX].b[1], cpu->gpr[REG_RAX].b[0]};
    return (struct pair){gpr_read(cpu, REG_RDX, size), gpr_read(cpu, REG_RAX, size)};
}

static void pair_write(struct cpu *cpu, unsigned size, struct pair pair)
{
    if (size == 1) {
        cpu->gpr[REG_RAX].b[0] = (uint8_t)pair.low;
        cpu->gpr[REG_RAX].b[1] = (uint8_t)pair.high;
    } else {
        gpr_write(cpu, REG_RAX, size, pair.low);
        gpr_write(cpu, REG_RDX, size, pair.high);
    }
}

/* One of the multiplications or divisions on a pair; false is #DE. */
typedef bool pair_kernel(struct pair *pair, uint64_t b, unsigned size, uint32_t *aflags);

#define MULTIPLY(name)                                                                             \
    static bool name##_pair(struct pair *p, uint64_t b, unsigned size, uint32_t *aflags)           \
    {                                                                                              \
        uint8_t h8;                                                                                \
        uint16_t h16;                                                                              \
        uint32_t h32;                                                                              \
        switch (size) {                                                                            \
        case 1:                                                                                    \
            p->low = alu_##name##8((uint8_t)p->low, (uint8_t)b, &h8, aflags);                      \
            p->high = h8;                                                                          \
            break;                                                                                 \
        case 2:                                                                                    \
            p->low = alu_##name##16((uint16_t)p->low, (uint16_t)b, &h16, aflags);                  \
            p->high = h16;                                                                         \
            break;                                                                                 \
        case 4:                                                                                    \
            p->low = alu_##name##32((uint32_t)p->low, (uint32_t)b, &h32, aflags);                  \
            p->high = h32;                                                                         \
            break;                                                                                 \
        default: p->low = alu_##name##64(p->low, b, &p->high, aflags); break;                      \
        }                                                                                          \
        return true;                                                                               \
    }

#define DIVIDE_SIZED(name, bits)                                                                   \
    uint##bits##_t high = (uint##bits##_t)p->high, low = (uint##bits##_t)p->low;                   \
    const bool good = alu_##name##bits(&high, &low, (uint##bits##_t)b);                            \
    p->high = high;                                                                                \
    p->low = low;                                                                                  \
    return good

#define DIVIDE(name)                                                                               \
    static bool name##_pair(struct pair *p, uint64_t b, unsigned size, uint32_t *aflags)           \
    {                                                                                              \
        (void)aflags;                                                                              \
        switch (size) {                                                                            \
        case 1: {                                                                                  \
            DIVIDE_SIZED(name, 8);                                                                 \
        }                                                                                          \
        case 2: {                                                                                  \
            DIVIDE_SIZED(name, 16);                                                                \
        }                                                                                          \
        case 4: {                                                                                  \
            DIVIDE_SIZED(name, 32);                                                                \
        }                                                                                          \
        default: {                                                                                 \
            DIVIDE_SIZED(name, 64);                                                                \
        }                                                                                          \
        }                                                                                          \
    }

/* clang-format off */
MULTIPLY(mul) MULTIPLY(imul) DIVIDE(div) DIVIDE(idiv)
/* clang-format on */

static enum exec_result group3(struct cpu *cpu, const struct insn *insn, pair_kernel *kernel)
{
    const unsigned size = insn->operand[0].size;
    struct pair pair = pair_read(cpu, size);
    uint32_t aflags = cpu->aflags;
    uint64_t b;

    if (!operand_read(cpu, insn, 0, &b))
        return EXEC_LEAVE;
    if (!kernel(&pair, b, size, &aflags))
        return exec_done(raise_de(cpu));
    pair_write(cpu, size, pair);
    cpu->aflags = aflags;
    return EXEC_NEXT;
}

static enum exec_result exec_mul(struct cpu *cpu, const struct insn *insn)
{
    return group3(cpu, insn, mul_pair);
}

static enum exec_result exec_div(struct cpu *cpu, const struct insn *insn)
{
    return group3(cpu, insn, div_pair);
}

static enum exec_result exec_idiv(struct cpu *cpu, const struct insn *insn)
{
    return group3(cpu, insn, idiv_pair);
}

SIZED_KERNEL_WORDS(imul2, alu_imul2_)

/* Three shapes: f6/f7 /5; 0f af r, r/m; 69/6b r, r/m, imm. */
static enum exec_result exec_imul(struct cpu *cpu, const struct insn *insn)
{
    uint64_t b;

    switch (insn->operand_count) {
    case 1: return group3(cpu, insn, imul_pair);
    case 2: return sized_binary(cpu, insn, imul2_sized);
    default:
        if (!operand_read(cpu, insn, 2, &b))
            return EXEC_LEAVE;
        return sized_assign(cpu, insn, imul2_sized, b);
    }
}

/* VEX f2 0f 38 f6: operand 0 high, operand 1 low (the high one wins when they are the same). */
static enum exec_result exec_mulx(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand[0].size;
    uint64_t b, low, high;
    uint32_t high32;

    if (!require_vex(cpu, FEATURE_BMI2) || !operand_read(cpu, insn, 2, &b))
        return EXEC_LEAVE;
    if (size == 8) {
        low = alu_mulx64(cpu->gpr[REG_RDX].q, b, &high);
    } else {
        low = alu_mulx32(cpu->gpr[REG_RDX].d, (uint32_t)b, &high32);
        high = high32;
    }
    return exec_done(operand_write(cpu, insn, 1, low) && operand_write(cpu, insn, 0, high));
}

/* clang-format off */
const struct exec_entry exec_muldiv_table[] = {
    {ZYDIS_MNEMONIC_MUL, exec_mul, 0},   /* f6 f7 /4 */
    {ZYDIS_MNEMONIC_IMUL, exec_imul, 0}, /* f6 f7 /5, 0f af, 69, 6b */
    {ZYDIS_MNEMONIC_DIV, exec_div, 0},   /* f6 f7 /6 */
    {ZYDIS_MNEMONIC_IDIV, exec_idiv, 0}, /* f6 f7 /7 */
    {ZYDIS_MNEMONIC_MULX, exec_mulx, 0}, /* VEX f2 0f 38 f6 */
    {ZYDIS_MNEMONIC_INVALID, NULL, 0},
};
/* clang-format on */
