/*
 * The ACPI tables (ACPI 6.4, chapter 5): RSDP, RSDT, XSDT, FADT, FACS, MADT, DSDT.
 *
 * They are built once, relative to their own start, with the list of pointers and checksums that depend on
 * where they come to lie. Either we place them (guests booted without firmware), or firmware does (SeaBIOS
 * follows the same lists, given to it through fw_cfg).
 */
#ifndef OPENWHP_TOOL_ACPI_H
#define OPENWHP_TOOL_ACPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ACPI_MAX_PROCESSORS = 240,
    ACPI_BYTES = 32 * 1024,
    ACPI_MAX_POINTERS = 24,
    ACPI_MAX_CHECKSUMS = 8,
    ACPI_RSDP_BYTES = 36,

    /* Fixed hardware (section 4.8), see acpi_pm.h. */
    ACPI_PM1_EVENT_PORT = 0x600,
    ACPI_PM1_CONTROL_PORT = 0x604,
    ACPI_PM_TIMER_PORT = 0x608,
    ACPI_SLEEP_TYPE_OFF = 5,
    ACPI_SCI_LINE = 9,
};

/* The field at offset (4 or 8 bytes) holds an offset into the tables and becomes an address. */
struct acpi_pointer {
    bool in_rsdp;
    uint32_t offset;
    uint8_t size;
};

/* The byte at offset makes [start, start + length) add up to zero. */
struct acpi_checksum {
    bool in_rsdp;
    uint32_t offset, start, length;
};

struct acpi_tables {
    uint8_t rsdp[ACPI_RSDP_BYTES];
    uint8_t bytes[ACPI_BYTES];
    uint32_t size;
    struct acpi_pointer pointers[ACPI_MAX_POINTERS];
    unsigned pointer_count;
    struct acpi_checksum checksums[ACPI_MAX_CHECKSUMS]; /* in the order they have to be computed */
    unsigned checksum_count;
};

struct acpi_setup {
    unsigned processors; /* local APIC identifiers are 0 to processors - 1 */
    uint8_t ioapic_id;
};

/* -1 with a problem() when there are too many processors. */
int acpi_build(struct acpi_tables *tables, const struct acpi_setup *setup);

/* Makes the tables final for this place in guest memory. */
void acpi_place(struct acpi_tables *tables, uint64_t gpa);

#endif
