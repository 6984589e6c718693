/* Who gets what: ICR, shorthands, destinations in all models, requests from outside (SDM
 * 3A 11.6, 11.12.9, 11.12.10). */
#include "lapic_test.h"

#include <stdio.h>

static void enable_all(struct test_bus *t)
{
    for (unsigned i = 0; i < t->config.processor_count; i++)
        enable(t, i);
}

static uint64_t got(struct test_bus *t, uint8_t vector)
{
    uint64_t set = 0;
    for (unsigned i = 0; i < t->config.processor_count; i++) {
        set |= (uint64_t)irr_has(t, i, vector) << i;
        while (lapic_acknowledge(t->cpu[i].lapic) >= 0)
            (void)lapic_mmio_write(t->cpu[i].lapic, 0xb0, 4, "\0\0\0\0", &t->exit),
                (void)lapic_msr_write(t->cpu[i].lapic, 0x80b, 0, &t->exit);
    }
    return set;
}

static void test_shorthands(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(4, APIC_MODE_XAPIC);
    enable_all(t);
    send_xapic(t, 1, 3, 0x4045);
    assert_int_equal(got(t, 0x45), 1 << 3);
    send_xapic(t, 1, 3, 0x44045); /* self; the destination does not matter */
    assert_int_equal(got(t, 0x45), 1 << 1);
    send_xapic(t, 1, 3, 0x84045); /* all */
    assert_int_equal(got(t, 0x45), 0xf);
    send_xapic(t, 1, 3, 0xc4045); /* others */
    assert_int_equal(got(t, 0x45), 0xd);
    send_xapic(t, 1, 0xff, 0x4045); /* physical broadcast */
    assert_int_equal(got(t, 0x45), 0xf);
    send_xapic(t, 1, 9, 0x4045); /* nobody */
    assert_int_equal(got(t, 0x45), 0);
    assert_int_equal(reg_read(t, 1, 0x300), 0x4045); /* delivery status is idle */
    struct vcpu_counters counters;
    lapic_counters(t->cpu[1].lapic, &counters);
    assert_int_equal(counters.apic_sent_ipi, 6);
    assert_int_equal(counters.apic_self_ipi, 1);
    free_bus(t);
}

/* Each mode reaches its callback, with a software-disabled receiver as well (11.4.7.2). */
static void test_modes(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(2, APIC_MODE_XAPIC);
    struct test_cpu *to = &t->cpu[1];
    send_xapic(t, 0, 1, 0x4200);
    assert_int_equal(to->smi, 1);
    send_xapic(t, 0, 1, 0x4400);
    assert_int_equal(to->nmi, 1);
    send_xapic(t, 0, 1, 0x4500);
    assert_int_equal(to->init, 1);
    send_xapic(t, 0, 1, 0xc500); /* level, assert */
    assert_int_equal(to->init, 2);
    send_xapic(t, 0, 1, 0x8500); /* level, de-assert: nothing */
    assert_int_equal(to->init, 2);
    send_xapic(t, 0, 1, 0x469a);
    assert_int_equal(to->sipi, 1);
    assert_int_equal(to->sipi_vector, 0x9a);
    send_xapic(t, 0, 1, 0x4600); /* SIPI vectors below 16 are pages like any other */
    assert_int_equal(to->sipi, 2);
    send_xapic(t, 0, 1, 0x4340); /* reserved */
    send_xapic(t, 0, 1, 0x4740); /* ExtINT: not a message between processors */
    assert_int_equal(to->notified, 0);
    send_xapic(t, 0, 0, 0x44400); /* NMI to oneself */
    assert_int_equal(t->cpu[0].nmi, 1);
    send_xapic(t, 0, 0, 0x44500); /* INIT to oneself: not possible */
    send_xapic(t, 0, 0, 0x84500);
    assert_int_equal(t->cpu[0].init + to->init, 2);
    send_xapic(t, 0, 0, 0xc4500); /* all others */
    assert_int_equal(t->cpu[0].init, 0);
    assert_int_equal(to->init, 3);
    msr_write(t, 1, 0x1b, 0xfee00000); /* disabled by hardware: deaf */
    send_xapic(t, 0, 1, 0x4400);
    send_xapic(t, 0, 0, 0xc4500);
    assert_int_equal(to->nmi, 1);
    assert_int_equal(to->init, 3);
    free_bus(t);
}

static void test_illegal_vectors(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(2, APIC_MODE_X2APIC);
    enable_all(t);
    for (uint32_t vector = 0; vector < 16; vector++) {
        send_xapic(t, 0, 1, 0x4000 | vector);
        send_xapic(t, 0, 1, 0x4100 | vector);
    }
    assert_int_equal(t->cpu[1].notified, 0);
    reg_write(t, 0, 0x280, 0);
    assert_int_equal(reg_read(t, 0, 0x280), 0x20);
    go_x2apic(t, 0);
    msr_write(t, 0, 0x83f, 15);
    msr_write(t, 0, 0x828, 0);
    assert_int_equal(msr_value(t, 0, 0x828), 0x20);
    assert_int_equal(t->cpu[0].notified, 0);
    free_bus(t);
}

/* ---- destinations against a second statement of the rules ---- */

struct receiver {
    bool x2apic;
    uint32_t ldr, dfr;
};

static bool selected(const struct receiver *r, unsigned id, uint32_t destination, bool logical)
{
    if (!logical)
        return destination == id;
    if (r->x2apic)
        return destination >> 16 == id / 16 && (destination >> (id % 16) & 1);
    if (destination > 0xff)
        return false;
    uint32_t mda = destination, ldr = r->ldr >> 24;
    if (r->dfr >> 28 == 15)
        return (mda & ldr) != 0;
    if (r->dfr >> 28 != 0)
        return false;
    bool cluster = mda / 16 == 15 || mda / 16 == ldr / 16;
    return cluster && (mda % 16 & ldr % 16);
}

static uint64_t select_all(const struct receiver *r, unsigned count, uint32_t destination,
                           bool logical, bool everybody)
{
    uint64_t set = 0;
    for (unsigned id = 0; id < count; id++)
        set |= (uint64_t)(everybody || selected(&r[id], id, destination, logical)) << id;
    return set;
}

static void expect_targets(struct test_bus *t, uint32_t destination, bool logical,
                           uint64_t expected)
{
    uint64_t set = ~UINT64_C(0);
    assert_int_equal(apic_bus_targets(t->bus, destination, logical, &set, 1), STATUS_OK);
    if (set != expected)
        fail_msg("destination %#x %s: %#lx, expected %#lx", destination,
                 logical ? "logical" : "physical", (unsigned long)set, (unsigned long)expected);
}

static void set_model(struct test_bus *t, struct receiver *r, unsigned id, uint32_t dfr)
{
    r[id] = (struct receiver){.dfr = dfr, .ldr = (uint32_t)random() << 24};
    reg_write(t, id, 0xe0, dfr);
    reg_write(t, id, 0xd0, r[id].ldr);
}

static void test_xapic_destinations(void **state)
{
    (void)state;
    enum { N = 20 };
    struct receiver r[N];
    static const uint32_t models[] = {0xffffffff, 0x0fffffff, 0x7fffffff};
    srandom(7);
    for (unsigned model = 0; model < 3; model++) {
        struct test_bus *t = make_bus(N, APIC_MODE_XAPIC);
        enable_all(t);
        for (unsigned i = 0; i < N; i++)
            set_model(t, r, i, models[model]);
        for (uint32_t d = 0; d < 256; d++) {
            /* From outside the logical FFH is no broadcast by itself; from an xAPIC it is
             * (11.6.2.2). */
            expect_targets(t, d, false, select_all(r, N, d, false, d == 0xff));
            expect_targets(t, d, true, select_all(r, N, d, true, false));
            send_xapic(t, 3, (uint8_t)d, 0x4877);
            assert_int_equal(got(t, 0x77), select_all(r, N, d, true, d == 0xff));
            send_xapic(t, 3, (uint8_t)d, 0x4077);
            assert_int_equal(got(t, 0x77), select_all(r, N, d, false, d == 0xff));
        }
        free_bus(t);
    }
}

static void send_x2apic(struct test_bus *t, unsigned cpu, uint32_t destination, uint32_t low)
{
    assert_int_equal(msr_write(t, cpu, 0x830, (uint64_t)destination << 32 | low), LAPIC_DONE);
}

static void test_x2apic_destinations(void **state)
{
    (void)state;
    enum { N = 40 };
    struct receiver r[N];
    struct test_bus *t = make_bus(N, APIC_MODE_X2APIC);
    for (unsigned i = 0; i < N; i++) {
        go_x2apic(t, i);
        r[i] = (struct receiver){.x2apic = true};
    }
    srandom(8);
    for (unsigned n = 0; n < 2000; n++) {
        uint32_t d = ((uint32_t)random() % 4) << 16 | ((uint32_t)random() & 0xffff);
        send_x2apic(t, 5, d, 0x4877);
        assert_int_equal(got(t, 0x77), select_all(r, N, d, true, false));
        expect_targets(t, d, true, select_all(r, N, d, true, false));
        d = (uint32_t)random() % 64;
        send_x2apic(t, 5, d, 0x4077);
        assert_int_equal(got(t, 0x77), select_all(r, N, d, false, false));
    }
    send_x2apic(t, 5, 0xff, 0x4077); /* an ID like any other */
    assert_int_equal(got(t, 0x77), 0);
    send_x2apic(t, 5, 0xffffffff, 0x4077);
    assert_int_equal(got(t, 0x77), (UINT64_C(1) << N) - 1);
    send_x2apic(t, 5, 0xffffffff, 0x4877);
    assert_int_equal(got(t, 0x77), (UINT64_C(1) << N) - 1);
    send_x2apic(t, 5, 0xffff0000, 0x4877); /* a cluster far away */
    assert_int_equal(got(t, 0x77), 0);
    assert_int_equal(msr_write(t, 5, 0x83f, 0x81), LAPIC_DONE);
    assert_int_equal(got(t, 0x81), 1 << 5);
    expect_targets(t, 0xff, false, (UINT64_C(1) << N) - 1); /* an 8-bit source means everybody */
    free_bus(t);
}

/* A processor that is still in xAPIC mode can be started by one in x2APIC mode, also above ID 255.
 */
static void test_start_from_x2apic(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(300, APIC_MODE_X2APIC);
    go_x2apic(t, 0);
    send_x2apic(t, 0, 290, 0x4500);
    send_x2apic(t, 0, 290, 0x4608);
    assert_int_equal(t->cpu[290].init, 1);
    assert_int_equal(t->cpu[290].sipi_vector, 8);
    assert_int_equal(t->cpu[290 & 255].init, 0);
    free_bus(t);
}

/* 11.6.2.4: the lowest task priority gets it; equals take turns; software-disabled APICs are not
 * asked. */
static void test_lowest_priority(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(4, APIC_MODE_XAPIC);
    enable_all(t);
    reg_write(t, 3, 0xf0, 0xff);
    for (unsigned i = 0; i < 4; i++) {
        reg_write(t, i, 0xd0, 1u << (24 + i));
        reg_write(t, i, 0x80, i == 1 ? 0x10 : 0x20);
    }
    send_xapic(t, 0, 0xf, 0x4990);
    assert_int_equal(got(t, 0x90), 1 << 1);
    reg_write(t, 1, 0x80, 0x30);
    unsigned counts[4] = {0};
    for (unsigned n = 0; n < 100; n++) {
        send_xapic(t, 0, 0xf, 0x4990);
        uint64_t set = got(t, 0x90);
        assert_true(set == 1 || set == 4);
        counts[set == 4 ? 2 : 0]++;
    }
    assert_int_equal(counts[0], 50);
    assert_int_equal(counts[2], 50);
    free_bus(t);
}

static void test_requests(void **state)
{
    (void)state;
    static const struct {
        uint8_t type;
        uint32_t vector;
        enum status status;
    } table[] = {
        {0, 15, STATUS_HV_INVALID_PARAMETER},
        {0, 16, STATUS_OK},
        {0, 255, STATUS_OK},
        {0, 256, STATUS_HV_INVALID_PARAMETER},
        {1, 0, STATUS_HV_INVALID_PARAMETER},
        {1, 16, STATUS_OK},
        {2, 32, STATUS_HV_INVALID_PARAMETER},
        {3, 32, STATUS_HV_INVALID_PARAMETER},
        {4, 0, STATUS_OK},
        {5, 0, STATUS_OK},
        {6, 0, STATUS_OK},
        {6, 256, STATUS_HV_INVALID_PARAMETER},
        {7, 32, STATUS_HV_INVALID_PARAMETER},
        {8, 32, STATUS_HV_INVALID_PARAMETER},
        {9, 0, STATUS_OK},
        {10, 32, STATUS_HV_INVALID_PARAMETER},
        {255, 32, STATUS_HV_INVALID_PARAMETER},
    };
    struct test_bus *t = make_bus(2, APIC_MODE_XAPIC), *none = make_bus(1, APIC_MODE_NONE);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct interrupt_request r = {
            .type = table[i].type, .vector = table[i].vector, .destination = 1};
        if (apic_bus_request(t->bus, &r) != table[i].status)
            fail_msg("type %u vector %u: status %d", r.type, r.vector,
                     apic_bus_request(t->bus, &r));
        assert_int_equal(apic_bus_request(none->bus, &r), STATUS_HV_OPERATION_DENIED);
    }
    assert_int_equal(t->cpu[1].nmi, 1);
    assert_int_equal(t->cpu[1].init, 1);
    assert_int_equal(t->cpu[1].sipi, 1);
    assert_int_equal(t->cpu[1].notified, 0); /* disabled by software: taken, but dropped */
    struct interrupt_request nowhere = {.vector = 32, .destination = 77};
    assert_int_equal(apic_bus_request(t->bus, &nowhere), STATUS_OK);
    uint64_t set;
    assert_int_equal(apic_bus_targets(none->bus, 0, false, &set, 1), STATUS_HV_OPERATION_DENIED);
    assert_int_equal(apic_bus_targets(t->bus, UINT64_C(1) << 32, false, &set, 1),
                     STATUS_HV_INVALID_PARAMETER);
    assert_int_equal(apic_bus_targets(t->bus, 0, false, &set, 0), STATUS_INSUFFICIENT_BUFFER);
    free_bus(t);
    free_bus(none);
}

/* 11.5.1: LINT1 does what its entry says. */
static void test_lint1(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    struct interrupt_request r = {.type = 9, .destination = 0};
    enable(t, 0);
    apic_bus_request(t->bus, &r); /* masked */
    assert_int_equal(t->cpu[0].nmi, 0);
    reg_write(t, 0, 0x360, 0x400);
    apic_bus_request(t->bus, &r);
    assert_int_equal(t->cpu[0].nmi, 1);
    reg_write(t, 0, 0x360, 0x200);
    apic_bus_request(t->bus, &r);
    assert_int_equal(t->cpu[0].smi, 1);
    reg_write(t, 0, 0x360, 0x500);
    apic_bus_request(t->bus, &r);
    assert_int_equal(t->cpu[0].init, 1);
    reg_write(t, 0, 0x360, 0x033);
    apic_bus_request(t->bus, &r);
    assert_int_equal(lapic_acknowledge(t->cpu[0].lapic), 0x33);
    reg_write(t, 0, 0x360, 0x003); /* a vector that does not exist: receive error */
    apic_bus_request(t->bus, &r);
    reg_write(t, 0, 0x280, 0);
    assert_int_equal(reg_read(t, 0, 0x280), 0x40);
    free_bus(t);
}

/* Extended exits replace the sending: ICR is written, nothing goes out. */
static void test_icr_traps(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(2, APIC_MODE_X2APIC);
    struct test_cpu *to = &t->cpu[1];
    lapic_set_traps(t->cpu[0].lapic, EXTENDED_EXIT_APIC_INIT_SIPI);
    assert_int_equal(send_xapic(t, 0, 1, 0x4500), LAPIC_DONE_EXIT);
    assert_int_equal(t->exit.reason, EXIT_APIC_INIT_SIPI_TRAP);
    assert_int_equal(t->exit.apic_icr.icr, 0x0100000000004500);
    assert_int_equal(send_xapic(t, 0, 1, 0x4612), LAPIC_DONE_EXIT);
    assert_int_equal(t->exit.apic_icr.icr, 0x0100000000004612);
    assert_int_equal(send_xapic(t, 0, 1, 0x4200), LAPIC_DONE);
    assert_int_equal(to->init + to->sipi, 0);
    assert_int_equal(to->smi, 1);
    lapic_set_traps(t->cpu[0].lapic, EXTENDED_EXIT_APIC_SMI);
    assert_int_equal(send_xapic(t, 0, 1, 0x4200), LAPIC_DONE_EXIT);
    assert_int_equal(t->exit.reason, EXIT_APIC_SMI_TRAP);
    assert_int_equal(to->smi, 1);
    assert_int_equal(send_xapic(t, 0, 1, 0x4500), LAPIC_DONE);
    assert_int_equal(to->init, 1);
    go_x2apic(t, 0);
    lapic_set_traps(t->cpu[0].lapic, EXTENDED_EXIT_APIC_INIT_SIPI);
    assert_int_equal(msr_write(t, 0, 0x830, 0x0000000100004500), LAPIC_DONE_EXIT);
    assert_int_equal(t->exit.apic_icr.icr, 0x0000000100004500);
    assert_int_equal(msr_value(t, 0, 0x830), 0x0000000100004500);
    free_bus(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shorthands),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_illegal_vectors),
        cmocka_unit_test(test_xapic_destinations),
        cmocka_unit_test(test_x2apic_destinations),
        cmocka_unit_test(test_start_from_x2apic),
        cmocka_unit_test(test_lowest_priority),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_lint1),
        cmocka_unit_test(test_icr_traps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
