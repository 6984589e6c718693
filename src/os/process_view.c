#include "os/process_view.h"

#include "os/process_state.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct process_view {
    struct process *process;
    struct process_area area;
    uint8_t *local;
    struct process_view *next; /* of the process, under its lock */
};

static uint64_t size_of(const struct process_view *view)
{
    return view->area.end - view->area.start;
}

static void *map_file(struct process *process, const struct process_area *area)
{
    int protection = (area->readable ? PROT_READ : 0) | (area->writable ? PROT_READ | PROT_WRITE : 0);
    int fd = process_open_file(process, area);
    void *local = fd < 0 ? MAP_FAILED
                         : mmap(NULL, area->end - area->start, protection, MAP_SHARED | MAP_NORESERVE, fd, (off_t)area->offset);

    if (fd >= 0)
        close(fd);
    return local;
}

struct process_view *process_view_open(struct process *process, const struct process_area *area)
{
    struct process_view *view = malloc(sizeof(*view));
    void *local = view ? map_file(process, area) : MAP_FAILED;

    if (local == MAP_FAILED || !process_watch(process)) {
        if (local != MAP_FAILED)
            munmap(local, area->end - area->start);
        free(view);
        return NULL;
    }
    process_get(process);
    *view = (struct process_view){.process = process, .area = *area, .local = local};
    pthread_mutex_lock(&process->lock);
    view->next = process->views;
    process->views = view;
    if (atomic_load(&process->ended))
        process_views_forget(process);
    pthread_mutex_unlock(&process->lock);
    return view;
}

void process_view_close(struct process_view *view)
{
    struct process *process = view->process;
    struct process_view **link = &process->views;

    pthread_mutex_lock(&process->lock);
    while (*link != view)
        link = &(*link)->next;
    *link = view->next;
    pthread_mutex_unlock(&process->lock);
    munmap(view->local, size_of(view));
    process_unwatch(process);
    process_put(process);
    free(view);
}

void process_views_forget(struct process *process)
{
    for (struct process_view *view = process->views; view; view = view->next)
        mprotect(view->local, size_of(view), PROT_NONE);
}

bool process_view_is_of(const struct process_view *view, const struct process_area *area)
{
    const struct process_area *a = &view->area;

    return a->start == area->start && a->end == area->end && a->inode == area->inode && a->device == area->device &&
           a->offset == area->offset && a->readable == area->readable && a->writable == area->writable;
}

void *process_view_local(const struct process_view *view, uint64_t address)
{
    return view->local + (address - view->area.start);
}

uint64_t process_view_remote(const struct process_view *view, const void *local)
{
    return view->area.start + (uint64_t)((const uint8_t *)local - view->local);
}
