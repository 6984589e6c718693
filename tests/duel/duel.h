/*
 * A duel: the same code, registers and memory on the host's processor and on ours, as an unprivileged process of a
 * 64-bit system, in 64-, 32- or 16-bit code with any segments; what the first fault finds is compared.
 *
 * Everything ends with a fault: unused code is HLT. The host's fault arrives as a signal, ours by its delivery through an
 * interrupt table; both are taken down as registers, selectors, x87, SSE and AVX state, vector, error code and CR2.
 *
 * One thread: the state is static.
 */
#ifndef OWHP_TESTS_DUEL_DUEL_H
#define OWHP_TESTS_DUEL_DUEL_H

#include "util/compiler.h"
#include "util/types.h"
#include "x86/bits.h"

struct cpu;

/* The arena: 64 KiB at one address for both; what is not named is not there. */
enum {
    DUEL_BASE = 0x30000000,
    DUEL_CODE = DUEL_BASE,               /* 2 pages, may be written too */
    DUEL_DATA = DUEL_BASE + 0x3000,      /* 3 pages */
    DUEL_READ_ONLY = DUEL_BASE + 0x7000, /* 1 page */
    DUEL_STACK = DUEL_BASE + 0x9000,     /* 2 pages */
    DUEL_SIZE = 0x10000,
};

/* Selectors: those of a Linux process, and a local table. */
enum {
    DUEL_CS64 = 0x33, DUEL_CS32 = 0x23, DUEL_DS = 0x2b,
    DUEL_CODE16 = 0x07,      /* base DUEL_BASE, limit 64K */
    DUEL_DATA16 = 0x0f,      /* the same, data */
    DUEL_SHORT = 0x17,       /* 32-bit data, base DUEL_DATA, limit 0x17ff */
    DUEL_DOWN16 = 0x1f,      /* expand-down, base DUEL_BASE, above 0x3fff */
    DUEL_DOWN32 = 0x27,      /* expand-down, 32-bit, base DUEL_DATA - 0x1000, above 0xfff */
    DUEL_READ = 0x2f,        /* read-only data, base DUEL_BASE */
    DUEL_ABSENT = 0x37,      /* not present */
    DUEL_CODE32 = 0x3f,      /* 32-bit code with a base and a limit of 0x1fff */
    DUEL_CONFORMING16 = 0x47, /* not present: the kernel wants it so */
    DUEL_EXECUTE_ONLY = 0x4f, /* 32-bit code that cannot be read, flat */
    DUEL_LOCAL = 10,
};

struct duel_state {
    uint64_t gpr[16];
    uint64_t rip, rflags;
    uint16_t selector[6];      /* ES CS SS DS FS GS; CS decides on the mode */
    uint64_t base[2];          /* of FS and GS, in: when the selector is null */
    uint8_t fxsave[512] __attribute__((aligned(16))); /* FXSAVE64: 416 bytes are used */
    uint8_t upper[16][16];     /* upper halves of YMM registers */
    uint8_t vector;
    uint32_t error;
    uint64_t address;          /* page faults: CR2 */
};

enum duel_end {
    DUEL_FAULT,   /* it ended as it should */
    DUEL_ENDLESS, /* not within the time for it */
    DUEL_CALL,    /* a system call, which was not let through */
};

/* ---- both sides ---- */

/* 0: ready. 77: this host cannot (said on stderr). */
int duel_init(void);
void duel_fini(void);

/* The host's side; memory is the arena itself. */
int duel_native_init(void);
void duel_native_watch(void (*cancel)(void)); /* called (by a signal) when a case takes too long */
void duel_native_next(void); /* another case begins */
enum duel_end duel_native_run(struct duel_state *state);
bool duel_native_has_avx(void);
/* A descriptor of the local table, as both sides have it. */
uint64_t duel_local_descriptor(unsigned index);
void duel_native_pin(void); /* first of all */
unsigned duel_native_cpu(void); /* where this thread stays */

/* Our side. */
bool duel_soft_init(void);
/* When set: has carried out the first instruction in the processor's place; false: cpu->fault is to be delivered. The arena
 * is in guest physical memory from DUEL_PHYSICAL on. */
extern bool (*duel_soft_first)(struct cpu *cpu);
enum { DUEL_PHYSICAL = 0x100000 };
void duel_soft_fini(void);
void duel_soft_cancel(void);
enum duel_end duel_soft_run(struct duel_state *state, bool direct);
uint8_t *duel_soft_page(uint64_t address); /* NULL: none */
/* Go through it again, instruction by instruction. False: it depends on what is undefined (flags), or on the host's
 * hypervisor (locked accesses across cache lines). *undefined: RFLAGS bits that are undefined at the end. */
bool duel_soft_trace(const struct duel_state *state, uint64_t *undefined);
void duel_soft_code_changed(void);

/* ---- the comparison ---- */

struct duel_case {
    struct duel_state state;
    const uint8_t *code; /* goes to state.rip (its linear address); around it is HLT */
    unsigned size;
    uint64_t ignored_flags;
    bool repeats;        /* REP strings are in it */
    bool direct;         /* ours: memory through page(), or access by access */
};

enum duel_result { DUEL_SAME, DUEL_DIFFERENT, DUEL_SKIPPED };

/* Memory is what earlier cases left, on both sides the same. */
enum duel_result duel_compare(const struct duel_case *c, bool print);
/* Only ours; the vector it ended with (0xfe: it did not). Memory stays as it was. */
uint8_t duel_only_ours(const struct duel_case *c);
/* What the last comparison left, natively. */
extern struct duel_state duel_theirs;

uint64_t duel_linear_rip(const struct duel_state *s);
bool duel_is_64(const struct duel_state *s);
bool duel_is_16(const struct duel_state *s);

/* Both sides' memory as duel_init left it: the same in every run. */
void duel_reset_memory(void);

/* Both sides' memory at an address of the arena. */
void duel_store(uint64_t address, const void *from, size_t size);

/* A state with values of interest in all registers; addresses in the arena are among them. */
void duel_random_state(struct duel_state *s, unsigned code_bits);
uint64_t duel_random_value(void);
uint64_t duel_random_address(unsigned code_bits); /* an offset in the usual data segment */

#endif
