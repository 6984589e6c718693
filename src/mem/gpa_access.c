/*
 * Access to guest memory by guest physical address, for threads that are not processors.
 *
 * All or nothing. What lies in one guest page needs no preparation: the copy's first byte finds out whether the page can be
 * touched. For more, every page is tried first with the access that will be made (a load, or a locked exchange of a byte by
 * itself, which a processor's store at the same moment survives), then the bytes are copied. All of it is guarded. Only if
 * host memory disappears between the two can a copy stop in the middle; that is answered like a page that was missing from
 * the start.
 *
 * Pages are marked dirty after they were stored to, and only those: a harvest waits for the end of the read section, so
 * whoever sees the store through a harvest sees the mark.
 */
#include "mem/gpa_access.h"

#include "mem/gpa_space_state.h"
#include "mem/process_source.h"
#include "os/guarded.h"
#include "util/last_error.h"

#include <stdlib.h>

/* True if the byte can be loaded, or also stored to. Nothing changes. */
static bool probe(uint8_t *byte, bool write)
{
    uint8_t value;
    bool done;
    if (!write)
        return guarded_load8(byte, &value);
    value = 0;
    return guarded_cas8(byte, &value, 0, &done);
}

uint64_t gpa_probe_host(uint8_t *start, uint64_t size, bool write)
{
    uint64_t done = 0;
    while (done < size) {
        if (!probe(start + done, write))
            return done;
        done += PAGE_SIZE - ((uintptr_t)(start + done) & ~PAGE_MASK);
    }
    return size;
}

/* One transfer between guest memory and a buffer. */
struct transfer {
    struct gpa_space *space;
    gpa_t gpa;
    uint8_t *buffer;
    uint64_t size;
    bool write; /* into the guest */
    struct gpa_recent *found; /* may be NULL */
    struct gpa_range left_out; /* a page, or nothing: neither its bytes nor those of the buffer for it */
};

/* The part of a transfer that lies in one mapping, and its host memory. */
struct part {
    struct gpa_view view;
    gpa_t gpa;
    uint8_t *buffer;
    uint64_t size;
};

/* `done` bytes are done: and then, how many of them and of what is left out? */
static uint64_t skip(const struct transfer *t, uint64_t done)
{
    const uint64_t into = t->gpa + done - t->left_out.gpa;

    return likely(into >= t->left_out.size) ? done : done + (t->left_out.size - into);
}

/* The part that begins `done` bytes into the transfer. False: not mapped. */
static bool part_at(const struct transfer *t, uint64_t done, struct part *part)
{
    part->gpa = t->gpa + done;
    part->buffer = t->buffer + done;
    if (!gpa_space_find(t->space, part->gpa, &part->view))
        return false;
    uint64_t rest = part->view.size - (part->gpa - part->view.gpa);
    part->size = rest < t->size - done ? rest : t->size - done;
    if (unlikely(t->left_out.size && t->left_out.gpa - part->gpa < part->size))
        part->size = t->left_out.gpa - part->gpa;
    return true;
}

static enum status refuse(const struct transfer *t, uint64_t done, const char *why)
{
    return fail(STATUS_ACCESS_DENIED, RANGE_FORMAT "cannot %s at 0x%" PRIx64 ": %s", t->gpa,
                t->size, t->write ? "write" : "read", t->gpa + done, why);
}

static enum status bad_buffer(const struct transfer *t)
{
    return fail(STATUS_BAD_POINTER, RANGE_FORMAT "the buffer at %p is not accessible memory",
                t->gpa, t->size, (void *)t->buffer);
}

static enum status check_rights(const struct transfer *t, const struct part *part)
{
    if (part->view.flags & (t->write ? GPA_WRITE : GPA_READ))
        return STATUS_OK;
    return refuse(t, part->gpa - t->gpa, "the rights of the mapping forbid it");
}

static uint64_t probe_part(const struct part *part, bool write)
{
    if (unlikely(part->view.source))
        return gpa_source_probe(&part->view, part->gpa, part->size, write);
    return gpa_probe_host(gpa_view_host(&part->view, part->gpa), part->size, write);
}

static enum status check_parts(const struct transfer *t)
{
    struct part part;

    for (uint64_t done = skip(t, 0); done < t->size; done = skip(t, done + part.size)) {
        if (!part_at(t, done, &part))
            return refuse(t, done, "not mapped");
        enum status status = check_rights(t, &part);
        if (status != STATUS_OK)
            return status;
        uint64_t good = probe_part(&part, t->write);
        if (good < part.size)
            return refuse(t, done + good, "the host memory is missing or protected");
    }
    return gpa_probe_host(t->buffer, t->size, !t->write) < t->size ? bad_buffer(t) : STATUS_OK;
}

static void mark(const struct part *part, uint64_t size)
{
    if (!part->view.dirty)
        return;
    struct gpa_range pages = range_round_out((struct gpa_range){part->gpa, size});
    if (pages.size == PAGE_SIZE)
        gpa_dirty_mark(part->view.dirty, pages_of(pages.gpa));
    else
        gpa_dirty_mark_range(part->view.dirty, pages_of(pages.gpa), pages_of(pages.size));
}

/* Through memory of ours: the other process's is copied by the kernel, which does not know our guard. */
static uint64_t copy_source(const struct part *part, bool write)
{
    enum { BOUNCE = 64 << 10 };
    uint64_t done = 0;
    uint8_t *bounce = malloc(part->size < BOUNCE ? part->size : BOUNCE);

    while (bounce && done < part->size) {
        uint64_t size = part->size - done < BOUNCE ? part->size - done : BOUNCE;
        if (write ? !guarded_copy(bounce, part->buffer + done, size) ||
                        !gpa_source_write(&part->view, part->gpa + done, bounce, size)
                  : !gpa_source_read(&part->view, part->gpa + done, bounce, size) ||
                        !guarded_copy(part->buffer + done, bounce, size))
            break;
        done += size;
    }
    free(bounce);
    return done;
}

static bool in_one_page(uint64_t start, uint64_t size)
{
    return (start & ~PAGE_MASK) + size <= PAGE_SIZE;
}

/* Returns the bytes copied, and has marked them and told of them. How far a copy to another process that failed has come, is not
 * known: within a page no byte, else perhaps any. */
static uint64_t copy_part(const struct transfer *t, const struct part *part)
{
    const bool write = t->write;
    uint8_t *host = gpa_view_host(&part->view, part->gpa);
    uint64_t done;

    if (unlikely(part->view.source))
        done = copy_source(part, write);
    else if (write)
        done = part->size - guarded_copy_partial(host, part->buffer, part->size);
    else
        done = part->size - guarded_copy_partial(part->buffer, host, part->size);
    const uint64_t touched = likely(!part->view.source) || in_one_page(part->gpa, part->size) ? done : part->size;
    if (write && likely(touched)) {
        mark(part, touched);
        gpa_space_wrote(t->space, gpa_view_place(&part->view, part->gpa), touched);
    }
    return done;
}

static enum status copy_parts(const struct transfer *t)
{
    struct part part;
    for (uint64_t done = skip(t, 0); done < t->size; done = skip(t, done + part.size)) {
        if (!part_at(t, done, &part))
            return refuse(t, done, "not mapped");
        if (copy_part(t, &part) < part.size)
            return refuse(t, done, "memory went away during the copy");
    }
    return STATUS_OK;
}

static void remember(const struct transfer *t, const struct gpa_view *view)
{
    const uint64_t version = read_section_version(t->space->gate);
    const bool keeps = !view->source && !read_gate_is_closed(version);

    *t->found = (struct gpa_recent){.space = t->space,
                                    .gate = t->space->gate,
                                    .version = version,
                                    .gpa = view->gpa,
                                    .readable = keeps && view->flags & GPA_READ ? view->size : 0,
                                    .writable = keeps && view->flags & GPA_WRITE ? view->size : 0,
                                    .host = view->host,
                                    .dirty = view->dirty};
}

/* In one page of the guest, so in one mapping. The buffer's second page, if there is one, is tried first. */
static enum status transfer_in_page(const struct transfer *t)
{
    struct part part;

    if (unlikely(!part_at(t, 0, &part)))
        return refuse(t, 0, "not mapped");
    enum status status = check_rights(t, &part);
    if (unlikely(status != STATUS_OK))
        return status;
    if (!in_one_page((uintptr_t)t->buffer, t->size) && !probe(t->buffer + t->size - 1, !t->write))
        return bad_buffer(t);
    if (likely(copy_part(t, &part) == t->size)) {
        if (t->found)
            remember(t, &part.view);
        return STATUS_OK;
    }
    return probe(t->buffer, !t->write) ? refuse(t, 0, "the host memory is missing or protected") : bad_buffer(t);
}

static enum status transfer_parts(const struct transfer *t)
{
    enum status status = check_parts(t);
    return status == STATUS_OK ? copy_parts(t) : status;
}

static enum status transfer(const struct transfer *t)
{
    if (unlikely(t->size == 0))
        return fail(STATUS_INVALID_ARGUMENT, RANGE_FORMAT "the size is zero", t->gpa, t->size);
    if (unlikely(range_wraps(t->gpa, t->size) || range_wraps((uintptr_t)t->buffer, t->size)))
        return fail(STATUS_INVALID_ARGUMENT, RANGE_FORMAT "the range wraps around", t->gpa,
                    t->size);

    gpa_space_read_begin(t->space);
    enum status status = likely(in_one_page(t->gpa, t->size) && !t->left_out.size) ? transfer_in_page(t) : transfer_parts(t);
    gpa_space_read_end(t->space);
    return status;
}

enum status gpa_space_read(struct gpa_space *space, gpa_t gpa, void *buffer, uint64_t size)
{
    return transfer(&(struct transfer){space, gpa, buffer, size, false, NULL, {0, 0}});
}

enum status gpa_space_write(struct gpa_space *space, gpa_t gpa, const void *buffer, uint64_t size)
{
    /* The buffer is only read when `write` is set. */
    return transfer(&(struct transfer){space, gpa, (uint8_t *)(uintptr_t)buffer, size, true, NULL, {0, 0}});
}

enum status gpa_space_read_first(struct gpa_space *space, gpa_t gpa, void *buffer, uint64_t size, struct gpa_recent *found)
{
    return transfer(&(struct transfer){space, gpa, buffer, size, false, found, {0, 0}});
}

enum status gpa_space_write_first(struct gpa_space *space, gpa_t gpa, const void *buffer, uint64_t size, struct gpa_recent *found)
{
    return transfer(&(struct transfer){space, gpa, (uint8_t *)(uintptr_t)buffer, size, true, found, {0, 0}});
}

enum status gpa_space_read_around(struct gpa_space *space, gpa_t page, gpa_t gpa, void *buffer, uint64_t size)
{
    return transfer(&(struct transfer){space, gpa, buffer, size, false, NULL, {page, PAGE_SIZE}});
}

enum status gpa_space_write_around(struct gpa_space *space, gpa_t page, gpa_t gpa, const void *buffer, uint64_t size)
{
    return transfer(&(struct transfer){space, gpa, (uint8_t *)(uintptr_t)buffer, size, true, NULL, {page, PAGE_SIZE}});
}

/* ---- page-table entries ---- */

static enum gpa_result check_entry(const struct gpa_view *view, uint32_t rights)
{
    if (!view->host)
        return GPA_RESULT_UNMAPPED;
    return (view->flags & rights) == rights ? GPA_RESULT_OK : GPA_RESULT_NO_ACCESS;
}

static enum gpa_result find_entry(const struct gpa_space *space, gpa_t gpa, uint32_t rights,
                                  struct gpa_view *view)
{
    gpa_space_find(space, gpa, view);
    return check_entry(view, rights);
}

enum gpa_result gpa_space_load_entry(const struct gpa_space *space, gpa_t gpa, unsigned size,
                                     uint64_t *value)
{
    struct gpa_view view = {0};
    return gpa_space_load_entry_by(space, &view, gpa, size, value);
}

enum gpa_result gpa_space_load_entry_by(const struct gpa_space *space, struct gpa_view *view, gpa_t gpa, unsigned size,
                                        uint64_t *value)
{
    if (unlikely(gpa - view->gpa >= view->size))
        gpa_space_find(space, gpa, view);
    enum gpa_result result = check_entry(view, GPA_READ);
    if (unlikely(result != GPA_RESULT_OK))
        return result;
    *value = 0;
    if (unlikely(view->source))
        return gpa_source_read(view, gpa, value, size) ? GPA_RESULT_OK : GPA_RESULT_NO_HOST;

    const uint8_t *host = gpa_view_host(view, gpa);
    uint32_t low;
    if (size == sizeof(low) ? guarded_load32(host, &low) : guarded_load64(host, value)) {
        *value = size == sizeof(low) ? low : *value;
        return GPA_RESULT_OK;
    }
    return GPA_RESULT_NO_HOST;
}

static enum gpa_result exchange_source(const struct gpa_view *view, gpa_t gpa, unsigned size,
                                       uint64_t expected, uint64_t desired, bool *done)
{
    if (!gpa_source_exchange(view, gpa, size, expected, desired, done))
        return GPA_RESULT_NO_HOST;
    if (*done)
        gpa_view_mark_dirty(view, gpa);
    return GPA_RESULT_OK;
}

enum gpa_result gpa_space_exchange_entry(const struct gpa_space *space, gpa_t gpa, unsigned size,
                                         uint64_t expected, uint64_t desired, bool *done)
{
    struct gpa_view view;
    *done = false;
    enum gpa_result result = find_entry(space, gpa, GPA_READ | GPA_WRITE, &view);
    if (result != GPA_RESULT_OK)
        return result;
    if (unlikely(view.source))
        return exchange_source(&view, gpa, size, expected, desired, done);

    uint8_t *host = gpa_view_host(&view, gpa);
    uint32_t low = (uint32_t)expected;
    bool there = size == sizeof(low) ? guarded_cas32(host, &low, (uint32_t)desired, done)
                                     : guarded_cas64(host, &expected, desired, done);
    if (there && *done)
        gpa_view_mark_dirty(&view, gpa);
    return there ? GPA_RESULT_OK : GPA_RESULT_NO_HOST;
}
