/* Our additions about dirty pages (openwhp.h): consumers, lists, tracking that is switched. */
#include "api/api.h"

#include "mem/gpa_consumer.h"

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)
SAME(GPA_CONSUMER_FIRST, OWHP_DIRTY_CONSUMER_WHV);
SAME(GPA_CONSUMER_UNTRACKED, OwhpDirtyConsumerFlagAllPages);
SAME(GPA_CONSUMER_KEEP, OwhpDirtyConsumerFlagKeepUnmapped);
SAME(GPA_QUERY_PEEK, OwhpQueryDirtyFlagPeek);
#undef SAME
_Static_assert(sizeof(struct gpa_range) == sizeof(WHV_MEMORY_RANGE_ENTRY) &&
                   offsetof(struct gpa_range, size) == offsetof(WHV_MEMORY_RANGE_ENTRY, SizeInBytes),
               "a range of ours is one of theirs");

/* ---- life ---- */

static enum status create(struct partition *partition, struct gpa_range range, uint32_t flags, UINT32 *out)
{
    uint32_t id = 0;
    enum status status = partition_require_set_up(partition);

    if (status == STATUS_OK)
        status = caller_writable(out, sizeof(*out), "Consumer");
    if (status != STATUS_OK)
        return status;
    if (flags & ~(uint32_t)GPA_CONSUMER_ALL_FLAGS)
        return fail(STATUS_INVALID_ARGUMENT, "unknown flags 0x%x of a dirty consumer", flags);
    if (range.gpa == 0 && range.size == 0)
        range.size = gpa_space_limit(partition->space);
    status = gpa_consumer_create(partition->space, range, flags, &id);
    return status == STATUS_OK ? caller_write(out, &id, sizeof(id), "Consumer") : status;
}

HRESULT WINAPI OwhpCreateDirtyConsumer(WHV_PARTITION_HANDLE Partition, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                       UINT64 SizeInBytes, OWHP_DIRTY_CONSUMER_FLAGS Flags, UINT32 *Consumer)
{
    const struct gpa_range range = {GuestAddress, SizeInBytes};

    RETURN_ON_PARTITION(Partition, create(partition, range, (uint32_t)Flags, Consumer));
}

static enum status destroy(struct partition *partition, uint32_t id)
{
    enum status status = partition_require_set_up(partition);

    return status == STATUS_OK ? gpa_consumer_destroy(partition->space, id) : status;
}

HRESULT WINAPI OwhpDeleteDirtyConsumer(WHV_PARTITION_HANDLE Partition, UINT32 Consumer)
{
    RETURN_ON_PARTITION(Partition, destroy(partition, Consumer));
}

/* ---- queries ---- */

static enum status check_flags(struct partition *partition, const struct gpa_dirty_query *query)
{
    enum status status = partition_require_set_up(partition);

    if (status == STATUS_OK && query->flags & ~(uint32_t)GPA_QUERY_PEEK)
        status = fail(STATUS_INVALID_ARGUMENT, "Flags 0x%x are not known", query->flags);
    return status;
}

/* The caller's bitmap. */
struct bitmap {
    UINT64 *words;
    UINT32 bytes;
};

static enum status query_bitmap(struct partition *partition, const struct gpa_dirty_query *query, struct bitmap bitmap,
                                UINT64 *count_out)
{
    uint64_t count = 0;
    enum status status = check_flags(partition, query);

    if (status == STATUS_OK && bitmap.bytes)
        status = require_pointer(bitmap.words, "Bitmap");
    if (status == STATUS_OK && count_out)
        status = caller_writable(count_out, sizeof(*count_out), "DirtyPageCount");
    if (status == STATUS_OK)
        status = gpa_consumer_bitmap(partition->space, query, bitmap.words, bitmap.bytes, &count);
    return status == STATUS_OK && count_out ? caller_write(count_out, &count, sizeof(count), "DirtyPageCount") : status;
}

HRESULT WINAPI OwhpQueryDirtyBitmap(WHV_PARTITION_HANDLE Partition, UINT32 Consumer, OWHP_QUERY_DIRTY_FLAGS Flags,
                                    WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, UINT64 SizeInBytes, UINT64 *Bitmap,
                                    UINT32 BitmapSizeInBytes, UINT64 *DirtyPageCount)
{
    const struct gpa_dirty_query query = {Consumer, (uint32_t)Flags, {GuestAddress, SizeInBytes}};
    const struct bitmap bitmap = {Bitmap, BitmapSizeInBytes};

    RETURN_ON_PARTITION(Partition, query_bitmap(partition, &query, bitmap, DirtyPageCount));
}

static enum status query_ranges(struct partition *partition, struct gpa_dirty_query query, struct gpa_dirty_list *list,
                                UINT32 *count_out)
{
    enum status status = check_flags(partition, &query);

    if (status == STATUS_OK)
        status = require_pointer(list->array, "Ranges");
    if (status == STATUS_OK)
        status = caller_writable(count_out, sizeof(*count_out), "RangeCount");
    if (status == STATUS_OK && query.range.gpa == 0 && query.range.size == 0)
        status = gpa_consumer_range(partition->space, query.consumer, &query.range);
    if (status == STATUS_OK)
        status = gpa_consumer_list(partition->space, &query, list);
    if (status != STATUS_OK)
        return status;
    const UINT32 count = (UINT32)list->count;
    return caller_write(count_out, &count, sizeof(count), "RangeCount");
}

static enum status query_ranges_of(WHV_PARTITION_HANDLE handle, const struct gpa_dirty_query *query,
                                   struct gpa_dirty_list *list, UINT32 *count_out)
{
    struct partition *partition = partition_get((uintptr_t)handle);

    if (!partition)
        return STATUS_BAD_HANDLE;
    enum status status = query_ranges(partition, *query, list, count_out);
    partition_put((uintptr_t)handle);
    return status;
}

/* Two kinds of success: RETURN_ON_PARTITION knows only one. */
HRESULT WINAPI OwhpQueryDirtyRanges(WHV_PARTITION_HANDLE Partition, UINT32 Consumer, OWHP_QUERY_DIRTY_FLAGS Flags,
                                    WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, UINT64 SizeInBytes,
                                    WHV_MEMORY_RANGE_ENTRY *Ranges, UINT32 RangeCapacity, UINT32 *RangeCount)
{
    const struct gpa_dirty_query query = {Consumer, (uint32_t)Flags, {GuestAddress, SizeInBytes}};
    struct gpa_dirty_list list = {(struct gpa_range *)(void *)Ranges, RangeCapacity, 0, false};
    HRESULT result = api_result(__func__, query_ranges_of(Partition, &query, &list, RangeCount));

    return result == S_OK && list.more ? S_FALSE : result;
}

/* ---- tracking ---- */

static enum status set_tracking(struct partition *partition, struct gpa_range range, bool on)
{
    enum status status = partition_require_set_up(partition);

    return status == STATUS_OK ? gpa_space_set_tracking(partition->space, range, on) : status;
}

HRESULT WINAPI OwhpSetDirtyTracking(WHV_PARTITION_HANDLE Partition, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                    UINT64 SizeInBytes, BOOL Enable)
{
    const struct gpa_range range = {GuestAddress, SizeInBytes};

    RETURN_ON_PARTITION(Partition, set_tracking(partition, range, Enable != 0));
}
