/*
 * A snapshot as a file. Little endian, all members of fixed width; what is not used is 0.
 *
 *      0                   header, one page
 *      ranges_offset       struct snapshot_file_range, range_count of them
 *      states_offset       struct vcpu_state (core/state.h), a set bit of vcpu_set each
 *      table_offset        of each range: struct snapshot_file_chunk, one for 64 pages
 *      data_offset         of each range: its pages in their places, page aligned, so that they can be mapped
 *
 * Pages of zeros, and tables of chunks without others, are holes in the file. Checksums are CRC-32C: the header's own (with
 * itself as 0), those of ranges, states and tables, which are always compared; and those of the pages, a chunk each, over its
 * pages that are not zero, in order.
 */
#ifndef OWHP_CORE_SNAPSHOT_FILE_H
#define OWHP_CORE_SNAPSHOT_FILE_H

#include "core/snapshot.h"

#define SNAPSHOT_MAGIC "OpenWHP image\r\n\032" /* 16 bytes; a file that went through text mode is recognized */
enum { SNAPSHOT_VERSION = 1, SNAPSHOT_BYTE_ORDER = 0x01020304, SNAPSHOT_CHUNK_PAGES = 64 };
#define SNAPSHOT_CHUNK_SIZE (SNAPSHOT_CHUNK_PAGES * PAGE_SIZE)

struct snapshot_file_header {
    char magic[16];
    uint32_t version, byte_order, state_version, crc;
    uint64_t file_size;
    uint64_t ranges_offset, range_count;
    uint64_t states_offset, vcpu_set;
    uint32_t ranges_crc, states_crc;
    struct snapshot_config config;
    struct time_state time;
};
_Static_assert(sizeof(struct snapshot_file_header) == 80 + sizeof(struct snapshot_config) + sizeof(struct time_state) &&
                   sizeof(struct snapshot_config) == 56,
               "no holes");

struct snapshot_file_range {
    uint64_t gpa, size;
    uint32_t flags, table_crc;
    uint64_t table_offset, data_offset;
};
_Static_assert(sizeof(struct snapshot_file_range) == 40, "no holes");

struct snapshot_file_chunk {
    uint64_t held; /* which pages are not zero */
    uint32_t crc, reserved;
};
_Static_assert(sizeof(struct snapshot_file_chunk) == 16, "no holes");

static inline uint64_t snapshot_chunks(uint64_t size)
{
    return (size + SNAPSHOT_CHUNK_SIZE - 1) / SNAPSHOT_CHUNK_SIZE;
}

#endif
