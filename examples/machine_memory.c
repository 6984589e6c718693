/*
 * The memory of a PC, complete: RAM below and above the first MiB, a ROM that can be read and
 * executed but not written, and holes where devices are. The processor starts in the ROM, enters
 * protected mode and jumps to an image loaded at 1 MiB, which touches each kind of range. What
 * memory cannot serve comes to us as an exit, and WHvEmulator finishes the instruction through the
 * callbacks below.
 *
 * Built as hello.c is, on Windows with -lWinHvEmulation as well.
 */
#include <windows.h>
#include <WinHvPlatform.h>
#include <WinHvEmulation.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine_memory_guest.h"

#define KIB 1024u
#define MIB (1024u * KIB)
#define RAM (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute)
#define ROM (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagExecute)

enum { LOW_RAM, VGA, BIOS, EXTENDED_RAM, IOAPIC, LOCAL_APIC, BIOS_HIGH, NOTHING, RANGES };
static struct range {
    const char *name;
    UINT64 gpa, size;
    WHV_MAP_GPA_RANGE_FLAGS access; /* None: a hole */
    UINT8 *host;
    unsigned exits, expected_exits;
} ranges[RANGES] = {
    {"low RAM", 0, 640 * KIB, RAM, NULL, 0, 0},
    {"VGA", 0xA0000, 128 * KIB, WHvMapGpaRangeFlagNone, NULL, 0, 1},
    {"ROM", 0xF0000, 64 * KIB, ROM, NULL, 0, 1},
    {"extended RAM", 1 * MIB, 3 * MIB, RAM, NULL, 0, 0},
    {"IOAPIC", 0xFEC00000, 4 * KIB, WHvMapGpaRangeFlagNone, NULL, 0, 2},
    {"local APIC", 0xFEE00000, 4 * KIB, WHvMapGpaRangeFlagNone, NULL, 0, 1},
    {"ROM, top of 4 GiB", 0xFFFF0000, 64 * KIB, ROM, NULL, 0, 0},
    {"nothing", 0, ~(UINT64)0, WHvMapGpaRangeFlagNone, NULL, 0, 1}, /* whatever is left */
};

static UINT32 ioapic_register;
static UINT8 vga_cell, printed;

static void must(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "machine_memory: cannot %s\n", what);
        exit(1);
    }
}

static struct range *find(UINT64 gpa)
{
    struct range *range = ranges;
    while (gpa < range->gpa || gpa - range->gpa >= range->size)
        range++;
    return range;
}

/* The devices, as far as this guest needs them. */
static UINT32 device(const struct range *range, UINT64 offset, int write, UINT32 value)
{
    if (range == &ranges[VGA] && write)
        vga_cell = (UINT8)value;
    else if (range == &ranges[IOAPIC] && write && offset == 0)
        ioapic_register = value;
    else if (range == &ranges[IOAPIC] && offset == 0x10 && ioapic_register == 1)
        return 0x00170011; /* version 11, 24 inputs */
    else if (range == &ranges[LOCAL_APIC] && offset == 0x30)
        return 0x00050014; /* its version */
    return 0xFFFFFFFF;     /* nobody answers */
}

static HRESULT CALLBACK on_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    struct range *range = find(access->GpaAddress);
    UINT64 offset = access->GpaAddress - range->gpa;
    UINT32 value;
    (void)context;
    if (range->host == NULL) {
        memcpy(&value, access->Data, sizeof value); /* this guest uses no wider ones */
        value = device(range, offset, access->Direction, value);
        memcpy(access->Data, &value, sizeof value);
    } else if (!access->Direction) {
        memcpy(access->Data, range->host + offset, access->AccessSize);
    } else if ((range->access & WHvMapGpaRangeFlagWrite) !=
               0) { /* a write to ROM is lost, as on a PC */
        memcpy(range->host + offset, access->Data, access->AccessSize);
    }
    return S_OK;
}

static HRESULT CALLBACK on_port(VOID *context, WHV_EMULATOR_IO_ACCESS_INFO *access)
{
    (void)context;
    printed = access->Direction && access->Port == 0xE9 ? (UINT8)access->Data : 0;
    return S_OK;
}

static HRESULT CALLBACK get_registers(VOID *partition, const WHV_REGISTER_NAME *names, UINT32 count,
                                      WHV_REGISTER_VALUE *values)
{
    return WHvGetVirtualProcessorRegisters(partition, 0, names, count, values);
}

static HRESULT CALLBACK set_registers(VOID *partition, const WHV_REGISTER_NAME *names, UINT32 count,
                                      const WHV_REGISTER_VALUE *values)
{
    return WHvSetVirtualProcessorRegisters(partition, 0, names, count, values);
}

static HRESULT CALLBACK translate(VOID *partition, WHV_GUEST_VIRTUAL_ADDRESS gva,
                                  WHV_TRANSLATE_GVA_FLAGS flags,
                                  WHV_TRANSLATE_GVA_RESULT_CODE *code,
                                  WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    WHV_TRANSLATE_GVA_RESULT result = {WHvTranslateGvaResultSuccess, 0};
    HRESULT status = WHvTranslateGva(partition, 0, gva, flags, &result, gpa);
    *code = result.ResultCode;
    return status;
}

static WHV_PARTITION_HANDLE create_machine(void)
{
    WHV_PARTITION_HANDLE partition;
    UINT32 processors = 1;
    must(SUCCEEDED(WHvCreatePartition(&partition)), "create a partition");
    must(SUCCEEDED(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount,
                                           &processors, sizeof processors)),
         "say how many processors");
    must(SUCCEEDED(WHvSetupPartition(partition)), "set up the partition");
    for (struct range *range = ranges; range < ranges + RANGES; range++) {
        if (range->access == WHvMapGpaRangeFlagNone)
            continue; /* a hole is where nothing is mapped */
        range->host = range == &ranges[BIOS_HIGH] ? ranges[BIOS].host : /* the same memory, twice */
                          VirtualAlloc(NULL, range->size, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
        must(range->host != NULL, "allocate memory");
        must(SUCCEEDED(
                 WHvMapGpaRange(partition, range->host, range->gpa, range->size, range->access)),
             "map");
    }
    memcpy(ranges[BIOS].host + 0xFFA0, rom_code, sizeof rom_code);
    memcpy(ranges[EXTENDED_RAM].host, image, sizeof image);
    must(SUCCEEDED(WHvCreateVirtualProcessor(partition, 0, 0)),
         "create a processor"); /* at the reset vector */
    return partition;
}

/* Runs to HLT; every other exit is finished by the emulator. */
static void run(WHV_PARTITION_HANDLE partition, WHV_EMULATOR_HANDLE emulator)
{
    WHV_RUN_VP_EXIT_CONTEXT at;
    for (;;) {
        WHV_EMULATOR_STATUS status = {.AsUINT32 = 0};
        must(SUCCEEDED(WHvRunVirtualProcessor(partition, 0, &at, sizeof at)), "run");
        if (at.ExitReason == WHvRunVpExitReasonX64IoPortAccess) {
            WHvEmulatorTryIoEmulation(emulator, partition, &at.VpContext, &at.IoPortAccess,
                                      &status);
            printf("%8x: port %x %s\n", (unsigned)at.VpContext.Rip, at.IoPortAccess.PortNumber,
                   at.IoPortAccess.AccessInfo.IsWrite ? "written" : "read");
        } else if (at.ExitReason == WHvRunVpExitReasonMemoryAccess) {
            struct range *range = find(at.MemoryAccess.Gpa);
            range->exits++;
            WHvEmulatorTryMmioEmulation(emulator, partition, &at.VpContext, &at.MemoryAccess,
                                        &status);
            printf("%8x: %s at %llx %s\n", (unsigned)at.VpContext.Rip, range->name,
                   (unsigned long long)at.MemoryAccess.Gpa,
                   at.MemoryAccess.AccessInfo.AccessType == WHvMemoryAccessWrite ? "written"
                                                                                 : "read");
        } else {
            must(at.ExitReason == WHvRunVpExitReasonX64Halt, "handle this exit");
            return;
        }
        must(status.EmulationSuccessful, "emulate");
    }
}

int main(void)
{
    static const UINT32 expected[] = {0x0A0B0C0D, 0x00FFC0EA, 0x00170011, 0x00050014, 0xFFFFFFFF};
    const WHV_EMULATOR_CALLBACKS callbacks = {
        sizeof callbacks, 0, on_port, on_memory, get_registers, set_registers, translate};
    WHV_EMULATOR_HANDLE emulator;
    WHV_PARTITION_HANDLE partition = create_machine();
    must(SUCCEEDED(WHvEmulatorCreateEmulator(&callbacks, &emulator)), "create an emulator");
    run(partition, emulator);
    must(memcmp(ranges[LOW_RAM].host + 0x9F000, expected, sizeof expected) == 0,
         "find what the guest computed");
    must(ranges[EXTENDED_RAM].host[0xFFFFC] == 1 && ranges[BIOS].host[0] == 0,
         "find RAM written and ROM not");
    must(vga_cell == 'W' && printed == 'K', "find what the devices got");
    for (struct range *range = ranges; range < ranges + RANGES; range++)
        must(range->exits == range->expected_exits, "find as many exits as there should be");
    must(SUCCEEDED(WHvEmulatorDestroyEmulator(emulator)), "destroy the emulator");
    must(SUCCEEDED(WHvDeletePartition(partition)), "delete the partition");
    return 0;
}
