#include "mem/extent_pool.h"

#include "util/check.h"

#include <stdlib.h>
#include <sys/mman.h>

enum {
    FIRST_NODES = 16,             /* of a usual guest's few ranges */
    MAPPED_SIZE = 2 << 20,        /* a huge page */
    MAPPED_AFTER = 3,             /* so many chunks of the heap before the first mapped one */
};

/* A free node. */
struct slot {
    struct extent_node_head head;
    struct slot *next;
};

struct extent_chunk {
    struct extent_chunk *next, **link; /* in open or full */
    struct slot *free;
    uint8_t *nodes;
    size_t capacity, carved, used; /* nodes: there are, were ever given out, are given out */
    size_t mapped_size;            /* 0: from the heap */
};

enum { HEADER_SIZE = 128 }; /* of a chunk; nodes are whole cache lines */
_Static_assert(sizeof(struct extent_chunk) <= HEADER_SIZE, "the header of a chunk");

static void enter(struct extent_chunk **list, struct extent_chunk *chunk)
{
    chunk->next = *list;
    chunk->link = list;
    if (*list)
        (*list)->link = &chunk->next;
    *list = chunk;
}

static void leave(struct extent_chunk *chunk)
{
    *chunk->link = chunk->next;
    if (chunk->next)
        chunk->next->link = chunk->link;
}

/* ---- chunks ---- */

/* Huge-page aligned: more than needed, and the ends given back. */
static uint8_t *map_aligned(void)
{
    uint8_t *area = mmap(NULL, 2 * MAPPED_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED)
        return NULL;
    size_t head = -(uintptr_t)area & (MAPPED_SIZE - 1);
    if (head)
        munmap(area, head);
    munmap(area + head + MAPPED_SIZE, MAPPED_SIZE - head);
    madvise(area + head, MAPPED_SIZE, MADV_HUGEPAGE);
    return area + head;
}

static struct extent_chunk *chunk_of_heap(size_t nodes)
{
    size_t size = HEADER_SIZE + 64 + nodes * EXTENT_NODE_SIZE;
    struct extent_chunk *chunk = malloc(size);
    if (!chunk)
        return NULL;
    uint8_t *first = (uint8_t *)chunk + HEADER_SIZE;
    *chunk = (struct extent_chunk){.capacity = nodes, .nodes = first + (-(uintptr_t)first & 63)};
    return chunk;
}

static struct extent_chunk *chunk_of_pages(void)
{
    uint8_t *area = map_aligned();
    if (!area)
        return NULL;
    struct extent_chunk *chunk = (void *)area;
    *chunk = (struct extent_chunk){
        .capacity = (MAPPED_SIZE - HEADER_SIZE) / EXTENT_NODE_SIZE, .nodes = area + HEADER_SIZE, .mapped_size = MAPPED_SIZE};
    return chunk;
}

static bool add_chunk(struct extent_pool *pool)
{
    struct extent_chunk *chunk =
        pool->made < MAPPED_AFTER ? chunk_of_heap((size_t)FIRST_NODES << 2 * pool->made) : chunk_of_pages();
    if (!chunk)
        return false;
    pool->made++;
    pool->spare += chunk->capacity;
    pool->idle++;
    enter(&pool->open, chunk);
    return true;
}

static void free_chunk(struct extent_chunk *chunk)
{
    leave(chunk);
    if (chunk->mapped_size)
        munmap(chunk, chunk->mapped_size);
    else
        free(chunk);
}

void extent_pool_fini(struct extent_pool *pool)
{
    while (pool->open)
        free_chunk(pool->open);
    while (pool->full)
        free_chunk(pool->full);
    *pool = (struct extent_pool){0};
}

bool extent_pool_reserve(struct extent_pool *pool, size_t nodes)
{
    while (unlikely(pool->spare < nodes))
        if (!add_chunk(pool))
            return false;
    return true;
}

static void trim_chunk(struct extent_pool *pool, struct extent_chunk *chunk)
{
    pool->idle--;
    pool->spare -= chunk->capacity;
    pool->made--;
    free_chunk(chunk);
}

void extent_pool_trim(struct extent_pool *pool)
{
    struct extent_chunk *next;
    if (likely(pool->idle <= 1))
        return;
    for (struct extent_chunk *chunk = pool->open; chunk && pool->idle > 1; chunk = next) {
        next = chunk->next;
        if (chunk->used == 0)
            trim_chunk(pool, chunk);
    }
}

/* ---- nodes ---- */

static struct slot *carve(struct extent_chunk *chunk)
{
    struct slot *slot = (void *)(chunk->nodes + chunk->carved++ * EXTENT_NODE_SIZE);
    slot->head.chunk = chunk;
    return slot;
}

void *extent_pool_take(struct extent_pool *pool)
{
    struct extent_chunk *chunk = pool->open;
    check(chunk);
    struct slot *slot = chunk->free;
    if (slot)
        chunk->free = slot->next;
    else
        slot = carve(chunk);
    pool->spare--;
    pool->idle -= chunk->used == 0;
    if (++chunk->used == chunk->capacity) {
        leave(chunk);
        enter(&pool->full, chunk);
    }
    return slot;
}

void extent_pool_give(struct extent_pool *pool, void *node)
{
    struct slot *slot = node;
    struct extent_chunk *chunk = slot->head.chunk;
    slot->next = chunk->free;
    chunk->free = slot;
    pool->spare++;
    if (chunk->used-- == chunk->capacity) {
        leave(chunk);
        enter(&pool->open, chunk);
    }
    pool->idle += chunk->used == 0;
}
