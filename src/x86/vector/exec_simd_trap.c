/*
 * What exactly an unmasked SIMD exception leaves in MXCSR.
 *
 * When several flags are raised, which of them a processor has set by the time it takes the
 * exception follows from its arithmetic (an unmasked underflow reports precision against an
 * unbounded exponent, DPPD stops between its steps), so the host is let run into the exception,
 * with SIGFPE caught. That happens only when the masked run has shown that the guest will get #XM,
 * which is rare: the handler is installed for that moment only, under a lock, and the previous one
 * is back before anything else happens.
 */
#include "x86/vector/exec_simd_trap.h"

#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous; /* under lock, and by the handler while it is installed */

/* The thread that runs into an exception on purpose. */
static __thread struct {
    volatile bool armed;
    volatile bool trapped;
    volatile uint32_t mxcsr;
} trap;

/* Stubs do not move the stack pointer: a RET ends any of them, wherever it stopped. */
extern const char simd_trap_return[] __attribute__((visibility("hidden")));
__asm__(".pushsection .text\n"
        ".globl simd_trap_return\n"
        ".hidden simd_trap_return\n"
        "simd_trap_return: ret\n"
        ".popsection\n");

/* Somebody else's SIGFPE in that moment. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(number, info, context);
    } else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
        /* returning repeats the instruction, now with the default action */
        struct sigaction action = {.sa_handler = SIG_DFL};
        sigaction(number, &action, NULL);
    } else {
        previous.sa_handler(number);
    }
}

static void on_exception(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    if (!trap.armed) {
        pass_on(number, info, context);
        return;
    }
    trap.trapped = true;
    trap.mxcsr = uc->uc_mcontext.fpregs->mxcsr;
    uc->uc_mcontext.fpregs->mxcsr |= MXCSR_MASKS;
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)simd_trap_return;
}

/* The stub under `mxcsr` with its unmasked exceptions; it has SIGFPE for itself. */
static uint32_t run_into(uint32_t mxcsr, simd_stub *stub, void *first, void *second,
                         struct cpu *cpu)
{
    uint32_t host, after;
    __asm__ volatile("stmxcsr %0" : "=m"(host)::"memory");
    trap.trapped = false;
    trap.armed = true;
    __asm__ volatile("ldmxcsr %0" ::"m"(mxcsr) : "memory");
    stub(first, second, cpu);
    __asm__ volatile("stmxcsr %0\n\tldmxcsr %1\n\temms" : "=m"(after) : "m"(host) : "memory");
    trap.armed = false;
    return trap.trapped ? trap.mxcsr : after;
}

bool simd_trap_flags(uint32_t *mxcsr, simd_stub *stub, void *first, void *second, struct cpu *cpu)
{
    struct sigaction action = {.sa_sigaction = on_exception, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigset_t unblock, mask;
    bool trapped = false;

    sigemptyset(&action.sa_mask);
    sigemptyset(&unblock);
    sigaddset(&unblock, SIGFPE);
    pthread_mutex_lock(&lock);
    if (sigaction(SIGFPE, &action, &previous) == 0) {
        pthread_sigmask(SIG_UNBLOCK, &unblock, &mask); /* a blocked SIGFPE would end the process */
        *mxcsr = run_into(*mxcsr, stub, first, second, cpu);
        trapped = trap.trapped;
        sigaction(SIGFPE, &previous, NULL);
        pthread_sigmask(SIG_SETMASK, &mask, NULL);
    }
    pthread_mutex_unlock(&lock);
    return trapped;
}
