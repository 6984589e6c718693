/*
 * String instructions: what their files share.
 *
 * A string instruction is a loop of steps. A step carries out one or more elements and reports how many; the
 * loop then commits registers, so that a fault or an exit finds RSI, RDI and RCX as of the completed elements.
 * After a bounded amount of work, after each element under RFLAGS.TF and one that hits a breakpoint, a repeated instruction
 * ends with RIP at itself: interrupts are seen there (SDM 2B REP).
 */
#ifndef OWHP_X86_EXEC_STRING_H
#define OWHP_X86_EXEC_STRING_H

#include "x86/integer/exec_sized.h"

struct string {
    const struct insn *insn;
    unsigned size;         /* of an element, bytes: 1, 2, 4, 8 */
    unsigned address_size; /* of rSI, rDI, rCX */
    bool backward;         /* RFLAGS.DF */
    uint8_t repeat;        /* 0, f2, f3 */
    uint64_t count;        /* elements still to do; 1 without a prefix */
    unsigned cost;         /* of the steps so far, about ns/10 */
    bool stop;             /* SCAS, CMPS: the condition of the prefix ended the loop */
    bool has_compared;     /* SCAS, CMPS: `a` and `b` are the last elements compared */
    uint64_t a, b;
};

/* Carry out between 1 and s->count elements. Returns how many, 0 when a fault was raised or an exit recorded. */
typedef uint64_t string_step(struct cpu *cpu, struct string *s);

enum { STRING_SOURCE = 1, STRING_DESTINATION = 2 }; /* rSI moves, rDI moves */

enum exec_result string_run(struct cpu *cpu, const struct insn *insn, string_step *step, unsigned moves);

/* One of the two places a string instruction works on. */
struct string_end {
    enum segment_index segment;
    uint64_t offset;
    gva_t linear;
};

/* Where the next element is; false when the segment does not allow it (fault raised). */
must_check bool string_source(struct cpu *cpu, const struct string *s, struct string_end *end);
must_check bool string_destination(struct cpu *cpu, const struct string *s, enum access_type type,
                                   struct string_end *end);

/* How many elements lie before the end of the page, of the segment and of the address size; 0 when not even one. */
uint64_t string_room(const struct cpu *cpu, const struct string *s, const struct string_end *end);

/* One element, zero-extended. */
must_check bool string_read(struct cpu *cpu, const struct string *s, gva_t linear, uint64_t *value);
must_check bool string_write(struct cpu *cpu, const struct string *s, gva_t linear, uint64_t value);
/* The same on host memory; false when it has vanished. */
must_check bool string_load(const struct string *s, const uint8_t *from, uint64_t *value);
must_check bool string_store(const struct string *s, uint8_t *to, uint64_t value);

/* The distance from one element to the next, in bytes. */
static inline int64_t string_step_bytes(const struct string *s)
{
    return s->backward ? -(int64_t)s->size : (int64_t)s->size;
}

/* exec_string_scan.c, exec_string_io.c */
exec_fn exec_cmps, exec_scas, exec_ins, exec_outs;

#endif
