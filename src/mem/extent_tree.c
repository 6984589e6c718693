/*
 * Why a B+tree. A guest has from a handful to a million mapped ranges, of a page or of a terabyte,
 * at any distance. A radix tree over page numbers finds a page in fewer steps, but a terabyte at an
 * odd place is thousands of slots, splitting it rewrites them, and a million lone pages cost a node
 * each; a sorted array pays for each change with the number of ranges. Here a range is one entry
 * whatever its size, a change touches one path, and memory follows the number of ranges. Wide nodes
 * (31 entries, 63 children) keep a million ranges four or five levels deep and the handful of a
 * usual guest in one node.
 *
 * Rules of the tree:
 *   - Child i of an inner node holds the extents whose start is in [key[i], key[i + 1]); key[0] is
 *     ignored, the child takes everything below key[1]. Keys are bounds, not copies: removing the
 *     first extent of a child does not change the key above it.
 *   - So an extent may reach across the key of the child after its own (its start may not). A
 *     lookup that finds no start at or below its number in a leaf therefore looks at the leaf to
 *     the left.
 *   - No node but an empty root is empty; a node under a quarter full is joined with a sibling if
 *     the sum leaves a quarter free.
 *   - A change takes its nodes from the pool, where they were reserved before it began.
 */
#include "mem/extent_tree.h"

#include "util/check.h"

#include <stddef.h>
#include <string.h>

enum {
    LEAF_SLOTS = 31,
    INNER_SLOTS = 63,
    MAX_LEVELS = 16, /* more than 2^64 extents could fill */
};

struct payload {
    uint64_t size, target;
    uint32_t owner, attributes;
};

struct extent_node {
    struct extent_node_head head;
    unsigned count;
    union {
        struct {
            uint64_t key[INNER_SLOTS];
            struct extent_node *child[INNER_SLOTS];
        };
        struct {
            uint64_t start[LEAF_SLOTS];
            struct payload payload[LEAF_SLOTS];
        };
    };
};
_Static_assert(sizeof(struct extent_node) == EXTENT_NODE_SIZE, "nodes are of the pool's size");

/* A place in the tree: at each level (0 is the leaf) the node and the slot. The slot of the leaf
 * may be its count: behind the last extent. */
struct path {
    struct extent_node *node[MAX_LEVELS];
    unsigned slot[MAX_LEVELS];
};

/* ---- nodes ---- */

static struct extent_node *take_node(struct extent_tree *tree)
{
    struct extent_node *node = extent_pool_take(&tree->pool);
    node->count = 0;
    return node;
}

static void give_node(struct extent_tree *tree, struct extent_node *node)
{
    extent_pool_give(&tree->pool, node);
}

static unsigned slots_of(unsigned level)
{
    return level ? INNER_SLOTS : LEAF_SLOTS;
}

/* How many of the ascending numbers are below the key; no branch on the data. */
static unsigned count_below(const uint64_t *numbers, unsigned count, uint64_t key)
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
static unsigned count_upto(const uint64_t *numbers, unsigned count, uint64_t key)
{
    return key == UINT64_MAX ? count : count_below(numbers, count, key + 1);
}

static unsigned child_slot(const struct extent_node *inner, uint64_t key)
{
    return count_upto(inner->key + 1, inner->count - 1, key);
}

/* Several cache misses at a time are little more than one: fetch lines of a node before they are looked for. */
static void prefetch(const struct extent_node *node, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64)
        __builtin_prefetch((const char *)node + at);
}

static struct extent extent_at(const struct extent_node *leaf, unsigned slot)
{
    const struct payload *payload = &leaf->payload[slot];
    return (struct extent){leaf->start[slot], payload->size, payload->target, payload->owner,
                           payload->attributes};
}

/* Make room for, or close, `by` slots before slot `at`. */
static void move_slots(struct extent_node *node, unsigned level, unsigned at, int by)
{
    unsigned to = (unsigned)((int)at + by), rest = node->count - at;

    memmove(node->key + to, node->key + at, rest * sizeof(node->key[0]));
    if (level)
        memmove(node->child + to, node->child + at, rest * sizeof(node->child[0]));
    else
        memmove(node->payload + to, node->payload + at, rest * sizeof(node->payload[0]));
    node->count = (unsigned)((int)node->count + by);
}

/* Append the slots of `from` that start at `first` to `to`. */
static void append_slots(struct extent_node *to, struct extent_node *from, unsigned level,
                         unsigned first)
{
    unsigned n = from->count - first;

    memcpy(to->key + to->count, from->key + first, n * sizeof(to->key[0]));
    if (level)
        memcpy(to->child + to->count, from->child + first, n * sizeof(to->child[0]));
    else
        memcpy(to->payload + to->count, from->payload + first, n * sizeof(to->payload[0]));
    to->count += n;
    from->count = first;
}

/* ---- paths ---- */

/* To the first extent of the leaf responsible for key whose start is not below it. */
static void seek(const struct extent_tree *tree, struct path *path, uint64_t key)
{
    struct extent_node *node = tree->root;
    for (unsigned level = tree->height; level > 0; level--) {
        path->node[level] = node;
        path->slot[level] = child_slot(node, key);
        node = node->child[path->slot[level]];
    }
    path->node[0] = node;
    path->slot[0] = count_below(node->start, node->count, key);
}

/* From the slot of `level` straight down: along the first, or the last, children. */
static void go_down(struct path *path, unsigned level, bool last)
{
    for (; level > 0; level--) {
        struct extent_node *node = path->node[level]->child[path->slot[level]];
        path->node[level - 1] = node;
        path->slot[level - 1] = last ? node->count - 1 : 0;
    }
}

/* If the path is behind the last extent of its leaf, on to the next leaf. False: there is none.
 * (Not inlined: the compiler would unroll it over all possible levels.) */
static noinline bool settle(const struct extent_tree *tree, struct path *path)
{
    if (path->slot[0] < path->node[0]->count)
        return true;
    for (unsigned level = 1; level <= tree->height; level++) {
        if (path->slot[level] + 1 < path->node[level]->count) {
            path->slot[level]++;
            go_down(path, level, false);
            return true;
        }
    }
    return false;
}

/* To the extent before. False: there is none. */
static noinline bool step_back(const struct extent_tree *tree, struct path *path)
{
    for (unsigned level = 0; level <= tree->height; level++) {
        if (path->slot[level] > 0) {
            path->slot[level]--;
            go_down(path, level, true);
            return true;
        }
    }
    return false;
}

/* ---- insert and remove ---- */

/* Split a full node so that something can be put at slot `at`. In the middle it is halved; at the
 * end it stays full and the new node takes the newcomer, so ascending insertion fills nodes. */
static struct extent_node *split(struct extent_tree *tree, struct extent_node *node, unsigned level,
                                 unsigned at)
{
    struct extent_node *right = take_node(tree);
    append_slots(right, node, level, at == node->count ? at : node->count / 2);
    return right;
}

/* Make room at slot *at of *node, if need be by splitting, and count the newcomer. Returns the new
 * right node or NULL; *node and *at are updated to where the newcomer goes. */
static struct extent_node *make_room(struct extent_tree *tree, struct extent_node **node,
                                     unsigned level, unsigned *at)
{
    struct extent_node *right = NULL;
    if ((*node)->count == slots_of(level)) {
        right = split(tree, *node, level, *at);
        if (*at > (*node)->count || right->count == 0) {
            *at -= (*node)->count;
            *node = right;
        }
    }
    move_slots(*node, level, *at, 1);
    return right;
}

static void grow_root(struct extent_tree *tree, struct extent_node *right, uint64_t key)
{
    struct extent_node *root = take_node(tree);
    root->count = 2;
    root->key[0] = 0;
    root->child[0] = tree->root;
    root->key[1] = key;
    root->child[1] = right;
    tree->root = root;
    tree->height++;
    check(tree->height < MAX_LEVELS);
}

/* Insert an extent whose range is free. */
static void insert(struct extent_tree *tree, const struct extent *extent)
{
    if (!tree->root)
        tree->root = take_node(tree);
    tree->count++;
    tree->total += extent->size;

    struct path path;
    seek(tree, &path, extent->start);
    struct extent_node *node = path.node[0];
    unsigned at = path.slot[0];
    struct extent_node *right = make_room(tree, &node, 0, &at);
    node->start[at] = extent->start;
    node->payload[at] =
        (struct payload){extent->size, extent->target, extent->owner, extent->attributes};

    for (unsigned level = 1; right; level++) {
        struct extent_node *child = right;
        uint64_t key = child->key[0]; /* for a leaf the first start: they are at the same place */
        if (level > tree->height) {
            grow_root(tree, child, key);
            return;
        }
        node = path.node[level];
        at = path.slot[level] + 1;
        right = make_room(tree, &node, level, &at);
        node->key[at] = key;
        node->child[at] = child;
    }
}

static void remove_child(struct extent_tree *tree, struct extent_node *inner, unsigned slot)
{
    give_node(tree, inner->child[slot]);
    move_slots(inner, 1, slot + 1, -1);
}

/* Join child `slot` of the parent with the one to its right, if that leaves a quarter free. */
static bool join(struct extent_tree *tree, struct extent_node *parent, unsigned slot,
                 unsigned level)
{
    if (slot + 1 >= parent->count)
        return false;
    struct extent_node *left = parent->child[slot], *right = parent->child[slot + 1];
    if (left->count + right->count > slots_of(level) / 4 * 3)
        return false;
    right->key[0] = level ? parent->key[slot + 1] : right->key[0];
    append_slots(left, right, level, 0);
    remove_child(tree, parent, slot + 1);
    return true;
}

static void shrink_root(struct extent_tree *tree)
{
    while (tree->root && (tree->root->count == 0 || (tree->height && tree->root->count == 1))) {
        struct extent_node *old = tree->root;
        tree->root = old->count ? old->child[0] : NULL;
        tree->height = tree->root ? tree->height - 1 : 0;
        give_node(tree, old);
    }
}

/* Remove n extents of the path's leaf, from its slot on. The path is stale afterwards. */
static void remove_extents(struct extent_tree *tree, const struct path *path, unsigned n)
{
    struct extent_node *leaf = path->node[0];
    for (unsigned i = 0; i < n; i++)
        tree->total -= leaf->payload[path->slot[0] + i].size;
    tree->count -= n;
    move_slots(leaf, 0, path->slot[0] + n, -(int)n);

    for (unsigned level = 0; level < tree->height; level++) {
        struct extent_node *node = path->node[level], *parent = path->node[level + 1];
        unsigned slot = path->slot[level + 1];
        if (node->count >= slots_of(level) / 4)
            return;
        if (node->count == 0)
            remove_child(tree, parent, slot);
        else if (!join(tree, parent, slot, level) && !(slot && join(tree, parent, slot - 1, level)))
            return;
    }
    shrink_root(tree);
}

static void resize(struct extent_tree *tree, const struct path *path, uint64_t size)
{
    struct payload *payload = &path->node[0]->payload[path->slot[0]];
    tree->total += size - payload->size;
    payload->size = size;
}

/* ---- public ---- */

void extent_tree_fini(struct extent_tree *tree)
{
    extent_pool_fini(&tree->pool);
    *tree = (struct extent_tree){0};
}

bool extent_tree_reserve(struct extent_tree *tree, size_t changes)
{
    /* A change inserts at most two extents: itself and what is left behind it. Each may split every
     * level and grow a root; the height may have grown by the inserts before. */
    return extent_pool_reserve(&tree->pool, 2 * changes * (tree->height + 4));
}

void extent_tree_trim(struct extent_tree *tree)
{
    extent_pool_trim(&tree->pool);
}

struct extent extent_clip(const struct extent *extent, uint64_t start, uint64_t size)
{
    struct extent clipped = *extent;
    uint64_t end = start + size, extent_end = extent->start + extent->size;
    if (clipped.start < start) {
        clipped.target += start - clipped.start;
        clipped.start = start;
    }
    clipped.size = (extent_end < end ? extent_end : end) - clipped.start;
    return clipped;
}

/* Cut the extent that begins before start and reaches beyond it. True if it covered all of the
 * range. */
static bool cut_left(struct extent_tree *tree, uint64_t start, uint64_t end)
{
    struct path path;
    seek(tree, &path, start);
    if (!step_back(tree, &path))
        return false;
    struct extent old = extent_at(path.node[0], path.slot[0]);
    uint64_t old_end = old.start + old.size;
    if (old_end <= start)
        return false;
    resize(tree, &path, start - old.start);
    if (old_end > end) {
        struct extent rest = extent_clip(&old, end, old_end - end);
        insert(tree, &rest);
    }
    return old_end >= end;
}

static void clear_long(struct extent_tree *tree, uint64_t start, uint64_t size)
{
    uint64_t end = start + size;
    if (!tree->root || cut_left(tree, start, end))
        return;
    while (tree->root) {
        struct path path;
        seek(tree, &path, start);
        if (!settle(tree, &path))
            return;
        struct extent_node *leaf = path.node[0];
        unsigned n = count_below(leaf->start, leaf->count, end) - path.slot[0];
        if (n == 0)
            return;
        struct extent last = extent_at(leaf, path.slot[0] + n - 1);
        remove_extents(tree, &path, n);
        if (last.start + last.size > end) {
            struct extent rest = extent_clip(&last, end, last.start + last.size - end);
            insert(tree, &rest);
            return;
        }
    }
}

/* Take the extent that follows the range, if it continues the extent, out of the tree. */
static void absorb_right(struct extent_tree *tree, struct extent *extent)
{
    struct path path;
    seek(tree, &path, extent->start + extent->size);
    if (!settle(tree, &path))
        return;
    struct extent next = extent_at(path.node[0], path.slot[0]);
    if (!extent_continues(extent, &next))
        return;
    remove_extents(tree, &path, 1);
    extent->size += next.size;
}

/* Extend the extent before by this one, if this continues it. */
static bool extend_left(struct extent_tree *tree, const struct extent *extent)
{
    struct path path;
    seek(tree, &path, extent->start);
    if (!step_back(tree, &path))
        return false;
    struct extent before = extent_at(path.node[0], path.slot[0]);
    if (!extent_continues(&before, extent))
        return false;
    resize(tree, &path, before.size + extent->size);
    return true;
}

/* ---- the short way ----
 *
 * Most changes touch one leaf: what they replace, and what is before and behind it, stands there. They cost one way down
 * and, in a large tree, the cache misses of one leaf, all under way at once. What does not fit this goes the long way.
 */

/* Where a change is in its leaf: slot is the first extent whose start is above it. */
struct spot {
    struct extent_node *leaf;
    unsigned slot;
    uint64_t before_end; /* of the extent before; 0: none, and none in other leaves */
};

/* False: the neighbours are in other leaves, or the range reaches into the next extent. */
static bool find_spot(const struct extent_tree *tree, uint64_t start, uint64_t size, struct spot *spot)
{
    struct extent_node *node = tree->root;
    if (!node)
        return false;
    for (unsigned level = tree->height; level > 0; level--) {
        node = node->child[child_slot(node, start)];
        if (level == 1)
            prefetch(node, sizeof(*node));
    }
    unsigned slot = count_upto(node->start, node->count, start);
    if (tree->height && (slot == 0 || slot == node->count))
        return false;
    if (slot < node->count && node->start[slot] - start < size)
        return false;
    *spot = (struct spot){node, slot, slot ? node->start[slot - 1] + node->payload[slot - 1].size : 0};
    return true;
}

static bool continues_before(const struct spot *spot, unsigned slot, const struct extent *extent)
{
    struct extent before = extent_at(spot->leaf, slot - 1);
    return extent_continues(&before, extent);
}

static bool continues_behind(const struct spot *spot, const struct extent *extent)
{
    if (spot->slot == spot->leaf->count)
        return false;
    struct extent behind = extent_at(spot->leaf, spot->slot);
    return extent_continues(extent, &behind);
}

static void put(struct extent_node *leaf, unsigned slot, const struct extent *extent)
{
    leaf->start[slot] = extent->start;
    leaf->payload[slot] = (struct payload){extent->size, extent->target, extent->owner, extent->attributes};
}

/* The range is exactly that of the extent before the spot: other contents. */
static bool overwrite(const struct spot *spot, bool alone, const struct extent *extent)
{
    unsigned slot = spot->slot - 1;
    if (slot == 0 ? !alone : continues_before(spot, slot, extent))
        return false;
    put(spot->leaf, slot, extent);
    return true;
}

static bool set_short(struct extent_tree *tree, const struct extent *extent)
{
    struct spot spot;
    if (!find_spot(tree, extent->start, extent->size, &spot) || continues_behind(&spot, extent))
        return false;
    struct extent_node *leaf = spot.leaf;
    if (spot.slot && leaf->start[spot.slot - 1] == extent->start &&
        leaf->payload[spot.slot - 1].size == extent->size)
        return overwrite(&spot, tree->height == 0, extent);
    if (spot.before_end > extent->start)
        return false;
    if (spot.slot && continues_before(&spot, spot.slot, extent)) {
        leaf->payload[spot.slot - 1].size += extent->size;
    } else {
        if (leaf->count == LEAF_SLOTS)
            return false;
        move_slots(leaf, 0, spot.slot, 1);
        put(leaf, spot.slot, extent);
        tree->count++;
    }
    tree->total += extent->size;
    return true;
}

static bool clear_short(struct extent_tree *tree, uint64_t start, uint64_t size)
{
    struct spot spot;
    if (!find_spot(tree, start, size, &spot))
        return false;
    if (spot.before_end <= start)
        return true; /* nothing there */
    struct extent_node *leaf = spot.leaf;
    if (leaf->start[spot.slot - 1] != start || leaf->payload[spot.slot - 1].size != size ||
        leaf->count <= LEAF_SLOTS / 4 + 1)
        return false;
    move_slots(leaf, 0, spot.slot, -1);
    tree->count--;
    tree->total -= size;
    return true;
}

/* ---- public: changes and look-ups ---- */

void extent_tree_set(struct extent_tree *tree, const struct extent *extent)
{
    struct extent merged = *extent;
    if (likely(set_short(tree, extent)))
        return;
    clear_long(tree, extent->start, extent->size);
    if (tree->root)
        absorb_right(tree, &merged);
    if (!tree->root || !extend_left(tree, &merged))
        insert(tree, &merged);
}

void extent_tree_clear(struct extent_tree *tree, uint64_t start, uint64_t size)
{
    if (unlikely(!clear_short(tree, start, size)))
        clear_long(tree, start, size);
}

bool extent_tree_find(const struct extent_tree *tree, uint64_t key, struct extent *extent)
{
    *extent = (struct extent){.size = UINT64_MAX};
    if (!tree->root)
        return false;

    struct extent_node *node = tree->root, *leaf;
    for (unsigned level = tree->height; level > 0; level--) {
        node = node->child[child_slot(node, key)];
        prefetch(node, level == 1 ? offsetof(struct extent_node, payload) : 0);
    }
    unsigned slot = count_upto(node->start, node->count, key);
    if (slot > 0 && key - node->start[slot - 1] < node->payload[slot - 1].size) {
        *extent = extent_at(node, slot - 1);
        return true;
    }
    if (slot > 0 && slot < node->count) { /* a hole between two extents of this leaf */
        extent->start = node->start[slot - 1] + node->payload[slot - 1].size;
        extent->size = node->start[slot] - extent->start;
        return false;
    }

    /* It is in the leaf to the left, or key is in a hole. */
    struct path path;
    seek(tree, &path, key);
    if (settle(tree, &path))
        extent->size = path.node[0]->start[path.slot[0]];
    seek(tree, &path, key);
    if (!step_back(tree, &path))
        return false;
    leaf = path.node[0];
    struct extent before = extent_at(leaf, path.slot[0]);
    if (key - before.start < before.size) {
        *extent = before;
        return true;
    }
    extent->start = before.start + before.size;
    extent->size -= extent->start;
    return false;
}

struct extent extent_tree_piece(const struct extent_tree *tree, uint64_t at, uint64_t end)
{
    struct extent piece;
    bool found = extent_tree_find(tree, at, &piece);
    piece = extent_clip(&piece, at, end - at);
    piece.target = found ? piece.target : 0;
    return piece;
}

size_t extent_tree_list(const struct extent_tree *tree, uint64_t from, struct extent *array,
                        size_t capacity)
{
    struct path path;
    size_t n = 0;
    if (!tree->root || capacity == 0)
        return 0;
    seek(tree, &path, from);
    if (step_back(tree, &path)) {
        array[n] = extent_at(path.node[0], path.slot[0]);
        n = array[n].start + array[n].size > from ? 1 : 0;
    }
    for (seek(tree, &path, from); n < capacity && settle(tree, &path); path.slot[0]++)
        array[n++] = extent_at(path.node[0], path.slot[0]);
    return n;
}
