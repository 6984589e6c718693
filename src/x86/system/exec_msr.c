/* RDMSR, WRMSR, RDTSC, RDTSCP, RDPMC, RDPID, CPUID (SDM 2A-2B under each name). */
#include "x86/system/exec_system.h"
#include "x86/system/msr.h"

static void write_edx_eax(struct cpu *cpu, uint64_t value)
{
    gpr_write(cpu, REG_RAX, 4, (uint32_t)value);
    gpr_write(cpu, REG_RDX, 4, value >> 32);
}

/* ---- MSRs: the port first, then the processor's own ---- */

enum exec_result exec_rdmsr(struct cpu *cpu, const struct insn *insn)
{
    uint32_t index = cpu->gpr[REG_RCX].d;
    uint64_t value = 0;
    enum port_result answer = PORT_DEFAULT;

    (void)insn;
    if (!require_supervisor(cpu))
        return EXEC_LEAVE;
    if (cpu->port->msr_read)
        answer = cpu->port->msr_read(cpu, index, &value);
    if (answer == PORT_DEFAULT) {
        if (msr_read(cpu, index, &value) != MSR_OK)
            return exec_done(raise_gp(cpu, 0));
    } else if (!exec_port(cpu, answer)) {
        return EXEC_LEAVE;
    }
    write_edx_eax(cpu, value);
    return EXEC_NEXT;
}

enum exec_result exec_wrmsr(struct cpu *cpu, const struct insn *insn)
{
    uint32_t index = cpu->gpr[REG_RCX].d;
    uint64_t value = (uint64_t)cpu->gpr[REG_RDX].d << 32 | cpu->gpr[REG_RAX].d;
    enum port_result answer = PORT_DEFAULT;

    (void)insn;
    if (!require_supervisor(cpu))
        return EXEC_LEAVE;
    if (cpu->port->msr_write)
        answer = cpu->port->msr_write(cpu, index, value);
    if (answer == PORT_DEFAULT) {
        if (msr_write(cpu, index, value) != MSR_OK)
            return exec_done(raise_gp(cpu, 0));
    } else if (!exec_port(cpu, answer)) {
        return EXEC_LEAVE;
    }
    return EXEC_END;
}

/* ---- time stamp and counters ---- */

static bool read_tsc(struct cpu *cpu, bool is_rdtscp, uint64_t *value)
{
    enum port_result answer = PORT_DEFAULT;

    if ((cpu->cr4 & CR4_TSD) && cpu->cpl != 0)
        return raise_gp(cpu, 0);
    if (cpu->port->rdtsc)
        answer = cpu->port->rdtsc(cpu, is_rdtscp, value);
    if (answer != PORT_DEFAULT)
        return exec_port(cpu, answer);
    *value = msr_tsc(cpu);
    return true;
}

enum exec_result exec_rdtsc(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value;

    (void)insn;
    if (!read_tsc(cpu, false, &value))
        return EXEC_LEAVE;
    write_edx_eax(cpu, value);
    return EXEC_NEXT;
}

enum exec_result exec_rdtscp(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value;

    (void)insn;
    if (!require_feature(cpu, FEATURE_RDTSCP) || !read_tsc(cpu, true, &value))
        return EXEC_LEAVE;
    write_edx_eax(cpu, value);
    gpr_write(cpu, REG_RCX, 4, (uint32_t)cpu->tsc_aux);
    return EXEC_NEXT;
}

/* There is no performance counter, so every index is out of range. */
enum exec_result exec_rdpmc(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    cpu_count(cpu, CPU_COUNT_RDPMC);
    return exec_done(raise_gp(cpu, 0));
}

enum exec_result exec_rdpid(struct cpu *cpu, const struct insn *insn)
{
    if (!require_feature(cpu, FEATURE_RDPID))
        return EXEC_LEAVE;
    gpr_write(cpu, insn->operand[0].number, cpu_is_64(cpu) ? 8 : 4, (uint32_t)cpu->tsc_aux);
    return EXEC_NEXT;
}

/* ---- identification ---- */

enum exec_result exec_cpuid(struct cpu *cpu, const struct insn *insn)
{
    uint32_t leaf = cpu->gpr[REG_RAX].d, subleaf = cpu->gpr[REG_RCX].d;
    uint32_t out[4];
    enum port_result answer = PORT_DEFAULT;

    (void)insn;
    if (cpu->port->cpuid)
        answer = cpu->port->cpuid(cpu, leaf, subleaf, out);
    if (answer == PORT_DEFAULT)
        cpuid_read(cpu, leaf, subleaf, out);
    else if (!exec_port(cpu, answer))
        return EXEC_LEAVE;
    gpr_write(cpu, REG_RAX, 4, out[0]);
    gpr_write(cpu, REG_RBX, 4, out[1]);
    gpr_write(cpu, REG_RCX, 4, out[2]);
    gpr_write(cpu, REG_RDX, 4, out[3]);
    return EXEC_NEXT;
}
