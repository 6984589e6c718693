/* Kicks of the kvm engine: floods of cancels, a user whose signal queue is full, and a process that has the signal itself. */
#include "guest.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static void begin_spinning(struct guest *g)
{
    guest_begin(g, NULL);
    guest_code(g, 0xeb, 0xfe);
}

struct flood {
    WHV_PARTITION_HANDLE partition;
    _Atomic bool over;
    _Atomic unsigned cancels;
};

static void *cancel_always(void *context)
{
    struct flood *flood = context;

    while (!flood->over) {
        assert_ok(WHvCancelRunVirtualProcessor(flood->partition, 0, 0));
        flood->cancels++;
    }
    return NULL;
}

/* The processor comes back again and again, while others do nothing but cancel it. */
static void floods(void **state)
{
    enum { RUNS = 300, THREADS = 3 };
    struct guest g;
    struct flood flood = {0};
    pthread_t threads[THREADS];

    (void)state;
    begin_spinning(&g);
    flood.partition = g.partition;
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, cancel_always, &flood), 0);
    for (unsigned i = 0; i < RUNS; i++)
        run_to(&g, WHvRunVpExitReasonCanceled);
    flood.over = true;
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_true(flood.cancels >= RUNS);
    guest_end(&g);
}

static void *cancel_once(void *context)
{
    usleep(100000); /* so that it most likely runs; if not, the case shows less */
    assert_ok(WHvCancelRunVirtualProcessor(context, 0, 0));
    return NULL;
}

/* No signal can be queued for this user: a cancel arrives all the same. */
static void full_queue(void **state)
{
    struct rlimit before, none;
    struct guest g;
    pthread_t thread;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_SIGPENDING, &before), 0);
    none = (struct rlimit){0, before.rlim_max};
    begin_spinning(&g);
    assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &none), 0);
    assert_int_equal(pthread_create(&thread, NULL, cancel_once, g.partition), 0);
    alarm(60); /* the way out for a processor that does not come back */
    run_to(&g, WHvRunVpExitReasonCanceled);
    alarm(0);
    assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &before), 0);
    pthread_join(thread, NULL);
    guest_end(&g);
}

static void mine(int number)
{
    (void)number;
}

/* A process that has a handler for the signal keeps it: the engine says that it cannot be used, and why. */
static void signal_taken(void **state)
{
    struct sigaction before, own = {.sa_handler = mine}, now;
    WHV_PARTITION_HANDLE partition;
    char reason[128] = "";

    (void)state;
    sigemptyset(&own.sa_mask);
    assert_int_equal(sigaction(SIGSTKFLT, &own, &before), 0);
    assert_hr(OwhpQueryEngine(OwhpEngineKvm, reason, sizeof(reason)), WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG);
    assert_non_null(strstr(reason, "SIGSTKFLT"));
    assert_refused(WHvCreatePartition(&partition), WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG); /* the environment asks for kvm */
    assert_int_equal(sigaction(SIGSTKFLT, NULL, &now), 0);
    assert_true(now.sa_handler == mine);
    own.sa_handler = SIG_IGN; /* is nobody's */
    assert_int_equal(sigaction(SIGSTKFLT, &own, NULL), 0);
    assert_ok(OwhpQueryEngine(OwhpEngineKvm, reason, sizeof(reason)));
    assert_int_equal(sigaction(SIGSTKFLT, &before, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("KVM-8", "H OwhpQueryEngine", signal_taken),
        CASE("KVM-5", "H WHvCancelRunVirtualProcessor", floods),
        CASE("KVM-6", "H WHvCancelRunVirtualProcessor", full_queue),
        CASE("KVM-7", "H OwhpQueryEngine: after use, too", signal_taken),
    };
    return cmocka_run_group_tests_name("kvm kicks", tests, NULL, NULL);
}
