/*
 * A process whose first thread has ended while others live. The kernel lends the process's id only the memory of that first
 * thread, which has none any more: process_vm_readv says ESRCH, /proc/ID/maps is empty. Each thread that lives has an id of its
 * own that does, and a directory of its own in /proc, though no listing shows it.
 *
 * A number is given to somebody else when its thread ends. But a directory of /proc stays that thread's, and finds nothing when
 * it has ended; and as long as the thread lives the number is its. So the directory is asked after each read, and before each
 * write, that goes by the number.
 */
#include "os/process_state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "os/cancel.h"

enum { TRIES = 16 }; /* threads may end, one after the other, while they are looked at */

/* Nothing is at address 0: reading it fails with EFAULT if it is allowed to try. */
int process_try_memory(uint32_t id)
{
    uint8_t byte;
    const struct iovec local = {&byte, 1}, remote = {NULL, 1};

    return process_vm_readv((pid_t)id, &local, 1, &remote, 1, 0) >= 0 || errno == EFAULT ? 0 : errno;
}

static bool lives(int directory)
{
    return directory >= 0 && faccessat(directory, "maps", F_OK, 0) == 0;
}

static void forget_thread(struct process *process)
{
    if (process->thread_directory >= 0)
        close(process->thread_directory);
    process->thread_directory = -1;
}

/* The directory is opened by number: it is that of a thread of this process if that number is listed here while it lives. */
static int take_thread(struct process *process, uint32_t id)
{
    char own[32], listed[32];

    snprintf(own, sizeof(own), "/proc/%" PRIu32, id);
    snprintf(listed, sizeof(listed), "task/%" PRIu32, id);
    int directory = open(own, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = directory < 0 ? errno : process_try_memory(id);
    if (!error && faccessat(process->directory, listed, F_OK, 0) == 0 && lives(directory)) {
        process->thread = id;
        process->thread_directory = directory;
        return 0;
    }
    if (directory >= 0)
        close(directory);
    return error && error != ENOENT ? error : ESRCH;
}

static int look_through_threads(struct process *process)
{
    int list = openat(process->directory, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC), error = ESRCH;
    DIR *threads = list < 0 ? NULL : fdopendir(list);
    struct dirent *entry;

    if (!threads && list >= 0)
        close(list);
    while (threads && error == ESRCH && (entry = readdir(threads)) != NULL) {
        uint32_t id = (uint32_t)strtoul(entry->d_name, NULL, 10);
        if (id && id != process->id)
            error = take_thread(process, id);
    }
    if (threads)
        closedir(threads);
    return error;
}

/* Under `threads`: have one that lives. 0 or an errno, ESRCH: the process has none. */
static int get_thread(struct process *process)
{
    int error = lives(process->thread_directory) ? 0 : ESRCH;

    for (int tries = 0; error == ESRCH && tries < TRIES && !process_has_ended(process); tries++) {
        forget_thread(process);
        error = look_through_threads(process);
    }
    return error;
}

int process_reach(struct process *process)
{
    NO_CANCEL;
    int error = process_try_memory(process->id);

    if (error != ESRCH)
        return error;
    pthread_mutex_lock(&process->threads);
    error = get_thread(process);
    pthread_mutex_unlock(&process->threads);
    return error;
}

ssize_t process_copy_by_thread(struct process *process, process_copy_fn *how, const struct iovec *here, const struct iovec *there)
{
    NO_CANCEL;
    ssize_t n = -1;
    bool again = true;

    pthread_mutex_lock(&process->threads);
    for (int tries = 0; again && tries < TRIES && get_thread(process) == 0; tries++) {
        n = how((pid_t)process->thread, here, 1, there, 1, 0);
        again = (n < 0 && errno == ESRCH) || !lives(process->thread_directory);
        if (again)
            forget_thread(process);
    }
    pthread_mutex_unlock(&process->threads);
    return again ? -1 : n;
}

int process_open_directory(struct process *process)
{
    if (process_try_memory(process->id) != ESRCH)
        return fcntl(process->directory, F_DUPFD_CLOEXEC, 0);
    pthread_mutex_lock(&process->threads);
    int copy = get_thread(process) ? -1 : fcntl(process->thread_directory, F_DUPFD_CLOEXEC, 0);
    pthread_mutex_unlock(&process->threads);
    return copy;
}
