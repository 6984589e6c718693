/*
 * The page walk against the oracle: every combination of rights bits in the leaf and one upper entry, control bits and access
 * kinds, in every mode and page size; then random entries with every bit free (reserved bits, keys, physical widths).
 * Statuses, error codes, addresses, what a TLB would keep, and the tables afterwards must be the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "util/compiler.h"
#include "paging_modes.h"
#include "walk_oracle.h"

/* ---- the walk's memory over struct tables ---- */

static enum walk_status load(void *context, gpa_t gpa, unsigned size, uint64_t *value)
{
    const void *at = tables_at(context, gpa, size);

    *value = 0;
    if (!at)
        return WALK_TABLE_UNMAPPED;
    memcpy(value, at, size);
    return WALK_OK;
}

static enum walk_status update(void *context, gpa_t gpa, unsigned size, uint64_t old, uint64_t value, bool *done)
{
    void *at = tables_at(context, gpa, size);
    uint64_t found = 0;

    if (!at)
        return WALK_TABLE_UNMAPPED;
    memcpy(&found, at, size);
    *done = found == old;
    if (*done)
        memcpy(at, &value, size);
    return WALK_OK;
}

/* ---- comparing ---- */

static void describe(const char *who, enum walk_status status, uint32_t error, gpa_t gpa, uint64_t size, const bool flags[5])
{
    print_error("  %-7s status %d error %#x gpa %#llx size %#llx writable %d user %d executable %d dirty %d global %d\n", who,
                status, error, (unsigned long long)gpa, (unsigned long long)size, flags[0], flags[1], flags[2], flags[3], flags[4]);
}

static bool is_fault(enum walk_status status)
{
    return status == WALK_NOT_PRESENT || status == WALK_PRIVILEGE || status == WALK_RESERVED_BITS;
}

static bool same(const struct walk_result *got, enum walk_status status, const struct oracle_result *want)
{
    if (status != want->status)
        return false;
    if (is_fault(status))
        return got->fault_error == want->error;
    if (status == WALK_TABLE_UNMAPPED)
        return got->gpa == want->gpa;
    if (status != WALK_OK)
        return true;
    return got->gpa == want->gpa && got->page_size == want->page_size && got->writable == want->writable &&
           got->user == want->user && got->executable == want->executable && got->dirty == want->dirty &&
           got->global == want->global && got->pkey == want->pkey;
}

static bool tables_as_expected(struct tables *tables, const struct oracle_result *want)
{
    for (unsigned i = 0; i < want->entries; i++) {
        uint64_t found = 0;
        memcpy(&found, tables_at(tables, want->entry_gpa[i], want->entry_size), want->entry_size);
        if (found != want->entry_after[i])
            return false;
    }
    return true;
}

/* One case. Entries that changed are put back. */
static void compare(const struct walk_state *state, struct tables *tables, gva_t gva, uint32_t flags)
{
    const struct walk_memory memory = {.context = tables, .load = load, .update = update};
    struct oracle_result want;
    struct walk_result got;
    uint64_t before[TABLE_FRAMES];

    oracle_walk(state, tables, gva, flags, &want);
    for (unsigned i = 0; i < want.entries; i++)
        memcpy(&before[i], tables_at(tables, want.entry_gpa[i], want.entry_size), want.entry_size);
    const enum walk_status status = walk(state, &memory, gva, flags, &got);
    if (likely(same(&got, status, &want) && tables_as_expected(tables, &want))) {
        for (unsigned i = 0; i < want.entries; i++)
            memcpy(tables_at(tables, want.entry_gpa[i], want.entry_size), &before[i], want.entry_size);
        return;
    }
    print_error("cr0 %#llx cr3 %#llx cr4 %#llx efer %#llx pkru %#x pkrs %#x M %u ac %d gva %#llx flags %#x\n",
                (unsigned long long)state->cr0, (unsigned long long)state->cr3, (unsigned long long)state->cr4,
                (unsigned long long)state->efer, state->pkru, state->pkrs, state->physical_bits, state->ac,
                (unsigned long long)gva, flags);
    for (unsigned i = 0; i < want.entries; i++)
        print_error("  entry at %#llx before %#llx expected after %#llx\n", (unsigned long long)want.entry_gpa[i],
                    (unsigned long long)before[i], (unsigned long long)want.entry_after[i]);
    describe("walk", status, got.fault_error, got.gpa, got.page_size,
             (bool[]){got.writable, got.user, got.executable, got.dirty, got.global});
    describe("oracle", want.status, want.error, want.gpa, want.page_size,
             (bool[]){want.writable, want.user, want.executable, want.dirty, want.global});
    fail_msg("the walk differs from the oracle");
}

/* ---- tables ---- */

static void set_entry(const struct mode *mode, struct tables *t, unsigned level, gva_t gva, uint64_t entry)
{
    memcpy(t->bytes[level] + index_of(mode, level, gva) * mode->entry_size, &entry, mode->entry_size);
}

/* Frames for all levels, each entry present, everything allowed. */
static void build(const struct mode *mode, struct tables *t, gva_t gva, gpa_t high)
{
    memset(t, 0, sizeof(*t));
    t->count = mode->leaf + 1;
    for (unsigned i = 0; i < t->count; i++)
        /* Bits 13..29 are clear, so that a table's address never hides a missing check of a large page's reserved bits. */
        t->base[i] = (mode->entry_size == 4 || i == 0 ? 0 : high) + ((gpa_t)(i & 1) << 12) + ((gpa_t)(i >> 1) << 30);
    for (unsigned i = 0; i + 1 < t->count; i++)
        set_entry(mode, t, i, gva, t->base[i + 1] | PTE_P | (i >= mode->first_with_rights ? PTE_W | PTE_U | PTE_A : 0));
}

static uint64_t leaf_base(const struct mode *mode)
{
    return mode->leaf == mode->levels - 1 ? 0x7000 : PTE_PS | (1ull << mode->shift[mode->leaf]);
}

/* Every kind of access that makes sense, with and without the checks' modifiers. */
static const uint32_t accesses[] = {
    WALK_READ, WALK_WRITE, WALK_EXECUTE, WALK_READ | WALK_USER, WALK_WRITE | WALK_USER, WALK_EXECUTE | WALK_USER,
    WALK_READ | WALK_ENFORCE_SMAP, WALK_WRITE | WALK_ENFORCE_SMAP, WALK_READ | WALK_OVERRIDE_SMAP, WALK_WRITE | WALK_OVERRIDE_SMAP,
    WALK_READ | WALK_IMPLICIT, WALK_WRITE | WALK_IMPLICIT | WALK_USER, WALK_READ | WALK_WRITE, WALK_READ | WALK_WRITE | WALK_EXECUTE | WALK_USER,
    WALK_READ | WALK_SET_BITS, WALK_WRITE | WALK_SET_BITS, WALK_WRITE | WALK_USER | WALK_SET_BITS, WALK_EXECUTE | WALK_SET_BITS,
    0, WALK_SET_BITS,
};

/* ---- every combination ---- */

static const gva_t test_gva = 0x12345678;

static void for_all_accesses(const struct mode *mode, struct tables *t, uint64_t controls)
{
    struct walk_state state = {
        .cr0 = CR0_PE | CR0_PG | (controls & 1 ? CR0_WP : 0), .cr3 = t->base[0],
        .cr4 = mode->cr4 | (controls & 2 ? CR4_SMEP : 0) | (controls & 4 ? CR4_SMAP : 0) | CR4_PGE,
        .efer = mode->efer | (controls & 8 ? EFER_NXE : 0), .physical_bits = 48, .ac = controls & 16};

    for (size_t a = 0; a < array_size(accesses); a++)
        compare(&state, t, test_gva, accesses[a]);
}

/* Leaf and one upper entry take all values of P, R/W, U/S, XD (and A, D in the leaf; what XD is in 32-bit tables: A or G). */
static void all_rights(const struct mode *mode)
{
    struct tables t;
    const unsigned uppers = mode->leaf > mode->first_with_rights ? mode->leaf : mode->first_with_rights + 1;

    for (unsigned upper = mode->first_with_rights; upper < uppers; upper++) {
        build(mode, &t, test_gva, 0x123400000000);
        const unsigned upper_values = upper == mode->leaf ? 1 : 16;
        for (unsigned u = 0; u < upper_values; u++) {
            if (upper != mode->leaf)
                set_entry(mode, &t, upper, test_gva,
                          t.base[upper + 1] | (u & 7) | (u & 8 ? (mode->entry_size == 8 ? PTE_NX : PTE_A) : 0));
            for (unsigned l = 0; l < 64; l++) {
                const uint64_t leaf = leaf_base(mode) | (l & 7) | (l & 8 ? PTE_A : 0) | (l & 16 ? PTE_D : 0) |
                                      (l & 32 ? (mode->entry_size == 8 ? PTE_NX : PTE_G) : 0);
                set_entry(mode, &t, mode->leaf, test_gva, leaf);
                for (unsigned controls = 0; controls < 32; controls++)
                    for_all_accesses(mode, &t, controls);
            }
        }
    }
}

static void test_every_combination_of_rights(void **unused)
{
    (void)unused;
    for (size_t m = 0; m < array_size(modes); m++)
        all_rights(&modes[m]);
}

/* Every key with every value of its two bits, for user and supervisor pages, where keys exist and where they do not. */
static void keys_of(const struct mode *mode, unsigned key, unsigned bits)
{
    struct tables t;

    build(mode, &t, test_gva, 0x123400000000);
    for (unsigned rights = 0; rights < 8; rights++) {
        set_entry(mode, &t, mode->leaf, test_gva,
                  leaf_base(mode) | PTE_P | (rights & 1 ? PTE_W : 0) | (rights & 2 ? PTE_U : 0) | (rights & 4 ? PTE_NX : 0) |
                      (mode->levels > 3 ? (uint64_t)key << 59 : 0));
        for (unsigned controls = 0; controls < 32; controls++) {
            const uint32_t other = controls & 16 ? ~(3u << 2 * key) : 0; /* what the other keys may must not matter */
            struct walk_state state = {
                .cr0 = CR0_PE | CR0_PG | (controls & 1 ? CR0_WP : 0), .cr3 = t.base[0],
                .cr4 = mode->cr4 | (controls & 2 ? CR4_PKE : 0) | (controls & 4 ? CR4_PKS : 0) | (controls & 8 ? CR4_SMAP : 0),
                .efer = mode->efer | EFER_NXE, .physical_bits = 48, .pkru = (bits & 3) << 2 * key | other,
                .pkrs = (bits >> 2) << 2 * key | other};
            for (size_t a = 0; a < array_size(accesses); a++)
                compare(&state, &t, test_gva, accesses[a]);
        }
    }
}

static void test_every_key(void **unused)
{
    (void)unused;
    for (size_t m = 0; m < array_size(modes); m++)
        for (unsigned key = 0; key < 16 && modes[m].levels > 2; key += modes[m].levels > 3 && modes[m].leaf + 1 == modes[m].levels ? 1 : 5)
            for (unsigned bits = 0; bits < 16; bits++)
                keys_of(&modes[m], key, bits);
}

/* Each single bit of each entry, for all physical widths: finds every reserved bit. */
static void test_every_single_bit(void **unused)
{
    static const uint8_t widths[] = {32, 36, 39, 40, 46, 48, 52};
    struct tables t;

    (void)unused;
    for (size_t m = 0; m < array_size(modes); m++)
        for (size_t w = 0; w < array_size(widths); w++)
            for (unsigned nxe = 0; nxe < 2; nxe++)
                for (unsigned level = 0; level <= modes[m].leaf; level++)
                    for (unsigned n = 0; n < 16 * modes[m].entry_size; n += modes[m].shift[modes[m].leaf] == 30 ? 1 : 2) {
                        const struct mode *mode = &modes[m];
                        const unsigned bit = n / 2;
                        struct walk_state state = {.cr0 = CR0_PE | CR0_PG | CR0_WP, .cr4 = mode->cr4,
                                                   .efer = mode->efer | (nxe ? EFER_NXE : 0), .physical_bits = widths[w], .no_1g_pages = n & 1};
                        build(mode, &t, test_gva, 0);
                        state.cr3 = t.base[0];
                        set_entry(mode, &t, mode->leaf, test_gva, leaf_base(mode) | PTE_P | PTE_W | PTE_U);
                        uint64_t entry = 0;
                        memcpy(&entry, t.bytes[level] + index_of(mode, level, test_gva) * mode->entry_size, mode->entry_size);
                        set_entry(mode, &t, level, test_gva, entry ^ (1ull << bit));
                        for (size_t a = 0; a < array_size(accesses); a++)
                            compare(&state, &t, test_gva, accesses[a]);
                    }
}

/* ---- random ---- */

static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1d;
}

static bool one_in(unsigned n)
{
    return random_u64() % n == 0;
}

static gva_t random_gva(const struct mode *mode)
{
    const gva_t gva = random_u64();

    if (mode->levels < 4 || one_in(16))
        return gva;
    return canonical_in(mode, gva);
}

/* A likely good entry with some bits thrown. */
static uint64_t random_entry(uint64_t good)
{
    uint64_t entry = good | (random_u64() & (PTE_W | PTE_U | PTE_A | PTE_D | PTE_G));

    if (one_in(2))
        entry |= (random_u64() & 15) << 59;
    if (one_in(4))
        entry |= PTE_NX;
    while (one_in(4))
        entry ^= 1ull << (random_u64() & 63);
    return entry;
}

static void random_case(void)
{
    static const uint8_t widths[] = {36, 39, 40, 46, 48, 52};
    const struct mode *mode = &modes[random_u64() % array_size(modes)];
    const gva_t gva = random_gva(mode);
    struct tables t;
    struct walk_state state = {
        .cr0 = CR0_PE | (one_in(64) ? 0 : CR0_PG) | (one_in(2) ? CR0_WP : 0),
        .cr4 = mode->cr4 | (random_u64() & (CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PGE | (1ull << 24) | (one_in(4) ? CR4_PSE : 0))),
        .efer = mode->efer | (random_u64() & EFER_NXE),
        .pkru = (uint32_t)random_u64(), .pkrs = (uint32_t)random_u64(),
        .physical_bits = widths[random_u64() % array_size(widths)], .ac = one_in(2), .no_1g_pages = one_in(4)};
    uint64_t cached[4];

    build(mode, &t, gva, 0x800000000);
    state.cr3 = t.base[0] | (random_u64() & 0x18);
    for (unsigned i = 0; i < mode->leaf; i++)
        set_entry(mode, &t, i, gva,
                  i < mode->first_with_rights && !one_in(8) ? t.base[i + 1] | PTE_P : random_entry(t.base[i + 1] | PTE_P | PTE_W | PTE_U));
    set_entry(mode, &t, mode->leaf, gva, random_entry(leaf_base(mode) | PTE_P));
    if (mode->levels == 3 && one_in(2)) {
        memcpy(cached, t.bytes[0], sizeof(cached));
        memset(t.bytes[0], 0xff, 32);
        state.pdpte = cached;
    }
    for (unsigned i = 0; i < 4; i++)
        compare(&state, &t, gva, (uint32_t)random_u64() & 0xff);
}

static void test_random_entries(void **unused)
{
    (void)unused;
    for (unsigned i = 0; i < 150000; i++)
        random_case();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_combination_of_rights),
        cmocka_unit_test(test_every_key),
        cmocka_unit_test(test_every_single_bit),
        cmocka_unit_test(test_random_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
