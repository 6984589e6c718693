/*
 * Interrupt lines of the machine: a device raises a line; both 8259s and the IOAPIC see it.
 *
 * Lines 0 to 15 are the ISA lines (line 0, the timer, is pin 2 of the IOAPIC, as the MADT says). Where an
 * interrupt finally goes is the business of the sink, so that the devices know no hypervisor.
 */
#ifndef OPENWHP_TOOL_IRQ_H
#define OPENWHP_TOOL_IRQ_H

#include <stdbool.h>
#include <stdint.h>

enum { IRQ_LINES = 16 };

/* A message of the IOAPIC to the local APICs (82093AA, redirection table entry). */
struct interrupt_message {
    uint8_t vector;
    uint8_t delivery_mode; /* 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 7 ExtINT */
    uint8_t destination;
    bool logical;
    bool level;
};

struct interrupt_sink {
    void (*message)(void *context, const struct interrupt_message *message);
    void (*pic_output)(void *context, bool asserted); /* INTR of the master 8259 changed */
    void *context;
};

struct pic8259;
struct ioapic;

struct irq_router {
    struct pic8259 *pic;
    struct ioapic *ioapic;
    /* How many sources hold a line up: PCI functions share theirs. */
    uint8_t sources[IRQ_LINES];
};

/* One source of one line; it remembers its own level. */
struct irq_source {
    struct irq_router *router;
    uint8_t line;
    bool raised;
};

void irq_set(struct irq_source *source, bool raised);

/* An edge: up and down again. */
void irq_pulse(struct irq_source *source);

#endif
