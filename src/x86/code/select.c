/*
 * Which instructions have a fast operation, and how its operands are laid out in struct op. Everything that is not found here
 * runs by its exec function. One small function per family; the table at the end joins them.
 */
#include <string.h>

#include "x86/code/decode.h"
#include "x86/code/interpret.h"
#include "x86/code/ops.h"
#include "x86/code/select.h"

static int size_index(unsigned size)
{
    return size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : size == 8 ? 3 : -1;
}

static bool is_gpr(const struct operand *o)
{
    return o->kind == OPERAND_REGISTER && o->reg_class == CLASS_GPR;
}

bool select_memory(const struct selection *s, unsigned size)
{
    const struct memory_operand *m = &s->insn->memory;
    int64_t displacement = m->displacement;
    struct op *op = s->op;

    op->base = m->base;
    op->index = m->index;
    op->scale_shift = m->scale_shift;
    op->segment = m->segment;
    op->size = (uint8_t)size;
    op->segment_base = offsetof(struct cpu, zero);
    if (s->mode & MODE_64) {
        op->address_32 = s->insn->address_size == 4;
        if (m->segment == SEG_FS || m->segment == SEG_GS)
            op->segment_base = (uint16_t)(offsetof(struct cpu, segment) + m->segment * sizeof(struct segment));
        if (m->is_rip_relative) {
            op->base = offsetof(struct cpu, block_rip);
            displacement += s->offset + s->insn->length;
        }
    } else {
        op->address_32 = s->insn->address_size == 4;
    }
    op->displacement = (int32_t)displacement;
    return op->displacement == displacement;
}

/* ---- families ---- */

static bool select_two(const struct selection *s, unsigned which)
{
    const struct operand *to = &s->insn->operand[0], *from = &s->insn->operand[1];
    int size = size_index(to->size);
    enum op_form form;

    if (size < 0 || s->insn->has_lock || s->insn->operand_count != 2)
        return false;
    if (is_gpr(to)) {
        s->op->destination = to->offset;
        if (is_gpr(from)) {
            form = FORM_RR;
            s->op->source = from->offset;
        } else if (from->kind == OPERAND_IMMEDIATE) {
            form = FORM_RI;
            s->op->immediate = from->immediate;
        } else if (from->kind == OPERAND_MEMORY) {
            form = FORM_RM;
            if (!select_memory(s, to->size))
                return false;
        } else {
            return false;
        }
    } else if (to->kind == OPERAND_MEMORY) {
        if (is_gpr(from)) {
            form = FORM_MR;
            s->op->source = from->offset;
        } else if (from->kind == OPERAND_IMMEDIATE) {
            form = FORM_MI;
            s->op->immediate = from->immediate;
        } else {
            return false;
        }
        if (!select_memory(s, to->size))
            return false;
    } else {
        return false;
    }
    return select_take(s, s->table->alu[which][form][size]);
}

static bool select_unary(const struct selection *s, unsigned which)
{
    const struct operand *o = &s->insn->operand[0];
    int size = size_index(o->size);

    if (size < 0 || s->insn->has_lock)
        return false;
    if (is_gpr(o)) {
        s->op->destination = o->offset;
        return select_take(s, s->table->unary_r[which][size]);
    }
    return o->kind == OPERAND_MEMORY && select_memory(s, o->size) && select_take(s, s->table->unary_m[which][size]);
}

static bool select_shift(const struct selection *s, unsigned which)
{
    const struct operand *to = &s->insn->operand[0], *count = &s->insn->operand[1];
    int size = size_index(to->size);

    bool in_memory = to->kind == OPERAND_MEMORY;

    if (size < 0 || !(in_memory ? select_memory(s, to->size) : is_gpr(to)))
        return false;
    s->op->destination = to->offset;
    if (count->kind == OPERAND_IMMEDIATE) {
        /* The handlers want a count that does something: rotates of 8 and 16 bits go by the count modulo the size. */
        if (!(count->immediate & (to->size == 8 ? 63 : 31)) || (to->size < 4 && (count->immediate & 31) >= to->size * 8u))
            return false;
        s->op->immediate = count->immediate;
        return select_take(s, (in_memory ? s->table->shift_mi : s->table->shift_ri)[which][size]);
    }
    return is_gpr(count) && select_take(s, (in_memory ? s->table->shift_mc : s->table->shift_rc)[which][size]);
}

static bool select_widen(const struct selection *s, bool is_signed)
{
    const struct operand *to = &s->insn->operand[0], *from = &s->insn->operand[1];
    int to_size = size_index(to->size), from_size = size_index(from->size);

    if (to_size < 0 || from_size < 0 || !is_gpr(to) || from_size > (is_signed ? 2 : 1))
        return false;
    s->op->destination = to->offset;
    if (is_gpr(from)) {
        s->op->source = from->offset;
        return select_take(s, (is_signed ? s->table->movsx_r : s->table->movzx_r)[from_size][to_size]);
    }
    return from->kind == OPERAND_MEMORY && select_memory(s, from->size) &&
           select_take(s, (is_signed ? s->table->movsx_m : s->table->movzx_m)[from_size][to_size]);
}

static bool select_movzx(const struct selection *s, unsigned unused)
{
    (void)unused;
    return select_widen(s, false);
}

static bool select_movsx(const struct selection *s, unsigned unused)
{
    (void)unused;
    return select_widen(s, true);
}

static bool select_lea(const struct selection *s, unsigned unused)
{
    const struct operand *to = &s->insn->operand[0];
    int size = size_index(to->size);

    (void)unused;
    if (size < 1 || !select_memory(s, 1))
        return false;
    s->op->segment_base = offsetof(struct cpu, zero);
    s->op->destination = to->offset;
    return select_take(s, s->table->lea[size]);
}

static bool select_imul(const struct selection *s, unsigned unused)
{
    const struct operand *o = s->insn->operand;
    int size = size_index(o[0].size);

    (void)unused;
    if (size < 1 || s->insn->operand_count < 2 || !is_gpr(&o[0]))
        return false;
    s->op->destination = o[0].offset;
    if (s->insn->operand_count == 3) {
        s->op->source = o[1].offset;
        s->op->immediate = o[2].immediate;
        return is_gpr(&o[1]) && o[2].kind == OPERAND_IMMEDIATE && select_take(s, s->table->imul_rri[size]);
    }
    if (s->insn->opcode_map != ZYDIS_OPCODE_MAP_0F)
        return false;
    if (is_gpr(&o[1])) {
        s->op->source = o[1].offset;
        return select_take(s, s->table->imul_rr[size]);
    }
    return o[1].kind == OPERAND_MEMORY && select_memory(s, o[1].size) && select_take(s, s->table->imul_rm[size]);
}

/* Natural width of near branches and stack operations that have a fast form. */
static bool has_natural_width(const struct selection *s, unsigned size)
{
    if (s->mode & MODE_64)
        return size == 8;
    return size == 4 && (s->mode & MODE_SS32) && (s->mode & MODE_CS32);
}

static void set_branch(const struct selection *s)
{
    s->op->target = (int64_t)(s->offset + s->insn->length + s->insn->operand[0].immediate);
    s->op->link = NULL;
    s->op->has_link = true;
}

/* A branch whose operand size truncates the target otherwise than the mode does stays with its exec function. */
static bool has_natural_branch(const struct selection *s)
{
    if (s->mode & MODE_64)
        return s->insn->operand_size != 2;
    return s->insn->operand_size == (s->mode & MODE_CS32 ? 4 : 2);
}

static bool select_jcc(const struct selection *s, unsigned cc)
{
    if (!has_natural_branch(s))
        return false;
    set_branch(s);
    *s->ends = false;
    return select_take(s, s->table->jcc[cc]);
}

static bool select_jmp(const struct selection *s, unsigned unused)
{
    const struct operand *o = &s->insn->operand[0];

    (void)unused;
    if (o->kind == OPERAND_IMMEDIATE) {
        if (!has_natural_branch(s))
            return false;
        set_branch(s);
        return select_take(s, s->table->jmp);
    }
    if (s->insn->opcode != 0xff || ((s->insn->modrm >> 3) & 7) != 4 || !has_natural_width(s, o->size)) /* ff /5, ea: far */
        return false;
    if (is_gpr(o)) {
        s->op->source = o->offset;
        return select_take(s, s->table->jmp_r);
    }
    return o->kind == OPERAND_MEMORY && select_memory(s, o->size) && select_take(s, s->table->jmp_m);
}

static bool select_call(const struct selection *s, unsigned unused)
{
    const struct operand *o = &s->insn->operand[0];

    (void)unused;
    s->op->size = s->mode & MODE_64 ? 8 : 4;
    if (o->kind == OPERAND_IMMEDIATE) {
        if (!has_natural_branch(s) || !((s->mode & MODE_64) || has_natural_width(s, 4)))
            return false;
        set_branch(s);
        return select_take(s, s->table->call);
    }
    if (!has_natural_width(s, o->size) || !is_gpr(o))
        return false;
    s->op->source = o->offset;
    return select_take(s, s->table->call_r);
}

static bool select_ret(const struct selection *s, unsigned unused)
{
    const struct operand *o = &s->insn->operand[0];

    (void)unused;
    if (s->insn->opcode != 0xc2 && s->insn->opcode != 0xc3) /* ca, cb: far */
        return false;
    if (!has_natural_width(s, s->mode & MODE_64 ? (s->insn->operand_size == 2 ? 2 : 8) : s->insn->operand_size))
        return false;
    s->op->size = s->mode & MODE_64 ? 8 : 4;
    if (s->insn->operand_count && o->kind == OPERAND_IMMEDIATE) {
        s->op->immediate = o->immediate;
        return select_take(s, s->table->ret_imm);
    }
    return select_take(s, s->table->ret);
}

static bool select_push(const struct selection *s, unsigned unused)
{
    const struct operand *o = &s->insn->operand[0];

    (void)unused;
    s->op->size = s->mode & MODE_64 ? 8 : 4;
    if (is_gpr(o) && has_natural_width(s, o->size)) {
        s->op->source = o->offset;
        return select_take(s, s->table->push_r);
    }
    if (o->kind == OPERAND_IMMEDIATE && s->insn->operand_size != 2 &&
        has_natural_width(s, s->mode & MODE_64 ? 8 : s->insn->operand_size)) {
        s->op->immediate = o->immediate;
        return select_take(s, s->table->push_i);
    }
    return false;
}

static bool select_pop(const struct selection *s, unsigned unused)
{
    const struct operand *o = &s->insn->operand[0];

    (void)unused;
    if (!is_gpr(o) || !has_natural_width(s, o->size))
        return false;
    s->op->size = s->mode & MODE_64 ? 8 : 4;
    s->op->destination = o->offset;
    return o->number != REG_RSP && select_take(s, s->table->pop_r);
}

static bool select_leave(const struct selection *s, unsigned unused)
{
    (void)unused;
    if (!has_natural_width(s, s->mode & MODE_64 ? (s->insn->operand_size == 2 ? 2 : 8) : s->insn->operand_size))
        return false;
    s->op->size = s->mode & MODE_64 ? 8 : 4;
    return select_take(s, s->table->leave);
}

static bool select_setcc(const struct selection *s, unsigned cc)
{
    s->op->destination = s->insn->operand[0].offset;
    return is_gpr(&s->insn->operand[0]) && select_take(s, s->table->setcc[cc]);
}

static bool select_cmov(const struct selection *s, unsigned cc)
{
    const struct operand *to = &s->insn->operand[0], *from = &s->insn->operand[1];
    int size = size_index(to->size);

    if (size < 1)
        return false;
    s->op->destination = to->offset;
    if (is_gpr(from)) {
        s->op->source = from->offset;
        return select_take(s, s->table->cmov_r[cc][size]);
    }
    return from->kind == OPERAND_MEMORY && select_memory(s, from->size) && select_take(s, s->table->cmov_m[cc][size]);
}

static bool select_xchg(const struct selection *s, unsigned unused)
{
    const struct operand *a = &s->insn->operand[0], *b = &s->insn->operand[1];
    int size = size_index(a->size);

    (void)unused;
    if (size < 0 || !is_gpr(a) || !is_gpr(b) || (b->offset & 1))
        return false;
    s->op->destination = a->offset;
    s->op->source = b->offset;
    return select_take(s, s->table->xchg_rr[size]);
}

static bool select_bswap(const struct selection *s, unsigned unused)
{
    const struct operand *o = &s->insn->operand[0];

    (void)unused;
    s->op->destination = o->offset;
    return size_index(o->size) >= 2 && select_take(s, s->table->bswap[size_index(o->size)]);
}

static bool select_cbw(const struct selection *s, unsigned size)
{
    return select_take(s, s->table->cbw[size]);
}

static bool select_cwd(const struct selection *s, unsigned size)
{
    return select_take(s, s->table->cwd[size]);
}

static bool select_bt(const struct selection *s, unsigned unused)
{
    const struct operand *o = s->insn->operand;
    int size = size_index(o[0].size);

    (void)unused;
    if (size < 1 || !is_gpr(&o[0]) || o[1].kind != OPERAND_IMMEDIATE)
        return false;
    s->op->destination = o[0].offset;
    s->op->immediate = o[1].immediate;
    return select_take(s, s->table->bt_ri[size]);
}

static bool select_nop(const struct selection *s, unsigned unused)
{
    (void)unused;
    return select_take(s, s->table->nop);
}

/* ---- the table ---- */

typedef bool select_fn(const struct selection *s, unsigned argument);

/* clang-format off */
#define M(name) ZYDIS_MNEMONIC_##name
static const struct row { ZydisMnemonic mnemonic; select_fn *select; unsigned argument; } rows[] = {
    {M(ADD), select_two, OP_ADD}, {M(OR), select_two, OP_OR}, {M(ADC), select_two, OP_ADC}, {M(SBB), select_two, OP_SBB},
    {M(AND), select_two, OP_AND}, {M(SUB), select_two, OP_SUB}, {M(XOR), select_two, OP_XOR}, {M(CMP), select_two, OP_CMP},
    {M(TEST), select_two, OP_TEST}, {M(MOV), select_two, OP_MOV},
    {M(INC), select_unary, OP_INC}, {M(DEC), select_unary, OP_DEC}, {M(NEG), select_unary, OP_NEG}, {M(NOT), select_unary, OP_NOT},
    {M(SHL), select_shift, OP_SHL}, {M(SHR), select_shift, OP_SHR}, {M(SAR), select_shift, OP_SAR}, {M(ROL), select_shift, OP_ROL}, {M(ROR), select_shift, OP_ROR},
    {M(MOVZX), select_movzx, 0}, {M(MOVSX), select_movsx, 0}, {M(MOVSXD), select_movsx, 0}, {M(LEA), select_lea, 0}, {M(IMUL), select_imul, 0},
    {M(JMP), select_jmp, 0}, {M(CALL), select_call, 0}, {M(RET), select_ret, 0}, {M(PUSH), select_push, 0}, {M(POP), select_pop, 0}, {M(LEAVE), select_leave, 0},
    {M(XCHG), select_xchg, 0}, {M(BSWAP), select_bswap, 0}, {M(BT), select_bt, 0}, {M(NOP), select_nop, 0}, {M(ENDBR64), select_nop, 0}, {M(ENDBR32), select_nop, 0},
    {M(CBW), select_cbw, 1}, {M(CWDE), select_cbw, 2}, {M(CDQE), select_cbw, 3}, {M(CWD), select_cwd, 1}, {M(CDQ), select_cwd, 2}, {M(CQO), select_cwd, 3},
    {M(MOVUPS), select_move_16, false}, {M(MOVUPD), select_move_16, false}, {M(MOVDQU), select_move_16, false},
    {M(MOVAPS), select_move_16, true}, {M(MOVAPD), select_move_16, true}, {M(MOVDQA), select_move_16, true},
    {M(MOVSD), select_move_8, 0}, {M(MOVQ), select_move_8, 0}, {M(MOVSS), select_move_4, 0}, {M(MOVD), select_move_4, 0},
    {M(MOVLPS), select_move_half, false}, {M(MOVLPD), select_move_half, false}, {M(MOVHPS), select_move_half, true}, {M(MOVHPD), select_move_half, true},
    {M(JO), select_jcc, 0}, {M(JNO), select_jcc, 1}, {M(JB), select_jcc, 2}, {M(JNB), select_jcc, 3}, {M(JZ), select_jcc, 4}, {M(JNZ), select_jcc, 5}, {M(JBE), select_jcc, 6}, {M(JNBE), select_jcc, 7},
    {M(JS), select_jcc, 8}, {M(JNS), select_jcc, 9}, {M(JP), select_jcc, 10}, {M(JNP), select_jcc, 11}, {M(JL), select_jcc, 12}, {M(JNL), select_jcc, 13}, {M(JLE), select_jcc, 14}, {M(JNLE), select_jcc, 15},
    {M(SETO), select_setcc, 0}, {M(SETNO), select_setcc, 1}, {M(SETB), select_setcc, 2}, {M(SETNB), select_setcc, 3}, {M(SETZ), select_setcc, 4}, {M(SETNZ), select_setcc, 5}, {M(SETBE), select_setcc, 6}, {M(SETNBE), select_setcc, 7},
    {M(SETS), select_setcc, 8}, {M(SETNS), select_setcc, 9}, {M(SETP), select_setcc, 10}, {M(SETNP), select_setcc, 11}, {M(SETL), select_setcc, 12}, {M(SETNL), select_setcc, 13}, {M(SETLE), select_setcc, 14}, {M(SETNLE), select_setcc, 15},
    {M(CMOVO), select_cmov, 0}, {M(CMOVNO), select_cmov, 1}, {M(CMOVB), select_cmov, 2}, {M(CMOVNB), select_cmov, 3}, {M(CMOVZ), select_cmov, 4}, {M(CMOVNZ), select_cmov, 5}, {M(CMOVBE), select_cmov, 6}, {M(CMOVNBE), select_cmov, 7},
    {M(CMOVS), select_cmov, 8}, {M(CMOVNS), select_cmov, 9}, {M(CMOVP), select_cmov, 10}, {M(CMOVNP), select_cmov, 11}, {M(CMOVL), select_cmov, 12}, {M(CMOVNL), select_cmov, 13}, {M(CMOVLE), select_cmov, 14}, {M(CMOVNLE), select_cmov, 15},
};
#undef M
/* clang-format on */

/* Rows by mnemonic, built once; 0 is none. */
static uint8_t row_of[ZYDIS_MNEMONIC_MAX_VALUE + 1];

__attribute__((constructor)) static void index_rows(void)
{
    for (size_t i = 0; i < array_size(rows); i++)
        row_of[rows[i].mnemonic] = (uint8_t)(i + 1);
}

bool select_fast(uint32_t mode, const struct decoded *decoded, unsigned offset, struct op *op, bool *ends)
{
    struct op kept = *op;
    bool kept_ends = *ends;
    const struct selection s = {.mode = mode, .table = mode & MODE_64 ? &ops_64 : &ops_legacy, .insn = &decoded->insn,
                                .offset = offset, .op = op, .ends = ends};
    unsigned row = row_of[decoded->insn.mnemonic];

    if (decoded->insn.operand[0].kind == OPERAND_REGISTER && (decoded->insn.operand[0].offset & 1))
        return false; /* AH..BH as destination */
    if (row ? rows[row - 1].select(&s, rows[row - 1].argument) : decoded->insn.uses_vector && select_stub(&s))
        return true;
    *op = kept;
    *ends = kept_ends;
    return false;
}
