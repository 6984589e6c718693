/*
 * A partition: configuration, guest memory, processors, engine.
 *
 * Created -> set up -> deleted. Before set-up only the configuration exists; set-up chooses the engine and makes the
 * memory space, from then on the configuration is fixed but for the run-time members.
 *
 * Locks, outermost first: partition.lock (life, configuration, creation of processors) > interrupts > vcpu.lock,
 * time_lock. A running processor holds none of them while it waits for a holder.
 */
#ifndef OWHP_CORE_PARTITION_H
#define OWHP_CORE_PARTITION_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/config.h"
#include "core/vcpu.h"
#include "engine/engine.h"

enum { PARTITION_VCPUS = 64 };

/* Which members of the configuration were set explicitly; the others follow the engine's capabilities. */
enum {
    SET_PROCESSOR_FEATURES = 1u << 0,
    SET_XSAVE_FEATURES = 1u << 1,
    SET_CLFLUSH_SIZE = 1u << 2,
    SET_TSC_FREQUENCY = 1u << 3,
    SET_APIC_FREQUENCY = 1u << 4,
    SET_PHYSICAL_ADDRESS_BITS = 1u << 5,
};

/* Properties that no engine looks at, kept for their readers. */
struct partition_settings {
    uint32_t set; /* SET_* */
    uint32_t engine_choice; /* enum engine_choice */
    bool separate_security_domain, disable_smt;
    struct {
        struct cpuid_override *entries;
        size_t count;
    } cpuid_results[2]; /* CpuidResultList, CpuidResultList2; joined in this order at set-up */
};

/* run_flags: why a run cannot just begin. */
enum { PARTITION_DELETING = 1, PARTITION_TIME_STOPPED = 2 };

struct partition {
    const struct engine *engine; /* fixed after set-up; NULL before */
    struct engine_partition *engine_partition;
    struct gpa_space *space;
    bool strict_access; /* WHvReadGpaRange and -Write keep the limits of Windows (OPENWHP_STRICT); fixed after set-up */
    _Atomic bool is_set_up;
    _Atomic uint32_t run_flags;

    pthread_mutex_t lock;
    pthread_mutex_t time_lock;     /* engine's time_suspend and time_resume, PARTITION_TIME_STOPPED */
    pthread_rwlock_t interrupts;   /* read: interrupt requests; write: the set of processors changes */
    struct partition_config config;
    struct partition_settings settings;
    struct snapshot *snapshots;         /* snapshot.c; under lock */
    struct loaded_memory *loaded;       /* guest memory that snapshot files gave; under lock */
    struct vcpu vcpus[PARTITION_VCPUS];
};

/* A new partition and its handle. STATUS_NO_MEMORY */
must_check enum status partition_create(uint64_t *handle);

/* End every run in progress (those calls answer STATUS_BAD_HANDLE), wait for all calls on the partition, free all.
 * STATUS_BAD_HANDLE */
must_check enum status partition_delete(uint64_t handle);

/* The partition of a handle with a reference, or NULL with an error text. */
must_check struct partition *partition_get(uint64_t handle);
void partition_put(uint64_t handle);

/* The same with the slot of a processor: see partition_vcpu. With any other status there is no reference. STATUS_BAD_HANDLE */
must_check enum status partition_get_vcpu(uint64_t handle, uint32_t index, struct vcpu **vcpu);

/* STATUS_INVALID_STATE unless set-up is done. */
must_check enum status partition_require_set_up(struct partition *partition);

/*
 * Choose the engine and make everything that processors and memory need.
 * STATUS_INVALID_STATE                  done already
 * STATUS_INVALID_PARTITION_CONFIG       no processor count, or properties the engine cannot satisfy
 * STATUS_UNSUPPORTED_HYPERVISOR_CONFIG  the engine asked for cannot be used
 * STATUS_NO_MEMORY
 */
must_check enum status partition_setup(struct partition *partition);

/* The slot of an index. STATUS_INVALID_STATE before set-up, STATUS_VP_DOES_NOT_EXIST beyond the count. */
must_check enum status partition_vcpu(struct partition *partition, uint32_t index, struct vcpu **vcpu);

/* STATUS_INVALID_STATE, STATUS_INVALID_ARGUMENT (index), STATUS_VP_ALREADY_EXISTS, STATUS_NO_MEMORY */
must_check enum status partition_create_vcpu(struct partition *partition, uint32_t index);

/* STATUS_INVALID_STATE, STATUS_VP_DOES_NOT_EXIST, STATUS_INVALID_VP_STATE (it runs) */
must_check enum status partition_delete_vcpu(struct partition *partition, uint32_t index);

/* All processors to their reset state, pending cancels forgotten, time stopped until the next run.
 * STATUS_INVALID_STATE   not set up, or a processor runs */
must_check enum status partition_reset(struct partition *partition);

/* Freeze and thaw the guest's time; doing either twice is no error.
 * STATUS_INVALID_STATE     not set up
 * STATUS_INVALID_VP_STATE  suspend: a processor runs */
must_check enum status partition_suspend_time(struct partition *partition);
must_check enum status partition_resume_time(struct partition *partition);

/* 100 ns since the first run; 0 before set-up. */
uint64_t partition_reference_time(struct partition *partition);

/* STATUS_INVALID_STATE (not set up), STATUS_HV_OPERATION_DENIED (no APIC emulation) */
must_check enum status partition_require_apic(struct partition *partition);

/* Through the emulated local APICs. STATUS_INVALID_STATE, STATUS_HV_OPERATION_DENIED (no APIC emulation) and what
 * the engine says. */
must_check enum status partition_request_interrupt(struct partition *partition,
                                                   const struct interrupt_request *request);
must_check enum status partition_interrupt_targets(struct partition *partition, uint64_t destination,
                                                   bool is_logical, uint64_t *set, size_t words);

/* ---- configuration (partition_config.c) ---- */

enum config_phase { CONFIG_BEFORE_SETUP, CONFIG_ANY_TIME };

/*
 * Begin to change config or settings: takes the lock, and after set-up brings all processors out of the engine.
 * STATUS_INVALID_ARGUMENT   a CONFIG_BEFORE_SETUP member after set-up
 */
must_check enum status partition_config_begin(struct partition *partition, enum config_phase phase);
void partition_config_end(struct partition *partition);

/* Between begin and end, or under the lock: the capabilities that a value must fit in, those of the engine that
 * would be chosen now. When none can be chosen, all zero. */
void partition_config_capabilities(struct partition *partition, struct engine_capabilities *out);

/* Fill members that were not set explicitly from the engine that would be chosen now. */
void partition_config_defaults(struct partition *partition);

/* For set-up: does the whole fit the engine? STATUS_INVALID_PARTITION_CONFIG. Joins the CPUID lists. */
must_check enum status partition_config_finish(struct partition *partition, const struct engine *engine);
void partition_config_free(struct partition *partition);

/* ---- for snapshot.c ---- */

/* Take the lock and hold all slots; neither when the partition is not set up, or a processor runs (then `refusal`). */
must_check enum status partition_begin_standstill(struct partition *partition, enum status refusal);
void partition_end_standstill(struct partition *partition);

/* Within: time stands still until the next run; as it is, or as it was. */
void partition_stop_time(struct partition *partition);
void partition_load_time(struct partition *partition, const struct time_state *state);

/* ---- for vcpu.c ---- */

must_check enum status partition_stopped(struct partition *partition, uint32_t flags);

/* Lets time go on. STATUS_BAD_HANDLE when the partition is being deleted. */
must_check static inline enum status partition_before_run(struct partition *partition)
{
    uint32_t flags = atomic_load(&partition->run_flags);

    return likely(flags == 0) ? STATUS_OK : partition_stopped(partition, flags);
}

/* ---- for partition_config.c ---- */

/* Under the lock: hold all slots; false (only without `wait`): one runs, none is held. */
must_check bool partition_hold(struct partition *partition, bool wait);
void partition_release(struct partition *partition);

#endif
