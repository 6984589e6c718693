/*
 * A fuzzer in one page: the guest is put back to a snapshot thousands of times a second, each time with another input. The guest
 * reads the input with a parser that has a bug, four right bytes deep; how far it came (in EDX) tells the fuzzer which inputs to
 * keep. Linux only (openwhp.h).
 */
#include <windows.h>
#include <WinHvPlatform.h>
#include <openwhp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CODE = 0x1000, INPUT = 0x3000, INPUT_SIZE = 8, KEPT = 64, LIMIT = 2000000 };

static const UINT8 program[] = {
    0xBE, 0x00, 0x30, 0, 0,             /*      mov esi, INPUT */
    0x31, 0xD2,                         /*      xor edx, edx       how far it came */
    0xBF, 0x00, 0x40, 0, 0,             /*      mov edi, 0x4000 */
    0xB9, 0x00, 0x10, 0, 0, 0xF3, 0xAA, /*      mov ecx, 4096; rep stosb: it makes a mess, too */
    0x80, 0x3E, 'F', 0x75, 0x15, 0x42,  /*      cmp byte [esi], 'F'; jne done; inc edx */
    0x80, 0x7E, 1, 'U', 0x75, 0x0E, 0x42,
    0x80, 0x7E, 2, 'Z', 0x75, 0x07, 0x42,
    0x80, 0x7E, 3, 'Z', 0x74, 0x01,     /*      je bug */
    0xF4,                               /* done: hlt */
    0x0F, 0x0B,                         /* bug: ud2, and nobody handles it */
};

static void must(HRESULT result, const char *what)
{
    if (SUCCEEDED(result))
        return;
    fprintf(stderr, "fuzz_reset: %s: %s\n", what, OwhpGetLastErrorText());
    exit(1);
}

static UINT64 random_state = 1;

static UINT32 draw(UINT32 below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (UINT32)(random_state >> 33) % below;
}

static void set(WHV_PARTITION_HANDLE partition, WHV_REGISTER_NAME name, WHV_REGISTER_VALUE value)
{
    must(WHvSetVirtualProcessorRegisters(partition, 0, &name, 1, &value), "set a register");
}

/* 32-bit code, flat, no paging, no interrupt table. */
static WHV_PARTITION_HANDLE make_guest(UINT8 **memory)
{
    WHV_PARTITION_PROPERTY property = {.ProcessorCount = 1};
    WHV_PARTITION_HANDLE partition;
    const UINT64 size = 64 << 20;

    must(WHvCreatePartition(&partition), "create a partition");
    must(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &property, sizeof property), "configure");
    must(WHvSetupPartition(partition), "set it up");
    must(OwhpAllocateMemory(size, 0, (VOID **)memory), "memory");
    memcpy(*memory + CODE, program, sizeof program);
    must(WHvMapGpaRange(partition, *memory, 0, size,
                        WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute), "map");
    must(WHvCreateVirtualProcessor(partition, 0, 0), "a processor");
    set(partition, WHvX64RegisterCr0, (WHV_REGISTER_VALUE){.Reg64 = 0x11});
    set(partition, WHvX64RegisterCs, (WHV_REGISTER_VALUE){.Segment = {.Limit = ~0u, .Selector = 8, .Attributes = 0xC09B}});
    set(partition, WHvX64RegisterDs, (WHV_REGISTER_VALUE){.Segment = {.Limit = ~0u, .Selector = 16, .Attributes = 0xC093}});
    set(partition, WHvX64RegisterEs, (WHV_REGISTER_VALUE){.Segment = {.Limit = ~0u, .Selector = 16, .Attributes = 0xC093}});
    set(partition, WHvX64RegisterSs, (WHV_REGISTER_VALUE){.Segment = {.Limit = ~0u, .Selector = 16, .Attributes = 0xC093}});
    set(partition, WHvX64RegisterIdtr, (WHV_REGISTER_VALUE){.Table = {.Limit = 0}});
    set(partition, WHvX64RegisterRip, (WHV_REGISTER_VALUE){.Reg64 = CODE});
    return partition;
}

int main(void)
{
    static UINT8 kept[KEPT][INPUT_SIZE];
    UINT32 count = 1, best = 0, runs = 0;
    const WHV_REGISTER_NAME rdx = WHvX64RegisterRdx;
    WHV_RUN_VP_EXIT_CONTEXT context;
    OWHP_SNAPSHOT_HANDLE snapshot;
    WHV_REGISTER_VALUE depth;
    UINT8 input[INPUT_SIZE], *memory;
    WHV_PARTITION_HANDLE partition = make_guest(&memory);
    clock_t begin = clock();

    must(OwhpCreateSnapshot(partition, 0, &snapshot), "a snapshot");
    do {
        memcpy(input, kept[draw(count)], INPUT_SIZE);
        input[draw(INPUT_SIZE)] = (UINT8)draw(256);
        must(OwhpRestoreSnapshot(partition, snapshot, OwhpRestoreFlagNone, NULL), "back");
        memcpy(memory + INPUT, input, INPUT_SIZE); /* the next input overwrites it: nobody need know */
        must(WHvRunVirtualProcessor(partition, 0, &context, sizeof context), "run");
        must(WHvGetVirtualProcessorRegisters(partition, 0, &rdx, 1, &depth), "how far");
        if (depth.Reg64 > best && count < KEPT) {
            best = (UINT32)depth.Reg64;
            memcpy(kept[count++], input, INPUT_SIZE);
            printf("%u bytes deep after %u runs\n", best, runs);
        }
        runs++;
    } while (context.ExitReason == WHvRunVpExitReasonX64Halt && runs < LIMIT);

    double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    printf("%s with \"%.4s\" after %u runs, %.0f a second\n",
           context.ExitReason == WHvRunVpExitReasonUnrecoverableException ? "crashed" : "stopped", (char *)input, runs,
           (double)runs / (seconds > 0 ? seconds : 1));
    int ok = context.ExitReason == WHvRunVpExitReasonUnrecoverableException && memcmp(input, "FUZZ", 4) == 0;
    must(OwhpDestroySnapshot(snapshot), "destroy it");
    must(WHvDeletePartition(partition), "delete the partition");
    must(OwhpFreeMemory(memory), "free the memory");
    return ok ? 0 : 1;
}
