/* gpa_range.h: half-open ranges at the edges of the number range. */
#include "mem_test.h"

static void test_fits(void **state)
{
    (void)state;
    assert_true(range_fits(0, 0, 0));
    assert_true(range_fits(0, 4096, 4096));
    assert_true(range_fits(4096, 0, 4096));
    assert_false(range_fits(4096, 1, 4096));
    assert_false(range_fits(4097, 0, 4096));
    assert_false(range_fits(0, 4097, 4096));
    assert_false(range_fits(UINT64_MAX, 2, 4096));
    assert_false(range_fits(4095, UINT64_MAX, 4096)); /* the sum would wrap to 4094 */
}

static void test_wraps(void **state)
{
    (void)state;
    assert_false(range_wraps(UINT64_MAX, 0));
    assert_false(range_wraps(UINT64_MAX, 1)); /* ends at 2^64 exactly */
    assert_true(range_wraps(UINT64_MAX, 2));
    assert_false(range_wraps(0, UINT64_MAX));
    assert_false(range_wraps(1, UINT64_MAX));
    assert_true(range_wraps(2, UINT64_MAX));
}

static void test_contains(void **state)
{
    (void)state;
    struct gpa_range range = {0x1000, 0x2000};
    assert_false(range_contains(range, 0xfff));
    assert_true(range_contains(range, 0x1000));
    assert_true(range_contains(range, 0x2fff));
    assert_false(range_contains(range, 0x3000));
    assert_false(range_contains(range, UINT64_MAX));
    assert_false(range_contains((struct gpa_range){0x1000, 0}, 0x1000));
}

static void test_intersect(void **state)
{
    (void)state;
    struct gpa_range a = {0x1000, 0x3000};
    struct gpa_range c = range_intersect(a, (struct gpa_range){0x2000, 0x8000});
    assert_int_equal(c.gpa, 0x2000);
    assert_int_equal(c.size, 0x2000);
    c = range_intersect((struct gpa_range){0, 0x8000}, a);
    assert_int_equal(c.gpa, 0x1000);
    assert_int_equal(c.size, 0x3000);
    assert_int_equal(range_intersect(a, (struct gpa_range){0x4000, 0x1000}).size, 0);
    assert_int_equal(range_intersect((struct gpa_range){0, 0x1000}, a).size, 0);
}

static void test_round_out(void **state)
{
    (void)state;
    struct gpa_range r = range_round_out((struct gpa_range){0x1fff, 2});
    assert_int_equal(r.gpa, 0x1000);
    assert_int_equal(r.size, 0x2000);
    r = range_round_out((struct gpa_range){0x1000, 0x1000});
    assert_int_equal(r.gpa, 0x1000);
    assert_int_equal(r.size, 0x1000);
}

static void test_alignment(void **state)
{
    (void)state;
    assert_true(page_aligned(0));
    assert_true(page_aligned(0x7000));
    assert_false(page_aligned(0x7001));
    assert_false(page_aligned(0x7800));
    assert_int_equal(pages_of(0x7000), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fits),      cmocka_unit_test(test_wraps),
        cmocka_unit_test(test_contains),  cmocka_unit_test(test_intersect),
        cmocka_unit_test(test_round_out), cmocka_unit_test(test_alignment),
    };
    return run_group(tests, array_size(tests));
}
