/*
 * What a partition was configured to be: the properties that engines look at. Written by the api layer
 * under the partition's lock; those settable after set-up are read by the engine at every run entry.
 */
#ifndef OWHP_CORE_CONFIG_H
#define OWHP_CORE_CONFIG_H

#include "util/types.h"

enum apic_mode { APIC_MODE_NONE = 0, APIC_MODE_XAPIC = 1, APIC_MODE_X2APIC = 2 };

/* Bits as in WHV_EXTENDED_VM_EXITS and WHV_X64_MSR_EXIT_BITMAP. */
enum {
    EXTENDED_EXIT_CPUID = 1u << 0,
    EXTENDED_EXIT_MSR = 1u << 1,
    EXTENDED_EXIT_EXCEPTION = 1u << 2,
    EXTENDED_EXIT_RDTSC = 1u << 3,
    EXTENDED_EXIT_APIC_SMI = 1u << 4,
    EXTENDED_EXIT_HYPERCALL = 1u << 5,
    EXTENDED_EXIT_APIC_INIT_SIPI = 1u << 6,
    EXTENDED_EXIT_APIC_LINT0 = 1u << 7,
    EXTENDED_EXIT_APIC_LINT1 = 1u << 8,
    EXTENDED_EXIT_APIC_SVR = 1u << 9,
    EXTENDED_EXIT_APIC_LDR = 1u << 12,
    EXTENDED_EXIT_APIC_DFR = 1u << 13,
    EXTENDED_EXIT_GPA_ACCESS_FAULT = 1u << 14,

    MSR_EXIT_UNHANDLED = 1u << 0,
    MSR_EXIT_TSC_WRITE = 1u << 1,
    MSR_EXIT_TSC_READ = 1u << 2,
    MSR_EXIT_APIC_BASE_WRITE = 1u << 3,
    MSR_EXIT_MISC_ENABLE_READ = 1u << 4,
    MSR_EXIT_MICROCODE_READ = 1u << 5,
};

/* A fixed answer to CPUID (result lists 1 and 2 in one form). */
struct cpuid_override {
    uint32_t function, index, vp_index;
    bool subleaf_specific, vp_specific;
    uint32_t output[4], mask[4]; /* eax ebx ecx edx; mask bits 1: taken from output */
};

struct msr_action {
    uint32_t index;
    uint8_t read, write; /* 0 default, 1 ignore write / read zero, 2 exit */
};

struct partition_config {
    uint32_t processor_count;
    uint32_t physical_address_bits; /* what the guest sees and GPAs may use */
    uint32_t apic_mode;
    uint64_t extended_exits;
    uint64_t exception_exit_bitmap;
    uint64_t msr_exit_bitmap;
    uint32_t unimplemented_msr_action;
    uint64_t processor_features[2];     /* WHV_PROCESSOR_FEATURES_BANKS presented to the guest */
    uint64_t xsave_features;
    uint8_t clflush_size_log2;
    uint64_t tsc_frequency, apic_frequency; /* Hz */
    uint32_t *cpuid_exits;
    size_t cpuid_exit_count;
    struct cpuid_override *cpuid_overrides;
    size_t cpuid_override_count;
    struct msr_action *msr_actions;
    size_t msr_action_count;
};

#endif
