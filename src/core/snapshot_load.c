/*
 * Loading a snapshot's file, once it has been read and suits the partition (snapshot_read.c).
 *
 * Ranges that the partition has not mapped are mapped from the file, privately: a page is read when it is first used, and
 * copied when it is first written. Memory that the client has mapped there already is filled from the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/snapshot_loader.h"
#include "os/cancel.h"
#include "util/crc32c.h"
#include "util/last_error.h"

/* ---- how the partition's memory fits ---- */

static enum status add_piece(struct snapshot_loader *l, const struct gpa_snapshot_range *piece, uint64_t offset)
{
    if (l->count == l->capacity) {
        size_t capacity = l->capacity ? 2 * l->capacity : 16;
        struct gpa_snapshot_range *grown = realloc(l->ranges, capacity * sizeof(*grown));
        if (!grown)
            return fail(STATUS_NO_MEMORY, "no memory for a list of ranges");
        l->ranges = grown;
        l->capacity = capacity;
    }
    l->ranges[l->count] = *piece;
    l->ranges[l->count].store.pages = pages_of(piece->size);
    l->ranges[l->count++].store.memory = l->room.memory + (offset - l->data_offset);
    return STATUS_OK;
}

/* All pages of the file, by one mapping. */
static enum status map_pages(struct snapshot_loader *l)
{
    uint64_t first = UINT64_MAX, end = 0;

    for (size_t i = 0; i < l->header.range_count; i++) {
        const struct snapshot_file_range *r = &l->file_ranges[i];
        first = r->data_offset < first ? r->data_offset : first;
        end = r->data_offset + r->size > end ? r->data_offset + r->size : end;
    }
    l->data_offset = end ? first : 0;
    if (page_room_map(&l->room, l->fd, l->data_offset, end - l->data_offset))
        return STATUS_OK;
    return fail(STATUS_NO_MEMORY, "0x%llx bytes of %s cannot be mapped: %s", (unsigned long long)(end - l->data_offset), l->path,
                strerror(errno));
}

/* Now that it is known how many pieces there are. */
static enum status make_stores(struct snapshot_loader *l)
{
    uint64_t words = 0;

    for (size_t i = 0; i < l->count; i++)
        words += page_store_words(l->ranges[i].store.pages);
    if (!page_room_reserve_words(&l->room, words))
        return fail(STATUS_NO_MEMORY, "no memory for the list of pages");
    for (size_t i = 0; i < l->count; i++) {
        struct page_store *store = &l->ranges[i].store;
        page_store_init(store, store->pages, NULL, &l->room, store->memory);
    }
    return STATUS_OK;
}

static enum status mapped_otherwise(gpa_t gpa)
{
    return fail(STATUS_GPA_RANGE_NOT_FOUND, "guest memory at 0x%llx is not mapped as in the snapshot", (unsigned long long)gpa);
}

/* A range of the file: nothing is mapped there, or all of it with the same rights. */
static enum status plan_range(struct snapshot_loader *l, const struct snapshot_file_range *r)
{
    gpa_t end = r->gpa + r->size;
    enum status status = STATUS_OK;

    for (gpa_t at = r->gpa; at < end && status == STATUS_OK;) {
        struct gpa_snapshot_range piece;

        gpa_snapshot_piece(l->partition->space, at, end, &piece);
        if ((!piece.target && piece.size != r->size) || (piece.target && (piece.flags ^ r->flags) & 7))
            return mapped_otherwise(at);
        if (!piece.target) {
            piece.is_current = true;
            piece.flags = r->flags;
        }
        status = add_piece(l, &piece, r->data_offset + (at - r->gpa));
        at += piece.size;
    }
    return status;
}

/* And nothing else is mapped. */
static enum status check_gap(const struct snapshot_loader *l, gpa_t from, gpa_t to)
{
    struct gpa_snapshot_range piece;

    if (from >= to)
        return STATUS_OK;
    gpa_snapshot_piece(l->partition->space, from, to, &piece);
    return piece.target ? mapped_otherwise(from) : piece.size < to - from ? mapped_otherwise(from + piece.size) : STATUS_OK;
}

static enum status plan(struct snapshot_loader *l)
{
    enum status status = map_pages(l);
    gpa_t at = 0;

    for (size_t i = 0; i < l->header.range_count && status == STATUS_OK; i++) {
        status = check_gap(l, at, l->file_ranges[i].gpa);
        if (status == STATUS_OK)
            status = plan_range(l, &l->file_ranges[i]);
        at = l->file_ranges[i].gpa + l->file_ranges[i].size;
    }
    if (status == STATUS_OK)
        status = check_gap(l, at, gpa_space_limit(l->partition->space));
    return status == STATUS_OK ? make_stores(l) : status;
}

/* ---- tables ---- */

static struct gpa_snapshot_range *piece_at(const struct snapshot_loader *l, size_t *hint, gpa_t gpa)
{
    while (gpa - l->ranges[*hint].gpa >= l->ranges[*hint].size)
        ++*hint;
    return &l->ranges[*hint];
}

static enum status verify_chunk(const struct snapshot_loader *l, const struct snapshot_file_range *r, uint64_t index,
                                const struct snapshot_file_chunk *chunk)
{
    uint64_t offset = r->data_offset + index * SNAPSHOT_CHUNK_SIZE;
    uint8_t page[PAGE_SIZE];
    uint32_t crc = 0;

    for (uint64_t left = chunk->held; left; left &= left - 1) {
        enum status status = snapshot_bytes(l, page, PAGE_SIZE, offset + ((uint64_t)__builtin_ctzll(left) << PAGE_SHIFT));
        if (status != STATUS_OK)
            return status;
        crc = crc32c(crc, page, PAGE_SIZE);
    }
    return crc == chunk->crc ? STATUS_OK : snapshot_corrupt(l, offset, "the checksum of 64 pages does not match");
}

static enum status verify_zeros(const struct snapshot_loader *l, gpa_t gpa, uint64_t offset, uint64_t size, size_t *hint)
{
    uint8_t page[PAGE_SIZE];
    enum status status = STATUS_OK;

    for (uint64_t at = 0; at < size && status == STATUS_OK; at += PAGE_SIZE) {
        const struct gpa_snapshot_range *piece = piece_at(l, hint, gpa + at);
        if (page_store_get(&piece->store, pages_of(gpa + at - piece->gpa)))
            continue;
        status = snapshot_bytes(l, page, PAGE_SIZE, offset + at);
        if (status == STATUS_OK && !page_is_zero(page))
            status = snapshot_corrupt(l, offset + at, "a page that is to be of zeros is not");
    }
    return status;
}

/* Pages that the tables do not name are mapped as they are, too. Holes are zeros; the rest is looked at. */
static enum status verify_unheld(const struct snapshot_loader *l, const struct snapshot_file_range *r, size_t *hint)
{
    const uint64_t end = r->data_offset + r->size;
    enum status status = STATUS_OK;

    for (uint64_t at = r->data_offset; at < end && status == STATUS_OK;) {
        off_t data = lseek(l->fd, (off_t)at, SEEK_DATA), hole = data < 0 ? -1 : lseek(l->fd, data, SEEK_HOLE);
        if (data < 0 && errno == ENXIO)
            return STATUS_OK; /* nothing but holes from there on */
        uint64_t from = data < 0 ? at : (uint64_t)data & PAGE_MASK;
        uint64_t to = hole < 0 || (uint64_t)hole > end ? end : ((uint64_t)hole + PAGE_SIZE - 1) & PAGE_MASK;
        if (from >= end)
            return STATUS_OK;
        status = verify_zeros(l, r->gpa + (from - r->data_offset), from, to - from, hint);
        at = to;
    }
    return status;
}

static enum status use_chunk(struct snapshot_loader *l, const struct snapshot_file_range *r, uint64_t index,
                             const struct snapshot_file_chunk *chunk, size_t *hint)
{
    uint64_t first = index * SNAPSHOT_CHUNK_PAGES, pages = pages_of(r->size);

    if (chunk->held && pages - first < 64 && chunk->held >> (pages - first))
        return snapshot_corrupt(l, r->table_offset + index * sizeof(*chunk), "a page beyond its range");
    for (uint64_t left = chunk->held; left; left &= left - 1) {
        gpa_t gpa = r->gpa + ((first + (uint64_t)__builtin_ctzll(left)) << PAGE_SHIFT);
        struct gpa_snapshot_range *piece = piece_at(l, hint, gpa);
        page_store_set(&piece->store, pages_of(gpa - piece->gpa), true);
    }
    return chunk->held && (l->flags & SNAPSHOT_LOAD_VERIFY) ? verify_chunk(l, r, index, chunk) : STATUS_OK;
}

static enum status read_table(struct snapshot_loader *l, const struct snapshot_file_range *r, size_t *hint)
{
    struct snapshot_file_chunk table[1024];
    uint64_t chunks = snapshot_chunks(r->size);
    enum status status = STATUS_OK;
    size_t unheld_hint = *hint;
    uint32_t crc = 0;

    for (uint64_t done = 0; done < chunks && status == STATUS_OK; done += array_size(table)) {
        uint64_t n = chunks - done < array_size(table) ? chunks - done : array_size(table);
        status = snapshot_bytes(l, table, n * sizeof(table[0]), r->table_offset + done * sizeof(table[0]));
        if (status != STATUS_OK)
            return status;
        crc = crc32c(crc, table, n * sizeof(table[0]));
        for (uint64_t i = 0; i < n && status == STATUS_OK; i++)
            status = use_chunk(l, r, done + i, &table[i], hint);
    }
    if (status == STATUS_OK && crc != r->table_crc)
        status = snapshot_corrupt(l, r->table_offset, "the checksum of a page table does not match");
    if (status == STATUS_OK && (l->flags & SNAPSHOT_LOAD_VERIFY))
        status = verify_unheld(l, r, &unheld_hint);
    return status;
}

static enum status read_tables(struct snapshot_loader *l)
{
    enum status status = STATUS_OK;
    size_t hint = 0;

    for (size_t i = 0; i < l->header.range_count && status == STATUS_OK; i++)
        status = read_table(l, &l->file_ranges[i], &hint);
    return status;
}

/* ---- the partition ---- */

/* Memory for what is not mapped: the file's pages, copied when they are written. */
static enum status map_piece(struct snapshot_loader *l, struct gpa_snapshot_range *piece, uint64_t offset)
{
    struct loaded_memory *memory = malloc(sizeof(*memory));
    void *address = memory ? mmap(NULL, piece->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, l->fd, (off_t)offset)
                           : MAP_FAILED;

    if (address == MAP_FAILED) {
        free(memory);
        return fail(STATUS_NO_MEMORY, "0x%llx bytes of %s cannot be mapped", (unsigned long long)piece->size, l->path);
    }
    *memory = (struct loaded_memory){.next = l->mapped, .address = address, .gpa = piece->gpa, .size = piece->size};
    l->mapped = memory;
    piece->target = (uintptr_t)address;
    return gpa_space_map(l->partition->space,
                         &(struct gpa_mapping){.gpa = piece->gpa, .size = piece->size, .host = address, .flags = piece->flags});
}

static enum status map_missing(struct snapshot_loader *l)
{
    enum status status = STATUS_OK;
    size_t piece = 0;

    for (size_t i = 0; i < l->header.range_count && status == STATUS_OK; i++) {
        struct gpa_snapshot_range *p = piece_at(l, &piece, l->file_ranges[i].gpa);
        if (p->is_current)
            status = map_piece(l, p, l->file_ranges[i].data_offset);
    }
    return status;
}

/* Take it out of the partition again, where nobody else has mapped something meanwhile. */
static void unmap_memory(struct gpa_space *space, const struct loaded_memory *m)
{
    struct gpa_snapshot_range now;

    for (gpa_t at = m->gpa, end = m->gpa + m->size; at < end; at += now.size) {
        gpa_snapshot_piece(space, at, end, &now);
        if (now.target == (uintptr_t)m->address + (at - m->gpa) && gpa_space_unmap(space, at, now.size) != STATUS_OK)
            last_error_clear();
    }
}

/* Leave the partition as it was. */
static void unmap_missing(struct snapshot_loader *l)
{
    for (const struct loaded_memory *m = l->mapped; m; m = m->next)
        unmap_memory(l->partition->space, m);
    while (l->mapped) {
        struct loaded_memory *m = l->mapped;
        l->mapped = m->next;
        munmap(m->address, m->size);
        free(m);
    }
}

static void keep_mapped(struct snapshot_loader *l)
{
    struct loaded_memory **last = &l->mapped;

    while (*last)
        last = &(*last)->next;
    *last = l->partition->loaded;
    l->partition->loaded = l->mapped;
    l->mapped = NULL;
}

static enum status apply(struct snapshot_loader *l, uint64_t *handle)
{
    struct snapshot *s = l->snapshot;
    uint64_t pages;
    enum status status = map_missing(l);

    if (status != STATUS_OK)
        return status;
    status = gpa_snapshot_adopt(l->partition->space, l->ranges, l->count, &l->room, &s->memory);
    l->ranges = NULL;
    l->count = 0;
    if (status == STATUS_OK)
        status = snapshot_apply(l->partition, s, false, &pages);
    if (status != STATUS_OK)
        return status;
    l->snapshot = NULL;
    return snapshot_publish(l->partition, s, handle);
}

static enum status load(struct snapshot_loader *l, uint64_t *handle)
{
    enum status status = snapshot_read(l);

    if (status == STATUS_OK)
        status = plan(l);
    if (status == STATUS_OK)
        status = read_tables(l);
    if (status == STATUS_OK)
        status = apply(l, handle);
    if (l->snapshot)
        snapshot_free_unpublished(l->partition, l->snapshot);
    if (status != STATUS_OK)
        unmap_missing(l);
    else
        keep_mapped(l);
    free(l->ranges);
    page_room_free(&l->room);
    free(l->file_ranges);
    return status;
}

enum status snapshot_load(struct partition *partition, const char *path, uint32_t flags, uint64_t *handle)
{
    struct snapshot_loader l = {.partition = partition, .path = path, .flags = flags};
    enum status status;
    NO_CANCEL;

    if (flags & ~(uint32_t)SNAPSHOT_LOAD_ALL_FLAGS)
        return fail(STATUS_INVALID_ARGUMENT, "unknown flags 0x%x", flags);
    status = snapshot_begin(partition);
    if (status != STATUS_OK)
        return status;
    l.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (l.fd < 0) {
        status =
            fail(errno == ENOENT || errno == ENOTDIR ? STATUS_NOT_FOUND : STATUS_ACCESS_DENIED, "%s: %s", path, strerror(errno));
    } else {
        status = load(&l, handle);
        close(l.fd);
    }
    snapshot_end(partition);
    return status;
}
