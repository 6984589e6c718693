/* os/read_section.h: nobody reads while a gate is closed, nobody waits for ever, threads come and go. */
#include "mem_test.h"

#include "os/read_section.h"

#include <sched.h>
#include <unistd.h>

enum { READERS = 3, CHANGES = 4000, CHURN = 100 };

struct shared {
    struct read_gate gate;
    uint64_t left, right; /* equal whenever the gate is open; plain on purpose */
    _Atomic bool stop;
    _Atomic uint64_t reads, bad;
};

static void look(struct shared *s)
{
    read_section_begin(&s->gate);
    if (s->left != s->right)
        atomic_fetch_add(&s->bad, 1);
    atomic_fetch_add_explicit(&s->reads, 1, memory_order_relaxed);
    read_section_end(&s->gate);
}

static void *read_all_the_time(void *context)
{
    struct shared *s = context;
    while (!atomic_load(&s->stop))
        look(s);
    return NULL;
}

static void *read_a_little(void *context)
{
    for (int i = 0; i < 20; i++)
        look(context);
    return NULL;
}

static void *read_slowly(void *context)
{
    struct shared *s = context;
    while (!atomic_load(&s->stop)) {
        read_section_begin(&s->gate);
        uint64_t seen = s->left;
        usleep(300); /* the changer goes to sleep */
        if (s->left != seen || s->right != seen)
            atomic_fetch_add(&s->bad, 1);
        read_section_end(&s->gate);
        sched_yield();
    }
    return NULL;
}

static void change(struct shared *s)
{
    read_gate_close(&s->gate);
    s->left++;
    sched_yield();
    s->right++;
    read_gate_open(&s->gate);
}

static void begin(struct shared *s)
{
    memset(s, 0, sizeof(*s));
    read_gate_init(&s->gate);
}

static void end(struct shared *s)
{
    assert_int_equal(atomic_load(&s->bad), 0);
    read_gate_fini(&s->gate);
}

static void readers_see_whole_changes(void **state)
{
    static struct shared s;
    pthread_t threads[READERS];

    (void)state;
    begin(&s);
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_all_the_time, &s), 0);
    for (int i = 0; i < CHANGES; i++)
        change(&s);
    uint64_t before = atomic_load(&s.reads);
    while (atomic_load(&s.reads) < before + 1000) /* nobody was left behind */
        sched_yield();
    atomic_store(&s.stop, true);
    for (int i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(s.left, CHANGES);
    end(&s);
}

static void slow_readers_are_waited_for(void **state)
{
    static struct shared s;
    pthread_t thread;

    (void)state;
    begin(&s);
    assert_int_equal(pthread_create(&thread, NULL, read_slowly, &s), 0);
    for (int i = 0; i < 200; i++)
        change(&s);
    atomic_store(&s.stop, true);
    pthread_join(thread, NULL);
    end(&s);
}

/* Every reader is in its thread's first section, or its thread's last. */
static void threads_come_and_go(void **state)
{
    static struct shared s;
    pthread_t threads[READERS];

    (void)state;
    begin(&s);
    for (int round = 0; round < CHURN; round++) {
        for (int i = 0; i < READERS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, read_a_little, &s), 0);
        for (int i = 0; i < 10; i++)
            change(&s);
        for (int i = 0; i < READERS; i++)
            pthread_join(threads[i], NULL);
    }
    assert_int_equal(atomic_load(&s.reads), CHURN * READERS * 20);
    end(&s);
}

static void gates_are_independent(void **state)
{
    static struct shared s, other;
    pthread_t thread;

    (void)state;
    begin(&s);
    begin(&other);
    read_gate_close(&other.gate);
    assert_int_equal(pthread_create(&thread, NULL, read_a_little, &s), 0);
    pthread_join(thread, NULL); /* is not stopped by the other gate */
    read_section_begin(&s.gate);
    read_gate_open(&other.gate);
    read_gate_close(&other.gate); /* does not wait for us, who are in a section of the first */
    read_gate_open(&other.gate);
    read_section_end(&s.gate);
    end(&other);
    end(&s);
}

/* A processor without membarrier: readers make the barrier. */
static void without_the_kernels_barrier(void **state)
{
    bool saved = read_barrier_is_remote;

    read_barrier_is_remote = false;
    readers_see_whole_changes(state);
    threads_come_and_go(state);
    read_barrier_is_remote = saved;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readers_see_whole_changes), cmocka_unit_test(slow_readers_are_waited_for),
        cmocka_unit_test(threads_come_and_go),       cmocka_unit_test(gates_are_independent),
        cmocka_unit_test(without_the_kernels_barrier),
    };
    return run_group(tests, array_size(tests));
}
