/* Guest memory as a guest meets it: access exits field by field, changes between and during runs, dirty pages. */
#include "guest.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define R   WHvMapGpaRangeFlagRead
#define RW  (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite)
#define RX  (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagExecute)
#define RWX (RW | WHvMapGpaRangeFlagExecute)

enum { HOLE = RAM_SIZE, PAGE = 0x60000 }; /* the first address without memory; a page to change */

static void map(struct guest *g, UINT64 gpa, void *host, UINT64 size, UINT32 flags)
{
    check_hr(WHvMapGpaRange(g->partition, host, gpa, size, (WHV_MAP_GPA_RANGE_FLAGS)flags), S_OK, "map", __FILE__,
             __LINE__);
}

/* A long-mode guest whose RDI is an address. */
static void begin_at(struct guest *g, UINT64 rdi)
{
    guest_begin(g, NULL);
    guest_long_mode(g, 0);
    guest_set(g, WHvX64RegisterRdi, rdi);
}

/* What every memory exit here has: RIP at the instruction, length 0, and this. */
#define assert_access(g, type, unmapped, gpa, rip)                                                 \
    do {                                                                                           \
        assert_field(g, MemoryAccess.AccessInfo.AccessType, type);                                 \
        assert_field(g, MemoryAccess.AccessInfo.GpaUnmapped, unmapped);                            \
        assert_field(g, MemoryAccess.AccessInfo.Reserved, 0);                                      \
        assert_field(g, MemoryAccess.Gpa, gpa);                                                    \
        assert_field(g, VpContext.Rip, rip);                                                       \
        assert_field(g, VpContext.InstructionLength, 0);                                           \
    } while (0)

#define assert_gva(g, gva)                                                                         \
    do {                                                                                           \
        assert_field(g, MemoryAccess.AccessInfo.GvaValid, 1);                                      \
        assert_field(g, MemoryAccess.Gva, gva);                                                    \
    } while (0)

/* ---- single accesses ---- */

static void write_unmapped(void **state)
{
    static const UINT8 code[] = {0x89, 0x07, 0xf4}; /* mov [rdi], eax; hlt */
    struct guest g;

    (void)state;
    begin_at(&g, HOLE + 0x123);
    guest_load(&g, CODE, code, sizeof(code));
    for (int again = 0; again < 3; again++) {
        run_to(&g, WHvRunVpExitReasonMemoryAccess);
        assert_access(&g, WHvMemoryAccessWrite, 1, HOLE + 0x123, CODE);
        assert_gva(&g, HOLE + 0x123);
        assert_field(&g, MemoryAccess.InstructionByteCount, 16);
        assert_memory_equal(g.exit.MemoryAccess.InstructionBytes, g.ram + CODE, 16);
        assert_field(&g, MemoryAccess.Reserved[0], 0);
    }
    /* Map and run on: the instruction happens, once. */
    UINT32 *page = host_pages(1);
    map(&g, HOLE, page, 4096, RW);
    guest_set(&g, WHvX64RegisterRax, 0x12345678);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    UINT32 stored;
    memcpy(&stored, (UINT8 *)page + 0x123, 4);
    assert_int_equal(stored, 0x12345678);
    guest_end(&g);
}

static void read_unmapped(void **state)
{
    struct guest g;

    (void)state;
    begin_at(&g, HOLE + 8);
    guest_code(&g, 0x48, 0x8b, 0x07); /* mov rax, [rdi] */
    guest_set(&g, WHvX64RegisterRax, 5);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessRead, 1, HOLE + 8, CODE);
    assert_gva(&g, HOLE + 8);
    assert_field(&g, MemoryAccess.InstructionByteCount, 16);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax), 5);
    guest_end(&g);
}

static void write_read_only(void **state)
{
    struct guest g;

    (void)state;
    begin_at(&g, PAGE + 4);
    map(&g, PAGE, g.ram + PAGE, 4096, RX);
    guest_code(&g, 0x89, 0x07, 0x8b, 0x07, 0xf4); /* mov [rdi], eax; mov eax, [rdi]; hlt */
    memset(g.ram + PAGE, 0x77, 4096);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessWrite, 0, PAGE + 4, CODE);
    assert_gva(&g, PAGE + 4);
    assert_field(&g, MemoryAccess.InstructionByteCount, 0);
    guest_set(&g, WHvX64RegisterRip, CODE + 2); /* reading is allowed */
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax), 0x77777777);
    assert_int_equal(g.ram[PAGE + 4], 0x77);
    guest_end(&g);
}

static void no_access(void **state)
{
    struct guest g;

    (void)state;
    begin_at(&g, PAGE);
    map(&g, PAGE, g.ram + PAGE, 4096, WHvMapGpaRangeFlagNone);
    guest_code(&g, 0x8b, 0x07, 0x89, 0x07);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessRead, 0, PAGE, CODE);
    guest_set(&g, WHvX64RegisterRip, CODE + 2);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessWrite, 0, PAGE, CODE + 2);
    guest_end(&g);
}

static void execute(void **state)
{
    struct guest g;

    (void)state;
    begin_at(&g, HOLE + 0x40);
    guest_code(&g, 0xff, 0xe7); /* jmp rdi */
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessExecute, 1, HOLE + 0x40, HOLE + 0x40);
    assert_gva(&g, HOLE + 0x40);
    assert_field(&g, MemoryAccess.InstructionByteCount, 0);
    guest_end(&g);

    begin_at(&g, PAGE + 0x40);
    map(&g, PAGE, g.ram + PAGE, 4096, RW);
    g.ram[PAGE + 0x40] = 0xf4;
    guest_code(&g, 0xff, 0xe7);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessExecute, 0, PAGE + 0x40, PAGE + 0x40);
    assert_field(&g, MemoryAccess.InstructionByteCount, 0);
    map(&g, PAGE, g.ram + PAGE, 4096, RX);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, PAGE + 0x41);
    guest_end(&g);
}

static void read_modify_write(void **state)
{
    struct guest g;

    (void)state;
    begin_at(&g, HOLE);
    guest_code(&g, 0x01, 0x07); /* add [rdi], eax */
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessRead, 1, HOLE, CODE);
    guest_end(&g);

    begin_at(&g, PAGE);
    map(&g, PAGE, g.ram + PAGE, 4096, R);
    guest_code(&g, 0x01, 0x07);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessWrite, 0, PAGE, CODE);
    guest_end(&g);

    begin_at(&g, PAGE);
    map(&g, PAGE, g.ram + PAGE, 4096, R);
    guest_code(&g, 0xf0, 0x0f, 0xc1, 0x07); /* lock xadd [rdi], eax */
    guest_set(&g, WHvX64RegisterRax, 9);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessWrite, 0, PAGE, CODE);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax), 9);
    guest_end(&g);
}

/* The lowest address that cannot be served; nothing of the other page is written. */
static void across_pages(void **state)
{
    struct guest g;

    (void)state;
    begin_at(&g, HOLE - 4);
    guest_code(&g, 0x48, 0x89, 0x07, 0xf4); /* mov [rdi], rax; hlt */
    guest_set(&g, WHvX64RegisterRax, 0x1122334455667788);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessWrite, 1, HOLE, CODE);
    assert_int_equal(g.ram[HOLE - 4], 0);
    UINT8 *page = host_pages(1);
    map(&g, HOLE, page, 4096, RW);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(g.ram[HOLE - 4], 0x88);
    assert_int_equal(page[0], 0x44);
    guest_end(&g);

    begin_at(&g, PAGE - 4);
    assert_ok(WHvUnmapGpaRange(g.partition, PAGE - 0x1000, 4096));
    guest_code(&g, 0x48, 0x8b, 0x07);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessRead, 1, PAGE - 4, CODE);
    guest_end(&g);
}

/* Fewer bytes at the end of the page the code is in. */
static void bytes_at_page_end(void **state)
{
    static const UINT8 code[] = {0x89, 0x07, 0xf4};
    struct guest g;

    (void)state;
    begin_at(&g, HOLE);
    guest_load(&g, CODE + 0x1000 - 3, code, 3);
    guest_set(&g, WHvX64RegisterRip, CODE + 0x1000 - 3);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessWrite, 1, HOLE, CODE + 0x1000 - 3);
    assert_field(&g, MemoryAccess.InstructionByteCount, 3);
    assert_memory_equal(g.exit.MemoryAccess.InstructionBytes, code, 3);
    guest_end(&g);
}

/* REP stops at the element that cannot be served, the ones before are done. */
static void string_stops(void **state)
{
    struct guest g;

    (void)state;
    begin_at(&g, HOLE - 5);
    guest_code(&g, 0xf3, 0xaa, 0xf4); /* rep stosb */
    guest_set(&g, WHvX64RegisterRcx, 9);
    guest_set(&g, WHvX64RegisterRax, 0x5a);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessWrite, 1, HOLE, CODE);
    assert_int_equal(guest_get(&g, WHvX64RegisterRcx), 4);
    assert_int_equal(guest_get(&g, WHvX64RegisterRdi), HOLE);
    for (int i = 1; i <= 5; i++)
        assert_int_equal(g.ram[HOLE - i], 0x5a);
    UINT8 *page = host_pages(1);
    map(&g, HOLE, page, 4096, RW);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_memory_equal(page, "ZZZZ\0", 5);
    guest_end(&g);
}

/* A page table that is not there: the exit is for the table, without a GVA. */
static void page_table_access(void **state)
{
    struct guest g;

    (void)state;
    begin_at(&g, 0x400000);
    UINT64 *pd = (UINT64 *)(void *)(g.ram + TABLES + 0x2000);
    pd[2] = HOLE | 7; /* 4 MiB: its PT is in the hole */
    guest_code(&g, 0x8b, 0x07);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessRead, 1, HOLE, CODE);
    assert_field(&g, MemoryAccess.AccessInfo.GvaValid, 0);
    guest_end(&g);

    /* Accessed bits cannot be set in read-only tables. */
    begin_at(&g, PAGE);
    map(&g, TABLES, g.ram + TABLES, 0x4000, R);
    guest_code(&g, 0x8b, 0x07);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&g, MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessWrite);
    assert_field(&g, MemoryAccess.AccessInfo.GpaUnmapped, 0);
    assert_field(&g, MemoryAccess.AccessInfo.GvaValid, 0);
    assert_field(&g, MemoryAccess.Gpa, TABLES);
    guest_end(&g);
}

/* An exception's frame does not find its stack: the event stays pending and is delivered at the next run. */
static void event_delivery(void **state)
{
    struct guest g;

    (void)state;
    begin_at(&g, 0);
    guest_set(&g, WHvX64RegisterRsp, HOLE + 0x1000);
    guest_code(&g, 0x0f, 0x0b); /* ud2 */
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&g, VpContext.ExecutionState.InterruptionPending, 1);
    assert_field(&g, MemoryAccess.InstructionByteCount, 0);
    assert_field(&g, MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessWrite);
    assert_field(&g, MemoryAccess.AccessInfo.GpaUnmapped, 1);
    UINT64 pending = guest_get(&g, WHvRegisterPendingInterruption);
    assert_int_equal(pending & 0xf, 1 | 3 << 1);
    assert_int_equal(pending >> 16 & 0xffff, 6);
    map(&g, HOLE, host_pages(1), 4096, RW);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, HANDLERS + 16 * 6 + 1);
    assert_int_equal(guest_get(&g, WHvRegisterPendingInterruption), 0);
    guest_end(&g);
}

/* ---- host memory behind a mapping ---- */

static void host_memory_gone(void **state)
{
    struct guest g;

    (void)state;
    begin_at(&g, HOLE);
    UINT8 *host = mmap(NULL, 2 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    map(&g, HOLE, host, 2 * 4096, RW); /* reserved only: can be mapped */
    guest_code(&g, 0x8b, 0x07, 0x89, 0x07, 0xf4);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessRead, 0, HOLE, CODE);
    assert_int_equal(mprotect(host, 4096, PROT_READ), 0); /* readable: the load goes, the store exits */
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessWrite, 0, HOLE, CODE + 2);
    assert_int_equal(mprotect(host, 4096, PROT_READ | PROT_WRITE), 0);
    guest_set(&g, WHvX64RegisterRax, 0x31);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(host[0], 0x31);
    munmap(host, 2 * 4096);
    guest_set(&g, WHvX64RegisterRip, CODE);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessRead, 0, HOLE, CODE);
    /* Another allocation at the same address is what the guest sees then. */
    UINT8 *again = mmap(host, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    assert_ptr_equal(again, host);
    again[0] = 0x44;
    guest_set(&g, WHvX64RegisterRip, CODE);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax), 0x44);
    guest_end(&g);
    munmap(again, 2 * 4096);
}

/* ---- changes ---- */

static void unmapped_after_an_exit(void **state)
{
    struct guest g;

    (void)state;
    begin_at(&g, PAGE);
    guest_code(&g, 0x8b, 0x07, 0xf4, 0x8b, 0x07, 0xf4);
    run_to(&g, WHvRunVpExitReasonX64Halt); /* the translation is cached now */
    assert_ok(WHvUnmapGpaRange(g.partition, PAGE, 4096));
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_access(&g, WHvMemoryAccessRead, 1, PAGE, CODE + 3);
    UINT8 *page = host_pages(1);
    page[0] = 0x66;
    map(&g, PAGE, page, 4096, R);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax) & 0xff, 0x66);
    guest_end(&g);
}

/* Replaced in the middle of a mapping: the neighbours stay. */
static void replaced_in_the_middle(void **state)
{
    struct guest g;
    UINT8 *page = host_pages(1);

    (void)state;
    begin_at(&g, PAGE);
    g.ram[PAGE - 0x1000] = 1;
    g.ram[PAGE] = 2;
    g.ram[PAGE + 0x1000] = 3;
    page[0] = 9;
    /* mov al, [rdi-0x1000]; mov ah, [rdi]; mov bl, [rdi+0x1000]; hlt */
    guest_code(&g, 0x8a, 0x87, 0, 0xf0, 0xff, 0xff, 0x8a, 0x27, 0x8a, 0x9f, 0, 0x10, 0, 0, 0xf4);
    map(&g, PAGE, page, 4096, R);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax) & 0xffff, 0x0901);
    assert_int_equal(guest_get(&g, WHvX64RegisterRbx) & 0xff, 3);
    guest_end(&g);
}

/* Code that the host changes is not executed from a cache: by WHvWriteGpaRange, by remapping, by its pointer. */
static void changed_code(void **state)
{
    const WHV_ACCESS_GPA_CONTROLS controls = {0};
    const UINT8 in_al = 0xec;
    struct guest g;

    (void)state;
    begin_at(&g, 0);
    guest_code(&g, 0xf4, 0xf4);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_ok(WHvWriteGpaRange(g.partition, 0, CODE, controls, &in_al, 1));
    guest_set(&g, WHvX64RegisterRip, CODE);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    g.ram[CODE] = 0xf4; /* between runs */
    run_to(&g, WHvRunVpExitReasonX64Halt);
    UINT8 *page = host_pages(1);
    page[0] = 0xec;
    map(&g, CODE, page, 4096, RWX);
    guest_set(&g, WHvX64RegisterRip, CODE);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    guest_end(&g);
}

/* The guest changes its own code, and runs it. */
static void self_modifying(void **state)
{
    struct guest g;

    (void)state;
    begin_at(&g, CODE + 0x100);
    /* call rdi; mov byte [rdi], 0xec; call rdi */
    guest_code(&g, 0xff, 0xd7, 0xc6, 0x07, 0xec, 0xff, 0xd7);
    g.ram[CODE + 0x100] = 0xc3; /* ret, later in al, dx */
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_field(&g, VpContext.Rip, CODE + 0x100);
    guest_end(&g);
}

/* ---- while it runs ---- */

struct spinner {
    struct guest *guest;
    pthread_t thread;
    _Atomic unsigned exits;
    _Atomic bool stop;
    unsigned memory_exits;
};

static void *spin(void *argument)
{
    struct spinner *spinner = argument;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    while (!atomic_load(&spinner->stop)) {
        if (WHvRunVirtualProcessor(spinner->guest->partition, 0, &exit, sizeof(exit)) != S_OK)
            return (void *)1;
        if (exit.ExitReason == WHvRunVpExitReasonMemoryAccess)
            spinner->memory_exits++;
        else if (exit.ExitReason != WHvRunVpExitReasonCanceled)
            return (void *)2;
        atomic_fetch_add(&spinner->exits, 1);
    }
    return NULL;
}

/* The guest counts in a page while the page is replaced over and over: never a hole, the count never stands still, and
 * after unmapping nothing of the old memory changes any more. */
static void replaced_under_a_run(void **state)
{
    struct guest g;
    struct spinner spinner = {.guest = &g};
    void *result;
    volatile UINT64 *pages[2];

    (void)state;
    begin_at(&g, PAGE);
    guest_code(&g, 0x48, 0xff, 0x07, 0xeb, 0xfb); /* again: inc qword [rdi]; jmp again */
    for (int i = 0; i < 2; i++)
        pages[i] = host_pages(1);
    map(&g, PAGE, (void *)(uintptr_t)pages[0], 4096, RW);
    assert_int_equal(pthread_create(&spinner.thread, NULL, spin, &spinner), 0);
    for (int i = 1; i < 300; i++) {
        volatile UINT64 *next = pages[i & 1], *last = pages[~i & 1];
        map(&g, PAGE, (void *)(uintptr_t)next, 4096, RW);
        UINT64 stopped = *last, begin = *next;
        while (*next == begin)
            sched_yield();
        assert_int_equal(*last, stopped);
    }
    assert_ok(WHvUnmapGpaRange(g.partition, PAGE, 4096));
    UINT64 last[2] = {*pages[0], *pages[1]};
    while (atomic_load(&spinner.exits) < 10)
        sched_yield();
    assert_int_equal(*pages[0], last[0]);
    assert_int_equal(*pages[1], last[1]);
    atomic_store(&spinner.stop, true);
    assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
    pthread_join(spinner.thread, &result);
    assert_null(result);
    assert_true(spinner.memory_exits >= 9); /* only after the unmap */
    guest_end(&g);
}

/* 10000 cancels raced against a guest that loops: each ends one run. */
static void cancel_a_loop(void **state)
{
    const unsigned rounds = test_rounds(10000);
    struct guest g;
    struct spinner spinner = {.guest = &g};
    void *result;

    (void)state;
    begin_at(&g, 0);
    guest_code(&g, 0xeb, 0xfe);
    assert_int_equal(pthread_create(&spinner.thread, NULL, spin, &spinner), 0);
    for (unsigned i = 0; i < rounds; i++) {
        assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
        while (atomic_load(&spinner.exits) <= i)
            sched_yield();
        assert_int_equal(atomic_load(&spinner.exits), i + 1);
    }
    atomic_store(&spinner.stop, true);
    assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
    pthread_join(spinner.thread, &result);
    assert_null(result);
    guest_end(&g);
}

/* A cancel while nothing runs ends the next run before its first instruction, once, however many there were; and one that comes
 * while an exit is being served too. */
static void cancel_sticks(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0x40, 0xe7, 0x10, 0x40, 0xf4); /* inc ax; out 0x10, ax; inc ax; hlt */
    for (unsigned i = 0; i < 3; i++)
        assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
    guest_set(&g, WHvX64RegisterRax, 0);
    run_to(&g, WHvRunVpExitReasonCanceled);
    assert_int_equal(guest_get(&g, WHvX64RegisterRip), CODE);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax), 0);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
    guest_set(&g, WHvX64RegisterRip, CODE + 3);
    run_to(&g, WHvRunVpExitReasonCanceled);
    assert_int_equal(guest_get(&g, WHvX64RegisterRip), CODE + 3);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax), 1);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax), 2);
    guest_end(&g);
}

/* ---- dirty pages ---- */

static UINT64 dirty(struct guest *g, UINT64 gpa, UINT64 pages)
{
    UINT64 bitmap = 0;

    assert_true(pages <= 64);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(g->partition, gpa, pages * 4096, &bitmap, 8));
    return bitmap;
}

static void dirty_pages(void **state)
{
    struct guest g;
    const WHV_ACCESS_GPA_CONTROLS controls = {0};
    UINT32 value = 1;

    (void)state;
    begin_at(&g, PAGE + 0xffc);
    assert_int_equal(dirty(&g, PAGE, 64), 0); /* the host wrote, before and after mapping: nothing */
    g.ram[PAGE] = 1;
    assert_int_equal(dirty(&g, PAGE, 64), 0);
    /* mov [rdi], eax; mov [rdi+0x2000], rax (two pages); mov eax, [rdi+0x8000]; hlt; mov [rdi], eax; hlt */
    guest_code(&g, 0x89, 0x07, 0x48, 0x89, 0x87, 0, 0x20, 0, 0, 0x8b, 0x87, 0, 0x80, 0, 0, 0xf4, 0x89, 0x07, 0xf4);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_dirty(dirty(&g, PAGE, 64), 1 | 4 | 8, 1 << 8 | 1 << 9);
    assert_int_equal(dirty(&g, PAGE, 64), 0); /* the query cleared */
    run_to(&g, WHvRunVpExitReasonX64Halt);    /* a store to a page whose translation is cached */
    assert_int_equal(dirty(&g, PAGE, 64), 1);
    /* The tables of the walks: accessed and dirty bits. */
    assert_int_equal(dirty(&g, TABLES, 4), 0xf);
    assert_dirty(dirty(&g, CODE, 1), 0, 1); /* executing is not writing */
    /* The host by WHvWriteGpaRange and OwhpMarkDirty. */
    assert_ok(WHvWriteGpaRange(g.partition, 0, PAGE + 0x1ffe, controls, &value, 4));
    assert_ok(OwhpMarkDirty(g.partition, PAGE + 0x5001, 1));
    assert_int_equal(dirty(&g, PAGE, 64), 2 | 4 | 0x20);
    guest_end(&g);
}

static void dirty_size_zero_clears(void **state)
{
    struct guest g;

    (void)state;
    begin_at(&g, PAGE);
    guest_code(&g, 0x89, 0x07, 0xf4);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(g.partition, PAGE, 4096, NULL, 0));
    assert_int_equal(dirty(&g, PAGE, 1), 0);
    guest_end(&g);
}

/* No store is lost or told twice, while the guest stores all the time and the host queries all the time. */
static void dirty_under_a_run(void **state)
{
    const unsigned rounds = test_rounds(2000);
    struct guest g;
    struct spinner spinner = {.guest = &g};
    void *result;

    (void)state;
    begin_at(&g, PAGE);
    /* again: mov rax, rbx; and eax, 0x3f000; mov [rdi+rax], rbx; add rbx, 0x1000; jmp again: a counter, page by page */
    guest_code(&g, 0x48, 0x89, 0xd8, 0x25, 0, 0xf0, 0x03, 0, 0x48, 0x89, 0x1c, 0x07, 0x48, 0x81, 0xc3, 0, 0x10, 0, 0,
               0xeb, 0xeb);
    guest_set(&g, WHvX64RegisterRbx, 0x1000);
    UINT64 seen[64];
    for (int i = 0; i < 64; i++)
        seen[i] = 0;
    assert_int_equal(pthread_create(&spinner.thread, NULL, spin, &spinner), 0);
    for (unsigned round = 0; round < rounds; round++) {
        UINT64 bitmap = dirty(&g, PAGE, 64);
        for (int i = 0; i < 64; i++)
            if (bitmap >> i & 1)
                memcpy(&seen[i], g.ram + PAGE + 4096 * i, 8);
    }
    atomic_store(&spinner.stop, true);
    assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
    pthread_join(spinner.thread, &result);
    assert_null(result);
    /* After a last harvest what was seen is what is there. */
    UINT64 bitmap = dirty(&g, PAGE, 64);
    for (int i = 0; i < 64; i++) {
        UINT64 now;
        memcpy(&now, g.ram + PAGE + 4096 * i, 8);
        if (!(bitmap >> i & 1) && now != seen[i])
            fail_msg("page %d: %#llx was stored and not told, last seen %#llx", i, (unsigned long long)now,
                     (unsigned long long)seen[i]);
    }
    guest_end(&g);
}

/* ---- discard ---- */

/* Neither data nor code of a discarded page is seen again, though the processor has both in its caches. */
static void discarded(void **state)
{
    struct guest g;

    (void)state;
    begin_at(&g, PAGE);
    guest_code(&g, 0x8b, 0x07, 0xff, 0xd6, 0xf4, 0xeb, 0xf9); /* mov eax, [rdi]; call rsi; hlt; jmp back */
    const UINT8 callee[] = {0xff, 0xc3, 0xc3}; /* inc ebx; ret */
    guest_load(&g, PAGE + 0x1000, callee, sizeof(callee));
    g.ram[PAGE] = 7;
    guest_set(&g, WHvX64RegisterRsi, PAGE + 0x1000);
    guest_set(&g, WHvX64RegisterRbx, 0);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax) & 0xff, 7);
    assert_int_equal(guest_get(&g, WHvX64RegisterRbx), 1);
    assert_dirty(dirty(&g, PAGE, 64), 0, 3);
    assert_ok(OwhpDiscardGpaRange(g.partition, PAGE, 0x2000));
    assert_int_equal(dirty(&g, PAGE, 64), 3);
    assert_int_equal(g.ram[PAGE], 0);
    /* The code is add [rax], al now, over and over: with RAX at a page of zeros it runs into the next page, which halts. */
    const UINT8 hlt = 0xf4;
    guest_load(&g, PAGE + 0x2000, &hlt, 1);
    guest_code(&g, 0x8b, 0x07, 0x48, 0x8d, 0x87, 0, 0x30, 0, 0, 0xff, 0xe6); /* mov eax, [rdi]; lea rax, [rdi+0x3000]; jmp rsi */
    guest_set(&g, WHvX64RegisterRip, CODE);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(guest_get(&g, WHvX64RegisterRip), PAGE + 0x2001);
    assert_int_equal(guest_get(&g, WHvX64RegisterRbx), 1);
    assert_dirty(dirty(&g, PAGE, 64), 8, 7);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("MEM-1", "F 7.3, 7.4: write to unmapped, 16 bytes", write_unmapped),
        CASE("MEM-2", "F 7.3", read_unmapped),
        CASE("MEM-3", "F 7.4: write to read-only, 0 bytes", write_read_only),
        CASE("MEM-4", "S None: every access exits", no_access),
        CASE("MEM-5", "F 7.3, S execute exit", execute),
        CASE("MEM-6", "S read-modify-write", read_modify_write),
        CASE("MEM-7", "F 7.3: lowest address", across_pages),
        CASE("MEM-8", "F 7.4: page end", bytes_at_page_end),
        CASE("MEM-9", "F 7.3: REP", string_stops),
        CASE("MEM-10", "F 7.2: page tables", page_table_access),
        CASE("MEM-11", "F 7.2, 7.4: event delivery", event_delivery),
        CASE("MEM-12", "F 2.9, S host memory missing", host_memory_gone),
        CASE("MEM-13", "F 2.3: after an unmap the next access exits", unmapped_after_an_exit),
        CASE("MEM-14", "F 2.4: partial replace", replaced_in_the_middle),
        CASE("MEM-15", "H WHvWriteGpaRange", changed_code),
        CASE("MEM-16", "SDM 3A 12.1.3", self_modifying),
        CASE("MEM-17", "S overlap: never a hole", replaced_under_a_run),
        CASE("MEM-18", "F 9.4: 10000 cancels", cancel_a_loop),
        CASE("MEM-22", "F 9.4: sticky", cancel_sticks),
        CASE("MEM-19", "F 3", dirty_pages),
        CASE("MEM-20", "F 3: size 0", dirty_size_zero_clears),
        CASE("MEM-21", "F 3: concurrency", dirty_under_a_run),
        CASE("OWHP-DISCARD-1", "H OwhpDiscardGpaRange", discarded),
    };
    return cmocka_run_group_tests_name("guest memory", tests, NULL, NULL);
}
