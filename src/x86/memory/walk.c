/*
 * The page walk.
 *
 * Three shapes share one ending: 32-bit tables (two levels of 4-byte entries), PAE (four PDPTEs, then two
 * levels of 8-byte entries) and the long tables (four or five levels). Each goes down to the leaf, checking
 * "present" before "reserved bits" at every level, and gathers what the rights depend on: the AND of all
 * entries (R/W, U/S, A) and the OR (XD). Rights are checked once, at the leaf; accessed and dirty bits are
 * written after that, so a walk that faults changes nothing (SDM 3A 4.6 to 4.8 allow this, and it keeps an
 * abandoned instruction without a trace). The API's translation is otherwise: its bits are set as the walk proceeds, and
 * stay when it fails farther down (WALK_KEEP_BITS).
 *
 * An entry that somebody changed between our reading it and our setting a bit in it makes the walk start again.
 */
#include "x86/memory/walk_common.h"

/* Reserved in large leaves: the address bits below the page size, but for PAT (bit 12). */
#define LARGE_2M_RESERVED 0x00000000001fe000ull
#define LARGE_1G_RESERVED 0x000000003fffe000ull
/* A PAE page-directory-pointer entry: bits 1-2 and 5-8 (SDM 3A table 4-8). */
#define PAE_PDPTE_RESERVED 0x00000000000001e6ull

enum { MAXIMUM_LEVELS = 5 };

struct step {
    gpa_t gpa;
    uint64_t entry;
};

struct descent {
    const struct walk_state *state;
    const struct walk_memory *memory;
    struct walk_result *result;
    uint32_t flags;
    unsigned entry_size;               /* 4 or 8 */
    unsigned count;                    /* entries with an accessed bit, the leaf is the last one */
    struct step step[MAXIMUM_LEVELS];
    uint64_t all, any;                 /* AND and OR of them */
};

/* ---- faults ---- */

/* The error code but for P, RSVD and PK (SDM 3A 4.7). */
static uint32_t access_error(const struct walk_state *state, uint32_t flags)
{
    uint32_t error = 0;
    if (flags & WALK_WRITE)
        error |= PF_W;
    if (is_user_access(flags))
        error |= PF_U;
    if ((flags & WALK_EXECUTE) &&
        ((state->cr4 & CR4_SMEP) || ((state->cr4 & CR4_PAE) && (state->efer & EFER_NXE))))
        error |= PF_I;
    return error;
}

static enum walk_status fault(const struct descent *d, enum walk_status status, uint32_t extra)
{
    d->result->fault_error = access_error(d->state, d->flags) | extra;
    return status;
}

/* ---- going down ---- */

/* Read one entry and check it. `reserved`: the bits that must be zero in this one, `large` more if PS is set. */
static always_inline enum walk_status descend(struct descent *d, gpa_t gpa, uint64_t reserved,
                                              uint64_t large)
{
    uint64_t entry = 0;
    enum walk_status status = d->memory->load(d->memory->context, gpa, d->entry_size, &entry);
    if (unlikely(status != WALK_OK)) {
        d->result->gpa = gpa;
        return status;
    }
    if (unlikely(!(entry & PTE_P)))
        return fault(d, WALK_NOT_PRESENT, 0);
    if (entry & PTE_PS)
        reserved |= large;
    if (unlikely(entry & reserved))
        return fault(d, WALK_RESERVED_BITS, PF_P | PF_RSVD);
    d->step[d->count].gpa = gpa;
    d->step[d->count].entry = entry;
    d->count++;
    d->all &= entry;
    d->any |= entry;
    return WALK_OK;
}

static always_inline uint64_t leaf_of(const struct descent *d)
{
    return d->step[d->count - 1].entry;
}

/* ---- the leaf: rights (walk_common.h), accessed and dirty bits ---- */

/* Set A in the first `count` entries and D in one of them, the leaf of a write. *again: somebody else changed an entry. */
static noinline enum walk_status set_bits(struct descent *d, unsigned count, unsigned dirty, bool *again)
{
    for (unsigned i = 0; i < count; i++) {
        struct step *step = &d->step[i];
        const uint64_t bits = i == dirty ? PTE_A | PTE_D : PTE_A;
        if ((step->entry & bits) == bits)
            continue;
        bool done = false;
        enum walk_status status = d->memory->update(d->memory->context, step->gpa, d->entry_size,
                                                    step->entry, step->entry | bits, &done);
        if (status != WALK_OK) {
            d->result->gpa = step->gpa;
            return status;
        }
        if (!done) {
            *again = true;
            return WALK_OK;
        }
        step->entry |= bits;
    }
    return WALK_OK;
}

/* The leaf is reached: `page` is the page's address, `size` its size. */
static always_inline enum walk_status arrive(struct descent *d, gva_t gva, gpa_t page, uint64_t size,
                                             bool *again)
{
    struct walk_result *result = d->result;
    const struct rights rights = page_rights(d->state, d->flags, d->all, d->any, result->pkey);
    enum walk_status status;

    if (denied_by_key(&rights, d->flags))
        return fault(d, WALK_PRIVILEGE, PF_P | PF_PK);
    if (denied_by_rights(&rights, d->flags))
        return fault(d, WALK_PRIVILEGE, PF_P);
    if (d->flags & WALK_SET_BITS) {
        bool needs_dirty = (d->flags & WALK_WRITE) && !(leaf_of(d) & PTE_D);
        if (!(d->all & PTE_A) || needs_dirty) {
            status = set_bits(d, d->count, d->flags & WALK_WRITE ? d->count - 1 : d->count, again);
            if (status != WALK_OK || *again)
                return status;
        }
    }
    result->gpa = page | (gva & (size - 1));
    result->page_size = size;
    result->writable = rights.write && rights.key_write;
    result->user = d->all & PTE_U;
    result->executable = !((d->state->efer & EFER_NXE) && (d->any & PTE_NX));
    result->dirty = leaf_of(d) & PTE_D;
    result->global = (leaf_of(d) & PTE_G) && (d->state->cr4 & CR4_PGE);
    return WALK_OK;
}

/* A walk failed: what it set on its way there stays. The leaf of one that the rights forbid is not passed. */
static noinline enum walk_status keep_bits(struct descent *d, enum walk_status failure, bool *again)
{
    const unsigned passed = failure == WALK_PRIVILEGE ? d->count - 1 : d->count;
    const gpa_t at = d->result->gpa;
    enum walk_status status;

    if (failure == WALK_TABLE_NO_WRITE || failure == WALK_TABLE_STOPPED)
        return failure;
    status = set_bits(d, passed, passed, again);
    if (status != WALK_OK)
        return status;
    d->result->gpa = at;
    return failure;
}

/* ---- the shapes ---- */

static enum walk_status walk_long(struct descent *d, gva_t gva, bool *again)
{
    const struct walk_state *state = d->state;
    const uint64_t address = address_mask(state);
    /* Bits 51..M; 62..52 are ignored or the protection key. */
    uint64_t reserved = (BIT64(52) - 1) & PAGE_MASK & ~address;
    unsigned levels = (state->cr4 & CR4_LA57) ? 5 : 4;
    gpa_t table = state->cr3 & address;

    if (unlikely((uint64_t)((int64_t)(gva << (64 - 12 - 9 * levels)) >> (64 - 12 - 9 * levels)) != gva))
        return WALK_NOT_CANONICAL;
    if (!(state->efer & EFER_NXE))
        reserved |= PTE_NX;

    for (unsigned level = levels; level > 1; level--) {
        const unsigned shift = PAGE_SHIFT + 9 * (level - 1);
        const gpa_t gpa = table | (((gva >> shift) & 511) << 3);
        const uint64_t large = level > 3    ? PTE_PS
                               : level == 3 ? (state->no_1g_pages ? PTE_PS : LARGE_1G_RESERVED)
                                            : LARGE_2M_RESERVED;
        enum walk_status status = descend(d, gpa, reserved, large);
        if (unlikely(status != WALK_OK))
            return status;
        table = leaf_of(d) & address;
        if (leaf_of(d) & PTE_PS) {
            d->result->pkey = (leaf_of(d) >> 59) & 15;
            return arrive(d, gva, table & ~(BIT64(shift) - 1), BIT64(shift), again);
        }
    }
    enum walk_status status = descend(d, table | (((gva >> PAGE_SHIFT) & 511) << 3), reserved, 0);
    if (unlikely(status != WALK_OK))
        return status;
    d->result->pkey = (leaf_of(d) >> 59) & 15;
    return arrive(d, gva, leaf_of(d) & address, PAGE_SIZE, again);
}

/* The PDPTE has neither rights nor an accessed bit, so it is no step of the descent. */
static enum walk_status read_pdpte(struct descent *d, gva_t gva, uint64_t reserved, uint64_t *entry)
{
    const unsigned index = (gva >> 30) & 3;
    if (d->state->pdpte) {
        *entry = d->state->pdpte[index];
    } else {
        const gpa_t gpa = (d->state->cr3 & 0xffffffe0u) + index * 8;
        enum walk_status status = d->memory->load(d->memory->context, gpa, 8, entry);
        if (status != WALK_OK) {
            d->result->gpa = gpa;
            return status;
        }
    }
    if (!(*entry & PTE_P))
        return fault(d, WALK_NOT_PRESENT, 0);
    if (*entry & reserved)
        return fault(d, WALK_RESERVED_BITS, PF_P | PF_RSVD);
    return WALK_OK;
}

static enum walk_status walk_pae(struct descent *d, gva_t gva, bool *again)
{
    const struct walk_state *state = d->state;
    const uint64_t address = address_mask(state);
    uint64_t reserved = (BIT64(63) - 1) & PAGE_MASK & ~address; /* bits 62..M (tables 4-9 to 4-11) */
    uint64_t pdpte = 0;

    gva = (uint32_t)gva;
    enum walk_status status = read_pdpte(d, gva, reserved | PTE_NX | PAE_PDPTE_RESERVED, &pdpte);
    if (status != WALK_OK)
        return status;
    if (!(state->efer & EFER_NXE))
        reserved |= PTE_NX;
    status = descend(d, (pdpte & address) | (((gva >> 21) & 511) << 3), reserved, LARGE_2M_RESERVED);
    if (status != WALK_OK)
        return status;
    if (leaf_of(d) & PTE_PS)
        return arrive(d, gva, leaf_of(d) & address & ~(BIT64(21) - 1), BIT64(21), again);
    status = descend(d, (leaf_of(d) & address) | (((gva >> 12) & 511) << 3), reserved, 0);
    if (status != WALK_OK)
        return status;
    return arrive(d, gva, leaf_of(d) & address, PAGE_SIZE, again);
}

/* A 4 MiB page's address: bits 31..22 in place, bits 39..32 in 20..13 (PSE-36, SDM 3A 4.3). */
static gpa_t pse36_address(uint64_t entry)
{
    return (entry & 0xffc00000u) | (((entry >> 13) & 0xff) << 32);
}

/* Bits 21..13 that are no address with this physical width. */
static uint64_t pse36_reserved(unsigned physical_bits)
{
    unsigned address_bits = physical_bits > 40 ? 8 : physical_bits > 32 ? physical_bits - 32 : 0;
    return 0x003fe000u & ~((BIT64(address_bits) - 1) << 13);
}

static enum walk_status walk_32(struct descent *d, gva_t gva, bool *again)
{
    const struct walk_state *state = d->state;
    const bool has_large = state->cr4 & CR4_PSE;

    gva = (uint32_t)gva;
    d->entry_size = 4;
    enum walk_status status = descend(d, (state->cr3 & 0xfffff000u) | (((gva >> 22) & 1023) << 2), 0,
                                      has_large ? pse36_reserved(state->physical_bits) : 0);
    if (status != WALK_OK)
        return status;
    if (has_large && (leaf_of(d) & PTE_PS))
        return arrive(d, gva, pse36_address(leaf_of(d)), BIT64(22), again);
    status = descend(d, (leaf_of(d) & 0xfffff000u) | (((gva >> 12) & 1023) << 2), 0, 0);
    if (status != WALK_OK)
        return status;
    return arrive(d, gva, leaf_of(d) & 0xfffff000u, PAGE_SIZE, again);
}

static noinline bool walk_common_4(const struct walk_state *state, const struct walk_memory *memory, gva_t gva, uint32_t flags,
                                   struct walk_result *result, enum walk_status *status)
{
    return walk_common(state, memory, gva, flags, result, status, 48);
}

static noinline bool walk_common_5(const struct walk_state *state, const struct walk_memory *memory, gva_t gva, uint32_t flags,
                                   struct walk_result *result, enum walk_status *status)
{
    return walk_common(state, memory, gva, flags, result, status, 57);
}

static enum walk_status no_walk(gva_t gva, struct walk_result *result)
{
    *result = (struct walk_result){.gpa = (uint32_t)gva,
                                   .page_size = PAGE_SIZE,
                                   .writable = true,
                                   .user = true,
                                   .executable = true,
                                   .dirty = true};
    return WALK_OK;
}

enum walk_status walk(const struct walk_state *state, const struct walk_memory *memory, gva_t gva,
                      uint32_t flags, struct walk_result *result)
{
    struct descent d;
    enum walk_status status;
    bool again;

    if (!(state->cr0 & CR0_PG))
        return no_walk(gva, result);
    if ((state->efer & EFER_LMA) &&
        likely((state->cr4 & CR4_LA57 ? walk_common_5 : walk_common_4)(state, memory, gva, flags, result, &status)))
        return status;
    d.state = state;
    d.memory = memory;
    d.result = result;
    d.flags = flags;
    do {
        again = false;
        d.entry_size = 8;
        d.count = 0;
        d.all = ~0ull;
        d.any = 0;
        *result = (struct walk_result){0};
        if (state->efer & EFER_LMA)
            status = walk_long(&d, gva, &again);
        else if (state->cr4 & CR4_PAE)
            status = walk_pae(&d, gva, &again);
        else
            status = walk_32(&d, gva, &again);
        if (unlikely(status != WALK_OK) && (flags & WALK_KEEP_BITS))
            status = keep_bits(&d, status, &again);
    } while (unlikely(again));
    return status;
}
