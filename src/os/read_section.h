/*
 * A lock for what is read millions of times a second and changed a few thousand times: readers announce themselves in a
 * word of their own thread and touch nothing that others write, so they neither wait for nor slow down each other.
 *
 *      reader                            changer
 *      my word = gate                    version: odd, which is closed
 *      (compiler barrier)                barrier on all processors (membarrier)
 *      closed? then step back            wait until no thread's word is this gate
 *      ... read ...                      ... change ...
 *      my word = none                    version: the next even one
 *
 * The barrier between the reader's store and its load, which is what costs in other locks, is made by the changer for
 * everybody. Where the kernel does not offer that, readers make it themselves.
 *
 * Sections are short, do not nest (also not of different gates), and a thread in one must not close that gate. Changers of one
 * gate are serialized by their caller.
 *
 * What was learnt in a section is true as long as the gate's version is the same: a reader may keep it, and begin its next
 * section with the question whether that is so (read_section_resume). Gates made by read_gate_create may be asked that even after
 * their end: their memory is used for gates only.
 *
 * By the same words a thread says which objects it uses, for as long as it likes (in_use_begin): a reference count that the
 * users do not write to.
 */
#ifndef OWHP_OS_READ_SECTION_H
#define OWHP_OS_READ_SECTION_H

#include "util/compiler.h"
#include "util/types.h"

#include <pthread.h>
#include <stdatomic.h>

struct read_gate {
    _Atomic uint64_t version;   /* odd: closed */
    _Atomic uint32_t anonymous; /* readers in the section whose threads have no word */
    _Atomic uint32_t waiting;   /* readers before the closed gate */
    pthread_mutex_t lock;       /* of those who sleep */
    pthread_cond_t changed;     /* a reader left a closed gate; the gate was opened */
    struct read_gate *next;     /* of those that read_gate_destroy got */
};

enum {
    IN_USE_OBJECTS = 4,    /* at a time, by one thread */
    READ_SLOT_ROOM = 128,
};

/* A thread's word; private to the section functions. */
struct read_slot {
    _Atomic(struct read_gate *) gate; /* NULL: outside */
    _Atomic bool used;
    uint8_t depth;                           /* entries of `objects`; the thread's own */
    uint8_t plain_depth;                     /* how many of them need no barrier of the thread's: all, or none; fixed */
    struct read_slot *next;
    _Atomic(const void *) objects[IN_USE_OBJECTS];
    /* For what the thread learnt in its sections; zero at first, later perhaps what an earlier thread left. */
    _Alignas(64) unsigned char room[READ_SLOT_ROOM];
};

extern _Thread_local struct read_slot *read_slot_mine;
extern bool read_barrier_is_remote; /* fixed before the first section */

void read_gate_init(struct read_gate *gate);
void read_gate_fini(struct read_gate *gate);

/* A gate whose memory stays a gate's for ever; NULL: no memory. Its version never comes back: destroy leaves it closed, and
 * returns when nobody is in a section. */
struct read_gate *read_gate_create(void);
void read_gate_destroy(struct read_gate *gate);

static always_inline bool read_gate_is_closed(uint64_t version)
{
    return version & 1;
}

/* From close on nobody is in a section of the gate, and who comes waits, until open. */
void read_gate_close(struct read_gate *gate);
void read_gate_open(struct read_gate *gate);

/* The slow parts of what follows. */
void read_section_begin_slow(struct read_gate *gate);
void read_section_end_slow(struct read_gate *gate);

static always_inline void read_section_begin(struct read_gate *gate)
{
    struct read_slot *slot = read_slot_mine;

    if (unlikely(!slot)) {
        read_section_begin_slow(gate);
        return;
    }
    atomic_store_explicit(&slot->gate, gate, memory_order_relaxed);
    if (likely(read_barrier_is_remote))
        atomic_signal_fence(memory_order_seq_cst);
    else
        atomic_exchange(&slot->gate, gate);
    if (unlikely(read_gate_is_closed(atomic_load_explicit(&gate->version, memory_order_acquire))))
        read_section_begin_slow(gate);
}

static always_inline void read_section_end(struct read_gate *gate)
{
    struct read_slot *slot = read_slot_mine;

    if (unlikely(!slot)) {
        read_section_end_slow(gate);
        return;
    }
    atomic_store_explicit(&slot->gate, NULL, memory_order_release);
    if (likely(read_barrier_is_remote))
        atomic_signal_fence(memory_order_seq_cst);
    else
        atomic_exchange(&slot->gate, NULL);
    if (unlikely(read_gate_is_closed(atomic_load_explicit(&gate->version, memory_order_relaxed))))
        read_section_end_slow(gate);
}

/* The thread's own word; NULL: it has none (yet), and cannot resume. */
static always_inline struct read_slot *read_slot_of_thread(void)
{
    return likely(read_barrier_is_remote) ? read_slot_mine : NULL;
}

/* The version that a section of the gate which has begun belongs to; odd: a changer waits, and it will not last. */
static always_inline uint64_t read_section_version(const struct read_gate *gate)
{
    return atomic_load_explicit(&gate->version, memory_order_relaxed);
}

static always_inline void read_section_leave(struct read_slot *slot, struct read_gate *gate)
{
    atomic_store_explicit(&slot->gate, NULL, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    if (unlikely(read_gate_is_closed(atomic_load_explicit(&gate->version, memory_order_relaxed))))
        read_section_end_slow(gate);
}

/* With the thread's slot: begin a section if the gate, made by read_gate_create, still has this even version; it ends with
 * read_section_leave. False: nothing has begun. */
must_check static always_inline bool read_section_resume(struct read_slot *slot, struct read_gate *gate, uint64_t version)
{
    atomic_store_explicit(&slot->gate, gate, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    if (likely(atomic_load_explicit(&gate->version, memory_order_acquire) == version))
        return true;
    read_section_leave(slot, gate);
    return false;
}

/*
 * The thread uses the object from here on: true; false: it has to count itself in some other way. What the caller loads after
 * this is as current as what in_use_anywhere's caller stored before.
 */
must_check bool in_use_begin_slow(const void *object);
must_check static always_inline bool in_use_begin_fast(const void *object) /* false: ask in_use_begin */
{
    struct read_slot *slot = read_slot_mine;

    if (unlikely(!slot || slot->depth >= slot->plain_depth))
        return false;
    atomic_store_explicit(&slot->objects[slot->depth++], object, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    return true;
}
must_check static always_inline bool in_use_begin(const void *object)
{
    return likely(in_use_begin_fast(object)) || in_use_begin_slow(object);
}

/* No longer; false: the thread had counted itself in. What was loaded and stored before, is over. */
must_check bool in_use_end_slow(const void *object);
must_check static always_inline bool in_use_end_fast(const void *object) /* false: ask in_use_end */
{
    struct read_slot *slot = read_slot_mine;

    if (unlikely(!slot))
        return false;
    const unsigned last = slot->depth - 1u;
    if (unlikely(last >= slot->plain_depth ||
                 atomic_load_explicit(&slot->objects[last], memory_order_relaxed) != object))
        return false;
    slot->depth = (uint8_t)last;
    atomic_store_explicit(&slot->objects[last], NULL, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    return true;
}
must_check static always_inline bool in_use_end(const void *object)
{
    return likely(in_use_end_fast(object)) || in_use_end_slow(object);
}

/* For whoever has seen to it that no use begins anew, and made the barrier below: ask as often as is needed. A thread that
 * ends its use after that finds what the caller has stored. */
must_check bool in_use_anywhere(const void *object);

/*
 * The barrier by itself, for others who need to see each other: the side that is passed often stores, calls read_side_barrier
 * and loads; the side that changes stores by an atomic read-modify-write, calls change_side_barrier and loads.
 */
static always_inline void read_side_barrier(void)
{
    if (likely(read_slot_mine && read_barrier_is_remote))
        atomic_signal_fence(memory_order_seq_cst);
    else
        atomic_thread_fence(memory_order_seq_cst);
}
void change_side_barrier(void);

#endif
