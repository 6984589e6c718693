/* A file to be loaded; see image_file.h. */
#include "image_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "problem.h"

int image_file_open(struct image_file *image, const char *path, const char *purpose)
{
    struct stat status;
    *image = (struct image_file){.path = path, .purpose = purpose};
    image->file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    if (image->file < 0)
        return problem("cannot open %s %s (%s); give --%s a file that can be read", purpose, path,
                       strerror(errno), purpose);
    if (fstat(image->file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
        image_file_close(image);
        return problem("%s %s is empty or no regular file; give --%s another one", purpose, path, purpose);
    }
    image->size = (uint64_t)status.st_size;
    return 0;
}

void image_file_close(struct image_file *image)
{
    if (image->file >= 0)
        close(image->file);
    image->file = -1;
}

static int truncated(const struct image_file *image)
{
    return problem("%s %s is truncated (%llu bytes); copy or build it again", image->purpose, image->path,
                   (unsigned long long)image->size);
}

int image_file_read(const struct image_file *image, uint64_t offset, void *to, uint64_t size)
{
    if (offset > image->size || size > image->size - offset)
        return truncated(image);
    char *at = to;
    while (size > 0) {
        ssize_t count = pread(image->file, at, size, (off_t)offset);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return problem("cannot read %s %s (%s); check the file", image->purpose, image->path,
                           strerror(errno));
        if (count == 0)
            return truncated(image); /* it has shrunk meanwhile */
        at += count;
        offset += (uint64_t)count;
        size -= (uint64_t)count;
    }
    return 0;
}
