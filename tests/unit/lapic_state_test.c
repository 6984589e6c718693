/* State as a page and by name: what is saved comes back, and no content does harm. */
#include "lapic_test.h"

#include <stdio.h>

static void put32(uint8_t *page, uint32_t offset, uint32_t value)
{
    memcpy(page + offset, &value, 4);
}

static void fill(struct test_bus *t, unsigned cpu)
{
    struct interrupt_request r = {.destination = cpu};
    static const uint8_t vectors[] = {0x31, 0x77, 0xfe};
    enable(t, cpu);
    for (unsigned i = 0; i < 3; i++) {
        r.vector = vectors[i];
        r.is_level = i == 1;
        apic_bus_request(t->bus, &r);
    }
    lapic_acknowledge(t->cpu[cpu].lapic);
    reg_write(t, cpu, 0x80, 0x21);
    reg_write(t, cpu, 0xd0, 0x05000000);
    reg_write(t, cpu, 0xe0, 0x0fffffff);
    reg_write(t, cpu, 0x310, 0x0b000000);
    reg_write(t, cpu, 0x300, 0x0044); /* nobody has ID 11 */
    reg_write(t, cpu, 0x350, 0x700);
    reg_write(t, cpu, 0x360, 0x400);
    reg_write(t, cpu, 0x370, 0xfc);
    reg_read(t, cpu, 0x40); /* an error not yet shown; 0xfc is requested */
    reg_write(t, cpu, 0x3e0, 0xb);
    reg_write(t, cpu, 0x320, 1u << 17 | 0x99);
    reg_write(t, cpu, 0x380, 1000000);
}

static void test_page_round_trip(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(2, APIC_MODE_XAPIC);
    uint8_t page[LAPIC_STATE_SIZE], again[LAPIC_STATE_SIZE];
    stop_time(t);
    fill(t, 1);
    advance(t, 4 * 1234);
    lapic_save(t->cpu[1].lapic, page);
    lapic_reset(t->cpu[1].lapic);
    lapic_restore(t->cpu[1].lapic, page);
    lapic_save(t->cpu[1].lapic, again);
    assert_memory_equal(page, again, sizeof(page));
    assert_int_equal(reg_read(t, 1, 0x390), 1000000 - 1234);
    assert_int_equal(lapic_pending(t->cpu[1].lapic),
                     -1); /* 0xfe is in service, 0xfc in the same class */
    assert_int_equal(reg_write(t, 1, 0xb0, 0), LAPIC_DONE);
    assert_int_equal(lapic_acknowledge(t->cpu[1].lapic), 0xfc);
    reg_write(t, 1, 0xb0, 0);
    assert_int_equal(lapic_acknowledge(t->cpu[1].lapic), 0x77);
    assert_int_equal(reg_write(t, 1, 0xb0, 0), LAPIC_DONE_EXIT); /* still level-triggered */
    reg_write(t, 1, 0x280, 0);
    assert_int_equal(reg_read(t, 1, 0x280), 0x80);
    advance(t, 4 * (1000000 - 1234));
    reg_read(t, 1, 0x390);
    assert_int_equal(lapic_acknowledge(t->cpu[1].lapic), 0x99);
    free_bus(t);
}

/* What is deliverable after restoring is told. */
static void test_page_notifies(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    struct interrupt_request r = {.vector = 0x77};
    uint8_t page[LAPIC_STATE_SIZE];
    enable(t, 0);
    apic_bus_request(t->bus, &r);
    lapic_save(t->cpu[0].lapic, page);
    lapic_reset(t->cpu[0].lapic);
    unsigned before = t->cpu[0].notified;
    lapic_restore(t->cpu[0].lapic, page);
    assert_int_equal(t->cpu[0].notified, before + 1);
    free_bus(t);
}

/* ID and x2APIC's LDR belong to the processor, whatever the page says; bits that cannot be are
 * dropped. */
static void test_page_from_anywhere(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(4, APIC_MODE_X2APIC);
    uint8_t page[LAPIC_STATE_SIZE];
    struct lapic *lapic = t->cpu[3].lapic;
    memset(page, 0xff, sizeof(page));
    lapic_restore(lapic, page);
    assert_int_equal(reg_read(t, 3, 0x20), 3u << 24);
    assert_int_equal(reg_read(t, 3, 0x30), 0x50014);
    assert_int_equal(reg_read(t, 3, 0x100), 0xffff0000);
    assert_int_equal(reg_read(t, 3, 0x200), 0xffff0000);
    assert_int_equal(reg_read(t, 3, 0xf0), 0x3ff);
    assert_int_equal(reg_read(t, 3, 0x300), 0xccfff);
    assert_int_equal(reg_read(t, 3, 0x320), 0x700ff);
    go_x2apic(t, 3);
    lapic_restore(lapic, page);
    assert_int_equal(msr_value(t, 3, 0x802), 3);
    assert_int_equal(msr_value(t, 3, 0x80d), 8);
    assert_int_equal(msr_value(t, 3, 0x830), 0xffffffff000ccfff);
    srandom(99);
    for (unsigned n = 0; n < 2000; n++) {
        for (size_t i = 0; i < sizeof(page); i++)
            page[i] = (uint8_t)random();
        put32(page, 0x380, n % 2 ? (uint32_t)random() : 1); /* short timers too */
        lapic_restore(lapic, page);
        while (lapic_acknowledge(lapic) >= 0)
            msr_write(t, 3, 0x80b, 0);
    }
    free_bus(t);
}

/* A page whose APIC is disabled by software cannot bring an unmasked entry. */
static void test_page_software_disabled(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    uint8_t page[LAPIC_STATE_SIZE] = {0};
    put32(page, 0xf0, 0xff);
    put32(page, 0x350, 0x700);
    enable(t, 0);
    lapic_restore(t->cpu[0].lapic, page);
    assert_int_equal(reg_read(t, 0, 0x350), 0x10700);
    free_bus(t);
}

/* ---- by name ---- */

static enum status set(struct test_bus *t, unsigned cpu, uint32_t name, uint64_t value)
{
    union vreg_value v = {.q = {value, 0}};
    enum status checked = lapic_check_register(t->cpu[cpu].lapic, name, &v);
    enum status status = lapic_set_register(t->cpu[cpu].lapic, name, &v);
    assert_int_equal(checked, status);
    return status;
}

static uint64_t get(struct test_bus *t, unsigned cpu, uint32_t name)
{
    union vreg_value v = {.q = {~UINT64_C(0), ~UINT64_C(0)}};
    assert_int_equal(lapic_get_register(t->cpu[cpu].lapic, name, &v), STATUS_OK);
    assert_int_equal(v.q[1], 0);
    return v.q[0];
}

static void test_names(void **state)
{
    (void)state;
    static const char present[] = /* 0x3000 .. 0x303f; whp-enums: the names that exist */
        "..XX....X.XX.X.X"
        "XXXXXXXXXXXXXXXX"
        "XXXXXXXXX......."
        "X.XXXXXXXX....XX";
    struct test_bus *t = make_bus(2, APIC_MODE_XAPIC), *x2 = make_bus(1, APIC_MODE_X2APIC);
    union vreg_value v = {.q = {0, 0}};
    for (uint32_t n = 0; n < 64; n++) {
        enum status expected = present[n] == 'X' ? STATUS_OK : STATUS_INVALID_VP_REGISTER_NAME;
        if (lapic_get_register(t->cpu[1].lapic, 0x3000 + n, &v) != expected)
            fail_msg("name %#x: expected status %d", 0x3000 + n, expected);
    }
    assert_int_equal(lapic_get_register(t->cpu[1].lapic, 0, &v), STATUS_INVALID_VP_REGISTER_NAME);
    assert_int_equal(lapic_get_register(t->cpu[1].lapic, 0x3040, &v),
                     STATUS_INVALID_VP_REGISTER_NAME);
    assert_int_equal(lapic_get_register(x2->cpu[0].lapic, 0x3008, &v), STATUS_HV_INVALID_PARAMETER);
    assert_int_equal(set(x2, 0, 0x3008, 0), STATUS_HV_INVALID_PARAMETER);
    free_bus(t);
    free_bus(x2);
}

static void test_values_by_name(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(2, APIC_MODE_X2APIC);
    assert_int_equal(get(t, 1, VREG_INITIAL_APIC_ID), 1);
    assert_int_equal(set(t, 1, VREG_INITIAL_APIC_ID, 2), STATUS_HV_INVALID_PARAMETER);
    assert_int_equal(set(t, 1, 0x3002, 2u << 24), STATUS_HV_INVALID_PARAMETER);
    assert_int_equal(set(t, 1, 0x3002, 1u << 24), STATUS_OK);
    assert_int_equal(set(t, 1, 0x3003, 0), STATUS_HV_INVALID_PARAMETER);
    assert_int_equal(set(t, 1, 0x300f, UINT64_C(1) << 32), STATUS_HV_INVALID_REGISTER_VALUE);
    assert_int_equal(set(t, 1, 0x300f, 0x1aa), STATUS_OK);
    assert_int_equal(get(t, 1, 0x300f), 0x1aa);
    assert_int_equal(set(t, 1, VREG_CR8, 16), STATUS_HV_INVALID_REGISTER_VALUE);
    assert_int_equal(set(t, 1, VREG_CR8, 7), STATUS_OK);
    assert_int_equal(get(t, 1, VREG_CR8), 7);
    assert_int_equal(get(t, 1, 0x300a), 0x70);
    assert_int_equal(set(t, 1, VREG_CR8, 0), STATUS_OK);
    unsigned before = t->cpu[1].notified;
    assert_int_equal(set(t, 1, 0x3021, 1u << 8), STATUS_OK); /* IRR of 0x28 */
    assert_int_equal(t->cpu[1].notified, before + 1);
    assert_int_equal(lapic_acknowledge(t->cpu[1].lapic), 0x28);
    assert_int_equal(get(t, 1, 0x3011), 1u << 8);
    assert_int_equal(set(t, 1, 0x300b, 0), STATUS_OK); /* EOI does it */
    assert_int_equal(get(t, 1, 0x3011), 0);
    assert_int_equal(set(t, 1, 0x303f, 0x30), STATUS_OK); /* so does SELF IPI */
    assert_int_equal(lapic_acknowledge(t->cpu[1].lapic), 0x30);
    assert_int_equal(set(t, 1, 0x3030, 0x0000000000004540),
                     STATUS_OK); /* ICR does not send: INIT to processor 0 */
    assert_int_equal(t->cpu[0].init, 0);
    assert_int_equal(get(t, 1, 0x3030), 0x4540);
    free_bus(t);
}

static void test_base_by_name(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_X2APIC), *x1 = make_bus(1, APIC_MODE_XAPIC);
    assert_int_equal(get(t, 0, VREG_APIC_BASE), 0xfee00900);
    assert_int_equal(set(t, 0, VREG_APIC_BASE, 0xfee00500), STATUS_HV_INVALID_REGISTER_VALUE);
    assert_int_equal(set(t, 0, VREG_APIC_BASE, 0xfee00d00), STATUS_OK);
    assert_int_equal(set(t, 0, VREG_APIC_BASE, 0xfee00900),
                     STATUS_OK); /* the host may, a guest may not */
    assert_int_equal(set(t, 0, VREG_APIC_BASE, 0xfee00100), STATUS_OK);
    assert_int_equal(set(t, 0, VREG_APIC_BASE, 0xfee00d00), STATUS_OK);
    assert_int_equal(set(x1, 0, VREG_APIC_BASE, 0xfee00d00), STATUS_HV_INVALID_REGISTER_VALUE);
    free_bus(t);
    free_bus(x1);
}

static void test_deadline_by_name(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    stop_time(t);
    enable(t, 0);
    reg_write(t, 0, 0x320, 2u << 17 | 0x80);
    uint64_t deadline = tsc_read(&t->cpu[0].tsc) + 100;
    assert_int_equal(set(t, 0, VREG_TSC_DEADLINE, deadline), STATUS_OK);
    assert_int_equal(get(t, 0, VREG_TSC_DEADLINE), deadline);
    advance(t, 100);
    assert_int_equal(get(t, 0, VREG_TSC_DEADLINE), 0);
    assert_int_equal(lapic_acknowledge(t->cpu[0].lapic), 0x80);
    free_bus(t);
}

static void test_counters(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    struct vcpu_counters c;
    enable(t, 0);
    reg_write(t, 0, 0x80, 0x10);
    reg_read(t, 0, 0x80);
    lapic_count_tpr(t->cpu[0].lapic); /* the guest's; the next is the host's */
    lapic_set_cr8(t->cpu[0].lapic, 0);
    reg_write(t, 0, 0xb0, 0);
    reg_write(t, 0, 0x300, 0x40050);
    lapic_counters(t->cpu[0].lapic, &c);
    assert_int_equal(c.apic_mmio, 5);
    assert_int_equal(c.apic_tpr, 3);
    assert_int_equal(c.apic_eoi, 1);
    assert_int_equal(c.apic_sent_ipi, 1);
    assert_int_equal(c.apic_self_ipi, 1);
    free_bus(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_page_round_trip),
        cmocka_unit_test(test_page_notifies),
        cmocka_unit_test(test_page_from_anywhere),
        cmocka_unit_test(test_page_software_disabled),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_values_by_name),
        cmocka_unit_test(test_base_by_name),
        cmocka_unit_test(test_deadline_by_name),
        cmocka_unit_test(test_counters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
