/* From internal outcomes to HRESULTs, and the words that go with them. */
#include "api/api.h"

#include <stdio.h>

#include "util/compiler.h"

static const HRESULT results[] = {
    [STATUS_OK] = S_OK,
    [STATUS_INVALID_ARGUMENT] = E_INVALIDARG,
    [STATUS_INVALID_STATE] = HRESULT_FROM_WIN32(ERROR_INVALID_STATE),
    [STATUS_NO_MEMORY] = E_OUTOFMEMORY,
    [STATUS_ACCESS_DENIED] = E_ACCESSDENIED,
    [STATUS_NOT_SUPPORTED] = HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED),
    [STATUS_NOT_FOUND] = HRESULT_FROM_WIN32(ERROR_NOT_FOUND),
    [STATUS_BAD_HANDLE] = E_HANDLE,
    [STATUS_BAD_POINTER] = E_POINTER,
    [STATUS_GPA_RANGE_NOT_FOUND] = WHV_E_GPA_RANGE_NOT_FOUND,
    [STATUS_INSUFFICIENT_BUFFER] = WHV_E_INSUFFICIENT_BUFFER,
    [STATUS_UNKNOWN_CAPABILITY] = WHV_E_UNKNOWN_CAPABILITY,
    [STATUS_UNKNOWN_PROPERTY] = WHV_E_UNKNOWN_PROPERTY,
    [STATUS_INVALID_PARTITION_CONFIG] = WHV_E_INVALID_PARTITION_CONFIG,
    [STATUS_UNSUPPORTED_HYPERVISOR_CONFIG] = WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG,
    [STATUS_VP_ALREADY_EXISTS] = WHV_E_VP_ALREADY_EXISTS,
    [STATUS_VP_DOES_NOT_EXIST] = WHV_E_VP_DOES_NOT_EXIST,
    [STATUS_INVALID_VP_STATE] = WHV_E_INVALID_VP_STATE,
    [STATUS_INVALID_VP_REGISTER_NAME] = WHV_E_INVALID_VP_REGISTER_NAME,
    [STATUS_HV_INVALID_PARAMETER] = ERROR_HV_INVALID_PARAMETER,
    [STATUS_HV_ACCESS_DENIED] = ERROR_HV_ACCESS_DENIED,
    [STATUS_HV_OPERATION_DENIED] = ERROR_HV_OPERATION_DENIED,
    [STATUS_HV_INVALID_REGISTER_VALUE] = ERROR_HV_INVALID_REGISTER_VALUE,
    [STATUS_FILE_CORRUPT] = HRESULT_FROM_WIN32(ERROR_FILE_CORRUPT),
    [STATUS_WRITE_FAULT] = HRESULT_FROM_WIN32(ERROR_WRITE_FAULT),
    [STATUS_UNEXPECTED] = E_UNEXPECTED,
};

/* Every status has its row: the list's length is the table's. */
#define X(name) +1
_Static_assert(array_size(results) == STATUS_LIST(X), "a status has no HRESULT");
#undef X

static const char *const names[] = {
#define X(name) [STATUS_##name] = #name,
    STATUS_LIST(X)
#undef X
};

static _Thread_local char error_text[320];

HRESULT api_status_to_hresult(enum status status)
{
    return (size_t)status < array_size(results) ? results[status] : E_UNEXPECTED;
}

const char *api_error_text(void)
{
    return error_text;
}

void api_set_error_text(const char *text)
{
    error_text[0] = 0;
    for (size_t i = 0; text && i < sizeof(error_text) - 1; i++) {
        char byte;
        if (caller_read(&byte, text + i, 1, "Text") != STATUS_OK)
            break;
        error_text[i] = byte;
        error_text[i + 1] = 0;
        if (!byte)
            break;
    }
    last_error_clear();
}

static noinline HRESULT failure(const char *function, enum status status)
{
    const char *text = last_error_text();

    if (!*text)
        text = (size_t)status < array_size(names) ? names[status] : "unexpected";
    snprintf(error_text, sizeof(error_text), "%s: %s", function, text);
    last_error_clear();
    return api_status_to_hresult(status);
}

HRESULT api_result(const char *function, enum status status)
{
    return likely(status == STATUS_OK) ? S_OK : failure(function, status);
}

enum status require_pointer(const void *pointer, const char *what)
{
    return pointer ? STATUS_OK : fail(STATUS_BAD_POINTER, "%s is NULL", what);
}

enum status output_put(const struct output *output, const void *value, size_t size)
{
    UINT32 size32 = (UINT32)size;
    enum status status = STATUS_OK;

    if (!output->buffer && output->size)
        return fail(STATUS_BAD_POINTER, "the buffer is NULL");
    if (output->written)
        status = caller_writable(output->written, sizeof(size32), "the written size");
    if (status == STATUS_OK && output->size >= size)
        status = caller_write(output->buffer, value, size, "the buffer");
    if (status == STATUS_OK && output->written)
        status = caller_write(output->written, &size32, sizeof(size32), "the written size");
    if (status == STATUS_OK && output->size < size)
        status = fail(STATUS_INSUFFICIENT_BUFFER, "the buffer has %u bytes, %u are needed", output->size, size32);
    return status;
}
