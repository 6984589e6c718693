/* The 8254 interval timer; see pit8254.h. */
#include "pit8254.h"

#include <string.h>

enum { ACCESS_LATCH = 0, ACCESS_LOW = 1, ACCESS_HIGH = 2, ACCESS_BOTH = 3 };

static uint64_t to_ticks(uint64_t nanoseconds)
{
    return (uint64_t)((__uint128_t)nanoseconds * PIT_FREQUENCY / NANOSECONDS_PER_SECOND);
}

/* Rounded up, so that the tick has been reached when the time has come. */
static uint64_t to_nanoseconds(uint64_t ticks)
{
    return (uint64_t)(((__uint128_t)ticks * NANOSECONDS_PER_SECOND + PIT_FREQUENCY - 1) / PIT_FREQUENCY);
}

static bool is_periodic(const struct pit_counter *counter)
{
    return counter->mode == 2 || counter->mode == 3;
}

/* Counting: loaded, and in the modes that the gate starts, triggered. */
static bool is_running(const struct pit_counter *counter)
{
    if (!counter->loaded)
        return false;
    return counter->mode == 1 || counter->mode == 5 ? counter->triggered : counter->gate;
}

static uint64_t elapsed_ticks(const struct pit8254 *pit, const struct pit_counter *counter)
{
    uint64_t now = timers_now(pit->timers);
    return now > counter->started ? to_ticks(now - counter->started) : 0;
}

/* Data sheet, "mode definitions". A stopped counter shows its reload value. */
static uint16_t current_count(const struct pit8254 *pit, const struct pit_counter *counter)
{
    uint64_t ticks = is_running(counter) ? elapsed_ticks(pit, counter) : 0;
    uint64_t reload = counter->reload;
    uint64_t value;
    if (counter->mode == 3)
        value = reload - (2 * ticks) % reload; /* counts down by two, twice a period */
    else if (counter->mode == 2)
        value = reload - ticks % reload;
    else
        value = reload - ticks; /* keeps counting through zero */
    if (!counter->bcd)
        return (uint16_t)value;
    unsigned decimal = (unsigned)(value % 10000);
    return (uint16_t)(decimal / 1000 << 12 | decimal / 100 % 10 << 8 | decimal / 10 % 10 << 4 |
                      decimal % 10);
}

static bool output(const struct pit8254 *pit, const struct pit_counter *counter)
{
    uint64_t ticks = is_running(counter) ? elapsed_ticks(pit, counter) : 0;
    switch (counter->mode) {
    case 0:
        return is_running(counter) && ticks >= counter->reload;
    case 1:
        return !is_running(counter) || ticks >= counter->reload;
    case 3:
        return !is_running(counter) || ticks % counter->reload < (counter->reload + 1) / 2;
    default: /* high but for one tick */
        return true;
    }
}

/* Arms the timer for counter 0's next rising edge. */
static void schedule(struct pit8254 *pit)
{
    struct pit_counter *counter = &pit->counters[0];
    if (!is_running(counter)) {
        timers_cancel(pit->timers, &pit->timer);
        return;
    }
    uint64_t ticks = elapsed_ticks(pit, counter);
    uint64_t next = counter->reload;
    if (is_periodic(counter))
        next = (ticks / counter->reload + 1) * counter->reload; /* missed periods are not made up */
    else if (ticks >= next) {
        timers_cancel(pit->timers, &pit->timer);
        return;
    }
    timers_arm(pit->timers, &pit->timer, counter->started + to_nanoseconds(next));
}

static void timer_fired(void *context)
{
    struct pit8254 *pit = context;
    irq_pulse(&pit->irq);
    if (is_periodic(&pit->counters[0]))
        schedule(pit);
}

static void restart(struct pit8254 *pit, struct pit_counter *counter)
{
    counter->started = timers_now(pit->timers);
    if (counter == &pit->counters[0])
        schedule(pit);
}

static uint32_t decode_reload(const struct pit_counter *counter, uint16_t written)
{
    if (!counter->bcd)
        return written == 0 ? 65536 : written;
    uint32_t value = (uint32_t)(written >> 12) * 1000 + (uint32_t)(written >> 8 & 15) * 100 +
                     (uint32_t)(written >> 4 & 15) * 10 + (uint32_t)(written & 15);
    return value == 0 ? 10000 : value;
}

static void load(struct pit8254 *pit, struct pit_counter *counter, uint16_t written)
{
    counter->reload = decode_reload(counter, written);
    counter->loaded = true;
    if (counter->mode != 1 && counter->mode != 5)
        restart(pit, counter);
}

static void write_count(struct pit8254 *pit, struct pit_counter *counter, uint8_t value)
{
    switch (counter->access) {
    case ACCESS_LOW:
        load(pit, counter, value);
        break;
    case ACCESS_HIGH:
        load(pit, counter, (uint16_t)(value << 8));
        break;
    default:
        if (!counter->write_high_next)
            counter->write_low = value;
        else
            load(pit, counter, (uint16_t)(value << 8 | counter->write_low));
        counter->write_high_next = !counter->write_high_next;
    }
}

static void latch_count(const struct pit8254 *pit, struct pit_counter *counter)
{
    if (counter->latched_bytes > 0)
        return;
    counter->latched_count = current_count(pit, counter);
    counter->latched_bytes = counter->access == ACCESS_BOTH ? 2 : 1;
    counter->read_high_next = false;
}

static void latch_status(const struct pit8254 *pit, struct pit_counter *counter)
{
    if (counter->status_latched)
        return;
    counter->status_latched = true;
    counter->status = (uint8_t)(output(pit, counter) << 7 | !counter->loaded << 6 |
                                counter->access << 4 | counter->mode << 1 | counter->bcd);
}

static uint8_t read_count(const struct pit8254 *pit, struct pit_counter *counter)
{
    if (counter->status_latched) {
        counter->status_latched = false;
        return counter->status;
    }
    uint16_t count = counter->latched_bytes > 0 ? counter->latched_count : current_count(pit, counter);
    if (counter->latched_bytes > 0)
        counter->latched_bytes--;
    bool high = counter->access == ACCESS_HIGH;
    if (counter->access == ACCESS_BOTH) {
        high = counter->read_high_next;
        counter->read_high_next = !high;
    }
    return (uint8_t)(high ? count >> 8 : count);
}

/* Read-back command: bit 5 clear latches counts, bit 4 clear latches status, bits 1-3 choose counters. */
static void read_back(struct pit8254 *pit, uint8_t value)
{
    for (unsigned i = 0; i < 3; i++) {
        if (!(value & (2u << i)))
            continue;
        if (!(value & 0x20))
            latch_count(pit, &pit->counters[i]);
        if (!(value & 0x10))
            latch_status(pit, &pit->counters[i]);
    }
}

static void write_control(struct pit8254 *pit, uint8_t value)
{
    if (value >> 6 == 3) {
        read_back(pit, value);
        return;
    }
    struct pit_counter *counter = &pit->counters[value >> 6];
    uint8_t access = (value >> 4) & 3;
    if (access == ACCESS_LATCH) {
        latch_count(pit, counter);
        return;
    }
    counter->access = access;
    counter->mode = (value >> 1) & 7;
    if (counter->mode > 5)
        counter->mode = (uint8_t)(counter->mode & 3); /* 6 and 7 are 2 and 3 */
    counter->bcd = value & 1;
    counter->loaded = counter->triggered = false;
    counter->write_high_next = counter->read_high_next = counter->status_latched = false;
    counter->latched_bytes = 0;
    if (counter == &pit->counters[0])
        schedule(pit);
}

static uint64_t counters_read(void *device, uint64_t offset, unsigned size)
{
    struct pit8254 *pit = device;
    (void)size;
    return offset == 3 ? 0xff : read_count(pit, &pit->counters[offset]);
}

static void counters_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pit8254 *pit = device;
    (void)size;
    if (offset == 3)
        write_control(pit, (uint8_t)value);
    else
        write_count(pit, &pit->counters[offset], (uint8_t)value);
}

static void set_gate(struct pit8254 *pit, struct pit_counter *counter, bool gate)
{
    bool rising = gate && !counter->gate;
    counter->gate = gate;
    if (!rising)
        return;
    counter->triggered = counter->loaded;
    /* A rising gate starts the count anew; in modes 0 and 4 it goes on, which nobody tells apart here. */
    restart(pit, counter);
}

/* Port 61: gate (0), speaker (1), refresh toggle (4), output of counter 2 (5). */
static uint64_t port61_read(void *device, uint64_t offset, unsigned size)
{
    struct pit8254 *pit = device;
    (void)offset;
    (void)size;
    bool refresh = timers_now(pit->timers) / 15000 & 1;
    return (uint64_t)(pit->counters[2].gate | pit->speaker << 1 | refresh << 4 |
                      output(pit, &pit->counters[2]) << 5);
}

static void port61_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pit8254 *pit = device;
    (void)offset;
    (void)size;
    set_gate(pit, &pit->counters[2], value & 1);
    pit->speaker = (value & 2) != 0;
}

void pit8254_init(struct pit8254 *pit, struct timers *timers, struct irq_router *router)
{
    memset(pit, 0, sizeof *pit);
    for (unsigned i = 0; i < 3; i++) {
        pit->counters[i].reload = 65536;
        pit->counters[i].access = ACCESS_BOTH;
        pit->counters[i].gate = i != 2;
    }
    pit->timers = timers;
    pit->timer = (struct timer){.fire = timer_fired, .context = pit};
    pit->irq = (struct irq_source){.router = router, .line = 0};
}

int pit8254_attach(struct pit8254 *pit, struct bus *ports)
{
    static const struct bus_ops counters = {counters_read, counters_write};
    static const struct bus_ops port61 = {port61_read, port61_write};
    const struct bus_range ranges[] = {
        {0x40, 4, &counters, pit, "8254 timer", 1},
        {0x61, 1, &port61, pit, "system control port B", 1},
    };
    for (unsigned i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (bus_add(ports, &ranges[i]) != 0)
            return -1;
    return 0;
}
