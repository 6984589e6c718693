/*
 * Decoded code: blocks of operations, found by where they are in guest physical memory.
 *
 * A block is a straight run of instructions within one page (one that crosses into the next page makes a block of its
 * own). Blocks hang on their page; a store into the page's occupied 64-byte chunks kills the blocks there: every
 * operation of a dead block is turned into one that goes back to the look-up, so a running block notices at its next
 * operation, and links into it need no unlinking. Dead memory is reclaimed when the arena is full and everything is dropped.
 *
 * Blocks are found by guest address, stores by the host's: memory may be mapped at several guest addresses, and a store through
 * any of them is a store to the code. So a page of code remembers the memory it was decoded from, and its blocks hold only
 * while the page is that memory: when it has become other memory, whose stores nobody watches yet, they do not pass the
 * look described next, whatever its bytes are.
 *
 * Stores that no processor made (a device's DMA, a debugger, the client's own pointer) are seen in another way: the block
 * keeps a copy of its bytes, and is compared with memory before its first execution since the host last had an
 * opportunity to change memory that the guest can know of (cpu->verify_epoch: an exit, an interrupt from outside).
 */
#ifndef OWHP_X86_CODE_H
#define OWHP_X86_CODE_H

#include "x86/code/insn.h"
#include "x86/port.h"

struct op;

/* Carries out one operation and goes on with the next; NULL when the interpreter is to be left. */
typedef const struct op *op_fn(struct cpu *cpu, const struct op *op);

struct block;

/* One decoded operation. Registers are byte offsets into struct cpu. */
struct op {
    op_fn *run;
    union {
        uint64_t immediate;
        int64_t target;          /* branches: displacement of the target from block_rip */
        const struct insn *insn; /* generic operations */
    };
    union {
        struct block *link;      /* branches: the target's block once known */
        const struct insn *cold; /* fast operations: the full form, once it was needed */
    };
    int32_t displacement;
    uint16_t destination, source;
    uint16_t base, index, segment_base;
    uint8_t scale_shift;
    uint8_t segment;
    uint8_t size;          /* operand size in bytes where the handler needs it */
    uint8_t address_32;    /* 64-bit mode: the effective address wraps at 32 bits */
    uint8_t length;        /* of the instruction */
    uint8_t index_in_block;
    bool has_link;         /* which member of the second union counts */
    uint16_t offset;       /* of the instruction from the block's start */
};

struct block {
    struct op *ops;
    uint64_t verified;       /* the cpu->verify_epoch in which its bytes were last seen to be right; 0: never, or dead */
    gpa_t gpa;               /* of the first byte */
    const uint8_t *host;     /* likewise: in the memory whose stores are noticed */
    uint32_t mode;           /* MODE_* it was decoded under */
    uint16_t size;           /* bytes of code */
    uint16_t count;          /* operations, the closing one included */
    bool crosses, dead;
    gpa_t second_page;       /* crosses: the page the rest is in */
    struct block *next_hash, *next_in_page, *next_in_second_page;
    uint8_t *bytes;          /* copy of the code */
};

/*
 * The jump cache: blocks by linear address, for branches that leave the page or are not direct. An entry holds for one flush
 * epoch, mode and privilege (cpu->jump_key). A page's entries stand together, so that they can be forgotten together.
 */
enum { JUMP_PAGES = 64, JUMP_PER_PAGE = 64 };

struct jump_entry {
    gva_t linear;
    uint64_t key;
    struct block *block;
};

static always_inline struct jump_entry *code_jump_slot(const struct cpu *cpu, gva_t linear)
{
    uint64_t page = (linear >> 12) + (linear >> 19);
    return &cpu->jump_cache[(page % JUMP_PAGES) * JUMP_PER_PAGE + (linear ^ linear >> 6) % JUMP_PER_PAGE];
}

/* The block at a linear address if the jump cache has it and it needs no look. */
static always_inline struct block *code_jump(const struct cpu *cpu, gva_t linear)
{
    const struct jump_entry *j = code_jump_slot(cpu, linear);

    if (likely(j->linear == linear && j->key == cpu->jump_key && j->block->verified == cpu->verify_epoch))
        return j->block;
    return NULL;
}

/* The parts of jump_key have changed. */
void code_update_jump_key(struct cpu *cpu);

bool code_create(struct cpu *cpu);
void code_destroy(struct cpu *cpu);
void code_drop_all(struct cpu *cpu); /* never while a block runs */

/* How often code_drop_all has run: an operation or block from before it changed is no more. */
uint64_t code_drops(const struct cpu *cpu);

/* The block at CS:RIP for the current mode, decoded when needed. NULL: cpu->leave is set (fetch fault, exit). */
struct block *code_find(struct cpu *cpu);

/* The page's translation was flushed: look-ups by linear address must not find its blocks. */
void code_forget_jumps(struct cpu *cpu, gva_t linear);

/* Is the block's code still what memory holds? Kills it when not. */
bool code_verify_now(struct cpu *cpu, struct block *block);
static always_inline bool code_verify(struct cpu *cpu, struct block *block)
{
    return block->verified == cpu->verify_epoch || code_verify_now(cpu, block);
}

/* Of how many guest pages that are this memory (`host` is the page's first byte) has this processor decoded code? */
unsigned code_pages_of(const struct cpu *cpu, const uint8_t *host);

/* This processor stored into memory that holds code (its own or somebody's), within a page. */
void code_stored(struct cpu *cpu, gpa_t gpa, const uint8_t *host, uint64_t size);

/* This processor's code in the page of memory that begins at `host` is stale from `offset` on. */
void code_changed(struct cpu *cpu, const uint8_t *host, size_t offset, size_t size);

/* The full form of a fast operation, decoded again from the block's copy; NULL: no memory. */
const struct insn *code_decode_cold(struct cpu *cpu, const struct op *op);
static always_inline const struct insn *code_cold_insn(struct cpu *cpu, const struct op *op)
{
    return likely(!op->has_link && op->cold) ? op->cold : code_decode_cold(cpu, op);
}

/* Arena memory for the decoder: lives until everything is dropped. */
void *code_allocate(struct cpu *cpu, size_t size);

#endif
