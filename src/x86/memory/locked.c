/* Locked accesses: compare-exchange and read-modify-write, by one host instruction where the host can. Contract in memory.h. */
#include <string.h>

#include "os/guarded.h"
#include "x86/code/code.h"
#include "x86/memory/split.h"

enum { LINE_SIZE = 64 };

/*
 * One host instruction would do across cache lines too, but it would lock the bus of the host: kernels that detect that punish
 * the thread with milliseconds for each, and write to their log. So what crosses a line holds the other processors instead.
 */
static always_inline bool is_within_line(gva_t linear, size_t size)
{
    return (linear & (LINE_SIZE - 1)) + size <= LINE_SIZE;
}

static bool cas_host(uint8_t *host, unsigned size, uint64_t *expected, uint64_t desired, bool *equal)
{
    uint8_t e8 = (uint8_t)*expected;
    uint16_t e16 = (uint16_t)*expected;
    uint32_t e32 = (uint32_t)*expected;
    bool ok;

    switch (size) {
    case 1: ok = guarded_cas8(host, &e8, (uint8_t)desired, equal); *expected = e8; break;
    case 2: ok = guarded_cas16(host, &e16, (uint16_t)desired, equal); *expected = e16; break;
    case 4: ok = guarded_cas32(host, &e32, (uint32_t)desired, equal); *expected = e32; break;
    default: ok = guarded_cas64(host, expected, desired, equal); break;
    }
    return ok;
}

/* Across a line or on a device: not one host instruction; the other processors are held meanwhile. */
static bool cas_exclusive(struct cpu *cpu, const struct split *split, size_t size, const void *expected, const void *desired,
                          void *old, bool *equal)
{
    bool ok;

    if (cpu->port->exclusive_begin && !cpu->port->exclusive_begin(cpu)) {
        cpu->leave = LEAVE_REQUEST;
        return false;
    }
    ok = mem_transfer(cpu, split, old, ACCESS_READ);
    if (ok) {
        *equal = memcmp(old, expected, size) == 0;
        /* The processor always writes: the old value when they differ (SDM 2A CMPXCHG). */
        ok = mem_transfer(cpu, split, (uint8_t *)(uintptr_t)(*equal ? desired : old), ACCESS_WRITE);
    }
    if (cpu->port->exclusive_end)
        cpu->port->exclusive_end(cpu);
    return ok;
}

static bool cas_slow(struct cpu *cpu, gva_t linear, unsigned size, uint64_t expected, uint64_t desired, uint64_t *old,
                     bool *equal, enum mem_privilege privilege)
{
    struct split split;

    if (!mem_split(cpu, linear, size, ACCESS_WRITE, privilege, &split))
        return false;
    const struct tlb_target *target = &split.piece[0].target;
    *old = expected;
    if (target->host && is_within_line(linear, size) && cas_host(target->host, size, old, desired, equal)) {
        if (target->is_code)
            code_stored(cpu, target->gpa, target->host, size);
        return true;
    }
    *old = 0;
    return cas_exclusive(cpu, &split, size, &expected, &desired, old, equal);
}

bool mem_cas(struct cpu *cpu, gva_t linear, unsigned size, uint64_t expected, uint64_t desired, uint64_t *old, bool *equal)
{
    uint8_t *host = tlb_write(cpu, linear, size);

    *old = expected;
    if (likely(host) && is_within_line(linear, size) && cas_host(host, size, old, desired, equal))
        return true;
    return cas_slow(cpu, linear, size, expected, desired, old, equal, MEM_CURRENT) && seen(cpu, linear, size, ACCESS_WRITE);
}

/* Across a line or on a device: read, compute, write while the other processors are held. */
static bool modify_exclusive(struct cpu *cpu, const struct split *split, mem_compute *compute, void *context)
{
    uint64_t value = 0;
    bool ok;

    if (cpu->port->exclusive_begin && !cpu->port->exclusive_begin(cpu)) {
        cpu->leave = LEAVE_REQUEST;
        return false;
    }
    ok = mem_transfer(cpu, split, (uint8_t *)&value, ACCESS_READ);
    if (ok) {
        value = compute(value, context);
        ok = mem_transfer(cpu, split, (uint8_t *)&value, ACCESS_WRITE);
    }
    if (cpu->port->exclusive_end)
        cpu->port->exclusive_end(cpu);
    return ok;
}

/* Compare-exchange until nobody came between. False: the host memory is not there any more. */
static bool modify_host(uint8_t *host, unsigned size, mem_compute *compute, void *context)
{
    uint64_t old = 0, found;
    bool equal = false;

    if (!guarded_copy(&old, host, size))
        return false;
    while (!equal) {
        found = old;
        if (!cas_host(host, size, &found, compute(old, context), &equal))
            return false;
        old = found;
    }
    return true;
}

/* Beyond what the TLB answers at once. */
static bool modify_split(struct cpu *cpu, gva_t linear, unsigned size, enum mem_privilege privilege, mem_compute *compute,
                         void *context)
{
    struct split split;

    if (!mem_split(cpu, linear, size, ACCESS_WRITE, privilege, &split))
        return false;
    const struct tlb_target *target = &split.piece[0].target;
    if (target->host && is_within_line(linear, size) && modify_host(target->host, size, compute, context)) {
        if (target->is_code)
            code_stored(cpu, target->gpa, target->host, size);
        return seen(cpu, linear, size, ACCESS_WRITE);
    }
    return modify_exclusive(cpu, &split, compute, context) && seen(cpu, linear, size, ACCESS_WRITE);
}

bool mem_modify_locked(struct cpu *cpu, gva_t linear, unsigned size, mem_compute *compute, void *context)
{
    uint8_t *host = tlb_write(cpu, linear, size);

    if (likely(host) && is_within_line(linear, size) && modify_host(host, size, compute, context))
        return true;
    return modify_split(cpu, linear, size, MEM_CURRENT, compute, context);
}

bool mem_modify_system(struct cpu *cpu, gva_t linear, unsigned size, mem_compute *compute, void *context)
{
    return modify_split(cpu, linear, size, MEM_SYSTEM, compute, context);
}

bool mem_cas128(struct cpu *cpu, gva_t linear, uint64_t expected[2], const uint64_t desired[2], bool *equal)
{
    uint64_t old[2];
    struct split split;

    if (!mem_split(cpu, linear, 16, ACCESS_WRITE, MEM_CURRENT, &split))
        return false;
    const struct tlb_target *target = &split.piece[0].target;
    memcpy(old, expected, sizeof(old));
    if (split.count == 1 && target->host && !(linear & 15) && guarded_cas128(target->host, old, desired, equal)) {
        if (target->is_code)
            code_stored(cpu, target->gpa, target->host, 16);
    } else if (!cas_exclusive(cpu, &split, 16, expected, desired, old, equal)) {
        return false;
    }
    memcpy(expected, old, sizeof(old));
    return seen(cpu, linear, 16, ACCESS_WRITE);
}
