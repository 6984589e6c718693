#include "form_cases.h"

#include <string.h>

#include "duel/duel_code.h"
#include "insn/simd_values.h"
#include "x86/cpu.h"

/* The case that is being made, and what it is made with. */
static struct form_case made;
static const struct case_layout *where;
static void (*run_case)(const struct form_case *);
static bool make_all;
static unsigned turn;

/* ---- values ---- */

static uint64_t lane(unsigned value)
{
    static const uint64_t lanes[CASE_VALUES - 1] = {0, ~0ull, 0x8000000080008080, 0x7fffffff7fff7f7f};

    return value < CASE_VALUES - 1 ? lanes[value] : simd_one_in(2) ? simd_random_lane() : duel_random_value();
}

static void fill(uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i += 8) {
        const uint64_t l = lane(made.value);
        memcpy(bytes + i, &l, size - i < 8 ? size - i : 8);
    }
}

/* An x87 with three numbers in it; vector registers as the values are. */
static void set_vectors(struct duel_state *s)
{
    const uint32_t mxcsr = 0x1f80, mask = 0xffff;

    memset(s->fxsave, 0, sizeof(s->fxsave));
    if (made.value == CASE_VALUES - 1) {
        simd_random_x87(s->fxsave);
        s->fxsave[5] = 0;
    } else {
        const uint64_t mantissas[3] = {0x8000000000000000, 0xc90fdaa22168c235, 0x8000000000000001};
        const uint16_t exponents[3] = {0x3fff, 0x4000, 0xc030}; /* 1, pi, large and negative */
        memcpy(s->fxsave, "\x7f\x03\x00\x28\xe0", 5);           /* TOP 5: registers 5 to 7 are full */
        for (unsigned i = 0; i < 3; i++) {
            memcpy(s->fxsave + 32 + 16 * i, &mantissas[i], 8);
            memcpy(s->fxsave + 40 + 16 * i, &exponents[i], 2);
        }
    }
    memcpy(s->fxsave + 24, &mxcsr, 4);
    memcpy(s->fxsave + 28, &mask, 4);
    fill(s->fxsave + 160, 256);
    fill(&s->upper[0][0], sizeof(s->upper));
    s->upper[7][3] |= 1; /* XSAVE need not tell unused state from state that is zero: none is */
    s->fxsave[160 + 7 * 16] |= 1;
}

static void set_registers(struct duel_state *s)
{
    const uint64_t width = made.bits == 64 ? ~0ull : 0xffffffff;

    memset(s, 0, sizeof(*s));
    for (unsigned i = 0; i < (made.bits == 64 ? 16u : 8u); i++)
        s->gpr[i] = (made.value == CASE_VALUES - 1 ? duel_random_value() : made.value == 2 ? lane(3) : lane(made.value)) & width;
    s->rflags = RFLAGS_ONE | RFLAGS_IF | (made.flags ? RFLAGS_ARITHMETIC | RFLAGS_DF : 0);
    s->rip = where->code;
    for (unsigned i = 0; i < 6; i++)
        s->selector[i] = where->data_selector;
    s->selector[SEG_CS] = where->code_selector;
    if (made.bits == 64)
        s->selector[SEG_FS] = s->selector[SEG_GS] = 0;
    if (made.is_short)
        s->selector[SEG_DS] = s->selector[SEG_ES] = where->short_selector;
    set_vectors(s);
}

static bool is_extended_state(void)
{
    return made.insn.meta.isa_set >= ZYDIS_ISA_SET_XSAVE && made.insn.meta.isa_set <= ZYDIS_ISA_SET_XSAVES;
}

/* Some instructions do nothing but fault with such values: give them others. */
static void suit_registers(struct duel_state *s)
{
    static const int64_t bits[CASE_VALUES] = {0, 7, -1, 65, -500};
    const unsigned reg = made.insn.raw.modrm.reg | (made.insn.raw.rex.R ? 8u : 0);

    switch (made.insn.mnemonic) {
    case ZYDIS_MNEMONIC_DIV: case ZYDIS_MNEMONIC_IDIV:
        if (made.value >= 2)
            s->gpr[REG_RDX] = 0, s->gpr[REG_RAX] &= made.value == 2 ? 0x7f : 0x7fff;
        break;
    case ZYDIS_MNEMONIC_BT: case ZYDIS_MNEMONIC_BTC: case ZYDIS_MNEMONIC_BTR: case ZYDIS_MNEMONIC_BTS:
        if (made.operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER && reg != REG_RBX)
            s->gpr[reg] = (uint64_t)bits[made.value];
        break;
    default:
        break;
    }
    if (is_extended_state()) {
        s->gpr[REG_RDX] = 0;
        s->gpr[REG_RAX] = made.value == 2 ? 1 : made.value == 3 ? 3 : made.value == 4 ? 4 : where->components;
    }
}

/* ---- places ---- */

static uint64_t bias(void) { return made.is_short ? where->short_bias : 0; }

/* The address of `size` bytes, by the place. */
static uint64_t place_at(uint64_t border, unsigned size)
{
    switch (made.place) {
    case PLACE_ALIGNED: return border - 0x400;
    case PLACE_ODD: return border - 0x3fb;
    case PLACE_SPLIT_1: return border - 1;
    case PLACE_SPLIT_HALF: return border - (size + 1) / 2;
    case PLACE_SPLIT_LAST: return border - (size > 1 ? size - 1 : 1);
    case PLACE_READ_ONLY: return where->read_only + 0x400;
    default: return where->nothing - (size > 1 ? 1 : 0); /* its first byte is there */
    }
}

static struct case_memory *add_memory(uint64_t at, unsigned size)
{
    struct case_memory *m = &made.memory[made.memory_count++];

    m->at = at;
    m->size = (uint16_t)size;
    m->is_stack = false;
    fill(m->bytes, size);
    return m;
}

/* An address register: bits above the address's width are anything. */
static void set_address(unsigned reg, uint64_t address)
{
    const unsigned width = made.insn.address_width;

    address -= bias();
    if (width == 16)
        address = (address & 0xffff) | (made.value & 1 ? 0xabcd0000 : 0);
    else if (width == 32)
        address = (uint32_t)address | (made.bits == 64 && (made.value & 1) ? 0x1234567800000000 : 0);
    made.state.gpr[reg] = address;
}

/* Words of a frame or of a far pointer. */
static void put_words(struct case_memory *m, unsigned size, const uint64_t *words, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        memcpy(m->bytes + i * size, &words[i], size);
    if (m->size < count * size)
        m->size = (uint16_t)(count * size);
}

/* Good pointers and frames, for some of the values. */
static void put_pointers(struct case_memory *m, bool is_frame)
{
    const unsigned size = made.insn.operand_width / 8u;
    const bool is_far = made.insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR, is_branch = made.insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;
    uint64_t frame[5] = {where->code + 0x40, where->code_selector, RFLAGS_ONE | RFLAGS_IF | RFLAGS_CF, where->stack - 0x300, where->data_selector};

    if (made.value == 2 && size == 8) { /* to compatibility mode, with more offset than it has */
        frame[0] |= 0xa5a5a5a500000000;
        frame[1] = where->other_selector;
    } else if (made.value != 0 && made.value != 3) {
        return;
    }
    if (is_frame && (is_branch || made.insn.meta.category == ZYDIS_CATEGORY_RET))
        put_words(m, size, frame, 5);
    else if (is_branch && !is_frame)
        put_words(m, size, frame, is_far ? 2 : 1);
    else
        switch (made.insn.mnemonic) {
        case ZYDIS_MNEMONIC_LDS: case ZYDIS_MNEMONIC_LES: case ZYDIS_MNEMONIC_LFS: case ZYDIS_MNEMONIC_LGS: case ZYDIS_MNEMONIC_LSS:
            put_words(m, size, (const uint64_t[]){where->stack, where->data_selector}, 2);
            break;
        case ZYDIS_MNEMONIC_MOV: case ZYDIS_MNEMONIC_POP: /* segment registers */
        case ZYDIS_MNEMONIC_LAR: case ZYDIS_MNEMONIC_LSL: case ZYDIS_MNEMONIC_VERR: case ZYDIS_MNEMONIC_VERW:
            if (made.operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER)
                put_words(m, 2, (const uint64_t[]){where->data_selector}, 1);
            break;
        default:
            break;
        }
}

/* An area for XRSTOR: in the standard format, with all that is asked for; compacted, without SSE; as the values are. */
static void put_area(struct case_memory *m)
{
    static const uint64_t headers[2][8] = {{7}, {5, 1ull << 63 | 7}};
    const uint32_t mxcsr = 0x1fa0;

    if (made.value > 1)
        return;
    memcpy(m->bytes + 24, &mxcsr, 4);
    memcpy(m->bytes + 512, headers[made.flags], 64);
    for (unsigned i = 576; i < m->size; i++)
        m->bytes[i] = (uint8_t)(i * 7);
    memset(m->bytes + 836, 0, 4); /* of PKRU's 8 bytes */
}

/* What is in a page that can be written, for as long as it is one. */
static void trim(struct case_memory *m)
{
    if (made.place == PLACE_READ_ONLY && m->at >= where->read_only && m->at < where->read_only + 0x1000)
        m->size = 0;
    if (m->at < where->nothing && m->at + m->size > where->nothing)
        m->size = (uint16_t)(where->nothing - m->at);
}

/* Indices of a gather: near the base, so that elements are on either side of the border; or anything. */
static void set_indices(unsigned reg)
{
    const bool is_narrow = made.insn.mnemonic == ZYDIS_MNEMONIC_VGATHERDPS || made.insn.mnemonic == ZYDIS_MNEMONIC_VGATHERDPD ||
                           made.insn.mnemonic == ZYDIS_MNEMONIC_VPGATHERDD || made.insn.mnemonic == ZYDIS_MNEMONIC_VPGATHERDQ;
    uint8_t bytes[32];

    if (made.value == CASE_VALUES - 1 && simd_one_in(4))
        return;
    for (unsigned i = 0; i < (is_narrow ? 8u : 4u); i++) {
        const int64_t index = (int64_t)(i * 37 + 11 + made.value) % 24 - 12;
        memcpy(bytes + i * (is_narrow ? 4 : 8), &index, is_narrow ? 4 : 8);
    }
    memcpy(made.state.fxsave + 160 + 16 * reg, bytes, 16);
    memcpy(made.state.upper[reg], bytes + 16, 16);
}

static void place_explicit(const ZydisDecodedOperand *o)
{
    const unsigned size = is_extended_state() ? 840 : form_operand_bytes(o);
    uint64_t address = place_at(where->data, size);
    const bool is_large = size >= 64; /* FXSAVE and its like want alignment */

    if (is_large && made.place != PLACE_ODD)
        address &= ~63ull;
    struct case_memory *m = add_memory(address, size);
    put_pointers(m, false);
    if (is_extended_state())
        put_area(m);
    trim(m);
    if (o->mem.base == ZYDIS_REGISTER_NONE) { /* a displacement only */
        address -= bias();
        memcpy(made.code + made.insn.raw.disp.offset, &address, made.insn.raw.disp.size / 8);
        return;
    }
    if (made.insn.mnemonic == ZYDIS_MNEMONIC_XLAT)
        address -= (uint8_t)made.state.gpr[REG_RAX];
    if (opcode_row_is_gather(made.row))
        set_indices((unsigned)ZydisRegisterGetId(o->mem.index) & 15);
    set_address(ZydisRegisterGetId(o->mem.base) & 15, address);
}

static void place_stack(const ZydisDecodedOperand *o, bool is_other)
{
    const unsigned size = form_operand_bytes(o), place = made.place;
    const bool is_push = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

    /* With an operand elsewhere the stack takes part in every other case. */
    if (is_other && !made.flags)
        made.place = PLACE_ALIGNED;
    const uint64_t address = place_at(where->stack, size);
    made.place = place;
    struct case_memory *m = add_memory(address, size);
    m->is_stack = true;
    put_pointers(m, true);
    trim(m);
    made.state.gpr[REG_RSP] = address + (is_push ? size : 0);
    made.state.gpr[REG_RBP] = where->stack - 0x208;
    if (made.insn.mnemonic == ZYDIS_MNEMONIC_LEAVE)
        made.state.gpr[REG_RBP] = address;
}

static const uint8_t repetitions[] = {0, 1, 2, 17};

/* Either side of a string: elements across the border; REP runs into what is not there. */
static void place_string(unsigned count)
{
    const unsigned size = form_operand_bytes(&made.operands[made.operands[0].type != ZYDIS_OPERAND_TYPE_MEMORY]);
    const bool back = made.flags;
    uint64_t to = place_at(where->data, size), from = place_at(where->data, size) - 0x100;

    if (made.place >= PLACE_READ_ONLY)
        from = where->data + 0x100;
    if (made.place == PLACE_NOTHING) /* two elements, and half a one */
        to = back ? where->data - 0x200 : where->nothing - 2 * size - size / 2;
    if (made.place == PLACE_SPLIT_HALF) /* the source, too */
        from = back ? to + 8 * size : to - 8 * size;
    set_address(REG_RSI, from);
    set_address(REG_RDI, to);
    set_address(REG_RCX, count + bias());
    const unsigned span = 20 * size;
    for (unsigned i = 0; i < 2; i++) {
        struct case_memory *m = add_memory((i ? from : to) - (back ? span : 0), 2 * span > 320 ? 320 : 2 * span);
        trim(m);
        /* Compared strings and searched ones: an end somewhere. */
        if (made.value == 3 && m->size > 3 * size)
            m->bytes[(back ? span - 3 * size : 3 * size) % m->size] ^= (uint8_t)i;
    }
}

/* ---- one case ---- */

static bool decode_made(void)
{
    ZydisDecoder decoder;

    code_decoder(made.bits, &decoder);
    made.is_valid = ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, made.code, sizeof(made.code), &made.insn, made.operands));
    made.size = made.is_valid ? made.insn.length : sizeof(made.code);
    return made.is_valid;
}

static void finish(unsigned count)
{
    const ZydisDecodedOperand *memory = made.is_valid ? form_explicit_memory(&made) : NULL, *stack = made.is_valid ? form_stack_memory(&made) : NULL;

    made.memory_count = 0;
    set_registers(&made.state);
    made.state.gpr[REG_RSP] = where->idle_stack;
    if (made.is_valid) {
        suit_registers(&made.state);
        if (memory)
            place_explicit(memory);
        else if (form_is_string(&made))
            place_string(count);
        else if (made.insn.mnemonic == ZYDIS_MNEMONIC_XLAT)
            set_address(REG_RBX, place_at(where->data, 1) - (uint8_t)made.state.gpr[REG_RAX]);
        else
            set_address(REG_RDI, place_at(where->data, 16)); /* MASKMOVDQU */
        if (stack)
            place_stack(stack, memory != NULL);
    }
    if (made.bits != 64)
        for (unsigned i = 0; i < 16; i++)
            made.state.gpr[i] = (uint32_t)made.state.gpr[i];
    run_case(&made);
}

/* Bytes behind the opcode: an immediate, as the values are. */
static void set_immediate(uint8_t *at, unsigned size)
{
    static const uint8_t first[CASE_VALUES - 1][5] = {{0}, {0xff, 0xff, 0xff, 0xff, 0xff}, {0x1f, 0x80, 0x00, 0x80}, {0x10, 0, 2, 0}};

    for (unsigned i = 0; i < size; i++)
        at[i] = made.value == CASE_VALUES - 1 ? (uint8_t)simd_random() : i < 5 ? first[made.value][i] : first[made.value][4];
}

static void run_values(const uint8_t *code, unsigned used)
{
    for (made.place = 0; made.place < PLACES; made.place++)
        for (unsigned flags = 0; flags < 2; flags++)
            for (unsigned v = 0; v < (make_all ? CASE_VALUES : 1u); v++) {
                made.flags = flags;
                made.value = make_all ? v : turn++ % CASE_VALUES;
                memcpy(made.code, code, used);
                set_immediate(made.code + used, (unsigned)sizeof(made.code) - used);
                (void)decode_made();
                made.is_short = made.is_valid && made.bits == 32 && made.insn.address_width == 16;
                made.repeats = made.is_valid && form_is_string(&made) && (made.insn.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE));
                for (unsigned i = 0; i < (made.repeats ? array_size(repetitions) : 1u); i++)
                    finish(repetitions[made.repeats ? i : 3]);
            }
}

/* ---- all encodings of a row ---- */

struct prefixes {
    uint8_t bytes[3], rex;
    enum { PLAIN = 1, STRING = 2, VEX = 4, LONG_ONLY = 8, SELECTS = 16 /* 66 is free to be used */ } use;
};

static const struct prefixes prefix_sets[] = {
    {{0}, 0, PLAIN | STRING | VEX},
    {{0x66}, 0, PLAIN | STRING | SELECTS},
    {{0x67}, 0, PLAIN | STRING | VEX},
    {{0}, 0x48, PLAIN | STRING | LONG_ONLY},
    {{0}, 0x45, PLAIN | LONG_ONLY},
    {{0xf0}, 0, PLAIN | STRING},
    {{0xf0}, 0x48, PLAIN | LONG_ONLY},
    {{0xf0, 0x66}, 0, PLAIN | SELECTS},
    {{0xf3}, 0, STRING}, {{0xf2}, 0, STRING}, {{0xf3, 0x67}, 0, STRING}, {{0xf2, 0x67}, 0, STRING}, {{0xf3, 0x66}, 0, STRING},
    {{0xf2, 0x66}, 0, STRING}, {{0xf3}, 0x48, STRING | LONG_ONLY}, {{0xf2}, 0x48, STRING | LONG_ONLY},
    {{0xf3, 0x66, 0x67}, 0, STRING}, {{0xf3, 0x67}, 0x48, STRING | LONG_ONLY},
};

/* ModRM for [rBX], by how wide addresses are. */
static uint8_t memory_modrm(unsigned bits, bool has_67, unsigned reg)
{
    const bool is_16 = has_67 ? bits == 32 : bits == 16;

    return (uint8_t)(reg << 3 | (is_16 ? 7 : 3));
}

/* Returns where ModRM is, behind prefixes and opcode. */
static unsigned encode(const struct opcode_row *row, const struct prefixes *p, unsigned form, unsigned vvvv, uint8_t code[15])
{
    const unsigned mandatory = !row->is_vex && row->prefix != ANY && row->prefix;
    uint8_t opcode[15] = {0};
    unsigned n = 0, length = opcode_row_encode(row, made.bits == 64, (uint64_t)form << 32 | (vvvv ? 1ull << 34 | (uint64_t)vvvv << 36 : 0), opcode);

    for (unsigned i = 0; i < sizeof(p->bytes) && p->bytes[i]; i++)
        code[n++] = p->bytes[i];
    for (unsigned i = 0; i < length; i++) {
        if (p->rex && i == mandatory)
            code[n++] = p->rex;
        code[n++] = opcode[i];
    }
    return n;
}

static void run_encoding(const struct opcode_row *row, const struct prefixes *p, unsigned form, bool *is_done)
{
    static const uint8_t regs[] = {0, 2, 1, 5, 6};
    const bool has_67 = memchr(p->bytes, 0x67, sizeof(p->bytes)) != NULL;

    memset(made.code, 0, sizeof(made.code));
    for (unsigned vvvv = row->is_vex; vvvv < 2; vvvv--) { /* one that takes no further register wants none */
        uint8_t code[15] = {0};
        unsigned n = encode(row, p, form, vvvv, code);

        code[n] = memory_modrm(made.bits, has_67, row->reg == ANY ? regs[turn % array_size(regs)] : row->reg);
        if (opcode_row_is_gather(row)) { /* index 7, base rBX */
            code[n] = (uint8_t)((code[n] & 0x38) | 4);
            code[n + 1] = 7 << 3 | 3;
        }
        memcpy(made.code, code, sizeof(code));
        if (!decode_made() && vvvv)
            continue;
        const bool touches = made.is_valid && (form_touches_memory(&made) || form_touches_port(&made));
        if (!touches && !*is_done)
            return;
        *is_done = true;
        if (made.is_valid && !touches)
            return;
        const bool has_modrm = !made.is_valid || (made.insn.attributes & ZYDIS_ATTRIB_HAS_MODRM);
        run_values(code, n + has_modrm + (has_modrm && opcode_row_is_gather(row)));
        return;
    }
}

static bool fits(const struct opcode_row *row, const struct prefixes *p, bool strings)
{
    if ((p->use & LONG_ONLY) && made.bits != 64)
        return false;
    if ((p->use & SELECTS) && row->prefix != ANY)
        return false;
    return p->use & (row->is_vex ? VEX : strings ? STRING : PLAIN);
}

void form_cases(const struct opcode_row *row, unsigned bits, const struct case_layout *layout, bool all,
                void (*run)(const struct form_case *))
{
    const bool strings = !row->is_vex && row->map == 0 && ((row->opcode >= 0xa4 && row->opcode <= 0xa7) ||
                         (row->opcode >= 0xaa && row->opcode <= 0xaf) || (row->opcode >= 0x6c && row->opcode <= 0x6f));
    bool is_done = false;

    if (row->mod == 1 || row->state[bits != 64] != ROW_DONE)
        return;
    made.row = row;
    made.bits = bits;
    where = layout;
    run_case = run;
    make_all = all;
    simd_restart((uint64_t)row->map << 16 | row->opcode << 8 | row->prefix);
    for (unsigned i = 0; i < array_size(prefix_sets); i++)
        for (unsigned form = 0; form < 4; form++)
            if (fits(row, &prefix_sets[i], strings) && (row->is_vex ? row->forms >> form & 1 : form == 0))
                run_encoding(row, &prefix_sets[i], form, &is_done);
}
