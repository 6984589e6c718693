/*
 * What the SIMD and x87 families need of the processor core, with the simplest possible memory: a linear address
 * is a host address, and only [stand_in_start, stand_in_end) is there.
 */
#ifndef TESTS_INSN_SIMD_STAND_IN_H
#define TESTS_INSN_SIMD_STAND_IN_H

#include "x86/exec.h"

extern uint64_t stand_in_start, stand_in_end;

/* Decode for 64-bit mode and bind. False: Zydis or both families refuse it. */
bool stand_in_decode(const uint8_t *bytes, size_t size, struct insn *insn, ZydisDecodedInstruction *decoded,
                     ZydisDecodedOperand *operands);

#endif
