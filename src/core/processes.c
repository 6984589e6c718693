#include "core/processes.h"

#include <inttypes.h>

#include "core/handle_table.h"
#include "util/last_error.h"

static struct handle_table table = HANDLE_TABLE_INIT(HANDLE_TAG_PROCESS);

static enum status no_such(uint64_t handle)
{
    return fail(STATUS_BAD_HANDLE, "0x%" PRIx64 " is not the handle of a process", handle);
}

enum status process_handle_open(struct process *process, uint64_t *handle)
{
    *handle = handle_open(&table, process);
    if (*handle)
        return STATUS_OK;
    process_put(process);
    return fail(STATUS_NO_MEMORY, "no memory for a handle");
}

enum status process_handle_get(uint64_t handle, struct process **process)
{
    *process = handle_get(&table, handle);
    if (!*process)
        return no_such(handle);
    process_get(*process);
    handle_put(&table, handle);
    return STATUS_OK;
}

enum status process_handle_close(uint64_t handle)
{
    struct process *process = handle_close(&table, handle);

    if (!process)
        return no_such(handle);
    handle_drain(&table, handle);
    process_put(process);
    return STATUS_OK;
}
