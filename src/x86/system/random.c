/* Random numbers; the contract is in random.h. */
#include "x86/system/random.h"

#include <sys/mman.h>
#include <sys/random.h>

enum { RANDOM_SIZE = 4096, RANDOM_COUNT = 32 }; /* 256 bytes: what getrandom() gives in one piece */

/* A page of its own, which a child finds zero: nothing is left there. */
struct random_buffer {
    uint64_t left;
    uint64_t values[RANDOM_COUNT];
};

struct random_buffer *random_create(void)
{
    void *page = mmap(NULL, RANDOM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        return NULL;
    if (madvise(page, RANDOM_SIZE, MADV_WIPEONFORK) == 0)
        return page;
    munmap(page, RANDOM_SIZE);
    return NULL;
}

void random_destroy(struct random_buffer *buffer)
{
    if (buffer)
        munmap(buffer, RANDOM_SIZE);
}

bool random_take(struct random_buffer *buffer, uint64_t *value)
{
    if (unlikely(!buffer))
        return getrandom(value, sizeof(*value), GRND_NONBLOCK) == sizeof(*value);
    if (!buffer->left) {
        if (getrandom(buffer->values, sizeof(buffer->values), GRND_NONBLOCK) != sizeof(buffer->values))
            return false;
        buffer->left = RANDOM_COUNT;
    }
    buffer->left--;
    *value = buffer->values[buffer->left];
    buffer->values[buffer->left] = 0;
    return true;
}
