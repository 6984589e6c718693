/* Guest time and the timer thread. Nothing here depends on how long anything takes. */
#include "lapic_test.h"

#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include <x86intrin.h>

static void test_scale(void **state)
{
    (void)state;
    assert_int_equal(clock_scale(10, 3, 4), 7);
    assert_int_equal(clock_scale_up(10, 3, 4), 8);
    assert_int_equal(clock_scale_up(8, 3, 4), 6);
    assert_true(clock_scale(UINT64_MAX, UINT64_MAX, UINT64_MAX) == UINT64_MAX);
    assert_true(clock_scale(UINT64_MAX, 2, 1) == UINT64_MAX);
    assert_true(clock_scale_up(UINT64_MAX, 3, 2) == UINT64_MAX);
}

/* The counter between two looks at the system's clock: the moment of the first is known to within `width`. */
struct moment {
    uint64_t tsc, ns, width;
};

static uint64_t monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static struct moment moment(void)
{
    const uint64_t before = monotonic_ns(), tsc = __rdtsc();

    return (struct moment){tsc, before, monotonic_ns() - before};
}

/* The frequency agrees with the system's clock to 1 %, besides what the two moments are uncertain by. */
static void test_frequency(void **state)
{
    (void)state;
    const struct moment a = moment();
    usleep(50000);
    const struct moment b = moment();
    const uint64_t ticks = b.tsc - a.tsc, shortest = b.ns - a.ns - a.width, longest = b.ns - a.ns + b.width;
    const uint64_t found = host_tsc_frequency(), fastest = clock_scale(ticks, 1000000000, shortest),
                   slowest = clock_scale(ticks, 1000000000, longest);
    if (found < slowest - slowest / 100 || found > fastest + fastest / 100)
        fail_msg("found %lu Hz, seen %lu to %lu Hz", (unsigned long)found, (unsigned long)slowest, (unsigned long)fastest);
}

static void test_reference_time(void **state)
{
    (void)state;
    struct clock clock;
    clock_init(&clock);
    usleep(1000);
    assert_true(clock_tsc(&clock) >
                0); /* the TSC runs before the first run, reference time does not */
    assert_int_equal(clock_reference_time(&clock), 0);
    assert_false(clock_run(&clock));
    usleep(2000);
    uint64_t first = clock_reference_time(&clock);
    assert_true(first >= 20000);
    assert_true(first <= clock_scale(clock_tsc(&clock), 10000000, clock.frequency));
    assert_false(clock_run(&clock));
    clock_suspend(&clock);
    clock_suspend(&clock);
    uint64_t tsc = clock_tsc(&clock), reference = clock_reference_time(&clock);
    usleep(2000);
    assert_true(clock_tsc(&clock) == tsc);
    assert_true(clock_reference_time(&clock) == reference);
    uint64_t host = __rdtsc();
    clock_resume(&clock);
    uint64_t after = clock_tsc(&clock);
    assert_true(after >= tsc && after - tsc <= __rdtsc() - host); /* on from where it stood */
    clock_suspend(&clock);
    assert_true(clock_run(&clock)); /* a run resumes */
    assert_false(clock_is_suspended(&clock));
    clock_suspend(&clock);
    reference = clock_reference_time(&clock);
    clock_reset(&clock);
    assert_int_equal(clock_tsc(&clock), 0);
    assert_in_range(clock_reference_time(&clock), reference, reference);
    clock_fini(&clock);
}

/* SDM 3B 17.17.3: a write to the TSC moves IA32_TSC_ADJUST by as much, and the other way round. */
static void test_tsc_adjust(void **state)
{
    (void)state;
    struct clock clock;
    struct tsc tsc;
    clock_init(&clock);
    clock_suspend(&clock);
    tsc_init(&tsc, &clock);
    uint64_t now = tsc_read(&tsc);
    tsc_write(&tsc, now + 1000);
    assert_int_equal(tsc_adjust(&tsc), 1000);
    tsc_write_adjust(&tsc, 400);
    assert_int_equal(tsc_read(&tsc), now + 400);
    tsc_write_adjust(&tsc, (uint64_t)-100);
    assert_int_equal(tsc_read(&tsc), now - 100);
    tsc_write(&tsc, 0);
    assert_true(tsc_adjust(&tsc) == -now);
    tsc_set(&tsc, 77);
    assert_int_equal(tsc_read(&tsc), 77);
    assert_true(tsc_adjust(&tsc) == -now);
    tsc_set_adjust(&tsc, 5);
    assert_int_equal(tsc_read(&tsc), 77);
    clock_resume(&clock);
    tsc_set_offset(&tsc, 123456789);
    assert_int_equal(tsc_offset(&tsc), 123456789);
    uint64_t host = __rdtsc();
    assert_true(tsc_read(&tsc) >= host + 123456789);
    tsc_reset(&tsc);
    assert_int_equal(tsc_adjust(&tsc), 0);
    clock_fini(&clock);
}

/* ---- timers ---- */

struct alarm {
    struct timer timer;
    const struct clock *clock;
    uint64_t deadline;
    _Atomic unsigned rang, early;
};

static void ring(void *context)
{
    struct alarm *alarm = context;
    atomic_fetch_add(&alarm->early, clock_tsc(alarm->clock) < alarm->deadline);
    atomic_fetch_add(&alarm->rang, 1);
}

static void wait_until_rung(struct alarm *alarm, unsigned count)
{
    for (unsigned i = 0; i < 60000 && atomic_load(&alarm->rang) < count; i++)
        usleep(1000);
    assert_int_equal(atomic_load(&alarm->rang), count);
}

/* Many at once, armed, moved and cancelled at random: exactly those that are armed ring, none too
 * early. */
static void test_timers(void **state)
{
    (void)state;
    enum { N = 200 };
    static struct alarm alarms[N];
    struct clock clock;
    struct timer_queue *queue;
    bool armed[N] = {false};
    clock_init(&clock);
    assert_int_equal(timer_queue_create(&clock, &queue), STATUS_OK);
    clock_suspend(&clock); /* so that nothing rings before all is set */
    srandom(3);
    for (unsigned i = 0; i < N; i++) {
        alarms[i] = (struct alarm){.clock = &clock};
        assert_int_equal(timer_init(&alarms[i].timer, queue, ring, &alarms[i]), STATUS_OK);
    }
    for (unsigned n = 0; n < 5000; n++) {
        unsigned i = (unsigned)random() % N;
        armed[i] = random() % 3;
        alarms[i].deadline = clock_tsc(&clock) + (uint64_t)random() % (clock.frequency / 50);
        if (armed[i])
            timer_arm(&alarms[i].timer, alarms[i].deadline);
        else
            timer_cancel(&alarms[i].timer);
    }
    clock_resume(&clock);
    timer_queue_clock_changed(queue);
    for (unsigned i = 0; i < N; i++) {
        if (armed[i])
            wait_until_rung(&alarms[i], 1);
        assert_int_equal(alarms[i].early, 0);
    }
    usleep(30000);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(alarms[i].rang, armed[i]);
        timer_fini(&alarms[i].timer);
    }
    timer_queue_destroy(queue);
    clock_fini(&clock);
}

/* Many that are due at once come in the order of their deadlines, however they were moved about
 * before. */
enum { IN_ORDER = 300 };

static struct {
    uint64_t deadlines[IN_ORDER];
    _Atomic unsigned count;
} order;

static void log_deadline(void *context)
{
    struct alarm *alarm = context;
    order.deadlines[atomic_load(&order.count)] = alarm->deadline;
    atomic_fetch_add(&order.count, 1);
}

static void test_order(void **state)
{
    (void)state;
    static struct alarm alarms[IN_ORDER];
    struct clock clock;
    struct timer_queue *queue;
    clock_init(&clock);
    assert_int_equal(timer_queue_create(&clock, &queue), STATUS_OK);
    clock_suspend(&clock);
    srandom(4);
    for (unsigned i = 0; i < IN_ORDER; i++)
        assert_int_equal(timer_init(&alarms[i].timer, queue, log_deadline, &alarms[i]), STATUS_OK);
    for (unsigned n = 0; n < 5000; n++) {
        unsigned i = n < IN_ORDER ? n : (unsigned)random() % IN_ORDER;
        alarms[i].deadline = (uint64_t)random() % 1000000;
        timer_cancel(&alarms[(unsigned)random() % IN_ORDER].timer);
        timer_arm(&alarms[i].timer, alarms[i].deadline);
    }
    for (unsigned i = 0; i < IN_ORDER; i++)
        timer_arm(&alarms[i].timer, alarms[i].deadline);
    for (unsigned i = 0; i < IN_ORDER; i += 3) /* leaves the heap as removal made it */
        timer_cancel(&alarms[i].timer);
    atomic_fetch_add(&clock.offset, 2000000);
    clock_resume(&clock);
    timer_queue_clock_changed(queue);
    for (unsigned i = 0; i < 60000 && atomic_load(&order.count) < IN_ORDER / 3 * 2; i++)
        usleep(1000);
    assert_int_equal(atomic_load(&order.count), IN_ORDER / 3 * 2);
    for (unsigned i = 1; i < IN_ORDER / 3 * 2; i++)
        if (order.deadlines[i] < order.deadlines[i - 1])
            fail_msg("%u: %lu after %lu", i, (unsigned long)order.deadlines[i],
                     (unsigned long)order.deadlines[i - 1]);
    for (unsigned i = 0; i < IN_ORDER; i++)
        timer_fini(&alarms[i].timer);
    timer_queue_destroy(queue);
    clock_fini(&clock);
}

/* An earlier deadline wakes the sleeping thread; a later one or a cancelled one does not. */
static void test_wakeups(void **state)
{
    (void)state;
    struct clock clock;
    struct timer_queue *queue;
    struct alarm far = {.clock = &clock}, near = {.clock = &clock};
    clock_init(&clock);
    assert_int_equal(timer_queue_create(&clock, &queue), STATUS_OK);
    assert_int_equal(timer_init(&far.timer, queue, ring, &far), STATUS_OK);
    assert_int_equal(timer_init(&near.timer, queue, ring, &near), STATUS_OK);
    far.deadline = clock_tsc(&clock) + 1000 * clock.frequency;
    timer_arm(&far.timer, far.deadline);
    near.deadline = clock_tsc(&clock) + clock.frequency / 1000;
    timer_arm(&near.timer, near.deadline);
    wait_until_rung(&near, 1);
    usleep(10000);
    uint64_t before = timer_queue_wakeups(queue);
    for (unsigned i = 0; i < 1000; i++) {
        timer_arm(&far.timer, far.deadline + i);
        timer_arm(&near.timer, far.deadline + 2 * i + 1000);
        timer_cancel(&near.timer);
    }
    usleep(10000);
    assert_int_equal(timer_queue_wakeups(queue), before);
    near.deadline = 0; /* long past */
    timer_arm(&near.timer, near.deadline);
    wait_until_rung(&near, 2);
    assert_int_equal(far.rang, 0);
    timer_fini(&near.timer);
    timer_fini(&far.timer);
    timer_queue_destroy(queue);
    clock_fini(&clock);
}

/* A timer that arms itself again can be ended, and its callback has then returned for good. */
struct self_arming {
    struct timer timer;
    _Atomic bool gone, late;
    _Atomic unsigned count;
};

static void again(void *context)
{
    struct self_arming *s = context;
    atomic_fetch_add(&s->count, 1);
    timer_arm(&s->timer, 0);
    usleep(100);
    if (atomic_load(&s->gone))
        atomic_store(&s->late, true);
}

static void test_fini_waits(void **state)
{
    (void)state;
    struct clock clock;
    struct timer_queue *queue;
    clock_init(&clock);
    assert_int_equal(timer_queue_create(&clock, &queue), STATUS_OK);
    for (unsigned round = 0; round < 100; round++) {
        struct self_arming s = {.count = 0};
        assert_int_equal(timer_init(&s.timer, queue, again, &s), STATUS_OK);
        timer_arm(&s.timer, 0);
        while (atomic_load(&s.count) < round % 4)
            usleep(10);
        timer_fini(&s.timer);
        atomic_store(&s.gone, true);
        usleep(150);
        assert_false(s.late);
    }
    timer_queue_destroy(queue);
    clock_fini(&clock);
}

/* Never started, or destroyed while it sleeps. */
static void test_queue_life(void **state)
{
    (void)state;
    struct clock clock;
    struct timer_queue *queue;
    struct alarm far = {.clock = &clock};
    clock_init(&clock);
    timer_queue_destroy(NULL);
    assert_int_equal(timer_queue_create(&clock, &queue), STATUS_OK);
    timer_queue_destroy(queue);
    assert_int_equal(timer_queue_create(&clock, &queue), STATUS_OK);
    assert_int_equal(timer_init(&far.timer, queue, ring, &far), STATUS_OK);
    timer_arm(&far.timer, UINT64_MAX);
    usleep(1000);
    timer_fini(&far.timer);
    timer_queue_destroy(queue);
    clock_fini(&clock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scale),          cmocka_unit_test(test_frequency),
        cmocka_unit_test(test_reference_time), cmocka_unit_test(test_tsc_adjust),
        cmocka_unit_test(test_timers),         cmocka_unit_test(test_order),
        cmocka_unit_test(test_wakeups),        cmocka_unit_test(test_fini_waits),
        cmocka_unit_test(test_queue_life),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
