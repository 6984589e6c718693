/* What of guest physical space is mapped; see guest_map.h. */
#include "guest_map.h"

#include <openwhp.h>

#include <stdlib.h>
#include <string.h>

#include "problem.h"

#define RAM_FLAGS                                                                                       \
    (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute |                     \
     WHvMapGpaRangeFlagTrackDirtyPages)
#define ROM_FLAGS (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagExecute)

static int map_range(struct guest_map *map, void *host, uint64_t gpa, uint64_t size, unsigned flags)
{
    HRESULT result = WHvMapGpaRange(map->partition, host, gpa, size, (WHV_MAP_GPA_RANGE_FLAGS)flags);
    if (SUCCEEDED(result))
        return 0;
    return problem("cannot map guest memory at 0x%llx (%s); give --memory another size",
                   (unsigned long long)gpa, OwhpGetLastErrorText());
}

static int map_fixed_ranges(struct guest_map *map)
{
    const struct guest_memory *memory = map->memory;
    uint64_t high = memory->size - memory->low_end;
    if (map_range(map, memory->host, 0, CONVENTIONAL_END, RAM_FLAGS) != 0 ||
        map_range(map, memory->host + EXTENDED_FIRST, EXTENDED_FIRST, memory->low_end - EXTENDED_FIRST,
                  RAM_FLAGS) != 0)
        return -1;
    if (high > 0 && map_range(map, memory->host + memory->low_end, HIGH_RAM_FIRST, high, RAM_FLAGS) != 0)
        return -1;
    if (map->rom->host == NULL)
        return 0;
    return map_range(map, map->rom->host, HIGH_RAM_FIRST - map->rom->size, map->rom->size, ROM_FLAGS);
}

int guest_map_create(struct guest_map *map, WHV_PARTITION_HANDLE partition, struct guest_memory *memory,
                     const struct rom *rom, bool keep_dirty)
{
    memset(map, 0, sizeof *map);
    map->partition = partition;
    map->memory = memory;
    map->rom = rom;
    if (keep_dirty) {
        map->dirty = calloc(memory->size / PAGE_BYTES / 64 + 1, sizeof *map->dirty);
        if (map->dirty == NULL)
            return problem("not enough memory to count dirty pages; leave --report dirty away");
    }
    return map_fixed_ranges(map);
}

void guest_map_destroy(struct guest_map *map)
{
    free(map->dirty);
    map->dirty = NULL;
}

const uint8_t *guest_map_rom_at(const struct guest_map *map, uint64_t gpa, uint64_t size)
{
    const struct rom *rom = map->rom;
    uint64_t shadow = rom_shadow_size(rom);
    if (rom->host == NULL)
        return NULL;
    if (gpa >= HIGH_RAM_FIRST - rom->size && gpa < HIGH_RAM_FIRST && size <= HIGH_RAM_FIRST - gpa)
        return rom->host + (gpa - (HIGH_RAM_FIRST - rom->size));
    if (gpa >= SHADOW_END - shadow && gpa < SHADOW_END && size <= SHADOW_END - gpa)
        return rom->host + rom->size - (SHADOW_END - gpa);
    return NULL;
}

static int map_piece(struct guest_map *map, unsigned piece, bool from_ram, bool writable)
{
    uint64_t gpa = SHADOW_FIRST + piece * SHADOW_PIECE_SIZE;
    if (from_ram)
        return map_range(map, map->memory->host + gpa, gpa, SHADOW_PIECE_SIZE,
                         writable ? RAM_FLAGS : ROM_FLAGS);
    uint8_t *rom = (uint8_t *)guest_map_rom_at(map, gpa, SHADOW_PIECE_SIZE);
    if (rom != NULL)
        return map_range(map, rom, gpa, SHADOW_PIECE_SIZE, ROM_FLAGS);
    WHvUnmapGpaRange(map->partition, gpa, SHADOW_PIECE_SIZE);
    return 0;
}

static int update_piece(struct guest_map *map, const struct pci_bus *pci, unsigned piece)
{
    bool readable, writable;
    pci_shadow_state(pci, piece, &readable, &writable);
    map->memory->shadow_readable[piece] = readable;
    map->memory->shadow_writable[piece] = writable;
    writable = readable && writable; /* the API knows no range that only stores */
    if (map->pieces[piece].mapped && map->pieces[piece].from_ram == readable &&
        map->pieces[piece].writable == writable)
        return 0;
    map->pieces[piece].mapped = true;
    map->pieces[piece].from_ram = readable;
    map->pieces[piece].writable = writable;
    return map_piece(map, piece, readable, writable);
}

int guest_map_update_shadow(struct guest_map *map, const struct pci_bus *pci)
{
    guest_map_harvest(map); /* replacing a range drops its dirty bits */
    for (unsigned piece = 0; piece < SHADOW_PIECES; piece++)
        if (update_piece(map, pci, piece) != 0)
            return -1;
    return 0;
}

static unsigned add_range(struct guest_map_range *ranges, unsigned count, struct guest_map_range range)
{
    struct guest_map_range *last = count > 0 ? &ranges[count - 1] : NULL;
    if (range.size == 0)
        return count;
    if (last != NULL && last->gpa + last->size == range.gpa && last->kind == range.kind &&
        last->writable == range.writable) {
        last->size += range.size;
        return count;
    }
    ranges[count] = range;
    return count + 1;
}

unsigned guest_map_ranges(const struct guest_map *map, struct guest_map_range ranges[GUEST_MAP_MAX_RANGES])
{
    const struct guest_memory *memory = map->memory;
    unsigned count = add_range(ranges, 0, (struct guest_map_range){0, CONVENTIONAL_END, MAP_RAM, true});
    for (unsigned piece = 0; piece < SHADOW_PIECES; piece++) {
        uint64_t gpa = SHADOW_FIRST + piece * SHADOW_PIECE_SIZE;
        bool from_ram = map->pieces[piece].from_ram;
        if (from_ram || guest_map_rom_at(map, gpa, SHADOW_PIECE_SIZE) != NULL)
            count = add_range(ranges, count,
                              (struct guest_map_range){gpa, SHADOW_PIECE_SIZE, from_ram ? MAP_RAM : MAP_ROM,
                                                       map->pieces[piece].writable});
    }
    count = add_range(ranges, count, (struct guest_map_range){EXTENDED_FIRST, memory->low_end - EXTENDED_FIRST,
                                                              MAP_RAM, true});
    count = add_range(ranges, count,
                      (struct guest_map_range){HIGH_RAM_FIRST - map->rom->size, map->rom->size, MAP_ROM, false});
    return add_range(ranges, count, (struct guest_map_range){HIGH_RAM_FIRST, memory->size - memory->low_end,
                                                             MAP_RAM, true});
}

/* Index of a page of RAM in the order of the host memory. */
static uint64_t page_index(const struct guest_memory *memory, uint64_t gpa)
{
    return (gpa < HIGH_RAM_FIRST ? gpa : gpa - HIGH_RAM_FIRST + memory->low_end) / PAGE_BYTES;
}

static void harvest_range(struct guest_map *map, uint64_t gpa, uint64_t size)
{
    enum { CHUNK_WORDS = 512 };
    uint64_t chunk = CHUNK_WORDS * 64 * PAGE_BYTES, words[CHUNK_WORDS];
    for (uint64_t done = 0; done < size; done += chunk) {
        uint64_t part = size - done < chunk ? size - done : chunk, pages = part / PAGE_BYTES;
        UINT32 bytes = (UINT32)((pages + 63) / 64 * 8);
        if (FAILED(WHvQueryGpaRangeDirtyBitmap(map->partition, gpa + done, part, words, bytes)))
            return;
        uint64_t first = page_index(map->memory, gpa + done);
        for (uint64_t page = 0; page < pages; page++)
            if (words[page / 64] >> (page % 64) & 1)
                map->dirty[(first + page) / 64] |= UINT64_C(1) << ((first + page) % 64);
    }
}

void guest_map_harvest(struct guest_map *map)
{
    struct guest_map_range ranges[GUEST_MAP_MAX_RANGES];
    if (map->dirty == NULL)
        return;
    unsigned count = guest_map_ranges(map, ranges);
    for (unsigned i = 0; i < count; i++)
        if (ranges[i].kind == MAP_RAM && ranges[i].writable)
            harvest_range(map, ranges[i].gpa, ranges[i].size);
}

uint64_t guest_map_dirty_pages(const struct guest_map *map, uint64_t gpa, uint64_t size)
{
    uint64_t first = page_index(map->memory, gpa), count = 0;
    if (map->dirty == NULL)
        return 0;
    for (uint64_t page = first; page < first + size / PAGE_BYTES; page++)
        count += map->dirty[page / 64] >> (page % 64) & 1;
    return count;
}
