/* Processors: create, delete, run, cancel. */
#include "api/api.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "api/api_exit.h"

/* ---- create, delete ---- */

static enum status create_plain(struct partition *partition, UINT32 index, UINT32 flags)
{
    if (flags)
        return fail(STATUS_INVALID_ARGUMENT, "Flags is %#x, it must be 0", flags);
    return partition_create_vcpu(partition, index);
}

HRESULT WINAPI WHvCreateVirtualProcessor(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, UINT32 Flags)
{
    RETURN_ON_PARTITION(Partition, create_plain(partition, VpIndex, Flags));
}

/* Node 0 exists on every host, with or without NUMA. */
static bool host_node_exists(UINT16 node)
{
    char path[64];

    snprintf(path, sizeof(path), "/sys/devices/system/node/node%u", node);
    return node == 0 || access(path, F_OK) == 0;
}

static enum status check_property(const WHV_VIRTUAL_PROCESSOR_PROPERTY *at)
{
    WHV_VIRTUAL_PROCESSOR_PROPERTY property;
    enum status status = caller_read(&property, at, sizeof(property), "Properties");

    if (status != STATUS_OK)
        return status;
    if (property.PropertyCode != WHvVirtualProcessorPropertyCodeNumaNode)
        return fail(STATUS_INVALID_ARGUMENT, "processor property %#x is not known", (unsigned)property.PropertyCode);
    if (property.Reserved)
        return fail(STATUS_INVALID_ARGUMENT, "Reserved is not 0 in a processor property");
    if (!host_node_exists(property.NumaNode))
        return fail(STATUS_INVALID_ARGUMENT, "the host has no NUMA node %u", property.NumaNode);
    return STATUS_OK;
}

static enum status create_with_properties(struct partition *partition, UINT32 index,
                                          const WHV_VIRTUAL_PROCESSOR_PROPERTY *properties, UINT32 count)
{
    enum status status = partition_require_set_up(partition);

    if (status == STATUS_OK && count)
        status = require_pointer(properties, "Properties");
    for (UINT32 i = 0; status == STATUS_OK && i < count; i++)
        status = check_property(&properties[i]);
    return status == STATUS_OK ? partition_create_vcpu(partition, index) : status;
}

HRESULT WINAPI WHvCreateVirtualProcessor2(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                          const WHV_VIRTUAL_PROCESSOR_PROPERTY *Properties, UINT32 PropertyCount)
{
    RETURN_ON_PARTITION(Partition, create_with_properties(partition, VpIndex, Properties, PropertyCount));
}

HRESULT WINAPI WHvDeleteVirtualProcessor(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex)
{
    RETURN_ON_PARTITION(Partition, partition_delete_vcpu(partition, VpIndex));
}

/* ---- run, cancel ---- */

/* A buffer that was made for an older kind of context, or an exit that needs more than the head. Unused bytes are 0. */
static noinline enum status answer_slowly(void *buffer, UINT32 size, UINT32 needed, WHV_RUN_VP_EXIT_CONTEXT *context)
{
    const UINT32 filled = needed > EXIT_CONTEXT_HEAD ? needed : EXIT_CONTEXT_HEAD;

    if (needed > size)
        return fail(STATUS_INSUFFICIENT_BUFFER, "ExitContext has %u bytes, exit %#x needs %u", size,
                    (unsigned)context->ExitReason, needed);
    memset((UINT8 *)context + filled, 0, sizeof(*context) - filled);
    return caller_write(buffer, context, size, "ExitContext");
}

static always_inline enum status answer(void *buffer, UINT32 size, const struct vcpu_exit *exit)
{
    WHV_RUN_VP_EXIT_CONTEXT context;
    const UINT32 needed = exit_to_context(exit, &context);

    if (unlikely(needed > EXIT_CONTEXT_HEAD || size != sizeof(context)))
        return answer_slowly(buffer, size, needed, &context);
    if (unlikely(caller_write_struct(buffer, &context, EXIT_CONTEXT_HEAD, "ExitContext") != STATUS_OK))
        return STATUS_BAD_POINTER;
    return caller_clear_struct((UINT8 *)buffer + EXIT_CONTEXT_HEAD, sizeof(context) - EXIT_CONTEXT_HEAD, "ExitContext");
}

static enum status run(struct vcpu *vcpu, void *buffer, UINT32 size)
{
    struct vcpu_exit exit;

    if (unlikely(!buffer))
        return fail(STATUS_BAD_POINTER, "ExitContext is NULL");
    if (unlikely(size < EXIT_CONTEXT_MINIMUM))
        return fail(STATUS_INSUFFICIENT_BUFFER, "ExitContext has %u bytes, at least %u are needed", size,
                    EXIT_CONTEXT_MINIMUM);
    if (size > sizeof(WHV_RUN_VP_EXIT_CONTEXT))
        size = sizeof(WHV_RUN_VP_EXIT_CONTEXT);
    /* Looked at before, so that a wild pointer does not cost an exit. */
    enum status status = caller_writable_struct(buffer, size, "ExitContext");
    if (likely(status == STATUS_OK))
        status = vcpu_run(vcpu, &exit);
    if (unlikely(status != STATUS_OK))
        return status;
    return answer(buffer, size, &exit);
}

HRESULT WINAPI WHvRunVirtualProcessor(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, VOID *ExitContext,
                                      UINT32 ExitContextSizeInBytes)
{
    RETURN_ON_VCPU(Partition, VpIndex, run(vcpu, ExitContext, ExitContextSizeInBytes));
}

static enum status cancel(struct vcpu *vcpu, UINT32 flags)
{
    if (flags)
        return fail(STATUS_INVALID_ARGUMENT, "Flags is %#x, it must be 0", flags);
    return vcpu_cancel(vcpu);
}

HRESULT WINAPI WHvCancelRunVirtualProcessor(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, UINT32 Flags)
{
    RETURN_ON_VCPU(Partition, VpIndex, cancel(vcpu, Flags));
}
