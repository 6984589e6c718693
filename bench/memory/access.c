/* WHvReadGpaRange and WHvWriteGpaRange against memcpy: the same places, the same order. */
#include "memory.h"

#include <stdio.h>
#include <string.h>

struct access {
    WHV_PARTITION_HANDLE partition;
    uint8_t *host, *buffer;
    uint32_t size;
    uint64_t span; /* the addresses are spread over so much memory */
    uint64_t random;
    bool write;
};

static uint64_t address(struct access *a)
{
    return next_random(&a->random) % (a->span / a->size) * a->size;
}

static void by_call(void *context, uint64_t count)
{
    struct access *a = context;
    const WHV_ACCESS_GPA_CONTROLS controls = {.AsUINT64 = WHvCacheTypeWriteBack};

    for (uint64_t i = 0; i < count; i++) {
        uint64_t gpa = address(a);
        if (a->write)
            MUST(WHvWriteGpaRange(a->partition, 0, gpa, controls, a->buffer, a->size));
        else
            MUST(WHvReadGpaRange(a->partition, 0, gpa, controls, a->buffer, a->size));
    }
}

static void by_memcpy(void *context, uint64_t count)
{
    struct access *a = context;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t gpa = address(a);
        if (a->write)
            memcpy(a->host + gpa, a->buffer, a->size);
        else
            memcpy(a->buffer, a->host + gpa, a->size);
        __asm__ volatile("" ::: "memory");
    }
}

void bench_access(void)
{
    static const struct {
        uint32_t size;
        uint64_t span;
        const char *name, *goal;
    } rows[] = {
        {8, PAGE, "8 bytes, in a page", NULL},
        {PAGE, PAGE, "4 KiB, the same page (first-level cache)", "memcpy / call > 0.8"},
        {PAGE, 1 << 20, "4 KiB, anywhere in 1 MiB", "memcpy / call > 0.8"},
        {PAGE, GIB / 4, "4 KiB, anywhere in 256 MiB", "memcpy / call > 0.8"},
        {1 << 20, 1 << 20, "1 MiB, the same", "memcpy / call > 0.8"},
        {1 << 20, GIB / 4, "1 MiB, anywhere in 256 MiB", "memcpy / call > 0.8"},
    };
    struct access a = {.partition = make_partition(), .host = reserve(GIB / 4), .buffer = reserve(1 << 20), .random = 1};
    char name[100];

    memset(a.host, 1, GIB / 4);
    memset(a.buffer, 2, 1 << 20);
    MUST(WHvMapGpaRange(a.partition, a.host, 0, GIB / 4, RWT));
    heading("read and write by GPA (ns a call; ratio: memcpy's time / the call's)");
    for (int write = 0; write < 2; write++)
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
            a.size = rows[i].size;
            a.span = rows[i].span;
            a.write = write;
            struct pair p = best_pair(by_call, &a, by_memcpy, &a);
            snprintf(name, sizeof(name), "%s %s", write ? "write" : "read", rows[i].name);
            printf("  %-66s %12.1f ns %9.2f%s%s\n", name, p.first, p.second / p.first, rows[i].goal ? "  goal " : "",
                   rows[i].goal ? rows[i].goal : "");
        }
    MUST(WHvDeletePartition(a.partition));
}
