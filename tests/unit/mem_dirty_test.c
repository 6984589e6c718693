/* gpa_dirty.h against an array of bits, and with marks racing takes. */
#include "mem_test.h"
#include "mem_way.h"

#include <pthread.h>

#define MODEL 40000 /* pages: ten level 1 words, with an odd end */

static uint8_t model[MODEL];
static uint64_t model_base;

struct seen {
    uint64_t first, count, last;
    bool bad;
    bool takes;         /* what is reported is clean from then on */
    uint64_t most;      /* words that are wanted; 0: all */
    uint64_t words;
};

/* Every reported page must be in the range, ascending, and dirty in the model. */
static void check_word(struct seen *seen, uint64_t first, uint64_t bits)
{
    seen->bad |= bits == 0 || first % 64 || (seen->count && first <= seen->last);
    seen->last = first;
    for (; bits; bits &= bits - 1) {
        uint64_t page = first + (uint64_t)__builtin_ctzll(bits) - model_base;
        seen->bad |= page >= MODEL || !model[page];
        seen->count++;
        if (seen->takes && page < MODEL)
            model[page] = 0;
    }
}

static bool check_sink(void *ctx, const struct gpa_dirty_bits *words, size_t count)
{
    struct seen *seen = ctx;
    seen->bad |= count == 0;
    for (size_t i = 0; i < count; i++)
        check_word(seen, words[i].first, words[i].bits);
    seen->words += count;
    return !seen->most || seen->words < seen->most;
}

static bool count_tee(void *ctx, const struct gpa_dirty_bits *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        *(uint64_t *)ctx += (uint64_t)__builtin_popcountll(words[i].bits);
    return true;
}

static uint64_t model_count(uint64_t first, uint64_t n)
{
    uint64_t count = 0;
    for (uint64_t i = first; i < first + n; i++)
        count += model[i];
    return count;
}

/* With all marks at rest, as a harvest does it; perhaps the sink has enough before the end. */
static void take_alone(struct gpa_dirty *dirty, uint64_t first, uint64_t n, uint64_t most)
{
    struct seen seen = {.takes = true, .most = most};
    const uint64_t before = model_count(first, n);
    uint64_t teed = 0;

    gpa_dirty_visit_take(&(struct gpa_dirty_visit){.record = dirty, .page = model_base + first, .count = n, .sink = check_sink,
                                                   .ctx = &seen, .tee = count_tee, .tee_ctx = &teed, .exclusive = true});
    assert_false(seen.bad);
    assert_int_equal(teed, seen.count);
    assert_int_equal(model_count(first, n), before - seen.count);
    assert_true(most || seen.count == before);
}

static void random_run(uint64_t base, uint64_t seed)
{
    struct gpa_dirty *dirty = gpa_dirty_create((uint64_t)1 << 40);
    uint64_t random = seed;

    assert_non_null(dirty);
    model_base = base;
    memset(model, 0, sizeof(model));
    assert_true(gpa_dirty_cover(dirty, base, MODEL));
    for (unsigned step = 0; step < 20000; step++) {
        uint64_t first = random_below(&random, MODEL);
        uint64_t n = 1 + random_below(&random, random_below(&random, 4) ? 200 : MODEL);
        n = n < MODEL - first ? n : MODEL - first;
        uint64_t what = random_below(&random, 12);
        struct seen seen = {0};
        if (what < 6) {
            gpa_dirty_mark(dirty, base + first);
            model[first] = 1;
        } else if (what == 6) {
            gpa_dirty_mark_range(dirty, base + first, n);
            memset(model + first, 1, n);
        } else if (what == 7) {
            gpa_dirty_peek(dirty, base + first, n, check_sink, &seen);
            assert_int_equal(seen.count, model_count(first, n));
        } else if (what < 10) {
            gpa_dirty_take(dirty, base + first, n, what == 8 ? check_sink : NULL, &seen);
            assert_true(what == 9 || seen.count == model_count(first, n));
            memset(model + first, 0, n);
        } else {
            take_alone(dirty, first, n, what == 10 ? 0 : 1 + random_below(&random, 200));
        }
        assert_false(seen.bad);
        first = random_below(&random, MODEL - 10);
        assert_int_equal(gpa_dirty_any(dirty, base + first, 10), model_count(first, 10) != 0);
    }
    struct seen seen = {0};
    gpa_dirty_take(dirty, 0, (uint64_t)1 << 40, check_sink, &seen); /* all windows, one exists */
    assert_int_equal(seen.count, model_count(0, MODEL));
    assert_false(gpa_dirty_any(dirty, 0, (uint64_t)1 << 40));
    gpa_dirty_destroy(dirty);
}

static void test_random(void **state)
{
    (void)state;
    random_run(0, 1);
    random_run(((uint64_t)1 << 30) - 20000, 2);           /* across two windows */
    random_run(((uint64_t)5 << 30) + (1 << 24) - 777, 3); /* across a level 3 bit */
    random_run(((uint64_t)1 << 40) - MODEL, 4);           /* the end of the space */
}

static void test_uncovered_is_clean(void **state)
{
    (void)state;
    struct gpa_dirty *dirty = gpa_dirty_create((uint64_t)1 << 40);
    assert_false(gpa_dirty_any(dirty, 0, (uint64_t)1 << 40));
    gpa_dirty_take(dirty, 0, (uint64_t)1 << 40, NULL, NULL);
    gpa_dirty_peek(dirty, 0, (uint64_t)1 << 40, check_sink, NULL);
    gpa_dirty_destroy(dirty);
    gpa_dirty_destroy(NULL);
}

/* ---- marks while a taker takes, without the change protocol ---- */

enum { MARKERS = 3, RACE_PAGES = 8192, RACES = 400, ROUNDS = 3000 };

struct race {
    struct gpa_dirty *dirty;
    _Atomic(uint32_t) marks[RACE_PAGES]; /* incremented before each mark */
    uint32_t taken_at[RACE_PAGES];       /* the value when the page was last reported */
    atomic_uint running;
};

struct marker {
    struct race *race;
    uint64_t seed;
};

static void *mark_pages(void *ctx)
{
    struct marker *marker = ctx;
    struct race *race = marker->race;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t page = random_below(&marker->seed, RACE_PAGES);
        page = i & 1 ? page & 0xfff : page & 0x43; /* much contention on a few words */
        atomic_fetch_add(&race->marks[page], 1);
        gpa_dirty_mark(race->dirty, page);
    }
    atomic_fetch_sub(&race->running, 1);
    return NULL;
}

static bool note_taken(void *ctx, const struct gpa_dirty_bits *words, size_t count)
{
    struct race *race = ctx;
    for (size_t i = 0; i < count; i++)
        for (uint64_t bits = words[i].bits; bits; bits &= bits - 1) {
            uint64_t page = words[i].first + (uint64_t)__builtin_ctzll(bits);
            race->taken_at[page] = atomic_load(&race->marks[page]);
        }
    return true;
}

/* No mark may be lost: after the last take, every page was reported after its last mark. */
static void one_race(struct race *race, uint64_t seed)
{
    pthread_t threads[MARKERS];
    struct marker markers[MARKERS];

    atomic_store(&race->running, MARKERS);
    for (unsigned i = 0; i < MARKERS; i++) {
        markers[i] = (struct marker){race, seed + i};
        assert_int_equal(pthread_create(&threads[i], NULL, mark_pages, &markers[i]), 0);
    }
    while (atomic_load(&race->running)) {
        uint64_t first = random_below(&seed, RACE_PAGES);
        uint64_t n = 1 + random_below(&seed, RACE_PAGES - first);
        gpa_dirty_take(race->dirty, first, n, note_taken, race);
        gpa_dirty_take(race->dirty, 0, 128, note_taken, race);
    }
    for (unsigned i = 0; i < MARKERS; i++)
        pthread_join(threads[i], NULL);
    gpa_dirty_take(race->dirty, 0, RACE_PAGES, note_taken, race);
    for (unsigned page = 0; page < RACE_PAGES; page++)
        if (race->taken_at[page] != atomic_load(&race->marks[page]))
            fail_msg("page %u: marked %u times, last reported after %u", page,
                     atomic_load(&race->marks[page]), race->taken_at[page]);
    assert_false(gpa_dirty_any(race->dirty, 0, RACE_PAGES));
}

/* Short races, because only the last mark of a page can be seen to be lost. */
static void test_race(void **state)
{
    (void)state;
    static struct race race;
    race.dirty = gpa_dirty_create(RACE_PAGES);
    assert_true(gpa_dirty_cover(race.dirty, 0, RACE_PAGES));
    for (unsigned i = 0; i < RACES; i++)
        one_race(&race, 1 + i * MARKERS);
    gpa_dirty_destroy(race.dirty);
}

/* ---- the caller's bitmap ---- */

static void test_query_rules(void **state)
{
    (void)state;
    struct gpa_space *space = gpa_space_create(40);
    uint8_t *host = host_pages(200);
    uint64_t bitmap[5], count;

    assert_ok(map(space, 0, PAGES(100), host, RW | T));
    assert_ok(map(space, PAGES(100), PAGES(100), host + PAGES(100), RWX | T)); /* a seam */
    memset(host, 1, PAGES(200)); /* stores through the host pointer do not count */

    memset(bitmap, 0xff, sizeof(bitmap));
    assert_ok(gpa_space_query_dirty(space, 0, PAGES(200), bitmap, sizeof(bitmap)));
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(bitmap[i], 0); /* the first query is empty, each word written */
    assert_int_equal(bitmap[4], UINT64_MAX);

    assert_ok(gpa_space_write(space, PAGES(99) + 4095, "ab", 2)); /* 99 and 100 */
    assert_ok(gpa_space_write(space, PAGES(199), "c", 1));
    assert_ok(gpa_space_write(space, PAGES(3), "d", 1));

    assert_status(gpa_space_query_dirty(space, 0, PAGES(200), bitmap, 31),
                  STATUS_INSUFFICIENT_BUFFER);
    assert_status(gpa_space_query_dirty(space, 0, PAGES(200), bitmap, 1),
                  STATUS_INSUFFICIENT_BUFFER);
    assert_status(gpa_space_query_dirty(space, 0, PAGES(200), NULL, 32), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_query_dirty(space, 0, PAGES(200), (uint64_t *)((char *)bitmap + 4), 32),
                  STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_query_dirty(space, 1, PAGES(200), bitmap, 32), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_query_dirty(space, 0, 100, bitmap, 32), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_query_dirty(space, 0, 0, bitmap, 32), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_query_dirty(space, (gpa_t)1 << 40, 4096, bitmap, 32),
                  STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_query_dirty(space, 0, PAGES(201), bitmap, 40),
                  STATUS_GPA_RANGE_NOT_FOUND);
    assert_ok(gpa_space_peek_dirty(space, 0, PAGES(200), bitmap, 32, &count));
    assert_int_equal(count, 4); /* nothing of that cleared anything */

    /* A query from an odd page: bit 0 is its first page. */
    assert_ok(gpa_space_query_dirty(space, PAGES(99), PAGES(2), bitmap, 8));
    assert_int_equal(bitmap[0], 3);
    assert_ok(gpa_space_peek_dirty(space, PAGES(1), PAGES(199), bitmap, 32, &count));
    assert_int_equal(count, 2);
    assert_int_equal(bitmap[0], 1 << 2);
    assert_int_equal(bitmap[3], (uint64_t)1 << (198 % 64));
    assert_ok(gpa_space_query_dirty(space, 0, PAGES(4), bitmap, 0)); /* clears only */
    assert_ok(gpa_space_peek_dirty(space, 0, PAGES(200), NULL, 0, &count));
    assert_int_equal(count, 1);

    /* An untracked page in the middle; a replaced page is clean. */
    assert_ok(map(space, PAGES(150), PAGES(1), host, RW));
    assert_status(gpa_space_query_dirty(space, 0, PAGES(200), bitmap, 32),
                  STATUS_GPA_RANGE_NOT_FOUND);
    assert_ok(map(space, PAGES(150), PAGES(50), host + PAGES(150), RWX | T));
    assert_ok(gpa_space_peek_dirty(space, 0, PAGES(200), NULL, 0, &count));
    assert_int_equal(count, 0);
    free_pages(host, 200);
    gpa_space_destroy(space);
}

static void test_host_marks(void **state)
{
    (void)state;
    struct gpa_space *space = gpa_space_create(40);
    uint64_t bitmap;
    assert_ok(map(space, PAGES(10), PAGES(10), (void *)0x100000, RW | T));
    assert_status(gpa_space_mark_dirty(space, PAGES(10), 0), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_mark_dirty(space, UINT64_MAX, 1), STATUS_INVALID_ARGUMENT);
    assert_status(gpa_space_mark_dirty(space, PAGES(10) - 1, 2), STATUS_GPA_RANGE_NOT_FOUND);
    assert_ok(gpa_space_mark_dirty(space, PAGES(12) - 1, 2));
    assert_ok(gpa_space_query_dirty(space, PAGES(10), PAGES(10), &bitmap, 8));
    assert_int_equal(bitmap, 6);
    gpa_space_destroy(space);
}

/* The caller's bitmap goes away while processors are brought to a halt: after it was looked at, before it is written. */
static uint64_t *vanishing;

static void take_bitmap_away(void *ctx)
{
    (void)ctx;
    if (vanishing)
        assert_int_equal(mprotect(vanishing, PAGE_SIZE, PROT_READ), 0);
}

static void no_release(void *ctx, const struct gpa_change *change)
{
    (void)ctx;
    (void)change;
}

static void test_bitmap_goes_away(void **state)
{
    struct gpa_space *space = gpa_space_create(40);
    struct gpa_listener listener = {take_bitmap_away, no_release, NULL, NULL, NULL};
    uint64_t *bitmap = (uint64_t *)(void *)host_pages(1);

    (void)state;
    arm_guard();
    gpa_space_add_listener(space, &listener);
    assert_ok(map(space, PAGES(10), PAGES(10), (void *)0x100000, RW | T));
    assert_ok(map(space, PAGES(30), PAGES(10), (void *)0x100000, RW | T));
    assert_ok(gpa_space_mark_dirty(space, PAGES(12), PAGES(2)));
    vanishing = bitmap;
    assert_status(gpa_space_query_dirty(space, PAGES(10), PAGES(10), bitmap, 8), STATUS_BAD_POINTER);
    vanishing = NULL;
    assert_int_equal(mprotect(bitmap, PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
    assert_ok(gpa_space_query_dirty(space, PAGES(10), PAGES(10), bitmap, 8));
    assert_int_equal(*bitmap & 0xc, 0xc); /* no page is lost; which were clean is */
    assert_ok(gpa_space_query_dirty(space, PAGES(30), PAGES(10), bitmap, 8));
    assert_int_equal(*bitmap, 0);
    gpa_space_remove_listener(space, &listener);
    gpa_space_destroy(space);
    free_pages(bitmap, 1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),     cmocka_unit_test(test_uncovered_is_clean),
        cmocka_unit_test(test_race),       cmocka_unit_test(test_query_rules),
        cmocka_unit_test(test_host_marks), cmocka_unit_test(test_bitmap_goes_away),
    };
    return use_way(argc, argv) ? run_group(tests, array_size(tests)) : SKIPPED;
}
