/* Values for vector and x87 registers: the edges of every format, and anything. */
#include "simd_values.h"

#include <string.h>

#include "util/compiler.h"
#include "x86/vector/exec_simd_trap.h"

static uint64_t seed = 0x9e3779b97f4a7c15ull;
static const uint8_t *food;
static size_t food_size;

void simd_seed(uint64_t change)
{
    seed ^= change;
}

void simd_restart(uint64_t from)
{
    seed = (from + 1) * 0x9e3779b97f4a7c15ull;
    for (unsigned i = 0; i < 8; i++)
        (void)simd_random();
}

void simd_feed(const uint8_t *data, size_t size)
{
    food = data;
    food_size = size;
}

uint64_t simd_random(void)
{
    uint64_t eaten;

    if (food_size >= sizeof(eaten)) {
        memcpy(&eaten, food, sizeof(eaten));
        food += sizeof(eaten);
        food_size -= sizeof(eaten);
        seed ^= eaten | !seed;
        return eaten;
    }
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull;
}

bool simd_one_in(unsigned n)
{
    return simd_random() % n == 0;
}

/* ---- values ---- */

static uint32_t simd_random_float(void)
{
    static const uint32_t pool[] = {0,          0x80000000, 1,          0x80000001, 0x007fffff,
                                    0x00800000, 0x3f800000, 0xbf800000, 0x7f7fffff, 0x7f800000,
                                    0xff800000, 0x7fc00000, 0x7f800001, 0xffc12345, 0x4f000000,
                                    0xcf000000, 0x5f000000, 0x40490fdb, 0x3f000000, 0x00ffffff,
                                    0x20000000, 0x1fffffff, 0x4effffff};
    return simd_one_in(3) ? (uint32_t)simd_random() : pool[simd_random() % array_size(pool)];
}

static uint64_t simd_random_double(void)
{
    static const uint64_t pool[] = {0,
                                    1ull << 63,
                                    1,
                                    (1ull << 63) | 1,
                                    0x000fffffffffffff,
                                    0x0010000000000000,
                                    0x3ff0000000000000,
                                    0xbff0000000000000,
                                    0x7fefffffffffffff,
                                    0x7ff0000000000000,
                                    0xfff0000000000000,
                                    0x7ff8000000000000,
                                    0x7ff0000000000001,
                                    0x41e0000000000000,
                                    0xc1e0000000000000,
                                    0x43e0000000000000,
                                    0x400921fb54442d18,
                                    0x3810000000000000,
                                    0x380fffffe0000000,
                                    0x47efffffe0000000,
                                    0x2000000000000000,
                                    0x3690000000000000};
    return simd_one_in(3) ? simd_random() : pool[simd_random() % array_size(pool)];
}

uint64_t simd_random_lane(void)
{
    switch (simd_random() % 5) {
    case 0:
        return simd_random();
    case 1:
        return simd_random_double();
    case 2:
        return simd_random() % 40 | simd_random() % 40 << 32;
    case 3:
        return simd_random() & simd_random() & 0x00ff00ff00ff00ffull;
    default:
        return simd_random_float() | (uint64_t)simd_random_float() << 32;
    }
}

void simd_random_extended(uint8_t to[16])
{
    static const struct {
        uint64_t mantissa;
        uint16_t exponent;
    } pool[] = {{0, 0},
                {0, 0x8000},
                {1ull << 63, 0x3fff},
                {1ull << 63, 0xbfff},
                {1ull << 63, 0x7fff},
                {1ull << 63, 0xffff},
                {0xc000000000000000, 0x7fff},
                {0xc000000000000000, 0xffff},
                {0x8000000000000001, 0x7fff},
                {1, 0},
                {1ull << 63, 0},
                {~0ull, 0x7ffe},
                {1ull << 63, 1},
                {1ull << 62, 0x4000},
                {0, 0x7fff},
                {0x4000000000000000, 0x7fff},
                {0, 0x3fff},
                {0xc90fdaa22168c235, 0x4000},
                {0xd000000000000000, 0x4005},
                {1ull << 63, 0x401d},
                {1ull << 63, 0xc01e},
                {1ull << 63, 0x403d},
                {0x8000000000000000, 0x3f80},
                {0xfffffe0000000000, 0x3f80},
                {0xffffffffffffffff, 0x403a},
                {1ull << 63, 0x43ff},
                {1ull << 63, 0x407f},
                {1ull << 63, 0x3c00},
                {0x9000000000000000, 0x3ffe}};
    uint64_t mantissa = simd_random() | 1ull << 63;
    uint16_t exponent = (uint16_t)(0x3fff + (simd_random() % 130) - 65) | (simd_one_in(2) ? 0x8000 : 0);
    if (simd_one_in(2)) {
        size_t i = simd_random() % array_size(pool);
        mantissa = pool[i].mantissa;
        exponent = pool[i].exponent;
    } else if (simd_one_in(8)) {
        mantissa = simd_random();
        exponent = (uint16_t)simd_random();
    }
    memset(to, 0, 16);
    memcpy(to, &mantissa, 8);
    memcpy(to + 8, &exponent, 2);
}

uint32_t simd_random_mxcsr(void)
{
    uint32_t value = MXCSR_MASKS;
    if (simd_one_in(2))
        value |= (uint32_t)simd_random() & (0xe000 | 0x40);
    if (simd_one_in(2))
        value |= (uint32_t)simd_random() & MXCSR_FLAGS;
    if (simd_one_in(3))
        value &= ~((uint32_t)simd_random() & MXCSR_MASKS);
    return value;
}

void simd_random_x87(uint8_t *image)
{
    uint16_t control = 0x037f, status = 0;
    uint8_t tag = simd_one_in(4) ? (uint8_t)simd_random() : simd_one_in(4) ? 0 : 0xff;
    if (simd_one_in(2))
        control = (uint16_t)((control & 0xf0ffu) | (simd_random() & 0xf00u));
    if (simd_one_in(3))
        control &= (uint16_t) ~(simd_random() & 0x3f);
    if (simd_one_in(2))
        status = (uint16_t)(simd_random() & 0x7fff);
    else if (simd_one_in(2))
        status = (uint16_t)(simd_random() & 0x7f40);
    if (!simd_one_in(8)) /* mostly nothing pending */
        status &= (uint16_t) ~(~control & 0x3f);
    status &= (uint16_t)~0x8080; /* ES and B follow from the rest */
    if (status & ~control & 0x3f)
        status |= 0x8080;
    memcpy(image, &control, 2);
    memcpy(image + 2, &status, 2);
    image[4] = tag;
    image[6] = (uint8_t)simd_random();
    image[7] = (uint8_t)(simd_random() & 7);
    for (unsigned i = 8; i < 24; i++)
        image[i] = i % 8 < 6 ? (uint8_t)simd_random() & 0x7f : 0;
    for (unsigned i = 0; i < 8; i++)
        simd_random_extended(image + 32 + 16 * i);
}
