/* The guest of the exit benchmarks. */
#include "exits.h"

#include <string.h>
#include <time.h>

clockid_t bench_clock = CLOCK_MONOTONIC;

double now_ns(void)
{
    struct timespec now;

    clock_gettime(bench_clock, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static const struct {
    uint8_t bytes[8];
    unsigned size;
} loops[LOOP_COUNT] = {
    [LOOP_LOAD] = {{0x8b, 0x03, 0xeb, 0xfc}, 4},  /* mov eax, [rbx]; jmp */
    [LOOP_STORE] = {{0x89, 0x03, 0xeb, 0xfc}, 4}, /* mov [rbx], eax; jmp */
    [LOOP_IN] = {{0xed, 0xeb, 0xfd}, 3},          /* in eax, dx; jmp */
    [LOOP_OUT] = {{0xef, 0xeb, 0xfd}, 3},         /* out dx, eax; jmp */
    [LOOP_HALT] = {{0xf4, 0xeb, 0xfd}, 3},        /* hlt; jmp */
};

static void put_entry(uint8_t *memory, unsigned table, unsigned index, uint64_t value)
{
    value |= 0x63; /* present, writable, accessed, dirty */
    memcpy(memory + table + index * 8, &value, 8);
}

void guest_fill(uint8_t *memory, enum guest_loop loop)
{
    memset(memory, 0, MEMORY_SIZE);
    put_entry(memory, TABLES, 0, TABLES + 0x1000);
    put_entry(memory, TABLES + 0x1000, 0, TABLES + 0x2000);
    put_entry(memory, TABLES + 0x2000, 0, TABLES + 0x3000);
    for (unsigned page = 0; page < MEMORY_SIZE >> 12; page++)
        put_entry(memory, TABLES + 0x3000, page, (uint64_t)page << 12);
    put_entry(memory, TABLES + 0x3000, DEVICE_GVA >> 12, DEVICE_GPA);
    memcpy(memory + CODE, loops[loop].bytes, loops[loop].size);
}
