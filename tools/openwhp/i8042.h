/*
 * The 8042 keyboard controller of a PC (ports 60, 64), as far as firmware and systems probe it: self test,
 * command byte, output port with the A20 gate, the reset line, a keyboard that answers its commands (and has
 * no keys) and no mouse. Port 92 is the fast way to A20 and reset.
 *
 * The A20 gate is a stored bit: addresses are never cut, as on machines of today.
 */
#ifndef OPENWHP_TOOL_I8042_H
#define OPENWHP_TOOL_I8042_H

#include <stdbool.h>
#include <stdint.h>

#include "bus.h"
#include "irq.h"

enum { I8042_QUEUE = 16 };

struct i8042 {
    uint8_t command_byte, output_port;
    uint8_t pending_command; /* controller command that waits for its data byte, 0 none */
    uint8_t keyboard_command; /* keyboard command that waits for its data byte, 0 none */
    uint8_t queue[I8042_QUEUE];
    bool from_aux[I8042_QUEUE];
    unsigned head, count;
    uint8_t ram[32];
    struct irq_source keyboard_irq, mouse_irq;
    void (*reset)(void *context);
    void *context;
};

void i8042_init(struct i8042 *controller, struct irq_router *router, void (*reset)(void *context),
                void *context);
int i8042_attach(struct i8042 *controller, struct bus *ports);

#endif
