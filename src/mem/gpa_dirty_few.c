/*
 * Few dirty pages: from the record straight into the caller's array.
 *
 * Where most words have no dirty page, and the others seldom more than two, the way through the batches of gpa_dirty_visit.c and
 * gpa_dirty_list.c costs more than the pages. So here a word is taken and its pages go where they belong: always two, without a
 * branch, and as many count as there were. A word with neighbours, or with its first page where the word before
 * may end with a run, is put as runs.
 *
 * All stores to the array are guarded; when one fails, the pages of its word are kept with the rest. In the end the last run is
 * taken back into the batch, where it may still grow.
 */
#include "mem/gpa_dirty_list.h"

#include "os/guarded.h"

/* By value: what has no address can stay in registers. */
struct filler {
    struct gpa_range *to; /* the next place */
    gpa_t gpa;            /* the word in which the last run ends; no bits: there is no run yet */
    uint64_t bits;
    uint64_t run;         /* the last run's size */
};

static uint64_t take_word(gpa_dirty_word *word)
{
    const uint64_t bits = atomic_load_explicit(word, memory_order_relaxed);

    atomic_store_explicit(word, 0, memory_order_relaxed);
    return bits;
}

static always_inline bool put(struct gpa_range *to, gpa_t gpa, uint64_t size)
{
    return likely(guarded_store64(&to->gpa, gpa)) && likely(guarded_store64(&to->size, size));
}

static always_inline gpa_t page_at(gpa_t gpa, uint64_t bits)
{
    return gpa + ((uint64_t)__builtin_ctzll(bits) << PAGE_SHIFT);
}

/* ---- words ---- */

/* Both return the place behind what they have stored, or `to` NULL. */

/* The same; of no bits, behind the word. */
BITS_COUNTS_TARGET static inline gpa_t page_if(gpa_t gpa, uint64_t bits)
{
    return gpa + ((uint64_t)_tzcnt_u64(bits) << PAGE_SHIFT);
}

/* Of no pages, nothing. */
BITS_COUNTS_TARGET static inline struct filler put_pages(struct filler f, gpa_t gpa, uint64_t bits)
{
    const unsigned count = (unsigned)__builtin_popcountll(bits);
    const uint64_t second = bits & (bits - 1);

    if (!put(f.to, page_if(gpa, bits), PAGE_SIZE) || !put(f.to + 1, page_if(gpa, second), PAGE_SIZE))
        return (struct filler){.to = NULL};
    if (unlikely(count > 2))
        for (uint64_t more = second & (second - 1), i = 2; more; more &= more - 1, i++)
            if (!put(f.to + i, page_at(gpa, more), PAGE_SIZE))
                return (struct filler){.to = NULL};
    return (struct filler){f.to + count, gpa, bits, PAGE_SIZE};
}

static noinline struct filler put_runs(struct filler f, gpa_t gpa, uint64_t bits)
{
    uint64_t starts = bits & ~(bits << 1), ends = bits & ~(bits >> 1), run = f.run;
    bool grows = bits & 1 && f.bits >> 63 && f.gpa + 64 * PAGE_SIZE == gpa;

    for (; starts; starts &= starts - 1, ends &= ends - 1, grows = false) {
        const gpa_t start = page_at(gpa, starts), size = page_at(gpa, ends) - start + PAGE_SIZE;

        run = grows ? run + size : size;
        if (grows ? !guarded_store64(&f.to[-1].size, run) : !put(f.to++, start, run))
            return (struct filler){.to = NULL};
    }
    return (struct filler){f.to, gpa, bits, run};
}

/* ---- the array ---- */

/* What the batch has goes to the array, but stays the last run. */
static bool begin(struct gpa_lister *l, struct filler *f)
{
    *f = (struct filler){.to = NULL};
    if (l->batched) {
        const struct gpa_range last = l->batch[l->batched - 1];
        const uint64_t page = pages_of(range_end(last)) - 1, bit = (uint64_t)1 << (page & 63);

        *f = (struct filler){NULL, (page & ~(uint64_t)63) << PAGE_SHIFT, bit, last.size};
    }
    if (!gpa_lister_flush(l, 0))
        return false;
    f->to = l->list->array + l->list->count;
    return true;
}

static void end(struct gpa_lister *l, const struct filler *f)
{
    l->list->count = (size_t)(f->to - l->list->array);
    if (!f->bits)
        return;
    const gpa_t behind = f->gpa + ((64 - (uint64_t)__builtin_clzll(f->bits)) << PAGE_SHIFT);
    l->list->count--;
    l->batch[0] = (struct gpa_range){behind - f->run, f->run};
    l->batched = 1;
}

static void bad_array(struct gpa_lister *l, const struct gpa_range *to, gpa_t gpa, uint64_t bits)
{
    l->list->count = (size_t)(to - l->list->array);
    l->rest[l->rest_count++] = (struct gpa_dirty_bits){pages_of(gpa), bits};
    l->bad_array = true;
}

/* Words for all of which there is room, whatever is in them. Returns how far it came. */
BITS_COUNTS_TARGET static inline size_t fill_surely(struct gpa_lister *l, struct filler *filler,
                                                    const struct gpa_dirty_words *all, size_t from, size_t to)
{
    const gpa_t base = all->base << PAGE_SHIFT;
    gpa_dirty_word *const words = all->words;
    struct filler f = *filler;

    for (const uint32_t *i = all->index + from, *const end = all->index + to; i < end; i++) {
        const uint64_t index = *i, bits = take_word(&words[index]);
        const gpa_t gpa = base + (index << (PAGE_SHIFT + 6));
        const bool neighbours = bits & (bits << 1 | f.bits >> 63);
        const struct filler next = unlikely(neighbours) ? put_runs(f, gpa, bits) : put_pages(f, gpa, bits);

        if (unlikely(!next.to)) {
            bad_array(l, f.to, gpa, bits);
            filler->to = NULL;
            return (size_t)(i - all->index) + 1;
        }
        f = next;
    }
    *filler = f;
    return to;
}

/* Returns how many words were taken. */
BITS_COUNTS_TARGET static size_t fill(struct gpa_lister *l, const struct gpa_dirty_words *words)
{
    const size_t capacity = l->list->capacity, count = words->count;
    struct filler f;
    size_t done = 0;

    if (capacity - l->list->count < l->batched + GPA_LISTER_WORD || !begin(l, &f))
        return 0;
    while (done < count) {
        const size_t surely = (capacity - (size_t)(f.to - l->list->array)) / GPA_LISTER_WORD;
        if (!surely)
            break;
        done = fill_surely(l, &f, words, done, count - done < surely ? count : done + surely);
        if (!f.to)
            return done;
    }
    end(l, &f);
    return done;
}

bool gpa_lister_take(void *lister, const struct gpa_dirty_words *words)
{
    struct gpa_lister *l = lister;
    struct gpa_dirty_bits left[GPA_DIRTY_TOLD_AT_ONCE];
    size_t count = 0;

    for (size_t i = fill(l, words); i < words->count; i++) {
        const uint64_t index = words->index[i], bits = take_word(&words->words[index]);

        left[count] = (struct gpa_dirty_bits){words->base + (index << 6), bits};
        count += bits != 0;
    }
    return count ? gpa_lister_sink(l, left, count) : !l->bad_array;
}
