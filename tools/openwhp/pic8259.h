/*
 * The two cascaded 8259A interrupt controllers of a PC (Intel 8259A data sheet, 231468) with the
 * edge/level registers at 4D0/4D1 (82371SB data sheet, section 2.5.4).
 *
 * Ports 20, 21 (master, lines 0-7), A0, A1 (slave, lines 8-15 behind the master's line 2).
 */
#ifndef OPENWHP_TOOL_PIC8259_H
#define OPENWHP_TOOL_PIC8259_H

#include <stdbool.h>
#include <stdint.h>

#include "bus.h"
#include "irq.h"

struct pic8259_chip {
    uint8_t irr, imr, isr; /* request, mask, in service */
    uint8_t lines;         /* levels of the inputs */
    uint8_t elcr;          /* 1: level triggered */
    uint8_t vector_base;   /* ICW2 */
    uint8_t lowest;        /* line of the lowest priority (7 after ICW1) */
    uint8_t init_step;     /* next ICW to come: 0 none, 2, 3, 4 */
    bool needs_icw4, single, auto_eoi, rotate_on_auto_eoi, special_mask, special_nested;
    bool read_isr, poll;
};

struct pic8259 {
    struct pic8259_chip master, slave;
    const struct interrupt_sink *sink;
    bool output;
};

void pic8259_init(struct pic8259 *pic, const struct interrupt_sink *sink);
int pic8259_attach(struct pic8259 *pic, struct bus *ports);

/* line 0 to 15 (2 is the cascade and ignored). */
void pic8259_set_line(struct pic8259 *pic, unsigned line, bool level);

/* The processor's acknowledge cycle: the vector to deliver, or -1 when nothing is asserted. */
int pic8259_acknowledge(struct pic8259 *pic);

#endif
