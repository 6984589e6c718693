/*
 * Delivery through every gate: all types of descriptors in the interrupt table, all types of code segments behind an
 * interrupt gate, all types of inner stacks, each with every DPL and CPL, by INT n, INT3, exceptions and from outside,
 * in 16- and 32-bit protected, virtual-8086, compatibility and 64-bit mode. The rules are those of SDM 3A 6.12 to 6.14
 * and 2A INT, written a second time; gate_test has mistakes one by one, event_test what becomes of faults in here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "machine.h"
#include "util/compiler.h"

enum { ENOUGH = 10, LIMIT = 0xfffff, VECTOR = 0x45, OFFSET = 0x4567, RIP = 0x89a, ERROR = 0xe7, FLAGS = 0x243 };

static struct machine machine;

struct question {
    enum machine_mode mode;
    unsigned cpl;
    enum event_type type;
    bool has_error;
    struct rights gate, code, stack;
    unsigned stack_rpl;
};

struct answer {
    int vector;
    uint32_t error;
    unsigned cpl;
    bool switches;
};

static bool is_code(struct rights r)
{
    return r.type >= 0x18;
}
static bool is_conforming(struct rights r)
{
    return is_code(r) && (r.type & 4);
}
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
static bool by_program(const struct question *q)
{
    return q->type == EVENT_SOFTWARE || q->type == EVENT_SOFT_EXCEPTION;
}

/* ---- the rules ---- */

static struct answer expect_stack(const struct question *q, unsigned level)
{
    const uint32_t error = MACHINE_TEST2 | !by_program(q);

    if (q->stack_rpl != level || q->stack.dpl != level || !is_writable_data(q->stack))
        return refuse(VECTOR_TS, error);
    return q->stack.present ? (struct answer){.vector = OUTCOME_DONE, .cpl = level} : refuse(VECTOR_SS, error);
}

static struct answer expect_code(const struct question *q)
{
    const uint32_t error = MACHINE_TEST | !by_program(q);
    const bool is_long = machine_mode_is_long(q->mode);
    const unsigned level = is_conforming(q->code) ? q->cpl : q->code.dpl;

    if (!is_code(q->code) || q->code.dpl > q->cpl)
        return refuse(VECTOR_GP, error);
    if (is_long && (q->code.flags & 6) != 2)
        return refuse(VECTOR_GP, error);
    if (!q->code.present)
        return refuse(VECTOR_NP, error);
    if (q->mode == MACHINE_V86 && level != 0)
        return refuse(VECTOR_GP, error);
    return level == q->cpl || is_long ? (struct answer){.vector = OUTCOME_DONE, .cpl = level} : expect_stack(q, level);
}

static struct answer expect(const struct question *q)
{
    const uint32_t error = VECTOR * 8 + 2 + !by_program(q);
    const unsigned always = 1u << 14 | 1u << 15, legacy = 1u << 5 | 1u << 6 | 1u << 7;
    const unsigned types = machine_mode_is_long(q->mode) ? always : always | legacy;

    if (q->gate.type >= 16 || !(types >> q->gate.type & 1))
        return refuse(VECTOR_GP, error);
    if (by_program(q) && q->gate.dpl < q->cpl)
        return refuse(VECTOR_GP, error);
    if (!q->gate.present)
        return refuse(VECTOR_NP, error);
    return q->gate.type == 5 ? (struct answer){.vector = OUTCOME_DONE, .switches = true} : expect_code(q);
}

/* ---- doing it ---- */

static int set_up(void **unused)
{
    (void)unused;
    return machine_create(&machine) ? 0 : -1;
}

static int tear_down(void **unused)
{
    (void)unused;
    machine_destroy(&machine);
    return 0;
}

static void set_new_task(void)
{
    memset(machine.guest.memory + MACHINE_NEW_TSS, 0, 0x68);
    machine_put(&machine, MACHINE_NEW_TSS + 32, OFFSET, 4);
    machine_put(&machine, MACHINE_NEW_TSS + 36, 2, 4);
    machine_put(&machine, MACHINE_NEW_TSS + 56, MACHINE_STACK, 4);
    machine_put(&machine, MACHINE_NEW_TSS + 76, MACHINE_CODE32(0), 2);
    machine_put(&machine, MACHINE_NEW_TSS + 80, MACHINE_DATA_OF(0), 2);
}

static void set_tables(const struct question *q)
{
    const bool is_long = machine_mode_is_long(q->mode), is_task = q->gate.type == 5;
    const uint64_t gate = machine_gate(q->gate, is_task ? MACHINE_LAST : MACHINE_TEST | 3, OFFSET, 0);
    const struct rights tss = {.type = 9, .present = true};

    machine_put(&machine, MACHINE_IDT + VECTOR * (is_long ? 16 : 8), gate, 8);
    machine_put(&machine, MACHINE_IDT + VECTOR * (is_long ? 16 : 8) + 8, 0, 8);
    machine_set_descriptor(&machine, MACHINE_TEST, machine_segment(q->code, 0, LIMIT), 0);
    machine_set_descriptor(&machine, MACHINE_TEST2, machine_segment(q->stack, 0, is_expand_down(q->stack) ? 0 : LIMIT),
                           0);
    machine_set_descriptor(&machine, MACHINE_LAST, machine_segment(tss, MACHINE_NEW_TSS, 0x67), 0);
    if (!is_long)
        for (unsigned level = 0; level < 3; level++)
            machine_put(&machine, MACHINE_TSS + 8 + 8 * level, MACHINE_TEST2 | q->stack_rpl, 2);
    set_new_task();
}

static struct outcome deliver(const struct question *q)
{
    const struct event event = {.type = q->type, .vector = VECTOR, .has_error = q->has_error, .error = ERROR};
    struct cpu *cpu = machine.guest.cpu;

    cpu->rip = RIP;
    cpu_set_rflags(cpu, FLAGS | RFLAGS_NT | RFLAGS_TF | (q->mode == MACHINE_V86 ? RFLAGS_VM : 0));
    if (event_deliver(cpu, &event))
        return (struct outcome){.vector = OUTCOME_DONE};
    return (struct outcome){.vector = cpu->leave == LEAVE_FAULT ? cpu->fault.vector : OUTCOME_OTHER,
                            .error = cpu->fault.error};
}

/* ---- frames ---- */

struct before {
    struct segment segment[6];
    uint64_t rsp;
};

/* The words of the frame from the lowest address on. */
static unsigned make_frame(const struct question *q, const struct answer *a, const struct before *before,
                           uint64_t words[10])
{
    const bool is_v86 = q->mode == MACHINE_V86;
    unsigned count = 0;

    if (q->has_error)
        words[count++] = ERROR;
    words[count++] = RIP;
    words[count++] = before->segment[SEG_CS].selector;
    words[count++] = FLAGS | RFLAGS_NT | RFLAGS_TF | (is_v86 ? RFLAGS_VM : 0);
    if (a->cpl != q->cpl || machine_mode_is_long(q->mode)) {
        words[count++] = before->rsp;
        words[count++] = before->segment[SEG_SS].selector;
    }
    if (is_v86) {
        words[count++] = before->segment[SEG_ES].selector;
        words[count++] = before->segment[SEG_DS].selector;
        words[count++] = before->segment[SEG_FS].selector;
        words[count++] = before->segment[SEG_GS].selector;
    }
    return count;
}

static bool is_entered(const struct question *q, const struct answer *a, const struct before *before)
{
    const struct cpu *cpu = machine.guest.cpu;
    const bool is_long = machine_mode_is_long(q->mode), inward = a->cpl != q->cpl;
    const unsigned size = is_long ? 8 : q->gate.type & 8 ? 4 : 2;
    const uint64_t mask = size == 8 ? UINT64_MAX : (1ull << 8 * size) - 1;
    uint64_t words[10], top = inward ? machine_inner(a->cpl) : before->rsp;
    const unsigned count = make_frame(q, a, before, words);
    const uint64_t rsp = (is_long ? top & ~15ull : top) - count * size;
    const uint16_t ss = !inward   ? before->segment[SEG_SS].selector
                        : is_long ? (uint16_t)a->cpl
                                  : (uint16_t)(MACHINE_TEST2 | a->cpl);

    if (cpu->gpr[REG_RSP].q != rsp || cpu->cpl != a->cpl || cpu->rip != OFFSET ||
        cpu->segment[SEG_CS].selector != (MACHINE_TEST | a->cpl) || cpu->segment[SEG_SS].selector != ss)
        return false;
    /* Interrupt gates clear IF, all clear TF, NT, RF, VM. */
    if (cpu_rflags(cpu) != (q->gate.type & 1 ? FLAGS : FLAGS & ~RFLAGS_IF))
        return false;
    if (q->mode == MACHINE_V86 && (cpu->segment[SEG_DS].selector || cpu->segment[SEG_GS].selector))
        return false;
    for (unsigned i = 0; i < count; i++)
        if (machine_get(&machine, (uint32_t)(rsp + i * size), size) != (words[i] & mask))
            return false;
    return true;
}

static bool is_in_new_task(const struct question *q, const struct before *before)
{
    const struct cpu *cpu = machine.guest.cpu;

    return cpu->segment[SEG_TR].selector == MACHINE_LAST && cpu->rip == OFFSET && (cpu->rflags & RFLAGS_NT) &&
           machine_get(&machine, MACHINE_NEW_TSS, 2) == MACHINE_TSS_SELECTOR &&
           machine_get(&machine, MACHINE_TSS + 32, 4) == RIP &&
           machine_get(&machine, MACHINE_TSS + 76, 2) == before->segment[SEG_CS].selector &&
           cpu->gpr[REG_RSP].q == MACHINE_STACK - (q->has_error ? 4 : 0) &&
           (!q->has_error || machine_get(&machine, MACHINE_STACK - 4, 4) == ERROR);
}

static bool is_as_before(const struct question *q, const struct before *before)
{
    const struct cpu *cpu = machine.guest.cpu;

    return cpu->rip == RIP && cpu->gpr[REG_RSP].q == before->rsp && cpu->cpl == q->cpl &&
           !memcmp(before->segment, cpu->segment, sizeof(before->segment));
}

static bool ask(const struct question *q)
{
    const struct answer a = expect(q);
    const struct cpu *cpu = machine.guest.cpu;
    struct before before = {.rsp = MACHINE_STACK};

    machine_enter(&machine, q->mode, q->cpl);
    set_tables(q);
    memcpy(before.segment, cpu->segment, sizeof(before.segment));
    const struct outcome got = deliver(q);
    bool good = got.vector == a.vector && (a.vector == OUTCOME_DONE || got.error == a.error);
    if (good)
        good = a.vector != OUTCOME_DONE ? is_as_before(q, &before)
               : a.switches             ? is_in_new_task(q, &before)
                                        : is_entered(q, &a, &before);
    if (!good)
        print_error("%s, CPL %u, event %d, gate %#x/%u/%d, code %#x/%u/%d flags %#x, stack %#x/%u/%d RPL %u: vector %d "
                    "error %#x RSP %#llx RIP %#llx "
                    "flags %#llx; expected %d error %#x CPL %u\n",
                    machine_mode_names[q->mode], q->cpl, q->type, q->gate.type, q->gate.dpl, q->gate.present,
                    q->code.type, q->code.dpl, q->code.present, q->code.flags, q->stack.type, q->stack.dpl,
                    q->stack.present, q->stack_rpl, got.vector, got.error, (unsigned long long)cpu->gpr[REG_RSP].q,
                    (unsigned long long)cpu->rip, (unsigned long long)cpu_rflags(cpu), a.vector, a.error, a.cpl);
    return good;
}

/* A good way to level 0. */
static struct question good_question(enum machine_mode mode, unsigned cpl, enum event_type type)
{
    return (struct question){.mode = mode,
                             .cpl = cpl,
                             .type = type,
                             .has_error = type == EVENT_EXCEPTION,
                             .gate = {.type = 14, .dpl = 3, .present = true},
                             .code = {.type = 0x1b, .present = true, .flags = machine_mode_is_long(mode) ? 0xa : 0xc},
                             .stack = {.type = 0x13, .present = true, .flags = 0xc}};
}

static const enum event_type events[] = {EVENT_EXTERNAL, EVENT_EXCEPTION, EVENT_SOFTWARE, EVENT_SOFT_EXCEPTION,
                                         EVENT_ICEBP};

/* Everyone who can be interrupted: calls `with` for each mode, level, kind of event. */
static unsigned for_each(unsigned (*with)(struct question))
{
    unsigned wrong = 0;

    for (enum machine_mode mode = MACHINE_V86; mode < MACHINE_MODES; mode++)
        for (unsigned cpl = mode == MACHINE_V86 ? 3 : 0; cpl < 4; cpl++)
            for (unsigned i = 0; i < array_size(events) && wrong < ENOUGH; i++)
                wrong += with(good_question(mode, cpl, events[i]));
    return wrong;
}

static unsigned every_gate(struct question q)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < 32 * 4 * 2; i++) {
        q.gate = (struct rights){.type = i & 31, .dpl = i >> 5 & 3, .present = i >> 7};
        wrong += !ask(&q);
    }
    return wrong;
}

static unsigned every_code(struct question q)
{
    static const uint8_t flags[] = {0x8, 0xc, 0xa, 0xe}, types[] = {6, 7, 14, 15};
    unsigned wrong = 0;

    for (unsigned i = 0; i < 32 * 4 * 2 * 4 * 4 && wrong < ENOUGH; i++) {
        q.code = (struct rights){.type = i & 31, .dpl = i >> 5 & 3, .present = i >> 7 & 1, .flags = flags[i >> 8 & 3]};
        q.gate.type = types[i >> 10];
        q.stack.dpl = q.stack_rpl = q.code.dpl;
        if (machine_mode_is_long(q.mode) && q.gate.type < 8)
            continue;
        wrong += !ask(&q);
    }
    return wrong;
}

static unsigned every_stack(struct question q)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < 32 * 4 * 2 * 4 * 3 && wrong < ENOUGH; i++) {
        q.stack = (struct rights){.type = i & 31, .dpl = i >> 5 & 3, .present = i >> 7 & 1, .flags = 0xc};
        q.stack_rpl = i >> 8 & 3;
        q.code.dpl = i >> 10;
        wrong += !ask(&q);
    }
    return wrong;
}

static void test_every_gate(void **unused)
{
    (void)unused;
    assert_int_equal(for_each(every_gate), 0);
}

static void test_every_code_segment(void **unused)
{
    (void)unused;
    assert_int_equal(for_each(every_code), 0);
}

static void test_every_stack_segment(void **unused)
{
    (void)unused;
    assert_int_equal(for_each(every_stack), 0);
}

/* ---- the interrupt stack table ---- */

/* SDM 3A 6.14.5: any of seven, at any privilege, aligned to 16 bytes; null SS only when the privilege changes. */
static void test_interrupt_stacks(void **unused)
{
    (void)unused;
    for (unsigned ist = 1; ist < 8; ist++)
        for (unsigned cpl = 0; cpl < 4; cpl++)
            for (unsigned misaligned = 0; misaligned < 16; misaligned += 5) {
                struct question q = good_question(MACHINE_LONG, cpl, EVENT_EXTERNAL);
                struct cpu *cpu = machine.guest.cpu;
                const uint64_t rsp = MACHINE_INNER + 0x100 * ist + misaligned;

                machine_enter(&machine, q.mode, cpl);
                set_tables(&q);
                machine_put(&machine, MACHINE_IDT + VECTOR * 16 + 4, ist, 1);
                machine_put(&machine, MACHINE_TSS + 36 + 8 * (ist - 1), rsp, 8);
                const uint16_t ss = cpu->segment[SEG_SS].selector;
                assert_int_equal(deliver(&q).vector, OUTCOME_DONE);
                assert_int_equal(cpu->gpr[REG_RSP].q, (rsp & ~15ull) - 40);
                assert_int_equal(cpu->segment[SEG_SS].selector, cpl ? 0 : ss);
                assert_int_equal(machine_get(&machine, (uint32_t)cpu->gpr[REG_RSP].q + 24, 8), MACHINE_STACK);
                /* the TSS ends within it */
                machine_enter(&machine, q.mode, cpl);
                set_tables(&q);
                machine_put(&machine, MACHINE_IDT + VECTOR * 16 + 4, ist, 1);
                cpu->segment[SEG_TR].limit = 36 + 8 * ist - 2;
                const struct outcome got = deliver(&q);
                assert_int_equal(got.vector, VECTOR_TS);
                assert_int_equal(got.error, MACHINE_TSS_SELECTOR + 1);
                assert_int_equal(cpu->gpr[REG_RSP].q, MACHINE_STACK);
            }
}

/* ---- real mode ---- */

/* SDM 3A 20.1.4: four bytes a vector, the limit counts, three words whatever the event, no error code. */
static void test_real_mode(void **unused)
{
    (void)unused;
    for (unsigned vector = 0; vector < 256; vector++)
        for (unsigned i = 0; i < array_size(events); i++) {
            const struct event event = {
                .type = events[i], .vector = (uint8_t)vector, .has_error = i == 1, .error = ERROR};
            struct cpu *cpu = machine.guest.cpu;

            machine_enter(&machine, MACHINE_REAL, 0);
            machine_put(&machine, MACHINE_IDT + 4 * vector, 0x1234u << 16 | OFFSET, 4);
            cpu->rip = RIP;
            cpu_set_rflags(cpu, FLAGS | RFLAGS_TF | RFLAGS_AC);
            cpu->idtr.limit = (uint16_t)(4 * vector + 2);
            assert_false(event_deliver(cpu, &event));
            assert_int_equal(cpu->fault.vector, VECTOR_GP);
            assert_int_equal(cpu->gpr[REG_RSP].q, MACHINE_STACK);
            cpu->idtr.limit++;
            assert_true(event_deliver(cpu, &event));
            assert_int_equal(cpu->rip, OFFSET);
            assert_int_equal(cpu->segment[SEG_CS].selector, 0x1234);
            assert_int_equal(cpu->segment[SEG_CS].base, 0x12340);
            assert_int_equal(cpu->gpr[REG_RSP].q, MACHINE_STACK - 6);
            assert_int_equal(machine_get(&machine, MACHINE_STACK - 6, 6), (uint64_t)(FLAGS | RFLAGS_TF) << 32 | RIP);
            assert_int_equal(cpu_rflags(cpu), FLAGS & ~RFLAGS_IF);
        }
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_every_gate),       CASE(test_every_code_segment), CASE(test_every_stack_segment),
        CASE(test_interrupt_stacks), CASE(test_real_mode),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
