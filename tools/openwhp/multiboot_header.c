/* The multiboot header; see multiboot_header.h. */
#include "multiboot_header.h"

#include <stdbool.h>
#include <string.h>

#include "bytes.h"

#define MAGIC UINT32_C(0x1BADB002)

enum { SEARCHED = 8192, HEADER_BYTES = 12, HEADER_WITH_ADDRESSES = 32 };

static bool decode(const uint8_t *at, uint32_t room, struct multiboot_header *header)
{
    if (get32(at) != MAGIC || get32(at) + get32(at + 4) + get32(at + 8) != 0)
        return false;
    header->flags = get32(at + 4);
    if (!(header->flags & MULTIBOOT_ADDRESSES_VALID))
        return true;
    if (room < HEADER_WITH_ADDRESSES)
        return false;
    header->header_address = get32(at + 12);
    header->load_address = get32(at + 16);
    header->load_end = get32(at + 20);
    header->bss_end = get32(at + 24);
    header->entry = get32(at + 28);
    return true;
}

int multiboot_find_header(const struct image_file *image, struct multiboot_header *header)
{
    uint8_t start[SEARCHED];
    uint32_t size = image->size < SEARCHED ? (uint32_t)image->size : SEARCHED;
    if (image_file_read(image, 0, start, size) != 0)
        return -1;
    memset(header, 0, sizeof *header);
    for (uint32_t at = 0; at + HEADER_BYTES <= size; at += 4) {
        header->offset = at;
        if (decode(start + at, size - at, header))
            return 1;
    }
    return 0;
}
