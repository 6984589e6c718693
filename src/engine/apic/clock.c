/*
 * Guest time: an offset to the host's TSC. Readers go without a lock; `sequence` tells them that a
 * writer (suspend, resume) changed offset and frozen together under their hands. All members they
 * read are atomic and loaded with acquire, so the second look at `sequence` cannot come before
 * them.
 */
#include "engine/apic/clock.h"

#include <cpuid.h>
#include <x86intrin.h>

#include "core/state.h"
#include "util/compiler.h"

#define NANOSECONDS        UINT64_C(1000000000)
#define REFERENCE_PER_S    UINT64_C(10000000)
#define DEADLINE_LIMIT_S   UINT64_C(3600)
#define MEASURE_NS         UINT64_C(20000000)
#define FALLBACK_FREQUENCY UINT64_C(1000000000)

/* ---- the host's TSC frequency ---- */

static uint64_t nanoseconds(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * NANOSECONDS + (uint64_t)now.tv_nsec;
}

struct sample {
    uint64_t ns, tsc;
};

/* The tightest of a few readings of both clocks: an interruption between them would spoil the
 * result. */
static struct sample take_sample(void)
{
    struct sample best = {0};
    uint64_t best_gap = UINT64_MAX;
    for (int i = 0; i < 16; i++) {
        uint64_t before = __rdtsc();
        uint64_t ns = nanoseconds(CLOCK_MONOTONIC_RAW);
        uint64_t gap = __rdtsc() - before;
        if (gap < best_gap) {
            best_gap = gap;
            best = (struct sample){.ns = ns, .tsc = before + gap / 2};
        }
    }
    return best;
}

static uint64_t measure(uint64_t span_ns)
{
    struct sample first = take_sample(), last;
    struct timespec pause = {.tv_nsec = (long)span_ns};
    do {
        nanosleep(&pause, NULL);
        last = take_sample();
    } while (last.ns - first.ns < span_ns / 2);
    return clock_scale(last.tsc - first.tsc, NANOSECONDS, last.ns - first.ns);
}

/* CPUID 15H: TSC = crystal * EBX / EAX (SDM 3B 19.7.3); not every processor names the crystal. */
static uint64_t frequency_from_crystal(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(0x15, &a, &b, &c, &d) || !a || !b || !c)
        return 0;
    return (uint64_t)c * b / a;
}

/* CPUID 40000010H: kHz, the convention of several hypervisors for their guests. */
static uint64_t frequency_from_hypervisor(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 31))
        return 0;
    __cpuid(0x40000000, a, b, c, d);
    if (a < 0x40000010 || a > 0x400000ff)
        return 0;
    __cpuid(0x40000010, a, b, c, d);
    return (uint64_t)a * 1000;
}

/* What CPUID says counts only when a short measurement agrees to 2 %. */
static bool plausible(uint64_t claimed, uint64_t measured)
{
    uint64_t difference = claimed > measured ? claimed - measured : measured - claimed;
    return claimed && difference < measured / 50;
}

static uint64_t found_frequency;

static void find_frequency(void)
{
    uint64_t rough = measure(MEASURE_NS / 10);
    uint64_t claims[] = {frequency_from_crystal(), frequency_from_hypervisor()};
    for (size_t i = 0; i < array_size(claims) && !found_frequency; i++)
        if (plausible(claims[i], rough))
            found_frequency = claims[i];
    if (!found_frequency)
        found_frequency = measure(MEASURE_NS);
    if (!found_frequency)
        found_frequency = FALLBACK_FREQUENCY;
}

uint64_t host_tsc_frequency(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_frequency);
    return found_frequency;
}

static uint64_t host_100ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 10000000 + (uint64_t)now.tv_nsec / 100;
}

uint64_t clock_host_100ns(void)
{
    return host_100ns(CLOCK_MONOTONIC);
}

uint64_t clock_host_coarse_100ns(void)
{
    return host_100ns(CLOCK_MONOTONIC_COARSE);
}

/* ---- the partition's clock ---- */

void clock_init(struct clock *clock)
{
    *clock = (struct clock){.frequency = host_tsc_frequency()};
    pthread_mutex_init(&clock->lock, NULL);
    atomic_init(&clock->offset, -__rdtsc());
}

void clock_fini(struct clock *clock)
{
    pthread_mutex_destroy(&clock->lock);
}

uint64_t clock_tsc(const struct clock *clock)
{
    for (;;) {
        uint32_t sequence = atomic_load_explicit(&clock->sequence, memory_order_acquire);
        uint64_t offset = atomic_load_explicit(&clock->offset, memory_order_acquire);
        bool frozen = atomic_load_explicit(&clock->frozen, memory_order_acquire);
        uint64_t ticks = frozen ? offset : __rdtsc() + offset;
        if (!(sequence & 1) &&
            atomic_load_explicit(&clock->sequence, memory_order_relaxed) == sequence)
            return ticks;
    }
}

/* Under the lock. */
static void publish(struct clock *clock, uint64_t offset, bool frozen)
{
    uint32_t sequence = atomic_load_explicit(&clock->sequence, memory_order_relaxed);
    atomic_store_explicit(&clock->sequence, sequence + 1, memory_order_relaxed);
    atomic_store_explicit(&clock->offset, offset, memory_order_release);
    atomic_store_explicit(&clock->frozen, frozen, memory_order_release);
    atomic_store_explicit(&clock->sequence, sequence + 2, memory_order_release);
}

void clock_suspend(struct clock *clock)
{
    pthread_mutex_lock(&clock->lock);
    if (!clock->frozen)
        publish(clock, clock_tsc(clock), true);
    pthread_mutex_unlock(&clock->lock);
}

void clock_resume(struct clock *clock)
{
    pthread_mutex_lock(&clock->lock);
    if (clock->frozen)
        publish(clock, clock_tsc(clock) - __rdtsc(), false);
    pthread_mutex_unlock(&clock->lock);
}

void clock_reset(struct clock *clock)
{
    pthread_mutex_lock(&clock->lock);
    uint64_t now = clock_tsc(clock);
    uint64_t offset = atomic_load_explicit(&clock->offset, memory_order_relaxed);
    uint64_t epoch = atomic_load_explicit(&clock->epoch, memory_order_relaxed);
    atomic_store_explicit(&clock->epoch, epoch - now, memory_order_relaxed);
    publish(clock, offset - now, clock_is_suspended(clock));
    pthread_mutex_unlock(&clock->lock);
}

void clock_save_state(struct clock *clock, struct time_state *state)
{
    pthread_mutex_lock(&clock->lock);
    *state = (struct time_state){.tsc = clock_tsc(clock),
                                 .epoch = atomic_load(&clock->epoch),
                                 .started = atomic_load(&clock->started)};
    pthread_mutex_unlock(&clock->lock);
}

void clock_load_state(struct clock *clock, const struct time_state *state)
{
    pthread_mutex_lock(&clock->lock);
    atomic_store_explicit(&clock->epoch, state->epoch, memory_order_relaxed);
    atomic_store_explicit(&clock->started, state->started != 0, memory_order_release);
    publish(clock, state->tsc, true);
    pthread_mutex_unlock(&clock->lock);
}

bool clock_is_suspended(const struct clock *clock)
{
    return atomic_load_explicit(&clock->frozen, memory_order_acquire);
}

static void start(struct clock *clock)
{
    pthread_mutex_lock(&clock->lock);
    if (!clock->started) {
        atomic_store_explicit(&clock->epoch, clock_tsc(clock), memory_order_relaxed);
        atomic_store_explicit(&clock->started, true, memory_order_release);
    }
    pthread_mutex_unlock(&clock->lock);
}

bool clock_run(struct clock *clock)
{
    if (unlikely(!atomic_load_explicit(&clock->started, memory_order_acquire)))
        start(clock);
    if (likely(!clock_is_suspended(clock)))
        return false;
    clock_resume(clock);
    return true;
}

uint64_t clock_reference_time(const struct clock *clock)
{
    if (!atomic_load_explicit(&clock->started, memory_order_acquire))
        return 0;
    uint64_t epoch = atomic_load_explicit(&clock->epoch, memory_order_relaxed);
    return clock_scale(clock_tsc(clock) - epoch, REFERENCE_PER_S, clock->frequency);
}

struct timespec clock_deadline(const struct clock *clock, uint64_t ticks)
{
    uint64_t now = clock_tsc(clock);
    uint64_t ns = nanoseconds(CLOCK_MONOTONIC);
    uint64_t left = ticks > now ? ticks - now : 0;
    if (left > DEADLINE_LIMIT_S * clock->frequency)
        left = DEADLINE_LIMIT_S * clock->frequency;
    ns += clock_scale_up(left, NANOSECONDS, clock->frequency);
    return (struct timespec){.tv_sec = (time_t)(ns / NANOSECONDS),
                             .tv_nsec = (long)(ns % NANOSECONDS)};
}

uint64_t clock_scale(uint64_t ticks, uint64_t numerator, uint64_t denominator)
{
    uint128_t result = (uint128_t)ticks * numerator / denominator;
    return result > UINT64_MAX ? UINT64_MAX : (uint64_t)result;
}

uint64_t clock_scale_up(uint64_t ticks, uint64_t numerator, uint64_t denominator)
{
    uint128_t result = ((uint128_t)ticks * numerator + (denominator - 1)) / denominator;
    return result > UINT64_MAX ? UINT64_MAX : (uint64_t)result;
}

/* ---- one processor's TSC ---- */

static uint64_t load(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static void store(_Atomic uint64_t *value, uint64_t to)
{
    atomic_store_explicit(value, to, memory_order_relaxed);
}

void tsc_init(struct tsc *tsc, const struct clock *clock)
{
    *tsc = (struct tsc){.clock = clock};
}

void tsc_reset(struct tsc *tsc)
{
    store(&tsc->offset, 0);
    store(&tsc->adjust, 0);
}

uint64_t tsc_read(const struct tsc *tsc)
{
    return clock_tsc(tsc->clock) + load(&tsc->offset);
}

void tsc_set(struct tsc *tsc, uint64_t value)
{
    store(&tsc->offset, value - clock_tsc(tsc->clock));
}

void tsc_write(struct tsc *tsc, uint64_t value)
{
    uint64_t offset = value - clock_tsc(tsc->clock);
    store(&tsc->adjust, load(&tsc->adjust) + (offset - load(&tsc->offset)));
    store(&tsc->offset, offset);
}

uint64_t tsc_adjust(const struct tsc *tsc)
{
    return load(&tsc->adjust);
}

void tsc_set_adjust(struct tsc *tsc, uint64_t value)
{
    store(&tsc->adjust, value);
}

void tsc_write_adjust(struct tsc *tsc, uint64_t value)
{
    store(&tsc->offset, load(&tsc->offset) + (value - load(&tsc->adjust)));
    store(&tsc->adjust, value);
}

/* Partition TSC minus host TSC; constant while time runs. */
static uint64_t clock_offset(const struct clock *clock)
{
    uint64_t offset = load(&clock->offset);
    return clock_is_suspended(clock) ? offset - __rdtsc() : offset;
}

uint64_t tsc_offset(const struct tsc *tsc)
{
    return clock_offset(tsc->clock) + load(&tsc->offset);
}

void tsc_set_offset(struct tsc *tsc, uint64_t value)
{
    store(&tsc->offset, value - clock_offset(tsc->clock));
}
