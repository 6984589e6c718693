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
#include "x86/system/control.h"

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

/* ---- registers beyond the first batch ---- */

static bool get_failed(struct emulator *e)
{
    (void)fail(STATUS_UNEXPECTED, "the callback that reads registers failed");
    e->failure = EMULATOR_GET_REGISTERS_FAILED;
    return false;
}

static bool is_supervisors(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_XSAVES || mnemonic == ZYDIS_MNEMONIC_XSAVES64 || mnemonic == ZYDIS_MNEMONIC_XRSTORS ||
           mnemonic == ZYDIS_MNEMONIC_XRSTORS64;
}

/* Upper halves and PKRU: names of our own, which a client need not know. */
static bool load_extended(struct emulator *e, const struct insn *insn, uint64_t components)
{
    if (emulator_registers_load_extended(&e->registers, e->cpu, &e->client, components))
        return true;
    (void)emulator_insn_complain(
        e->cpu->mode, e->cpu->rip, insn->bytes, insn->length,
        "needs OwhpX64RegisterYmmHigh or OwhpX64RegisterPkru, which the callback that reads registers refused");
    e->failure = EMULATOR_GET_REGISTERS_FAILED;
    return false;
}

/* XSAVE, XRSTOR: what XCR0 and EDX:EAX select. Their supervisor's forms have XSS as well, of which no component is known here. */
static bool load_saved_state(struct emulator *e, const struct insn *insn)
{
    static const uint32_t names[] = {VREG_XCR0, VREG_XSS};
    const uint64_t known = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_PKRU;
    struct cpu *cpu = e->cpu;
    const uint64_t asked = (uint64_t)cpu->gpr[REG_RDX].d << 32 | cpu->gpr[REG_RAX].d;
    union vreg_value values[2] = {0};

    if (!e->callbacks.get_registers(e->client.context, names, is_supervisors(insn->mnemonic) ? 2 : 1, values))
        return get_failed(e);
    cpu->xcr0 = values[0].q[0];
    if (unlikely((values[0].q[0] | values[1].q[0]) & asked & ~known))
        return give_up(e, insn->bytes, insn->length, "moves state that the callbacks cannot pass");
    return load_extended(e, insn, cpu->xcr0 & asked & (XCR0_AVX | XCR0_PKRU));
}

/* False: e->failure says why. */
static bool load_what_it_needs(struct emulator *e, const struct emulator_insn *insn)
{
    struct cpu *cpu = e->cpu;
    bool asks_tss = (insn->needs & NEEDS_TSS) && !e->request->is_io && (cpu_is_v86(cpu) || cpu->cpl > (cpu->rflags >> 12 & 3));

    if (((insn->needs & NEEDS_SYSTEM) || asks_tss || e->request->in_shadow) &&
        !emulator_registers_load_system(&e->registers, cpu, &e->client))
        return get_failed(e);
    if ((insn->needs & NEEDS_VECTOR) && !emulator_registers_load_vector(&e->registers, cpu, &e->client))
        return get_failed(e);
    if (insn->needs & NEEDS_XSAVE)
        return load_saved_state(e, &insn->insn);
    return !(insn->needs & NEEDS_UPPER) || load_extended(e, &insn->insn, XCR0_AVX);
}

/* ---- endings ---- */

static enum emulator_outcome store(struct emulator *e, const union vreg_value *event)
{
    if (emulator_registers_store(&e->registers, e->cpu, &e->client, event))
        return EMULATOR_SUCCESS;
    (void)fail(STATUS_UNEXPECTED, "the callback that writes registers failed");
    return EMULATOR_SET_REGISTERS_FAILED;
}

/* WHV_X64_PENDING_EXCEPTION_EVENT: pending 0, type 1-3 (0: exception), has error 8, vector 16-31, error 32-63, parameter 64-127.
 */
static enum emulator_outcome inject_fault(struct emulator *e)
{
    const struct cpu_fault *fault = &e->cpu->fault;
    const uint32_t name = (uint32_t)VREG_PENDING_EVENT;
    union vreg_value value = {.q = {0, 0}};

    if (!e->callbacks.get_registers(e->client.context, &name, 1, &value))
        return get_failed(e), e->failure;
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
        return get_failed(e), e->failure;
    emulator_port_begin(e);
    cpu->leave = LEAVE_NONE;
    if (!find_instruction(e, &insn))
        return stopped(e, NULL);
    if ((insn->needs || request->in_shadow) && !load_what_it_needs(e, insn))
        return e->failure;
    bool done = execute_traced(e, &insn->insn);
    return done ? store(e, NULL) : stopped(e, &insn->insn);
}
