/*
 * Every instruction form with a memory or port operand (the rows of the opcode table), multiplied:
 *
 *      prefixes    none, 66, 67, REX.W, REX.RB, LOCK (where it is allowed and where it is not), REPE and REPNE; every W and L of VEX
 *      places      of the operand: aligned, odd, across a page border with 1, half of and all but 1 byte before it, in a page that
 *                  cannot be written, in none
 *      flags       all 0, all 1
 *      values      zeros, ones, signs, equal ones, numbers at random
 *      repetitions 0, 1, 2, many, in both directions
 *
 * A case is bytes, registers and memory; what is done with it is the caller's.
 */
#ifndef OWHP_TESTS_EMUL_FORM_CASES_H
#define OWHP_TESTS_EMUL_FORM_CASES_H

#include <Zydis/Zydis.h>

#include "duel/duel.h"
#include "insn/opcode_rows.h"

/* Where things are for the code of a case, as offsets in its data segments. */
struct case_layout {
    uint64_t code;           /* the instruction; targets of branches are behind it */
    uint64_t data, stack;    /* borders between two pages that can be written */
    uint64_t idle_stack;     /* the stack pointer of what has no stack */
    uint64_t read_only;      /* a page that cannot be written, if there is one: else a page */
    uint64_t nothing;        /* no page; the one before it can be written */
    uint64_t short_bias;     /* to be taken from these when addresses have 16 bits in 32-bit code */
    uint32_t components;     /* of extended state, what XSAVE and XRSTOR are asked for at most */
    uint16_t code_selector, data_selector, short_selector;
    uint16_t other_selector; /* 32-bit code, for 64-bit code */
};

enum case_place { PLACE_ALIGNED, PLACE_ODD, PLACE_SPLIT_1, PLACE_SPLIT_HALF, PLACE_SPLIT_LAST, PLACE_READ_ONLY, PLACE_NOTHING, PLACES };
enum { CASE_VALUES = 5, CASE_MEMORY = 4, CASE_BYTES = 1088 };

struct case_memory {
    uint64_t at;
    uint16_t size;
    bool is_stack; /* an offset in SS */
    uint8_t bytes[CASE_BYTES];
};

struct form_case {
    const struct opcode_row *row;
    unsigned bits;           /* of the code */
    uint8_t code[15], size;
    bool is_valid;           /* an instruction; else it is to be #UD */
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    bool repeats;            /* a string instruction with a repeat prefix */
    bool is_short;           /* addresses of 16 bits in 32-bit code: data segments have the base short_bias */
    unsigned place, value;
    bool flags;              /* set */
    struct duel_state state;
    unsigned memory_count;
    struct case_memory memory[CASE_MEMORY]; /* to be stored before */
};

/*
 * Make all cases of a row in 64-, 32- or 16-bit code. `all`: the full product; otherwise a case for each prefix, place, flags and
 * repetition, values taken in turn.
 */
void form_cases(const struct opcode_row *row, unsigned bits, const struct case_layout *layout, bool all,
                void (*run)(const struct form_case *));

/* ---- of a case (form_case.c) ---- */

/* Does the instruction access memory or a port, as the decoder has it? */
bool form_touches_memory(const struct form_case *c);
bool form_touches_port(const struct form_case *c);
bool form_is_string(const struct form_case *c);

/* The operand that ModRM or a displacement names, the one on the stack; else NULL. */
const ZydisDecodedOperand *form_explicit_memory(const struct form_case *c);
const ZydisDecodedOperand *form_stack_memory(const struct form_case *c);
unsigned form_operand_bytes(const ZydisDecodedOperand *operand);

/* A locked access that crosses a cache line: not for the host. */
bool form_is_split_lock(const struct form_case *c);

/* "48 0f b0 03 (cmpxchg), place 2, ..." */
void form_print(const struct form_case *c);

#endif
