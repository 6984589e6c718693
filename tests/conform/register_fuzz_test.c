/*
 * Random registers: whatever is set, a set is accepted or refused with a code of the header, and a run ends with an exit. Nothing
 * crashes, hangs or tears the test's own memory. The guest's memory is random too; a thread cancels what would run for ever.
 * FUZZ_ROUNDS and FUZZ_SEED in the environment choose a longer or another run.
 */
#include "guest.h"
#include "differences.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define R(name) WHvX64Register##name

static UINT64 seed;

static UINT64 next(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* Edges and near-valid values more often than noise. */
static UINT64 number(void)
{
    static const UINT64 edges[] = {0, 1, 2, 0x7f, 0x80, 0xff, 0xfff, 0x1000, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000,
                                   0xffffffff, 0x100000000, 0x7fffffffffff, 0x800000000000, 0xffff7fffffffffff, 0xffff800000000000,
                                   0x7fffffffffffffff, 0x8000000000000000, 0xfffffffffffffff8, 0xffffffffffffffff};

    switch (next() % 5) {
    case 0:
        return edges[next() % (sizeof(edges) / sizeof(edges[0]))];
    case 1:
        return 1ull << (next() % 64);
    case 2:
        return next() & 0xfffff;
    case 3:
        return next() & next() & next();
    default:
        return next();
    }
}

/* Bits that make sense in the register, mostly. */
static UINT64 control(UINT64 likely)
{
    UINT64 value = next() & likely;

    return next() % 4 ? value : value ^ 1ull << (next() % 64);
}

static WHV_REGISTER_VALUE value_of(UINT32 name)
{
    WHV_REGISTER_VALUE v = {.Reg128 = {.Low64 = number(), .High64 = number()}};

    switch (name) {
    case R(Cr0): v.Reg64 = control(0xe005003f); break;
    case R(Cr3): v.Reg64 = next() % 2 ? TABLES : number() & 0x1ff018; break;
    case R(Cr4): v.Reg64 = control(0x773fff); break;
    case R(Efer): v.Reg64 = control(0xd01); break;
    case R(Rflags): v.Reg64 = control(0x3f7fd7) | (next() % 8 ? 2 : 0); break;
    case R(XCr0): v.Reg64 = control(7); break;
    case R(Rip): v.Reg64 = next() % 4 ? next() % RAM_SIZE : number(); break;
    case R(Dr7): v.Reg64 = next() & 0xffff27ff; break;
    case WHvRegisterPendingInterruption: v.Reg64 = (next() & 0xffffffff00ff001f) | (next() & 1); break;
    case WHvRegisterPendingEvent: v.Reg128.Low64 = (next() & 0xffffffff001f010f) | (next() & 1); break;
    default:
        if (name >= R(Es) && name <= R(Tr)) {
            v.Segment.Base = next() % 3 ? next() % RAM_SIZE : number();
            v.Segment.Limit = next() % 2 ? 0xffffffff : (UINT32)number();
            v.Segment.Selector = (UINT16)(next() % 2 ? next() & 0x3f : next());
            v.Segment.Attributes = (UINT16)(next() % 4 ? (next() & 0xf07f) | 0x80 : next());
        }
        break;
    }
    return v;
}

static bool is_documented(HRESULT result)
{
    return result == S_OK || result == ERROR_HV_INVALID_PARAMETER || result == ERROR_HV_INVALID_REGISTER_VALUE ||
           result == ERROR_HV_ACCESS_DENIED || result == WHV_E_INVALID_VP_REGISTER_NAME;
}

static bool is_exit(UINT32 reason)
{
    static const UINT32 exits[] = {1, 2, 4, 5, 7, 8, 9, 0x1000, 0x1001, 0x1002, 0x1003, 0x1004, 0x1005, 0x1006, 0x1007, 0x2001};

    for (size_t i = 0; i < sizeof(exits) / sizeof(exits[0]); i++)
        if (exits[i] == reason)
            return true;
    /* Of an instruction that cannot be found again (openwhp.h). */
    return reason == WHvRunVpExitReasonUnsupportedFeature && engine_differs(OwhpEngineDifferenceSplitStores);
}

static UINT32 random_name(void)
{
    static const UINT32 important[] = {R(Cr0), R(Cr3), R(Cr4), R(Efer), R(Rflags), R(Rip), R(Cs), R(Ss), R(Ds), R(Es), R(Fs), R(Gs), R(Tr),
                                       R(Ldtr), R(Idtr), R(Gdtr), R(Dr7), WHvRegisterPendingInterruption, WHvRegisterPendingEvent,
                                       R(PendingDebugException), WHvRegisterInternalActivityState};
    static const UINT32 ranges[][2] = {{0, 0x2b}, {0x1000, 0x1019}, {0x2000, 0x20b4}, {0x3000, 0x303f}, {0x80000000, 0x80000009}};

    if (next() % 3)
        return important[next() % (sizeof(important) / sizeof(important[0]))];
    const UINT32 *range = ranges[next() % 5];
    return range[0] + (UINT32)(next() % (range[1] - range[0] + 1));
}

struct canceller {
    WHV_PARTITION_HANDLE partition;
    _Atomic bool done;
    _Atomic unsigned turn; /* odd: inside a run */
    _Atomic UINT64 round;  /* its seed */
};

static struct canceller canceller;

/* Cancels now and again end nothing: say which round it is, for whatever stops the test cannot. */
static void complain(const struct canceller *c, unsigned turn, time_t *since, unsigned *last)
{
    enum { SECONDS = 30 };
    const time_t now = time(NULL);

    if (turn != *last) {
        *last = turn;
        *since = now;
    } else if (now - *since >= SECONDS) {
        *since = now;
        fprintf(stderr, "FUZZ_SEED=%#llx FUZZ_ROUNDS=1: in turn %u for %u seconds, and cancels do not end it\n",
                (unsigned long long)atomic_load(&c->round), turn, SECONDS);
    }
}

static void *cancel_thread(void *argument)
{
    struct canceller *c = argument;
    time_t since = time(NULL);
    unsigned last = 0;

    /* Only a run that goes on: a cancel that finds none would end the next. After various times: a slow host needs them. */
    while (!atomic_load(&c->done)) {
        unsigned turn = atomic_load(&c->turn);
        usleep(300u << (turn / 2 % 32 ? turn / 2 % 4 : 7));
        if (turn % 2 && atomic_load(&c->turn) == turn) {
            (void)WHvCancelRunVirtualProcessor(c->partition, 0, 0);
            complain(c, turn, &since, &last);
        }
    }
    return NULL;
}

/*
 * QEMU's processor loses its host's CR0, and with it the host, when a virtual machine exits that has EFER.LME set, but neither
 * CR4.PAE nor paging (7.2): such states are left out there.
 */
static unsigned left_out;

static void leave_out(struct guest *g)
{
    const UINT64 efer = guest_get(g, R(Efer));

    if (!(efer & 0x100) || (guest_get(g, R(Cr4)) & 0x20) || (guest_get(g, R(Cr0)) & 0x80000000))
        return;
    guest_set(g, R(Efer), efer & ~0x100ull);
    left_out++;
}

static unsigned seen[0x2002];

static void one_round(struct guest *g)
{
    WHV_REGISTER_NAME names[16];
    WHV_REGISTER_VALUE values[16];

    /* Few, or hardly any state could be run. */
    for (UINT32 batch = 1 + (UINT32)(next() % 3); batch > 0; batch--) {
        UINT32 count = 1 + (UINT32)(next() % (next() % 4 ? 3 : 16));
        for (UINT32 i = 0; i < count; i++) {
            names[i] = (WHV_REGISTER_NAME)random_name();
            values[i] = value_of(names[i]);
        }
        HRESULT result = WHvSetVirtualProcessorRegisters(g->partition, 0, names, count, values);
        if (result != S_OK) /* then those that go, one by one */
            for (UINT32 i = 0; i < count; i++)
                assert_true(is_documented(WHvSetVirtualProcessorRegisters(g->partition, 0, &names[i], 1, &values[i])));
        assert_true(is_documented(result));
    }
    if (kvm_is_on_qemu())
        leave_out(g);
    for (int runs = 0; runs < 4; runs++) {
        memset(&g->exit, 0xcc, sizeof(g->exit));
        atomic_fetch_add(&canceller.turn, 1);
        assert_ok(WHvRunVirtualProcessor(g->partition, 0, &g->exit, sizeof(g->exit)));
        atomic_fetch_add(&canceller.turn, 1);
        if (!is_exit((UINT32)g->exit.ExitReason))
            print_exit(&g->exit);
        assert_true(is_exit((UINT32)g->exit.ExitReason));
        seen[g->exit.ExitReason]++;
        if (g->exit.ExitReason == WHvRunVpExitReasonInvalidVpRegisterValue || g->exit.ExitReason == WHvRunVpExitReasonCanceled)
            break;
        /* Every instruction of an exit is done by leaving it out. */
        guest_set(g, R(Rip), g->exit.VpContext.Rip + g->exit.VpContext.InstructionLength + 1);
    }
}

static UINT64 offered(WHV_CAPABILITY_CODE code)
{
    UINT64 bits = 0;

    assert_ok(WHvGetCapability(code, &bits, sizeof(bits), NULL));
    return bits;
}

/* All exits that the engine offers. */
static void fuzz(UINT32 mode, unsigned rounds)
{
    const UINT64 exceptions = offered(WHvCapabilityCodeExceptionExitBitmap);
    const struct guest_options options = {.apic_mode = mode, .extended_exits = (0xf | 0x20) & offered(WHvCapabilityCodeExtendedVmExits),
                                          .exceptions = 0x40 & exceptions, .msrs = 0x3f};
    struct guest g;
    pthread_t thread;

    guest_begin(&g, &options);
    canceller.partition = g.partition;
    atomic_store(&canceller.done, false);
    memset(seen, 0, sizeof(seen));
    assert_int_equal(pthread_create(&thread, NULL, cancel_thread, &canceller), 0);
    left_out = 0;
    for (unsigned i = 0; i < rounds; i++) {
        atomic_store(&canceller.round, seed);
        if (i % 16 == 0) { /* fresh memory, tables in half of it */
            for (size_t at = 0; at < RAM_SIZE; at += 8) {
                UINT64 noise = next();
                memcpy(g.ram + at, &noise, 8);
            }
            assert_ok(WHvResetPartition(g.partition));
        }
        if (i % 4 != 3) {
            assert_ok(WHvResetPartition(g.partition));
            if (i % 4)
                guest_long_mode(&g, i % 2 ? 3 : 0);
            guest_set(&g, R(Rip), next() % RAM_SIZE & (i % 4 ? ~0ull : 0xffff));
        }
        one_round(&g);
    }
    for (UINT32 i = 0; i < 0x2002; i++)
        if (seen[i])
            print_message("exit %#x: %u\n", i, seen[i]);
    if (left_out)
        print_message("SHORTER: %u states without EFER.LME, with which this host's processor would lose its own CR0\n", left_out);
    /* It was not all refused. */
    assert_true(seen[WHvRunVpExitReasonInvalidVpRegisterValue] && seen[WHvRunVpExitReasonMemoryAccess] &&
                (seen[WHvRunVpExitReasonException] || !options.exceptions));
    atomic_store(&canceller.done, true);
    pthread_join(thread, NULL);
    guest_end(&g);
}

static unsigned rounds_wanted(void)
{
    const char *rounds = getenv("FUZZ_ROUNDS"), *from = getenv("FUZZ_SEED");

    seed = from ? strtoull(from, NULL, 0) : 0x9e3779b97f4a7c15;
    print_message("FUZZ_SEED=%#llx\n", (unsigned long long)seed);
    return rounds ? (unsigned)strtoul(rounds, NULL, 0) : test_rounds(engine_differs(OwhpEngineDifferenceInterpreted) ? 400 : 4000);
}

static void without_apic(void **state)
{
    (void)state;
    fuzz(WHvX64LocalApicEmulationModeNone, rounds_wanted());
}

static void with_xapic(void **state)
{
    (void)state;
    fuzz(WHvX64LocalApicEmulationModeXApic, rounds_wanted());
}

static void with_x2apic(void **state)
{
    (void)state;
    fuzz(WHvX64LocalApicEmulationModeX2Apic, rounds_wanted());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("FUZZ-1", "F 9.1 InvalidVpRegisterValue, F 9.3", without_apic),
        CASE("FUZZ-2", "F 9.1 InvalidVpRegisterValue, F 9.3", with_xapic),
        CASE("FUZZ-3", "F 9.1 InvalidVpRegisterValue, F 9.3", with_x2apic),
    };
    return cmocka_run_group_tests_name("random registers", tests, NULL, NULL);
}
