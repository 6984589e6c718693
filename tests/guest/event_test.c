/*
 * Nested exceptions (SDM 3A table 6-5): which event arrives when the gate of the first one is bad, and when the processor
 * shuts down. 32-bit protected mode without paging; handlers are never run, only entered.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "guest.h"

enum { GDT = 0x1000, IDT = 0x2000, PAGE_DIRECTORY = 0x4000, STACK = 0x8000, KCODE = 0x08, KDATA = 0x10 };

static struct guest guest;

static void put64(uint32_t at, uint64_t value)
{
    memcpy(guest.memory + at, &value, 8);
}

/* Interrupt gate for a vector; its handler is at 0x10000 + vector. */
static void set_gate(unsigned vector, uint16_t selector, uint8_t access)
{
    const uint64_t offset = 0x10000 + vector;
    put64(IDT + vector * 8, (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)access << 40 | (offset >> 16) << 48);
}

static int set_up(void **unused)
{
    (void)unused;
    if (!guest_create(&guest, NULL, true))
        return -1;
    struct cpu *cpu = guest.cpu;
    put64(GDT + KCODE, 0x00cf9b000000ffff);
    put64(GDT + KDATA, 0x00cf93000000ffff);
    for (unsigned v = 0; v < 256; v++)
        set_gate(v, KCODE, 0x8e);
    cpu->gdtr = (struct table_register){.base = GDT, .limit = 0x17};
    cpu->idtr = (struct table_register){.base = IDT, .limit = 0x7ff};
    cpu->cr0 |= CR0_PE;
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        cpu->segment[i] = (struct segment){.limit = 0xffffffff, .selector = i == SEG_CS ? KCODE : KDATA,
                                           .attributes = i == SEG_CS ? 0xc09b : 0xc093};
    cpu->gpr[REG_RSP].q = STACK;
    cpu->rip = 0x1234;
    cpu_update_mode(cpu);
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    guest_destroy(&guest);
    return 0;
}

static struct event exception(uint8_t vector)
{
    const bool has_error = vector == 8 || (vector >= 10 && vector <= 14);
    return (struct event){.type = EVENT_EXCEPTION, .vector = vector, .has_error = has_error};
}

static uint32_t stack_word(unsigned i)
{
    uint32_t value;
    memcpy(&value, guest.memory + guest.cpu->gpr[REG_RSP].d + 4 * i, 4);
    return value;
}

/* Dispatch; the handler of `vector` is entered with `error` on the stack (-1: none). */
static void expect(struct event event, unsigned vector, int64_t error)
{
    assert_int_equal(event_dispatch(guest.cpu, &event), LEAVE_NONE);
    assert_int_equal(guest.cpu->rip, 0x10000 + vector);
    if (error >= 0)
        assert_int_equal(stack_word(0), error);
    assert_int_equal(guest.cpu->gpr[REG_RSP].d, STACK - (error >= 0 ? 16 : 12));
    assert_int_equal(stack_word(error >= 0), 0x1234);
    assert_false(guest.cpu->memory_event);
}

static void expect_shutdown(struct event event)
{
    assert_int_equal(event_dispatch(guest.cpu, &event), LEAVE_SHUTDOWN);
    assert_int_equal(guest.cpu->rip, 0x1234);
}

static void test_good_gates(void **unused)
{
    (void)unused;
    expect(exception(VECTOR_GP), VECTOR_GP, 0);
}

static void test_benign_then_contributory(void **unused)
{
    (void)unused;
    set_gate(VECTOR_UD, KCODE, 0x0e); /* not present */
    expect(exception(VECTOR_UD), VECTOR_NP, VECTOR_UD * 8 + 2 + 1);
}

static void test_interrupt_then_contributory(void **unused)
{
    (void)unused;
    set_gate(0x40, 0, 0x8e); /* a null selector: #GP with EXT alone */
    expect((struct event){.type = EVENT_EXTERNAL, .vector = 0x40}, VECTOR_GP, 1);
}

static void test_software_interrupt_has_no_ext(void **unused)
{
    (void)unused;
    set_gate(0x40, KCODE, 0x0e);
    expect((struct event){.type = EVENT_SOFTWARE, .vector = 0x40}, VECTOR_NP, 0x40 * 8 + 2);
}

static void test_contributory_twice_is_double_fault(void **unused)
{
    (void)unused;
    for (unsigned i = 0; i < 5; i++) {
        static const uint8_t contributory[] = {VECTOR_DE, VECTOR_TS, VECTOR_NP, VECTOR_SS, VECTOR_GP};
        tear_down(NULL);
        set_up(NULL);
        set_gate(contributory[i], KDATA, 0x8e); /* not a code segment */
        expect(exception(contributory[i]), VECTOR_DF, 0);
    }
}

static void test_page_fault_then_contributory_is_double_fault(void **unused)
{
    (void)unused;
    set_gate(VECTOR_PF, 0x80, 0x8e);
    expect(exception(VECTOR_PF), VECTOR_DF, 0);
}

static void test_double_fault_then_any_shuts_down(void **unused)
{
    (void)unused;
    set_gate(VECTOR_GP, KDATA, 0x8e);
    set_gate(VECTOR_DF, KDATA, 0x8e);
    expect_shutdown(exception(VECTOR_GP));
}

static void test_empty_table_shuts_down(void **unused)
{
    (void)unused;
    guest.cpu->idtr.limit = 0;
    for (unsigned v = 0; v < 32; v++)
        expect_shutdown(exception((uint8_t)v));
    expect_shutdown((struct event){.type = EVENT_EXTERNAL, .vector = 0x80});
    expect_shutdown((struct event){.type = EVENT_NMI, .vector = 2});
}

/* Contributory, then a page fault (the table's page is missing): the page fault is delivered, if it can be. */
static void page_the_low_memory(void)
{
    for (unsigned i = 0; i < 1024; i++) {
        const uint32_t pte = i * 4096 | 3;
        memcpy(guest.memory + PAGE_DIRECTORY + 0x1000 + i * 4, &pte, 4);
    }
    put64(PAGE_DIRECTORY, (PAGE_DIRECTORY + 0x1000) | 3);
    guest.cpu->cr3 = PAGE_DIRECTORY;
    guest.cpu->cr0 |= CR0_PG;
    cpu_update_mode(guest.cpu);
    cpu_flush_tlb(guest.cpu, false);
}

static void test_contributory_then_page_fault(void **unused)
{
    (void)unused;
    page_the_low_memory();
    set_gate(VECTOR_GP, 0x18, 0x8e); /* its descriptor is on a missing page */
    guest.cpu->gdtr = (struct table_register){.base = 0x600000, .limit = 0xffff};
    memcpy(guest.memory + 0x600000, guest.memory + GDT, 0x18);
    /* The table is not mapped at all: the page fault's own handler cannot be entered either: #DF, which cannot either. */
    expect_shutdown(exception(VECTOR_GP));
    assert_int_equal(guest.cpu->cr2, 0x600000 + KCODE);
}

static void test_page_fault_on_the_stack_is_double_fault(void **unused)
{
    (void)unused;
    page_the_low_memory();
    guest.cpu->gpr[REG_RSP].q = 0x600000;
    expect_shutdown(exception(VECTOR_UD)); /* no stack: #PF, #DF, shutdown */
    assert_int_equal(guest.cpu->cr2, 0x5ffffc); /* the first push */
}

static void test_nmi_masks(void **unused)
{
    (void)unused;
    expect((struct event){.type = EVENT_NMI, .vector = 2}, 2, -1);
    assert_true(guest.cpu->nmi_masked);
}

static void test_debug_exception_sets_dr6(void **unused)
{
    (void)unused;
    guest.cpu->dr6 = 0xffff0ff0 | 0x4003;
    guest.cpu->dr7 = 0x2400;
    guest.cpu->fault = (struct cpu_fault){.vector = VECTOR_DB, .debug = 0x8};
    const struct event event = event_from_fault(guest.cpu);
    assert_int_equal(event.vector, VECTOR_DB);
    assert_int_equal(guest.cpu->dr6, 0xffff0ff0 | 0x4008); /* BS is sticky, conditions are new */
    assert_int_equal(guest.cpu->dr7, 0x400);               /* GD is cleared */
}

static void test_rf_in_the_image(void **unused)
{
    (void)unused;
    struct event event = exception(VECTOR_UD);
    assert_int_equal(event_dispatch(guest.cpu, &event), LEAVE_NONE);
    assert_int_equal(stack_word(2) & RFLAGS_RF, RFLAGS_RF);
    event = (struct event){.type = EVENT_EXTERNAL, .vector = 0x50};
    assert_int_equal(event_dispatch(guest.cpu, &event), LEAVE_NONE);
    assert_int_equal(stack_word(2) & RFLAGS_RF, 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_good_gates),
        CASE(test_benign_then_contributory),
        CASE(test_interrupt_then_contributory),
        CASE(test_software_interrupt_has_no_ext),
        CASE(test_contributory_twice_is_double_fault),
        CASE(test_page_fault_then_contributory_is_double_fault),
        CASE(test_double_fault_then_any_shuts_down),
        CASE(test_empty_table_shuts_down),
        CASE(test_contributory_then_page_fault),
        CASE(test_page_fault_on_the_stack_is_double_fault),
        CASE(test_nmi_masks),
        CASE(test_debug_exception_sets_dr6),
        CASE(test_rf_in_the_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
