/*
 * The change protocol with processors: a small engine of threads that keep write-TLB entries, store
 * through them, and stop at safe points, while others harvest, replace, unmap and write.
 *
 * Ground truth: a store increments a number in its page. Whoever harvests copies the numbers of the
 * pages reported. At the end every copy must equal its number (no store was missed), and every
 * report must have found a changed number (none was invented).
 */
#include "mem_test.h"

#include "mem/gpa_consumer.h"
#include "mem/gpa_space_state.h"

#include <pthread.h>
#include <unistd.h>

enum {
    PROCESSORS = 3,
    TRACKED = 600,
    STORES = 3000000,
    MOVING = TRACKED,
    SPACE_PAGES = TRACKED + 8
};

typedef _Atomic(uint64_t) number;

/* ---- the engine ---- */

struct processor {
    struct engine *engine;
    uint64_t random;
    unsigned unmapped;        /* stores that found nothing mapped */
    atomic_uint stored;
    number *tlb[SPACE_PAGES]; /* where stores to a page go; NULL: ask */
    pthread_t thread;
};

struct engine {
    struct gpa_space *space;
    struct gpa_listener listener;
    struct processor processors[PROCESSORS];
    atomic_bool stop; /* processors look at it between two stores */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned running; /* not stopped; under lock */
    unsigned ended;   /* under lock */
    bool held;        /* under lock */
    unsigned unheld;  /* releases without a hold, or with somebody running */
    bool careless;    /* do not drop write-TLB entries: the test must notice */
    atomic_bool endless; /* store until this is false, and then the usual number of times */
};

static void hold(void *ctx)
{
    struct engine *engine = ctx;
    pthread_mutex_lock(&engine->lock);
    engine->held = true;
    atomic_store(&engine->stop, true);
    while (engine->running)
        pthread_cond_wait(&engine->changed, &engine->lock);
    pthread_mutex_unlock(&engine->lock);
}

static void release(void *ctx, const struct gpa_change *change)
{
    struct engine *engine = ctx;
    pthread_mutex_lock(&engine->lock);
    engine->unheld += !engine->held || engine->running != 0;
    for (unsigned p = 0; change && p < PROCESSORS && !engine->careless; p++)
        for (uint64_t page = 0; page < SPACE_PAGES; page++)
            if (range_contains(change->range, PAGES(page)))
                engine->processors[p].tlb[page] = NULL;
    engine->held = false;
    atomic_store(&engine->stop, false);
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->lock);
}

static void safe_point(struct engine *engine)
{
    if (!atomic_load(&engine->stop))
        return;
    pthread_mutex_lock(&engine->lock);
    engine->running--;
    pthread_cond_broadcast(&engine->changed);
    while (engine->held)
        pthread_cond_wait(&engine->changed, &engine->lock);
    engine->running++;
    pthread_mutex_unlock(&engine->lock);
}

static void store(struct processor *processor, uint64_t page)
{
    if (!processor->tlb[page]) {
        struct gpa_view view;
        if (!gpa_space_find(processor->engine->space, PAGES(page), &view)) {
            processor->unmapped++;
            return;
        }
        gpa_view_mark_dirty(&view, PAGES(page)); /* first mark, then the entry: invariant W */
        processor->tlb[page] = (number *)(void *)gpa_view_host(&view, PAGES(page));
    }
    atomic_fetch_add(processor->tlb[page], 1);
}

static void *run(void *ctx)
{
    struct processor *processor = ctx;
    struct engine *engine = processor->engine;
    for (unsigned i = 0; i < STORES || atomic_load(&engine->endless); i++) {
        safe_point(engine);
        store(processor, random_below(&processor->random, i & 1 ? MOVING + 1 : 16));
        atomic_store_explicit(&processor->stored, i, memory_order_relaxed);
    }
    pthread_mutex_lock(&engine->lock);
    engine->running--;
    engine->ended++;
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->lock);
    return NULL;
}

static void start(struct engine *engine, struct gpa_space *space, bool careless)
{
    *engine = (struct engine){.space = space, .running = PROCESSORS, .careless = careless};
    engine->listener = (struct gpa_listener){hold, release, NULL, engine, NULL};
    pthread_mutex_init(&engine->lock, NULL);
    pthread_cond_init(&engine->changed, NULL);
    gpa_space_add_listener(space, &engine->listener);
    for (unsigned i = 0; i < PROCESSORS; i++) {
        engine->processors[i].engine = engine;
        engine->processors[i].random = i + 1;
        assert_int_equal(
            pthread_create(&engine->processors[i].thread, NULL, run, &engine->processors[i]), 0);
    }
}

/* Lets the processors work for a moment first: changes without a pause would starve them. */
static bool all_done(struct engine *engine)
{
    usleep(20);
    pthread_mutex_lock(&engine->lock);
    bool done = engine->ended == PROCESSORS;
    pthread_mutex_unlock(&engine->lock);
    return done;
}

static void finish(struct engine *engine)
{
    for (unsigned i = 0; i < PROCESSORS; i++)
        pthread_join(engine->processors[i].thread, NULL);
    gpa_space_remove_listener(engine->space, &engine->listener);
    pthread_cond_destroy(&engine->changed);
    pthread_mutex_destroy(&engine->lock);
    assert_int_equal(engine->unheld, 0);
}

/* ---- harvest ---- */

struct harvest {
    struct gpa_space *space;
    uint32_t consumer;
    uint8_t *host;
    uint64_t seen[TRACKED];
    unsigned missed, invented, reports;
};

static uint64_t number_of(const struct harvest *harvest, uint64_t page)
{
    return atomic_load((number *)(void *)(harvest->host + PAGES(page)));
}

static void harvest_once(struct harvest *harvest, uint64_t first, uint64_t n)
{
    uint64_t bitmap[TRACKED / 64 + 1];
    const struct gpa_dirty_query query = {harvest->consumer, 0, {PAGES(first), PAGES(n)}};
    assert_ok(gpa_consumer_bitmap(harvest->space, &query, bitmap, sizeof(bitmap), NULL));
    for (uint64_t i = 0; i < n; i++) {
        if (!(bitmap[i / 64] >> (i % 64) & 1))
            continue;
        uint64_t now = number_of(harvest, first + i);
        harvest->invented += now == harvest->seen[first + i];
        harvest->seen[first + i] = now;
        harvest->reports++;
    }
}

static void last_harvest(struct harvest *harvest)
{
    harvest_once(harvest, 0, TRACKED);
    for (uint64_t i = 0; i < TRACKED; i++)
        harvest->missed += harvest->seen[i] != number_of(harvest, i);
}

/* The harvester is the only one who changes anything here, so the number read after a report cannot
 * be overtaken by another's report; a store between the query and the reading shows up again, so a
 * report may find nothing new: "invented" is only exact where processors rest. */
static void run_harvest(bool careless, struct harvest *harvest)
{
    static struct engine engine;
    uint64_t random = 5;
    struct gpa_space *space = gpa_space_create(40);
    uint8_t *host = host_pages(SPACE_PAGES);

    *harvest = (struct harvest){.space = space, .host = host};
    assert_ok(map(space, 0, PAGES(300), host, RW | T));
    assert_ok(map(space, PAGES(300), PAGES(SPACE_PAGES - 300), host + PAGES(300), RWX | T));
    start(&engine, space, careless);
    while (!all_done(&engine)) {
        uint64_t first = random_below(&random, TRACKED);
        harvest_once(harvest, first, 1 + random_below(&random, TRACKED - first));
    }
    finish(&engine);
    last_harvest(harvest);
    gpa_space_destroy(space);
    free_pages(host, SPACE_PAGES);
}

static void test_no_store_is_missed(void **state)
{
    (void)state;
    static struct harvest harvest;
    run_harvest(false, &harvest);
    print_message("%u pages reported\n", harvest.reports);
    assert_int_equal(harvest.missed, 0);
}

/* The same with an engine that breaks invariant W: the test must be able to see it. */
static void test_the_test_can_fail(void **state)
{
    (void)state;
    static struct harvest harvest;
    unsigned missed = 0;
    for (unsigned i = 0; i < 5 && missed == 0; i++) {
        run_harvest(true, &harvest);
        missed = harvest.missed;
    }
    assert_int_not_equal(missed, 0);
}

/* ---- several consumers ---- */

struct reader {
    struct harvest harvest;
    pthread_t thread;
    _Atomic bool *end;
};

static void *read_on(void *ctx)
{
    struct reader *reader = ctx;
    uint64_t random = 7 + reader->harvest.consumer;
    while (!atomic_load(reader->end)) {
        uint64_t first = random_below(&random, TRACKED);
        harvest_once(&reader->harvest, first, 1 + random_below(&random, TRACKED - first));
        usleep(30);
    }
    return NULL;
}

/* Three readers take as they like, one of them sees untracked pages, and tracking is switched at the other end: each store
 * reaches each reader. */
static void test_consumers(void **state)
{
    (void)state;
    static struct engine engine;
    static struct reader readers[3];
    struct gpa_space *space = gpa_space_create(40);
    uint8_t *host = host_pages(SPACE_PAGES);
    const struct gpa_range all = {0, PAGES(SPACE_PAGES)};
    _Atomic bool end = false;
    bool on = false;

    assert_ok(map(space, 0, PAGES(SPACE_PAGES), host, RWX | T));
    start(&engine, space, false); /* what is stored before a consumer begins is not its business, but must not be lost to others */
    for (unsigned i = 0; i < 3; i++) {
        readers[i] = (struct reader){.harvest = {.space = space, .host = host}, .end = &end};
        if (i)
            assert_ok(gpa_consumer_create(space, all, i == 2 ? GPA_CONSUMER_UNTRACKED : 0, &readers[i].harvest.consumer));
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_on, &readers[i]), 0);
    }
    while (!all_done(&engine)) {
        uint32_t id;
        assert_ok(gpa_space_set_tracking(space, (struct gpa_range){PAGES(TRACKED), PAGES(4)}, on = !on));
        assert_ok(gpa_consumer_create(space, all, GPA_CONSUMER_UNTRACKED | GPA_CONSUMER_KEEP, &id));
        assert_ok(gpa_consumer_destroy(space, id));
    }
    atomic_store(&end, true);
    finish(&engine);
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(readers[i].thread, NULL);
        /* A page nobody stored to since the consumer began. */
        for (uint64_t page = 0; i && page < TRACKED; page++)
            if (!readers[i].harvest.seen[page])
                readers[i].harvest.seen[page] = number_of(&readers[i].harvest, page);
        last_harvest(&readers[i].harvest);
        assert_int_equal(readers[i].harvest.missed, 0);
    }
    gpa_space_destroy(space);
    free_pages(host, SPACE_PAGES);
}

/* ---- exactness ---- */

/* With processors at rest a report is exact in both directions. */
static void test_nothing_is_invented(void **state)
{
    (void)state;
    static struct harvest harvest;
    struct gpa_space *space = gpa_space_create(40);
    uint8_t *host = host_pages(SPACE_PAGES);
    uint64_t random = 11;
    harvest = (struct harvest){.space = space, .host = host};
    assert_ok(map(space, 0, PAGES(SPACE_PAGES), host, RW | T));
    for (unsigned round = 0; round < 2000; round++) {
        for (unsigned i = 0; i < round % 7; i++) {
            uint64_t page = random_below(&random, TRACKED);
            uint64_t next = number_of(&harvest, page) + 1;
            assert_ok(gpa_space_write(space, PAGES(page), &next, sizeof(next)));
        }
        uint64_t first = random_below(&random, TRACKED);
        harvest_once(&harvest, first, 1 + random_below(&random, TRACKED - first));
    }
    last_harvest(&harvest);
    assert_int_equal(harvest.missed, 0);
    assert_int_equal(harvest.invented, 0);
    gpa_space_destroy(space);
    free_pages(host, SPACE_PAGES);
}

/* ---- replace, unmap, write, read, list and query, all at once ---- */

/* After a replacing map returned, the old memory is poisoned, and must stay so: nobody stores to
 * it. The page is mapped all the time: no processor may find a hole. */
static void test_replace_is_atomic(void **state)
{
    (void)state;
    static struct engine engine;
    struct gpa_space *space = gpa_space_create(40);
    uint8_t *host = host_pages(SPACE_PAGES), *pages[2] = {host_pages(1), host_pages(1)};
    unsigned which = 0, rounds = 0, touched = 0;

    assert_ok(map(space, 0, PAGES(SPACE_PAGES), host, RW | T));
    assert_ok(map(space, PAGES(MOVING), PAGE_SIZE, pages[0], RW | T));
    start(&engine, space, false);
    while (!all_done(&engine)) {
        number *old = (number *)(void *)pages[which];
        which ^= 1;
        assert_ok(map(space, PAGES(MOVING), PAGE_SIZE, pages[which], RW | (rounds & 1 ? T : 0)));
        atomic_store(old, 0xdead);
        for (unsigned i = 0; i < 200; i++)
            touched += atomic_load(old) != 0xdead;
        rounds++;
    }
    finish(&engine);
    print_message("%u replacements\n", rounds);
    assert_int_equal(touched, 0);
    for (unsigned i = 0; i < PROCESSORS; i++)
        assert_int_equal(engine.processors[i].unmapped, 0);
    gpa_space_destroy(space);
    free_pages(host, SPACE_PAGES);
    free_pages(pages[0], 1);
    free_pages(pages[1], 1);
}

struct client {
    struct gpa_space *space;
    uint8_t *host;
    atomic_bool end;
    uint64_t random;
};

static void *api_calls(void *ctx)
{
    struct client *client = ctx;
    uint64_t buffer[1024], random = ++client->random;
    struct gpa_mapping list[16];
    while (!atomic_load(&client->end)) {
        gpa_t gpa = PAGES(random_below(&random, TRACKED - 2)) + random_below(&random, 4096);
        /* Neighbours change the mappings: refusals are in order, anything else is not. */
        enum status status = gpa_space_read(client->space, gpa, buffer, sizeof(buffer));
        assert_true(status == STATUS_OK || status == STATUS_ACCESS_DENIED);
        status = gpa_space_write(client->space, PAGES(TRACKED - 1) + 64, buffer, 8);
        assert_true(status == STATUS_OK || status == STATUS_ACCESS_DENIED);
        gpa_space_list(client->space, gpa, list, 16);
        status =
            gpa_space_populate(client->space, (struct gpa_range){gpa, 5000}, GPA_ACCESS_READ, 0);
        assert_true(status == STATUS_OK || status == STATUS_GPA_RANGE_NOT_FOUND ||
                    status == STATUS_ACCESS_DENIED);
        struct gpa_view view;
        gpa_space_read_begin(client->space);
        gpa_space_find(client->space, gpa, &view);
        gpa_space_read_end(client->space);
    }
    return NULL;
}

static void change_something(struct client *client, uint64_t *random)
{
    uint64_t first = random_below(random, TRACKED), n = 1 + random_below(random, 20);
    n = n < TRACKED - first ? n : TRACKED - first;
    switch (random_below(random, 4)) {
    case 0:
        assert_ok(gpa_space_unmap(client->space, PAGES(first), PAGES(n)));
        break;
    case 1:
        assert_ok(map(client->space, PAGES(first), PAGES(n), client->host + PAGES(first), RW | T));
        break;
    case 2:
        assert_ok(map(client->space, 0, PAGES(SPACE_PAGES), client->host, RW | T));
        break;
    default:
        (void)!gpa_space_query_dirty(client->space, PAGES(first), PAGES(n), NULL, 0);
    }
}

static void *change_things(void *ctx)
{
    struct client *client = ctx;
    uint64_t random = 1234;
    while (!atomic_load(&client->end)) {
        change_something(client, &random);
        usleep(30);
    }
    return NULL;
}

static void test_everything_at_once(void **state)
{
    (void)state;
    static struct engine engine;
    struct client client = {.space = gpa_space_create(40), .host = host_pages(SPACE_PAGES)};
    pthread_t threads[2];
    uint64_t random = 99;

    assert_ok(map(client.space, 0, PAGES(SPACE_PAGES), client.host, RW | T));
    start(&engine, client.space, false);
    assert_int_equal(pthread_create(&threads[0], NULL, api_calls, &client), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, change_things, &client), 0);
    while (!all_done(&engine))
        change_something(&client, &random);
    atomic_store(&client.end, true);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    finish(&engine);
    gpa_space_destroy(client.space);
    free_pages(client.host, SPACE_PAGES);
}

/* ---- a change that waits for a reader ---- */

struct late_map {
    struct gpa_space *space;
    uint8_t *host;
    atomic_bool done;
};

static void *map_late(void *ctx)
{
    struct late_map *late = ctx;
    assert_ok(map(late->space, PAGES(MOVING), PAGE_SIZE, late->host, RW));
    atomic_store(&late->done, true);
    return NULL;
}

/* The processor stores on. How long that may take is only there to end what hangs. */
static bool goes_on(struct processor *processor)
{
    const unsigned from = atomic_load(&processor->stored);
    for (unsigned i = 0; i < 20000; i++) {
        if (atomic_load(&processor->stored) - from >= 1000)
            return true;
        usleep(1000);
    }
    return false;
}

/* A reader that does not come to its end: the change waits, which the closed gate shows; the processors do not. */
static void test_processors_do_not_wait_for_readers(void **state)
{
    (void)state;
    static struct engine engine;
    struct gpa_space *space = gpa_space_create(40);
    uint8_t *host = host_pages(SPACE_PAGES), *other = host_pages(1);
    struct late_map late = {.space = space, .host = other};
    struct gpa_view view;
    bool went_on = true;
    pthread_t thread;

    assert_ok(map(space, 0, PAGES(SPACE_PAGES), host, RW | T));
    start(&engine, space, false);
    atomic_store(&engine.endless, true);
    gpa_space_read_begin(space);
    assert_int_equal(pthread_create(&thread, NULL, map_late, &late), 0);
    while (!read_gate_is_closed(read_section_version(space->gate)))
        usleep(100);
    for (unsigned i = 0; i < PROCESSORS; i++)
        went_on &= goes_on(&engine.processors[i]);
    assert_false(atomic_load(&late.done));
    assert_true(gpa_space_find(space, PAGES(MOVING), &view)); /* nothing has changed */
    assert_ptr_equal(gpa_view_host(&view, PAGES(MOVING)), host + PAGES(MOVING));
    gpa_space_read_end(space);
    pthread_join(thread, NULL);
    atomic_store(&engine.endless, false);
    finish(&engine);
    assert_true(went_on);
    gpa_space_destroy(space);
    free_pages(host, SPACE_PAGES);
    free_pages(other, 1);
}

/* ---- a peek beside a query ---- */

enum { PEEKED = 1 << 16 };

struct peeked {
    struct gpa_space *space;
    struct gpa_dirty_query query;
    uint64_t bitmap[PEEKED / 64];
};

static void *take_all(void *ctx)
{
    struct peeked *p = ctx;

    assert_ok(gpa_consumer_bitmap(p->space, &p->query, p->bitmap, sizeof(p->bitmap), NULL));
    return NULL;
}

/* Pages that another consumer has handed on, so that nobody is held when they are taken: a peek sees all of them, or none. */
static void test_peeks_are_whole(void **state)
{
    (void)state;
    static struct peeked p;
    struct gpa_dirty_query peek = {.flags = GPA_QUERY_PEEK, .range = {0, PAGES(PEEKED)}};
    static uint64_t bitmap[PEEKED / 64];
    uint64_t count;
    pthread_t thread;

    p.space = gpa_space_create(40);
    p.query.range = peek.range;
    assert_ok(map(p.space, 0, PAGES(PEEKED), (void *)0x100000, RW | T));
    assert_ok(gpa_consumer_create(p.space, peek.range, 0, &p.query.consumer));
    peek.consumer = p.query.consumer;
    for (unsigned round = 0; round < 100; round++) {
        assert_ok(gpa_space_mark_dirty(p.space, 0, PAGES(PEEKED)));
        assert_ok(gpa_space_query_dirty(p.space, 0, PAGES(PEEKED), NULL, 0));
        assert_int_equal(pthread_create(&thread, NULL, take_all, &p), 0);
        do {
            assert_ok(gpa_consumer_bitmap(p.space, &peek, bitmap, sizeof(bitmap), &count));
            assert_true(count == 0 || count == PEEKED);
        } while (count);
        pthread_join(thread, NULL);
    }
    gpa_space_destroy(p.space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_store_is_missed),  cmocka_unit_test(test_the_test_can_fail),
        cmocka_unit_test(test_consumers),           cmocka_unit_test(test_nothing_is_invented),
        cmocka_unit_test(test_replace_is_atomic),
        cmocka_unit_test(test_everything_at_once),  cmocka_unit_test(test_processors_do_not_wait_for_readers),
        cmocka_unit_test(test_peeks_are_whole),
    };
    return run_group(tests, array_size(tests));
}
