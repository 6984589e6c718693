/* One instruction on the host's processor, in 64-bit code at privilege 3 with EFLAGS.AC set: which exception it raises.
 */
#ifndef OWHP_TESTS_GUEST_PRIORITY_NATIVE_H
#define OWHP_TESTS_GUEST_PRIORITY_NATIVE_H

#include <stdbool.h>
#include <stdint.h>

struct native_question {
    uint8_t code[32];
    unsigned length;
    uint64_t operand; /* in RBX and RBP; EAX is 1, EDX is 0, XMM registers are what they are */
    uint32_t mxcsr;
    bool waiting; /* an unmasked x87 exception waits */
};

/* Signals and memory; false: not to be had. Not for several threads. */
bool native_begin(void);
void native_end(void);

/* 4096 bytes, behind which is a page without access. */
uint8_t *native_memory(void);

/* The vector; -1: none. */
int native_vector(const struct native_question *question);

#endif
