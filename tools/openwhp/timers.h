/*
 * Timed events of all devices: one thread that sleeps until the earliest deadline.
 *
 * With nothing armed the thread sleeps without end, so that an idle machine costs nothing. All functions
 * but start and stop are called with the machine lock held; a timer fires with the machine lock held.
 */
#ifndef OPENWHP_TOOL_TIMERS_H
#define OPENWHP_TOOL_TIMERS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define NANOSECONDS_PER_SECOND UINT64_C(1000000000)

struct timer {
    void (*fire)(void *context); /* fixed after init; re-arms, if at all, for later than now */
    void *context;
    uint64_t deadline; /* nanoseconds on timers_now()'s clock */
    bool armed;
    struct timer *next; /* list of the armed ones, in order of their deadline */
};

struct timers {
    pthread_mutex_t *lock; /* the machine lock */
    pthread_cond_t changed;
    pthread_t thread;
    bool running, stopping;
    struct timer *first;
    uint64_t (*clock)(void); /* nanoseconds; tests put their own here */
};

/* Monotonic host time in nanoseconds. */
uint64_t timers_host_clock(void);

void timers_init(struct timers *timers, pthread_mutex_t *lock);
void timers_fini(struct timers *timers);

/* Starts and ends the thread; stop waits for it and must be called without the lock. */
int timers_start(struct timers *timers);
void timers_stop(struct timers *timers);

uint64_t timers_now(const struct timers *timers);

/* Arms (or moves) a timer. A deadline in the past fires at once, from the thread. */
void timers_arm(struct timers *timers, struct timer *timer, uint64_t deadline);
void timers_cancel(struct timers *timers, struct timer *timer);

/* Fires everything that is due; the thread's work, and what a test without a thread calls. */
void timers_fire_due(struct timers *timers);

#endif
