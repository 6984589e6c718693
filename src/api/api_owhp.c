/* Our additions (openwhp.h): engines, errors, memory for guests, what is mapped. */
#include "api/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/engines.h"
#include "core/host_memory.h"
#include "mem/gpa_advise.h"

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)
SAME(ENGINE_AUTO, OwhpEngineAuto);
SAME(ENGINE_SOFT, OwhpEngineSoft);
SAME(ENGINE_KVM, OwhpEngineKvm);
#undef SAME

/* ---- errors, engines ---- */

const char *WINAPI OwhpGetLastErrorText(void)
{
    return api_error_text();
}

VOID WINAPI OwhpSetLastErrorText(const char *Text)
{
    api_set_error_text(Text);
}

static enum status query_engine(UINT32 kind, char *reason, size_t size)
{
    const struct engine *engine;
    enum status status = engine_query(kind, &engine, reason, size);

    if (status != STATUS_OK || engine)
        return status;
    return fail(STATUS_UNSUPPORTED_HYPERVISOR_CONFIG, "%s", reason);
}

static enum status query_auto(char *reason, size_t size)
{
    const struct engine *engine;
    enum status status = engine_select(ENGINE_AUTO, &engine);

    snprintf(reason, size, "%s", status == STATUS_OK ? engine->name : last_error_text());
    return status;
}

static enum status query(UINT32 kind, char *reason_out, UINT32 size)
{
    char reason[256] = "";
    enum status status =
        kind == ENGINE_AUTO ? query_auto(reason, sizeof(reason)) : query_engine(kind, reason, sizeof(reason));

    if (!reason_out || size == 0 || status == STATUS_INVALID_ARGUMENT)
        return status;
    size_t length = strnlen(reason, size - 1);
    reason[length] = 0;
    enum status written = caller_write(reason_out, reason, length + 1, "Reason");
    return written == STATUS_OK ? status : written;
}

HRESULT WINAPI OwhpQueryEngine(OWHP_ENGINE Engine, char *Reason, UINT32 ReasonSizeInBytes)
{
    return api_result(__func__, query((UINT32)Engine, Reason, ReasonSizeInBytes));
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
    range->Source = OwhpGpaSourceOwnProcess;
    range->SourceAddress = (uintptr_t)mapping->host;
    range->ResidentSizeInBytes = host_memory_resident(mapping->host, mapping->size);
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
    size_t room = gpa_space_range_count(space) + 16; /* some more may come between the two calls */
    struct gpa_mapping *list = malloc(room * sizeof(*list));
    if (!list)
        return fail(STATUS_NO_MEMORY, "no memory to list %zu ranges", room);
    size_t total = gpa_space_list(space, 0, list, room);
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

/* ---- later parts ---- */

static enum status not_yet(const void *pointer, const char *what)
{
    enum status status = require_pointer(pointer, what);

    return status == STATUS_OK ? fail(STATUS_NOT_SUPPORTED, "not available yet") : status;
}

HRESULT WINAPI OwhpOpenProcess(UINT32 ProcessId, HANDLE *Process)
{
    if (Process && ProcessId == 0)
        return api_result(__func__, fail(STATUS_INVALID_ARGUMENT, "ProcessId is 0"));
    return api_result(__func__, not_yet(Process, "Process"));
}

HRESULT WINAPI OwhpCloseProcess(HANDLE Process)
{
    if ((uintptr_t)Process == (uintptr_t)-1) /* GetCurrentProcess() */
        return S_OK;
    return api_result(__func__, fail(STATUS_BAD_HANDLE, "%p is not the handle of a process", Process));
}
