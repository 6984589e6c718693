/*
 * A device at 0xF0000000 served without an emulator: each memory exit tells address, direction, size
 * and data in one call and is finished in one more. The guest adds 40 to the device's register 0
 * (a read and a write) and stores the sum's low byte in register 4. Linux only (openwhp.h).
 */
#include <windows.h>
#include <WinHvPlatform.h>
#include <openwhp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE 0xF0000000u

static const UINT8 program[] = {
    0xB8, 0x28, 0, 0, 0,       /* mov eax, 40  */
    0x01, 0x03,                /* add [ebx], eax */
    0x8A, 0x03, 0x88, 0x43, 4, /* mov al, [ebx]; mov [ebx + 4], al */
    0xF4 /* hlt */};
static UINT8 device[8] = {2};

static void must(HRESULT result, const char *what)
{
    if (SUCCEEDED(result))
        return;
    fprintf(stderr, "mmio_completion: %s: %s\n", what, OwhpGetLastErrorText());
    exit(1);
}

/* The whole handler. S_FALSE: the instruction makes another access, which *access now is. */
static void serve(WHV_PARTITION_HANDLE partition, const WHV_RUN_VP_EXIT_CONTEXT *context)
{
    OWHP_MEMORY_ACCESS access;
    HRESULT result;

    must(OwhpGetMemoryAccess(partition, 0, context, &access), "what it wants");
    do {
        UINT64 at = access.Gpa - DEVICE;
        BOOL inside = at < sizeof device && access.SizeInBytes <= sizeof device - at;
        printf("%s %u at %llx\n", access.AccessType == WHvMemoryAccessRead ? "read" : "write", access.SizeInBytes,
               (unsigned long long)access.Gpa);
        if (access.AccessType == WHvMemoryAccessRead) {
            access.Data = ~0ull;
            if (inside)
                memcpy(&access.Data, device + at, access.SizeInBytes);
        } else if (inside) {
            memcpy(device + at, &access.Data, access.SizeInBytes);
        }
        must(result = OwhpCompleteMemoryAccess(partition, 0, &access), "finish it");
    } while (result == S_FALSE);
}

int main(void)
{
    const WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterDs, WHvX64RegisterRip, WHvX64RegisterRbx,
                                       WHvX64RegisterCr0};
    WHV_REGISTER_VALUE values[5] = {0};
    WHV_PARTITION_PROPERTY property = {.ProcessorCount = 1};
    WHV_RUN_VP_EXIT_CONTEXT context;
    WHV_PARTITION_HANDLE partition;
    VOID *memory;

    must(WHvCreatePartition(&partition), "create");
    must(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &property, sizeof property), "property");
    must(WHvSetupPartition(partition), "set up");
    must(OwhpAllocateMemory(4096, 0, &memory), "memory");
    memcpy(memory, program, sizeof program);
    must(WHvMapGpaRange(partition, memory, 0, 4096, WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagExecute), "map");
    must(WHvCreateVirtualProcessor(partition, 0, 0), "processor");
    values[0].Segment = (WHV_X64_SEGMENT_REGISTER){.Limit = ~0u, .Selector = 8, .Attributes = 0xC09B};
    values[1].Segment = (WHV_X64_SEGMENT_REGISTER){.Limit = ~0u, .Selector = 16, .Attributes = 0xC093};
    values[3].Reg64 = DEVICE;
    values[4].Reg64 = 0x11; /* protected mode, no paging */
    must(WHvSetVirtualProcessorRegisters(partition, 0, names, 5, values), "registers");
    while (must(WHvRunVirtualProcessor(partition, 0, &context, sizeof context), "run"),
           context.ExitReason == WHvRunVpExitReasonMemoryAccess)
        serve(partition, &context);
    return context.ExitReason == WHvRunVpExitReasonX64Halt && device[0] == 42 && device[4] == 42 ? 0 : 1;
}
