/* One thread for all timed events of the devices; see timers.h. */
#include "timers.h"

#include <stddef.h>
#include <string.h>
#include <time.h>

#include "problem.h"

uint64_t timers_host_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NANOSECONDS_PER_SECOND + (uint64_t)now.tv_nsec;
}

void timers_init(struct timers *timers, pthread_mutex_t *lock)
{
    memset(timers, 0, sizeof *timers);
    timers->lock = lock;
    timers->clock = timers_host_clock;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&timers->changed, &attributes);
    pthread_condattr_destroy(&attributes);
}

void timers_fini(struct timers *timers) { pthread_cond_destroy(&timers->changed); }

uint64_t timers_now(const struct timers *timers) { return timers->clock(); }

static void unlink_timer(struct timers *timers, struct timer *timer)
{
    for (struct timer **at = &timers->first; *at != NULL; at = &(*at)->next) {
        if (*at == timer) {
            *at = timer->next;
            break;
        }
    }
    timer->armed = false;
}

void timers_arm(struct timers *timers, struct timer *timer, uint64_t deadline)
{
    if (timer->armed)
        unlink_timer(timers, timer);
    timer->deadline = deadline;
    timer->armed = true;
    struct timer **at = &timers->first;
    while (*at != NULL && (*at)->deadline <= deadline)
        at = &(*at)->next;
    timer->next = *at;
    *at = timer;
    if (timers->first == timer)
        pthread_cond_signal(&timers->changed);
}

void timers_cancel(struct timers *timers, struct timer *timer)
{
    if (timer->armed)
        unlink_timer(timers, timer);
}

void timers_fire_due(struct timers *timers)
{
    /* One reading of the clock: whatever is armed for later than now, even by a nanosecond, waits. */
    uint64_t now = timers->clock();
    while (timers->first != NULL && timers->first->deadline <= now) {
        struct timer *timer = timers->first;
        unlink_timer(timers, timer);
        timer->fire(timer->context);
    }
}

static void sleep_until(struct timers *timers, uint64_t deadline)
{
    struct timespec until = {
        .tv_sec = (time_t)(deadline / NANOSECONDS_PER_SECOND),
        .tv_nsec = (long)(deadline % NANOSECONDS_PER_SECOND),
    };
    pthread_cond_timedwait(&timers->changed, timers->lock, &until);
}

static void *timer_thread(void *argument)
{
    struct timers *timers = argument;
    pthread_mutex_lock(timers->lock);
    while (!timers->stopping) {
        timers_fire_due(timers);
        if (timers->stopping)
            break;
        if (timers->first == NULL)
            pthread_cond_wait(&timers->changed, timers->lock);
        else if (timers->first->deadline > timers->clock())
            sleep_until(timers, timers->first->deadline);
        else {
            /* Late by more than a period: let the processors have the lock in between. */
            pthread_mutex_unlock(timers->lock);
            pthread_mutex_lock(timers->lock);
        }
    }
    pthread_mutex_unlock(timers->lock);
    return NULL;
}

int timers_start(struct timers *timers)
{
    timers->stopping = false;
    if (pthread_create(&timers->thread, NULL, timer_thread, timers) != 0)
        return problem("cannot start the timer thread; allow this user more threads (ulimit -u)");
    timers->running = true;
    return 0;
}

void timers_stop(struct timers *timers)
{
    if (!timers->running)
        return;
    pthread_mutex_lock(timers->lock);
    timers->stopping = true;
    pthread_cond_signal(&timers->changed);
    pthread_mutex_unlock(timers->lock);
    pthread_join(timers->thread, NULL);
    timers->running = false;
}
