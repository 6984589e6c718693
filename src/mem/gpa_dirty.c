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
#include "mem/gpa_dirty_window.h"

#include "util/check.h"

#include <stdlib.h>
#include <sys/mman.h>

#define WINDOW_WORDS (512u + 4096u + 262144u + 16777216u)
#define WINDOW_BYTES (WINDOW_WORDS * sizeof(gpa_dirty_word))

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
