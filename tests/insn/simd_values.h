/* Values for vector and x87 registers. The generator is deterministic; simd_seed changes its course. */
#ifndef TESTS_INSN_SIMD_VALUES_H
#define TESTS_INSN_SIMD_VALUES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void simd_seed(uint64_t change);
void simd_restart(uint64_t from);
/* The next numbers are these bytes; then it goes on as before. */
void simd_feed(const uint8_t *data, size_t size);
uint64_t simd_random(void);
bool simd_one_in(unsigned n);

/* 8 bytes: floating-point numbers of either size, small integers, anything. */
uint64_t simd_random_lane(void);
/* An 80-bit number (16 bytes are written). */
void simd_random_extended(uint8_t to[16]);
uint32_t simd_random_mxcsr(void);
/* The x87 part of an FXSAVE64 image; the status word agrees with itself. */
void simd_random_x87(uint8_t *image);

#endif
