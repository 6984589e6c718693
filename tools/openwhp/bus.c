/* Port and MMIO dispatch; see bus.h. */
#include "bus.h"

#include <stddef.h>
#include <string.h>

#include "problem.h"

/* Index of the first range that ends behind the address (count when there is none). */
static unsigned lower_bound(const struct bus *bus, uint64_t address)
{
    unsigned low = 0, high = bus->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        const struct bus_range *range = &bus->ranges[middle];
        if (address - range->first >= range->size && address >= range->first)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static const struct bus_range *find(const struct bus *bus, uint64_t address)
{
    unsigned index = lower_bound(bus, address);
    if (index == bus->count || address < bus->ranges[index].first)
        return NULL;
    return &bus->ranges[index];
}

/* What is in the way of the range, and where it would go into the table. */
static const struct bus_range *obstacle(const struct bus *bus, const struct bus_range *range, unsigned *at)
{
    *at = lower_bound(bus, range->first);
    if (*at < bus->count && bus->ranges[*at].first <= range->first + (range->size - 1))
        return &bus->ranges[*at];
    return NULL;
}

bool bus_add_quietly(struct bus *bus, const struct bus_range *range)
{
    unsigned at;
    if (range->size == 0 || range->first + (range->size - 1) < range->first ||
        bus->count == BUS_MAX_RANGES || obstacle(bus, range, &at) != NULL)
        return false;
    memmove(&bus->ranges[at + 1], &bus->ranges[at], (bus->count - at) * sizeof bus->ranges[0]);
    bus->ranges[at] = *range;
    bus->count++;
    return true;
}

int bus_add(struct bus *bus, const struct bus_range *range)
{
    if (bus_add_quietly(bus, range))
        return 0;
    unsigned at;
    const struct bus_range *other = obstacle(bus, range, &at);
    return problem("device %s does not fit on the bus at 0x%llx (%s)", range->name,
                   (unsigned long long)range->first, other != NULL ? other->name : "no room");
}

void bus_remove(struct bus *bus, uint64_t first, const void *device)
{
    unsigned index = lower_bound(bus, first);
    if (index == bus->count || bus->ranges[index].first != first ||
        bus->ranges[index].device != device)
        return;
    bus->count--;
    memmove(&bus->ranges[index], &bus->ranges[index + 1],
            (bus->count - index) * sizeof bus->ranges[0]);
}

static bool takes(const struct bus_range *range, uint64_t address, unsigned size)
{
    return range != NULL && range->size >= size && address - range->first <= range->size - size &&
           (range->width == 0 || size <= range->width);
}

uint64_t bus_read(const struct bus *bus, uint64_t address, unsigned size)
{
    const struct bus_range *range = find(bus, address);
    if (takes(range, address, size))
        return range->ops->read(range->device, address - range->first, size) & (UINT64_MAX >> (64 - 8 * size));
    if (size == 1)
        return 0xff;
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= bus_read(bus, address + i, 1) << (8 * i);
    return value;
}

void bus_write(const struct bus *bus, uint64_t address, unsigned size, uint64_t value)
{
    const struct bus_range *range = find(bus, address);
    if (takes(range, address, size)) {
        range->ops->write(range->device, address - range->first, size, value);
        return;
    }
    if (size == 1)
        return;
    for (unsigned i = 0; i < size; i++)
        bus_write(bus, address + i, 1, (value >> (8 * i)) & 0xff);
}
