/* The soft processor's side of the comparison: the interpreter on a processor over an array of
 * memory. */
#ifndef TESTS_INSN_SIMD_SOFT_H
#define TESTS_INSN_SIMD_SOFT_H

#include "simd_native.h"
#include "x86/cpu.h"

/*
 * Map `size` bytes (whole pages) at the address of `arena`, and the code page at native_address(),
 * into a 64-bit user process with nothing else. Only once.
 */
void simd_soft_init(uint8_t *arena, size_t size);

/* The code of the following runs. */
void simd_soft_place(const uint8_t *code, size_t size);

/* Linked in by the emulator's tests: carries out the instruction in cpu_step's place. */
enum cpu_leave simd_emulate(struct cpu *cpu, const uint8_t *code, size_t size) __attribute__((weak));

/* Run it with state and arena; both are as the instruction leaves them. state->fault: as for
 * native_run, -2 for anything else. */
void simd_soft_run(struct native_state *state);

#endif
