/* Consumers of dirty pages against an array per consumer: random sequences of everything that dirties, takes, maps or switches
 * tracking, in a window around the border of two windows of the record. */
#include "mem_test.h"

#include "mem/gpa_consumer.h"
#include "mem/gpa_space_state.h"

#include <sys/resource.h>

enum { MODEL = 700, CONSUMERS = 5 };

#define UNTRACKED GPA_CONSUMER_UNTRACKED
#define KEEP      GPA_CONSUMER_KEEP
#define PEEK      GPA_QUERY_PEEK

enum { HOLE, PLAIN, TRACKED }; /* what a page is */

struct model {
    struct gpa_space *space;
    uint64_t base, random; /* first page */
    uint8_t *host;
    uint8_t page[MODEL];
    struct {
        bool exists;
        uint32_t id, flags;
        uint64_t first, end;
        uint8_t dirty[MODEL];
    } consumer[CONSUMERS]; /* [0] is the first */
};

static uint64_t below(struct model *m, uint64_t limit)
{
    return random_below(&m->random, limit);
}

static gpa_t gpa_at(const struct model *m, uint64_t page)
{
    return PAGES(m->base + page);
}

static struct gpa_range range_at(const struct model *m, uint64_t first, uint64_t n)
{
    return (struct gpa_range){gpa_at(m, first), PAGES(n)};
}

static void mark(struct model *m, uint64_t page)
{
    for (unsigned c = 0; c < CONSUMERS; c++)
        if (m->consumer[c].exists && page >= m->consumer[c].first && page < m->consumer[c].end &&
            (m->page[page] == TRACKED || m->consumer[c].flags & UNTRACKED))
            m->consumer[c].dirty[page] = 1;
}

static bool sees_all(const struct model *m)
{
    for (unsigned c = 0; c < CONSUMERS; c++)
        if (m->consumer[c].exists && m->consumer[c].flags & UNTRACKED)
            return true;
    return false;
}

/* ---- steps ---- */

static void do_map(struct model *m, uint64_t first, uint64_t n)
{
    uint8_t kind = (uint8_t)below(m, 3);
    if (kind == HOLE)
        assert_ok(gpa_space_unmap(m->space, gpa_at(m, first), PAGES(n)));
    else
        assert_ok(map(m->space, gpa_at(m, first), PAGES(n), m->host + PAGES(first), RW | (kind == TRACKED ? T : 0)));
    memset(m->page + first, kind, n);
    for (unsigned c = 0; c < CONSUMERS; c++)
        if (!(m->consumer[c].flags & KEEP))
            memset(m->consumer[c].dirty + first, 0, n);
}

static void do_switch(struct model *m, uint64_t first, uint64_t n)
{
    bool on = below(m, 2), good = !memchr(m->page + first, HOLE, n);
    assert_status(gpa_space_set_tracking(m->space, range_at(m, first, n), on), good ? STATUS_OK : STATUS_GPA_RANGE_NOT_FOUND);
    uint8_t to = on ? TRACKED : PLAIN;
    for (uint64_t i = first; good && i < first + n; i++) {
        for (unsigned c = 0; c < CONSUMERS && m->page[i] != to; c++)
            if (!(m->consumer[c].flags & UNTRACKED))
                m->consumer[c].dirty[i] = 0;
        m->page[i] = to;
    }
}

/* By a write, by a page walk's or processor's lookup, or by the host's word. */
static void do_dirty(struct model *m, uint64_t page)
{
    struct gpa_view view;
    enum status mapped = m->page[page] == HOLE ? STATUS_ACCESS_DENIED : STATUS_OK;
    switch (below(m, 3)) {
    case 0:
        assert_status(gpa_space_write(m->space, gpa_at(m, page) + 9, "x", 1), mapped);
        break;
    case 1:
        if (gpa_space_find(m->space, gpa_at(m, page), &view))
            gpa_view_mark_dirty(&view, gpa_at(m, page));
        break;
    default:
        if (m->page[page] == PLAIN && !sees_all(m))
            mapped = STATUS_GPA_RANGE_NOT_FOUND;
        assert_status(gpa_space_mark_dirty(m->space, gpa_at(m, page), 1), mapped ? STATUS_GPA_RANGE_NOT_FOUND : STATUS_OK);
    }
    if (m->page[page] != HOLE)
        mark(m, page);
}

static void do_create(struct model *m, uint64_t first, uint64_t n)
{
    static const uint32_t kinds[] = {0, UNTRACKED, UNTRACKED | KEEP};
    unsigned c = 1 + (unsigned)below(m, CONSUMERS - 1);
    if (m->consumer[c].exists) {
        assert_ok(gpa_consumer_destroy(m->space, m->consumer[c].id));
        m->consumer[c].exists = false;
        return;
    }
    bool all = below(m, 2);
    memset(&m->consumer[c], 0, sizeof(m->consumer[c]));
    m->consumer[c].exists = true;
    m->consumer[c].flags = kinds[below(m, 3)];
    m->consumer[c].first = all ? 0 : first;
    m->consumer[c].end = all ? MODEL : first + n;
    assert_ok(gpa_consumer_create(m->space, range_at(m, m->consumer[c].first, m->consumer[c].end - m->consumer[c].first),
                                  m->consumer[c].flags, &m->consumer[c].id));
}

/* The pages of the range that the consumer was told by list or bitmap are those of the model. */
static void compare(const struct model *m, unsigned c, uint64_t first, uint64_t n, const uint8_t *told)
{
    for (uint64_t i = 0; i < n; i++)
        if (told[i] != m->consumer[c].dirty[first + i])
            fail_msg("consumer %u (flags %u) page %lu: told %d, model %d", c, m->consumer[c].flags, (unsigned long)(first + i),
                     told[i], m->consumer[c].dirty[first + i]);
}

static void expand(const struct model *m, const struct gpa_dirty_list *list, uint64_t first, uint64_t n, uint8_t *told)
{
    memset(told, 0, MODEL);
    for (size_t i = 0; i < list->count; i++) {
        struct gpa_range r = list->array[i];
        uint64_t start = pages_of(r.gpa) - m->base - first;
        assert_true(r.size && start + pages_of(r.size) <= n);
        assert_true(i == 0 || range_end(list->array[i - 1]) < r.gpa); /* ascending, joined */
        memset(told + start, 1, pages_of(r.size));
    }
}

/* Takes with little room until there is no more, or peeks with enough. */
static void do_list(struct model *m, const struct gpa_dirty_query *query, unsigned c, uint64_t first, uint64_t n)
{
    static struct gpa_range array[MODEL];
    static uint8_t told[MODEL], all[MODEL];
    struct gpa_dirty_list list = {array, query->flags & PEEK ? MODEL : 1 + below(m, 40), 0, true};

    memset(all, 0, sizeof(all));
    for (unsigned rounds = 0; list.more; rounds++) {
        assert_ok(gpa_consumer_list(m->space, query, &list));
        assert_true(!list.more || list.count == list.capacity);
        expand(m, &list, first, n, told);
        for (uint64_t i = 0; i < n; i++) {
            assert_false(all[i] && told[i]);
            all[i] |= told[i];
        }
        assert_true(rounds < MODEL);
    }
    compare(m, c, first, n, all);
}

static void do_bitmap(struct model *m, const struct gpa_dirty_query *query, unsigned c, uint64_t first, uint64_t n)
{
    static uint64_t bitmap[MODEL / 64 + 1];
    static uint8_t told[MODEL];
    uint64_t count, sum = 0;
    bool only_count = below(m, 4) == 0;

    assert_ok(gpa_consumer_bitmap(m->space, query, bitmap, only_count ? 0 : sizeof(bitmap), &count));
    for (uint64_t i = 0; i < n; i++) {
        told[i] = bitmap[i / 64] >> (i % 64) & 1;
        sum += m->consumer[c].dirty[first + i];
    }
    assert_int_equal(count, sum);
    if (!only_count)
        compare(m, c, first, n, told);
}

struct visited {
    struct model *m;
    uint64_t first;
    uint8_t told[MODEL];
    unsigned held;
};

static bool visit_sink(void *ctx, const struct gpa_dirty_bits *words, size_t count)
{
    struct visited *v = ctx;
    for (size_t i = 0; i < count; i++)
        for (uint64_t bits = words[i].bits; bits; bits &= bits - 1)
            v->told[words[i].first + (uint64_t)__builtin_ctzll(bits) - v->m->base - v->first] = 1;
    return true;
}

/* What the visitor rewrites is dirty for the others. */
static void do_visit(struct model *m, struct gpa_dirty_query query, unsigned c, uint64_t first, uint64_t n)
{
    static struct visited v;
    v = (struct visited){.m = m, .first = first};
    query.flags = below(m, 2) ? GPA_QUERY_REWRITES : 0;
    assert_ok(gpa_consumer_visit(m->space, &query, visit_sink, &v));
    compare(m, c, first, n, v.told);
    for (uint64_t i = 0; i < n && query.flags; i++)
        for (unsigned o = 0; o < CONSUMERS && v.told[i]; o++)
            if (m->consumer[o].exists && first + i >= m->consumer[o].first && first + i < m->consumer[o].end &&
                (m->page[first + i] == TRACKED || m->consumer[o].flags & UNTRACKED))
                m->consumer[o].dirty[first + i] = 1;
}

static void do_query(struct model *m, uint64_t first, uint64_t n)
{
    unsigned c = (unsigned)below(m, CONSUMERS), how = (unsigned)below(m, 3);
    struct gpa_dirty_query query = {m->consumer[c].id, below(m, 2) ? PEEK : 0, range_at(m, first, n)};
    if (!m->consumer[c].exists)
        return;
    enum status expected = first < m->consumer[c].first || first + n > m->consumer[c].end ? STATUS_INVALID_ARGUMENT : STATUS_OK;
    for (uint64_t i = first; i < first + n && expected == STATUS_OK; i++)
        if (m->page[i] != TRACKED && !(m->consumer[c].flags & UNTRACKED))
            expected = STATUS_GPA_RANGE_NOT_FOUND;
    if (expected != STATUS_OK) {
        assert_status(gpa_consumer_bitmap(m->space, &query, NULL, 0, NULL), expected);
        return;
    }
    if (how == 0)
        do_list(m, &query, c, first, n);
    else if (how == 1)
        do_bitmap(m, &query, c, first, n);
    else
        do_visit(m, query, c, first, n);
    if (!(query.flags & PEEK) || how == 2)
        memset(m->consumer[c].dirty + first, 0, n);
}

static void random_run(uint64_t base, uint64_t seed)
{
    static struct model m;
    m = (struct model){.space = gpa_space_create(48), .base = base, .random = seed, .host = host_pages(MODEL)};
    m.consumer[0].exists = true;
    m.consumer[0].end = MODEL;
    for (unsigned step = 0; step < 40000; step++) {
        uint64_t first = below(&m, MODEL), n = 1 + below(&m, below(&m, 4) ? 90 : MODEL);
        n = n < MODEL - first ? n : MODEL - first;
        uint64_t what = below(&m, 100);
        if (what < 60)
            do_dirty(&m, first);
        else if (what < 70)
            do_map(&m, first, n);
        else if (what < 74)
            do_switch(&m, first, n);
        else if (what < 77)
            do_create(&m, first, n);
        else
            do_query(&m, first, n);
    }
    gpa_space_destroy(m.space);
    free_pages(m.host, MODEL);
}

static void test_random(void **state)
{
    (void)state;
    random_run(0, 1);
    random_run(((uint64_t)1 << 30) - 333, 2);
    random_run(((uint64_t)1 << 36) - MODEL, 3); /* the end of the space */
}

/* ---- rules ---- */

static void test_arguments(void **state)
{
    (void)state;
    struct gpa_space *space = gpa_space_create(40);
    struct gpa_range all = {0, (uint64_t)1 << 40}, range, *nowhere = (struct gpa_range *)host_pages(1);
    uint32_t id = 77, other;

    arm_guard();
    free_pages(nowhere, 1);
    assert_status(gpa_consumer_create(space, (struct gpa_range){0, 0}, 0, &id), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_consumer_create(space, (struct gpa_range){1, 4096}, 0, &id), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_consumer_create(space, (struct gpa_range){0, all.size + 4096}, 0, &id), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_consumer_create(space, all, 4, &id), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_consumer_create(space, all, KEEP, &id), STATUS_INVALID_ARGUMENT);
    assert_int_equal(id, 77);
    assert_status(gpa_consumer_destroy(space, 0), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_consumer_destroy(space, 1), STATUS_NOT_FOUND);
    assert_ok(gpa_consumer_create(space, all, UNTRACKED, &id));
    assert_ok(gpa_consumer_create(space, all, 0, &other));
    assert_int_not_equal(id, other);
    assert_ok(gpa_consumer_range(space, id, &range));
    assert_int_equal(range.size, all.size);

    struct gpa_dirty_query query = {id, 0, all};
    struct gpa_dirty_list list = {nowhere, 1, 0, false};
    assert_ok(gpa_consumer_list(space, &query, &list)); /* nothing is dirty: nothing is written */
    assert_ok(map(space, 0, PAGES(4), (void *)0x100000, RW));
    assert_ok(gpa_space_mark_dirty(space, PAGES(2), 1));
    assert_status(gpa_consumer_list(space, &query, &list), STATUS_BAD_POINTER);
    list.capacity = 0;
    assert_status(gpa_consumer_list(space, &query, &list), STATUS_INVALID_ARGUMENT);
    list = (struct gpa_dirty_list){&range, 1, 0, true};
    assert_ok(gpa_consumer_list(space, &query, &list)); /* nothing was lost */
    assert_false(list.more);
    assert_int_equal(list.count, 1);
    assert_int_equal(range.gpa, PAGES(2));
    query.flags = PEEK;
    assert_status(gpa_consumer_visit(space, &query, visit_sink, NULL), STATUS_INVALID_ARGUMENT);

    assert_ok(gpa_consumer_destroy(space, id));
    query.flags = 0;
    assert_status(gpa_consumer_bitmap(space, &query, NULL, 0, NULL), STATUS_NOT_FOUND);
    assert_status(gpa_consumer_range(space, id, &range), STATUS_NOT_FOUND);
    assert_status(gpa_space_mark_dirty(space, PAGES(2), 1), STATUS_GPA_RANGE_NOT_FOUND); /* nobody sees it */
    gpa_space_destroy(space); /* and the other one with it */
}

/* ---- who is disturbed ---- */

struct calls {
    unsigned holds, maps, clears, nothing;
};

static void count_hold(void *ctx)
{
    struct calls *calls = ctx;
    calls->holds++;
}

static void count_release(void *ctx, const struct gpa_change *change)
{
    struct calls *calls = ctx;
    calls->nothing += !change;
    calls->maps += change && change->kind == GPA_CHANGE_MAP;
    calls->clears += change && change->kind == GPA_CHANGE_DIRTY_CLEAR;
}

/* Processors are held for what they have marked, once for all consumers. */
static void test_holds(void **state)
{
    (void)state;
    struct calls calls = {0};
    struct gpa_listener listener = {.hold = count_hold, .release = count_release, .ctx = &calls};
    struct gpa_space *space = gpa_space_create(40);
    uint64_t bitmap;
    uint32_t id;

    assert_ok(map(space, 0, PAGES(64), (void *)0x100000, RW | T));
    gpa_space_add_listener(space, &listener);
    assert_ok(gpa_consumer_create(space, (struct gpa_range){0, PAGES(64)}, 0, &id));
    const struct gpa_dirty_query query = {id, 0, {0, PAGES(64)}}, peek = {id, PEEK, {0, PAGES(64)}};
    calls = (struct calls){0};
    assert_ok(gpa_space_query_dirty(space, 0, PAGES(64), &bitmap, 8));
    assert_ok(gpa_consumer_bitmap(space, &query, &bitmap, 8, NULL));
    assert_int_equal(calls.holds, 0); /* clean */
    assert_ok(gpa_space_mark_dirty(space, PAGES(3), 1));
    assert_ok(gpa_consumer_bitmap(space, &peek, &bitmap, 8, NULL));
    assert_int_equal(bitmap, 8);
    assert_int_equal(calls.holds, 0);
    assert_ok(gpa_space_query_dirty(space, 0, PAGES(64), &bitmap, 8));
    assert_int_equal(bitmap, 8);
    assert_int_equal(calls.clears, 1);
    assert_ok(gpa_consumer_bitmap(space, &peek, &bitmap, 8, NULL));
    assert_int_equal(bitmap, 8);
    assert_ok(gpa_consumer_bitmap(space, &query, &bitmap, 8, NULL));
    assert_int_equal(bitmap, 8);
    assert_int_equal(calls.holds, 1);
    assert_ok(gpa_space_set_tracking(space, (struct gpa_range){0, PAGES(1)}, false));
    assert_int_equal(calls.maps, 1);
    gpa_space_remove_listener(space, &listener);
    gpa_space_destroy(space);
}

/* What finds no place in a list is put back where it came from: into the record that processors mark only while they are held. */
static void test_short_list_disturbs_nobody(void **state)
{
    (void)state;
    struct calls calls = {0};
    struct gpa_listener listener = {.hold = count_hold, .release = count_release, .ctx = &calls};
    struct gpa_space *space = gpa_space_create(40);
    struct gpa_range found[1];
    uint64_t bitmap;
    uint32_t id;

    assert_ok(map(space, 0, PAGES(64), (void *)0x100000, RW | T));
    gpa_space_add_listener(space, &listener);
    assert_ok(gpa_consumer_create(space, (struct gpa_range){0, PAGES(64)}, 0, &id));
    for (uint64_t page = 1; page < 64; page += 2)
        assert_ok(gpa_space_mark_dirty(space, PAGES(page), 1));
    assert_ok(gpa_consumer_bitmap(space, &(struct gpa_dirty_query){id, 0, {0, PAGES(64)}}, &bitmap, 8, NULL));
    assert_ok(gpa_consumer_destroy(space, id)); /* what it has left for the first consumer, that one has alone */
    calls = (struct calls){0};
    for (uint64_t page = 1; page < 64; page += 2) {
        struct gpa_dirty_list list = {.array = found, .capacity = 1};
        assert_ok(gpa_consumer_list(space, &(struct gpa_dirty_query){GPA_CONSUMER_FIRST, 0, {0, PAGES(64)}}, &list));
        assert_int_equal(list.count, 1);
        assert_int_equal(found[0].gpa, PAGES(page));
        assert_int_equal(list.more, page < 63);
        assert_true(calls.holds || !gpa_dirty_any(space->dirty, 0, 64));
    }
    assert_int_equal(calls.holds, 0);
    gpa_space_remove_listener(space, &listener);
    gpa_space_destroy(space);
}

static long most_memory(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss / 1024;
}

/* Of very many mappings in one call; that it is one change shows in the memory it takes (each as a change of its own: GiB). */
static void test_switch_many(void **state)
{
    enum { RANGES = 200000 };
    struct gpa_space *space = gpa_space_create(48);
    const struct gpa_range all = {0, PAGES(RANGES)};
    uint8_t *host = (uint8_t *)0x10000000000;
    uint64_t count = 0;

    (void)state;
    for (uint64_t i = 0; i < RANGES; i++) /* none continues its neighbour */
        assert_ok(map(space, PAGES(i), PAGES(1), host + PAGES(RANGES - i), RW));
    const long before = most_memory();
    assert_ok(gpa_space_set_tracking(space, all, true));
    assert_int_equal(gpa_space_range_count(space), RANGES);
    assert_ok(gpa_space_mark_dirty(space, PAGES(77), PAGES(9)));
    assert_ok(gpa_space_peek_dirty(space, 0, all.size, NULL, 0, &count));
    assert_int_equal(count, 9);
    assert_ok(gpa_space_set_tracking(space, (struct gpa_range){PAGES(80), PAGES(2)}, false));
    assert_ok(gpa_space_set_tracking(space, all, true));
    assert_ok(gpa_space_peek_dirty(space, 0, all.size, NULL, 0, &count));
    assert_int_equal(count, 7); /* those that were tracked all the time */
    assert_ok(gpa_space_set_tracking(space, all, false));
    assert_int_equal(gpa_space_range_count(space), RANGES);
    assert_in_range(most_memory() - before, 0, 300); /* MiB */
    gpa_space_destroy(space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_holds),
        cmocka_unit_test(test_short_list_disturbs_nobody),
        cmocka_unit_test(test_switch_many),
    };
    return run_group(tests, array_size(tests));
}
