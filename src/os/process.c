#include "os/process_state.h"

#include "os/cancel.h"
#include "util/last_error.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct process *all; /* under list_lock */

/* ---- life ---- */

bool process_has_ended(const struct process *process)
{
    NO_CANCEL;
    struct pollfd end = {.fd = process->pidfd, .events = POLLIN};

    return atomic_load(&process->ended) || (poll(&end, 1, 0) == 1 && (end.revents & POLLIN));
}

void process_mark_ended(struct process *process)
{
    atomic_store(&process->ended, true);
    pthread_mutex_lock(&process->lock);
    process_views_forget(process);
    pthread_mutex_unlock(&process->lock);
}

static enum status cannot_open(uint32_t id, int error)
{
    switch (error) {
    case ESRCH:
    case ENOENT:
    case EINVAL: /* a thread's id */
        return fail(STATUS_NOT_FOUND, "there is no process %u", id);
    case EPERM:
    case EACCES:
        return fail(STATUS_ACCESS_DENIED, "the memory of process %u may not be accessed: %s", id, strerror(error));
    default:
        return fail(STATUS_NO_MEMORY, "process %u: %s", id, strerror(error));
    }
}

static struct process *create(uint32_t id, int pidfd)
{
    char name[32];
    struct process *process = calloc(1, sizeof(*process));

    if (!process)
        return NULL;
    snprintf(name, sizeof(name), "/proc/%u", id);
    process->directory = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (process->directory < 0) {
        free(process);
        return NULL;
    }
    atomic_init(&process->references, 1);
    process->pidfd = pidfd;
    process->id = id;
    process->thread_directory = -1;
    pthread_mutex_init(&process->writes, NULL);
    pthread_mutex_init(&process->threads, NULL);
    pthread_mutex_init(&process->lock, NULL);
    return process;
}

static void destroy(struct process *process)
{
    close(process->pidfd);
    close(process->directory);
    if (process->thread_directory >= 0)
        close(process->thread_directory);
    pthread_mutex_destroy(&process->writes);
    pthread_mutex_destroy(&process->threads);
    pthread_mutex_destroy(&process->lock);
    free(process);
}

/* Under list_lock: one that was opened before and still is this process. */
static struct process *find_open(uint32_t id)
{
    for (struct process *p = all; p; p = p->next)
        if (p->id == id && !process_has_ended(p))
            return p;
    return NULL;
}

/* Takes the descriptor. */
static enum status open_with(uint32_t id, int pidfd, struct process **out)
{
    int error = process_try_memory(id);

    if (error && error != ESRCH) {
        close(pidfd);
        return cannot_open(id, error);
    }
    pthread_mutex_lock(&list_lock);
    *out = find_open(id);
    if (*out) {
        process_get(*out);
        close(pidfd);
    } else {
        *out = create(id, pidfd);
        if (!*out) {
            error = errno;
            close(pidfd);
        } else {
            (*out)->next = all;
            all = *out;
        }
    }
    pthread_mutex_unlock(&list_lock);
    if (!*out)
        return cannot_open(id, error);
    error = error ? process_reach(*out) : 0;
    if (!error && process_has_ended(*out))
        error = ESRCH; /* what was tried was it, or another of that number */
    if (error) {
        process_put(*out);
        *out = NULL;
    }
    return error ? cannot_open(id, error) : STATUS_OK;
}

enum status process_open(uint32_t id, struct process **out)
{
    NO_CANCEL;
    *out = NULL;
    if (id == 0 || id > INT32_MAX)
        return id ? cannot_open(id, ESRCH) : fail(STATUS_INVALID_ARGUMENT, "process id 0");
    int pidfd = (int)syscall(SYS_pidfd_open, (pid_t)id, 0);
    return pidfd < 0 ? cannot_open(id, errno) : open_with(id, pidfd, out);
}

/* The id a pidfd stands for: 0 not a pidfd, -1 ended or not visible here. */
static int64_t id_of(int pidfd)
{
    char name[48], line[128];
    int64_t id = 0;

    snprintf(name, sizeof(name), "/proc/thread-self/fdinfo/%d", pidfd);
    FILE *info = fopen(name, "re");
    if (!info)
        return 0;
    while (fgets(line, sizeof(line), info))
        if (sscanf(line, "Pid: %" SCNd64, &id) == 1)
            break;
    fclose(info);
    return id;
}

enum status process_open_pidfd(int pidfd, struct process **out)
{
    NO_CANCEL;
    int64_t id = pidfd < 0 ? 0 : id_of(pidfd);

    *out = NULL;
    if (id == 0)
        return fail(STATUS_INVALID_ARGUMENT, "descriptor %d is not a pidfd of a process seen from here", pidfd);
    if (id < 0)
        return fail(STATUS_NOT_FOUND, "the process of pidfd %d has ended", pidfd);
    int copy = fcntl(pidfd, F_DUPFD_CLOEXEC, 0);
    return copy < 0 ? cannot_open((uint32_t)id, errno) : open_with((uint32_t)id, copy, out);
}

void process_get(struct process *process)
{
    atomic_fetch_add(&process->references, 1);
}

void process_put(struct process *process)
{
    struct process **link = &all;

    pthread_mutex_lock(&list_lock);
    bool last = atomic_fetch_sub(&process->references, 1) == 1;
    while (last && *link != process)
        link = &(*link)->next;
    if (last)
        *link = process->next;
    pthread_mutex_unlock(&list_lock);
    if (last)
        destroy(process);
}

uint32_t process_id(const struct process *process)
{
    return process->id;
}

bool process_is_self(const struct process *process)
{
    return process->id == (uint32_t)getpid();
}

/* ---- memory by copying ---- */

static uint64_t copy(struct process *process, uint64_t address, void *local, uint64_t size, process_copy_fn *how)
{
    uint64_t done = 0;

    while (done < size && !atomic_load_explicit(&process->ended, memory_order_relaxed)) {
        const struct iovec here = {(char *)local + done, size - done};
        const struct iovec there = {(void *)(uintptr_t)(address + done), size - done};
        ssize_t n = how((pid_t)process->id, &here, 1, &there, 1, 0);
        if (unlikely(n < 0 && errno == ESRCH))
            n = process_copy_by_thread(process, how, &here, &there);
        if (n <= 0)
            break;
        done += (uint64_t)n;
    }
    return done;
}

uint64_t process_read(struct process *process, uint64_t address, void *local, uint64_t size)
{
    return copy(process, address, local, size, process_vm_readv);
}

uint64_t process_write(struct process *process, uint64_t address, const void *local, uint64_t size)
{
    return copy(process, address, (void *)(uintptr_t)local, size, process_vm_writev);
}

void process_lock_writes(struct process *process)
{
    pthread_mutex_lock(&process->writes);
}

void process_unlock_writes(struct process *process)
{
    pthread_mutex_unlock(&process->writes);
}

/* ---- what it maps ---- */

/* A line of /proc/ID/maps (proc(5)); the path, if any, is left out. */
static bool parse(const char *line, struct process_area *area)
{
    char rights[5];
    unsigned major, minor;

    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &area->start, &area->end, rights,
               &area->offset, &major, &minor, &area->inode) != 7)
        return false;
    area->readable = rights[0] == 'r';
    area->writable = rights[1] == 'w';
    area->executable = rights[2] == 'x';
    area->is_shared = rights[3] == 's';
    area->device = makedev(major, minor);
    return true;
}

/* In the process's directory, whichever that is now. -1: it cannot be had. */
static int open_in(struct process *process, const char *name)
{
    int directory = process_open_directory(process);
    int fd = directory < 0 ? -1 : openat(directory, name, O_RDONLY | O_CLOEXEC);

    if (directory >= 0)
        close(directory);
    return fd;
}

static FILE *open_maps(struct process *process)
{
    int fd = open_in(process, "maps");
    FILE *maps = fd < 0 ? NULL : fdopen(fd, "r");

    if (fd >= 0 && !maps)
        close(fd);
    return maps;
}

bool process_each_area(struct process *process, bool (*visit)(void *, const struct process_area *), void *context)
{
    NO_CANCEL;
    FILE *maps = open_maps(process);
    struct process_area area;
    char *line = NULL;
    size_t size = 0;
    bool more = true, any = false;

    if (!maps)
        return false;
    for (; more && getline(&line, &size, maps) > 0; any = true)
        more = !parse(line, &area) || visit(context, &area);
    free(line);
    fclose(maps);
    return any; /* nothing: the thread that was asked ended a moment ago */
}

struct allowed {
    uint64_t at, end;
    bool write;
};

static bool goes_on(void *context, const struct process_area *area)
{
    struct allowed *a = context;

    if (area->end <= a->at)
        return true;
    if (area->start > a->at || !(a->write ? area->writable : area->readable))
        return false;
    a->at = area->end;
    return a->at < a->end;
}

uint64_t process_allows(struct process *process, uint64_t address, uint64_t size, bool write)
{
    struct allowed a = {address, address + size, write};

    if (atomic_load(&process->ended) || !process_each_area(process, goes_on, &a))
        return 0;
    return (a.at < a.end ? a.at : a.end) - address;
}

uint64_t process_resident(struct process *process, uint64_t address, uint64_t size)
{
    NO_CANCEL;
    uint64_t entries[512], pages = size >> PAGE_SHIFT, present = 0;
    int fd = open_in(process, "pagemap");

    for (uint64_t done = 0; fd >= 0 && done < pages; done += array_size(entries)) {
        size_t n = pages - done < array_size(entries) ? pages - done : array_size(entries);
        ssize_t got = pread(fd, entries, n * sizeof(entries[0]), (off_t)(((address >> PAGE_SHIFT) + done) * sizeof(entries[0])));
        for (size_t i = 0; i < n && (ssize_t)(i * sizeof(entries[0])) < got; i++)
            present += entries[i] >> 63; /* bit 63: present (proc_pid_pagemap(5)) */
    }
    if (fd >= 0)
        close(fd);
    return present << PAGE_SHIFT;
}

/* ---- files behind shared areas ---- */

static bool is_file_of(const struct process_area *area, const struct stat *s)
{
    return S_ISREG(s->st_mode) && s->st_ino == area->inode && s->st_dev == area->device;
}

/* Needs a privilege (CAP_CHECKPOINT_RESTORE), and finds what has neither a name nor a descriptor any more. */
static int open_by_area(int directory, const struct process_area *area, int flags)
{
    char name[64];
    struct stat s;

    snprintf(name, sizeof(name), "map_files/%" PRIx64 "-%" PRIx64, area->start, area->end);
    if (fstatat(directory, name, &s, 0) != 0 || !S_ISREG(s.st_mode))
        return -1; /* a device is not to be opened: that may do something */
    return openat(directory, name, flags);
}

/* One of the process's descriptors is of that file. */
static int open_by_descriptor(int directory, const struct process_area *area, int flags)
{
    int list = openat(directory, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *fds = list < 0 ? NULL : fdopendir(list);
    struct dirent *entry;
    struct stat s;
    int fd = -1;

    if (!fds) {
        if (list >= 0)
            close(list);
        return -1;
    }
    while (fd < 0 && (entry = readdir(fds)) != NULL)
        if (fstatat(list, entry->d_name, &s, 0) == 0 && is_file_of(area, &s))
            fd = openat(list, entry->d_name, flags);
    closedir(fds);
    return fd;
}

int process_open_file(struct process *process, const struct process_area *area)
{
    NO_CANCEL;
    int flags = (area->writable ? O_RDWR : O_RDONLY) | O_CLOEXEC;
    struct stat s;

    if (!area->is_shared || area->inode == 0)
        return -1;
    int directory = process_open_directory(process);
    if (directory < 0)
        return -1;
    int fd = open_by_area(directory, area, flags);
    if (fd < 0)
        fd = open_by_descriptor(directory, area, flags);
    close(directory);
    if (fd >= 0 && (fstat(fd, &s) != 0 || s.st_ino != area->inode)) {
        close(fd); /* the area was replaced meanwhile */
        fd = -1;
    }
    return fd;
}
