/*
 * The rows of a memory map: what is mapped and which devices answer, merged in order of addresses.
 */
#ifndef OPENWHP_TOOL_MEMORY_PICTURE_H
#define OPENWHP_TOOL_MEMORY_PICTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "machine.h"

struct memory_row {
    uint64_t gpa, size;
    const char *name;   /* "RAM", "ROM", or the device's */
    const char *kind;   /* "ram", "rom", "device" */
    const char *access; /* "rwx", "r-x", "mmio" */
    bool counted;       /* dirty pages are known */
    uint64_t dirty_pages;
};

enum { MEMORY_ROWS = GUEST_MAP_MAX_RANGES + BUS_MAX_RANGES + 1 };

/* Fills the rows; returns how many. */
unsigned memory_picture_rows(const struct machine *machine, struct memory_row rows[MEMORY_ROWS]);

#endif
