/*
 * One instruction through callbacks.
 *
 *      fetch registers -> decode (fetching missing code bytes) -> execute on a processor of our own -> write registers once
 *
 * The exec functions of src/x86 read, translate and check before they store, so a callback that refuses leaves memory alone but
 * for the completed iterations of a REP, and those are what the registers then say. A fault of the guest (page fault by
 * translation, #GP, #DE ...) becomes a pending exception of the guest's processor with its registers as they were.
 */
#include "emul/emulator.h"

#include <stdlib.h>
#include <string.h>

#include "emul/emulator_registers.h"
#include "util/last_error.h"
#include "x86/decode.h"
#include "x86/exec.h"

enum { PASSES = 256 }; /* calls of a REP's exec function before the emulator gives the guest a chance */

struct emulator {
    struct emulator_callbacks callbacks;
    struct cpu *cpu;
    struct emulator_registers registers;
    /* of the call in progress */
    void *context;
    const struct emulator_request *request;
    enum emulator_outcome failure; /* why the port said PORT_EXIT */
};

static struct emulator *emulator_of(struct cpu *cpu)
{
    return cpu->port_context;
}

static enum port_result refuse(struct emulator *e, enum emulator_outcome why)
{
    e->failure = why;
    return PORT_EXIT;
}

/* ---- the port ---- */

static enum port_result page_fault(struct cpu *cpu, gva_t gva, enum access_type type, bool user, uint32_t error)
{
    error |= type == ACCESS_WRITE ? PF_W : type == ACCESS_EXECUTE ? PF_I : 0;
    error |= user ? PF_U : 0;
    (void)!raise_page_fault(cpu, gva, error);
    return PORT_FAULT;
}

static enum port_result port_translate(struct cpu *cpu, gva_t gva, enum access_type type, bool user, gpa_t *gpa)
{
    struct emulator *e = emulator_of(cpu);
    const struct emulator_request *r = e->request;
    uint64_t page;

    if (r->has_translation && type != ACCESS_EXECUTE && !((gva ^ r->gva) & PAGE_MASK)) {
        *gpa = (r->gpa & PAGE_MASK) | (gva & ~PAGE_MASK);
        return PORT_DONE;
    }
    switch (e->callbacks.translate(e->context, gva & PAGE_MASK, type, !user, &page)) {
    case TRANSLATION_DONE:
        break;
    case TRANSLATION_NOT_PRESENT:
        return page_fault(cpu, gva, type, user, 0);
    case TRANSLATION_PRIVILEGE:
        return page_fault(cpu, gva, type, user, PF_P);
    case TRANSLATION_RESERVED_BITS:
        return page_fault(cpu, gva, type, user, PF_P | PF_RSVD);
    case TRANSLATION_OTHER:
        (void)!raise_gp(cpu, 0);
        return PORT_FAULT;
    default:
        return refuse(e, EMULATOR_TRANSLATE_FAILED);
    }
    if (page & ~PAGE_MASK)
        return refuse(e, EMULATOR_TRANSLATE_MISALIGNED);
    *gpa = page | (gva & ~PAGE_MASK);
    return PORT_DONE;
}

/* In pieces of at most 8 bytes, low addresses first. */
static bool memory(struct emulator *e, gpa_t gpa, bool is_write, uint8_t *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        size_t chunk = size - done > 8 ? 8 : size - done;
        struct emulator_memory access = {.gpa = gpa + done, .is_write = is_write, .size = (uint8_t)chunk};

        if (is_write)
            memcpy(access.data, data + done, chunk);
        if (!e->callbacks.memory(e->context, &access))
            return false;
        if (!is_write)
            memcpy(data + done, access.data, chunk);
        done += chunk;
    }
    return true;
}

static enum port_result port_access(struct cpu *cpu, const struct port_access *access)
{
    struct emulator *e = emulator_of(cpu);

    if (!memory(e, access->gpa, access->type == ACCESS_WRITE, access->data, access->size))
        return refuse(e, EMULATOR_MEMORY_FAILED);
    return PORT_DONE;
}

static enum port_result port_io(struct cpu *cpu, const struct port_io *io)
{
    struct emulator *e = emulator_of(cpu);
    struct emulator_io access = {.port = io->port, .is_write = io->is_write, .size = io->size};

    if (io->is_write)
        access.data = *io->data;
    if (!e->callbacks.io(e->context, &access))
        return refuse(e, EMULATOR_IO_FAILED);
    if (!io->is_write)
        *io->data = access.data;
    return PORT_DONE;
}

/* Instructions that exit for other reasons than memory and ports are not the emulator's. */
static enum port_result port_refuse_msr_read(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    (void)index;
    (void)value;
    return refuse(emulator_of(cpu), EMULATOR_INTERNAL_FAILURE);
}

static enum port_result port_refuse_msr_write(struct cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index;
    (void)value;
    return refuse(emulator_of(cpu), EMULATOR_INTERNAL_FAILURE);
}

static const struct cpu_port port = {
    .access = port_access,
    .translate = port_translate,
    .io = port_io,
    .msr_read = port_refuse_msr_read,
    .msr_write = port_refuse_msr_write,
};

/* ---- life ---- */

struct emulator *emulator_create(const struct emulator_callbacks *callbacks)
{
    struct emulator *e = calloc(1, sizeof(*e));

    if (!e)
        return NULL;
    e->callbacks = *callbacks;
    e->cpu = cpu_create_bare(&port, e, 52);
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

/* ---- decoding ---- */

static gva_t code_linear(const struct cpu *cpu)
{
    return cpu_is_64(cpu) ? cpu->rip : (uint32_t)(cpu->segment[SEG_CS].base + cpu->rip);
}

/* More code bytes than the exit brought: 8 at a time, never across a page in one go. */
static bool fetch(struct emulator *e, uint8_t *bytes, size_t *have)
{
    struct cpu *cpu = e->cpu;
    gva_t at = code_linear(cpu) + *have;
    size_t size = 15 - *have, room;
    gpa_t gpa;

    if (!cpu_is_64(cpu))
        at = (uint32_t)at;
    room = (size_t)(PAGE_SIZE - (at & ~PAGE_MASK));
    size = size > 8 ? 8 : size;
    size = size > room ? room : size;
    enum port_result result = port_translate(cpu, at, ACCESS_EXECUTE, cpu->cpl == 3, &gpa);
    if (result != PORT_DONE) {
        cpu->leave = result == PORT_FAULT ? LEAVE_FAULT : LEAVE_EXIT;
        return false;
    }
    if (!memory(e, gpa, false, bytes + *have, size)) {
        e->failure = EMULATOR_MEMORY_FAILED;
        cpu->leave = LEAVE_EXIT;
        return false;
    }
    *have += size;
    return true;
}

/* False: cpu->leave says why (a fault of the guest, or e->failure). */
static bool decode_instruction(struct emulator *e, struct decoded *decoded)
{
    const struct emulator_request *r = e->request;
    uint8_t bytes[16] = {0};
    size_t have = r->byte_count > 15 ? 15 : r->byte_count;

    if (have)
        memcpy(bytes, r->bytes, have);
    for (;;) {
        enum decode_status status = have ? decode(e->cpu->mode, bytes, have, decoded) : DECODE_TRUNCATED;

        if (status == DECODE_OK)
            return true;
        if (status != DECODE_TRUNCATED || have >= 15) {
            e->failure = EMULATOR_INTERNAL_FAILURE;
            e->cpu->leave = LEAVE_EXIT;
            (void)fail(STATUS_NOT_SUPPORTED, "the bytes %02x %02x %02x %02x ... are no instruction that this processor has", bytes[0],
                       bytes[1], bytes[2], bytes[3]);
            return false;
        }
        if (!fetch(e, bytes, &have))
            return false;
    }
}

/* ---- executing ---- */

/* True: the instruction is complete (or a REP stopped half way, in good order). */
static bool execute(struct emulator *e, const struct insn *insn)
{
    struct cpu *cpu = e->cpu;
    uint64_t rip = cpu->rip, width = cpu_is_64(cpu) ? ~0ull : cpu->mode & MODE_CS32 ? 0xffffffffu : 0xffffu;

    for (unsigned pass = 0; pass < PASSES; pass++) {
        cpu->rip = rip;
        cpu->next_rip = (rip + insn->length) & width;
        switch (insn->exec(cpu, insn)) {
        case EXEC_NEXT:
        case EXEC_END:
            cpu->rip = cpu->next_rip;
            if (cpu->rip != rip || !(insn->has_rep || insn->has_repne))
                return true;
            break;
        default:
            return false;
        }
    }
    return true;
}

static enum emulator_outcome inject_fault(struct emulator *e)
{
    struct cpu_fault *fault = &e->cpu->fault;
    uint32_t name = (uint32_t)VREG_PENDING_EVENT;
    union vreg_value value = {.q = {1 | (uint64_t)fault->has_error << 8 | (uint64_t)fault->vector << 16 | (uint64_t)fault->error << 32,
                                    fault->address}};

    return e->callbacks.set_registers(e->context, &name, 1, &value) ? EMULATOR_SUCCESS : EMULATOR_CANNOT_FAULT;
}

/* Iterations of a REP that are done stay done, whatever stopped it. */
static enum emulator_outcome stopped(struct emulator *e)
{
    if (emulator_registers_changed(&e->registers, e->cpu) &&
        !emulator_registers_store(&e->registers, e->cpu, &e->callbacks, e->context))
        return EMULATOR_SET_REGISTERS_FAILED;
    return e->cpu->leave == LEAVE_FAULT ? inject_fault(e) : e->failure;
}

enum emulator_outcome emulator_run(struct emulator *e, void *context, const struct emulator_request *request)
{
    struct cpu *cpu = e->cpu;
    struct decoded decoded;

    e->context = context;
    e->request = request;
    e->failure = EMULATOR_INTERNAL_FAILURE;
    if (!emulator_registers_load(&e->registers, cpu, &e->callbacks, context))
        return EMULATOR_GET_REGISTERS_FAILED;
    cpu->leave = LEAVE_NONE;
    if (!decode_instruction(e, &decoded))
        return stopped(e);
    if (decoded.insn.uses_vector && !emulator_registers_load_vector(&e->registers, cpu, &e->callbacks, context))
        return EMULATOR_GET_REGISTERS_FAILED;
    if (request->is_io)
        cpu->rflags |= RFLAGS_IOPL;
    bool done = execute(e, &decoded.insn);
    if (request->is_io)
        cpu->rflags = (cpu->rflags & ~RFLAGS_IOPL) | (e->registers.rflags & RFLAGS_IOPL);
    if (!done)
        return stopped(e);
    return emulator_registers_store(&e->registers, cpu, &e->callbacks, context) ? EMULATOR_SUCCESS : EMULATOR_SET_REGISTERS_FAILED;
}
