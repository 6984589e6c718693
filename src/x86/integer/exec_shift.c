/* Shifts and rotates: group 2 (c0 c1 d0-d3), SHLD, SHRD, and their BMI2 relatives (SDM 2B, 2C). */
#include "x86/integer/exec_sized.h"

#include "x86/integer/alu_bits.h"
#include "x86/integer/alu_shift.h"

/* Of the operand's size. */
#define SIZED(name)                                                                                \
    static uint64_t name##_sized(uint64_t a, uint64_t b, unsigned size, uint32_t *aflags)          \
    {                                                                                              \
        switch (size) {                                                                            \
        case 1: return alu_##name##8((uint8_t)a, (uint8_t)b, aflags);                              \
        case 2: return alu_##name##16((uint16_t)a, (uint8_t)b, aflags);                            \
        case 4: return alu_##name##32((uint32_t)a, (uint8_t)b, aflags);                            \
        default: return alu_##name##64(a, (uint8_t)b, aflags);                                     \
        }                                                                                          \
    }

#define SHIFT(name)                                                                                \
    SIZED(name)                                                                                    \
    static enum exec_result exec_##name(struct cpu *cpu, const struct insn *insn)                  \
    {                                                                                              \
        return sized_binary(cpu, insn, name##_sized);                                              \
    }

/* A register rotated by an immediate other than 1 leaves OF, which is undefined then, as it is (alu_shift.h). */
#define ROTATE(name)                                                                               \
    SIZED(name)                                                                                    \
    static enum exec_result exec_##name(struct cpu *cpu, const struct insn *insn)                  \
    {                                                                                              \
        const uint32_t before = cpu->aflags;                                                       \
        const enum exec_result result = sized_binary(cpu, insn, name##_sized);                     \
        if (keeps_overflow(insn))                                                                  \
            cpu->aflags = (cpu->aflags & ~AFLAG_OF) | (before & AFLAG_OF);                         \
        return result;                                                                             \
    }

static bool keeps_overflow(const struct insn *insn)
{
    const unsigned mask = insn->operand[0].size == 8 ? 63 : 31;

    return insn->operand[0].kind == OPERAND_REGISTER && insn->operand[1].kind == OPERAND_IMMEDIATE &&
           (insn->operand[1].immediate & mask) != 1;
}

/* clang-format off */
ROTATE(rol) ROTATE(ror) SHIFT(rcl) SHIFT(rcr) SHIFT(shl) SHIFT(shr) SHIFT(sar)
/* clang-format on */

/* ---- double shifts: b of the work is the count, the filling register is beside it ---- */

struct double_shift {
    bool right;
    uint64_t fill;
    uint8_t count;
    unsigned size;
    uint32_t before, after;
};

static uint64_t double_shift_compute(uint64_t old, void *context)
{
    struct double_shift *d = context;
    uint32_t *flags = &d->after;

    d->after = d->before;
    switch (d->size) {
    case 2:
        return d->right ? alu_shrd16((uint16_t)old, (uint16_t)d->fill, d->count, flags)
                        : alu_shld16((uint16_t)old, (uint16_t)d->fill, d->count, flags);
    case 4:
        return d->right ? alu_shrd32((uint32_t)old, (uint32_t)d->fill, d->count, flags)
                        : alu_shld32((uint32_t)old, (uint32_t)d->fill, d->count, flags);
    default:
        return d->right ? alu_shrd64(old, d->fill, d->count, flags)
                        : alu_shld64(old, d->fill, d->count, flags);
    }
}

static enum exec_result double_shift(struct cpu *cpu, const struct insn *insn, bool right)
{
    struct double_shift d = {
        .right = right, .size = insn->operand[0].size, .before = cpu->aflags};
    uint64_t count;

    if (!operand_read(cpu, insn, 1, &d.fill) || !operand_read(cpu, insn, 2, &count))
        return EXEC_LEAVE;
    d.count = (uint8_t)count;
    if (!operand_modify(cpu, insn, 0, double_shift_compute, &d))
        return EXEC_LEAVE;
    cpu->aflags = d.after;
    return EXEC_NEXT;
}

static enum exec_result exec_shld(struct cpu *cpu, const struct insn *insn)
{
    return double_shift(cpu, insn, false);
}

static enum exec_result exec_shrd(struct cpu *cpu, const struct insn *insn)
{
    return double_shift(cpu, insn, true);
}

/* ---- BMI2: three operands, no flags ---- */

#define SHIFTX(name)                                                                               \
    static uint64_t name##_sized(uint64_t a, uint64_t b, unsigned size, uint32_t *aflags)          \
    {                                                                                              \
        (void)aflags;                                                                              \
        return size == 8 ? alu_##name##64(a, (unsigned)b) : alu_##name##32((uint32_t)a, (unsigned)b); \
    }                                                                                              \
    static enum exec_result exec_##name(struct cpu *cpu, const struct insn *insn)                  \
    {                                                                                              \
        uint64_t count;                                                                            \
        if (!require_vex(cpu, FEATURE_BMI2) || !operand_read(cpu, insn, 2, &count))                \
            return EXEC_LEAVE;                                                                     \
        return sized_assign(cpu, insn, name##_sized, count);                                       \
    }

/* clang-format off */
SHIFTX(rorx) SHIFTX(shlx) SHIFTX(shrx) SHIFTX(sarx)

const struct exec_entry exec_shift_table[] = {
    {ZYDIS_MNEMONIC_ROL, exec_rol, 0},   /* /0 */
    {ZYDIS_MNEMONIC_ROR, exec_ror, 0},   /* /1 */
    {ZYDIS_MNEMONIC_RCL, exec_rcl, 0},   /* /2 */
    {ZYDIS_MNEMONIC_RCR, exec_rcr, 0},   /* /3 */
    {ZYDIS_MNEMONIC_SHL, exec_shl, 0},   /* /4, /6 */
    {ZYDIS_MNEMONIC_SHR, exec_shr, 0},   /* /5 */
    {ZYDIS_MNEMONIC_SAR, exec_sar, 0},   /* /7 */
    {ZYDIS_MNEMONIC_SHLD, exec_shld, 0}, /* 0f a4 a5 */
    {ZYDIS_MNEMONIC_SHRD, exec_shrd, 0}, /* 0f ac ad */
    {ZYDIS_MNEMONIC_RORX, exec_rorx, 0}, /* VEX f2 0f 3a f0 */
    {ZYDIS_MNEMONIC_SHLX, exec_shlx, 0}, /* VEX 66 0f 38 f7 */
    {ZYDIS_MNEMONIC_SHRX, exec_shrx, 0}, /* VEX f2 0f 38 f7 */
    {ZYDIS_MNEMONIC_SARX, exec_sarx, 0}, /* VEX f3 0f 38 f7 */
    {ZYDIS_MNEMONIC_INVALID, NULL, 0},
};
/* clang-format on */
