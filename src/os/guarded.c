#include "os/guarded.h"

#include <stdatomic.h>

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
static _Atomic bool guarded_installed;
_Thread_local bool guarded_here;

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
    } else if (previous->sa_handler == SIG_IGN && info->si_code <= 0) {
        /* Sent by somebody, and ignored. (The kernel does not let a fault be ignored.) */
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
    sigset_t ours;

    pthread_once(&once, install);
    if (!atomic_load(&guarded_installed))
        return false;
    sigemptyset(&ours);
    sigaddset(&ours, SIGSEGV);
    sigaddset(&ours, SIGBUS);
    guarded_here = pthread_sigmask(SIG_UNBLOCK, &ours, NULL) == 0;
    return guarded_here;
}

/* ---- copies ---- */

/* The entry for the instruction at label n: continue at label 90, where the rest is copied byte by byte. */
#define BLOCK_ENTRY(n)                                                                             \
    ".pushsection owhp_guard,\"a\",@progbits\n\t.balign 4\n\t.long " #n "b - .\n\t.long 90f - .\n\t" \
    ".popsection\n\t"

/* Blocks of four vectors, loads before stores; a block that faults is repeated by the bytes up to the fault. At least one
 * block. `last` is what the vectors leave behind. */
#define COPY_BLOCKS(move, v, bytes, last)                                                          \
    __asm__ volatile(".balign 16\n0:\n\t"                                                          \
                     "1: " move " (%%rsi), %%" v "0\n\t" BLOCK_ENTRY(1)                            \
                     "2: " move " " #bytes "(%%rsi), %%" v "1\n\t" BLOCK_ENTRY(2)                  \
                     "3: " move " 2*" #bytes "(%%rsi), %%" v "2\n\t" BLOCK_ENTRY(3)                \
                     "4: " move " 3*" #bytes "(%%rsi), %%" v "3\n\t" BLOCK_ENTRY(4)                \
                     "5: " move " %%" v "0, (%%rdi)\n\t" BLOCK_ENTRY(5)                            \
                     "6: " move " %%" v "1, " #bytes "(%%rdi)\n\t" BLOCK_ENTRY(6)                  \
                     "7: " move " %%" v "2, 2*" #bytes "(%%rdi)\n\t" BLOCK_ENTRY(7)                \
                     "8: " move " %%" v "3, 3*" #bytes "(%%rdi)\n\t" BLOCK_ENTRY(8)                \
                     "add $4*" #bytes ", %%rsi\n\tadd $4*" #bytes ", %%rdi\n\t"                     \
                     "sub $4*" #bytes ", %%rcx\n\tcmp $4*" #bytes ", %%rcx\n\tjae 0b\n\t"          \
                     "90: " last "\n\ttest %%rcx, %%rcx\n\tjz 2f\n\t"                             \
                     "1: rep movsb\n2:\n\t" GUARD_RESUME                                          \
                     : "+D"(to), "+S"(from), "+c"(size)                                            \
                     :                                                                             \
                     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3")

/* Blocks of 4 * 64 bytes for the widest vectors, half of that for the others; above MOST the processor's own way is as good. */
enum { BLOCK = 128, WIDE_BLOCK = 256, MOST_BY_BLOCKS = 64 << 10 };

enum vectors { NOT_ASKED, VECTORS_128, VECTORS_256, VECTORS_512 };

static enum vectors widest_vectors(void)
{
    static _Atomic int known;
    int value = atomic_load_explicit(&known, memory_order_relaxed);

    if (unlikely(value == NOT_ASKED)) {
        value = __builtin_cpu_supports("avx512f") ? VECTORS_512 : __builtin_cpu_supports("avx") ? VECTORS_256 : VECTORS_128;
        atomic_store_explicit(&known, value, memory_order_relaxed);
    }
    return (enum vectors)value;
}

/* False: not done, for one reason or another. */
static bool copy_word(void *to, const void *from, size_t size)
{
    uint8_t byte;
    uint16_t half;
    uint32_t word;
    uint64_t quad;

    switch (size) {
    case 1: return guarded_load8(from, &byte) && guarded_store8(to, byte);
    case 2: return guarded_load16(from, &half) && guarded_store16(to, half);
    case 4: return guarded_load32(from, &word) && guarded_store32(to, word);
    case 8: return guarded_load64(from, &quad) && guarded_store64(to, quad);
    }
    return false;
}

size_t guarded_copy_partial(void *to, const void *from, size_t size)
{
    bool overlaps_upwards = (uintptr_t)to - (uintptr_t)from < size; /* then bytes copied are copied again */

    if (size <= 8 && !overlaps_upwards && copy_word(to, from, size))
        return 0;
    if (size < BLOCK || size > MOST_BY_BLOCKS || overlaps_upwards)
        __asm__ volatile("1: rep movsb\n2:\n\t" GUARD_RESUME
                         : "+D"(to), "+S"(from), "+c"(size)
                         :
                         : "memory");
    else if (size >= WIDE_BLOCK && widest_vectors() == VECTORS_512)
        COPY_BLOCKS("vmovdqu64", "zmm2", 64, ""); /* zmm20 to 23, which no code of ours has and which leave nothing behind */
    else if (widest_vectors() >= VECTORS_256)
        COPY_BLOCKS("vmovdqu", "ymm", 32, "vzeroupper");
    else
        COPY_BLOCKS("movdqu", "xmm", 16, "");
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
