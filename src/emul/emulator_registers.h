/*
 * Registers between the client's callbacks and the emulator's processor: fetched in batches, the first one always, others when
 * the instruction needs them; written in one.
 */
#ifndef OWHP_EMUL_EMULATOR_REGISTERS_H
#define OWHP_EMUL_EMULATOR_REGISTERS_H

#include "emul/emulator.h"
#include "x86/cpu.h"

/* What was fetched, to see what changed. */
struct emulator_registers {
    uint64_t gpr[16], rip, rflags, cr0, cr4;
    struct segment segment[SEG_COUNT];
    uint8_t cpl;
    bool traps; /* the single-step trap is to become pending */
    bool has_system;
    struct table_register gdtr, idtr;
    uint64_t cr3;
    bool nmi_masked, in_shadow;
    bool has_vector, has_upper, has_pkru;
    union vector vector[16]; /* the upper halves with has_upper */
    uint32_t pkru;
    struct x87_image x87;
    uint32_t mxcsr;
};

/* The client's side of a transfer. */
struct emulator_client {
    const struct emulator_callbacks *callbacks;
    void *context;
};

/* False: the callback failed. */
must_check bool emulator_registers_load(struct emulator_registers *registers, struct cpu *cpu,
                                        const struct emulator_client *client);
must_check bool emulator_registers_load_system(struct emulator_registers *registers, struct cpu *cpu,
                                               const struct emulator_client *client);
must_check bool emulator_registers_load_vector(struct emulator_registers *registers, struct cpu *cpu,
                                               const struct emulator_client *client);
/* After load_vector: of XCR0_AVX and XCR0_PKRU what `components` has. A client may know neither name: they are not the API's. */
must_check bool emulator_registers_load_extended(struct emulator_registers *registers, struct cpu *cpu,
                                                 const struct emulator_client *client, uint64_t components);

/* Did the instruction change a general register? (A REP that was stopped has, when iterations are complete.) */
bool emulator_registers_progressed(const struct emulator_registers *registers, const struct cpu *cpu);

/*
 * What changed, in one call: RIP and RFLAGS in any case; `event` (may be NULL) is a value for PendingEvent.
 */
must_check bool emulator_registers_store(const struct emulator_registers *registers, const struct cpu *cpu,
                                         const struct emulator_client *client, const union vreg_value *event);

#endif
