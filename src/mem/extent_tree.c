/*
 * Setting and clearing ranges of a tree of extents, and finding them. The tree itself, and why it is one, is extent_nodes.c.
 */
#include "mem/extent_nodes.h"

#include "util/check.h"

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
    struct extent_path path;
    extent_path_seek(tree, &path, start);
    if (!extent_path_back(tree, &path))
        return false;
    struct extent old = extent_at(path.node[0], path.slot[0]);
    uint64_t old_end = old.start + old.size;
    if (old_end <= start)
        return false;
    extent_nodes_resize(tree, &path, start - old.start);
    if (old_end > end) {
        struct extent rest = extent_clip(&old, end, old_end - end);
        extent_nodes_insert(tree, &rest);
    }
    return old_end >= end;
}

static void clear_long(struct extent_tree *tree, uint64_t start, uint64_t size)
{
    uint64_t end = start + size;
    if (!tree->root || cut_left(tree, start, end))
        return;
    while (tree->root) {
        struct extent_path path;
        extent_path_seek(tree, &path, start);
        if (!extent_path_settle(tree, &path))
            return;
        struct extent_node *leaf = path.node[0];
        unsigned n = count_below(leaf->start, leaf->count, end) - path.slot[0];
        if (n == 0)
            return;
        struct extent last = extent_at(leaf, path.slot[0] + n - 1);
        extent_nodes_remove(tree, &path, n);
        if (last.start + last.size > end) {
            struct extent rest = extent_clip(&last, end, last.start + last.size - end);
            extent_nodes_insert(tree, &rest);
            return;
        }
    }
}

/* Take the extent that follows the range, if it continues the extent, out of the tree. */
static void absorb_right(struct extent_tree *tree, struct extent *extent)
{
    struct extent_path path;
    extent_path_seek(tree, &path, extent->start + extent->size);
    if (!extent_path_settle(tree, &path))
        return;
    struct extent next = extent_at(path.node[0], path.slot[0]);
    if (!extent_continues(extent, &next))
        return;
    extent_nodes_remove(tree, &path, 1);
    extent->size += next.size;
}

/* Extend the extent before by this one, if this continues it. */
static bool extend_left(struct extent_tree *tree, const struct extent *extent)
{
    struct extent_path path;
    extent_path_seek(tree, &path, extent->start);
    if (!extent_path_back(tree, &path))
        return false;
    struct extent before = extent_at(path.node[0], path.slot[0]);
    if (!extent_continues(&before, extent))
        return false;
    extent_nodes_resize(tree, &path, before.size + extent->size);
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

/* The leaf that is responsible for the number, all of its lines under way. */
static struct extent_node *leaf_of(const struct extent_tree *tree, uint64_t start)
{
    struct extent_node *node = tree->root;

    for (unsigned level = tree->height; level > 0; level--) {
        node = node->child[child_slot(node, start)];
        prefetch(node, sizeof(*node));
    }
    return node;
}

/* False: the neighbours are in other leaves, or the range reaches into the next extent. */
static bool find_spot(const struct extent_tree *tree, uint64_t start, uint64_t size, struct spot *spot)
{
    if (!tree->root)
        return false;
    struct extent_node *node = leaf_of(tree, start);
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
    leaf->payload[slot] = (struct extent_payload){extent->size, extent->target, extent->owner, extent->attributes};
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
        if (leaf->count == EXTENT_LEAF_SLOTS)
            return false;
        extent_nodes_move(leaf, 0, spot.slot, 1);
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
        leaf->count <= EXTENT_LEAF_SLOTS / 4 + 1)
        return false;
    extent_nodes_move(leaf, 0, spot.slot, -1);
    tree->count--;
    tree->total -= size;
    return true;
}

/* ---- public: changes ---- */

void extent_tree_expect(const struct extent_tree *tree, uint64_t start)
{
    if (tree->root)
        (void)leaf_of(tree, start);
}

void extent_tree_set(struct extent_tree *tree, const struct extent *extent)
{
    struct extent merged = *extent;
    if (likely(set_short(tree, extent)))
        return;
    clear_long(tree, extent->start, extent->size);
    if (tree->root)
        absorb_right(tree, &merged);
    if (!tree->root || !extend_left(tree, &merged))
        extent_nodes_insert(tree, &merged);
}

void extent_tree_clear(struct extent_tree *tree, uint64_t start, uint64_t size)
{
    if (unlikely(!clear_short(tree, start, size)))
        clear_long(tree, start, size);
}

/* ---- public: other attributes ---- */

/* An extent that reaches across the number becomes two. */
static void split_at(struct extent_tree *tree, uint64_t at)
{
    struct extent_path path;
    extent_path_seek(tree, &path, at);
    if (!extent_path_back(tree, &path))
        return;
    const struct extent old = extent_at(path.node[0], path.slot[0]);
    const uint64_t end = old.start + old.size;
    if (end <= at)
        return;
    const struct extent rest = extent_clip(&old, at, end - at);
    extent_nodes_resize(tree, &path, at - old.start);
    extent_nodes_insert(tree, &rest);
}

/* Those that continue their neighbours become one with them, from the one before start to the one at end. */
static void join_all(struct extent_tree *tree, uint64_t start, uint64_t end)
{
    struct extent_path path, to;
    struct extent before = {0}, now;
    extent_path_seek(tree, &path, start);
    to = path;
    if (extent_path_back(tree, &to))
        before = extent_at(to.node[0], to.slot[0]);
    while (extent_path_settle(tree, &path)) {
        now = extent_at(path.node[0], path.slot[0]);
        if (now.start > end)
            return;
        if (!before.size || !extent_continues(&before, &now)) {
            before = now;
            path.slot[0]++;
            continue;
        }
        before.size += now.size;
        extent_path_seek(tree, &to, now.start);
        check(extent_path_back(tree, &to));
        extent_nodes_resize(tree, &to, before.size);
        extent_nodes_remove(tree, &path, 1);
        extent_path_seek(tree, &path, now.start);
    }
}

void extent_tree_update(struct extent_tree *tree, uint64_t start, uint64_t size, extent_change *change, uint32_t by)
{
    const uint64_t end = start + size;
    struct extent_path path;
    if (!tree->root)
        return;
    split_at(tree, start);
    split_at(tree, end);
    for (extent_path_seek(tree, &path, start); extent_path_settle(tree, &path); path.slot[0]++) {
        if (path.node[0]->start[path.slot[0]] >= end)
            break;
        struct extent_payload *payload = &path.node[0]->payload[path.slot[0]];
        payload->attributes = change(payload->attributes, by);
    }
    join_all(tree, start, end);
}

/* ---- public: look-ups ---- */

bool extent_tree_find(const struct extent_tree *tree, uint64_t key, struct extent *extent)
{
    *extent = (struct extent){.size = UINT64_MAX};
    if (!tree->root)
        return false;

    struct extent_node *node = tree->root, *leaf;
    for (unsigned level = tree->height; level > 0; level--) {
        node = node->child[child_slot(node, key)];
        prefetch(node, level == 1 ? offsetof(struct extent_node, payload) : offsetof(struct extent_node, child));
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
    struct extent_path path;
    extent_path_seek(tree, &path, key);
    if (extent_path_settle(tree, &path))
        extent->size = path.node[0]->start[path.slot[0]];
    extent_path_seek(tree, &path, key);
    if (!extent_path_back(tree, &path))
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
    struct extent_path path;
    size_t n = 0;
    if (!tree->root || capacity == 0)
        return 0;
    extent_path_seek(tree, &path, from);
    if (extent_path_back(tree, &path)) {
        array[n] = extent_at(path.node[0], path.slot[0]);
        n = array[n].start + array[n].size > from ? 1 : 0;
    }
    for (extent_path_seek(tree, &path, from); n < capacity && extent_path_settle(tree, &path); path.slot[0]++)
        array[n++] = extent_at(path.node[0], path.slot[0]);
    return n;
}
