/* Partitions: create, set up, reset, delete, time; the choice of the engine. */
#include "conform.h"

#include <stdlib.h>
#include <string.h>

#include "core/engines.h"
#include "fake_engine.h"

typedef WHV_PARTITION_HANDLE P;

static void create_pointers(void **state)
{
    (void)state;
    assert_refused(WHvCreatePartition(NULL), E_POINTER);
    assert_refused(WHvCreatePartition(WILD), E_POINTER);
    assert_int_equal(fake_objects(), 0);
}

static void setup_needs_processor_count(void **state)
{
    P partition = partition_created(0);

    (void)state;
    assert_refused(WHvSetupPartition(partition), WHV_E_INVALID_PARTITION_CONFIG);
    /* Nothing has changed: it can still be configured and set up. */
    set_property(partition, WHvPartitionPropertyCodeProcessorCount, 1, 4);
    assert_ok(WHvSetupPartition(partition));
    assert_refused(WHvSetupPartition(partition), E_INVALID_STATE);
    assert_ok(WHvDeletePartition(partition));
}

static void delete_twice(void **state)
{
    P created = partition_created(1), set_up = partition_with_vcpu();

    (void)state;
    assert_ok(WHvDeletePartition(created));
    assert_ok(WHvDeletePartition(set_up));
    assert_refused(WHvDeletePartition(created), E_HANDLE);
    assert_refused(WHvDeletePartition(set_up), E_HANDLE);
    assert_refused(WHvUnmapGpaRange(set_up, 0, 4096), E_HANDLE);
}

/* A slot is used again; the handle that had it before stays dead. */
static void handles_differ(void **state)
{
    P handles[600];

    (void)state;
    for (int i = 0; i < 600; i++) {
        handles[i] = partition_created(1);
        assert_non_null(handles[i]);
        for (int k = 0; k < i; k++)
            assert_ptr_not_equal(handles[i], handles[k]);
        if (i >= 300)
            assert_refused(WHvSetupPartition(handles[i - 300]), E_HANDLE);
        if (i >= 299)
            assert_ok(WHvDeletePartition(handles[i - 299]));
    }
    for (int i = 301; i < 600; i++)
        assert_ok(WHvDeletePartition(handles[i]));
}

/* Each has its own memory, processors and properties. */
static void several_with_memory(void **state)
{
    P partitions[8];
    const WHV_ACCESS_GPA_CONTROLS controls = {0};
    UINT64 value;

    (void)state;
    for (UINT64 i = 0; i < 8; i++) {
        UINT64 *page = host_pages(1);
        page[0] = 100 + i;
        partitions[i] = partition_with_vcpu();
        assert_ok(WHvMapGpaRange(partitions[i], page, 0x1000, 4096, WHvMapGpaRangeFlagRead));
    }
    for (UINT64 i = 0; i < 8; i++) {
        assert_ok(WHvReadGpaRange(partitions[i], 0, 0x1000, controls, &value, 8));
        assert_int_equal(value, 100 + i);
    }
    for (int i = 0; i < 8; i++)
        assert_ok(WHvDeletePartition(partitions[i]));
}

static void reset_rules(void **state)
{
    P partition = partition_with_vcpu();
    const WHV_REGISTER_NAME name = WHvX64RegisterRax;
    WHV_REGISTER_VALUE value = {.Reg64 = 7};
    WHV_RUN_VP_EXIT_CONTEXT context;
    UINT64 *page = host_pages(1), seen;
    const WHV_ACCESS_GPA_CONTROLS controls = {0};

    (void)state;
    page[0] = 99;
    assert_ok(WHvMapGpaRange(partition, page, 0, 4096, WHvMapGpaRangeFlagRead));
    assert_ok(WHvSetVirtualProcessorRegisters(partition, 0, &name, 1, &value));
    assert_ok(WHvCancelRunVirtualProcessor(partition, 0, 0));
    assert_ok(WHvResetPartition(partition));
    assert_int_equal(fake_partition()->resets, 1);
    assert_ok(WHvGetVirtualProcessorRegisters(partition, 0, &name, 1, &value));
    assert_int_equal(value.Reg64, 0);
    assert_ok(WHvReadGpaRange(partition, 0, 0, controls, &seen, 8));
    assert_int_equal(seen, 99);
    /* Time stands still until the next run, and the cancel is forgotten: the run gets to the scripted exit. */
    assert_true(fake_partition()->suspended);
    fake_vcpu(0)->exit.reason = EXIT_HALT;
    fake_vcpu(0)->repeat = 1;
    assert_ok(WHvRunVirtualProcessor(partition, 0, &context, sizeof(context)));
    assert_int_equal(context.ExitReason, WHvRunVpExitReasonX64Halt);
    assert_false(fake_partition()->suspended);
    assert_ok(WHvDeletePartition(partition));
}

static void time_rules(void **state)
{
    P partition = partition_with_vcpu();
    WHV_RUN_VP_EXIT_CONTEXT context;

    (void)state;
    assert_ok(WHvResumePartitionTime(partition)); /* was not stopped */
    assert_int_equal(fake_partition()->resumes, 0);
    assert_ok(WHvSuspendPartitionTime(partition));
    assert_ok(WHvSuspendPartitionTime(partition));
    assert_int_equal(fake_partition()->suspends, 1);
    assert_ok(WHvResumePartitionTime(partition));
    assert_int_equal(fake_partition()->resumes, 1);
    assert_ok(WHvSuspendPartitionTime(partition));
    assert_ok(WHvCancelRunVirtualProcessor(partition, 0, 0));
    assert_ok(WHvRunVirtualProcessor(partition, 0, &context, sizeof(context))); /* lets it go on */
    assert_int_equal(fake_partition()->resumes, 2);
    assert_ok(WHvDeletePartition(partition));
}

/* ---- engines ---- */

static void engine_by_environment(void **state)
{
    P partition;
    BOOL present = 7;
    UINT64 features;

    (void)state;
    setenv("OPENWHP_ENGINE", "kvm", 1);
    assert_refused(WHvCreatePartition(&partition), WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG);
    assert_non_null(strstr(OwhpGetLastErrorText(), "kvm"));
    assert_ok(WHvGetCapability(WHvCapabilityCodeHypervisorPresent, &present, 4, NULL));
    assert_int_equal(present, FALSE);
    assert_refused(WHvGetCapability(WHvCapabilityCodeFeatures, &features, 8, NULL),
                   WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG);
    setenv("OPENWHP_ENGINE", "sofd", 1);
    assert_refused(WHvCreatePartition(&partition), WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG);
    assert_non_null(strstr(OwhpGetLastErrorText(), "sofd"));
    const char *good[] = {"soft", "auto", ""};
    for (int i = 0; i < 3; i++) {
        setenv("OPENWHP_ENGINE", good[i], 1);
        assert_ok(WHvCreatePartition(&partition));
        assert_ok(WHvDeletePartition(partition));
    }
    unsetenv("OPENWHP_ENGINE");
}

static void engine_by_property(void **state)
{
    P partition = partition_created(1);
    UINT32 engine, written;

    (void)state;
    assert_ok(WHvGetPartitionProperty(partition, OwhpPartitionPropertyCodeEngine, &engine, 4, &written));
    assert_int_equal(engine, OwhpEngineAuto);
    assert_int_equal(written, 4);
    engine = 3;
    assert_refused(WHvSetPartitionProperty(partition, OwhpPartitionPropertyCodeEngine, &engine, 4), E_INVALIDARG);
    set_property(partition, OwhpPartitionPropertyCodeEngine, OwhpEngineKvm, 4);
    assert_refused(WHvSetupPartition(partition), WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG);
    set_property(partition, OwhpPartitionPropertyCodeEngine, OwhpEngineSoft, 4);
    assert_ok(WHvSetupPartition(partition));
    assert_refused(WHvSetPartitionProperty(partition, OwhpPartitionPropertyCodeEngine, &engine, 4), E_INVALIDARG);
    assert_ok(WHvDeletePartition(partition));
    partition = partition_set_up(1);
    assert_ok(WHvGetPartitionProperty(partition, OwhpPartitionPropertyCodeEngine, &engine, 4, NULL));
    assert_int_equal(engine, OwhpEngineSoft); /* what is used, never Auto */
    assert_ok(WHvDeletePartition(partition));
}

static void engine_query_words(void **state)
{
    char reason[100], tiny[4] = "xyz";

    (void)state;
    assert_ok(OwhpQueryEngine(OwhpEngineSoft, reason, sizeof(reason)));
    assert_string_equal(reason, "");
    assert_ok(OwhpQueryEngine(OwhpEngineAuto, reason, sizeof(reason)));
    assert_non_null(strstr(reason, "fake: ")); /* and why not the other one */
    assert_non_null(strstr(reason, "kvm"));
    setenv("OPENWHP_ENGINE", "soft", 1);
    assert_ok(OwhpQueryEngine(OwhpEngineAuto, reason, sizeof(reason)));
    assert_string_equal(reason, "fake: OPENWHP_ENGINE asks for it");
    unsetenv("OPENWHP_ENGINE");
    assert_refused(OwhpQueryEngine(OwhpEngineKvm, reason, sizeof(reason)), WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG);
    assert_non_null(strstr(reason, "kvm"));
    assert_refused(OwhpQueryEngine(OwhpEngineKvm, tiny, 3), WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG);
    assert_int_equal(tiny[2], 0);
    assert_int_equal(strlen(tiny), 2);
    assert_refused(OwhpQueryEngine(OwhpEngineKvm, NULL, 0), WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG);
    assert_refused(OwhpQueryEngine((OWHP_ENGINE)3, reason, sizeof(reason)), E_INVALIDARG);
    fake_usable = false;
    assert_refused(OwhpQueryEngine(OwhpEngineSoft, reason, sizeof(reason)), WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG);
    assert_string_equal(reason, "the test says so");
}

static void error_text(void **state)
{
    P partition;

    (void)state;
    assert_refused(WHvDeletePartition(NULL), E_HANDLE);
    assert_ok(WHvCreatePartition(&partition));
    /* Successful calls leave the text alone. */
    assert_non_null(strstr(OwhpGetLastErrorText(), "WHvDeletePartition: "));
    assert_ok(WHvDeletePartition(partition));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("PART-1", "H WHvCreatePartition", create_pointers),
        CASE("PART-2", "F 9.6: Setup without ProcessorCount", setup_needs_processor_count),
        CASE("PART-3", "F 2.6: after DeletePartition E_HANDLE", delete_twice),
        CASE("PART-4", "H Handles", handles_differ),
        CASE("PART-5", "S number of partitions with memory", several_with_memory),
        CASE("PART-6", "F 1.1 WHvResetPartition, F 9.4", reset_rules),
        CASE("PART-7", "F 9.8", time_rules),
        CASE("PART-8", "S engine choice", engine_by_environment),
        CASE("PART-9", "S engine choice", engine_by_property),
        CASE("PART-10", "H OwhpQueryEngine", engine_query_words),
        CASE("PART-11", "H OwhpGetLastErrorText", error_text),
    };
    return cmocka_run_group_tests_name("partition", tests, NULL, NULL);
}
