#include "machine.h"

#include <string.h>

const char *const machine_mode_names[MACHINE_MODES] = {"real mode",
                                                       "virtual-8086 mode",
                                                       "16-bit protected mode",
                                                       "32-bit protected mode",
                                                       "16-bit compatibility mode",
                                                       "32-bit compatibility mode",
                                                       "64-bit mode"};

enum { CODE_STEP = 16 };

/* ---- memory ---- */

void machine_put(struct machine *machine, uint32_t at, uint64_t value, unsigned size)
{
    memcpy(machine->guest.memory + at, &value, size);
}

uint64_t machine_get(const struct machine *machine, uint32_t at, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, machine->guest.memory + at, size);
    return value;
}

/* ---- descriptors ---- */

static uint64_t access_byte(struct rights rights)
{
    return rights.type | rights.dpl << 5 | (unsigned)rights.present << 7;
}

uint64_t machine_segment(struct rights rights, uint32_t base, uint32_t limit)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | access_byte(rights) << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)rights.flags << 52 | (uint64_t)(base >> 24) << 56;
}

uint64_t machine_gate(struct rights rights, uint16_t selector, uint32_t offset, unsigned count)
{
    return (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)count << 32 | access_byte(rights) << 40 |
           (uint64_t)(offset >> 16) << 48;
}

void machine_set_descriptor(struct machine *machine, uint16_t selector, uint64_t low, uint64_t high)
{
    machine_put(machine, MACHINE_GDT + selector, low, 8);
    if (selector != MACHINE_LAST)
        machine_put(machine, MACHINE_GDT + selector + 8u, high, 8);
}

uint64_t machine_descriptor(const struct machine *machine, uint16_t selector)
{
    return machine_get(machine, MACHINE_GDT + selector, 8);
}

static void set_tables(struct machine *machine)
{
    const bool is_long = machine_mode_is_long(machine->mode);
    struct cpu *cpu = machine->guest.cpu;

    memset(machine->guest.memory + MACHINE_GDT, 0, MACHINE_GDT_END);
    for (unsigned level = 0; level < 4; level++) {
        const struct rights code = {.type = 0x1b, .dpl = level, .present = true};
        struct rights r = code;
        machine_put(machine, MACHINE_GDT + MACHINE_CODE16(level), machine_segment(r, 0, 0xffff), 8);
        r.flags = 0xc;
        machine_put(machine, MACHINE_GDT + MACHINE_CODE32(level), machine_segment(r, 0, 0xfffff), 8);
        r.flags = 0xa;
        machine_put(machine, MACHINE_GDT + MACHINE_CODE64(level), machine_segment(r, 0, 0xfffff), 8);
        r = (struct rights){.type = 0x13, .dpl = level, .present = true, .flags = 0xc};
        machine_put(machine, MACHINE_GDT + MACHINE_DATA_OF(level), machine_segment(r, 0, 0xfffff), 8);
    }
    const struct rights busy = {.type = 11, .present = true};
    machine_put(machine, MACHINE_GDT + MACHINE_TSS_SELECTOR, machine_segment(busy, MACHINE_TSS, 0x67), 8);
    memset(machine->guest.memory + MACHINE_TSS, 0, 0x68);
    machine_put(machine, MACHINE_TSS + 102, 0x68, 2); /* no ports */
    for (unsigned level = 0; level < 3; level++) {
        if (is_long) {
            machine_put(machine, MACHINE_TSS + 4 + 8 * level, machine_inner(level), 8);
        } else {
            machine_put(machine, MACHINE_TSS + 4 + 8 * level, machine_inner(level), 4);
            machine_put(machine, MACHINE_TSS + 8 + 8 * level, MACHINE_DATA_OF(level) | level, 4);
        }
    }
    /* The local table is the global one: an LDT selector means the same descriptor. */
    cpu->gdtr = (struct table_register){.base = MACHINE_GDT, .limit = MACHINE_GDT_END - 1};
    cpu->idtr = (struct table_register){.base = MACHINE_IDT, .limit = 0xfff};
    cpu->segment[SEG_LDTR] =
        (struct segment){.base = MACHINE_GDT, .limit = MACHINE_GDT_END - 1, .selector = 0x3f0, .attributes = 0x82};
    cpu->segment[SEG_TR] =
        (struct segment){.base = MACHINE_TSS, .limit = 0x67, .selector = MACHINE_TSS_SELECTOR, .attributes = 0x8b};
}

/* ---- registers ---- */

static void set_control(struct machine *machine)
{
    struct cpu *cpu = machine->guest.cpu;
    const bool is_long = machine_mode_is_long(machine->mode);

    cpu->cr0 = CR0_ET | (machine->mode == MACHINE_REAL ? 0 : CR0_PE) | (is_long ? CR0_PG : 0);
    cpu->cr3 = MACHINE_PML4;
    cpu->cr4 = (is_long ? CR4_PAE : 0) | CR4_OSFXSR | CR4_OSXMMEXCPT;
    cpu->efer = is_long ? EFER_LME | EFER_LMA : 0;
    machine_put(machine, MACHINE_PML4, MACHINE_PDPT | 7, 8);
    machine_put(machine, MACHINE_PDPT, 0x87, 8);
}

static void set_code_segment(struct machine *machine)
{
    static const uint16_t attributes[MACHINE_MODES] = {0x9b, 0xf3, 0x9b, 0xc09b, 0x9b, 0xc09b, 0xa09b};
    const unsigned cpl = machine->cpl;
    const enum machine_mode mode = machine->mode;
    struct segment *cs = &machine->guest.cpu->segment[SEG_CS];
    const unsigned selector = mode == MACHINE_LONG           ? MACHINE_CODE64(cpl)
                              : machine_mode_size(mode) == 4 ? MACHINE_CODE32(cpl)
                                                             : MACHINE_CODE16(cpl);

    *cs = (struct segment){.limit = attributes[mode] & SEG_G ? 0xffffffff : 0xffff, .attributes = attributes[mode]};
    if (mode >= MACHINE_PROTECTED16) {
        cs->selector = (uint16_t)(selector | cpl);
        cs->attributes = (uint16_t)(cs->attributes | cpl << SEG_DPL_SHIFT);
    }
}

static void set_segments(struct machine *machine)
{
    struct cpu *cpu = machine->guest.cpu;
    const bool flat = machine->mode >= MACHINE_PROTECTED16;
    const unsigned cpl = machine->cpl;

    set_code_segment(machine);
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        if (i != SEG_CS && flat)
            cpu->segment[i] = (struct segment){.limit = 0xffffffff,
                                               .selector = (uint16_t)(MACHINE_DATA_OF(cpl) | cpl),
                                               .attributes = (uint16_t)(0xc093 | cpl << SEG_DPL_SHIFT)};
        else if (i != SEG_CS)
            cpu->segment[i] =
                (struct segment){.limit = 0xffff, .attributes = machine->mode == MACHINE_V86 ? 0xf3 : 0x93};
    if (flat && machine_mode_size(machine->mode) == 2)
        cpu->segment[SEG_SS] = (struct segment){.limit = 0xffff,
                                                .selector = (uint16_t)(MACHINE_DATA_OF(cpl) | cpl),
                                                .attributes = (uint16_t)(0x93 | cpl << SEG_DPL_SHIFT)};
}

void machine_enter(struct machine *machine, enum machine_mode mode, unsigned cpl)
{
    struct cpu *cpu = machine->guest.cpu;
    const bool same = machine->entered && machine_mode_is_long(mode) == machine_mode_is_long(machine->mode) &&
                      !(cpu->cr4 & ~(CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT));

    machine->mode = mode;
    machine->cpl = cpl;
    machine->entered = true;
    set_control(machine);
    set_tables(machine);
    set_segments(machine);
    for (unsigned i = 0; i < 16; i++)
        cpu->gpr[i].q = 0;
    cpu->gpr[REG_RSP].q = MACHINE_STACK;
    cpu->cpl = (uint8_t)cpl;
    cpu->rip = MACHINE_CODE;
    cpu->interrupt_shadow = cpu->debug_shadow = cpu->nmi_masked = cpu->memory_event = false;
    cpu->debug_pending = 0;
    cpu->dr6 = 0xffff0ff0;
    cpu->dr7 = 0x400;
    cpu_set_rflags(cpu, RFLAGS_ONE | (mode == MACHINE_V86 ? RFLAGS_VM : 0));
    cpu_update_mode(cpu);
    if (!same)
        cpu_flush_tlb(cpu, false);
}

/* ---- running ---- */

uint16_t machine_add_code(struct machine *machine, const void *code, size_t size)
{
    uint32_t at = MACHINE_CODE;

    while (machine_get(machine, at, 8) || machine_get(machine, at + 8, 8))
        at += CODE_STEP;
    memcpy(machine->guest.memory + at, code, size);
    return (uint16_t)at;
}

struct outcome machine_step(struct machine *machine, uint32_t offset)
{
    struct cpu *cpu = machine->guest.cpu;

    cpu->rip = offset;
    switch (cpu_step(cpu)) {
    case LEAVE_NONE:
        return (struct outcome){.vector = OUTCOME_DONE};
    case LEAVE_FAULT:
        return (struct outcome){.vector = cpu->fault.vector, .error = cpu->fault.has_error ? cpu->fault.error : 0};
    default:
        return (struct outcome){.vector = OUTCOME_OTHER, .error = cpu->leave};
    }
}

/* A processor of Intel: far pointers of 80 bits, and what else vendor.h lists. */
static void set_vendor(struct machine *machine)
{
    uint32_t leaf_0[4] = {0};

    memcpy(&leaf_0[1], "Genu", 4);
    memcpy(&leaf_0[3], "ineI", 4);
    memcpy(&leaf_0[2], "ntel", 4);
    cpuid_set_vendor(&machine->guest.cpu->cpuid, leaf_0);
}

bool machine_create(struct machine *machine)
{
    *machine = (struct machine){0};
    if (!guest_create(&machine->guest, NULL, true))
        return false;
    set_vendor(machine);
    return true;
}

void machine_destroy(struct machine *machine)
{
    guest_destroy(&machine->guest);
}
