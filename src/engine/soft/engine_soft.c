/*
 * The soft engine: a software x86-64 processor that needs nothing from the host. This file is its table and its partitions;
 * soft.h says where the rest is.
 */
#include "engine/soft/soft.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "os/guarded.h"
#include "util/last_error.h"
#include "x86/system/control.h"

static enum status usable(char *why, size_t size)
{
    if (guarded_init())
        return STATUS_OK;
    snprintf(why, size, "the handlers of SIGSEGV and SIGBUS cannot be installed");
    return STATUS_UNSUPPORTED_HYPERVISOR_CONFIG;
}

static void capabilities(struct engine_capabilities *out)
{
    struct cpuid_config cpuid;

    cpuid_init(&cpuid);
    cpuid_set(&cpuid, FEATURE_TSC_DEADLINE, true); /* with local APIC emulation */
    *out = (struct engine_capabilities){
        /* PartialUnmap, LocalApicEmulation, Xsave, DirtyPageTracking, IdleSuspend, VpHotAddRemove */
        .features = 1 | 2 | 4 | 8 | 1u << 6 | 1u << 9,
        .extended_exits = EXTENDED_EXIT_CPUID | EXTENDED_EXIT_MSR | EXTENDED_EXIT_EXCEPTION | EXTENDED_EXIT_RDTSC |
                          EXTENDED_EXIT_APIC_SMI | EXTENDED_EXIT_HYPERCALL | EXTENDED_EXIT_APIC_INIT_SIPI |
                          EXTENDED_EXIT_APIC_LINT0 | EXTENDED_EXIT_APIC_LINT1 | EXTENDED_EXIT_APIC_SVR |
                          EXTENDED_EXIT_APIC_LDR | EXTENDED_EXIT_APIC_DFR,
        .exception_exits = 0x00000000002f7dfbu, /* all but NMI, 9, 15, 20 and the reserved ones */
        .msr_exits = 0x3f,
        .vendor = cpuid.is_amd ? 0 : 1,
        .clflush_size_log2 = 3, /* in units of 8 bytes: 64 */
        .physical_address_bits = 48,
        .tsc_frequency = host_tsc_frequency(),
        .apic_frequency = 200000000,
        .maximum_processors = SOFT_MAXIMUM_PROCESSORS,
    };
    cpuid_get_banks(&cpuid, out->processor_features);
    out->xsave_features = cpuid_get_xsave(&cpuid);
    cpuid_get_on_request(out->features_on_request, &out->xsave_on_request);
    while ((1u << out->clflush_size_log2) < cpuid.clflush_size)
        out->clflush_size_log2++;
}

/* ---- partitions ---- */

static void destroy(struct engine_partition *p)
{
    if (p->listener.ctx)
        gpa_space_remove_listener(p->space, &p->listener);
    apic_bus_destroy(p->bus);
    timer_queue_destroy(p->timers);
    if (p->code_users)
        munmap(p->code_users, CODE_SLOTS);
    clock_fini(&p->clock);
    pthread_rwlock_destroy(&p->members);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->exclusive);
    free(p);
}

static enum status create_parts(struct engine_partition *p)
{
    enum status status = timer_queue_create(&p->clock, &p->timers);

    if (status != STATUS_OK)
        return status;
    p->code_users = mmap(NULL, CODE_SLOTS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p->code_users == MAP_FAILED) {
        p->code_users = NULL;
        return fail(STATUS_NO_MEMORY, "no address space for the partition's code page table");
    }
    return apic_bus_create(p->config, p->timers, &p->bus);
}

static enum status partition_create(const struct partition_config *config, struct gpa_space *space,
                                    struct engine_partition **out)
{
    struct engine_partition *p = calloc(1, sizeof(*p));
    enum status status;

    if (!p)
        return fail(STATUS_NO_MEMORY, "no memory for a partition");
    p->config = config;
    p->space = space;
    pthread_rwlock_init(&p->members, NULL);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    pthread_mutex_init(&p->exclusive, NULL);
    clock_init(&p->clock);
    if (!guarded_init())
        status = fail(STATUS_UNEXPECTED, "the handler for memory faults could not be installed");
    else
        status = create_parts(p);
    if (status != STATUS_OK) {
        destroy(p);
        return status;
    }
    p->listener = (struct gpa_listener){.hold = soft_hold, .release = soft_release, .wrote = soft_wrote, .ctx = p};
    gpa_space_add_listener(space, &p->listener);
    *out = p;
    return STATUS_OK;
}

static enum status partition_reset(struct engine_partition *p)
{
    for (unsigned i = 0; i < SOFT_MAXIMUM_PROCESSORS; i++)
        if (p->vcpus[i]) {
            soft_clear_kick(p->vcpus[i]);
            soft_vcpu_reset(p->vcpus[i]);
            completion_drop(p->vcpus[i]);
        }
    clock_reset(&p->clock);
    clock_suspend(&p->clock); /* frozen until the next run */
    timer_queue_clock_changed(p->timers);
    return STATUS_OK;
}

void soft_time_suspend(struct engine_partition *p)
{
    clock_suspend(&p->clock);
    timer_queue_clock_changed(p->timers);
}

void soft_time_resume(struct engine_partition *p)
{
    clock_resume(&p->clock);
    timer_queue_clock_changed(p->timers);
}

uint64_t soft_reference_time(struct engine_partition *p)
{
    return clock_reference_time(&p->clock);
}

enum status soft_request_interrupt(struct engine_partition *p, const struct interrupt_request *request)
{
    /* Interrupts come from devices, and devices store to memory (code, for all we know) before they interrupt. */
    soft_pend_all(p, NULL, PENDING_VERIFY_CODE, REQUEST_FLUSH);
    return apic_bus_request(p->bus, request);
}

enum status soft_interrupt_targets(struct engine_partition *p, uint64_t destination, bool is_logical, uint64_t *set,
                                     size_t words)
{
    return apic_bus_targets(p->bus, destination, is_logical, set, words);
}

/* ---- single calls ---- */

enum status soft_vcpu_cpuid(struct engine_vcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    soft_cpuid(vcpu, leaf, subleaf, out);
    return STATUS_OK;
}

void soft_vcpu_walk_state(struct engine_vcpu *vcpu, struct walk_state *state, uint8_t *cpl)
{
    const struct cpu *cpu = vcpu->cpu;

    *state = (struct walk_state){.cr0 = cpu->cr0,
                                 .cr3 = cpu->cr3,
                                 .cr4 = cpu->cr4,
                                 .efer = cpu->efer,
                                 .pkru = cpu->pkru,
                                 .pkrs = (uint32_t)cpu->pkrs,
                                 .physical_bits = cpu->physical_bits,
                                 .ac = cpu->rflags & RFLAGS_AC,
                                 .no_1g_pages = !cpuid_has(&cpu->cpuid, FEATURE_PAGE1GB)};
    *cpl = cpu->cpl;
}

static enum status vcpu_set_registers(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count,
                                      const union vreg_value *values)
{
    enum status status = soft_set_registers(vcpu, names, count, values);

    if (status == STATUS_OK)
        completion_registers_set(vcpu, names, count);
    return status;
}

static enum status vcpu_set_xsave(struct engine_vcpu *vcpu, const void *buffer, uint32_t size)
{
    enum status status = soft_set_xsave(vcpu, buffer, size);

    if (status == STATUS_OK)
        completion_drop(vcpu);
    return status;
}

void soft_vcpu_counters(struct engine_vcpu *vcpu, struct vcpu_counters *out)
{
    soft_counters(vcpu, out);
}

const struct engine engine_soft = {
    .name = "soft",
    .copies_memory = true,
    .usable = usable,
    .capabilities = capabilities,
    .partition_create = partition_create,
    .partition_destroy = destroy,
    .partition_reset = partition_reset,
    .time_suspend = soft_time_suspend,
    .time_resume = soft_time_resume,
    .reference_time = soft_reference_time,
    .request_interrupt = soft_request_interrupt,
    .interrupt_targets = soft_interrupt_targets,
    .vcpu_create = soft_vcpu_create,
    .vcpu_destroy = soft_vcpu_destroy,
    .run = soft_run,
    .kick = soft_kick,
    .clear_kick = soft_clear_kick,
    .get_registers = soft_get_registers,
    .set_registers = vcpu_set_registers,
    .get_access = completion_get,
    .complete_access = completion_complete,
    .get_xsave = soft_get_xsave,
    .set_xsave = vcpu_set_xsave,
    .get_apic = soft_get_apic,
    .set_apic = soft_set_apic,
    .apic_publish = soft_apic_publish,
    .apic_accepts_write = soft_apic_accepts_write,
    .apic_access = soft_apic_access,
    .save_time = soft_save_time,
    .load_time = soft_load_time,
    .save_vcpu = soft_save_vcpu,
    .check_vcpu = soft_check_vcpu,
    .load_vcpu = soft_load_vcpu,
    .cpuid = soft_vcpu_cpuid,
    .walk_state = soft_vcpu_walk_state,
    .counters = soft_vcpu_counters,
};
