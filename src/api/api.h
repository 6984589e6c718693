/*
 * What the files of the outer ring share. A public function is: validate, convert, delegate; its HRESULT comes from
 * api_result(), which also keeps the words for OwhpGetLastErrorText.
 */
#ifndef OWHP_API_API_H
#define OWHP_API_API_H

#include <WinHvPlatform.h>
#include <openwhp.h>

#include "core/caller_memory.h"
#include "core/partition.h"
#include "util/compiler.h"
#include "util/last_error.h"
#include "util/status.h"

/* The HRESULT of an internal status. A failure keeps its text for this thread, led by the function's name. */
HRESULT api_result(const char *function, enum status status);

/* The HRESULT alone (tests). */
HRESULT api_status_to_hresult(enum status status);

/* The text that api_result kept, or that was set (cut to what fits; NULL: none). */
const char *api_error_text(void);
void api_set_error_text(const char *text);

/*
 * End a public function: look the handle up, evaluate the expression with `partition` (and `vcpu`, the slot of
 * that index) bound, give the reference back, return the HRESULT.
 */
#define RETURN_ON_PARTITION(handle, expression)                                                    \
    do {                                                                                           \
        enum status status_ = STATUS_BAD_HANDLE;                                                   \
        struct partition *partition = partition_get((uintptr_t)(handle));                          \
        if (partition) {                                                                           \
            status_ = (expression);                                                                \
            partition_put((uintptr_t)(handle));                                                    \
        }                                                                                          \
        return api_result(__func__, status_);                                                      \
    } while (0)

#define RETURN_ON_VCPU(handle, index, expression)                                                  \
    do {                                                                                           \
        struct vcpu *vcpu = NULL;                                                                  \
        enum status status_ = partition_get_vcpu((uintptr_t)(handle), (index), &vcpu);             \
        if (likely(status_ == STATUS_OK)) {                                                        \
            status_ = (expression);                                                                \
            partition_put((uintptr_t)(handle));                                                    \
        }                                                                                          \
        return api_result(__func__, status_);                                                      \
    } while (0)

/* A pointer that must not be NULL. STATUS_BAD_POINTER */
must_check enum status require_pointer(const void *pointer, const char *what);

/* Where a variable-sized answer goes. `written` may be NULL; it receives the size of the answer, also when the
 * buffer is too small for it. */
struct output {
    void *buffer;
    UINT32 size;
    UINT32 *written;
};

/* STATUS_INSUFFICIENT_BUFFER, STATUS_BAD_POINTER. A NULL buffer of size 0 is only too small. */
must_check enum status output_put(const struct output *output, const void *value, size_t size);

#endif
