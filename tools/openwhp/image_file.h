/* A file to be loaded: opened, measured, read in pieces. Failures name the file and what it was for. */
#ifndef OPENWHP_TOOL_IMAGE_FILE_H
#define OPENWHP_TOOL_IMAGE_FILE_H

#include <stdint.h>

struct image_file {
    int file;
    uint64_t size;
    const char *path, *purpose; /* "kernel", "initrd": the option without its dashes */
};

/* -1 with a problem() when it cannot be read, is no regular file, or is empty. */
int image_file_open(struct image_file *image, const char *path, const char *purpose);
void image_file_close(struct image_file *image);

/* Reads [offset, offset + size), all of it; beyond the end is a truncated file. */
int image_file_read(const struct image_file *image, uint64_t offset, void *to, uint64_t size);

#endif
