/*
 * What the host processor cannot be asked in a program: ports, the privileged sides of POPF and PUSHF, long strings
 * that are interrupted, vanished memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "support/flat_cpu.h"
#include "x86/system/event.h"

/* Code at CODE, data from DATA on (16 pages, backwards in physical memory), nothing behind. */
enum {
    CODE = 0x400000,
    DATA = 0x500000,
    DATA_PAGES = 16,
    DATA_END = DATA + DATA_PAGES * 0x1000,
    CODE_GPA = 0x100000,
    DATA_GPA = 0x200000
};

static gpa_t data_gpa(gva_t gva)
{
    return DATA_GPA + (DATA_PAGES - 1) * PAGE_SIZE - ((gva - DATA) & PAGE_MASK) + (gva & ~PAGE_MASK);
}
static uint8_t *data(struct flat_cpu *f, gva_t gva) { return f->memory + data_gpa(gva); }

static int setup(void **state)
{
    struct flat_cpu *f = flat_create();

    *state = f;
    return f ? 0 : -1;
}

static int teardown(void **state)
{
    flat_destroy(*state);
    return 0;
}

/* 64-bit code at a privilege level, RIP at `bytes`. */
static void start(struct flat_cpu *f, uint8_t cpl, const void *bytes, size_t size)
{
    flat_long(f, true, cpl);
    flat_map(f, CODE, CODE_GPA, cpl == 3 ? FLAT_WRITE : FLAT_WRITE | FLAT_SUPERVISOR);
    for (unsigned i = 0; i < DATA_PAGES; i++)
        flat_map(f, DATA + i * PAGE_SIZE, data_gpa(DATA + i * PAGE_SIZE), FLAT_WRITE);
    memcpy(f->memory + CODE_GPA, bytes, size);
    cpu_invalidate_code(f->cpu, CODE_GPA, PAGE_SIZE);
    cpu_set_rflags(f->cpu, RFLAGS_ONE);
    f->cpu->rip = CODE;
}

#define START(f, cpl, ...)                                                                         \
    do {                                                                                           \
        const uint8_t code_[] = {__VA_ARGS__};                                                     \
        start((f), (cpl), code_, sizeof(code_));                                                   \
    } while (0)

/* Step until RIP moves on; returns the number of steps. */
static unsigned finish(struct flat_cpu *f)
{
    for (unsigned steps = 1; steps < 100000; steps++) {
        assert_int_equal(cpu_step(f->cpu), LEAVE_NONE);
        if (f->cpu->rip != CODE)
            return steps;
    }
    fail();
    return 0;
}

/* ---- ports ---- */

static void in_reads_and_extends(void **state)
{
    struct flat_cpu *f = *state;

    START(f, 0, 0xed); /* IN EAX, DX */
    f->io_value = 0x89abcdef;
    f->cpu->gpr[REG_RAX].q = ~0ull;
    f->cpu->gpr[REG_RDX].q = 0xffff1234;
    finish(f);
    assert_int_equal(f->cpu->gpr[REG_RAX].q, 0x89abcdef);
    assert_int_equal(f->last_io.port, 0x1234);
    assert_int_equal(f->last_io.size, 4);
    START(f, 0, 0xe4, 0xf0); /* IN AL, F0h: the immediate is not sign-extended */
    f->cpu->gpr[REG_RAX].q = ~0ull;
    finish(f);
    assert_int_equal(f->cpu->gpr[REG_RAX].q, 0xffffffffffffffef);
    assert_int_equal(f->last_io.port, 0xf0);
}

static void ports_need_iopl(void **state)
{
    struct flat_cpu *f = *state;

    START(f, 3, 0xee); /* OUT DX, AL */
    assert_int_equal(cpu_step(f->cpu), LEAVE_FAULT);
    assert_int_equal(f->cpu->fault.vector, VECTOR_GP);
    assert_int_equal(f->io_count, 0);
    START(f, 3, 0xee);
    cpu_set_rflags(f->cpu, RFLAGS_ONE | RFLAGS_IOPL);
    f->cpu->gpr[REG_RAX].q = 0x5a;
    finish(f);
    assert_int_equal(f->io_count, 1);
    assert_int_equal(f->last_io_data, 0x5a);
}

static void outs_repeats(void **state)
{
    struct flat_cpu *f = *state;

    START(f, 0, 0xf3, 0x6f); /* REP OUTSD */
    memcpy(data(f, DATA), "abcdefghijklmnop", 16);
    f->cpu->gpr[REG_RSI].q = DATA;
    f->cpu->gpr[REG_RCX].q = 4;
    f->cpu->gpr[REG_RDX].q = 0x70;
    finish(f);
    assert_int_equal(f->io_count, 4);
    assert_memory_equal(&f->last_io_data, "mnop", 4);
    assert_true(f->last_io.is_string && f->last_io.has_rep && f->last_io.is_write);
    assert_int_equal(f->last_io.segment, SEG_DS);
    assert_int_equal(f->last_io.address_size, 8);
    assert_int_equal(f->cpu->gpr[REG_RSI].q, DATA + 16);
    assert_int_equal(f->cpu->gpr[REG_RCX].q, 0);
}

static void ins_checks_memory_before_the_port(void **state)
{
    struct flat_cpu *f = *state;

    START(f, 0, 0xf3, 0x66, 0x6d); /* REP INSW */
    f->io_value = 0x1234;
    f->cpu->gpr[REG_RDI].q = DATA_END - 4;
    f->cpu->gpr[REG_RCX].q = 3;
    assert_int_equal(cpu_step(f->cpu), LEAVE_FAULT);
    assert_int_equal(f->cpu->fault.vector, VECTOR_PF);
    assert_int_equal(f->cpu->fault.address, DATA_END);
    /* Two words were taken and stored, the third was not taken. */
    assert_int_equal(f->io_count, 2);
    assert_int_equal(f->cpu->gpr[REG_RCX].q, 1);
    assert_int_equal(f->cpu->gpr[REG_RDI].q, DATA_END);
    assert_memory_equal(data(f, DATA_END - 4), "\x34\x12\x34\x12", 4);
}

/* ---- flags ---- */

static void popf_by_privilege(void **state)
{
    const uint64_t all =
        RFLAGS_IOPL | RFLAGS_IF | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID | RFLAGS_VIF | RFLAGS_VIP | RFLAGS_VM | RFLAGS_RF;
    static const struct {
        uint8_t cpl;
        uint64_t before, taken;
    } cases[] = {
        {0, 0, RFLAGS_IOPL | RFLAGS_IF | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID},
        {3, 0, RFLAGS_NT | RFLAGS_AC | RFLAGS_ID},
        {3, RFLAGS_IOPL, RFLAGS_IOPL | RFLAGS_IF | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID},
    };
    struct flat_cpu *f = *state;

    for (unsigned i = 0; i < 3; i++) {
        START(f, cases[i].cpl, 0x9d); /* POPFQ */
        cpu_set_rflags(f->cpu, RFLAGS_ONE | cases[i].before);
        memcpy(data(f, DATA + 0x800), &all, 8);
        f->cpu->gpr[REG_RSP].q = DATA + 0x800;
        finish(f);
        assert_int_equal(cpu_rflags(f->cpu), RFLAGS_ONE | cases[i].taken);
        assert_int_equal(f->cpu->gpr[REG_RSP].q, DATA + 0x808);
    }
}

/* POPF of 16 bits leaves the upper flags. */
static void popf_16(void **state)
{
    struct flat_cpu *f = *state;

    START(f, 0, 0x66, 0x9d);
    cpu_set_rflags(f->cpu, RFLAGS_ONE | RFLAGS_AC | RFLAGS_ID | RFLAGS_IF);
    memset(data(f, DATA + 0x800), 0, 8);
    f->cpu->gpr[REG_RSP].q = DATA + 0x800;
    finish(f);
    assert_int_equal(cpu_rflags(f->cpu), RFLAGS_ONE | RFLAGS_AC | RFLAGS_ID);
}

/* Virtual-8086 mode: IOPL 3 or VME, else #GP(0). */
static void popf_in_virtual_8086_mode(void **state)
{
    struct flat_cpu *f = *state;

    flat_real(f);
    f->memory[0x1000] = 0x9d;
    f->cpu->cr0 |= CR0_PE;
    f->cpu->cpl = 3;
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        f->cpu->segment[i].attributes |= SEG_DPL_MASK;
    f->cpu->gpr[REG_RSP].q = 0x2000;
    f->memory[0x2001] = 2; /* IF */
    for (unsigned vme = 0; vme < 2; vme++) {
        f->cpu->cr4 = vme ? CR4_VME : 0;
        f->cpu->rip = 0x1000;
        f->cpu->gpr[REG_RSP].q = 0x2000;
        cpu_set_rflags(f->cpu, RFLAGS_ONE | RFLAGS_VM);
        cpu_update_mode(f->cpu);
        assert_int_equal(cpu_step(f->cpu), vme ? LEAVE_NONE : LEAVE_FAULT);
        assert_int_equal(cpu_rflags(f->cpu), RFLAGS_ONE | RFLAGS_VM | (vme ? RFLAGS_VIF : 0));
    }
    cpu_set_rflags(f->cpu, RFLAGS_ONE | RFLAGS_VM | RFLAGS_VIP);
    f->cpu->rip = 0x1000;
    f->cpu->gpr[REG_RSP].q = 0x2000;
    assert_int_equal(cpu_step(f->cpu), LEAVE_FAULT);
    assert_int_equal(f->cpu->fault.vector, VECTOR_GP);
}

/* ---- long strings ---- */

static void fill_pattern(struct flat_cpu *f)
{
    for (gva_t at = DATA; at < DATA_END; at++)
        *data(f, at) = (uint8_t)(at * 7 + (at >> 8));
}

/* After every step the registers must tell exactly how far it came. */
static void movs_can_be_interrupted(void **state)
{
    enum { COUNT = 7 * 4096 - 100 };
    struct flat_cpu *f = *state;
    const gva_t from = DATA + 13, to = DATA + 8 * 4096 + 77;
    unsigned steps = 0;

    START(f, 0, 0xf3, 0xa4); /* REP MOVSB */
    fill_pattern(f);
    f->cpu->gpr[REG_RSI].q = from;
    f->cpu->gpr[REG_RDI].q = to;
    f->cpu->gpr[REG_RCX].q = COUNT;
    while (f->cpu->rip == CODE) {
        const uint64_t done = COUNT - f->cpu->gpr[REG_RCX].q;
        assert_int_equal(f->cpu->gpr[REG_RSI].q, from + done);
        assert_int_equal(f->cpu->gpr[REG_RDI].q, to + done);
        assert_int_equal(cpu_step(f->cpu), LEAVE_NONE);
        steps++;
    }
    assert_int_equal(f->cpu->gpr[REG_RCX].q, 0);
    assert_true(steps < 100);
    for (gva_t i = 0; i < COUNT; i++)
        assert_int_equal(*data(f, to + i), *data(f, from + i));
}

/* RDI = RSI + 1: the first byte everywhere. Backwards it is a proper move. */
static void movs_overlaps(void **state)
{
    enum { COUNT = 3 * 4096 };
    struct flat_cpu *f = *state;

    START(f, 0, 0xf3, 0xa4);
    fill_pattern(f);
    f->cpu->gpr[REG_RSI].q = DATA + 5;
    f->cpu->gpr[REG_RDI].q = DATA + 6;
    f->cpu->gpr[REG_RCX].q = COUNT;
    finish(f);
    for (gva_t i = 0; i <= COUNT; i++)
        assert_int_equal(*data(f, DATA + 5 + i), (uint8_t)((DATA + 5) * 7 + (DATA >> 8)));

    START(f, 0, 0xf3, 0x48, 0xa5); /* REP MOVSQ */
    fill_pattern(f);
    cpu_set_rflags(f->cpu, RFLAGS_ONE | RFLAGS_DF);
    f->cpu->gpr[REG_RSI].q = DATA + COUNT - 8;
    f->cpu->gpr[REG_RDI].q = DATA + COUNT - 5;
    f->cpu->gpr[REG_RCX].q = COUNT / 8;
    finish(f);
    for (gva_t i = 0; i < COUNT; i++)
        assert_int_equal(*data(f, DATA + 3 + i), (uint8_t)((DATA + i) * 7 + ((DATA + i) >> 8)));
    assert_int_equal(f->cpu->gpr[REG_RSI].q, DATA - 8);
}

/* A page that is not there, far in: everything before it has happened. */
static void stos_stops_at_a_fault(void **state)
{
    struct flat_cpu *f = *state;
    enum cpu_leave leave;

    START(f, 0, 0xf3, 0xab); /* REP STOSD */
    fill_pattern(f);
    f->cpu->gpr[REG_RAX].q = 0x04030201;
    f->cpu->gpr[REG_RDI].q = DATA_END - 5 * 4096 - 2;
    f->cpu->gpr[REG_RCX].q = 0x10000;
    do
        leave = cpu_step(f->cpu);
    while (leave == LEAVE_NONE);
    assert_int_equal(leave, LEAVE_FAULT);
    assert_int_equal(f->cpu->fault.address, DATA_END);
    assert_int_equal(f->cpu->fault.error, PF_W);
    assert_int_equal(f->cpu->gpr[REG_RDI].q, DATA_END - 2);
    assert_int_equal(f->cpu->gpr[REG_RCX].q, 0x10000 - 5 * 1024);
    for (gva_t at = DATA_END - 5 * 4096 - 2, i = 0; at < DATA_END - 2; at++, i++)
        assert_int_equal(*data(f, at), 1 + i % 4);
}

/* Under TF one element at a time, RIP at the instruction until the last. */
static void single_step_sees_each_element(void **state)
{
    struct flat_cpu *f = *state;

    START(f, 0, 0xf3, 0xaa); /* REP STOSB */
    f->cpu->gpr[REG_RDI].q = DATA;
    f->cpu->gpr[REG_RCX].q = 5;
    cpu_set_rflags(f->cpu, RFLAGS_ONE | RFLAGS_TF);
    for (unsigned left = 4; left > 0; left--) {
        (void)cpu_step(f->cpu);
        assert_int_equal(f->cpu->gpr[REG_RCX].q, left);
        assert_int_equal(f->cpu->rip, CODE);
    }
    (void)cpu_step(f->cpu);
    assert_int_equal(f->cpu->rip, CODE + 2);
}

/* ---- features that were taken away ---- */

static void missing_features_are_undefined(void **state)
{
    static const struct {
        enum cpu_feature feature;
        uint8_t bytes[6];
        bool runs; /* as something else */
    } cases[] = {
        {FEATURE_POPCNT, {0xf3, 0x0f, 0xb8, 0xc1}, false}, {FEATURE_MOVBE, {0x0f, 0x38, 0xf0, 0x03}, false},
        {FEATURE_BMI1, {0xc4, 0xe2, 0x70, 0xf2, 0xc2}, false}, {FEATURE_BMI2, {0xc4, 0xe2, 0x73, 0xf5, 0xc2}, false},
        {FEATURE_ADX, {0x66, 0x0f, 0x38, 0xf6, 0xc1}, false}, {FEATURE_CX16, {0x48, 0x0f, 0xc7, 0x0b}, false},
        {FEATURE_RDRAND, {0x0f, 0xc7, 0xf0}, false}, {FEATURE_RDSEED, {0x0f, 0xc7, 0xf8}, false},
        {FEATURE_LZCNT, {0xf3, 0x0f, 0xbd, 0xc1}, true}, {FEATURE_BMI1, {0xf3, 0x0f, 0xbc, 0xc1}, true},
    };
    struct flat_cpu *f = *state;

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (unsigned has = 0; has < 2; has++) {
            start(f, 0, cases[i].bytes, sizeof(cases[i].bytes));
            f->cpu->gpr[REG_RBX].q = DATA;
            f->cpu->gpr[REG_RCX].q = 0x100;
            cpuid_set(&f->cpu->cpuid, cases[i].feature, has);
            const enum cpu_leave leave = cpu_step(f->cpu);
            assert_int_equal(leave, has || cases[i].runs ? LEAVE_NONE : LEAVE_FAULT);
            if (leave == LEAVE_FAULT)
                assert_int_equal(f->cpu->fault.vector, VECTOR_UD);
            else if (cases[i].runs && !has)
                assert_int_equal(f->cpu->gpr[REG_RAX].d, 8); /* the index of the bit */
            cpuid_set(&f->cpu->cpuid, cases[i].feature, true);
        }
}

/* ---- calls ---- */

/* again: call f / dec ecx / jnz again / hlt; f: ret. The call is linked to its target by the time its stack is on a page with
 * code, where the fast way does not serve. */
static void linked_call_onto_a_code_page(void **state)
{
    struct flat_cpu *f = *state;
    struct event event;

    START(f, 0, 0xe8, 0x05, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf7, 0xf4, 0xc3);
    for (unsigned round = 0; round < 4; round++) {
        f->cpu->gpr[REG_RSP].q = round & 1 ? CODE + 0x800 : DATA + 0x800;
        f->cpu->gpr[REG_RCX].q = 3;
        f->cpu->rip = CODE;
        assert_int_equal(cpu_run(f->cpu, &event), LEAVE_HALT);
        assert_int_equal(f->cpu->rip, CODE + 10);
        assert_int_equal(f->cpu->gpr[REG_RCX].q, 0);
        assert_int_equal(f->cpu->gpr[REG_RSP].q, round & 1 ? CODE + 0x800 : DATA + 0x800);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(linked_call_onto_a_code_page),
        T(in_reads_and_extends), T(ports_need_iopl), T(outs_repeats), T(ins_checks_memory_before_the_port),
        T(popf_by_privilege), T(popf_16), T(popf_in_virtual_8086_mode), T(movs_can_be_interrupted), T(movs_overlaps),
        T(stos_stops_at_a_fault), T(single_step_sees_each_element), T(missing_features_are_undefined),
#undef T
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
