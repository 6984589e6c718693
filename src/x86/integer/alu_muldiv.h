/*
 * Multiplication and division. Wide values are two halves: (high, low) is AX, DX:AX, EDX:EAX, RDX:RAX
 * (for 8 bits high is AH). The divisions never fault on the host: they return false for the guest's #DE.
 */
#ifndef OWHP_X86_ALU_MULDIV_H
#define OWHP_X86_ALU_MULDIV_H

#include "x86/integer/alu.h"

/* IMUL r, r/m and its three-operand form. */
#define ALU_IMUL2(name, bits, suffix)                                                              \
    static always_inline uint##bits##_t alu_imul2_##bits(uint##bits##_t a, uint##bits##_t b,       \
                                                         uint32_t *aflags)                         \
    {                                                                                              \
        uint16_t flags = (uint16_t)*aflags;                                                        \
        __asm__(ALU_RESTORE "imul" suffix " %[b], %[a]\n\t" ALU_CAPTURE                            \
                : [a] "+r"(a), "+&a"(flags)                                                        \
                : [b] "r"(b)                                                                       \
                : "cc");                                                                           \
        *aflags = flags;                                                                           \
        return a;                                                                                  \
    }

/* MUL IMUL: the low half is returned. The host's accumulator is also where the flags are taken. */
#define ALU_MUL(name, bits, suffix)                                                                \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint##bits##_t b,       \
                                                         uint##bits##_t *high, uint32_t *aflags)   \
    {                                                                                              \
        uint64_t wide = a;                                                                         \
        uint64_t upper, lower;                                                                     \
        __asm__(#name suffix " %[b]\n\tmovq %%rax, %[lower]\n\t" ALU_CAPTURE                       \
                : "+a"(wide), "=&d"(upper), [lower] "=&r"(lower)                                   \
                : [b] "r"(b)                                                                       \
                : "cc");                                                                           \
        *aflags = (uint16_t)wide;                                                                  \
        *high = (uint##bits##_t)(bits == 8 ? lower >> 8 : upper);                                  \
        return (uint##bits##_t)lower;                                                              \
    }

/* DIV and IDIV of known-good operands. */
#define ALU_DIVIDE(name, bits, suffix)                                                             \
    static always_inline void alu_host_##name##bits(uint##bits##_t *high, uint##bits##_t *low,     \
                                                    uint##bits##_t by)                             \
    {                                                                                              \
        uint64_t wide = bits == 8 ? (uint64_t)(*low | *high << 8) : (uint64_t)*low;                \
        uint64_t upper = *high;                                                                    \
        __asm__(#name suffix " %[by]" : "+a"(wide), "+d"(upper) : [by] "r"(by) : "cc");            \
        *low = (uint##bits##_t)wide;                                                               \
        *high = (uint##bits##_t)(bits == 8 ? wide >> 8 : upper);                                   \
    }

/*
 * (high, low) / by: quotient to *low, remainder to *high. False: #DE (division by zero or a
 * quotient that does not fit); nothing was changed. The flags, undefined in the manual, stay as on recent silicon.
 */
#define ALU_DIV(name, bits, suffix)                                                                \
    must_check static always_inline bool alu_div##bits(uint##bits##_t *high, uint##bits##_t *low,  \
                                                       uint##bits##_t by)                          \
    {                                                                                              \
        if (unlikely(*high >= by))                                                                 \
            return false;                                                                          \
        alu_host_div##bits(high, low, by);                                                         \
        return true;                                                                               \
    }

/*
 * Signed. Most dividends are sign-extended single words: they fail only for 0 and for MIN / -1. For the
 * others the magnitudes are divided first: the quotient must not exceed 2^(n-1), or 2^(n-1) - 1 if positive.
 */
#define ALU_IDIV(name, bits, suffix)                                                               \
    must_check static always_inline bool alu_idiv##bits(uint##bits##_t *high, uint##bits##_t *low, \
                                                        uint##bits##_t by)                         \
    {                                                                                              \
        const uint##bits##_t top = (uint##bits##_t)((uint##bits##_t)1 << (bits - 1));              \
        const bool high_negative = (*high & top) != 0, by_negative = (by & top) != 0;              \
        const uint##bits##_t extension = (uint##bits##_t)(*low & top ? ~(uint##bits##_t)0 : 0);    \
        if (likely(*high == extension)) {                                                          \
            if (unlikely(by == 0 || (*low == top && by == (uint##bits##_t)~(uint##bits##_t)0)))    \
                return false;                                                                      \
        } else {                                                                                   \
            uint##bits##_t h = *high, l = *low, d = by_negative ? (uint##bits##_t)(0 - by) : by;   \
            if (high_negative) {                                                                   \
                l = (uint##bits##_t)(0 - l);                                                       \
                h = (uint##bits##_t)(~h + (l == 0));                                               \
            }                                                                                      \
            if (!alu_div##bits(&h, &l, d) || l > top ||                                            \
                (l == top && high_negative == by_negative))                                        \
                return false;                                                                      \
        }                                                                                          \
        alu_host_idiv##bits(high, low, by);                                                        \
        return true;                                                                               \
    }

/* clang-format off */
ALU_WORD_SIZES(ALU_IMUL2, imul2)
ALU_ALL_SIZES(ALU_MUL, mul)
ALU_ALL_SIZES(ALU_MUL, imul)
ALU_ALL_SIZES(ALU_DIVIDE, div)
ALU_ALL_SIZES(ALU_DIVIDE, idiv)
ALU_ALL_SIZES(ALU_DIV, div)
ALU_ALL_SIZES(ALU_IDIV, idiv)
/* clang-format on */

#endif
