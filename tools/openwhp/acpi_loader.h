/*
 * The script by which firmware places the ACPI tables itself: commands of 128 bytes that allocate the two
 * files, add their addresses to the pointers and compute the checksums (QEMU's table-loader interface, as
 * SeaBIOS's romfile_loader carries it out).
 */
#ifndef OPENWHP_TOOL_ACPI_LOADER_H
#define OPENWHP_TOOL_ACPI_LOADER_H

#include <stddef.h>
#include <stdint.h>

#include "acpi.h"

#define ACPI_LOADER_RSDP_FILE   "etc/acpi/rsdp"
#define ACPI_LOADER_TABLES_FILE "etc/acpi/tables"

enum {
    ACPI_LOADER_COMMAND_BYTES = 128,
    ACPI_LOADER_COMMANDS = 2 + ACPI_MAX_POINTERS + ACPI_MAX_CHECKSUMS,
};

struct acpi_loader_script {
    uint8_t bytes[ACPI_LOADER_COMMANDS * ACPI_LOADER_COMMAND_BYTES];
    size_t size;
};

void acpi_loader_write(struct acpi_loader_script *script, const struct acpi_tables *tables);

#endif
