/* States: registers with edge values and addresses in the arena, vector registers with numbers. */
#include <string.h>

#include "duel.h"
#include "insn/simd_values.h"
#include "x86/cpu.h"

uint64_t duel_random_value(void)
{
    static const uint64_t edges[] = {
        0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
        0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff,
    };
    const uint64_t r = simd_random();

    switch (r & 7) {
    case 0: return simd_random();
    case 1: return (uint8_t)simd_random();
    case 2: return edges[(r >> 8) % array_size(edges)] + (r >> 32) % 3 - 1;
    case 3: return 1ull << (r >> 8 & 63);
    case 4: return ~(1ull << (r >> 8 & 63));
    default: return edges[(r >> 8) % array_size(edges)];
    }
}

/* Mostly in the middle of the data; sometimes at a border, or where it must not be. */
static uint64_t random_linear(void)
{
    const uint64_t r = simd_random();
    const uint64_t low = r >> 16 & 15;

    switch (r & 63) {
    case 0: return DUEL_DATA + (r >> 20 & 15);
    case 1: return DUEL_DATA + 0x1000 - low;
    case 2: return DUEL_DATA + 0x3000 - low;
    case 3: return DUEL_READ_ONLY + (r >> 16 & 0xfff);
    case 4: return DUEL_STACK + 0x1000 - low;
    case 5: return DUEL_CODE + (r >> 16 & 0x1fff);
    case 6: return DUEL_STACK + 0x2000 - low;
    case 7: return DUEL_BASE + (r >> 16 & 0xffff);
    default: return DUEL_DATA + 0x800 + (r >> 16 & (r & 64 ? 0x1ff8 : 0x1fc0)) % 0x2000;
    }
}

uint64_t duel_random_address(unsigned code_bits)
{
    return random_linear() - (code_bits == 16 ? DUEL_BASE : 0);
}

static uint16_t random_selector(unsigned code_bits)
{
    static const uint16_t any[] = {0,           0,           DUEL_DS,   DUEL_DATA16, DUEL_SHORT,
                                   DUEL_DOWN16, DUEL_DOWN32, DUEL_READ, DUEL_CODE16, DUEL_CODE32};

    if (!simd_one_in(4))
        return code_bits == 16 ? DUEL_DATA16 : DUEL_DS;
    return any[simd_random() % array_size(any)];
}

static void random_segments(struct duel_state *s, unsigned code_bits)
{
    static const uint16_t stacks[] = {DUEL_DS, DUEL_DATA16, DUEL_SHORT, DUEL_DOWN16, DUEL_DOWN32};

    for (unsigned i = 0; i < 6; i++)
        s->selector[i] = random_selector(code_bits);
    s->selector[SEG_CS] = code_bits == 64 ? DUEL_CS64 : code_bits == 32 ? DUEL_CS32 : DUEL_CODE16;
    s->selector[SEG_SS] = code_bits == 16 ? DUEL_DATA16 : DUEL_DS;
    if (code_bits != 64 && simd_one_in(6))
        s->selector[SEG_SS] = stacks[simd_random() % array_size(stacks)];
    if (code_bits == 32 && simd_one_in(16))
        s->selector[SEG_CS] = DUEL_CODE32;
    /* A null selector in 32-bit code leaves no base; in 64-bit code it may be any. */
    for (unsigned i = 0; i < 2; i++)
        s->base[i] = code_bits == 64 && s->selector[SEG_FS + i] < 4 && simd_one_in(2) ? simd_random() & 0xfff : 0;
}

static void random_stack(struct duel_state *s)
{
    static const struct {
        uint16_t selector;
        uint32_t base;
    } bases[] = {{DUEL_DATA16, DUEL_BASE}, {DUEL_SHORT, DUEL_DATA}, {DUEL_DOWN16, DUEL_BASE}, {DUEL_DOWN32, DUEL_DATA - 0x1000}};
    uint64_t at = simd_one_in(16) ? DUEL_STACK + (simd_random() & 0x1fff) : DUEL_STACK + 0x1000 + (simd_random() & 0x3f8);

    if (s->selector[SEG_SS] == DUEL_SHORT)
        at = DUEL_DATA + (simd_random() & 0x17f8);
    for (unsigned i = 0; i < array_size(bases); i++)
        if (bases[i].selector == s->selector[SEG_SS])
            at -= bases[i].base;
    s->gpr[REG_RSP] = at;
}

static void random_vectors(struct duel_state *s)
{
    const uint32_t mxcsr = simd_one_in(2) ? 0x1f80 : simd_random_mxcsr(), mask = 0xffff;

    simd_random_x87(s->fxsave);
    s->fxsave[5] = 0;
    memcpy(s->fxsave + 24, &mxcsr, 4);
    memcpy(s->fxsave + 28, &mask, 4);
    for (unsigned i = 0; i < 32; i++) {
        uint64_t lane = simd_random_lane();
        memcpy(s->fxsave + 160 + 8 * i, &lane, 8);
        lane = simd_random_lane();
        memcpy(&s->upper[i / 2][8 * (i % 2)], &lane, 8);
    }
}

void duel_random_state(struct duel_state *s, unsigned code_bits)
{
    memset(s, 0, sizeof(*s));
    for (unsigned i = 0; i < (code_bits == 64 ? 16u : 8u); i++)
        s->gpr[i] = simd_one_in(2) ? duel_random_value() : duel_random_address(code_bits);
    if (code_bits != 64)
        for (unsigned i = 0; i < 8; i++)
            s->gpr[i] = (uint32_t)s->gpr[i];
    random_segments(s, code_bits);
    random_stack(s);
    random_vectors(s);
    s->rflags = RFLAGS_ONE | RFLAGS_IF |
                (simd_random() & (RFLAGS_ARITHMETIC | (simd_one_in(8) ? RFLAGS_DF : 0) | (simd_one_in(12) ? RFLAGS_AC : 0)));
    s->rip = (code_bits == 16 || s->selector[SEG_CS] == DUEL_CODE32 ? 0 : DUEL_BASE) + 0x400;
}
