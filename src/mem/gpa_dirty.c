/*
 * Dirty pages.
 *
 * What the record must give: marking from many processors at once in a few nanoseconds without a
 * lock and without an allocation that could fail in the middle of a guest's store; reading and
 * clearing at a cost of what is dirty; nothing at all for a terabyte that stays clean.
 *
 * Layout. Bits are indexed by guest page number, not by mapping, so splitting, merging and
 * replacing mappings never moves a bit. The page numbers are cut into windows of 2^30 pages; a
 * window is one reserved piece of memory (130 MiB of addresses, untouched pages cost nothing) that
 * is made when something in it is first tracked, and holds five levels:
 *
 *     level   one bit stands for        words in the window
 *       0     a page          4 KiB     16,777,216
 *       1     a level 0 word  256 KiB      262,144
 *       2     a level 1 word  16 MiB         4,096
 *       3     a level 2 word  1 GiB             64
 *       4     a level 3 word  64 GiB             1
 *
 * Summary rule: whenever a level n word is not 0 and no mark of it is in progress, its bit at level
 * n + 1 is set. The converse need not hold: a summary bit over a zero word only costs a look.
 *
 * Marking goes upwards and always looks at all levels, testing before it sets: so when a mark
 * returns, the page can be found from the top, even if the thread that set the lower bits first has
 * been preempted on its way up. Steady state: five loads, no store.
 *
 * Taking goes downwards: it clears the summary bit first, then takes the bits below, then sets the
 * summary bit again if something outside the asked range remains. A mark that races with this
 * either sets its lower bit before the taker reads it, and is taken, or afterwards, and then finds
 * the summary bit cleared and sets it. (Both sides write one word and then read the other's: this
 * needs sequentially consistent accesses.) Therefore no mark is ever lost, held processors or not.
 *
 * Invariant W: a write-TLB entry (or anything else that lets a processor store to a tracked page
 * without asking) exists only while that page's dirty bit is set. It is what lets the steady state
 * of a guest's stores cost nothing. Two rules keep it:
 *   - who fills a write-TLB entry marks the page first;
 *   - who clears dirty bits does so while all processors are held, and lets them go only after the
 *     write-TLB entries of the range are dropped (GPA_CHANGE_DIRTY_CLEAR in gpa_space.c).
 * It follows that a range without dirty bits has no write-TLB entries: harvesting a clean range
 * need not disturb anybody.
 *
 * Several consumers (display, snapshot, migration) are several records (gpa_consumer.c): what is
 * taken from the one that processors mark is handed to the others before it is answered. Hence a
 * visit looks at two records at once: the processors' and the consumer's own.
 */
#include "mem/gpa_dirty.h"

#include "util/check.h"

#include <stdlib.h>
#include <sys/mman.h>

#define WINDOW_PAGES ((uint64_t)1 << GPA_DIRTY_WINDOW_SHIFT)
#define WINDOW_WORDS (512u + 4096u + 262144u + 16777216u)
#define WINDOW_BYTES (WINDOW_WORDS * sizeof(gpa_dirty_word))
#define TOP_LEVEL    (GPA_DIRTY_LEVELS - 1)

_Static_assert(sizeof(gpa_dirty_word) == 8, "a dirty word is 64 bits");
_Static_assert(GPA_DIRTY_WINDOW_SHIFT == 6 * GPA_DIRTY_LEVELS, "the top level is one word");

static uint64_t window_count(const struct gpa_dirty *dirty)
{
    return (dirty->pages + WINDOW_PAGES - 1) >> GPA_DIRTY_WINDOW_SHIFT;
}

struct gpa_dirty *gpa_dirty_create(uint64_t pages)
{
    struct gpa_dirty *dirty = malloc(sizeof(*dirty));
    if (!dirty)
        return NULL;
    dirty->pages = pages;
    dirty->windows = calloc(window_count(dirty), sizeof(dirty->windows[0]));
    if (!dirty->windows) {
        free(dirty);
        return NULL;
    }
    return dirty;
}

void gpa_dirty_destroy(struct gpa_dirty *dirty)
{
    if (!dirty)
        return;
    for (uint64_t i = 0; i < window_count(dirty); i++)
        if (dirty->windows[i])
            munmap(dirty->windows[i], WINDOW_BYTES);
    free(dirty->windows);
    free(dirty);
}

static gpa_dirty_word *create_window(void)
{
    void *window = mmap(NULL, WINDOW_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (window == MAP_FAILED)
        return NULL;
    /* One dirty bit must not cost a huge page. Where the kernel knows none, nothing is lost. */
    madvise(window, WINDOW_BYTES, MADV_NOHUGEPAGE);
    return window;
}

bool gpa_dirty_cover(struct gpa_dirty *dirty, uint64_t page, uint64_t count)
{
    check(count && page < dirty->pages && count <= dirty->pages - page);
    for (uint64_t i = page >> GPA_DIRTY_WINDOW_SHIFT;
         i <= (page + count - 1) >> GPA_DIRTY_WINDOW_SHIFT; i++) {
        if (!dirty->windows[i])
            dirty->windows[i] = create_window();
        if (!dirty->windows[i])
            return false;
    }
    return true;
}

/* ---- pieces of a window ---- */

/* A half-open range of page numbers inside one window. */
struct piece {
    gpa_dirty_word *window; /* NULL: clean */
    uint64_t base;          /* first page number of the window */
    uint64_t first, end;    /* relative to base */
};

static struct piece next_piece(const struct gpa_dirty *dirty, uint64_t page, uint64_t end)
{
    uint64_t index = page >> GPA_DIRTY_WINDOW_SHIFT;
    uint64_t base = index << GPA_DIRTY_WINDOW_SHIFT;
    uint64_t stop = end - base < WINDOW_PAGES ? end - base : WINDOW_PAGES;
    return (struct piece){dirty->windows[index], base, page - base, stop};
}

/* The bits of a level's word `index` that lie in [first, end), indices of the same level. */
static uint64_t word_mask(uint64_t index, uint64_t first, uint64_t end)
{
    uint64_t start = index << 6;
    uint64_t mask = ~(uint64_t)0;
    if (first > start)
        mask &= ~(uint64_t)0 << (first - start);
    if (end - start < 64)
        mask &= ((uint64_t)1 << (end - start)) - 1;
    return mask;
}

/* The bits of a level's word under which pages of the piece lie. */
static uint64_t piece_mask(const struct piece *piece, unsigned level, uint64_t index)
{
    unsigned shift = 6 * level;
    return word_mask(index, piece->first >> shift, ((piece->end - 1) >> shift) + 1);
}

/* Do all pages of this level 1 word lie in the piece? */
static bool is_inside(const struct piece *piece, uint64_t index)
{
    return index << 12 >= piece->first && (index + 1) << 12 <= piece->end;
}

static gpa_dirty_word *word_at(gpa_dirty_word *window, unsigned level, uint64_t index)
{
    return window + gpa_dirty_level_start[level] + index;
}

/* ---- mark ---- */

void gpa_dirty_mark_bits(struct gpa_dirty *dirty, uint64_t first, uint64_t bits)
{
    gpa_dirty_word *window = dirty->windows[first >> GPA_DIRTY_WINDOW_SHIFT];
    uint64_t index = (first & (WINDOW_PAGES - 1)) >> 6;

    for (unsigned level = 0; window && level < GPA_DIRTY_LEVELS; level++) {
        gpa_dirty_word *word = word_at(window, level, index);
        uint64_t old = atomic_load_explicit(word, memory_order_relaxed);
        if ((old & bits) != bits)
            atomic_store_explicit(word, old | bits, memory_order_relaxed);
        bits = (uint64_t)1 << (index & 63);
        index >>= 6;
    }
}

static void mark_level(gpa_dirty_word *window, unsigned level, uint64_t first, uint64_t end)
{
    for (uint64_t index = first >> 6; index <= (end - 1) >> 6; index++) {
        gpa_dirty_word *word = word_at(window, level, index);
        uint64_t mask = word_mask(index, first, end);
        if ((atomic_load(word) & mask) != mask)
            atomic_fetch_or(word, mask);
    }
}

void gpa_dirty_mark_range(struct gpa_dirty *dirty, uint64_t page, uint64_t count)
{
    uint64_t end = page + count;
    while (page < end) {
        struct piece piece = next_piece(dirty, page, end);
        check(piece.window);
        for (unsigned level = 0; level < GPA_DIRTY_LEVELS; level++)
            mark_level(piece.window, level, piece.first >> (6 * level),
                       ((piece.end - 1) >> (6 * level)) + 1);
        page = piece.base + piece.end;
    }
}

/* ---- any ---- */

static bool any_in_word(const struct piece *piece, unsigned level, uint64_t index)
{
    uint64_t bits =
        atomic_load(word_at(piece->window, level, index)) & piece_mask(piece, level, index);

    for (; bits; bits &= bits - 1)
        if (level == 0 ||
            any_in_word(piece, level - 1, (index << 6) + (uint64_t)__builtin_ctzll(bits)))
            return true;
    return false;
}

bool gpa_dirty_any(const struct gpa_dirty *dirty, uint64_t page, uint64_t count)
{
    uint64_t end = page + count;
    while (page < end) {
        struct piece piece = next_piece(dirty, page, end);
        if (piece.window && any_in_word(&piece, TOP_LEVEL, 0))
            return true;
        page = piece.base + piece.end;
    }
    return false;
}

/* ---- visits ---- */

enum { RECORDS = 2 };

/* A visit in one window of its records. What was found is told in batches: how many words lie below a bit is hard to foresee. */
struct walk {
    const struct gpa_dirty_visit *visit;
    struct piece piece;
    gpa_dirty_word *window[RECORDS];
    bool stopped; /* the sink wants no more */
    size_t found;
    struct gpa_dirty_bits words[GPA_DIRTY_TOLD_AT_ONCE];
};

/* A word and the records in which something may be found there: bit r for window[r]. Where only one record's summary has a
 * bit, the other's words below are not even read: they may be memory that does not exist yet. */
struct place {
    unsigned level;
    uint64_t index;
    unsigned records;
};

static struct place place_below(const struct place *place, uint64_t bit, unsigned records)
{
    return (struct place){place->level - 1, (place->index << 6) + (uint64_t)__builtin_ctzll(bit), records};
}

static void tell(struct walk *walk)
{
    const struct gpa_dirty_visit *visit = walk->visit;
    if (walk->found && visit->sink)
        walk->stopped = !visit->sink(visit->ctx, walk->words, walk->found);
    walk->found = 0;
}

/* There is always room for what lies below a word of level 1. */
static void tell_when_full(struct walk *walk)
{
    if (unlikely(walk->found > GPA_DIRTY_TOLD_AT_ONCE - 64))
        tell(walk);
}

static void found_word(struct walk *walk, const struct place *place, uint64_t bits)
{
    walk->words[walk->found] = (struct gpa_dirty_bits){walk->piece.base + (place->index << 6), bits};
    walk->found += bits != 0;
    tell_when_full(walk);
}

/* The dirty bits of the piece, of each record and of all. */
static uint64_t load_bits(const struct walk *walk, const struct place *place, uint64_t each[RECORDS])
{
    uint64_t mask = piece_mask(&walk->piece, place->level, place->index);
    for (unsigned r = 0; r < RECORDS; r++)
        each[r] = place->records >> r & 1
                      ? atomic_load(word_at(walk->window[r], place->level, place->index)) & mask
                      : 0;
    return each[0] | each[1];
}

static unsigned records_with(const uint64_t each[RECORDS], uint64_t bit)
{
    return (each[0] & bit ? 1u : 0) | (each[1] & bit ? 2u : 0);
}

/*
 * A visit of one record, which is nearly every visit: nobody else marks, or nothing is cleared, so that the bits above are
 * cleared once for all words below, and these are reported together. Both return what remains of the word.
 */
static always_inline uint64_t visit_leaves(struct walk *walk, const struct place *above, const bool take)
{
    const struct gpa_dirty_visit *visit = walk->visit;
    const unsigned r = above->records >> 1;
    gpa_dirty_word *const upper = word_at(walk->window[r], 1, above->index);
    const uint64_t all = atomic_load_explicit(upper, memory_order_relaxed);
    const bool whole = is_inside(&walk->piece, above->index);
    struct gpa_dirty_bits *const words = walk->words + walk->found;
    uint64_t done = 0;
    size_t count = 0;

    for (uint64_t bits = all & piece_mask(&walk->piece, 1, above->index); bits; bits &= bits - 1) {
        const uint64_t index = (above->index << 6) + (uint64_t)__builtin_ctzll(bits);
        gpa_dirty_word *word = word_at(walk->window[r], 0, index);
        const uint64_t was = atomic_load_explicit(word, take ? memory_order_relaxed : memory_order_seq_cst);
        const uint64_t found = likely(whole) ? was : was & piece_mask(&walk->piece, 0, index);
        if (take)
            atomic_store_explicit(word, was & ~found, memory_order_relaxed);
        if (likely(was == found))
            done |= bits & -bits;
        words[count] = (struct gpa_dirty_bits){walk->piece.base + (index << 6), found};
        count += found != 0;
    }
    if (take)
        atomic_store_explicit(upper, all & ~done, memory_order_relaxed);
    if (take && visit->tee && r == 0 && count)
        visit->tee(visit->tee_ctx, words, count);
    walk->found += count;
    tell_when_full(walk);
    return all & ~done;
}

/* From level 2 up; the recursion is as deep as there are levels. */
static uint64_t visit_one(struct walk *walk, const struct place *place, bool take)
{
    gpa_dirty_word *const word = word_at(walk->window[place->records >> 1], place->level, place->index);
    const uint64_t all = atomic_load_explicit(word, memory_order_relaxed);
    uint64_t done = 0;

    for (uint64_t bits = all & piece_mask(&walk->piece, place->level, place->index); bits && !walk->stopped; bits &= bits - 1) {
        const struct place below = place_below(place, bits, place->records);
        const uint64_t left = below.level > 1 ? visit_one(walk, &below, take)
                              : take          ? visit_leaves(walk, &below, true)
                                              : visit_leaves(walk, &below, false);
        if (!left)
            done |= bits & -bits;
    }
    if (take)
        atomic_store_explicit(word, all & ~done, memory_order_relaxed);
    return all & ~done;
}

static bool is_simple(const struct walk *walk, const struct place *place, bool take)
{
    return place->level > 1 && place->records != 3 && (walk->visit->exclusive || !take);
}

/* Of both records. */
static void peek_word(struct walk *walk, struct place place)
{
    uint64_t each[RECORDS];
    uint64_t bits;

    if (is_simple(walk, &place, false)) {
        (void)visit_one(walk, &place, false);
        return;
    }
    bits = load_bits(walk, &place, each);
    if (place.level == 0) {
        found_word(walk, &place, bits);
        return;
    }
    for (; bits && !walk->stopped; bits &= bits - 1)
        peek_word(walk, place_below(&place, bits, records_with(each, bits & -bits)));
}

/* Returns what was there. */
static uint64_t clear_bits(const struct walk *walk, gpa_dirty_word *word, uint64_t bits)
{
    if (!walk->visit->exclusive)
        return atomic_fetch_and(word, ~bits);
    uint64_t was = atomic_load_explicit(word, memory_order_relaxed);
    atomic_store_explicit(word, was & ~bits, memory_order_relaxed);
    return was;
}

static void set_again(const struct walk *walk, gpa_dirty_word *word, uint64_t bits)
{
    if (!walk->visit->exclusive)
        atomic_fetch_or(word, bits);
    else
        atomic_store_explicit(word, atomic_load_explicit(word, memory_order_relaxed) | bits, memory_order_relaxed);
}

/* Returns the records in which something remains: outside the piece, or marked in this moment. */
static unsigned take_leaf(struct walk *walk, const struct place *place)
{
    const struct gpa_dirty_visit *visit = walk->visit;
    uint64_t each[RECORDS], mask = piece_mask(&walk->piece, 0, place->index);
    unsigned left = 0;

    load_bits(walk, place, each);
    for (unsigned r = 0; r < RECORDS; r++) {
        if (!(place->records >> r & 1))
            continue;
        gpa_dirty_word *word = word_at(walk->window[r], 0, place->index);
        uint64_t was = each[r] ? clear_bits(walk, word, mask) : atomic_load(word);
        each[r] = each[r] ? was & mask : 0;
        left |= was & ~each[r] ? 1u << r : 0;
    }
    if (visit->tee && each[0])
        visit->tee(visit->tee_ctx, &(struct gpa_dirty_bits){walk->piece.base + (place->index << 6), each[0]}, 1);
    found_word(walk, place, each[0] | each[1]);
    return left;
}

/* Take what lies in the piece below this word; returns the records in which something else remains in the word. */
static unsigned take_word(struct walk *walk, struct place place)
{
    if (place.level == 0)
        return take_leaf(walk, &place);
    if (is_simple(walk, &place, true))
        return visit_one(walk, &place, true) ? place.records : 0;

    uint64_t each[RECORDS];
    unsigned left = 0;
    for (uint64_t bits = load_bits(walk, &place, each); bits && !walk->stopped; bits &= bits - 1) {
        uint64_t bit = bits & -bits;
        unsigned had = records_with(each, bit);
        for (unsigned r = 0; r < RECORDS; r++)
            if (had >> r & 1)
                clear_bits(walk, word_at(walk->window[r], place.level, place.index), bit);
        unsigned remain = take_word(walk, place_below(&place, bit, had));
        for (unsigned r = 0; r < RECORDS; r++)
            if (remain >> r & 1)
                set_again(walk, word_at(walk->window[r], place.level, place.index), bit);
    }
    for (unsigned r = 0; r < RECORDS; r++)
        if (place.records >> r & 1 && atomic_load(word_at(walk->window[r], place.level, place.index)))
            left |= 1u << r;
    return left;
}

/* The next window of a visit, and the records that have one there. */
static unsigned next_window(struct walk *walk, uint64_t page, uint64_t end)
{
    const struct gpa_dirty_visit *visit = walk->visit;
    walk->piece = next_piece(visit->record, page, end);
    walk->window[0] = walk->piece.window;
    walk->window[1] = visit->other ? visit->other->windows[page >> GPA_DIRTY_WINDOW_SHIFT] : NULL;
    return (walk->window[0] ? 1u : 0) | (walk->window[1] ? 2u : 0);
}

static void visit_windows(const struct gpa_dirty_visit *visit, bool take)
{
    struct walk walk;
    uint64_t page = visit->page, end = page + visit->count;

    walk.visit = visit;
    walk.stopped = false;
    walk.found = 0;
    while (page < end && !walk.stopped) {
        const struct place top = {TOP_LEVEL, 0, next_window(&walk, page, end)};
        if (top.records && take)
            take_word(&walk, top);
        else if (top.records)
            peek_word(&walk, top);
        page = walk.piece.base + walk.piece.end;
    }
    if (!walk.stopped)
        tell(&walk);
}

void gpa_dirty_visit_peek(const struct gpa_dirty_visit *visit)
{
    visit_windows(visit, false);
}

void gpa_dirty_visit_take(const struct gpa_dirty_visit *visit)
{
    visit_windows(visit, true);
}
