/* WHvGetVirtualProcessorRegisters, WHvSetVirtualProcessorRegisters: copied through aligned arrays of ours, so that the
 * caller's may have any alignment. */
#include "api/api.h"

#include <stdlib.h>

/* ---- the numbers and layouts that core/registers.h takes over from the API ---- */

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)
SAME(VREG_RAX, WHvX64RegisterRax);
SAME(VREG_R15, WHvX64RegisterR15);
SAME(VREG_RIP, WHvX64RegisterRip);
SAME(VREG_RFLAGS, WHvX64RegisterRflags);
SAME(VREG_ES, WHvX64RegisterEs);
SAME(VREG_CS, WHvX64RegisterCs);
SAME(VREG_SS, WHvX64RegisterSs);
SAME(VREG_DS, WHvX64RegisterDs);
SAME(VREG_FS, WHvX64RegisterFs);
SAME(VREG_GS, WHvX64RegisterGs);
SAME(VREG_LDTR, WHvX64RegisterLdtr);
SAME(VREG_TR, WHvX64RegisterTr);
SAME(VREG_IDTR, WHvX64RegisterIdtr);
SAME(VREG_GDTR, WHvX64RegisterGdtr);
SAME(VREG_CR0, WHvX64RegisterCr0);
SAME(VREG_CR2, WHvX64RegisterCr2);
SAME(VREG_CR3, WHvX64RegisterCr3);
SAME(VREG_CR4, WHvX64RegisterCr4);
SAME(VREG_CR8, WHvX64RegisterCr8);
SAME(VREG_DR0, WHvX64RegisterDr0);
SAME(VREG_DR3, WHvX64RegisterDr3);
SAME(VREG_DR6, WHvX64RegisterDr6);
SAME(VREG_DR7, WHvX64RegisterDr7);
SAME(VREG_XCR0, WHvX64RegisterXCr0);
SAME(VREG_XMM0, WHvX64RegisterXmm0);
SAME(VREG_XMM15, WHvX64RegisterXmm15);
SAME(VREG_FPMMX0, WHvX64RegisterFpMmx0);
SAME(VREG_FPMMX7, WHvX64RegisterFpMmx7);
SAME(VREG_FP_CONTROL_STATUS, WHvX64RegisterFpControlStatus);
SAME(VREG_XMM_CONTROL_STATUS, WHvX64RegisterXmmControlStatus);
SAME(VREG_TSC, WHvX64RegisterTsc);
SAME(VREG_EFER, WHvX64RegisterEfer);
SAME(VREG_KERNEL_GS_BASE, WHvX64RegisterKernelGsBase);
SAME(VREG_APIC_BASE, WHvX64RegisterApicBase);
SAME(VREG_PAT, WHvX64RegisterPat);
SAME(VREG_SYSENTER_CS, WHvX64RegisterSysenterCs);
SAME(VREG_SYSENTER_EIP, WHvX64RegisterSysenterEip);
SAME(VREG_SYSENTER_ESP, WHvX64RegisterSysenterEsp);
SAME(VREG_STAR, WHvX64RegisterStar);
SAME(VREG_LSTAR, WHvX64RegisterLstar);
SAME(VREG_CSTAR, WHvX64RegisterCstar);
SAME(VREG_SFMASK, WHvX64RegisterSfmask);
SAME(VREG_INITIAL_APIC_ID, WHvX64RegisterInitialApicId);
SAME(VREG_MTRR_CAP, WHvX64RegisterMsrMtrrCap);
SAME(VREG_MTRR_DEF_TYPE, WHvX64RegisterMsrMtrrDefType);
SAME(VREG_MTRR_PHYS_BASE0, WHvX64RegisterMsrMtrrPhysBase0);
SAME(VREG_MTRR_PHYS_MASK0, WHvX64RegisterMsrMtrrPhysMask0);
SAME(VREG_MTRR_FIX64K_00000, WHvX64RegisterMsrMtrrFix64k00000);
SAME(VREG_MTRR_FIX4K_F8000, WHvX64RegisterMsrMtrrFix4kF8000);
SAME(VREG_TSC_AUX, WHvX64RegisterTscAux);
SAME(VREG_SPEC_CTRL, WHvX64RegisterSpecCtrl);
SAME(VREG_PRED_CMD, WHvX64RegisterPredCmd);
SAME(VREG_TSC_VIRTUAL_OFFSET, WHvX64RegisterTscVirtualOffset);
SAME(VREG_XSS, WHvX64RegisterXss);
SAME(VREG_TSC_DEADLINE, WHvX64RegisterTscDeadline);
SAME(VREG_TSC_ADJUST, WHvX64RegisterTscAdjust);
SAME(VREG_MISC_ENABLE, WHvX64RegisterMsrIa32MiscEnable);
SAME(VREG_FEATURE_CONTROL, WHvX64RegisterIa32FeatureControl);
SAME(VREG_APIC_FIRST, WHvX64RegisterApicId);
SAME(VREG_APIC_LAST, WHvX64RegisterApicSelfIpi);
SAME(VREG_VP_RUNTIME, WHvRegisterVpRuntime);
SAME(VREG_YMM0_HIGH, OwhpX64RegisterYmmHigh(0));
SAME(VREG_YMM15_HIGH, OwhpX64RegisterYmmHigh(15));
SAME(VREG_PKRU, OwhpX64RegisterPkru);
SAME(VREG_PENDING_INTERRUPTION, WHvRegisterPendingInterruption);
SAME(VREG_INTERRUPT_STATE, WHvRegisterInterruptState);
SAME(VREG_PENDING_EVENT, WHvRegisterPendingEvent);
SAME(VREG_PENDING_EVENT1, WHvRegisterPendingEvent1);
SAME(VREG_DELIVERABILITY_NOTIFICATIONS, WHvRegisterDeliverabilityNotifications);
SAME(VREG_INTERNAL_ACTIVITY_STATE, WHvRegisterInternalActivityState);
SAME(VREG_PENDING_DEBUG_EXCEPTION, WHvX64RegisterPendingDebugException);
SAME(VREG_PENDING_EVENT2, WHvRegisterPendingEvent2);
SAME(VREG_PENDING_EVENT3, WHvRegisterPendingEvent3);

SAME(sizeof(union vreg_value), sizeof(WHV_REGISTER_VALUE));
SAME(sizeof(uint32_t), sizeof(WHV_REGISTER_NAME));
SAME(offsetof(union vreg_value, segment.limit), offsetof(WHV_REGISTER_VALUE, Segment.Limit));
SAME(offsetof(union vreg_value, segment.selector), offsetof(WHV_REGISTER_VALUE, Segment.Selector));
SAME(offsetof(union vreg_value, segment.attributes), offsetof(WHV_REGISTER_VALUE, Segment.Attributes));
SAME(offsetof(union vreg_value, table.limit), offsetof(WHV_REGISTER_VALUE, Table.Limit));
SAME(offsetof(union vreg_value, table.base), offsetof(WHV_REGISTER_VALUE, Table.Base));
#undef SAME

/* ---- batches ---- */

enum { ON_STACK = 64, COUNT_LIMIT = 65536 };

struct batch {
    uint32_t count;
    uint32_t *names;
    union vreg_value *values;
    void *heap; /* for more than ON_STACK */
    uint32_t stack_names[ON_STACK];
    union vreg_value stack_values[ON_STACK];
};

static enum status batch_init(struct batch *batch, const WHV_REGISTER_NAME *names, UINT32 count)
{
    batch->count = count;
    batch->heap = NULL;
    batch->names = batch->stack_names;
    batch->values = batch->stack_values;
    if (unlikely(count > COUNT_LIMIT))
        return fail(STATUS_INVALID_ARGUMENT, "RegisterCount %u is above %d", count, COUNT_LIMIT);
    if (unlikely(count > ON_STACK)) {
        size_t size = count * (sizeof(union vreg_value) + sizeof(uint32_t));
        batch->heap = aligned_alloc(16, (size + 15) & ~(size_t)15);
        if (!batch->heap)
            return fail(STATUS_NO_MEMORY, "no memory for %u registers", count);
        batch->values = batch->heap;
        batch->names = (uint32_t *)(void *)(batch->values + count);
    }
    enum status status = caller_read(batch->names, names, count * sizeof(*names), "RegisterNames");
    if (status != STATUS_OK)
        free(batch->heap);
    return status;
}

/*
 * Names of the API that belong to features no engine has: two ways to be refused, and the header promises that they differ.
 */
static bool is_of_absent_feature(uint32_t name)
{
    static const struct {
        WHV_REGISTER_NAME first, last;
    } ranges[] = {
        {WHvX64RegisterVirtualCr0, WHvX64RegisterVirtualCr8},                     /* nested virtualization */
        {WHvX64RegisterMsrMtrrPhysBase8, WHvX64RegisterMsrMtrrPhysBaseF},         /* MTRRs: there are eight */
        {WHvX64RegisterMsrMtrrPhysMask8, WHvX64RegisterMsrMtrrPhysMaskF},
        {WHvX64RegisterBndcfgs, WHvX64RegisterBndcfgs},                           /* MPX */
        {WHvX64RegisterMCount, WHvX64RegisterACount},                             /* MPERF, APERF */
        {WHvX64RegisterTsxCtrl, WHvX64RegisterTsxCtrl},
        {WHvX64RegisterUCet, WHvX64RegisterInterruptSspTableAddr},                /* shadow stacks */
        {WHvX64RegisterUmwaitControl, WHvX64RegisterXfdErr},
        {WHvX64RegisterIa32VmxBasic, WHvX64RegisterAmdVmCr},                      /* nested virtualization */
        {WHvRegisterSint0, WHvRegisterEom},                                       /* the Hyper-V interface */
        {WHvX64RegisterHypercall, WHvRegisterGuestOsId},
        {WHvRegisterVpAssistPage, WHvRegisterVpAssistPage},
        {WHvRegisterReferenceTsc, WHvRegisterReferenceTsc},
        {WHvRegisterReferenceTscSequence, WHvRegisterReferenceTscSequence},
        {WHvX64RegisterNestedGuestState, WHvX64RegisterNestedVmxInvVpid},
        {OwhpX64RegisterYmmHigh(0), OwhpX64RegisterPkru},                         /* AVX, PKU */
    };

    for (size_t i = 0; i < array_size(ranges); i++)
        if (name >= (uint32_t)ranges[i].first && name <= (uint32_t)ranges[i].last)
            return true;
    return false;
}

/* The engine knows none of these names. If one is not the API's, that is what is wrong with the call. */
static enum status refuse_names(struct vcpu *vcpu, const struct batch *batch, enum status status)
{
    const struct engine *engine = vcpu->partition->engine;
    union vreg_value ignored;

    if (status != STATUS_INVALID_VP_REGISTER_NAME)
        return status;
    for (uint32_t i = 0; i < batch->count; i++)
        if (!is_of_absent_feature(batch->names[i]) &&
            engine->get_registers(vcpu->engine, &batch->names[i], 1, &ignored) == STATUS_INVALID_VP_REGISTER_NAME)
            return STATUS_INVALID_VP_REGISTER_NAME;
    return fail(STATUS_HV_INVALID_PARAMETER, "a register of a feature that the partition does not have");
}

static enum status get(struct vcpu *vcpu, const WHV_REGISTER_NAME *names, UINT32 count, WHV_REGISTER_VALUE *values)
{
    struct batch batch;

    if (count && !(names && values))
        return fail(STATUS_BAD_POINTER, "%s is NULL", names ? "RegisterValues" : "RegisterNames");
    enum status status = batch_init(&batch, names, count);
    if (status != STATUS_OK)
        return status;
    status = vcpu_begin_use(vcpu);
    if (status == STATUS_OK) {
        status = vcpu->partition->engine->get_registers(vcpu->engine, batch.names, count, batch.values);
        if (unlikely(status != STATUS_OK))
            status = refuse_names(vcpu, &batch, status);
        vcpu_end_use(vcpu);
    }
    if (status == STATUS_OK)
        status = caller_write(values, batch.values, count * sizeof(*values), "RegisterValues");
    free(batch.heap);
    return status;
}

HRESULT WINAPI WHvGetVirtualProcessorRegisters(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                               const WHV_REGISTER_NAME *RegisterNames, UINT32 RegisterCount,
                                               WHV_REGISTER_VALUE *RegisterValues)
{
    RETURN_ON_VCPU(Partition, VpIndex, get(vcpu, RegisterNames, RegisterCount, RegisterValues));
}

static enum status set(struct vcpu *vcpu, const WHV_REGISTER_NAME *names, UINT32 count,
                       const WHV_REGISTER_VALUE *values)
{
    struct batch batch;

    if (count && !(names && values))
        return fail(STATUS_BAD_POINTER, "%s is NULL", names ? "RegisterValues" : "RegisterNames");
    enum status status = batch_init(&batch, names, count);
    if (status != STATUS_OK)
        return status;
    status = caller_read(batch.values, values, count * sizeof(*values), "RegisterValues");
    if (status == STATUS_OK)
        status = vcpu_begin_use(vcpu);
    if (status == STATUS_OK) {
        status = vcpu->partition->engine->set_registers(vcpu->engine, batch.names, count, batch.values);
        if (unlikely(status != STATUS_OK))
            status = refuse_names(vcpu, &batch, status);
        vcpu_end_use(vcpu);
    }
    free(batch.heap);
    return status;
}

HRESULT WINAPI WHvSetVirtualProcessorRegisters(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                               const WHV_REGISTER_NAME *RegisterNames, UINT32 RegisterCount,
                                               const WHV_REGISTER_VALUE *RegisterValues)
{
    RETURN_ON_VCPU(Partition, VpIndex, set(vcpu, RegisterNames, RegisterCount, RegisterValues));
}
