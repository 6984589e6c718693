/*
 * One thread waits for the ends of all watched processes. It begins with the first and ends with the last, so that a
 * library nobody uses has no thread.
 */
#include "os/process_state.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Held for the whole of watch and unwatch; the thread does not take it. */
static pthread_mutex_t life = PTHREAD_MUTEX_INITIALIZER;
static pthread_t thread;      /* under life, while anything is watched */
static int epoll = -1, stop = -1;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct process *watched; /* under lock */

/* An event may be of a process that is not watched any more. */
static void take_notice(const struct process *of)
{
    pthread_mutex_lock(&lock);
    for (struct process *p = watched; p; p = p->next_watched)
        if (p == of && process_has_ended(p)) {
            epoll_ctl(epoll, EPOLL_CTL_DEL, p->pidfd, NULL);
            process_mark_ended(p);
        }
    pthread_mutex_unlock(&lock);
}

static void *wait_for_ends(void *unused)
{
    struct epoll_event event;

    (void)unused;
    for (;;) {
        if (epoll_wait(epoll, &event, 1, -1) != 1)
            continue;
        if (!event.data.ptr)
            return NULL;
        take_notice(event.data.ptr);
    }
}

static bool add(int fd, struct process *process)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = process}};

    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static void close_all(void)
{
    if (epoll >= 0)
        close(epoll);
    if (stop >= 0)
        close(stop);
    epoll = stop = -1;
}

/* The client's signals are not for this thread. */
static bool start_thread(void)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(&thread, NULL, wait_for_ends, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

static bool start(void)
{
    epoll = epoll_create1(EPOLL_CLOEXEC);
    stop = eventfd(0, EFD_CLOEXEC);
    if (epoll >= 0 && stop >= 0 && add(stop, NULL) && start_thread())
        return true;
    close_all();
    return false;
}

static void end(void)
{
    const uint64_t one = 1;

    while (write(stop, &one, sizeof(one)) < 0)
        continue;
    pthread_join(thread, NULL);
    close_all();
}

/* Under life: on the list, or off it. */
static void enter(struct process *process)
{
    pthread_mutex_lock(&lock);
    process->next_watched = watched;
    watched = process;
    pthread_mutex_unlock(&lock);
}

static void leave(struct process *process)
{
    struct process **link = &watched;

    pthread_mutex_lock(&lock);
    while (*link != process)
        link = &(*link)->next_watched;
    *link = process->next_watched;
    epoll_ctl(epoll, EPOLL_CTL_DEL, process->pidfd, NULL);
    pthread_mutex_unlock(&lock);
}

bool process_watch(struct process *process)
{
    bool done = true;

    pthread_mutex_lock(&life);
    if (process->watchers == 0) {
        done = watched || start();
        if (done) {
            enter(process);
            done = add(process->pidfd, process);
            if (!done) {
                leave(process);
                if (!watched)
                    end();
            }
        }
    }
    process->watchers += done;
    pthread_mutex_unlock(&life);
    return done;
}

void process_unwatch(struct process *process)
{
    pthread_mutex_lock(&life);
    if (--process->watchers == 0) {
        leave(process);
        if (!watched)
            end();
    }
    pthread_mutex_unlock(&life);
}
