#include "silicon_forms.h"

#include <string.h>

#include <Zydis/Zydis.h>

#include "util/check.h"

static ZydisDecoder decoders[2];
static struct silicon_code code;
static ZydisDecodedInstruction decoded;
static ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
static bool is_valid;
static uint64_t fixed_index; /* an operand without base: its displacement was made for this index */

static bool decode_code(void);

/* ---- building an encoding ---- */

static void append(uint8_t byte) { code.bytes[code.length++] = byte; }

/* Decode what was built; `length` bytes are given, the rest are immediates and displacements as they come. */
static void decode_built(void)
{
    const unsigned used = code.length;

    for (unsigned i = used; i < sizeof(code.bytes); i++)
        code.bytes[i] = (uint8_t)silicon_random();
    is_valid = decode_code();
    if (is_valid) {
        code.length = decoded.length;
        return;
    }
    /* Whatever it is, it is not to run into random bytes. */
    memset(code.bytes + used, 0x90, sizeof(code.bytes) - used);
    code.length = sizeof(code.bytes);
}

static void append_opcode(const struct form_row *row, uint8_t opcode)
{
    static const uint8_t escapes[4][2] = {{0}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};

    for (unsigned i = 0; i < 2 && escapes[row->map][i]; i++)
        append(escapes[row->map][i]);
    append(opcode);
}

/* C4 RXB.map W.vvvv.L.pp: registers are inverted, and in 32-bit code R and X must be set. */
static void append_vex(const struct form_row *row, uint8_t opcode)
{
    const uint64_t r = silicon_random();

    append(0xc4);
    append((uint8_t)((code.is_32 ? 0xe0 : r & 0xe0) | row->map));
    append((uint8_t)((r >> 8 & 0xf8) | (code.is_32 ? 0xc0 : 0) | row->vex_prefix));
    /* A destination in vvvv or none is the encoding's choice: what does not exist is undefined on both sides. */
    code.bytes[code.length - 1] &= (uint8_t)~4;
    append(opcode);
}

/* ---- steering addresses ---- */

static uint64_t register_value(const struct silicon_input *in, ZydisRegister reg)
{
    const uint64_t value = in->gpr[ZydisRegisterGetId(reg) & 15];

    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR16: return (uint16_t)value;
    case ZYDIS_REGCLASS_GPR32: return (uint32_t)value;
    case ZYDIS_REGCLASS_GPR64: return value;
    default: return 0;
    }
}

/* mod 0 with base 5 in the SIB byte has no base; Zydis 4.0 forgets that for R13D. */
static void correct_operands(void)
{
    const bool no_base = decoded.raw.modrm.mod == 0 && decoded.raw.modrm.rm == 4 && decoded.raw.sib.base == 5;

    for (unsigned i = 0; i < decoded.operand_count_visible; i++)
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY && no_base) {
            operands[i].mem.base = ZYDIS_REGISTER_NONE;
            operands[i].mem.disp.value = decoded.raw.disp.value;
        }
}

static bool decode_code(void)
{
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoders[code.is_32], code.bytes, sizeof(code.bytes), &decoded, operands)))
        return false;
    correct_operands();
    return true;
}

static bool is_gpr(ZydisRegister reg)
{
    const ZydisRegisterClass class = ZydisRegisterGetClass(reg);

    return class == ZYDIS_REGCLASS_GPR16 || class == ZYDIS_REGCLASS_GPR32 || class == ZYDIS_REGCLASS_GPR64;
}

/* Lock operations stay within a cache line: a split lock may be an exception on the host. */
static bool must_be_aligned(void)
{
    return (decoded.attributes & ZYDIS_ATTRIB_HAS_LOCK) || decoded.mnemonic == ZYDIS_MNEMONIC_XCHG ||
           decoded.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B;
}

/* An address in the data pages; now and then one that crosses pages, is not there, not writable or not canonical. */
static uint64_t choose_address(unsigned size)
{
    const uint64_t r = silicon_random();
    const uint64_t align = must_be_aligned() && size ? (uint64_t)size - 1 : 0;

    switch (r & 63) {
    case 0: return (ARENA_DATA + 0xff0 + (r >> 8 & 15)) & ~align;
    case 1: return ARENA_DATA + 0x2000 - ((r >> 8 & 15) & ~align);
    case 2: return (ARENA_READ_ONLY + (r >> 8 & 0x7ff)) & ~align;
    case 3: return (ARENA_NOTHING + (r >> 8 & 0x7ff)) & ~align;
    case 4:
        if (code.is_32)
            return 0x2000 + (r >> 8 & 0x7ff);
        return (r & 64 ? 0x800000000000ull : 0xffff7ffffffff000ull) & ~align;
    default: return (ARENA_DATA + 0x400 + (r >> 8 & 0x3ff)) & ~align;
    }
}

static uint64_t choose_stack(void)
{
    const uint64_t r = silicon_random();

    switch (r & 63) {
    case 0: return ARENA_STACK + (r >> 8 & 15);
    case 1: return ARENA_STACK + 0x1000 - (r >> 8 & 15);
    case 2: return 0x800000000000 - (r >> 8 & 15);
    default: return ARENA_STACK + 0x800 + (r >> 8 & 0xff);
    }
}

/* Without a base register the displacement decides: change it in the encoding. */
static void patch_displacement(const ZydisDecodedOperand *o, uint64_t address)
{
    uint64_t value;

    /* Small: a displacement of 32 bits has to make up for it. */
    fixed_index = is_gpr(o->mem.index) ? (silicon_random() & 0x1fffff) - 0x100000 : 0;
    value = address - fixed_index * o->mem.scale;
    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP)
        value = address - (NATIVE_AT + decoded.length);
    memcpy(code.bytes + decoded.raw.disp.offset, &value, decoded.raw.disp.size / 8);
}

/* Make the operand's address the wanted one, as far as its registers allow. */
static void steer(struct silicon_input *in, const ZydisDecodedOperand *o, uint64_t address)
{
    const ZydisRegister base = o->mem.base, index = o->mem.index;
    uint64_t rest = address - (uint64_t)o->mem.disp.value;

    if (!is_gpr(base)) {
        if (is_gpr(index))
            in->gpr[ZydisRegisterGetId(index) & 15] = fixed_index;
        return;
    }
    if (is_gpr(index) && ZydisRegisterGetId(index) == ZydisRegisterGetId(base))
        rest /= o->mem.scale + 1u;
    else if (is_gpr(index))
        rest -= register_value(in, index) * o->mem.scale;
    /* A 32-bit address leaves the upper half of the register out; let it be anything. */
    if (ZydisRegisterGetClass(base) == ZYDIS_REGCLASS_GPR32 && !code.is_32)
        rest = (uint32_t)rest | silicon_random() << 32;
    in->gpr[ZydisRegisterGetId(base) & 15] = rest;
}

static bool has_explicit_memory(unsigned *which)
{
    for (unsigned i = 0; i < decoded.operand_count_visible; i++)
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            *which = i;
            return true;
        }
    return false;
}

static bool uses_stack(void)
{
    for (unsigned i = decoded.operand_count_visible; i < decoded.operand_count; i++)
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY && operands[i].mem.segment == ZYDIS_REGISTER_SS)
            return true;
    return false;
}

/* PUSH [RSP + ..] and the like: RSP has to stay where the stack is. */
static bool is_on_stack(const ZydisDecodedOperand *o)
{
    return uses_stack() && is_gpr(o->mem.base) && ZydisRegisterGetId(o->mem.base) == REG_RSP;
}

/* ---- values ---- */

static void random_registers(struct silicon_input *in)
{
    for (unsigned i = 0; i < 16; i++)
        in->gpr[i] = silicon_value();
    in->rflags = silicon_random() & (RFLAGS_ARITHMETIC | RFLAGS_DF);
    if (code.is_32)
        for (unsigned i = 0; i < 16; i++)
            in->gpr[i] = (uint32_t)in->gpr[i];
}

static uint64_t branch_target(void) { return silicon_random() & 1 ? NATIVE_FORWARD : NATIVE_BACKWARD; }

/* Quotients that fit: rDX is 0 or the sign, the accumulator small. */
static void divide_values(struct silicon_input *in)
{
    const uint64_t r = silicon_random();

    if (r & 1)
        in->gpr[REG_RAX] = silicon_value() >> (r >> 8 & 63);
    if (r & 2)
        in->gpr[REG_RDX] = r & 4 ? 0 : 0 - (in->gpr[REG_RAX] >> 63);
    else if (r & 8)
        in->gpr[REG_RDX] = silicon_value() >> (r >> 16 & 63);
}

static bool is_same_register(ZydisRegister a, ZydisRegister b)
{
    return is_gpr(a) && is_gpr(b) && ZydisRegisterGetId(a) == ZydisRegisterGetId(b);
}

/* A bit offset that stays near: the register operand of BT with memory. False: it is part of the address, too. */
static bool bit_offset(struct silicon_input *in)
{
    const ZydisDecodedOperand *bit = &operands[1], *at = &operands[0];

    if (bit->type != ZYDIS_OPERAND_TYPE_REGISTER || at->type != ZYDIS_OPERAND_TYPE_MEMORY)
        return true;
    in->gpr[ZydisRegisterGetId(bit->reg.value) & 15] = (silicon_random() & 0x1fff) - 0x1000;
    return !is_same_register(bit->reg.value, at->mem.base) && !is_same_register(bit->reg.value, at->mem.index);
}

static void store_value(uint64_t address, uint64_t value)
{
    const bool in_data = address >= ARENA_DATA && address < ARENA_DATA + 0x2000 - 32;
    const bool in_stack = address >= ARENA_STACK && address <= ARENA_STACK + 0x1000 - 8;
    const uint64_t four[4] = {value, silicon_value(), silicon_value(), silicon_value()};

    if (in_data)
        silicon_store(address, four, sizeof(four));
    else if (in_stack)
        silicon_store(address, &value, 8);
}

/* Strings: both pointers into the data pages, sometimes close to each other; the count small. */
static void string_values(struct silicon_input *in)
{
    const uint64_t r = silicon_random();
    const uint64_t high = decoded.address_width == 32 && !code.is_32 ? silicon_random() << 32 : 0;

    in->gpr[REG_RSI] = choose_address(0) | high;
    in->gpr[REG_RDI] = (r & 3 ? choose_address(0) : (uint32_t)in->gpr[REG_RSI] + (r >> 8) % 24 - 12) | high;
    in->gpr[REG_RCX] = (r >> 16 & 3 ? r >> 32 & 15 : r >> 32 & 0x7ff) | high;
    if (r >> 60 == 0) {
        /* Something to find, and something that is the same. */
        for (unsigned i = 0; i < 64; i++)
            store_value((uint32_t)in->gpr[REG_RDI] + i * 8, in->gpr[REG_RAX]);
        for (unsigned i = 0; i < 64; i++)
            store_value((uint32_t)in->gpr[REG_RSI] + i * 8, in->gpr[REG_RAX]);
    }
}

/* Where the operand is now: not always where it was wanted, when base and index are one register. */
static uint64_t operand_address(const struct silicon_input *in, const ZydisDecodedOperand *o)
{
    uint64_t address = register_value(in, o->mem.base) + register_value(in, o->mem.index) * o->mem.scale +
                       (uint64_t)o->mem.disp.value;

    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP)
        address += NATIVE_AT + decoded.length;
    return address;
}

/* Registers, flags and memory for one run. False: it would be a split lock, or go anywhere. */
static bool prepare(const struct form_row *row, struct silicon_input *in)
{
    uint64_t address = 0;
    unsigned memory = 0;
    const bool has_memory = has_explicit_memory(&memory);

    random_registers(in);
    if (row->flags & FORM_DIVIDE)
        divide_values(in);
    if ((row->flags & FORM_BIT_STRING) && !bit_offset(in))
        return false;
    if (uses_stack())
        in->gpr[REG_RSP] = choose_stack();
    if (row->flags & FORM_FRAME)
        in->gpr[REG_RBP] = choose_stack();
    if (decoded.meta.category == ZYDIS_CATEGORY_STRINGOP)
        string_values(in);
    if (row->flags & FORM_INDIRECT && operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER)
        in->gpr[ZydisRegisterGetId(operands[0].reg.value) & 15] = branch_target();
    if (has_memory && is_on_stack(&operands[memory])) {
        if (is_gpr(operands[memory].mem.index))
            in->gpr[ZydisRegisterGetId(operands[memory].mem.index) & 15] = silicon_random() & 15;
        address = operand_address(in, &operands[memory]);
    } else if (has_memory) {
        address = choose_address(operands[memory].size / 8);
        steer(in, &operands[memory], address);
    }
    if (decoded.mnemonic == ZYDIS_MNEMONIC_XLAT)
        in->gpr[REG_RBX] = choose_address(1);
    store_value(address, row->flags & FORM_INDIRECT ? branch_target() : silicon_value());
    store_value(in->gpr[REG_RSP], row->flags & FORM_INDIRECT ? branch_target() : silicon_value());
    return !has_memory || !must_be_aligned() || operands[memory].size == 0 ||
           (operand_address(in, &operands[memory]) & (operands[memory].size / 8 - 1u)) == 0;
}

/* ---- one encoding ---- */

/* Relative branches go to one of the prepared targets, or (taken rarely) outside the canonical range: not at all. */
static void patch_branch(void)
{
    const uint64_t displacement = branch_target() - (NATIVE_AT + decoded.length);

    memcpy(code.bytes + decoded.raw.imm[0].offset, &displacement, decoded.raw.imm[0].size / 8);
}

static void run_encoding(const struct form_row *row, unsigned sets)
{
    struct silicon_input in;
    unsigned memory;

    decode_built();
    code.ignored_flags = row->undefined | ((row->flags & FORM_INTEL_OF) && !__builtin_cpu_is("intel") ? RFLAGS_OF : 0);
    if (is_valid && (row->flags & FORM_BRANCH))
        patch_branch();
    if (is_valid && has_explicit_memory(&memory) && !is_gpr(operands[memory].mem.base)) {
        patch_displacement(&operands[memory], choose_address(operands[memory].size / 8));
        check(decode_code());
    }
    if (is_valid && has_explicit_memory(&memory) && is_on_stack(&operands[memory]) && decoded.raw.disp.size == 32) {
        const int32_t near = (int32_t)(silicon_random() & 127) - 64;
        memcpy(code.bytes + decoded.raw.disp.offset, &near, sizeof(near));
        check(decode_code());
    }
    silicon_place(&code);
    if (!is_valid) {
        random_registers(&in);
        silicon_compare(&in);
        return;
    }
    for (unsigned i = 0; i < sets; i++)
        if (prepare(row, &in))
            silicon_compare(&in);
}

/* ---- all encodings of a row ---- */

struct prefixes {
    uint8_t bytes[3];
    bool is_rex; /* the last byte: a random REX is put behind (64-bit code only) */
    uint16_t needs; /* FORM_ flags, one of which the row must have; 0: any row */
};

static const struct prefixes prefix_sets[] = {
    {{0}, false, 0},
    {{0x66}, false, 0},
    {{0}, true, 0},
    {{0x66}, true, 0},
    {{0x67}, true, 0},
    {{0x67}, false, 0},
    {{0x2e}, true, 0},
    {{0xf3}, true, FORM_REPEAT | FORM_SELECTING},
    {{0xf2}, true, FORM_REPEAT | FORM_SELECTING},
    {{0xf3, 0x66}, true, FORM_REPEAT | FORM_SELECTING},
    {{0xf2, 0x66}, true, FORM_REPEAT | FORM_SELECTING},
    {{0xf3, 0x67}, true, FORM_REPEAT},
    {{0xf2, 0x67, 0x66}, false, FORM_REPEAT},
    {{0xf0}, true, FORM_MODRM},
    {{0xf0, 0x66}, false, FORM_MODRM},
};

/* 66 before a near branch: in 32-bit code it cuts RIP to 16 bits, and AMD's 64-bit code does the same. */
static bool fits(const struct form_row *row, const struct prefixes *p)
{
    if (p->needs && !(p->needs & row->flags))
        return false;
    if ((row->flags & (FORM_BRANCH | FORM_INDIRECT)) && memchr(p->bytes, 0x66, sizeof(p->bytes)))
        return false;
    if ((row->flags & FORM_VEX) && (p->is_rex || p->bytes[0] == 0x66 || p->bytes[0] >= 0xf0))
        return false;
    return !(p->is_rex && code.is_32 && p->bytes[0] == 0);
}

static void run_with_prefixes(const struct form_row *row, uint8_t opcode, int modrm, const struct prefixes *p, unsigned sets)
{
    code.length = 0;
    for (unsigned i = 0; i < sizeof(p->bytes) && p->bytes[i]; i++)
        append(p->bytes[i]);
    if (p->is_rex && !code.is_32)
        append((uint8_t)(0x40 | (silicon_random() & 15)));
    if (row->flags & FORM_VEX)
        append_vex(row, opcode);
    else
        append_opcode(row, opcode);
    if (modrm >= 0)
        append((uint8_t)modrm);
    run_encoding(row, sets);
}

static void run_opcode(const struct form_row *row, uint8_t opcode, int modrm, unsigned sets)
{
    for (unsigned i = 0; i < array_size(prefix_sets); i++)
        if (fits(row, &prefix_sets[i]))
            run_with_prefixes(row, opcode, modrm, &prefix_sets[i], sets);
}

void forms_run(const struct form_row *row, bool is_32, unsigned sets)
{
    ZydisDecoderInit(&decoders[0], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisDecoderInit(&decoders[1], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    for (unsigned i = 0; i < 2; i++) {
        /* Their encodings are NOPs for a program. */
        ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    }
    code.is_32 = is_32;
    for (unsigned opcode = row->first; opcode <= row->last; opcode++) {
        if (!(row->flags & FORM_MODRM)) {
            /* As many encodings as a ModRM byte would have given registers. */
            for (unsigned i = 0; i < 16; i++)
                run_opcode(row, (uint8_t)opcode, -1, sets * 4);
            continue;
        }
        for (int modrm = 0; modrm < (row->flags & FORM_MEMORY_ONLY ? 0xc0 : 0x100); modrm++)
            if (!row->reg_fields || (row->reg_fields >> (modrm >> 3 & 7) & 1))
                run_opcode(row, (uint8_t)opcode, modrm, sets);
    }
}
