/*
 * The guest physical address space.
 *
 * What it is. An ordered set of disjoint ranges, each a run of guest pages over a run of host
 * addresses with the same rights (extent_tree.h), and beside it, indexed by page number, the dirty
 * bits (gpa_dirty.c) and the pins (gpa_advise.c). Mapping means writing down (range, host address,
 * rights): nothing is allocated for the pages, touched, faulted in or locked, and whether the host
 * memory exists is found out by the access that needs it. So a terabyte costs what a page costs.
 *
 * Who looks at it. Processors look up a page when their TLB misses, many times in a microsecond,
 * and keep what they found: TLB entries, decoded code, the last view. They must not pay for a lock.
 * Other threads of the client read, write and translate. And a few calls change it, rarely, in the
 * middle of all that. A change must promise two things: a processor sees each page as it was before
 * or as it is after, never between; and when the call returns, nobody uses what was derived from
 * the old state, because the caller may free the memory in the next line.
 *
 * The change protocol. Both promises come from one handshake, which map, unmap and the harvest of
 * dirty bits share:
 *
 *     lock `change`              one change at a time
 *     check, reserve memory      all that can fail happens here, before anybody is disturbed
 *     close `gate`               threads that are not processors have left their read sections, and
 *                                who comes waits
 *     hold() each listener       its running processors reach a safe point and stay there: between
 *                                two instructions, with no pointer into guest memory in hand. Those
 *                                that sleep, or whose thread is in the client, are safe already and
 *                                are kept from starting
 *     change                     plain stores; cannot fail
 *     open `gate`
 *     release(change) each       the engine drops what it derived from the range, then lets go
 *     unlock `change`
 *
 * A running processor therefore reads the mappings without a lock: it is stopped while they change.
 * The price is paid by the change: with nothing running it is a few uncontended locks.
 *
 * Readers first. A read section can be long: a read of a GiB by address is all or nothing, and so
 * one section. Whoever changes something waits for it, but processors do not: they run until the
 * last reader has left, and stand still only for the change itself.
 *
 * Order: `change`, then `gate`, then the engine's locks (inside hold and release). So that each ends:
 *   - a processor never takes `change` or enters a read section while it counts as running, or hold
 *     would wait for it for ever;
 *   - nobody enters a read section with a lock that a running processor takes;
 *   - in a read section nobody waits for a processor. What a listener does in wrote() takes locks
 *     that are let go soon, whatever processors do.
 * Read sections do not nest: a gate that is being closed lets nobody in, so that busy readers cannot
 * keep a change out.
 *
 * Harvesting dirty bits is a change too, because of invariant W (gpa_dirty.c): clearing a bit while
 * a processor has a write-TLB entry for the page would lose its next store. A range that has no
 * dirty bit has no such entry, so its harvest returns without the handshake.
 *
 * Failure. Everything a call needs is checked and reserved before hold(); after it nothing can
 * fail. So a failed call has changed nothing.
 */
#include "mem/gpa_space.h"

#include "mem/gpa_consumer.h"
#include "mem/gpa_sources.h"
#include "os/guarded.h"
#include "util/last_error.h"

#include <stdlib.h>

/* ---- life ---- */

struct gpa_space *gpa_space_create(unsigned physical_address_bits)
{
    if (physical_address_bits < 32 || physical_address_bits > 52)
        return NULL;
    struct gpa_space *space = guarded_init() ? calloc(1, sizeof(*space)) : NULL;
    if (!space)
        return NULL;
    space->limit = (gpa_t)1 << physical_address_bits;
    space->dirty = gpa_dirty_create(pages_of(space->limit));
    space->gate = read_gate_create();
    if (!space->dirty || !space->gate || !gpa_consumers_init(space)) {
        gpa_consumers_fini(space);
        gpa_dirty_destroy(space->dirty);
        read_gate_destroy(space->gate);
        free(space);
        return NULL;
    }
    pthread_mutex_init(&space->change, NULL);
    return space;
}

void gpa_space_destroy(struct gpa_space *space)
{
    if (!space)
        return;
    read_gate_destroy(space->gate); /* first: who remembers something of this space, stops using it here */
    gpa_pins_drop(space, 0, space->limit);
    extent_tree_fini(&space->pins);
    extent_tree_fini(&space->mappings);
    gpa_sources_fini(space);
    gpa_doorbells_fini(space);
    gpa_consumers_fini(space);
    gpa_dirty_destroy(space->dirty);
    pthread_mutex_destroy(&space->change);
    free(space);
}

gpa_t gpa_space_limit(const struct gpa_space *space)
{
    return space->limit;
}

/* ---- the change protocol ---- */

void gpa_space_add_listener(struct gpa_space *space, struct gpa_listener *listener)
{
    pthread_mutex_lock(&space->change);
    read_gate_close(space->gate);
    listener->next = space->listeners;
    space->listeners = listener;
    read_gate_open(space->gate);
    pthread_mutex_unlock(&space->change);
}

void gpa_space_remove_listener(struct gpa_space *space, struct gpa_listener *listener)
{
    pthread_mutex_lock(&space->change);
    read_gate_close(space->gate);
    struct gpa_listener **link = &space->listeners;
    while (*link && *link != listener)
        link = &(*link)->next;
    if (*link)
        *link = listener->next;
    read_gate_open(space->gate);
    pthread_mutex_unlock(&space->change);
}

void gpa_space_hold(struct gpa_space *space)
{
    read_gate_close(space->gate); /* first: readers may take long, and processors are not to wait for them */
    for (struct gpa_listener *l = space->listeners; l; l = l->next)
        l->hold(l->ctx);
}

void gpa_space_release(struct gpa_space *space, const struct gpa_change *change)
{
    read_gate_open(space->gate);
    for (struct gpa_listener *l = space->listeners; l; l = l->next)
        l->release(l->ctx, change);
}

void gpa_space_bring_in_marks(struct gpa_space *space)
{
    if (!gpa_space_marks_late(space))
        return;
    gpa_space_hold(space);
    gpa_space_release(space, NULL);
}

void gpa_space_wrote(const struct gpa_space *space, uint64_t place, uint64_t size)
{
    for (struct gpa_listener *l = space->listeners; l; l = l->next)
        if (l->wrote)
            l->wrote(l->ctx, place, size);
}

void gpa_space_read_begin(struct gpa_space *space)
{
    read_section_begin(space->gate);
}

void gpa_space_read_end(struct gpa_space *space)
{
    read_section_end(space->gate);
}

/* ---- argument rules ---- */

enum status gpa_space_check_bytes(const struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    if (size == 0)
        return fail(STATUS_INVALID_ARGUMENT, RANGE_FORMAT "the size is zero", gpa, size);
    if (!range_fits(gpa, size, space->limit))
        return fail(STATUS_INVALID_ARGUMENT,
                    RANGE_FORMAT "reaches beyond the physical address width of %d bits", gpa, size,
                    __builtin_ctzll(space->limit));
    return STATUS_OK;
}

enum status gpa_space_check_pages(const struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    if (!page_aligned(gpa))
        return fail(STATUS_INVALID_ARGUMENT,
                    RANGE_FORMAT "the guest address is not a multiple of 4096", gpa, size);
    if (!page_aligned(size))
        return fail(STATUS_INVALID_ARGUMENT, RANGE_FORMAT "the size is not a multiple of 4096", gpa,
                    size);
    return gpa_space_check_bytes(space, gpa, size);
}

/* None, R, RW, RX and RWX are rights that a page can have (TLFS 8.1.2). */
static const bool legal_rights[8] = {
    [0] = true,
    [GPA_READ] = true,
    [GPA_READ | GPA_WRITE] = true,
    [GPA_READ | GPA_EXECUTE] = true,
    [GPA_READ | GPA_WRITE | GPA_EXECUTE] = true,
};

static enum status check_flags(const struct gpa_mapping *m)
{
    if (m->flags & ~(uint32_t)GPA_ALL_FLAGS)
        return fail(STATUS_INVALID_ARGUMENT, RANGE_FORMAT "unknown flags 0x%x", m->gpa, m->size,
                    m->flags & ~(uint32_t)GPA_ALL_FLAGS);
    if (!legal_rights[m->flags & 7])
        return fail(STATUS_INVALID_ARGUMENT,
                    RANGE_FORMAT "flags 0x%x give write or execute without read", m->gpa, m->size,
                    m->flags);
    return STATUS_OK;
}

static enum status check_host(const struct gpa_mapping *m)
{
    uint64_t host = (uintptr_t)m->host;
    if (host == 0)
        return fail(STATUS_INVALID_ARGUMENT, RANGE_FORMAT "the host address is null", m->gpa,
                    m->size);
    if (!page_aligned(host))
        return fail(STATUS_INVALID_ARGUMENT,
                    RANGE_FORMAT "the host address 0x%" PRIx64 " is not a multiple of 4096", m->gpa,
                    m->size, host);
    if (m->size > UINT64_MAX - host) /* also when it ends at 2^64: no address is its end */
        return fail(STATUS_INVALID_ARGUMENT,
                    RANGE_FORMAT "the host range at 0x%" PRIx64 " wraps around", m->gpa, m->size,
                    host);
    return STATUS_OK;
}

enum status gpa_space_check_mapping(const struct gpa_space *space, const struct gpa_mapping *m)
{
    enum status status = gpa_space_check_pages(space, m->gpa, m->size);
    if (status == STATUS_OK)
        status = check_host(m);
    return status == STATUS_OK ? check_flags(m) : status;
}

/* ---- mapping ---- */

/* Everything a change of the mappings can need. */
static bool reserve(struct gpa_space *space, struct gpa_range range, const struct extent *pieces, size_t count,
                    struct gpa_mapped_files *files)
{
    return extent_tree_reserve(&space->mappings, count + 1) && gpa_pins_reserve_drop(space) &&
           (!count || (gpa_consumers_cover(space, range, pieces[0].attributes) &&
                       gpa_consumers_expect_mapped(space, pieces, count, files)));
}

static void set_pieces(struct gpa_space *space, struct gpa_range range, const struct extent *pieces, size_t count)
{
    if (unlikely(space->sources.live))
        gpa_sources_forget(space, range);
    if (count == 0)
        extent_tree_clear(&space->mappings, range.gpa, range.size);
    for (size_t i = 0; i < count; i++) {
        extent_tree_set(&space->mappings, &pieces[i]);
        if (unlikely(pieces[i].owner))
            gpa_sources_of(space, pieces[i].owner)->pages += pages_of(pieces[i].size);
    }
}

static void replace(struct gpa_space *space, struct gpa_range range, const struct extent *pieces, size_t count,
                    const struct gpa_mapped_files *files)
{
    struct gpa_change change = {count ? GPA_CHANGE_MAP : GPA_CHANGE_UNMAP, range};

    gpa_space_hold(space);
    gpa_consumers_replaced(space, range);
    set_pieces(space, range, pieces, count);
    gpa_consumers_forget(space, range, GPA_CONSUMER_KEEP);
    gpa_consumers_mapped(space, pieces, count, files);
    space->map_changes++;
    gpa_space_release(space, &change);
    gpa_pins_drop(space, range.gpa, range.size);
    if (unlikely(space->sources.live))
        gpa_sources_sweep(space);
    extent_tree_trim(&space->mappings);
}

enum status gpa_space_replace(struct gpa_space *space, struct gpa_range range, const struct extent *pieces, size_t count)
{
    struct gpa_mapped_files files = {0};
    bool good = reserve(space, range, pieces, count, &files);

    if (good) {
        extent_tree_expect(&space->mappings, range.gpa);
        replace(space, range, pieces, count, &files);
    }
    if (unlikely(files.places.array))
        free(files.places.array);
    return good ? STATUS_OK : fail(STATUS_NO_MEMORY, RANGE_FORMAT "no memory to record the change", range.gpa, range.size);
}

enum status gpa_space_map(struct gpa_space *space, const struct gpa_mapping *m)
{
    const struct extent piece = {m->gpa, m->size, (uintptr_t)m->host, 0, m->flags};
    enum status status = gpa_space_check_mapping(space, m);
    if (status != STATUS_OK)
        return status;

    pthread_mutex_lock(&space->change);
    status = gpa_space_replace(space, (struct gpa_range){m->gpa, m->size}, &piece, 1);
    pthread_mutex_unlock(&space->change);
    return status;
}

enum status gpa_space_unmap(struct gpa_space *space, gpa_t gpa, uint64_t size)
{
    enum status status = gpa_space_check_pages(space, gpa, size);
    if (status != STATUS_OK)
        return status;

    pthread_mutex_lock(&space->change);
    status = gpa_space_replace(space, (struct gpa_range){gpa, size}, NULL, 0);
    pthread_mutex_unlock(&space->change);
    return status;
}

/* ---- lookup ---- */

bool gpa_space_find_mapped(const struct gpa_space *space, gpa_t gpa, struct gpa_view *view)
{
    struct extent extent;
    bool found = extent_tree_find(&space->mappings, gpa, &extent);

    *view = gpa_view_of(space, &extent);
    if (!found && gpa >= space->limit)
        *view = (struct gpa_view){.gpa = space->limit, .size = 0 - space->limit};
    else if (!found && view->size > space->limit - view->gpa)
        view->size = space->limit - view->gpa;
    return found;
}

bool gpa_space_find(const struct gpa_space *space, gpa_t gpa, struct gpa_view *view)
{
    const bool found = gpa_space_find_mapped(space, gpa, view);

    if (likely(!space->doorbells.count))
        return found;
    gpa_doorbells_hide(space, gpa, view);
    return view->host;
}

uint64_t gpa_space_covered(const struct gpa_space *space, gpa_t start, uint64_t size,
                           uint32_t flags)
{
    struct extent array[32];
    uint64_t at = start;
    size_t n;
    do {
        n = extent_tree_list(&space->mappings, at, array, array_size(array));
        for (size_t i = 0; i < n; i++) {
            if (array[i].start > at || (array[i].attributes & flags) != flags)
                return at - start;
            at = array[i].start + array[i].size;
            if (at - start >= size)
                return size;
        }
    } while (n == array_size(array));
    return at - start;
}

static struct gpa_mapping gpa_mapping_of(const struct gpa_space *space, const struct extent *extent)
{
    const struct process_source *source = gpa_sources_of(space, extent->owner);
    void *host = (void *)(uintptr_t)extent->target;
    struct gpa_mapping mapping = {extent->start, extent->size, host, extent->attributes, GPA_FROM_SELF, 0, host};

    if (source) {
        mapping.process_id = process_id(source->process);
        mapping.from = source->view ? GPA_FROM_SHARED : GPA_FROM_COPIED;
        mapping.local = source->view ? host : NULL;
        if (source->view)
            mapping.host = (void *)(uintptr_t)process_view_remote(source->view, host);
    }
    return mapping;
}

struct process_source *gpa_space_copied(const struct gpa_space *space, uint32_t owner)
{
    struct process_source *source = gpa_sources_of(space, owner);
    return source->view ? NULL : source;
}

size_t gpa_space_list(struct gpa_space *space, gpa_t from, struct gpa_mapping *array,
                      size_t capacity)
{
    struct extent extents[32];
    size_t count = 0, n = 1;

    gpa_space_read_begin(space);
    while (n && count < capacity) {
        size_t want = capacity - count;
        n = extent_tree_list(&space->mappings, from, extents,
                             want < array_size(extents) ? want : array_size(extents));
        for (size_t i = 0; i < n; i++) {
            from = extents[i].start + extents[i].size;
            array[count++] = gpa_mapping_of(space, &extents[i]);
        }
    }
    gpa_space_read_end(space);
    return count;
}

uint64_t gpa_space_mapped_pages(struct gpa_space *space)
{
    gpa_space_read_begin(space);
    uint64_t pages = pages_of(space->mappings.total);
    gpa_space_read_end(space);
    return pages;
}

uint64_t gpa_space_range_count(struct gpa_space *space)
{
    gpa_space_read_begin(space);
    uint64_t count = space->mappings.count;
    gpa_space_read_end(space);
    return count;
}
