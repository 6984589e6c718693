/* A loaded snapshot whose ranges others unmapped before it was adopted. */
#include "mem_test.h"

#include "mem/gpa_snapshot.h"

#include <stdlib.h>

static const gpa_t FAR = (gpa_t)1 << 43; /* where nothing was ever mapped: no record has memory for it */

static enum status adopt_one(struct gpa_space *space, const struct gpa_snapshot_range *range, struct gpa_snapshot **out)
{
    struct gpa_snapshot_range *ranges = malloc(sizeof(*ranges));
    struct page_room room = {0};

    assert_non_null(ranges);
    *ranges = *range;
    return gpa_snapshot_adopt(space, ranges, 1, &room, out);
}

static void test_unmapped_meanwhile(void **state)
{
    struct gpa_space *space = gpa_space_create(46);
    uint8_t *host = host_pages(2);
    const struct gpa_snapshot_range range = {.gpa = FAR, .size = PAGES(2), .target = (uintptr_t)host, .flags = RW};
    struct gpa_snapshot *snapshot;
    uint64_t pages;

    (void)state;
    host[PAGE_SIZE] = 1; /* to be marked */
    assert_ok(adopt_one(space, &range, &snapshot));
    assert_status(gpa_snapshot_restore(snapshot, false, &pages), STATUS_GPA_RANGE_NOT_FOUND);
    assert_ok(map(space, PAGES(5), PAGES(2), host, RW)); /* its memory, elsewhere: marks, too */
    assert_status(gpa_snapshot_restore(snapshot, false, &pages), STATUS_GPA_RANGE_NOT_FOUND);
    gpa_snapshot_destroy(snapshot);
    gpa_space_destroy(space);
    free_pages(host, 2);
}

static void test_process_gone_meanwhile(void **state)
{
    struct gpa_space *space = gpa_space_create(46);
    const struct gpa_snapshot_range range = {.gpa = FAR, .size = PAGES(2), .target = 0x100000, .owner = 1, .flags = RW};
    struct gpa_snapshot *snapshot = NULL;

    (void)state;
    assert_status(adopt_one(space, &range, &snapshot), STATUS_GPA_RANGE_NOT_FOUND);
    assert_null(snapshot);
    gpa_space_destroy(space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unmapped_meanwhile),
        cmocka_unit_test(test_process_gone_meanwhile),
    };
    return run_group(tests, array_size(tests));
}
