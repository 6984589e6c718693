/* Lists of dirty ranges: patterns of runs and gaps, and capacities, against an array of pages; and arrays that cannot be written,
 * or only in part: no page is lost. */
#include "mem_test.h"
#include "mem_way.h"

#include "mem/gpa_consumer.h"

enum { MODEL = 64 * 150, PER_PAGE = PAGE_SIZE / sizeof(struct gpa_range) };

static const struct gpa_range everything = {0, PAGES(MODEL)};
static const struct gpa_dirty_query first = {GPA_CONSUMER_FIRST, 0, {0, PAGES(MODEL)}};
static uint8_t dirty[MODEL];

static struct gpa_space *new_space(void)
{
    struct gpa_space *space = gpa_space_create(40);

    assert_ok(map(space, 0, PAGES(MODEL), (void *)0x100000, RW | T));
    return space;
}

static void mark(struct gpa_space *space)
{
    for (uint64_t i = 0; i < MODEL; i++)
        if (dirty[i])
            assert_ok(gpa_space_mark_dirty(space, PAGES(i), 1));
}

/* The pages that the consumer would be told. */
static void look(struct gpa_space *space, uint32_t consumer, uint8_t *told)
{
    static uint64_t bitmap[MODEL / 64];
    const struct gpa_dirty_query query = {consumer, GPA_QUERY_PEEK, everything};

    assert_ok(gpa_consumer_bitmap(space, &query, bitmap, sizeof(bitmap), NULL));
    for (uint64_t i = 0; i < MODEL; i++)
        told[i] = bitmap[i / 64] >> i % 64 & 1;
}

static void assert_dirty(struct gpa_space *space, uint32_t consumer)
{
    static uint8_t told[MODEL];

    look(space, consumer, told);
    assert_memory_equal(told, dirty, MODEL);
}

/* ---- patterns ---- */

/* Runs and gaps, each as long as 1 to these many pages. */
static void fill(uint64_t *random, uint64_t run, uint64_t gap)
{
    memset(dirty, 0, sizeof(dirty));
    for (uint64_t i = random_below(random, gap + 1); i < MODEL; i += 1 + random_below(random, gap))
        for (uint64_t n = 1 + random_below(random, run); n && i < MODEL; n--)
            dirty[i++] = 1;
}

static uint64_t next_run(uint64_t at, struct gpa_range *run)
{
    while (at < MODEL && !dirty[at])
        at++;
    const uint64_t start = at;
    while (at < MODEL && dirty[at])
        at++;
    *run = (struct gpa_range){PAGES(start), PAGES(at - start)};
    return at;
}

/* Take all, so many at a time. */
static void take(struct gpa_space *space, size_t capacity)
{
    static struct gpa_range array[MODEL / 2 + 1];
    struct gpa_dirty_list list = {array, capacity, 0, true};
    uint64_t at = 0;
    struct gpa_range run;

    while (list.more) {
        assert_ok(gpa_consumer_list(space, &first, &list));
        assert_true(list.count == capacity || !list.more);
        for (size_t i = 0; i < list.count; i++) {
            at = next_run(at, &run);
            assert_memory_equal(&run, &array[i], sizeof(run));
        }
    }
    next_run(at, &run);
    assert_int_equal(run.size, 0);
}

static void test_patterns(void **state)
{
    static const size_t lengths[] = {1, 2, 5, 30, 64, 65, 200, 3000}, 
                        capacities[] = {1, 2, 3, 32, 35, 36, 37, 256, 257, 300, MODEL / 2};
    struct gpa_space *space = new_space();
    uint64_t random = 5;

    (void)state;
    for (size_t run = 0; run < array_size(lengths); run++)
        for (size_t gap = 0; gap < array_size(lengths); gap++)
            for (size_t c = 0; c < array_size(capacities); c++) {
                fill(&random, lengths[run], lengths[gap]);
                mark(space);
                take(space, capacities[c]);
            }
    gpa_space_destroy(space);
}

/* Stretches with few dirty pages beside stretches with many; a word's worth of pages on either side of a border. */
static void test_few_and_many(void **state)
{
    struct gpa_space *space = new_space();
    uint64_t random = 17;

    (void)state;
    for (int round = 0; round < 400; round++) {
        uint64_t odds = 1;
        for (uint64_t i = 0; i < MODEL; i++) {
            if (i % 64 == 0 && random_below(&random, 20) == 0)
                odds = (uint64_t)1 << random_below(&random, 10);
            dirty[i] = random_below(&random, odds) == 0;
        }
        mark(space);
        take(space, 1 + random_below(&random, MODEL / 2));
    }
    gpa_space_destroy(space);
}

/* ---- bad arrays ---- */

static void take_nothing(struct gpa_space *space, struct gpa_range *array)
{
    struct gpa_dirty_list list = {array, MODEL, 0, false};

    assert_status(gpa_consumer_list(space, &first, &list), STATUS_BAD_POINTER);
}

/* An array whose last page may not be written: so many pages of it can. With one consumer and with two. */
static void bad_after(size_t pages, bool other)
{
    struct gpa_space *space = new_space();
    uint8_t *array = host_pages(pages + 1);
    uint32_t id;

    assert_int_equal(mprotect(array + PAGES(pages), PAGE_SIZE, PROT_NONE), 0);
    if (other)
        assert_ok(gpa_consumer_create(space, everything, 0, &id));
    mark(space);
    take_nothing(space, (struct gpa_range *)(void *)array);
    assert_dirty(space, GPA_CONSUMER_FIRST);
    if (other)
        assert_dirty(space, id);
    take(space, MODEL / 2);
    if (other)
        assert_dirty(space, id);
    free_pages(array, pages + 1);
    gpa_space_destroy(space);
}

static void test_bad_array(void **state)
{
    uint64_t random = 9;

    (void)state;
    arm_guard();
    for (size_t pages = 0; pages * PER_PAGE < MODEL / 4; pages++) {
        fill(&random, 1, 2);
        bad_after(pages, false);
        bad_after(pages, true);
    }
}

/* Few pages, here and there a run over several words, and an array of which a part can be written: any number of entries, and a
 * half. */
static void test_bad_array_of_few(void **state)
{
    static const size_t runs[] = {1, 3, 150};
    struct gpa_space *space = new_space();
    uint8_t *array = host_pages(2);
    uint64_t random = 13;

    (void)state;
    arm_guard();
    assert_int_equal(mprotect(array + PAGE_SIZE, PAGE_SIZE, PROT_NONE), 0);
    for (size_t run = 0; run < array_size(runs); run++)
        for (size_t bytes = 0; bytes < 24 * sizeof(struct gpa_range); bytes += 8) {
            fill(&random, runs[run], 250);
            mark(space);
            take_nothing(space, (struct gpa_range *)(void *)(array + PAGE_SIZE - bytes));
            assert_dirty(space, GPA_CONSUMER_FIRST);
            take(space, 1 + random_below(&random, 100));
        }
    free_pages(array, 2);
    gpa_space_destroy(space);
}

/* An array that is the same memory twice does not remember what was written first: then clean pages are reported, but no dirty
 * one is lost. */
static void test_forgetful_array(void **state)
{
    static uint8_t told[MODEL];
    struct gpa_space *space = new_space();
    uint8_t *array = host_pages(3);
    int memory = memfd_create("array", 0);
    uint64_t random = 11;

    (void)state;
    arm_guard();
    assert_int_equal(ftruncate(memory, PAGE_SIZE), 0);
    for (int i = 0; i < 2; i++)
        assert_ptr_equal(mmap(array + PAGES(i), PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory, 0),
                         array + PAGES(i));
    assert_int_equal(mprotect(array + PAGES(2), PAGE_SIZE, PROT_NONE), 0);
    fill(&random, 1, 2);
    mark(space);
    take_nothing(space, (struct gpa_range *)(void *)array);
    look(space, GPA_CONSUMER_FIRST, told);
    for (uint64_t i = 0; i < MODEL; i++)
        assert_true(told[i] >= dirty[i]);
    close(memory);
    free_pages(array, 3);
    gpa_space_destroy(space);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_bad_array),
        cmocka_unit_test(test_bad_array_of_few),
        cmocka_unit_test(test_few_and_many),
        cmocka_unit_test(test_forgetful_array),
    };
    return use_way(argc, argv) ? run_group(tests, array_size(tests)) : SKIPPED;
}
