/* The emulator's functions as calls: arguments, handles, one call at a time. */
#include "scripted_client.h"

/* AR-1: arguments. */
static void arguments(void **state)
{
    WHV_EMULATOR_HANDLE emulator, other;
    WHV_EMULATOR_STATUS status;
    WHV_EMULATOR_CALLBACKS bad = callbacks;
    struct call call = {.vp.InstructionLength = 1, .memory = {.InstructionByteCount = 17}, .io = {.InstructionByteCount = 17}};

    (void)state;
    enter(MODE_LONG);
    assert_refused(WHvEmulatorCreateEmulator(NULL, &emulator), E_INVALIDARG);
    assert_refused(WHvEmulatorCreateEmulator(&callbacks, NULL), E_INVALIDARG);
    assert_refused(WHvEmulatorCreateEmulator(WILD, &emulator), E_INVALIDARG);
    assert_refused(WHvEmulatorCreateEmulator(&callbacks, WILD), E_INVALIDARG);
    bad.Size++;
    assert_refused(WHvEmulatorCreateEmulator(&bad, &emulator), E_INVALIDARG);
    bad = callbacks;
    bad.Reserved = 1;
    assert_refused(WHvEmulatorCreateEmulator(&bad, &emulator), E_INVALIDARG);
    bad = callbacks;
    bad.WHvEmulatorMemoryCallback = NULL;
    assert_refused(WHvEmulatorCreateEmulator(&bad, &emulator), E_INVALIDARG);

    assert_ok(WHvEmulatorCreateEmulator(&callbacks, &emulator));
    assert_ok(WHvEmulatorCreateEmulator(&callbacks, &other));
    assert_refused(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, NULL, &call.memory, &status), E_INVALIDARG);
    assert_refused(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, &call.vp, NULL, &status), E_INVALIDARG);
    assert_refused(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, &call.vp, &call.memory, NULL), E_INVALIDARG);
    assert_refused(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, WILD, &call.memory, &status), E_INVALIDARG);
    assert_refused(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, &call.vp, &call.memory, &status), E_INVALIDARG);
    assert_refused(WHvEmulatorTryIoEmulation(emulator, CONTEXT, &call.vp, &call.io, &status), E_INVALIDARG);
    call.io.InstructionByteCount = 1;
    call.vp.InstructionLength = 0;
    assert_refused(WHvEmulatorTryIoEmulation(emulator, CONTEXT, &call.vp, &call.io, &status), E_INVALIDARG);
    assert_refused(WHvEmulatorTryMmioEmulation(NULL, CONTEXT, &call.vp, &call.memory, &status), E_INVALIDARG);
    assert_refused(WHvEmulatorTryMmioEmulation(WILD, CONTEXT, &call.vp, &call.memory, &status), E_INVALIDARG);
    assert_ok(WHvEmulatorDestroyEmulator(emulator));
    assert_refused(WHvEmulatorDestroyEmulator(emulator), E_INVALIDARG);
    assert_refused(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, &call.vp, &call.memory, &status), E_INVALIDARG);
    assert_refused(WHvEmulatorDestroyEmulator(NULL), E_INVALIDARG);
    assert_ok(WHvEmulatorDestroyEmulator(other));
    assert_string_equal(client.transcript, "");
}

/* AR-2: the table of callbacks is copied. */
static void table_is_copied(void **state)
{
    WHV_EMULATOR_CALLBACKS table = callbacks;
    struct call call = {.memory = {.InstructionByteCount = 2, .InstructionBytes = {0x8b, 0x03}}};
    WHV_EMULATOR_HANDLE emulator;
    WHV_EMULATOR_STATUS status;

    (void)state;
    enter(MODE_LONG);
    assert_ok(WHvEmulatorCreateEmulator(&table, &emulator));
    memset(&table, 0, sizeof(table));
    assert_ok(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, &call.vp, &call.memory, &status));
    assert_int_equal(status.AsUINT32, 1);
    assert_ok(WHvEmulatorDestroyEmulator(emulator));
}

/* AR-3: contexts of zeros are arguments like others: code is fetched, and found to be what it is. */
static void contexts_of_zeros(void **state)
{
    const struct call call = {.vp.Rip = 0};

    (void)state;
    enter(MODE_LONG);
    client.code_gpa = 0x2000 + SHIFT;
    memset(client.code, 0x06, sizeof(client.code)); /* nothing in 64-bit mode */
    assert_int_equal(emulate(&call, false), 1 << 1);
    assert_string_equal(client.transcript, "get t2000/4 r102000/8 ");
}

/* AR-4: one call at a time. */
static WHV_EMULATOR_HANDLE busy_emulator;
static unsigned busy_calls;

static HRESULT CALLBACK on_busy_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    const struct call call = {.memory = {.InstructionByteCount = 2, .InstructionBytes = {0x8b, 0x03}}};
    WHV_EMULATOR_STATUS status = {.AsUINT32 = 77};

    assert_refused(WHvEmulatorTryMmioEmulation(busy_emulator, context, &call.vp, &call.memory, &status), E_INVALIDARG);
    assert_int_equal(status.AsUINT32, 77);
    assert_refused(WHvEmulatorDestroyEmulator(busy_emulator), E_INVALIDARG);
    busy_calls++;
    return on_memory(context, access);
}

static void one_call_at_a_time(void **state)
{
    const struct call call = {.memory = {.InstructionByteCount = 2, .InstructionBytes = {0x8b, 0x03}}};
    WHV_EMULATOR_CALLBACKS table = callbacks;
    WHV_EMULATOR_STATUS status;

    (void)state;
    enter(MODE_LONG);
    table.WHvEmulatorMemoryCallback = on_busy_memory;
    assert_ok(WHvEmulatorCreateEmulator(&table, &busy_emulator));
    assert_ok(WHvEmulatorTryMmioEmulation(busy_emulator, CONTEXT, &call.vp, &call.memory, &status));
    assert_int_equal(status.AsUINT32, 1);
    assert_int_equal(busy_calls, 1);
    assert_ok(WHvEmulatorDestroyEmulator(busy_emulator));
}

int main(void)
{
    install_handlers();
    const struct CMUnitTest tests[] = {
        CASE("AR-1", "F 8.2", arguments),
        CASE("AR-2", "F 8.1", table_is_copied),
        CASE("AR-3", "F 8.2", contexts_of_zeros),
        CASE("AR-4", "F 8.5", one_call_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
