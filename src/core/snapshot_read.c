/*
 * Reading a snapshot's file. Nothing in it is believed: every number is checked against the file's size, the partition and
 * the engine before anything of the partition is touched.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/snapshot_loader.h"
#include "util/crc32c.h"
#include "util/last_error.h"

/* ---- bytes ---- */

enum status snapshot_corrupt(const struct snapshot_loader *l, uint64_t offset, const char *what)
{
    return fail(STATUS_FILE_CORRUPT, "%s: at offset 0x%llx: %s", l->path, (unsigned long long)offset, what);
}

enum status snapshot_bytes(const struct snapshot_loader *l, void *bytes, uint64_t size, uint64_t offset)
{
    for (uint64_t done = 0; done < size;) {
        ssize_t n = pread(l->fd, (char *)bytes + done, size - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(STATUS_ACCESS_DENIED, "%s: cannot read at offset 0x%llx: %s", l->path,
                        (unsigned long long)(offset + done), strerror(errno));
        if (n == 0)
            return snapshot_corrupt(l, offset + done, "the file ends here");
        done += (uint64_t)n;
    }
    return STATUS_OK;
}

/* Do count things of this size fit there? No sum wraps. */
static bool fits(const struct snapshot_loader *l, uint64_t offset, uint64_t count, uint64_t size)
{
    return offset <= l->file_size && count <= (l->file_size - offset) / size;
}

/* ---- header and configuration ---- */

static enum status check_header(const struct snapshot_loader *l)
{
    struct snapshot_file_header h = l->header;

    if (memcmp(h.magic, SNAPSHOT_MAGIC, sizeof(h.magic)) != 0)
        return snapshot_corrupt(l, 0, "not a snapshot");
    if (h.byte_order != SNAPSHOT_BYTE_ORDER)
        return snapshot_corrupt(l, offsetof(struct snapshot_file_header, byte_order), "of another byte order");
    if (h.version != SNAPSHOT_VERSION || h.state_version != STATE_VERSION)
        return fail(STATUS_FILE_CORRUPT, "%s: version %u.%u, this library reads %u.%u", l->path, h.version, h.state_version,
                    SNAPSHOT_VERSION, STATE_VERSION);
    h.crc = 0;
    if (crc32c(0, &h, sizeof(h)) != l->header.crc)
        return snapshot_corrupt(l, offsetof(struct snapshot_file_header, crc), "the header's checksum does not match");
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

static enum status check_config(const struct snapshot_loader *l)
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

static enum status read_states(struct snapshot_loader *l)
{
    const struct snapshot_file_header *h = &l->header;
    struct snapshot *s = l->snapshot;
    uint64_t count = (uint64_t)__builtin_popcountll(h->vcpu_set), now = snapshot_vcpu_set(l->partition), n = 0;

    if (!fits(l, h->states_offset, count, sizeof(s->states[0])))
        return snapshot_corrupt(l, h->states_offset, "the processors' states reach beyond the end");
    s->states = calloc(count + 1, sizeof(s->states[0]));
    if (!s->states)
        return fail(STATUS_NO_MEMORY, "no memory for the processors' states");
    enum status status = snapshot_bytes(l, s->states, count * sizeof(s->states[0]), h->states_offset);
    if (status == STATUS_OK && crc32c(0, s->states, count * sizeof(s->states[0])) != h->states_crc)
        status = snapshot_corrupt(l, h->states_offset, "the checksum of the processors' states does not match");
    if (status == STATUS_OK && (h->vcpu_set & ~now))
        status = fail(STATUS_VP_DOES_NOT_EXIST, "processor %d is in the snapshot and does not exist",
                      __builtin_ctzll(h->vcpu_set & ~now));
    for (uint64_t left = h->vcpu_set; left && status == STATUS_OK; left &= left - 1)
        status = l->partition->engine->check_vcpu(l->partition->vcpus[__builtin_ctzll(left)].engine, &s->states[n++]);
    return status;
}

/* ---- ranges ---- */

static enum status check_range(const struct snapshot_loader *l, size_t i)
{
    const struct snapshot_file_range *r = &l->file_ranges[i];
    uint64_t at = l->header.ranges_offset + i * sizeof(*r);
    const struct gpa_range range = {r->gpa, r->size};

    if (!page_aligned(r->gpa) || !page_aligned(r->size) || !r->size ||
        !range_fits(r->gpa, r->size, gpa_space_limit(l->partition->space)))
        return snapshot_corrupt(l, at, "a memory range that cannot be");
    if (i && range_end((struct gpa_range){r[-1].gpa, r[-1].size}) > range.gpa)
        return snapshot_corrupt(l, at, "memory ranges are not in order");
    if ((r->flags & ~(uint32_t)GPA_ALL_FLAGS) || (r->flags & (GPA_READ | GPA_WRITE)) == GPA_WRITE ||
        (r->flags & (GPA_READ | GPA_EXECUTE)) == GPA_EXECUTE || (r->flags & 7) == (GPA_WRITE | GPA_EXECUTE))
        return snapshot_corrupt(l, at, "a memory range with rights that cannot be");
    if (!page_aligned(r->data_offset) || !fits(l, r->data_offset, r->size, 1) ||
        !fits(l, r->table_offset, snapshot_chunks(r->size), sizeof(struct snapshot_file_chunk)))
        return snapshot_corrupt(l, at, "a memory range's pages or table reach beyond the end");
    return STATUS_OK;
}

static enum status read_ranges(struct snapshot_loader *l)
{
    const struct snapshot_file_header *h = &l->header;
    uint64_t size = sizeof(l->file_ranges[0]);

    if (!fits(l, h->ranges_offset, h->range_count, size))
        return snapshot_corrupt(l, h->ranges_offset, "the list of memory ranges reaches beyond the end");
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
        status = snapshot_bytes(l, l->file_ranges + done, n * size, h->ranges_offset + done * size);
        if (status == STATUS_OK)
            crc = crc32c(crc, l->file_ranges + done, n * size);
        for (uint64_t i = done; i < done + n && status == STATUS_OK; i++)
            status = check_range(l, i);
    }
    if (status == STATUS_OK && crc != h->ranges_crc)
        status = snapshot_corrupt(l, h->ranges_offset, "the checksum of the list of memory ranges does not match");
    return status;
}

/* ---- all of it ---- */

enum status snapshot_read(struct snapshot_loader *l)
{
    struct stat stat;
    enum status status;

    if (fstat(l->fd, &stat) != 0 || !S_ISREG(stat.st_mode))
        return fail(STATUS_FILE_CORRUPT, "%s: not a file", l->path);
    l->file_size = (uint64_t)stat.st_size;
    l->snapshot = calloc(1, sizeof(*l->snapshot));
    if (!l->snapshot)
        return fail(STATUS_NO_MEMORY, "no memory for a snapshot");
    status = snapshot_bytes(l, &l->header, sizeof(l->header), 0);
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
