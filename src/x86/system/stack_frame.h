/*
 * Several stack elements pushed as one: either all are written or none (SDM 3A 6.12, 5.8.5). Works on a stack that is not
 * loaded into SS:RSP yet, so that the switch is committed after everything that can fault.
 */
#ifndef OWHP_X86_STACK_FRAME_H
#define OWHP_X86_STACK_FRAME_H

#include "x86/cpu.h"
#include "x86/memory/memory.h"

struct stack {
    struct segment ss;
    uint64_t sp;
    uint8_t width;                 /* of the stack pointer: 2, 4, 8 */
    enum mem_privilege privilege;
    uint32_t error;                /* error code of #SS when it does not fit */
};

enum { FRAME_MAXIMUM = 40 };

/* Elements in the order they are pushed. */
struct frame {
    unsigned count;
    uint64_t value[FRAME_MAXIMUM];
};

static inline void frame_add(struct frame *frame, uint64_t value)
{
    frame->value[frame->count++] = value;
}

/* The stack in use now. */
struct stack stack_current(const struct cpu *cpu, uint32_t error);

/*
 * Push the elements, `size` bytes each, and move stack->sp. False: #SS(stack->error), a page fault or an exit; nothing was
 * written (but for a frame that wraps around the end of a 16-bit stack, whose elements are written one by one).
 */
must_check bool stack_push_frame(struct cpu *cpu, struct stack *stack, const struct frame *frame, unsigned size);

/* Make it the current stack. The caller does cpu_update_mode. */
void stack_commit(struct cpu *cpu, const struct stack *stack);

/*
 * The stack of an inner privilege level from the TSS (SDM 3A 7.2.1, 7.7). Legacy: SS:ESP, checked; long mode: RSP with a
 * null SS. Faults: #TS with the TSS's or the stack selector and `ext`, #SS when the segment is not present.
 */
must_check bool stack_from_tss(struct cpu *cpu, unsigned level, uint32_t ext, struct stack *out);
/* Long mode: stack pointer 1..7 of the interrupt stack table. */
must_check bool stack_from_ist(struct cpu *cpu, unsigned index, uint32_t ext, struct stack *out);

#endif
