/*
 * Snapshots in memory.
 *
 * Taking and restoring one needs a standstill: no processor runs, the set of processors is fixed, nobody sends interrupts.
 * Threads that only use memory go on.
 *
 * Locks: list_lock > partition.lock. A snapshot's partition pointer is written under list_lock: by snapshot_destroy, when no
 * reference is left, and when the partition goes away. Who has a reference to both may read it without.
 */
#include "core/snapshot.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "core/handle_table.h"
#include "util/last_error.h"

static struct handle_table snapshots = HANDLE_TABLE_INIT(HANDLE_TAG_SNAPSHOT);
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- handles and lists ---- */

struct snapshot *snapshot_get(uint64_t handle)
{
    struct snapshot *snapshot = handle_get(&snapshots, handle);

    if (!snapshot)
        (void)fail(STATUS_BAD_HANDLE, "%#llx is not the handle of a snapshot", (unsigned long long)handle);
    return snapshot;
}

void snapshot_put(uint64_t handle)
{
    handle_put(&snapshots, handle);
}

static void free_snapshot(struct snapshot *snapshot)
{
    gpa_snapshot_destroy(snapshot->memory);
    free(snapshot->states);
    free(snapshot);
}

static void unlink_snapshot(struct partition *partition, const struct snapshot *snapshot)
{
    struct snapshot **link = &partition->snapshots;

    while (*link && *link != snapshot)
        link = &(*link)->next;
    if (*link)
        *link = snapshot->next;
}

static void put_first(struct partition *partition, struct snapshot *snapshot)
{
    if (likely(partition->snapshots == snapshot))
        return;
    unlink_snapshot(partition, snapshot);
    snapshot->next = partition->snapshots;
    partition->snapshots = snapshot;
}

void snapshot_free_unpublished(struct partition *partition, struct snapshot *snapshot)
{
    unlink_snapshot(partition, snapshot);
    free_snapshot(snapshot);
}

enum status snapshot_publish(struct partition *partition, struct snapshot *snapshot, uint64_t *handle)
{
    snapshot->partition = partition;
    put_first(partition, snapshot);
    *handle = handle_open(&snapshots, snapshot);
    if (*handle)
        return STATUS_OK;
    snapshot_free_unpublished(partition, snapshot);
    return fail(STATUS_NO_MEMORY, "no memory for a snapshot's handle");
}

enum status snapshot_destroy(uint64_t handle)
{
    struct snapshot *snapshot = handle_close(&snapshots, handle);

    if (!snapshot)
        return fail(STATUS_BAD_HANDLE, "%#llx is not the handle of a snapshot", (unsigned long long)handle);
    handle_drain(&snapshots, handle);
    pthread_mutex_lock(&list_lock);
    struct partition *partition = snapshot->partition;
    if (partition) {
        pthread_mutex_lock(&partition->lock);
        unlink_snapshot(partition, snapshot);
        gpa_snapshot_detach(snapshot->memory);
        pthread_mutex_unlock(&partition->lock);
    }
    pthread_mutex_unlock(&list_lock);
    free_snapshot(snapshot);
    return STATUS_OK;
}

void snapshots_detach(struct partition *partition)
{
    pthread_mutex_lock(&list_lock);
    for (struct snapshot *s = partition->snapshots; s; s = s->next) {
        gpa_snapshot_detach(s->memory);
        s->partition = NULL;
    }
    pthread_mutex_unlock(&list_lock);
}

void snapshots_free_memory(struct partition *partition)
{
    while (partition->loaded) {
        struct loaded_memory *memory = partition->loaded;
        partition->loaded = memory->next;
        munmap(memory->address, memory->size);
        free(memory);
    }
}

/* ---- create ---- */

struct snapshot_config snapshot_config_of(const struct partition *partition)
{
    const struct partition_config *c = &partition->config;

    return (struct snapshot_config){
        .processor_count = c->processor_count,
        .apic_mode = c->apic_mode,
        .physical_address_bits = c->physical_address_bits,
        .clflush_size_log2 = c->clflush_size_log2,
        .processor_features = {c->processor_features[0], c->processor_features[1]},
        .xsave_features = c->xsave_features,
        .tsc_frequency = c->tsc_frequency,
        .apic_frequency = c->apic_frequency,
    };
}

uint64_t snapshot_vcpu_set(const struct partition *partition)
{
    uint64_t set = 0;

    for (uint32_t i = 0; i < partition->config.processor_count; i++)
        set |= (uint64_t)(partition->vcpus[i].engine != NULL) << i;
    return set;
}

static enum status save_states(struct partition *partition, struct snapshot *s)
{
    const struct engine *engine = partition->engine;
    size_t n = 0;

    s->vcpu_set = snapshot_vcpu_set(partition);
    s->states = calloc((size_t)__builtin_popcountll(s->vcpu_set) + 1, sizeof(*s->states));
    if (!s->states)
        return fail(STATUS_NO_MEMORY, "no memory for the processors' states");
    engine->save_time(partition->engine_partition, &s->time);
    for (uint64_t left = s->vcpu_set; left; left &= left - 1) {
        enum status status = engine->save_vcpu(partition->vcpus[__builtin_ctzll(left)].engine, &s->states[n++]);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

static enum status take(struct partition *partition, uint64_t *handle)
{
    struct gpa_snapshot *like = partition->snapshots ? partition->snapshots->memory : NULL;
    struct snapshot *s = calloc(1, sizeof(*s));

    if (!s)
        return fail(STATUS_NO_MEMORY, "no memory for a snapshot");
    partition_stop_time(partition);
    s->config = snapshot_config_of(partition);
    enum status status = gpa_snapshot_create(partition->space, like, &s->memory);
    if (status == STATUS_OK)
        status = save_states(partition, s);
    if (status == STATUS_OK)
        return snapshot_publish(partition, s, handle);
    free_snapshot(s);
    return status;
}

enum status snapshot_begin(struct partition *partition)
{
    enum status status = partition_require_set_up(partition);

    if (status != STATUS_OK)
        return status;
    if (!partition->engine->save_vcpu)
        return fail(STATUS_NOT_SUPPORTED, "the engine %s cannot take snapshots", partition->engine->name);
    status = partition_begin_standstill(partition, STATUS_INVALID_VP_STATE);
    if (status == STATUS_OK)
        pthread_rwlock_wrlock(&partition->interrupts);
    return status;
}

void snapshot_end(struct partition *partition)
{
    pthread_rwlock_unlock(&partition->interrupts);
    partition_end_standstill(partition);
}

enum status snapshot_create(struct partition *partition, uint64_t *handle)
{
    enum status status = snapshot_begin(partition);

    if (status != STATUS_OK)
        return status;
    status = take(partition, handle);
    snapshot_end(partition);
    return status;
}

/* ---- restore ---- */

static enum status check_vcpus(const struct partition *partition, const struct snapshot *s)
{
    uint64_t now = snapshot_vcpu_set(partition), missing = s->vcpu_set & ~now, extra = now & ~s->vcpu_set;

    if (missing)
        return fail(STATUS_VP_DOES_NOT_EXIST, "processor %d is in the snapshot and does not exist", __builtin_ctzll(missing));
    if (extra)
        return fail(STATUS_VP_ALREADY_EXISTS, "processor %d exists and is not in the snapshot", __builtin_ctzll(extra));
    return STATUS_OK;
}

static enum status load_states(struct partition *partition, const struct snapshot *s)
{
    enum status status = STATUS_OK;
    size_t n = 0;

    partition_load_time(partition, &s->time);
    for (uint64_t left = s->vcpu_set; left && status == STATUS_OK; left &= left - 1)
        status = partition->engine->load_vcpu(partition->vcpus[__builtin_ctzll(left)].engine, &s->states[n++]);
    return status;
}

enum status snapshot_apply(struct partition *partition, struct snapshot *s, bool remap, uint64_t *pages)
{
    enum status status = check_vcpus(partition, s), loaded;

    if (status != STATUS_OK)
        return status;
    status = gpa_snapshot_restore(s->memory, remap, pages);
    /* A restore does what it can; a load, whose snapshot nobody has yet, fails as a whole. */
    if (status != STATUS_OK && (status != STATUS_ACCESS_DENIED || !s->partition))
        return status;
    loaded = load_states(partition, s);
    if (loaded == STATUS_OK)
        put_first(partition, s);
    return status == STATUS_OK ? loaded : status;
}

enum status snapshot_restore(struct partition *partition, uint64_t handle, bool remap, uint64_t *pages)
{
    enum status status = snapshot_begin(partition);
    struct snapshot *s;

    if (status != STATUS_OK)
        return status;
    s = snapshot_get(handle);
    if (!s)
        status = STATUS_BAD_HANDLE;
    else if (s->partition != partition)
        status = fail(STATUS_INVALID_ARGUMENT, "the snapshot is one of another partition");
    else
        status = snapshot_apply(partition, s, remap, pages);
    if (s)
        snapshot_put(handle);
    snapshot_end(partition);
    return status;
}

/* ---- figures ---- */

enum status snapshot_query(uint64_t handle, struct snapshot_figures *out)
{
    struct snapshot *s = snapshot_get(handle);

    if (!s)
        return STATUS_BAD_HANDLE;
    *out = (struct snapshot_figures){.ranges = (uint32_t)s->memory->count,
                                     .processors = (uint32_t)__builtin_popcountll(s->vcpu_set)};
    for (size_t i = 0; i < s->memory->count; i++)
        out->guest_bytes += s->memory->ranges[i].size;
    out->stored_bytes = gpa_snapshot_held(s->memory) << PAGE_SHIFT;
    pthread_mutex_lock(&list_lock); /* the partition stays */
    out->is_attached = s->partition != NULL;
    out->changed_bytes = gpa_snapshot_changed(s->memory) << PAGE_SHIFT;
    pthread_mutex_unlock(&list_lock);
    snapshot_put(handle);
    return STATUS_OK;
}
