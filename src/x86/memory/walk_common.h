/*
 * What the walks of all modes share about rights, and the walk that most walks are, to be compiled into whoever walks most: there
 * the function that loads an entry is known, and becomes part of the loop.
 */
#ifndef OWHP_X86_WALK_COMMON_H
#define OWHP_X86_WALK_COMMON_H

#include "util/compiler.h"
#include "x86/memory/walk.h"

/* ---- rights ---- */

static always_inline bool is_user_access(uint32_t flags)
{
    return (flags & (WALK_USER | WALK_IMPLICIT)) == WALK_USER;
}

struct key_rights {
    bool no_access, no_write;
};

/* Protection keys bind data accesses in the long modes (SDM 3A 4.6.2). */
static inline struct key_rights key_rights(const struct walk_state *state, bool user_page, uint8_t key)
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

static inline bool smap_forbids(const struct walk_state *state, uint32_t flags)
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

/* ---- the walk ---- */

static always_inline uint64_t address_mask(const struct walk_state *state)
{
    return (BIT64(state->physical_bits) - 1) & PAGE_MASK;
}

/*
 * The walk that most walks are: four or five levels, everything present and allowed, accessed and dirty bits set already. It
 * keeps what it gathers in registers, which the general one cannot. False: something is different, the general walk sees to it;
 * but a table that cannot be read is not asked for twice: *status tells.
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
            if (flags & WALK_KEEP_BITS)
                return false;
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

#endif
