#include "os/kick.h"

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool is_ours;

static int kick_signal(void)
{
    return SIGSTKFLT; /* no kernel sends it; not queued, so it neither piles up nor gets lost when the user's queue is full */
}

static void on_kick(int number)
{
    (void)number;
}

static void install(void)
{
    struct sigaction action = {.sa_handler = on_kick, .sa_flags = SA_RESTART | SA_ONSTACK}, before;

    sigemptyset(&action.sa_mask);
    if (sigaction(kick_signal(), NULL, &before) || before.sa_handler != SIG_DFL)
        return;
    is_ours = sigaction(kick_signal(), &action, NULL) == 0;
}

bool kick_init(void)
{
    pthread_once(&once, install);
    return is_ours;
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
