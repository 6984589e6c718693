/*
 * The port: accesses of the emulator's processor become callbacks. One that fails stops the instruction like an exit would;
 * a translation that finds no page raises the guest's page fault.
 */
#include "emul/emulator_port.h"

#include <string.h>

#include "util/last_error.h"
#include "x86/memory/memory.h"

static struct emulator *emulator_of(struct cpu *cpu)
{
    return cpu->port_context;
}

static enum port_result refuse(struct emulator *e, enum emulator_outcome why)
{
    e->failure = why;
    return PORT_EXIT;
}

/* ---- translation ---- */

/* SDM 3A 4.7. The bit for a fetch exists with NX or SMEP. */
static enum port_result page_fault(struct cpu *cpu, gva_t gva, enum access_type type, bool user, uint32_t error)
{
    bool has_fetch_bit = ((cpu->cr4 & CR4_PAE) && (cpu->efer & EFER_NXE)) || (cpu->cr4 & CR4_SMEP);

    error |= type == ACCESS_WRITE ? PF_W : type == ACCESS_EXECUTE && has_fetch_bit ? PF_I : 0;
    error |= user ? PF_U : 0;
    (void)!raise_page_fault(cpu, gva, error);
    return PORT_FAULT;
}

static void enter_known(struct emulator *e, gva_t gva, gpa_t gpa, enum access_type type, bool user)
{
    e->known[e->known_count++ % EMULATOR_KNOWN] = (struct emulator_known){
        .page = gva & PAGE_MASK, .gpa = gpa & PAGE_MASK, .type = (uint8_t)type, .user = user};
}

void emulator_port_begin(struct emulator *e)
{
    const struct emulator_request *r = e->request;

    e->known_count = 0;
    if (r->has_translation && r->type <= ACCESS_WRITE)
        enter_known(e, r->gva, r->gpa, r->type, e->registers.cpl == 3);
}

/* A page that may be written may be read as well, not the other way round. */
static bool find_known(const struct emulator *e, gva_t gva, enum access_type type, bool user, gpa_t *gpa)
{
    unsigned count = e->known_count < EMULATOR_KNOWN ? e->known_count : EMULATOR_KNOWN;

    for (unsigned i = 0; i < count; i++) {
        const struct emulator_known *k = &e->known[i];

        if (k->page == (gva & PAGE_MASK) && k->user == user &&
            (k->type == type || (k->type == ACCESS_WRITE && type == ACCESS_READ))) {
            *gpa = k->gpa | (gva & ~PAGE_MASK);
            return true;
        }
    }
    return false;
}

static enum port_result translate_by_callback(struct cpu *cpu, gva_t gva, enum access_type type, bool user, uint64_t *page)
{
    struct emulator *e = emulator_of(cpu);
    bool is_exempt = !user && e->registers.cpl == 3;

    switch (e->callbacks.translate(e->client.context, gva & PAGE_MASK, type, is_exempt, page)) {
    case TRANSLATION_DONE:
        return PORT_DONE;
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
        (void)fail(STATUS_UNEXPECTED, "the callback that translates failed for 0x%llx", (unsigned long long)gva);
        return refuse(e, EMULATOR_TRANSLATE_FAILED);
    }
}

static enum port_result port_translate(struct cpu *cpu, gva_t gva, enum access_type type, bool user, gpa_t *gpa)
{
    struct emulator *e = emulator_of(cpu);
    uint64_t page;

    /* A task switch has loaded CR3: the callback translates by the old one. */
    if (unlikely(e->registers.has_system && cpu->cr3 != e->registers.cr3)) {
        (void)fail(STATUS_NOT_SUPPORTED, "the instruction switches to another address space");
        return refuse(e, EMULATOR_INTERNAL_FAILURE);
    }
    if (find_known(e, gva, type, user, gpa))
        return PORT_DONE;
    enum port_result result = translate_by_callback(cpu, gva, type, user, &page);
    if (result != PORT_DONE)
        return result;
    if (page & ~PAGE_MASK) {
        (void)fail(STATUS_UNEXPECTED, "the callback that translates answered 0x%llx for the page 0x%llx",
                   (unsigned long long)page, (unsigned long long)(gva & PAGE_MASK));
        return refuse(e, EMULATOR_TRANSLATE_MISALIGNED);
    }
    enter_known(e, gva, page, type, user);
    *gpa = page | (gva & ~PAGE_MASK);
    return PORT_DONE;
}

/* ---- memory ---- */

/* In pieces of at most 8 bytes, low addresses first. */
static bool memory(struct emulator *e, gpa_t gpa, bool is_write, uint8_t *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        size_t chunk = size - done > 8 ? 8 : size - done;
        struct emulator_memory access = {.gpa = gpa + done, .is_write = is_write, .size = (uint8_t)chunk};

        if (is_write)
            memcpy(access.data, data + done, chunk);
        if (!e->callbacks.memory(e->client.context, &access)) {
            (void)fail(STATUS_UNEXPECTED, "the memory callback failed (%s of %zu bytes at 0x%llx)", is_write ? "write" : "read",
                       chunk, (unsigned long long)(gpa + done));
            return false;
        }
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

bool emulator_fetch(struct emulator *e, gva_t linear, uint8_t *to, size_t size)
{
    struct cpu *cpu = e->cpu;
    gpa_t gpa;
    enum port_result result = port_translate(cpu, linear, ACCESS_EXECUTE, cpu->cpl == 3, &gpa);

    if (result == PORT_DONE && !memory(e, gpa, false, to, size))
        result = refuse(e, EMULATOR_MEMORY_FAILED);
    if (result != PORT_DONE)
        cpu->leave = result == PORT_FAULT ? LEAVE_FAULT : LEAVE_EXIT;
    return result == PORT_DONE;
}

/* ---- ports ---- */

static enum port_result port_io(struct cpu *cpu, const struct port_io *io)
{
    struct emulator *e = emulator_of(cpu);
    struct emulator_io access = {.port = io->port, .is_write = io->is_write, .size = io->size};

    if (io->is_write)
        access.data = *io->data;
    if (!e->callbacks.io(e->client.context, &access)) {
        (void)fail(STATUS_UNEXPECTED, "the I/O port callback failed (%s of %u bytes, port 0x%x)", io->is_write ? "OUT" : "IN",
                   io->size, io->port);
        return refuse(e, EMULATOR_IO_FAILED);
    }
    if (!io->is_write)
        *io->data = access.data & (io->size == 4 ? 0xffffffffu : (1u << io->size * 8) - 1);
    return PORT_DONE;
}

static bool io_checked(const struct cpu *cpu)
{
    const struct emulator *e = cpu->port_context;

    return e->request->is_io;
}

const struct cpu_port emulator_port = {
    .access = port_access, .translate = port_translate, .io = port_io, .io_checked = io_checked};
