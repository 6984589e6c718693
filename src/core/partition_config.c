/*
 * The configuration's rules: who may change it when, what follows from the engine where nothing was said, and what
 * the engine must be able to satisfy. Checked value by value when a property is set (against the engine that would be
 * chosen then) and once more at set-up, when the engine is certain.
 */
#include <stdlib.h>
#include <string.h>

#include "core/engines.h"
#include "core/partition.h"
#include "util/check.h"
#include "util/last_error.h"

enum status partition_config_begin(struct partition *partition, enum config_phase phase)
{
    pthread_mutex_lock(&partition->lock);
    if (!atomic_load(&partition->is_set_up))
        return STATUS_OK;
    if (phase == CONFIG_ANY_TIME) {
        check(partition_hold(partition, true));
        return STATUS_OK;
    }
    pthread_mutex_unlock(&partition->lock);
    return fail(STATUS_INVALID_ARGUMENT, "this property is fixed once the partition is set up");
}

void partition_config_end(struct partition *partition)
{
    if (atomic_load(&partition->is_set_up))
        partition_release(partition);
    pthread_mutex_unlock(&partition->lock);
}

void partition_config_capabilities(struct partition *partition, struct engine_capabilities *out)
{
    const struct engine *engine = partition->engine;

    memset(out, 0, sizeof(*out));
    if (engine || engine_select(partition->settings.engine_choice, &engine) == STATUS_OK)
        engine->capabilities(out);
}

/* ---- defaults ---- */

static void apply_defaults(struct partition *partition, const struct engine_capabilities *caps)
{
    struct partition_config *config = &partition->config;
    uint32_t set = partition->settings.set;

    if (!(set & SET_PROCESSOR_FEATURES))
        for (int i = 0; i < 2; i++)
            config->processor_features[i] = caps->processor_features[i] & ~caps->features_on_request[i];
    if (!(set & SET_XSAVE_FEATURES))
        config->xsave_features = caps->xsave_features & ~caps->xsave_on_request;
    if (!(set & SET_CLFLUSH_SIZE))
        config->clflush_size_log2 = caps->clflush_size_log2;
    if (!(set & SET_TSC_FREQUENCY))
        config->tsc_frequency = caps->tsc_frequency;
    if (!(set & SET_APIC_FREQUENCY))
        config->apic_frequency = caps->apic_frequency;
    if (!(set & SET_PHYSICAL_ADDRESS_BITS))
        config->physical_address_bits = caps->physical_address_bits;
}

void partition_config_defaults(struct partition *partition)
{
    struct engine_capabilities caps;

    partition_config_capabilities(partition, &caps);
    apply_defaults(partition, &caps);
}

/* ---- set-up ---- */

struct subset {
    const char *what;
    uint64_t wanted, offered;
};

static enum status fit(const struct partition_config *config, const struct engine *engine,
                       const struct engine_capabilities *caps)
{
    const struct subset subsets[] = {
        {"ExtendedVmExits", config->extended_exits, caps->extended_exits},
        {"ExceptionExitBitmap", config->exception_exit_bitmap, caps->exception_exits},
        {"ProcessorFeatures", config->processor_features[0], caps->processor_features[0]},
        {"ProcessorFeatures (bank 1)", config->processor_features[1], caps->processor_features[1]},
        {"ProcessorXsaveFeatures", config->xsave_features, caps->xsave_features},
    };

    for (size_t i = 0; i < array_size(subsets); i++) {
        uint64_t missing = subsets[i].wanted & ~subsets[i].offered;
        if (missing)
            return fail(STATUS_INVALID_PARTITION_CONFIG, "%s: engine %s cannot do bits %#llx", subsets[i].what,
                        engine->name, (unsigned long long)missing);
    }
    if (config->processor_count > caps->maximum_processors)
        return fail(STATUS_INVALID_PARTITION_CONFIG, "ProcessorCount %u: engine %s has at most %u",
                    config->processor_count, engine->name, caps->maximum_processors);
    if (config->physical_address_bits > caps->physical_address_bits)
        return fail(STATUS_INVALID_PARTITION_CONFIG, "PhysicalAddressWidth %u: engine %s has at most %u",
                    config->physical_address_bits, engine->name, caps->physical_address_bits);
    return STATUS_OK;
}

static enum status join_cpuid_lists(struct partition *partition)
{
    const struct partition_settings *settings = &partition->settings;
    size_t first = settings->cpuid_results[0].count, second = settings->cpuid_results[1].count;

    if (first + second == 0)
        return STATUS_OK;
    struct cpuid_override *all = calloc(first + second, sizeof(*all));
    if (!all)
        return fail(STATUS_NO_MEMORY, "no memory for %zu CPUID results", first + second);
    if (first)
        memcpy(all, settings->cpuid_results[0].entries, first * sizeof(*all));
    if (second)
        memcpy(all + first, settings->cpuid_results[1].entries, second * sizeof(*all));
    free(partition->config.cpuid_overrides);
    partition->config.cpuid_overrides = all;
    partition->config.cpuid_override_count = first + second;
    return STATUS_OK;
}

enum status partition_config_finish(struct partition *partition, const struct engine *engine)
{
    struct engine_capabilities caps;

    memset(&caps, 0, sizeof(caps));
    engine->capabilities(&caps);
    if (caps.maximum_processors > PARTITION_VCPUS)
        caps.maximum_processors = PARTITION_VCPUS;
    apply_defaults(partition, &caps);
    enum status status = fit(&partition->config, engine, &caps);
    return status == STATUS_OK ? join_cpuid_lists(partition) : status;
}

void partition_config_free(struct partition *partition)
{
    free(partition->config.cpuid_exits);
    free(partition->config.cpuid_overrides);
    free(partition->config.msr_actions);
    free(partition->settings.cpuid_results[0].entries);
    free(partition->settings.cpuid_results[1].entries);
}
