/*
 * The slot's word: references 0-30, live 31, generation 32-63. A reference is an entry in the thread's list of objects in use
 * (os/read_section.h), made before the word is looked at: an exit takes three, so they have to be cheap. A thread whose list
 * is full counts itself in the word. Either way no lock is taken and nothing that was freed is touched. The generation changes
 * when the slot becomes free; after 2^32 - 1 uses of one slot an old handle could be taken for a new one.
 *
 * The handle: tag 0-7, slot index 8-31, generation 32-63.
 */
#include "core/handle_table.h"

#include <stdlib.h>

#include "os/cancel.h"

/* Under the lock: index + 1 of a free slot; 0 when there is none. */
static uint32_t take_slot(struct handle_table *table)
{
    uint32_t number = table->first_free;

    if (number) {
        table->first_free = handle_slot_at(table, number - 1)->next_free;
        return number;
    }
    if (table->slots == HANDLE_CHUNKS * HANDLE_CHUNK_SLOTS)
        return 0;
    if (table->slots % HANDLE_CHUNK_SLOTS == 0) {
        struct handle_slot *chunk = calloc(HANDLE_CHUNK_SLOTS, sizeof(*chunk));
        if (!chunk)
            return 0;
        for (uint32_t i = 0; i < HANDLE_CHUNK_SLOTS; i++)
            atomic_init(&chunk[i].word, (uint64_t)1 << 32);
        atomic_store_explicit(&table->chunks[table->slots / HANDLE_CHUNK_SLOTS], chunk, memory_order_release);
    }
    return ++table->slots;
}

uint64_t handle_open(struct handle_table *table, void *object)
{
    uint64_t handle = 0;

    pthread_mutex_lock(&table->lock);
    uint32_t number = take_slot(table);
    if (number) {
        struct handle_slot *slot = handle_slot_at(table, number - 1);
        uint32_t generation = handle_generation(atomic_load_explicit(&slot->word, memory_order_relaxed));
        slot->object = object;
        atomic_store_explicit(&slot->word, (uint64_t)generation << 32 | HANDLE_LIVE, memory_order_release);
        handle = (uint64_t)generation << 32 | (uint64_t)(number - 1) << 8 | table->tag;
    }
    pthread_mutex_unlock(&table->lock);
    return handle;
}

/* Replace the word by word + add (counting) or word & ~clear (handle_close) if the handle is live. */
static bool change(struct handle_slot *slot, uint64_t handle, uint64_t add, uint64_t clear)
{
    uint64_t word = atomic_load_explicit(&slot->word, memory_order_relaxed);

    do {
        if (handle_generation(word) != handle_generation(handle) || !(word & HANDLE_LIVE))
            return false;
    } while (!atomic_compare_exchange_weak(&slot->word, &word, (word + add) & ~clear));
    return true;
}

void handle_wake_drainer(struct handle_table *table)
{
    pthread_mutex_lock(&table->lock);
    pthread_cond_broadcast(&table->drained);
    pthread_mutex_unlock(&table->lock);
}

static void end_use(struct handle_table *table, struct handle_slot *slot)
{
    if (!(atomic_load_explicit(&slot->word, memory_order_relaxed) & HANDLE_LIVE))
        handle_wake_drainer(table);
}

void *handle_get(struct handle_table *table, uint64_t handle)
{
    struct handle_slot *slot = handle_slot_of(table, handle);

    if (!slot)
        return NULL;
    if (!in_use_begin(slot))
        return change(slot, handle, 1, 0) ? slot->object : NULL;
    if (handle_is_live(slot, handle))
        return slot->object;
    if (in_use_end(slot))
        end_use(table, slot);
    return NULL;
}

void handle_put(struct handle_table *table, uint64_t handle)
{
    struct handle_slot *slot = handle_slot_of(table, handle);

    if (in_use_end(slot)) {
        end_use(table, slot);
        return;
    }
    uint64_t before = atomic_fetch_sub_explicit(&slot->word, 1, memory_order_release);
    if (!(before & HANDLE_LIVE) && (before & HANDLE_REFERENCES) == 1)
        handle_wake_drainer(table);
}

void *handle_close(struct handle_table *table, uint64_t handle)
{
    struct handle_slot *slot = handle_slot_of(table, handle);

    return slot && change(slot, handle, 0, HANDLE_LIVE) ? slot->object : NULL;
}

void handle_drain(struct handle_table *table, uint64_t handle)
{
    uint32_t index = handle_index(handle);
    struct handle_slot *slot = handle_slot_at(table, index);

    change_side_barrier(); /* after handle_close has cleared the live bit */
    pthread_mutex_lock(&table->lock);
    while ((atomic_load_explicit(&slot->word, memory_order_acquire) & HANDLE_REFERENCES) || in_use_anywhere(slot))
        cond_wait(&table->drained, &table->lock);
    uint32_t generation = handle_generation(handle) + 1;
    if (generation == 0 || generation == UINT32_MAX)
        generation = 1;
    slot->object = NULL;
    atomic_store_explicit(&slot->word, (uint64_t)generation << 32, memory_order_relaxed);
    slot->next_free = table->first_free;
    table->first_free = index + 1;
    pthread_mutex_unlock(&table->lock);
}
