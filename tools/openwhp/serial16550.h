/*
 * The 16550A serial port (National PC16550D data sheet) at 3F8, interrupt line 4.
 *
 * Output is never slower than the guest: the transmitter is always empty. Input waits in a queue that is
 * longer than the chip's 16 bytes; who fills it asks for room first. Once the guest has written the modem
 * control register, input is held back while its "request to send" is off, so that what was typed (or
 * piped in) before a system opens the port is not thrown away when it clears the chip.
 */
#ifndef OPENWHP_TOOL_SERIAL16550_H
#define OPENWHP_TOOL_SERIAL16550_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus.h"
#include "irq.h"

enum { SERIAL_QUEUE = 1024 };

struct serial16550 {
    uint8_t ier, lcr, mcr, scratch, fcr;
    uint16_t divisor;
    bool transmit_pending; /* "transmitter empty" has not been acknowledged yet */
    bool flow_control;     /* the guest has written MCR */
    bool loop_full;        /* a byte sent in loop-back mode waits */
    uint8_t loop_byte;
    uint8_t modem_delta;
    uint8_t queue[SERIAL_QUEUE];
    unsigned head, count;
    struct irq_source irq;
    void (*transmit)(void *context, uint8_t byte); /* NULL: nobody listens */
    void (*drained)(void *context);                /* room in the queue again; may be NULL */
    void *context;
};

void serial16550_init(struct serial16550 *serial, struct irq_router *router);
int serial16550_attach(struct serial16550 *serial, struct bus *ports);

/* Room for input, in bytes. */
unsigned serial16550_room(const struct serial16550 *serial);

/* Input from outside; bytes beyond the room are lost. */
void serial16550_receive(struct serial16550 *serial, const uint8_t *bytes, size_t count);

#endif
