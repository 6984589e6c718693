/*
 * The Windows types, error codes and keywords that the three WHP headers are written in.
 *
 * On Windows this file is <windows.h> and nothing else of importance. Anywhere else it defines
 * the same names with the same sizes: Windows is LLP64 (long and ULONG have 32 bits, HRESULT and
 * BOOL have 32 bits, WCHAR has 16), so nothing here may be spelled "long" or "wchar_t".
 * 64-bit types are the ones of <stdint.h>, so that a client may hand a uint64_t array to a
 * function that takes UINT64 *.
 *
 * A program that wants more of <windows.h> (VirtualAlloc, GetLastError, ...) puts the folder
 * "compat" on its include path; its windows.h starts from this file.
 */
#ifndef OPENWHP_WINDOWS_TYPES_H
#define OPENWHP_WINDOWS_TYPES_H

#ifdef _WIN32

#include <windows.h>

#define OWHP_EXPORT

#else /* not Windows */

#include <stddef.h>
#include <stdint.h>

/* clang-format off */

/* Every function of the libraries is declared with this: it is what the shared objects export. */
#define OWHP_EXPORT __attribute__((visibility("default")))

/* ---- keywords ---------------------------------------------------------------------------- */

/* Calling conventions: there is one on x86-64 Linux, so these say nothing. */
#ifndef WINAPI
#define WINAPI
#endif
#ifndef CALLBACK
#define CALLBACK
#endif

/* A compile-time check at file or block scope. */
#ifndef C_ASSERT
#ifdef __cplusplus
#define C_ASSERT(condition) static_assert(condition, #condition)
#else
#define C_ASSERT(condition) _Static_assert(condition, #condition)
#endif
#endif

/* Alignment of a structure or variable, in bytes. */
#ifndef DECLSPEC_ALIGN
#define DECLSPEC_ALIGN(bytes) __attribute__((aligned(bytes)))
#endif

/* C++ only: lets the values of a flags enumeration be combined without a cast; C needs nothing. */
#ifndef DEFINE_ENUM_FLAG_OPERATORS
#ifdef __cplusplus
#define DEFINE_ENUM_FLAG_OPERATORS(type)                                                           \
    extern "C++" {                                                                                 \
    constexpr type operator|(type a, type b) { return type(UINT32(a) | UINT32(b)); }               \
    constexpr type operator&(type a, type b) { return type(UINT32(a) & UINT32(b)); }               \
    constexpr type operator^(type a, type b) { return type(UINT32(a) ^ UINT32(b)); }               \
    constexpr type operator~(type a) { return type(~UINT32(a)); }                                  \
    inline type &operator|=(type &a, type b) { return a = a | b; }                                 \
    inline type &operator&=(type &a, type b) { return a = a & b; }                                 \
    inline type &operator^=(type &a, type b) { return a = a ^ b; }                                 \
    }
#else
#define DEFINE_ENUM_FLAG_OPERATORS(type)
#endif
#endif

/* ---- scalar types ------------------------------------------------------------------------ */

#ifndef VOID
#define VOID void
#endif

typedef int8_t   INT8;
typedef int16_t  INT16;
typedef int32_t  INT32;
typedef int64_t  INT64;
typedef uint8_t  UINT8;
typedef uint16_t UINT16;
typedef uint32_t UINT32;
typedef uint64_t UINT64;

typedef char     CHAR;
typedef int16_t  SHORT;
typedef uint8_t  UCHAR, BYTE, BOOLEAN;
typedef uint16_t USHORT, WORD;
typedef int32_t  INT, LONG, BOOL;
typedef uint32_t UINT, ULONG, DWORD;
typedef int64_t  LONGLONG, LONG64;
typedef uint64_t ULONGLONG, ULONG64, DWORD64;
typedef intptr_t  LONG_PTR, INT_PTR;
typedef uintptr_t ULONG_PTR, UINT_PTR, DWORD_PTR;
typedef size_t    SIZE_T;

/* A UTF-16 unit; u"..." is a string of them. */
#ifdef __cplusplus
typedef char16_t WCHAR;
#else
typedef uint16_t WCHAR;
#endif

typedef void       *PVOID, *LPVOID;
typedef const void *PCVOID, *LPCVOID;
typedef UINT8      *PUINT8;
typedef UINT16     *PUINT16;
typedef UINT32     *PUINT32;
typedef UINT64     *PUINT64;
typedef DWORD      *PDWORD, *LPDWORD;
typedef BOOL       *PBOOL;

/* Names an object of the system (process, event, ...); what it holds is the library's business. */
typedef void *HANDLE;
typedef HANDLE *PHANDLE;

#ifndef TRUE
#define TRUE  1
#define FALSE 0
#endif

C_ASSERT(sizeof(void *) == 8); /* the API exists for 64-bit programs only */
C_ASSERT(sizeof(BOOL) == 4 && sizeof(DWORD) == 4 && sizeof(WCHAR) == 2);

/* ---- structures the WHP headers need ------------------------------------------------------ */

typedef struct _GUID {
    UINT32 Data1;
    UINT16 Data2;
    UINT16 Data3;
    UINT8  Data4[8];
} GUID;

/* A number that is unique on this machine until it restarts. */
typedef struct _LUID {
    DWORD LowPart;
    LONG  HighPart;
} LUID;

/* Power states of a device, from fully on (D0) to off (D3). */
typedef enum _DEVICE_POWER_STATE {
    PowerDeviceUnspecified = 0,
    PowerDeviceD0,
    PowerDeviceD1,
    PowerDeviceD2,
    PowerDeviceD3,
    PowerDeviceMaximum
} DEVICE_POWER_STATE;

C_ASSERT(sizeof(GUID) == 16 && sizeof(LUID) == 8 && sizeof(DEVICE_POWER_STATE) == 4);

/* ---- HRESULT ------------------------------------------------------------------------------ */

/*
 * Bit 31 set: the call failed and nothing else about its outputs may be relied on, unless its
 * contract says so. Bits 16-26: who reports it (7 = Win32, 0x37 = virtualization infrastructure,
 * 0x35 = the hypervisor). Bits 0-15: what.
 */
typedef int32_t HRESULT;

#define SUCCEEDED(hr) (((HRESULT)(hr)) >= 0)
#define FAILED(hr)    (((HRESULT)(hr)) < 0)

#define HRESULT_CODE(hr)     ((INT32)((UINT32)(hr) & 0xFFFFu))
#define HRESULT_FACILITY(hr) ((INT32)(((UINT32)(hr) >> 16) & 0x1FFFu))

#define FACILITY_WIN32 7

/* The HRESULT of an ERROR_ code: 0 stays S_OK, and what is an HRESULT already stays itself. */
#define HRESULT_FROM_WIN32(error)                                                                  \
    ((HRESULT)(error) <= 0 ? (HRESULT)(error)                                                      \
                           : (HRESULT)(((UINT32)(error) & 0xFFFFu) | 0x80070000u))

#define S_OK    ((HRESULT)0)
#define S_FALSE ((HRESULT)1)

/* General failures. */
#define E_NOTIMPL      ((HRESULT)0x80004001u) /* the function does nothing here */
#define E_NOINTERFACE  ((HRESULT)0x80004002u)
#define E_POINTER      ((HRESULT)0x80004003u) /* a pointer that must not be NULL is */
#define E_ABORT        ((HRESULT)0x80004004u)
#define E_FAIL         ((HRESULT)0x80004005u) /* no better code exists */
#define E_UNEXPECTED   ((HRESULT)0x8000FFFFu) /* something that cannot happen did */
#define E_ACCESSDENIED ((HRESULT)0x80070005u) /* the caller, or the mapping, lacks a right */
#define E_HANDLE       ((HRESULT)0x80070006u) /* the handle names no living object */
#define E_OUTOFMEMORY  ((HRESULT)0x8007000Eu) /* host memory ran out */
#define E_INVALIDARG   ((HRESULT)0x80070057u) /* an argument is out of its range */

/* Codes of the hypervisor below; WHP hands them through as they are. */
#define ERROR_HV_INVALID_PARAMETER          ((HRESULT)0xC0350005u)
#define ERROR_HV_ACCESS_DENIED              ((HRESULT)0xC0350006u)
#define ERROR_HV_OPERATION_DENIED           ((HRESULT)0xC0350008u)
#define ERROR_HV_INVALID_VP_STATE           ((HRESULT)0xC0350015u)
#define ERROR_HV_INVALID_REGISTER_VALUE     ((HRESULT)0xC0350050u)
#define ERROR_VID_PARTITION_ALREADY_EXISTS  ((HRESULT)0xC0370008u)

/* Win32 codes that reach a WHP client through HRESULT_FROM_WIN32. */
#define ERROR_SUCCESS             0
#define ERROR_FILE_NOT_FOUND      2
#define ERROR_ACCESS_DENIED       5
#define ERROR_INVALID_HANDLE      6
#define ERROR_NOT_ENOUGH_MEMORY   8
#define ERROR_OUTOFMEMORY         14
#define ERROR_WRITE_FAULT         29
#define ERROR_NOT_SUPPORTED       50
#define ERROR_INVALID_PARAMETER   87
#define ERROR_INSUFFICIENT_BUFFER 122
#define ERROR_BUSY                170
#define ERROR_INVALID_ADDRESS     487
#define ERROR_NOT_FOUND           1168
#define ERROR_FILE_CORRUPT        1392
#define ERROR_INVALID_STATE       5023

/* clang-format on */

#endif /* _WIN32 */

/* clang-format off */

/* Failures of WHP (not every Windows SDK has them). */
#ifndef WHV_E_UNKNOWN_CAPABILITY
#define WHV_E_UNKNOWN_CAPABILITY            ((HRESULT)0x80370300u) /* capability code not known */
#define WHV_E_INSUFFICIENT_BUFFER           ((HRESULT)0x80370301u) /* output buffer too small */
#define WHV_E_UNKNOWN_PROPERTY              ((HRESULT)0x80370302u) /* no such property or counters */
#define WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG ((HRESULT)0x80370303u) /* no engine can be used */
#define WHV_E_INVALID_PARTITION_CONFIG      ((HRESULT)0x80370304u) /* properties missing, at odds */
#define WHV_E_GPA_RANGE_NOT_FOUND           ((HRESULT)0x80370305u) /* not all mapped, or tracked */
#define WHV_E_VP_ALREADY_EXISTS             ((HRESULT)0x80370306u) /* processor index is taken */
#define WHV_E_VP_DOES_NOT_EXIST             ((HRESULT)0x80370307u) /* no processor of that index */
#define WHV_E_INVALID_VP_STATE              ((HRESULT)0x80370308u) /* e.g. it is running */
#define WHV_E_INVALID_VP_REGISTER_NAME      ((HRESULT)0x80370309u) /* register name not known */
#define WHV_E_UNSUPPORTED_PROCESSOR_CONFIG  ((HRESULT)0x80370310u) /* the host lacks something */
#endif

/* clang-format on */

#endif
