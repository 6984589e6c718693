/*
 * Between select.c, which has the table and the instructions on general registers, and select_vector.c: how an instruction's
 * fast operation is found and laid out. Each select function answers whether there is one; if not, what it wrote to the
 * operation does not count.
 */
#ifndef OWHP_X86_CODE_SELECT_H
#define OWHP_X86_CODE_SELECT_H

#include "x86/code/insn.h"
#include "x86/code/ops.h"

struct selection {
    uint32_t mode;
    const struct op_table *table;
    const struct insn *insn;
    unsigned offset; /* of the instruction in its block */
    struct op *op;
    bool *ends;
};

/* Lay out the memory operand; `size` is the access's, for the page-crossing test. */
bool select_memory(const struct selection *s, unsigned size);

static inline bool select_take(const struct selection *s, op_fn *run)
{
    s->op->run = run;
    return run != NULL;
}

/* Plain moves of vectors; `aligned` and `high` as in the table. */
bool select_move_16(const struct selection *s, unsigned aligned);
bool select_move_8(const struct selection *s, unsigned unused);
bool select_move_4(const struct selection *s, unsigned unused);
bool select_move_half(const struct selection *s, unsigned high);

/* Everything that runs through a stub with two operands. */
bool select_stub(const struct selection *s);

#endif
