/*
 * WHvGetPartitionProperty and WHvSetPartitionProperty: one table row per property. Most rows are a member of the
 * partition and a rule for its values; the lists and a few odd ones have functions.
 */
#include "api/api.h"

#include <stdlib.h>
#include <string.h>

#include "api/api_property.h"
#include "core/engines.h"

/* What a value must satisfy to be accepted. */
enum rule {
    RULE_ANY,
    RULE_SUBSET,      /* of the engine's capability at `bound` */
    RULE_SAME,        /* as the engine's capability at `bound`: known to the guest, but not changeable */
    RULE_BETWEEN,     /* first and bound */
    RULE_BOOLEAN,     /* stored as 0 or 1 */
    RULE_ZERO,        /* the platform does not have it: only 0, which is not stored */
    RULE_READ_ONLY,
};

struct property {
    const char *name;
    UINT32 code;
    UINT32 size; /* of the value in the API; of one entry, for lists */
    enum config_phase phase;
    enum rule rule;
    UINT64 first, bound;
    size_t member, width; /* in struct partition; width 0: no member */
    uint32_t set_flag;    /* SET_* */

    /* In place of the member. */
    void (*get)(struct partition *partition, WHV_PARTITION_PROPERTY *value);
    enum status (*set)(struct partition *partition, const WHV_PARTITION_PROPERTY *value);
    enum status (*set_list)(struct partition *partition, const void *entries, size_t count);
};

#define MEMBER(path) .member = offsetof(struct partition, path), .width = sizeof(((struct partition *)0)->path)
#define CAPABILITY(path) .rule = RULE_SUBSET, .bound = offsetof(struct engine_capabilities, path)
#define SAME_AS(path) .rule = RULE_SAME, .bound = offsetof(struct engine_capabilities, path)
#define NAMED(short_name) .name = #short_name, .code = (UINT32)WHvPartitionPropertyCode##short_name

static const struct property properties[] = {
    {NAMED(ExtendedVmExits), .size = 8, .phase = CONFIG_ANY_TIME, MEMBER(config.extended_exits),
     CAPABILITY(extended_exits)},
    {NAMED(ExceptionExitBitmap), .size = 8, .phase = CONFIG_ANY_TIME, MEMBER(config.exception_exit_bitmap),
     CAPABILITY(exception_exits)},
    {NAMED(SeparateSecurityDomain), .size = 4, MEMBER(settings.separate_security_domain), .rule = RULE_BOOLEAN},
    {NAMED(NestedVirtualization), .size = 4, .rule = RULE_ZERO},
    {NAMED(X64MsrExitBitmap), .size = 8, .phase = CONFIG_ANY_TIME, MEMBER(config.msr_exit_bitmap),
     CAPABILITY(msr_exits)},
    {NAMED(PrimaryNumaNode), .size = 2, .rule = RULE_ZERO},
    {NAMED(CpuReserve), .size = 4, .rule = RULE_ZERO},
    {NAMED(CpuCap), .size = 4, .rule = RULE_ZERO},
    {NAMED(CpuWeight), .size = 4, .rule = RULE_ZERO},
    {NAMED(CpuGroupId), .size = 8, .rule = RULE_ZERO},
    {NAMED(ProcessorFrequencyCap), .size = 4, .rule = RULE_ZERO},
    {NAMED(AllowDeviceAssignment), .size = 4, .rule = RULE_ZERO},
    {NAMED(DisableSmt), .size = 4, .rule = RULE_ZERO},
    {NAMED(ProcessorFeatures), .size = 8, MEMBER(config.processor_features[0]), CAPABILITY(processor_features[0]),
     .set_flag = SET_PROCESSOR_FEATURES},
    {NAMED(ProcessorClFlushSize), .size = 1, MEMBER(config.clflush_size_log2), SAME_AS(clflush_size_log2),
     .set_flag = SET_CLFLUSH_SIZE},
    {NAMED(CpuidExitList), .size = 4, .phase = CONFIG_ANY_TIME, .set_list = property_set_cpuid_exits},
    {NAMED(CpuidResultList), .size = sizeof(WHV_X64_CPUID_RESULT), .set_list = property_set_cpuid_results},
    {NAMED(LocalApicEmulationMode), .size = 4, MEMBER(config.apic_mode), .set = property_set_apic_mode},
    {NAMED(ProcessorXsaveFeatures), .size = 8, MEMBER(config.xsave_features), CAPABILITY(xsave_features),
     .set_flag = SET_XSAVE_FEATURES},
    {NAMED(ProcessorClockFrequency), .size = 8, MEMBER(config.tsc_frequency), SAME_AS(tsc_frequency),
     .set_flag = SET_TSC_FREQUENCY},
    {NAMED(InterruptClockFrequency), .size = 8, MEMBER(config.apic_frequency), .rule = RULE_BETWEEN,
     .first = 1000000, .bound = 1000000000000, .set_flag = SET_APIC_FREQUENCY},
    {NAMED(ApicRemoteReadSupport), .size = 4, .rule = RULE_ZERO},
    {NAMED(ProcessorFeaturesBanks), .size = sizeof(WHV_PROCESSOR_FEATURES_BANKS), .get = property_get_banks,
     .set = property_set_banks},
    {NAMED(ReferenceTime), .size = 8, .rule = RULE_READ_ONLY, .get = property_get_reference_time},
    {NAMED(SyntheticProcessorFeaturesBanks), .size = sizeof(WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS),
     .get = property_get_synthetic_banks, .set = property_set_synthetic_banks},
    {NAMED(CpuidResultList2), .size = sizeof(WHV_X64_CPUID_RESULT2), .set_list = property_set_cpuid_results2},
    {NAMED(ProcessorPerfmonFeatures), .size = 8, .rule = RULE_ZERO},
    {NAMED(MsrActionList), .size = sizeof(WHV_MSR_ACTION_ENTRY), .set_list = property_set_msr_actions},
    {NAMED(UnimplementedMsrAction), .size = 4, MEMBER(config.unimplemented_msr_action), .rule = RULE_BETWEEN,
     .bound = WHvMsrActionExit},
    {NAMED(PhysicalAddressWidth), .size = 4, MEMBER(config.physical_address_bits), .set = property_set_width},
    {NAMED(ProcessorCount), .size = 4, MEMBER(config.processor_count), .rule = RULE_BETWEEN, .first = 1,
     .bound = PARTITION_VCPUS},
    {.name = "Engine", .code = (UINT32)OwhpPartitionPropertyCodeEngine, .size = 4, .get = property_get_engine,
     .set = property_set_engine},
};

static const struct property *find(UINT32 code)
{
    for (size_t i = 0; i < array_size(properties); i++)
        if (properties[i].code == code)
            return &properties[i];
    (void)fail(STATUS_UNKNOWN_PROPERTY, "property %#x is not known", code);
    return NULL;
}

/* ---- get ---- */

static enum status get(struct partition *partition, UINT32 code, const struct output *output)
{
    const struct property *property = find(code);
    WHV_PARTITION_PROPERTY value;

    if (!property)
        return STATUS_UNKNOWN_PROPERTY;
    if (property->set_list)
        return fail(STATUS_NOT_SUPPORTED, "%s can only be written", property->name);
    enum status status = require_pointer(output->buffer, "PropertyBuffer");
    if (status != STATUS_OK)
        return status;
    memset(&value, 0, sizeof(value));
    pthread_mutex_lock(&partition->lock);
    if (property->get)
        property->get(partition, &value);
    else
        memcpy(&value, (const char *)partition + property->member, property->width);
    pthread_mutex_unlock(&partition->lock);
    return output_put(output, &value, property->size);
}

HRESULT WINAPI WHvGetPartitionProperty(WHV_PARTITION_HANDLE Partition, WHV_PARTITION_PROPERTY_CODE PropertyCode,
                                       VOID *PropertyBuffer, UINT32 PropertyBufferSizeInBytes,
                                       UINT32 *WrittenSizeInBytes)
{
    const struct output output = {PropertyBuffer, PropertyBufferSizeInBytes, WrittenSizeInBytes};

    RETURN_ON_PARTITION(Partition, get(partition, (UINT32)PropertyCode, &output));
}

/* ---- set ---- */

static enum status obey(struct partition *partition, const struct property *property, UINT64 *value)
{
    struct engine_capabilities caps;
    uint64_t offered = 0;

    switch (property->rule) {
    case RULE_SUBSET:
        partition_config_capabilities(partition, &caps);
        memcpy(&offered, (const char *)&caps + property->bound, sizeof(offered));
        if (*value & ~offered)
            return fail(STATUS_INVALID_ARGUMENT, "%s %#llx: the platform does not have bits %#llx", property->name,
                        (unsigned long long)*value, (unsigned long long)(*value & ~offered));
        return STATUS_OK;
    case RULE_SAME:
        partition_config_capabilities(partition, &caps);
        memcpy(&offered, (const char *)&caps + property->bound, property->width);
        if (*value != offered)
            return fail(STATUS_INVALID_ARGUMENT, "%s %llu: the platform only has %llu", property->name,
                        (unsigned long long)*value, (unsigned long long)offered);
        return STATUS_OK;
    case RULE_BETWEEN:
        if (*value < property->first || *value > property->bound)
            return fail(STATUS_INVALID_ARGUMENT, "%s %llu is not between %llu and %llu", property->name,
                        (unsigned long long)*value, (unsigned long long)property->first,
                        (unsigned long long)property->bound);
        return STATUS_OK;
    case RULE_BOOLEAN:
        *value = *value != 0;
        return STATUS_OK;
    case RULE_ZERO:
        if (*value)
            return fail(STATUS_INVALID_ARGUMENT, "%s: the platform does not have this", property->name);
        return STATUS_OK;
    case RULE_READ_ONLY:
        return fail(STATUS_INVALID_ARGUMENT, "%s can only be read", property->name);
    case RULE_ANY:
        break;
    }
    return STATUS_OK;
}

static enum status set_scalar(struct partition *partition, const struct property *property,
                              const WHV_PARTITION_PROPERTY *buffer)
{
    UINT64 value = 0;

    if (property->set)
        return property->set(partition, buffer);
    memcpy(&value, buffer, property->size < sizeof(value) ? property->size : sizeof(value));
    enum status status = obey(partition, property, &value);
    if (status != STATUS_OK)
        return status;
    memcpy((char *)partition + property->member, &value, property->width);
    partition->settings.set |= property->set_flag;
    return STATUS_OK;
}

static enum status set_value(struct partition *partition, const struct property *property, const void *buffer,
                             UINT32 size)
{
    WHV_PARTITION_PROPERTY value;

    if (size != property->size && size != sizeof(value))
        return fail(STATUS_INVALID_ARGUMENT, "%s has %u bytes, not %u", property->name, property->size, size);
    memset(&value, 0, sizeof(value));
    enum status status = caller_read(&value, buffer, property->size, "PropertyBuffer");
    if (status == STATUS_OK)
        status = partition_config_begin(partition, property->phase);
    if (status != STATUS_OK)
        return status;
    status = set_scalar(partition, property, &value);
    partition_config_end(partition);
    return status;
}

enum { LIST_LIMIT = 65536 };

static enum status set_list(struct partition *partition, const struct property *property, const void *buffer,
                            UINT32 size)
{
    size_t count = size / property->size;
    void *entries = NULL;

    if (size % property->size || count > LIST_LIMIT)
        return fail(STATUS_INVALID_ARGUMENT, "%s: %u bytes are not up to %d entries of %u", property->name, size,
                    LIST_LIMIT, property->size);
    if (count && !(entries = malloc(size)))
        return fail(STATUS_NO_MEMORY, "%s: no memory for %zu entries", property->name, count);
    enum status status = caller_read(entries, buffer, size, "PropertyBuffer");
    if (status == STATUS_OK)
        status = partition_config_begin(partition, property->phase);
    if (status == STATUS_OK) {
        status = property->set_list(partition, entries, count);
        partition_config_end(partition);
    }
    free(entries);
    return status;
}

static enum status set(struct partition *partition, UINT32 code, const void *buffer, UINT32 size)
{
    const struct property *property = find(code);

    if (!property)
        return STATUS_UNKNOWN_PROPERTY;
    if (!buffer && size)
        return fail(STATUS_BAD_POINTER, "PropertyBuffer is NULL");
    return property->set_list ? set_list(partition, property, buffer, size)
                              : set_value(partition, property, buffer, size);
}

HRESULT WINAPI WHvSetPartitionProperty(WHV_PARTITION_HANDLE Partition, WHV_PARTITION_PROPERTY_CODE PropertyCode,
                                       const VOID *PropertyBuffer, UINT32 PropertyBufferSizeInBytes)
{
    RETURN_ON_PARTITION(Partition, set(partition, (UINT32)PropertyCode, PropertyBuffer, PropertyBufferSizeInBytes));
}
