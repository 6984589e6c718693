/*
 * Aliases of a snapshot's memory: one page at several guest addresses. A store marks only the address it is made through.
 *
 * A page of the snapshot that is mapped at another address, too, where the snapshot has none, can be stored to there without a
 * mark at its own. So it counts as changed from that map on. It is found by its host address; and as a file can be mapped twice
 * in the host, by its place in the file, which is asked for when memory is mapped that is not the snapshot's. What the files are is
 * looked at when the snapshot is taken and at each map: the client may unmap its memory as soon as it likes.
 *
 * Whether pages of the snapshot itself are aliases is asked the same two ways.
 *
 * A private mapping of a file shows what is stored to the file until it is itself written, so it counts as an alias of the file's
 * shared memory; not of another private mapping.
 */
#include <stdlib.h>

#include "mem/gpa_consumer.h"
#include "mem/gpa_snapshot_state.h"
#include "os/host_data.h"

/* ---- places ---- */

static bool add_place(struct gpa_snapshot_places *places, const struct gpa_snapshot_place *place)
{
    if (places->count == places->capacity) {
        size_t capacity = places->capacity ? 2 * places->capacity : 16;
        struct gpa_snapshot_place *array = realloc(places->array, capacity * sizeof(*array));
        if (!array)
            return false;
        places->array = array;
        places->capacity = capacity;
    }
    places->array[places->count++] = *place;
    return true;
}

static int compare(const struct gpa_snapshot_place *x, const uint64_t of[2])
{
    if (x->of[0] != of[0])
        return x->of[0] < of[0] ? -1 : 1;
    return x->of[1] < of[1] ? -1 : x->of[1] > of[1];
}

static int by_place(const void *a, const void *b)
{
    const struct gpa_snapshot_place *x = a, *y = b;
    int order = compare(x, y->of);

    return order ? order : x->start < y->start ? -1 : x->start > y->start;
}

static void sort_places(struct gpa_snapshot_places *places)
{
    struct gpa_snapshot_place *p = places->array;

    if (places->count)
        qsort(p, places->count, sizeof(*p), by_place);
    for (size_t i = 0; i < places->count; i++) {
        bool follows = i && compare(&p[i - 1], p[i].of) == 0 && p[i - 1].farthest > p[i].end;
        p[i].farthest = follows ? p[i - 1].farthest : p[i].end;
    }
}

/* The first place that may reach beyond the start: the ends of all before it do not. */
static size_t first_beyond(const struct gpa_snapshot_places *places, const uint64_t of[2], uint64_t start)
{
    size_t low = 0, high = places->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare(&places->array[middle], of);
        if (order < 0 || (order == 0 && places->array[middle].farthest <= start))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void note_overlaps(const struct gpa_snapshot_places *places, const uint64_t of[2], struct gpa_range memory,
                          struct gpa_consumer *consumer)
{
    for (size_t i = first_beyond(places, of, memory.gpa); i < places->count; i++) {
        const struct gpa_snapshot_place *p = &places->array[i];
        if (compare(p, of) || p->start >= range_end(memory))
            return;
        struct gpa_range part = range_intersect(memory, (struct gpa_range){p->start, p->end - p->start});
        if (part.size)
            gpa_consumer_note(consumer, (struct gpa_range){p->gpa + (part.gpa - p->start), part.size});
    }
}

static bool has_overlaps(const struct gpa_snapshot_places *places)
{
    for (size_t i = 1; i < places->count; i++)
        if (!compare(&places->array[i - 1], places->array[i].of) && places->array[i].start < places->array[i - 1].farthest)
            return true;
    return false;
}

static bool have_overlaps(const struct gpa_snapshot_places *places, const struct gpa_snapshot_places *others)
{
    for (size_t i = 0; i < others->count; i++) {
        const struct gpa_snapshot_place *p = &others->array[i];
        size_t at = first_beyond(places, p->of, p->start); /* which ends beyond it itself */
        if (at < places->count && !compare(&places->array[at], p->of) && places->array[at].start < p->end)
            return true;
    }
    return false;
}

/* Is all of this among the places? */
static bool are_all(const struct gpa_snapshot_places *places, const uint64_t of[2], struct gpa_range memory)
{
    uint64_t at = memory.gpa;

    for (size_t i = first_beyond(places, of, at); i < places->count && at < range_end(memory); i++) {
        const struct gpa_snapshot_place *p = &places->array[i];
        if (compare(p, of) || p->start > at)
            return false;
        at = p->end > at ? p->end : at;
    }
    return at >= range_end(memory);
}

/* ---- of a snapshot ---- */

bool gpa_snapshot_index(struct gpa_snapshot *s)
{
    bool good = true;

    if (likely(s->targets.count == s->count))
        return true;
    s->targets.count = 0;
    for (size_t i = 0; i < s->count && good; i++) {
        const struct gpa_snapshot_range *r = &s->ranges[i];
        good = add_place(&s->targets, &(struct gpa_snapshot_place){
                                          .of = {r->owner, 0}, .start = r->target, .end = r->target + r->size, .gpa = r->gpa});
    }
    if (good)
        sort_places(&s->targets);
    else
        s->targets.count = 0;
    return good;
}

struct finding {
    struct gpa_snapshot *snapshot;
    const struct gpa_snapshot_range *range;
};

/* A host_file_visitor. */
static void note_file(void *context, const struct host_file_piece *piece)
{
    const struct finding *f = context;
    const struct gpa_snapshot_place place = {.of = {piece->device, piece->inode},
                                             .start = piece->offset,
                                             .end = piece->offset + piece->size,
                                             .gpa = f->range->gpa + (piece->address - f->range->target)};

    if (!add_place(piece->is_private ? &f->snapshot->copies : &f->snapshot->files, &place))
        f->snapshot->files_unknown = true;
}

void gpa_snapshot_index_files(struct gpa_snapshot *s, const struct host_data *data)
{
    s->files_unknown = !data;
    for (size_t i = 0; data && i < s->count; i++) {
        const struct gpa_snapshot_range *r = &s->ranges[i];
        if (!r->owner || !gpa_space_copied(s->space, r->owner))
            host_data_each_file(data, (const void *)(uintptr_t)r->target, r->size, note_file, &(struct finding){s, r});
    }
    sort_places(&s->files);
    sort_places(&s->copies);
    s->files_overlap = has_overlaps(&s->files) || have_overlaps(&s->files, &s->copies);
}

/* The files are known to the first of those that have the same mappings. */
static const struct gpa_snapshot *with_files(const struct gpa_snapshot *s)
{
    while (s->parent)
        s = s->parent;
    return s;
}

bool gpa_snapshot_has_aliases(struct gpa_snapshot *s, struct gpa_snapshot *like)
{
    const struct gpa_snapshot *files = with_files(like);

    if (!like->is_unaliased)
        like->is_unaliased =
            gpa_snapshot_index(s) && !has_overlaps(&s->targets) && !files->files_unknown && !files->files_overlap;
    s->is_unaliased = like->is_unaliased;
    return !s->is_unaliased;
}

/* ---- memory that is mapped ---- */

/* A host_file_visitor. */
static void note_mapped_file(void *context, const struct host_file_piece *piece)
{
    const struct gpa_snapshot_place place = {
        .of = {piece->device, piece->inode}, .start = piece->offset, .end = piece->offset + piece->size};
    struct gpa_mapped_files *files = context;

    if (!piece->is_private) /* what is stored there, no other memory sees */
        files->no_memory = !add_place(&files->places, &place) || files->no_memory;
}

/* Memory that the snapshot has is found by its host address, unless the snapshot has it twice. */
static bool is_new_to(const struct gpa_snapshot *s, const struct extent *piece)
{
    const struct gpa_snapshot *files = with_files(s);

    return (files->files.count || files->copies.count || files->files_unknown) &&
           (files->files_overlap ||
            !are_all(&s->targets, (const uint64_t[]){piece->owner, 0}, (struct gpa_range){piece->target, piece->size}));
}

static bool must_ask(const struct gpa_space *space, const struct extent *piece)
{
    if (piece->owner && gpa_space_copied(space, piece->owner))
        return false;
    for (const struct gpa_consumer *c = space->consumers->next; c; c = c->next)
        if (c->snapshot && is_new_to(c->snapshot, piece))
            return true;
    return false;
}

bool gpa_consumers_expect_mapped(struct gpa_space *space, const struct extent *pieces, size_t count,
                                 struct gpa_mapped_files *files)
{
    for (struct gpa_consumer *c = space->consumers->next; c; c = c->next)
        if (c->snapshot && !gpa_snapshot_index(c->snapshot))
            return false;
    for (size_t i = 0; i < count; i++)
        if (unlikely(must_ask(space, &pieces[i])) &&
            !host_files_each((const void *)(uintptr_t)pieces[i].target, pieces[i].size, note_mapped_file, files))
            files->unknown = true;
    return !files->no_memory;
}

static void note_mapped(const struct gpa_snapshot *s, const struct gpa_mapped_files *files, struct gpa_consumer *consumer)
{
    const struct gpa_snapshot *known = with_files(s);

    if (unlikely(files->unknown || (known->files_unknown && files->places.count)))
        gpa_consumer_note(consumer, consumer->range); /* any page, perhaps */
    for (size_t i = 0; i < files->places.count; i++) {
        const struct gpa_snapshot_place *p = &files->places.array[i];
        note_overlaps(&known->files, p->of, (struct gpa_range){p->start, p->end - p->start}, consumer);
        note_overlaps(&known->copies, p->of, (struct gpa_range){p->start, p->end - p->start}, consumer);
    }
}

void gpa_consumers_mapped(struct gpa_space *space, const struct extent *pieces, size_t count,
                          const struct gpa_mapped_files *files)
{
    for (struct gpa_consumer *c = space->consumers->next; c; c = c->next) {
        for (size_t i = 0; c->snapshot && i < count; i++)
            note_overlaps(&c->snapshot->targets, (const uint64_t[]){pieces[i].owner, 0},
                          (struct gpa_range){pieces[i].target, pieces[i].size}, c);
        if (c->snapshot)
            note_mapped(c->snapshot, files, c);
    }
}
