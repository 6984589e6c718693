/* PCI configuration space; see pci.h. */
#include "pci.h"

#include <string.h>

#include "bytes.h"

enum {
    PORT_ADDRESS = 0xCF8,
    PORT_RESET = 0xCF9,
    PORT_DATA = 0xCFC,
    HOST_BRIDGE_PAM0 = 0x59,
    HOST_BRIDGE_PAM6 = 0x5F,
    PAM_READ = 1,
    PAM_WRITE = 2,
    BAR_IO = 1,
    RESET_CPU = 0x04,
};

#define ADDRESS_ENABLE UINT32_C(0x80000000)

uint8_t pci_interrupt_line(unsigned slot)
{
    /* The wiring PC firmware expects of a 440FX board: PIRQ (slot + pin - 1) & 3 is 10, 10, 11, 11. */
    static const uint8_t lines[4] = {10, 10, 11, 11};
    return lines[(slot - 1) & 3];
}

/* Moves BAR 0's range to where the registers say it is, or takes it off the bus. */
static void update_io(struct pci_bus *pci, struct pci_function *function)
{
    if (function->io.size == 0)
        return;
    uint32_t base = get32(function->config + PCI_BAR0) & ~UINT32_C(3);
    bool wanted = (get16(function->config + PCI_COMMAND) & PCI_COMMAND_IO) && base != 0 &&
                  base + function->io.size <= 0x10000;
    if (function->io_mapped && wanted && function->io.first == base)
        return;
    if (function->io_mapped)
        bus_remove(pci->ports, function->io.first, function->io.device);
    function->io.first = base;
    /* A BAR laid over another device decodes nothing: firmware moves it on. */
    function->io_mapped = wanted && bus_add_quietly(pci->ports, &function->io);
}

static struct pci_function *addressed(const struct pci_bus *pci)
{
    unsigned bus = (pci->address >> 16) & 0xff, slot = (pci->address >> 11) & 31;
    unsigned function = (pci->address >> 8) & 7;
    if (!(pci->address & ADDRESS_ENABLE) || bus != 0 || function != 0 || slot >= PCI_SLOTS)
        return NULL;
    return pci->slots[slot];
}

static void config_write_byte(struct pci_bus *pci, struct pci_function *function, unsigned offset,
                              uint8_t value)
{
    uint8_t mask = function->writable[offset];
    function->config[offset] = (uint8_t)((function->config[offset] & ~mask) | (value & mask));
    if (function->config_written != NULL)
        function->config_written(function->device, offset);
    if (function == &pci->host_bridge && offset >= HOST_BRIDGE_PAM0 && offset <= HOST_BRIDGE_PAM6 &&
        pci->shadow_changed != NULL)
        pci->shadow_changed(pci->context);
}

static uint64_t data_read(void *device, uint64_t offset, unsigned size)
{
    const struct pci_bus *pci = device;
    const struct pci_function *function = addressed(pci);
    unsigned at = (pci->address & 0xfc) + (unsigned)offset;
    uint64_t value = UINT64_MAX;
    if (function != NULL && at + size <= PCI_CONFIG_BYTES)
        memcpy(&value, function->config + at, size);
    return value;
}

static void data_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_bus *pci = device;
    struct pci_function *function = addressed(pci);
    unsigned at = (pci->address & 0xfc) + (unsigned)offset;
    if (function == NULL || at + size > PCI_CONFIG_BYTES)
        return;
    for (unsigned i = 0; i < size; i++)
        config_write_byte(pci, function, at + i, (uint8_t)(value >> (8 * i)));
    update_io(pci, function);
}

/* Only whole double words reach CF8; a byte at CF9 is the reset register of the ISA bridge. */
static uint64_t address_read(void *device, uint64_t offset, unsigned size)
{
    const struct pci_bus *pci = device;
    if (offset == 0 && size == 4)
        return pci->address;
    return offset == PORT_RESET - PORT_ADDRESS && size == 1 ? pci->reset_control : UINT64_MAX;
}

static void address_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_bus *pci = device;
    if (offset == 0 && size == 4) {
        pci->address = (uint32_t)value;
    } else if (offset == PORT_RESET - PORT_ADDRESS && size == 1) {
        bool rising = (value & RESET_CPU) && !(pci->reset_control & RESET_CPU);
        pci->reset_control = value & 0x0e;
        if (rising && pci->reset != NULL)
            pci->reset(pci->context);
    }
}

void pci_function_init(struct pci_function *function, uint16_t vendor, uint16_t device,
                       uint16_t class_code)
{
    memset(function, 0, sizeof *function);
    put16(function->config + PCI_VENDOR, vendor);
    put16(function->config + PCI_DEVICE, device);
    put16(function->config + PCI_CLASS, class_code);
    put16(function->writable + PCI_COMMAND, 0x0547);
    function->writable[PCI_INTERRUPT_LINE] = 0xff;
}

void pci_plug(struct pci_bus *pci, unsigned slot, struct pci_function *function, uint16_t port)
{
    pci->slots[slot] = function;
    if (function->config[PCI_INTERRUPT_PIN] != 0)
        function->config[PCI_INTERRUPT_LINE] = pci_interrupt_line(slot);
    if (function->io.size == 0)
        return;
    /* The size is a power of two: its address bits are the writable ones (PCI 2.3, section 6.2.5.1). All 32
     * of them, although ports have 16: firmware computes the size in 32 bits. */
    put32(function->writable + PCI_BAR0, ~(uint32_t)(function->io.size - 1));
    put32(function->config + PCI_BAR0, (uint32_t)port | BAR_IO);
    if (port != 0)
        put16(function->config + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MASTER);
    update_io(pci, function);
}

/* C0000 to EFFFF: two pieces a register from PAM1 on; F0000 to FFFFF: the high half of PAM0. */
static unsigned pam_bits(const struct pci_bus *pci, unsigned piece)
{
    const uint8_t *pam = &pci->host_bridge.config[HOST_BRIDGE_PAM0];
    if (piece >= 12)
        return (unsigned)pam[0] >> 4;
    return (unsigned)pam[1 + piece / 2] >> (piece % 2 * 4);
}

void pci_shadow_state(const struct pci_bus *pci, unsigned piece, bool *readable, bool *writable)
{
    unsigned bits = pam_bits(pci, piece);
    *readable = bits & PAM_READ;
    *writable = bits & PAM_WRITE;
}

void pci_shadow_tables(struct pci_bus *pci)
{
    uint8_t *pam = &pci->host_bridge.config[HOST_BRIDGE_PAM0];
    memset(pam, PAM_READ << 4 | PAM_READ, 7);
    pam[0] = PAM_READ << 4;
}

void pci_init(struct pci_bus *pci, void (*shadow_changed)(void *), void (*reset)(void *), void *context)
{
    memset(pci, 0, sizeof *pci);
    pci->shadow_changed = shadow_changed;
    pci->reset = reset;
    pci->context = context;
    pci_function_init(&pci->host_bridge, 0x8086, 0x1237, 0x0600);
    pci->host_bridge.config[PCI_REVISION] = 0x02;
    /* The subsystem by which firmware knows that it runs in a virtual machine with fw_cfg. */
    put16(pci->host_bridge.config + PCI_SUBSYSTEM_VENDOR, 0x1AF4);
    put16(pci->host_bridge.config + PCI_SUBSYSTEM, 0x1100);
    memset(pci->host_bridge.writable + HOST_BRIDGE_PAM0, 0x33, 7);
    pci->host_bridge.writable[HOST_BRIDGE_PAM0] = 0x30;
    pci->host_bridge.writable[0x72] = 0xff; /* SMRAM control: stored, there is no SMM */
    pci_function_init(&pci->isa_bridge, 0x8086, 0x7000, 0x0601);
    put32(pci->isa_bridge.config + 0x60, 0x80808080);
    put32(pci->isa_bridge.writable + 0x60, 0x8f8f8f8f); /* PIRQ routing: stored, the wiring is fixed */
    pci_plug(pci, 0, &pci->host_bridge, 0);
    pci_plug(pci, 1, &pci->isa_bridge, 0);
}

int pci_attach(struct pci_bus *pci, struct bus *ports)
{
    static const struct bus_ops address = {address_read, address_write};
    static const struct bus_ops data = {data_read, data_write};
    const struct bus_range ranges[] = {
        {PORT_ADDRESS, 4, &address, pci, "PCI address", 0},
        {PORT_DATA, 4, &data, pci, "PCI data", 0},
    };
    pci->ports = ports;
    for (unsigned i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (bus_add(ports, &ranges[i]) != 0)
            return -1;
    return 0;
}
