/*
 * The 8254 interval timer (Intel 8254 data sheet, 231164): three counters at 1.193182 MHz, ports 40-43,
 * and the system control port 61 that gates counter 2 and shows its output.
 *
 * Counters hold no ticking state: each keeps the time of its start, and count and output follow from the
 * clock. Only counter 0, which drives interrupt line 0, arms a timer.
 */
#ifndef OPENWHP_TOOL_PIT8254_H
#define OPENWHP_TOOL_PIT8254_H

#include <stdbool.h>
#include <stdint.h>

#include "bus.h"
#include "irq.h"
#include "timers.h"

#define PIT_FREQUENCY UINT64_C(1193182)

struct pit_counter {
    uint32_t reload;  /* 1 to 65536 (a written 0) */
    uint64_t started; /* time of the start, ns */
    uint8_t mode;     /* 0 to 5 */
    uint8_t access;   /* 1 low byte, 2 high byte, 3 low then high */
    bool bcd, gate;
    bool loaded;          /* a count has been written since the mode was */
    bool triggered;       /* modes 1 and 5: the gate has risen since */
    bool write_high_next; /* access 3: the low byte is in write_low */
    uint8_t write_low;
    bool read_high_next;
    uint8_t latched_bytes; /* bytes of a latched count still to be read */
    uint16_t latched_count;
    bool status_latched;
    uint8_t status;
};

struct pit8254 {
    struct pit_counter counters[3];
    bool speaker;
    struct timers *timers;
    struct timer timer;
    struct irq_source irq;
};

void pit8254_init(struct pit8254 *pit, struct timers *timers, struct irq_router *router);
int pit8254_attach(struct pit8254 *pit, struct bus *ports);

#endif
