/* extent_tree.h against an array with one value a number. */
#include "mem_test.h"

#include "mem/extent_tree.h"

#define NUMBERS 16384

/* What the array says about each number: target 0 is a hole. */
struct cell {
    uint64_t target;
    uint32_t attributes;
};

static struct cell model[NUMBERS];

static void model_set(const struct extent *e)
{
    for (uint64_t i = 0; i < e->size; i++)
        model[e->start + i] = (struct cell){e->target + i, e->attributes};
}

static void model_clear(uint64_t start, uint64_t size)
{
    memset(model + start, 0, size * sizeof(model[0]));
}

static bool continues(uint64_t at)
{
    return at && at < NUMBERS && model[at].target && model[at - 1].target + 1 == model[at].target &&
           model[at - 1].attributes == model[at].attributes;
}

static bool both_holes(uint64_t at)
{
    return at && at < NUMBERS && !model[at].target && !model[at - 1].target;
}

/* The extent or hole around `at`, by the array. */
static struct extent model_find(uint64_t at)
{
    uint64_t start = at, end = at + 1;
    bool (*same)(uint64_t) = model[at].target ? continues : both_holes;
    while (same(start))
        start--;
    while (same(end))
        end++;
    if (!model[at].target)
        return (struct extent){start, end == NUMBERS ? UINT64_MAX - start : end - start, 0, 0,
                               0};
    return (struct extent){start, end - start, model[start].target, 0, model[at].attributes};
}

static void assert_same(const struct extent *got, const struct extent *want, uint64_t at)
{
    if (got->start != want->start || got->size != want->size || got->target != want->target ||
        got->attributes != want->attributes)
        fail_msg("around %lu: [%lu +%lu] -> %lu/%u, expected [%lu +%lu] -> %lu/%u", at,
                 got->start, got->size, got->target, got->attributes, want->start, want->size,
                 want->target, want->attributes);
}

static void compare_all(const struct extent_tree *tree)
{
    static struct extent list[NUMBERS];
    uint64_t count = 0, total = 0;
    size_t listed = extent_tree_list(tree, 0, list, NUMBERS);

    for (uint64_t at = 0; at < NUMBERS;) {
        struct extent got, want = model_find(at);
        assert_int_equal(extent_tree_find(tree, at, &got), model[at].target != 0);
        assert_same(&got, &want, at);
        if (model[at].target) {
            assert_true(count < listed);
            assert_same(&list[count], &want, at);
            count++;
            total += want.size;
        }
        at = want.size > NUMBERS ? NUMBERS : want.start + want.size;
    }
    assert_int_equal(listed, count);
    assert_int_equal(tree->count, count);
    assert_int_equal(tree->total, total);
}

/* Attributes are 1 or 2: the other one, or (by 1) always 1, so that neighbours join. */
static uint32_t other_of(uint32_t attributes, uint32_t by)
{
    return by == 1 ? 1 : 3 - attributes;
}

static void model_update(uint64_t start, uint64_t size, uint32_t by)
{
    for (uint64_t i = start; i < start + size; i++)
        model[i].attributes = model[i].target ? other_of(model[i].attributes, by) : 0;
}

/* Short extents make a deep tree, long ones clear swathes of it. Returns the greatest height. */
static unsigned random_run(uint64_t seed, uint64_t long_every, unsigned steps)
{
    struct extent_tree tree = {0};
    uint64_t random = seed;
    unsigned highest = 0;
    memset(model, 0, sizeof(model));

    for (unsigned i = 0; i < steps; i++) {
        uint64_t longest = random_below(&random, long_every) ? 4 : NUMBERS;
        struct extent e = {.start = random_below(&random, NUMBERS)};
        e.size = 1 + random_below(&random, longest);
        e.size = e.size < NUMBERS - e.start ? e.size : NUMBERS - e.start;
        e.attributes = 1 + (uint32_t)random_below(&random, 2);
        /* Few different offsets, so that neighbours often continue each other. */
        e.target = NUMBERS * (1 + random_below(&random, 3)) + e.start;

        assert_true(extent_tree_reserve(&tree, 1));
        if (random_below(&random, 8) == 0) {
            extent_tree_update(&tree, e.start, e.size, other_of, e.attributes);
            model_update(e.start, e.size, e.attributes);
        } else if (random_below(&random, 3) == 0) {
            extent_tree_clear(&tree, e.start, e.size);
            model_clear(e.start, e.size);
        } else {
            extent_tree_set(&tree, &e);
            model_set(&e);
        }
        highest = tree.height > highest ? tree.height : highest;
        uint64_t at = random_below(&random, NUMBERS);
        struct extent got, want = model_find(at);
        extent_tree_find(&tree, at, &got);
        assert_same(&got, &want, at);
        if (i % 512 == 0)
            compare_all(&tree);
        if (i % 1000 == 0)
            extent_tree_trim(&tree);
    }
    compare_all(&tree);
    extent_tree_fini(&tree);
    return highest;
}

static void test_random_short(void **state)
{
    (void)state;
    assert_true(random_run(1, 100000, 200000) >= 2);
}

static void test_random_mixed(void **state)
{
    (void)state;
    assert_true(random_run(2, 1000, 200000) >= 2);
}

static void test_random_long(void **state)
{
    (void)state;
    random_run(3, 3, 20000);
}

static void test_empty(void **state)
{
    (void)state;
    struct extent_tree tree = {0};
    struct extent e;
    extent_tree_clear(&tree, 0, 100);
    assert_false(extent_tree_find(&tree, 7, &e));
    assert_int_equal(e.start, 0);
    assert_int_equal(e.size, UINT64_MAX);
    assert_int_equal(extent_tree_list(&tree, 0, &e, 1), 0);
    extent_tree_fini(&tree);
}

/* A million extents in ascending, descending and scattered order; then nearly all away in one call. */
static void million(uint64_t (*place)(uint64_t))
{
    enum { COUNT = 1000000 };
    struct extent_tree tree = {0};
    struct extent e;

    for (uint64_t i = 0; i < COUNT; i++) {
        assert_true(extent_tree_reserve(&tree, 1));
        extent_tree_set(&tree, &(struct extent){place(i) * 2, 1, i + 1, 0, 1});
    }
    assert_int_equal(tree.count, COUNT);
    assert_true(tree.height <= 5);
    for (uint64_t i = 0; i < COUNT; i++) {
        assert_true(extent_tree_find(&tree, place(i) * 2, &e));
        assert_int_equal(e.target, i + 1);
        assert_false(extent_tree_find(&tree, place(i) * 2 + 1, &e));
    }
    /* All but a few, in the middle of it. */
    assert_true(extent_tree_reserve(&tree, 1));
    extent_tree_clear(&tree, 1000, 2 * COUNT - 2000);
    extent_tree_trim(&tree);
    assert_int_equal(tree.count, 1000);
    assert_true(tree.height <= 2);
    extent_tree_fini(&tree);
}

static uint64_t ascending(uint64_t i)
{
    return i;
}

static uint64_t descending(uint64_t i)
{
    return 999999 - i;
}

static uint64_t scattered(uint64_t i)
{
    return i * 611953 % 1000000; /* a prime that does not divide the count: a permutation */
}

static void test_million(void **state)
{
    (void)state;
    million(ascending);
    million(descending);
    million(scattered);
}

/* Whatever the order, extents share leaves: also downwards behind a full one, as memory that grows down behind a guest's. */
static void test_descending(void **state)
{
    enum { COUNT = 20000, FIRST = 31 };
    struct extent_tree tree = {0};
    struct extent e = {.size = 1, .target = 5, .attributes = 1};

    (void)state;
    for (unsigned i = 0; i < FIRST + COUNT; i++) {
        e.start = i < FIRST ? 2 * i : 1000000 - 2 * i;
        assert_true(extent_tree_reserve(&tree, 1));
        extent_tree_set(&tree, &e);
    }
    assert_int_equal(tree.count, FIRST + COUNT);
    assert_in_range(tree.height, 1, 2); /* 31 to a leaf, 63 to a node: one level less than with a leaf each */
    for (unsigned i = FIRST; i < FIRST + COUNT; i++) {
        assert_true(extent_tree_find(&tree, 1000000 - 2 * i, &e));
        assert_false(extent_tree_find(&tree, 1000000 - 2 * i + 1, &e));
    }
    extent_tree_fini(&tree);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),        cmocka_unit_test(test_random_short),
        cmocka_unit_test(test_random_mixed), cmocka_unit_test(test_descending), cmocka_unit_test(test_random_long),
        cmocka_unit_test(test_million),
    };
    return run_group(tests, array_size(tests));
}
