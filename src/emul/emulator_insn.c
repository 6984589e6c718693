#include "emul/emulator_insn.h"

#include <stdio.h>
#include <string.h>

#include "util/last_error.h"
#include "x86/code/decode.h"

enum { DECODE_MODES = MODE_64 | MODE_CS32 | MODE_SS32 | MODE_PROTECTED };

/* ---- what it touches ---- */

static bool touches_memory(const struct decoded *d)
{
    for (unsigned i = 0; i < d->zydis.operand_count; i++) {
        const ZydisDecodedOperand *o = &d->operands[i];

        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
            (o->actions & (ZYDIS_OPERAND_ACTION_MASK_READ | ZYDIS_OPERAND_ACTION_MASK_WRITE)))
            return true;
    }
    return false;
}

static bool touches_port(const struct decoded *d)
{
    return d->zydis.meta.category == ZYDIS_CATEGORY_IO || d->zydis.meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

static bool touches_upper_halves(const struct decoded *d)
{
    for (unsigned i = 0; i < d->zydis.operand_count; i++) {
        const ZydisDecodedOperand *o = &d->operands[i];
        ZydisRegisterClass class = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(o->reg.value)
                                   : o->type == ZYDIS_OPERAND_TYPE_MEMORY ? ZydisRegisterGetClass(o->mem.index)
                                                                          : ZYDIS_REGCLASS_INVALID;
        bool writes = o->type == ZYDIS_OPERAND_TYPE_REGISTER && (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);

        if (class == ZYDIS_REGCLASS_YMM || class == ZYDIS_REGCLASS_ZMM)
            return true;
        if (class == ZYDIS_REGCLASS_XMM && writes && d->zydis.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
            return true;
    }
    return false;
}

/* Memory operand or not, these change more than the API's registers. */
static bool controls_the_processor(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_INVLPG:
    case ZYDIS_MNEMONIC_INVPCID:
    case ZYDIS_MNEMONIC_INVEPT:
    case ZYDIS_MNEMONIC_INVVPID:
    case ZYDIS_MNEMONIC_RSM:
        return true;
    default:
        return false;
    }
}

/* ---- which registers it needs ---- */

static bool loads_segment(const struct insn *insn)
{
    return insn->operand_count && insn->operand[0].kind == OPERAND_REGISTER && insn->operand[0].reg_class == CLASS_SEGMENT &&
           insn->operand[0].is_written;
}

static bool is_system(const struct decoded *d)
{
    switch (d->insn.mnemonic) {
    case ZYDIS_MNEMONIC_LDS: case ZYDIS_MNEMONIC_LES: case ZYDIS_MNEMONIC_LFS: case ZYDIS_MNEMONIC_LGS: case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_SGDT: case ZYDIS_MNEMONIC_SIDT: case ZYDIS_MNEMONIC_LGDT: case ZYDIS_MNEMONIC_LIDT:
    case ZYDIS_MNEMONIC_SLDT: case ZYDIS_MNEMONIC_LLDT: case ZYDIS_MNEMONIC_STR: case ZYDIS_MNEMONIC_LTR:
    case ZYDIS_MNEMONIC_LAR: case ZYDIS_MNEMONIC_LSL: case ZYDIS_MNEMONIC_VERR: case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_IRET: case ZYDIS_MNEMONIC_IRETD: case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_INT: case ZYDIS_MNEMONIC_INT1: case ZYDIS_MNEMONIC_INT3: case ZYDIS_MNEMONIC_INTO:
        return true;
    default:
        return d->zydis.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || loads_segment(&d->insn);
    }
}

/* It has no memory operand, and yet reads descriptors, marks them as accessed, or has a stack: all that may be in a ROM. */
static bool uses_descriptors(const struct decoded *d)
{
    switch (d->insn.mnemonic) {
    case ZYDIS_MNEMONIC_SLDT: case ZYDIS_MNEMONIC_STR:
        return false;
    default:
        return is_system(d);
    }
}

static const char *reason_to_refuse(const struct decoded *d)
{
    if (!touches_memory(d) && !touches_port(d) && !uses_descriptors(d))
        return "touches neither memory nor ports";
    if (controls_the_processor(d->insn.mnemonic))
        return "changes what the callbacks cannot pass";
    return NULL;
}

static bool is_extended_state(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_XSAVE: case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC: case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT: case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVES: case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTOR: case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_XRSTORS: case ZYDIS_MNEMONIC_XRSTORS64:
        return true;
    default:
        return false;
    }
}

static void classify(const struct decoded *d, struct emulator_insn *insn)
{
    insn->insn = d->insn;
    insn->is_port = touches_port(d);
    insn->refused = reason_to_refuse(d);
    insn->needs = (uint8_t)((d->insn.uses_vector ? NEEDS_VECTOR : 0) | (is_system(d) ? NEEDS_SYSTEM : 0) |
                            (insn->is_port ? NEEDS_TSS : 0) | (touches_upper_halves(d) ? NEEDS_VECTOR | NEEDS_UPPER : 0) |
                            (is_extended_state(d->insn.mnemonic) ? NEEDS_XSAVE | NEEDS_VECTOR : 0));
}

/* ---- decoding ---- */

/* The slot of an instruction that begins with these bytes. */
static struct emulator_insn *slot_of(struct emulator_insns *insns, uint32_t mode, const uint8_t *bytes, size_t count)
{
    uint32_t hash = mode;

    for (size_t i = 0; i < 4; i++)
        hash = hash * 31 + (i < count ? bytes[i] : 0);
    return &insns->slots[(hash ^ hash >> 8) % EMULATOR_INSNS];
}

/* Equal bytes as far as it is long: how long an instruction is does not depend on what follows it. */
static bool is_same(const struct emulator_insn *insn, uint32_t mode, const uint8_t *bytes, size_t count)
{
    size_t length = insn->insn.length;

    return length && length <= count && insn->mode == mode && memcmp(insn->insn.bytes, bytes, length) == 0;
}

enum emulator_decode emulator_insn_decode(struct emulator_insns *insns, uint32_t mode, const uint8_t *bytes, size_t count,
                                          const struct emulator_insn **insn)
{
    struct emulator_insn *slot = slot_of(insns, mode &= DECODE_MODES, bytes, count);
    struct decoded decoded;

    *insn = slot;
    if (likely(is_same(slot, mode, bytes, count)))
        return INSN_DECODED;
    switch (count ? decode(mode, bytes, count, &decoded) : DECODE_TRUNCATED) {
    case DECODE_OK:
        classify(&decoded, slot);
        slot->mode = mode;
        return INSN_DECODED;
    case DECODE_TRUNCATED:
        return INSN_TRUNCATED;
    default:
        return INSN_INVALID;
    }
}

/* ---- words ---- */

static ZydisMachineMode machine_mode(uint32_t mode)
{
    if (mode & MODE_64)
        return ZYDIS_MACHINE_MODE_LONG_64;
    if (mode & MODE_CS32)
        return ZYDIS_MACHINE_MODE_LEGACY_32;
    return mode & MODE_PROTECTED ? ZYDIS_MACHINE_MODE_LEGACY_16 : ZYDIS_MACHINE_MODE_REAL_16;
}

bool emulator_insn_complain(uint32_t mode, uint64_t rip, const uint8_t *bytes, size_t count, const char *why)
{
    ZydisDisassembledInstruction text;
    char dump[3 * 15 + 1] = "";

    if (count > 15)
        count = 15;
    if (ZYAN_SUCCESS(ZydisDisassembleIntel(machine_mode(mode), rip, bytes, count, &text)))
        count = text.info.length;
    else
        text.text[0] = 0;
    for (size_t i = 0; i < count; i++)
        snprintf(dump + 3 * i, 4, "%02x ", bytes[i]);
    (void)fail(STATUS_NOT_SUPPORTED, "%s (%.*s) at 0x%llx %s", text.text[0] ? text.text : "what is not an instruction",
               count ? (int)(3 * count - 1) : 0, dump, (unsigned long long)rip, why);
    return false;
}
