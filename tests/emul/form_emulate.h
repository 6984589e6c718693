/*
 * One instruction of a test processor carried out by the emulator, and on the way everything that can go wrong with it:
 *
 *      each callback fails at each of its calls   its status bit; nothing has changed, or (repeated strings) the completed elements
 *                                                 have, and the rest done afterwards ends like the whole
 *      code bytes are held back, from 0 on        fetched through callbacks, it ends in the same way
 *
 * A violation is printed and counted. Memory is taken back after each attempt; the last one, which nothing disturbs, stays.
 */
#ifndef OWHP_TESTS_EMUL_FORM_EMULATE_H
#define OWHP_TESTS_EMUL_FORM_EMULATE_H

#include "emul/flat_emulator.h"
#include "emul/form_cases.h"

/* Of a processor: what an instruction can change. */
struct form_state {
    uint64_t gpr[16], rip, rflags, cr0, cr2, cr3, xcr0;
    struct segment segment[SEG_COUNT];
    struct table_register gdtr, idtr;
    union vector vector[16];
    struct x87_image x87;
    uint32_t mxcsr, pkru;
    uint8_t cpl;
    bool interrupt_shadow;
};

void form_take(const struct cpu *cpu, struct form_state *state);
void form_put(struct cpu *cpu, const struct form_state *state);
bool form_same(const struct form_state *a, const struct form_state *b, uint64_t ignored_flags);

enum form_end {
    FORM_DONE,    /* the processor is behind the instruction */
    FORM_FAULT,   /* cpu->fault is the guest's */
    FORM_REFUSED, /* nothing has happened; last_error_text() speaks of it */
};

/* Memory [from, from + size) of the test processor is what the instruction may store to. */
enum form_end form_emulate(const struct form_case *c, struct cpu *cpu, gpa_t from, size_t size);

/* May the emulator refuse it: is it no instruction, or one that controls the TLB? */
bool form_may_be_refused(const struct form_case *c);

/* What has been found: printed by form_report (returns how many violations). */
unsigned long form_report(void);

#endif
