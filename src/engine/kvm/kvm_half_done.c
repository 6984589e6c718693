/*
 * Accesses that KVM began and has not finished.
 *
 * The API promises that an instruction which caused an exit has not happened. KVM does it otherwise: when its own emulator meets
 * an address without a slot, a port, or an MSR that we serve, it returns from KVM_RUN in the middle of the instruction and
 * finishes it at the next KVM_RUN. What the registers say then depends:
 *
 *      load, IN, RDMSR, WRMSR     RIP is at the instruction; the next KVM_RUN writes the result and steps over it
 *      store                      RIP is behind the instruction, which is done but for the store: PUSH has moved RSP, a string
 *                                 instruction its registers (RIP stays at it while it repeats)
 *      OUT                        either, by processor and version of the kernel
 *      read-modify-write          a load first, then a store
 *      over 8 bytes, or pages     one access after the other
 *      CALL, PUSH, MOVS, INS      from such an address: a load, and the next KVM_RUN also stores what it got
 *
 * kvm_half_done() makes it as the API promises, in three steps. The first of them costs, and is put off for the instructions
 * that are most of what guests do with devices (leave_open).
 *
 *      forget      The state is saved, then KVM_RUN is called with immediate_exit until nothing is pending: KVM finishes the
 *                  instruction and comes back before the next one. Then the saved state counts again. Loads get zeros; but where
 *                  the result is stored in memory at once (PUSH, MOVS, INS), they get what is there already, so that nothing
 *                  changes but the page's dirty bit. What was computed with the zeros and stored is put back. Strings end
 *                  after the item: RCX is made 1.
 *      go back     After a store or OUT with RIP behind it, the instruction is looked for: kvm_go_back.c.
 *      execute     The software processor runs the instruction, as in the soft engine: memory that KVM must not see (no
 *                  execution, other processes), local APIC, exit.
 *
 * If no place fits, the exit is UnsupportedFeature rather than one that would be wrong.
 *
 * Left open: MOV and MOVZX between a general register and a device, IN and OUT, alone. Such an instruction makes one access and
 * changes nothing that the registers at hand do not show. KVM keeps it pending through the exit. When the processor is to run
 * again (kvm_open_settle), its registers usually are what KVM will make of them when it finishes: RIP behind the instruction, all
 * others as they were, the destination with some value. Then that value is what KVM is given, and KVM finishes; so the round trip
 * costs what it costs without us. When they are not (the instruction runs again, or the client has set something), KVM is made to
 * forget as above.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm.h"
#include "os/guarded.h"
#include "x86/code/code.h"
#include "x86/exec.h"
#include "x86/memory/memory.h"
#include "x86/memory/tlb.h"

/* ---- what KVM reported ---- */

static struct effect effect_of(const struct kvm_run *run)
{
    struct effect e = {0};

    if (run->exit_reason == KVM_EXIT_MMIO) {
        e.gpa = run->mmio.phys_addr;
        e.is_store = run->mmio.is_write;
        e.size = run->mmio.len > 8 ? 8 : (uint8_t)run->mmio.len;
        memcpy(e.data, run->mmio.data, e.size);
    } else if (run->exit_reason == KVM_EXIT_IO) {
        e.is_port = true;
        e.is_store = run->io.direction == KVM_EXIT_IO_OUT;
        e.port = run->io.port;
        e.size = run->io.size;
        memcpy(e.data, (const uint8_t *)run + run->io.data_offset, e.size > 8 ? 8 : e.size);
    }
    return e;
}

/* ---- forget ---- */

/* Where an instruction that loads will store at once. */
struct pending_store {
    gva_t base;       /* of the segment */
    uint64_t mask;    /* of offsets */
    uint64_t offset;  /* PUSH; of strings it is RDI, as KVM has it at each exit */
    unsigned item;    /* bytes; 0: it stores nowhere */
    bool is_string, is_down;
    uint64_t last;    /* the offset of the exit before, */
    unsigned loaded;  /* and bytes of its item that are answered: a load that crosses pages comes in two */
};

static uint64_t mask_of(unsigned bits)
{
    return bits == 64 ? ~0ull : bits == 32 ? 0xffffffffu : 0xffffu;
}

static struct pending_store store_of_load(struct cpu *cpu)
{
    struct pending_store s = {0};
    enum segment_index segment;
    struct decoded d;

    if (!kvm_decode_here(cpu, &d))
        return s;
    switch (d.zydis.mnemonic) {
    case ZYDIS_MNEMONIC_MOVSB: case ZYDIS_MNEMONIC_MOVSW: case ZYDIS_MNEMONIC_MOVSD: case ZYDIS_MNEMONIC_MOVSQ:
    case ZYDIS_MNEMONIC_INSB: case ZYDIS_MNEMONIC_INSW: case ZYDIS_MNEMONIC_INSD:
        if (d.zydis.meta.category == ZYDIS_CATEGORY_DATAXFER)
            return s; /* MOVSD of SSE2 */
        s.is_string = true;
        s.is_down = cpu->rflags & RFLAGS_DF;
        s.mask = mask_of(d.zydis.address_width);
        segment = SEG_ES;
        break;
    case ZYDIS_MNEMONIC_PUSH:
        s.offset = cpu->gpr[REG_RSP].q - d.zydis.operand_width / 8;
        s.mask = mask_of(cpu_is_64(cpu) ? 64 : d.zydis.stack_width);
        segment = SEG_SS;
        break;
    default:
        return s;
    }
    s.item = d.zydis.operand_width / 8;
    s.base = cpu_is_64(cpu) ? 0 : cpu->segment[segment].base;
    return s;
}

/* What is there already, from byte `at` of the items on: strings go on up or down. */
static void load_stored(struct cpu *cpu, const struct pending_store *s, uint64_t offset, unsigned at, uint8_t *to, size_t size)
{
    for (size_t done = 0, piece; done < size; done += piece) {
        const uint64_t before = (at + done) / s->item * s->item, within = (at + done) % s->item;
        const uint64_t start = (s->is_down ? offset - before : offset + before) & s->mask;
        const gva_t linear = cpu_is_64(cpu) ? start + within : (uint32_t)(s->base + start + within);
        const size_t room = PAGE_SIZE - (linear & ~PAGE_MASK);
        const uint8_t *host = mem_direct(cpu, linear, ACCESS_READ);

        piece = s->item - within < size - done ? s->item - within : size - done;
        piece = piece < room ? piece : room;
        if (host && !guarded_copy(to + done, host, piece))
            return;
    }
}

/* What the pending load is to get: what it will store is there already. */
static void answer(struct engine_vcpu *vcpu, struct pending_store *s)
{
    struct kvm_run *run = vcpu->kvm->run;
    const uint64_t offset = s->is_string ? run->s.regs.regs.rdi : s->offset;
    uint8_t *to = NULL;
    size_t size = 0;

    if (run->exit_reason == KVM_EXIT_MMIO && !run->mmio.is_write) {
        to = run->mmio.data;
        size = run->mmio.len;
    } else if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_IN) {
        to = (uint8_t *)run + run->io.data_offset;
        size = (size_t)run->io.size * run->io.count;
    } else if (run->exit_reason == KVM_EXIT_X86_RDMSR || run->exit_reason == KVM_EXIT_X86_WRMSR) {
        run->msr.error = 0;
        run->msr.data = 0;
    }
    if (!to)
        return;
    memset(to, 0, size);
    if (!s->item)
        return;
    if (offset != s->last || s->loaded >= s->item)
        s->loaded = 0;
    load_stored(vcpu->cpu, s, offset, s->loaded, to, size);
    s->last = offset;
    s->loaded += (unsigned)size;
}

/* KVM would go on with what comes after the item, and that may be memory: copied where the client does not expect it yet. */
static void end_repetition(struct kvm_run *run)
{
    run->s.regs.regs.rcx = 1;
    run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

/*
 * What the instruction has computed with our answer is stored where there is memory: the half of a read-modify-write over two
 * pages, the return address of a CALL, an item of MOVS that is partly in memory. It is put back; for to do ADD twice is not to do
 * it once.
 */
struct kept {
    struct {
        uint8_t *host; /* NULL: none */
        size_t size;
        uint8_t bytes[16];
    } part[2];
};

static void keep_part(struct cpu *cpu, gva_t linear, size_t size, struct kept *kept, unsigned i)
{
    uint8_t *host = mem_direct(cpu, linear, ACCESS_READ);

    kept->part[i].size = size;
    kept->part[i].host = host && guarded_copy(kept->part[i].bytes, host, size) ? host : NULL;
}

static void keep(struct cpu *cpu, gva_t linear, size_t size, struct kept *kept)
{
    const size_t room = (size_t)(PAGE_SIZE - (linear & ~PAGE_MASK)), first = size < room ? size : room;

    keep_part(cpu, linear, first, kept, 0);
    if (size > first)
        keep_part(cpu, cpu_is_64(cpu) ? linear + first : (uint32_t)(linear + first), size - first, kept, 1);
}

static gva_t linear_at(const struct cpu *cpu, enum segment_index segment, uint64_t offset)
{
    const uint64_t base = cpu->segment[segment].base;

    return cpu_is_64(cpu) ? offset + (segment == SEG_FS || segment == SEG_GS ? base : 0) : (uint32_t)(base + offset);
}

/* The processor is at an instruction that loads. */
static struct kept keep_stored(struct cpu *cpu, const struct pending_store *store)
{
    enum { MOST = 16 };
    struct kept kept = {0};
    struct decoded d;

    if (!kvm_decode_here(cpu, &d))
        return kept;
    if (store->is_string) {
        keep(cpu, linear_at(cpu, SEG_ES, cpu->gpr[REG_RDI].q & store->mask), store->item, &kept);
        return kept;
    }
    if (d.zydis.mnemonic == ZYDIS_MNEMONIC_CALL) {
        const uint64_t mask = mask_of(cpu_is_64(cpu) ? 64 : d.zydis.stack_width);
        keep(cpu, linear_at(cpu, SEG_SS, (cpu->gpr[REG_RSP].q - MOST) & mask), MOST, &kept);
        return kept;
    }
    cpu->next_rip = kvm_rip_within(cpu, cpu->rip + d.insn.length);
    for (unsigned i = 0; i < d.zydis.operand_count_visible; i++)
        if (d.operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY && d.operands[i].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
            (d.operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) && d.operands[i].size <= 8 * MOST)
            keep(cpu, linear_at(cpu, d.insn.memory.segment, operand_offset(cpu, &d.insn)), d.operands[i].size / 8, &kept);
    return kept;
}

static void put_back(const struct kept *kept)
{
    uint8_t now[sizeof(kept->part[0].bytes)];

    for (unsigned i = 0; i < 2; i++)
        if (kept->part[i].host && guarded_copy(now, kept->part[i].host, kept->part[i].size) &&
            memcmp(now, kept->part[i].bytes, kept->part[i].size) != 0)
            (void)!guarded_copy(kept->part[i].host, kept->part[i].bytes, kept->part[i].size);
}

static void forget(struct engine_vcpu *vcpu)
{
    enum { PIECES = 4096 };
    struct kvm_vcpu *k = vcpu->kvm;
    struct pending_store store = store_of_load(vcpu->cpu);
    const bool is_load = k->run->exit_reason == KVM_EXIT_MMIO && !k->run->mmio.is_write;
    const bool is_open = k->open.is_open;
    const struct kept kept = is_load && !is_open ? keep_stored(vcpu->cpu, &store) : (struct kept){0};

    kvm_log_grows(vcpu);
    __atomic_store_n(&k->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < PIECES; i++) {
        answer(vcpu, &store);
        if (store.is_string && !is_open)
            end_repetition(k->run);
        if (ioctl(k->fd, KVM_RUN, 0) < 0 && errno == EINTR)
            break; /* nothing is pending any more; after any other failure something may be */
    }
    __atomic_store_n(&k->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    put_back(&kept);
    kvm_ring_drain(vcpu);
    k->mirror.valid = k->mirror.rest_valid = false;
    k->open.is_open = false;
}

/* ---- left open ---- */

static bool can_be_left(const struct engine_vcpu *vcpu)
{
    const struct cpu *cpu = vcpu->cpu;

    return !(cpu->rflags & RFLAGS_TF) && !(cpu->dr7 & 0xff) && !cpu->interrupt_shadow && !vcpu->interruption.is_pending;
}

/* The processor is at the instruction: KVM keeps it pending. */
static bool open_begin(struct engine_vcpu *vcpu, const struct kvm_plain *plain, const struct effect *effect)
{
    struct kvm_open *open = &vcpu->kvm->open;

    open->plain = plain;
    open->effect = *effect;
    open->behind = kvm_rip_within(vcpu->cpu, vcpu->cpu->rip + plain->length);
    open->before = vcpu->kvm->mirror.regs;
    open->is_open = true;
    return true;
}

static struct kvm_plain *known_at(struct kvm_vcpu *k, uint64_t rip)
{
    return &k->known[(rip ^ rip >> 4) % PLAIN_KNOWN];
}

/* An instruction that was here before, as in most loops: the bytes tell. */
static bool leave_open_again(struct engine_vcpu *vcpu, const struct effect *effect)
{
    struct cpu *cpu = vcpu->cpu;
    const uint64_t reported = cpu->rip;
    const struct kvm_plain *plain = known_at(vcpu->kvm, reported);

    if (!plain->length || plain->reported != reported || plain->mode != cpu->mode || !can_be_left(vcpu) ||
        !kvm_plain_fits(cpu, plain, effect))
        return false;
    cpu->rip = plain->rip;
    if (kvm_plain_is_here(cpu, plain))
        return open_begin(vcpu, plain, effect);
    cpu->rip = reported;
    return false;
}

/* The processor is at the instruction. */
static bool leave_open(struct engine_vcpu *vcpu, const struct effect *effect, uint64_t reported)
{
    struct cpu *cpu = vcpu->cpu;
    struct kvm_plain *plain = known_at(vcpu->kvm, reported);

    plain->length = 0;
    if (!can_be_left(vcpu) || !kvm_plain_find(cpu, plain) || !kvm_plain_fits(cpu, plain, effect)) {
        plain->length = 0;
        return false;
    }
    plain->reported = reported;
    plain->rip = cpu->rip;
    return open_begin(vcpu, plain, effect);
}

/* The registers that KVM will have when it has finished are to be these. False: they cannot. */
static bool can_finish(const struct kvm_open *open, const struct kvm_regs *wanted, uint64_t *data)
{
    struct kvm_regs after = open->before;

    after.rip = open->behind;
    if (!open->plain->is_store) {
        struct kvm_regs end = *wanted;
        uint64_t *to = kvm_plain_destination(open->plain, &after), value = *kvm_plain_destination(open->plain, &end);
        if (!kvm_plain_could_load(open->plain, *to, value, data))
            return false;
        *to = value;
    }
    return kvm_same(&after, wanted, sizeof(after));
}

bool kvm_open_settle(struct engine_vcpu *vcpu, const struct kvm_regs *wanted)
{
    struct kvm_vcpu *k = vcpu->kvm;
    struct kvm_run *run = k->run;
    uint64_t data = 0;

    if (!can_finish(&k->open, wanted, &data))
        return false;
    if (!k->open.effect.is_store)
        memcpy(k->open.effect.is_port ? (uint8_t *)run + run->io.data_offset : run->mmio.data, &data, k->open.effect.size);
    return true;
}

static enum cpu_leave serve_port(struct engine_vcpu *vcpu)
{
    const struct effect *e = &vcpu->kvm->open.effect;
    const struct port_io io = {.port = e->port, .size = e->size, .is_write = e->is_store};

    return soft_port.io(vcpu->cpu, &io) == PORT_EXIT ? LEAVE_EXIT : LEAVE_FAULT;
}

/* The access is done, and with it the instruction. */
static void finish(struct cpu *cpu, const struct kvm_open *open, uint64_t data)
{
    if (!open->plain->is_store)
        kvm_plain_load(cpu, open->plain, data);
    cpu->rip = open->behind;
    cpu->rflags &= ~RFLAGS_RF;
    cpu_interrupts_enabled(cpu);
}

/*
 * KVM has translated the address and looked at the rights. Where no memory is mapped, only the port is left of what the software
 * processor would do; but alignment is not checked by every KVM, nor a width of addresses that is below the host's.
 */
static enum cpu_leave serve_memory(struct engine_vcpu *vcpu)
{
    const struct kvm_open *open = &vcpu->kvm->open;
    struct port_access access = {.gpa = open->effect.gpa, .gva_valid = true, .size = open->effect.size,
                                 .type = open->effect.is_store ? ACCESS_WRITE : ACCESS_READ};
    struct cpu *cpu = vcpu->cpu;
    uint64_t data;

    if (soft_find_view(vcpu, access.gpa) || (cpu->rflags & RFLAGS_AC) || access.gpa >> cpu->physical_bits ||
        !kvm_plain_address(cpu, open->plain, access.gpa, &access.gva))
        return LEAVE_FAULT;
    memcpy(&data, open->effect.data, sizeof(data));
    access.data = &data;
    cpu->insn = &open->plain->insn;
    if (soft_port.access(cpu, &access) == PORT_EXIT)
        return LEAVE_EXIT;
    finish(cpu, open, data);
    return LEAVE_NONE;
}

enum cpu_leave kvm_open_serve(struct engine_vcpu *vcpu)
{
    vcpu->cpu->next_rip = vcpu->kvm->open.behind;
    return vcpu->kvm->open.effect.is_port ? serve_port(vcpu) : serve_memory(vcpu);
}

void kvm_open_forget(struct engine_vcpu *vcpu)
{
    struct kvm_vcpu *k = vcpu->kvm;

    if (!k->open.is_open)
        return;
    const bool valid = k->mirror.valid, rest_valid = k->mirror.rest_valid;
    forget(vcpu);
    /* It has changed general registers and nothing else. */
    k->mirror.valid = valid;
    k->mirror.rest_valid = rest_valid;
    memset(&k->mirror.regs, 0xff, sizeof(k->mirror.regs));
}

bool kvm_half_done(struct engine_vcpu *vcpu)
{
    const struct effect effect = effect_of(vcpu->kvm->run);
    const uint64_t reported = vcpu->cpu->rip;

    if (leave_open_again(vcpu, &effect))
        return true;
    bool found = !effect.is_store || kvm_go_back(vcpu, &effect);
    if (found && leave_open(vcpu, &effect, reported))
        return true;
    if (!kvm_state_complete(vcpu)) {
        kvm_state_pull(vcpu); /* it may have gone back */
        vcpu->kvm->half_done = true;
        return false;
    }
    forget(vcpu);
    return found || kvm_go_back(vcpu, &effect); /* now with all registers */
}
