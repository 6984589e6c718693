/*
 * Gates of the interrupt table, one fault or one frame each: every check of SDM 3A 6.12.1 and 6.14 with its error code and in
 * its order, in 32-bit protected mode with 32- and 16-bit gates and in long mode; NMI masking.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "guest.h"
#include "util/compiler.h"

enum {
    GDT = 0x1000, IDT = 0x2000, TSS = 0x3000, PML4 = 0x4000, PDPT = 0x5000, STACK = 0x8000, STACK0 = 0x9000, IST1 = 0xa000,
    KCODE = 0x08, KDATA = 0x10, UCODE = 0x18, UDATA = 0x20, CONFORM = 0x28, NP_CODE = 0x30, NP_DATA = 0x38, RO_DATA = 0x40,
    TSS_SELECTOR = 0x48, SHORT_CODE = 0x58, CODE16 = 0x60, GDT_END = 0x68,
    VECTOR = 0x40, OFFSET = 0x12345, RIP = 0x1234, ID = VECTOR * 8 + 2,
};

static struct guest guest;

static void put(uint32_t at, uint64_t value, unsigned size) { memcpy(guest.memory + at, &value, size); }
static uint64_t get(uint64_t at, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, guest.memory + at, size);
    return value;
}

/* What differs from a good gate; 0 stands for the usual. */
struct row {
    const char *name;
    uint8_t cpl;
    enum event_type type;
    uint8_t access;        /* usual: 0x8e | DPL 3, interrupt gate */
    uint16_t selector;     /* usual: KCODE; NO_SELECTOR: null */
    uint16_t idt_limit;
    uint16_t tss_limit;
    uint16_t ss0;          /* usual: KDATA; NO_SELECTOR: null */
    uint64_t rsp0;         /* usual: STACK0 */
    uint8_t ist;
    uint64_t ist1;
    uint64_t offset;
    int vector;            /* -1: delivered */
    uint32_t error;
};

enum { NO_SELECTOR = 0xfffc };

static uint16_t selector_or(uint16_t given, uint16_t usual) { return given == NO_SELECTOR ? 0 : given ? given : usual; }

static void set_gate(const struct row *row, bool is_long)
{
    const uint64_t offset = row->offset ? row->offset : OFFSET;
    const uint8_t access = row->access ? row->access : 0xee;
    const uint32_t at = IDT + VECTOR * (is_long ? 16 : 8);

    put(at,
        (offset & 0xffff) | (uint64_t)selector_or(row->selector, KCODE) << 16 | (uint64_t)row->ist << 32 |
            (uint64_t)access << 40 | (offset >> 16 & 0xffff) << 48,
        8);
    if (is_long)
        put(at + 8, offset >> 32, 8);
    guest.cpu->idtr = (struct table_register){.base = IDT, .limit = row->idt_limit ? row->idt_limit : is_long ? 0xfff : 0x7ff};
}

static void set_tss(const struct row *row, bool is_long)
{
    memset(guest.memory + TSS, 0, 104);
    put(TSS + 4, row->rsp0 ? row->rsp0 : STACK0, is_long ? 8 : 4);
    if (is_long)
        put(TSS + 36, row->ist1 ? row->ist1 : IST1, 8);
    else
        put(TSS + 8, selector_or(row->ss0, KDATA), 2);
    guest.cpu->segment[SEG_TR] = (struct segment){
        .base = TSS, .limit = row->tss_limit ? row->tss_limit : 103, .selector = TSS_SELECTOR, .attributes = 0x8b};
}

static void set_gdt(bool is_long)
{
    put(GDT + KCODE, is_long ? 0x00af9b000000ffff : 0x00cf9b000000ffff, 8);
    put(GDT + KDATA, 0x00cf93000000ffff, 8);
    put(GDT + UCODE, is_long ? 0x00affb000000ffff : 0x00cffb000000ffff, 8);
    put(GDT + UDATA, 0x00cff3000000ffff, 8);
    put(GDT + CONFORM, is_long ? 0x00af9f000000ffff : 0x00cf9f000000ffff, 8);
    put(GDT + NP_CODE, is_long ? 0x00af1b000000ffff : 0x00cf1b000000ffff, 8);
    put(GDT + NP_DATA, 0x00cf13000000ffff, 8);
    put(GDT + RO_DATA, 0x00cf91000000ffff, 8);
    put(GDT + SHORT_CODE, 0x00409b00000000ff, 8); /* 32-bit, limit 0xff */
    put(GDT + CODE16, 0x00009b000000ffff, 8);
    guest.cpu->gdtr = (struct table_register){.base = GDT, .limit = GDT_END - 1};
}

static void set_registers(unsigned cpl, bool is_long)
{
    struct cpu *cpu = guest.cpu;

    cpu->cr0 = CR0_PE | (is_long ? CR0_PG : 0);
    if (is_long) {
        put(PML4, PDPT | 7, 8);
        put(PDPT, 0x87, 8); /* 1 GiB, user */
        cpu->cr3 = PML4;
        cpu->cr4 = CR4_PAE;
        cpu->efer = EFER_LME | EFER_LMA;
    }
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        cpu->segment[i] =
            (struct segment){.limit = 0xffffffff, .selector = cpl ? UDATA | 3 : KDATA, .attributes = cpl ? 0xc0f3 : 0xc093};
    cpu->segment[SEG_CS].selector = cpl ? UCODE | 3 : KCODE;
    cpu->segment[SEG_CS].attributes = (uint16_t)((is_long ? 0xa09b : 0xc09b) | cpl << 5);
    cpu->cpl = (uint8_t)cpl;
    cpu->gpr[REG_RSP].q = STACK;
    cpu->rip = RIP;
    cpu_set_rflags(cpu, RFLAGS_ONE | RFLAGS_IF | RFLAGS_CF | RFLAGS_TF | RFLAGS_NT);
    cpu_update_mode(cpu);
    cpu_flush_tlb(cpu, false);
}

static int set_up(void **unused)
{
    (void)unused;
    return guest_create(&guest, NULL, true) ? 0 : -1;
}

static int tear_down(void **unused)
{
    (void)unused;
    guest_destroy(&guest);
    return 0;
}

static bool deliver(const struct row *row, bool is_long)
{
    const struct event event = {.type = row->type, .vector = VECTOR};

    set_gdt(is_long);
    set_registers(row->cpl, is_long);
    set_gate(row, is_long);
    set_tss(row, is_long);
    return event_deliver(guest.cpu, &event);
}

/* Nothing has changed but accessed bits. */
static unsigned count_wrong(const struct row *rows, size_t count, bool is_long)
{
    unsigned wrong = 0;

    for (size_t i = 0; i < count; i++) {
        const struct row *row = &rows[i];
        const bool done = deliver(row, is_long);
        const struct cpu *cpu = guest.cpu;
        const bool good = row->vector < 0 ? done
                                          : !done && cpu->fault.vector == row->vector && cpu->fault.has_error &&
                                                cpu->fault.error == row->error && cpu->rip == RIP &&
                                                cpu->gpr[REG_RSP].q == STACK && cpu->cpl == row->cpl;
        if (!good) {
            print_error("%s: delivered %d, vector %u error %#x; expected %d error %#x\n", row->name, done, cpu->fault.vector,
                        cpu->fault.error, row->vector, row->error);
            wrong++;
        }
    }
    return wrong;
}

#define SOFT .type = EVENT_SOFTWARE
#define HARD .type = EVENT_EXTERNAL

static void test_checks_in_protected_mode(void **unused)
{
    static const struct row rows[] = {
        {"beyond the table", SOFT, .idt_limit = VECTOR * 8 + 6, .vector = VECTOR_GP, .error = ID},
        {"beyond the table, from outside", HARD, .idt_limit = VECTOR * 8 + 6, .vector = VECTOR_GP, .error = ID + 1},
        {"a call gate", SOFT, .access = 0xec, .vector = VECTOR_GP, .error = ID},
        {"a TSS", SOFT, .access = 0xe9, .vector = VECTOR_GP, .error = ID},
        {"a code segment", SOFT, .access = 0xfa, .vector = VECTOR_GP, .error = ID},
        {"privilege", 3, SOFT, .access = 0x8e, .vector = VECTOR_GP, .error = ID},
        {"privilege does not count from outside", 3, HARD, .access = 0x8e, .vector = -1},
        {"INT3 counts", 3, EVENT_SOFT_EXCEPTION, .access = 0x8e, .vector = VECTOR_GP, .error = ID},
        {"INT1 does not", 3, EVENT_ICEBP, .access = 0x8e, .vector = -1},
        {"not present", SOFT, .access = 0x6e, .vector = VECTOR_NP, .error = ID},
        {"not present, from outside", HARD, .access = 0x6e, .vector = VECTOR_NP, .error = ID + 1},
        {"privilege before presence", 3, SOFT, .access = 0x0e, .vector = VECTOR_GP, .error = ID},
        {"null selector", SOFT, .selector = NO_SELECTOR, .vector = VECTOR_GP, .error = 0},
        {"null selector, from outside", HARD, .selector = NO_SELECTOR, .vector = VECTOR_GP, .error = 1},
        {"selector beyond the table", SOFT, .selector = GDT_END, .vector = VECTOR_GP, .error = GDT_END},
        {"selector in an LDT that is not there", SOFT, .selector = KCODE | 4, .vector = VECTOR_GP, .error = KCODE | 4},
        {"data", SOFT, .selector = KDATA, .vector = VECTOR_GP, .error = KDATA},
        {"data, from outside", HARD, .selector = KDATA, .vector = VECTOR_GP, .error = KDATA + 1},
        {"less privileged code", SOFT, .selector = UCODE, .vector = VECTOR_GP, .error = UCODE},
        {"code not present", SOFT, .selector = NP_CODE, .vector = VECTOR_NP, .error = NP_CODE},
        {"offset beyond the limit", SOFT, .selector = SHORT_CODE, .vector = VECTOR_GP, .error = 0},
        {"offset beyond the limit, from outside", HARD, .selector = SHORT_CODE, .vector = VECTOR_GP, .error = 1},
        {"TSS too short", 3, SOFT, .tss_limit = 8, .vector = VECTOR_TS, .error = TSS_SELECTOR},
        {"TSS too short, from outside", 3, HARD, .tss_limit = 8, .vector = VECTOR_TS, .error = TSS_SELECTOR + 1},
        {"SS0 null", 3, SOFT, .ss0 = NO_SELECTOR, .vector = VECTOR_TS, .error = 0},
        {"SS0 null, from outside", 3, HARD, .ss0 = NO_SELECTOR, .vector = VECTOR_TS, .error = 1},
        {"SS0 beyond the table", 3, SOFT, .ss0 = GDT_END, .vector = VECTOR_TS, .error = GDT_END},
        {"SS0 with another RPL", 3, SOFT, .ss0 = KDATA | 3, .vector = VECTOR_TS, .error = KDATA},
        {"SS0 of another privilege", 3, SOFT, .ss0 = UDATA, .vector = VECTOR_TS, .error = UDATA},
        {"SS0 read-only", 3, SOFT, .ss0 = RO_DATA, .vector = VECTOR_TS, .error = RO_DATA},
        {"SS0 code", 3, HARD, .ss0 = KCODE, .vector = VECTOR_TS, .error = KCODE + 1},
        {"SS0 not present", 3, SOFT, .ss0 = NP_DATA, .vector = VECTOR_SS, .error = NP_DATA},
        {"SS0 not present, from outside", 3, HARD, .ss0 = NP_DATA, .vector = VECTOR_SS, .error = NP_DATA + 1},
        {"conforming code needs no stack", 3, SOFT, .selector = CONFORM, .ss0 = NO_SELECTOR, .vector = -1},
    };

    (void)unused;
    assert_int_equal(count_wrong(rows, array_size(rows), false), 0);
}

static void test_checks_in_long_mode(void **unused)
{
    static const struct row rows[] = {
        {"beyond the table", SOFT, .idt_limit = VECTOR * 16 + 14, .vector = VECTOR_GP, .error = ID},
        {"a 16-bit gate", SOFT, .access = 0xe6, .vector = VECTOR_GP, .error = ID},
        {"a task gate", SOFT, .access = 0xe5, .vector = VECTOR_GP, .error = ID},
        {"privilege", 3, SOFT, .access = 0x8e, .vector = VECTOR_GP, .error = ID},
        {"not present, from outside", HARD, .access = 0x6e, .vector = VECTOR_NP, .error = ID + 1},
        {"null selector", SOFT, .selector = NO_SELECTOR, .vector = VECTOR_GP, .error = 0},
        {"32-bit code", SOFT, .selector = SHORT_CODE, .vector = VECTOR_GP, .error = SHORT_CODE},
        {"16-bit code", HARD, .selector = CODE16, .vector = VECTOR_GP, .error = CODE16 + 1},
        {"data", SOFT, .selector = KDATA, .vector = VECTOR_GP, .error = KDATA},
        {"less privileged code", SOFT, .selector = UCODE, .vector = VECTOR_GP, .error = UCODE},
        {"code not present", SOFT, .selector = NP_CODE, .vector = VECTOR_NP, .error = NP_CODE},
        {"offset not canonical", SOFT, .offset = 0x800000000000, .vector = VECTOR_GP, .error = 0},
        {"offset not canonical, from outside", HARD, .offset = 0x800000000000, .vector = VECTOR_GP, .error = 1},
        {"RSP0 not canonical", 3, SOFT, .rsp0 = 0x900000000000, .vector = VECTOR_SS, .error = 0},
        {"RSP0 not canonical, from outside", 3, HARD, .rsp0 = 0x900000000000, .vector = VECTOR_SS, .error = 1},
        {"IST1 not canonical", SOFT, .ist = 1, .ist1 = 0x900000000000, .vector = VECTOR_SS, .error = 0},
        {"TSS without RSP0", 3, SOFT, .tss_limit = 10, .vector = VECTOR_TS, .error = TSS_SELECTOR},
        {"TSS without IST1", HARD, .ist = 1, .tss_limit = 42, .vector = VECTOR_TS, .error = TSS_SELECTOR + 1},
        {"conforming code needs no stack", 3, SOFT, .selector = CONFORM, .rsp0 = 0x900000000000, .vector = -1},
    };

    (void)unused;
    assert_int_equal(count_wrong(rows, array_size(rows), true), 0);
}

/* ---- frames ---- */

enum { FLAGS = 0x4303 }; /* NT, IF, TF, CF and the bit that is always set */

static void expect_frame(uint64_t rsp, unsigned size, const uint64_t *values, unsigned count)
{
    assert_int_equal(guest.cpu->gpr[REG_RSP].q, rsp);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(get(rsp + i * size, size), values[i]);
}

static void expect_handler(uint16_t cs, unsigned cpl, bool interrupts)
{
    const struct cpu *cpu = guest.cpu;

    assert_int_equal(cpu->segment[SEG_CS].selector, cs);
    assert_int_equal(cpu->cpl, cpl);
    assert_int_equal(cpu_rflags(cpu), 3 | (interrupts ? RFLAGS_IF : 0)); /* TF and NT are always cleared */
}

static void test_frames_in_protected_mode(void **unused)
{
    const uint64_t outer[] = {RIP, UCODE | 3, FLAGS, STACK, UDATA | 3}, inner[] = {RIP, KCODE, FLAGS};

    (void)unused;
    for (unsigned trap = 0; trap < 2; trap++) {
        assert_true(deliver(&(struct row){.access = (uint8_t)(0xee + trap), SOFT}, false));
        expect_frame(STACK - 12, 4, inner, 3);
        expect_handler(KCODE, 0, trap);
        assert_int_equal(guest.cpu->rip, OFFSET);
        assert_true(deliver(&(struct row){.access = (uint8_t)(0xe6 + trap), SOFT}, false));
        expect_frame(STACK - 6, 2, inner, 3);
        expect_handler(KCODE, 0, trap);
        assert_int_equal(guest.cpu->rip, OFFSET & 0xffff); /* 16-bit gates have 16-bit offsets */
        assert_true(deliver(&(struct row){.cpl = 3, .access = (uint8_t)(0xee + trap), SOFT}, false));
        expect_frame(STACK0 - 20, 4, outer, 5);
        expect_handler(KCODE, 0, trap);
        assert_int_equal(guest.cpu->segment[SEG_SS].selector, KDATA);
        assert_true(deliver(&(struct row){.cpl = 3, .access = (uint8_t)(0xe6 + trap), SOFT}, false));
        expect_frame(STACK0 - 10, 2, outer, 5);
        expect_handler(KCODE, 0, trap);
        assert_true(deliver(&(struct row){.cpl = 3, .access = (uint8_t)(0xee + trap), .selector = CONFORM, SOFT}, false));
        expect_frame(STACK - 12, 4, outer, 3);
        expect_handler(CONFORM | 3, 3, trap);
    }
}

static void test_frames_in_long_mode(void **unused)
{
    const uint64_t outer[] = {RIP, UCODE | 3, FLAGS, STACK, UDATA | 3}, inner[] = {RIP, KCODE, FLAGS, STACK, KDATA};

    (void)unused;
    for (unsigned trap = 0; trap < 2; trap++) {
        assert_true(deliver(&(struct row){.access = (uint8_t)(0xee + trap), SOFT}, true));
        expect_frame(STACK - 40, 8, inner, 5);
        expect_handler(KCODE, 0, trap);
        assert_true(deliver(&(struct row){.cpl = 3, .access = (uint8_t)(0xee + trap), SOFT}, true));
        expect_frame(STACK0 - 40, 8, outer, 5);
        expect_handler(KCODE, 0, trap);
        assert_int_equal(guest.cpu->segment[SEG_SS].selector, 0);
        assert_true(deliver(&(struct row){.access = (uint8_t)(0xee + trap), .ist = 1, .ist1 = IST1 + 9, SOFT}, true));
        expect_frame(IST1 - 40, 8, inner, 5); /* aligned to 16 */
        assert_int_equal(guest.cpu->segment[SEG_SS].selector, KDATA);
    }
}

/* ---- NMI ---- */

static void test_nmi_is_masked_until_iret(void **unused)
{
    struct cpu *cpu = guest.cpu;
    const struct event nmi = {.type = EVENT_NMI, .vector = VECTOR_NMI};

    (void)unused;
    assert_true(deliver(&(struct row){.access = 0x8e}, false)); /* tables */
    set_registers(0, false);
    cpu_set_rflags(cpu, RFLAGS_ONE);
    memcpy(guest.memory + IDT + VECTOR_NMI * 8, guest.memory + IDT + VECTOR * 8, 8);
    assert_true(event_deliver(cpu, &nmi));
    assert_true(cpu->nmi_masked);
    guest.memory[OFFSET] = 0x90;     /* an instruction does not unmask */
    guest.memory[OFFSET + 1] = 0xcf; /* IRET does */
    assert_int_equal(cpu_step(cpu), LEAVE_NONE);
    assert_true(cpu->nmi_masked);
    put(STACK - 8, KDATA, 4); /* one that faults does not */
    assert_int_equal(cpu_step(cpu), LEAVE_FAULT);
    assert_int_equal(cpu->fault.error, KDATA);
    assert_true(cpu->nmi_masked);
    put(STACK - 8, KCODE, 4);
    assert_int_equal(cpu_step(cpu), LEAVE_NONE);
    assert_false(cpu->nmi_masked);
    assert_int_equal(cpu->rip, RIP);
    assert_int_equal(cpu->gpr[REG_RSP].q, STACK);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_checks_in_protected_mode), CASE(test_checks_in_long_mode),      CASE(test_frames_in_protected_mode),
        CASE(test_frames_in_long_mode),      CASE(test_nmi_is_masked_until_iret),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
