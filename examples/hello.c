/*
 * The smallest complete client: one page of guest memory, one processor that starts in real mode at
 * 0:0 and writes a line to port E9, byte by byte. Every byte is an exit; we print it, step over the
 * OUT and run on until HLT.
 *
 * Linux:    cc hello.c $(pkg-config --cflags --libs openwhp) \
 *              -I$(pkg-config --variable=compatdir openwhp) -o hello
 * Windows:  x86_64-w64-mingw32-gcc hello.c -lWinHvPlatform -o hello.exe
 */
#include <windows.h>
#include <WinHvPlatform.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096

static const UINT8 program[] = {
    0xBE, 0x0D, 0x00, /* 00        mov si, 0x0D  */
    0xAC,             /* 03  next: lodsb         */
    0x84, 0xC0,       /* 04        test al, al   */
    0x74, 0x04,       /* 06        jz done       */
    0xE6, 0xE9,       /* 08        out 0xE9, al  */
    0xEB, 0xF7,       /* 0A        jmp next      */
    0xF4,             /* 0C  done: hlt           */
};                    /* 0D        the text      */
static const char text[] = "Hello from the guest.\n";

static void must(HRESULT result, const char *what)
{
    if (FAILED(result)) {
        fprintf(stderr, "hello: %s: 0x%08lx\n", what, (unsigned long)(UINT32)result);
        exit(1);
    }
}

/* A processor comes out of reset at F000:FFF0; we want it at 0:0. */
static void start_at_zero(WHV_PARTITION_HANDLE partition)
{
    const WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterRip};
    WHV_REGISTER_VALUE values[2];
    must(WHvGetVirtualProcessorRegisters(partition, 0, names, 1, values), "read CS");
    values[0].Segment.Selector = 0;
    values[0].Segment.Base = 0;
    values[1].Reg64 = 0;
    must(WHvSetVirtualProcessorRegisters(partition, 0, names, 2, values), "write CS:IP");
}

/* RIP is at the instruction, which has not happened: the client does it and says where to go on. */
static void step_over(WHV_PARTITION_HANDLE partition, const WHV_VP_EXIT_CONTEXT *at)
{
    const WHV_REGISTER_NAME rip = WHvX64RegisterRip;
    WHV_REGISTER_VALUE value;
    value.Reg64 = at->Rip + at->InstructionLength;
    must(WHvSetVirtualProcessorRegisters(partition, 0, &rip, 1, &value), "write IP");
}

static void run(WHV_PARTITION_HANDLE partition)
{
    WHV_RUN_VP_EXIT_CONTEXT context;
    for (;;) {
        must(WHvRunVirtualProcessor(partition, 0, &context, sizeof context), "run");
        if (context.ExitReason != WHvRunVpExitReasonX64IoPortAccess)
            break;
        putchar((int)(context.IoPortAccess.Rax & 0xFF));
        step_over(partition, &context.VpContext);
    }
    if (context.ExitReason != WHvRunVpExitReasonX64Halt) {
        fprintf(stderr, "hello: exit %x instead of HLT\n", (unsigned)context.ExitReason);
        exit(1);
    }
}

int main(void)
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

    UINT8 *memory = VirtualAlloc(NULL, PAGE, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
    if (memory == NULL)
        must(E_OUTOFMEMORY, "allocate memory");
    memcpy(memory, program, sizeof program);
    memcpy(memory + sizeof program, text, sizeof text);
    must(WHvMapGpaRange(partition, memory, 0, PAGE,
                        WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagExecute),
         "map the page");

    must(WHvCreateVirtualProcessor(partition, 0, 0), "create a processor");
    start_at_zero(partition);
    run(partition);

    must(WHvDeletePartition(partition), "delete the partition");
    VirtualFree(memory, 0, MEM_RELEASE);
    return 0;
}
