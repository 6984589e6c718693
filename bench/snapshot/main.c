/*
 * What snapshots cost: resets per second by dirty pages, beside a memcpy of the same pages by hand (the limit); taking one;
 * unmapping what it holds; files. One gigabyte of guest memory, one processor. The guest dirties the pages; only what comes after
 * it is timed.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <WinHvPlatform.h>
#include <openwhp.h>

enum { PAGE = 4096, LIST = 0x100000, CODE = 0x1000 };
#define GIB ((uint64_t)1 << 30)
#define RWX (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute)

static void must(HRESULT result, const char *what)
{
    if (SUCCEEDED(result))
        return;
    fprintf(stderr, "%s: %08x %s\n", what, (unsigned)result, OwhpGetLastErrorText());
    exit(1);
}
#define MUST(call) must((call), #call)

static double now_us(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1Dull;
}

/* ---- the guest ---- */

struct guest {
    WHV_PARTITION_HANDLE partition;
    uint8_t *ram, *copy; /* copy: of the dirtied pages, for the comparison */
    uint64_t size;
};

static void set(struct guest *g, WHV_REGISTER_NAME name, uint64_t number)
{
    WHV_REGISTER_VALUE value = {.Reg64 = number};

    MUST(WHvSetVirtualProcessorRegisters(g->partition, 0, &name, 1, &value));
}

static void set_flat(struct guest *g, WHV_REGISTER_NAME name, uint16_t attributes)
{
    WHV_REGISTER_VALUE value = {.Segment = {.Base = 0, .Limit = 0xffffffff, .Selector = 8, .Attributes = attributes}};

    MUST(WHvSetVirtualProcessorRegisters(g->partition, 0, &name, 1, &value));
}

/* 32-bit code without paging: a store to each page of a list, 0 at its end; then HLT. */
static const uint8_t code[] = {
    0xbe, 0x00, 0x00, 0x10, 0x00, /* mov esi, LIST */
    0xad,                         /* again: lodsd */
    0x85, 0xc0,                   /* test eax, eax */
    0x74, 0x04,                   /* jz end */
    0xfe, 0x00,                   /* inc byte [eax] */
    0xeb, 0xf7,                   /* jmp again */
    0xf4,                         /* end: hlt */
};

static void make_guest(struct guest *g, uint64_t size)
{
    UINT32 processors = 1, engine = OwhpEngineSoft;

    *g = (struct guest){.size = size};
    g->ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    g->copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (g->ram == MAP_FAILED || g->copy == MAP_FAILED)
        exit(2);
    MUST(WHvCreatePartition(&g->partition));
    MUST(WHvSetPartitionProperty(g->partition, WHvPartitionPropertyCodeProcessorCount, &processors, sizeof(processors)));
    MUST(WHvSetPartitionProperty(g->partition, OwhpPartitionPropertyCodeEngine, &engine, sizeof(engine)));
    MUST(WHvSetupPartition(g->partition));
    MUST(WHvMapGpaRange(g->partition, g->ram, 0, size, RWX));
    MUST(WHvCreateVirtualProcessor(g->partition, 0, 0));
    memcpy(g->ram + CODE, code, sizeof(code));
    set(g, WHvX64RegisterCr0, 0x11);
    set_flat(g, WHvX64RegisterCs, 0xc09b);
    set_flat(g, WHvX64RegisterSs, 0xc093);
    set_flat(g, WHvX64RegisterDs, 0xc093);
    set(g, WHvX64RegisterRip, CODE);
}

static void end_guest(struct guest *g)
{
    MUST(WHvDeletePartition(g->partition));
    munmap(g->ram, g->size);
    munmap(g->copy, g->size);
}

/* Pages for the guest to dirty, all over its memory. */
static void make_list(struct guest *g, uint32_t *list, unsigned count)
{
    uint64_t random = 1, first = (LIST + 0x100000) / PAGE, stride = (g->size / PAGE - first) / (count ? count : 1);

    for (unsigned i = 0; i < count; i++) {
        list[i] = (uint32_t)((first + i * stride + next_random(&random) % stride) * PAGE);
        memset(g->ram + list[i], (int)(i % 255 + 1), PAGE);
        memcpy(g->copy + list[i], g->ram + list[i], PAGE);
    }
    list[count] = 0;
    memcpy(g->ram + LIST, list, (count + 1) * 4);
}

static void run(struct guest *g)
{
    WHV_RUN_VP_EXIT_CONTEXT exit_context;

    MUST(WHvRunVirtualProcessor(g->partition, 0, &exit_context, sizeof(exit_context)));
    if (exit_context.ExitReason != WHvRunVpExitReasonX64Halt) {
        fprintf(stderr, "unexpected exit %#x\n", (unsigned)exit_context.ExitReason);
        exit(1);
    }
}

/* ---- resets ---- */

static int by_value(const void *a, const void *b)
{
    return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b;
}

static double median(double *values, unsigned count)
{
    qsort(values, count, sizeof(values[0]), by_value);
    return values[count / 2];
}

static void resets(unsigned dirty)
{
    enum { ROUNDS = 2001 };
    static double restore[ROUNDS], copying[ROUNDS], whole[ROUNDS];
    static uint32_t list[10001];
    const unsigned rounds = dirty > 1000 ? 101 : ROUNDS;
    struct guest g;
    OWHP_SNAPSHOT_HANDLE snapshot;
    UINT64 pages;

    make_guest(&g, GIB);
    make_list(&g, list, dirty);
    MUST(OwhpCreateSnapshot(g.partition, 0, &snapshot));
    for (unsigned i = 0; i < rounds; i++) {
        double begin = now_us(CLOCK_MONOTONIC);
        run(&g);
        double middle = now_us(CLOCK_MONOTONIC);
        MUST(OwhpRestoreSnapshot(g.partition, snapshot, OwhpRestoreFlagNone, &pages));
        double end = now_us(CLOCK_MONOTONIC);
        restore[i] = end - middle;
        whole[i] = end - begin;
        if (pages != dirty)
            exit(1);
        run(&g); /* the same again, by hand */
        middle = now_us(CLOCK_MONOTONIC);
        for (unsigned j = 0; j < dirty; j++)
            memcpy(g.ram + list[j], g.copy + list[j], PAGE);
        copying[i] = now_us(CLOCK_MONOTONIC) - middle;
        MUST(OwhpRestoreSnapshot(g.partition, snapshot, OwhpRestoreFlagNone, &pages));
    }
    double r = median(restore, rounds), c = median(copying, rounds), w = median(whole, rounds);
    printf("  %6u dirty pages: %9.0f resets/s %10.2f us; memcpy by hand %10.2f us", dirty, 1e6 / r, r, c);
    if (dirty)
        printf(", ratio %.2f", r / c);
    printf("; with the guest's run %9.0f/s%s\n", 1e6 / w, dirty == 100 ? "  goal: more than 20,000 resets/s" : "");
    MUST(OwhpDestroySnapshot(snapshot));
    end_guest(&g);
}

/* ---- taking ---- */

static void taking(uint64_t used, const char *what)
{
    struct guest g;
    OWHP_SNAPSHOT_HANDLE first, second;
    OWHP_SNAPSHOT_INFO info;
    uint64_t random = 1;

    make_guest(&g, GIB);
    for (uint64_t at = 0x200000; at < 0x200000 + used; at += 8) {
        uint64_t word = next_random(&random);
        memcpy(g.ram + at, &word, 8);
    }
    double begin = now_us(CLOCK_MONOTONIC);
    MUST(OwhpCreateSnapshot(g.partition, 0, &first));
    double middle = now_us(CLOCK_MONOTONIC);
    MUST(OwhpCreateSnapshot(g.partition, 0, &second));
    double end = now_us(CLOCK_MONOTONIC);
    MUST(OwhpQuerySnapshot(first, &info));
    uint8_t *to = mmap(NULL, GIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    double copy_begin = now_us(CLOCK_MONOTONIC);
    memcpy(to, g.ram + 0x200000, used);
    double copied = now_us(CLOCK_MONOTONIC) - copy_begin;
    printf("  1 GiB, %s: %9.0f us, %4.0f MiB stored; memcpy of that into fresh memory %9.0f us; a second one %6.0f us\n", what,
           middle - begin, (double)info.StoredSizeInBytes / (1 << 20), copied, end - middle);
    munmap(to, GIB);
    MUST(OwhpDestroySnapshot(first));
    MUST(OwhpDestroySnapshot(second));
    end_guest(&g);
}

/* ---- mappings that change while there is a snapshot ---- */

static double map_and_unmap(WHV_PARTITION_HANDLE partition, uint8_t *host, uint64_t size)
{
    enum { ROUNDS = 11 };
    double unmap[ROUNDS];

    for (unsigned i = 0; i < ROUNDS; i++) {
        MUST(WHvMapGpaRange(partition, host, GIB, size, RWX));
        double begin = now_us(CLOCK_MONOTONIC);
        MUST(WHvUnmapGpaRange(partition, GIB, size));
        unmap[i] = now_us(CLOCK_MONOTONIC) - begin;
    }
    return median(unmap, ROUNDS);
}

/* The first unmap is the one that the snapshot has to learn from: so it is taken anew each time. */
static double unmap_in_snapshot(struct guest *g, uint8_t *host, uint64_t size, double *restore)
{
    enum { ROUNDS = 5 };
    double unmap[ROUNDS], back[ROUNDS];
    OWHP_SNAPSHOT_HANDLE snapshot;
    UINT64 pages;

    for (unsigned i = 0; i < ROUNDS; i++) {
        MUST(WHvMapGpaRange(g->partition, host, GIB, size, RWX));
        MUST(OwhpCreateSnapshot(g->partition, 0, &snapshot));
        double begin = now_us(CLOCK_MONOTONIC);
        MUST(WHvUnmapGpaRange(g->partition, GIB, size));
        double middle = now_us(CLOCK_MONOTONIC);
        MUST(OwhpRestoreSnapshot(g->partition, snapshot, OwhpRestoreFlagMappings, &pages));
        back[i] = now_us(CLOCK_MONOTONIC) - middle;
        unmap[i] = middle - begin;
        if (pages != size / PAGE)
            exit(1);
        MUST(OwhpDestroySnapshot(snapshot));
    }
    *restore = median(back, ROUNDS);
    return median(unmap, ROUNDS);
}

static void replacing(uint64_t size, const char *what)
{
    struct guest g;
    double restore;
    VOID *host;

    MUST(OwhpAllocateMemory(size, 0, &host));
    make_guest(&g, GIB);
    double alone = map_and_unmap(g.partition, host, size), with = unmap_in_snapshot(&g, host, size, &restore);
    printf("  %s: unmap %8.2f us without a snapshot, %10.2f us with one, ratio %.1f; restored with its mapping in %10.0f us\n",
           what, alone, with, with / alone, restore);
    end_guest(&g);
    MUST(OwhpFreeMemory(host));
}

/* ---- files ---- */

static double read_all(const uint8_t *memory, uint64_t size)
{
    double begin = now_us(CLOCK_MONOTONIC);
    volatile uint64_t sum = 0;

    for (uint64_t at = 0; at < size; at += PAGE)
        sum += memory[at];
    return now_us(CLOCK_MONOTONIC) - begin;
}

static void files(void)
{
    const uint64_t used = 512 << 20;
    struct guest g;
    OWHP_SNAPSHOT_HANDLE snapshot;
    char path[] = "/tmp/bench-snapshot-XXXXXX";
    uint64_t random = 1;
    struct stat st;
    UINT32 count;
    OWHP_GPA_RANGE range;

    close(mkstemp(path));
    make_guest(&g, GIB);
    for (uint64_t at = 0x200000; at < 0x200000 + used; at += 8) {
        uint64_t word = next_random(&random);
        memcpy(g.ram + at, &word, 8);
    }
    MUST(OwhpCreateSnapshot(g.partition, 0, &snapshot));
    double cpu = now_us(CLOCK_PROCESS_CPUTIME_ID), begin = now_us(CLOCK_MONOTONIC);
    MUST(OwhpSaveSnapshot(snapshot, path, 0));
    double saved = now_us(CLOCK_MONOTONIC) - begin;
    cpu = now_us(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    MUST(OwhpDestroySnapshot(snapshot));
    MUST(WHvUnmapGpaRange(g.partition, 0, GIB));
    stat(path, &st);
    printf("  save: %.2f GB/s to the disk, %.2f GB/s of CPU time; the file takes %.0f MiB of 1 GiB\n", (double)used / saved / 1e3,
           (double)used / cpu / 1e3, (double)st.st_blocks / 2048);

    begin = now_us(CLOCK_MONOTONIC);
    MUST(OwhpLoadSnapshot(g.partition, path, OwhpLoadFlagNone, &snapshot));
    double loaded = now_us(CLOCK_MONOTONIC) - begin;
    MUST(OwhpEnumerateGpaRanges(g.partition, &range, 1, &count));
    double used_time = read_all((const uint8_t *)(uintptr_t)range.SourceAddress + 0x200000, used);
    MUST(OwhpDestroySnapshot(snapshot));
    MUST(WHvUnmapGpaRange(g.partition, 0, GIB));
    begin = now_us(CLOCK_MONOTONIC);
    MUST(OwhpLoadSnapshot(g.partition, path, OwhpLoadFlagVerify, &snapshot));
    double verified = now_us(CLOCK_MONOTONIC) - begin;
    printf("  load: %.0f us (%.1f GB/s), touching every page then %.0f us; with all checksums %.0f us (%.2f GB/s)\n", loaded,
           (double)used / loaded / 1e3, used_time, verified, (double)used / verified / 1e3);
    MUST(OwhpDestroySnapshot(snapshot));
    end_guest(&g);
    unlink(path);
}

int main(void)
{
    static const unsigned dirty[] = {0, 1, 100, 1000, 10000};

    printf("resets of a partition of 1 GiB, medians\n");
    for (size_t i = 0; i < sizeof(dirty) / sizeof(dirty[0]); i++)
        resets(dirty[i]);
    printf("taking a snapshot\n");
    taking(1 << 20, "   1 MiB used");
    taking(256 << 20, " 256 MiB used");
    taking(1000 << 20, "1000 MiB used");
    printf("unmapping what a snapshot holds, medians\n");
    replacing(PAGE, "4 KiB");
    replacing(GIB, "1 GiB");
    replacing(1024 * GIB, "1 TiB");
    printf("files, 512 MiB of 1 GiB used\n");
    files();
    return 0;
}
