/*
 * Runs a payload on several processors, each on its own thread, through the installed API alone:
 *
 *     smp_test PAYLOAD NAME
 *
 * for each row of `cases` with that name. The payload writes characters to port E9 and ends the run with a number written to
 * port F4: 0 is good, others are the number of the check that failed (smp.inc). Nothing depends on time: a run that does not
 * end is given up after LIMIT_S, with every processor's RIP.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <WinHvPlatform.h>
#include <openwhp.h>

#include "differences.h"

/* ThreadSanitizer makes the interpreter many times slower. */
#if defined(__SANITIZE_THREAD__)
#define FEWER 8
#elif defined(__SANITIZE_ADDRESS__)
#define FEWER 3
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FEWER 8
#endif
#endif
#ifndef FEWER
#define FEWER 1
#endif

enum { RAM_SIZE = 16 << 20, LOAD_AT = 0x8000, PARAMETERS = 0x500, MAX_PROCESSORS = 64, LIMIT_S = 150 * FEWER };

/* Options: of "monitor", CPUID shows MONITOR; of "lock", aligned operands only, no ADC and SBB. */
enum { SHOWS_MONITOR = 1, ALIGNED = 1 };

struct parameters {
    UINT32 processors, x2apic;
    UINT64 rounds, option;
};

static const struct {
    const char *name;
    struct parameters parameters;
} cases[] = {
    {"lock", {1, 0, 500, 0}},  {"lock", {2, 0, 1500, 0}}, {"lock", {3, 1, 500, 0}}, {"lock", {8, 0, 80, 0}},
    {"lock", {2, 0, 500, ALIGNED}}, {"lock", {4, 1, 100, ALIGNED}},
    {"code", {1, 0, 500, 0}},  {"code", {2, 0, 2000, 0}}, {"code", {4, 1, 500, 0}}, {"code", {8, 0, 100, 0}},
    {"ipi", {1, 0, 100, 0}}, {"ipi", {2, 1, 100, 0}}, {"ipi", {5, 0, 30, 0}}, {"ipi", {8, 1, 10, 0}}, {"ipi", {64, 1, 1, 0}},
    {"tlb", {1, 0, 500, 0}}, {"tlb", {2, 0, 300, 0}}, {"tlb", {4, 1, 50, 0}}, {"tlb", {8, 0, 12, 0}},
    {"apic", {1, 0, 3, 0}}, {"apic", {1, 1, 3, 0}}, {"apic", {4, 0, 2, 0}}, {"apic", {4, 1, 2, 0}},
    {"apic", {64, 0, 1, 0}}, {"apic", {64, 1, 1, 0}},
    {"time", {1, 0, 2000, 0}}, {"time", {2, 1, 3000, 0}}, {"time", {8, 0, 200, 0}},
    {"monitor", {1, 0, 1, SHOWS_MONITOR}}, {"monitor", {2, 0, 200, SHOWS_MONITOR}}, {"monitor", {2, 1, 200, SHOWS_MONITOR}}, {"monitor", {4, 1, 30, SHOWS_MONITOR}}, {"monitor", {16, 0, 4, SHOWS_MONITOR}},
    {"deliver", {2, 0, 2000, 0}}, {"deliver", {4, 0, 500, 0}},
    {"litmus", {2, 0, 2000, 0}}, {"litmus", {4, 1, 500, 0}},
};

static struct {
    WHV_PARTITION_HANDLE partition;
    UINT8 *ram;
    UINT32 processors;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool is_over;
    UINT32 code;         /* what was written to port F4 */
    UINT32 ended_by;
    UINT64 ended_at;
    WHV_RUN_VP_EXIT_REASON odd_exit; /* not 0: a processor ended otherwise */
} run;

static void give_up(const char *what, HRESULT result)
{
    fprintf(stderr, "%s: %#x: %s\n", what, (unsigned)result, OwhpGetLastErrorText());
    exit(1);
}

#define must(call)                                                                                 \
    do {                                                                                           \
        HRESULT result_ = (call);                                                                  \
        if (result_ != S_OK)                                                                       \
            give_up(#call, result_);                                                               \
    } while (0)

/* ---- processors ---- */

static void over(UINT32 processor, UINT32 code, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    pthread_mutex_lock(&run.lock);
    if (!run.is_over) {
        run.code = code;
        run.ended_by = processor;
        run.ended_at = exit->VpContext.Rip;
        if (exit->ExitReason != WHvRunVpExitReasonX64IoPortAccess)
            run.odd_exit = exit->ExitReason;
    }
    run.is_over = true;
    pthread_cond_signal(&run.ended);
    pthread_mutex_unlock(&run.lock);
}

static void skip_instruction(UINT32 processor, const WHV_VP_EXIT_CONTEXT *context)
{
    WHV_REGISTER_NAME rip = WHvX64RegisterRip;
    WHV_REGISTER_VALUE value = {.Reg64 = context->Rip + context->InstructionLength};

    must(WHvSetVirtualProcessorRegisters(run.partition, processor, &rip, 1, &value));
}

/* False: the processor's part is over. */
static bool handle(UINT32 processor, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    if (exit->ExitReason == WHvRunVpExitReasonCanceled)
        return false;
    if (exit->ExitReason == WHvRunVpExitReasonX64IoPortAccess && exit->IoPortAccess.PortNumber == 0xe9) {
        fputc((int)(exit->IoPortAccess.Rax & 0xff), stderr);
        skip_instruction(processor, &exit->VpContext);
        return true;
    }
    over(processor, (UINT32)exit->IoPortAccess.Rax, exit);
    return false;
}

static void *processor_thread(void *argument)
{
    UINT32 processor = (UINT32)(size_t)argument;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    do
        must(WHvRunVirtualProcessor(run.partition, processor, &exit, sizeof(exit)));
    while (handle(processor, &exit));
    return NULL;
}

/* ---- a partition ---- */

static void property(UINT32 code, UINT64 value, UINT32 size)
{
    must(WHvSetPartitionProperty(run.partition, (WHV_PARTITION_PROPERTY_CODE)code, &value, size));
}

static void show_monitor(void)
{
    const WHV_X64_CPUID_RESULT2 result = {.Function = 1, .Output = {.Ecx = 1u << 3}, .Mask = {.Ecx = 1u << 3}};

    must(WHvSetPartitionProperty(run.partition, WHvPartitionPropertyCodeCpuidResultList2, &result, sizeof(result)));
}

static void start_in_real_mode(void)
{
    WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterRip, WHvX64RegisterRflags};
    WHV_REGISTER_VALUE values[] = {
        {.Segment = {.Limit = 0xffff, .Attributes = 0x9b}}, {.Reg64 = LOAD_AT}, {.Reg64 = 2}};

    must(WHvSetVirtualProcessorRegisters(run.partition, 0, names, 3, values));
}

/* As a part of the rounds: sanitizers, an engine that interprets, who asks for it. */
static unsigned fewer(const char *name)
{
    const unsigned of_interpreted = strcmp(name, "lock") && strcmp(name, "litmus") ? 50 : 200;
    const char *shorter = getenv("OPENWHP_TEST_SHORTER");
    unsigned part = shorter ? (unsigned)strtoul(shorter, NULL, 0) : 1;

    if (part > 1)
        printf("SHORTER (OPENWHP_TEST_SHORTER=%u): ", part);
    return FEWER * (part ? part : 1) * (engine_differs(OwhpEngineDifferenceInterpreted) ? of_interpreted : 1);
}

static void begin(const char *name, const struct parameters *parameters, const UINT8 *payload, size_t size)
{
    struct parameters given = *parameters;

    run.processors = given.processors;
    run.is_over = false;
    run.odd_exit = WHvRunVpExitReasonNone;
    memset(run.ram, 0, RAM_SIZE);
    memcpy(run.ram + LOAD_AT, payload, size);
    const unsigned part = fewer(name);
    given.rounds = (given.rounds + part - 1) / part;
    memcpy(run.ram + PARAMETERS, &given, sizeof(given));
    must(WHvCreatePartition(&run.partition));
    property(WHvPartitionPropertyCodeProcessorCount, given.processors, 4);
    property(WHvPartitionPropertyCodeLocalApicEmulationMode,
             given.x2apic ? WHvX64LocalApicEmulationModeX2Apic : WHvX64LocalApicEmulationModeXApic, 4);
    if (strcmp(name, "monitor") == 0 && (parameters->option & SHOWS_MONITOR))
        show_monitor();
    must(WHvSetupPartition(run.partition));
    must(WHvMapGpaRange(run.partition, run.ram, 0, RAM_SIZE,
                        WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
    for (UINT32 i = 0; i < given.processors; i++)
        must(WHvCreateVirtualProcessor(run.partition, i, 0));
    start_in_real_mode();
}

/* True: it ended by itself. */
static bool wait_for_the_end(void)
{
    struct timespec limit;
    int late = 0;

    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += LIMIT_S;
    pthread_mutex_lock(&run.lock);
    while (!run.is_over && !late)
        late = pthread_cond_timedwait(&run.ended, &run.lock, &limit);
    pthread_mutex_unlock(&run.lock);
    return !late;
}

static void print_processors(void)
{
    WHV_REGISTER_NAME names[] = {WHvX64RegisterRip, WHvX64RegisterRflags, WHvX64RegisterRax, WHvX64RegisterRbx,
                                 WHvX64RegisterRcx, WHvX64RegisterRdx, WHvX64RegisterRsp};
    WHV_REGISTER_VALUE v[7];

    for (UINT32 i = 0; i < run.processors; i++) {
        must(WHvGetVirtualProcessorRegisters(run.partition, i, names, 7, v));
        fprintf(stderr, "  %u: rip %llx rflags %llx rax %llx rbx %llx rcx %llx rdx %llx rsp %llx\n", i,
                (unsigned long long)v[0].Reg64, (unsigned long long)v[1].Reg64, (unsigned long long)v[2].Reg64,
                (unsigned long long)v[3].Reg64, (unsigned long long)v[4].Reg64, (unsigned long long)v[5].Reg64,
                (unsigned long long)v[6].Reg64);
    }
}

static bool report(const struct parameters *p, bool ended)
{
    bool good = ended && run.code == 0 && !run.odd_exit;

    printf("%u processors, %s, %llu rounds: ", p->processors, p->x2apic ? "x2APIC" : "xAPIC",
           (unsigned long long)p->rounds);
    if (good)
        printf("good\n");
    else if (!ended)
        printf("did not end\n");
    else if (run.odd_exit)
        printf("processor %u: exit %#x at %#llx\n", run.ended_by, (unsigned)run.odd_exit, (unsigned long long)run.ended_at);
    else
        printf("processor %u: check %u failed at %#llx\n", run.ended_by, run.code, (unsigned long long)run.ended_at);
    fflush(stdout);
    return good;
}

static bool run_case(const char *name, const struct parameters *parameters, const UINT8 *payload, size_t size)
{
    pthread_t threads[MAX_PROCESSORS];
    bool ended, good;

    begin(name, parameters, payload, size);
    for (UINT32 i = 0; i < run.processors; i++)
        if (pthread_create(&threads[i], NULL, processor_thread, (void *)(size_t)i))
            give_up("pthread_create", 0);
    ended = wait_for_the_end();
    for (UINT32 i = 0; i < run.processors; i++)
        must(WHvCancelRunVirtualProcessor(run.partition, i, 0));
    for (UINT32 i = 0; i < run.processors; i++)
        pthread_join(threads[i], NULL);
    good = report(parameters, ended);
    if (!good)
        print_processors();
    must(WHvDeletePartition(run.partition));
    return good;
}

static size_t load(const char *path, UINT8 *to, size_t room)
{
    FILE *file = fopen(path, "rb");
    size_t size;

    if (!file) {
        perror(path);
        exit(1);
    }
    size = fread(to, 1, room, file);
    fclose(file);
    return size;
}

/* Why the engine does not do this (conform/differences.c); NULL: it does. */
static const char *difference(const char *name, const struct parameters *parameters)
{
    const bool others = parameters->processors > 1;
    const char *of_name = strcmp(name, "code") == 0 && others                           ? engine_difference("SMP-CODE")
                          : strcmp(name, "lock") == 0 && others && !parameters->option ? engine_difference("SMP-LOCK")
                          : strcmp(name, "time") == 0                                   ? engine_difference("SMP-TIME")
                          : strcmp(name, "apic") == 0                                   ? engine_difference("SMP-APIC")
                          : strcmp(name, "monitor") == 0                                ? engine_difference("SMP-MONITOR")
                                                                                        : NULL;

    return of_name ? of_name : parameters->processors == 64 ? engine_difference("SMP-64") : NULL;
}

/* Where less is asked for (a machine with one slow processor) so many that wait for one another, spinning, would take hours. */
static bool is_too_long(const char *name, const struct parameters *parameters)
{
    return strcmp(name, "ipi") == 0 && parameters->processors == 64 && getenv("OPENWHP_TEST_SHORTER");
}

int main(int argc, char **argv)
{
    static UINT8 payload[0x28000];
    unsigned found = 0, run_count = 0, bad = 0;

    if (argc != 3)
        return 2;
    size_t size = load(argv[1], payload, sizeof(payload));
    pthread_mutex_init(&run.lock, NULL);
    pthread_cond_init(&run.ended, NULL);
    run.ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (run.ram == MAP_FAILED)
        return 1;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (!strcmp(cases[i].name, argv[2])) {
            const char *reason = difference(argv[2], &cases[i].parameters);
            found++;
            if (reason) {
                printf("SKIPPED, %u processors: %s\n", cases[i].parameters.processors, reason);
                continue;
            }
            if (is_too_long(argv[2], &cases[i].parameters)) {
                printf("SHORTER (OPENWHP_TEST_SHORTER): without the case of %u processors\n", cases[i].parameters.processors);
                continue;
            }
            run_count++;
            bad += !run_case(cases[i].name, &cases[i].parameters, payload, size);
        }
    munmap(run.ram, RAM_SIZE);
    if (!found)
        fprintf(stderr, "no case is called %s\n", argv[2]);
    return bad || !found ? 1 : run_count ? 0 : 77;
}
