/* The paging modes, as the tests of walks, of translations and of the TLB use them: a chain of tables with one entry each. */
#ifndef OWHP_TESTS_WALK_PAGING_MODES_H
#define OWHP_TESTS_WALK_PAGING_MODES_H

#include "x86/memory/walk.h"

struct mode {
    const char *name;
    uint64_t cr4, efer;
    unsigned levels;     /* tables on the way to a 4K page */
    unsigned leaf;       /* level of the leaf from the top, levels - 1: a 4K page */
    unsigned entry_size;
    unsigned shift[5];   /* of each level's index */
    unsigned first_with_rights;
};

/* clang-format off */
static const struct mode modes[] = {
    {"32-bit 4K", 0, 0, 2, 1, 4, {22, 12}, 0},
    {"32-bit 4M", CR4_PSE, 0, 2, 0, 4, {22, 12}, 0},
    {"PAE 4K", CR4_PAE, 0, 3, 2, 8, {30, 21, 12}, 1},
    {"PAE 2M", CR4_PAE, 0, 3, 1, 8, {30, 21, 12}, 1},
    {"4-level 4K", CR4_PAE, EFER_LME | EFER_LMA, 4, 3, 8, {39, 30, 21, 12}, 0},
    {"4-level 2M", CR4_PAE, EFER_LME | EFER_LMA, 4, 2, 8, {39, 30, 21, 12}, 0},
    {"4-level 1G", CR4_PAE, EFER_LME | EFER_LMA, 4, 1, 8, {39, 30, 21, 12}, 0},
    {"5-level 4K", CR4_PAE | CR4_LA57, EFER_LME | EFER_LMA, 5, 4, 8, {48, 39, 30, 21, 12}, 0},
    {"5-level 2M", CR4_PAE | CR4_LA57, EFER_LME | EFER_LMA, 5, 3, 8, {48, 39, 30, 21, 12}, 0},
    {"5-level 1G", CR4_PAE | CR4_LA57, EFER_LME | EFER_LMA, 5, 2, 8, {48, 39, 30, 21, 12}, 0},
};
/* clang-format on */
enum { MODES = sizeof(modes) / sizeof(modes[0]) };

static inline unsigned index_of(const struct mode *mode, unsigned level, gva_t gva)
{
    const unsigned bits = mode->entry_size == 4 ? 10 : (mode->levels == 3 && level == 0) ? 2 : 9;

    return (unsigned)(gva >> mode->shift[level]) & ((1u << bits) - 1);
}

/* Any number as an address of the mode: sign-extended where that is the rule. */
static inline gva_t canonical_in(const struct mode *mode, gva_t gva)
{
    const unsigned shift = mode->levels < 4 ? 0 : mode->levels == 5 ? 7 : 16;

    return (gva_t)((int64_t)(gva << shift) >> shift);
}

#endif
