/*
 * Every call to the host's KVM failing in turn: open of /dev/kvm, and the n-th ioctl of a whole life of a partition, for each n.
 * Whatever fails, each call of the API either works or is refused with a HRESULT and words; the guest computes the same or does
 * not run; and nothing is left behind: file descriptors are counted, memory is the sanitizers' business.
 *
 * The linker puts our ioctl and open64 in place of the C library's (--wrap).
 */
#include "conform.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the host, as told ---- */

static long fail_at = -1, calls; /* which call fails; -1: none */
static int fail_with;
static unsigned long failed_request;
static bool hide_device;
static int hide_capability = -1;
static int slots_told; /* how many memory slots KVM says to have; 0: the truth */

int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument);
int __real_open64(const char *path, int flags, mode_t mode);
int __wrap_open64(const char *path, int flags, ...);

/* What the engine asks of KVM while a partition lives (the first use has its own case). One of each kind is enough. */
static struct {
    unsigned long request;
    const char *name;
    char kind; /* of several that do the same, as KVM has them */
    bool seen;
} requests[] = {
#define REQUEST(name) {KVM_##name, #name, 0, false}
#define EITHER(name, kind) {KVM_##name, #name, kind, false}
    REQUEST(CHECK_EXTENSION), REQUEST(CREATE_VM), REQUEST(CREATE_VCPU), REQUEST(GET_API_VERSION), REQUEST(GET_VCPU_MMAP_SIZE),
    REQUEST(SET_USER_MEMORY_REGION), REQUEST(SET_CPUID2), REQUEST(X86_SET_MSR_FILTER), REQUEST(SET_TSS_ADDR),
    REQUEST(SET_IDENTITY_MAP_ADDR), REQUEST(ENABLE_CAP), REQUEST(RUN), REQUEST(GET_DEBUGREGS), REQUEST(SET_DEBUGREGS),
    REQUEST(GET_MSRS), REQUEST(SET_MSRS), REQUEST(GET_XCRS), REQUEST(SET_XCRS), REQUEST(GET_XSAVE), REQUEST(SET_XSAVE),
    EITHER(SET_DEVICE_ATTR, 't'), EITHER(SET_MSRS, 't'), EITHER(GET_DIRTY_LOG, 'd'), EITHER(RESET_DIRTY_RINGS, 'd'),
#undef REQUEST
#undef EITHER
};
enum { REQUESTS = sizeof(requests) / sizeof(requests[0]) };

static const char *name_of(unsigned long request)
{
    for (unsigned i = 0; i < REQUESTS; i++)
        if (requests[i].request == request)
            return requests[i].name;
    return "another";
}

static void note(unsigned long request)
{
    for (unsigned i = 0; i < REQUESTS; i++)
        if (requests[i].request == request)
            for (unsigned k = 0; k < REQUESTS; k++)
                requests[k].seen = requests[k].seen || k == i || (requests[i].kind && requests[k].kind == requests[i].kind);
}

int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
    note(request);
    if (calls++ == fail_at) {
        failed_request = request;
        errno = fail_with;
        return -1;
    }
    if (request == KVM_CHECK_EXTENSION && (int)(intptr_t)argument == hide_capability)
        return 0;
    if (slots_told && request == KVM_CHECK_EXTENSION && (int)(intptr_t)argument == KVM_CAP_NR_MEMSLOTS)
        return slots_told;
    return __real_ioctl(fd, request, argument);
}

int __wrap_open64(const char *path, int flags, ...)
{
    if (hide_device && strcmp(path, "/dev/kvm") == 0) {
        errno = fail_with;
        return -1;
    }
    return __real_open64(path, flags, 0600);
}

int before(void **state)
{
    (void)state;
    fail_at = -1;
    hide_device = false;
    hide_capability = -1;
    slots_told = 0;
    setenv("OPENWHP_ENGINE", "kvm", 1);
    return 0;
}

int after(void **state)
{
    return before(state);
}

static unsigned open_files(void)
{
    DIR *folder = opendir("/proc/self/fd");
    unsigned count = 0;

    assert_non_null(folder);
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

/* ---- a life ---- */

enum { SIZE = 0x10000, CODE = 0x1000, DATA = 0x3000 };

/*
 * mov al, 1 / again: add [3000h], al / out 10h, al / inc byte es:[0] / jmp again: an exit that stays open, a dirty page, one in
 * the middle of a read-modify-write (where ES is beyond memory), and on.
 */
static const UINT8 code[] = {0xb0, 0x01, 0x00, 0x06, 0x00, 0x30, 0xe6, 0x10, 0x26, 0xfe, 0x06, 0x00, 0x00, 0xeb, 0xf3};
enum { OUT_AT = CODE + 6, INC_AT = CODE + 8, JMP_AT = CODE + 13 };

static unsigned refusals;

static bool works(HRESULT result, const char *what)
{
    if (SUCCEEDED(result))
        return true;
    refusals++;
    assert_true(result != E_FAIL);
    if (!strstr(OwhpGetLastErrorText(), ": ")) {
        print_error("%s: %08x without words\n", what, (unsigned)result);
        fail();
    }
    return false;
}
#define WORKS(call) works((call), #call)

/* A run that fails may be repeated: nothing was lost. */
static void run_to(WHV_PARTITION_HANDLE partition, UINT32 reason, UINT64 rip)
{
    WHV_RUN_VP_EXIT_CONTEXT exit;

    if (!WORKS(WHvRunVirtualProcessor(partition, 0, &exit, sizeof(exit))))
        assert_ok(WHvRunVirtualProcessor(partition, 0, &exit, sizeof(exit)));
    if ((UINT32)exit.ExitReason != reason || exit.VpContext.Rip != rip)
        fail_msg("call %ld (%s) failed: exit %#x at %#llx instead of %#x at %#llx", fail_at, name_of(failed_request),
                 (unsigned)exit.ExitReason, (unsigned long long)exit.VpContext.Rip, reason, (unsigned long long)rip);
}

static void go_on(WHV_PARTITION_HANDLE partition, UINT64 rip)
{
    const WHV_REGISTER_NAME name = WHvX64RegisterRip;
    const WHV_REGISTER_VALUE value = {.Reg64 = rip};

    assert_ok(WHvSetVirtualProcessorRegisters(partition, 0, &name, 1, &value));
}

static void run_twice(WHV_PARTITION_HANDLE partition, const UINT8 *ram)
{
    const WHV_REGISTER_NAME names[] = {WHvX64RegisterXmm0, WHvX64RegisterDr0, WHvX64RegisterStar};
    WHV_REGISTER_VALUE values[3];

    for (UINT8 round = 1; round <= 2; round++) {
        run_to(partition, WHvRunVpExitReasonX64IoPortAccess, OUT_AT);
        assert_int_equal(ram[DATA], round);
        (void)WORKS(WHvGetVirtualProcessorRegisters(partition, 0, names, 3, values));
        go_on(partition, INC_AT);
        run_to(partition, WHvRunVpExitReasonMemoryAccess, INC_AT);
        (void)WORKS(WHvGetVirtualProcessorRegisters(partition, 0, names, 3, values));
        go_on(partition, JMP_AT);
    }
}

static void use(WHV_PARTITION_HANDLE partition, UINT8 *ram)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterRip, WHvX64RegisterEs};
    const WHV_REGISTER_VALUE values[] = {{.Segment = {.Limit = 0xffff, .Attributes = 0x9b}}, {.Reg64 = CODE},
                                         {.Segment = {.Base = 2 * SIZE, .Limit = 0xffff, .Attributes = 0x93}}};
    UINT64 bitmap = 0, count = 1;

    if (!WORKS(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count, 4)) ||
        !WORKS(WHvSetupPartition(partition)) ||
        !WORKS(WHvMapGpaRange(partition, ram, 0, SIZE, WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute |
                                                           WHvMapGpaRangeFlagTrackDirtyPages)) ||
        !WORKS(WHvCreateVirtualProcessor(partition, 0, 0)))
        return;
    if (WORKS(WHvSetVirtualProcessorRegisters(partition, 0, names, 3, values)))
        run_twice(partition, ram);
    if (WORKS(WHvQueryGpaRangeDirtyBitmap(partition, 0, SIZE, &bitmap, sizeof(bitmap))) && ram[DATA])
        assert_int_equal(bitmap >> (DATA / 4096) & 1, 1);
    (void)WORKS(WHvUnmapGpaRange(partition, 0x4000, 0x1000));
    (void)WORKS(WHvDeleteVirtualProcessor(partition, 0));
    (void)WORKS(WHvCreateVirtualProcessor(partition, 0, 0)); /* KVM cannot make a processor twice */
}

static void live(UINT8 *ram)
{
    WHV_PARTITION_HANDLE partition;

    memset(ram, 0, SIZE);
    memcpy(ram + CODE, code, sizeof(code));
    if (!WORKS(WHvCreatePartition(&partition)))
        return;
    use(partition, ram);
    assert_ok(WHvDeletePartition(partition));
}

/* ---- the first use ---- */

struct first_use {
    long calls;
    unsigned files;
    HRESULT result;
    char reason[128];
};

/* In a process that has not asked before: call `n` fails while it finds out about KVM; what it says afterwards. */
static void use_first(long n, struct first_use *use)
{
    const pid_t child = fork();
    int status;

    assert_true(child >= 0);
    if (child == 0) {
        char ignored[128];
        unsetenv("OPENWHP_ENGINE");
        calls = 0;
        fail_at = n;
        fail_with = ENOMEM;
        (void)OwhpQueryEngine(OwhpEngineAuto, ignored, sizeof(ignored));
        fail_at = -1;
        use->calls = calls;
        use->result = OwhpQueryEngine(OwhpEngineAuto, use->reason, sizeof(use->reason));
        use->files = open_files();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* Which engine is chosen automatically is measured once; a call that fails by chance then does not decide it for good. */
static void first_use_fails(void **state)
{
    struct first_use *use = mmap(NULL, 2 * sizeof(*use), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    enum { WORDS = 20 }; /* "soft: KVM interprets", "kvm: KVM runs guests" */

    (void)state;
    assert_true(use != MAP_FAILED);
    use_first(-1, &use[0]);
    assert_ok(use[0].result);
    print_message("%ld calls, %s\n", use[0].calls, use[0].reason);
    assert_true(use[0].calls > 10 && strstr(use[0].reason, ": KVM "));
    for (long n = 0; n < use[0].calls; n++) {
        use_first(n, &use[1]);
        assert_ok(use[1].result);
        assert_memory_equal(use[1].reason, use[0].reason, WORDS);
        assert_int_equal(use[1].files, use[0].files);
    }
    munmap(use, 2 * sizeof(*use));
}

static void each_call_fails(void **state)
{
    static const int causes[] = {ENOMEM, EINVAL, EIO};
    UINT8 *ram = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)state;
    assert_true(ram != MAP_FAILED);
    live(ram);
    assert_int_equal(refusals, 0);
    assert_int_equal(ram[DATA], 2);
    const unsigned files = open_files();
    const long all = calls;
    for (unsigned i = 0; i < REQUESTS; i++)
        if (!requests[i].seen)
            fail_msg("KVM_%s is not among the calls", requests[i].name);
    print_message("%ld calls\n", all);
    assert_true(all > 20);
    const unsigned cause_count = test_rounds(3);
    for (unsigned c = 0; c < cause_count; c++)
        for (long n = 0; n < all; n++) {
            calls = 0;
            fail_at = n;
            fail_with = causes[c];
            live(ram);
            fail_at = -1;
            assert_int_equal(open_files(), files);
        }
    /* Somebody must have noticed something. */
    assert_true(refusals > 10);
    munmap(ram, SIZE);
}

static void no_device(void **state)
{
    static const struct {
        int cause;
        const char *word;
        HRESULT result;
    } cases[] = {{ENOENT, "there is no /dev/kvm", WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG},
                 {EACCES, "permission", E_ACCESSDENIED},
                 {EPERM, "permission", E_ACCESSDENIED},
                 {EBUSY, "cannot be opened", WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG}};
    WHV_PARTITION_HANDLE partition;
    char reason[128];

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        hide_device = true;
        fail_with = cases[i].cause;
        assert_hr(OwhpQueryEngine(OwhpEngineKvm, reason, sizeof(reason)), cases[i].result);
        assert_non_null(strstr(reason, cases[i].word));
        assert_hr(WHvCreatePartition(&partition), cases[i].result);
        assert_non_null(strstr(OwhpGetLastErrorText(), cases[i].word));
        /* It vanishes between creation and set-up. */
        hide_device = false;
        assert_ok(WHvCreatePartition(&partition));
        UINT32 count = 1;
        assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count, 4));
        hide_device = true;
        assert_hr(WHvSetupPartition(partition), cases[i].result);
        hide_device = false;
        assert_ok(WHvSetupPartition(partition));
        assert_ok(WHvDeletePartition(partition));
    }
}

/* Each capability that we need, not there: its name is told. */
static void capability_missing(void **state)
{
    static const struct {
        int number;
        const char *name;
    } rows[] = {
        {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"}, {KVM_CAP_SYNC_REGS, "KVM_CAP_SYNC_REGS"},
        {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"}, {KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR"},
        {KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER"}, {KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM"},
        {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"}, {KVM_CAP_XCRS, "KVM_CAP_XCRS"},
        {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"}, {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    };
    WHV_PARTITION_HANDLE partition;
    char reason[128];

    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        hide_capability = rows[i].number;
        assert_hr(OwhpQueryEngine(OwhpEngineKvm, reason, sizeof(reason)), WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG);
        assert_non_null(strstr(reason, rows[i].name));
        assert_hr(WHvCreatePartition(&partition), WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG);
        assert_non_null(strstr(OwhpGetLastErrorText(), rows[i].name));
        /* Automatically, the other engine is taken, and the reason told. */
        unsetenv("OPENWHP_ENGINE");
        assert_ok(OwhpQueryEngine(OwhpEngineAuto, reason, sizeof(reason)));
        assert_memory_equal(reason, "soft: ", 6);
        assert_non_null(strstr(reason, rows[i].name));
        setenv("OPENWHP_ENGINE", "kvm", 1);
    }
    hide_capability = -1;
    assert_ok(OwhpQueryEngine(OwhpEngineKvm, reason, sizeof(reason)));
}

/* More ranges than KVM has slots (32764 as a rule; where tests are to be shorter, it is made to say fewer): the rest is served
 * without one. */
static void slots_run_out(void **state)
{
    const UINT64 ranges = test_rounds(40000), data = 0x100000 + (ranges - 1) * 0x2000;
    WHV_PARTITION_HANDLE partition;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterCs, WHvX64RegisterRip, WHvX64RegisterDs};
    const WHV_REGISTER_VALUE values[] = {{.Segment = {.Limit = 0xffff, .Attributes = 0x9b}}, {.Reg64 = CODE},
                                         {.Segment = {.Base = data - 0x3000, .Limit = 0xffff, .Attributes = 0x93}}};
    UINT8 *ram = mmap(NULL, SIZE + ranges * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    UINT32 count = 1;
    const WHV_MAP_GPA_RANGE_FLAGS rwx = WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute;

    (void)state;
    assert_true(ram != MAP_FAILED);
    if (ranges < 40000)
        slots_told = (int)ranges / 2;
    memcpy(ram + CODE, code, sizeof(code));
    assert_ok(WHvCreatePartition(&partition));
    assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count, 4));
    assert_ok(WHvSetupPartition(partition));
    assert_ok(WHvMapGpaRange(partition, ram, 0, SIZE, rwx));
    for (UINT64 i = 0; i < ranges; i++)
        assert_ok(WHvMapGpaRange(partition, ram + SIZE + i * 4096, 0x100000 + i * 0x2000, 4096, rwx));
    assert_ok(WHvCreateVirtualProcessor(partition, 0, 0));
    assert_ok(WHvSetVirtualProcessorRegisters(partition, 0, names, 3, values));
    assert_ok(WHvRunVirtualProcessor(partition, 0, &exit, sizeof(exit)));
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64IoPortAccess);
    assert_int_equal(ram[SIZE + (ranges - 1) * 4096], 1);
    assert_ok(WHvDeletePartition(partition));
    munmap(ram, SIZE + ranges * 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("KVM-9", "H OwhpQueryEngine: auto", first_use_fails), /* first: nobody has measured yet */
        CASE("KVM-1", "H engine kvm: every host call failing", each_call_fails),
        CASE("KVM-2", "H OwhpQueryEngine, WHvSetupPartition", no_device),
        CASE("KVM-3", "H engine kvm: memory slots", slots_run_out),
        CASE("KVM-4", "H OwhpQueryEngine: a capability is missing", capability_missing),
    };
    return cmocka_run_group_tests_name("kvm faults", tests, NULL, NULL);
}
