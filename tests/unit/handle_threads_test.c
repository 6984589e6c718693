/* core/handle_table.h: an object that was drained is used by nobody, whoever had a reference; stale handles name nothing. */
#include "mem_test.h"

#include "core/handle_table.h"
#include "os/read_section.h"

#include <sched.h>

enum { USERS = 3, OBJECTS = 1000, DEEP = IN_USE_OBJECTS + 3 };

static struct handle_table table = HANDLE_TABLE_INIT(HANDLE_TAG_PARTITION);

struct object {
    uint64_t alive; /* plain on purpose */
};

static _Atomic uint64_t current;
static _Atomic bool stop;
static _Atomic uint64_t uses, misses, dead;

static void use(uint64_t handle, unsigned depth)
{
    struct object *o = handle_get(&table, handle);

    if (!o) {
        atomic_fetch_add_explicit(&misses, 1, memory_order_relaxed);
        return;
    }
    if (depth)
        use(handle, depth - 1); /* one thread, several references */
    if (!o->alive)
        atomic_fetch_add(&dead, 1);
    atomic_fetch_add_explicit(&uses, 1, memory_order_relaxed);
    handle_put(&table, handle);
}

static void *use_all_the_time(void *unused)
{
    for (unsigned i = 0; !atomic_load(&stop); i++)
        use(atomic_load(&current), i % 16 ? 0 : DEEP);
    return unused;
}

static void drained_objects_are_not_used(void **state)
{
    static struct object objects[2];
    pthread_t threads[USERS];

    (void)state;
    atomic_store(&stop, false);
    atomic_store(&dead, 0);
    atomic_store(&current, 0);
    for (unsigned i = 0; i < USERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, use_all_the_time, NULL), 0);
    for (unsigned i = 0; i < OBJECTS; i++) {
        struct object *o = &objects[i % 2];
        uint64_t handle;

        o->alive = 1;
        handle = handle_open(&table, o);
        assert_int_not_equal(handle, 0);
        atomic_store(&current, handle);
        if (i % 8 == 0)
            sched_yield();
        assert_ptr_equal(handle_close(&table, handle), o);
        handle_drain(&table, handle);
        o->alive = 0;
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < USERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&dead), 0);
}

static void drained_without_the_kernels_barrier(void **state)
{
    bool saved = read_barrier_is_remote;

    read_barrier_is_remote = false;
    drained_objects_are_not_used(state);
    read_barrier_is_remote = saved;
}

/* References are given back in any order, more of them than a thread has words for. */
static void references_in_any_order(void **state)
{
    struct object objects[DEEP];
    uint64_t handles[DEEP];

    (void)state;
    for (unsigned i = 0; i < DEEP; i++) {
        handles[i] = handle_open(&table, &objects[i]);
        assert_ptr_equal(handle_get(&table, handles[i]), &objects[i]);
    }
    for (unsigned i = 0; i < DEEP; i++) {
        unsigned k = (i * 3 + 1) % DEEP;
        handle_put(&table, handles[k]);
        assert_ptr_equal(handle_close(&table, handles[k]), &objects[k]);
        handle_drain(&table, handles[k]); /* waits for ever if the reference is still there */
        assert_null(handle_get(&table, handles[k]));
    }
}

static void *drain(void *handle)
{
    handle_drain(&table, *(uint64_t *)handle);
    atomic_store(&stop, true);
    return NULL;
}

static void a_reference_holds_up_the_drain(void **state)
{
    struct object object;
    uint64_t handle = handle_open(&table, &object);
    pthread_t thread;

    (void)state;
    atomic_store(&stop, false);
    assert_non_null(handle_get(&table, handle));
    assert_non_null(handle_close(&table, handle));
    assert_null(handle_get(&table, handle));
    assert_int_equal(pthread_create(&thread, NULL, drain, &handle), 0);
    for (unsigned i = 0; i < 200; i++)
        sched_yield();
    assert_false(atomic_load(&stop));
    handle_put(&table, handle);
    pthread_join(thread, NULL);
    assert_true(atomic_load(&stop));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(references_in_any_order),      cmocka_unit_test(a_reference_holds_up_the_drain),
        cmocka_unit_test(drained_objects_are_not_used), cmocka_unit_test(drained_without_the_kernels_barrier),
    };
    return run_group(tests, array_size(tests));
}
