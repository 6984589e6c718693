/*
 * Inside the memory accesses (memory.c, locked.c): an access as its translated pieces, one for each page.
 */
#ifndef OWHP_X86_SPLIT_H
#define OWHP_X86_SPLIT_H

#include "x86/memory/memory.h"
#include "x86/memory/tlb.h"
#include "x86/system/debug.h"

/* One piece of an access, within one page. */
struct piece {
    gva_t linear;
    size_t size;
    struct tlb_target target;
};

struct split {
    unsigned count;
    struct piece piece[2];
};

/* Translate the whole access. False: cpu->leave is set. */
must_check bool mem_split(struct cpu *cpu, gva_t linear, size_t size, enum access_type type, enum mem_privilege privilege,
                          struct split *split);
/* Read into the data or write from it, as a whole or not at all. False: cpu->leave is set. */
must_check bool mem_transfer(struct cpu *cpu, const struct split *split, uint8_t *data, enum access_type type);

/* The access is done: breakpoints see it. */
static always_inline bool seen(struct cpu *cpu, gva_t linear, size_t size, enum access_type type)
{
    debug_data(cpu, linear, size, type);
    return true;
}

#endif
