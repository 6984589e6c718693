/*
 * A processor in any mode and at any privilege level, ready for one instruction or one event: what the table-driven
 * tests of descriptors, gates, transfers and priorities share. Memory is mapped one to one (1 GiB, for everybody) where
 * there is paging.
 *
 * The tables hold good segments for each level; a test puts the descriptor that it is about at MACHINE_TEST.
 */
#ifndef OWHP_TESTS_GUEST_MACHINE_H
#define OWHP_TESTS_GUEST_MACHINE_H

#include "guest.h"

enum machine_mode {
    MACHINE_REAL,
    MACHINE_V86,
    MACHINE_PROTECTED16,
    MACHINE_PROTECTED32,
    MACHINE_COMPATIBILITY16,
    MACHINE_COMPATIBILITY32,
    MACHINE_LONG,
    MACHINE_MODES,
};

/* Where things are. */
enum {
    MACHINE_IDT = 0x1000,
    MACHINE_GDT = 0x2000,
    MACHINE_TSS = 0x3000,
    MACHINE_PML4 = 0x4000,
    MACHINE_PDPT = 0x5000,
    MACHINE_NEW_TSS = 0x6000,
    MACHINE_CODE = 0x8000,
    MACHINE_DATA = 0xa000,
    MACHINE_STACK = 0xc000,
    MACHINE_INNER = 0xd000, /* stacks of levels 0, 1, 2: 0x800 below each other from here down: see machine_inner */
};

/* Selectors, without RPL; those of a level come with it. */
enum {
    MACHINE_TSS_SELECTOR = 0x88, /* 16 bytes */
    MACHINE_TEST = 0xa0,         /* 16 bytes each */
    MACHINE_TEST2 = 0xb0,
    MACHINE_LAST = 0xc8, /* an entry that is the last one: half of a 16-byte descriptor */
    MACHINE_GDT_END = 0xd0,
};
#define MACHINE_CODE32(level)  ((uint16_t)(0x08 + 0x20 * (level)))
#define MACHINE_CODE16(level)  ((uint16_t)(0x10 + 0x20 * (level)))
#define MACHINE_CODE64(level)  ((uint16_t)(0x18 + 0x20 * (level)))
#define MACHINE_DATA_OF(level) ((uint16_t)(0x20 + 0x20 * (level)))

/* What a byte of access rights says; `flags` of a descriptor: G D L AVL in bits 3..0. */
struct rights {
    unsigned type; /* 0..15 system, 16..31 code and data: S is bit 4 */
    unsigned dpl;
    bool present;
    unsigned flags;
};

struct machine {
    struct guest guest;
    enum machine_mode mode;
    unsigned cpl;
    bool entered;
};

/* What one instruction or event came to. */
enum { OUTCOME_DONE = -1, OUTCOME_OTHER = -2 };
struct outcome {
    int vector;
    uint32_t error;
};

bool machine_create(struct machine *machine);
void machine_destroy(struct machine *machine);

/* All registers as the mode and level want them; descriptor tables as in the beginning. cpl must suit (0 in real, 3 in
 * virtual-8086 mode). */
void machine_enter(struct machine *machine, enum machine_mode mode, unsigned cpl);

void machine_put(struct machine *machine, uint32_t at, uint64_t value, unsigned size);
uint64_t machine_get(const struct machine *machine, uint32_t at, unsigned size);

uint64_t machine_segment(struct rights rights, uint32_t base, uint32_t limit); /* limit: 20 bits */
uint64_t machine_gate(struct rights rights, uint16_t selector, uint32_t offset, unsigned count);
void machine_set_descriptor(struct machine *machine, uint16_t selector, uint64_t low, uint64_t high);
uint64_t machine_descriptor(const struct machine *machine, uint16_t selector);

/* Code for later: `size` bytes at its own place; returns its offset. What is there may not be changed. */
uint16_t machine_add_code(struct machine *machine, const void *code, size_t size);

/* One instruction at `offset`, and the exception that it raises (not delivered). */
struct outcome machine_step(struct machine *machine, uint32_t offset);

static inline bool machine_mode_is_long(enum machine_mode mode)
{
    return mode >= MACHINE_COMPATIBILITY16;
}
/* Default operand size of code: 2 or 4 bytes. */
static inline unsigned machine_mode_size(enum machine_mode mode)
{
    return mode == MACHINE_PROTECTED32 || mode == MACHINE_COMPATIBILITY32 || mode == MACHINE_LONG ? 4 : 2;
}
static inline uint32_t machine_inner(unsigned level)
{
    return (uint32_t)(MACHINE_INNER + 0x800 * (level + 1));
}
extern const char *const machine_mode_names[MACHINE_MODES];

#endif
