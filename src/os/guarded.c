#include "os/guarded.h"

#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

/* One guarded instruction: both members are relative to their own address. */
struct guard_entry {
    int32_t instruction;
    int32_t fixup;
};

extern const struct guard_entry __start_owhp_guard[] __attribute__((visibility("hidden")));
extern const struct guard_entry __stop_owhp_guard[] __attribute__((visibility("hidden")));

static struct sigaction previous_segv, previous_bus;
static pthread_once_t once = PTHREAD_ONCE_INIT;
_Atomic bool guarded_installed;

static uintptr_t resolve(const int32_t *relative)
{
    return (uintptr_t)relative + (uintptr_t)(intptr_t)*relative;
}

static uintptr_t find_fixup(uintptr_t instruction)
{
    for (const struct guard_entry *e = __start_owhp_guard; e < __stop_owhp_guard; e++)
        if (resolve(&e->instruction) == instruction)
            return resolve(&e->fixup);
    return 0;
}

/* Not ours: behave as if our handler were not there. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    const struct sigaction *previous = number == SIGBUS ? &previous_bus : &previous_segv;

    if (previous->sa_flags & SA_SIGINFO) {
        previous->sa_sigaction(number, info, context);
    } else if (previous->sa_handler == SIG_DFL || previous->sa_handler == SIG_IGN) {
        /* Returning repeats the instruction, now with the default action. */
        struct sigaction action = {.sa_handler = SIG_DFL};
        sigaction(number, &action, NULL);
        if (info->si_code <= 0) /* sent by somebody: nothing would repeat it */
            raise(number);
    } else {
        previous->sa_handler(number);
    }
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    uintptr_t fixup = find_fixup((uintptr_t)uc->uc_mcontext.gregs[REG_RIP]);

    if (fixup)
        uc->uc_mcontext.gregs[REG_RIP] = (greg_t)fixup;
    else
        pass_on(number, info, context);
}

static void install(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

    sigemptyset(&action.sa_mask);
    atomic_store(&guarded_installed, sigaction(SIGSEGV, &action, &previous_segv) == 0 &&
                                          sigaction(SIGBUS, &action, &previous_bus) == 0);
}

bool guarded_init_slow(void)
{
    pthread_once(&once, install);
    return atomic_load(&guarded_installed);
}

size_t guarded_copy_partial(void *to, const void *from, size_t size)
{
    __asm__ volatile("1: rep movsb\n2:\n\t" GUARD_RESUME
                     : "+D"(to), "+S"(from), "+c"(size)
                     :
                     : "memory");
    return size;
}

size_t guarded_fill_partial(void *to, int byte, size_t size)
{
    __asm__ volatile("1: rep stosb\n2:\n\t" GUARD_RESUME : "+D"(to), "+c"(size) : "a"(byte) : "memory");
    return size;
}

bool guarded_cas128(void *at, uint64_t expected[2], const uint64_t desired[2], bool *done)
{
    uint64_t low = expected[0], high = expected[1];
    uint8_t equal;

    __asm__ volatile goto("1: lock cmpxchg16b %[at]\n\t sete %[equal]\n\t" GUARD_ENTRY
                          : "+a"(low), "+d"(high), [equal] "=r"(equal)
                          : [at] "m"(*(uint128_t *)at), "b"(desired[0]), "c"(desired[1])
                          : "memory", "cc"
                          : fault);
    expected[0] = low;
    expected[1] = high;
    *done = equal;
    return true;
fault:
    return false;
}
