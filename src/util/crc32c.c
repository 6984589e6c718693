#include "util/crc32c.h"

#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* bit-reflected */

uint32_t crc32c_portable(uint32_t crc, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;

    crc = ~crc;
    while (size--) {
        crc ^= *p++;
        for (unsigned i = 0; i < 8; i++)
            crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
    }
    return ~crc;
}

__attribute__((target("sse4.2"))) static uint32_t with_instruction(uint32_t crc, const uint8_t *p, size_t size)
{
    uint64_t value = ~crc, word;

    for (; size >= 8; size -= 8, p += 8) {
        memcpy(&word, p, 8);
        value = __builtin_ia32_crc32di(value, word);
    }
    for (; size; size--)
        value = __builtin_ia32_crc32qi((uint32_t)value, *p++);
    return ~(uint32_t)value;
}

uint32_t crc32c(uint32_t crc, const void *bytes, size_t size)
{
    return __builtin_cpu_supports("sse4.2") ? with_instruction(crc, bytes, size) : crc32c_portable(crc, bytes, size);
}
