/*
 * Inside the block cache: what code.c (finding), code_page.c (pages that hold code, killing blocks)
 * and code_build.c (decoding a block) share.
 */
#ifndef OWHP_X86_CODE_CACHE_H
#define OWHP_X86_CODE_CACHE_H

#include "x86/code/code.h"

enum {
    BLOCK_BUCKETS = 1 << 15,
    PAGE_BUCKETS = 1 << 12,
};

/* A guest page that holds decoded code, and the memory it was decoded from. */
struct code_page {
    gpa_t page;
    const uint8_t *host; /* of the page's first byte: the port was told of it (code_page) */
    uint64_t chunks; /* bit i: a block has bytes in [64*i, 64*i+64) */
    struct block *blocks, *second_blocks;
    struct code_page *next, *next_of_host;
    uint32_t vain_stores; /* stores since it last had a block */
};

struct block_cache {
    struct block *buckets[BLOCK_BUCKETS];
    struct code_page *pages[PAGE_BUCKETS]; /* by page */
    struct code_page *hosts[PAGE_BUCKETS]; /* the same, by host */
    struct jump_entry jump[JUMP_PAGES * JUMP_PER_PAGE];
    uint8_t *arena;
    size_t used;
    bool full;
    uint64_t drops; /* how often everything was dropped */
    struct insn branch; /* the full form of a linked branch, which has no place for it */
};

/* ---- code.c ---- */

/* Where a RIP is in the linear address space. */
static inline gva_t code_linear(const struct cpu *cpu, uint64_t rip)
{
    return cpu->mode & MODE_64 ? rip : (uint32_t)(cpu->segment[SEG_CS].base + rip);
}

/* ---- code_page.c ---- */

/* The page, entered when it is not there, or moved when it is other memory now: from now on stores to that memory are noticed.
 * NULL: the arena is full (cpu->blocks->full), or there is no memory to execute. */
struct code_page *code_page_get(struct cpu *cpu, gpa_t page);
/* The page, which is there: a block that is not dead hangs on it. */
const struct code_page *code_page_of(const struct cpu *cpu, gpa_t page);
/* The page is data now: stores need not be noticed any more. */
void code_page_dropped(struct cpu *cpu, const struct code_page *page);
/* Hang a finished block on its pages, which are there. */
void code_page_add(struct cpu *cpu, struct block *block);
void code_kill_block(struct block *block);

/* ---- code_build.c ---- */

/* Decode the block at cpu->rip, which is at `gpa`. NULL: cpu->leave is set (fetch fault, exit), or
 * the arena is full. The caller enters it in the table. */
struct block *code_build(struct cpu *cpu, gpa_t gpa);

#endif
