/*
 * usage: conform_unload_threads LIBRARY
 *
 * The library loaded, used and unloaded by a thread that then ends; and what becomes of signals that are not the library's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <WinHvPlatform.h>

static const char *library;

/* 0: used and unloaded. */
static int use(void)
{
    void *loaded = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    HRESULT(*create)(WHV_PARTITION_HANDLE *);
    HRESULT(*set_up)(WHV_PARTITION_HANDLE);
    HRESULT(*end)(WHV_PARTITION_HANDLE);
    WHV_PARTITION_HANDLE partition;

    if (!loaded)
        return 1;
    *(void **)&create = dlsym(loaded, "WHvCreatePartition");
    *(void **)&set_up = dlsym(loaded, "WHvSetupPartition");
    *(void **)&end = dlsym(loaded, "WHvDeletePartition");
    if (!create || !set_up || !end || create((WHV_PARTITION_HANDLE *)8) != E_POINTER || FAILED(create(&partition)))
        return 2;
    if (set_up(partition) != WHV_E_INVALID_PARTITION_CONFIG || FAILED(end(partition)))
        return 3;
    return dlclose(loaded);
}

static void *use_on_thread(void *context)
{
    *(int *)context = use();
    return NULL;
}

static void thread_outlives_use(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        int result = -1;

        assert_int_equal(pthread_create(&thread, NULL, use_on_thread, &result), 0);
        assert_int_equal(pthread_join(thread, NULL), 0); /* its end runs what the library has left for it */
        assert_int_equal(result, 0);
    }
}

/* How a child ends that has used the library with this disposition of SIGSEGV and SIGBUS, and then sends itself both. */
static int end_of_child(void (*disposition)(int), int number)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0) {
        signal(SIGSEGV, disposition);
        signal(SIGBUS, disposition);
        if (use() != 0)
            _exit(1);
        kill(getpid(), number);
        kill(getpid(), number);
        _exit(0);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static volatile sig_atomic_t caught;

static void count_and_go(int number)
{
    (void)number;
    if (++caught == 2)
        _exit(42);
}

/* Runs before the process itself has used the library: the children install its handlers anew. */
static void signals_of_others(void **state)
{
    (void)state;
    assert_int_equal(end_of_child(SIG_IGN, SIGSEGV), 0);
    assert_int_equal(end_of_child(SIG_IGN, SIGBUS), 0);
    assert_int_equal(WEXITSTATUS(end_of_child(count_and_go, SIGSEGV)), 42);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they say so and exit */
    assert_true(WIFSIGNALED(end_of_child(SIG_DFL, SIGSEGV)));
#endif
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(signals_of_others), cmocka_unit_test(thread_outlives_use)};

    if (argc != 2)
        return 2;
    library = argv[1];
    return cmocka_run_group_tests_name("unloading", tests, NULL, NULL);
}
