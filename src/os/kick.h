/*
 * Kicks: bringing a thread out of a system call with a signal that does nothing else.
 *
 * The signal is SIGSTKFLT. The library takes it over if the process has not; a process that wants it for itself has to have a
 * handler before the first partition on the kvm engine is set up: then that engine is not usable.
 */
#ifndef OWHP_OS_KICK_H
#define OWHP_OS_KICK_H

#include "util/compiler.h"
#include "util/types.h"

/* Is the signal ours, or free? */
must_check bool kick_possible(void);

/* Install the handler; idempotent, any thread. False: the signal has another handler. */
must_check bool kick_init(void);

/* Let kicks through to the calling thread; returns the number that kick_thread wants. */
int kick_this_thread(void);

/* Any thread; one that has ended is no error. */
void kick_thread(int thread);

#endif
