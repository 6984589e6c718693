/*
 * The emulator in the place of a test processor (support/flat_cpu.h): its callbacks read and write that processor's registers
 * and memory. So what compares the processor with the host compares the emulator with it.
 */
#ifndef OWHP_TESTS_EMUL_FLAT_EMULATOR_H
#define OWHP_TESTS_EMUL_FLAT_EMULATOR_H

#include "emul/emulator.h"
#include "x86/cpu.h"

enum flat_callback { FLAT_GET, FLAT_SET, FLAT_MEMORY, FLAT_IO, FLAT_TRANSLATE, FLAT_CALLBACKS };

/* What a call of the emulator did. */
struct flat_emulation {
    enum emulator_outcome outcome;
    bool has_event;                 /* cpu->fault is what it gave to the guest */
    bool traps;                     /* the single-step trap is pending */
    unsigned calls[FLAT_CALLBACKS];
    unsigned writes;                /* to memory */
};

/* Stores of flat_emulate since the last flat_forget() are taken back. */
void flat_forget(void);
void flat_undo(struct cpu *cpu);

/* Let callback `which` fail at its call number `at` (from 1; 0: none does). One call of the emulator; `give` bytes of code. */
void flat_emulate(struct cpu *cpu, const uint8_t *code, size_t give, enum flat_callback which, unsigned at,
                  struct flat_emulation *done);

/* Registers of the flat processor by the API's names; false: no such name. Also for the test's own use. */
bool flat_get_register(struct cpu *cpu, uint32_t name, union vreg_value *value);
bool flat_set_register(struct cpu *cpu, uint32_t name, const union vreg_value *value);

#endif
