/*
 * The silicon harness: one instruction on the host processor and on ours, the same registers, flags and memory
 * before; registers, flags, memory and faults compared after.
 */
#ifndef OWHP_TESTS_INSN_SILICON_H
#define OWHP_TESTS_INSN_SILICON_H

#include "silicon_native.h"
#include "util/compiler.h"
#include "x86/cpu.h"

/* An instruction to compare. */
struct silicon_code {
    uint8_t bytes[15];
    uint8_t length;
    bool is_32;
    uint64_t ignored_flags; /* RFLAGS bits the manual leaves undefined and we do not take from the host */
};

/* All registers are what the test says; this is what it has to say. */
struct silicon_input {
    uint64_t gpr[16];
    uint64_t rflags; /* arithmetic flags and DF */
};

/* How ours is run. */
enum silicon_way {
    SILICON_STEP, /* by cpu_step: fast operations where there are any */
    SILICON_PORT, /* the same, and every data access goes through the port */
    SILICON_EXEC, /* by the exec function alone */
    SILICON_EMULATOR, /* by silicon_emulate */
};

/* Linked in by the emulator's tests: carry out the instruction at cpu->rip, as cpu_step does. */
enum cpu_leave silicon_emulate(struct cpu *cpu, const uint8_t *code, size_t size) __attribute__((weak));

/* 0: ready. 77: this host cannot (said on stderr). */
int silicon_init(enum silicon_way way);
void silicon_fini(void);
bool silicon_has_32(void);

/* Place an instruction for both, to be run any number of times. */
void silicon_place(const struct silicon_code *code);
/* Run and compare; a difference is printed (the first 25) and counted. */
void silicon_compare(const struct silicon_input *input);

/* The arena's bytes on both sides. */
void silicon_store(uint64_t address, const void *from, size_t size);

/* Deterministic random numbers, and values from the edges of all sizes. */
uint64_t silicon_random(void);
uint64_t silicon_value(void);
extern const uint64_t silicon_edges[];
extern const unsigned silicon_edge_count;

/* Print the counts; 0 when all agreed and there were some, else 1. */
int silicon_result(const char *name);

#endif
