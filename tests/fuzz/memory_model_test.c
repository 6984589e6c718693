/*
 * Random programs for the model of the memory API.
 *
 *      memory_model_test [--seconds N | --count N] [--seed N]     programs for so long (default: 200 programs)
 *      memory_model_test -f FILE...                               programs from files, as the fuzzer leaves them
 */
#include "fuzz_limits.h"
#include "memory_model.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROGRAMS = 200, MOST = 20000 };

static uint8_t program[1 << 20];

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1Dull;
}

static unsigned run_seed(uint64_t seed)
{
    uint64_t random = seed * 0x9E3779B97F4A7C15ull + 1;
    size_t size = 100 + next_random(&random) % (MOST - 100);

    for (size_t i = 0; i < size; i++)
        program[i] = (uint8_t)(next_random(&random) >> 32);
    return memory_model_run(program, size);
}

static uint64_t current;

/* The model aborts where it differs. */
static void tell_seed(int number)
{
    (void)number;
    fprintf(stderr, "--seed %llu --count 1\n", (unsigned long long)current);
}

static int run_files(int count, char **names)
{
    for (int i = 0; i < count; i++) {
        FILE *file = fopen(names[i], "rb");
        if (!file) {
            perror(names[i]);
            return 1;
        }
        size_t size = fread(program, 1, sizeof(program), file);
        fclose(file);
        printf("%s: %u calls\n", names[i], memory_model_run(program, size));
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "-f") == 0)
        return run_files(argc - 2, argv + 2);
    signal(SIGABRT, tell_seed);
    const struct fuzz_limits limits = fuzz_limits(argc, argv, PROGRAMS);
    uint64_t programs = 0, calls = 0;

    for (; fuzz_goes_on(&limits, programs); programs++)
        calls += run_seed(current = limits.seed + programs);
    printf("%llu programs from seed %llu, %llu calls\n", (unsigned long long)programs, (unsigned long long)limits.seed,
           (unsigned long long)calls);
    return 0;
}
