/* The table-loader script; see acpi_loader.h. */
#include "acpi_loader.h"

#include <string.h>

#include "bytes.h"

enum {
    COMMAND_ALLOCATE = 1,     /* file 56, alignment 4, zone 1 */
    COMMAND_ADD_POINTER = 2,  /* file 56 that holds it, file 56 it points to, offset 4, size 1 */
    COMMAND_ADD_CHECKSUM = 3, /* file 56, offset 4, start 4, length 4 */
    ZONE_HIGH = 1,
    ZONE_F_SEGMENT = 2, /* where the root pointer is looked for */
    NAME_BYTES = 56,
};

static uint8_t *next_command(struct acpi_loader_script *script, uint32_t command)
{
    uint8_t *at = script->bytes + script->size;
    memset(at, 0, ACPI_LOADER_COMMAND_BYTES);
    put32(at, command);
    script->size += ACPI_LOADER_COMMAND_BYTES;
    return at + 4;
}

static void put_file(uint8_t *at, const char *name) { memcpy(at, name, strlen(name)); }

static void allocate(struct acpi_loader_script *script, const char *name, uint32_t alignment, uint8_t zone)
{
    uint8_t *at = next_command(script, COMMAND_ALLOCATE);
    put_file(at, name);
    put32(at + NAME_BYTES, alignment);
    at[NAME_BYTES + 4] = zone;
}

static const char *file_of(bool in_rsdp)
{
    return in_rsdp ? ACPI_LOADER_RSDP_FILE : ACPI_LOADER_TABLES_FILE;
}

static void add_pointer(struct acpi_loader_script *script, const struct acpi_pointer *pointer)
{
    uint8_t *at = next_command(script, COMMAND_ADD_POINTER);
    put_file(at, file_of(pointer->in_rsdp));
    put_file(at + NAME_BYTES, ACPI_LOADER_TABLES_FILE);
    put32(at + 2 * NAME_BYTES, pointer->offset);
    at[2 * NAME_BYTES + 4] = pointer->size;
}

static void add_checksum(struct acpi_loader_script *script, const struct acpi_checksum *checksum)
{
    uint8_t *at = next_command(script, COMMAND_ADD_CHECKSUM);
    put_file(at, file_of(checksum->in_rsdp));
    put32(at + NAME_BYTES, checksum->offset);
    put32(at + NAME_BYTES + 4, checksum->start);
    put32(at + NAME_BYTES + 8, checksum->length);
}

void acpi_loader_write(struct acpi_loader_script *script, const struct acpi_tables *tables)
{
    script->size = 0;
    allocate(script, ACPI_LOADER_RSDP_FILE, 16, ZONE_F_SEGMENT);
    allocate(script, ACPI_LOADER_TABLES_FILE, 64, ZONE_HIGH);
    for (unsigned i = 0; i < tables->pointer_count; i++)
        add_pointer(script, &tables->pointers[i]);
    for (unsigned i = 0; i < tables->checksum_count; i++)
        add_checksum(script, &tables->checksums[i]);
}
