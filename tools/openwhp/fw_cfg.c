/* The firmware configuration device; see fw_cfg.h. */
#include "fw_cfg.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "acpi_loader.h"
#include "bytes.h"
#include "problem.h"

enum {
    KEY_SIGNATURE = 0x00,
    KEY_ID = 0x01,
    KEY_RAM_SIZE = 0x03,
    KEY_NO_GRAPHICS = 0x04, /* SeaBIOS then speaks through the serial port */
    KEY_PROCESSORS = 0x05,
    KEY_BOOT_MENU = 0x0E,
    KEY_MAX_PROCESSORS = 0x0F,
    KEY_DIRECTORY = 0x19,
    ID_TRADITIONAL = 1,
    ID_DMA = 2,
    DMA_ERROR = 1,
    DMA_READ = 2,
    DMA_SKIP = 4,
    DMA_SELECT = 8,
    DMA_WRITE = 16,
    DMA_BYTES = 16, /* control 4, length 4, address 8, all big-endian */
    DIRECTORY_ENTRY_BYTES = 64,
    E820_ENTRY_BYTES = 20,
};

void fw_cfg_init(struct fw_cfg *config, const struct guest_memory *memory)
{
    memset(config, 0, sizeof *config);
    config->memory = memory;
}

void fw_cfg_fini(struct fw_cfg *config)
{
    for (unsigned i = 0; i < config->count; i++)
        free(config->items[i].bytes);
    config->count = 0;
}

static int add(struct fw_cfg *config, uint16_t key, const char *name, const void *bytes, size_t size)
{
    uint8_t *copy = malloc(size);
    if (copy == NULL || config->count == FW_CFG_ITEMS) {
        free(copy);
        return problem("not enough memory for the firmware's tables; end other programs");
    }
    memcpy(copy, bytes, size);
    config->items[config->count++] = (struct fw_cfg_item){key, name, copy, (uint32_t)size};
    return 0;
}

static int add_16(struct fw_cfg *config, uint16_t key, uint16_t value)
{
    return add(config, key, NULL, &value, sizeof value);
}

static int add_file(struct fw_cfg *config, const char *name, const void *bytes, size_t size)
{
    return add(config, (uint16_t)(FW_CFG_FIRST_FILE + config->count), name, bytes, size);
}

/* Names and keys of all files: a count and one entry each, big-endian. */
static int add_directory(struct fw_cfg *config)
{
    uint8_t directory[4 + FW_CFG_ITEMS * DIRECTORY_ENTRY_BYTES] = {0};
    uint32_t files = 0;
    for (unsigned i = 0; i < config->count; i++) {
        const struct fw_cfg_item *item = &config->items[i];
        if (item->name == NULL)
            continue;
        uint8_t *entry = directory + 4 + files++ * DIRECTORY_ENTRY_BYTES;
        put32(entry, htobe32(item->size));
        put16(entry + 4, htobe16(item->key));
        strncpy((char *)entry + 8, item->name, FW_CFG_FILE_NAME - 1);
    }
    put32(directory, htobe32(files));
    return add(config, KEY_DIRECTORY, NULL, directory, 4 + (size_t)files * DIRECTORY_ENTRY_BYTES);
}

/* RAM ranges: address 8, length 8, type 4 (1: RAM). */
static int add_e820(struct fw_cfg *config)
{
    const struct guest_memory *memory = config->memory;
    uint8_t table[2 * E820_ENTRY_BYTES];
    size_t size = E820_ENTRY_BYTES;
    put64(table, 0);
    put64(table + 8, memory->low_end);
    put32(table + 16, 1);
    if (memory->size > memory->low_end) {
        put64(table + 20, HIGH_RAM_FIRST);
        put64(table + 28, memory->size - memory->low_end);
        put32(table + 36, 1);
        size += E820_ENTRY_BYTES;
    }
    return add_file(config, "etc/e820", table, size);
}

static int add_acpi(struct fw_cfg *config, const struct acpi_tables *tables)
{
    struct acpi_loader_script script;
    acpi_loader_write(&script, tables);
    if (add_file(config, ACPI_LOADER_RSDP_FILE, tables->rsdp, sizeof tables->rsdp) != 0 ||
        add_file(config, ACPI_LOADER_TABLES_FILE, tables->bytes, tables->size) != 0)
        return -1;
    return add_file(config, "etc/table-loader", script.bytes, script.size);
}

int fw_cfg_fill(struct fw_cfg *config, const struct acpi_tables *tables, unsigned processors)
{
    const uint32_t id = ID_TRADITIONAL | ID_DMA;
    const uint64_t ram = config->memory->size;
    if (add(config, KEY_SIGNATURE, NULL, "QEMU", 4) != 0 || add(config, KEY_ID, NULL, &id, 4) != 0 ||
        add(config, KEY_RAM_SIZE, NULL, &ram, 8) != 0 || add_16(config, KEY_NO_GRAPHICS, 1) != 0 ||
        add_16(config, KEY_PROCESSORS, (uint16_t)processors) != 0 ||
        add_16(config, KEY_BOOT_MENU, 0) != 0 ||
        add_16(config, KEY_MAX_PROCESSORS, (uint16_t)processors) != 0)
        return -1;
    if (add_e820(config) != 0 || add_acpi(config, tables) != 0)
        return -1;
    return add_directory(config);
}

static const struct fw_cfg_item *selected_item(const struct fw_cfg *config)
{
    for (unsigned i = 0; i < config->count; i++)
        if (config->items[i].key == config->selected)
            return &config->items[i];
    return NULL;
}

static void choose(struct fw_cfg *config, uint16_t key)
{
    config->selected = key & 0x3fff; /* the two top bits: write access and architecture */
    if (key & 0x8000)
        config->selected = key;
    config->offset = 0;
}

static uint8_t next_byte(struct fw_cfg *config)
{
    const struct fw_cfg_item *item = selected_item(config);
    if (item == NULL || config->offset >= item->size)
        return 0;
    return item->bytes[config->offset++];
}

/* Reads beyond the end of an item give zeros. */
static bool dma_read(struct fw_cfg *config, uint64_t gpa, uint32_t length)
{
    uint8_t *to = guest_memory_at(config->memory, gpa, length, true);
    if (to == NULL)
        return false;
    const struct fw_cfg_item *item = selected_item(config);
    uint32_t left = item != NULL && item->size > config->offset ? item->size - config->offset : 0;
    uint32_t part = length < left ? length : left;
    if (part > 0)
        memcpy(to, item->bytes + config->offset, part);
    memset(to + part, 0, length - part);
    config->offset += part;
    guest_memory_stored(config->memory, gpa, length);
    return true;
}

static void run_dma(struct fw_cfg *config)
{
    uint8_t block[DMA_BYTES];
    uint64_t at = config->dma_address;
    config->dma_address = 0;
    if (!guest_memory_read(config->memory, at, block, sizeof block))
        return;
    uint32_t control = be32toh(get32(block)), length = be32toh(get32(block + 4));
    bool done = true;
    if (control & DMA_SELECT)
        choose(config, (uint16_t)(control >> 16));
    if (control & DMA_READ)
        done = dma_read(config, be64toh(get64(block + 8)), length);
    else if (control & DMA_SKIP)
        config->offset = config->offset > UINT32_MAX - length ? UINT32_MAX : config->offset + length;
    else if (control & DMA_WRITE)
        done = false; /* nothing here takes a store */
    put32(block, done ? 0 : htobe32(DMA_ERROR));
    guest_memory_write(config->memory, at, block, 4);
}

static uint64_t port_read(void *device, uint64_t offset, unsigned size)
{
    struct fw_cfg *config = device;
    if (offset == 1 && size == 1)
        return next_byte(config);
    return 0;
}

static void port_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    if (offset == 0 && size == 2)
        choose(device, (uint16_t)value);
}

/* The address comes big-endian in two halves; the lower one, at the higher port, starts the transfer. */
static void dma_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct fw_cfg *config = device;
    if (size != 4)
        return;
    uint32_t half = be32toh((uint32_t)value);
    if (offset == 0) {
        config->dma_address = (uint64_t)half << 32;
    } else {
        config->dma_address |= half;
        run_dma(config);
    }
}

static uint64_t dma_signature(void *device, uint64_t offset, unsigned size)
{
    static const uint8_t signature[8] = {'Q', 'E', 'M', 'U', ' ', 'C', 'F', 'G'};
    uint64_t value = 0;
    (void)device;
    memcpy(&value, signature + offset, size);
    return value;
}

int fw_cfg_attach(struct fw_cfg *config, struct bus *ports)
{
    static const struct bus_ops ops = {port_read, port_write};
    static const struct bus_ops dma = {dma_signature, dma_write};
    const struct bus_range ranges[] = {
        {0x510, 2, &ops, config, "firmware configuration", 0},
        {0x514, 8, &dma, config, "firmware configuration DMA", 0},
    };
    for (unsigned i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (bus_add(ports, &ranges[i]) != 0)
            return -1;
    return 0;
}
