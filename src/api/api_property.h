/*
 * The properties that are more than a number (api_property_special.c). Setters are called between
 * partition_config_begin and end, getters under the partition's lock; lists are aligned and checked for size.
 */
#ifndef OWHP_API_API_PROPERTY_H
#define OWHP_API_API_PROPERTY_H

#include "api/api.h"

enum status property_set_apic_mode(struct partition *partition, const WHV_PARTITION_PROPERTY *value);
enum status property_set_width(struct partition *partition, const WHV_PARTITION_PROPERTY *value);

void property_get_banks(struct partition *partition, WHV_PARTITION_PROPERTY *value);
enum status property_set_banks(struct partition *partition, const WHV_PARTITION_PROPERTY *value);
void property_get_synthetic_banks(struct partition *partition, WHV_PARTITION_PROPERTY *value);
enum status property_set_synthetic_banks(struct partition *partition, const WHV_PARTITION_PROPERTY *value);

void property_get_reference_time(struct partition *partition, WHV_PARTITION_PROPERTY *value);

void property_get_engine(struct partition *partition, WHV_PARTITION_PROPERTY *value);
enum status property_set_engine(struct partition *partition, const WHV_PARTITION_PROPERTY *value);

/* Each replaces its whole list; count 0 empties it. */
enum status property_set_cpuid_exits(struct partition *partition, const void *entries, size_t count);
enum status property_set_cpuid_results(struct partition *partition, const void *entries, size_t count);
enum status property_set_cpuid_results2(struct partition *partition, const void *entries, size_t count);
enum status property_set_msr_actions(struct partition *partition, const void *entries, size_t count);

#endif
