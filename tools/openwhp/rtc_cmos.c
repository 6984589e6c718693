/* The real-time clock and its CMOS; see rtc_cmos.h. Register names follow the MC146818A data sheet. */
#include "rtc_cmos.h"

#include <string.h>
#include <time.h>

#include "guest_memory.h"

enum {
    SECONDS = 0x00,
    SECONDS_ALARM = 0x01,
    MINUTES = 0x02,
    MINUTES_ALARM = 0x03,
    HOURS = 0x04,
    HOURS_ALARM = 0x05,
    WEEKDAY = 0x06,
    DAY = 0x07,
    MONTH = 0x08,
    YEAR = 0x09,
    REGISTER_A = 0x0A,
    REGISTER_B = 0x0B,
    REGISTER_C = 0x0C,
    REGISTER_D = 0x0D,
    CENTURY = 0x32,
    A_UPDATE_IN_PROGRESS = 0x80,
    B_SET = 0x80,
    B_PERIODIC = 0x40,
    B_ALARM = 0x20,
    B_UPDATE = 0x10,
    B_BINARY = 0x04,
    B_24_HOURS = 0x02,
    C_REQUEST = 0x80,
    D_VALID = 0x80,
    ALARM_ANY = 0xC0, /* the two top bits set: matches every value */
    UPDATE_MICROSECONDS = 244,
};

static uint64_t host_wall_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * NANOSECONDS_PER_SECOND + (uint64_t)now.tv_nsec;
}

static int64_t guest_seconds(const struct rtc_cmos *rtc)
{
    return (int64_t)(rtc->wall_clock() / NANOSECONDS_PER_SECOND) + rtc->offset;
}

static uint8_t encode(const struct rtc_cmos *rtc, int number)
{
    unsigned value = (unsigned)number % 100; /* a guest can set a year before 0 */
    if (rtc->bytes[REGISTER_B] & B_BINARY)
        return (uint8_t)value;
    return (uint8_t)(value / 10 << 4 | value % 10);
}

static int decode(const struct rtc_cmos *rtc, uint8_t value)
{
    if (rtc->bytes[REGISTER_B] & B_BINARY)
        return value;
    return (value >> 4) * 10 + (value & 15);
}

static uint8_t encode_hours(const struct rtc_cmos *rtc, int hours)
{
    if (rtc->bytes[REGISTER_B] & B_24_HOURS)
        return encode(rtc, hours);
    uint8_t afternoon = hours >= 12 ? 0x80 : 0;
    return (uint8_t)(encode(rtc, hours % 12 == 0 ? 12 : hours % 12) | afternoon);
}

static int decode_hours(const struct rtc_cmos *rtc, uint8_t value)
{
    if (rtc->bytes[REGISTER_B] & B_24_HOURS)
        return decode(rtc, value);
    return decode(rtc, value & 0x7f) % 12 + (value & 0x80 ? 12 : 0);
}

static void show_time(struct rtc_cmos *rtc)
{
    if (rtc->bytes[REGISTER_B] & B_SET)
        return; /* the guest is setting it */
    time_t seconds = (time_t)guest_seconds(rtc);
    struct tm now;
    if (gmtime_r(&seconds, &now) == NULL)
        return;
    rtc->bytes[SECONDS] = encode(rtc, now.tm_sec);
    rtc->bytes[MINUTES] = encode(rtc, now.tm_min);
    rtc->bytes[HOURS] = encode_hours(rtc, now.tm_hour);
    rtc->bytes[WEEKDAY] = encode(rtc, now.tm_wday + 1);
    rtc->bytes[DAY] = encode(rtc, now.tm_mday);
    rtc->bytes[MONTH] = encode(rtc, now.tm_mon + 1);
    rtc->bytes[YEAR] = encode(rtc, now.tm_year % 100);
    rtc->bytes[CENTURY] = encode(rtc, (now.tm_year + 1900) / 100);
}

/* Makes the registers the guest has written the time from which the clock goes on. */
static void take_time(struct rtc_cmos *rtc)
{
    struct tm wanted = {
        .tm_sec = decode(rtc, rtc->bytes[SECONDS]),
        .tm_min = decode(rtc, rtc->bytes[MINUTES]),
        .tm_hour = decode_hours(rtc, rtc->bytes[HOURS]),
        .tm_mday = decode(rtc, rtc->bytes[DAY]),
        .tm_mon = decode(rtc, rtc->bytes[MONTH]) - 1,
        .tm_year = decode(rtc, rtc->bytes[CENTURY]) * 100 + decode(rtc, rtc->bytes[YEAR]) - 1900,
    };
    rtc->offset = (int64_t)timegm(&wanted) - (int64_t)(rtc->wall_clock() / NANOSECONDS_PER_SECOND);
}

/* Period of the periodic interrupt in nanoseconds, 0 when the rate is none (register A, bits 0-3). */
static uint64_t period(const struct rtc_cmos *rtc)
{
    unsigned rate = rtc->bytes[REGISTER_A] & 15;
    if (rate == 0)
        return 0;
    if (rate < 3)
        rate += 7; /* 1 and 2 are 8 and 9 with the 32 kHz time base */
    return NANOSECONDS_PER_SECOND * (UINT64_C(1) << (rate - 1)) / 32768;
}

static bool alarm_matches(const struct rtc_cmos *rtc, uint8_t alarm, uint8_t now)
{
    (void)rtc;
    return (alarm & ALARM_ANY) == ALARM_ANY || alarm == now;
}

/* Sets the flags of register C for everything that has happened since the last look. */
static void update_flags(struct rtc_cmos *rtc)
{
    uint64_t now = timers_now(rtc->timers), interval = period(rtc);
    uint8_t *flags = &rtc->bytes[REGISTER_C];
    if (interval != 0 && now >= rtc->periodic_due) {
        *flags |= B_PERIODIC;
        rtc->periodic_due = now + interval - (now - rtc->periodic_due) % interval;
    }
    int64_t seconds = guest_seconds(rtc);
    if ((uint64_t)seconds != rtc->flags_since && !(rtc->bytes[REGISTER_B] & B_SET)) {
        rtc->flags_since = (uint64_t)seconds;
        *flags |= B_UPDATE;
        show_time(rtc);
        if (alarm_matches(rtc, rtc->bytes[SECONDS_ALARM], rtc->bytes[SECONDS]) &&
            alarm_matches(rtc, rtc->bytes[MINUTES_ALARM], rtc->bytes[MINUTES]) &&
            alarm_matches(rtc, rtc->bytes[HOURS_ALARM], rtc->bytes[HOURS]))
            *flags |= B_ALARM;
    }
}

static void schedule(struct rtc_cmos *rtc)
{
    uint8_t enabled = rtc->bytes[REGISTER_B];
    uint64_t now = timers_now(rtc->timers), due = UINT64_MAX;
    if ((enabled & B_PERIODIC) && period(rtc) != 0)
        due = rtc->periodic_due;
    if (enabled & (B_ALARM | B_UPDATE)) {
        uint64_t into_second = rtc->wall_clock() % NANOSECONDS_PER_SECOND;
        uint64_t second = now + NANOSECONDS_PER_SECOND - into_second;
        due = second < due ? second : due;
    }
    if (due == UINT64_MAX)
        timers_cancel(rtc->timers, &rtc->timer);
    else
        timers_arm(rtc->timers, &rtc->timer, due > now ? due : now + 1);
}

static void update_irq(struct rtc_cmos *rtc)
{
    uint8_t *flags = &rtc->bytes[REGISTER_C];
    if (*flags & rtc->bytes[REGISTER_B] & (B_PERIODIC | B_ALARM | B_UPDATE))
        *flags |= C_REQUEST;
    irq_set(&rtc->irq, (*flags & C_REQUEST) != 0);
}

static void timer_fired(void *context)
{
    struct rtc_cmos *rtc = context;
    update_flags(rtc);
    update_irq(rtc);
    schedule(rtc);
}

static uint8_t read_register_a(const struct rtc_cmos *rtc)
{
    uint64_t microseconds = rtc->wall_clock() % NANOSECONDS_PER_SECOND / 1000;
    bool updating = microseconds >= 1000000 - UPDATE_MICROSECONDS;
    uint8_t value = rtc->bytes[REGISTER_A] & 0x7f;
    return updating && !(rtc->bytes[REGISTER_B] & B_SET) ? value | A_UPDATE_IN_PROGRESS : value;
}

static uint8_t read_register_c(struct rtc_cmos *rtc)
{
    update_flags(rtc);
    update_irq(rtc);
    uint8_t value = rtc->bytes[REGISTER_C];
    rtc->bytes[REGISTER_C] = 0;
    update_irq(rtc);
    return value;
}

static uint8_t read_byte(struct rtc_cmos *rtc)
{
    switch (rtc->index) {
    case REGISTER_A:
        return read_register_a(rtc);
    case REGISTER_C:
        return read_register_c(rtc);
    default:
        show_time(rtc);
        return rtc->bytes[rtc->index];
    }
}

static bool is_time(uint8_t index)
{
    return index == CENTURY || (index <= YEAR && index != SECONDS_ALARM && index != MINUTES_ALARM &&
                                index != HOURS_ALARM);
}

static void write_register_b(struct rtc_cmos *rtc, uint8_t value)
{
    uint8_t was = rtc->bytes[REGISTER_B];
    show_time(rtc);
    update_flags(rtc);
    rtc->bytes[REGISTER_B] = value & B_SET ? value & (uint8_t)~B_UPDATE : value;
    if ((was & B_SET) && !(value & B_SET))
        take_time(rtc);
    if (!(was & B_PERIODIC) && (value & B_PERIODIC))
        rtc->periodic_due = timers_now(rtc->timers) + period(rtc);
    update_irq(rtc);
    schedule(rtc);
}

static void write_byte(struct rtc_cmos *rtc, uint8_t value)
{
    uint8_t index = rtc->index;
    if (index == REGISTER_C || index == REGISTER_D)
        return;
    if (index == REGISTER_B) {
        write_register_b(rtc, value);
        return;
    }
    if (is_time(index) && !(rtc->bytes[REGISTER_B] & B_SET)) {
        show_time(rtc);
        rtc->bytes[index] = value;
        take_time(rtc);
        return;
    }
    rtc->bytes[index] = index == REGISTER_A ? value & 0x7f : value;
    if (index == REGISTER_A) {
        rtc->periodic_due = timers_now(rtc->timers) + period(rtc);
        schedule(rtc);
    }
}

static uint64_t port_read(void *device, uint64_t offset, unsigned size)
{
    struct rtc_cmos *rtc = device;
    (void)size;
    return offset == 0 ? 0xff : read_byte(rtc);
}

static void port_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct rtc_cmos *rtc = device;
    (void)size;
    if (offset == 0)
        rtc->index = value & 0x7f; /* bit 7 masks NMI, which this machine has no source of */
    else
        write_byte(rtc, (uint8_t)value);
}

static void put_pair(struct rtc_cmos *rtc, unsigned index, uint64_t value)
{
    rtc->bytes[index] = (uint8_t)value;
    rtc->bytes[index + 1] = (uint8_t)(value >> 8);
}

/* The bytes PC firmware keeps the memory sizes in (as SeaBIOS reads them). */
static void fill_cmos(struct rtc_cmos *rtc, const struct cmos_setup *setup)
{
    uint64_t above_1m = (setup->low_end - MIB) / KIB;
    uint64_t above_16m = setup->low_end > 16 * MIB ? (setup->low_end - 16 * MIB) / (64 * KIB) : 0;
    uint64_t high = setup->high_size / (64 * KIB);
    put_pair(rtc, 0x15, 640);
    put_pair(rtc, 0x17, above_1m > 0xffff ? 0xffff : above_1m);
    put_pair(rtc, 0x30, above_1m > 0xffff ? 0xffff : above_1m);
    put_pair(rtc, 0x34, above_16m > 0xffff ? 0xffff : above_16m);
    put_pair(rtc, 0x5B, high);
    rtc->bytes[0x5D] = (uint8_t)(high >> 16);
    rtc->bytes[0x5F] = (uint8_t)(setup->processors - 1);
    rtc->bytes[0x14] = 0x06; /* equipment: coprocessor, mouse port */
    rtc->bytes[0x38] = 0x01; /* no check of the boot signature of a floppy */
    rtc->bytes[0x3D] = setup->has_disk ? 0x02 : 0x00; /* boot from the first disk */
}

void rtc_cmos_init(struct rtc_cmos *rtc, struct timers *timers, struct irq_router *router,
                   const struct cmos_setup *setup)
{
    memset(rtc, 0, sizeof *rtc);
    rtc->timers = timers;
    rtc->timer = (struct timer){.fire = timer_fired, .context = rtc};
    rtc->irq = (struct irq_source){.router = router, .line = 8};
    rtc->wall_clock = host_wall_clock;
    rtc->bytes[REGISTER_A] = 0x26; /* 32 kHz time base, 1024 Hz */
    rtc->bytes[REGISTER_B] = B_24_HOURS;
    rtc->bytes[REGISTER_D] = D_VALID;
    rtc->flags_since = (uint64_t)guest_seconds(rtc);
    fill_cmos(rtc, setup);
}

int rtc_cmos_attach(struct rtc_cmos *rtc, struct bus *ports)
{
    static const struct bus_ops ops = {port_read, port_write};
    const struct bus_range range = {0x70, 2, &ops, rtc, "RTC and CMOS", 1};
    return bus_add(ports, &range);
}
