/* The ACPI tables; see acpi.h. Field offsets are those of ACPI 6.4, chapter 5. */
#include "acpi.h"

#include <stdio.h>
#include <string.h>

#include "aml.h"
#include "bytes.h"
#include "ioapic.h"
#include "pci.h"
#include "problem.h"

enum {
    HEADER_BYTES = 36,
    HEADER_LENGTH = 4,
    HEADER_CHECKSUM = 9,
    FADT_BYTES = 244, /* revision 3 */
    FACS_BYTES = 64,
    MADT_FIXED_BYTES = 44,
    RSDT_TABLES = 2, /* FADT, MADT */
};

static void add_pointer(struct acpi_tables *tables, bool in_rsdp, size_t offset, uint8_t size,
                        uint32_t target)
{
    uint8_t *field = (in_rsdp ? tables->rsdp : tables->bytes) + offset;
    if (size == 4)
        put32(field, target);
    else
        put64(field, target);
    tables->pointers[tables->pointer_count++] = (struct acpi_pointer){in_rsdp, (uint32_t)offset, size};
}

static void add_checksum(struct acpi_tables *tables, bool in_rsdp, size_t offset, size_t start,
                         size_t length)
{
    tables->checksums[tables->checksum_count++] =
        (struct acpi_checksum){in_rsdp, (uint32_t)offset, (uint32_t)start, (uint32_t)length};
}

/* Room for a table, 64-byte aligned; returns its offset. The bytes are zero. */
static uint32_t reserve(struct acpi_tables *tables, uint32_t length)
{
    uint32_t at = (uint32_t)align_up(tables->size, 64);
    tables->size = at + length;
    return at;
}

/* Header of a system description table (section 5.2.6). */
static void header(struct acpi_tables *tables, uint32_t at, const char *signature, uint8_t revision,
                   uint32_t length)
{
    uint8_t *table = tables->bytes + at;
    memcpy(table, signature, 4);
    put32(table + HEADER_LENGTH, length);
    table[8] = revision;
    memcpy(table + 10, "OPNWHP", 6);
    memcpy(table + 16, "OWHPMACH", 8);
    put32(table + 24, 1);
    memcpy(table + 28, "OWHP", 4);
    put32(table + 32, 1);
    add_checksum(tables, false, at + HEADER_CHECKSUM, at, length);
}

/* Interrupts of the PCI functions: each slot's INTA is wired to one ISA line. */
static void interrupt_routing(struct aml *aml)
{
    aml_name(aml, "_PRT");
    aml_begin_package(aml, PCI_SLOTS - 1);
    for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
        aml_begin_package(aml, 4);
        aml_integer(aml, slot << 16 | 0xffff);
        aml_integer(aml, 0); /* INTA */
        aml_integer(aml, 0); /* no link device: the next is a line */
        aml_integer(aml, pci_interrupt_line(slot));
        aml_end(aml);
    }
    aml_end(aml);
}

static void bridge_windows(struct aml *aml)
{
    aml_name(aml, "_CRS");
    aml_begin_resources(aml);
    aml_bus_range(aml, 0, 0xff);
    aml_io(aml, 0xCF8, 8);
    aml_io_window(aml, 0x0000, 0x0CF7);
    aml_io_window(aml, 0x0D00, 0xFFFF);
    aml_memory_window(aml, 0x000A0000, 0x000BFFFF);
    aml_memory_window(aml, 0xE0000000, 0xFEBFFFFF);
    aml_end_resources(aml);
}

struct isa_device {
    const char *name, *id;
    uint16_t port;
    uint8_t ports;
    uint16_t second_port; /* 0: none */
    uint8_t line;
};

static void isa_devices(struct aml *aml)
{
    static const struct isa_device devices[] = {
        {"COM1", "PNP0501", 0x3F8, 8, 0, 4},
        {"RTC_", "PNP0B00", 0x70, 2, 0, 8},
        {"KBD_", "PNP0303", 0x60, 1, 0x64, 1},
        {"TIMR", "PNP0100", 0x40, 4, 0, 0},
    };
    for (unsigned i = 0; i < sizeof devices / sizeof devices[0]; i++) {
        const struct isa_device *device = &devices[i];
        aml_begin_device(aml, device->name);
        aml_name(aml, "_HID");
        aml_eisa_id(aml, device->id);
        aml_name(aml, "_CRS");
        aml_begin_resources(aml);
        aml_io(aml, device->port, device->ports);
        if (device->second_port != 0)
            aml_io(aml, device->second_port, 1);
        aml_irq(aml, device->line);
        aml_end_resources(aml);
        aml_end(aml);
    }
}

static void processor_devices(struct aml *aml, unsigned processors)
{
    for (unsigned i = 0; i < processors; i++) {
        char name[5];
        snprintf(name, sizeof name, "C%03X", i & 0xfff);
        aml_begin_device(aml, name);
        aml_name(aml, "_HID");
        aml_string(aml, "ACPI0007");
        aml_name(aml, "_UID");
        aml_integer(aml, i);
        aml_end(aml);
    }
}

static void definitions(struct aml *aml, unsigned processors)
{
    aml_begin_scope(aml, "\\_SB_");
    processor_devices(aml, processors);
    aml_begin_device(aml, "PCI0");
    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0A03");
    aml_name(aml, "_UID");
    aml_integer(aml, 0);
    bridge_windows(aml);
    interrupt_routing(aml);
    aml_begin_device(aml, "ISA_");
    aml_name(aml, "_ADR");
    aml_integer(aml, 0x00010000);
    isa_devices(aml);
    aml_end(aml);
    aml_end(aml);
    aml_end(aml);
    /* What to put into SLP_TYP to switch off (section 7.4.2.6). */
    aml_name(aml, "\\_S5_");
    aml_begin_package(aml, 4);
    aml_integer(aml, ACPI_SLEEP_TYPE_OFF);
    aml_integer(aml, ACPI_SLEEP_TYPE_OFF);
    aml_integer(aml, 0);
    aml_integer(aml, 0);
    aml_end(aml);
}

static uint32_t build_dsdt(struct acpi_tables *tables, unsigned processors, bool *overflow)
{
    uint32_t at = reserve(tables, HEADER_BYTES);
    struct aml aml;
    aml_init(&aml, tables->bytes + tables->size, ACPI_BYTES / 2);
    definitions(&aml, processors);
    *overflow = aml.overflow || aml.depth != 0;
    tables->size += (uint32_t)aml.size;
    header(tables, at, "DSDT", 2, tables->size - at);
    return at;
}

static uint32_t build_facs(struct acpi_tables *tables)
{
    uint32_t at = reserve(tables, FACS_BYTES);
    memcpy(tables->bytes + at, "FACS", 4);
    put32(tables->bytes + at + HEADER_LENGTH, FACS_BYTES);
    tables->bytes[at + 32] = 1;
    return at;
}

/* Generic address structure (section 5.2.3.2) of an I/O port. */
static void port_address(uint8_t *field, uint8_t bits, uint64_t port)
{
    field[0] = 1;
    field[1] = bits;
    field[3] = bits == 8 ? 1 : bits == 16 ? 2 : 3;
    put64(field + 4, port);
}

static uint32_t build_fadt(struct acpi_tables *tables, uint32_t facs, uint32_t dsdt)
{
    uint32_t at = reserve(tables, FADT_BYTES);
    uint8_t *fadt = tables->bytes + at;
    header(tables, at, "FACP", 3, FADT_BYTES);
    add_pointer(tables, false, at + 36, 4, facs);
    add_pointer(tables, false, at + 40, 4, dsdt);
    put16(fadt + 46, ACPI_SCI_LINE);
    put32(fadt + 56, ACPI_PM1_EVENT_PORT);
    put32(fadt + 64, ACPI_PM1_CONTROL_PORT);
    put32(fadt + 76, ACPI_PM_TIMER_PORT);
    fadt[88] = 4;            /* length of the event block */
    fadt[89] = 2;            /* of the control block */
    fadt[91] = 4;            /* of the timer block */
    put16(fadt + 96, 0xffff); /* no C2, no C3 */
    put16(fadt + 98, 0xffff);
    fadt[108] = 0x32;        /* century byte of the CMOS */
    put16(fadt + 109, 0x07); /* legacy devices, 8042, no VGA */
    /* WBINVD works, C1 everywhere, no buttons, 32-bit timer, reset register. */
    put32(fadt + 112, 0x01 | 0x04 | 0x10 | 0x20 | 0x100 | 0x400);
    port_address(fadt + 116, 8, 0xCF9);
    fadt[128] = 0x06;
    add_pointer(tables, false, at + 140, 8, dsdt);
    port_address(fadt + 148, 32, ACPI_PM1_EVENT_PORT);
    port_address(fadt + 172, 16, ACPI_PM1_CONTROL_PORT);
    port_address(fadt + 208, 32, ACPI_PM_TIMER_PORT);
    return at;
}

static uint8_t *source_override(uint8_t *entry, uint8_t line, uint32_t pin, uint16_t flags)
{
    entry[0] = 2;
    entry[1] = 10;
    entry[3] = line;
    put32(entry + 4, pin);
    put16(entry + 8, flags);
    return entry + 10;
}

/* Interrupt controllers (section 5.2.12). */
static uint32_t build_madt(struct acpi_tables *tables, const struct acpi_setup *setup)
{
    enum { ACTIVE_HIGH_LEVEL = 0x0D };
    uint32_t length = MADT_FIXED_BYTES + 8 * setup->processors + 12 + 4 * 10 + 6;
    uint32_t at = reserve(tables, length);
    uint8_t *entry = tables->bytes + at + MADT_FIXED_BYTES;
    put32(tables->bytes + at + 36, 0xFEE00000);
    put32(tables->bytes + at + 40, 1); /* two 8259s are there as well */
    for (unsigned i = 0; i < setup->processors; i++, entry += 8) {
        entry[1] = 8;
        entry[2] = entry[3] = (uint8_t)i;
        put32(entry + 4, 1); /* enabled */
    }
    entry[0] = 1;
    entry[1] = 12;
    entry[2] = setup->ioapic_id;
    put32(entry + 4, (uint32_t)IOAPIC_GPA);
    entry = source_override(entry + 12, 0, 2, 0);
    entry = source_override(entry, ACPI_SCI_LINE, ACPI_SCI_LINE, ACTIVE_HIGH_LEVEL);
    entry = source_override(entry, 10, 10, ACTIVE_HIGH_LEVEL);
    entry = source_override(entry, 11, 11, ACTIVE_HIGH_LEVEL);
    entry[0] = 4; /* NMI of every processor at LINT1 */
    entry[1] = 6;
    entry[2] = 0xff;
    entry[5] = 1;
    header(tables, at, "APIC", 3, length);
    return at;
}

static uint32_t build_root(struct acpi_tables *tables, const char *signature, uint8_t pointer_size,
                           const uint32_t targets[RSDT_TABLES])
{
    uint32_t length = HEADER_BYTES + (uint32_t)RSDT_TABLES * pointer_size;
    uint32_t at = reserve(tables, length);
    for (unsigned i = 0; i < RSDT_TABLES; i++)
        add_pointer(tables, false, at + HEADER_BYTES + i * pointer_size, pointer_size, targets[i]);
    header(tables, at, signature, 1, length);
    return at;
}

/* Root pointer (section 5.2.5.3): the first checksum covers the fields of ACPI 1.0. */
static void build_rsdp(struct acpi_tables *tables, uint32_t rsdt, uint32_t xsdt)
{
    uint8_t *rsdp = tables->rsdp;
    memcpy(rsdp, "RSD PTR ", 8);
    memcpy(rsdp + 9, "OPNWHP", 6);
    rsdp[15] = 2;
    put32(rsdp + 20, ACPI_RSDP_BYTES);
    add_pointer(tables, true, 16, 4, rsdt);
    add_pointer(tables, true, 24, 8, xsdt);
    add_checksum(tables, true, 8, 0, 20);
    add_checksum(tables, true, 32, 0, ACPI_RSDP_BYTES);
}

int acpi_build(struct acpi_tables *tables, const struct acpi_setup *setup)
{
    bool overflow;
    memset(tables, 0, sizeof *tables);
    if (setup->processors == 0 || setup->processors > ACPI_MAX_PROCESSORS)
        return problem("%u processors are not possible; give --cpus a number from 1 to %d",
                       setup->processors, ACPI_MAX_PROCESSORS);
    uint32_t dsdt = build_dsdt(tables, setup->processors, &overflow);
    if (overflow)
        return problem("the ACPI tables do not fit for %u processors; give --cpus a smaller number",
                       setup->processors);
    uint32_t facs = build_facs(tables);
    uint32_t targets[RSDT_TABLES] = {build_fadt(tables, facs, dsdt), build_madt(tables, setup)};
    uint32_t rsdt = build_root(tables, "RSDT", 4, targets);
    uint32_t xsdt = build_root(tables, "XSDT", 8, targets);
    build_rsdp(tables, rsdt, xsdt);
    return 0;
}

static void relocate(struct acpi_tables *tables, const struct acpi_pointer *pointer, uint64_t gpa)
{
    uint8_t *field = (pointer->in_rsdp ? tables->rsdp : tables->bytes) + pointer->offset;
    if (pointer->size == 4)
        put32(field, get32(field) + (uint32_t)gpa);
    else
        put64(field, get64(field) + gpa);
}

void acpi_place(struct acpi_tables *tables, uint64_t gpa)
{
    for (unsigned i = 0; i < tables->pointer_count; i++)
        relocate(tables, &tables->pointers[i], gpa);
    for (unsigned i = 0; i < tables->checksum_count; i++) {
        const struct acpi_checksum *checksum = &tables->checksums[i];
        uint8_t *base = checksum->in_rsdp ? tables->rsdp : tables->bytes, sum = 0;
        base[checksum->offset] = 0;
        for (uint32_t byte = 0; byte < checksum->length; byte++)
            sum = (uint8_t)(sum + base[checksum->start + byte]);
        base[checksum->offset] = (uint8_t)-sum;
    }
}
