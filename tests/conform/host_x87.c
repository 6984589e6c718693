/* The host's processor is given an x87 image, or stores to an MMX register, and shows what became of it; then all is put back. */
#include "host_x87.h"

#include <stdint.h>
#include <string.h>

struct image {
    _Alignas(16) uint8_t bytes[512];
};

enum { OPCODE = 6, OPERAND = 16, ST3 = 32 + 3 * 16 };

bool host_keeps_fp_pointers(void)
{
    struct image own, given, seen;

    __asm__ volatile("fxsave64 %0" : "=m"(own));
    given = own;
    memcpy(given.bytes + OPCODE, "\xa5\x05", 2);
    memcpy(given.bytes + OPERAND, "\x67\x45\x23\x01", 4);
    memset(&seen, 0, sizeof(seen));
    __asm__ volatile("fxrstor64 %1\n\tfxsave64 %0\n\tfxrstor64 %2" : "+m"(seen) : "m"(given), "m"(own));
    return memcmp(seen.bytes + OPCODE, given.bytes + OPCODE, 2) == 0 && memcmp(seen.bytes + OPERAND, given.bytes + OPERAND, 4) == 0;
}

bool host_mmx_sets_exponents(void)
{
    const uint64_t number = 0x1122334455667788;
    struct image own, seen;

    memset(&seen, 0, sizeof(seen));
    __asm__ volatile("fxsave64 %0" : "=m"(own));
    __asm__ volatile("movq %1, %%mm3\n\tfxsave64 %0\n\tfxrstor64 %2" : "+m"(seen) : "r"(number), "m"(own));
    return seen.bytes[ST3 + 8] == 0xff && seen.bytes[ST3 + 9] == 0xff;
}
