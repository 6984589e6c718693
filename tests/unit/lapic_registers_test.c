/* The registers and their ways in: states after RESET, what reads and writes do, #GP, modes (SDM
 * 3A 11.4, 11.12). */
#include "lapic_test.h"

/* SDM 3A 11.4.7.1: the state after power-up or RESET. */
static void test_reset_state(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(3, APIC_MODE_X2APIC);
    static const struct {
        uint32_t offset, value;
    } expected[] = {
        {0x20, 2u << 24}, {0x30, 0x50014},    {0x80, 0},        {0x90, 0},        {0xa0, 0},
        {0xd0, 0},        {0xe0, 0xffffffff}, {0xf0, 0xff},     {0x280, 0},       {0x300, 0},
        {0x310, 0},       {0x320, 0x10000},   {0x330, 0x10000}, {0x340, 0x10000}, {0x350, 0x10000},
        {0x360, 0x10000}, {0x370, 0x10000},   {0x380, 0},       {0x390, 0},       {0x3e0, 0},
    };
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        if (reg_read(t, 2, expected[i].offset) != expected[i].value)
            fail_msg("register %#x is %#x, expected %#x", expected[i].offset,
                     reg_read(t, 2, expected[i].offset), expected[i].value);
    }
    for (uint32_t offset = 0x100; offset < 0x280; offset += 16)
        assert_int_equal(reg_read(t, 2, offset), 0);
    assert_int_equal(msr_value(t, 0, 0x1b), 0xfee00900); /* bootstrap processor */
    assert_int_equal(msr_value(t, 2, 0x1b), 0xfee00800);
    assert_int_equal(lapic_page(t->cpu[2].lapic), 0xfee00000);
    assert_int_equal(lapic_pending(t->cpu[2].lapic), -1);
    free_bus(t);
}

/* 11.4.7.3: INIT as RESET, but the ID stays; IA32_APIC_BASE is not affected, so the mode stays
 * (11.12.5.1). */
static void test_init_keeps_mode(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(2, APIC_MODE_X2APIC);
    go_x2apic(t, 1);
    msr_write(t, 1, 0x808, 0x50);
    msr_write(t, 1, 0x835, 0x700);
    lapic_init_signal(t->cpu[1].lapic);
    assert_int_equal(msr_value(t, 1, 0x1b), 0xfee00c00);
    assert_int_equal(msr_value(t, 1, 0x802), 1);
    assert_int_equal(msr_value(t, 1, 0x808), 0);
    assert_int_equal(msr_value(t, 1, 0x80f), 0xff);
    assert_int_equal(msr_value(t, 1, 0x835), 0x10000);
    lapic_reset(t->cpu[1].lapic);
    assert_int_equal(msr_value(t, 1, 0x1b), 0xfee00800);
    free_bus(t);
}

/* What is written and what is read back, in xAPIC mode, with the APIC enabled by software. */
static void test_written_bits(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    enable(t, 0);
    static const struct {
        uint32_t offset, zeros, ones; /* read back after writing all zeros, all ones */
    } expected[] = {
        {0x20, 0, 0}, /* ID: fixed here */
        {0x30, 0x50014, 0x50014},
        {0x80, 0, 0xff},
        {0xd0, 0, 0xff000000},
        {0xe0, 0x0fffffff, 0xffffffff},
        {0x320, 0, 0x700ff},
        {0x330, 0, 0x107ff},
        {0x340, 0, 0x107ff},
        {0x350, 0, 0x1a7ff},
        {0x360, 0, 0x1a7ff},
        {0x370, 0, 0x100ff},
        {0x380, 0, 0xffffffff},
        {0x3e0, 0, 0xb},
        {0x310, 0, 0xff000000},
    };
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        uint32_t offset = expected[i].offset;
        reg_write(t, 0, offset, 0xffffffff);
        if (reg_read(t, 0, offset) != expected[i].ones)
            fail_msg("register %#x after ones: %#x, expected %#x", offset, reg_read(t, 0, offset),
                     expected[i].ones);
        reg_write(t, 0, offset, 0);
        if (reg_read(t, 0, offset) != expected[i].zeros)
            fail_msg("register %#x after zeros: %#x, expected %#x", offset, reg_read(t, 0, offset),
                     expected[i].zeros);
    }
    assert_int_equal(reg_read(t, 0, 0xb0), 0);
    free_bus(t);
}

/* 11.4.7.2: clearing SVR bit 8 masks all LVT entries; attempts to unmask them are ignored. */
static void test_software_disable(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    enable(t, 0);
    for (uint32_t offset = 0x320; offset <= 0x370; offset += 16)
        reg_write(t, 0, offset, 0x40);
    reg_write(t, 0, 0xf0, 0xff);
    for (uint32_t offset = 0x320; offset <= 0x370; offset += 16) {
        assert_int_equal(reg_read(t, 0, offset), 0x10040);
        reg_write(t, 0, offset, 0x41);
        assert_int_equal(reg_read(t, 0, offset), 0x10041);
    }
    enable(t, 0);
    assert_int_equal(reg_read(t, 0, 0x350), 0x10041);
    free_bus(t);
}

/* 11.4.1.2: registers are 32 bits wide at 16-byte steps; whatever else is tried must do no harm. */
static void test_odd_accesses(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    struct lapic *lapic = t->cpu[0].lapic;
    uint8_t data[64], one = 0xaa;
    for (uint32_t offset = 0; offset < 4096; offset++)
        for (unsigned size = 1; size <= 64 && offset + size <= 4096; size++) {
            memset(data, 0x5a, sizeof(data));
            lapic_mmio_read(lapic, offset, (uint8_t)size, data);
            if (size < 64)
                assert_int_equal(data[size], 0x5a);
        }
    lapic_mmio_read(lapic, 0x32, 1, data); /* byte 2 of the version */
    assert_int_equal(data[0], 5);
    lapic_mmio_read(lapic, 0x30, 8, data);
    assert_memory_equal(data, "\x14\0\5\0\0\0\0\0", 8);
    assert_int_equal(lapic_mmio_write(lapic, 0x80, 1, &one, &t->exit), LAPIC_DONE);
    assert_int_equal(lapic_mmio_write(lapic, 0x84, 4, "\1\2\3\4", &t->exit), LAPIC_DONE);
    assert_int_equal(reg_read(t, 0, 0x80), 0);
    free_bus(t);
}

/* 11.5.3: an access to a reserved register is logged, shown by the next write to ESR, and
 * interrupts once. */
static void test_error_status(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    enable(t, 0);
    reg_write(t, 0, 0x370, 0xfe);
    reg_read(t, 0, 0x40);
    assert_int_equal(reg_read(t, 0, 0x280), 0);
    assert_int_equal(lapic_acknowledge(t->cpu[0].lapic), 0xfe);
    reg_write(t, 0, 0xb0, 0);
    reg_write(t, 0, 0x3f0, 0x40); /* SELF IPI does not exist in xAPIC mode */
    assert_int_equal(lapic_acknowledge(t->cpu[0].lapic), -1);
    reg_write(t, 0, 0x280, 0);
    assert_int_equal(reg_read(t, 0, 0x280), 0x80);
    reg_write(t, 0, 0x300, 0x4000f); /* vector 15 to oneself */
    assert_int_equal(lapic_acknowledge(t->cpu[0].lapic), 0xfe);
    reg_write(t, 0, 0x280, 0);
    assert_int_equal(reg_read(t, 0, 0x280), 0x20);
    reg_write(t, 0, 0x280, 0);
    assert_int_equal(reg_read(t, 0, 0x280), 0);
    free_bus(t);
}

/* Table 11-6. R: can be read, W: can be written, Z: only zero can be written. */
static const char *x2apic_access(unsigned number)
{
    switch (number) {
    case 0x02:
    case 0x03:
    case 0x0a:
    case 0x0d:
    case 0x39:
        return "R";
    case 0x10 ... 0x27:
        return "R";
    case 0x08:
    case 0x0f:
    case 0x30:
    case 0x32 ... 0x37:
    case 0x38:
    case 0x3e:
        return "RW";
    case 0x28:
        return "RWZ";
    case 0x0b:
        return "WZ";
    case 0x3f:
        return "W";
    default:
        return "";
    }
}

static uint64_t x2apic_legal_bits(unsigned number)
{
    switch (number) {
    case 0x08:
    case 0x3f:
        return 0xff;
    case 0x0f:
        return 0x3ff;
    case 0x30:
        return 0xffffffff000cdfff; /* bit 12, busy, does no harm */
    case 0x32:
        return 0x710ff;
    case 0x33:
    case 0x34:
        return 0x117ff;
    case 0x35:
    case 0x36:
        return 0x1f7ff;
    case 0x37:
        return 0x110ff;
    case 0x38:
        return 0xffffffff;
    case 0x3e:
        return 0xb;
    default:
        return 0;
    }
}

static void test_x2apic_msrs(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_X2APIC);
    uint64_t value;
    for (uint32_t index = 0x800; index < 0x900;
         index++) { /* not in x2APIC mode: #GP, all of them */
        assert_int_equal(msr_read(t, 0, index, &value), LAPIC_GP);
        assert_int_equal(msr_write(t, 0, index, 0), LAPIC_GP);
    }
    go_x2apic(t, 0);
    for (uint32_t index = 0x800; index < 0x900; index++) {
        const char *access = x2apic_access(index - 0x800);
        enum lapic_result read = strchr(access, 'R') ? LAPIC_DONE : LAPIC_GP;
        enum lapic_result write = strchr(access, 'W') ? LAPIC_DONE : LAPIC_GP;
        if (msr_read(t, 0, index, &value) != read)
            fail_msg("RDMSR %#x: expected %d", index, read);
        if (msr_write(t, 0, index, 0) != write)
            fail_msg("WRMSR %#x of 0: expected %d", index, write);
        for (unsigned bit = 0; bit < 64 && write == LAPIC_DONE; bit++) {
            bool legal = x2apic_legal_bits(index - 0x800) >> bit & 1;
            if (msr_write(t, 0, index, UINT64_C(1) << bit) != (legal ? LAPIC_DONE : LAPIC_GP))
                fail_msg("WRMSR %#x of bit %u: expected %s", index, bit, legal ? "done" : "#GP");
        }
    }
    assert_int_equal(msr_read(t, 0, 0x7ff, &value), LAPIC_NOT_MINE);
    assert_int_equal(msr_read(t, 0, 0x900, &value), LAPIC_NOT_MINE);
    assert_int_equal(msr_write(t, 0, 0x10, 0), LAPIC_NOT_MINE);
    free_bus(t);
}

/* 11.12.10.2: LDR = cluster << 16 | 1 << low four bits of the ID. */
static void test_x2apic_ids(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(300, APIC_MODE_X2APIC);
    static const struct {
        unsigned id;
        uint32_t ldr;
    } expected[] = {{0, 1}, {15, 0x8000}, {16, 0x10001}, {37, 0x20020}, {299, 0x120800}};
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        go_x2apic(t, expected[i].id);
        assert_int_equal(msr_value(t, expected[i].id, 0x802), expected[i].id);
        assert_int_equal(msr_value(t, expected[i].id, 0x80d), expected[i].ldr);
    }
    free_bus(t);
}

/* Figure 11-27, every pair of states, in partitions with and without x2APIC. */
static void put_in_state(struct test_bus *t, unsigned wanted)
{
    lapic_reset(t->cpu[0].lapic);
    if (wanted == 3)
        msr_write(t, 0, 0x1b, 0xfee00d00);
    if (wanted == 0)
        msr_write(t, 0, 0x1b, 0xfee00100);
    assert_int_equal(msr_value(t, 0, 0x1b) >> 10 & 3, wanted);
}

static void test_base_transitions(void **state)
{
    (void)state;
    /* States are EN:EXTD as in bits 11:10: 0 disabled, 2 xAPIC, 3 x2APIC; 1 does not exist. */
    static const struct {
        unsigned from, to;
        bool legal;
    } table[] = {
        {0, 0, true}, {0, 1, false}, {0, 2, true}, {0, 3, false}, {2, 0, true},  {2, 1, false},
        {2, 2, true}, {2, 3, true},  {3, 0, true}, {3, 1, false}, {3, 2, false}, {3, 3, true},
    };
    struct test_bus *with = make_bus(1, APIC_MODE_X2APIC), *without = make_bus(1, APIC_MODE_XAPIC);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        uint64_t to = 0xfee00100 | table[i].to << 10;
        put_in_state(with, table[i].from);
        bool moved = (table[i].from == 2) != (table[i].to == 2);
        enum lapic_result done = moved ? LAPIC_DONE_MOVED : LAPIC_DONE;
        if (msr_write(with, 0, 0x1b, to) != (table[i].legal ? done : LAPIC_GP))
            fail_msg("state %u to %u", table[i].from, table[i].to);
        assert_int_equal(msr_value(with, 0, 0x1b) >> 10 & 3,
                         table[i].legal ? table[i].to : table[i].from);
        if (table[i].from == 3)
            continue;
        put_in_state(without, table[i].from);
        if (msr_write(without, 0, 0x1b, to) !=
            (table[i].legal && !(table[i].to & 1) ? done : LAPIC_GP))
            fail_msg("state %u to %u without x2APIC", table[i].from, table[i].to);
    }
    free_bus(with);
    free_bus(without);
}

static void test_base_reserved_bits(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_X2APIC); /* 40 physical address bits */
    for (unsigned bit = 0; bit < 64; bit++) {
        if (bit == 8 || bit == 10 || bit == 11)
            continue;
        lapic_reset(t->cpu[0].lapic);
        bool reserved = bit < 12 || bit >= 40;
        enum lapic_result result = msr_write(t, 0, 0x1b, 0x800 | UINT64_C(1) << bit);
        if ((result == LAPIC_GP) != reserved)
            fail_msg("bit %u: result %d", bit, result);
        if (!reserved)
            assert_int_equal(lapic_page(t->cpu[0].lapic), UINT64_C(1) << bit);
    }
    free_bus(t);
}

/* The page is there in xAPIC mode only. 11.4.3: after disabling and enabling the state is that of
 * power-up. */
static void test_disable_forgets(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(2, APIC_MODE_X2APIC);
    enable(t, 1);
    reg_write(t, 1, 0x80, 0x20);
    reg_write(t, 1, 0xd0, 0x02000000);
    send_xapic(t, 1, 1, 0x4055);
    assert_int_equal(msr_write(t, 1, 0x1b, 0xfee00000), LAPIC_DONE_MOVED);
    assert_true(lapic_page(t->cpu[1].lapic) == LAPIC_NO_PAGE);
    assert_int_equal(lapic_pending(t->cpu[1].lapic), -1);
    assert_int_equal(msr_write(t, 1, 0x1b, 0xfee00800), LAPIC_DONE_MOVED);
    assert_int_equal(reg_read(t, 1, 0x20), 1u << 24);
    assert_int_equal(reg_read(t, 1, 0x80), 0);
    assert_int_equal(reg_read(t, 1, 0xd0), 0);
    assert_int_equal(reg_read(t, 1, 0xf0), 0xff);
    assert_false(irr_has(t, 1, 0x55));
    go_x2apic(t, 1);
    assert_true(lapic_page(t->cpu[1].lapic) == LAPIC_NO_PAGE);
    free_bus(t);
}

/* 11.12.5.1: from xAPIC to x2APIC the registers stay. */
static void test_x2apic_keeps_registers(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_X2APIC);
    enable(t, 0);
    reg_write(t, 0, 0x80, 0x30);
    reg_write(t, 0, 0x350, 0x700);
    send_xapic(t, 0, 0, 0x40c1);
    reg_write(t, 0, 0x310, 0xff000000);
    assert_int_equal(msr_write(t, 0, 0x1b, 0xfee00d00), LAPIC_DONE_MOVED);
    assert_int_equal(msr_value(t, 0, 0x808), 0x30);
    assert_int_equal(msr_value(t, 0, 0x80f), 0x1ff);
    assert_int_equal(msr_value(t, 0, 0x835), 0x700);
    assert_int_equal(msr_value(t, 0, 0x830), 0x40c1);
    assert_int_equal(lapic_acknowledge(t->cpu[0].lapic), 0xc1);
    free_bus(t);
}

/* Extended exits: the write is done and then shown, by MMIO and by MSR. */
static void test_write_traps(void **state)
{
    (void)state;
    static const struct {
        uint32_t offset, trap;
    } table[] = {
        {0xd0, EXTENDED_EXIT_APIC_LDR},    {0xe0, EXTENDED_EXIT_APIC_DFR},
        {0xf0, EXTENDED_EXIT_APIC_SVR},    {0x350, EXTENDED_EXIT_APIC_LINT0},
        {0x360, EXTENDED_EXIT_APIC_LINT1},
    };
    struct test_bus *t = make_bus(1, APIC_MODE_X2APIC);
    for (size_t i = 0; i < 5; i++)
        for (size_t j = 0; j < 5; j++) {
            lapic_set_traps(t->cpu[0].lapic, table[j].trap);
            enum lapic_result result = reg_write(t, 0, table[i].offset, 0xff000100);
            if (i != j) {
                assert_int_equal(result, LAPIC_DONE);
                continue;
            }
            assert_int_equal(result, LAPIC_DONE_EXIT);
            assert_int_equal(t->exit.reason, EXIT_APIC_WRITE_TRAP);
            assert_int_equal(t->exit.apic_write.type, table[i].offset);
            assert_int_equal(t->exit.apic_write.value, 0xff000100);
        }
    assert_int_equal(reg_read(t, 0, 0xd0), 0xff000000);
    go_x2apic(t, 0);
    lapic_set_traps(t->cpu[0].lapic, EXTENDED_EXIT_APIC_SVR);
    assert_int_equal(msr_write(t, 0, 0x80f, 0x1fe), LAPIC_DONE_EXIT);
    assert_int_equal(t->exit.apic_write.type, 0xf0);
    assert_int_equal(msr_value(t, 0, 0x80f), 0x1fe);
    free_bus(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset_state),      cmocka_unit_test(test_init_keeps_mode),
        cmocka_unit_test(test_written_bits),     cmocka_unit_test(test_software_disable),
        cmocka_unit_test(test_odd_accesses),     cmocka_unit_test(test_error_status),
        cmocka_unit_test(test_x2apic_msrs),      cmocka_unit_test(test_x2apic_ids),
        cmocka_unit_test(test_base_transitions), cmocka_unit_test(test_base_reserved_bits),
        cmocka_unit_test(test_disable_forgets),  cmocka_unit_test(test_x2apic_keeps_registers),
        cmocka_unit_test(test_write_traps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
