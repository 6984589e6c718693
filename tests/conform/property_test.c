/* Partition properties: codes, sizes, values, states; and that the engine gets to see them. */
#include "conform.h"

#include <string.h>

#include "fake_engine.h"

typedef WHV_PARTITION_HANDLE P;

enum { LIST = 1, WRITE_ONLY = LIST, READ_ONLY = 2, RUN_TIME = 4, ZERO_ONLY = 8 };

/* A good value other than the default, and one that must be refused (equal: any is good). */
static const struct row {
    const char *name;
    UINT32 code, size;
    int kind;
    UINT64 good, bad;
} rows[] = {
#define ROW(name, ...) {#name, (UINT32)WHvPartitionPropertyCode##name, __VA_ARGS__}
    ROW(ExtendedVmExits, 8, RUN_TIME, 0x7fff, 0x8000),
    ROW(ExceptionExitBitmap, 8, RUN_TIME, 0x4000, 0x80000000),
    ROW(X64MsrExitBitmap, 8, RUN_TIME, 0x3e, 0x40),
    ROW(SeparateSecurityDomain, 4, 0, 1, 1),
    ROW(NestedVirtualization, 4, ZERO_ONLY, 0, 1),
    ROW(PrimaryNumaNode, 2, ZERO_ONLY, 0, 1),
    ROW(CpuReserve, 4, ZERO_ONLY, 0, 1),
    ROW(CpuCap, 4, ZERO_ONLY, 0, 1),
    ROW(CpuWeight, 4, ZERO_ONLY, 0, 1),
    ROW(CpuGroupId, 8, ZERO_ONLY, 0, 1ull << 40),
    ROW(ProcessorFrequencyCap, 4, ZERO_ONLY, 0, 1),
    ROW(AllowDeviceAssignment, 4, ZERO_ONLY, 0, 1),
    ROW(DisableSmt, 4, ZERO_ONLY, 0, 1),
    ROW(ProcessorFeatures, 8, 0, 0xff, 1ull << 63),
    ROW(ProcessorClFlushSize, 1, 0, 6, 7),
    ROW(LocalApicEmulationMode, 4, 0, 2, 3),
    ROW(ProcessorXsaveFeatures, 8, 0, 3, 8),
    ROW(ProcessorClockFrequency, 8, 0, 2000000000, 1000000000),
    ROW(InterruptClockFrequency, 8, 0, 100000000, 0),
    ROW(ApicRemoteReadSupport, 4, ZERO_ONLY, 0, 1),
    ROW(ReferenceTime, 8, READ_ONLY, 0, 0),
    ROW(ProcessorPerfmonFeatures, 8, ZERO_ONLY, 0, 1),
    ROW(UnimplementedMsrAction, 4, 0, 2, 3),
    ROW(PhysicalAddressWidth, 4, 0, 40, 47),
    ROW(ProcessorCount, 4, 0, 3, 65),
    ROW(CpuidExitList, 4, LIST | RUN_TIME, 0, 0),
    ROW(CpuidResultList, 32, LIST, 0, 0),
    ROW(CpuidResultList2, 48, LIST, 0, 0),
    ROW(MsrActionList, 8, LIST, 0, 0),
#undef ROW
};

#define FOR_EACH_ROW for (const struct row *r = rows; r < rows + sizeof(rows) / sizeof(rows[0]); r++)
#define FOR_EACH_SCALAR FOR_EACH_ROW if (!(r->kind & LIST))

static HRESULT set(P partition, const struct row *r, UINT64 value, UINT32 size)
{
    UINT64 buffer[8] = {value};

    return WHvSetPartitionProperty(partition, (WHV_PARTITION_PROPERTY_CODE)r->code, buffer, size);
}

static UINT64 get(P partition, const struct row *r)
{
    UINT64 value = 0;
    UINT32 written = 0;

    check_hr(WHvGetPartitionProperty(partition, (WHV_PARTITION_PROPERTY_CODE)r->code, &value, r->size, &written), S_OK,
             r->name, __FILE__, __LINE__);
    assert_int_equal(written, r->size);
    return value;
}

#define expect(call, expected, row) check_hr((call), (expected), (row)->name, __FILE__, __LINE__)

static void sizes(void **state)
{
    P partition = partition_created(1);

    (void)state;
    FOR_EACH_SCALAR {
        HRESULT good = r->kind & READ_ONLY ? E_INVALIDARG : S_OK;
        expect(set(partition, r, r->good, r->size), good, r);
        expect(set(partition, r, r->good, sizeof(WHV_PARTITION_PROPERTY)), good, r);
        const UINT32 bad[] = {0, r->size - 1, r->size + 1, sizeof(WHV_PARTITION_PROPERTY) - 1,
                              sizeof(WHV_PARTITION_PROPERTY) + 1, 0xffffffff};
        for (int i = 0; i < 6; i++)
            expect(set(partition, r, r->good, bad[i]), E_INVALIDARG, r);

        UINT8 buffer[64];
        UINT32 written;
        WHV_PARTITION_PROPERTY_CODE code = (WHV_PARTITION_PROPERTY_CODE)r->code;
        memset(buffer, 0xcc, sizeof(buffer));
        written = 0;
        expect(WHvGetPartitionProperty(partition, code, buffer, r->size - 1, &written), WHV_E_INSUFFICIENT_BUFFER, r);
        assert_int_equal(written, r->size);
        assert_int_equal(buffer[0], 0xcc);
        expect(WHvGetPartitionProperty(partition, code, buffer, sizeof(WHV_PARTITION_PROPERTY), &written), S_OK, r);
        assert_int_equal(written, r->size);
        assert_int_equal(buffer[r->size], 0xcc); /* no byte more than the value */
        expect(WHvGetPartitionProperty(partition, code, buffer, r->size, NULL), S_OK, r);
    }
    assert_ok(WHvDeletePartition(partition));
}

static void pointers(void **state)
{
    P partition = partition_created(1);
    UINT64 value = 1;

    (void)state;
    FOR_EACH_ROW {
        WHV_PARTITION_PROPERTY_CODE code = (WHV_PARTITION_PROPERTY_CODE)r->code;
        HRESULT bad = r->kind & LIST ? E_NOT_SUPPORTED : E_POINTER;
        expect(WHvSetPartitionProperty(partition, code, NULL, r->size), E_POINTER, r);
        expect(WHvSetPartitionProperty(partition, code, WILD, r->size), E_POINTER, r);
        expect(WHvGetPartitionProperty(partition, code, NULL, r->size, NULL), bad, r);
        expect(WHvGetPartitionProperty(partition, code, WILD, r->size, NULL), bad, r);
        expect(WHvGetPartitionProperty(partition, code, &value, r->size, WILD), bad, r);
    }
    assert_ok(WHvDeletePartition(partition));
}

static void unknown_codes(void **state)
{
    P partition = partition_created(1);
    const UINT32 codes[] = {0, 0xe, 0x1000, 0x1012, 0x1ffe, 0x2000, 0xffffffff, 0x4f570000, 0x4f570002};
    UINT64 value = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        WHV_PARTITION_PROPERTY_CODE code = (WHV_PARTITION_PROPERTY_CODE)codes[i];
        assert_refused(WHvGetPartitionProperty(partition, code, &value, 8, NULL), WHV_E_UNKNOWN_PROPERTY);
        assert_refused(WHvSetPartitionProperty(partition, code, &value, 8), WHV_E_UNKNOWN_PROPERTY);
    }
    assert_ok(WHvDeletePartition(partition));
}

static void values(void **state)
{
    P partition = partition_created(1);

    (void)state;
    FOR_EACH_SCALAR {
        if (r->kind & READ_ONLY)
            continue;
        expect(set(partition, r, r->good, r->size), S_OK, r);
        assert_int_equal(get(partition, r), r->good);
        if (r->bad != r->good)
            expect(set(partition, r, r->bad, r->size), E_INVALIDARG, r);
        assert_int_equal(get(partition, r), r->good);
    }
    assert_ok(WHvSetupPartition(partition));
    const struct partition_config *config = fake_partition()->config;
    assert_int_equal(config->extended_exits, 0x7fff);
    assert_int_equal(config->exception_exit_bitmap, 0x4000);
    assert_int_equal(config->msr_exit_bitmap, 0x3e);
    assert_int_equal(config->processor_features[0], 0xff);
    assert_int_equal(config->xsave_features, 3);
    assert_int_equal(config->clflush_size_log2, 6);
    assert_int_equal(config->apic_mode, APIC_MODE_X2APIC);
    assert_int_equal(config->tsc_frequency, 2000000000);
    assert_int_equal(config->apic_frequency, 100000000);
    assert_int_equal(config->unimplemented_msr_action, 2);
    assert_int_equal(config->physical_address_bits, 40);
    assert_int_equal(config->processor_count, 3);
    assert_ok(WHvDeletePartition(partition));
}

static void more_bad_values(void **state)
{
    P partition = partition_created(1);
    static const struct {
        UINT32 code, size;
        UINT64 value;
    } bad[] = {
        {WHvPartitionPropertyCodeProcessorCount, 4, 0},
        {WHvPartitionPropertyCodeProcessorCount, 4, 0xffffffff},
        {WHvPartitionPropertyCodePhysicalAddressWidth, 4, 31},
        {WHvPartitionPropertyCodePhysicalAddressWidth, 4, 0},
        {WHvPartitionPropertyCodePhysicalAddressWidth, 4, 64},
        {WHvPartitionPropertyCodeProcessorClFlushSize, 1, 0},
        {WHvPartitionPropertyCodeExtendedVmExits, 8, 1ull << 63},
        {WHvPartitionPropertyCodeProcessorFeatures, 8, 0x10000},
        {WHvPartitionPropertyCodeUnimplementedMsrAction, 4, 0xffffffff},
        {WHvPartitionPropertyCodeLocalApicEmulationMode, 4, 0xffffffff},
        {WHvPartitionPropertyCodeProcessorClockFrequency, 8, ~0ull},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_refused(WHvSetPartitionProperty(partition, (WHV_PARTITION_PROPERTY_CODE)bad[i].code, &bad[i].value,
                                               bad[i].size),
                       E_INVALIDARG);
    assert_ok(WHvDeletePartition(partition));
}

static void defaults(void **state)
{
    P partition = partition_created(1);

    (void)state;
    FOR_EACH_SCALAR {
        UINT64 expected = 0;
        switch (r->code) {
        case WHvPartitionPropertyCodeX64MsrExitBitmap:
            expected = 1; /* unhandled MSRs, once X64MsrExit is on */
            break;
        case WHvPartitionPropertyCodeProcessorFeatures:
            expected = fake_capabilities.processor_features[0];
            break;
        case WHvPartitionPropertyCodeProcessorXsaveFeatures:
            expected = fake_capabilities.xsave_features;
            break;
        case WHvPartitionPropertyCodeProcessorClFlushSize:
            expected = fake_capabilities.clflush_size_log2;
            break;
        case WHvPartitionPropertyCodeProcessorClockFrequency:
            expected = fake_capabilities.tsc_frequency;
            break;
        case WHvPartitionPropertyCodeInterruptClockFrequency:
            expected = fake_capabilities.apic_frequency;
            break;
        case WHvPartitionPropertyCodePhysicalAddressWidth:
            expected = fake_capabilities.physical_address_bits;
            break;
        case WHvPartitionPropertyCodeProcessorCount:
            expected = 1;
            break;
        default:
            break;
        }
        assert_int_equal(get(partition, r), expected);
    }
    assert_ok(WHvDeletePartition(partition));
}

static void after_setup(void **state)
{
    P partition = partition_with_vcpu();

    (void)state;
    FOR_EACH_ROW {
        UINT64 buffer[8] = {r->good};
        UINT64 before_value = r->kind & LIST ? 0 : get(partition, r);
        expect(WHvSetPartitionProperty(partition, (WHV_PARTITION_PROPERTY_CODE)r->code, buffer, r->size),
               r->kind & RUN_TIME ? S_OK : E_INVALIDARG, r);
        if (!(r->kind & (LIST | RUN_TIME)))
            assert_int_equal(get(partition, r), before_value);
        if (r->kind & RUN_TIME && !(r->kind & LIST)) {
            assert_int_equal(get(partition, r), r->good);
            expect(set(partition, r, r->bad, r->size), E_INVALIDARG, r);
            assert_int_equal(get(partition, r), r->good);
        }
    }
    assert_ok(WHvDeletePartition(partition));
}

static void boolean_is_one(void **state)
{
    P partition = partition_created(1);
    UINT32 value;

    (void)state;
    set_property(partition, WHvPartitionPropertyCodeSeparateSecurityDomain, 0x100, 4);
    assert_ok(WHvGetPartitionProperty(partition, WHvPartitionPropertyCodeSeparateSecurityDomain, &value, 4, NULL));
    assert_int_equal(value, TRUE);
    assert_ok(WHvDeletePartition(partition));
}

static void banks(void **state)
{
    P partition = partition_created(1);
    WHV_PROCESSOR_FEATURES_BANKS features;
    WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS synthetic;
    UINT32 written;

    (void)state;
    assert_ok(WHvGetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorFeaturesBanks, &features,
                                      sizeof(features), &written));
    assert_int_equal(written, 24);
    assert_int_equal(features.BanksCount, 2);
    assert_int_equal(features.AsUINT64[1], 3);
    features.AsUINT64[1] = 1;
#define SET(code, value) WHvSetPartitionProperty(partition, code, &value, sizeof(value))
    assert_ok(SET(WHvPartitionPropertyCodeProcessorFeaturesBanks, features));
    features.AsUINT64[1] = 4;
    assert_hr(SET(WHvPartitionPropertyCodeProcessorFeaturesBanks, features), E_INVALIDARG);
    features.AsUINT64[1] = 1;
    features.BanksCount = 1;
    assert_hr(SET(WHvPartitionPropertyCodeProcessorFeaturesBanks, features), E_INVALIDARG);
    features.BanksCount = 2;
    features.Reserved0 = 1;
    assert_hr(SET(WHvPartitionPropertyCodeProcessorFeaturesBanks, features), E_INVALIDARG);
    assert_ok(WHvGetPartitionProperty(partition, WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks, &synthetic,
                                      sizeof(synthetic), &written));
    assert_int_equal(written, 16);
    assert_int_equal(synthetic.BanksCount, 1);
    assert_int_equal(synthetic.AsUINT64[0], 0);
    assert_ok(SET(WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks, synthetic));
    synthetic.AsUINT64[0] = 1;
    assert_hr(SET(WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks, synthetic), E_INVALIDARG);
    assert_ok(WHvSetupPartition(partition));
    assert_int_equal(fake_partition()->config->processor_features[1], 1);
    assert_ok(WHvDeletePartition(partition));
}

static void lists(void **state)
{
    P partition = partition_created(2);
    UINT32 exits[3] = {1, 0x40000000, 7};
    WHV_X64_CPUID_RESULT results[2] = {{.Function = 1, .Eax = 10, .Ebx = 11, .Ecx = 12, .Edx = 13}, {.Function = 2}};
    WHV_X64_CPUID_RESULT2 results2[1] = {{.Function = 7, .Index = 1, .VpIndex = 1,
                                          .Flags = WHvX64CpuidResult2FlagSubleafSpecific,
                                          .Output = {20, 21, 22, 23}, .Mask = {30, 31, 32, 33}}};
    WHV_MSR_ACTION_ENTRY actions[2] = {{.Index = 0x10, .ReadAction = 2}, {.Index = 0x20, .WriteAction = 1}};

    (void)state;
    assert_ok(SET(WHvPartitionPropertyCodeCpuidExitList, exits));
    assert_ok(SET(WHvPartitionPropertyCodeCpuidResultList, results));
    assert_ok(SET(WHvPartitionPropertyCodeCpuidResultList2, results2));
    assert_ok(SET(WHvPartitionPropertyCodeMsrActionList, actions));
    results[1].Reserved[2] = 1;
    assert_hr(SET(WHvPartitionPropertyCodeCpuidResultList, results), E_INVALIDARG);
    results2[0].Flags = (WHV_X64_CPUID_RESULT2_FLAGS)4;
    assert_hr(SET(WHvPartitionPropertyCodeCpuidResultList2, results2), E_INVALIDARG);
    actions[1].WriteAction = 3;
    assert_hr(SET(WHvPartitionPropertyCodeMsrActionList, actions), E_INVALIDARG);
    actions[1].WriteAction = 1;
    actions[0].Reserved = 1;
    assert_hr(SET(WHvPartitionPropertyCodeMsrActionList, actions), E_INVALIDARG);
    FOR_EACH_ROW
        if (r->kind & LIST) {
            expect(WHvSetPartitionProperty(partition, (WHV_PARTITION_PROPERTY_CODE)r->code, results, r->size + 1),
                   E_INVALIDARG, r);
            expect(WHvSetPartitionProperty(partition, (WHV_PARTITION_PROPERTY_CODE)r->code, results, 0xfffffff0),
                   E_INVALIDARG, r);
        }
    assert_ok(WHvSetupPartition(partition));

    const struct partition_config *config = fake_partition()->config;
    assert_int_equal(config->cpuid_exit_count, 3);
    assert_memory_equal(config->cpuid_exits, exits, sizeof(exits));
    assert_int_equal(config->cpuid_override_count, 3);
    assert_int_equal(config->cpuid_overrides[0].function, 1);
    assert_int_equal(config->cpuid_overrides[0].output[3], 13);
    assert_int_equal(config->cpuid_overrides[0].mask[3], 0xffffffff);
    assert_false(config->cpuid_overrides[0].subleaf_specific);
    const struct cpuid_override *last = &config->cpuid_overrides[2];
    assert_true(last->function == 7 && last->index == 1 && last->vp_index == 1);
    assert_true(last->subleaf_specific && !last->vp_specific);
    assert_true(last->output[0] == 20 && last->output[3] == 23 && last->mask[0] == 30 && last->mask[3] == 33);
    assert_int_equal(config->msr_action_count, 2);
    assert_true(config->msr_actions[0].index == 0x10 && config->msr_actions[0].read == 2 &&
                config->msr_actions[0].write == 0 && config->msr_actions[1].write == 1);
    /* Replaced, then emptied, at run time. */
    exits[0] = 9;
    assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeCpuidExitList, exits, 4));
    assert_int_equal(config->cpuid_exit_count, 1);
    assert_int_equal(config->cpuid_exits[0], 9);
    assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeCpuidExitList, NULL, 0));
    assert_int_equal(config->cpuid_exit_count, 0);
    assert_ok(WHvDeletePartition(partition));
}
#undef SET

static void no_apic_in_engine(void **state)
{
    fake_capabilities.features = 1;
    P partition = partition_created(1);
    UINT32 mode = WHvX64LocalApicEmulationModeXApic;

    (void)state;
    assert_refused(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeLocalApicEmulationMode, &mode, 4),
                   E_INVALIDARG);
    assert_ok(WHvDeletePartition(partition));
}

/* What fit one engine's capabilities need not fit those at set-up. */
static void setup_checks_again(void **state)
{
    P partition = partition_created(8);

    (void)state;
    fake_capabilities.maximum_processors = 4;
    assert_refused(WHvSetupPartition(partition), WHV_E_INVALID_PARTITION_CONFIG);
    set_property(partition, WHvPartitionPropertyCodeProcessorCount, 4, 4);
    set_property(partition, WHvPartitionPropertyCodeExtendedVmExits, 0x4000, 8);
    fake_capabilities.extended_exits = 1;
    assert_refused(WHvSetupPartition(partition), WHV_E_INVALID_PARTITION_CONFIG);
    set_property(partition, WHvPartitionPropertyCodeExtendedVmExits, 1, 8);
    assert_ok(WHvSetupPartition(partition));
    assert_ok(WHvDeletePartition(partition));
}

static void reference_time(void **state)
{
    P partition = partition_created(1);
    UINT64 time = 1;

    (void)state;
    assert_ok(WHvGetPartitionProperty(partition, WHvPartitionPropertyCodeReferenceTime, &time, 8, NULL));
    assert_int_equal(time, 0);
    assert_ok(WHvSetupPartition(partition));
    assert_ok(WHvGetPartitionProperty(partition, WHvPartitionPropertyCodeReferenceTime, &time, 8, NULL));
    assert_int_equal(time, 1234567);
    assert_ok(WHvDeletePartition(partition));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("PROP-1", "F 9.6: value's size or the union's", sizes),
        CASE("PROP-2", "H Pointers", pointers),
        CASE("PROP-3", "F 9.6: WHV_E_UNKNOWN_PROPERTY", unknown_codes),
        CASE("PROP-4", "F 9.6 table", values),
        CASE("PROP-5", "H WHvSetPartitionProperty", more_bad_values),
        CASE("PROP-6", "F 9.6", defaults),
        CASE("PROP-7", "F 1.1: what is settable after Setup", after_setup),
        CASE("PROP-8", "F 9.6", boolean_is_one),
        CASE("PROP-9", "F 9.6: BanksCount must be 2", banks),
        CASE("PROP-10", "F 9.6: lists", lists),
        CASE("PROP-11", "F 9.7 LocalApicEmulation", no_apic_in_engine),
        CASE("PROP-12", "H WHvSetupPartition", setup_checks_again),
        CASE("PROP-13", "F 9.6 ReferenceTime", reference_time),
    };
    return cmocka_run_group_tests_name("property", tests, NULL, NULL);
}
