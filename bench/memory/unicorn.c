/* Maps of Unicorn. */
#include "memory.h"

#include <stdio.h>
#include <unicorn/unicorn.h>

struct maps {
    uc_engine *uc;
    void *host;
};

static void map_and_unmap(void *context, uint64_t count)
{
    const struct maps *m = context;

    for (uint64_t i = 0; i < count; i++) {
        uc_mem_map_ptr(m->uc, (uint64_t)1 << 38, PAGE, UC_PROT_ALL, m->host);
        uc_mem_unmap(m->uc, (uint64_t)1 << 38, PAGE);
    }
}

void bench_map_unicorn(void)
{
    static const unsigned counts[] = {1, 100, 1000};
    struct maps m = {.host = reserve(PAGE)};
    unsigned maps = 0;
    char name[100];

    heading("Unicorn: maps (ns a call)");
    if (uc_open(UC_ARCH_X86, UC_MODE_64, &m.uc) != UC_ERR_OK) {
        skipped("Unicorn", "it cannot be opened");
        return;
    }
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        for (; maps < counts[i]; maps++)
            if (uc_mem_map_ptr(m.uc, (uint64_t)maps * 2 * PAGE, PAGE, UC_PROT_ALL, m.host) != UC_ERR_OK)
                break;
        snprintf(name, sizeof(name), "map, unmap a page beside %u", maps);
        row(name, best_ns(map_and_unmap, &m) / 2);
    }
    uc_close(m.uc);
}
