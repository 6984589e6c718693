/*
 * Snapshots: what comes back, what is refused. Memory is compared with copies made by the test; whether a guest runs on as
 * it did is snapshot_replay_test.c.
 */
#include "guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    PAGE = 4096,
    OTHER = 0x10000000, /* a second range */
};
#define RW    (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite)
#define RWX   (RW | WHvMapGpaRangeFlagExecute)
#define TRACK WHvMapGpaRangeFlagTrackDirtyPages

static OWHP_SNAPSHOT_HANDLE take(struct guest *g)
{
    OWHP_SNAPSHOT_HANDLE s = NULL;

    assert_ok(OwhpCreateSnapshot(g->partition, 0, &s));
    assert_non_null(s);
    return s;
}

static UINT64 put_back(struct guest *g, OWHP_SNAPSHOT_HANDLE s)
{
    UINT64 pages = 12345;

    assert_ok(OwhpRestoreSnapshot(g->partition, s, OwhpRestoreFlagNone, &pages));
    return pages;
}

/* As a device would: through the library. */
static void store(struct guest *g, UINT64 gpa, UINT8 value)
{
    const WHV_ACCESS_GPA_CONTROLS controls = {.AsUINT64 = 0};

    assert_ok(WHvWriteGpaRange(g->partition, 0, gpa, controls, &value, 1));
}

static UINT64 dirty_pages(struct guest *g)
{
    UINT64 bitmap[RAM_SIZE / PAGE / 64] = {0}, count = 0;

    assert_ok(WHvQueryGpaRangeDirtyBitmap(g->partition, 0, RAM_SIZE, bitmap, sizeof(bitmap)));
    for (size_t i = 0; i < sizeof(bitmap) / 8; i++)
        count += (UINT64)__builtin_popcountll(bitmap[i]);
    return count;
}

static OWHP_SNAPSHOT_INFO info_of(OWHP_SNAPSHOT_HANDLE s)
{
    OWHP_SNAPSHOT_INFO info;

    assert_ok(OwhpQuerySnapshot(s, &info));
    return info;
}

/* ---- memory ---- */

/* mov [0x5000], al; inc al; hlt, at 0x1000 */
#define STORE_CODE 0xa2, 0x00, 0x50, 0xfe, 0xc0, 0xf4

static void stores_of_processors(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, STORE_CODE);
    guest_set(&g, WHvX64RegisterRax, 0x42);
    OWHP_SNAPSHOT_HANDLE s = take(&g);
    for (int i = 0; i < 3; i++) {
        run_to(&g, WHvRunVpExitReasonX64Halt);
        assert_int_equal(g.ram[0x5000], 0x42);
        assert_int_equal(guest_get(&g, WHvX64RegisterRax), 0x43);
        assert_dirty_count(put_back(&g, s), 1, 1);
        assert_int_equal(g.ram[0x5000], 0);
        assert_int_equal(guest_get(&g, WHvX64RegisterRax), 0x42);
        assert_int_equal(guest_get(&g, WHvX64RegisterRip), CODE);
        assert_int_equal(put_back(&g, s), 0);
    }
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
}

static void stores_of_the_host(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    memset(g.ram + 0x6000, 7, PAGE);
    OWHP_SNAPSHOT_HANDLE s = take(&g);
    store(&g, 0x6001, 8);
    assert_int_equal(info_of(s).ChangedSizeInBytes, PAGE);
    assert_int_equal(put_back(&g, s), 1);
    assert_int_equal(g.ram[0x6001], 7);
    g.ram[0x6001] = 9; /* nobody is told */
    assert_int_equal(put_back(&g, s), 0);
    assert_int_equal(g.ram[0x6001], 9);
    assert_ok(OwhpMarkDirty(g.partition, 0x6001, 1));
    assert_int_equal(put_back(&g, s), 1);
    assert_int_equal(g.ram[0x6001], 7);
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
}

static void untracked_and_rom(void **state)
{
    struct guest g;
    UINT8 *ram = host_pages(4), *rom = host_pages(1);

    (void)state;
    guest_begin(&g, NULL);
    ram[5] = 1;
    rom[5] = 2;
    assert_ok(WHvMapGpaRange(g.partition, ram, OTHER, 4 * PAGE, RW));
    assert_ok(WHvMapGpaRange(g.partition, rom, OTHER + 0x10000, PAGE, WHvMapGpaRangeFlagRead));
    OWHP_SNAPSHOT_HANDLE s = take(&g);
    store(&g, OTHER + 5, 3);
    rom[5] = 4;
    assert_ok(OwhpMarkDirty(g.partition, OTHER + 0x10000, 1));
    assert_int_equal(put_back(&g, s), 2);
    assert_int_equal(ram[5], 1);
    assert_int_equal(rom[5], 2);
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
}

static void dirty_bits_of_the_client(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    store(&g, 0x5000, 1);
    OWHP_SNAPSHOT_HANDLE s = take(&g);
    assert_int_equal(dirty_pages(&g), 1); /* from before: not consumed */
    store(&g, 0x6000, 1);
    store(&g, 0x7000, 1);
    assert_int_equal(dirty_pages(&g), 2);
    assert_int_equal(put_back(&g, s), 2); /* though the client has taken them */
    assert_int_equal(dirty_pages(&g), 2); /* what was written back is dirty */
    assert_int_equal(dirty_pages(&g), 0);
    assert_int_equal(put_back(&g, s), 0);
    assert_ok(OwhpDestroySnapshot(s));
    store(&g, 0x6000, 1);
    assert_int_equal(dirty_pages(&g), 1);
    guest_end(&g);
}

/* ---- mappings ---- */

static void mappings_changed(void **state)
{
    struct guest g;
    UINT8 *other = host_pages(4), *third = host_pages(1);

    (void)state;
    guest_begin(&g, NULL);
    memset(other, 5, 4 * PAGE);
    assert_ok(WHvMapGpaRange(g.partition, other, OTHER, 4 * PAGE, RW));
    OWHP_SNAPSHOT_HANDLE s = take(&g);

    assert_ok(WHvUnmapGpaRange(g.partition, OTHER + PAGE, PAGE));
    assert_ok(WHvMapGpaRange(g.partition, third, OTHER + 0x100000, PAGE, RW));
    memset(other + PAGE, 6, PAGE); /* while it is not mapped */
    guest_set(&g, WHvX64RegisterRax, 77);
    assert_refused(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagNone, NULL), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_non_null(strstr(OwhpGetLastErrorText(), "0x10001000"));
    assert_int_equal(guest_get(&g, WHvX64RegisterRax), 77);

    UINT64 pages = 0;
    assert_ok(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagMappings, &pages));
    assert_int_not_equal(guest_get(&g, WHvX64RegisterRax), 77);
    assert_int_equal(pages, 1);
    assert_int_equal(other[PAGE], 5);
    UINT8 byte;
    const WHV_ACCESS_GPA_CONTROLS controls = {.AsUINT64 = 0};
    assert_hr(WHvReadGpaRange(g.partition, 0, OTHER + 0x100000, controls, &byte, 1), E_ACCESSDENIED);
    assert_ok(WHvReadGpaRange(g.partition, 0, OTHER + PAGE, controls, &byte, 1));

    /* Unmapped and mapped back alike: good, and the page is looked at. */
    assert_ok(WHvUnmapGpaRange(g.partition, OTHER, PAGE));
    other[0] = 1;
    assert_ok(WHvMapGpaRange(g.partition, other, OTHER, PAGE, RW));
    assert_int_equal(put_back(&g, s), 1);
    assert_int_equal(other[0], 5);

    /* Rights count, tracking does not. */
    assert_ok(WHvMapGpaRange(g.partition, other, OTHER, 4 * PAGE, RW | TRACK));
    put_back(&g, s);
    assert_ok(WHvMapGpaRange(g.partition, other, OTHER, 4 * PAGE, RWX));
    assert_refused(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagNone, NULL), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_ok(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagMappings, NULL));
    put_back(&g, s);
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
}

static void memory_gone(void **state)
{
    struct guest g;
    UINT8 *other = host_pages(4);

    (void)state;
    guest_begin(&g, NULL);
    memset(other, 5, 4 * PAGE);
    assert_ok(WHvMapGpaRange(g.partition, other, OTHER, 4 * PAGE, RW));
    OWHP_SNAPSHOT_HANDLE s = take(&g);
    store(&g, OTHER + PAGE, 6);
    store(&g, OTHER + 2 * PAGE, 6);
    guest_set(&g, WHvX64RegisterRax, 77);
    assert_int_equal(mprotect(other + PAGE, PAGE, PROT_READ), 0);
    assert_refused(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagNone, NULL), E_ACCESSDENIED);
    assert_non_null(strstr(OwhpGetLastErrorText(), "0x10001000"));
    assert_int_equal(other[PAGE], 6);
    assert_int_equal(other[2 * PAGE], 5);
    assert_int_not_equal(guest_get(&g, WHvX64RegisterRax), 77);
    assert_int_equal(mprotect(other + PAGE, PAGE, PROT_READ | PROT_WRITE), 0);
    assert_int_equal(put_back(&g, s), 1);
    assert_int_equal(other[PAGE], 5);

    assert_int_equal(mprotect(other + PAGE, PAGE, PROT_NONE), 0); /* missing when it is taken: zeros */
    OWHP_SNAPSHOT_HANDLE t = NULL;
    assert_ok(OwhpDestroySnapshot(s));
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &t));
    assert_int_equal(mprotect(other + PAGE, PAGE, PROT_READ | PROT_WRITE), 0);
    store(&g, OTHER + PAGE, 6);
    put_back(&g, t);
    assert_int_equal(other[PAGE], 0);
    assert_ok(OwhpDestroySnapshot(t));
    guest_end(&g);
}

/* ---- several, against copies ---- */

enum { MODEL_SNAPSHOTS = 12, MODEL_PAGES = 240 };

static UINT64 random_state = 88172645463325252u;

static UINT64 draw(UINT64 below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % below;
}

struct model {
    OWHP_SNAPSHOT_HANDLE handle[MODEL_SNAPSHOTS];
    UINT8 *copy[MODEL_SNAPSHOTS], *memory;
    UINT64 real_pages; /* the others are aliases of these */
};

static void model_step(struct guest *g, struct model *m)
{
    UINT8 *memory = m->memory;
    size_t n = draw(MODEL_SNAPSHOTS), size = m->real_pages * PAGE;

    switch (draw(12)) {
    case 0:
        if (m->handle[n])
            assert_ok(OwhpDestroySnapshot(m->handle[n]));
        m->handle[n] = take(g);
        memcpy(m->copy[n], memory, size);
        break;
    case 1:
        if (m->handle[n])
            assert_ok(OwhpDestroySnapshot(m->handle[n]));
        m->handle[n] = NULL;
        break;
    case 2:
    case 3:
        if (!m->handle[n])
            break;
        put_back(g, m->handle[n]);
        assert_memory_equal(memory, m->copy[n], size);
        break;
    default:
        for (int i = 0; i < 20; i++) { /* zeros now and then */
            UINT64 page = draw(MODEL_PAGES);
            if (draw(8) == 0) {
                memset(memory + page % m->real_pages * PAGE, 0, PAGE);
                assert_ok(OwhpMarkDirty(g->partition, 0x100000 + page * PAGE, PAGE));
            } else {
                store(g, 0x100000 + page * PAGE + draw(PAGE), (UINT8)draw(4));
            }
        }
        break;
    }
}

enum aliases { NO_ALIASES, SAME_ADDRESS, SAME_FILE };

/* The second half shows the first: at the same host address, or mapped there a second time. */
static void make_aliases(struct guest *g, struct model *m, enum aliases how)
{
    const UINT64 half = MODEL_PAGES / 2 * PAGE;
    UINT8 *again = m->memory;

    if (how == SAME_FILE) {
        int fd = memfd_create("model", 0);
        assert_int_equal(ftruncate(fd, (off_t)half), 0);
        m->memory = mmap(NULL, half, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        again = mmap(NULL, half, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        assert_true(m->memory != MAP_FAILED && again != MAP_FAILED);
        close(fd);
        assert_ok(WHvMapGpaRange(g->partition, m->memory, 0x100000, half, RWX | TRACK));
    }
    assert_ok(WHvMapGpaRange(g->partition, again, 0x100000 + half, half, RWX | TRACK));
}

static void model(enum aliases how)
{
    struct guest g;
    struct model m = {.real_pages = how ? MODEL_PAGES / 2 : MODEL_PAGES};

    guest_begin(&g, NULL);
    m.memory = g.ram + 0x100000;
    if (how)
        make_aliases(&g, &m, how);
    for (int i = 0; i < MODEL_SNAPSHOTS; i++)
        m.copy[i] = host_pages(MODEL_PAGES);
    for (int i = 0; i < 3000; i++)
        model_step(&g, &m);
    for (int i = 0; i < MODEL_SNAPSHOTS; i++)
        if (m.handle[i])
            assert_ok(OwhpDestroySnapshot(m.handle[i]));
    guest_end(&g);
}

static void several(void **state)
{
    (void)state;
    model(NO_ALIASES);
}

static void several_with_aliases(void **state)
{
    (void)state;
    model(SAME_ADDRESS);
    model(SAME_FILE);
}

/* Of pages that were mapped and unmapped again since, there is nothing to tell to other readers: nobody has touched them. */
static void mapped_between(void **state)
{
    struct guest g;
    UINT64 bits, count;

    (void)state;
    guest_begin(&g, NULL);
    for (UINT32 flags = OwhpDirtyConsumerFlagAllPages; flags <= 3; flags += 2) { /* and KeepUnmapped */
        UINT32 consumer;
        assert_ok(OwhpCreateDirtyConsumer(g.partition, 0, 0, (OWHP_DIRTY_CONSUMER_FLAGS)flags, &consumer));
        OWHP_SNAPSHOT_HANDLE s = take(&g);
        assert_ok(WHvMapGpaRange(g.partition, host_pages(4), OTHER, 4 * PAGE, RWX));
        assert_ok(WHvMapGpaRange(g.partition, g.ram, 0, PAGE, RWX | TRACK)); /* the same again: written back */
        assert_ok(WHvUnmapGpaRange(g.partition, OTHER, 4 * PAGE));
        assert_int_equal(put_back(&g, s), 1);
        assert_ok(OwhpQueryDirtyBitmap(g.partition, consumer, OwhpQueryDirtyFlagNone, OTHER, 64 * PAGE, &bits, 8, &count));
        assert_int_equal(count, 0);
        assert_ok(OwhpQueryDirtyBitmap(g.partition, consumer, OwhpQueryDirtyFlagNone, 0, 64 * PAGE, &bits, 8, &count));
        assert_int_equal(bits, 1);
        assert_ok(OwhpDestroySnapshot(s));
        assert_ok(OwhpDeleteDirtyConsumer(g.partition, consumer));
    }
    guest_end(&g);
}

/* ---- what it takes ---- */

static void unused_memory_is_free(void **state)
{
    struct guest g;
    UINT64 size = (UINT64)64 << 30;
    UINT8 *big = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    VOID *shared = NULL;

    (void)state;
    if (big == MAP_FAILED) {
        print_message("SKIP: no room for 64 GiB of addresses\n");
        skip();
    }
    guest_begin(&g, NULL);
    assert_ok(OwhpAllocateMemory((UINT64)4 << 30, 0, &shared));
    assert_ok(WHvMapGpaRange(g.partition, big, (UINT64)1 << 36, size, RW));
    assert_ok(WHvMapGpaRange(g.partition, shared, (UINT64)1 << 38, (UINT64)4 << 30, RW));
    big[size / 2] = 1;
    big[size / 2 + PAGE] = 0;
    ((UINT8 *)shared)[0x12345000] = 1;
    OWHP_SNAPSHOT_HANDLE s = take(&g);
    OWHP_SNAPSHOT_INFO info = info_of(s);
    assert_int_equal(info.GuestSizeInBytes, RAM_SIZE + size + ((UINT64)4 << 30));
    assert_int_equal(info.StoredSizeInBytes, 4 * PAGE); /* those two, the vectors and their handlers */
    assert_int_equal(info.RangeCount, 3);
    assert_int_equal(info.ProcessorCount, 1);
    assert_int_equal(info.IsAttached, 1);

    OWHP_GPA_RANGE ranges[3];
    UINT32 count;
    assert_ok(OwhpEnumerateGpaRanges(g.partition, ranges, 3, &count));
    assert_true(ranges[2].ResidentSizeInBytes < 4 << 20); /* nothing was brought into being */
    big[size / 2] = 2;
    assert_ok(OwhpMarkDirty(g.partition, ((UINT64)1 << 36) + size / 2, 1));
    put_back(&g, s);
    assert_int_equal(big[size / 2], 1);
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
    assert_ok(OwhpFreeMemory(shared));
    munmap(big, size);
}

static void second_one_shares(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    memset(g.ram + 0x100000, 1, 0x80000);
    OWHP_SNAPSHOT_HANDLE a = take(&g);
    store(&g, 0x100000, 2);
    store(&g, 0x101000, 2);
    OWHP_SNAPSHOT_HANDLE b = take(&g);
    assert_true(info_of(a).StoredSizeInBytes > 0x80000);
    assert_int_equal(info_of(b).StoredSizeInBytes, 2 * PAGE);
    assert_ok(OwhpDestroySnapshot(a)); /* what they share stays */
    memset(g.ram + 0x100000, 9, 0x80000);
    assert_ok(OwhpMarkDirty(g.partition, 0x100000, 0x80000));
    put_back(&g, b);
    assert_int_equal(g.ram[0x100000], 2);
    assert_int_equal(g.ram[0x100001], 1);
    assert_int_equal(g.ram[0x17ffff], 1);
    assert_ok(OwhpDestroySnapshot(b));
    guest_end(&g);
}

static UINT64 resident_kib(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");

    assert_non_null(status);
    while (fgets(line, sizeof(line), status) && sscanf(line, "VmRSS: %llu", &kib) != 1)
        continue;
    fclose(status);
    return kib;
}

static void ten_thousand(void **state)
{
    struct guest g;
    UINT64 before = 0;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, STORE_CODE);
    OWHP_SNAPSHOT_HANDLE s = take(&g);
    const unsigned rounds = test_rounds(10000);
    for (unsigned i = 0; i < rounds; i++) {
        run_to(&g, WHvRunVpExitReasonX64Halt);
        assert_dirty_count(put_back(&g, s), 1, 1);
        if (i % 100 == 0) { /* and some that come and go */
            OWHP_SNAPSHOT_HANDLE t = take(&g);
            put_back(&g, s);
            assert_ok(OwhpDestroySnapshot(t));
        }
        if (i == rounds / 10)
            before = resident_kib();
    }
    UINT64 after = resident_kib();
    if (after > before + 4096) /* sanitizers keep freed memory: what they allow is not a leak */
        print_message("resident: %llu KiB, then %llu\n", (unsigned long long)before, (unsigned long long)after);
    assert_true(after < before + 65536);
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
}

/* ---- refusals ---- */

static void arguments(void **state)
{
    struct guest g, other;
    OWHP_SNAPSHOT_HANDLE s, bad;
    OWHP_SNAPSHOT_INFO info;

    (void)state;
    guest_begin(&g, NULL);
    guest_begin(&other, NULL);
    s = take(&g);
    assert_refused(OwhpCreateSnapshot(g.partition, 1, &bad), E_INVALIDARG);
    assert_refused(OwhpCreateSnapshot(g.partition, 0, NULL), E_POINTER);
    assert_refused(OwhpCreateSnapshot(g.partition, 0, WILD), E_POINTER);
    assert_refused(OwhpCreateSnapshot(NULL, 0, &bad), E_HANDLE);
    assert_refused(OwhpRestoreSnapshot(g.partition, s, (OWHP_RESTORE_FLAGS)2, NULL), E_INVALIDARG);
    assert_refused(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagNone, WILD), E_POINTER);
    assert_refused(OwhpRestoreSnapshot(g.partition, NULL, OwhpRestoreFlagNone, NULL), E_HANDLE);
    assert_refused(OwhpRestoreSnapshot(g.partition, g.partition, OwhpRestoreFlagNone, NULL), E_HANDLE);
    assert_refused(OwhpRestoreSnapshot(s, s, OwhpRestoreFlagNone, NULL), E_HANDLE);
    assert_refused(OwhpRestoreSnapshot(other.partition, s, OwhpRestoreFlagNone, NULL), E_INVALIDARG);
    assert_refused(OwhpQuerySnapshot(s, NULL), E_POINTER);
    assert_refused(OwhpQuerySnapshot(s, WILD), E_POINTER);
    assert_refused(OwhpQuerySnapshot(NULL, &info), E_HANDLE);
    assert_refused(OwhpDestroySnapshot(NULL), E_HANDLE);
    assert_ok(OwhpDestroySnapshot(s));
    assert_refused(OwhpDestroySnapshot(s), E_HANDLE);
    assert_refused(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagNone, NULL), E_HANDLE);
    guest_end(&g);
    guest_end(&other);
}

static void not_set_up(void **state)
{
    WHV_PARTITION_HANDLE p;
    OWHP_SNAPSHOT_HANDLE s;

    (void)state;
    assert_ok(WHvCreatePartition(&p));
    assert_refused(OwhpCreateSnapshot(p, 0, &s), E_INVALID_STATE);
    assert_refused(OwhpLoadSnapshot(p, "/nowhere", OwhpLoadFlagNone, &s), E_INVALID_STATE);
    assert_ok(WHvDeletePartition(p));
}

static void other_processors(void **state)
{
    struct guest g;
    UINT64 pages;

    (void)state;
    guest_begin(&g, &(struct guest_options){.processors = 3});
    assert_ok(WHvCreateVirtualProcessor(g.partition, 1, 0));
    OWHP_SNAPSHOT_HANDLE s = take(&g);
    assert_ok(WHvCreateVirtualProcessor(g.partition, 2, 0));
    assert_refused(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagNone, &pages), WHV_E_VP_ALREADY_EXISTS);
    assert_ok(WHvDeleteVirtualProcessor(g.partition, 2));
    put_back(&g, s);
    assert_ok(WHvDeleteVirtualProcessor(g.partition, 1));
    assert_refused(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagNone, &pages), WHV_E_VP_DOES_NOT_EXIST);
    assert_ok(WHvCreateVirtualProcessor(g.partition, 1, 0));
    put_back(&g, s);
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
}

static void outlives_its_partition(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    OWHP_SNAPSHOT_HANDLE a = take(&g), b = take(&g);
    assert_ok(OwhpDestroySnapshot(a));
    guest_end(&g);
    assert_int_equal(info_of(b).IsAttached, 0);
    assert_int_equal(info_of(b).ChangedSizeInBytes, 0);
    assert_ok(OwhpDestroySnapshot(b));
}

/* A page of the snapshot is mapped at another address for a while, where the snapshot has nothing, and stored to there. */
static void stored_elsewhere(void **state)
{
    struct guest g;
    UINT64 pages;

    (void)state;
    guest_begin(&g, NULL);
    g.ram[0x5000] = 1;
    OWHP_SNAPSHOT_HANDLE s = take(&g);
    for (UINT64 n = 1; n <= 4; n++) {
        assert_ok(WHvMapGpaRange(g.partition, g.ram + 0x5000 - PAGE * (n - 1), OTHER, n * PAGE, RWX));
        store(&g, OTHER + (n - 1) * PAGE, 2);
        assert_int_equal(g.ram[0x5000], 2);
        if (n & 1) {
            assert_ok(WHvUnmapGpaRange(g.partition, OTHER, n * PAGE));
            assert_int_equal(put_back(&g, s), n);
        } else {
            assert_ok(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagMappings, &pages));
            assert_int_equal(pages, n);
        }
        assert_int_equal(g.ram[0x5000], 1);
        assert_int_equal(put_back(&g, s), 0);
    }
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
}

/* The same by a second mapping of the memory's file in the host, by a guest's store; the client has unmapped it when it restores. */
static void stored_through_the_file(void **state)
{
    struct guest g;
    int file = memfd_create("twice", MFD_CLOEXEC);

    (void)state;
    guest_begin(&g, NULL);
    assert_int_equal(ftruncate(file, 4 * PAGE), 0);
    UINT8 *first = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    memset(first, 5, 4 * PAGE);
    assert_ok(WHvMapGpaRange(g.partition, first, OTHER, 4 * PAGE, RWX));
    OWHP_SNAPSHOT_HANDLE s = take(&g);
    UINT8 *second = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, PAGE);
    assert_ok(WHvMapGpaRange(g.partition, second, 0x8000, 2 * PAGE, RWX)); /* in place of the guest's own */
    guest_code(&g, 0xc6, 0x06, 0x00, 0x80, 0x42, 0xf4);                     /* mov byte [0x8000], 0x42; hlt */
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(first[PAGE], 0x42);
    assert_ok(WHvMapGpaRange(g.partition, g.ram + 0x8000, 0x8000, 2 * PAGE, RWX));
    munmap(second, 2 * PAGE);
    put_back(&g, s);
    for (size_t i = 0; i < 4 * PAGE; i++)
        assert_int_equal(first[i], 5);
    assert_int_equal(put_back(&g, s), 0);
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
    munmap(first, 4 * PAGE);
    close(file);
}

/* Pages that cannot be read are zeros in a snapshot, and in the next one what they are, though nobody stored to them. */
static void protected_meanwhile(void **state)
{
    struct guest g;
    OWHP_SNAPSHOT_HANDLE s[4];

    (void)state;
    guest_begin(&g, NULL);
    UINT8 *other = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(other, 7, 4 * PAGE);
    assert_ok(WHvMapGpaRange(g.partition, other, OTHER, 4 * PAGE, RWX));
    assert_int_equal(mprotect(other + PAGE, 2 * PAGE, PROT_NONE), 0);
    s[0] = take(&g);
    s[1] = take(&g);
    assert_int_equal(mprotect(other + PAGE, PAGE, PROT_READ | PROT_WRITE), 0);
    s[2] = take(&g);
    assert_int_equal(info_of(s[2]).StoredSizeInBytes, PAGE);
    assert_int_equal(mprotect(other + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE), 0);
    s[3] = take(&g);
    assert_int_equal(info_of(s[3]).StoredSizeInBytes, PAGE);
    for (UINT64 page = 0; page < 4; page++)
        store(&g, OTHER + page * PAGE + 5, 8);
    assert_int_equal(put_back(&g, s[3]), 4);
    for (size_t i = 0; i < 4 * PAGE; i++)
        assert_int_equal(other[i], 7);
    assert_int_equal(put_back(&g, s[2]), 4);
    assert_int_equal(other[PAGE + 9], 7);
    assert_int_equal(other[2 * PAGE + 9], 0);
    assert_int_equal(put_back(&g, s[0]), 4);
    assert_int_equal(other[9], 7);
    assert_int_equal(other[PAGE + 9], 0);
    for (size_t i = 0; i < 4; i++)
        assert_ok(OwhpDestroySnapshot(s[i]));
    guest_end(&g);
    munmap(other, 4 * PAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("SNP.1", "H", stores_of_processors),
        CASE("SNP.2", "H", stores_of_the_host),
        CASE("SNP.3", "H", untracked_and_rom),
        CASE("SNP.4", "H", dirty_bits_of_the_client),
        CASE("SNP.5", "H", mappings_changed),
        CASE("SNP.6", "H", memory_gone),
        CASE("SNP.7", "H", several),
        CASE("SNP.8", "H", several_with_aliases),
        CASE("SNP.9", "H", unused_memory_is_free),
        CASE("SNP.10", "H", second_one_shares),
        CASE("SNP.11", "H", ten_thousand),
        CASE("SNP.12", "H", arguments),
        CASE("SNP.13", "H", not_set_up),
        CASE("SNP.14", "H", other_processors),
        CASE("SNP.15", "H", outlives_its_partition),
        CASE("SNP.16", "H", mapped_between),
        CASE("SNP.17", "H", stored_elsewhere),
        CASE("SNP.19", "H: memory that is mapped twice", stored_through_the_file),
        CASE("SNP.18", "H: memory that is protected counts as zeros", protected_meanwhile),
    };
    return cmocka_run_group_tests_name("snapshots", tests, NULL, NULL);
}
