/*
 * Dirty pages: what a query costs with nothing and with something dirty, beside a flat bitmap with atomic words (rust-vmm's), a
 * memcpy of the bitmap and KVM_GET_DIRTY_LOG.
 */
#include "memory.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_DIRTY = 100000, RUNS = 101 };

struct dirty {
    WHV_PARTITION_HANDLE partition;
    uint64_t size;
    uint64_t *bitmap; /* of 1 GiB */
    WHV_MEMORY_RANGE_ENTRY *ranges;
    uint64_t pages[MOST_DIRTY];
};

static _Atomic uint64_t flat[GIB / PAGE / 64];
static struct dirty d;

static void clean_list(void *context, uint64_t count)
{
    const struct dirty *dirty = context;
    UINT32 found;

    for (uint64_t i = 0; i < count; i++)
        MUST(OwhpQueryDirtyRanges(dirty->partition, 0, OwhpQueryDirtyFlagNone, 0, dirty->size, dirty->ranges, 16, &found));
}

static void clean_clear(void *context, uint64_t count)
{
    const struct dirty *dirty = context;

    for (uint64_t i = 0; i < count; i++)
        MUST(WHvQueryGpaRangeDirtyBitmap(dirty->partition, 0, dirty->size, NULL, 0));
}

static void clean_bitmap(void *context, uint64_t count)
{
    const struct dirty *dirty = context;

    for (uint64_t i = 0; i < count; i++)
        MUST(WHvQueryGpaRangeDirtyBitmap(dirty->partition, 0, GIB, dirty->bitmap, (UINT32)(GIB / PAGE / 8)));
}

static void flat_harvest(void *context, uint64_t count)
{
    const struct dirty *dirty = context;

    for (uint64_t i = 0; i < count; i++)
        for (size_t word = 0; word < GIB / PAGE / 64; word++)
            dirty->bitmap[word] = atomic_fetch_and(&flat[word], 0);
}

static void copy_bitmap(void *context, uint64_t count)
{
    const struct dirty *dirty = context;

    for (uint64_t i = 0; i < count; i++) {
        memcpy(dirty->bitmap, flat, sizeof(flat));
        __asm__ volatile("" ::: "memory");
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(double *values)
{
    qsort(values, RUNS, sizeof(values[0]), by_value);
    return values[RUNS / 2];
}

/* Median times of: our list, our bitmap, writing the entries, marking them in a flat bitmap, harvesting that. */
struct times {
    double list, bitmap, write, mark, flat;
};

static void mark_all(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        MUST(OwhpMarkDirty(d.partition, d.pages[i] * PAGE, 1));
}

static double since(double begin)
{
    return now_ns() - begin;
}

/* Member by member: a whole entry would be built elsewhere first. */
static void write_entries(volatile WHV_MEMORY_RANGE_ENTRY *to, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        to[i].GuestAddress = d.pages[i] * PAGE;
        to[i].SizeInBytes = PAGE;
    }
}

/* Others in each run: a processor that has seen them before guesses them right. */
static void choose(unsigned count, bool scattered, uint64_t *random)
{
    for (unsigned page = 0; page < count; page++)
        d.pages[page] = scattered ? next_random(random) % (GIB / PAGE) : 1000 + page;
}

static struct times measure(unsigned count, bool scattered)
{
    static double values[5][RUNS];
    uint64_t random = 7;
    UINT32 found;

    for (int run = 0; run < RUNS; run++) {
        choose(count, scattered, &random);
        mark_all(count);
        double begin = now_ns();
        MUST(OwhpQueryDirtyRanges(d.partition, 0, OwhpQueryDirtyFlagNone, 0, GIB, d.ranges, MOST_DIRTY, &found));
        values[0][run] = since(begin);
        mark_all(count);
        begin = now_ns();
        MUST(WHvQueryGpaRangeDirtyBitmap(d.partition, 0, GIB, d.bitmap, (UINT32)(GIB / PAGE / 8)));
        values[1][run] = since(begin);
        begin = now_ns();
        write_entries(d.ranges, count);
        values[2][run] = since(begin);
        begin = now_ns();
        for (unsigned i = 0; i < count; i++)
            atomic_fetch_or(&flat[d.pages[i] / 64], (uint64_t)1 << d.pages[i] % 64);
        values[3][run] = since(begin);
        begin = now_ns();
        flat_harvest(&d, 1);
        values[4][run] = since(begin);
    }
    return (struct times){median(values[0]), median(values[1]), median(values[2]), median(values[3]), median(values[4])};
}

static void some_dirty(bool scattered)
{
    static const unsigned counts[] = {1, 100, 300, 1000, 3000, 10000, MOST_DIRTY};
    char name[120];

    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        struct times t = measure(counts[i], scattered);
        snprintf(name, sizeof(name), "list of %u dirty pages of 1 GiB, %s", counts[i], scattered ? "scattered" : "in a row");
        row_ratio(name, t.list, t.write, "within 3, or below the 2000 ns of an empty query");
        row_ratio("    as a bitmap", t.bitmap, t.write, NULL);
        printf("  %-66s %12.1f ns, a flat bitmap of atomic words: marking %.1f ns, harvesting %.1f ns\n",
               "    writing so many entries", t.write, t.mark, t.flat);
    }
}

void bench_dirty(void)
{
    uint8_t *host = reserve(TIB);

    d.partition = make_partition();
    d.bitmap = (uint64_t *)(void *)reserve(GIB / PAGE / 8);
    d.ranges = (WHV_MEMORY_RANGE_ENTRY *)(void *)reserve(MOST_DIRTY * sizeof(d.ranges[0]));
    memset(d.bitmap, 1, GIB / PAGE / 8);
    memset(d.ranges, 1, MOST_DIRTY * sizeof(d.ranges[0]));
    MUST(WHvMapGpaRange(d.partition, host, 0, TIB, RWT));
    heading("dirty query, nothing dirty (ns a call; ratio to the first row)");
    d.size = GIB;
    double first = best_ns(clean_list, &d);
    row_ratio("list, 1 GiB", first, first, "below 2000 ns");
    d.size = TIB;
    row_ratio("list, 1 TiB", best_ns(clean_list, &d), first, "within 2, below 2000 ns");
    row_ratio("clear only, 1 TiB", best_ns(clean_clear, &d), first, "within 2, below 2000 ns");
    row_ratio("bitmap, 1 GiB (32 KiB to zero)", best_ns(clean_bitmap, &d), first, NULL);
    row_ratio("a flat bitmap of atomic words, 1 GiB", best_ns(flat_harvest, &d), first, NULL);
    row_ratio("memcpy of the bitmap of 1 GiB", best_ns(copy_bitmap, &d), first, NULL);
    bench_dirty_kvm();
    heading("dirty query, something dirty (medians; ratio: the query / a loop that writes as many entries)");
    some_dirty(true);
    some_dirty(false);
    MUST(WHvDeletePartition(d.partition));
}
