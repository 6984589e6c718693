/*
 * Making code for duels: every encoding there is, by instruction, and instructions put together at random whose operands
 * are mostly where something is.
 */
#ifndef OWHP_TESTS_DUEL_DUEL_CODE_H
#define OWHP_TESTS_DUEL_DUEL_CODE_H

#include <Zydis/Zydis.h>

#include "duel.h"

/* Build the catalogue for 64-, 32- or 16-bit code. */
void code_catalogue(unsigned bits);
unsigned code_catalogue_size(void); /* instructions (mnemonics) in it */

/* One instruction, with others before it that load its registers: at most CODE_LONGEST bytes. */
enum { CODE_LONGEST = 80 };
unsigned code_random(unsigned bits, uint64_t at, uint8_t *code);

/* The same for an encoding of one's own (displacements, immediates are changed in it): 15 bytes. */
unsigned code_steered(unsigned bits, uint64_t at, uint8_t bytes[15], unsigned modrm, bool steered, uint8_t *code);

/* May it be executed by the host at all, and does it give the same twice? code_reason: NULL, or why not. */
bool code_is_comparable(const ZydisDecodedInstruction *insn);
bool code_is_comparable_bytes(unsigned bits, const uint8_t bytes[15]);
const char *code_reason(ZydisMnemonic mnemonic);

/* Does our processor have it? The host has more. */
bool code_is_implemented(unsigned bits, const uint8_t bytes[15]);

void code_decoder(unsigned bits, ZydisDecoder *decoder);

#endif
