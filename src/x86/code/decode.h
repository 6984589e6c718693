/*
 * From bytes to operations: Zydis decodes, bind.c finds the exec function, select.c the fast operation.
 */
#ifndef OWHP_X86_DECODE_H
#define OWHP_X86_DECODE_H

#include <Zydis/Zydis.h>

#include "x86/code/code.h"

enum decode_status { DECODE_OK, DECODE_TRUNCATED, DECODE_TOO_LONG, DECODE_INVALID };

/* Zydis's view of one instruction beside ours. */
struct decoded {
    struct insn insn;
    ZydisDecodedInstruction zydis;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

/* Decode one instruction under MODE_* flags and bind its exec function. Needs no processor. */
enum decode_status decode(uint32_t mode, const uint8_t *bytes, size_t available, struct decoded *out);

/* Set insn->exec (and extra, ends_block); what nobody implements becomes #UD. */
void insn_bind(struct insn *insn, const ZydisDecodedInstruction *zydis, const ZydisDecodedOperand *operands);

/*
 * A fast operation for the instruction: fills op (run, operands) and returns true, or leaves it. `offset` is that of the
 * instruction from its block's start. *ends is set when the operation closes its block.
 */
bool select_fast(uint32_t mode, const struct decoded *decoded, unsigned offset, struct op *op, bool *ends);

#endif
