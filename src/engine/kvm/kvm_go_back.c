/*
 * From behind an instruction to its start: what KVM reported of a store or OUT is all that is known of the instruction.
 *
 * It ends at RIP, so there are at most 15 places where it can begin (RIP itself while a string instruction repeats). Each is
 * decoded, what the instruction does to registers before its store is undone, and it is executed on the software processor with a
 * port that lets no store through. The place that makes the access which KVM reported is the instruction. When several are (bytes
 * before it that could be its prefixes), the shortest is taken: all of them do the same.
 *
 * Memory can go away while KVM's emulator is between an instruction's load and its store: its file is cut short, it is protected,
 * the process whose memory it is ends. Then KVM reports the store alone, and the trial cannot load what KVM has loaded. So if no
 * place fits, they are tried once more: a load that fails is given zeros, and the store needs to fit but for its data. Arithmetic
 * flags are left as the instruction made them: it makes them again. Of those that need what is lost (ADC, SBB, RCL and RCR the
 * carry, CMPXCHG that did not store the accumulator) none fits.
 */
#include <string.h>

#include "engine/kvm/kvm.h"
#include "mem/gpa_sources.h"
#include "os/guarded.h"
#include "x86/code/code.h"
#include "x86/exec.h"
#include "x86/memory/memory.h"

/* ---- a trial ---- */

/* The port of a trial: code and loads as always, stores go nowhere; the one that was reported leaves. */
struct trial {
    const struct effect *wanted;
    bool guesses; /* loads that fail get zeros */
    bool guessed, found;
};

static _Thread_local struct trial *current;

static bool trial_page(struct cpu *cpu, gpa_t page, enum access_type type, struct port_page *out)
{
    if (type == ACCESS_WRITE || !soft_port.page(cpu, page, type, out))
        return false;
    out->rights &= ~(uint32_t)PAGE_WRITE;
    return true;
}

/* KVM reports accesses in pieces of 8 bytes. */
static bool is_piece(uint64_t whole, uint64_t offset, uint64_t size)
{
    return offset % 8 == 0 && size == (whole - offset < 8 ? whole - offset : 8);
}

/* Memory that may not be stored to comes here, and what has gone. */
static enum port_result trial_load(struct engine_vcpu *vcpu, const struct port_access *access)
{
    const struct gpa_view *view = &vcpu->view;

    if (soft_find_view(vcpu, access->gpa) && (view->flags & GPA_READ) &&
        (view->source ? gpa_source_read(view, access->gpa, access->data, access->size)
                      : guarded_copy(access->data, gpa_view_host(view, access->gpa), access->size)))
        return PORT_DONE;
    if (!current->guesses)
        return PORT_EXIT;
    memset(access->data, 0, access->size);
    current->guessed = true;
    return PORT_DONE;
}

static enum port_result trial_access(struct cpu *cpu, const struct port_access *access)
{
    const struct effect *w = current->wanted;

    if (access->type != ACCESS_WRITE)
        return access->type == ACCESS_READ ? trial_load(vcpu_of(cpu), access) : PORT_EXIT;
    const uint64_t offset = w->gpa - access->gpa;

    if (w->is_port || offset >= access->size || !is_piece(access->size, offset, w->size) ||
        (!current->guessed && memcmp((const uint8_t *)access->data + offset, w->data, w->size) != 0))
        return PORT_DONE;
    current->found = true;
    return PORT_EXIT;
}

static enum port_result trial_io(struct cpu *cpu, const struct port_io *io)
{
    const struct effect *w = current->wanted;
    const void *data = io->data ? (const void *)io->data : (const void *)&cpu->gpr[REG_RAX];

    current->found = w->is_port && io->is_write && io->port == w->port && io->size == w->size &&
                     (current->guessed || memcmp(data, w->data, w->size) == 0);
    return PORT_EXIT;
}

static enum port_result trial_msr_read(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    (void)cpu, (void)index, (void)value;
    return PORT_EXIT;
}

static enum port_result trial_msr_write(struct cpu *cpu, uint32_t index, uint64_t value)
{
    (void)cpu, (void)index, (void)value;
    return PORT_EXIT;
}

static const struct cpu_port trial_port = {
    .page = trial_page, .access = trial_access, .io = trial_io, .msr_read = trial_msr_read, .msr_write = trial_msr_write};

/* What a trial may change. */
struct position {
    union gpr gpr[16];
    uint64_t rip, rflags;
    struct segment segment[SEG_COUNT];
    struct x87_image x87;
};

static void remember(struct cpu *cpu, struct position *p)
{
    memcpy(p->gpr, cpu->gpr, sizeof(p->gpr));
    memcpy(p->segment, cpu->segment, sizeof(p->segment));
    p->rip = cpu->rip;
    p->rflags = cpu_rflags(cpu);
    p->x87 = cpu->x87;
}

static void go_to(struct cpu *cpu, const struct position *p)
{
    memcpy(cpu->gpr, p->gpr, sizeof(p->gpr));
    memcpy(cpu->segment, p->segment, sizeof(p->segment));
    cpu->rip = p->rip;
    cpu_set_rflags(cpu, p->rflags);
    cpu->x87 = p->x87;
}

/* A register as it was before `by` was added, in the instruction's address size. */
static void take_back(union gpr *reg, int64_t by, unsigned width)
{
    if (width == 64)
        reg->q -= (uint64_t)by;
    else if (width == 32)
        reg->q = (uint32_t)(reg->d - (uint32_t)by);
    else
        reg->w = (uint16_t)(reg->w - (uint16_t)by);
}

/* What an exchange has stored was in its register, or is the sum. */
static bool undo_exchange(struct cpu *cpu, const struct decoded *d, const struct effect *done)
{
    uint64_t loaded, stored = 0;

    memcpy(&stored, done->data, done->size);
    return d->operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY && d->insn.operand[1].size == done->size &&
           operand_read(cpu, &d->insn, 1, &loaded) &&
           operand_write(cpu, &d->insn, 1, d->zydis.mnemonic == ZYDIS_MNEMONIC_XADD ? stored - loaded : stored);
}

static bool stores(const struct decoded *d)
{
    for (unsigned i = 0; i < d->zydis.operand_count; i++)
        if (d->operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY && (d->operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            return true;
    return false;
}

/* Undo what the instruction did to registers before its store. False: it stores nothing, or cannot be undone. */
static bool undo_registers(struct cpu *cpu, const struct decoded *d, const struct trial *trial)
{
    int64_t step = (cpu->rflags & RFLAGS_DF ? -1 : 1) * (int64_t)(d->zydis.operand_width / 8);
    unsigned width = d->zydis.address_width;
    bool source = false, destination = false;

    switch (d->zydis.mnemonic) {
    case ZYDIS_MNEMONIC_MOVSB: case ZYDIS_MNEMONIC_MOVSW: case ZYDIS_MNEMONIC_MOVSD: case ZYDIS_MNEMONIC_MOVSQ:
        if (d->zydis.meta.category != ZYDIS_CATEGORY_STRINGOP)
            return true; /* MOVSD of SSE2 */
        source = destination = true;
        break;
    case ZYDIS_MNEMONIC_STOSB: case ZYDIS_MNEMONIC_STOSW: case ZYDIS_MNEMONIC_STOSD: case ZYDIS_MNEMONIC_STOSQ:
        destination = true;
        break;
    case ZYDIS_MNEMONIC_OUTSB: case ZYDIS_MNEMONIC_OUTSW: case ZYDIS_MNEMONIC_OUTSD:
        source = true;
        break;
    case ZYDIS_MNEMONIC_PUSH: case ZYDIS_MNEMONIC_PUSHF: case ZYDIS_MNEMONIC_PUSHFD: case ZYDIS_MNEMONIC_PUSHFQ:
        take_back(&cpu->gpr[REG_RSP], -(int64_t)(d->zydis.operand_width / 8), cpu_is_64(cpu) ? 64 : d->zydis.stack_width);
        return true;
    case ZYDIS_MNEMONIC_PUSHA: case ZYDIS_MNEMONIC_PUSHAD:
        take_back(&cpu->gpr[REG_RSP], -8 * (int64_t)(d->zydis.operand_width / 8), d->zydis.stack_width);
        return true;
    case ZYDIS_MNEMONIC_POP:
        take_back(&cpu->gpr[REG_RSP], d->zydis.operand_width / 8, cpu_is_64(cpu) ? 64 : d->zydis.stack_width);
        return true;
    case ZYDIS_MNEMONIC_OUT:
        return true;
    case ZYDIS_MNEMONIC_XCHG: case ZYDIS_MNEMONIC_XADD:
        return undo_exchange(cpu, d, trial->wanted);
    case ZYDIS_MNEMONIC_CMPXCHG: case ZYDIS_MNEMONIC_CMPXCHG8B: case ZYDIS_MNEMONIC_CMPXCHG16B:
        return stores(d) && (cpu_rflags(cpu) & RFLAGS_ZF);
    case ZYDIS_MNEMONIC_ADC: case ZYDIS_MNEMONIC_SBB: case ZYDIS_MNEMONIC_RCL: case ZYDIS_MNEMONIC_RCR:
        return stores(d) && !trial->guesses;
    default:
        return stores(d);
    }
    if (source)
        take_back(&cpu->gpr[REG_RSI], step, width);
    if (destination)
        take_back(&cpu->gpr[REG_RDI], step, width);
    if (d->zydis.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPNE))
        take_back(&cpu->gpr[REG_RCX], -1, width);
    return true;
}

/* One step with the port of a trial. The host's processor knows no reserved bits where the partition's width is below its own. */
static void try_step(struct cpu *cpu, struct trial *trial)
{
    enum { WIDEST = 52 };
    const struct cpu_port *port = cpu->port;
    const uint8_t bits = cpu->physical_bits;

    trial->guessed = trial->found = false;
    current = trial;
    cpu->port = &trial_port;
    cpu->physical_bits = trial->wanted->gpa >> bits ? WIDEST : bits;
    cpu_drop_memory(cpu, false);
    (void)cpu_step(cpu);
    cpu->physical_bits = bits;
    cpu->port = port;
    cpu_drop_memory(cpu, false);
}

/* Is the instruction `length` bytes back from `behind` the one? The processor is then before it. */
static bool try_place(struct engine_vcpu *vcpu, const struct position *behind, unsigned length, struct trial *trial)
{
    struct cpu *cpu = vcpu->cpu;
    struct decoded d;
    struct position place;

    go_to(cpu, behind);
    cpu->rip = kvm_rip_within(cpu, behind->rip - length);
    if (!kvm_decode_here(cpu, &d) || (length && d.insn.length != length) || !undo_registers(cpu, &d, trial))
        return false;
    remember(cpu, &place);
    try_step(cpu, trial);
    go_to(cpu, &place);
    return trial->found;
}

static bool try_places(struct engine_vcpu *vcpu, const struct position *behind, struct trial *trial)
{
    enum { LONGEST = 15 };

    for (unsigned length = 0; length <= LONGEST; length++)
        if (try_place(vcpu, behind, length, trial))
            return true;
    return false;
}

bool kvm_go_back(struct engine_vcpu *vcpu, const struct effect *wanted)
{
    const bool shadow = vcpu->cpu->interrupt_shadow;
    struct trial trial = {.wanted = wanted};
    struct position behind;

    remember(vcpu->cpu, &behind);
    bool found = try_places(vcpu, &behind, &trial);
    if (!found) {
        trial.guesses = true;
        found = try_places(vcpu, &behind, &trial);
    }
    if (found)
        vcpu->cpu->interrupt_shadow = shadow;
    else
        go_to(vcpu->cpu, &behind);
    return found;
}
