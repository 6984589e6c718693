/*
 * Dirty pages on their way into a caller's array of ranges. For one harvest, or one look (gpa_harvest.c).
 */
#ifndef OWHP_MEM_GPA_DIRTY_LIST_H
#define OWHP_MEM_GPA_DIRTY_LIST_H

#include "mem/gpa_consumer.h"
#include "mem/gpa_dirty.h"
#include "mem/word_bits.h"

enum {
    GPA_LISTER_BATCH = 256,
    GPA_LISTER_WORD = 32 + 4, /* the most runs of a word, and those that are written and do not count */
};

struct gpa_lister {
    struct gpa_dirty_list *list;
    size_t batched; /* the last of them may still grow */
    bool bad_array; /* it cannot be written */
    enum bits_way way;
    size_t rest_count;
    struct gpa_dirty_bits rest[2 * GPA_DIRTY_TOLD_AT_ONCE]; /* pages that it was told or took and had no place for */
    struct gpa_range batch[GPA_LISTER_BATCH + GPA_LISTER_WORD];
};

void gpa_lister_begin(struct gpa_lister *l, struct gpa_dirty_list *list);
bool gpa_lister_sink(void *lister, const struct gpa_dirty_bits *words, size_t count); /* a gpa_dirty_sink */
bool gpa_lister_take(void *lister, const struct gpa_dirty_words *words); /* a gpa_dirty_taker; not with BITS_PLAIN */
void gpa_lister_end(struct gpa_lister *l);

/* After the end: mark in the record, which nobody else uses now, what the sink was told and the caller will not be: pages
 * without a place; all of them, where the array cannot be written. False: the array no longer says which ones they were. */
must_check bool gpa_lister_put_back(const struct gpa_lister *l, struct gpa_range range, struct gpa_dirty *record);

/* For gpa_dirty_few.c: write all batched runs but the last `keep`. False: the array is bad. */
must_check bool gpa_lister_flush(struct gpa_lister *l, size_t keep);

#endif
