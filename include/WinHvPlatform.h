/*
 * WHP: the functions of the Windows Hypervisor Platform API (libWinHvPlatform).
 *
 * The course of a client: WHvGetCapability -> WHvCreatePartition -> WHvSetPartitionProperty
 * (ProcessorCount at least) -> WHvSetupPartition -> WHvMapGpaRange, WHvCreateVirtualProcessor,
 * WHvSetVirtualProcessorRegisters -> WHvRunVirtualProcessor again and again, each return of which
 * is an exit to be handled -> WHvDeleteVirtualProcessor, WHvDeletePartition.
 *
 * What holds for every function, and is not repeated below:
 *
 *   Result     S_OK, or an HRESULT with bit 31 set. A call that fails has changed nothing, unless
 *              its comment says otherwise. OwhpGetLastErrorText (openwhp.h) tells the reason in
 *              words. Nothing an argument holds makes the library print, exit or abort.
 *   Handles    A partition handle that is NULL, not from WHvCreatePartition, or already deleted:
 *              E_HANDLE.
 *   Pointers   A pointer that must not be NULL is, or leads to memory that the process cannot
 *              access as needed: E_POINTER. The library keeps no pointer to its arguments after
 *              a call returns; the one exception is the memory given to WHvMapGpaRange.
 *   Processors A VpIndex that no processor of the partition has: WHV_E_VP_DOES_NOT_EXIST.
 *   Buffers    An output buffer that is too small: WHV_E_INSUFFICIENT_BUFFER; the size that is
 *              needed is then in the WrittenSize, if the function has one and it is not NULL.
 *              A WrittenSize may be NULL.
 *   States     Functions on processors and memory before WHvSetupPartition:
 *              HRESULT_FROM_WIN32(ERROR_INVALID_STATE).
 *   Threads    Any thread may call any function at any time. Two exceptions: a processor is run
 *              by one thread at a time, and while it runs its registers and state cannot be read
 *              or written by others; both give WHV_E_INVALID_VP_STATE. A handle must not be used
 *              while or after another thread deletes it; the library detects that and fails.
 *              A thread that is cancelled (pthread_cancel) ends after the call it is in; cancels of
 *              the asynchronous kind are not for threads that call the library.
 *   Signals    The library has handlers for SIGSEGV and SIGBUS from a process's first call on, for
 *              pointers and guest memory that are not there; what is not its own goes to the handlers
 *              that were there before. A client that installs its own later must pass on what is not
 *              its own in the same way. A thread's first call unblocks both signals in that thread;
 *              they must stay so as long as it calls the library. The kvm engine uses SIGSTKFLT too.
 *   Processes  The child of a fork() must not use partitions and other objects that it has inherited;
 *              they stay the parent's. To have its own it is forked before the parent's first call,
 *              or executes a program.
 *   Memory     Host memory ran out: E_OUTOFMEMORY, from any function that needs some.
 *   Absent     What this platform does not have answers HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED);
 *              docs/api-coverage.md is the list.
 *
 * "API page X" names the page of Microsoft's documentation of the hypervisor platform that states
 * the behaviour; where it is silent, the behaviour here is the choice that our tests fix.
 */
#ifndef OPENWHP_WINHVPLATFORM_H
#define OPENWHP_WINHVPLATFORM_H

#include <WinHvPlatformDefs.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ========================================================================================== */
/* Platform capabilities                                                                      */
/* ========================================================================================== */

/*
 * Tells what the platform can do, before any partition exists.
 *
 * CapabilityBuffer receives the member of WHV_CAPABILITY that CapabilityCode names; a buffer
 * larger than that member is fine. WrittenSizeInBytes: the size of the answer, in bytes.
 *
 * WHV_E_UNKNOWN_CAPABILITY   no such code
 * WHV_E_INSUFFICIENT_BUFFER  the answer does not fit
 * E_POINTER                  CapabilityBuffer is NULL
 *
 * That no engine can be used is not a failure: HypervisorPresent is then FALSE.
 * API page WHvGetCapability.
 */
OWHP_EXPORT HRESULT WINAPI WHvGetCapability(WHV_CAPABILITY_CODE CapabilityCode,
                                            VOID *CapabilityBuffer,
                                            UINT32 CapabilityBufferSizeInBytes,
                                            UINT32 *WrittenSizeInBytes);

/* ========================================================================================== */
/* Partitions                                                                                 */
/* ========================================================================================== */

/*
 * Makes a partition, without processors and memory and not yet set up. A process may have any
 * number of them. The caller owns it and ends it with WHvDeletePartition.
 *
 * WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG  the engine asked for by OPENWHP_ENGINE cannot be used
 * E_ACCESSDENIED                       the user may not use the engine asked for
 * E_POINTER                            Partition is NULL
 *
 * API page WHvCreatePartition.
 */
OWHP_EXPORT HRESULT WINAPI WHvCreatePartition(WHV_PARTITION_HANDLE *Partition);

/*
 * Makes the properties set so far final and the partition ready for memory and processors. Once
 * only: a second call gives HRESULT_FROM_WIN32(ERROR_INVALID_STATE).
 *
 * WHV_E_INVALID_PARTITION_CONFIG       ProcessorCount is not set, or properties contradict
 *                                      each other
 * WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG  the engine chosen by property cannot be used here
 * E_ACCESSDENIED                       the user may not use the engine chosen by property
 *
 * API page WHvSetupPartition.
 */
OWHP_EXPORT HRESULT WINAPI WHvSetupPartition(WHV_PARTITION_HANDLE Partition);

/*
 * Puts every processor back to its state after reset. Mapped memory, its contents and the
 * properties stay. Cancels that were not yet delivered are forgotten; partition time stands
 * still until a processor runs again.
 *
 * HRESULT_FROM_WIN32(ERROR_INVALID_STATE)  not set up, or a processor is running
 *
 * API page WHvResetPartition.
 */
OWHP_EXPORT HRESULT WINAPI WHvResetPartition(WHV_PARTITION_HANDLE Partition);

/*
 * Ends a partition: its processors, mappings and settings are gone and the handle is invalid.
 * Host memory that was mapped stays the caller's; when the call has returned, the library does
 * not touch it any more. A run in progress ends; that call returns E_HANDLE.
 *
 * API page WHvDeletePartition.
 */
OWHP_EXPORT HRESULT WINAPI WHvDeletePartition(WHV_PARTITION_HANDLE Partition);

/*
 * Reads a property: the member of WHV_PARTITION_PROPERTY that PropertyCode names.
 * WrittenSizeInBytes: the size of the property, in bytes.
 *
 * WHV_E_UNKNOWN_PROPERTY                   no such code
 * WHV_E_INSUFFICIENT_BUFFER                the property does not fit
 * HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)  this property can only be written (the lists)
 * E_POINTER                                PropertyBuffer is NULL
 *
 * API page WHvGetPartitionProperty.
 */
OWHP_EXPORT HRESULT WINAPI WHvGetPartitionProperty(WHV_PARTITION_HANDLE Partition,
                                                   WHV_PARTITION_PROPERTY_CODE PropertyCode,
                                                   VOID *PropertyBuffer,
                                                   UINT32 PropertyBufferSizeInBytes,
                                                   UINT32 *WrittenSizeInBytes);

/*
 * Writes a property. The size is that of the member of WHV_PARTITION_PROPERTY, or of the whole
 * union; for the lists, of all their entries (0 empties a list).
 *
 * Only ExtendedVmExits, ExceptionExitBitmap, X64MsrExitBitmap and CpuidExitList may be written
 * after WHvSetupPartition; they take effect at the next run of each processor.
 *
 * WHV_E_UNKNOWN_PROPERTY  no such code
 * E_INVALIDARG            wrong size; value out of range or not a capability of the platform;
 *                         property final since WHvSetupPartition; or it cannot be written
 * E_POINTER               PropertyBuffer is NULL although the size is not 0
 *
 * API page WHvSetPartitionProperty.
 */
OWHP_EXPORT HRESULT WINAPI WHvSetPartitionProperty(WHV_PARTITION_HANDLE Partition,
                                                   WHV_PARTITION_PROPERTY_CODE PropertyCode,
                                                   const VOID *PropertyBuffer,
                                                   UINT32 PropertyBufferSizeInBytes);

/*
 * Stops the partition's time: time stamp counters and reference time stand still until
 * WHvResumePartitionTime or the next run of any processor. Stopping it twice is the same as once.
 *
 * HRESULT_FROM_WIN32(ERROR_INVALID_STATE)  not set up
 * WHV_E_INVALID_VP_STATE                   a processor is running
 *
 * API page WHvSuspendPartitionTime.
 */
OWHP_EXPORT HRESULT WINAPI WHvSuspendPartitionTime(WHV_PARTITION_HANDLE Partition);

/*
 * Lets the partition's time go on from where it was stopped. Nothing happens if it was not.
 *
 * HRESULT_FROM_WIN32(ERROR_INVALID_STATE)  not set up
 *
 * API page WHvResumePartitionTime.
 */
OWHP_EXPORT HRESULT WINAPI WHvResumePartitionTime(WHV_PARTITION_HANDLE Partition);

/* ========================================================================================== */
/* Guest physical memory                                                                      */
/* ========================================================================================== */

/*
 * Backs [GuestAddress, GuestAddress + SizeInBytes) with the caller's memory at SourceAddress,
 * with the rights in Flags. What was mapped there before is replaced, page by page: a running
 * processor sees the old mapping of a page or the new one, never none. If the call fails,
 * everything is as it was. Pages that are replaced lose their dirty bits and pins.
 *
 * The memory stays the caller's, who must keep it until it is unmapped; guest and host see each
 * other's stores at once. Pages are not touched, filled or pinned here. If host memory behind a
 * mapping goes away or is protected, guest accesses to it exit with GpaUnmapped = 0. The same
 * memory may be mapped at several addresses and in several partitions.
 *
 * SourceAddress, GuestAddress, SizeInBytes: multiples of 4096 bytes.
 * Flags: none, R, RW, RX or RWX, each with or without TrackDirtyPages.
 *
 * E_INVALIDARG                             not a multiple of 4096; size 0; a range that wraps
 *                                          around or reaches beyond the partition's physical
 *                                          address width; other Flags; SourceAddress is NULL
 * HRESULT_FROM_WIN32(ERROR_INVALID_STATE)  not set up
 *
 * API page WHvMapGpaRange.
 */
OWHP_EXPORT HRESULT WINAPI WHvMapGpaRange(WHV_PARTITION_HANDLE Partition, VOID *SourceAddress,
                                          WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                          UINT64 SizeInBytes, WHV_MAP_GPA_RANGE_FLAGS Flags);

/*
 * WHvMapGpaRange with memory of another process: SourceAddress is an address in Process, a
 * handle from GetCurrentProcess (then it is WHvMapGpaRange) or OwhpOpenProcess (openwhp.h, which
 * says which memory can be mapped). The handle may be closed afterwards. When that process ends,
 * accesses to private memory of it exit with GpaUnmapped = 0.
 *
 * As WHvMapGpaRange, and
 * E_HANDLE                                 Process is not such a handle
 * E_ACCESSDENIED                           the user has no rights on the memory of that process
 * HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)  the engine cannot reach this kind of memory
 *
 * API page WHvMapGpaRange2.
 */
OWHP_EXPORT HRESULT WINAPI WHvMapGpaRange2(WHV_PARTITION_HANDLE Partition, HANDLE Process,
                                           VOID *SourceAddress,
                                           WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                           UINT64 SizeInBytes, WHV_MAP_GPA_RANGE_FLAGS Flags);

/*
 * Takes the mappings of [GuestAddress, GuestAddress + SizeInBytes) away: whole mappings, parts of
 * them, several of them. Pages that are not mapped stay so; that is no error. When the call has
 * returned, no processor uses the host memory any more and later guest accesses exit with
 * GpaUnmapped = 1. Dirty bits and pins of the pages are gone.
 *
 * GuestAddress, SizeInBytes: multiples of 4096 bytes.
 *
 * E_INVALIDARG                             not a multiple of 4096, size 0, a range that wraps
 *                                          around or reaches beyond the physical address width
 * HRESULT_FROM_WIN32(ERROR_INVALID_STATE)  not set up
 *
 * API page WHvUnmapGpaRange.
 */
OWHP_EXPORT HRESULT WINAPI WHvUnmapGpaRange(WHV_PARTITION_HANDLE Partition,
                                            WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                            UINT64 SizeInBytes);

/*
 * Translates an address as the processor would now, by its CR0, CR3, CR4, EFER, RFLAGS and CPL.
 * The page tables in memory are read; the processor's TLB is not asked and not changed.
 *
 * S_OK means that TranslationResult is filled in. Only if its ResultCode is Success is *Gpa the
 * guest physical address, with the offset in the page. It need not be mapped: codes 4 to 7 speak
 * of the pages of the tables, and then *Gpa is the address of the page that could not be used.
 * Without paging the address is returned as it is. Outside long mode only its low 32 bits count.
 *
 * TranslateFlags: what is checked. None walks without permission checks. SetPageTableBits sets accessed
 * bits as the walk proceeds: those of the entries before the one where it fails stay set.
 *
 * E_INVALIDARG            unknown bits in TranslateFlags, or both SMAP flags
 * E_POINTER               TranslationResult or Gpa is NULL
 * WHV_E_INVALID_VP_STATE  the processor is running
 *
 * API page WHvTranslateGva.
 */
OWHP_EXPORT HRESULT WINAPI WHvTranslateGva(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                           WHV_GUEST_VIRTUAL_ADDRESS Gva,
                                           WHV_TRANSLATE_GVA_FLAGS TranslateFlags,
                                           WHV_TRANSLATE_GVA_RESULT *TranslationResult,
                                           WHV_GUEST_PHYSICAL_ADDRESS *Gpa);

/*
 * Tells which pages of a range the guest has written since they were mapped or last asked for,
 * and clears what it tells, in one step per page: no write is lost and none is told twice. May be
 * asked while processors run. Stores through the host's own pointer are not seen (OwhpMarkDirty).
 * A store that was begun and then exited or faulted, because it reaches into another page or the host
 * forbids it, may count as one.
 *
 * Bitmap: page i of the range is bit i % 64 of Bitmap[i / 64]; bits after the last page are 0.
 * BitmapSizeInBytes: at least 8 bytes for every 64 pages or part of it. 0 clears without telling;
 * Bitmap may then be NULL.
 *
 * WHV_E_GPA_RANGE_NOT_FOUND  a page of the range is not mapped, or not with TrackDirtyPages;
 *                            nothing is cleared
 * WHV_E_INSUFFICIENT_BUFFER  BitmapSizeInBytes is too small and not 0; nothing is cleared
 * E_INVALIDARG               address or size is not a multiple of 4096, size 0, a range that
 *                            wraps around or reaches beyond the physical address width, Bitmap
 *                            not aligned to 8 bytes
 * E_POINTER                  Bitmap is NULL although BitmapSizeInBytes is not 0, or cannot be
 *                            written; nothing is cleared (if another thread takes the Bitmap
 *                            away during the call, all pages of the range count as written)
 *
 * API page WHvQueryGpaRangeDirtyBitmap.
 */
OWHP_EXPORT HRESULT WINAPI WHvQueryGpaRangeDirtyBitmap(WHV_PARTITION_HANDLE Partition,
                                                       WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                                       UINT64 RangeSizeInBytes, UINT64 *Bitmap,
                                                       UINT32 BitmapSizeInBytes);

/*
 * Prepares ranges of guest memory.
 *
 *   Populate  AdviceBuffer is a WHV_ADVISE_GPA_RANGE_POPULATE. Host pages are brought in so that
 *             an access of AccessType will not wait. Ranges need not be aligned. With Prefetch it
 *             is a hint; with AvoidHardFaults pages that have to be read from a disk are left out.
 *   Pin       brings pages in and keeps them from being paged out. Pins count per page; unmapping
 *             drops them. AdviceBuffer is NULL, its size 0. Ranges are multiples of 4096 bytes.
 *   Unpin     takes one pin of every page back; otherwise as Pin. The last one unlocks the page: an
 *             mlock(2) of the client's own does not survive it.
 *
 * Contents never change. Ranges are done in order; if one fails, those before it stay done.
 *
 * E_INVALIDARG               unknown Advice; GpaRangesCount 0; ranges that are empty, wrap
 *                            around, reach beyond the physical address width or are not aligned
 *                            as said; an AdviceBuffer of the wrong size; unsupported flags; Unpin
 *                            of a page without a pin (nothing of the range is then changed)
 * WHV_E_GPA_RANGE_NOT_FOUND  a page of a range is not mapped (Unpin: E_INVALIDARG, it has no pin)
 * E_ACCESSDENIED             the mapping forbids AccessType; host memory is missing or protected (the
 *                            text names the page)
 * E_OUTOFMEMORY              the host cannot bring in or pin so much
 * HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)  Pin: private memory of another process
 * E_POINTER                  GpaRanges is NULL, or AdviceBuffer although Populate needs it
 *
 * API page WHvAdviseGpaRange.
 */
OWHP_EXPORT HRESULT WINAPI WHvAdviseGpaRange(WHV_PARTITION_HANDLE Partition,
                                             const WHV_MEMORY_RANGE_ENTRY *GpaRanges,
                                             UINT32 GpaRangesCount,
                                             WHV_ADVISE_GPA_RANGE_CODE Advice,
                                             const VOID *AdviceBuffer,
                                             UINT32 AdviceBufferSizeInBytes);

/*
 * Reads guest memory as processor VpIndex would, by guest physical address, under the rights of
 * the mappings. All or nothing: if one page refuses, Data is unchanged. The processor may run.
 *
 * Controls: CacheType any value of WHV_CACHE_TYPE; InputVtl 0; reserved fields 0.
 * DataSizeInBytes: 1 or more, across pages too. Windows moves at most 16 bytes of one page;
 * OPENWHP_STRICT=1 in the environment, when the partition is set up, brings those limits back.
 *
 * The register page of that processor's emulated local APIC, while it is enabled and in xAPIC mode,
 * is in front of what is mapped at its address, and needs no mapping: its registers are read as by
 * the processor's own loads. What lies in the page is read in pieces that end at multiples of 16
 * bytes; a piece gets the bytes of the register that it begins in (0 behind the first 4). The
 * processor stands still meanwhile: a run goes on afterwards.
 *
 * E_INVALIDARG    DataSizeInBytes 0, a range that wraps around, unknown CacheType, a trust level
 *                 other than 0, reserved bits set; with OPENWHP_STRICT=1 also more than 16 bytes
 *                 or more than one page
 * E_ACCESSDENIED  a page is not mapped, or its mapping has no read right, or the host memory
 *                 behind it cannot be reached
 * E_POINTER       Data is NULL
 *
 * API page WHvReadGpaRange.
 */
OWHP_EXPORT HRESULT WINAPI WHvReadGpaRange(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                           WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                           WHV_ACCESS_GPA_CONTROLS Controls, PVOID Data,
                                           UINT32 DataSizeInBytes);

/*
 * Writes guest memory as processor VpIndex would: WHvReadGpaRange the other way round, with the
 * same arguments and failures (the right that is needed is write). Tracked pages become dirty.
 *
 * At the register page of the processor's local APIC this is a store of the processor, with all its
 * effects: an EOI ends an interrupt, ICR sends one, the initial count starts the timer. As with its
 * own stores only 4 bytes at the beginning of a register (pieces as for reading) do anything. If
 * such a write exits (WHvRunVpExitReasonX64ApicEoi, ..ApicWriteTrap, ..ApicInitSipiTrap,
 * ..ApicSmiTrap), that exit comes from the processor's run, the present or the next one.
 *
 * WHV_E_INVALID_VP_STATE  at that page: the exit of an earlier write has not gone out yet
 *
 * API page WHvWriteGpaRange.
 */
OWHP_EXPORT HRESULT WINAPI WHvWriteGpaRange(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                            WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                            WHV_ACCESS_GPA_CONTROLS Controls, const VOID *Data,
                                            UINT32 DataSizeInBytes);

/* ========================================================================================== */
/* Virtual processors                                                                         */
/* ========================================================================================== */

/*
 * Adds a processor in its state after reset (CS:RIP = F000:FFF0, base 000F0000; with an emulated
 * APIC every one but processor 0 waits for a start-up IPI). Its APIC id is VpIndex.
 *
 * VpIndex: below the ProcessorCount of the partition. Flags: 0.
 *
 * WHV_E_VP_ALREADY_EXISTS                  the index is taken
 * E_INVALIDARG                             index too large, Flags not 0
 * HRESULT_FROM_WIN32(ERROR_INVALID_STATE)  not set up
 *
 * API page WHvCreateVirtualProcessor.
 */
OWHP_EXPORT HRESULT WINAPI WHvCreateVirtualProcessor(WHV_PARTITION_HANDLE Partition,
                                                     UINT32 VpIndex, UINT32 Flags);

/*
 * WHvCreateVirtualProcessor with properties. NumaNode says which host node should run it; it
 * must exist.
 *
 * As WHvCreateVirtualProcessor, and
 * E_INVALIDARG  unknown PropertyCode, Reserved not 0, no such node
 * E_POINTER     Properties is NULL although PropertyCount is not 0
 *
 * API page WHvCreateVirtualProcessor2.
 */
OWHP_EXPORT HRESULT WINAPI
WHvCreateVirtualProcessor2(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                           const WHV_VIRTUAL_PROCESSOR_PROPERTY *Properties,
                           UINT32 PropertyCount);

/*
 * Removes a processor. Creating it again gives one in its state after reset.
 *
 * WHV_E_VP_DOES_NOT_EXIST  no such processor
 * WHV_E_INVALID_VP_STATE   it is running
 *
 * API page WHvDeleteVirtualProcessor.
 */
OWHP_EXPORT HRESULT WINAPI WHvDeleteVirtualProcessor(WHV_PARTITION_HANDLE Partition,
                                                     UINT32 VpIndex);

/*
 * Runs the processor on the calling thread until something happens that the client must know,
 * and says what in ExitContext (WHV_RUN_VP_EXIT_CONTEXT, where each reason is described). At the
 * return the processor stands between two instructions; unless the reason says otherwise, RIP is
 * at the instruction that caused the exit and nothing of it has happened. Calling again without
 * having changed anything repeats the exit.
 *
 * ExitContextSizeInBytes: enough for the exit at hand; sizeof(WHV_RUN_VP_EXIT_CONTEXT) always
 * is. No more than that many bytes are written.
 *
 * With an emulated APIC, HLT does not exit: the call sleeps until an interrupt or a cancel.
 *
 * WHV_E_VP_DOES_NOT_EXIST    no such processor
 * WHV_E_INVALID_VP_STATE     another thread runs it
 * WHV_E_INSUFFICIENT_BUFFER  the buffer cannot hold the common part or the exit at hand; an
 *                            exit that did not fit is repeated by the next call
 * E_POINTER                  ExitContext is NULL
 *
 * API page WHvRunVirtualProcessor.
 */
OWHP_EXPORT HRESULT WINAPI WHvRunVirtualProcessor(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                  VOID *ExitContext,
                                                  UINT32 ExitContextSizeInBytes);

/*
 * Makes the processor's run return with reason Canceled, soon and at an instruction boundary. If
 * it is not running, the next run returns so at once: a cancel is never lost, and several before
 * one run count as one. Meant to be called from other threads.
 *
 * Flags: 0.
 *
 * WHV_E_VP_DOES_NOT_EXIST  no such processor
 * E_INVALIDARG             Flags not 0
 *
 * API page WHvCancelRunVirtualProcessor.
 */
OWHP_EXPORT HRESULT WINAPI WHvCancelRunVirtualProcessor(WHV_PARTITION_HANDLE Partition,
                                                        UINT32 VpIndex, UINT32 Flags);

/*
 * Reads RegisterCount registers. RegisterValues[i] receives RegisterNames[i]; bytes of a value
 * that its register does not have become 0. All or nothing.
 *
 * RegisterValues: aligned to 16 bytes on Windows; any alignment is accepted here.
 *
 * WHV_E_INVALID_VP_REGISTER_NAME  a name is not known
 * ERROR_HV_INVALID_PARAMETER      a name is known but the partition has no such register (an
 *                                 APIC register without an emulated APIC)
 * ERROR_HV_ACCESS_DENIED          a register cannot be read
 * WHV_E_INVALID_VP_STATE          the processor is running
 * E_POINTER                       an array is NULL although RegisterCount is not 0
 *
 * API page WHvGetVirtualProcessorRegisters.
 */
OWHP_EXPORT HRESULT WINAPI
WHvGetVirtualProcessorRegisters(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                const WHV_REGISTER_NAME *RegisterNames, UINT32 RegisterCount,
                                WHV_REGISTER_VALUE *RegisterValues);

/*
 * Writes RegisterCount registers, in order. All or nothing. Values that contradict each other
 * are found when the processor runs (exit InvalidVpRegisterValue).
 *
 * Writing RIP, RFLAGS or SS ends an interrupt shadow; write WHvRegisterInterruptState after it,
 * in the same call, to keep it.
 *
 * As WHvGetVirtualProcessorRegisters, and
 * ERROR_HV_INVALID_REGISTER_VALUE  no processor accepts the value (reserved bits)
 * ERROR_HV_ACCESS_DENIED           a register cannot be written
 *
 * API page WHvSetVirtualProcessorRegisters.
 */
OWHP_EXPORT HRESULT WINAPI
WHvSetVirtualProcessorRegisters(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                const WHV_REGISTER_NAME *RegisterNames, UINT32 RegisterCount,
                                const WHV_REGISTER_VALUE *RegisterValues);

/*
 * The local APIC in the form of the first releases of the API: the part of the register page that
 * has registers, 1024 bytes. WHvGetVirtualProcessorState has replaced it.
 *
 * WHV_E_INSUFFICIENT_BUFFER  StateSize is too small
 * WHV_E_INVALID_VP_STATE     the processor is running, or the partition has no emulated APIC
 * E_POINTER                  State is NULL
 *
 * API page WHvGetVirtualProcessorInterruptControllerState.
 */
OWHP_EXPORT HRESULT WINAPI
WHvGetVirtualProcessorInterruptControllerState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                               VOID *State, UINT32 StateSize,
                                               UINT32 *WrittenSize);

/*
 * Writes what WHvGetVirtualProcessorInterruptControllerState read. Failures as there, and
 *
 * E_INVALIDARG  the bytes are no possible state of an APIC
 */
OWHP_EXPORT HRESULT WINAPI
WHvSetVirtualProcessorInterruptControllerState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                               const VOID *State, UINT32 StateSize);

/*
 * Sends an interrupt message, as a device or an IOAPIC would, to the local APICs of the
 * partition. From any thread, also while processors run; a processor that sleeps in HLT wakes.
 *
 * InterruptControlSize: sizeof(WHV_INTERRUPT_CONTROL). A message that no APIC accepts (disabled,
 * no such id) is lost without a failure, as on real machines.
 *
 * ERROR_HV_OPERATION_DENIED   the partition has no emulated APIC
 * ERROR_HV_INVALID_PARAMETER  a vector below 16 in a fixed or lowest-priority message, unknown
 *                             type, destination or trigger mode
 * E_INVALIDARG                wrong size, reserved bits set, a trust level other than 0
 * E_POINTER                   Interrupt is NULL
 *
 * API page WHvRequestInterrupt.
 */
OWHP_EXPORT HRESULT WINAPI WHvRequestInterrupt(WHV_PARTITION_HANDLE Partition,
                                               const WHV_INTERRUPT_CONTROL *Interrupt,
                                               UINT32 InterruptControlSize);

/*
 * Reads the extended state as an XSAVE image in the compacted format (SDM volume 1, 13.4).
 * With a buffer that is too small, BytesWritten tells the size that is needed.
 *
 * WHV_E_INSUFFICIENT_BUFFER  the image does not fit
 * WHV_E_INVALID_VP_STATE     the processor is running
 * E_POINTER                  Buffer is NULL although its size is not 0
 *
 * API page WHvGetVirtualProcessorXsaveState.
 */
OWHP_EXPORT HRESULT WINAPI WHvGetVirtualProcessorXsaveState(WHV_PARTITION_HANDLE Partition,
                                                            UINT32 VpIndex, VOID *Buffer,
                                                            UINT32 BufferSizeInBytes,
                                                            UINT32 *BytesWritten);

/*
 * Writes an XSAVE image in the compacted format.
 *
 * E_INVALIDARG            the size does not fit the image, or the image is not well-formed:
 *                         not compacted, components that the guest does not have, reserved bits
 * WHV_E_INVALID_VP_STATE  the processor is running
 * E_POINTER               Buffer is NULL
 *
 * API page WHvSetVirtualProcessorXsaveState.
 */
OWHP_EXPORT HRESULT WINAPI WHvSetVirtualProcessorXsaveState(WHV_PARTITION_HANDLE Partition,
                                                            UINT32 VpIndex, const VOID *Buffer,
                                                            UINT32 BufferSizeInBytes);

/*
 * Reads a set of counters of the partition. May be asked while processors run.
 * BytesWritten: the size of the set, in bytes.
 *
 * WHV_E_UNKNOWN_PROPERTY     no such set
 * WHV_E_INSUFFICIENT_BUFFER  the set does not fit
 * E_POINTER                  Buffer is NULL
 *
 * API page WHvGetPartitionCounters.
 */
OWHP_EXPORT HRESULT WINAPI WHvGetPartitionCounters(WHV_PARTITION_HANDLE Partition,
                                                   WHV_PARTITION_COUNTER_SET CounterSet,
                                                   VOID *Buffer, UINT32 BufferSizeInBytes,
                                                   UINT32 *BytesWritten);

/*
 * Reads a set of counters of a processor; otherwise as WHvGetPartitionCounters. Counters never
 * go back as long as the processor exists.
 *
 * API page WHvGetVirtualProcessorCounters.
 */
OWHP_EXPORT HRESULT WINAPI WHvGetVirtualProcessorCounters(WHV_PARTITION_HANDLE Partition,
                                                          UINT32 VpIndex,
                                                          WHV_PROCESSOR_COUNTER_SET CounterSet,
                                                          VOID *Buffer, UINT32 BufferSizeInBytes,
                                                          UINT32 *BytesWritten);

/*
 * Reads the local APIC as a page with its registers where the guest sees them; bytes between
 * them are 0. StateSize: 4096 bytes or more.
 *
 * WHV_E_INSUFFICIENT_BUFFER  StateSize is too small
 * WHV_E_INVALID_VP_STATE     the processor is running, or the partition has no emulated APIC
 * E_POINTER                  State is NULL
 *
 * API page WHvGetVirtualProcessorInterruptControllerState2.
 */
OWHP_EXPORT HRESULT WINAPI
WHvGetVirtualProcessorInterruptControllerState2(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                VOID *State, UINT32 StateSize,
                                                UINT32 *WrittenSize);

/*
 * Writes the local APIC from such a page: every register, also those that a guest cannot write.
 * Bits that an APIC does not have, or that follow from others, are ignored: any bytes will do.
 *
 * E_POINTER               State is NULL or StateSize is below 4096
 * WHV_E_INVALID_VP_STATE  the processor is running, or the partition has no emulated APIC
 *
 * API page WHvSetVirtualProcessorInterruptControllerState2.
 */
OWHP_EXPORT HRESULT WINAPI
WHvSetVirtualProcessorInterruptControllerState2(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                const VOID *State, UINT32 StateSize);

/*
 * Reads a kind of state in bulk. Sizes and forms are at WHV_VIRTUAL_PROCESSOR_STATE_TYPE.
 *
 * E_INVALIDARG               no such type
 * WHV_E_INSUFFICIENT_BUFFER  the state does not fit
 * WHV_E_INVALID_VP_STATE     the processor is running, or it has no state of this type
 * E_POINTER                  Buffer is NULL although its size is not 0
 *
 * API page WHvGetVirtualProcessorState.
 */
OWHP_EXPORT HRESULT WINAPI
WHvGetVirtualProcessorState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                            WHV_VIRTUAL_PROCESSOR_STATE_TYPE StateType, VOID *Buffer,
                            UINT32 BufferSizeInBytes, UINT32 *BytesWritten);

/*
 * Writes a kind of state in bulk.
 *
 * E_INVALIDARG            no such type, a size that is not exactly right, an XSAVE image that XRSTOR
 *                         would refuse (of the APIC any bytes will do, see
 *                         WHvSetVirtualProcessorInterruptControllerState2)
 * WHV_E_INVALID_VP_STATE  the processor is running, or it has no state of this type
 * E_POINTER               Buffer is NULL
 *
 * API page WHvSetVirtualProcessorState.
 */
OWHP_EXPORT HRESULT WINAPI
WHvSetVirtualProcessorState(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                            WHV_VIRTUAL_PROCESSOR_STATE_TYPE StateType, const VOID *Buffer,
                            UINT32 BufferSizeInBytes);

/*
 * Tells what the guest would see if the processor executed CPUID with this EAX and ECX: the
 * platform's answer with the partition's CpuidResultList and CpuidResultList2 applied.
 *
 * E_POINTER               CpuidOutput is NULL
 * WHV_E_INVALID_VP_STATE  the processor is running
 *
 * API page WHvGetVirtualProcessorCpuidOutput.
 */
OWHP_EXPORT HRESULT WINAPI WHvGetVirtualProcessorCpuidOutput(WHV_PARTITION_HANDLE Partition,
                                                             UINT32 VpIndex, UINT32 Eax,
                                                             UINT32 Ecx,
                                                             WHV_CPUID_OUTPUT *CpuidOutput);

/*
 * Tells which processors an interrupt message with this destination would reach now.
 * TargetVps receives their indices in ascending order, TargetVpCount how many there are.
 *
 * VpCount: room in TargetVps, in entries: at least the number of the partition's processors.
 *
 * ERROR_HV_OPERATION_DENIED  the partition has no emulated APIC
 * E_INVALIDARG               VpCount too small, unknown DestinationMode
 * E_POINTER                  TargetVps or TargetVpCount is NULL
 *
 * API page WHvGetInterruptTargetVpSet.
 */
OWHP_EXPORT HRESULT WINAPI
WHvGetInterruptTargetVpSet(WHV_PARTITION_HANDLE Partition, UINT64 Destination,
                           WHV_INTERRUPT_DESTINATION_MODE DestinationMode, UINT32 *TargetVps,
                           UINT32 VpCount, UINT32 *TargetVpCount);

/* ========================================================================================== */
/* Doorbells                                                                                  */
/* ========================================================================================== */

/*
 * Lets guest writes that match MatchData signal an event instead of exiting. EventHandle is a
 * descriptor of eventfd(2) (OwhpEventHandle in openwhp.h); it stays the caller's, who may close it
 * at once.
 *
 * GuestAddress   where the write begins; it must not cross a page, and needs no alignment
 * MatchOnLength  only writes of Length bytes; else of any length, and Length is 0
 * MatchOnValue   only writes of Value (needs MatchOnLength); else of any value, and Value is 0
 *
 * While a page has a doorbell it counts as unmapped, whatever is mapped there: other accesses exit
 * with GpaUnmapped = 1. What rings are stores by MOV, MOVNTI and MOVBE; all other instructions exit,
 * as on Windows, whose list may differ: a client has to handle the exit as well. Doorbells end with
 * the partition.
 *
 * E_INVALIDARG                malformed MatchData: Length not 1, 2, 4 or 8 with MatchOnLength; reserved
 *                             bits; a Length, Value or MatchOnValue that has to be 0; an address beyond
 *                             the address space or a write across pages; a value too large
 * E_HANDLE                    EventHandle is not an event
 * ERROR_HV_INVALID_PARAMETER  in conflict with another doorbell at GuestAddress: the same one, one
 *                             of another Length, or one of the two matches any value
 * E_POINTER                   MatchData is NULL
 * E_OUTOFMEMORY
 *
 * API pages WHvRegisterPartitionDoorbellEvent, WHvDoorbellDataTypes.
 */
OWHP_EXPORT HRESULT WINAPI
WHvRegisterPartitionDoorbellEvent(WHV_PARTITION_HANDLE Partition,
                                  const WHV_DOORBELL_MATCH_DATA *MatchData, HANDLE EventHandle);

/*
 * Takes a doorbell away; MatchData as at its registration. When it returns the event is not
 * signaled any more, and what is mapped at the page serves again unless it has other doorbells.
 *
 * HRESULT_FROM_WIN32(ERROR_NOT_FOUND)  there is no such doorbell
 * E_INVALIDARG, E_POINTER              as at the registration
 *
 * API page WHvUnregisterPartitionDoorbellEvent.
 */
OWHP_EXPORT HRESULT WINAPI
WHvUnregisterPartitionDoorbellEvent(WHV_PARTITION_HANDLE Partition,
                                    const WHV_DOORBELL_MATCH_DATA *MatchData);

/* ========================================================================================== */
/* Synthetic interrupt controller                                                             */
/* ========================================================================================== */

/*
 * Sets an event flag of a processor's SynIC and raises its interrupt. NewlySignaled (may be
 * NULL): whether the flag was clear before.
 *
 * E_INVALIDARG                             a trust level other than 0, source or flag too large
 * HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)  there is no SynIC
 *
 * API page WHvSignalVirtualProcessorSynicEvent.
 */
OWHP_EXPORT HRESULT WINAPI
WHvSignalVirtualProcessorSynicEvent(WHV_PARTITION_HANDLE Partition,
                                    WHV_SYNIC_EVENT_PARAMETERS SynicEvent, BOOL *NewlySignaled);

/*
 * Puts a message of at most WHV_SYNIC_MESSAGE_SIZE bytes into a slot of a processor's SynIC and
 * raises its interrupt.
 *
 * E_INVALIDARG                             source too large, message too long
 * HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)  there is no SynIC
 *
 * API page WHvPostVirtualProcessorSynicMessage.
 */
OWHP_EXPORT HRESULT WINAPI WHvPostVirtualProcessorSynicMessage(WHV_PARTITION_HANDLE Partition,
                                                               UINT32 VpIndex, UINT32 SintIndex,
                                                               const VOID *Message,
                                                               UINT32 MessageSizeInBytes);

/* ========================================================================================== */
/* Device assignment: a device of the host becomes one of the guest                           */
/* All answer HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED) for every living partition while        */
/* WHV_CAPABILITY_FEATURES.VirtualPciDeviceSupport is 0.                                      */
/* ========================================================================================== */

/* Takes a device of the host for assignment; *VpciResource is then a handle of the caller's. */
OWHP_EXPORT HRESULT WINAPI WHvAllocateVpciResource(const GUID *ProviderId,
                                                   WHV_ALLOCATE_VPCI_RESOURCE_FLAGS Flags,
                                                   const VOID *ResourceDescriptor,
                                                   UINT32 ResourceDescriptorSizeInBytes,
                                                   HANDLE *VpciResource);

/* Gives the device to a partition, under a number of the caller's choice. NotificationEventHandle
   (may be NULL) is signalled when WHvGetVpciDeviceNotification has something to tell. */
OWHP_EXPORT HRESULT WINAPI WHvCreateVpciDevice(WHV_PARTITION_HANDLE Partition,
                                               UINT64 LogicalDeviceId, HANDLE VpciResource,
                                               WHV_CREATE_VPCI_DEVICE_FLAGS Flags,
                                               HANDLE NotificationEventHandle);

/* Takes the device back from the partition. */
OWHP_EXPORT HRESULT WINAPI WHvDeleteVpciDevice(WHV_PARTITION_HANDLE Partition,
                                               UINT64 LogicalDeviceId);

/* Reads a property: WHV_VPCI_HARDWARE_IDS or WHV_VPCI_PROBED_BARS. */
OWHP_EXPORT HRESULT WINAPI WHvGetVpciDeviceProperty(WHV_PARTITION_HANDLE Partition,
                                                    UINT64 LogicalDeviceId,
                                                    WHV_VPCI_DEVICE_PROPERTY_CODE PropertyCode,
                                                    VOID *PropertyBuffer,
                                                    UINT32 PropertyBufferSizeInBytes,
                                                    UINT32 *WrittenSizeInBytes);

/* Takes the oldest notification of the device. */
OWHP_EXPORT HRESULT WINAPI WHvGetVpciDeviceNotification(WHV_PARTITION_HANDLE Partition,
                                                        UINT64 LogicalDeviceId,
                                                        WHV_VPCI_DEVICE_NOTIFICATION *Notification,
                                                        UINT32 NotificationSizeInBytes);

/* Makes the device's memory reachable in this process; *Mappings, with *MappingCount entries,
   belongs to the library and lives until WHvUnmapVpciDeviceMmioRanges. */
OWHP_EXPORT HRESULT WINAPI WHvMapVpciDeviceMmioRanges(WHV_PARTITION_HANDLE Partition,
                                                      UINT64 LogicalDeviceId,
                                                      UINT32 *MappingCount,
                                                      WHV_VPCI_MMIO_MAPPING **Mappings);

/* Ends that. */
OWHP_EXPORT HRESULT WINAPI WHvUnmapVpciDeviceMmioRanges(WHV_PARTITION_HANDLE Partition,
                                                        UINT64 LogicalDeviceId);

/* Changes the device's power state. */
OWHP_EXPORT HRESULT WINAPI WHvSetVpciDevicePowerState(WHV_PARTITION_HANDLE Partition,
                                                      UINT64 LogicalDeviceId,
                                                      DEVICE_POWER_STATE PowerState);

/* Reads Register->SizeInBytes bytes of configuration space or device memory into Data. */
OWHP_EXPORT HRESULT WINAPI WHvReadVpciDeviceRegister(WHV_PARTITION_HANDLE Partition,
                                                     UINT64 LogicalDeviceId,
                                                     const WHV_VPCI_DEVICE_REGISTER *Register,
                                                     VOID *Data);

/* Writes Register->SizeInBytes bytes of configuration space or device memory from Data. */
OWHP_EXPORT HRESULT WINAPI WHvWriteVpciDeviceRegister(WHV_PARTITION_HANDLE Partition,
                                                      UINT64 LogicalDeviceId,
                                                      const WHV_VPCI_DEVICE_REGISTER *Register,
                                                      const VOID *Data);

/* Connects interrupt Index of the device, MessageCount messages, with processors; tells the
   message address and data for the guest's MSI registers. */
OWHP_EXPORT HRESULT WINAPI WHvMapVpciDeviceInterrupt(WHV_PARTITION_HANDLE Partition,
                                                     UINT64 LogicalDeviceId, UINT32 Index,
                                                     UINT32 MessageCount,
                                                     const WHV_VPCI_INTERRUPT_TARGET *Target,
                                                     UINT64 *MsiAddress, UINT32 *MsiData);

/* Ends that. */
OWHP_EXPORT HRESULT WINAPI WHvUnmapVpciDeviceInterrupt(WHV_PARTITION_HANDLE Partition,
                                                       UINT64 LogicalDeviceId, UINT32 Index);

/* Sends the interrupt with this message to other processors from now on. */
OWHP_EXPORT HRESULT WINAPI WHvRetargetVpciDeviceInterrupt(WHV_PARTITION_HANDLE Partition,
                                                          UINT64 LogicalDeviceId,
                                                          UINT64 MsiAddress, UINT32 MsiData,
                                                          const WHV_VPCI_INTERRUPT_TARGET *Target);

/* Raises the interrupt with this message as if the device had. */
OWHP_EXPORT HRESULT WINAPI WHvRequestVpciDeviceInterrupt(WHV_PARTITION_HANDLE Partition,
                                                         UINT64 LogicalDeviceId,
                                                         UINT64 MsiAddress, UINT32 MsiData);

/* Tells which processors an interrupt of the device goes to. */
OWHP_EXPORT HRESULT WINAPI WHvGetVpciDeviceInterruptTarget(WHV_PARTITION_HANDLE Partition,
                                                           UINT64 LogicalDeviceId, UINT32 Index,
                                                           UINT32 MultiMessageNumber,
                                                           WHV_VPCI_INTERRUPT_TARGET *Target,
                                                           UINT32 TargetSizeInBytes,
                                                           UINT32 *BytesWritten);

/* ========================================================================================== */
/* Triggers, notification ports, migration                                                    */
/* All answer HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED) where they are absent.                  */
/* ========================================================================================== */

/* Makes an event (*EventHandle) that raises the interrupt of Parameters when it is signalled.
   Both handles are valid until WHvDeleteTrigger. */
OWHP_EXPORT HRESULT WINAPI WHvCreateTrigger(WHV_PARTITION_HANDLE Partition,
                                            const WHV_TRIGGER_PARAMETERS *Parameters,
                                            WHV_TRIGGER_HANDLE *TriggerHandle,
                                            HANDLE *EventHandle);

/* Changes what it raises, in one step. */
OWHP_EXPORT HRESULT WINAPI WHvUpdateTriggerParameters(WHV_PARTITION_HANDLE Partition,
                                                      const WHV_TRIGGER_PARAMETERS *Parameters,
                                                      WHV_TRIGGER_HANDLE TriggerHandle);

/* Ends the trigger. */
OWHP_EXPORT HRESULT WINAPI WHvDeleteTrigger(WHV_PARTITION_HANDLE Partition,
                                            WHV_TRIGGER_HANDLE TriggerHandle);

/*
 * Signals EventHandle, a descriptor as for WHvRegisterPartitionDoorbellEvent, whenever the guest rings the doorbell of
 * Parameters. There are no ports of events that the guest signals by hypercall.
 *
 * E_INVALIDARG         unknown type, ConnectionVtl or reserved fields not 0
 * ERROR_NOT_SUPPORTED  type Event
 * E_POINTER            Parameters or PortHandle is NULL
 * and as WHvRegisterPartitionDoorbellEvent
 *
 * API page WHvCreateNotificationPort.
 */
OWHP_EXPORT HRESULT WINAPI
WHvCreateNotificationPort(WHV_PARTITION_HANDLE Partition,
                          const WHV_NOTIFICATION_PORT_PARAMETERS *Parameters, HANDLE EventHandle,
                          WHV_NOTIFICATION_PORT_HANDLE *PortHandle);

/*
 * Changes a property of the port. Those there are say which processor to tell first; a doorbell tells
 * none, so they change nothing.
 *
 * E_HANDLE      no such port
 * E_INVALIDARG  unknown property; a processor index beyond 32 bits
 */
OWHP_EXPORT HRESULT WINAPI
WHvSetNotificationPortProperty(WHV_PARTITION_HANDLE Partition,
                               WHV_NOTIFICATION_PORT_HANDLE PortHandle,
                               WHV_NOTIFICATION_PORT_PROPERTY_CODE PropertyCode,
                               WHV_NOTIFICATION_PORT_PROPERTY PropertyValue);

/* Ends the port. E_HANDLE: no such port. */
OWHP_EXPORT HRESULT WINAPI WHvDeleteNotificationPort(WHV_PARTITION_HANDLE Partition,
                                                     WHV_NOTIFICATION_PORT_HANDLE PortHandle);

/* Prepares the partition for being taken over by another process of this host; the handle is
   what that process gives to WHvAcceptPartitionMigration. */
OWHP_EXPORT HRESULT WINAPI WHvStartPartitionMigration(WHV_PARTITION_HANDLE Partition,
                                                      HANDLE *MigrationHandle);

/* Gives that up: the partition stays here. */
OWHP_EXPORT HRESULT WINAPI WHvCancelPartitionMigration(WHV_PARTITION_HANDLE Partition);

/* Ends it after the other process has accepted. */
OWHP_EXPORT HRESULT WINAPI WHvCompletePartitionMigration(WHV_PARTITION_HANDLE Partition);

/* Takes a partition over from another process. */
OWHP_EXPORT HRESULT WINAPI WHvAcceptPartitionMigration(HANDLE MigrationHandle,
                                                       WHV_PARTITION_HANDLE *Partition);

#ifdef __cplusplus
}
#endif

#endif
