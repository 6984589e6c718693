/*
 * XCR0, the XSAVE family and VEX where a host process cannot be brought: control register bits,
 * features taken away, the supervisor's forms, initial configurations.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <string.h>

#include "support/flat_cpu.h"
#include "x86/code/decode.h"
#include "x86/system/control.h"
#include "x86/vector/exec_simd.h"
#include "x86/vector/exec_x87.h"

#define NONE (-1)

#define OPERAND  0x10000u
#define PHYSICAL 0x100000u

#define VADDPS_YMM   "\xc5\xf4\x58\xc2"
#define VMOVUPS_LOAD "\xc5\xfc\x10\x03"
#define VMOVAPS_LOAD "\xc5\xfc\x28\x03"
#define VPADDD_YMM   "\xc5\xf5\xfe\xc2"
#define XSAVE        "\x0f\xae\x23"
#define XSAVEC       "\x0f\xc7\x23"
#define XSAVES       "\x0f\xc7\x2b"
#define XRSTOR       "\x0f\xae\x2b"
#define XRSTORS      "\x0f\xc7\x1b"
#define XSETBV       "\x0f\x01\xd1"
#define XGETBV       "\x0f\x01\xd0"

static struct flat_cpu *flat;
static struct cpu *cpu;
static uint64_t *header; /* of the XSAVE area at OPERAND */

/* 64-bit supervisor with all state enabled; RBX points to zeroed memory, EDX:EAX = 7. */
static int prepare(void **state)
{
    (void)state;
    flat = flat_create();
    if (!flat)
        return -1;
    cpu = flat->cpu;
    flat_long(flat, true, 0);
    flat_map(flat, OPERAND, PHYSICAL, FLAT_WRITE);
    memset(flat->memory + PHYSICAL, 0, PAGE_SIZE);
    header = (uint64_t *)(void *)(flat->memory + PHYSICAL + 512);
    cpu->cr4 |= CR4_OSXSAVE | CR4_OSFXSR;
    cpu->xcr0 = cpu_xcr0_mask(cpu);
    cpu->mxcsr = 0x1f80;
    cpu->gpr[REG_RBX].q = OPERAND;
    cpu->gpr[REG_RAX].q = 7;
    return 0;
}

static int finish(void **state)
{
    (void)state;
    flat_destroy(flat);
    return 0;
}

/* The vector raised, or NONE. */
static int run(const char *code, size_t size)
{
    struct decoded decoded;
    assert_int_equal(decode(cpu->mode, (const uint8_t *)code, size, &decoded), DECODE_OK);
    return decoded.insn.exec(cpu, &decoded.insn) == EXEC_LEAVE ? cpu->fault.vector : NONE;
}

#define RUN(code) run(code, sizeof(code) - 1)

static void needs_avx(void)
{
    if (!cpuid_has(&cpu->cpuid, FEATURE_AVX2))
        skip();
}

static void avx_is_enabled_by_xcr0(void **state)
{
    (void)state;
    needs_avx();
    assert_int_equal(RUN(VADDPS_YMM), NONE);
    cpu->cr0 |= CR0_TS;
    assert_int_equal(RUN(VADDPS_YMM), VECTOR_NM);
    cpu->xcr0 = 3;
    assert_int_equal(RUN(VADDPS_YMM), VECTOR_UD); /* before #NM */
    cpu->xcr0 = 7;
    cpu->cr4 &= ~CR4_OSXSAVE;
    assert_int_equal(RUN(VADDPS_YMM), VECTOR_UD);
}

static void extensions_can_be_taken_away(void **state)
{
    (void)state;
    needs_avx();
    assert_int_equal(RUN(VPADDD_YMM), NONE);
    cpuid_mask_xsave(&cpu->cpuid, cpuid_get_xsave(&cpu->cpuid) & ~BIT64(3));
    assert_int_equal(RUN(VPADDD_YMM), VECTOR_UD);
    assert_int_equal(RUN(VADDPS_YMM), NONE);
    cpuid_mask_xsave(&cpu->cpuid, ~BIT64(0)); /* without XSAVE there is nothing */
    assert_int_equal(cpuid_get_xsave(&cpu->cpuid), 0);
    assert_int_equal(RUN(XSAVE), VECTOR_UD);
}

static void only_aligned_moves_check(void **state)
{
    (void)state;
    needs_avx();
    cpu->gpr[REG_RBX].q = OPERAND + 16;
    assert_int_equal(RUN(VMOVUPS_LOAD), NONE);
    assert_int_equal(RUN(VMOVAPS_LOAD), VECTOR_GP);
    assert_int_equal(RUN(XSAVE), VECTOR_GP);
}

static void xsetbv_checks_the_value(void **state)
{
    (void)state;
    needs_avx();
    static const struct {
        uint64_t value;
        int vector;
    } cases[] = {{1, NONE}, {3, NONE}, {7, NONE}, {0, VECTOR_GP}, {5, VECTOR_GP}, {15, VECTOR_GP}};
    for (size_t i = 0; i < array_size(cases); i++) {
        cpu->gpr[REG_RCX].q = cpu->gpr[REG_RDX].q = 0;
        cpu->gpr[REG_RAX].q = cases[i].value;
        assert_int_equal(RUN(XSETBV), cases[i].vector);
        if (cases[i].vector == NONE)
            assert_int_equal(cpu->xcr0, cases[i].value);
    }
    cpu->gpr[REG_RCX].q = 2;
    assert_int_equal(RUN(XGETBV), VECTOR_GP);
    cpu->gpr[REG_RCX].q = 1;
    x87_initialize(&cpu->x87);
    memset(cpu->vector, 0, sizeof(cpu->vector));
    cpu->vector[3].q[3] = 1;
    assert_int_equal(RUN(XGETBV), NONE);
    assert_int_equal(cpu->gpr[REG_RAX].q, 4);
}

static void initial_state_is_not_saved(void **state)
{
    (void)state;
    needs_avx();
    memset(cpu->vector, 0, sizeof(cpu->vector));
    cpu->vector[2].q[2] = 0x1234;
    assert_int_equal(RUN(XSAVEC), NONE);
    assert_int_equal(header[0], 4);
    assert_int_equal(header[1], BIT64(63) | 7);
    memset(cpu->vector, 0x55, sizeof(cpu->vector));
    cpu->mxcsr = 0x1fa0;
    assert_int_equal(RUN(XRSTOR), NONE);
    assert_int_equal(cpu->vector[2].q[2], 0x1234);
    assert_int_equal(cpu->vector[2].q[0], 0);
    assert_int_equal(cpu->vector[15].q[3], 0);
    assert_int_equal(cpu->mxcsr, 0x1f80);
}

static void supervisor_forms(void **state)
{
    (void)state;
    needs_avx();
    cpu->vector[1].q[0] = 9;
    assert_int_equal(RUN(XSAVES), NONE);
    cpu->vector[1].q[0] = 0;
    assert_int_equal(RUN(XRSTORS), NONE);
    assert_int_equal(cpu->vector[1].q[0], 9);
    header[1] = 0; /* the standard format */
    assert_int_equal(RUN(XRSTORS), VECTOR_GP);
    assert_int_equal(RUN(XRSTOR), NONE);
    cpu->cpl = 3;
    assert_int_equal(RUN(XSAVES), VECTOR_GP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(avx_is_enabled_by_xcr0, prepare, finish),
        cmocka_unit_test_setup_teardown(extensions_can_be_taken_away, prepare, finish),
        cmocka_unit_test_setup_teardown(only_aligned_moves_check, prepare, finish),
        cmocka_unit_test_setup_teardown(xsetbv_checks_the_value, prepare, finish),
        cmocka_unit_test_setup_teardown(initial_state_is_not_saved, prepare, finish),
        cmocka_unit_test_setup_teardown(supervisor_forms, prepare, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
