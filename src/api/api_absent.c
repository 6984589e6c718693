/*
 * What this platform does not have: device assignment, triggers, the synthetic interrupt controller, migration. Bad handles,
 * pointers and fields are told first; the rest is ERROR_NOT_SUPPORTED.
 */
#include "api/api.h"

static enum status absent(const char *what)
{
    return fail(STATUS_NOT_SUPPORTED, "this platform has no %s", what);
}

/* ---- synthetic interrupt controller ---- */

/* All functions look for the processor first. */
static enum status require_existing(struct vcpu *vcpu)
{
    enum status status = vcpu_lock_existing(vcpu);

    if (status == STATUS_OK)
        vcpu_unlock(vcpu);
    return status;
}

enum { SYNIC_SOURCES = 16, SYNIC_FLAGS = 2048 };

static enum status signal_event(struct vcpu *vcpu, WHV_SYNIC_EVENT_PARAMETERS event)
{
    enum status status = require_existing(vcpu);

    if (status != STATUS_OK)
        return status;
    if (event.TargetVtl)
        return fail(STATUS_INVALID_ARGUMENT, "TargetVtl is %u, there is only 0", event.TargetVtl);
    if (event.TargetSint >= SYNIC_SOURCES || event.FlagNumber >= SYNIC_FLAGS)
        return fail(STATUS_INVALID_ARGUMENT, "source %u or flag %u is too large", event.TargetSint, event.FlagNumber);
    return absent("synthetic interrupt controller");
}

HRESULT WINAPI WHvSignalVirtualProcessorSynicEvent(WHV_PARTITION_HANDLE Partition,
                                                   WHV_SYNIC_EVENT_PARAMETERS SynicEvent, BOOL *NewlySignaled)
{
    (void)NewlySignaled;
    RETURN_ON_VCPU(Partition, SynicEvent.VpIndex, signal_event(vcpu, SynicEvent));
}

static enum status post_message(struct vcpu *vcpu, UINT32 source, const VOID *message, UINT32 size)
{
    enum status status = require_existing(vcpu);

    if (status != STATUS_OK)
        return status;
    if (source >= SYNIC_SOURCES)
        return fail(STATUS_INVALID_ARGUMENT, "SintIndex %u is too large", source);
    if (size > WHV_SYNIC_MESSAGE_SIZE)
        return fail(STATUS_INVALID_ARGUMENT, "a message has at most %d bytes, not %u", (int)WHV_SYNIC_MESSAGE_SIZE,
                    size);
    status = size ? require_pointer(message, "Message") : STATUS_OK;
    return status == STATUS_OK ? absent("synthetic interrupt controller") : status;
}

HRESULT WINAPI WHvPostVirtualProcessorSynicMessage(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, UINT32 SintIndex,
                                                   const VOID *Message, UINT32 MessageSizeInBytes)
{
    RETURN_ON_VCPU(Partition, VpIndex, post_message(vcpu, SintIndex, Message, MessageSizeInBytes));
}

/* ---- functions of which only the handle is looked at ---- */

/* clang-format off */
#define ABSENT(what, name, ...) \
    HRESULT WINAPI name(WHV_PARTITION_HANDLE Partition __VA_OPT__(,) __VA_ARGS__) \
    { RETURN_ON_PARTITION(Partition, absent(what)); }

#pragma GCC diagnostic ignored "-Wunused-parameter"

#define DEVICES "device assignment"
#define DEVICE  UINT64 LogicalDeviceId

HRESULT WINAPI WHvAllocateVpciResource(const GUID *ProviderId, WHV_ALLOCATE_VPCI_RESOURCE_FLAGS Flags,
                                       const VOID *ResourceDescriptor, UINT32 ResourceDescriptorSizeInBytes,
                                       HANDLE *VpciResource)
{ return api_result(__func__, absent(DEVICES)); }

ABSENT(DEVICES, WHvCreateVpciDevice, DEVICE, HANDLE VpciResource, WHV_CREATE_VPCI_DEVICE_FLAGS Flags,
       HANDLE NotificationEventHandle)
ABSENT(DEVICES, WHvDeleteVpciDevice, DEVICE)
ABSENT(DEVICES, WHvGetVpciDeviceProperty, DEVICE, WHV_VPCI_DEVICE_PROPERTY_CODE PropertyCode, VOID *PropertyBuffer,
       UINT32 PropertyBufferSizeInBytes, UINT32 *WrittenSizeInBytes)
ABSENT(DEVICES, WHvGetVpciDeviceNotification, DEVICE, WHV_VPCI_DEVICE_NOTIFICATION *Notification,
       UINT32 NotificationSizeInBytes)
ABSENT(DEVICES, WHvMapVpciDeviceMmioRanges, DEVICE, UINT32 *MappingCount, WHV_VPCI_MMIO_MAPPING **Mappings)
ABSENT(DEVICES, WHvUnmapVpciDeviceMmioRanges, DEVICE)
ABSENT(DEVICES, WHvSetVpciDevicePowerState, DEVICE, DEVICE_POWER_STATE PowerState)
ABSENT(DEVICES, WHvReadVpciDeviceRegister, DEVICE, const WHV_VPCI_DEVICE_REGISTER *Register, VOID *Data)
ABSENT(DEVICES, WHvWriteVpciDeviceRegister, DEVICE, const WHV_VPCI_DEVICE_REGISTER *Register, const VOID *Data)
ABSENT(DEVICES, WHvMapVpciDeviceInterrupt, DEVICE, UINT32 Index, UINT32 MessageCount,
       const WHV_VPCI_INTERRUPT_TARGET *Target, UINT64 *MsiAddress, UINT32 *MsiData)
ABSENT(DEVICES, WHvUnmapVpciDeviceInterrupt, DEVICE, UINT32 Index)
ABSENT(DEVICES, WHvRetargetVpciDeviceInterrupt, DEVICE, UINT64 MsiAddress, UINT32 MsiData,
       const WHV_VPCI_INTERRUPT_TARGET *Target)
ABSENT(DEVICES, WHvRequestVpciDeviceInterrupt, DEVICE, UINT64 MsiAddress, UINT32 MsiData)
ABSENT(DEVICES, WHvGetVpciDeviceInterruptTarget, DEVICE, UINT32 Index, UINT32 MultiMessageNumber,
       WHV_VPCI_INTERRUPT_TARGET *Target, UINT32 TargetSizeInBytes, UINT32 *BytesWritten)

ABSENT("triggers", WHvCreateTrigger, const WHV_TRIGGER_PARAMETERS *Parameters, WHV_TRIGGER_HANDLE *TriggerHandle,
       HANDLE *EventHandle)
ABSENT("triggers", WHvUpdateTriggerParameters, const WHV_TRIGGER_PARAMETERS *Parameters,
       WHV_TRIGGER_HANDLE TriggerHandle)
ABSENT("triggers", WHvDeleteTrigger, WHV_TRIGGER_HANDLE TriggerHandle)

ABSENT("migration", WHvStartPartitionMigration, HANDLE *MigrationHandle)
ABSENT("migration", WHvCancelPartitionMigration)
ABSENT("migration", WHvCompletePartitionMigration)

HRESULT WINAPI WHvAcceptPartitionMigration(HANDLE MigrationHandle, WHV_PARTITION_HANDLE *Partition)
{ return api_result(__func__, absent("migration")); }
/* clang-format on */
