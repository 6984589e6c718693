#include "os/kick.h"

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int kick_signal(void)
{
    return SIGSTKFLT; /* no kernel sends it; not queued, so it neither piles up nor gets lost when the user's queue is full */
}

static void on_kick(int number)
{
    (void)number;
}

/* An ignored signal is nobody's: what a process inherits, say. */
static bool is_free(const struct sigaction *action)
{
    return !(action->sa_flags & SA_SIGINFO) && (action->sa_handler == SIG_DFL || action->sa_handler == SIG_IGN);
}

static bool is_ours(const struct sigaction *action)
{
    return !(action->sa_flags & SA_SIGINFO) && action->sa_handler == on_kick;
}

bool kick_possible(void)
{
    struct sigaction now;

    return sigaction(kick_signal(), NULL, &now) == 0 && (is_free(&now) || is_ours(&now));
}

bool kick_init(void)
{
    struct sigaction action = {.sa_handler = on_kick, .sa_flags = SA_RESTART | SA_ONSTACK}, now;

    sigemptyset(&action.sa_mask);
    pthread_mutex_lock(&lock);
    bool done = sigaction(kick_signal(), NULL, &now) == 0 &&
                (is_ours(&now) || (is_free(&now) && sigaction(kick_signal(), &action, NULL) == 0));
    pthread_mutex_unlock(&lock);
    return done;
}

int kick_this_thread(void)
{
    static _Thread_local int self;
    sigset_t set;

    if (self)
        return self;
    sigemptyset(&set);
    sigaddset(&set, kick_signal());
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    self = (int)syscall(SYS_gettid);
    return self;
}

void kick_thread(int thread)
{
    syscall(SYS_tgkill, getpid(), thread, kick_signal());
}
