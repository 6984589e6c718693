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

#include "os/read_section.h"
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

/* The parts of a slot's word and of a handle; handle_table.c. */
#define HANDLE_REFERENCES 0x7fffffffu
#define HANDLE_LIVE       0x80000000u

static inline uint32_t handle_generation(uint64_t word_or_handle)
{
    return (uint32_t)(word_or_handle >> 32);
}

static inline uint32_t handle_index(uint64_t handle)
{
    return (uint32_t)handle >> 8;
}

/* NULL: there is none. */
static inline struct handle_slot *handle_slot_at(const struct handle_table *table, uint32_t index)
{
    struct handle_slot *chunk = NULL;

    if (likely(index < HANDLE_CHUNKS * HANDLE_CHUNK_SLOTS))
        chunk = atomic_load_explicit(&table->chunks[index / HANDLE_CHUNK_SLOTS], memory_order_acquire);
    return likely(chunk) ? &chunk[index % HANDLE_CHUNK_SLOTS] : NULL;
}

/* The slot of a handle of this table, live or not; NULL: there is none. */
static inline struct handle_slot *handle_slot_of(const struct handle_table *table, uint64_t handle)
{
    return likely((uint8_t)handle == table->tag) ? handle_slot_at(table, handle_index(handle)) : NULL;
}

static inline bool handle_is_live(const struct handle_slot *slot, uint64_t handle)
{
    const uint64_t word = atomic_load_explicit(&slot->word, memory_order_acquire);

    return word >> 31 == (handle >> 32 << 1 | 1);
}

/* The object with a reference, which handle_put gives back; NULL for a bad handle. */
must_check void *handle_get(struct handle_table *table, uint64_t handle);
void handle_put(struct handle_table *table, uint64_t handle);

/* The common case of both in line, for what each exit does some times; below. */
must_check static always_inline struct handle_slot *handle_begin_fast(struct handle_table *table, uint64_t handle);
must_check static always_inline bool handle_put_fast(struct handle_table *table, uint64_t handle);

/* From now on handle_get answers NULL. The object, without a reference, to the one caller that closed it;
 * NULL for a bad handle. */
must_check void *handle_close(struct handle_table *table, uint64_t handle);

/* After handle_close: wait until all references are gone, then free the slot. */
void handle_drain(struct handle_table *table, uint64_t handle);

/* ---- the inline functions ---- */

/* The thread's entry is gone and the handle closed: one who drains may wait for that. */
void handle_wake_drainer(struct handle_table *table);

/* The slot with a reference, but ask handle_is_live whether to believe what is in it; NULL: nothing is done, call handle_get. */
static always_inline struct handle_slot *handle_begin_fast(struct handle_table *table, uint64_t handle)
{
    struct handle_slot *slot = handle_slot_of(table, handle);

    return likely(slot && in_use_begin_fast(slot)) ? slot : NULL;
}

/* False: nothing is done, call handle_put. */
static always_inline bool handle_put_fast(struct handle_table *table, uint64_t handle)
{
    struct handle_slot *slot = handle_slot_of(table, handle);

    if (unlikely(!in_use_end_fast(slot)))
        return false;
    if (unlikely(!(atomic_load_explicit(&slot->word, memory_order_relaxed) & HANDLE_LIVE)))
        handle_wake_drainer(table);
    return true;
}

#endif
