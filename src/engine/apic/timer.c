/*
 * The timer thread: a binary heap of deadlines under one lock, and a condition the thread sleeps
 * on.
 *
 * `sleeping_until` is the deadline the thread waits for (partition TSC), AWAKE while it is not
 * waiting and FOREVER while it waits without limit. Whoever makes the earliest deadline earlier
 * than that wakes it, once; nobody else does.
 */
#include "engine/apic/timer.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "os/cancel.h"
#include "util/compiler.h"
#include "util/last_error.h"

#define AWAKE   UINT64_C(0)
#define FOREVER UINT64_MAX

struct timer_queue {
    const struct clock *clock;
    pthread_mutex_t lock;    /* everything below */
    pthread_cond_t wake;     /* for the thread */
    pthread_cond_t returned; /* a callback has returned, for timer_fini */
    struct timer **heap;     /* room for `capacity`, which is at least `timers` */
    uint32_t count, capacity, timers;
    struct timer *running; /* whose callback is under way */
    uint64_t sleeping_until;
    bool started, stopping;
    pthread_t thread;
    _Atomic uint64_t wakeups; /* written by the thread */
};

/* ---- the heap; all under the lock ---- */

static void place(struct timer_queue *queue, uint32_t index, struct timer *timer)
{
    queue->heap[index] = timer;
    timer->position = index + 1;
}

static void sift_up(struct timer_queue *queue, uint32_t index, struct timer *timer)
{
    while (index) {
        uint32_t parent = (index - 1) / 2;
        if (queue->heap[parent]->deadline <= timer->deadline)
            break;
        place(queue, index, queue->heap[parent]);
        index = parent;
    }
    place(queue, index, timer);
}

static void sift_down(struct timer_queue *queue, uint32_t index, struct timer *timer)
{
    for (;;) {
        uint32_t child = 2 * index + 1;
        if (child >= queue->count)
            break;
        if (child + 1 < queue->count &&
            queue->heap[child + 1]->deadline < queue->heap[child]->deadline)
            child++;
        if (timer->deadline <= queue->heap[child]->deadline)
            break;
        place(queue, index, queue->heap[child]);
        index = child;
    }
    place(queue, index, timer);
}

static void heap_remove(struct timer_queue *queue, struct timer *timer)
{
    uint32_t index = timer->position - 1;
    struct timer *last = queue->heap[--queue->count];
    timer->position = 0;
    if (last == timer)
        return;
    place(queue, index, last);
    sift_up(queue, index, last);
    sift_down(queue, last->position - 1, last);
}

/* ---- the thread ---- */

static void sleep_until_work(struct timer_queue *queue)
{
    if (!queue->count || clock_is_suspended(queue->clock)) {
        queue->sleeping_until = FOREVER;
        cond_wait(&queue->wake, &queue->lock);
    } else {
        struct timespec until = clock_deadline(queue->clock, queue->heap[0]->deadline);
        queue->sleeping_until = queue->heap[0]->deadline;
        pthread_cond_timedwait(&queue->wake, &queue->lock, &until);
    }
    queue->sleeping_until = AWAKE;
    uint64_t wakeups = atomic_load_explicit(&queue->wakeups, memory_order_relaxed);
    atomic_store_explicit(&queue->wakeups, wakeups + 1, memory_order_relaxed);
}

static struct timer *due(struct timer_queue *queue)
{
    if (!queue->count || clock_is_suspended(queue->clock) ||
        queue->heap[0]->deadline > clock_tsc(queue->clock))
        return NULL;
    return queue->heap[0];
}

static void fire(struct timer_queue *queue, struct timer *timer)
{
    heap_remove(queue, timer);
    queue->running = timer;
    pthread_mutex_unlock(&queue->lock);
    timer->function(timer->context);
    pthread_mutex_lock(&queue->lock);
    queue->running = NULL;
    pthread_cond_broadcast(&queue->returned);
}

static void *timer_thread(void *argument)
{
    struct timer_queue *queue = argument;
    pthread_setname_np(pthread_self(), "owhp-timer");
    prctl(PR_SET_TIMERSLACK, 1ul); /* wake up in time, not with others */
    pthread_mutex_lock(&queue->lock);
    while (!queue->stopping) {
        struct timer *timer = due(queue);
        if (timer)
            fire(queue, timer);
        else
            sleep_until_work(queue);
    }
    pthread_mutex_unlock(&queue->lock);
    return NULL;
}

/* Under the lock. Without a thread (the host has none left) timers stay armed, and every arming
 * tries again. */
static void start_thread(struct timer_queue *queue)
{
    sigset_t all, before;
    sigfillset(&all); /* the program's signals are not for this thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    queue->started = pthread_create(&queue->thread, NULL, timer_thread, queue) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* ---- queue ---- */

enum status timer_queue_create(const struct clock *clock, struct timer_queue **out)
{
    struct timer_queue *queue = calloc(1, sizeof(*queue));
    if (!queue)
        return fail(STATUS_NO_MEMORY, "no memory for the partition's timers");
    queue->clock = clock;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->wake, &monotonic);
    pthread_cond_init(&queue->returned, NULL);
    pthread_condattr_destroy(&monotonic);
    *out = queue;
    return STATUS_OK;
}

void timer_queue_destroy(struct timer_queue *queue)
{
    if (!queue)
        return;
    pthread_mutex_lock(&queue->lock);
    queue->stopping = true;
    pthread_cond_signal(&queue->wake);
    pthread_mutex_unlock(&queue->lock);
    if (queue->started)
        pthread_join(queue->thread, NULL);
    pthread_cond_destroy(&queue->returned);
    pthread_cond_destroy(&queue->wake);
    pthread_mutex_destroy(&queue->lock);
    free(queue->heap);
    free(queue);
}

void timer_queue_clock_changed(struct timer_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    if (queue->count)
        pthread_cond_signal(&queue->wake);
    pthread_mutex_unlock(&queue->lock);
}

uint64_t timer_queue_wakeups(const struct timer_queue *queue)
{
    return atomic_load_explicit(&queue->wakeups, memory_order_relaxed);
}

/* ---- timers ---- */

static bool reserve(struct timer_queue *queue)
{
    if (queue->timers < queue->capacity)
        return true;
    uint32_t capacity = queue->capacity ? 2 * queue->capacity : 8;
    struct timer **heap = realloc(queue->heap, capacity * sizeof(struct timer *));
    if (!heap)
        return false;
    queue->heap = heap;
    queue->capacity = capacity;
    return true;
}

enum status timer_init(struct timer *timer, struct timer_queue *queue, timer_function *function,
                       void *context)
{
    *timer = (struct timer){.queue = queue, .function = function, .context = context};
    pthread_mutex_lock(&queue->lock);
    bool has_room = reserve(queue);
    queue->timers += has_room;
    pthread_mutex_unlock(&queue->lock);
    return has_room ? STATUS_OK : fail(STATUS_NO_MEMORY, "no memory for another timer");
}

void timer_fini(struct timer *timer)
{
    struct timer_queue *queue = timer->queue;
    pthread_mutex_lock(&queue->lock);
    for (;;) { /* the callback under way may arm it once more */
        if (timer->position)
            heap_remove(queue, timer);
        if (queue->running != timer)
            break;
        cond_wait(&queue->returned, &queue->lock);
    }
    queue->timers--;
    pthread_mutex_unlock(&queue->lock);
}

void timer_arm(struct timer *timer, uint64_t deadline)
{
    struct timer_queue *queue = timer->queue;
    pthread_mutex_lock(&queue->lock);
    if (timer->position)
        heap_remove(queue, timer);
    timer->deadline = deadline;
    sift_up(queue, queue->count++, timer);
    if (unlikely(!queue->started))
        start_thread(queue);
    bool wake = queue->heap[0] == timer && deadline < queue->sleeping_until &&
                !clock_is_suspended(queue->clock);
    if (wake)
        queue->sleeping_until = AWAKE; /* one signal will do */
    pthread_mutex_unlock(&queue->lock);
    if (wake)
        pthread_cond_signal(&queue->wake);
}

void timer_cancel(struct timer *timer)
{
    struct timer_queue *queue = timer->queue;
    pthread_mutex_lock(&queue->lock);
    if (timer->position)
        heap_remove(queue, timer);
    pthread_mutex_unlock(&queue->lock);
}
