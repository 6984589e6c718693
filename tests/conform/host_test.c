/*
 * The host's side of things going wrong: threads whose signals are blocked, handles of the wrong kind, memory that ends in the
 * middle of an instruction, ranges and files that claim more than there is.
 */
#include "guest.h"

#include <WinHvEmulation.h>
#include <errno.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, MISSING = 0x100000 };

static const WHV_ACCESS_GPA_CONTROLS controls;

/* ---- blocked signals ---- */

struct call {
    struct guest *guest;
    HRESULT (*make)(struct guest *guest);
    HRESULT result;
};

static void *without_signals(void *context)
{
    struct call *call = context;
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    call->result = call->make(call->guest);
    return NULL;
}

/* As the first call of a thread that has all signals blocked. */
static HRESULT on_fresh_thread(struct guest *guest, HRESULT (*make)(struct guest *guest))
{
    struct call call = {guest, make, E_FAIL};
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, without_signals, &call), 0);
    pthread_join(thread, NULL);
    return call.result;
}

static HRESULT wild_create(struct guest *guest)
{
    (void)guest;
    return WHvCreatePartition(WILD);
}

static HRESULT read_missing(struct guest *guest)
{
    UINT32 data;

    return WHvReadGpaRange(guest->partition, 0, MISSING, controls, &data, sizeof(data));
}

static HRESULT run_into_missing(struct guest *guest)
{
    return WHvRunVirtualProcessor(guest->partition, 0, &guest->exit, sizeof(guest->exit));
}

static void blocked_signals(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0x67, 0xa0, 0x00, 0x00, 0x00, 0x00, 0xf4); /* mov al, [dword 0]; hlt */
    WHV_REGISTER_NAME ds = WHvX64RegisterDs;
    WHV_REGISTER_VALUE value = {.Segment = {.Base = MISSING, .Limit = 0xffff, .Attributes = 0x93}};
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &ds, 1, &value));
    assert_int_equal(mprotect(g.ram + MISSING, PAGE, PROT_NONE), 0);
    assert_hr(on_fresh_thread(&g, wild_create), E_POINTER);
    assert_hr(on_fresh_thread(&g, read_missing), E_ACCESSDENIED);
    assert_ok(on_fresh_thread(&g, run_into_missing));
    assert_field(&g, ExitReason, WHvRunVpExitReasonMemoryAccess);
    assert_field(&g, MemoryAccess.Gpa, MISSING);
    assert_field(&g, MemoryAccess.AccessInfo.GpaUnmapped, 0);
    guest_end(&g);
}

/* ---- handles ---- */

static HRESULT CALLBACK port(VOID *context, WHV_EMULATOR_IO_ACCESS_INFO *access)
{
    (void)context;
    (void)access;
    return E_FAIL;
}

static HRESULT CALLBACK memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    (void)context;
    (void)access;
    return E_FAIL;
}

static HRESULT CALLBACK get(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count, WHV_REGISTER_VALUE *values)
{
    (void)context;
    (void)names;
    (void)count;
    (void)values;
    return E_FAIL;
}

static HRESULT CALLBACK set(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count, const WHV_REGISTER_VALUE *values)
{
    (void)context;
    (void)names;
    (void)count;
    (void)values;
    return E_FAIL;
}

static HRESULT CALLBACK translate(VOID *context, WHV_GUEST_VIRTUAL_ADDRESS gva, WHV_TRANSLATE_GVA_FLAGS flags,
                                  WHV_TRANSLATE_GVA_RESULT_CODE *result, WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    (void)context;
    (void)gva;
    (void)flags;
    (void)result;
    (void)gpa;
    return E_FAIL;
}

static void kinds_of_handles(void **state)
{
    const WHV_EMULATOR_CALLBACKS callbacks = {sizeof(callbacks), 0, port, memory, get, set, translate};
    WHV_EMULATOR_HANDLE emulator;
    OWHP_SNAPSHOT_HANDLE snapshot;
    OWHP_SNAPSHOT_INFO info;
    HANDLE process;
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &snapshot));
    assert_ok(WHvEmulatorCreateEmulator(&callbacks, &emulator));
    assert_ok(OwhpOpenProcess((UINT32)getpid(), &process));
    void *handles[] = {g.partition, snapshot, emulator, process};
    for (unsigned i = 0; i < 4; i++) {
        if (i != 0)
            assert_refused(WHvDeletePartition(handles[i]), E_HANDLE);
        if (i != 1)
            assert_refused(OwhpDestroySnapshot(handles[i]), E_HANDLE);
        if (i != 2)
            assert_hr(WHvEmulatorDestroyEmulator(handles[i]), E_INVALIDARG);
        if (i != 3)
            assert_refused(OwhpCloseProcess(handles[i]), E_HANDLE);
    }
    assert_ok(OwhpQuerySnapshot(snapshot, &info)); /* they are all still there */
    assert_ok(WHvEmulatorDestroyEmulator(emulator));
    assert_ok(OwhpCloseProcess(process));
    assert_ok(OwhpDestroySnapshot(snapshot));
    guest_end(&g);
}

/* ---- POPA ---- */

static const WHV_REGISTER_NAME popped[8] = {WHvX64RegisterRdi, WHvX64RegisterRsi, WHvX64RegisterRbp, WHvX64RegisterRsp,
                                            WHvX64RegisterRbx, WHvX64RegisterRdx, WHvX64RegisterRcx, WHvX64RegisterRax};

/* Two elements are in RAM, six behind its end. */
static void popa_of(unsigned size)
{
    const WHV_REGISTER_NAME ss = WHvX64RegisterSs;
    const WHV_REGISTER_VALUE stack = {.Segment = {.Base = RAM_SIZE - 0x8000, .Limit = 0xffff, .Attributes = 0x93}};
    OWHP_MEMORY_ACCESS access;
    struct guest g;
    HRESULT result;
    unsigned left = 6;

    guest_begin(&g, NULL);
    if (size == 2)
        guest_code(&g, 0x61, 0xf4);
    else
        guest_code(&g, 0x66, 0x61, 0xf4);
    memset(g.ram + RAM_SIZE - 2 * size, 0x77, 2 * size);
    for (unsigned i = 0; i < 8; i++)
        guest_set(&g, popped[i], 0x1110 + i);
    guest_set(&g, WHvX64RegisterRsp, 0x8000 - 2 * size);
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &ss, 1, &stack));
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&g, MemoryAccess.Gpa, RAM_SIZE);
    assert_ok(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &access));
    do {
        for (unsigned i = 0; i < 8; i++)
            assert_int_equal(guest_get(&g, popped[i]), i == 3 ? 0x8000 - 2 * size : 0x1110 + i);
        assert_int_equal(access.Gpa, RAM_SIZE + (6 - left) * size);
        assert_int_equal(access.SizeInBytes, size);
        access.Data = 0x4002 + (6 - left);
        result = OwhpCompleteMemoryAccess(g.partition, 0, &access);
        left--;
    } while (result == S_FALSE && left);
    assert_ok(result);
    assert_int_equal(left, 0);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(guest_get(&g, popped[i]),
                         i == 3 ? 0x8000 + 6 * size : i >= 2 ? 0x4000 + i : size == 2 ? 0x7777 : 0x77777777);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    guest_end(&g);
}

static void popa(void **state)
{
    (void)state;
    popa_of(2);
    popa_of(4);
}

/* ---- snapshots ---- */

/* Of this process, in bytes. */
struct sizes {
    size_t address_space, resident;
};

static struct sizes sizes(void)
{
    FILE *statm = fopen("/proc/self/statm", "re");
    struct sizes sizes = {0};

    assert_non_null(statm);
    assert_int_equal(fscanf(statm, "%zu %zu", &sizes.address_space, &sizes.resident), 2);
    fclose(statm);
    sizes.address_space *= PAGE;
    sizes.resident *= PAGE;
    return sizes;
}

/* What was never mapped is nothing to remember, however large it is. */
static void huge_unmap(void **state)
{
    struct guest g;
    OWHP_SNAPSHOT_HANDLE snapshot;
    UINT64 pages = 0;

    (void)state;
    guest_begin(&g, NULL);
    memset(g.ram + MISSING, 1, 16 * PAGE);
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &snapshot));
    size_t before = sizes().resident;
    assert_ok(WHvUnmapGpaRange(g.partition, 0, 1ull << 39));
    assert_true(sizes().resident < before + (16 << 20));
    assert_ok(OwhpRestoreSnapshot(g.partition, snapshot, OwhpRestoreFlagMappings, &pages));
    assert_int_equal(pages, RAM_SIZE / PAGE);
    assert_ok(OwhpDestroySnapshot(snapshot));
    guest_end(&g);
}

static char folder[64], path[96];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/host-test-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof(path), "%s/image", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void save(struct guest *g)
{
    OWHP_SNAPSHOT_HANDLE snapshot;

    assert_ok(OwhpCreateSnapshot(g->partition, 0, &snapshot));
    assert_ok(OwhpSaveSnapshot(snapshot, path, 0));
    assert_ok(OwhpDestroySnapshot(snapshot));
}

static UINT32 crc32c(const UINT8 *p, size_t size)
{
    UINT32 crc = ~0u;

    while (size--) {
        crc ^= *p++;
        for (int i = 0; i < 8; i++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

/* The saved file grows a hole of 16 GiB, which its header calls a list of ranges (offsets: core/snapshot_file.h). */
static void claim_ranges(void)
{
    const UINT64 size = 16ull << 30, ranges = 64 << 20, count = (size - ranges) / 40;
    const UINT32 zero = 0;
    UINT8 header[80 + 56 + 24];
    int fd = open(path, O_RDWR);

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, header, sizeof(header), 0), sizeof(header));
    memcpy(header + 32, &size, 8);
    memcpy(header + 40, &ranges, 8);
    memcpy(header + 48, &count, 8);
    memcpy(header + 28, &zero, 4);
    UINT32 crc = crc32c(header, sizeof(header));
    memcpy(header + 28, &crc, 4);
    assert_int_equal(pwrite(fd, header, sizeof(header), 0), sizeof(header));
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
}

static void claims(void **state)
{
    struct guest g;
    OWHP_SNAPSHOT_HANDLE snapshot;
    struct rlimit before, small;

    (void)state;
    guest_begin(&g, NULL);
    save(&g);
    claim_ranges();
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    small = (struct rlimit){sizes().address_space + (256 << 20), before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_AS, &small), 0);
    HRESULT result = OwhpLoadSnapshot(g.partition, path, OwhpLoadFlagNone, &snapshot);
    assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
    assert_hr(result, HRESULT_FROM_WIN32(ERROR_FILE_CORRUPT));
    guest_end(&g);
}

/* The target's memory cannot take a page: the load fails, and its processor is what it was. */
static void failed_load(void **state)
{
    struct guest g;
    OWHP_SNAPSHOT_HANDLE snapshot;

    (void)state;
    guest_begin(&g, NULL);
    memset(g.ram + MISSING, 7, PAGE);
    guest_set(&g, WHvX64RegisterRip, 0x1111);
    save(&g);
    guest_end(&g);
    guest_begin(&g, NULL);
    guest_set(&g, WHvX64RegisterRip, 0x2222);
    assert_int_equal(mprotect(g.ram + MISSING, PAGE, PROT_NONE), 0);
    assert_refused(OwhpLoadSnapshot(g.partition, path, OwhpLoadFlagNone, &snapshot), E_ACCESSDENIED);
    assert_int_equal(guest_get(&g, WHvX64RegisterRip), 0x2222);
    guest_end(&g);
}

/* A segment that no entry accepts is refused at the next run; also when it comes back with a snapshot. */
static void restored_segment(void **state)
{
    const WHV_REGISTER_NAME ss = WHvX64RegisterSs;
    const WHV_REGISTER_VALUE good = {.Segment = {.Limit = 0xffff, .Attributes = 0x93}},
                             bad = {.Segment = {.Limit = 0x12345678, .Attributes = 0x93}};
    struct guest g;
    OWHP_SNAPSHOT_HANDLE snapshot;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0xf4, 0xf4);
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &ss, 1, &bad));
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &snapshot));
    run_to(&g, WHvRunVpExitReasonInvalidVpRegisterValue);
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &ss, 1, &good));
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_ok(OwhpRestoreSnapshot(g.partition, snapshot, OwhpRestoreFlagNone, NULL));
    run_to(&g, WHvRunVpExitReasonInvalidVpRegisterValue);
    assert_ok(OwhpDestroySnapshot(snapshot));
    guest_end(&g);
}

/* A file's name may be as long as names can be. */
static void long_name(void **state)
{
    struct guest g;
    OWHP_SNAPSHOT_HANDLE snapshot;
    char name[400];

    (void)state;
    guest_begin(&g, NULL);
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &snapshot));
    for (unsigned length = 240; length <= 255; length++) {
        snprintf(name, sizeof(name), "%s/%0*d", folder, (int)length, 0);
        assert_ok(OwhpSaveSnapshot(snapshot, name, 0));
        assert_int_equal(unlink(name), 0);
    }
    assert_ok(OwhpDestroySnapshot(snapshot));
    guest_end(&g);
}

/* Paths of each length near the longest that a host takes: folder/DEEP/.../DEEP/name, made and removed folder by folder. */
static void long_paths(void **state)
{
    enum { LEVEL = 200, LONGEST = 4095 };
    char file[LONGEST + 2], deep[LEVEL + 1];
    OWHP_SNAPSHOT_HANDLE snapshot, loaded;
    struct guest g;
    struct stat s;
    size_t at;
    int depth = 0, into[32];

    (void)state;
    guest_begin(&g, NULL);
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &snapshot));
    memset(deep, 'd', LEVEL);
    deep[LEVEL] = 0;
    at = (size_t)snprintf(file, sizeof(file), "%s/", folder);
    into[0] = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (; at + LEVEL + 50 < LONGEST; at += LEVEL + 1, depth++) {
        assert_int_equal(mkdirat(into[depth], deep, 0700), 0);
        into[depth + 1] = openat(into[depth], deep, O_PATH | O_DIRECTORY | O_CLOEXEC);
        snprintf(file + at, sizeof(file) - at, "%s/", deep);
    }
    /* One more folder, so that the names behind it have 1 to 8 bytes; and the last name as long as it gets. */
    size_t short_level = LONGEST - at - 9;
    for (size_t length = LONGEST - 30; length <= LONGEST; length++) {
        memset(file + at, 'n', length - at);
        file[length] = 0;
        assert_ok(OwhpSaveSnapshot(snapshot, file, 0));
        assert_int_equal(stat(file, &s), 0);
        assert_int_equal(unlinkat(into[depth], file + at, 0), 0);
    }
    deep[short_level] = 0;
    assert_int_equal(mkdirat(into[depth], deep, 0300), 0); /* nor can it be listed */
    for (size_t length = LONGEST - 7; length <= LONGEST; length++) {
        memset(file + at, 'd', length - at);
        file[at + short_level] = '/';
        file[length] = 0;
        assert_ok(OwhpSaveSnapshot(snapshot, file, 0));
        assert_ok(OwhpLoadSnapshot(g.partition, file, OwhpLoadFlagNone, &loaded));
        assert_ok(OwhpDestroySnapshot(loaded));
        assert_int_equal(unlink(file), 0);
    }
    file[LONGEST] = 'd';
    file[LONGEST + 1] = 0;
    assert_refused(OwhpSaveSnapshot(snapshot, file, 0), E_INVALIDARG);
    for (unlinkat(into[depth], deep, AT_REMOVEDIR), deep[short_level] = 'd'; depth >= 0; close(into[depth--]))
        if (depth)
            assert_int_equal(unlinkat(into[depth - 1], deep, AT_REMOVEDIR), 0);
    assert_ok(OwhpDestroySnapshot(snapshot));
    guest_end(&g);
}

/* Names that no file can have are refused before anything is written. */
static void names_of_no_file(void **state)
{
    struct guest g;
    OWHP_SNAPSHOT_HANDLE snapshot;
    char name[400];

    (void)state;
    guest_begin(&g, NULL);
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &snapshot));
    snprintf(name, sizeof(name), "%s/%0*d", folder, 256, 0);
    assert_refused(OwhpSaveSnapshot(snapshot, name, 0), E_INVALIDARG);
    assert_non_null(strstr(OwhpGetLastErrorText(), strerror(ENAMETOOLONG)));
    snprintf(name, sizeof(name), "%s/", folder);
    assert_refused(OwhpSaveSnapshot(snapshot, name, 0), E_ACCESSDENIED);
    snprintf(name, sizeof(name), "%s/..", folder);
    assert_refused(OwhpSaveSnapshot(snapshot, name, 0), E_ACCESSDENIED);
    snprintf(name, sizeof(name), "%s/none/file", folder);
    assert_refused(OwhpSaveSnapshot(snapshot, name, 0), E_NOT_FOUND);
    assert_ok(OwhpDestroySnapshot(snapshot));
    guest_end(&g);
}

/* ---- state ---- */

/* Any bytes are taken for an APIC; what it does not have stays 0. */
static void any_apic(void **state)
{
    UINT8 page[PAGE], back[PAGE], again[PAGE];
    struct guest g;

    (void)state;
    guest_begin(&g, &(struct guest_options){.apic_mode = WHvX64LocalApicEmulationModeXApic});
    guest_code(&g, 0xeb, 0xfe);
    memset(page, 0xff, sizeof(page));
    assert_ok(WHvSetVirtualProcessorInterruptControllerState2(g.partition, 0, page, sizeof(page)));
    assert_ok(WHvGetVirtualProcessorInterruptControllerState2(g.partition, 0, back, sizeof(back), NULL));
    assert_int_equal(back[0x80 + 1] | back[0xf0 + 3] | back[0x320 + 3], 0); /* TPR, SVR, the timer's entry: reserved bits */
    assert_int_equal(back[0x80], 0xff);
    assert_ok(WHvSetVirtualProcessorState(g.partition, 0, WHvVirtualProcessorStateTypeInterruptControllerState2, back, sizeof(back)));
    assert_ok(WHvGetVirtualProcessorInterruptControllerState2(g.partition, 0, again, sizeof(again), NULL));
    memset(back + 0x390, 0, 4); /* the timer counts */
    memset(again + 0x390, 0, 4);
    assert_memory_equal(back, again, sizeof(back));
    assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
    run_to(&g, WHvRunVpExitReasonCanceled);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("HOST-1", "H Pointers, Signals", blocked_signals),
        CASE("HOST-2", "H Handles", kinds_of_handles),
        CASE("HOST-3", "H OwhpCompleteMemoryAccess", popa),
        CASE("HOST-4", "H OwhpRestoreSnapshot", huge_unmap),
        CASE("HOST-5", "H OwhpLoadSnapshot", claims),
        CASE("HOST-6", "H OwhpLoadSnapshot", failed_load),
        CASE("HOST-7", "H OwhpRestoreSnapshot", restored_segment),
        CASE("HOST-8", "H OwhpSaveSnapshot", long_name),
        CASE("HOST-13", "H OwhpSaveSnapshot: long paths", long_paths),
        CASE("HOST-14", "H OwhpSaveSnapshot: names of no file", names_of_no_file),
        CASE("HOST-9", "H WHvSetVirtualProcessorInterruptControllerState2", any_apic),
    };
    return cmocka_run_group_tests_name("the host's side", tests, make_folder, remove_folder);
}
