/*
 * Thread cancellation (pthread_cancel) and the library: a client's thread must not end in the middle of a call, with locks held
 * and a processor marked as running. So what waits, or makes system calls that are cancellation points while it holds something,
 * turns cancellation off for that long; it comes true in the client's own code. (Not every call does: it would cost each exit.)
 */
#ifndef OWHP_OS_CANCEL_H
#define OWHP_OS_CANCEL_H

#include <pthread.h>

static inline int cancel_off(void)
{
    int before = PTHREAD_CANCEL_ENABLE;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    return before;
}

static inline void cancel_restore(const int *before)
{
    pthread_setcancelstate(*before, NULL);
}

/* Until the end of the block. */
#define NO_CANCEL int cancel_before_ __attribute__((unused, cleanup(cancel_restore))) = cancel_off()

/* pthread_cond_wait, not a cancellation point. */
static inline void cond_wait(pthread_cond_t *condition, pthread_mutex_t *lock)
{
    NO_CANCEL;
    pthread_cond_wait(condition, lock);
}

static inline int cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *lock, const struct timespec *until)
{
    NO_CANCEL;
    return pthread_cond_timedwait(condition, lock, until);
}

#endif
