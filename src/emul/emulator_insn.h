/*
 * The instruction to be emulated: decoded (and kept, for the same one comes again and again), and whether callbacks can carry
 * it out at all.
 *
 * They can when it accesses memory or a port and all else that it changes is a register of the API, or one of ours: upper halves
 * of YMM registers, PKRU (openwhp.h). They cannot for
 *   - instructions that touch neither memory nor ports: they cause no exit that is to be emulated,
 *   - what works on more than that: TLB and cache control.
 */
#ifndef OWHP_EMUL_EMULATOR_INSN_H
#define OWHP_EMUL_EMULATOR_INSN_H

#include "util/compiler.h"
#include "x86/code/insn.h"

/* Registers beyond those that are always fetched. */
enum {
    NEEDS_VECTOR = 1, /* x87, MMX, XMM */
    NEEDS_SYSTEM = 2, /* descriptor tables, TR, LDTR, CR3, interrupt state */
    NEEDS_TSS = 4,    /* the same when the I/O permission bitmap is asked */
    NEEDS_XSAVE = 8,  /* XSAVE, XRSTOR: XCR0, XSS, and what these and EDX:EAX select */
    NEEDS_UPPER = 16, /* upper halves of YMM registers; also what writes an XMM register with VEX, for it clears them */
};

struct emulator_insn {
    struct insn insn;
    uint32_t mode;       /* MODE_* as far as decoding depends on it */
    uint8_t needs;
    bool is_port;        /* IN, OUT, INS, OUTS */
    const char *refused; /* why it cannot be carried out; NULL: it can */
};

enum { EMULATOR_INSNS = 64 };

struct emulator_insns {
    struct emulator_insn slots[EMULATOR_INSNS];
};

enum emulator_decode { INSN_DECODED, INSN_TRUNCATED, INSN_INVALID };

/* *insn is valid until the next call. */
enum emulator_decode emulator_insn_decode(struct emulator_insns *insns, uint32_t mode, const uint8_t *bytes, size_t count,
                                          const struct emulator_insn **insn);

/* Say in last_error_text() which instruction it is and why it was given up. Returns false. */
bool emulator_insn_complain(uint32_t mode, uint64_t rip, const uint8_t *bytes, size_t count, const char *why);

#endif
