/*
 * Priorities: what is deliverable, acknowledged and ended, in which order (SDM 3A 11.8), against a
 * second, plain statement of the rules.
 */
#include "lapic_test.h"

#include <stdio.h>

static void request(struct test_bus *t, unsigned cpu, uint8_t vector, bool is_level)
{
    struct interrupt_request r = {
        .type = 0, .destination = cpu, .vector = vector, .is_level = is_level};
    assert_int_equal(apic_bus_request(t->bus, &r), STATUS_OK);
}

/* 11.8.3: class = vector / 16; only a class above the processor priority's is delivered. */
static void test_priority_classes(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    struct lapic *lapic = t->cpu[0].lapic;
    enable(t, 0);
    request(t, 0, 0x35, false);
    request(t, 0, 0x3f, false);
    request(t, 0, 0x30, false);
    assert_int_equal(lapic_pending(lapic), 0x3f);
    reg_write(t, 0, 0x80, 0x30); /* same class: held back */
    assert_int_equal(lapic_pending(lapic), -1);
    assert_int_equal(lapic_requested(lapic), 0x3f);
    reg_write(t, 0, 0x80, 0x2f); /* the subclass does not matter */
    assert_int_equal(lapic_pending(lapic), 0x3f);
    assert_int_equal(lapic_acknowledge(lapic), 0x3f);
    assert_int_equal(reg_read(t, 0, 0xa0), 0x30); /* in service, above TPR: PPR[3:0] is 0 */
    assert_int_equal(lapic_pending(lapic), -1);
    request(t, 0, 0x41, false);
    assert_int_equal(lapic_acknowledge(lapic), 0x41);
    reg_write(t, 0, 0xb0, 0); /* ends the highest in service */
    assert_int_equal(reg_read(t, 0, 0xa0), 0x30);
    assert_int_equal(lapic_pending(lapic), -1);
    reg_write(t, 0, 0xb0, 0);
    assert_int_equal(reg_read(t, 0, 0xa0), 0x2f);
    assert_int_equal(lapic_acknowledge(lapic), 0x35);
    reg_write(t, 0, 0xb0, 0);
    assert_int_equal(lapic_acknowledge(lapic), 0x30);
    assert_int_equal(lapic_acknowledge(lapic), -1);
    free_bus(t);
}

/* 11.8.6: CR8 is the class of TPR, and writing it clears the subclass. */
static void test_cr8(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    struct lapic *lapic = t->cpu[0].lapic;
    reg_write(t, 0, 0x80, 0x5a);
    assert_int_equal(lapic_cr8(lapic), 5);
    lapic_set_cr8(lapic, 9);
    assert_int_equal(reg_read(t, 0, 0x80), 0x90);
    assert_int_equal(reg_read(t, 0, 0xa0), 0x90);
    free_bus(t);
}

/* One notify per new request; one more when EOI, TPR or CR8 let something through; none for what
 * stays behind. */
static void test_notifications(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    struct lapic *lapic = t->cpu[0].lapic;
    enable(t, 0);
    request(t, 0, 0x40, false);
    assert_int_equal(t->cpu[0].notified, 1);
    request(t, 0, 0x40, false);
    assert_int_equal(t->cpu[0].notified, 1);
    assert_int_equal(lapic_acknowledge(lapic), 0x40);
    request(t, 0, 0x40, false);
    assert_int_equal(t->cpu[0].notified, 2);
    reg_write(t, 0, 0xb0, 0);
    assert_int_equal(t->cpu[0].notified, 3);
    lapic_set_cr8(lapic, 4);
    assert_int_equal(t->cpu[0].notified, 3);
    lapic_set_cr8(lapic, 3);
    assert_int_equal(t->cpu[0].notified, 4);
    assert_int_equal(lapic_acknowledge(lapic), 0x40);
    reg_write(t, 0, 0xb0, 0);
    reg_write(t, 0, 0xb0, 0); /* nothing in service */
    assert_int_equal(t->cpu[0].notified, 4);
    free_bus(t);
}

/* 11.8.5: the EOI of a level-triggered interrupt goes out, by MMIO and by MSR; of an edge-triggered
 * one it does not. 11.8.4: TMR follows the last acceptance. */
static void test_eoi_exits(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_X2APIC);
    struct lapic *lapic = t->cpu[0].lapic;
    enable(t, 0);
    request(t, 0, 0x61, true);
    assert_int_equal(reg_read(t, 0, 0x1b0), 2);
    assert_int_equal(lapic_acknowledge(lapic), 0x61);
    assert_int_equal(reg_write(t, 0, 0xb0, 0), LAPIC_DONE_EXIT);
    assert_int_equal(t->exit.reason, EXIT_APIC_EOI);
    assert_int_equal(t->exit.eoi.vector, 0x61);
    request(t, 0, 0x61, false);
    assert_int_equal(reg_read(t, 0, 0x1b0), 0);
    assert_int_equal(lapic_acknowledge(lapic), 0x61);
    assert_int_equal(reg_write(t, 0, 0xb0, 0), LAPIC_DONE);
    go_x2apic(t, 0);
    request(t, 0, 0xff, true);
    assert_int_equal(lapic_acknowledge(lapic), 0xff);
    assert_int_equal(msr_write(t, 0, 0x80b, 1), LAPIC_GP);
    assert_int_equal(msr_write(t, 0, 0x80b, 0), LAPIC_DONE_EXIT);
    assert_int_equal(t->exit.eoi.vector, 0xff);
    free_bus(t);
}

/* 11.4.7.2: while disabled by software new fixed interrupts are not taken, those already held stay
 * deliverable. */
static void test_software_disabled(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    struct lapic *lapic = t->cpu[0].lapic;
    request(t, 0, 0x50, false);
    assert_int_equal(lapic_requested(lapic), -1);
    enable(t, 0);
    request(t, 0, 0x50, false);
    reg_write(t, 0, 0xf0, 0xff);
    request(t, 0, 0x60, false);
    assert_int_equal(lapic_acknowledge(lapic), 0x50);
    assert_int_equal(lapic_acknowledge(lapic), -1);
    free_bus(t);
}

static void test_extint(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    struct lapic *lapic = t->cpu[0].lapic;
    assert_true(lapic_accepts_extint(lapic)); /* disabled by software */
    enable(t, 0);
    assert_false(lapic_accepts_extint(lapic)); /* LINT0 masked */
    reg_write(t, 0, 0x350, 0x700);
    assert_true(lapic_accepts_extint(lapic));
    reg_write(t, 0, 0x350, 0x10700);
    assert_false(lapic_accepts_extint(lapic));
    reg_write(t, 0, 0x350, 0x40);
    assert_false(lapic_accepts_extint(lapic));
    msr_write(t, 0, 0x1b, 0xfee00100);
    assert_true(lapic_accepts_extint(lapic)); /* disabled by hardware */
    free_bus(t);
}

/* ---- a second statement of the rules: sets of vectors as arrays ---- */

struct model {
    bool irr[256], isr[256], level[256];
    unsigned tpr;
};

static int top(const bool set[256])
{
    for (int v = 255; v >= 0; v--)
        if (set[v])
            return v;
    return -1;
}

static unsigned model_ppr(const struct model *m)
{
    int isrv = top(m->isr);
    unsigned class = isrv < 0 ? 0 : (unsigned)isrv / 16;
    if (m->tpr / 16 >= class)
        return m->tpr;
    return class * 16;
}

static int model_pending(const struct model *m)
{
    int v = top(m->irr);
    return v >= 0 && (unsigned)v / 16 > model_ppr(m) / 16 ? v : -1;
}

static void model_step(struct test_bus *t, struct model *m, unsigned step)
{
    unsigned vector = 16 + (unsigned)random() % 240;
    bool level = random() % 2;
    int expected;
    switch (random() % 5) {
    case 0:
    case 1:
        request(t, 0, (uint8_t)vector, level);
        m->irr[vector] = true;
        m->level[vector] = level;
        break;
    case 2:
        m->tpr = (unsigned)random() % (random() % 4 ? 64 : 256);
        reg_write(t, 0, 0x80, m->tpr);
        break;
    case 3:
        expected = model_pending(m);
        if (lapic_acknowledge(t->cpu[0].lapic) != expected)
            fail_msg("step %u: acknowledged another vector than %d", step, expected);
        if (expected >= 0)
            m->irr[expected] = false, m->isr[expected] = true;
        break;
    default:
        expected = top(m->isr);
        bool exits = expected >= 0 && m->level[expected];
        assert_int_equal(reg_write(t, 0, 0xb0, 0), exits ? LAPIC_DONE_EXIT : LAPIC_DONE);
        if (exits)
            assert_int_equal(t->exit.eoi.vector, expected);
        if (expected >= 0)
            m->isr[expected] = false;
        break;
    }
}

static void compare(struct test_bus *t, const struct model *m, unsigned step)
{
    const struct {
        uint32_t offset;
        const bool *set;
    } sets[] = {{0x100, m->isr}, {0x180, m->level}, {0x200, m->irr}};
    for (unsigned s = 0; s < 3; s++)
        for (unsigned word = 0; word < 8; word++) {
            uint32_t expected = 0, got = reg_read(t, 0, sets[s].offset + word * 16);
            for (unsigned bit = 0; bit < 32; bit++)
                expected |= (uint32_t)sets[s].set[word * 32 + bit] << bit;
            if (got != expected)
                fail_msg("step %u: register %#x is %#x, expected %#x", step,
                         sets[s].offset + word * 16, got, expected);
        }
    assert_int_equal(reg_read(t, 0, 0xa0), model_ppr(m));
    assert_int_equal(lapic_pending(t->cpu[0].lapic), model_pending(m));
}

static void test_against_model(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    struct model m = {.tpr = 0};
    srandom(20071);
    enable(t, 0);
    for (unsigned step = 0; step < 20000; step++) {
        model_step(t, &m, step);
        compare(t, &m, step);
    }
    free_bus(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_priority_classes),  cmocka_unit_test(test_cr8),
        cmocka_unit_test(test_notifications),     cmocka_unit_test(test_eoi_exits),
        cmocka_unit_test(test_software_disabled), cmocka_unit_test(test_extint),
        cmocka_unit_test(test_against_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
