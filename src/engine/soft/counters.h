/*
 * What a processor of the soft engine counts. Written by the processor's thread alone, read by any: relaxed atomics, so counting
 * costs what an increment costs.
 */
#ifndef OWHP_ENGINE_SOFT_COUNTERS_H
#define OWHP_ENGINE_SOFT_COUNTERS_H

#include <stdatomic.h>

#include "engine/engine.h"
#include "engine/apic/clock.h"
#include "x86/bits.h"

struct counters {
    _Atomic uint64_t intercept[INTERCEPT_COUNT];
    _Atomic uint64_t page_faults, exceptions, interrupts;
    _Atomic uint64_t runtime; /* see below */
};

static inline void count(_Atomic uint64_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

/*
 * Time in runs, in units of 100 ns, as one number that can be read at any time and never goes back. Bit 63: the processor runs;
 * then the rest is what was gathered minus the time of the start, by the coarse clock if bit 62 is set. Else it is what was
 * gathered.
 */
#define RUNTIME_RUNS   BIT64(63)
#define RUNTIME_COARSE BIT64(62)
#define RUNTIME_MASK   (RUNTIME_COARSE - 1)

static inline uint64_t runtime_read(const _Atomic uint64_t *runtime)
{
    uint64_t value = atomic_load_explicit(runtime, memory_order_relaxed);

    if (!(value & RUNTIME_RUNS))
        return value;
    return (value + (value & RUNTIME_COARSE ? clock_host_coarse_100ns() : clock_host_100ns())) & RUNTIME_MASK;
}

static inline void runtime_start(_Atomic uint64_t *runtime, bool coarse)
{
    uint64_t gathered = atomic_load_explicit(runtime, memory_order_relaxed);
    uint64_t now = coarse ? clock_host_coarse_100ns() : clock_host_100ns();
    uint64_t flags = RUNTIME_RUNS | (coarse ? RUNTIME_COARSE : 0);

    atomic_store_explicit(runtime, ((gathered - now) & RUNTIME_MASK) | flags, memory_order_relaxed);
}

static inline void runtime_stop(_Atomic uint64_t *runtime)
{
    atomic_store_explicit(runtime, runtime_read(runtime), memory_order_relaxed);
}

#endif
