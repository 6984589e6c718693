/* Fast operations of vector instructions: plain moves, and what runs through a stub (vector/exec_simd.h). */
#include "x86/code/select.h"

#include <Zydis/Zydis.h>

#include "x86/vector/exec_simd.h"

static bool is_xmm(const struct operand *o)
{
    return o->kind == OPERAND_REGISTER && o->reg_class == CLASS_XMM;
}

/* Plain moves: as a load, as a store, between registers (OP_VECTOR_COUNT: not a fast one). */
struct vector_move {
    uint8_t load, store, copy;
};

static const struct vector_move moves_16 = {OP_LOAD16, OP_STORE16, OP_COPY16};
static const struct vector_move moves_16_aligned = {OP_LOAD16_ALIGNED, OP_STORE16_ALIGNED, OP_COPY16};
static const struct vector_move moves_8 = {OP_LOAD8_ZERO, OP_STORE8_LOW, OP_VECTOR_COUNT};
static const struct vector_move moves_4 = {OP_LOAD4_ZERO, OP_STORE4, OP_VECTOR_COUNT};
static const struct vector_move moves_low = {OP_LOAD8_LOW, OP_STORE8_LOW, OP_VECTOR_COUNT};
static const struct vector_move moves_high = {OP_LOAD8_HIGH, OP_STORE8_HIGH, OP_VECTOR_COUNT};

static bool select_move(const struct selection *s, const struct vector_move *move)
{
    const struct operand *to = &s->insn->operand[0], *from = &s->insn->operand[1];
    unsigned which = OP_VECTOR_COUNT;

    if (!(s->mode & MODE_64))
        return false;
    s->op->destination = to->offset;
    s->op->source = from->offset;
    if (is_xmm(to) && is_xmm(from))
        which = move->copy;
    else if (is_xmm(to) && from->kind == OPERAND_MEMORY && select_memory(s, from->size))
        which = move->load;
    else if (is_xmm(from) && to->kind == OPERAND_MEMORY && select_memory(s, to->size))
        which = move->store;
    return which < OP_VECTOR_COUNT && select_take(s, s->table->vector[which]);
}

bool select_move_16(const struct selection *s, unsigned aligned)
{
    return select_move(s, aligned ? &moves_16_aligned : &moves_16);
}

bool select_move_8(const struct selection *s, unsigned unused)
{
    (void)unused;
    return s->insn->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT && select_move(s, &moves_8);
}

/* MOVD and MOVQ between vector registers and memory; a general register is the exec function's. */
bool select_move_4(const struct selection *s, unsigned unused)
{
    (void)unused;
    return select_move(s, &moves_4);
}

bool select_move_half(const struct selection *s, unsigned high)
{
    return select_move(s, high ? &moves_high : &moves_low);
}

bool select_stub(const struct selection *s)
{
    const struct operand *to = &s->insn->operand[0], *from = &s->insn->operand[1];
    unsigned shape = simd_shape(s->insn);

    if (shape == SIMD_SHAPE_OTHER || !s->insn->extra || !(s->mode & MODE_64))
        return false;
    s->op->destination = to->offset;
    s->op->source = from->offset;
    s->op->immediate = (uint64_t)(uintptr_t)s->insn->extra;
    if (from->kind == OPERAND_MEMORY && !select_memory(s, from->size))
        return false;
    return select_take(s, s->table->stub[shape]);
}
