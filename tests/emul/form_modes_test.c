/*
 * Every instruction form with a memory or port operand (form_cases.h) in the modes that this host's processor does not show to a
 * program: by our processor and by the emulator, at privilege 0 (virtual-8086 mode: 3), so that ports and the processor's
 * tables take part. What the processor does is compared with silicon by form_host_test and tests/insn.
 *
 *     form_modes_test long|compatibility|protected32|protected16|real|v86 [all]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "duel/duel_code.h"
#include "emul/form_emulate.h"
#include "support/flat_cpu.h"
#include "x86/system/control.h"
#include "x86/system/descriptor.h"

enum { GUEST = 0x80000, PAGES = 5, BYTES = PAGES * 0x1000, TABLE = 0x1000, PORT_BITMAP = 0x1200, LINEAR = 0x30000000 };
enum { CODE = 8, DATA = 0x10, OTHER = 0x18, SHORT = 0x20, LOCAL = 0x28, TASK = 0x30, GATE = 0x38 };

enum mode { LONG, COMPATIBILITY, PROTECTED_32, PROTECTED_16, REAL, V86, MODES };
static const char *const mode_names[] = {"long", "compatibility", "protected32", "protected16", "real", "v86"};

static struct opcode_row rows[OPCODE_ROWS_MOST];
static struct flat_cpu *flat;
static enum mode mode;
static unsigned long cases, same, failures, both_fault;

static bool is_paged(void) { return mode <= COMPATIBILITY; }
static uint64_t linear_base(void) { return is_paged() ? LINEAR : GUEST; }
static uint64_t offset_base(void) { return is_paged() ? LINEAR : 0; }

/* ---- the machine ---- */

/* Where a byte of the arena is; NULL: it is not in it. */
static uint8_t *arena(uint64_t offset)
{
    const uint64_t at = offset - offset_base();

    if (at >= BYTES)
        return NULL;
    return flat->memory + GUEST + (is_paged() ? ((PAGES - 1) * PAGE_SIZE - (at & PAGE_MASK)) | (at & ~PAGE_MASK) : at);
}

/* Code and data of the mode, 32-bit code, data with the base LINEAR, a local table, a busy task, a call gate. */
static void write_tables(void)
{
    const uint64_t size = mode == LONG ? 0x00af000000000000 : mode == PROTECTED_16 ? 0x0000000000000000 : 0x00cf000000000000;
    const uint64_t base = is_paged() ? 0 : GUEST, at = (base & 0xffffff) << 16 | (base >> 24) << 56;
    uint64_t gdt[16] = {
        [1] = 0x00009b000000ffff | size | at, [2] = 0x000093000000ffff | (size & ~(2ull << 52)) | at, [3] = 0x00cf9b000000ffff | at,
        [4] = 0x300093000000ffff, [5] = 0x000082000000002f, [6] = 0x00008b0000000fff};

    gdt[7] = (uint64_t)((offset_base() + 0x840) & 0xffff) | (uint64_t)CODE << 16 | 0x8c0000000000 | ((offset_base() + 0x840) & 0xffff0000) << 32;
    memcpy(arena(offset_base() + TABLE), gdt, sizeof(gdt));
    memset(arena(offset_base() + PORT_BITMAP), 0, 0x100);
}

static void set_tables(struct cpu *cpu)
{
    const uint64_t base = linear_base();

    cpu->gdtr = (struct table_register){.base = base + TABLE, .limit = 127};
    cpu->idtr = (struct table_register){.base = base + TABLE + 0x400, .limit = 0x3ff};
    cpu->segment[SEG_LDTR] = (struct segment){.base = base + TABLE, .limit = 0x2f, .selector = LOCAL, .attributes = SEG_P | SYSTEM_LDT};
    cpu->segment[SEG_TR] = (struct segment){.base = base + PORT_BITMAP - 0x68, .limit = 0xfff, .selector = TASK, .attributes = SEG_P | SYSTEM_TSS_BUSY};
    memcpy(arena(offset_base() + PORT_BITMAP - 2), "\x68\0", 2); /* where the bitmap is */
}

static void enter_paged(void)
{
    flat_long(flat, mode == LONG, 0);
    for (unsigned i = 0; i < PAGES; i++) /* in descending order, so that what crosses pages is not consecutive */
        flat_map(flat, LINEAR + i * PAGE_SIZE, GUEST + (PAGES - 1 - i) * PAGE_SIZE, i == PAGES - 1 ? FLAT_READ : FLAT_WRITE);
    flat->cpu->cr4 |= CR4_OSXSAVE | CR4_FSGSBASE;
    flat->cpu->segment[SEG_CS].selector = CODE;
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        if (i != SEG_CS)
            flat->cpu->segment[i].selector = DATA;
}

static void enter_segmented(void)
{
    struct cpu *cpu = flat->cpu;

    flat_real(flat);
    cpu->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    if (mode != REAL)
        cpu->cr0 |= CR0_PE;
    cpu->cpl = mode == V86 ? 3 : 0;
    for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
        struct segment *s = &cpu->segment[i];

        flat_real_segment(flat, i, GUEST >> 4);
        s->limit = BYTES - 1;
        if (mode == PROTECTED_16 || mode == PROTECTED_32)
            s->selector = i == SEG_CS ? CODE : DATA;
        if (mode == PROTECTED_32)
            s->attributes |= SEG_DB;
        if (mode == V86)
            s->attributes = SEG_P | SEG_S | 3 << SEG_DPL_SHIFT | SEG_TYPE_WRITABLE | SEG_TYPE_ACCESSED;
    }
}

/* x87, SSE, AVX, PKRU; what there is of them. */
static uint32_t components(void)
{
    return (uint32_t)cpu_xcr0_mask(flat->cpu);
}

static void prepare(const struct form_case *c)
{
    struct cpu *cpu = flat->cpu;

    cpu_set_rflags(cpu, 0);
    memset(flat->memory + GUEST, 0x5a, BYTES);
    if (is_paged())
        enter_paged();
    else
        enter_segmented();
    write_tables();
    set_tables(cpu);
    if (c->is_short)
        for (unsigned i = SEG_ES; i <= SEG_DS; i += SEG_DS - SEG_ES)
            cpu->segment[i] = (struct segment){.base = LINEAR, .limit = 0xffff, .selector = SHORT, .attributes = 0x93};
    for (unsigned i = 0; i < c->memory_count; i++)
        for (unsigned k = 0; k < c->memory[i].size; k++)
            if (arena(c->memory[i].at + k))
                *arena(c->memory[i].at + k) = c->memory[i].bytes[k];
    memset(arena(c->state.rip), 0xf4, 0x80);
    memcpy(arena(c->state.rip), c->code, c->size);
    for (unsigned i = 0; i < 16; i++) {
        cpu->gpr[i].q = c->state.gpr[i];
        memcpy(&cpu->vector[i], c->state.fxsave + 160 + 16 * i, 16);
        memcpy(&cpu->vector[i].q[2], c->state.upper[i], 16);
    }
    memcpy(&cpu->x87, c->state.fxsave, 160);
    cpu->mxcsr = 0x1f80;
    cpu->xcr0 = components();
    cpu->pkru = (uint32_t)c->state.fxsave[160] * 0x01010101u;
    cpu->rip = c->state.rip;
    cpu->interrupt_shadow = cpu->debug_shadow = false;
    cpu->debug_pending = cpu->debug_held = 0;
    cpu_set_rflags(cpu, (c->state.rflags & ~RFLAGS_IF) | (mode == V86 ? RFLAGS_VM : 0));
    cpu_update_mode(cpu);
    cpu_drop_memory(cpu, false);
    cpu_invalidate_code(cpu, GUEST, BYTES);
    flat->io_value = 0x98765432;
}

/* ---- comparison ---- */

/* Flags that the manual leaves undefined: the processor's fast operations and its exec functions may differ in them. */
static uint64_t undefined_flags(const struct form_case *c)
{
    const bool shifts = c->is_valid && (c->insn.meta.category == ZYDIS_CATEGORY_ROTATE || c->insn.meta.category == ZYDIS_CATEGORY_SHIFT);

    return (c->is_valid && c->insn.cpu_flags ? c->insn.cpu_flags->undefined : 0) | (shifts ? RFLAGS_OF : 0); /* for counts above 1 */
}

static void failed(const char *what, const struct form_case *c)
{
    if (failures++ >= 20)
        return;
    fprintf(stderr, "FAILED: %s: ", what);
    form_print(c);
}

static enum cpu_leave run_processor(uint64_t rip)
{
    enum cpu_leave leave;

    do
        leave = cpu_step(flat->cpu);
    while (leave == LEAVE_NONE && flat->cpu->rip == rip && flat->cpu->gpr[REG_RCX].q);
    return leave;
}

static void compare(const struct form_case *c, enum cpu_leave leave, const struct form_state *processor, const uint8_t *memory)
{
    const struct cpu_fault fault = flat->cpu->fault;
    struct form_state emulated;

    prepare(c);
    const enum form_end end = form_emulate(c, flat->cpu, GUEST, BYTES);
    if (end == FORM_REFUSED) {
        if (!form_may_be_refused(c) && !(leave == LEAVE_FAULT && fault.vector == VECTOR_UD))
            failed("refused without need", c);
        return;
    }
    form_take(flat->cpu, &emulated);
    const struct cpu_fault *f = &flat->cpu->fault;
    if ((end == FORM_FAULT) != (leave == LEAVE_FAULT))
        failed("one of them faults", c);
    else if (end == FORM_FAULT && (f->vector != fault.vector || f->error != fault.error || f->address != fault.address))
        failed("they fault differently", c);
    else if (!form_same(processor, &emulated, undefined_flags(c) | (end == FORM_FAULT ? RFLAGS_RF : 0)))
        failed("registers differ", c);
    else if (memcmp(memory, flat->memory + GUEST, BYTES))
        failed("memory differs", c);
    else
        same++, both_fault += end == FORM_FAULT;
}

static void one_case(const struct form_case *c)
{
    static uint8_t memory[BYTES];
    struct form_state processor;

    cases++;
    prepare(c);
    const enum cpu_leave leave = run_processor(c->state.rip);
    form_take(flat->cpu, &processor);
    memcpy(memory, flat->memory + GUEST, BYTES);
    if (leave == LEAVE_NONE || leave == LEAVE_FAULT)
        compare(c, leave, &processor, memory);
}

int main(int argc, char **argv)
{
    for (mode = 0; mode < MODES && (argc < 2 || strcmp(argv[1], mode_names[mode])); mode++)
        ;
    if (mode == MODES)
        return 2;
    const unsigned bits = mode == LONG ? 64 : mode == COMPATIBILITY || mode == PROTECTED_32 ? 32 : 16;
    const uint64_t base = offset_base();

    flat = flat_create();
    if (!flat)
        return 1;
    const struct case_layout layout = {
        .code = base + 0x800, .data = base + 0x2000, .stack = base + 0x3000, .idle_stack = base + 0x2f00, .read_only = base + 0x4000, .nothing = base + BYTES,
        .short_bias = mode == COMPATIBILITY ? LINEAR : 0, .components = components(), .code_selector = mode >= REAL ? GUEST >> 4 : CODE,
        .data_selector = mode >= REAL ? GUEST >> 4 : DATA, .short_selector = SHORT, .other_selector = OTHER};
    const unsigned count = opcode_rows(rows);

    for (unsigned i = 0; i < count; i++)
        form_cases(&rows[i], bits, &layout, argc > 2, one_case);
    printf("%s: %lu cases, %lu the same in the emulator as on the processor (%lu of them faults); %lu failures\n", mode_names[mode],
           cases, same, both_fault, failures);
    failures += form_report();
    flat_destroy(flat);
    return failures == 0 && same != 0 ? 0 : 1;
}
