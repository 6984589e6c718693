/* Map and unmap: by the number of ranges that are there, and by size. */
#include "memory.h"

#include <stdio.h>

struct maps {
    WHV_PARTITION_HANDLE partition;
    uint8_t *host;
    uint64_t places; /* two pages apart, every other one is mapped all along; the ones between are mapped and unmapped */
    uint64_t random;
    uint64_t next;
    bool in_order;
    uint64_t size;
};

static uint64_t place(struct maps *m)
{
    uint64_t i = m->in_order ? m->next++ % m->places : next_random(&m->random) % m->places;
    return i * 4 * PAGE + 2 * PAGE;
}

static void map_and_unmap(void *context, uint64_t count)
{
    struct maps *m = context;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t gpa = place(m);
        MUST(WHvMapGpaRange(m->partition, m->host + gpa, gpa, m->size, RWT));
        MUST(WHvUnmapGpaRange(m->partition, gpa, m->size));
    }
}

static void flip(void *context, uint64_t count)
{
    struct maps *m = context;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t gpa = place(m) - 2 * PAGE;
        MUST(WHvMapGpaRange(m->partition, m->host + gpa, gpa, m->size, i & 1 ? RW : RWT));
    }
}

static void fill(struct maps *m, uint64_t *have, uint64_t want)
{
    for (; *have < want; ++*have)
        MUST(WHvMapGpaRange(m->partition, m->host + *have * 4 * PAGE, *have * 4 * PAGE, PAGE, RWT));
    m->places = want;
}

static void by_count(bool in_order, const char *how)
{
    static const uint64_t counts[] = {1, 100, 1000, 10000, 100000, 1000000};
    struct maps m = {
        .partition = make_partition(), .host = reserve(4 * PAGE * 1000001ull), .random = 1, .in_order = in_order, .size = PAGE};
    uint64_t have = 0;
    double first = 0, first_flip = 0;
    char name[100];

    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        fill(&m, &have, counts[i]);
        double ns = best_ns(map_and_unmap, &m) / 2;
        first = first ? first : ns;
        snprintf(name, sizeof(name), "map, unmap a page between %7llu ranges, %s", (unsigned long long)counts[i], how);
        row_ratio(name, ns, first, "within 3, below 2000 ns");
        ns = best_ns(flip, &m);
        first_flip = first_flip ? first_flip : ns;
        snprintf(name, sizeof(name), "other flags for one of them");
        row_ratio(name, ns, first_flip, NULL);
    }
    MUST(WHvDeletePartition(m.partition));
}

static void by_size(void)
{
    static const struct {
        const char *name;
        uint64_t size;
    } sizes[] = {{"4 KiB", PAGE}, {"1 GiB", GIB}, {"64 GiB", 64 * GIB}, {"1 TiB", TIB}};
    struct maps m = {.partition = make_partition(), .host = reserve(TIB + GIB), .random = 1, .places = 1, .in_order = true};
    double first = 0;
    char name[100];

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        m.size = sizes[i].size;
        double ns = best_ns(map_and_unmap, &m) / 2;
        first = first ? first : ns;
        snprintf(name, sizeof(name), "map, unmap %s in one call", sizes[i].name);
        row_ratio(name, ns, first, m.size == TIB ? "below 10000 ns" : NULL);
    }
    MUST(WHvDeletePartition(m.partition));
}

/* The very first mapping of a partition reserves what dirty bits need. */
static void first_map(void)
{
    uint8_t *host = reserve(TIB);
    double best = 1e18;

    for (int i = 0; i < 50; i++) {
        WHV_PARTITION_HANDLE partition = make_partition();
        double begin = now_ns();
        MUST(WHvMapGpaRange(partition, host, 0, TIB, RWT));
        double ns = now_ns() - begin;
        best = ns < best ? ns : best;
        MUST(WHvDeletePartition(partition));
    }
    row("first map of a partition, 1 TiB, tracked (goal below 10000 ns)", best);
}

void bench_map(void)
{
    heading("map and unmap, no processor running (ns a call; ratio to the first row)");
    by_count(false, "anywhere");
    by_count(true, "in order");
    by_size();
    first_map();
}
