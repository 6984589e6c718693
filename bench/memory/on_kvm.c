/*
 * The kvm engine's memory against the calls of KVM that it needs, in turns, in the thread's CPU time (others use the machine
 * too): medians of short windows and of their ratios.
 */
#include "memory.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 101, CALLS = 20 };

/* ---- KVM itself: the least that runs a guest ---- */

struct bare {
    int kvm, vm, vcpu;
    struct kvm_run *run;
    uint8_t *host;
    uint64_t *bitmap;
    uint32_t id, flags;
    uint64_t gpa, size;
};

static bool bare_begin(struct bare *b, uint8_t *host)
{
    *b = (struct bare){.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), .vm = -1, .vcpu = -1, .host = host};
    b->vm = b->kvm < 0 ? -1 : ioctl(b->kvm, KVM_CREATE_VM, 0);
    b->vcpu = b->vm < 0 ? -1 : ioctl(b->vm, KVM_CREATE_VCPU, 0);
    if (b->vcpu < 0)
        return false;
    b->run = mmap(NULL, (size_t)ioctl(b->kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, b->vcpu, 0);
    return b->run != MAP_FAILED;
}

static void bare_end(const struct bare *b)
{
    if (b->run && b->run != MAP_FAILED)
        munmap(b->run, (size_t)ioctl(b->kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    close(b->vcpu);
    close(b->vm);
    close(b->kvm);
}

static void bare_slot(const struct bare *b, uint32_t slot, uint64_t gpa, uint64_t size, uint8_t *host, uint32_t flags)
{
    struct kvm_userspace_memory_region region = {slot, flags, gpa, size, (uintptr_t)host};

    if (ioctl(b->vm, KVM_SET_USER_MEMORY_REGION, &region) == 0)
        return;
    perror("KVM_SET_USER_MEMORY_REGION");
    exit(1);
}

static void bare_map(const struct bare *b)
{
    bare_slot(b, b->id, b->gpa, b->size, b->host, b->flags);
}

static void bare_unmap(const struct bare *b)
{
    bare_slot(b, b->id, b->gpa, 0, b->host, 0);
}

static void bare_run(const struct bare *b)
{
    struct kvm_regs regs = {.rflags = 2};

    if (ioctl(b->vcpu, KVM_SET_REGS, &regs) == 0 && ioctl(b->vcpu, KVM_RUN, 0) == 0 && b->run->exit_reason == KVM_EXIT_HLT)
        return;
    fprintf(stderr, "KVM_RUN: exit %u\n", b->run->exit_reason);
    exit(1);
}

static void bare_log(const struct bare *b)
{
    struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = b->bitmap};

    if (ioctl(b->vm, KVM_GET_DIRTY_LOG, &log) == 0)
        return;
    perror("KVM_GET_DIRTY_LOG");
    exit(1);
}

/* ---- the same by the API ---- */

struct ours {
    WHV_PARTITION_HANDLE partition;
    uint8_t *host;
    WHV_MAP_GPA_RANGE_FLAGS flags;
    uint64_t gpa, size;
    WHV_MEMORY_RANGE_ENTRY range;
};

static bool ours_begin(struct ours *o, uint8_t *host)
{
    UINT32 processors = 1, engine = OwhpEngineKvm;

    *o = (struct ours){.host = host};
    MUST(WHvCreatePartition(&o->partition));
    MUST(WHvSetPartitionProperty(o->partition, WHvPartitionPropertyCodeProcessorCount, &processors, sizeof(processors)));
    if (FAILED(WHvSetPartitionProperty(o->partition, OwhpPartitionPropertyCodeEngine, &engine, sizeof(engine))) ||
        FAILED(WHvSetupPartition(o->partition))) {
        MUST(WHvDeletePartition(o->partition));
        return false;
    }
    MUST(WHvCreateVirtualProcessor(o->partition, 0, 0));
    return true;
}

#define RX   ((WHV_MAP_GPA_RANGE_FLAGS)(WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagExecute))
#define RWX  ((WHV_MAP_GPA_RANGE_FLAGS)(RX | WHvMapGpaRangeFlagWrite))
#define RWXT ((WHV_MAP_GPA_RANGE_FLAGS)(RWX | WHvMapGpaRangeFlagTrackDirtyPages))

static void ours_map(const struct ours *o)
{
    MUST(WHvMapGpaRange(o->partition, o->host, o->gpa, o->size, o->flags));
}

static void ours_unmap(const struct ours *o)
{
    MUST(WHvUnmapGpaRange(o->partition, o->gpa, o->size));
}

static void ours_run(const struct ours *o)
{
    const WHV_REGISTER_NAME rip = WHvX64RegisterRip;
    WHV_REGISTER_VALUE zero;
    WHV_RUN_VP_EXIT_CONTEXT context;

    memset(&zero, 0, sizeof(zero));
    MUST(WHvSetVirtualProcessorRegisters(o->partition, 0, &rip, 1, &zero));
    MUST(WHvRunVirtualProcessor(o->partition, 0, &context, sizeof(context)));
    if (context.ExitReason == WHvRunVpExitReasonX64Halt)
        return;
    fprintf(stderr, "exit 0x%x\n", (unsigned)context.ExitReason);
    exit(1);
}

static void ours_query(struct ours *o)
{
    UINT32 found;

    MUST(OwhpQueryDirtyRanges(o->partition, 0, OwhpQueryDirtyFlagNone, o->gpa, o->size, &o->range, 1, &found));
    if (!found)
        return;
    fprintf(stderr, "0x%llx is dirty\n", (unsigned long long)o->range.GuestAddress);
    exit(1);
}

/* ---- in turns ---- */

static double cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double since(double begin)
{
    return cpu_ns() - begin;
}

struct times {
    double ours[ROUNDS], theirs[ROUNDS], ratio[ROUNDS];
};
static struct times first, second;

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(double *values)
{
    qsort(values, ROUNDS, sizeof(values[0]), by_value);
    return values[ROUNDS / 2];
}

static void show(const char *what, const char *goal, struct times *t, unsigned calls)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        t->ratio[i] = t->ours[i] / t->theirs[i];
        t->ours[i] /= calls;
        t->theirs[i] /= calls;
    }
    printf("  %-52s %9.1f ns, KVM's call %9.1f ns, ratio %5.2f (goal %s)\n", what, median(t->ours), median(t->theirs),
           median(t->ratio), goal);
}

/* ---- map and unmap ---- */

/* As many as are timed at once stand side by side. */
static void map_round(struct ours *o, struct bare *b, unsigned round)
{
    const uint64_t base = o->gpa;
    double begin = cpu_ns();

    for (b->id = 30000; b->id < 30000 + CALLS; b->id++, b->gpa += 2 * b->size)
        bare_map(b);
    first.theirs[round] = since(begin);
    begin = cpu_ns();
    for (b->id = 30000, b->gpa = base; b->id < 30000 + CALLS; b->id++, b->gpa += 2 * b->size)
        bare_unmap(b);
    second.theirs[round] = since(begin);
    begin = cpu_ns();
    for (unsigned i = 0; i < CALLS; i++, o->gpa += 2 * o->size)
        ours_map(o);
    first.ours[round] = since(begin);
    o->gpa = b->gpa = base;
    begin = cpu_ns();
    for (unsigned i = 0; i < CALLS; i++, o->gpa += 2 * o->size)
        ours_unmap(o);
    second.ours[round] = since(begin);
    o->gpa = base;
}

static void map_both(struct ours *o, struct bare *b, const char *what, unsigned beside)
{
    char name[100];

    for (unsigned round = 0; round < ROUNDS; round++)
        map_round(o, b, round);
    snprintf(name, sizeof(name), "map %s beside %u", what, beside);
    show(name, "1.20", &first, CALLS);
    snprintf(name, sizeof(name), "unmap %s beside %u", what, beside);
    show(name, "1.20", &second, CALLS);
}

static void fill(struct ours *o, const struct bare *b, unsigned *have, unsigned want)
{
    for (; *have < want; ++*have) {
        bare_slot(b, *have, *have * 2ull * PAGE, PAGE, b->host, b->flags);
        MUST(WHvMapGpaRange(o->partition, o->host, *have * 2ull * PAGE, PAGE, o->flags));
    }
}

static void maps(void)
{
    static const struct {
        const char *name;
        uint64_t size;
    } sizes[] = {{"a page", PAGE}, {"1 GiB", GIB}};
    static const unsigned counts[] = {0, 100, 2000};
    uint8_t *host = reserve(GIB);
    struct ours o;
    struct bare b;
    unsigned have = 0;

    if (!bare_begin(&b, host) || !ours_begin(&o, host)) {
        skipped("map and unmap on kvm", "KVM cannot be used here");
        bare_end(&b);
        munmap(host, GIB);
        return;
    }
    o.flags = RWX;
    o.gpa = b.gpa = (uint64_t)1 << 36;
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        fill(&o, &b, &have, counts[i]);
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
            o.size = b.size = sizes[s].size;
            map_both(&o, &b, sizes[s].name, have);
        }
    }
    MUST(WHvDeletePartition(o.partition));
    bare_end(&b);
    munmap(host, GIB);
}

/* ---- dirty queries ---- */

static void put_halt(uint8_t *host)
{
    host[0] = 0xf4;
}

/* Memory from gpa 1 GiB up is tracked; at 0 there is HLT, in real mode. */
static void dirty_set_up(struct ours *o, struct bare *b, uint64_t size)
{
    const WHV_REGISTER_NAME name = WHvX64RegisterCs;
    WHV_REGISTER_VALUE cs;
    struct kvm_sregs sregs;
    uint8_t *code = reserve(PAGE);

    put_halt(code);
    memset(&cs, 0, sizeof(cs));
    cs.Segment.Limit = 0xffff;
    cs.Segment.Attributes = 0x9b;
    o->gpa = b->gpa = GIB;
    o->size = b->size = size;
    MUST(WHvMapGpaRange(o->partition, code, 0, PAGE, RX));
    MUST(WHvMapGpaRange(o->partition, o->host, o->gpa, o->size, RWXT));
    MUST(WHvSetVirtualProcessorRegisters(o->partition, 0, &name, 1, &cs));
    bare_slot(b, 1, 0, PAGE, code, KVM_MEM_READONLY);
    bare_slot(b, 0, b->gpa, b->size, b->host, KVM_MEM_LOG_DIRTY_PAGES);
    b->bitmap = (uint64_t *)(void *)reserve(size / PAGE / 8);
    memset(b->bitmap, 1, size / PAGE / 8);
    if (ioctl(b->vcpu, KVM_GET_SREGS, &sregs) < 0)
        exit(1);
    sregs.cs.base = sregs.cs.selector = 0;
    if (ioctl(b->vcpu, KVM_SET_SREGS, &sregs) < 0)
        exit(1);
}

/* Once when the processor has run since the last query, once when it has not. */
static void dirty_round(struct ours *o, const struct bare *b, unsigned round)
{
    double begin;

    bare_run(b);
    begin = cpu_ns();
    bare_log(b);
    first.theirs[round] = since(begin);
    begin = cpu_ns();
    bare_log(b);
    second.theirs[round] = since(begin);
    ours_run(o);
    begin = cpu_ns();
    ours_query(o);
    first.ours[round] = since(begin);
    begin = cpu_ns();
    ours_query(o);
    second.ours[round] = since(begin);
}

static void queries(uint64_t size, const char *what)
{
    uint8_t *host = reserve(size);
    struct ours o;
    struct bare b;
    char name[100];

    if (!bare_begin(&b, host) || !ours_begin(&o, host)) {
        skipped("dirty queries on kvm", "KVM cannot be used here");
        bare_end(&b);
        munmap(host, size);
        return;
    }
    dirty_set_up(&o, &b, size);
    for (unsigned round = 0; round < ROUNDS; round++)
        dirty_round(&o, &b, round);
    snprintf(name, sizeof(name), "query of %s, nothing dirty, after a run", what);
    show(name, "1.20", &first, 1);
    snprintf(name, sizeof(name), "query of %s, nothing dirty, not run since", what);
    show(name, "1.20", &second, 1);
    MUST(WHvDeletePartition(o.partition));
    munmap(b.bitmap, size / PAGE / 8);
    bare_end(&b);
    munmap(host, size);
}

void bench_on_kvm(void)
{
    heading("the kvm engine and KVM's own calls (KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG); medians of CPU time");
    maps();
    queries(GIB, "1 GiB");
    queries(16 * GIB, "16 GiB");
}
