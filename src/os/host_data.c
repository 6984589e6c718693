/*
 * What the kernel tells, by kind of memory (each area of /proc/PID/maps):
 *   private without a file   /proc/PID/pagemap: a page that is neither present nor swapped was never touched
 *   shared                   the file's holes (lseek SEEK_DATA), exact for memfd and tmpfs whether in memory or swapped
 *   private with a file      nothing: all of it
 *
 * The list of areas is long where much is mapped, so it is read once for many questions.
 */
#include "os/host_data.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/cancel.h"
#include "os/process.h"
#include "util/compiler.h"
#include "util/last_error.h"

/* proc_pid_pagemap(5) */
#define PRESENT ((uint64_t)1 << 63)
#define SWAPPED ((uint64_t)1 << 62)

struct host_data {
    struct process *self;
    struct process_area *areas; /* ascending */
    size_t count, capacity;
    bool no_memory; /* for all areas */
    int pagemap;
    size_t file_area; /* the area whose file was asked for last */
    int file;         /* -1: it cannot be had */
};

struct search {
    host_data_visitor *visit;
    void *context;
};

/* ---- areas ---- */

static bool note_area(void *context, const struct process_area *area)
{
    struct host_data *data = context;

    if (data->count == data->capacity) {
        size_t capacity = data->capacity ? 2 * data->capacity : 256;
        struct process_area *areas = realloc(data->areas, capacity * sizeof(*areas));
        data->no_memory = !areas;
        if (!areas)
            return false;
        data->areas = areas;
        data->capacity = capacity;
    }
    data->areas[data->count++] = *area;
    return true;
}

struct host_data *host_data_open(void)
{
    NO_CANCEL;
    struct host_data *data = calloc(1, sizeof(*data));

    if (!data)
        return NULL;
    data->pagemap = data->file = -1;
    data->file_area = SIZE_MAX;
    if (process_open((uint32_t)getpid(), &data->self) != STATUS_OK)
        last_error_clear();
    if (!data->self || !process_each_area(data->self, note_area, data) || data->no_memory) {
        host_data_close(data);
        return NULL;
    }
    data->pagemap = open("/proc/thread-self/pagemap", O_RDONLY | O_CLOEXEC);
    return data;
}

void host_data_close(struct host_data *data)
{
    NO_CANCEL;

    if (!data)
        return;
    if (data->file >= 0)
        close(data->file);
    if (data->pagemap >= 0)
        close(data->pagemap);
    if (data->self)
        process_put(data->self);
    free(data->areas);
    free(data);
}

/* The index of the first area that ends above the address. */
static size_t area_from(const struct host_data *data, uintptr_t address)
{
    size_t low = 0, high = data->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (data->areas[middle].end > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static int file_of(struct host_data *data, size_t index)
{
    if (data->file_area == index)
        return data->file;
    if (data->file >= 0)
        close(data->file);
    data->file = process_open_file(data->self, &data->areas[index]);
    data->file_area = index;
    return data->file;
}

/* ---- what is in them ---- */

static void tell(const struct search *s, uintptr_t start, uintptr_t end)
{
    if (start < end)
        s->visit(s->context, start, end);
}

static void search_pagemap(const struct search *s, int pagemap, uintptr_t start, uintptr_t end)
{
    uint64_t entries[2048];
    uintptr_t run = 0;

    for (uintptr_t at = start; at < end;) {
        size_t n = (end - at) >> PAGE_SHIFT;
        n = n < array_size(entries) ? n : array_size(entries);
        ssize_t got = pread(pagemap, entries, n * sizeof(entries[0]), (off_t)((at >> PAGE_SHIFT) * sizeof(entries[0])));
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

static void search_area(struct host_data *data, size_t index, const struct search *s, uintptr_t start, uintptr_t end)
{
    const struct process_area *area = &data->areas[index];
    int fd;

    start = area->start > start ? area->start : start;
    end = area->end < end ? area->end : end;
    if (!area->is_shared && area->inode == 0 && data->pagemap >= 0)
        search_pagemap(s, data->pagemap, start, end);
    else if ((fd = file_of(data, index)) >= 0)
        search_file(s, fd, area, start, end);
    else
        tell(s, start, end);
}

void host_data_each(struct host_data *data, const void *address, uint64_t size, host_data_visitor *visit, void *context)
{
    NO_CANCEL;
    const struct search s = {visit, context};
    const uintptr_t start = (uintptr_t)address, end = start + size;

    if (!data) {
        tell(&s, start, end);
        return;
    }
    for (size_t i = area_from(data, start); i < data->count && data->areas[i].start < end; i++)
        search_area(data, i, &s, start, end);
}

void host_data_each_file(const struct host_data *data, const void *address, uint64_t size, host_file_visitor *visit, void *context)
{
    const uintptr_t start = (uintptr_t)address, end = start + size;

    for (size_t i = area_from(data, start); i < data->count && data->areas[i].start < end; i++) {
        const struct process_area *area = &data->areas[i];
        const uintptr_t from = area->start > start ? area->start : start, to = area->end < end ? area->end : end;
        if (area->inode)
            visit(context, &(struct host_file_piece){from, area->device, area->inode, area->offset + (from - area->start),
                                                     to - from, !area->is_shared});
    }
}

/* ---- what is there ---- */

/* Where the area ends being there: at the end of its file, if that can be asked. */
static uintptr_t end_of_memory(struct host_data *data, size_t index)
{
    const struct process_area *area = &data->areas[index];
    struct stat s;

    if (!area->is_shared || !area->inode || file_of(data, index) < 0 || fstat(data->file, &s) != 0 || !S_ISREG(s.st_mode))
        return area->end;
    const uint64_t size = ((uint64_t)s.st_size + PAGE_SIZE - 1) & PAGE_MASK, before = area->offset;
    if (size <= before)
        return area->start;
    return size - before < area->end - area->start ? area->start + (size - before) : area->end;
}

void host_data_each_missing(struct host_data *data, const void *address, uint64_t size, host_data_visitor *visit, void *context)
{
    NO_CANCEL;
    const struct search s = {visit, context};
    uintptr_t at = (uintptr_t)address, end = at + size;

    if (!data)
        return;
    for (size_t i = area_from(data, at); i < data->count && data->areas[i].start < end; i++) {
        tell(&s, at, data->areas[i].start);
        at = data->areas[i].start > at ? data->areas[i].start : at;
        const uintptr_t there = end_of_memory(data, i);
        at = there > at ? there : at;
    }
    tell(&s, at, end);
}

/* A shared area may reach beyond its file's end. */
static bool has_file_behind(struct host_data *data, size_t index, uintptr_t end)
{
    const struct process_area *area = &data->areas[index];
    struct stat s;

    return !area->is_shared ? area->inode == 0
                            : file_of(data, index) >= 0 && fstat(data->file, &s) == 0 &&
                                  (uint64_t)s.st_size >= area->offset + (end - area->start);
}

bool host_data_is_writable(struct host_data *data, const void *address, uint64_t size)
{
    NO_CANCEL;
    const uintptr_t end = (uintptr_t)address + size;
    uintptr_t at = (uintptr_t)address;

    for (size_t i = data ? area_from(data, at) : 0; data && at < end && i < data->count; i++) {
        const struct process_area *area = &data->areas[i];
        const uintptr_t stop = area->end < end ? area->end : end;
        if (area->start > at || !area->readable || !area->writable || !has_file_behind(data, i, stop))
            return false;
        at = stop;
    }
    return at >= end;
}
