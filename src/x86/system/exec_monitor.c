/*
 * MONITOR and MWAIT (SDM 2B, SDM 3A 8.10.2). The processor checks and translates; watching the line and sleeping is the port's.
 * Without a port that does it nothing is watched, and MWAIT is over at once, as it may be at any time.
 */
#include "x86/exec.h"

#include "x86/memory/memory.h"

/* Hints and extensions of MWAIT, in RCX; leaf 5 shows the one there is. */
enum { BREAK_ON_MASKED = 1 };

static bool may_monitor(struct cpu *cpu)
{
    return (cpuid_has(&cpu->cpuid, FEATURE_MONITOR) && cpu->cpl == 0) || raise_ud(cpu);
}

static uint64_t extensions(const struct cpu *cpu)
{
    return cpu_is_64(cpu) ? cpu->gpr[REG_RCX].q : cpu->gpr[REG_RCX].d;
}

/* The line of DS:[rAX]; it is loaded from, as far as faults go. */
static enum exec_result exec_monitor(struct cpu *cpu, const struct insn *insn)
{
    gva_t linear;
    gpa_t gpa;

    if (!may_monitor(cpu))
        return EXEC_LEAVE;
    if (extensions(cpu))
        return exec_done(raise_gp(cpu, 0));
    if (!operand_linear(cpu, insn, 1, ACCESS_READ, &linear) || !mem_translate(cpu, linear, ACCESS_READ, &gpa))
        return EXEC_LEAVE;
    if (cpu->port->monitor)
        cpu->port->monitor(cpu, gpa);
    return EXEC_END;
}

/* A single-step trap behind it would end the wait; so it does not begin. The hints in RAX say how deep to sleep. */
static enum exec_result exec_mwait(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (!may_monitor(cpu))
        return EXEC_LEAVE;
    if (extensions(cpu) & ~(uint64_t)BREAK_ON_MASKED)
        return exec_done(raise_gp(cpu, 0));
    if (cpu->port->wait && !(cpu->rflags & RFLAGS_TF) && !cpu->debug_pending)
        cpu->port->wait(cpu, extensions(cpu) & BREAK_ON_MASKED);
    return EXEC_END;
}

/* clang-format off */
const struct exec_entry exec_monitor_table[] = {
    {ZYDIS_MNEMONIC_MONITOR, exec_monitor, 1}, /* 0f 01 c8 */
    {ZYDIS_MNEMONIC_MWAIT, exec_mwait, 1},     /* 0f 01 c9 */
    {ZYDIS_MNEMONIC_INVALID, NULL, 0},
};
/* clang-format on */
