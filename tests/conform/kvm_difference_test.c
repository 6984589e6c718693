/*
 * What the kvm engine cannot do is told, and refused: WHvGetCapability shows every difference of the list (differences.c), and
 * who asks for what is not offered is turned away at set-up, not served otherwise. And what must hold although KVM is there.
 */
#include "guest.h"
#include "differences.h"

#include <string.h>

static UINT64 capability(WHV_CAPABILITY_CODE code)
{
    UINT64 value = 0;

    assert_ok(WHvGetCapability(code, &value, sizeof(value), NULL));
    return value;
}

static void list_is_visible(void **state)
{
    const char *hidden = difference_hidden();

    (void)state;
    if (hidden)
        fail_msg("WHvGetCapability does not show the difference of case %s", hidden);
    assert_true(engine_differs(OwhpEngineDifferenceInterpreted) != engine_differs(OwhpEngineDifferenceReadsMayBeDirty));
}

static void refused_at_set_up(UINT32 code, UINT64 value, const char *word)
{
    WHV_PARTITION_HANDLE partition;
    UINT32 processors = 1;

    assert_ok(WHvCreatePartition(&partition));
    assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &processors, 4));
    HRESULT result = WHvSetPartitionProperty(partition, (WHV_PARTITION_PROPERTY_CODE)code, &value, 8);
    if (SUCCEEDED(result)) {
        UINT64 all = 1ull << 2; /* exceptions as such, for a bitmap of them */
        if (code == WHvPartitionPropertyCodeExceptionExitBitmap)
            (void)WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeExtendedVmExits, &all, 8);
        result = WHvSetupPartition(partition);
    }
    assert_true(FAILED(result));
    if (!strstr(OwhpGetLastErrorText(), word))
        fail_msg("code %#x, value %#llx: \"%s\" does not say %s", code, (unsigned long long)value, OwhpGetLastErrorText(), word);
    assert_ok(WHvDeletePartition(partition));
}

/* Every optional exit and exception that is not offered. */
static void exits_are_refused(void **state)
{
    UINT64 offered = capability(WHvCapabilityCodeExtendedVmExits);

    (void)state;
    assert_int_equal(offered & (1 | 4 | 8 | 32), 0);
    assert_int_equal(capability(WHvCapabilityCodeExceptionExitBitmap), 0);
    for (unsigned bit = 0; bit < 15; bit++)
        if (!(offered >> bit & 1))
            refused_at_set_up(WHvPartitionPropertyCodeExtendedVmExits, 1ull << bit, "ExtendedVmExits");
    for (unsigned vector = 0; vector < 22; vector++)
        refused_at_set_up(WHvPartitionPropertyCodeExceptionExitBitmap, 1ull << vector, "Exit");
}

/* Every feature that the processor does not have here. */
static void features_are_refused(void **state)
{
    UINT64 features = capability(WHvCapabilityCodeProcessorFeatures);

    (void)state;
    for (unsigned bit = 0; bit < 64; bit++)
        if (!(features >> bit & 1))
            refused_at_set_up(WHvPartitionPropertyCodeProcessorFeatures, features | 1ull << bit, "ProcessorFeatures");
}

/* The local APIC wins over memory that is mapped where it is; also where the guest has moved it to. */
static void apic_over_memory(void **state)
{
    const struct guest_options options = {.apic_mode = WHvX64LocalApicEmulationModeXApic};
    struct guest g;

    (void)state;
    guest_begin(&g, &options);
    UINT8 *page = host_pages(3);
    memset(page, 0x5a, 3 * 4096);
    assert_ok(WHvMapGpaRange(g.partition, page, 0xfedff000, 3 * 4096,
                             WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
    guest_long_mode(&g, 0);
    UINT64 *table = (UINT64 *)(void *)(g.ram + TABLES + 0x1000); /* the fourth GiB, by 2 MiB pages, in a table at 0x30000 */
    table[3] = 0x30007;
    for (UINT64 i = 0; i < 512; i++)
        ((UINT64 *)(void *)(g.ram + 0x30000))[i] = (3ull << 30 | i << 21) | 0x87;
    /* mov eax, [rdi + 30h]; mov ecx, [rdi - 4]; mov edx, [rdi + 1000h]; out 10h, al; mov eax, [rsi + 30h]; out 10h, al */
    guest_code(&g, 0x8b, 0x47, 0x30, 0x8b, 0x4f, 0xfc, 0x8b, 0x97, 0, 0x10, 0, 0, 0xe6, 0x10, 0x8b, 0x46, 0x30, 0xe6, 0x10);
    guest_set(&g, WHvX64RegisterRdi, 0xfee00000);
    guest_set(&g, WHvX64RegisterRsi, 0x40000);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax) & 0xff, 0x14); /* the version */
    assert_int_equal(guest_get(&g, WHvX64RegisterRcx), 0x5a5a5a5a);
    assert_int_equal(guest_get(&g, WHvX64RegisterRdx), 0x5a5a5a5a);
    guest_set(&g, WHvX64RegisterApicBase, 0x40000 | 0x900);
    guest_set(&g, WHvX64RegisterRip, CODE + 14);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax) & 0xff, 0x14);
    guest_end(&g);
}

/* A jump to where nothing is mapped, in user mode: an exit, and no exception in the guest. */
static void user_mode_fetch(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 3);
    guest_code(&g, 0xff, 0xe7); /* jmp rdi */
    guest_set(&g, WHvX64RegisterRdi, RAM_SIZE + 0x10);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&g, MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessExecute);
    assert_field(&g, MemoryAccess.Gpa, RAM_SIZE + 0x10);
    assert_field(&g, VpContext.Rip, RAM_SIZE + 0x10);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("KVM-10", "S engine kvm: differences", list_is_visible),
        CASE("KVM-11", "S engine kvm: exits that are not offered", exits_are_refused),
        CASE("KVM-12", "S engine kvm: features that are not offered", features_are_refused),
        CASE("KVM-13", "S engine kvm: APIC page over memory", apic_over_memory),
        CASE("KVM-14", "S engine kvm: fetch in user mode", user_mode_fetch),
    };
    return cmocka_run_group_tests_name("kvm differences", tests, NULL, NULL);
}
