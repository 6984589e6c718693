/* CPUID results that present a vendor make processors of that vendor, whatever the host's is. */
#include <string.h>

#include "guest.h"

enum { FAR_CODE = 0x31000, TARGET = 0x5000 };

static const struct vendor {
    const char *name;
    UINT32 ebx, ecx, edx;
    bool is_amd;
} vendors[] = {
    {"GenuineIntel", 0x756e6547, 0x6c65746e, 0x49656e69, false},
    {"AuthenticAMD", 0x68747541, 0x444d4163, 0x69746e65, true},
    {"HygonGenuine", 0x6f677948, 0x656e6975, 0x6e65476e, true},
};

static void begin(struct guest *g, const struct vendor *vendor)
{
    const struct guest_options options = {
        .cpuid_results = {{.Function = 0, .Output = {.Ebx = vendor->ebx, .Ecx = vendor->ecx, .Edx = vendor->edx},
                           .Mask = {.Ebx = ~0u, .Ecx = ~0u, .Edx = ~0u}}},
        .cpuid_result_count = 1,
    };

    guest_begin(g, &options);
    guest_long_mode(g, 0);
    guest_set(g, WHvX64RegisterEfer, guest_get(g, WHvX64RegisterEfer) | 1); /* SCE */
    guest_set(g, WHvX64RegisterStar, (UINT64)0x08 << 32 | (UINT64)0x10 << 48);
    guest_set(g, WHvX64RegisterCstar, TARGET);
    guest_load(g, TARGET, "\xf4", 1);
}

static void compatibility_mode(struct guest *g)
{
    const WHV_REGISTER_NAME name = WHvX64RegisterCs;
    const WHV_REGISTER_VALUE value = {.Segment = {.Limit = 0xffffffff, .Selector = 8, .Attributes = 0xc09b}};

    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, &name, 1, &value));
}

static void assert_rip(struct guest *g, const struct vendor *vendor, UINT64 expected)
{
    if (g->exit.VpContext.Rip != expected)
        fail_msg("%s: RIP is %#llx, not %#llx", vendor->name, (unsigned long long)g->exit.VpContext.Rip, (unsigned long long)expected);
}

/* AMD has SYSCALL in compatibility mode; on Intel it is #UD. */
static void syscall_in_compatibility_mode(void **state)
{
    struct guest g;

    (void)state;
    for (size_t i = 0; i < sizeof(vendors) / sizeof(vendors[0]); i++) {
        begin(&g, &vendors[i]);
        compatibility_mode(&g);
        guest_code(&g, 0x0f, 0x05);
        run_to(&g, WHvRunVpExitReasonX64Halt);
        assert_rip(&g, &vendors[i], (vendors[i].is_amd ? TARGET : HANDLERS + 16 * 6) + 1);
        if (vendors[i].is_amd)
            assert_int_equal(guest_get(&g, WHvX64RegisterRcx), CODE + 2);
        guest_end(&g);
    }
}

/* AMD has SYSENTER in legacy mode only; Intel everywhere. */
static void sysenter_in_long_mode(void **state)
{
    struct guest g;

    (void)state;
    for (size_t i = 0; i < sizeof(vendors) / sizeof(vendors[0]); i++) {
        begin(&g, &vendors[i]);
        guest_set(&g, WHvX64RegisterSysenterCs, 8);
        guest_set(&g, WHvX64RegisterSysenterEip, TARGET);
        guest_code(&g, 0x0f, 0x34);
        run_to(&g, WHvRunVpExitReasonX64Halt);
        assert_rip(&g, &vendors[i], (vendors[i].is_amd ? HANDLERS + 16 * 6 : TARGET) + 1);
        guest_end(&g);
    }
}

/* jmp +10 with prefix 66: to a 16-bit address on AMD; on Intel as without it, and its displacement has 32 bits. */
static void near_branches_with_prefix_66(void **state)
{
    static const UINT8 jump[] = {0x66, 0xe9, 0x10, 0, 0, 0};
    struct guest g;

    (void)state;
    for (size_t i = 0; i < sizeof(vendors) / sizeof(vendors[0]); i++) {
        begin(&g, &vendors[i]);
        guest_load(&g, FAR_CODE, jump, sizeof(jump));
        guest_load(&g, FAR_CODE + 0x16, "\xf4", 1);
        guest_load(&g, (FAR_CODE & 0xffff) + 0x14, "\xf4", 1);
        guest_set(&g, WHvX64RegisterRip, FAR_CODE);
        run_to(&g, WHvRunVpExitReasonX64Halt);
        assert_rip(&g, &vendors[i], vendors[i].is_amd ? (FAR_CODE & 0xffff) + 0x15 : FAR_CODE + 0x17);
        guest_end(&g);
    }
}

/* The other leaves are that vendor's too, if nothing else is said; a vendor that is neither is as Intel. */
static void leaves_of_the_vendor(void **state)
{
    static const struct vendor other = {"OtherVendor!", 0x6568744f, 0x21726f64, 0x6e655672, false};
    WHV_CPUID_OUTPUT output;
    struct guest g;

    (void)state;
    for (size_t i = 0; i <= sizeof(vendors) / sizeof(vendors[0]); i++) {
        const struct vendor *vendor = i < sizeof(vendors) / sizeof(vendors[0]) ? &vendors[i] : &other;
        begin(&g, vendor);
        assert_ok(WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 0, 0, &output));
        assert_true(output.Ebx == vendor->ebx && output.Ecx == vendor->ecx && output.Edx == vendor->edx);
        assert_ok(WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 1, 0, &output));
        assert_int_equal(output.Eax >> 8 & 15, vendor->is_amd ? 15 : 6); /* family */
        assert_ok(WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 0x80000000, 0, &output));
        assert_int_equal(output.Ebx, vendor->is_amd ? vendor->ebx : 0);
        assert_ok(WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 7, 0, &output));
        assert_int_equal(output.Edx >> 29 & 1, !vendor->is_amd); /* IA32_ARCH_CAPABILITIES */
        /* SYSCALL in legacy modes: CPUID says so on AMD whatever the mode. */
        compatibility_mode(&g);
        guest_code(&g, 0xb8, 1, 0, 0, 0x80, 0x0f, 0xa2, 0xf4); /* mov eax, 80000001; cpuid; hlt */
        run_to(&g, WHvRunVpExitReasonX64Halt);
        assert_int_equal(guest_get(&g, WHvX64RegisterRdx) >> 11 & 1, vendor->is_amd);
        guest_end(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("VENDOR-1", "F 9.6 CpuidResultList: the vendor, SYSCALL", syscall_in_compatibility_mode),
        CASE("VENDOR-2", "F 9.6 CpuidResultList: the vendor, SYSENTER", sysenter_in_long_mode),
        CASE("VENDOR-3", "F 9.6 CpuidResultList: the vendor, near branches", near_branches_with_prefix_66),
        CASE("VENDOR-4", "F 9.6 CpuidResultList: the vendor, leaves", leaves_of_the_vendor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
