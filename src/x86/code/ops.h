/*
 * The interpreter's fast operations: one table for 64-bit code and one for the legacy modes, the same handlers
 * compiled twice (ops_template.h). Rows by operation, columns by operand size (8, 16, 32, 64 bits).
 */
#ifndef OWHP_X86_OPS_H
#define OWHP_X86_OPS_H

#include "x86/code/interpret.h"

/* Vector moves: what is moved, and what happens to the rest of a register. */
enum op_vector {
    OP_COPY16, OP_LOAD16, OP_LOAD16_ALIGNED, OP_STORE16, OP_STORE16_ALIGNED,
    OP_LOAD8_ZERO, OP_LOAD4_ZERO, OP_LOAD8_LOW, OP_LOAD8_HIGH, OP_STORE8_LOW, OP_STORE8_HIGH, OP_STORE4,
    OP_VECTOR_COUNT
};

/* Operand forms: register-register, register-immediate, register-memory, memory-register, memory-immediate. */
enum op_form { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, FORM_COUNT };
enum op_alu { OP_ADD, OP_OR, OP_ADC, OP_SBB, OP_AND, OP_SUB, OP_XOR, OP_CMP, OP_TEST, OP_MOV, OP_ALU_COUNT };
enum op_unary { OP_INC, OP_DEC, OP_NEG, OP_NOT, OP_UNARY_COUNT };
enum op_shift { OP_SHL, OP_SHR, OP_SAR, OP_ROL, OP_ROR, OP_SHIFT_COUNT };

struct op_table {
    op_fn *alu[OP_ALU_COUNT][FORM_COUNT][4];
    op_fn *unary_r[OP_UNARY_COUNT][4], *unary_m[OP_UNARY_COUNT][4];
    op_fn *shift_ri[OP_SHIFT_COUNT][4], *shift_rc[OP_SHIFT_COUNT][4], *shift_mi[OP_SHIFT_COUNT][4], *shift_mc[OP_SHIFT_COUNT][4];
    /* widening: [source size][destination size] */
    op_fn *movzx_r[2][4], *movzx_m[2][4], *movsx_r[3][4], *movsx_m[3][4];
    op_fn *lea[4];
    op_fn *imul_rr[4], *imul_rm[4], *imul_rri[4];
    op_fn *setcc[16], *cmov_r[16][4], *cmov_m[16][4];
    op_fn *jcc[16], *jmp, *jmp_r, *jmp_m, *call, *call_r, *call_m, *ret, *ret_imm;
    op_fn *push_r, *push_i, *push_m, *pop_r, *leave;
    op_fn *xchg_rr[4], *bswap[4], *cbw[4], *cwd[4], *bt_ri[4], *nop;
    op_fn *vector[OP_VECTOR_COUNT];
    op_fn *stub[16]; /* by simd_shape (x86/vector/exec_simd.h) */
};

extern const struct op_table ops_64, ops_legacy;

#endif
