/* Filling exits: the state every exit carries, instruction bytes, and exits that follow a completed instruction. */
#include "engine/soft/soft.h"

/* All but the instruction's length, which whoever began the exit has set. */
void soft_exit_state(struct engine_vcpu *vcpu, struct vcpu_exit *exit)
{
    const struct cpu *cpu = vcpu->cpu;
    const struct segment *cs = &cpu->segment[SEG_CS];
    struct exit_state *state = &exit->state;

    state->cs.segment.base = cs->base;
    state->cs.segment.limit = cs->limit;
    state->cs.segment.selector = cs->selector;
    state->cs.segment.attributes = cs->attributes;
    state->rip = cpu->rip;
    state->rflags = cpu_rflags(cpu);
    state->cpl = cpu->cpl;
    state->cr8 = (uint8_t)((vcpu->lapic ? lapic_cr8(vcpu->lapic) : cpu->cr8) & 15);
    state->cr0_pe = cpu->cr0 & CR0_PE;
    state->cr0_am = cpu->cr0 & CR0_AM;
    state->efer_lma = cpu->efer & EFER_LMA;
    state->debug_active = cpu->dr7 & 0xff;
    state->interruption_pending = vcpu->interruption.is_pending;
    state->interrupt_shadow = cpu->interrupt_shadow;
}

struct vcpu_exit *soft_exit_begin(struct engine_vcpu *vcpu, enum exit_reason reason, bool with_length)
{
    struct vcpu_exit *exit = vcpu->exit;

    /* The rest of the state comes at the end of the run; of the union, whoever begins an exit fills all that the exit has. */
    exit->reason = reason;
    exit->code = (struct exit_bytes){0};
    exit->state.instruction_length = with_length ? (uint8_t)((vcpu->cpu->next_rip - vcpu->cpu->rip) & 15) : 0;
    return exit;
}

void soft_exit_after(struct engine_vcpu *vcpu, const struct vcpu_exit *exit)
{
    vcpu->stored_exit = *exit;
    vcpu->stored_exit.state = (struct exit_state){0}; /* the APIC knows of no instruction */
    vcpu->exit_pending = true;
    atomic_fetch_or(&vcpu->cpu->request, REQUEST_SERVICE);
}
