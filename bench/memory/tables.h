/* Page tables of 4 KiB pages for the first 2 MiB, in guest memory. */
#ifndef OWHP_BENCH_TABLES_H
#define OWHP_BENCH_TABLES_H

#include <stdint.h>
#include <string.h>

enum { RAM_SIZE = 0x200000, TABLES = 0x10000 };

static inline void fill_tables(uint8_t *ram)
{
    uint64_t entry;

    for (uint64_t level = 0; level < 3; level++) {
        entry = (TABLES + 0x1000 * (level + 1)) | 7;
        memcpy(ram + TABLES + 0x1000 * level, &entry, 8);
    }
    for (uint64_t page = 0; page < 512; page++) {
        entry = page * 4096 | 7;
        memcpy(ram + TABLES + 0x3000 + 8 * page, &entry, 8);
    }
}

#endif
