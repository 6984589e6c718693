/* WHvTranslateGva on real processors: modes, flags, result codes. */
#include "guest.h"

#include <string.h>

enum { NONE = 0, VALIDATE_READ = 1, VALIDATE_WRITE = 2, VALIDATE_EXECUTE = 4, EXEMPT = 8, SET_BITS = 0x10,
       ENFORCE_SMAP = 0x100, OVERRIDE_SMAP = 0x200 };

#define GVA 0x60000ull

static UINT64 gpa;

/* The batch call says the same of each of many. */
static void translate_many(struct guest *g, UINT64 gva, UINT32 flags, UINT32 code)
{
    enum { MANY = 300 };
    UINT64 gvas[MANY], gpas[MANY];
    WHV_TRANSLATE_GVA_RESULT results[MANY];

    for (unsigned i = 0; i < MANY; i++)
        gvas[i] = i % 7 ? 0x1000 * i : gva;
    memset(results, 0xcc, sizeof(results));
    assert_ok(OwhpTranslateGvas(g->partition, 0, (WHV_TRANSLATE_GVA_FLAGS)(flags & ~(UINT32)SET_BITS), gvas, MANY, results, gpas));
    for (unsigned i = 0; i < MANY; i += 7) {
        /* (Without the bits' update a table that may not be written is no obstacle.) */
        if (code == WHvTranslateGvaResultGpaNoWriteAccess)
            continue;
        assert_int_equal(results[i].ResultCode, code);
        assert_int_equal(results[i].Reserved, 0);
        assert_int_equal(gpas[i], gpa);
    }
}

static UINT32 translate(struct guest *g, UINT64 gva, UINT32 flags)
{
    WHV_TRANSLATE_GVA_RESULT result = {.Reserved = 0xcc};

    gpa = 0xcccc;
    check_hr(WHvTranslateGva(g->partition, 0, gva, (WHV_TRANSLATE_GVA_FLAGS)flags, &result, &gpa), S_OK, "translate",
             __FILE__, __LINE__);
    assert_int_equal(result.Reserved, 0);
    translate_many(g, gva, flags, (UINT32)result.ResultCode);
    return (UINT32)result.ResultCode;
}

#define assert_code(g, gva, flags, code) assert_int_equal(translate((g), (gva), (flags)), WHvTranslateGvaResult##code)

static void arguments(void **state)
{
    struct guest g;
    WHV_TRANSLATE_GVA_RESULT result = {.Reserved = 7};
    const WHV_TRANSLATE_GVA_FLAGS read = WHvTranslateGvaFlagValidateRead;

    (void)state;
    guest_begin(&g, NULL);
    gpa = 9;
    assert_refused(WHvTranslateGva(g.partition, 0, 0, read, NULL, &gpa), E_POINTER);
    assert_refused(WHvTranslateGva(g.partition, 0, 0, read, &result, NULL), E_POINTER);
    assert_refused(WHvTranslateGva(g.partition, 0, 0, read, WILD, &gpa), E_POINTER);
    assert_refused(WHvTranslateGva(g.partition, 0, 0, read, &result, WILD), E_POINTER);
    for (UINT32 bit = 0; bit < 32; bit++)
        if (!(0x31fu >> bit & 1))
            assert_refused(WHvTranslateGva(g.partition, 0, 0, (WHV_TRANSLATE_GVA_FLAGS)(1u << bit), &result, &gpa),
                           E_INVALIDARG);
    assert_refused(WHvTranslateGva(g.partition, 0, 0, (WHV_TRANSLATE_GVA_FLAGS)0x300, &result, &gpa), E_INVALIDARG);
    assert_true(gpa == 9 && result.Reserved == 7);
    guest_end(&g);
}

static void without_paging(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    assert_code(&g, 0x12345, VALIDATE_READ, Success);
    assert_int_equal(gpa, 0x12345);
    assert_code(&g, 0xf000000000ull + 0x777, VALIDATE_WRITE, Success); /* only 32 bits count; nothing is mapped there */
    assert_int_equal(gpa, 0x777);
    guest_end(&g);
}

static void long_mode_pages(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    assert_code(&g, GVA + 0x123, VALIDATE_READ | VALIDATE_WRITE | VALIDATE_EXECUTE, Success);
    assert_int_equal(gpa, GVA + 0x123); /* with the offset */
    *guest_pte(&g, GVA) = 0x99000 | 7;
    assert_code(&g, GVA + 0x123, NONE, Success);
    assert_int_equal(gpa, 0x99123);
    assert_code(&g, 0x12345678, VALIDATE_READ, Success); /* a 2 MiB page; not mapped in the partition: no matter */
    assert_int_equal(gpa, 0x12345678);
    assert_code(&g, 0x40000000, VALIDATE_READ, PageNotPresent); /* beyond the first GiB */
    *guest_pte(&g, GVA) = 0;
    assert_code(&g, GVA, NONE, PageNotPresent);
    assert_int_equal(gpa, 0);
    assert_code(&g, 0x800000000000, VALIDATE_READ, PageNotPresent); /* not canonical */
    guest_end(&g);
}

static void permissions(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    *guest_pte(&g, GVA) = GVA | 5; /* read-only */
    assert_code(&g, GVA, VALIDATE_READ, Success);
    assert_code(&g, GVA, VALIDATE_WRITE, PrivilegeViolation); /* CR0.WP = 1 */
    assert_code(&g, GVA, NONE, Success);
    guest_set(&g, WHvX64RegisterCr0, 0x80000031);
    assert_code(&g, GVA, VALIDATE_WRITE, Success); /* WP = 0 */
    guest_set(&g, WHvX64RegisterCr0, 0x80010031);
    *guest_pte(&g, GVA) = GVA | 7 | 1ull << 63;
    assert_code(&g, GVA, VALIDATE_EXECUTE, PrivilegeViolation);
    assert_code(&g, GVA, VALIDATE_WRITE, Success);
    guest_set(&g, WHvX64RegisterEfer, 0x500); /* NXE off: the bit is reserved */
    assert_code(&g, GVA, VALIDATE_READ, InvalidPageTableFlags);
    guest_set(&g, WHvX64RegisterEfer, 0xd00);
    *guest_pte(&g, GVA) = GVA | 7 | 1ull << 51; /* beyond the physical width */
    assert_code(&g, GVA, VALIDATE_READ, InvalidPageTableFlags);
    guest_end(&g);
}

static void user_mode(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 3);
    *guest_pte(&g, GVA) = GVA | 3; /* supervisor */
    assert_code(&g, GVA, VALIDATE_READ, PrivilegeViolation);
    assert_code(&g, GVA, VALIDATE_READ | EXEMPT, Success);
    *guest_pte(&g, GVA) = GVA | 5;
    assert_code(&g, GVA, VALIDATE_READ, Success);
    assert_code(&g, GVA, VALIDATE_WRITE, PrivilegeViolation);
    guest_end(&g);
}

static void smap_and_smep(void **state)
{
    struct guest g;
    const WHV_REGISTER_NAME name = WHvX64RegisterCr4;
    const WHV_REGISTER_VALUE value = {.Reg64 = 0x20 | 1 << 20 | 1 << 21};

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    HRESULT set = WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value);
    assert_ok(set);
    assert_code(&g, GVA, VALIDATE_READ, PrivilegeViolation);
    assert_code(&g, GVA, VALIDATE_EXECUTE, PrivilegeViolation);
    assert_code(&g, GVA, VALIDATE_READ | OVERRIDE_SMAP, Success);
    guest_set(&g, WHvX64RegisterRflags, 0x40002); /* AC */
    assert_code(&g, GVA, VALIDATE_READ, Success);
    assert_code(&g, GVA, VALIDATE_READ | ENFORCE_SMAP, PrivilegeViolation);
    assert_code(&g, GVA, VALIDATE_EXECUTE, PrivilegeViolation);
    guest_end(&g);
}

static void page_table_bits(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    assert_code(&g, GVA, VALIDATE_WRITE, Success);
    assert_int_equal(*guest_pte(&g, GVA), GVA | 7); /* nothing set without the flag */
    assert_code(&g, GVA, VALIDATE_READ | SET_BITS, Success);
    assert_int_equal(*guest_pte(&g, GVA), GVA | 7 | 0x20);
    assert_code(&g, GVA, VALIDATE_WRITE | SET_BITS, Success);
    assert_int_equal(*guest_pte(&g, GVA), GVA | 7 | 0x60);
    UINT64 bitmap;
    assert_ok(WHvQueryGpaRangeDirtyBitmap(g.partition, TABLES, 0x4000, &bitmap, 8));
    assert_int_equal(bitmap, 0xf); /* the pages of the tables are dirty */
    guest_end(&g);
}

/* As the walk proceeds: what it has passed stays accessed when it fails farther down. */
static void bits_of_failed_walks(void **state)
{
    static const struct {
        UINT64 cleared, set; /* bits of the last entry */
        UINT32 flags;
        UINT32 code;
    } rows[] = {
        {1, 0, VALIDATE_READ, WHvTranslateGvaResultPageNotPresent},
        {0, 1ull << 63, VALIDATE_EXECUTE, WHvTranslateGvaResultInvalidPageTableFlags}, /* EFER.NXE is 0 */
        {2, 0, VALIDATE_WRITE, WHvTranslateGvaResultPrivilegeViolation},
    };
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    guest_set(&g, WHvX64RegisterCr0, guest_get(&g, WHvX64RegisterCr0) | 1 << 16); /* WP */
    guest_set(&g, WHvX64RegisterEfer, 0x500);
    UINT64 *tables = (UINT64 *)(void *)(g.ram + TABLES), *last = guest_pte(&g, GVA), bitmap;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (UINT32 with_bits = 0; with_bits < 2; with_bits++) {
            for (unsigned level = 0; level < 3; level++)
                tables[512 * level] &= ~0x60ull;
            *last = ((GVA | 7) & ~rows[i].cleared) | rows[i].set;
            const UINT64 before = *last;
            assert_ok(WHvQueryGpaRangeDirtyBitmap(g.partition, TABLES, 0x4000, NULL, 0));
            assert_int_equal(translate(&g, GVA, rows[i].flags | (with_bits ? SET_BITS : 0)), rows[i].code);
            for (unsigned level = 0; level < 3; level++)
                assert_int_equal(tables[512 * level] & 0x60, with_bits ? 0x20 : 0);
            assert_int_equal(*last, before);
            assert_ok(WHvQueryGpaRangeDirtyBitmap(g.partition, TABLES, 0x4000, &bitmap, 8));
            assert_int_equal(bitmap, with_bits ? 7 : 0);
        }
    guest_end(&g);
}

static void table_pages(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    const UINT64 table = TABLES + 0x3000;
    assert_ok(WHvMapGpaRange(g.partition, g.ram + table, table, 4096, WHvMapGpaRangeFlagRead));
    assert_code(&g, GVA, VALIDATE_READ, Success);
    assert_code(&g, GVA, VALIDATE_READ | SET_BITS, GpaNoWriteAccess);
    assert_int_equal(gpa, table);
    assert_ok(WHvMapGpaRange(g.partition, g.ram + table, table, 4096, WHvMapGpaRangeFlagNone));
    assert_code(&g, GVA, VALIDATE_READ, GpaNoReadAccess);
    assert_int_equal(gpa, table);
    assert_ok(WHvUnmapGpaRange(g.partition, table, 4096));
    assert_code(&g, GVA, VALIDATE_READ, GpaUnmapped);
    assert_int_equal(gpa, table);
    guest_end(&g);
}

/* 32-bit paging: 4 KiB and 4 MiB pages. */
static void legacy_paging(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    UINT32 *directory = (UINT32 *)(void *)(g.ram + 0x30000), *table = directory + 1024;
    directory[0] = 0x31000 | 7;
    directory[1] = 0x800000 | 0x87;
    table[0x60] = 0x99000 | 7;
    guest_set(&g, WHvX64RegisterCr3, 0x30000);
    guest_set(&g, WHvX64RegisterCr4, 0x10);
    guest_set(&g, WHvX64RegisterCr0, 0x80000011);
    assert_code(&g, 0x60abc, VALIDATE_READ, Success);
    assert_int_equal(gpa, 0x99abc);
    assert_code(&g, 0x412345, VALIDATE_WRITE, Success);
    assert_int_equal(gpa, 0x812345);
    assert_code(&g, 0x800000, VALIDATE_READ, PageNotPresent);
    assert_code(&g, 0xff00060abc, VALIDATE_READ, Success); /* 32 bits count */
    guest_end(&g);
}

/* PAE paging: the four entries of the top are loaded by MOV to CR3; 2 MiB and 4 KiB pages, NX. */
static void pae_paging(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    UINT64 *top = (UINT64 *)(void *)(g.ram + 0x30000), *directory = top + 512, *table = top + 1024;
    top[0] = 0x31000 | 1;
    directory[0] = 0x32000 | 7;
    directory[1] = 0x800000 | 0x87;
    table[0x60] = 0x99000 | 7;
    table[0x61] = 0x8000000000000000ull | 0x9a000 | 7;
    table[0x62] = 1ull << 55 | 0x9b000 | 7; /* a reserved bit */
    guest_set(&g, WHvX64RegisterEfer, 0x800);
    guest_set(&g, WHvX64RegisterCr4, 0x20);
    guest_set(&g, WHvX64RegisterCr3, 0x30000);
    guest_set(&g, WHvX64RegisterCr0, 0x80000011);
    assert_code(&g, 0x60abc, VALIDATE_EXECUTE, Success);
    assert_int_equal(gpa, 0x99abc);
    assert_code(&g, 0x212345, VALIDATE_WRITE, Success);
    assert_int_equal(gpa, 0x812345);
    assert_code(&g, 0x61000, VALIDATE_READ, Success);
    assert_code(&g, 0x61000, VALIDATE_EXECUTE, PrivilegeViolation);
    assert_code(&g, 0x62000, VALIDATE_READ, InvalidPageTableFlags);
    assert_code(&g, 0x40000000, VALIDATE_READ, PageNotPresent);
    guest_end(&g);
}

/* Many at once: more than the call does in one go, and its own arguments. */
static void batch_arguments(void **state)
{
    struct guest g;
    const WHV_TRANSLATE_GVA_FLAGS read = WHvTranslateGvaFlagValidateRead;
    WHV_TRANSLATE_GVA_RESULT results[4];
    UINT64 gvas[4] = {0x1000, 0x40000000, 0x2123, 0x800000000000}, gpas[4];

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    assert_ok(OwhpTranslateGvas(g.partition, 0, read, gvas, 4, results, gpas));
    assert_int_equal(results[0].ResultCode, WHvTranslateGvaResultSuccess);
    assert_int_equal(results[1].ResultCode, WHvTranslateGvaResultPageNotPresent);
    assert_int_equal(results[2].ResultCode, WHvTranslateGvaResultSuccess);
    assert_int_equal(results[3].ResultCode, WHvTranslateGvaResultPageNotPresent);
    assert_true(gpas[0] == 0x1000 && gpas[1] == 0 && gpas[2] == 0x2123 && gpas[3] == 0);
    assert_refused(OwhpTranslateGvas(g.partition, 0, read, gvas, 0, results, gpas), E_INVALIDARG);
    assert_refused(OwhpTranslateGvas(g.partition, 0, (WHV_TRANSLATE_GVA_FLAGS)0x300, gvas, 4, results, gpas), E_INVALIDARG);
    assert_refused(OwhpTranslateGvas(g.partition, 0, (WHV_TRANSLATE_GVA_FLAGS)0x20, gvas, 4, results, gpas), E_INVALIDARG);
    assert_refused(OwhpTranslateGvas(g.partition, 0, read, NULL, 4, results, gpas), E_POINTER);
    assert_refused(OwhpTranslateGvas(g.partition, 0, read, WILD, 4, results, gpas), E_POINTER);
    assert_refused(OwhpTranslateGvas(g.partition, 0, read, gvas, 4, NULL, gpas), E_POINTER);
    assert_refused(OwhpTranslateGvas(g.partition, 0, read, gvas, 4, WILD, gpas), E_POINTER);
    assert_refused(OwhpTranslateGvas(g.partition, 0, read, gvas, 4, results, NULL), E_POINTER);
    assert_refused(OwhpTranslateGvas(g.partition, 0, read, gvas, 4, results, WILD), E_POINTER);
    /* Accessed and dirty bits, each only once. */
    gvas[1] = GVA;
    assert_ok(OwhpTranslateGvas(g.partition, 0, (WHV_TRANSLATE_GVA_FLAGS)(VALIDATE_WRITE | SET_BITS), gvas, 2, results, gpas));
    assert_int_equal(*guest_pte(&g, GVA), GVA | 7 | 0x60);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("GVA-1", "F 4.2", arguments),
        CASE("GVA-2", "F 4.5: PG = 0", without_paging),
        CASE("GVA-3", "F 4.3, 4.4, 4.6, S", long_mode_pages),
        CASE("GVA-4", "F 4.7, S: WP, reserved bits", permissions),
        CASE("GVA-5", "F 4.2 PrivilegeExempt", user_mode),
        CASE("GVA-6", "F 4.2, 4.7: SMAP, SMEP", smap_and_smep),
        CASE("GVA-7", "F 4.2 SetPageTableBits, S dirty", page_table_bits),
        CASE("GVA-14", "H SetPageTableBits: not undone", bits_of_failed_walks),
        CASE("GVA-8", "F 4.3: codes 4 to 6", table_pages),
        CASE("GVA-9", "F 4.5", legacy_paging),
        CASE("GVA-10", "F 4.5: PAE", pae_paging),
        CASE("OWHP-GVA-1", "H OwhpTranslateGvas", batch_arguments),
    };
    return cmocka_run_group_tests_name("translation", tests, NULL, NULL);
}
