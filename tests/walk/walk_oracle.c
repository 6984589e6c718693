#include "walk_oracle.h"

#include <string.h>

void *tables_at(struct tables *tables, gpa_t gpa, unsigned size)
{
    for (unsigned i = 0; i < tables->count; i++)
        if (gpa >= tables->base[i] && gpa + size <= tables->base[i] + 4096)
            return tables->bytes[i] + (gpa - tables->base[i]);
    return NULL;
}

static bool bit(uint64_t value, unsigned n)
{
    return (value >> n) & 1;
}

/* ---- the kinds of entries, with their reserved bits; M stands for MAXPHYADDR ---- */

#define M (-1)

enum kind { PML5E, PML4E, PDPTE, PDE, PTE, PAE_PDPTE, PAE_PDE, PAE_PTE, PDE32, PTE32 };

struct range {
    int from, to; /* inclusive; from > to: empty */
};

struct format {
    const char *name;
    unsigned bytes;         /* of an entry */
    unsigned index_low;     /* lowest address bit of the index */
    unsigned index_bits;
    bool may_map;           /* bit 7 is PS */
    bool has_rights;        /* takes part in access rights and has an accessed bit */
    struct range reserved[3];       /* when it references a table (or is a PTE) */
    struct range reserved_large[3]; /* when it maps a page itself */
};

/* clang-format off */
static const struct format formats[] = {
    [PML5E]     = {"PML5E",     8, 48, 9, false, true,  {{7, 7}, {M, 51}}, {{0}}},
    [PML4E]     = {"PML4E",     8, 39, 9, false, true,  {{7, 7}, {M, 51}}, {{0}}},
    [PDPTE]     = {"PDPTE",     8, 30, 9, true,  true,  {{M, 51}},         {{13, 29}, {M, 51}}},
    [PDE]       = {"PDE",       8, 21, 9, true,  true,  {{M, 51}},         {{13, 20}, {M, 51}}},
    [PTE]       = {"PTE",       8, 12, 9, false, true,  {{M, 51}},         {{0}}},
    [PAE_PDPTE] = {"PAE PDPTE", 8, 30, 2, false, false, {{1, 2}, {5, 8}, {M, 63}}, {{0}}},
    [PAE_PDE]   = {"PAE PDE",   8, 21, 9, true,  true,  {{M, 62}},         {{13, 20}, {M, 62}}},
    [PAE_PTE]   = {"PAE PTE",   8, 12, 9, false, true,  {{M, 62}},         {{0}}},
    [PDE32]     = {"PDE32",     4, 22, 10, true, true,  {{1, 0}},          {{21, 21}, {-2, 20}}},
    [PTE32]     = {"PTE32",     4, 12, 10, false, true, {{1, 0}},          {{0}}},
};
/* clang-format on */

static const enum kind chain_5[] = {PML5E, PML4E, PDPTE, PDE, PTE};
static const enum kind chain_4[] = {PML4E, PDPTE, PDE, PTE};
static const enum kind chain_pae[] = {PAE_PDPTE, PAE_PDE, PAE_PTE};
static const enum kind chain_32[] = {PDE32, PTE32};

static bool hits(const struct range ranges[3], uint64_t entry, unsigned maxphyaddr)
{
    for (unsigned r = 0; r < 3; r++) {
        int from = ranges[r].from, to = ranges[r].to;
        if (from == 0 && to == 0)
            continue;
        if (from == M)
            from = (int)maxphyaddr;
        if (from == -2) /* PSE-36: bits 20 .. (M - 19), M at most 40 (SDM table 4-4) */
            from = (maxphyaddr > 40 ? 40 : (int)maxphyaddr) - 19;
        for (int n = from; n <= to; n++)
            if (bit(entry, (unsigned)n))
                return true;
    }
    return false;
}

static bool maps_page(enum kind kind, uint64_t entry, const struct walk_state *state)
{
    if (kind == PTE || kind == PAE_PTE || kind == PTE32)
        return true;
    if (!formats[kind].may_map || !bit(entry, 7))
        return false;
    return kind != PDE32 || bit(state->cr4, 4); /* PS is ignored without CR4.PSE */
}

static bool is_reserved(enum kind kind, uint64_t entry, const struct walk_state *state)
{
    const struct format *f = &formats[kind];
    bool large = f->may_map && maps_page(kind, entry, state);

    /* "If IA32_EFER.NXE = 0, bit 63 is reserved" */
    if (f->bytes == 8 && bit(entry, 63) && !bit(state->efer, 11))
        return true;
    if (kind == PDPTE && large && state->no_1g_pages)
        return true; /* "If the processor does not support 1-GByte pages, bit 7 is reserved" (4.5) */
    return hits(large ? f->reserved_large : f->reserved, entry, state->physical_bits);
}

/* ---- access rights ---- */

enum access { READ, WRITE, FETCH };

struct page {
    bool user_mode_address; /* U/S = 1 in every entry */
    bool writable;          /* R/W = 1 in every entry */
    bool no_execute;        /* XD = 1 in some entry */
    unsigned key;
};

/* "User-mode access" is one at CPL 3 that is not implicit. */
static bool user_mode_access(uint32_t flags)
{
    return (flags & WALK_USER) && !(flags & WALK_IMPLICIT);
}

/* SDM 3A 4.6.1, "For supervisor-mode accesses" and "For user-mode accesses". */
static bool allowed_by_rights(const struct walk_state *s, const struct page *p, uint32_t flags, enum access access)
{
    const bool wp = bit(s->cr0, 16), smep = bit(s->cr4, 20), smap = bit(s->cr4, 21);
    const bool xd = bit(s->efer, 11) && p->no_execute;
    bool ac = s->ac;

    if (flags & WALK_OVERRIDE_SMAP)
        ac = true;
    else if (flags & WALK_ENFORCE_SMAP)
        ac = false;
    if (user_mode_access(flags)) {
        if (!p->user_mode_address)
            return false; /* "Access is not allowed to supervisor-mode addresses" */
        switch (access) {
        case READ: return true;
        case WRITE: return p->writable;
        default: return !xd;
        }
    }
    if (!p->user_mode_address) {
        switch (access) {
        case READ: return true;
        case WRITE: return wp ? p->writable : true;
        default: return !xd;
        }
    }
    /* "If CR4.SMAP = 1, access rights depend on ... EFLAGS.AC = 1 and the access is explicit" */
    const bool data_allowed = !smap || (ac && !(flags & WALK_IMPLICIT));
    switch (access) {
    case READ: return data_allowed;
    case WRITE: return data_allowed && (wp ? p->writable : true);
    default: return smep ? false : !xd;
    }
}

/* SDM 3A 4.6.2: keys bind data accesses only. */
static bool allowed_by_key(const struct walk_state *s, const struct page *p, uint32_t flags, enum access access)
{
    const bool pke = bit(s->cr4, 22), pks = bit(s->cr4, 24), wp = bit(s->cr0, 16);

    if (!bit(s->efer, 10) || access == FETCH)
        return true;
    if (p->user_mode_address ? !pke : !pks)
        return true;
    const uint32_t rights = p->user_mode_address ? s->pkru : s->pkrs;
    const bool ad = bit(rights, 2 * p->key), wd = bit(rights, 2 * p->key + 1);
    if (ad)
        return false;
    if (wd && access == WRITE)
        return !(user_mode_access(flags) || wp);
    return true;
}

static bool allowed(const struct walk_state *s, const struct page *p, uint32_t flags, enum access access)
{
    return allowed_by_rights(s, p, flags, access) && allowed_by_key(s, p, flags, access);
}

/* ---- error code (SDM 3A 4.7) ---- */

static uint32_t error_code(const struct walk_state *s, uint32_t flags, bool present, bool reserved, bool key)
{
    uint32_t e = 0;
    e |= present ? 1 << 0 : 0;
    e |= flags & WALK_WRITE ? 1 << 1 : 0;
    e |= user_mode_access(flags) ? 1 << 2 : 0;
    e |= reserved ? 1 << 3 : 0;
    if ((flags & WALK_EXECUTE) && (bit(s->cr4, 20) || (bit(s->cr4, 5) && bit(s->efer, 11))))
        e |= 1 << 4;
    e |= key ? 1 << 5 : 0;
    return e;
}

/* ---- the walk ---- */

static bool is_canonical(gva_t gva, unsigned width)
{
    for (unsigned n = width; n < 64; n++)
        if (bit(gva, n) != bit(gva, width - 1))
            return false;
    return true;
}

static gpa_t field(uint64_t value, unsigned high, unsigned low)
{
    gpa_t out = 0;
    for (unsigned n = low; n <= high; n++)
        if (bit(value, n))
            out |= 1ull << n;
    return out;
}

static void conclude(const struct walk_state *s, const struct page *p, uint32_t flags, struct oracle_result *out)
{
    const enum access kinds[] = {READ, WRITE, FETCH};
    const uint32_t asked[] = {WALK_READ, WALK_WRITE, WALK_EXECUTE};
    bool refused = false, by_key = false;

    for (unsigned i = 0; i < 3; i++)
        if (flags & asked[i]) {
            refused |= !allowed(s, p, flags, kinds[i]);
            by_key |= !allowed_by_key(s, p, flags, kinds[i]);
        }
    if (refused) {
        out->status = WALK_PRIVILEGE;
        out->error = error_code(s, flags, true, false, by_key);
        return;
    }
    out->status = WALK_OK;
    out->writable = allowed(s, p, flags, WRITE);
    out->user = p->user_mode_address;
    out->executable = !(bit(s->efer, 11) && p->no_execute);
    out->pkey = (uint8_t)p->key;
    for (unsigned i = 0; i < out->entries && (flags & WALK_SET_BITS); i++) {
        out->entry_after[i] |= 1 << 5;
        if (i == out->entries - 1 && (flags & WALK_WRITE))
            out->entry_after[i] |= 1 << 6;
    }
    out->dirty = bit(out->entry_after[out->entries - 1], 6);
    out->global = bit(out->entry_after[out->entries - 1], 8) && bit(s->cr4, 7);
}

static void go(const struct walk_state *state, struct tables *tables, gva_t gva, uint32_t flags, struct oracle_result *out)
{
    const bool is_long = bit(state->efer, 10), is_pae = bit(state->cr4, 5), is_5 = bit(state->cr4, 12);
    const enum kind *chain = is_long ? (is_5 ? chain_5 : chain_4) : is_pae ? chain_pae : chain_32;
    struct page page = {.user_mode_address = true, .writable = true};
    const unsigned top = state->physical_bits - 1;
    gpa_t table;

    memset(out, 0, sizeof(*out));
    if (!bit(state->cr0, 31)) {
        *out = (struct oracle_result){.gpa = gva & 0xffffffff, .page_size = 4096, .writable = true, .user = true,
                                      .executable = true, .dirty = true};
        return;
    }
    if (is_long && !is_canonical(gva, is_5 ? 57 : 48)) {
        out->status = WALK_NOT_CANONICAL;
        return;
    }
    if (!is_long)
        gva &= 0xffffffff;
    table = is_long ? field(state->cr3, top, 12) : is_pae ? field(state->cr3, 31, 5) : field(state->cr3, 31, 12);

    for (unsigned level = 0;; level++) {
        const enum kind kind = chain[level];
        const struct format *f = &formats[kind];
        const uint64_t index = field(gva, f->index_low + f->index_bits - 1, f->index_low) >> f->index_low;
        const gpa_t at = table + index * f->bytes;
        uint64_t entry = 0;

        if (kind == PAE_PDPTE && state->pdpte) {
            entry = state->pdpte[index];
        } else {
            void *host = tables_at(tables, at, f->bytes);
            if (!host) {
                out->status = WALK_TABLE_UNMAPPED;
                out->gpa = at;
                return;
            }
            memcpy(&entry, host, f->bytes);
        }
        if (!bit(entry, 0)) {
            out->status = WALK_NOT_PRESENT;
            out->error = error_code(state, flags, false, false, false);
            return;
        }
        if (is_reserved(kind, entry, state)) {
            out->status = WALK_RESERVED_BITS;
            out->error = error_code(state, flags, true, true, false);
            return;
        }
        if (f->has_rights) {
            page.writable &= bit(entry, 1);
            page.user_mode_address &= bit(entry, 2);
            page.no_execute |= f->bytes == 8 && bit(entry, 63);
            out->entry_gpa[out->entries] = at;
            out->entry_after[out->entries] = entry;
            out->entry_size = f->bytes;
            out->entries++;
        }
        if (!maps_page(kind, entry, state)) {
            table = f->bytes == 4 ? field(entry, 31, 12) : field(entry, top, 12);
            continue;
        }
        out->page_size = 1ull << f->index_low;
        out->gpa = f->bytes == 4 ? field(entry, 31, f->index_low) : field(entry, top, f->index_low);
        if (kind == PDE32)
            out->gpa |= field(entry, 20, 13) << (32 - 13);
        out->gpa |= gva & (out->page_size - 1);
        page.key = is_long ? (unsigned)(field(entry, 62, 59) >> 59) : 0;
        conclude(state, &page, flags, out);
        return;
    }
}

/* WALK_KEEP_BITS (TLFS, HvTranslateVirtualAddress): accessed bits are set as the walk proceeds, and stay. */
void oracle_walk(const struct walk_state *state, struct tables *tables, gva_t gva, uint32_t flags, struct oracle_result *out)
{
    go(state, tables, gva, flags, out);
    const unsigned passed = out->status == WALK_PRIVILEGE ? out->entries - 1 : out->entries;
    for (unsigned i = 0; i < passed && out->status != WALK_OK && (flags & WALK_SET_BITS) && (flags & WALK_KEEP_BITS); i++)
        out->entry_after[i] |= 1 << 5;
}
