/*
 * Nodes for an extent tree, from few large pieces of memory: a tree of a million ranges is walked in any order, and pays
 * for each page table entry of the host it needs on the way. Large pieces are huge pages where the host has them.
 *
 * No locks of its own.
 */
#ifndef OWHP_MEM_EXTENT_POOL_H
#define OWHP_MEM_EXTENT_POOL_H

#include "util/compiler.h"
#include "util/types.h"

enum { EXTENT_NODE_SIZE = 1024 }; /* 16 cache lines */

struct extent_chunk;

/* What a node begins with; the rest is extent_tree.c's. */
struct extent_node_head {
    struct extent_chunk *chunk; /* the pool's, never to be changed */
};

struct extent_pool {
    struct extent_chunk *open; /* chunks with free nodes */
    struct extent_chunk *full;
    size_t spare;              /* free nodes */
    size_t idle;               /* chunks with free nodes only */
    size_t made;               /* chunks so far: they grow */
};

/* An all-zero struct is an empty pool. Frees all nodes, also those in use. */
void extent_pool_fini(struct extent_pool *pool);

/* Have at least so many nodes to take. False: no memory. */
must_check bool extent_pool_reserve(struct extent_pool *pool, size_t nodes);

/* A node that was reserved. */
void *extent_pool_take(struct extent_pool *pool);
void extent_pool_give(struct extent_pool *pool, void *node);

/* Give chunks without a used node back, but for one. */
void extent_pool_trim(struct extent_pool *pool);

#endif
