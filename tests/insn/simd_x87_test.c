/*
 * x87 against the host: every encoding of D8..DF, with and without operand-size prefix, FXSAVE and
 * FXRSTOR, in random states (stack depth, tags, special values, precision and rounding, unmasked
 * and pending exceptions).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "simd_case.h"

static unsigned failures, instructions;

static void test_bytes(const uint8_t *code, unsigned size, unsigned rounds)
{
    struct simd_case c;
    if (!simd_case_decode(&c, code, size))
        return;
    instructions++;
    if (!simd_case_compare(&c, rounds))
        failures++;
}

static void every_x87_encoding_agrees_with_the_host(void **state)
{
    unsigned rounds = simd_rounds(400);
    (void)state;
    simd_case_init();
    for (unsigned opcode = 0xd8; opcode < 0xe0; opcode++) {
        for (unsigned modrm = 0; modrm < 256; modrm++) {
            if (modrm < 0xc0 && (modrm & 0xc7) != 3) /* memory: [RBX] */
                continue;
            uint8_t code[] = {0x66, (uint8_t)opcode, (uint8_t)modrm, 0};
            test_bytes(code + 1, 3, rounds);
            if (modrm < 0xc0)
                test_bytes(code, 4, rounds);
        }
    }
    test_bytes((const uint8_t[]){0x9b}, 1, rounds);
    printf("%u encodings compared\n", instructions);
    assert_int_equal(failures, 0);
    assert_in_range(instructions, 450, 600);
}

static void fxsave_and_fxrstor_agree_with_the_host(void **state)
{
    unsigned rounds = simd_rounds(2000);
    (void)state;
    simd_case_init();
    failures = 0;
    for (unsigned reg = 0; reg < 2; reg++) {
        uint8_t code[] = {0x48, 0x0f, 0xae, (uint8_t)(reg << 3 | 3)};
        test_bytes(code, 4, rounds);
        test_bytes(code + 1, 3, rounds);
    }
    assert_int_equal(failures, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_x87_encoding_agrees_with_the_host),
                                       cmocka_unit_test(fxsave_and_fxrstor_agree_with_the_host)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
