/*
 * A virtual processor as the API sees it: whether it exists, who uses it, and whether a cancel waits for it.
 * The processor itself is the engine's. All functions: any thread; see vcpu.c for the state machine.
 *
 * A slot belongs to a partition for the partition's life; processors come and go in it.
 */
#ifndef OWHP_CORE_VCPU_H
#define OWHP_CORE_VCPU_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/engine.h"

struct partition;

struct vcpu {
    struct partition *partition; /* fixed after init */
    uint32_t index;              /* fixed after init */
    _Atomic uint32_t state;      /* vcpu.c */
    _Atomic uint32_t waiters;    /* threads that wait for the end of a use or run */
    bool holder_waits;           /* one of them is a holder, for whom a run pauses; under lock */
    _Atomic bool cancel_pending; /* set under lock */
    pthread_mutex_t lock;        /* of whoever waits, holds or cancels */
    pthread_cond_t changed;      /* a holder waits for the runner, or others for the holder */
    struct engine_vcpu *engine;  /* NULL: no processor; changed under lock while held */
    _Atomic uint64_t apic_page;  /* of its local APIC's registers; the engine's to change, while it runs too */
};

void vcpu_init(struct vcpu *vcpu, struct partition *partition, uint32_t index);
void vcpu_fini(struct vcpu *vcpu);

/*
 * Run until an exit. A cancel that is pending, or comes, ends exactly one run with EXIT_CANCELED.
 * STATUS_VP_DOES_NOT_EXIST
 * STATUS_INVALID_VP_STATE   it is running already
 * STATUS_BAD_HANDLE         the partition was deleted meanwhile
 * and what the engine's run says.
 */
must_check enum status vcpu_run(struct vcpu *vcpu, struct vcpu_exit *exit);

/* Have the existing, not running processor for oneself for a short while: runs, uses and holders of others wait, cancels are for
 * the next run. What happens between must not call back into this file.
 * STATUS_VP_DOES_NOT_EXIST, STATUS_INVALID_VP_STATE (it runs) */
must_check enum status vcpu_begin_use(struct vcpu *vcpu);
void vcpu_end_use(struct vcpu *vcpu);

/* STATUS_VP_DOES_NOT_EXIST. More than one before a run count as one. */
must_check enum status vcpu_cancel(struct vcpu *vcpu);

/* The processor exists, at this moment. */
static inline bool vcpu_exists(const struct vcpu *vcpu)
{
    return __atomic_load_n(&vcpu->engine, __ATOMIC_RELAXED);
}

/* Is that the page of its local APIC's registers, at this moment? */
static always_inline bool vcpu_apic_is_at(const struct vcpu *vcpu, gpa_t gpa)
{
    return (gpa ^ atomic_load_explicit(&vcpu->apic_page, memory_order_relaxed)) < PAGE_SIZE;
}

/* Is a byte of that page among these? For bytes that wrap around, perhaps. */
static inline bool vcpu_apic_is_in(const struct vcpu *vcpu, gpa_t gpa, uint64_t size)
{
    const gpa_t page = atomic_load_explicit(&vcpu->apic_page, memory_order_relaxed);

    return gpa - page < PAGE_SIZE || page - gpa < size;
}

/* The processor exists. STATUS_VP_DOES_NOT_EXIST */
must_check enum status vcpu_require_existing(struct vcpu *vcpu);

/* The processor exists and stays until vcpu_unlock, running or not: for engine calls of any thread.
 * STATUS_VP_DOES_NOT_EXIST */
must_check enum status vcpu_lock_existing(struct vcpu *vcpu);
void vcpu_unlock(struct vcpu *vcpu);

/* ---- for partition.c, one caller at a time per partition ---- */

/* Take the slot away from everybody, whether or not a processor is in it: a running processor is brought out of its
 * engine and waits, runs and accesses that come wait too. False (only without `wait`): it runs; nothing was taken. */
must_check bool vcpu_hold(struct vcpu *vcpu, bool wait);
void vcpu_release(struct vcpu *vcpu);

/* Held: make or end the processor. STATUS_VP_ALREADY_EXISTS and what the engine says; STATUS_VP_DOES_NOT_EXIST,
 * STATUS_INVALID_VP_STATE (it is within a run) */
must_check enum status vcpu_create_held(struct vcpu *vcpu);
must_check enum status vcpu_delete_held(struct vcpu *vcpu);

/* Held: forget a pending cancel. */
void vcpu_forget_cancel(struct vcpu *vcpu);

/* The partition is being deleted: end the run, now or when it comes. */
void vcpu_evict(struct vcpu *vcpu);

#endif
