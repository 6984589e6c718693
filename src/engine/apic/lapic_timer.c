/*
 * The APIC timer: one-shot, periodic and TSC deadline (SDM 3A 11.5.4).
 *
 * Nothing counts. `start` is the moment (partition TSC) at which the count stood at its initial
 * value; everything else follows from the time that has passed since. The timer queue is only asked
 * when an interrupt will come of it: a masked entry costs no wake-up. `settle` brings the state to
 * the present: it raises what is due even if the timer thread has not come round to it, and lets a
 * one-shot count rest at zero.
 *
 * All members of struct lapic_timer, and changes of the LVT entry, are under its lock. The
 * interrupt is put into IRR under it as well, so that after masking the entry none comes any more;
 * `notify` comes after unlocking.
 */
#include "engine/apic/lapic_state.h"

/* A periodic timer shorter than this many microseconds loses ticks, or it would occupy the timer
 * thread. */
#define SHORTEST_PERIOD_US 100

static uint64_t now(const struct lapic *lapic)
{
    return clock_tsc(lapic->tsc->clock);
}

static uint64_t processor_tsc_offset(const struct lapic *lapic)
{
    return atomic_load_explicit(&lapic->tsc->offset, memory_order_relaxed);
}

static enum timer_mode mode_of(uint32_t lvt)
{
    return (enum timer_mode)(lvt >> LVT_TIMER_SHIFT & 3);
}

static uint32_t lvt_timer(const struct lapic *lapic)
{
    return lapic_load(&lapic->lvt[LVT_TIMER]);
}

/* Divide configuration, bits 3,1,0: 000 is 2, 110 is 128, 111 is 1 (SDM 3A figure 11-10). */
static unsigned divide_shift(uint32_t divide)
{
    return (((divide >> 1 & 4) | (divide & 3)) + 1) & 7;
}

/* ---- time and counts ---- */

/* Counts since `start`. */
static uint64_t elapsed(const struct lapic *lapic, uint64_t at)
{
    uint64_t ticks = clock_scale(at - lapic->timer.start, apic_bus_frequency(lapic->bus),
                                 lapic->tsc->clock->frequency);
    return ticks >> divide_shift(lapic->timer.divide);
}

/* Partition TSC ticks that `counts` counts take. */
static uint64_t duration(const struct lapic *lapic, uint64_t counts)
{
    return clock_scale_up(counts << divide_shift(lapic->timer.divide), lapic->tsc->clock->frequency,
                          apic_bus_frequency(lapic->bus));
}

static uint32_t current_count(const struct lapic *lapic, uint64_t at)
{
    const struct lapic_timer *timer = &lapic->timer;
    if (!timer->running)
        return 0;
    uint64_t passed = elapsed(lapic, at);
    if (mode_of(lvt_timer(lapic)) == TIMER_PERIODIC)
        return timer->initial_count - (uint32_t)(passed % timer->initial_count);
    return passed < timer->initial_count ? timer->initial_count - (uint32_t)passed : 0;
}

/* ---- what is due, and when the next is ---- */

static bool is_past_deadline(const struct lapic *lapic, uint64_t at)
{
    return at + processor_tsc_offset(lapic) >= lapic->timer.deadline;
}

/* A deadline is judged by the processor's own TSC, which may have been written since it was armed.
 */
static bool is_due(const struct lapic *lapic, uint64_t at)
{
    if (!lapic->timer.armed)
        return false;
    return mode_of(lvt_timer(lapic)) == TIMER_DEADLINE ? is_past_deadline(lapic, at)
                                                       : at >= lapic->timer.due;
}

/* True: an interrupt was newly requested. */
static bool settle(struct lapic *lapic, uint64_t at)
{
    struct lapic_timer *timer = &lapic->timer;
    enum timer_mode mode = mode_of(lvt_timer(lapic));
    bool fired = false;
    if (is_due(lapic, at)) {
        timer->armed = false;
        fired = lapic_local(lapic, LVT_TIMER);
    }
    if (mode == TIMER_DEADLINE && is_past_deadline(lapic, at))
        timer->deadline = 0;
    if (mode == TIMER_ONE_SHOT && timer->running && elapsed(lapic, at) >= timer->initial_count)
        timer->running = false;
    return fired;
}

/* The first end of the period after `at`, at least the shortest period away. */
static uint64_t next_period(const struct lapic *lapic, uint64_t at)
{
    uint64_t shortest = lapic->tsc->clock->frequency / 1000000 * SHORTEST_PERIOD_US;
    uint32_t count = lapic->timer.initial_count;
    if (duration(lapic, count) < shortest)
        at += shortest;
    return lapic->timer.start + duration(lapic, (elapsed(lapic, at) / count + 1) * count);
}

static uint64_t deadline_due(const struct lapic *lapic, uint64_t at)
{
    if (is_past_deadline(lapic, at))
        return at;
    uint64_t due = at + (lapic->timer.deadline - (at + processor_tsc_offset(lapic)));
    return due < at ? UINT64_MAX : due; /* centuries ahead */
}

/* When the next interrupt comes; false: never. After settle. */
static bool next_due(const struct lapic *lapic, uint64_t at, uint64_t *due)
{
    const struct lapic_timer *timer = &lapic->timer;
    uint32_t lvt = lvt_timer(lapic);
    enum timer_mode mode = mode_of(lvt);
    bool is_waiting = mode == TIMER_DEADLINE ? timer->deadline != 0 : timer->running;
    if ((lvt & LVT_MASKED) || !is_waiting)
        return false;
    if (mode == TIMER_DEADLINE)
        *due = deadline_due(lapic, at);
    else if (mode == TIMER_PERIODIC)
        *due = next_period(lapic, at);
    else
        *due = timer->start + duration(lapic, timer->initial_count);
    return true;
}

/* True: it was due already, and the interrupt was newly requested. */
static bool arm(struct lapic *lapic, uint64_t at)
{
    struct lapic_timer *timer = &lapic->timer;
    bool was_armed = timer->armed;
    timer->armed = next_due(lapic, at, &timer->due);
    if (timer->armed && timer->due <= at)
        return settle(lapic, at);
    if (timer->armed)
        timer_arm(&timer->timer, timer->due);
    else if (was_armed)
        timer_cancel(&timer->timer);
    return false;
}

static uint64_t begin(struct lapic *lapic, bool *fired)
{
    pthread_mutex_lock(&lapic->timer.lock);
    uint64_t at = now(lapic);
    *fired = settle(lapic, at);
    return at;
}

static void end(struct lapic *lapic, bool fired)
{
    pthread_mutex_unlock(&lapic->timer.lock);
    if (fired)
        lapic->callbacks.notify(lapic->context);
}

/* Settle, and arm anew with what has changed: also the timer thread's part. */
void lapic_timer_changed(struct lapic *lapic)
{
    bool fired;
    uint64_t at = begin(lapic, &fired);
    fired |= arm(lapic, at);
    end(lapic, fired);
}

static void expired(void *context)
{
    lapic_timer_changed(context);
}

/* ---- for the other files ---- */

bool lapic_timer_create(struct lapic *lapic)
{
    if (timer_init(&lapic->timer.timer, apic_bus_timers(lapic->bus), expired, lapic) != STATUS_OK)
        return false;
    pthread_mutex_init(&lapic->timer.lock, NULL);
    return true;
}

void lapic_timer_destroy(struct lapic *lapic)
{
    timer_fini(&lapic->timer.timer);
    pthread_mutex_destroy(&lapic->timer.lock);
}

/* An interrupt that was due belongs to the state that goes away. */
void lapic_timer_reset(struct lapic *lapic)
{
    struct lapic_timer *timer = &lapic->timer;
    pthread_mutex_lock(&timer->lock);
    timer->initial_count = timer->divide = 0;
    timer->running = timer->armed = false;
    timer->start = timer->due = timer->deadline = 0;
    lapic_store(&lapic->lvt[LVT_TIMER], LVT_MASKED);
    timer_cancel(&timer->timer);
    pthread_mutex_unlock(&timer->lock);
}

/* The count stands at `current` now. */
static void rebase(struct lapic *lapic, uint64_t at, uint32_t current)
{
    struct lapic_timer *timer = &lapic->timer;
    timer->start =
        at - duration(lapic, current < timer->initial_count ? timer->initial_count - current : 0);
}

static void disarm(struct lapic_timer *timer)
{
    timer->running = false;
    timer->initial_count = 0;
    timer->deadline = 0;
}

/* To and from TSC-deadline mode disarms the timer (SDM 3A 11.5.4.1); between the others the count
 * goes on. */
void lapic_timer_set_lvt(struct lapic *lapic, uint32_t value)
{
    bool fired;
    uint64_t at = begin(lapic, &fired);
    enum timer_mode before = mode_of(lvt_timer(lapic)), after = mode_of(value);
    uint32_t current = current_count(lapic, at);
    lapic_store(&lapic->lvt[LVT_TIMER], value);
    if (before != after && (before >= TIMER_DEADLINE || after >= TIMER_DEADLINE))
        disarm(&lapic->timer);
    else if (before != after && lapic->timer.running)
        rebase(lapic, at, current);
    fired |= arm(lapic, at);
    end(lapic, fired);
}

/* In TSC-deadline mode writes to the initial count are ignored (SDM 3A 11.5.4.1). */
void lapic_timer_set_count(struct lapic *lapic, uint32_t count)
{
    struct lapic_timer *timer = &lapic->timer;
    bool fired;
    uint64_t at = begin(lapic, &fired);
    if (mode_of(lvt_timer(lapic)) < TIMER_DEADLINE) {
        timer->initial_count = count;
        timer->running = count != 0;
        timer->start = at;
        fired |= arm(lapic, at);
    }
    end(lapic, fired);
}

/* The count stays where it is and goes on at the new rate. */
void lapic_timer_set_divide(struct lapic *lapic, uint32_t value)
{
    bool fired;
    uint64_t at = begin(lapic, &fired);
    uint32_t current = current_count(lapic, at);
    lapic->timer.divide = value;
    if (lapic->timer.running)
        rebase(lapic, at, current);
    fired |= arm(lapic, at);
    end(lapic, fired);
}

/* Written by the processor's thread only, which is the one that asks. */
uint32_t lapic_timer_initial(struct lapic *lapic)
{
    return lapic->timer.initial_count;
}

uint32_t lapic_timer_divide(struct lapic *lapic)
{
    return lapic->timer.divide;
}

uint32_t lapic_timer_count(struct lapic *lapic)
{
    bool fired;
    uint64_t at = begin(lapic, &fired);
    uint32_t count = current_count(lapic, at);
    if (!lapic->timer.armed)
        arm(lapic, at); /* it came due just now */
    end(lapic, fired);
    return count;
}

/* In other modes the MSR reads 0 and ignores writes. */
uint64_t lapic_timer_deadline(struct lapic *lapic)
{
    bool fired;
    uint64_t at = begin(lapic, &fired);
    uint64_t deadline = lapic->timer.deadline;
    if (!lapic->timer.armed)
        arm(lapic, at); /* it came due just now */
    end(lapic, fired);
    return deadline;
}

void lapic_timer_set_deadline(struct lapic *lapic, uint64_t deadline)
{
    bool fired;
    uint64_t at = begin(lapic, &fired);
    if (mode_of(lvt_timer(lapic)) == TIMER_DEADLINE) {
        lapic->timer.deadline = deadline;
        fired |= arm(lapic, at);
    }
    end(lapic, fired);
}

void lapic_timer_restore(struct lapic *lapic, uint32_t initial, uint32_t current, uint32_t divide)
{
    struct lapic_timer *timer = &lapic->timer;
    bool fired;
    uint64_t at = begin(lapic, &fired);
    timer->divide = divide;
    if (mode_of(lvt_timer(lapic)) < TIMER_DEADLINE) {
        timer->initial_count = initial;
        timer->running = initial && current;
        rebase(lapic, at, current);
    }
    fired |= arm(lapic, at);
    end(lapic, fired);
}

/* ---- snapshots: nothing is settled, what is due stays due ---- */

void lapic_timer_save_state(struct lapic *lapic, struct apic_state *state)
{
    struct lapic_timer *timer = &lapic->timer;

    pthread_mutex_lock(&timer->lock);
    state->lvt[LVT_TIMER] = lvt_timer(lapic);
    state->timer_initial = timer->initial_count;
    state->timer_divide = timer->divide;
    state->timer_running = timer->running;
    state->timer_armed = timer->armed;
    state->timer_start = timer->start;
    state->timer_due = timer->due;
    state->timer_deadline = timer->deadline;
    pthread_mutex_unlock(&timer->lock);
}

/* A callback under way waits for the lock, and then judges by what is here now. */
void lapic_timer_load_state(struct lapic *lapic, const struct apic_state *state)
{
    struct lapic_timer *timer = &lapic->timer;

    pthread_mutex_lock(&timer->lock);
    lapic_store(&lapic->lvt[LVT_TIMER], state->lvt[LVT_TIMER]);
    timer->initial_count = state->timer_initial;
    timer->divide = state->timer_divide;
    timer->running = state->timer_running;
    timer->start = state->timer_start;
    timer->due = state->timer_due;
    timer->deadline = state->timer_deadline;
    if (state->timer_armed)
        timer_arm(&timer->timer, timer->due);
    else if (timer->armed)
        timer_cancel(&timer->timer);
    timer->armed = state->timer_armed;
    pthread_mutex_unlock(&timer->lock);
}
