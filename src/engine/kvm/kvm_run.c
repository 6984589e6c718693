/*
 * Running on KVM: the stand-in for cpu_run.
 *
 * The loop enters the guest until something asks to leave. Exits that KVM makes at an instruction boundary (HLT, window,
 * signal) are answered from the registers; all others end with the software processor executing one instruction, which makes
 * the exit, or goes on. So does what KVM cannot watch: an NMI that waits for IRET, a shadow, a local APIC over memory.
 *
 *      another thread                       processor's thread
 *      request |= ..                        in_kvm = true, immediate_exit = 0
 *      in_kvm? immediate_exit = 1, signal   request? back
 *                                           KVM_RUN (EINTR at once when immediate_exit is set)
 *
 * Both sides are sequentially consistent, so either the request is seen, or the signal meets KVM_RUN.
 */
#include <errno.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm.h"
#include "os/kick.h"
#include "util/last_error.h"
#include "x86/code/interpret.h"

void kvm_interrupt(struct engine_vcpu *vcpu)
{
    struct kvm_vcpu *k = vcpu->kvm;

    if (!k || !atomic_load(&k->in_kvm))
        return;
    /* One signal an entry: they queue, and a flood would keep the processor in their handler. */
    if (__atomic_exchange_n(&k->run->immediate_exit, 1, __ATOMIC_SEQ_CST))
        return;
    kick_thread(atomic_load(&k->thread));
}

static bool has_request(struct cpu *cpu)
{
    return atomic_load(&cpu->request) & ~(uint32_t)REQUEST_ATTENTION;
}

enum { NOT_ENTERED = 1 };

/* KVM_RUN: 0, a negative errno, or NOT_ENTERED because of a request. */
static int enter(struct engine_vcpu *vcpu)
{
    struct kvm_vcpu *k = vcpu->kvm;
    int result = NOT_ENTERED;

    k->run->request_interrupt_window = vcpu->cpu->interrupt_waiting;
    k->run->kvm_valid_regs = KVM_SYNC_X86_VALID_FIELDS;
    __atomic_store_n(&k->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    kvm_log_grows(vcpu);
    atomic_store(&k->in_kvm, true);
    if (!has_request(vcpu->cpu))
        result = ioctl(k->fd, KVM_RUN, 0) < 0 ? -errno : 0;
    if (result != NOT_ENTERED && result != -EINVAL && kvm_state_is_new(vcpu))
        k->open.is_open = false;
    atomic_store(&k->in_kvm, false);
    __atomic_store_n(&k->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    kvm_ring_drain(vcpu);
    return result;
}

/* ---- the software processor ---- */

static enum cpu_leave unsupported(struct engine_vcpu *vcpu)
{
    struct vcpu_exit *exit = soft_exit_begin(vcpu, EXIT_UNSUPPORTED_FEATURE, false);

    exit->unsupported.code = 1; /* an intercept that cannot be described */
    exit->unsupported.parameter = vcpu->cpu->rip;
    return LEAVE_EXIT;
}

static enum cpu_leave step(struct engine_vcpu *vcpu, struct event *event)
{
    if (likely(kvm_state_complete(vcpu)))
        return cpu_run_one(vcpu->cpu, event);
    vcpu->kvm->lost = true;
    return unsupported(vcpu);
}

/*
 * A KVM that interprets does not look for a window between its instructions. Whatever waits for one, or for a lower task
 * priority, waits in the software processor, which does.
 */
static bool is_held_back(const struct engine_vcpu *vcpu)
{
    return vcpu->partition->kvm->interprets &&
           (vcpu->cpu->interrupt_waiting || (vcpu->lapic && lapic_requested(vcpu->lapic) >= 0));
}

/* What KVM cannot watch; and the one instruction in a shadow, for not every KVM keeps a shadow that it is given. */
static bool needs_steps(const struct engine_vcpu *vcpu)
{
    if (unlikely(vcpu->cpu->interrupt_shadow) || unlikely(kvm_apic_is_hidden(vcpu)) || unlikely(is_held_back(vcpu)))
        return true;
    return vcpu->cpu->nmi_masked && ((atomic_load(&vcpu->pending) & PENDING_NMI) || (vcpu->notifications & 1));
}

/* ---- exits ---- */

static enum cpu_leave half_done(struct engine_vcpu *vcpu, struct event *event)
{
    vcpu->kvm->half_done = false;
    if (!kvm_half_done(vcpu)) {
        vcpu->kvm->lost = vcpu->kvm->half_done;
        return unsupported(vcpu);
    }
    if (!vcpu->kvm->open.is_open)
        return step(vcpu, event);
    enum cpu_leave leave = kvm_open_serve(vcpu);
    return leave == LEAVE_FAULT ? cpu_run_one(vcpu->cpu, event) : leave;
}

/*
 * A triple fault, or what KVM makes one of: page tables or the stack of an exception in memory that it cannot see. The software
 * processor finds out, unless KVM has reset the registers (AMD leaves them undefined).
 */
static enum cpu_leave shut_down(struct engine_vcpu *vcpu, struct event *event)
{
    const struct cpu *cpu = vcpu->cpu;
    bool is_reset = cpu->rip == 0xfff0 && cpu->segment[SEG_CS].selector == 0xf000 && !(cpu->cr0 & CR0_PE);

    vcpu->kvm->mirror.valid = false;
    return is_reset ? LEAVE_SHUTDOWN : step(vcpu, event);
}

static enum cpu_leave attend(struct engine_vcpu *vcpu, uint32_t request)
{
    atomic_fetch_or(&vcpu->cpu->request, request);
    return LEAVE_REQUEST;
}

static enum cpu_leave answer(struct engine_vcpu *vcpu, struct event *event)
{
    switch (vcpu->kvm->run->exit_reason) {
    case KVM_EXIT_HLT:
        return LEAVE_HALT;
    case KVM_EXIT_SHUTDOWN:
        return shut_down(vcpu, event);
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR:
        return attend(vcpu, REQUEST_INTERRUPT);
    case KVM_EXIT_INTR:
        return LEAVE_NONE;
    case KVM_EXIT_DIRTY_RING_FULL:
        kvm_dirty_cleared(vcpu->partition);
        return LEAVE_NONE;
    case KVM_EXIT_FAIL_ENTRY:
        soft_exit_begin(vcpu, EXIT_INVALID_REGISTER_VALUE, false);
        return LEAVE_EXIT;
    case KVM_EXIT_MMIO:
    case KVM_EXIT_IO:
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        return half_done(vcpu, event);
    default: /* what its emulator cannot do, faults in delivery, debug */
        return step(vcpu, event);
    }
}

static enum cpu_leave after_run(struct engine_vcpu *vcpu, int result, struct event *event)
{
    /* A state that KVM refuses, or a failure before anything: ours is still the one that counts. */
    if (result == -EINVAL || !kvm_state_is_new(vcpu)) {
        kvm_open_forget(vcpu);
        vcpu->kvm->mirror.valid = false;
        return step(vcpu, event);
    }
    kvm_state_pull(vcpu);
    if (result == -EINTR || result == -EAGAIN)
        return LEAVE_NONE;
    if (vcpu->interruption.is_pending)
        return LEAVE_REQUEST;
    return result == 0 ? answer(vcpu, event) : step(vcpu, event); /* EFAULT: host memory that is missing or protected */
}

static enum cpu_leave execute(struct engine_vcpu *vcpu, struct event *event)
{
    enum cpu_leave leave = likely(!vcpu->kvm->half_done) ? LEAVE_NONE : half_done(vcpu, event);

    while (leave == LEAVE_NONE) {
        if (has_request(vcpu->cpu))
            return LEAVE_REQUEST;
        if (needs_steps(vcpu) || !kvm_state_push(vcpu)) {
            leave = step(vcpu, event);
            continue;
        }
        int result = enter(vcpu);
        if (result != NOT_ENTERED)
            leave = after_run(vcpu, result, event);
    }
    return leave;
}

enum cpu_leave kvm_execute(struct engine_vcpu *vcpu, struct event *event)
{
    atomic_store(&vcpu->kvm->thread, kick_this_thread());
    return execute(vcpu, event);
}

enum status kvm_run_vcpu(struct engine_vcpu *vcpu, struct vcpu_exit *exit)
{
    struct kvm_vcpu *k = vcpu->kvm;
    enum status status = soft_run(vcpu, exit);

    if (likely(!k->lost))
        return status;
    k->lost = false;
    return fail(STATUS_NO_MEMORY, "engine kvm: KVM does not give the registers of processor %u", vcpu->index);
}
