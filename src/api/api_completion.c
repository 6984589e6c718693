/* OwhpGetMemoryAccess, OwhpCompleteMemoryAccess: the accesses of an exit's instruction, told and answered one by one. */
#include "api/api.h"

#include <stddef.h>
#include <string.h>

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)
SAME(GPA_ACCESS_READ, WHvMemoryAccessRead);
SAME(GPA_ACCESS_WRITE, WHvMemoryAccessWrite);
#undef SAME

static void to_api(const struct memory_access *from, OWHP_MEMORY_ACCESS *to)
{
    *to = (OWHP_MEMORY_ACCESS){.Gpa = from->gpa, .Gva = from->gva, .AccessType = (WHV_MEMORY_ACCESS_TYPE)from->type,
                               .SizeInBytes = from->size, .Data = from->data};
}

/* What of the caller's copy tells the exit apart; at once, for a copy that ends before the GPA is not of such an exit. */
struct exit_mark {
    UINT64 rip;
    WHV_GUEST_PHYSICAL_ADDRESS gpa;
};

static enum status not_a_memory_access(WHV_RUN_VP_EXIT_REASON reason)
{
    return fail(STATUS_INVALID_ARGUMENT, "ExitContext is of exit 0x%x, not a memory access", (unsigned)reason);
}

/* It cannot be read as a whole: of another exit, or not at all? */
static enum status read_reason(const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    WHV_RUN_VP_EXIT_REASON reason;
    enum status status = caller_read(&reason, &exit->ExitReason, sizeof(reason), "ExitContext");

    if (status == STATUS_OK && reason != WHvRunVpExitReasonMemoryAccess)
        return not_a_memory_access(reason);
    return fail(STATUS_BAD_POINTER, "ExitContext is not accessible");
}

static enum status read_mark(const WHV_RUN_VP_EXIT_CONTEXT *exit, struct exit_mark *mark)
{
    union {
        WHV_RUN_VP_EXIT_CONTEXT context;
        UINT8 bytes[offsetof(WHV_RUN_VP_EXIT_CONTEXT, MemoryAccess.Gpa) + sizeof(WHV_GUEST_PHYSICAL_ADDRESS)];
    } copy;
    enum status status = require_pointer(exit, "ExitContext");

    if (status != STATUS_OK)
        return status;
    if (unlikely(caller_read(copy.bytes, exit, sizeof(copy.bytes), "ExitContext") != STATUS_OK))
        return read_reason(exit);
    if (unlikely(copy.context.ExitReason != WHvRunVpExitReasonMemoryAccess))
        return not_a_memory_access(copy.context.ExitReason);
    *mark = (struct exit_mark){copy.context.VpContext.Rip, copy.context.MemoryAccess.Gpa};
    return STATUS_OK;
}

static enum status get_due(struct vcpu *vcpu, struct memory_access *access)
{
    const struct engine *engine = vcpu->partition->engine;

    return engine->get_access ? engine->get_access(vcpu->engine, access)
                              : fail(STATUS_NOT_SUPPORTED, "engine %s does not complete accesses", engine->name);
}

static enum status get_of_exit(struct vcpu *vcpu, const WHV_RUN_VP_EXIT_CONTEXT *exit, struct memory_access *access)
{
    struct exit_mark mark = {0, 0};
    enum status status = read_mark(exit, &mark);

    if (status == STATUS_OK)
        status = get_due(vcpu, access);
    if (status == STATUS_OK && (mark.rip != access->exit_rip || mark.gpa != access->exit_gpa))
        status = fail(STATUS_INVALID_ARGUMENT,
                      "ExitContext (RIP 0x%llx, GPA 0x%llx) is not the latest exit (RIP 0x%llx, GPA 0x%llx)",
                      (unsigned long long)mark.rip, (unsigned long long)mark.gpa, (unsigned long long)access->exit_rip,
                      (unsigned long long)access->exit_gpa);
    return status;
}

static enum status get(struct vcpu *vcpu, const WHV_RUN_VP_EXIT_CONTEXT *exit, OWHP_MEMORY_ACCESS *out)
{
    struct memory_access access;
    OWHP_MEMORY_ACCESS told;
    enum status status = vcpu_begin_use(vcpu);

    if (status != STATUS_OK)
        return status;
    status = require_pointer(out, "Access");
    if (status == STATUS_OK)
        status = get_of_exit(vcpu, exit, &access);
    vcpu_end_use(vcpu);
    if (status != STATUS_OK)
        return status;
    to_api(&access, &told);
    return caller_write(out, &told, sizeof(told), "Access");
}

HRESULT WINAPI OwhpGetMemoryAccess(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, const WHV_RUN_VP_EXIT_CONTEXT *ExitContext,
                                   OWHP_MEMORY_ACCESS *Access)
{
    RETURN_ON_VCPU(Partition, VpIndex, get(vcpu, ExitContext, Access));
}

static enum status complete_due(struct vcpu *vcpu, struct memory_access *access, bool *more)
{
    const struct engine *engine = vcpu->partition->engine;

    return engine->complete_access ? engine->complete_access(vcpu->engine, access, more)
                                   : fail(STATUS_NOT_SUPPORTED, "engine %s does not complete accesses", engine->name);
}

static enum status complete_told(struct vcpu *vcpu, OWHP_MEMORY_ACCESS *told, bool *more)
{
    struct memory_access access;
    enum status status;

    if (told->SizeInBytes > 8 || (UINT32)told->AccessType > WHvMemoryAccessWrite)
        return fail(STATUS_INVALID_ARGUMENT, "an access of type %u and %u bytes cannot be completed", (unsigned)told->AccessType,
                    told->SizeInBytes);
    access = (struct memory_access){.gpa = told->Gpa, .type = (uint8_t)told->AccessType, .size = (uint8_t)told->SizeInBytes,
                                    .data = told->Data};
    status = complete_due(vcpu, &access, more);
    if (*more)
        to_api(&access, told);
    return status;
}

static enum status complete(struct vcpu *vcpu, OWHP_MEMORY_ACCESS *caller, bool *more)
{
    OWHP_MEMORY_ACCESS told;
    enum status status = vcpu_begin_use(vcpu);

    if (status != STATUS_OK)
        return status;
    status = require_pointer(caller, "Access");
    if (status == STATUS_OK)
        status = caller_read(&told, caller, sizeof(told), "Access");
    if (status == STATUS_OK)
        status = complete_told(vcpu, &told, more);
    vcpu_end_use(vcpu);
    /* (What becomes inaccessible meanwhile has been answered all the same.) */
    return status == STATUS_OK && *more ? caller_write(caller, &told, sizeof(told), "Access") : status;
}

static enum status complete_on(WHV_PARTITION_HANDLE handle, UINT32 index, OWHP_MEMORY_ACCESS *access, bool *more)
{
    struct partition *partition = partition_get((uintptr_t)handle);
    struct vcpu *vcpu = NULL;

    if (!partition)
        return STATUS_BAD_HANDLE;
    enum status status = partition_vcpu(partition, index, &vcpu);
    if (status == STATUS_OK)
        status = complete(vcpu, access, more);
    partition_put((uintptr_t)handle);
    return status;
}

/* Two kinds of success: RETURN_ON_VCPU knows only one. */
HRESULT WINAPI OwhpCompleteMemoryAccess(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, OWHP_MEMORY_ACCESS *Access)
{
    bool more = false;
    HRESULT result = api_result(__func__, complete_on(Partition, VpIndex, Access, &more));

    return result == S_OK && more ? S_FALSE : result;
}
