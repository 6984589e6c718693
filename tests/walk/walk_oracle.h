/*
 * The rules of paging a second time, written to be compared with the manual instead of to be fast: one table of
 * reserved bits as SDM 3A tables 4-4 to 4-20 show them, and the sentences of 4.6.1, 4.6.2 and 4.7 as they stand.
 */
#ifndef OWHP_TESTS_WALK_ORACLE_H
#define OWHP_TESTS_WALK_ORACLE_H

#include "x86/memory/walk.h"

/* Physical memory that holds page tables: a few frames anywhere. */
enum { TABLE_FRAMES = 5 };
struct tables {
    gpa_t base[TABLE_FRAMES];
    uint8_t bytes[TABLE_FRAMES][4096];
    unsigned count;
};

/* Pointer to `size` bytes at a physical address, NULL where no frame is. */
void *tables_at(struct tables *tables, gpa_t gpa, unsigned size);

struct oracle_result {
    enum walk_status status;
    uint32_t error;
    gpa_t gpa;
    uint64_t page_size;
    bool writable, user, executable, dirty, global;
    uint8_t pkey;
    /* Entries on the way, and what they hold afterwards. */
    unsigned entries;
    gpa_t entry_gpa[TABLE_FRAMES];
    unsigned entry_size;
    uint64_t entry_after[TABLE_FRAMES];
};

void oracle_walk(const struct walk_state *state, struct tables *tables, gva_t gva, uint32_t flags, struct oracle_result *out);

#endif
