/* Guests on many threads: what processors cost while they sleep, that all of them can be stopped, and changes of memory under
 * them. No case depends on how long something takes. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"
#include "sleepers.h"

enum { MAX = 64, COUNTS = 0x9000 };

static struct guest guest;
static pthread_t threads[MAX];
static _Atomic pid_t ids[MAX];
static _Atomic unsigned canceled, odd_exits, failures;

static void *run_processor(void *argument)
{
    WHV_RUN_VP_EXIT_CONTEXT context;

    atomic_store(&ids[(size_t)argument], gettid());
    if (WHvRunVirtualProcessor(guest.partition, (UINT32)(size_t)argument, &context, sizeof(context)) != S_OK)
        atomic_fetch_add(&failures, 1);
    else if (context.ExitReason == WHvRunVpExitReasonCanceled)
        atomic_fetch_add(&canceled, 1);
    else
        atomic_fetch_add(&odd_exits, 1);
    return NULL;
}

static void start_all(unsigned count)
{
    atomic_store(&canceled, 0);
    atomic_store(&odd_exits, 0);
    atomic_store(&failures, 0);
    for (size_t i = 0; i < count; i++) {
        atomic_store(&ids[i], 0);
        assert_int_equal(pthread_create(&threads[i], NULL, run_processor, (void *)i), 0);
    }
}

static void stop_all(unsigned count)
{
    for (UINT32 i = 0; i < count; i++)
        assert_ok(WHvCancelRunVirtualProcessor(guest.partition, i, 0));
    for (unsigned i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&failures), 0);
    assert_int_equal(atomic_load(&odd_exits), 0);
    assert_int_equal(atomic_load(&canceled), count);
}

static void begin(unsigned processors, UINT32 apic_mode)
{
    guest_begin(&guest, &(struct guest_options){.processors = processors, .apic_mode = apic_mode});
    for (UINT32 i = 1; i < processors; i++)
        assert_ok(WHvCreateVirtualProcessor(guest.partition, i, 0));
}

static UINT32 count_at(UINT32 address)
{
    return atomic_load((_Atomic UINT32 *)(void *)(guest.ram + address));
}

/* 64 processors on 64 threads, first waiting for SIPI, then halted: all are asleep, and nothing wakes one. */
static void halted_processors_cost_nothing(void **state)
{
    uint64_t ms = 200;

    (void)state;
    begin(MAX, WHvX64LocalApicEmulationModeXApic);
    /* lock inc dword [COUNTS]; sti; hlt; jmp to sti */
    guest_code(&guest, 0xf0, 0x66, 0xff, 0x06, COUNTS & 0xff, COUNTS >> 8, 0xfb, 0xf4, 0xeb, 0xfc);
    start_all(MAX);
    sleepers_wait(ids, MAX); /* 63 wait for SIPI */
    for (UINT32 i = 1; i < MAX; i++) {
        WHV_INTERRUPT_CONTROL sipi = {.Type = WHvX64InterruptTypeSipi, .Destination = i, .Vector = CODE >> 12};
        assert_ok(WHvRequestInterrupt(guest.partition, &sipi, sizeof(sipi)));
    }
    while (count_at(COUNTS) < MAX)
        sched_yield();
    sleepers_wait(ids, MAX);
    assert_in_range(sleepers_wakes(ids, MAX, &ms), 0, MAX); /* one who slept for another reason on its way to HLT */
    stop_all(MAX);
    assert_int_equal(count_at(COUNTS), MAX);
    guest_end(&guest);
}

/* inc dword [di], for ever; each processor its own count. */
static void load_counters(unsigned processors)
{
    guest_code(&guest, 0xf0, 0x66, 0xff, 0x05, 0xeb, 0xfa);
    for (UINT32 i = 0; i < processors; i++) {
        WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterRip, WHvX64RegisterRdi};
        WHV_REGISTER_VALUE values[] = {
            {.Segment = {.Limit = 0xffff, .Attributes = 0x9b}}, {.Reg64 = CODE}, {.Reg64 = COUNTS + i * 64}};
        assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, i, names, 3, values));
    }
}

static void wait_until_all_ran(unsigned processors, const UINT32 *before)
{
    for (UINT32 i = 0; i < processors; i++)
        while (count_at(COUNTS + i * 64) == before[i])
            sched_yield();
}

/* 64 processors that run for ever are all stopped, again and again; each gets on in between. */
static void running_processors_stop(void **state)
{
    UINT32 before[MAX] = {0};

    (void)state;
    begin(MAX, WHvX64LocalApicEmulationModeNone);
    load_counters(MAX);
    for (unsigned round = 0; round < 2; round++) {
        start_all(MAX);
        wait_until_all_ran(MAX, before);
        stop_all(MAX);
        for (UINT32 i = 0; i < MAX; i++)
            before[i] = count_at(COUNTS + i * 64);
    }
    guest_end(&guest);
}

/* ---- memory ---- */

enum { RUNNERS = 8, CHANGES = 300, OTHER = 0x400000 };

static void *map_and_unmap(void *argument)
{
    UINT64 gpa = OTHER + (size_t)argument * 0x100000;

    for (unsigned i = 0; i < CHANGES; i++)
        if (WHvMapGpaRange(guest.partition, guest.ram + 0x100000, gpa, 0x10000, WHvMapGpaRangeFlagRead) != S_OK ||
            WHvUnmapGpaRange(guest.partition, gpa, 0x10000) != S_OK)
            atomic_fetch_add(&failures, 1);
    return NULL;
}

/* The page of the counts is replaced by itself: a running processor sees the old or the new mapping, never a hole. */
static void *replace_page(void *argument)
{
    (void)argument;
    for (unsigned i = 0; i < CHANGES; i++)
        if (WHvMapGpaRange(guest.partition, guest.ram + COUNTS, COUNTS, 0x1000,
                           WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagTrackDirtyPages) != S_OK)
            atomic_fetch_add(&failures, 1);
    return NULL;
}

static void *ask(void *argument)
{
    UINT64 bits[8];
    WHV_PROCESSOR_RUNTIME_COUNTERS counters;
    UINT32 written;

    (void)argument;
    for (unsigned i = 0; i < CHANGES; i++)
        if (WHvQueryGpaRangeDirtyBitmap(guest.partition, 0, 0x100000, bits, 0x100000 / 4096 / 8) != S_OK ||
            WHvGetVirtualProcessorCounters(guest.partition, i % RUNNERS, WHvProcessorCounterSetRuntime, &counters,
                                           sizeof(counters), &written) != S_OK)
            atomic_fetch_add(&failures, 1);
    return NULL;
}

static void memory_changes_under_runs(void **state)
{
    static void *(*const functions[])(void *) = {map_and_unmap, map_and_unmap, replace_page, ask, ask};
    pthread_t changers[5];
    UINT32 before[RUNNERS] = {0};

    (void)state;
    begin(RUNNERS, WHvX64LocalApicEmulationModeNone);
    load_counters(RUNNERS);
    start_all(RUNNERS);
    wait_until_all_ran(RUNNERS, before);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(pthread_create(&changers[i], NULL, functions[i], (void *)i), 0);
    for (size_t i = 0; i < 5; i++)
        pthread_join(changers[i], NULL);
    for (UINT32 i = 0; i < RUNNERS; i++)
        before[i] = count_at(COUNTS + i * 64);
    wait_until_all_ran(RUNNERS, before);
    stop_all(RUNNERS);
    /* What was stored since the last harvest is dirty. */
    UINT64 bits = 0;
    assert_ok(WHvQueryGpaRangeDirtyBitmap(guest.partition, COUNTS, 0x1000, &bits, 8));
    assert_int_equal(bits, 1);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(guest.partition, COUNTS, 0x1000, &bits, 8));
    assert_int_equal(bits, 0);
    guest_end(&guest);
}

/* ---- code ---- */

enum { FUNCTION = 0x3000, RESULT = COUNTS, ROUNDS = COUNTS + 4, PATCHES = 1000 };

/* Processor 0 calls a function that stores a number, for ever; processor 1 changes the number in the function's code, and goes on
 * when it has been stored. Its own code is elsewhere, or in the same page. */
static void code_of_another_processor(UINT16 patcher)
{
    static const UINT8 function[] = {0xb0, 0, 0xa2, RESULT & 0xff, RESULT >> 8, 0xc3}; /* mov al, 0; mov [RESULT], al; ret */
    static const UINT8 patch[] = {
        0xfe, 0xc3,                                                   /* again: inc bl */
        0x88, 0x1e, (FUNCTION + 1) & 0xff, FUNCTION >> 8,             /* mov [FUNCTION + 1], bl */
        0x38, 0x1e, RESULT & 0xff, RESULT >> 8, 0x75, 0xfa,           /* wait: cmp [RESULT], bl; jne wait */
        0x66, 0xff, 0x06, ROUNDS & 0xff, ROUNDS >> 8, 0xeb, 0xed,     /* inc dword [ROUNDS]; jmp again */
    };
    const WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterRip};
    const WHV_REGISTER_VALUE values[] = {{.Segment = {.Limit = 0xffff, .Attributes = 0x9b}}, {.Reg64 = patcher}};

    begin(2, WHvX64LocalApicEmulationModeNone);
    guest_code(&guest, 0xe8, 0xfd, 0x1f, 0xeb, 0xfb); /* again: call FUNCTION; jmp again */
    guest_load(&guest, FUNCTION, function, sizeof(function));
    guest_load(&guest, patcher, patch, sizeof(patch));
    assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, 1, names, 2, values));
    start_all(2);
    while (count_at(ROUNDS) < PATCHES)
        sched_yield();
    stop_all(2);
    guest_end(&guest);
}

static void changed_code_is_seen(void **state)
{
    (void)state;
    code_of_another_processor(0x5000);
    code_of_another_processor(FUNCTION + 0x800);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("GT-1", "S", halted_processors_cost_nothing),
        CASE("GT-2", "F 9.4: all of 64", running_processors_stop),
        CASE("GT-3", "S", memory_changes_under_runs),
        CASE("GT-4", "SDM 3A 9.1.3: code that another processor changes", changed_code_is_seen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
