/* One thread per processor: runs it, and does what its exits ask for, until the machine stops. */
#ifndef OPENWHP_TOOL_RUN_LOOP_H
#define OPENWHP_TOOL_RUN_LOOP_H

#include "machine.h"

/* Starts the thread of a processor, with the machine lock held; -1 with a problem(). */
int run_loop_start(struct processor *processor);

/* Waits for it to end; the machine has been stopped. */
void run_loop_join(struct processor *processor);

/* Brings all processors out of their runs; any thread, any number of times. */
void run_loop_cancel_all(struct machine *machine);

#endif
