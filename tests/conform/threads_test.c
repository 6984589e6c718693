/* Many threads on one partition: cancels raced against runs, deletion under calls, changes under runs. No case depends on
 * time; each ends when its counts are reached. */
#include "conform.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "fake_engine.h"

typedef WHV_PARTITION_HANDLE P;

static P partition;
static _Atomic bool stop;
static _Atomic unsigned failures;

static void start(pthread_t *thread, void *(*function)(void *), void *argument)
{
    assert_int_equal(pthread_create(thread, NULL, function, argument), 0);
}

/* ---- cancel ---- */

static _Atomic unsigned cancels, canceled_exits, other_exits;

/* Each cancel waits for its exit, as a client that counts them does. */
static void *cancel_loop(void *argument)
{
    unsigned total = *(unsigned *)argument;

    for (unsigned i = 0; i < total; i++) {
        atomic_store(&cancels, i + 1);
        if (WHvCancelRunVirtualProcessor(partition, 0, 0) != S_OK)
            atomic_fetch_add(&failures, 1);
        while (atomic_load(&canceled_exits) <= i)
            sched_yield();
    }
    atomic_store(&stop, true);
    return NULL;
}

static void run_until_stopped(void)
{
    WHV_RUN_VP_EXIT_CONTEXT context;

    while (!atomic_load(&stop)) {
        HRESULT result = WHvRunVirtualProcessor(partition, 0, &context, sizeof(context));
        if (result != S_OK)
            atomic_fetch_add(&failures, 1);
        else if (context.ExitReason != WHvRunVpExitReasonCanceled)
            atomic_fetch_add(&other_exits, 1);
        else if (atomic_fetch_add(&canceled_exits, 1) >= atomic_load(&cancels))
            atomic_fetch_add(&failures, 1); /* more exits than cancels */
    }
}

static void stress(uint32_t repeat, unsigned total)
{
    pthread_t canceler;

    atomic_store(&stop, false);
    atomic_store(&failures, 0);
    atomic_store(&cancels, 0);
    atomic_store(&canceled_exits, 0);
    atomic_store(&other_exits, 0);
    partition = partition_with_vcpu();
    fake_vcpu(0)->exit.reason = EXIT_CPUID;
    atomic_store(&fake_vcpu(0)->repeat, repeat);
    start(&canceler, cancel_loop, &total);
    /* The last exit is the runner's: nothing is pending after it. */
    run_until_stopped();
    pthread_join(canceler, NULL);
    assert_int_equal(atomic_load(&failures), 0);
    assert_int_equal(atomic_load(&canceled_exits), total);
    assert_ok(WHvDeletePartition(partition));
}

/* The runner must not start a run that nobody ends: with exits scripted for ever it always comes back. */
static void cancels_among_exits(void **state)
{
    (void)state;
    stress(UINT32_MAX, 10000);
}

static void *cancel_often(void *argument)
{
    (void)argument;
    while (!atomic_load(&stop))
        if (WHvCancelRunVirtualProcessor(partition, 0, 0) != S_OK)
            atomic_fetch_add(&failures, 1);
    return NULL;
}

/* Cancels that wait for nobody: every run of a processor that would sleep for ever ends. */
static void unwaited_cancels(void **state)
{
    pthread_t cancelers[2];
    WHV_RUN_VP_EXIT_CONTEXT context;

    (void)state;
    atomic_store(&stop, false);
    atomic_store(&failures, 0);
    partition = partition_with_vcpu();
    for (int i = 0; i < 2; i++)
        start(&cancelers[i], cancel_often, NULL);
    for (int i = 0; i < 10000; i++) {
        assert_ok(WHvRunVirtualProcessor(partition, 0, &context, sizeof(context)));
        assert_int_equal(context.ExitReason, WHvRunVpExitReasonCanceled);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++)
        pthread_join(cancelers[i], NULL);
    assert_int_equal(atomic_load(&failures), 0);
    /* At most one is left over. */
    assert_ok(WHvCancelRunVirtualProcessor(partition, 0, 0));
    assert_ok(WHvRunVirtualProcessor(partition, 0, &context, sizeof(context)));
    assert_int_equal(context.ExitReason, WHvRunVpExitReasonCanceled);
    fake_vcpu(0)->exit.reason = EXIT_HALT;
    atomic_store(&fake_vcpu(0)->repeat, 1);
    assert_ok(WHvRunVirtualProcessor(partition, 0, &context, sizeof(context)));
    assert_int_equal(context.ExitReason, WHvRunVpExitReasonX64Halt);
    assert_ok(WHvDeletePartition(partition));
}

/* ---- deletion ---- */

static void *run_once(void *argument)
{
    WHV_RUN_VP_EXIT_CONTEXT context;

    (void)argument;
    return (void *)(intptr_t)WHvRunVirtualProcessor(partition, 0, &context, sizeof(context));
}

static void delete_under_a_run(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        partition = partition_with_vcpu();
        if (i % 2) { /* certainly inside; otherwise whenever it comes */
            struct runner *runner = run_begin(partition, 0);
            assert_ok(WHvDeletePartition(partition));
            assert_hr(run_end(runner, NULL), E_HANDLE);
            continue;
        }
        pthread_t thread;
        void *result;
        start(&thread, run_once, NULL);
        assert_ok(WHvDeletePartition(partition));
        pthread_join(thread, &result);
        assert_hr((HRESULT)(intptr_t)result, E_HANDLE);
    }
}

static void *call_until_gone(void *argument)
{
    const WHV_REGISTER_NAME name = WHvX64RegisterRip;
    WHV_REGISTER_VALUE value;
    WHV_RUN_VP_EXIT_CONTEXT context;

    (void)argument;
    for (;;) {
        HRESULT result = WHvGetVirtualProcessorRegisters(partition, 0, &name, 1, &value);
        if (result == E_HANDLE)
            return NULL;
        if (result != S_OK && result != WHV_E_INVALID_VP_STATE)
            atomic_fetch_add(&failures, 1);
        result = WHvRunVirtualProcessor(partition, 0, &context, sizeof(context));
        if (result != S_OK && result != WHV_E_INVALID_VP_STATE && result != E_HANDLE)
            atomic_fetch_add(&failures, 1);
        (void)WHvCancelRunVirtualProcessor(partition, 0, 0);
        (void)WHvUnmapGpaRange(partition, 0, 4096);
    }
}

static void *delete_it(void *argument)
{
    (void)argument;
    return (void *)(intptr_t)WHvDeletePartition(partition);
}

/* Of several deletions exactly one succeeds; all other calls see the partition, or E_HANDLE. */
static void delete_under_calls(void **state)
{
    (void)state;
    atomic_store(&failures, 0);
    for (int i = 0; i < 100; i++) {
        pthread_t callers[3], deleters[2];
        int succeeded = 0;
        partition = partition_with_vcpu();
        fake_vcpu(0)->exit.reason = EXIT_HALT;
        atomic_store(&fake_vcpu(0)->repeat, UINT32_MAX);
        for (int t = 0; t < 3; t++)
            start(&callers[t], call_until_gone, NULL);
        usleep(100);
        for (int t = 0; t < 2; t++)
            start(&deleters[t], delete_it, NULL);
        for (int t = 0; t < 2; t++) {
            void *result;
            pthread_join(deleters[t], &result);
            succeeded += (HRESULT)(intptr_t)result == S_OK;
            assert_true((HRESULT)(intptr_t)result == S_OK || (HRESULT)(intptr_t)result == E_HANDLE);
        }
        assert_int_equal(succeeded, 1);
        for (int t = 0; t < 3; t++)
            pthread_join(callers[t], NULL);
    }
    assert_int_equal(atomic_load(&failures), 0);
}

/* ---- changes under runs ---- */

static void *run_vp(void *argument)
{
    UINT32 vp = *(UINT32 *)argument;
    WHV_RUN_VP_EXIT_CONTEXT context;

    while (!atomic_load(&stop)) {
        HRESULT result = WHvRunVirtualProcessor(partition, vp, &context, sizeof(context));
        if (result != S_OK || (context.ExitReason != WHvRunVpExitReasonX64Halt &&
                               context.ExitReason != WHvRunVpExitReasonCanceled))
            atomic_fetch_add(&failures, 1);
    }
    return NULL;
}

static void *interrupt_all(void *argument)
{
    const WHV_INTERRUPT_CONTROL control = {.Vector = 32};

    (void)argument;
    while (!atomic_load(&stop))
        if (WHvRequestInterrupt(partition, &control, sizeof(control)) != S_OK)
            atomic_fetch_add(&failures, 1);
    return NULL;
}

/* Processors come and go, run-time properties change, while others run (one sleeps in the engine, one exits often).
 * The fake engine checks that nobody is inside meanwhile; the runs must not see any of it. */
static void changes_under_runs(void **state)
{
    UINT32 vps[] = {0, 1};
    pthread_t runners[2], interrupter;

    (void)state;
    atomic_store(&stop, false);
    atomic_store(&failures, 0);
    partition = partition_with_apic(4);
    fake_vcpu(1)->exit.reason = EXIT_HALT;
    atomic_store(&fake_vcpu(1)->repeat, UINT32_MAX);
    for (int i = 0; i < 2; i++)
        start(&runners[i], run_vp, &vps[i]);
    start(&interrupter, interrupt_all, NULL);
    for (UINT32 i = 0; i < 500; i++) {
        UINT32 list[3] = {i, i + 1, i + 2};
        assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeCpuidExitList, list, i % 3 * 4));
        set_property(partition, WHvPartitionPropertyCodeExtendedVmExits, i & 1, 8);
        assert_ok(WHvDeleteVirtualProcessor(partition, 2));
        assert_ok(WHvCreateVirtualProcessor(partition, 2, 0));
    }
    atomic_store(&stop, true);
    for (UINT32 i = 0; i < 2; i++)
        assert_ok(WHvCancelRunVirtualProcessor(partition, i, 0));
    for (UINT32 i = 0; i < 2; i++)
        pthread_join(runners[i], NULL);
    pthread_join(interrupter, NULL);
    assert_int_equal(atomic_load(&failures), 0);
    assert_ok(WHvDeletePartition(partition));
}

/* A hold wakes a sleeping run without ending it, also when there was a cancel before. */
static void property_wakes_but_does_not_end(void **state)
{
    WHV_RUN_VP_EXIT_CONTEXT context;

    (void)state;
    partition = partition_with_vcpu();
    assert_ok(WHvCancelRunVirtualProcessor(partition, 0, 0));
    assert_ok(WHvRunVirtualProcessor(partition, 0, &context, sizeof(context)));
    struct engine_vcpu *vcpu = fake_vcpu(0);
    struct runner *runner = run_begin(partition, 0);

    uint32_t runs = atomic_load(&vcpu->runs);
    set_property(partition, WHvPartitionPropertyCodeExceptionExitBitmap, 0x4000, 8);
    while (atomic_load(&vcpu->runs) == runs)
        sched_yield(); /* it went in again */
    vcpu->exit.reason = EXIT_HALT;
    atomic_store(&vcpu->repeat, 1);
    assert_ok(run_end(runner, &context));
    assert_int_equal(context.ExitReason, WHvRunVpExitReasonX64Halt);
    assert_int_equal(fake_partition()->config->exception_exit_bitmap, 0x4000);
    assert_ok(WHvDeletePartition(partition));
}

/* ---- many ---- */

static void *live_and_die(void *argument)
{
    (void)argument;
    for (int i = 0; i < 50; i++) {
        WHV_PARTITION_HANDLE own[8];
        WHV_RUN_VP_EXIT_CONTEXT context;
        for (int k = 0; k < 8; k++) {
            UINT32 processors = 1;
            if (WHvCreatePartition(&own[k]) != S_OK ||
                WHvSetPartitionProperty(own[k], WHvPartitionPropertyCodeProcessorCount, &processors, 4) != S_OK ||
                WHvSetupPartition(own[k]) != S_OK || WHvCreateVirtualProcessor(own[k], 0, 0) != S_OK ||
                WHvCancelRunVirtualProcessor(own[k], 0, 0) != S_OK ||
                WHvRunVirtualProcessor(own[k], 0, &context, sizeof(context)) != S_OK)
                atomic_fetch_add(&failures, 1);
        }
        for (int k = 0; k < 8; k++)
            if (WHvDeletePartition(own[k]) != S_OK || WHvDeletePartition(own[k]) != E_HANDLE)
                atomic_fetch_add(&failures, 1);
    }
    return NULL;
}

static void many_partitions(void **state)
{
    pthread_t threads[4];

    (void)state;
    atomic_store(&failures, 0);
    for (int i = 0; i < 4; i++)
        start(&threads[i], live_and_die, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&failures), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("THREAD-1", "F 9.4: 10000 cancels, 10000 exits", cancels_among_exits),
        CASE("THREAD-2", "F 9.4, H", unwaited_cancels),
        CASE("THREAD-3", "H WHvDeletePartition", delete_under_a_run),
        CASE("THREAD-4", "H Handles", delete_under_calls),
        CASE("THREAD-5", "F 9.6, H", changes_under_runs),
        CASE("THREAD-6", "F 9.6", property_wakes_but_does_not_end),
        CASE("THREAD-7", "S number of partitions", many_partitions),
    };
    return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
