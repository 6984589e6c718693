/*
 * Words of 64 bits that stand for pages, many in a row: how many are set, and which ones, in as few instructions as the host's
 * processor can do it. How many are set is as good as random, and a wrong guess of the processor's costs more than a word: so
 * several numbers are written at a time, and as many count as there were.
 *
 * Each loop over words is compiled three times, by a constant `way` (BITS_WAYS), and a caller asks for the best one once.
 */
#ifndef OWHP_MEM_WORD_BITS_H
#define OWHP_MEM_WORD_BITS_H

#include "util/compiler.h"
#include "util/types.h"

#include <immintrin.h>

enum bits_way {
    BITS_PLAIN,  /* any x86-64 */
    BITS_COUNTS, /* with instructions that count and take bits: BMI, POPCNT */
    BITS_VECTOR, /* with AVX-512 VBMI2 */
    BITS_WAYS,
};

/* The best one that the host knows; bits_way_use makes it another one (tests). Any thread. */
enum bits_way bits_way(void);
void bits_way_use(enum bits_way way);

/* For a function that is compiled for a way. */
#define BITS_COUNTS_TARGET __attribute__((target("bmi,popcnt")))
#define BITS_VECTOR_TARGET __attribute__((target("bmi,popcnt,avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2")))

/* The number of the lowest bit that is set; of 0, some number below 64. */
static always_inline unsigned lowest_bit(uint64_t word)
{
    return (unsigned)__builtin_ctzll(word | (uint64_t)1 << 63);
}

static always_inline unsigned take_lowest(uint64_t *word)
{
    const unsigned number = lowest_bit(*word);

    *word &= *word - 1;
    return number;
}

static always_inline unsigned count_bits(uint64_t word, const enum bits_way way)
{
    if (way != BITS_PLAIN)
        return (unsigned)__builtin_popcountll(word);
    word -= word >> 1 & 0x5555555555555555;
    word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
    return (unsigned)(((word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f) * 0x0101010101010101 >> 56);
}

/* The numbers of the bits, ascending, a byte each. */
BITS_VECTOR_TARGET static inline __m512i bits_as_bytes(uint64_t word)
{
    static const uint8_t all[64] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                    22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
                                    44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
    return _mm512_maskz_compress_epi8(word, _mm512_loadu_si512(all));
}

/* ---- lists of numbers ---- */

enum { BITS_LIST_MORE = 32 }; /* numbers that are written and do not count */

BITS_VECTOR_TARGET static inline void list_sixteen(uint32_t *to, uint32_t first, __m512i numbers)
{
    _mm512_storeu_si512(to, _mm512_add_epi32(_mm512_cvtepu8_epi32(_mm512_castsi512_si128(numbers)),
                                             _mm512_set1_epi32((int)first)));
}

BITS_VECTOR_TARGET static inline void list_bits_vector(uint32_t *to, unsigned count, uint32_t first, uint64_t word)
{
    __m512i numbers = bits_as_bytes(word);

    list_sixteen(to, first, numbers);
    list_sixteen(to + 16, first, _mm512_alignr_epi64(numbers, numbers, 2));
    for (unsigned at = 32; unlikely(at < count); at += 16) {
        numbers = _mm512_alignr_epi64(numbers, numbers, 2);
        list_sixteen(to + at, first, _mm512_alignr_epi64(numbers, numbers, 2));
    }
}

/* first + the number of each bit, ascending; returns how many. */
static always_inline unsigned list_bits(uint32_t *to, uint32_t first, uint64_t word, const enum bits_way way)
{
    const unsigned count = count_bits(word, way);

    if (way == BITS_VECTOR) {
        list_bits_vector(to, count, first, word);
        return count;
    }
    for (;; to += 4) {
        to[0] = first + take_lowest(&word);
        to[1] = first + take_lowest(&word);
        to[2] = first + take_lowest(&word);
        to[3] = first + take_lowest(&word);
        if (likely(!word))
            return count;
    }
}

#endif
