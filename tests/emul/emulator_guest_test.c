/*
 * The emulator in a partition, its callbacks handing everything on: instructions with upper halves of YMM registers and PKRU, which
 * have names of our own (openwhp.h). An instruction on a device ends as it does on RAM.
 */
#include "conform/differences.h"
#include "conform/guest.h"

#include <WinHvEmulation.h>
#include <cpuid.h>
#include <string.h>

enum { DEVICE = 0x400000, DEVICE_SIZE = 0x1000, DATA = 0x40000 };

#define R(name) WHvX64Register##name

static struct guest guest;
static UINT8 device[DEVICE_SIZE];

/* ---- what the processor has ---- */

static bool has_avx(void)
{
    WHV_PROCESSOR_XSAVE_FEATURES features;

    assert_ok(WHvGetCapability(WHvCapabilityCodeProcessorXsaveFeatures, &features, sizeof(features), NULL));
    return features.AvxSupport;
}

static void require_avx(void)
{
    if (has_avx() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        return;
    print_message("SKIPPED: this processor has no AVX2, FMA and F16C\n");
    skip();
}

/* ---- the client ---- */

static HRESULT CALLBACK on_get(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count, WHV_REGISTER_VALUE *values)
{
    (void)context;
    return WHvGetVirtualProcessorRegisters(guest.partition, 0, names, count, values);
}

static HRESULT CALLBACK on_set(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count, const WHV_REGISTER_VALUE *values)
{
    (void)context;
    return WHvSetVirtualProcessorRegisters(guest.partition, 0, names, count, values);
}

static HRESULT CALLBACK on_translate(VOID *context, WHV_GUEST_VIRTUAL_ADDRESS gva, WHV_TRANSLATE_GVA_FLAGS flags,
                                     WHV_TRANSLATE_GVA_RESULT_CODE *code, WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    WHV_TRANSLATE_GVA_RESULT result;
    HRESULT hr = WHvTranslateGva(guest.partition, 0, gva, flags, &result, gpa);

    (void)context;
    *code = result.ResultCode;
    return hr;
}

static HRESULT CALLBACK on_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    UINT8 *at = access->GpaAddress >= DEVICE ? device + (access->GpaAddress - DEVICE) : guest.ram + access->GpaAddress;

    (void)context;
    if (access->GpaAddress >= DEVICE ? access->GpaAddress + access->AccessSize > DEVICE + DEVICE_SIZE : access->GpaAddress >= RAM_SIZE)
        return E_FAIL;
    if (access->Direction)
        memcpy(at, access->Data, access->AccessSize);
    else
        memcpy(access->Data, at, access->AccessSize);
    return S_OK;
}

static HRESULT CALLBACK on_io(VOID *context, WHV_EMULATOR_IO_ACCESS_INFO *io)
{
    (void)context;
    (void)io;
    return E_FAIL;
}

/* The instruction of the exit. */
static void emulate(WHV_EMULATOR_HANDLE emulator)
{
    WHV_EMULATOR_STATUS status;

    assert_field(&guest, ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_ok(WHvEmulatorTryMmioEmulation(emulator, NULL, &guest.exit.VpContext, &guest.exit.MemoryAccess, &status));
    if (status.AsUINT32 != 1)
        print_error("status %#x: %s\n", status.AsUINT32, OwhpGetLastErrorText());
    assert_int_equal(status.AsUINT32, 1);
}

static void run(void)
{
    assert_ok(WHvRunVirtualProcessor(guest.partition, 0, &guest.exit, sizeof(guest.exit)));
}

/* ---- the names ---- */

/* YM-1: what is set the guest stores, what the guest loads is read; XMM registers are the lower halves. */
static void upper_halves(void **state)
{
    /* vmovups [40000h], ymm9; vmovups ymm3, [40000h]; hlt */
    static const UINT8 code[] = {0xc5, 0x7c, 0x11, 0x0c, 0x25, 0, 0, 4, 0, 0xc5, 0xfc, 0x10, 0x1c, 0x25, 0, 0, 4, 0, 0xf4};
    WHV_REGISTER_NAME names[33];
    WHV_REGISTER_VALUE values[33], read[33];

    (void)state;
    require_avx();
    guest_begin(&guest, NULL);
    guest_long_mode(&guest, 0);
    guest_set(&guest, R(Cr4), 0x40620);
    guest_set(&guest, R(XCr0), 7);
    for (unsigned i = 0; i < 32; i++) {
        names[i] = (WHV_REGISTER_NAME)((i < 16 ? R(Xmm0) : OwhpX64RegisterYmmHigh(0)) + i % 16);
        values[i] = (WHV_REGISTER_VALUE){.Reg128 = {.Low64 = 0x100 + i, .High64 = 0x200 + i}};
    }
    names[32] = R(Rbx);
    values[32] = (WHV_REGISTER_VALUE){.Reg64 = 5};
    assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, 0, names, 33, values));
    assert_ok(WHvGetVirtualProcessorRegisters(guest.partition, 0, names, 33, read));
    assert_memory_equal(read, values, sizeof(values));
    guest_load(&guest, CODE, code, sizeof(code));
    run_to(&guest, WHvRunVpExitReasonX64Halt);
    const UINT64 expected[] = {0x109, 0x209, 0x119, 0x219};
    assert_memory_equal(guest.ram + DATA, expected, 32);
    assert_int_equal(guest_get_value(&guest, OwhpX64RegisterYmmHigh(3)).Reg128.Low64, 0x119);
    assert_int_equal(guest_get_value(&guest, OwhpX64RegisterYmmHigh(3)).Reg128.High64, 0x219);
    guest_end(&guest);
}

/* YM-2: PKRU, 32 bits; a feature that is absent is refused as the API's are, and what is behind the names is no name. */
static void keys_and_no_names(void **state)
{
    static const WHV_REGISTER_NAME pkru = OwhpX64RegisterPkru, none[] = {(WHV_REGISTER_NAME)0x4f570fff, (WHV_REGISTER_NAME)0x4f571011};
    WHV_REGISTER_VALUE value = {.Reg64 = 0x89abcdec}, read;

    (void)state;
    guest_begin(&guest, NULL);
    HRESULT hr = WHvSetVirtualProcessorRegisters(guest.partition, 0, &pkru, 1, &value);
    if (hr == S_OK) {
        assert_int_equal(guest_get(&guest, pkru), 0x89abcdec);
        value.Reg64 = 1ull << 32;
        assert_refused(WHvSetVirtualProcessorRegisters(guest.partition, 0, &pkru, 1, &value), ERROR_HV_INVALID_REGISTER_VALUE);
        assert_int_equal(guest_get(&guest, pkru), 0x89abcdec);
    } else {
        assert_hr(hr, ERROR_HV_INVALID_PARAMETER);
        assert_refused(WHvGetVirtualProcessorRegisters(guest.partition, 0, &pkru, 1, &read), ERROR_HV_INVALID_PARAMETER);
    }
    for (unsigned i = 0; i < 2; i++) {
        assert_refused(WHvGetVirtualProcessorRegisters(guest.partition, 0, &none[i], 1, &read), WHV_E_INVALID_VP_REGISTER_NAME);
        assert_refused(WHvSetVirtualProcessorRegisters(guest.partition, 0, &none[i], 1, &value), WHV_E_INVALID_VP_REGISTER_NAME);
    }
    guest_end(&guest);
}

/* ---- instructions ---- */

/* [rbx] is the operand; ymm1 is a mask or a number, ymm7 indices; eax is what XSAVE and XRSTOR are asked for. */
static const struct {
    const char *text;
    UINT8 code[8];
} rows[] = {
    {"vmovups ymm2, [rbx]", {0xc5, 0xfc, 0x10, 0x13}},
    {"vmovups xmm2, [rbx]", {0xc5, 0xf8, 0x10, 0x13}},
    {"vmovups [rbx], ymm1", {0xc5, 0xfc, 0x11, 0x0b}},
    {"vaddps ymm2, ymm1, [rbx]", {0xc5, 0xf4, 0x58, 0x13}},
    {"vpaddb xmm2, xmm1, [rbx]", {0xc5, 0xf1, 0xfc, 0x13}},
    {"vbroadcastsd ymm2, [rbx]", {0xc4, 0xe2, 0x7d, 0x19, 0x13}},
    {"vinserti128 ymm2, ymm1, [rbx], 1", {0xc4, 0xe3, 0x75, 0x38, 0x13, 1}},
    {"vextracti128 [rbx], ymm1, 1", {0xc4, 0xe3, 0x7d, 0x39, 0x0b, 1}},
    {"vmaskmovps ymm2, ymm1, [rbx]", {0xc4, 0xe2, 0x75, 0x2c, 0x13}},
    {"vmaskmovps [rbx], ymm1, ymm7", {0xc4, 0xe2, 0x75, 0x2e, 0x3b}},
    {"vpgatherdd ymm2, [rbx + 4 * ymm7], ymm1", {0xc4, 0xe2, 0x75, 0x90, 0x14, 0xbb}},
    {"vgatherqpd xmm2, [rbx + xmm7], xmm1", {0xc4, 0xe2, 0xf1, 0x93, 0x14, 0x3b}},
    {"vfmadd231ps ymm2, ymm1, [rbx]", {0xc4, 0xe2, 0x75, 0xb8, 0x13}},
    {"vcvtph2ps ymm2, [rbx]", {0xc4, 0xe2, 0x7d, 0x13, 0x13}},
    {"vcvtps2ph [rbx], ymm1, 0", {0xc4, 0xe3, 0x7d, 0x1d, 0x0b, 0}},
    {"vtestps ymm1, [rbx]", {0xc4, 0xe2, 0x7d, 0x0e, 0x0b}},
    {"xsave [rbx]", {0x0f, 0xae, 0x23}},
    {"xrstor [rbx]", {0x0f, 0xae, 0x2b}},
    {"xsavec [rbx]", {0x0f, 0xc7, 0x23}},
    {"xsaves [rbx]", {0x0f, 0xc7, 0x2b}},
};

enum { STATE = 2 + 32 };

struct ending {
    WHV_REGISTER_VALUE registers[STATE];
    UINT8 memory[DEVICE_SIZE];
};

static void fill_operand(UINT8 *at)
{
    const UINT32 mxcsr = 0x1fa0;
    const UINT64 header[8] = {7};

    for (unsigned i = 0; i < DEVICE_SIZE; i++)
        at[i] = (UINT8)(i * 5 + (i >> 6));
    memcpy(at + 24, &mxcsr, 4); /* of an XSAVE area, as good as any other bytes */
    memcpy(at + 512, header, sizeof(header));
}

static void set_half(WHV_REGISTER_NAME name, UINT64 low, UINT64 high)
{
    const WHV_REGISTER_VALUE value = {.Reg128 = {.Low64 = low, .High64 = high}};

    assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, 0, &name, 1, &value));
}

static void prepare(const UINT8 *code, UINT64 operand)
{
    static const UINT8 hlt[8] = {0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4};

    for (unsigned i = 0; i < 32; i++)
        set_half((WHV_REGISTER_NAME)((i < 16 ? R(Xmm0) : OwhpX64RegisterYmmHigh(0)) + i % 16), 0x0101010101010101 * i, 0x3f80000040000000 + i);
    set_half(R(Xmm1), 0x80000000ffffffff, 0x8000000000000000);
    set_half(OwhpX64RegisterYmmHigh(1), 0x8000000080000000, 0x123456789);
    set_half(R(Xmm7), 3, 0x700000005);
    set_half(OwhpX64RegisterYmmHigh(7), 0x2000000001, 0xffffffff00000009);
    guest_load(&guest, CODE, code, 8);
    for (unsigned i = 8; i > 0 && !code[i - 1]; i--)
        guest_load(&guest, CODE + i - 1, hlt, 8);
    fill_operand(guest.ram + DATA);
    fill_operand(device);
    guest_set(&guest, R(Rip), CODE);
    guest_set(&guest, R(Rflags), 2);
    guest_set(&guest, R(Rbx), operand);
    guest_set(&guest, R(Rax), 7);
    guest_set(&guest, R(Rdx), 0);
}

static void take(struct ending *e, const UINT8 *operand)
{
    WHV_REGISTER_NAME names[STATE] = {R(Rip), R(Rflags)};

    for (unsigned i = 0; i < 32; i++)
        names[2 + i] = (WHV_REGISTER_NAME)((i < 16 ? R(Xmm0) : OwhpX64RegisterYmmHigh(0)) + i % 16);
    memset(e, 0, sizeof(*e));
    assert_ok(WHvGetVirtualProcessorRegisters(guest.partition, 0, names, STATE, e->registers));
    memcpy(e->memory, operand, DEVICE_SIZE);
}

/* What QEMU's emulated processor does otherwise: a gather that faults has not extended its mask and cleared the upper half before (SDM
 * 2C, VGATHERQPD); XSAVE leaves the reserved bytes as they are. */
static bool is_beyond_host(const char *text)
{
    UINT32 eax = 0, ebx = 0, ecx = 0, edx = 0;

    if (!engine_differs(OwhpEngineDifferenceHostVendor) || (strncmp(text, "vgatherqpd", 10) != 0 && strncmp(text, "xsave", 5) != 0))
        return false;
    __cpuid(0x40000000, eax, ebx, ecx, edx);
    const bool is_translator = ebx == 0x54474354 && ecx == 0x43544743 && edx == 0x47435447; /* TCGTCGTCGTCG */
    if (is_translator)
        print_message("SKIPPED: %s: the host's processor is QEMU's, which does it otherwise\n", text);
    return is_translator;
}

/* YM-3: on a device, by the emulator, as on RAM, by the processor. */
static void as_on_ram(void **state)
{
    static const WHV_EMULATOR_CALLBACKS callbacks = {
        .Size = sizeof(callbacks), .WHvEmulatorIoPortCallback = on_io, .WHvEmulatorMemoryCallback = on_memory,
        .WHvEmulatorGetVirtualProcessorRegisters = on_get, .WHvEmulatorSetVirtualProcessorRegisters = on_set,
        .WHvEmulatorTranslateGvaPage = on_translate};
    static struct ending on_ram, emulated;
    WHV_EMULATOR_HANDLE emulator;

    (void)state;
    require_avx();
    guest_begin(&guest, NULL);
    guest_long_mode(&guest, 0);
    guest_set(&guest, R(Cr4), 0x40620);
    guest_set(&guest, R(XCr0), 7);
    assert_ok(WHvEmulatorCreateEmulator(&callbacks, &emulator));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (is_beyond_host(rows[i].text))
            continue;
        prepare(rows[i].code, DATA);
        run_to(&guest, WHvRunVpExitReasonX64Halt);
        take(&on_ram, guest.ram + DATA);
        prepare(rows[i].code, DEVICE);
        run();
        emulate(emulator);
        run_to(&guest, WHvRunVpExitReasonX64Halt);
        take(&emulated, device);
        if (memcmp(&on_ram, &emulated, sizeof(on_ram)))
            print_error("%s differs\n", rows[i].text);
        assert_memory_equal(emulated.registers, on_ram.registers, sizeof(on_ram.registers));
        assert_memory_equal(emulated.memory, on_ram.memory, sizeof(on_ram.memory));
    }
    assert_ok(WHvEmulatorDestroyEmulator(emulator));
    guest_end(&guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("YM-1", "as documented in openwhp.h", upper_halves),
        CASE("YM-2", "as documented in openwhp.h", keys_and_no_names),
        CASE("YM-3", "as documented in openwhp.h", as_on_ram),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
