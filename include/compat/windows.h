/*
 * A small <windows.h> for WHP clients on Linux: what their sources take from the real one, and no
 * more. It is on an include path of its own ("compat"), so that nobody gets it unasked.
 *
 * Everything is inline, in terms of libc: linking needs nothing, and no symbol of these names
 * leaves a program. Only OpenProcess and CloseHandle need libWinHvPlatform.
 *
 *   types, HRESULT     openwhp/windows_types.h
 *   memory             VirtualAlloc, VirtualFree, VirtualProtect, ZeroMemory and the like
 *   last error         GetLastError, SetLastError, per thread
 *   processes          GetCurrentProcess, GetCurrentProcessId, OpenProcess, CloseHandle
 *   machine, time      GetSystemInfo, Sleep, GetTickCount64, QueryPerformanceCounter
 */
#ifndef OPENWHP_COMPAT_WINDOWS_H
#define OPENWHP_COMPAT_WINDOWS_H

#ifdef _WIN32
#error "include the real <windows.h>: openwhp/compat does not belong on the include path of Windows"
#endif

#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1 /* MAP_ANONYMOUS, nanosleep under -std=c11 */
#endif

#include <openwhp/windows_types.h>

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* clang-format off */

/* ---- types and macros --------------------------------------------------------------------- */

typedef char *LPSTR, *PSTR;
typedef const char *LPCSTR, *PCSTR;
typedef WCHAR *LPWSTR, *PWSTR;
typedef const WCHAR *LPCWSTR, *PCWSTR;

#ifdef __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#endif
typedef union _LARGE_INTEGER {
    struct {
        DWORD LowPart;
        LONG  HighPart;
    };
    LONGLONG QuadPart;
} LARGE_INTEGER, *PLARGE_INTEGER;
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif

#define INVALID_HANDLE_VALUE ((HANDLE)(LONG_PTR)-1)
#define INFINITE             0xFFFFFFFFu
#define MAXDWORD             0xFFFFFFFFu

#define ARRAYSIZE(array) (sizeof(array) / sizeof((array)[0]))
#define UNREFERENCED_PARAMETER(parameter) ((void)(parameter))
#define LOWORD(value) ((WORD)((ULONG_PTR)(value) & 0xFFFFu))
#define HIWORD(value) ((WORD)(((ULONG_PTR)(value) >> 16) & 0xFFFFu))

#if !defined(NOMINMAX) && !defined(__cplusplus)
#ifndef min
#define min(a, b) ((a) < (b) ? (a) : (b))
#endif
#ifndef max
#define max(a, b) ((a) > (b) ? (a) : (b))
#endif
#endif

/* Annotations of parameters for Microsoft's analyzer: they say nothing here. */
#define _In_
#define _In_opt_
#define _In_reads_(count)
#define _In_reads_bytes_(size)
#define _In_reads_bytes_opt_(size)
#define _Inout_
#define _Inout_opt_
#define _Out_
#define _Out_opt_
#define _Out_writes_(count)
#define _Out_writes_bytes_(size)
#define _Out_writes_bytes_to_(size, count)
#define _Out_writes_to_(size, count)
#define _Outptr_
#define _Ret_maybenull_
#define _Success_(condition)
#define _Check_return_
#define _Must_inspect_result_
#define _Use_decl_annotations_

#define RtlZeroMemory(destination, length)         memset((destination), 0, (length))
#define RtlFillMemory(destination, length, fill)   memset((destination), (fill), (length))
#define RtlCopyMemory(destination, source, length) memcpy((destination), (source), (length))
#define RtlMoveMemory(destination, source, length) memmove((destination), (source), (length))
#define ZeroMemory RtlZeroMemory
#define FillMemory RtlFillMemory
#define CopyMemory RtlCopyMemory
#define MoveMemory RtlMoveMemory

/* Values of flAllocationType and dwFreeType. */
#define MEM_COMMIT      0x00001000u
#define MEM_RESERVE     0x00002000u
#define MEM_DECOMMIT    0x00004000u
#define MEM_RELEASE     0x00008000u
#define MEM_RESET       0x00080000u
#define MEM_TOP_DOWN    0x00100000u /* accepted, means nothing */
#define MEM_LARGE_PAGES 0x20000000u /* not supported */

/* Values of flProtect. */
#define PAGE_NOACCESS          0x01u
#define PAGE_READONLY          0x02u
#define PAGE_READWRITE         0x04u
#define PAGE_WRITECOPY         0x08u
#define PAGE_EXECUTE           0x10u
#define PAGE_EXECUTE_READ      0x20u
#define PAGE_EXECUTE_READWRITE 0x40u
#define PAGE_EXECUTE_WRITECOPY 0x80u
#define PAGE_GUARD             0x100u /* not supported */

/* Rights for OpenProcess; here the user's own rights decide. */
#define PROCESS_VM_OPERATION      0x0008u
#define PROCESS_VM_READ           0x0010u
#define PROCESS_VM_WRITE          0x0020u
#define PROCESS_QUERY_INFORMATION 0x0400u
#define PROCESS_ALL_ACCESS        0x001FFFFFu

#define ERROR_NOACCESS 998

/* clang-format on */

/* ---- last error ---------------------------------------------------------------------------- */

/* One per thread and module: the linker merges the copies of the translation units. */
extern __thread DWORD owhp_compat_last_error;
__attribute__((weak, visibility("hidden"))) __thread DWORD owhp_compat_last_error = 0;

static inline DWORD GetLastError(void)
{
    return owhp_compat_last_error;
}

static inline void SetLastError(DWORD error)
{
    owhp_compat_last_error = error;
}

/* ---- memory -------------------------------------------------------------------------------- */

#define OWHP_COMPAT_PAGE        ((size_t)4096)
#define OWHP_COMPAT_GRANULARITY ((size_t)65536)
#define OWHP_COMPAT_HUGE_PAGE   ((size_t)2 << 20)
#define OWHP_COMPAT_MAGIC       0x4F57485056414C4Cull

/* What VirtualFree must know of a reservation; it is in the page before it, which can be read and
   not written. */
struct owhp_compat_reservation {
    UINT64 magic;
    void *address;
    size_t size;
};

/* PROT_ bits of a PAGE_ constant; -1 for one that is unknown. */
static inline int owhp_compat_prot(DWORD protect)
{
    switch (protect) {
    case PAGE_NOACCESS:
        return PROT_NONE;
    case PAGE_READONLY:
        return PROT_READ;
    case PAGE_READWRITE:
    case PAGE_WRITECOPY:
        return PROT_READ | PROT_WRITE;
    case PAGE_EXECUTE:
    case PAGE_EXECUTE_READ:
        return PROT_READ | PROT_EXEC;
    case PAGE_EXECUTE_READWRITE:
    case PAGE_EXECUTE_WRITECOPY:
        return PROT_READ | PROT_WRITE | PROT_EXEC;
    default:
        return -1;
    }
}

/* The PAGE_ constant of the page at address, 0 if nothing is there. */
static inline DWORD owhp_compat_query(const void *address)
{
    static const DWORD constant[8] = {PAGE_NOACCESS, PAGE_READONLY, PAGE_READWRITE,
                                      PAGE_READWRITE, PAGE_EXECUTE, PAGE_EXECUTE_READ,
                                      PAGE_EXECUTE_READWRITE, PAGE_EXECUTE_READWRITE};
    char line[512];
    DWORD found = 0;
    int at_start = 1;
    FILE *maps = fopen("/proc/self/maps", "r");
    if (!maps)
        return 0;
    while (!found && fgets(line, sizeof line, maps)) {
        unsigned long low, high;
        char r, w, x;
        if (at_start && sscanf(line, "%lx-%lx %c%c%c", &low, &high, &r, &w, &x) == 5 &&
            (ULONG_PTR)address >= low && (ULONG_PTR)address < high)
            found = constant[(r == 'r') + 2 * (w == 'w') + 4 * (x == 'x')];
        at_start = strchr(line, '\n') != NULL;
    }
    fclose(maps);
    return found;
}

/* The page before a reservation that starts at address, or NULL if none does. */
static inline struct owhp_compat_reservation *owhp_compat_find(const void *address)
{
    ULONG_PTR base = (ULONG_PTR)address;
    struct owhp_compat_reservation *r;
    if (base % OWHP_COMPAT_PAGE || base < 2 * OWHP_COMPAT_PAGE)
        return NULL;
    r = (struct owhp_compat_reservation *)(base - OWHP_COMPAT_PAGE);
    if (owhp_compat_query(r) != PAGE_READONLY)
        return NULL;
    return r->magic == OWHP_COMPAT_MAGIC && r->address == address ? r : NULL;
}

/* Reserve size bytes (a multiple of the page), at address if it is not NULL; no access yet. */
static inline void *owhp_compat_reserve(void *address, size_t size)
{
    const int flags = MAP_PRIVATE | 0x20 /* MAP_ANONYMOUS */ | 0x4000 /* MAP_NORESERVE */;
    size_t align = size >= OWHP_COMPAT_HUGE_PAGE ? OWHP_COMPAT_HUGE_PAGE : OWHP_COMPAT_GRANULARITY;
    size_t room = size + align;
    char *base;
    struct owhp_compat_reservation *r;

    if (address) {
        ULONG_PTR first = (ULONG_PTR)address & ~(OWHP_COMPAT_GRANULARITY - 1);
        void *want = (void *)(first - OWHP_COMPAT_PAGE);
        void *got = mmap(want, size + OWHP_COMPAT_PAGE, PROT_NONE,
                         flags | 0x100000 /* MAP_FIXED_NOREPLACE */, -1, 0);
        if (got != want) {
            if (got != MAP_FAILED) /* a kernel that takes the address as a hint */
                munmap(got, size + OWHP_COMPAT_PAGE);
            SetLastError(ERROR_INVALID_ADDRESS);
            return NULL;
        }
        base = (char *)got + OWHP_COMPAT_PAGE;
    } else {
        void *got = room < size ? MAP_FAILED : mmap(NULL, room, PROT_NONE, flags, -1, 0);
        char *low = (char *)got;
        if (got == MAP_FAILED) {
            SetLastError(ERROR_NOT_ENOUGH_MEMORY);
            return NULL;
        }
        base = (char *)(((ULONG_PTR)low + OWHP_COMPAT_PAGE + align - 1) & ~(align - 1));
        /* Give back what alignment did not need, but for the page before the reservation. */
        if (base - OWHP_COMPAT_PAGE > low)
            munmap(low, (size_t)(base - OWHP_COMPAT_PAGE - low));
        if (base + size < low + room)
            munmap(base + size, (size_t)(low + room - (base + size)));
    }
    r = (struct owhp_compat_reservation *)(void *)(base - OWHP_COMPAT_PAGE);
    if (mprotect(r, OWHP_COMPAT_PAGE, PROT_READ | PROT_WRITE)) {
        munmap(r, size + OWHP_COMPAT_PAGE);
        SetLastError(ERROR_NOT_ENOUGH_MEMORY);
        return NULL;
    }
    r->magic = OWHP_COMPAT_MAGIC;
    r->address = base;
    r->size = size;
    mprotect(r, OWHP_COMPAT_PAGE, PROT_READ);
    return base;
}

/*
 * Reserves addresses (MEM_RESERVE), makes reserved ones usable and zero (MEM_COMMIT), or both;
 * MEM_COMMIT without an address does both too. The address is a multiple of 64 KiB, of 2 MiB for
 * large sizes. Sizes are rounded up to pages. NULL and GetLastError on failure.
 */
static inline LPVOID VirtualAlloc(LPVOID lpAddress, SIZE_T dwSize, DWORD flAllocationType,
                                  DWORD flProtect)
{
    const DWORD known = MEM_COMMIT | MEM_RESERVE | MEM_RESET | MEM_TOP_DOWN;
    int prot = owhp_compat_prot(flProtect);
    size_t before = lpAddress ? (ULONG_PTR)lpAddress % OWHP_COMPAT_PAGE : 0;
    size_t size;
    char *base = lpAddress ? (char *)lpAddress - before : NULL;
    int reserve = (flAllocationType & MEM_RESERVE) || !lpAddress;

    if (reserve && base) { /* reservations start at the granularity below the address */
        before = (ULONG_PTR)lpAddress % OWHP_COMPAT_GRANULARITY;
        base = (char *)lpAddress - before;
    }
    size = (dwSize + before + OWHP_COMPAT_PAGE - 1) & ~(OWHP_COMPAT_PAGE - 1);
    if (dwSize == 0 || size < dwSize || prot < 0 || (flAllocationType & ~known) ||
        !(flAllocationType & (MEM_COMMIT | MEM_RESERVE | MEM_RESET)) ||
        ((flAllocationType & MEM_RESET) && (!lpAddress || flAllocationType != MEM_RESET))) {
        SetLastError(ERROR_INVALID_PARAMETER);
        return NULL;
    }
    if (flAllocationType & MEM_RESET) /* contents may be thrown away; keeping them is allowed */
        return base;
    if (reserve && !(base = (char *)owhp_compat_reserve(base, size)))
        return NULL;
    if ((flAllocationType & MEM_COMMIT) && mprotect(base, size, prot)) {
        if (reserve)
            munmap(base - OWHP_COMPAT_PAGE, size + OWHP_COMPAT_PAGE);
        SetLastError(reserve ? ERROR_NOT_ENOUGH_MEMORY : ERROR_INVALID_ADDRESS);
        return NULL;
    }
    return base;
}

/*
 * Gives a whole reservation back (MEM_RELEASE, dwSize 0, the address VirtualAlloc returned), or
 * makes a part unusable and forgets its contents (MEM_DECOMMIT; dwSize 0 means all of it).
 */
static inline BOOL VirtualFree(LPVOID lpAddress, SIZE_T dwSize, DWORD dwFreeType)
{
    struct owhp_compat_reservation *r = dwSize == 0 ? owhp_compat_find(lpAddress) : NULL;
    size_t before = (ULONG_PTR)lpAddress % OWHP_COMPAT_PAGE;
    char *base = (char *)lpAddress - before;
    size_t size = r ? r->size : (dwSize + before + OWHP_COMPAT_PAGE - 1) & ~(OWHP_COMPAT_PAGE - 1);

    if ((dwFreeType == MEM_RELEASE && dwSize != 0) || size < dwSize ||
        (dwFreeType != MEM_RELEASE && dwFreeType != MEM_DECOMMIT)) {
        SetLastError(ERROR_INVALID_PARAMETER);
        return FALSE;
    }
    if (dwSize == 0 && !r) {
        SetLastError(ERROR_INVALID_ADDRESS);
        return FALSE;
    }
    if (dwFreeType == MEM_RELEASE)
        return munmap(r, size + OWHP_COMPAT_PAGE) == 0;
    if (mprotect(base, size, PROT_NONE) || /* fails where nothing is reserved */
        mmap(base, size, PROT_NONE, MAP_PRIVATE | MAP_FIXED | 0x20 | 0x4000, -1, 0) != base) {
        SetLastError(ERROR_INVALID_ADDRESS);
        return FALSE;
    }
    return TRUE;
}

/* Changes the protection of committed pages; *lpflOldProtect receives that of the first. */
static inline BOOL VirtualProtect(LPVOID lpAddress, SIZE_T dwSize, DWORD flNewProtect,
                                  DWORD *lpflOldProtect)
{
    int prot = owhp_compat_prot(flNewProtect);
    size_t before = (ULONG_PTR)lpAddress % OWHP_COMPAT_PAGE;
    DWORD old = owhp_compat_query(lpAddress);

    if (!lpflOldProtect) {
        SetLastError(ERROR_NOACCESS);
        return FALSE;
    }
    if (prot < 0 || dwSize == 0) {
        SetLastError(ERROR_INVALID_PARAMETER);
        return FALSE;
    }
    if (!old || mprotect((char *)lpAddress - before, dwSize + before, prot)) {
        SetLastError(ERROR_INVALID_ADDRESS);
        return FALSE;
    }
    *lpflOldProtect = old;
    return TRUE;
}

/* ---- processes ----------------------------------------------------------------------------- */

OWHP_EXPORT HRESULT WINAPI OwhpOpenProcess(UINT32 ProcessId, HANDLE *Process);
OWHP_EXPORT HRESULT WINAPI OwhpCloseProcess(HANDLE Process);

/* Stands for this process wherever a process handle is wanted. */
static inline HANDLE GetCurrentProcess(void)
{
    return (HANDLE)(LONG_PTR)-1;
}

static inline DWORD GetCurrentProcessId(void)
{
    return (DWORD)getpid();
}

/* A handle for WHvMapGpaRange2. NULL and GetLastError on failure. */
static inline HANDLE OpenProcess(DWORD dwDesiredAccess, BOOL bInheritHandle, DWORD dwProcessId)
{
    HANDLE process = NULL;
    HRESULT hr = OwhpOpenProcess(dwProcessId, &process);
    (void)dwDesiredAccess;
    (void)bInheritHandle;
    if (FAILED(hr)) {
        SetLastError((DWORD)HRESULT_CODE(hr));
        return NULL;
    }
    return process;
}

/* Closes a handle of OpenProcess. */
static inline BOOL CloseHandle(HANDLE hObject)
{
    HRESULT hr = OwhpCloseProcess(hObject);
    if (FAILED(hr)) {
        SetLastError(ERROR_INVALID_HANDLE);
        return FALSE;
    }
    return TRUE;
}

/* ---- machine and time ---------------------------------------------------------------------- */

typedef struct _SYSTEM_INFO {
    WORD wProcessorArchitecture;
    WORD wReserved;
    DWORD dwPageSize;
    LPVOID lpMinimumApplicationAddress;
    LPVOID lpMaximumApplicationAddress;
    DWORD_PTR dwActiveProcessorMask;
    DWORD dwNumberOfProcessors;
    DWORD dwProcessorType;
    DWORD dwAllocationGranularity;
    WORD wProcessorLevel;
    WORD wProcessorRevision;
} SYSTEM_INFO, *LPSYSTEM_INFO;

#define PROCESSOR_ARCHITECTURE_AMD64 9
#define PROCESSOR_AMD_X8664          8664

static inline void GetSystemInfo(LPSYSTEM_INFO lpSystemInfo)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    memset(lpSystemInfo, 0, sizeof *lpSystemInfo);
    lpSystemInfo->wProcessorArchitecture = PROCESSOR_ARCHITECTURE_AMD64;
    lpSystemInfo->dwProcessorType = PROCESSOR_AMD_X8664;
    lpSystemInfo->dwPageSize = (DWORD)OWHP_COMPAT_PAGE;
    lpSystemInfo->dwAllocationGranularity = (DWORD)OWHP_COMPAT_GRANULARITY;
    lpSystemInfo->lpMinimumApplicationAddress = (LPVOID)(ULONG_PTR)0x10000;
    lpSystemInfo->lpMaximumApplicationAddress = (LPVOID)(ULONG_PTR)0x7FFFFFFEFFFF;
    lpSystemInfo->dwNumberOfProcessors = processors > 0 ? (DWORD)processors : 1;
    lpSystemInfo->dwActiveProcessorMask =
        processors >= 64 ? ~(DWORD_PTR)0 : ((DWORD_PTR)1 << lpSystemInfo->dwNumberOfProcessors) - 1;
}

#ifdef CLOCK_MONOTONIC

/* Nanoseconds since some moment before the program started. */
static inline UINT64 owhp_compat_nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (UINT64)now.tv_sec * 1000000000u + (UINT64)now.tv_nsec;
}

static inline ULONGLONG GetTickCount64(void)
{
    return owhp_compat_nanoseconds() / 1000000u;
}

/* Counts nanoseconds. */
static inline BOOL QueryPerformanceCounter(LARGE_INTEGER *lpPerformanceCount)
{
    lpPerformanceCount->QuadPart = (LONGLONG)owhp_compat_nanoseconds();
    return TRUE;
}

static inline BOOL QueryPerformanceFrequency(LARGE_INTEGER *lpFrequency)
{
    lpFrequency->QuadPart = 1000000000;
    return TRUE;
}

static inline void Sleep(DWORD dwMilliseconds)
{
    struct timespec time;
    time.tv_sec = (time_t)(dwMilliseconds / 1000u);
    time.tv_nsec = (long)(dwMilliseconds % 1000u) * 1000000;
    if (dwMilliseconds == INFINITE)
        for (;;)
            pause();
    while (nanosleep(&time, &time) != 0)
        ;
}

#endif /* CLOCK_MONOTONIC */

#ifdef __cplusplus
}
#endif

#endif
