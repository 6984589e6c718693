/* The rows of a memory map; see memory_picture.h. */
#include "memory_picture.h"

#include <stdlib.h>

static int by_address(const void *left, const void *right)
{
    const struct memory_row *a = left, *b = right;
    return a->gpa < b->gpa ? -1 : a->gpa > b->gpa;
}

static struct memory_row mapped_row(const struct machine *machine, const struct guest_map_range *range)
{
    bool ram = range->kind == MAP_RAM;
    struct memory_row row = {
        .gpa = range->gpa,
        .size = range->size,
        .name = ram ? "RAM" : "ROM",
        .kind = ram ? "ram" : "rom",
        .access = range->writable ? "rwx" : "r-x",
        .counted = ram && machine->map.dirty != NULL,
    };
    if (row.counted)
        row.dirty_pages = guest_map_dirty_pages(&machine->map, range->gpa, range->size);
    return row;
}

unsigned memory_picture_rows(const struct machine *machine, struct memory_row rows[MEMORY_ROWS])
{
    struct guest_map_range ranges[GUEST_MAP_MAX_RANGES];
    unsigned mapped = guest_map_ranges(&machine->map, ranges), count = 0;
    for (unsigned i = 0; i < mapped; i++)
        rows[count++] = mapped_row(machine, &ranges[i]);
    for (unsigned i = 0; i < machine->mmio.count; i++) {
        const struct bus_range *range = &machine->mmio.ranges[i];
        rows[count++] = (struct memory_row){
            .gpa = range->first, .size = range->size, .name = range->name, .kind = "device", .access = "mmio"};
    }
    /* The platform's own: its accesses never come to us. */
    rows[count++] = (struct memory_row){
        .gpa = 0xFEE00000, .size = PAGE_BYTES, .name = "local APIC", .kind = "device", .access = "mmio"};
    qsort(rows, count, sizeof rows[0], by_address);
    return count;
}
