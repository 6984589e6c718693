/* Interrupt messages to the emulated local APICs. */
#include "api/api.h"

#include <string.h>

static bool type_known(UINT64 type)
{
    switch (type) {
    case WHvX64InterruptTypeFixed:
    case WHvX64InterruptTypeLowestPriority:
    case WHvX64InterruptTypeNmi:
    case WHvX64InterruptTypeInit:
    case WHvX64InterruptTypeSipi:
    case WHvX64InterruptTypeLocalInt1:
        return true;
    default:
        return false;
    }
}

/* Vectors 0 to 15 are reserved (SDM 3A 10.5.2). */
static bool vector_fits(const WHV_INTERRUPT_CONTROL *control)
{
    bool delivers_vector =
        control->Type == WHvX64InterruptTypeFixed || control->Type == WHvX64InterruptTypeLowestPriority;

    return control->Vector <= 255 && (!delivers_vector || control->Vector >= 16);
}

static enum status check_control(const WHV_INTERRUPT_CONTROL *control)
{
    if (control->TargetVtl || control->Reserved)
        return fail(STATUS_INVALID_ARGUMENT, "Interrupt: a trust level other than 0, or reserved bits");
    if (!type_known(control->Type))
        return fail(STATUS_HV_INVALID_PARAMETER, "interrupt type %u is not known", (unsigned)control->Type);
    if (control->DestinationMode > WHvX64InterruptDestinationModeLogical)
        return fail(STATUS_HV_INVALID_PARAMETER, "destination mode %u is not known",
                    (unsigned)control->DestinationMode);
    if (control->TriggerMode > WHvX64InterruptTriggerModeLevel)
        return fail(STATUS_HV_INVALID_PARAMETER, "trigger mode %u is not known", (unsigned)control->TriggerMode);
    if (!vector_fits(control))
        return fail(STATUS_HV_INVALID_PARAMETER, "vector %u does not go with interrupt type %u", control->Vector,
                    (unsigned)control->Type);
    return STATUS_OK;
}

static enum status request(struct partition *partition, const WHV_INTERRUPT_CONTROL *interrupt, UINT32 size)
{
    WHV_INTERRUPT_CONTROL control;

    enum status status = require_pointer(interrupt, "Interrupt");
    if (status != STATUS_OK)
        return status;
    if (size != sizeof(control))
        return fail(STATUS_INVALID_ARGUMENT, "InterruptControlSize is %u, not %zu", size, sizeof(control));
    status = caller_read(&control, interrupt, sizeof(control), "Interrupt");
    if (status == STATUS_OK)
        status = partition_require_apic(partition);
    if (status == STATUS_OK)
        status = check_control(&control);
    if (status != STATUS_OK)
        return status;
    const struct interrupt_request message = {
        .type = (uint8_t)control.Type,
        .is_logical = control.DestinationMode == WHvX64InterruptDestinationModeLogical,
        .is_level = control.TriggerMode == WHvX64InterruptTriggerModeLevel,
        .destination = control.Destination,
        .vector = control.Vector,
    };
    return partition_request_interrupt(partition, &message);
}

HRESULT WINAPI WHvRequestInterrupt(WHV_PARTITION_HANDLE Partition, const WHV_INTERRUPT_CONTROL *Interrupt,
                                   UINT32 InterruptControlSize)
{
    RETURN_ON_PARTITION(Partition, request(partition, Interrupt, InterruptControlSize));
}

static enum status targets(struct partition *partition, UINT64 destination, UINT32 mode, UINT32 *vps, UINT32 room,
                           UINT32 *count_out)
{
    uint64_t set[PARTITION_VCPUS / 64] = {0};
    UINT32 found[PARTITION_VCPUS];
    UINT32 count = 0;

    enum status status = require_pointer(vps, "TargetVps");
    if (status == STATUS_OK)
        status = require_pointer(count_out, "TargetVpCount");
    if (status == STATUS_OK)
        status = partition_require_apic(partition);
    if (status != STATUS_OK)
        return status;
    if (mode > WHvX64InterruptDestinationModeLogical)
        return fail(STATUS_INVALID_ARGUMENT, "destination mode %u is not known", mode);
    if (room < partition->config.processor_count)
        return fail(STATUS_INVALID_ARGUMENT, "VpCount %u is less than the number of processors, %u", room,
                    partition->config.processor_count);
    status = partition_interrupt_targets(partition, destination, mode == WHvX64InterruptDestinationModeLogical, set,
                                         array_size(set));
    if (status != STATUS_OK)
        return status;
    for (UINT32 i = 0; i < partition->config.processor_count; i++)
        if (set[i / 64] >> (i % 64) & 1)
            found[count++] = i;
    status = caller_writable(count_out, sizeof(count), "TargetVpCount");
    if (status == STATUS_OK)
        status = caller_write(vps, found, count * sizeof(found[0]), "TargetVps");
    return status == STATUS_OK ? caller_write(count_out, &count, sizeof(count), "TargetVpCount") : status;
}

HRESULT WINAPI WHvGetInterruptTargetVpSet(WHV_PARTITION_HANDLE Partition, UINT64 Destination,
                                          WHV_INTERRUPT_DESTINATION_MODE DestinationMode, UINT32 *TargetVps,
                                          UINT32 VpCount, UINT32 *TargetVpCount)
{
    RETURN_ON_PARTITION(Partition,
                        targets(partition, Destination, (UINT32)DestinationMode, TargetVps, VpCount, TargetVpCount));
}
