/*
 * Stacks of far transfers: every type of stack segment that a call gate, RETF and IRET can find, one mistake at a time
 * in the TSS, the gate, the frame; null stacks, flags that IRET loads, segments that are dropped on the way out (SDM 2A
 * CALL, IRET; 2B RET; 3A 5.8).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "far.h"
#include "util/compiler.h"

enum { ENOUGH = 10, LIMIT = 0xfffff };

struct answer {
    int vector;
    uint32_t error;
    unsigned cpl;
};

static bool is_writable_data(struct rights r)
{
    return (r.type & 0x1a) == 0x12;
}
static bool is_expand_down(struct rights r)
{
    return (r.type & 0x1c) == 0x14;
}
static struct answer refuse(int vector, uint32_t error)
{
    return (struct answer){.vector = vector, .error = error};
}

/* ---- stacks ---- */

struct stack_question {
    enum machine_mode mode;
    enum transfer transfer; /* CALL: to an inner level through a gate; RETF, IRET: to an outer one */
    unsigned from, to, rpl;
    struct rights ss;
};

static struct answer expect_stack(const struct stack_question *q)
{
    const int bad = q->transfer == CALL ? VECTOR_TS : VECTOR_GP;

    if (q->rpl != q->to || q->ss.dpl != q->to || !is_writable_data(q->ss))
        return refuse(bad, MACHINE_TEST);
    return q->ss.present ? (struct answer){.vector = OUTCOME_DONE, .cpl = q->to} : refuse(VECTOR_SS, MACHINE_TEST);
}

static bool ask_stack(const struct stack_question *q)
{
    const struct answer a = expect_stack(q);
    const struct rights gate = {.type = 12, .dpl = 3, .present = true};
    const uint16_t selector = (uint16_t)(MACHINE_TEST | q->rpl);
    const struct cpu *cpu = machine.guest.cpu;

    machine_enter(&machine, q->mode, q->from);
    machine_set_descriptor(&machine, MACHINE_TEST, machine_segment(q->ss, 0, is_expand_down(q->ss) ? 0 : LIMIT), 0);
    machine_set_descriptor(&machine, MACHINE_TEST2, machine_gate(gate, far_good_code(q->mode, q->to), OFFSET, 0), 0);
    far_set_pointer(q->mode, MACHINE_TEST2 | 3);
    if (q->transfer == CALL)
        machine_put(&machine, MACHINE_TSS + 8 + 8 * q->to, selector, 2);
    else
        far_set_frame(q->mode, q->transfer, far_good_code(q->mode, q->to), selector);
    const struct outcome got = machine_step(&machine, far_code(q->mode, q->transfer));
    bool good = got.vector == a.vector && got.error == a.error;

    if (good && a.vector == OUTCOME_DONE)
        good = cpu->cpl == q->to && cpu->segment[SEG_SS].selector == selector &&
               (machine_descriptor(&machine, MACHINE_TEST) >> 40 & 1);
    else if (good)
        good = cpu->cpl == q->from && cpu->gpr[REG_RSP].q == MACHINE_STACK;
    if (!good)
        print_error("%s, %s, %u to %u, SS %#x of type %#x, DPL %u, P %d: vector %d error %#x; expected %d error %#x\n",
                    far_names[q->transfer], machine_mode_names[q->mode], q->from, q->to, selector, q->ss.type,
                    q->ss.dpl, q->ss.present, got.vector, got.error, a.vector, a.error);
    return good;
}

static void test_every_stack_segment(void **unused)
{
    unsigned wrong = 0;

    (void)unused;
    for (enum machine_mode mode = MACHINE_PROTECTED16; mode < MACHINE_MODES; mode++)
        for (unsigned i = 0; i < 32 * 4 * 2 * 4 * 16 * 4 && wrong < ENOUGH; i++) {
            const struct stack_question q = {
                .mode = mode,
                .transfer = i >> 14 & 3,
                .from = i >> 10 & 3,
                .to = i >> 12 & 3,
                .rpl = i >> 8 & 3,
                .ss = {.type = i & 31, .dpl = i >> 5 & 3, .present = i >> 7 & 1, .flags = 0xc}};
            if (q.transfer == JMP || q.from == q.to || (q.transfer == CALL) != (q.to < q.from))
                continue;
            if (q.transfer == CALL && machine_mode_is_long(mode))
                continue; /* the inner stack segment is null */
            wrong += !ask_stack(&q);
        }
    assert_int_equal(wrong, 0);
}

/* ---- what else can be wrong with a stack ---- */

struct row {
    const char *name;
    enum machine_mode mode;
    enum transfer transfer;
    void (*spoil)(void);
    int vector;
    uint32_t error;
};

static void null_ss0(void)
{
    machine_put(&machine, MACHINE_TSS + 8, 0, 2);
}
static void ss0_beyond(void)
{
    machine_put(&machine, MACHINE_TSS + 8, MACHINE_GDT_END, 2);
}
static void short_tss(void)
{
    machine.guest.cpu->segment[SEG_TR].limit = machine_mode_is_long(machine.mode) ? 10 : 8;
}
static void tss16_too_short(void)
{
    machine.guest.cpu->segment[SEG_TR].attributes = 0x83;
    machine.guest.cpu->segment[SEG_TR].limit = 4;
}
static void rsp0_not_canonical(void)
{
    machine_put(&machine, MACHINE_TSS + 4, 0x900000000000, 8);
}
static void small_ss0(void)
{
    machine_set_descriptor(&machine, MACHINE_TEST,
                           machine_segment((struct rights){.type = 0x12, .present = true, .flags = 4}, 0, 0xff), 0);
    machine_put(&machine, MACHINE_TSS + 8, MACHINE_TEST, 2);
}
static void expand_down_ss0(void)
{
    machine_set_descriptor(&machine, MACHINE_TEST,
                           machine_segment((struct rights){.type = 0x16, .present = true, .flags = 4}, 0, 0xffff), 0);
    machine_put(&machine, MACHINE_TSS + 8, MACHINE_TEST, 2);
}
static void null_code(void)
{
    machine_set_descriptor(&machine, MACHINE_TEST2,
                           machine_gate((struct rights){.type = 12, .dpl = 3, .present = true}, 3, OFFSET, 0), 0);
}
static void code_beyond(void)
{
    machine_set_descriptor(
        &machine, MACHINE_TEST2,
        machine_gate((struct rights){.type = 12, .dpl = 3, .present = true}, MACHINE_GDT_END, OFFSET, 0), 0);
}
static void upper_type(void)
{
    machine_put(&machine, MACHINE_GDT + MACHINE_TEST2 + 12, 1 << 8, 4);
}
static void offset_not_canonical(void)
{
    machine_put(&machine, MACHINE_GDT + MACHINE_TEST2 + 8, 0x9000, 4);
}
static void gate_half_in_the_table(void)
{
    machine.guest.cpu->gdtr.limit = MACHINE_TEST2 + 14;
}
static void short_code(void)
{
    machine_put(&machine, MACHINE_GDT + MACHINE_CODE32(0),
                machine_segment((struct rights){.type = 0x1b, .present = true, .flags = 4}, 0, OFFSET - 1), 8);
}
static void null_pointer(void)
{
    far_set_pointer(machine.mode, 2);
}
static void pointer_beyond(void)
{
    far_set_pointer(machine.mode, MACHINE_GDT_END | 3);
}
static void stack_beyond(void)
{
    machine.guest.cpu->segment[SEG_SS].limit = MACHINE_STACK + 3;
}
static void return_to_null(void)
{
    far_set_frame(machine.mode, RETF, 3, 0);
}
static void iret_to_null(void)
{
    far_set_frame(machine.mode, IRET, 3, 0);
}
static void return_beyond(void)
{
    far_set_frame(machine.mode, RETF, MACHINE_GDT_END | 3, 0);
}
static void return_ss_null(void)
{
    far_set_frame(machine.mode, RETF, far_good_code(machine.mode, 3), 0);
}
static void return_ss_null3(void)
{
    far_set_frame(machine.mode, RETF, far_good_code(machine.mode, 3), 3);
}
static void iret_ss_null3(void)
{
    far_set_frame(machine.mode, IRET, far_good_code(machine.mode, 3), 3);
}
static void iret_ss_beyond(void)
{
    far_set_frame(machine.mode, IRET, far_good_code(machine.mode, 3), MACHINE_GDT_END | 3);
}
static void iret_to_32_ss_null(void)
{
    far_set_frame(machine.mode, IRET, MACHINE_CODE32(3) | 3, 3);
}
static void set_nt(void)
{
    cpu_set_rflags(machine.guest.cpu, RFLAGS_ONE | RFLAGS_NT);
}
static void rip_not_canonical(void)
{
    far_set_frame(machine.mode, IRET, far_good_code(machine.mode, 0), 0);
    machine_put(&machine, MACHINE_STACK, 0x800000000000, 8);
}
static void retf_not_canonical(void)
{
    far_set_frame(machine.mode, RETF, far_good_code(machine.mode, 3), MACHINE_DATA_OF(3) | 3);
    machine_put(&machine, MACHINE_STACK, 0x800000000000, 8);
}
static void iret_beyond_the_limit(void)
{
    far_set_frame(machine.mode, IRET, MACHINE_CODE16(0), 0);
    machine_put(&machine, MACHINE_STACK, 0x10000, 4);
}
static void v86_beyond_the_limit(void)
{
    far_set_frame(machine.mode, IRET, 0x100, 0x200);
    machine_put(&machine, MACHINE_STACK, 0x10000, 4);
    machine_put(&machine, MACHINE_STACK + 8, RFLAGS_ONE | RFLAGS_VM, 4);
}

static void test_single_mistakes(void **unused)
{
#define P32  MACHINE_PROTECTED32
#define LONG MACHINE_LONG
#define C32  MACHINE_COMPATIBILITY32
    static const struct row rows[] = {
        {"SS0 null", P32, CALL, null_ss0, VECTOR_TS, 0},
        {"SS0 beyond the table", P32, CALL, ss0_beyond, VECTOR_TS, MACHINE_GDT_END},
        {"TSS without SS0", P32, CALL, short_tss, VECTOR_TS, MACHINE_TSS_SELECTOR},
        {"16-bit TSS without SS0", P32, CALL, tss16_too_short, VECTOR_TS, MACHINE_TSS_SELECTOR},
        {"TSS without RSP0", LONG, CALL, short_tss, VECTOR_TS, MACHINE_TSS_SELECTOR},
        {"TSS without RSP0, from 32-bit code", C32, CALL, short_tss, VECTOR_TS, MACHINE_TSS_SELECTOR},
        {"RSP0 not canonical", LONG, CALL, rsp0_not_canonical, VECTOR_SS, 0},
        {"no room on the inner stack", P32, CALL, small_ss0, VECTOR_SS, MACHINE_TEST},
        {"below an expand-down stack", P32, CALL, expand_down_ss0, VECTOR_SS, MACHINE_TEST},
        {"gate to null", P32, CALL, null_code, VECTOR_GP, 0},
        {"gate to null", LONG, CALL, null_code, VECTOR_GP, 0},
        {"gate to nothing", P32, CALL, code_beyond, VECTOR_GP, MACHINE_GDT_END},
        {"gate to nothing", LONG, JMP, code_beyond, VECTOR_GP, MACHINE_GDT_END},
        {"upper half of the gate has a type", LONG, CALL, upper_type, VECTOR_GP, MACHINE_TEST2},
        {"upper half of the gate has a type", C32, CALL, upper_type, VECTOR_GP, MACHINE_TEST2},
        {"gate's offset not canonical", LONG, CALL, offset_not_canonical, VECTOR_GP, 0},
        {"half a gate", LONG, CALL, gate_half_in_the_table, VECTOR_GP, MACHINE_TEST2},
        {"half a gate", C32, JMP, gate_half_in_the_table, VECTOR_GP, MACHINE_TEST2},
        {"gate beyond the code's limit", P32, CALL, short_code, VECTOR_GP, 0},
        {"null", P32, JMP, null_pointer, VECTOR_GP, 0},
        {"null", LONG, CALL, null_pointer, VECTOR_GP, 0},
        {"beyond the table", P32, CALL, pointer_beyond, VECTOR_GP, MACHINE_GDT_END},
        {"beyond the table", LONG, JMP, pointer_beyond, VECTOR_GP, MACHINE_GDT_END},
        {"stack ends", P32, RETF, stack_beyond, VECTOR_SS, 0},
        {"stack ends", P32, IRET, stack_beyond, VECTOR_SS, 0},
        {"stack ends", MACHINE_PROTECTED16, IRET, stack_beyond, VECTOR_SS, 0},
        {"to null", P32, RETF, return_to_null, VECTOR_GP, 0},
        {"to null", LONG, RETF, return_to_null, VECTOR_GP, 0},
        {"to null", LONG, IRET, iret_to_null, VECTOR_GP, 0},
        {"to nothing", P32, RETF, return_beyond, VECTOR_GP, MACHINE_GDT_END},
        {"stack null", P32, RETF, return_ss_null, VECTOR_GP, 0},
        {"stack null", P32, IRET, iret_ss_null3, VECTOR_GP, 0},
        {"stack null for level 3", LONG, RETF, return_ss_null3, VECTOR_GP, 0},
        {"stack null for level 3", LONG, IRET, iret_ss_null3, VECTOR_GP, 0},
        {"stack null for 32-bit code", LONG, IRET, iret_to_32_ss_null, VECTOR_GP, 0},
        {"stack beyond the table", LONG, IRET, iret_ss_beyond, VECTOR_GP, MACHINE_GDT_END},
        {"nested task", LONG, IRET, set_nt, VECTOR_GP, 0},
        {"nested task", C32, IRET, set_nt, VECTOR_GP, 0},
        {"RIP not canonical", LONG, IRET, rip_not_canonical, VECTOR_GP, 0},
        {"RIP not canonical", LONG, RETF, retf_not_canonical, VECTOR_GP, 0},
        {"beyond the limit", P32, IRET, iret_beyond_the_limit, VECTOR_GP, 0},
        {"beyond 64 KiB of virtual-8086 mode", P32, IRET, v86_beyond_the_limit, VECTOR_GP, 0},
    };
    unsigned wrong = 0;

    (void)unused;
    for (unsigned i = 0; i < array_size(rows); i++) {
        const struct row *row = &rows[i];
        const unsigned cpl = row->transfer == CALL ? 3 : 0;
        const struct rights gate = {.type = 12, .dpl = 3, .present = true};

        machine_enter(&machine, row->mode, cpl);
        machine_set_descriptor(&machine, MACHINE_TEST2, machine_gate(gate, far_good_code(row->mode, 0), OFFSET, 0), 0);
        far_set_pointer(row->mode, MACHINE_TEST2 | 3);
        row->spoil();
        const struct segment ss = machine.guest.cpu->segment[SEG_SS];
        cpu_update_mode(machine.guest.cpu);
        const struct outcome got = machine_step(&machine, far_code(row->mode, row->transfer));
        const struct cpu *cpu = machine.guest.cpu;
        const bool good = got.vector == row->vector && got.error == row->error &&
                          cpu->gpr[REG_RSP].q == MACHINE_STACK && cpu->cpl == cpl &&
                          !memcmp(&ss, &cpu->segment[SEG_SS], sizeof(ss)) &&
                          cpu->rip == far_code(row->mode, row->transfer);
        if (!good)
            print_error("%s, %s, %s: vector %d error %#x; expected %d error %#x\n", far_names[row->transfer],
                        machine_mode_names[row->mode], row->name, got.vector, got.error, row->vector, row->error);
        wrong += !good;
    }
    assert_int_equal(wrong, 0);
}

/* A null stack is good enough for 64-bit code inside privilege 3. */
static void test_null_stacks(void **unused)
{
    (void)unused;
    for (enum transfer transfer = RETF; transfer <= IRET; transfer++)
        for (unsigned from = 0; from < 3; from++)
            for (unsigned to = from; to < 3; to++) {
                if (transfer == RETF && to == from)
                    continue; /* takes no stack */
                machine_enter(&machine, MACHINE_LONG, from);
                far_set_frame(MACHINE_LONG, transfer, far_good_code(MACHINE_LONG, to), (uint16_t)to);
                assert_int_equal(machine_step(&machine, far_code(MACHINE_LONG, transfer)).vector, OUTCOME_DONE);
                assert_int_equal(machine.guest.cpu->cpl, to);
                assert_int_equal(machine.guest.cpu->segment[SEG_SS].selector, to);
                assert_int_equal(machine.guest.cpu->gpr[REG_RSP].q, MACHINE_INNER);
            }
}

/* ---- flags that IRET loads ---- */

/* SDM 2A IRET: IF with CPL <= IOPL, IOPL, VIF and VIP at level 0 only; VM never in long mode; the upper half not with
 * 16 bits. */
static void test_flags(void **unused)
{
    const uint64_t low = RFLAGS_ARITHMETIC | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT,
                   high = RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
    unsigned wrong = 0;

    (void)unused;
    for (enum machine_mode mode = MACHINE_PROTECTED16; mode < MACHINE_MODES; mode++)
        for (unsigned i = 0; i < 32; i++) {
            const unsigned cpl = i & 3, iopl = i >> 2 & 3, size = far_operand_size(mode);
            const uint64_t all = RFLAGS_ALL & ~RFLAGS_VM,
                           before = i >> 4 ? RFLAGS_ONE | RFLAGS_IF | RFLAGS_VIF | RFLAGS_AC | RFLAGS_ID | RFLAGS_CF
                                           : RFLAGS_ONE;
            const uint64_t image = i >> 4 ? RFLAGS_ONE : all | RFLAGS_ONE;
            const uint64_t mask = low | (size > 2 ? high : 0) | (cpl <= iopl ? RFLAGS_IF : 0) |
                                  (cpl ? 0 : RFLAGS_IOPL | (size > 2 ? RFLAGS_VIF | RFLAGS_VIP : 0));

            machine_enter(&machine, mode, cpl);
            struct cpu *cpu = machine.guest.cpu;
            far_set_frame(mode, IRET, cpu->segment[SEG_CS].selector, cpu->segment[SEG_SS].selector);
            machine_put(&machine, MACHINE_STACK + 2 * size, image, size);
            cpu_set_rflags(cpu, before | (uint64_t)iopl << 12);
            const uint64_t old = cpu_rflags(cpu), want = (old & ~mask) | (image & mask);
            const struct outcome got = machine_step(&machine, far_code(mode, IRET));
            if (got.vector != OUTCOME_DONE || cpu_rflags(cpu) != want) {
                print_error("%s, CPL %u, IOPL %u, image %#llx: vector %d flags %#llx, expected %#llx\n",
                            machine_mode_names[mode], cpl, iopl, (unsigned long long)image, got.vector,
                            (unsigned long long)cpu_rflags(cpu), (unsigned long long)want);
                wrong++;
            }
        }
    assert_int_equal(wrong, 0);
}

/* ---- segments that are dropped on the way out ---- */

/* Those whose DPL is below the new level, but not conforming code (SDM 2B RET). */
static void test_dropped_segments(void **unused)
{
    unsigned wrong = 0;

    (void)unused;
    for (enum machine_mode mode = MACHINE_PROTECTED32; mode < MACHINE_MODES; mode++)
        for (unsigned i = 0; i < 16 * 4 * 3 * 2; i++) {
            const unsigned type = 16 + (i & 15), dpl = i >> 4 & 3, to = 1 + (i >> 6) % 3;
            const enum transfer transfer = i >> 6 >= 3 ? RETF : IRET;
            const bool keeps = dpl >= to || (type & 0xc) == 0xc;
            struct cpu *cpu = machine.guest.cpu;

            machine_enter(&machine, mode, 0);
            far_set_frame(mode, transfer, (uint16_t)(far_good_code(mode, to)), (uint16_t)(MACHINE_DATA_OF(to) | to));
            if (mode == MACHINE_COMPATIBILITY16)
                far_set_frame(mode, transfer, (uint16_t)(MACHINE_CODE16(to) | to),
                              (uint16_t)(MACHINE_DATA_OF(to) | to));
            for (unsigned s = SEG_ES; s <= SEG_GS; s++)
                if (s != SEG_CS && s != SEG_SS)
                    cpu->segment[s] = (struct segment){.base = 0x1000 * s,
                                                       .limit = 0xfff,
                                                       .selector = (uint16_t)(MACHINE_TEST | dpl),
                                                       .attributes = (uint16_t)(type | dpl << 5 | 0x80)};
            cpu_update_mode(cpu);
            const struct outcome got = machine_step(&machine, far_code(mode, transfer));
            for (unsigned s = SEG_ES; s <= SEG_GS; s++)
                if (s != SEG_CS && s != SEG_SS &&
                    (got.vector != OUTCOME_DONE || (cpu->segment[s].selector == 0) == keeps)) {
                    print_error("%s to %u, %s, segment %u of type %#x, DPL %u: selector %#x, vector %d\n",
                                far_names[transfer], to, machine_mode_names[mode], s, type, dpl,
                                cpu->segment[s].selector, got.vector);
                    wrong++;
                }
        }
    assert_int_equal(wrong, 0);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, far_set_up, far_tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_every_stack_segment), CASE(test_single_mistakes), CASE(test_null_stacks), CASE(test_flags),
        CASE(test_dropped_segments),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
