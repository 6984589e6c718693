/*
 * Timers of a partition: any number of deadlines, one thread.
 *
 * Deadlines are in ticks of the partition's TSC (clock_tsc), so they stand still while time is
 * suspended. The thread starts when the first timer is armed. It sleeps until the earliest
 * deadline, without limit when nothing is armed. Moving a deadline later or cancelling it does not
 * wake the thread: it finds out when it wakes for the old deadline, at most one idle wake-up.
 *
 * Lock order: a caller's own lock may be held around timer_arm and timer_cancel; callbacks are
 * called without the queue's lock, on the queue's thread.
 */
#ifndef OWHP_ENGINE_SOFT_TIMER_H
#define OWHP_ENGINE_SOFT_TIMER_H

#include "engine/apic/clock.h"
#include "util/status.h"

struct timer_queue;

/* Called when the deadline has passed; the timer is no longer armed. It may have been armed anew or
 * cancelled meanwhile by another thread: look at your own state under your own lock. */
typedef void timer_function(void *context);

struct timer {
    struct timer_queue *queue; /* fixed after init */
    timer_function *function;
    void *context;
    uint64_t deadline; /* the queue's lock */
    uint32_t position; /* 1 + index in the queue's heap, 0: not armed; the queue's lock */
};

/* `clock` outlives the queue. STATUS_NO_MEMORY. */
enum status timer_queue_create(const struct clock *clock, struct timer_queue **out);
void timer_queue_destroy(
    struct timer_queue *queue); /* ends the thread; every timer is gone; NULL: nothing */

/* Time was suspended or goes on: the thread looks again. */
void timer_queue_clock_changed(struct timer_queue *queue);

/* How often the thread has woken up so far (tests, idle cost). */
uint64_t timer_queue_wakeups(const struct timer_queue *queue);

/* STATUS_NO_MEMORY: room for it in the queue could not be had. Afterwards arming cannot fail. */
enum status timer_init(struct timer *timer, struct timer_queue *queue, timer_function *function,
                       void *context);
/* Cancels, and waits until a callback under way has returned: not from the callback, not holding
 * locks it takes. */
void timer_fini(struct timer *timer);

void timer_arm(struct timer *timer, uint64_t deadline); /* again: moves it */
void timer_cancel(struct timer *timer); /* a callback under way may still run to its end */

#endif
