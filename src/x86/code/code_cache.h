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

/* A page that holds decoded code. */
struct code_page {
    gpa_t page;
    uint64_t chunks; /* bit i: a block has bytes in [64*i, 64*i+64) */
    struct block *blocks, *second_blocks;
    struct code_page *next;
    uint32_t vain_stores; /* stores since it last had a block */
};

struct block_cache {
    struct block *buckets[BLOCK_BUCKETS];
    struct code_page *pages[PAGE_BUCKETS];
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

/* The page, entered when it is not there: from now on stores to it are noticed. NULL: the arena is
 * full. */
struct code_page *code_page_get(struct cpu *cpu, gpa_t page);
/* The page is data now: stores need not be noticed any more. */
void code_page_dropped(struct cpu *cpu, gpa_t page);
/* Hang a finished block on its pages, which are there. */
void code_page_add(struct cpu *cpu, struct block *block);
void code_kill_block(struct block *block);

/* ---- code_build.c ---- */

/* Decode the block at cpu->rip, which is at `gpa`. NULL: cpu->leave is set (fetch fault, exit), or
 * the arena is full. The caller enters it in the table. */
struct block *code_build(struct cpu *cpu, gpa_t gpa);

#endif
