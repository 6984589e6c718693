/*
 * Do processors get in each other's way? Two processors of one partition do the same work in memory of their own, alone in turn
 * and then both at once; printed is the CPU time per processor of the second over that of the first (medians of RUNS). CPU time
 * of the threads is what counts, so that other work on the machine matters little; it does share caches, though.
 *
 * usage: smp GUEST [RUNS]
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <WinHvPlatform.h>

enum {
    PROCESSORS = 2,
    MAX_RUNS = 101,
    MIB = 1 << 20,
    RAM_SIZE = 8 * MIB,
    CODE = 0x1000,
    ENTRIES = CODE + 64, /* guest.asm */
    VECTORS = CODE + 0x800,
    IDT = 0x4000,
    GDT = 0x5000,
    TABLES = 0x10000,
    AREA = 2 * MIB, /* and so on, 2 MiB each */
};

static const struct {
    const char *name;
    UINT64 rounds;
} kernels[] = {
    {"registers", 3000000}, {"loads and stores in 1 MiB", 2000000}, {"REP MOVSB, STOSQ", 40000},
    {"calls", 4000000},     {"locked instructions", 800000},       {"SYSCALL", 1500000},
    {"CR3 and 8 pages", 150000}, {"#UD and IRETQ", 500000},        {"patch and run", 300000},
};

static WHV_PARTITION_HANDLE partition;
static UINT8 *ram;
static double spent[PROCESSORS]; /* seconds of CPU time */

static void must(HRESULT result, const char *what)
{
    if (result == S_OK)
        return;
    fprintf(stderr, "%s: %#x\n", what, (unsigned)result);
    exit(1);
}

/* ---- the guest ---- */

static UINT64 *qword(UINT64 at)
{
    return (UINT64 *)(void *)(ram + at);
}

static void load(const char *path)
{
    FILE *file = fopen(path, "rb");

    if (!file || !fread(ram + CODE, 1, 0x1000, file)) {
        perror(path);
        exit(1);
    }
    fclose(file);
}

/* Identity map in 4 KiB pages, a gate for #UD, flat segments. */
static void fill_tables(void)
{
    UINT64 handler = *qword(VECTORS + 8);

    *qword(TABLES) = (TABLES + 0x1000) | 3;
    *qword(TABLES + 0x1000) = (TABLES + 0x2000) | 3;
    for (UINT64 i = 0; i < RAM_SIZE / (2 * MIB); i++)
        *qword(TABLES + 0x2000 + i * 8) = (TABLES + 0x3000 + i * 0x1000) | 3;
    for (UINT64 i = 0; i < RAM_SIZE / 0x1000; i++)
        *qword(TABLES + 0x3000 + i * 8) = i << 12 | 3;
    *qword(IDT + 6 * 16) = (handler & 0xffff) | 8 << 16 | 0x8e00ull << 32 | handler >> 16 << 48;
    *qword(GDT + 8) = 0x00209b0000000000;
    *qword(GDT + 16) = 0x0000930000000000;
}

static void create(void)
{
    UINT32 count = PROCESSORS;

    must(WHvCreatePartition(&partition), "create");
    must(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count, sizeof(count)), "count");
    must(WHvSetupPartition(partition), "setup");
    must(WHvMapGpaRange(partition, ram, 0, RAM_SIZE,
                        WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute),
         "map");
    for (UINT32 i = 0; i < PROCESSORS; i++)
        must(WHvCreateVirtualProcessor(partition, i, 0), "processor");
}

static void set_registers(UINT32 processor, size_t kernel)
{
    static const WHV_REGISTER_NAME names[] = {
        WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterEfer, WHvX64RegisterCr0,  WHvX64RegisterCs,
        WHvX64RegisterSs,  WHvX64RegisterIdtr, WHvX64RegisterGdtr, WHvX64RegisterStar, WHvX64RegisterLstar,
        WHvX64RegisterRip, WHvX64RegisterRbx, WHvX64RegisterRsi,  WHvX64RegisterRdi,  WHvX64RegisterRflags};
    const WHV_REGISTER_VALUE values[] = {
        {.Reg64 = TABLES},
        {.Reg64 = 0x20},
        {.Reg64 = 0xd01}, /* SCE, LME, LMA, NXE */
        {.Reg64 = 0x80010031},
        {.Segment = {.Limit = 0xffffffff, .Selector = 8, .Attributes = 0xa09b}},
        {.Segment = {.Limit = 0xffffffff, .Selector = 16, .Attributes = 0xc093}},
        {.Table = {.Base = IDT, .Limit = 0xfff}},
        {.Table = {.Base = GDT, .Limit = 0x17}},
        {.Reg64 = 8ull << 32},
        {.Reg64 = *qword(VECTORS)},
        {.Reg64 = CODE},
        {.Reg64 = AREA + processor * 2ull * MIB},
        {.Reg64 = kernels[kernel].rounds},
        {.Reg64 = *qword(ENTRIES + kernel * 8)},
        {.Reg64 = 2}};

    must(WHvSetVirtualProcessorRegisters(partition, processor, names, sizeof(names) / sizeof(names[0]), values), "registers");
}

/* ---- measuring ---- */

static double thread_time(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void *work(void *argument)
{
    UINT32 processor = (UINT32)(size_t)argument;
    WHV_RUN_VP_EXIT_CONTEXT exit_context;
    double begin = thread_time();

    must(WHvRunVirtualProcessor(partition, processor, &exit_context, sizeof(exit_context)), "run");
    spent[processor] = thread_time() - begin;
    if (exit_context.ExitReason != WHvRunVpExitReasonX64IoPortAccess) {
        fprintf(stderr, "exit %#x at %#llx\n", (unsigned)exit_context.ExitReason,
                (unsigned long long)exit_context.VpContext.Rip);
        exit(1);
    }
    return NULL;
}

/* CPU time per processor of processors first .. last at once. */
static double measure(size_t kernel, UINT32 first, UINT32 last)
{
    pthread_t threads[PROCESSORS];
    double sum = 0;

    for (UINT32 i = first; i <= last; i++)
        set_registers(i, kernel);
    for (UINT32 i = first; i <= last; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)(size_t)i))
            exit(1);
    for (UINT32 i = first; i <= last; i++) {
        pthread_join(threads[i], NULL);
        sum += spent[i];
    }
    return sum / (last - first + 1);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof(*values), compare);
    return values[count / 2];
}

static void report(size_t kernel, int runs)
{
    double alone[MAX_RUNS], both[MAX_RUNS];

    measure(kernel, 0, 1);
    for (int i = 0; i < runs; i++) {
        alone[i] = (measure(kernel, 0, 0) + measure(kernel, 1, 1)) / 2;
        both[i] = measure(kernel, 0, 1);
    }
    double one = median(alone, runs), two = median(both, runs);
    printf("%-26s %8.1f ms alone  %8.1f ms each of two  ratio %.2f\n", kernels[kernel].name, one * 1e3, two * 1e3, two / one);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int runs = argc > 2 ? atoi(argv[2]) : 9;

    if (argc < 2 || runs < 1 || runs > MAX_RUNS)
        return 2;
    ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ram == MAP_FAILED)
        return 1;
    load(argv[1]);
    fill_tables();
    create();
    for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++)
        report(i, runs);
    must(WHvDeletePartition(partition), "delete");
    return 0;
}
