/*
 * Access to guest memory by guest physical address, for threads that are not processors.
 *
 * All or nothing: first every page of the guest range, and of the caller's buffer, is tried with
 * the access that will be made (a load, or a locked exchange of a byte by itself, which a
 * processor's store at the same moment survives), then the bytes are copied. Both passes are
 * guarded. Only if host memory disappears between them can a copy stop in the middle; that is
 * answered like a page that was missing from the start.
 */
#include "mem/gpa_access.h"

#include "mem/gpa_space_state.h"
#include "os/guarded.h"
#include "util/last_error.h"

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
};

/* The part of a transfer that lies in one mapping, and its host memory. */
struct part {
    struct gpa_view view;
    uint8_t *host;
    uint64_t size;
};

/* The part that begins `done` bytes into the transfer. False: not mapped. */
static bool part_at(const struct transfer *t, uint64_t done, struct part *part)
{
    gpa_t gpa = t->gpa + done;
    if (!gpa_space_find(t->space, gpa, &part->view))
        return false;
    uint64_t rest = part->view.size - (gpa - part->view.gpa);
    part->size = rest < t->size - done ? rest : t->size - done;
    part->host = gpa_view_host(&part->view, gpa);
    return true;
}

static enum status refuse(const struct transfer *t, uint64_t done, const char *why)
{
    return fail(STATUS_ACCESS_DENIED, RANGE_FORMAT "cannot %s at 0x%" PRIx64 ": %s", t->gpa,
                t->size, t->write ? "write" : "read", t->gpa + done, why);
}

static enum status check_parts(const struct transfer *t)
{
    uint32_t right = t->write ? GPA_WRITE : GPA_READ;
    struct part part;

    for (uint64_t done = 0; done < t->size; done += part.size) {
        if (!part_at(t, done, &part))
            return refuse(t, done, "not mapped");
        if (!(part.view.flags & right))
            return refuse(t, done, "the rights of the mapping forbid it");
        uint64_t good = gpa_probe_host(part.host, part.size, t->write);
        if (good < part.size)
            return refuse(t, done + good, "the host memory is missing or protected");
    }
    if (gpa_probe_host(t->buffer, t->size, !t->write) < t->size)
        return fail(STATUS_BAD_POINTER, RANGE_FORMAT "the buffer at %p is not accessible memory",
                    t->gpa, t->size, (void *)t->buffer);
    return STATUS_OK;
}

static void mark(const struct part *part, gpa_t gpa)
{
    struct gpa_range pages = range_round_out((struct gpa_range){gpa, part->size});
    if (!part->view.dirty)
        return;
    if (pages.size == PAGE_SIZE)
        gpa_dirty_mark(part->view.dirty, pages_of(pages.gpa));
    else
        gpa_dirty_mark_range(part->view.dirty, pages_of(pages.gpa), pages_of(pages.size));
}

static enum status copy_parts(const struct transfer *t)
{
    struct part part;
    for (uint64_t done = 0; done < t->size; done += part.size) {
        if (!part_at(t, done, &part))
            return refuse(t, done, "not mapped");
        if (t->write)
            mark(&part, t->gpa + done);
        uint8_t *to = t->write ? part.host : t->buffer + done;
        const uint8_t *from = t->write ? t->buffer + done : part.host;
        if (!guarded_copy(to, from, part.size))
            return refuse(t, done, "memory went away during the copy");
    }
    return STATUS_OK;
}

static enum status transfer(const struct transfer *t)
{
    if (t->size == 0)
        return fail(STATUS_INVALID_ARGUMENT, RANGE_FORMAT "the size is zero", t->gpa, t->size);
    if (range_wraps(t->gpa, t->size) || range_wraps((uintptr_t)t->buffer, t->size))
        return fail(STATUS_INVALID_ARGUMENT, RANGE_FORMAT "the range wraps around", t->gpa,
                    t->size);

    gpa_space_read_begin(t->space);
    enum status status = check_parts(t);
    if (status == STATUS_OK) {
        status = copy_parts(t);
        if (t->write)
            gpa_space_wrote(t->space, t->gpa, t->size);
    }
    gpa_space_read_end(t->space);
    return status;
}

enum status gpa_space_read(struct gpa_space *space, gpa_t gpa, void *buffer, uint64_t size)
{
    return transfer(&(struct transfer){space, gpa, buffer, size, false});
}

enum status gpa_space_write(struct gpa_space *space, gpa_t gpa, const void *buffer, uint64_t size)
{
    /* The buffer is only read when `write` is set. */
    return transfer(&(struct transfer){space, gpa, (uint8_t *)(uintptr_t)buffer, size, true});
}

/* ---- page-table entries ---- */

static enum gpa_result find_entry(const struct gpa_space *space, gpa_t gpa, uint32_t rights,
                                  struct gpa_view *view)
{
    if (!gpa_space_find(space, gpa, view))
        return GPA_RESULT_UNMAPPED;
    return (view->flags & rights) == rights ? GPA_RESULT_OK : GPA_RESULT_NO_ACCESS;
}

enum gpa_result gpa_space_load_entry(const struct gpa_space *space, gpa_t gpa, unsigned size,
                                     uint64_t *value)
{
    struct gpa_view view;
    enum gpa_result result = find_entry(space, gpa, GPA_READ, &view);
    if (result != GPA_RESULT_OK)
        return result;

    const uint8_t *host = gpa_view_host(&view, gpa);
    uint32_t low;
    if (size == sizeof(low) ? guarded_load32(host, &low) : guarded_load64(host, value)) {
        *value = size == sizeof(low) ? low : *value;
        return GPA_RESULT_OK;
    }
    return GPA_RESULT_NO_HOST;
}

enum gpa_result gpa_space_exchange_entry(const struct gpa_space *space, gpa_t gpa, unsigned size,
                                         uint64_t expected, uint64_t desired, bool *done)
{
    struct gpa_view view;
    *done = false;
    enum gpa_result result = find_entry(space, gpa, GPA_READ | GPA_WRITE, &view);
    if (result != GPA_RESULT_OK)
        return result;

    uint8_t *host = gpa_view_host(&view, gpa);
    uint32_t low = (uint32_t)expected;
    if (!probe(host, true))
        return GPA_RESULT_NO_HOST;
    gpa_view_mark_dirty(&view, gpa);
    bool there = size == sizeof(low) ? guarded_cas32(host, &low, (uint32_t)desired, done)
                                     : guarded_cas64(host, &expected, desired, done);
    return there ? GPA_RESULT_OK : GPA_RESULT_NO_HOST;
}
