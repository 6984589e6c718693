/*
 * Exceptions during the delivery of events: each of the 32 exceptions, NMI, an interrupt from outside, INT n, INT3,
 * INT1 first; each exception that delivery can raise second (#TS, #NP, #SS, #GP, #PF); and each of those third. What
 * arrives, or that the processor shuts down, is table 6-5 of SDM 3A 6.15 (with #VE and #CP), said here a second time,
 * in 32-bit protected and in 64-bit mode. The handlers run at privilege 0, the events come at privilege 3.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "machine.h"
#include "util/compiler.h"

enum {
    RIP = 0x89a,
    HANDLERS = 0x4000,
    VECTOR = 0x77,
    ENOUGH = 10,
    MISSING32 = 0x400000,   /* nothing is mapped there */
    MISSING64 = 0x50000000, /* nor there: the second GiB */
    IST_BAD = 1,
    IST_MISSING = 2,
    IST_BEYOND = 7,
};

static struct machine machine;

/* ---- ways for a delivery to fail ---- */

enum trouble { NONE, TS, NP, SS, GP, PF, TROUBLES };
static const int trouble_vector[TROUBLES] = {-1, VECTOR_TS, VECTOR_NP, VECTOR_SS, VECTOR_GP, VECTOR_PF};

static enum trouble gates[256]; /* what is wrong with each */

static void put_gate(unsigned vector, struct rights rights, uint16_t selector, unsigned ist)
{
    const bool is_long = machine_mode_is_long(machine.mode);
    const uint32_t at = MACHINE_IDT + vector * (is_long ? 16 : 8);

    machine_put(&machine, at, machine_gate(rights, selector, HANDLERS + vector, ist), 8);
    if (is_long)
        machine_put(&machine, at + 8, 0, 8);
}

/*
 * #NP: the gate is not there. #GP: it leads to data. The others are about the stack. 32 bits: the gate leads to level 1
 * (#TS: a stack segment of level 0), to level 2 (#SS: a stack segment that is not present), or its descriptor is in a
 * part of the table that has no memory. 64 bits: interrupt stacks that are beyond the TSS, not canonical, not mapped.
 */
static void set_gate(unsigned vector, enum trouble trouble)
{
    const bool is_long = machine_mode_is_long(machine.mode);
    const struct rights gate = {.type = 14, .dpl = 3, .present = trouble != NP};
    uint16_t selector = is_long ? MACHINE_CODE64(0) : MACHINE_CODE32(0);
    unsigned ist = 0;

    gates[vector] = trouble;
    if (trouble == GP)
        selector = MACHINE_DATA_OF(0);
    else if (is_long)
        ist = trouble == TS ? IST_BEYOND : trouble == SS ? IST_BAD : trouble == PF ? IST_MISSING : 0;
    else if (trouble == TS)
        selector = MACHINE_CODE32(1);
    else if (trouble == SS)
        selector = MACHINE_CODE32(2);
    else if (trouble == PF)
        selector = MACHINE_TEST2; /* see enter32 */
    put_gate(vector, gate, selector, ist);
}

/* The error code that the exception of this trouble has, when `vector` could not be delivered; `ext` as for that event.
 */
static uint32_t error_of(enum trouble trouble, unsigned vector, unsigned ext)
{
    const bool is_long = machine_mode_is_long(machine.mode);

    switch (trouble) {
    case TS:
        return (is_long ? MACHINE_TSS_SELECTOR : MACHINE_DATA_OF(0)) | ext;
    case NP:
        return vector * 8 + 2 + ext;
    case SS:
        return is_long ? ext : MACHINE_TEST | ext;
    case GP:
        return MACHINE_DATA_OF(0) | ext;
    default:
        return is_long ? PF_W : 0; /* a push; the read of a descriptor */
    }
}

static uint64_t fault_address(void)
{
    return machine_mode_is_long(machine.mode) ? MISSING64 + 0x800 - 8 : MISSING32;
}

/* ---- a processor whose handlers are all fine ---- */

static void enter32(void)
{
    struct cpu *cpu = machine.guest.cpu;
    const struct rights absent = {.type = 0x13, .dpl = 2, .flags = 0xc};

    machine_put(&machine, MACHINE_TSS + 16, MACHINE_DATA_OF(0) | 1, 2); /* SS1, SS2 */
    machine_put(&machine, MACHINE_TSS + 24, MACHINE_TEST | 2, 2);
    machine_set_descriptor(&machine, MACHINE_TEST, machine_segment(absent, 0, 0xfffff), 0);
    /*
     * Pages of 4 KiB in a table at PDPT: the low 4 MiB one to one. The descriptor table is moved to the end of them, so
     * that MACHINE_TEST2 is the first that lies beyond.
     */
    for (uint32_t i = 0; i < 1024; i++)
        machine_put(&machine, MACHINE_PDPT + i * 4, i * 4096 | 7, 4);
    machine_put(&machine, MACHINE_PML4, MACHINE_PDPT | 7, 4);
    machine_put(&machine, MACHINE_PML4 + 4, 0, 4);
    memcpy(machine.guest.memory + MISSING32 - MACHINE_TEST2, machine.guest.memory + MACHINE_GDT, MACHINE_TEST2);
    cpu->gdtr.base = MISSING32 - MACHINE_TEST2;
    cpu->cr0 |= CR0_PG;
    cpu_update_mode(cpu);
    cpu_flush_tlb(cpu, false);
}

static void enter64(void)
{
    machine_put(&machine, MACHINE_TSS + 36, 0x900000000000, 8);
    machine_put(&machine, MACHINE_TSS + 44, MISSING64 + 0x800, 8);
    machine.guest.cpu->segment[SEG_TR].limit = 36 + 6 * 8 - 1;
}

static void enter(enum machine_mode mode)
{
    machine_enter(&machine, mode, 3);
    for (unsigned i = 0; i < 256; i++)
        set_gate(i, NONE);
    if (mode == MACHINE_LONG)
        enter64();
    else
        enter32();
    machine.guest.cpu->rip = RIP;
    machine.guest.cpu->cr2 = 0;
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

/* ---- table 6-5 ---- */

enum class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };
enum { SERIAL, DOUBLE, SHUTDOWN };

static enum class class_of(const struct event *event) {
    static const uint8_t contributory[] = {0, 10, 11, 12, 13, 21}, page_faults[] = {14, 20};

    if (event->type != EVENT_EXCEPTION) return BENIGN;
    for (unsigned i = 0; i < array_size(contributory); i++) if (event->vector == contributory[i]) return CONTRIBUTORY;
    for (unsigned i = 0; i < array_size(page_faults); i++) if (event->vector == page_faults[i]) return PAGE_FAULT;
    return event->vector == 8 ? DOUBLE_FAULT : BENIGN;
}

static const uint8_t table[4][3] = {
    /* second:          benign  contributory  page fault */
    [BENIGN] = {SERIAL, SERIAL, SERIAL},
    [CONTRIBUTORY] = {SERIAL, DOUBLE, SERIAL},
    [PAGE_FAULT] = {SERIAL, DOUBLE, DOUBLE},
    [DOUBLE_FAULT] = {SERIAL, SHUTDOWN, SHUTDOWN},
};

/* What arrives in the end: vector and error; vector -1: shutdown. */
struct arrival {
    int vector;
    uint32_t error;
    bool page_fault; /* one has happened on the way */
};

static unsigned ext_of(const struct event *event)
{
    return event->type != EVENT_SOFTWARE && event->type != EVENT_SOFT_EXCEPTION;
}

/* One that comes to a handler finds its gate as it is; three steps lead to the end, or to a fourth. */
static struct arrival expect(struct event event)
{
    bool page_fault = false;
    uint32_t error = event.error;

    while (gates[event.vector] != NONE) {
        const enum trouble now = gates[event.vector];
        const struct event next = {.type = EVENT_EXCEPTION, .vector = (uint8_t)trouble_vector[now]};
        const unsigned rule = table[class_of(&event)][class_of(&next)];

        page_fault |= now == PF;
        if (rule == SHUTDOWN)
            return (struct arrival){.vector = -1, .page_fault = page_fault};
        error = rule == DOUBLE ? 0 : error_of(now, event.vector, ext_of(&event));
        event = next;
        if (rule == DOUBLE)
            event.vector = VECTOR_DF;
    }
    return (struct arrival){.vector = event.vector, .error = error, .page_fault = page_fault};
}

/* ---- all of it ---- */

static bool has_error_code(unsigned vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21;
}

static const struct event others[] = {
    {.type = EVENT_NMI, .vector = VECTOR_NMI},           {.type = EVENT_EXTERNAL, .vector = VECTOR},
    {.type = EVENT_EXTERNAL, .vector = VECTOR_PF}, /* an interrupt with an exception's number is none */
    {.type = EVENT_SOFTWARE, .vector = VECTOR},          {.type = EVENT_SOFTWARE, .vector = VECTOR_GP},
    {.type = EVENT_SOFT_EXCEPTION, .vector = VECTOR_BP}, {.type = EVENT_SOFT_EXCEPTION, .vector = VECTOR_OF},
    {.type = EVENT_ICEBP, .vector = VECTOR_DB},
};

static bool arrives(const struct event *first, const enum trouble trouble[2], bool bad_double)
{
    struct cpu *cpu = machine.guest.cpu;
    struct event event = *first;

    enter(machine.mode);
    if (trouble[0] != NONE)
        set_gate((unsigned)trouble_vector[trouble[0]], trouble[1]);
    if (bad_double)
        set_gate(VECTOR_DF, trouble[1]);
    set_gate(first->vector, trouble[0]);
    const struct arrival want = expect(*first);
    const enum cpu_leave leave = event_dispatch(cpu, &event);
    const unsigned size = machine.mode == MACHINE_LONG ? 8 : 4;
    const uint64_t rsp = cpu->gpr[REG_RSP].q;
    bool good = leave == (want.vector < 0 ? LEAVE_SHUTDOWN : LEAVE_NONE);

    if (good && want.vector < 0)
        good = cpu->rip == RIP && rsp == MACHINE_STACK && cpu->cpl == 3;
    else if (good)
        good = cpu->rip == (uint64_t)(HANDLERS + want.vector) && cpu->cpl == 0 &&
               (trouble[0] == NONE || (machine_get(&machine, (uint32_t)rsp, size) == want.error &&
                                       machine_get(&machine, (uint32_t)rsp + size, size) == RIP));
    good = good && cpu->cr2 == (want.page_fault ? fault_address() : 0) && !cpu->memory_event;
    if (!good)
        print_error("%s: event %d/%u, then %d, then %d (double fault too: %d): leave %d RIP %#llx CR2 %#llx error "
                    "%#llx; expected %d error %#x\n",
                    machine_mode_names[machine.mode], first->type, first->vector, trouble_vector[trouble[0]],
                    trouble_vector[trouble[1]], bad_double, leave, (unsigned long long)cpu->rip,
                    (unsigned long long)cpu->cr2,
                    (unsigned long long)machine_get(&machine, (uint32_t)rsp & 0xffff, size), want.vector, want.error);
    return good;
}

static unsigned try_event(const struct event *first)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < TROUBLES * TROUBLES * 2 && wrong < ENOUGH; i++) {
        const enum trouble trouble[2] = {i % TROUBLES, i / TROUBLES % TROUBLES};
        if (trouble[0] == NONE && i)
            continue;
        wrong += !arrives(first, trouble, i >= TROUBLES * TROUBLES);
    }
    return wrong;
}

static unsigned try_all(enum machine_mode mode)
{
    unsigned wrong = 0;

    machine.mode = mode;
    for (unsigned i = 0; i < 32; i++)
        wrong += try_event(
            &(struct event){.type = EVENT_EXCEPTION, .vector = (uint8_t)i, .has_error = has_error_code(i), .error = 0});
    for (unsigned i = 0; i < array_size(others); i++)
        wrong += try_event(&others[i]);
    return wrong;
}

static void test_protected_mode(void **unused)
{
    (void)unused;
    assert_int_equal(try_all(MACHINE_PROTECTED32), 0);
}

static void test_long_mode(void **unused)
{
    (void)unused;
    assert_int_equal(try_all(MACHINE_LONG), 0);
}

/* The same exception raised by its own delivery: the gate of each is what is wrong. */
static void test_by_its_own_gate(void **unused)
{
    (void)unused;
    for (enum machine_mode mode = MACHINE_PROTECTED32; mode <= MACHINE_LONG; mode += MACHINE_LONG - MACHINE_PROTECTED32)
        for (enum trouble trouble = TS; trouble < TROUBLES; trouble++) {
            struct event event = {
                .type = EVENT_EXCEPTION, .vector = (uint8_t)trouble_vector[trouble], .has_error = true};
            machine.mode = mode;
            enter(mode);
            set_gate(event.vector, trouble);
            assert_int_equal(event_dispatch(machine.guest.cpu, &event), LEAVE_NONE);
            assert_int_equal(machine.guest.cpu->rip,
                             HANDLERS + VECTOR_DF); /* both pairs of a class with itself make a double fault */
        }
}

/* Real mode: a table that is too short for #DF too is a shutdown; one that reaches it, a #DF (SDM 3A 20.1.4). */
static void test_real_mode(void **unused)
{
    (void)unused;
    for (unsigned vector = 9; vector < 256; vector++)
        for (unsigned short_of = 0; short_of < 2; short_of++) {
            struct event event = {.type = EVENT_EXTERNAL, .vector = (uint8_t)vector};
            machine_enter(&machine, MACHINE_REAL, 0);
            struct cpu *cpu = machine.guest.cpu;
            cpu->rip = RIP;
            cpu->idtr.limit = short_of ? 8 * 4 + 2 : 8 * 4 + 3;
            machine_put(&machine, MACHINE_IDT + 8 * 4, HANDLERS, 4);
            assert_int_equal(event_dispatch(cpu, &event), short_of ? LEAVE_SHUTDOWN : LEAVE_NONE);
            assert_int_equal(cpu->rip, short_of ? RIP : HANDLERS);
        }
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {CASE(test_protected_mode), CASE(test_long_mode), CASE(test_by_its_own_gate),
                                       CASE(test_real_mode)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
