/*
 * Populate: bring in the host memory behind a range.
 *
 * The range is worked on in pieces, each in a read section of its own, so that a change of the mappings waits for megabytes,
 * not for terabytes, and so that memory is never touched after an unmap returned. The kernel's work on a page (to find,
 * to zero, to enter it) is the cost, and it does that for several threads at once: large ranges are shared by a few.
 * Where it refuses a piece, the pages are tried one by one: that finds the page to blame, and serves kernels before 5.14,
 * which cannot populate.
 */
#include "mem/gpa_advise.h"

#include "mem/gpa_space_state.h"
#include "mem/process_source.h"
#include "os/host_data.h"
#include "util/last_error.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PIECE_BYTES ((uint64_t)8 << 20)
#define HUGE_BYTES  ((uint64_t)2 << 20)

enum { MAX_THREADS = 8, PIECES_PER_THREAD = 4 };

struct populate {
    struct gpa_space *space;
    struct gpa_range pages;
    uint32_t right;
    uint32_t flags;
    _Atomic gpa_t next;     /* where nobody works yet */
    _Atomic bool stop;      /* something failed */
    pthread_mutex_t lock;   /* of the rest: the failure at the lowest address */
    enum status status;
    gpa_t at;
    const void *host; /* not NULL: what is missing there */
};

/* ---- host memory ---- */

/* Returns how many bytes from host on were populated. */
static uint64_t populate_host(uint8_t *host, uint64_t size, bool write)
{
    if (madvise(host, size, write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0)
        return size;
    return gpa_probe_host(host, size, write);
}

struct pages {
    uint8_t *host;
    unsigned char *here; /* an odd number: not on a disk only */
};

/* Marks as here what host_data_each does not visit: nothing was ever there, so it is zeros and nowhere on a disk. */
static void note_hole(struct pages *p, uint8_t *end)
{
    for (; p->host < end; p->host += PAGE_SIZE)
        *p->here++ |= 1;
}

static void skip_data(void *context, uintptr_t start, uintptr_t end)
{
    struct pages *p = context;

    note_hole(p, (uint8_t *)start);
    p->here += (end - start) >> PAGE_SHIFT;
    p->host = (uint8_t *)end;
}

/* The same for those pages that are in memory already and only need to be entered in the page tables, and for those that were
 * never used. What would have to be read from a disk is left alone: not an error. */
static uint64_t populate_resident(struct host_data *data, uint8_t *host, uint64_t size, bool write)
{
    unsigned char resident[PIECE_BYTES / 4096];
    uint64_t pages = size >> PAGE_SHIFT, page = 0;

    if (mincore(host, size, resident) != 0)
        return gpa_probe_host(host, size, write); /* something is missing: find out what */
    if (data && memchr(resident, 0, pages)) {
        struct pages p = {host, resident};
        host_data_each(data, host, size, skip_data, &p);
        note_hole(&p, host + size);
    }
    while (page < pages) {
        uint64_t first = page, bytes;
        while (page < pages && (resident[page] & 1) == (resident[first] & 1))
            page++;
        bytes = (page - first) << PAGE_SHIFT;
        uint64_t good = resident[first] & 1 ? populate_host(host + (first << PAGE_SHIFT), bytes, write) : bytes;
        if (good < bytes)
            return (first << PAGE_SHIFT) + good;
    }
    return size;
}

static uint64_t populate_once(const struct populate *p, struct host_data *data, const struct gpa_view *view, gpa_t at,
                              uint64_t size)
{
    bool write = p->right == GPA_WRITE;
    uint8_t *host = gpa_view_host(view, at);

    if (view->source)
        return gpa_source_probe(view, at, size, write);
    return p->flags & GPA_POPULATE_AVOID_HARD_FAULTS ? populate_resident(data, host, size, write)
                                                     : populate_host(host, size, write);
}

/* ---- pieces ---- */

static void note_failure(struct populate *p, enum status status, gpa_t at, const void *host)
{
    pthread_mutex_lock(&p->lock);
    if (p->status == STATUS_OK || at < p->at) {
        p->status = status;
        p->at = at;
        p->host = host;
    }
    pthread_mutex_unlock(&p->lock);
    atomic_store(&p->stop, true);
}

/* Every page is mapped and allows the access. In a read section. */
static bool check_mapped(struct populate *p, gpa_t at, gpa_t end)
{
    uint64_t mapped = gpa_space_covered(p->space, at, end - at, 0);
    uint64_t allowed = gpa_space_covered(p->space, at, end - at, p->right);

    if (mapped < end - at)
        note_failure(p, STATUS_GPA_RANGE_NOT_FOUND, at + mapped, NULL);
    else if (allowed < end - at)
        note_failure(p, STATUS_ACCESS_DENIED, at + allowed, NULL);
    return allowed == end - at;
}

/* Populate what lies in the first mapping of [at, end); returns where to go on. In a read section. The mappings may have
 * changed since the call began. */
static gpa_t populate_part(struct populate *p, struct host_data *data, gpa_t at, gpa_t end)
{
    struct gpa_view view;

    if (!check_mapped(p, at, end) || !gpa_space_find_mapped(p->space, at, &view))
        return end;
    gpa_t stop = view.gpa + view.size < end ? view.gpa + view.size : end;
    uint64_t skip = PAGE_SIZE;
    while (at < stop) {
        uint64_t done = populate_once(p, data, &view, at, stop - at);
        at += done;
        if (at == stop)
            break;
        if (!(p->flags & GPA_POPULATE_PREFETCH)) {
            note_failure(p, STATUS_ACCESS_DENIED, at, gpa_view_host(&view, at));
            return end;
        }
        /* A hint: the pages behind the missing one are worth having, but not to look at each of a hole's. */
        skip = done ? PAGE_SIZE : 2 * skip;
        at += skip < stop - at ? skip : stop - at;
    }
    return at;
}

static void *work(void *context)
{
    struct populate *p = context;
    gpa_t at, end = range_end(p->pages);
    struct host_data *data = p->flags & GPA_POPULATE_AVOID_HARD_FAULTS ? host_data_open() : NULL;

    while (!atomic_load(&p->stop) && (at = atomic_fetch_add(&p->next, PIECE_BYTES)) < end) {
        gpa_t stop = end - at < PIECE_BYTES ? end : at + PIECE_BYTES;
        while (at < stop) {
            gpa_space_read_begin(p->space);
            at = populate_part(p, data, at, stop);
            gpa_space_read_end(p->space);
        }
    }
    host_data_close(data);
    return NULL;
}

/* ---- threads ---- */

static unsigned threads_for(uint64_t size)
{
    uint64_t wanted = size / (PIECES_PER_THREAD * PIECE_BYTES);
    long processors = sysconf(_SC_NPROCESSORS_ONLN);

    wanted = wanted > MAX_THREADS ? MAX_THREADS : wanted;
    return processors < (long)wanted ? (unsigned)(processors > 0 ? processors : 1) : (unsigned)wanted;
}

/* The calling thread and helpers, as many as there are. The client's signals are not for them, but those of the guard are. */
static void work_together(struct populate *p)
{
    pthread_t threads[MAX_THREADS];
    unsigned started = 0, wanted = threads_for(p->pages.size);
    sigset_t most, before;

    sigfillset(&most);
    sigdelset(&most, SIGSEGV);
    sigdelset(&most, SIGBUS);
    if (wanted > 1)
        pthread_sigmask(SIG_SETMASK, &most, &before);
    while (started + 1 < wanted && pthread_create(&threads[started], NULL, work, p) == 0)
        started++;
    if (wanted > 1)
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    work(p);
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
}

/* A huge page costs one fault and one entry. Only a wish: where there are none, small ones come. In a read section. */
static void wish_huge(const struct populate *p)
{
    struct gpa_view view;

    for (gpa_t at = p->pages.gpa; at < range_end(p->pages); at = view.gpa + view.size) {
        if (!gpa_space_find_mapped(p->space, at, &view))
            return;
        struct gpa_range part = range_intersect((struct gpa_range){view.gpa, view.size}, p->pages);
        uintptr_t start = (uintptr_t)gpa_view_host(&view, part.gpa), end = start + part.size;
        start = (start + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
        end &= ~(HUGE_BYTES - 1);
        if (!view.source && start < end)
            (void)madvise((void *)start, end - start, MADV_HUGEPAGE);
    }
}

static enum status explain(const struct populate *p)
{
    if (p->status == STATUS_OK)
        return STATUS_OK;
    if (p->host)
        return fail(p->status,
                    RANGE_FORMAT "populate: the page at 0x%" PRIx64 ": the host memory at %p is missing or protected",
                    p->pages.gpa, p->pages.size, p->at, p->host);
    return fail(p->status, RANGE_FORMAT "populate: %s 0x%" PRIx64 " %s", p->pages.gpa, p->pages.size,
                p->status == STATUS_ACCESS_DENIED ? "the mapping of the page at" : "the page at", p->at,
                p->status == STATUS_ACCESS_DENIED ? "forbids the access" : "is not mapped");
}

enum status gpa_space_populate(struct gpa_space *space, struct gpa_range range,
                               enum gpa_access access, uint32_t flags)
{
    enum status status = gpa_space_check_bytes(space, range.gpa, range.size);
    if (status != STATUS_OK)
        return status;
    if ((unsigned)access > GPA_ACCESS_EXECUTE || flags & ~(uint32_t)GPA_POPULATE_ALL_FLAGS)
        return fail(STATUS_INVALID_ARGUMENT, "populate: unknown access type %u or flags 0x%x",
                    (unsigned)access, flags);

    struct populate p = {.space = space, .pages = range_round_out(range), .right = gpa_access_right(access), .flags = flags,
                         .lock = PTHREAD_MUTEX_INITIALIZER};
    p.next = p.pages.gpa;
    gpa_space_read_begin(space);
    bool good = check_mapped(&p, p.pages.gpa, range_end(p.pages));
    if (good && access == GPA_ACCESS_WRITE && !(flags & GPA_POPULATE_AVOID_HARD_FAULTS) && p.pages.size >= HUGE_BYTES)
        wish_huge(&p);
    gpa_space_read_end(space);
    if (good)
        work_together(&p);
    return explain(&p);
}
