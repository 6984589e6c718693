/* Makes a processor's registers of a boot protocol's starting state. */
#ifndef OPENWHP_TOOL_BOOT_REGISTERS_H
#define OPENWHP_TOOL_BOOT_REGISTERS_H

#include <WinHvPlatform.h>

#include "boot.h"

/* Writes the registers of processor 0; -1 with a problem(). */
int boot_registers_write(WHV_PARTITION_HANDLE partition, const struct boot_state *state);

#endif
