/* The inside of struct process, for os/process*.c only. */
#ifndef OWHP_OS_PROCESS_STATE_H
#define OWHP_OS_PROCESS_STATE_H

#include "os/process.h"

#include <pthread.h>
#include <stdatomic.h>

struct process_view;

struct process {
    _Atomic uint32_t references; /* above 0 while it is on the list of all */
    struct process *next;        /* of all, under the list's lock */
    int pidfd, directory;        /* /proc/ID; fixed after open */
    uint32_t id;
    _Atomic bool ended;
    pthread_mutex_t writes;

    pthread_mutex_t lock;
    struct process_view *views; /* under lock */

    unsigned watchers;            /* os/process_watch.c, under its lock */
    struct process *next_watched; /* likewise */
};

/* The process has ended: nothing of it may be touched any more. From the watching thread. */
void process_mark_ended(struct process *process);

/* process_view.c: make all views of the process inaccessible. Under process->lock. */
void process_views_forget(struct process *process);

#endif
