/* What far transfers share: CALL, JMP, RET, IRET (exec_far.c, exec_iret.c). */
#ifndef OWHP_X86_EXEC_FAR_H
#define OWHP_X86_EXEC_FAR_H

#include "x86/system/descriptor.h"
#include "x86/system/exec_system.h"
#include "x86/system/stack_frame.h"

/* Is rip valid in this code segment: canonical (64-bit), or (its lower 32 bits: a 64-bit operand may have more, which silicon
 * drops) within the limit? Else #GP(0). */
must_check bool far_check_rip(struct cpu *cpu, const struct segment *cs, uint64_t rip);

/* CS from a stack (RET, IRET): code, RPL not below CPL, DPL to match it. The new CPL is the selector's RPL. */
must_check bool far_check_return(struct cpu *cpu, uint16_t selector, struct segment *cs);

/* SS:RSP from a stack, for a return to the outer level `cpl`. */
must_check bool far_check_outer_stack(struct cpu *cpu, uint16_t selector, unsigned cpl, const struct segment *cs,
                                      struct segment *ss);

/* After a return to an outer level: data segments it may not use become null (SDM 3A 5.8.6). */
void far_drop_segments(struct cpu *cpu);

/* New CS and privilege level; continue at rip. The caller has changed the stack and does cpu_update_mode. */
void far_commit(struct cpu *cpu, const struct segment *cs, unsigned cpl, uint64_t rip);

#endif
