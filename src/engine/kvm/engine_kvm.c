/*
 * The kvm engine's table. Partitions and processors are those of the machine in engine/soft, each with a virtual machine of KVM
 * beside it; kvm.h says where the rest is.
 */
#include "engine/kvm/kvm.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "os/kick.h"
#include "util/last_error.h"
#include "x86/system/control.h"

enum { RING_ENTRIES = 4096, RING_OFFSET_PAGES = KVM_DIRTY_LOG_PAGE_OFFSET };

static const struct executor executor = {.run = kvm_execute, .interrupt = kvm_interrupt, .memory_changed = kvm_memory_changed,
                                         .limit_cpuid = kvm_cpuid_limit};

/* What KVM cannot give: exits of CPUID, RDTSC, exceptions and hypercalls, which it serves inside the kernel. */
static void capabilities(struct engine_capabilities *out)
{
    struct cpuid_config cpuid;
    char why[128];

    engine_soft.capabilities(out);
    cpuid_init(&cpuid);
    cpuid_set(&cpuid, FEATURE_TSC_DEADLINE, true);
    kvm_cpuid_limit(&cpuid);
    cpuid_get_banks(&cpuid, out->processor_features);
    out->xsave_features = cpuid_get_xsave(&cpuid);
    for (unsigned i = 0; i < 2; i++)
        out->features_on_request[i] &= out->processor_features[i];
    out->xsave_on_request &= out->xsave_features;
    out->physical_address_bits = kvm_address_bits(out->physical_address_bits);
    out->extended_exits &=
        ~(uint64_t)(EXTENDED_EXIT_CPUID | EXTENDED_EXIT_EXCEPTION | EXTENDED_EXIT_RDTSC | EXTENDED_EXIT_HYPERCALL);
    out->exception_exits = 0;
    out->differences = DIFFERENCE_UNMAPPED_PAGE_TABLES | DIFFERENCE_DEBUG_CHAINS | DIFFERENCE_SPLIT_STORES |
                       DIFFERENCE_HOST_VENDOR | DIFFERENCE_NO_MONITOR |
                       (kvm_is_fast(why, sizeof(why)) ? DIFFERENCE_READS_MAY_BE_DIRTY | DIFFERENCE_NO_FLUSH_EXITS
                                                      : DIFFERENCE_INTERPRETED);
}

/* ---- virtual machines ---- */

static void machine_destroy(struct kvm_partition *kvm)
{
    for (unsigned i = 0; i < SOFT_MAXIMUM_PROCESSORS; i++)
        if (kvm->parked[i] >= 0)
            close(kvm->parked[i]);
    kvm_slots_fini(kvm);
    if (kvm->vm >= 0)
        close(kvm->vm);
    if (kvm->device >= 0)
        close(kvm->device);
    free(kvm->bitmap);
    free(kvm);
}

static bool enable(const struct kvm_partition *kvm, uint32_t capability, uint64_t argument)
{
    struct kvm_enable_cap cap = {.cap = capability, .args = {argument}};

    return !kvm_call(kvm->vm, KVM_ENABLE_CAP, &cap);
}

/* Where Intel processors keep what they need for real mode: below the BIOS at the top of 4 GiB. */
#define IDENTITY_MAP_GPA 0xfeffc000ull
#define TSS_GPA 0xfeffd000ull

/* NULL: done; else the call that failed. */
static const char *machine_settings(struct kvm_partition *kvm)
{
    uint64_t identity = IDENTITY_MAP_GPA;
    char why[128];
    int size = ioctl(kvm->device, KVM_GET_VCPU_MMAP_SIZE, 0);

    if (size <= 0)
        return "KVM_GET_VCPU_MMAP_SIZE";
    kvm->run_size = (size_t)size;
    if (ioctl(kvm->device, KVM_CHECK_EXTENSION, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0 &&
        kvm_call(kvm->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity))
        return "KVM_SET_IDENTITY_MAP_ADDR";
    if (ioctl(kvm->device, KVM_CHECK_EXTENSION, KVM_CAP_SET_TSS_ADDR) > 0 && ioctl(kvm->vm, KVM_SET_TSS_ADDR, TSS_GPA) < 0)
        return "KVM_SET_TSS_ADDR";
    kvm->interprets = !kvm_is_fast(why, sizeof(why));
    if (!kvm->interprets && enable(kvm, KVM_CAP_DIRTY_LOG_RING, RING_ENTRIES * sizeof(struct kvm_dirty_gfn)))
        kvm->ring_size = RING_ENTRIES * sizeof(struct kvm_dirty_gfn);
    kvm->clears_log = !kvm->ring_size && enable(kvm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
    if (!enable(kvm, KVM_CAP_X86_USER_SPACE_MSR,
                KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER))
        return "KVM_CAP_X86_USER_SPACE_MSR";
    (void)enable(kvm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
    kvm->has_tsc_offset = ioctl(kvm->device, KVM_CHECK_EXTENSION, KVM_CAP_VCPU_ATTRIBUTES) > 0;
    kvm_slots_init(kvm);
    return NULL;
}

static enum status machine_create(struct kvm_partition **out)
{
    struct kvm_partition *kvm = calloc(1, sizeof(*kvm));
    char why[128] = "";
    const char *failed = NULL;

    if (!kvm)
        return fail(STATUS_NO_MEMORY, "no memory for a virtual machine");
    memset(kvm->parked, 0xff, sizeof(kvm->parked));
    kvm->vm = -1;
    kvm->device = kvm_open(why, sizeof(why));
    if (kvm->device >= 0)
        kvm->vm = kvm_call(kvm->device, KVM_CREATE_VM, NULL);
    if (kvm->vm >= 0)
        failed = machine_settings(kvm);
    if (kvm->device >= 0 && kvm->vm >= 0 && !failed) {
        *out = kvm;
        return STATUS_OK;
    }
    enum status status = kvm->device < 0 ? fail(kvm_open_status(), "engine kvm: %s", why)
                                         : fail(STATUS_NO_MEMORY, "engine kvm: %s failed", failed ? failed : "KVM_CREATE_VM");
    machine_destroy(kvm);
    return status;
}

static void hold(void *partition)
{
    soft_hold(partition);
    kvm_log_collect(partition);
}

static enum status partition_create(const struct partition_config *config, struct gpa_space *space, struct engine_partition **out)
{
    struct kvm_partition *kvm = NULL;
    struct engine_partition *p = NULL;
    enum status status =
        kick_init() ? machine_create(&kvm) : fail(STATUS_UNSUPPORTED_HYPERVISOR_CONFIG, "the signal for kicks is in use");

    if (status == STATUS_OK)
        status = engine_soft.partition_create(config, space, &p);
    if (status != STATUS_OK) {
        if (kvm)
            machine_destroy(kvm);
        return status;
    }
    p->kvm = kvm;
    p->executor = &executor;
    p->listener.marks_late = true;
    p->listener.hold = hold;
    if (!kvm_msrs_set_filter(p)) {
        engine_soft.partition_destroy(p);
        machine_destroy(kvm);
        return fail(STATUS_UNEXPECTED, "engine kvm: KVM_X86_SET_MSR_FILTER failed");
    }
    *out = p;
    return STATUS_OK;
}

static void partition_destroy(struct engine_partition *p)
{
    struct kvm_partition *kvm = p->kvm;

    engine_soft.partition_destroy(p);
    machine_destroy(kvm);
}

/* ---- processors ---- */

static void half_destroy(struct engine_partition *p, uint32_t index, struct kvm_vcpu *k)
{
    if (k->ring)
        munmap(k->ring, p->kvm->ring_size);
    if (k->run)
        munmap(k->run, p->kvm->run_size);
    if (k->fd >= 0)
        p->kvm->parked[index] = k->fd;
    free(k);
}

static void *map_part(const struct kvm_vcpu *k, size_t size, size_t page)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, (off_t)(page << PAGE_SHIFT));

    return at == MAP_FAILED ? NULL : at;
}

static bool half_create(struct engine_partition *p, uint32_t index, struct kvm_vcpu *k)
{
    k->fd = p->kvm->parked[index];
    p->kvm->parked[index] = -1;
    if (k->fd < 0)
        k->fd = ioctl(p->kvm->vm, KVM_CREATE_VCPU, index);
    if (k->fd < 0)
        return false;
    k->run = map_part(k, p->kvm->run_size, 0);
    if (p->kvm->ring_size)
        k->ring = map_part(k, p->kvm->ring_size, RING_OFFSET_PAGES);
    k->ring_entries = RING_ENTRIES;
    return k->run && (k->ring || !p->kvm->ring_size);
}

static enum status vcpu_create(struct engine_partition *p, uint32_t index, struct engine_vcpu **out)
{
    struct kvm_vcpu *k = calloc(1, sizeof(*k));
    struct engine_vcpu *vcpu = NULL;

    if (!k)
        return fail(STATUS_NO_MEMORY, "no memory for processor %u", index);
    bool is_new = p->kvm->parked[index] < 0;
    k->whole = true;
    enum status status = half_create(p, index, k) ? engine_soft.vcpu_create(p, index, &vcpu)
                                                  : fail(STATUS_NO_MEMORY, "engine kvm: KVM has no processor %u to give", index);
    if (status == STATUS_OK) {
        vcpu->kvm = k;
        if (is_new && !kvm_cpuid_set(vcpu))
            status =
                fail(STATUS_UNEXPECTED, "engine kvm: KVM_SET_CPUID2 failed, or there are results for more than 200 sub-leaves");
        else if (kvm_call(k->fd, KVM_GET_SREGS, &k->mirror.sregs))
            status = fail(STATUS_UNEXPECTED, "engine kvm: KVM_GET_SREGS failed");
    }
    if (status == STATUS_OK) {
        *out = vcpu;
        return STATUS_OK;
    }
    if (vcpu) {
        vcpu->kvm = NULL;
        engine_soft.vcpu_destroy(vcpu);
    }
    half_destroy(p, index, k);
    return status;
}

static void vcpu_destroy(struct engine_vcpu *vcpu)
{
    struct engine_partition *p = vcpu->partition;
    struct kvm_vcpu *k = vcpu->kvm;
    uint32_t index = vcpu->index;

    kvm_open_forget(vcpu); /* who gets the descriptor next must not find it */
    engine_soft.vcpu_destroy(vcpu);
    half_destroy(p, index, k);
}

/* ---- single calls: the machine's, on a whole state ---- */

/* Registers that every exit brings along. */
static bool are_at_hand(const uint32_t *names, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (names[i] > VREG_CR8 && names[i] != VREG_EFER)
            return false;
    return true;
}

static enum status complete(struct engine_vcpu *vcpu)
{
    return kvm_state_complete(vcpu)
               ? STATUS_OK
               : fail(STATUS_NO_MEMORY, "engine kvm: KVM does not give the registers of processor %u", vcpu->index);
}

static enum status get_registers(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, union vreg_value *values)
{
    enum status status = are_at_hand(names, count) ? STATUS_OK : complete(vcpu);

    return status != STATUS_OK ? status : engine_soft.get_registers(vcpu, names, count, values);
}

static enum status set_registers(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, const union vreg_value *values)
{
    enum status status = are_at_hand(names, count) ? STATUS_OK : complete(vcpu);

    return status != STATUS_OK ? status : engine_soft.set_registers(vcpu, names, count, values);
}

static enum status get_xsave(struct engine_vcpu *vcpu, void *buffer, uint32_t size, uint32_t *written)
{
    enum status status = complete(vcpu);

    return status != STATUS_OK ? status : engine_soft.get_xsave(vcpu, buffer, size, written);
}

static enum status set_xsave(struct engine_vcpu *vcpu, const void *buffer, uint32_t size)
{
    enum status status = complete(vcpu);

    return status != STATUS_OK ? status : engine_soft.set_xsave(vcpu, buffer, size);
}

static enum status complete_access(struct engine_vcpu *vcpu, struct memory_access *access, bool *more)
{
    enum status status = vcpu->kvm->open.is_open ? STATUS_OK : complete(vcpu);

    return status != STATUS_OK ? status : engine_soft.complete_access(vcpu, access, more);
}

static enum status save_vcpu(struct engine_vcpu *vcpu, struct vcpu_state *state)
{
    enum status status = complete(vcpu);

    return status != STATUS_OK ? status : soft_save_vcpu(vcpu, state);
}

static enum status load_vcpu(struct engine_vcpu *vcpu, const struct vcpu_state *state)
{
    enum status status = complete(vcpu);

    return status != STATUS_OK ? status : soft_load_vcpu(vcpu, state);
}

static enum status partition_reset(struct engine_partition *p)
{
    enum status status = STATUS_OK;

    for (unsigned i = 0; i < SOFT_MAXIMUM_PROCESSORS && status == STATUS_OK; i++)
        if (p->vcpus[i])
            status = complete(p->vcpus[i]);
    return status == STATUS_OK ? engine_soft.partition_reset(p) : status;
}

const struct engine engine_kvm = {
    .name = "kvm",
    .copies_memory = true,
    .usable = kvm_usable,
    .is_fast = kvm_is_fast,
    .capabilities = capabilities,
    .partition_create = partition_create,
    .partition_destroy = partition_destroy,
    .partition_reset = partition_reset,
    .vcpu_create = vcpu_create,
    .vcpu_destroy = vcpu_destroy,
    .get_registers = get_registers,
    .set_registers = set_registers,
    .get_xsave = get_xsave,
    .set_xsave = set_xsave,
    .get_access = completion_get,
    .complete_access = complete_access,
    .time_suspend = soft_time_suspend,
    .time_resume = soft_time_resume,
    .reference_time = soft_reference_time,
    .request_interrupt = soft_request_interrupt,
    .interrupt_targets = soft_interrupt_targets,
    .run = kvm_run_vcpu,
    .kick = soft_kick,
    .clear_kick = soft_clear_kick,
    .get_apic = soft_get_apic,
    .set_apic = soft_set_apic,
    .apic_publish = soft_apic_publish,
    .apic_accepts_write = soft_apic_accepts_write,
    .apic_access = soft_apic_access,
    .save_time = soft_save_time,
    .load_time = soft_load_time,
    .save_vcpu = save_vcpu,
    .check_vcpu = soft_check_vcpu,
    .load_vcpu = load_vcpu,
    .cpuid = soft_vcpu_cpuid,
    .walk_state = soft_vcpu_walk_state,
    .counters = soft_vcpu_counters,
};
