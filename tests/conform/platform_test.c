/*
 * Capabilities and properties of the engine that runs guests: every code, before and after set-up, and that what is reported is what
 * the guest gets. capability_test.c and property_test.c have the rules of arguments, over an engine of the tests' own.
 */
#include "guest.h"

#include <stdio.h>
#include <string.h>

#define CAP(name) WHvCapabilityCode##name
#define PROP(name) WHvPartitionPropertyCode##name

static UINT64 capability(UINT32 code, UINT32 size)
{
    UINT64 value = 0;
    UINT32 written = 0;

    assert_ok(WHvGetCapability((WHV_CAPABILITY_CODE)code, &value, size, &written));
    assert_int_equal(written, size);
    return value;
}

/* ---- every code ---- */

static void capability_codes(void **state)
{
    static const struct {
        UINT32 code, size;
    } rows[] = {
        {CAP(HypervisorPresent), 4}, {CAP(Features), 8}, {CAP(ExtendedVmExits), 8}, {CAP(ExceptionExitBitmap), 8},
        {CAP(X64MsrExitBitmap), 8}, {CAP(GpaRangePopulateFlags), 4}, {CAP(SchedulerFeatures), 8}, {CAP(ProcessorVendor), 4},
        {CAP(ProcessorFeatures), 8}, {CAP(ProcessorClFlushSize), 1}, {CAP(ProcessorXsaveFeatures), 8}, {CAP(ProcessorClockFrequency), 8},
        {CAP(InterruptClockFrequency), 8}, {CAP(ProcessorFeaturesBanks), 24}, {CAP(ProcessorFrequencyCap), 20},
        {CAP(SyntheticProcessorFeaturesBanks), 16}, {CAP(ProcessorPerfmonFeatures), 8}, {CAP(PhysicalAddressWidth), 4},
    };
    unsigned known = 0;

    (void)state;
    for (UINT32 code = 0; code < 0x2100; code++) {
        UINT8 buffer[64];
        UINT32 written = 0;
        HRESULT result = WHvGetCapability((WHV_CAPABILITY_CODE)code, buffer, sizeof(buffer), &written);
        if (code >= CAP(VmxBasic) && code <= CAP(VmxTrueEntryCtls)) {
            assert_hr(result, E_NOT_SUPPORTED); /* no nested virtualization */
            continue;
        }
        UINT32 size = 0;
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
            if (rows[i].code == code)
                size = rows[i].size;
        assert_hr(result, size ? S_OK : WHV_E_UNKNOWN_CAPABILITY);
        if (!size)
            continue;
        known++;
        assert_int_equal(written, size);
        assert_hr(WHvGetCapability((WHV_CAPABILITY_CODE)code, buffer, size - 1, &written), WHV_E_INSUFFICIENT_BUFFER);
        assert_int_equal(written, size);
    }
    assert_int_equal(known, sizeof(rows) / sizeof(rows[0]));
}

/* One property: its size, whether it can be read, and whether it can be written after set-up. */
static const struct property {
    UINT32 code, size;
    bool is_list, late;
    bool is_read_only;
} properties[] = {
    {PROP(ExtendedVmExits), 8, false, true, false}, {PROP(ExceptionExitBitmap), 8, false, true, false},
    {PROP(SeparateSecurityDomain), 4, false, false, false}, {PROP(NestedVirtualization), 4, false, false, false},
    {PROP(X64MsrExitBitmap), 8, false, true, false}, {PROP(PrimaryNumaNode), 2, false, false, false},
    {PROP(CpuReserve), 4, false, false, false}, {PROP(CpuCap), 4, false, false, false}, {PROP(CpuWeight), 4, false, false, false},
    {PROP(CpuGroupId), 8, false, false, false}, {PROP(ProcessorFrequencyCap), 4, false, false, false},
    {PROP(AllowDeviceAssignment), 4, false, false, false}, {PROP(DisableSmt), 4, false, false, false},
    {PROP(ProcessorFeatures), 8, false, false, false}, {PROP(ProcessorClFlushSize), 1, false, false, false},
    {PROP(CpuidExitList), 4, true, true, false}, {PROP(CpuidResultList), 32, true, false, false},
    {PROP(LocalApicEmulationMode), 4, false, false, false}, {PROP(ProcessorXsaveFeatures), 8, false, false, false},
    {PROP(ProcessorClockFrequency), 8, false, false, false}, {PROP(InterruptClockFrequency), 8, false, false, false},
    {PROP(ApicRemoteReadSupport), 4, false, false, false}, {PROP(ProcessorFeaturesBanks), 24, false, false, false},
    {PROP(ReferenceTime), 8, false, false, true}, {PROP(SyntheticProcessorFeaturesBanks), 16, false, false, false},
    {PROP(CpuidResultList2), 48, true, false, false}, {PROP(ProcessorPerfmonFeatures), 8, false, false, false},
    {PROP(MsrActionList), 8, true, false, false}, {PROP(UnimplementedMsrAction), 4, false, false, false},
    {PROP(PhysicalAddressWidth), 4, false, false, false}, {PROP(ProcessorCount), 4, false, false, false},
};

static const struct property *property_of(UINT32 code)
{
    for (size_t i = 0; i < sizeof(properties) / sizeof(properties[0]); i++)
        if (properties[i].code == code)
            return &properties[i];
    return NULL;
}

/* What can be read can be written back, before set-up; afterwards only the four late ones. */
static void try_property(WHV_PARTITION_HANDLE partition, UINT32 code, bool set_up)
{
    const struct property *p = property_of(code);
    const WHV_PARTITION_PROPERTY_CODE name = (WHV_PARTITION_PROPERTY_CODE)code;
    UINT64 buffer[8] = {0};
    UINT32 written = 0;
    HRESULT get = WHvGetPartitionProperty(partition, name, buffer, sizeof(buffer), &written);

    assert_hr(get, !p ? WHV_E_UNKNOWN_PROPERTY : p->is_list ? E_NOT_SUPPORTED : S_OK);
    if (!p) {
        assert_hr(WHvSetPartitionProperty(partition, name, buffer, 8), WHV_E_UNKNOWN_PROPERTY);
        return;
    }
    if (!p->is_list) {
        assert_int_equal(written, p->size);
        assert_hr(WHvGetPartitionProperty(partition, name, buffer, p->size - 1, &written), WHV_E_INSUFFICIENT_BUFFER);
        assert_int_equal(written, p->size);
        assert_hr(WHvSetPartitionProperty(partition, name, buffer, p->size + 1), E_INVALIDARG);
    }
    HRESULT set = WHvSetPartitionProperty(partition, name, buffer, p->is_list ? 0 : p->size);
    bool may = !p->is_read_only && (!set_up || p->late);
    if (FAILED(set) == may)
        print_error("property %#x, %s set-up\n", code, set_up ? "after" : "before");
    assert_hr(set, may ? S_OK : E_INVALIDARG);
}

static void property_codes(void **state)
{
    WHV_PARTITION_HANDLE partition;
    UINT32 count = 1, known = 0;

    (void)state;
    assert_ok(WHvCreatePartition(&partition));
    assert_ok(WHvSetPartitionProperty(partition, PROP(ProcessorCount), &count, 4));
    for (int set_up = 0; set_up < 2; set_up++) {
        for (UINT32 code = 0; code < 0x2100; code++) {
            try_property(partition, code, set_up);
            known += property_of(code) != NULL;
        }
        if (!set_up)
            assert_ok(WHvSetupPartition(partition));
    }
    assert_int_equal(known, 2 * sizeof(properties) / sizeof(properties[0]));
    assert_ok(WHvDeletePartition(partition));
}

/* ---- what is reported is what is ---- */

/* Each bit of a capability may be asked for, and no other. */
static void bits_offered(void **state)
{
    static const struct {
        UINT32 capability, property;
    } pairs[] = {
        {CAP(ExtendedVmExits), PROP(ExtendedVmExits)},       {CAP(ExceptionExitBitmap), PROP(ExceptionExitBitmap)},
        {CAP(X64MsrExitBitmap), PROP(X64MsrExitBitmap)},     {CAP(ProcessorFeatures), PROP(ProcessorFeatures)},
        {CAP(ProcessorXsaveFeatures), PROP(ProcessorXsaveFeatures)},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        UINT64 offered = capability(pairs[i].capability, 8);
        WHV_PARTITION_HANDLE partition;
        assert_ok(WHvCreatePartition(&partition));
        for (UINT32 bit = 0; bit < 64; bit++) {
            UINT64 value = 1ull << bit, read;
            HRESULT expected = offered >> bit & 1 ? S_OK : E_INVALIDARG;
            assert_hr(WHvSetPartitionProperty(partition, (WHV_PARTITION_PROPERTY_CODE)pairs[i].property, &value, 8), expected);
            assert_ok(WHvGetPartitionProperty(partition, (WHV_PARTITION_PROPERTY_CODE)pairs[i].property, &read, 8, NULL));
            assert_int_equal(read == value, expected == S_OK);
        }
        assert_ok(WHvDeletePartition(partition));
    }
}

/* The guest's CPUID says what the capabilities say. */
static void cpuid_agrees(void **state)
{
    struct guest g;
    WHV_CPUID_OUTPUT zero, one, width;
    WHV_PROCESSOR_XSAVE_FEATURES xsave = {.AsUINT64 = capability(CAP(ProcessorXsaveFeatures), 8)};
    WHV_PROCESSOR_FEATURES features = {.AsUINT64 = capability(CAP(ProcessorFeatures), 8)};

    (void)state;
    guest_begin(&g, NULL);
    assert_ok(WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 0, 0, &zero));
    assert_ok(WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 1, 0, &one));
    assert_ok(WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 0x80000008, 0, &width));
    UINT64 vendor = capability(CAP(ProcessorVendor), 4);
    assert_true(zero.Ebx == (vendor == WHvProcessorVendorIntel ? 0x756e6547u : 0x68747541u)); /* Genu, Auth */
    assert_int_equal((one.Ebx >> 8 & 0xff) * 8, 1u << capability(CAP(ProcessorClFlushSize), 1));
    assert_int_equal(width.Eax & 0xff, capability(CAP(PhysicalAddressWidth), 4));
    assert_int_equal(one.Ecx >> 26 & 1, xsave.XsaveSupport);
    assert_int_equal(one.Ecx >> 28 & 1, xsave.AvxSupport);
    assert_int_equal(one.Ecx & 1, features.Sse3Support);
    assert_int_equal(one.Ecx >> 13 & 1, features.Cmpxchg16bSupport);
    assert_int_equal(one.Ecx >> 23 & 1, features.PopCntSupport);
    assert_int_equal(one.Ecx >> 25 & 1, features.AesSupport);
    assert_int_equal(one.Ecx >> 30 & 1, features.RdRandSupport);
    assert_int_equal(one.Edx >> 9 & 1, 0); /* no APIC in this mode */
    guest_end(&g);
}

/* The width that is asked for is the guest's, and the limit of mappings. */
static void width_is_kept(void **state)
{
    WHV_PARTITION_HANDLE partition;
    WHV_CPUID_OUTPUT output;
    UINT32 width = 36, count = 1;

    (void)state;
    assert_ok(WHvCreatePartition(&partition));
    assert_ok(WHvSetPartitionProperty(partition, PROP(ProcessorCount), &count, 4));
    assert_ok(WHvSetPartitionProperty(partition, PROP(PhysicalAddressWidth), &width, 4));
    assert_ok(WHvSetupPartition(partition));
    assert_ok(WHvCreateVirtualProcessor(partition, 0, 0));
    assert_ok(WHvGetVirtualProcessorCpuidOutput(partition, 0, 0x80000008, 0, &output));
    assert_int_equal(output.Eax & 0xff, 36);
    void *page = host_pages(1);
    assert_ok(WHvMapGpaRange(partition, page, (1ull << 36) - 4096, 4096, WHvMapGpaRangeFlagRead));
    assert_hr(WHvMapGpaRange(partition, page, 1ull << 36, 4096, WHvMapGpaRangeFlagRead), E_INVALIDARG);
    assert_ok(WHvDeletePartition(partition));
}

/* Reference time is 0 until a processor runs, then it goes on (F 9.6). */
static void reference_time_starts(void **state)
{
    struct guest g;
    UINT64 time = 1, later;

    (void)state;
    guest_begin(&g, NULL);
    assert_ok(WHvGetPartitionProperty(g.partition, PROP(ReferenceTime), &time, 8, NULL));
    assert_int_equal(time, 0);
    guest_code(&g, 0xf4);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    do
        assert_ok(WHvGetPartitionProperty(g.partition, PROP(ReferenceTime), &time, 8, NULL));
    while (!time);
    do
        assert_ok(WHvGetPartitionProperty(g.partition, PROP(ReferenceTime), &later, 8, NULL));
    while (later == time);
    assert_true(later > time);
    guest_end(&g);
}

/* Each exception of ExceptionExitBitmap's capability that an instruction can raise does exit. */
static void exceptions_exit(void **state)
{
    static const struct {
        UINT8 vector, code[8];
        UINT32 mode; /* 0 real, 1 long, 3 long, CPL 3 */
    } rows[] = {
        {0, {0x31, 0xc9, 0xf7, 0xf1}, 1},             /* xor ecx, ecx; div ecx */
        {1, {0xf1}, 1},                               /* int1 */
        {3, {0xcc}, 1},                               /* int3 */
        {4, {0xb0, 0x7f, 0x04, 1, 0xce}, 0},          /* mov al, 7fh; add al, 1; into */
        {5, {0x62, 0x06, 0, 0x50}, 0},                /* bound ax, [5000h]: 0 to 0 */
        {6, {0x0f, 0x0b}, 1},                         /* ud2 */
        {7, {0xd9, 0xe8}, 1},                         /* fld1, CR0.TS */
        {11, {0x8e, 0xdb}, 1},                        /* mov ds, bx: not present */
        {12, {0x50}, 1},                              /* push rax to a non-canonical stack */
        {13, {0x0f, 0x30}, 1},                        /* wrmsr of no register */
        {14, {0xa0, 0, 0, 6, 0, 0, 0, 0}, 1},         /* mov al, [60000h] */
        {17, {0x8b, 0x03}, 3},                        /* mov eax, [rbx], odd */
    };
    const UINT64 offered = capability(CAP(ExceptionExitBitmap), 8);

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct guest_options options = {.extended_exits = 4, .exceptions = 1ull << rows[i].vector};
        struct guest g;
        assert_true(offered >> rows[i].vector & 1);
        guest_begin(&g, &options);
        if (rows[i].mode)
            guest_long_mode(&g, rows[i].mode == 3 ? 3 : 0);
        guest_load(&g, CODE, rows[i].code, 8);
        g.ram[CODE + 8] = 0;
        guest_set(&g, WHvX64RegisterRax, 1);
        guest_set(&g, WHvX64RegisterRcx, 0x4321);
        guest_set(&g, WHvX64RegisterRbx, rows[i].vector == 17 ? 0x5001 : 0x30);
        if (rows[i].vector == 7)
            guest_set(&g, WHvX64RegisterCr0, 0x80010039);
        if (rows[i].vector == 11) { /* a descriptor at 30h that is not present */
            const UINT64 absent = 0x0000130000000000;
            guest_load(&g, GDT + 0x30, &absent, 8);
        }
        if (rows[i].vector == 12)
            guest_set(&g, WHvX64RegisterRsp, 0x800000000010);
        if (rows[i].vector == 14)
            *guest_pte(&g, 0x60000) = 0;
        if (rows[i].vector == 17) {
            guest_set(&g, WHvX64RegisterCr0, 0x80050031);
            guest_set(&g, WHvX64RegisterRflags, 0x40002);
        }
        run_to(&g, WHvRunVpExitReasonException);
        assert_field(&g, VpException.ExceptionType, rows[i].vector);
        guest_end(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("PLAT-1", "F 9.7: codes and sizes", capability_codes),
        CASE("PLAT-2", "F 9.6: codes, sizes, before and after Setup", property_codes),
        CASE("PLAT-3", "F 9.6, 9.7: unsupported bits are refused", bits_offered),
        CASE("PLAT-4", "F 9.7: what is reported is what is", cpuid_agrees),
        CASE("PLAT-5", "F 9.6 PhysicalAddressWidth", width_is_kept),
        CASE("PLAT-6", "F 9.6 ReferenceTime", reference_time_starts),
        CASE("PLAT-7", "F 9.7 ExceptionExitBitmap", exceptions_exit),
    };
    return cmocka_run_group_tests_name("platform", tests, NULL, NULL);
}
