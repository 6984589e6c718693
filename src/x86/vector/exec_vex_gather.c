/*
 * Gathers (SDM 2C VGATHERDPS and its relatives): elements are loaded one by one, from the least
 * significant up. A mask element is cleared when its element is done, so that a fault leaves what
 * was loaded, and the instruction continues with the rest when it is started again.
 */
#include "x86/vector/exec_vex.h"

#include <string.h>

/* Bytes of an index and of an element. */
static const struct gather {
    ZydisMnemonic mnemonic;
    uint8_t index, data;
} gathers[] = {
    {ZYDIS_MNEMONIC_VGATHERDPS, 4, 4}, {ZYDIS_MNEMONIC_VPGATHERDD, 4, 4},
    {ZYDIS_MNEMONIC_VGATHERDPD, 4, 8}, {ZYDIS_MNEMONIC_VPGATHERDQ, 4, 8},
    {ZYDIS_MNEMONIC_VGATHERQPS, 8, 4}, {ZYDIS_MNEMONIC_VPGATHERQD, 8, 4},
    {ZYDIS_MNEMONIC_VGATHERQPD, 8, 8}, {ZYDIS_MNEMONIC_VPGATHERQQ, 8, 8},
};

static const struct gather *gather_of(ZydisMnemonic mnemonic)
{
    for (size_t i = 0; i < array_size(gathers); i++) {
        if (gathers[i].mnemonic == mnemonic)
            return &gathers[i];
    }
    return NULL;
}

static bool element_linear(struct cpu *cpu, const struct insn *insn, const struct gather *gather,
                           const union vector *indices, unsigned element, gva_t *linear)
{
    const struct memory_operand *m = &insn->memory;
    int64_t index = gather->index == 4 ? (int32_t)indices->d[element] : (int64_t)indices->q[element];
    uint64_t offset = *(const uint64_t *)(const void *)((const uint8_t *)cpu + m->base) +
                      ((uint64_t)index << m->scale_shift) + (uint64_t)m->displacement;
    if (insn->address_size == 4)
        offset = (uint32_t)offset;
    return seg_linear(cpu, m->segment, offset, gather->data, ACCESS_READ, linear);
}

static enum exec_result exec_gather(struct cpu *cpu, const struct insn *insn)
{
    const struct gather *gather = gather_of(insn->mnemonic);
    union vector *to = simd_place(cpu, &insn->operand[0]),
                 *mask = simd_place(cpu, &insn->operand[2]);
    const union vector *indices = &cpu->vector[insn->operand[1].number];
    const unsigned size = gather->data, wider = size > gather->index ? size : gather->index;
    const unsigned length = insn->operand[4].size, count = length / wider;
    gva_t linear;

    if (!vex_usable(cpu, vex_tag(insn)))
        return EXEC_LEAVE;
    /* The mask is its elements' top bits; also of those that have no element to load. */
    for (unsigned i = 0; i < length / size; i++) {
        bool selected = mask->b[i * size + size - 1] & 0x80;
        memset(&mask->b[i * size], selected ? 0xff : 0, size);
    }
    memset(&mask->b[length], 0, sizeof(*mask) - length);
    for (unsigned i = 0; i < count; i++) {
        if (mask->b[i * size]) {
            if (!element_linear(cpu, insn, gather, indices, i, &linear) ||
                !mem_read(cpu, linear, &to->b[i * size], size, cpu->cpl == 3 ? MEM_USER : MEM_CURRENT)) /* no alignment check */
                return EXEC_LEAVE;
            memset(&to->b[length], 0, sizeof(*to) - length);
        }
        memset(&mask->b[i * size], 0, size);
    }
    memset(&mask->b[count * size], 0, sizeof(*mask) - count * size);
    memset(&to->b[count * size], 0, sizeof(*to) - count * size);
    return EXEC_NEXT;
}

exec_fn *vex_gather(struct insn *insn, const ZydisDecodedOperand *operands)
{
    if (!gather_of(insn->mnemonic) || operands[1].type != ZYDIS_OPERAND_TYPE_MEMORY)
        return NULL;
    unsigned index = (unsigned)ZydisRegisterGetId(operands[1].mem.index);
    if (insn->operand[0].number == index || insn->operand[2].number == index ||
        insn->operand[0].number == insn->operand[2].number)
        return NULL;
    insn->operand[1].number = (uint8_t)index;
    /* The vector length is that of the wider of data and index registers. */
    bool is_256 = insn->operand[0].reg_class == CLASS_YMM ||
                  ZydisRegisterGetClass(operands[1].mem.index) == ZYDIS_REGCLASS_YMM;
    insn->operand[4].size = is_256 ? 32 : 16;
    return exec_gather;
}
