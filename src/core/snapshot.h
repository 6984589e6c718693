/*
 * Snapshots of a partition: memory, processors, time (docs/snapshot.md). A snapshot has a handle of its own and may outlive
 * its partition; then it can be saved and destroyed, nothing else. All functions: any thread.
 */
#ifndef OWHP_CORE_SNAPSHOT_H
#define OWHP_CORE_SNAPSHOT_H

#include "core/partition.h"
#include "core/state.h"
#include "mem/gpa_snapshot.h"

/* What of the configuration the guest's state depends on. */
struct snapshot_config {
    uint32_t processor_count, apic_mode, physical_address_bits, clflush_size_log2;
    uint64_t processor_features[2], xsave_features;
    uint64_t tsc_frequency, apic_frequency; /* Hz */
};

struct snapshot {
    struct partition *partition; /* NULL: it is gone. Written under the list lock (snapshot.c) */
    struct snapshot *next;       /* of the partition's, the one that memory was last equal to first; under its lock */
    /* Fixed. */
    struct gpa_snapshot *memory;
    struct snapshot_config config;
    struct time_state time;
    uint64_t vcpu_set;         /* which processors there are */
    struct vcpu_state *states; /* of them, in ascending order */
};

/*
 * STATUS_INVALID_STATE      not set up
 * STATUS_INVALID_VP_STATE   a processor runs
 * STATUS_NOT_SUPPORTED      the engine cannot
 * STATUS_NO_MEMORY
 */
must_check enum status snapshot_create(struct partition *partition, uint64_t *handle);

/* STATUS_BAD_HANDLE */
must_check enum status snapshot_destroy(uint64_t handle);

/*
 * remap, *pages: as gpa_snapshot_restore.
 * STATUS_BAD_HANDLE         no such snapshot
 * STATUS_INVALID_ARGUMENT   of another partition
 * STATUS_INVALID_VP_STATE   a processor runs
 * STATUS_VP_DOES_NOT_EXIST  a processor of the snapshot does not
 * STATUS_VP_ALREADY_EXISTS  there is one that was not there
 * and those of gpa_snapshot_restore; nothing has changed but with STATUS_ACCESS_DENIED
 */
must_check enum status snapshot_restore(struct partition *partition, uint64_t handle, bool remap, uint64_t *pages);

struct snapshot_figures {
    uint64_t guest_bytes, stored_bytes, changed_bytes;
    uint32_t ranges, processors;
    bool is_attached;
};

/* STATUS_BAD_HANDLE */
must_check enum status snapshot_query(uint64_t handle, struct snapshot_figures *out);

/* STATUS_BAD_HANDLE, STATUS_NO_MEMORY, STATUS_NOT_FOUND (no such directory), STATUS_ACCESS_DENIED (the file system refuses),
 * STATUS_WRITE_FAULT; a file that exists is as it was then */
must_check enum status snapshot_save(uint64_t handle, const char *path);

enum { SNAPSHOT_LOAD_VERIFY = 1, SNAPSHOT_LOAD_ANY_TSC_FREQUENCY = 2, SNAPSHOT_LOAD_ALL_FLAGS = 3 };

/*
 * STATUS_NOT_FOUND, STATUS_ACCESS_DENIED     the file cannot be opened
 * STATUS_FILE_CORRUPT                        it is not a snapshot, or damaged
 * STATUS_INVALID_PARTITION_CONFIG            the partition is not one for it
 * STATUS_GPA_RANGE_NOT_FOUND                 memory is mapped otherwise
 * and as snapshot_restore
 */
must_check enum status snapshot_load(struct partition *partition, const char *path, uint32_t flags, uint64_t *handle);

/* ---- for partition.c: the partition goes away ---- */

void snapshots_detach(struct partition *partition);
void snapshots_free_memory(struct partition *partition); /* the space is gone */

/* ---- for snapshot_save.c, snapshot_read.c and snapshot_load.c ---- */

/* With a reference, or NULL and an error text. */
must_check struct snapshot *snapshot_get(uint64_t handle);
void snapshot_put(uint64_t handle);

struct snapshot_config snapshot_config_of(const struct partition *partition);
uint64_t snapshot_vcpu_set(const struct partition *partition);

/* Within the standstill: enter it in the partition's list and make a handle for it. On failure it is freed. STATUS_NO_MEMORY */
must_check enum status snapshot_publish(struct partition *partition, struct snapshot *snapshot, uint64_t *handle);
void snapshot_free_unpublished(struct partition *partition, struct snapshot *snapshot);

/* The standstill, for an engine that has snapshots: no processor runs, no interrupt comes from outside.
 * STATUS_INVALID_STATE, STATUS_INVALID_VP_STATE, STATUS_NOT_SUPPORTED */
must_check enum status snapshot_begin(struct partition *partition);
void snapshot_end(struct partition *partition);

/* Within the standstill: what snapshot_restore does. */
must_check enum status snapshot_apply(struct partition *partition, struct snapshot *snapshot, bool remap, uint64_t *pages);

/* Guest memory that belongs to the partition. */
struct loaded_memory {
    struct loaded_memory *next;
    void *address;
    gpa_t gpa; /* where it was mapped at first */
    uint64_t size;
};

#endif
