/*
 * Writes ACPI Machine Language (ACPI 6.4, chapter 20): just the objects the machine's DSDT is made of.
 *
 * What begins must end, in order: aml_begin_device(...) ... aml_end(). Lengths are patched at the end. A
 * full buffer sets overflow and drops the rest.
 */
#ifndef OPENWHP_TOOL_AML_H
#define OPENWHP_TOOL_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { AML_DEPTH = 8 };

struct aml {
    uint8_t *bytes; /* the caller's */
    size_t size, capacity;
    size_t open[AML_DEPTH]; /* where the length of each open object goes */
    unsigned depth;
    bool overflow;
};

void aml_init(struct aml *aml, uint8_t *bytes, size_t capacity);

/* Names are four characters, for a scope also with a leading backslash. */
void aml_begin_scope(struct aml *aml, const char *name);
void aml_begin_device(struct aml *aml, const char *name);
void aml_begin_package(struct aml *aml, unsigned elements);
void aml_end(struct aml *aml);

/* "Name (name, ...)": the object follows. */
void aml_name(struct aml *aml, const char *name);
void aml_integer(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *text);

/* A compressed EISA identifier such as "PNP0501". */
void aml_eisa_id(struct aml *aml, const char *id);

/* Resource template (chapter 6.4): begin, descriptors, end. */
void aml_begin_resources(struct aml *aml);
void aml_io(struct aml *aml, uint16_t first, uint8_t size);
void aml_irq(struct aml *aml, uint8_t line);
void aml_bus_range(struct aml *aml, uint16_t first, uint16_t last);
void aml_io_window(struct aml *aml, uint16_t first, uint16_t last);
void aml_memory_window(struct aml *aml, uint32_t first, uint32_t last);
void aml_end_resources(struct aml *aml);

#endif
