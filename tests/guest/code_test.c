/*
 * Decoded code and what it was decoded from: bytes that only raise, pages that are one, links, limits; and updates of
 * descriptors on a device. Flat 32-bit code at privilege 0, run until HLT.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "guest.h"
#include "util/compiler.h"
#include "x86/port.h"
#include "x86/system/control.h"

enum {
    GDT = 0x1000,
    IDT = 0x2000,
    TSS = 0x3000,
    STACK = 0x9000,
    HANDLERS = 0x10000, /* 16 bytes each: HLT */
    CODE = 0x20000,
    DIRECTORY = 0x100000,
    TABLE = 0x101000, /* of the 4 MiB from 0x400000 on */
    PAGE = 0x300000,
    DEVICE = 0x500000,
};

static struct guest guest;
static struct cpu *cpu;

static void put(uint32_t at, uint64_t value, unsigned size) { memcpy(guest.memory + at, &value, size); }
#define PUT(at, code) memcpy(guest.memory + (at), code, sizeof(code) - 1)

static int begin(void **state)
{
    (void)state;
    if (!guest_create(&guest, NULL, true))
        return -1;
    cpu = guest.cpu;
    put(GDT + 8, 0x00cf9b000000ffff, 8);
    put(GDT + 16, 0x00cf93000000ffff, 8);
    for (unsigned v = 0; v < 32; v++) {
        put(IDT + 8 * v, (uint64_t)(HANDLERS & 0xffff0000) << 32 | 0x8e0000080000 | ((HANDLERS & 0xffff) + 16 * v), 8);
        put(HANDLERS + 16 * v, 0xf4, 1);
    }
    cpu->gdtr = (struct table_register){.base = GDT, .limit = 0x7f};
    cpu->idtr = (struct table_register){.base = IDT, .limit = 0xff};
    cpu->cr0 |= CR0_PE;
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        cpu->segment[i] = (struct segment){.limit = 0xffffffff, .selector = i == SEG_CS ? 8 : 16,
                                           .attributes = i == SEG_CS ? 0xc09b : 0xc093};
    cpu->gpr[REG_RSP].q = STACK;
    cpu->cpl = 0;
    cpu_update_mode(cpu);
    return 0;
}

static int end(void **state)
{
    (void)state;
    guest_destroy(&guest);
    return 0;
}

/* To the HLT; where it was. */
static uint32_t run(uint32_t from)
{
    struct event pending = {0};

    cpu->rip = from;
    cpu->gpr[REG_RSP].q = STACK;
    assert_int_equal(cpu_run(cpu, &pending), LEAVE_HALT);
    return (uint32_t)cpu->rip - 1;
}

static uint32_t handler(unsigned vector) { return HANDLERS + 16 * vector; }

/* 4 MiB from 0 on one to one; the two pages from 0x400000 on are both PAGE. */
static void begin_paging(void)
{
    put(DIRECTORY, 0x83, 4);
    put(DIRECTORY + 4, TABLE | 7, 4);
    put(TABLE, PAGE | 7, 4);
    put(TABLE + 4, PAGE | 7, 4);
    assert_true(cpu_set_cr4(cpu, CR4_PSE) && cpu_set_cr3(cpu, DIRECTORY) && cpu_set_cr0(cpu, cpu->cr0 | CR0_PG | CR0_WP));
}

/* A store to any byte that was looked at makes it another instruction. */
static void test_undefined_instruction_is_patched(void **state)
{
    (void)state;
    PUT(CODE, "\xf0\x90\x00\xf4");                          /* lock nop: #UD */
    PUT(CODE + 0x100, "\xc6\x05\x01\x00\x02\x00\xff\xf4");  /* mov byte [CODE + 1], ff: lock inc dword [eax] */
    cpu->gpr[REG_RAX].q = 0x40000;
    assert_int_equal(run(CODE), handler(VECTOR_UD));
    run(CODE + 0x100);
    assert_int_equal(run(CODE), CODE + 3);
    assert_int_equal(guest.memory[0x40000], 1);
}

/* The same with its last byte on the next page; and looked at again when memory may have changed. */
static void test_undefined_instruction_across_pages(void **state)
{
    (void)state;
    PUT(CODE + 0xfff, "\xf0\x90\xf4");
    PUT(CODE + 0x100, "\xc6\x05\x00\x10\x02\x00\xff\xc6\x05\x01\x10\x02\x00\x00\xf4"); /* f0 | ff 00 */
    PUT(CODE + 0x1002, "\xf4");
    cpu->gpr[REG_RAX].q = 0x40000;
    assert_int_equal(run(CODE + 0xfff), handler(VECTOR_UD));
    cpu_verify_code(cpu);
    assert_int_equal(run(CODE + 0xfff), handler(VECTOR_UD));
    run(CODE + 0x100);
    assert_int_equal(run(CODE + 0xfff), CODE + 0x1002);
    guest.memory[CODE + 0x1000] = 0x90; /* not by the processor */
    cpu_verify_code(cpu);
    assert_int_equal(run(CODE + 0xfff), handler(VECTOR_UD));
}

/* What the limit cuts off is whole again when the limit is another one. */
static void test_limit_moves(void **state)
{
    (void)state;
    PUT(CODE, "\xb8\x01\x00\x00\x00\xf4"); /* mov eax, 1 */
    cpu->segment[SEG_CS].limit = CODE + 2;
    cpu_update_mode(cpu);
    struct event pending = {0};
    cpu->rip = CODE;
    cpu->gpr[REG_RSP].q = STACK;
    put(GDT + 8, 0x00cf9b000000ffff, 8);
    assert_int_equal(cpu_run(cpu, &pending), LEAVE_HALT);
    assert_int_equal(cpu->rip - 1, handler(VECTOR_GP)); /* the handler's CS is flat again */
    assert_int_equal(run(CODE), CODE + 5);
    assert_int_equal(cpu->gpr[REG_RAX].q, 1);
}

/* An instruction across two linear pages that are one physical page: a store to its head. */
static void test_both_pages_are_one(void **state)
{
    (void)state;
    begin_paging();
    PUT(PAGE + 0xffe, "\xb8\x01"); /* mov eax, .. 01 */
    PUT(PAGE, "\x00\x00\x00\xf4");
    PUT(CODE, "\xc6\x05\xff\x0f\x30\x00\x02\xf4"); /* mov byte [PAGE + fff], 2 */
    run(0x400ffe);
    assert_int_equal(cpu->gpr[REG_RAX].q, 1);
    run(CODE);
    run(0x400ffe);
    assert_int_equal(cpu->gpr[REG_RAX].q, 2);
}

/* With a CS base that is no multiple of a page a jump within a page of EIP leaves the linear page: its translation counts. */
static void test_link_between_pages(void **state)
{
    int32_t distance = 0x7f0 - 0x905;

    (void)state;
    begin_paging();
    PUT(PAGE + 0x100, "\xe9"); /* 900: jmp 7f0, which is on the page before */
    memcpy(guest.memory + PAGE + 0x101, &distance, 4);
    PUT(PAGE + 0xff0, "\xb8\x01\x00\x00\x00\xf4");
    PUT(PAGE + 0x1ff0, "\xb8\x02\x00\x00\x00\xf4");
    cpu->segment[SEG_CS] = (struct segment){.base = 0x400800, .limit = 0xffff, .selector = 8, .attributes = 0x409b};
    cpu_update_mode(cpu);
    for (unsigned i = 0; i < 3; i++)
        run(0x900);
    assert_int_equal(cpu->gpr[REG_RAX].q, 1);
    put(TABLE, (PAGE + 0x1000) | 7, 4);
    cpu_flush_page(cpu, 0x400000);
    run(0x900);
    assert_int_equal(cpu->gpr[REG_RAX].q, 2);
}

/* Backwards through a segment that expands down: its lower bound. */
static void test_expand_down_backwards(void **state)
{
    static const struct { const char *code; unsigned size; } rows[] = {
        {"\xfd\xf3\xaa\xf4", 1}, {"\xfd\xf3\xab\xf4", 4}, {"\xfd\xf3\xa4\xf4", 1}, {"\xfd\xf3\xa5\xf4", 4}};

    (void)state;
    for (size_t i = 0; i < array_size(rows); i++) {
        memcpy(guest.memory + CODE, rows[i].code, 4);
        cpu_verify_code(cpu);
        memset(guest.memory + 0x41000, 0, 0x1000);
        memset(guest.memory + 0x50000, 0x55, 0x2000);
        cpu->segment[SEG_ES] = (struct segment){.base = 0x40000, .limit = 0x17ff, .selector = 24, .attributes = 0x4097};
        cpu_update_mode(cpu);
        cpu->gpr[REG_RAX].q = 0x55555555;
        cpu->gpr[REG_RDI].q = 0x1840;
        cpu->gpr[REG_RSI].q = 0x51000;
        cpu->gpr[REG_RCX].q = 0x400;
        assert_int_equal(run(CODE), handler(VECTOR_GP));
        assert_int_equal(cpu->gpr[REG_RDI].q, 0x1800 - rows[i].size);
        assert_int_equal(guest.memory[0x41800], 0x55);
        assert_int_equal(guest.memory[0x417ff], 0);
    }
}

/* A trap between two elements finds the flags from before the instruction (so on silicon); one behind it, those of the last. */
static void test_flags_of_an_interrupted_comparison(void **state)
{
    static const struct {
        uint32_t left, flags, trap_at;
    } rows[] = {{3, RFLAGS_CF, CODE}, {1, RFLAGS_SF | RFLAGS_AF | RFLAGS_CF | RFLAGS_PF, CODE + 2}};

    (void)state;
    PUT(CODE, "\xf2\xa6\xf4"); /* repne cmpsb */
    PUT(0x40000, "abc");
    PUT(0x50000, "zyx");
    for (size_t i = 0; i < array_size(rows); i++) {
        uint32_t frame[3];
        cpu->gpr[REG_RSI].q = 0x40000;
        cpu->gpr[REG_RDI].q = 0x50000;
        cpu->gpr[REG_RCX].q = rows[i].left;
        cpu_set_rflags(cpu, RFLAGS_ONE | RFLAGS_TF | RFLAGS_CF);
        assert_int_equal(run(CODE), handler(VECTOR_DB));
        memcpy(frame, guest.memory + STACK - 12, sizeof(frame));
        assert_int_equal(frame[0], rows[i].trap_at);
        assert_int_equal(frame[2] & 0x8d5, rows[i].flags);
        assert_int_equal(cpu->gpr[REG_RCX].q, rows[i].left - 1);
    }
}

/* ---- descriptors on a device ---- */

static unsigned answers;

/* A register that is another one at every look: an available TSS, with a limit that counts. */
static enum port_result counting(struct cpu *c, const struct port_access *access)
{
    const uint64_t descriptor = (0x0000890000000000ull | (uint64_t)TSS << 16 | 0x67) + ((uint64_t)answers++ << 56);

    (void)c;
    if (access->type == ACCESS_READ)
        memcpy(access->data, (const uint8_t *)&descriptor + (access->gpa & 7), access->size);
    return PORT_DONE;
}

static bool without_device(struct cpu *c, gpa_t page, enum access_type type, struct port_page *out)
{
    (void)c, (void)type;
    *out = (struct port_page){.host = guest.memory + page, .rights = PAGE_READ | PAGE_WRITE | PAGE_EXECUTE};
    return page != DEVICE;
}

static void test_busy_bit_of_a_device(void **state)
{
    struct cpu_port port = *cpu->port;
    const struct cpu_port *before = cpu->port;

    (void)state;
    port.access = counting;
    port.page = without_device;
    cpu->port = &port;
    answers = 0;
    cpu->gdtr = (struct table_register){.base = DEVICE - 24, .limit = 0xff};
    memcpy(guest.memory + DEVICE - 24, guest.memory + GDT, 24);
    PUT(CODE, "\xb8\x18\x00\x00\x00\x0f\x00\xd8\xf4"); /* mov eax, 18h; ltr ax; hlt */
    assert_int_equal(run(CODE), CODE + 8);
    assert_int_equal(cpu->segment[SEG_TR].selector, 0x18);
    assert_in_range(answers, 2, 8);
    cpu->port = before;
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, begin, end)
    const struct CMUnitTest tests[] = {CASE(test_undefined_instruction_is_patched),
                                       CASE(test_undefined_instruction_across_pages),
                                       CASE(test_limit_moves),
                                       CASE(test_both_pages_are_one),
                                       CASE(test_link_between_pages),
                                       CASE(test_expand_down_backwards),
                                       CASE(test_flags_of_an_interrupted_comparison),
                                       CASE(test_busy_bit_of_a_device)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
