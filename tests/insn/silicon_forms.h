/*
 * All encodings of an opcode: every ModRM byte, prefixes, random displacements and immediates; for each a few
 * sets of registers whose addresses are steered into the arena.
 */
#ifndef OWHP_TESTS_INSN_SILICON_FORMS_H
#define OWHP_TESTS_INSN_SILICON_FORMS_H

#include "silicon.h"

enum {
    FORM_MODRM = 1,        /* a ModRM byte follows the opcode */
    FORM_BRANCH = 2,       /* a relative branch: the target is one of the two prepared ones */
    FORM_INDIRECT = 4,     /* operand or stack top is a branch target */
    FORM_BIT_STRING = 8,   /* the register operand is a bit offset */
    FORM_DIVIDE = 16,      /* values that often do not overflow */
    FORM_FRAME = 32,       /* rBP points into the stack */
    FORM_REPEAT = 64,      /* F2 and F3 mean something */
    FORM_SELECTING = 128,  /* 66, F2 and F3 select the instruction */
    FORM_VEX = 256,
    FORM_MEMORY_ONLY = 1024,
    FORM_INTEL_OF = 512,    /* OF is undefined, and as Intel's processors have it */
};

struct form_row {
    uint8_t map;           /* 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A */
    uint8_t first, last;   /* opcodes */
    uint16_t flags;        /* FORM_* */
    uint8_t reg_fields;    /* FORM_MODRM: which values of the reg field to use, one bit each; 0: all */
    uint16_t modes;        /* 64, 32, or both: FORM_64 | FORM_32 */
    uint64_t undefined;    /* flags not compared */
    uint8_t vex_prefix;    /* FORM_VEX: the pp field */
};

enum { FORM_64 = 1, FORM_32 = 2, FORM_BOTH = 3 };

/* Run one row in one mode, `sets` register sets for each encoding. */
void forms_run(const struct form_row *row, bool is_32, unsigned sets);

#endif
