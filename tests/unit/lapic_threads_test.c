/*
 * Many threads at the same APICs, for ThreadSanitizer and for counting: no interrupt is lost, none
 * comes twice, and processors may go while others send to them.
 */
#include "lapic_test.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/apic/lapic_state.h"

enum { CPUS = 4, ROUNDS = 3000 };

/*
 * A processor of the test: takes what is pending and sends on. Each sender and receiver have a
 * vector of their own, and the sender waits until the last one was taken, so every IPI must arrive
 * exactly once. The data behind an IPI is not atomic: the interrupt itself must carry it over.
 */
struct mailbox {
    unsigned data; /* written before the IPI, read behind it */
    _Atomic unsigned taken;
};

struct storm {
    struct test_bus *t;
    struct mailbox box[CPUS][CPUS]; /* from, to */
    _Atomic unsigned finished;
};

struct worker {
    struct storm *storm;
    unsigned cpu;
    unsigned received, wrong;
};

static uint8_t vector_of(unsigned from)
{
    return (uint8_t)(0x40 + 0x10 * from);
}

static void take_all(struct worker *w)
{
    struct lapic *lapic = w->storm->t->cpu[w->cpu].lapic;
    struct vcpu_exit exit;
    int vector;
    while ((vector = lapic_acknowledge(lapic)) >= 0) {
        struct mailbox *box = &w->storm->box[(vector - 0x40) / 0x10][w->cpu];
        unsigned expected = atomic_load_explicit(&box->taken, memory_order_relaxed) + 1;
        w->wrong += box->data != expected;
        w->received++;
        lapic_msr_write(lapic, 0x80b, 0, &exit);
        atomic_store_explicit(&box->taken, expected, memory_order_release);
    }
}

static void *work(void *argument)
{
    struct worker *w = argument;
    struct storm *s = w->storm;
    struct lapic *lapic = s->t->cpu[w->cpu].lapic;
    struct vcpu_exit exit;
    unsigned sent[CPUS] = {0}, left = CPUS * ROUNDS;
    while (left) {
        for (unsigned to = 0; to < CPUS; to++) {
            struct mailbox *box = &s->box[w->cpu][to];
            if (sent[to] == ROUNDS ||
                atomic_load_explicit(&box->taken, memory_order_acquire) != sent[to])
                continue;
            box->data = ++sent[to];
            lapic_msr_write(lapic, 0x830, (uint64_t)to << 32 | 0x4000 | vector_of(w->cpu), &exit);
            left--;
        }
        take_all(w);
        sched_yield();
    }
    atomic_fetch_add(&s->finished, 1);
    while (atomic_load(&s->finished) < CPUS || w->received < CPUS * ROUNDS) {
        take_all(w);
        sched_yield();
    }
    return NULL;
}

static void test_every_ipi_arrives_once(void **state)
{
    (void)state;
    struct storm *s = calloc(1, sizeof(*s));
    struct worker workers[CPUS] = {0};
    pthread_t threads[CPUS];
    s->t = make_bus(CPUS, APIC_MODE_X2APIC);
    for (unsigned i = 0; i < CPUS; i++)
        go_x2apic(s->t, i);
    for (unsigned i = 0; i < CPUS; i++) {
        workers[i] = (struct worker){.storm = s, .cpu = i};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < CPUS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].received, CPUS * ROUNDS);
        assert_int_equal(workers[i].wrong, 0);
        assert_int_equal(s->t->cpu[i].notified >= CPUS, 1);
    }
    free_bus(s->t);
    free(s);
}

/* ---- all at once: routing of every kind against a processor that changes its registers and comes
 * and goes ---- */

struct chaos {
    struct test_bus *t;
    _Atomic bool stop;
};

static void *send_everything(void *argument)
{
    struct chaos *c = argument;
    unsigned seed = (unsigned)(uintptr_t)&seed;
    while (!atomic_load(&c->stop)) {
        static const uint8_t types[] = {0, 0, 0, 1, 4, 5, 6, 9};
        seed = seed * 1103515245 + 12345;
        struct interrupt_request r = {
            .type = types[seed >> 8 & 7],
            .is_logical = seed >> 12 & 1,
            .is_level = seed >> 13 & 1,
            .destination = seed >> 14 & 1 ? 0xff : seed >> 16 & 7,
            .vector = 16 + (seed >> 20) % 240,
        };
        uint64_t set;
        assert_int_equal(apic_bus_request(c->t->bus, &r), STATUS_OK);
        assert_int_equal(apic_bus_targets(c->t->bus, r.destination, r.is_logical, &set, 1),
                         STATUS_OK);
    }
    return NULL;
}

static void use(struct test_bus *t, unsigned cpu)
{
    struct lapic *lapic = t->cpu[cpu].lapic;
    struct vcpu_counters counters;
    uint8_t page[LAPIC_STATE_SIZE];
    enable(t, cpu);
    reg_write(t, cpu, 0xd0, 0xff000000);
    reg_write(t, cpu, 0x360, 0x55);
    reg_write(t, cpu, 0x3e0, 0xb);
    reg_write(t, cpu, 0x320, 1 << 17 | 0x66);
    reg_write(t, cpu, 0x380, 150000);
    for (unsigned n = 0; n < 200; n++) {
        reg_write(t, cpu, 0x80, n & 0xff);
        lapic_acknowledge(lapic);
        reg_write(t, cpu, 0xb0, 0);
        reg_write(t, cpu, 0x320, (n & 1) << 16 | 1 << 17 | 0x66);
        reg_read(t, cpu, 0x390);
        send_xapic(t, cpu, (uint8_t)n, 0x4800 | (n & 0x7f) | 0x20);
    }
    lapic_save(lapic, page);
    lapic_restore(lapic, page);
    lapic_counters(lapic, &counters);
    go_x2apic(t, cpu);
    lapic_init_signal(lapic);
}

static void *change_modes(void *argument)
{
    struct chaos *c = argument;
    struct lapic *lapic = c->t->cpu[1].lapic;
    struct vcpu_exit exit;
    uint32_t on = 0x1ff, logical = 0x01000000;
    while (!atomic_load(&c->stop)) {
        lapic_mmio_write(lapic, 0xf0, 4, &on, &exit);
        lapic_mmio_write(lapic, 0xd0, 4, &logical, &exit);
        lapic_msr_write(lapic, 0x1b, 0xfee00c00, &exit);
        lapic_acknowledge(lapic);
        lapic_init_signal(lapic);
        lapic_msr_write(lapic, 0x1b, 0xfee00000, &exit);
        lapic_reset(lapic);
        sched_yield();
    }
    return NULL;
}

static void test_come_and_go(void **state)
{
    (void)state;
    struct chaos c = {.t = make_bus(8, APIC_MODE_X2APIC)};
    pthread_t others[3];
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(
            pthread_create(&others[i], NULL, i < 2 ? send_everything : change_modes, &c), 0);
    for (unsigned round = 0; round < 60 || !c.t->cpu[3].nmi; round++) { /* on a busy host the senders may start late */
        use(c.t, 3);
        lapic_destroy(c.t->cpu[3].lapic);
        plug(c.t, 3);
    }
    atomic_store(&c.stop, true);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(others[i], NULL);
    free_bus(c.t);
}

/* No callback runs once lapic_destroy has returned: the context is freed here, for AddressSanitizer
 * to see. */
static void test_no_callback_after_destroy(void **state)
{
    (void)state;
    struct test_bus *t = make_bus(8, APIC_MODE_XAPIC);
    struct chaos c = {.t = t};
    pthread_t sender;
    lapic_destroy(t->cpu[5].lapic);
    t->cpu[5].lapic = NULL;
    assert_int_equal(pthread_create(&sender, NULL, send_everything, &c), 0);
    for (unsigned round = 0; round < 500; round++) {
        struct test_cpu *cpu = calloc(1, sizeof(*cpu));
        struct vcpu_exit exit;
        uint32_t on = 0x1ff, lvt = 1 << 17 | 0x77, one = 1000;
        tsc_init(&cpu->tsc, &t->clock);
        struct lapic *lapic = lapic_create(t->bus, 5, &cpu->tsc, &counting, cpu);
        assert_non_null(lapic);
        lapic_mmio_write(lapic, 0xf0, 4, &on, &exit);
        lapic_mmio_write(lapic, 0x320, 4, &lvt, &exit);
        lapic_mmio_write(lapic, 0x380, 4, &one, &exit);
        sched_yield();
        lapic_destroy(lapic);
        free(cpu);
    }
    atomic_store(&c.stop, true);
    pthread_join(sender, NULL);
    free_bus(t);
}

/* ---- lapic_destroy against a callback that is under way, step by step ---- */

struct gate {
    _Atomic bool inside, open, destroyed;
    _Atomic unsigned calls;
    struct lapic *lapic;
    struct test_bus *t;
};

static void stop_at_gate(void *context)
{
    struct gate *gate = context;
    atomic_fetch_add(&gate->calls, 1);
    atomic_store(&gate->inside, true);
    while (!atomic_load(&gate->open))
        sched_yield();
    assert_false(atomic_load(&gate->destroyed));
}

static void *send_one(void *argument)
{
    struct gate *gate = argument;
    struct interrupt_request r = {.vector = 0x40};
    apic_bus_request(gate->t->bus, &r);
    return NULL;
}

static void *destroy_one(void *argument)
{
    struct gate *gate = argument;
    lapic_destroy(gate->lapic);
    atomic_store(&gate->destroyed, true);
    return NULL;
}

static void test_destroy_waits(void **state)
{
    (void)state;
    static const struct lapic_callbacks gated = {stop_at_gate, count_init, count_sipi, count_nmi,
                                                 count_smi};
    struct test_bus *t = make_bus(1, APIC_MODE_XAPIC);
    struct gate gate = {.t = t};
    struct vcpu_exit exit;
    pthread_t sender, destroyer;
    uint32_t on = 0x1ff;
    lapic_destroy(t->cpu[0].lapic);
    t->cpu[0].lapic = NULL;
    gate.lapic = lapic_create(t->bus, 0, &t->cpu[0].tsc, &gated, &gate);
    lapic_mmio_write(gate.lapic, 0xf0, 4, &on, &exit);
    assert_int_equal(pthread_create(&sender, NULL, send_one, &gate), 0);
    while (!atomic_load(&gate.inside))
        sched_yield();
    assert_int_equal(pthread_create(&destroyer, NULL, destroy_one, &gate), 0);
    while (atomic_load(&gate.lapic->attached)) /* it has begun */
        sched_yield();
    usleep(2000);
    assert_false(atomic_load(&gate.destroyed));
    atomic_store(&gate.open, true);
    pthread_join(sender, NULL);
    pthread_join(destroyer, NULL);
    /* A sender that had found it before it went: */
    struct apic_message late = {.mode = DELIVERY_NMI};
    lapic_receive(gate.lapic, &late);
    late = (struct apic_message){.mode = DELIVERY_FIXED, .vector = 0x50};
    lapic_receive(gate.lapic, &late);
    assert_int_equal(gate.calls, 1);
    free_bus(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_ipi_arrives_once),
        cmocka_unit_test(test_come_and_go),
        cmocka_unit_test(test_no_callback_after_destroy),
        cmocka_unit_test(test_destroy_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
