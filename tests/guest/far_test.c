/*
 * Far transfers into everything: JMP, CALL, RETF and IRET to every type of descriptor, through call gates and task
 * gates, with every CPL, RPL and DPL, from 16-, 32- and 64-bit code; inner stacks of every type. The rules are written
 * here a second time, from SDM 2A (CALL, IRET, JMP), 2B (RET), 3A 5.8 and 7.3; each check's error code is compared.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "far.h"
#include "util/compiler.h"

enum { ENOUGH = 10, PARAMETERS = 3, LIMIT = 0xfffff };

struct question {
    enum machine_mode mode;
    enum transfer transfer;
    unsigned cpl, rpl;
    bool local;
    struct rights rights;
};

struct answer {
    int vector;
    uint32_t error;
    unsigned cpl;
    bool switches; /* to another task */
};

static const uint8_t code_flags[] = {0x8, 0xc, 0xa, 0xe}; /* 16 bits, D, L, both */

static bool is_code(struct rights r)
{
    return r.type >= 0x18;
}
static bool is_conforming(struct rights r)
{
    return is_code(r) && (r.type & 4);
}
static bool is_64(struct rights r)
{
    return r.flags & 2;
}
static bool is_big(struct rights r)
{
    return r.flags & 4;
}
static struct answer refuse(int vector, uint32_t error)
{
    return (struct answer){.vector = vector, .error = error};
}
static uint16_t selector_of(const struct question *q)
{
    return (uint16_t)(MACHINE_TEST | (q->local ? 4 : 0) | q->rpl);
}

/* ---- what the rules say ---- */

/* SDM 2A JMP and CALL: a code segment as the direct target. */
static struct answer expect_code(const struct question *q)
{
    const struct rights r = q->rights;
    const uint32_t error = selector_of(q) & 0xfffcu;

    if (!is_code(r))
        return refuse(VECTOR_GP, error);
    if (is_conforming(r) ? r.dpl > q->cpl : q->rpl > q->cpl || r.dpl != q->cpl)
        return refuse(VECTOR_GP, error);
    if (machine_mode_is_long(q->mode) && is_64(r) && is_big(r))
        return refuse(VECTOR_GP, error);
    return r.present ? (struct answer){.vector = OUTCOME_DONE, .cpl = q->cpl} : refuse(VECTOR_NP, error);
}

static struct answer expect_system(const struct question *q)
{
    const unsigned gates = 1u << 12, old = 1u << 1 | 1u << 4 | 1u << 5 | 1u << 9;
    const unsigned types = machine_mode_is_long(q->mode) ? gates : gates | old;
    const struct rights r = q->rights;
    const uint32_t error = selector_of(q) & 0xfffcu;
    const bool is_tss = r.type == 1 || r.type == 9;

    if (!(types >> r.type & 1) || r.dpl < q->cpl || r.dpl < q->rpl)
        return refuse(VECTOR_GP, error);
    if (is_tss && q->local)
        return refuse(VECTOR_GP, error);
    return r.present ? (struct answer){.vector = OUTCOME_DONE, .cpl = q->cpl, .switches = is_tss || r.type == 5}
                     : refuse(VECTOR_NP, error);
}

/* SDM 2B RET, 2A IRET: the code segment to return to. */
static struct answer expect_return(const struct question *q)
{
    const struct rights r = q->rights;
    const uint32_t error = selector_of(q) & 0xfffcu;

    if (!is_code(r) || q->rpl < q->cpl || (is_conforming(r) ? r.dpl > q->rpl : r.dpl != q->rpl))
        return refuse(VECTOR_GP, error);
    if (machine_mode_is_long(q->mode) && is_64(r) && is_big(r))
        return refuse(VECTOR_GP, error);
    return r.present ? (struct answer){.vector = OUTCOME_DONE, .cpl = q->rpl} : refuse(VECTOR_NP, error);
}

static struct answer expect(const struct question *q)
{
    return q->transfer >= RETF ? expect_return(q) : q->rights.type < 16 ? expect_system(q) : expect_code(q);
}

/* ---- doing it ---- */

static void set_new_task(unsigned cpl)
{
    memset(machine.guest.memory + MACHINE_NEW_TSS, 0, 0x68);
    machine_put(&machine, MACHINE_NEW_TSS + 32, OFFSET, 4); /* EIP */
    machine_put(&machine, MACHINE_NEW_TSS + 36, 2, 4);
    machine_put(&machine, MACHINE_NEW_TSS + 76, MACHINE_CODE32(cpl) | cpl, 2);
    machine_put(&machine, MACHINE_NEW_TSS + 80, MACHINE_DATA_OF(cpl) | cpl, 2);
}

static void set_new_task16(unsigned cpl)
{
    memset(machine.guest.memory + MACHINE_NEW_TSS, 0, 0x68);
    machine_put(&machine, MACHINE_NEW_TSS + 14, OFFSET, 2);
    machine_put(&machine, MACHINE_NEW_TSS + 16, 2, 2);
    machine_put(&machine, MACHINE_NEW_TSS + 36, MACHINE_CODE32(cpl) | cpl, 2);
    machine_put(&machine, MACHINE_NEW_TSS + 38, MACHINE_DATA_OF(cpl) | cpl, 2);
}

static void set_target(const struct question *q)
{
    const struct rights available = {.type = 9, .present = true};
    const unsigned type = q->rights.type;
    uint64_t low = machine_segment(q->rights, 0, LIMIT);

    if (type == 1 || type == 9)
        low = machine_segment(q->rights, MACHINE_NEW_TSS, type == 1 ? 0x2b : 0x67);
    else if (type < 16)
        low = machine_gate(q->rights, type == 5 ? MACHINE_TEST2 : far_good_code(q->mode, q->cpl), OFFSET, 0);
    if (type == 1)
        set_new_task16(q->cpl);
    else
        set_new_task(q->cpl);
    machine_set_descriptor(&machine, MACHINE_TEST, low, 0);
    machine_set_descriptor(&machine, MACHINE_TEST2, machine_segment(available, MACHINE_NEW_TSS, 0x67), 0);
    if (q->transfer < RETF)
        far_set_pointer(q->mode, selector_of(q));
    else
        far_set_frame(q->mode, q->transfer, selector_of(q), (uint16_t)(MACHINE_DATA_OF(q->rpl) | q->rpl));
}

/* ---- what it came to ---- */

static uint64_t stack_word(unsigned i, unsigned size)
{
    return machine_get(&machine, (uint32_t)machine.guest.cpu->gpr[REG_RSP].q + i * size, size);
}

/* Behind a call: CS and IP of the caller. */
static bool has_return(const struct question *q, const struct segment *caller, unsigned size)
{
    const uint64_t rip = (uint64_t)far_code(q->mode, CALL) + far_code_length(q->mode);

    return stack_word(0, size) == rip && (uint16_t)stack_word(1, size) == caller->selector;
}

static bool is_there(const struct question *q, const struct answer *a, const struct segment *caller)
{
    const struct cpu *cpu = machine.guest.cpu;
    const unsigned type = q->rights.type, size = type == 12 && machine_mode_is_long(q->mode) ? 8
                                                 : type == 12                                ? 4
                                                 : type == 4                                 ? 2
                                                             : far_operand_size(q->mode);
    const uint16_t cs = type < 16 ? far_good_code(q->mode, q->cpl) : (uint16_t)((selector_of(q) & ~3u) | a->cpl);

    if (cpu->rip != OFFSET || cpu->cpl != a->cpl)
        return false;
    if (a->switches)
        return cpu->segment[SEG_TR].selector == (type == 5 ? MACHINE_TEST2 : selector_of(q)) &&
               machine_get(&machine, MACHINE_NEW_TSS, 2) == (q->transfer == CALL ? MACHINE_TSS_SELECTOR : 0) &&
               !(cpu->rflags & RFLAGS_NT) == (q->transfer != CALL);
    if (cpu->segment[SEG_CS].selector != cs)
        return false;
    if (type >= 16 &&
        (cpu->segment[SEG_CS].limit != 0xffffffff || !(machine_descriptor(&machine, MACHINE_TEST) >> 40 & 1)))
        return false;
    if (q->transfer == JMP)
        return cpu->gpr[REG_RSP].q == MACHINE_STACK;
    if (q->transfer == CALL)
        return cpu->gpr[REG_RSP].q == MACHINE_STACK - 2 * size && has_return(q, caller, size);
    if (a->cpl != q->cpl)
        return cpu->gpr[REG_RSP].q == MACHINE_INNER &&
               cpu->segment[SEG_SS].selector == (MACHINE_DATA_OF(a->cpl) | a->cpl) &&
               cpu->segment[SEG_DS].selector == 0; /* more privileged than the new level: dropped */
    return cpu->gpr[REG_RSP].q == (q->transfer == IRET && q->mode == MACHINE_LONG
                                       ? MACHINE_INNER
                                       : MACHINE_STACK + (q->transfer == IRET ? 3 : 2) * size) &&
           cpu->segment[SEG_DS].selector != 0;
}

static bool ask(const struct question *q)
{
    const struct answer a = expect(q);

    machine_enter(&machine, q->mode, q->cpl);
    set_target(q);
    const struct segment caller = machine.guest.cpu->segment[SEG_CS];
    const struct outcome got = machine_step(&machine, far_code(q->mode, q->transfer));
    const struct cpu *cpu = machine.guest.cpu;
    bool good = got.vector == a.vector && got.error == a.error;

    if (good && a.vector == OUTCOME_DONE)
        good = is_there(q, &a, &caller);
    else if (good)
        good = cpu->rip == far_code(q->mode, q->transfer) && cpu->gpr[REG_RSP].q == MACHINE_STACK &&
               cpu->segment[SEG_CS].selector == caller.selector;
    if (!good)
        print_error("%s, %s, CPL %u, selector %#x, type %#x, DPL %u, P %d, flags %#x: vector %d error %#x, CS %#x RIP "
                    "%#llx RSP %#llx CPL %u; "
                    "expected vector %d error %#x\n",
                    far_names[q->transfer], machine_mode_names[q->mode], q->cpl, selector_of(q), q->rights.type,
                    q->rights.dpl, q->rights.present, q->rights.flags, got.vector, got.error,
                    cpu->segment[SEG_CS].selector, (unsigned long long)cpu->rip,
                    (unsigned long long)cpu->gpr[REG_RSP].q, cpu->cpl, a.vector, a.error);
    return good;
}

static unsigned ask_all(struct question q)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < 32 * 4 * 2 * 4 && wrong < ENOUGH; i++) {
        q.rights =
            (struct rights){.type = i & 31, .dpl = i >> 5 & 3, .present = i >> 7 & 1, .flags = code_flags[i >> 8]};
        if (q.local && (q.rights.type == 1 || q.rights.type == 9) && !q.rights.present)
            continue; /* which of the two mistakes is told is nowhere said */
        wrong += !ask(&q);
    }
    return wrong;
}

static void test_every_descriptor(void **unused)
{
    unsigned wrong = 0;

    (void)unused;
    for (enum machine_mode mode = MACHINE_PROTECTED16; mode < MACHINE_MODES; mode++)
        for (unsigned i = 0; i < 32 * TRANSFERS && !wrong; i++)
            wrong = ask_all((struct question){
                .mode = mode, .transfer = i >> 5, .cpl = i & 3, .rpl = i >> 2 & 3, .local = i >> 4 & 1});
    assert_int_equal(wrong, 0);
}

/* ---- call gates: what they lead to ---- */

struct gate_question {
    enum machine_mode mode;
    enum transfer transfer;
    unsigned cpl, gate_type;
    struct rights code;
};

static struct answer expect_through_gate(const struct gate_question *q)
{
    const struct rights r = q->code;
    const uint32_t error = MACHINE_TEST2;

    if (!is_code(r) || r.dpl > q->cpl)
        return refuse(VECTOR_GP, error);
    if (machine_mode_is_long(q->mode) && (!is_64(r) || is_big(r)))
        return refuse(VECTOR_GP, error);
    if (q->transfer == JMP && !is_conforming(r) && r.dpl != q->cpl)
        return refuse(VECTOR_GP, error);
    if (!r.present)
        return refuse(VECTOR_NP, error);
    return (struct answer){.vector = OUTCOME_DONE, .cpl = is_conforming(r) ? q->cpl : r.dpl};
}

/* The stack of the inner level: SS and SP of the caller, its parameters, CS, IP. */
static bool has_inner_frame(const struct gate_question *q, const struct answer *a, unsigned size,
                            const struct segment *cs, const struct segment *ss)
{
    const struct cpu *cpu = machine.guest.cpu;
    const bool is_long = machine_mode_is_long(q->mode);
    const unsigned parameters = is_long ? 0 : PARAMETERS;
    const uint64_t rip = (uint64_t)far_code(q->mode, CALL) + far_code_length(q->mode);

    if (cpu->gpr[REG_RSP].q != machine_inner(a->cpl) - (4 + parameters) * size)
        return false;
    if (cpu->segment[SEG_SS].selector != (is_long ? a->cpl : MACHINE_DATA_OF(a->cpl) | a->cpl))
        return false;
    for (unsigned i = 0; i < parameters; i++)
        if (stack_word(2 + i, size) != machine_get(&machine, MACHINE_STACK + i * size, size))
            return false;
    return stack_word(0, size) == rip && (uint16_t)stack_word(1, size) == cs->selector &&
           stack_word(2 + parameters, size) == MACHINE_STACK &&
           (uint16_t)stack_word(3 + parameters, size) == ss->selector;
}

static bool ask_gate(const struct gate_question *q)
{
    const struct rights gate = {.type = q->gate_type, .dpl = 3, .present = true};
    const bool is_long = machine_mode_is_long(q->mode);
    const struct answer a = expect_through_gate(q);
    const unsigned size = is_long ? 8 : q->gate_type == 12 ? 4 : 2;
    const struct cpu *cpu = machine.guest.cpu;

    machine_enter(&machine, q->mode, q->cpl);
    machine_set_descriptor(&machine, MACHINE_TEST,
                           machine_gate(gate, MACHINE_TEST2 | 3, OFFSET, is_long ? 0 : PARAMETERS), 0);
    machine_set_descriptor(&machine, MACHINE_TEST2, machine_segment(q->code, 0, LIMIT), 0);
    machine_put(&machine, MACHINE_STACK, 0x1122334455667788, 8);
    machine_put(&machine, MACHINE_STACK + 8, 0x99aabbccddeeff01, 8);
    far_set_pointer(q->mode, MACHINE_TEST | 3);
    const struct segment cs = cpu->segment[SEG_CS], ss = cpu->segment[SEG_SS];
    const struct outcome got = machine_step(&machine, far_code(q->mode, q->transfer));
    bool good = got.vector == a.vector && got.error == a.error;

    if (good && a.vector == OUTCOME_DONE) {
        good = cpu->rip == OFFSET && cpu->cpl == a.cpl && cpu->segment[SEG_CS].selector == (MACHINE_TEST2 | a.cpl);
        if (q->transfer == JMP)
            good = good && cpu->gpr[REG_RSP].q == MACHINE_STACK;
        else if (a.cpl == q->cpl)
            good =
                good && cpu->gpr[REG_RSP].q == MACHINE_STACK - 2 * size && (uint16_t)stack_word(1, size) == cs.selector;
        else
            good = good && has_inner_frame(q, &a, size, &cs, &ss);
    }
    if (!good)
        print_error("%s through gate %u, %s, CPL %u, type %#x, DPL %u, P %d, flags %#x: vector %d error %#x, RSP %#llx "
                    "CPL %u; expected vector %d error %#x\n",
                    far_names[q->transfer], q->gate_type, machine_mode_names[q->mode], q->cpl, q->code.type,
                    q->code.dpl, q->code.present, q->code.flags, got.vector, got.error,
                    (unsigned long long)cpu->gpr[REG_RSP].q, cpu->cpl, a.vector, a.error);
    return good;
}

static void test_every_target_of_a_call_gate(void **unused)
{
    unsigned wrong = 0;

    (void)unused;
    for (enum machine_mode mode = MACHINE_PROTECTED16; mode < MACHINE_MODES; mode++)
        for (unsigned i = 0; i < 32 * 4 * 2 * 4 * 4 * 4 && wrong < ENOUGH; i++) {
            const struct gate_question q = {
                .mode = mode,
                .transfer = i >> 12 & 1 ? CALL : JMP,
                .cpl = i >> 10 & 3,
                .gate_type = i >> 13 ? 4 : 12,
                .code = {.type = i & 31, .dpl = i >> 5 & 3, .present = i >> 7 & 1, .flags = code_flags[i >> 8 & 3]}};
            if (q.gate_type == 4 && machine_mode_is_long(mode))
                continue; /* does not exist: test_every_descriptor */
            wrong += !ask_gate(&q);
        }
    assert_int_equal(wrong, 0);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, far_set_up, far_tear_down)
    const struct CMUnitTest tests[] = {CASE(test_every_descriptor), CASE(test_every_target_of_a_call_gate)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
