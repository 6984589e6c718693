/* Debug exit and debug console; see debug_ports.h. */
#include "debug_ports.h"

static uint64_t exit_read(void *device, uint64_t offset, unsigned size)
{
    (void)device;
    (void)offset;
    (void)size;
    return 0;
}

static void exit_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)offset;
    (void)size;
    /* The host keeps eight bits of a status. */
    power_debug_exit(device, (int)((value << 1 | 1) & 0xff));
}

int debug_exit_attach(struct power *power, struct bus *ports)
{
    static const struct bus_ops ops = {exit_read, exit_write};
    const struct bus_range range = {0xF4, 4, &ops, power, "debug exit", 0};
    return bus_add(ports, &range);
}

static uint64_t console_read(void *device, uint64_t offset, unsigned size)
{
    (void)device;
    (void)offset;
    (void)size;
    return 0xE9;
}

static void console_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct debug_console *console = device;
    (void)offset;
    (void)size;
    console->transmit(console->context, (uint8_t)value);
}

int debug_console_attach(struct debug_console *console, struct bus *ports)
{
    static const struct bus_ops ops = {console_read, console_write};
    const struct bus_range ranges[] = {
        {0xE9, 1, &ops, console, "debug console", 1},
        {0x402, 1, &ops, console, "debug console", 1},
    };
    for (unsigned i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (bus_add(ports, &ranges[i]) != 0)
            return -1;
    return 0;
}
