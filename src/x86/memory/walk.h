/*
 * The page walk by value: guest virtual to guest physical by the rules of SDM 3A chapter 4, for TLB fills
 * and for the API's translation call. Knows no processor: state comes in, memory is reached through two functions.
 */
#ifndef OWHP_X86_WALK_H
#define OWHP_X86_WALK_H

#include "util/types.h"
#include "x86/bits.h"
#include "x86/port.h"

/* What a walk depends on. */
struct walk_state {
    uint64_t cr0, cr3, cr4, efer;
    const uint64_t *pdpte;  /* PAE: the four cached entries; NULL: read them from memory */
    uint32_t pkru, pkrs;
    uint8_t physical_bits;
    bool ac;                /* RFLAGS.AC, for SMAP */
    bool no_1g_pages;       /* the processor has none: PS in a PDPTE is reserved */
};

enum {
    WALK_READ = 1, WALK_WRITE = 2, WALK_EXECUTE = 4, /* what to check; none: no permission checks */
    WALK_USER = 8,           /* access at CPL 3 */
    WALK_SET_BITS = 16,      /* set accessed bits on the way, dirty in the leaf for WALK_WRITE */
    WALK_ENFORCE_SMAP = 32,  /* as if AC were 0 */
    WALK_OVERRIDE_SMAP = 64, /* as if AC were 1 */
    WALK_IMPLICIT = 128,     /* the processor's own access to a system structure: SMAP ignores AC */
    WALK_KEEP_BITS = 256,    /* with SET_BITS: accessed bits of the entries before the one where a walk fails are set, too */
};

enum walk_status {
    WALK_OK,
    WALK_NOT_PRESENT,
    WALK_PRIVILEGE,
    WALK_RESERVED_BITS,
    WALK_NOT_CANONICAL,
    WALK_TABLE_UNMAPPED,   /* a page table is at a GPA without memory */
    WALK_TABLE_NO_READ,
    WALK_TABLE_NO_WRITE,
    WALK_TABLE_STOPPED,    /* the memory function said stop (an exit was recorded) */
};

struct walk_memory {
    void *context;
    /* 4 or 8 bytes at a naturally aligned GPA. WALK_OK or a WALK_TABLE_ status. */
    enum walk_status (*load)(void *context, gpa_t gpa, unsigned size, uint64_t *value);
    /* Compare-exchange; *done false when somebody else changed it (the walk starts again). */
    enum walk_status (*update)(void *context, gpa_t gpa, unsigned size, uint64_t old, uint64_t value, bool *done);
};

struct walk_result {
    gpa_t gpa;             /* WALK_OK: with the page offset; WALK_TABLE_*: the entry's address */
    uint64_t page_size;    /* 4K, 2M, 4M, 1G; without paging 4K */
    bool writable;         /* a store by this kind of access (user/supervisor, WP) passes the permission checks */
    bool user;             /* U/S set on all levels */
    bool executable;       /* no NX on any level */
    bool dirty;            /* the leaf's dirty bit is set (true without paging): a store needs no walk */
    bool global;
    uint8_t pkey;
    uint32_t fault_error;  /* the #PF error code for NOT_PRESENT, PRIVILEGE and RESERVED_BITS */
};

enum walk_status walk(const struct walk_state *state, const struct walk_memory *memory, gva_t gva, uint32_t flags,
                      struct walk_result *result);

#endif
