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
#include "mem/extent_nodes.h"

#include "util/check.h"

#include <string.h>

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
    return level ? EXTENT_INNER_SLOTS : EXTENT_LEAF_SLOTS;
}

void extent_nodes_move(struct extent_node *node, unsigned level, unsigned at, int by)
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

void extent_path_seek(const struct extent_tree *tree, struct extent_path *path, uint64_t key)
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
static void go_down(struct extent_path *path, unsigned level, bool last)
{
    for (; level > 0; level--) {
        struct extent_node *node = path->node[level]->child[path->slot[level]];
        path->node[level - 1] = node;
        path->slot[level - 1] = last ? node->count - 1 : 0;
    }
}

bool extent_path_settle(const struct extent_tree *tree, struct extent_path *path)
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

bool extent_path_back(const struct extent_tree *tree, struct extent_path *path)
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

enum { LEFT_FREE = EXTENT_LEAF_SLOTS / 8 };

/* Split a full node so that something can be put at slot `at`. In the middle it is halved; at the end it stays nearly full and
 * the new node takes the newcomer, so that ascending insertion fills nodes. A few slots of a leaf stay free: what comes and goes
 * between its ranges later is to find room. */
static struct extent_node *split(struct extent_tree *tree, struct extent_node *node, unsigned level,
                                 unsigned at)
{
    const unsigned full = level ? node->count : node->count - LEFT_FREE;
    struct extent_node *right = take_node(tree);

    append_slots(right, node, level, at == node->count ? full : node->count / 2);
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
    extent_nodes_move(*node, level, *at, 1);
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
    check(tree->height < EXTENT_MAX_LEVELS);
}

/* At the end of a full leaf: the beginning of the next one is as good a place, if it has room. Otherwise descending insertion
 * there would make a leaf of each extent. */
static void prefer_next_leaf(const struct extent_tree *tree, struct extent_path *path, uint64_t start)
{
    struct extent_node *parent = path->node[1];
    unsigned next = tree->height ? path->slot[1] + 1 : 0;
    if (path->slot[0] < EXTENT_LEAF_SLOTS || !tree->height || next == parent->count ||
        parent->child[next]->count == EXTENT_LEAF_SLOTS)
        return;
    parent->key[next] = start; /* a bound: everything in the full leaf is below */
    path->slot[1] = next;
    path->node[0] = parent->child[next];
    path->slot[0] = 0;
}

void extent_nodes_insert(struct extent_tree *tree, const struct extent *extent)
{
    if (!tree->root)
        tree->root = take_node(tree);
    tree->count++;
    tree->total += extent->size;

    struct extent_path path;
    extent_path_seek(tree, &path, extent->start);
    prefer_next_leaf(tree, &path, extent->start);
    struct extent_node *node = path.node[0];
    unsigned at = path.slot[0];
    struct extent_node *right = make_room(tree, &node, 0, &at);
    node->start[at] = extent->start;
    node->payload[at] =
        (struct extent_payload){extent->size, extent->target, extent->owner, extent->attributes};

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
    extent_nodes_move(inner, 1, slot + 1, -1);
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

void extent_nodes_remove(struct extent_tree *tree, const struct extent_path *path, unsigned n)
{
    struct extent_node *leaf = path->node[0];
    for (unsigned i = 0; i < n; i++)
        tree->total -= leaf->payload[path->slot[0] + i].size;
    tree->count -= n;
    extent_nodes_move(leaf, 0, path->slot[0] + n, -(int)n);

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

void extent_nodes_resize(struct extent_tree *tree, const struct extent_path *path, uint64_t size)
{
    struct extent_payload *payload = &path->node[0]->payload[path->slot[0]];
    tree->total += size - payload->size;
    payload->size = size;
}

