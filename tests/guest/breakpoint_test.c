/*
 * Breakpoints in every mode: on an instruction, on data read and written, on ports, single steps, with the frame that
 * the handler finds and what DR6 says (SDM 3B 17.2, 17.3). The payload `debug` has the many special cases of 64-bit
 * code.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "machine.h"
#include "util/compiler.h"

enum { HANDLER = 0x7000, PORT = 0x42, DR6_CLEAR = (int)0xffff0ff0 };

static struct machine machine;

/* One instruction under one breakpoint (DR2); `behind`: the frame's IP is behind it, else at it. */
static const struct row {
    const char *name;
    uint8_t code[4], length;
    bool armed_code;    /* the breakpoint is at the instruction, else at the operand or port */
    unsigned condition; /* R/W: 0 execute, 1 write, 2 port, 3 read or write */
    bool strikes, behind;
} rows[] = {
    {"an instruction", {0x90}, 1, true, 0, true, false},
    {"a store, watched for stores", {0x88, 0x07}, 2, false, 1, true, true},
    {"a load, watched for stores", {0x8a, 0x07}, 2, false, 1, false, true},
    {"a store, watched for both", {0x88, 0x07}, 2, false, 3, true, true},
    {"a load, watched for both", {0x8a, 0x07}, 2, false, 3, true, true},
    {"a load, watched for ports", {0x8a, 0x07}, 2, false, 2, false, true},
    {"IN", {0xec}, 1, false, 2, true, true},
    {"OUT", {0xee}, 1, false, 2, true, true},
    {"IN, watched as memory", {0xec}, 1, false, 3, false, true},
};

static uint16_t code_at[array_size(rows)];

static int set_up(void **unused)
{
    (void)unused;
    if (!machine_create(&machine))
        return -1;
    for (unsigned i = 0; i < array_size(rows); i++)
        code_at[i] = machine_add_code(&machine, rows[i].code, rows[i].length);
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    machine_destroy(&machine);
    return 0;
}

/* #DB goes to HANDLER at level 0, in real mode by the vector table. */
static void enter(enum machine_mode mode, unsigned cpl)
{
    const struct rights gate = {.type = 14, .present = true};
    struct cpu *cpu = machine.guest.cpu;

    machine_enter(&machine, mode, cpl);
    if (mode == MACHINE_REAL)
        machine_put(&machine, MACHINE_IDT + 4, HANDLER, 4);
    else
        machine_put(&machine, MACHINE_IDT + (machine_mode_is_long(mode) ? 16 : 8),
                    machine_gate(gate, machine_mode_is_long(mode) ? MACHINE_CODE64(0) : MACHINE_CODE32(0), HANDLER, 0),
                    8);
    if (machine_mode_is_long(mode))
        machine_put(&machine, MACHINE_IDT + 24, 0, 8);
    cpu->cr4 |= CR4_DE;
    cpu->gpr[REG_RBX].q = cpu->gpr[REG_RDI].q = MACHINE_DATA;
    cpu->gpr[REG_RDX].q = PORT;
    cpu_set_rflags(cpu, cpu_rflags(cpu) | RFLAGS_IOPL);
    if (mode == MACHINE_V86) { /* ports by the bitmap: all allowed */
        cpu->segment[SEG_TR].limit = 0x2100;
        machine_put(&machine, MACHINE_TSS + 102, 0x80, 2);
        memset(machine.guest.memory + MACHINE_TSS + 0x80, 0, 32);
    }
}

static unsigned frame_word(enum machine_mode mode)
{
    return mode == MACHINE_REAL ? 2 : machine_mode_is_long(mode) ? 8 : 4;
}

/* One instruction and the exception behind it. */
static bool step(uint16_t at)
{
    struct event pending = {0};
    struct cpu *cpu = machine.guest.cpu;

    cpu->rip = at;
    cpu_update_mode(cpu);
    assert_int_equal(cpu_run_one(cpu, &pending), LEAVE_NONE);
    return cpu->rip == HANDLER && cpu->cpl == 0;
}

static void check(enum machine_mode mode, unsigned cpl, const char *name, bool struck, bool strikes, uint64_t dr6,
                  uint32_t rip, bool rf)
{
    const struct cpu *cpu = machine.guest.cpu;
    const unsigned word = frame_word(mode);
    const uint32_t sp = (uint32_t)cpu->gpr[REG_RSP].q;
    bool good = struck == strikes;

    if (good && struck)
        good = cpu->dr6 == dr6 && machine_get(&machine, sp, word) == rip &&
               !(machine_get(&machine, sp + 2 * word, word) & RFLAGS_RF) == !rf && !(cpu->rflags & RFLAGS_TF);
    if (!good)
        print_error("%s, %s, CPL %u: struck %d, DR6 %#llx, IP %#llx; expected %d %#llx %#x\n", name,
                    machine_mode_names[mode], cpl, struck, (unsigned long long)cpu->dr6,
                    (unsigned long long)machine_get(&machine, sp, word), strikes, (unsigned long long)dr6, rip);
    assert_true(good);
}

static void in_each_mode(void (*with)(enum machine_mode, unsigned))
{
    for (enum machine_mode mode = MACHINE_REAL; mode < MACHINE_MODES; mode++)
        for (unsigned cpl = 0; cpl < 4; cpl++)
            if (mode == MACHINE_REAL ? cpl == 0 : mode == MACHINE_V86 ? cpl == 3 : true)
                with(mode, cpl);
}

static void breakpoints(enum machine_mode mode, unsigned cpl)
{
    for (unsigned i = 0; i < array_size(rows); i++)
        for (unsigned enable = 0; enable < 4; enable++) { /* not, L2, G2, both */
            const struct row *row = &rows[i];
            struct cpu *cpu = machine.guest.cpu;
            const bool strikes = row->strikes && enable;
            enter(mode, cpl);
            cpu->dr[2] = row->armed_code ? code_at[i] : row->code[0] >= 0xec ? PORT : MACHINE_DATA;
            cpu->dr7 = 0x400 | enable << 4 | (uint64_t)row->condition << 24;
            const bool struck = step(code_at[i]);
            check(mode, cpl, row->name, struck, strikes, 0xffff0ff4, code_at[i] + (row->behind ? row->length : 0u),
                  false);
        }
}

static void test_breakpoints(void **unused)
{
    (void)unused;
    in_each_mode(breakpoints);
}

/* RF keeps an instruction breakpoint from striking, once. */
static void resume(enum machine_mode mode, unsigned cpl)
{
    struct cpu *cpu = machine.guest.cpu;

    enter(mode, cpl);
    cpu->dr[2] = code_at[0];
    cpu->dr7 = 0x420;
    cpu_set_rflags(cpu, cpu_rflags(cpu) | RFLAGS_RF);
    cpu->resume_rip = code_at[0];
    assert_false(step(code_at[0]));
    assert_int_equal(cpu->rip, code_at[0] + 1);
    assert_int_equal(cpu->rflags & RFLAGS_RF, 0);
    assert_true(step(code_at[0]));
}

static void test_resume_flag(void **unused)
{
    (void)unused;
    in_each_mode(resume);
}

/* TF: behind the instruction, BS; with a breakpoint on its data, both bits. */
static void single_step(enum machine_mode mode, unsigned cpl)
{
    struct cpu *cpu = machine.guest.cpu;

    for (unsigned watched = 0; watched < 2; watched++) {
        enter(mode, cpl);
        cpu->dr[2] = MACHINE_DATA;
        cpu->dr7 = watched ? 0x1000420 : 0x400;
        cpu_set_rflags(cpu, cpu_rflags(cpu) | RFLAGS_TF);
        const bool struck = step(code_at[1]);
        check(mode, cpl, "single step", struck, true, watched ? 0xffff4ff4 : 0xffff4ff0, code_at[1] + 2u, false);
    }
}

static void test_single_step(void **unused)
{
    (void)unused;
    in_each_mode(single_step);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {CASE(test_breakpoints), CASE(test_resume_flag), CASE(test_single_step)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
