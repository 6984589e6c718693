/* Memory functions: every kind of bad argument, what must not change, the good paths. Over the fake engine. */
#include "conform.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fake_engine.h"

typedef WHV_PARTITION_HANDLE P;

#define FLAGS(value) ((WHV_MAP_GPA_RANGE_FLAGS)(value))

enum { READ = 1, WRITE = 2, EXECUTE = 4, TRACK = 8 };

static const WHV_ACCESS_GPA_CONTROLS plain;

static UINT64 pages_mapped(P partition)
{
    WHV_PARTITION_MEMORY_COUNTERS counters;

    assert_ok(WHvGetPartitionCounters(partition, WHvPartitionCounterSetMemory, &counters, sizeof(counters), NULL));
    return counters.Mapped4KPageCount;
}

/* ---- map, unmap ---- */

static void map_flags(void **state)
{
    P partition = partition_set_up(1);
    void *host = host_pages(1);

    (void)state;
    for (UINT32 flags = 0; flags < 64; flags++) {
        UINT32 rights = flags & 7;
        bool good = flags < 16 && (rights == 0 || rights == READ || rights == (READ | WRITE) ||
                                   rights == (READ | EXECUTE) || rights == 7);
        assert_hr(WHvMapGpaRange(partition, host, 0, 4096, FLAGS(flags)), good ? S_OK : E_INVALIDARG);
        assert_int_equal(pages_mapped(partition), good);
        assert_ok(WHvUnmapGpaRange(partition, 0, 4096));
    }
    assert_hr(WHvMapGpaRange(partition, host, 0, 4096, FLAGS(0x80000001)), E_INVALIDARG);
    assert_ok(WHvDeletePartition(partition));
}

static void map_arguments(void **state)
{
    P partition = partition_set_up(1);
    UINT8 *host = host_pages(4);
    const UINT64 limit = 1ull << 46;
    const struct {
        void *host;
        UINT64 gpa, size;
    } bad[] = {
        {host + 1, 0, 4096},
        {host + 2048, 0, 4096},
        {host, 1, 4096},
        {host, 0x800, 4096},
        {host, 0, 1},
        {host, 0, 4097},
        {host, 0, 0},
        {NULL, 0, 4096},
        {host, limit, 4096},
        {host, limit - 4096, 8192},
        {host, 0xfffffffffffff000, 4096},
        {host, 0xfffffffffffff000, 8192},
        {host, 4096, 0xfffffffffffff000},
        {host, 0, limit + 4096},
        {(void *)(uintptr_t)0xfffffffffffff000, 0, 8192},
        {(void *)(uintptr_t)0xfffffffffffff000, 0, 4096},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_refused(WHvMapGpaRange(partition, bad[i].host, bad[i].gpa, bad[i].size, FLAGS(READ)), E_INVALIDARG);
        assert_refused(WHvMapGpaRange2(partition, (HANDLE)(intptr_t)-1, bad[i].host, bad[i].gpa, bad[i].size, FLAGS(READ)),
                       E_INVALIDARG);
        if (bad[i].host == host) {
            assert_refused(WHvUnmapGpaRange(partition, bad[i].gpa, bad[i].size), E_INVALIDARG);
            assert_refused(WHvQueryGpaRangeDirtyBitmap(partition, bad[i].gpa, bad[i].size, NULL, 0), E_INVALIDARG);
        }
    }
    assert_int_equal(pages_mapped(partition), 0);
    assert_ok(WHvMapGpaRange(partition, host, limit - 4096, 4096, FLAGS(READ))); /* the last page */
    assert_ok(WHvDeletePartition(partition));
}

static void map_lower_width(void **state)
{
    P partition = partition_created(1);

    (void)state;
    set_property(partition, WHvPartitionPropertyCodePhysicalAddressWidth, 36, 4);
    assert_ok(WHvSetupPartition(partition));
    assert_refused(WHvMapGpaRange(partition, host_pages(1), 1ull << 36, 4096, FLAGS(READ)), E_INVALIDARG);
    assert_ok(WHvMapGpaRange(partition, host_pages(1), (1ull << 36) - 4096, 4096, FLAGS(READ)));
    assert_ok(WHvDeletePartition(partition));
}

/* A failing map leaves the old mapping. */
static void map_failure_keeps(void **state)
{
    P partition = partition_with_vcpu();
    UINT64 *host = host_pages(2), value;

    (void)state;
    host[0] = 5;
    assert_ok(WHvMapGpaRange(partition, host, 0x1000, 4096, FLAGS(READ)));
    assert_refused(WHvMapGpaRange(partition, (char *)host + 4096, 0x1000, 4096, FLAGS(WRITE)), E_INVALIDARG);
    assert_ok(WHvReadGpaRange(partition, 0, 0x1000, plain, &value, 8));
    assert_int_equal(value, 5);
    assert_ok(WHvDeletePartition(partition));
}

static void map2_processes(void **state)
{
    P partition = partition_set_up(1);
    void *host = host_pages(1);

    (void)state;
    assert_ok(WHvMapGpaRange2(partition, (HANDLE)(intptr_t)-1, host, 0, 4096, FLAGS(READ)));
    assert_refused(WHvMapGpaRange2(partition, NULL, host, 0, 4096, FLAGS(READ)), E_HANDLE);
    assert_refused(WHvMapGpaRange2(partition, (HANDLE)(intptr_t)5, host, 0, 4096, FLAGS(READ)), E_HANDLE);
    assert_refused(WHvMapGpaRange2(partition, host, host, 0, 4096, FLAGS(READ)), E_HANDLE);
    assert_ok(WHvDeletePartition(partition));
}

static void unmap_parts(void **state)
{
    P partition = partition_set_up(1);

    (void)state;
    assert_ok(WHvUnmapGpaRange(partition, 0, 0x100000)); /* nothing is mapped */
    for (UINT64 i = 0; i < 8; i++)
        assert_ok(WHvMapGpaRange(partition, host_pages(2), i * 0x3000, 0x2000, FLAGS(READ)));
    assert_int_equal(pages_mapped(partition), 16);
    assert_ok(WHvUnmapGpaRange(partition, 0x1000, 0x3000)); /* half of one, a hole, half of another */
    assert_int_equal(pages_mapped(partition), 14);
    assert_ok(WHvUnmapGpaRange(partition, 0x1000, 0x3000));
    assert_int_equal(pages_mapped(partition), 14);
    assert_ok(WHvUnmapGpaRange(partition, 0, 1ull << 40));
    assert_int_equal(pages_mapped(partition), 0);
    assert_ok(WHvDeletePartition(partition));
}

static void aliases(void **state)
{
    P partition = partition_with_vcpu();
    UINT64 *host = host_pages(1), value = 77;

    (void)state;
    assert_ok(WHvMapGpaRange(partition, host, 0x1000, 4096, FLAGS(READ | WRITE | TRACK)));
    assert_ok(WHvMapGpaRange(partition, host, 0x9000, 4096, FLAGS(READ | WRITE | TRACK)));
    assert_ok(WHvWriteGpaRange(partition, 0, 0x1008, plain, &value, 8));
    value = 0;
    assert_ok(WHvReadGpaRange(partition, 0, 0x9008, plain, &value, 8));
    assert_int_equal(value, 77);
    assert_int_equal(host[1], 77);
    /* Dirty by guest address, not by host page. */
    assert_ok(WHvQueryGpaRangeDirtyBitmap(partition, 0x9000, 4096, &value, 8));
    assert_int_equal(value, 0);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(partition, 0x1000, 4096, &value, 8));
    assert_int_equal(value, 1);
    assert_ok(WHvDeletePartition(partition));
}

static void many_ranges(void **state)
{
    P partition = partition_set_up(1);
    UINT8 *host = host_pages(8192);

    (void)state;
    for (UINT64 i = 0; i < 8192; i++)
        assert_ok(WHvMapGpaRange(partition, host + (8191 - i) * 4096, i * 4096, 4096, FLAGS(READ)));
    assert_int_equal(pages_mapped(partition), 8192);
    assert_ok(WHvMapGpaRange(partition, host, 1ull << 40, 64ull << 30, FLAGS(READ | WRITE))); /* 64 GiB in one call */
    assert_int_equal(pages_mapped(partition), 8192 + (64ull << 18));
    assert_ok(WHvDeletePartition(partition));
}

/* ---- read, write ---- */

static void access_arguments(void **state)
{
    P partition = partition_with_vcpu();
    UINT8 *host = host_pages(4), data[32];

    (void)state;
    memset(data, 0xcc, sizeof(data));
    assert_ok(WHvMapGpaRange(partition, host, 0x1000, 0x2000, FLAGS(READ | WRITE)));
    assert_ok(WHvMapGpaRange(partition, host, 0x3000, 0x1000, FLAGS(READ)));
    assert_ok(WHvMapGpaRange(partition, host, 0x4000, 0x1000, FLAGS(0)));
#define BOTH(gpa, controls, pointer, size, expected)                                               \
    do {                                                                                           \
        assert_refused(WHvReadGpaRange(partition, 0, gpa, controls, pointer, size), expected);     \
        assert_refused(WHvWriteGpaRange(partition, 0, gpa, controls, pointer, size), expected);    \
    } while (0)
    BOTH(0x1000, plain, data, 0, E_INVALIDARG);
    BOTH(0x1000, plain, NULL, 4, E_POINTER);
    BOTH(0x1000, plain, WILD, 4, E_POINTER);
    BOTH(0xfffffffffffffff8, plain, data, 16, E_INVALIDARG);
    BOTH(0, plain, data, 4, E_ACCESSDENIED);
    BOTH(0xffe, plain, data, 4, E_ACCESSDENIED);
    BOTH(0x4000, plain, data, 4, E_ACCESSDENIED);
    BOTH(0x5000, plain, data, 4, E_ACCESSDENIED);
    BOTH(1ull << 50, plain, data, 4, E_ACCESSDENIED);
    for (UINT32 type = 0; type < 10; type++) {
        WHV_ACCESS_GPA_CONTROLS controls = {.CacheType = (WHV_CACHE_TYPE)type};
        if (type == 0 || type == 1 || (type >= 4 && type <= 6))
            assert_ok(WHvReadGpaRange(partition, 0, 0x1000, controls, data, 4));
        else
            BOTH(0x1000, controls, data, 4, E_INVALIDARG);
    }
    for (int bit = 32; bit < 64; bit++) {
        WHV_ACCESS_GPA_CONTROLS controls = {.AsUINT64 = 1ull << bit};
        BOTH(0x1000, controls, data, 4, E_INVALIDARG);
    }
#undef BOTH
    assert_refused(WHvWriteGpaRange(partition, 0, 0x3000, plain, data, 4), E_ACCESSDENIED);
    /* All or nothing: the first page could be written. */
    host[0x1ffe] = 1;
    memset(data, 0xee, sizeof(data));
    assert_refused(WHvWriteGpaRange(partition, 0, 0x2ffe, plain, data, 4), E_ACCESSDENIED);
    assert_int_equal(host[0x1ffe], 1);
    memset(data, 0xcc, sizeof(data));
    assert_refused(WHvReadGpaRange(partition, 0, 0x3ffe, plain, data, 4), E_ACCESSDENIED);
    assert_int_equal(data[0], 0xcc);
    assert_ok(WHvDeletePartition(partition));
}

static void access_any_length(void **state)
{
    P partition = partition_with_vcpu();
    UINT8 *one = host_pages(2), *two = host_pages(1), out[6000], in[6000];

    (void)state;
    assert_ok(WHvMapGpaRange(partition, one, 0x1000, 4096, FLAGS(READ | WRITE)));
    assert_ok(WHvMapGpaRange(partition, two, 0x2000, 4096, FLAGS(READ | WRITE)));
    for (size_t i = 0; i < sizeof(out); i++)
        out[i] = (UINT8)(i * 13);
    assert_ok(WHvWriteGpaRange(partition, 0, 0x1100, plain, out, sizeof(out)));
    assert_ok(WHvReadGpaRange(partition, 0, 0x1100, plain, in, sizeof(in)));
    assert_memory_equal(in, out, sizeof(in));
    assert_memory_equal(two, out + 0xf00, 100);
    assert_ok(WHvDeletePartition(partition));
    /* What the environment says when a partition is set up. */
    setenv("OPENWHP_STRICT", "1", 1);
    partition = partition_with_vcpu();
    setenv("OPENWHP_STRICT", "0", 1);
    assert_ok(WHvMapGpaRange(partition, one, 0x1000, 4096, FLAGS(READ | WRITE)));
    assert_ok(WHvMapGpaRange(partition, two, 0x2000, 4096, FLAGS(READ | WRITE)));
    assert_refused(WHvReadGpaRange(partition, 0, 0x1100, plain, in, 17), E_INVALIDARG);
    assert_refused(WHvReadGpaRange(partition, 0, 0x1ffc, plain, in, 8), E_INVALIDARG);
    assert_refused(WHvWriteGpaRange(partition, 0, 0x1ffc, plain, in, 8), E_INVALIDARG);
    assert_ok(WHvReadGpaRange(partition, 0, 0x1ff0, plain, in, 16));
    assert_ok(WHvDeletePartition(partition));
    partition = partition_with_vcpu();
    assert_ok(WHvMapGpaRange(partition, one, 0x1000, 8192, FLAGS(READ | WRITE)));
    assert_ok(WHvReadGpaRange(partition, 0, 0x1ffc, plain, in, 17));
    unsetenv("OPENWHP_STRICT");
    assert_ok(WHvDeletePartition(partition));
}

static void access_missing_host(void **state)
{
    P partition = partition_with_vcpu();
    UINT8 *host = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), data[16] = {1};

    (void)state;
    assert_ok(WHvMapGpaRange(partition, host, 0, 8192, FLAGS(READ | WRITE | TRACK)));
    munmap(host + 4096, 4096);
    assert_refused(WHvReadGpaRange(partition, 0, 0x1000, plain, data, 8), E_ACCESSDENIED);
    assert_refused(WHvWriteGpaRange(partition, 0, 0xff8, plain, data, 16), E_ACCESSDENIED);
    assert_int_equal(host[0xff8], 0);
    assert_int_equal(mprotect(host, 4096, PROT_READ), 0);
    assert_ok(WHvReadGpaRange(partition, 0, 0, plain, data, 8));
    assert_refused(WHvWriteGpaRange(partition, 0, 0, plain, data, 8), E_ACCESSDENIED);
    munmap(host, 4096);
    assert_ok(WHvDeletePartition(partition));
}

/* Windows has one partition with memory in a process; here there is no limit. The memory is the same for both. */
static void several_partitions(void **state)
{
    P one = partition_with_vcpu(), two = partition_with_vcpu();
    void *host = host_pages(2);
    UINT64 value = 0x1234, other = 0, bitmap;

    (void)state;
    assert_ok(WHvMapGpaRange(one, host, 0x1000, 8192, FLAGS(READ | WRITE | TRACK)));
    assert_ok(WHvMapGpaRange(two, host, 0x5000, 8192, FLAGS(READ | WRITE | TRACK)));
    assert_ok(WHvWriteGpaRange(one, 0, 0x2008, plain, &value, 8));
    assert_ok(WHvReadGpaRange(two, 0, 0x6008, plain, &other, 8));
    assert_int_equal(other, value);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(two, 0x5000, 8192, &bitmap, 8)); /* each has dirty pages of its own */
    assert_int_equal(bitmap, 0);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(one, 0x1000, 8192, &bitmap, 8));
    assert_int_equal(bitmap, 2);
    assert_ok(WHvDeletePartition(one));
    assert_ok(WHvReadGpaRange(two, 0, 0x6008, plain, &other, 8));
    assert_ok(WHvDeletePartition(two));
}

/* ---- dirty query ---- */

static void query_arguments(void **state)
{
    P partition = partition_with_vcpu();
    UINT64 bitmap[4] = {9, 9, 9, 9}, value = 1;

    (void)state;
    assert_ok(WHvMapGpaRange(partition, host_pages(70), 0, 70 * 4096, FLAGS(READ | WRITE | TRACK)));
    assert_ok(WHvMapGpaRange(partition, host_pages(1), 70 * 4096, 4096, FLAGS(READ | WRITE)));
    assert_ok(WHvWriteGpaRange(partition, 0, 69 * 4096, plain, &value, 8));
#define QUERY(gpa, pages, bits, bytes) WHvQueryGpaRangeDirtyBitmap(partition, gpa, (UINT64)(pages)*4096, bits, bytes)
    assert_hr(QUERY(0, 71, bitmap, 16), WHV_E_GPA_RANGE_NOT_FOUND); /* the last is not tracked */
    assert_hr(QUERY(0, 72, bitmap, 16), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_hr(QUERY(80 * 4096, 1, bitmap, 16), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_hr(QUERY(0, 70, bitmap, 8), WHV_E_INSUFFICIENT_BUFFER);
    assert_hr(QUERY(0, 70, bitmap, 15), WHV_E_INSUFFICIENT_BUFFER);
    assert_hr(QUERY(0, 70, NULL, 16), E_POINTER);
    assert_hr(QUERY(0, 70, WILD, 16), E_POINTER);
    assert_hr(QUERY(0, 70, (UINT64 *)(void *)((char *)bitmap + 4), 16), E_INVALIDARG);
    assert_int_equal(bitmap[0], 9);
    /* None of these cleared the bit. */
    assert_ok(QUERY(0, 70, bitmap, sizeof(bitmap)));
    assert_int_equal(bitmap[0], 0);
    assert_int_equal(bitmap[1], 1 << 5);
    assert_int_equal(bitmap[2], 9); /* words beyond the range are left alone */
    assert_ok(QUERY(0, 70, bitmap, 16));
    assert_int_equal(bitmap[1], 0);
#undef QUERY
    assert_ok(WHvDeletePartition(partition));
}

static void replaced_pages_are_clean(void **state)
{
    P partition = partition_with_vcpu();
    UINT64 bitmap, value = 1;
    void *host = host_pages(2);

    (void)state;
    assert_ok(WHvMapGpaRange(partition, host, 0, 8192, FLAGS(READ | WRITE | TRACK)));
    for (UINT64 gpa = 0; gpa < 8192; gpa += 4096)
        assert_ok(WHvWriteGpaRange(partition, 0, gpa, plain, &value, 8));
    assert_ok(WHvMapGpaRange(partition, host, 0, 4096, FLAGS(READ | WRITE | TRACK)));
    assert_ok(WHvQueryGpaRangeDirtyBitmap(partition, 0, 8192, &bitmap, 8));
    assert_int_equal(bitmap, 2);
    assert_ok(WHvDeletePartition(partition));
}

/* ---- advice ---- */

static HRESULT advise(P partition, UINT64 gpa, UINT64 size, UINT32 code, UINT32 flags, UINT32 type)
{
    const WHV_MEMORY_RANGE_ENTRY range = {gpa, size};
    WHV_ADVISE_GPA_RANGE_POPULATE populate = {.AccessType = (WHV_MEMORY_ACCESS_TYPE)type};
    bool is_populate = code == WHvAdviseGpaRangeCodePopulate;

    populate.Flags.AsUINT32 = flags;
    return WHvAdviseGpaRange(partition, &range, 1, (WHV_ADVISE_GPA_RANGE_CODE)code, is_populate ? &populate : NULL,
                             is_populate ? sizeof(populate) : 0);
}

static void advise_arguments(void **state)
{
    P partition = partition_set_up(1);
    const WHV_MEMORY_RANGE_ENTRY range = {0, 4096};
    const WHV_ADVISE_GPA_RANGE_POPULATE populate = {.AccessType = WHvMemoryAccessRead};
    enum { POPULATE, PIN, UNPIN };

    (void)state;
    assert_ok(WHvMapGpaRange(partition, host_pages(4), 0, 0x4000, FLAGS(READ | WRITE)));
    assert_ok(WHvMapGpaRange(partition, host_pages(1), 0x4000, 0x1000, FLAGS(READ)));
#define ADVISE(ranges, count, code, buffer, size)                                                  \
    WHvAdviseGpaRange(partition, ranges, count, (WHV_ADVISE_GPA_RANGE_CODE)(code), buffer, size)
    assert_hr(ADVISE(NULL, 1, POPULATE, &populate, 8), E_POINTER);
    assert_hr(ADVISE(WILD, 1, POPULATE, &populate, 8), E_POINTER);
    assert_hr(ADVISE(&range, 1, POPULATE, NULL, 8), E_POINTER);
    assert_hr(ADVISE(&range, 1, POPULATE, WILD, 8), E_POINTER);
    assert_hr(ADVISE(&range, 0, POPULATE, &populate, 8), E_INVALIDARG);
    assert_hr(ADVISE(&range, 1, POPULATE, &populate, 7), E_INVALIDARG);
    assert_hr(ADVISE(&range, 1, POPULATE, &populate, 9), E_INVALIDARG);
    assert_hr(ADVISE(&range, 1, POPULATE, NULL, 0), E_INVALIDARG);
    assert_hr(ADVISE(&range, 1, 3, &populate, 8), E_INVALIDARG);
    assert_hr(ADVISE(&range, 1, PIN, &populate, 8), E_INVALIDARG);
    assert_hr(ADVISE(&range, 1, UNPIN, &populate, 0), E_INVALIDARG);
#undef ADVISE
    assert_ok(advise(partition, 0x123, 1, POPULATE, 0, WHvMemoryAccessWrite)); /* need not be aligned */
    assert_ok(advise(partition, 0, 0x4000, POPULATE, 3, WHvMemoryAccessRead));
    assert_hr(advise(partition, 0, 0x1000, POPULATE, 4, WHvMemoryAccessRead), E_INVALIDARG);
    assert_hr(advise(partition, 0, 0x1000, POPULATE, 0, 3), E_INVALIDARG);
    assert_hr(advise(partition, 0, 0, POPULATE, 0, 0), E_INVALIDARG);
    assert_hr(advise(partition, 0xfffffffffffff000, 0x2000, POPULATE, 0, 0), E_INVALIDARG);
    assert_hr(advise(partition, 0x4000, 0x1000, POPULATE, 0, WHvMemoryAccessWrite), E_ACCESSDENIED);
    assert_hr(advise(partition, 0x4000, 0x1000, POPULATE, 0, WHvMemoryAccessExecute), E_ACCESSDENIED);
    assert_hr(advise(partition, 0x5000, 0x1000, POPULATE, 0, WHvMemoryAccessRead), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_hr(advise(partition, 0, 0x6000, POPULATE, 0, WHvMemoryAccessRead), WHV_E_GPA_RANGE_NOT_FOUND);

    assert_hr(advise(partition, 1, 0x1000, PIN, 0, 0), E_INVALIDARG);
    assert_hr(advise(partition, 0, 0x1001, PIN, 0, 0), E_INVALIDARG);
    assert_hr(advise(partition, 0, 0, PIN, 0, 0), E_INVALIDARG);
    assert_hr(advise(partition, 0x5000, 0x1000, PIN, 0, 0), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_hr(advise(partition, 0, 0x1000, UNPIN, 0, 0), E_INVALIDARG); /* no pin */
    assert_ok(advise(partition, 0, 0x2000, PIN, 0, 0));
    assert_ok(advise(partition, 0, 0x1000, PIN, 0, 0)); /* pins count */
    assert_ok(advise(partition, 0, 0x2000, UNPIN, 0, 0));
    assert_hr(advise(partition, 0, 0x2000, UNPIN, 0, 0), E_INVALIDARG); /* only the first page has one left */
    assert_ok(advise(partition, 0, 0x1000, UNPIN, 0, 0));
    assert_ok(WHvDeletePartition(partition));
}

/* ---- our additions ---- */

static void enumerate(void **state)
{
    P partition = partition_with_vcpu();
    UINT8 *a = host_pages(4), *b = host_pages(2);
    OWHP_GPA_RANGE ranges[8];
    UINT32 count = 99, value = 1;

    (void)state;
    assert_ok(OwhpEnumerateGpaRanges(partition, NULL, 0, &count));
    assert_int_equal(count, 0);
    assert_ok(WHvMapGpaRange(partition, a, 0x1000, 0x4000, FLAGS(READ | WRITE | TRACK)));
    assert_ok(WHvMapGpaRange(partition, b, 0x10000, 0x2000, FLAGS(READ | EXECUTE)));
    assert_ok(WHvWriteGpaRange(partition, 0, 0x2000, plain, &value, 4));
    a[0x2000] = a[0x3000] = 1;
    assert_ok(advise(partition, 0x3000, 0x2000, WHvAdviseGpaRangeCodePin, 0, 0));
    assert_refused(OwhpEnumerateGpaRanges(partition, ranges, 8, NULL), E_POINTER);
    assert_refused(OwhpEnumerateGpaRanges(partition, NULL, 8, &count), E_POINTER);
    assert_refused(OwhpEnumerateGpaRanges(partition, WILD, 8, &count), E_POINTER);
    memset(ranges, 0xcc, sizeof(ranges));
    assert_refused(OwhpEnumerateGpaRanges(partition, ranges, 1, &count), WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(count, 2);
    assert_int_equal(ranges[0].GuestAddress, 0x1000);
    assert_int_equal(ranges[1].GuestAddress, 0xcccccccccccccccc);
    assert_ok(OwhpEnumerateGpaRanges(partition, ranges, 8, &count));
    assert_int_equal(count, 2);
    assert_int_equal(ranges[0].SizeInBytes, 0x4000);
    assert_int_equal(ranges[0].Flags, READ | WRITE | TRACK);
    assert_int_equal(ranges[0].Source, OwhpGpaSourceOwnProcess);
    assert_int_equal(ranges[0].SourceAddress, (uintptr_t)a);
    assert_int_equal(ranges[0].ProcessId, 0);
    assert_int_equal(ranges[0].Reserved, 0);
    assert_int_equal(ranges[0].DirtyPageCount, 1);
    assert_int_equal(ranges[0].PinnedPageCount, 2);
    assert_int_equal(ranges[0].ResidentSizeInBytes, 0x3000); /* written by one or the other */
    assert_int_equal(ranges[1].Flags, READ | EXECUTE);
    assert_int_equal(ranges[1].DirtyPageCount, 0);
    assert_ok(WHvDeletePartition(partition));
}

static void mark_dirty(void **state)
{
    P partition = partition_with_vcpu();
    UINT64 bitmap;

    (void)state;
    assert_ok(WHvMapGpaRange(partition, host_pages(4), 0, 0x4000, FLAGS(READ | WRITE | TRACK)));
    assert_ok(OwhpMarkDirty(partition, 0xfff, 2));
    assert_refused(OwhpMarkDirty(partition, 0, 0), E_INVALIDARG);
    assert_refused(OwhpMarkDirty(partition, 0xffffffffffffffff, 2), E_INVALIDARG);
    assert_refused(OwhpMarkDirty(partition, 0x3fff, 2), WHV_E_GPA_RANGE_NOT_FOUND);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(partition, 0, 0x4000, &bitmap, 8));
    assert_int_equal(bitmap, 3);
    assert_ok(WHvDeletePartition(partition));
}

static void allocate(void **state)
{
    void *address = NULL, *other = NULL;

    (void)state;
    assert_refused(OwhpAllocateMemory(4096, 0, NULL), E_POINTER);
    assert_refused(OwhpAllocateMemory(4096, 0, WILD), E_POINTER);
    assert_refused(OwhpAllocateMemory(0, 0, &address), E_INVALIDARG);
    assert_refused(OwhpAllocateMemory(4097, 0, &address), E_INVALIDARG);
    assert_refused(OwhpAllocateMemory(4096, 1, &address), E_INVALIDARG);
    assert_refused(OwhpAllocateMemory(0xfffffffffffff000, 0, &address), E_OUTOFMEMORY);
    assert_refused(OwhpAllocateMemory(1ull << 60, 0, &address), E_OUTOFMEMORY);
    assert_null(address);
    assert_ok(OwhpAllocateMemory(0x203000, 0, &address));
    assert_int_equal((uintptr_t)address & 0x1fffff, 0);
    assert_ok(OwhpAllocateMemory(4096, 0, &other));
    UINT8 *bytes = address;
    assert_true(bytes[0] == 0 && bytes[0x202fff] == 0);
    bytes[0x202fff] = 1;
    assert_refused(OwhpFreeMemory(NULL), E_INVALIDARG);
    assert_refused(OwhpFreeMemory(bytes + 4096), E_INVALIDARG);
    assert_ok(OwhpFreeMemory(address));
    assert_refused(OwhpFreeMemory(address), E_INVALIDARG);
    assert_ok(OwhpFreeMemory(other));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("MAP-1", "F 2.1, S permission combinations", map_flags),
        CASE("MAP-2", "F 2.2, S alignment", map_arguments),
        CASE("MAP-3", "F 2.7 PhysicalAddressWidth", map_lower_width),
        CASE("MAP-4", "S: if Map fails, everything is as before", map_failure_keeps),
        CASE("MAP-5", "F 2.11, H WHvMapGpaRange2", map2_processes),
        CASE("MAP-6", "F 2.6, S Unmap", unmap_parts),
        CASE("MAP-7", "F 2.5", aliases),
        CASE("MAP-8", "F 2.7: 8192 ranges, 64 GiB", many_ranges),
        CASE("MAP-10", "F 2.10, S: no limit", several_partitions),
        CASE("GPA-1", "F 5", access_arguments),
        CASE("GPA-2", "S: any length, OPENWHP_STRICT", access_any_length),
        CASE("GPA-3", "S: host memory missing", access_missing_host),
        CASE("DIRTY-1", "F 3, S", query_arguments),
        CASE("DIRTY-2", "S: replaced pages", replaced_pages_are_clean),
        CASE("ADVISE-1", "F 6, S", advise_arguments),
        CASE("OWHP-1", "H OwhpEnumerateGpaRanges", enumerate),
        CASE("OWHP-2", "H OwhpMarkDirty", mark_dirty),
        CASE("OWHP-3", "H OwhpAllocateMemory", allocate),
    };
    return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
