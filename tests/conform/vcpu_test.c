/* Processors: create, delete, run, cancel, registers, state in bulk, counters, interrupts, CPUID. */
#include "conform.h"

#include <stdlib.h>
#include <string.h>

#include "fake_engine.h"

typedef WHV_PARTITION_HANDLE P;

/* ---- life ---- */

static void create_rules(void **state)
{
    P partition = partition_set_up(2);
    WHV_VIRTUAL_PROCESSOR_PROPERTY property = {.PropertyCode = WHvVirtualProcessorPropertyCodeNumaNode};

    (void)state;
    assert_refused(WHvCreateVirtualProcessor(partition, 0, 1), E_INVALIDARG);
    assert_refused(WHvCreateVirtualProcessor(partition, 2, 0), E_INVALIDARG);
    assert_refused(WHvCreateVirtualProcessor(partition, WHV_ANY_VP, 0), E_INVALIDARG);
    assert_ok(WHvCreateVirtualProcessor(partition, 0, 0));
    assert_refused(WHvCreateVirtualProcessor(partition, 0, 0), WHV_E_VP_ALREADY_EXISTS);
    assert_refused(WHvCreateVirtualProcessor2(partition, 0, NULL, 0), WHV_E_VP_ALREADY_EXISTS);
    assert_refused(WHvCreateVirtualProcessor2(partition, 1, NULL, 1), E_POINTER);
    assert_refused(WHvCreateVirtualProcessor2(partition, 1, WILD, 1), E_POINTER);
    property.PropertyCode = (WHV_VIRTUAL_PROCESSOR_PROPERTY_CODE)1;
    assert_refused(WHvCreateVirtualProcessor2(partition, 1, &property, 1), E_INVALIDARG);
    property.PropertyCode = WHvVirtualProcessorPropertyCodeNumaNode;
    property.NumaNode = 0xfff0;
    assert_refused(WHvCreateVirtualProcessor2(partition, 1, &property, 1), E_INVALIDARG);
    property.NumaNode = 0;
    property.Reserved = 1;
    assert_refused(WHvCreateVirtualProcessor2(partition, 1, &property, 1), E_INVALIDARG);
    property.Reserved = 0;
    assert_refused(WHvDeleteVirtualProcessor(partition, 1), WHV_E_VP_DOES_NOT_EXIST);
    assert_ok(WHvCreateVirtualProcessor2(partition, 1, &property, 1));
    assert_ok(WHvDeleteVirtualProcessor(partition, 1));
    assert_refused(WHvDeleteVirtualProcessor(partition, 1), WHV_E_VP_DOES_NOT_EXIST);
    assert_ok(WHvDeletePartition(partition));
}

static void create_again_is_fresh(void **state)
{
    P partition = partition_with_vcpu();
    const WHV_REGISTER_NAME name = WHvX64RegisterRbx;
    WHV_REGISTER_VALUE value = {.Reg64 = 5};
    WHV_RUN_VP_EXIT_CONTEXT context;

    (void)state;
    assert_ok(WHvSetVirtualProcessorRegisters(partition, 0, &name, 1, &value));
    assert_ok(WHvCancelRunVirtualProcessor(partition, 0, 0));
    assert_ok(WHvDeleteVirtualProcessor(partition, 0));
    assert_refused(WHvCancelRunVirtualProcessor(partition, 0, 0), WHV_E_VP_DOES_NOT_EXIST);
    assert_ok(WHvCreateVirtualProcessor(partition, 0, 0));
    assert_ok(WHvGetVirtualProcessorRegisters(partition, 0, &name, 1, &value));
    assert_int_equal(value.Reg64, 0);
    fake_vcpu(0)->exit.reason = EXIT_HALT; /* the old one's cancel is gone */
    fake_vcpu(0)->repeat = 1;
    assert_ok(WHvRunVirtualProcessor(partition, 0, &context, sizeof(context)));
    assert_int_equal(context.ExitReason, WHvRunVpExitReasonX64Halt);
    assert_ok(WHvDeletePartition(partition));
}

/* ---- run, cancel ---- */

static void run_arguments(void **state)
{
    P partition = partition_with_vcpu();
    WHV_RUN_VP_EXIT_CONTEXT context;

    (void)state;
    memset(&context, 0xcc, sizeof(context));
    assert_ok(WHvCancelRunVirtualProcessor(partition, 0, 0));
    assert_refused(WHvRunVirtualProcessor(partition, 0, NULL, sizeof(context)), E_POINTER);
    assert_refused(WHvRunVirtualProcessor(partition, 0, WILD, sizeof(context)), E_POINTER);
    assert_refused(WHvRunVirtualProcessor(partition, 0, &context, 0), WHV_E_INSUFFICIENT_BUFFER);
    assert_refused(WHvRunVirtualProcessor(partition, 0, &context, 1), WHV_E_INSUFFICIENT_BUFFER);
    assert_refused(WHvRunVirtualProcessor(partition, 0, &context, 48), WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(context.ExitReason, 0xcccccccc);
    assert_int_equal(fake_vcpu(0)->runs, 0);
    /* None of these took the cancel. */
    assert_ok(WHvRunVirtualProcessor(partition, 0, &context, sizeof(context)));
    assert_int_equal(context.ExitReason, WHvRunVpExitReasonCanceled);
    assert_int_equal(context.CancelReason.CancelReason, WHvRunVpCancelReasonUser);
    assert_refused(WHvCancelRunVirtualProcessor(partition, 0, 1), E_INVALIDARG);
    assert_ok(WHvDeletePartition(partition));
}

/* Not a byte beyond the caller's size; what does not fit is not lost. */
static void run_sizes(void **state)
{
    P partition = partition_with_vcpu();
    union {
        WHV_RUN_VP_EXIT_CONTEXT context;
        UINT8 bytes[512];
    } buffer;

    (void)state;
    fake_vcpu(0)->exit.reason = EXIT_IO_PORT;
    fake_vcpu(0)->exit.io.port = 0x3f8;
    fake_vcpu(0)->repeat = 1000;
    for (UINT32 size = 0; size <= sizeof(WHV_RUN_VP_EXIT_CONTEXT) + 64; size++) {
        memset(&buffer, 0xcc, sizeof(buffer));
        bool fits = size >= offsetof(WHV_RUN_VP_EXIT_CONTEXT, IoPortAccess) + sizeof(buffer.context.IoPortAccess);
        assert_hr(WHvRunVirtualProcessor(partition, 0, &buffer, size), fits ? S_OK : WHV_E_INSUFFICIENT_BUFFER);
        for (size_t i = fits ? size : 0; i < sizeof(buffer); i++)
            assert_true(buffer.bytes[i] == 0xcc || (fits && i < sizeof(WHV_RUN_VP_EXIT_CONTEXT) && i < size));
        if (fits)
            assert_int_equal(buffer.context.IoPortAccess.PortNumber, 0x3f8);
        if (size > sizeof(WHV_RUN_VP_EXIT_CONTEXT))
            assert_int_equal(buffer.bytes[sizeof(WHV_RUN_VP_EXIT_CONTEXT)], 0xcc);
    }
    assert_ok(WHvDeletePartition(partition));
}

static void cancel_is_sticky(void **state)
{
    P partition = partition_with_vcpu();
    WHV_RUN_VP_EXIT_CONTEXT context;

    (void)state;
    for (int i = 0; i < 3; i++)
        assert_ok(WHvCancelRunVirtualProcessor(partition, 0, 0));
    fake_vcpu(0)->exit.reason = EXIT_HALT;
    fake_vcpu(0)->repeat = 1;
    assert_ok(WHvRunVirtualProcessor(partition, 0, &context, sizeof(context)));
    assert_int_equal(context.ExitReason, WHvRunVpExitReasonCanceled);
    assert_ok(WHvRunVirtualProcessor(partition, 0, &context, sizeof(context)));
    assert_int_equal(context.ExitReason, WHvRunVpExitReasonX64Halt);
    struct runner *runner = run_begin(partition, 0);
    assert_ok(WHvCancelRunVirtualProcessor(partition, 0, 0));
    assert_ok(run_end(runner, &context));
    assert_int_equal(context.ExitReason, WHvRunVpExitReasonCanceled);
    assert_ok(WHvDeletePartition(partition));
}

/* ---- registers ---- */

static void register_arguments(void **state)
{
    P partition = partition_with_vcpu();
    WHV_REGISTER_NAME names[3] = {WHvX64RegisterRax, WHvX64RegisterRcx, (WHV_REGISTER_NAME)0x12345};
    WHV_REGISTER_VALUE values[3];

    (void)state;
    memset(values, 0xcc, sizeof(values));
    assert_refused(WHvGetVirtualProcessorRegisters(partition, 0, NULL, 1, values), E_POINTER);
    assert_refused(WHvGetVirtualProcessorRegisters(partition, 0, names, 1, NULL), E_POINTER);
    assert_refused(WHvGetVirtualProcessorRegisters(partition, 0, WILD, 1, values), E_POINTER);
    assert_refused(WHvGetVirtualProcessorRegisters(partition, 0, names, 1, WILD), E_POINTER);
    assert_refused(WHvSetVirtualProcessorRegisters(partition, 0, NULL, 1, values), E_POINTER);
    assert_refused(WHvSetVirtualProcessorRegisters(partition, 0, names, 1, NULL), E_POINTER);
    assert_refused(WHvSetVirtualProcessorRegisters(partition, 0, WILD, 1, values), E_POINTER);
    assert_refused(WHvSetVirtualProcessorRegisters(partition, 0, names, 1, WILD), E_POINTER);
    assert_refused(WHvGetVirtualProcessorRegisters(partition, 0, names, 0x80000000, values), E_INVALIDARG);
    assert_ok(WHvGetVirtualProcessorRegisters(partition, 0, NULL, 0, NULL));
    assert_ok(WHvSetVirtualProcessorRegisters(partition, 0, NULL, 0, NULL));
    /* One bad name: nothing is read, nothing is written. */
    assert_refused(WHvGetVirtualProcessorRegisters(partition, 0, names, 3, values), WHV_E_INVALID_VP_REGISTER_NAME);
    assert_int_equal(values[0].Reg64, 0xcccccccccccccccc);
    assert_refused(WHvSetVirtualProcessorRegisters(partition, 0, names, 3, values), WHV_E_INVALID_VP_REGISTER_NAME);
    assert_ok(WHvGetVirtualProcessorRegisters(partition, 0, names, 2, values));
    assert_int_equal(values[0].Reg64, 0);
    assert_ok(WHvDeletePartition(partition));
}

static void register_alignment(void **state)
{
    P partition = partition_with_vcpu();
    WHV_REGISTER_NAME names[2] = {WHvX64RegisterRax, WHvX64RegisterCs};
    _Alignas(16) UINT8 in[64], out[64];

    (void)state;
    for (size_t shift = 0; shift < 16; shift++) {
        for (size_t i = 0; i < sizeof(in); i++)
            in[i] = (UINT8)(i + shift);
        assert_ok(WHvSetVirtualProcessorRegisters(partition, 0, names, 2, (void *)(in + shift)));
        memset(out, 0, sizeof(out));
        assert_ok(WHvGetVirtualProcessorRegisters(partition, 0, names, 2, (void *)(out + 15 - shift)));
        assert_memory_equal(out + 15 - shift, in + shift, 32);
    }
    assert_ok(WHvDeletePartition(partition));
}

static void register_many(void **state)
{
    enum { MANY = 5000 };
    P partition = partition_with_vcpu();
    WHV_REGISTER_NAME *names = malloc(MANY * sizeof(*names));
    WHV_REGISTER_VALUE *values = aligned_alloc(16, MANY * sizeof(*values));

    (void)state;
    for (UINT32 i = 0; i < MANY; i++) {
        names[i] = (WHV_REGISTER_NAME)(i % 16);
        values[i].Reg64 = i;
    }
    assert_ok(WHvSetVirtualProcessorRegisters(partition, 0, names, MANY, values)); /* in order: the last counts */
    memset(values, 0, MANY * sizeof(*values));
    assert_ok(WHvGetVirtualProcessorRegisters(partition, 0, names, MANY, values));
    for (UINT32 i = 0; i < MANY; i++) {
        UINT32 last = (MANY - 1) / 16 * 16 + i % 16;
        assert_int_equal(values[i].Reg64, last < MANY ? last : last - 16);
    }
    free(names);
    free(values);
    assert_ok(WHvDeletePartition(partition));
}

/* ---- state in bulk ---- */

static UINT8 page[8192], other[8192];

static void apic_state(void **state)
{
    P partition = partition_with_apic(1);
    UINT32 written = 0;

    (void)state;
    for (size_t i = 0; i < 4096; i++)
        page[i] = (UINT8)(i * 7);
    memcpy(fake_vcpu(0)->apic, page, 4096);
    assert_ok(WHvGetVirtualProcessorInterruptControllerState2(partition, 0, other, sizeof(other), &written));
    assert_int_equal(written, 4096);
    assert_memory_equal(other, page, 4096);
    assert_ok(WHvGetVirtualProcessorInterruptControllerState(partition, 0, other, 1024, &written));
    assert_int_equal(written, 1024);
    assert_memory_equal(other, page, 1024);
    assert_ok(WHvGetVirtualProcessorState(partition, 0, WHvVirtualProcessorStateTypeInterruptControllerState2, other,
                                          4096, &written));
    assert_int_equal(written, 4096);
    assert_refused(WHvGetVirtualProcessorInterruptControllerState2(partition, 0, other, 4095, &written),
                   WHV_E_INSUFFICIENT_BUFFER);
    assert_refused(WHvGetVirtualProcessorInterruptControllerState(partition, 0, other, 1023, NULL),
                   WHV_E_INSUFFICIENT_BUFFER);
    assert_refused(WHvGetVirtualProcessorInterruptControllerState2(partition, 0, NULL, 4096, NULL), E_POINTER);
    assert_refused(WHvGetVirtualProcessorInterruptControllerState(partition, 0, NULL, 4096, NULL), E_POINTER);
    assert_refused(WHvGetVirtualProcessorInterruptControllerState2(partition, 0, WILD, 4096, NULL), E_POINTER);

    assert_refused(WHvSetVirtualProcessorInterruptControllerState2(partition, 0, NULL, 4096), E_POINTER);
    assert_refused(WHvSetVirtualProcessorInterruptControllerState2(partition, 0, page, 4095), E_POINTER);
    assert_refused(WHvSetVirtualProcessorInterruptControllerState2(partition, 0, WILD, 4096), E_POINTER);
    assert_refused(WHvSetVirtualProcessorInterruptControllerState(partition, 0, NULL, 1024), E_POINTER);
    assert_refused(WHvSetVirtualProcessorInterruptControllerState(partition, 0, page, 1023),
                   WHV_E_INSUFFICIENT_BUFFER);
    assert_memory_equal(fake_vcpu(0)->apic, page, 4096);
    memset(other, 1, 4096);
    assert_ok(WHvSetVirtualProcessorInterruptControllerState(partition, 0, other, 1024));
    assert_memory_equal(fake_vcpu(0)->apic, other, 1024);
    assert_memory_equal(fake_vcpu(0)->apic + 1024, page + 1024, 3072);
    assert_ok(WHvSetVirtualProcessorInterruptControllerState2(partition, 0, other, 4096));
    assert_memory_equal(fake_vcpu(0)->apic, other, 4096);
    assert_ok(WHvDeletePartition(partition));
}

static void apic_state_without_apic(void **state)
{
    P partition = partition_with_vcpu();

    (void)state;
    assert_refused(WHvGetVirtualProcessorInterruptControllerState2(partition, 0, page, 4096, NULL),
                   WHV_E_INVALID_VP_STATE);
    assert_refused(WHvSetVirtualProcessorInterruptControllerState2(partition, 0, page, 4096), WHV_E_INVALID_VP_STATE);
    assert_refused(WHvGetVirtualProcessorInterruptControllerState(partition, 0, page, 4096, NULL),
                   WHV_E_INVALID_VP_STATE);
    assert_refused(WHvSetVirtualProcessorInterruptControllerState(partition, 0, page, 1024), WHV_E_INVALID_VP_STATE);
    assert_ok(WHvDeletePartition(partition));
}

static void xsave_state(void **state)
{
    P partition = partition_with_vcpu();
    UINT32 written = 0;

    (void)state;
    memset(fake_vcpu(0)->xsave, 0x5a, FAKE_XSAVE_SIZE);
    memset(other, 0xcc, sizeof(other));
    assert_refused(WHvGetVirtualProcessorXsaveState(partition, 0, NULL, 0, &written), WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(written, FAKE_XSAVE_SIZE);
    assert_refused(WHvGetVirtualProcessorXsaveState(partition, 0, other, FAKE_XSAVE_SIZE - 1, &written),
                   WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(other[0], 0xcc);
    assert_refused(WHvGetVirtualProcessorXsaveState(partition, 0, NULL, 100, &written), E_POINTER);
    assert_ok(WHvGetVirtualProcessorXsaveState(partition, 0, other, sizeof(other), &written));
    assert_int_equal(written, FAKE_XSAVE_SIZE);
    assert_memory_equal(other, fake_vcpu(0)->xsave, FAKE_XSAVE_SIZE);
    assert_int_equal(other[FAKE_XSAVE_SIZE], 0xcc);
    assert_refused(WHvSetVirtualProcessorXsaveState(partition, 0, NULL, FAKE_XSAVE_SIZE), E_POINTER);
    assert_refused(WHvSetVirtualProcessorXsaveState(partition, 0, other, 0xffffffff), E_INVALIDARG);
    assert_refused(WHvSetVirtualProcessorXsaveState(partition, 0, other, 10), E_INVALIDARG);
    memset(other, 3, sizeof(other));
    assert_ok(WHvSetVirtualProcessorXsaveState(partition, 0, other, FAKE_XSAVE_SIZE));
    assert_memory_equal(other, fake_vcpu(0)->xsave, FAKE_XSAVE_SIZE);
    assert_ok(WHvDeletePartition(partition));
}

static void state_types(void **state)
{
    P partition = partition_with_apic(1);
    const UINT32 absent[] = {WHvVirtualProcessorStateTypeSynicMessagePage,
                             WHvVirtualProcessorStateTypeSynicEventFlagPage,
                             WHvVirtualProcessorStateTypeSynicTimerState, WHvVirtualProcessorStateTypeNestedState};
    const UINT32 unknown[] = {3, 0xfff, 0x1003, 0x80001000, 0x40001000, 0xffffffff};
    UINT32 written;

    (void)state;
#define TYPE(value) ((WHV_VIRTUAL_PROCESSOR_STATE_TYPE)(value))
    for (int i = 0; i < 4; i++) {
        assert_refused(WHvGetVirtualProcessorState(partition, 0, TYPE(absent[i]), page, 8192, &written),
                       WHV_E_INVALID_VP_STATE);
        assert_refused(WHvSetVirtualProcessorState(partition, 0, TYPE(absent[i]), page, 4096),
                       WHV_E_INVALID_VP_STATE);
    }
    for (int i = 0; i < 6; i++) {
        assert_refused(WHvGetVirtualProcessorState(partition, 0, TYPE(unknown[i]), page, 8192, &written),
                       E_INVALIDARG);
        assert_refused(WHvSetVirtualProcessorState(partition, 0, TYPE(unknown[i]), page, 4096), E_INVALIDARG);
    }
    const struct {
        UINT32 type, size;
    } kinds[] = {{WHvVirtualProcessorStateTypeInterruptControllerState2, 4096},
                 {WHvVirtualProcessorStateTypeXsaveState, FAKE_XSAVE_SIZE}};
    for (int i = 0; i < 2; i++) {
        assert_refused(WHvGetVirtualProcessorState(partition, 0, TYPE(kinds[i].type), NULL, 0, &written),
                       WHV_E_INSUFFICIENT_BUFFER);
        assert_int_equal(written, kinds[i].size);
        assert_refused(WHvGetVirtualProcessorState(partition, 0, TYPE(kinds[i].type), NULL, 1, &written), E_POINTER);
        assert_ok(WHvGetVirtualProcessorState(partition, 0, TYPE(kinds[i].type), page, kinds[i].size, NULL));
        assert_refused(WHvSetVirtualProcessorState(partition, 0, TYPE(kinds[i].type), NULL, kinds[i].size), E_POINTER);
        assert_refused(WHvSetVirtualProcessorState(partition, 0, TYPE(kinds[i].type), page, kinds[i].size - 1),
                       E_INVALIDARG);
        assert_refused(WHvSetVirtualProcessorState(partition, 0, TYPE(kinds[i].type), page, kinds[i].size + 1),
                       E_INVALIDARG);
        assert_ok(WHvSetVirtualProcessorState(partition, 0, TYPE(kinds[i].type), page, kinds[i].size));
    }
#undef TYPE
    assert_ok(WHvDeletePartition(partition));
}

/* ---- counters, CPUID ---- */

static void counters(void **state)
{
    P partition = partition_with_vcpu();
    static const UINT32 sizes[] = {16, 224, 24, 40, 48};
    UINT64 buffer[64];
    UINT32 written;

    (void)state;
    struct vcpu_counters *in = &fake_vcpu(0)->counters;
    in->runtime_100ns = 1;
    in->hypervisor_100ns = 2;
    in->intercept[INTERCEPT_IO].count = 3;
    in->intercept[INTERCEPT_RDPMC].time_100ns = 4;
    in->interrupts = 5;
    in->apic_self_ipi = 6;
    for (UINT32 set = 0; set < 5; set++) {
        WHV_PROCESSOR_COUNTER_SET code = (WHV_PROCESSOR_COUNTER_SET)set;
        assert_ok(WHvGetVirtualProcessorCounters(partition, 0, code, buffer, sizeof(buffer), &written));
        assert_int_equal(written, sizes[set]);
        if (set == WHvProcessorCounterSetRuntime)
            assert_true(buffer[0] == 1 && buffer[1] == 2);
        if (set == WHvProcessorCounterSetIntercepts)
            assert_true(buffer[4] == 3 && buffer[27] == 4);
        if (set == WHvProcessorCounterSetEvents)
            assert_true(buffer[2] == 5);
        if (set == WHvProcessorCounterSetApic)
            assert_true(buffer[4] == 6);
        assert_ok(WHvGetVirtualProcessorCounters(partition, 0, code, buffer, sizes[set], NULL));
        assert_refused(WHvGetVirtualProcessorCounters(partition, 0, code, buffer, sizes[set] - 1, &written),
                       WHV_E_INSUFFICIENT_BUFFER);
        assert_refused(WHvGetVirtualProcessorCounters(partition, 0, code, NULL, 64, NULL), E_POINTER);
        assert_refused(WHvGetVirtualProcessorCounters(partition, 0, code, WILD, 512, NULL), E_POINTER);
    }
    assert_refused(WHvGetVirtualProcessorCounters(partition, 0, (WHV_PROCESSOR_COUNTER_SET)5, buffer, 512, NULL),
                   WHV_E_UNKNOWN_PROPERTY);
    assert_ok(WHvMapGpaRange(partition, host_pages(3), 0, 3 * 4096, WHvMapGpaRangeFlagRead));
    assert_ok(WHvGetPartitionCounters(partition, WHvPartitionCounterSetMemory, buffer, sizeof(buffer), &written));
    assert_int_equal(written, 24);
    assert_true(buffer[0] == 3 && buffer[1] == 0 && buffer[2] == 0);
    assert_refused(WHvGetPartitionCounters(partition, (WHV_PARTITION_COUNTER_SET)1, buffer, 512, NULL),
                   WHV_E_UNKNOWN_PROPERTY);
    assert_refused(WHvGetPartitionCounters(partition, WHvPartitionCounterSetMemory, buffer, 23, &written),
                   WHV_E_INSUFFICIENT_BUFFER);
    assert_refused(WHvGetPartitionCounters(partition, WHvPartitionCounterSetMemory, NULL, 24, &written), E_POINTER);
    assert_ok(WHvDeletePartition(partition));
}

static void cpuid(void **state)
{
    P partition = partition_with_vcpu();
    WHV_CPUID_OUTPUT output;

    (void)state;
    assert_ok(WHvGetVirtualProcessorCpuidOutput(partition, 0, 4, 2, &output));
    assert_true(output.Eax == 420 && output.Ebx == 421 && output.Ecx == 422 && output.Edx == 423);
    assert_refused(WHvGetVirtualProcessorCpuidOutput(partition, 0, 4, 2, NULL), E_POINTER);
    assert_refused(WHvGetVirtualProcessorCpuidOutput(partition, 0, 4, 2, WILD), E_POINTER);
    assert_ok(WHvDeletePartition(partition));
}

/* ---- interrupts ---- */

static void interrupt_arguments(void **state)
{
    P partition = partition_with_apic(1);
    WHV_INTERRUPT_CONTROL control = {.Vector = 0x40, .Destination = 7};

    (void)state;
    assert_refused(WHvRequestInterrupt(partition, NULL, sizeof(control)), E_POINTER);
    assert_refused(WHvRequestInterrupt(partition, WILD, sizeof(control)), E_POINTER);
    assert_refused(WHvRequestInterrupt(partition, &control, sizeof(control) - 1), E_INVALIDARG);
    assert_refused(WHvRequestInterrupt(partition, &control, sizeof(control) + 1), E_INVALIDARG);
#define BAD(member, value, expected)                                                               \
    do {                                                                                           \
        WHV_INTERRUPT_CONTROL bad = control;                                                       \
        bad.member = value;                                                                        \
        assert_refused(WHvRequestInterrupt(partition, &bad, sizeof(bad)), expected);               \
    } while (0)
    BAD(Reserved, 1, E_INVALIDARG);
    BAD(TargetVtl, 1, E_INVALIDARG);
    BAD(Type, 2, ERROR_HV_INVALID_PARAMETER);
    BAD(Type, 255, ERROR_HV_INVALID_PARAMETER);
    BAD(DestinationMode, 2, ERROR_HV_INVALID_PARAMETER);
    BAD(TriggerMode, 2, ERROR_HV_INVALID_PARAMETER);
    BAD(Vector, 0, ERROR_HV_INVALID_PARAMETER);
    BAD(Vector, 15, ERROR_HV_INVALID_PARAMETER);
    BAD(Vector, 256, ERROR_HV_INVALID_PARAMETER);
#undef BAD
    assert_int_equal(fake_partition()->interrupts, 0);
    control.TriggerMode = WHvX64InterruptTriggerModeLevel;
    control.DestinationMode = WHvX64InterruptDestinationModeLogical;
    assert_ok(WHvRequestInterrupt(partition, &control, sizeof(control)));
    const struct interrupt_request *got = &fake_partition()->last_interrupt;
    assert_true(got->type == 0 && got->is_level && got->is_logical && got->vector == 0x40 && got->destination == 7);
    const UINT8 types[] = {WHvX64InterruptTypeLowestPriority, WHvX64InterruptTypeNmi, WHvX64InterruptTypeInit,
                            WHvX64InterruptTypeSipi, WHvX64InterruptTypeLocalInt1};
    for (int i = 0; i < 5; i++) {
        control.Type = types[i];
        assert_ok(WHvRequestInterrupt(partition, &control, sizeof(control)));
        assert_int_equal(got->type, types[i]);
    }
    control.Type = WHvX64InterruptTypeNmi;
    control.Vector = 0; /* has no vector of its own */
    assert_ok(WHvRequestInterrupt(partition, &control, sizeof(control)));
    assert_ok(WHvDeletePartition(partition));
}

static void interrupt_without_apic(void **state)
{
    P partition = partition_with_vcpu();
    const WHV_INTERRUPT_CONTROL control = {.Vector = 0x40};
    UINT32 vps[64], count;

    (void)state;
    assert_refused(WHvRequestInterrupt(partition, &control, sizeof(control)), ERROR_HV_OPERATION_DENIED);
    assert_refused(WHvGetInterruptTargetVpSet(partition, 0, WHvX64InterruptDestinationModePhysical, vps, 64, &count),
                   ERROR_HV_OPERATION_DENIED);
    assert_ok(WHvDeletePartition(partition));
}

static void target_sets(void **state)
{
    P partition = partition_with_apic(4);
    const WHV_INTERRUPT_DESTINATION_MODE mode = WHvX64InterruptDestinationModePhysical;
    UINT32 vps[64], count = 99;

    (void)state;
    memset(vps, 0xcc, sizeof(vps));
    assert_refused(WHvGetInterruptTargetVpSet(partition, 1, mode, NULL, 4, &count), E_POINTER);
    assert_refused(WHvGetInterruptTargetVpSet(partition, 1, mode, vps, 4, NULL), E_POINTER);
    assert_refused(WHvGetInterruptTargetVpSet(partition, 1, mode, WILD, 4, &count), E_POINTER);
    assert_refused(WHvGetInterruptTargetVpSet(partition, 1, mode, vps, 4, WILD), E_POINTER);
    assert_refused(WHvGetInterruptTargetVpSet(partition, 1, mode, vps, 3, &count), E_INVALIDARG);
    assert_refused(WHvGetInterruptTargetVpSet(partition, 1, (WHV_INTERRUPT_DESTINATION_MODE)2, vps, 4, &count),
                   E_INVALIDARG);
    assert_int_equal(count, 99);
    assert_int_equal(vps[0], 0xcccccccc);
    fake_partition()->targets = 0xa;
    assert_ok(WHvGetInterruptTargetVpSet(partition, 1, mode, vps, 4, &count));
    assert_true(count == 2 && vps[0] == 1 && vps[1] == 3 && vps[2] == 0xcccccccc);
    assert_ok(WHvGetInterruptTargetVpSet(partition, 0, mode, vps, 64, &count));
    assert_int_equal(count, 0);
    assert_ok(WHvDeletePartition(partition));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("VCPU-1", "F 1.1 WHvCreateVirtualProcessor", create_rules),
        CASE("VCPU-2", "F 2.8: delete and create is a full reset", create_again_is_fresh),
        CASE("VCPU-3", "F 9.2: size", run_arguments),
        CASE("VCPU-4", "F 9.2: never past the given size", run_sizes),
        CASE("VCPU-5", "F 9.4: sticky", cancel_is_sticky),
        CASE("VCPU-6", "F 9.3: one bad name fails the batch", register_arguments),
        CASE("VCPU-7", "F 8.5, H: any alignment", register_alignment),
        CASE("VCPU-8", "H", register_many),
        CASE("VCPU-9", "F 1.1 InterruptControllerState", apic_state),
        CASE("VCPU-10", "H", apic_state_without_apic),
        CASE("VCPU-11", "F 1.1 Xsave", xsave_state),
        CASE("VCPU-12", "F 1.1 VirtualProcessorState", state_types),
        CASE("VCPU-13", "F 1.1 counters, F 2.7", counters),
        CASE("VCPU-14", "F 1.1 CpuidOutput", cpuid),
        CASE("VCPU-15", "F 9.5", interrupt_arguments),
        CASE("VCPU-16", "F 9.5: 0xC0350008 without APIC", interrupt_without_apic),
        CASE("VCPU-17", "F 1.1 GetInterruptTargetVpSet", target_sets),
    };
    return cmocka_run_group_tests_name("processors", tests, NULL, NULL);
}
