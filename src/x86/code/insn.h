/*
 * A decoded instruction in full, for everything that is not one of the interpreter's fast operations:
 * what the exec functions (x86/exec.h) work from. Made once by the decoder, cached with its block.
 */
#ifndef OWHP_X86_INSN_H
#define OWHP_X86_INSN_H

#include <Zydis/Mnemonic.h>

#include "x86/cpu.h"

enum operand_kind { OPERAND_NONE, OPERAND_REGISTER, OPERAND_MEMORY, OPERAND_IMMEDIATE, OPERAND_FAR_POINTER };

enum register_class {
    CLASS_GPR,     /* number 0..15, byte registers AH..BH have offset 1 */
    CLASS_SEGMENT, /* enum segment_index */
    CLASS_CONTROL, CLASS_DEBUG,
    CLASS_X87, CLASS_MMX, CLASS_XMM, CLASS_YMM,
    CLASS_OTHER,
};

struct operand {
    uint8_t kind;        /* enum operand_kind */
    uint8_t size;        /* bytes */
    uint8_t reg_class;   /* registers: enum register_class */
    uint8_t number;      /* registers */
    uint16_t offset;     /* general registers: byte offset in struct cpu */
    bool is_read, is_written;
    uint64_t immediate;  /* sign- or zero-extended as the instruction uses it; branches: displacement */
    uint16_t selector;   /* far pointers; immediate is the offset */
};

/* The explicit memory operand (there is at most one). Offset = base + index*scale + displacement. */
struct memory_operand {
    uint16_t base, index; /* byte offsets in struct cpu; offsetof(zero) where there is none */
    uint8_t scale_shift;
    uint8_t segment;      /* enum segment_index */
    bool is_rip_relative; /* displacement is from the end of the instruction */
    bool is_vsib;
    int64_t displacement;
};

struct insn;

enum exec_result {
    EXEC_NEXT,  /* done; the following instruction is next */
    EXEC_END,   /* done; continue at cpu->next_rip through a new block look-up (branches, mode changes) */
    EXEC_LEAVE, /* cpu->leave says why; see LEAVE_* for whether it happened */
};

/* Runs with cpu->rip at the instruction and cpu->next_rip behind it. */
typedef enum exec_result exec_fn(struct cpu *cpu, const struct insn *insn);

struct insn {
    exec_fn *exec;
    ZydisMnemonic mnemonic;
    uint8_t length;
    uint8_t operand_size; /* effective operand size: 2, 4, 8 */
    uint8_t address_size; /* 2, 4, 8 */
    uint8_t stack_size;   /* 2, 4, 8: width of the stack pointer */
    bool has_lock, has_rep /* F3 */, has_repne /* F2 */;
    uint8_t opcode_map;   /* ZydisOpcodeMap */
    uint8_t opcode, modrm;
    uint8_t operand_count; /* explicit operands */
    uint8_t ends_block;
    bool uses_vector;      /* works on x87, MMX or vector registers */
    struct operand operand[5];
    struct memory_operand memory;
    uint8_t bytes[15];
    const void *extra;    /* whatever the family that bound `exec` keeps (a host stub, a table row) */
};

#endif
