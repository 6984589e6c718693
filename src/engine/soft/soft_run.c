/*
 * The run loop of a processor.
 *
 *      soft_run: enter -> [ service -> cpu_run ]* -> fill the exit -> leave
 *
 * cpu_run comes back at instruction boundaries: for requests of other threads, exits, HLT, triple faults. service() does what
 * is due at a boundary, in the order of SDM 3A 6.9: memory work, INIT/SIPI, an exit that waits, cancel, events to inject, NMI,
 * interrupts; and sleeps while the processor is halted or in MWAIT. It answers whether to go on or to exit.
 */
#include "engine/soft/soft.h"
#include "x86/system/debug.h"

enum step { STEP_RUN, STEP_AGAIN, STEP_EXIT };

/* ---- events to inject ---- */

/* What the client injected and the guest has got. */
static void count_event(struct engine_vcpu *vcpu, const struct event *event)
{
    if (event->type == EVENT_EXTERNAL)
        count(&vcpu->counters.interrupts);
    if (event->type == EVENT_EXCEPTION)
        count(&vcpu->counters.exceptions);
    if (event->type == EVENT_EXCEPTION && event->vector == VECTOR_PF)
        count(&vcpu->counters.page_faults);
}

/* Deliver; when that ends in an exit, the event stays pending and the exit says so. */
static enum step inject(struct engine_vcpu *vcpu, struct event event)
{
    struct cpu *cpu = vcpu->cpu;

    completion_drop(vcpu);
    vcpu->halted = vcpu->monitor.is_waiting = false;
    cpu->interrupt_shadow = cpu->debug_shadow = false;
    cpu->memory_event = true;
    const enum cpu_leave leave = event_dispatch(cpu, &event);
    switch (leave) {
    case LEAVE_NONE:
        cpu->memory_event = false;
        count_event(vcpu, &event);
        return STEP_AGAIN;
    case LEAVE_SHUTDOWN:
        cpu->memory_event = false;
        soft_exit_begin(vcpu, EXIT_UNRECOVERABLE_EXCEPTION, false);
        return STEP_EXIT;
    default:
        cpu->memory_event = false;
        vcpu->interruption = (struct pending_interruption){.is_pending = true, .event = event};
        return leave == LEAVE_REQUEST ? STEP_AGAIN : STEP_EXIT; /* REQUEST: another processor is to be let in first */
    }
}

static bool can_interrupt(const struct cpu *cpu)
{
    return (cpu->rflags & RFLAGS_IF) && !cpu->interrupt_shadow;
}

/* PendingEvent: bits 0 pending, 1-3 type (0 exception, 5 ExtInt). */
static bool pending_event_is(const struct engine_vcpu *vcpu, unsigned type)
{
    return (vcpu->pending_event.q[0] & 1) && ((vcpu->pending_event.q[0] >> 1) & 7) == type;
}

static enum step inject_pending_exception(struct engine_vcpu *vcpu)
{
    uint64_t low = vcpu->pending_event.q[0];
    struct event event = {
        .type = EVENT_EXCEPTION, .vector = (uint8_t)(low >> 16), .has_error = low >> 8 & 1, .error = (uint32_t)(low >> 32)};

    if (event.vector == VECTOR_PF)
        vcpu->cpu->cr2 = vcpu->pending_event.q[1];
    vcpu->pending_event = (union vreg_value){0};
    return inject(vcpu, event);
}

/* PendingDebugException: what is left of the instruction before, the client's word included. A trap, as at its end (SDM 3A 6.9).
 */
static enum step inject_debug(struct engine_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;

    debug_take(cpu);
    if (soft_exception_exit(vcpu, &cpu->fault))
        return STEP_EXIT;
    return inject(vcpu, event_from_fault(cpu));
}

static bool extint_deliverable(const struct engine_vcpu *vcpu)
{
    return pending_event_is(vcpu, 5) && vcpu->lapic && lapic_accepts_extint(vcpu->lapic);
}

/* Is anything waiting that only IF, the shadow or the priority holds back? */
static bool interrupt_waits(const struct engine_vcpu *vcpu)
{
    return extint_deliverable(vcpu) || (vcpu->notifications & 2) || (vcpu->lapic && lapic_pending(vcpu->lapic) >= 0);
}

static enum step inject_interrupt(struct engine_vcpu *vcpu)
{
    int vector = -1;

    if (extint_deliverable(vcpu)) {
        vector = (int)(vcpu->pending_event.q[0] >> 8 & 0xff);
        vcpu->pending_event = (union vreg_value){0};
    } else if (vcpu->lapic && lapic_pending(vcpu->lapic) >= 0) {
        vector = lapic_acknowledge(vcpu->lapic);
    }
    if (vector < 0)
        return STEP_RUN;
    return inject(vcpu, (struct event){.type = EVENT_EXTERNAL, .vector = (uint8_t)vector});
}

static enum step window_exit(struct engine_vcpu *vcpu, uint64_t bit, uint8_t type)
{
    vcpu->notifications &= ~bit;
    count(&vcpu->counters.intercept[INTERCEPT_PENDING_INTERRUPT]);
    soft_exit_begin(vcpu, EXIT_INTERRUPT_WINDOW, false)->window.type = type;
    return STEP_EXIT;
}

/* InterruptPriority 0 asks for any window, others for TPR below that class. */
static bool priority_allows(const struct engine_vcpu *vcpu)
{
    uint64_t priority = vcpu->notifications >> 2 & 15;
    uint64_t cr8 = vcpu->lapic ? lapic_cr8(vcpu->lapic) : vcpu->cpu->cr8;

    return !priority || priority > cr8;
}

static enum step events(struct engine_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;

    if (vcpu->interruption.is_pending) {
        struct event event = vcpu->interruption.event;
        vcpu->interruption.is_pending = false;
        return inject(vcpu, event);
    }
    if (pending_event_is(vcpu, 0))
        return inject_pending_exception(vcpu);
    if (unlikely(debug_is_due(cpu)))
        return inject_debug(vcpu);
    if (!cpu->nmi_masked && !cpu->interrupt_shadow) {
        if (atomic_load(&vcpu->pending) & PENDING_NMI) {
            atomic_fetch_and(&vcpu->pending, ~(uint32_t)PENDING_NMI);
            return inject(vcpu, (struct event){.type = EVENT_NMI, .vector = VECTOR_NMI});
        }
        if (vcpu->notifications & 1)
            return window_exit(vcpu, 1, 2);
    }
    if (can_interrupt(cpu)) {
        enum step step = inject_interrupt(vcpu);
        if (step != STEP_RUN)
            return step;
        if ((vcpu->notifications & 2) && priority_allows(vcpu))
            return window_exit(vcpu, 2, 0);
    }
    cpu->interrupt_waiting = interrupt_waits(vcpu);
    cpu->nmi_waiting = (atomic_load(&vcpu->pending) & PENDING_NMI) || (vcpu->notifications & 1);
    return STEP_RUN;
}

/* ---- INIT and SIPI ---- */

static void take_init(struct engine_vcpu *vcpu)
{
    completion_drop(vcpu);
    cpu_reset(vcpu->cpu, true);
    vcpu->interruption = (struct pending_interruption){0};
    lapic_init_signal(vcpu->lapic);
    soft_monitor_forget(vcpu);
    vcpu->halted = false;
    vcpu->wait_for_sipi = vcpu->index != 0;
}

static void take_sipi(struct engine_vcpu *vcpu)
{
    struct segment *cs = &vcpu->cpu->segment[SEG_CS];
    uint32_t vector = atomic_load(&vcpu->sipi_vector);

    if (!vcpu->wait_for_sipi)
        return;
    vcpu->wait_for_sipi = false;
    cs->selector = (uint16_t)(vector << 8);
    cs->base = (uint64_t)vector << 12;
    vcpu->cpu->rip = 0;
    cpu_update_mode(vcpu->cpu);
}

static void startup(struct engine_vcpu *vcpu)
{
    const uint32_t mask = PENDING_INIT | PENDING_SIPI;
    uint32_t pending = atomic_load(&vcpu->pending) & mask ? atomic_fetch_and(&vcpu->pending, ~mask) : 0;

    if (pending & PENDING_INIT)
        take_init(vcpu);
    if (pending & PENDING_SIPI)
        take_sipi(vcpu);
}

/* ---- one boundary ---- */

void soft_memory_work(struct engine_vcpu *vcpu)
{
    uint32_t mask = PENDING_DROP_MEMORY | PENDING_DROP_WRITES | PENDING_VERIFY_CODE;

    if (atomic_load(&vcpu->pending) & mask)
        soft_do_pending_memory(vcpu, atomic_fetch_and(&vcpu->pending, ~mask));
}

static void sleep(struct engine_vcpu *vcpu)
{
    soft_leave(vcpu);
    runtime_stop(&vcpu->counters.runtime);
    soft_vcpu_sleep(vcpu, soft_monitor_look_ms(vcpu));
    runtime_start(&vcpu->counters.runtime, false);
    soft_enter(vcpu);
}

static enum step service(struct engine_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    enum step step;

    if (atomic_load(&cpu->request) & ~(uint32_t)REQUEST_ATTENTION)
        atomic_fetch_and(&cpu->request, (uint32_t)REQUEST_ATTENTION); /* before looking at what was asked for */
    if (atomic_load(&vcpu->partition->holds)) {
        soft_leave(vcpu);
        soft_enter(vcpu);
    }
    soft_memory_work(vcpu);
    if (unlikely(vcpu->monitor.wanted))
        soft_monitor_arm(vcpu);
    completion_boundary(vcpu);
    if (vcpu->exit_pending) {
        vcpu->exit_pending = false;
        *vcpu->exit = vcpu->stored_exit;
        return STEP_EXIT;
    }
    if (atomic_load(&vcpu->kicked)) {
        soft_exit_begin(vcpu, EXIT_CANCELED, false);
        return STEP_EXIT;
    }
    startup(vcpu);
    if (vcpu->wait_for_sipi) {
        sleep(vcpu);
        return STEP_AGAIN;
    }
    step = events(vcpu);
    if (step == STEP_RUN && (vcpu->halted || soft_monitor_waits(vcpu))) {
        sleep(vcpu);
        return STEP_AGAIN;
    }
    return step;
}

static enum step halt(struct engine_vcpu *vcpu)
{
    count(&vcpu->counters.intercept[INTERCEPT_HALT]);
    if (vcpu->lapic) {
        vcpu->halted = true;
        return STEP_AGAIN;
    }
    soft_exit_begin(vcpu, EXIT_HALT, false);
    return STEP_EXIT;
}

/* An exit in the middle of delivering what cpu_run wanted to deliver: the event stays pending. */
static void keep_event(struct engine_vcpu *vcpu, const struct event *event)
{
    if (!vcpu->cpu->memory_event)
        return;
    vcpu->cpu->memory_event = false;
    vcpu->interruption = (struct pending_interruption){.is_pending = true, .event = *event};
}

static enum cpu_leave run_guest(struct engine_vcpu *vcpu, struct event *event)
{
    const struct executor *executor = vcpu->partition->executor;

    return likely(!executor) ? cpu_run(vcpu->cpu, event) : executor->run(vcpu, event);
}

static enum step execute(struct engine_vcpu *vcpu)
{
    struct event event;

    switch (run_guest(vcpu, &event)) {
    case LEAVE_EXIT:
        keep_event(vcpu, &event);
        return STEP_EXIT;
    case LEAVE_DONE_EXIT:
        return STEP_EXIT;
    case LEAVE_HALT:
        return halt(vcpu);
    case LEAVE_SHUTDOWN:
        soft_exit_begin(vcpu, EXIT_UNRECOVERABLE_EXCEPTION, false);
        return STEP_EXIT;
    default:
        keep_event(vcpu, &event); /* another processor had to be let in before it could be delivered */
        return STEP_AGAIN;
    }
}

/* Set from outside: can a processor run with them? Asked again until it can. */
static enum step check_registers(struct engine_vcpu *vcpu)
{
    /* An external interrupt goes through the local APIC: without one there is no such event (whp-facts 9.5). */
    bool impossible = cpu_control_problem(vcpu->cpu) || cpu_segment_problem(vcpu->cpu, vcpu->segments_unchecked) ||
                      (!vcpu->lapic && pending_event_is(vcpu, 5));

    vcpu->control_unchecked = impossible;
    if (!impossible) {
        vcpu->segments_unchecked = 0;
        return STEP_AGAIN;
    }
    soft_exit_begin(vcpu, EXIT_INVALID_REGISTER_VALUE, false);
    return STEP_EXIT;
}

/*
 * How long the processor has run. Exactly for the first runs; when there are many they are short, and reading the time stamp
 * twice would be a sixth of what an exit costs. Then time is counted in the kernel's ticks, as the kernel does for processes:
 * a run gets those that fall into it.
 */
enum { EXACT_RUNS = 64 };

/* Has the client finished the last exit's instruction? */
static void take_breakpoints(struct engine_vcpu *vcpu)
{
    const struct unfinished u = vcpu->unfinished;
    struct cpu *cpu = vcpu->cpu;

    vcpu->unfinished.hits = 0;
    if (cpu->rip == u.rip && cpu->gpr[REG_RCX].q != u.rcx)
        debug_set_resume(cpu, cpu->rip); /* one round of a repeated instruction */
    else if (cpu->rip != u.next_rip)
        return;
    cpu->debug_pending |= u.hits;
}

enum status soft_run(struct engine_vcpu *vcpu, struct vcpu_exit *exit)
{
    struct engine_partition *p = vcpu->partition;
    enum step step = STEP_AGAIN;

    runtime_start(&vcpu->counters.runtime, vcpu->runs >= EXACT_RUNS);
    vcpu->exit = exit;
    if (unlikely(vcpu->unfinished.hits))
        take_breakpoints(vcpu);
    completion_begin_run(vcpu);
    if (clock_run(&p->clock))
        timer_queue_clock_changed(p->timers);
    if (vcpu->lapic)
        lapic_set_traps(vcpu->lapic, p->config->extended_exits);
    cpu_verify_code(vcpu->cpu); /* the host had its chance to change memory */
    if (unlikely(vcpu->copied.count))
        atomic_fetch_or(&vcpu->pending, PENDING_VERIFY_CODE);
    soft_enter(vcpu);
    if (unlikely(vcpu->control_unchecked))
        step = check_registers(vcpu);
    while (step != STEP_EXIT) {
        step = service(vcpu);
        if (step == STEP_RUN)
            step = execute(vcpu);
    }
    soft_exit_state(vcpu, exit);
    vcpu->monitor.is_waiting = false; /* an exit ends MWAIT */
    soft_leave(vcpu);
    runtime_stop(&vcpu->counters.runtime);
    vcpu->runs++;
    return STATUS_OK;
}
