/*
 * Rules of the SIMD and x87 families that a host process cannot be brought into: control register
 * bits, other modes, and the state of the host's own units.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <string.h>

#include "support/flat_cpu.h"
#include "x86/code/decode.h"
#include "x86/vector/exec_simd.h"
#include "x86/vector/exec_x87.h"

#define NONE (-1)

/* Where the operands are: guest address and physical address. */
#define OPERAND  0x10000u
#define PHYSICAL 0x100000u

static struct flat_cpu *flat;
static struct cpu *cpu;
static uint8_t *memory;

/* A 64-bit processor as after FNINIT, RBX pointing to memory full of A5. */
static int prepare(void **state)
{
    (void)state;
    if (!flat)
        flat = flat_create();
    if (!flat)
        return -1;
    cpu = flat->cpu;
    memory = flat->memory + PHYSICAL;
    memset(memory, 0xa5, PAGE_SIZE);
    flat_long(flat, true, 0);
    flat_map(flat, OPERAND, PHYSICAL, FLAT_WRITE);
    memset(cpu->vector, 0, sizeof(cpu->vector));
    cpu->mxcsr = 0x1f80;
    x87_initialize(&cpu->x87);
    cpu->gpr[REG_RBX].q = OPERAND;
    return 0;
}

static int finish(void **state)
{
    (void)state;
    flat_destroy(flat);
    return 0;
}

/* The vector raised, or NONE. The instruction is executed by itself, so that control bits can be
 * any. */
static int run(const char *code, size_t size)
{
    struct decoded decoded;
    assert_int_equal(decode(cpu->mode, (const uint8_t *)code, size, &decoded), DECODE_OK);
    assert_true(decoded.insn.uses_vector);
    return decoded.insn.exec(cpu, &decoded.insn) == EXEC_NEXT ? NONE : cpu->fault.vector;
}

#define RUN(code) run(code, sizeof(code) - 1)

/* clang-format off */
#define PADDB_XMM    "\x66\x0f\xfc\xc1"
#define MOVUPS       "\x0f\x10\x03"
#define MOVUPS_STORE "\x0f\x11\x03"
#define ADDPS        "\x0f\x58\xc1"
#define DIVSS        "\xf3\x0f\x5e\xc1"
#define PADDB_MM     "\x0f\xfc\xc1"
#define CVTPI2PS_MM  "\x0f\x2a\xc1"
#define LDMXCSR      "\x0f\xae\x13"
#define EMMS         "\x0f\x77"
#define FLD1         "\xd9\xe8"
#define FWAIT        "\x9b"
#define FNSTSW_AX    "\xdf\xe0"
#define FNINIT       "\xdb\xe3"
#define FNCLEX       "\xdb\xe2"
#define FNSTENV      "\xd9\x33"
#define FNSTENV16    "\x66\xd9\x33"
#define FLDENV       "\xd9\x23"
#define FLDENV16     "\x66\xd9\x23"
#define FNSAVE       "\xdd\x33"
#define FRSTOR       "\xdd\x23"
#define FXSAVE       "\x0f\xae\x03"
#define FXRSTOR      "\x0f\xae\x0b"

/* SDM 3A 2.5 (CR0.EM, MP, TS), 13.1; which exception each kind of instruction raises. */
static const struct {
    const char *code;
    size_t size;
    int em, ts, no_osfxsr, em_ts;
} control_rules[] = {
#define ROW(code, em, ts, no_osfxsr, em_ts) {code, sizeof(code) - 1, em, ts, no_osfxsr, em_ts}
    ROW(PADDB_XMM,   VECTOR_UD, VECTOR_NM, VECTOR_UD, VECTOR_UD),
    ROW(MOVUPS,      VECTOR_UD, VECTOR_NM, VECTOR_UD, VECTOR_UD),
    ROW(MOVUPS_STORE,VECTOR_UD, VECTOR_NM, VECTOR_UD, VECTOR_UD),
    ROW(ADDPS,       VECTOR_UD, VECTOR_NM, VECTOR_UD, VECTOR_UD),
    ROW(LDMXCSR,     VECTOR_UD, VECTOR_NM, VECTOR_UD, VECTOR_UD),
    ROW(CVTPI2PS_MM, VECTOR_UD, VECTOR_NM, VECTOR_UD, VECTOR_UD),
    ROW(PADDB_MM,    VECTOR_UD, VECTOR_NM, NONE,      VECTOR_UD),
    ROW(EMMS,        VECTOR_UD, VECTOR_NM, NONE,      VECTOR_UD),
    ROW(FLD1,        VECTOR_NM, VECTOR_NM, NONE,      VECTOR_NM),
    ROW(FNINIT,      VECTOR_NM, VECTOR_NM, NONE,      VECTOR_NM),
    ROW(FNSTSW_AX,   VECTOR_NM, VECTOR_NM, NONE,      VECTOR_NM),
    ROW(FXSAVE,      VECTOR_NM, VECTOR_NM, NONE,      VECTOR_NM),
    ROW(FWAIT,       NONE,      VECTOR_NM, NONE,      VECTOR_NM),
#undef ROW
};
/* clang-format on */

static void control_register_bits_decide(void **state)
{
    uint32_t valid_mxcsr = 0x1f80;
    for (size_t i = 0; i < array_size(control_rules); i++) {
        const char *code = control_rules[i].code;
        size_t size = control_rules[i].size;
        prepare(state);
        memcpy(memory, &valid_mxcsr, 4);
        assert_int_equal(run(code, size), NONE);
        cpu->cr0 |= CR0_EM;
        assert_int_equal(run(code, size), control_rules[i].em);
        cpu->cr0 |= CR0_TS;
        assert_int_equal(run(code, size), control_rules[i].em_ts);
        cpu->cr0 &= ~CR0_EM;
        assert_int_equal(run(code, size), control_rules[i].ts);
        cpu->cr0 &= ~CR0_TS;
        memcpy(memory, &valid_mxcsr,
               4); /* LDMXCSR's operand, which FXSAVE and the store have overwritten */
        cpu->cr4 &= ~CR4_OSFXSR;
        assert_int_equal(run(code, size), control_rules[i].no_osfxsr);
    }
}

/* What a partition takes out of CPUID is #UD, before anything else is looked at. */
static void features_taken_away_are_undefined(void **state)
{
    static const struct {
        enum cpu_feature feature;
        const char *code;
        size_t size;
    } rows[] = {
#define ROW(feature, code) {feature, code, sizeof(code) - 1}
        ROW(FEATURE_SSE3, "\xf2\x0f\xf0\x03"),           /* LDDQU */
        ROW(FEATURE_SSE3, "\xf2\x0f\x7c\xc1"),           /* HADDPS */
        ROW(FEATURE_SSE3, "\xdd\x0b"),                   /* FISTTP */
        ROW(FEATURE_SSSE3, "\x0f\x38\x00\xc1"),          /* PSHUFB, MMX */
        ROW(FEATURE_SSSE3, "\x66\x0f\x38\x00\x03"),      /* PSHUFB */
        ROW(FEATURE_SSE4_1, "\x66\x0f\x38\x2a\x03"),     /* MOVNTDQA */
        ROW(FEATURE_SSE4_1, "\x66\x0f\x3a\x14\x03\x01"), /* PEXTRB to memory */
        ROW(FEATURE_SSE4_1, "\x66\x0f\x3a\x08\xc1\x01"), /* ROUNDPS */
        ROW(FEATURE_SSE4_2, "\x66\x0f\x38\x37\xc1"),     /* PCMPGTQ */
        ROW(FEATURE_AES, "\x66\x0f\x38\xdc\xc1"),        /* AESENC */
        ROW(FEATURE_PCLMULQDQ, "\x66\x0f\x3a\x44\xc1\x01"),
#undef ROW
    };
    for (size_t i = 0; i < array_size(rows); i++) {
        prepare(state);
        x87_set_top(&cpu->x87, 7);
        cpu->x87.tag = 0x80;
        assert_int_equal(run(rows[i].code, rows[i].size), NONE);
        cpuid_set(&cpu->cpuid, rows[i].feature, false);
        assert_int_equal(run(rows[i].code, rows[i].size), VECTOR_UD);
        cpuid_set(&cpu->cpuid, rows[i].feature, true);
    }
}

static void wait_ignores_ts_without_mp(void **state)
{
    (void)state;
    cpu->cr0 = CR0_PE | CR0_TS | CR0_NE;
    assert_int_equal(RUN(FWAIT), NONE);
    assert_int_equal(RUN(FLD1), VECTOR_NM);
}

static void pending_exception_waits_for_a_waiting_instruction(void **state)
{
    (void)state;
    cpu->x87.control &= (uint16_t)~X87_IE;
    cpu->x87.status = X87_IE | X87_ES | X87_B;
    assert_int_equal(RUN(FLD1), VECTOR_MF);
    assert_int_equal(RUN(FWAIT), VECTOR_MF);
    assert_int_equal(RUN(PADDB_MM), VECTOR_MF);
    assert_int_equal(RUN(EMMS), VECTOR_MF);
    assert_int_equal(RUN(FNSTSW_AX), NONE);
    assert_int_equal(cpu->gpr[REG_RAX].w, X87_IE | X87_ES | X87_B);
    assert_int_equal(RUN(PADDB_XMM), NONE);
    assert_int_equal(RUN(FXSAVE), NONE);
    cpu->cr0 &= ~CR0_NE; /* without a FERR# pin: the same */
    assert_int_equal(RUN(FLD1), VECTOR_MF);
    assert_int_equal(RUN(FNCLEX), NONE);
    assert_int_equal(RUN(FLD1), NONE);
}

static void simd_exception_needs_osxmmexcpt(void **state)
{
    (void)state;
    cpu->mxcsr = 0x1f80 & ~0x200u; /* divide by zero unmasked */
    cpu->vector[0].d[0] = 0x3f800000;
    assert_int_equal(RUN(DIVSS), VECTOR_XM);
    assert_int_equal(cpu->mxcsr, 0x1d84);
    assert_int_equal(cpu->vector[0].d[0], 0x3f800000);
    cpu->cr4 &= ~CR4_OSXMMEXCPT;
    assert_int_equal(RUN(DIVSS), VECTOR_UD);
}

/* The host's control words stay as they were, also when they are not the usual ones. */
static void host_control_words_are_kept(void **state)
{
    uint16_t control = 0x0c7f, after = 0;                  /* round to zero, single precision */
    uint32_t mxcsr = 0x7fc0, after_mxcsr = 0, saved_mxcsr; /* round to zero, DAZ */
    uint64_t one = 0x3ff0000000000000;
    (void)state;
    __asm__ volatile("stmxcsr %0\n\tldmxcsr %1\n\tfldcw %2"
                     : "=m"(saved_mxcsr)
                     : "m"(mxcsr), "m"(control));
    cpu->mxcsr = 0x1f80;
    int add = RUN(ADDPS), load = RUN(FLD1), mmx = RUN(PADDB_MM), save = RUN(FNSAVE),
        restore = RUN(FRSTOR);
    cpu->mxcsr = 0x1f80 & ~0x200u;
    cpu->vector[0].d[0] = 0x3f800000;
    int divide = RUN(DIVSS);
    __asm__ volatile("stmxcsr %0\n\tfnstcw %1\n\tldmxcsr %2\n\tfninit"
                     : "=m"(after_mxcsr), "=m"(after)
                     : "m"(saved_mxcsr));
    assert_int_equal(after, control);
    assert_int_equal(after_mxcsr & MXCSR_CONTROL, mxcsr & MXCSR_CONTROL);
    assert_true(add == NONE && load == NONE && mmx == NONE && save == NONE && restore == NONE &&
                divide == VECTOR_XM);
    /* and the guest's arithmetic did not follow them: 1 + 2^-53 rounds to nearest, up with the next
     * bit */
    cpu->vector[0].q[0] = one;
    cpu->vector[1].q[0] = 0x3ca8000000000000; /* 1.5 * 2^-53 */
    cpu->mxcsr = 0x1f80;
    assert_int_equal(RUN("\xf2\x0f\x58\xc1"), NONE);
    assert_true(cpu->vector[0].q[0] == one + 1);
}

static void environment_formats(void **state)
{
    static const uint16_t protected_16[7] = {0x037f, 0x3800, 0x3fff, 0x5678, 0, 0xdef0, 0};
    static const uint32_t protected_32[7] = {0xffff037f, 0xffff3800, 0xffff3fff, 0x12345678,
                                             0x01230000, 0x9abcdef0, 0xffff0000};
    static const uint16_t real_16[7] = {0x037f, 0x3800, 0x3fff, 0x5678, 0x4123, 0xdef0, 0xc000};
    static const uint32_t real_32[7] = {0xffff037f, 0xffff3800, 0xffff3fff, 0xffff5678,
                                        0x01234123, 0xffffdef0, 0x09abc000};
    const struct {
        const char *store, *load;
        size_t size;
        bool real;
        const void *expected;
        size_t expected_size;
        uint32_t ip, dp;
        uint16_t opcode;
    } cases[] = {
        {FNSTENV16, FLDENV16, 3, false, protected_16, 14, 0x5678, 0xdef0, 0},
        {FNSTENV, FLDENV, 2, false, protected_32, 28, 0x12345678, 0x9abcdef0, 0x123},
        {FNSTENV16, FLDENV16, 3, true, real_16, 14, 0x45678, 0xcdef0, 0x123},
        {FNSTENV, FLDENV, 2, true, real_32, 28, 0x12345678, 0x9abcdef0, 0x123},
    };
    for (size_t i = 0; i < array_size(cases); i++) {
        prepare(state);
        x87_set_top(&cpu->x87, 7);
        cpu->x87.tag = 0x80;
        cpu->x87.st[0].mantissa = 1ull << 63;
        cpu->x87.st[0].exponent = 0x3fff;
        cpu->x87.instruction_pointer = 0x12345678;
        cpu->x87.data_pointer = 0x9abcdef0;
        cpu->x87.opcode = 0x123;
        if (cases[i].real)
            cpu->cr0 &= ~CR0_PE;
        assert_int_equal(run(cases[i].store, cases[i].size), NONE);
        assert_memory_equal(memory, cases[i].expected, cases[i].expected_size);
        assert_int_equal(memory[cases[i].expected_size], 0xa5);
        x87_initialize(&cpu->x87);
        assert_int_equal(run(cases[i].load, cases[i].size), NONE);
        assert_int_equal(cpu->x87.status, 0x3800);
        assert_int_equal(cpu->x87.tag, 0x80);
        assert_int_equal(cpu->x87.st[0].exponent,
                         0x3fff); /* the register it was, found through TOP again */
        assert_true(cpu->x87.instruction_pointer == cases[i].ip &&
                    cpu->x87.data_pointer == cases[i].dp);
        assert_int_equal(cpu->x87.opcode, cases[i].opcode);
    }
}

static void fxsave_outside_64_bit_mode_leaves_the_upper_registers(void **state)
{
    (void)state;
    cpu->mode = MODE_CS32 | MODE_PROTECTED;
    memset(cpu->vector, 0x11, sizeof(cpu->vector));
    assert_int_equal(RUN(FXSAVE), NONE);
    assert_int_equal(memory[160], 0x11);
    assert_int_equal(memory[287], 0x11);
    assert_int_equal(memory[288], 0xa5);
    memset(memory + 160, 0x22, 256);
    assert_int_equal(RUN(FXRSTOR), NONE);
    assert_int_equal(cpu->vector[7].b[15], 0x22);
    assert_int_equal(cpu->vector[8].b[0], 0x11);
}

/* 32-bit code: no REX prefixes (40..4F are INC and DEC), 32-bit addresses and general registers. */
static void protected_mode_executes_the_same(void **state)
{
    (void)state;
    cpu->mode = MODE_CS32 | MODE_SS32 | MODE_PROTECTED;
    cpu->gpr[REG_RAX].q = 0x12345678;
    assert_int_equal(RUN("\x66\x0f\x6e\xc8"), NONE); /* MOVD XMM1, EAX */
    assert_int_equal(RUN("\x66\x0f\xfe\xc9"), NONE); /* PADDD XMM1, XMM1 */
    assert_int_equal(RUN("\x66\x0f\x7e\xca"), NONE); /* MOVD EDX, XMM1 */
    assert_true(cpu->gpr[REG_RDX].q == 0x2468acf0);
    assert_int_equal(RUN("\x66\x0f\x7f\x43\x10"), NONE); /* MOVDQA [EBX + 10h], XMM0 */
    assert_int_equal(memory[0x10] | memory[0x1f], 0);
    assert_int_equal(memory[0x20], 0xa5);
    cpu->gpr[REG_RSI].q = 0x40;
    assert_int_equal(RUN("\x66\x0f\x3a\x14\x0c\x33\x01"), NONE); /* PEXTRB [EBX + ESI], XMM1, 1 */
    assert_int_equal(memory[0x40], 0xac);
    assert_int_equal(RUN("\xf2\x0f\x2a\xd2"), NONE); /* CVTSI2SD XMM2, EDX */
    assert_int_equal(RUN("\xdd\x43\x10"), NONE);     /* FLD QWORD [EBX + 10h] */
    assert_int_equal(cpu->x87.tag, 0x80);
}

static void fxsave_area_is_aligned(void **state)
{
    (void)state;
    cpu->gpr[REG_RBX].q += 8;
    assert_int_equal(RUN(FXSAVE), VECTOR_GP);
    assert_int_equal(RUN(FXRSTOR), VECTOR_GP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(control_register_bits_decide, prepare),
        cmocka_unit_test_setup(features_taken_away_are_undefined, prepare),
        cmocka_unit_test_setup(wait_ignores_ts_without_mp, prepare),
        cmocka_unit_test_setup(pending_exception_waits_for_a_waiting_instruction, prepare),
        cmocka_unit_test_setup(simd_exception_needs_osxmmexcpt, prepare),
        cmocka_unit_test_setup(host_control_words_are_kept, prepare),
        cmocka_unit_test_setup(environment_formats, prepare),
        cmocka_unit_test_setup(fxsave_outside_64_bit_mode_leaves_the_upper_registers, prepare),
        cmocka_unit_test_setup(protected_mode_executes_the_same, prepare),
        cmocka_unit_test_setup(fxsave_area_is_aligned, prepare),
    };
    return cmocka_run_group_tests(tests, NULL, finish);
}
