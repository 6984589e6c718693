/* The exit benchmarks on OpenWHP: by hand, by completion, by the instruction emulator. */
#include <WinHvEmulation.h>
#include <WinHvPlatform.h>
#include <openwhp.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exits.h"

static WHV_PARTITION_HANDLE partition;
static UINT32 device_register;
static unsigned served;

static void must(HRESULT result, const char *what)
{
    if (SUCCEEDED(result))
        return;
    fprintf(stderr, "%s: 0x%08x %s\n", what, (unsigned)result, OwhpGetLastErrorText());
    exit(1);
}

static WHV_REGISTER_VALUE segment(UINT16 selector, UINT16 attributes)
{
    WHV_REGISTER_VALUE value = {{{0}}};

    value.Segment.Limit = 0xffffffff;
    value.Segment.Selector = selector;
    value.Segment.Attributes = attributes;
    return value;
}

static WHV_REGISTER_VALUE number(UINT64 n)
{
    WHV_REGISTER_VALUE value = {{{0}}};

    value.Reg64 = n;
    return value;
}

static void enter_long_mode(void)
{
    const WHV_REGISTER_NAME names[] = {
        WHvX64RegisterCr0, WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterEfer, WHvX64RegisterCs, WHvX64RegisterSs,
        WHvX64RegisterDs, WHvX64RegisterRip, WHvX64RegisterRflags, WHvX64RegisterRbx, WHvX64RegisterRdx, WHvX64RegisterRax};
    const WHV_REGISTER_VALUE values[] = {
        number(0x80050033), number(TABLES), number(0x20), number(0x500), segment(8, 0xa09b), segment(16, 0xc093),
        segment(16, 0xc093), number(CODE), number(2), number(DEVICE_GVA), number(PORT), number(0x12345678)};

    must(WHvSetVirtualProcessorRegisters(partition, 0, names, sizeof(names) / sizeof(names[0]), values), "registers");
}

static UINT32 engine = OwhpEngineSoft;

static uint8_t *begin(const struct bench *bench)
{
    WHV_PARTITION_PROPERTY property;
    uint8_t *memory = aligned_alloc(4096, MEMORY_SIZE);

    memset(&property, 0, sizeof(property));
    property.ProcessorCount = 1;
    if (!memory)
        exit(1);
    guest_fill(memory, bench->loop);
    must(WHvCreatePartition(&partition), "create");
    must(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &property, sizeof(property)), "property");
    must(WHvSetPartitionProperty(partition, OwhpPartitionPropertyCodeEngine, &engine, sizeof(engine)), "engine");
    must(WHvSetupPartition(partition), "set up");
    must(WHvMapGpaRange(partition, memory, 0, MEMORY_SIZE,
                        WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute), "map");
    must(WHvCreateVirtualProcessor(partition, 0, 0), "processor");
    enter_long_mode();
    served = 0;
    return memory;
}

static void end(uint8_t *memory)
{
    must(WHvDeletePartition(partition), "delete");
    free(memory);
}

static double measure(const struct bench *bench, unsigned count, void (*serve)(const WHV_RUN_VP_EXIT_CONTEXT *))
{
    uint8_t *memory = begin(bench);
    WHV_RUN_VP_EXIT_CONTEXT context;
    WHV_RUN_VP_EXIT_REASON reason = bench->loop == LOOP_HALT ? WHvRunVpExitReasonX64Halt
                                    : bench->loop >= LOOP_IN ? WHvRunVpExitReasonX64IoPortAccess
                                                             : WHvRunVpExitReasonMemoryAccess;
    double start = now_ns();

    for (unsigned i = 0; i < count; i++) {
        must(WHvRunVirtualProcessor(partition, 0, &context, sizeof(context)), "run");
        if (context.ExitReason != reason) {
            fprintf(stderr, "exit %x\n", (unsigned)context.ExitReason);
            exit(1);
        }
        serve(&context);
    }
    start = now_ns() - start;
    end(memory);
    return start;
}

/* ---- the exit alone: the same again and again ---- */

static void serve_nothing(const WHV_RUN_VP_EXIT_CONTEXT *context)
{
    (void)context;
}

static double run_alone(const struct bench *bench, unsigned count)
{
    return measure(bench, count, serve_nothing);
}

static void serve_by_asking(const WHV_RUN_VP_EXIT_CONTEXT *context)
{
    OWHP_MEMORY_ACCESS access;

    must(OwhpGetMemoryAccess(partition, 0, context, &access), "access");
}

static double run_asking(const struct bench *bench, unsigned count)
{
    return measure(bench, count, serve_by_asking);
}

/* ---- by hand: RIP is set past the instruction, whose length we know ---- */

static void serve_by_hand(const WHV_RUN_VP_EXIT_CONTEXT *context)
{
    const WHV_REGISTER_NAME names[] = {WHvX64RegisterRip, WHvX64RegisterRax};
    const WHV_REGISTER_VALUE values[] = {
        number(context->VpContext.Rip + (context->VpContext.InstructionLength ? context->VpContext.InstructionLength : 2)),
        number(++device_register)};

    bool is_store = context->ExitReason == WHvRunVpExitReasonMemoryAccess
                        ? context->MemoryAccess.AccessInfo.AccessType == WHvMemoryAccessWrite
                        : context->IoPortAccess.AccessInfo.IsWrite;

    must(WHvSetVirtualProcessorRegisters(partition, 0, names, is_store ? 1 : 2, values), "set");
}

static double run_by_hand(const struct bench *bench, unsigned count)
{
    return measure(bench, count, serve_by_hand);
}

/* ---- one-call completion ---- */

static void serve_by_completion(const WHV_RUN_VP_EXIT_CONTEXT *context)
{
    OWHP_MEMORY_ACCESS access;

    must(OwhpGetMemoryAccess(partition, 0, context, &access), "access");
    if (access.AccessType == WHvMemoryAccessRead)
        access.Data = ++device_register;
    else
        device_register = (UINT32)access.Data;
    must(OwhpCompleteMemoryAccess(partition, 0, &access), "complete");
}

static double run_by_completion(const struct bench *bench, unsigned count)
{
    return measure(bench, count, serve_by_completion);
}

/* ---- the emulator ---- */

static HRESULT CALLBACK on_io(VOID *context, WHV_EMULATOR_IO_ACCESS_INFO *io)
{
    (void)context;
    served++;
    if (io->Direction)
        device_register = io->Data;
    else
        io->Data = ++device_register;
    return S_OK;
}

static HRESULT CALLBACK on_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    (void)context;
    served++;
    if (access->Direction)
        memcpy(&device_register, access->Data, 4);
    else
        memcpy(access->Data, &device_register, 4);
    return S_OK;
}

static HRESULT CALLBACK on_get(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count, WHV_REGISTER_VALUE *values)
{
    (void)context;
    return WHvGetVirtualProcessorRegisters(partition, 0, names, count, values);
}

static HRESULT CALLBACK on_set(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count, const WHV_REGISTER_VALUE *values)
{
    (void)context;
    return WHvSetVirtualProcessorRegisters(partition, 0, names, count, values);
}

static HRESULT CALLBACK on_translate(VOID *context, WHV_GUEST_VIRTUAL_ADDRESS gva, WHV_TRANSLATE_GVA_FLAGS flags,
                                     WHV_TRANSLATE_GVA_RESULT_CODE *code, WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    WHV_TRANSLATE_GVA_RESULT result = {0};
    HRESULT hr = WHvTranslateGva(partition, 0, gva, flags, &result, gpa);

    (void)context;
    *code = result.ResultCode;
    return hr;
}

static WHV_EMULATOR_HANDLE emulator;

static void serve_by_emulator(const WHV_RUN_VP_EXIT_CONTEXT *context)
{
    WHV_EMULATOR_STATUS status;

    if (context->ExitReason == WHvRunVpExitReasonMemoryAccess)
        must(WHvEmulatorTryMmioEmulation(emulator, NULL, &context->VpContext, &context->MemoryAccess, &status), "emulate");
    else
        must(WHvEmulatorTryIoEmulation(emulator, NULL, &context->VpContext, &context->IoPortAccess, &status), "emulate");
    if (!status.EmulationSuccessful)
        must(E_FAIL, "emulation");
}

static double run_by_emulator(const struct bench *bench, unsigned count)
{
    const WHV_EMULATOR_CALLBACKS callbacks = {
        .Size = sizeof(callbacks), .WHvEmulatorIoPortCallback = on_io, .WHvEmulatorMemoryCallback = on_memory,
        .WHvEmulatorGetVirtualProcessorRegisters = on_get, .WHvEmulatorSetVirtualProcessorRegisters = on_set,
        .WHvEmulatorTranslateGvaPage = on_translate};
    double ns;

    must(WHvEmulatorCreateEmulator(&callbacks, &emulator), "emulator");
    ns = measure(bench, count, serve_by_emulator);
    must(WHvEmulatorDestroyEmulator(emulator), "emulator");
    return ns;
}

const struct bench openwhp_benches[] = {
    {"openwhp load, exit alone", LOOP_LOAD, run_alone},
    {"openwhp load, exit and OwhpGetMemoryAccess", LOOP_LOAD, run_asking},
    {"openwhp out, exit alone", LOOP_OUT, run_alone},
    {"openwhp load, by hand", LOOP_LOAD, run_by_hand},
    {"openwhp store, by hand", LOOP_STORE, run_by_hand},
    {"openwhp load, completion", LOOP_LOAD, run_by_completion},
    {"openwhp store, completion", LOOP_STORE, run_by_completion},
    {"openwhp load, emulator", LOOP_LOAD, run_by_emulator},
    {"openwhp store, emulator", LOOP_STORE, run_by_emulator},
    {"openwhp in, by hand", LOOP_IN, run_by_hand},
    {"openwhp out, by hand", LOOP_OUT, run_by_hand},
    {"openwhp in, emulator", LOOP_IN, run_by_emulator},
    {"openwhp out, emulator", LOOP_OUT, run_by_emulator},
    {0},
};

/* ---- the kvm engine ---- */

static void serve_halt(const WHV_RUN_VP_EXIT_CONTEXT *context)
{
    (void)context;
}

static double run_on_kvm(const struct bench *bench, unsigned count)
{
    static void (*const serve[LOOP_COUNT])(const WHV_RUN_VP_EXIT_CONTEXT *) = {
        [LOOP_LOAD] = serve_by_completion, [LOOP_STORE] = serve_by_completion, [LOOP_IN] = serve_by_hand,
        [LOOP_OUT] = serve_by_hand, [LOOP_HALT] = serve_halt};

    engine = OwhpEngineKvm;
    double ns = measure(bench, count, serve[bench->loop]);
    engine = OwhpEngineSoft;
    return ns;
}

static double run_on_kvm_by_hand(const struct bench *bench, unsigned count)
{
    engine = OwhpEngineKvm;
    double ns = measure(bench, count, serve_by_hand);
    engine = OwhpEngineSoft;
    return ns;
}

const struct bench openwhp_kvm_benches[] = {
    {"load, completion", LOOP_LOAD, run_on_kvm},  {"load, by hand", LOOP_LOAD, run_on_kvm_by_hand},
    {"store, completion", LOOP_STORE, run_on_kvm}, {"store, by hand", LOOP_STORE, run_on_kvm_by_hand},
    {"in, by hand", LOOP_IN, run_on_kvm},         {"out, by hand", LOOP_OUT, run_on_kvm},
    {"hlt", LOOP_HALT, run_on_kvm},               {0},
};
