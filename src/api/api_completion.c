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

/* What of the caller's copy tells the exit apart. */
struct exit_mark {
    UINT64 rip;
    WHV_GUEST_PHYSICAL_ADDRESS gpa;
};

/* A copy that ends before the GPA is not of such an exit. */
static enum status read_mark(const WHV_RUN_VP_EXIT_CONTEXT *exit, struct exit_mark *mark)
{
    UINT32 head[2]; /* the reason, and what is reserved */
    enum status status = caller_read_struct(head, exit, sizeof(head), "ExitContext");

    if (unlikely(status != STATUS_OK))
        return exit ? status : require_pointer(exit, "ExitContext");
    if (unlikely(head[0] != WHvRunVpExitReasonMemoryAccess))
        return fail(STATUS_INVALID_ARGUMENT, "ExitContext is of exit 0x%x, not a memory access", head[0]);
    status = caller_read_struct(&mark->rip, &exit->VpContext.Rip, sizeof(mark->rip), "ExitContext");
    if (likely(status == STATUS_OK))
        status = caller_read_struct(&mark->gpa, &exit->MemoryAccess.Gpa, sizeof(mark->gpa), "ExitContext");
    return status;
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

static enum status get_in_use(struct vcpu *vcpu, const WHV_RUN_VP_EXIT_CONTEXT *exit, OWHP_MEMORY_ACCESS *out)
{
    struct memory_access access;
    OWHP_MEMORY_ACCESS told;
    enum status status = require_pointer(out, "Access");

    if (likely(status == STATUS_OK))
        status = get_of_exit(vcpu, exit, &access);
    if (unlikely(status != STATUS_OK))
        return status;
    to_api(&access, &told);
    return caller_write_struct(out, &told, sizeof(told), "Access");
}

static enum status get(struct vcpu *vcpu, const WHV_RUN_VP_EXIT_CONTEXT *exit, OWHP_MEMORY_ACCESS *out)
{
    enum status status = vcpu_begin_use(vcpu);

    if (unlikely(status != STATUS_OK))
        return status;
    status = get_in_use(vcpu, exit, out);
    vcpu_end_use(vcpu);
    return status;
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

static enum status complete_in_use(struct vcpu *vcpu, OWHP_MEMORY_ACCESS *caller, bool *more)
{
    OWHP_MEMORY_ACCESS told;

    if (unlikely(!caller))
        return require_pointer(caller, "Access");
    enum status status = caller_read_struct(&told, caller, sizeof(told), "Access");
    if (unlikely(status != STATUS_OK))
        return status;
    status = complete_told(vcpu, &told, more);
    /* (What becomes inaccessible meanwhile has been answered all the same.) */
    return unlikely(*more) ? caller_write_struct(caller, &told, sizeof(told), "Access") : status;
}

static enum status complete(struct vcpu *vcpu, OWHP_MEMORY_ACCESS *access, bool *more)
{
    enum status status = vcpu_begin_use(vcpu);

    if (unlikely(status != STATUS_OK))
        return status;
    status = complete_in_use(vcpu, access, more);
    vcpu_end_use(vcpu);
    return status;
}

static enum status complete_on(WHV_PARTITION_HANDLE handle, UINT32 index, OWHP_MEMORY_ACCESS *access, bool *more)
{
    struct vcpu *vcpu = NULL;
    enum status status = partition_get_vcpu((uintptr_t)handle, index, &vcpu);

    if (unlikely(status != STATUS_OK))
        return status;
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
