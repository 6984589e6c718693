/*
 * The block cache: finding, decoding, killing blocks. The model is described in code.h.
 */
#include "x86/code.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "os/guarded.h"
#include "util/check.h"
#include "x86/decode.h"
#include "x86/interpret.h"
#include "x86/tlb.h"

enum {
    BLOCK_BUCKETS = 1 << 15,
    PAGE_BUCKETS = 1 << 12,
    BLOCK_MAX_OPS = 96,
    BLOCK_MAX_BYTES = 512,
    VAIN_STORES = 64, /* so many stores into a page whose code is dead make it data again */
};
#define ARENA_SIZE ((size_t)24 << 20)

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
};

bool code_create(struct cpu *cpu)
{
    struct block_cache *c = calloc(1, sizeof(*c));

    if (!c)
        return false;
    c->arena = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->arena == MAP_FAILED) {
        free(c);
        return false;
    }
    cpu->blocks = c;
    cpu->jump_cache = c->jump;
    code_update_jump_key(cpu);
    return true;
}

void code_destroy(struct cpu *cpu)
{
    if (!cpu->blocks)
        return;
    code_drop_all(cpu);
    munmap(cpu->blocks->arena, ARENA_SIZE);
    free(cpu->blocks);
    cpu->blocks = NULL;
    cpu->jump_cache = NULL;
}

/* The page is data now: stores need not be noticed any more. */
static void page_dropped(struct cpu *cpu, gpa_t page)
{
    if (cpu->port->code_page_dropped)
        cpu->port->code_page_dropped(cpu, page);
}

void code_drop_all(struct cpu *cpu)
{
    struct block_cache *c = cpu->blocks;

    for (size_t i = 0; i < PAGE_BUCKETS; i++)
        for (const struct code_page *p = c->pages[i]; p; p = p->next)
            page_dropped(cpu, p->page);
    memset(c->buckets, 0, sizeof(c->buckets));
    memset(c->pages, 0, sizeof(c->pages));
    memset(c->jump, 0, sizeof(c->jump));
    c->used = 0;
    c->full = false;
}

void *code_allocate(struct cpu *cpu, size_t size)
{
    struct block_cache *c = cpu->blocks;
    size_t rounded = (size + 15) & ~(size_t)15;

    if (c->used + rounded > ARENA_SIZE) {
        c->full = true;
        return NULL;
    }
    c->used += rounded;
    return c->arena + c->used - rounded;
}

/* ---- pages ---- */

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

/* From now on stores to the page are noticed: ours take the slow path, the others' the port sees to. */
static struct code_page *get_page(struct cpu *cpu, gpa_t page)
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

static void kill_block(struct block *b)
{
    b->dead = true;
    b->verified = 0;
    for (unsigned i = 0; i < b->count; i++)
        b->ops[i].run = interpret_resync;
}

static bool block_overlaps(const struct block *b, gpa_t page, gpa_t first, uint64_t size)
{
    uint64_t in_first = PAGE_SIZE - (b->gpa & ~PAGE_MASK);
    gpa_t start = b->gpa, end = b->gpa + b->size;

    if (b->crosses && page == b->second_page) {
        start = b->second_page;
        end = start + b->size - in_first;
    }
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

            if (b->dead || block_overlaps(b, p->page, first, size)) {
                if (!b->dead)
                    kill_block(b);
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
    page_dropped(cpu, page->page);
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

/* ---- finding ---- */

static struct block **block_bucket(struct block_cache *c, gpa_t gpa, uint32_t mode)
{
    return &c->buckets[(gpa ^ gpa >> 15 ^ mode << 9) % BLOCK_BUCKETS];
}

static struct block *find_block(struct block_cache *c, gpa_t gpa, uint32_t mode)
{
    struct block **at = block_bucket(c, gpa, mode);

    while (*at) {
        struct block *b = *at;
        if (b->dead) {
            *at = b->next_hash;
            continue;
        }
        if (b->gpa == gpa && b->mode == mode)
            return b;
        at = &b->next_hash;
    }
    return NULL;
}

static gva_t code_linear(const struct cpu *cpu, uint64_t rip)
{
    return cpu->mode & MODE_64 ? rip : (uint32_t)(cpu->segment[SEG_CS].base + rip);
}

void code_update_jump_key(struct cpu *cpu)
{
    /* Never 0: an empty entry matches nothing. */
    cpu->jump_key = cpu->tlb->epoch << 16 | (uint64_t)(cpu->mode & 0xff) << 8 | cpu->cpl | 0x80;
}

void code_forget_jumps(struct cpu *cpu, gva_t linear)
{
    uint64_t page = (linear >> 12) + (linear >> 19);

    if (cpu->jump_cache)
        memset(&cpu->jump_cache[(page % JUMP_PAGES) * JUMP_PER_PAGE], 0, JUMP_PER_PAGE * sizeof(struct jump_entry));
}

/* ---- verifying ---- */

static bool bytes_equal(const uint8_t *host, const uint8_t *bytes, size_t size)
{
    uint64_t word, kept;
    uint8_t byte;

    for (; size >= 8; size -= 8, host += 8, bytes += 8) {
        memcpy(&kept, bytes, 8);
        if (!guarded_load64(host, &word) || word != kept)
            return false;
    }
    for (; size; size--, host++, bytes++)
        if (!guarded_load8(host, &byte) || byte != *bytes)
            return false;
    return true;
}

static bool part_holds(struct cpu *cpu, gpa_t gpa, const uint8_t *bytes, size_t size)
{
    const uint8_t *host = tlb_physical_page(cpu, gpa, ACCESS_EXECUTE);

    return host && bytes_equal(host + (gpa & ~PAGE_MASK), bytes, size);
}

bool code_verify(struct cpu *cpu, struct block *b)
{
    size_t in_first = (size_t)(PAGE_SIZE - (b->gpa & ~PAGE_MASK));

    if (b->verified == cpu->verify_epoch)
        return !b->dead;
    if (!b->dead && part_holds(cpu, b->gpa, b->bytes, b->crosses ? in_first : b->size) &&
        (!b->crosses || part_holds(cpu, b->second_page, b->bytes + in_first, b->size - in_first))) {
        b->verified = cpu->verify_epoch;
        return true;
    }
    if (!b->dead)
        kill_block(b);
    return false;
}

/* ---- decoding a block ---- */

struct builder {
    struct cpu *cpu;
    struct block *block;
    struct op ops[BLOCK_MAX_OPS + 1];
    unsigned count, size;
    uint8_t bytes[BLOCK_MAX_BYTES + 32];
};

static bool add_op(struct builder *b, const struct decoded *d, bool *ends)
{
    struct op *op = &b->ops[b->count];
    struct insn *kept;

    *op = (struct op){.length = d->insn.length, .offset = (uint16_t)b->size, .index_in_block = (uint8_t)b->count};
    *ends = d->insn.ends_block;
    if (!select_fast(b->cpu->mode, d, b->size, op, ends)) {
        kept = code_allocate(b->cpu, sizeof(*kept));
        if (!kept)
            return false;
        *kept = d->insn;
        op->run = interpret_generic;
        op->insn = kept;
    }
    memcpy(b->bytes + b->size, d->insn.bytes, d->insn.length);
    b->size += d->insn.length;
    b->count++;
    return true;
}

/* An instruction that raises: #UD for undefined bytes, #GP for more than 15 bytes or beyond the limit. */
static enum exec_result exec_raise_ud(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (raise_ud(cpu))
        return EXEC_NEXT;
    return EXEC_LEAVE;
}

static enum exec_result exec_raise_gp(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (raise_gp(cpu, 0))
        return EXEC_NEXT;
    return EXEC_LEAVE;
}

static bool add_raising(struct builder *b, exec_fn *exec)
{
    struct decoded d = {.insn = {.exec = exec, .length = 1, .ends_block = true}};
    struct insn *kept = code_allocate(b->cpu, sizeof(*kept));

    if (!kept)
        return false;
    *kept = d.insn;
    b->ops[b->count] = (struct op){.run = interpret_generic, .insn = kept, .length = 1, .offset = (uint16_t)b->size,
                                   .index_in_block = (uint8_t)b->count};
    b->count++;
    b->size++;
    return true;
}

/* Code bytes by physical address: registering a page may have waited for other processors, and memory may have changed. */
static bool read_code(struct cpu *cpu, gpa_t gpa, gva_t linear, uint8_t *to, size_t size)
{
    const uint8_t *host = tlb_physical_page(cpu, gpa, ACCESS_EXECUTE);
    struct port_access access = {.gpa = gpa, .gva = linear, .gva_valid = true, .type = ACCESS_EXECUTE, .size = 1};

    if (host && guarded_copy(to, host + (gpa & ~PAGE_MASK), size))
        return true;
    cpu->leave = cpu->port->access(cpu, &access) == PORT_FAULT ? LEAVE_FAULT : LEAVE_EXIT;
    return false;
}

/* The instruction at the builder's position reaches into the next page (or the limit cuts it off). */
static bool add_crossing(struct builder *b, uint64_t rip, const uint8_t *head, size_t head_size, bool limited, gpa_t *second_page)
{
    uint8_t bytes[15];
    uint8_t *host;
    struct decoded d;
    bool ends;
    gva_t next = code_linear(b->cpu, rip) + head_size;

    if (limited)
        return add_raising(b, exec_raise_gp);
    if (!(b->cpu->mode & MODE_64))
        next = (uint32_t)next;
    if (!tlb_translate_fetch(b->cpu, next, &host, second_page) || !get_page(b->cpu, *second_page))
        return false;
    memcpy(bytes, head, head_size);
    if (!read_code(b->cpu, *second_page, next, bytes + head_size, sizeof(bytes) - head_size))
        return false;
    switch (decode(b->cpu->mode, bytes, sizeof(bytes), &d)) {
    case DECODE_OK:
        return add_op(b, &d, &ends);
    case DECODE_INVALID:
        return add_raising(b, exec_raise_ud);
    default:
        return add_raising(b, exec_raise_gp);
    }
}

/* Decode from the page's bytes until something ends the block. False: first instruction cannot be had (cpu->leave), or
 * no memory (cpu->blocks->full). */
static bool build(struct builder *b, uint64_t rip, const uint8_t *code, size_t available, bool limited, bool *crosses,
                  gpa_t *second_page)
{
    unsigned most = b->cpu->mode & MODE_SINGLE ? 1 : BLOCK_MAX_OPS;
    bool ends = false;
    struct decoded d;

    while (!ends && b->count < most && b->size < BLOCK_MAX_BYTES) {
        enum decode_status status = decode(b->cpu->mode, code + b->size, available - b->size, &d);

        if (status == DECODE_OK) {
            if (!add_op(b, &d, &ends))
                return false;
        } else if (b->count > 0) {
            break;
        } else if (status == DECODE_TRUNCATED) {
            *crosses = !limited;
            return add_crossing(b, rip, code, available, limited, second_page);
        } else {
            return add_raising(b, status == DECODE_INVALID ? exec_raise_ud : exec_raise_gp);
        }
    }
    return true;
}

static struct block *finish(struct builder *b, gpa_t gpa, bool crosses, gpa_t second_page)
{
    struct cpu *cpu = b->cpu;
    struct block_cache *c = cpu->blocks;
    struct block *block = code_allocate(cpu, sizeof(*block));
    /* The operations stand behind a pointer to their block: code_cold_insn finds it from any of them. */
    struct block **owner = code_allocate(cpu, 16 + (b->count + 1) * sizeof(struct op));
    uint8_t *bytes = code_allocate(cpu, b->size);
    struct code_page *page = get_page(cpu, gpa & PAGE_MASK);
    struct code_page *second = crosses ? get_page(cpu, second_page) : NULL;

    if (!block || !owner || !bytes || !page || (crosses && !second))
        return NULL;
    owner[1] = block;
    *block = (struct block){.gpa = gpa, .mode = cpu->mode, .size = (uint16_t)b->size, .count = (uint16_t)(b->count + 1),
                            .verified = cpu->verify_epoch, .crosses = crosses, .second_page = second_page, .ops = (struct op *)(owner + 2), .bytes = bytes};
    b->ops[b->count] = (struct op){.run = interpret_block_end, .target = (int64_t)b->size, .offset = (uint16_t)b->size,
                                   .index_in_block = (uint8_t)b->count};
    memcpy(block->ops, b->ops, (b->count + 1) * sizeof(struct op));
    memcpy(bytes, b->bytes, b->size);

    uint64_t in_first = PAGE_SIZE - (gpa & ~PAGE_MASK);
    page->vain_stores = 0;
    page->chunks |= chunk_mask(gpa, crosses ? in_first : b->size);
    block->next_in_page = page->blocks;
    page->blocks = block;
    if (crosses) {
        second->chunks |= chunk_mask(second_page, b->size - in_first);
        block->next_in_second_page = second->second_blocks;
        second->second_blocks = block;
    }
    struct block **bucket = block_bucket(c, gpa, cpu->mode);
    block->next_hash = *bucket;
    *bucket = block;
    return block;
}

static struct block *decode_block(struct cpu *cpu, gpa_t gpa)
{
    struct builder b;
    uint8_t code[BLOCK_MAX_BYTES + 16];
    size_t available = (size_t)(PAGE_SIZE - (gpa & ~PAGE_MASK));
    bool crosses = false, limited = false;
    gpa_t second_page = 0;

    b.cpu = cpu;
    b.count = b.size = 0;
    if (!(cpu->mode & MODE_64)) {
        uint64_t left = (uint64_t)cpu->segment[SEG_CS].limit + 1 - cpu->rip;
        if (left < available) {
            available = (size_t)left;
            limited = true;
        }
    }
    if (available > sizeof(code)) {
        available = sizeof(code);
        limited = false;
    }
    /* Registered before the bytes are read: a store after this is noticed. */
    if (!get_page(cpu, gpa & PAGE_MASK) || !read_code(cpu, gpa, code_linear(cpu, cpu->rip), code, available))
        return NULL;
    if (!build(&b, cpu->rip, code, available, limited, &crosses, &second_page))
        return NULL;
    return finish(&b, gpa, crosses, second_page);
}

static bool within_limit(const struct cpu *cpu, const struct block *b)
{
    return (cpu->mode & MODE_64) || cpu->rip + b->size - 1 <= cpu->segment[SEG_CS].limit;
}

/* A block that crosses pages holds only while its second page is where it was. */
static bool second_page_holds(struct cpu *cpu, const struct block *b)
{
    uint8_t *host;
    gpa_t page;
    uint64_t in_first = PAGE_SIZE - (b->gpa & ~PAGE_MASK);
    gva_t next = code_linear(cpu, cpu->rip) + in_first;

    if (!(cpu->mode & MODE_64))
        next = (uint32_t)next;
    cpu->leave = LEAVE_NONE;
    return tlb_translate_fetch(cpu, next, &host, &page) && page == b->second_page;
}

static struct block *find_or_decode(struct cpu *cpu, gpa_t gpa)
{
    struct block *b = find_block(cpu->blocks, gpa, cpu->mode);

    if (b && !within_limit(cpu, b)) {
        kill_block(b);
        b = NULL;
    }
    if (b && b->crosses && !second_page_holds(cpu, b)) {
        if (cpu->leave != LEAVE_NONE)
            return NULL;
        kill_block(b);
        b = NULL;
    }
    if (b && code_verify(cpu, b))
        return b;
    cpu->leave = LEAVE_NONE;
    b = decode_block(cpu, gpa);
    if (!b && cpu->blocks->full) {
        code_drop_all(cpu);
        cpu->leave = LEAVE_NONE;
        b = decode_block(cpu, gpa);
        check(b || cpu->leave != LEAVE_NONE);
    }
    return b;
}

struct block *code_find(struct cpu *cpu)
{
    gva_t linear = code_linear(cpu, cpu->rip);
    struct block *b = code_jump(cpu, linear);
    uint8_t *host;
    gpa_t page;

    if (likely(b)) {
        cpu->block_rip = cpu->rip;
        return b;
    }
    if (!(cpu->mode & MODE_64) && cpu->rip > cpu->segment[SEG_CS].limit) {
        (void)!raise_gp(cpu, 0);
        return NULL;
    }
    if (!tlb_translate_fetch(cpu, linear, &host, &page))
        return NULL;
    b = find_or_decode(cpu, page | (linear & ~PAGE_MASK));
    if (!b)
        return NULL;
    if (!b->crosses)
        *code_jump_slot(cpu, linear) = (struct jump_entry){.linear = linear, .key = cpu->jump_key, .block = b};
    cpu->block_rip = cpu->rip;
    return b;
}

const struct insn *code_cold_insn(struct cpu *cpu, const struct op *op)
{
    const struct op *first = op - op->index_in_block;
    const struct block *b = ((struct block *const *)first)[-1];
    struct decoded d;
    struct insn *kept;

    if (op->cold)
        return op->cold;
    check(decode(b->mode, b->bytes + op->offset, b->size - op->offset, &d) == DECODE_OK);
    kept = code_allocate(cpu, sizeof(*kept));
    if (!kept) {
        cpu->blocks->full = true;
        return NULL;
    }
    *kept = d.insn;
    ((struct op *)(uintptr_t)op)->cold = kept;
    return kept;
}

unsigned cpu_peek_code(struct cpu *cpu, uint8_t bytes[16])
{
    gva_t linear = code_linear(cpu, cpu->rip);
    const uint8_t *host = tlb_peek_fetch(cpu, linear);
    size_t count = (size_t)(PAGE_SIZE - (linear & ~PAGE_MASK));

    if (!host)
        return 0;
    if (count > 16)
        count = 16;
    if (!(cpu->mode & MODE_64)) {
        uint64_t left = (uint64_t)cpu->segment[SEG_CS].limit + 1 - cpu->rip;
        if (cpu->rip > cpu->segment[SEG_CS].limit)
            return 0;
        if (left < count)
            count = (size_t)left;
    }
    host += linear & ~PAGE_MASK;
    return (count == 16 ? guarded_load128(host, bytes) : guarded_copy(bytes, host, count)) ? (unsigned)count : 0;
}
