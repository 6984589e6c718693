/*
 * Why and how the machine stops. Whoever wants it to end says so here, once; the first reason counts.
 *
 * power_stop() may be called from any thread, with or without the machine lock: it only records the reason,
 * cancels the processors and wakes the thread in power_wait().
 */
#ifndef OPENWHP_TOOL_POWER_H
#define OPENWHP_TOOL_POWER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum stop_reason {
    STOP_NONE,
    STOP_POWER_OFF,   /* the guest switched the machine off */
    STOP_RESET,       /* the guest asked for a reset */
    STOP_DEBUG_EXIT,  /* the guest wrote port F4 */
    STOP_USER,        /* Ctrl-A x */
    STOP_TIMEOUT,     /* --timeout */
    STOP_GUEST_CRASH, /* triple fault, or an instruction nobody can carry out */
    STOP_FAILURE,     /* our own, with a problem text */
};

/* Exit statuses of the command. A debug exit has its own, which is always odd. */
enum {
    EXIT_POWER_OFF = 0,
    EXIT_PROBLEM = 1,
    EXIT_GUEST_CRASH = 2,
    EXIT_TIMEOUT = 124,
};

struct power {
    atomic_int reason; /* enum stop_reason */
    int debug_status;  /* with STOP_DEBUG_EXIT */
    char text[400];    /* with STOP_GUEST_CRASH and STOP_FAILURE: one line */
    pthread_mutex_t lock;
    pthread_cond_t stopped;
    /* Makes every processor come out of its run; set before the first of them runs. */
    void (*cancel)(void *context);
    void *context;
};

void power_init(struct power *power);
void power_fini(struct power *power);

/* True once somebody has stopped the machine. */
bool power_is_stopping(struct power *power);

void power_stop(struct power *power, enum stop_reason reason);
void power_debug_exit(struct power *power, int status);

/* The text is one line: "what, where, what to do". */
void power_fail(struct power *power, enum stop_reason reason, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Waits until the machine is stopped, or (unless it is 0) until this time of timers_host_clock(): a timeout. */
void power_wait(struct power *power, uint64_t deadline);

/* The exit status of the command for this reason. */
int power_exit_status(const struct power *power);

#endif
