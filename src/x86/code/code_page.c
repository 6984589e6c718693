/*
 * Pages that hold decoded code: noticing stores into them, killing the blocks that a store makes
 * stale.
 */
#include "x86/code/code_cache.h"

#include "x86/code/interpret.h"
#include "x86/memory/tlb.h"

enum { VAIN_STORES = 64 }; /* so many stores into a page whose code is dead make it data again */

/* The page is data now: stores need not be noticed any more. */
void code_page_dropped(struct cpu *cpu, gpa_t page)
{
    if (cpu->port->code_page_dropped)
        cpu->port->code_page_dropped(cpu, page);
}

static struct code_page **page_bucket(struct block_cache *c, gpa_t page)
{
    return &c->pages[(page >> 12) % PAGE_BUCKETS];
}

static struct code_page *find_page(struct block_cache *c, gpa_t page)
{
    struct code_page *p = *page_bucket(c, page);

    while (p && p->page != page)
        p = p->next;
    return p;
}

bool code_is_page(const struct cpu *cpu, gpa_t page)
{
    return find_page(cpu->blocks, page) != NULL;
}

/* From now on stores to the page are noticed: ours take the slow path, the others' the port sees
 * to. */
struct code_page *code_page_get(struct cpu *cpu, gpa_t page)
{
    struct code_page *p = find_page(cpu->blocks, page);

    if (p)
        return p;
    p = code_allocate(cpu, sizeof(*p));
    if (!p)
        return NULL;
    struct code_page **bucket = page_bucket(cpu->blocks, page);
    *p = (struct code_page){.page = page, .next = *bucket};
    *bucket = p;
    tlb_flush_writes(cpu);
    if (cpu->port->code_page)
        cpu->port->code_page(cpu, page);
    return p;
}

static uint64_t chunk_mask(gpa_t first, uint64_t size)
{
    unsigned low = (unsigned)(first & ~PAGE_MASK) >> 6;
    unsigned high = (unsigned)((first & ~PAGE_MASK) + size - 1) >> 6;

    return (~0ull << low) & (~0ull >> (63 - (high > 63 ? 63 : high)));
}

/* ---- killing ---- */

void code_kill_block(struct block *b)
{
    b->dead = true;
    b->verified = 0;
    for (unsigned i = 0; i < b->count; i++)
        b->ops[i].run = interpret_resync;
}

/* The part of the block in its first or in its second page; they may be the same page. */
static bool block_overlaps(const struct block *b, bool second, gpa_t first, uint64_t size)
{
    const uint64_t in_first = PAGE_SIZE - (b->gpa & ~PAGE_MASK);
    const gpa_t start = second ? b->second_page : b->gpa;
    const gpa_t end = start + (second ? b->size - in_first : b->crosses ? in_first : b->size);

    return first < end && start < first + size;
}

static void kill_in_page(struct code_page *p, gpa_t first, uint64_t size)
{
    uint64_t chunks = 0;

    for (unsigned second = 0; second < 2; second++) {
        struct block **at = second ? &p->second_blocks : &p->blocks;

        while (*at) {
            struct block *b = *at;
            struct block **next = second ? &b->next_in_second_page : &b->next_in_page;

            if (b->dead || block_overlaps(b, second, first, size)) {
                if (!b->dead)
                    code_kill_block(b);
                *at = *next;
            } else {
                uint64_t in_first = PAGE_SIZE - (b->gpa & ~PAGE_MASK);

                if (second)
                    chunks |= chunk_mask(p->page, b->size - in_first);
                else
                    chunks |= chunk_mask(b->gpa, b->crosses ? in_first : b->size);
                at = next;
            }
        }
    }
    p->chunks = chunks;
}

static void remove_page(struct cpu *cpu, struct code_page *page)
{
    struct code_page **at = page_bucket(cpu->blocks, page->page);

    while (*at != page)
        at = &(*at)->next;
    *at = page->next;
    code_page_dropped(cpu, page->page);
}

void cpu_invalidate_code(struct cpu *cpu, gpa_t gpa, uint64_t size)
{
    while (size) {
        uint64_t room = PAGE_SIZE - (gpa & ~PAGE_MASK), part = size < room ? size : room;
        struct code_page *p = find_page(cpu->blocks, gpa & PAGE_MASK);

        if (p && (p->chunks & chunk_mask(gpa, part)))
            kill_in_page(p, gpa, part);
        else if (p && !p->blocks && !p->second_blocks && ++p->vain_stores >= VAIN_STORES)
            remove_page(cpu, p);
        gpa += part;
        size -= part;
    }
}

void code_stored(struct cpu *cpu, gpa_t gpa, uint64_t size)
{
    cpu_invalidate_code(cpu, gpa, size);
    if (cpu->port->code_written)
        cpu->port->code_written(cpu, gpa, size);
}

void code_page_add(struct cpu *cpu, struct block *block)
{
    struct code_page *page = find_page(cpu->blocks, block->gpa & PAGE_MASK);
    uint64_t in_first = PAGE_SIZE - (block->gpa & ~PAGE_MASK);

    page->vain_stores = 0;
    page->chunks |= chunk_mask(block->gpa, block->crosses ? in_first : block->size);
    block->next_in_page = page->blocks;
    page->blocks = block;
    if (!block->crosses)
        return;
    page = find_page(cpu->blocks, block->second_page);
    page->chunks |= chunk_mask(block->second_page, block->size - in_first);
    block->next_in_second_page = page->second_blocks;
    page->second_blocks = block;
}
