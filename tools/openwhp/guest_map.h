/*
 * What of guest physical space is mapped: RAM and ROM, through the API, and changed with the chipset's
 * shadow (PAM) registers while processors run.
 *
 * RAM is mapped read, write, execute, with dirty tracking; ROM read and execute; holes are left out and
 * exit. What is below 1 MiB depends on each 16 KiB piece of C0000-FFFFF:
 *
 *   PAM reads, stores    mapped as                    a store that exits
 *   RAM, RAM             RAM, read write execute      -
 *   RAM, bus             RAM, read execute            is dropped
 *   bus, RAM             ROM (if any), read execute   goes to the RAM behind it
 *   bus, bus             ROM (if any), read execute   is dropped
 */
#ifndef OPENWHP_TOOL_GUEST_MAP_H
#define OPENWHP_TOOL_GUEST_MAP_H

#include <WinHvPlatform.h>

#include <stdbool.h>
#include <stdint.h>

#include "boot.h"
#include "guest_memory.h"
#include "pci.h"

enum guest_map_kind { MAP_RAM, MAP_ROM };

struct guest_map_range {
    uint64_t gpa, size;
    enum guest_map_kind kind;
    bool writable;
};

enum { GUEST_MAP_MAX_RANGES = SHADOW_PIECES + 4 };

struct guest_map {
    WHV_PARTITION_HANDLE partition;
    struct guest_memory *memory;
    const struct rom *rom;
    /* What each piece is mapped as now. */
    struct {
        bool mapped, from_ram, writable;
    } pieces[SHADOW_PIECES];
    /* Pages found dirty by earlier queries, a bit a page of RAM in the order of the host memory; NULL when
     * nobody wants to know. */
    uint64_t *dirty;
};

/* Maps everything but the shadow area; -1 with a problem(). keep_dirty: for guest_map_dirty_pages(). */
int guest_map_create(struct guest_map *map, WHV_PARTITION_HANDLE partition, struct guest_memory *memory,
                     const struct rom *rom, bool keep_dirty);
void guest_map_destroy(struct guest_map *map);

/* Brings the shadow area to what the registers say; also while processors run. */
int guest_map_update_shadow(struct guest_map *map, const struct pci_bus *pci);

/* The ROM's byte range at this address: host pointer, or NULL when the ROM is not there. */
const uint8_t *guest_map_rom_at(const struct guest_map *map, uint64_t gpa, uint64_t size);

/* What is mapped now, in order of addresses, neighbours of the same kind as one; returns how many. */
unsigned guest_map_ranges(const struct guest_map *map, struct guest_map_range ranges[GUEST_MAP_MAX_RANGES]);

/* Adds what is dirty now to what was before. */
void guest_map_harvest(struct guest_map *map);

/* How many pages of [gpa, gpa + size) have been dirty at the last harvest; the range is RAM. */
uint64_t guest_map_dirty_pages(const struct guest_map *map, uint64_t gpa, uint64_t size);

#endif
