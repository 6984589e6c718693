/*
 * The I/O APIC (82093AA data sheet, 290566) with 24 pins at FEC00000.
 *
 * A level-triggered entry sends its message once, remembers that (remote IRR) and sends it again when the
 * end of interrupt comes back from the local APIC while the pin is still up.
 */
#ifndef OPENWHP_TOOL_IOAPIC_H
#define OPENWHP_TOOL_IOAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "bus.h"
#include "irq.h"

#define IOAPIC_GPA UINT64_C(0xFEC00000)

enum { IOAPIC_PINS = 24 };

struct ioapic {
    uint64_t entries[IOAPIC_PINS]; /* redirection table */
    uint32_t lines;                /* levels of the pins */
    uint32_t latched;              /* edges that came while their entry was masked */
    uint8_t select, id;
    const struct interrupt_sink *sink;
};

void ioapic_init(struct ioapic *ioapic, uint8_t id, const struct interrupt_sink *sink);
int ioapic_attach(struct ioapic *ioapic, struct bus *mmio);

void ioapic_set_pin(struct ioapic *ioapic, unsigned pin, bool level);

/* A local APIC has ended a level-triggered interrupt with this vector. */
void ioapic_end_of_interrupt(struct ioapic *ioapic, uint8_t vector);

#endif
