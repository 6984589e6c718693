/*
 * Which of the software processor's features a guest may have when KVM runs it; and what CPUID says, which KVM answers itself,
 * from a list that it is given once.
 *
 * On hardware a guest gets what KVM supports (KVM_GET_SUPPORTED_CPUID): an instruction that the host's processor lacks would be
 * #UD there, whatever CPUID says. Some features are ours all the same, because KVM never sees their use: local APIC, and MSRs
 * that come to us (kvm_msrs_set_filter). Others nobody may have: their state is not carried between the two (protection
 * keys, 5-level paging), or they would promise what only the real MSR gives (speculation control, and not being vulnerable).
 * Where KVM interprets guests it hands over what it does not know, so only the latter are taken away.
 */
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "engine/kvm/kvm.h"
#include "x86/system/cpuid.h"
#include "x86/system/msr.h"

static const enum cpu_feature ours[] = {
    FEATURE_X2APIC,        FEATURE_TSC_DEADLINE,      FEATURE_HYPERVISOR,      FEATURE_TSC_ADJUST, FEATURE_APIC,
    FEATURE_TSC_INVARIANT, FEATURE_ARCH_CAPABILITIES, FEATURE_FDP_EXCPTN_ONLY, FEATURE_NO_FCS_FDS};
static const enum cpu_feature nobodys[] = {FEATURE_PKU,       FEATURE_PKS,   FEATURE_LA57,
                                           FEATURE_SPEC_CTRL, FEATURE_STIBP, FEATURE_BHI_CTRL};

enum { ENTRIES = 256 };
struct supported {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entry[ENTRIES];
};

/* What is known of the host; asked once, again when it failed. */
static struct {
    pthread_mutex_t lock;
    bool known, fast;
    uint32_t word[CPUID_WORDS];
    uint8_t address_bits;
} host = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const struct kvm_cpuid_entry2 *find_leaf(const struct supported *all, uint32_t leaf, uint32_t subleaf)
{
    for (uint32_t i = 0; i < all->head.nent; i++)
        if (all->entry[i].function == leaf &&
            (all->entry[i].index == subleaf || !(all->entry[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
            return &all->entry[i];
    return NULL;
}

static uint32_t supported_word(const struct supported *all, unsigned word)
{
    uint32_t leaf, subleaf;
    unsigned reg;

    if (!cpuid_word_place(word, &leaf, &subleaf, &reg))
        return 0;
    const struct kvm_cpuid_entry2 *e = find_leaf(all, leaf, subleaf);
    const uint32_t values[4] = {e ? e->eax : 0, e ? e->ebx : 0, e ? e->ecx : 0, e ? e->edx : 0};
    return values[reg];
}

static uint32_t arch_capabilities(int device)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } list = {.head = {.nmsrs = 1}, .entry = {.index = MSR_ARCH_CAPABILITIES}};

    return ioctl(device, KVM_GET_MSRS, &list) == 1 ? (uint32_t)list.entry.data : 0;
}

static bool ask(void)
{
    struct supported all = {.head = {.nent = ENTRIES}};
    char why[128];
    int device = kvm_open(why, sizeof(why));
    bool ok = device >= 0 && !kvm_call(device, KVM_GET_SUPPORTED_CPUID, &all);

    if (ok) {
        for (unsigned word = 0; word < CPUID_ARCH_CAPABILITIES; word++)
            host.word[word] = supported_word(&all, word);
        host.word[CPUID_ARCH_CAPABILITIES] = arch_capabilities(device);
        const struct kvm_cpuid_entry2 *sizes = find_leaf(&all, 0x80000008, 0);
        host.address_bits = sizes ? (uint8_t)sizes->eax : 36;
        host.fast = kvm_is_fast(why, sizeof(why));
    }
    if (device >= 0)
        close(device);
    return ok;
}

static bool know(void)
{
    pthread_mutex_lock(&host.lock);
    host.known = host.known || ask();
    bool known = host.known;
    pthread_mutex_unlock(&host.lock);
    return known;
}

void kvm_cpuid_limit(struct cpuid_config *config)
{
    uint32_t word[CPUID_WORDS];

    memset(word, 0xff, sizeof(word));
    if (know() && host.fast)
        memcpy(word, host.word, sizeof(word));
    for (size_t i = 0; i < array_size(ours); i++)
        word[ours[i] >> 5] |= 1u << (ours[i] & 31);
    for (size_t i = 0; i < array_size(nobodys); i++)
        word[nobodys[i] >> 5] &= ~(1u << (nobodys[i] & 31));
    for (unsigned i = 0; i < CPUID_ARCH_CAPABILITIES; i++)
        cpuid_hide(config, i, ~word[i]);
    config->word[CPUID_ARCH_CAPABILITIES] &= word[CPUID_ARCH_CAPABILITIES];
}

uint8_t kvm_address_bits(uint8_t most)
{
    return know() && host.address_bits < most ? host.address_bits : most;
}

/* ---- what the instruction says ---- */

enum { CPUID_ENTRIES = 256 }; /* more than that KVM refuses, and so do we */
struct cpuid_list {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entry[CPUID_ENTRIES + 1];
};

static void add_leaf(struct engine_vcpu *vcpu, struct cpuid_list *list, uint32_t leaf, uint32_t subleaf, bool has_subleaves)
{
    uint32_t out[4];

    if (list->head.nent > CPUID_ENTRIES)
        return;
    soft_cpuid(vcpu, leaf, subleaf, out);
    list->entry[list->head.nent++] = (struct kvm_cpuid_entry2){.function = leaf,
                                                               .index = subleaf,
                                                               .flags = has_subleaves ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
                                                               .eax = out[0],
                                                               .ebx = out[1],
                                                               .ecx = out[2],
                                                               .edx = out[3]};
}

/* A sub-leaf that nothing is said of, so that it is as all others are: behind those of add_leaves, and not singled out. */
static uint32_t other_subleaf(const struct engine_vcpu *vcpu)
{
    const struct partition_config *config = vcpu->partition->config;
    uint32_t other = 32;

    for (size_t i = 0; i < config->cpuid_override_count; i++)
        if (config->cpuid_overrides[i].subleaf_specific && config->cpuid_overrides[i].index == other) {
            other++;
            i = (size_t)-1; /* from the first again */
        }
    return other;
}

/* `other`: other_subleaf(). */
static void add_leaves(struct engine_vcpu *vcpu, struct cpuid_list *list, uint32_t first, uint32_t other)
{
    static const uint8_t subleaves[32] = {[4] = 5, [7] = 3, [0xb] = 3, [0xd] = 20, [0x12] = 3, [0x14] = 2, [0x1f] = 3};
    uint32_t out[4];

    soft_cpuid(vcpu, first, 0, out);
    uint32_t last = out[0] >= first && out[0] - first < 0x40 ? out[0] : first;
    for (uint32_t leaf = first; leaf <= last; leaf++) {
        unsigned count = first == 0 && leaf < 32 ? subleaves[leaf] : 0;
        for (uint32_t i = 0; i < (count ? count : 1); i++)
            add_leaf(vcpu, list, leaf, count ? i : other, count != 0);
    }
}

static bool is_listed(const struct cpuid_list *list, uint32_t leaf, uint32_t subleaf, uint32_t flags)
{
    for (uint32_t i = 0; i < list->head.nent; i++)
        if (list->entry[i].function == leaf && list->entry[i].flags == flags && (!flags || list->entry[i].index == subleaf))
            return true;
    return false;
}

/* Sub-leaves that the client's results single out: KVM takes the first entry that fits, so they come before the others. */
static void add_singled_out(struct engine_vcpu *vcpu, struct cpuid_list *list)
{
    const struct partition_config *config = vcpu->partition->config;

    for (size_t i = 0; i < config->cpuid_override_count; i++) {
        const struct cpuid_override *o = &config->cpuid_overrides[i];
        if (o->subleaf_specific && !is_listed(list, o->function, o->index, KVM_CPUID_FLAG_SIGNIFCANT_INDEX))
            add_leaf(vcpu, list, o->function, o->index, true);
    }
}

/* All other sub-leaves of what the client has results for: one that is not singled out stands for them. */
static void add_others(struct engine_vcpu *vcpu, struct cpuid_list *list, uint32_t other)
{
    const struct partition_config *config = vcpu->partition->config;

    for (size_t i = 0; i < config->cpuid_override_count; i++)
        if (!is_listed(list, config->cpuid_overrides[i].function, 0, 0))
            add_leaf(vcpu, list, config->cpuid_overrides[i].function, other, false);
}

bool kvm_cpuid_set(struct engine_vcpu *vcpu)
{
    const uint32_t other = other_subleaf(vcpu);
    struct cpuid_list list = {.head = {.nent = 0}};

    add_singled_out(vcpu, &list);
    add_leaves(vcpu, &list, 0, other);
    add_leaves(vcpu, &list, 0x40000000, other);
    add_leaves(vcpu, &list, 0x80000000, other);
    add_others(vcpu, &list, other);
    return list.head.nent <= CPUID_ENTRIES && !kvm_call(vcpu->kvm->fd, KVM_SET_CPUID2, &list);
}
