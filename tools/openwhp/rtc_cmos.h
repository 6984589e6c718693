/*
 * The MC146818 real-time clock with 128 bytes of CMOS (ports 70, 71), interrupt line 8.
 *
 * The time is the host's UTC plus what the guest has set it off by. Nothing ticks: an interrupt the guest
 * has asked for (periodic, alarm, update ended) arms one timer, and the flags of register C follow from the
 * clock when they are read.
 */
#ifndef OPENWHP_TOOL_RTC_CMOS_H
#define OPENWHP_TOOL_RTC_CMOS_H

#include <stdbool.h>
#include <stdint.h>

#include "bus.h"
#include "irq.h"
#include "timers.h"

struct rtc_cmos {
    uint8_t bytes[128];
    uint8_t index;
    int64_t offset; /* guest time minus host time, seconds */
    struct timers *timers;
    struct timer timer;
    struct irq_source irq;
    uint64_t (*wall_clock)(void); /* ns since 1970; tests put their own here */
    uint64_t periodic_due;        /* of the periodic interrupt, timers' clock */
    uint64_t flags_since;         /* second up to which update flags are given, guest time */
};

/* What firmware reads the machine's size from (RAM below and above 4 GiB in bytes, processors). */
struct cmos_setup {
    uint64_t low_end, high_size;
    unsigned processors;
    bool has_disk;
};

void rtc_cmos_init(struct rtc_cmos *rtc, struct timers *timers, struct irq_router *router,
                   const struct cmos_setup *setup);
int rtc_cmos_attach(struct rtc_cmos *rtc, struct bus *ports);

#endif
