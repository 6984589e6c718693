/*
 * OpenWHP: what this platform offers beyond the Windows API. A portable client never needs it;
 * everything here starts with Owhp or OWHP_. The functions are in libWinHvPlatform, and what
 * WinHvPlatform.h says of every function (results, handles, threads, ...) holds for them too.
 */
#ifndef OPENWHP_H
#define OPENWHP_H

#include <WinHvPlatformDefs.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ========================================================================================== */
/* Engines                                                                                    */
/* ========================================================================================== */

/* What executes the guest. */
typedef enum OWHP_ENGINE {
    OwhpEngineAuto = 0, /* kvm where it can be used and runs guests on hardware, else soft */
    OwhpEngineSoft = 1, /* the processor in the library; needs nothing of the host */
    OwhpEngineKvm = 2   /* the host's hardware, through /dev/kvm; takes the signal SIGSTKFLT */
} OWHP_ENGINE;

/*
 * A partition property: the OWHP_ENGINE of the partition, 4 bytes, written before
 * WHvSetupPartition. Without it, OPENWHP_ENGINE in the environment (auto, soft or kvm) decides,
 * and without that Auto. Read before WHvSetupPartition it is what was asked for, afterwards the
 * engine that is used, never Auto. An engine asked for by name that cannot be used makes
 * WHvSetupPartition fail as OwhpQueryEngine says: none takes its place.
 */
#define OwhpPartitionPropertyCodeEngine ((WHV_PARTITION_PROPERTY_CODE)0x4F570001)

/*
 * A capability for WHvGetCapability, 8 bytes: bits of OWHP_ENGINE_DIFFERENCES, where the engine that a
 * partition gets without OwhpPartitionPropertyCodeEngine differs from what the API promises, because
 * of how it executes guests. 0 of soft. What an engine cannot do at all is absent from the other
 * capabilities instead (optional exits, processor features), and refused when it is asked for.
 */
#define OwhpCapabilityCodeEngineDifferences ((WHV_CAPABILITY_CODE)0x4F570001)

typedef enum OWHP_ENGINE_DIFFERENCES {
    OwhpEngineDifferenceNone = 0,
    /* Pages that processors only read or executed may be reported as dirty. None is missing. */
    OwhpEngineDifferenceReadsMayBeDirty = 1,
    /*
     * When a store over two pages exits for one of them, the other may have its part already; a
     * read-modify-write that exits for its write may have set its flags; and a POPA that exits may have
     * written the registers whose values it had read before. Where the instruction of an exit cannot be
     * found again (a store over its own code, code that nobody can read), the exit is UnsupportedFeature.
     */
    OwhpEngineDifferenceSplitStores = 2,
    /*
     * Page tables, descriptor tables and stacks where nothing is mapped: the guest gets a page fault or
     * shuts down, or the run lasts until it is cancelled; there is no memory exit.
     */
    OwhpEngineDifferenceUnmappedPageTables = 4,
    /* Several debug exceptions of one instruction are delivered in the processor's way. */
    OwhpEngineDifferenceDebugChains = 8,
    /*
     * Guests are interpreted by the host's kernel: in user mode IOPL reads 0, the interrupt shadow of
     * an OUT is over when it exits, RDTSC reads the host's time stamp, CPUID shows features of the host,
     * fetches are not atomic against stores of other processors, nor are locked accesses across cache
     * lines, and a contended locked ADC or SBB may lose its carry.
     */
    OwhpEngineDifferenceInterpreted = 16,
    /* Instructions follow the host processor's vendor, whatever vendor CPUID results present. */
    OwhpEngineDifferenceHostVendor = 32,
    /* MONITOR and MWAIT do nothing, whatever CPUID results present. */
    OwhpEngineDifferenceNoMonitor = 64,
    /* CLFLUSH and CLFLUSHOPT where nothing is mapped do nothing; there is no memory exit. */
    OwhpEngineDifferenceNoFlushExits = 128
} OWHP_ENGINE_DIFFERENCES;

/*
 * Tells whether an engine can be used here and now, and why not.
 *
 * Reason (may be NULL) receives one line without line end, cut to ReasonSizeInBytes with its
 * final 0: the cause if the engine cannot be used (of kvm: no device, no permission, or the name of
 * the capability that is missing); "" if it can; for Auto the engine that would be taken and why, as
 * in "soft: this KVM lacks KVM_CAP_READONLY_MEM".
 *
 * WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG  it cannot be used here
 * E_ACCESSDENIED                       it cannot be used by this user
 * E_INVALIDARG                         no such engine
 */
OWHP_EXPORT HRESULT WINAPI OwhpQueryEngine(OWHP_ENGINE Engine, char *Reason,
                                           UINT32 ReasonSizeInBytes);

/* ========================================================================================== */
/* Events                                                                                     */
/* ========================================================================================== */

/*
 * The HANDLE of an event, for doorbells and notification ports: on Linux an event is a descriptor of
 * eventfd(2). Signaling adds 1 to its counter; it never blocks. The library keeps a descriptor of its
 * own while it needs the event.
 */
#define OwhpEventHandle(Descriptor) ((HANDLE)(UINT_PTR)(UINT32)(Descriptor))

/* ========================================================================================== */
/* Errors                                                                                     */
/* ========================================================================================== */

/*
 * The reason for the calling thread's last failed call into the library, in words: function,
 * argument, cause. "" if none has failed yet. Never NULL. The text belongs to the library and
 * is valid until this thread's next call; successful calls do not change it.
 */
OWHP_EXPORT const char *WINAPI OwhpGetLastErrorText(void);

/*
 * Sets that text for the calling thread, for what is built on top of the library: WHvEmulator
 * functions say in this way which instruction they gave up and why. At most 319 characters are
 * kept. NULL: none.
 */
OWHP_EXPORT VOID WINAPI OwhpSetLastErrorText(const char *Text);

/* ========================================================================================== */
/* Registers                                                                                  */
/* ========================================================================================== */

/*
 * Registers that the API has no names for, for WHvGetVirtualProcessorRegisters and
 * WHvSetVirtualProcessorRegisters, alone or among others:
 *
 *   OwhpX64RegisterYmmHigh(0 .. 15)  bits 128 to 255 of a YMM register, in Reg128. (The lower ones
 *                                    are WHvX64RegisterXmm0 ..)
 *   OwhpX64RegisterPkru              the rights of protection keys; bits 32 and up are 0
 *
 * In a partition whose processors lack the feature (AVX, PKU) they are names of a feature that the
 * partition does not have. libWinHvEmulation asks the client's callbacks for them when an instruction
 * needs them (AVX instructions, XSAVE and XRSTOR), and only then: a callback that passes names on
 * needs to do nothing for it.
 */
#define OwhpX64RegisterYmmHigh(Number) ((WHV_REGISTER_NAME)(0x4F571000 + (Number)))
#define OwhpX64RegisterPkru            ((WHV_REGISTER_NAME)0x4F571010)

/* ========================================================================================== */
/* Memory exits without an emulator                                                           */
/* ========================================================================================== */

/* One access that an instruction makes to memory which cannot serve it. */
typedef struct OWHP_MEMORY_ACCESS {
    WHV_GUEST_PHYSICAL_ADDRESS Gpa;
    WHV_GUEST_VIRTUAL_ADDRESS Gva;
    WHV_MEMORY_ACCESS_TYPE AccessType; /* Read, Write; Execute cannot be completed */
    UINT32 SizeInBytes;                /* 1, 2, 4 or 8; wider ones come in pieces, low first */
    UINT64 Data;                       /* Write: what is written. Read: for the client to fill */
} OWHP_MEMORY_ACCESS;
C_ASSERT(sizeof(OWHP_MEMORY_ACCESS) == 32);

/*
 * Tells what the instruction of a MemoryAccess exit wants: direction, size and, for a write, the
 * data. Changes nothing. ExitContext is the processor's latest exit, and the processor has not
 * run since.
 *
 * E_INVALIDARG                             the exit is not a MemoryAccess, or not the latest one
 * WHV_E_INVALID_VP_STATE                   the processor is running
 * HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)  the instruction cannot be told: it is not decodable,
 *                                          or its access has no data (event delivery, page walk)
 * E_POINTER                                ExitContext or Access is NULL
 */
OWHP_EXPORT HRESULT WINAPI OwhpGetMemoryAccess(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                               const WHV_RUN_VP_EXIT_CONTEXT *ExitContext,
                                               OWHP_MEMORY_ACCESS *Access);

/*
 * Completes that access: a read gets Access->Data (its low SizeInBytes bytes), a write counts as
 * done by the client.
 *
 * S_OK     the instruction is finished: registers, flags and RIP are written. Where it takes more
 *          than memory to finish it (it faults on the data, OUTS has its port to write, RFLAGS.TF
 *          asks for a trap), the next WHvRunVirtualProcessor goes on with what it was given
 * S_FALSE  it makes another access: *Access now is that one, to be completed likewise. Until the
 *          last one no register has changed, but for the elements of a repeated string instruction
 *          that are done
 *
 * A client that leaves an access uncompleted and runs the processor gets it as its next exit. The
 * answers given so far are forgotten when an interrupt is delivered instead, or when the client
 * writes a register that the instruction may use.
 *
 * Failures as OwhpGetMemoryAccess, and
 * E_INVALIDARG  Access is not the one that is due (address, type or size differ), or none is
 */
OWHP_EXPORT HRESULT WINAPI OwhpCompleteMemoryAccess(WHV_PARTITION_HANDLE Partition,
                                                    UINT32 VpIndex, OWHP_MEMORY_ACCESS *Access);

/* ========================================================================================== */
/* Memory of other processes                                                                  */
/* ========================================================================================== */

/*
 * Makes a handle for WHvMapGpaRange2 from a process id. The handle names this one process even
 * after it has ended and the id is another's. The caller closes it with OwhpCloseProcess;
 * mappings made with it stay.
 *
 * What is mapped with it is the process's addresses, page by page:
 *   what it maps shared (memfd, shm, files) is mapped live: stores of either side are seen by the
 *   other at once, at the speed of own memory. It stays what it was when it was mapped, whatever
 *   the process maps or unmaps there later;
 *   everything else (private memory, and what is not there yet) is reached by copying when it is
 *   accessed, by engines that can (soft and kvm; others would refuse it: ERROR_NOT_SUPPORTED), and is
 *   what the process has there at that moment, with the protection it has then. Locked
 *   instructions are atomic among processors, not against the process. Code is copied when a
 *   run begins and when the guest has changed it. Such pages cannot be pinned.
 * An access that the process's memory does not allow, or after its end, exits with
 * GpaUnmapped = 0 (of shared memory: soon after its end). It has ended when its last thread has;
 * its first one may end before.
 *
 * HRESULT_FROM_WIN32(ERROR_NOT_FOUND)  no such process
 * E_ACCESSDENIED                       the user may not access its memory (the rights of a
 *                                      debugger are needed: ptrace(2), process_vm_readv(2))
 * E_INVALIDARG                         ProcessId is 0
 * E_POINTER                            Process is NULL
 */
OWHP_EXPORT HRESULT WINAPI OwhpOpenProcess(UINT32 ProcessId, HANDLE *Process);

/*
 * The same from a pidfd (pidfd_open(2)), which stays the caller's.
 *
 * E_INVALIDARG  not a pidfd
 * and as OwhpOpenProcess
 */
OWHP_EXPORT HRESULT WINAPI OwhpOpenProcessFromPidfd(INT32 Pidfd, HANDLE *Process);

/*
 * Closes a handle of OwhpOpenProcess. GetCurrentProcess() may be closed and nothing happens.
 *
 * E_HANDLE  no such handle
 */
OWHP_EXPORT HRESULT WINAPI OwhpCloseProcess(HANDLE Process);

/* ========================================================================================== */
/* Guest memory                                                                               */
/* ========================================================================================== */

/*
 * Allocates memory that is good as guest RAM: zeroed, aligned so that huge pages can back it,
 * and shareable, so that another process can map it with OwhpOpenProcess. Pages are provided
 * when they are touched. The caller frees it with OwhpFreeMemory, after unmapping it.
 *
 * SizeInBytes: a multiple of 4096. Flags: 0.
 *
 * E_INVALIDARG   size 0 or not a multiple of 4096, Flags not 0
 * E_OUTOFMEMORY  the host refuses
 * E_POINTER      Address is NULL
 */
OWHP_EXPORT HRESULT WINAPI OwhpAllocateMemory(UINT64 SizeInBytes, UINT32 Flags, VOID **Address);

/*
 * Frees memory of OwhpAllocateMemory. If it is still mapped, guest accesses to it exit with
 * GpaUnmapped = 0.
 *
 * E_INVALIDARG  Address is not from OwhpAllocateMemory
 */
OWHP_EXPORT HRESULT WINAPI OwhpFreeMemory(VOID *Address);

/*
 * Sets the dirty bits of the pages that [GuestAddress, GuestAddress + SizeInBytes) touches: for a
 * host that has stored through its own pointer, after the store. Code that processors have
 * cached from these pages is dropped. The range need not be aligned.
 *
 * WHV_E_GPA_RANGE_NOT_FOUND  a page is not mapped; or not with TrackDirtyPages while there is no
 *                            consumer of all pages (OwhpCreateDirtyConsumer); no bit is set
 * E_INVALIDARG               size 0, a range that wraps around or reaches beyond the physical
 *                            address width
 */
OWHP_EXPORT HRESULT WINAPI OwhpMarkDirty(WHV_PARTITION_HANDLE Partition,
                                         WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                         UINT64 SizeInBytes);

/*
 * Gives the host memory behind a range back to the host. Who touches it next finds zeros: the
 * guest, this process, and whoever shares the memory. For a balloon, and for a guest that says
 * which pages it does not use. The pages count as dirtied. When the call returns no processor sees
 * old bytes; stores made during the call may or may not survive.
 *
 * Private memory without a file and shared memory that this process may write (OwhpAllocateMemory,
 * memfd, shared memory, files: a hole is made) can be discarded, also shared memory of another
 * process.
 *
 * E_INVALIDARG               alignment, size 0, beyond the physical address width
 * WHV_E_GPA_RANGE_NOT_FOUND  a page is not mapped
 * E_ACCESSDENIED             a page is pinned, or nothing is mapped at its host address (behind a
 *                            file's end is a hole already), or it is memory of another process that
 *                            has ended
 * HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)  a page is of another kind: a private mapping of a file,
 *                            read-only shared memory, private memory of another process; or the host
 *                            itself refuses
 * E_OUTOFMEMORY              the host refuses
 * After a failure nothing is discarded, unless the host refused: then pages before those that the
 * error text names are.
 */
OWHP_EXPORT HRESULT WINAPI OwhpDiscardGpaRange(WHV_PARTITION_HANDLE Partition,
                                               WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                               UINT64 SizeInBytes);

/*
 * WHvTranslateGva for Count addresses in one call: for each the same result code and address as that
 * would give, but the processor is taken only once. The three arrays have Count elements.
 *
 * WHV_E_VP_DOES_NOT_EXIST  no such processor
 * WHV_E_INVALID_VP_STATE   the processor is running
 * E_INVALIDARG             Count is 0, unknown flags, both SMAP flags
 * E_POINTER                an array is NULL or not accessible; elements before may have been written
 */
OWHP_EXPORT HRESULT WINAPI OwhpTranslateGvas(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                             WHV_TRANSLATE_GVA_FLAGS TranslateFlags,
                                             const WHV_GUEST_VIRTUAL_ADDRESS *Gvas, UINT32 Count,
                                             WHV_TRANSLATE_GVA_RESULT *TranslationResults,
                                             WHV_GUEST_PHYSICAL_ADDRESS *Gpas);

/* ========================================================================================== */
/* Dirty pages, for several readers                                                           */
/* ========================================================================================== */

/*
 * A consumer is an independent reader of dirty pages: it sees every page that was dirtied since
 * it last took that page, whatever other consumers take meanwhile. What dirties a page: stores of
 * the guest, accessed and dirty updates of page walks, WHvWriteGpaRange, WHvTranslateGva with
 * SetPageTableBits (the page-table pages), OwhpMarkDirty. Stores through the host pointer do not.
 *
 * OWHP_DIRTY_CONSUMER_WHV is the consumer of WHvQueryGpaRangeDirtyBitmap. It always exists. What a
 * query costs depends on the number of dirty pages, not on the size of the range, but for the
 * zeroing of a bitmap; what a guest's store costs does not depend on the number of consumers.
 */
#define OWHP_DIRTY_CONSUMER_WHV 0u

typedef enum OWHP_DIRTY_CONSUMER_FLAGS {
    OwhpDirtyConsumerFlagNone = 0,
    /* It sees all mapped pages, also those mapped without TrackDirtyPages, and a range that it
     * queries may have holes. */
    OwhpDirtyConsumerFlagAllPages = 1,
    /* Only with AllPages: what was dirtied stays so when the page is unmapped or replaced, until it
     * is taken. Without it such pages are clean, as for WHvQueryGpaRangeDirtyBitmap. */
    OwhpDirtyConsumerFlagKeepUnmapped = 2
} OWHP_DIRTY_CONSUMER_FLAGS;

typedef enum OWHP_QUERY_DIRTY_FLAGS {
    OwhpQueryDirtyFlagNone = 0,
    /* The pages stay dirty. Running processors are not disturbed: a store that is made at the same
     * moment may be seen or not. */
    OwhpQueryDirtyFlagPeek = 1
} OWHP_QUERY_DIRTY_FLAGS;

/*
 * Makes a consumer for a range of guest addresses, mapped or not. Everything in it begins clean.
 * *Consumer is its number, not 0 and not reused before 2^32 others. It ends with
 * OwhpDeleteDirtyConsumer, or with the partition.
 *
 * GuestAddress and SizeInBytes: multiples of 4096; both 0: all addresses.
 *
 * E_INVALIDARG   alignment, size 0 at another address, a range that wraps around or reaches beyond
 *                the physical address width, unknown Flags, KeepUnmapped without AllPages
 * E_OUTOFMEMORY  the host refuses
 * E_POINTER      Consumer is NULL
 */
OWHP_EXPORT HRESULT WINAPI OwhpCreateDirtyConsumer(WHV_PARTITION_HANDLE Partition,
                                                   WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                                   UINT64 SizeInBytes,
                                                   OWHP_DIRTY_CONSUMER_FLAGS Flags,
                                                   UINT32 *Consumer);

/*
 * Ends a consumer. What it has not taken is forgotten.
 *
 * HRESULT_FROM_WIN32(ERROR_NOT_FOUND)  no such consumer
 * E_INVALIDARG                         OWHP_DIRTY_CONSUMER_WHV
 */
OWHP_EXPORT HRESULT WINAPI OwhpDeleteDirtyConsumer(WHV_PARTITION_HANDLE Partition,
                                                   UINT32 Consumer);

/*
 * Tells the dirty pages of a range as WHvQueryGpaRangeDirtyBitmap does, to any consumer and with
 * the choice of leaving them dirty. Page i of the range is bit i % 64 of Bitmap[i / 64]; bits past
 * the last page are 0, words after it are left alone.
 *
 * BitmapSizeInBytes 0: no bitmap. *DirtyPageCount (may be NULL) receives the number of dirty pages.
 *
 * HRESULT_FROM_WIN32(ERROR_NOT_FOUND)  no such consumer
 * E_INVALIDARG               alignment, size 0, a range that is not in the consumer's or beyond the
 *                            physical address width, a Bitmap that is not a multiple of 8, unknown
 *                            Flags
 * WHV_E_GPA_RANGE_NOT_FOUND  a page is not mapped with TrackDirtyPages (not with
 *                            OwhpDirtyConsumerFlagAllPages)
 * WHV_E_INSUFFICIENT_BUFFER  the bitmap has less than 8 bytes for each 64 pages begun
 * E_POINTER                  Bitmap is NULL or not writable
 * After a failure nothing has been cleared.
 */
OWHP_EXPORT HRESULT WINAPI OwhpQueryDirtyBitmap(WHV_PARTITION_HANDLE Partition, UINT32 Consumer,
                                                OWHP_QUERY_DIRTY_FLAGS Flags,
                                                WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                                UINT64 SizeInBytes, UINT64 *Bitmap,
                                                UINT32 BitmapSizeInBytes, UINT64 *DirtyPageCount);

/*
 * Tells the dirty pages of a range as a list of ranges: in ascending order, neighbours joined.
 * GuestAddress and SizeInBytes both 0: the consumer's range.
 *
 * S_OK     all are told; *RangeCount is their number
 * S_FALSE  RangeCapacity ranges are told, and there are more. They stay dirty: the same call tells
 *          them next (or, with Peek, a call that begins after the last range)
 *
 * HRESULT_FROM_WIN32(ERROR_NOT_FOUND)  no such consumer
 * E_INVALIDARG               RangeCapacity 0, and as OwhpQueryDirtyBitmap
 * WHV_E_GPA_RANGE_NOT_FOUND  as OwhpQueryDirtyBitmap
 * E_POINTER                  Ranges or RangeCount is NULL or not writable
 * After a failure nothing has been cleared.
 */
OWHP_EXPORT HRESULT WINAPI OwhpQueryDirtyRanges(WHV_PARTITION_HANDLE Partition, UINT32 Consumer,
                                                OWHP_QUERY_DIRTY_FLAGS Flags,
                                                WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                                UINT64 SizeInBytes, WHV_MEMORY_RANGE_ENTRY *Ranges,
                                                UINT32 RangeCapacity, UINT32 *RangeCount);

/*
 * Gives the mappings of a range TrackDirtyPages, or takes it from them, while processors run. Pages
 * whose tracking changes are clean afterwards; consumers with OwhpDirtyConsumerFlagAllPages notice
 * nothing. Everything else (rights, pins, memory) stays. From the return on every store to a tracked
 * page is seen.
 *
 * WHV_E_GPA_RANGE_NOT_FOUND  a page is not mapped; nothing is changed
 * E_INVALIDARG               alignment, size 0, beyond the physical address width
 * E_OUTOFMEMORY              the host refuses
 */
OWHP_EXPORT HRESULT WINAPI OwhpSetDirtyTracking(WHV_PARTITION_HANDLE Partition,
                                                WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                                UINT64 SizeInBytes, BOOL Enable);

/* ========================================================================================== */
/* What is mapped                                                                             */
/* ========================================================================================== */

/* Where the memory behind a mapping is. */
typedef enum OWHP_GPA_SOURCE {
    OwhpGpaSourceOwnProcess = 0,    /* memory of this process */
    OwhpGpaSourceSharedProcess = 1, /* memory shared with another process */
    OwhpGpaSourceCopiedProcess = 2  /* private memory of another process, reached by copying */
} OWHP_GPA_SOURCE;

/* A piece of guest memory whose pages are mapped alike and lie side by side in the source. */
typedef struct OWHP_GPA_RANGE {
    WHV_GUEST_PHYSICAL_ADDRESS GuestAddress;
    UINT64 SizeInBytes;
    WHV_MAP_GPA_RANGE_FLAGS Flags;
    OWHP_GPA_SOURCE Source;
    UINT64 SourceAddress;     /* in the process it belongs to */
    UINT32 ProcessId;         /* of it; 0 for OwhpGpaSourceOwnProcess */
    UINT32 Reserved;
    UINT64 ResidentSizeInBytes; /* what of it is in host memory now */
    UINT64 DirtyPageCount;    /* 0 without TrackDirtyPages */
    UINT64 PinnedPageCount;
} OWHP_GPA_RANGE;
C_ASSERT(sizeof(OWHP_GPA_RANGE) == 64);

/*
 * Tells what is mapped, in ascending order of addresses.
 *
 * Ranges receives at most RangeCapacity entries (NULL if that is 0), *RangeCount (not NULL) how
 * many ranges there are. The picture is of one moment; dirty bits are told, not cleared.
 *
 * WHV_E_INSUFFICIENT_BUFFER  there are more than RangeCapacity; the first ones were told
 * E_POINTER                  RangeCount is NULL, or Ranges although RangeCapacity is not 0
 */
OWHP_EXPORT HRESULT WINAPI OwhpEnumerateGpaRanges(WHV_PARTITION_HANDLE Partition,
                                                  OWHP_GPA_RANGE *Ranges, UINT32 RangeCapacity,
                                                  UINT32 *RangeCount);

/* ========================================================================================== */
/* Snapshots                                                                                  */
/* ========================================================================================== */

/* A snapshot of a partition; not a HANDLE. */
typedef VOID *OWHP_SNAPSHOT_HANDLE;

/*
 * Takes a snapshot of a partition: its memory, its processors and its time, to go back to any
 * number of times. Any number of snapshots of a partition may exist at once.
 *
 * It holds everything that decides how the guest goes on: the content of all mapped pages
 * whatever their rights, ROM included, and which pages are mapped to what; of every processor all
 * registers, the x87, SSE and AVX state, MSRs, the local APIC with its timer, pending events,
 * interrupt shadow, NMI masking, whether it is halted or waits for SIPI, and a memory access
 * that is being completed; the time stamp counters and the reference time. Not part of it:
 * partition properties, pending cancels, counters, dirty bits, pins, and the client's devices.
 *
 * Memory of the partition is copied, but for pages of zeros and pages that were never used; a
 * second snapshot copies only what changed since the one before, if the mappings are the same:
 * what the client has stored since through its own pointer, or another process, may be in it or
 * not, unless OwhpMarkDirty told of it. Memory that is missing or protected counts as zeros; the
 * next snapshot looks at it again. Guest time stands still until the next run.
 *
 * From now on stores to all mappings are recorded, whether or not they have TrackDirtyPages; a
 * client's own dirty bits are not touched by that.
 *
 * Flags: 0. Threads: other threads may map, read and write guest memory meanwhile. What they
 * store through their own pointers must be finished, or is in the snapshot in part.
 *
 * E_INVALIDARG                                         Flags is not 0
 * HRESULT_FROM_WIN32(ERROR_INVALID_STATE)              WHvSetupPartition was not called
 * WHV_E_INVALID_VP_STATE                               a processor is running
 * HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)              the partition's engine has no snapshots
 * E_OUTOFMEMORY                                        the host has no memory for it
 * E_POINTER                                            Snapshot is NULL or not writable
 */
OWHP_EXPORT HRESULT WINAPI OwhpCreateSnapshot(WHV_PARTITION_HANDLE Partition, UINT32 Flags,
                                              OWHP_SNAPSHOT_HANDLE *Snapshot);

/* What OwhpRestoreSnapshot may do besides. */
typedef enum OWHP_RESTORE_FLAGS {
    OwhpRestoreFlagNone = 0,
    OwhpRestoreFlagMappings = 1 /* make the mappings what they were */
} OWHP_RESTORE_FLAGS;

/*
 * Makes a partition what it was when the snapshot was taken. The cost is that of the pages which
 * were changed since the snapshot was taken or last restored.
 *
 * Changed pages are those that processors, the library's functions and page walks stored to, and
 * those whose mapping was changed. Stores of the client through its own pointer, or of another
 * process, are known only by OwhpMarkDirty. Pages that are written back are dirty for
 * WHvQueryGpaRangeDirtyBitmap and for all other readers of dirty bits and snapshots.
 *
 * Mappings that were made, removed or replaced since: by default the call is refused then, and
 * its text names the first of them. With OwhpRestoreFlagMappings they are made what they were:
 * the client promises that the memory which was mapped then is still there. Whether a range has
 * TrackDirtyPages never matters.
 *
 * Guest time is that of the snapshot and stands still until the next run. Pending cancels stay.
 * RestoredPageCount (may be NULL) receives the number of 4 KiB pages written.
 *
 * E_INVALIDARG                             the snapshot is of another partition; unknown Flags
 * WHV_E_INVALID_VP_STATE                   a processor is running
 * WHV_E_GPA_RANGE_NOT_FOUND                the mappings differ; nothing has changed
 * WHV_E_VP_DOES_NOT_EXIST                  a processor was deleted since; nothing has changed
 * WHV_E_VP_ALREADY_EXISTS                  a processor was created since; nothing has changed
 * E_OUTOFMEMORY                            mappings: some may have been changed, nothing else
 * E_ACCESSDENIED                           the memory of a page that the text names is missing, or
 *                                          is protected and not what it was; everything else is
 *                                          restored, and the next call tries that page again
 * E_HANDLE                                 no such partition or snapshot
 * E_POINTER                                RestoredPageCount is not writable
 */
OWHP_EXPORT HRESULT WINAPI OwhpRestoreSnapshot(WHV_PARTITION_HANDLE Partition,
                                               OWHP_SNAPSHOT_HANDLE Snapshot,
                                               OWHP_RESTORE_FLAGS Flags,
                                               UINT64 *RestoredPageCount);

/*
 * Destroys a snapshot. Memory that later snapshots share with it stays as long as they do. A
 * snapshot outlives its partition; it can then only be queried, saved and destroyed.
 *
 * E_HANDLE  no such snapshot
 */
OWHP_EXPORT HRESULT WINAPI OwhpDestroySnapshot(OWHP_SNAPSHOT_HANDLE Snapshot);

/* What a snapshot is and takes. */
typedef struct OWHP_SNAPSHOT_INFO {
    UINT64 GuestSizeInBytes;   /* of the memory that was mapped */
    UINT64 StoredSizeInBytes;  /* of the pages that this snapshot itself holds */
    UINT64 ChangedSizeInBytes; /* what a restore would write now; 0 without a partition */
    UINT32 RangeCount;
    UINT32 ProcessorCount;     /* processors that existed */
    BOOL IsAttached;           /* its partition exists */
    UINT32 Reserved;
} OWHP_SNAPSHOT_INFO;
C_ASSERT(sizeof(OWHP_SNAPSHOT_INFO) == 40);

/*
 * Tells what a snapshot is. Any time, also while processors run.
 *
 * E_HANDLE   no such snapshot
 * E_POINTER  Info is NULL or not writable
 */
OWHP_EXPORT HRESULT WINAPI OwhpQuerySnapshot(OWHP_SNAPSHOT_HANDLE Snapshot,
                                             OWHP_SNAPSHOT_INFO *Info);

/*
 * Writes a snapshot to a file. The partition may run meanwhile, or be gone.
 *
 * The file is sparse: pages of zeros take no room in it (programs that copy files may have to be
 * told: cp --sparse=always). It is written under another name in the same directory, brought to
 * the disk and then renamed: when the call fails, a file that was there before is untouched. It
 * holds guest memory: it is readable by its owner only.
 *
 * Path: a name of the host, at most 4095 bytes. Flags: 0.
 *
 * E_INVALIDARG                            Path is empty or too long, or a name in it; Flags is not 0
 * HRESULT_FROM_WIN32(ERROR_NOT_FOUND)     there is no such directory
 * E_ACCESSDENIED                          the file may not be created, or Path is a directory, a device or
 *                                         anything else that is not a file
 * HRESULT_FROM_WIN32(ERROR_WRITE_FAULT)   writing failed; the text says where and why
 * E_OUTOFMEMORY                           the host has no memory to do it with
 * E_HANDLE                                no such snapshot
 * E_POINTER                               Path is NULL or not readable
 */
OWHP_EXPORT HRESULT WINAPI OwhpSaveSnapshot(OWHP_SNAPSHOT_HANDLE Snapshot, const char *Path,
                                            UINT32 Flags);

/* How OwhpLoadSnapshot treats a file. */
typedef enum OWHP_LOAD_FLAGS {
    OwhpLoadFlagNone = 0,
    OwhpLoadFlagVerify = 1,         /* compare the checksums of all pages, and that what is to be zeros
                                       is zeros: reads the whole file, but for its holes */
    OwhpLoadFlagAnyTscFrequency = 2 /* also if the TSC runs at another rate here: guest time is
                                       then wrong by the ratio */
} OWHP_LOAD_FLAGS;

/*
 * Loads a snapshot from a file into a partition, which becomes what the saved one was, and gives
 * the snapshot for later restores. The partition is set up, has the processors of the snapshot,
 * and none of them runs.
 *
 * Memory: where the partition has nothing mapped, the library maps the file's pages: they are
 * read when they are first used and copied when they are first written, so loading takes no time
 * that depends on their number. This memory belongs to the partition and goes with it
 * (OwhpEnumerateGpaRanges tells where it is). The file must not be written to as long as the
 * partition or the snapshot exists; replacing or deleting it by name is harmless. Ranges of the
 * snapshot that the client has mapped itself, with the same rights, are filled instead. Anything
 * else that is mapped is refused. Memory of another process becomes memory of this one.
 *
 * What must fit: the same ProcessorCount, local APIC emulation mode and APIC timer frequency; at
 * least the snapshot's processor features, XSAVE features and physical address width; a TSC
 * frequency that differs by at most 1 percent.
 *
 * Checked always: sizes, order, the checksums of everything but pages, and that each processor
 * could be in the state it is to be in. The pages' checksums with OwhpLoadFlagVerify only.
 *
 * A call that fails leaves the partition as it was, with one exception: memory that the client
 * has mapped is filled in part when some of it turns out to be missing or protected.
 *
 * E_INVALIDARG                             Path is empty or too long; unknown Flags
 * HRESULT_FROM_WIN32(ERROR_INVALID_STATE)  WHvSetupPartition was not called
 * WHV_E_INVALID_VP_STATE                   a processor is running
 * HRESULT_FROM_WIN32(ERROR_NOT_FOUND)      there is no such file
 * E_ACCESSDENIED                           the file cannot be read; or memory that the client has
 *                                          mapped is missing, or protected and not what it is to be
 * HRESULT_FROM_WIN32(ERROR_FILE_CORRUPT)   it is not a snapshot, of another version, cut short or
 *                                          damaged; the text says at which offset and what
 * ERROR_HV_INVALID_REGISTER_VALUE          the state of a processor is none that it could have
 * WHV_E_INVALID_PARTITION_CONFIG           the partition does not fit; the text says in what
 * WHV_E_VP_DOES_NOT_EXIST                  a processor of the snapshot does not exist
 * WHV_E_VP_ALREADY_EXISTS                  a processor exists that the snapshot does not have
 * WHV_E_GPA_RANGE_NOT_FOUND                memory is mapped otherwise; the text says where
 * HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)  the partition's engine has no snapshots
 * E_OUTOFMEMORY                            the host has no memory, or no addresses, for it
 * E_POINTER                                Path or Snapshot is NULL or not accessible
 */
OWHP_EXPORT HRESULT WINAPI OwhpLoadSnapshot(WHV_PARTITION_HANDLE Partition, const char *Path,
                                            OWHP_LOAD_FLAGS Flags,
                                            OWHP_SNAPSHOT_HANDLE *Snapshot);

#ifdef __cplusplus
}
#endif

#endif
