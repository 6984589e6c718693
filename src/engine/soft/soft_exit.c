/* Filling exits: the state every exit carries, instruction bytes, and exits that follow a completed instruction. */
#include "engine/soft/soft.h"

static union vreg_value segment_value(const struct segment *s)
{
    return (union vreg_value){
        .segment = {.base = s->base, .limit = s->limit, .selector = s->selector, .attributes = s->attributes}};
}

void soft_exit_state(struct engine_vcpu *vcpu, struct vcpu_exit *exit)
{
    const struct cpu *cpu = vcpu->cpu;
    uint64_t cr8 = vcpu->lapic ? lapic_cr8(vcpu->lapic) : cpu->cr8;
    uint8_t length = exit->state.instruction_length;

    exit->state = (struct exit_state){
        .cs = segment_value(&cpu->segment[SEG_CS]),
        .rip = cpu->rip,
        .rflags = cpu_rflags(cpu),
        .cpl = cpu->cpl,
        .cr8 = (uint8_t)(cr8 & 15),
        .instruction_length = length,
        .cr0_pe = cpu->cr0 & CR0_PE,
        .cr0_am = cpu->cr0 & CR0_AM,
        .efer_lma = cpu->efer & EFER_LMA,
        .debug_active = cpu->dr7 & 0xff,
        .interruption_pending = vcpu->interruption.is_pending,
        .interrupt_shadow = cpu->interrupt_shadow,
    };
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
