/*
 * VEX encodings against the host: every opcode of maps 0F, 0F38 and 0F3A with every prefix, W, L
 * and use of vvvv that the family binds, register and memory forms, in random states; all 16 YMM
 * registers are compared.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "simd_case.h"
#include "x86/vector/host_stub.h"

static unsigned failures, instructions;
static uint8_t seen_mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1];

struct encoding {
    uint8_t map, opcode, pp;
    bool wide, is_256, memory, uses_vvvv;
    uint8_t reg; /* ModRM.reg */
};

/* One encoding of it; memory is [RBX], or with a vector index [RBX + index]. Register 4, which may
 * be RSP, is not used for what may be a general register. */
static unsigned encode(const struct encoding *e, bool sib, bool any_reg, uint8_t *code)
{
    unsigned n = 0, reg = e->reg, rm = 3, index = 0;
    unsigned vvvv = e->uses_vvvv ? (unsigned)simd_random() & 15 : 0;
    if (any_reg)
        reg = (unsigned)simd_random() & 15;
    if (!e->memory)
        rm = (unsigned)simd_random() & 15;
    if (rm == 4)
        rm = 5;
    if (reg == 4 && any_reg)
        reg = 12;
    if (sib)
        index = (unsigned)simd_random() & 15;
    code[n++] = 0xc4;
    code[n++] = (uint8_t)((reg & 8 ? 0 : 0x80) | (index & 8 ? 0 : 0x40) | (rm & 8 ? 0 : 0x20) |
                          e->map);
    code[n++] = (uint8_t)(e->wide << 7 | (~vvvv & 15) << 3 | e->is_256 << 2 | e->pp);
    code[n++] = e->opcode;
    code[n++] = (uint8_t)((e->memory ? 0 : 0xc0) | (reg & 7) << 3 | (sib ? 4 : rm & 7));
    if (sib)
        code[n++] = (uint8_t)(((unsigned)simd_random() & 3) << 6 | (index & 7) << 3 | 3);
    code[n++] = (uint8_t)simd_random();
    return n;
}

static bool has_operand(const struct simd_case *c, ZydisOperandEncoding encoding)
{
    for (unsigned i = 0; i < c->decoded.zydis.operand_count_visible; i++) {
        if (c->decoded.operands[i].encoding == encoding)
            return true;
    }
    return false;
}

/* Bound at all, in some choice of registers? (Gathers refuse equal ones.) */
static bool find(const struct encoding *e, bool sib, bool any_reg, struct simd_case *c)
{
    uint8_t code[16] = {0};
    for (unsigned attempt = 0; attempt < (sib ? 20 : 1); attempt++) {
        unsigned size = encode(e, sib, any_reg, code);
        if (simd_case_decode(c, code, size) &&
            c->decoded.zydis.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
            return true;
    }
    return false;
}

static void test_encoding(const struct encoding *e, bool sib, unsigned rounds)
{
    struct simd_case c;
    if (!find(e, sib, sib, &c))
        return;
    if (sib && !c.decoded.insn.memory.is_vsib)
        return;
    bool any_reg = has_operand(&c, ZYDIS_OPERAND_ENCODING_MODRM_REG);
    if (any_reg && e->reg != 0) /* was covered with 0 */
        return;
    for (unsigned variant = 0; variant < 6; variant++) {
        if (!find(e, sib, any_reg, &c))
            continue;
        seen_mnemonic[c.decoded.insn.mnemonic] = 1;
        instructions++;
        if (!simd_case_compare(&c, rounds)) {
            failures++;
            return;
        }
    }
}

typedef void visit(const struct encoding *e, bool sib, unsigned rounds);

static void every_encoding(visit *visitor, unsigned rounds)
{
    for (unsigned map = 1; map <= 3; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++)
            for (unsigned form = 0; form < 512; form++) {
                struct encoding e = {.map = (uint8_t)map,
                                     .opcode = (uint8_t)opcode,
                                     .pp = form & 3,
                                     .wide = form & 4,
                                     .is_256 = form & 8,
                                     .memory = form & 16,
                                     .uses_vvvv = form & 32,
                                     .reg = (uint8_t)(form >> 6)};
                visitor(&e, false, rounds);
                if (e.memory && e.reg == 0)
                    visitor(&e, true, rounds);
            }
}

static void every_vex_encoding_agrees_with_the_host(void **state)
{
    (void)state;
    simd_case_init();
    if (!native_has_avx) {
        printf("SKIPPED: the host has no AVX\n");
        skip();
    }
    every_encoding(test_encoding, simd_rounds(12));
    unsigned mnemonics = 0;
    for (unsigned i = 0; i < array_size(seen_mnemonic); i++)
        mnemonics += seen_mnemonic[i];
    printf("%u encodings of %u mnemonics compared\n", instructions, mnemonics);
    assert_int_equal(failures, 0);
    assert_in_range(mnemonics, 340, 1000);
}

/* One encoding with every immediate: all of them get their stub. */
static void bind_all_immediates(const struct encoding *e, bool sib, unsigned rounds)
{
    struct simd_case c;
    (void)rounds;
    if (sib || (e->uses_vvvv && e->reg != 0) || !find(e, false, false, &c))
        return;
    for (unsigned immediate = 0; immediate < 256; immediate++) {
        struct decoded decoded;
        c.code[c.size - 1] = (uint8_t)immediate;
        if (c.decoded.zydis.raw.imm[0].size == 0)
            return;
        assert_int_equal(decode(MODE_64 | MODE_PROTECTED | MODE_LONG, c.code, c.size, &decoded),
                         DECODE_OK);
        assert_true(decoded.insn.uses_vector);
    }
}

/* No guest can use up the room for stubs. */
static void all_stubs_have_room(void **state)
{
    (void)state;
    every_encoding(bind_all_immediates, 0);
    struct stub_code code = {.bytes = {0x90, 0x90, 0xc3}, .size = 3};
    assert_non_null(host_stub_get(&code));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_vex_encoding_agrees_with_the_host),
                                       cmocka_unit_test(all_stubs_have_room)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
