/*
 * PCI configuration space by mechanism #1 (ports CF8, CFC; PCI 2.3, section 3.2.2.3.2) and a small bus 0:
 *
 *   00:00.0  host bridge 82441FX (8086:1237), whose PAM registers switch the shadow area
 *   00:01.0  ISA bridge 82371SB (8086:7000)
 *   00:02.0  what the machine adds (the disk)
 *
 * A function's base address register 0 may be an I/O range; the bus dispatches there while the command
 * register allows it. INTA of slot s goes to line 10 or 11, as pci_interrupt_line() says.
 */
#ifndef OPENWHP_TOOL_PCI_H
#define OPENWHP_TOOL_PCI_H

#include <stdbool.h>
#include <stdint.h>

#include "bus.h"

enum {
    PCI_SLOTS = 8,
    PCI_CONFIG_BYTES = 256,
    PCI_VENDOR = 0x00,
    PCI_DEVICE = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_CLASS = 0x0A, /* subclass, class */
    PCI_HEADER_TYPE = 0x0E,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR = 0x2C,
    PCI_SUBSYSTEM = 0x2E,
    PCI_INTERRUPT_LINE = 0x3C,
    PCI_INTERRUPT_PIN = 0x3D,
    PCI_COMMAND_IO = 0x1,
    PCI_COMMAND_MASTER = 0x4,
    PCI_COMMAND_NO_INTX = 0x400,
    PCI_STATUS_INTERRUPT = 0x8,
};

struct pci_function {
    uint8_t config[PCI_CONFIG_BYTES];
    uint8_t writable[PCI_CONFIG_BYTES]; /* bits a guest may change */
    /* I/O range of BAR 0; io.size 0: none. first is kept by pci.c. */
    struct bus_range io;
    bool io_mapped;
    /* Called after a store into [offset, offset + 1); may be NULL. */
    void (*config_written)(void *device, unsigned offset);
    void *device;
};

struct pci_bus {
    struct pci_function *slots[PCI_SLOTS];
    struct pci_function host_bridge, isa_bridge;
    struct bus *ports;
    uint32_t address; /* CF8 */
    void (*shadow_changed)(void *context);
    void (*reset)(void *context); /* port CF9 */
    void *context;
    uint8_t reset_control;
};

/* The interrupt line of INTA of a slot. */
uint8_t pci_interrupt_line(unsigned slot);

/* Both callbacks may be NULL. */
void pci_init(struct pci_bus *pci, void (*shadow_changed)(void *), void (*reset)(void *), void *context);
int pci_attach(struct pci_bus *pci, struct bus *ports);

/* Fills the identity of a function and makes command and interrupt line writable. */
void pci_function_init(struct pci_function *function, uint16_t vendor, uint16_t device,
                       uint16_t class_code);

/* Puts a function into a slot; its I/O BAR starts at the given port (0: the guest's firmware places it). */
void pci_plug(struct pci_bus *pci, unsigned slot, struct pci_function *function, uint16_t port);

/*
 * What the PAM registers say about the 16 KiB piece of C0000-FFFFF (440FX data sheet, 290549, section
 * 3.2.13): whether reads come from RAM and whether stores go to RAM.
 */
void pci_shadow_state(const struct pci_bus *pci, unsigned piece, bool *readable, bool *writable);

/*
 * Sets all PAM registers so that [C0000, 100000) is RAM that reads but does not store: for guests without firmware,
 * which look there for tables and option ROMs.
 */
void pci_shadow_tables(struct pci_bus *pci);

#endif
