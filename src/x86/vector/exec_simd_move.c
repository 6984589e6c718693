/*
 * Plain moves of vector registers, in C: most of what vector code does is copying.
 *
 * The functions are shapes; the table says which mnemonic has which shape with a register, as a
 * load and as a store. What is not here (or NULL) runs through a stub.
 */
#include "x86/vector/exec_simd.h"

#include <string.h>

static inline union vector *vector_of(struct cpu *cpu, const struct operand *operand)
{
    return simd_place(cpu, operand);
}

/* MOVAPS and relatives between registers. */
static enum exec_result copy16(struct cpu *cpu, const struct insn *insn)
{
    if (!simd_usable(cpu))
        return EXEC_LEAVE;
    memmove(vector_of(cpu, &insn->operand[0]), vector_of(cpu, &insn->operand[1]), 16);
    return EXEC_NEXT;
}

/* MOVQ between registers: the upper half becomes zero. */
static enum exec_result copy8_zero(struct cpu *cpu, const struct insn *insn)
{
    if (!simd_usable(cpu))
        return EXEC_LEAVE;
    union vector *to = vector_of(cpu, &insn->operand[0]);
    to->q[0] = vector_of(cpu, &insn->operand[1])->q[0];
    to->q[1] = 0;
    return EXEC_NEXT;
}

/* MOVSD and MOVSS between registers: the rest stays. */
static enum exec_result copy8(struct cpu *cpu, const struct insn *insn)
{
    if (!simd_usable(cpu))
        return EXEC_LEAVE;
    vector_of(cpu, &insn->operand[0])->q[0] = vector_of(cpu, &insn->operand[1])->q[0];
    return EXEC_NEXT;
}

static enum exec_result copy4(struct cpu *cpu, const struct insn *insn)
{
    if (!simd_usable(cpu))
        return EXEC_LEAVE;
    vector_of(cpu, &insn->operand[0])->d[0] = vector_of(cpu, &insn->operand[1])->d[0];
    return EXEC_NEXT;
}

/* MOVHLPS: upper half of the source to the lower of the destination; MOVLHPS the other way. */
static enum exec_result copy_high_to_low(struct cpu *cpu, const struct insn *insn)
{
    if (!simd_usable(cpu))
        return EXEC_LEAVE;
    vector_of(cpu, &insn->operand[0])->q[0] = vector_of(cpu, &insn->operand[1])->q[1];
    return EXEC_NEXT;
}

static enum exec_result copy_low_to_high(struct cpu *cpu, const struct insn *insn)
{
    if (!simd_usable(cpu))
        return EXEC_LEAVE;
    vector_of(cpu, &insn->operand[0])->q[1] = vector_of(cpu, &insn->operand[1])->q[0];
    return EXEC_NEXT;
}

/* MOVD/MOVQ from and to a general register; with 32 bits, the general register's upper half becomes
 * zero. */
static enum exec_result from_general(struct cpu *cpu, const struct insn *insn)
{
    if (!simd_usable(cpu))
        return EXEC_LEAVE;
    union vector *to = vector_of(cpu, &insn->operand[0]);
    const union gpr *from = simd_place(cpu, &insn->operand[1]);
    to->q[0] = insn->operand[1].size == 8 ? from->q : from->d;
    to->q[1] = 0;
    return EXEC_NEXT;
}

static enum exec_result to_general(struct cpu *cpu, const struct insn *insn)
{
    if (!simd_usable(cpu))
        return EXEC_LEAVE;
    union gpr *to = simd_place(cpu, &insn->operand[0]);
    const union vector *from = vector_of(cpu, &insn->operand[1]);
    to->q = insn->operand[0].size == 8 ? from->q[0] : from->d[0];
    return EXEC_NEXT;
}

/* ---- memory ---- */

static always_inline enum exec_result load_vector(struct cpu *cpu, const struct insn *insn,
                                                  bool aligned)
{
    gva_t linear;
    union simd_buffer buffer; /* a failing read may have filled a part of it */
    if (!simd_usable(cpu) || !operand_linear_aligned(cpu, insn, 16, aligned ? 16 : 1, ACCESS_READ, &linear))
        return EXEC_LEAVE;
    if (!simd_read16(cpu, linear, &buffer))
        return EXEC_LEAVE;
    memcpy(vector_of(cpu, &insn->operand[0]), &buffer, 16);
    return EXEC_NEXT;
}

static always_inline enum exec_result store_vector(struct cpu *cpu, const struct insn *insn,
                                                   bool aligned)
{
    gva_t linear;
    if (!simd_usable(cpu) || !operand_linear_aligned(cpu, insn, 16, aligned ? 16 : 1, ACCESS_WRITE, &linear))
        return EXEC_LEAVE;
    return exec_done(simd_write16(cpu, linear, vector_of(cpu, &insn->operand[1])));
}

static enum exec_result load16(struct cpu *cpu, const struct insn *insn)
{
    return load_vector(cpu, insn, false);
}
static enum exec_result load16_aligned(struct cpu *cpu, const struct insn *insn)
{
    return load_vector(cpu, insn, true);
}
static enum exec_result load16_sse3(struct cpu *cpu, const struct insn *insn)
{
    return cpuid_has(&cpu->cpuid, FEATURE_SSE3) ? load16(cpu, insn) : exec_done(raise_ud(cpu));
}
static enum exec_result load16_sse4(struct cpu *cpu, const struct insn *insn)
{
    return cpuid_has(&cpu->cpuid, FEATURE_SSE4_1) ? load16_aligned(cpu, insn)
                                                  : exec_done(raise_ud(cpu));
}
static enum exec_result store16(struct cpu *cpu, const struct insn *insn)
{
    return store_vector(cpu, insn, false);
}
static enum exec_result store16_aligned(struct cpu *cpu, const struct insn *insn)
{
    return store_vector(cpu, insn, true);
}

/* Eight bytes read into or written from q[half]. */
static always_inline bool read8(struct cpu *cpu, const struct insn *insn, uint64_t *value)
{
    gva_t linear;
    return simd_usable(cpu) && operand_linear(cpu, insn, 8, ACCESS_READ, &linear) &&
           mem_read64(cpu, linear, value);
}

static always_inline bool write8(struct cpu *cpu, const struct insn *insn, unsigned half)
{
    gva_t linear;
    return simd_usable(cpu) && operand_linear(cpu, insn, 8, ACCESS_WRITE, &linear) &&
           mem_write64(cpu, linear, vector_of(cpu, &insn->operand[1])->q[half]);
}

static enum exec_result load8_zero(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value;
    if (!read8(cpu, insn, &value))
        return EXEC_LEAVE;
    vector_of(cpu, &insn->operand[0])->q[0] = value;
    vector_of(cpu, &insn->operand[0])->q[1] = 0;
    return EXEC_NEXT;
}

static enum exec_result load8_low(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value;
    if (!read8(cpu, insn, &value))
        return EXEC_LEAVE;
    vector_of(cpu, &insn->operand[0])->q[0] = value;
    return EXEC_NEXT;
}

static enum exec_result load8_high(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value;
    if (!read8(cpu, insn, &value))
        return EXEC_LEAVE;
    vector_of(cpu, &insn->operand[0])->q[1] = value;
    return EXEC_NEXT;
}

static enum exec_result store8_low(struct cpu *cpu, const struct insn *insn)
{
    return exec_done(write8(cpu, insn, 0));
}
static enum exec_result store8_high(struct cpu *cpu, const struct insn *insn)
{
    return exec_done(write8(cpu, insn, 1));
}

static enum exec_result load4_zero(struct cpu *cpu, const struct insn *insn)
{
    gva_t linear;
    uint32_t value;
    if (!simd_usable(cpu) || !operand_linear(cpu, insn, 4, ACCESS_READ, &linear) ||
        !mem_read32(cpu, linear, &value))
        return EXEC_LEAVE;
    vector_of(cpu, &insn->operand[0])->q[0] = value;
    vector_of(cpu, &insn->operand[0])->q[1] = 0;
    return EXEC_NEXT;
}

static enum exec_result store4(struct cpu *cpu, const struct insn *insn)
{
    gva_t linear;
    return exec_done(simd_usable(cpu) && operand_linear(cpu, insn, 4, ACCESS_WRITE, &linear) &&
                     mem_write32(cpu, linear, vector_of(cpu, &insn->operand[1])->d[0]));
}

/* MOVD and MOVQ have memory operands of 4 or 8 bytes by REX.W. */
static enum exec_result load_sized(struct cpu *cpu, const struct insn *insn)
{
    return insn->operand[1].size == 8 ? load8_zero(cpu, insn) : load4_zero(cpu, insn);
}

static enum exec_result store_sized(struct cpu *cpu, const struct insn *insn)
{
    return insn->operand[0].size == 8 ? store8_low(cpu, insn) : store4(cpu, insn);
}

/* ---- table ---- */

struct plain_move {
    ZydisMnemonic mnemonic;
    exec_fn *registers, *load, *store;
};

/* clang-format off */
static const struct plain_move plain_moves[] = {
    {ZYDIS_MNEMONIC_MOVUPS,   copy16, load16, store16},
    {ZYDIS_MNEMONIC_MOVUPD,   copy16, load16, store16},
    {ZYDIS_MNEMONIC_MOVDQU,   copy16, load16, store16},
    {ZYDIS_MNEMONIC_MOVAPS,   copy16, load16_aligned, store16_aligned},
    {ZYDIS_MNEMONIC_MOVAPD,   copy16, load16_aligned, store16_aligned},
    {ZYDIS_MNEMONIC_MOVDQA,   copy16, load16_aligned, store16_aligned},
    {ZYDIS_MNEMONIC_LDDQU,    NULL, load16_sse3, NULL},
    {ZYDIS_MNEMONIC_MOVNTDQA, NULL, load16_sse4, NULL},
    {ZYDIS_MNEMONIC_MOVNTPS,  NULL, NULL, store16_aligned},
    {ZYDIS_MNEMONIC_MOVNTPD,  NULL, NULL, store16_aligned},
    {ZYDIS_MNEMONIC_MOVNTDQ,  NULL, NULL, store16_aligned},
    {ZYDIS_MNEMONIC_MOVSS,    copy4, load4_zero, store4},
    {ZYDIS_MNEMONIC_MOVSD,    copy8, load8_zero, store8_low},
    {ZYDIS_MNEMONIC_MOVQ,     copy8_zero, load_sized, store_sized},
    {ZYDIS_MNEMONIC_MOVD,     NULL, load_sized, store_sized},
    {ZYDIS_MNEMONIC_MOVLPS,   NULL, load8_low, store8_low},
    {ZYDIS_MNEMONIC_MOVLPD,   NULL, load8_low, store8_low},
    {ZYDIS_MNEMONIC_MOVHPS,   NULL, load8_high, store8_high},
    {ZYDIS_MNEMONIC_MOVHPD,   NULL, load8_high, store8_high},
    {ZYDIS_MNEMONIC_MOVHLPS,  copy_high_to_low, NULL, NULL},
    {ZYDIS_MNEMONIC_MOVLHPS,  copy_low_to_high, NULL, NULL},
};
/* clang-format on */

static bool is_register(const struct operand *operand, enum register_class class)
{
    return operand->kind == OPERAND_REGISTER && operand->reg_class == class;
}

exec_fn *simd_plain_move(const struct insn *insn)
{
    const struct operand *to = &insn->operand[0], *from = &insn->operand[1];
    for (size_t i = 0; i < array_size(plain_moves); i++) {
        const struct plain_move *move = &plain_moves[i];
        if (move->mnemonic != insn->mnemonic)
            continue;
        if (is_register(to, CLASS_XMM) && is_register(from, CLASS_XMM))
            return move->registers;
        if (is_register(to, CLASS_XMM) && from->kind == OPERAND_MEMORY)
            return move->load;
        if (is_register(from, CLASS_XMM) && to->kind == OPERAND_MEMORY)
            return move->store;
        if (is_register(to, CLASS_XMM) && is_register(from, CLASS_GPR))
            return from_general;
        if (is_register(to, CLASS_GPR) && is_register(from, CLASS_XMM))
            return to_general;
    }
    return NULL;
}
