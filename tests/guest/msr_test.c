/* MSRs, CPUID and the checks of registers set from outside, called directly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "guest.h"
#include "x86/system/control.h"
#include "x86/system/msr.h"

static struct guest guest;

static int set_up(void **unused)
{
    (void)unused;
    return guest_create(&guest, NULL, true) ? 0 : -1;
}

static int tear_down(void **unused)
{
    (void)unused;
    guest_destroy(&guest);
    return 0;
}

static void write_ok(uint32_t index, uint64_t value)
{
    uint64_t back = ~value;
    assert_int_equal(msr_write(guest.cpu, index, value), MSR_OK);
    assert_int_equal(msr_read(guest.cpu, index, &back), MSR_OK);
    assert_int_equal(back, value);
}

static void write_refused(uint32_t index, uint64_t value)
{
    uint64_t before = 0, after = 0;
    assert_int_equal(msr_read(guest.cpu, index, &before), MSR_OK);
    assert_int_equal(msr_write(guest.cpu, index, value), MSR_REFUSED);
    assert_int_equal(msr_read(guest.cpu, index, &after), MSR_OK);
    assert_int_equal(before, after);
}

/* Of AMD's own: there only for that vendor; the one bit that Linux looks for. */
static void test_hwcr(void **unused)
{
    const bool was_amd = guest.cpu->cpuid.is_amd;
    uint64_t value = 0;

    (void)unused;
    guest.cpu->cpuid.is_amd = true;
    assert_int_equal(msr_read(guest.cpu, 0xc0010015, &value), MSR_OK);
    assert_int_equal(value, 1u << 24);
    guest.cpu->cpuid.is_amd = false;
    assert_int_equal(msr_read(guest.cpu, 0xc0010015, &value), MSR_UNKNOWN);
    guest.cpu->cpuid.is_amd = was_amd;
}

static void test_stored(void **unused)
{
    (void)unused;
    write_ok(MSR_SYSENTER_CS, 0x10);
    write_ok(MSR_SYSENTER_ESP, 0xffff800000001000);
    write_ok(MSR_STAR, 0x23001000000000);
    write_ok(MSR_LSTAR, 0xffffffff81000000);
    write_ok(MSR_SFMASK, 0x47700);
    write_ok(MSR_KERNEL_GS_BASE, 0x7fffffffffff);
    write_ok(MSR_TSC_AUX, 3);
    write_ok(MSR_PAT, 0x0407010600070106);
    write_ok(MSR_SPEC_CTRL, 1);
    write_ok(MSR_MTRR_DEF_TYPE, 0xc06);
    write_ok(MSR_MTRR_BASE_0, 0x80000006);
    write_ok(MSR_MTRR_BASE_0 + 1, 0xff80000800);
    write_ok(MSR_MTRR_MASK_7, 0x800);
    write_ok(MSR_MTRR_FIX64K_00000, 0x0606060606060606);
    write_ok(MSR_MTRR_FIX4K_F8000, 0x0505050505050505);
}

static void test_refused(void **unused)
{
    (void)unused;
    write_refused(MSR_LSTAR, 0x100000000000000);
    write_ok(MSR_LSTAR, 0x800000000000); /* 57 bits, although CR4.LA57 is clear */
    cpuid_set(&guest.cpu->cpuid, FEATURE_LA57, false);
    write_refused(MSR_LSTAR, 0x800000000001);
    write_refused(MSR_SYSENTER_EIP, 0x1000000000000000);
    write_refused(MSR_KERNEL_GS_BASE, 0xffff000000000000);
    write_refused(MSR_FS_BASE, 0x8000000000000000);
    write_refused(MSR_SFMASK, 0x100000000);
    write_refused(MSR_TSC_AUX, 0x100000000);
    write_refused(MSR_PAT, 0x0000000000000002);
    write_refused(MSR_PAT, 0x0800000000000000);
    write_refused(MSR_MTRR_DEF_TYPE, 0x1000);
    write_refused(MSR_MTRR_DEF_TYPE, 0x807);
    write_refused(MSR_MTRR_BASE_0, 0x100);
    write_refused(MSR_MTRR_BASE_0, 1ull << 40); /* 40 physical address bits */
    write_refused(MSR_MTRR_FIX16K_80000, 2);
    write_refused(MSR_EFER, 2);
    write_refused(MSR_MTRR_CAP, 0x508);
    write_refused(MSR_SPEC_CTRL, 0x800);
}

static void test_unknown(void **unused)
{
    uint64_t value;

    (void)unused;
    assert_int_equal(msr_read(guest.cpu, 0x12345678, &value), MSR_UNKNOWN);
    assert_int_equal(msr_write(guest.cpu, 0x12345678, 0), MSR_UNKNOWN);
    assert_false(msr_is_known(guest.cpu, 0x12345678));
    assert_true(msr_is_known(guest.cpu, MSR_STAR));
    /* A feature that is taken away takes its registers with it. */
    cpuid_set(&guest.cpu->cpuid, FEATURE_RDTSCP, false);
    assert_false(msr_is_known(guest.cpu, MSR_TSC_AUX));
}

static void test_tsc_and_adjust_move_together(void **unused)
{
    uint64_t adjust, before, after;

    (void)unused;
    assert_int_equal(msr_write(guest.cpu, MSR_TSC, 0), MSR_OK);
    assert_int_equal(msr_read(guest.cpu, MSR_TSC_ADJUST, &adjust), MSR_OK);
    assert_int_not_equal(adjust, 0);
    before = msr_tsc(guest.cpu);
    assert_int_equal(msr_write(guest.cpu, MSR_TSC_ADJUST, adjust + (1ull << 50)), MSR_OK);
    after = msr_tsc(guest.cpu);
    assert_true(after - before >= 1ull << 50 && after - before < (1ull << 50) + (1ull << 40));
}

/* ---- CPUID ---- */

static void test_feature_banks(void **unused)
{
    struct cpuid_config all, masked;
    uint64_t banks[2], again[2];

    (void)unused;
    cpuid_init(&all);
    cpuid_get_banks(&all, banks);
    assert_true(banks[0] & 1);          /* SSE3 */
    assert_true(banks[0] & BIT64(18));  /* PCID */
    masked = all;
    banks[0] &= ~BIT64(18);
    cpuid_mask_banks(&masked, banks);
    assert_false(cpuid_has(&masked, FEATURE_PCID));
    assert_true(cpuid_has(&masked, FEATURE_SSE3));
    cpuid_get_banks(&masked, again);
    assert_int_equal(again[0], banks[0]);
    assert_int_equal(again[1], banks[1]);
    banks[0] = banks[1] = 0;
    cpuid_mask_banks(&masked, banks);
    assert_true(cpuid_has(&masked, FEATURE_LM)); /* no bit in the banks: stays */
}

static void test_cpuid_leaves(void **unused)
{
    uint32_t out[4];

    (void)unused;
    cpuid_read(guest.cpu, 0, 0, out);
    assert_memory_equal(&out[1], guest.cpu->cpuid.vendor, 4);
    const uint32_t last = out[0];
    cpuid_read(guest.cpu, 0x40000000, 0, out);
    assert_memory_equal(&out[1], "OpenWHP\0\0\0\0\0", 12);
    cpuid_read(guest.cpu, 0x80000008, 0, out);
    assert_int_equal(out[0], 40 | 57 << 8);
    cpuid_set(&guest.cpu->cpuid, FEATURE_LA57, false);
    cpuid_read(guest.cpu, 0x80000008, 0, out);
    assert_int_equal(out[0], 40 | 48 << 8);
    cpuid_read(guest.cpu, 0x80000000, 0, out);
    assert_int_equal(out[0], 0x80000008);
    guest.cpu->cpuid.tsc_frequency = 2400000000;
    guest.cpu->cpuid.apic_frequency = 200000000;
    cpuid_read(guest.cpu, 0x15, 0, out);
    if (last >= 0x15) {
        assert_int_equal(out[0], 1);
        assert_int_equal(out[1], 12);
        assert_int_equal(out[2], 200000000);
    }
}

/* The ratio of leaf 0x15 is exact where 32 bits allow, and never overflows a guest that multiplies kHz by it. */
static void test_tsc_ratio(void **unused)
{
    static const uint64_t tsc[] = {1000000000, 1999999999, 2593907000, 3000000001, 5123456789};
    static const uint64_t apic[] = {25000000, 200000000, 1000000000, 999999937};
    uint32_t out[4];

    (void)unused;
    for (unsigned t = 0; t < 5; t++)
        for (unsigned a = 0; a < 4; a++) {
            guest.cpu->cpuid.tsc_frequency = tsc[t];
            guest.cpu->cpuid.apic_frequency = apic[a];
            cpuid_read(guest.cpu, 0x15, 0, out);
            if (guest.cpu->cpuid.is_amd || !out[0])
                continue;
            assert_true((uint64_t)out[1] * (out[2] / 1000) <= UINT32_MAX);
            const double error = (double)apic[a] * out[1] / out[0] / (double)tsc[t] - 1;
            assert_true(error > -0.001 && error < 0.001);
        }
}

/* ---- registers set from outside ---- */

static void test_control_problem(void **unused)
{
    struct cpu *cpu = guest.cpu;

    (void)unused;
    assert_null(cpu_control_problem(cpu));
    cpu->rflags &= ~RFLAGS_ONE;
    assert_non_null(cpu_control_problem(cpu));
    cpu->rflags |= RFLAGS_ONE;
    cpu->cr0 = CR0_PG;
    assert_non_null(cpu_control_problem(cpu));
    cpu->cr0 = CR0_PE | CR0_PG;
    assert_null(cpu_control_problem(cpu));
    cpu->efer = EFER_LME;
    assert_non_null(cpu_control_problem(cpu));
    cpu->efer = EFER_LME | EFER_LMA;
    assert_non_null(cpu_control_problem(cpu)); /* without PAE */
    cpu->cr4 = CR4_PAE;
    assert_null(cpu_control_problem(cpu));
    cpu->cr3 = 1ull << 41;
    assert_non_null(cpu_control_problem(cpu));
    cpu->cr3 = 0;
    cpu->cr4 |= BIT64(63);
    assert_non_null(cpu_control_problem(cpu));
    cpu->cr4 = CR4_PAE;
    cpu->cr8 = 16;
    assert_non_null(cpu_control_problem(cpu));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_stored),
        CASE(test_hwcr),
        CASE(test_refused),
        CASE(test_unknown),
        CASE(test_tsc_and_adjust_move_together),
        CASE(test_feature_banks),
        CASE(test_cpuid_leaves),
        CASE(test_tsc_ratio),
        CASE(test_control_problem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
