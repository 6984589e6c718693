#include "core/caller_memory.h"

#include "os/guarded.h"
#include "util/last_error.h"

static enum status refuse(const void *pointer, size_t size, const char *what)
{
    return fail(STATUS_BAD_POINTER, "%s: %zu bytes at %p are not accessible", what, size, pointer);
}

static bool copy(void *to, const void *from, size_t size)
{
    return size == 0 || (guarded_init() && guarded_copy(to, from, size));
}

enum status caller_read(void *to, const void *from, size_t size, const char *what)
{
    return copy(to, from, size) ? STATUS_OK : refuse(from, size, what);
}

enum status caller_write(void *to, const void *from, size_t size, const char *what)
{
    return copy(to, from, size) ? STATUS_OK : refuse(to, size, what);
}

/* A compare-exchange of 0 for 0 needs the right to write and changes nothing (SDM 2A, CMPXCHG: the
 * destination receives a write cycle whatever the comparison says). */
static bool can_write(uint8_t *at)
{
    uint8_t expected = 0;
    bool done;

    return guarded_cas8(at, &expected, 0, &done);
}

enum status caller_writable(void *to, size_t size, const char *what)
{
    uint8_t *byte = to;

    if (size == 0)
        return STATUS_OK;
    if (!guarded_init())
        return refuse(to, size, what);
    for (size_t at = 0; at < size; at = (((uintptr_t)byte + at) | (PAGE_SIZE - 1)) + 1 - (uintptr_t)byte)
        if (!can_write(byte + at))
            return refuse(to, size, what);
    return can_write(byte + size - 1) ? STATUS_OK : refuse(to, size, what);
}
