/* What the files of the model share. */
#ifndef OWHP_TESTS_MEMORY_MODEL_STATE_H
#define OWHP_TESTS_MEMORY_MODEL_STATE_H

#include "memory_model.h"

#include <stdbool.h>

#include <WinHvPlatform.h>
#include <openwhp.h>

enum {
    PAGE = 4096,
    GUEST = 72,      /* pages in the window; more than a word of dirty bits */
    PRIVATE = 48,    /* host pages: private memory */
    SHARED = 24,     /* and a memfd */
    HOST = PRIVATE + SHARED,
    ALL_OURS = HOST + SHARED + 2, /* the memfd again, and a page between each */
    FAR_COPIED = 10, /* behind them: private memory of another process */
    FAR_SHARED = 10, /* and a memfd of it; the two lie side by side */
    FAR = FAR_COPIED + FAR_SHARED,
    ALL = HOST + FAR,
    CONSUMERS = 4,   /* [0] is that of WHvQueryGpaRangeDirtyBitmap */
    MOST_BYTES = 3 * PAGE,
};
enum { R = 1, W = 2, X = 4, T = 8 };
enum { NO_PAGE = -1 };

#define GPA_FLAGS(value) ((WHV_MAP_GPA_RANGE_FLAGS)(value))
#define NOT_FOUND        HRESULT_FROM_WIN32(ERROR_NOT_FOUND)
#define NOT_SUPPORTED    HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)

struct guest_page {
    int host; /* or NO_PAGE */
    bool is_twin; /* through the second mapping of the memfd */
    unsigned flags, pins;
};

struct consumer {
    UINT32 id, flags;
    bool exists, dirty[GUEST];
    unsigned first, end;
};

struct model {
    WHV_PARTITION_HANDLE partition;
    UINT64 base;
    struct guest_page page[GUEST];
    struct consumer consumer[CONSUMERS];
    UINT8 *private, *shared, *twin; /* the last: the memfd again */
    bool is_calm; /* each page at a place of its own, and mappings change seldom */
    UINT8 content[ALL][PAGE];
    int protection[ALL];
    const uint8_t *program;
    size_t size, at;
    unsigned calls;
    bool trace;
};
extern struct model model;

/* The program: its next byte, or a number below a limit. */
unsigned model_byte(void);
unsigned model_below(unsigned limit);

/* A call is made; what it answers. wrong() does not return. */
void model_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
void model_wrong(const char *what, unsigned long long got, unsigned long long expected) __attribute__((noreturn));
void model_expect(const char *what, HRESULT got, HRESULT expected);
void model_same(const char *what, UINT64 got, UINT64 expected);

/* In the process that has it. */
UINT8 *model_host_at(int page);
UINT8 *model_source_at(const struct guest_page *page);

void model_protect(int page, int protection);

static inline OWHP_GPA_SOURCE model_source_of(int page)
{
    return page < HOST ? OwhpGpaSourceOwnProcess
                       : page < HOST + FAR_COPIED ? OwhpGpaSourceCopiedProcess : OwhpGpaSourceSharedProcess;
}

/* The page is dirty for all that see it; for none but those with one of these flags. */
void model_mark(unsigned page);
void model_forget(unsigned page, unsigned keepers);

/* ---- memory_model_snapshot.c ---- */

void model_snapshots_begin(void);
void model_snapshots_end(void);
bool model_has_snapshot(void);
void model_snapshot_step(void);

/* For all snapshots: the page was stored to; a page was mapped there, or unmapped. */
void model_snapshots_stored(unsigned page);
void model_snapshots_mapped(unsigned page);

/* ---- memory_model_far.c ---- */

void model_far_begin(void);
void model_far_end(void);
void model_far_read(UINT8 bytes[FAR * PAGE]);
HANDLE model_far_handle(void);
UINT32 model_far_process(void);
UINT8 *model_far_at(int page); /* from 0 on */

#endif
