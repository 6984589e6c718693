/*
 * An engine without a processor, for conformance tests of everything around one: exits are scripted, registers are
 * a table, and what the core asked for is counted. It keeps the engine contract, with checks of the caller's side.
 */
#ifndef OWHP_TESTS_CONFORM_FAKE_ENGINE_H
#define OWHP_TESTS_CONFORM_FAKE_ENGINE_H

#include <stdatomic.h>

#include "engine/engine.h"

extern const struct engine missing_engine; /* never usable */
extern const struct engine fake_engine;

enum { FAKE_REGISTERS = 0x28, FAKE_APIC_SIZE = 4096, FAKE_XSAVE_SIZE = 832 };

struct engine_vcpu {
    struct engine_partition *partition;
    uint32_t index;
    _Atomic bool kicked;
    _Atomic bool inside;         /* run() is active */
    _Atomic uint32_t runs;       /* times run() was entered */
    union vreg_value registers[FAKE_REGISTERS];
    uint8_t apic[FAKE_APIC_SIZE], xsave[FAKE_XSAVE_SIZE];
    struct walk_state walk;
    uint8_t cpl;
    struct vcpu_counters counters;

    /* The script: run() answers `exit` (reason not EXIT_NONE) as often as `repeat` says, then waits for a kick. */
    struct vcpu_exit exit;
    _Atomic uint32_t repeat;
};

struct engine_partition {
    const struct partition_config *config;
    struct gpa_space *space;
    struct engine_vcpu *vcpus[64];
    struct interrupt_request last_interrupt;
    _Atomic uint32_t interrupts, resets, suspends, resumes;
    bool suspended;
    enum status interrupt_status;
    uint64_t targets;
};

/* The newest partition, and its processor. */
struct engine_partition *fake_partition(void);
struct engine_vcpu *fake_vcpu(uint32_t index);

/* Partitions and processors that exist; 0 at the end of a test that leaks nothing. */
int fake_objects(void);

/* What capabilities() tells; tests may change it. */
extern struct engine_capabilities fake_capabilities;
extern bool fake_usable;

#endif
