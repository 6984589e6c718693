/* Ten thousand partitions that are used and deleted leave nothing behind: no descriptor, no mapping, no memory. */
#include "guest.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PARTITIONS = 10000 };

/* A sanitizer keeps memory that was freed, and its own records. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

struct left {
    long descriptors, mappings, resident; /* the last in pages */
};

static struct left count(void)
{
    struct left left = {0};
    char line[4096];
    DIR *folder = opendir("/proc/self/fd");
    FILE *maps, *statm;
    long size;

    assert_non_null(folder);
    while (readdir(folder))
        left.descriptors++;
    closedir(folder);
    maps = fopen("/proc/self/maps", "re");
    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps))
        left.mappings++;
    fclose(maps);
    statm = fopen("/proc/self/statm", "re");
    assert_non_null(statm);
    assert_int_equal(fscanf(statm, "%ld %ld", &size, &left.resident), 2);
    fclose(statm);
    return left;
}

/* Everything that makes something: memory, consumers, pins, a guest that runs, stores and exits. */
static void one(UINT8 *ram, const UINT8 *code, size_t size)
{
    WHV_PARTITION_HANDLE partition;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    const WHV_REGISTER_NAME names[] = {WHvX64RegisterRip, WHvX64RegisterCs, WHvX64RegisterDs, WHvX64RegisterRflags};
    const WHV_MEMORY_RANGE_ENTRY pinned = {0x2000, 0x1000};
    WHV_REGISTER_VALUE values[4];
    UINT32 processors = 2, consumer;
    UINT64 bitmap;

    memcpy(ram, code, size);
    assert_ok(WHvCreatePartition(&partition));
    assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &processors, 4));
    assert_ok(WHvSetupPartition(partition));
    assert_ok(WHvMapGpaRange(partition, ram, 0, 0x10000, (WHV_MAP_GPA_RANGE_FLAGS)15));
    assert_ok(OwhpCreateDirtyConsumer(partition, 0, 0, OwhpDirtyConsumerFlagAllPages, &consumer));
    assert_ok(WHvAdviseGpaRange(partition, &pinned, 1, WHvAdviseGpaRangeCodePin, NULL, 0));
    assert_ok(WHvCreateVirtualProcessor(partition, 0, 0));
    assert_ok(WHvCreateVirtualProcessor(partition, 1, 0));
    assert_ok(WHvGetVirtualProcessorRegisters(partition, 0, names, 4, values));
    values[0].Reg64 = 0;
    values[1].Segment.Base = values[2].Segment.Base = 0;
    values[1].Segment.Selector = values[2].Segment.Selector = 0;
    assert_ok(WHvSetVirtualProcessorRegisters(partition, 0, names, 4, values));
    assert_ok(WHvRunVirtualProcessor(partition, 0, &exit, sizeof(exit)));
    assert_int_equal(exit.ExitReason, WHvRunVpExitReasonX64Halt);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(partition, 0, 0x10000, &bitmap, 8));
    assert_dirty(bitmap, 2, 1);
    assert_ok(WHvDeletePartition(partition));
}

static void nothing_is_left(void **state)
{
    static const UINT8 code[] = {0xb0, 0x07, 0xa2, 0x00, 0x10, 0xf4}; /* mov al, 7; mov [0x1000], al; hlt */
    UINT8 *ram = aligned_alloc(4096, 0x10000);
    struct left before = {0}, after;

    const unsigned rounds = test_rounds(SANITIZED ? PARTITIONS / 20 : PARTITIONS), warm_up = rounds < 1000 ? rounds / 4 : 300;

    (void)state;
    assert_non_null(ram);
    memset(ram, 0, 0x10000);
    for (unsigned i = 0; i < rounds; i++) {
        if (i == warm_up)
            before = count();
        one(ram, code, sizeof(code));
    }
    after = count();
    print_message("descriptors %ld -> %ld, mappings %ld -> %ld, resident pages %ld -> %ld\n", before.descriptors,
                  after.descriptors, before.mappings, after.mappings, before.resident, after.resident);
    assert_int_equal(after.descriptors, before.descriptors);
    if (!SANITIZED) {
        assert_in_range(after.mappings, 0, before.mappings + 4);
        assert_in_range(after.resident, 0, before.resident + 256); /* 1 MiB: less than 108 bytes a partition */
    }
    free(ram);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("PART-LEAK", "H WHvDeletePartition: frees all", nothing_is_left),
    };
    return cmocka_run_group_tests_name("leak", tests, NULL, NULL);
}
