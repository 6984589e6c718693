/*
 * Loading a snapshot's file. Nothing in it is believed: every number is checked against the file's size, the partition and
 * the engine before anything of the partition is touched.
 *
 * Ranges that the partition has not mapped are mapped from the file, privately: a page is read when it is first used, and
 * copied when it is first written. Memory that the client has mapped there already is filled from the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/snapshot_file.h"
#include "os/cancel.h"
#include "os/guarded.h"
#include "util/crc32c.h"
#include "util/last_error.h"

struct loader {
    struct partition *partition;
    const char *path;
    uint32_t flags;
    int fd;
    uint64_t file_size;
    struct snapshot_file_header header;
    struct snapshot_file_range *file_ranges;
    struct snapshot *snapshot;
    /* The memory to be: pieces of the file's ranges, as the partition has them or will have them. */
    struct gpa_snapshot_range *ranges;
    size_t count, capacity;
    struct page_room room;  /* of their stores */
    uint64_t data_offset;   /* of room's memory in the file */
    struct loaded_memory *mapped; /* in the partition because of us */
};

/* ---- bytes ---- */

static enum status corrupt(const struct loader *l, uint64_t offset, const char *what)
{
    return fail(STATUS_FILE_CORRUPT, "%s: at offset 0x%llx: %s", l->path, (unsigned long long)offset, what);
}

static enum status get(const struct loader *l, void *bytes, uint64_t size, uint64_t offset)
{
    for (uint64_t done = 0; done < size;) {
        ssize_t n = pread(l->fd, (char *)bytes + done, size - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(STATUS_ACCESS_DENIED, "%s: cannot read at offset 0x%llx: %s", l->path,
                        (unsigned long long)(offset + done), strerror(errno));
        if (n == 0)
            return corrupt(l, offset + done, "the file ends here");
        done += (uint64_t)n;
    }
    return STATUS_OK;
}

/* Do count things of this size fit there? No sum wraps. */
static bool fits(const struct loader *l, uint64_t offset, uint64_t count, uint64_t size)
{
    return offset <= l->file_size && count <= (l->file_size - offset) / size;
}

/* ---- header and configuration ---- */

static enum status check_header(const struct loader *l)
{
    struct snapshot_file_header h = l->header;

    if (memcmp(h.magic, SNAPSHOT_MAGIC, sizeof(h.magic)) != 0)
        return corrupt(l, 0, "not a snapshot");
    if (h.byte_order != SNAPSHOT_BYTE_ORDER)
        return corrupt(l, offsetof(struct snapshot_file_header, byte_order), "of another byte order");
    if (h.version != SNAPSHOT_VERSION || h.state_version != STATE_VERSION)
        return fail(STATUS_FILE_CORRUPT, "%s: version %u.%u, this library reads %u.%u", l->path, h.version, h.state_version,
                    SNAPSHOT_VERSION, STATE_VERSION);
    h.crc = 0;
    if (crc32c(0, &h, sizeof(h)) != l->header.crc)
        return corrupt(l, offsetof(struct snapshot_file_header, crc), "the header's checksum does not match");
    if (h.file_size != l->file_size)
        return fail(STATUS_FILE_CORRUPT, "%s: 0x%llx bytes, but it was written with 0x%llx", l->path,
                    (unsigned long long)l->file_size, (unsigned long long)h.file_size);
    return STATUS_OK;
}

static bool is_near(uint64_t a, uint64_t b)
{
    return (a > b ? a - b : b - a) <= b / 100;
}

#define NOT_FOR(...) fail(STATUS_INVALID_PARTITION_CONFIG, __VA_ARGS__)

static enum status check_config(const struct loader *l)
{
    const struct snapshot_config *of = &l->header.config;
    const struct snapshot_config here = snapshot_config_of(l->partition);
    uint64_t missing[2] = {of->processor_features[0] & ~here.processor_features[0],
                           of->processor_features[1] & ~here.processor_features[1]};

    if (of->processor_count != here.processor_count)
        return NOT_FOR("the snapshot is of %u processors, the partition's ProcessorCount is %u", of->processor_count,
                       here.processor_count);
    if (of->apic_mode != here.apic_mode)
        return NOT_FOR("the snapshot's local APIC emulation mode is %u, the partition's %u", of->apic_mode, here.apic_mode);
    if (of->physical_address_bits > here.physical_address_bits)
        return NOT_FOR("the snapshot has %u physical address bits, the partition %u", of->physical_address_bits,
                       here.physical_address_bits);
    if (missing[0] || missing[1])
        return NOT_FOR("the snapshot's guest has processor features that the partition lacks: banks 0x%llx 0x%llx",
                       (unsigned long long)missing[0], (unsigned long long)missing[1]);
    if (of->xsave_features & ~here.xsave_features)
        return NOT_FOR("the snapshot's guest has XSAVE features that the partition lacks: 0x%llx",
                       (unsigned long long)(of->xsave_features & ~here.xsave_features));
    if (of->apic_frequency != here.apic_frequency)
        return NOT_FOR("the snapshot's APIC timer runs at %llu Hz, the partition's at %llu",
                       (unsigned long long)of->apic_frequency, (unsigned long long)here.apic_frequency);
    if (!(l->flags & SNAPSHOT_LOAD_ANY_TSC_FREQUENCY) && !is_near(of->tsc_frequency, here.tsc_frequency))
        return NOT_FOR("the snapshot's TSC runs at %llu Hz, the partition's at %llu", (unsigned long long)of->tsc_frequency,
                       (unsigned long long)here.tsc_frequency);
    return STATUS_OK;
}

/* ---- processors ---- */

static enum status read_states(struct loader *l)
{
    const struct snapshot_file_header *h = &l->header;
    struct snapshot *s = l->snapshot;
    uint64_t count = (uint64_t)__builtin_popcountll(h->vcpu_set), now = snapshot_vcpu_set(l->partition), n = 0;

    if (!fits(l, h->states_offset, count, sizeof(s->states[0])))
        return corrupt(l, h->states_offset, "the processors' states reach beyond the end");
    s->states = calloc(count + 1, sizeof(s->states[0]));
    if (!s->states)
        return fail(STATUS_NO_MEMORY, "no memory for the processors' states");
    enum status status = get(l, s->states, count * sizeof(s->states[0]), h->states_offset);
    if (status == STATUS_OK && crc32c(0, s->states, count * sizeof(s->states[0])) != h->states_crc)
        status = corrupt(l, h->states_offset, "the checksum of the processors' states does not match");
    if (status == STATUS_OK && (h->vcpu_set & ~now))
        status = fail(STATUS_VP_DOES_NOT_EXIST, "processor %d is in the snapshot and does not exist",
                      __builtin_ctzll(h->vcpu_set & ~now));
    for (uint64_t left = h->vcpu_set; left && status == STATUS_OK; left &= left - 1)
        status = l->partition->engine->check_vcpu(l->partition->vcpus[__builtin_ctzll(left)].engine, &s->states[n++]);
    return status;
}

/* ---- ranges ---- */

static enum status check_range(const struct loader *l, size_t i)
{
    const struct snapshot_file_range *r = &l->file_ranges[i];
    uint64_t at = l->header.ranges_offset + i * sizeof(*r);
    const struct gpa_range range = {r->gpa, r->size};

    if (!page_aligned(r->gpa) || !page_aligned(r->size) || !r->size ||
        !range_fits(r->gpa, r->size, gpa_space_limit(l->partition->space)))
        return corrupt(l, at, "a memory range that cannot be");
    if (i && range_end((struct gpa_range){r[-1].gpa, r[-1].size}) > range.gpa)
        return corrupt(l, at, "memory ranges are not in order");
    if ((r->flags & ~(uint32_t)GPA_ALL_FLAGS) || (r->flags & (GPA_READ | GPA_WRITE)) == GPA_WRITE ||
        (r->flags & (GPA_READ | GPA_EXECUTE)) == GPA_EXECUTE || (r->flags & 7) == (GPA_WRITE | GPA_EXECUTE))
        return corrupt(l, at, "a memory range with rights that cannot be");
    if (!page_aligned(r->data_offset) || !fits(l, r->data_offset, r->size, 1) ||
        !fits(l, r->table_offset, snapshot_chunks(r->size), sizeof(struct snapshot_file_chunk)))
        return corrupt(l, at, "a memory range's pages or table reach beyond the end");
    return STATUS_OK;
}

static enum status read_ranges(struct loader *l)
{
    const struct snapshot_file_header *h = &l->header;
    uint64_t size = sizeof(l->file_ranges[0]);

    if (!fits(l, h->ranges_offset, h->range_count, size))
        return corrupt(l, h->ranges_offset, "the list of memory ranges reaches beyond the end");
    /* Piece by piece, each looked at before the next one takes memory: a file of holes may claim any number. */
    enum { PIECE = 4096 };
    enum status status = STATUS_OK;
    uint32_t crc = 0;
    for (uint64_t done = 0, room = 0, n; done < h->range_count && status == STATUS_OK; done += n) {
        n = h->range_count - done < PIECE ? h->range_count - done : PIECE;
        if (done + n > room) {
            room = room ? 2 * room : PIECE;
            struct snapshot_file_range *grown = realloc(l->file_ranges, room * size);
            if (!grown)
                return fail(STATUS_NO_MEMORY, "no memory for a list of ranges");
            l->file_ranges = grown;
        }
        status = get(l, l->file_ranges + done, n * size, h->ranges_offset + done * size);
        if (status == STATUS_OK)
            crc = crc32c(crc, l->file_ranges + done, n * size);
        for (uint64_t i = done; i < done + n && status == STATUS_OK; i++)
            status = check_range(l, i);
    }
    if (status == STATUS_OK && crc != h->ranges_crc)
        status = corrupt(l, h->ranges_offset, "the checksum of the list of memory ranges does not match");
    return status;
}

/* ---- how the partition's memory fits ---- */

static enum status add_piece(struct loader *l, const struct gpa_snapshot_range *piece, uint64_t offset)
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
static enum status map_pages(struct loader *l)
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
static enum status make_stores(struct loader *l)
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
static enum status plan_range(struct loader *l, const struct snapshot_file_range *r)
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
static enum status check_gap(const struct loader *l, gpa_t from, gpa_t to)
{
    struct gpa_snapshot_range piece;

    if (from >= to)
        return STATUS_OK;
    gpa_snapshot_piece(l->partition->space, from, to, &piece);
    return piece.target ? mapped_otherwise(from) : piece.size < to - from ? mapped_otherwise(from + piece.size) : STATUS_OK;
}

static enum status plan(struct loader *l)
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

static struct gpa_snapshot_range *piece_at(const struct loader *l, size_t *hint, gpa_t gpa)
{
    while (gpa - l->ranges[*hint].gpa >= l->ranges[*hint].size)
        ++*hint;
    return &l->ranges[*hint];
}

static enum status verify_chunk(const struct loader *l, const struct snapshot_file_range *r, uint64_t index,
                                const struct snapshot_file_chunk *chunk)
{
    uint64_t offset = r->data_offset + index * SNAPSHOT_CHUNK_SIZE;
    uint8_t page[PAGE_SIZE];
    uint32_t crc = 0;

    for (uint64_t left = chunk->held; left; left &= left - 1) {
        enum status status = get(l, page, PAGE_SIZE, offset + ((uint64_t)__builtin_ctzll(left) << PAGE_SHIFT));
        if (status != STATUS_OK)
            return status;
        crc = crc32c(crc, page, PAGE_SIZE);
    }
    return crc == chunk->crc ? STATUS_OK : corrupt(l, offset, "the checksum of 64 pages does not match");
}

static enum status use_chunk(struct loader *l, const struct snapshot_file_range *r, uint64_t index,
                             const struct snapshot_file_chunk *chunk, size_t *hint)
{
    uint64_t first = index * SNAPSHOT_CHUNK_PAGES, pages = pages_of(r->size);

    if (chunk->held && pages - first < 64 && chunk->held >> (pages - first))
        return corrupt(l, r->table_offset + index * sizeof(*chunk), "a page beyond its range");
    for (uint64_t left = chunk->held; left; left &= left - 1) {
        gpa_t gpa = r->gpa + ((first + (uint64_t)__builtin_ctzll(left)) << PAGE_SHIFT);
        struct gpa_snapshot_range *piece = piece_at(l, hint, gpa);
        page_store_set(&piece->store, pages_of(gpa - piece->gpa), true);
    }
    return chunk->held && (l->flags & SNAPSHOT_LOAD_VERIFY) ? verify_chunk(l, r, index, chunk) : STATUS_OK;
}

static enum status read_table(struct loader *l, const struct snapshot_file_range *r, size_t *hint)
{
    struct snapshot_file_chunk table[1024];
    uint64_t chunks = snapshot_chunks(r->size);
    enum status status = STATUS_OK;
    uint32_t crc = 0;

    for (uint64_t done = 0; done < chunks && status == STATUS_OK; done += array_size(table)) {
        uint64_t n = chunks - done < array_size(table) ? chunks - done : array_size(table);
        status = get(l, table, n * sizeof(table[0]), r->table_offset + done * sizeof(table[0]));
        if (status != STATUS_OK)
            return status;
        crc = crc32c(crc, table, n * sizeof(table[0]));
        for (uint64_t i = 0; i < n && status == STATUS_OK; i++)
            status = use_chunk(l, r, done + i, &table[i], hint);
    }
    if (status == STATUS_OK && crc != r->table_crc)
        status = corrupt(l, r->table_offset, "the checksum of a page table does not match");
    return status;
}

static enum status read_tables(struct loader *l)
{
    enum status status = STATUS_OK;
    size_t hint = 0;

    for (size_t i = 0; i < l->header.range_count && status == STATUS_OK; i++)
        status = read_table(l, &l->file_ranges[i], &hint);
    return status;
}

/* ---- the partition ---- */

/* Memory for what is not mapped: the file's pages, copied when they are written. */
static enum status map_piece(struct loader *l, struct gpa_snapshot_range *piece, uint64_t offset)
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

static enum status map_missing(struct loader *l)
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
static void unmap_missing(struct loader *l)
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

static void keep_mapped(struct loader *l)
{
    struct loaded_memory **last = &l->mapped;

    while (*last)
        last = &(*last)->next;
    *last = l->partition->loaded;
    l->partition->loaded = l->mapped;
    l->mapped = NULL;
}

static enum status apply(struct loader *l, uint64_t *handle)
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

static enum status read_file(struct loader *l)
{
    struct stat stat;
    enum status status;

    if (fstat(l->fd, &stat) != 0 || !S_ISREG(stat.st_mode))
        return fail(STATUS_FILE_CORRUPT, "%s: not a file", l->path);
    l->file_size = (uint64_t)stat.st_size;
    l->snapshot = calloc(1, sizeof(*l->snapshot));
    if (!l->snapshot)
        return fail(STATUS_NO_MEMORY, "no memory for a snapshot");
    status = get(l, &l->header, sizeof(l->header), 0);
    if (status == STATUS_OK)
        status = check_header(l);
    if (status == STATUS_OK)
        status = check_config(l);
    if (status == STATUS_OK)
        status = read_ranges(l);
    if (status == STATUS_OK)
        status = read_states(l);
    l->snapshot->config = snapshot_config_of(l->partition);
    l->snapshot->time = l->header.time;
    l->snapshot->vcpu_set = l->header.vcpu_set;
    return status;
}

static enum status load(struct loader *l, uint64_t *handle)
{
    enum status status = read_file(l);

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
    struct loader l = {.partition = partition, .path = path, .flags = flags};
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
