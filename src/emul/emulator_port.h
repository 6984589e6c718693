/* The emulator from the inside: what emulator.c and emulator_port.c share. */
#ifndef OWHP_EMUL_EMULATOR_PORT_H
#define OWHP_EMUL_EMULATOR_PORT_H

#include "emul/emulator.h"
#include "emul/emulator_insn.h"
#include "emul/emulator_registers.h"
#include "x86/port.h"

/* A translation that this call knows, from the exit or from a callback: what its TLB is to a processor. */
struct emulator_known {
    gva_t page;
    gpa_t gpa;    /* of the page */
    uint8_t type; /* enum access_type */
    bool user;
};

enum { EMULATOR_KNOWN = 8 };

struct emulator {
    struct emulator_callbacks callbacks;
    struct cpu *cpu;
    struct emulator_registers registers; /* as fetched */
    struct emulator_insns insns;
    /* of the call in progress */
    struct emulator_client client;
    const struct emulator_request *request;
    enum emulator_outcome failure; /* why the port said PORT_EXIT */
    struct emulator_known known[EMULATOR_KNOWN];
    unsigned known_count;          /* entered so far; the oldest gives way */
};

/* Registers are loaded: begin with what the exit knows. */
void emulator_port_begin(struct emulator *emulator);


/* The port of the emulator's processor: everything through callbacks. */
extern const struct cpu_port emulator_port;

/* Code at a linear address, within a page and at most 8 bytes. False: cpu->leave is set (a fault, or emulator.failure). */
must_check bool emulator_fetch(struct emulator *emulator, gva_t linear, uint8_t *to, size_t size);

#endif
