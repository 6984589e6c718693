/* Registers between the client's callbacks and the emulator's processor: fetched in at most two batches, written in one. */
#ifndef OWHP_EMUL_EMULATOR_REGISTERS_H
#define OWHP_EMUL_EMULATOR_REGISTERS_H

#include "emul/emulator.h"
#include "x86/cpu.h"

/* What was fetched, to see what changed. */
struct emulator_registers {
    uint64_t gpr[16], rip, rflags;
    bool has_vector;
    union vector vector[16];
    struct x87_image x87;
    uint32_t mxcsr;
};

must_check bool emulator_registers_load(struct emulator_registers *registers, struct cpu *cpu, const struct emulator_callbacks *callbacks, void *context);
must_check bool emulator_registers_load_vector(struct emulator_registers *registers, struct cpu *cpu, const struct emulator_callbacks *callbacks, void *context);

/* Did the instruction change any (RIP included)? */
bool emulator_registers_changed(const struct emulator_registers *registers, const struct cpu *cpu);

/* What changed, RIP and RFLAGS in any case, in one call. */
must_check bool emulator_registers_store(const struct emulator_registers *registers, const struct cpu *cpu, const struct emulator_callbacks *callbacks, void *context);

#endif
