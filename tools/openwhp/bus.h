/*
 * Who answers at an address: one sorted table of ranges per address space (ports, guest physical).
 *
 * Addresses nobody claims read as all ones and ignore stores, as an empty PC bus does. An access that is
 * not wholly inside one range is carried out byte by byte. Nothing here locks: the machine lock is held
 * around every call.
 */
#ifndef OPENWHP_TOOL_BUS_H
#define OPENWHP_TOOL_BUS_H

#include <stdbool.h>
#include <stdint.h>

/* offset counts from the start of the device's range; size is 1, 2, 4 or 8 and offset + size fits it. */
struct bus_ops {
    uint64_t (*read)(void *device, uint64_t offset, unsigned size);
    void (*write)(void *device, uint64_t offset, unsigned size, uint64_t value);
};

enum { BUS_MAX_RANGES = 64 };

struct bus_range {
    uint64_t first; /* [first, first + size) */
    uint64_t size;
    const struct bus_ops *ops;
    void *device;
    const char *name; /* static text, for reports */
    unsigned width;   /* widest access the device takes (bytes); wider ones come in bytes. 0: any */
};

/* Ranges are sorted by address and do not overlap. */
struct bus {
    struct bus_range ranges[BUS_MAX_RANGES];
    unsigned count;
};

/* Adds a range; -1 with a problem() when it is empty, wraps, overlaps another one or the table is full. */
int bus_add(struct bus *bus, const struct bus_range *range);

/* The same for a range a guest has placed: false, without a problem(), when it does not fit in. */
bool bus_add_quietly(struct bus *bus, const struct bus_range *range);

/* Removes the range of this device that starts there; nothing happens when there is none. */
void bus_remove(struct bus *bus, uint64_t first, const void *device);

/* size 1, 2, 4 or 8; value is right-aligned. */
uint64_t bus_read(const struct bus *bus, uint64_t address, unsigned size);
void bus_write(const struct bus *bus, uint64_t address, unsigned size, uint64_t value);

#endif
