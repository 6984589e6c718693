/*
 * Events: exceptions, interrupts, NMIs and their delivery through the interrupt table in every mode
 * (SDM 3A chapter 6, APM 2 chapter 8).
 */
#ifndef OWHP_X86_EVENT_H
#define OWHP_X86_EVENT_H

#include "x86/cpu.h"

enum event_type {
    EVENT_EXTERNAL,       /* hardware interrupt */
    EVENT_NMI,
    EVENT_EXCEPTION,      /* fault, trap or abort raised by the processor */
    EVENT_SOFTWARE,       /* INT n */
    EVENT_SOFT_EXCEPTION, /* INT3, INTO */
    EVENT_ICEBP,          /* INT1 */
};

struct event {
    enum event_type type;
    uint8_t vector;
    bool has_error;
    bool is_detect; /* #DB by general detect: a fault, whose frame has RF set */
    uint32_t error;
};

/*
 * Deliver one event: the saved RIP is cpu->rip (software events: the caller has put the following
 * instruction's RIP there or passes through exec_far's INT). CR2/DR6 were set by the caller.
 * True: CS:RIP is at the handler. False: cpu->leave is LEAVE_FAULT (a nested exception in cpu->fault)
 * or LEAVE_EXIT; nothing has changed but accessed bits.
 */
must_check bool event_deliver(struct cpu *cpu, const struct event *event);

/*
 * Deliver, and on nested exceptions go through the double-fault rules (SDM 3A 6.15, table 6-5) to the end.
 * LEAVE_NONE: delivered. LEAVE_SHUTDOWN: triple fault. LEAVE_EXIT: an exit happened during delivery; *event
 * is what is still to be delivered when the processor runs again (it becomes the pending interruption).
 */
enum cpu_leave event_dispatch(struct cpu *cpu, struct event *event);

/* Make the event for cpu->fault: sets CR2 or DR6/DR7.GD as delivery demands. */
struct event event_from_fault(struct cpu *cpu);

#endif
