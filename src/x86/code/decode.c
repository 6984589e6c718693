/* One instruction: Zydis's decoding turned into struct insn. */
#include "x86/code/decode.h"

#include <pthread.h>
#include <string.h>

#include "util/check.h"

enum decoder_kind { DECODER_64, DECODER_64_AMD, DECODER_32, DECODER_16, DECODER_REAL_16, DECODER_COUNT };

static ZydisDecoder decoders[DECODER_COUNT];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init_decoders(void)
{
    static const struct {
        ZydisMachineMode mode;
        ZydisStackWidth width;
    } kinds[DECODER_COUNT] = {
        [DECODER_64] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
        [DECODER_64_AMD] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
        [DECODER_32] = {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
        [DECODER_16] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
        [DECODER_REAL_16] = {ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16},
    };

    /* Extensions no guest is shown: their encodings are those of NOP or WBINVD then. */
    static const ZydisDecoderMode absent[] = {
        ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_CLDEMOTE, ZYDIS_DECODER_MODE_WBNOINVD};

    for (unsigned i = 0; i < DECODER_COUNT; i++) {
        check(ZYAN_SUCCESS(ZydisDecoderInit(&decoders[i], kinds[i].mode, kinds[i].width)));
        for (unsigned k = 0; k < array_size(absent); k++)
            check(ZYAN_SUCCESS(ZydisDecoderEnableMode(&decoders[i], absent[k], ZYAN_FALSE)));
    }
    check(ZYAN_SUCCESS(ZydisDecoderEnableMode(&decoders[DECODER_64_AMD], ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE)));
}

static const ZydisDecoder *decoder_for(uint32_t mode)
{
    pthread_once(&once, init_decoders);
    if (mode & MODE_64)
        return &decoders[mode & MODE_AMD_BRANCHES ? DECODER_64_AMD : DECODER_64];
    if (mode & MODE_CS32)
        return &decoders[DECODER_32];
    return &decoders[mode & MODE_PROTECTED ? DECODER_16 : DECODER_REAL_16];
}

static uint16_t gpr_offset(unsigned number)
{
    return (uint16_t)(offsetof(struct cpu, gpr) + number * sizeof(union gpr));
}

static unsigned gpr_number(ZydisRegister reg)
{
    return (unsigned)ZydisRegisterGetId(reg);
}

/* Byte registers: AL CL DL BL, then AH CH DH BH, then SPL BPL SIL DIL, then R8B.. */
static void byte_register(ZydisRegister reg, struct operand *operand)
{
    if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) {
        operand->number = (uint8_t)(reg - ZYDIS_REGISTER_AH);
        operand->offset = (uint16_t)(gpr_offset(operand->number) + 1);
        return;
    }
    if (reg <= ZYDIS_REGISTER_BL)
        operand->number = (uint8_t)(reg - ZYDIS_REGISTER_AL);
    else if (reg <= ZYDIS_REGISTER_DIL)
        operand->number = (uint8_t)(reg - ZYDIS_REGISTER_SPL + 4);
    else
        operand->number = (uint8_t)(reg - ZYDIS_REGISTER_R8B + 8);
    operand->offset = gpr_offset(operand->number);
}

static unsigned segment_number(ZydisRegister reg)
{
    switch (reg) {
    case ZYDIS_REGISTER_ES: return SEG_ES;
    case ZYDIS_REGISTER_CS: return SEG_CS;
    case ZYDIS_REGISTER_SS: return SEG_SS;
    case ZYDIS_REGISTER_FS: return SEG_FS;
    case ZYDIS_REGISTER_GS: return SEG_GS;
    default: return SEG_DS;
    }
}

static void convert_register(ZydisRegister reg, struct operand *operand)
{
    static const struct {
        ZydisRegisterClass zydis;
        enum register_class ours;
    } classes[] = {
        {ZYDIS_REGCLASS_GPR16, CLASS_GPR}, {ZYDIS_REGCLASS_GPR32, CLASS_GPR}, {ZYDIS_REGCLASS_GPR64, CLASS_GPR},
        {ZYDIS_REGCLASS_CONTROL, CLASS_CONTROL}, {ZYDIS_REGCLASS_DEBUG, CLASS_DEBUG}, {ZYDIS_REGCLASS_X87, CLASS_X87},
        {ZYDIS_REGCLASS_MMX, CLASS_MMX}, {ZYDIS_REGCLASS_XMM, CLASS_XMM}, {ZYDIS_REGCLASS_YMM, CLASS_YMM},
    };
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);

    operand->kind = OPERAND_REGISTER;
    operand->reg_class = CLASS_OTHER;
    if (class == ZYDIS_REGCLASS_GPR8) {
        operand->reg_class = CLASS_GPR;
        byte_register(reg, operand);
    } else if (class == ZYDIS_REGCLASS_SEGMENT) {
        operand->reg_class = CLASS_SEGMENT;
        operand->number = (uint8_t)segment_number(reg);
    } else {
        for (size_t i = 0; i < array_size(classes); i++)
            if (classes[i].zydis == class) {
                operand->reg_class = (uint8_t)classes[i].ours;
                operand->number = (uint8_t)gpr_number(reg);
            }
        if (operand->reg_class == CLASS_GPR)
            operand->offset = gpr_offset(operand->number);
    }
}

static uint16_t address_register(ZydisRegister reg)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);
    bool general = class == ZYDIS_REGCLASS_GPR16 || class == ZYDIS_REGCLASS_GPR32 || class == ZYDIS_REGCLASS_GPR64;

    return general ? gpr_offset(gpr_number(reg)) : (uint16_t)offsetof(struct cpu, zero);
}

static void convert_memory(const ZydisDecodedOperand *from, struct memory_operand *to)
{
    static const uint8_t shifts[9] = {[2] = 1, [4] = 2, [8] = 3};
    ZydisRegisterClass index_class = ZydisRegisterGetClass(from->mem.index);

    *to = (struct memory_operand){
        .base = address_register(from->mem.base),
        .index = address_register(from->mem.index),
        .scale_shift = shifts[from->mem.scale <= 8 ? from->mem.scale : 0],
        .segment = (uint8_t)segment_number(from->mem.segment),
        .is_rip_relative = ZydisRegisterGetClass(from->mem.base) == ZYDIS_REGCLASS_IP,
        .is_vsib = index_class == ZYDIS_REGCLASS_XMM || index_class == ZYDIS_REGCLASS_YMM,
        .displacement = from->mem.disp.value,
    };
}

/* MONITOR's address is in rAX, in DS or another segment; Zydis has a register there, and no segment. */
static void convert_monitor(uint32_t mode, const ZydisDecodedInstruction *z, struct memory_operand *to)
{
    static const uint8_t prefixes[] = {
        [SEG_ES] = 0x26, [SEG_CS] = 0x2e, [SEG_SS] = 0x36, [SEG_DS] = 0x3e, [SEG_FS] = 0x64, [SEG_GS] = 0x65};

    to->base = gpr_offset(REG_RAX);
    for (unsigned i = 0; i < z->raw.prefix_count; i++)
        for (unsigned s = mode & MODE_64 ? SEG_FS : SEG_ES; s <= SEG_GS; s++)
            if (z->raw.prefixes[i].value == prefixes[s])
                to->segment = (uint8_t)s;
}

static void convert_operand(const ZydisDecodedOperand *from, struct operand *to)
{
    *to = (struct operand){
        .size = (uint8_t)(from->size / 8),
        .is_read = from->actions & ZYDIS_OPERAND_ACTION_MASK_READ,
        .is_written = from->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE,
    };
    switch (from->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        convert_register(from->reg.value, to);
        break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        to->kind = OPERAND_MEMORY;
        break;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        to->kind = OPERAND_IMMEDIATE;
        to->immediate = from->imm.value.u;
        break;
    case ZYDIS_OPERAND_TYPE_POINTER:
        to->kind = OPERAND_FAR_POINTER;
        to->immediate = from->ptr.offset;
        to->selector = from->ptr.segment;
        break;
    default:
        break;
    }
}

/* The operand that insn->memory describes: the ModRM or moffs one; for strings and XLAT the one with the
 * segment that an override changes (base rSI or rBX). */
static bool describes_memory(ZydisMnemonic mnemonic, const ZydisDecodedOperand *o)
{
    if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
        return false;
    if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM || o->encoding == ZYDIS_OPERAND_ENCODING_DISP16_32_64)
        return true;
    if (mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU || mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU)
        return true; /* [rDI] in any segment, ES too */
    unsigned base = ZydisRegisterGetClass(o->mem.base) == ZYDIS_REGCLASS_INVALID ? 99 : gpr_number(o->mem.base);
    return base == REG_RSI || base == REG_RBX || (base == REG_RDI && o->mem.segment != ZYDIS_REGISTER_ES);
}

/* AMD's near branches under prefix 66, of which Zydis leaves the short ones and RET as they are. */
static bool is_narrow_branch(uint32_t mode, const ZydisDecodedInstruction *z)
{
    const bool is_near = z->meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT || z->meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR;
    bool has_66 = false;

    if (!(mode & MODE_AMD_BRANCHES) || !is_near || z->raw.rex.W)
        return false;
    for (unsigned i = 0; i < z->raw.prefix_count; i++)
        has_66 |= z->raw.prefixes[i].value == 0x66;
    return has_66;
}

static void convert(uint32_t mode, const uint8_t *bytes, struct decoded *d)
{
    const ZydisDecodedInstruction *z = &d->zydis;
    struct insn *insn = &d->insn;

    *insn = (struct insn){
        .mnemonic = z->mnemonic,
        .length = z->length,
        .operand_size = z->operand_width == 16 ? 2 : z->operand_width == 64 ? 8 : 4,
        .address_size = (uint8_t)(z->address_width / 8),
        .stack_size = mode & MODE_64 ? 8 : mode & MODE_SS32 ? 4 : 2,
        .has_lock = z->attributes & ZYDIS_ATTRIB_HAS_LOCK,
        .has_rep = z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE),
        .has_repne = z->attributes & ZYDIS_ATTRIB_HAS_REPNE,
        .opcode_map = (uint8_t)z->opcode_map,
        .opcode = z->opcode,
        .modrm = (uint8_t)(z->raw.modrm.mod << 6 | z->raw.modrm.reg << 3 | z->raw.modrm.rm),
    };
    memcpy(insn->bytes, bytes, z->length);
    if (is_narrow_branch(mode, z))
        insn->operand_size = 2;
    if (z->operand_width == 8) {
        /* Byte instructions: what the prefixes say, for those that look at it. */
        bool has_66 = z->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE;
        insn->operand_size = (mode & (MODE_64 | MODE_CS32) ? !has_66 : has_66) ? 4 : 2;
    }
    for (unsigned i = 0; i < z->operand_count_visible && i < array_size(insn->operand); i++) {
        convert_operand(&d->operands[i], &insn->operand[i]);
        insn->operand_count++;
    }
    insn->memory = (struct memory_operand){
        .base = offsetof(struct cpu, zero), .index = offsetof(struct cpu, zero), .segment = SEG_DS};
    for (unsigned i = 0; i < z->operand_count; i++)
        if (describes_memory(z->mnemonic, &d->operands[i])) {
            convert_memory(&d->operands[i], &insn->memory);
            break;
        }
    if (z->mnemonic == ZYDIS_MNEMONIC_MONITOR)
        convert_monitor(mode, z, &insn->memory);
    if (z->address_width != 16 && z->raw.modrm.mod == 0 && z->raw.modrm.rm == 4 && z->raw.sib.base == 5) {
        /* SIB base 5 under mod 0 is a displacement alone (SDM 2A table 2-3); Zydis 4.0 takes it for R13D with prefix 67. */
        insn->memory.base = offsetof(struct cpu, zero);
        insn->memory.displacement = z->raw.disp.value;
    }
}

/* Zydis also knows the vector instructions of Knights Corner, VEX-coded forms of POPCNT, LZCNT and TZCNT among them. */
static bool is_of_knights_corner(const ZydisDecodedInstruction *z)
{
    return z->meta.isa_set == ZYDIS_ISA_SET_KNCE || z->meta.isa_set == ZYDIS_ISA_SET_KNCJKBR ||
           z->meta.isa_set == ZYDIS_ISA_SET_KNCSTREAM || z->meta.isa_set == ZYDIS_ISA_SET_KNCV;
}

static bool is_prefix_byte(uint32_t mode, uint8_t byte)
{
    static const uint8_t legacy[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3};

    return memchr(legacy, byte, sizeof(legacy)) || ((mode & MODE_64) && (byte & 0xf0) == 0x40);
}

static bool lacks_data(ZyanStatus status)
{
    return status == ZYDIS_STATUS_NO_MORE_DATA || status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG;
}

/*
 * What is undefined by its prefixes alone is fetched all the same, and beyond 15 bytes it is #GP before it is #UD. Its length is
 * that without LOCK and REP; in front of VEX without operand size and REX, too.
 */
static bool is_too_long(uint32_t mode, const uint8_t bytes[15])
{
    ZydisDecodedInstruction z;
    unsigned prefixes = 0;

    while (prefixes < 14 && is_prefix_byte(mode, bytes[prefixes]))
        prefixes++;
    for (unsigned pass = 0; pass < 2; pass++) {
        uint8_t rest[15];
        unsigned length = 0;
        for (unsigned i = 0; i < 15; i++) {
            const bool goes =
                bytes[i] == 0xf0 || (bytes[i] & 0xfe) == 0xf2 || (pass == 1 && (bytes[i] == 0x66 || (bytes[i] & 0xf0) == 0x40));
            if (i >= prefixes || !goes)
                rest[length++] = bytes[i];
        }
        const ZyanStatus status = ZydisDecoderDecodeInstruction(decoder_for(mode), NULL, rest, length, &z);
        if (ZYAN_SUCCESS(status) || lacks_data(status))
            return lacks_data(status);
    }
    return false;
}

enum decode_status decode(uint32_t mode, const uint8_t *bytes, size_t available, struct decoded *out)
{
    size_t length = available > 15 ? 15 : available;
    ZyanStatus status = ZydisDecoderDecodeFull(decoder_for(mode), bytes, length, &out->zydis, out->operands);

    if (ZYAN_SUCCESS(status)) {
        if (unlikely(is_of_knights_corner(&out->zydis)))
            return DECODE_INVALID;
        convert(mode, bytes, out);
        insn_bind(&out->insn, &out->zydis, out->operands);
        return DECODE_OK;
    }
    /* 15 bytes are fetched before anybody says that they are too few. */
    if (lacks_data(status))
        return available >= 15 ? DECODE_TOO_LONG : DECODE_TRUNCATED;
    return available >= 15 && is_too_long(mode, bytes) ? DECODE_TOO_LONG : DECODE_INVALID;
}
