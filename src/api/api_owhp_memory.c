/* Our additions that concern guest memory (openwhp.h): processes, memory for guests, what is mapped, dirty pages. */
#include "api/api.h"

#include <stdlib.h>
#include <string.h>

#include "core/host_memory.h"
#include "core/processes.h"
#include "mem/gpa_advise.h"
#include "mem/process_source.h"

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)
SAME(GPA_FROM_SELF, OwhpGpaSourceOwnProcess);
SAME(GPA_FROM_SHARED, OwhpGpaSourceSharedProcess);
SAME(GPA_FROM_COPIED, OwhpGpaSourceCopiedProcess);
#undef SAME

/* ---- processes ---- */

/* What GetCurrentProcess returns. */
#define CURRENT_PROCESS ((uintptr_t)-1)

static enum status put_handle(struct process *process, HANDLE *out)
{
    uint64_t handle = 0;
    enum status status = process_handle_open(process, &handle);

    if (status != STATUS_OK)
        return status;
    const HANDLE result = (HANDLE)(uintptr_t)handle;
    status = caller_write(out, &result, sizeof(result), "Process");
    return status == STATUS_OK ? status : process_handle_close(handle) == STATUS_OK ? status : STATUS_UNEXPECTED;
}

/* By its id, or by a descriptor that holds it. */
static enum status open_process(UINT32 id, const INT32 *pidfd, HANDLE *out)
{
    struct process *process = NULL;
    enum status status = caller_writable(out, sizeof(*out), "Process");

    if (status == STATUS_OK)
        status = pidfd ? process_open_pidfd(*pidfd, &process) : process_open(id, &process);
    return status == STATUS_OK ? put_handle(process, out) : status;
}

HRESULT WINAPI OwhpOpenProcess(UINT32 ProcessId, HANDLE *Process)
{
    return api_result(__func__, open_process(ProcessId, NULL, Process));
}

HRESULT WINAPI OwhpOpenProcessFromPidfd(INT32 Pidfd, HANDLE *Process)
{
    return api_result(__func__, open_process(0, &Pidfd, Process));
}

HRESULT WINAPI OwhpCloseProcess(HANDLE Process)
{
    if ((uintptr_t)Process == CURRENT_PROCESS)
        return S_OK;
    return api_result(__func__, process_handle_close((uintptr_t)Process));
}

/* ---- memory for guests ---- */

static enum status allocate(UINT64 size, UINT32 flags, VOID **out)
{
    void *address;

    enum status status = require_pointer(out, "Address");
    if (status != STATUS_OK)
        return status;
    if (flags)
        return fail(STATUS_INVALID_ARGUMENT, "Flags is %#x, it must be 0", flags);
    status = caller_writable(out, sizeof(*out), "Address");
    if (status == STATUS_OK)
        status = host_memory_allocate(size, &address);
    return status == STATUS_OK ? caller_write(out, &address, sizeof(address), "Address") : status;
}

HRESULT WINAPI OwhpAllocateMemory(UINT64 SizeInBytes, UINT32 Flags, VOID **Address)
{
    return api_result(__func__, allocate(SizeInBytes, Flags, Address));
}

HRESULT WINAPI OwhpFreeMemory(VOID *Address)
{
    return api_result(__func__, host_memory_free(Address));
}

/* ---- what is mapped ---- */

static enum status mark_dirty(struct partition *partition, gpa_t gpa, uint64_t size)
{
    enum status status = partition_require_set_up(partition);

    return status == STATUS_OK ? gpa_space_mark_dirty(partition->space, gpa, size) : status;
}

HRESULT WINAPI OwhpMarkDirty(WHV_PARTITION_HANDLE Partition, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                             UINT64 SizeInBytes)
{
    RETURN_ON_PARTITION(Partition, mark_dirty(partition, GuestAddress, SizeInBytes));
}

static enum status discard(struct partition *partition, gpa_t gpa, uint64_t size)
{
    enum status status = partition_require_set_up(partition);

    return status == STATUS_OK ? gpa_space_discard(partition->space, gpa, size) : status;
}

HRESULT WINAPI OwhpDiscardGpaRange(WHV_PARTITION_HANDLE Partition, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                   UINT64 SizeInBytes)
{
    RETURN_ON_PARTITION(Partition, discard(partition, GuestAddress, SizeInBytes));
}

static uint64_t count_dirty(struct gpa_space *space, const struct gpa_mapping *mapping)
{
    uint64_t count = 0;

    if (mapping->flags & GPA_TRACK_DIRTY &&
        gpa_space_peek_dirty(space, mapping->gpa, mapping->size, NULL, 0, &count) != STATUS_OK)
        last_error_clear(); /* it is not mapped so any more */
    return count;
}

static void describe(struct gpa_space *space, const struct gpa_mapping *mapping, OWHP_GPA_RANGE *range)
{
    memset(range, 0, sizeof(*range));
    range->GuestAddress = mapping->gpa;
    range->SizeInBytes = mapping->size;
    range->Flags = (WHV_MAP_GPA_RANGE_FLAGS)mapping->flags;
    range->Source = (OWHP_GPA_SOURCE)mapping->from;
    range->SourceAddress = (uintptr_t)mapping->host;
    range->ProcessId = mapping->process_id;
    range->ResidentSizeInBytes = mapping->local ? host_memory_resident(mapping->local, mapping->size)
                                                : gpa_space_resident_copied(space, mapping->gpa, mapping->size);
    range->DirtyPageCount = count_dirty(space, mapping);
    range->PinnedPageCount = gpa_space_pinned_in(space, mapping->gpa, mapping->size);
}

static enum status put_ranges(struct gpa_space *space, const struct gpa_mapping *list, size_t found,
                              OWHP_GPA_RANGE *ranges)
{
    OWHP_GPA_RANGE range;
    enum status status = STATUS_OK;

    for (size_t i = 0; status == STATUS_OK && i < found; i++) {
        describe(space, &list[i], &range);
        status = caller_write(&ranges[i], &range, sizeof(range), "Ranges");
    }
    return status;
}

/* An allocated list. */
static enum status list_ranges(struct gpa_space *space, struct gpa_mapping **list, size_t *count)
{
    for (;;) {
        const size_t room = gpa_space_range_count(space) + 16; /* some more may come meanwhile; if too many, once more */

        *list = malloc(room * sizeof(**list));
        if (!*list)
            return fail(STATUS_NO_MEMORY, "no memory to list %zu ranges", room);
        *count = gpa_space_list(space, 0, *list, room);
        if (*count < room)
            return STATUS_OK;
        free(*list);
    }
}

static enum status enumerate(struct partition *partition, OWHP_GPA_RANGE *ranges, UINT32 capacity, UINT32 *count_out)
{
    enum status status = partition_require_set_up(partition);
    if (status == STATUS_OK)
        status = require_pointer(count_out, "RangeCount");
    if (status == STATUS_OK && capacity)
        status = require_pointer(ranges, "Ranges");
    if (status == STATUS_OK)
        status = caller_writable(count_out, sizeof(*count_out), "RangeCount");
    if (status != STATUS_OK)
        return status;

    struct gpa_space *space = partition->space;
    struct gpa_mapping *list = NULL;
    size_t total = 0;
    status = list_ranges(space, &list, &total);
    if (status != STATUS_OK)
        return status;
    status = put_ranges(space, list, total < capacity ? total : capacity, ranges);
    free(list);
    UINT32 count = (UINT32)total;
    if (status == STATUS_OK)
        status = caller_write(count_out, &count, sizeof(count), "RangeCount");
    if (status == STATUS_OK && total > capacity)
        status = fail(STATUS_INSUFFICIENT_BUFFER, "there are %u ranges, room is for %u", count, capacity);
    return status;
}

HRESULT WINAPI OwhpEnumerateGpaRanges(WHV_PARTITION_HANDLE Partition, OWHP_GPA_RANGE *Ranges, UINT32 RangeCapacity,
                                      UINT32 *RangeCount)
{
    RETURN_ON_PARTITION(Partition, enumerate(partition, Ranges, RangeCapacity, RangeCount));
}
