/* Threads of the client: short uses of a processor are no runs, and a thread that is cancelled leaves nothing locked. */
#include "guest.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum { ROUNDS = 4000, UNMAPPED = 0x10000000 };

struct scene {
    struct guest g;
    _Atomic bool over;
    _Atomic unsigned told, refused, read;
};

/* mov al, [UNMAPPED] */
static void begin(struct scene *s)
{
    const WHV_REGISTER_NAME ds = WHvX64RegisterDs;
    const WHV_REGISTER_VALUE value = {.Segment = {.Base = UNMAPPED, .Limit = 0xffff, .Attributes = 0x93}};

    memset(s, 0, sizeof(*s));
    guest_begin(&s->g, NULL);
    guest_code(&s->g, 0xa0, 0x00, 0x00, 0xf4);
    assert_ok(WHvSetVirtualProcessorRegisters(s->g.partition, 0, &ds, 1, &value));
    run_to(&s->g, WHvRunVpExitReasonMemoryAccess);
}

static void *tell_accesses(void *context)
{
    struct scene *s = context;
    const WHV_RUN_VP_EXIT_CONTEXT exit = s->g.exit;
    OWHP_MEMORY_ACCESS access;

    while (!s->over) {
        if (FAILED(OwhpGetMemoryAccess(s->g.partition, 0, &exit, &access)))
            s->refused++;
        s->told++;
    }
    return NULL;
}

static void *read_registers(void *context)
{
    struct scene *s = context;
    const WHV_REGISTER_NAME rip = WHvX64RegisterRip;
    WHV_REGISTER_VALUE value;

    while (!s->over) {
        if (FAILED(WHvGetVirtualProcessorRegisters(s->g.partition, 0, &rip, 1, &value)))
            s->refused++;
        s->read++;
    }
    return NULL;
}

/* Nobody runs, so nobody is told that somebody does. */
static void uses_are_no_runs(void **state)
{
    struct scene s;
    pthread_t threads[3];
    unsigned refused = 0;

    (void)state;
    begin(&s);
    assert_int_equal(pthread_create(&threads[0], NULL, tell_accesses, &s), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, tell_accesses, &s), 0);
    assert_int_equal(pthread_create(&threads[2], NULL, read_registers, &s), 0);
    for (unsigned i = 0; i < ROUNDS || s.told < ROUNDS || s.read < ROUNDS; i++) {
        refused += FAILED(WHvSuspendPartitionTime(s.g.partition));
        assert_ok(WHvResumePartitionTime(s.g.partition));
    }
    s.over = true;
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(refused, 0);
    assert_int_equal(s.refused, 0);
    guest_end(&s.g);
}

/* A run waits for a use; a cancel that comes meanwhile is the next run's, one for one. */
static void runs_wait_for_uses(void **state)
{
    struct scene s;
    pthread_t thread;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    (void)state;
    begin(&s);
    assert_int_equal(pthread_create(&thread, NULL, tell_accesses, &s), 0);
    for (unsigned i = 0; i < ROUNDS; i++) {
        assert_ok(WHvRunVirtualProcessor(s.g.partition, 0, &exit, sizeof(exit)));
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
        if (i % 16)
            continue;
        assert_ok(WHvCancelRunVirtualProcessor(s.g.partition, 0, 0));
        assert_ok(WHvRunVirtualProcessor(s.g.partition, 0, &exit, sizeof(exit)));
        assert_int_equal(exit.ExitReason, WHvRunVpExitReasonCanceled);
    }
    s.over = true;
    pthread_join(thread, NULL);
    guest_end(&s.g);
}

/* ---- pthread_cancel ---- */

static void *run_once(void *context)
{
    struct guest *g = context;

    if (FAILED(WHvRunVirtualProcessor(g->partition, 0, &g->exit, sizeof(g->exit))))
        return NULL;
    pthread_testcancel();
    return g;
}

/* The thread sleeps in the guest's HLT. It ends, but after the call. */
static void cancelled_thread(void **state)
{
    const WHV_REGISTER_NAME rip = WHvX64RegisterRip;
    WHV_REGISTER_VALUE value;
    struct guest g;
    pthread_t thread;
    void *end;

    (void)state;
    guest_begin(&g, &(struct guest_options){.apic_mode = WHvX64LocalApicEmulationModeXApic});
    guest_code(&g, 0xf4);
    assert_int_equal(pthread_create(&thread, NULL, run_once, &g), 0);
    while (SUCCEEDED(WHvGetVirtualProcessorRegisters(g.partition, 0, &rip, 1, &value)))
        ;
    usleep(20000); /* so that it most likely sleeps; if not, the case shows less */
    assert_int_equal(pthread_cancel(thread), 0);
    usleep(20000);
    assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
    assert_int_equal(pthread_join(thread, &end), 0);
    assert_ptr_equal(end, PTHREAD_CANCELED);
    assert_field(&g, ExitReason, WHvRunVpExitReasonCanceled);
    assert_ok(WHvGetVirtualProcessorRegisters(g.partition, 0, &rip, 1, &value));
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("HOST-10", "H OwhpGetMemoryAccess: not running", uses_are_no_runs),
        CASE("HOST-11", "H WHvCancelRunVirtualProcessor", runs_wait_for_uses),
        CASE("HOST-12", "H Threads: pthread_cancel", cancelled_thread),
    };
    return cmocka_run_group_tests_name("threads of the host", tests, NULL, NULL);
}
