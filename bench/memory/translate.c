/* Translations on tables that are in the cache: one call each, many in a call, a walk written by hand, KVM_TRANSLATE. */
#include "memory.h"

#include <stdio.h>
#include <string.h>

#include "tables.h"

enum { BATCH = 256 };

struct walks {
    WHV_PARTITION_HANDLE partition;
    const uint8_t *ram;
    uint64_t gvas[BATCH], gpas[BATCH];
    WHV_TRANSLATE_GVA_RESULT results[BATCH];
    volatile uint64_t sum;
};

static const WHV_TRANSLATE_GVA_FLAGS flags = WHvTranslateGvaFlagValidateRead;

static void one_by_one(void *context, uint64_t count)
{
    struct walks *w = context;

    for (uint64_t i = 0; i < count; i++)
        MUST(WHvTranslateGva(w->partition, 0, w->gvas[i % BATCH], flags, &w->results[0], &w->gpas[0]));
}

static void in_batches(void *context, uint64_t count)
{
    struct walks *w = context;

    for (uint64_t done = 0; done < count; done += BATCH)
        MUST(OwhpTranslateGvas(w->partition, 0, flags, w->gvas, (UINT32)(count - done < BATCH ? count - done : BATCH), w->results,
                               w->gpas));
}

/* Four dependent loads and a check of the present bit on each: the least there is to do. */
static void by_hand(void *context, uint64_t count)
{
    struct walks *w = context;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t gva = w->gvas[i % BATCH], entry = TABLES | 1;
        for (int shift = 39; shift >= 12 && entry & 1; shift -= 9)
            memcpy(&entry, w->ram + (entry & 0xffffffffff000) + 8 * (gva >> shift & 511), 8);
        w->gpas[i % BATCH] = (entry & 0xffffffffff000) | (gva & 4095);
    }
}

static void set_registers(WHV_PARTITION_HANDLE partition)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterEfer, WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterCr0};
    WHV_REGISTER_VALUE values[4];

    memset(values, 0, sizeof(values));
    values[0].Reg64 = 0xd00;
    values[1].Reg64 = TABLES;
    values[2].Reg64 = 0x20;
    values[3].Reg64 = 0x80010011;
    MUST(WHvSetVirtualProcessorRegisters(partition, 0, names, 4, values));
}

void bench_translate(void)
{
    static struct walks w;
    uint8_t *ram = reserve(RAM_SIZE);
    uint64_t random = 3;

    fill_tables(ram);
    for (int i = 0; i < BATCH; i++)
        w.gvas[i] = next_random(&random) % RAM_SIZE;
    w.partition = make_partition();
    w.ram = ram;
    MUST(WHvMapGpaRange(w.partition, ram, 0, RAM_SIZE, RW));
    set_registers(w.partition);
    heading("translation, four levels, tables in cache (ns each; ratio to the walk by hand)");
    struct pair p = best_pair(in_batches, &w, by_hand, &w);
    row_ratio("OwhpTranslateGvas, 256 a call", p.first, p.second, "below 50 ns: 20 million a second");
    row("a walk by hand", p.second);
    row_ratio("WHvTranslateGva", best_ns(one_by_one, &w), p.second, NULL);
    bench_translate_kvm();
    MUST(WHvDeletePartition(w.partition));
}
