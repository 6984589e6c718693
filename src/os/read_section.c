/*
 * Read sections: registration of threads, and the changer's side.
 *
 * Why no reader is missed. A reader that the changer does not see in its walk over the words has not yet stored its word
 * when the changer's barrier ran on its processor; so its load of the version comes after the barrier and finds it odd. A
 * thread that registers is put on the list before it stores its word, by a sequentially consistent exchange: the changer, which
 * set the version before it read the list, either finds it there or is seen. Without other registered threads the barrier is
 * spared. The same holds at the end: a reader that leaves a gate either is seen to have left, or sees the gate closed and
 * wakes whoever waits.
 *
 * Words are never freed: a thread that ends gives its word back for the next one.
 */
#include "os/read_section.h"

#include "os/cancel.h"
#include "os/guarded.h"

#include <linux/membarrier.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

_Thread_local struct read_slot *read_slot_mine;
bool read_barrier_is_remote;

static _Atomic(struct read_slot *) slots;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool has_key;

/* ---- threads ---- */

static void thread_ends(void *slot_of_thread)
{
    struct read_slot *slot = slot_of_thread;

    read_slot_mine = NULL;
    atomic_store(&slot->used, false);
}

static void init(void)
{
    has_key = pthread_key_create(&key, thread_ends) == 0;
    read_barrier_is_remote = syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
}

static struct read_slot *reuse_slot(void)
{
    for (struct read_slot *slot = atomic_load(&slots); slot; slot = slot->next) {
        bool used = false;
        if (atomic_compare_exchange_strong(&slot->used, &used, true))
            return slot;
    }
    return NULL;
}

static struct read_slot *new_slot(void)
{
    /* On a cache line of its own. */
    struct read_slot *slot = aligned_alloc(64, sizeof(*slot));

    _Static_assert(offsetof(struct read_slot, room) == 64, "a word and its objects are a cache line");
    if (!slot)
        return NULL;
    memset(slot->room, 0, sizeof(slot->room));
    atomic_init(&slot->gate, NULL);
    atomic_init(&slot->used, true);
    slot->depth = 0;
    slot->plain_depth = read_barrier_is_remote ? IN_USE_OBJECTS : 0;
    for (unsigned i = 0; i < IN_USE_OBJECTS; i++)
        atomic_init(&slot->objects[i], NULL);
    slot->next = atomic_load(&slots);
    while (!atomic_compare_exchange_weak(&slots, &slot->next, slot))
        continue;
    return slot;
}

/* Without memory, or without a way to learn of the thread's end, it goes without a word. */
static struct read_slot *register_thread(void)
{
    struct read_slot *slot = has_key ? reuse_slot() : NULL;

    (void)guarded_init(); /* a thread's first call: it may touch memory that is missing */
    if (!slot && has_key)
        slot = new_slot();
    if (slot && pthread_setspecific(key, slot) != 0) {
        atomic_store(&slot->used, false);
        slot = NULL;
    }
    read_slot_mine = slot;
    return slot;
}

/* ---- readers ---- */

static bool is_closed(const struct read_gate *gate)
{
    return read_gate_is_closed(atomic_load(&gate->version));
}

static void signal_changed(struct read_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

static void announce(struct read_slot *slot, struct read_gate *gate)
{
    if (slot)
        atomic_store(&slot->gate, gate);
    else
        atomic_fetch_add(&gate->anonymous, 1);
}

static void withdraw(struct read_slot *slot, struct read_gate *gate)
{
    if (slot)
        atomic_store(&slot->gate, NULL);
    else
        atomic_fetch_sub(&gate->anonymous, 1);
}

void read_section_begin_slow(struct read_gate *gate)
{
    struct read_slot *slot = read_slot_mine ? read_slot_mine : register_thread();

    for (;;) {
        announce(slot, gate);
        if (!is_closed(gate))
            return;
        withdraw(slot, gate);
        atomic_fetch_add(&gate->waiting, 1);
        pthread_mutex_lock(&gate->lock);
        pthread_cond_broadcast(&gate->changed); /* the changer may have seen the word meanwhile */
        while (is_closed(gate))
            cond_wait(&gate->changed, &gate->lock);
        pthread_mutex_unlock(&gate->lock);
        atomic_fetch_sub(&gate->waiting, 1);
    }
}

void read_section_end_slow(struct read_gate *gate)
{
    if (!read_slot_mine)
        withdraw(NULL, gate);
    if (is_closed(gate))
        signal_changed(gate);
}

/* ---- the changer ---- */

void read_gate_init(struct read_gate *gate)
{
    pthread_once(&once, init);
    atomic_init(&gate->version, 0);
    atomic_init(&gate->anonymous, 0);
    atomic_init(&gate->waiting, 0);
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->changed, NULL);
}

void read_gate_fini(struct read_gate *gate)
{
    pthread_cond_destroy(&gate->changed);
    pthread_mutex_destroy(&gate->lock);
}

static bool has_other_threads(void)
{
    for (struct read_slot *slot = atomic_load(&slots); slot; slot = slot->next)
        if (slot != read_slot_mine && atomic_load(&slot->used))
            return true;
    return false;
}

static bool is_inside(const struct read_slot *slot, const struct read_gate *gate)
{
    return atomic_load(&slot->gate) == gate;
}

static void wait_for(const struct read_slot *slot, struct read_gate *gate)
{
    for (unsigned spin = 0; spin < 500 && is_inside(slot, gate); spin++)
        __builtin_ia32_pause();
    if (!is_inside(slot, gate))
        return;
    pthread_mutex_lock(&gate->lock);
    while (is_inside(slot, gate))
        cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

static void wait_for_anonymous(struct read_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    while (atomic_load(&gate->anonymous))
        cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

void change_side_barrier(void)
{
    if (read_barrier_is_remote && has_other_threads())
        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

void read_gate_close(struct read_gate *gate)
{
    atomic_fetch_add(&gate->version, 1);
    if (has_other_threads()) {
        change_side_barrier();
        for (struct read_slot *slot = atomic_load(&slots); slot; slot = slot->next)
            if (is_inside(slot, gate))
                wait_for(slot, gate);
    }
    if (unlikely(atomic_load(&gate->anonymous)))
        wait_for_anonymous(gate);
}

void read_gate_open(struct read_gate *gate)
{
    atomic_fetch_add(&gate->version, 1);
    if (unlikely(atomic_load(&gate->waiting)))
        signal_changed(gate);
}

/* ---- gates that stay gates ---- */

static pthread_mutex_t spare_lock = PTHREAD_MUTEX_INITIALIZER;
static struct read_gate *spare_gates; /* closed; under spare_lock */

static struct read_gate *take_spare(void)
{
    pthread_mutex_lock(&spare_lock);
    struct read_gate *gate = spare_gates;
    if (gate)
        spare_gates = gate->next;
    pthread_mutex_unlock(&spare_lock);
    return gate;
}

struct read_gate *read_gate_create(void)
{
    struct read_gate *gate = take_spare();

    if (gate) {
        read_gate_open(gate);
        return gate;
    }
    gate = aligned_alloc(64, (sizeof(*gate) + 63) & ~(size_t)63);
    if (gate)
        read_gate_init(gate);
    return gate;
}

void read_gate_destroy(struct read_gate *gate)
{
    if (!gate)
        return;
    read_gate_close(gate);
    pthread_mutex_lock(&spare_lock);
    gate->next = spare_gates;
    spare_gates = gate;
    pthread_mutex_unlock(&spare_lock);
}

/* ---- objects in use ---- */

bool in_use_begin_slow(const void *object)
{
    pthread_once(&once, init);
    struct read_slot *slot = read_slot_mine ? read_slot_mine : register_thread();

    if (!slot || slot->depth == IN_USE_OBJECTS)
        return false;
    atomic_exchange(&slot->objects[slot->depth++], object);
    return true;
}

/* In any order: the last entry fills the gap, and in_use_anywhere looks from the last to the first. */
bool in_use_end_slow(const void *object)
{
    struct read_slot *slot = read_slot_mine;

    for (unsigned i = slot ? slot->depth : 0; i-- > 0;) {
        if (atomic_load(&slot->objects[i]) != object)
            continue;
        unsigned last = --slot->depth;
        if (i != last)
            atomic_store(&slot->objects[i], atomic_load(&slot->objects[last]));
        atomic_exchange(&slot->objects[last], NULL);
        return true;
    }
    return false;
}

bool in_use_anywhere(const void *object)
{
    for (struct read_slot *slot = atomic_load(&slots); slot; slot = slot->next)
        for (unsigned i = IN_USE_OBJECTS; i-- > 0;)
            if (atomic_load(&slot->objects[i]) == object)
                return true;
    return false;
}
