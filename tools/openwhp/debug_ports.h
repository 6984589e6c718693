/*
 * Two ports that tests and firmware of virtual machines know: the debug exit at F4 (a write of v ends the
 * machine with exit status (v << 1) | 1) and the debug console at E9 and 402 (bytes written come out, reads
 * give E9 so that a guest can find it).
 */
#ifndef OPENWHP_TOOL_DEBUG_PORTS_H
#define OPENWHP_TOOL_DEBUG_PORTS_H

#include <stdint.h>

#include "bus.h"
#include "power.h"

int debug_exit_attach(struct power *power, struct bus *ports);

struct debug_console {
    void (*transmit)(void *context, uint8_t byte);
    void *context;
};

int debug_console_attach(struct debug_console *console, struct bus *ports);

#endif
