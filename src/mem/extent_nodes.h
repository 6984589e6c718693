/*
 * The nodes of an extent tree: their form, ways through them, inserting and removing. What an extent is, and how setting a range
 * cuts and joins, is extent_tree.c's, which alone includes this.
 */
#ifndef OWHP_MEM_EXTENT_NODES_H
#define OWHP_MEM_EXTENT_NODES_H

#include "mem/extent_tree.h"

#include <stddef.h>

enum {
    EXTENT_LEAF_SLOTS = 31,
    EXTENT_INNER_SLOTS = 63,
    EXTENT_MAX_LEVELS = 16, /* more than 2^64 extents could fill */
};

struct extent_payload {
    uint64_t size, target;
    uint32_t owner, attributes;
};

struct extent_node {
    struct extent_node_head head;
    unsigned count;
    union {
        struct {
            uint64_t key[EXTENT_INNER_SLOTS];
            struct extent_node *child[EXTENT_INNER_SLOTS];
        };
        struct {
            uint64_t start[EXTENT_LEAF_SLOTS];
            struct extent_payload payload[EXTENT_LEAF_SLOTS];
        };
    };
};
_Static_assert(sizeof(struct extent_node) == EXTENT_NODE_SIZE, "nodes are of the pool's size");

/* A place in the tree: at each level (0 is the leaf) the node and the slot. The slot of the leaf
 * may be its count: behind the last extent. */
struct extent_path {
    struct extent_node *node[EXTENT_MAX_LEVELS];
    unsigned slot[EXTENT_MAX_LEVELS];
};

/* ---- looking into a node ---- */

/* How many of the ascending numbers are below the key; no branch on the data. */
static inline unsigned count_below(const uint64_t *numbers, unsigned count, uint64_t key)
{
    unsigned base = 0;
    while (count > 1) {
        unsigned half = count / 2;
        base += half & -(unsigned)(numbers[base + half - 1] < key);
        count -= half;
    }
    return base + (count && numbers[base] < key);
}

/* How many are at or below it. */
static inline unsigned count_upto(const uint64_t *numbers, unsigned count, uint64_t key)
{
    return key == UINT64_MAX ? count : count_below(numbers, count, key + 1);
}

static inline unsigned child_slot(const struct extent_node *inner, uint64_t key)
{
    return count_upto(inner->key + 1, inner->count - 1, key);
}

/* Several cache misses at a time are little more than one: fetch lines of a node before they are looked for. */
static inline void prefetch(const struct extent_node *node, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64)
        __builtin_prefetch((const char *)node + at);
}

static inline struct extent extent_at(const struct extent_node *leaf, unsigned slot)
{
    const struct extent_payload *payload = &leaf->payload[slot];
    return (struct extent){leaf->start[slot], payload->size, payload->target, payload->owner,
                           payload->attributes};
}

/* ---- ways ---- */

/* To the first extent of the leaf responsible for key whose start is not below it. */
void extent_path_seek(const struct extent_tree *tree, struct extent_path *path, uint64_t key);

/* If the path is behind the last extent of its leaf, on to the next leaf. False: there is none. */
bool extent_path_settle(const struct extent_tree *tree, struct extent_path *path);

/* To the extent before. False: there is none. */
bool extent_path_back(const struct extent_tree *tree, struct extent_path *path);

/* ---- changes; their nodes were reserved ---- */

/* Insert an extent whose range is free. */
void extent_nodes_insert(struct extent_tree *tree, const struct extent *extent);

/* Remove n extents of the path's leaf, from its slot on. The path is stale afterwards. */
void extent_nodes_remove(struct extent_tree *tree, const struct extent_path *path, unsigned n);

/* Another size for the path's extent. */
void extent_nodes_resize(struct extent_tree *tree, const struct extent_path *path, uint64_t size);

/* Make room for, or close, `by` slots before slot `at` of a node that has them. */
void extent_nodes_move(struct extent_node *node, unsigned level, unsigned at, int by);

#endif
