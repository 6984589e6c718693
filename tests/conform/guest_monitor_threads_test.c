/*
 * MONITOR and MWAIT through the API: hidden unless CPUID results show them; then MWAIT sleeps, and everything wakes it that should.
 * A case that fails to wake hangs until the time limit.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include <openwhp.h>

#include "guest.h"
#include "sleepers.h"

enum { MAX = 64, LINE = 0x9000, READY = 0xa000, WOKEN = 0xb000, ALIAS = 0x40000, OTHER = 0x100000 };

#define SHOW_MONITOR                                                                                                                 \
    .cpuid_results = {{.Function = 1, .Output = {.Ecx = 1u << 3}, .Mask = {.Ecx = 1u << 3}}}, .cpuid_result_count = 1

static struct guest guest;
static pthread_t threads[MAX];
static _Atomic pid_t ids[MAX];
static WHV_RUN_VP_EXIT_CONTEXT exits[MAX];

static UINT32 count_at(UINT32 address) { return atomic_load((_Atomic UINT32 *)(void *)(guest.ram + address)); }

static void wait_for(UINT32 address, UINT32 count)
{
    while (count_at(address) < count)
        sched_yield();
}

/* ecx = extensions: monitor [LINE]; lock inc [READY]; mwait; lock inc [WOKEN]; hlt */
static void load_waiter(UINT8 extensions, bool interrupts)
{
    const UINT8 code[] = {
        0xb8, LINE & 0xff, LINE >> 8,                        /* mov ax, LINE */
        0x66, 0x31, 0xc9, 0x66, 0x31, 0xd2,                  /* xor ecx, ecx; xor edx, edx */
        0x0f, 0x01, 0xc8,                                    /* monitor */
        0xf0, 0x66, 0xff, 0x06, READY & 0xff, READY >> 8,    /* lock inc dword [READY] */
        0xb1, extensions,                                    /* mov cl, extensions */
        interrupts ? 0xfb : 0xfa,                            /* sti, cli */
        0x0f, 0x01, 0xc9,                                    /* mwait */
        0xf0, 0x66, 0xff, 0x06, WOKEN & 0xff, WOKEN >> 8,    /* lock inc dword [WOKEN] */
        0xf4,
    };

    guest_load(&guest, CODE, code, sizeof(code));
}

enum { BEHIND_MWAIT = CODE + 24, HALTED = CODE + 31 };

static void *run_processor(void *argument)
{
    const size_t i = (size_t)argument;

    atomic_store(&ids[i], gettid());
    return (void *)(size_t)WHvRunVirtualProcessor(guest.partition, (UINT32)i, &exits[i], sizeof(exits[i]));
}

static void start(size_t i)
{
    atomic_store(&ids[i], 0);
    assert_int_equal(pthread_create(&threads[i], NULL, run_processor, (void *)i), 0);
}

static void join(size_t i)
{
    void *result;

    pthread_join(threads[i], &result);
    assert_int_equal((HRESULT)(size_t)result, S_OK);
}

/* Long enough for who would wake to have done so, most likely; if not, the case shows less. */
static void wait_a_while(void) { usleep(20000); }

/* Started, armed, and nobody has woken it for a while. */
static void start_waiting(void)
{
    const UINT32 ready = count_at(READY), woken = count_at(WOKEN);

    start(0);
    wait_for(READY, ready + 1);
    wait_a_while();
    assert_int_equal(count_at(WOKEN), woken);
}

static void begin(const struct guest_options *options)
{
    guest_begin(&guest, options);
    load_waiter(0, false);
}

/* ---- presence ---- */

static void hidden_by_default(void **state)
{
    static const UINT8 code[2][3] = {{0x0f, 0x01, 0xc8}, {0x0f, 0x01, 0xc9}};
    WHV_CPUID_OUTPUT output;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        begin(NULL);
        assert_ok(WHvGetVirtualProcessorCpuidOutput(guest.partition, 0, 1, 0, &output));
        assert_int_equal(output.Ecx >> 3 & 1, 0);
        assert_ok(WHvGetVirtualProcessorCpuidOutput(guest.partition, 0, 5, 0, &output));
        assert_int_equal(output.Eax | output.Ebx | output.Ecx | output.Edx, 0);
        guest_load(&guest, CODE, code[i], 3);
        run_to(&guest, WHvRunVpExitReasonX64Halt);
        assert_field(&guest, VpContext.Rip, 16 * 6 + 1);
        guest_end(&guest);
    }
}

static void shown_by_cpuid_results(void **state)
{
    WHV_CPUID_OUTPUT output;

    (void)state;
    begin(&(struct guest_options){SHOW_MONITOR});
    assert_ok(WHvGetVirtualProcessorCpuidOutput(guest.partition, 0, 1, 0, &output));
    assert_int_equal(output.Ecx >> 3 & 1, 1);
    assert_ok(WHvGetVirtualProcessorCpuidOutput(guest.partition, 0, 5, 0, &output));
    assert_int_equal(output.Eax, 64);
    assert_int_equal(output.Ebx, 64);
    assert_int_equal(output.Ecx, 3);
    guest_code(&guest, 0x66, 0x31, 0xc9, 0x0f, 0x01, 0xc8, 0xf4); /* xor ecx, ecx; monitor; hlt */
    run_to(&guest, WHvRunVpExitReasonX64Halt);
    assert_field(&guest, VpContext.Rip, CODE + 7);
    guest_code(&guest, 0xb1, 0x02, 0x0f, 0x01, 0xc9, 0xf4); /* mov cl, 2; mwait: an extension that is not there */
    guest_set(&guest, WHvX64RegisterRip, CODE);
    run_to(&guest, WHvRunVpExitReasonX64Halt);
    assert_field(&guest, VpContext.Rip, 16 * 13 + 1);
    guest_end(&guest);
}

/* ---- what wakes ---- */

static void stores_of_the_host_wake(void **state)
{
    const UINT32 value = 1;

    (void)state;
    begin(&(struct guest_options){SHOW_MONITOR});
    for (unsigned way = 0; way < 4; way++) {
        guest_set(&guest, WHvX64RegisterRip, CODE);
        start_waiting();
        if (way == 0)
            assert_ok(WHvWriteGpaRange(guest.partition, 0, LINE + 63, (WHV_ACCESS_GPA_CONTROLS){0}, &value, 1));
        else if (way == 1) /* the same bytes again */
            assert_ok(WHvWriteGpaRange(guest.partition, 0, LINE + 63, (WHV_ACCESS_GPA_CONTROLS){0}, &value, 1));
        else if (way == 2)
            assert_ok(OwhpMarkDirty(guest.partition, LINE, 64));
        else /* found by looking */
            atomic_fetch_add((_Atomic UINT32 *)(void *)(guest.ram + LINE), 1);
        join(0);
        assert_int_equal(exits[0].ExitReason, WHvRunVpExitReasonX64Halt);
        assert_int_equal(exits[0].VpContext.Rip, HALTED);
        assert_int_equal(count_at(WOKEN), way + 1);
    }
    guest_end(&guest);
}

static void map(UINT64 gpa, UINT64 of)
{
    const WHV_MAP_GPA_RANGE_FLAGS flags =
        (WHV_MAP_GPA_RANGE_FLAGS)(WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagTrackDirtyPages);

    assert_ok(WHvMapGpaRange(guest.partition, guest.ram + of, gpa, 0x1000, flags));
}

/* Through another guest address of the line's memory, of the host and of another processor: what is stored is what was there, so
 * that looking would not find it. Then the same when the line's own address has become other memory. */
static void stores_through_another_address_wake(void **state)
{
    static const UINT8 writer[] = {0x26, 0x88, 0x0e, 0x3f, 0x00, 0xf4}; /* mov es:[63], cl; hlt */
    const WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterRip, WHvX64RegisterEs};
    const WHV_REGISTER_VALUE values[] = {{.Segment = {.Limit = 0xffff, .Attributes = 0x9b}}, {.Reg64 = 0x3000},
                                         {.Segment = {.Base = ALIAS, .Limit = 0xffff, .Selector = ALIAS >> 4, .Attributes = 0x93}}};

    (void)state;
    begin(&(struct guest_options){SHOW_MONITOR, .processors = 2});
    assert_ok(WHvCreateVirtualProcessor(guest.partition, 1, 0));
    guest_load(&guest, 0x3000, writer, sizeof(writer));
    for (UINT32 way = 0; way < 4; way++) {
        if (way == 2)
            map(LINE, OTHER);
        map(ALIAS, way < 2 ? LINE : OTHER);
        guest_set(&guest, WHvX64RegisterRip, CODE);
        start_waiting();
        if (way % 2) {
            assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, 1, names, 3, values));
            start(1);
            join(1);
        } else {
            assert_ok(WHvWriteGpaRange(guest.partition, 0, ALIAS + 63, (WHV_ACCESS_GPA_CONTROLS){0}, "\0", 1));
        }
        join(0);
        assert_int_equal(exits[0].VpContext.Rip, HALTED);
        assert_int_equal(count_at(WOKEN), way + 1);
    }
    guest_end(&guest);
}

/* Who maps does not leave anybody waiting for stores to memory that is elsewhere now. */
static void changes_of_the_mappings_wake(void **state)
{
    (void)state;
    begin(&(struct guest_options){SHOW_MONITOR});
    start_waiting();
    map(LINE, OTHER); /* as full of zeros */
    join(0);
    assert_int_equal(exits[0].VpContext.Rip, HALTED);
    assert_int_equal(count_at(WOKEN), 1);
    guest_end(&guest);
}

/* The run ends, and with it the wait: the next run goes on behind MWAIT. */
static void cancel_wakes(void **state)
{
    (void)state;
    begin(&(struct guest_options){SHOW_MONITOR});
    start_waiting();
    assert_ok(WHvCancelRunVirtualProcessor(guest.partition, 0, 0));
    join(0);
    assert_int_equal(exits[0].ExitReason, WHvRunVpExitReasonCanceled);
    assert_int_equal(exits[0].VpContext.Rip, BEHIND_MWAIT);
    run_to(&guest, WHvRunVpExitReasonX64Halt);
    assert_field(&guest, VpContext.Rip, HALTED);
    guest_end(&guest);
}

static void request(WHV_INTERRUPT_TYPE type, UINT32 vector)
{
    const WHV_INTERRUPT_CONTROL control = {.Type = (UINT8)type, .Vector = vector};

    assert_ok(WHvRequestInterrupt(guest.partition, &control, sizeof(control)));
}

/* With a local APIC. Handlers count and return; so does the code behind MWAIT, then it sleeps in HLT until the cancel. */
static void begin_with_apic(UINT8 extensions, bool interrupts)
{
    static const UINT8 handler[] = {0xf0, 0x66, 0xff, 0x06, (WOKEN + 4) & 0xff, (WOKEN + 4) >> 8, 0xcf}; /* lock inc; iret */
    const WHV_REGISTER_NAME names[] = {WHvX64RegisterApicSpurious};
    const WHV_REGISTER_VALUE values[] = {{.Reg64 = 0x1ff}};

    begin(&(struct guest_options){SHOW_MONITOR, .apic_mode = WHvX64LocalApicEmulationModeXApic});
    assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, 0, names, 1, values));
    guest_load(&guest, HANDLERS + 16 * 0x41, handler, sizeof(handler));
    guest_load(&guest, HANDLERS + 16 * 2, handler, sizeof(handler));
    load_waiter(extensions, interrupts);
}

static void end_with_apic(unsigned handled)
{
    wait_for(WOKEN, 1);
    assert_ok(WHvCancelRunVirtualProcessor(guest.partition, 0, 0));
    join(0);
    assert_int_equal(exits[0].ExitReason, WHvRunVpExitReasonCanceled);
    assert_int_equal(count_at(WOKEN + 4), handled);
    guest_end(&guest);
}

static void interrupts_wake(void **state)
{
    (void)state;
    begin_with_apic(0, true);
    start_waiting();
    request(WHvX64InterruptTypeFixed, 0x41);
    end_with_apic(1);
}

/* IF is clear: only with the extension. */
static void masked_interrupts_wake(void **state)
{
    (void)state;
    begin_with_apic(1, false);
    start_waiting();
    request(WHvX64InterruptTypeFixed, 0x41);
    end_with_apic(0);
    begin_with_apic(0, false);
    start_waiting();
    request(WHvX64InterruptTypeFixed, 0x41);
    wait_a_while();
    assert_int_equal(count_at(WOKEN), 0);
    atomic_fetch_add((_Atomic UINT32 *)(void *)(guest.ram + LINE), 1);
    end_with_apic(0);
}

static void nmis_wake(void **state)
{
    (void)state;
    begin_with_apic(0, false);
    start_waiting();
    request(WHvX64InterruptTypeNmi, 0);
    end_with_apic(1);
}

/* INIT ends it for good: the bootstrap processor starts over. */
static void init_wakes(void **state)
{
    (void)state;
    begin_with_apic(0, false);
    start_waiting();
    request(WHvX64InterruptTypeInit, 0);
    while (WHvCancelRunVirtualProcessor(guest.partition, 0, 0) == S_OK) {
        join(0);
        if (exits[0].VpContext.Cs.Selector == 0xf000)
            break;
        start(0);
    }
    assert_int_equal(count_at(WOKEN), 0);
    guest_end(&guest);
}

/* ---- what it costs ---- */

/* 64 processors in MWAIT on 64 threads: all are asleep, and each looks at its line after 2, 4, .. 64 ms and then every 64. */
static void waiting_processors_cost_nothing(void **state)
{
    uint64_t ms = 200;

    (void)state;
    begin(&(struct guest_options){SHOW_MONITOR, .processors = MAX});
    for (UINT32 i = 0; i < MAX; i++) {
        const WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterRip, WHvX64RegisterRsp};
        const WHV_REGISTER_VALUE values[] = {{.Segment = {.Limit = 0xffff, .Attributes = 0x9b}}, {.Reg64 = CODE}, {.Reg64 = STACK}};
        if (i)
            assert_ok(WHvCreateVirtualProcessor(guest.partition, i, 0));
        assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, i, names, 3, values));
    }
    for (size_t i = 0; i < MAX; i++)
        start(i);
    wait_for(READY, MAX);
    sleepers_wait(ids, MAX);
    const uint64_t wakes = sleepers_wakes(ids, MAX, &ms);
    assert_in_range(wakes, 0, MAX * (6 + 2 * ms / 64)); /* twice: who wakes may have to wait for the memory's lock */
    assert_int_equal(count_at(WOKEN), 0);
    assert_ok(WHvWriteGpaRange(guest.partition, 0, LINE, (WHV_ACCESS_GPA_CONTROLS){0}, "\0", 1)); /* wakes all */
    for (UINT32 i = 0; i < MAX; i++) {
        join(i);
        assert_int_equal(exits[i].ExitReason, WHvRunVpExitReasonX64Halt);
    }
    assert_int_equal(count_at(WOKEN), MAX);
    guest_end(&guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("MON-1", "O MONITOR: hidden by default", hidden_by_default),
        CASE("MON-2", "O MONITOR: shown by CPUID results", shown_by_cpuid_results),
        CASE("MON-3", "O MWAIT: stores of the host", stores_of_the_host_wake),
        CASE("MON-4", "O MWAIT: cancel", cancel_wakes),
        CASE("MON-5", "O MWAIT: interrupts", interrupts_wake),
        CASE("MON-6", "O MWAIT: masked interrupts", masked_interrupts_wake),
        CASE("MON-7", "O MWAIT: NMI", nmis_wake),
        CASE("MON-8", "O MWAIT: INIT", init_wakes),
        CASE("MON-9", "O MWAIT: host time", waiting_processors_cost_nothing),
        CASE("MON-10", "O MWAIT: memory at several addresses", stores_through_another_address_wake),
        CASE("MON-11", "O MWAIT: mappings that change", changes_of_the_mappings_wake),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
