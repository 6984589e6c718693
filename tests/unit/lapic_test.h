/*
 * A partition of local APICs for tests: a clock that can be stopped and set by hand, and processors
 * whose callbacks only count.
 */
#ifndef OWHP_TESTS_LAPIC_TEST_H
#define OWHP_TESTS_LAPIC_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/apic/lapic.h"

enum { MAX_CPUS = 300 };

struct test_cpu {
    struct lapic *lapic;
    struct tsc tsc;
    _Atomic unsigned notified, init, sipi, nmi, smi;
    _Atomic unsigned sipi_vector;
};

struct test_bus {
    struct partition_config config;
    struct clock clock;
    struct timer_queue *timers;
    struct apic_bus *bus;
    struct test_cpu cpu[MAX_CPUS];
    struct vcpu_exit exit; /* of the last write */
};

static inline void count_notify(void *context)
{
    atomic_fetch_add(&((struct test_cpu *)context)->notified, 1);
}

static inline void count_init(void *context)
{
    atomic_fetch_add(&((struct test_cpu *)context)->init, 1);
}

static inline void count_sipi(void *context, uint8_t vector)
{
    atomic_store(&((struct test_cpu *)context)->sipi_vector, vector);
    atomic_fetch_add(&((struct test_cpu *)context)->sipi, 1);
}

static inline void count_nmi(void *context)
{
    atomic_fetch_add(&((struct test_cpu *)context)->nmi, 1);
}

static inline void count_smi(void *context)
{
    atomic_fetch_add(&((struct test_cpu *)context)->smi, 1);
}

static const struct lapic_callbacks counting = {count_notify, count_init, count_sipi, count_nmi,
                                                count_smi};

static inline struct lapic *plug(struct test_bus *t, uint32_t index)
{
    struct test_cpu *cpu = &t->cpu[index];
    tsc_init(&cpu->tsc, &t->clock);
    cpu->lapic = lapic_create(t->bus, index, &cpu->tsc, &counting, cpu);
    assert_non_null(cpu->lapic);
    return cpu->lapic;
}

/* The clock runs, at the host's frequency; the APIC timer counts at 1 GHz. */
static inline struct test_bus *make_bus(uint32_t count, uint32_t mode)
{
    struct test_bus *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    t->config = (struct partition_config){.processor_count = count,
                                          .physical_address_bits = 40,
                                          .apic_mode = mode,
                                          .apic_frequency = 1000000000};
    clock_init(&t->clock);
    assert_int_equal(timer_queue_create(&t->clock, &t->timers), STATUS_OK);
    assert_int_equal(apic_bus_create(&t->config, t->timers, &t->bus), STATUS_OK);
    for (uint32_t i = 0; i < count && mode != APIC_MODE_NONE; i++)
        plug(t, i);
    return t;
}

static inline void free_bus(struct test_bus *t)
{
    for (uint32_t i = 0; i < MAX_CPUS; i++)
        lapic_destroy(t->cpu[i].lapic);
    apic_bus_destroy(t->bus);
    timer_queue_destroy(t->timers);
    clock_fini(&t->clock);
    free(t);
}

/* From now on time stands still and is set by set_time; nothing fires by itself. 4 TSC ticks per
 * APIC tick. */
static inline void stop_time(struct test_bus *t)
{
    clock_suspend(&t->clock);
    t->clock.frequency = 4000000000;
    atomic_store(&t->clock.offset, 1000000);
}

static inline void advance(struct test_bus *t, uint64_t ticks)
{
    atomic_fetch_add(&t->clock.offset, ticks);
}

/* ---- register access as a guest does it ---- */

static inline uint32_t reg_read(struct test_bus *t, unsigned cpu, uint32_t offset)
{
    uint32_t value = 0xdeadbeef;
    lapic_mmio_read(t->cpu[cpu].lapic, offset, 4, &value);
    return value;
}

static inline enum lapic_result reg_write(struct test_bus *t, unsigned cpu, uint32_t offset,
                                          uint32_t value)
{
    memset(&t->exit, 0, sizeof(t->exit));
    return lapic_mmio_write(t->cpu[cpu].lapic, offset, 4, &value, &t->exit);
}

static inline enum lapic_result msr_write(struct test_bus *t, unsigned cpu, uint32_t index,
                                          uint64_t value)
{
    memset(&t->exit, 0, sizeof(t->exit));
    return lapic_msr_write(t->cpu[cpu].lapic, index, value, &t->exit);
}

static inline enum lapic_result msr_read(struct test_bus *t, unsigned cpu, uint32_t index,
                                         uint64_t *value)
{
    return lapic_msr_read(t->cpu[cpu].lapic, index, value);
}

static inline uint64_t msr_value(struct test_bus *t, unsigned cpu, uint32_t index)
{
    uint64_t value = 0;
    assert_int_equal(lapic_msr_read(t->cpu[cpu].lapic, index, &value), LAPIC_DONE);
    return value;
}

static inline void enable(struct test_bus *t, unsigned cpu)
{
    assert_int_equal(reg_write(t, cpu, 0xf0, 0x1ff), LAPIC_DONE);
}

static inline void go_x2apic(struct test_bus *t, unsigned cpu)
{
    assert_int_equal(msr_write(t, cpu, 0x1b, msr_value(t, cpu, 0x1b) | 0x400), LAPIC_DONE_MOVED);
    assert_int_equal(msr_write(t, cpu, 0x80f, 0x1ff), LAPIC_DONE);
}

/* xAPIC: both halves of ICR. */
static inline enum lapic_result send_xapic(struct test_bus *t, unsigned cpu, uint8_t destination,
                                           uint32_t low)
{
    assert_int_equal(reg_write(t, cpu, 0x310, (uint32_t)destination << 24), LAPIC_DONE);
    return reg_write(t, cpu, 0x300, low);
}

static inline bool irr_has(struct test_bus *t, unsigned cpu, uint8_t vector)
{
    uint8_t page[LAPIC_STATE_SIZE];
    uint32_t word;
    lapic_save(t->cpu[cpu].lapic, page);
    memcpy(&word, page + 0x200 + vector / 32 * 16, 4);
    return word >> (vector % 32) & 1;
}

#endif
