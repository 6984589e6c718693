/*
 * ALU kernels: values in, value and flags out.
 *
 * Guest and host are the same architecture, so the host computes. Each kernel is the guest's own
 * instruction; its flags are taken over in the format of x86/integer/aflags.h with LAHF and SETO AL. Kernels that
 * leave some flags alone (shifts by 0, rotates, BT, BSF) first give the host all incoming flags: what
 * they preserve and what the manual calls undefined then comes out as it does on silicon.
 *
 * The kernels are pure: no memory, no processor. Names end in the operand size in bits.
 * The families: this file (ADD .. TEST, INC, DEC, NEG, NOT), alu_shift.h (shifts, rotates, double shifts),
 * alu_muldiv.h, alu_bits.h (bit tests, scans, counts, BMI, CRC32), alu_lock.h (locked forms on host
 * memory), condition.h (the sixteen conditions).
 */
#ifndef OWHP_X86_ALU_H
#define OWHP_X86_ALU_H

#include "util/compiler.h"
#include "util/types.h"
#include "x86/integer/aflags.h"

/* Flags into AX (no flag changes), and AX into flags (AL + 7fh overflows exactly when OF was 1). */
#define ALU_CAPTURE "lahf\n\tseto %%al"
#define ALU_RESTORE "addb $0x7f, %%al\n\tsahf\n\t"
/* Only the carry: bit 8 of an aflags value in a 32-bit register. */
#define ALU_RESTORE_CF "btl $8, %k[in]\n\t"

#define ALU_ALL_SIZES(X, name) X(name, 8, "b") X(name, 16, "w") X(name, 32, "l") X(name, 64, "q")
#define ALU_WORD_SIZES(X, name) X(name, 16, "w") X(name, 32, "l") X(name, 64, "q")

/* ADD OR AND SUB XOR: nothing of the incoming flags matters. */
#define ALU_BINARY(name, bits, suffix)                                                             \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint##bits##_t b,       \
                                                         uint32_t *aflags)                         \
    {                                                                                              \
        uint16_t flags;                                                                            \
        __asm__(#name suffix " %[b], %[a]\n\t" ALU_CAPTURE                                         \
                : [a] "+r"(a), "=&a"(flags)                                                        \
                : [b] "r"(b)                                                                       \
                : "cc");                                                                           \
        *aflags = flags;                                                                           \
        return a;                                                                                  \
    }

/* ADC SBB: the carry goes in. */
#define ALU_BINARY_CARRY(name, bits, suffix)                                                       \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint##bits##_t b,       \
                                                         uint32_t *aflags)                         \
    {                                                                                              \
        uint16_t flags;                                                                            \
        __asm__(ALU_RESTORE_CF #name suffix " %[b], %[a]\n\t" ALU_CAPTURE                          \
                : [a] "+r"(a), "=&a"(flags)                                                        \
                : [b] "r"(b), [in] "r"(*aflags)                                                    \
                : "cc");                                                                           \
        *aflags = flags;                                                                           \
        return a;                                                                                  \
    }

/* CMP TEST: flags only. */
#define ALU_COMPARE(name, bits, suffix)                                                            \
    static always_inline void alu_##name##bits(uint##bits##_t a, uint##bits##_t b, uint32_t *aflags) \
    {                                                                                              \
        uint16_t flags;                                                                            \
        __asm__(#name suffix " %[b], %[a]\n\t" ALU_CAPTURE                                         \
                : "=&a"(flags)                                                                     \
                : [a] "r"(a), [b] "r"(b)                                                           \
                : "cc");                                                                           \
        *aflags = flags;                                                                           \
    }

/* INC DEC: the carry stays. */
#define ALU_UNARY_CARRY(name, bits, suffix)                                                        \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint32_t *aflags)       \
    {                                                                                              \
        uint16_t flags;                                                                            \
        __asm__(ALU_RESTORE_CF #name suffix " %[a]\n\t" ALU_CAPTURE                                \
                : [a] "+r"(a), "=&a"(flags)                                                        \
                : [in] "r"(*aflags)                                                                \
                : "cc");                                                                           \
        *aflags = flags;                                                                           \
        return a;                                                                                  \
    }

#define ALU_UNARY(name, bits, suffix)                                                              \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint32_t *aflags)       \
    {                                                                                              \
        uint16_t flags;                                                                            \
        __asm__(#name suffix " %[a]\n\t" ALU_CAPTURE : [a] "+r"(a), "=&a"(flags) : : "cc");        \
        *aflags = flags;                                                                           \
        return a;                                                                                  \
    }

#define ALU_NOT(name, bits, suffix)                                                                \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a)                         \
    {                                                                                              \
        return (uint##bits##_t)~a;                                                                 \
    }

/* clang-format off */
ALU_ALL_SIZES(ALU_BINARY, add)
ALU_ALL_SIZES(ALU_BINARY, or)
ALU_ALL_SIZES(ALU_BINARY_CARRY, adc)
ALU_ALL_SIZES(ALU_BINARY_CARRY, sbb)
ALU_ALL_SIZES(ALU_BINARY, and)
ALU_ALL_SIZES(ALU_BINARY, sub)
ALU_ALL_SIZES(ALU_BINARY, xor)
ALU_ALL_SIZES(ALU_COMPARE, cmp)
ALU_ALL_SIZES(ALU_COMPARE, test)
ALU_ALL_SIZES(ALU_UNARY_CARRY, inc)
ALU_ALL_SIZES(ALU_UNARY_CARRY, dec)
ALU_ALL_SIZES(ALU_UNARY, neg)
ALU_ALL_SIZES(ALU_NOT, not)
/* clang-format on */

#endif
