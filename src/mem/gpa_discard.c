/*
 * Discard: give the host pages behind a range back; the next touch finds zeros.
 *
 * How depends on what the pages are, and the wrong way is silently wrong (MADV_DONTNEED on a shared mapping drops nothing but
 * page table entries, on a private file mapping it brings the file's bytes back). So the process's own areas are read first,
 * and all of the range must be of the first two kinds before anything is done:
 *
 *      private, no file                    MADV_DONTNEED
 *      shared and writable (memfd, shm,    MADV_REMOVE: a hole in the file, zeros for everybody who maps it
 *        a file), of ourselves or through a view of another process
 *      anything else                       refused
 *
 * So is memory of a process that has ended, whatever it was: its views are inaccessible, as for all other calls.
 *
 * It is a change like a map (gpa_space.c): processors are held meanwhile, and forget what they derived from the range.
 */
#include "mem/gpa_advise.h"

#include "mem/gpa_sources.h"
#include "os/process.h"
#include "util/last_error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { REFUSED, BY_DONTNEED = MADV_DONTNEED, BY_REMOVE = MADV_REMOVE };

/* A run of our addresses, and the advice that discards it. */
struct run {
    uint64_t start, end;
    int advice; /* or REFUSED */
};

struct runs {
    struct run *array;
    size_t count, capacity;
    bool no_memory;
};

static int advice_for(const struct process_area *area)
{
    if (area->is_shared)
        return area->writable && area->inode ? BY_REMOVE : REFUSED;
    return area->inode ? REFUSED : BY_DONTNEED;
}

static bool note_area(void *context, const struct process_area *area)
{
    struct runs *runs = context;
    struct run run = {area->start, area->end, advice_for(area)};
    struct run *last = runs->count ? &runs->array[runs->count - 1] : NULL;

    if (last && last->end == run.start && last->advice == run.advice) {
        last->end = run.end;
        return true;
    }
    if (runs->count == runs->capacity) {
        size_t more = runs->capacity ? 2 * runs->capacity : 256;
        struct run *array = realloc(runs->array, more * sizeof(*array));
        if (!array) {
            runs->no_memory = true;
            return false;
        }
        runs->array = array;
        runs->capacity = more;
    }
    runs->array[runs->count++] = run;
    return true;
}

static enum status read_runs(struct runs *runs)
{
    struct process *self;
    enum status status = process_open((uint32_t)getpid(), &self);

    if (status != STATUS_OK)
        return status;
    if (!process_each_area(self, note_area, runs) && !runs->no_memory)
        status = fail(STATUS_NOT_SUPPORTED, "discard: what this process maps cannot be read");
    process_put(self);
    return runs->no_memory ? fail(STATUS_NO_MEMORY, "discard: no memory for the list of what is mapped") : status;
}

/* The first run that ends above the address; NULL: none. */
static const struct run *run_at(const struct runs *runs, uint64_t address)
{
    size_t low = 0, high = runs->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (runs->array[middle].end > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low < runs->count ? &runs->array[low] : NULL;
}

struct discard {
    struct gpa_space *space;
    struct gpa_range range;
    struct runs runs;
};

static enum status refuse(const struct discard *d, enum status status, gpa_t at, const char *why)
{
    return fail(status, RANGE_FORMAT "discard: the page at 0x%" PRIx64 " %s", d->range.gpa, d->range.size, at, why);
}

/* What begins at `at`: one mapping over one run, as much as can be discarded at once. */
static enum status next_piece(const struct discard *d, gpa_t at, struct extent *piece, int *advice)
{
    *piece = extent_tree_piece(&d->space->mappings, at, range_end(d->range));
    if (piece->owner && process_has_ended(gpa_sources_of(d->space, piece->owner)->process))
        return refuse(d, STATUS_ACCESS_DENIED, at, "is memory of another process, which has ended");
    if (piece->owner && gpa_space_copied(d->space, piece->owner))
        return refuse(d, STATUS_NOT_SUPPORTED, at, "is private memory of another process");
    const struct run *run = run_at(&d->runs, piece->target);
    if (!run || run->start > piece->target)
        return refuse(d, STATUS_ACCESS_DENIED, at, "has no host memory");
    if (run->advice == REFUSED)
        return refuse(d, STATUS_NOT_SUPPORTED, at,
                      "is memory that cannot be discarded: a private mapping of a file, or shared and read-only");
    if (piece->size > run->end - piece->target)
        piece->size = run->end - piece->target;
    *advice = run->advice;
    return STATUS_OK;
}

/* The first pinned page of the range, or its end. */
static gpa_t pinned_at(const struct gpa_space *space, gpa_t gpa, gpa_t end)
{
    struct extent pins;
    for (; gpa < end; gpa += pins.size) {
        pins = extent_tree_piece(&space->pins, gpa, end);
        if (pins.attributes)
            break;
    }
    return gpa;
}

static enum status check_all(const struct discard *d)
{
    struct extent piece;
    int advice;
    enum status status = STATUS_OK;
    uint64_t mapped = gpa_space_covered(d->space, d->range.gpa, d->range.size, 0);

    if (mapped < d->range.size)
        return refuse(d, STATUS_GPA_RANGE_NOT_FOUND, d->range.gpa + mapped, "is not mapped");
    for (gpa_t at = d->range.gpa; status == STATUS_OK && at < range_end(d->range); at += piece.size)
        status = next_piece(d, at, &piece, &advice);
    gpa_t pinned = pinned_at(d->space, d->range.gpa, range_end(d->range));
    if (status == STATUS_OK && pinned < range_end(d->range))
        status = refuse(d, STATUS_ACCESS_DENIED, pinned, "is pinned");
    return status;
}

/* Processors are held. Dirty first: a failure in the middle of a piece may have discarded a part of it. */
static enum status discard_piece(const struct discard *d, const struct extent *piece, int advice)
{
    struct gpa_view view = gpa_view_of(d->space, piece);

    if (view.dirty)
        gpa_dirty_mark_range(view.dirty, pages_of(piece->start), pages_of(piece->size));
    if (madvise((void *)(uintptr_t)piece->target, piece->size, advice) == 0)
        return STATUS_OK;
    bool is_gone = errno == ENOMEM || errno == EACCES; /* not there; or of a process that ended a moment ago */
    return fail(is_gone ? STATUS_ACCESS_DENIED : STATUS_NOT_SUPPORTED,
                RANGE_FORMAT "discard: the host does not discard 0x%" PRIx64 " bytes behind 0x%" PRIx64 ": %s%s", d->range.gpa,
                d->range.size, piece->size, piece->start, strerror(errno),
                errno == EINVAL ? " (is it locked in memory?)" : "");
}

static enum status discard_all(const struct discard *d)
{
    const struct gpa_change change = {GPA_CHANGE_MAP, d->range};
    struct extent piece;
    int advice;
    enum status status = STATUS_OK;

    gpa_space_hold(d->space);
    for (gpa_t at = d->range.gpa; status == STATUS_OK && at < range_end(d->range); at += piece.size) {
        status = next_piece(d, at, &piece, &advice);
        if (status == STATUS_OK)
            status = discard_piece(d, &piece, advice);
    }
    gpa_space_release(d->space, &change);
    return status;
}

enum status gpa_space_discard(struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    struct discard d = {space, {gpa, size}, {0}};
    enum status status = gpa_space_check_pages(space, gpa, size);
    if (status != STATUS_OK)
        return status;

    pthread_mutex_lock(&space->change);
    status = read_runs(&d.runs);
    if (status == STATUS_OK)
        status = check_all(&d);
    if (status == STATUS_OK)
        status = discard_all(&d);
    pthread_mutex_unlock(&space->change);
    free(d.runs.array);
    return status;
}
