#include "core/caller_memory.h"

#include "util/last_error.h"

enum status caller_refuse(const void *pointer, size_t size, const char *what)
{
    return fail(STATUS_BAD_POINTER, "%s: %zu bytes at %p are not accessible", what, size, pointer);
}

enum { SHORT = 1024 };

/* Structures and small arrays, of which every call moves some: a string instruction takes longer to begin than they to end. */
static bool read_short(uint8_t *to, const uint8_t *from, size_t size)
{
    uint64_t word;
    uint32_t half;

    for (; size >= 64; size -= 64, to += 64, from += 64)
        if (!guarded_copy512(to, from))
            return false;
    for (; size >= 16; size -= 16, to += 16, from += 16)
        if (!guarded_load128(from, to))
            return false;
    if (size >= 8) {
        if (!guarded_load64(from, &word))
            return false;
        memcpy(to, &word, 8);
        size -= 8, to += 8, from += 8;
    }
    if (size && !guarded_load32(from, &half))
        return false;
    if (size)
        memcpy(to, &half, 4);
    return true;
}

static bool write_short(uint8_t *to, const uint8_t *from, size_t size)
{
    uint64_t word;
    uint32_t half;

    for (; size >= 64; size -= 64, to += 64, from += 64)
        if (!guarded_copy512(to, from))
            return false;
    for (; size >= 16; size -= 16, to += 16, from += 16)
        if (!guarded_store128(to, from))
            return false;
    if (size >= 8) {
        memcpy(&word, from, 8);
        if (!guarded_store64(to, word))
            return false;
        size -= 8, to += 8, from += 8;
    }
    if (size == 0)
        return true;
    memcpy(&half, from, 4);
    return guarded_store32(to, half);
}

static bool is_short(size_t size)
{
    return size <= SHORT && size % 4 == 0;
}

enum status caller_read(void *to, const void *from, size_t size, const char *what)
{
    if (size && (!guarded_init() || !(is_short(size) ? read_short(to, from, size) : guarded_copy(to, from, size))))
        return caller_refuse(from, size, what);
    return STATUS_OK;
}

enum status caller_write(void *to, const void *from, size_t size, const char *what)
{
    if (size && (!guarded_init() || !(is_short(size) ? write_short(to, from, size) : guarded_copy(to, from, size))))
        return caller_refuse(to, size, what);
    return STATUS_OK;
}

enum status caller_writable(void *to, size_t size, const char *what)
{
    uint8_t *byte = to;

    if (size == 0)
        return STATUS_OK;
    if (!guarded_init())
        return caller_refuse(to, size, what);
    for (size_t at = 0; at < size; at = (((uintptr_t)byte + at) | (PAGE_SIZE - 1)) + 1 - (uintptr_t)byte)
        if (!caller_can_write(byte + at))
            return caller_refuse(to, size, what);
    return caller_can_write(byte + size - 1) ? STATUS_OK : caller_refuse(to, size, what);
}
