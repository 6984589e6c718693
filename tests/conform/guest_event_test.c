/* Exceptions, injected events, interrupt windows, the emulated local APIC. */
#include "guest.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_ON_EXCEPTION = 4, EXIT_ON_INIT_SIPI = 0x40 };

#define VECTOR(n) (1ull << (n))

/* ---- exception exits ---- */

static void begin_with(struct guest *g, UINT64 exceptions)
{
    const struct guest_options options = {.extended_exits = EXIT_ON_EXCEPTION, .exceptions = exceptions};

    guest_begin(g, &options);
    guest_long_mode(g, 0);
}

static void page_fault_exit(void **state)
{
    struct guest g;

    (void)state;
    begin_with(&g, VECTOR(14));
    *guest_pte(&g, 0x60000) = 0;
    guest_set(&g, WHvX64RegisterRdi, 0x60123);
    guest_code(&g, 0x89, 0x07); /* mov [rdi], eax */
    run_to(&g, WHvRunVpExitReasonException);
    assert_field(&g, VpContext.Rip, CODE);
    assert_field(&g, VpException.ExceptionType, 14);
    assert_field(&g, VpException.ExceptionInfo.ErrorCodeValid, 1);
    assert_field(&g, VpException.ExceptionInfo.SoftwareException, 0);
    assert_field(&g, VpException.ExceptionInfo.Reserved, 0);
    assert_field(&g, VpException.ErrorCode, 2); /* a write, by the supervisor, page not present */
    assert_field(&g, VpException.ExceptionParameter, 0x60123);
    assert_int_equal(guest_get(&g, WHvX64RegisterCr2), 0); /* not written yet */
    assert_true(g.exit.VpException.InstructionByteCount <= 16);
    if (g.exit.VpException.InstructionByteCount)
        assert_memory_equal(g.exit.VpException.InstructionBytes, g.ram + CODE, 2);
    /* With the page there the instruction goes on. */
    *guest_pte(&g, 0x60000) = 0x60007;
    g.ram[CODE + 2] = 0xf4;
    run_to(&g, WHvRunVpExitReasonX64Halt);
    guest_end(&g);
}

static void other_exception_exits(void **state)
{
    static const struct {
        UINT8 code[4];
        UINT8 vector, has_error, is_software;
    } rows[] = {
        {{0xf7, 0xf1}, 0, 0, 0},       /* div ecx, ecx = 0 */
        {{0x0f, 0x0b}, 6, 0, 0},       /* ud2 */
        {{0x8e, 0xdb}, 13, 1, 0},      /* mov ds, ebx: bad selector */
        {{0xcc}, 3, 0, 1},             /* int3 */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct guest g;
        begin_with(&g, VECTOR(rows[i].vector));
        guest_load(&g, CODE, rows[i].code, 4);
        guest_set(&g, WHvX64RegisterRcx, 0);
        guest_set(&g, WHvX64RegisterRbx, 0x1230);
        run_to(&g, WHvRunVpExitReasonException);
        assert_field(&g, VpContext.Rip, CODE);
        assert_field(&g, VpException.ExceptionType, rows[i].vector);
        assert_field(&g, VpException.ExceptionInfo.ErrorCodeValid, rows[i].has_error);
        if (rows[i].has_error)
            assert_field(&g, VpException.ErrorCode, 0x1230);
        guest_end(&g);
    }
}

/* What the bitmap does not name is the guest's. */
static void exceptions_not_asked_for(void **state)
{
    struct guest g;

    (void)state;
    begin_with(&g, VECTOR(14));
    guest_code(&g, 0x0f, 0x0b);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, HANDLERS + 16 * 6 + 1);
    guest_end(&g);
}

static void bitmap_at_run_time(void **state)
{
    struct guest g;
    UINT64 bitmap = VECTOR(6);

    (void)state;
    begin_with(&g, 0);
    guest_code(&g, 0x0f, 0x0b);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    guest_set(&g, WHvX64RegisterRip, CODE);
    assert_ok(WHvSetPartitionProperty(g.partition, WHvPartitionPropertyCodeExceptionExitBitmap, &bitmap, 8));
    run_to(&g, WHvRunVpExitReasonException);
    guest_end(&g);
}

static void triple_fault(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    WHV_REGISTER_VALUE table = {.Table = {.Base = IDT, .Limit = 0}};
    const WHV_REGISTER_NAME name = WHvX64RegisterIdtr;
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &table));
    guest_code(&g, 0x0f, 0x0b);
    run_to(&g, WHvRunVpExitReasonUnrecoverableException);
    guest_end(&g);
}

/* State that no processor can run with. */
static void invalid_state(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0xf4);
    const WHV_REGISTER_NAME name = WHvX64RegisterCr0;
    const WHV_REGISTER_VALUE paging_without_protection = {.Reg64 = 0x80000010};
    HRESULT set = WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &paging_without_protection);
    if (set == S_OK) /* found at the run, or refused at once */
        run_to(&g, WHvRunVpExitReasonInvalidVpRegisterValue);
    else
        assert_hr(set, ERROR_HV_INVALID_REGISTER_VALUE);
    guest_end(&g);
}

/* ---- injection ---- */

static void inject(void **state)
{
    static const struct {
        UINT64 pending;
        UINT8 vector;
        bool has_error;
    } rows[] = {
        {1 | 0 << 1 | 0x30ull << 16, 0x30, false},                 /* external interrupt */
        {1 | 2 << 1 | 2ull << 16, 2, false},                       /* NMI */
        {1 | 3 << 1 | 6ull << 16, 6, false},                       /* #UD */
        {1 | 3 << 1 | 1 << 4 | 13ull << 16 | 0x55ull << 32, 13, true}, /* #GP(0x55) */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct guest g;
        guest_begin(&g, NULL);
        guest_long_mode(&g, 0);
        guest_code(&g, 0xeb, 0xfe);
        guest_set(&g, WHvX64RegisterRflags, 0x202);
        guest_set(&g, WHvRegisterPendingInterruption, rows[i].pending);
        run_to(&g, WHvRunVpExitReasonX64Halt);
        assert_field(&g, VpContext.Rip, HANDLERS + 16 * rows[i].vector + 1);
        assert_int_equal(guest_get(&g, WHvRegisterPendingInterruption), 0);
        UINT64 frame[2], stack = guest_get(&g, WHvX64RegisterRsp);
        memcpy(frame, g.ram + stack, 16);
        assert_int_equal(frame[0], rows[i].has_error ? 0x55 : CODE);
        assert_int_equal(stack, STACK - (rows[i].has_error ? 48 : 40));
        guest_end(&g);
    }
}

static void inject_by_pending_event(void **state)
{
    struct guest g;
    const WHV_REGISTER_NAME name = WHvRegisterPendingEvent;
    WHV_REGISTER_VALUE value = {0};

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    guest_code(&g, 0xeb, 0xfe);
    value.ExceptionEvent.EventPending = 1;
    value.ExceptionEvent.EventType = WHvX64PendingEventException;
    value.ExceptionEvent.DeliverErrorCode = 1;
    value.ExceptionEvent.Vector = 14;
    value.ExceptionEvent.ErrorCode = 2;
    value.ExceptionEvent.ExceptionParameter = 0x777;
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value));
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, HANDLERS + 16 * 14 + 1);
    assert_int_equal(guest_get(&g, WHvX64RegisterCr2), 0x777);
    guest_end(&g);
}

/* ---- interrupt windows (no APIC emulation) ---- */

static void window_when_enabled(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0x90, 0xfb, 0x90, 0x90, 0xf4); /* nop; sti; nop; nop; hlt */
    guest_set(&g, WHvX64RegisterDeliverabilityNotifications, 2);
    run_to(&g, WHvRunVpExitReasonX64InterruptWindow);
    assert_field(&g, InterruptWindow.DeliverableType, WHvX64PendingInterrupt);
    assert_field(&g, VpContext.Rip, CODE + 3); /* not in the shadow of STI */
    assert_field(&g, VpContext.Rflags & 0x200, 0x200);
    assert_int_equal(guest_get(&g, WHvX64RegisterDeliverabilityNotifications), 0); /* one shot */
    run_to(&g, WHvRunVpExitReasonX64Halt);
    guest_end(&g);
}

static void window_at_once(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0xf4);
    guest_set(&g, WHvX64RegisterRflags, 0x202);
    guest_set(&g, WHvX64RegisterDeliverabilityNotifications, 2);
    run_to(&g, WHvRunVpExitReasonX64InterruptWindow);
    assert_field(&g, VpContext.Rip, CODE);
    guest_set(&g, WHvX64RegisterDeliverabilityNotifications, 1);
    run_to(&g, WHvRunVpExitReasonX64InterruptWindow);
    assert_field(&g, InterruptWindow.DeliverableType, WHvX64PendingNmi);
    guest_end(&g);
}

/* The usual way of a monitor without APIC emulation: wait for the window, inject. */
static void window_then_inject(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0xfb, 0x90, 0xeb, 0xfe);
    guest_set(&g, WHvX64RegisterDeliverabilityNotifications, 2);
    run_to(&g, WHvRunVpExitReasonX64InterruptWindow);
    guest_set(&g, WHvRegisterPendingInterruption, 1 | 0x20ull << 16);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, 16 * 0x20 + 1);
    assert_field(&g, VpContext.Cs.Selector, HANDLERS / 16);
    guest_end(&g);
}

/* Interrupts are held back while IF is 0. */
static void no_window_while_disabled(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0x90, 0xf4);
    guest_set(&g, WHvX64RegisterDeliverabilityNotifications, 2);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(guest_get(&g, WHvX64RegisterDeliverabilityNotifications), 2);
    guest_end(&g);
}

/* ---- local APIC ---- */

static void begin_with_apic(struct guest *g, UINT32 mode, UINT32 processors, UINT64 exits)
{
    const struct guest_options options = {.apic_mode = mode, .processors = processors, .extended_exits = exits};

    guest_begin(g, &options);
    guest_long_mode(g, 0);
    guest_set(g, WHvX64RegisterRflags, 0x202);
    guest_set(g, WHvX64RegisterApicSpurious, 0x1ff); /* on */
}

static HRESULT request(struct guest *g, UINT32 type, UINT32 vector, UINT32 destination, bool is_level)
{
    const WHV_INTERRUPT_CONTROL control = {.Type = type & 0xff, .TriggerMode = is_level, .Destination = destination,
                                           .Vector = vector};

    return WHvRequestInterrupt(g->partition, &control, sizeof(control));
}

static void interrupt_is_delivered(void **state)
{
    struct guest g;

    (void)state;
    begin_with_apic(&g, WHvX64LocalApicEmulationModeXApic, 1, 0);
    guest_code(&g, 0xf4, 0xeb, 0xfd);                                   /* again: hlt; jmp again */
    static const UINT8 handler[] = {0xe6, 0x99};                       /* out 99h, al */
    guest_load(&g, HANDLERS + 16 * 0x31, handler, 2);
    assert_ok(request(&g, WHvX64InterruptTypeFixed, 0x31, 0, false));
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_field(&g, VpContext.Rip, HANDLERS + 16 * 0x31);
    assert_int_equal(guest_get(&g, WHvX64RegisterApicIsr1) >> 17 & 1, 1);
    guest_end(&g);
}

struct sleeper {
    struct guest *guest;
    pthread_t thread;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    HRESULT result;
    UINT32 vp;
};

static void *sleep_thread(void *argument)
{
    struct sleeper *s = argument;

    s->result = WHvRunVirtualProcessor(s->guest->partition, s->vp, &s->exit, sizeof(s->exit));
    return NULL;
}

/* HLT does not exit: the run sleeps until an interrupt. A processor that sleeps counts as running. */
static void halt_sleeps(void **state)
{
    struct guest g;
    struct sleeper s = {.guest = &g};
    WHV_REGISTER_VALUE value;
    const WHV_REGISTER_NAME name = WHvX64RegisterRip;

    (void)state;
    begin_with_apic(&g, WHvX64LocalApicEmulationModeXApic, 1, 0);
    guest_code(&g, 0xf4, 0xeb, 0xfd);
    static const UINT8 handler[] = {0xe6, 0x99};
    guest_load(&g, HANDLERS + 16 * 0x40, handler, 2);
    assert_int_equal(pthread_create(&s.thread, NULL, sleep_thread, &s), 0);
    while (WHvGetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value) != WHV_E_INVALID_VP_STATE)
        sched_yield();
    assert_ok(request(&g, WHvX64InterruptTypeFixed, 0x40, 0, false));
    pthread_join(s.thread, NULL);
    assert_ok(s.result);
    assert_int_equal(s.exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    guest_end(&g);
}

static void cancel_wakes(void **state)
{
    struct guest g;
    struct sleeper s = {.guest = &g};

    (void)state;
    begin_with_apic(&g, WHvX64LocalApicEmulationModeXApic, 1, 0);
    guest_code(&g, 0xfa, 0xf4); /* cli; hlt: for ever */
    for (int i = 0; i < 100; i++) {
        assert_int_equal(pthread_create(&s.thread, NULL, sleep_thread, &s), 0);
        assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
        pthread_join(s.thread, NULL);
        assert_ok(s.result);
        assert_int_equal(s.exit.ExitReason, WHvRunVpExitReasonCanceled);
    }
    guest_end(&g);
}

/* Deleting the partition under a sleeping processor. */
static void delete_wakes(void **state)
{
    struct guest g;
    struct sleeper s = {.guest = &g};
    const WHV_REGISTER_NAME name = WHvX64RegisterRip;
    WHV_REGISTER_VALUE value;

    (void)state;
    begin_with_apic(&g, WHvX64LocalApicEmulationModeXApic, 1, 0);
    guest_code(&g, 0xfa, 0xf4);
    assert_int_equal(pthread_create(&s.thread, NULL, sleep_thread, &s), 0);
    while (WHvGetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value) != WHV_E_INVALID_VP_STATE)
        sched_yield();
    guest_end(&g);
    pthread_join(s.thread, NULL);
    assert_hr(s.result, E_HANDLE);
}

static void eoi_exit(void **state)
{
    struct guest g;

    (void)state;
    begin_with_apic(&g, WHvX64LocalApicEmulationModeXApic, 1, 0);
    guest_code(&g, 0xf4, 0xeb, 0xfd);
    /* mov dword [0xfee000b0], 0 (EOI); out 99h, al */
    static const UINT8 handler[] = {0xbb, 0xb0, 0, 0xe0, 0xfe, 0xc7, 0x03, 0, 0, 0, 0, 0xe6, 0x99};
    guest_load(&g, HANDLERS + 16 * 0x51, handler, sizeof(handler));
    /* FEE00000 needs a page: it is beyond the first GiB, so give it one. */
    UINT64 *pdpt = (UINT64 *)(void *)(g.ram + TABLES + 0x1000);
    pdpt[3] = 0xc0000000ull | 0x83 | 4;
    pdpt[3] = (TABLES + 0x4000) | 7;
    UINT64 *pd = (UINT64 *)(void *)(g.ram + TABLES + 0x4000);
    pd[(0xfee00000 >> 21) & 511] = 0xfee00000 | 0x87;
    assert_ok(request(&g, WHvX64InterruptTypeFixed, 0x51, 0, true));
    run_to(&g, WHvRunVpExitReasonX64ApicEoi);
    assert_field(&g, ApicEoi.InterruptVector, 0x51);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_ok(request(&g, WHvX64InterruptTypeFixed, 0x51, 0, false)); /* edge: no exit */
    guest_set(&g, WHvX64RegisterRip, CODE);
    guest_set(&g, WHvX64RegisterRflags, 0x202);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    guest_end(&g);
}

static void second_processor_starts(void **state)
{
    struct guest g;
    struct sleeper s = {.guest = &g, .vp = 1};

    (void)state;
    begin_with_apic(&g, WHvX64LocalApicEmulationModeXApic, 2, 0);
    assert_ok(WHvCreateVirtualProcessor(g.partition, 1, 0));
    static const UINT8 code[] = {0xe6, 0x77}; /* out 77h, al at 5000h, in real mode */
    guest_load(&g, 0x5000, code, 2);
    assert_int_equal(pthread_create(&s.thread, NULL, sleep_thread, &s), 0);
    assert_ok(request(&g, WHvX64InterruptTypeInit, 0, 1, false));
    assert_ok(request(&g, WHvX64InterruptTypeSipi, 5, 1, false));
    pthread_join(s.thread, NULL);
    assert_ok(s.result);
    assert_int_equal(s.exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(s.exit.VpContext.Cs.Selector, 0x500);
    assert_int_equal(s.exit.VpContext.Cs.Base, 0x5000);
    assert_int_equal(s.exit.VpContext.Rip, 0);
    guest_end(&g);
}

/* An event whose delivery had to exit is not delivered in the processor that INIT and SIPI have started anew. */
static void init_forgets_an_event(void **state)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterIdtr, WHvRegisterPendingInterruption, WHvX64RegisterRsp};
    WHV_REGISTER_VALUE values[] = {{.Table = {.Base = 0x80000000, .Limit = 0x3ff}}, {.Reg64 = 1 | 0x20ull << 16}, {.Reg64 = 0x7000}};
    static const UINT8 started[] = {0xe6, 0x11}, vector_20[] = {0xe6, 0x22};
    const UINT16 vector[2] = {0x6000, 0};
    WHV_RUN_VP_EXIT_CONTEXT exit;
    struct guest g;

    (void)state;
    begin_with_apic(&g, WHvX64LocalApicEmulationModeXApic, 2, 0);
    assert_ok(WHvCreateVirtualProcessor(g.partition, 1, 0));
    guest_load(&g, 0x5000, started, sizeof(started));
    guest_load(&g, 0x6000, vector_20, sizeof(vector_20));
    guest_load(&g, 4 * 0x20, vector, sizeof(vector));
    assert_ok(request(&g, WHvX64InterruptTypeSipi, 5, 1, false));
    assert_ok(WHvRunVirtualProcessor(g.partition, 1, &exit, sizeof(exit)));
    assert_int_equal(exit.IoPortAccess.PortNumber, 0x11);
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 1, names, 3, values));
    assert_ok(WHvRunVirtualProcessor(g.partition, 1, &exit, sizeof(exit)));
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_int_equal(exit.VpContext.ExecutionState.InterruptionPending, 1);
    assert_ok(request(&g, WHvX64InterruptTypeInit, 0, 1, false));
    assert_ok(request(&g, WHvX64InterruptTypeSipi, 5, 1, false));
    assert_ok(WHvRunVirtualProcessor(g.partition, 1, &exit, sizeof(exit)));
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(exit.IoPortAccess.PortNumber, 0x11);
    guest_end(&g);
}

static void apic_registers(void **state)
{
    struct guest g;
    WHV_REGISTER_NAME name = WHvX64RegisterApicId;
    WHV_REGISTER_VALUE value;

    (void)state;
    guest_begin(&g, NULL); /* no emulation: the names are known, the registers are not there */
    assert_hr(WHvGetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value), ERROR_HV_INVALID_PARAMETER);
    name = (WHV_REGISTER_NAME)0x7777;
    assert_hr(WHvGetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value), WHV_E_INVALID_VP_REGISTER_NAME);
    name = WHvRegisterInternalActivityState;
    value.Reg64 = 2;
    assert_hr(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value), ERROR_HV_ACCESS_DENIED);
    guest_end(&g);

    begin_with_apic(&g, WHvX64LocalApicEmulationModeX2Apic, 1, 0);
    assert_int_equal(guest_get(&g, WHvX64RegisterApicId) & 0xff, 0);
    assert_int_equal(guest_get(&g, WHvX64RegisterApicSpurious), 0x1ff);
    guest_end(&g);
}

static void apic_page_round_trip(void **state)
{
    struct guest g;
    _Alignas(16) UINT8 first[4096], second[4096];
    UINT32 written, tpr = 0x50;

    (void)state;
    begin_with_apic(&g, WHvX64LocalApicEmulationModeXApic, 1, 0);
    assert_ok(WHvGetVirtualProcessorInterruptControllerState2(g.partition, 0, first, 4096, &written));
    assert_int_equal(written, 4096);
    UINT32 svr;
    memcpy(&svr, first + 0xf0, 4);
    assert_int_equal(svr, 0x1ff);
    memcpy(first + 0x80, &tpr, 4);
    assert_ok(WHvSetVirtualProcessorInterruptControllerState2(g.partition, 0, first, 4096));
    assert_int_equal(guest_get(&g, WHvX64RegisterCr8), 5);
    assert_ok(WHvGetVirtualProcessorInterruptControllerState2(g.partition, 0, second, 4096, &written));
    memcpy(second + 0x90, first + 0x90, 0x20); /* APR and PPR follow from the others */
    assert_memory_equal(first, second, 4096);
    guest_end(&g);
}

static void target_set(void **state)
{
    struct guest g;
    UINT32 vps[4] = {9, 9, 9, 9}, count;

    (void)state;
    begin_with_apic(&g, WHvX64LocalApicEmulationModeXApic, 3, 0);
    assert_ok(WHvCreateVirtualProcessor(g.partition, 1, 0));
    assert_ok(WHvCreateVirtualProcessor(g.partition, 2, 0));
    assert_ok(WHvGetInterruptTargetVpSet(g.partition, 2, WHvX64InterruptDestinationModePhysical, vps, 4, &count));
    assert_true(count == 1 && vps[0] == 2);
    assert_ok(WHvGetInterruptTargetVpSet(g.partition, 0xff, WHvX64InterruptDestinationModePhysical, vps, 4, &count));
    assert_true(count == 3 && vps[0] == 0 && vps[1] == 1 && vps[2] == 2);
    guest_end(&g);
}

/* ---- state in bulk ---- */

static void xsave_round_trip(void **state)
{
    struct guest g;
    _Alignas(64) UINT8 image[16384], again[16384];
    UINT32 needed, written;
    const WHV_REGISTER_NAME name = WHvX64RegisterXmm3;
    WHV_REGISTER_VALUE value = {.Reg128 = {.Low64 = 0x1111, .High64 = 0x2222}};

    (void)state;
    guest_begin(&g, NULL);
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value));
    assert_hr(WHvGetVirtualProcessorXsaveState(g.partition, 0, NULL, 0, &needed), WHV_E_INSUFFICIENT_BUFFER);
    assert_true(needed >= 576 && needed <= sizeof(image));
    assert_ok(WHvGetVirtualProcessorXsaveState(g.partition, 0, image, needed, &written));
    assert_int_equal(written, needed);
    assert_memory_equal(image + 160 + 3 * 16, &value, 16); /* SDM 1 10.5.1: XMM3 in the legacy area */
    value.Reg64 = 0;
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value));
    assert_ok(WHvSetVirtualProcessorXsaveState(g.partition, 0, image, written));
    assert_int_equal(guest_get(&g, WHvX64RegisterXmm3), 0x1111);
    assert_ok(WHvGetVirtualProcessorXsaveState(g.partition, 0, again, sizeof(again), &needed));
    assert_memory_equal(image, again, needed);
    guest_end(&g);
}

/* ---- time ---- */

static void time_stands_still(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0xf4);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    UINT64 running = guest_get(&g, WHvX64RegisterTsc);
    while (guest_get(&g, WHvX64RegisterTsc) == running)
        sched_yield();
    assert_ok(WHvSuspendPartitionTime(g.partition));
    UINT64 tsc = guest_get(&g, WHvX64RegisterTsc), reference = 1, later = 2;
    assert_ok(WHvGetPartitionProperty(g.partition, WHvPartitionPropertyCodeReferenceTime, &reference, 8, NULL));
    for (int i = 0; i < 1000; i++)
        sched_yield();
    assert_int_equal(guest_get(&g, WHvX64RegisterTsc), tsc);
    assert_ok(WHvGetPartitionProperty(g.partition, WHvPartitionPropertyCodeReferenceTime, &later, 8, NULL));
    assert_int_equal(later, reference);
    assert_ok(WHvResumePartitionTime(g.partition));
    while (guest_get(&g, WHvX64RegisterTsc) == tsc)
        sched_yield();
    guest_end(&g);
}

static void *cancel_soon(void *argument)
{
    usleep(20000);
    assert_ok(WHvCancelRunVirtualProcessor(argument, 0, 0));
    return NULL;
}

/* A #DB whose frame lies under a breakpoint on data is delivered again and again: no instruction ever runs, yet a cancel ends it. */
static void debug_exception_for_ever(void **state)
{
    struct guest g;
    pthread_t thread;
    const UINT64 ist = 0x9000;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    g.ram[IDT + 16 * 1 + 4] = 1; /* vector 1 on IST 1 */
    memcpy(g.ram + TSS + 0x24, &ist, 8);
    guest_set(&g, WHvX64RegisterDr0, ist - 8);
    guest_set(&g, WHvX64RegisterDr7, 0x90403); /* breakpoint 0: stores to 8 bytes */
    guest_code(&g, 0x48, 0x89, 0x04, 0x25, 0xf8, 0x8f, 0, 0, 0xf4); /* mov [8ff8h], rax; hlt */
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, g.partition), 0);
    run_to(&g, WHvRunVpExitReasonCanceled);
    pthread_join(thread, NULL);
    guest_end(&g);
}

/*
 * TR as only a client can leave it: not present, not a TSS, not busy. What it holds is used all the same, on every engine; a
 * processor may refuse it, and QEMU's ends itself.
 */
static void task_register_of_any_kind(void **state)
{
    static const UINT16 kinds[] = {0x0b, 0x8b, 0x89, 0x83, 0x1b, 0x93, 0x00};

    (void)state;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        const WHV_REGISTER_NAME name = WHvX64RegisterTr;
        struct guest g;

        guest_begin(&g, NULL);
        guest_long_mode(&g, 3);
        guest_set(&g, WHvX64RegisterRsp, 0x7000);
        WHV_REGISTER_VALUE tr = guest_get_value(&g, name);
        tr.Segment.Attributes = kinds[i];
        assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &tr));
        guest_code(&g, 0x90, 0x0f, 0x0b); /* nop; ud2 */
        run_to(&g, WHvRunVpExitReasonX64Halt);
        assert_field(&g, VpContext.Rip, HANDLERS + 16 * 6 + 1);
        assert_int_equal(guest_get(&g, WHvX64RegisterRsp), STACK - 5 * 8); /* the frame is where the TSS says */
        tr = guest_get_value(&g, name);
        assert_int_equal(tr.Segment.Attributes, kinds[i]);
        assert_int_equal(tr.Segment.Base, TSS);
        guest_end(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("EVENT-1", "F 7.6: #PF exit, CR2 not written", page_fault_exit),
        CASE("EVENT-2", "F 9.1 Exception", other_exception_exits),
        CASE("EVENT-3", "F 9.6", exceptions_not_asked_for),
        CASE("EVENT-4", "F 9.6: settable after Setup", bitmap_at_run_time),
        CASE("EVENT-5", "F 7.6: triple fault, APIC mode None", triple_fault),
        CASE("EVENT-6", "F 9.1 InvalidVpRegisterValue", invalid_state),
        CASE("EVENT-7", "F 9.5 PendingInterruption", inject),
        CASE("EVENT-8", "F 9.5 PendingEvent", inject_by_pending_event),
        CASE("EVENT-9", "F 9.5 window, one shot", window_when_enabled),
        CASE("EVENT-10", "F 9.5", window_at_once),
        CASE("EVENT-11", "F 9.5", window_then_inject),
        CASE("EVENT-12", "F 9.5", no_window_while_disabled),
        CASE("EVENT-13", "F 9.5 RequestInterrupt", interrupt_is_delivered),
        CASE("EVENT-14", "F 9.5: HLT sleeps", halt_sleeps),
        CASE("EVENT-15", "F 9.4, 9.5", cancel_wakes),
        CASE("EVENT-16", "H WHvDeletePartition", delete_wakes),
        CASE("EVENT-17", "F 9.1 ApicEoi", eoi_exit),
        CASE("EVENT-18", "F 9.9: APs wait for SIPI inside Run", second_processor_starts),
        CASE("EVENT-25", "H INIT", init_forgets_an_event),
        CASE("EVENT-19", "F 9.3, 9.5", apic_registers),
        CASE("EVENT-20", "F 1.1 State2", apic_page_round_trip),
        CASE("EVENT-21", "F 1.1 GetInterruptTargetVpSet", target_set),
        CASE("EVENT-22", "F 1.1 Xsave", xsave_round_trip),
        CASE("EVENT-23", "F 9.8", time_stands_still),
        CASE("EVENT-24", "F 9.4: any thread ends a run", debug_exception_for_ever),
        CASE("EVENT-26", "H processor registers: any TR", task_register_of_any_kind),
    };
    return cmocka_run_group_tests_name("events", tests, NULL, NULL);
}
