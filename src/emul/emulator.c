/*
 * One instruction through callbacks.
 *
 *      fetch registers -> decode (fetching missing code bytes) -> execute on a processor of our own -> write registers once
 *
 * The exec functions of src/x86 read, translate and check before they store, so a callback that refuses leaves memory alone but
 * for the completed iterations of a REP, and those are what the registers then say. A fault of the guest (page fault by
 * translation, #GP, #DE ...) becomes a pending event of the guest's processor, in the same call that writes the registers.
 */
#include "emul/emulator.h"

#include <stdlib.h>

#include "emul/emulator_port.h"
#include "util/last_error.h"

enum { PASSES = 256 }; /* calls of a REP's exec function before the emulator gives the guest a chance */

/* ---- life ---- */

struct emulator *emulator_create(const struct emulator_callbacks *callbacks)
{
    struct emulator *e = calloc(1, sizeof(*e));

    if (!e)
        return NULL;
    e->callbacks = *callbacks;
    e->cpu = cpu_create_bare(&emulator_port, e, 52);
    if (!e->cpu) {
        free(e);
        return NULL;
    }
    return e;
}

void emulator_destroy(struct emulator *e)
{
    if (!e)
        return;
    cpu_destroy(e->cpu);
    free(e);
}

/* ---- code ---- */

/* False: beyond the segment, or not a canonical address. */
static bool code_linear(struct cpu *cpu, uint64_t offset, gva_t *linear, size_t *room)
{
    const struct segment *cs = &cpu->segment[SEG_CS];
    unsigned shift = cpu->cr4 & CR4_LA57 ? 7 : 16;

    *linear = offset;
    if (cpu_is_64(cpu)) {
        if ((gva_t)((int64_t)(offset << shift) >> shift) != offset)
            return raise_gp(cpu, 0);
        *room = SIZE_MAX;
    } else {
        if (offset > cs->limit)
            return raise_gp(cpu, 0);
        *linear = (uint32_t)(cs->base + offset);
        *room = (size_t)(cs->limit - offset) + 1;
    }
    return true;
}

/* More code bytes than the exit brought: 8 at a time, never across a page in one go. */
static bool fetch_more(struct emulator *e, uint8_t *bytes, size_t *have)
{
    size_t size = 15 - *have > 8 ? 8 : 15 - *have, room = 0, page;
    gva_t at;

    if (!code_linear(e->cpu, e->cpu->rip + *have, &at, &room))
        return false;
    page = (size_t)(PAGE_SIZE - (at & ~PAGE_MASK));
    size = size > page ? page : size;
    size = size > room ? room : size;
    if (!emulator_fetch(e, at, bytes + *have, size))
        return false;
    *have += size;
    return true;
}

static bool give_up(struct emulator *e, const uint8_t *bytes, size_t have, const char *why)
{
    e->failure = EMULATOR_INTERNAL_FAILURE;
    e->cpu->leave = LEAVE_EXIT;
    return emulator_insn_complain(e->cpu->mode, e->cpu->rip, bytes, have, why);
}

/* False: cpu->leave says why (a fault of the guest, or e->failure). */
static bool find_instruction(struct emulator *e, const struct emulator_insn **insn)
{
    const struct emulator_request *r = e->request;
    const uint8_t *bytes = r->bytes;
    size_t have = r->byte_count > 15 ? 15 : r->byte_count;
    uint8_t fetched[15] = {0};

    for (;;) {
        enum emulator_decode status = emulator_insn_decode(&e->insns, e->cpu->mode, bytes, have, insn);

        if (status == INSN_DECODED)
            break;
        if (status == INSN_INVALID || have == 15)
            return give_up(e, bytes, have, "cannot be decoded");
        if (bytes != fetched)
            for (size_t i = 0; i < have; i++)
                fetched[i] = bytes[i];
        bytes = fetched;
        if (!fetch_more(e, fetched, &have))
            return false;
    }
    if ((*insn)->refused)
        return give_up(e, bytes, have, (*insn)->refused);
    if (r->is_io && !(*insn)->is_port)
        return give_up(e, bytes, have, "is not the port instruction that the exit speaks of");
    return true;
}

/* ---- executing ---- */

/*
 * True: the instruction is complete (or a REP stopped half way, in good order). RFLAGS.RF is for the beginning of one instruction
 * (SDM 3B 17.3.1.1): it is gone when that is complete, and stays when it is not. A REP that pauses sets it; that nobody sees
 * while we go on.
 */
static bool execute(struct emulator *e, const struct insn *insn)
{
    struct cpu *cpu = e->cpu;
    uint64_t rip = cpu->rip, width = cpu_is_64(cpu) ? ~0ull : cpu->mode & MODE_CS32 ? 0xffffffffu : 0xffffu;
    uint64_t resume = cpu->rflags & RFLAGS_RF;

    for (unsigned pass = 0; pass < PASSES; pass++) {
        cpu->next_rip = (rip + insn->length) & width;
        cpu->rflags &= ~RFLAGS_RF;
        if (insn->exec(cpu, insn) == EXEC_LEAVE) {
            cpu->rflags |= cpu->rip == rip ? resume : 0;
            return false;
        }
        cpu->rip = cpu->next_rip;
        if (cpu->rip != rip || !(insn->has_rep || insn->has_repne) || (cpu->rflags & RFLAGS_TF))
            return true;
    }
    return true;
}

/* TF asks for a trap behind the instruction, or behind each element of a repeated one, unless it has loaded SS, which holds the
 * trap back (SDM 3A 6.8.3). */
static bool execute_traced(struct emulator *e, const struct insn *insn)
{
    struct cpu *cpu = e->cpu;
    bool trace = cpu->rflags & RFLAGS_TF;

    cpu->trap_cancelled = cpu->debug_shadow = false;
    bool done = execute(e, insn);
    e->registers.traps = done && trace && !cpu->trap_cancelled && !cpu->debug_shadow;
    return done;
}

/* XSAVE and XRSTOR of what XCR0 and EDX:EAX select; beyond x87 and SSE the callbacks cannot pass it. */
static bool selects_more_than_sse(const struct cpu *cpu)
{
    uint64_t selected = (uint64_t)cpu->gpr[REG_RDX].d << 32 | cpu->gpr[REG_RAX].d;

    return cpu->xcr0 & selected & ~(uint64_t)3;
}

static bool load_xcr0(struct emulator *e)
{
    const uint32_t name = VREG_XCR0;
    union vreg_value value = {.q = {0, 0}};

    if (!e->callbacks.get_registers(e->client.context, &name, 1, &value))
        return false;
    e->cpu->xcr0 = value.q[0];
    return true;
}

static bool load_what_it_needs(struct emulator *e, const struct emulator_insn *insn)
{
    struct cpu *cpu = e->cpu;
    bool asks_tss = (insn->needs & NEEDS_TSS) && !e->request->is_io && (cpu_is_v86(cpu) || cpu->cpl > (cpu->rflags >> 12 & 3));

    if (((insn->needs & NEEDS_SYSTEM) || asks_tss || e->request->in_shadow) && !emulator_registers_load_system(&e->registers, cpu, &e->client))
        return false;
    if ((insn->needs & NEEDS_XCR0) && !load_xcr0(e))
        return false;
    return !(insn->needs & NEEDS_VECTOR) || emulator_registers_load_vector(&e->registers, cpu, &e->client);
}

/* ---- endings ---- */

static enum emulator_outcome callback_failed(enum emulator_outcome which)
{
    (void)fail(STATUS_UNEXPECTED, "the callback that %s registers failed",
               which == EMULATOR_GET_REGISTERS_FAILED ? "reads" : "writes");
    return which;
}

static enum emulator_outcome store(struct emulator *e, const union vreg_value *event)
{
    return emulator_registers_store(&e->registers, e->cpu, &e->client, event) ? EMULATOR_SUCCESS
                                                                               : callback_failed(EMULATOR_SET_REGISTERS_FAILED);
}

/* WHV_X64_PENDING_EXCEPTION_EVENT: pending 0, type 1-3 (0: exception), has error 8, vector 16-31, error 32-63, parameter 64-127. */
static enum emulator_outcome inject_fault(struct emulator *e)
{
    const struct cpu_fault *fault = &e->cpu->fault;
    const uint32_t name = (uint32_t)VREG_PENDING_EVENT;
    union vreg_value value = {.q = {0, 0}};

    if (!e->callbacks.get_registers(e->client.context, &name, 1, &value))
        return callback_failed(EMULATOR_GET_REGISTERS_FAILED);
    if (value.q[0] & 1) {
        (void)fail(STATUS_INVALID_STATE, "exception %u cannot be given to the guest: another event is pending", fault->vector);
        return EMULATOR_CANNOT_FAULT;
    }
    value.q[0] = 1 | (uint64_t)fault->has_error << 8 | (uint64_t)fault->vector << 16 | (uint64_t)fault->error << 32;
    value.q[1] = fault->address;
    return store(e, &value);
}

/* Iterations of a REP that are done stay done, whatever stopped it; of anything else nothing has happened. */
static enum emulator_outcome stopped(struct emulator *e, const struct insn *insn)
{
    enum emulator_outcome why = e->failure;

    /* RIP is that of the instruction, or of the task it has switched to, whose fault it is then. */
    if (e->cpu->leave == LEAVE_FAULT && (e->cpu->fault.vector != VECTOR_UD || !insn))
        return inject_fault(e);
    if (e->cpu->leave == LEAVE_FAULT) {
        /* It would not have come to an exit then: the emulator lacks what the processor has. */
        (void)emulator_insn_complain(e->cpu->mode, e->registers.rip, insn->bytes, insn->length, "is not implemented");
        return EMULATOR_INTERNAL_FAILURE;
    }
    if (insn && (insn->has_rep || insn->has_repne) && emulator_registers_progressed(&e->registers, e->cpu) &&
        store(e, NULL) != EMULATOR_SUCCESS)
        return EMULATOR_SET_REGISTERS_FAILED;
    return why;
}

enum emulator_outcome emulator_run(struct emulator *e, void *context, const struct emulator_request *request)
{
    struct cpu *cpu = e->cpu;
    const struct emulator_insn *insn;

    e->client = (struct emulator_client){.callbacks = &e->callbacks, .context = context};
    e->request = request;
    e->failure = EMULATOR_INTERNAL_FAILURE;
    if (!emulator_registers_load(&e->registers, cpu, &e->client))
        return callback_failed(EMULATOR_GET_REGISTERS_FAILED);
    emulator_port_begin(e);
    cpu->leave = LEAVE_NONE;
    if (!find_instruction(e, &insn))
        return stopped(e, NULL);
    if ((insn->needs || request->in_shadow) && !load_what_it_needs(e, insn))
        return callback_failed(EMULATOR_GET_REGISTERS_FAILED);
    if (unlikely((insn->needs & NEEDS_XCR0) && selects_more_than_sse(cpu))) {
        (void)give_up(e, insn->insn.bytes, insn->insn.length, "moves state that the callbacks cannot pass");
        return e->failure;
    }
    bool done = execute_traced(e, &insn->insn);
    return done ? store(e, NULL) : stopped(e, &insn->insn);
}
