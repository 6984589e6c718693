/* INT n, INT3, INTO, INT1 (SDM 2A INT). */
#include "x86/system/control.h"
#include "x86/system/debug.h"
#include "x86/system/event.h"
#include "x86/system/exec_system.h"

/* The frame's RIP is behind the instruction; when delivery fails, RIP is at it. */
static enum exec_result raise_event(struct cpu *cpu, enum event_type type, uint8_t vector)
{
    const struct event event = {.type = type, .vector = vector};
    const uint64_t rip = cpu->rip;
    const uint16_t task = cpu->segment[SEG_TR].selector;

    cpu->rip = cpu->next_rip;
    if (!event_deliver(cpu, &event)) {
        /* A task switch that failed half-way is in the new task already. */
        if (cpu->segment[SEG_TR].selector == task)
            cpu->rip = rip;
        return EXEC_LEAVE;
    }
    cpu->trap_cancelled = true;
    cpu->next_rip = cpu->rip;
    return EXEC_END;
}

/* In virtual-8086 mode the redirection bitmap has its say (INT n only, not INT3, INTO, INT1). */
enum exec_result exec_int(struct cpu *cpu, const struct insn *insn)
{
    const uint8_t vector = (uint8_t)insn->operand[0].immediate;
    bool through_idt = true;

    if (cpu_is_v86(cpu)) {
        const enum exec_result result = exec_int_v86(cpu, vector, &through_idt);
        if (!through_idt)
            return result;
    }
    return raise_event(cpu, EVENT_SOFTWARE, vector);
}

/*
 * INT3, INTO and INT1 cannot be trapped by privilege, and exceptions that a debugger may watch for: the run loop's
 * exception hook sees them as traps with RIP behind the instruction.
 */
static enum exec_result raise_trap(struct cpu *cpu, enum event_type type, uint8_t vector)
{
    if (cpu->port->exception) {
        cpu->fault = (struct cpu_fault){.vector = vector, .is_trap = true};
        switch (cpu->port->exception(cpu, &cpu->fault)) {
        case PORT_EXIT:
            cpu->leave = LEAVE_EXIT;
            return EXEC_LEAVE;
        case PORT_DONE:
            return EXEC_END;
        default:
            break;
        }
    }
    return raise_event(cpu, type, vector);
}

enum exec_result exec_int3(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return raise_trap(cpu, EVENT_SOFT_EXCEPTION, VECTOR_BP);
}

enum exec_result exec_into(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (!(cpu->aflags & AFLAG_OF))
        return EXEC_NEXT;
    return raise_trap(cpu, EVENT_SOFT_EXCEPTION, VECTOR_OF);
}

enum exec_result exec_int1(struct cpu *cpu, const struct insn *insn)
{
    const enum exec_result result = raise_trap(cpu, EVENT_ICEBP, VECTOR_DB);

    (void)insn;
    /* DR6 stays as it is, but general detect and BTF end as with every debug exception (SDM 3B 17.2.4, 17.4.3). */
    if (result == EXEC_END) {
        cpu->dr7 &= ~DR7_GD;
        cpu->debug_control &= ~DEBUG_CONTROL_BTF;
    }
    return result;
}
