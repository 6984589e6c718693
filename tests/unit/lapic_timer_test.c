/*
 * The APIC timer (SDM 3A 11.5.4), with time standing still and moved by hand: counts are exact. One
 * count is 4 TSC ticks at divide 1. The last tests let real time run and wait for interrupts.
 */
#include "lapic_test.h"

#include <stdio.h>
#include <unistd.h>

#include "engine/apic/lapic_state.h"

enum {
    DIVIDE_1 = 0xb,
    LVT_TIMER_OFFSET = 0x320,
    PERIODIC = 1 << 17,
    DEADLINE = 2 << 17,
    MASKED = 1 << 16
};

static struct test_bus *make_timer(uint32_t lvt)
{
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    stop_time(t);
    enable(t, 0);
    reg_write(t, 0, 0x3e0, DIVIDE_1);
    reg_write(t, 0, LVT_TIMER_OFFSET, lvt);
    return t;
}

static uint32_t count(struct test_bus *t)
{
    return reg_read(t, 0, 0x390);
}

static int take(struct test_bus *t)
{
    count(t); /* brings the timer to the present */
    int vector = lapic_acknowledge(t->cpu[0].lapic);
    reg_write(t, 0, 0xb0, 0);
    return vector;
}

static void test_one_shot(void **state)
{
    (void)state;
    struct test_bus *t = make_timer(0x40);
    reg_write(t, 0, 0x380, 1000);
    assert_int_equal(count(t), 1000);
    advance(t, 3);
    assert_int_equal(count(t), 1000);
    advance(t, 1);
    assert_int_equal(count(t), 999);
    advance(t, 4 * 998 + 3);
    assert_int_equal(count(t), 1);
    assert_int_equal(take(t), -1);
    advance(t, 1);
    assert_int_equal(take(t), 0x40);
    assert_int_equal(count(t), 0);
    assert_int_equal(reg_read(t, 0, 0x380), 1000); /* the initial count stays to be read */
    advance(t, 100000);
    assert_int_equal(take(t), -1); /* once */
    reg_write(t, 0, 0x380, 10);
    reg_write(t, 0, 0x380, 0); /* stops it */
    advance(t, 1000);
    assert_int_equal(take(t), -1);
    assert_int_equal(count(t), 0);
    free_bus(t);
}

/* Figure 11-10 */
static void test_divide(void **state)
{
    (void)state;
    static const struct {
        uint32_t value, divisor;
    } table[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};
    struct test_bus *t = make_timer(0x40);
    for (size_t i = 0; i < 8; i++) {
        reg_write(t, 0, 0x3e0, table[i].value);
        reg_write(t, 0, 0x380, 100);
        advance(t, 4 * table[i].divisor * 30 - 1);
        assert_int_equal(count(t), 71);
        advance(t, 1);
        assert_int_equal(count(t), 70);
        reg_write(t, 0, 0x380, 0);
    }
    reg_write(t, 0, 0x3e0,
              11); /* a change on the way: the count stays and goes on at the new rate */
    reg_write(t, 0, 0x380, 100);
    advance(t, 4 * 40);
    reg_write(t, 0, 0x3e0, 0);
    assert_int_equal(count(t), 60);
    advance(t, 8 * 59);
    assert_int_equal(count(t), 1);
    assert_int_equal(take(t), -1);
    advance(t, 8);
    assert_int_equal(take(t), 0x40);
    free_bus(t);
}

static void test_periodic(void **state)
{
    (void)state;
    struct test_bus *t = make_timer(PERIODIC | 0x41);
    const uint32_t period = 1000000; /* counts: 1 ms */
    reg_write(t, 0, 0x380, period);
    for (unsigned i = 0; i < 5; i++) {
        advance(t, 4 * UINT64_C(1000000) - 4);
        assert_int_equal(count(t), 1);
        assert_int_equal(take(t), -1);
        advance(t, 4);
        assert_int_equal(count(t), period);
        assert_int_equal(take(t), 0x41);
        assert_int_equal(take(t), -1);
    }
    advance(t, 4 * UINT64_C(3500000)); /* three missed: one interrupt, and no drift */
    assert_int_equal(take(t), 0x41);
    assert_int_equal(take(t), -1);
    assert_int_equal(count(t), period / 2);
    advance(t, 4 * UINT64_C(500000));
    assert_int_equal(take(t), 0x41);
    advance(t, 4 * UINT64_C(400000));
    reg_write(t, 0, LVT_TIMER_OFFSET, 0x41); /* to one-shot: ends at the end of this period */
    assert_int_equal(take(t), -1);
    assert_int_equal(count(t), 600000);
    advance(t, 4 * UINT64_C(600000) - 1);
    assert_int_equal(take(t), -1);
    advance(t, 1);
    assert_int_equal(take(t), 0x41);
    advance(t, 4 * UINT64_C(2000000));
    assert_int_equal(take(t), -1);
    assert_int_equal(count(t), 0);
    free_bus(t);
}

/* A masked timer counts, and what ended while masked does not come later. */
static void test_masked(void **state)
{
    (void)state;
    struct test_bus *t = make_timer(MASKED | 0x42);
    reg_write(t, 0, 0x380, 100);
    advance(t, 4 * 60);
    assert_int_equal(count(t), 40);
    reg_write(t, 0, LVT_TIMER_OFFSET, 0x42); /* in time */
    advance(t, 4 * 40);
    assert_int_equal(take(t), 0x42);
    reg_write(t, 0, LVT_TIMER_OFFSET, MASKED | 0x42);
    reg_write(t, 0, 0x380, 100);
    advance(t, 4 * 100);
    reg_write(t, 0, LVT_TIMER_OFFSET, 0x42); /* too late */
    assert_int_equal(take(t), -1);
    assert_int_equal(count(t), 0);
    free_bus(t);
}

/* 11.5.4.1 */
static void test_deadline(void **state)
{
    (void)state;
    struct test_bus *t = make_timer(0x43);
    assert_int_equal(msr_write(t, 0, 0x6e0, 5), LAPIC_DONE); /* other mode: ignored, reads 0 */
    assert_int_equal(msr_value(t, 0, 0x6e0), 0);
    assert_int_equal(take(t), -1);
    reg_write(t, 0, LVT_TIMER_OFFSET, DEADLINE | 0x43);
    uint64_t now = tsc_read(&t->cpu[0].tsc);
    msr_write(t, 0, 0x6e0, now + 100);
    assert_int_equal(msr_value(t, 0, 0x6e0), now + 100);
    advance(t, 99);
    assert_int_equal(take(t), -1);
    advance(t, 1);
    assert_int_equal(take(t), 0x43);
    assert_int_equal(msr_value(t, 0, 0x6e0), 0); /* disarmed by itself */
    msr_write(t, 0, 0x6e0, 1);                   /* in the past: at once */
    assert_int_equal(lapic_acknowledge(t->cpu[0].lapic), 0x43);
    reg_write(t, 0, 0xb0, 0);
    msr_write(t, 0, 0x6e0, now + 1000);
    msr_write(t, 0, 0x6e0, 0); /* disarms */
    advance(t, 10000);
    assert_int_equal(take(t), -1);
    msr_write(t, 0, 0x6e0, ~UINT64_C(0)); /* far away */
    assert_int_equal(msr_value(t, 0, 0x6e0), ~UINT64_C(0));
    assert_int_equal(take(t), -1);
    reg_write(t, 0, 0x380, 77); /* initial count: ignored in this mode */
    assert_int_equal(reg_read(t, 0, 0x380), 0);
    reg_write(t, 0, LVT_TIMER_OFFSET, 0x43); /* another mode disarms */
    assert_int_equal(msr_value(t, 0, 0x6e0), 0);
    reg_write(t, 0, 0x380, 100);
    reg_write(t, 0, LVT_TIMER_OFFSET, DEADLINE | 0x43);
    advance(t, 1000);
    assert_int_equal(take(t), -1);
    assert_int_equal(count(t), 0);
    free_bus(t);
}

/* The deadline is one of the processor's own TSC. */
static void test_deadline_follows_tsc(void **state)
{
    (void)state;
    struct test_bus *t = make_timer(DEADLINE | 0x43);
    struct test_cpu *cpu = &t->cpu[0];
    tsc_write(&cpu->tsc, 5000);
    lapic_tsc_changed(cpu->lapic);
    msr_write(t, 0, 0x6e0, 6000);
    advance(t, 999);
    assert_int_equal(take(t), -1);
    tsc_write(&cpu->tsc, 4000); /* back: later */
    lapic_tsc_changed(cpu->lapic);
    advance(t, 1999);
    assert_int_equal(take(t), -1);
    advance(t, 1);
    assert_int_equal(take(t), 0x43);
    msr_write(t, 0, 0x6e0, 100000);
    tsc_write(&cpu->tsc, 100000); /* there: now */
    lapic_tsc_changed(cpu->lapic);
    assert_int_equal(lapic_acknowledge(cpu->lapic), 0x43);
    free_bus(t);
}

static void test_resets(void **state)
{
    (void)state;
    struct test_bus *t = make_timer(0x40);
    reg_write(t, 0, 0x380, 100);
    lapic_init_signal(t->cpu[0].lapic);
    advance(t, 4000);
    assert_int_equal(take(t), -1);
    assert_int_equal(reg_read(t, 0, 0x380), 0);
    enable(t, 0);
    reg_write(t, 0, LVT_TIMER_OFFSET, 0x40);
    reg_write(t, 0, 0x380, 100);
    reg_write(t, 0, 0xf0, 0xff); /* software disable masks the entry */
    advance(t, 4000);
    assert_int_equal(take(t), -1);
    free_bus(t);
}

/* An illegal vector in the entry is a receive error (11.5.2, 11.5.3). */
static void test_illegal_vector(void **state)
{
    (void)state;
    struct test_bus *t = make_timer(0x0f);
    reg_write(t, 0, 0x380, 1);
    advance(t, 4);
    assert_int_equal(take(t), -1);
    reg_write(t, 0, 0x280, 0);
    assert_int_equal(reg_read(t, 0, 0x280), 0x40);
    free_bus(t);
}

/* ---- real time ---- */

static void wait_for(_Atomic unsigned *counter, unsigned value)
{
    for (unsigned i = 0; i < 60000 && atomic_load(counter) < value; i++)
        usleep(1000);
    if (atomic_load(counter) < value)
        fail_msg("only %u of %u notifications came", atomic_load(counter), value);
}

static void test_interrupts_come(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_X2APIC);
    struct test_cpu *cpu = &t->cpu[0];
    go_x2apic(t, 0);
    msr_write(t, 0, 0x83e, DIVIDE_1);
    msr_write(t, 0, 0x832, 0x50);
    uint64_t begin = clock_tsc(&t->clock);
    msr_write(t, 0, 0x838, 3000000); /* 3 ms */
    wait_for(&cpu->notified, 1);
    assert_true(clock_tsc(&t->clock) - begin >= clock_scale(3, t->clock.frequency, 1000));
    assert_int_equal(lapic_acknowledge(cpu->lapic), 0x50);
    msr_write(t, 0, 0x80b, 0);
    msr_write(t, 0, 0x832, DEADLINE | 0x51);
    uint64_t deadline = tsc_read(&cpu->tsc) + t->clock.frequency / 500;
    msr_write(t, 0, 0x6e0, deadline);
    wait_for(&cpu->notified, 2);
    assert_true(tsc_read(&cpu->tsc) >= deadline);
    assert_int_equal(lapic_acknowledge(cpu->lapic), 0x51);
    msr_write(t, 0, 0x80b, 0);
    msr_write(t, 0, 0x832, PERIODIC | 0x52);
    msr_write(t, 0, 0x838, 1000000);
    for (unsigned i = 0; i < 5; i++) {
        for (unsigned n = 0; n < 60000 && lapic_pending(cpu->lapic) < 0; n++)
            usleep(1000);
        assert_int_equal(lapic_acknowledge(cpu->lapic), 0x52);
        msr_write(t, 0, 0x80b, 0);
    }
    free_bus(t);
}

/* The shortest period there is does not occupy the timer thread: 100 us lie between two. */
static void test_absurd_period(void **state)
{
    (void)state;
    struct test_bus *t = make_timer(PERIODIC | 0x52);
    const struct lapic_timer *timer = &t->cpu[0].lapic->timer;
    reg_write(t, 0, 0x380, 1);
    for (unsigned i = 0; i < 5; i++) {
        uint64_t wait = timer->due - clock_tsc(&t->clock);
        assert_true(timer->armed);
        assert_in_range(wait, 400000, 400004);
        assert_int_equal(take(t), -1);
        advance(t, wait);
        assert_int_equal(take(t), 0x52);
    }
    free_bus(t);
}

/* Nothing armed, or only what is masked: the thread does not wake up, and is not even started. */
static void test_no_wakeups(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    enable(t, 0);
    reg_write(t, 0, 0x3e0, DIVIDE_1);
    reg_write(t, 0, LVT_TIMER_OFFSET, MASKED | PERIODIC | 0x52);
    reg_write(t, 0, 0x380, 1000);
    usleep(20000);
    assert_int_equal(timer_queue_wakeups(t->timers), 0);
    reg_write(t, 0, LVT_TIMER_OFFSET, DEADLINE | 0x52);
    msr_write(t, 0, 0x6e0, tsc_read(&t->cpu[0].tsc) + t->clock.frequency * 100);
    msr_write(t, 0, 0x6e0, 0);
    uint64_t before = timer_queue_wakeups(t->timers);
    usleep(20000);
    assert_in_range(timer_queue_wakeups(t->timers) - before, 0,
                    1); /* the thread's start may still be under way */
    free_bus(t);
}

/* Suspended time: nothing fires; it goes on where it stood. */
static void test_suspend(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    enable(t, 0);
    reg_write(t, 0, 0x3e0, DIVIDE_1);
    reg_write(t, 0, LVT_TIMER_OFFSET, 0x40);
    clock_run(&t->clock);
    clock_suspend(&t->clock);
    timer_queue_clock_changed(t->timers);
    reg_write(t, 0, 0x380, 2000000);
    usleep(10000);
    assert_int_equal(count(t), 2000000);
    assert_int_equal(t->cpu[0].notified, 0);
    assert_true(clock_run(&t->clock));
    timer_queue_clock_changed(t->timers);
    wait_for(&t->cpu[0].notified, 1);
    free_bus(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_shot),        cmocka_unit_test(test_divide),
        cmocka_unit_test(test_periodic),        cmocka_unit_test(test_masked),
        cmocka_unit_test(test_deadline),        cmocka_unit_test(test_deadline_follows_tsc),
        cmocka_unit_test(test_resets),          cmocka_unit_test(test_illegal_vector),
        cmocka_unit_test(test_interrupts_come), cmocka_unit_test(test_absurd_period),
        cmocka_unit_test(test_no_wakeups),      cmocka_unit_test(test_suspend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
