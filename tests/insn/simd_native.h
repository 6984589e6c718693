/*
 * One instruction on the host processor itself: the oracle for the families that the soft processor
 * also runs on the host, but there through stubs with renamed operands.
 *
 * The instruction's bytes run unchanged, with all of the state loaded before and stored after. One
 * thread only.
 */
#ifndef TESTS_INSN_SIMD_NATIVE_H
#define TESTS_INSN_SIMD_NATIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NATIVE_NO_FAULT (-1)

/* RSP is the host's own and neither loaded nor stored. */
struct native_state {
    uint64_t gpr[16];
    uint64_t rflags;
    uint8_t fxsave[512] __attribute__((aligned(16))); /* FXSAVE64 */
    uint8_t upper[16][16];                            /* upper halves of YMM registers */
    int fault;                                        /* exception vector or NATIVE_NO_FAULT */
};

/* Install handlers, make the page for code. */
void native_init(void);

/* Does the host have AVX? Without it `upper` is left alone. */
extern bool native_has_avx;

/* The address at which native_run will put the next instruction. */
uint64_t native_address(void);

/* Execute `code` with the state and put the result there; on a fault the state as the exception
 * found it. */
void native_run(struct native_state *state, const uint8_t *code, size_t size);

#endif
