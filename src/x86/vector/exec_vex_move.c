/*
 * VEX instructions without a stub: whole-register moves (the only ones that check alignment, and
 * much of what vector code does), clearing upper halves, MXCSR, masked moves.
 */
#include "x86/vector/exec_vex.h"

#include <string.h>

static inline union vector *vector_of(struct cpu *cpu, const struct operand *operand)
{
    return simd_place(cpu, operand);
}

/* ---- whole registers ---- */

/* Give the register a new value of 16 or 32 bytes; the rest becomes zero. */
static always_inline void assign(struct cpu *cpu, const struct operand *to, const void *from,
                                 size_t size)
{
    union vector value = {{0}};
    memcpy(&value, from, size);
    *vector_of(cpu, to) = value;
}

static enum exec_result copy(struct cpu *cpu, const struct insn *insn)
{
    if (!vex_usable(cpu, vex_tag(insn)))
        return EXEC_LEAVE;
    assign(cpu, &insn->operand[0], vector_of(cpu, &insn->operand[1]), insn->operand[0].size);
    return EXEC_NEXT;
}

static always_inline enum exec_result load(struct cpu *cpu, const struct insn *insn, bool aligned)
{
    union simd_buffer buffer;
    const size_t size = insn->operand[1].size;
    if (!vex_usable(cpu, vex_tag(insn)) || !vex_load(cpu, insn, &buffer, size, aligned))
        return EXEC_LEAVE;
    assign(cpu, &insn->operand[0], &buffer, size);
    return EXEC_NEXT;
}

static always_inline enum exec_result store(struct cpu *cpu, const struct insn *insn, bool aligned)
{
    return exec_done(vex_usable(cpu, vex_tag(insn)) &&
                     vex_store(cpu, insn, vector_of(cpu, &insn->operand[1]),
                               insn->operand[0].size, aligned));
}

static enum exec_result load_unaligned(struct cpu *cpu, const struct insn *insn)
{
    return load(cpu, insn, false);
}
static enum exec_result load_aligned(struct cpu *cpu, const struct insn *insn)
{
    return load(cpu, insn, true);
}
static enum exec_result store_unaligned(struct cpu *cpu, const struct insn *insn)
{
    return store(cpu, insn, false);
}
static enum exec_result store_aligned(struct cpu *cpu, const struct insn *insn)
{
    return store(cpu, insn, true);
}

/* ---- upper halves, MXCSR ---- */

/* Outside 64-bit mode only the first eight registers are touched. */
static enum exec_result zero(struct cpu *cpu, const struct insn *insn)
{
    const unsigned registers = cpu_is_64(cpu) ? 16 : 8;
    const bool is_all = insn->mnemonic == ZYDIS_MNEMONIC_VZEROALL;
    if (!vex_usable(cpu, vex_tag(insn)))
        return EXEC_LEAVE;
    for (unsigned i = 0; i < registers; i++) {
        if (is_all)
            cpu->vector[i].q[0] = cpu->vector[i].q[1] = 0;
        cpu->vector[i].q[2] = cpu->vector[i].q[3] = 0;
    }
    return EXEC_NEXT;
}

static enum exec_result load_mxcsr(struct cpu *cpu, const struct insn *insn)
{
    uint32_t value;
    if (!vex_usable(cpu, vex_tag(insn)) || !vex_load(cpu, insn, &value, 4, false))
        return EXEC_LEAVE;
    if (value & ~MXCSR_VALID)
        return exec_done(raise_gp(cpu, 0));
    cpu->mxcsr = value;
    return EXEC_NEXT;
}

static enum exec_result store_mxcsr(struct cpu *cpu, const struct insn *insn)
{
    return exec_done(vex_usable(cpu, vex_tag(insn)) &&
                     vex_store(cpu, insn, &cpu->mxcsr, 4, false));
}

/* ---- masked moves ---- */

/* Bytes of an element by mnemonic: VMASKMOVPS and VPMASKMOVD 4, VMASKMOVPD and VPMASKMOVQ 8. */
static unsigned element_size(const struct insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS ||
                   insn->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD
               ? 4
               : 8;
}

static bool is_selected(const union vector *mask, unsigned element, unsigned size)
{
    return mask->b[element * size + size - 1] & 0x80;
}

/* The address of an element; each is checked by itself, the others are not accessed. */
static bool element_linear(struct cpu *cpu, const struct insn *insn, unsigned element,
                           unsigned size, enum access_type type, gva_t *linear)
{
    /* The operand begins at an offset of the address size, but only offsets of 32 bits wrap around within it. */
    const uint64_t offset = operand_offset(cpu, insn) + element * size;
    return seg_linear(cpu, insn->memory.segment, cpu_is_64(cpu) ? offset : (uint32_t)offset, size, type, linear);
}

/* No alignment checks: silicon makes none here. */
static enum mem_privilege masked_privilege(const struct cpu *cpu)
{
    return cpu->cpl == 3 ? MEM_USER : MEM_CURRENT;
}

static enum exec_result load_masked(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = element_size(insn), count = insn->operand[0].size / size;
    const union vector *mask = vector_of(cpu, &insn->operand[1]);
    union vector result = {{0}};
    gva_t linear;

    if (!vex_usable(cpu, vex_tag(insn)))
        return EXEC_LEAVE;
    for (unsigned i = 0; i < count; i++) {
        if (is_selected(mask, i, size) &&
            (!element_linear(cpu, insn, i, size, ACCESS_READ, &linear) ||
             !mem_read(cpu, linear, &result.b[i * size], size, masked_privilege(cpu))))
            return EXEC_LEAVE;
    }
    *vector_of(cpu, &insn->operand[0]) = result;
    return EXEC_NEXT;
}

/* All elements are tried before the first is written. */
static enum exec_result store_masked(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = element_size(insn), count = insn->operand[2].size / size;
    const union vector *mask = vector_of(cpu, &insn->operand[1]),
                       *data = vector_of(cpu, &insn->operand[2]);
    gva_t linear[8];

    if (!vex_usable(cpu, vex_tag(insn)))
        return EXEC_LEAVE;
    for (unsigned i = 0; i < count; i++) {
        if (is_selected(mask, i, size) &&
            (!element_linear(cpu, insn, i, size, ACCESS_WRITE, &linear[i]) ||
             !mem_probe(cpu, linear[i], size, ACCESS_WRITE, masked_privilege(cpu))))
            return EXEC_LEAVE;
    }
    for (unsigned i = 0; i < count; i++) {
        if (is_selected(mask, i, size) &&
            !mem_write(cpu, linear[i], &data->b[i * size], size, masked_privilege(cpu)))
            return EXEC_LEAVE;
    }
    return EXEC_NEXT;
}

static enum exec_result store_masked_bytes(struct cpu *cpu, const struct insn *insn)
{
    if (!vex_usable(cpu, vex_tag(insn)))
        return EXEC_LEAVE;
    return exec_done(simd_store_masked(cpu, insn, vector_of(cpu, &insn->operand[0])->b,
                                       vector_of(cpu, &insn->operand[1])->b, 16));
}

/* ---- table ---- */

/* clang-format off */
static const struct special {
    ZydisMnemonic mnemonic;
    exec_fn *registers, *load, *store;
} specials[] = {
    {ZYDIS_MNEMONIC_VMOVUPS,   copy, load_unaligned, store_unaligned},
    {ZYDIS_MNEMONIC_VMOVUPD,   copy, load_unaligned, store_unaligned},
    {ZYDIS_MNEMONIC_VMOVDQU,   copy, load_unaligned, store_unaligned},
    {ZYDIS_MNEMONIC_VLDDQU,    NULL, load_unaligned, NULL},
    {ZYDIS_MNEMONIC_VMOVAPS,   copy, load_aligned, store_aligned},
    {ZYDIS_MNEMONIC_VMOVAPD,   copy, load_aligned, store_aligned},
    {ZYDIS_MNEMONIC_VMOVDQA,   copy, load_aligned, store_aligned},
    {ZYDIS_MNEMONIC_VMOVNTDQA, NULL, load_aligned, NULL},
    {ZYDIS_MNEMONIC_VMOVNTPS,  NULL, NULL, store_aligned},
    {ZYDIS_MNEMONIC_VMOVNTPD,  NULL, NULL, store_aligned},
    {ZYDIS_MNEMONIC_VMOVNTDQ,  NULL, NULL, store_aligned},
    {ZYDIS_MNEMONIC_VZEROUPPER, zero, NULL, NULL},
    {ZYDIS_MNEMONIC_VZEROALL,  zero, NULL, NULL},
    {ZYDIS_MNEMONIC_VLDMXCSR,  NULL, NULL, load_mxcsr},
    {ZYDIS_MNEMONIC_VSTMXCSR,  NULL, NULL, store_mxcsr},
    {ZYDIS_MNEMONIC_VMASKMOVPS, NULL, load_masked, store_masked},
    {ZYDIS_MNEMONIC_VMASKMOVPD, NULL, load_masked, store_masked},
    {ZYDIS_MNEMONIC_VPMASKMOVD, NULL, load_masked, store_masked},
    {ZYDIS_MNEMONIC_VPMASKMOVQ, NULL, load_masked, store_masked},
    {ZYDIS_MNEMONIC_VMASKMOVDQU, store_masked_bytes, NULL, NULL},
};
/* clang-format on */

exec_fn *vex_special(struct insn *insn, const ZydisDecodedOperand *operands)
{
    if (insn->memory.is_vsib)
        return vex_gather(insn, operands);
    for (size_t i = 0; i < array_size(specials); i++) {
        if (specials[i].mnemonic != insn->mnemonic)
            continue;
        if (insn->operand[0].kind == OPERAND_MEMORY)
            return specials[i].store;
        bool loads = insn->operand[1].kind == OPERAND_MEMORY ||
                     insn->operand[2].kind == OPERAND_MEMORY;
        return loads ? specials[i].load : specials[i].registers;
    }
    return NULL;
}
