/*
 * Random system code over random descriptor tables, TSSs, page tables and registers, in every mode. Nothing is expected of
 * it but that the processor stays one: no crash, no hang, and after each instruction or delivery a state that a
 * processor can be in, with everything derived from it up to date.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "guest.h"
#include "util/compiler.h"
#include "x86/port.h"
#include "x86/system/control.h"

enum { CODE = 0x10000, STACK = 0x20000, GDT = 0x30000, IDT = 0x31000, TSS = 0x33000, LDT = 0x34000, PML4 = 0x40000 };

static uint64_t random_state;

static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1d;
}

static unsigned below(unsigned n) { return (unsigned)((random_u64() >> 32) % n); }
static bool one_in(unsigned n) { return below(n) == 0; }

/* ---- tables ---- */

static void put(struct guest *g, uint32_t at, const void *data, size_t size)
{
    memcpy(g->memory + at, data, size);
}

/* Flat, mostly present, any type and privilege; sometimes any bits at all. */
static uint64_t random_descriptor(bool is_long)
{
    static const uint8_t code_data[] = {0x9a, 0x9b, 0x92, 0x93, 0xfa, 0xf2, 0xfb, 0xf3, 0x9e, 0xfe, 0x96, 0x90, 0x98, 0xba, 0xb2};
    uint64_t d = 0x000f00000000ffff | (uint64_t)code_data[below(array_size(code_data))] << 40;

    if (one_in(8))
        return random_u64();
    d |= (uint64_t)(is_long && one_in(2) ? 0x2 : 0xc) << 52;
    if (one_in(6))
        d ^= BIT64(40 + below(16));
    return d;
}

static uint16_t random_selector(void)
{
    static const uint16_t often[] = {0, 0x08, 0x10, 0x1b, 0x23, 0x28, 0x30, 0x38, 0x40};
    return one_in(4) ? (uint16_t)(below(0x140) & ~4u) : often[below(array_size(often))];
}

/* A call, interrupt, trap or task gate, or a TSS. */
static void random_system(bool is_long, uint64_t out[2])
{
    static const uint8_t types[] = {0x85, 0x8c, 0x84, 0x8e, 0x8f, 0x86, 0x87, 0xec, 0xee, 0xef, 0xe5};

    out[0] = (CODE + below(0x800)) | (uint64_t)random_selector() << 16 | (uint64_t)types[below(array_size(types))] << 40;
    out[0] |= (uint64_t)(CODE >> 16) << 48;
    if (is_long)
        out[0] |= (uint64_t)below(8) << 32;
    out[1] = one_in(8) ? random_u64() : 0;
}

static uint64_t tss_descriptor(uint32_t base, uint8_t access)
{
    return 0x67 | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 | (uint64_t)(base >> 24) << 56;
}

static void fill_tables(struct guest *g, bool is_long)
{
    for (unsigned i = 0; i < 40; i++) {
        uint64_t d[2] = {random_descriptor(is_long), 0};
        if (i >= 9 && one_in(2))
            random_system(is_long, d);
        put(g, GDT + i * 8, d, 8);
    }
    const uint64_t fixed[] = {0, is_long ? 0x00af9b000000ffff : 0x00cf9b000000ffff, 0x00cf93000000ffff,
                              is_long ? 0x00affb000000ffff : 0x00cffb000000ffff, 0x00cff3000000ffff,
                              tss_descriptor(TSS, 0x8b), 0, tss_descriptor(TSS + 0x200, 0x89), tss_descriptor(TSS + 0x400, 0x81)};
    put(g, GDT, fixed, sizeof(fixed));
    for (unsigned i = 0; i < 256; i++) {
        uint64_t d[2];
        random_system(is_long, d);
        if (!one_in(4))
            d[0] = (d[0] & ~0xffff0000ull) | 0x08 << 16;
        put(g, IDT + i * (is_long ? 16 : 8), d, is_long ? 16 : 8);
    }
    for (uint32_t at = TSS; at < TSS + 0x600; at += 4) {
        uint32_t v = one_in(3) ? random_selector() : STACK + (below(0x1000) & ~7u);
        put(g, at, &v, 4);
    }
}

static void fill_pages(struct guest *g, bool is_long, bool pae)
{
    uint64_t entry;

    memset(g->memory + PML4, 0, 0x4000);
    if (is_long) {
        entry = (PML4 + 0x1000) | 7;
        put(g, PML4, &entry, 8);
        entry = (PML4 + 0x2000) | 7;
        put(g, PML4 + 0x1000, &entry, 8);
    } else if (pae) {
        for (unsigned i = 0; i < 4; i++) {
            entry = (PML4 + 0x2000) | 1;
            put(g, PML4 + i * 8, &entry, 8);
        }
    }
    for (unsigned i = 0; i < 512; i++) {
        if (is_long || pae) {
            entry = (uint64_t)(i % 8) << 21 | 0x87;
            if (i && one_in(4))
                entry ^= 1ull << below(64);
            put(g, PML4 + 0x2000 + i * 8, &entry, 8);
        } else {
            entry = (uint64_t)(i % 4) << 22 | 0x87;
            put(g, PML4 + i * 4, &entry, 4);
        }
    }
}

/* ---- code ---- */

/* Opcodes of system instructions and far transfers; ModRM and immediates follow at random. */
static const struct {
    uint8_t length, bytes[3];
} opcodes[] = {
    {2, {0x0f, 0x00}}, {2, {0x0f, 0x01}}, {2, {0x0f, 0x02}}, {2, {0x0f, 0x03}}, {2, {0x0f, 0x05}}, {2, {0x0f, 0x06}}, {2, {0x0f, 0x07}},
    {2, {0x0f, 0x20}}, {2, {0x0f, 0x21}}, {2, {0x0f, 0x22}}, {2, {0x0f, 0x23}}, {2, {0x0f, 0x30}}, {2, {0x0f, 0x31}}, {2, {0x0f, 0x32}},
    {2, {0x0f, 0x34}}, {2, {0x0f, 0x35}}, {2, {0x0f, 0xa0}}, {2, {0x0f, 0xa1}}, {2, {0x0f, 0xa2}}, {2, {0x0f, 0xa8}}, {2, {0x0f, 0xa9}},
    {2, {0x0f, 0xae}}, {2, {0x0f, 0xb2}}, {2, {0x0f, 0xb4}}, {2, {0x0f, 0xb5}}, {3, {0xf3, 0x0f, 0xae}}, {1, {0x06}}, {1, {0x07}}, {1, {0x0e}},
    {1, {0x16}}, {1, {0x17}}, {1, {0x1e}}, {1, {0x1f}}, {1, {0x63}}, {1, {0x8c}}, {1, {0x8e}}, {1, {0x9a}}, {1, {0x9b}}, {1, {0x9c}}, {1, {0x9d}},
    {1, {0xc4}}, {1, {0xc5}}, {1, {0xc8}}, {1, {0xc9}}, {1, {0xca}}, {1, {0xcb}}, {1, {0xcc}}, {1, {0xcd}}, {1, {0xce}}, {1, {0xcf}}, {2, {0x48, 0xcf}},
    {2, {0x48, 0xcb}}, {1, {0xea}}, {1, {0xe4}}, {1, {0xe6}}, {1, {0xec}}, {1, {0xee}}, {1, {0xf1}}, {1, {0xf4}}, {1, {0xfa}}, {1, {0xfb}}, {1, {0xff}},
    {1, {0x50}}, {1, {0x58}}, {1, {0x60}}, {1, {0x61}}, {1, {0xb8}}, {1, {0x8b}}, {1, {0x89}}, {1, {0xc3}}, {1, {0xe8}}, {2, {0xf3, 0xa4}}, {2, {0xf3, 0x6c}},
};

static void fill_code(struct guest *g)
{
    uint32_t at = CODE;

    while (at < CODE + 0x1000) {
        const unsigned i = below(array_size(opcodes));
        if (one_in(8))
            g->memory[at++] = one_in(2) ? 0x66 : 0x67;
        put(g, at, opcodes[i].bytes, opcodes[i].length);
        at += opcodes[i].length;
        for (unsigned n = below(5); n > 0; n--)
            g->memory[at++] = (uint8_t)random_u64();
        if (one_in(4)) { /* a far pointer that leads somewhere */
            const uint16_t selector = random_selector();
            const uint32_t offset = CODE + below(0x1000);
            put(g, at, &offset, 4);
            put(g, at + 4, &selector, 2);
            at += 6;
        }
    }
}

/* ---- registers ---- */

enum mode { REAL, PROTECTED, PAGED, PAE, V86, COMPATIBILITY, LONG, MODES };

static void set_segment(struct cpu *cpu, unsigned i, uint16_t selector, uint16_t attributes)
{
    cpu->segment[i] = (struct segment){.limit = 0xffffffff, .selector = selector, .attributes = attributes};
}

static void set_registers(struct cpu *cpu, enum mode mode)
{
    const bool is_long = mode == LONG || mode == COMPATIBILITY;
    const unsigned cpl = mode == REAL ? 0 : mode == V86 ? 3 : one_in(2) ? 3 : 0;

    for (unsigned i = 0; i < 16; i++) {
        cpu->gpr[i].q = one_in(4) ? random_u64() : one_in(2) ? STACK + (below(0x1000) & ~7u) : random_selector();
        if (!is_long)
            cpu->gpr[i].q = cpu->gpr[i].d;
    }
    cpu->gpr[REG_RSP].q = STACK + (below(0x1000) & ~7u);
    cpu->rip = CODE + below(0x800);
    cpu->gdtr = (struct table_register){.base = GDT, .limit = 40 * 8 - 1};
    cpu->idtr = (struct table_register){.base = IDT, .limit = one_in(8) ? (uint16_t)below(0x1000) : 0xfff};
    cpu->cr0 = CR0_ET | (mode == REAL ? 0 : CR0_PE) | (mode >= PAGED && mode != V86 ? CR0_PG : 0) | (one_in(2) ? CR0_WP : 0);
    cpu->cr4 = (is_long || mode == PAE ? CR4_PAE : 0) | CR4_PSE | (random_u64() & (CR4_SMEP | CR4_SMAP | CR4_UMIP | CR4_TSD | CR4_FSGSBASE));
    cpu->efer = is_long ? EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE : EFER_SCE;
    cpu->cr3 = PML4;
    cpu->star = random_u64();
    cpu->lstar = cpu->cstar = cpu->sysenter_eip = CODE;
    cpu->sysenter_esp = STACK;
    cpu->sysenter_cs = random_selector();
    cpu->cpl = (uint8_t)cpl;
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        set_segment(cpu, i, cpl == 3 ? 0x23 : 0x10, (uint16_t)(0xc093 | cpl << SEG_DPL_SHIFT));
    set_segment(cpu, SEG_CS, cpl == 3 ? 0x1b : 0x08, (uint16_t)((mode == LONG ? 0xa09b : 0xc09b) | cpl << SEG_DPL_SHIFT));
    if (mode == REAL || mode == V86)
        for (unsigned i = SEG_ES; i <= SEG_GS; i++)
            cpu->segment[i] = (struct segment){.base = i == SEG_CS ? CODE : STACK, .limit = 0xffff, .attributes = mode == V86 ? 0xf3 : 0x93,
                                               .selector = (uint16_t)((i == SEG_CS ? CODE : STACK) >> 4)};
    if (mode == REAL || mode == V86) {
        cpu->rip -= CODE;
        cpu->gpr[REG_RSP].q -= STACK;
    }
    cpu->segment[SEG_TR] = (struct segment){.base = TSS, .limit = 0x67, .selector = 0x28, .attributes = 0x8b};
    cpu->segment[SEG_LDTR] = (struct segment){.base = LDT, .limit = 0xff, .selector = one_in(2) ? 0x30 : 0, .attributes = 0x82};
    cpu_set_rflags(cpu, RFLAGS_ONE | (random_u64() & (RFLAGS_ARITHMETIC | RFLAGS_IF | RFLAGS_IOPL | RFLAGS_DF | (one_in(8) ? RFLAGS_NT | RFLAGS_TF : 0))) |
                            (mode == V86 ? RFLAGS_VM : 0));
    cpu_control_changed(cpu);
}

/* ---- what must hold ---- */

static void check_state(struct cpu *cpu, enum mode began, unsigned step)
{
    const char *problem = cpu_control_problem(cpu);
    const uint32_t mode = cpu->mode;
    const uint64_t read_key = cpu->read_key, write_key = cpu->write_key, bound = cpu->read_bound[SEG_DS];
    const unsigned ss_dpl = (cpu->segment[SEG_SS].attributes & SEG_DPL_MASK) >> SEG_DPL_SHIFT;

    cpu_update_mode(cpu);
    if (problem || mode != cpu->mode || read_key != cpu->read_key || write_key != cpu->write_key || bound != cpu->read_bound[SEG_DS])
        print_error("began in mode %d, step %u, cs:rip %x:%llx\n", began, step, cpu->segment[SEG_CS].selector, (unsigned long long)cpu->rip);
    if (problem)
        fail_msg("%s", problem);
    assert_int_equal(mode, cpu->mode);
    assert_int_equal(read_key, cpu->read_key);
    assert_int_equal(write_key, cpu->write_key);
    assert_int_equal(bound, cpu->read_bound[SEG_DS]);
    assert_true(cpu->cpl <= 3);
    if (cpu_is_real(cpu))
        assert_int_equal(cpu->cpl, 0);
    if (cpu_is_v86(cpu))
        assert_int_equal(cpu->cpl, 3);
    if (cpu_is_protected(cpu) && began != REAL && (cpu->segment[SEG_SS].attributes & SEG_P))
        assert_int_equal(ss_dpl, cpu->cpl);
}

static enum cpu_leave step(struct cpu *cpu, struct event *pending)
{
    enum cpu_leave leave;

    if (cpu->memory_event)
        return event_dispatch(cpu, pending);
    cpu->interrupt_shadow = false;
    leave = cpu_step(cpu);
    if (leave != LEAVE_FAULT)
        return leave;
    *pending = event_from_fault(cpu);
    return event_dispatch(cpu, pending);
}

static void one_life(struct guest *g, uint64_t seed)
{
    struct event pending = {0};

    random_state = seed * 0x9e3779b97f4a7c15 + 1;
    for (unsigned i = 0; i < 4; i++)
        (void)random_u64();
    const enum mode mode = below(MODES);
    const bool is_long = mode == LONG || mode == COMPATIBILITY;
    memset(g->memory, 0, 0x80000);
    fill_tables(g, is_long);
    fill_pages(g, is_long, mode == PAE);
    fill_code(g);
    cpu_reset(g->cpu, false);
    set_registers(g->cpu, mode);
    cpu_invalidate_code(g->cpu, 0, GUEST_MEMORY);
    g->exit_one_in = one_in(3) ? 20 : 0;
    g->exit_random = seed;
    for (unsigned i = 0; i < 60; i++) {
        atomic_store(&g->cpu->request, 0);
        const enum cpu_leave leave = step(g->cpu, &pending);
        check_state(g->cpu, mode, i);
        if (leave == LEAVE_SHUTDOWN)
            break;
        if (!cpu_is_64(g->cpu) && one_in(10))
            g->cpu->gpr[REG_RSP].q = STACK + (below(0x1000) & ~7u);
    }
    g->cpu->memory_event = false;
}

static void test_random_lives(void **unused)
{
    struct guest guest;

    (void)unused;
    for (unsigned direct = 0; direct < 2; direct++) {
        assert_true(guest_create(&guest, NULL, direct));
        for (uint64_t seed = 1; seed <= 4000; seed++)
            one_life(&guest, seed + direct * 1000000);
        guest_destroy(&guest);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_lives)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
