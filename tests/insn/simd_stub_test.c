/* Host stubs: one address for equal code, from any thread, and apart after fork(). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "x86/vector/host_stub.h"

static const void *constant_stub(unsigned value)
{
    struct stub_code code = {.size = 0};
    stub_byte(&code, 0xb8); /* mov eax, value; ret */
    stub_bytes(&code, &value, 4);
    stub_byte(&code, 0xc3);
    return host_stub_get(&code);
}

static unsigned call(const void *stub)
{
    return ((unsigned (*)(void))(uintptr_t)stub)();
}

static void equal_code_is_one_stub(void **state)
{
    struct stub_code code = {.size = 0};
    (void)state;
    assert_true(host_stub_available());
    assert_ptr_equal(constant_stub(7), constant_stub(7));
    assert_ptr_not_equal(constant_stub(7), constant_stub(8));
    assert_int_equal(call(constant_stub(8)), 8);
    for (unsigned i = 0; i < HOST_STUB_MAX + 1; i++)
        stub_byte(&code, 0x90);
    assert_null(host_stub_get(&code));
}

static void *make_stubs(void *argument)
{
    const void **made = argument;
    for (unsigned i = 0; i < 2000; i++)
        made[i] = constant_stub(1000 + i);
    return NULL;
}

static void threads_get_the_same_stubs(void **state)
{
    static const void *made[2][2000];
    pthread_t threads[2];
    (void)state;
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, make_stubs, made[i]), 0);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < 2000; i++) {
        assert_ptr_equal(made[0][i], made[1][i]);
        assert_int_equal(call(made[0][i]), 1000 + i);
    }
}

/* A child's new stubs do not land in the parent's area. */
static void fork_keeps_stubs_apart(void **state)
{
    int status;
    (void)state;
    const void *shared = constant_stub(20000);
    pid_t child = fork();
    if (child == 0) {
        bool ok = call(shared) == 20000;
        for (unsigned i = 0; i < 64; i++)
            ok = ok && call(constant_stub(30000 + i)) == 30000 + i;
        _exit(ok ? 0 : 1);
    }
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(call(constant_stub(40000 + i)), 40000 + i);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(call(constant_stub(40000 + i)), 40000 + i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_code_is_one_stub),
        cmocka_unit_test(threads_get_the_same_stubs),
        cmocka_unit_test(fork_keeps_stubs_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
