/*
 * WHP: the instruction emulator (libWinHvEmulation).
 *
 * It finishes an instruction that memory or ports could not serve: it decodes the instruction of
 * an exit, asks its client through callbacks for registers, translations and data, and gives the
 * results back through callbacks. It knows no partition: everything it learns and changes goes
 * through the client.
 *
 * Order of callbacks for one instruction: registers are read; missing instruction bytes are
 * translated (execute) and read; operands are translated and read; results are written to memory
 * or port; then, once and last, registers with the new RIP are written. Whatever fails before
 * that last step leaves the registers as they were. A REP instruction is done element by element.
 *
 * Threads: an emulator is used by one thread at a time. Make one per processor.
 */
#ifndef OPENWHP_WINHVEMULATION_H
#define OPENWHP_WINHVEMULATION_H

#include <WinHvPlatformDefs.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#endif

/* clang-format off */

/* How an emulation ended: bit 0 alone, or one of the others. */
typedef union WHV_EMULATOR_STATUS {
    struct {
        UINT32 EmulationSuccessful : 1;    /* bit 0: done, or the guest was given its fault */
        UINT32 InternalEmulationFailure : 1; /* bit 1: an instruction the emulator does not do */
        UINT32 IoPortCallbackFailed : 1;   /* bit 2: bits 2 to 4, 6, 7: that callback failed */
        UINT32 MemoryCallbackFailed : 1;
        UINT32 TranslateGvaPageCallbackFailed : 1;
        UINT32 TranslateGvaPageCallbackGpaIsNotAligned : 1; /* bit 5: its Gpa was not a page's */
        UINT32 GetVirtualProcessorRegistersCallbackFailed : 1;
        UINT32 SetVirtualProcessorRegistersCallbackFailed : 1;
        UINT32 InterruptCausedIntercept : 1; /* bit 8: the access delivers an event; there is no
                                              instruction to emulate */
        UINT32 GuestCannotBeFaulted : 1;   /* bit 9: the guest ought to get a fault and cannot */
        UINT32 Reserved : 22;
    };
    UINT32 AsUINT32;
} WHV_EMULATOR_STATUS;
C_ASSERT(sizeof(WHV_EMULATOR_STATUS) == 4);

/* One access to memory: to a device or, for other operands and instruction bytes, to RAM. It
   never crosses a page; what does is made of two accesses. */
typedef struct WHV_EMULATOR_MEMORY_ACCESS_INFO {
    WHV_GUEST_PHYSICAL_ADDRESS GpaAddress;
    UINT8 Direction;                       /* 0: read, fill Data; 1: write, take Data */
    UINT8 AccessSize;                      /* bytes, 1 to 8 */
    UINT8 Data[8];                         /* as in memory: lowest address first */
} WHV_EMULATOR_MEMORY_ACCESS_INFO;
C_ASSERT(sizeof(WHV_EMULATOR_MEMORY_ACCESS_INFO) == 24);

/* One access to an I/O port. */
typedef struct WHV_EMULATOR_IO_ACCESS_INFO {
    UINT8  Direction;                      /* 0: IN, fill Data; 1: OUT, take Data */
    UINT16 Port;
    UINT16 AccessSize;                     /* bytes: 1, 2 or 4 */
    UINT32 Data;
} WHV_EMULATOR_IO_ACCESS_INFO;
C_ASSERT(sizeof(WHV_EMULATOR_IO_ACCESS_INFO) == 12);

/* clang-format on */

/*
 * The callbacks. Context is the pointer that the client gave to WHvEmulatorTry...; they run on
 * its thread. A failure (FAILED(result)) ends the emulation with the status bit of the callback.
 */

/* Does one port access. */
typedef HRESULT(CALLBACK *WHV_EMULATOR_IO_PORT_CALLBACK)(VOID *Context,
                                                         WHV_EMULATOR_IO_ACCESS_INFO *IoAccess);

/* Does one memory access; must serve RAM as well as devices. */
typedef HRESULT(CALLBACK *WHV_EMULATOR_MEMORY_CALLBACK)(
    VOID *Context, WHV_EMULATOR_MEMORY_ACCESS_INFO *MemoryAccess);

/* Reads registers of the processor: WHvGetVirtualProcessorRegisters fits. */
typedef HRESULT(CALLBACK *WHV_EMULATOR_GET_VIRTUAL_PROCESSOR_REGISTERS_CALLBACK)(
    VOID *Context, const WHV_REGISTER_NAME *RegisterNames, UINT32 RegisterCount,
    WHV_REGISTER_VALUE *RegisterValues);

/* Writes registers of the processor: WHvSetVirtualProcessorRegisters fits. */
typedef HRESULT(CALLBACK *WHV_EMULATOR_SET_VIRTUAL_PROCESSOR_REGISTERS_CALLBACK)(
    VOID *Context, const WHV_REGISTER_NAME *RegisterNames, UINT32 RegisterCount,
    const WHV_REGISTER_VALUE *RegisterValues);

/* Translates the address of a page: WHvTranslateGva fits. With ResultCode Success, *Gpa must be a
   multiple of 4096; with another, the guest is given the page fault. */
typedef HRESULT(CALLBACK *WHV_EMULATOR_TRANSLATE_GVA_PAGE_CALLBACK)(
    VOID *Context, WHV_GUEST_VIRTUAL_ADDRESS Gva, WHV_TRANSLATE_GVA_FLAGS TranslateFlags,
    WHV_TRANSLATE_GVA_RESULT_CODE *TranslationResult, WHV_GUEST_PHYSICAL_ADDRESS *Gpa);

/* All of them. Size is sizeof(WHV_EMULATOR_CALLBACKS), Reserved 0, none of them NULL. */
typedef struct WHV_EMULATOR_CALLBACKS {
    UINT32 Size;
    UINT32 Reserved;
    WHV_EMULATOR_IO_PORT_CALLBACK WHvEmulatorIoPortCallback;
    WHV_EMULATOR_MEMORY_CALLBACK WHvEmulatorMemoryCallback;
    WHV_EMULATOR_GET_VIRTUAL_PROCESSOR_REGISTERS_CALLBACK WHvEmulatorGetVirtualProcessorRegisters;
    WHV_EMULATOR_SET_VIRTUAL_PROCESSOR_REGISTERS_CALLBACK WHvEmulatorSetVirtualProcessorRegisters;
    WHV_EMULATOR_TRANSLATE_GVA_PAGE_CALLBACK WHvEmulatorTranslateGvaPage;
} WHV_EMULATOR_CALLBACKS;
C_ASSERT(sizeof(WHV_EMULATOR_CALLBACKS) == 48);

typedef VOID *WHV_EMULATOR_HANDLE;

/*
 * Makes an emulator. The table of callbacks is copied. The caller ends it with
 * WHvEmulatorDestroyEmulator.
 *
 * E_INVALIDARG   Callbacks or Emulator is NULL, Size is wrong, Reserved is not 0, a callback is
 *                NULL
 * E_OUTOFMEMORY  host memory ran out
 *
 * API page WHvEmulatorCreateEmulator.
 */
OWHP_EXPORT HRESULT WINAPI WHvEmulatorCreateEmulator(const WHV_EMULATOR_CALLBACKS *Callbacks,
                                                     WHV_EMULATOR_HANDLE *Emulator);

/*
 * Ends an emulator; the handle is then invalid.
 *
 * E_INVALIDARG  NULL, or no emulator
 *
 * API page WHvEmulatorDestroyEmulator.
 */
OWHP_EXPORT HRESULT WINAPI WHvEmulatorDestroyEmulator(WHV_EMULATOR_HANDLE Emulator);

/*
 * Finishes the IN, OUT, INS or OUTS of an exit X64IoPortAccess. Context goes to every callback.
 *
 * S_OK means that *EmulatorReturnStatus tells how it ended, a failed emulation included. With
 * EmulationSuccessful, registers and RIP have been written and the processor can run on.
 *
 * E_INVALIDARG  a pointer is NULL (Context may be), Emulator is no emulator, or VpContext has
 *               InstructionLength 0
 *
 * API page WHvEmulatorTryIoEmulation.
 */
OWHP_EXPORT HRESULT WINAPI WHvEmulatorTryIoEmulation(
    WHV_EMULATOR_HANDLE Emulator, VOID *Context, const WHV_VP_EXIT_CONTEXT *VpContext,
    const WHV_X64_IO_PORT_ACCESS_CONTEXT *IoInstructionContext,
    WHV_EMULATOR_STATUS *EmulatorReturnStatus);

/*
 * Finishes the instruction of an exit MemoryAccess. Context goes to every callback.
 *
 * S_OK means that *EmulatorReturnStatus tells how it ended, a failed emulation included. With
 * EmulationSuccessful, registers and RIP have been written and the processor can run on.
 *
 * E_INVALIDARG  a pointer is NULL (Context may be), or Emulator is no emulator
 *
 * API page WHvEmulatorTryMmioEmulation.
 */
OWHP_EXPORT HRESULT WINAPI WHvEmulatorTryMmioEmulation(
    WHV_EMULATOR_HANDLE Emulator, VOID *Context, const WHV_VP_EXIT_CONTEXT *VpContext,
    const WHV_MEMORY_ACCESS_CONTEXT *MmioInstructionContext,
    WHV_EMULATOR_STATUS *EmulatorReturnStatus);

#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif

#ifdef __cplusplus
}
#endif

#endif
