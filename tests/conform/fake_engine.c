#include "fake_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/check.h"
#include "util/last_error.h"

struct engine_capabilities fake_capabilities = {
    .features = 0xf,
    .differences = 5,
    .extended_exits = 0x7fff,
    .exception_exits = 0x3fffff,
    .msr_exits = 0x3f,
    .processor_features = {0x0000ffff0000ffff, 0x3},
    .xsave_features = 0x7,
    .vendor = 1,
    .clflush_size_log2 = 6,
    .physical_address_bits = 46,
    .tsc_frequency = 2000000000,
    .apic_frequency = 200000000,
    .maximum_processors = 64,
};
bool fake_usable = true;

static _Atomic(struct engine_partition *) newest;
static _Atomic int objects;

struct engine_partition *fake_partition(void)
{
    return newest;
}

struct engine_vcpu *fake_vcpu(uint32_t index)
{
    return fake_partition()->vcpus[index];
}

int fake_objects(void)
{
    return atomic_load(&objects);
}

static enum status usable(char *why, size_t size)
{
    if (fake_usable)
        return STATUS_OK;
    snprintf(why, size, "the test says so");
    return STATUS_UNSUPPORTED_HYPERVISOR_CONFIG;
}

static void capabilities(struct engine_capabilities *out)
{
    *out = fake_capabilities;
}

/* ---- partition ---- */

static enum status partition_create(const struct partition_config *config, struct gpa_space *space,
                                    struct engine_partition **out)
{
    struct engine_partition *partition = calloc(1, sizeof(*partition));

    check(partition && config->processor_count > 0);
    partition->config = config;
    partition->space = space;
    partition->targets = 5;
    newest = partition;
    atomic_fetch_add(&objects, 1);
    *out = partition;
    return STATUS_OK;
}

static void partition_destroy(struct engine_partition *partition)
{
    for (int i = 0; i < 64; i++)
        check(!partition->vcpus[i]);
    atomic_fetch_sub(&objects, 1);
    free(partition);
}

static void check_nobody_runs(struct engine_partition *partition)
{
    for (int i = 0; i < 64; i++)
        check(!partition->vcpus[i] || !atomic_load(&partition->vcpus[i]->inside));
}

static enum status partition_reset(struct engine_partition *partition)
{
    check_nobody_runs(partition);
    atomic_fetch_add(&partition->resets, 1);
    for (int i = 0; i < 64; i++)
        if (partition->vcpus[i])
            memset(partition->vcpus[i]->registers, 0, sizeof(partition->vcpus[i]->registers));
    return STATUS_OK;
}

static void time_suspend(struct engine_partition *partition)
{
    check(!partition->suspended);
    check_nobody_runs(partition);
    partition->suspended = true;
    atomic_fetch_add(&partition->suspends, 1);
}

static void time_resume(struct engine_partition *partition)
{
    check(partition->suspended);
    partition->suspended = false;
    atomic_fetch_add(&partition->resumes, 1);
}

static uint64_t reference_time(struct engine_partition *partition)
{
    (void)partition;
    return 1234567;
}

static enum status request_interrupt(struct engine_partition *partition, const struct interrupt_request *request)
{
    if (partition->interrupt_status != STATUS_OK)
        return partition->interrupt_status;
    for (int i = 0; i < 64; i++) /* a processor in creation or deletion would be seen by a sanitizer */
        if (partition->vcpus[i])
            check(partition->vcpus[i]->partition == partition);
    partition->last_interrupt = *request;
    atomic_fetch_add(&partition->interrupts, 1);
    return STATUS_OK;
}

static enum status interrupt_targets(struct engine_partition *partition, uint64_t destination, bool is_logical,
                                     uint64_t *set, size_t words)
{
    (void)is_logical;
    check(words >= 1);
    set[0] = destination ? partition->targets : 0;
    return STATUS_OK;
}

/* ---- processor ---- */

static enum status vcpu_create(struct engine_partition *partition, uint32_t index, struct engine_vcpu **out)
{
    struct engine_vcpu *vcpu = calloc(1, sizeof(*vcpu));

    check(vcpu && !partition->vcpus[index]);
    check_nobody_runs(partition);
    vcpu->partition = partition;
    vcpu->index = index;
    partition->vcpus[index] = vcpu;
    atomic_fetch_add(&objects, 1);
    *out = vcpu;
    return STATUS_OK;
}

static void vcpu_destroy(struct engine_vcpu *vcpu)
{
    check_nobody_runs(vcpu->partition);
    vcpu->partition->vcpus[vcpu->index] = NULL;
    atomic_fetch_sub(&objects, 1);
    free(vcpu);
}

static bool take_scripted(struct engine_vcpu *vcpu, struct vcpu_exit *exit)
{
    uint32_t left = atomic_load(&vcpu->repeat);

    if (left == 0)
        return false;
    if (left != UINT32_MAX)
        atomic_fetch_sub(&vcpu->repeat, 1);
    *exit = vcpu->exit;
    return true;
}

static enum status run(struct engine_vcpu *vcpu, struct vcpu_exit *exit)
{
    check(!atomic_exchange(&vcpu->inside, true));
    check(!vcpu->partition->suspended);
    atomic_fetch_add(&vcpu->runs, 1);
    while (!atomic_load(&vcpu->kicked)) {
        if (take_scripted(vcpu, exit)) {
            atomic_store(&vcpu->inside, false);
            return STATUS_OK;
        }
        usleep(20);
    }
    memset(exit, 0, sizeof(*exit));
    exit->reason = EXIT_CANCELED;
    exit->state.rip = vcpu->registers[VREG_RIP].q[0];
    atomic_store(&vcpu->inside, false);
    return STATUS_OK;
}

static void kick(struct engine_vcpu *vcpu)
{
    atomic_store(&vcpu->kicked, true);
}

static void clear_kick(struct engine_vcpu *vcpu)
{
    atomic_store(&vcpu->kicked, false);
}

static enum status get_registers(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count,
                                 union vreg_value *values)
{
    check(!atomic_load(&vcpu->inside));
    for (uint32_t i = 0; i < count; i++) {
        if (names[i] >= FAKE_REGISTERS)
            return fail(STATUS_INVALID_VP_REGISTER_NAME, "register %#x is not known", names[i]);
        values[i] = vcpu->registers[names[i]];
    }
    return STATUS_OK;
}

static enum status set_registers(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count,
                                 const union vreg_value *values)
{
    check(!atomic_load(&vcpu->inside));
    for (uint32_t i = 0; i < count; i++)
        if (names[i] >= FAKE_REGISTERS)
            return fail(STATUS_INVALID_VP_REGISTER_NAME, "register %#x is not known", names[i]);
    for (uint32_t i = 0; i < count; i++)
        vcpu->registers[names[i]] = values[i];
    return STATUS_OK;
}

static enum status get_blob(const uint8_t *from, uint32_t from_size, void *buffer, uint32_t size, uint32_t *written)
{
    *written = from_size;
    if (size < from_size)
        return fail(STATUS_INSUFFICIENT_BUFFER, "%u bytes are needed", from_size);
    memcpy(buffer, from, from_size);
    return STATUS_OK;
}

static enum status set_blob(uint8_t *to, uint32_t to_size, const void *buffer, uint32_t size)
{
    if (size != to_size)
        return fail(STATUS_INVALID_ARGUMENT, "%u bytes, not %u", to_size, size);
    memcpy(to, buffer, size);
    return STATUS_OK;
}

static enum status get_xsave(struct engine_vcpu *vcpu, void *buffer, uint32_t size, uint32_t *written)
{
    return get_blob(vcpu->xsave, sizeof(vcpu->xsave), buffer, size, written);
}

static enum status set_xsave(struct engine_vcpu *vcpu, const void *buffer, uint32_t size)
{
    return set_blob(vcpu->xsave, sizeof(vcpu->xsave), buffer, size);
}

static enum status get_apic(struct engine_vcpu *vcpu, void *buffer, uint32_t size, uint32_t *written)
{
    return get_blob(vcpu->apic, sizeof(vcpu->apic), buffer, size, written);
}

static enum status set_apic(struct engine_vcpu *vcpu, const void *buffer, uint32_t size)
{
    return set_blob(vcpu->apic, sizeof(vcpu->apic), buffer, size);
}

static void save_time(struct engine_partition *partition, struct time_state *state)
{
    check(partition->suspended);
    check_nobody_runs(partition);
    *state = (struct time_state){.tsc = 42};
}

static void load_time(struct engine_partition *partition, const struct time_state *state)
{
    check_nobody_runs(partition);
    check(state->tsc == 42);
    partition->suspended = true;
}

static enum status save_vcpu(struct engine_vcpu *vcpu, struct vcpu_state *state)
{
    check(!atomic_load(&vcpu->inside));
    for (uint32_t i = 0; i < 16; i++)
        state->gpr[i] = vcpu->registers[i].q[0];
    return STATUS_OK;
}

static enum status check_vcpu(struct engine_vcpu *vcpu, const struct vcpu_state *state)
{
    (void)vcpu;
    return state->rip ? fail(STATUS_INVALID_ARGUMENT, "RIP was never saved") : STATUS_OK;
}

static enum status load_vcpu(struct engine_vcpu *vcpu, const struct vcpu_state *state)
{
    check(!atomic_load(&vcpu->inside));
    for (uint32_t i = 0; i < 16; i++)
        vcpu->registers[i].q[0] = state->gpr[i];
    return STATUS_OK;
}

static enum status cpuid(struct engine_vcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)vcpu;
    for (uint32_t i = 0; i < 4; i++)
        out[i] = leaf * 100 + subleaf * 10 + i;
    return STATUS_OK;
}

static void walk_state(struct engine_vcpu *vcpu, struct walk_state *state, uint8_t *cpl)
{
    *state = vcpu->walk;
    *cpl = vcpu->cpl;
}

static void counters(struct engine_vcpu *vcpu, struct vcpu_counters *out)
{
    *out = vcpu->counters;
}

const struct engine fake_engine = {
    .name = "fake",
    .usable = usable,
    .capabilities = capabilities,
    .partition_create = partition_create,
    .partition_destroy = partition_destroy,
    .partition_reset = partition_reset,
    .time_suspend = time_suspend,
    .time_resume = time_resume,
    .reference_time = reference_time,
    .request_interrupt = request_interrupt,
    .interrupt_targets = interrupt_targets,
    .vcpu_create = vcpu_create,
    .vcpu_destroy = vcpu_destroy,
    .run = run,
    .kick = kick,
    .clear_kick = clear_kick,
    .get_registers = get_registers,
    .set_registers = set_registers,
    .get_xsave = get_xsave,
    .set_xsave = set_xsave,
    .get_apic = get_apic,
    .set_apic = set_apic,
    .save_time = save_time,
    .load_time = load_time,
    .save_vcpu = save_vcpu,
    .check_vcpu = check_vcpu,
    .load_vcpu = load_vcpu,
    .cpuid = cpuid,
    .walk_state = walk_state,
    .counters = counters,
};

static enum status never_usable(char *why, size_t size)
{
    snprintf(why, size, "the test has no kvm");
    return STATUS_UNSUPPORTED_HYPERVISOR_CONFIG;
}

const struct engine missing_engine = {.name = "kvm", .usable = never_usable};
