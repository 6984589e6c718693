/*
 * The interpreter's chain and the loop around it. See interpret.h for the chain, code.h for blocks.
 */
#include "x86/code/interpret.h"

#include "x86/code/code_cache.h"
#include "x86/code/decode.h"
#include "x86/exec.h"
#include "x86/memory/tlb.h"
#include "x86/system/debug.h"
#include "x86/system/event.h"

static uint64_t wrap_rip(const struct cpu *cpu, uint64_t rip)
{
    return cpu->mode & MODE_64 ? rip : cpu->mode & MODE_CS32 ? (uint32_t)rip : (uint16_t)rip;
}

/* ---- leaving a block ---- */

const struct op *interpret_lookup(struct cpu *cpu, const struct op *op)
{
    (void)op;
    if (unlikely(atomic_load_explicit(&cpu->request, memory_order_relaxed))) {
        cpu->leave = LEAVE_NONE;
        return NULL;
    }
    struct block *b = cpu->mode & MODE_64 ? code_jump(cpu, cpu->rip) : NULL;
    if (likely(b)) {
        cpu->block_rip = cpu->rip;
        INTERPRET_GO(cpu, b->ops);
    }
    b = code_find(cpu);
    if (unlikely(!b))
        return NULL;
    INTERPRET_GO(cpu, b->ops);
}

const struct op *interpret_resync(struct cpu *cpu, const struct op *op)
{
    cpu->rip = wrap_rip(cpu, cpu->block_rip + op->offset);
    return interpret_lookup(cpu, op);
}

const struct op *interpret_block_end(struct cpu *cpu, const struct op *op)
{
    cpu->rip = wrap_rip(cpu, cpu->block_rip + op->offset);
    return interpret_lookup(cpu, op);
}

static struct block *owner(const struct op *op)
{
    return ((struct block *const *)(op - op->index_in_block))[-1];
}

/* Links hold within a page only: the translation of the page is the one that the running block was found by. */
static bool can_link(const struct block *from, const struct block *to)
{
    return !from->crosses && !to->crosses && !to->dead && (from->gpa & PAGE_MASK) == (to->gpa & PAGE_MASK) &&
           from->mode == to->mode;
}

/* The target is looked up, at cpu->rip; linked when it may be. */
static noinline const struct op *find_and_link(struct cpu *cpu, const struct op *op)
{
    const gva_t from = code_linear(cpu, cpu->block_rip), target = code_linear(cpu, cpu->rip);
    const uint64_t drops = code_drops(cpu);
    struct block *b = code_find(cpu);

    if (unlikely(!b))
        return NULL;
    /* The look-up may have started over with an empty arena: then this operation is no more. */
    if (!((from ^ target) & PAGE_MASK) && drops == code_drops(cpu) && can_link(owner(op), b))
        ((struct op *)(uintptr_t)op)->link = b;
    INTERPRET_GO(cpu, b->ops);
}

const struct op *interpret_branch(struct cpu *cpu, const struct op *op)
{
    const uint64_t target = wrap_rip(cpu, cpu->block_rip + (uint64_t)op->target);

    if (!(cpu->mode & MODE_64) && target > cpu->segment[SEG_CS].limit)
        return interpret_cold(cpu, op); /* faults at the branch */
    cpu->rip = target;
    if (unlikely(atomic_load_explicit(&cpu->request, memory_order_relaxed))) {
        cpu->leave = LEAVE_NONE;
        return NULL;
    }
    /* After an exit a link serves as before once its block was found to hold. */
    if (op->link && code_verify(cpu, op->link)) {
        cpu->block_rip = target;
        INTERPRET_GO(cpu, op->link->ops);
    }
    return find_and_link(cpu, op);
}

/* ---- exec functions ---- */

static const struct op *execute(struct cpu *cpu, const struct op *op, const struct insn *insn)
{
    cpu->rip = wrap_rip(cpu, cpu->block_rip + op->offset);
    cpu->next_rip = wrap_rip(cpu, cpu->rip + insn->length);
    cpu->insn = insn;
    switch (insn->exec(cpu, insn)) {
    case EXEC_NEXT:
        /* What the instruction itself asked for, an exit that follows it or a debug trap, comes before the next. */
        if (unlikely(atomic_load_explicit(&cpu->request, memory_order_relaxed) & (REQUEST_SERVICE | REQUEST_ATTENTION))) {
            cpu->rip = cpu->next_rip;
            cpu->leave = LEAVE_NONE;
            return NULL;
        }
        return interpret_go(cpu, op + 1);
    case EXEC_END:
        cpu->rip = cpu->next_rip;
        return interpret_lookup(cpu, op);
    default:
        debug_abandon(cpu);
        return NULL;
    }
}

const struct op *interpret_generic(struct cpu *cpu, const struct op *op)
{
    return execute(cpu, op, op->insn);
}

const struct op *interpret_cold(struct cpu *cpu, const struct op *op)
{
    const struct insn *insn = code_cold_insn(cpu, op);

    if (unlikely(!insn)) {
        /* The arena is full: start over with an empty one. */
        cpu->rip = wrap_rip(cpu, cpu->block_rip + op->offset);
        code_drop_all(cpu);
        return interpret_lookup(cpu, op);
    }
    return execute(cpu, op, insn);
}

/* ---- TLB misses ---- */

static bool fill(struct cpu *cpu, const struct op *op, gva_t linear, enum access_type type)
{
    struct tlb_target target;
    unsigned shift = cpu->cr4 & CR4_LA57 ? 7 : 16;
    gva_t last = linear + 63; /* no access is longer; it may end beyond the canonical addresses */

    /* What raises something other than a page fault, or needs a check of its own, is the exec function's. */
    if ((cpu->read_key & 3) == TLB_MODE_SLOW ||
        ((cpu->mode & MODE_64) && ((gva_t)((int64_t)(linear << shift) >> shift) != linear ||
                                   (gva_t)((int64_t)(last << shift) >> shift) != last)))
        return false;
    cpu->rip = wrap_rip(cpu, cpu->block_rip + op->offset);
    return tlb_translate(cpu, linear, type, (unsigned)(cpu->read_key & 3), &target);
}

static noinline const struct op *miss(struct cpu *cpu, const struct op *op, gva_t linear, enum access_type type)
{
    gpa_t gpa;

    cpu->leave = LEAVE_NONE;
    if (type == ACCESS_WRITE && tlb_code_page(cpu, linear, 1, (unsigned)(cpu->read_key & 3), &gpa))
        return interpret_cold(cpu, op);
    /* A device: the exec function's access finds out the same, and more. */
    if ((cpu->read_key & 3) != TLB_MODE_SLOW && tlb_is_known_device(cpu, linear, type))
        return interpret_cold(cpu, op);
    if (!fill(cpu, op, linear, type))
        return cpu->leave == LEAVE_NONE ? interpret_cold(cpu, op) : NULL;
    if (type == ACCESS_WRITE ? tlb_write(cpu, linear, 1) : tlb_read(cpu, linear, 1)) {
        /* It is in now; an access that crosses the page would miss for ever. */
        if (op->size && (linear & ~PAGE_MASK) + op->size <= PAGE_SIZE)
            return interpret_go(cpu, op);
    }
    return interpret_cold(cpu, op);
}

const struct op *interpret_miss_read(struct cpu *cpu, const struct op *op, gva_t linear)
{
    return miss(cpu, op, linear, ACCESS_READ);
}

const struct op *interpret_miss_write(struct cpu *cpu, const struct op *op, gva_t linear)
{
    return miss(cpu, op, linear, ACCESS_WRITE);
}

/* ---- the loop ---- */

/* One instruction at CS:RIP; or none, when the arena was full for its cold form and is empty now: *again. */
static enum cpu_leave try_single(struct cpu *cpu, bool *again)
{
    struct block *b;
    uint32_t mode = cpu->mode;
    uint64_t rip = cpu->rip, drops;

    cpu->leave = LEAVE_NONE;
    cpu->mode = mode | MODE_SINGLE;
    code_update_jump_key(cpu);
    b = code_find(cpu);
    cpu->mode = mode;
    code_update_jump_key(cpu);
    if (!b)
        return cpu->leave;
    drops = code_drops(cpu);
    /* The chain stops at the first look-up because a request is set, and stays set whatever the instruction does to TF. */
    cpu->stepping = true;
    atomic_fetch_or_explicit(&cpu->request, REQUEST_ATTENTION, memory_order_relaxed);
    interpret(cpu, b->ops);
    cpu->stepping = false;
    *again = cpu->leave == LEAVE_NONE && cpu->rip == rip && code_drops(cpu) != drops;
    return cpu->leave;
}

static enum cpu_leave run_single(struct cpu *cpu)
{
    enum cpu_leave leave;
    bool again;

    do {
        again = false;
        leave = try_single(cpu, &again);
    } while (unlikely(again));
    return leave;
}

/*
 * Single-stepping on branches (SDM 3B 17.4.3): will the instruction at CS:RIP have been a taken branch? One
 * that always branches counts even when it goes to the next instruction; a conditional one counts when RIP is not `next` then.
 */
enum branch_kind { NO_BRANCH, CONDITIONAL, UNCONDITIONAL, CUT_OFF /* by the end of the page: RIP alone tells */ };

static enum branch_kind branch_kind(struct cpu *cpu, uint64_t *next)
{
    struct decoded d;
    uint8_t bytes[16];

    if (decode(cpu->mode, bytes, cpu_peek_code(cpu, bytes), &d) != DECODE_OK)
        return CUT_OFF;
    *next = wrap_rip(cpu, cpu->rip + d.insn.length);
    switch (d.zydis.meta.category) {
    case ZYDIS_CATEGORY_COND_BR: return CONDITIONAL;
    case ZYDIS_CATEGORY_UNCOND_BR: case ZYDIS_CATEGORY_CALL: case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_SYSCALL: case ZYDIS_CATEGORY_SYSRET: case ZYDIS_CATEGORY_INTERRUPT: return UNCONDITIONAL;
    default: return NO_BRANCH;
    }
}

/* Run one instruction; *steps: the single-step trap that TF asked for before it is due behind it. */
static enum cpu_leave run_traced(struct cpu *cpu, bool *steps)
{
    const uint64_t rip = cpu->rip;
    enum branch_kind kind = UNCONDITIONAL;
    enum cpu_leave leave;
    uint64_t next = 0;

    if (unlikely(*steps && (cpu->debug_control & DEBUG_CONTROL_BTF)))
        kind = branch_kind(cpu, &next);
    leave = run_single(cpu);
    if (kind == CONDITIONAL)
        *steps = *steps && cpu->rip != next;
    else if (kind == CUT_OFF)
        *steps = *steps && cpu->rip - rip - 1 >= 15;
    else
        *steps = *steps && kind == UNCONDITIONAL;
    return leave;
}

enum cpu_leave cpu_step(struct cpu *cpu)
{
    const uint64_t resume = cpu->rflags & RFLAGS_RF;
    bool trace = cpu->rflags & RFLAGS_TF;
    enum cpu_leave leave;

    cpu->trap_cancelled = false;
    cpu->rflags &= ~RFLAGS_RF;
    leave = run_traced(cpu, &trace);
    if (leave != LEAVE_NONE)
        cpu->rflags |= resume;
    else if (trace && !cpu->trap_cancelled && !cpu->debug_shadow)
        cpu->debug_pending |= DR6_BS;
    cpu_interrupts_enabled(cpu);
    return leave;
}

/* Does the processor have to go on instruction by instruction? */
static void update_attention(struct cpu *cpu)
{
    if (cpu->interrupt_shadow || cpu->debug_shadow || cpu->stepping || (cpu->rflags & RFLAGS_TF) || cpu->debug_pending ||
        (cpu->debug_watch & DEBUG_CODE))
        atomic_fetch_or_explicit(&cpu->request, REQUEST_ATTENTION, memory_order_relaxed);
    else if (atomic_load_explicit(&cpu->request, memory_order_relaxed) & REQUEST_ATTENTION)
        atomic_fetch_and_explicit(&cpu->request, ~(uint32_t)REQUEST_ATTENTION, memory_order_relaxed);
}

void cpu_interrupts_enabled(struct cpu *cpu)
{
    update_attention(cpu);
    if (!cpu->interrupt_shadow &&
        ((cpu->interrupt_waiting && (cpu->rflags & RFLAGS_IF)) || (cpu->nmi_waiting && !cpu->nmi_masked)))
        atomic_fetch_or_explicit(&cpu->request, REQUEST_INTERRUPT, memory_order_relaxed);
}

/*
 * Interrupt shadow, single step and instruction breakpoints (SDM 3B 17.3.1): one instruction, then the trap that TF asked for
 * before it. The shadow of MOV SS holds back debug exceptions as well as interrupts, that of STI does not.
 */
static enum cpu_leave run_attentive(struct cpu *cpu)
{
    const bool shadow = cpu->interrupt_shadow, delayed = cpu->debug_shadow;
    bool trace = cpu->rflags & RFLAGS_TF;
    const uint64_t resume = cpu->rflags & RFLAGS_RF;
    enum cpu_leave leave;

    if ((cpu->debug_watch & DEBUG_CODE) && !resume && !delayed && debug_code_fault(cpu))
        return LEAVE_FAULT;
    cpu->interrupt_shadow = cpu->debug_shadow = cpu->trap_cancelled = false;
    cpu->rflags &= ~RFLAGS_RF;
    cpu->debug_held = cpu->debug_pending;
    leave = run_traced(cpu, &trace);
    cpu->debug_held = 0;
    if (leave == LEAVE_EXIT || leave == LEAVE_REQUEST) {
        cpu->interrupt_shadow = shadow; /* the instruction in the shadow has not happened */
        cpu->debug_shadow = delayed;
        cpu->rflags |= resume;
    }
    if ((leave == LEAVE_NONE || leave == LEAVE_HALT) && trace && !cpu->debug_shadow && !cpu->trap_cancelled)
        cpu->debug_pending |= DR6_BS;
    return leave;
}

static enum cpu_leave deliver_fault(struct cpu *cpu, struct event *pending)
{
    if (cpu->port->exception) {
        switch (cpu->port->exception(cpu, &cpu->fault)) {
        case PORT_EXIT:
            return LEAVE_EXIT;
        case PORT_DONE:
            return LEAVE_NONE;
        default:
            break;
        }
    }
    *pending = event_from_fault(cpu);
    return event_dispatch(cpu, pending);
}

/*
 * Something is asked for at this boundary. Debug traps come before interrupts (SDM 3A table 6-2), and before leaving. But who
 * cancels or holds is let in first: a #DB whose delivery stores to a watched place brings the next one, for ever.
 */
static enum cpu_leave run_requested(struct cpu *cpu, uint32_t request)
{
    if (debug_is_due(cpu) && !(request & (REQUEST_CANCEL | REQUEST_HOLD))) {
        debug_take(cpu);
        return LEAVE_FAULT;
    }
    return request & ~(uint32_t)REQUEST_ATTENTION ? LEAVE_REQUEST : run_attentive(cpu);
}

static enum cpu_leave run(struct cpu *cpu, struct event *pending)
{
    enum cpu_leave leave;

    update_attention(cpu);
    do {
        uint32_t request = atomic_load_explicit(&cpu->request, memory_order_relaxed);

        cpu->leave = LEAVE_NONE;
        if (unlikely(request)) {
            leave = run_requested(cpu, request);
        } else {
            struct block *b = code_find(cpu);
            if (b)
                interpret(cpu, b->ops);
            leave = cpu->leave;
        }
        if (leave == LEAVE_FAULT)
            leave = deliver_fault(cpu, pending);
        if (leave == LEAVE_HALT && unlikely(cpu->debug_pending))
            leave = LEAVE_NONE; /* the trap wakes it up */
        if (unlikely(request))
            cpu_interrupts_enabled(cpu);
    } while (leave == LEAVE_NONE);
    return leave;
}

static enum cpu_leave run_one(struct cpu *cpu, struct event *pending)
{
    enum cpu_leave leave = run_attentive(cpu);

    if (leave == LEAVE_NONE && debug_is_due(cpu)) {
        debug_take(cpu);
        leave = LEAVE_FAULT;
    }
    if (leave == LEAVE_FAULT)
        leave = deliver_fault(cpu, pending);
    cpu_interrupts_enabled(cpu);
    return leave;
}

typedef enum cpu_leave run_fn(struct cpu *cpu, struct event *pending);

static enum cpu_leave run_with_resume(struct cpu *cpu, run_fn *run_it, struct event *pending)
{
    cpu->resume_rip = cpu->rip; /* of an RF that was set from outside */
    const enum cpu_leave leave = run_it(cpu, pending);
    if (unlikely(cpu->rflags & RFLAGS_RF) && cpu->rip != cpu->resume_rip)
        cpu->rflags &= ~RFLAGS_RF;
    return leave;
}

enum cpu_leave cpu_run(struct cpu *cpu, struct event *pending)
{
    return run_with_resume(cpu, run, pending);
}

enum cpu_leave cpu_run_one(struct cpu *cpu, struct event *pending)
{
    return run_with_resume(cpu, run_one, pending);
}
