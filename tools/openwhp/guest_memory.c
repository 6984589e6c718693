/* The guest's RAM; see guest_memory.h. */
#include "guest_memory.h"

#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "bytes.h"
#include "problem.h"

int guest_memory_create(struct guest_memory *memory, uint64_t size)
{
    memset(memory, 0, sizeof *memory);
    if (size < GUEST_MEMORY_MINIMUM || size > GUEST_MEMORY_MAXIMUM)
        return problem("guest memory of %llu bytes is not possible; give --memory a size from 2M to 1024G",
                       (unsigned long long)size);
    size = align_up(size, PAGE_BYTES);
    void *host = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (host == MAP_FAILED)
        return problem("the host gives no %llu MiB of memory; give --memory a smaller size",
                       (unsigned long long)(size / MIB));
    memory->host = host;
    memory->size = size;
    memory->low_end = size < LOW_RAM_LIMIT ? size : LOW_RAM_LIMIT;
    return 0;
}

void guest_memory_destroy(struct guest_memory *memory)
{
    if (memory->host != NULL)
        munmap(memory->host, memory->size);
    memory->host = NULL;
}

uint64_t guest_memory_high_end(const struct guest_memory *memory)
{
    return HIGH_RAM_FIRST + (memory->size - memory->low_end);
}

static bool inside(uint64_t gpa, uint64_t size, uint64_t first, uint64_t end)
{
    return gpa >= first && gpa <= end && size <= end - gpa;
}

static bool shadow_allows(const struct guest_memory *memory, uint64_t gpa, uint64_t size, bool write)
{
    const bool *allowed = write ? memory->shadow_writable : memory->shadow_readable;
    uint64_t last = (gpa + (size > 0 ? size - 1 : 0) - SHADOW_FIRST) / SHADOW_PIECE_SIZE;
    for (uint64_t piece = (gpa - SHADOW_FIRST) / SHADOW_PIECE_SIZE; piece <= last; piece++)
        if (piece >= SHADOW_PIECES || !allowed[piece])
            return false;
    return true;
}

void *guest_memory_at(const struct guest_memory *memory, uint64_t gpa, uint64_t size, bool write)
{
    if (inside(gpa, size, 0, CONVENTIONAL_END) ||
        inside(gpa, size, EXTENDED_FIRST, memory->low_end))
        return memory->host + gpa;
    if (inside(gpa, size, HIGH_RAM_FIRST, guest_memory_high_end(memory)))
        return memory->host + memory->low_end + (gpa - HIGH_RAM_FIRST);
    if (inside(gpa, size, SHADOW_FIRST, SHADOW_END) && shadow_allows(memory, gpa, size, write))
        return memory->host + gpa;
    /* Across the seam at 1 MiB: contiguous in the host as well. */
    if (inside(gpa, size, SHADOW_FIRST, memory->low_end) && gpa < SHADOW_END &&
        shadow_allows(memory, gpa, SHADOW_END - gpa, write))
        return memory->host + gpa;
    return NULL;
}

bool guest_memory_read(const struct guest_memory *memory, uint64_t gpa, void *to, uint64_t size)
{
    const void *from = guest_memory_at(memory, gpa, size, false);
    if (from == NULL)
        return false;
    memcpy(to, from, size);
    return true;
}

bool guest_memory_write(const struct guest_memory *memory, uint64_t gpa, const void *from, uint64_t size)
{
    void *to = guest_memory_at(memory, gpa, size, true);
    if (to == NULL)
        return false;
    memcpy(to, from, size);
    guest_memory_stored(memory, gpa, size);
    return true;
}

void guest_memory_stored(const struct guest_memory *memory, uint64_t gpa, uint64_t size)
{
    if (memory->stored != NULL && size > 0)
        memory->stored(memory->stored_context, gpa, size);
}
