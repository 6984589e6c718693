/* Fixed hardware of ACPI; see acpi_pm.h. */
#include "acpi_pm.h"

#include "acpi.h"

#define PM_TIMER_FREQUENCY UINT64_C(3579545)

enum {
    REGISTER_STATUS = 0,
    REGISTER_ENABLE = 2,
    REGISTER_CONTROL = 4,
    REGISTER_TIMER = 8,
    CONTROL_SCI_ENABLE = 1, /* ACPI mode is always on: the FADT names no SMI command */
    CONTROL_SLEEP_TYPE_SHIFT = 10,
    CONTROL_SLEEP_ENABLE = 1 << 13,
};

static uint32_t timer_value(const struct acpi_pm *pm)
{
    return (uint32_t)((__uint128_t)timers_now(pm->timers) * PM_TIMER_FREQUENCY / NANOSECONDS_PER_SECOND);
}

static uint64_t port_read(void *device, uint64_t offset, unsigned size)
{
    const struct acpi_pm *pm = device;
    (void)size;
    switch (offset) {
    case REGISTER_STATUS:
        return size == 4 ? (uint64_t)pm->enable << 16 : 0;
    case REGISTER_ENABLE:
        return pm->enable;
    case REGISTER_CONTROL:
        return pm->control | CONTROL_SCI_ENABLE;
    case REGISTER_TIMER:
        return timer_value(pm);
    default:
        return 0;
    }
}

static void write_control(struct acpi_pm *pm, uint16_t value)
{
    pm->control = (uint16_t)(value & ~CONTROL_SLEEP_ENABLE);
    unsigned type = (value >> CONTROL_SLEEP_TYPE_SHIFT) & 7;
    if ((value & CONTROL_SLEEP_ENABLE) && type == ACPI_SLEEP_TYPE_OFF)
        power_stop(pm->power, STOP_POWER_OFF);
}

static void port_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct acpi_pm *pm = device;
    if (offset == REGISTER_CONTROL && size >= 2)
        write_control(pm, (uint16_t)value);
    else if (offset == REGISTER_ENABLE)
        pm->enable = (uint16_t)value;
    else if (offset == REGISTER_STATUS && size == 4)
        pm->enable = (uint16_t)(value >> 16);
}

void acpi_pm_init(struct acpi_pm *pm, struct timers *timers, struct power *power)
{
    *pm = (struct acpi_pm){.timers = timers, .power = power};
}

int acpi_pm_attach(struct acpi_pm *pm, struct bus *ports)
{
    static const struct bus_ops ops = {port_read, port_write};
    const struct bus_range range = {ACPI_PM1_EVENT_PORT, 12, &ops, pm, "ACPI power management", 0};
    return bus_add(ports, &range);
}
