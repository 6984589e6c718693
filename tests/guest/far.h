/* Far transfers on a machine: their code, their pointers and frames. Shared by the tests of targets and of stacks. */
#ifndef OWHP_TESTS_GUEST_FAR_H
#define OWHP_TESTS_GUEST_FAR_H

#include "machine.h"

enum transfer { JMP, CALL, RETF, IRET, TRANSFERS };
enum { OFFSET = 0x1234 }; /* where they all lead */

extern const char *const far_names[TRANSFERS];
extern struct machine machine;

int far_set_up(void **unused);
int far_tear_down(void **unused);

/* The operand size that is used in a mode, the place of the transfer's code, and its length (JMP, CALL). */
unsigned far_operand_size(enum machine_mode mode);
uint16_t far_code(enum machine_mode mode, enum transfer transfer);
unsigned far_code_length(enum machine_mode mode);

/* A code segment that every mode can go to at that level, RPL included. */
uint16_t far_good_code(enum machine_mode mode, unsigned level);

/* The memory operand of JMP and CALL; what RETF and IRET find on the stack (with an outer stack). */
void far_set_pointer(enum machine_mode mode, uint16_t selector);
void far_set_frame(enum machine_mode mode, enum transfer transfer, uint16_t cs, uint16_t ss);

#endif
