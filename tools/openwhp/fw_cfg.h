/*
 * The firmware configuration device (QEMU's fw_cfg, docs/specs/fw_cfg in its source): how SeaBIOS learns the
 * machine's memory, processors and ACPI tables. Selector port 510, data port 511, DMA ports 514-51B.
 */
#ifndef OPENWHP_TOOL_FW_CFG_H
#define OPENWHP_TOOL_FW_CFG_H

#include <stddef.h>
#include <stdint.h>

#include "acpi.h"
#include "bus.h"
#include "guest_memory.h"

enum { FW_CFG_ITEMS = 16, FW_CFG_FILE_NAME = 56, FW_CFG_FIRST_FILE = 0x20 };

struct fw_cfg_item {
    uint16_t key;
    const char *name; /* NULL: no file */
    uint8_t *bytes;   /* owned */
    uint32_t size;
};

struct fw_cfg {
    struct fw_cfg_item items[FW_CFG_ITEMS];
    unsigned count;
    uint16_t selected;
    uint32_t offset;
    uint64_t dma_address;
    const struct guest_memory *memory;
};

void fw_cfg_init(struct fw_cfg *config, const struct guest_memory *memory);
void fw_cfg_fini(struct fw_cfg *config);
int fw_cfg_attach(struct fw_cfg *config, struct bus *ports);

/* Everything firmware asks for; -1 with a problem() when memory is short. */
int fw_cfg_fill(struct fw_cfg *config, const struct acpi_tables *tables, unsigned processors);

#endif
