/* Counters of partitions and processors. */
#include "api/api.h"

#include <string.h>

_Static_assert(sizeof(((struct vcpu_counters *)0)->intercept) == sizeof(WHV_PROCESSOR_ACTIVITY_COUNTERS),
               "one counter per kind of intercept");

/* ---- partition ---- */

static enum status partition_counters(struct partition *partition, UINT32 set, const struct output *output)
{
    enum status status = partition_require_set_up(partition);

    if (status != STATUS_OK)
        return status;
    if (set != WHvPartitionCounterSetMemory)
        return fail(STATUS_UNKNOWN_PROPERTY, "counter set %u is not known", set);
    status = require_pointer(output->buffer, "Buffer");
    if (status != STATUS_OK)
        return status;
    /* Windows too counts large mappings in pages of 4 KiB. */
    const WHV_PARTITION_MEMORY_COUNTERS counters = {.Mapped4KPageCount = gpa_space_mapped_pages(partition->space)};
    return output_put(output, &counters, sizeof(counters));
}

HRESULT WINAPI WHvGetPartitionCounters(WHV_PARTITION_HANDLE Partition, WHV_PARTITION_COUNTER_SET CounterSet,
                                       VOID *Buffer, UINT32 BufferSizeInBytes, UINT32 *BytesWritten)
{
    const struct output output = {Buffer, BufferSizeInBytes, BytesWritten};

    RETURN_ON_PARTITION(Partition, partition_counters(partition, (UINT32)CounterSet, &output));
}

/* ---- processor ---- */

static enum status put_runtime(const struct vcpu_counters *in, const struct output *output)
{
    const WHV_PROCESSOR_RUNTIME_COUNTERS out = {in->runtime_100ns, in->hypervisor_100ns};

    return output_put(output, &out, sizeof(out));
}

static enum status put_intercepts(const struct vcpu_counters *in, const struct output *output)
{
    return output_put(output, in->intercept, sizeof(in->intercept));
}

static enum status put_events(const struct vcpu_counters *in, const struct output *output)
{
    const WHV_PROCESSOR_GUEST_EVENT_COUNTERS out = {in->page_faults, in->exceptions, in->interrupts};

    return output_put(output, &out, sizeof(out));
}

static enum status put_apic(const struct vcpu_counters *in, const struct output *output)
{
    const WHV_PROCESSOR_APIC_COUNTERS out = {in->apic_mmio, in->apic_eoi, in->apic_tpr, in->apic_sent_ipi,
                                             in->apic_self_ipi};

    return output_put(output, &out, sizeof(out));
}

static enum status put_synthetic(const struct vcpu_counters *in, const struct output *output)
{
    const WHV_PROCESSOR_SYNTHETIC_FEATURES_COUNTERS out = {0};

    (void)in;
    return output_put(output, &out, sizeof(out));
}

/* By WHV_PROCESSOR_COUNTER_SET. */
static enum status (*const putters[])(const struct vcpu_counters *, const struct output *) = {
    [WHvProcessorCounterSetRuntime] = put_runtime,
    [WHvProcessorCounterSetIntercepts] = put_intercepts,
    [WHvProcessorCounterSetEvents] = put_events,
    [WHvProcessorCounterSetApic] = put_apic,
    [WHvProcessorCounterSetSyntheticFeatures] = put_synthetic,
};

static enum status vcpu_counters(struct vcpu *vcpu, UINT32 set, const struct output *output)
{
    struct vcpu_counters counters;

    enum status status = vcpu_lock_existing(vcpu);
    if (status != STATUS_OK)
        return status;
    memset(&counters, 0, sizeof(counters));
    vcpu->partition->engine->counters(vcpu->engine, &counters);
    vcpu_unlock(vcpu);
    if (set >= array_size(putters))
        return fail(STATUS_UNKNOWN_PROPERTY, "counter set %u is not known", set);
    status = require_pointer(output->buffer, "Buffer");
    return status == STATUS_OK ? putters[set](&counters, output) : status;
}

HRESULT WINAPI WHvGetVirtualProcessorCounters(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                              WHV_PROCESSOR_COUNTER_SET CounterSet, VOID *Buffer,
                                              UINT32 BufferSizeInBytes, UINT32 *BytesWritten)
{
    const struct output output = {Buffer, BufferSizeInBytes, BytesWritten};

    RETURN_ON_VCPU(Partition, VpIndex, vcpu_counters(vcpu, (UINT32)CounterSet, &output));
}
