/*
 * The life of a partition. A handle is looked up with a reference for the length of one call; deleting closes the
 * handle, evicts the runners, waits for the references and only then frees, so no call ever meets a freed partition.
 */
#include "core/partition.h"

#include <stdlib.h>
#include <string.h>

#include "core/engines.h"
#include "core/handle_table.h"
#include "core/snapshot.h"
#include "os/cancel.h"
#include "util/check.h"
#include "util/last_error.h"

static struct handle_table partitions = HANDLE_TABLE_INIT(HANDLE_TAG_PARTITION);

static bool is_set_up(const struct partition *partition)
{
    return atomic_load_explicit(&partition->is_set_up, memory_order_acquire);
}

/* ---- handles ---- */

static enum status fail_handle(uint64_t handle)
{
    return fail(STATUS_BAD_HANDLE, "%#llx is not the handle of a partition", (unsigned long long)handle);
}

struct partition *partition_get(uint64_t handle)
{
    struct partition *partition = handle_get(&partitions, handle);

    if (unlikely(!partition))
        (void)fail_handle(handle);
    return partition;
}

static noinline void put_slowly(uint64_t handle)
{
    handle_put(&partitions, handle);
}

void partition_put(uint64_t handle)
{
    if (unlikely(!handle_put_fast(&partitions, handle)))
        put_slowly(handle);
}

static noinline enum status get_vcpu_slowly(uint64_t handle, uint32_t index, struct vcpu **vcpu)
{
    struct partition *partition = partition_get(handle);

    if (!partition)
        return STATUS_BAD_HANDLE;
    const enum status status = partition_vcpu(partition, index, vcpu);
    if (status != STATUS_OK)
        partition_put(handle);
    return status;
}

/* There is a reference already. */
static noinline enum status refuse_vcpu(uint64_t handle, uint32_t index, struct vcpu **vcpu)
{
    partition_put(handle);
    return get_vcpu_slowly(handle, index, vcpu);
}

enum status partition_get_vcpu(uint64_t handle, uint32_t index, struct vcpu **vcpu)
{
    const struct handle_slot *slot = handle_begin_fast(&partitions, handle);
    struct partition *partition;

    if (unlikely(!slot))
        return get_vcpu_slowly(handle, index, vcpu);
    if (unlikely(!handle_is_live(slot, handle)))
        return refuse_vcpu(handle, index, vcpu);
    partition = slot->object;
    if (unlikely(!is_set_up(partition) || index >= partition->config.processor_count))
        return refuse_vcpu(handle, index, vcpu);
    *vcpu = &partition->vcpus[index];
    return STATUS_OK;
}

static struct partition *allocate(void)
{
    struct partition *partition = calloc(1, sizeof(*partition));

    if (!partition)
        return NULL;
    pthread_mutex_init(&partition->lock, NULL);
    pthread_mutex_init(&partition->time_lock, NULL);
    /* Whoever changes the set of processors must not wait for ever for those who send interrupts. */
    pthread_rwlockattr_t writers_first;
    pthread_rwlockattr_init(&writers_first);
    pthread_rwlockattr_setkind_np(&writers_first, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&partition->interrupts, &writers_first);
    pthread_rwlockattr_destroy(&writers_first);
    for (uint32_t i = 0; i < PARTITION_VCPUS; i++)
        vcpu_init(&partition->vcpus[i], partition, i);
    partition->config.msr_exit_bitmap = MSR_EXIT_UNHANDLED;
    partition_config_defaults(partition);
    return partition;
}

static void destroy(struct partition *partition)
{
    snapshots_detach(partition);
    for (uint32_t i = 0; i < PARTITION_VCPUS; i++) {
        if (partition->vcpus[i].engine)
            partition->engine->vcpu_destroy(partition->vcpus[i].engine);
        vcpu_fini(&partition->vcpus[i]);
    }
    if (partition->engine_partition)
        partition->engine->partition_destroy(partition->engine_partition);
    if (partition->space)
        gpa_space_destroy(partition->space);
    snapshots_free_memory(partition);
    partition_config_free(partition);
    pthread_rwlock_destroy(&partition->interrupts);
    pthread_mutex_destroy(&partition->time_lock);
    pthread_mutex_destroy(&partition->lock);
    free(partition);
}

enum status partition_create(uint64_t *handle)
{
    struct partition *partition = allocate();

    *handle = partition ? handle_open(&partitions, partition) : 0;
    if (*handle)
        return STATUS_OK;
    if (partition)
        destroy(partition);
    return fail(STATUS_NO_MEMORY, "no memory for a partition");
}

enum status partition_delete(uint64_t handle)
{
    struct partition *partition = handle_close(&partitions, handle);

    if (!partition)
        return fail_handle(handle);
    atomic_fetch_or(&partition->run_flags, PARTITION_DELETING);
    for (uint32_t i = 0; i < PARTITION_VCPUS; i++)
        vcpu_evict(&partition->vcpus[i]);
    handle_drain(&partitions, handle);
    destroy(partition);
    return STATUS_OK;
}

/* ---- set-up ---- */

enum status partition_require_set_up(struct partition *partition)
{
    if (likely(is_set_up(partition)))
        return STATUS_OK;
    return fail(STATUS_INVALID_STATE, "the partition is not set up");
}

static enum status build(struct partition *partition, const struct engine *engine)
{
    uint32_t bits = partition->config.physical_address_bits;
    struct gpa_space *space = gpa_space_create(bits);

    if (!space)
        return fail(STATUS_NO_MEMORY, "no memory for a guest memory space of %u bits", bits);
    enum status status = engine->partition_create(&partition->config, space, &partition->engine_partition);
    if (status != STATUS_OK) {
        partition->engine_partition = NULL;
        gpa_space_destroy(space);
        return status;
    }
    partition->space = space;
    partition->engine = engine;
    const char *strict = getenv("OPENWHP_STRICT");
    partition->strict_access = strict && strcmp(strict, "1") == 0;
    atomic_store_explicit(&partition->is_set_up, true, memory_order_release);
    return STATUS_OK;
}

static enum status setup_locked(struct partition *partition)
{
    const struct engine *engine;

    if (atomic_load(&partition->is_set_up))
        return fail(STATUS_INVALID_STATE, "the partition is set up already");
    if (partition->config.processor_count == 0)
        return fail(STATUS_INVALID_PARTITION_CONFIG, "the property ProcessorCount was not set");
    enum status status = engine_select(partition->settings.engine_choice, &engine);
    if (status == STATUS_OK)
        status = partition_config_finish(partition, engine);
    if (status == STATUS_OK)
        status = build(partition, engine);
    return status;
}

enum status partition_setup(struct partition *partition)
{
    NO_CANCEL;
    pthread_mutex_lock(&partition->lock);
    enum status status = setup_locked(partition);
    pthread_mutex_unlock(&partition->lock);
    return status;
}

/* ---- processors ---- */

bool partition_hold(struct partition *partition, bool wait)
{
    for (uint32_t i = 0; i < partition->config.processor_count; i++) {
        if (vcpu_hold(&partition->vcpus[i], wait))
            continue;
        while (i-- > 0)
            vcpu_release(&partition->vcpus[i]);
        return false;
    }
    return true;
}

void partition_release(struct partition *partition)
{
    for (uint32_t i = partition->config.processor_count; i-- > 0;)
        vcpu_release(&partition->vcpus[i]);
}

enum status partition_vcpu(struct partition *partition, uint32_t index, struct vcpu **vcpu)
{
    enum status status = partition_require_set_up(partition);

    if (unlikely(status != STATUS_OK))
        return status;
    if (unlikely(index >= partition->config.processor_count))
        return fail(STATUS_VP_DOES_NOT_EXIST, "processor %u does not exist (ProcessorCount is %u)", index,
                    partition->config.processor_count);
    *vcpu = &partition->vcpus[index];
    return STATUS_OK;
}

/* While the set of processors changes nobody runs and nobody requests interrupts, so the engine needs no lock. */
static void begin_set_change(struct partition *partition)
{
    pthread_mutex_lock(&partition->lock);
    pthread_rwlock_wrlock(&partition->interrupts);
    check(partition_hold(partition, true));
}

static void end_set_change(struct partition *partition)
{
    partition_release(partition);
    pthread_rwlock_unlock(&partition->interrupts);
    pthread_mutex_unlock(&partition->lock);
}

enum status partition_create_vcpu(struct partition *partition, uint32_t index)
{
    enum status status = partition_require_set_up(partition);

    if (status != STATUS_OK)
        return status;
    if (index >= partition->config.processor_count)
        return fail(STATUS_INVALID_ARGUMENT, "processor index %u is not below ProcessorCount, %u", index,
                    partition->config.processor_count);
    begin_set_change(partition);
    status = vcpu_create_held(&partition->vcpus[index]);
    end_set_change(partition);
    return status;
}

enum status partition_delete_vcpu(struct partition *partition, uint32_t index)
{
    struct vcpu *vcpu = NULL;
    enum status status = partition_vcpu(partition, index, &vcpu);

    if (status != STATUS_OK)
        return status;
    begin_set_change(partition);
    status = vcpu_delete_held(vcpu);
    end_set_change(partition);
    return status;
}

/* ---- reset, time ---- */

/* Lock and hold; neither when the partition is not set up, or a processor runs: then `refusal`. */
enum status partition_begin_standstill(struct partition *partition, enum status refusal)
{
    enum status status = partition_require_set_up(partition);

    if (status != STATUS_OK)
        return status;
    pthread_mutex_lock(&partition->lock);
    if (partition_hold(partition, false))
        return STATUS_OK;
    pthread_mutex_unlock(&partition->lock);
    return fail(refusal, "a processor of the partition is running");
}

void partition_end_standstill(struct partition *partition)
{
    partition_release(partition);
    pthread_mutex_unlock(&partition->lock);
}

void partition_stop_time(struct partition *partition)
{
    pthread_mutex_lock(&partition->time_lock);
    if (!(atomic_load(&partition->run_flags) & PARTITION_TIME_STOPPED)) {
        partition->engine->time_suspend(partition->engine_partition);
        atomic_fetch_or(&partition->run_flags, PARTITION_TIME_STOPPED);
    }
    pthread_mutex_unlock(&partition->time_lock);
}

void partition_load_time(struct partition *partition, const struct time_state *state)
{
    pthread_mutex_lock(&partition->time_lock);
    partition->engine->load_time(partition->engine_partition, state);
    atomic_fetch_or(&partition->run_flags, PARTITION_TIME_STOPPED);
    pthread_mutex_unlock(&partition->time_lock);
}

static void start_time(struct partition *partition)
{
    pthread_mutex_lock(&partition->time_lock);
    if (atomic_load(&partition->run_flags) & PARTITION_TIME_STOPPED) {
        partition->engine->time_resume(partition->engine_partition);
        atomic_fetch_and(&partition->run_flags, ~(uint32_t)PARTITION_TIME_STOPPED);
    }
    pthread_mutex_unlock(&partition->time_lock);
}

enum status partition_stopped(struct partition *partition, uint32_t flags)
{
    if (flags & PARTITION_DELETING)
        return fail(STATUS_BAD_HANDLE, "the partition is being deleted");
    start_time(partition);
    return STATUS_OK;
}

enum status partition_reset(struct partition *partition)
{
    enum status status = partition_begin_standstill(partition, STATUS_INVALID_STATE);

    if (status != STATUS_OK)
        return status;
    status = partition->engine->partition_reset(partition->engine_partition);
    if (status == STATUS_OK) {
        for (uint32_t i = 0; i < PARTITION_VCPUS; i++)
            vcpu_forget_cancel(&partition->vcpus[i]);
        partition_stop_time(partition);
    }
    partition_end_standstill(partition);
    return status;
}

enum status partition_suspend_time(struct partition *partition)
{
    enum status status = partition_begin_standstill(partition, STATUS_INVALID_VP_STATE);

    if (status != STATUS_OK)
        return status;
    partition_stop_time(partition);
    partition_end_standstill(partition);
    return STATUS_OK;
}

enum status partition_resume_time(struct partition *partition)
{
    enum status status = partition_require_set_up(partition);

    if (status == STATUS_OK)
        start_time(partition);
    return status;
}

uint64_t partition_reference_time(struct partition *partition)
{
    if (!atomic_load_explicit(&partition->is_set_up, memory_order_acquire))
        return 0;
    return partition->engine->reference_time(partition->engine_partition);
}

/* ---- interrupts ---- */

enum status partition_require_apic(struct partition *partition)
{
    enum status status = partition_require_set_up(partition);

    if (status == STATUS_OK && partition->config.apic_mode == APIC_MODE_NONE)
        status = fail(STATUS_HV_OPERATION_DENIED, "the partition has no local APIC emulation");
    return status;
}

enum status partition_request_interrupt(struct partition *partition, const struct interrupt_request *request)
{
    enum status status = partition_require_apic(partition);

    if (status != STATUS_OK)
        return status;
    pthread_rwlock_rdlock(&partition->interrupts);
    status = partition->engine->request_interrupt(partition->engine_partition, request);
    pthread_rwlock_unlock(&partition->interrupts);
    return status;
}

enum status partition_interrupt_targets(struct partition *partition, uint64_t destination, bool is_logical,
                                        uint64_t *set, size_t words)
{
    enum status status = partition_require_apic(partition);

    if (status != STATUS_OK)
        return status;
    pthread_rwlock_rdlock(&partition->interrupts);
    status = partition->engine->interrupt_targets(partition->engine_partition, destination, is_logical, set, words);
    pthread_rwlock_unlock(&partition->interrupts);
    return status;
}
