/*
 * A guest that is put back runs on bit for bit as it did: exits, registers, x87, SSE and AVX state, the APIC, memory.
 *
 * The oracle is the first run after the snapshot: a trace of pictures, one an exit. Random guests execute random bytes,
 * single-stepped (so that every exit comes at a known instruction, in the middle of REP too).
 */
#include "guest.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TRACE = 160, PICTURE_XSAVE = 4096 };

struct picture {
    WHV_RUN_VP_EXIT_CONTEXT exit;
    WHV_REGISTER_VALUE registers[64];
    UINT8 xsave[PICTURE_XSAVE];
    UINT8 apic[4096];
    UINT64 memory;
};

static const WHV_REGISTER_NAME names[] = {
    WHvX64RegisterRax, WHvX64RegisterRcx, WHvX64RegisterRdx, WHvX64RegisterRbx, WHvX64RegisterRsp, WHvX64RegisterRbp,
    WHvX64RegisterRsi, WHvX64RegisterRdi, WHvX64RegisterR8, WHvX64RegisterR9, WHvX64RegisterR10, WHvX64RegisterR11,
    WHvX64RegisterR12, WHvX64RegisterR13, WHvX64RegisterR14, WHvX64RegisterR15, WHvX64RegisterRip, WHvX64RegisterRflags,
    WHvX64RegisterEs, WHvX64RegisterCs, WHvX64RegisterSs, WHvX64RegisterDs, WHvX64RegisterFs, WHvX64RegisterGs,
    WHvX64RegisterLdtr, WHvX64RegisterTr, WHvX64RegisterIdtr, WHvX64RegisterGdtr, WHvX64RegisterCr0, WHvX64RegisterCr2,
    WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterCr8, WHvX64RegisterDr0, WHvX64RegisterDr1, WHvX64RegisterDr2,
    WHvX64RegisterDr3, WHvX64RegisterDr6, WHvX64RegisterDr7, WHvX64RegisterXCr0, WHvX64RegisterEfer,
    WHvX64RegisterKernelGsBase, WHvX64RegisterApicBase, WHvX64RegisterPat, WHvX64RegisterSysenterCs,
    WHvX64RegisterSysenterEip, WHvX64RegisterSysenterEsp, WHvX64RegisterStar, WHvX64RegisterLstar, WHvX64RegisterCstar,
    WHvX64RegisterSfmask, WHvX64RegisterTscAux, WHvX64RegisterTscAdjust, WHvRegisterPendingInterruption,
    WHvRegisterInterruptState, WHvRegisterPendingEvent, WHvX64RegisterDeliverabilityNotifications,
};
enum { NAMES = sizeof(names) / sizeof(names[0]) };

static UINT64 random_state;

static UINT64 draw(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1dull;
}

static UINT64 hash(const void *bytes, size_t size)
{
    UINT64 sum = 1, word;

    for (size_t i = 0; i < size; i += 8) {
        memcpy(&word, (const UINT8 *)bytes + i, 8);
        sum = (sum ^ word) * 0x9e3779b97f4a7c15ull;
        sum ^= sum >> 29;
    }
    return sum;
}

/* `memory`: how much of it from 0 on. */
static void take_picture(struct guest *g, UINT32 vp, bool has_apic, UINT64 memory, struct picture *p)
{
    UINT32 written;

    memset(p, 0, sizeof(*p));
    p->exit = g->exit;
    if (p->exit.ExitReason == WHvRunVpExitReasonX64Rdtsc)
        memset(&p->exit.ReadTsc, 0, sizeof(p->exit.ReadTsc)); /* the time is not the same */
    assert_ok(WHvGetVirtualProcessorRegisters(g->partition, vp, names, NAMES, p->registers));
    assert_ok(WHvGetVirtualProcessorXsaveState(g->partition, vp, p->xsave, sizeof(p->xsave), &written));
    if (has_apic)
        assert_ok(WHvGetVirtualProcessorInterruptControllerState2(g->partition, vp, p->apic, sizeof(p->apic), &written));
    p->memory = hash(g->ram, memory);
}

static UINT8 code_before[16];

static void compare(const struct picture *a, const struct picture *b, unsigned seed, unsigned at)
{
    if (memcmp(a, b, sizeof(*a)) == 0)
        return;
    print_error("seed %u, exit %u differs\n", seed, at);
    for (int i = 0; at && i < 16; i++)
        print_error(" %02x", code_before[i]);
    print_error(" at %#llx, RFLAGS %#llx\n", (unsigned long long)a[-1].registers[16].Reg64, (unsigned long long)a[-1].registers[17].Reg64);
    print_exit(&a->exit);
    print_exit(&b->exit);
    for (unsigned i = 0; i < NAMES; i++)
        if (memcmp(&a->registers[i], &b->registers[i], 16))
            print_error("register %#x: %#llx %#llx, then %#llx %#llx\n", (unsigned)names[i],
                        (unsigned long long)a->registers[i].Reg128.Low64, (unsigned long long)a->registers[i].Reg128.High64,
                        (unsigned long long)b->registers[i].Reg128.Low64, (unsigned long long)b->registers[i].Reg128.High64);
    for (unsigned i = 0; i < PICTURE_XSAVE; i++)
        if (a->xsave[i] != b->xsave[i])
            print_error("xsave %u: %02x, then %02x\n", i, a->xsave[i], b->xsave[i]);
    for (unsigned i = 0; i < 4096; i++)
        if (a->apic[i] != b->apic[i])
            print_error("apic %#x: %02x, then %02x\n", i, a->apic[i], b->apic[i]);
    print_error("memory %#llx, then %#llx\n", (unsigned long long)a->memory, (unsigned long long)b->memory);
    fail();
}

/* ---- random guests ---- */

static _Atomic int steps_since;
static _Atomic bool watching;

/* A guest that has cleared TF and loops: end it. What it did is not compared. */
static void *watch(void *context)
{
    WHV_PARTITION_HANDLE partition = context;
    int before = -1;

    while (watching) {
        usleep(20000);
        int now = steps_since;
        if (now == before)
            WHvCancelRunVirtualProcessor(partition, 0, 0);
        before = now;
    }
    return NULL;
}

/* One exit, answered as a client would, always the same way. False: cancelled. */
static bool step(struct guest *g)
{
    memset(&g->exit, 0, sizeof(g->exit));
    guest_set(g, WHvX64RegisterRflags, guest_get(g, WHvX64RegisterRflags) | 0x100);
    assert_ok(WHvRunVirtualProcessor(g->partition, 0, &g->exit, sizeof(g->exit)));
    steps_since++;
    switch ((UINT32)g->exit.ExitReason) {
    case WHvRunVpExitReasonCanceled:
        return false;
    case WHvRunVpExitReasonException:
        if (g->exit.VpException.ExceptionType != 1) /* not the single step: skip the instruction */
            guest_set(g, WHvX64RegisterRip, CODE + draw() % 4096);
        return true;
    case WHvRunVpExitReasonX64Halt:
        return true;
    default:
        guest_set(g, WHvX64RegisterRip, g->exit.VpContext.Rip + 1);
        return true;
    }
}

static void fill(struct guest *g, UINT64 from, UINT64 size)
{
    for (UINT64 i = 0; i < size; i += 8) {
        UINT64 word = draw();
        memcpy(g->ram + from + i, &word, 8);
    }
}

/* Prefer instructions worth it: strings with REP, x87, SSE. */
static void sow(struct guest *g)
{
    static const UINT8 seeds[][4] = {{0xf3, 0xa4}, {0xf3, 0xaa}, {0xf3, 0xa5}, {0xd9, 0xe8}, {0xde, 0xc1}, {0xd9, 0xfa},
                                     {0x0f, 0x58, 0xc1}, {0x66, 0x0f, 0xef, 0xca}, {0x0f, 0x11, 0x07}, {0x0f, 0xa2},
                                     {0xfb}, {0x17}, {0x8e, 0xd0}, {0xcd, 0x33}, {0x9d}, {0x0f, 0xae, 0x07}, {0x0f, 0xae, 0x0f},
                                     {0x66, 0x0f, 0xfe, 0xc1}, {0xc5, 0xf5, 0x58, 0xc2}, {0xc5, 0xed, 0xfe, 0xd9}};

    for (UINT64 at = CODE; at < CODE + 0x1000; at += 1 + draw() % 12)
        memcpy(g->ram + at, seeds[draw() % (sizeof(seeds) / 4)], 4);
}

static void begin_random(struct guest *g, unsigned seed)
{
    static const struct guest_options options = {.extended_exits = 1 << 2 | 1 << 3, .exceptions = ~0ull & 0x2f7dfb};

    random_state = 0x9e3779b97f4a7c15ull * (seed + 1);
    guest_begin(g, &options);
    fill(g, CODE, 0x2000);
    sow(g);
    if (seed & 1)
        guest_long_mode(g, seed >> 1 & 1 ? 3 : 0);
    if (seed & 4)
        guest_set(g, WHvX64RegisterCr4, guest_get(g, WHvX64RegisterCr4) | 0x40600); /* OSFXSR OSXMMEXCPT OSXSAVE */
    if (seed & 4)
        guest_set(g, WHvX64RegisterXCr0, 7);
    for (unsigned i = 0; i < 16; i++) {
        const WHV_REGISTER_NAME name = (WHV_REGISTER_NAME)(WHvX64RegisterXmm0 + i);
        const WHV_REGISTER_VALUE value = {.Reg128 = {.Low64 = draw(), .High64 = draw()}};
        assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, &name, 1, &value));
    }
    for (unsigned i = 0; i < 16; i++)
        if (names[i] != WHvX64RegisterRsp)
            guest_set(g, names[i], draw() % (seed & 8 ? 0x40000 : 0x8000));
}

/* All of the memory now and then. */
static UINT64 looked_at(unsigned n)
{
    return n % 32 == 31 ? RAM_SIZE : 0x4000;
}

static _Atomic unsigned compared, kinds[256];

static unsigned record(struct guest *g, struct picture *trace, UINT64 from)
{
    unsigned n = 0;

    random_state = from;
    while (n < TRACE && step(g))
        take_picture(g, 0, false, looked_at(n), &trace[n]), n++;
    return n;
}

/* OF is undefined after a rotate by more than 1, and depends on how it was computed: what follows may differ. */
static bool differs_undefined(const struct picture *a, const struct picture *b)
{
    const unsigned rflags = 17;
    const UINT64 overflow = 0x800;
    struct picture copy = *b;

    if (((a->registers[rflags].Reg64 ^ b->registers[rflags].Reg64) & ~overflow) ||
        ((a->exit.VpContext.Rflags ^ b->exit.VpContext.Rflags) & ~overflow))
        return false;
    copy.registers[rflags] = a->registers[rflags];
    copy.exit.VpContext.Rflags = a->exit.VpContext.Rflags;
    return a->registers[rflags].Reg64 != b->registers[rflags].Reg64 && memcmp(a, &copy, sizeof(copy)) == 0;
}

static _Atomic unsigned cut_short;

static void replay(struct guest *g, const struct picture *trace, unsigned n, UINT64 from, unsigned seed)
{
    static struct picture now;

    random_state = from;
    for (unsigned i = 0; i < n; i++) {
        memcpy(code_before, g->ram + (guest_get(g, WHvX64RegisterRip) & 0xffff), 16);
        if (!step(g))
            return;
        take_picture(g, 0, false, looked_at(i), &now);
        compared++;
        kinds[(now.exit.ExitReason == WHvRunVpExitReasonException ? now.exit.VpException.ExceptionType
                                                                   : 0x40 + (now.exit.ExitReason & 0x3f) + (now.exit.ExitReason >> 12 << 6)) & 0xff]++;
        if (differs_undefined(&trace[i], &now)) {
            cut_short++;
            return;
        }
        compare(&trace[i], &now, seed, i);
    }
}

static void random_guest(unsigned seed)
{
    static struct picture trace[TRACE];
    struct guest g;
    OWHP_SNAPSHOT_HANDLE s;
    pthread_t watcher;

    begin_random(&g, seed);
    watching = true;
    pthread_create(&watcher, NULL, watch, g.partition);
    for (unsigned i = 0, n = (unsigned)(draw() % 60); i < n && step(&g); i++)
        continue;
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &s));
    const UINT64 from = random_state;
    unsigned n = record(&g, trace, from);
    for (unsigned i = 0; i < 3; i++) {
        assert_ok(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagNone, NULL));
        replay(&g, trace, i == 1 ? n / 2 : n, from, seed);
    }
    watching = false;
    pthread_join(watcher, NULL);
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
}

static void random_guests(void **state)
{
    const char *count = getenv("OPENWHP_TEST_SEEDS");

    (void)state;
    for (unsigned seed = getenv("OPENWHP_TEST_FIRST") ? (unsigned)atoi(getenv("OPENWHP_TEST_FIRST")) : 0; seed < (count ? (unsigned)atoi(count) : 60); seed++)
        random_guest(seed);
    assert_true(count || (compared > 10000 && cut_short < 10));
    print_message("%u exits compared, %u replays cut short\n", compared, cut_short);
    for (unsigned i = 0; count && i < 256; i++)
        if (kinds[i])
            print_message("%s %#x: %u\n", i < 0x40 ? "exception" : "exit", i < 0x40 ? i : i - 0x40, kinds[i]);
}

/* ---- states that are hard to meet by chance ---- */

static void compare_now(struct guest *g, UINT32 vp, const struct picture *before)
{
    struct picture now;

    take_picture(g, vp, true, RAM_SIZE, &now);
    compare(before, &now, vp, 0);
}

static WHV_REGISTER_VALUE get_of(struct guest *g, UINT32 vp, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value;

    assert_ok(WHvGetVirtualProcessorRegisters(g->partition, vp, &name, 1, &value));
    return value;
}

static void set_of(struct guest *g, UINT32 vp, WHV_REGISTER_NAME name, UINT64 number)
{
    const WHV_REGISTER_VALUE value = {.Reg64 = number};

    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, vp, &name, 1, &value));
}

static void request(struct guest *g, UINT32 type, UINT32 destination, UINT32 vector)
{
    const WHV_INTERRUPT_CONTROL control = {.Type = type & 0xff, .Destination = destination, .Vector = vector};

    assert_ok(WHvRequestInterrupt(g->partition, &control, sizeof(control)));
}

/* Everything that can wait, on three processors with xAPIC or x2APIC; then other things; then back. */
static void waiting_things(struct guest *g, bool x2apic)
{
    static struct picture before[3];
    OWHP_SNAPSHOT_HANDLE s;

    guest_begin(g, &(struct guest_options){.apic_mode = x2apic ? 2 : 1, .processors = 3});
    assert_ok(WHvCreateVirtualProcessor(g->partition, 1, 0));
    assert_ok(WHvCreateVirtualProcessor(g->partition, 2, 0));
    for (UINT32 vp = 0; vp < 3; vp++) {
        if (x2apic)
            set_of(g, vp, WHvX64RegisterApicBase, 0xfee00c00 | (vp ? 0 : 0x100));
        set_of(g, vp, (WHV_REGISTER_NAME)(0x3000 + 0x0f), 0x1ff);      /* SVR: enabled */
        set_of(g, vp, (WHV_REGISTER_NAME)(0x3000 + 0x32), 0x20040 + vp); /* periodic */
        set_of(g, vp, (WHV_REGISTER_NAME)(0x3000 + 0x3e), 0xb);
        set_of(g, vp, (WHV_REGISTER_NAME)(0x3000 + 0x38), 0x7fffffff - vp);
        set_of(g, vp, WHvX64RegisterTscAdjust, 1000 + vp);
        set_of(g, vp, WHvX64RegisterKernelGsBase, 0x1234 + vp);
        request(g, 0, vp, 0x50 + vp);
    }
    request(g, 4, 0, 2);
    set_of(g, 0, WHvRegisterInterruptState, 3);
    set_of(g, 1, WHvRegisterPendingInterruption, 1 | 3 << 1 | 1 << 4 | 13 << 16 | (UINT64)0x1234 << 32);
    set_of(g, 1, WHvRegisterInternalActivityState, 2);
    set_of(g, 2, WHvX64RegisterDeliverabilityNotifications, 2);
    assert_ok(OwhpCreateSnapshot(g->partition, 0, &s));
    memset(&g->exit, 0, sizeof(g->exit));
    UINT64 activity[3], tsc[3];
    for (UINT32 vp = 0; vp < 3; vp++) {
        take_picture(g, vp, true, RAM_SIZE, &before[vp]);
        activity[vp] = get_of(g, vp, WHvRegisterInternalActivityState).Reg64;
        tsc[vp] = get_of(g, vp, WHvX64RegisterTsc).Reg64;
    }
    for (int round = 0; round < 3; round++) {
        for (UINT32 vp = 0; vp < 3; vp++) {
            set_of(g, vp, WHvX64RegisterTsc, 5);
            set_of(g, vp, WHvX64RegisterTscAdjust, 0);
            set_of(g, vp, (WHV_REGISTER_NAME)(0x3000 + 0x38), 0x100000);
            set_of(g, vp, (WHV_REGISTER_NAME)(0x3000 + 0x32), 0x10000);
            request(g, 0, vp, 0x90);
            set_of(g, vp, WHvRegisterInterruptState, 0);
            set_of(g, vp, WHvRegisterPendingInterruption, 0);
            set_of(g, vp, WHvX64RegisterDeliverabilityNotifications, 1);
            set_of(g, vp, WHvRegisterInternalActivityState, round == 1 ? 1 : 0);
        }
        if (round == 2) {
            assert_ok(WHvCancelRunVirtualProcessor(g->partition, 0, 0));
            assert_ok(WHvRunVirtualProcessor(g->partition, 0, &g->exit, sizeof(g->exit)));
            memset(&g->exit, 0, sizeof(g->exit));
        }
        assert_ok(OwhpRestoreSnapshot(g->partition, s, OwhpRestoreFlagNone, NULL));
        for (UINT32 vp = 0; vp < 3; vp++) {
            compare_now(g, vp, &before[vp]);
            assert_int_equal(get_of(g, vp, WHvRegisterInternalActivityState).Reg64, activity[vp]);
            assert_int_equal(get_of(g, vp, WHvX64RegisterTsc).Reg64, tsc[vp]); /* time stands still */
        }
    }
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(g);
}

static void xapic(void **state)
{
    struct guest g;

    (void)state;
    waiting_things(&g, false);
}

static void x2apic(void **state)
{
    struct guest g;

    (void)state;
    waiting_things(&g, true);
}

/* An NMI that was pending and not taken: it comes, each time, though it is in no register. */
static void pending_nmi(void **state)
{
    struct guest g;
    OWHP_SNAPSHOT_HANDLE s;

    (void)state;
    guest_begin(&g, &(struct guest_options){.apic_mode = 1});
    guest_code(&g, 0x90, 0xeb, 0xfd);                         /* nop; jmp $-1 */
    guest_load(&g, HANDLERS + 16 * 2, (UINT8[]){0xe6, 0x10}, 2); /* out 0x10, al */
    request(&g, 4, 0, 2);
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &s));
    for (int i = 0; i < 3; i++) {
        run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
        assert_field(&g, VpContext.Rip, 16 * 2);
        assert_int_equal(guest_get(&g, WHvRegisterInterruptState) & 2, 2); /* NMI is masked now */
        assert_ok(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagNone, NULL));
        assert_int_equal(guest_get(&g, WHvRegisterInterruptState), 0);
    }
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
}

/* Halted, until the APIC timer fires: again and again from the same state. The timer's rest of time is part of it. */
static void halted_with_timer(void **state)
{
    struct guest g;
    OWHP_SNAPSHOT_HANDLE s;

    (void)state;
    guest_begin(&g, &(struct guest_options){.apic_mode = 1});
    assert_ok(WHvSuspendPartitionTime(g.partition)); /* until the first run */
    guest_code(&g, 0xfb, 0xf4, 0xe6, 0x11); /* sti; hlt; out 0x11, al */
    guest_load(&g, HANDLERS + 16 * 0x40, (UINT8[]){0xe6, 0x10}, 2);
    guest_set(&g, (WHV_REGISTER_NAME)(0x3000 + 0x0f), 0x1ff);
    guest_set(&g, (WHV_REGISTER_NAME)(0x3000 + 0x32), 0x40); /* one-shot */
    guest_set(&g, (WHV_REGISTER_NAME)(0x3000 + 0x3e), 0xb);
    guest_set(&g, (WHV_REGISTER_NAME)(0x3000 + 0x38), 1000000); /* 5 ms */
    guest_set(&g, WHvX64RegisterRip, CODE + 2);
    guest_set(&g, WHvX64RegisterRflags, 0x202);
    guest_set(&g, WHvRegisterInternalActivityState, 2);
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &s));
    UINT64 count = guest_get(&g, (WHV_REGISTER_NAME)(0x3000 + 0x39));
    assert_int_not_equal(count, 0);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(guest_get(&g, (WHV_REGISTER_NAME)(0x3000 + 0x39)), count);
        run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
        assert_field(&g, IoPortAccess.PortNumber, 0x10);
        assert_int_equal(guest_get(&g, (WHV_REGISTER_NAME)(0x3000 + 0x39)), 0);
        assert_ok(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagNone, NULL));
    }
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
}

/* An XCHG with a device, half completed. */
static void half_completed(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS access;
    OWHP_SNAPSHOT_HANDLE s;
    const UINT64 device = 0x10000000;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    guest_code(&g, 0x87, 0x07, 0xf4); /* xchg [rdi], eax; hlt */
    guest_set(&g, WHvX64RegisterRdi, device);
    guest_set(&g, WHvX64RegisterRax, 0x11111111);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    const WHV_RUN_VP_EXIT_CONTEXT exit = g.exit;
    assert_ok(OwhpGetMemoryAccess(g.partition, 0, &exit, &access));
    assert_int_equal(access.AccessType, WHvMemoryAccessRead);
    access.Data = 0x22222222;
    assert_hr(OwhpCompleteMemoryAccess(g.partition, 0, &access), S_FALSE);
    assert_int_equal(access.AccessType, WHvMemoryAccessWrite);
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &s));
    const OWHP_MEMORY_ACCESS second = access;
    for (int i = 0; i < 3; i++) {
        access = second;
        assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &access));
        assert_int_equal(guest_get(&g, WHvX64RegisterRax), 0x22222222);
        assert_int_equal(guest_get(&g, WHvX64RegisterRip), CODE + 2);
        run_to(&g, WHvRunVpExitReasonX64Halt);
        assert_ok(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagNone, NULL));
        assert_int_equal(guest_get(&g, WHvX64RegisterRax), 0x11111111);
        assert_ok(OwhpGetMemoryAccess(g.partition, 0, &exit, &access));
        assert_memory_equal(&access, &second, sizeof(access));
    }
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
}

/* A plain load from a device, before it is completed. */
static void not_completed(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS access;
    OWHP_SNAPSHOT_HANDLE s;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    guest_code(&g, 0x0f, 0xbe, 0x0f, 0xf4); /* movsx ecx, byte [rdi]; hlt */
    guest_set(&g, WHvX64RegisterRdi, 0x10000000);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    const WHV_RUN_VP_EXIT_CONTEXT exit = g.exit;
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &s));
    for (int i = 0; i < 3; i++) {
        assert_ok(OwhpGetMemoryAccess(g.partition, 0, &exit, &access));
        access.Data = 0x80u + (unsigned)i;
        assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &access));
        assert_int_equal(guest_get(&g, WHvX64RegisterRcx), 0xffffff80u + (unsigned)i);
        run_to(&g, WHvRunVpExitReasonX64Halt);
        assert_ok(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagNone, NULL));
    }
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
}

/* The guest changes its page tables and code; what was translated and decoded is of the wrong time. */
static void translations_and_code(void **state)
{
    struct guest g;
    OWHP_SNAPSHOT_HANDLE s;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    memset(g.ram + 0x40000, 1, 4096);
    memset(g.ram + 0x41000, 2, 4096);
    *guest_pte(&g, 0x50000) = 0x40007;
    guest_code(&g,
               0x8a, 0x04, 0x25, 0x00, 0x00, 0x05, 0x00,                                           /* mov al, [0x50000] */
               0x48, 0xc7, 0x04, 0x25, 0x80, 0x32, 0x01, 0x00, 0x07, 0x10, 0x04, 0x00,             /* its PTE: 0x41007 */
               0x0f, 0x01, 0x3c, 0x25, 0x00, 0x00, 0x05, 0x00,                                     /* invlpg */
               0x8a, 0x24, 0x25, 0x00, 0x00, 0x05, 0x00,                                           /* mov ah, [0x50000] */
               0xb3, 0x05,                                                                         /* mov bl, 5 */
               0xfe, 0x04, 0x25, 0x23, 0x10, 0x00, 0x00,                                           /* inc byte [its 5] */
               0xf4);
    assert_int_equal(g.ram[0x1000 + 0x23], 5);
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &s));
    for (int i = 0; i < 4; i++) {
        run_to(&g, WHvRunVpExitReasonX64Halt);
        assert_int_equal(guest_get(&g, WHvX64RegisterRax) & 0xffff, 0x0201);
        assert_int_equal(guest_get(&g, WHvX64RegisterRbx) & 0xff, 5);
        assert_int_equal(g.ram[0x1000 + 0x23], 6);
        assert_ok(OwhpRestoreSnapshot(g.partition, s, OwhpRestoreFlagNone, NULL));
        assert_int_equal(g.ram[0x1000 + 0x23], 5);
    }
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("SNR.1", "H", random_guests),
        CASE("SNR.2", "H", xapic),
        CASE("SNR.3", "H", x2apic),
        CASE("SNR.4", "H", pending_nmi),
        CASE("SNR.5", "H", halted_with_timer),
        CASE("SNR.6", "H", half_completed),
        CASE("SNR.7", "H", not_completed),
        CASE("SNR.8", "H", translations_and_code),
    };
    return cmocka_run_group_tests_name("snapshots: the guest runs on", tests, NULL, NULL);
}
