/*
 * The page walk.
 *
 * Three shapes share one ending: 32-bit tables (two levels of 4-byte entries), PAE (four PDPTEs, then two
 * levels of 8-byte entries) and the long tables (four or five levels). Each goes down to the leaf, checking
 * "present" before "reserved bits" at every level, and gathers what the rights depend on: the AND of all
 * entries (R/W, U/S, A) and the OR (XD). Rights are checked once, at the leaf; accessed and dirty bits are
 * written after that, so a walk that faults changes nothing (SDM 3A 4.6 to 4.8 allow this, and it keeps an
 * abandoned instruction without a trace).
 *
 * An entry that somebody changed between our reading it and our setting a bit in it makes the walk start again.
 */
#include "x86/walk.h"

#include "util/compiler.h"

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

static bool is_user_access(uint32_t flags)
{
    return (flags & (WALK_USER | WALK_IMPLICIT)) == WALK_USER;
}

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

/* ---- the leaf: rights, accessed and dirty bits ---- */

struct key_rights {
    bool no_access, no_write;
};

/* Protection keys bind data accesses in the long modes (SDM 3A 4.6.2). */
static struct key_rights key_rights(const struct walk_state *state, bool user_page, uint8_t key)
{
    uint32_t rights = 0;
    if (!(state->efer & EFER_LMA))
        return (struct key_rights){false, false};
    if (user_page && (state->cr4 & CR4_PKE))
        rights = state->pkru;
    else if (!user_page && (state->cr4 & CR4_PKS))
        rights = state->pkrs;
    rights >>= 2 * key;
    return (struct key_rights){rights & 1, (rights & 3) != 0};
}

static bool smap_forbids(const struct walk_state *state, uint32_t flags)
{
    if (!(state->cr4 & CR4_SMAP))
        return false;
    if (flags & WALK_IMPLICIT)
        return true;
    if (flags & WALK_OVERRIDE_SMAP)
        return false;
    return (flags & WALK_ENFORCE_SMAP) || !state->ac;
}

struct rights {
    bool read, write, execute; /* by the page's own bits */
    struct key_rights key;
    bool key_write;            /* the key lets this kind of access write */
};

/* What this kind of access may do with the page (SDM 3A 4.6.1). */
static always_inline struct rights page_rights(const struct walk_state *state, uint32_t flags, uint64_t all, uint64_t any,
                                               uint8_t pkey)
{
    const bool user_page = all & PTE_U;
    const bool writable = all & PTE_W;
    const bool no_execute = (state->efer & EFER_NXE) && (any & PTE_NX);
    struct rights r = {.key_write = true};

    if (is_user_access(flags)) {
        r.read = user_page;
        r.write = user_page && writable;
        r.execute = user_page && !no_execute;
    } else {
        r.read = !(user_page && smap_forbids(state, flags));
        r.write = r.read && (writable || !(state->cr0 & CR0_WP));
        r.execute = !no_execute && !(user_page && (state->cr4 & CR4_SMEP));
    }
    if (unlikely(state->cr4 & (CR4_PKE | CR4_PKS))) {
        r.key = key_rights(state, user_page, pkey);
        /* Write-disable binds the supervisor only with CR0.WP. */
        r.key_write = !r.key.no_access && !(r.key.no_write && (is_user_access(flags) || (state->cr0 & CR0_WP)));
    }
    return r;
}

static always_inline bool denied_by_rights(const struct rights *r, uint32_t flags)
{
    return ((flags & WALK_READ) && !r->read) || ((flags & WALK_WRITE) && !r->write) ||
           ((flags & WALK_EXECUTE) && !r->execute);
}

static always_inline bool denied_by_key(const struct rights *r, uint32_t flags)
{
    return ((flags & WALK_READ) && r->key.no_access) || ((flags & WALK_WRITE) && !r->key_write);
}

/* Set A on the way and, for a write, D in the leaf. *again: somebody else changed an entry. */
static noinline enum walk_status set_bits(struct descent *d, bool *again)
{
    for (unsigned i = 0; i < d->count; i++) {
        struct step *step = &d->step[i];
        uint64_t bits = PTE_A;
        if (i == d->count - 1 && (d->flags & WALK_WRITE))
            bits |= PTE_D;
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
            status = set_bits(d, again);
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

/* ---- the shapes ---- */

static uint64_t address_mask(const struct walk_state *state)
{
    return (BIT64(state->physical_bits) - 1) & PAGE_MASK;
}

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
        const uint64_t large = level > 3 ? PTE_PS : level == 3 ? (state->no_1g_pages ? PTE_PS : LARGE_1G_RESERVED) : LARGE_2M_RESERVED;
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

/*
 * The walk that most walks are: four or five levels, everything present and allowed, accessed and dirty bits set already. It keeps
 * what it gathers in registers, which the general one cannot. False: something is different, the general walk sees to it; but
 * a table that cannot be read is not asked for twice: *status tells.
 */
static always_inline bool walk_common(const struct walk_state *state, const struct walk_memory *memory, gva_t gva, uint32_t flags,
                                      struct walk_result *result, enum walk_status *status, const unsigned width)
{
    const uint64_t address = address_mask(state);
    const uint64_t no_execute = state->efer & EFER_NXE ? PTE_NX : 0;
    const uint64_t reserved = ((BIT64(52) - 1) & PAGE_MASK & ~address) | (no_execute ^ PTE_NX);
    uint64_t entry, all = ~0ull, any = 0;
    unsigned shift = width;
    gpa_t table = state->cr3 & address;

    if ((uint64_t)((int64_t)(gva << (64 - width)) >> (64 - width)) != gva)
        return false;
    do {
        shift -= 9;
        const gpa_t gpa = table | (((gva >> shift) & 511) << 3);
        *status = memory->load(memory->context, gpa, 8, &entry);
        if (unlikely(*status != WALK_OK)) {
            *result = (struct walk_result){.gpa = gpa};
            return true;
        }
        if (unlikely(!(entry & PTE_P) || (entry & reserved)))
            return false;
        all &= entry;
        any |= entry;
        table = entry & address;
    } while (shift > 12 && !(entry & PTE_PS));
    const uint64_t size = BIT64(shift);
    if (shift > 30 || (shift == 30 && state->no_1g_pages) || (table & (size - 1) & ~BIT64(12)))
        return false; /* PS in a PML4E or PML5E, reserved bits of a large page */

    const uint8_t pkey = (entry >> 59) & 15;
    const struct rights rights = page_rights(state, flags, all, any, pkey);
    if (denied_by_rights(&rights, flags) || denied_by_key(&rights, flags))
        return false;
    if ((flags & WALK_SET_BITS) && (!(all & PTE_A) || ((flags & WALK_WRITE) && !(entry & PTE_D))))
        return false;
    *result = (struct walk_result){
        .gpa = (table & ~(size - 1)) | (gva & (size - 1)),
        .page_size = size,
        .writable = rights.write && rights.key_write,
        .user = all & PTE_U,
        .executable = !(any & no_execute),
        .dirty = entry & PTE_D,
        .global = (entry & PTE_G) && (state->cr4 & CR4_PGE),
        .pkey = pkey,
    };
    return true;
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
    if ((state->efer & EFER_LMA) && likely((state->cr4 & CR4_LA57 ? walk_common_5 : walk_common_4)(state, memory, gva, flags, result, &status)))
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
    } while (unlikely(again));
    return status;
}
