/*
 * A processor in a random world: memory between canary pages, whose rights differ from page to page, devices that exit,
 * tables and registers of any kind.
 */
#ifndef OWHP_TESTS_FUZZ_PROCESSOR_WORLD_H
#define OWHP_TESTS_FUZZ_PROCESSOR_WORLD_H

#include "x86/cpu.h"
#include "x86/port.h"

enum { WORLD_MEMORY = 1 << 20, WORLD_CANARY = 16 << 10 };

struct world {
    struct cpu *cpu;
    uint8_t *memory;              /* WORLD_MEMORY bytes, WORLD_CANARY before and behind */
    uint8_t rights[WORLD_MEMORY / 4096]; /* PAGE_*: what page() gives; the rest goes through access() */
    unsigned kind;                /* of mode that it began in */
    unsigned exit_one_in;         /* of the accesses that come to access(); 0: none exits */
};

bool world_create(struct world *world);
void world_destroy(struct world *world);

/* Everything new, from the generator of simd_values.h. */
void world_random(struct world *world);
/* After a shutdown: the same memory, new registers. */
void world_restart(struct world *world);
void world_random_rights(struct world *world);
/* Some registers point to code, stack and tables again. */
void world_random_code_registers(struct world *world);

/* The canary pages are as they were. */
bool world_is_intact(const struct world *world);

#endif
