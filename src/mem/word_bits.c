#include "mem/word_bits.h"

#include <stdatomic.h>

static enum bits_way best_way(void)
{
    if (!__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("popcnt"))
        return BITS_PLAIN;
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
                   __builtin_cpu_supports("avx512vbmi2")
               ? BITS_VECTOR
               : BITS_COUNTS;
}

static _Atomic int chosen = -1;

enum bits_way bits_way(void)
{
    int way = atomic_load_explicit(&chosen, memory_order_relaxed);

    if (unlikely(way < 0)) {
        way = best_way();
        bits_way_use((enum bits_way)way);
    }
    return (enum bits_way)way;
}

void bits_way_use(enum bits_way way)
{
    atomic_store_explicit(&chosen, way, memory_order_relaxed);
}
