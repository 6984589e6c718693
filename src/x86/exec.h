/*
 * Exec functions and the helpers they are written with.
 *
 * An exec function carries out one decoded instruction that the interpreter has no fast operation for.
 * Rule for all of them: commit once and last. Everything that can fault (reads, permission checks,
 * translation of every byte to be written) comes before the first change of state.
 */
#ifndef OWHP_X86_EXEC_H
#define OWHP_X86_EXEC_H

#include <Zydis/Zydis.h>

#include "x86/code/insn.h"
#include "x86/integer/aflags.h"
#include "x86/memory/memory.h"
#include "x86/port.h"

/* One row of a family's table: which mnemonic goes to which function. */
struct exec_entry {
    ZydisMnemonic mnemonic;
    exec_fn *exec;
    uint8_t ends_block; /* the instruction branches, or changes what decoding depends on */
};

/* Each family's table, closed by a row whose exec is NULL. */
extern const struct exec_entry exec_integer_table[]; /* exec_integer.c: moves, conversions, flags */
extern const struct exec_entry exec_alu_table[];     /* exec_alu.c: ADD .. CMP, XCHG, XADD, CMPXCHG */
extern const struct exec_entry exec_shift_table[];   /* exec_shift.c: shifts, rotates, SHLD, SHRD */
extern const struct exec_entry exec_muldiv_table[];  /* exec_muldiv.c */
extern const struct exec_entry exec_bits_table[];    /* exec_bits.c: BT.., BSF.., BMI, CRC32 */
extern const struct exec_entry exec_bcd_table[];     /* exec_bcd.c: AAA .. DAS, SALC */
extern const struct exec_entry exec_hint_table[];    /* exec_hint.c: NOPs, fences, cache hints, RDRAND, UDn */
extern const struct exec_entry exec_stack_table[];   /* exec_stack.c: PUSH.., ENTER, LEAVE, PUSHF, POPF */
extern const struct exec_entry exec_branch_table[];  /* exec_branch.c: near branches, LOOP, JCXZ */
extern const struct exec_entry exec_string_table[];  /* exec_string.c: MOVS .. OUTS with REP */
extern const struct exec_entry exec_io_table[];      /* exec_io.c: IN, OUT */
extern const struct exec_entry exec_far_table[];     /* exec_far.c: far CALL/JMP/RET, IRET, INT, SYSCALL .. */
extern const struct exec_entry exec_monitor_table[]; /* exec_monitor.c: MONITOR, MWAIT */
extern const struct exec_entry exec_system_table[];  /* exec_system.c: CR, DR, MSR, descriptor tables .. */

/* io_permission.c: CPL, IOPL and the TSS's bitmap (SDM 1 19.5). False: #GP(0), or what reading the bitmap raised. */
must_check bool io_allowed(struct cpu *cpu, uint16_t port, unsigned size);

/* All of them: the decoder's bind.c joins the tables. */
#define EXEC_TABLES                                                                                \
    exec_integer_table, exec_alu_table, exec_shift_table, exec_muldiv_table, exec_bits_table,      \
        exec_bcd_table, exec_hint_table, exec_stack_table, exec_branch_table, exec_string_table,   \
        exec_io_table, exec_far_table, exec_monitor_table, exec_system_table

/*
 * The vector and floating-point families bind by themselves (one function for many mnemonics): fill
 * insn->exec and insn->extra, or return false when the instruction is not theirs or not implemented.
 */
bool exec_simd_bind(struct insn *insn, const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands);
bool exec_x87_bind(struct insn *insn, const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands);

/* MOV, PUSH, POP with segment, control and debug registers and far CALL, JMP, RET share their mnemonics with ordinary
 * instructions: to be asked before the tables. Needs mnemonic, opcode, modrm, operands. */
bool exec_system_bind(struct insn *insn);

/* Shorthand for the end of an exec function. */
static inline enum exec_result exec_done(bool ok) { return ok ? EXEC_NEXT : EXEC_LEAVE; }
/* What a port result means for the instruction (sets cpu->leave). True: PORT_DONE. */
must_check bool exec_port(struct cpu *cpu, enum port_result result);

/* ---- operands ---- */

/* Offset of the memory operand within its segment, wrapped to the address size. */
uint64_t operand_offset(const struct cpu *cpu, const struct insn *insn);
/* Its linear address for an access of `size` bytes, segment checked. False: fault raised. */
must_check bool operand_linear(struct cpu *cpu, const struct insn *insn, size_t size, enum access_type type, gva_t *linear);
/* The same for vector operands that must be aligned (a power of two): #GP(0), also where the stack segment's limit is
 * exceeded as well. (FXSAVE, XSAVE and the like look at the limit first.) */
must_check bool operand_linear_aligned(struct cpu *cpu, const struct insn *insn, size_t size, size_t alignment,
                                       enum access_type type, gva_t *linear);

/* Read operand i, zero-extended (registers, memory, immediates up to 8 bytes). */
must_check bool operand_read(struct cpu *cpu, const struct insn *insn, unsigned i, uint64_t *value);
/* Write operand i; a 32-bit general register is zero-extended to 64. */
must_check bool operand_write(struct cpu *cpu, const struct insn *insn, unsigned i, uint64_t value);
/* Any size: copy the bytes of a memory operand. */
must_check bool operand_read_bytes(struct cpu *cpu, const struct insn *insn, void *to, size_t size);
must_check bool operand_write_bytes(struct cpu *cpu, const struct insn *insn, const void *from, size_t size);

/*
 * Read-modify-write of operand i, atomic when the instruction has LOCK (or is XCHG with memory):
 * `compute` gets the old value and returns the new one; it may run more than once and must be pure but for what
 * it leaves in its context. Committed is the last call's result.
 */
typedef uint64_t operand_compute(uint64_t old, void *context);
must_check bool operand_modify(struct cpu *cpu, const struct insn *insn, unsigned i, operand_compute *compute, void *context);

/* General register by number and size (number 4..7 with size 1 and no REX are AH..BH: use operands). */
static inline uint64_t gpr_read(const struct cpu *cpu, unsigned number, unsigned size)
{
    uint64_t v = cpu->gpr[number].q;
    return size == 8 ? v : v & ((1ull << (size * 8)) - 1);
}
static inline void gpr_write(struct cpu *cpu, unsigned number, unsigned size, uint64_t value)
{
    switch (size) {
    case 1: cpu->gpr[number].b[0] = (uint8_t)value; break;
    case 2: cpu->gpr[number].w = (uint16_t)value; break;
    case 4: cpu->gpr[number].q = (uint32_t)value; break;
    default: cpu->gpr[number].q = value; break;
    }
}

/* ---- stack (width of the stack pointer from SS.B or 64-bit mode) ---- */
must_check bool stack_push(struct cpu *cpu, unsigned size, uint64_t value); /* moves RSP when it succeeds */
must_check bool stack_pop(struct cpu *cpu, unsigned size, uint64_t *value);
/* Without moving RSP: element at RSP + displacement. */
must_check bool stack_read(struct cpu *cpu, int64_t displacement, unsigned size, uint64_t *value);
must_check bool stack_write(struct cpu *cpu, int64_t displacement, unsigned size, uint64_t value);
void stack_adjust(struct cpu *cpu, int64_t delta);

#endif
