/*
 * Every function with a partition handle: bad handles, a partition that is not set up, processors that do not exist or
 * run. One row per function says what it needs; the four tests walk the rows.
 */
#include "conform.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fake_engine.h"

typedef WHV_PARTITION_HANDLE P;

enum {
    ANY_STATE = 0,
    NEEDS_SETUP = 1,     /* before it: ERROR_INVALID_STATE */
    NEEDS_VP = 2,        /* absent processor: WHV_E_VP_DOES_NOT_EXIST */
    REFUSES_RUNNING = 4, /* processor runs: WHV_E_INVALID_VP_STATE */
    ABSENT = 8,          /* answers ERROR_NOT_SUPPORTED */
};

static union {
    UINT64 q[2048];
    UINT32 d[4];
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_REGISTER_VALUE values[4];
} scratch;

static const WHV_REGISTER_NAME rax = WHvX64RegisterRax;
static const WHV_ACCESS_GPA_CONTROLS uncached;
static UINT32 count;

/* Each with otherwise good arguments. */
static HRESULT setup(P p, UINT32 v) { (void)v; return WHvSetupPartition(p); }
static HRESULT reset(P p, UINT32 v) { (void)v; return WHvResetPartition(p); }
static HRESULT suspend(P p, UINT32 v) { (void)v; return WHvSuspendPartitionTime(p); }
static HRESULT resume(P p, UINT32 v) { (void)v; return WHvResumePartitionTime(p); }
static HRESULT get_property(P p, UINT32 v)
{
    (void)v;
    return WHvGetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, scratch.d, 4, NULL);
}
static HRESULT set_a_property(P p, UINT32 v)
{
    (void)v;
    scratch.q[0] = 0;
    return WHvSetPartitionProperty(p, WHvPartitionPropertyCodeExtendedVmExits, scratch.q, 8);
}
static HRESULT map(P p, UINT32 v)
{
    (void)v;
    return WHvMapGpaRange(p, host_pages(1), 0x5000, 4096, WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagTrackDirtyPages |
                                                               WHvMapGpaRangeFlagWrite);
}
static HRESULT map2(P p, UINT32 v)
{
    (void)v;
    return WHvMapGpaRange2(p, (HANDLE)(intptr_t)-1, host_pages(1), 0x6000, 4096, WHvMapGpaRangeFlagRead);
}
static HRESULT unmap(P p, UINT32 v) { (void)v; return WHvUnmapGpaRange(p, 0x6000, 4096); }
static HRESULT query(P p, UINT32 v) { (void)v; return WHvQueryGpaRangeDirtyBitmap(p, 0x5000, 4096, scratch.q, 8); }
static HRESULT advise(P p, UINT32 v)
{
    const WHV_MEMORY_RANGE_ENTRY range = {0x5000, 4096};
    const WHV_ADVISE_GPA_RANGE_POPULATE populate = {.AccessType = WHvMemoryAccessRead};

    (void)v;
    return WHvAdviseGpaRange(p, &range, 1, WHvAdviseGpaRangeCodePopulate, &populate, sizeof(populate));
}
static HRESULT translate(P p, UINT32 v)
{
    WHV_TRANSLATE_GVA_RESULT result;
    return WHvTranslateGva(p, v, 0x5000, WHvTranslateGvaFlagValidateRead, &result, scratch.q);
}
static HRESULT read_gpa(P p, UINT32 v) { return WHvReadGpaRange(p, v, 0x5000, uncached, scratch.q, 8); }
static HRESULT write_gpa(P p, UINT32 v) { return WHvWriteGpaRange(p, v, 0x5000, uncached, scratch.q, 8); }
static HRESULT cancel_and_run(P p, UINT32 v)
{
    HRESULT result = WHvCancelRunVirtualProcessor(p, v, 0); /* or a good run would not end */
    if (SUCCEEDED(result))
        result = WHvRunVirtualProcessor(p, v, &scratch.exit, sizeof(scratch.exit));
    return result;
}
static HRESULT run(P p, UINT32 v)
{
    return WHvRunVirtualProcessor(p, v, &scratch.exit, sizeof(scratch.exit));
}
static HRESULT get_registers(P p, UINT32 v) { return WHvGetVirtualProcessorRegisters(p, v, &rax, 1, scratch.values); }
static HRESULT set_registers(P p, UINT32 v) { return WHvSetVirtualProcessorRegisters(p, v, &rax, 1, scratch.values); }
static HRESULT get_apic(P p, UINT32 v)
{
    return WHvGetVirtualProcessorInterruptControllerState(p, v, scratch.q, sizeof(scratch), &count);
}
static HRESULT set_apic(P p, UINT32 v)
{
    return WHvSetVirtualProcessorInterruptControllerState(p, v, scratch.q, 1024);
}
static HRESULT get_apic2(P p, UINT32 v)
{
    return WHvGetVirtualProcessorInterruptControllerState2(p, v, scratch.q, sizeof(scratch), &count);
}
static HRESULT set_apic2(P p, UINT32 v)
{
    return WHvSetVirtualProcessorInterruptControllerState2(p, v, scratch.q, 4096);
}
static HRESULT get_xsave(P p, UINT32 v)
{
    return WHvGetVirtualProcessorXsaveState(p, v, scratch.q, sizeof(scratch), &count);
}
static HRESULT set_xsave(P p, UINT32 v) { return WHvSetVirtualProcessorXsaveState(p, v, scratch.q, FAKE_XSAVE_SIZE); }
static HRESULT get_state(P p, UINT32 v)
{
    return WHvGetVirtualProcessorState(p, v, WHvVirtualProcessorStateTypeXsaveState, scratch.q, sizeof(scratch), &count);
}
static HRESULT set_state(P p, UINT32 v)
{
    return WHvSetVirtualProcessorState(p, v, WHvVirtualProcessorStateTypeXsaveState, scratch.q, FAKE_XSAVE_SIZE);
}
static HRESULT cpuid(P p, UINT32 v)
{
    WHV_CPUID_OUTPUT output;
    return WHvGetVirtualProcessorCpuidOutput(p, v, 0, 0, &output);
}
static HRESULT partition_counters(P p, UINT32 v)
{
    (void)v;
    return WHvGetPartitionCounters(p, WHvPartitionCounterSetMemory, scratch.q, 24, NULL);
}
static HRESULT vcpu_counters(P p, UINT32 v)
{
    return WHvGetVirtualProcessorCounters(p, v, WHvProcessorCounterSetRuntime, scratch.q, 16, NULL);
}
static HRESULT interrupt(P p, UINT32 v)
{
    const WHV_INTERRUPT_CONTROL control = {.Vector = 32};
    (void)v;
    return WHvRequestInterrupt(p, &control, sizeof(control));
}
static HRESULT target_set(P p, UINT32 v)
{
    (void)v;
    return WHvGetInterruptTargetVpSet(p, 1, WHvX64InterruptDestinationModePhysical, scratch.d, 64, &count);
}
static HRESULT mark_dirty(P p, UINT32 v) { (void)v; return OwhpMarkDirty(p, 0x5000, 1); }
static HRESULT discard(P p, UINT32 v) { (void)v; return OwhpDiscardGpaRange(p, 0x5000, 4096); }
static HRESULT translate_gvas(P p, UINT32 v)
{
    static const UINT64 gvas[2] = {0x5000, 0x6000};
    static WHV_TRANSLATE_GVA_RESULT results[2];
    return OwhpTranslateGvas(p, v, WHvTranslateGvaFlagValidateRead, gvas, 2, results, scratch.q);
}
static HRESULT create_consumer(P p, UINT32 v)
{
    (void)v;
    return OwhpCreateDirtyConsumer(p, 0, 0, OwhpDirtyConsumerFlagNone, scratch.d);
}
static HRESULT delete_consumer(P p, UINT32 v)
{
    HRESULT result = create_consumer(p, v);
    return SUCCEEDED(result) ? OwhpDeleteDirtyConsumer(p, scratch.d[0]) : OwhpDeleteDirtyConsumer(p, 1);
}
static HRESULT dirty_bitmap(P p, UINT32 v)
{
    (void)v;
    return OwhpQueryDirtyBitmap(p, 0, OwhpQueryDirtyFlagNone, 0x5000, 4096, scratch.q, 8, NULL);
}
static HRESULT dirty_ranges(P p, UINT32 v)
{
    (void)v;
    return OwhpQueryDirtyRanges(p, 0, OwhpQueryDirtyFlagPeek, 0x5000, 4096, (WHV_MEMORY_RANGE_ENTRY *)(void *)scratch.q, 4,
                                &count);
}
static HRESULT set_tracking(P p, UINT32 v) { (void)v; return OwhpSetDirtyTracking(p, 0x5000, 4096, TRUE); }
static HRESULT enumerate(P p, UINT32 v)
{
    (void)v;
    return OwhpEnumerateGpaRanges(p, (OWHP_GPA_RANGE *)(void *)scratch.q, 16, &count);
}
static HRESULT create_snapshot(P p, UINT32 v)
{
    OWHP_SNAPSHOT_HANDLE snapshot;
    HRESULT result = OwhpCreateSnapshot(p, 0, &snapshot);

    (void)v;
    return SUCCEEDED(result) ? OwhpDestroySnapshot(snapshot) : result;
}
static HRESULT restore_snapshot(P p, UINT32 v)
{
    OWHP_SNAPSHOT_HANDLE snapshot;

    (void)v;
    if (FAILED(OwhpCreateSnapshot(p, 0, &snapshot)))
        return OwhpRestoreSnapshot(p, NULL, OwhpRestoreFlagNone, NULL);
    HRESULT result = OwhpRestoreSnapshot(p, snapshot, OwhpRestoreFlagNone, NULL);
    assert_ok(OwhpDestroySnapshot(snapshot));
    return result;
}
static HRESULT load_snapshot(P p, UINT32 v)
{
    OWHP_SNAPSHOT_HANDLE snapshot;
    char path[] = "/tmp/every-call-XXXXXX";
    int fd = mkstemp(path);

    (void)v;
    assert_true(fd >= 0);
    close(fd);
    if (SUCCEEDED(OwhpCreateSnapshot(p, 0, &snapshot))) {
        assert_ok(OwhpSaveSnapshot(snapshot, path, 0));
        assert_ok(OwhpDestroySnapshot(snapshot));
    }
    HRESULT result = OwhpLoadSnapshot(p, path, OwhpLoadFlagVerify, &snapshot);
    unlink(path);
    if (SUCCEEDED(result))
        assert_ok(OwhpDestroySnapshot(snapshot));
    return result;
}
static HRESULT create_vcpu(P p, UINT32 v) { return WHvCreateVirtualProcessor(p, v == 1 ? 3 : 2, 0); }
static HRESULT create_vcpu2(P p, UINT32 v) { return WHvCreateVirtualProcessor2(p, v == 1 ? 3 : 2, NULL, 0); }
static HRESULT delete_vcpu(P p, UINT32 v) { return WHvDeleteVirtualProcessor(p, v); }

static HRESULT doorbell(P p, UINT32 v)
{
    const WHV_DOORBELL_MATCH_DATA match = {.GuestAddress = 0x5000};
    const int event = eventfd(0, EFD_CLOEXEC);
    (void)v;
    HRESULT result = WHvRegisterPartitionDoorbellEvent(p, &match, OwhpEventHandle(event));
    if (SUCCEEDED(result))
        assert_ok(WHvUnregisterPartitionDoorbellEvent(p, &match));
    close(event);
    return result;
}
static HRESULT no_doorbell(P p, UINT32 v)
{
    const WHV_DOORBELL_MATCH_DATA match = {.GuestAddress = 0x5000};
    (void)v;
    HRESULT result = WHvUnregisterPartitionDoorbellEvent(p, &match);
    return result == HRESULT_FROM_WIN32(ERROR_NOT_FOUND) ? S_OK : result;
}
static HRESULT synic_event(P p, UINT32 v)
{
    const WHV_SYNIC_EVENT_PARAMETERS event = {.VpIndex = v};
    return WHvSignalVirtualProcessorSynicEvent(p, event, NULL);
}
static HRESULT synic_message(P p, UINT32 v) { return WHvPostVirtualProcessorSynicMessage(p, v, 0, scratch.q, 8); }
static HRESULT vpci_create(P p, UINT32 v) { (void)v; return WHvCreateVpciDevice(p, 0, NULL, 0, NULL); }
static HRESULT vpci_delete(P p, UINT32 v) { (void)v; return WHvDeleteVpciDevice(p, 0); }
static HRESULT vpci_property(P p, UINT32 v) { (void)v; return WHvGetVpciDeviceProperty(p, 0, 0, NULL, 0, NULL); }
static HRESULT vpci_notification(P p, UINT32 v) { (void)v; return WHvGetVpciDeviceNotification(p, 0, NULL, 0); }
static HRESULT vpci_map(P p, UINT32 v) { (void)v; return WHvMapVpciDeviceMmioRanges(p, 0, NULL, NULL); }
static HRESULT vpci_unmap(P p, UINT32 v) { (void)v; return WHvUnmapVpciDeviceMmioRanges(p, 0); }
static HRESULT vpci_power(P p, UINT32 v) { (void)v; return WHvSetVpciDevicePowerState(p, 0, PowerDeviceD0); }
static HRESULT vpci_read(P p, UINT32 v) { (void)v; return WHvReadVpciDeviceRegister(p, 0, NULL, NULL); }
static HRESULT vpci_write(P p, UINT32 v) { (void)v; return WHvWriteVpciDeviceRegister(p, 0, NULL, NULL); }
static HRESULT vpci_irq(P p, UINT32 v) { (void)v; return WHvMapVpciDeviceInterrupt(p, 0, 0, 1, NULL, NULL, NULL); }
static HRESULT vpci_unirq(P p, UINT32 v) { (void)v; return WHvUnmapVpciDeviceInterrupt(p, 0, 0); }
static HRESULT vpci_retarget(P p, UINT32 v) { (void)v; return WHvRetargetVpciDeviceInterrupt(p, 0, 0, 0, NULL); }
static HRESULT vpci_request(P p, UINT32 v) { (void)v; return WHvRequestVpciDeviceInterrupt(p, 0, 0, 0); }
static HRESULT vpci_target(P p, UINT32 v)
{
    (void)v;
    return WHvGetVpciDeviceInterruptTarget(p, 0, 0, 0, NULL, 0, NULL);
}
static HRESULT trigger_create(P p, UINT32 v) { (void)v; return WHvCreateTrigger(p, NULL, NULL, NULL); }
static HRESULT trigger_update(P p, UINT32 v) { (void)v; return WHvUpdateTriggerParameters(p, NULL, NULL); }
static HRESULT trigger_delete(P p, UINT32 v) { (void)v; return WHvDeleteTrigger(p, NULL); }
static HRESULT port_create(P p, UINT32 v)
{
    const WHV_NOTIFICATION_PORT_PARAMETERS port = {.NotificationPortType = WHvNotificationPortTypeDoorbell,
                                                   .Doorbell.GuestAddress = 0x6000};
    const int event = eventfd(0, EFD_CLOEXEC);
    WHV_NOTIFICATION_PORT_HANDLE handle;
    (void)v;
    HRESULT result = WHvCreateNotificationPort(p, &port, OwhpEventHandle(event), &handle);
    if (SUCCEEDED(result))
        assert_ok(WHvDeleteNotificationPort(p, handle));
    close(event);
    return result;
}
static HRESULT port_set(P p, UINT32 v)
{
    (void)v;
    HRESULT result = WHvSetNotificationPortProperty(p, &scratch, WHvNotificationPortPropertyPreferredTargetVp, 0);
    return result == E_HANDLE && OwhpGetLastErrorText()[0] && strstr(OwhpGetLastErrorText(), "PortHandle") ? S_OK : result;
}
static HRESULT port_delete(P p, UINT32 v)
{
    (void)v;
    HRESULT result = WHvDeleteNotificationPort(p, &scratch);
    return result == E_HANDLE && strstr(OwhpGetLastErrorText(), "PortHandle") ? S_OK : result;
}
static HRESULT migration_start(P p, UINT32 v) { (void)v; return WHvStartPartitionMigration(p, NULL); }
static HRESULT migration_cancel(P p, UINT32 v) { (void)v; return WHvCancelPartitionMigration(p); }
static HRESULT migration_complete(P p, UINT32 v) { (void)v; return WHvCompletePartitionMigration(p); }

static const struct call {
    const char *name;
    HRESULT (*call)(P, UINT32);
    int needs;
} calls[] = {
#define ROW(function, needs) {#function, function, needs}
    ROW(setup, ANY_STATE),
    ROW(get_property, ANY_STATE),
    ROW(set_a_property, ANY_STATE),
    ROW(resume, NEEDS_SETUP),
    ROW(reset, NEEDS_SETUP),
    ROW(suspend, NEEDS_SETUP | REFUSES_RUNNING),
    ROW(map, NEEDS_SETUP),
    ROW(map2, NEEDS_SETUP),
    ROW(unmap, NEEDS_SETUP),
    ROW(query, NEEDS_SETUP),
    ROW(advise, NEEDS_SETUP),
    ROW(mark_dirty, NEEDS_SETUP),
    ROW(discard, NEEDS_SETUP),
    ROW(translate_gvas, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(create_consumer, NEEDS_SETUP),
    ROW(delete_consumer, NEEDS_SETUP),
    ROW(dirty_bitmap, NEEDS_SETUP),
    ROW(dirty_ranges, NEEDS_SETUP),
    ROW(set_tracking, NEEDS_SETUP),
    ROW(enumerate, NEEDS_SETUP),
    ROW(create_snapshot, NEEDS_SETUP | REFUSES_RUNNING),
    ROW(restore_snapshot, NEEDS_SETUP | REFUSES_RUNNING),
    ROW(load_snapshot, NEEDS_SETUP | REFUSES_RUNNING),
    ROW(partition_counters, NEEDS_SETUP),
    ROW(interrupt, NEEDS_SETUP),
    ROW(target_set, NEEDS_SETUP),
    ROW(translate, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(read_gpa, NEEDS_SETUP | NEEDS_VP),
    ROW(write_gpa, NEEDS_SETUP | NEEDS_VP),
    ROW(run, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(get_registers, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(set_registers, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(get_apic, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(set_apic, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(get_apic2, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(set_apic2, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(get_xsave, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(set_xsave, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(get_state, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(set_state, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(cpuid, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(vcpu_counters, NEEDS_SETUP | NEEDS_VP),
    ROW(create_vcpu, NEEDS_SETUP),
    ROW(create_vcpu2, NEEDS_SETUP),
    ROW(delete_vcpu, NEEDS_SETUP | NEEDS_VP | REFUSES_RUNNING),
    ROW(synic_event, NEEDS_SETUP | NEEDS_VP | ABSENT),
    ROW(synic_message, NEEDS_SETUP | NEEDS_VP | ABSENT),
    ROW(doorbell, NEEDS_SETUP),
    ROW(no_doorbell, NEEDS_SETUP),
    ROW(vpci_create, ABSENT),
    ROW(vpci_delete, ABSENT),
    ROW(vpci_property, ABSENT),
    ROW(vpci_notification, ABSENT),
    ROW(vpci_map, ABSENT),
    ROW(vpci_unmap, ABSENT),
    ROW(vpci_power, ABSENT),
    ROW(vpci_read, ABSENT),
    ROW(vpci_write, ABSENT),
    ROW(vpci_irq, ABSENT),
    ROW(vpci_unirq, ABSENT),
    ROW(vpci_retarget, ABSENT),
    ROW(vpci_request, ABSENT),
    ROW(vpci_target, ABSENT),
    ROW(trigger_create, ABSENT),
    ROW(trigger_update, ABSENT),
    ROW(trigger_delete, ABSENT),
    ROW(port_create, NEEDS_SETUP),
    ROW(port_set, NEEDS_SETUP),
    ROW(port_delete, NEEDS_SETUP),
    ROW(migration_start, ABSENT),
    ROW(migration_cancel, ABSENT),
    ROW(migration_complete, ABSENT),
#undef ROW
};

#define FOR_EACH_CALL for (const struct call *c = calls; c < calls + sizeof(calls) / sizeof(calls[0]); c++)

static void expect(const struct call *c, P partition, UINT32 vp, HRESULT expected)
{
    check_hr(c->call(partition, vp), expected, c->name, __FILE__, __LINE__);
    if (FAILED(expected) && OwhpGetLastErrorText()[0] == 0)
        fail_msg("%s: no text", c->name);
}

static void bad_handles(void **state)
{
    P good = partition_with_apic(4), stale = partition_with_vcpu();
    int local;

    (void)state;
    assert_ok(WHvDeletePartition(stale));
    const P bad[] = {NULL,
                     (P)(uintptr_t)1,
                     (P)(uintptr_t)-1,
                     &local,
                     stale,
                     (P)((uintptr_t)good + 1),
                     (P)((uintptr_t)good + ((uintptr_t)1 << 32)),    /* another generation */
                     (P)((uintptr_t)good + ((uintptr_t)200 << 8)),   /* a free slot */
                     (P)((uintptr_t)good | (uintptr_t)0xffffff00),   /* a slot that cannot be */
                     WILD};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        FOR_EACH_CALL
            expect(c, bad[i], 0, E_HANDLE);
        assert_refused(WHvDeletePartition(bad[i]), E_HANDLE);
    }
    assert_ok(WHvDeletePartition(good));
}

static void before_setup(void **state)
{
    P partition = partition_created(4);

    (void)state;
    FOR_EACH_CALL
        if (c->needs & NEEDS_SETUP)
            expect(c, partition, 0, E_INVALID_STATE);
        else if (c->needs & ABSENT)
            expect(c, partition, 0, E_NOT_SUPPORTED);
    assert_ok(WHvDeletePartition(partition));
}

static void absent_processors(void **state)
{
    P partition = partition_with_apic(4);

    (void)state;
    assert_ok(WHvDeleteVirtualProcessor(partition, 3));
    const UINT32 absent[] = {3, 4, 63, 64, 65, 0x7fffffff, WHV_ANY_VP};
    for (size_t i = 0; i < sizeof(absent) / sizeof(absent[0]); i++) {
        FOR_EACH_CALL
            if (c->needs & NEEDS_VP)
                expect(c, partition, absent[i], WHV_E_VP_DOES_NOT_EXIST);
        assert_refused(WHvCancelRunVirtualProcessor(partition, absent[i], 0), WHV_E_VP_DOES_NOT_EXIST);
    }
    assert_ok(WHvDeletePartition(partition));
}

static void running_processor(void **state)
{
    P partition = partition_with_apic(4);
    WHV_RUN_VP_EXIT_CONTEXT context;

    (void)state;
    assert_ok(map(partition, 0));
    struct runner *runner = run_begin(partition, 0);
    FOR_EACH_CALL {
        HRESULT expected = c->needs & REFUSES_RUNNING ? WHV_E_INVALID_VP_STATE
                           : c->needs & ABSENT        ? E_NOT_SUPPORTED
                                                      : S_OK;
        if (c->call == setup || c->call == reset)
            expected = E_INVALID_STATE;
        if (c->call == create_vcpu || c->call == create_vcpu2)
            expected = WHV_E_VP_ALREADY_EXISTS;
        expect(c, partition, 0, expected);
    }
    assert_ok(WHvCancelRunVirtualProcessor(partition, 0, 0));
    assert_ok(run_end(runner, &context));
    assert_int_equal(context.ExitReason, WHvRunVpExitReasonCanceled);
    assert_ok(WHvDeletePartition(partition));
}

static void good_calls(void **state)
{
    P partition = partition_with_apic(4);

    (void)state;
    assert_ok(map(partition, 0));
    FOR_EACH_CALL {
        if (c->call == run) {
            check_hr(cancel_and_run(partition, 0), S_OK, "run", __FILE__, __LINE__);
            continue;
        }
        if (c->call == create_vcpu || c->call == create_vcpu2)
            assert_ok(WHvDeleteVirtualProcessor(partition, 2));
        HRESULT expected = c->needs & ABSENT ? E_NOT_SUPPORTED : S_OK;
        expect(c, partition, c->call == delete_vcpu ? 3 : 0, c->call == setup ? E_INVALID_STATE : expected);
    }
    assert_ok(WHvDeletePartition(partition));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("CALL-1", "F 2.2, H Handles", bad_handles),
        CASE("CALL-2", "S Map before Setup, H States", before_setup),
        CASE("CALL-3", "F 9.4, H Processors", absent_processors),
        CASE("CALL-4", "S two threads, H Threads", running_processor),
        CASE("CALL-5", "H", good_calls),
    };
    return cmocka_run_group_tests_name("every call", tests, NULL, NULL);
}
