#include "sleepers.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "conform.h"

enum { LOOKS = 6000, LOOK_MS = 10 };

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void pause_ms(uint64_t ms) { nanosleep(&(struct timespec){(time_t)(ms / 1000), (long)(ms % 1000) * 1000000}, NULL); }

/* Its state's letter, and its voluntary context switches: how often it went to sleep. */
static char look(pid_t thread, uint64_t *sleeps)
{
    char path[64], line[128], letter = 0;
    unsigned long long number;
    unsigned found = 0;

    snprintf(path, sizeof(path), "/proc/self/task/%d/status", (int)thread);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file)) {
        found += sscanf(line, "State: %c", &letter) == 1;
        if (sscanf(line, "voluntary_ctxt_switches: %llu", &number) == 1) {
            *sleeps = number;
            found++;
        }
    }
    fclose(file);
    assert_int_equal(found, 2);
    return letter;
}

void sleepers_wait(const _Atomic pid_t *threads, size_t count)
{
    uint64_t sleeps;

    for (size_t i = 0; i < count; i++) {
        unsigned looks = 0;

        while (!threads[i] || look(threads[i], &sleeps) != 'S') {
            if (++looks == LOOKS)
                fail_msg("thread %zu of %zu never sleeps", i, count);
            pause_ms(LOOK_MS);
        }
    }
}

static uint64_t all_sleeps(const _Atomic pid_t *threads, size_t count)
{
    uint64_t sum = 0, sleeps;

    for (size_t i = 0; i < count; i++) {
        look(threads[i], &sleeps);
        sum += sleeps;
    }
    return sum;
}

uint64_t sleepers_wakes(const _Atomic pid_t *threads, size_t count, uint64_t *ms)
{
    const uint64_t start = now_ms(), before = all_sleeps(threads, count);

    pause_ms(*ms);
    const uint64_t wakes = all_sleeps(threads, count) - before;
    *ms = now_ms() - start + 1;
    sleepers_wait(threads, count);
    return wakes;
}
