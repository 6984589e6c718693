/*
 * Several exceptions at one instruction: which one is raised. Instructions with a memory operand, and for each all
 * combinations of: a single-step trap of the instruction before, an instruction breakpoint, a code segment that ends, a
 * page of code that is missing, more than 15 bytes, a LOCK prefix that is not allowed, SSE switched off, CR0.TS, an x87
 * exception that waits, an operand beyond its segment or not canonical, misaligned, on a page that is missing, a value
 * that raises #DE or #XM; in 16-, 32- and 64-bit code at privilege 3. The order is that of SDM 3A table 6-2 (APM 2
 * table 8-8), a list below. What a user program can bring about is also done on the host's processor, in 64-bit code.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "machine.h"
#include "priority_native.h"
#include "util/compiler.h"

enum {
    HANDLERS = 0x7000,
    PAGE_TABLE = 0x10000,
    DIRECTORY = 0x11000,
    ENOUGH = 10,
    CODE_AT = 0x7ff8, /* eight bytes before a page that can be taken away */
    OPERAND = MACHINE_DATA + 0x100,
    NO_PAGE = 0xe000,
    NO_PAGE2 = 0xf000,
    LIMIT = 0xefff,
};

/* ---- what can be wrong ---- */

enum {
    TRAP = 1 << 0, /* TF for the instruction before */
    BREAKPOINT = 1 << 1,
    CODE_LIMIT = 1 << 2, /* not in 64-bit code */
    CODE_PAGE = 1 << 3,
    TOO_LONG = 1 << 4,
    LOCKED = 1 << 5,
    SWITCHED_OFF = 1 << 6,  /* CR4.OSFXSR is 0: SSE */
    TASK_SWITCHED = 1 << 7, /* CR0.TS: x87, MMX, SSE */
    WAITING = 1 << 8,       /* an unmasked x87 exception: x87, MMX */
    BAD_VALUE = 1 << 9,
    CONDITIONS = 1 << 10,
};

enum place { GOOD, ODD, MISSING, ODD_MISSING, INTO_MISSING, OUTSIDE, ODD_OUTSIDE, INTO_OUTSIDE, PLACES };

static bool is_odd(enum place place)
{
    return place == ODD || place == ODD_MISSING || place == ODD_OUTSIDE || place == INTO_MISSING ||
           place == INTO_OUTSIDE;
}
static bool is_outside(enum place place)
{
    return place >= OUTSIDE;
}
static bool is_missing(enum place place)
{
    return place == MISSING || place == ODD_MISSING || place == INTO_MISSING;
}

static const struct instruction {
    const char *name;
    uint8_t code[6]; /* without ModRM, which is [BX] or [BP] */
    uint8_t length;
    uint8_t reg, size;
    bool by_bp, is_x87, is_mmx, is_sse, needs_alignment, lockable;
    int value_vector; /* of a bad value; -1: none */
    uint64_t bad_value;
} instructions[] = {
    {"MOV", {0x8b}, 1, 0, 4, .value_vector = -1},
    {"MOV through SS", {0x8b}, 1, 0, 4, .by_bp = true, .value_vector = -1},
    {"DIV", {0xf7}, 1, 6, 4, .value_vector = VECTOR_DE, .bad_value = 0},
    {"INC", {0xff}, 1, 0, 4, .lockable = true, .value_vector = -1},
    {"FLD", {0xd9}, 1, 0, 4, .is_x87 = true, .value_vector = -1},
    {"MOVQ MM", {0x0f, 0x6f}, 2, 0, 8, .is_mmx = true, .value_vector = -1},
    {"MOVUPS", {0x0f, 0x10}, 2, 0, 16, .is_sse = true, .value_vector = -1},
    {"MOVAPS", {0x0f, 0x28}, 2, 0, 16, .is_sse = true, .needs_alignment = true, .value_vector = -1},
    {"MOVAPS through SS",
     {0x0f, 0x28},
     2,
     0,
     16,
     .by_bp = true,
     .is_sse = true,
     .needs_alignment = true,
     .value_vector = -1},
    {"ADDPS",
     {0x0f, 0x58},
     2,
     0,
     16,
     .is_sse = true,
     .needs_alignment = true,
     .value_vector = VECTOR_XM,
     .bad_value = 0x7f8000017f800001},
    {"ADDSS", {0xf3, 0x0f, 0x58}, 3, 0, 4, .is_sse = true, .value_vector = VECTOR_XM, .bad_value = 0x7f8000017f800001},
};

/* Unaligned moves of 16 bytes are not checked. */
static bool checks_alignment(const struct instruction *i)
{
    return i->size < 16;
}

/* Which of the conditions mean something for the instruction. */
static unsigned applicable(const struct instruction *i)
{
    unsigned conditions = TRAP | BREAKPOINT | CODE_LIMIT | CODE_PAGE | TOO_LONG;

    conditions |= (i->lockable ? 0 : LOCKED) | (i->is_sse ? SWITCHED_OFF : 0) |
                  (i->is_x87 || i->is_mmx || i->is_sse ? TASK_SWITCHED : 0) | (i->is_x87 || i->is_mmx ? WAITING : 0) |
                  (i->value_vector >= 0 ? BAD_VALUE : 0);
    return conditions;
}

/* ---- the order ---- */

struct arrival {
    int vector; /* OUTCOME_DONE: none */
    uint32_t error;
};

#define ARRIVAL(v, e) ((struct arrival){.vector = (v), .error = (e)})

static struct arrival expect(enum machine_mode mode, const struct instruction *i, unsigned conditions, enum place place)
{
    /* 4: traps on the instruction before. 7: breakpoint faults. */
    if (conditions & (TRAP | BREAKPOINT))
        return ARRIVAL(VECTOR_DB, 0);
    /* 8: faults of fetching. */
    if (conditions & CODE_LIMIT)
        return ARRIVAL(VECTOR_GP, 0);
    if (conditions & CODE_PAGE)
        return ARRIVAL(VECTOR_PF, PF_U);
    /* 9: faults of decoding. */
    if (conditions & TOO_LONG)
        return ARRIVAL(VECTOR_GP, 0);
    if (conditions & (LOCKED | SWITCHED_OFF))
        return ARRIVAL(VECTOR_UD, 0);
    if (conditions & TASK_SWITCHED)
        return ARRIVAL(VECTOR_NM, 0);
    /* 10: faults of executing. */
    if (conditions & WAITING)
        return ARRIVAL(VECTOR_MF, 0);
    if (is_odd(place) && i->needs_alignment)
        return ARRIVAL(VECTOR_GP, 0);
    if (place == INTO_OUTSIDE && mode == MACHINE_LONG && checks_alignment(i))
        return ARRIVAL(VECTOR_AC,
                       0); /* seen on silicon: the end is looked at last, where the first byte is canonical */
    if (is_outside(place))
        return ARRIVAL(i->by_bp ? VECTOR_SS : VECTOR_GP, 0);
    if (is_odd(place) && checks_alignment(i))
        return ARRIVAL(VECTOR_AC, 0);
    if (is_missing(place))
        return ARRIVAL(VECTOR_PF, PF_U | (i->lockable ? PF_W : 0));
    if (conditions & BAD_VALUE)
        return ARRIVAL(i->value_vector, 0);
    return ARRIVAL(OUTCOME_DONE, 0);
}

/* ---- the instruction's bytes ---- */

/* Prefixes to make it too long come first, then LOCK. Returns the length. */
static unsigned encode(const struct instruction *i, bool is_16, unsigned conditions, uint8_t *to)
{
    unsigned length = 0;

    if (conditions & TOO_LONG)
        for (; length < 15; length++)
            to[length] = i->by_bp ? 0x36 : 0x3e; /* SS, DS: what is used anyway */
    if (conditions & LOCKED)
        to[length++] = 0xf0;
    memcpy(to + length, i->code, i->length);
    length += i->length;
    to[length++] = (uint8_t)(i->reg << 3 | (i->by_bp ? (is_16 ? 0x46 : 0x45) : is_16 ? 0x07 : 0x03));
    if (i->by_bp)
        to[length++] = 0;
    return length;
}

/* ---- on the processor of the engine ---- */

static struct machine machine;

static void put_tables(enum machine_mode mode, unsigned conditions)
{
    const unsigned size = mode == MACHINE_LONG ? 8 : 4;

    for (uint32_t i = 0; i < 0x20; i++)
        machine_put(&machine, PAGE_TABLE + i * size, i * 4096 | 7, size);
    machine_put(&machine, PAGE_TABLE + (NO_PAGE >> 12) * size, 0, size);
    machine_put(&machine, PAGE_TABLE + (NO_PAGE2 >> 12) * size, 0, size);
    if (conditions & CODE_PAGE)
        machine_put(&machine, PAGE_TABLE + 8 * size, 0, size);
    machine_put(&machine, DIRECTORY, PAGE_TABLE | 7, size);
    if (mode == MACHINE_LONG)
        machine_put(&machine, MACHINE_PDPT, DIRECTORY | 7, 8);
    else
        machine.guest.cpu->cr3 = DIRECTORY;
}

static void put_handlers(enum machine_mode mode)
{
    const struct rights gate = {.type = 14, .dpl = 3, .present = true};

    for (unsigned i = 0; i < 32; i++)
        machine_put(&machine, MACHINE_IDT + i * (mode == MACHINE_LONG ? 16 : 8),
                    machine_gate(gate, mode == MACHINE_LONG ? MACHINE_CODE64(0) : MACHINE_CODE32(0), HANDLERS + i, 0),
                    8);
    memset(machine.guest.memory + HANDLERS, 0xf4, 256); /* HLT */
}

static uint64_t operand_of(enum machine_mode mode, enum place place)
{
    const uint64_t outside = mode == MACHINE_LONG ? 0x800000000000 : LIMIT + 1;

    switch (place) {
    case GOOD:
        return OPERAND;
    case ODD:
        return OPERAND + 1;
    case MISSING:
        return NO_PAGE + 0x10;
    case ODD_MISSING:
        return NO_PAGE + 0x11;
    case INTO_MISSING:
        return NO_PAGE - 1;
    case OUTSIDE:
        return outside;
    case ODD_OUTSIDE:
        return outside + 1;
    default:
        return outside - 1;
    }
}

static void put_operand(const struct instruction *i, unsigned conditions)
{
    const uint64_t value = conditions & BAD_VALUE ? i->bad_value : 0x3f8000013f800001;

    for (unsigned k = 0; k < 4; k++) {
        machine_put(&machine, OPERAND + 16 * k, value, 8);
        machine_put(&machine, OPERAND + 16 * k + 8, value, 8);
    }
}

/* The limit cuts the instruction off, on the page that is always there. */
static uint32_t code_end(unsigned length)
{
    return CODE_AT + (length > 6 ? 5 : length - 2);
}

static void put_registers(const struct instruction *i, unsigned conditions, enum place place, unsigned length)
{
    struct cpu *cpu = machine.guest.cpu;

    cpu->cr0 |= CR0_PG | CR0_AM | CR0_NE | (conditions & TASK_SWITCHED ? CR0_TS : 0);
    if (conditions & SWITCHED_OFF)
        cpu->cr4 &= ~CR4_OSFXSR;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        if (machine.mode != MACHINE_LONG && (s == SEG_DS || (s == SEG_SS && i->by_bp)))
            cpu->segment[s].limit = LIMIT, cpu->segment[s].attributes &= (uint16_t)~SEG_G;
    if (conditions & CODE_LIMIT)
        cpu->segment[SEG_CS].limit = code_end(length), cpu->segment[SEG_CS].attributes &= (uint16_t)~SEG_G;
    cpu->gpr[REG_RAX].q = 1;
    cpu->gpr[REG_RBX].q = cpu->gpr[REG_RBP].q = operand_of(machine.mode, place);
    cpu->x87 = (struct x87_image){.control = conditions & WAITING ? 0x37e : 0x37f,
                                  .status = conditions & WAITING ? 0x8081 : 0};
    cpu->mxcsr = conditions & BAD_VALUE ? 0x1f00 : 0x1f80;
    memset(cpu->vector, 0, sizeof(cpu->vector));
    cpu->dr[0] = CODE_AT;
    cpu->dr7 = conditions & BREAKPOINT ? 0x402 : 0x400;
    cpu->rip = conditions & TRAP ? CODE_AT - 1 : CODE_AT;
    cpu_set_rflags(cpu, RFLAGS_ONE | RFLAGS_AC | (conditions & TRAP ? RFLAGS_TF : 0));
    cpu_update_mode(cpu);
    cpu_flush_tlb(cpu, false);
}

/* Until a handler halts, or the HLT behind the instruction raises #GP (privilege 3). */
static bool run(enum machine_mode mode, const struct instruction *i, unsigned conditions, enum place place)
{
    struct cpu *cpu = machine.guest.cpu;
    const struct arrival want = expect(mode, i, conditions, place);
    struct event pending = {0};

    machine_enter(&machine, mode, 3);
    memset(machine.guest.memory + CODE_AT - 1, 0x90, 32);
    const unsigned length = encode(i, machine_mode_size(mode) == 2, conditions, machine.guest.memory + CODE_AT);
    machine.guest.memory[CODE_AT + length] = 0xf4;
    put_tables(mode, conditions);
    put_handlers(mode);
    put_operand(i, conditions);
    put_registers(i, conditions, place, length);
    cpu_verify_code(cpu);
    const enum cpu_leave leave = cpu_run(cpu, &pending);
    const unsigned size = mode == MACHINE_LONG ? 8 : 4, vector = (unsigned)cpu->rip - HANDLERS - 1;
    const bool has_error = vector == VECTOR_GP || vector == VECTOR_SS || vector == VECTOR_PF || vector == VECTOR_AC;
    const uint32_t sp = (uint32_t)cpu->gpr[REG_RSP].q & 0xffff,
                   error = has_error ? (uint32_t)machine_get(&machine, sp, size) : 0;
    const uint32_t rip = (uint32_t)machine_get(&machine, sp + (has_error ? size : 0), size);
    const uint32_t at = CODE_AT + (want.vector == OUTCOME_DONE ? length : 0);
    bool good = leave == LEAVE_HALT && cpu->cpl == 0 &&
                (int)vector == (want.vector == OUTCOME_DONE ? VECTOR_GP : want.vector) && error == want.error &&
                rip == at;
    if (good && vector == VECTOR_DB)
        good = cpu->dr6 == (0xffff0ff0 | (conditions & TRAP ? 0x4000 : 1));
    if (good && want.vector == VECTOR_PF)
        good = cpu->cr2 == (conditions & CODE_PAGE  ? CODE_AT + 8
                            : place == INTO_MISSING ? NO_PAGE
                                                    : operand_of(mode, place));
    if (!good)
        print_error("%s, %s, conditions %#x, place %d: leave %d vector %u error %#x RIP %#x CR2 %#llx DR6 %#llx; "
                    "expected %d error %#x RIP %#x\n",
                    i->name, machine_mode_names[mode], conditions, place, leave, vector, error, rip,
                    (unsigned long long)cpu->cr2, (unsigned long long)cpu->dr6, want.vector, want.error, at);
    return good;
}

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

static unsigned run_all(enum machine_mode mode)
{
    unsigned wrong = 0;

    for (unsigned k = 0; k < array_size(instructions); k++)
        for (unsigned conditions = 0; conditions < CONDITIONS; conditions++) {
            if (conditions & ~applicable(&instructions[k]) || (mode == MACHINE_LONG && (conditions & CODE_LIMIT)))
                continue;
            if ((conditions & CODE_PAGE) && !(conditions & TOO_LONG))
                continue; /* the instruction does not reach that far: test_code_page */
            for (enum place place = GOOD; place < PLACES && wrong < ENOUGH; place++)
                wrong += !run(mode, &instructions[k], conditions, place);
        }
    return wrong;
}

static void test_16_bit_code(void **unused)
{
    (void)unused;
    assert_int_equal(run_all(MACHINE_PROTECTED16), 0);
}

static void test_32_bit_code(void **unused)
{
    (void)unused;
    assert_int_equal(run_all(MACHINE_PROTECTED32), 0);
}

static void test_64_bit_code(void **unused)
{
    (void)unused;
    assert_int_equal(run_all(MACHINE_LONG), 0);
}

/* ---- on the host's ---- */

static int ask_host(const struct instruction *i, unsigned conditions, enum place place)
{
    static const struct {
        bool canonical;
        int offset; /* from the memory, or from the first address that is not canonical */
    } places[PLACES] = {{true, 0x100}, {true, 0x101}, {true, 0x1010}, {true, 0x1011},
                        {true, 0xfff}, {false, 0},    {false, 1},     {false, -1}};
    struct native_question q = {.mxcsr = conditions & BAD_VALUE ? 0x1f00 : 0x1f80, .waiting = conditions & WAITING};

    put_operand(i, conditions);
    memcpy(native_memory() + 0x100, machine.guest.memory + OPERAND, 64);
    q.length = encode(i, false, conditions, q.code);
    q.operand = (places[place].canonical ? (uint64_t)(uintptr_t)native_memory() : 0x800000000000) +
                (uint64_t)(int64_t)places[place].offset;
    return native_vector(&q);
}

static void test_on_the_host(void **unused)
{
    unsigned wrong = 0, asked = 0;

    (void)unused;
    assert_true(native_begin());
    for (unsigned k = 0; k < array_size(instructions); k++)
        for (unsigned conditions = 0; conditions < CONDITIONS; conditions++) {
            if (conditions & ~(applicable(&instructions[k]) & (TOO_LONG | LOCKED | WAITING | BAD_VALUE)))
                continue;
            for (enum place place = GOOD; place < PLACES; place++) {
                const int vector = ask_host(&instructions[k], conditions, place),
                          want = expect(MACHINE_LONG, &instructions[k], conditions, place).vector;
                asked++;
                if (vector == want || wrong++ > ENOUGH)
                    continue;
                print_error("%s, conditions %#x, place %d: the host raises %d, the list says %d\n",
                            instructions[k].name, conditions, place, vector, want);
            }
        }
    native_end();
    assert_true(asked > 200);
    assert_int_equal(wrong, 0);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {CASE(test_16_bit_code), CASE(test_32_bit_code), CASE(test_64_bit_code),
                                       CASE(test_on_the_host)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
