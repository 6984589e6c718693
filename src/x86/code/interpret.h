/*
 * The interpreter: operations call each other in a chain (tail calls) until one returns NULL.
 *
 * In builds without sibling-call optimization (OWHP_NO_TAIL_CALLS: sanitizers, -O0) an operation returns the next one
 * and a loop calls it; the handlers are the same, only INTERPRET_GO differs.
 */
#ifndef OWHP_X86_INTERPRET_H
#define OWHP_X86_INTERPRET_H

#include "x86/code/code.h"

#ifdef OWHP_NO_TAIL_CALLS
#define INTERPRET_GO(cpu, next)                                                                    \
    do {                                                                                           \
        (void)(cpu);                                                                               \
        return (next);                                                                             \
    } while (0)
#elif defined(__clang__)
#define INTERPRET_GO(cpu, next)                                                                    \
    do {                                                                                           \
        const struct op *go_ = (next);                                                             \
        __attribute__((musttail)) return go_->run((cpu), go_);                                     \
    } while (0)
#else
#define INTERPRET_GO(cpu, next)                                                                    \
    do {                                                                                           \
        const struct op *go_ = (next);                                                             \
        return go_->run((cpu), go_);                                                               \
    } while (0)
#endif

/* The same from a function that is not an op_fn: a call that the compiler turns into a jump when it can. */
static inline const struct op *interpret_go(struct cpu *cpu, const struct op *op)
{
#ifdef OWHP_NO_TAIL_CALLS
    (void)cpu;
    return op;
#else
    return op->run(cpu, op);
#endif
}

/* An instruction with an exec function (op->insn). */
op_fn interpret_generic;
/* A fast operation's odd case: carry the instruction out by its exec function. */
op_fn interpret_cold;
/* End of a block that does not branch, and any operation of a dead block: look up again. */
op_fn interpret_block_end, interpret_resync;
/* Look up the block at cpu->rip and go on there. */
op_fn interpret_lookup;

/* A direct branch whose link does not serve: go to its target and link it when that is in the same page. */
const struct op *interpret_branch(struct cpu *cpu, const struct op *op);

/* A data access missed the TLB: fill it and try the operation again, or take the cold way. */
const struct op *interpret_miss_read(struct cpu *cpu, const struct op *op, gva_t linear);
const struct op *interpret_miss_write(struct cpu *cpu, const struct op *op, gva_t linear);

/* Run the chain from an operation until it leaves. */
static inline void interpret(struct cpu *cpu, const struct op *op)
{
#ifdef OWHP_NO_TAIL_CALLS
    while (op)
        op = op->run(cpu, op);
#else
    (void)!op->run(cpu, op);
#endif
}

#endif
