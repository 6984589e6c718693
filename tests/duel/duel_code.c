#include "duel_code.h"

#include <stdlib.h>
#include <string.h>

#include "insn/simd_values.h"
#include "x86/code/decode.h"

enum { KEPT = 48 }; /* encodings kept of each instruction */

/* An encoding without its operands: bytes up to the opcode, and a ModRM byte that led there. */
struct encoding {
    uint8_t bytes[8], length;
    uint8_t modrm;
    bool has_modrm;
};

static struct {
    struct encoding kept[KEPT];
    unsigned seen;
} by_mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static ZydisMnemonic mnemonics[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static unsigned mnemonic_count;
static ZydisDecoder decoder;

void code_decoder(unsigned bits, ZydisDecoder *d)
{
    static const ZydisDecoderMode absent[] = {
        ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_CLDEMOTE, ZYDIS_DECODER_MODE_WBNOINVD};

    if (bits == 64)
        ZydisDecoderInit(d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (bits == 32)
        ZydisDecoderInit(d, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(d, ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16);
    for (unsigned i = 0; i < array_size(absent); i++)
        ZydisDecoderEnableMode(d, absent[i], ZYAN_FALSE);
}

/* ---- what is compared ---- */

static const struct {
    ZydisMnemonic mnemonic;
    const char *reason;
} not_comparable[] = {
    {ZYDIS_MNEMONIC_SYSCALL, "a system call of the host"},
    {ZYDIS_MNEMONIC_SYSENTER, "a system call of the host"},
    {ZYDIS_MNEMONIC_CPUID, "tells of the host"},
    {ZYDIS_MNEMONIC_XGETBV, "tells of the host (XCR0)"},
    {ZYDIS_MNEMONIC_RDPID, "tells of the host (TSC_AUX)"},
    {ZYDIS_MNEMONIC_RDTSC, "never twice the same"},
    {ZYDIS_MNEMONIC_RDTSCP, "never twice the same"},
    {ZYDIS_MNEMONIC_RDPMC, "never twice the same"},
    {ZYDIS_MNEMONIC_RDRAND, "never twice the same"},
    {ZYDIS_MNEMONIC_RDSEED, "never twice the same"},
    {ZYDIS_MNEMONIC_SGDT, "the kernel answers (UMIP)"},
    {ZYDIS_MNEMONIC_SIDT, "the kernel answers (UMIP)"},
    {ZYDIS_MNEMONIC_SLDT, "the kernel answers (UMIP)"},
    {ZYDIS_MNEMONIC_STR, "the kernel answers (UMIP)"},
    {ZYDIS_MNEMONIC_SMSW, "the kernel answers (UMIP)"},
    {ZYDIS_MNEMONIC_VMCALL, "the host's hypervisor answers"},
    {ZYDIS_MNEMONIC_VMMCALL, "the host's hypervisor answers"},
    {ZYDIS_MNEMONIC_VMFUNC, "the host's hypervisor answers"},
    {ZYDIS_MNEMONIC_RDPKRU, "tells of the host"},
    {ZYDIS_MNEMONIC_WRPKRU, "would take the test's own memory away"},
    {ZYDIS_MNEMONIC_XBEGIN, "hidden on some hosts, and there all the same"},
    {ZYDIS_MNEMONIC_XABORT, "hidden on some hosts, and there all the same"},
};

const char *code_reason(ZydisMnemonic mnemonic)
{
    for (unsigned i = 0; i < array_size(not_comparable); i++)
        if (not_comparable[i].mnemonic == mnemonic)
            return not_comparable[i].reason;
    return NULL;
}

bool code_is_comparable(const ZydisDecodedInstruction *insn)
{
    return !code_reason(insn->mnemonic) && !(insn->mnemonic == ZYDIS_MNEMONIC_INT && insn->raw.imm[0].value.u == 0x80);
}

bool code_is_implemented(unsigned bits, const uint8_t bytes[15])
{
    static const uint8_t vmfunc[15] = {0x0f, 0x01, 0xd4};
    static exec_fn *undefined;
    struct decoded d;
    const uint32_t mode = MODE_PROTECTED | MODE_LONG | (bits == 64 ? MODE_64 : bits == 32 ? MODE_CS32 : 0);

    if (!undefined && decode(MODE_PROTECTED | MODE_CS32, vmfunc, 15, &d) == DECODE_OK)
        undefined = d.insn.exec;
    return decode(mode, bytes, 15, &d) == DECODE_OK && d.insn.exec != undefined;
}

bool code_is_comparable_bytes(unsigned bits, const uint8_t bytes[15])
{
    ZydisDecodedInstruction z;
    ZydisDecoder d;

    code_decoder(bits, &d);
    return !ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&d, NULL, bytes, 15, &z)) || code_is_comparable(&z);
}

/* ---- the catalogue ---- */

static void keep(const uint8_t *bytes, unsigned prefix_length, bool has_modrm)
{
    ZydisDecodedInstruction insn;
    const unsigned bits = decoder.machine_mode == ZYDIS_MACHINE_MODE_LONG_64 ? 64 :
                          decoder.machine_mode == ZYDIS_MACHINE_MODE_LONG_COMPAT_32 ? 32 : 16;

    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, bytes, 15, &insn)) || !code_is_comparable(&insn) ||
        !code_is_implemented(bits, bytes))
        return;
    if (by_mnemonic[insn.mnemonic].seen == 0)
        mnemonics[mnemonic_count++] = insn.mnemonic;
    const unsigned n = by_mnemonic[insn.mnemonic].seen++;
    const unsigned slot = n < KEPT ? n : (unsigned)(simd_random() % (n + 1));
    if (slot >= KEPT)
        return;
    struct encoding *e = &by_mnemonic[insn.mnemonic].kept[slot];
    memcpy(e->bytes, bytes, prefix_length);
    e->length = (uint8_t)prefix_length;
    e->has_modrm = has_modrm && (insn.attributes & ZYDIS_ATTRIB_HAS_MODRM);
    e->modrm = bytes[prefix_length];
}

static void keep_with_modrm(uint8_t *bytes, unsigned length)
{
    static const uint8_t forms[] = {0x03, 0x04, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7};

    for (unsigned reg = 0; reg < 8; reg++)
        for (unsigned f = 0; f < array_size(forms); f++) {
            bytes[length] = (uint8_t)(forms[f] | reg << 3);
            keep(bytes, length, true);
        }
}

static void catalogue_legacy(bool has_rex)
{
    static const uint8_t escapes[4][2] = {{0}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}}, prefixes[] = {0, 0x66, 0xf3, 0xf2};

    for (unsigned p = 0; p < 8; p++)
        for (unsigned map = 0; map < 4; map++)
            for (unsigned opcode = 0; opcode < 256; opcode++) {
                uint8_t bytes[16] = {0};
                unsigned n = 0;
                if (p >= 4 && !has_rex)
                    continue;
                if (prefixes[p & 3])
                    bytes[n++] = prefixes[p & 3];
                if (p >= 4)
                    bytes[n++] = 0x48;
                for (unsigned i = 0; i < 2 && escapes[map][i]; i++)
                    bytes[n++] = escapes[map][i];
                bytes[n++] = (uint8_t)opcode;
                keep_with_modrm(bytes, n);
            }
}

static void catalogue_vex(void)
{
    for (unsigned map = 1; map <= 3; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++)
            for (unsigned form = 0; form < 32; form++) {
                const unsigned vvvv = form & 16 ? 15 : 14;
                uint8_t bytes[16] = {0xc4, (uint8_t)(0xe0 | map), (uint8_t)((form & 8) << 4 | vvvv << 3 | (form & 7)),
                                     (uint8_t)opcode};
                keep_with_modrm(bytes, 4);
            }
}

void code_catalogue(unsigned bits)
{
    code_decoder(bits, &decoder);
    mnemonic_count = 0;
    memset(by_mnemonic, 0, sizeof(by_mnemonic));
    catalogue_legacy(bits == 64);
    catalogue_vex();
}

unsigned code_catalogue_size(void) { return mnemonic_count; }

/* ---- loads of registers ---- */

struct writer {
    uint8_t *code;
    unsigned length, bits;
};

static void put(struct writer *w, const void *bytes, unsigned n)
{
    memcpy(w->code + w->length, bytes, n);
    w->length += n;
}

/* MOV r, imm32 (64-bit code: sign-extended). */
static void put_load(struct writer *w, unsigned reg, uint32_t value)
{
    const uint8_t b = (uint8_t)(0xb8 | (reg & 7));

    if (w->bits == 64) {
        const uint8_t bytes[3] = {(uint8_t)(reg & 8 ? 0x49 : 0x48), 0xc7, (uint8_t)(0xc0 | (reg & 7))};
        put(w, bytes, 3);
    } else if (w->bits == 16) {
        const uint8_t bytes[2] = {0x66, b};
        put(w, bytes, 2);
    } else {
        put(w, &b, 1);
    }
    put(w, &value, 4);
}

/* VPSRLQ index, index, 56: indices of gathers become small. */
static void put_small_index(struct writer *w, unsigned reg)
{
    const uint8_t bytes[6] = {0xc4, (uint8_t)(reg & 8 ? 0xc1 : 0xe1), (uint8_t)((~reg & 15) << 3 | 0x05), 0x73,
                              (uint8_t)(0xd0 | (reg & 7)), 56};
    put(w, bytes, 6);
}

static bool is_gpr(ZydisRegister reg)
{
    const ZydisRegisterClass class = ZydisRegisterGetClass(reg);
    return class == ZYDIS_REGCLASS_GPR16 || class == ZYDIS_REGCLASS_GPR32 || class == ZYDIS_REGCLASS_GPR64;
}

static unsigned id(ZydisRegister reg) { return (unsigned)ZydisRegisterGetId(reg) & 15; }

static uint32_t stack_address(unsigned bits)
{
    return (uint32_t)(DUEL_STACK + 0x1000 + (simd_random() & 0x1f8) - (bits == 16 ? DUEL_BASE : 0));
}

static uint16_t some_selector(void)
{
    static const uint16_t any[] = {0,           3,           DUEL_CS64,   DUEL_CS32,         DUEL_DS,
                                   DUEL_CODE16, DUEL_DATA16, DUEL_SHORT,  DUEL_DOWN16,       DUEL_DOWN32,
                                   DUEL_READ,   DUEL_ABSENT, DUEL_CODE32, DUEL_CONFORMING16, DUEL_EXECUTE_ONLY};
    return simd_one_in(4) ? (uint16_t)(simd_random() & 0xff) : any[simd_random() % array_size(any)];
}

/* ---- one instruction ---- */

static bool takes_selector(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
    return z->mnemonic == ZYDIS_MNEMONIC_LAR || z->mnemonic == ZYDIS_MNEMONIC_LSL || z->mnemonic == ZYDIS_MNEMONIC_VERR ||
           z->mnemonic == ZYDIS_MNEMONIC_VERW ||
           (z->mnemonic == ZYDIS_MNEMONIC_MOV && ZydisRegisterGetClass(o[0].reg.value) == ZYDIS_REGCLASS_SEGMENT);
}

static bool is_xsave(const ZydisDecodedInstruction *z)
{
    return z->meta.isa_set >= ZYDIS_ISA_SET_XSAVE && z->meta.isa_set <= ZYDIS_ISA_SET_XSAVES;
}

static void steer_memory(struct writer *w, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
    uint64_t address = duel_random_address(w->bits);

    if (o->mem.base == ZYDIS_REGISTER_NONE || !is_gpr(o->mem.base))
        return;
    if (id(o->mem.base) == REG_RSP) {
        put_load(w, REG_RSP, stack_address(w->bits));
        return;
    }
    if (is_xsave(z) || z->mnemonic == ZYDIS_MNEMONIC_FXSAVE || z->mnemonic == ZYDIS_MNEMONIC_FXRSTOR)
        address &= ~63ull;
    address -= (uint64_t)o->mem.disp.value;
    if (is_gpr(o->mem.index) && id(o->mem.index) != id(o->mem.base)) {
        const uint32_t index = (uint32_t)(simd_random() & 63);
        put_load(w, id(o->mem.index), index);
        address -= (uint64_t)index * o->mem.scale;
    } else if (o->mem.index != ZYDIS_REGISTER_NONE && !is_gpr(o->mem.index)) {
        put_small_index(w, id(o->mem.index));
    }
    put_load(w, id(o->mem.base), (uint32_t)address);
}

static void steer(struct writer *w, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
    for (unsigned i = 0; i < z->operand_count; i++)
        if (o[i].type == ZYDIS_OPERAND_TYPE_MEMORY && !simd_one_in(8))
            steer_memory(w, z, &o[i]);
    if (z->meta.category == ZYDIS_CATEGORY_STRINGOP)
        put_load(w, REG_RCX, (uint32_t)(simd_random() & (simd_one_in(16) ? 0xfff : 15)));
    if (is_xsave(z)) {
        /* The processor may take vector state for used although it is zero: make it not zero. VPCMPEQD YMM7, YMM7, YMM7 */
        if (duel_native_has_avx())
            put(w, "\xc5\xc5\x76\xff", 4);
        put_load(w, REG_RAX, (uint32_t)(simd_random() & 7));
        put_load(w, REG_RDX, 0);
    }
    for (unsigned i = 0; i < z->operand_count_visible && takes_selector(z, o); i++)
        if (o[i].type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(o[i].reg.value))
            put_load(w, id(o[i].reg.value), some_selector());
}

/* Displacements are small, relative branches mostly go forward and not far, far pointers to what follows. */
static void patch(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o, unsigned bits, uint8_t *code, uint64_t next)
{
    if (z->raw.disp.size >= 16) {
        const bool is_absolute = !(z->attributes & ZYDIS_ATTRIB_HAS_MODRM) || (z->raw.modrm.mod == 0 && z->raw.modrm.rm != 4);
        uint64_t value = (simd_random() & 0xff) - 0x80;
        if (is_absolute && !simd_one_in(8))
            value = duel_random_address(bits) - (bits == 64 && (z->attributes & ZYDIS_ATTRIB_HAS_MODRM) ? next : 0);
        memcpy(code + z->raw.disp.offset, &value, z->raw.disp.size / 8);
    }
    if (o[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o[0].imm.is_relative) {
        const uint64_t value = simd_one_in(24) ? 0 - (simd_random() & 31) : simd_one_in(2) ? 0 : simd_random() & 15;
        memcpy(code + z->raw.imm[0].offset, &value, z->raw.imm[0].size / 8);
    }
    if (o[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
        const uint16_t selector = some_selector();
        const uint64_t to = selector == DUEL_CODE16 || selector == DUEL_CODE32 ? next & 0xffff : next | DUEL_BASE;
        const unsigned size = z->raw.imm[0].size / 8;
        memcpy(code + z->raw.imm[0].offset, &to, size);
        memcpy(code + z->raw.imm[0].offset + size, &selector, 2);
    }
}

static bool is_rare(const ZydisDecodedInstruction *z)
{
    return (z->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) || z->meta.category == ZYDIS_CATEGORY_RET ||
           z->meta.category == ZYDIS_CATEGORY_INTERRUPT || z->meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
           z->meta.category == ZYDIS_CATEGORY_CALL || z->meta.category == ZYDIS_CATEGORY_IO ||
           z->meta.category == ZYDIS_CATEGORY_IOSTRINGOP || z->mnemonic == ZYDIS_MNEMONIC_UD0 ||
           z->mnemonic == ZYDIS_MNEMONIC_UD1 || z->mnemonic == ZYDIS_MNEMONIC_UD2 || z->mnemonic == ZYDIS_MNEMONIC_BOUND;
}

/* Bytes of an encoding with operands of its own choice, further prefixes in front. */
static void build(const struct encoding *e, unsigned bits, uint8_t code[16])
{
    static const uint8_t extra[] = {0x66, 0x67, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0xf0, 0xf2, 0xf3};
    unsigned n = 0;
    const bool is_vex = e->bytes[0] == 0xc4 && e->length == 4;
    uint64_t random[3] = {simd_random(), simd_random(), simd_random()};

    memcpy(code, random, 16);
    while (simd_one_in(6) && n < 6)
        code[n++] = extra[simd_random() % (is_vex ? 8 : array_size(extra))];
    memcpy(code + n, e->bytes, e->length);
    if (is_vex) {
        code[n + 1] = (uint8_t)((bits == 64 ? simd_random() & 0xe0 : 0xe0) | (e->bytes[1] & 0x1f));
        if (!(e->bytes[2] & 8)) /* vvvv is used */
            code[n + 2] =
                (uint8_t)((e->bytes[2] & 0x87) | (simd_random() & (bits == 64 ? 0x78 : 0x38)) | (bits == 64 ? 0 : 0x40));
    } else if (bits == 64 && e->bytes[0] != 0x48 && simd_one_in(3)) {
        /* REX goes right before the opcode, behind the prefixes. */
        const unsigned at = n + (e->bytes[0] == 0x66 || e->bytes[0] == 0xf2 || e->bytes[0] == 0xf3);
        if (e->bytes[at - n] != 0x48) {
            memmove(code + at + 1, code + at, 15 - at);
            code[at] = (uint8_t)(0x40 | (simd_random() & 0xf));
            n++;
        }
    }
    if (!e->has_modrm)
        return;
    const uint8_t kept = e->modrm;
    switch (simd_random() & 3) {
    case 0: code[n + e->length] = kept; break;
    case 1: code[n + e->length] = (uint8_t)((kept & 0xf8) | (simd_random() & 7)); break;
    case 2:
        code[n + e->length] =
            (uint8_t)((kept & 0x38) | (kept >= 0xc0 ? 0xc0 : (simd_random() & 0xc0) % 0xc0) | (simd_random() & 7));
        break;
    default: code[n + e->length] = (uint8_t)((kept & 0xc0) | (simd_random() & 0x3f)); break;
    }
}

unsigned code_steered(unsigned bits, uint64_t at, uint8_t bytes[15], unsigned modrm, bool steered, uint8_t *code)
{
    struct writer w = {.code = code, .bits = bits};
    ZydisDecodedInstruction z;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];

    (void)modrm;
    code_decoder(bits, &decoder);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, 15, &z, o))) {
        put(&w, bytes, 15);
        return w.length;
    }
    patch(&z, o, bits, bytes, at + z.length);
    if (steered && ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, 15, &z, o)) && (!simd_one_in(4) || is_xsave(&z)))
        steer(&w, &z, o);
    put(&w, bytes, z.length);
    return w.length;
}

unsigned code_random(unsigned bits, uint64_t at, uint8_t *code)
{
    struct writer w = {.code = code, .bits = bits};
    ZydisDecodedInstruction z;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];

    for (unsigned attempt = 0; attempt < 50; attempt++) {
        const ZydisMnemonic m = mnemonics[simd_random() % mnemonic_count];
        const unsigned n = by_mnemonic[m].seen < KEPT ? by_mnemonic[m].seen : KEPT;
        uint8_t bytes[16];

        build(&by_mnemonic[m].kept[simd_random() % n], bits, bytes);
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, 15, &z, o))) {
            if (!simd_one_in(64))
                continue;
            put(&w, bytes, 15); /* undefined on both */
            return w.length;
        }
        if (!code_is_comparable(&z) || by_mnemonic[z.mnemonic].seen == 0 || (is_rare(&z) && !simd_one_in(24)))
            continue;
        patch(&z, o, bits, bytes, at + z.length);
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, 15, &z, o)))
            continue;
        /* XSAVE and its like with other components than ours: the host may have more. */
        if (!simd_one_in(3) || is_xsave(&z))
            steer(&w, &z, o);
        put(&w, bytes, z.length);
        if (z.cpu_flags && z.cpu_flags->undefined)
            put(&w, "\x39\xc8", 2); /* CMP EAX, ECX defines them all */
        return w.length;
    }
    return 0;
}
