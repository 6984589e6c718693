/*
 * The block cache: finding blocks, by linear address and by physical address, and seeing that they
 * are still right. The model is described in code.h.
 */
#include "x86/code/code_cache.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "os/guarded.h"
#include "util/check.h"
#include "x86/code/decode.h"
#include "x86/memory/tlb.h"

#define ARENA_SIZE ((size_t)24 << 20)

bool code_create(struct cpu *cpu)
{
    struct block_cache *c = calloc(1, sizeof(*c));

    if (!c)
        return false;
    c->arena = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
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

void code_drop_all(struct cpu *cpu)
{
    struct block_cache *c = cpu->blocks;

    for (size_t i = 0; i < PAGE_BUCKETS; i++)
        for (const struct code_page *p = c->pages[i]; p; p = p->next)
            code_page_dropped(cpu, p);
    memset(c->buckets, 0, sizeof(c->buckets));
    memset(c->pages, 0, sizeof(c->pages));
    memset(c->hosts, 0, sizeof(c->hosts));
    memset(c->jump, 0, sizeof(c->jump));
    c->used = 0;
    c->full = false;
    c->drops++;
}

uint64_t code_drops(const struct cpu *cpu)
{
    return cpu->blocks->drops;
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

static void enter_block(struct block_cache *c, struct block *b)
{
    struct block **bucket = block_bucket(c, b->gpa, b->mode);

    b->next_hash = *bucket;
    *bucket = b;
}

void code_update_jump_key(struct cpu *cpu)
{
    /* Never 0: an empty entry matches nothing. */
    cpu->jump_key = cpu->tlb->space->epoch << 16 | (uint64_t)(cpu->mode & 0xff) << 8 | cpu->cpl | 0x80;
}

void code_forget_jumps(struct cpu *cpu, gva_t linear)
{
    uint64_t page = (linear >> 12) + (linear >> 19);

    if (cpu->jump_cache)
        memset(&cpu->jump_cache[(page % JUMP_PAGES) * JUMP_PER_PAGE], 0,
               JUMP_PER_PAGE * sizeof(struct jump_entry));
}

/* ---- verifying ---- */

static bool bytes_equal(const uint8_t *host, const uint8_t *bytes, size_t size)
{
    uint8_t byte;

    for (; size; size--, host++, bytes++)
        if (!guarded_load8(host, &byte) || byte != *bytes)
            return false;
    return true;
}

/* In words; the copy has a word's room behind it. False: not known. */
static always_inline bool words_equal(const uint8_t *host, const uint8_t *bytes, size_t size)
{
    uint64_t word, kept;

    for (; size >= 8; size -= 8, host += 8, bytes += 8) {
        memcpy(&kept, bytes, 8);
        if (!guarded_load64(host, &word) || word != kept)
            return false;
    }
    if (unlikely(((uintptr_t)host & ~PAGE_MASK) > PAGE_SIZE - 8))
        return size == 0;
    memcpy(&kept, bytes, 8);
    return guarded_load64(host, &word) && ((word ^ kept) & (BIT64(8 * size) - 1)) == 0;
}

/* Of a block that is not dead: is the page still the memory that is watched, with the same bytes? */
static bool part_holds(struct cpu *cpu, gpa_t gpa, const uint8_t *bytes, size_t size)
{
    const uint8_t *host = tlb_physical_page(cpu, gpa, ACCESS_EXECUTE);

    return host && host == code_page_of(cpu, gpa & PAGE_MASK)->host && bytes_equal(host + (gpa & ~PAGE_MASK), bytes, size);
}

static noinline bool verify_slowly(struct cpu *cpu, struct block *b)
{
    const size_t room = (size_t)(PAGE_SIZE - (b->gpa & ~PAGE_MASK)), in_first = b->crosses ? room : b->size;

    if (b->dead)
        return false;
    if (part_holds(cpu, b->gpa, b->bytes, in_first) &&
        (!b->crosses || part_holds(cpu, b->second_page, b->bytes + in_first, b->size - in_first))) {
        b->verified = cpu->verify_epoch;
        return true;
    }
    code_kill_block(b);
    return false;
}

bool code_verify_now(struct cpu *cpu, struct block *b)
{
    const uint8_t *host = tlb_known_physical_page(cpu, b->gpa, ACCESS_EXECUTE);

    if (unlikely(b->dead || b->crosses || !host || host + (b->gpa & ~PAGE_MASK) != b->host ||
                 !words_equal(b->host, b->bytes, b->size)))
        return verify_slowly(cpu, b);
    b->verified = cpu->verify_epoch;
    return true;
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
        code_kill_block(b);
        b = NULL;
    }
    if (b && b->crosses && !second_page_holds(cpu, b)) {
        if (cpu->leave != LEAVE_NONE)
            return NULL;
        code_kill_block(b);
        b = NULL;
    }
    if (b && code_verify(cpu, b))
        return b;
    cpu->leave = LEAVE_NONE;
    b = code_build(cpu, gpa);
    if (!b && cpu->blocks->full) {
        code_drop_all(cpu);
        cpu->leave = LEAVE_NONE;
        b = code_build(cpu, gpa);
        check(b || cpu->leave != LEAVE_NONE);
    }
    if (b)
        enter_block(cpu->blocks, b);
    return b;
}

/* Decoding may wait for others (code_page_get), and memory change meanwhile, that of page tables too: then what was translated
 * and read before that is not to run any more, and the instruction is looked for again. */
static noinline struct block *look_up(struct cpu *cpu, gva_t linear)
{
    const uint64_t epoch = cpu->verify_epoch;
    struct block *b;
    uint8_t *host;
    gpa_t page;

    if (!(cpu->mode & MODE_64) && cpu->rip > cpu->segment[SEG_CS].limit) {
        (void)!raise_gp(cpu, 0);
        return NULL;
    }
    if (!tlb_translate_fetch(cpu, linear, &host, &page))
        return NULL;
    b = find_or_decode(cpu, page | (linear & ~PAGE_MASK));
    if (!b)
        return NULL;
    if (unlikely(cpu->verify_epoch != epoch)) {
        cpu->leave = LEAVE_REQUEST;
        return NULL;
    }
    if (!b->crosses)
        *code_jump_slot(cpu, linear) =
            (struct jump_entry){.linear = linear, .key = cpu->jump_key, .block = b};
    cpu->block_rip = cpu->rip;
    return b;
}

struct block *code_find(struct cpu *cpu)
{
    gva_t linear = code_linear(cpu, cpu->rip);
    const struct jump_entry *known = code_jump_slot(cpu, linear);

    /* Where it is in the jump cache the block is the right one, if its bytes still are. */
    if (likely(known->linear == linear && known->key == cpu->jump_key && code_verify(cpu, known->block))) {
        cpu->block_rip = cpu->rip;
        return known->block;
    }
    return look_up(cpu, linear);
}

const struct insn *code_decode_cold(struct cpu *cpu, const struct op *op)
{
    const struct op *first = op - op->index_in_block;
    const struct block *b = ((struct block *const *)first)[-1];
    struct decoded d;
    struct insn *kept;

    check(decode(b->mode, b->bytes + op->offset, b->size - op->offset, &d) == DECODE_OK);
    if (op->has_link) {
        cpu->blocks->branch = d.insn;
        return &cpu->blocks->branch;
    }
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
    return (likely(count == 16) ? guarded_load128(host, bytes) : guarded_copy(bytes, host, count))
               ? (unsigned)count
               : 0;
}
