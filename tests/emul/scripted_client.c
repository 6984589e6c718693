#include "scripted_client.h"

#include <signal.h>
#include <stdio.h>

struct client client;

/* ---- the script ---- */

WHV_REGISTER_VALUE *register_at(UINT32 name)
{
    for (unsigned i = 0; i < client.register_count; i++)
        if (client.registers[i].name == name)
            return &client.registers[i].value;
    assert_true(client.register_count < REGISTERS);
    client.registers[client.register_count].name = name;
    return &client.registers[client.register_count++].value;
}

void set64(UINT32 name, UINT64 value)
{
    register_at(name)->Reg64 = value;
}

UINT64 get64(UINT32 name)
{
    return register_at(name)->Reg64;
}

static void note(const char *format, unsigned long long a, unsigned long long b, unsigned long long c)
{
    size_t used = strlen(client.transcript);

    snprintf(client.transcript + used, sizeof(client.transcript) - used, format, a, b, c);
}

static bool fails(char which)
{
    return ++client.calls[(int)which] == client.failing_at && client.failing == which;
}

static bool is_extension(UINT32 name)
{
    return name >= (UINT32)OwhpX64RegisterYmmHigh(0) && name <= (UINT32)OwhpX64RegisterPkru;
}

/* The registers that a client may be asked for (F 8.3), and the events that it is told. */
static void check_name(UINT32 name)
{
    const bool known = name <= WHvX64RegisterGdtr || (name >= WHvX64RegisterCr0 && name <= WHvX64RegisterCr4) ||
                       (name >= WHvX64RegisterXmm0 && name <= WHvX64RegisterXmmControlStatus) || name == WHvX64RegisterEfer ||
                       name == WHvX64RegisterXCr0 || name == WHvX64RegisterXss || is_extension(name) || name == WHvRegisterInterruptState || name == WHvRegisterPendingEvent;

    if (!known)
        print_error("register %#x is asked for\n", name);
    assert_true(known);
}

static HRESULT CALLBACK on_get(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count, WHV_REGISTER_VALUE *values)
{
    assert_ptr_equal(context, CONTEXT);
    assert_int_equal((uintptr_t)values % _Alignof(WHV_REGISTER_VALUE), 0);
    if (fails(GET) || (is_extension((UINT32)names[0]) && !client.knows_extensions))
        return E_FAIL;
    for (UINT32 i = 0; i < count; i++)
        values[i] = *register_at((UINT32)names[i]), check_name((UINT32)names[i]);
    note("get ", 0, 0, 0);
    return S_OK;
}

static HRESULT CALLBACK on_set(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count, const WHV_REGISTER_VALUE *values)
{
    assert_ptr_equal(context, CONTEXT);
    if (fails(SET))
        return E_FAIL;
    client.set_count = count;
    for (UINT32 i = 0; i < count; i++) {
        client.set_names[i] = (UINT32)names[i];
        *register_at((UINT32)names[i]) = values[i];
    }
    note("set ", 0, 0, 0);
    return S_OK;
}

static HRESULT CALLBACK on_translate(VOID *context, WHV_GUEST_VIRTUAL_ADDRESS gva, WHV_TRANSLATE_GVA_FLAGS flags,
                                     WHV_TRANSLATE_GVA_RESULT_CODE *code, WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    assert_ptr_equal(context, CONTEXT);
    assert_int_equal(gva & 0xfff, 0);
    if (fails(TRANSLATE))
        return E_FAIL;
    note("t%llx/%llx ", gva, (UINT32)flags, 0);
    *code = gva == client.bad_page && client.bad_code ? (WHV_TRANSLATE_GVA_RESULT_CODE)client.bad_code : WHvTranslateGvaResultSuccess;
    *gpa = gva + SHIFT + (client.misaligned_page && gva == client.misaligned_page ? 8 : 0);
    return S_OK;
}

HRESULT CALLBACK on_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    UINT64 data = 0;

    assert_ptr_equal(context, CONTEXT);
    assert_in_range(access->AccessSize, 1, 8);
    assert_true((access->GpaAddress & 0xfff) + access->AccessSize <= 0x1000);
    if (fails(MEMORY))
        return E_FAIL;
    if (access->Direction) {
        memcpy(&data, access->Data, access->AccessSize);
        note("w%llx/%llu=%llx ", access->GpaAddress, access->AccessSize, data);
        return S_OK;
    }
    note("r%llx/%llu ", access->GpaAddress, access->AccessSize, 0);
    for (unsigned i = 0; i < access->AccessSize; i++) {
        UINT64 at = access->GpaAddress + i;
        access->Data[i] = at - client.code_gpa < sizeof(client.code) ? client.code[at - client.code_gpa] : (UINT8)(at + 1);
    }
    return S_OK;
}

static HRESULT CALLBACK on_io(VOID *context, WHV_EMULATOR_IO_ACCESS_INFO *io)
{
    assert_ptr_equal(context, CONTEXT);
    if (fails(IO))
        return E_FAIL;
    if (io->Direction) {
        note("o%llx/%llu=%llx ", io->Port, io->AccessSize, io->Data);
    } else {
        note("i%llx/%llu ", io->Port, io->AccessSize, 0);
        io->Data = 0x99887766;
    }
    return S_OK;
}

const WHV_EMULATOR_CALLBACKS callbacks = {
    .Size = sizeof(callbacks), .WHvEmulatorIoPortCallback = on_io, .WHvEmulatorMemoryCallback = on_memory,
    .WHvEmulatorGetVirtualProcessorRegisters = on_get, .WHvEmulatorSetVirtualProcessorRegisters = on_set,
    .WHvEmulatorTranslateGvaPage = on_translate};

/* ---- modes ---- */

void set_segment(UINT32 name, UINT64 base, UINT32 limit, UINT16 selector, UINT16 attributes)
{
    register_at(name)->Segment = (WHV_X64_SEGMENT_REGISTER){.Base = base, .Limit = limit, .Selector = selector, .Attributes = attributes};
}

void enter(enum mode mode)
{
    static const struct {
        UINT64 cr0, cr4, efer, rflags;
        UINT32 limit;
        UINT16 code, data;
    } modes[MODE_COUNT] = {
        [MODE_REAL] = {0x10, 0, 0, 2, 0xffff, 0x9b, 0x93},
        [MODE_V86] = {0x80000011, 0, 0, 0x20002, 0xffff, 0xfb, 0xf3},
        [MODE_PROTECTED_16] = {0x11, 0, 0, 2, 0xffff, 0x9b, 0x93},
        [MODE_PROTECTED_32] = {0x80000011, 0, 0, 2, 0xffffffff, 0xc09b, 0xc093},
        [MODE_COMPATIBILITY] = {0x80000011, 0x620, 0xd00, 2, 0xffffffff, 0xc0fb, 0xc0f3},
        [MODE_LONG] = {0x80000011, 0x620, 0xd00, 2, 0xffffffff, 0xa09b, 0xc093},
    };

    memset(&client, 0, sizeof(client));
    client.knows_extensions = true;
    set64(WHvX64RegisterCr0, modes[mode].cr0);
    set64(WHvX64RegisterCr4, modes[mode].cr4);
    set64(WHvX64RegisterEfer, modes[mode].efer);
    set64(WHvX64RegisterRflags, modes[mode].rflags);
    for (UINT32 s = WHvX64RegisterEs; s <= WHvX64RegisterGs; s++)
        set_segment(s, 0, modes[mode].limit, 0, modes[mode].data);
    set_segment(WHvX64RegisterCs, 0, modes[mode].limit, 8, modes[mode].code);
    set64(WHvX64RegisterRip, 0x2000);
    set64(WHvX64RegisterRbx, 0x5000);
    set64(WHvX64RegisterRsi, 0x6000);
    set64(WHvX64RegisterRdi, 0x7000);
    set64(WHvX64RegisterRsp, 0x8000);
    set64(WHvX64RegisterRdx, 0x60);
}

/* ---- one call ---- */

UINT32 emulate(const struct call *call, bool is_io)
{
    WHV_EMULATOR_HANDLE emulator;
    WHV_EMULATOR_STATUS status = {.AsUINT32 = 0xffffffff};

    assert_ok(WHvEmulatorCreateEmulator(&callbacks, &emulator));
    if (is_io)
        assert_ok(WHvEmulatorTryIoEmulation(emulator, CONTEXT, &call->vp, &call->io, &status));
    else
        assert_ok(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, &call->vp, &call->memory, &status));
    assert_ok(WHvEmulatorDestroyEmulator(emulator));
    return status.AsUINT32;
}

UINT32 mmio(const UINT8 *code, size_t size)
{
    struct call call = {.memory.InstructionByteCount = (UINT8)size};

    memcpy(call.memory.InstructionBytes, code, size);
    return emulate(&call, false);
}

UINT32 port(const UINT8 *code, size_t size)
{
    struct call call = {.vp.InstructionLength = (UINT8)(size & 15), .io.InstructionByteCount = (UINT8)size};

    memcpy(call.io.InstructionBytes, code, size);
    return emulate(&call, true);
}

/* ---- programs of cases ---- */

int before(void **state)
{
    (void)state;
    return 0;
}

int after(void **state)
{
    (void)state;
    return 0;
}

/* Both libraries catch faults on the caller's memory; cmocka puts its own handlers in their place before each case. */
static struct sigaction guard[2];

void install_handlers(void)
{
    WHV_EMULATOR_HANDLE emulator;
    char reason;

    (void)OwhpQueryEngine(OwhpEngineSoft, &reason, 1);
    (void)WHvEmulatorCreateEmulator(WILD, &emulator);
    sigaction(SIGSEGV, NULL, &guard[0]);
    sigaction(SIGBUS, NULL, &guard[1]);
}

void run_guarded(void **state)
{
    void (*function)(void **) = (void (*)(void **))*state;

    sigaction(SIGSEGV, &guard[0], NULL);
    sigaction(SIGBUS, &guard[1], NULL);
    function(state);
}
