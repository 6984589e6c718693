/*
 * A raw disk image on the host: a file or block device of whole 512-byte sectors.
 *
 * The image is locked while the machine runs, so that no second machine writes it, and no access ever goes
 * beyond its size at start.
 */
#ifndef OPENWHP_TOOL_DISK_IMAGE_H
#define OPENWHP_TOOL_DISK_IMAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

enum { SECTOR_BYTES = 512 };

struct disk_image {
    int file; /* -1: not open */
    uint64_t sectors;
    bool read_only; /* this user may not write the file */
};

/* -1 with a problem() when the file is missing, too small, no file, or used by another machine. */
int disk_image_open(struct disk_image *image, const char *path);
void disk_image_close(struct disk_image *image);

/*
 * Moves whole sectors between the image and memory; the vectors may be changed. False when the range is
 * not inside the image, the bytes are no whole sectors, or the host fails.
 */
bool disk_image_read(struct disk_image *image, uint64_t sector, struct iovec *vectors, unsigned count);
bool disk_image_write(struct disk_image *image, uint64_t sector, struct iovec *vectors, unsigned count);

/* Returns once everything written is on the medium. */
bool disk_image_flush(struct disk_image *image);

#endif
