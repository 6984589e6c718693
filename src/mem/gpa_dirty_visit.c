/*
 * Visits of dirty pages: peek and take, of one record or of two seen as one. The layout, and why a take loses no mark, is in
 * gpa_dirty.c.
 */
#include "mem/gpa_dirty_window.h"
#include "mem/word_bits.h"

enum { RECORDS = 2, LINE_WORDS = 8 };

/* A visit in one window of its records. What was found is told in batches: how many words lie below a bit is hard to foresee. */
struct walk {
    const struct gpa_dirty_visit *visit;
    struct piece piece;
    gpa_dirty_word *window[RECORDS];
    bool stopped; /* the sink wants no more */
    enum bits_way way;
    size_t found;
    struct gpa_dirty_bits words[GPA_DIRTY_TOLD_AT_ONCE + LINE_WORDS]; /* as many may be found; some more are written */
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
        each[r] = place->records >> r & 1 ? atomic_load(word_at(walk->window[r], place->level, place->index)) & mask : 0;
    return each[0] | each[1];
}

static unsigned records_with(const uint64_t each[RECORDS], uint64_t bit)
{
    return (each[0] & bit ? 1u : 0) | (each[1] & bit ? 2u : 0);
}

/* ---- one record ---- */

/*
 * A visit of one record, which is nearly every visit: nobody else marks, or nothing is cleared, so that the bits above are
 * cleared once for all words below. How many pages are dirty in a word, and how many such words lie below a bit, is as good as
 * random, and a wrong guess of the processor's costs more than either. So the words of level 0 are listed first, many at a time
 * and with hardly a branch, and then visited in a row.
 */

/* Words of level 0, or lines of eight such words, ascending. */
struct leaves {
    size_t count;
    uint32_t index[GPA_DIRTY_TOLD_AT_ONCE + BITS_LIST_MORE];
};

/* The lines in which one of 64 words is listed; returns how many. */
BITS_VECTOR_TARGET static inline unsigned list_lines(uint32_t *to, uint32_t first, uint64_t words)
{
    const __m128i bytes = _mm_cvtsi64_si128((long long)words);
    const __mmask8 some = (__mmask8)_mm_test_epi8_mask(bytes, bytes);
    const __m256i numbers = _mm256_maskz_compress_epi32(some, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));

    _mm256_storeu_si256((void *)to, _mm256_add_epi32(numbers, _mm256_set1_epi32((int)first)));
    return (unsigned)__builtin_popcount(some);
}

/* List what lies below the bits of a word of level 2, as words or as lines, as far as there is room. Returns the bits that are
 * left to do. */
static always_inline uint64_t list_leaves(struct walk *walk, const struct place *place, uint64_t bits, struct leaves *leaves,
                                          const bool take, const bool lines, const enum bits_way way)
{
    gpa_dirty_word *const words = word_at(walk->window[place->records >> 1], 1, place->index << 6);
    const uint64_t low = walk->piece.first >> 12, high = (walk->piece.end - 1) >> 12;
    const size_t room = GPA_DIRTY_TOLD_AT_ONCE - 64 - walk->found;
    size_t count = 0, listed = 0;

    do {
        const unsigned bit = lowest_bit(bits);
        const uint64_t index = (place->index << 6) + bit, all = atomic_load_explicit(&words[bit], memory_order_relaxed);
        const uint64_t found = unlikely(index == low || index == high) ? all & piece_mask(&walk->piece, 1, index) : all;

        if (take)
            atomic_store_explicit(&words[bit], all & ~found, memory_order_relaxed);
        if (lines)
            listed += list_lines(leaves->index + listed, (uint32_t)(index << 3), found);
        else
            listed += list_bits(leaves->index + listed, (uint32_t)(index << 6), found, way);
        count += count_bits(found, way);
        bits &= bits - 1;
    } while (bits && count <= room);
    leaves->count = listed;
    return bits;
}

/* A word that the piece may have only in part: what remains is to be found from above. Writes it where it belongs if there is
 * something, and returns how many were written. */
static size_t visit_edge(const struct walk *walk, unsigned r, uint64_t index, bool take, struct gpa_dirty_bits *to)
{
    gpa_dirty_word *const word = word_at(walk->window[r], 0, index), *const above = word_at(walk->window[r], 1, index >> 6);
    const uint64_t all = atomic_load(word), found = all & piece_mask(&walk->piece, 0, index);

    if (take)
        atomic_store_explicit(word, all & ~found, memory_order_relaxed);
    if (take && all != found)
        atomic_store_explicit(above, atomic_load(above) | (uint64_t)1 << (index & 63), memory_order_relaxed);
    *to = (struct gpa_dirty_bits){walk->piece.base + (index << 6), found};
    return found != 0;
}

static always_inline void visit_words(struct walk *walk, unsigned r, const struct leaves *leaves, const bool take)
{
    const uint64_t low = walk->piece.first >> 6, high = (walk->piece.end - 1) >> 6, base = walk->piece.base;
    gpa_dirty_word *const words = word_at(walk->window[r], 0, 0);
    struct gpa_dirty_bits *to = walk->words + walk->found;

    for (size_t i = 0; i < leaves->count; i++) {
        const uint64_t index = leaves->index[i];

        if (unlikely(index == low || index == high)) {
            to += visit_edge(walk, r, index, take, to);
            continue;
        }
        const uint64_t found = atomic_load(&words[index]);
        if (take)
            atomic_store_explicit(&words[index], 0, memory_order_relaxed);
        *to = (struct gpa_dirty_bits){base + (index << 6), found};
        to += found != 0;
    }
    walk->found = (size_t)(to - walk->words);
}

/* Returns how many of the eight words were not 0. */
BITS_VECTOR_TARGET static inline unsigned take_line(void *line, uint64_t first, struct gpa_dirty_bits *to)
{
    const __m512i words = _mm512_load_si512(line);
    const __mmask8 some = _mm512_test_epi64_mask(words, words);
    const __m512i firsts =
        _mm512_add_epi64(_mm512_set1_epi64((long long)first), _mm512_setr_epi64(0, 64, 128, 192, 256, 320, 384, 448));
    const __m512i found = _mm512_maskz_compress_epi64(some, words), where = _mm512_maskz_compress_epi64(some, firsts);

    _mm512_store_si512(line, _mm512_setzero_si512());
    _mm512_storeu_si512(to, _mm512_permutex2var_epi64(where, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), found));
    _mm512_storeu_si512(to + 4, _mm512_permutex2var_epi64(where, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), found));
    return (unsigned)__builtin_popcount(some);
}

static size_t take_edge_line(const struct walk *walk, unsigned r, uint64_t line, struct gpa_dirty_bits *to)
{
    const uint64_t low = walk->piece.first >> 6, high = (walk->piece.end - 1) >> 6;
    size_t found = 0;

    for (uint64_t index = line * LINE_WORDS; index < (line + 1) * LINE_WORDS; index++)
        if (index >= low && index <= high)
            found += visit_edge(walk, r, index, true, to + found);
    return found;
}

/* Eight words at a time: nobody else is at them. */
BITS_VECTOR_TARGET static inline void take_lines(struct walk *walk, unsigned r, const struct leaves *leaves)
{
    const uint64_t low = walk->piece.first >> 9, high = (walk->piece.end - 1) >> 9, base = walk->piece.base;
    gpa_dirty_word *const words = word_at(walk->window[r], 0, 0);
    struct gpa_dirty_bits *to = walk->words + walk->found;

    for (size_t i = 0; i < leaves->count; i++) {
        const uint64_t line = leaves->index[i];

        if (unlikely(line == low || line == high))
            to += take_edge_line(walk, r, line, to);
        else
            to += take_line((void *)&words[line * LINE_WORDS], base + (line << 9), to);
    }
    walk->found = (size_t)(to - walk->words);
}

/* Few dirty pages in these words, to judge by the first of them? */
static always_inline bool are_few(const struct walk *walk, const struct place *place, uint64_t bits, const enum bits_way way)
{
    enum { FEW = 28 }; /* of 64 words; where it was no longer faster */
    gpa_dirty_word *const word = word_at(walk->window[place->records >> 1], 1, (place->index << 6) + lowest_bit(bits));

    return way != BITS_PLAIN && walk->visit->taker && !walk->visit->tee &&
           count_bits(atomic_load_explicit(word, memory_order_relaxed), way) <= FEW;
}

static void sink_word(struct walk *walk, unsigned r, uint64_t index)
{
    struct gpa_dirty_bits word;

    if (visit_edge(walk, r, index, true, &word) && !walk->visit->sink(walk->visit->ctx, &word, 1))
        walk->stopped = true;
}

/* All words that were listed, wanted or not: nothing above them tells of them any more. */
static void take_few(struct walk *walk, unsigned r, const struct leaves *leaves)
{
    const uint64_t low = walk->piece.first >> 6, high = (walk->piece.end - 1) >> 6;
    const size_t first = leaves->index[0] == low, behind = leaves->count - (leaves->index[leaves->count - 1] == high);
    const struct gpa_dirty_words words = {word_at(walk->window[r], 0, 0), walk->piece.base, leaves->index + first,
                                          behind - first};

    if (first)
        sink_word(walk, r, low);
    if (behind > first && !walk->visit->taker(walk->visit->ctx, &words))
        walk->stopped = true;
    if (behind < leaves->count && behind >= first)
        sink_word(walk, r, high);
}

/* Returns the bits that were not visited. */
static always_inline uint64_t visit_lists(struct walk *walk, const struct place *place, uint64_t bits, const bool take,
                                          const enum bits_way way)
{
    const unsigned r = place->records >> 1;
    const struct gpa_dirty_visit *visit = walk->visit;
    struct leaves leaves;

    while (bits && !walk->stopped) {
        const bool few = take && are_few(walk, place, bits, way);
        if (few) {
            tell(walk);
            if (walk->stopped)
                break;
            bits = list_leaves(walk, place, bits, &leaves, true, false, way);
            if (likely(leaves.count))
                take_few(walk, r, &leaves);
            continue;
        }
        const size_t had = walk->found;
        bits = list_leaves(walk, place, bits, &leaves, take, take && way == BITS_VECTOR, way);
        if (likely(leaves.count) && take && way == BITS_VECTOR)
            take_lines(walk, r, &leaves);
        else if (likely(leaves.count))
            visit_words(walk, r, &leaves, take);
        if (take && visit->tee && r == 0 && walk->found != had)
            visit->tee(visit->tee_ctx, walk->words + had, walk->found - had);
        tell_when_full(walk);
    }
    return bits;
}

static uint64_t take_lists_plain(struct walk *walk, const struct place *place, uint64_t bits)
{
    return visit_lists(walk, place, bits, true, BITS_PLAIN);
}

BITS_COUNTS_TARGET static uint64_t take_lists_counts(struct walk *walk, const struct place *place, uint64_t bits)
{
    return visit_lists(walk, place, bits, true, BITS_COUNTS);
}

BITS_VECTOR_TARGET static uint64_t take_lists_vector(struct walk *walk, const struct place *place, uint64_t bits)
{
    return visit_lists(walk, place, bits, true, BITS_VECTOR);
}

static uint64_t take_lists(struct walk *walk, const struct place *place, uint64_t bits)
{
    static uint64_t (*const ways[BITS_WAYS])(struct walk * walk, const struct place *place,
                                             uint64_t bits) = {take_lists_plain, take_lists_counts, take_lists_vector};

    return ways[walk->way](walk, place, bits);
}

/* Of the bits, those below which something remains: at the ends of the piece. */
static uint64_t that_remain(const struct walk *walk, const struct place *place, uint64_t bits)
{
    const uint64_t edges[] = {walk->piece.first >> 12, (walk->piece.end - 1) >> 12};
    uint64_t remain = 0;

    for (unsigned i = 0; i < array_size(edges); i++) {
        const uint64_t bit = (uint64_t)1 << (edges[i] & 63);
        if (edges[i] >> 6 == place->index && bits & bit && atomic_load(word_at(walk->window[place->records >> 1], 1, edges[i])))
            remain |= bit;
    }
    return remain;
}

/* The levels from 2 down, and those from 2 up; the recursion is as deep as there are levels. Both return what is left. */
static uint64_t visit_low(struct walk *walk, const struct place *place, bool take)
{
    gpa_dirty_word *const word = word_at(walk->window[place->records >> 1], place->level, place->index);
    const uint64_t all = atomic_load_explicit(word, memory_order_relaxed), bits = all & piece_mask(&walk->piece, 2, place->index);

    if (!take)
        return visit_lists(walk, place, bits, false, BITS_PLAIN);
    const uint64_t left = take_lists(walk, place, bits);
    const uint64_t remain = (all & ~bits) | left | that_remain(walk, place, bits & ~left);
    atomic_store_explicit(word, remain, memory_order_relaxed);
    return remain;
}

static uint64_t visit_one(struct walk *walk, const struct place *place, bool take)
{
    gpa_dirty_word *const word = word_at(walk->window[place->records >> 1], place->level, place->index);
    const uint64_t all = atomic_load_explicit(word, memory_order_relaxed);
    uint64_t done = 0;

    if (place->level == 2)
        return visit_low(walk, place, take);
    for (uint64_t bits = all & piece_mask(&walk->piece, place->level, place->index); bits && !walk->stopped; bits &= bits - 1) {
        const struct place below = place_below(place, bits, place->records);
        if (!visit_one(walk, &below, take))
            done |= bits & -bits;
    }
    if (take)
        atomic_store_explicit(word, all & ~done, memory_order_relaxed);
    return all & ~done;
}

/* ---- both records ---- */

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
    walk.way = bits_way();
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
