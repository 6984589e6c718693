/* Processors of the soft engine: creation, reset, requests from other threads, sleep. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/soft/soft.h"
#include "os/cancel.h"
#include "util/last_error.h"
#include "x86/vector/host_stub.h"

/* ---- requests ---- */

/* Work that a sleeping processor does before its next instruction anyway: not worth waking up for. */
#define REQUEST_LAZY ((uint32_t)(REQUEST_FLUSH | REQUEST_HOLD | REQUEST_ATTENTION))

void soft_vcpu_interrupt(struct engine_vcpu *vcpu)
{
    if (vcpu->partition->executor)
        vcpu->partition->executor->interrupt(vcpu);
}

void soft_vcpu_request(struct engine_vcpu *vcpu, uint32_t request)
{
    atomic_fetch_or(&vcpu->cpu->request, request);
    if (request & ~REQUEST_LAZY)
        soft_vcpu_interrupt(vcpu);
    if ((request & ~REQUEST_LAZY) && atomic_load(&vcpu->sleeping)) {
        pthread_mutex_lock(&vcpu->sleep_lock);
        pthread_cond_signal(&vcpu->wake);
        pthread_mutex_unlock(&vcpu->sleep_lock);
    }
}

/* The fence: what the caller stored before (code, say) is seen by a processor that is just taking up older work of this kind. */
void soft_vcpu_pend(struct engine_vcpu *vcpu, uint32_t pending, uint32_t request)
{
    atomic_thread_fence(memory_order_seq_cst);
    if ((atomic_load(&vcpu->pending) & pending) == pending && (atomic_load(&vcpu->cpu->request) & request) == request)
        return;
    atomic_fetch_or(&vcpu->pending, pending);
    soft_vcpu_request(vcpu, request);
}

void soft_pend_all(struct engine_partition *partition, const struct engine_vcpu *except, uint32_t pending, uint32_t request)
{
    pthread_rwlock_rdlock(&partition->members);
    uint64_t set = partition->members_set;
    for (struct engine_vcpu *v; (v = soft_next_member(partition, &set));)
        if (v != except)
            soft_vcpu_pend(v, pending, request);
    pthread_rwlock_unlock(&partition->members);
}

static struct timespec milliseconds_from_now(unsigned ms)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += ms * 1000000l;
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    return at;
}

/* At a safe point, with no work: until a request comes. */
void soft_vcpu_sleep(struct engine_vcpu *vcpu, unsigned most_ms)
{
    const struct timespec until = most_ms ? milliseconds_from_now(most_ms) : (struct timespec){0};
    int late = 0;

    pthread_mutex_lock(&vcpu->sleep_lock);
    atomic_store(&vcpu->sleeping, true);
    while (!(atomic_load(&vcpu->cpu->request) & ~REQUEST_LAZY) && !late) {
        if (most_ms)
            late = cond_timedwait(&vcpu->wake, &vcpu->sleep_lock, &until);
        else
            cond_wait(&vcpu->wake, &vcpu->sleep_lock);
    }
    atomic_store(&vcpu->sleeping, false);
    pthread_mutex_unlock(&vcpu->sleep_lock);
}

void soft_kick(struct engine_vcpu *vcpu)
{
    atomic_store(&vcpu->kicked, true);
    soft_vcpu_request(vcpu, REQUEST_CANCEL);
}

void soft_clear_kick(struct engine_vcpu *vcpu)
{
    atomic_store(&vcpu->kicked, false);
}

/* ---- what the local APIC tells ---- */

static void on_notify(void *context)
{
    soft_vcpu_request(context, REQUEST_INTERRUPT);
}

static void on_init(void *context)
{
    struct engine_vcpu *vcpu = context;

    atomic_fetch_and(&vcpu->pending, ~(uint32_t)PENDING_SIPI); /* an older one is not heard after this INIT */
    soft_vcpu_pend(context, PENDING_INIT, REQUEST_SERVICE);
}

static void on_sipi(void *context, uint8_t vector)
{
    struct engine_vcpu *vcpu = context;

    atomic_store(&vcpu->sipi_vector, vector);
    soft_vcpu_pend(vcpu, PENDING_SIPI, REQUEST_SERVICE);
}

static void on_nmi(void *context)
{
    soft_vcpu_pend(context, PENDING_NMI, REQUEST_SERVICE);
}

static void on_smi(void *context)
{
    (void)context; /* there is no system management mode: the interrupt has no effect */
}

const struct lapic_callbacks soft_lapic_callbacks = {
    .notify = on_notify, .init = on_init, .sipi = on_sipi, .nmi = on_nmi, .smi = on_smi};

/* ---- life ---- */

void soft_vcpu_reset(struct engine_vcpu *vcpu)
{
    cpu_reset(vcpu->cpu, false);
    if (vcpu->lapic)
        lapic_reset(vcpu->lapic);
    tsc_reset(&vcpu->tsc);
    atomic_store(&vcpu->pending, PENDING_DROP_MEMORY);
    atomic_store(&vcpu->cpu->request, REQUEST_FLUSH);
    vcpu->halted = false;
    soft_monitor_forget(vcpu);
    vcpu->unfinished = (struct unfinished){0};
    vcpu->wait_for_sipi = vcpu->lapic && vcpu->index != 0;
    vcpu->exit_pending = false;
    vcpu->control_unchecked = false;
    vcpu->segments_unchecked = 0;
    vcpu->cpu->interrupt_waiting = false;
    if (vcpu->index)
        vcpu->cpu->apic_base &= ~BIT64(8); /* not the bootstrap processor */
    vcpu->interruption = (struct pending_interruption){0};
    vcpu->pending_event = (union vreg_value){0};
    vcpu->notifications = 0;
}

/* Features that the partition's CPUID results hide are gone from execution too; some are there because they show them. */
static void hide_features(struct engine_vcpu *vcpu, struct cpuid_config *cpuid)
{
    uint32_t leaf, subleaf;
    unsigned reg;

    for (unsigned word = 0; cpuid_word_place(word, &leaf, &subleaf, &reg); word++) {
        uint32_t out[4] = {0};

        out[reg] = cpuid->word[word];
        soft_override_cpuid(vcpu, leaf, subleaf, out);
        cpuid_hide(cpuid, word, ~out[reg]);
        cpuid_offer(cpuid, word, out[reg]);
    }
}

/* The vendor that the partition's CPUID results show is the one the processor is of. */
static void present_vendor(struct engine_vcpu *vcpu, struct cpuid_config *cpuid)
{
    uint32_t out[4] = {0};

    memcpy(&out[1], cpuid->vendor, 4);
    memcpy(&out[3], cpuid->vendor + 4, 4);
    memcpy(&out[2], cpuid->vendor + 8, 4);
    soft_override_cpuid(vcpu, 0, 0, out);
    cpuid_set_vendor(cpuid, out);
}

/* What the guest's CPUID shows: the partition's features, its APIC, its clock. */
static void init_cpuid(struct engine_vcpu *vcpu, struct cpuid_config *cpuid)
{
    const struct partition_config *config = vcpu->partition->config;
    const bool has_apic = config->apic_mode != APIC_MODE_NONE;

    cpuid_init(cpuid);
    present_vendor(vcpu, cpuid);
    cpuid_set(cpuid, FEATURE_APIC, has_apic);
    cpuid_set(cpuid, FEATURE_X2APIC, config->apic_mode == APIC_MODE_X2APIC);
    cpuid_set(cpuid, FEATURE_TSC_DEADLINE, has_apic);
    cpuid_mask_banks(cpuid, config->processor_features);
    cpuid_mask_xsave(cpuid, config->xsave_features);
    cpuid->apic_id = vcpu->index;
    cpuid->processor_count = config->processor_count;
    cpuid->tsc_frequency = config->tsc_frequency;
    cpuid->apic_frequency = config->apic_frequency;
    cpuid->clflush_size = (uint8_t)(1u << config->clflush_size_log2);
    if (vcpu->partition->executor)
        vcpu->partition->executor->limit_cpuid(cpuid);
    hide_features(vcpu, cpuid);
}

static bool init_parts(struct engine_vcpu *vcpu)
{
    struct engine_partition *p = vcpu->partition;

    tsc_init(&vcpu->tsc, &p->clock);
    vcpu->cpu = cpu_create(&soft_port, vcpu, p->config->physical_address_bits);
    if (!vcpu->cpu)
        return false;
    init_cpuid(vcpu, &vcpu->cpu->cpuid);
    cpu_reset(vcpu->cpu, false);
    if (p->config->apic_mode != APIC_MODE_NONE) {
        vcpu->lapic = lapic_create(p->bus, vcpu->index, &vcpu->tsc, &soft_lapic_callbacks, vcpu);
        if (!vcpu->lapic)
            return false;
    }
    return true;
}

static void set_member(struct engine_partition *partition, uint32_t index, struct engine_vcpu *vcpu)
{
    pthread_rwlock_wrlock(&partition->members);
    partition->vcpus[index] = vcpu;
    if (vcpu)
        partition->members_set |= (uint64_t)1 << index;
    else
        partition->members_set &= ~((uint64_t)1 << index);
    pthread_rwlock_unlock(&partition->members);
}

enum status soft_vcpu_create(struct engine_partition *partition, uint32_t index, struct engine_vcpu **out)
{
    struct engine_vcpu *vcpu = aligned_alloc(64, (sizeof(*vcpu) + 63) & ~(size_t)63);
    pthread_condattr_t monotonic;

    if (!vcpu)
        return fail(STATUS_NO_MEMORY, "no memory for processor %u", index);
    if (!host_stub_available()) {
        free(vcpu);
        return fail(STATUS_NOT_SUPPORTED,
                    "processor %u: the host gives no executable memory (memfd and mmap), which MMX, SSE and AVX need", index);
    }
    *vcpu = (struct engine_vcpu){.partition = partition, .index = index};
    pthread_mutex_init(&vcpu->sleep_lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&vcpu->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (!init_parts(vcpu)) {
        soft_vcpu_destroy(vcpu);
        return fail(STATUS_NO_MEMORY, "no memory for processor %u", index);
    }
    soft_vcpu_reset(vcpu);
    set_member(partition, index, vcpu);
    *out = vcpu;
    return STATUS_OK;
}

void soft_vcpu_destroy(struct engine_vcpu *vcpu)
{
    if (vcpu->partition->vcpus[vcpu->index] == vcpu)
        set_member(vcpu->partition, vcpu->index, NULL);
    soft_monitor_forget(vcpu);
    lapic_destroy(vcpu->lapic);
    cpu_destroy(vcpu->cpu);
    soft_copied_forget(vcpu);
    pthread_mutex_destroy(&vcpu->sleep_lock);
    pthread_cond_destroy(&vcpu->wake);
    free(vcpu);
}
