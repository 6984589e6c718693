/*
 * Writing a snapshot's file: under another name, all of it to the disk, then renamed. So whoever looks sees the old file or
 * the new one, whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/snapshot_file.h"
#include "os/cancel.h"
#include "os/guarded.h"
#include "util/crc32c.h"
#include "util/last_error.h"

enum { TABLE_ENTRIES = 4096 }; /* written at once */

struct writer {
    const struct snapshot *snapshot;
    const char *path;
    int fd;
    struct snapshot_file_header header;
    struct snapshot_file_range *ranges;
    struct snapshot_file_chunk *table; /* TABLE_ENTRIES */
    uint8_t *pages;                    /* a chunk */
};

/* ---- bytes ---- */

static enum status cannot(const struct writer *w, const char *what, uint64_t offset)
{
    int error = errno;
    enum status status = error == ENOENT || error == ENOTDIR ? STATUS_NOT_FOUND
                         : error == ENAMETOOLONG             ? STATUS_INVALID_ARGUMENT
                         : error == EACCES || error == EPERM || error == EROFS || error == EISDIR ? STATUS_ACCESS_DENIED
                                                                                                  : STATUS_WRITE_FAULT;

    return fail(status, "cannot %s at offset 0x%llx: %s: %s", what, (unsigned long long)offset, strerror(error), w->path);
}

static enum status put(const struct writer *w, const void *bytes, uint64_t size, uint64_t offset)
{
    for (uint64_t done = 0; done < size;) {
        ssize_t n = pwrite(w->fd, (const char *)bytes + done, size - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return cannot(w, "write", offset + done);
        done += (uint64_t)n;
    }
    return STATUS_OK;
}

/* ---- where things go ---- */

static uint64_t align(uint64_t offset)
{
    return (offset + PAGE_SIZE - 1) & PAGE_MASK;
}

static uint64_t states_size(const struct snapshot *s)
{
    return (uint64_t)__builtin_popcountll(s->vcpu_set) * sizeof(struct vcpu_state);
}

static void lay_out(struct writer *w)
{
    const struct gpa_snapshot *memory = w->snapshot->memory;
    struct snapshot_file_header *h = &w->header;
    uint64_t at;

    h->ranges_offset = PAGE_SIZE;
    h->range_count = memory->count;
    h->states_offset = align(h->ranges_offset + memory->count * sizeof(w->ranges[0]));
    at = align(h->states_offset + states_size(w->snapshot));
    for (size_t i = 0; i < memory->count; i++) {
        const struct gpa_snapshot_range *r = &memory->ranges[i];
        w->ranges[i] = (struct snapshot_file_range){.gpa = r->gpa, .size = r->size, .flags = r->flags, .table_offset = at};
        at = align(at + snapshot_chunks(r->size) * sizeof(struct snapshot_file_chunk));
    }
    for (size_t i = 0; i < memory->count; i++) {
        w->ranges[i].data_offset = at;
        at += w->ranges[i].size;
    }
    h->file_size = at;
}

/* ---- pages ---- */

/* One chunk: gather, then write runs. A mapped file under the store may have been cut short: then it cannot be read. */
static enum status put_chunk(const struct writer *w, size_t range, uint64_t index, struct snapshot_file_chunk *chunk)
{
    const struct page_store *store = &w->snapshot->memory->ranges[range].store;
    uint64_t first = index * SNAPSHOT_CHUNK_PAGES, left = page_store_word(store, index);
    enum status status = STATUS_OK;

    *chunk = (struct snapshot_file_chunk){.held = left};
    while (left && status == STATUS_OK) {
        unsigned from = (unsigned)__builtin_ctzll(left), count = 0;
        uint64_t offset = w->ranges[range].data_offset + ((first + from) << PAGE_SHIFT);

        for (; from + count < 64 && (left >> (from + count) & 1); count++)
            if (!guarded_copy(w->pages + count * PAGE_SIZE, page_store_get(store, first + from + count), PAGE_SIZE))
                return fail(STATUS_ACCESS_DENIED, "the file behind the snapshot ends before page 0x%llx",
                            (unsigned long long)(first + from + count));
        left &= from + count == 64 ? 0 : ~(uint64_t)0 << (from + count);
        chunk->crc = crc32c(chunk->crc, w->pages, count * PAGE_SIZE);
        status = put(w, w->pages, count * PAGE_SIZE, offset);
    }
    return status;
}

static bool is_empty(const struct snapshot_file_chunk *table, uint64_t count)
{
    while (count--)
        if (table++->held)
            return false;
    return true;
}

static enum status put_range(struct writer *w, size_t range)
{
    struct snapshot_file_range *r = &w->ranges[range];
    uint64_t chunks = snapshot_chunks(r->size);
    enum status status = STATUS_OK;

    for (uint64_t done = 0; done < chunks && status == STATUS_OK; done += TABLE_ENTRIES) {
        uint64_t n = chunks - done < TABLE_ENTRIES ? chunks - done : TABLE_ENTRIES;
        for (uint64_t i = 0; i < n && status == STATUS_OK; i++)
            status = put_chunk(w, range, done + i, &w->table[i]);
        r->table_crc = crc32c(r->table_crc, w->table, n * sizeof(w->table[0]));
        if (status == STATUS_OK && !is_empty(w->table, n))
            status = put(w, w->table, n * sizeof(w->table[0]), r->table_offset + done * sizeof(w->table[0]));
    }
    return status;
}

/* ---- the rest ---- */

static enum status put_header(struct writer *w)
{
    const struct snapshot *s = w->snapshot;
    struct snapshot_file_header *h = &w->header;
    uint64_t size = h->range_count * sizeof(w->ranges[0]);
    enum status status = put(w, w->ranges, size, h->ranges_offset);

    if (status == STATUS_OK)
        status = put(w, s->states, states_size(s), h->states_offset);
    if (status != STATUS_OK)
        return status;
    memcpy(h->magic, SNAPSHOT_MAGIC, sizeof(h->magic));
    h->version = SNAPSHOT_VERSION;
    h->byte_order = SNAPSHOT_BYTE_ORDER;
    h->state_version = STATE_VERSION;
    h->vcpu_set = s->vcpu_set;
    h->config = s->config;
    h->time = s->time;
    h->ranges_crc = crc32c(0, w->ranges, size);
    h->states_crc = crc32c(0, s->states, states_size(s));
    h->crc = 0;
    h->crc = crc32c(0, h, sizeof(*h));
    return put(w, h, sizeof(*h), 0);
}

static enum status put_all(struct writer *w)
{
    enum status status = STATUS_OK;

    lay_out(w);
    if (ftruncate(w->fd, (off_t)w->header.file_size) != 0)
        return cannot(w, "make the file so large", w->header.file_size);
    for (size_t i = 0; i < w->header.range_count && status == STATUS_OK; i++)
        status = put_range(w, i);
    if (status == STATUS_OK)
        status = put_header(w);
    if (status == STATUS_OK && fsync(w->fd) != 0)
        status = cannot(w, "bring the file to the disk", 0);
    return status;
}

static enum status write_all(struct writer *w)
{
    size_t count = w->snapshot->memory->count + 1;
    enum status status;

    w->ranges = calloc(count, sizeof(w->ranges[0]));
    w->table = calloc(TABLE_ENTRIES, sizeof(w->table[0]));
    w->pages = malloc(SNAPSHOT_CHUNK_SIZE);
    if (w->ranges && w->table && w->pages)
        status = put_all(w);
    else
        status = fail(STATUS_NO_MEMORY, "no memory to write a snapshot");
    free(w->ranges);
    free(w->table);
    free(w->pages);
    return status;
}

/* ---- names ---- */

/* Where the file is to be: names are used in the folder, so that a path of any length leaves room for another name there. */
struct place {
    int folder;
    const char *name; /* in the path */
    char other[32];   /* what the file is called until it is finished */
};

/* The folder as a place only: it may be one that cannot be listed. */
static enum status find_place(const struct writer *w, struct place *place)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(w->path, '/');
    size_t length = slash ? (size_t)(slash - w->path) + 1 : 1;

    memcpy(folder, slash ? w->path : ".", length);
    folder[length] = 0;
    place->name = slash ? slash + 1 : w->path;
    place->folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return place->folder < 0 ? cannot(w, "find the directory", 0) : STATUS_OK;
}

/*
 * What can be known before anything is written: that the name is too long, or that of a directory, a device, a pipe: a rename
 * would put a file in its place, which with root's rights is the end of /dev/null.
 */
static enum status check_name(const struct writer *w, const struct place *place)
{
    struct stat s;
    bool found = fstatat(place->folder, place->name, &s, 0) == 0;

    if (!place->name[0] || (found && S_ISDIR(s.st_mode)))
        errno = EISDIR;
    else if (found && !S_ISREG(s.st_mode))
        return fail(STATUS_ACCESS_DENIED, "cannot use the name: it is not a file's: %s", w->path);
    else if (found || errno == ENOENT)
        return STATUS_OK;
    return cannot(w, "use the name", 0);
}

static int open_beside(struct place *place)
{
    uint64_t random;
    int fd = -1;

    for (int tries = 0; tries < 100 && fd < 0 && (tries == 0 || errno == EEXIST); tries++) {
        if (getrandom(&random, sizeof(random), 0) != sizeof(random))
            return -1;
        snprintf(place->other, sizeof(place->other), ".snapshot-%06x", (unsigned)(random & 0xffffff));
        fd = openat(place->folder, place->other, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
    }
    return fd;
}

/* The new name is on the disk, too; where the file system does not do that, it did what it can. */
static void sync_folder(const struct place *place)
{
    int fd = openat(place->folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
}

static enum status write_in(struct writer *w, struct place *place)
{
    enum status status = check_name(w, place);

    if (status != STATUS_OK)
        return status;
    w->fd = open_beside(place);
    if (w->fd < 0)
        return cannot(w, "create a file beside it", 0);
    status = write_all(w);
    if (close(w->fd) != 0 && status == STATUS_OK)
        status = cannot(w, "close the file", 0);
    if (status == STATUS_OK && renameat(place->folder, place->other, place->folder, place->name) != 0)
        status = cannot(w, "rename the file", 0);
    if (status != STATUS_OK)
        unlinkat(place->folder, place->other, 0);
    else
        sync_folder(place);
    return status;
}

static enum status write_file(struct writer *w)
{
    struct place place;
    enum status status = find_place(w, &place);

    if (status != STATUS_OK)
        return status;
    status = write_in(w, &place);
    close(place.folder);
    return status;
}

enum status snapshot_save(uint64_t handle, const char *path)
{
    NO_CANCEL;
    struct snapshot *s = snapshot_get(handle);
    struct writer w = {.snapshot = s, .path = path};

    if (!s)
        return STATUS_BAD_HANDLE;
    enum status status = write_file(&w);
    snapshot_put(handle);
    return status;
}
