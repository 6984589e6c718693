/* Breakpoints: which are enabled, and what they match; the contract is in debug.h. */
#include "x86/system/debug.h"

#include "x86/code/code_cache.h"

/* R/W field of DR7, bits 16 + 4n; LEN above it. */
enum { ON_EXECUTE, ON_WRITE, ON_IO, ON_ACCESS };

static unsigned condition(const struct cpu *cpu, unsigned n) { return cpu->dr7 >> (16 + 4 * n) & 3; }

static size_t length(const struct cpu *cpu, unsigned n)
{
    static const uint8_t lengths[] = {1, 2, 8, 4};
    return lengths[cpu->dr7 >> (18 + 4 * n) & 3];
}

/* Ln or Gn. Tasks have no bearing on it: a task switch clears the Ln. */
static bool is_enabled(const struct cpu *cpu, unsigned n) { return cpu->dr7 >> (2 * n) & 3; }

/* R/W = 2 is for ports with CR4.DE; without it, undefined: nothing. */
static bool watches_io(const struct cpu *cpu, unsigned n)
{
    return is_enabled(cpu, n) && condition(cpu, n) == ON_IO && (cpu->cr4 & CR4_DE);
}

void debug_update(struct cpu *cpu)
{
    uint8_t watch = 0;

    if (likely(!(cpu->dr7 & 0xff))) {
        cpu->debug_watch = 0;
        return;
    }
    for (unsigned n = 0; n < 4; n++) {
        if (!is_enabled(cpu, n))
            continue;
        if (condition(cpu, n) == ON_IO)
            watch |= watches_io(cpu, n) ? DEBUG_IO : 0;
        else
            watch |= condition(cpu, n) == ON_EXECUTE ? DEBUG_CODE : DEBUG_DATA;
    }
    cpu->debug_watch = watch;
    if (watch & DEBUG_CODE)
        atomic_fetch_or_explicit(&cpu->request, REQUEST_ATTENTION, memory_order_relaxed);
}

bool debug_code_fault(struct cpu *cpu)
{
    const gva_t linear = code_linear(cpu, cpu->rip);
    uint64_t hit = 0;

    for (unsigned n = 0; n < 4; n++)
        if (is_enabled(cpu, n) && condition(cpu, n) == ON_EXECUTE && cpu->dr[n] == linear)
            hit |= BIT64(n);
    if (!hit)
        return false;
    cpu->fault = (struct cpu_fault){.vector = VECTOR_DB, .debug = hit};
    cpu->leave = LEAVE_FAULT;
    return true;
}

/* Do `size` bytes from `first` touch the breakpoint's? The low bits of its address do not count (SDM 3B 17.2.5). */
static bool touches(const struct cpu *cpu, unsigned n, uint64_t first, size_t size)
{
    const uint64_t start = cpu->dr[n] & ~(uint64_t)(length(cpu, n) - 1);

    return first - start < length(cpu, n) || start - first < size;
}

static void collect(struct cpu *cpu, uint64_t hit)
{
    if (!hit)
        return;
    cpu->debug_pending |= hit;
    atomic_fetch_or_explicit(&cpu->request, REQUEST_ATTENTION, memory_order_relaxed);
}

uint64_t debug_hits_data(const struct cpu *cpu, gva_t linear, size_t size, enum access_type type)
{
    uint64_t hit = 0;

    for (unsigned n = 0; n < 4; n++) {
        const unsigned on = condition(cpu, n);
        if (is_enabled(cpu, n) && (on == ON_ACCESS || (on == ON_WRITE && type == ACCESS_WRITE)) && touches(cpu, n, linear, size))
            hit |= BIT64(n);
    }
    return hit;
}

uint64_t debug_hits_io(const struct cpu *cpu, uint16_t port, unsigned size)
{
    uint64_t hit = 0;

    for (unsigned n = 0; n < 4; n++)
        if (watches_io(cpu, n) && touches(cpu, n, port, size))
            hit |= BIT64(n);
    return hit;
}

void debug_match_data(struct cpu *cpu, gva_t linear, size_t size, enum access_type type)
{
    collect(cpu, debug_hits_data(cpu, linear, size, type));
}

void debug_match_io(struct cpu *cpu, uint16_t port, unsigned size)
{
    collect(cpu, debug_hits_io(cpu, port, size));
}

void debug_take(struct cpu *cpu)
{
    cpu->fault = (struct cpu_fault){.vector = VECTOR_DB, .is_trap = true, .debug = cpu->debug_pending};
    cpu->leave = LEAVE_FAULT;
    cpu->debug_pending = 0;
}
