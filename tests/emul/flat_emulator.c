#include "emul/flat_emulator.h"

#include <stdlib.h>
#include <string.h>

#include "support/flat_cpu.h"
#include "util/check.h"
#include "x86/memory/tlb.h"

/* The call in progress. */
static struct {
    struct cpu *cpu;
    enum flat_callback failing;
    unsigned failing_at;
    struct flat_emulation *done;
} now;

static bool works(enum flat_callback which)
{
    return ++now.done->calls[which] != now.failing_at || which != now.failing;
}

/* ---- registers ---- */

static uint64_t *plain(struct cpu *cpu, uint32_t name)
{
    if (name <= VREG_R15)
        return &cpu->gpr[name].q;
    switch (name) {
    case VREG_RIP: return &cpu->rip;
    case VREG_CR0: return &cpu->cr0;
    case VREG_CR3: return &cpu->cr3;
    case VREG_CR4: return &cpu->cr4;
    case VREG_EFER: return &cpu->efer;
    case VREG_XCR0: return &cpu->xcr0;
    case VREG_XSS: return &cpu->xss;
    default: return NULL;
    }
}

bool flat_get_register(struct cpu *cpu, uint32_t name, union vreg_value *v)
{
    memset(v, 0, sizeof(*v));
    if (plain(cpu, name)) {
        v->q[0] = *plain(cpu, name);
    } else if (name == VREG_RFLAGS) {
        v->q[0] = cpu_rflags(cpu);
    } else if (name >= VREG_ES && name <= VREG_TR) {
        const struct segment *s = &cpu->segment[name - VREG_ES];
        v->segment.base = s->base;
        v->segment.limit = s->limit;
        v->segment.selector = s->selector;
        v->segment.attributes = s->attributes;
    } else if (name == VREG_IDTR || name == VREG_GDTR) {
        const struct table_register *t = name == VREG_IDTR ? &cpu->idtr : &cpu->gdtr;
        v->table.base = t->base;
        v->table.limit = t->limit;
    } else if (name >= VREG_XMM0 && name <= VREG_XMM15) {
        memcpy(v, &cpu->vector[name - VREG_XMM0], 16);
    } else if (name >= VREG_YMM0_HIGH && name <= VREG_YMM15_HIGH) {
        memcpy(v, &cpu->vector[name - VREG_YMM0_HIGH].q[2], 16);
    } else if (name == VREG_PKRU) {
        v->q[0] = cpu->pkru;
    } else if (name >= VREG_FPMMX0 && name <= VREG_FPMMX7) {
        v->q[0] = cpu->x87.st[name - VREG_FPMMX0].mantissa;
        v->q[1] = cpu->x87.st[name - VREG_FPMMX0].exponent;
    } else if (name == VREG_FP_CONTROL_STATUS) {
        v->w[0] = cpu->x87.control;
        v->w[1] = cpu->x87.status;
        v->w[2] = cpu->x87.tag;
        v->w[3] = cpu->x87.opcode;
        v->q[1] = cpu->x87.instruction_pointer;
    } else if (name == VREG_XMM_CONTROL_STATUS) {
        v->q[0] = cpu->x87.data_pointer;
        v->d[2] = cpu->mxcsr;
    } else if (name == (uint32_t)VREG_INTERRUPT_STATE) {
        v->q[0] = (uint64_t)cpu->interrupt_shadow | (uint64_t)cpu->nmi_masked << 1;
    } else {
        return name == (uint32_t)VREG_PENDING_EVENT;
    }
    return true;
}

static void set_event(struct cpu *cpu, const union vreg_value *v)
{
    cpu->fault = (struct cpu_fault){.vector = (uint8_t)(v->q[0] >> 16), .has_error = v->q[0] >> 8 & 1,
                                    .error = (uint32_t)(v->q[0] >> 32), .address = v->q[1]};
    now.done->has_event = true;
}

bool flat_set_register(struct cpu *cpu, uint32_t name, const union vreg_value *v)
{
    if (plain(cpu, name)) {
        *plain(cpu, name) = v->q[0];
    } else if (name == VREG_RFLAGS) {
        cpu_set_rflags(cpu, v->q[0]);
    } else if (name >= VREG_ES && name <= VREG_TR) {
        cpu->segment[name - VREG_ES] = (struct segment){.base = v->segment.base, .limit = v->segment.limit,
                                                        .selector = v->segment.selector, .attributes = v->segment.attributes};
    } else if (name == VREG_IDTR || name == VREG_GDTR) {
        *(name == VREG_IDTR ? &cpu->idtr : &cpu->gdtr) = (struct table_register){.base = v->table.base, .limit = v->table.limit};
    } else if (name >= VREG_XMM0 && name <= VREG_XMM15) {
        memcpy(&cpu->vector[name - VREG_XMM0], v, 16);
    } else if (name >= VREG_YMM0_HIGH && name <= VREG_YMM15_HIGH) {
        memcpy(&cpu->vector[name - VREG_YMM0_HIGH].q[2], v, 16);
    } else if (name == VREG_PKRU) {
        cpu->pkru = v->d[0];
    } else if (name >= VREG_FPMMX0 && name <= VREG_FPMMX7) {
        cpu->x87.st[name - VREG_FPMMX0].mantissa = v->q[0];
        cpu->x87.st[name - VREG_FPMMX0].exponent = v->w[4];
    } else if (name == VREG_FP_CONTROL_STATUS) {
        cpu->x87.control = v->w[0];
        cpu->x87.status = v->w[1];
        cpu->x87.tag = (uint8_t)v->w[2];
        cpu->x87.opcode = v->w[3];
        cpu->x87.instruction_pointer = v->q[1];
    } else if (name == VREG_XMM_CONTROL_STATUS) {
        cpu->x87.data_pointer = v->q[0];
        cpu->mxcsr = v->d[2];
    } else if (name == (uint32_t)VREG_INTERRUPT_STATE) {
        cpu->interrupt_shadow = v->q[0] & 1;
        cpu->nmi_masked = v->q[0] >> 1 & 1;
    } else if (name == (uint32_t)VREG_PENDING_EVENT) {
        set_event(cpu, v);
    } else if (name == (uint32_t)VREG_PENDING_DEBUG_EXCEPTION) {
        check(v->q[0] == 0x10);
        now.done->traps = true;
    } else {
        return false;
    }
    return true;
}

static bool on_get(void *context, const uint32_t *names, uint32_t count, union vreg_value *values)
{
    (void)context;
    if (!works(FLAT_GET))
        return false;
    for (uint32_t i = 0; i < count; i++)
        check(flat_get_register(now.cpu, names[i], &values[i]));
    return true;
}

/* As a hypervisor has it: SS.DPL. */
static uint8_t privilege(const struct cpu *cpu)
{
    return cpu_is_real(cpu) ? 0 : cpu_is_v86(cpu) ? 3 : (uint8_t)(cpu->segment[SEG_SS].attributes >> SEG_DPL_SHIFT & 3);
}

static bool on_set(void *context, const uint32_t *names, uint32_t count, const union vreg_value *values)
{
    (void)context;
    check(now.done->calls[FLAT_SET] == 0); /* once and last */
    if (!works(FLAT_SET))
        return false;
    for (uint32_t i = 0; i < count; i++)
        check(flat_set_register(now.cpu, names[i], &values[i]));
    now.cpu->cpl = privilege(now.cpu);
    cpu_update_mode(now.cpu);
    return true;
}

/* ---- memory and ports ---- */

enum { UNDONE = 4096 }; /* stores that can be taken back */

static struct {
    unsigned count;
    struct {
        uint64_t gpa;
        uint8_t size, was[8];
    } stores[UNDONE];
} undo;

static void remember(const struct flat_cpu *flat, const struct emulator_memory *access)
{
    if (undo.count == UNDONE)
        return;
    undo.stores[undo.count].gpa = access->gpa;
    undo.stores[undo.count].size = access->size;
    memcpy(undo.stores[undo.count++].was, flat->memory + access->gpa, access->size);
}

void flat_forget(void)
{
    undo.count = 0;
}

void flat_undo(struct cpu *cpu)
{
    struct flat_cpu *flat = cpu->port_context;

    check(undo.count < UNDONE);
    while (undo.count) {
        undo.count--;
        memcpy(flat->memory + undo.stores[undo.count].gpa, undo.stores[undo.count].was, undo.stores[undo.count].size);
    }
}

static bool on_memory(void *context, struct emulator_memory *access)
{
    struct flat_cpu *flat = now.cpu->port_context;
    bool inside = access->gpa < FLAT_SIZE && access->size <= FLAT_SIZE - access->gpa;

    (void)context;
    check(access->size >= 1 && access->size <= 8 && (access->gpa & ~PAGE_MASK) + access->size <= PAGE_SIZE);
    check(now.done->calls[FLAT_SET] == 0);
    if (!works(FLAT_MEMORY))
        return false;
    now.done->writes += access->is_write;
    if (!access->is_write)
        memset(access->data, 0xff, sizeof(access->data));
    if (inside && access->is_write) {
        remember(flat, access);
        memcpy(flat->memory + access->gpa, access->data, access->size);
    } else if (inside)
        memcpy(access->data, flat->memory + access->gpa, access->size);
    return true;
}

static bool on_io(void *context, struct emulator_io *io)
{
    struct flat_cpu *flat = now.cpu->port_context;

    (void)context;
    if (!works(FLAT_IO))
        return false;
    if (!io->is_write)
        io->data = flat->io_value;
    flat->last_io_data = io->data;
    flat->io_count++;
    return true;
}

/* By the processor's own walk; its TLB is of no account. */
static enum emulator_translation on_translate(void *context, uint64_t page, unsigned type, bool is_exempt, uint64_t *gpa)
{
    struct cpu *cpu = now.cpu;
    struct tlb_target target;
    struct cpu_fault fault = cpu->fault;

    (void)context;
    check(!(page & ~PAGE_MASK));
    if (!works(FLAT_TRANSLATE))
        return TRANSLATION_FAILED;
    cpu_flush_tlb(cpu, false);
    if (tlb_translate(cpu, page, (enum access_type)type, is_exempt || cpu->cpl < 3 ? TLB_MODE_SUPERVISOR : TLB_MODE_USER, &target)) {
        *gpa = target.gpa;
        return TRANSLATION_DONE;
    }
    uint32_t error = cpu->fault.error;
    bool is_page_fault = cpu->fault.vector == VECTOR_PF;
    cpu->fault = fault;
    if (!is_page_fault)
        return TRANSLATION_OTHER;
    return error & PF_RSVD ? TRANSLATION_RESERVED_BITS : error & PF_P ? TRANSLATION_PRIVILEGE : TRANSLATION_NOT_PRESENT;
}

void flat_emulate(struct cpu *cpu, const uint8_t *code, size_t give, enum flat_callback which, unsigned at,
                  struct flat_emulation *done)
{
    static const struct emulator_callbacks callbacks = {
        .get_registers = on_get, .set_registers = on_set, .memory = on_memory, .io = on_io, .translate = on_translate};
    static struct emulator *emulator;
    struct emulator_request request = {.byte_count = (uint8_t)give, .bytes = code};

    if (!emulator)
        emulator = emulator_create(&callbacks);
    check(emulator != NULL);
    *done = (struct flat_emulation){.outcome = EMULATOR_SUCCESS};
    now.cpu = cpu;
    now.failing = which;
    now.failing_at = at;
    now.done = done;
    done->outcome = emulator_run(emulator, NULL, &request);
}
