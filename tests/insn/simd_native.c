/* The host processor as oracle: a trampoline that loads all state, falls into the instruction, and
 * stores all state. */
#include "simd_native.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

/* Used by the assembly below; not static so that it finds them. */
extern struct native_state *native_current;
extern void *native_code;
extern uint64_t native_saved_rsp;
struct native_state *native_current;
void *native_code;
uint64_t native_saved_rsp;
bool native_has_avx;

void native_enter(void);
extern const char native_return[];

/* clang-format off */
__asm__(
    ".text\n"
    ".globl native_enter\n"
    "native_enter:\n"
    "    push %rbx\n    push %rbp\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
    "    mov %rsp, native_saved_rsp(%rip)\n"
    "    mov native_current(%rip), %rax\n"
    "    fxrstor64 144(%rax)\n"
    "    cmpb $0, native_has_avx(%rip)\n     je 1f\n"
    ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
    "    vinsertf128 $1, 656 + 16 * \\i(%rax), %ymm\\i, %ymm\\i\n"
    ".endr\n"
    "1:\n"
    "    pushq 128(%rax)\n"
    "    popfq\n"
    "    mov 8(%rax), %rcx\n     mov 16(%rax), %rdx\n    mov 24(%rax), %rbx\n    mov 40(%rax), %rbp\n"
    "    mov 48(%rax), %rsi\n    mov 56(%rax), %rdi\n    mov 64(%rax), %r8\n     mov 72(%rax), %r9\n"
    "    mov 80(%rax), %r10\n    mov 88(%rax), %r11\n    mov 96(%rax), %r12\n    mov 104(%rax), %r13\n"
    "    mov 112(%rax), %r14\n   mov 120(%rax), %r15\n"
    "    mov 0(%rax), %rax\n"
    "    jmp *native_code(%rip)\n"
    ".globl native_return\n"
    "native_return:\n"
    "    mov %rax, -8(%rsp)\n" /* below the stack pointer: nothing pushes before it is read again */
    "    mov native_current(%rip), %rax\n"
    "    mov %rcx, 8(%rax)\n     mov %rdx, 16(%rax)\n    mov %rbx, 24(%rax)\n    mov %rbp, 40(%rax)\n"
    "    mov %rsi, 48(%rax)\n    mov %rdi, 56(%rax)\n    mov %r8, 64(%rax)\n     mov %r9, 72(%rax)\n"
    "    mov %r10, 80(%rax)\n    mov %r11, 88(%rax)\n    mov %r12, 96(%rax)\n    mov %r13, 104(%rax)\n"
    "    mov %r14, 112(%rax)\n   mov %r15, 120(%rax)\n"
    "    mov -8(%rsp), %rcx\n    mov %rcx, 0(%rax)\n"
    "    pushfq\n"
    "    popq 128(%rax)\n"
    "    fxsave64 144(%rax)\n"
    "    cmpb $0, native_has_avx(%rip)\n     je 1f\n"
    ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
    "    vextractf128 $1, %ymm\\i, 656 + 16 * \\i(%rax)\n"
    ".endr\n"
    "    vzeroupper\n"
    "1:\n"
    "    mov native_saved_rsp(%rip), %rsp\n"
    "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbp\n    pop %rbx\n"
    "    ret\n");
/* clang-format on */

_Static_assert(offsetof(struct native_state, rflags) == 128, "known to the assembly");
_Static_assert(offsetof(struct native_state, fxsave) == 144, "known to the assembly");
_Static_assert(offsetof(struct native_state, upper) == 656, "known to the assembly");

static void on_fault(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    uint64_t rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    if (rip - (uint64_t)native_code >= 4096) {
        static const char text[] = "fault outside the tested instruction\n";
        fwrite(text, 1, sizeof(text) - 1, stderr);
        signal(number, SIG_DFL); /* happens again, and ends the test */
        return;
    }
    (void)info;
    native_current->fault = (int)uc->uc_mcontext.gregs[REG_TRAPNO];
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)native_return;
}

void native_init(void)
{
    static char stack[65536];
    stack_t alternative = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

    native_has_avx = __builtin_cpu_supports("avx");
    if (!native_code)
        native_code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (native_code == MAP_FAILED || sigaltstack(&alternative, NULL) != 0)
        abort();
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaction(signals[i], &action, NULL);
}

uint64_t native_address(void)
{
    return (uint64_t)native_code;
}

void native_run(struct native_state *state, const uint8_t *code, size_t size)
{
    uint8_t *to = native_code;
    uint64_t target = (uint64_t)(uintptr_t)native_return;
    uint16_t control;
    uint32_t mxcsr;

    memcpy(to, code, size);
    memcpy(to + size, "\xff\x25\x00\x00\x00\x00", 6); /* jmp [rip] */
    memcpy(to + size + 6, &target, 8);
    state->fault = NATIVE_NO_FAULT;
    native_current = state;
    __asm__ volatile("fnstcw %0\n\tstmxcsr %1" : "=m"(control), "=m"(mxcsr));
    native_enter();
    __asm__ volatile("fninit\n\tfldcw %0\n\tldmxcsr %1\n\tcld" ::"m"(control), "m"(mxcsr)
                     : "memory");
}
