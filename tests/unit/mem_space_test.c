/* gpa_space.h: argument rules, and map, replace, split, unmap against an array of pages. */
#include "mem_test.h"

#define BITS 36

static int setup(void **state)
{
    *state = gpa_space_create(BITS);
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    gpa_space_destroy(*state);
    return 0;
}

static void test_width(void **state)
{
    (void)state;
    assert_null(gpa_space_create(31));
    assert_null(gpa_space_create(53));
    assert_null(gpa_space_create(0));
    for (unsigned bits = 32; bits <= 52; bits++) {
        struct gpa_space *space = gpa_space_create(bits);
        assert_non_null(space);
        assert_int_equal(gpa_space_limit(space), (gpa_t)1 << bits);
        gpa_space_destroy(space);
    }
    gpa_space_destroy(NULL);
}

/* ---- argument rules ---- */

#define LIMIT ((gpa_t)1 << BITS)
#define HOST  ((void *)0x10000000)

static void test_map_arguments(void **state)
{
    struct gpa_space *space = *state;
    static const struct {
        gpa_t gpa;
        uint64_t size;
        uintptr_t host;
        uint32_t flags;
        const char *says;
    } rows[] = {
        {0x1001, 0x1000, 0x1000, RW, "guest address is not a multiple"},
        {0x1800, 0x1000, 0x1000, RW, "guest address is not a multiple"},
        {0x1000, 0x1001, 0x1000, RW, "size is not a multiple"},
        {0x1000, 0x800, 0x1000, RW, "size is not a multiple"},
        {0x1000, 0, 0x1000, RW, "size is zero"},
        {0x1000, 0x1000, 0x1001, RW, "host address 0x1001 is not a multiple"},
        {0x1000, 0x1000, 0, RW, "host address is null"},
        {LIMIT, 0x1000, 0x1000, RW, "physical address width of 36 bits"},
        {LIMIT - 0x1000, 0x2000, 0x1000, RW, "physical address width"},
        {0, LIMIT + 0x1000, 0x1000, RW, "physical address width"},
        {UINT64_MAX - 0xfff, 0x1000, 0x1000, RW, "physical address width"},
        {UINT64_MAX - 0xfff, 0x2000, 0x1000, RW, "physical address width"},
        {0x1000, UINT64_MAX - 0xfff, 0x1000, RW, "physical address width"},
        {0x1000, 0x2000, UINT64_MAX - 0xfff, RW, "wraps around"},
        {0x1000, 0x1000, 0x1000, GPA_WRITE, "without read"},
        {0x1000, 0x1000, 0x1000, GPA_EXECUTE, "without read"},
        {0x1000, 0x1000, 0x1000, GPA_WRITE | GPA_EXECUTE, "without read"},
        {0x1000, 0x1000, 0x1000, GPA_WRITE | T, "without read"},
        {0x1000, 0x1000, 0x1000, RW | 0x10, "unknown flags 0x10"},
        {0x1000, 0x1000, 0x1000, 0x80000000, "unknown flags 0x80000000"},
    };
    for (size_t i = 0; i < array_size(rows); i++) {
        last_error_clear();
        assert_status(map(space, rows[i].gpa, rows[i].size, (void *)rows[i].host, rows[i].flags),
                      STATUS_INVALID_ARGUMENT);
        if (!strstr(last_error_text(), rows[i].says))
            fail_msg("row %zu: \"%s\" does not say \"%s\"", i, last_error_text(), rows[i].says);
    }
    assert_int_equal(gpa_space_range_count(space), 0);
    assert_int_equal(gpa_space_mapped_pages(space), 0);
}

static void test_map_legal(void **state)
{
    struct gpa_space *space = *state;
    static const uint32_t legal[] = {0, R, RW, RX, RWX, T, R | T, RW | T, RX | T, RWX | T};
    for (size_t i = 0; i < array_size(legal); i++) {
        struct gpa_view view;
        assert_ok(map(space, 0x5000, 0x1000, HOST, legal[i]));
        assert_true(gpa_space_find(space, 0x5abc, &view));
        assert_int_equal(view.flags, legal[i]);
        assert_int_equal(view.dirty != NULL, (legal[i] & T) != 0);
        assert_int_equal(gpa_space_range_count(space), 1);
    }
    assert_ok(map(space, 0, LIMIT, HOST, RWX));                                      /* all of it */
    assert_ok(map(space, LIMIT - 0x1000, 0x1000, (void *)(UINTPTR_MAX - 0x1fff), R)); /* both ends */
    assert_status(map(space, LIMIT - 0x1000, 0x1000, (void *)(UINTPTR_MAX - 0xfff), R), STATUS_INVALID_ARGUMENT); /* 2^64 is none */
}

static void test_unmap_arguments(void **state)
{
    struct gpa_space *space = *state;
    assert_ok(map(space, 0x1000, 0x3000, HOST, RW));
    assert_status(gpa_space_unmap(space, 0x1001, 0x1000), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_unmap(space, 0x1000, 0x800), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_unmap(space, 0x1000, 0), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_unmap(space, LIMIT, 0x1000), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_unmap(space, 0x1000, UINT64_MAX - 0xfff), STATUS_INVALID_ARGUMENT);
    assert_int_equal(gpa_space_mapped_pages(space), 3);
    assert_ok(gpa_space_unmap(space, 0x100000, 0x1000)); /* nothing there */
    assert_ok(gpa_space_unmap(space, 0, LIMIT));         /* mostly nothing there */
    assert_int_equal(gpa_space_mapped_pages(space), 0);
    assert_ok(gpa_space_unmap(space, 0, LIMIT));
}

/* ---- lookup ---- */

static void test_views(void **state)
{
    struct gpa_space *space = *state;
    struct gpa_view view;
    assert_ok(map(space, 0x10000, 0x4000, HOST, RW | T));

    assert_true(gpa_space_find(space, 0x12345, &view));
    assert_int_equal(view.gpa, 0x10000);
    assert_int_equal(view.size, 0x4000);
    assert_ptr_equal(view.host, HOST);
    assert_ptr_equal(gpa_view_host(&view, 0x12345), (char *)HOST + 0x2345);

    assert_false(gpa_space_find(space, 0xffff, &view)); /* the hole before */
    assert_int_equal(view.gpa, 0);
    assert_int_equal(view.size, 0x10000);
    assert_int_equal(view.flags, 0);
    assert_null(view.host);
    assert_null(view.dirty);
    assert_false(gpa_space_find(space, 0x14000, &view)); /* the hole behind, up to the limit */
    assert_int_equal(view.gpa, 0x14000);
    assert_int_equal(view.size, LIMIT - 0x14000);
    assert_false(gpa_space_find(space, LIMIT, &view)); /* beyond the space */
    assert_int_equal(view.gpa, LIMIT);
    assert_true(UINT64_MAX - view.gpa < view.size);
    assert_false(gpa_space_find(space, UINT64_MAX, &view));
    assert_int_equal(view.gpa, LIMIT);
}

/* Neighbours that continue each other are one; a page of other rights splits, and heals. */
static void test_split_and_merge(void **state)
{
    struct gpa_space *space = *state;
    uint8_t *host = HOST;
    struct gpa_mapping list[4];

    assert_ok(map(space, 0x2000, 0x2000, host + 0x2000, RX));
    assert_ok(map(space, 0, 0x2000, host, RX));
    assert_ok(map(space, 0x4000, 0x4000, host + 0x4000, RX));
    assert_int_equal(gpa_space_range_count(space), 1);
    assert_ok(map(space, 0x3000, 0x1000, host + 0x3000, RWX));
    assert_int_equal(gpa_space_list(space, 0, list, 4), 3);
    assert_int_equal(list[1].gpa, 0x3000);
    assert_int_equal(list[1].flags, RWX);
    assert_int_equal(list[2].gpa, 0x4000);
    assert_ptr_equal(list[2].host, host + 0x4000);
    assert_int_equal(gpa_space_list(space, 0x3fff, list, 4), 2);
    assert_int_equal(gpa_space_list(space, 0, list, 2), 2);
    assert_ok(map(space, 0x3000, 0x1000, host + 0x3000, RX));
    assert_int_equal(gpa_space_range_count(space), 1);
    assert_int_equal(gpa_space_list(space, 0x8000, list, 4), 0);
}

static void test_terabyte(void **state)
{
    (void)state;
    struct gpa_space *space = gpa_space_create(52);
    struct gpa_view view;
    uint64_t size = (uint64_t)1 << 40, count;
    gpa_t gpa = ((gpa_t)3 << 42) - size / 2; /* across two windows of the dirty record */
    void *host = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (host == MAP_FAILED) {
        print_message("no terabyte of addresses to be had here: a host address stands in for it\n");
        host = HOST;
    }
    assert_ok(map(space, gpa, size, host, RWX | T));
    assert_int_equal(gpa_space_mapped_pages(space), size >> 12);
    assert_ok(gpa_space_peek_dirty(space, gpa, size, NULL, 0, &count));
    assert_int_equal(count, 0);
    assert_true(gpa_space_find(space, gpa + size - 1, &view));
    gpa_view_mark_dirty(&view, gpa + size - 1);
    gpa_view_mark_dirty(&view, gpa);
    gpa_view_mark_dirty(&view, gpa + size / 2);
    assert_ok(gpa_space_peek_dirty(space, gpa, size, NULL, 0, &count));
    assert_int_equal(count, 3);
    assert_ok(gpa_space_query_dirty(space, gpa, size, NULL, 0));
    assert_ok(gpa_space_peek_dirty(space, gpa, size, NULL, 0, &count));
    assert_int_equal(count, 0);
    assert_ok(gpa_space_unmap(space, gpa + 0x1000, size - 0x2000));
    assert_int_equal(gpa_space_mapped_pages(space), 2);
    if (host != HOST)
        munmap(host, size);
    gpa_space_destroy(space);
}

/* ---- the model ---- */

#define MODEL_PAGES 2048

struct page {
    uint64_t host; /* 0: not mapped */
    uint32_t flags;
    bool dirty;
};

static struct page model[MODEL_PAGES];
static unsigned holds, releases;
static struct gpa_change last_change;

static void count_hold(void *ctx)
{
    (void)ctx;
    assert_int_equal(holds, releases); /* holds do not nest */
    holds++;
}

static void count_release(void *ctx, const struct gpa_change *change)
{
    (void)ctx;
    releases++;
    last_change = *change;
}

static void check_page(const struct gpa_space *space, uint64_t i)
{
    struct gpa_view view;
    gpa_t gpa = PAGES(i);
    bool found = gpa_space_find(space, gpa + 17, &view);
    if (found != (model[i].host != 0) || gpa - view.gpa >= view.size)
        fail_msg("page %lu: found %d, host should be %lx", i, found, model[i].host);
    if (found &&
        ((uint64_t)gpa_view_host(&view, gpa) != model[i].host || view.flags != model[i].flags))
        fail_msg("page %lu: host %p flags %x, expected %lx %x", i,
                 (void *)gpa_view_host(&view, gpa), view.flags, model[i].host, model[i].flags);
    /* The whole view must be as the model says. */
    gpa_t last = view.gpa + view.size - PAGE_SIZE;
    uint64_t j = last < PAGES(MODEL_PAGES) ? pages_of(last) : MODEL_PAGES - 1;
    assert_int_equal(model[j].host != 0, found);
    assert_int_equal(model[pages_of(view.gpa)].host != 0, found);
}

static void model_map(uint64_t first, uint64_t n, uint64_t host, uint32_t flags)
{
    for (uint64_t i = 0; i < n; i++)
        model[first + i] = (struct page){host ? host + PAGES(i) : 0, flags, false};
}

static void check_dirty(struct gpa_space *space, uint64_t first, uint64_t n)
{
    static uint64_t bitmap[MODEL_PAGES / 64 + 1];
    uint64_t words = (n + 63) / 64, count = 0;
    bool tracked = true, any = false;
    unsigned before = holds;

    for (uint64_t i = first; i < first + n; i++) {
        tracked &= model[i].host && model[i].flags & T;
        any |= model[i].dirty;
        count += model[i].dirty;
    }
    memset(bitmap, 0xa5, sizeof(bitmap));
    uint64_t got = 0;
    enum status peeked = gpa_space_peek_dirty(space, PAGES(first), PAGES(n), NULL, 0, &got);
    enum status queried = gpa_space_query_dirty(space, PAGES(first), PAGES(n), bitmap, words * 8);
    assert_int_equal(bitmap[words], 0xa5a5a5a5a5a5a5a5);
    if (!tracked) {
        assert_status(peeked, STATUS_GPA_RANGE_NOT_FOUND);
        assert_status(queried, STATUS_GPA_RANGE_NOT_FOUND);
        assert_int_equal(holds, before);
        return;
    }
    assert_ok(peeked);
    assert_ok(queried);
    assert_int_equal(got, count);
    assert_int_equal(holds - before, any); /* a clean range disturbs nobody */
    for (uint64_t i = 0; i < words * 64; i++) {
        bool bit = bitmap[i / 64] >> (i % 64) & 1;
        if (bit != (i < n && model[first + i].dirty))
            fail_msg("query of page %lu +%lu: bit %lu is %d", first, n, i, bit);
    }
    if (any) {
        assert_int_equal(last_change.kind, GPA_CHANGE_DIRTY_CLEAR);
        assert_int_equal(last_change.range.gpa, PAGES(first));
        assert_int_equal(last_change.range.size, PAGES(n));
    }
    for (uint64_t i = first; i < first + n; i++)
        model[i].dirty = false;
}

static void model_step(struct gpa_space *space, uint64_t *random)
{
    static const uint32_t flags[] = {0, R, RW, RWX, RWX | T, RW | T, RW | T, RW | T, RW | T};
    uint64_t first = random_below(random, MODEL_PAGES);
    uint64_t longest = random_below(random, 8) ? 40 : MODEL_PAGES;
    uint64_t n = 1 + random_below(random, longest);
    n = n < MODEL_PAGES - first ? n : MODEL_PAGES - first;
    uint64_t what = random_below(random, 16);

    if (what < 5) {
        uint32_t f = flags[random_below(random, array_size(flags))];
        uint64_t host = 0x7000000000 + PAGES(random_below(random, 3) * MODEL_PAGES + first);
        assert_ok(map(space, PAGES(first), PAGES(n), (void *)host, f));
        model_map(first, n, host, f);
        assert_int_equal(last_change.kind, GPA_CHANGE_MAP);
    } else if (what < 7) {
        assert_ok(gpa_space_unmap(space, PAGES(first), PAGES(n)));
        model_map(first, n, 0, 0);
        assert_int_equal(last_change.kind, GPA_CHANGE_UNMAP);
        assert_int_equal(last_change.range.gpa, PAGES(first));
        assert_int_equal(last_change.range.size, PAGES(n));
    } else if (what < 13) { /* a processor stores */
        struct gpa_view view;
        if (gpa_space_find(space, PAGES(first), &view))
            gpa_view_mark_dirty(&view, PAGES(first) + 5);
        model[first].dirty = model[first].flags & T;
    } else if (what < 14) { /* the host stored */
        bool tracked = true;
        for (uint64_t i = 0; i < n; i++)
            tracked &= model[first + i].host && model[first + i].flags & T;
        assert_status(gpa_space_mark_dirty(space, PAGES(first) + 1, PAGES(n) - 2),
                      tracked ? STATUS_OK : STATUS_GPA_RANGE_NOT_FOUND);
        for (uint64_t i = 0; tracked && i < n; i++)
            model[first + i].dirty = true;
    } else {
        check_dirty(space, first, n);
    }
}

static void check_all(struct gpa_space *space)
{
    uint64_t mapped = 0;
    for (uint64_t i = 0; i < MODEL_PAGES; i++) {
        check_page(space, i);
        mapped += model[i].host != 0;
    }
    assert_int_equal(gpa_space_mapped_pages(space), mapped);
}

static void test_model(void **state)
{
    struct gpa_space *space = *state;
    struct gpa_listener listener = {count_hold, count_release, NULL, NULL, NULL};
    uint64_t random = 4;

    memset(model, 0, sizeof(model));
    gpa_space_add_listener(space, &listener);
    for (unsigned i = 0; i < 100000; i++) {
        model_step(space, &random);
        assert_int_equal(holds, releases);
        check_page(space, random_below(&random, MODEL_PAGES));
        if (i % 512 == 0)
            check_all(space);
    }
    check_all(space);
    gpa_space_remove_listener(space, &listener);
    unsigned before = holds;
    assert_ok(gpa_space_unmap(space, 0, LIMIT));
    assert_int_equal(holds, before); /* removed listeners are not called */
}

/* ---- a million ranges ---- */

static void test_million_ranges(void **state)
{
    struct gpa_space *space = gpa_space_create(40);
    struct gpa_view view;
    (void)state;

    for (uint64_t i = 0; i < 1000000; i++)
        assert_ok(map(space, PAGES(2 * i), PAGE_SIZE, HOST, RW | T));
    assert_int_equal(gpa_space_range_count(space), 1000000);
    for (uint64_t i = 0; i < 1000000; i++) {
        assert_true(gpa_space_find(space, PAGES(2 * i), &view));
        gpa_view_mark_dirty(&view, PAGES(2 * i));
        assert_false(gpa_space_find(space, PAGES(2 * i + 1), &view));
    }
    for (uint64_t i = 0; i < 1000000; i++)
        assert_ok(gpa_space_query_dirty(space, PAGES(2 * i), PAGE_SIZE, (uint64_t[]){0}, 8));
    for (uint64_t i = 0; i < 1000000; i += 2)
        assert_ok(gpa_space_unmap(space, PAGES(2 * i), PAGE_SIZE));
    assert_int_equal(gpa_space_mapped_pages(space), 500000);
    assert_ok(map(space, 0, PAGES(2000000), HOST, R)); /* replaces all of them at once */
    assert_int_equal(gpa_space_range_count(space), 1);
    gpa_space_destroy(space);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_width),
        TEST(test_map_arguments),
        TEST(test_map_legal),
        TEST(test_unmap_arguments),
        TEST(test_views),
        TEST(test_split_and_merge),
        cmocka_unit_test(test_terabyte),
        TEST(test_model),
        cmocka_unit_test(test_million_ranges),
    };
    return run_group(tests, array_size(tests));
}
