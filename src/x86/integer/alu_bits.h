/*
 * Bit tests, scans, counts, BMI1, BMI2, ADX, CRC32.
 *
 * Old instructions run on the host. BMI and ADX are computed in C: a host may lack them, and their
 * definitions are short. Where the manual leaves their flags undefined they are 0 or as after TEST.
 */
#ifndef OWHP_X86_ALU_BITS_H
#define OWHP_X86_ALU_BITS_H

#include "x86/integer/alu.h"

/* BT BTS BTR BTC on a value; the host takes the index modulo the operand size. */
#define ALU_BIT(name, bits, suffix)                                                                \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint##bits##_t index,   \
                                                         uint32_t *aflags)                         \
    {                                                                                              \
        uint16_t flags = (uint16_t)*aflags;                                                        \
        __asm__(ALU_RESTORE #name suffix " %[index], %[a]\n\t" ALU_CAPTURE                         \
                : [a] "+r"(a), "+&a"(flags)                                                        \
                : [index] "r"(index)                                                               \
                : "cc");                                                                           \
        *aflags = flags;                                                                           \
        return a;                                                                                  \
    }

/*
 * BSF BSR: with a source of 0 the destination is, on silicon, what it was. The whole 64-bit register
 * goes through the host so that its upper part ends up as the host leaves it.
 */
#define ALU_SCAN(name, bits, suffix)                                                               \
    static always_inline uint64_t alu_##name##bits(uint64_t reg, uint##bits##_t a, uint32_t *aflags) \
    {                                                                                              \
        uint16_t flags = (uint16_t)*aflags;                                                        \
        __asm__(ALU_RESTORE #name suffix " %[a], %" ALU_SCAN_##bits "[reg]\n\t" ALU_CAPTURE        \
                : [reg] "+&r"(reg), "+&a"(flags)                                                   \
                : [a] "r"(a)                                                                       \
                : "cc");                                                                           \
        *aflags = flags;                                                                           \
        return reg;                                                                                \
    }
#define ALU_SCAN_16 "w"
#define ALU_SCAN_32 "k"
#define ALU_SCAN_64 "q"

/* POPCNT: ZF by the source, all others 0. */
#define ALU_POPCNT(name, bits, suffix)                                                             \
    static always_inline uint##bits##_t alu_popcnt##bits(uint##bits##_t a, uint32_t *aflags)       \
    {                                                                                              \
        *aflags = a ? 0x0200 : 0x0200 | AFLAG_ZF;                                                  \
        return (uint##bits##_t)__builtin_popcountll(a);                                            \
    }

/* TZCNT LZCNT: CF for a source of 0 (the count is then the size), ZF for a count of 0. */
#define ALU_COUNT_ZEROS(name, bits, suffix)                                                        \
    static always_inline uint##bits##_t alu_tzcnt##bits(uint##bits##_t a, uint32_t *aflags)        \
    {                                                                                              \
        const unsigned n = a ? (unsigned)__builtin_ctzll(a) : bits;                                \
        *aflags = 0x0200 | (a ? 0 : AFLAG_CF) | (n ? 0 : AFLAG_ZF);                                \
        return (uint##bits##_t)n;                                                                  \
    }                                                                                              \
    static always_inline uint##bits##_t alu_lzcnt##bits(uint##bits##_t a, uint32_t *aflags)        \
    {                                                                                              \
        const unsigned n = a ? (unsigned)__builtin_clzll(a) - (64 - bits) : bits;                  \
        *aflags = 0x0200 | (a ? 0 : AFLAG_CF) | (n ? 0 : AFLAG_ZF);                                \
        return (uint##bits##_t)n;                                                                  \
    }

/* SF and ZF by the result, OF 0, the given carry: how the BMI instructions set flags. */
#define ALU_BMI(name, bits, suffix)                                                                \
    static always_inline uint##bits##_t alu_bmi_result##bits(uint##bits##_t a, bool carry,         \
                                                             uint32_t *aflags)                     \
    {                                                                                              \
        alu_test##bits(a, a, aflags);                                                              \
        *aflags |= carry ? AFLAG_CF : 0;                                                           \
        return a;                                                                                  \
    }                                                                                              \
    static always_inline uint##bits##_t alu_andn##bits(uint##bits##_t a, uint##bits##_t b,         \
                                                       uint32_t *aflags)                           \
    {                                                                                              \
        return alu_bmi_result##bits(~a & b, false, aflags);                                        \
    }                                                                                              \
    static always_inline uint##bits##_t alu_blsi##bits(uint##bits##_t a, uint32_t *aflags)         \
    {                                                                                              \
        return alu_bmi_result##bits(a & (0 - a), a != 0, aflags);                                  \
    }                                                                                              \
    static always_inline uint##bits##_t alu_blsr##bits(uint##bits##_t a, uint32_t *aflags)         \
    {                                                                                              \
        return alu_bmi_result##bits(a & (a - 1), a == 0, aflags);                                  \
    }                                                                                              \
    static always_inline uint##bits##_t alu_blsmsk##bits(uint##bits##_t a, uint32_t *aflags)       \
    {                                                                                              \
        return alu_bmi_result##bits(a ^ (a - 1), a == 0, aflags);                                  \
    }                                                                                              \
    /* control: start in bits 0-7, length in bits 8-15; ZF by the result, CF and OF 0 */           \
    static always_inline uint##bits##_t alu_bextr##bits(uint##bits##_t a, uint##bits##_t control,  \
                                                        uint32_t *aflags)                          \
    {                                                                                              \
        const unsigned start = control & 0xff, length = (control >> 8) & 0xff;                     \
        uint##bits##_t r = start < bits ? a >> start : 0;                                          \
        if (length < bits)                                                                         \
            r &= ((uint##bits##_t)1 << length) - 1;                                                \
        return alu_bmi_result##bits(r, false, aflags);                                             \
    }                                                                                              \
    /* clear the bits from `index` on; CF when there are none */                                   \
    static always_inline uint##bits##_t alu_bzhi##bits(uint##bits##_t a, uint##bits##_t index,     \
                                                       uint32_t *aflags)                           \
    {                                                                                              \
        const unsigned n = index & 0xff;                                                           \
        if (n < bits)                                                                              \
            a &= ((uint##bits##_t)1 << n) - 1;                                                     \
        return alu_bmi_result##bits(a, n >= bits, aflags);                                         \
    }

/* The BMI2 instructions that leave the flags alone. */
#define ALU_BMI2(name, bits, suffix)                                                               \
    static inline uint##bits##_t alu_pdep##bits(uint##bits##_t a, uint##bits##_t mask)             \
    {                                                                                              \
        uint##bits##_t r = 0;                                                                      \
        for (; mask; mask &= mask - 1, a >>= 1)                                                    \
            if (a & 1)                                                                             \
                r |= mask & (0 - mask);                                                            \
        return r;                                                                                  \
    }                                                                                              \
    static inline uint##bits##_t alu_pext##bits(uint##bits##_t a, uint##bits##_t mask)             \
    {                                                                                              \
        uint##bits##_t r = 0, to = 1;                                                              \
        for (; mask; mask &= mask - 1, to <<= 1)                                                   \
            if (a & mask & (0 - mask))                                                             \
                r |= to;                                                                           \
        return r;                                                                                  \
    }                                                                                              \
    static always_inline uint##bits##_t alu_rorx##bits(uint##bits##_t a, unsigned count)           \
    {                                                                                              \
        count &= bits - 1;                                                                         \
        return count ? a >> count | a << (bits - count) : a;                                       \
    }                                                                                              \
    static always_inline uint##bits##_t alu_shlx##bits(uint##bits##_t a, unsigned count)           \
    {                                                                                              \
        return a << (count & (bits - 1));                                                          \
    }                                                                                              \
    static always_inline uint##bits##_t alu_shrx##bits(uint##bits##_t a, unsigned count)           \
    {                                                                                              \
        return a >> (count & (bits - 1));                                                          \
    }                                                                                              \
    static always_inline uint##bits##_t alu_sarx##bits(uint##bits##_t a, unsigned count)           \
    {                                                                                              \
        return (uint##bits##_t)((int##bits##_t)a >> (count & (bits - 1)));                         \
    }                                                                                              \
    static always_inline uint##bits##_t alu_mulx##bits(uint##bits##_t a, uint##bits##_t b,         \
                                                       uint##bits##_t *high)                       \
    {                                                                                              \
        const uint128_t product = (uint128_t)a * b;                                                \
        *high = (uint##bits##_t)(product >> bits);                                                 \
        return (uint##bits##_t)product;                                                            \
    }

/* ADCX ADOX: add with one flag as carry, in and out. */
#define ALU_ADX(name, bits, suffix)                                                                \
    static always_inline uint##bits##_t alu_adx##bits(uint##bits##_t a, uint##bits##_t b,          \
                                                      uint32_t *aflags, uint32_t flag)             \
    {                                                                                              \
        uint##bits##_t sum;                                                                        \
        const bool carry1 = __builtin_add_overflow(a, b, &sum);                                    \
        const bool carry2 = __builtin_add_overflow(sum, (uint##bits##_t)((*aflags & flag) != 0), &sum); \
        *aflags = (*aflags & ~flag) | (carry1 || carry2 ? flag : 0);                               \
        return sum;                                                                                \
    }                                                                                              \
    static always_inline uint##bits##_t alu_adcx##bits(uint##bits##_t a, uint##bits##_t b,         \
                                                       uint32_t *aflags)                           \
    {                                                                                              \
        return alu_adx##bits(a, b, aflags, AFLAG_CF);                                              \
    }                                                                                              \
    static always_inline uint##bits##_t alu_adox##bits(uint##bits##_t a, uint##bits##_t b,         \
                                                       uint32_t *aflags)                           \
    {                                                                                              \
        return alu_adx##bits(a, b, aflags, AFLAG_OF);                                              \
    }

#define ALU_DWORD_SIZES(X, name) X(name, 32, "l") X(name, 64, "q")

/* clang-format off */
ALU_WORD_SIZES(ALU_BIT, bt)
ALU_WORD_SIZES(ALU_BIT, bts)
ALU_WORD_SIZES(ALU_BIT, btr)
ALU_WORD_SIZES(ALU_BIT, btc)
ALU_WORD_SIZES(ALU_SCAN, bsf)
ALU_WORD_SIZES(ALU_SCAN, bsr)
ALU_WORD_SIZES(ALU_POPCNT, popcnt)
ALU_WORD_SIZES(ALU_COUNT_ZEROS, count)
ALU_DWORD_SIZES(ALU_BMI, bmi)
ALU_DWORD_SIZES(ALU_BMI2, bmi2)
ALU_DWORD_SIZES(ALU_ADX, adx)
/* clang-format on */

/* BSWAP of 16 bits is undefined in the manual and gives 0 on silicon. */
static always_inline uint16_t alu_bswap16(uint16_t a)
{
    (void)a;
    return 0;
}
static always_inline uint32_t alu_bswap32(uint32_t a) { return __builtin_bswap32(a); }
static always_inline uint64_t alu_bswap64(uint64_t a) { return __builtin_bswap64(a); }

/*
 * CRC32 (SDM 2A): polynomial 11EDC6F41h, bit-reflected, so 82F63B78h here. Accumulates `size` bytes
 * of `a`, low byte first.
 */
static inline uint32_t alu_crc32(uint32_t crc, uint64_t a, unsigned size)
{
    for (unsigned i = 0; i < size; i++, a >>= 8) {
        crc ^= (uint8_t)a;
        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return crc;
}

#endif
