/* The additions about dirty pages: consumers, lists, peeks, tracking that is switched; with guests that store. */
#include "guest.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAGE = 0x40000,
    PAGES = 64,
    SIZE = PAGES * 4096,
    NONE = OwhpQueryDirtyFlagNone,
    PEEK = OwhpQueryDirtyFlagPeek,
    WHV = OWHP_DIRTY_CONSUMER_WHV,
};

#define FLAGS(value) ((WHV_MAP_GPA_RANGE_FLAGS)(value))
#define QUERY(value) ((OWHP_QUERY_DIRTY_FLAGS)(value))
#define NOT_FOUND    HRESULT_FROM_WIN32(ERROR_NOT_FOUND)

static const WHV_ACCESS_GPA_CONTROLS plain;

static UINT32 consumer(struct guest *g, UINT64 gpa, UINT64 size, UINT32 flags)
{
    UINT32 id = 0;

    assert_ok(OwhpCreateDirtyConsumer(g->partition, gpa, size, (OWHP_DIRTY_CONSUMER_FLAGS)flags, &id));
    assert_int_not_equal(id, WHV);
    return id;
}

/* The 64 pages from PAGE on as bits; the number must agree. */
static UINT64 bits(struct guest *g, UINT32 id, UINT32 flags)
{
    UINT64 bitmap = 0, count = 99;

    assert_ok(OwhpQueryDirtyBitmap(g->partition, id, QUERY(flags), PAGE, SIZE, &bitmap, 8, &count));
    assert_int_equal(count, __builtin_popcountll(bitmap));
    return bitmap;
}

/* mov [rdi], eax; hlt; jmp back: each run stores once and halts. */
static void begin(struct guest *g)
{
    guest_begin(g, &(struct guest_options){0});
    guest_long_mode(g, 0);
    guest_code(g, 0x89, 0x07, 0xf4, 0xeb, 0xfb);
}

static void store(struct guest *g, unsigned page)
{
    guest_set(g, WHvX64RegisterRdi, PAGE + 4096ull * page);
    run_to(g, WHvRunVpExitReasonX64Halt);
}

static void remap(struct guest *g, unsigned first, unsigned count, UINT32 flags)
{
    assert_ok(WHvMapGpaRange(g->partition, g->ram + PAGE + 4096 * first, PAGE + 4096ull * first, 4096ull * count,
                             FLAGS(flags)));
}

/* ---- consumers ---- */

static void each_sees_all(void **state)
{
    struct guest g;

    (void)state;
    begin(&g);
    store(&g, 3);
    UINT32 a = consumer(&g, 0, 0, 0), b = consumer(&g, PAGE, SIZE, 0);
    assert_int_equal(bits(&g, a, PEEK), 0); /* begins clean */
    assert_int_equal(bits(&g, WHV, PEEK), 8);
    store(&g, 3);
    store(&g, 5);
    assert_int_equal(bits(&g, a, PEEK), 0x28);
    assert_int_equal(bits(&g, a, NONE), 0x28);
    assert_int_equal(bits(&g, a, NONE), 0);
    assert_int_equal(bits(&g, b, PEEK), 0x28); /* also after somebody else took */
    store(&g, 5);
    store(&g, 6);
    assert_int_equal(bits(&g, b, NONE), 0x68);
    assert_int_equal(bits(&g, a, NONE), 0x60);
    UINT64 bitmap;
    assert_ok(WHvQueryGpaRangeDirtyBitmap(g.partition, PAGE, SIZE, &bitmap, 8));
    assert_int_equal(bitmap, 0x68);
    assert_int_equal(bits(&g, WHV, NONE), 0);
    /* The other things that dirty a page. */
    UINT32 value = 1;
    assert_ok(WHvWriteGpaRange(g.partition, 0, PAGE + 0xffe, plain, &value, 4));
    assert_ok(OwhpMarkDirty(g.partition, PAGE + 0x9000, 1));
    assert_int_equal(bits(&g, a, NONE), 0x203);
    assert_ok(OwhpDeleteDirtyConsumer(g.partition, a));
    assert_int_equal(bits(&g, b, NONE), 0x203);
    store(&g, 1);
    assert_int_equal(bits(&g, b, NONE), 2);
    guest_end(&g);
}

static void all_pages(void **state)
{
    struct guest g;

    (void)state;
    begin(&g);
    remap(&g, 8, 8, 3); /* untracked */
    store(&g, 8);       /* and the translation is cached */
    UINT32 all = consumer(&g, 0, 0, OwhpDirtyConsumerFlagAllPages), kept = consumer(&g, 0, 0, 3);
    store(&g, 8);
    store(&g, 2);
    assert_int_equal(bits(&g, all, NONE), 0x104);
    assert_hr(OwhpQueryDirtyBitmap(g.partition, WHV, QUERY(0), PAGE, SIZE, NULL, 0, NULL), WHV_E_GPA_RANGE_NOT_FOUND);
    store(&g, 8); /* again, after the harvest */
    store(&g, 2);
    assert_ok(OwhpMarkDirty(g.partition, PAGE + 0x9000, 1)); /* untracked, but somebody sees it */
    assert_int_equal(bits(&g, all, PEEK), 0x304);
    /* Unmapped and replaced pages. */
    assert_ok(WHvUnmapGpaRange(g.partition, PAGE + 0x8000, 0x1000));
    remap(&g, 2, 1, 3 | WHvMapGpaRangeFlagTrackDirtyPages);
    assert_int_equal(bits(&g, all, NONE), 0x200);
    assert_int_equal(bits(&g, kept, NONE), 0x304);
    assert_int_equal(bits(&g, kept, NONE), 0);
    /* When it ends untracked pages are recorded no more. */
    assert_ok(OwhpDeleteDirtyConsumer(g.partition, all));
    assert_ok(OwhpDeleteDirtyConsumer(g.partition, kept));
    assert_hr(OwhpMarkDirty(g.partition, PAGE + 0x9000, 1), WHV_E_GPA_RANGE_NOT_FOUND);
    store(&g, 9);
    guest_end(&g);
}

static void list(void **state)
{
    struct guest g;
    WHV_MEMORY_RANGE_ENTRY ranges[8];
    UINT32 count = 0;

    (void)state;
    begin(&g);
    for (unsigned page = 0; page < PAGES; page++)
        if (page % 16 < 3)
            store(&g, page);
    memset(ranges, 0xcc, sizeof(ranges));
    assert_hr(OwhpQueryDirtyRanges(g.partition, WHV, QUERY(PEEK), PAGE, SIZE, ranges, 3, &count), S_FALSE);
    assert_int_equal(count, 3);
    assert_int_equal(ranges[3].SizeInBytes, 0xcccccccccccccccc);
    assert_hr(OwhpQueryDirtyRanges(g.partition, WHV, QUERY(0), PAGE, SIZE, ranges, 3, &count), S_FALSE);
    assert_int_equal(count, 3);
    for (UINT32 i = 0; i < count; i++) {
        assert_int_equal(ranges[i].GuestAddress, PAGE + 0x10000 * i);
        assert_int_equal(ranges[i].SizeInBytes, 0x3000);
    }
    assert_int_equal(bits(&g, WHV, PEEK), 7ull << 48); /* what found no room is still dirty */
    store(&g, 1);
    assert_ok(OwhpQueryDirtyRanges(g.partition, WHV, QUERY(0), PAGE, SIZE, ranges, 8, &count));
    assert_int_equal(count, 2);
    assert_int_equal(ranges[0].GuestAddress, PAGE + 0x1000);
    assert_int_equal(ranges[0].SizeInBytes, 0x1000);
    assert_int_equal(ranges[1].GuestAddress, PAGE + 0x30000);
    assert_ok(OwhpQueryDirtyRanges(g.partition, WHV, QUERY(0), PAGE, SIZE, ranges, 8, &count));
    assert_int_equal(count, 0);
    /* Both 0: the consumer's range. */
    UINT32 mine = consumer(&g, PAGE, 0x2000, 0);
    store(&g, 0);
    store(&g, 1);
    store(&g, 2);
    assert_ok(OwhpQueryDirtyRanges(g.partition, mine, QUERY(0), 0, 0, ranges, 8, &count));
    assert_int_equal(count, 1);
    assert_int_equal(ranges[0].SizeInBytes, 0x2000);
    guest_end(&g);
}

/* ---- tracking ---- */

static void switched(void **state)
{
    struct guest g;
    UINT64 bitmap;

    (void)state;
    begin(&g);
    store(&g, 4);
    store(&g, 5);
    assert_ok(OwhpSetDirtyTracking(g.partition, PAGE + 0x4000, 0x1000, FALSE));
    assert_hr(WHvQueryGpaRangeDirtyBitmap(g.partition, PAGE, SIZE, &bitmap, 8), WHV_E_GPA_RANGE_NOT_FOUND);
    store(&g, 4); /* its translation is cached without tracking now */
    assert_ok(OwhpSetDirtyTracking(g.partition, PAGE, SIZE, TRUE));
    assert_int_equal(bits(&g, WHV, NONE), 0x20); /* those that were tracked all the time keep their bits */
    store(&g, 4);
    assert_int_equal(bits(&g, WHV, NONE), 0x10);
    /* The mapping is as it was otherwise. */
    OWHP_GPA_RANGE ranges[4];
    UINT32 count;
    assert_ok(OwhpEnumerateGpaRanges(g.partition, ranges, 4, &count));
    assert_int_equal(count, 1);
    assert_int_equal(ranges[0].SourceAddress, (uintptr_t)g.ram);
    assert_hr(OwhpSetDirtyTracking(g.partition, 0, RAM_SIZE + 4096, FALSE), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_ok(OwhpEnumerateGpaRanges(g.partition, ranges, 4, &count));
    assert_int_equal(count, 1);
    guest_end(&g);
}

/* ---- arguments ---- */

static void arguments(void **state)
{
    struct guest g;
    UINT32 id = 77, count = 0;
    UINT64 bitmap[2];
    WHV_MEMORY_RANGE_ENTRY range;

    (void)state;
    begin(&g);
#define CREATE(gpa, size, flags, out) OwhpCreateDirtyConsumer(g.partition, gpa, size, (OWHP_DIRTY_CONSUMER_FLAGS)(flags), out)
    assert_hr(CREATE(0, 0, 0, NULL), E_POINTER);
    assert_hr(CREATE(4096, 0, 0, &id), E_INVALIDARG);
    assert_hr(CREATE(1, 4096, 0, &id), E_INVALIDARG);
    assert_hr(CREATE(0, 4097, 0, &id), E_INVALIDARG);
    assert_hr(CREATE(0xfffffffffffff000, 0x2000, 0, &id), E_INVALIDARG);
    assert_hr(CREATE(0, 1ull << 53, 0, &id), E_INVALIDARG);
    assert_hr(CREATE(0, 0, 4, &id), E_INVALIDARG);
    assert_hr(CREATE(0, 0, OwhpDirtyConsumerFlagKeepUnmapped, &id), E_INVALIDARG);
#undef CREATE
    assert_int_equal(id, 77);
    id = consumer(&g, PAGE, SIZE, 0);
    assert_hr(OwhpDeleteDirtyConsumer(g.partition, WHV), E_INVALIDARG);
    assert_hr(OwhpDeleteDirtyConsumer(g.partition, id + 1), NOT_FOUND);
    store(&g, 3);
#define BITMAP(c, flags, gpa, size, b, bytes) OwhpQueryDirtyBitmap(g.partition, c, QUERY(flags), gpa, size, b, bytes, NULL)
    assert_hr(BITMAP(id + 1, 0, PAGE, SIZE, bitmap, 8), NOT_FOUND);
    assert_hr(BITMAP(id, 2, PAGE, SIZE, bitmap, 8), E_INVALIDARG);
    assert_hr(BITMAP(id, 0, PAGE - 4096, SIZE, bitmap, 8), E_INVALIDARG);
    assert_hr(BITMAP(id, 0, PAGE, SIZE + 4096, bitmap, 16), E_INVALIDARG);
    assert_hr(BITMAP(id, 0, PAGE, 0, bitmap, 8), E_INVALIDARG);
    assert_hr(BITMAP(id, 0, PAGE + 1, SIZE, bitmap, 8), E_INVALIDARG);
    assert_hr(BITMAP(id, 0, PAGE, SIZE, (UINT64 *)(void *)((char *)bitmap + 4), 8), E_INVALIDARG);
    assert_hr(BITMAP(id, 0, PAGE, SIZE, bitmap, 7), WHV_E_INSUFFICIENT_BUFFER);
    assert_hr(BITMAP(id, 0, PAGE, SIZE, NULL, 8), E_POINTER);
    assert_hr(BITMAP(id, 0, PAGE, SIZE, WILD, 8), E_POINTER);
    assert_hr(OwhpQueryDirtyBitmap(g.partition, id, QUERY(0), PAGE, SIZE, bitmap, 8, WILD), E_POINTER);
#undef BITMAP
#define LIST(c, flags, gpa, size, r, capacity, n) OwhpQueryDirtyRanges(g.partition, c, QUERY(flags), gpa, size, r, capacity, n)
    assert_hr(LIST(id + 1, 0, PAGE, SIZE, &range, 1, &count), NOT_FOUND);
    assert_hr(LIST(id + 1, 0, 0, 0, &range, 1, &count), NOT_FOUND);
    assert_hr(LIST(id, 2, PAGE, SIZE, &range, 1, &count), E_INVALIDARG);
    assert_hr(LIST(id, 0, PAGE, SIZE, &range, 0, &count), E_INVALIDARG);
    assert_hr(LIST(id, 0, PAGE, SIZE, NULL, 1, &count), E_POINTER);
    assert_hr(LIST(id, 0, PAGE, SIZE, WILD, 1, &count), E_POINTER);
    assert_hr(LIST(id, 0, PAGE, SIZE, &range, 1, NULL), E_POINTER);
    assert_hr(LIST(id, 0, PAGE, SIZE, &range, 1, WILD), E_POINTER);
    assert_hr(LIST(WHV, 0, 0, 0, &range, 1, &count), WHV_E_GPA_RANGE_NOT_FOUND); /* there are holes */
#undef LIST
    assert_hr(OwhpSetDirtyTracking(g.partition, 1, 4096, TRUE), E_INVALIDARG);
    assert_hr(OwhpSetDirtyTracking(g.partition, 0, 0, TRUE), E_INVALIDARG);
    assert_int_equal(bits(&g, id, NONE), 8); /* nothing of that cleared anything */
    assert_ok(OwhpDeleteDirtyConsumer(g.partition, id));
    assert_hr(OwhpDeleteDirtyConsumer(g.partition, id), NOT_FOUND);
    guest_end(&g);
}

/* Far more stores than an engine may have room to record, to a few pages; what comes after them is seen too. */
static void many_stores(void **state)
{
    static const UINT8 code[] = {
        0xb9, 0x20, 0x4e, 0x00, 0x00,             /* mov ecx, 20000 */
        0x89, 0x0f,                               /* 1: mov [rdi], ecx */
        0x89, 0x8f, 0x00, 0x50, 0x00, 0x00,       /* mov [rdi+5000h], ecx */
        0xff, 0xc9,                               /* dec ecx */
        0x75, 0xf4,                               /* jnz 1b */
        0x89, 0x8f, 0x00, 0x70, 0x00, 0x00,       /* mov [rdi+7000h], ecx */
        0xf4,
    };
    struct guest g;

    (void)state;
    begin(&g);
    guest_load(&g, CODE, code, sizeof(code));
    guest_set(&g, WHvX64RegisterRdi, PAGE);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(bits(&g, WHV, NONE), 0xa1);
    guest_set(&g, WHvX64RegisterRip, CODE);
    guest_set(&g, WHvX64RegisterRdi, PAGE + 0x1000);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(bits(&g, WHV, NONE), 0x142);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("OWHP-DIRTY-1", "H consumers: each sees all", each_sees_all),
        CASE("OWHP-DIRTY-2", "H AllPages, KeepUnmapped", all_pages),
        CASE("OWHP-DIRTY-3", "H OwhpQueryDirtyRanges", list),
        CASE("OWHP-DIRTY-4", "H OwhpSetDirtyTracking", switched),
        CASE("OWHP-DIRTY-6", "H many stores", many_stores),
        CASE("OWHP-DIRTY-5", "H arguments", arguments),
    };
    return cmocka_run_group_tests_name("dirty", tests, NULL, NULL);
}
