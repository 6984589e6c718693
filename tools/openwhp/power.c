/* Why and how the machine stops; see power.h. */
#include "power.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "timers.h"

void power_init(struct power *power)
{
    memset(power, 0, sizeof *power);
    atomic_init(&power->reason, STOP_NONE);
    pthread_mutex_init(&power->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&power->stopped, &attributes);
    pthread_condattr_destroy(&attributes);
}

void power_fini(struct power *power)
{
    pthread_cond_destroy(&power->stopped);
    pthread_mutex_destroy(&power->lock);
}

bool power_is_stopping(struct power *power)
{
    return atomic_load_explicit(&power->reason, memory_order_acquire) != STOP_NONE;
}

/* The lock is held, and stays held until the reason's details are in place. */
static bool begin_stop(struct power *power)
{
    pthread_mutex_lock(&power->lock);
    if (!power_is_stopping(power))
        return true;
    pthread_mutex_unlock(&power->lock);
    return false;
}

static void end_stop(struct power *power, enum stop_reason reason)
{
    atomic_store_explicit(&power->reason, reason, memory_order_release);
    pthread_cond_broadcast(&power->stopped);
    pthread_mutex_unlock(&power->lock);
    if (power->cancel != NULL)
        power->cancel(power->context);
}

void power_stop(struct power *power, enum stop_reason reason)
{
    if (begin_stop(power))
        end_stop(power, reason);
}

void power_debug_exit(struct power *power, int status)
{
    if (!begin_stop(power))
        return;
    power->debug_status = status;
    end_stop(power, STOP_DEBUG_EXIT);
}

void power_fail(struct power *power, enum stop_reason reason, const char *format, ...)
{
    if (!begin_stop(power))
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(power->text, sizeof power->text, format, arguments);
    va_end(arguments);
    end_stop(power, reason);
}

void power_wait(struct power *power, uint64_t deadline)
{
    struct timespec until = {
        .tv_sec = (time_t)(deadline / NANOSECONDS_PER_SECOND),
        .tv_nsec = (long)(deadline % NANOSECONDS_PER_SECOND),
    };
    bool late = false;
    pthread_mutex_lock(&power->lock);
    while (!power_is_stopping(power) && !late) {
        if (deadline == 0)
            pthread_cond_wait(&power->stopped, &power->lock);
        else
            late = pthread_cond_timedwait(&power->stopped, &power->lock, &until) != 0;
    }
    pthread_mutex_unlock(&power->lock);
    if (late)
        power_stop(power, STOP_TIMEOUT);
}

int power_exit_status(const struct power *power)
{
    switch (atomic_load(&power->reason)) {
    case STOP_DEBUG_EXIT:
        return power->debug_status;
    case STOP_TIMEOUT:
        return EXIT_TIMEOUT;
    case STOP_GUEST_CRASH:
        return EXIT_GUEST_CRASH;
    case STOP_FAILURE:
        return EXIT_PROBLEM;
    default:
        return EXIT_POWER_OFF;
    }
}
