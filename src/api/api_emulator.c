/*
 * WHvEmulator*: arguments are checked, the client's callbacks wrapped, and the outcome turned into its status bit. The work is
 * done in src/emul.
 *
 * This library knows nothing of libWinHvPlatform, but when the program has that one as well, the reason of a failure goes to
 * its OwhpGetLastErrorText.
 */
#include <WinHvEmulation.h>
#include <openwhp.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/caller_memory.h"
#include "core/handle_table.h"
#include "emul/emulator.h"
#include "util/last_error.h"

#pragma weak OwhpSetLastErrorText

/* What a handle names. */
struct api_emulator {
    WHV_EMULATOR_CALLBACKS callbacks;
    struct emulator *emulator;
    VOID *context;     /* of the call in progress */
    _Atomic bool busy; /* there is one */
};

static struct handle_table emulators = HANDLE_TABLE_INIT(HANDLE_TAG_EMULATOR);

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

static enum emulator_translation translate(void *context, uint64_t page, unsigned type, bool is_exempt, uint64_t *gpa)
{
    static const UINT32 validate[] = {
        WHvTranslateGvaFlagValidateRead | WHvTranslateGvaFlagSetPageTableBits,
        WHvTranslateGvaFlagValidateRead | WHvTranslateGvaFlagValidateWrite | WHvTranslateGvaFlagSetPageTableBits,
        WHvTranslateGvaFlagValidateExecute,
    };
    struct api_emulator *e = context;
    WHV_TRANSLATE_GVA_RESULT_CODE code = WHvTranslateGvaResultSuccess;
    WHV_GUEST_PHYSICAL_ADDRESS address = 0;

    UINT32 flags = validate[type] | (is_exempt ? WHvTranslateGvaFlagPrivilegeExempt : 0);

    if (FAILED(e->callbacks.WHvEmulatorTranslateGvaPage(e->context, page, (WHV_TRANSLATE_GVA_FLAGS)flags, &code, &address)))
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
    case WHvTranslateGvaResultIntercept:
        return TRANSLATION_FAILED;
    default:
        return TRANSLATION_OTHER;
    }
}

static const struct emulator_callbacks wrapped = {
    .get_registers = get_registers, .set_registers = set_registers, .memory = memory, .io = io, .translate = translate};

/* ---- results ---- */

/* The words of fail(), led by the function's name, for OwhpGetLastErrorText. */
static void tell(const char *function)
{
    char text[320];

    if (!OwhpSetLastErrorText)
        return;
    snprintf(text, sizeof(text), "%s: %s", function, last_error_text());
    OwhpSetLastErrorText(text);
}

static HRESULT invalid(const char *function, const char *what)
{
    (void)fail(STATUS_INVALID_ARGUMENT, "%s", what);
    tell(function);
    return E_INVALIDARG;
}

/* ---- create, destroy ---- */

static bool has_callbacks(const WHV_EMULATOR_CALLBACKS *c)
{
    return c->WHvEmulatorIoPortCallback && c->WHvEmulatorMemoryCallback && c->WHvEmulatorGetVirtualProcessorRegisters &&
           c->WHvEmulatorSetVirtualProcessorRegisters && c->WHvEmulatorTranslateGvaPage;
}

static const char *wrong_callbacks(const WHV_EMULATOR_CALLBACKS *callbacks, WHV_EMULATOR_HANDLE *handle,
                                   WHV_EMULATOR_CALLBACKS *copy)
{
    if (!callbacks || !handle)
        return "a pointer is NULL";
    if (caller_read(copy, callbacks, sizeof(*copy), "Callbacks") != STATUS_OK)
        return "Callbacks is not readable";
    if (copy->Size != sizeof(*copy) || copy->Reserved)
        return "Callbacks has a wrong Size, or Reserved is not 0";
    if (!has_callbacks(copy))
        return "a callback is NULL";
    if (caller_writable(handle, sizeof(*handle), "Emulator") != STATUS_OK)
        return "Emulator is not writable";
    return NULL;
}

static void destroy(struct api_emulator *e)
{
    if (e)
        emulator_destroy(e->emulator);
    free(e);
}

HRESULT WINAPI WHvEmulatorCreateEmulator(const WHV_EMULATOR_CALLBACKS *Callbacks, WHV_EMULATOR_HANDLE *Emulator)
{
    WHV_EMULATOR_CALLBACKS callbacks;
    const char *wrong = wrong_callbacks(Callbacks, Emulator, &callbacks);

    if (wrong)
        return invalid(__func__, wrong);
    struct api_emulator *e = calloc(1, sizeof(*e));
    if (e)
        e->emulator = emulator_create(&wrapped);
    uint64_t handle = e && e->emulator ? handle_open(&emulators, e) : 0;
    if (!handle) {
        destroy(e);
        (void)fail(STATUS_NO_MEMORY, "no memory for an emulator");
        tell(__func__);
        return E_OUTOFMEMORY;
    }
    e->callbacks = callbacks;
    *Emulator = (WHV_EMULATOR_HANDLE)(uintptr_t)handle;
    return S_OK;
}

HRESULT WINAPI WHvEmulatorDestroyEmulator(WHV_EMULATOR_HANDLE Emulator)
{
    struct api_emulator *e = handle_get(&emulators, (uintptr_t)Emulator);

    if (!e)
        return invalid(__func__, "Emulator is not an emulator");
    bool busy = atomic_load(&e->busy);
    handle_put(&emulators, (uintptr_t)Emulator);
    if (busy || !handle_close(&emulators, (uintptr_t)Emulator))
        return invalid(__func__, "Emulator is in use");
    handle_drain(&emulators, (uintptr_t)Emulator);
    destroy(e);
    return S_OK;
}

/* ---- emulate ---- */

static UINT32 status_of(enum emulator_outcome outcome)
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
    return bits[outcome];
}

/* What a call brings, copied. */
struct call {
    const char *function;
    VOID *context;
    WHV_VP_EXIT_CONTEXT vp;
    union {
        WHV_X64_IO_PORT_ACCESS_CONTEXT io;
        WHV_MEMORY_ACCESS_CONTEXT memory;
    };
    struct emulator_request request;
};

static UINT32 run(struct api_emulator *e, const struct call *call)
{
    WHV_EMULATOR_STATUS status = {.AsUINT32 = 0};

    if (call->vp.ExecutionState.InterruptionPending) {
        (void)fail(STATUS_NOT_SUPPORTED, "the access delivers an event: there is no instruction to emulate");
        tell(call->function);
        status.InterruptCausedIntercept = 1;
        return status.AsUINT32;
    }
    e->context = call->context;
    struct emulator_request request = call->request;
    request.in_shadow = call->vp.ExecutionState.InterruptShadow;
    enum emulator_outcome outcome = emulator_run(e->emulator, e, &request);
    if (outcome != EMULATOR_SUCCESS)
        tell(call->function);
    return status_of(outcome);
}

static HRESULT try_emulation(WHV_EMULATOR_HANDLE handle, const struct call *call, WHV_EMULATOR_STATUS *status)
{
    struct api_emulator *e = handle_get(&emulators, (uintptr_t)handle);
    HRESULT result = S_OK;

    if (!e)
        return invalid(call->function, "Emulator is not an emulator");
    if (atomic_exchange_explicit(&e->busy, true, memory_order_acquire)) {
        result = invalid(call->function, "Emulator is in use");
    } else {
        status->AsUINT32 = run(e, call);
        atomic_store_explicit(&e->busy, false, memory_order_release);
    }
    handle_put(&emulators, (uintptr_t)handle);
    return result;
}

/* What both calls ask of their pointers; NULL: all is well. */
static always_inline const char *wrong_pointers(struct call *call, const WHV_VP_EXIT_CONTEXT *vp, const void *instruction,
                                                size_t size, WHV_EMULATOR_STATUS *status)
{
    if (!vp || !instruction || !status)
        return "a pointer is NULL";
    if (caller_read_struct(&call->vp, vp, sizeof(call->vp), "") != STATUS_OK ||
        caller_read_struct(&call->io, instruction, size, "") != STATUS_OK)
        return "a context is not readable";
    if (caller_writable_struct(status, sizeof(*status), "") != STATUS_OK)
        return "EmulatorReturnStatus is not writable";
    return NULL;
}

HRESULT WINAPI WHvEmulatorTryIoEmulation(WHV_EMULATOR_HANDLE Emulator, VOID *Context, const WHV_VP_EXIT_CONTEXT *VpContext,
                                         const WHV_X64_IO_PORT_ACCESS_CONTEXT *IoInstructionContext,
                                         WHV_EMULATOR_STATUS *EmulatorReturnStatus)
{
    struct call call = {.function = __func__, .context = Context};
    const char *wrong = wrong_pointers(&call, VpContext, IoInstructionContext, sizeof(call.io), EmulatorReturnStatus);

    if (!wrong && !call.vp.InstructionLength)
        wrong = "InstructionLength is 0";
    if (!wrong && call.io.InstructionByteCount > sizeof(call.io.InstructionBytes))
        wrong = "InstructionByteCount is above 16";
    if (wrong)
        return invalid(__func__, wrong);
    call.request = (struct emulator_request){
        .byte_count = call.io.InstructionByteCount, .bytes = call.io.InstructionBytes, .is_io = true};
    return try_emulation(Emulator, &call, EmulatorReturnStatus);
}

HRESULT WINAPI WHvEmulatorTryMmioEmulation(WHV_EMULATOR_HANDLE Emulator, VOID *Context, const WHV_VP_EXIT_CONTEXT *VpContext,
                                           const WHV_MEMORY_ACCESS_CONTEXT *MmioInstructionContext,
                                           WHV_EMULATOR_STATUS *EmulatorReturnStatus)
{
    struct call call = {.function = __func__, .context = Context};
    const WHV_MEMORY_ACCESS_CONTEXT *m = &call.memory;
    const char *wrong = wrong_pointers(&call, VpContext, MmioInstructionContext, sizeof(*m), EmulatorReturnStatus);

    if (!wrong && m->InstructionByteCount > sizeof(m->InstructionBytes))
        wrong = "InstructionByteCount is above 16";
    if (wrong)
        return invalid(__func__, wrong);
    call.request = (struct emulator_request){
        .byte_count = m->InstructionByteCount, .bytes = m->InstructionBytes, .has_translation = m->AccessInfo.GvaValid,
        .type = m->AccessInfo.AccessType, .gva = m->Gva, .gpa = m->Gpa};
    return try_emulation(Emulator, &call, EmulatorReturnStatus);
}
