/*
 * Guest payloads on a processor and nothing else: memory is an array, devices are three ports.
 *
 *   out 0xe9, al     a character of the payload's output
 *   out 0xf4, eax    the end: 0 all went well, else the number of the check that failed
 *   out 0x80, al     an external interrupt with this vector becomes pending
 *   in eax, 0x80     is it still pending?
 *
 * A payload is a flat binary at GUEST_LOAD, entered in real mode with CS = 0, all other segments 0, SP below it.
 */
#ifndef OWHP_TESTS_GUEST_GUEST_H
#define OWHP_TESTS_GUEST_GUEST_H

#include "x86/cpu.h"
#include "x86/system/event.h"

enum { GUEST_MEMORY = 16 << 20, GUEST_LOAD = 0x8000 };

struct guest {
    struct cpu *cpu;
    uint8_t *memory;
    bool direct;             /* memory through page(); false: every access through access() */
    bool ended;
    uint32_t code;           /* what was written to port 0xf4 */
    char output[4096];
    size_t output_length;
    int pending_vector;      /* -1: none */
    unsigned device_accesses; /* outside the array */
    unsigned exit_one_in;    /* not 0: one in so many accesses exits instead, and is tried again when the processor runs again */
    uint64_t exit_random;
    unsigned exits;
};

/* `path` NULL: empty memory. */
bool guest_create(struct guest *guest, const char *path, bool direct);
void guest_destroy(struct guest *guest);

/* Run until the payload ends, the processor shuts down, halts for good, or leaves in a way nobody expects. */
enum cpu_leave guest_run(struct guest *guest);

#endif
