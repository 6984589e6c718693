/* Populate: fresh memory brought in by one call, beside MADV_POPULATE_WRITE on memory as fresh. */
#include "memory.h"

#include <stdio.h>
#include <sys/mman.h>

struct populate {
    WHV_PARTITION_HANDLE partition;
    uint64_t size;
    bool huge; /* the reference wishes for huge pages too */
};

static void by_call(void *context, uint64_t count)
{
    const struct populate *p = context;
    const WHV_MEMORY_RANGE_ENTRY range = {0, p->size};
    const WHV_ADVISE_GPA_RANGE_POPULATE populate = {.AccessType = WHvMemoryAccessWrite};

    for (uint64_t i = 0; i < count; i++) {
        uint8_t *host = reserve(p->size);
        MUST(WHvMapGpaRange(p->partition, host, 0, p->size, RW));
        MUST(WHvAdviseGpaRange(p->partition, &range, 1, WHvAdviseGpaRangeCodePopulate, &populate, sizeof(populate)));
        MUST(WHvUnmapGpaRange(p->partition, 0, p->size));
        munmap(host, p->size);
    }
}

static void by_madvise(void *context, uint64_t count)
{
    const struct populate *p = context;

    for (uint64_t i = 0; i < count; i++) {
        uint8_t *host = reserve(p->size);
        if (p->huge)
            madvise(host, p->size, MADV_HUGEPAGE);
        madvise(host, p->size, MADV_POPULATE_WRITE);
        munmap(host, p->size);
    }
}

void bench_populate(void)
{
    static const struct {
        uint64_t size;
        const char *name;
    } rows[] = {
        {1 << 20, "1 MiB, one thread"},
        {16 << 20, "16 MiB, one thread"},
        {256 << 20, "256 MiB, as many threads as there are processors"},
    };
    struct populate p = {.partition = make_partition()};
    char name[120];

    heading("populate for writing, fresh private memory (ns a call; ratio: madvise's time / the call's)");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (int huge = 0; huge < 2; huge++) {
            p.size = rows[i].size;
            p.huge = huge;
            struct pair pair = best_pair(by_call, &p, by_madvise, &p);
            snprintf(name, sizeof(name), "%s; beside it %sMADV_POPULATE_WRITE", rows[i].name, huge ? "MADV_HUGEPAGE and " : "");
            printf("  %-72s %12.1f ns %9.2f  goal > 0.9\n", name, pair.first, pair.second / pair.first);
        }
    MUST(WHvDeletePartition(p.partition));
}
