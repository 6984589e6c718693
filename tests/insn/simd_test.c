/*
 * MMX and SSE against the host: every encoding of maps 0F, 0F38 and 0F3A with every mandatory
 * prefix that the family binds, register and memory forms, with REX.W and extended registers, in
 * random states.
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
    uint8_t prefix, map, opcode;
    bool wide, memory;
    uint8_t reg;  /* ModRM.reg where it extends the opcode */
    bool any_reg; /* it is an operand */
};

/* One encoding of it with random registers and immediate; memory is [RBX]. Register 4, which may be
 * RSP, is not used. */
static unsigned encode(const struct encoding *e, uint8_t *code)
{
    unsigned n = 0, reg = e->reg, rm = 3, rex = e->wide ? 0x48 : 0x40;
    unsigned numbers = simd_random() & 1 ? 15 : 7; /* without REX in half of the cases */
    if (e->any_reg)
        reg = (unsigned)simd_random() & numbers;
    if (!e->memory)
        rm = (unsigned)simd_random() & numbers;
    if (rm == 4)
        rm = 5;
    if (reg == 4 && e->any_reg)
        reg = 12;
    rex |= (reg & 8) >> 1 | (rm & 8) >> 3;
    if (e->prefix)
        code[n++] = e->prefix;
    if (rex != 0x40)
        code[n++] = (uint8_t)rex;
    code[n++] = 0x0f;
    if (e->map)
        code[n++] = e->map;
    code[n++] = e->opcode;
    code[n++] = (uint8_t)((e->memory ? 0 : 0xc0) | (reg & 7) << 3 | (rm & 7));
    code[n++] = (uint8_t)simd_random();
    return n;
}

static bool has_reg_operand(const struct simd_case *c)
{
    for (unsigned i = 0; i < c->decoded.zydis.operand_count_visible; i++) {
        if (c->decoded.operands[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
            return true;
    }
    return false;
}

static void test_encoding(struct encoding *e, unsigned rounds)
{
    struct simd_case c;
    uint8_t code[16] = {0};
    for (unsigned variant = 0; variant < 8; variant++) {
        unsigned size = encode(e, code);
        if (!simd_case_decode(&c, code, size) ||
            c.decoded.zydis.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
            return;
        e->any_reg = has_reg_operand(&c);
        if (e->any_reg && e->reg != 0) /* was covered with 0 */
            return;
        seen_mnemonic[c.decoded.insn.mnemonic] = 1;
        instructions++;
        if (!simd_case_compare(&c, rounds)) {
            failures++;
            return;
        }
    }
}

static void every_encoding_agrees_with_the_host(void **state)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2}, maps[] = {0, 0x38, 0x3a};
    unsigned rounds = simd_rounds(40);
    (void)state;
    simd_case_init();
    for (unsigned map = 0; map < 3; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++) {
            if (map == 0 && (opcode == 0x38 || opcode == 0x3a)) /* escapes to the other maps */
                continue;
            for (unsigned p = 0; p < 4; p++)
                for (unsigned form = 0; form < 32; form++) {
                    struct encoding e = {prefixes[p], maps[map], (uint8_t)opcode,
                                         form & 1,    form & 2,  (uint8_t)(form >> 2),
                                         false};
                    test_encoding(&e, rounds);
                }
        }
    unsigned mnemonics = 0;
    for (unsigned i = 0; i < array_size(seen_mnemonic); i++)
        mnemonics += seen_mnemonic[i];
    printf("%u encodings of %u mnemonics compared\n", instructions, mnemonics);
    assert_int_equal(failures, 0);
    assert_in_range(mnemonics, 250, 1000); /* the loop above really finds the families */
}

/* One encoding with every immediate: all of them get their stub. */
static void bind_all_immediates(const struct encoding *e)
{
    struct decoded decoded;
    uint8_t code[16] = {0};
    unsigned n = 0;
    if (e->prefix)
        code[n++] = e->prefix;
    if (e->wide)
        code[n++] = 0x48;
    code[n++] = 0x0f;
    if (e->map)
        code[n++] = e->map;
    code[n++] = e->opcode;
    code[n++] = (uint8_t)((e->memory ? 3 : 0xc1) | e->reg << 3);
    bool uses_vector = false;
    for (unsigned immediate = 0; immediate < 256; immediate++) {
        code[n] = (uint8_t)immediate;
        if (decode(MODE_64 | MODE_PROTECTED, code, 15, &decoded) != DECODE_OK)
            return;
        if (immediate == 0)
            uses_vector = decoded.insn.uses_vector;
        assert_int_equal(decoded.insn.uses_vector, uses_vector);
        if (decoded.zydis.raw.imm[0].size == 0)
            return;
    }
}

/* No guest can use up the room for stubs: here is everything it could ask for, and then still more
 * is there. */
static void all_stubs_have_room(void **state)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2}, maps[] = {0, 0x38, 0x3a};
    (void)state;
    for (unsigned map = 0; map < 3; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++)
            for (unsigned p = 0; p < 4; p++)
                for (unsigned form = 0; form < 32; form++) {
                    struct encoding e = {prefixes[p], maps[map], (uint8_t)opcode,
                                         form & 1,    form & 2,  (uint8_t)(form >> 2),
                                         false};
                    bind_all_immediates(&e);
                }
    struct stub_code code = {.bytes = {0x90, 0xc3}, .size = 2};
    assert_non_null(host_stub_get(&code));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_encoding_agrees_with_the_host),
                                       cmocka_unit_test(all_stubs_have_room)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
