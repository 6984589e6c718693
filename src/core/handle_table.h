/*
 * Handles that outlive what they name: a table of numbered slots with generations and reference counts.
 * A stale, random or closed handle is recognized and never followed. Slots are reused, never unmapped.
 *
 * A handle is never 0 or all ones. All functions: any thread.
 */
#ifndef OWHP_CORE_HANDLE_TABLE_H
#define OWHP_CORE_HANDLE_TABLE_H

#include <pthread.h>
#include <stdatomic.h>

#include "util/compiler.h"
#include "util/types.h"

enum { HANDLE_CHUNKS = 1024, HANDLE_CHUNK_SLOTS = 256 };

struct handle_slot {
    _Atomic uint64_t word; /* see handle_table.c */
    void *object;          /* valid while the slot is live or referenced */
    uint32_t next_free;    /* index + 1; under the table's lock */
};

struct handle_table {
    uint8_t tag; /* HANDLE_TAG_*: low byte of its handles, so that one kind is not taken for another */
    pthread_mutex_t lock;
    pthread_cond_t drained;
    _Atomic(struct handle_slot *) chunks[HANDLE_CHUNKS];
    uint32_t slots;      /* in use or free, under lock */
    uint32_t first_free; /* index + 1; 0: none */
};

/* Neither small numbers nor aligned pointers. Emulators are another library's, whose handles are met by the same client. */
enum { HANDLE_TAG_PARTITION = 0x5a, HANDLE_TAG_SNAPSHOT = 0x6a, HANDLE_TAG_PROCESS = 0x7a, HANDLE_TAG_EMULATOR = 0x9a };

#define HANDLE_TABLE_INIT(kind) {.tag = (kind), .lock = PTHREAD_MUTEX_INITIALIZER, .drained = PTHREAD_COND_INITIALIZER}

/* A new live handle for the object; 0 when there is no memory, or 262144 objects exist. */
must_check uint64_t handle_open(struct handle_table *table, void *object);

/* The object with a reference, which handle_put gives back; NULL for a bad handle. */
must_check void *handle_get(struct handle_table *table, uint64_t handle);
void handle_put(struct handle_table *table, uint64_t handle);

/* From now on handle_get answers NULL. The object, without a reference, to the one caller that closed it;
 * NULL for a bad handle. */
must_check void *handle_close(struct handle_table *table, uint64_t handle);

/* After handle_close: wait until all references are gone, then free the slot. */
void handle_drain(struct handle_table *table, uint64_t handle);

#endif
