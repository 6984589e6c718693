/* Near branches: the common end of every instruction that sets RIP within the code segment. */
#ifndef OWHP_X86_EXEC_BRANCH_H
#define OWHP_X86_EXEC_BRANCH_H

#include "x86/cpu.h"

/*
 * Make *target (any width) an instruction pointer of `size` bytes: cut it, then check it against the canonical
 * range (64-bit mode) or the limit of CS. False: #GP(0) was raised. Changes nothing else.
 */
must_check bool branch_target(struct cpu *cpu, unsigned size, uint64_t *target);

#endif
