/*
 * WHvTranslateGva and the call for many, in every paging mode, against the oracle of tests/walk: the second statement of the
 * manual's rules. Tables, registers, protection keys and flags are random, with little out of the ordinary at a time; then each
 * table of each mode is taken away. Result code, address and the tables afterwards must be the oracle's.
 */
#include "guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../walk/paging_modes.h"
#include "../walk/walk_oracle.h"

enum { FIRST_TABLE = 0x100000, EPOCHS = 100, CASES = 400 };
enum { SET_BITS = WHvTranslateGvaFlagSetPageTableBits };

/* What the processor under test has. */
static struct {
    UINT8 physical_bits;
    bool page_1g;
    UINT64 cr4; /* of those that matter here */
} has;

static UINT64 random_state = 0x2545f4914f6cdd1d;

static UINT64 random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x9e3779b97f4a7c15;
}

static bool one_in(unsigned n)
{
    return (random_u64() >> 20) % n == 0;
}

/* ---- the processor ---- */

static HRESULT try_cr4(struct guest *g, UINT64 value)
{
    const WHV_REGISTER_NAME name = WHvX64RegisterCr4;
    WHV_REGISTER_VALUE v;

    memset(&v, 0, sizeof(v));
    v.Reg64 = value;
    return WHvSetVirtualProcessorRegisters(g->partition, 0, &name, 1, &v);
}

static void look_at_processor(struct guest *g)
{
    static const UINT64 optional[] = {CR4_PSE, CR4_SMEP, CR4_SMAP, CR4_PKE, CR4_PKS, CR4_PGE};
    WHV_CPUID_OUTPUT out;
    UINT32 bits = 0, written;

    assert_ok(WHvGetPartitionProperty(g->partition, WHvPartitionPropertyCodePhysicalAddressWidth, &bits, sizeof(bits), &written));
    has.physical_bits = (UINT8)bits;
    assert_ok(WHvGetVirtualProcessorCpuidOutput(g->partition, 0, 0x80000001, 0, &out));
    has.page_1g = out.Edx >> 26 & 1;
    has.cr4 = CR4_PAE;
    for (size_t i = 0; i < sizeof(optional) / sizeof(optional[0]); i++)
        if (try_cr4(g, CR4_PAE | optional[i]) == S_OK)
            has.cr4 |= optional[i];
    guest_set(g, WHvX64RegisterEfer, 0);
    if (try_cr4(g, CR4_PAE | CR4_LA57) == S_OK)
        has.cr4 |= CR4_LA57;
    assert_ok(WHvGetVirtualProcessorCpuidOutput(g->partition, 0, 7, 0, &out)); /* what is hidden is found out by the run only */
    has.cr4 &= ~((out.Ecx >> 3 & 1 ? 0 : CR4_PKE) | (out.Ecx >> 31 ? 0 : CR4_PKS));
    if (!getenv("OPENWHP_ENGINE")) /* the software processor has all of it */
        assert_true((has.cr4 & (CR4_PKE | CR4_PKS | CR4_LA57 | CR4_SMAP)) == (CR4_PKE | CR4_PKS | CR4_LA57 | CR4_SMAP));
}

/* PKRU and PKRS have no register names: the guest sets them. mov eax, imm; xor ecx, ecx; xor edx, edx; wrpkru; mov ecx, 6e1; mov
 * eax, imm; wrmsr; hlt. */
static void set_keys(struct guest *g, struct walk_state *state)
{
    UINT8 code[] = {0xb8, 0, 0, 0, 0, 0x31, 0xc9, 0x31, 0xd2, 0x0f, 0x01, 0xef, 0xb9, 0xe1, 0x06, 0, 0, 0xb8, 0, 0, 0, 0, 0x0f, 0x30, 0xf4};
    UINT32 pkru = (UINT32)random_u64(), pkrs = (UINT32)random_u64();

    if (!(has.cr4 & CR4_PKE))
        return;
    if (!(has.cr4 & CR4_PKS))
        code[12] = 0xf4;
    memcpy(code + 1, &pkru, 4);
    memcpy(code + 18, &pkrs, 4);
    guest_long_mode(g, 0);
    guest_set(g, WHvX64RegisterCr4, CR4_PAE | CR4_PKE | (has.cr4 & CR4_PKS));
    guest_load(g, CODE, code, sizeof(code));
    /* The guest's own pages have key 0, which has to let it go on. */
    pkru &= ~3u, pkrs &= ~3u;
    memcpy(g->ram + CODE + 1, &pkru, 4);
    memcpy(g->ram + CODE + 18, &pkrs, 4);
    guest_set(g, WHvX64RegisterRip, CODE);
    run_to(g, WHvRunVpExitReasonX64Halt);
    state->pkru = pkru;
    state->pkrs = has.cr4 & CR4_PKS ? pkrs : 0;
}

static void set_state(struct guest *g, const struct walk_state *state, unsigned cpl)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterCr0, WHvX64RegisterEfer, WHvX64RegisterCr4, WHvX64RegisterCr3,
                                              WHvX64RegisterRflags, WHvX64RegisterSs, WHvX64RegisterCs};
    WHV_REGISTER_VALUE v[7];

    memset(v, 0, sizeof(v));
    v[0].Reg64 = state->cr0 & ~(UINT64)CR0_PG; /* first without paging: no rule stands against the change of mode */
    v[1].Reg64 = 0;
    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, names, 2, v));
    v[0].Reg64 = state->cr0;
    v[1].Reg64 = state->efer;
    v[2].Reg64 = state->cr4;
    v[3].Reg64 = state->cr3;
    v[4].Reg64 = 2 | (state->ac ? RFLAGS_AC : 0);
    v[5].Segment = (WHV_X64_SEGMENT_REGISTER){.Limit = 0xffffffff, .Selector = (UINT16)(0x10 | cpl), .Attributes = (UINT16)(0xc093 | cpl << 5)};
    v[6].Segment = (WHV_X64_SEGMENT_REGISTER){.Limit = 0xffffffff, .Selector = (UINT16)(0x8 | cpl),
                                              .Attributes = (UINT16)((state->efer & EFER_LMA ? 0xa09b : 0xc09b) | cpl << 5)};
    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, names + 1, 6, v + 1));
    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, names, 1, v));
}

/* ---- tables ---- */

static void put_entry(struct guest *g, const struct mode *mode, struct tables *t, unsigned level, gva_t gva, UINT64 entry)
{
    const size_t at = index_of(mode, level, gva) * mode->entry_size;

    memcpy(t->bytes[level] + at, &entry, mode->entry_size);
    memcpy(g->ram + t->base[level] + at, &entry, mode->entry_size);
}

static UINT64 leaf_of(const struct mode *mode)
{
    return mode->leaf == mode->levels - 1 ? 0x7000 : PTE_PS | 1ull << mode->shift[mode->leaf];
}

/* Tables from FIRST_TABLE on, one entry each; thrown: bits may be wrong. */
static void build(struct guest *g, const struct mode *mode, struct tables *t, gva_t gva, bool thrown)
{
    t->count = mode->leaf + 1;
    for (unsigned level = 0; level < t->count; level++) {
        t->base[level] = FIRST_TABLE + level * PAGE_SIZE;
        memset(t->bytes[level], 0, PAGE_SIZE);
        memset(g->ram + t->base[level], 0, PAGE_SIZE);
    }
    for (unsigned level = 0; level < t->count; level++) {
        const bool has_rights = level >= mode->first_with_rights;
        UINT64 entry = PTE_P | (level == mode->leaf ? leaf_of(mode) : FIRST_TABLE + (level + 1) * PAGE_SIZE);
        if (has_rights)
            entry |= thrown ? random_u64() & (PTE_W | PTE_U | PTE_A | PTE_D | PTE_G) : PTE_W | PTE_U;
        if (has_rights && thrown && !one_in(4))
            entry |= PTE_W | PTE_U;
        if (thrown && has_rights && mode->entry_size == 8 && one_in(3))
            entry |= (random_u64() & 15) << 59;
        if (thrown && has_rights && mode->entry_size == 8 && one_in(6))
            entry |= PTE_NX;
        const unsigned bit = (unsigned)((random_u64() >> 20) % (8 * mode->entry_size));
        /* The oracle knows the tables only: an entry may point out of RAM, but not elsewhere in it. */
        if (thrown && has_rights && one_in(8) && (level == mode->leaf || bit < 12 || bit > 20))
            entry ^= 1ull << bit;
        put_entry(g, mode, t, level, gva, entry);
    }
}

/* ---- comparing ---- */

static unsigned seen[MODES][5]; /* how often each code was the answer */

static UINT32 code_of(enum walk_status status)
{
    switch (status) {
    case WALK_OK: return WHvTranslateGvaResultSuccess;
    case WALK_PRIVILEGE: return WHvTranslateGvaResultPrivilegeViolation;
    case WALK_RESERVED_BITS: return WHvTranslateGvaResultInvalidPageTableFlags;
    case WALK_TABLE_UNMAPPED: return WHvTranslateGvaResultGpaUnmapped;
    default: return WHvTranslateGvaResultPageNotPresent;
    }
}

static uint32_t walk_flags(UINT32 flags, unsigned cpl)
{
    return (flags & 7) | (cpl == 3 && !(flags & WHvTranslateGvaFlagPrivilegeExempt) ? WALK_USER : 0) |
           (flags & SET_BITS ? WALK_SET_BITS | WALK_KEEP_BITS : 0) | (flags & WHvTranslateGvaFlagEnforceSmap ? WALK_ENFORCE_SMAP : 0) |
           (flags & WHvTranslateGvaFlagOverrideSmap ? WALK_OVERRIDE_SMAP : 0);
}

static void describe(const struct mode *mode, const struct walk_state *state, unsigned cpl, gva_t gva, UINT32 flags)
{
    print_error("%s cr0 %#llx cr3 %#llx cr4 %#llx efer %#llx pkru %#x pkrs %#x ac %d cpl %u gva %#llx flags %#x\n", mode->name,
                (unsigned long long)state->cr0, (unsigned long long)state->cr3, (unsigned long long)state->cr4,
                (unsigned long long)state->efer, state->pkru, state->pkrs, state->ac, cpl, (unsigned long long)gva, flags);
}

/* One by one, or as one of several. */
static UINT32 translate(struct guest *g, gva_t gva, UINT32 flags, bool in_batch, UINT64 *gpa)
{
    WHV_TRANSLATE_GVA_RESULT results[3];
    UINT64 gvas[3] = {gva, gva ^ 0x1000, gva}, gpas[3];

    memset(results, 0xcc, sizeof(results));
    if (in_batch)
        assert_ok(OwhpTranslateGvas(g->partition, 0, (WHV_TRANSLATE_GVA_FLAGS)flags, gvas, 3, results, gpas));
    else
        assert_ok(WHvTranslateGva(g->partition, 0, gva, (WHV_TRANSLATE_GVA_FLAGS)flags, results, gpas));
    *gpa = gpas[0];
    assert_int_equal(results[0].Reserved, 0);
    if (in_batch) {
        assert_int_equal(results[2].ResultCode, results[0].ResultCode);
        assert_int_equal(gpas[2], gpas[0]);
    }
    return (UINT32)results[0].ResultCode;
}

static void compare(struct guest *g, const struct mode *mode, const struct walk_state *state, struct tables *t, unsigned cpl,
                    gva_t gva, UINT32 flags, bool in_batch)
{
    struct oracle_result want;
    UINT64 gpa;

    oracle_walk(state, t, gva, walk_flags(flags, cpl), &want);
    const UINT32 code = translate(g, gva, flags, in_batch, &gpa);
    if (code != code_of(want.status) || gpa != (want.status == WALK_OK ? want.gpa : want.status == WALK_TABLE_UNMAPPED ? want.gpa & ~0xfffull : 0)) {
        describe(mode, state, cpl, gva, flags);
        fail_msg("the code is %u and the address %#llx, the oracle says %u and %#llx", code, (unsigned long long)gpa,
                 code_of(want.status), (unsigned long long)want.gpa);
    }
    seen[mode - modes][code]++;
    for (unsigned i = 0; i < want.entries; i++) {
        UINT64 found = 0;
        memcpy(&found, g->ram + want.entry_gpa[i], want.entry_size);
        if (found != want.entry_after[i]) {
            describe(mode, state, cpl, gva, flags);
            fail_msg("entry %u is %#llx, the oracle says %#llx", i, (unsigned long long)found, (unsigned long long)want.entry_after[i]);
        }
        memcpy(tables_at(t, want.entry_gpa[i], want.entry_size), &found, want.entry_size);
    }
}

/* ---- random ---- */

static gva_t random_gva(const struct mode *mode)
{
    const gva_t gva = random_u64();

    if (mode->levels < 4 || one_in(16))
        return gva;
    return canonical_in(mode, gva);
}

static UINT32 random_flags(void)
{
    static const UINT32 smap[] = {0, 0, WHvTranslateGvaFlagEnforceSmap, WHvTranslateGvaFlagOverrideSmap};

    return (UINT32)(random_u64() & 0x1f) | smap[random_u64() >> 30 & 3];
}

static void random_case(struct guest *g, struct walk_state *state)
{
    const struct mode *mode = &modes[(random_u64() >> 20) % MODES];
    const unsigned cpl = random_u64() >> 33 & 1 ? 3 : 0;
    const gva_t gva = random_gva(mode);
    static struct tables t;

    if ((mode->cr4 & has.cr4) != mode->cr4)
        return;
    build(g, mode, &t, gva, true);
    state->cr0 = CR0_PE | CR0_PG | CR0_ET | (random_u64() >> 40 & 1 ? CR0_WP : 0);
    state->cr3 = t.base[0] | (random_u64() & 0x18);
    state->cr4 = mode->cr4 | (random_u64() & has.cr4 & (CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS | CR4_PGE | (mode->entry_size == 4 ? 0 : CR4_PSE)));
    state->efer = mode->efer | (random_u64() >> 17 & EFER_NXE);
    state->ac = random_u64() >> 50 & 1;
    state->physical_bits = has.physical_bits;
    state->no_1g_pages = !has.page_1g;
    set_state(g, state, cpl);
    for (unsigned i = 0; i < 6; i++)
        compare(g, mode, state, &t, cpl, gva, random_flags(), i & 1);
}

static void random_tables(void **unused)
{
    struct guest g;
    struct walk_state state = {0};

    (void)unused;
    guest_begin(&g, NULL);
    look_at_processor(&g);
    for (unsigned epoch = 0; epoch < EPOCHS; epoch++) {
        set_keys(&g, &state);
        for (unsigned i = 0; i < CASES; i++)
            random_case(&g, &state);
    }
    guest_end(&g);
    for (size_t m = 0; m < MODES; m++)
        for (unsigned code = 0; code < 5 && (modes[m].cr4 & has.cr4) == modes[m].cr4; code++)
            if (seen[m][code] < 10 && !(code == 4 && modes[m].leaf == modes[m].first_with_rights) && !(code == 3 && modes[m].entry_size == 4))
                fail_msg("%s: code %u came only %u times", modes[m].name, code, seen[m][code]);
}

/* ---- tables that cannot be had ---- */

struct state_of_table {
    const char *name;
    UINT32 flags;
    int protection;
    bool unmapped;
    UINT32 code;      /* when it is read */
    UINT32 code_bits; /* when a bit of it has to be set */
};

static const struct state_of_table states[] = {
    {"unmapped", 0, PROT_READ | PROT_WRITE, true, WHvTranslateGvaResultGpaUnmapped, WHvTranslateGvaResultGpaUnmapped},
    {"no access", 0, PROT_READ | PROT_WRITE, false, WHvTranslateGvaResultGpaNoReadAccess, WHvTranslateGvaResultGpaNoReadAccess},
    {"read only", 1, PROT_READ | PROT_WRITE, false, WHvTranslateGvaResultSuccess, WHvTranslateGvaResultGpaNoWriteAccess},
    {"read, execute", 5, PROT_READ | PROT_WRITE, false, WHvTranslateGvaResultSuccess, WHvTranslateGvaResultGpaNoWriteAccess},
    {"host memory gone", 7, PROT_NONE, false, WHvTranslateGvaResultGpaNoReadAccess, WHvTranslateGvaResultGpaNoReadAccess},
    {"host memory read only", 7, PROT_READ, false, WHvTranslateGvaResultSuccess, WHvTranslateGvaResultGpaNoWriteAccess},
};

static void one_table(struct guest *g, const struct mode *mode, unsigned level, const struct state_of_table *s)
{
    const gva_t gva = 0x12345678;
    const UINT64 page = FIRST_TABLE + level * PAGE_SIZE;
    static struct tables t;
    UINT8 *host = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(host != MAP_FAILED);
    build(g, mode, &t, gva, false);
    memcpy(host, g->ram + page, PAGE_SIZE);
    if (s->unmapped)
        assert_ok(WHvUnmapGpaRange(g->partition, page, PAGE_SIZE));
    else
        assert_ok(WHvMapGpaRange(g->partition, host, page, PAGE_SIZE, (WHV_MAP_GPA_RANGE_FLAGS)s->flags));
    assert_int_equal(mprotect(host, PAGE_SIZE, s->protection), 0);
    const bool has_bits = level >= mode->first_with_rights;
    for (unsigned set = 0; set < 2; set++)
        for (unsigned in_batch = 0; in_batch < 2; in_batch++) {
            UINT64 gpa;
            const UINT32 want = set && has_bits ? s->code_bits : s->code;
            const UINT32 code = translate(g, gva, 1u | (set ? (UINT32)SET_BITS : 0), in_batch, &gpa);
            if (code != want || (code != WHvTranslateGvaResultSuccess && gpa != page))
                fail_msg("%s, table %u %s, bits %u: code %u, address %#llx", mode->name, level, s->name, set, code, (unsigned long long)gpa);
        }
    assert_ok(WHvMapGpaRange(g->partition, g->ram + page, page, PAGE_SIZE, (WHV_MAP_GPA_RANGE_FLAGS)7));
    munmap(host, PAGE_SIZE);
}

static void tables_that_are_not_there(void **unused)
{
    struct guest g;

    (void)unused;
    guest_begin(&g, NULL);
    look_at_processor(&g);
    for (size_t m = 0; m < MODES; m++) {
        const struct walk_state state = {.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_WP, .cr3 = FIRST_TABLE, .cr4 = modes[m].cr4, .efer = modes[m].efer};
        if ((modes[m].cr4 & has.cr4) != modes[m].cr4)
            continue;
        set_state(&g, &state, 0);
        for (unsigned level = 0; level <= modes[m].leaf; level++)
            for (size_t s = 0; s < sizeof(states) / sizeof(states[0]); s++)
                one_table(&g, &modes[m], level, &states[s]);
    }
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("GVA-11", "F 4.3, 4.5, 4.7: every mode, against the oracle", random_tables),
        CASE("GVA-12", "F 4.3: codes 4 to 6, every mode and table", tables_that_are_not_there),
    };

    return cmocka_run_group_tests_name("translation in every mode", tests, NULL, NULL);
}
