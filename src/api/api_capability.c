/* WHvGetCapability: a table of what the chosen engine says. */
#include "api/api.h"

#include <string.h>

#include "core/engines.h"
#include "mem/gpa_advise.h"

/* One capability: `size` bytes of answer, of which `source_size` come from the engine's capabilities. */
struct capability {
    UINT32 code;
    UINT8 size, source_size;
    UINT16 source;
};

#define FROM(code, member, bytes)                                                                  \
    {                                                                                              \
        code, bytes, sizeof(((struct engine_capabilities *)0)->member),                            \
            offsetof(struct engine_capabilities, member)                                           \
    }
#define ZERO(code, type)                                                                           \
    {                                                                                              \
        code, sizeof(type), 0, 0                                                                   \
    }

static const struct capability capabilities[] = {
    FROM(WHvCapabilityCodeFeatures, features, 8),
    FROM(WHvCapabilityCodeExtendedVmExits, extended_exits, 8),
    FROM(WHvCapabilityCodeExceptionExitBitmap, exception_exits, 8),
    FROM(WHvCapabilityCodeX64MsrExitBitmap, msr_exits, 8),
    ZERO(WHvCapabilityCodeSchedulerFeatures, WHV_SCHEDULER_FEATURES),
    FROM(WHvCapabilityCodeProcessorVendor, vendor, 4),
    FROM(WHvCapabilityCodeProcessorFeatures, processor_features[0], 8),
    FROM(WHvCapabilityCodeProcessorClFlushSize, clflush_size_log2, 1),
    FROM(WHvCapabilityCodeProcessorXsaveFeatures, xsave_features, 8),
    FROM(WHvCapabilityCodeProcessorClockFrequency, tsc_frequency, 8),
    FROM(WHvCapabilityCodeInterruptClockFrequency, apic_frequency, 8),
    ZERO(WHvCapabilityCodeProcessorFrequencyCap, WHV_CAPABILITY_PROCESSOR_FREQUENCY_CAP),
    ZERO(WHvCapabilityCodeProcessorPerfmonFeatures, WHV_PROCESSOR_PERFMON_FEATURES),
    FROM(WHvCapabilityCodePhysicalAddressWidth, physical_address_bits, 4),
    FROM((UINT32)OwhpCapabilityCodeEngineDifferences, differences, 8),
};

static enum status put_from_engine(const struct capability *capability, const struct engine_capabilities *caps,
                                   const struct output *output)
{
    WHV_CAPABILITY value;

    memset(&value, 0, sizeof(value));
    memcpy(&value, (const char *)caps + capability->source, capability->source_size);
    return output_put(output, &value, capability->size);
}

static enum status put_banks(const struct engine_capabilities *caps, const struct output *output)
{
    WHV_PROCESSOR_FEATURES_BANKS banks = {.BanksCount = WHV_PROCESSOR_FEATURES_BANKS_COUNT};

    banks.AsUINT64[0] = caps->processor_features[0];
    banks.AsUINT64[1] = caps->processor_features[1];
    return output_put(output, &banks, sizeof(banks));
}

static enum status put_synthetic_banks(const struct output *output)
{
    const WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS banks = {
        .BanksCount = WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT};

    return output_put(output, &banks, sizeof(banks));
}

static enum status put_populate_flags(const struct output *output)
{
    const UINT32 flags = GPA_POPULATE_ALL_FLAGS;

    return output_put(output, &flags, sizeof(flags));
}

static enum status put_code(UINT32 code, const struct engine_capabilities *caps, const struct output *output)
{
    for (size_t i = 0; i < array_size(capabilities); i++)
        if (capabilities[i].code == code)
            return put_from_engine(&capabilities[i], caps, output);
    switch (code) {
    case WHvCapabilityCodeProcessorFeaturesBanks:
        return put_banks(caps, output);
    case WHvCapabilityCodeSyntheticProcessorFeaturesBanks:
        return put_synthetic_banks(output);
    case WHvCapabilityCodeGpaRangePopulateFlags:
        return put_populate_flags(output);
    default:
        break;
    }
    if (code >= WHvCapabilityCodeVmxBasic && code <= WHvCapabilityCodeVmxTrueEntryCtls)
        return fail(STATUS_NOT_SUPPORTED, "capability %#x: no engine has nested virtualization", code);
    return fail(STATUS_UNKNOWN_CAPABILITY, "capability %#x is not known", code);
}

static enum status get(UINT32 code, const struct output *output)
{
    const struct engine *engine;
    struct engine_capabilities caps;

    enum status status = require_pointer(output->buffer, "CapabilityBuffer");
    if (status != STATUS_OK)
        return status;
    status = engine_select(ENGINE_AUTO, &engine);
    if (code == WHvCapabilityCodeHypervisorPresent) {
        BOOL present = status == STATUS_OK;
        return output_put(output, &present, sizeof(present));
    }
    if (status != STATUS_OK)
        return status;
    memset(&caps, 0, sizeof(caps));
    engine->capabilities(&caps);
    return put_code(code, &caps, output);
}

HRESULT WINAPI WHvGetCapability(WHV_CAPABILITY_CODE CapabilityCode, VOID *CapabilityBuffer,
                                UINT32 CapabilityBufferSizeInBytes, UINT32 *WrittenSizeInBytes)
{
    const struct output output = {CapabilityBuffer, CapabilityBufferSizeInBytes, WrittenSizeInBytes};

    return api_result(__func__, get((UINT32)CapabilityCode, &output));
}
