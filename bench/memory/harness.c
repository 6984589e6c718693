#include "memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double window(work_fn *work, void *context, uint64_t count)
{
    double begin = now_ns();

    work(context, count);
    return now_ns() - begin;
}

/* How many make about a millisecond. */
static uint64_t calibrate(work_fn *work, void *context)
{
    uint64_t count = 1;

    while (window(work, context, count) < 5e5 && count < 1u << 26)
        count *= 2;
    return count;
}

enum { WINDOWS = 40 };

double best_ns(work_fn *work, void *context)
{
    uint64_t count = calibrate(work, context);
    double best = 1e18;

    for (int i = 0; i < WINDOWS; i++) {
        double ns = window(work, context, count) / (double)count;
        best = ns < best ? ns : best;
    }
    return best;
}

struct pair best_pair(work_fn *first, void *first_context, work_fn *second, void *second_context)
{
    uint64_t first_count = calibrate(first, first_context), second_count = calibrate(second, second_context);
    struct pair best = {1e18, 1e18};

    for (int i = 0; i < WINDOWS; i++) {
        double a = window(first, first_context, first_count) / (double)first_count;
        double b = window(second, second_context, second_count) / (double)second_count;
        best.first = a < best.first ? a : best.first;
        best.second = b < best.second ? b : best.second;
    }
    return best;
}

void heading(const char *text)
{
    printf("\n%s\n", text);
}

void row(const char *name, double ns)
{
    printf("  %-66s %12.1f ns\n", name, ns);
}

void row_ratio(const char *name, double ns, double reference, const char *goal)
{
    printf("  %-66s %12.1f ns %9.2f%s%s\n", name, ns, ns / reference, goal ? "  goal " : "", goal ? goal : "");
}

void skipped(const char *what, const char *why)
{
    printf("  SKIPPED %s: %s\n", what, why);
}

void must(HRESULT result, const char *what)
{
    if (SUCCEEDED(result))
        return;
    fprintf(stderr, "%s: %08x %s\n", what, (unsigned)result, OwhpGetLastErrorText());
    exit(1);
}

WHV_PARTITION_HANDLE make_partition(void)
{
    WHV_PARTITION_HANDLE partition;
    UINT32 processors = 1, engine = OwhpEngineSoft;

    MUST(WHvCreatePartition(&partition));
    MUST(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &processors, sizeof(processors)));
    MUST(WHvSetPartitionProperty(partition, OwhpPartitionPropertyCodeEngine, &engine, sizeof(engine)));
    MUST(WHvSetupPartition(partition));
    MUST(WHvCreateVirtualProcessor(partition, 0, 0));
    return partition;
}

uint8_t *reserve(uint64_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return p;
}

uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1Dull;
}
