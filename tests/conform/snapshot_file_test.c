/*
 * Snapshots as files: they come back as they were, in another partition, mapped or filled in; whatever is wrong with a file is
 * refused with words and nothing has changed; a file that is there survives a save that fails.
 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PAGE = 4096,
    OTHER = 0x10000000,
    OTHER_SIZE = 64 * PAGE,
};
#define RW            (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite)
#define E_CORRUPT     HRESULT_FROM_WIN32(ERROR_FILE_CORRUPT)
#define E_WRITE_FAULT HRESULT_FROM_WIN32(ERROR_WRITE_FAULT)

static char folder[64], path[96];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/snapshot-test-XXXXXX");
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

static const WHV_ACCESS_GPA_CONTROLS controls;

static UINT8 load_byte(struct guest *g, UINT64 gpa)
{
    UINT8 byte;

    assert_ok(WHvReadGpaRange(g->partition, 0, gpa, controls, &byte, 1));
    return byte;
}

static void store_byte(struct guest *g, UINT64 gpa, UINT8 byte)
{
    assert_ok(WHvWriteGpaRange(g->partition, 0, gpa, controls, &byte, 1));
}

/* A guest that has run a little: it adds 1 to [0x5000] and to RAX with each run, and halts. */
static void begin_counting(struct guest *g)
{
    UINT8 *other = host_pages(OTHER_SIZE / PAGE);

    guest_begin(g, NULL);
    guest_code(g, 0xfe, 0x06, 0x00, 0x50, 0x40, 0xf4, 0xeb, 0xf8); /* inc [0x5000]; inc ax; hlt; jmp back */
    memset(other + 3 * PAGE, 0x33, PAGE);
    assert_ok(WHvMapGpaRange(g->partition, other, OTHER, OTHER_SIZE, RW));
    run_to(g, WHvRunVpExitReasonX64Halt);
    run_to(g, WHvRunVpExitReasonX64Halt);
}

static void save(struct guest *g)
{
    OWHP_SNAPSHOT_HANDLE s;

    assert_ok(OwhpCreateSnapshot(g->partition, 0, &s));
    assert_ok(OwhpSaveSnapshot(s, path, 0));
    assert_ok(OwhpDestroySnapshot(s));
}

/* A partition without memory. */
static void begin_empty(struct guest *g, const struct guest_options *options)
{
    guest_begin(g, options);
    assert_ok(WHvUnmapGpaRange(g->partition, 0, RAM_SIZE));
}

static void expect_counting(struct guest *g, OWHP_SNAPSHOT_HANDLE s)
{
    for (int i = 0; i < 3; i++) {
        assert_int_equal(load_byte(g, 0x5000), 2);
        assert_int_equal(load_byte(g, OTHER + 3 * PAGE + 5), 0x33);
        assert_int_equal(load_byte(g, OTHER + 4 * PAGE), 0);
        assert_int_equal(guest_get(g, WHvX64RegisterRax), 2);
        run_to(g, WHvRunVpExitReasonX64Halt);
        assert_int_equal(load_byte(g, 0x5000), 3);
        assert_int_equal(guest_get(g, WHvX64RegisterRax), 3);
        store_byte(g, OTHER + 3 * PAGE + 5, 1);
        store_byte(g, OTHER + 4 * PAGE, 1);
        UINT64 pages;
        assert_ok(OwhpRestoreSnapshot(g->partition, s, OwhpRestoreFlagNone, &pages));
        assert_dirty_count(pages, 3, 1);
    }
}

/* ---- good files ---- */

static void mapped_from_the_file(void **state)
{
    struct guest g, h;
    OWHP_SNAPSHOT_HANDLE s;
    OWHP_GPA_RANGE ranges[3];
    UINT32 count;
    struct stat st;

    (void)state;
    begin_counting(&g);
    save(&g);
    guest_end(&g);
    assert_int_equal(stat(path, &st), 0);
    assert_true((UINT64)st.st_size > RAM_SIZE + OTHER_SIZE);
    assert_true((UINT64)st.st_blocks * 512 < 200000); /* sparse */
    assert_int_equal(st.st_mode & 0777, 0600);

    begin_empty(&h, NULL);
    assert_ok(OwhpLoadSnapshot(h.partition, path, OwhpLoadFlagVerify, &s));
    unlink(path); /* no longer needed by name */
    assert_ok(OwhpEnumerateGpaRanges(h.partition, ranges, 3, &count));
    assert_int_equal(count, 2);
    assert_int_equal(ranges[0].Flags, 15);
    assert_int_equal(ranges[1].GuestAddress, OTHER);
    assert_int_equal(ranges[1].SizeInBytes, OTHER_SIZE);
    expect_counting(&h, s);
    assert_ok(OwhpSaveSnapshot(s, path, 0)); /* and once more */
    assert_ok(OwhpDestroySnapshot(s));
    run_to(&h, WHvRunVpExitReasonX64Halt); /* the memory stays */
    guest_end(&h);

    begin_empty(&h, NULL);
    assert_ok(OwhpLoadSnapshot(h.partition, path, OwhpLoadFlagVerify, &s));
    expect_counting(&h, s);
    guest_end(&h); /* before its snapshot */
    assert_ok(OwhpSaveSnapshot(s, path, 0));
    assert_ok(OwhpDestroySnapshot(s));
    begin_empty(&h, NULL);
    assert_ok(OwhpLoadSnapshot(h.partition, path, OwhpLoadFlagNone, &s));
    expect_counting(&h, s);
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&h);
}

static void filled_in(void **state)
{
    struct guest g, h;
    OWHP_SNAPSHOT_HANDLE s;
    UINT8 *first = host_pages(40), *second = host_pages(OTHER_SIZE / PAGE - 40);

    (void)state;
    begin_counting(&g);
    save(&g);
    guest_end(&g);
    guest_begin(&h, NULL); /* with its RAM */
    memset(h.ram, 0xee, RAM_SIZE);
    memset(first, 0xee, 40 * PAGE);
    assert_ok(WHvMapGpaRange(h.partition, first, OTHER, 40 * PAGE, RW)); /* in two pieces */
    assert_ok(WHvMapGpaRange(h.partition, second, OTHER + 40 * PAGE, OTHER_SIZE - 40 * PAGE, RW));
    assert_ok(OwhpLoadSnapshot(h.partition, path, OwhpLoadFlagNone, &s));
    assert_int_equal(h.ram[0x5000], 2);
    assert_int_equal(h.ram[0x100000], 0);
    assert_int_equal(first[3 * PAGE], 0x33);
    assert_int_equal(first[39 * PAGE], 0);
    expect_counting(&h, s);
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&h);
}

/* ---- partitions that do not fit ---- */

static void refuse(struct guest *h, HRESULT expected, const char *word)
{
    OWHP_SNAPSHOT_HANDLE s = NULL;
    OWHP_GPA_RANGE before[8], after[8];
    UINT32 count = 0, count_after = 0;
    const WHV_REGISTER_VALUE rip = guest_get_value(h, WHvX64RegisterRip);

    assert_ok(OwhpEnumerateGpaRanges(h->partition, before, 8, &count));
    assert_refused(OwhpLoadSnapshot(h->partition, path, OwhpLoadFlagNone, &s), expected);
    if (!strstr(OwhpGetLastErrorText(), word))
        fail_msg("'%s' is not in: %s", word, OwhpGetLastErrorText());
    assert_null(s);
    assert_ok(OwhpEnumerateGpaRanges(h->partition, after, 8, &count_after));
    assert_int_equal(count, count_after);
    for (UINT32 i = 0; i < count; i++)
        assert_int_equal(before[i].SourceAddress, after[i].SourceAddress);
    assert_int_equal(guest_get(h, WHvX64RegisterRip), rip.Reg64);
}

static void other_partitions(void **state)
{
    struct guest g, h;

    (void)state;
    begin_counting(&g);
    save(&g);
    guest_end(&g);

    begin_empty(&h, &(struct guest_options){.processors = 2});
    refuse(&h, WHV_E_INVALID_PARTITION_CONFIG, "ProcessorCount");
    guest_end(&h);
    begin_empty(&h, &(struct guest_options){.apic_mode = 1});
    refuse(&h, WHV_E_INVALID_PARTITION_CONFIG, "APIC");
    guest_end(&h);
    begin_empty(&h, NULL);
    assert_ok(WHvDeleteVirtualProcessor(h.partition, 0));
    OWHP_SNAPSHOT_HANDLE s;
    assert_refused(OwhpLoadSnapshot(h.partition, path, OwhpLoadFlagNone, &s), WHV_E_VP_DOES_NOT_EXIST);
    guest_end(&h);

    begin_empty(&h, NULL); /* memory mapped otherwise */
    assert_ok(WHvMapGpaRange(h.partition, h.ram, OTHER + OTHER_SIZE, PAGE, RW));
    refuse(&h, WHV_E_GPA_RANGE_NOT_FOUND, "0x10040000");
    guest_end(&h);
    begin_empty(&h, NULL);
    assert_ok(WHvMapGpaRange(h.partition, h.ram, 0, PAGE, RW));
    refuse(&h, WHV_E_GPA_RANGE_NOT_FOUND, "0x0");
    guest_end(&h);
    begin_empty(&h, NULL);
    assert_ok(WHvMapGpaRange(h.partition, h.ram, OTHER, OTHER_SIZE, WHvMapGpaRangeFlagRead));
    refuse(&h, WHV_E_GPA_RANGE_NOT_FOUND, "0x10000000");
    guest_end(&h);
}

static void features(void **state)
{
    struct guest g, h = {0};
    WHV_PROCESSOR_FEATURES f;
    OWHP_SNAPSHOT_HANDLE s;

    (void)state;
    begin_counting(&g);
    save(&g);
    assert_ok(WHvGetPartitionProperty(g.partition, WHvPartitionPropertyCodeProcessorFeatures, &f, sizeof(f), NULL));
    guest_end(&g);
    assert_int_not_equal(f.AsUINT64, 0);
    f.AsUINT64 &= f.AsUINT64 - 1; /* one less */
    assert_ok(WHvCreatePartition(&h.partition));
    UINT32 one = 1;
    assert_ok(WHvSetPartitionProperty(h.partition, WHvPartitionPropertyCodeProcessorCount, &one, 4));
    assert_ok(WHvSetPartitionProperty(h.partition, WHvPartitionPropertyCodeProcessorFeatures, &f, sizeof(f)));
    assert_ok(WHvSetupPartition(h.partition));
    assert_ok(WHvCreateVirtualProcessor(h.partition, 0, 0));
    assert_refused(OwhpLoadSnapshot(h.partition, path, OwhpLoadFlagNone, &s), WHV_E_INVALID_PARTITION_CONFIG);
    assert_non_null(strstr(OwhpGetLastErrorText(), "features"));
    guest_end(&h);
}

/* ---- bad files ---- */

static UINT8 *read_whole(size_t *size)
{
    int fd = open(path, O_RDONLY);
    struct stat st;

    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    *size = (size_t)st.st_size;
    UINT8 *bytes = malloc(*size);
    assert_non_null(bytes);
    assert_int_equal(pread(fd, bytes, *size, 0), (ssize_t)*size);
    close(fd);
    return bytes;
}

/* A good file, and what is in it. */
static UINT8 *write_and_read(size_t *size)
{
    struct guest g;

    begin_counting(&g);
    save(&g);
    guest_end(&g);
    return read_whole(size);
}

static void put_bytes(const UINT8 *bytes, size_t size, size_t offset)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, size, (off_t)offset), (ssize_t)size);
    close(fd);
}

static void truncated(void **state)
{
    struct guest h;
    size_t size;

    (void)state;
    UINT8 *whole = write_and_read(&size);
    begin_empty(&h, NULL);
    const size_t sizes[] = {size - 1, size - PAGE, size / 2, 3 * PAGE + 7, 2 * PAGE, PAGE, 200, 100, 16, 1, 0};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        assert_int_equal(truncate(path, (off_t)sizes[i]), 0);
        refuse(&h, E_CORRUPT, sizes[i] < 200 ? "the file ends here" : "was written with");
    }
    put_bytes(whole, 4096, 0); /* longer than it was */
    assert_int_equal(truncate(path, (off_t)size + PAGE), 0);
    refuse(&h, E_CORRUPT, "was written with");
    unlink(path);
    refuse(&h, E_NOT_FOUND, "No such file");
    assert_int_equal(mkdir(path, 0700), 0);
    refuse(&h, E_CORRUPT, "not a file");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    refuse(&h, E_CORRUPT, "not a file");
    assert_int_equal(unlink(path), 0);
    free(whole);
    guest_end(&h);
}

static void foreign(void **state)
{
    struct guest h;
    size_t size;

    (void)state;
    UINT8 *whole = write_and_read(&size), other[PAGE];
    begin_empty(&h, NULL);
    static const struct {
        size_t at;
        const char *bytes, *word;
    } rows[] = {
        {0, "\x7f" "ELF", "not a snapshot"},
        {13, "\n", "not a snapshot"},
        {16, "\x02", "version"},
        {20, "\x01\x02\x03\x04", "byte order"},
        {24, "\x63", "version"},
        {40, "\x01", "checksum"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        memcpy(other, whole, PAGE);
        memcpy(other + rows[i].at, rows[i].bytes, strlen(rows[i].bytes));
        put_bytes(other, PAGE, 0);
        refuse(&h, E_CORRUPT, rows[i].word);
    }
    put_bytes(whole, PAGE, 0);
    OWHP_SNAPSHOT_HANDLE s;
    assert_ok(OwhpLoadSnapshot(h.partition, path, OwhpLoadFlagNone, &s));
    assert_ok(OwhpDestroySnapshot(s));
    free(whole);
    guest_end(&h);
}

/* Pages are compared when that is asked for. */
static void damaged_pages(void **state)
{
    struct guest h;
    OWHP_SNAPSHOT_HANDLE s;
    size_t size;

    (void)state;
    UINT8 *whole = write_and_read(&size);
    put_bytes((const UINT8 *)"\x34", 1, size - OTHER_SIZE + 3 * PAGE + 5);
    begin_empty(&h, NULL);
    assert_refused(OwhpLoadSnapshot(h.partition, path, OwhpLoadFlagVerify, &s), E_CORRUPT);
    assert_non_null(strstr(OwhpGetLastErrorText(), "64 pages"));
    assert_ok(OwhpLoadSnapshot(h.partition, path, OwhpLoadFlagNone, &s));
    assert_int_equal(load_byte(&h, OTHER + 3 * PAGE + 5), 0x34);
    assert_ok(OwhpDestroySnapshot(s));
    assert_ok(WHvUnmapGpaRange(h.partition, 0, RAM_SIZE));
    assert_ok(WHvUnmapGpaRange(h.partition, OTHER, OTHER_SIZE));

    /* A page of zeros, a hole in the file, has no checksum: it must be one. */
    static const size_t zeros[] = {0, 4 * PAGE + 4095, OTHER_SIZE - 1};
    put_bytes((const UINT8 *)"\x33", 1, size - OTHER_SIZE + 3 * PAGE + 5);
    for (size_t i = 0; i < sizeof(zeros) / sizeof(zeros[0]); i++) {
        put_bytes((const UINT8 *)"\x34", 1, size - OTHER_SIZE + zeros[i]);
        assert_refused(OwhpLoadSnapshot(h.partition, path, OwhpLoadFlagVerify, &s), E_CORRUPT);
        assert_non_null(strstr(OwhpGetLastErrorText(), "zeros"));
        put_bytes((const UINT8 *)"", 1, size - OTHER_SIZE + zeros[i]);
        assert_ok(OwhpLoadSnapshot(h.partition, path, OwhpLoadFlagVerify, &s)); /* zeros that are no hole */
        assert_ok(OwhpDestroySnapshot(s));
        assert_ok(WHvUnmapGpaRange(h.partition, 0, RAM_SIZE));
        assert_ok(WHvUnmapGpaRange(h.partition, OTHER, OTHER_SIZE));
    }
    free(whole);
    guest_end(&h);
}

/* Somebody shortens the file while it is in use: no signal, an exit or a refusal. */
static void shortened_in_use(void **state)
{
    struct guest g, h;
    OWHP_SNAPSHOT_HANDLE s;

    (void)state;
    begin_counting(&g);
    save(&g);
    guest_end(&g);
    begin_empty(&h, NULL);
    assert_ok(OwhpLoadSnapshot(h.partition, path, OwhpLoadFlagNone, &s));
    run_to(&h, WHvRunVpExitReasonX64Halt); /* its pages are its own now */
    assert_int_equal(truncate(path, PAGE), 0);
    assert_refused(OwhpRestoreSnapshot(h.partition, s, OwhpRestoreFlagNone, NULL), E_ACCESSDENIED);
    UINT8 byte;
    assert_hr(WHvReadGpaRange(h.partition, 0, OTHER + 3 * PAGE, controls, &byte, 1), E_ACCESSDENIED);
    memset(&h.exit, 0, sizeof(h.exit));
    guest_set(&h, WHvX64RegisterRip, 0x7000);
    run_to(&h, WHvRunVpExitReasonMemoryAccess);
    assert_refused(OwhpSaveSnapshot(s, path, 0), E_ACCESSDENIED);
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&h);
}

/* ---- mutations ---- */

static UINT64 random_state = 0x123456789abcdefull;

static UINT64 draw(UINT64 below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % below;
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

static UINT64 field(const UINT8 *whole, size_t at)
{
    UINT64 value;

    memcpy(&value, whole + at, 8);
    return value;
}

static void put32(UINT8 *whole, size_t at, UINT32 value)
{
    memcpy(whole + at, &value, 4);
}

/* Make the checksums right again, as far as the header's offsets make sense. */
static void repair(UINT8 *whole, size_t size)
{
    UINT64 ranges = field(whole, 40), count = field(whole, 48), states = field(whole, 56), set = field(whole, 64);
    UINT64 states_size = (UINT64)__builtin_popcountll(set) * 14368 /* sizeof(struct vcpu_state) */;

    if (ranges < size && count < 100 && ranges + count * 40 <= size)
        put32(whole, 72, crc32c(whole + ranges, count * 40));
    if (states < size && states_size <= size - states)
        put32(whole, 76, crc32c(whole + states, states_size));
    put32(whole, 28, 0);
    put32(whole, 28, crc32c(whole, 80 + 56 + 24));
}

static void mutate(UINT8 *whole, size_t size)
{
    static const UINT64 special[] = {0, 1, 0x7f, 0x80, 0xff, 0xfff, 0x1000, 0x7fffffff, 0x80000000, 0xffffffff,
                                     0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff, 0xfffffffffffff000};
    const size_t parts[][2] = {{0, 160}, {4096, 80}, {8192, 2000}, {8192, 14368}, {24576, 8192}};
    const size_t part = draw(5), at = parts[part][0] + draw(parts[part][1]);

    if (at + 8 > size)
        return;
    switch (draw(4)) {
    case 0:
        whole[at] ^= (UINT8)(1u << draw(8));
        break;
    case 1:
        whole[at] = (UINT8)draw(256);
        break;
    default:
        memcpy(whole + (at & ~(size_t)7), &special[draw(sizeof(special) / 8)], draw(2) ? 8 : 4);
        break;
    }
}

/* Each either is refused, or loads and the guest runs into some exit. */
static void mutated(void **state)
{
    struct guest g;
    size_t size;
    unsigned loaded = 0, refused = 0;

    (void)state;
    guest_begin(&g, &(struct guest_options){.apic_mode = 1});
    guest_code(&g, 0xfe, 0x06, 0x00, 0x50, 0x40, 0xf4, 0xeb, 0xf8);
    save(&g);
    guest_end(&g);
    UINT8 *whole = read_whole(&size), *other = malloc(size);
    const char *given = getenv("OPENWHP_TEST_ROUNDS");
    const unsigned rounds = given ? (unsigned)atoi(given) : test_rounds(1500);
    for (unsigned i = 0; i < rounds; i++) {
        struct guest h;
        OWHP_SNAPSHOT_HANDLE s;

        memcpy(other, whole, size);
        for (UINT64 n = 1 + draw(4); n; n--)
            mutate(other, size);
        if (draw(8))
            repair(other, size);
        put_bytes(other, 65536, 0);
        begin_empty(&h, &(struct guest_options){.apic_mode = 1});
        HRESULT result = OwhpLoadSnapshot(h.partition, path, OwhpLoadFlagAnyTscFrequency, &s);
        if (SUCCEEDED(result)) {
            loaded++;
            assert_ok(WHvCancelRunVirtualProcessor(h.partition, 0, 0));
            for (int n = 0; n < 3; n++) {
                assert_ok(WHvRunVirtualProcessor(h.partition, 0, &h.exit, sizeof(h.exit)));
                if (n < 2)
                    assert_ok(WHvCancelRunVirtualProcessor(h.partition, 0, 0));
                OWHP_MEMORY_ACCESS access;
                if (SUCCEEDED(OwhpGetMemoryAccess(h.partition, 0, &h.exit, &access)))
                    (void)OwhpCompleteMemoryAccess(h.partition, 0, &access);
            }
            (void)OwhpRestoreSnapshot(h.partition, s, OwhpRestoreFlagNone, NULL);
            assert_ok(OwhpDestroySnapshot(s));
        } else {
            refused++;
            assert_true(strlen(OwhpGetLastErrorText()) > 20);
        }
        guest_end(&h);
    }
    print_message("%u loaded, %u refused\n", loaded, refused);
    assert_true(loaded > 50 && refused > 50);
    free(whole);
    free(other);
}

/* ---- saving ---- */

static void expect_only_image(void)
{
    char command[200];

    snprintf(command, sizeof(command), "test \"$(ls -A %s)\" = image", folder);
    assert_int_equal(system(command), 0);
}

static void failed_saves(void **state)
{
    struct guest g;
    OWHP_SNAPSHOT_HANDLE s;
    size_t size;
    char name[5000];

    (void)state;
    begin_counting(&g);
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &s));
    unlink(path);
    put_bytes((const UINT8 *)"precious", 8, 0);

    /* The disk is full, as far as this process is concerned. */
    struct rlimit before, small = {20000, 20000};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    HRESULT result = OwhpSaveSnapshot(s, path, 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_hr(result, E_WRITE_FAULT);
    assert_non_null(strstr(OwhpGetLastErrorText(), "offset"));
    UINT8 *whole = read_whole(&size);
    assert_int_equal(size, 8);
    assert_memory_equal(whole, "precious", 8);
    free(whole);
    expect_only_image();

    snprintf(name, sizeof(name), "%s/nowhere/image", folder);
    assert_refused(OwhpSaveSnapshot(s, name, 0), E_NOT_FOUND);
    assert_refused(OwhpSaveSnapshot(s, "", 0), E_INVALIDARG);
    assert_refused(OwhpSaveSnapshot(s, NULL, 0), E_POINTER);
    assert_refused(OwhpSaveSnapshot(s, WILD, 0), E_POINTER);
    assert_refused(OwhpSaveSnapshot(s, path, 1), E_INVALIDARG);
    assert_refused(OwhpSaveSnapshot(NULL, path, 0), E_HANDLE);
    memset(name, 'x', sizeof(name));
    assert_refused(OwhpSaveSnapshot(s, name, 0), E_INVALIDARG);
    assert_refused(OwhpLoadSnapshot(g.partition, path, (OWHP_LOAD_FLAGS)4, &s), E_INVALIDARG);
    assert_refused(OwhpLoadSnapshot(g.partition, path, OwhpLoadFlagNone, NULL), E_POINTER);
    assert_refused(OwhpLoadSnapshot(g.partition, NULL, OwhpLoadFlagNone, &s), E_POINTER);
    assert_refused(OwhpLoadSnapshot(NULL, path, OwhpLoadFlagNone, &s), E_HANDLE);
    if (geteuid() != 0) {
        assert_int_equal(chmod(folder, 0500), 0);
        assert_refused(OwhpSaveSnapshot(s, path, 0), E_ACCESSDENIED);
        assert_int_equal(chmod(folder, 0700), 0);
    }
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_refused(OwhpSaveSnapshot(s, path, 0), E_ACCESSDENIED);
    expect_only_image();
    assert_int_equal(rmdir(path), 0);

    /* What is no file is not replaced by one, neither under its own name nor through a link. */
    struct stat st;
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_refused(OwhpSaveSnapshot(s, path, 0), E_ACCESSDENIED);
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/dev/null", path), 0);
    assert_refused(OwhpSaveSnapshot(s, path, 0), E_ACCESSDENIED);
    expect_only_image();
    assert_int_equal(unlink(path), 0);
    assert_ok(OwhpSaveSnapshot(s, path, 0));
    expect_only_image();
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("SNF.1", "H", mapped_from_the_file),
        CASE("SNF.2", "H", filled_in),
        CASE("SNF.3", "H", other_partitions),
        CASE("SNF.4", "H", features),
        CASE("SNF.5", "H", truncated),
        CASE("SNF.6", "H", foreign),
        CASE("SNF.7", "H", damaged_pages),
        CASE("SNF.8", "H", shortened_in_use),
        CASE("SNF.9", "H", mutated),
        CASE("SNF.10", "H", failed_saves),
    };
    return cmocka_run_group_tests_name("snapshot files", tests, make_folder, remove_folder);
}
