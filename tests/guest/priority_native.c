#include "priority_native.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "util/compiler.h"

enum { ALIGNMENT_CHECK = 1 << 18, PAGE = 4096 };

static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};

static struct {
    uint8_t *code, *data;
    uint64_t behind; /* the instruction: where to go on */
    int vector;
    struct sigaction old[array_size(signals)];
} native;

/* The kernel leaves EFLAGS.AC as it is. */
static void take_signal(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;

    (void)number;
    (void)info;
    native.vector = (int)registers[REG_TRAPNO];
    registers[REG_RIP] = (greg_t)native.behind;
    registers[REG_EFL] &= ~(greg_t)ALIGNMENT_CHECK;
}

bool native_begin(void)
{
    const struct sigaction action = {.sa_sigaction = take_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};

    native.code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    native.data = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (native.code == MAP_FAILED || native.data == MAP_FAILED || mprotect(native.data + PAGE, PAGE, PROT_NONE) != 0)
        return false;
    for (unsigned i = 0; i < array_size(signals); i++)
        sigaction(signals[i], &action, &native.old[i]);
    return true;
}

void native_end(void)
{
    for (unsigned i = 0; i < array_size(signals); i++)
        sigaction(signals[i], &native.old[i], NULL);
    munmap(native.code, PAGE);
    munmap(native.data, 2 * PAGE);
}

uint8_t *native_memory(void)
{
    return native.data;
}

int native_vector(const struct native_question *question)
{
    const uint16_t unmasked = 0x37b; /* division by zero */
    const uint32_t usual = 0x1f80;
    uint64_t a = 1, d = 0, operand = question->operand;
    register uint8_t *code __asm__("r12") = native.code;

    memcpy(native.code, question->code, question->length);
    native.code[question->length] = 0xc3; /* RET */
    native.behind = (uint64_t)(uintptr_t)native.code + question->length;
    native.vector = -1;
    if (question->waiting)
        __asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp" : : "m"(unmasked));
    __asm__ volatile("xorps %%xmm0, %%xmm0; ldmxcsr %0" : : "m"(question->mxcsr) : "xmm0");
    /* Below the red zone; RBP is given back, AC taken away again. */
    __asm__ volatile(
        "sub $128, %%rsp; push %%rbp; mov %%rbx, %%rbp; pushfq; orl $0x40000, (%%rsp); popfq; call *%%r12; "
        "pushfq; andl $~0x40000, (%%rsp); popfq; pop %%rbp; add $128, %%rsp"
        : "+b"(operand), "+a"(a), "+d"(d)
        : "r"(code)
        : "rcx", "xmm0", "memory", "cc");
    __asm__ volatile("fninit; ldmxcsr %0" : : "m"(usual));
    return native.vector;
}
