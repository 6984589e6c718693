/*
 * Pages that hold decoded code: noticing stores into them, killing the blocks that a store makes
 * stale.
 *
 * A page is entered under its guest address, by which blocks are decoded and looked for, and under the address of the host
 * memory it is, by which stores come. The port is told of the memory. When the guest page becomes other memory, nothing
 * happens at once: its blocks are looked at before they run again (verify_epoch), find that they are of other memory, and die;
 * the next one that is decoded there moves the page.
 */
#include "x86/code/code_cache.h"

#include "x86/code/interpret.h"
#include "x86/memory/tlb.h"

enum { VAIN_STORES = 64 }; /* so many stores into a page whose code is dead make it data again */

/* The page is data now: stores need not be noticed any more. */
void code_page_dropped(struct cpu *cpu, const struct code_page *page)
{
    if (cpu->port->code_page_dropped)
        cpu->port->code_page_dropped(cpu, page->host);
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

const struct code_page *code_page_of(const struct cpu *cpu, gpa_t page)
{
    return find_page(cpu->blocks, page);
}

static struct code_page **host_bucket(struct block_cache *c, const uint8_t *host)
{
    return &c->hosts[((uintptr_t)host >> PAGE_SHIFT) % PAGE_BUCKETS];
}

unsigned code_pages_of(const struct cpu *cpu, const uint8_t *host)
{
    unsigned count = 0;

    for (const struct code_page *p = *host_bucket(cpu->blocks, host); p; p = p->next_of_host)
        count += p->host == host;
    return count;
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

/* ---- pages ---- */

static void forget_host(struct cpu *cpu, struct code_page *page)
{
    struct code_page **at = host_bucket(cpu->blocks, page->host);

    while (*at != page)
        at = &(*at)->next_of_host;
    *at = page->next_of_host;
    code_page_dropped(cpu, page);
}

/* From now on stores to the memory are noticed: ours take the slow path, the others' the port sees to, and may wait for them. */
static void watch_host(struct cpu *cpu, struct code_page *page, const uint8_t *host)
{
    struct code_page **bucket = host_bucket(cpu->blocks, host);

    page->host = host;
    page->next_of_host = *bucket;
    *bucket = page;
    tlb_flush_writes(cpu);
    if (cpu->port->code_page)
        cpu->port->code_page(cpu, host);
}

static struct code_page *add_page(struct cpu *cpu, gpa_t page, const uint8_t *host)
{
    struct code_page *p = code_allocate(cpu, sizeof(*p));
    struct code_page **bucket = page_bucket(cpu->blocks, page);

    if (!p)
        return NULL;
    *p = (struct code_page){.page = page, .next = *bucket};
    *bucket = p;
    watch_host(cpu, p, host);
    return p;
}

/* The guest page is other memory than before. */
static void move_page(struct cpu *cpu, struct code_page *page, const uint8_t *host)
{
    kill_in_page(page, page->page, PAGE_SIZE);
    forget_host(cpu, page);
    watch_host(cpu, page, host);
}

/* While the port waits for the others, the guest page may become other memory once more: then again. A page that is got is about
 * to have a block: stores have been in vain only from here on. */
struct code_page *code_page_get(struct cpu *cpu, gpa_t page)
{
    struct code_page *p = find_page(cpu->blocks, page);
    const uint8_t *host;

    while ((host = tlb_physical_page(cpu, page, ACCESS_EXECUTE)) && !(p && p->host == host)) {
        if (p)
            move_page(cpu, p, host);
        else
            p = add_page(cpu, page, host);
        if (!p)
            return NULL;
    }
    if (p)
        p->vain_stores = 0;
    return host ? p : NULL;
}

static void remove_page(struct cpu *cpu, struct code_page *page)
{
    struct code_page **at = page_bucket(cpu->blocks, page->page);

    while (*at != page)
        at = &(*at)->next;
    *at = page->next;
    forget_host(cpu, page);
}

/* ---- stores ---- */

static void changed_in_page(struct cpu *cpu, struct code_page *p, gpa_t first, uint64_t size)
{
    if (p->chunks & chunk_mask(first, size))
        kill_in_page(p, first, size);
    else if (!p->blocks && !p->second_blocks && ++p->vain_stores >= VAIN_STORES)
        remove_page(cpu, p);
}

void code_changed(struct cpu *cpu, const uint8_t *host, size_t offset, size_t size)
{
    struct code_page *next;

    for (struct code_page *p = *host_bucket(cpu->blocks, host); p; p = next) {
        next = p->next_of_host;
        if (p->host == host)
            changed_in_page(cpu, p, p->page + offset, size);
    }
}

void cpu_invalidate_code(struct cpu *cpu, gpa_t gpa, uint64_t size)
{
    while (size) {
        uint64_t room = PAGE_SIZE - (gpa & ~PAGE_MASK), part = size < room ? size : room;
        struct code_page *p = find_page(cpu->blocks, gpa & PAGE_MASK);

        if (p)
            changed_in_page(cpu, p, gpa, part);
        gpa += part;
        size -= part;
    }
}

void code_stored(struct cpu *cpu, gpa_t gpa, const uint8_t *host, uint64_t size)
{
    const size_t offset = gpa & ~PAGE_MASK;

    code_changed(cpu, host - offset, offset, size);
    if (cpu->port->code_written)
        cpu->port->code_written(cpu, host, size);
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
