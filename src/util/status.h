/*
 * The outcome of an internal call. One list gives the enumeration, its names, and (in
 * src/api/api_status.c) the HRESULT each one becomes.
 */
#ifndef OWHP_UTIL_STATUS_H
#define OWHP_UTIL_STATUS_H

#define STATUS_LIST(X)                                                                             \
    X(OK)                                                                                          \
    X(INVALID_ARGUMENT)      /* E_INVALIDARG */                                                    \
    X(INVALID_STATE)         /* the object is not in a state that allows the call */               \
    X(NO_MEMORY)             /* E_OUTOFMEMORY */                                                    \
    X(ACCESS_DENIED)         /* E_ACCESSDENIED */                                                  \
    X(NOT_SUPPORTED)         /* HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED) */                         \
    X(NOT_FOUND)             /* HRESULT_FROM_WIN32(ERROR_NOT_FOUND) */                             \
    X(BAD_HANDLE)            /* E_HANDLE */                                                        \
    X(BAD_POINTER)           /* E_POINTER */                                                       \
    X(GPA_RANGE_NOT_FOUND)   /* WHV_E_GPA_RANGE_NOT_FOUND */                                       \
    X(INSUFFICIENT_BUFFER)   /* WHV_E_INSUFFICIENT_BUFFER */                                       \
    X(UNKNOWN_CAPABILITY)    /* WHV_E_UNKNOWN_CAPABILITY */                                        \
    X(UNKNOWN_PROPERTY)      /* WHV_E_UNKNOWN_PROPERTY */                                          \
    X(INVALID_PARTITION_CONFIG)                                                                    \
    X(UNSUPPORTED_HYPERVISOR_CONFIG) /* no engine can be used, or not the one asked for */           \
    X(VP_ALREADY_EXISTS)                                                                           \
    X(VP_DOES_NOT_EXIST)                                                                           \
    X(INVALID_VP_STATE)                                                                            \
    X(INVALID_VP_REGISTER_NAME)                                                                    \
    X(HV_INVALID_PARAMETER)  /* 0xC0350005 */                                                      \
    X(HV_ACCESS_DENIED)      /* 0xC0350006 */                                                      \
    X(HV_OPERATION_DENIED)   /* 0xC0350008 */                                                      \
    X(HV_INVALID_REGISTER_VALUE) /* 0xC0350050 */                                                  \
    X(FILE_CORRUPT)          /* HRESULT_FROM_WIN32(ERROR_FILE_CORRUPT) */                          \
    X(WRITE_FAULT)           /* HRESULT_FROM_WIN32(ERROR_WRITE_FAULT) */                           \
    X(UNEXPECTED)            /* E_UNEXPECTED */

enum status {
#define X(name) STATUS_##name,
    STATUS_LIST(X)
#undef X
};

#endif
