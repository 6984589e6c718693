/* The instruction emulator's outer ring. Arguments are checked; emulation itself is a later part: every attempt ends
 * with InternalEmulationFailure. */
#include <WinHvEmulation.h>

HRESULT WINAPI WHvEmulatorCreateEmulator(const WHV_EMULATOR_CALLBACKS *Callbacks, WHV_EMULATOR_HANDLE *Emulator)
{
    static const int only;

    if (!Callbacks || !Emulator || Callbacks->Size != sizeof(*Callbacks) || Callbacks->Reserved)
        return E_INVALIDARG;
    *Emulator = (WHV_EMULATOR_HANDLE)(uintptr_t)&only;
    return S_OK;
}

HRESULT WINAPI WHvEmulatorDestroyEmulator(WHV_EMULATOR_HANDLE Emulator)
{
    return Emulator ? S_OK : E_INVALIDARG;
}

static HRESULT answer(WHV_EMULATOR_STATUS *status)
{
    status->AsUINT32 = 0;
    status->InternalEmulationFailure = 1;
    return S_OK;
}

HRESULT WINAPI WHvEmulatorTryIoEmulation(WHV_EMULATOR_HANDLE Emulator, VOID *Context,
                                         const WHV_VP_EXIT_CONTEXT *VpContext,
                                         const WHV_X64_IO_PORT_ACCESS_CONTEXT *IoInstructionContext,
                                         WHV_EMULATOR_STATUS *EmulatorReturnStatus)
{
    (void)Context;
    if (!Emulator || !VpContext || !IoInstructionContext || !EmulatorReturnStatus || !VpContext->InstructionLength)
        return E_INVALIDARG;
    return answer(EmulatorReturnStatus);
}

HRESULT WINAPI WHvEmulatorTryMmioEmulation(WHV_EMULATOR_HANDLE Emulator, VOID *Context,
                                           const WHV_VP_EXIT_CONTEXT *VpContext,
                                           const WHV_MEMORY_ACCESS_CONTEXT *MmioInstructionContext,
                                           WHV_EMULATOR_STATUS *EmulatorReturnStatus)
{
    (void)Context;
    if (!Emulator || !VpContext || !MmioInstructionContext || !EmulatorReturnStatus)
        return E_INVALIDARG;
    return answer(EmulatorReturnStatus);
}
