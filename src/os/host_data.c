/*
 * What the kernel tells, by kind of memory (each area of /proc/self/maps):
 *   private without a file   /proc/self/pagemap: a page that is neither present nor swapped was never touched
 *   shared                   the file's holes (lseek SEEK_DATA), exact for memfd and tmpfs whether in memory or swapped
 *   private with a file      nothing: all of it
 */
#include "os/host_data.h"

#include <fcntl.h>
#include <unistd.h>

#include "os/cancel.h"
#include "os/process.h"
#include "util/compiler.h"
#include "util/last_error.h"

/* proc_pid_pagemap(5) */
#define PRESENT ((uint64_t)1 << 63)
#define SWAPPED ((uint64_t)1 << 62)

struct search {
    struct process *self;
    uintptr_t start, end;
    host_data_visitor *visit;
    void *context;
    int pagemap;
};

static void tell(const struct search *s, uintptr_t start, uintptr_t end)
{
    if (start < end)
        s->visit(s->context, start, end);
}

static void search_pagemap(const struct search *s, uintptr_t start, uintptr_t end)
{
    uint64_t entries[2048];
    uintptr_t run = 0;

    for (uintptr_t at = start; at < end;) {
        size_t n = (end - at) >> PAGE_SHIFT;
        n = n < array_size(entries) ? n : array_size(entries);
        ssize_t got = pread(s->pagemap, entries, n * sizeof(entries[0]), (off_t)((at >> PAGE_SHIFT) * sizeof(entries[0])));
        if (got < (ssize_t)(n * sizeof(entries[0]))) {
            tell(s, run ? run : at, end);
            return;
        }
        for (size_t i = 0; i < n; i++, at += PAGE_SIZE) {
            bool is_used = entries[i] & (PRESENT | SWAPPED);
            if (is_used && !run)
                run = at;
            if (!is_used && run)
                tell(s, run, at);
            run = is_used ? run : 0;
        }
    }
    if (run)
        tell(s, run, end);
}

static void search_file(const struct search *s, int fd, const struct process_area *area, uintptr_t start, uintptr_t end)
{
    const uint64_t base = area->offset - area->start; /* file offset = address + base */
    off_t at = (off_t)(start + base), limit = (off_t)(end + base);

    while (at < limit) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0 || data >= limit)
            return; /* ENXIO: nothing behind */
        off_t hole = lseek(fd, data, SEEK_HOLE);
        if (hole < 0 || hole > limit)
            hole = limit;
        uintptr_t first = (uintptr_t)((uint64_t)data - base) & PAGE_MASK;
        uintptr_t last = ((uintptr_t)((uint64_t)hole - base) + PAGE_SIZE - 1) & PAGE_MASK;
        tell(s, first, last);
        at = (off_t)(last + base);
    }
}

static bool search_area(void *context, const struct process_area *area)
{
    const struct search *s = context;
    uintptr_t start = area->start > s->start ? area->start : s->start;
    uintptr_t end = area->end < s->end ? area->end : s->end;

    if (start >= end)
        return area->start < s->end;
    if (!area->is_shared && area->inode == 0 && s->pagemap >= 0) {
        search_pagemap(s, start, end);
        return true;
    }
    int fd = process_open_file(s->self, area);
    if (fd >= 0) {
        search_file(s, fd, area, start, end);
        close(fd);
    } else {
        tell(s, start, end);
    }
    return true;
}

void host_each_data(const void *address, uint64_t size, host_data_visitor *visit, void *context)
{
    NO_CANCEL;
    struct search s = {.start = (uintptr_t)address, .end = (uintptr_t)address + size, .visit = visit, .context = context};

    if (process_open((uint32_t)getpid(), &s.self) != STATUS_OK) {
        last_error_clear();
        tell(&s, s.start, s.end);
        return;
    }
    s.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (!process_each_area(s.self, search_area, &s))
        tell(&s, s.start, s.end);
    if (s.pagemap >= 0)
        close(s.pagemap);
    process_put(s.self);
}
