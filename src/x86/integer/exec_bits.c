/* BT BTS BTR BTC, scans and counts, BSWAP, BMI1 and BMI2 without shifts, CRC32 (SDM 2A, 2B, 2C). */
#include "x86/integer/exec_sized.h"

#include "x86/integer/alu_bits.h"

/*
 * A register bit offset is signed and may lie outside a memory operand (SDM 2A BT): the operand that
 * holds the bit is `size` bytes long and a multiple of `size` away. An immediate one stays inside.
 */
static enum exec_result bit(struct cpu *cpu, const struct insn *insn, sized_kernel *kernel, bool is_read_only)
{
    const struct insn *at = insn;
    const unsigned size = insn->operand[0].size;
    struct insn displaced;
    uint64_t index, value;

    if (!operand_read(cpu, insn, 1, &index))
        return EXEC_LEAVE;
    if (operand_is_memory(insn, 0) && insn->operand[1].kind == OPERAND_REGISTER) {
        const int64_t units = (int64_t)sign_extend(index, size) >> (size == 2 ? 4 : size == 4 ? 5 : 6);
        displaced = *insn;
        displaced.memory.displacement += units * (int64_t)size;
        at = &displaced;
    }
    index &= size * 8 - 1;
    if (!is_read_only)
        return sized_modify(cpu, at, kernel, index);
    if (!operand_read(cpu, at, 0, &value))
        return EXEC_LEAVE;
    kernel(value, index, size, &cpu->aflags);
    return EXEC_NEXT;
}

#define BIT(name, is_read_only)                                                                    \
    SIZED_KERNEL_WORDS(name, alu_##name)                                                           \
    static enum exec_result exec_##name(struct cpu *cpu, const struct insn *insn)                  \
    {                                                                                              \
        return bit(cpu, insn, name##_sized, is_read_only);                                         \
    }

/* clang-format off */
BIT(bt, true) BIT(bts, false) BIT(btr, false) BIT(btc, false)
/* clang-format on */

/* BSF BSR: the destination takes part, see alu_bits.h. */
static enum exec_result scan(struct cpu *cpu, const struct insn *insn, sized_kernel *kernel)
{
    uint64_t *reg = &cpu->gpr[insn->operand[0].number].q;
    uint64_t a;

    if (!operand_read(cpu, insn, 1, &a))
        return EXEC_LEAVE;
    *reg = kernel(*reg, a, insn->operand[0].size, &cpu->aflags);
    return EXEC_NEXT;
}

#define SCAN(name)                                                                                 \
    static uint64_t name##_sized(uint64_t reg, uint64_t a, unsigned size, uint32_t *aflags)        \
    {                                                                                              \
        switch (size) {                                                                            \
        case 2: return alu_##name##16(reg, (uint16_t)a, aflags);                                   \
        case 4: return alu_##name##32(reg, (uint32_t)a, aflags);                                   \
        default: return alu_##name##64(reg, a, aflags);                                            \
        }                                                                                          \
    }                                                                                              \
    static enum exec_result exec_##name(struct cpu *cpu, const struct insn *insn)                  \
    {                                                                                              \
        return scan(cpu, insn, name##_sized);                                                      \
    }

/* clang-format off */
SCAN(bsf) SCAN(bsr)
/* clang-format on */

/*
 * operand 0 = f(operand 1). Without their features TZCNT and LZCNT are BSF and BSR, to which prefix F3 means
 * nothing; POPCNT is #UD.
 */
#define COUNT(name, missing)                                                                       \
    SIZED_KERNEL_UNARY_WORDS(name, alu_##name)                                                     \
    static enum exec_result exec_##name(struct cpu *cpu, const struct insn *insn)                  \
    {                                                                                              \
        if (unlikely(!cpuid_has(&cpu->cpuid, FEATURE_FOR_##name)))                                 \
            return missing;                                                                        \
        return sized_assign(cpu, insn, name##_sized, 0);                                           \
    }
#define FEATURE_FOR_popcnt FEATURE_POPCNT
#define FEATURE_FOR_tzcnt  FEATURE_BMI1
#define FEATURE_FOR_lzcnt  FEATURE_LZCNT

/* clang-format off */
COUNT(popcnt, exec_done(raise_ud(cpu)))
COUNT(tzcnt, scan(cpu, insn, bsf_sized))
COUNT(lzcnt, scan(cpu, insn, bsr_sized))
/* clang-format on */

#define BLS(name)                                                                                  \
    static uint64_t name##_sized(uint64_t a, uint64_t b, unsigned size, uint32_t *aflags)          \
    {                                                                                              \
        (void)b;                                                                                   \
        return size == 8 ? alu_##name##64(a, aflags) : alu_##name##32((uint32_t)a, aflags);        \
    }                                                                                              \
    static enum exec_result exec_##name(struct cpu *cpu, const struct insn *insn)                  \
    {                                                                                              \
        if (!require_vex(cpu, FEATURE_BMI1))                                                       \
            return EXEC_LEAVE;                                                                     \
        return sized_assign(cpu, insn, name##_sized, 0);                                           \
    }

/* clang-format off */
BLS(blsi) BLS(blsr) BLS(blsmsk)
/* clang-format on */

/* operand 0 = f(operand 1, operand 2) */
#define THREE(name, feature, ...)                                                                  \
    static uint64_t name##_sized(uint64_t a, uint64_t b, unsigned size, uint32_t *aflags)          \
    {                                                                                              \
        (void)aflags;                                                                              \
        return size == 8 ? alu_##name##64(a, b __VA_ARGS__)                                        \
                         : alu_##name##32((uint32_t)a, (uint32_t)b __VA_ARGS__);                   \
    }                                                                                              \
    static enum exec_result exec_##name(struct cpu *cpu, const struct insn *insn)                  \
    {                                                                                              \
        uint64_t b;                                                                                \
        if (!require_vex(cpu, feature) || !operand_read(cpu, insn, 2, &b))                         \
            return EXEC_LEAVE;                                                                     \
        return sized_assign(cpu, insn, name##_sized, b);                                           \
    }
#define WITH_FLAGS , aflags

/* clang-format off */
THREE(andn, FEATURE_BMI1, WITH_FLAGS) THREE(bextr, FEATURE_BMI1, WITH_FLAGS)
THREE(bzhi, FEATURE_BMI2, WITH_FLAGS) THREE(pdep, FEATURE_BMI2) THREE(pext, FEATURE_BMI2)
/* clang-format on */

static enum exec_result exec_bswap(struct cpu *cpu, const struct insn *insn)
{
    union gpr *reg = &cpu->gpr[insn->operand[0].number];

    switch (insn->operand[0].size) {
    case 2: reg->w = alu_bswap16(reg->w); break;
    case 4: reg->q = alu_bswap32(reg->d); break;
    default: reg->q = alu_bswap64(reg->q); break;
    }
    return EXEC_NEXT;
}

static enum exec_result exec_crc32(struct cpu *cpu, const struct insn *insn)
{
    union gpr *reg = &cpu->gpr[insn->operand[0].number];
    uint64_t a;

    if (!require(cpu, FEATURE_SSE4_2) || !operand_read(cpu, insn, 1, &a))
        return EXEC_LEAVE;
    reg->q = alu_crc32(reg->d, a, insn->operand[1].size);
    return EXEC_NEXT;
}

/* clang-format off */
const struct exec_entry exec_bits_table[] = {
    {ZYDIS_MNEMONIC_BT, exec_bt, 0},         /* 0f a3, 0f ba /4 */
    {ZYDIS_MNEMONIC_BTS, exec_bts, 0},       /* 0f ab, 0f ba /5 */
    {ZYDIS_MNEMONIC_BTR, exec_btr, 0},       /* 0f b3, 0f ba /6 */
    {ZYDIS_MNEMONIC_BTC, exec_btc, 0},       /* 0f bb, 0f ba /7 */
    {ZYDIS_MNEMONIC_BSF, exec_bsf, 0},       /* 0f bc */
    {ZYDIS_MNEMONIC_BSR, exec_bsr, 0},       /* 0f bd */
    {ZYDIS_MNEMONIC_POPCNT, exec_popcnt, 0}, /* f3 0f b8 */
    {ZYDIS_MNEMONIC_TZCNT, exec_tzcnt, 0},   /* f3 0f bc */
    {ZYDIS_MNEMONIC_LZCNT, exec_lzcnt, 0},   /* f3 0f bd */
    {ZYDIS_MNEMONIC_BSWAP, exec_bswap, 0},   /* 0f c8-cf */
    {ZYDIS_MNEMONIC_CRC32, exec_crc32, 0},   /* f2 0f 38 f0 f1 */
    {ZYDIS_MNEMONIC_ANDN, exec_andn, 0},     /* VEX 0f 38 f2 */
    {ZYDIS_MNEMONIC_BLSR, exec_blsr, 0},     /* VEX 0f 38 f3 /1 */
    {ZYDIS_MNEMONIC_BLSMSK, exec_blsmsk, 0}, /* VEX 0f 38 f3 /2 */
    {ZYDIS_MNEMONIC_BLSI, exec_blsi, 0},     /* VEX 0f 38 f3 /3 */
    {ZYDIS_MNEMONIC_BEXTR, exec_bextr, 0},   /* VEX 0f 38 f7 */
    {ZYDIS_MNEMONIC_BZHI, exec_bzhi, 0},     /* VEX 0f 38 f5 */
    {ZYDIS_MNEMONIC_PEXT, exec_pext, 0},     /* VEX f3 0f 38 f5 */
    {ZYDIS_MNEMONIC_PDEP, exec_pdep, 0},     /* VEX f2 0f 38 f5 */
    {ZYDIS_MNEMONIC_INVALID, NULL, 0},
};
/* clang-format on */
