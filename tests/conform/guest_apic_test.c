/*
 * The emulated local APICs from outside: WHvRequestInterrupt in all its forms (fixed, lowest priority, NMI, INIT, SIPI,
 * LINT1; physical and logical destinations in three models; edge and level), WHvGetInterruptTargetVpSet with the same
 * destinations, ExtInt events, what comes first, and time that stands still. Three processors; who must be reached is
 * worked out here again, from SDM 3A 11.6.2 and 11.12.10.
 */
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "guest.h"

enum { PROCESSORS = 3, MARK = 0x77, HANDLED = 0x99, ALL = 7 };

#define R(name) WHvX64Register##name

/* ---- processors ---- */

static void set(struct guest *g, UINT32 vp, WHV_REGISTER_NAME name, UINT64 number)
{
    const WHV_REGISTER_VALUE value = {.Reg64 = number};

    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, vp, &name, 1, &value));
}

static UINT64 get(struct guest *g, UINT32 vp, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value;

    assert_ok(WHvGetVirtualProcessorRegisters(g->partition, vp, &name, 1, &value));
    return value.Reg64;
}

static UINT32 apic_mode;

/* Ready at CODE in 64-bit mode, waiting for nothing. */
static void make_ready(struct guest *g, UINT32 vp)
{
    static const WHV_REGISTER_NAME names[] = {R(Cr3), R(Cr4), R(Efer), R(Cr0),  R(Cs),  R(Ss),
                                              R(Ds),  R(Es),  R(Tr),   R(Idtr), R(Gdtr)};
    enum { COUNT = sizeof(names) / sizeof(names[0]) };
    WHV_REGISTER_VALUE values[COUNT];

    assert_ok(WHvGetVirtualProcessorRegisters(g->partition, 0, names, COUNT, values));
    if (vp) {
        set(g, vp, WHvRegisterInternalActivityState, 0);
        assert_ok(WHvSetVirtualProcessorRegisters(g->partition, vp, names, COUNT, values));
    }
    set(g, vp, R(Rip), CODE);
    set(g, vp, R(Rsp), STACK - 0x1000 * vp);
    set(g, vp, R(Rflags), 0x202);
    set(g, vp, WHvRegisterInterruptState, 0);
    if (apic_mode == WHvX64LocalApicEmulationModeX2Apic)
        set(g, vp, R(ApicBase), get(g, vp, R(ApicBase)) | 0xc00); /* as the guest would */
    set(g, vp, R(ApicSpurious), 0x1ff);
}

/* OUT MARK at CODE; each handler says OUT HANDLED. */
static void begin(struct guest *g, UINT32 mode)
{
    const struct guest_options options = {.apic_mode = mode, .processors = PROCESSORS};
    static const UINT8 handler[] = {0xe6, HANDLED};

    apic_mode = mode;
    guest_begin(g, &options);
    guest_long_mode(g, 0);
    guest_code(g, 0xe6, MARK, 0xeb, 0xfc); /* again: out MARK, al; jmp again */
    for (unsigned i = 0; i < 256; i++)
        guest_load(g, HANDLERS + 16 * i, handler, sizeof(handler));
    for (UINT32 vp = 1; vp < PROCESSORS; vp++)
        assert_ok(WHvCreateVirtualProcessor(g->partition, vp, 0));
    for (UINT32 vp = 0; vp < PROCESSORS; vp++)
        make_ready(g, vp);
}

/* Run to the next OUT; its address: CODE, or that of a handler. */
static UINT64 run_on(struct guest *g, UINT32 vp)
{
    memset(&g->exit, 0xcc, sizeof(g->exit));
    assert_ok(WHvRunVirtualProcessor(g->partition, vp, &g->exit, sizeof(g->exit)));
    if (g->exit.ExitReason != WHvRunVpExitReasonX64IoPortAccess)
        print_exit(&g->exit);
    assert_int_equal(g->exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    return g->exit.VpContext.Rip;
}

static UINT64 handler_of(UINT32 vector)
{
    return HANDLERS + 16 * vector;
}

/* Which processors have the vector in a register of 256 bits. */
static unsigned who_has(struct guest *g, WHV_REGISTER_NAME first, UINT32 vector)
{
    unsigned set_of = 0;

    for (UINT32 vp = 0; vp < PROCESSORS; vp++)
        set_of |= (unsigned)(get(g, vp, (WHV_REGISTER_NAME)(first + vector / 32)) >> vector % 32 & 1) << vp;
    return set_of;
}

static HRESULT request(struct guest *g, UINT32 type, UINT32 vector, UINT32 destination, bool is_logical, bool is_level)
{
    const WHV_INTERRUPT_CONTROL control = {.Type = type & 0xff,
                                           .DestinationMode = is_logical,
                                           .TriggerMode = is_level,
                                           .Destination = destination,
                                           .Vector = vector};

    return WHvRequestInterrupt(g->partition, &control, sizeof(control));
}

/* ---- destinations ---- */

enum model { FLAT, CLUSTER, X2APIC };

/* Logical ids: flat 1, 2, 4; clusters 1 and 2: 11, 12, 21. */
static const UINT32 logical_ids[3][PROCESSORS] = {{0x01, 0x02, 0x04}, {0x11, 0x12, 0x21}, {1, 2, 4}};

static void set_model(struct guest *g, enum model model)
{
    _Alignas(16) UINT8 page[4096];
    UINT32 written;

    for (UINT32 vp = 0; vp < PROCESSORS && model != X2APIC; vp++) {
        const UINT32 ldr = logical_ids[model][vp] << 24, dfr = model == FLAT ? 0xffffffff : 0x0fffffff;
        assert_ok(WHvGetVirtualProcessorInterruptControllerState2(g->partition, vp, page, sizeof(page), &written));
        memcpy(page + 0xd0, &ldr, 4);
        memcpy(page + 0xe0, &dfr, 4);
        assert_ok(WHvSetVirtualProcessorInterruptControllerState2(g->partition, vp, page, sizeof(page)));
    }
}

/* From outside FF is everybody in x2APIC mode too: an MSI or an I/O APIC has 8 bits for it. */
static unsigned who_is(enum model model, UINT32 destination, bool is_logical)
{
    unsigned set_of = 0;

    if (destination == (model == X2APIC ? 0xffffffff : 0xff) || (destination == 0xff && !is_logical))
        return ALL;
    for (unsigned vp = 0; vp < PROCESSORS; vp++) {
        const UINT32 id = logical_ids[model][vp];
        bool matches = destination == vp;
        if (is_logical && model == FLAT)
            matches = destination & id;
        else if (is_logical && model == CLUSTER)
            matches = destination >> 4 == id >> 4 && (destination & id & 15);
        else if (is_logical)
            matches = destination >> 16 == 0 && (destination & id & 0xffff);
        set_of |= (unsigned)matches << vp;
    }
    return set_of;
}

/* Task priorities 20, 10, 30: of several, 1 is first, then 0. */
static unsigned lowest_of(unsigned set_of)
{
    return set_of & 2 ? 2 : set_of & 1 ? 1 : set_of;
}

static const struct destination {
    UINT32 number;
    bool is_logical;
} destinations[] = {
    {0, false},   {1, false},      {2, false},     {3, false},         {77, false},  {0xff, false}, {0xffffffff, false},
    {0, true},    {1, true},       {2, true},      {3, true},          {4, true},    {5, true},     {7, true},
    {8, true},    {0x11, true},    {0x13, true},   {0x1f, true},       {0x21, true}, {0x2e, true},  {0x31, true},
    {0xff, true}, {0x10001, true}, {0xffff, true}, {0xffffffff, true},
};

static bool fits(enum model model, const struct destination *d)
{
    return model == X2APIC || d->number <= 0xff;
}

/* Fixed and lowest priority arrive in IRR, level-triggered ones in TMR too; nobody else gets anything. */
static void check_destination(struct guest *g, enum model model, const struct destination *d, UINT32 *vector)
{
    const unsigned all = who_is(model, d->number, d->is_logical);
    UINT32 vps[PROCESSORS], count;
    unsigned named = 0;

    for (unsigned i = 0; i < 4; i++, ++*vector) {
        const bool lowest = i & 1, level = i & 2;
        const unsigned want = lowest ? lowest_of(all) : all;
        assert_ok(request(g, lowest ? WHvX64InterruptTypeLowestPriority : WHvX64InterruptTypeFixed, *vector, d->number,
                          d->is_logical, level));
        const unsigned irr = who_has(g, R(ApicIrr0), *vector), tmr = who_has(g, R(ApicTmr0), *vector);
        if (irr != want || tmr != (level ? want : 0))
            print_error("model %d, destination %#x, logical %d, lowest %d, level %d: IRR of %#x, TMR of %#x, not %#x\n",
                        model, d->number, d->is_logical, lowest, level, irr, tmr, want);
        assert_int_equal(irr, want);
        assert_int_equal(tmr, level ? want : 0);
    }
    assert_ok(WHvGetInterruptTargetVpSet(g->partition, d->number, (WHV_INTERRUPT_DESTINATION_MODE)d->is_logical, vps,
                                         PROCESSORS, &count));
    for (UINT32 i = 0; i < count; i++)
        named |= 1u << vps[i];
    assert_int_equal(named, all);
}

static void fixed_and_lowest(void **state)
{
    struct guest g;

    (void)state;
    for (enum model model = FLAT; model <= X2APIC; model++) {
        UINT32 vector = 32;
        begin(&g, model == X2APIC ? WHvX64LocalApicEmulationModeX2Apic : WHvX64LocalApicEmulationModeXApic);
        set_model(&g, model);
        set(&g, 0, R(Cr8), 2);
        set(&g, 1, R(Cr8), 1);
        set(&g, 2, R(Cr8), 3);
        for (size_t i = 0; i < sizeof(destinations) / sizeof(destinations[0]); i++)
            if (fits(model, &destinations[i]))
                check_destination(&g, model, &destinations[i], &vector);
        guest_end(&g);
    }
}

/* An APIC that is disabled by software takes neither, and lowest priority goes to somebody else. */
static void disabled(void **state)
{
    struct guest g;

    (void)state;
    begin(&g, WHvX64LocalApicEmulationModeXApic);
    set(&g, 1, R(ApicSpurious), 0xff);
    assert_ok(request(&g, WHvX64InterruptTypeFixed, 0x40, 0xff, false, false));
    assert_int_equal(who_has(&g, R(ApicIrr0), 0x40), 5);
    assert_ok(request(&g, WHvX64InterruptTypeFixed, 0x41, 1, false, false));
    assert_int_equal(who_has(&g, R(ApicIrr0), 0x41), 0);
    set(&g, 0, R(Cr8), 1);
    assert_ok(request(&g, WHvX64InterruptTypeLowestPriority, 0x42, 0xff, false, false));
    assert_int_equal(who_has(&g, R(ApicIrr0), 0x42), 4);
    guest_end(&g);
}

/* ---- the other types ---- */

/* An NMI comes to those it is meant for, whatever IF, TPR and the vector say; the others do not notice. */
static void non_maskable(void **state)
{
    struct guest g;

    (void)state;
    for (enum model model = FLAT; model <= X2APIC; model++) {
        begin(&g, model == X2APIC ? WHvX64LocalApicEmulationModeX2Apic : WHvX64LocalApicEmulationModeXApic);
        set_model(&g, model);
        for (size_t i = 0; i < sizeof(destinations) / sizeof(destinations[0]); i++) {
            const struct destination *d = &destinations[i];
            if (!fits(model, d))
                continue;
            for (UINT32 vp = 0; vp < PROCESSORS; vp++) {
                make_ready(&g, vp);
                set(&g, vp, R(Rflags), 2);
                set(&g, vp, R(Cr8), 15);
            }
            assert_ok(request(&g, WHvX64InterruptTypeNmi, i % 2 ? 0 : 0x55, d->number, d->is_logical, false));
            for (UINT32 vp = 0; vp < PROCESSORS; vp++)
                assert_int_equal(run_on(&g, vp),
                                 who_is(model, d->number, d->is_logical) >> vp & 1 ? handler_of(2) : CODE);
        }
        guest_end(&g);
    }
}

struct sleeper {
    struct guest *guest;
    UINT32 vp;
    WHV_RUN_VP_EXIT_CONTEXT exit;
};

static void *sleep_thread(void *argument)
{
    struct sleeper *s = argument;

    assert_ok(WHvRunVirtualProcessor(s->guest->partition, s->vp, &s->exit, sizeof(s->exit)));
    return NULL;
}

static void sleep_until_cancelled(struct guest *g, UINT32 vp)
{
    struct sleeper s = {.guest = g, .vp = vp};
    const WHV_REGISTER_NAME name = R(Rip);
    WHV_REGISTER_VALUE value;
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, sleep_thread, &s), 0);
    while (WHvGetVirtualProcessorRegisters(g->partition, vp, &name, 1, &value) != WHV_E_INVALID_VP_STATE)
        sched_yield();
    assert_ok(WHvCancelRunVirtualProcessor(g->partition, vp, 0));
    pthread_join(thread, NULL);
    assert_int_equal(s.exit.ExitReason, WHvRunVpExitReasonCanceled);
}

/* INIT: as after reset, waiting; the others go on. SIPI: real mode at the vector's page, once; without INIT it is
 * nothing. */
static void start_up(void **state)
{
    static const UINT8 code[] = {0xe6, MARK};
    struct guest g;

    (void)state;
    for (UINT32 mode = WHvX64LocalApicEmulationModeXApic; mode <= WHvX64LocalApicEmulationModeX2Apic; mode++)
        for (UINT32 to = 1; to < PROCESSORS; to++) {
            begin(&g, mode);
            guest_load(&g, 0x5000, code, sizeof(code));
            assert_ok(request(&g, WHvX64InterruptTypeSipi, 5, to, false, false));
            assert_int_equal(run_on(&g, to), CODE); /* it was not waiting */
            set(&g, to, R(Rax), 0x1234);
            set(&g, to, R(Cr2), 0x5678);
            assert_ok(request(&g, WHvX64InterruptTypeInit, 0, to, false, false));
            for (unsigned i = 0; i < 1000 && get(&g, to, R(Rip)) != 0xfff0; i++)
                sleep_until_cancelled(&g, to); /* (a cancel may come before INIT is looked at); nothing of the guest runs */
            assert_int_equal(get(&g, to, R(Rip)), 0xfff0);
            assert_int_equal(get(&g, to, R(Rax)), 0);
            assert_int_equal(get(&g, to, R(Cr2)), 0);
            assert_int_equal(get(&g, to, R(Cr0)) & 0x80000001, 0);
            assert_int_equal(get(&g, to, R(ApicSpurious)), 0xff);
            assert_int_equal(get(&g, to, WHvRegisterInternalActivityState) & 1, 1);
            assert_int_equal(run_on(&g, 0), CODE);
            assert_int_equal(run_on(&g, 3 - to), CODE);
            assert_ok(request(&g, WHvX64InterruptTypeSipi, 5, to, false, false));
            assert_int_equal(run_on(&g, to), 0);
            assert_int_equal(g.exit.VpContext.Cs.Selector, 0x500);
            assert_int_equal(g.exit.VpContext.Cs.Base, 0x5000);
            assert_int_equal(get(&g, to, WHvRegisterInternalActivityState), 0);
            assert_ok(request(&g, WHvX64InterruptTypeSipi, 6, to, false, false));
            assert_int_equal(run_on(&g, to), 0);
            assert_int_equal(g.exit.VpContext.Cs.Selector, 0x500);
            guest_end(&g);
        }
}

/* The LINT1 pin: what its entry says, at whom it is aimed. */
static void local_interrupt(void **state)
{
    static const struct {
        UINT32 entry;
        UINT32 handler; /* 0: nothing comes */
    } rows[] = {{0x10000 | 0x61, 0}, {0x61, 0x61}, {0x400, 2}, {0x10400, 0}};
    struct guest g;

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (UINT32 to = 0; to < PROCESSORS; to++) {
            begin(&g, WHvX64LocalApicEmulationModeXApic);
            for (UINT32 vp = 0; vp < PROCESSORS; vp++)
                set(&g, vp, R(ApicLvtLint1), rows[i].entry);
            assert_ok(request(&g, WHvX64InterruptTypeLocalInt1, 0, to, false, false));
            for (UINT32 vp = 0; vp < PROCESSORS; vp++)
                assert_int_equal(run_on(&g, vp), vp == to && rows[i].handler ? handler_of(rows[i].handler) : CODE);
            guest_end(&g);
        }
}

/* An interrupt of an 8259, by PendingEvent: where LINT0 lets it in, whatever the priorities; nothing of it is in IRR or
 * ISR. */
static void external(void **state)
{
    const WHV_REGISTER_NAME name = WHvRegisterPendingEvent;
    struct guest g;

    (void)state;
    for (UINT32 mode = WHvX64LocalApicEmulationModeXApic; mode <= WHvX64LocalApicEmulationModeX2Apic; mode++) {
        begin(&g, mode);
        const WHV_REGISTER_VALUE value = {
            .ExtIntEvent = {.EventPending = 1, .EventType = WHvX64PendingEventExtInt, .Vector = 0x23}};
        set(&g, 0, R(Cr8), 15);
        assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value));
        assert_int_equal(run_on(&g, 0), CODE); /* LINT0 is masked */
        assert_int_equal(get(&g, 0, name) & 1, 1);
        set(&g, 0, R(ApicLvtLint0), 0x700);
        set(&g, 0, R(Rflags), 2);
        assert_int_equal(run_on(&g, 0), CODE); /* IF is clear */
        set(&g, 0, R(Rflags), 0x202);
        assert_int_equal(run_on(&g, 0), handler_of(0x23));
        assert_int_equal(who_has(&g, R(ApicIsr0), 0x23), 0);
        assert_int_equal(who_has(&g, R(ApicIrr0), 0x23), 0);
        assert_int_equal(get(&g, 0, name) & 1, 0);
        guest_end(&g);
    }
}

/* ---- order ---- */

/* The highest vector first; what is served holds back its class and all below, CR8 holds back up to its own; then the
 * next. */
static void order(void **state)
{
    static const UINT8 handler[] = {0x31, 0xc0, 0xb9,    0x0b, 0x08, 0,    0,   0x31,
                                    0xd2, 0xe6, HANDLED, 0x0f, 0x30, 0x48, 0xcf}; /* OUT; EOI; IRETQ */
    static const UINT32 vectors[] = {0x31, 0x3f, 0x52, 0x81, 0x8f, 0xf0}, expected[] = {0xf0, 0x8f, 0x81, 0x52};
    struct guest g;

    (void)state;
    begin(&g, WHvX64LocalApicEmulationModeX2Apic);
    for (unsigned i = 0; i < 256; i++)
        guest_load(&g, HANDLERS + 16 * i, handler, sizeof(handler));
    guest_code(&g, 0xeb, 0xfe); /* jmp $ */
    set(&g, 0, R(Cr8), 3);
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++)
        assert_ok(request(&g, WHvX64InterruptTypeFixed, vectors[i], 0, false, false));
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        assert_int_equal(run_on(&g, 0), handler_of(expected[i]) + 9);
        assert_int_equal(who_has(&g, R(ApicIsr0), expected[i]), 1);
        assert_int_equal(get(&g, 0, R(ApicPpr)) & 0xf0, expected[i] & 0xf0);
        set(&g, 0, R(Rip), handler_of(expected[i]) + 11);
    }
    guest_code(&g, 0xe6, MARK);
    assert_int_equal(run_on(&g, 0), CODE); /* class 3 waits for CR8 */
    guest_code(&g, 0xeb, 0xfe);
    set(&g, 0, R(Cr8), 2);
    assert_int_equal(run_on(&g, 0), handler_of(0x3f) + 9);
    set(&g, 0, R(Rip), handler_of(0x3f) + 11);
    assert_int_equal(run_on(&g, 0), handler_of(0x31) + 9);
    guest_end(&g);
}

/* ---- time ---- */

/* A timer that runs stands still with the partition's time, and goes on with it. */
static void timer_stands_still(void **state)
{
    const struct timespec pause = {.tv_nsec = 50000000};
    struct guest g;
    UINT64 left = 0;

    (void)state;
    begin(&g, WHvX64LocalApicEmulationModeXApic);
    assert_int_equal(run_on(&g, 0), CODE);            /* time has begun */
    for (UINT32 count = 1 << 24; !left; count *= 2) { /* until it does not fire before time stops */
        set(&g, 0, R(ApicLvtTimer), 0x71);
        set(&g, 0, R(ApicDivide), 0xb);
        set(&g, 0, R(ApicInitCount), count);
        assert_ok(WHvSuspendPartitionTime(g.partition));
        left = get(&g, 0, R(ApicCurrentCount));
        if (!left)
            assert_ok(WHvResumePartitionTime(g.partition));
    }
    const bool fired = who_has(&g, R(ApicIrr0), 0x71);
    nanosleep(&pause, NULL);
    assert_int_equal(get(&g, 0, R(ApicCurrentCount)), left);
    assert_int_equal(who_has(&g, R(ApicIrr0), 0x71), fired);
    assert_ok(WHvResumePartitionTime(g.partition));
    while (!who_has(&g, R(ApicIrr0), 0x71))
        sched_yield();
    assert_int_equal(run_on(&g, 0), handler_of(0x71));
    guest_end(&g);
}

/* The guest's RDTSC goes by what was set, IA32_TSC_ADJUST takes it along; each processor has its own. */
static void time_stamp(void **state)
{
    static const UINT8 code[] = {0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20,
                                 0x48, 0x09, 0xd0, 0xe6, MARK}; /* rax = rdtsc; out */
    static const UINT8 adjust[] = {0x0f, 0x30, 0xe6, MARK};     /* wrmsr; out */
    const UINT64 far = 1ull << 60;
    struct guest g;

    (void)state;
    begin(&g, WHvX64LocalApicEmulationModeXApic);
    guest_load(&g, CODE, code, sizeof(code));
    guest_load(&g, CODE + 0x100, adjust, sizeof(adjust));
    for (UINT32 vp = 0; vp < PROCESSORS; vp++) {
        const UINT64 at = far * (vp + 1);
        assert_ok(WHvSuspendPartitionTime(g.partition));
        set(&g, vp, R(Rip), CODE);
        set(&g, vp, R(Tsc), at);
        assert_int_equal(get(&g, vp, R(Tsc)), at); /* it stands */
        run_on(&g, vp);
        const UINT64 seen = get(&g, vp, R(Rax)), more = get(&g, vp, R(TscAdjust)) + far / 2;
        if (seen < at || seen - at >= far / 4)
            print_error("processor %u: the guest's time stamp is %#llx, set to %#llx\n", vp, (unsigned long long)seen,
                        (unsigned long long)at);
        assert_true(seen >= at && seen - at < far / 4);
        assert_true(get(&g, vp, R(Tsc)) >= seen);
        set(&g, vp, R(Rip), CODE + 0x100);
        set(&g, vp, R(Rcx), 0x3b);
        set(&g, vp, R(Rax), (UINT32)more);
        set(&g, vp, R(Rdx), more >> 32);
        run_on(&g, vp);
        assert_int_equal(get(&g, vp, R(TscAdjust)), more);
        set(&g, vp, R(Rip), CODE);
        run_on(&g, vp);
        assert_true(get(&g, vp, R(Rax)) - seen >= far / 2 && get(&g, vp, R(Rax)) - seen < far / 4 * 3);
    }
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("APIC-1", "F 9.5 RequestInterrupt: fixed, lowest priority; F 1.1 GetInterruptTargetVpSet",
             fixed_and_lowest),
        CASE("APIC-2", "F 9.5: software-disabled, dropped", disabled),
        CASE("APIC-3", "F 9.5 RequestInterrupt: NMI", non_maskable),
        CASE("APIC-4", "F 9.5 RequestInterrupt: INIT, SIPI; F 9.9", start_up),
        CASE("APIC-5", "F 9.5 RequestInterrupt: LINT1", local_interrupt),
        CASE("APIC-6", "F 9.5 PendingEvent: ExtInt", external),
        CASE("APIC-7", "F 9.5: priorities", order),
        CASE("APIC-8", "F 9.8: timers", timer_stands_still),
        CASE("APIC-9", "F 9.8: TSC", time_stamp),
    };
    return cmocka_run_group_tests_name("apic", tests, NULL, NULL);
}
