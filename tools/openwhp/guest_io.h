/*
 * What a processor's access reaches when memory does not serve it: the device, ROM, RAM or nothing at a
 * port or physical address, and the library's instruction emulator that asks for it.
 */
#ifndef OPENWHP_TOOL_GUEST_IO_H
#define OPENWHP_TOOL_GUEST_IO_H

#include "machine.h"

/* Creates the emulator of one processor; -1 with a problem(). */
int guest_io_create(struct processor *processor);
void guest_io_destroy(struct processor *processor);

/* Handle the two exits; on failure the machine is stopped with the reason. */
void guest_io_port(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit);
void guest_io_memory(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit);

#endif
