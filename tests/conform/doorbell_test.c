/* Doorbells: what rings, what exits, what the page of a doorbell is, conflicts, notification ports; while processors run. */
#include "guest.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { BELL = 0x5010, HOLE = RAM_SIZE + 0x1000 };

static int new_event(void)
{
    const int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    assert_true(event >= 0);
    return event;
}

/* How often it was signaled since it was asked last. */
static UINT64 rung(int event)
{
    UINT64 count = 0;

    return read(event, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static WHV_DOORBELL_MATCH_DATA any_at(UINT64 gpa)
{
    return (WHV_DOORBELL_MATCH_DATA){.GuestAddress = gpa};
}

static WHV_DOORBELL_MATCH_DATA length_at(UINT64 gpa, UINT32 length)
{
    return (WHV_DOORBELL_MATCH_DATA){.GuestAddress = gpa, .Length = length, .MatchOnLength = 1};
}

static WHV_DOORBELL_MATCH_DATA value_at(UINT64 gpa, UINT32 length, UINT64 value)
{
    return (WHV_DOORBELL_MATCH_DATA){.GuestAddress = gpa, .Value = value, .Length = length, .MatchOnLength = 1, .MatchOnValue = 1};
}

#define register_bell(g, match, event) WHvRegisterPartitionDoorbellEvent((g)->partition, match, OwhpEventHandle(event))
#define unregister_bell(g, match)      WHvUnregisterPartitionDoorbellEvent((g)->partition, match)

static void begin(struct guest *g)
{
    guest_begin(g, NULL);
    guest_long_mode(g, 0);
    guest_set(g, WHvX64RegisterRbx, BELL);
    guest_set(g, WHvX64RegisterRax, 0x1122334455667788);
}

/* ---- what rings ---- */

/* Each store to BELL, then HLT: with a doorbell for any store it rings once and the guest goes on, or it exits. */
static void stores(void **state)
{
    static const struct {
        UINT8 code[12];
        bool rings;
    } rows[] = {
        {{0x88, 0x03, 0xf4}, true},                               /* mov [rbx], al */
        {{0x66, 0x89, 0x03, 0xf4}, true},                         /* mov [rbx], ax */
        {{0x89, 0x03, 0xf4}, true},                               /* mov [rbx], eax */
        {{0x48, 0x89, 0x03, 0xf4}, true},                         /* mov [rbx], rax */
        {{0xc6, 0x03, 0x01, 0xf4}, true},                         /* mov byte [rbx], 1 */
        {{0xc7, 0x03, 1, 0, 0, 0, 0xf4}, true},                   /* mov dword [rbx], 1 */
        {{0x48, 0xc7, 0x03, 1, 0, 0, 0, 0xf4}, true},             /* mov qword [rbx], 1 */
        {{0x0f, 0xc3, 0x03, 0xf4}, true},                         /* movnti [rbx], eax */
        {{0x8c, 0x1b, 0xf4}, true},                               /* mov [rbx], ds */
        {{0x01, 0x03, 0xf4}, false},                              /* add [rbx], eax */
        {{0x87, 0x03, 0xf4}, false},                              /* xchg [rbx], eax */
        {{0x8f, 0x03, 0xf4}, false},                              /* pop [rbx] */
        {{0xf3, 0x0f, 0x11, 0x03, 0xf4}, false},                  /* movss [rbx], xmm0 */
        {{0x8b, 0x03, 0xf4}, false},                              /* mov eax, [rbx] */
    };
    const WHV_DOORBELL_MATCH_DATA match = any_at(BELL);
    const int event = new_event();
    struct guest g;

    (void)state;
    begin(&g);
    guest_set(&g, WHvX64RegisterCr4, guest_get(&g, WHvX64RegisterCr4) | 0x200); /* OSFXSR */
    assert_ok(register_bell(&g, &match, event));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        guest_load(&g, CODE, rows[i].code, sizeof(rows[i].code));
        guest_set(&g, WHvX64RegisterRip, CODE);
        run_to(&g, rows[i].rings ? WHvRunVpExitReasonX64Halt : WHvRunVpExitReasonMemoryAccess);
        const UINT64 times = rung(event);
        if (times != rows[i].rings)
            fail_msg("row %zu: rung %llu times, RIP %#llx", i, (unsigned long long)times, (unsigned long long)g.exit.VpContext.Rip);
        if (rows[i].rings) {
            assert_true(g.exit.VpContext.Rip < HANDLERS); /* no fault's HLT */
            continue;
        }
        assert_field(&g, MemoryAccess.Gpa, BELL);
        assert_field(&g, MemoryAccess.AccessInfo.GpaUnmapped, 1);
        assert_field(&g, VpContext.Rip, CODE);
    }
    for (UINT64 at = BELL & ~0xfffull; at < (BELL & ~0xfffull) + 0x1000; at++)
        assert_int_equal(g.ram[at], 0); /* nothing of it reached the memory below */
    guest_end(&g);
    close(event);
}

static void movbe(void **state)
{
    const WHV_DOORBELL_MATCH_DATA match = value_at(BELL, 4, 0x88776655);
    const int event = new_event();
    struct guest g;

    (void)state;
    begin(&g);
    guest_code(&g, 0x0f, 0x38, 0xf1, 0x03, 0xf4); /* movbe [rbx], eax; hlt */
    assert_ok(register_bell(&g, &match, event));
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, CODE + 5);
    assert_int_equal(rung(event), 1);
    guest_end(&g);
    close(event);
}

/* Length, value and address decide; what does not match exits as from unmapped memory. */
static void matches(void **state)
{
    static const struct {
        WHV_DOORBELL_MATCH_DATA match;
        UINT64 gpa, value;
        UINT8 size;
        bool rings;
    } rows[] = {
#define ANY(gpa)                   {.GuestAddress = (gpa)}
#define LENGTH(gpa, length)        {.GuestAddress = (gpa), .Length = (length), .MatchOnLength = 1}
#define VALUE(gpa, length, value)  {.GuestAddress = (gpa), .Value = (value), .Length = (length), .MatchOnLength = 1, .MatchOnValue = 1}
        {ANY(BELL), BELL, 7, 1, true},           {ANY(BELL), BELL, 7, 8, true},
        {ANY(BELL), BELL + 1, 7, 1, false},      {ANY(BELL), BELL - 1, 7, 4, false},
        {LENGTH(BELL, 4), BELL, 7, 4, true},     {LENGTH(BELL, 4), BELL, 7, 2, false},
        {LENGTH(BELL, 4), BELL, 7, 8, false},    {LENGTH(BELL, 1), BELL, 7, 1, true},
        {VALUE(BELL, 2, 7), BELL, 7, 2, true},   {VALUE(BELL, 2, 7), BELL, 8, 2, false},
        {VALUE(BELL, 2, 7), BELL, 0x10007, 2, true}, {VALUE(BELL, 2, 7), BELL, 7, 4, false},
        {VALUE(BELL, 8, ~0ull), BELL, ~0ull, 8, true}, {VALUE(BELL, 8, ~0ull), BELL, 1, 8, false},
        {LENGTH(BELL + 3, 4), BELL + 3, 7, 4, true}, /* no alignment */
        {ANY(0x5fff), 0x5fff, 7, 1, true},       {ANY(0x5fff), 0x5fff, 7, 4, false}, /* a store across pages */
        {ANY(HOLE), HOLE, 7, 4, true},           {ANY(HOLE), HOLE + 0xff0, 7, 4, false},
#undef ANY
#undef LENGTH
#undef VALUE
    };
    static const UINT8 code[9][4] = {[1] = {0x88, 0x03, 0xf4}, [2] = {0x66, 0x89, 0x03, 0xf4}, [4] = {0x89, 0x03, 0xf4},
                                     [8] = {0x48, 0x89, 0x03, 0xf4}};
    const int event = new_event();
    struct guest g;

    (void)state;
    begin(&g);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_ok(register_bell(&g, &rows[i].match, event));
        guest_load(&g, CODE, code[rows[i].size], 4);
        guest_set(&g, WHvX64RegisterRip, CODE);
        guest_set(&g, WHvX64RegisterRax, rows[i].value);
        guest_set(&g, WHvX64RegisterRbx, rows[i].gpa);
        run_to(&g, rows[i].rings ? WHvRunVpExitReasonX64Halt : WHvRunVpExitReasonMemoryAccess);
        const UINT64 times = rung(event);
        if (times != rows[i].rings)
            fail_msg("row %zu: rung %llu times, RIP %#llx", i, (unsigned long long)times, (unsigned long long)g.exit.VpContext.Rip);
        if (!rows[i].rings) {
            assert_field(&g, MemoryAccess.Gpa, rows[i].gpa);
            assert_field(&g, MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessWrite);
            assert_field(&g, MemoryAccess.AccessInfo.GpaUnmapped, 1);
        }
        assert_ok(unregister_bell(&g, &rows[i].match));
    }
    guest_end(&g);
    close(event);
}

/* ---- the page ---- */

/* Unmapped while there is a doorbell, though mapped anew meanwhile; itself again afterwards. Its neighbours serve. */
static void page(void **state)
{
    const WHV_DOORBELL_MATCH_DATA first = any_at(BELL), second = any_at(BELL + 8);
    const int event = new_event();
    UINT32 value = 5;
    struct guest g;

    (void)state;
    begin(&g);
    guest_code(&g, 0x89, 0x43, 0x20, 0x8b, 0x4b, 0x20, 0xf4); /* mov [rbx+20h], eax; mov ecx, [rbx+20h]; hlt */
    assert_ok(register_bell(&g, &first, event));
    assert_ok(register_bell(&g, &second, event));
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&g, MemoryAccess.Gpa, BELL + 0x20);
    assert_hr(WHvReadGpaRange(g.partition, 0, BELL, (WHV_ACCESS_GPA_CONTROLS){0}, &value, 4), E_ACCESSDENIED);
    assert_hr(WHvWriteGpaRange(g.partition, 0, 0x4ffe, (WHV_ACCESS_GPA_CONTROLS){0}, &value, 4), E_ACCESSDENIED);
    assert_ok(WHvReadGpaRange(g.partition, 0, 0x4ffc, (WHV_ACCESS_GPA_CONTROLS){0}, &value, 4));
    assert_ok(WHvReadGpaRange(g.partition, 0, 0x6000, (WHV_ACCESS_GPA_CONTROLS){0}, &value, 4));
    assert_ok(WHvMapGpaRange(g.partition, g.ram, 0, RAM_SIZE, WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite |
                             WHvMapGpaRangeFlagExecute));
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&g, MemoryAccess.Gpa, BELL + 0x20);
    assert_ok(unregister_bell(&g, &first));
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_ok(unregister_bell(&g, &second));
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(guest_get(&g, WHvX64RegisterRcx), 0x55667788);
    assert_int_equal(*(UINT32 *)(void *)(g.ram + BELL + 0x20), 0x55667788);
    assert_int_equal(rung(event), 0);
    guest_end(&g);
    close(event);
}

/* Code and page tables there are unmapped too; and the event need not stay open on the caller's side. */
static void page_of_all_kinds(void **state)
{
    const WHV_DOORBELL_MATCH_DATA code = any_at(CODE + 0x800), bell = any_at(BELL);
    int event = new_event(), other;
    struct guest g;

    (void)state;
    begin(&g);
    guest_code(&g, 0x89, 0x03, 0xf4);
    assert_ok(register_bell(&g, &code, event));
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&g, MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessExecute);
    assert_ok(unregister_bell(&g, &code));
    other = dup(event);
    assert_ok(register_bell(&g, &bell, event));
    close(event);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(rung(other), 1);
    guest_end(&g);
    close(other);
}

static void page_tables(void **state)
{
    const WHV_DOORBELL_MATCH_DATA table = any_at(TABLES + 0x3800);
    const int event = new_event();
    struct guest g;

    (void)state;
    begin(&g);
    guest_code(&g, 0x89, 0x03, 0xf4);
    assert_ok(register_bell(&g, &table, event));
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&g, MemoryAccess.Gpa & ~0xfffull, TABLES + 0x3000);
    assert_field(&g, MemoryAccess.AccessInfo.GvaValid, 0);
    assert_ok(unregister_bell(&g, &table));
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(rung(event), 0);
    guest_end(&g);
    close(event);
}

/* ---- arguments ---- */

static void conflicts(void **state)
{
    const WHV_DOORBELL_MATCH_DATA one = value_at(BELL, 4, 1), two = value_at(BELL, 4, 2), any = any_at(BELL), length = length_at(BELL, 4),
                                  longer = value_at(BELL, 8, 3), beside = any_at(BELL + 4);
    const int events[2] = {new_event(), new_event()};
    struct guest g;

    (void)state;
    begin(&g);
    assert_ok(register_bell(&g, &one, events[0]));
    assert_refused(WHvRegisterPartitionDoorbellEvent(g.partition, &one, OwhpEventHandle(events[1])), ERROR_HV_INVALID_PARAMETER);
    assert_refused(WHvRegisterPartitionDoorbellEvent(g.partition, &any, OwhpEventHandle(events[1])), ERROR_HV_INVALID_PARAMETER);
    assert_refused(WHvRegisterPartitionDoorbellEvent(g.partition, &length, OwhpEventHandle(events[1])), ERROR_HV_INVALID_PARAMETER);
    assert_refused(WHvRegisterPartitionDoorbellEvent(g.partition, &longer, OwhpEventHandle(events[1])), ERROR_HV_INVALID_PARAMETER);
    assert_ok(register_bell(&g, &two, events[1]));
    assert_ok(register_bell(&g, &beside, events[0]));
    guest_code(&g, 0x89, 0x03, 0xf4);
    for (unsigned value = 1; value <= 2; value++) {
        guest_set(&g, WHvX64RegisterRip, CODE);
        guest_set(&g, WHvX64RegisterRax, value);
        run_to(&g, WHvRunVpExitReasonX64Halt);
        assert_int_equal(rung(events[value - 1]), 1);
        assert_int_equal(rung(events[2 - value]), 0);
    }
    assert_refused(WHvUnregisterPartitionDoorbellEvent(g.partition, &any), HRESULT_FROM_WIN32(ERROR_NOT_FOUND));
    assert_ok(unregister_bell(&g, &one));
    assert_refused(WHvUnregisterPartitionDoorbellEvent(g.partition, &one), HRESULT_FROM_WIN32(ERROR_NOT_FOUND));
    guest_end(&g); /* with two of them */
    close(events[0]);
    close(events[1]);
}

static void arguments(void **state)
{
    WHV_DOORBELL_MATCH_DATA reserved = any_at(BELL), value_alone = any_at(BELL), no_length = any_at(BELL), lonely = any_at(BELL);
    const WHV_DOORBELL_MATCH_DATA three = length_at(BELL, 3), zero = length_at(BELL, 0), huge = length_at(BELL, 16),
                                  across = length_at(0x5ffd, 4), beyond = any_at(1ull << 52), wide = value_at(BELL, 2, 0x10000),
                                  good = any_at(BELL);
    const WHV_DOORBELL_MATCH_DATA *const bad[] = {&reserved, &value_alone, &no_length, &lonely, &three, &zero, &huge, &across, &beyond,
                                                  &wide};
    const int event = new_event();
    int pipes[2];
    struct guest g;

    (void)state;
    begin(&g);
    reserved.Reserved = 1;
    value_alone.Value = 1;
    no_length.Length = 4;
    lonely.MatchOnValue = 1;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_refused(WHvRegisterPartitionDoorbellEvent(g.partition, bad[i], OwhpEventHandle(event)), E_INVALIDARG);
    assert_refused(WHvRegisterPartitionDoorbellEvent(g.partition, NULL, OwhpEventHandle(event)), E_POINTER);
    assert_refused(WHvRegisterPartitionDoorbellEvent(g.partition, WILD, OwhpEventHandle(event)), E_POINTER);
    assert_refused(WHvUnregisterPartitionDoorbellEvent(g.partition, &three), E_INVALIDARG);
    assert_refused(WHvUnregisterPartitionDoorbellEvent(g.partition, NULL), E_POINTER);
    assert_int_equal(pipe(pipes), 0);
    const HANDLE no_events[] = {OwhpEventHandle(pipes[1]), OwhpEventHandle(-1), OwhpEventHandle(1 << 20), NULL, g.partition, (HANDLE)-1};
    for (size_t i = 0; i < sizeof(no_events) / sizeof(no_events[0]); i++)
        assert_refused(WHvRegisterPartitionDoorbellEvent(g.partition, &good, no_events[i]), E_HANDLE);
    assert_refused(WHvUnregisterPartitionDoorbellEvent(g.partition, &good), HRESULT_FROM_WIN32(ERROR_NOT_FOUND));
    close(pipes[0]);
    close(pipes[1]);
    guest_end(&g);
    close(event);
}

/* An event that cannot count any further: the guest does not wait for the one who reads it. */
static void full_event(void **state)
{
    const WHV_DOORBELL_MATCH_DATA match = any_at(BELL);
    const int event = eventfd(0, EFD_CLOEXEC);
    const UINT64 most = ~0ull - 1;
    struct guest g;

    (void)state;
    begin(&g);
    guest_code(&g, 0x89, 0x03, 0xf4);
    assert_int_equal(write(event, &most, sizeof(most)), sizeof(most));
    assert_ok(register_bell(&g, &match, event));
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(rung(event), most);
    guest_end(&g);
    close(event);
}

/* ---- notification ports ---- */

static void ports(void **state)
{
    WHV_NOTIFICATION_PORT_PARAMETERS port = {.NotificationPortType = WHvNotificationPortTypeDoorbell, .Doorbell = any_at(BELL)};
    WHV_NOTIFICATION_PORT_PARAMETERS bad = port;
    WHV_NOTIFICATION_PORT_HANDLE handle, none;
    const int event = new_event();
    struct guest g;

    (void)state;
    begin(&g);
    guest_code(&g, 0x89, 0x03, 0xf4);
#define CREATE(parameters, out) WHvCreateNotificationPort(g.partition, parameters, OwhpEventHandle(event), out)
    assert_ok(CREATE(&port, &handle));
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(rung(event), 1);
    assert_hr(CREATE(&port, &none), ERROR_HV_INVALID_PARAMETER);
    assert_hr(register_bell(&g, &port.Doorbell, event), ERROR_HV_INVALID_PARAMETER); /* they are the same */
    bad.NotificationPortType = WHvNotificationPortTypeEvent;
    assert_hr(CREATE(&bad, &none), E_NOT_SUPPORTED);
    bad.NotificationPortType = (WHV_NOTIFICATION_PORT_TYPE)3;
    assert_hr(CREATE(&bad, &none), E_INVALIDARG);
    bad = port;
    bad.ConnectionVtl = 1;
    assert_hr(CREATE(&bad, &none), E_INVALIDARG);
    bad = port;
    bad.Doorbell.Length = 1;
    assert_hr(CREATE(&bad, &none), E_INVALIDARG);
    assert_hr(CREATE(NULL, &none), E_POINTER);
    assert_hr(CREATE(&port, NULL), E_POINTER);
    assert_hr(CREATE(&port, WILD), E_POINTER);
#undef CREATE
    assert_ok(WHvSetNotificationPortProperty(g.partition, handle, WHvNotificationPortPropertyPreferredTargetVp, 0));
    assert_ok(WHvSetNotificationPortProperty(g.partition, handle, WHvNotificationPortPropertyPreferredTargetVp, WHV_ANY_VP));
    assert_ok(WHvSetNotificationPortProperty(g.partition, handle, WHvNotificationPortPropertyPreferredTargetDuration,
                                             WHV_NOTIFICATION_PORT_PREFERRED_DURATION_MAX));
    assert_hr(WHvSetNotificationPortProperty(g.partition, handle, (WHV_NOTIFICATION_PORT_PROPERTY_CODE)2, 0), E_INVALIDARG);
    assert_hr(WHvSetNotificationPortProperty(g.partition, handle, WHvNotificationPortPropertyPreferredTargetVp, 1ull << 32),
              E_INVALIDARG);
    assert_hr(WHvSetNotificationPortProperty(g.partition, &g, WHvNotificationPortPropertyPreferredTargetVp, 0), E_HANDLE);
    assert_hr(WHvDeleteNotificationPort(g.partition, NULL), E_HANDLE);
    assert_ok(WHvDeleteNotificationPort(g.partition, handle));
    assert_refused(WHvDeleteNotificationPort(g.partition, handle), E_HANDLE);
    guest_set(&g, WHvX64RegisterRip, CODE);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(rung(event), 0);
    guest_end(&g);
    close(event);
}

/* ---- while a processor runs ---- */

struct ringer {
    struct guest *guest;
    HRESULT result;
    WHV_RUN_VP_EXIT_CONTEXT exit;
};

static void *run_it(void *argument)
{
    struct ringer *r = argument;

    r->result = WHvRunVirtualProcessor(r->guest->partition, 0, &r->exit, sizeof(r->exit));
    return NULL;
}

/*
 * The guest stores to the page again and again while another thread puts a doorbell there and takes it away: each store
 * rings or reaches the memory below. A page between the two, with neither, would be an exit.
 */
static void put_and_taken_while_running(void **state)
{
    static const UINT8 code[] = {0xff, 0xc1, 0x89, 0x0b, 0xeb, 0xfa}; /* 1: inc ecx; mov [rbx], ecx; jmp 1b */
    enum { ROUNDS = 20 };
    const WHV_DOORBELL_MATCH_DATA match = any_at(BELL);
    const int event = new_event();
    struct guest g;
    struct ringer ringer = {&g};
    volatile UINT32 *below;
    pthread_t thread;

    (void)state;
    begin(&g);
    guest_load(&g, CODE, code, sizeof(code));
    below = (volatile UINT32 *)(void *)(g.ram + BELL);
    assert_int_equal(pthread_create(&thread, NULL, run_it, &ringer), 0);
    for (unsigned i = 0; i < ROUNDS; i++) {
        assert_ok(register_bell(&g, &match, event));
        const UINT32 before = *below;
        while (!rung(event))
            sched_yield();
        assert_int_equal(*below, before);
        assert_ok(unregister_bell(&g, &match));
        (void)rung(event);
        while (*below == before)
            sched_yield();
        assert_int_equal(rung(event), 0);
    }
    assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_ok(ringer.result);
    assert_int_equal(ringer.exit.ExitReason, WHvRunVpExitReasonCanceled);
    guest_end(&g);
    close(event);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("BELL-1", "F 7.2, H doorbells: which stores ring", stores),
        CASE("BELL-2", "F 7.2, H doorbells: length, value, address", matches),
        CASE("BELL-3", "F 7.2, H doorbells: the page", page),
        CASE("BELL-4", "H doorbells: code there", page_of_all_kinds),
        CASE("BELL-11", "H doorbells: page tables there", page_tables),
        CASE("BELL-5", "F 1.1, H doorbells: conflicts", conflicts),
        CASE("BELL-6", "H doorbells: arguments", arguments),
        CASE("BELL-7", "H doorbells: a full event", full_event),
        CASE("BELL-8", "F 1.1, H notification ports", ports),
        CASE("BELL-10", "H doorbells: MOVBE", movbe),
        CASE("BELL-9", "H doorbells: while a processor runs", put_and_taken_while_running),
    };
    return cmocka_run_group_tests_name("doorbell", tests, NULL, NULL);
}
