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
 *      forget      The state is saved, KVM finishes the instruction, and the saved state counts again: kvm_forget.c.
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
#include <string.h>

#include "engine/kvm/kvm.h"

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
    kvm_forget(vcpu);
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
    kvm_forget(vcpu);
    return found || kvm_go_back(vcpu, &effect); /* now with all registers */
}
