/*
 * What one exit costs: a guest in 64-bit mode under 4-level paging loops over one instruction; each time around the
 * monitor serves the access and the guest goes on. A row is one way of doing it, in nanoseconds per round trip.
 */
#ifndef OWHP_BENCH_EXITS_H
#define OWHP_BENCH_EXITS_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum guest_loop { LOOP_LOAD, LOOP_STORE, LOOP_IN, LOOP_OUT, LOOP_HALT, LOOP_COUNT };

/* Guest memory: page tables, code; the device's page is mapped linearly at DEVICE_GVA to a hole at DEVICE_GPA. */
enum { MEMORY_SIZE = 0x10000, TABLES = 0x1000, CODE = 0x8000, DEVICE_GVA = 0x100000, PORT = 0x3f8 };
#define DEVICE_GPA 0xfe000000ull

/* Fill MEMORY_SIZE bytes: RBX is to be DEVICE_GVA, RDX PORT, RIP CODE, CR3 TABLES. */
void guest_fill(uint8_t *memory, enum guest_loop loop);

struct bench {
    const char *name;
    enum guest_loop loop;
    /* Round trips of `count` exits; returns nanoseconds for all, below 0: not possible here (said on stderr). */
    double (*run)(const struct bench *bench, unsigned count);
};

/* The same on the kvm engine, and on KVM itself; loops in the order of the enum, closed by a NULL name. Alternating, in pairs. */
extern const struct bench openwhp_kvm_benches[];

extern const struct bench openwhp_benches[], unicorn_benches[], kvm_benches[], qemu_benches[]; /* each closed by a NULL name */

double now_ns(void);
extern clockid_t bench_clock; /* what it reads */

#endif
