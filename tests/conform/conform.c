#include "conform.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/engines.h"
#include "fake_engine.h"

/* ---- set-up of a test ---- */

static struct {
    void *address;
    size_t size;
} areas[64];
static size_t area_count;

static struct engine_capabilities original;
static int objects; /* what earlier, failed tests left */

int before(void **state)
{
    (void)state;
    unsetenv("OPENWHP_ENGINE");
    unsetenv("OPENWHP_STRICT");
    original = fake_capabilities;
    objects = fake_objects();
    engine_replace(ENGINE_SOFT, &fake_engine);
    engine_replace(ENGINE_KVM, &missing_engine);
    return 0;
}

int after(void **state)
{
    (void)state;
    while (area_count) {
        area_count--;
        munmap(areas[area_count].address, areas[area_count].size);
    }
    engine_replace(ENGINE_SOFT, NULL);
    engine_replace(ENGINE_KVM, NULL);
    fake_capabilities = original;
    fake_usable = true;
    if (fake_objects() == objects)
        return 0;
    print_error("%d engine objects are left\n", fake_objects() - objects);
    return -1;
}

void *host_pages(size_t count)
{
    void *address = mmap(NULL, count * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(address != MAP_FAILED && area_count < sizeof(areas) / sizeof(areas[0]));
    areas[area_count].address = address;
    areas[area_count++].size = count * 4096;
    return address;
}

void set_property(WHV_PARTITION_HANDLE partition, UINT32 code, UINT64 value, UINT32 size)
{
    assert_ok(WHvSetPartitionProperty(partition, (WHV_PARTITION_PROPERTY_CODE)code, &value, size));
}

WHV_PARTITION_HANDLE partition_created(UINT32 processors)
{
    WHV_PARTITION_HANDLE partition;

    assert_ok(WHvCreatePartition(&partition));
    if (processors)
        set_property(partition, WHvPartitionPropertyCodeProcessorCount, processors, 4);
    return partition;
}

WHV_PARTITION_HANDLE partition_set_up(UINT32 processors)
{
    WHV_PARTITION_HANDLE partition = partition_created(processors);

    assert_ok(WHvSetupPartition(partition));
    return partition;
}

WHV_PARTITION_HANDLE partition_with_vcpu(void)
{
    WHV_PARTITION_HANDLE partition = partition_set_up(2);

    assert_ok(WHvCreateVirtualProcessor(partition, 0, 0));
    return partition;
}

WHV_PARTITION_HANDLE partition_with_apic(UINT32 processors)
{
    WHV_PARTITION_HANDLE partition = partition_created(processors);

    set_property(partition, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeXApic, 4);
    assert_ok(WHvSetupPartition(partition));
    for (UINT32 i = 0; i < processors; i++)
        assert_ok(WHvCreateVirtualProcessor(partition, i, 0));
    return partition;
}

/* ---- a second thread ---- */

struct runner {
    WHV_PARTITION_HANDLE partition;
    UINT32 vp;
    pthread_t thread;
    HRESULT result;
    WHV_RUN_VP_EXIT_CONTEXT context;
};

static void *run_thread(void *argument)
{
    struct runner *runner = argument;

    runner->result =
        WHvRunVirtualProcessor(runner->partition, runner->vp, &runner->context, sizeof(runner->context));
    return NULL;
}

struct runner *run_begin(WHV_PARTITION_HANDLE partition, UINT32 vp)
{
    struct runner *runner = aligned_alloc(64, (sizeof(*runner) + 63) & ~(size_t)63);
    struct engine_vcpu *vcpu = fake_vcpu(vp);

    runner->partition = partition;
    runner->vp = vp;
    assert_int_equal(pthread_create(&runner->thread, NULL, run_thread, runner), 0);
    while (!atomic_load(&vcpu->inside))
        usleep(50);
    return runner;
}

HRESULT run_end(struct runner *runner, WHV_RUN_VP_EXIT_CONTEXT *context)
{
    pthread_join(runner->thread, NULL);
    HRESULT result = runner->result;
    if (context)
        *context = runner->context;
    free(runner);
    return result;
}
