/* Restores while other threads run a processor, change mappings, read, write and take snapshots. */
#include "guest.h"

#include <pthread.h>
#include <string.h>

enum { PAGE = 4096, OTHER = 0x10000000, ROUNDS = 400 };
#define RW (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite)

struct scene {
    struct guest g;
    UINT8 *other;
    OWHP_SNAPSHOT_HANDLE snapshot;
    _Atomic bool over;
    _Atomic unsigned mapped, written, taken, ran;
};

static const WHV_ACCESS_GPA_CONTROLS controls;

static void *change_mappings(void *context)
{
    struct scene *s = context;

    while (!s->over) {
        assert_ok(WHvMapGpaRange(s->g.partition, s->other, OTHER, 16 * PAGE, RW));
        assert_ok(WHvUnmapGpaRange(s->g.partition, OTHER + 4 * PAGE, PAGE));
        s->mapped++;
    }
    return NULL;
}

static void *read_and_write(void *context)
{
    struct scene *s = context;
    OWHP_SNAPSHOT_INFO info;
    UINT64 bitmap[8];
    UINT8 byte = 0;

    while (!s->over) {
        byte++;
        assert_ok(WHvWriteGpaRange(s->g.partition, 0, 0x100000 + byte * PAGE % 0x80000, controls, &byte, 1));
        assert_ok(WHvReadGpaRange(s->g.partition, 0, 0x100000, controls, &byte, 1));
        assert_ok(WHvQueryGpaRangeDirtyBitmap(s->g.partition, 0, 512 * PAGE, bitmap, sizeof(bitmap)));
        assert_ok(OwhpQuerySnapshot(s->snapshot, &info));
        s->written++;
    }
    return NULL;
}

static void *take_more(void *context)
{
    struct scene *s = context;
    OWHP_SNAPSHOT_HANDLE t;

    while (!s->over) {
        HRESULT result = OwhpCreateSnapshot(s->g.partition, 0, &t);
        if (FAILED(result)) {
            assert_int_equal(result, WHV_E_INVALID_VP_STATE);
            continue;
        }
        result = OwhpRestoreSnapshot(s->g.partition, t, OwhpRestoreFlagNone, NULL);
        assert_true(SUCCEEDED(result) || result == WHV_E_INVALID_VP_STATE || result == WHV_E_GPA_RANGE_NOT_FOUND);
        assert_ok(OwhpDestroySnapshot(t));
        s->taken++;
    }
    return NULL;
}

static void *run_guest(void *context)
{
    struct scene *s = context;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    while (!s->over) {
        HRESULT result = WHvRunVirtualProcessor(s->g.partition, 0, &exit, sizeof(exit));
        assert_true(SUCCEEDED(result));
        s->ran++;
    }
    return NULL;
}

static void everybody(void **state)
{
    static void *(*const work[])(void *) = {change_mappings, read_and_write, take_more, run_guest};
    struct scene s = {.other = host_pages(16)};
    pthread_t threads[4];
    unsigned good = 0, running = 0, otherwise = 0;
    UINT8 *copy = host_pages(RAM_SIZE / PAGE);

    (void)state;
    guest_begin(&s.g, NULL);
    guest_code(&s.g, 0xfe, 0x06, 0x00, 0x50, 0xfe, 0x06, 0x00, 0x60, 0xf4, 0xeb, 0xf5);
    OWHP_SNAPSHOT_HANDLE keep;
    assert_ok(OwhpCreateSnapshot(s.g.partition, 0, &keep));
    s.snapshot = keep;
    memcpy(copy, s.g.ram, RAM_SIZE);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, work[i], &s);
    for (unsigned i = 0; good < ROUNDS || !s.mapped || !s.written || !s.ran; i++) {
        HRESULT result = OwhpRestoreSnapshot(s.g.partition, keep, i % 2 ? OwhpRestoreFlagMappings : OwhpRestoreFlagNone, NULL);
        good += SUCCEEDED(result);
        running += result == WHV_E_INVALID_VP_STATE;
        otherwise += result == WHV_E_GPA_RANGE_NOT_FOUND;
        assert_true(SUCCEEDED(result) || result == WHV_E_INVALID_VP_STATE || result == WHV_E_GPA_RANGE_NOT_FOUND);
    }
    s.over = true;
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_ok(OwhpRestoreSnapshot(s.g.partition, keep, OwhpRestoreFlagMappings, NULL));
    assert_memory_equal(s.g.ram, copy, RAM_SIZE);
    print_message("%u restores, %u while it ran, %u mapped otherwise; %u maps, %u writes, %u snapshots, %u runs\n", good, running,
                  otherwise, s.mapped, s.written, s.taken, s.ran);
    assert_ok(OwhpDestroySnapshot(keep));
    guest_end(&s.g);
}

/* A partition and its snapshots go away at the same time. */
static void *destroy_it(void *context)
{
    assert_ok(OwhpDestroySnapshot(context));
    return NULL;
}

static void ends_together(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        struct guest g;
        OWHP_SNAPSHOT_HANDLE a, b;
        pthread_t thread;

        guest_begin(&g, NULL);
        assert_ok(OwhpCreateSnapshot(g.partition, 0, &a));
        assert_ok(OwhpCreateSnapshot(g.partition, 0, &b));
        pthread_create(&thread, NULL, destroy_it, i & 1 ? a : b);
        guest_end(&g);
        assert_ok(OwhpDestroySnapshot(i & 1 ? b : a));
        pthread_join(thread, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("SNT.1", "H", everybody),
        CASE("SNT.2", "H", ends_together),
    };
    return cmocka_run_group_tests_name("snapshots and threads", tests, NULL, NULL);
}
