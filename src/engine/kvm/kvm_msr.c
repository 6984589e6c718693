/*
 * Model-specific registers: which of them KVM serves itself, and how those get from the processor to KVM and back. All others
 * come to us as exits, and are the software processor's.
 */
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm.h"
#include "x86/system/msr.h"

/* ---- between the processor and KVM ---- */

static const struct {
    uint32_t index;
    uint16_t offset;
} msrs[] = {
    {MSR_KERNEL_GS_BASE, offsetof(struct cpu, kernel_gs_base)},
    {MSR_STAR, offsetof(struct cpu, star)},
    {MSR_LSTAR, offsetof(struct cpu, lstar)},
    {MSR_CSTAR, offsetof(struct cpu, cstar)},
    {MSR_SFMASK, offsetof(struct cpu, sfmask)},
    {MSR_SYSENTER_CS, offsetof(struct cpu, sysenter_cs)},
    {MSR_SYSENTER_ESP, offsetof(struct cpu, sysenter_esp)},
    {MSR_SYSENTER_EIP, offsetof(struct cpu, sysenter_eip)},
    {MSR_TSC_AUX, offsetof(struct cpu, tsc_aux)},
};
_Static_assert(array_size(msrs) <= array_size(((struct kvm_mirror *)0)->msr), "the mirror holds them");

struct msr_list {
    struct kvm_msrs head;
    struct kvm_msr_entry entry[array_size(msrs)];
};

static uint64_t *msr_member(struct cpu *cpu, size_t i)
{
    return (uint64_t *)(void *)((uint8_t *)cpu + msrs[i].offset);
}

bool kvm_msrs_pull(struct engine_vcpu *vcpu)
{
    struct msr_list list = {.head = {.nmsrs = array_size(msrs)}};

    for (size_t i = 0; i < array_size(msrs); i++)
        list.entry[i].index = msrs[i].index;
    int got = ioctl(vcpu->kvm->fd, KVM_GET_MSRS, &list);
    for (int i = 0; i < got; i++)
        *msr_member(vcpu->cpu, (size_t)i) = vcpu->kvm->mirror.msr[i] = list.entry[i].data;
    return got >= 0;
}

bool kvm_msrs_push(struct engine_vcpu *vcpu)
{
    struct kvm_mirror *m = &vcpu->kvm->mirror;
    struct msr_list list = {.head = {.nmsrs = 0}};

    for (size_t i = 0; i < array_size(msrs); i++) {
        uint64_t value = *msr_member(vcpu->cpu, i);
        if (m->rest_valid && m->msr[i] == value)
            continue;
        list.entry[list.head.nmsrs++] = (struct kvm_msr_entry){.index = msrs[i].index, .data = value};
        m->msr[i] = value;
    }
    return !list.head.nmsrs || ioctl(vcpu->kvm->fd, KVM_SET_MSRS, &list) == (int)list.head.nmsrs;
}

/* ---- the filter ---- */

/*
 * The MSRs that KVM may serve: those that are carried over, when the partition does not ask for an exit. Every other
 * access comes to us and is the software processor's.
 */
bool kvm_msrs_set_filter(const struct engine_partition *p)
{
    static const struct { uint32_t first, count; } ranges[] = {{MSR_SYSENTER_CS, 3}, {MSR_EFER, 5}, {MSR_FS_BASE, 4}};
    struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_DENY};
    uint8_t bits[array_size(ranges)] = {0};

    for (size_t r = 0; r < array_size(ranges); r++) {
        for (uint32_t i = 0; i < ranges[r].count; i++) {
            bool wanted = false;
            for (size_t a = 0; a < p->config->msr_action_count; a++)
                wanted |= p->config->msr_actions[a].index == ranges[r].first + i;
            bits[r] |= (uint8_t)(!wanted << i);
        }
        filter.ranges[r] = (struct kvm_msr_filter_range){.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
                                                         .base = ranges[r].first,
                                                         .nmsrs = ranges[r].count,
                                                         .bitmap = &bits[r]};
    }
    return !kvm_call(p->kvm->vm, KVM_X86_SET_MSR_FILTER, &filter);
}
