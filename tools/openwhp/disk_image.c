/* A raw disk image; see disk_image.h. */
#include "disk_image.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "problem.h"

static int open_file(struct disk_image *image, const char *path)
{
    image->read_only = false;
    image->file = open(path, O_RDWR | O_CLOEXEC);
    if (image->file < 0 && (errno == EACCES || errno == EROFS || errno == EPERM)) {
        image->read_only = true;
        image->file = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (image->file < 0)
        return problem("cannot open disk image %s (%s); give --disk a raw image", path, strerror(errno));
    return 0;
}

static int measure(struct disk_image *image, const char *path)
{
    struct stat status;
    if (fstat(image->file, &status) != 0 || !(S_ISREG(status.st_mode) || S_ISBLK(status.st_mode)))
        return problem("disk image %s is no file and no block device; give --disk a raw image", path);
    off_t size = lseek(image->file, 0, SEEK_END);
    if (size < SECTOR_BYTES)
        return problem("disk image %s holds no sector (%lld bytes); give --disk a raw image", path,
                       (long long)size);
    image->sectors = (uint64_t)size / SECTOR_BYTES;
    return 0;
}

int disk_image_open(struct disk_image *image, const char *path)
{
    if (open_file(image, path) != 0)
        return -1;
    int result = measure(image, path);
    if (result == 0 && flock(image->file, (image->read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0)
        result = problem("disk image %s is used by another program; end that one or copy the image", path);
    if (result != 0)
        disk_image_close(image);
    return result;
}

void disk_image_close(struct disk_image *image)
{
    if (image->file >= 0)
        close(image->file);
    image->file = -1;
}

static bool range_is_inside(const struct disk_image *image, uint64_t sector, const struct iovec *vectors,
                            unsigned count)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++) {
        if (vectors[i].iov_len > INT32_MAX)
            return false;
        bytes += vectors[i].iov_len;
    }
    uint64_t wanted = bytes / SECTOR_BYTES;
    return bytes % SECTOR_BYTES == 0 && sector <= image->sectors && wanted <= image->sectors - sector;
}

/* Drops what has been moved from the front of the vectors. */
static void advance(struct iovec **vectors, unsigned *count, size_t bytes)
{
    while (*count > 0 && bytes >= (*vectors)->iov_len) {
        bytes -= (*vectors)->iov_len;
        (*vectors)++;
        (*count)--;
    }
    if (*count > 0) {
        (*vectors)->iov_base = (char *)(*vectors)->iov_base + bytes;
        (*vectors)->iov_len -= bytes;
    }
}

typedef ssize_t transfer_fn(int file, const struct iovec *vectors, int count, off_t offset);

static bool transfer(struct disk_image *image, uint64_t sector, struct iovec *vectors, unsigned count,
                     transfer_fn *move)
{
    if (!range_is_inside(image, sector, vectors, count))
        return false;
    off_t offset = (off_t)(sector * SECTOR_BYTES);
    advance(&vectors, &count, 0);
    while (count > 0) {
        ssize_t moved = move(image->file, vectors, (int)count, offset);
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved <= 0)
            return false;
        offset += moved;
        advance(&vectors, &count, (size_t)moved);
    }
    return true;
}

bool disk_image_read(struct disk_image *image, uint64_t sector, struct iovec *vectors, unsigned count)
{
    return transfer(image, sector, vectors, count, preadv);
}

bool disk_image_write(struct disk_image *image, uint64_t sector, struct iovec *vectors, unsigned count)
{
    return !image->read_only && transfer(image, sector, vectors, count, pwritev);
}

bool disk_image_flush(struct disk_image *image) { return fdatasync(image->file) == 0; }
