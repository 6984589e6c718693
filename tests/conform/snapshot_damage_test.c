/*
 * A snapshot file with one byte changed, or cut at one place: every byte of the header, of the list of ranges and of the tables,
 * every few bytes of the processors' states, one of each page. The load is refused with words, and the partition is as before:
 * no memory, the same registers, and the undamaged file still loads.
 */
#include "guest.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, OTHER = 0x10000000, OTHER_SIZE = 80 * PAGE, STATE_STEP = 13, STATE_SIZE = 14368 /* sizeof(struct vcpu_state) */ };
#define E_CORRUPT HRESULT_FROM_WIN32(ERROR_FILE_CORRUPT)

static char path[64];
static int file;

/* ---- a file, and where its parts are (core/snapshot_file.h) ---- */

struct part {
    const char *name;
    UINT64 offset, size, step;
    bool is_data; /* compared only when that is asked for */
};

static UINT64 number_at(UINT64 offset)
{
    UINT64 value = 0;

    assert_int_equal(pread(file, &value, sizeof(value), (off_t)offset), sizeof(value));
    return value;
}

static unsigned find_parts(struct part parts[8])
{
    const UINT64 ranges = number_at(40), count = number_at(48), states = number_at(56), set = number_at(64);
    unsigned n = 0;

    assert_int_equal(count, 2);
    assert_int_equal(set, 3);
    assert_true(number_at(ranges + 24) - states >= 2 * STATE_SIZE);
    parts[n++] = (struct part){"header", 0, 160, 1, false};
    parts[n++] = (struct part){"ranges", ranges, count * 40, 1, false};
    parts[n++] = (struct part){"states", states, 2 * STATE_SIZE, STATE_STEP, false};
    for (UINT64 i = 0; i < count; i++) {
        const UINT64 range = ranges + 40 * i, size = number_at(range + 8), chunks = (size + 64 * PAGE - 1) / (64 * PAGE);
        parts[n++] = (struct part){"table", number_at(range + 24), chunks * 16, 1, false};
        parts[n++] = (struct part){"pages", number_at(range + 32), size, PAGE, true};
    }
    return n;
}

static void write_file(void)
{
    UINT8 *other = host_pages(OTHER_SIZE / PAGE);
    OWHP_SNAPSHOT_HANDLE s;
    struct guest g;

    guest_begin(&g, &(struct guest_options){.processors = 2});
    assert_ok(WHvCreateVirtualProcessor(g.partition, 1, 0));
    memset(other, 0x21, OTHER_SIZE); /* each chunk holds something */
    for (UINT64 at = 0; at < RAM_SIZE; at += 16 * PAGE)
        g.ram[at + 5] = 9;
    assert_ok(WHvMapGpaRange(g.partition, other, OTHER, OTHER_SIZE, WHvMapGpaRangeFlagRead));
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &s));
    assert_ok(OwhpSaveSnapshot(s, path, 0));
    assert_ok(OwhpDestroySnapshot(s));
    guest_end(&g);
    file = open(path, O_RDWR);
    assert_true(file >= 0);
}

static int make_path(void **state)
{
    (void)state;
    strcpy(path, "/tmp/snapshot-damage-XXXXXX");
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state)
{
    (void)state;
    return unlink(path);
}

/* ---- the partition that loads ---- */

static const WHV_REGISTER_NAME names[] = {WHvX64RegisterRip, WHvX64RegisterRax, WHvX64RegisterRflags, WHvX64RegisterCs,
                                          WHvX64RegisterCr0, WHvX64RegisterEfer, WHvX64RegisterXmm0, WHvX64RegisterDr6};
enum { NAMES = sizeof(names) / sizeof(names[0]) };

static void begin_target(struct guest *g)
{
    guest_begin(g, &(struct guest_options){.processors = 2});
    assert_ok(WHvCreateVirtualProcessor(g->partition, 1, 0));
    assert_ok(WHvUnmapGpaRange(g->partition, 0, RAM_SIZE));
    guest_set(g, WHvX64RegisterRax, 0x1234567);
}

static void expect_unchanged(struct guest *g, const WHV_REGISTER_VALUE before[NAMES])
{
    WHV_REGISTER_VALUE now[NAMES];
    OWHP_GPA_RANGE range;
    UINT32 count = 9;

    assert_ok(OwhpEnumerateGpaRanges(g->partition, &range, 1, &count));
    assert_int_equal(count, 0);
    memset(now, 0, sizeof(now));
    assert_ok(WHvGetVirtualProcessorRegisters(g->partition, 0, names, NAMES, now));
    assert_memory_equal(now, before, sizeof(now));
}

static void expect_loads(struct guest *g)
{
    OWHP_SNAPSHOT_HANDLE s;

    assert_ok(OwhpLoadSnapshot(g->partition, path, OwhpLoadFlagVerify, &s));
    assert_ok(OwhpDestroySnapshot(s));
}

static void refuse(struct guest *g, const char *what, UINT64 offset, const WHV_REGISTER_VALUE before[NAMES])
{
    OWHP_SNAPSHOT_HANDLE s;
    const HRESULT result = OwhpLoadSnapshot(g->partition, path, OwhpLoadFlagVerify, &s);

    if (result != E_CORRUPT)
        fail_msg("%s, offset %llu: %08x %s", what, (unsigned long long)offset, (unsigned)result, OwhpGetLastErrorText());
    assert_true(strlen(OwhpGetLastErrorText()) > 20);
    expect_unchanged(g, before);
}

/* ---- cases ---- */

static void one_byte(void **state)
{
    WHV_REGISTER_VALUE before[NAMES];
    struct part parts[8];
    struct guest g;
    unsigned tries = 0;

    (void)state;
    write_file();
    const unsigned count = find_parts(parts);
    begin_target(&g);
    memset(before, 0, sizeof(before));
    assert_ok(WHvGetVirtualProcessorRegisters(g.partition, 0, names, NAMES, before));
    for (unsigned p = 0; p < count; p++)
        for (UINT64 at = 0; at < parts[p].size; at += parts[p].step, tries++) {
            UINT8 good, bad;
            const off_t offset = (off_t)(parts[p].offset + at + (parts[p].is_data ? 5 : 0));
            assert_int_equal(pread(file, &good, 1, offset), 1);
            if (parts[p].is_data && !good)
                continue; /* a page of zeros, which is not looked at: it is a hole */
            bad = good ^ (UINT8)(1u << (at + p) % 8);
            assert_int_equal(pwrite(file, &bad, 1, offset), 1);
            refuse(&g, parts[p].name, (UINT64)offset, before);
            assert_int_equal(pwrite(file, &good, 1, offset), 1);
        }
    print_message("%u damaged files were refused\n", tries);
    expect_loads(&g);
    guest_end(&g);
    close(file);
}

static void one_cut(void **state)
{
    WHV_REGISTER_VALUE before[NAMES];
    struct part parts[8];
    struct guest g;
    struct stat st;
    UINT64 cuts[64];
    unsigned n = 0;

    (void)state;
    write_file();
    const unsigned count = find_parts(parts);
    assert_int_equal(fstat(file, &st), 0);
    UINT8 *whole = malloc((size_t)st.st_size);
    assert_non_null(whole);
    assert_int_equal(pread(file, whole, (size_t)st.st_size, 0), st.st_size);
    begin_target(&g);
    memset(before, 0, sizeof(before));
    assert_ok(WHvGetVirtualProcessorRegisters(g.partition, 0, names, NAMES, before));
    for (unsigned p = 0; p < count; p++) {
        const UINT64 some[] = {parts[p].offset, parts[p].offset + 1, parts[p].offset + parts[p].size / 2,
                               parts[p].offset + parts[p].size - 1, parts[p].offset + parts[p].size};
        for (unsigned i = 0; i < 5; i++)
            if (some[i] < (UINT64)st.st_size)
                cuts[n++] = some[i];
    }
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(ftruncate(file, (off_t)cuts[i]), 0);
        refuse(&g, "cut", cuts[i], before);
        assert_int_equal(ftruncate(file, st.st_size), 0); /* as long as it was, with zeros */
        if (memcmp(whole + cuts[i], (const UINT8[PAGE]){0}, (size_t)((UINT64)st.st_size - cuts[i] < PAGE ? (UINT64)st.st_size - cuts[i] : PAGE)))
            refuse(&g, "cut and filled with zeros", cuts[i], before);
        assert_int_equal(pwrite(file, whole, (size_t)st.st_size, 0), st.st_size);
    }
    expect_loads(&g);
    guest_end(&g);
    free(whole);
    close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("SNF.11", "H", one_byte),
        CASE("SNF.12", "H", one_cut),
    };

    return cmocka_run_group_tests_name("damaged snapshots", tests, make_path, remove_path);
}
