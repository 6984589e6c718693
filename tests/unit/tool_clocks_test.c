/* The 8254, the RTC and the ACPI timer of the command's machine, on a clock the test moves. */
#include "tool_test.h"

#include "acpi.h"
#include "acpi_pm.h"
#include "ioapic.h"
#include "pit8254.h"
#include "rtc_cmos.h"

static uint64_t now, wall;
static unsigned messages;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct timers timers;
static struct ioapic ioapic;
static struct irq_router router;
static struct bus ports;
static struct pit8254 pit;
static struct rtc_cmos rtc;
static struct interrupt_sink sink;

static uint64_t fake_clock(void) { return now; }

static uint64_t fake_wall(void) { return wall + now; }

static void on_message(void *context, const struct interrupt_message *message)
{
    (void)context;
    (void)message;
    messages++;
}

static void on_output(void *context, bool asserted)
{
    (void)context;
    (void)asserted;
}

static void out(uint16_t port, uint8_t value) { bus_write(&ports, port, 1, value); }

static uint8_t in(uint16_t port) { return (uint8_t)bus_read(&ports, port, 1); }

/* Lets time pass in small steps, as the timer thread would see it. */
static void pass(uint64_t nanoseconds)
{
    uint64_t end = now + nanoseconds;
    while (timers.first != NULL && timers.first->deadline <= end) {
        if (timers.first->deadline > now)
            now = timers.first->deadline;
        timers_fire_due(&timers);
    }
    now = end;
}

static int set_up(void **state)
{
    (void)state;
    now = NANOSECONDS_PER_SECOND;
    wall = UINT64_C(1700000000) * NANOSECONDS_PER_SECOND - now; /* 2023-11-14 22:13:20 UTC */
    messages = 0;
    sink = (struct interrupt_sink){on_message, on_output, NULL};
    memset(&ports, 0, sizeof ports);
    timers_init(&timers, &lock);
    timers.clock = fake_clock;
    ioapic_init(&ioapic, 0, &sink);
    ioapic.entries[2] = 0x30;
    ioapic.entries[8] = 0x38;
    router = (struct irq_router){.ioapic = &ioapic};
    pit8254_init(&pit, &timers, &router);
    const struct cmos_setup setup = {3072ull << 20, 1024ull << 20, 4, true};
    rtc_cmos_init(&rtc, &timers, &router, &setup);
    rtc.wall_clock = fake_wall;
    rtc.flags_since = 1700000000;
    assert_int_equal(pit8254_attach(&pit, &ports), 0);
    assert_int_equal(rtc_cmos_attach(&rtc, &ports), 0);
    return 0;
}

static void test_nothing_armed_at_start(void **state)
{
    (void)state;
    assert_null(timers.first);
}

static void test_periodic(void **state)
{
    (void)state;
    out(0x43, 0x34); /* counter 0, both bytes, mode 2 */
    out(0x40, 11932 & 0xff);
    assert_null(timers.first); /* half a count starts nothing */
    out(0x40, 11932 >> 8);
    pass(NANOSECONDS_PER_SECOND);
    assert_in_range(messages, 99, 101);
    out(0x43, 0x30); /* mode 0, no count: stops */
    pass(NANOSECONDS_PER_SECOND);
    assert_in_range(messages, 99, 101);
    assert_null(timers.first);
}

static void test_one_shot(void **state)
{
    (void)state;
    out(0x43, 0x30);
    out(0x40, 0);
    out(0x40, 0x10);
    pass(3 * NANOSECONDS_PER_SECOND);
    assert_int_equal(messages, 1);
    assert_null(timers.first);
}

static void test_late_timer_does_not_make_up(void **state)
{
    (void)state;
    out(0x43, 0x34), out(0x40, 100), out(0x40, 0);
    now += 10 * NANOSECONDS_PER_SECOND;
    timers_fire_due(&timers);
    assert_int_equal(messages, 1);
    assert_true(timers.first->deadline > now);
}

static uint16_t latched(unsigned counter)
{
    out(0x43, (uint8_t)(counter << 6));
    uint16_t low = in((uint16_t)(0x40 + counter));
    return (uint16_t)(low | in((uint16_t)(0x40 + counter)) << 8);
}

static void test_counting_down_and_latch(void **state)
{
    (void)state;
    out(0x61, 0x01);
    out(0x43, 0xB0); /* counter 2, mode 0 */
    out(0x42, 0xff), out(0x42, 0xff);
    assert_int_equal(latched(2), 0xffff);
    now += NANOSECONDS_PER_SECOND / 100;
    assert_in_range(latched(2), 0xffff - 11932 - 1, 0xffff - 11931);
    assert_int_equal(in(0x61) & 0x20, 0);
    now += NANOSECONDS_PER_SECOND;
    assert_int_equal(in(0x61) & 0x20, 0x20);
}

static void test_latch_holds_while_time_passes(void **state)
{
    (void)state;
    out(0x43, 0x34), out(0x40, 0), out(0x40, 0);
    now += 1000000;
    out(0x43, 0x00);
    uint8_t low = in(0x40);
    now += 50000000;
    uint8_t high = in(0x40);
    assert_in_range(high << 8 | low, 65536 - 1194, 65536 - 1192);
}

static void test_read_back_status(void **state)
{
    (void)state;
    out(0x43, 0xB6); /* counter 2, mode 3 */
    out(0x43, 0xE8); /* status of counter 2 */
    assert_int_equal(in(0x42) & 0x7f, 0x76); /* null count, both bytes, mode 3 */
}

static void test_bcd_and_odd_modes(void **state)
{
    (void)state;
    out(0x61, 0x01);
    out(0x43, 0xB1); /* counter 2, mode 0, decimal */
    out(0x42, 0x00), out(0x42, 0x50);
    assert_int_equal(latched(2), 0x5000);
    for (unsigned mode = 0; mode < 8; mode++) { /* every mode, smallest count, long after: no trouble */
        out(0x43, (uint8_t)(0x30 | mode << 1));
        out(0x40, 1), out(0x40, 0);
        now += 12345678;
        (void)latched(0);
        timers_fire_due(&timers);
    }
}

static uint8_t cmos(uint8_t index)
{
    out(0x70, index);
    return in(0x71);
}

static void set_cmos(uint8_t index, uint8_t value)
{
    out(0x70, index);
    out(0x71, value);
}

static void test_time_and_sizes(void **state)
{
    (void)state;
    assert_int_equal(cmos(0x00), 0x20);
    assert_int_equal(cmos(0x02), 0x13);
    assert_int_equal(cmos(0x04), 0x22);
    assert_int_equal(cmos(0x07), 0x14);
    assert_int_equal(cmos(0x08), 0x11);
    assert_int_equal(cmos(0x09), 0x23);
    assert_int_equal(cmos(0x32), 0x20);
    assert_int_equal(cmos(0x34) | cmos(0x35) << 8, (3072 - 16) * 16);
    assert_int_equal(cmos(0x5B) | cmos(0x5C) << 8, 1024 * 16);
    assert_int_equal(cmos(0x5F), 3);
    set_cmos(0x0B, 0x06); /* binary */
    assert_int_equal(cmos(0x04), 22);
    set_cmos(0x0B, 0x04); /* binary, 12 hours */
    assert_int_equal(cmos(0x04), 0x80 | 10);
}

static void test_setting_the_time(void **state)
{
    (void)state;
    set_cmos(0x0B, 0x82);
    set_cmos(0x04, 0x01), set_cmos(0x02, 0x02), set_cmos(0x00, 0x03);
    set_cmos(0x0B, 0x02);
    now += 2 * NANOSECONDS_PER_SECOND;
    assert_int_equal(cmos(0x04), 0x01);
    assert_int_equal(cmos(0x02), 0x02);
    assert_int_equal(cmos(0x00), 0x05);
}

static void test_periodic_and_update_interrupts(void **state)
{
    (void)state;
    set_cmos(0x0A, 0x26); /* 1024 Hz */
    set_cmos(0x0B, 0x42);
    for (unsigned i = 0; i < 100; i++) { /* each has to be acknowledged */
        pass(NANOSECONDS_PER_SECOND / 1024 + 1000);
        assert_int_equal(cmos(0x0C) & 0xC0, 0xC0);
    }
    assert_int_equal(messages, 100);
    set_cmos(0x0B, 0x12);
    pass(NANOSECONDS_PER_SECOND);
    assert_int_equal(cmos(0x0C) & 0x90, 0x90);
    set_cmos(0x0B, 0x02);
    assert_null(timers.first);
}

static void test_alarm(void **state)
{
    (void)state;
    set_cmos(0x01, 0x25), set_cmos(0x03, 0xff), set_cmos(0x05, 0xff); /* at second 25 */
    cmos(0x0C);
    set_cmos(0x0B, 0x22);
    pass(4 * NANOSECONDS_PER_SECOND);
    assert_int_equal(messages, 0);
    pass(2 * NANOSECONDS_PER_SECOND);
    assert_int_equal(messages, 1);
    assert_int_equal(cmos(0x0C) & 0xA0, 0xA0);
}

static void test_every_cmos_byte_survives_nonsense(void **state)
{
    (void)state;
    for (unsigned value = 0; value < 256; value += 51)
        for (unsigned index = 0; index < 128; index++) {
            set_cmos((uint8_t)index, (uint8_t)value);
            (void)cmos((uint8_t)index);
            pass(1000000);
        }
}

static void test_acpi_timer_and_power_off(void **state)
{
    (void)state;
    struct power power;
    struct acpi_pm pm;
    power_init(&power);
    acpi_pm_init(&pm, &timers, &power);
    assert_int_equal(acpi_pm_attach(&pm, &ports), 0);
    uint64_t before = bus_read(&ports, ACPI_PM_TIMER_PORT, 4);
    now += NANOSECONDS_PER_SECOND;
    uint32_t ticks = (uint32_t)(bus_read(&ports, ACPI_PM_TIMER_PORT, 4) - before);
    assert_in_range(ticks, 3579544, 3579546);
    assert_int_equal(bus_read(&ports, ACPI_PM1_CONTROL_PORT, 2) & 1, 1);
    bus_write(&ports, ACPI_PM1_CONTROL_PORT, 2, 1 << 13 | 1 << 10); /* another sleep */
    assert_false(power_is_stopping(&power));
    bus_write(&ports, ACPI_PM1_CONTROL_PORT, 2, 1 << 13 | ACPI_SLEEP_TYPE_OFF << 10);
    assert_true(power_is_stopping(&power));
    assert_int_equal(power_exit_status(&power), 0);
    power_fini(&power);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup(name, set_up)
    const struct CMUnitTest tests[] = {
        CASE(test_nothing_armed_at_start),
        CASE(test_periodic),
        CASE(test_one_shot),
        CASE(test_late_timer_does_not_make_up),
        CASE(test_counting_down_and_latch),
        CASE(test_latch_holds_while_time_passes),
        CASE(test_read_back_status),
        CASE(test_bcd_and_odd_modes),
        CASE(test_time_and_sizes),
        CASE(test_setting_the_time),
        CASE(test_periodic_and_update_interrupts),
        CASE(test_alarm),
        CASE(test_every_cmos_byte_survives_nonsense),
        CASE(test_acpi_timer_and_power_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
