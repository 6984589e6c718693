/*
 * How long a fuzzer runs and from which seed, said to all in the same way:
 *
 *     [--count N | --seconds N] [--seed N]
 *
 * What is not said there is taken from OPENWHP_FUZZ_SECONDS and OPENWHP_FUZZ_SEED. Case i of a run has the seed seed + i:
 * `--seed N --count 1` repeats it.
 */
#ifndef OWHP_TESTS_FUZZ_FUZZ_LIMITS_H
#define OWHP_TESTS_FUZZ_FUZZ_LIMITS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct fuzz_limits {
    uint64_t seed, count, seconds; /* count or seconds is 0 */
    time_t start;
};

static inline uint64_t fuzz_number(int argc, char **argv, const char *option, const char *variable)
{
    const char *text = variable ? getenv(variable) : NULL;

    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], option) == 0)
            text = argv[i + 1];
    return text ? strtoull(text, NULL, 0) : 0;
}

/* usual: how many cases when nothing is said. */
static inline struct fuzz_limits fuzz_limits(int argc, char **argv, uint64_t usual)
{
    struct fuzz_limits limits = {.count = fuzz_number(argc, argv, "--count", NULL), .start = time(NULL)};

    limits.seed = fuzz_number(argc, argv, "--seed", "OPENWHP_FUZZ_SEED");
    if (limits.seed == 0)
        limits.seed = 1;
    if (limits.count == 0)
        limits.seconds = fuzz_number(argc, argv, "--seconds", "OPENWHP_FUZZ_SECONDS");
    if (limits.count == 0 && limits.seconds == 0)
        limits.count = usual;
    return limits;
}

static inline bool fuzz_goes_on(const struct fuzz_limits *limits, uint64_t done)
{
    return limits->seconds ? (uint64_t)(time(NULL) - limits->start) < limits->seconds : done < limits->count;
}

/* A generator's state that is never 0 and differs much between seeds that differ little (SplitMix64). */
static inline uint64_t fuzz_state(uint64_t seed)
{
    uint64_t z = seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) | 1;
}

#endif
