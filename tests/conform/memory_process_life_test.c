/*
 * What may become of a process while its memory is mapped (WHvMapGpaRange2): it executes another program, its files are cut short
 * and grow again, it ends while processors store to its memory.
 */
#include "guest.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FLAGS(f) ((WHV_MAP_GPA_RANGE_FLAGS)(f))

enum { PAGE = 4096, PRIVATE_GPA = 0x100000, SHARED_GPA = 0x140000, PAGES = 4, RWXT = 15 }; /* below 2 MiB: identity-mapped */

static const WHV_ACCESS_GPA_CONTROLS plain = {.AsUINT64 = WHvCacheTypeWriteBack};

/* What the child does at its first order; at the next one it ends. */
enum fate { ENDS, EXECUTES, LOSES_MAIN };

/* A child with what this process has mapped: private memory, and a memfd that this process keeps open. */
struct family {
    struct guest g;
    UINT8 *private, *shared;
    int file, orders; /* a byte written there: the child goes on */
    pid_t child;
    HANDLE process;
};

static void wait_for_order(int orders)
{
    char byte;

    if (read(orders, &byte, 1) != 1)
        _exit(2);
}

/* A thread that lets another go on in its place, at each order. */
static void *hand_over(void *context)
{
    int orders = *(int *)context;
    pthread_t next;

    pthread_detach(pthread_self());
    wait_for_order(orders);
    if (pthread_create(&next, NULL, hand_over, context) != 0)
        _exit(3);
    return NULL;
}

static void live_in_child(int orders, enum fate fate)
{
    static int orders_of_thread;
    pthread_t thread;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    orders_of_thread = orders;
    wait_for_order(orders);
    if (fate == EXECUTES)
        execl("/bin/sleep", "sleep", "100", (char *)NULL);
    if (fate == LOSES_MAIN && pthread_create(&thread, NULL, hand_over, &orders_of_thread) == 0)
        pthread_exit(NULL);
    _exit(0);
}

static void begin(struct family *f, enum fate fate)
{
    int ends[2];

    guest_begin(&f->g, NULL);
    guest_long_mode(&f->g, 0);
    f->file = memfd_create("life", MFD_CLOEXEC);
    assert_int_equal(ftruncate(f->file, PAGES * PAGE), 0);
    f->private = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    f->shared = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, f->file, 0);
    memset(f->private, 0x11, PAGES * PAGE);
    memset(f->shared, 0x22, PAGES * PAGE);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    f->child = fork();
    assert_true(f->child >= 0);
    if (f->child == 0)
        live_in_child(ends[0], fate);
    close(ends[0]);
    f->orders = ends[1];
    assert_ok(OwhpOpenProcess((UINT32)f->child, &f->process));
    assert_ok(WHvMapGpaRange2(f->g.partition, f->process, f->private, PRIVATE_GPA, PAGES * PAGE, FLAGS(RWXT)));
    assert_ok(WHvMapGpaRange2(f->g.partition, f->process, f->shared, SHARED_GPA, PAGES * PAGE, FLAGS(RWXT)));
    guest_code(&f->g, 0xff, 0x07, 0xf4); /* inc dword [rdi]; hlt */
}

static void end(struct family *f)
{
    if (f->child > 0) {
        kill(f->child, SIGKILL);
        waitpid(f->child, NULL, 0);
    }
    assert_ok(OwhpCloseProcess(f->process));
    guest_end(&f->g);
    munmap(f->private, PAGES * PAGE);
    munmap(f->shared, PAGES * PAGE);
    close(f->file);
    close(f->orders);
}

/* The guest increments what is there, or exits; and so do the calls. */
static void expect(struct family *f, UINT64 gpa, bool there)
{
    UINT32 before = 0, after = 0;

    assert_hr(WHvReadGpaRange(f->g.partition, 0, gpa, plain, &before, 4), there ? S_OK : E_ACCESSDENIED);
    assert_hr(WHvWriteGpaRange(f->g.partition, 0, gpa, plain, &before, 4), there ? S_OK : E_ACCESSDENIED);
    guest_set(&f->g, WHvX64RegisterRip, CODE);
    guest_set(&f->g, WHvX64RegisterRdi, gpa);
    if (there) {
        run_to(&f->g, WHvRunVpExitReasonX64Halt);
        assert_ok(WHvReadGpaRange(f->g.partition, 0, gpa, plain, &after, 4));
        assert_int_equal(after, before + 1);
        return;
    }
    run_to(&f->g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&f->g, MemoryAccess.Gpa, gpa);
    assert_field(&f->g, MemoryAccess.AccessInfo.GpaUnmapped, 0);
    assert_field(&f->g, MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessRead); /* a read-modify-write's first */
    assert_field(&f->g, VpContext.Rip, CODE);
}

static void nap(void)
{
    const struct timespec t = {.tv_nsec = 1000000};

    nanosleep(&t, NULL);
}

/* Another program has other private memory: nothing is at the addresses. Memory that was shared stays what it was when it was
 * mapped; mapped anew it is not there. */
static void executes(void **state)
{
    struct family f;
    UINT8 byte;

    (void)state;
    begin(&f, EXECUTES);
    expect(&f, PRIVATE_GPA, true);
    expect(&f, SHARED_GPA, true);
    assert_int_equal(write(f.orders, "", 1), 1);
    for (int tries = 0; tries < 5000 && WHvReadGpaRange(f.g.partition, 0, PRIVATE_GPA, plain, &byte, 1) == S_OK; tries++)
        nap();
    expect(&f, PRIVATE_GPA, false);
    expect(&f, SHARED_GPA, true);
    assert_ok(WHvMapGpaRange2(f.g.partition, f.process, f.shared, SHARED_GPA, PAGES * PAGE, FLAGS(RWXT)));
    expect(&f, SHARED_GPA, false);
    end(&f);
}

static void refuse_pin(struct family *f)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void)f;
    print_message("SKIPPED a pin: the sanitizer's mlock does nothing\n");
#else
    const WHV_MEMORY_RANGE_ENTRY last = {SHARED_GPA + 3 * PAGE, PAGE};

    assert_refused(WHvAdviseGpaRange(f->g.partition, &last, 1, WHvAdviseGpaRangeCodePin, NULL, 0), E_ACCESSDENIED);
#endif
}

/* The memfd is cut short: no signal but exits, refusals with words, zeros in a snapshot. It grows again: zeros, live as before.
 */
static void cut_short(void **state)
{
    const WHV_ADVISE_GPA_RANGE_POPULATE populate = {.AccessType = WHvMemoryAccessWrite};
    const WHV_MEMORY_RANGE_ENTRY all = {SHARED_GPA, PAGES * PAGE};
    OWHP_SNAPSHOT_HANDLE before, without;
    WHV_TRANSLATE_GVA_RESULT result;
    struct family f;
    UINT64 pages, gpa;

    (void)state;
    begin(&f, ENDS);
    expect(&f, SHARED_GPA + 3 * PAGE, true);
    assert_ok(OwhpCreateSnapshot(f.g.partition, 0, &before));
    assert_int_equal(ftruncate(f.file, 2 * PAGE), 0);
    expect(&f, SHARED_GPA + PAGE, true);
    expect(&f, SHARED_GPA + 2 * PAGE, false);
    expect(&f, SHARED_GPA + 3 * PAGE, false);
    assert_refused(WHvAdviseGpaRange(f.g.partition, &all, 1, WHvAdviseGpaRangeCodePopulate, &populate, sizeof(populate)),
                   E_ACCESSDENIED);
    assert_non_null(strstr(OwhpGetLastErrorText(), "0x142000"));
    refuse_pin(&f);
    guest_set(&f.g, WHvX64RegisterCr3, SHARED_GPA + 2 * PAGE);
    assert_ok(WHvTranslateGva(f.g.partition, 0, CODE, WHvTranslateGvaFlagValidateRead, &result, &gpa));
    assert_int_equal(result.ResultCode, WHvTranslateGvaResultGpaNoReadAccess);
    assert_int_equal(gpa, SHARED_GPA + 2 * PAGE);
    guest_set(&f.g, WHvX64RegisterCr3, TABLES);
    assert_ok(OwhpMarkDirty(f.g.partition, SHARED_GPA + 2 * PAGE, PAGE));
    assert_refused(OwhpRestoreSnapshot(f.g.partition, before, OwhpRestoreFlagNone, &pages), E_ACCESSDENIED);
    assert_ok(OwhpCreateSnapshot(f.g.partition, 0, &without));
    assert_int_equal(ftruncate(f.file, PAGES * PAGE), 0);
    assert_int_equal(f.shared[2 * PAGE], 0);
    assert_ok(OwhpRestoreSnapshot(f.g.partition, before, OwhpRestoreFlagNone, &pages));
    assert_int_equal(f.shared[2 * PAGE], 0x22);
    expect(&f, SHARED_GPA + 2 * PAGE, true);
    assert_int_equal(f.shared[2 * PAGE], 0x23);
    assert_ok(OwhpRestoreSnapshot(f.g.partition, without, OwhpRestoreFlagNone, &pages));
    assert_int_equal(f.shared[2 * PAGE], 0);
    assert_ok(OwhpDestroySnapshot(before));
    assert_ok(OwhpDestroySnapshot(without));
    end(&f);
}

static void *kill_soon(void *context)
{
    const struct family *f = context;

    for (int i = 0; i < 20; i++)
        nap();
    kill(f->child, SIGKILL);
    waitpid(f->child, NULL, 0);
    return NULL;
}

/* It ends while a processor does nothing but store to its memory. */
static void ends_under_a_run(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        const UINT64 gpa = i & 1 ? PRIVATE_GPA : SHARED_GPA;
        struct family f;
        pthread_t thread;
        begin(&f, ENDS);
        guest_code(&f.g, 0xff, 0x07, 0xeb, 0xfc); /* inc dword [rdi]; jmp to it */
        guest_set(&f.g, WHvX64RegisterRip, CODE);
        guest_set(&f.g, WHvX64RegisterRdi, gpa + 8);
        assert_int_equal(pthread_create(&thread, NULL, kill_soon, &f), 0);
        run_to(&f.g, WHvRunVpExitReasonMemoryAccess);
        assert_field(&f.g, MemoryAccess.Gpa, gpa + 8);
        assert_field(&f.g, MemoryAccess.AccessInfo.GpaUnmapped, 0);
        assert_field(&f.g, VpContext.Rip, CODE);
        pthread_join(thread, NULL);
        f.child = 0;
        expect(&f, gpa, false);
        end(&f);
    }
}

/* ---- the main thread ends ---- */

static bool is_zombie(pid_t process)
{
    char name[64], line[256] = "";

    snprintf(name, sizeof(name), "/proc/%d/stat", process);
    FILE *file = fopen(name, "re");
    assert_non_null(file);
    assert_non_null(fgets(line, sizeof(line), file));
    fclose(file);
    return strstr(line, ") Z ");
}

/* The one thread that lives beside the main thread's remains; 0: none, or more than one at this moment. */
static pid_t only_thread(pid_t process)
{
    char name[64];
    pid_t found = 0;
    struct dirent *entry;
    int count = 0;

    snprintf(name, sizeof(name), "/proc/%d/task", process);
    DIR *threads = opendir(name);
    assert_non_null(threads);
    while ((entry = readdir(threads)) != NULL) {
        pid_t id = (pid_t)atoi(entry->d_name);
        found = id && id != process ? id : found;
        count += id && id != process;
    }
    closedir(threads);
    return count == 1 ? found : 0;
}

static void give_order(const struct family *f)
{
    assert_int_equal(write(f->orders, "", 1), 1);
}

static pid_t wait_for_next_thread(const struct family *f, pid_t before)
{
    for (int tries = 0; tries < 5000; tries++, nap())
        if (is_zombie(f->child) && only_thread(f->child) && only_thread(f->child) != before)
            return only_thread(f->child);
    fail_msg("the child has no other thread than %d", before);
    return 0;
}

/* All of it is there, and what is mapped now is, too. */
static void expect_all(struct family *f)
{
    OWHP_GPA_RANGE ranges[8];
    UINT32 count;

    expect(f, PRIVATE_GPA, true);
    expect(f, SHARED_GPA, true);
    assert_ok(WHvMapGpaRange2(f->g.partition, f->process, f->private, PRIVATE_GPA, PAGES * PAGE, FLAGS(RWXT)));
    assert_ok(WHvMapGpaRange2(f->g.partition, f->process, f->shared, SHARED_GPA, PAGES * PAGE, FLAGS(RWXT)));
    expect(f, PRIVATE_GPA, true);
    expect(f, SHARED_GPA, true);
    assert_ok(OwhpEnumerateGpaRanges(f->g.partition, ranges, 8, &count));
    for (UINT32 i = 0; i < count; i++)
        if (ranges[i].GuestAddress == PRIVATE_GPA || ranges[i].GuestAddress == SHARED_GPA)
            assert_int_equal(ranges[i].ResidentSizeInBytes, PAGES * PAGE);
    assert_ok(OwhpDiscardGpaRange(f->g.partition, SHARED_GPA + PAGE, PAGE));
    assert_int_equal(f->shared[PAGE], 0);
}

/* The process is its threads, whichever they are; it has ended when none is left. */
static void main_thread_ends(void **state)
{
    struct family f;
    HANDLE second;
    UINT8 byte;

    (void)state;
    begin(&f, LOSES_MAIN);
    expect(&f, PRIVATE_GPA, true);
    give_order(&f);
    pid_t thread = wait_for_next_thread(&f, 0);
    expect_all(&f);
    assert_ok(OwhpOpenProcess((UINT32)f.child, &second));
    assert_ok(OwhpCloseProcess(f.process));
    f.process = second;
    for (int i = 0; i < 3; i++) {
        give_order(&f);
        thread = wait_for_next_thread(&f, thread);
        expect_all(&f);
    }
    guest_end(&f.g); /* so that nothing of the process is open: it is found by its number alone */
    assert_ok(OwhpCloseProcess(f.process));
    guest_begin(&f.g, NULL);
    guest_long_mode(&f.g, 0);
    guest_code(&f.g, 0xff, 0x07, 0xf4);
    assert_ok(OwhpOpenProcess((UINT32)f.child, &f.process));
    assert_ok(WHvMapGpaRange2(f.g.partition, f.process, f.private, PRIVATE_GPA, PAGES * PAGE, FLAGS(RWXT)));
    assert_ok(WHvMapGpaRange2(f.g.partition, f.process, f.shared, SHARED_GPA, PAGES * PAGE, FLAGS(RWXT)));
    expect_all(&f);
    kill(f.child, SIGKILL);
    waitpid(f.child, NULL, 0);
    expect(&f, PRIVATE_GPA, false);
    for (int tries = 0; tries < 5000 && WHvReadGpaRange(f.g.partition, 0, SHARED_GPA, plain, &byte, 1) == S_OK; tries++)
        nap();
    expect(&f, SHARED_GPA, false);
    assert_refused(OwhpOpenProcess((UINT32)f.child, &second), E_NOT_FOUND);
    f.child = 0;
    end(&f);
}

/* The client's own main thread: snapshots and Discard ask the kernel for what the client itself has mapped. The number of the
 * first step that fails, or 0. */
static int use_own_memory(void)
{
    const UINT32 processors = 1;
    OWHP_SNAPSHOT_HANDLE snapshot;
    WHV_PARTITION_HANDLE p;
    UINT64 pages;
    VOID *memory;

    if (WHvCreatePartition(&p) != S_OK ||
        WHvSetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &processors, sizeof(processors)) != S_OK ||
        WHvSetupPartition(p) != S_OK || OwhpAllocateMemory(PAGES * PAGE, 0, &memory) != S_OK)
        return 1;
    UINT8 *private = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    private[PAGE] = ((UINT8 *)memory)[PAGE] = 0x77;
    if (WHvMapGpaRange(p, memory, 0, PAGES * PAGE, FLAGS(RWXT)) != S_OK ||
        WHvMapGpaRange(p, private, 0x10000, PAGES * PAGE, FLAGS(RWXT)) != S_OK)
        return 2;
    if (OwhpCreateSnapshot(p, 0, &snapshot) != S_OK)
        return 3;
    if (OwhpMarkDirty(p, PAGE, 1) != S_OK ||
        OwhpMarkDirty(p, 0x10000 + PAGE, 1) != S_OK)
        return 4;
    private[PAGE] = ((UINT8 *)memory)[PAGE] = 0x88;
    if (OwhpRestoreSnapshot(p, snapshot, OwhpRestoreFlagNone, &pages) != S_OK || pages != 2)
        return 5;
    if (private[PAGE] != 0x77 || ((UINT8 *)memory)[PAGE] != 0x77)
        return 6;
    if (OwhpDiscardGpaRange(p, 0, PAGES * PAGE) != S_OK || OwhpDiscardGpaRange(p, 0x10000, PAGES * PAGE) != S_OK)
        return 7;
    return private[PAGE] || ((UINT8 *)memory)[PAGE] ? 8 : 0;
}

static void *use_without_main(void *unused)
{
    (void)unused;
    while (!is_zombie(getpid()))
        nap();
    _exit(use_own_memory());
}

static void own_main_thread_ends(void **state)
{
    HANDLE self;
    pthread_t thread;
    int status;

    (void)state;
    assert_ok(OwhpOpenProcess((UINT32)getpid(), &self));
    pid_t child = fork();
    if (child == 0) {
        if (OwhpOpenProcess((UINT32)getpid(), &self) != S_OK || pthread_create(&thread, NULL, use_without_main, NULL) != 0)
            _exit(20);
        pthread_exit(NULL);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_ok(OwhpCloseProcess(self));
}

/* The same memfd is in a snapshot as own memory, and then stored to as the process's: a restore knows. */
static void own_and_the_others(void **state)
{
    const UINT64 own = 0x180000, value = 0x55;
    OWHP_SNAPSHOT_HANDLE snapshot;
    struct family f;
    UINT64 pages;

    (void)state;
    begin(&f, ENDS);
    assert_ok(WHvUnmapGpaRange(f.g.partition, SHARED_GPA, PAGES * PAGE));
    assert_ok(WHvMapGpaRange(f.g.partition, f.shared, own, PAGES * PAGE, FLAGS(RWXT)));
    assert_ok(OwhpCreateSnapshot(f.g.partition, 0, &snapshot));
    assert_ok(WHvMapGpaRange2(f.g.partition, f.process, f.shared + PAGE, SHARED_GPA, 2 * PAGE, FLAGS(RWXT)));
    assert_ok(WHvWriteGpaRange(f.g.partition, 0, SHARED_GPA, plain, &value, 8));
    assert_int_equal(f.shared[PAGE], 0x55);
    assert_ok(WHvUnmapGpaRange(f.g.partition, SHARED_GPA, 2 * PAGE));
    assert_ok(OwhpRestoreSnapshot(f.g.partition, snapshot, OwhpRestoreFlagNone, &pages));
    assert_int_equal(pages, 2);
    assert_int_equal(f.shared[PAGE], 0x22);
    assert_ok(OwhpDestroySnapshot(snapshot));
    end(&f);
}

/* Discard says why it refuses, and zeroes nothing that others still use; of a zombie, and when it is gone. */
static void discard_after_the_end(void **state)
{
    static const UINT64 where[] = {SHARED_GPA, PRIVATE_GPA};
    struct family f;
    siginfo_t end_of;

    (void)state;
    begin(&f, ENDS);
    assert_ok(OwhpDiscardGpaRange(f.g.partition, SHARED_GPA, PAGE));
    assert_int_equal(f.shared[0], 0);
    assert_refused(OwhpDiscardGpaRange(f.g.partition, PRIVATE_GPA, PAGE), E_NOT_SUPPORTED);
    kill(f.child, SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)f.child, &end_of, WEXITED | WNOWAIT), 0);
    for (int reaped = 0; reaped < 2; reaped++) {
        for (size_t i = 0; i < 2; i++) {
            assert_refused(OwhpDiscardGpaRange(f.g.partition, where[i] + PAGE, 2 * PAGE), E_ACCESSDENIED);
            assert_non_null(strstr(OwhpGetLastErrorText(), "has ended"));
        }
        assert_int_equal(f.shared[PAGE], 0x22);
        waitpid(f.child, NULL, 0);
    }
    f.child = 0;
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("PROC-25", "H OwhpOpenProcess: the process executes another program", executes),
        CASE("PROC-26", "H OwhpOpenProcess: memory that is cut off", cut_short),
        CASE("PROC-27", "H OwhpOpenProcess: the process ends under a run", ends_under_a_run),
        CASE("PROC-28", "H OwhpDiscardGpaRange: of a process that has ended", discard_after_the_end),
        CASE("PROC-29", "H OwhpOpenProcess: the process's main thread ends", main_thread_ends),
        CASE("PROC-32", "H OwhpRestoreSnapshot: one memory, own and another process's", own_and_the_others),
        CASE("PROC-30", "H: the client's main thread ends", own_main_thread_ends),
    };

    return cmocka_run_group_tests_name("life of another process", tests, NULL, NULL);
}
