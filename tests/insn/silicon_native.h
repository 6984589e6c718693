/*
 * Running one instruction on the host processor.
 *
 * The instruction lies in an executable page and is followed by jumps back into this program; all general
 * registers and the flags are loaded before it and stored after it without touching anything else. What it raises
 * arrives as a signal on another stack and is taken down as vector, error code and address. 32-bit instructions
 * run in compatibility mode through the kernel's 32-bit code segment.
 *
 * One thread only: the state is static.
 */
#ifndef OWHP_TESTS_INSN_SILICON_NATIVE_H
#define OWHP_TESTS_INSN_SILICON_NATIVE_H

#include "util/types.h"

/* The pages, at the same addresses for the host and for the processor under test. */
enum {
    ARENA_BASE = 0x30000000,
    ARENA_CODE = ARENA_BASE,           /* read and execute */
    ARENA_DATA = ARENA_BASE + 0x1000,  /* two pages, read and write; behind them nothing */
    ARENA_NOTHING = ARENA_BASE + 0x3000,
    ARENA_READ_ONLY = ARENA_BASE + 0x4000,
    ARENA_STACK = ARENA_BASE + 0x6000, /* one page between holes */
    ARENA_SIZE = 0x8000,

    NATIVE_AT = ARENA_CODE + 0x800,      /* where the instruction goes */
    NATIVE_FORWARD = ARENA_CODE + 0x840, /* two branch targets */
    NATIVE_BACKWARD = ARENA_CODE + 0x7c0,
};

struct native_state {
    uint64_t gpr[16];
    uint64_t rflags;
    uint64_t rip;      /* afterwards: behind the instruction, a branch target, or the instruction when it faulted */
    bool went_elsewhere; /* a branch to where nothing is */
    bool has_fault;
    uint8_t vector;
    uint32_t error;
    uint64_t address;  /* CR2, for page faults */
};

/* Map the arena and catch the signals. False: the host does not let us. */
bool native_init(void);

/* May 32-bit code run here? */
bool native_has_32(void);

/* Put an instruction into the code page. */
void native_place(const uint8_t *bytes, unsigned length, bool is_32);

/* Run it: `state` in and out. */
void native_run(struct native_state *state);

#endif
