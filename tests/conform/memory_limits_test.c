/*
 * Guest memory at its limits: a million ranges, a terabyte in one call, the last page that addresses reach, a narrower address
 * width, the host's limit of locked memory, memory that cannot be brought in; and the counters that tell of it.
 */
#include "guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define FLAGS(value) ((WHV_MAP_GPA_RANGE_FLAGS)(value))
#define PAGE         4096ull
#define TIB          ((UINT64)1 << 40)
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 }; /* their mlock does nothing */
#define MANY 100000u
#else
enum { SANITIZED = 0 };
#define MANY 1000000u
#endif

static const WHV_ACCESS_GPA_CONTROLS controls = {.AsUINT64 = WHvCacheTypeWriteBack};

static UINT8 *reserve(UINT64 size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_true(p != MAP_FAILED);
    return p;
}

static UINT64 mapped_pages(struct guest *g)
{
    WHV_PARTITION_MEMORY_COUNTERS counters;
    UINT32 written;

    assert_ok(WHvGetPartitionCounters(g->partition, WHvPartitionCounterSetMemory, &counters, sizeof(counters), &written));
    return counters.Mapped4KPageCount;
}

static UINT32 ranges(struct guest *g)
{
    UINT32 count = 0;

    assert_hr(OwhpEnumerateGpaRanges(g->partition, NULL, 0, &count), WHV_E_INSUFFICIENT_BUFFER);
    return count;
}

/* ---- many ---- */

/* No range continues its neighbour. The guest reads one of them after each kind of change. */
static void a_million_ranges(void **state)
{
    const UINT64 many = test_rounds(MANY), start = (UINT64)1 << 32, middle = start + many / 2 * 2 * PAGE;
    UINT8 *host = reserve(2 * PAGE * many);
    struct guest g;
    UINT64 value = 0, bits;

    (void)state;
    guest_begin(&g, NULL);
    const UINT32 before = ranges(&g);
    const UINT64 pages = mapped_pages(&g);
    for (UINT64 i = 0; i < many; i++) /* in an order that is neither up nor down */
        if (WHvMapGpaRange(g.partition, host + 2 * PAGE * (i * 7919 % many), start + 2 * PAGE * (i * 7919 % many), PAGE,
                           FLAGS(i & 1 ? 11 : 3)) != S_OK)
            fail_msg("range %llu: %s", (unsigned long long)i, OwhpGetLastErrorText());
    assert_int_equal(mapped_pages(&g), pages + many);
    assert_int_equal(ranges(&g), before + many);
    host[middle - start] = 0x44;
    assert_ok(WHvReadGpaRange(g.partition, 0, middle, controls, &value, 1));
    assert_int_equal(value, 0x44);
    assert_refused(WHvReadGpaRange(g.partition, 0, middle + PAGE, controls, &value, 1), E_ACCESSDENIED);
    assert_ok(WHvMapGpaRange(g.partition, host + (middle - start), middle, PAGE, FLAGS(11)));
    assert_ok(WHvWriteGpaRange(g.partition, 0, middle + 8, controls, &value, 8));
    assert_ok(WHvQueryGpaRangeDirtyBitmap(g.partition, middle, PAGE, &bits, 8));
    assert_int_equal(bits, 1);
    assert_ok(WHvUnmapGpaRange(g.partition, start, many * PAGE)); /* the lower half, in one call */
    assert_int_equal(mapped_pages(&g), pages + many / 2);
    assert_int_equal(ranges(&g), before + many / 2);
    for (UINT64 i = many / 2; i < many; i++)
        assert_ok(WHvUnmapGpaRange(g.partition, start + 2 * PAGE * i, PAGE));
    assert_int_equal(mapped_pages(&g), pages);
    assert_int_equal(ranges(&g), before);
    guest_end(&g);
    munmap(host, 2 * PAGE * many);
}

/* ---- large ---- */

static UINT64 limit_of(struct guest *g)
{
    UINT32 bits = 0, written;

    assert_ok(WHvGetPartitionProperty(g->partition, WHvPartitionPropertyCodePhysicalAddressWidth, &bits, sizeof(bits), &written));
    return (UINT64)1 << bits;
}

/* mov [rdi], al; hlt: at an address that the page tables below 2 MiB lead to. */
static void store_at(struct guest *g, UINT64 gpa)
{
    *guest_pte(g, 0x60000) = gpa | 7;
    guest_code(g, 0x88, 0x07, 0xf4);
    guest_set(g, WHvX64RegisterCr3, TABLES);
    guest_set(g, WHvX64RegisterRip, CODE);
    guest_set(g, WHvX64RegisterRdi, 0x60008);
    guest_set(g, WHvX64RegisterRax, 0x99);
}

static void a_terabyte(void **state)
{
    UINT8 *host = reserve(TIB);
    struct guest g;
    struct rusage before, after;
    WHV_MEMORY_RANGE_ENTRY dirty[4];
    UINT32 found;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    const UINT64 limit = limit_of(&g);
    const UINT64 start = limit > 2 * TIB ? limit - TIB : TIB / 2; /* up to the last address, where there is room */
    const UINT64 size = limit - start < TIB ? limit - start : TIB;
    getrusage(RUSAGE_SELF, &before);
    assert_ok(WHvMapGpaRange(g.partition, host, start, size, FLAGS(11)));
    getrusage(RUSAGE_SELF, &after);
    assert_in_range(after.ru_maxrss, 0, before.ru_maxrss + 1024); /* KiB: nothing was faulted in */
    assert_refused(WHvMapGpaRange(g.partition, host, start + PAGE, size, FLAGS(11)), E_INVALIDARG); /* a page beyond the end */
    assert_refused(WHvMapGpaRange(g.partition, host, limit, PAGE, FLAGS(3)), E_INVALIDARG);
    assert_refused(WHvUnmapGpaRange(g.partition, limit - PAGE, 2 * PAGE), E_INVALIDARG);
    store_at(&g, start);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    store_at(&g, start + size - PAGE);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(host[8], 0x99);
    assert_int_equal(host[size - PAGE + 8], 0x99);
    assert_ok(OwhpQueryDirtyRanges(g.partition, 0, OwhpQueryDirtyFlagNone, start, size, dirty, 4, &found));
    assert_int_equal(found, 2);
    assert_true(dirty[0].GuestAddress == start && dirty[0].SizeInBytes == PAGE);
    assert_true(dirty[1].GuestAddress == start + size - PAGE && dirty[1].SizeInBytes == PAGE);
    assert_ok(WHvUnmapGpaRange(g.partition, start, size));
    store_at(&g, start + size - PAGE);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&g, MemoryAccess.Gpa, start + size - PAGE + 8);
    assert_field(&g, MemoryAccess.AccessInfo.GpaUnmapped, 1);
    guest_end(&g);
    munmap(host, TIB);
}

/* ---- a narrower width ---- */

static void address_width(void **state)
{
    struct guest g;
    UINT8 *host = reserve(2 * PAGE);
    UINT32 width = 36, read = 0, written;
    const UINT32 one = 1;
    WHV_TRANSLATE_GVA_RESULT result;
    UINT64 gpa;
    WHV_CPUID_OUTPUT out;

    (void)state;
    memset(&g, 0, sizeof(g));
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    assert_ok(WHvDeletePartition(g.partition));
    assert_ok(WHvCreatePartition(&g.partition));
    assert_ok(WHvSetPartitionProperty(g.partition, WHvPartitionPropertyCodeProcessorCount, &one, 4));
    assert_ok(WHvSetPartitionProperty(g.partition, WHvPartitionPropertyCodePhysicalAddressWidth, &width, sizeof(width)));
    assert_ok(WHvSetupPartition(g.partition));
    assert_ok(WHvGetPartitionProperty(g.partition, WHvPartitionPropertyCodePhysicalAddressWidth, &read, sizeof(read), &written));
    assert_int_equal(read, 36);
    assert_ok(WHvMapGpaRange(g.partition, g.ram, 0, RAM_SIZE, FLAGS(15)));
    assert_ok(WHvCreateVirtualProcessor(g.partition, 0, 0));
    assert_ok(WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 0x80000008, 0, &out));
    assert_int_equal(out.Eax & 0xff, 36);
    const UINT64 limit = (UINT64)1 << 36;
    assert_ok(WHvMapGpaRange(g.partition, host, limit - PAGE, PAGE, FLAGS(3)));
    assert_refused(WHvMapGpaRange(g.partition, host, limit - PAGE, 2 * PAGE, FLAGS(3)), E_INVALIDARG);
    assert_refused(WHvMapGpaRange(g.partition, host, limit, PAGE, FLAGS(3)), E_INVALIDARG);
    guest_long_mode(&g, 0);
    store_at(&g, limit - PAGE);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(host[8], 0x99);
    guest_set(&g, WHvX64RegisterRsp, STACK);
    store_at(&g, limit); /* a reserved bit of the entry */
    assert_ok(WHvTranslateGva(g.partition, 0, 0x60008, WHvTranslateGvaFlagValidateRead, &result, &gpa));
    assert_int_equal(result.ResultCode, WHvTranslateGvaResultInvalidPageTableFlags);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, HANDLERS + 16 * 14 + 1);
    guest_end(&g);
    munmap(host, 2 * PAGE);
}

/* ---- advice ---- */

static HRESULT advise(struct guest *g, UINT64 gpa, UINT64 size, UINT32 code, const WHV_ADVISE_GPA_RANGE_POPULATE *populate)
{
    const WHV_MEMORY_RANGE_ENTRY range = {gpa, size};

    return WHvAdviseGpaRange(g->partition, &range, 1, (WHV_ADVISE_GPA_RANGE_CODE)code, populate, populate ? sizeof(*populate) : 0);
}

/* In a process that may not lock more than the limit says: 0, or what is wrong. */
static int pin_beyond_limit(void)
{
    const struct rlimit small = {16 * PAGE, 16 * PAGE};
    UINT8 *host = reserve(64 * PAGE);
    struct guest g;

    guest_begin(&g, NULL);
    if (WHvMapGpaRange(g.partition, host, 0x10000000, 64 * PAGE, FLAGS(3)) != S_OK)
        return 1;
    if (setrlimit(RLIMIT_MEMLOCK, &small) != 0 || (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0))
        return 2;
    if (advise(&g, 0x10000000, 8 * PAGE, WHvAdviseGpaRangeCodePin, NULL) != S_OK)
        return 3;
    if (SUCCEEDED(advise(&g, 0x10000000, 64 * PAGE, WHvAdviseGpaRangeCodePin, NULL)))
        return 4;
    if (!strstr(OwhpGetLastErrorText(), "RLIMIT_MEMLOCK: 65536 bytes"))
        return 5;
    /* The one that failed has left no pin and no lock: as much as before can be had. */
    if (SUCCEEDED(advise(&g, 0x10000000 + 8 * PAGE, PAGE, WHvAdviseGpaRangeCodeUnpin, NULL)))
        return 6;
    if (advise(&g, 0x10000000 + 32 * PAGE, 8 * PAGE, WHvAdviseGpaRangeCodePin, NULL) != S_OK)
        return 7;
    if (SUCCEEDED(advise(&g, 0x10000000 + 48 * PAGE, PAGE, WHvAdviseGpaRangeCodePin, NULL)))
        return 8;
    if (advise(&g, 0x10000000, 8 * PAGE, WHvAdviseGpaRangeCodeUnpin, NULL) != S_OK)
        return 9;
    return advise(&g, 0x10000000 + 48 * PAGE, PAGE, WHvAdviseGpaRangeCodePin, NULL) == S_OK ? 0 : 10;
}

static void pins_and_the_hosts_limit(void **state)
{
    (void)state;
    if (SANITIZED) {
        print_message("SKIPPED: the sanitizer's mlock does nothing\n");
        skip();
    }
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(pin_beyond_limit());
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* KiB that this process has locked. */
static unsigned long locked(void)
{
    char line[128];
    unsigned long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");

    assert_non_null(status);
    while (fgets(line, sizeof(line), status) && sscanf(line, "VmLck: %lu", &kib) != 1)
        continue;
    fclose(status);
    return kib;
}

/* What was pinned is released by its owner, and other memory is at the address: a new pin locks that, not what was there. */
static void pinned_again(void **state)
{
    UINT8 *host = reserve(2 * PAGE);
    struct guest g;

    (void)state;
    if (SANITIZED) {
        print_message("SKIPPED: the sanitizer's mlock does nothing\n");
        skip();
    }
    guest_begin(&g, NULL);
    const unsigned long before = locked();
    assert_ok(WHvMapGpaRange(g.partition, host, 0x10000000, 2 * PAGE, FLAGS(3)));
    assert_ok(advise(&g, 0x10000000, 2 * PAGE, WHvAdviseGpaRangeCodePin, NULL));
    assert_int_equal(locked(), before + 8);
    assert_true(mmap(host, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == host);
    assert_int_equal(locked(), before);
    assert_ok(advise(&g, 0x10000000, PAGE, WHvAdviseGpaRangeCodePin, NULL));
    assert_int_equal(locked(), before + 4);
    assert_ok(advise(&g, 0x10000000, PAGE, WHvAdviseGpaRangeCodeUnpin, NULL));
    assert_int_equal(locked(), before + 4); /* the first pin is left */
    assert_int_equal(munmap(host, PAGE), 0);
    assert_hr(advise(&g, 0x10000000, PAGE, WHvAdviseGpaRangeCodePin, NULL), E_ACCESSDENIED);
    assert_ok(advise(&g, 0x10000000, 2 * PAGE, WHvAdviseGpaRangeCodeUnpin, NULL));
    assert_hr(advise(&g, 0x10000000, 2 * PAGE, WHvAdviseGpaRangeCodeUnpin, NULL), E_INVALIDARG);
    guest_end(&g);
    munmap(host, 2 * PAGE);
}

static UINT64 resident(struct guest *g, UINT64 gpa)
{
    OWHP_GPA_RANGE list[16];
    UINT32 count;

    assert_ok(OwhpEnumerateGpaRanges(g->partition, list, 16, &count));
    for (UINT32 i = 0; i < count; i++)
        if (list[i].GuestAddress == gpa)
            return list[i].ResidentSizeInBytes;
    fail_msg("no range at %#llx", (unsigned long long)gpa);
    return 0;
}

/* What is in front of the page that fails is there afterwards, and the text names that page. */
static void populate_tells_what_failed(void **state)
{
    const WHV_ADVISE_GPA_RANGE_POPULATE write = {.AccessType = WHvMemoryAccessWrite};
    UINT8 *host = reserve(64 * PAGE);
    struct guest g;

    (void)state;
    assert_int_equal(madvise(host, 64 * PAGE, MADV_NOHUGEPAGE), 0);
    guest_begin(&g, NULL);
    assert_ok(WHvMapGpaRange(g.partition, host, 0x10000000, 64 * PAGE, FLAGS(3)));
    assert_int_equal(resident(&g, 0x10000000), 0);
    assert_ok(advise(&g, 0x10000000 + 3 * PAGE + 17, 1, WHvAdviseGpaRangeCodePopulate, &write)); /* the page that it touches */
    assert_int_equal(resident(&g, 0x10000000), PAGE);
    assert_int_equal(mprotect(host + 20 * PAGE, PAGE, PROT_NONE), 0);
    assert_true(FAILED(advise(&g, 0x10000000, 64 * PAGE, WHvAdviseGpaRangeCodePopulate, &write)));
    assert_non_null(strstr(OwhpGetLastErrorText(), "0x10014000"));
    assert_true(resident(&g, 0x10000000) >= 20 * PAGE);
    assert_int_equal(mprotect(host + 20 * PAGE, PAGE, PROT_READ | PROT_WRITE), 0);
    assert_ok(advise(&g, 0x10000000, 64 * PAGE, WHvAdviseGpaRangeCodePopulate, &write));
    assert_int_equal(resident(&g, 0x10000000), 64 * PAGE);
    guest_end(&g);
    munmap(host, 64 * PAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("MAP-11", "F 2.7: a million ranges", a_million_ranges),
        CASE("MAP-12", "F 2.7, 2.9: 1 TiB, up to the highest address", a_terabyte),
        CASE("MAP-13", "F 2.7 PhysicalAddressWidth, as the guest meets it", address_width),
        CASE("ADVISE-2", "F 6, S Pin: RLIMIT_MEMLOCK", pins_and_the_hosts_limit),
        CASE("ADVISE-3", "F 6: populate", populate_tells_what_failed),
        CASE("ADVISE-4", "F 6, S Pin", pinned_again),
    };

    return cmocka_run_group_tests_name("memory limits", tests, NULL, NULL);
}
