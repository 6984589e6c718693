/* CRC-32C (Castagnoli): the checksum of iSCSI, ext4 and others, with an instruction of its own in SSE4.2. Any thread. */
#ifndef OWHP_UTIL_CRC32C_H
#define OWHP_UTIL_CRC32C_H

#include "util/types.h"

/* Of the bytes, going on from `crc`, which is 0 to begin with or the result for the bytes before. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t size);

/* The same without the instruction. */
uint32_t crc32c_portable(uint32_t crc, const void *bytes, size_t size);

#endif
