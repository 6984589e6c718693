/*
 * Decoding a block: from the bytes at CS:RIP to a straight run of operations, up to a branch, the
 * page's end or a limit.
 */
#include "x86/code/code_cache.h"

#include <string.h>

#include "os/guarded.h"
#include "x86/code/decode.h"
#include "x86/code/interpret.h"
#include "x86/memory/tlb.h"

enum { BLOCK_MAX_OPS = 96, BLOCK_MAX_BYTES = 512 };

struct builder {
    struct cpu *cpu;
    struct block *block;
    struct op ops[BLOCK_MAX_OPS + 1];
    unsigned count, size;
    uint8_t bytes[BLOCK_MAX_BYTES + 32];
    bool is_cut; /* by the segment's limit, of which the bytes know nothing: for one execution */
};

static bool add_op(struct builder *b, const struct decoded *d, bool *ends)
{
    struct op *op = &b->ops[b->count];
    struct insn *kept;

    *op = (struct op){
        .length = d->insn.length, .offset = (uint16_t)b->size, .index_in_block = (uint8_t)b->count};
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

/* An instruction that raises: #UD for undefined bytes, #GP for more than 15 bytes or beyond the
 * limit. */
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

/* `size` bytes of code (at most 15) were looked at to find that out: a store to any of them may make it another one. */
static bool add_raising(struct builder *b, exec_fn *exec, const uint8_t *code, size_t size)
{
    const uint8_t length = (uint8_t)(size < 15 ? size : 15);
    struct decoded d = {.insn = {.exec = exec, .length = length, .ends_block = true}};
    struct insn *kept = code_allocate(b->cpu, sizeof(*kept));

    if (!kept)
        return false;
    *kept = d.insn;
    b->ops[b->count] = (struct op){.run = interpret_generic,
                                   .insn = kept,
                                   .length = length,
                                   .offset = (uint16_t)b->size,
                                   .index_in_block = (uint8_t)b->count};
    memcpy(b->bytes + b->size, code, length);
    b->count++;
    b->size += length;
    return true;
}

/* There is no memory to fetch code from. */
static bool cannot_fetch(struct cpu *cpu, gpa_t gpa, gva_t linear)
{
    struct port_access access = {
        .gpa = gpa, .gva = linear, .gva_valid = true, .type = ACCESS_EXECUTE, .size = 1};

    cpu->leave = cpu->port->access(cpu, &access) == PORT_FAULT ? LEAVE_FAULT : LEAVE_EXIT;
    return false;
}

static bool watch_page(struct cpu *cpu, gpa_t gpa, gva_t linear)
{
    if (code_page_get(cpu, gpa & PAGE_MASK))
        return true;
    return !cpu->blocks->full && cannot_fetch(cpu, gpa, linear);
}

/* Code bytes by physical address: registering a page may have waited for other processors, and
 * memory may have changed. */
static bool read_code(struct cpu *cpu, gpa_t gpa, gva_t linear, uint8_t *to, size_t size)
{
    const uint8_t *host = tlb_physical_page(cpu, gpa, ACCESS_EXECUTE);

    if (host && guarded_copy(to, host + (gpa & ~PAGE_MASK), size))
        return true;
    return cannot_fetch(cpu, gpa, linear);
}

/* Does code from rip on for `size` bytes exceed the segment? With a limit of 4G - 1 it goes on at 0. */
static bool exceeds_limit(const struct cpu *cpu, uint64_t rip, size_t size)
{
    const uint32_t limit = cpu->segment[SEG_CS].limit;

    return !(cpu->mode & MODE_64) && limit != 0xffffffff && rip + size - 1 > limit;
}

/* The instruction at the builder's position reaches into the next page (or the limit cuts it off).
 */
static bool add_crossing(struct builder *b, uint64_t rip, const uint8_t *head, size_t head_size,
                         bool limited, gpa_t *second_page)
{
    uint8_t bytes[15];
    uint8_t *host;
    struct decoded d;
    bool ends;
    gva_t next = code_linear(b->cpu, rip) + head_size;

    if (limited) {
        b->is_cut = true;
        return add_raising(b, exec_raise_gp, head, head_size);
    }
    if (!(b->cpu->mode & MODE_64))
        next = (uint32_t)next;
    if (!tlb_translate_fetch(b->cpu, next, &host, second_page) || !watch_page(b->cpu, *second_page, next))
        return false;
    memcpy(bytes, head, head_size);
    if (!read_code(b->cpu, *second_page, next, bytes + head_size, sizeof(bytes) - head_size))
        return false;
    switch (decode(b->cpu->mode, bytes, sizeof(bytes), &d)) {
    case DECODE_OK:
        return exceeds_limit(b->cpu, rip, d.insn.length) ? add_raising(b, exec_raise_gp, bytes, sizeof(bytes))
                                                         : add_op(b, &d, &ends);
    case DECODE_INVALID:
        return add_raising(b, exec_raise_ud, bytes, sizeof(bytes));
    default:
        return add_raising(b, exec_raise_gp, bytes, sizeof(bytes));
    }
}

/* Decode from the page's bytes until something ends the block. False: first instruction cannot be
 * had (cpu->leave), or no memory (cpu->blocks->full). */
static bool build(struct builder *b, uint64_t rip, const uint8_t *code, size_t available,
                  bool limited, bool *crosses, gpa_t *second_page)
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
            return add_raising(b, status == DECODE_INVALID ? exec_raise_ud : exec_raise_gp, code, available);
        }
    }
    return true;
}

static struct block *finish(struct builder *b, gpa_t gpa, bool crosses, gpa_t second_page, uint64_t epoch)
{
    struct cpu *cpu = b->cpu;
    struct block *block = code_allocate(cpu, sizeof(*block));
    /* The operations stand behind a pointer to their block: code_cold_insn finds it from any of
     * them. */
    struct block **owner = code_allocate(cpu, 16 + (b->count + 1) * sizeof(struct op));
    uint8_t *bytes = code_allocate(cpu, b->size + sizeof(uint64_t)); /* it is compared in words */

    if (!block || !owner || !bytes)
        return NULL;
    owner[1] = block;
    *block = (struct block){.gpa = gpa,
                            .host = code_page_of(cpu, gpa & PAGE_MASK)->host + (gpa & ~PAGE_MASK),
                            .mode = cpu->mode,
                            .size = (uint16_t)b->size,
                            .count = (uint16_t)(b->count + 1),
                            .verified = b->is_cut ? 0 : epoch,
                            .crosses = crosses,
                            .dead = b->is_cut,
                            .second_page = second_page,
                            .ops = (struct op *)(owner + 2),
                            .bytes = bytes};
    b->ops[b->count] = (struct op){.run = interpret_block_end,
                                   .target = (int64_t)b->size,
                                   .offset = (uint16_t)b->size,
                                   .index_in_block = (uint8_t)b->count};
    memcpy(block->ops, b->ops, (b->count + 1) * sizeof(struct op));
    memcpy(bytes, b->bytes, b->size);

    code_page_add(cpu, block);
    return block;
}

struct block *code_build(struct cpu *cpu, gpa_t gpa)
{
    struct builder b;
    uint8_t code[BLOCK_MAX_BYTES + 16];
    size_t available = (size_t)(PAGE_SIZE - (gpa & ~PAGE_MASK));
    bool crosses = false, limited = false;
    gpa_t second_page = 0;

    b.cpu = cpu;
    b.count = b.size = 0;
    b.is_cut = false;
    if (!(cpu->mode & MODE_64)) {
        uint64_t left = (uint64_t)cpu->segment[SEG_CS].limit + 1 - cpu->rip;
        limited = exceeds_limit(cpu, cpu->rip, available + 1);
        if (left < available)
            available = (size_t)left;
    }
    if (available > sizeof(code)) {
        available = sizeof(code);
        limited = false;
    }
    /* Registered before the bytes are read: a store after this is noticed. */
    if (!watch_page(cpu, gpa, code_linear(cpu, cpu->rip)))
        return NULL;
    /* What is stored from here on is for the next look, which comes before the block runs: registering the second page may wait,
     * and take up news (that the first one has become other memory, say: then the block hangs on the page as it was, and does
     * not pass). */
    const uint64_t epoch = cpu->verify_epoch;
    if (!read_code(cpu, gpa, code_linear(cpu, cpu->rip), code, available))
        return NULL;
    if (!build(&b, cpu->rip, code, available, limited, &crosses, &second_page))
        return NULL;
    return finish(&b, gpa, crosses, second_page, epoch);
}
