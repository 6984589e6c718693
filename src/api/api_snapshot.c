/* Snapshots (openwhp.h): handles, flags and names of files in, core/snapshot.h behind. */
#include "api/api.h"

#include <limits.h>
#include <string.h>

#include "core/snapshot.h"

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)
SAME(SNAPSHOT_LOAD_VERIFY, OwhpLoadFlagVerify);
SAME(SNAPSHOT_LOAD_ANY_TSC_FREQUENCY, OwhpLoadFlagAnyTscFrequency);
#undef SAME

static enum status no_flags(UINT32 flags, UINT32 known)
{
    return flags & ~known ? fail(STATUS_INVALID_ARGUMENT, "Flags is %#x: unknown bits", flags) : STATUS_OK;
}

/* A good place for the handle of what is made, or nothing is made. */
static enum status put_handle(uint64_t handle, OWHP_SNAPSHOT_HANDLE *out)
{
    const OWHP_SNAPSHOT_HANDLE value = (OWHP_SNAPSHOT_HANDLE)(uintptr_t)handle;
    enum status status = caller_write(out, &value, sizeof(value), "Snapshot");

    if (status != STATUS_OK && snapshot_destroy(handle) != STATUS_OK)
        return STATUS_UNEXPECTED;
    return status;
}

static enum status create(struct partition *partition, UINT32 flags, OWHP_SNAPSHOT_HANDLE *out)
{
    uint64_t handle = 0;
    enum status status = no_flags(flags, 0);

    if (status == STATUS_OK)
        status = caller_writable(out, sizeof(*out), "Snapshot");
    if (status == STATUS_OK)
        status = snapshot_create(partition, &handle);
    return status == STATUS_OK ? put_handle(handle, out) : status;
}

HRESULT WINAPI OwhpCreateSnapshot(WHV_PARTITION_HANDLE Partition, UINT32 Flags, OWHP_SNAPSHOT_HANDLE *Snapshot)
{
    RETURN_ON_PARTITION(Partition, create(partition, Flags, Snapshot));
}

static enum status restore(struct partition *partition, uint64_t handle, UINT32 flags, UINT64 *count)
{
    UINT64 pages = 0;
    enum status status = no_flags(flags, OwhpRestoreFlagMappings), written;

    if (status == STATUS_OK && count)
        status = caller_writable(count, sizeof(*count), "RestoredPageCount");
    if (status != STATUS_OK)
        return status;
    status = snapshot_restore(partition, handle, flags & OwhpRestoreFlagMappings, &pages);
    written = count && status == STATUS_OK ? caller_write(count, &pages, sizeof(pages), "RestoredPageCount") : STATUS_OK;
    return status == STATUS_OK ? written : status;
}

HRESULT WINAPI OwhpRestoreSnapshot(WHV_PARTITION_HANDLE Partition, OWHP_SNAPSHOT_HANDLE Snapshot, OWHP_RESTORE_FLAGS Flags,
                                   UINT64 *RestoredPageCount)
{
    RETURN_ON_PARTITION(Partition, restore(partition, (uintptr_t)Snapshot, (UINT32)Flags, RestoredPageCount));
}

HRESULT WINAPI OwhpDestroySnapshot(OWHP_SNAPSHOT_HANDLE Snapshot)
{
    return api_result(__func__, snapshot_destroy((uintptr_t)Snapshot));
}

static enum status query(uint64_t handle, OWHP_SNAPSHOT_INFO *out)
{
    struct snapshot_figures f;
    enum status status = caller_writable(out, sizeof(*out), "Info");

    if (status == STATUS_OK)
        status = snapshot_query(handle, &f);
    if (status != STATUS_OK)
        return status;
    const OWHP_SNAPSHOT_INFO info = {.GuestSizeInBytes = f.guest_bytes,
                                     .StoredSizeInBytes = f.stored_bytes,
                                     .ChangedSizeInBytes = f.changed_bytes,
                                     .RangeCount = f.ranges,
                                     .ProcessorCount = f.processors,
                                     .IsAttached = f.is_attached};
    return caller_write(out, &info, sizeof(info), "Info");
}

HRESULT WINAPI OwhpQuerySnapshot(OWHP_SNAPSHOT_HANDLE Snapshot, OWHP_SNAPSHOT_INFO *Info)
{
    return api_result(__func__, query((uintptr_t)Snapshot, Info));
}

/* ---- files ---- */

static enum status read_path(char to[PATH_MAX], const char *from)
{
    enum status status = require_pointer(from, "Path");

    for (size_t i = 0; i < PATH_MAX && status == STATUS_OK; i++) {
        status = caller_read(&to[i], from + i, 1, "Path");
        if (status == STATUS_OK && !to[i])
            return i ? STATUS_OK : fail(STATUS_INVALID_ARGUMENT, "Path is empty");
    }
    return status == STATUS_OK ? fail(STATUS_INVALID_ARGUMENT, "Path is longer than %d bytes", PATH_MAX - 1) : status;
}

static enum status save(uint64_t handle, const char *name, UINT32 flags)
{
    char path[PATH_MAX];
    enum status status = no_flags(flags, 0);

    if (status == STATUS_OK)
        status = read_path(path, name);
    return status == STATUS_OK ? snapshot_save(handle, path) : status;
}

HRESULT WINAPI OwhpSaveSnapshot(OWHP_SNAPSHOT_HANDLE Snapshot, const char *Path, UINT32 Flags)
{
    return api_result(__func__, save((uintptr_t)Snapshot, Path, Flags));
}

static enum status load(struct partition *partition, const char *name, UINT32 flags, OWHP_SNAPSHOT_HANDLE *out)
{
    char path[PATH_MAX];
    uint64_t handle = 0;
    enum status status = no_flags(flags, SNAPSHOT_LOAD_ALL_FLAGS);

    if (status == STATUS_OK)
        status = caller_writable(out, sizeof(*out), "Snapshot");
    if (status == STATUS_OK)
        status = read_path(path, name);
    if (status == STATUS_OK)
        status = snapshot_load(partition, path, flags, &handle);
    return status == STATUS_OK ? put_handle(handle, out) : status;
}

HRESULT WINAPI OwhpLoadSnapshot(WHV_PARTITION_HANDLE Partition, const char *Path, OWHP_LOAD_FLAGS Flags,
                                OWHP_SNAPSHOT_HANDLE *Snapshot)
{
    RETURN_ON_PARTITION(Partition, load(partition, Path, (UINT32)Flags, Snapshot));
}
