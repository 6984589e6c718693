/*
 * What a guest has written since one asked last: the loop at the heart of live migration and of
 * fast snapshots.
 *
 * The guest asks port 10 for the number of a page, stores into it and asks again, until it gets 0.
 * Between rounds we ask which pages are dirty; asking clears, so every answer holds the pages of
 * its own round and no others.
 *
 * Built as hello.c is.
 */
#include <windows.h>
#include <WinHvPlatform.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE  4096
#define PAGES 160 /* 640 KiB: three words of bitmap */
#define WORDS ((PAGES + 63) / 64)

static const UINT8 program[] = {
    0xE5, 0x10,                         /* 00  next: in ax, 0x10           */
    0x85, 0xC0,                         /* 02        test ax, ax           */
    0x74, 0x0D,                         /* 04        jz done               */
    0xC1, 0xE0, 0x08,                   /* 06        shl ax, 8             */
    0x8E, 0xC0,                         /* 09        mov es, ax            */
    0x26, 0xC6, 0x06, 0x00, 0x00, 0x01, /* 0B        mov byte [es:0], 1    */
    0xEB, 0xED,                         /* 11        jmp next              */
    0xF4,                               /* 13  done: hlt                   */
    0xEB, 0xEA,                         /* 14        jmp next              */
};

/* The pages that the guest is to write, 0 at the end. */
static const UINT16 rounds[][5] = {{1, 63, 64, 159}, {64, 64, 64}, {0}, {100, 99}};

static void must(HRESULT result, const char *what)
{
    if (FAILED(result)) {
        fprintf(stderr, "dirty_pages: %s: 0x%08lx\n", what, (unsigned long)(UINT32)result);
        exit(1);
    }
}

static WHV_PARTITION_HANDLE create(void *memory)
{
    WHV_PARTITION_HANDLE partition;
    WHV_PARTITION_PROPERTY property;
    memset(&property, 0, sizeof property);
    property.ProcessorCount = 1;
    must(WHvCreatePartition(&partition), "create a partition");
    must(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &property,
                                 sizeof property),
         "say how many processors");
    must(WHvSetupPartition(partition), "set up the partition");
    must(WHvMapGpaRange(partition, memory, 0, PAGES * PAGE,
                        WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite |
                            WHvMapGpaRangeFlagExecute | WHvMapGpaRangeFlagTrackDirtyPages),
         "map memory");
    must(WHvCreateVirtualProcessor(partition, 0, 0), "create a processor");

    const WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterRip};
    WHV_REGISTER_VALUE values[2];
    must(WHvGetVirtualProcessorRegisters(partition, 0, names, 1, values), "read CS");
    values[0].Segment.Selector = 0;
    values[0].Segment.Base = 0;
    values[1].Reg64 = 0;
    must(WHvSetVirtualProcessorRegisters(partition, 0, names, 2, values), "write CS:IP");
    return partition;
}

/* Answers the guest's IN with value. */
static void answer(WHV_PARTITION_HANDLE partition, const WHV_RUN_VP_EXIT_CONTEXT *context,
                   UINT16 value)
{
    const WHV_REGISTER_NAME names[] = {WHvX64RegisterRax, WHvX64RegisterRip};
    WHV_REGISTER_VALUE values[2];
    values[0].Reg64 = (context->IoPortAccess.Rax & ~(UINT64)0xFFFF) | value;
    values[1].Reg64 = context->VpContext.Rip + context->VpContext.InstructionLength;
    must(WHvSetVirtualProcessorRegisters(partition, 0, names, 2, values), "answer IN");
}

/* Runs until the guest has written what the round says and halts. */
static void run(WHV_PARTITION_HANDLE partition, const UINT16 *pages)
{
    WHV_RUN_VP_EXIT_CONTEXT context;
    for (;;) {
        must(WHvRunVirtualProcessor(partition, 0, &context, sizeof context), "run");
        if (context.ExitReason == WHvRunVpExitReasonX64Halt)
            return;
        if (context.ExitReason != WHvRunVpExitReasonX64IoPortAccess) {
            fprintf(stderr, "dirty_pages: unexpected exit %x\n", (unsigned)context.ExitReason);
            exit(1);
        }
        answer(partition, &context, *pages);
        if (*pages != 0)
            pages++;
    }
}

int main(void)
{
    int wrong = 0;
    UINT8 *memory = VirtualAlloc(NULL, PAGES * PAGE, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
    if (memory == NULL)
        must(E_OUTOFMEMORY, "allocate memory");
    memcpy(memory, program, sizeof program);
    WHV_PARTITION_HANDLE partition = create(memory);

    for (unsigned round = 0; round < sizeof rounds / sizeof rounds[0]; round++) {
        UINT64 dirty[WORDS], expected[WORDS] = {0};
        for (const UINT16 *page = rounds[round]; *page != 0; page++)
            expected[*page / 64] |= (UINT64)1 << *page % 64;
        run(partition, rounds[round]);
        must(WHvQueryGpaRangeDirtyBitmap(partition, 0, PAGES * PAGE, dirty, sizeof dirty),
             "ask for dirty pages");
        printf("round %u:", round + 1);
        for (unsigned page = 0; page < PAGES; page++)
            if ((dirty[page / 64] >> page % 64 & 1) != 0)
                printf(" %u", page);
        wrong += memcmp(dirty, expected, sizeof dirty) != 0;
        printf(memcmp(dirty, expected, sizeof dirty) != 0 ? "  WRONG\n" : "\n");
    }
    must(WHvDeletePartition(partition), "delete the partition");
    VirtualFree(memory, 0, MEM_RELEASE);
    return wrong != 0;
}
