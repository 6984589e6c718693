/*
 * A map from disjoint ranges of 64-bit numbers to values: a B+tree of extents. Setting a range
 * replaces what was there, splitting neighbours; neighbours that continue each other are one
 * extent.
 *
 * No locks of its own: lookups may run in parallel with each other, changes with nothing.
 */
#ifndef OWHP_MEM_EXTENT_TREE_H
#define OWHP_MEM_EXTENT_TREE_H

#include "mem/extent_pool.h"
#include "util/compiler.h"
#include "util/types.h"

struct extent {
    uint64_t start, size; /* start + size does not wrap */
    uint64_t target;      /* belongs to start, and moves along with it */
    uint32_t owner, attributes;
};

struct extent_node;

struct extent_tree {
    struct extent_node *root; /* NULL when empty */
    unsigned height;          /* levels above the leaves */
    struct extent_pool pool;
    uint64_t count; /* extents */
    uint64_t total; /* sum of their sizes */
};

/* An all-zero struct is an empty tree. */
void extent_tree_fini(struct extent_tree *tree);

/* Get the memory for this many of the following calls of set, clear and update (they cannot fail, and must
 * have been reserved for). What they leave over stays until it is trimmed. False: no memory. */
must_check bool extent_tree_reserve(struct extent_tree *tree, size_t changes);

/* Give back most of what a large reservation, or many removals, left over. */
void extent_tree_trim(struct extent_tree *tree);

/* A change at this number will follow: in a large tree, get what it looks at into the caches meanwhile. */
void extent_tree_expect(const struct extent_tree *tree, uint64_t start);

/* Replace the range of the extent by it. */
void extent_tree_set(struct extent_tree *tree, const struct extent *extent);

/* Leave nothing in [start, start + size). */
void extent_tree_clear(struct extent_tree *tree, uint64_t start, uint64_t size);

/* Other attributes for what lies in [start, start + size): change() tells which, of each extent, `by` being the caller's. One
 * change, however many extents there are. */
typedef uint32_t extent_change(uint32_t attributes, uint32_t by);
void extent_tree_update(struct extent_tree *tree, uint64_t start, uint64_t size, extent_change *change, uint32_t by);

/* The extent that contains key. If there is none: false, and *extent has start and size of the hole
 * around key (up to UINT64_MAX), everything else 0. */
bool extent_tree_find(const struct extent_tree *tree, uint64_t key, struct extent *extent);

/* The extents that reach above `from`, in ascending order, at most capacity of them. */
size_t extent_tree_list(const struct extent_tree *tree, uint64_t from, struct extent *array,
                        size_t capacity);

/* True if b continues a. */
static inline bool extent_continues(const struct extent *a, const struct extent *b)
{
    return a->start + a->size == b->start && a->target + a->size == b->target &&
           a->owner == b->owner && a->attributes == b->attributes;
}

/* The part of an extent inside [start, start + size), which it touches. */
struct extent extent_clip(const struct extent *extent, uint64_t start, uint64_t size);

/* What begins at `at` and ends at the next border, or at end (> at) if that is nearer: a part of an
 * extent, or of a hole (attributes, owner and target 0). For walking a range without gaps. */
struct extent extent_tree_piece(const struct extent_tree *tree, uint64_t at, uint64_t end);

#endif
