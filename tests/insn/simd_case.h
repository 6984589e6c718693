/*
 * One comparison: an instruction, a state, the soft processor and the host. Values come from a
 * generator with a fixed seed (SIMD_SEED in the environment changes it, SIMD_ROUNDS the number of
 * cases an instruction gets).
 */
#ifndef TESTS_INSN_SIMD_CASE_H
#define TESTS_INSN_SIMD_CASE_H

#include "simd_native.h"
#include "simd_values.h"
#include "x86/code/decode.h"

struct simd_case {
    uint8_t code[15];
    unsigned size;
    struct decoded decoded;
};

void simd_case_init(
    void); /* in each test: cmocka puts its own signal handlers in place before it */
unsigned simd_rounds(unsigned usual);

/* Decode; false when it is not an instruction of the families under test. */
bool simd_case_decode(struct simd_case *c, const uint8_t *code, unsigned size);

/* Run `rounds` random states on both; prints the first difference and returns false. RBX is the
 * address of memory operands. */
bool simd_case_compare(struct simd_case *c, unsigned rounds);

#endif
