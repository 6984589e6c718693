/*
 * Breakpoints on ports and memory that exit to the client: the trap comes once, when the client has carried the instruction out,
 * whichever way it does so.
 */
#include <string.h>

#include <WinHvEmulation.h>
#include <openwhp.h>

#include "guest.h"

enum { HOLE = 0x300000, PORT = 0x42, DB_HANDLER = HANDLERS + 16, DR6_NONE = 0xffff0ff0, SOURCE = 0x7000 };

static struct guest g;

/* Real mode; DR0 watches a port (condition 2) or memory (3), `length` 0 1 byte, 1 2, 3 4. #DB goes to a HLT. */
static void begin(UINT64 address, unsigned condition, unsigned length)
{
    guest_begin(&g, NULL);
    guest_set(&g, WHvX64RegisterCr4, 8); /* DE */
    guest_set(&g, WHvX64RegisterDr0, address);
    guest_set(&g, WHvX64RegisterDr7, 2 | condition << 16 | length << 18 | 0x400);
    guest_set(&g, WHvX64RegisterRdx, PORT);
}

/* #DB with breakpoint 0, and the frame on its stack: behind the instruction; then on, and nothing more. */
static void assert_trap(UINT16 behind)
{
    UINT16 frame[3];
    UINT64 sp;

    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Cs.Selector, HANDLERS / 16);
    assert_field(&g, VpContext.Rip, 16 + 1);
    assert_int_equal(guest_get(&g, WHvX64RegisterDr6), DR6_NONE | 1);
    sp = guest_get(&g, WHvX64RegisterRsp);
    memcpy(frame, g.ram + sp, sizeof(frame));
    assert_int_equal(frame[0], behind);
    guest_set(&g, WHvX64RegisterDr6, DR6_NONE);
    guest_load(&g, HANDLERS + 16 + 1, "\xcf", 1); /* iret */
}

static void advance(void)
{
    guest_set(&g, WHvX64RegisterRip, g.exit.VpContext.Rip + g.exit.VpContext.InstructionLength);
}

static void port_and_rip(void **state)
{
    (void)state;
    begin(PORT, 2, 0);
    guest_code(&g, 0xe6, PORT, 0xee, 0xec, 0xe6, PORT + 1, 0xf4); /* out PORT, al; out dx, al; in al, dx; out PORT + 1, al; hlt */
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned again = 0; again < 2; again++) { /* not carried out: it exits again, and nothing traps */
            run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
            assert_field(&g, VpContext.Rip, CODE + (i ? i + 1 : 0));
        }
        advance();
        assert_trap((UINT16)(CODE + i + 2));
    }
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    advance();
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, CODE + 7);
    guest_end(&g);
}

/* Without CR4.DE, disabled, another port: nothing. Elsewhere than behind the instruction: it was not carried out. */
static void port_without(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        begin(i == 2 ? PORT + 1 : PORT, 2, 0);
        if (i == 0)
            guest_set(&g, WHvX64RegisterCr4, 0);
        if (i == 1)
            guest_set(&g, WHvX64RegisterDr7, 2u << 16 | 0x400);
        guest_code(&g, 0xee, 0xf4, 0xf4, 0xf4);
        run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
        guest_set(&g, WHvX64RegisterRip, i == 3 ? CODE + 2 : CODE + 1);
        run_to(&g, WHvRunVpExitReasonX64Halt);
        assert_field(&g, VpContext.Rip, i == 3 ? CODE + 3 : CODE + 2);
        guest_end(&g);
    }
}

/* REP OUTSB, one element at a time, then the rest: a trap for each time the client does something. */
static void port_repeated(void **state)
{
    (void)state;
    begin(PORT, 2, 0);
    guest_code(&g, 0xf3, 0x6e, 0xf4);
    guest_set(&g, WHvX64RegisterRcx, 5);
    guest_set(&g, WHvX64RegisterRsi, SOURCE);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    guest_set(&g, WHvX64RegisterRcx, 4);
    guest_set(&g, WHvX64RegisterRsi, SOURCE + 1);
    assert_trap(CODE);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_field(&g, IoPortAccess.Rcx, 4);
    guest_set(&g, WHvX64RegisterRcx, 0);
    guest_set(&g, WHvX64RegisterRsi, SOURCE + 5);
    advance();
    assert_trap(CODE + 2);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, CODE + 3);
    guest_end(&g);
}

/* ---- memory ---- */

static void memory_and_rip(void **state)
{
    (void)state;
    begin(HOLE + 3, 3, 0);
    guest_code(&g, 0x67, 0x66, 0x89, 0x03, 0x67, 0x66, 0x89, 0x43, 0x04, 0xf4); /* mov [ebx], eax; mov [ebx + 4], eax; hlt */
    guest_set(&g, WHvX64RegisterRbx, HOLE);
    const WHV_REGISTER_NAME name = WHvX64RegisterDs;
    const WHV_REGISTER_VALUE value = {.Segment = {.Limit = 0xffffffff, .Attributes = 0x8093}};
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value));
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    guest_set(&g, WHvX64RegisterRip, CODE + 4);
    assert_trap(CODE + 4);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    guest_set(&g, WHvX64RegisterRip, CODE + 9);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, CODE + 10);
    guest_end(&g);
}

static void memory_completed(void **state)
{
    OWHP_MEMORY_ACCESS access;

    (void)state;
    begin(HOLE, 3, 3);
    guest_code(&g, 0x67, 0x66, 0x8b, 0x03, 0xf4); /* mov eax, [ebx]; hlt */
    guest_set(&g, WHvX64RegisterRbx, HOLE);
    const WHV_REGISTER_NAME name = WHvX64RegisterDs;
    const WHV_REGISTER_VALUE value = {.Segment = {.Limit = 0xffffffff, .Attributes = 0x8093}};
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value));
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_ok(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &access));
    access.Data = 0x12345678;
    assert_int_equal(OwhpCompleteMemoryAccess(g.partition, 0, &access), S_OK);
    assert_trap(CODE + 4);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax), 0x12345678);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, CODE + 5);
    guest_end(&g);
}

/* ---- the emulator ---- */

static HRESULT CALLBACK on_io(void *context, WHV_EMULATOR_IO_ACCESS_INFO *access)
{
    (void)context;
    access->Data = 0x5a;
    return S_OK;
}

static HRESULT CALLBACK on_memory(void *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    (void)context;
    memset(access->Data, 0x5a, access->AccessSize);
    return S_OK;
}

static HRESULT CALLBACK on_get(void *context, const WHV_REGISTER_NAME *names, UINT32 count, WHV_REGISTER_VALUE *values)
{
    (void)context;
    return WHvGetVirtualProcessorRegisters(g.partition, 0, names, count, values);
}

static HRESULT CALLBACK on_set(void *context, const WHV_REGISTER_NAME *names, UINT32 count, const WHV_REGISTER_VALUE *values)
{
    (void)context;
    return WHvSetVirtualProcessorRegisters(g.partition, 0, names, count, values);
}

static HRESULT CALLBACK on_translate(void *context, WHV_GUEST_VIRTUAL_ADDRESS gva, WHV_TRANSLATE_GVA_FLAGS flags,
                                     WHV_TRANSLATE_GVA_RESULT_CODE *code, WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    WHV_TRANSLATE_GVA_RESULT result;
    const HRESULT answer = WHvTranslateGva(g.partition, 0, gva, flags, &result, gpa);

    (void)context;
    *code = result.ResultCode;
    return answer;
}

static void emulated(void **state)
{
    static const WHV_EMULATOR_CALLBACKS callbacks = {sizeof(callbacks), 0, on_io, on_memory, on_get, on_set, on_translate};
    WHV_EMULATOR_HANDLE emulator;
    WHV_EMULATOR_STATUS status;

    (void)state;
    assert_ok(WHvEmulatorCreateEmulator(&callbacks, &emulator));
    begin(PORT, 2, 0);
    guest_code(&g, 0xec, 0xf4);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_ok(WHvEmulatorTryIoEmulation(emulator, NULL, &g.exit.VpContext, &g.exit.IoPortAccess, &status));
    assert_int_equal(status.EmulationSuccessful, 1);
    assert_trap(CODE + 1);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax) & 0xff, 0x5a);
    guest_end(&g);
    assert_ok(WHvEmulatorDestroyEmulator(emulator));
}

/* ---- between the exit and the next run ---- */

static void kept_by_snapshots(void **state)
{
    OWHP_SNAPSHOT_HANDLE snapshot;

    (void)state;
    begin(PORT, 2, 0);
    guest_code(&g, 0xee, 0xf4);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &snapshot));
    guest_set(&g, WHvX64RegisterRip, CODE + 2);
    guest_load(&g, CODE + 2, "\xf4", 1);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_ok(OwhpRestoreSnapshot(g.partition, snapshot, 0, NULL));
    guest_set(&g, WHvX64RegisterRip, CODE + 1);
    assert_trap(CODE + 1);
    assert_ok(OwhpDestroySnapshot(snapshot));
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("DEBUG-1", "O breakpoints: a port, the client moves RIP", port_and_rip),
        CASE("DEBUG-2", "O breakpoints: ports that are not watched", port_without),
        CASE("DEBUG-3", "O breakpoints: repeated port instructions", port_repeated),
        CASE("DEBUG-4", "O breakpoints: memory, the client moves RIP", memory_and_rip),
        CASE("DEBUG-5", "O breakpoints: memory, OwhpCompleteMemoryAccess", memory_completed),
        CASE("DEBUG-6", "O breakpoints: a port, the emulator", emulated),
        CASE("DEBUG-7", "O breakpoints: snapshots", kept_by_snapshots),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
