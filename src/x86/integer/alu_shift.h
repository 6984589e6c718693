/*
 * Shifts, rotates and double shifts. The count is the guest's CL or immediate as it is; the host masks
 * it to 5 or 6 bits as the guest's processor would (SDM 2B "SAL/SAR/SHL/SHR"). A masked count of 0
 * changes neither value nor flags.
 */
#ifndef OWHP_X86_ALU_SHIFT_H
#define OWHP_X86_ALU_SHIFT_H

#include "x86/integer/alu.h"

#define ALU_SHIFT(name, bits, suffix)                                                              \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint8_t count,          \
                                                         uint32_t *aflags)                         \
    {                                                                                              \
        uint16_t flags = (uint16_t)*aflags;                                                        \
        __asm__(ALU_RESTORE #name suffix " %%cl, %[a]\n\t" ALU_CAPTURE                             \
                : [a] "+r"(a), "+&a"(flags)                                                        \
                : "c"(count)                                                                       \
                : "cc");                                                                           \
        *aflags = flags;                                                                           \
        return a;                                                                                  \
    }

/*
 * SHLD SHRD: bits come in from `fill`. For 16 bits and counts above 16 the result is undefined by the
 * manual; it is the host's.
 */
#define ALU_DOUBLE_SHIFT(name, bits, suffix)                                                       \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint##bits##_t fill,    \
                                                         uint8_t count, uint32_t *aflags)          \
    {                                                                                              \
        uint16_t flags = (uint16_t)*aflags;                                                        \
        __asm__(ALU_RESTORE #name suffix " %%cl, %[fill], %[a]\n\t" ALU_CAPTURE                    \
                : [a] "+r"(a), "+&a"(flags)                                                        \
                : "c"(count), [fill] "r"(fill)                                                     \
                : "cc");                                                                           \
        *aflags = flags;                                                                           \
        return a;                                                                                  \
    }

/*
 * The same for counts that are known not to be 0 when masked: shifts then define all flags (but AF), so nothing goes in; rotates
 * change CF and OF only. OF is undefined for rotates by more than 1; as on Intel's silicon, it is what a rotate by 1 makes of it,
 * but a register rotated by an immediate (_imm) leaves it as it is.
 */
#define ALU_SHIFT_SOME(name, bits, suffix)                                                         \
    static always_inline uint##bits##_t alu_##name##_some##bits(uint##bits##_t a, uint8_t count,   \
                                                                uint32_t *aflags)                  \
    {                                                                                              \
        uint16_t flags;                                                                            \
        __asm__(#name suffix " %%cl, %[a]\n\t" ALU_CAPTURE                                         \
                : [a] "+r"(a), "=&a"(flags)                                                        \
                : "c"(count)                                                                       \
                : "cc");                                                                           \
        *aflags = flags;                                                                           \
        return a;                                                                                  \
    }

/* Shifts do not mind whether it is a register. */
#define alu_shl_imm8  alu_shl_some8
#define alu_shl_imm16 alu_shl_some16
#define alu_shl_imm32 alu_shl_some32
#define alu_shl_imm64 alu_shl_some64
#define alu_shr_imm8  alu_shr_some8
#define alu_shr_imm16 alu_shr_some16
#define alu_shr_imm32 alu_shr_some32
#define alu_shr_imm64 alu_shr_some64
#define alu_sar_imm8  alu_sar_some8
#define alu_sar_imm16 alu_sar_some16
#define alu_sar_imm32 alu_sar_some32
#define alu_sar_imm64 alu_sar_some64

#define ALU_ROTATE_MASK(bits) ((bits) == 64 ? 63u : 31u)
#define ALU_ROTATE_SOME(bits)                                                                      \
    static always_inline uint##bits##_t alu_rol_some##bits(uint##bits##_t a, uint8_t count,        \
                                                           uint32_t *aflags)                       \
    {                                                                                              \
        unsigned n = count & (bits - 1);                                                           \
        uint##bits##_t r = (uint##bits##_t)(a << n | a >> (-n & (bits - 1)));                      \
        uint32_t over = (uint32_t)(a >> (bits - 1) ^ a >> (bits - 2)) & 1;                         \
        *aflags = (*aflags & ~(AFLAG_CF | AFLAG_OF)) | (uint32_t)(r & 1) << 8 | over;              \
        return r;                                                                                  \
    }                                                                                              \
    static always_inline uint##bits##_t alu_ror_some##bits(uint##bits##_t a, uint8_t count,        \
                                                           uint32_t *aflags)                       \
    {                                                                                              \
        unsigned n = count & (bits - 1);                                                           \
        uint##bits##_t r = (uint##bits##_t)(a >> n | a << (-n & (bits - 1)));                      \
        uint32_t top = (uint32_t)(r >> (bits - 1)), over = (uint32_t)(a >> (bits - 1) ^ a) & 1;    \
        *aflags = (*aflags & ~(AFLAG_CF | AFLAG_OF)) | top << 8 | over;                            \
        return r;                                                                                  \
    }                                                                                              \
    static always_inline uint##bits##_t alu_rol_imm##bits(uint##bits##_t a, uint8_t count,         \
                                                          uint32_t *aflags)                        \
    {                                                                                              \
        unsigned n = count & (bits - 1);                                                           \
        if (unlikely((count & ALU_ROTATE_MASK(bits)) == 1))                                        \
            return alu_rol_some##bits(a, count, aflags);                                           \
        uint##bits##_t r = (uint##bits##_t)(a << n | a >> (-n & (bits - 1)));                      \
        *aflags = (*aflags & ~AFLAG_CF) | (uint32_t)(r & 1) << 8;                               \
        return r;                                                                                  \
    }                                                                                              \
    static always_inline uint##bits##_t alu_ror_imm##bits(uint##bits##_t a, uint8_t count,         \
                                                          uint32_t *aflags)                        \
    {                                                                                              \
        unsigned n = count & (bits - 1);                                                           \
        if (unlikely((count & ALU_ROTATE_MASK(bits)) == 1))                                        \
            return alu_ror_some##bits(a, count, aflags);                                           \
        uint##bits##_t r = (uint##bits##_t)(a >> n | a << (-n & (bits - 1)));                      \
        *aflags = (*aflags & ~AFLAG_CF) | (uint32_t)(r >> (bits - 1)) << 8;                     \
        return r;                                                                                  \
    }

/* clang-format off */
ALU_ALL_SIZES(ALU_SHIFT_SOME, shl)
ALU_ALL_SIZES(ALU_SHIFT_SOME, shr)
ALU_ALL_SIZES(ALU_SHIFT_SOME, sar)
ALU_ROTATE_SOME(8) ALU_ROTATE_SOME(16) ALU_ROTATE_SOME(32) ALU_ROTATE_SOME(64)
ALU_ALL_SIZES(ALU_SHIFT, shl)
ALU_ALL_SIZES(ALU_SHIFT, shr)
ALU_ALL_SIZES(ALU_SHIFT, sar)
ALU_ALL_SIZES(ALU_SHIFT, rol)
ALU_ALL_SIZES(ALU_SHIFT, ror)
ALU_ALL_SIZES(ALU_SHIFT, rcl)
ALU_ALL_SIZES(ALU_SHIFT, rcr)
ALU_WORD_SIZES(ALU_DOUBLE_SHIFT, shld)
ALU_WORD_SIZES(ALU_DOUBLE_SHIFT, shrd)
/* clang-format on */

#endif
