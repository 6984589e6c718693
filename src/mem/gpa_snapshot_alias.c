/*
 * Aliases of a snapshot's memory: one page at several guest addresses. A store marks only the address it is made through.
 *
 * A page of the snapshot that is mapped at another address, too, where the snapshot has none, can be stored to there without a
 * mark at its own. So it counts as changed from that map on. The ranges are sorted by their memory when the first such map asks.
 *
 * Whether pages of the snapshot itself are aliases is asked by host address and, as a file can be mapped twice, by file.
 */
#include <stdlib.h>

#include "mem/gpa_snapshot_state.h"
#include "os/host_data.h"

/* ---- the snapshot's memory, mapped elsewhere ---- */

static int by_target(const void *a, const void *b)
{
    const struct gpa_snapshot_target *x = a, *y = b;

    if (x->owner != y->owner)
        return x->owner < y->owner ? -1 : 1;
    return x->start < y->start ? -1 : x->start > y->start;
}

bool gpa_snapshot_index(struct gpa_snapshot *s)
{
    if (likely(s->targets))
        return true;
    struct gpa_snapshot_target *t = malloc((s->count + 1) * sizeof(*t));
    if (!t)
        return false;
    for (size_t i = 0; i < s->count; i++) {
        const struct gpa_snapshot_range *r = &s->ranges[i];
        t[i] = (struct gpa_snapshot_target){r->owner, i, r->target, r->target + r->size, r->target + r->size};
    }
    qsort(t, s->count, sizeof(*t), by_target);
    for (size_t i = 1; i < s->count; i++)
        if (t[i].owner == t[i - 1].owner && t[i - 1].farthest > t[i].farthest)
            t[i].farthest = t[i - 1].farthest;
    s->targets = t;
    return true;
}

/* The first target that may reach beyond the address: the ends of all before it do not. */
static size_t first_beyond(const struct gpa_snapshot *s, uint32_t owner, uint64_t address)
{
    size_t low = 0, high = s->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct gpa_snapshot_target *t = &s->targets[middle];
        if (t->owner < owner || (t->owner == owner && t->farthest <= address))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void gpa_snapshot_note_memory(const struct gpa_snapshot *s, const struct extent *mapped, struct gpa_consumer *consumer)
{
    const uint64_t start = mapped->target, end = start + mapped->size;

    for (size_t i = first_beyond(s, mapped->owner, start); i < s->count; i++) {
        const struct gpa_snapshot_target *t = &s->targets[i];
        const uint64_t from = t->start > start ? t->start : start, to = t->end < end ? t->end : end;
        if (t->owner != mapped->owner || t->start >= end)
            return;
        if (from < to)
            gpa_consumer_note(consumer, (struct gpa_range){s->ranges[t->range].gpa + (from - t->start), to - from});
    }
}

/* ---- within the snapshot ---- */

/* Is one host address at two guest addresses? Without memory to tell, perhaps. */
static bool has_equal_targets(struct gpa_snapshot *s)
{
    if (!gpa_snapshot_index(s))
        return true;
    for (size_t i = 1; i < s->count; i++)
        if (s->targets[i].owner == s->targets[i - 1].owner && s->targets[i].start < s->targets[i - 1].end)
            return true;
    return false;
}

/* The pieces of files that a snapshot's ranges are. */
struct files {
    struct host_file_piece *array;
    size_t count, capacity;
    bool no_memory;
};

/* A host_file_visitor. */
static void note_file(void *context, const struct host_file_piece *piece)
{
    struct files *f = context;

    if (f->count == f->capacity) {
        size_t capacity = f->capacity ? 2 * f->capacity : 64;
        struct host_file_piece *array = realloc(f->array, capacity * sizeof(*array));
        f->no_memory = f->no_memory || !array;
        if (!array)
            return;
        f->array = array;
        f->capacity = capacity;
    }
    f->array[f->count++] = *piece;
}

static int by_file(const void *a, const void *b)
{
    const struct host_file_piece *x = a, *y = b;

    if (x->device != y->device)
        return x->device < y->device ? -1 : 1;
    if (x->inode != y->inode)
        return x->inode < y->inode ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static bool overlap(const struct host_file_piece *a, const struct host_file_piece *next)
{
    return a->device == next->device && a->inode == next->inode && next->offset < a->offset + a->size;
}

/* Is one page of a file, mapped twice, at two guest addresses? If that cannot be told, perhaps. */
static bool has_equal_files(const struct gpa_snapshot *s)
{
    struct host_data *data = host_data_open();
    struct files f = {.no_memory = !data};

    for (size_t i = 0; i < s->count && !f.no_memory; i++)
        if (!s->ranges[i].owner || !gpa_space_copied(s->space, s->ranges[i].owner))
            host_data_each_file(data, (const void *)(uintptr_t)s->ranges[i].target, s->ranges[i].size, note_file, &f);
    host_data_close(data);
    bool found = f.no_memory;
    if (f.count)
        qsort(f.array, f.count, sizeof(*f.array), by_file);
    for (size_t i = 1; !found && i < f.count; i++)
        found = overlap(&f.array[i - 1], &f.array[i]);
    free(f.array);
    return found;
}

bool gpa_snapshot_has_aliases(struct gpa_snapshot *s, struct gpa_snapshot *like)
{
    if (!like->is_unaliased)
        like->is_unaliased = !has_equal_targets(s) && !has_equal_files(s);
    s->is_unaliased = like->is_unaliased;
    return !s->is_unaliased;
}
