/* Guest physical memory: map, unmap, translate, read and write, dirty pages, advice. */
#include "api/api.h"

#include <stdlib.h>
#include <string.h>

#include "core/apic_page.h"
#include "core/processes.h"
#include "core/recent_access.h"
#include "core/translate.h"
#include "mem/gpa_access.h"
#include "mem/gpa_advise.h"
#include "mem/process_source.h"

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)
SAME(GPA_READ, WHvMapGpaRangeFlagRead);
SAME(GPA_WRITE, WHvMapGpaRangeFlagWrite);
SAME(GPA_EXECUTE, WHvMapGpaRangeFlagExecute);
SAME(GPA_TRACK_DIRTY, WHvMapGpaRangeFlagTrackDirtyPages);
SAME(TRANSLATE_READ, WHvTranslateGvaFlagValidateRead);
SAME(TRANSLATE_WRITE, WHvTranslateGvaFlagValidateWrite);
SAME(TRANSLATE_EXECUTE, WHvTranslateGvaFlagValidateExecute);
SAME(TRANSLATE_PRIVILEGE_EXEMPT, WHvTranslateGvaFlagPrivilegeExempt);
SAME(TRANSLATE_SET_BITS, WHvTranslateGvaFlagSetPageTableBits);
SAME(TRANSLATE_ENFORCE_SMAP, WHvTranslateGvaFlagEnforceSmap);
SAME(TRANSLATE_OVERRIDE_SMAP, WHvTranslateGvaFlagOverrideSmap);
SAME(TRANSLATE_SUCCESS, WHvTranslateGvaResultSuccess);
SAME(TRANSLATE_PAGE_NOT_PRESENT, WHvTranslateGvaResultPageNotPresent);
SAME(TRANSLATE_PRIVILEGE_VIOLATION, WHvTranslateGvaResultPrivilegeViolation);
SAME(TRANSLATE_INVALID_FLAGS, WHvTranslateGvaResultInvalidPageTableFlags);
SAME(TRANSLATE_GPA_UNMAPPED, WHvTranslateGvaResultGpaUnmapped);
SAME(TRANSLATE_GPA_NO_READ, WHvTranslateGvaResultGpaNoReadAccess);
SAME(TRANSLATE_GPA_NO_WRITE, WHvTranslateGvaResultGpaNoWriteAccess);
SAME(GPA_POPULATE_PREFETCH, 1);
SAME(GPA_POPULATE_AVOID_HARD_FAULTS, 2);
#undef SAME

/* ---- map, unmap ---- */

static enum status map(struct partition *partition, const struct gpa_mapping *mapping)
{
    enum status status = partition_require_set_up(partition);

    return status == STATUS_OK ? gpa_space_map(partition->space, mapping) : status;
}

HRESULT WINAPI WHvMapGpaRange(WHV_PARTITION_HANDLE Partition, VOID *SourceAddress,
                              WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, UINT64 SizeInBytes,
                              WHV_MAP_GPA_RANGE_FLAGS Flags)
{
    const struct gpa_mapping mapping = {GuestAddress, SizeInBytes, SourceAddress, (uint32_t)Flags};

    RETURN_ON_PARTITION(Partition, map(partition, &mapping));
}

/* What GetCurrentProcess returns. */
#define CURRENT_PROCESS ((uintptr_t)-1)

static enum status map_from(struct partition *partition, HANDLE handle, const struct gpa_mapping *mapping)
{
    struct process *process;
    enum status status = partition_require_set_up(partition);

    if (status != STATUS_OK)
        return status;
    if ((uintptr_t)handle == CURRENT_PROCESS)
        return gpa_space_map(partition->space, mapping);
    status = process_handle_get((uintptr_t)handle, &process);
    if (status != STATUS_OK)
        return status;
    status = gpa_space_map_process(partition->space, mapping, process, partition->engine->copies_memory);
    process_put(process);
    return status;
}

HRESULT WINAPI WHvMapGpaRange2(WHV_PARTITION_HANDLE Partition, HANDLE Process, VOID *SourceAddress,
                               WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, UINT64 SizeInBytes,
                               WHV_MAP_GPA_RANGE_FLAGS Flags)
{
    const struct gpa_mapping mapping = {GuestAddress, SizeInBytes, SourceAddress, (uint32_t)Flags};

    RETURN_ON_PARTITION(Partition, map_from(partition, Process, &mapping));
}

static enum status unmap(struct partition *partition, gpa_t gpa, uint64_t size)
{
    enum status status = partition_require_set_up(partition);

    return status == STATUS_OK ? gpa_space_unmap(partition->space, gpa, size) : status;
}

HRESULT WINAPI WHvUnmapGpaRange(WHV_PARTITION_HANDLE Partition, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                UINT64 SizeInBytes)
{
    RETURN_ON_PARTITION(Partition, unmap(partition, GuestAddress, SizeInBytes));
}

/* ---- translate ---- */

static enum status translate(struct vcpu *vcpu, gva_t gva, uint32_t flags, WHV_TRANSLATE_GVA_RESULT *result_out,
                             WHV_GUEST_PHYSICAL_ADDRESS *gpa_out)
{
    enum translate_result code;
    gpa_t gpa;

    enum status status = caller_writable(result_out, sizeof(*result_out), "TranslationResult");
    if (status == STATUS_OK)
        status = caller_writable(gpa_out, sizeof(*gpa_out), "Gpa");
    if (status == STATUS_OK)
        status = translate_gva(vcpu, gva, flags, &code, &gpa);
    if (status != STATUS_OK)
        return status;
    const WHV_TRANSLATE_GVA_RESULT result = {.ResultCode = (WHV_TRANSLATE_GVA_RESULT_CODE)code};
    status = caller_write(result_out, &result, sizeof(result), "TranslationResult");
    return status == STATUS_OK ? caller_write(gpa_out, &gpa, sizeof(gpa), "Gpa") : status;
}

HRESULT WINAPI WHvTranslateGva(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, WHV_GUEST_VIRTUAL_ADDRESS Gva,
                               WHV_TRANSLATE_GVA_FLAGS TranslateFlags, WHV_TRANSLATE_GVA_RESULT *TranslationResult,
                               WHV_GUEST_PHYSICAL_ADDRESS *Gpa)
{
    RETURN_ON_VCPU(Partition, VpIndex, translate(vcpu, Gva, (uint32_t)TranslateFlags, TranslationResult, Gpa));
}

/* ---- read, write ---- */

static enum status check_controls(WHV_ACCESS_GPA_CONTROLS controls)
{
    const uint32_t known = 1u << WHvCacheTypeUncached | 1u << WHvCacheTypeWriteCombining |
                           1u << WHvCacheTypeWriteThrough | 1u << WHvCacheTypeWriteProtected |
                           1u << WHvCacheTypeWriteBack;
    uint32_t type = (uint32_t)controls.CacheType;

    if (type > WHvCacheTypeWriteBack || !(known >> type & 1))
        return fail(STATUS_INVALID_ARGUMENT, "Controls: CacheType %u is not known", type);
    if (controls.AsUINT64 >> 32)
        return fail(STATUS_INVALID_ARGUMENT, "Controls %#llx: a trust level other than 0, or reserved bits",
                    (unsigned long long)controls.AsUINT64);
    return STATUS_OK;
}

static enum status check_length(const struct partition *partition, gpa_t gpa, uint32_t size)
{
    bool beyond = size > WHV_READ_WRITE_GPA_RANGE_MAX_SIZE || (gpa & ~PAGE_MASK) + size > PAGE_SIZE;

    if (size == 0)
        return fail(STATUS_INVALID_ARGUMENT, "DataSizeInBytes is 0");
    if (unlikely(beyond && partition->strict_access))
        return fail(STATUS_INVALID_ARGUMENT, "%u bytes at %#llx: more than %d or across pages, and OPENWHP_STRICT was 1", size,
                    (unsigned long long)gpa, WHV_READ_WRITE_GPA_RANGE_MAX_SIZE);
    return STATUS_OK;
}

/* Needs the processor to exist, not to stand still: nothing of its state matters but where its local APIC is. */
static enum status check_access(struct vcpu *vcpu, gpa_t gpa, WHV_ACCESS_GPA_CONTROLS controls, const void *data,
                                uint32_t size)
{
    enum status status = vcpu_require_existing(vcpu);

    if (status == STATUS_OK)
        status = check_controls(controls);
    if (status == STATUS_OK)
        status = check_length(vcpu->partition, gpa, size);
    return status == STATUS_OK ? require_pointer(data, "Data") : status;
}

/* What was found may serve the next call. */
static enum status read_range(uint64_t handle, struct vcpu *vcpu, gpa_t gpa, WHV_ACCESS_GPA_CONTROLS controls, void *data,
                              uint32_t size)
{
    enum status status = check_access(vcpu, gpa, controls, data, size);

    if (status != STATUS_OK)
        return status;
    if (unlikely(vcpu_apic_is_in(vcpu, gpa, size)))
        return apic_page_read(vcpu, gpa, data, size);
    return gpa_space_read_first(vcpu->partition->space, gpa, data, size, recent_access_begin(handle, vcpu));
}

/* Are the controls those of nearly every call? */
static always_inline bool are_usual(WHV_ACCESS_GPA_CONTROLS controls)
{
    return controls.AsUINT64 == WHvCacheTypeWriteBack;
}

HRESULT WINAPI WHvReadGpaRange(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                               WHV_ACCESS_GPA_CONTROLS Controls, PVOID Data, UINT32 DataSizeInBytes)
{
    if (likely(are_usual(Controls) && recent_access((uintptr_t)Partition, VpIndex, GuestAddress, Data, DataSizeInBytes, false)))
        return S_OK;
    RETURN_ON_VCPU(Partition, VpIndex,
                   read_range((uintptr_t)Partition, vcpu, GuestAddress, Controls, Data, DataSizeInBytes));
}

static enum status write_range(uint64_t handle, struct vcpu *vcpu, gpa_t gpa, WHV_ACCESS_GPA_CONTROLS controls,
                               const void *data, uint32_t size)
{
    enum status status = check_access(vcpu, gpa, controls, data, size);

    if (status != STATUS_OK)
        return status;
    if (unlikely(vcpu_apic_is_in(vcpu, gpa, size)))
        return apic_page_write(vcpu, gpa, data, size);
    return gpa_space_write_first(vcpu->partition->space, gpa, data, size, recent_access_begin(handle, vcpu));
}

HRESULT WINAPI WHvWriteGpaRange(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                WHV_ACCESS_GPA_CONTROLS Controls, const VOID *Data, UINT32 DataSizeInBytes)
{
    /* The buffer is only read. */
    if (likely(are_usual(Controls) && recent_access((uintptr_t)Partition, VpIndex, GuestAddress, (uint8_t *)(uintptr_t)Data,
                                                    DataSizeInBytes, true)))
        return S_OK;
    RETURN_ON_VCPU(Partition, VpIndex,
                   write_range((uintptr_t)Partition, vcpu, GuestAddress, Controls, Data, DataSizeInBytes));
}

/* ---- dirty pages ---- */

static enum status query_dirty(struct partition *partition, gpa_t gpa, uint64_t size, uint64_t *bitmap, uint32_t bytes)
{
    enum status status = partition_require_set_up(partition);

    if (status == STATUS_OK && bytes)
        status = require_pointer(bitmap, "Bitmap");
    return status == STATUS_OK ? gpa_space_query_dirty(partition->space, gpa, size, bitmap, bytes) : status;
}

HRESULT WINAPI WHvQueryGpaRangeDirtyBitmap(WHV_PARTITION_HANDLE Partition, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                           UINT64 RangeSizeInBytes, UINT64 *Bitmap, UINT32 BitmapSizeInBytes)
{
    RETURN_ON_PARTITION(Partition, query_dirty(partition, GuestAddress, RangeSizeInBytes, Bitmap, BitmapSizeInBytes));
}

/* ---- advice ---- */

struct advice_buffer {
    const void *data;
    UINT32 size;
};

struct advice {
    UINT32 code;
    WHV_ADVISE_GPA_RANGE_POPULATE populate;
};

static enum status read_advice(UINT32 code, const void *buffer, UINT32 size, struct advice *advice)
{
    memset(advice, 0, sizeof(*advice));
    advice->code = code;
    if (code > WHvAdviseGpaRangeCodeUnpin)
        return fail(STATUS_INVALID_ARGUMENT, "advice %u is not known", code);
    if (code == WHvAdviseGpaRangeCodePopulate) {
        if (size != sizeof(advice->populate))
            return fail(STATUS_INVALID_ARGUMENT, "AdviceBuffer has %u bytes, not %zu", size, sizeof(advice->populate));
        return caller_read(&advice->populate, buffer, size, "AdviceBuffer");
    }
    if (buffer || size)
        return fail(STATUS_INVALID_ARGUMENT, "AdviceBuffer must be NULL and its size 0 to pin or unpin");
    return STATUS_OK;
}

static enum status advise_one(struct gpa_space *space, const struct advice *advice, const WHV_MEMORY_RANGE_ENTRY *entry)
{
    const struct gpa_range range = {entry->GuestAddress, entry->SizeInBytes};

    switch (advice->code) {
    case WHvAdviseGpaRangeCodePin:
        return gpa_space_pin(space, range.gpa, range.size);
    case WHvAdviseGpaRangeCodeUnpin:
        return gpa_space_unpin(space, range.gpa, range.size);
    default:
        return gpa_space_populate(space, range, (enum gpa_access)advice->populate.AccessType,
                                  advice->populate.Flags.AsUINT32);
    }
}

static enum status advise(struct partition *partition, const WHV_MEMORY_RANGE_ENTRY *ranges, UINT32 count,
                          const struct advice *advice)
{
    WHV_MEMORY_RANGE_ENTRY entry;
    enum status status = STATUS_OK;

    if (count == 0)
        return fail(STATUS_INVALID_ARGUMENT, "GpaRangesCount is 0");
    for (UINT32 i = 0; status == STATUS_OK && i < count; i++) {
        status = caller_read(&entry, &ranges[i], sizeof(entry), "GpaRanges");
        if (status == STATUS_OK)
            status = advise_one(partition->space, advice, &entry);
    }
    return status;
}

static enum status advise_checked(struct partition *partition, const WHV_MEMORY_RANGE_ENTRY *ranges, UINT32 count,
                                  UINT32 code, const struct advice_buffer *buffer)
{
    struct advice advice;
    enum status status = partition_require_set_up(partition);

    if (status == STATUS_OK)
        status = require_pointer(ranges, "GpaRanges");
    if (status == STATUS_OK)
        status = read_advice(code, buffer->data, buffer->size, &advice);
    return status == STATUS_OK ? advise(partition, ranges, count, &advice) : status;
}

HRESULT WINAPI WHvAdviseGpaRange(WHV_PARTITION_HANDLE Partition, const WHV_MEMORY_RANGE_ENTRY *GpaRanges,
                                 UINT32 GpaRangesCount, WHV_ADVISE_GPA_RANGE_CODE Advice, const VOID *AdviceBuffer,
                                 UINT32 AdviceBufferSizeInBytes)
{
    const struct advice_buffer buffer = {AdviceBuffer, AdviceBufferSizeInBytes};

    RETURN_ON_PARTITION(Partition,
                        advise_checked(partition, GpaRanges, GpaRangesCount, (UINT32)Advice, &buffer));
}
