#include "core/host_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/last_error.h"

enum { ALIGNMENT = 2 << 20 }; /* a huge page */

/* One allocation. The descriptor stays open for those who attach from other processes. */
struct allocation {
    struct allocation *next;
    void *address;
    uint64_t size;
    int fd;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct allocation *allocations; /* under lock */

/* ---- allocate ---- */

static int open_memory(uint64_t size)
{
    int fd = memfd_create("guest-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0)
        return -1;
    if (ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* Reserve more than needed, place the memory on a boundary in it, give the rest back. */
static void *map_aligned(int fd, uint64_t size)
{
    char *area = mmap(NULL, size + ALIGNMENT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (area == MAP_FAILED)
        return NULL;
    size_t head = -(uintptr_t)area & (ALIGNMENT - 1);
    char *start = area + head;
    if (mmap(start, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0) == MAP_FAILED) {
        munmap(area, size + ALIGNMENT);
        return NULL;
    }
    if (head)
        munmap(area, head);
    munmap(start + size, ALIGNMENT - head);
    (void)madvise(start, size, MADV_HUGEPAGE); /* only a wish */
    return start;
}

enum status host_memory_allocate(uint64_t size, void **address)
{
    if (size == 0 || size & ~PAGE_MASK)
        return fail(STATUS_INVALID_ARGUMENT, "size %#llx is not a multiple of 4096 above 0", (unsigned long long)size);
    struct allocation *allocation = malloc(sizeof(*allocation));
    int fd = allocation && size <= INT64_MAX - ALIGNMENT ? open_memory(size) : -1;
    void *start = fd >= 0 ? map_aligned(fd, size) : NULL;
    if (!start) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        free(allocation);
        return fail(STATUS_NO_MEMORY, "%#llx bytes of memory: %s", (unsigned long long)size, strerror(error));
    }
    *allocation = (struct allocation){.address = start, .size = size, .fd = fd};
    pthread_mutex_lock(&lock);
    allocation->next = allocations;
    allocations = allocation;
    pthread_mutex_unlock(&lock);
    *address = start;
    return STATUS_OK;
}

/* ---- free ---- */

static struct allocation *take(const void *address)
{
    struct allocation **link = &allocations;
    struct allocation *found;

    pthread_mutex_lock(&lock);
    while (*link && (*link)->address != address)
        link = &(*link)->next;
    found = *link;
    if (found)
        *link = found->next;
    pthread_mutex_unlock(&lock);
    return found;
}

enum status host_memory_free(void *address)
{
    struct allocation *allocation = take(address);

    if (!allocation)
        return fail(STATUS_INVALID_ARGUMENT, "%p was not allocated here", address);
    munmap(allocation->address, allocation->size);
    close(allocation->fd);
    free(allocation);
    return STATUS_OK;
}

/* ---- residency ---- */

uint64_t host_memory_resident(const void *address, uint64_t size)
{
    unsigned char present[4096]; /* 16 MiB at a time */
    const uint64_t piece = sizeof(present) << PAGE_SHIFT;
    uint64_t pages = 0;

    for (uint64_t done = 0; done < size; done += piece) {
        uint64_t now = size - done < piece ? size - done : piece;
        memset(present, 0, sizeof(present));
        if (mincore((char *)(uintptr_t)address + done, now, present) != 0)
            continue;
        for (uint64_t i = 0; i < now >> PAGE_SHIFT; i++)
            pages += present[i] & 1;
    }
    return pages << PAGE_SHIFT;
}
