/* Answering memory accesses; the idea is in completion.h. */
#include <string.h>

#include "engine/soft/soft.h"
#include "util/last_error.h"
#include "x86/code/insn.h"
#include "x86/system/debug.h"

/* ---- answers for the port ---- */

static bool fits_stamp(const struct completion *c, const struct cpu *cpu)
{
    return c->rip == cpu->rip && c->rcx == cpu->gpr[REG_RCX].q && c->rsi == cpu->gpr[REG_RSI].q &&
           c->rdi == cpu->gpr[REG_RDI].q;
}

static void stamp(struct completion *c, const struct cpu *cpu)
{
    c->rip = cpu->rip;
    c->rcx = cpu->gpr[REG_RCX].q;
    c->rsi = cpu->gpr[REG_RSI].q;
    c->rdi = cpu->gpr[REG_RDI].q;
}

/* Nearly always a power of two, which is one move. */
static always_inline void copy(void *to, const void *from, unsigned size)
{
    switch (size) {
    case 1: memcpy(to, from, 1); break;
    case 2: memcpy(to, from, 2); break;
    case 4: memcpy(to, from, 4); break;
    case 8: memcpy(to, from, 8); break;
    default: memcpy(to, from, size); break;
    }
}

/* The largest of 8, 4, 2, 1 bytes that is not more. */
static uint8_t piece_size(unsigned left)
{
    return left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

static bool is_answer_for(const struct completion_answer *a, const struct port_access *access, unsigned at)
{
    return a->gpa == access->gpa + at && a->type == access->type && at + a->size <= access->size &&
           (a->type == ACCESS_READ || memcmp(&a->data, (const uint8_t *)access->data + at, a->size) == 0);
}

/* How many of the access's bytes have been answered. An answer that does not fit and those behind it are void: what they
 * were given for is not what the instruction does now. */
static unsigned take_answers(struct completion *c, const struct port_access *access)
{
    unsigned at = 0;

    while (at < access->size && c->next < c->count) {
        const struct completion_answer *a = &c->answers[c->next];

        if (!is_answer_for(a, access, at)) {
            c->count = c->next;
            break;
        }
        if (access->type == ACCESS_READ)
            copy((uint8_t *)access->data + at, &a->data, a->size);
        at += a->size;
        c->next++;
    }
    return at;
}

static bool has_data(const struct cpu *cpu, const struct port_access *access)
{
    return access->gva_valid && access->type != ACCESS_EXECUTE && !cpu->memory_event;
}

/* MOV, MOVZX, MOVSX, MOVSXD between a general register (or from an immediate value) and memory: nothing more to them than the
 * transfer, which is made in one piece. */
static bool is_plain_move(const struct insn *insn, const struct port_access *access)
{
    const bool is_load = access->type == ACCESS_READ;
    const struct operand *memory = &insn->operand[is_load], *other = &insn->operand[!is_load];

    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
        return memory->kind == OPERAND_MEMORY && memory->size == access->size && other->reg_class == CLASS_GPR &&
               (!is_load || other->kind == OPERAND_REGISTER);
    default:
        return false;
    }
}

static struct completion_move plain_move(const struct cpu *cpu, const struct port_access *access)
{
    const struct insn *insn = cpu->insn;

    return (struct completion_move){
        .is_plain = true, .is_load = access->type == ACCESS_READ,
        .offset = insn->operand[0].offset, .size = insn->operand[0].size, .next_rip = cpu->next_rip,
        .is_signed = insn->mnemonic == ZYDIS_MNEMONIC_MOVSX || insn->mnemonic == ZYDIS_MNEMONIC_MOVSXD};
}

static void finish_move(struct cpu *cpu, const struct completion_move *m, uint64_t value, unsigned size)
{
    uint8_t *at = (uint8_t *)cpu + m->offset;
    unsigned unused = 64 - 8 * size;

    value = m->is_signed ? (uint64_t)((int64_t)(value << unused) >> unused) : value << unused >> unused;
    if (m->is_load)
        switch (m->size) {
        case 1: *at = (uint8_t)value; break;
        case 2: *(uint16_t *)(void *)at = (uint16_t)value; break;
        case 4: *(uint64_t *)(void *)at = (uint32_t)value; break;
        default: *(uint64_t *)(void *)at = value; break;
        }
    cpu->rip = m->next_rip;
    cpu->rflags &= ~RFLAGS_RF;
    if (unlikely(cpu->interrupt_shadow || cpu->debug_shadow)) {
        cpu->interrupt_shadow = cpu->debug_shadow = false;
        cpu_interrupts_enabled(cpu);
    }
}

static void set_due(struct completion *c, const struct cpu *cpu, const struct port_access *access, unsigned at)
{
    c->due = has_data(cpu, access) ? DUE_ACCESS : DUE_WITHOUT_DATA;
    c->type = (uint8_t)access->type;
    c->size = access->size;
    c->at = (uint8_t)at;
    c->piece = piece_size(access->size - at);
    c->gpa = access->gpa;
    c->gva = access->gva;
    if (access->type == ACCESS_WRITE)
        copy(c->data, access->data, access->size);
    c->move.is_plain = false;
    if (!c->count && c->due == DUE_ACCESS && c->piece == c->size && is_plain_move(cpu->insn, access))
        c->move = plain_move(cpu, access);
}

enum port_result completion_access(struct engine_vcpu *vcpu, const struct port_access *access)
{
    struct completion *c = &vcpu->completion;
    struct cpu *cpu = vcpu->cpu;
    unsigned at = 0;

    if (unlikely(c->count)) {
        if (!fits_stamp(c, cpu) || !has_data(cpu, access))
            c->count = c->next = 0;
        at = take_answers(c, access);
        if (at == access->size) {
            c->is_used = true;
            atomic_fetch_or(&cpu->request, REQUEST_SERVICE); /* to come to completion_boundary */
            return PORT_DONE;
        }
    }
    c->is_used = false;
    if (!c->is_executing) {
        c->exit_rip = cpu->rip;
        c->exit_gpa = access->gpa;
    }
    set_due(c, cpu, access, at);
    return PORT_EXIT;
}

/* Answers that were used in the last run and have not brought it to a boundary: the instruction may have completed, and one
 * behind it exited. */
void completion_begin_run(struct engine_vcpu *vcpu)
{
    struct completion *c = &vcpu->completion;

    c->due = DUE_NONE;
    if (likely(!c->count))
        return;
    if (c->is_used && !fits_stamp(c, vcpu->cpu))
        completion_drop(vcpu);
    c->is_used = false;
    c->next = 0;
}

void completion_boundary(struct engine_vcpu *vcpu)
{
    if (vcpu->completion.is_used)
        completion_drop(vcpu);
}

void completion_drop(struct engine_vcpu *vcpu)
{
    struct completion *c = &vcpu->completion;

    c->due = DUE_NONE;
    c->is_used = false;
    c->count = c->next = 0;
}

/* What the processor receives from outside is not what an instruction computes with. */
static bool is_external(uint32_t name)
{
    return name >= (uint32_t)VREG_PENDING_INTERRUPTION || name == VREG_CR8 ||
           (name >= VREG_APIC_FIRST && name <= VREG_APIC_LAST) || name == VREG_TSC || name == VREG_TSC_DEADLINE ||
           name == VREG_TSC_ADJUST || name == VREG_TSC_VIRTUAL_OFFSET;
}

void completion_registers_set(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count)
{
    const struct completion *c = &vcpu->completion;

    if (c->due == DUE_NONE && !c->count)
        return;
    for (uint32_t i = 0; i < count; i++)
        if (!is_external(names[i])) {
            completion_drop(vcpu);
            return;
        }
}

/* ---- the client's side ---- */

static void describe(const struct completion *c, struct memory_access *access)
{
    *access = (struct memory_access){.gpa = c->gpa + c->at, .gva = c->gva + c->at, .type = c->type, .size = c->piece,
                                     .exit_rip = c->exit_rip, .exit_gpa = c->exit_gpa};
    if (c->type == ACCESS_WRITE)
        copy(&access->data, c->data + c->at, c->piece);
}

static enum status require_due(const struct engine_vcpu *vcpu)
{
    switch (vcpu->completion.due) {
    case DUE_ACCESS:
        return STATUS_OK;
    case DUE_NONE:
        return fail(STATUS_INVALID_ARGUMENT,
                    "processor %u does not wait for a memory access: it has run, been given registers, or "
                    "been completed since",
                    vcpu->index);
    default:
        return fail(STATUS_NOT_SUPPORTED, "the access at 0x%llx is a fetch, a page walk or an event's delivery: it has no data",
                    (unsigned long long)vcpu->completion.exit_gpa);
    }
}

enum status completion_get(struct engine_vcpu *vcpu, struct memory_access *access)
{
    enum status status = require_due(vcpu);

    if (status == STATUS_OK)
        describe(&vcpu->completion, access);
    return status;
}

static bool is_due(const struct completion *c, const struct memory_access *access)
{
    return access->gpa == c->gpa + c->at && access->type == c->type && access->size == c->piece;
}

/* Until the instruction is done, or the client changes a register, the registers are those that the access was made with. */
static enum status remember(struct completion *c, const struct cpu *cpu, const struct memory_access *access)
{
    struct completion_answer *a = &c->answers[c->count];

    if (!is_due(c, access))
        return fail(STATUS_INVALID_ARGUMENT, "the access that is due is a %s of %u bytes at 0x%llx",
                    c->type == ACCESS_READ ? "read" : "write", c->piece, (unsigned long long)(c->gpa + c->at));
    if (c->count == COMPLETION_ANSWERS)
        return fail(STATUS_NOT_SUPPORTED, "an instruction with more than %u accesses", COMPLETION_ANSWERS);
    if (!c->count)
        stamp(c, cpu);
    *a = (struct completion_answer){.gpa = access->gpa, .size = access->size, .type = access->type};
    copy(&a->data, access->type == ACCESS_READ ? (const uint8_t *)&access->data : c->data + c->at, access->size);
    c->count++;
    return STATUS_OK;
}

/*
 * Execute the instruction with what it was given so far. An access that is still missing becomes the one that is due.
 * Anything else that keeps it from completing (a fault, another exit) is left to the next run, which executes it again
 * and then takes notice; and so is the trap of RFLAGS.TF.
 */
static void execute_again(struct engine_vcpu *vcpu)
{
    struct completion *c = &vcpu->completion;
    struct vcpu_exit exit, *of_run = vcpu->exit;
    struct cpu *cpu = vcpu->cpu;
    bool shadow = cpu->interrupt_shadow, debug_shadow = cpu->debug_shadow;
    enum cpu_leave leave;

    vcpu->exit = &exit;
    c->is_executing = true;
    do {
        soft_enter(vcpu);
        soft_memory_work(vcpu);
        c->next = 0;
        c->due = DUE_NONE;
        cpu->interrupt_shadow = cpu->debug_shadow = false;
        leave = cpu_step(cpu);
        soft_leave(vcpu);
    } while (leave == LEAVE_REQUEST); /* another processor has the bus: let it finish */
    vcpu->exit = of_run;
    c->is_executing = c->is_used = false;
    if (c->due == DUE_WITHOUT_DATA)
        c->due = DUE_NONE; /* the next run's exit */
    c->next = 0;
    if (leave == LEAVE_NONE) {
        completion_drop(vcpu);
    } else {
        cpu->interrupt_shadow = shadow;
        cpu->debug_shadow = debug_shadow;
    }
}

/* A debug exception may follow the instruction: the next run executes it, with the answers. */
static bool is_debugged(const struct cpu *cpu)
{
    return (cpu->rflags & RFLAGS_TF) || cpu->debug_watch || cpu->debug_pending;
}

/* The last of an access's pieces makes the instruction go on. */
static noinline enum status complete_piece(struct engine_vcpu *vcpu, struct memory_access *access, bool *more)
{
    struct completion *c = &vcpu->completion;
    enum status status = require_due(vcpu);

    if (status == STATUS_OK)
        status = remember(c, vcpu->cpu, access);
    if (status != STATUS_OK)
        return status;
    c->at = (uint8_t)(c->at + c->piece);
    c->piece = c->at < c->size ? piece_size((unsigned)(c->size - c->at)) : 0;
    if (!c->piece) {
        c->due = DUE_NONE;
        if (!is_debugged(vcpu->cpu))
            execute_again(vcpu);
    }
    *more = c->due == DUE_ACCESS;
    if (*more)
        describe(c, access);
    return STATUS_OK;
}

enum status completion_complete(struct engine_vcpu *vcpu, struct memory_access *access, bool *more)
{
    const struct completion *c = &vcpu->completion;

    *more = false;
    if (unlikely(!c->move.is_plain || c->due != DUE_ACCESS || !is_due(c, access) || is_debugged(vcpu->cpu)))
        return complete_piece(vcpu, access, more);
    finish_move(vcpu->cpu, &c->move, access->data, access->size);
    completion_drop(vcpu);
    return STATUS_OK;
}
