/*
 * Instructions that are one access and one register: MOV and MOVZX between a general register and memory, IN, OUT. They are
 * most of what guests do with devices; kvm_half_done.c leaves them open.
 */
#include <stddef.h>
#include <string.h>

#include "engine/kvm/kvm.h"
#include "os/guarded.h"
#include "x86/exec.h"
#include "x86/memory/tlb.h"

/* ---- code ---- */

uint64_t kvm_rip_within(const struct cpu *cpu, uint64_t rip)
{
    return cpu_is_64(cpu) ? rip : cpu->mode & MODE_CS32 ? (uint32_t)rip : (uint16_t)rip;
}

static gva_t code_address(const struct cpu *cpu)
{
    return cpu_is_64(cpu) ? cpu->rip : (uint32_t)(cpu->segment[SEG_CS].base + cpu->rip);
}

/* Code bytes at RIP, as many as can be fetched. */
static size_t read_code(struct cpu *cpu, uint8_t bytes[15])
{
    gva_t linear = code_address(cpu);
    size_t have = 0;

    while (have < 15) {
        size_t piece = PAGE_SIZE - (linear & ~PAGE_MASK);
        uint8_t *host;
        gpa_t page;
        piece = piece < 15 - have ? piece : 15 - have;
        if (!tlb_translate_fetch(cpu, linear, &host, &page) || !guarded_copy(bytes + have, host + (linear & ~PAGE_MASK), piece))
            break;
        have += piece;
        linear += piece;
    }
    return have;
}

bool kvm_decode_here(struct cpu *cpu, struct decoded *d)
{
    uint8_t bytes[15];
    size_t count = read_code(cpu, bytes);

    return count && decode(cpu->mode, bytes, count, d) == DECODE_OK;
}

/* ---- what it is ---- */

/* What the register operand is; false: not a whole general register. */
static bool plain_register(const ZydisDecodedOperand *operand, struct kvm_plain *plain)
{
    const ZydisRegisterClass kind =
        operand->type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(operand->reg.value) : ZYDIS_REGCLASS_INVALID;

    if (kind != ZYDIS_REGCLASS_GPR16 && kind != ZYDIS_REGCLASS_GPR32 && kind != ZYDIS_REGCLASS_GPR64 &&
        operand->reg.value != ZYDIS_REGISTER_AL)
        return false;
    plain->reg = (uint8_t)ZydisRegisterGetId(operand->reg.value);
    plain->reg_size = (uint8_t)(operand->size / 8);
    return true;
}

static bool is_plain(const struct decoded *d, struct kvm_plain *plain)
{
    const ZydisDecodedOperand *to = &d->operands[0], *from = &d->operands[1];

    plain->reg = NO_REGISTER;
    plain->is_port = d->zydis.mnemonic == ZYDIS_MNEMONIC_IN || d->zydis.mnemonic == ZYDIS_MNEMONIC_OUT;
    if (plain->is_port) {
        plain->is_store = d->zydis.mnemonic == ZYDIS_MNEMONIC_OUT;
        (void)plain_register(plain->is_store ? from : to, plain);
        plain->size = plain->reg_size;
        return true;
    }
    if (d->zydis.mnemonic != ZYDIS_MNEMONIC_MOV && d->zydis.mnemonic != ZYDIS_MNEMONIC_MOVZX)
        return false;
    plain->is_store = to->type == ZYDIS_OPERAND_TYPE_MEMORY;
    plain->size = (uint8_t)((plain->is_store ? to : from)->size / 8);
    if (!plain->is_store && from->type != ZYDIS_OPERAND_TYPE_MEMORY)
        return false;
    return plain_register(plain->is_store ? from : to, plain) ||
           (plain->is_store && from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE);
}

/* The bytes as two words, to be compared at once. */
static void note_bytes(struct kvm_plain *plain, const uint8_t *bytes, unsigned length)
{
    uint8_t ones[16] = {0};

    memset(ones, 0xff, length);
    memset(plain->word, 0, sizeof(plain->word));
    memcpy(plain->word, bytes, length);
    memcpy(plain->mask, ones, sizeof(plain->mask));
}

bool kvm_plain_find(struct cpu *cpu, struct kvm_plain *plain)
{
    struct decoded d;

    plain->length = 0;
    if (!kvm_decode_here(cpu, &d) || !is_plain(&d, plain))
        return false;
    note_bytes(plain, d.insn.bytes, d.insn.length);
    plain->mode = cpu->mode;
    plain->length = d.insn.length;
    plain->insn = d.insn;
    return true;
}

bool kvm_plain_is_here(struct cpu *cpu, const struct kvm_plain *plain)
{
    const gva_t linear = code_address(cpu), offset = linear & ~PAGE_MASK;
    uint8_t bytes[16] = {0}, *host;
    uint64_t word[2];
    gpa_t page;

    if (unlikely(offset > PAGE_SIZE - sizeof(word))) {
        (void)read_code(cpu, bytes);
        memcpy(word, bytes, sizeof(word));
    } else if (!tlb_translate_fetch(cpu, linear, &host, &page) || !guarded_load64(host + offset, &word[0]) ||
               !guarded_load64(host + offset + 8, &word[1])) {
        return false;
    }
    return !(((word[0] ^ plain->word[0]) & plain->mask[0]) | ((word[1] ^ plain->word[1]) & plain->mask[1]));
}

/* What it stores decides, where there is something. */
bool kvm_plain_fits(const struct cpu *cpu, const struct kvm_plain *plain, const struct effect *effect)
{
    const uint64_t unused = plain->size < 8 ? 64 - 8 * (unsigned)plain->size : 0;
    uint64_t data;

    if (plain->is_port != effect->is_port || plain->is_store != effect->is_store || plain->size != effect->size)
        return false;
    memcpy(&data, effect->data, sizeof(data));
    return !plain->is_store || plain->reg == NO_REGISTER || !((cpu->gpr[plain->reg].q ^ data) << unused);
}

/* ---- its address ---- */

bool kvm_plain_address(struct cpu *cpu, const struct kvm_plain *plain, gpa_t gpa, gva_t *linear)
{
    const enum segment_index segment = (enum segment_index)plain->insn.memory.segment;
    const uint64_t offset = operand_offset(cpu, &plain->insn);

    if (!cpu_is_64(cpu))
        *linear = (uint32_t)(cpu->segment[segment].base + offset);
    else
        *linear = offset + (segment == SEG_FS || segment == SEG_GS ? cpu->segment[segment].base : 0);
    return !((*linear ^ gpa) & ~PAGE_MASK);
}

/* ---- its register ---- */

void kvm_plain_load(struct cpu *cpu, const struct kvm_plain *plain, uint64_t data)
{
    union gpr *to = &cpu->gpr[plain->reg & 15];

    switch (plain->reg_size) {
    case 1: to->b[0] = (uint8_t)data; break;
    case 2: to->w = (uint16_t)data; break;
    case 4: to->q = (uint32_t)data; break;
    default: to->q = data; break;
    }
}

uint64_t *kvm_plain_destination(const struct kvm_plain *plain, struct kvm_regs *regs)
{
    static const uint8_t place[16] = {0, 2, 3, 1, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15}; /* RAX RCX RDX RBX RSP RBP RSI RDI */

    return &((uint64_t *)(void *)regs)[place[plain->reg & 15]];
}

bool kvm_plain_could_load(const struct kvm_plain *plain, uint64_t before, uint64_t value, uint64_t *data)
{
    const uint8_t size = plain->size, written = plain->reg_size == 4 ? 8 : plain->reg_size;
    const uint64_t loaded = size == 8 ? ~0ull : (1ull << 8 * size) - 1,
                   changed = written == 8 ? ~0ull : (1ull << 8 * written) - 1;

    *data = value & loaded;
    return value == ((before & ~changed) | *data);
}
