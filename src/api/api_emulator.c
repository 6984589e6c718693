/*
 * WHvEmulator*: arguments are checked, the client's callbacks wrapped, and the outcome turned into its status bit. The work is
 * done in src/emul.
 */
#include <WinHvEmulation.h>

#include <stdlib.h>
#include <string.h>

#include "emul/emulator.h"
#include "util/last_error.h"

#define EMULATOR_MAGIC 0x4f57454du

/* What a handle points to. */
struct api_emulator {
    uint32_t magic;
    WHV_EMULATOR_CALLBACKS callbacks;
    struct emulator *emulator;
    VOID *context; /* of the call in progress */
};

_Static_assert(sizeof(WHV_REGISTER_VALUE) == sizeof(union vreg_value), "register values have one layout");
_Static_assert(sizeof(WHV_REGISTER_NAME) == sizeof(uint32_t), "register names are 32 bits");

/* ---- the client's callbacks ---- */

static bool get_registers(void *context, const uint32_t *names, uint32_t count, union vreg_value *values)
{
    struct api_emulator *e = context;

    return SUCCEEDED(e->callbacks.WHvEmulatorGetVirtualProcessorRegisters(e->context, (const WHV_REGISTER_NAME *)names, count,
                                                                          (WHV_REGISTER_VALUE *)values));
}

static bool set_registers(void *context, const uint32_t *names, uint32_t count, const union vreg_value *values)
{
    struct api_emulator *e = context;

    return SUCCEEDED(e->callbacks.WHvEmulatorSetVirtualProcessorRegisters(e->context, (const WHV_REGISTER_NAME *)names, count,
                                                                          (const WHV_REGISTER_VALUE *)values));
}

static bool memory(void *context, struct emulator_memory *access)
{
    struct api_emulator *e = context;
    WHV_EMULATOR_MEMORY_ACCESS_INFO info = {.GpaAddress = access->gpa, .Direction = access->is_write, .AccessSize = access->size};

    memcpy(info.Data, access->data, sizeof(info.Data));
    if (FAILED(e->callbacks.WHvEmulatorMemoryCallback(e->context, &info)))
        return false;
    memcpy(access->data, info.Data, sizeof(info.Data));
    return true;
}

static bool io(void *context, struct emulator_io *access)
{
    struct api_emulator *e = context;
    WHV_EMULATOR_IO_ACCESS_INFO info = {.Direction = access->is_write, .Port = access->port, .AccessSize = access->size,
                                        .Data = access->data};

    if (FAILED(e->callbacks.WHvEmulatorIoPortCallback(e->context, &info)))
        return false;
    access->data = info.Data;
    return true;
}

static enum emulator_translation translate(void *context, uint64_t page, unsigned type, bool supervisor, uint64_t *gpa)
{
    static const UINT32 validate[] = {
        WHvTranslateGvaFlagValidateRead | WHvTranslateGvaFlagSetPageTableBits,
        WHvTranslateGvaFlagValidateRead | WHvTranslateGvaFlagValidateWrite | WHvTranslateGvaFlagSetPageTableBits,
        WHvTranslateGvaFlagValidateExecute,
    };
    struct api_emulator *e = context;
    WHV_TRANSLATE_GVA_RESULT_CODE code = WHvTranslateGvaResultSuccess;
    WHV_GUEST_PHYSICAL_ADDRESS address = 0;

    (void)supervisor; /* the callback judges by the processor's state */
    if (FAILED(e->callbacks.WHvEmulatorTranslateGvaPage(e->context, page, (WHV_TRANSLATE_GVA_FLAGS)validate[type], &code, &address)))
        return TRANSLATION_FAILED;
    *gpa = address;
    switch (code) {
    case WHvTranslateGvaResultSuccess:
        return TRANSLATION_DONE;
    case WHvTranslateGvaResultPageNotPresent:
        return TRANSLATION_NOT_PRESENT;
    case WHvTranslateGvaResultPrivilegeViolation:
        return TRANSLATION_PRIVILEGE;
    case WHvTranslateGvaResultInvalidPageTableFlags:
        return TRANSLATION_RESERVED_BITS;
    default:
        return TRANSLATION_OTHER;
    }
}

static const struct emulator_callbacks wrapped = {
    .get_registers = get_registers, .set_registers = set_registers, .memory = memory, .io = io, .translate = translate};

/* ---- the four functions ---- */

static struct api_emulator *from_handle(WHV_EMULATOR_HANDLE handle)
{
    struct api_emulator *e = handle;

    return e && !((uintptr_t)e & 7) && e->magic == EMULATOR_MAGIC ? e : NULL;
}

static bool has_callbacks(const WHV_EMULATOR_CALLBACKS *c)
{
    return c->WHvEmulatorIoPortCallback && c->WHvEmulatorMemoryCallback && c->WHvEmulatorGetVirtualProcessorRegisters &&
           c->WHvEmulatorSetVirtualProcessorRegisters && c->WHvEmulatorTranslateGvaPage;
}

HRESULT WINAPI WHvEmulatorCreateEmulator(const WHV_EMULATOR_CALLBACKS *Callbacks, WHV_EMULATOR_HANDLE *Emulator)
{
    if (!Callbacks || !Emulator || Callbacks->Size != sizeof(*Callbacks) || Callbacks->Reserved || !has_callbacks(Callbacks))
        return E_INVALIDARG;
    struct api_emulator *e = calloc(1, sizeof(*e));
    if (!e)
        return E_OUTOFMEMORY;
    e->emulator = emulator_create(&wrapped);
    if (!e->emulator) {
        free(e);
        return E_OUTOFMEMORY;
    }
    e->magic = EMULATOR_MAGIC;
    e->callbacks = *Callbacks;
    *Emulator = e;
    return S_OK;
}

HRESULT WINAPI WHvEmulatorDestroyEmulator(WHV_EMULATOR_HANDLE Emulator)
{
    struct api_emulator *e = from_handle(Emulator);

    if (!e)
        return E_INVALIDARG;
    e->magic = 0;
    emulator_destroy(e->emulator);
    free(e);
    return S_OK;
}

static void set_status(WHV_EMULATOR_STATUS *status, enum emulator_outcome outcome)
{
    /* The bits of WHV_EMULATOR_STATUS; InterruptCausedIntercept, bit 8, comes from the exit. */
    static const UINT32 bits[] = {
        [EMULATOR_SUCCESS] = 1u << 0,
        [EMULATOR_INTERNAL_FAILURE] = 1u << 1,
        [EMULATOR_IO_FAILED] = 1u << 2,
        [EMULATOR_MEMORY_FAILED] = 1u << 3,
        [EMULATOR_TRANSLATE_FAILED] = 1u << 4,
        [EMULATOR_TRANSLATE_MISALIGNED] = 1u << 5,
        [EMULATOR_GET_REGISTERS_FAILED] = 1u << 6,
        [EMULATOR_SET_REGISTERS_FAILED] = 1u << 7,
        [EMULATOR_CANNOT_FAULT] = 1u << 9,
    };
    status->AsUINT32 = bits[outcome];
}

static HRESULT run(struct api_emulator *e, VOID *context, const WHV_VP_EXIT_CONTEXT *vp, const struct emulator_request *request,
                   WHV_EMULATOR_STATUS *status)
{
    status->AsUINT32 = 0;
    if (vp->ExecutionState.InterruptionPending) {
        status->InterruptCausedIntercept = 1;
        return S_OK;
    }
    e->context = context;
    set_status(status, emulator_run(e->emulator, e, request));
    return S_OK;
}

HRESULT WINAPI WHvEmulatorTryIoEmulation(WHV_EMULATOR_HANDLE Emulator, VOID *Context, const WHV_VP_EXIT_CONTEXT *VpContext,
                                         const WHV_X64_IO_PORT_ACCESS_CONTEXT *IoInstructionContext,
                                         WHV_EMULATOR_STATUS *EmulatorReturnStatus)
{
    struct api_emulator *e = from_handle(Emulator);

    if (!e || !VpContext || !IoInstructionContext || !EmulatorReturnStatus || !VpContext->InstructionLength ||
        IoInstructionContext->InstructionByteCount > 16)
        return E_INVALIDARG;
    struct emulator_request request = {.byte_count = IoInstructionContext->InstructionByteCount,
                                       .bytes = IoInstructionContext->InstructionBytes, .is_io = true};
    return run(e, Context, VpContext, &request, EmulatorReturnStatus);
}

HRESULT WINAPI WHvEmulatorTryMmioEmulation(WHV_EMULATOR_HANDLE Emulator, VOID *Context, const WHV_VP_EXIT_CONTEXT *VpContext,
                                           const WHV_MEMORY_ACCESS_CONTEXT *MmioInstructionContext,
                                           WHV_EMULATOR_STATUS *EmulatorReturnStatus)
{
    struct api_emulator *e = from_handle(Emulator);
    const WHV_MEMORY_ACCESS_CONTEXT *m = MmioInstructionContext;

    if (!e || !VpContext || !m || !EmulatorReturnStatus || m->InstructionByteCount > 16)
        return E_INVALIDARG;
    struct emulator_request request = {.byte_count = m->InstructionByteCount, .bytes = m->InstructionBytes,
                                       .has_translation = m->AccessInfo.GvaValid, .gva = m->Gva, .gpa = m->Gpa};
    return run(e, Context, VpContext, &request, EmulatorReturnStatus);
}
