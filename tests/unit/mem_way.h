/* Tests that run once for each of the ways in mem/word_bits.h. */
#ifndef OWHP_TESTS_MEM_WAY_H
#define OWHP_TESTS_MEM_WAY_H

#include "mem/word_bits.h"

#include <stdio.h>
#include <string.h>

enum { SKIPPED = 77 };

/* The way that the command line names. False: this processor does not have it, and says so. */
static inline bool use_way(int argc, char **argv)
{
    static const char *const names[BITS_WAYS] = {"plain", "counts", "vector"};
    const enum bits_way best = bits_way();

    for (unsigned way = 0; way < BITS_WAYS && argc > 1; way++)
        if (strcmp(argv[1], names[way]) == 0) {
            bits_way_use((enum bits_way)way);
            if (way > best)
                fprintf(stderr, "SKIPPED: this processor has no instructions for the way '%s'\n", names[way]);
            return way <= best;
        }
    return true;
}

#endif
