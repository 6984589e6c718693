#include "mem/gpa_sources.h"

#include "util/last_error.h"

#include <stdlib.h>
#include <string.h>

/* ---- access by copying ---- */

static uint64_t remote_address(const struct gpa_view *view, gpa_t gpa)
{
    return (uintptr_t)gpa_view_host(view, gpa);
}

bool gpa_source_read(const struct gpa_view *view, gpa_t gpa, void *to, uint64_t size)
{
    return process_read(view->source->process, remote_address(view, gpa), to, size) == size;
}

bool gpa_source_write(const struct gpa_view *view, gpa_t gpa, const void *from, uint64_t size)
{
    struct process *process = view->source->process;

    process_lock_writes(process);
    bool done = process_write(process, remote_address(view, gpa), from, size) == size;
    process_unlock_writes(process);
    return done;
}

/* Bytes that can be loaded: one is tried in each page. */
static uint64_t probe_read(struct process *process, uint64_t address, uint64_t size)
{
    uint64_t done = 0;
    uint8_t byte;

    while (done < size && process_read(process, address + done, &byte, 1) == 1)
        done += PAGE_SIZE - ((address + done) & ~PAGE_MASK);
    return done < size ? done : size;
}

uint64_t gpa_source_probe(const struct gpa_view *view, gpa_t gpa, uint64_t size, bool write)
{
    uint64_t readable = probe_read(view->source->process, remote_address(view, gpa), size);

    return write && readable ? process_allows(view->source->process, remote_address(view, gpa), readable, true) : readable;
}

bool gpa_source_exchange(const struct gpa_view *view, gpa_t gpa, unsigned size, uint64_t expected, uint64_t desired, bool *done)
{
    struct process *process = view->source->process;
    uint64_t address = remote_address(view, gpa), found = 0;

    process_lock_writes(process);
    bool there = process_read(process, address, &found, size) == size;
    *done = there && found == expected;
    if (*done)
        there = process_write(process, address, &desired, size) == size;
    process_unlock_writes(process);
    *done = *done && there;
    return there;
}

uint64_t gpa_space_resident_copied(struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    struct gpa_view view;
    uint64_t resident = 0;

    gpa_space_read_begin(space);
    if (gpa_space_find_mapped(space, gpa, &view) && view.source && view.size - (gpa - view.gpa) >= size)
        resident = process_resident(view.source->process, remote_address(&view, gpa), size);
    gpa_space_read_end(space);
    return resident;
}

/* ---- the sources of a space ---- */

static void destroy(struct process_source *source)
{
    if (source->view)
        process_view_close(source->view);
    else
        process_unwatch(source->process);
    process_put(source->process);
    free(source);
}

/* Takes the view. */
static struct process_source *create(struct process *process, struct process_view *view)
{
    struct process_source *source = malloc(sizeof(*source));

    if (!source || (!view && !process_watch(process))) {
        free(source);
        return NULL;
    }
    *source = (struct process_source){.process = process, .view = view};
    process_get(process);
    return source;
}

struct process_source *gpa_sources_of(const struct gpa_space *space, uint32_t owner)
{
    return owner ? space->sources.array[owner - 1] : NULL;
}

static struct process_source *find(const struct gpa_sources *sources, const struct process *process,
                                   const struct process_area *area)
{
    for (uint32_t i = 0; i < sources->count; i++) {
        struct process_source *s = sources->array[i];
        if (s && s->process == process && (area ? s->view && process_view_is_of(s->view, area) : !s->view))
            return s;
    }
    return NULL;
}

/* Processors read the array: it is replaced, not moved, and the old one kept until nobody can look (gpa_sources_sweep). */
static bool make_room(struct gpa_space *space)
{
    struct gpa_sources *sources = &space->sources;
    uint32_t capacity = sources->capacity ? 2 * sources->capacity : 8;

    if (sources->live < sources->capacity)
        return true;
    struct process_source **array = calloc(capacity, sizeof(*array));
    if (!array)
        return false;
    if (sources->count)
        memcpy(array, sources->array, sources->count * sizeof(*array));
    gpa_space_hold(space);
    struct process_source **old = sources->array;
    sources->array = array;
    sources->capacity = capacity;
    gpa_space_release(space, NULL);
    free(old);
    return true;
}

static void enter(struct gpa_sources *sources, struct process_source *source)
{
    uint32_t i = 0;

    while (i < sources->count && sources->array[i])
        i++;
    sources->array[i] = source;
    sources->count += i == sources->count;
    sources->live++;
    source->owner = i + 1;
}

/* The source of an area of the process, or (area NULL) of what is copied; a new one has no pages yet. NULL: cannot be had. */
static struct process_source *get_source(struct gpa_space *space, struct process *process, const struct process_area *area)
{
    struct process_source *source = find(&space->sources, process, area);

    if (source || !make_room(space))
        return source;
    struct process_view *view = area ? process_view_open(process, area) : NULL;
    if (area && !view)
        return NULL;
    source = create(process, view);
    if (source)
        enter(&space->sources, source);
    else if (view)
        process_view_close(view);
    return source;
}

void gpa_sources_forget(struct gpa_space *space, struct gpa_range range)
{
    struct extent array[32];
    gpa_t at = range.gpa, end = range_end(range);
    size_t n = array_size(array);

    while (space->sources.live && at < end && n == array_size(array)) {
        n = extent_tree_list(&space->mappings, at, array, array_size(array));
        for (size_t i = 0; i < n && at < end; i++) {
            struct gpa_range part = range_intersect(range, (struct gpa_range){array[i].start, array[i].size});
            if (array[i].owner && part.size)
                gpa_sources_of(space, array[i].owner)->pages -= pages_of(part.size);
            at = array[i].start + array[i].size;
        }
    }
}

void gpa_sources_sweep(struct gpa_space *space)
{
    struct gpa_sources *sources = &space->sources;

    for (uint32_t i = 0; i < sources->count && sources->live; i++) {
        struct process_source *source = sources->array[i];
        if (!source || source->pages)
            continue;
        sources->array[i] = NULL;
        sources->live--;
        destroy(source);
    }
    while (sources->count && !sources->array[sources->count - 1])
        sources->count--;
}

void gpa_sources_fini(struct gpa_space *space)
{
    for (uint32_t i = 0; i < space->sources.count; i++)
        if (space->sources.array[i])
            destroy(space->sources.array[i]);
    free(space->sources.array);
}

/* ---- mapping ---- */

/* The pieces of one mapping, in ascending order without gaps. */
struct build {
    struct gpa_space *space;
    const struct gpa_mapping *mapping;
    struct process *process;
    bool may_copy;
    uint64_t done; /* bytes of the mapping that have a piece */
    struct extent *pieces;
    size_t count, capacity;
    enum status status;
};

static bool refuse(struct build *b, enum status status, const char *why)
{
    if (b->status == STATUS_OK)
        b->status = fail(status, RANGE_FORMAT "process %u: %s", b->mapping->gpa, b->mapping->size, process_id(b->process), why);
    return false;
}

static bool add_piece(struct build *b, uint64_t size, const struct process_source *source, uint64_t target)
{
    if (b->count == b->capacity) {
        size_t capacity = b->capacity ? 2 * b->capacity : 16;
        struct extent *pieces = realloc(b->pieces, capacity * sizeof(*pieces));
        if (!pieces)
            return refuse(b, STATUS_NO_MEMORY, "no memory for the mapping");
        b->pieces = pieces;
        b->capacity = capacity;
    }
    b->pieces[b->count++] = (struct extent){b->mapping->gpa + b->done, size, target, source->owner, b->mapping->flags};
    b->done += size;
    return true;
}

static uint64_t address_at(const struct build *b, uint64_t done)
{
    return (uintptr_t)b->mapping->host + done;
}

static bool add_copied(struct build *b, uint64_t end)
{
    if (b->done == end)
        return true;
    if (!b->may_copy)
        return refuse(b, STATUS_NOT_SUPPORTED, "part of the memory is not shared, and this engine cannot reach it by copying");
    struct process_source *source = get_source(b->space, b->process, NULL);
    if (!source)
        return refuse(b, STATUS_NO_MEMORY, "no memory, or no thread to wait for its end");
    return add_piece(b, end - b->done, source, address_at(b, b->done));
}

/* An area: what is before it and was not taken yet is copied; so is what cannot be shared, together with what follows. */
static bool take_area(void *context, const struct process_area *area)
{
    struct build *b = context;
    uint64_t first = address_at(b, 0), last = first + b->mapping->size;
    uint64_t free = first + b->done; /* areas do not overlap, or so the list of a process that changes them meanwhile says */
    uint64_t start = area->start > free ? area->start : free, end = area->end < last ? area->end : last;

    if (area->start >= last)
        return false;
    if (start >= end || !area->is_shared)
        return true;
    struct process_source *source = get_source(b->space, b->process, area);
    if (!source)
        return true;
    return add_copied(b, start - first) &&
           add_piece(b, end - start, source, (uintptr_t)process_view_local(source->view, start));
}

static enum status build(struct build *b)
{
    if (process_has_ended(b->process) || !process_each_area(b->process, take_area, b))
        refuse(b, STATUS_ACCESS_DENIED, "it has ended, or does not let its memory be seen");
    if (b->status == STATUS_OK)
        (void)add_copied(b, b->mapping->size);
    return b->status;
}

enum status gpa_space_map_process(struct gpa_space *space, const struct gpa_mapping *mapping, struct process *process,
                                  bool may_copy)
{
    struct build b = {.space = space, .mapping = mapping, .process = process, .may_copy = may_copy};
    enum status status;

    if (process_is_self(process))
        return gpa_space_map(space, mapping);
    status = gpa_space_check_mapping(space, mapping);
    if (status != STATUS_OK)
        return status;
    pthread_mutex_lock(&space->change);
    status = build(&b);
    if (status == STATUS_OK)
        status = gpa_space_replace(space, (struct gpa_range){mapping->gpa, mapping->size}, b.pieces, b.count);
    gpa_sources_sweep(space);
    pthread_mutex_unlock(&space->change);
    free(b.pieces);
    return status;
}
