/*
 * What guest memory costs: maps, reads and writes, dirty queries, translation, populate; each beside what it is to
 * be compared with, in one run on one machine. The ratios are what to look at.
 */
#ifndef OWHP_BENCH_MEMORY_H
#define OWHP_BENCH_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <WinHvPlatform.h>
#include <openwhp.h>

enum { PAGE = 4096 };
#define GIB ((uint64_t)1 << 30)
#define TIB ((uint64_t)1 << 40)
#define RW  ((WHV_MAP_GPA_RANGE_FLAGS)(WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite))
#define RWT ((WHV_MAP_GPA_RANGE_FLAGS)(RW | WHvMapGpaRangeFlagTrackDirtyPages))

/* Does the thing count times. */
typedef void work_fn(void *context, uint64_t count);

double now_ns(void);

/* Nanoseconds for one, best of several windows of about a millisecond: the machine is shared. */
double best_ns(work_fn *work, void *context);

/* The same for two, in turns, so that both see the same machine. */
struct pair {
    double first, second;
};
struct pair best_pair(work_fn *first, void *first_context, work_fn *second, void *second_context);

/* One line. The ratio is value / reference with `goal` beside it (NULL: none). */
void heading(const char *text);
void row(const char *name, double ns);
void row_ratio(const char *name, double ns, double reference, const char *goal);
void skipped(const char *what, const char *why);

/* Ends the program with the reason of the failed call. */
void must(HRESULT result, const char *what);
#define MUST(call) must((call), #call)

/* A partition with one processor; reserved memory, never touched. */
WHV_PARTITION_HANDLE make_partition(void);
uint8_t *reserve(uint64_t size);
uint64_t next_random(uint64_t *state);

void bench_map(void);
void bench_access(void);
void bench_dirty(void);
void bench_translate(void);
void bench_populate(void);
void bench_map_kvm(void);
void bench_map_unicorn(void);
void bench_dirty_kvm(void);
void bench_translate_kvm(void);
void bench_on_kvm(void);

#endif
