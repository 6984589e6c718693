/* A second process that does what it is told, for tests of memory of other processes. */
#ifndef OWHP_TESTS_CONFORM_OTHER_PROCESS_H
#define OWHP_TESTS_CONFORM_OTHER_PROCESS_H

#include <sys/types.h>

#include "conform.h"

struct other {
    pid_t id;
    int to, from;
};

enum other_memory {
    OTHER_PRIVATE,      /* anonymous */
    OTHER_MEMFD,        /* shared, the descriptor stays open */
    OTHER_MEMFD_CLOSED, /* shared, the descriptor is closed: only the mapping is left */
    OTHER_ANONYMOUS,    /* shared, anonymous */
    OTHER_FILE,         /* shared, of a file that is deleted */
    OTHER_FILE_PRIVATE, /* private, of such a file, full of 0x5a */
};

void other_begin(struct other *other);
void other_end(struct other *other); /* ends the process, if it has not ended, and waits for it */

/* Map `size` bytes at an address of the process's choice (0), or at this one. Zeroed. */
UINT64 other_map(struct other *other, enum other_memory kind, UINT64 at, UINT64 size);
void other_unmap(struct other *other, UINT64 at, UINT64 size);
void other_protect(struct other *other, UINT64 at, UINT64 size, int protection);
void other_store(struct other *other, UINT64 at, UINT64 value);  /* 8 bytes */
UINT64 other_load(struct other *other, UINT64 at);
void other_fill(struct other *other, UINT64 at, const void *bytes, size_t size);
void other_kill(struct other *other); /* returns when it is gone, reaped */

#endif
