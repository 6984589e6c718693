/*
 * Far JMP, CALL and RET: direct, through call gates, task gates and TSSs (SDM 2A CALL, JMP; 2B RET; 3A 5.8).
 */
#include "x86/system/exec_far.h"

#include <string.h>

#include "x86/system/control.h"
#include "x86/system/task.h"
#include "x86/vendor.h"

/* ---- shared checks ---- */

bool far_check_rip(struct cpu *cpu, const struct segment *cs, uint64_t rip)
{
    if (cpu_is_long(cpu) && (cs->attributes & SEG_L))
        return cpu_is_canonical(cpu, rip) || raise_gp(cpu, 0);
    return (uint32_t)rip <= cs->limit || raise_gp(cpu, 0);
}

bool far_check_return(struct cpu *cpu, uint16_t selector, struct segment *cs)
{
    struct descriptor d;
    const unsigned rpl = selector & SELECTOR_RPL;
    const uint32_t error = SELECTOR_ERROR(selector, 0);

    if (selector_is_null(selector))
        return raise_gp(cpu, 0);
    if (!descriptor_read(cpu, selector, VECTOR_GP, 0, &d))
        return false;
    if (!descriptor_is_code(&d) || rpl < cpu->cpl)
        return raise_gp(cpu, error);
    if (descriptor_is_conforming(&d) ? descriptor_dpl(&d) > rpl : descriptor_dpl(&d) != rpl)
        return raise_gp(cpu, error);
    if (cpu_is_long(cpu) && descriptor_is_long(&d) && descriptor_is_big(&d))
        return raise_gp(cpu, error);
    if (!descriptor_is_present(&d))
        return raise_np(cpu, error);
    if (!descriptor_set_accessed(cpu, selector, &d))
        return false;
    descriptor_to_segment(&d, selector, cs);
    return true;
}

bool far_check_outer_stack(struct cpu *cpu, uint16_t selector, unsigned cpl, const struct segment *cs,
                           struct segment *ss)
{
    const bool to_64 = cpu_is_long(cpu) && (cs->attributes & SEG_L);

    if (selector_is_null(selector) && to_64 && cpl != 3 && (selector & SELECTOR_RPL) == cpl) {
        segment_null(selector, cpl, ss);
        return true;
    }
    return segment_check_stack(cpu, selector, cpl, VECTOR_GP, 0, ss);
}

void far_drop_segments(struct cpu *cpu)
{
    static const enum segment_index data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

    for (size_t i = 0; i < array_size(data); i++) {
        struct segment *s = &cpu->segment[data[i]];
        const unsigned conforming_code = SEG_TYPE_CODE | SEG_TYPE_CONFORMING;
        const unsigned dpl = (s->attributes & SEG_DPL_MASK) >> SEG_DPL_SHIFT;
        if (dpl < cpu->cpl && (s->attributes & conforming_code) != conforming_code) {
            /* The base survives: in 64-bit mode FS and GS use it whatever the selector. */
            const uint64_t base = s->base;
            segment_null(0, 0, s);
            s->base = cpu_is_long(cpu) ? base : 0;
        }
    }
}

void far_commit(struct cpu *cpu, const struct segment *cs, unsigned cpl, uint64_t rip)
{
    cpu->segment[SEG_CS] = *cs;
    cpu->cpl = (uint8_t)cpl;
    cpu->next_rip = cpu_is_long(cpu) && (cs->attributes & SEG_L) ? rip : (uint32_t)rip;
}

/* ---- the target of JMP and CALL ---- */

struct target {
    uint16_t selector;
    uint64_t offset;
};

static bool read_target(struct cpu *cpu, const struct insn *insn, struct target *target)
{
    unsigned size = insn->operand_size;
    gva_t linear;

    *target = (struct target){0};
    if (insn->operand[0].kind == OPERAND_FAR_POINTER) {
        target->selector = insn->operand[0].selector;
        target->offset = insn->operand[0].immediate;
        if (size == 2)
            target->offset = (uint16_t)target->offset;
        else
            target->offset = (uint32_t)target->offset;
        return true;
    }
    size = vendor_far_size(cpu, size);
    /* Two accesses, each with an alignment of its own. */
    return operand_linear(cpu, insn, size + 2, ACCESS_READ, &linear) &&
           mem_read(cpu, linear, &target->offset, size, MEM_CURRENT) && mem_read16(cpu, linear + size, &target->selector);
}

/* A code segment as direct target (CPL does not change); `d` was read from its selector. The offset of a call is not looked at
 * here. */
static bool check_direct(struct cpu *cpu, const struct target *target, struct descriptor *d, bool is_call, struct segment *cs)
{
    const uint32_t error = SELECTOR_ERROR(target->selector, 0);
    const unsigned dpl = descriptor_dpl(d);

    if (descriptor_is_conforming(d) ? dpl > cpu->cpl : dpl != cpu->cpl || (target->selector & SELECTOR_RPL) > cpu->cpl)
        return raise_gp(cpu, error);
    if (cpu_is_long(cpu) && descriptor_is_long(d) && descriptor_is_big(d))
        return raise_gp(cpu, error);
    if (!descriptor_is_present(d))
        return raise_np(cpu, error);
    descriptor_to_segment(d, (uint16_t)((target->selector & ~SELECTOR_RPL) | cpu->cpl), cs);
    return (is_call || far_check_rip(cpu, cs, target->offset)) && descriptor_set_accessed(cpu, target->selector, d);
}

/* ---- call gates ---- */

struct gate {
    uint16_t selector;       /* of the code segment */
    uint64_t offset;
    unsigned size;           /* of stack elements: 2, 4, 8 */
    unsigned parameters;
    struct descriptor code;
    struct segment cs;
    unsigned level;          /* privilege after the transfer */
};

/* The gate itself has been read as `d`. */
static bool check_gate(struct cpu *cpu, const struct target *target, const struct descriptor *d, struct gate *gate)
{
    const uint32_t error = SELECTOR_ERROR(target->selector, 0);
    const unsigned dpl = descriptor_dpl(d);

    if (dpl < cpu->cpl || dpl < (target->selector & SELECTOR_RPL))
        return raise_gp(cpu, error);
    if (!descriptor_is_present(d))
        return raise_np(cpu, error);
    *gate = (struct gate){
        .selector = (uint16_t)(d->low >> 16),
        .offset = (d->low & 0xffff) | ((d->low >> 32) & 0xffff0000) | (d->high & 0xffffffff) << 32,
        .size = cpu_is_long(cpu) ? 8 : descriptor_type(d) == SYSTEM_CALL_GATE ? 4 : 2,
        .parameters = cpu_is_long(cpu) ? 0 : (d->low >> 32) & 31,
    };
    if (gate->size == 2)
        gate->offset &= 0xffff;
    return !((d->high >> 40) & 0x1f) || raise_gp(cpu, error);
}

static bool check_gate_code(struct cpu *cpu, struct gate *gate, bool is_call)
{
    const uint32_t error = SELECTOR_ERROR(gate->selector, 0);
    struct descriptor *d = &gate->code;

    if (selector_is_null(gate->selector))
        return raise_gp(cpu, 0);
    if (!descriptor_read(cpu, gate->selector, VECTOR_GP, 0, d))
        return false;
    const unsigned dpl = descriptor_dpl(d);
    if (!descriptor_is_code(d) || dpl > cpu->cpl)
        return raise_gp(cpu, error);
    if (!is_call && !descriptor_is_conforming(d) && dpl != cpu->cpl)
        return raise_gp(cpu, error);
    if (cpu_is_long(cpu) && (!descriptor_is_long(d) || descriptor_is_big(d)))
        return raise_gp(cpu, error);
    if (!descriptor_is_present(d))
        return raise_np(cpu, error);
    gate->level = descriptor_is_conforming(d) ? cpu->cpl : dpl;
    descriptor_to_segment(d, (uint16_t)((gate->selector & ~SELECTOR_RPL) | gate->level), &gate->cs);
    return true;
}

static enum exec_result jump_through_gate(struct cpu *cpu, struct gate *gate)
{
    if (!check_gate_code(cpu, gate, false) || !far_check_rip(cpu, &gate->cs, gate->offset) ||
        !descriptor_set_accessed(cpu, gate->selector, &gate->code))
        return EXEC_LEAVE;
    far_commit(cpu, &gate->cs, gate->level, gate->offset);
    cpu_update_mode(cpu);
    return EXEC_END;
}

/* Old SS:RSP and the caller's parameters go to the inner stack (SDM 3A 5.8.5). */
static bool add_caller_stack(struct cpu *cpu, const struct gate *gate, struct frame *frame)
{
    uint64_t value;

    frame_add(frame, cpu->segment[SEG_SS].selector);
    frame_add(frame, cpu->gpr[REG_RSP].q);
    for (unsigned i = gate->parameters; i > 0; i--) {
        if (!stack_read(cpu, (int64_t)((i - 1) * gate->size), gate->size, &value))
            return false;
        frame_add(frame, value);
    }
    return true;
}

static enum exec_result call_through_gate(struct cpu *cpu, struct gate *gate)
{
    struct frame frame = {0};
    struct stack stack;

    if (!check_gate_code(cpu, gate, true))
        return EXEC_LEAVE;
    if (gate->level == cpu->cpl)
        stack = stack_current(cpu, 0);
    else if (!stack_from_tss(cpu, gate->level, 0, &stack) || !add_caller_stack(cpu, gate, &frame))
        return EXEC_LEAVE;
    if (gate->size == 8) {
        stack.width = 8;
        if (gate->level == cpu->cpl)
            stack.sp = cpu->gpr[REG_RSP].q;
    }
    frame_add(&frame, cpu->segment[SEG_CS].selector);
    frame_add(&frame, cpu->next_rip);
    if (!far_check_rip(cpu, &gate->cs, gate->offset) || !descriptor_set_accessed(cpu, gate->selector, &gate->code) ||
        !stack_push_frame(cpu, &stack, &frame, gate->size))
        return EXEC_LEAVE;
    stack_commit(cpu, &stack);
    far_commit(cpu, &gate->cs, gate->level, gate->offset);
    cpu_update_mode(cpu);
    return EXEC_END;
}

/* ---- tasks ---- */

static enum exec_result switch_to(struct cpu *cpu, uint16_t selector, bool is_call)
{
    const struct task_request request = {
        .selector = selector, .reason = is_call ? TASK_CALL : TASK_JMP, .return_rip = cpu->next_rip};
    return task_switch(cpu, &request) ? EXEC_END : EXEC_LEAVE;
}

static bool check_task_descriptor(struct cpu *cpu, const struct target *target, const struct descriptor *d)
{
    const uint32_t error = SELECTOR_ERROR(target->selector, 0);

    if (descriptor_dpl(d) < cpu->cpl || descriptor_dpl(d) < (target->selector & SELECTOR_RPL))
        return raise_gp(cpu, error);
    return descriptor_is_present(d) || raise_np(cpu, error);
}

/* ---- JMP and CALL ---- */

static enum exec_result transfer_system(struct cpu *cpu, const struct target *target, bool is_call)
{
    struct descriptor d;
    struct gate gate;

    if (!descriptor_read_system(cpu, target->selector, VECTOR_GP, 0, &d))
        return EXEC_LEAVE;
    const unsigned type = descriptor_type(&d);
    if (type == SYSTEM_CALL_GATE || (type == SYSTEM_CALL_GATE16 && !cpu_is_long(cpu))) {
        if (!check_gate(cpu, target, &d, &gate))
            return EXEC_LEAVE;
        return is_call ? call_through_gate(cpu, &gate) : jump_through_gate(cpu, &gate);
    }
    if (!cpu_is_long(cpu) && (type == SYSTEM_TSS_AVAILABLE || type == SYSTEM_TSS16_AVAILABLE))
        return check_task_descriptor(cpu, target, &d) ? switch_to(cpu, target->selector, is_call) : EXEC_LEAVE;
    if (!cpu_is_long(cpu) && type == SYSTEM_TASK_GATE)
        return check_task_descriptor(cpu, target, &d) ? switch_to(cpu, (uint16_t)(d.low >> 16), is_call) : EXEC_LEAVE;
    return exec_done(raise_gp(cpu, SELECTOR_ERROR(target->selector, 0)));
}

/* CS:RIP of the caller on the current stack. */
static bool push_return(struct cpu *cpu, const struct insn *insn, const struct segment *cs, struct stack *stack)
{
    struct frame frame = {0};

    *stack = stack_current(cpu, 0);
    /* From compatibility mode into 64-bit code: it is pushed as 64-bit code pushes, without a segment. */
    if (cpu_is_long(cpu) && (cs->attributes & SEG_L)) {
        stack->width = 8;
        stack->sp = cpu->gpr[REG_RSP].q;
    }
    frame_add(&frame, cpu->segment[SEG_CS].selector);
    frame_add(&frame, cpu->next_rip);
    return stack_push_frame(cpu, stack, &frame, insn->operand_size);
}

static enum exec_result transfer_real(struct cpu *cpu, const struct insn *insn, const struct target *target, bool is_call)
{
    struct segment cs;
    struct stack stack;

    segment_real(cpu, &cpu->segment[SEG_CS], target->selector, &cs);
    if (!far_check_rip(cpu, &cs, target->offset))
        return EXEC_LEAVE;
    if (is_call) {
        if (!push_return(cpu, insn, &cs, &stack))
            return EXEC_LEAVE;
        stack_commit(cpu, &stack);
    }
    far_commit(cpu, &cs, cpu->cpl, target->offset);
    cpu_update_mode(cpu);
    return EXEC_END;
}

static enum exec_result transfer(struct cpu *cpu, const struct insn *insn, bool is_call)
{
    struct target target;
    struct descriptor d;
    struct segment cs;
    struct stack stack;

    if (!read_target(cpu, insn, &target))
        return EXEC_LEAVE;
    if (!cpu_is_protected(cpu))
        return transfer_real(cpu, insn, &target, is_call);
    if (selector_is_null(target.selector))
        return exec_done(raise_gp(cpu, 0));
    if (!descriptor_read(cpu, target.selector, VECTOR_GP, 0, &d))
        return EXEC_LEAVE;
    if (descriptor_is_system(&d))
        return transfer_system(cpu, &target, is_call);
    if (!descriptor_is_code(&d))
        return exec_done(raise_gp(cpu, SELECTOR_ERROR(target.selector, 0)));
    if (!check_direct(cpu, &target, &d, is_call, &cs))
        return EXEC_LEAVE;
    if (is_call) {
        /* Processors find that the offset is beyond the limit when the return address is pushed; in SDM 2A CALL it is the other
         * way round. */
        if (!push_return(cpu, insn, &cs, &stack) || !far_check_rip(cpu, &cs, target.offset))
            return EXEC_LEAVE;
        stack_commit(cpu, &stack);
    }
    far_commit(cpu, &cs, cpu->cpl, target.offset);
    cpu_update_mode(cpu);
    return EXEC_END;
}

enum exec_result exec_jmp_far(struct cpu *cpu, const struct insn *insn)
{
    return transfer(cpu, insn, false);
}

enum exec_result exec_call_far(struct cpu *cpu, const struct insn *insn)
{
    return transfer(cpu, insn, true);
}

/* ---- RET ---- */

/* Bytes that RET imm16 releases on top of the return address. */
static unsigned released(const struct insn *insn)
{
    return insn->operand_count && insn->operand[0].kind == OPERAND_IMMEDIATE ? (uint16_t)insn->operand[0].immediate : 0;
}

static enum exec_result return_real(struct cpu *cpu, const struct insn *insn, uint16_t selector, uint64_t rip)
{
    struct segment cs;

    segment_real(cpu, &cpu->segment[SEG_CS], selector, &cs);
    if (!far_check_rip(cpu, &cs, rip))
        return EXEC_LEAVE;
    stack_adjust(cpu, (int64_t)(2u * insn->operand_size + released(insn)));
    far_commit(cpu, &cs, cpu->cpl, rip);
    cpu_update_mode(cpu);
    return EXEC_END;
}

static enum exec_result return_outer(struct cpu *cpu, const struct insn *insn, const struct segment *cs, uint64_t rip)
{
    const unsigned size = insn->operand_size, release = released(insn), level = cs->selector & SELECTOR_RPL;
    const int64_t at = (int64_t)(2 * size + release);
    uint64_t rsp, selector;
    struct segment ss;

    if (!stack_read(cpu, at, size, &rsp) || !stack_read(cpu, at + size, size, &selector) ||
        !far_check_outer_stack(cpu, (uint16_t)selector, level, cs, &ss) || !far_check_rip(cpu, cs, rip))
        return EXEC_LEAVE;
    far_commit(cpu, cs, level, rip);
    const bool to_64 = cpu_is_long(cpu) && (cs->attributes & SEG_L);
    const struct stack stack = {.ss = ss, .sp = rsp + release, .width = to_64 ? 8 : ss.attributes & SEG_DB ? 4 : 2};
    stack_commit(cpu, &stack);
    far_drop_segments(cpu);
    cpu_update_mode(cpu);
    return EXEC_END;
}

enum exec_result exec_ret_far(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand_size;
    uint64_t rip, selector;
    struct segment cs;

    if (!stack_read(cpu, 0, size, &rip) || !stack_read(cpu, size, size, &selector))
        return EXEC_LEAVE;
    if (!cpu_is_protected(cpu))
        return return_real(cpu, insn, (uint16_t)selector, rip);
    if (!far_check_return(cpu, (uint16_t)selector, &cs))
        return EXEC_LEAVE;
    if ((selector & SELECTOR_RPL) > cpu->cpl)
        return return_outer(cpu, insn, &cs, rip);
    if (!far_check_rip(cpu, &cs, rip))
        return EXEC_LEAVE;
    stack_adjust(cpu, (int64_t)(2 * size + released(insn)));
    far_commit(cpu, &cs, cpu->cpl, rip);
    cpu_update_mode(cpu);
    return EXEC_END;
}
