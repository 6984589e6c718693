/* memory [part-of-a-name ...]: the benchmarks of guest memory; without arguments all of them. */
#include "memory.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    void (*run)(void);
} benches[] = {
    {"map", bench_map},
    {"map-kvm", bench_map_kvm},
#ifdef HAVE_UNICORN
    {"map-unicorn", bench_map_unicorn},
#endif
    {"access", bench_access},
    {"dirty", bench_dirty},
    {"translate", bench_translate},
    {"populate", bench_populate},
    {"on-kvm", bench_on_kvm},
};

static bool wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strstr(name, argv[i]))
            return true;
    return argc == 1;
}

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof(benches) / sizeof(benches[0]); i++)
        if (wanted(benches[i].name, argc, argv)) {
            benches[i].run();
            fflush(stdout);
        }
    return 0;
}
