/*
 * Completing memory accesses one at a time (OwhpGetMemoryAccess, OwhpCompleteMemoryAccess).
 *
 * An exit leaves the instruction unexecuted. The client answers the access that caused it; the answer is remembered and
 * the instruction executed again. What it finds among the answers it need not exit for, so it gets one access further
 * each time, until it is done:
 *
 *      XCHG [device], eax      exit: read    answer: 7
 *                              again: read -> 7 from the answers; exit: write
 *                              answer: done
 *                              again: read -> 7, write -> done; completes, answers are dropped
 *
 * A move between a general register and one naturally sized piece of memory, the bulk of what drivers do, is not
 * executed again: the exit notes what is left to do.
 *
 * Answers hold for this one execution: they are dropped when the instruction is done, when an event is delivered in its
 * place, and when the client changes registers. A repeated string instruction moves on element by element; the answers
 * of an element that is done do not fit the next one, whose registers differ.
 */
#ifndef OWHP_ENGINE_SOFT_COMPLETION_H
#define OWHP_ENGINE_SOFT_COMPLETION_H

#include "engine/engine.h"
#include "x86/port.h"

enum { COMPLETION_ANSWERS = 512 }; /* FXSAVE takes 64, a register file in 8-byte pieces is the most there is */

/* DUE_WITHOUT_DATA: an exit of a fetch, a page walk or an event's delivery, which no answer completes. */
enum { DUE_NONE, DUE_ACCESS, DUE_WITHOUT_DATA };

/* What is left of a plain move when its access is done. */
struct completion_move {
    bool is_plain;
    bool is_load, is_signed;
    uint8_t size;      /* of the register that is loaded */
    uint16_t offset;   /* of it, in struct cpu */
    uint64_t next_rip;
};

struct completion_answer {
    gpa_t gpa;
    uint64_t data; /* read: what the instruction gets; write: what it wrote */
    uint8_t size, type;
};

/* The processor's thread, or whoever has the processor while it does not run. */
struct completion {
    /* The access of the latest exit, in pieces of 1, 2, 4 or 8 bytes, low first. */
    uint8_t due;                   /* DUE_* */
    uint8_t type, size, at, piece; /* bytes: whole, before the piece that is due, of the piece */
    gpa_t gpa;
    gva_t gva;
    uint8_t data[64];
    struct completion_move move;
    uint64_t exit_rip;             /* of the run's exit, to know its context by */
    gpa_t exit_gpa;

    bool is_executing;             /* on behalf of the client, outside a run */
    bool is_used;                  /* the instruction being executed had an answer */
    uint32_t count, next;          /* answers; the one that comes next in this execution */
    uint64_t rip, rcx, rsi, rdi;   /* what the answers belong to */
    struct completion_answer answers[COMPLETION_ANSWERS];
};

struct engine_vcpu;

/* From the port: PORT_DONE when answers cover the access; else it is the one that is due, and PORT_EXIT. */
enum port_result completion_access(struct engine_vcpu *vcpu, const struct port_access *access);
/* A run begins. */
void completion_begin_run(struct engine_vcpu *vcpu);
/* An instruction boundary. */
void completion_boundary(struct engine_vcpu *vcpu);
/* Answers and what is due are no longer good. */
void completion_drop(struct engine_vcpu *vcpu);
/* A client is about to set these registers. */
void completion_registers_set(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count);

/* Of the engine table. */
enum status completion_get(struct engine_vcpu *vcpu, struct memory_access *access);
enum status completion_complete(struct engine_vcpu *vcpu, struct memory_access *access, bool *more);

#endif
