/*
 * A snapshot's file on its way into a partition: what reading it (snapshot_read.c) leaves for loading it (snapshot_load.c).
 */
#ifndef OWHP_CORE_SNAPSHOT_LOADER_H
#define OWHP_CORE_SNAPSHOT_LOADER_H

#include "core/snapshot_file.h"

struct snapshot_loader {
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

/* STATUS_FILE_CORRUPT, with what is wrong at that place of the file. */
enum status snapshot_corrupt(const struct snapshot_loader *l, uint64_t offset, const char *what);

/* Bytes of the file. STATUS_FILE_CORRUPT: it ends before. STATUS_ACCESS_DENIED: it cannot be read. */
must_check enum status snapshot_bytes(const struct snapshot_loader *l, void *bytes, uint64_t size, uint64_t offset);

/* All of the file but the pages and their tables: header, configuration, processors, ranges, into the loader. It suits the
 * partition, of which nothing has been touched. */
must_check enum status snapshot_read(struct snapshot_loader *l);

#endif
