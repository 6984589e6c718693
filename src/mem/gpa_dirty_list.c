/*
 * Dirty pages as a list of ranges: ascending, neighbours joined.
 *
 * A word of 64 pages becomes its runs with hardly a branch on how many there are or how long: both are as good as random, and a
 * wrong guess of the processor's costs more than the whole word. Runs gather in a batch and go to the caller's array by guarded
 * copies; the last run stays behind, for the next word may continue it.
 *
 * Who harvests has cleared the pages before they come here. So nothing may be lost on the way: what finds no room, and all of
 * it when the array turns out to be bad, can be put back. What was already written to a bad array is read from there again.
 */
#include "mem/gpa_dirty_list.h"

#include "mem/gpa_space_state.h"
#include "mem/word_bits.h"
#include "os/guarded.h"

#include <string.h>

void gpa_lister_begin(struct gpa_lister *l, struct gpa_dirty_list *list)
{
    list->count = 0;
    list->more = false;
    l->list = list;
    l->batched = l->rest_count = 0;
    l->bad_array = false;
    l->way = bits_way();
}

bool gpa_lister_flush(struct gpa_lister *l, size_t keep)
{
    const size_t count = l->batched - keep;

    if (!guarded_copy(l->list->array + l->list->count, l->batch, count * sizeof(l->batch[0]))) {
        l->bad_array = true;
        return false;
    }
    l->list->count += count;
    if (keep)
        l->batch[0] = l->batch[count];
    l->batched = keep;
    return true;
}

/* ---- a word's runs ---- */

static always_inline gpa_t lowest_page(gpa_t gpa, uint64_t pages)
{
    return gpa + ((uint64_t)lowest_bit(pages) << PAGE_SHIFT);
}

/* The lowest run of dirty pages, given the first and the last bit of each, and what is left of these; of nothing, anything. */
static always_inline struct gpa_range take_run(gpa_t gpa, uint64_t *starts, uint64_t *ends)
{
    const gpa_t start = lowest_page(gpa, *starts), last = lowest_page(gpa, *ends);

    *starts &= *starts - 1;
    *ends &= *ends - 1;
    return (struct gpa_range){start, last - start + PAGE_SIZE};
}

static always_inline struct gpa_range take_page(gpa_t gpa, uint64_t *pages)
{
    const struct gpa_range page = {lowest_page(gpa, *pages), PAGE_SIZE};

    *pages &= *pages - 1;
    return page;
}

/* Four entries: where the lowest four of `starts` are in the word, and how many pages more than one they have. */
BITS_VECTOR_TARGET static inline void put_four(struct gpa_range *to, __m512i starts, __m512i more, bool have_more, uint64_t first)
{
    const __m512i one_page = _mm512_setr_epi64(0, 1, 0, 1, 0, 1, 0, 1);
    const __m512i numbers = _mm512_maskz_permutexvar_epi8(0x0001000100010001, _mm512_setr_epi64(0, 0, 1, 0, 2, 0, 3, 0), starts);
    __m512i pages = _mm512_mask_add_epi64(one_page, 0x55, numbers, _mm512_set1_epi64((long long)first));

    if (have_more)
        pages = _mm512_add_epi64(
            pages, _mm512_maskz_permutexvar_epi8(0x0100010001000100, _mm512_setr_epi64(0, 0, 0, 1, 0, 2, 0, 3), more));
    _mm512_storeu_si512(to, _mm512_slli_epi64(pages, PAGE_SHIFT));
}

BITS_VECTOR_TARGET static inline void put_pages_vector(struct gpa_range *to, unsigned count, uint64_t first, uint64_t pages)
{
    __m512i starts = bits_as_bytes(pages);

    put_four(to, starts, starts, false, first);
    for (unsigned at = 4; unlikely(at < count); at += 4) {
        starts = _mm512_alignr_epi32(starts, starts, 1);
        put_four(to + at, starts, starts, false, first);
    }
}

BITS_VECTOR_TARGET static inline void put_runs_vector(struct gpa_range *to, unsigned count, uint64_t first, uint64_t starts_bits,
                                                      uint64_t ends)
{
    __m512i starts = bits_as_bytes(starts_bits), more = _mm512_sub_epi8(bits_as_bytes(ends), starts);

    put_four(to, starts, more, true, first);
    for (unsigned at = 4; at < count; at += 4) {
        starts = _mm512_alignr_epi32(starts, starts, 1);
        more = _mm512_alignr_epi32(more, more, 1);
        put_four(to + at, starts, more, true, first);
    }
}

/* Pages that have no neighbours: four are written at a time, and as many count as there were. */
static always_inline struct gpa_range *put_pages(struct gpa_range *to, gpa_t gpa, uint64_t pages, const enum bits_way way)
{
    struct gpa_range *const end = to + count_bits(pages, way);

    if (way == BITS_VECTOR) {
        put_pages_vector(to, (unsigned)(end - to), gpa >> PAGE_SHIFT, pages);
        return end;
    }
    for (;; to += 4) {
        to[0] = take_page(gpa, &pages);
        to[1] = take_page(gpa, &pages);
        to[2] = take_page(gpa, &pages);
        to[3] = take_page(gpa, &pages);
        if (likely(!pages))
            return end;
    }
}

static always_inline struct gpa_range *put_runs(struct gpa_range *to, gpa_t gpa, uint64_t starts, uint64_t ends,
                                                const enum bits_way way)
{
    if (way == BITS_VECTOR) {
        const unsigned count = count_bits(starts, way);
        put_runs_vector(to, count, gpa >> PAGE_SHIFT, starts, ends);
        return to + count;
    }
    while (starts) {
        *to++ = take_run(gpa, &starts, &ends);
        const unsigned second = starts != 0;
        *to = take_run(gpa, &starts, &ends);
        to += second;
    }
    return to;
}

/* The runs of a word. One that continues the last run of the batch makes that longer. */
struct runs {
    gpa_t gpa;
    uint64_t starts, ends;
};

static always_inline struct runs runs_of(const struct gpa_lister *l, struct gpa_range *to, const struct gpa_dirty_bits *word)
{
    struct runs runs = {word->first << PAGE_SHIFT, word->bits & ~(word->bits << 1), word->bits & ~(word->bits >> 1)};

    if (unlikely(word->bits & 1) && to != l->batch && range_end(to[-1]) == runs.gpa)
        to[-1].size += take_run(runs.gpa, &runs.starts, &runs.ends).size;
    return runs;
}

/* ---- many words ---- */

static size_t room_in_array(const struct gpa_lister *l)
{
    return l->list->capacity - l->list->count;
}

/* Words, as long as there is room for whatever is in the next one; returns how many. */
static always_inline size_t add_words(struct gpa_lister *l, const struct gpa_dirty_bits *words, size_t count,
                                      const enum bits_way way)
{
    const size_t room = room_in_array(l), surely = room < GPA_LISTER_WORD ? 0 : room - GPA_LISTER_WORD + 1;
    struct gpa_range *to = l->batch + l->batched, *const end = l->batch + (surely < GPA_LISTER_BATCH ? surely : GPA_LISTER_BATCH);
    size_t i;

    for (i = 0; i < count && likely(to < end); i++) {
        const struct runs runs = runs_of(l, to, &words[i]);

        if (likely(runs.starts == runs.ends))
            to = put_pages(to, runs.gpa, runs.starts, way);
        else
            to = put_runs(to, runs.gpa, runs.starts, runs.ends, way);
    }
    l->batched = (size_t)(to - l->batch);
    return i;
}

static size_t add_words_plain(struct gpa_lister *l, const struct gpa_dirty_bits *words, size_t count)
{
    return add_words(l, words, count, BITS_PLAIN);
}

BITS_COUNTS_TARGET static size_t add_words_counts(struct gpa_lister *l, const struct gpa_dirty_bits *words, size_t count)
{
    return add_words(l, words, count, BITS_COUNTS);
}

BITS_VECTOR_TARGET static size_t add_words_vector(struct gpa_lister *l, const struct gpa_dirty_bits *words, size_t count)
{
    return add_words(l, words, count, BITS_VECTOR);
}

static size_t (*const add_words_by[BITS_WAYS])(struct gpa_lister *, const struct gpa_dirty_bits *,
                                               size_t) = {add_words_plain, add_words_counts, add_words_vector};

/* A word whose runs may not all find room: what does not is the rest's first word. */
static bool add_some(struct gpa_lister *l, const struct gpa_dirty_bits *word)
{
    struct runs runs = runs_of(l, l->batch + l->batched, word);

    while (runs.starts && l->batched < room_in_array(l))
        l->batch[l->batched++] = take_run(runs.gpa, &runs.starts, &runs.ends);
    if (runs.starts)
        l->rest[l->rest_count++] = (struct gpa_dirty_bits){word->first, word->bits & (0 - (runs.starts & (0 - runs.starts)))};
    return !runs.starts;
}

static bool leave(struct gpa_lister *l, const struct gpa_dirty_bits *words, size_t count)
{
    memcpy(l->rest + l->rest_count, words, count * sizeof(words[0]));
    l->rest_count += count;
    return false;
}

bool gpa_lister_sink(void *lister, const struct gpa_dirty_bits *words, size_t count)
{
    struct gpa_lister *l = lister;
    size_t done = 0;

    if (unlikely(l->bad_array))
        return leave(l, words, count);
    while ((done += add_words_by[l->way](l, words + done, count - done)) < count) {
        if (l->batched > 1 && !gpa_lister_flush(l, 1))
            return leave(l, words + done, count - done);
        if (room_in_array(l) > GPA_LISTER_WORD)
            continue;
        if (!add_some(l, &words[done++]))
            return leave(l, words + done, count - done);
    }
    return true;
}

void gpa_lister_end(struct gpa_lister *l)
{
    l->list->more = l->rest_count != 0;
    if (!l->bad_array && !gpa_lister_flush(l, 0))
        l->bad_array = true;
}

/* ---- nothing is lost ---- */

static bool read_run(const struct gpa_range *at, struct gpa_range *run)
{
    return guarded_load64(&at->gpa, &run->gpa) && guarded_load64(&at->size, &run->size);
}

static void put_back_run(struct gpa_range run, struct gpa_dirty *record)
{
    const uint64_t end = pages_of(range_end(run));

    for (uint64_t page = pages_of(run.gpa); page < end;) {
        const uint64_t first = page & ~(uint64_t)63, stop = first + 64 < end ? first + 64 : end;

        gpa_dirty_mark_bits(record, first, ~(uint64_t)0 >> (64 - (stop - page)) << (page - first));
        page = stop;
    }
}

/* It is the caller's memory: anything may be in it. What we wrote was ascending, in the range, with a gap between any two. */
static bool may_follow(struct gpa_range run, gpa_t at, gpa_t end)
{
    return run.size && page_aligned(run.gpa) && page_aligned(run.size) && run.gpa >= at && run.gpa < end &&
           run.size <= end - run.gpa;
}

static bool put_back_array(const struct gpa_lister *l, struct gpa_range range, struct gpa_dirty *record)
{
    gpa_t at = range.gpa;
    struct gpa_range run;

    for (size_t i = 0; i < l->list->count; i++) {
        if (!read_run(&l->list->array[i], &run) || !may_follow(run, at, range_end(range)))
            return false;
        put_back_run(run, record);
        at = range_end(run) + PAGE_SIZE;
    }
    return true;
}

bool gpa_lister_put_back(const struct gpa_lister *l, struct gpa_range range, struct gpa_dirty *record)
{
    for (size_t i = 0; i < l->rest_count; i++)
        gpa_dirty_mark_bits(record, l->rest[i].first, l->rest[i].bits);
    for (size_t i = 0; i < l->batched; i++)
        put_back_run(l->batch[i], record);
    return !l->bad_array || put_back_array(l, range, record);
}
