/*
 * OwhpGetMemoryAccess, OwhpCompleteMemoryAccess: what shows while an instruction is being completed, what happens to its answers
 * (faults, traps, events, registers set in between), and what cannot be completed. Accesses by instruction: completion_test.c.
 */
#include "conform/guest.h"

#include <string.h>

enum { DEVICE = 0x400000, DATA = 0x3000 }; /* nothing is mapped at DEVICE */

static OWHP_MEMORY_ACCESS exit_with_access(struct guest *g)
{
    OWHP_MEMORY_ACCESS access;

    run_to(g, WHvRunVpExitReasonMemoryAccess);
    assert_ok(OwhpGetMemoryAccess(g->partition, 0, &g->exit, &access));
    return access;
}

static void begin_long(struct guest *g, const struct guest_options *options)
{
    guest_begin(g, options);
    guest_long_mode(g, 0);
    guest_set(g, WHvX64RegisterRbx, DEVICE);
    guest_set(g, WHvX64RegisterRdi, DEVICE);
}

/* Until the last access nothing of the instruction shows; the general purpose one. */
static void registers_until_the_last_access(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0x01, 0x03, 0xf4); /* add [rbx], eax */
    guest_set(&g, WHvX64RegisterRax, 1);
    a = exit_with_access(&g);
    assert_int_equal(a.Gva, DEVICE);
    a.Data = 0xffffffff;
    assert_hr(OwhpCompleteMemoryAccess(g.partition, 0, &a), S_FALSE);
    assert_int_equal(guest_get(&g, WHvX64RegisterRip), CODE);
    assert_int_equal(guest_get(&g, WHvX64RegisterRflags), 2);
    assert_ok(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a)); /* the exit's context is still good for what is due */
    assert_int_equal(a.AccessType, WHvMemoryAccessWrite);
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
    assert_int_equal(guest_get(&g, WHvX64RegisterRip), CODE + 2);
    assert_int_equal(guest_get(&g, WHvX64RegisterRflags), 0x57);
    guest_end(&g);
}

/* A divisor of 0 from the device: the access is done, the fault is the next run's. */
static void fault_after_the_access(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0xf7, 0x33, 0xf4); /* div dword [rbx] */
    a = exit_with_access(&g);
    a.Data = 0;
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
    assert_int_equal(guest_get(&g, WHvX64RegisterRip), CODE);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, HANDLERS + 1);
    assert_int_equal(*(UINT64 *)(void *)(g.ram + STACK - 40), CODE);
    guest_end(&g);
}

static void fault_goes_out_as_an_exit(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, &(struct guest_options){.extended_exits = 4, .exceptions = 1}); /* #DE */
    guest_code(&g, 0xf7, 0x33, 0xf4);
    a = exit_with_access(&g);
    a.Data = 0;
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
    run_to(&g, WHvRunVpExitReasonException);
    assert_field(&g, VpException.ExceptionType, 0);
    assert_field(&g, VpContext.Rip, CODE);
    guest_end(&g);
}

/* RFLAGS.TF: the instruction is done within the run that then takes the trap. */
static void trap_after_the_access(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0x8b, 0x03, 0xf4);
    guest_set(&g, WHvX64RegisterRflags, 0x102);
    a = exit_with_access(&g);
    a.Data = 77;
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, HANDLERS + 16 + 1);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax), 77);
    assert_int_equal(*(UINT64 *)(void *)(g.ram + STACK - 40), CODE + 2);
    guest_end(&g);
}

/* An event in place of the instruction: afterwards it starts from its first access. */
static void event_drops_the_answers(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0x87, 0x03, 0xf4); /* xchg [rbx], eax */
    g.ram[HANDLERS + 16 * 3] = 0x48;  /* iretq */
    g.ram[HANDLERS + 16 * 3 + 1] = 0xcf;
    a = exit_with_access(&g);
    a.Data = 5;
    assert_hr(OwhpCompleteMemoryAccess(g.partition, 0, &a), S_FALSE);
    guest_set(&g, WHvRegisterPendingInterruption, 1 | 3 << 1 | 3 << 16);
    assert_ok(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a)); /* it does not change what the instruction computes with */
    a = exit_with_access(&g);
    assert_int_equal(a.AccessType, WHvMemoryAccessRead);
    assert_field(&g, VpContext.Rip, CODE);
    guest_end(&g);
}

static void shadow_lasts_for_one_instruction(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0xfb, 0x8b, 0x03, 0x90, 0xf4); /* sti; mov eax, [rbx]; nop */
    a = exit_with_access(&g);
    guest_set(&g, WHvX64RegisterDeliverabilityNotifications, 2);
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
    run_to(&g, WHvRunVpExitReasonX64InterruptWindow);
    assert_field(&g, VpContext.Rip, CODE + 3);
    guest_end(&g);
}

/* RFLAGS.RF is for the beginning of one instruction, whether that is finished here or executed again. */
static void resume_flag(void **state)
{
    static const UINT8 code[][3] = {{0x8b, 0x03, 0xf4}, {0x03, 0x03, 0xf4}}; /* mov eax, [rbx]; add eax, [rbx] */

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct guest g;
        OWHP_MEMORY_ACCESS a;

        begin_long(&g, NULL);
        guest_load(&g, CODE, code[i], 3);
        guest_set(&g, WHvX64RegisterRflags, 0x10002);
        a = exit_with_access(&g);
        a.Data = 1;
        assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
        assert_int_equal(guest_get(&g, WHvX64RegisterRflags) & 0x10000, 0);
        guest_end(&g);
    }
}

/* An access costs one run and the two calls on it, and no run that only finishes what was answered: nine instructions on a device,
 * their accesses, and how often the processor was run. */
static void one_run_an_exit(void **state)
{
    static const UINT8 code[] = {0x8b, 0x03, 0x89, 0x03, 0x01, 0x03, 0x87, 0x03, 0x0f, 0x10, 0x03, 0xff, 0x33, 0xf0, 0xff, 0x03,
                                 0xaa, 0x0f, 0xb6, 0x03, 0xf4};
    enum { INSTRUCTIONS = 9, ACCESSES = 13 };
    unsigned runs = 0, accesses = 0;
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_set(&g, WHvX64RegisterCr4, 0x620);
    guest_load(&g, CODE, code, sizeof(code));
    for (;; runs++) {
        HRESULT result = S_FALSE;

        assert_ok(WHvRunVirtualProcessor(g.partition, 0, &g.exit, sizeof(g.exit)));
        if (g.exit.ExitReason == WHvRunVpExitReasonX64Halt)
            break;
        assert_int_equal(g.exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
        assert_ok(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a));
        for (; result == S_FALSE; accesses++)
            result = OwhpCompleteMemoryAccess(g.partition, 0, &a);
        assert_ok(result);
    }
    assert_int_equal(runs, INSTRUCTIONS);
    assert_int_equal(accesses, ACCESSES);
    guest_end(&g);
}

/* ROM: reads are RAM's, the write is the client's; a locked operation has read before. */
static void read_only_memory(void **state)
{
    static const UINT8 code[][4] = {{0x01, 0x03, 0xf4}, {0xf0, 0x01, 0x03, 0xf4}}; /* add [rbx], eax; lock */

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct guest g;
        OWHP_MEMORY_ACCESS a;

        begin_long(&g, NULL);
        guest_load(&g, CODE, code[i], 4);
        guest_set(&g, WHvX64RegisterRbx, DATA);
        guest_set(&g, WHvX64RegisterRax, 1);
        memcpy(g.ram + DATA, "\x02\0\0\0", 4);
        assert_ok(WHvMapGpaRange(g.partition, g.ram + DATA, DATA, 4096, WHvMapGpaRangeFlagRead));
        a = exit_with_access(&g);
        assert_field(&g, MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessWrite);
        assert_field(&g, MemoryAccess.AccessInfo.GpaUnmapped, 0);
        assert_int_equal(a.AccessType, WHvMemoryAccessWrite);
        assert_int_equal(a.Data, 3);
        assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
        assert_int_equal(g.ram[DATA], 2);
        run_to(&g, WHvRunVpExitReasonX64Halt);
        guest_end(&g);
    }
}

/* OUTS from a device: the memory half is completed, the port is the next exit. */
static void port_after_the_access(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0x6e, 0xf4); /* outsb */
    guest_set(&g, WHvX64RegisterRsi, DEVICE);
    guest_set(&g, WHvX64RegisterRdx, 0x80);
    a = exit_with_access(&g);
    a.Data = 0x5a;
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_field(&g, IoPortAccess.PortNumber, 0x80);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess); /* not the memory again */
    guest_end(&g);
}

static void refused(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a, other;
    WHV_RUN_VP_EXIT_CONTEXT old;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0xee, 0x8b, 0x03, 0x8b, 0x43, 0x04, 0xf4); /* out dx, al; mov eax, [rbx]; mov eax, [rbx + 4] */
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a), E_INVALIDARG);
    memset(&a, 0, sizeof(a));
    assert_refused(OwhpCompleteMemoryAccess(g.partition, 0, &a), E_INVALIDARG);
    guest_set(&g, WHvX64RegisterRip, CODE + 1);
    a = exit_with_access(&g);
    old = g.exit;
    for (unsigned i = 0; i < 4; i++) {
        other = a;
        other.Gpa += i == 0;
        other.SizeInBytes -= i == 1;
        other.AccessType = i == 2 ? WHvMemoryAccessWrite : i == 3 ? WHvMemoryAccessExecute : WHvMemoryAccessRead;
        assert_refused(OwhpCompleteMemoryAccess(g.partition, 0, &other), E_INVALIDARG);
    }
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, NULL, &a), E_POINTER);
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, &g.exit, NULL), E_POINTER);
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, &g.exit, WILD), E_POINTER);
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, WILD, &a), E_POINTER);
    assert_refused(OwhpCompleteMemoryAccess(g.partition, 0, NULL), E_POINTER);
    assert_refused(OwhpCompleteMemoryAccess(g.partition, 0, WILD), E_POINTER);
    assert_refused(OwhpGetMemoryAccess(g.partition, 1, &g.exit, &a), WHV_E_VP_DOES_NOT_EXIST);
    assert_refused(OwhpCompleteMemoryAccess(g.partition, 1, &a), WHV_E_VP_DOES_NOT_EXIST);
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a)); /* none of that did any harm */
    assert_refused(OwhpCompleteMemoryAccess(g.partition, 0, &a), E_INVALIDARG);
    a = exit_with_access(&g);
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, &old, &a), E_INVALIDARG);
    guest_set(&g, WHvX64RegisterRax, 1); /* what is due may depend on it */
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a), E_INVALIDARG);
    guest_end(&g);
}

static void accesses_without_data(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0xff, 0xe3); /* jmp rbx */
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&g, MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessExecute);
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a), E_NOT_SUPPORTED);
    guest_end(&g);

    begin_long(&g, NULL);
    guest_code(&g, 0x8b, 0x04, 0x25, 0x00, 0x50, 0, 0); /* mov eax, [0x5000] through page tables at nothing */
    *guest_pte(&g, 0x5000) = 7;
    ((UINT64 *)(void *)(g.ram + TABLES + 0x2000))[2] = 0x800000 | 7;
    guest_code(&g, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x40, 0x00);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&g, MemoryAccess.AccessInfo.GvaValid, 0);
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a), E_NOT_SUPPORTED);
    guest_end(&g);
}

/* Delivery of an event, its table or its stack on a device: no data either, and the exit says that an interruption is pending. */
static void delivery_without_data(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct guest g;
        OWHP_MEMORY_ACCESS a;

        begin_long(&g, NULL);
        guest_code(&g, 0x0f, 0x0b); /* ud2 */
        if (i == 0) {
            WHV_REGISTER_VALUE idtr = guest_get_value(&g, WHvX64RegisterIdtr);
            const WHV_REGISTER_NAME name = WHvX64RegisterIdtr;
            idtr.Table.Base = DEVICE;
            assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &idtr));
        } else {
            guest_set(&g, WHvX64RegisterRsp, DEVICE + 0x800);
        }
        run_to(&g, WHvRunVpExitReasonMemoryAccess);
        assert_field(&g, VpContext.ExecutionState.InterruptionPending, 1);
        assert_field(&g, MemoryAccess.AccessInfo.AccessType, i ? WHvMemoryAccessWrite : WHvMemoryAccessRead);
        assert_refused(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a), E_NOT_SUPPORTED);
        memset(&a, 0, sizeof(a));
        assert_refused(OwhpCompleteMemoryAccess(g.partition, 0, &a), E_NOT_SUPPORTED);
        guest_end(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("CM-3", "H", registers_until_the_last_access),
        CASE("CM-4", "H", fault_after_the_access),
        CASE("CM-5", "H", fault_goes_out_as_an_exit),
        CASE("CM-6", "H", trap_after_the_access),
        CASE("CM-7", "H", event_drops_the_answers),
        CASE("CM-8", "H", shadow_lasts_for_one_instruction),
        CASE("CM-9", "H", read_only_memory),
        CASE("CM-10", "H", port_after_the_access),
        CASE("CM-11", "H", refused),
        CASE("CM-13", "H", resume_flag),
        CASE("CM-14", "H", one_run_an_exit),
        CASE("CM-12", "H", accesses_without_data),
        CASE("CM-15", "H", delivery_without_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
