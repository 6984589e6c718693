#include "api/api_property.h"

#include <stdlib.h>
#include <string.h>

#include "core/engines.h"

#define FEATURE_LOCAL_APIC 2u /* WHV_CAPABILITY_FEATURES.LocalApicEmulation */

/* ---- scalars ---- */

enum status property_set_apic_mode(struct partition *partition, const WHV_PARTITION_PROPERTY *value)
{
    UINT32 mode = (UINT32)value->LocalApicEmulationMode;
    struct engine_capabilities caps;

    if (mode > WHvX64LocalApicEmulationModeX2Apic)
        return fail(STATUS_INVALID_ARGUMENT, "LocalApicEmulationMode %u is not known", mode);
    partition_config_capabilities(partition, &caps);
    if (mode != WHvX64LocalApicEmulationModeNone && !(caps.features & FEATURE_LOCAL_APIC))
        return fail(STATUS_INVALID_ARGUMENT, "LocalApicEmulationMode: the engine has no local APIC");
    partition->config.apic_mode = mode;
    return STATUS_OK;
}

enum status property_set_width(struct partition *partition, const WHV_PARTITION_PROPERTY *value)
{
    struct engine_capabilities caps;

    partition_config_capabilities(partition, &caps);
    if (value->PhysicalAddressWidth < 32 || value->PhysicalAddressWidth > caps.physical_address_bits)
        return fail(STATUS_INVALID_ARGUMENT, "PhysicalAddressWidth %u is not between 32 and %u",
                    value->PhysicalAddressWidth, caps.physical_address_bits);
    partition->config.physical_address_bits = value->PhysicalAddressWidth;
    partition->settings.set |= SET_PHYSICAL_ADDRESS_BITS;
    return STATUS_OK;
}

/* ---- feature banks ---- */

void property_get_banks(struct partition *partition, WHV_PARTITION_PROPERTY *value)
{
    value->ProcessorFeaturesBanks.BanksCount = WHV_PROCESSOR_FEATURES_BANKS_COUNT;
    memcpy(value->ProcessorFeaturesBanks.AsUINT64, partition->config.processor_features,
           sizeof(partition->config.processor_features));
}

enum status property_set_banks(struct partition *partition, const WHV_PARTITION_PROPERTY *value)
{
    const WHV_PROCESSOR_FEATURES_BANKS *banks = &value->ProcessorFeaturesBanks;
    struct engine_capabilities caps;

    if (banks->BanksCount != WHV_PROCESSOR_FEATURES_BANKS_COUNT || banks->Reserved0)
        return fail(STATUS_INVALID_ARGUMENT, "ProcessorFeaturesBanks: BanksCount must be %d, Reserved0 0",
                    WHV_PROCESSOR_FEATURES_BANKS_COUNT);
    partition_config_capabilities(partition, &caps);
    for (int i = 0; i < 2; i++) {
        UINT64 missing = banks->AsUINT64[i] & ~caps.processor_features[i];
        if (missing)
            return fail(STATUS_INVALID_ARGUMENT, "ProcessorFeaturesBanks: the platform does not have bits %#llx of bank %d",
                        (unsigned long long)missing, i);
    }
    memcpy(partition->config.processor_features, banks->AsUINT64, sizeof(partition->config.processor_features));
    partition->settings.set |= SET_PROCESSOR_FEATURES;
    return STATUS_OK;
}

void property_get_synthetic_banks(struct partition *partition, WHV_PARTITION_PROPERTY *value)
{
    (void)partition;
    value->SyntheticProcessorFeaturesBanks.BanksCount = WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT;
}

enum status property_set_synthetic_banks(struct partition *partition, const WHV_PARTITION_PROPERTY *value)
{
    const WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS *banks = &value->SyntheticProcessorFeaturesBanks;

    (void)partition;
    if (banks->BanksCount != WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT || banks->Reserved0)
        return fail(STATUS_INVALID_ARGUMENT, "SyntheticProcessorFeaturesBanks: BanksCount must be %d, Reserved0 0",
                    WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT);
    if (banks->AsUINT64[0])
        return fail(STATUS_INVALID_ARGUMENT, "SyntheticProcessorFeaturesBanks: the platform has none of these");
    return STATUS_OK;
}

/* ---- time, engine ---- */

void property_get_reference_time(struct partition *partition, WHV_PARTITION_PROPERTY *value)
{
    value->ReferenceTime = partition_reference_time(partition);
}

void property_get_engine(struct partition *partition, WHV_PARTITION_PROPERTY *value)
{
    UINT32 engine = partition->engine ? (UINT32)engine_kind(partition->engine) : partition->settings.engine_choice;

    memcpy(value, &engine, sizeof(engine));
}

enum status property_set_engine(struct partition *partition, const WHV_PARTITION_PROPERTY *value)
{
    UINT32 choice;

    memcpy(&choice, value, sizeof(choice));
    if (choice > ENGINE_KVM)
        return fail(STATUS_INVALID_ARGUMENT, "engine %u is not known (auto is 0, soft is 1, kvm is 2)", choice);
    partition->settings.engine_choice = choice;
    partition_config_defaults(partition);
    return STATUS_OK;
}

/* ---- lists ---- */

/* An array for count entries (NULL for none). */
static enum status allocate(void **array, size_t count, size_t size)
{
    *array = NULL;
    if (count && !(*array = calloc(count, size)))
        return fail(STATUS_NO_MEMORY, "no memory for a list of %zu entries", count);
    return STATUS_OK;
}

enum status property_set_cpuid_exits(struct partition *partition, const void *entries, size_t count)
{
    void *array;
    enum status status = allocate(&array, count, sizeof(uint32_t));

    if (status != STATUS_OK)
        return status;
    if (count)
        memcpy(array, entries, count * sizeof(uint32_t));
    free(partition->config.cpuid_exits);
    partition->config.cpuid_exits = array;
    partition->config.cpuid_exit_count = count;
    return STATUS_OK;
}

static void keep_results(struct partition *partition, int which, struct cpuid_override *array, size_t count)
{
    free(partition->settings.cpuid_results[which].entries);
    partition->settings.cpuid_results[which].entries = array;
    partition->settings.cpuid_results[which].count = count;
}

enum status property_set_cpuid_results(struct partition *partition, const void *entries, size_t count)
{
    const WHV_X64_CPUID_RESULT *in = entries;
    void *array;
    enum status status = allocate(&array, count, sizeof(struct cpuid_override));

    if (status != STATUS_OK)
        return status;
    struct cpuid_override *out = array;
    for (size_t i = 0; i < count; i++) {
        if (in[i].Reserved[0] || in[i].Reserved[1] || in[i].Reserved[2]) {
            free(array);
            return fail(STATUS_INVALID_ARGUMENT, "CpuidResultList: Reserved is not 0 in entry %zu", i);
        }
        out[i] = (struct cpuid_override){.function = in[i].Function,
                                         .output = {in[i].Eax, in[i].Ebx, in[i].Ecx, in[i].Edx},
                                         .mask = {~0u, ~0u, ~0u, ~0u}};
    }
    keep_results(partition, 0, array, count);
    return STATUS_OK;
}

enum status property_set_cpuid_results2(struct partition *partition, const void *entries, size_t count)
{
    const UINT32 known = WHvX64CpuidResult2FlagSubleafSpecific | WHvX64CpuidResult2FlagVpSpecific;
    const WHV_X64_CPUID_RESULT2 *in = entries;
    void *array;
    enum status status = allocate(&array, count, sizeof(struct cpuid_override));

    if (status != STATUS_OK)
        return status;
    struct cpuid_override *out = array;
    for (size_t i = 0; i < count; i++) {
        UINT32 flags = (UINT32)in[i].Flags;
        if (flags & ~known) {
            free(array);
            return fail(STATUS_INVALID_ARGUMENT, "CpuidResultList2: unknown flags %#x in entry %zu", flags, i);
        }
        out[i] = (struct cpuid_override){.function = in[i].Function,
                                         .index = in[i].Index,
                                         .vp_index = in[i].VpIndex,
                                         .subleaf_specific = flags & WHvX64CpuidResult2FlagSubleafSpecific,
                                         .vp_specific = flags & WHvX64CpuidResult2FlagVpSpecific};
        memcpy(out[i].output, &in[i].Output, sizeof(out[i].output));
        memcpy(out[i].mask, &in[i].Mask, sizeof(out[i].mask));
    }
    keep_results(partition, 1, array, count);
    return STATUS_OK;
}

enum status property_set_msr_actions(struct partition *partition, const void *entries, size_t count)
{
    const WHV_MSR_ACTION_ENTRY *in = entries;
    void *array;
    enum status status = allocate(&array, count, sizeof(struct msr_action));

    if (status != STATUS_OK)
        return status;
    struct msr_action *out = array;
    for (size_t i = 0; i < count; i++) {
        if (in[i].Reserved || in[i].ReadAction > WHvMsrActionExit || in[i].WriteAction > WHvMsrActionExit) {
            free(array);
            return fail(STATUS_INVALID_ARGUMENT, "MsrActionList: entry %zu has an unknown action or Reserved not 0", i);
        }
        out[i] = (struct msr_action){in[i].Index, in[i].ReadAction, in[i].WriteAction};
    }
    free(partition->config.msr_actions);
    partition->config.msr_actions = array;
    partition->config.msr_action_count = count;
    return STATUS_OK;
}
