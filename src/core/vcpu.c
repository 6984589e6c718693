/*
 * The state machine of a processor slot.
 *
 *     IDLE -- run --> RUNNING -- exit --> IDLE
 *     IDLE -- a holder takes it --> HELD -- release --> IDLE
 *     IDLE -- registers, state, translation, completing an access --> USING --> IDLE
 *     RUNNING -- a holder wants it, out of the engine --> PAUSED -- release --> RUNNING
 *
 * An exit costs little more than a function call: IDLE -> RUNNING and IDLE -> USING are one atomic operation, and the way back is
 * a store. All other transitions happen under the lock. Whoever finds HELD waits for `changed`. A run or a use that finds RUNNING
 * or PAUSED is refused. USING is over soon and nobody's run: whoever finds it waits.
 *
 * Who waits for the end of RUNNING or USING counts itself in `waiters` before it looks; who ends stores IDLE before it looks at
 * the counter, and signals. The barrier between that store and the look is the waiter's to make (os/read_section.h).
 *
 * Cancel: the flag is set first, then the engine is kicked, both under the lock. The runner clears the kick first,
 * then takes the flag. So a kick that is cleared always has its flag seen, and the worst case is a kick without a
 * flag, for which the engine is entered again. The flag is taken by an exchange: one cancel, one Canceled exit. An
 * exit of another kind that wins the race leaves flag and kick for the next run.
 */
#include "core/vcpu.h"

#include "core/partition.h"
#include "os/cancel.h"
#include "os/read_section.h"
#include "util/check.h"
#include "util/last_error.h"

enum { IDLE, HELD, USING, RUNNING, PAUSED };

void vcpu_init(struct vcpu *vcpu, struct partition *partition, uint32_t index)
{
    vcpu->partition = partition;
    vcpu->index = index;
    atomic_init(&vcpu->state, IDLE);
    atomic_init(&vcpu->waiters, 0);
    vcpu->holder_waits = false;
    atomic_init(&vcpu->cancel_pending, false);
    pthread_mutex_init(&vcpu->lock, NULL);
    pthread_cond_init(&vcpu->changed, NULL);
    vcpu->engine = NULL;
    atomic_init(&vcpu->apic_page, NO_APIC_PAGE);
}

void vcpu_fini(struct vcpu *vcpu)
{
    pthread_cond_destroy(&vcpu->changed);
    pthread_mutex_destroy(&vcpu->lock);
}

static const struct engine *engine_of(const struct vcpu *vcpu)
{
    return vcpu->partition->engine;
}

static enum status does_not_exist(const struct vcpu *vcpu)
{
    return fail(STATUS_VP_DOES_NOT_EXIST, "processor %u does not exist", vcpu->index);
}

static enum status is_running(const struct vcpu *vcpu)
{
    return fail(STATUS_INVALID_VP_STATE, "processor %u is running", vcpu->index);
}

static bool swap_state(struct vcpu *vcpu, uint32_t from, uint32_t to)
{
    return atomic_compare_exchange_strong(&vcpu->state, &from, to);
}

/* ---- run ---- */

/* Under the lock. */
static void wait_while(struct vcpu *vcpu, uint32_t state)
{
    while (atomic_load(&vcpu->state) == state)
        cond_wait(&vcpu->changed, &vcpu->lock);
}

/* Under the lock, USING or RUNNING was found: until it ends, or something else has happened. A holder brings the run out. */
static void wait_for_end(struct vcpu *vcpu, uint32_t state, bool holds)
{
    atomic_fetch_add(&vcpu->waiters, 1);
    vcpu->holder_waits |= holds;
    if (holds && vcpu->engine)
        engine_of(vcpu)->kick(vcpu->engine);
    change_side_barrier();
    if (atomic_load(&vcpu->state) == state)
        cond_wait(&vcpu->changed, &vcpu->lock);
    if (holds)
        vcpu->holder_waits = false;
    atomic_fetch_sub(&vcpu->waiters, 1);
}

/* Under the lock: until nobody is in USING. */
static void wait_for_user(struct vcpu *vcpu)
{
    while (atomic_load(&vcpu->state) == USING)
        wait_for_end(vcpu, USING, false);
}

static bool is_within_run(const struct vcpu *vcpu)
{
    uint32_t state = atomic_load(&vcpu->state);

    return state == RUNNING || state == PAUSED;
}

static noinline enum status begin_slowly(struct vcpu *vcpu, uint32_t state)
{
    do {
        if (is_within_run(vcpu))
            return is_running(vcpu);
        pthread_mutex_lock(&vcpu->lock);
        wait_while(vcpu, HELD);
        wait_for_user(vcpu);
        pthread_mutex_unlock(&vcpu->lock);
    } while (!swap_state(vcpu, IDLE, state));
    return STATUS_OK;
}

/* IDLE -> RUNNING or USING. */
static always_inline enum status begin(struct vcpu *vcpu, uint32_t state)
{
    return likely(swap_state(vcpu, IDLE, state)) ? STATUS_OK : begin_slowly(vcpu, state);
}

/* Somebody waits for this processor. */
static noinline void signal_end(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    pthread_cond_broadcast(&vcpu->changed);
    pthread_mutex_unlock(&vcpu->lock);
}

static always_inline void end(struct vcpu *vcpu)
{
    atomic_store_explicit(&vcpu->state, IDLE, memory_order_release);
    read_side_barrier();
    if (unlikely(atomic_load_explicit(&vcpu->waiters, memory_order_relaxed)))
        signal_end(vcpu);
}

static void pause_for_holder(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    if (vcpu->holder_waits) {
        check(swap_state(vcpu, RUNNING, PAUSED));
        pthread_cond_broadcast(&vcpu->changed);
        wait_while(vcpu, PAUSED);
    }
    pthread_mutex_unlock(&vcpu->lock);
}

/* The engine came back because of a kick. True when the run is over. */
static bool answer_kick(struct vcpu *vcpu, enum status *status)
{
    engine_of(vcpu)->clear_kick(vcpu->engine);
    const uint32_t waiters = atomic_fetch_or(&vcpu->waiters, 0); /* a full barrier: the flags are read after the kick is gone */
    *status = partition_before_run(vcpu->partition);
    if (*status != STATUS_OK)
        return true;
    /* Before a cancel ends the run: it may not overtake a holder, who would wait for the next kick. */
    if (waiters)
        pause_for_holder(vcpu);
    return atomic_exchange(&vcpu->cancel_pending, false);
}

enum status vcpu_run(struct vcpu *vcpu, struct vcpu_exit *exit)
{
    enum status status = begin(vcpu, RUNNING);

    if (unlikely(status != STATUS_OK))
        return status;
    if (unlikely(!vcpu->engine)) {
        end(vcpu);
        return does_not_exist(vcpu);
    }
    status = partition_before_run(vcpu->partition);
    while (likely(status == STATUS_OK)) {
        status = engine_of(vcpu)->run(vcpu->engine, exit);
        if (status != STATUS_OK || likely(exit->reason != EXIT_CANCELED) || answer_kick(vcpu, &status))
            break;
    }
    end(vcpu);
    return status;
}

static noinline enum status no_use(struct vcpu *vcpu)
{
    end(vcpu);
    return does_not_exist(vcpu);
}

enum status vcpu_begin_use(struct vcpu *vcpu)
{
    if (unlikely(!swap_state(vcpu, IDLE, USING))) {
        const enum status status = begin_slowly(vcpu, USING);
        if (status != STATUS_OK)
            return status;
    }
    return likely(vcpu->engine) ? STATUS_OK : no_use(vcpu);
}

void vcpu_end_use(struct vcpu *vcpu)
{
    end(vcpu);
}

enum status vcpu_cancel(struct vcpu *vcpu)
{
    enum status status = vcpu_lock_existing(vcpu);

    if (status != STATUS_OK)
        return status;
    atomic_store(&vcpu->cancel_pending, true);
    engine_of(vcpu)->kick(vcpu->engine);
    vcpu_unlock(vcpu);
    return STATUS_OK;
}

/* ---- existence ---- */

enum status vcpu_require_existing(struct vcpu *vcpu)
{
    return likely(vcpu_exists(vcpu)) ? STATUS_OK : does_not_exist(vcpu);
}

enum status vcpu_lock_existing(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    if (vcpu->engine)
        return STATUS_OK;
    pthread_mutex_unlock(&vcpu->lock);
    return does_not_exist(vcpu);
}

void vcpu_unlock(struct vcpu *vcpu)
{
    pthread_mutex_unlock(&vcpu->lock);
}

/* ---- hold ---- */

static bool hold_locked(struct vcpu *vcpu, bool wait)
{
    while (!swap_state(vcpu, IDLE, HELD) && atomic_load(&vcpu->state) != PAUSED) {
        if (!wait && is_within_run(vcpu))
            return false;
        wait_for_user(vcpu);
        /* One that found an empty slot is about to end by itself. */
        if (atomic_load(&vcpu->state) == RUNNING)
            wait_for_end(vcpu, RUNNING, true);
    }
    return true;
}

bool vcpu_hold(struct vcpu *vcpu, bool wait)
{
    pthread_mutex_lock(&vcpu->lock);
    bool held = hold_locked(vcpu, wait);
    pthread_mutex_unlock(&vcpu->lock);
    return held;
}

void vcpu_release(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    if (!swap_state(vcpu, HELD, IDLE))
        check(swap_state(vcpu, PAUSED, RUNNING));
    pthread_cond_broadcast(&vcpu->changed);
    pthread_mutex_unlock(&vcpu->lock);
}

enum status vcpu_create_held(struct vcpu *vcpu)
{
    struct engine_vcpu *created = NULL;

    if (vcpu->engine)
        return fail(STATUS_VP_ALREADY_EXISTS, "processor %u exists already", vcpu->index);
    enum status status = engine_of(vcpu)->vcpu_create(vcpu->partition->engine_partition, vcpu->index, &created);
    if (status != STATUS_OK)
        return status;
    if (engine_of(vcpu)->apic_publish)
        engine_of(vcpu)->apic_publish(created, &vcpu->apic_page);
    pthread_mutex_lock(&vcpu->lock);
    __atomic_store_n(&vcpu->engine, created, __ATOMIC_RELAXED); /* vcpu_exists looks without the lock */
    pthread_mutex_unlock(&vcpu->lock);
    return STATUS_OK;
}

enum status vcpu_delete_held(struct vcpu *vcpu)
{
    struct engine_vcpu *deleted = vcpu->engine;

    if (!deleted)
        return does_not_exist(vcpu);
    if (atomic_load(&vcpu->state) == PAUSED)
        return is_running(vcpu);
    pthread_mutex_lock(&vcpu->lock);
    __atomic_store_n(&vcpu->engine, NULL, __ATOMIC_RELAXED);
    atomic_store(&vcpu->cancel_pending, false);
    pthread_mutex_unlock(&vcpu->lock);
    engine_of(vcpu)->vcpu_destroy(deleted);
    atomic_store_explicit(&vcpu->apic_page, NO_APIC_PAGE, memory_order_relaxed);
    return STATUS_OK;
}

void vcpu_forget_cancel(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    atomic_store(&vcpu->cancel_pending, false);
    if (vcpu->engine)
        engine_of(vcpu)->clear_kick(vcpu->engine);
    pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_evict(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    if (vcpu->engine)
        engine_of(vcpu)->kick(vcpu->engine);
    pthread_mutex_unlock(&vcpu->lock);
}
