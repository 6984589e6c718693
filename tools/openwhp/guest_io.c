/* Port and memory accesses of the guest; see guest_io.h. */
#include "guest_io.h"

#include <openwhp.h>

#include <stdio.h>
#include <string.h>

#include "problem.h"

enum { DIRECTION_WRITE = 1 };

/*
 * The emulator asks for every memory operand, also plain RAM (a string move between RAM and a device): RAM
 * first, then ROM, then devices. Stores to ROM are dropped, as a flash chip's bus would.
 */
static void memory_read(struct machine *machine, uint64_t gpa, unsigned size, uint8_t *data)
{
    if (guest_memory_read(&machine->memory, gpa, data, size))
        return;
    const uint8_t *rom = guest_map_rom_at(&machine->map, gpa, size);
    if (rom != NULL) {
        memcpy(data, rom, size);
        return;
    }
    for (unsigned done = 0; done < size;) {
        /* Buses know powers of two; an operand cut by a page border may be anything. */
        unsigned left = size - done, part = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        uint64_t value = bus_read(&machine->mmio, gpa + done, part);
        memcpy(data + done, &value, part);
        done += part;
    }
}

static void memory_write(struct machine *machine, uint64_t gpa, unsigned size, const uint8_t *data)
{
    if (guest_memory_write(&machine->memory, gpa, data, size))
        return;
    if (guest_map_rom_at(&machine->map, gpa, size) != NULL)
        return;
    for (unsigned done = 0; done < size;) {
        unsigned left = size - done, part = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        uint64_t value = 0;
        memcpy(&value, data + done, part);
        bus_write(&machine->mmio, gpa + done, part, value);
        done += part;
    }
}

static void transfer(struct machine *machine, uint64_t gpa, unsigned size, uint8_t *data, bool is_write)
{
    pthread_mutex_lock(&machine->lock);
    if (is_write)
        memory_write(machine, gpa, size, data);
    else
        memory_read(machine, gpa, size, data);
    pthread_mutex_unlock(&machine->lock);
}

static HRESULT CALLBACK on_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    struct processor *processor = context;
    if (access->AccessSize > sizeof access->Data)
        return E_INVALIDARG;
    transfer(processor->machine, access->GpaAddress, access->AccessSize, access->Data, access->Direction == DIRECTION_WRITE);
    return S_OK;
}

static uint32_t port_read(struct machine *machine, uint16_t port, unsigned size)
{
    pthread_mutex_lock(&machine->lock);
    uint64_t value = bus_read(&machine->ports, port, size);
    pthread_mutex_unlock(&machine->lock);
    return (uint32_t)value;
}

static void port_write(struct machine *machine, uint16_t port, unsigned size, uint32_t value)
{
    pthread_mutex_lock(&machine->lock);
    bus_write(&machine->ports, port, size, value);
    pthread_mutex_unlock(&machine->lock);
}

static HRESULT CALLBACK on_port(VOID *context, WHV_EMULATOR_IO_ACCESS_INFO *access)
{
    struct processor *processor = context;
    unsigned size = access->AccessSize;
    if (size != 1 && size != 2 && size != 4)
        return E_INVALIDARG;
    if (access->Direction == DIRECTION_WRITE)
        port_write(processor->machine, access->Port, size, access->Data);
    else
        access->Data = port_read(processor->machine, access->Port, size);
    return S_OK;
}

static HRESULT CALLBACK on_get_registers(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count,
                                         WHV_REGISTER_VALUE *values)
{
    struct processor *processor = context;
    return WHvGetVirtualProcessorRegisters(processor->machine->partition, processor->index, names, count,
                                           values);
}

static HRESULT CALLBACK on_set_registers(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count,
                                         const WHV_REGISTER_VALUE *values)
{
    struct processor *processor = context;
    return WHvSetVirtualProcessorRegisters(processor->machine->partition, processor->index, names, count,
                                           values);
}

static HRESULT CALLBACK on_translate(VOID *context, WHV_GUEST_VIRTUAL_ADDRESS gva,
                                     WHV_TRANSLATE_GVA_FLAGS flags, WHV_TRANSLATE_GVA_RESULT_CODE *code,
                                     WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    struct processor *processor = context;
    WHV_TRANSLATE_GVA_RESULT result = {0};
    HRESULT status =
        WHvTranslateGva(processor->machine->partition, processor->index, gva, flags, &result, gpa);
    *code = result.ResultCode;
    *gpa &= ~(uint64_t)(PAGE_BYTES - 1); /* the emulator wants the page, the translation keeps the offset */
    return status;
}

int guest_io_create(struct processor *processor)
{
    const WHV_EMULATOR_CALLBACKS callbacks = {
        .Size = sizeof callbacks,
        .WHvEmulatorIoPortCallback = on_port,
        .WHvEmulatorMemoryCallback = on_memory,
        .WHvEmulatorGetVirtualProcessorRegisters = on_get_registers,
        .WHvEmulatorSetVirtualProcessorRegisters = on_set_registers,
        .WHvEmulatorTranslateGvaPage = on_translate,
    };
    if (FAILED(WHvEmulatorCreateEmulator(&callbacks, &processor->emulator))) {
        processor->emulator = NULL;
        return problem("cannot create an instruction emulator (%s); give --cpus a smaller number",
                       OwhpGetLastErrorText());
    }
    return 0;
}

void guest_io_destroy(struct processor *processor)
{
    if (processor->emulator != NULL)
        WHvEmulatorDestroyEmulator(processor->emulator);
    processor->emulator = NULL;
}

static void hex_bytes(char *text, size_t size, const UINT8 *bytes, unsigned count)
{
    size_t used = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < count && i < 16 && used + 4 < size; i++)
        used += (size_t)snprintf(text + used, size - used, " %02x", bytes[i]);
}

static void crash(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit, const char *what,
                  const UINT8 *bytes, unsigned count, HRESULT result, UINT32 status)
{
    char text[64];
    hex_bytes(text, sizeof text, bytes, count);
    power_fail(&processor->machine->power, STOP_GUEST_CRASH,
               "processor %u: cannot emulate the %s at RIP 0x%llx (bytes%s; status 0x%x, result 0x%08x)",
               processor->index, what, (unsigned long long)exit->VpContext.Rip, text[0] != '\0' ? text : " unknown",
               status, (unsigned)result);
}

/* IN leaves the upper half of RAX alone but for the 32-bit form, which clears it (SDM 2A, IN). */
static uint64_t merge_rax(uint64_t rax, uint32_t value, unsigned size)
{
    if (size == 1)
        return (rax & ~UINT64_C(0xff)) | (value & 0xff);
    if (size == 2)
        return (rax & ~UINT64_C(0xffff)) | (value & 0xffff);
    return value;
}

/* IN and OUT of one value: everything needed is in the exit, so no emulator has to look. */
static bool simple_port(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_X64_IO_PORT_ACCESS_CONTEXT *access = &exit->IoPortAccess;
    unsigned size = access->AccessInfo.AccessSize, length = exit->VpContext.InstructionLength;
    if (access->AccessInfo.StringOp || length == 0 || (size != 1 && size != 2 && size != 4))
        return false;
    WHV_REGISTER_NAME names[2] = {WHvX64RegisterRip, WHvX64RegisterRax};
    WHV_REGISTER_VALUE values[2] = {{.Reg64 = exit->VpContext.Rip + length}, {.Reg64 = access->Rax}};
    UINT32 count = 1;
    if (access->AccessInfo.IsWrite) {
        port_write(processor->machine, access->PortNumber, size, (uint32_t)access->Rax);
    } else {
        values[1].Reg64 = merge_rax(access->Rax, port_read(processor->machine, access->PortNumber, size), size);
        count = 2;
    }
    /* Outside 64-bit mode the instruction pointer has 32 bits (16 in real mode). */
    if (!exit->VpContext.ExecutionState.EferLma || !exit->VpContext.Cs.Long)
        values[0].Reg64 &= exit->VpContext.Cs.Default ? UINT32_MAX : UINT16_MAX;
    return SUCCEEDED(on_set_registers(processor, names, count, values));
}

void guest_io_port(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    WHV_EMULATOR_STATUS status = {.AsUINT32 = 0};
    if (simple_port(processor, exit))
        return;
    HRESULT result = WHvEmulatorTryIoEmulation(processor->emulator, processor, &exit->VpContext,
                                               &exit->IoPortAccess, &status);
    if (FAILED(result) || !status.EmulationSuccessful)
        crash(processor, exit, "port access", exit->IoPortAccess.InstructionBytes,
              exit->IoPortAccess.InstructionByteCount, result, status.AsUINT32);
}

/* A prefix F2 or F3: a repeated string instruction (or one of SSE), whose elements the emulator does in one call. */
static bool has_repeat_prefix(const WHV_MEMORY_ACCESS_CONTEXT *access)
{
    static const uint8_t prefixes[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0};
    for (unsigned i = 0; i < access->InstructionByteCount && i < sizeof access->InstructionBytes; i++) {
        uint8_t byte = access->InstructionBytes[i];
        if (byte == 0xf2 || byte == 0xf3)
            return true;
        if (memchr(prefixes, byte, sizeof prefixes) == NULL)
            return false;
    }
    return false;
}

/* The accesses of the instruction one after the other, mostly one. False: none was made. */
static bool complete_accesses(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct machine *machine = processor->machine;
    OWHP_MEMORY_ACCESS access;
    HRESULT result;
    if (has_repeat_prefix(&exit->MemoryAccess) ||
        FAILED(OwhpGetMemoryAccess(machine->partition, processor->index, exit, &access)))
        return false;
    do {
        uint8_t data[8];
        memcpy(data, &access.Data, sizeof data);
        transfer(machine, access.Gpa, access.SizeInBytes, data, access.AccessType == WHvMemoryAccessWrite);
        memcpy(&access.Data, data, sizeof data);
        result = OwhpCompleteMemoryAccess(machine->partition, processor->index, &access);
    } while (result == S_FALSE);
    if (FAILED(result))
        crash(processor, exit, "memory access", exit->MemoryAccess.InstructionBytes, exit->MemoryAccess.InstructionByteCount,
              result, 0);
    return true;
}

void guest_io_memory(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_MEMORY_ACCESS_CONTEXT *access = &exit->MemoryAccess;
    WHV_EMULATOR_STATUS status = {.AsUINT32 = 0};
    if (access->AccessInfo.AccessType == WHvMemoryAccessExecute) {
        power_fail(&processor->machine->power, STOP_GUEST_CRASH,
                   "processor %u: runs into 0x%llx, where there is no memory to execute (RIP 0x%llx)",
                   processor->index, (unsigned long long)access->Gpa,
                   (unsigned long long)exit->VpContext.Rip);
        return;
    }
    if (complete_accesses(processor, exit))
        return;
    HRESULT result =
        WHvEmulatorTryMmioEmulation(processor->emulator, processor, &exit->VpContext, access, &status);
    if (FAILED(result) || !status.EmulationSuccessful)
        crash(processor, exit, "memory access", access->InstructionBytes, access->InstructionByteCount, result,
              status.AsUINT32);
}
