/* Hardware task switching (SDM 3A chapter 7): 16- and 32-bit TSS, legacy modes only. */
#ifndef OWHP_X86_TASK_H
#define OWHP_X86_TASK_H

#include "x86/cpu.h"

enum task_reason {
    TASK_JMP,   /* JMP to a TSS or task gate: the old task becomes available */
    TASK_CALL,  /* CALL: nested, the old task stays busy */
    TASK_IRET,  /* IRET with NT: back to the link, the old task becomes available */
    TASK_EVENT, /* task gate in the IDT: nested; an error code is pushed on the new stack */
};

struct task_request {
    uint16_t selector;     /* of the TSS descriptor */
    enum task_reason reason;
    uint64_t return_rip;   /* saved in the old TSS */
    uint32_t ext;          /* bit 0 of error codes */
    bool has_error;
    bool sets_rf;          /* of the old task's saved flags: a fault is its cause */
    uint32_t error;
};

/*
 * Switch to the task. True: the new task is loaded, cpu->rip and cpu->next_rip are its EIP. False: a fault or an exit. Faults
 * found before the switch leave the old task as it was; those found while the new task's segments are loaded belong to the
 * new task (cpu->rip is its EIP), as the processor does (SDM 3A 7.3).
 */
must_check bool task_switch(struct cpu *cpu, const struct task_request *request);

/* The previous task's selector from the current TSS, for IRET with NT. */
must_check bool task_link(struct cpu *cpu, uint16_t *selector);

#endif
