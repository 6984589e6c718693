/*
 * Every feature that CPUID can show, and what shows it: an instruction that is #UD without the feature, a bit of CR4 or EFER
 * that is #GP, an MSR that is unknown, a page size that is reserved. Features without such a sign say why.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "guest.h"
#include "util/compiler.h"
#include "x86/system/control.h"
#include "x86/system/msr.h"

/* <sys/wait.h> brings names of registers that cpu.h has too. */
extern pid_t waitpid(pid_t pid, int *status, int options);

enum { CODE = 0x8000, DATA = 0x10000, ROOT = 0x20000 };

enum sign {
    INSTRUCTION, /* executes with the feature, #UD without */
    ALWAYS,      /* executes; every x86-64 processor has it, so it cannot be taken away */
    IN_CR4, IN_EFER, IN_MSR, PAGE_1G,
    ELSEWHERE,   /* nothing to execute: the note says what else */
};

struct row {
    enum cpu_feature feature;
    enum sign sign;
    uint64_t value; /* a bit of CR4 or EFER, an MSR's number */
    uint8_t bytes[8];
    const char *note;
};

/* clang-format off */
#define CODE_ROW(name, ...) {FEATURE_##name, INSTRUCTION, 0, {__VA_ARGS__}, NULL}
#define BASE_ROW(name, ...) {FEATURE_##name, ALWAYS, 0, {__VA_ARGS__}, NULL}
#define CR4_ROW(name, bit)  {FEATURE_##name, IN_CR4, bit, {0}, NULL}
#define MSR_ROW(name, msr)  {FEATURE_##name, IN_MSR, msr, {0}, NULL}
#define EFER_ROW(name, bit) {FEATURE_##name, IN_EFER, bit, {0}, NULL}
#define NOTE(name, text)    {FEATURE_##name, ELSEWHERE, 0, {0}, text}
static const struct row rows[] = {
    CODE_ROW(SSE3, 0xf2, 0x0f, 0x7c, 0xc1),                    /* haddps xmm0, xmm1 */
    CODE_ROW(PCLMULQDQ, 0x66, 0x0f, 0x3a, 0x44, 0xc1, 0),
    CODE_ROW(MONITOR, 0x0f, 0x01, 0xc9),                       /* mwait */
    CODE_ROW(SSSE3, 0x66, 0x0f, 0x38, 0x00, 0xc1),             /* pshufb */
    CODE_ROW(FMA, 0xc4, 0xe2, 0x71, 0x98, 0xc2),               /* vfmadd132ps */
    CODE_ROW(CX16, 0x48, 0x0f, 0xc7, 0x0b),                    /* cmpxchg16b [rbx] */
    CR4_ROW(PCID, CR4_PCIDE),
    CODE_ROW(SSE4_1, 0x66, 0x0f, 0x38, 0x17, 0xc1),            /* ptest */
    CODE_ROW(SSE4_2, 0x66, 0x0f, 0x38, 0x37, 0xc1),            /* pcmpgtq */
    NOTE(X2APIC, "the local APIC of the port"),
    CODE_ROW(MOVBE, 0x0f, 0x38, 0xf0, 0x03),
    CODE_ROW(POPCNT, 0xf3, 0x0f, 0xb8, 0xc1),
    NOTE(TSC_DEADLINE, "the local APIC of the port"),
    CODE_ROW(AES, 0x66, 0x0f, 0x38, 0xdc, 0xc1),               /* aesenc */
    CR4_ROW(XSAVE, CR4_OSXSAVE),
    CODE_ROW(AVX, 0xc5, 0xf0, 0x58, 0xc2),                     /* vaddps */
    CODE_ROW(F16C, 0xc4, 0xe2, 0x79, 0x13, 0xc1),              /* vcvtph2ps */
    CODE_ROW(RDRAND, 0x0f, 0xc7, 0xf0),
    NOTE(HYPERVISOR, "leaf 0x40000000"),
    BASE_ROW(FPU, 0xd9, 0xe8),
    CR4_ROW(VME, CR4_VME), CR4_ROW(DE, CR4_DE), CR4_ROW(PSE, CR4_PSE), CR4_ROW(TSC, CR4_TSD),
    BASE_ROW(MSR, 0x0f, 0x32),
    CR4_ROW(PAE, CR4_PAE), CR4_ROW(MCE, CR4_MCE),
    BASE_ROW(CX8, 0x0f, 0xc7, 0x0b),
    MSR_ROW(APIC, MSR_APIC_BASE), MSR_ROW(SEP, MSR_SYSENTER_CS), MSR_ROW(MTRR, MSR_MTRR_CAP),
    CR4_ROW(PGE, CR4_PGE), MSR_ROW(MCA, MSR_MCG_CAP),
    BASE_ROW(CMOV, 0x0f, 0x44, 0xc1),
    MSR_ROW(PAT, MSR_PAT),
    NOTE(PSE36, "tests/walk: 4 MiB pages above 4 GiB"),
    BASE_ROW(CLFSH, 0x0f, 0xae, 0x3b),
    BASE_ROW(MMX, 0x0f, 0xef, 0xc0),
    CR4_ROW(FXSR, CR4_OSFXSR), CR4_ROW(SSE, CR4_OSXMMEXCPT),
    BASE_ROW(SSE2, 0x66, 0x0f, 0xef, 0xc0),
    NOTE(SS, "memory is coherent"), NOTE(HTT, "more than one processor"),
    CR4_ROW(FSGSBASE, CR4_FSGSBASE), MSR_ROW(TSC_ADJUST, MSR_TSC_ADJUST),
    CODE_ROW(BMI1, 0xc4, 0xe2, 0x70, 0xf2, 0xc2),              /* andn */
    CODE_ROW(AVX2, 0xc5, 0xf5, 0xfe, 0xc2),                    /* vpaddd ymm */
    NOTE(FDP_EXCPTN_ONLY, "says what the host's x87 does"),
    CR4_ROW(SMEP, CR4_SMEP),
    CODE_ROW(BMI2, 0xc4, 0xe2, 0x70, 0xf5, 0xc2),              /* bzhi */
    NOTE(ERMS, "says that REP MOVSB is fast"),
    CODE_ROW(INVPCID, 0x66, 0x0f, 0x38, 0x82, 0x0b),
    NOTE(NO_FCS_FDS, "says that x87 pointers have no selectors"),
    CODE_ROW(RDSEED, 0x0f, 0xc7, 0xf8),
    CODE_ROW(ADX, 0x66, 0x0f, 0x38, 0xf6, 0xc1),               /* adcx */
    CR4_ROW(SMAP, CR4_SMAP),
    CODE_ROW(CLFLUSHOPT, 0x66, 0x0f, 0xae, 0x3b), CODE_ROW(CLWB, 0x66, 0x0f, 0xae, 0x33),
    CODE_ROW(SHA, 0x0f, 0x38, 0xc8, 0xc1),                     /* sha1nexte */
    CR4_ROW(UMIP, CR4_UMIP), CR4_ROW(PKU, CR4_PKE),
    CODE_ROW(VAES, 0xc4, 0xe2, 0x75, 0xdc, 0xc2),              /* vaesenc ymm */
    CODE_ROW(VPCLMULQDQ, 0xc4, 0xe3, 0x75, 0x44, 0xc2, 0),     /* ymm */
    CR4_ROW(LA57, CR4_LA57),
    CODE_ROW(RDPID, 0xf3, 0x0f, 0xc7, 0xf8),
    CR4_ROW(PKS, CR4_PKS),
    NOTE(FSRM, "says that short REP MOVSB is fast"),
    MSR_ROW(SPEC_CTRL, MSR_SPEC_CTRL),
    NOTE(STIBP, "a bit of SPEC_CTRL that has no effect"), MSR_ROW(ARCH_CAPABILITIES, MSR_ARCH_CAPABILITIES),
    NOTE(BHI_CTRL, "a bit of SPEC_CTRL that has no effect"),
    CODE_ROW(XSAVEOPT, 0x0f, 0xae, 0x33), CODE_ROW(XSAVEC, 0x0f, 0xc7, 0x23),
    NOTE(XGETBV1, "#GP, below"),
    CODE_ROW(XSAVES, 0x0f, 0xc7, 0x2b),
    CODE_ROW(LAHF64, 0x9f),
    NOTE(LZCNT, "without it the opcode is BSR, below"), NOTE(PREFETCHW, "a hint: not #UD without"),
    EFER_ROW(SYSCALL, EFER_SCE), EFER_ROW(NX, EFER_NXE),
    {FEATURE_PAGE1GB, PAGE_1G, 0, {0}, NULL},
    CODE_ROW(RDTSCP, 0x0f, 0x01, 0xf9),
    EFER_ROW(LM, EFER_LME),
    NOTE(TSC_INVARIANT, "says that the TSC's rate does not change"),
    NOTE(RDCL_NO, "says what the processor does not leak"), NOTE(IBRS_ALL, "as above"), NOTE(L1DFL_NO, "as above"),
    NOTE(SSB_NO, "as above"), NOTE(MDS_NO, "as above"), NOTE(PSCHANGE_NO, "as above"), NOTE(TAA_NO, "as above"),
    NOTE(SBDR_NO, "as above"), NOTE(FBSDP_NO, "as above"), NOTE(PSDP_NO, "as above"), NOTE(BHI_NO, "as above"),
    NOTE(PBRSB_NO, "as above"), NOTE(GDS_NO, "as above"), NOTE(RFDS_NO, "as above"),
};

static const struct {
    enum cpu_feature feature;
    const char *name;
} all[] = {
#define X(name, word, bit, bank) {FEATURE_##name, #name},
    CPU_FEATURE_LIST(X)
#undef X
};
/* clang-format on */

static const char *name_of(enum cpu_feature feature)
{
    for (size_t i = 0; i < array_size(all); i++)
        if (all[i].feature == feature)
            return all[i].name;
    return "?";
}

/* ---- 64-bit code at CPL 0 with everything enabled ---- */

static struct guest guest;

static void put64(gpa_t at, uint64_t value) { memcpy(guest.memory + at, &value, 8); }

static void begin(void)
{
    struct cpu *cpu = guest.cpu;

    cpu_reset(cpu, false);
    put64(ROOT, (ROOT + 0x1000) | 3);
    put64(ROOT + 0x1000, (ROOT + 0x2000) | 3);
    put64(ROOT + 0x2000, 0x83);                 /* 2 MiB at 0 */
    put64(ROOT + 0x1000 + 8, 0x40000083);       /* 1 GiB at 1 GiB */
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        cpu->segment[i] = (struct segment){.limit = 0xffffffff, .selector = 0x10, .attributes = 0xc093};
    cpu->segment[SEG_CS].attributes = 0xa09b;
    cpu->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE;
    cpu->cr4 = CR4_PAE | (cpu_cr4_mask(cpu) & (CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE));
    cpu->xcr0 = cpu_xcr0_mask(cpu) & 7;
    cpu->efer = EFER_LME | EFER_LMA;
    cpu->cr3 = ROOT;
    cpu->gpr[REG_RBX].q = DATA;
    cpu_control_changed(cpu);
}

/* The vector that the instruction raises, -1 when it executes. */
static int execute(const uint8_t *bytes)
{
    begin();
    memcpy(guest.memory + CODE, bytes, 8);
    cpu_verify_code(guest.cpu);
    guest.cpu->rip = CODE;
    guest.cpu->gpr[REG_RCX].q = bytes[0] == 0x0f && bytes[1] == 0x32 ? MSR_EFER : 0;
    atomic_store(&guest.cpu->request, 0);
    return cpu_step(guest.cpu) == LEAVE_FAULT ? guest.cpu->fault.vector : -1;
}

static int fault_of(bool done)
{
    return done ? -1 : guest.cpu->fault.vector;
}

/* The vector with which the sign of the feature is refused now; -1: it is there. */
static int look_for(const struct row *row)
{
    struct cpu *cpu = guest.cpu;
    uint64_t value;

    switch (row->sign) {
    case INSTRUCTION:
    case ALWAYS: return execute(row->bytes);
    case IN_CR4:
        begin();
        if (row->value == CR4_PAE || row->value == CR4_LA57) { /* fixed in long mode */
            cpu->cr0 = CR0_PE | CR0_ET;
            cpu->efer = 0;
            cpu->cr4 = 0;
            cpu_control_changed(cpu);
        }
        return fault_of(cpu_set_cr4(cpu, cpu->cr4 | row->value));
    case IN_EFER:
        begin();
        cpu->cr0 &= ~CR0_PG;
        cpu->efer = 0;
        cpu_control_changed(cpu);
        return fault_of(cpu_set_efer(cpu, row->value));
    case IN_MSR:
        begin();
        return msr_read(cpu, (uint32_t)row->value, &value) == MSR_UNKNOWN ? VECTOR_GP : -1;
    default: /* PAGE_1G: mov al, [1 GiB] is a device's memory here */
        return execute((const uint8_t[8]){0x8a, 0x04, 0x25, 0x00, 0x00, 0x00, 0x40, 0});
    }
}

static int refusal(const struct row *row)
{
    return row->sign == INSTRUCTION ? VECTOR_UD : row->sign == PAGE_1G ? VECTOR_PF : VECTOR_GP;
}

/* ---- the cases ---- */

static void test_every_feature_has_a_row(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < array_size(all); i++) {
        unsigned found = 0;
        for (size_t k = 0; k < array_size(rows); k++)
            found += rows[k].feature == all[i].feature;
        if (found != 1)
            fail_msg("%s: %u rows", all[i].name, found);
    }
    assert_int_equal(array_size(rows), array_size(all));
}

/* Shown: it works. Hidden: it does not, and CPUID does not show it. */
static void test_features_show_and_hide(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < array_size(rows); i++) {
        const struct row *row = &rows[i];
        const struct cpuid_config saved = guest.cpu->cpuid;

        if (row->sign == ELSEWHERE || !cpuid_has(&saved, row->feature))
            continue;
        int got = look_for(row);
        if (got != -1)
            fail_msg("%s is shown and raises vector %d", name_of(row->feature), got);
        if (row->sign == ALWAYS)
            continue;
        cpuid_set(&guest.cpu->cpuid, row->feature, false);
        got = look_for(row);
        guest.cpu->cpuid = saved;
        if (got != refusal(row))
            fail_msg("%s is hidden and raises vector %d, not %d", name_of(row->feature), got, refusal(row));
    }
}

/* Each feature's bit in CPUID is what its configuration says, and no leaf shows a bit that is no feature's. */
static void test_bits_of_cpuid(void **unused)
{
    static const uint32_t dynamic[CPUID_WORDS] = {[CPUID_1_ECX] = 1u << 27, [CPUID_7_ECX] = 1u << 4};
    uint32_t leaf, subleaf, out[4], known[CPUID_WORDS] = {0};
    unsigned reg;

    (void)unused;
    begin();
    guest.cpu->cpuid.processor_count = 2;
    for (size_t i = 0; i < array_size(all); i++)
        known[all[i].feature >> 5] |= 1u << (all[i].feature & 31);
    for (unsigned word = 0; cpuid_word_place(word, &leaf, &subleaf, &reg); word++) {
        cpuid_read(guest.cpu, leaf, subleaf, out);
        uint32_t shown = out[reg];
        if (word == CPUID_81_EDX && guest.cpu->cpuid.is_amd)
            shown &= ~0x0183f3ffu; /* leaf 1 repeated */
        assert_int_equal(shown & ~known[word] & ~dynamic[word], 0);
        assert_int_equal(shown & known[word], guest.cpu->cpuid.word[word]);
    }
    /* OSXSAVE and OSPKE follow CR4. */
    for (unsigned on = 0; on < 2; on++) {
        guest.cpu->cr4 = on ? CR4_PAE | CR4_OSXSAVE | CR4_PKE : CR4_PAE;
        cpuid_read(guest.cpu, 1, 0, out);
        assert_int_equal(out[2] >> 27 & 1, on);
        cpuid_read(guest.cpu, 7, 0, out);
        assert_int_equal(out[2] >> 4 & 1, on);
    }
}

static void test_opcodes_with_another_meaning(void **unused)
{
    const uint8_t lzcnt[8] = {0xf3, 0x0f, 0xbd, 0xc1}, xgetbv[8] = {0x0f, 0x01, 0xd0};

    (void)unused;
    for (unsigned on = 0; on < 2; on++) {
        cpuid_set(&guest.cpu->cpuid, FEATURE_LZCNT, on);
        cpuid_set(&guest.cpu->cpuid, FEATURE_XGETBV1, on);
        begin();
        memcpy(guest.memory + CODE, lzcnt, 8);
        cpu_invalidate_code(guest.cpu, CODE, 8);
        guest.cpu->rip = CODE;
        guest.cpu->gpr[REG_RCX].q = 0x10;
        (void)cpu_step(guest.cpu);
        assert_int_equal(guest.cpu->gpr[REG_RAX].q, on ? 27 : 4);
        begin();
        memcpy(guest.memory + CODE, xgetbv, 8);
        cpu_invalidate_code(guest.cpu, CODE, 8);
        guest.cpu->rip = CODE;
        guest.cpu->gpr[REG_RCX].q = 1;
        const enum cpu_leave leave = cpu_step(guest.cpu);
        assert_int_equal(leave == LEAVE_FAULT, !on);
        if (!on)
            assert_int_equal(guest.cpu->fault.vector, VECTOR_GP);
    }
}

/* What hangs on something hidden goes with it, and what every processor has cannot be hidden. */
static void test_hiding(void **unused)
{
    struct cpuid_config *config = &guest.cpu->cpuid;

    (void)unused;
    cpuid_hide(config, CPUID_1_EDX, ~0u);
    assert_true(cpuid_has(config, FEATURE_FPU) && cpuid_has(config, FEATURE_SSE2));
    cpuid_hide(config, CPUID_1_ECX, 1u << 26); /* XSAVE */
    assert_false(cpuid_has(config, FEATURE_XSAVE) || cpuid_has(config, FEATURE_AVX) || cpuid_has(config, FEATURE_PKU));
    assert_int_equal(cpu_xcr0_mask(guest.cpu), 3);
    assert_true(cpuid_has(config, FEATURE_POPCNT));
}

/* What is not there unless CPUID results show it, nobody else can give. */
static void test_offering(void **unused)
{
    struct cpuid_config config;
    uint64_t banks[2];

    (void)unused;
    cpuid_init(&config);
    assert_false(cpuid_has(&config, FEATURE_MONITOR));
    cpuid_get_banks(&config, banks);
    cpuid_offer(&config, CPUID_1_ECX, 1u << 3);
    assert_true(cpuid_has(&config, FEATURE_MONITOR));
    uint64_t same[2];
    cpuid_get_banks(&config, same);
    assert_memory_equal(same, banks, sizeof(banks));
    cpuid_mask_banks(&config, banks);
    cpuid_mask_xsave(&config, cpuid_get_xsave(&config));
    assert_true(cpuid_has(&config, FEATURE_MONITOR));
    cpuid_offer(&config, CPUID_1_ECX, 0);
    assert_true(cpuid_has(&config, FEATURE_MONITOR));
    cpuid_hide(&config, CPUID_1_ECX, 1u << 3);
    assert_false(cpuid_has(&config, FEATURE_MONITOR));
    cpuid_set(&config, FEATURE_POPCNT, false);
    cpuid_offer(&config, CPUID_1_ECX, 1u << 23);
    assert_false(cpuid_has(&config, FEATURE_POPCNT));
}

/* ---- leaves without feature bits ---- */

static void test_other_leaves(void **unused)
{
    uint32_t out[4];
    struct cpu *cpu = guest.cpu;

    (void)unused;
    cpu->cpuid.processor_count = 3;
    cpu->cpuid.apic_id = 2;
    if (!cpu->cpuid.is_amd) {
        cpuid_read(cpu, 4, 0, out); /* level 1 data cache: 32 KiB = 8 ways x 64 sets x 64 bytes; three processors take 2 bits */
        assert_int_equal(out[0], 1 | 1 << 5 | 1 << 8 | 3u << 26);
        assert_int_equal(((out[1] >> 22) + 1) * ((out[1] & 0xfff) + 1) * (out[2] + 1), 32 << 10);
        cpuid_read(cpu, 4, 4, out);
        assert_int_equal(out[0] & 31, 0);
        cpuid_read(cpu, 0x14, 0, out); /* no processor trace */
        assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
    }
    cpuid_read(cpu, 5, 0, out);
    assert_true(out[0] == 64 && out[1] == 64 && out[2] == 3 && out[3] == 0x10);
    cpuid_set(&cpu->cpuid, FEATURE_MONITOR, false);
    cpuid_read(cpu, 5, 0, out);
    assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
    cpuid_read(cpu, 0xb, 0, out);
    assert_true(out[0] == 0 && out[1] == 1 && out[2] == 0x100 && out[3] == 2);
    cpuid_read(cpu, 0xb, 1, out);
    assert_true(out[0] == 2 && out[1] == 3 && out[2] == 0x201 && out[3] == 2);
    cpuid_read(cpu, 0xb, 2, out);
    assert_true(out[0] == 0 && out[1] == 0 && out[2] == 2 && out[3] == 2);
    cpuid_read(cpu, 0xd, 9, out);
    assert_true(out[0] == 8 && out[1] == 832 && out[2] == 0);
    cpuid_read(cpu, 0xd, 0, out);
    assert_true(out[0] == cpu_xcr0_mask(cpu) && out[2] == 840 && out[3] == 0);
    cpuid_read(cpu, 0xd, 3, out);
    assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
    cpuid_read(cpu, 0x80000008, 0, out);
    assert_int_equal(out[0], 40 | 57 << 8);
}

/* ---- random numbers ---- */

static void test_random_numbers_differ(void **unused)
{
    const uint8_t rdrand[8] = {0x48, 0x0f, 0xc7, 0xf0};
    uint64_t seen[200];

    (void)unused;
    for (unsigned i = 0; i < array_size(seen); i++) {
        assert_int_equal(execute(rdrand), -1);
        assert_true(cpu_rflags(guest.cpu) & RFLAGS_CF);
        seen[i] = guest.cpu->gpr[REG_RAX].q;
        for (unsigned k = 0; k < i; k++)
            assert_int_not_equal(seen[i], seen[k]);
    }
}

/* A child of fork() does not go on with its parent's numbers. */
static void test_random_numbers_after_fork(void **unused)
{
    const uint8_t rdrand[8] = {0x48, 0x0f, 0xc7, 0xf0};
    uint64_t theirs = 0;
    int pipes[2];

    (void)unused;
    assert_int_equal(execute(rdrand), -1); /* the buffer is there */
    assert_int_equal(pipe(pipes), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        uint64_t mine = execute(rdrand) == -1 ? guest.cpu->gpr[REG_RAX].q : 0;
        _exit(write(pipes[1], &mine, sizeof(mine)) == sizeof(mine) ? 0 : 1);
    }
    assert_int_equal(read(pipes[0], &theirs, sizeof(theirs)), sizeof(theirs));
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(pipes[0]);
    close(pipes[1]);
    assert_int_equal(execute(rdrand), -1);
    assert_int_not_equal(theirs, 0);
    assert_int_not_equal(theirs, guest.cpu->gpr[REG_RAX].q);
}

static int set_up(void **unused)
{
    (void)unused;
    if (!guest_create(&guest, NULL, true))
        return -1;
    for (unsigned word = 0; word < CPUID_WORDS; word++)
        cpuid_offer(&guest.cpu->cpuid, word, ~0u);
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    guest_destroy(&guest);
    return 0;
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_every_feature_has_a_row), CASE(test_features_show_and_hide),     CASE(test_bits_of_cpuid),
        CASE(test_opcodes_with_another_meaning), CASE(test_hiding), CASE(test_offering), CASE(test_other_leaves),
        CASE(test_random_numbers_differ),   CASE(test_random_numbers_after_fork),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
