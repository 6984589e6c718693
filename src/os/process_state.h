/* The inside of struct process, for os/process*.c only. */
#ifndef OWHP_OS_PROCESS_STATE_H
#define OWHP_OS_PROCESS_STATE_H

#include "os/process.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>

struct process_view;

struct process {
    _Atomic uint32_t references; /* above 0 while it is on the list of all */
    struct process *next;        /* of all, under the list's lock */
    int pidfd, directory;        /* /proc/ID; fixed after open */
    uint32_t id;
    _Atomic bool ended;
    pthread_mutex_t writes;

    pthread_mutex_t threads; /* process_thread.c; innermost */
    uint32_t thread;         /* one that lives, as long as its directory finds something; both under threads */
    int thread_directory;    /* /proc/THREAD; -1: none */

    pthread_mutex_t lock;
    struct process_view *views; /* under lock */

    unsigned watchers;            /* os/process_watch.c, under its lock */
    struct process *next_watched; /* likewise */
};

/* The process has ended: nothing of it may be touched any more. From the watching thread. */
void process_mark_ended(struct process *process);

/* ---- process_thread.c: when the process's first thread has ended ---- */

typedef ssize_t process_copy_fn(pid_t, const struct iovec *, unsigned long, const struct iovec *, unsigned long, unsigned long);

/* May memory be reached by the id of this thread (process)? 0 or an errno; ESRCH: it has none, or none any more. */
int process_try_memory(uint32_t id);

/* The same of any thread of the process. */
int process_reach(struct process *process);

/* Copy by the id of a thread that lives; as the function does that is given. */
ssize_t process_copy_by_thread(struct process *process, process_copy_fn *how, const struct iovec *here,
                               const struct iovec *there);

/* The directory of /proc in which the process's memory and files are seen now, for the caller to close; -1. */
int process_open_directory(struct process *process);

/* process_view.c: make all views of the process inaccessible. Under process->lock. */
void process_views_forget(struct process *process);

#endif
