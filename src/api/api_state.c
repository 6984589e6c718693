/* A processor's state in bulk: the XSAVE image, the local APIC, CPUID answers. */
#include "api/api.h"

#include <string.h>

/*
 * The APIC's state is its register page; the first releases of the API moved only the part of the page that has
 * registers.
 */
enum { APIC_PAGE = 4096, APIC_LEGACY = 1024, IMAGE_LIMIT = 16384 };

union image {
    uint8_t bytes[IMAGE_LIMIT];
    uint64_t aligned[IMAGE_LIMIT / 8] __attribute__((aligned(64)));
};

enum kind { KIND_XSAVE, KIND_APIC };

/* ---- in and out of the engine ---- */

static enum status begin(struct vcpu *vcpu, enum kind kind)
{
    enum status status = vcpu_begin_use(vcpu);

    if (status == STATUS_OK && kind == KIND_APIC && vcpu->partition->config.apic_mode == APIC_MODE_NONE) {
        vcpu_end_use(vcpu);
        status = fail(STATUS_INVALID_VP_STATE, "the partition has no local APIC emulation");
    }
    return status;
}

static enum status load(struct vcpu *vcpu, enum kind kind, union image *image, uint32_t *size)
{
    const struct engine *engine = vcpu->partition->engine;

    memset(image, 0, sizeof(*image));
    *size = 0;
    return kind == KIND_XSAVE ? engine->get_xsave(vcpu->engine, image, sizeof(*image), size)
                              : engine->get_apic(vcpu->engine, image, sizeof(*image), size);
}

static enum status store(struct vcpu *vcpu, enum kind kind, const union image *image, uint32_t size)
{
    const struct engine *engine = vcpu->partition->engine;

    return kind == KIND_XSAVE ? engine->set_xsave(vcpu->engine, image, size)
                              : engine->set_apic(vcpu->engine, image, size);
}

/* `size` 0: all of it. */
static enum status get(struct vcpu *vcpu, enum kind kind, uint32_t size, const struct output *output)
{
    union image image;
    uint32_t actual;

    enum status status = begin(vcpu, kind);
    if (status != STATUS_OK)
        return status;
    status = load(vcpu, kind, &image, &actual);
    vcpu_end_use(vcpu);
    return status == STATUS_OK ? output_put(output, &image, size ? size : actual) : status;
}

static enum status set(struct vcpu *vcpu, enum kind kind, const void *buffer, uint32_t size)
{
    union image image;

    if (size > sizeof(image))
        return fail(STATUS_INVALID_ARGUMENT, "%u bytes are more than any state has", size);
    enum status status = require_pointer(buffer, "the buffer");
    if (status == STATUS_OK)
        status = caller_read(&image, buffer, size, "the buffer");
    if (status == STATUS_OK)
        status = begin(vcpu, kind);
    if (status != STATUS_OK)
        return status;
    status = store(vcpu, kind, &image, size);
    vcpu_end_use(vcpu);
    return status;
}

/* Only if the size is exactly that of the processor's state now. */
static enum status set_exactly(struct vcpu *vcpu, enum kind kind, const void *buffer, uint32_t size)
{
    union image image;
    uint32_t actual;

    enum status status = begin(vcpu, kind);
    if (status != STATUS_OK)
        return status;
    status = load(vcpu, kind, &image, &actual);
    vcpu_end_use(vcpu);
    if (status != STATUS_OK)
        return status;
    if (size != actual)
        return fail(STATUS_INVALID_ARGUMENT, "this state has %u bytes, not %u", actual, size);
    return set(vcpu, kind, buffer, size);
}

/* ---- XSAVE ---- */

HRESULT WINAPI WHvGetVirtualProcessorXsaveState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, VOID *Buffer,
                                                UINT32 BufferSizeInBytes, UINT32 *BytesWritten)
{
    const struct output output = {Buffer, BufferSizeInBytes, BytesWritten};

    RETURN_ON_VCPU(Partition, VpIndex, get(vcpu, KIND_XSAVE, 0, &output));
}

HRESULT WINAPI WHvSetVirtualProcessorXsaveState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, const VOID *Buffer,
                                                UINT32 BufferSizeInBytes)
{
    RETURN_ON_VCPU(Partition, VpIndex, set(vcpu, KIND_XSAVE, Buffer, BufferSizeInBytes));
}

/* ---- local APIC ---- */

static enum status get_apic(struct vcpu *vcpu, uint32_t size, const struct output *output)
{
    enum status status = require_pointer(output->buffer, "State");

    return status == STATUS_OK ? get(vcpu, KIND_APIC, size, output) : status;
}

HRESULT WINAPI WHvGetVirtualProcessorInterruptControllerState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                              VOID *State, UINT32 StateSize, UINT32 *WrittenSize)
{
    const struct output output = {State, StateSize, WrittenSize};

    RETURN_ON_VCPU(Partition, VpIndex, get_apic(vcpu, APIC_LEGACY, &output));
}

HRESULT WINAPI WHvGetVirtualProcessorInterruptControllerState2(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                               VOID *State, UINT32 StateSize, UINT32 *WrittenSize)
{
    const struct output output = {State, StateSize, WrittenSize};

    RETURN_ON_VCPU(Partition, VpIndex, get_apic(vcpu, APIC_PAGE, &output));
}

/* The legacy form leaves the rest of the page as it is. */
static enum status set_apic_legacy(struct vcpu *vcpu, const void *state, uint32_t size)
{
    union image image;
    uint8_t head[APIC_LEGACY];
    uint32_t actual;

    enum status status = require_pointer(state, "State");
    if (status != STATUS_OK)
        return status;
    if (size < APIC_LEGACY)
        return fail(STATUS_INSUFFICIENT_BUFFER, "State has %u bytes, %d are needed", size, APIC_LEGACY);
    status = caller_read(head, state, sizeof(head), "State");
    if (status == STATUS_OK)
        status = begin(vcpu, KIND_APIC);
    if (status != STATUS_OK)
        return status;
    status = load(vcpu, KIND_APIC, &image, &actual);
    if (status == STATUS_OK) {
        memcpy(image.bytes, head, sizeof(head));
        status = store(vcpu, KIND_APIC, &image, actual);
    }
    vcpu_end_use(vcpu);
    return status;
}

HRESULT WINAPI WHvSetVirtualProcessorInterruptControllerState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                              const VOID *State, UINT32 StateSize)
{
    RETURN_ON_VCPU(Partition, VpIndex, set_apic_legacy(vcpu, State, StateSize));
}

static enum status set_apic(struct vcpu *vcpu, const void *state, uint32_t size)
{
    if (!state || size < APIC_PAGE)
        return fail(STATUS_BAD_POINTER, "State must have %d bytes, it has %u", APIC_PAGE, state ? size : 0);
    return set(vcpu, KIND_APIC, state, APIC_PAGE);
}

HRESULT WINAPI WHvSetVirtualProcessorInterruptControllerState2(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                               const VOID *State, UINT32 StateSize)
{
    RETURN_ON_VCPU(Partition, VpIndex, set_apic(vcpu, State, StateSize));
}

/* ---- by type ---- */

static enum status kind_of(struct vcpu *vcpu, UINT32 type, enum kind *kind)
{
    enum status status = vcpu_lock_existing(vcpu);

    if (status != STATUS_OK)
        return status;
    vcpu_unlock(vcpu);
    switch (type) {
    case WHvVirtualProcessorStateTypeInterruptControllerState2:
        *kind = KIND_APIC;
        return STATUS_OK;
    case WHvVirtualProcessorStateTypeXsaveState:
        *kind = KIND_XSAVE;
        return STATUS_OK;
    case WHvVirtualProcessorStateTypeSynicMessagePage:
    case WHvVirtualProcessorStateTypeSynicEventFlagPage:
    case WHvVirtualProcessorStateTypeSynicTimerState:
    case WHvVirtualProcessorStateTypeNestedState:
        return fail(STATUS_INVALID_VP_STATE, "the processor has no state of type %#x", type);
    default:
        return fail(STATUS_INVALID_ARGUMENT, "state type %#x is not known", type);
    }
}

static enum status get_state(struct vcpu *vcpu, UINT32 type, const struct output *output)
{
    enum kind kind = KIND_XSAVE;
    enum status status = kind_of(vcpu, type, &kind);

    return status == STATUS_OK ? get(vcpu, kind, kind == KIND_APIC ? APIC_PAGE : 0, output) : status;
}

HRESULT WINAPI WHvGetVirtualProcessorState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                           WHV_VIRTUAL_PROCESSOR_STATE_TYPE StateType, VOID *Buffer,
                                           UINT32 BufferSizeInBytes, UINT32 *BytesWritten)
{
    const struct output output = {Buffer, BufferSizeInBytes, BytesWritten};

    RETURN_ON_VCPU(Partition, VpIndex, get_state(vcpu, (UINT32)StateType, &output));
}

static enum status set_state(struct vcpu *vcpu, UINT32 type, const void *buffer, UINT32 size)
{
    enum kind kind = KIND_XSAVE;
    enum status status = kind_of(vcpu, type, &kind);

    if (status == STATUS_OK)
        status = require_pointer(buffer, "Buffer");
    return status == STATUS_OK ? set_exactly(vcpu, kind, buffer, size) : status;
}

HRESULT WINAPI WHvSetVirtualProcessorState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                           WHV_VIRTUAL_PROCESSOR_STATE_TYPE StateType, const VOID *Buffer,
                                           UINT32 BufferSizeInBytes)
{
    RETURN_ON_VCPU(Partition, VpIndex, set_state(vcpu, (UINT32)StateType, Buffer, BufferSizeInBytes));
}

/* ---- CPUID ---- */

static enum status cpuid(struct vcpu *vcpu, UINT32 eax, UINT32 ecx, WHV_CPUID_OUTPUT *output)
{
    uint32_t answer[4];

    enum status status = require_pointer(output, "CpuidOutput");
    if (status == STATUS_OK)
        status = vcpu_begin_use(vcpu);
    if (status != STATUS_OK)
        return status;
    status = vcpu->partition->engine->cpuid(vcpu->engine, eax, ecx, answer);
    vcpu_end_use(vcpu);
    if (status != STATUS_OK)
        return status;
    const WHV_CPUID_OUTPUT result = {answer[0], answer[1], answer[2], answer[3]};
    return caller_write(output, &result, sizeof(result), "CpuidOutput");
}

HRESULT WINAPI WHvGetVirtualProcessorCpuidOutput(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, UINT32 Eax, UINT32 Ecx,
                                                 WHV_CPUID_OUTPUT *CpuidOutput)
{
    RETURN_ON_VCPU(Partition, VpIndex, cpuid(vcpu, Eax, Ecx, CpuidOutput));
}
