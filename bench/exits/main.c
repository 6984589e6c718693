/*
 * exits [rounds [part-of-a-name]]: nanoseconds per exit, best of `rounds` measurements, and how it compares with OpenWHP's
 * completion of a load. All in one run, on one machine: the ratios are what to look at.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exits.h"

#ifndef HAVE_UNICORN
const struct bench unicorn_benches[] = {{0}};
#endif

/* Short windows, so that some of them are not interrupted by what else the machine does. */
static double best_of(const struct bench *bench, unsigned rounds)
{
    unsigned count = 256;
    double ns = bench->run(bench, count), best;

    while (ns >= 0 && ns < 1e6 && count < 1u << 20) {
        count *= 2;
        ns = bench->run(bench, count);
    }
    best = ns;
    for (unsigned i = 0; i < rounds && ns >= 0; i++) {
        ns = bench->run(bench, count);
        if (ns < best)
            best = ns;
    }
    return best / count;
}

static const struct bench *bare(enum guest_loop loop)
{
    const struct bench *b = kvm_benches;

    while (b->loop != loop)
        b++;
    return b;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(double *values, unsigned count)
{
    qsort(values, count, sizeof(values[0]), by_value);
    return values[count / 2];
}

/*
 * The kvm engine and KVM itself in turns, so that both see the same machine; medians of the windows and of their ratios, in the
 * thread's CPU time, for others use the machine too.
 */
static void pairs(unsigned rounds, const char *part)
{
    enum { WINDOW = 500, MOST = 1000 };
    static double ours[MOST], theirs[MOST], ratios[MOST];

    rounds = rounds > MOST ? MOST : rounds;
    bench_clock = CLOCK_THREAD_CPUTIME_ID;
    for (const struct bench *b = openwhp_kvm_benches; b->name && rounds; b++) {
        if (!strstr("openwhp on kvm", part) && !strstr(b->name, part))
            continue;
        for (unsigned i = 0; i < rounds; i++) {
            theirs[i] = bare(b->loop)->run(bare(b->loop), WINDOW) / WINDOW;
            if (theirs[i] < 0)
                return;
            ours[i] = b->run(b, WINDOW) / WINDOW;
            ratios[i] = ours[i] / theirs[i];
        }
        double ratio = median(ratios, rounds);
        printf("openwhp on kvm, %-24s %9.1f ns, KVM alone %9.1f ns, ratio %5.2f (goal 1.30)\n", b->name, median(ours, rounds),
               median(theirs, rounds), ratio);
    }
}

int main(int argc, char **argv)
{
    const struct bench *const tables[] = {openwhp_benches, kvm_benches, unicorn_benches, qemu_benches};
    unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 30;
    const char *part = argc > 2 ? argv[2] : "";
    double reference = 0;

    for (unsigned t = 0; t < sizeof(tables) / sizeof(tables[0]); t++)
        for (const struct bench *b = tables[t]; b->name; b++) {
            double ns = strstr(b->name, part) ? best_of(b, rounds) : -1;

            if (ns < 0)
                continue;
            if (reference == 0)
                reference = ns;
            printf("%-40s %9.1f ns  %7.2f\n", b->name, ns, ns / reference);
        }
    pairs(rounds, part);
    return 0;
}
