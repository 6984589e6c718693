/*
 * Code in memory that is mapped at several guest addresses: a store through any of them is a store to the code. The processor
 * that stored sees the new code at its next jump there or serializing instruction (SDM 3A 9.1.3, 12.1.3), the others soon; none
 * needs an exit.
 *
 * All guests are in real mode with one code segment: a far call may make a processor look at its code anew. No case depends on
 * how long something takes: the limit is there to end what hangs.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "guest.h"
#include "other_process.h"

/* Guest addresses of pages; RAM's pages there are replaced by what the cases map. */
enum { FUNCTION = 0x3000, SECOND = 0x5000, STORM = 0xc000, ALIAS = 0x40000, FRAMES = 0x100000 };
/* In RAM, for what guests tell. */
enum { RESULT = 0x9000, ROUNDS = 0x9004 };
enum { LIMIT_S = 120 };

#define RWX (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute)
#define T   WHvMapGpaRangeFlagTrackDirtyPages

static struct guest guest;

static void begin(UINT32 processors)
{
    guest_begin(&guest, &(struct guest_options){.processors = processors});
    for (UINT32 i = 1; i < processors; i++)
        assert_ok(WHvCreateVirtualProcessor(guest.partition, i, 0));
}

/* Map pages of RAM's memory once more, together. */
static void map_pages(UINT64 gpa, UINT64 of, UINT32 count)
{
    assert_ok(WHvMapGpaRange(guest.partition, guest.ram + of, gpa, count * 0x1000ull, (WHV_MAP_GPA_RANGE_FLAGS)RWX));
}

/* Map a page of RAM's memory once more. */
static void map(UINT64 gpa, UINT64 of, UINT32 flags)
{
    assert_ok(WHvMapGpaRange(guest.partition, guest.ram + of, gpa, 0x1000, (WHV_MAP_GPA_RANGE_FLAGS)flags));
}

static WHV_REGISTER_VALUE segment_at(UINT32 base)
{
    return (WHV_REGISTER_VALUE){
        .Segment = {.Base = base, .Limit = 0xffff, .Selector = (UINT16)(base >> 4), .Attributes = 0x93}};
}

/* Where the processor begins, and its ES and DI; BX and SI are 0. */
static void start_at(UINT32 vp, UINT16 rip, UINT32 es, UINT16 di)
{
    const WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterRip, WHvX64RegisterEs, WHvX64RegisterRdi,
                                       WHvX64RegisterRbx, WHvX64RegisterRsi};
    const WHV_REGISTER_VALUE values[] = {
        {.Segment = {.Limit = 0xffff, .Attributes = 0x9b}}, {.Reg64 = rip}, segment_at(es), {.Reg64 = di}, {.Reg64 = 0},
        {.Reg64 = 0}};

    assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, vp, names, 6, values));
}

/* ---- one processor ---- */

/* Ways to make ES:[DI], an immediate byte before a RET, BL, which is one more than it is. */
static const struct store {
    const char *name;
    size_t size;
    UINT8 bytes[16];
} stores[] = {
    {"mov es:[di], bl", 3, {0x26, 0x88, 0x1d}},
    {"inc byte es:[di]", 3, {0x26, 0xfe, 0x05}},
    {"lock inc byte es:[di]", 4, {0xf0, 0x26, 0xfe, 0x05}},
    {"mov cl, bl; xchg es:[di], cl", 5, {0x88, 0xd9, 0x26, 0x86, 0x0d}},
    {"mov al, es:[di]; lock cmpxchg es:[di], bl", 8, {0x26, 0x8a, 0x05, 0xf0, 0x26, 0x0f, 0xb0, 0x1d}},
    {"mov al, bl; stosb; dec di", 4, {0x88, 0xd8, 0xaa, 0x4f}},
    {"mov cx, 1; mov al, bl; rep stosb; dec di", 8, {0xb9, 1, 0, 0x88, 0xd8, 0xf3, 0xaa, 0x4f}},
    {"mov al, bl; mov ah, 0xc3; mov es:[di], ax", 7, {0x88, 0xd8, 0xb4, 0xc3, 0x26, 0x89, 0x05}},
};

/* The number goes up to 200 with each store followed by MOV to CR0, which serializes, and a call of the function. One run. */
static void patch_and_call(const struct store *store, UINT16 patcher, UINT16 function, UINT16 di)
{
    static const UINT8 head[] = {0xfe, 0xc3}; /* again: inc bl */
    UINT8 tail[] = {
        0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0, /* mov eax, cr0; mov cr0, eax */
        0xe8, 0, 0, 0x38, 0xd8, 0x75, 5,    /* call function; cmp al, bl; jne done */
        0x80, 0xfb, 200, 0x75, 0, 0xf4,     /* cmp bl, 200; jne again; done: hlt */
    };
    const UINT16 at = (UINT16)(patcher + sizeof(head) + store->size), offset = (UINT16)(function - (at + 9));

    memcpy(tail + 7, &offset, 2);
    tail[17] = (UINT8)(at - (sizeof(head) + store->size) - (at + sizeof(tail) - 1));
    guest_load(&guest, patcher, head, sizeof(head));
    guest_load(&guest, patcher + sizeof(head), store->bytes, store->size);
    guest_load(&guest, at, tail, sizeof(tail));
    start_at(0, patcher, ALIAS, di);
    run_to(&guest, WHvRunVpExitReasonX64Halt);
    const UINT8 reached = (UINT8)guest_get(&guest, WHvX64RegisterRbx), got = (UINT8)guest_get(&guest, WHvX64RegisterRax);
    if (reached != 200 || got != 200)
        print_error("%s at %#x, function at %#x: %u ran after %u was stored\n", store->name, patcher, function, got, reached);
    assert_int_equal(reached, 200);
    assert_int_equal(got, 200);
}

static void patch(const struct store *store, UINT16 patcher, UINT16 function, UINT16 di)
{
    guest_load(&guest, function, (const UINT8[]){0xb0, 0, 0xc3}, 3); /* mov al, 0; ret */
    patch_and_call(store, patcher, function, di);
}

static void stores_through_another_address(void **state)
{
    (void)state;
    for (unsigned processors = 1; processors <= 2; processors++)
        for (size_t i = 0; i < sizeof(stores) / sizeof(stores[0]); i++) {
            begin(processors);
            map(ALIAS, FUNCTION, i % 2 ? RWX | T : RWX);
            patch(&stores[i], CODE, FUNCTION, 1);
            patch(&stores[i], FUNCTION + 0x20, FUNCTION, 1); /* in the page that it patches */
            patch(&stores[i], CODE, FUNCTION - 1, 0);        /* an instruction whose second byte is in that page */
            guest_end(&guest);
        }
}

/* The page is run at two addresses, and stored to through a third. */
static void code_at_two_addresses(void **state)
{
    static const UINT8 code[] = {
        0xfe, 0xc3, 0x26, 0x88, 0x1d, 0x26, 0x88, 0x5d, 0x10, /* again: inc bl; mov es:[di], bl; mov es:[di + 0x10], bl */
        0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0,                   /* mov eax, cr0; mov cr0, eax */
        0xe8, 0xee, 0x1f, 0x38, 0xd8, 0x75, 12,               /* call FUNCTION; cmp al, bl; jne done */
        0xe8, 0xf7, 0x3f, 0x38, 0xd8, 0x75, 5,                /* call SECOND + 0x10; cmp al, bl; jne done */
        0x80, 0xfb, 200, 0x75, 0xde, 0xf4,                    /* cmp bl, 200; jne again; done: hlt */
    };

    (void)state;
    begin(1);
    map(ALIAS, FUNCTION, RWX);
    map(SECOND, FUNCTION, RWX);
    guest_load(&guest, CODE, code, sizeof(code));
    guest_load(&guest, FUNCTION, (const UINT8[]){0xb0, 0, 0xc3}, 3);        /* mov al, 0; ret */
    guest_load(&guest, FUNCTION + 0x10, (const UINT8[]){0xb0, 0, 0xc3}, 3);
    start_at(0, CODE, ALIAS, 1);
    run_to(&guest, WHvRunVpExitReasonX64Halt);
    assert_int_equal(guest_get(&guest, WHvX64RegisterRbx), 200);
    assert_int_equal(guest_get(&guest, WHvX64RegisterRax) & 0xff, 200);
    guest_end(&guest);
}

/* ---- several threads ---- */

enum { MOST = 4 };

static pthread_t threads[MOST];
static WHV_RUN_VP_EXIT_CONTEXT exits[MOST];

static void *run_processor(void *argument)
{
    const UINT32 vp = (UINT32)(size_t)argument;

    memset(&exits[vp], 0, sizeof(exits[vp]));
    (void)WHvRunVirtualProcessor(guest.partition, vp, &exits[vp], sizeof(exits[vp]));
    return NULL;
}

static void start(UINT32 count)
{
    for (size_t i = 0; i < count; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_processor, (void *)i), 0);
}

static void join(UINT32 count, UINT32 reason)
{
    for (UINT32 i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    for (UINT32 i = 0; i < count; i++)
        assert_int_equal(exits[i].ExitReason, reason);
}

static void stop(UINT32 count)
{
    for (UINT32 i = 0; i < count; i++)
        assert_ok(WHvCancelRunVirtualProcessor(guest.partition, i, 0));
    join(count, WHvRunVpExitReasonCanceled);
}

static UINT32 number_at(UINT32 address)
{
    return atomic_load((_Atomic UINT32 *)(void *)(guest.ram + address));
}

static UINT8 byte_at(UINT32 address)
{
    return atomic_load((_Atomic UINT8 *)(guest.ram + address));
}

static bool within_limit(time_t since)
{
    sched_yield();
    return time(NULL) - since < LIMIT_S;
}

static bool count_reaches(UINT32 address, UINT32 count)
{
    const time_t since = time(NULL);

    while (number_at(address) < count)
        if (!within_limit(since))
            return false;
    return true;
}

static bool byte_becomes(UINT32 address, UINT8 value)
{
    const time_t since = time(NULL);

    while (byte_at(address) != value)
        if (!within_limit(since))
            return false;
    return true;
}

/* mov al, 0; mov [RESULT], al; ret */
static const UINT8 tell[] = {0xb0, 0, 0xa2, RESULT & 0xff, RESULT >> 8, 0xc3};

/* Processor 0 calls the function at SECOND for ever; processor 1 stores the next number through ALIAS until it has come out. */
static void load_caller_and_patcher(UINT32 processors)
{
    static const UINT8 caller[] = {0xe8, 0xfd, 0x3f, 0xeb, 0xfb}; /* again: call SECOND; jmp again */
    static const UINT8 patcher[] = {
        0xfe, 0xc3,                                                   /* again: inc bl */
        0x26, 0x88, 0x1d,                                             /* wait: mov es:[di], bl */
        0x38, 0x1e, RESULT & 0xff, RESULT >> 8, 0x75, 0xf7,           /* cmp [RESULT], bl; jne wait */
        0x66, 0xff, 0x06, ROUNDS & 0xff, ROUNDS >> 8, 0xeb, 0xee,     /* inc dword [ROUNDS]; jmp again */
    };

    guest_load(&guest, CODE, caller, sizeof(caller));
    guest_load(&guest, CODE + 0x1000, patcher, sizeof(patcher));
    start_at(0, CODE, 0, 0);
    if (processors > 1)
        start_at(1, CODE + 0x1000, ALIAS, 1);
}

static void another_processor_stores(void **state)
{
    (void)state;
    begin(2);
    map(ALIAS, FRAMES, RWX);
    map(SECOND, FRAMES, RWX);
    guest_load(&guest, FRAMES, tell, sizeof(tell));
    load_caller_and_patcher(2);
    start(2);
    const bool all = count_reaches(ROUNDS, test_rounds(300));
    stop(2);
    assert_true(all);
    guest_end(&guest);
}

/* The client writes through ALIAS, or by its own pointer and says so. */
static bool client_writes(UINT8 number)
{
    const WHV_ACCESS_GPA_CONTROLS controls = {.AsUINT64 = WHvCacheTypeWriteBack};

    if (number & 1) {
        assert_ok(WHvWriteGpaRange(guest.partition, 0, ALIAS + 1, controls, &number, 1));
    } else {
        atomic_store((_Atomic UINT8 *)(guest.ram + FRAMES + 1), number);
        assert_ok(OwhpMarkDirty(guest.partition, ALIAS + 1, 1));
    }
    return byte_becomes(RESULT, number);
}

static void the_client_writes(void **state)
{
    bool all = true;

    (void)state;
    for (UINT32 processors = 1; processors <= 2; processors++) {
        begin(processors);
        map(ALIAS, FRAMES, RWX | T);
        map(SECOND, FRAMES, RWX);
        guest_load(&guest, FRAMES, tell, sizeof(tell));
        load_caller_and_patcher(1);
        start(1);
        for (unsigned i = 1; all && i <= test_rounds(200); i++)
            all = client_writes((UINT8)i);
        stop(1);
        assert_true(all);
        guest_end(&guest);
    }
}

/* Both addresses change to another memory with the same code, and back, while it runs and is stored to. */
static void mapped_otherwise_meanwhile(void **state)
{
    bool all = true;

    (void)state;
    begin(2);
    guest_load(&guest, FRAMES, tell, sizeof(tell));
    guest_load(&guest, FRAMES + 0x1000, tell, sizeof(tell));
    map(ALIAS, FRAMES, RWX);
    map(SECOND, FRAMES, RWX);
    load_caller_and_patcher(2);
    start(2);
    for (UINT32 i = 1; all && i <= test_rounds(100); i++) {
        map(i & 1 ? SECOND : ALIAS, FRAMES + i % 2 * 0x1000, RWX);
        map(i & 1 ? ALIAS : SECOND, FRAMES + i % 2 * 0x1000, i & 2 ? RWX | T : RWX);
        all = count_reaches(ROUNDS, number_at(ROUNDS) + 3);
    }
    stop(2);
    assert_true(all);
    guest_end(&guest);
}

/* The same with a client that writes after each change. The memories are equal when they take each other's place, so that only
 * what is watched tells them apart. The function's first instruction begins in that page, or `before` bytes before it. */
static void change_and_write(UINT8 before)
{
    const WHV_ACCESS_GPA_CONTROLS controls = {.AsUINT64 = WHvCacheTypeWriteBack};
    const UINT32 byte = 1u - before; /* the number's place in the page */
    UINT8 number = 0;
    bool all = true;

    begin(2);
    for (UINT32 i = 0; i < 2; i++)
        guest_load(&guest, FRAMES + i * 0x1000, tell + before, sizeof(tell) - before);
    memcpy(guest.ram + SECOND - before, tell, before);
    map(SECOND, FRAMES, RWX);
    load_caller_and_patcher(1);
    guest.ram[CODE + 1] = (UINT8)(guest.ram[CODE + 1] - before);
    start(1);
    for (UINT32 i = 1; all && i <= test_rounds(100); i++) {
        const UINT32 frame = FRAMES + i % 2 * 0x1000;

        atomic_store((_Atomic UINT8 *)(guest.ram + frame + byte), number);
        map(SECOND, frame, RWX);
        map(ALIAS, frame, RWX);
        for (unsigned times = 0; all && times < 3; times++) {
            atomic_store((_Atomic UINT8 *)(guest.ram + RESULT), (UINT8)~number); /* it runs, and stores the number */
            all = byte_becomes(RESULT, number++);
            assert_ok(WHvWriteGpaRange(guest.partition, 0, ALIAS + byte, controls, &number, 1));
            all = all && byte_becomes(RESULT, number);
        }
    }
    stop(1);
    assert_true(all);
    guest_end(&guest);
}

static void mapped_otherwise_before_a_write(void **state)
{
    (void)state;
    change_and_write(0);
    change_and_write(1);
}

/* An instruction over two pages, which take the place of two others together, again and again: it is either all of what was there
 * or all of what is there. Taking note of its second page may wait for the other processor, and the change come meanwhile. */
static void mapped_otherwise_under_an_instruction(void **state)
{
    static const UINT8 caller[] = {
        0xe8, 0xfa, 0x3f,                         /* again: call SECOND - 3 */
        0x66, 0x3d, 0x11, 0x11, 0x11, 0x11,       /* cmp eax, 0x11111111; je again */
        0x74, 0xf5,
        0x66, 0x3d, 0x22, 0x22, 0x22, 0x22,       /* cmp eax, 0x22222222; je again; hlt */
        0x74, 0xed, 0xf4,
    };
    const UINT32 rounds = test_rounds(20000);
    UINT32 i = 0;

    (void)state;
    begin(2);
    for (UINT32 pair = 0; pair < 2; pair++) {
        UINT8 function[] = {0x66, 0xb8, 0, 0, 0, 0, 0xc3}; /* mov eax, ..; ret */

        memset(function + 2, pair ? 0x22 : 0x11, 4);
        guest_load(&guest, FRAMES + pair * 0x2000 + 0xffd, function, sizeof(function));
    }
    guest_load(&guest, CODE, caller, sizeof(caller));
    guest_load(&guest, CODE + 0x1000, (const UINT8[]){0xeb, 0xfe}, 2); /* again: jmp again */
    start_at(0, CODE, 0, 0);
    start_at(1, CODE + 0x1000, 0, 0);
    map_pages(SECOND - 0x1000, FRAMES, 2);
    start(2);
    while (i++ < rounds)
        map_pages(SECOND - 0x1000, FRAMES + i % 2 * 0x2000, 2);
    assert_ok(WHvCancelRunVirtualProcessor(guest.partition, 0, 0));
    assert_ok(WHvCancelRunVirtualProcessor(guest.partition, 1, 0));
    for (size_t vp = 0; vp < 2; vp++)
        pthread_join(threads[vp], NULL);
    const UINT32 got = (UINT32)guest_get(&guest, WHvX64RegisterRax);
    if (exits[0].ExitReason != WHvRunVpExitReasonCanceled)
        print_error("EAX became %#x\n", got);
    assert_int_equal(exits[0].ExitReason, WHvRunVpExitReasonCanceled);
    guest_end(&guest);
}

/* ---- memory of another process ---- */

static void memory_of_another_process(void **state)
{
    const WHV_MAP_GPA_RANGE_FLAGS flags = (WHV_MAP_GPA_RANGE_FLAGS)RWX;
    const WHV_ACCESS_GPA_CONTROLS controls = {.AsUINT64 = WHvCacheTypeWriteBack};
    struct other other;
    HANDLE process;

    (void)state;
    begin(2);
    other_begin(&other);
    assert_ok(OwhpOpenProcess((UINT32)other.id, &process));
    void *at = (void *)other_map(&other, OTHER_PRIVATE, 0, 0x1000);
    assert_ok(WHvMapGpaRange2(guest.partition, process, at, ALIAS, 0x1000, flags));
    assert_ok(WHvMapGpaRange2(guest.partition, process, at, SECOND, 0x1000, flags));
    other_fill(&other, (UINT64)at, (const UINT8[]){0xb0, 0, 0xc3}, 3); /* mov al, 0; ret */
    patch_and_call(&stores[0], CODE, SECOND, 1);

    other_fill(&other, (UINT64)at, tell, sizeof(tell));
    load_caller_and_patcher(2);
    start(2);
    bool all = count_reaches(ROUNDS, test_rounds(100));
    stop(2);
    start(1);
    for (UINT8 number = 1; all && number <= 20; number++) {
        assert_ok(WHvWriteGpaRange(guest.partition, 0, ALIAS + 1, controls, &number, 1));
        all = byte_becomes(RESULT, number);
    }
    stop(1);
    assert_true(all);
    guest_end(&guest);
    assert_ok(OwhpCloseProcess(process));
    other_end(&other);
}

/* ---- everybody at once ---- */

enum { ALIASES = 4 }; /* pages from STORM on */

/* Each processor has a function of its own in the page, stores its number through one address and calls it at another; what it
 * calls must be what it stored, at once. In the beginning the page is mapped again and again, with other flags. */
static void load_storm(UINT16 rounds)
{
    static const UINT8 code[] = {
        0xfe, 0xc3, 0x89, 0xf0, 0x83, 0xe0, ALIASES - 1, /* again: inc bl; mov ax, si; and ax, 3 */
        0xc1, 0xe0, 12, 0x01, 0xf8, 0x95,                /* shl ax, 12; add ax, di; xchg bp, ax */
        0x3e, 0x88, 0x5e, 1,                             /* mov ds:[bp + 1], bl */
        0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0,              /* mov eax, cr0; mov cr0, eax */
        0x83, 0xc6, 3, 0x89, 0xf0, 0x83, 0xe0, ALIASES - 1, /* add si, 3; mov ax, si; and ax, 3: two of them are stored to, .. */
        0xc1, 0xe0, 12, 0x01, 0xf8, 0xff, 0xd0,          /* shl ax, 12; add ax, di; call ax: .. the other two called */
        0x83, 0xc6, 3, 0x38, 0xd8, 0x75, 5,              /* add si, 3; cmp al, bl; jne done */
        0x42, 0x39, 0xca, 0x72, 0xce, 0xf4,              /* inc dx; cmp dx, cx; jb again; done: hlt */
    };
    const WHV_REGISTER_NAME names[] = {WHvX64RegisterRdx, WHvX64RegisterRcx, WHvX64RegisterRsp};

    guest_load(&guest, CODE, code, sizeof(code));
    for (UINT16 i = 0; i < MOST; i++) {
        const WHV_REGISTER_VALUE values[] = {{.Reg64 = 0}, {.Reg64 = rounds}, {.Reg64 = (UINT64)STACK + 0x100 * i}};

        guest_load(&guest, FRAMES + i * 0x10u, (const UINT8[]){0xb0, 0, 0xc3}, 3); /* mov al, 0; ret */
        start_at(i, CODE, 0, (UINT16)(STORM + i * 0x10));
        assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, i, names, 3, values));
    }
}

static void storm(void **state)
{
    const UINT16 rounds = (UINT16)test_rounds(5000);
    WHV_REGISTER_NAME rdx = WHvX64RegisterRdx;
    WHV_REGISTER_VALUE value;

    (void)state;
    begin(MOST);
    for (UINT32 i = 0; i < ALIASES; i++)
        map(STORM + i * 0x1000, FRAMES, RWX);
    load_storm(rounds);
    start(MOST);
    for (UINT32 changes = 0; changes < rounds / 40u; changes++) {
        map(STORM + changes % ALIASES * 0x1000, FRAMES, changes / ALIASES % 2 ? RWX : RWX | T);
        sched_yield();
    }
    join(MOST, WHvRunVpExitReasonX64Halt);
    for (UINT32 i = 0; i < MOST; i++) {
        assert_ok(WHvGetVirtualProcessorRegisters(guest.partition, i, &rdx, 1, &value));
        assert_int_equal(value.Reg64, rounds);
    }
    guest_end(&guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("ALIAS-1", "F 2.5, SDM 3A 12.1.3", stores_through_another_address),
        CASE("ALIAS-2", "F 2.5", code_at_two_addresses),
        CASE("ALIAS-3", "F 2.5, SDM 3A 9.1.3", another_processor_stores),
        CASE("ALIAS-4", "F 2.5", the_client_writes),
        CASE("ALIAS-5", "F 2.5, 2.4", mapped_otherwise_meanwhile),
        CASE("ALIAS-6", "F 2.5, 2.4", mapped_otherwise_before_a_write),
        CASE("ALIAS-7", "F 2.5, 2.3", storm),
        CASE("ALIAS-8", "F 2.5, 2.11", memory_of_another_process),
        CASE("ALIAS-9", "F 2.4, 2.5", mapped_otherwise_under_an_instruction),
    };

    return cmocka_run_group_tests_name("guest alias threads", tests, NULL, NULL);
}
