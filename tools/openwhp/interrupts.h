/*
 * From the interrupt controllers to the processors.
 *
 * Messages of the IOAPIC go to the local APICs, which the platform emulates, by WHvRequestInterrupt. The
 * 8259s' INTR goes to LINT0 of processor 0: when it is up, the processor is brought out of its run, asked to exit
 * when it could take an external interrupt (DeliverabilityNotifications), and then given the vector as a
 * pending ExtInt event; the 8259 is acknowledged at that moment and not before.
 */
#ifndef OPENWHP_TOOL_INTERRUPTS_H
#define OPENWHP_TOOL_INTERRUPTS_H

#include "machine.h"

/* Sets machine->interrupts, the sink of both controllers. */
void interrupts_init(struct machine *machine);

/* Before each run of processor 0, on its thread. */
void interrupts_before_run(struct processor *processor);

/* The exit X64InterruptWindow: gives the processor the 8259s' vector. */
void interrupts_window(struct processor *processor);

#endif
