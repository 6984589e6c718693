/*
 * Guest time of a partition: its time stamp counter and its reference time.
 *
 * The guest's TSC is the host's with an offset, never scaled: RDTSC costs a host RDTSC and an
 * addition, and the partition's TSC frequency is the host's. One `struct clock` per partition holds
 * what its processors share; one `struct tsc` per processor adds what WRMSR changes (SDM
 * 3B 17.17.3).
 *
 * Suspending freezes both times; they go on where they stood. A partition whose time is suspended
 * has no running processor (WHvSuspendPartitionTime demands it).
 *
 * Threads: every function may be called from any thread unless it says otherwise.
 */
#ifndef OWHP_ENGINE_SOFT_CLOCK_H
#define OWHP_ENGINE_SOFT_CLOCK_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "util/types.h"

struct clock {
    pthread_mutex_t lock;      /* writers of the members below */
    _Atomic uint32_t sequence; /* odd while a writer is at work */
    _Atomic uint64_t offset; /* partition TSC = host TSC + offset; frozen: partition TSC = offset */
    _Atomic uint64_t epoch;  /* partition TSC when the first processor first ran */
    _Atomic bool frozen, started;
    uint64_t frequency; /* Hz; fixed after init */
};

/* Frequency of the host's TSC in Hz. Found once per process (takes up to 20 ms the first time).
 * Never 0. */
uint64_t host_tsc_frequency(void);

/* The host's time in units of 100 ns, from an arbitrary point: exactly, and as of the kernel's latest tick (a few ms), which
 * costs a fifth. The two are not to be mixed. */
uint64_t clock_host_100ns(void);
uint64_t clock_host_coarse_100ns(void);

/* The partition's TSC starts at 0 here and runs; the reference time stays 0 until clock_run. */
void clock_init(struct clock *clock);
void clock_fini(struct clock *clock);

/* To be called at every run entry, cheap: the first one starts the reference time, and any ends a
 * suspension. True: time was suspended and now goes on: tell the timer queue
 * (timer_queue_clock_changed). */
bool clock_run(struct clock *clock);

/* Freeze, and go on. Idempotent. Follow each with timer_queue_clock_changed. */
void clock_suspend(struct clock *clock);
void clock_resume(struct clock *clock);

/* RESET of the partition: the TSC counts from 0 again, for all processors at once (each then gets
 * tsc_reset); the reference time goes on. No processor runs and no timer is armed. */
void clock_reset(struct clock *clock);

/* The time as it is now, and the time as it was then, where it stands until clock_run or clock_resume. No processor runs. */
struct time_state;
void clock_save_state(struct clock *clock, struct time_state *state);
void clock_load_state(struct clock *clock, const struct time_state *state);

bool clock_is_suspended(const struct clock *clock);

/* Ticks since clock_init without the suspended spans. Never goes back on one thread. */
uint64_t clock_tsc(const struct clock *clock);

/* Units of 100 ns since the first clock_run, without the suspended spans; 0 before. */
uint64_t clock_reference_time(const struct clock *clock);

/* Absolute CLOCK_MONOTONIC time at which clock_tsc will have reached `ticks`, never earlier by more
 * than the frequency's error. Only while not suspended. Far deadlines are cut to one hour from now.
 */
struct timespec clock_deadline(const struct clock *clock, uint64_t ticks);

/* ticks * numerator / denominator in 128 bits, rounded down or up, saturated at UINT64_MAX. */
uint64_t clock_scale(uint64_t ticks, uint64_t numerator, uint64_t denominator);
uint64_t clock_scale_up(uint64_t ticks, uint64_t numerator, uint64_t denominator);

/*
 * One processor's TSC. Written by the processor's thread (or while it does not run); read by
 * anyone. After tsc_write, tsc_write_adjust and tsc_reset call lapic_tsc_changed: a TSC deadline
 * moves with it.
 */
struct tsc {
    const struct clock *clock; /* fixed after init */
    _Atomic uint64_t offset;   /* processor TSC = partition TSC + offset */
    _Atomic uint64_t adjust;   /* IA32_TSC_ADJUST */
};

void tsc_init(struct tsc *tsc, const struct clock *clock); /* offset and adjust 0 */
void tsc_reset(struct tsc *tsc); /* RESET: offset and adjust 0; INIT changes nothing */

uint64_t tsc_read(const struct tsc *tsc);
uint64_t tsc_adjust(const struct tsc *tsc);

/* WRMSR of IA32_TIME_STAMP_COUNTER and of IA32_TSC_ADJUST: each moves the other as well. */
void tsc_write(struct tsc *tsc, uint64_t value);
void tsc_write_adjust(struct tsc *tsc, uint64_t value);

/* The host side sets them apart from each other (names Tsc, TscAdjust, TscVirtualOffset). */
void tsc_set(struct tsc *tsc, uint64_t value);        /* as tsc_write, adjust stays */
void tsc_set_adjust(struct tsc *tsc, uint64_t value); /* the TSC stays */
uint64_t tsc_offset(const struct tsc *tsc); /* processor TSC minus host TSC, modulo 2^64 */
void tsc_set_offset(struct tsc *tsc, uint64_t value);

#endif
