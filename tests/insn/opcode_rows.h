/*
 * Every encoding of the opcode maps, joined into rows: one for each opcode, prefix, ModRM form that is an instruction of its
 * own. A row's state in 64-bit and in 32-bit code is what the decoder and the tables of exec functions say:
 * done, #UD (no instruction), or absent (an instruction of a set that guests are not shown; it is #UD, too).
 */
#ifndef OWHP_TESTS_INSN_OPCODE_ROWS_H
#define OWHP_TESTS_INSN_OPCODE_ROWS_H

#include <stdbool.h>
#include <stdint.h>

enum row_state { ROW_UD, ROW_DONE, ROW_ABSENT, ROW_PREFIX /* here the byte begins something else: REX, VEX, EVEX */ };
enum { ANY = 9 };

struct opcode_row {
    bool is_vex;
    uint8_t map;            /* 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A */
    uint8_t opcode;
    uint8_t prefix;         /* 0 none, 1 66, 2 F3, 3 F2, ANY */
    uint8_t mod;            /* 0 memory, 1 register, ANY */
    uint8_t reg, rm;        /* 0..7, ANY */
    uint8_t forms;          /* VEX: bit W * 2 + L of those that exist */
    uint8_t state[2];       /* enum row_state in 64-bit and 32-bit code */
    uint16_t mnemonic;      /* ZydisMnemonic */
    uint16_t set;           /* ZydisISASet */
};

enum { OPCODE_ROWS_MOST = 8000 };

/* All rows, in the order of the maps. Returns how many. */
unsigned opcode_rows(struct opcode_row rows[OPCODE_ROWS_MOST]);

/* One encoding of the row, at most 6 bytes up to ModRM; the rest of the 15 bytes is left. Returns the place of ModRM. */
unsigned opcode_row_encode(const struct opcode_row *row, bool is_64, uint64_t random, uint8_t code[15]);

/* Needs a SIB byte: in 16-bit code it is #UD. */
bool opcode_row_is_gather(const struct opcode_row *row);

/* "0F 10 F3 mem /0": the row's key. */
void opcode_row_name(const struct opcode_row *row, char text[64]);

/* The CPUID bit that would show an absent set; "" when there is none. */
const char *opcode_row_cpuid(const struct opcode_row *row);

#endif
