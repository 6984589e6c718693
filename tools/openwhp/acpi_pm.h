/*
 * The fixed hardware of ACPI (ACPI 6.4, section 4.8): PM1 event and control registers and the power
 * management timer. Writing SLP_EN with the type of \_S5 switches the machine off. No event is ever raised.
 */
#ifndef OPENWHP_TOOL_ACPI_PM_H
#define OPENWHP_TOOL_ACPI_PM_H

#include <stdint.h>

#include "bus.h"
#include "power.h"
#include "timers.h"

struct acpi_pm {
    uint16_t enable, control;
    struct timers *timers;
    struct power *power;
};

void acpi_pm_init(struct acpi_pm *pm, struct timers *timers, struct power *power);
int acpi_pm_attach(struct acpi_pm *pm, struct bus *ports);

#endif
