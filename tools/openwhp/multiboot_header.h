/*
 * The multiboot header (Multiboot 0.6.96, section 3.1): in the first 8192 bytes of an image, on a multiple
 * of four.
 */
#ifndef OPENWHP_TOOL_MULTIBOOT_HEADER_H
#define OPENWHP_TOOL_MULTIBOOT_HEADER_H

#include <stdint.h>

#include "image_file.h"

enum { MULTIBOOT_ADDRESSES_VALID = 1 << 16 };

struct multiboot_header {
    uint32_t offset; /* in the file */
    uint32_t flags;
    /* With MULTIBOOT_ADDRESSES_VALID. */
    uint32_t header_address, load_address, load_end, bss_end, entry;
};

/* 1: found, 0: none, -1: the file cannot be read. */
int multiboot_find_header(const struct image_file *image, struct multiboot_header *header);

#endif
