/*
 * Do these threads sleep, and how often do they wake? Asked of the host's scheduler (proc(5): /proc/self/task), which counts: a
 * busy machine changes neither answer, as it would change the CPU time of the process.
 */
#ifndef OWHP_TESTS_CONFORM_SLEEPERS_H
#define OWHP_TESTS_CONFORM_SLEEPERS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Returns when each of them was seen asleep; fails when one is not within a minute: it spins. */
void sleepers_wait(const _Atomic pid_t *threads, size_t count);

/* How often all of them together woke in this time, in ms, which is then what really passed. */
uint64_t sleepers_wakes(const _Atomic pid_t *threads, size_t count, uint64_t *ms);

#endif
