/* The XSAVE family (exec_xsave.c). */
#ifndef OWHP_X86_EXEC_XSAVE_H
#define OWHP_X86_EXEC_XSAVE_H

#include "x86/exec.h"

exec_fn exec_xsave, exec_xsave64, exec_xsaveopt, exec_xsaveopt64, exec_xsavec, exec_xsavec64;
exec_fn exec_xsaves, exec_xsaves64, exec_xrstor, exec_xrstor64, exec_xrstors, exec_xrstors64;

/* XINUSE (SDM 1 13.6): the state components (bits of XCR0) that are not in their initial
 * configuration. MXCSR is not looked at. */
uint64_t xsave_in_use(const struct cpu *cpu);

#endif
