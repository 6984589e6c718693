/*
 * A record of written pages, by page number, for a whole guest physical address space. Costs follow
 * what is dirty: a clean terabyte takes no memory and no time. Marking is lock-free. One record is
 * marked by the processors, one more per consumer keeps what was taken from it and not yet told
 * (gpa_consumer.c). Invariant W and the layout are explained in gpa_dirty.c.
 */
#ifndef OWHP_MEM_GPA_DIRTY_H
#define OWHP_MEM_GPA_DIRTY_H

#include "util/compiler.h"
#include "util/types.h"

#include <stdatomic.h>

/*
 * A window holds the bits of 2^30 pages (4 TiB) as five levels of 64-bit words: a bit of level
 * n + 1 says that a word of level n may be non-zero.
 */
enum {
    GPA_DIRTY_LEVELS = 5,
    GPA_DIRTY_WINDOW_SHIFT = 30,
};

typedef _Atomic(uint64_t) gpa_dirty_word;

struct gpa_dirty {
    uint64_t pages; /* of the space; fixed after create */
    gpa_dirty_word **windows; /* by page >> GPA_DIRTY_WINDOW_SHIFT; NULL: never covered */
};

/* First word of each level in a window; level 0 has one bit a page. */
static const uint32_t gpa_dirty_level_start[GPA_DIRTY_LEVELS] = {
    512 + 4096 + 262144, 512 + 4096, 512, 64, 0,
};

struct gpa_dirty *gpa_dirty_create(uint64_t pages); /* NULL: no memory */
void gpa_dirty_destroy(struct gpa_dirty *dirty);

/* Make the pages markable. Needed before the first mark of a page; false: no memory. Not concurrent
 * with anything but marks of other pages. */
must_check bool gpa_dirty_cover(struct gpa_dirty *dirty, uint64_t page, uint64_t count);

/* Mark a covered page. Any number of threads; when it returns, all levels show the page (also when
 * another thread was first and is not finished), so whoever looks afterwards finds it. */
static always_inline void gpa_dirty_mark(struct gpa_dirty *dirty, uint64_t page)
{
    gpa_dirty_word *window = dirty->windows[page >> GPA_DIRTY_WINDOW_SHIFT];
    uint64_t index = page & (((uint64_t)1 << GPA_DIRTY_WINDOW_SHIFT) - 1);

    for (unsigned level = 0; level < GPA_DIRTY_LEVELS; level++) {
        gpa_dirty_word *word = window + gpa_dirty_level_start[level] + (index >> 6);
        uint64_t bit = (uint64_t)1 << (index & 63);
        if (!(atomic_load(word) & bit))
            atomic_fetch_or(word, bit);
        index >>= 6;
    }
}

void gpa_dirty_mark_range(struct gpa_dirty *dirty, uint64_t page, uint64_t count);

/* Mark page first + i for each bit i; first is a multiple of 64. Pages never covered: nothing. Not concurrent with other marks
 * and takes of the record. */
void gpa_dirty_mark_bits(struct gpa_dirty *dirty, uint64_t first, uint64_t bits);

/* Dirty pages: bit i of bits is page first + i; first is a multiple of 64. */
struct gpa_dirty_bits {
    uint64_t first, bits;
};

enum { GPA_DIRTY_TOLD_AT_ONCE = 256 };

/* Receives dirty pages in ascending order, 1 to GPA_DIRTY_TOLD_AT_ONCE words of them and none that is 0. False: no more, please;
 * what was reported counts. */
typedef bool gpa_dirty_sink(void *ctx, const struct gpa_dirty_bits *words, size_t count);

/* Words of level 0 of a record's window that may have dirty pages, ascending, GPA_DIRTY_TOLD_AT_ONCE at most. */
struct gpa_dirty_words {
    gpa_dirty_word *words;
    uint64_t base; /* the first page of words[0] */
    const uint32_t *index;
    size_t count;
};

/* Takes what is in all these words itself. False: no more, please. */
typedef bool gpa_dirty_taker(void *ctx, const struct gpa_dirty_words *words);

/* True if a page of the range is dirty. Pages never covered are clean. */
bool gpa_dirty_any(const struct gpa_dirty *dirty, uint64_t page, uint64_t count);

/* What to look at, and who is told. */
struct gpa_dirty_visit {
    struct gpa_dirty *record;
    struct gpa_dirty *other; /* a second record, seen together with the first as one; may be NULL */
    uint64_t page, count;
    gpa_dirty_sink *sink;    /* NULL: nobody */
    void *ctx;
    gpa_dirty_sink *tee; /* take: also gets what was in `record`, before sink; its answer is ignored; may be NULL */
    void *tee_ctx;
    bool exclusive; /* take: nobody marks these records meanwhile, so that no locked instruction is needed */
    gpa_dirty_taker *taker; /* exclusive take: in place of sink, with its ctx, where few pages are dirty; may be NULL */
};

/* Report the dirty pages of the range. Take clears what it reports: each mark is reported exactly
 * once. Takes are serialized by the caller; marks may run meanwhile. */
void gpa_dirty_visit_peek(const struct gpa_dirty_visit *visit);
void gpa_dirty_visit_take(const struct gpa_dirty_visit *visit);

/* The same of one record. */
static inline void gpa_dirty_peek(struct gpa_dirty *dirty, uint64_t page, uint64_t count, gpa_dirty_sink *sink, void *ctx)
{
    gpa_dirty_visit_peek(&(struct gpa_dirty_visit){dirty, NULL, page, count, sink, ctx, NULL, NULL, false, NULL});
}

static inline void gpa_dirty_take(struct gpa_dirty *dirty, uint64_t page, uint64_t count, gpa_dirty_sink *sink, void *ctx)
{
    gpa_dirty_visit_take(&(struct gpa_dirty_visit){dirty, NULL, page, count, sink, ctx, NULL, NULL, false, NULL});
}

#endif
