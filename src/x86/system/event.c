/*
 * Delivery of events through the interrupt table: real mode (SDM 3A 20.1.4), protected and virtual-8086 mode (6.12,
 * 20.3), long mode (6.14), and the double-fault rules (6.15, table 6-5).
 *
 * Each way first finds the handler and its stack, checks everything and writes the frame as one; only then are CS, SS,
 * RSP, RIP and RFLAGS changed. So a fault or an exit in the middle leaves the processor as it was.
 */
#include "x86/system/event.h"

#include "x86/system/control.h"
#include "x86/system/debug.h"
#include "x86/system/descriptor.h"
#include "x86/system/stack_frame.h"
#include "x86/system/task.h"

/* Error code bits (SDM 3A 6.13). */
enum { ERROR_EXT = 1, ERROR_IDT = 2 };

struct delivery {
    const struct event *event;
    uint32_t ext;          /* ERROR_EXT unless the program asked for the event by INT n, INT3 or INTO */
    struct descriptor gate;
    struct segment cs;
    unsigned level;        /* privilege level of the handler */
};

/* ---- what the gate's checks need ---- */

static bool is_by_instruction(const struct event *event)
{
    return event->type == EVENT_SOFTWARE || event->type == EVENT_SOFT_EXCEPTION;
}

/* Faults push RF set, so that an instruction breakpoint does not strike again on return; but for the fault of the breakpoint
 * itself, whose handler decides (SDM 3B 17.3.1.1). */
static bool is_fault(const struct event *event)
{
    const uint32_t others = 1u << VECTOR_DB | 1u << VECTOR_BP | 1u << VECTOR_OF | 1u << VECTOR_DF | 1u << VECTOR_MC;

    return event->type == EVENT_EXCEPTION && event->vector < 32 && (!((others >> event->vector) & 1) || event->is_detect);
}

static uint64_t pushed_flags(const struct cpu *cpu, const struct event *event)
{
    return is_fault(event) ? cpu_rflags(cpu) | RFLAGS_RF : debug_flags(cpu);
}

static unsigned gate_type(const struct descriptor *gate) { return descriptor_type(gate); }
static uint16_t gate_selector(const struct descriptor *gate) { return (uint16_t)(gate->low >> 16); }

static uint64_t gate_offset(const struct descriptor *gate)
{
    const uint64_t offset = (gate->low & 0xffff) | ((gate->low >> 32) & 0xffff0000) | (gate->high & 0xffffffff) << 32;
    return gate_type(gate) & 8 ? offset : offset & 0xffff;
}

static bool read_gate(struct cpu *cpu, struct delivery *d)
{
    const unsigned size = cpu_is_long(cpu) ? 16 : 8;
    const uint32_t offset = d->event->vector * size;
    const gva_t linear = cpu->idtr.base + offset;

    d->gate = (struct descriptor){0};
    if (offset + size - 1 > cpu->idtr.limit)
        return raise_gp(cpu, offset / size * 8 + ERROR_IDT + d->ext);
    return mem_read(cpu, cpu_is_long(cpu) ? linear : (uint32_t)linear, &d->gate, size, MEM_SYSTEM);
}

static bool check_gate(struct cpu *cpu, const struct delivery *d)
{
    const uint32_t error = d->event->vector * 8u + ERROR_IDT + d->ext;
    const unsigned legacy = 1u << SYSTEM_TASK_GATE | 1u << SYSTEM_INTERRUPT_GATE16 | 1u << SYSTEM_TRAP_GATE16;
    const unsigned always = 1u << SYSTEM_INTERRUPT_GATE | 1u << SYSTEM_TRAP_GATE;
    const unsigned allowed = cpu_is_long(cpu) ? always : always | legacy;

    if (!descriptor_is_system(&d->gate) || !((allowed >> gate_type(&d->gate)) & 1))
        return raise_gp(cpu, error);
    if (is_by_instruction(d->event) && descriptor_dpl(&d->gate) < cpu->cpl)
        return raise_gp(cpu, error);
    return descriptor_is_present(&d->gate) || raise_np(cpu, error);
}

/* The handler's code segment, and the privilege it runs at. */
static bool check_handler(struct cpu *cpu, struct delivery *d)
{
    const uint16_t selector = gate_selector(&d->gate);
    const uint32_t error = SELECTOR_ERROR(selector, d->ext);
    struct descriptor code;

    if (selector_is_null(selector))
        return raise_gp(cpu, d->ext);
    if (!descriptor_read(cpu, selector, VECTOR_GP, d->ext, &code))
        return false;
    if (!descriptor_is_code(&code) || descriptor_dpl(&code) > cpu->cpl)
        return raise_gp(cpu, error);
    if (cpu_is_long(cpu) && (!descriptor_is_long(&code) || descriptor_is_big(&code)))
        return raise_gp(cpu, error);
    if (!descriptor_is_present(&code))
        return raise_np(cpu, error);
    d->level = descriptor_is_conforming(&code) ? cpu->cpl : descriptor_dpl(&code);
    /* From virtual-8086 mode only privilege level 0 can be entered. */
    if (cpu_is_v86(cpu) && d->level != 0)
        return raise_gp(cpu, error);
    if (!descriptor_set_accessed(cpu, selector, &code))
        return false;
    descriptor_to_segment(&code, (uint16_t)((selector & ~SELECTOR_RPL) | d->level), &d->cs);
    return true;
}

/* ---- the commit ---- */

static void enter_handler(struct cpu *cpu, const struct delivery *d, const struct stack *stack, uint64_t rip)
{
    uint64_t flags = cpu_rflags(cpu) & ~(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM);

    /* Interrupt gates are the even types. */
    if (!(gate_type(&d->gate) & 1))
        flags &= ~RFLAGS_IF;
    stack_commit(cpu, stack);
    cpu->segment[SEG_CS] = d->cs;
    cpu->cpl = (uint8_t)d->level;
    cpu->rip = rip;
    cpu->interrupt_shadow = false;
    cpu_set_rflags(cpu, flags);
    cpu_update_mode(cpu);
}

/* ---- protected mode ---- */

static void null_v86_segments(struct cpu *cpu)
{
    static const enum segment_index data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

    for (size_t i = 0; i < array_size(data); i++)
        segment_null(0, 0, &cpu->segment[data[i]]);
}

static bool deliver_protected(struct cpu *cpu, struct delivery *d)
{
    const bool from_v86 = cpu_is_v86(cpu);
    const unsigned size = gate_type(&d->gate) & 8 ? 4 : 2;
    const uint64_t rip = gate_offset(&d->gate);
    struct frame frame = {0};
    struct stack stack;

    if (!check_handler(cpu, d))
        return false;
    if (d->level == cpu->cpl)
        stack = stack_current(cpu, d->ext);
    else if (!stack_from_tss(cpu, d->level, d->ext, &stack))
        return false;
    if (rip > d->cs.limit)
        return raise_gp(cpu, d->ext);
    if (from_v86) {
        frame_add(&frame, cpu->segment[SEG_GS].selector);
        frame_add(&frame, cpu->segment[SEG_FS].selector);
        frame_add(&frame, cpu->segment[SEG_DS].selector);
        frame_add(&frame, cpu->segment[SEG_ES].selector);
    }
    if (d->level != cpu->cpl) {
        frame_add(&frame, cpu->segment[SEG_SS].selector);
        frame_add(&frame, cpu->gpr[REG_RSP].q);
    }
    frame_add(&frame, pushed_flags(cpu, d->event));
    frame_add(&frame, cpu->segment[SEG_CS].selector);
    frame_add(&frame, cpu->rip);
    if (d->event->has_error)
        frame_add(&frame, d->event->error);
    if (!stack_push_frame(cpu, &stack, &frame, size))
        return false;
    if (from_v86)
        null_v86_segments(cpu);
    enter_handler(cpu, d, &stack, rip);
    return true;
}

/* ---- long mode ---- */

static bool deliver_long(struct cpu *cpu, struct delivery *d)
{
    const uint64_t rip = gate_offset(&d->gate);
    const unsigned ist = (d->gate.low >> 32) & 7;
    struct frame frame = {0};
    struct stack stack;

    if (!check_handler(cpu, d))
        return false;
    if (ist) {
        if (!stack_from_ist(cpu, ist, d->ext, &stack))
            return false;
    } else if (d->level != cpu->cpl) {
        if (!stack_from_tss(cpu, d->level, d->ext, &stack))
            return false;
    } else {
        stack = stack_current(cpu, d->ext);
        stack.width = 8;
        stack.sp = cpu->gpr[REG_RSP].q;
        stack.privilege = cpu->cpl == 3 ? MEM_USER : MEM_SYSTEM;
    }
    /* SS becomes null when the privilege changes, and only then. */
    if (d->level != cpu->cpl)
        segment_null((uint16_t)d->level, d->level, &stack.ss);
    else
        stack.ss = cpu->segment[SEG_SS];
    if (!cpu_is_canonical(cpu, rip))
        return raise_gp(cpu, d->ext);
    stack.sp &= ~(uint64_t)15;
    frame_add(&frame, cpu->segment[SEG_SS].selector);
    frame_add(&frame, cpu->gpr[REG_RSP].q);
    frame_add(&frame, pushed_flags(cpu, d->event));
    frame_add(&frame, cpu->segment[SEG_CS].selector);
    frame_add(&frame, cpu->rip);
    if (d->event->has_error)
        frame_add(&frame, d->event->error);
    if (!stack_push_frame(cpu, &stack, &frame, 8))
        return false;
    enter_handler(cpu, d, &stack, rip);
    return true;
}

/* ---- real mode: a table of far pointers, no error codes on the stack ---- */

static bool deliver_real(struct cpu *cpu, const struct event *event)
{
    const uint32_t offset = event->vector * 4u;
    struct frame frame = {0};
    struct stack stack = stack_current(cpu, 0);
    uint16_t pointer[2];

    if (offset + 3 > cpu->idtr.limit)
        return raise_gp(cpu, 0);
    if (!mem_read(cpu, (uint32_t)(cpu->idtr.base + offset), pointer, sizeof(pointer), MEM_SYSTEM))
        return false;
    frame_add(&frame, debug_flags(cpu));
    frame_add(&frame, cpu->segment[SEG_CS].selector);
    frame_add(&frame, cpu->rip);
    if (!stack_push_frame(cpu, &stack, &frame, 2))
        return false;
    stack_commit(cpu, &stack);
    segment_real(cpu, &cpu->segment[SEG_CS], pointer[1], &cpu->segment[SEG_CS]);
    cpu->rip = pointer[0];
    cpu->interrupt_shadow = false;
    cpu_set_rflags(cpu, cpu_rflags(cpu) & ~(RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_RF));
    cpu_update_mode(cpu);
    return true;
}

/* ---- all modes ---- */

static bool deliver_through_task_gate(struct cpu *cpu, const struct delivery *d)
{
    const struct task_request request = {
        .selector = gate_selector(&d->gate), .reason = TASK_EVENT, .return_rip = cpu->rip, .ext = d->ext,
        .has_error = d->event->has_error, .error = d->event->error, .sets_rf = is_fault(d->event)};

    return task_switch(cpu, &request);
}

static bool deliver(struct cpu *cpu, const struct event *event)
{
    struct delivery d = {.event = event, .ext = is_by_instruction(event) ? 0 : ERROR_EXT};

    if (cpu_is_real(cpu))
        return deliver_real(cpu, event);
    if (!read_gate(cpu, &d) || !check_gate(cpu, &d))
        return false;
    if (cpu_is_long(cpu))
        return deliver_long(cpu, &d);
    if (gate_type(&d.gate) == SYSTEM_TASK_GATE)
        return deliver_through_task_gate(cpu, &d);
    return deliver_protected(cpu, &d);
}

bool event_deliver(struct cpu *cpu, const struct event *event)
{
    if (!deliver(cpu, event))
        return false;
    if (event->type == EVENT_NMI)
        cpu->nmi_masked = true;
    return true;
}

/* ---- nested exceptions (SDM 3A table 6-5) ---- */

enum exception_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum exception_class classify(const struct event *event)
{
    if (event->type != EVENT_EXCEPTION)
        return BENIGN;
    switch (event->vector) {
    case VECTOR_DE: case VECTOR_TS: case VECTOR_NP: case VECTOR_SS: case VECTOR_GP: case VECTOR_CP:
        return CONTRIBUTORY;
    case VECTOR_PF: case VECTOR_VE:
        return PAGE_FAULT;
    case VECTOR_DF:
        return DOUBLE_FAULT;
    default:
        return BENIGN;
    }
}

struct event event_from_fault(struct cpu *cpu)
{
    const struct cpu_fault *fault = &cpu->fault;

    if (fault->vector == VECTOR_PF)
        cpu->cr2 = fault->address;
    if (fault->vector == VECTOR_DB) {
        cpu->dr6 = (cpu->dr6 & ~0xfull) | fault->debug | DR6_FIXED;
        cpu->dr7 &= ~DR7_GD;
        cpu->debug_control &= ~DEBUG_CONTROL_BTF; /* SDM 3B 17.4.3 */
    }
    return (struct event){.type = EVENT_EXCEPTION, .vector = fault->vector, .has_error = fault->has_error, .error = fault->error,
                          .is_detect = fault->vector == VECTOR_DB && (fault->debug & DR6_BD)};
}

/* What follows from `second` while `first` was delivered; false: shutdown. */
static bool combine(struct event *first, const struct event *second)
{
    const enum exception_class one = classify(first), two = classify(second);

    if (one == DOUBLE_FAULT && two != BENIGN)
        return false;
    if ((one == CONTRIBUTORY && two == CONTRIBUTORY) || (one == PAGE_FAULT && (two == CONTRIBUTORY || two == PAGE_FAULT)))
        *first = (struct event){.type = EVENT_EXCEPTION, .vector = VECTOR_DF, .has_error = true};
    else
        *first = *second;
    return true;
}

/* Does the owner take it? Exceptions of a delivery are seen like all others, and the #DF they make. */
static bool is_intercepted(struct cpu *cpu, const struct cpu_fault *fault)
{
    return cpu->port->exception && cpu->port->exception(cpu, fault) == PORT_EXIT;
}

/* Two nested faults lead to #DF, three to shutdown: the loop ends by itself; the bound is for benign ones. */
enum { NESTING_LIMIT = 8 };

enum cpu_leave event_dispatch(struct cpu *cpu, struct event *event)
{
    cpu->memory_event = true;
    for (unsigned i = 0; i < NESTING_LIMIT; i++) {
        cpu->leave = LEAVE_NONE;
        if (event_deliver(cpu, event)) {
            cpu->memory_event = false;
            return LEAVE_NONE;
        }
        if (cpu->leave != LEAVE_FAULT)
            return cpu->leave; /* memory_event stays set: the exit says so, and *event is to be delivered again */
        if (is_intercepted(cpu, &cpu->fault))
            return LEAVE_EXIT;
        const struct event first = *event, nested = event_from_fault(cpu);
        if (!combine(event, &nested))
            break;
        if (event->vector == VECTOR_DF && is_intercepted(cpu, &(struct cpu_fault){.vector = VECTOR_DF, .has_error = true})) {
            *event = first;
            return LEAVE_EXIT;
        }
    }
    cpu->memory_event = false;
    return LEAVE_SHUTDOWN;
}
