/*
 * Little-endian fields in byte buffers: what images, ACPI tables, queues and device registers are made of.
 * Guest data has no alignment and no type, so it is only ever read through these.
 */
#ifndef OPENWHP_TOOL_BYTES_H
#define OPENWHP_TOOL_BYTES_H

#include <stdint.h>
#include <string.h>

static inline uint16_t get16(const void *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint32_t get32(const void *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint64_t get64(const void *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline void put16(void *at, uint16_t value) { memcpy(at, &value, sizeof value); }

static inline void put32(void *at, uint32_t value) { memcpy(at, &value, sizeof value); }

static inline void put64(void *at, uint64_t value) { memcpy(at, &value, sizeof value); }

/* Rounds up to a power of two; the caller rules out wrap-around. */
static inline uint64_t align_up(uint64_t value, uint64_t alignment)
{
    return (value + alignment - 1) & ~(alignment - 1);
}

#endif
