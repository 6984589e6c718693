/* Partitions: create, set up, reset, delete, time. */
#include "api/api.h"

#include "core/engines.h"

static enum status create(WHV_PARTITION_HANDLE *out)
{
    const struct engine *engine;
    uint64_t handle;

    enum status status = require_pointer(out, "Partition");
    if (status == STATUS_OK)
        status = caller_writable(out, sizeof(*out), "Partition");
    if (status == STATUS_OK) /* an engine asked for by the environment must be usable */
        status = engine_select(ENGINE_AUTO, &engine);
    if (status == STATUS_OK)
        status = partition_create(&handle);
    if (status != STATUS_OK)
        return status;
    WHV_PARTITION_HANDLE value = (WHV_PARTITION_HANDLE)(uintptr_t)handle;
    return caller_write(out, &value, sizeof(value), "Partition");
}

HRESULT WINAPI WHvCreatePartition(WHV_PARTITION_HANDLE *Partition)
{
    return api_result(__func__, create(Partition));
}

HRESULT WINAPI WHvSetupPartition(WHV_PARTITION_HANDLE Partition)
{
    RETURN_ON_PARTITION(Partition, partition_setup(partition));
}

HRESULT WINAPI WHvResetPartition(WHV_PARTITION_HANDLE Partition)
{
    RETURN_ON_PARTITION(Partition, partition_reset(partition));
}

HRESULT WINAPI WHvDeletePartition(WHV_PARTITION_HANDLE Partition)
{
    return api_result(__func__, partition_delete((uintptr_t)Partition));
}

HRESULT WINAPI WHvSuspendPartitionTime(WHV_PARTITION_HANDLE Partition)
{
    RETURN_ON_PARTITION(Partition, partition_suspend_time(partition));
}

HRESULT WINAPI WHvResumePartitionTime(WHV_PARTITION_HANDLE Partition)
{
    RETURN_ON_PARTITION(Partition, partition_resume_time(partition));
}
