/*
 * Prefixes in front of an instruction, enumerated: every set of LOCK, REP, REPNE, operand and address size, segment override,
 * REX, in four orders of the groups, alone and doubled, REX where it counts and where it does not.
 */
#ifndef OWHP_TESTS_INSN_PREFIX_FORMS_H
#define OWHP_TESTS_INSN_PREFIX_FORMS_H

#include "insn/opcode_rows.h"

enum { PREFIX_MOST = 12, PREFIX_FORMS_MOST = 30000, SKELETONS_MOST = 12000 };

struct prefix_form {
    uint8_t bytes[PREFIX_MOST], length;
};

/* All that differ, the short ones first: `singles` of them have one prefix or none. Returns how many. */
unsigned prefix_forms(bool is_64, struct prefix_form forms[PREFIX_FORMS_MOST], unsigned *singles);

/* An encoding up to ModRM, without prefixes: every row of the opcode table once. */
struct skeleton {
    uint8_t bytes[6], length;
    bool is_vex;
};
unsigned skeletons(struct skeleton list[SKELETONS_MOST]);

#endif
