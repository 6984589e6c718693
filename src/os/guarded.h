/*
 * Guarded access: touching memory that may vanish.
 *
 * Guest memory is host memory that its owner may unmap or protect at any moment. Every access to it
 * goes through the functions of this file. Each is one host instruction with an entry in the section
 * `owhp_guard`, a table of (instruction, where to go instead). When the instruction raises SIGSEGV
 * or SIGBUS, the handler installed by guarded_init() finds the entry and continues at the second
 * address; the function then returns false and nothing was transferred. A fault anywhere else goes to
 * the handler that was there before. No setjmp, no cost on the good path.
 *
 * Being assembly, the accesses have x86 memory ordering (what the guest expects) and are invisible to
 * the sanitizers (a guest's data races are the guest's business).
 */
#ifndef OWHP_OS_GUARDED_H
#define OWHP_OS_GUARDED_H

#include <stdatomic.h>

#include "util/compiler.h"
#include "util/types.h"

/* Install the handler, and see to it that its signals reach this thread: the kernel ends a process that faults with the signal
 * blocked, and programs block all signals in threads of theirs. Idempotent, thread safe. Returns false when the kernel refuses.
 */
bool guarded_init_slow(void);
extern _Thread_local bool guarded_here;
static always_inline bool guarded_init(void)
{
    return likely(guarded_here) || guarded_init_slow();
}

/* The table entry for the instruction at local label 1, continuing at C label `fault`. */
#define GUARD_ENTRY                                                                                \
    ".pushsection owhp_guard,\"a\",@progbits\n\t.balign 4\n\t.long 1b - .\n\t.long %l[fault] - .\n\t" \
    ".popsection\n\t"

/* The same for an instruction whose registers tell how far it came: continue right behind it, at label 2. */
#define GUARD_RESUME                                                                               \
    ".pushsection owhp_guard,\"a\",@progbits\n\t.balign 4\n\t.long 1b - .\n\t.long 2b - .\n\t"      \
    ".popsection\n\t"

#define GUARDED_LOAD(bits, suffix, constraint)                                                     \
    must_check static always_inline bool guarded_load##bits(const void *from, uint##bits##_t *value) \
    {                                                                                              \
        uint##bits##_t loaded;                                                                     \
        __asm__ volatile goto("1: mov" suffix " %[from], %[value]\n\t" GUARD_ENTRY                 \
                              : [value] constraint(loaded)                                         \
                              : [from] "m"(*(const uint##bits##_t *)from)                          \
                              : "memory"                                                           \
                              : fault);                                                            \
        *value = loaded;                                                                           \
        return true;                                                                               \
    fault:                                                                                         \
        return false;                                                                              \
    }

#define GUARDED_STORE(bits, suffix, constraint)                                                    \
    must_check static always_inline bool guarded_store##bits(void *to, uint##bits##_t value)       \
    {                                                                                              \
        __asm__ volatile goto("1: mov" suffix " %[value], %[to]\n\t" GUARD_ENTRY                   \
                              :                                                                    \
                              : [to] "m"(*(uint##bits##_t *)to), [value] constraint(value)         \
                              : "memory"                                                           \
                              : fault);                                                            \
        return true;                                                                               \
    fault:                                                                                         \
        return false;                                                                              \
    }

/* clang-format off */
GUARDED_LOAD(8, "b", "=q") GUARDED_LOAD(16, "w", "=r") GUARDED_LOAD(32, "l", "=r") GUARDED_LOAD(64, "q", "=r")
GUARDED_STORE(8, "b", "q") GUARDED_STORE(16, "w", "r") GUARDED_STORE(32, "l", "r") GUARDED_STORE(64, "q", "er")
/* clang-format on */

/* Compare-exchange, locked. *expected is updated with what was found; *done tells whether it was stored. */
#define GUARDED_CAS(bits, suffix, constraint)                                                      \
    must_check static always_inline bool guarded_cas##bits(                                        \
        void *at, uint##bits##_t *expected, uint##bits##_t desired, bool *done)                    \
    {                                                                                              \
        uint##bits##_t found = *expected;                                                          \
        uint8_t equal;                                                                             \
        __asm__ volatile goto("1: lock cmpxchg" suffix " %[desired], %[at]\n\t sete %[equal]\n\t" GUARD_ENTRY \
                              : "+a"(found), [equal] "=q"(equal)                                   \
                              : [at] "m"(*(uint##bits##_t *)at), [desired] constraint(desired)     \
                              : "memory", "cc"                                                     \
                              : fault);                                                            \
        *expected = found;                                                                         \
        *done = equal;                                                                             \
        return true;                                                                               \
    fault:                                                                                         \
        return false;                                                                              \
    }

/* clang-format off */
GUARDED_CAS(8, "b", "q") GUARDED_CAS(16, "w", "r") GUARDED_CAS(32, "l", "r") GUARDED_CAS(64, "q", "r")
/* clang-format on */

/* 16 bytes at any address, by one vector instruction. */
must_check static always_inline bool guarded_load128(const void *from, void *to)
{
    __asm__ volatile goto("1: movups %[from], %%xmm0\n\t movups %%xmm0, %[to]\n\t" GUARD_ENTRY
                          :
                          : [from] "m"(*(const uint128_t *)from), [to] "m"(*(uint128_t *)to)
                          : "memory", "xmm0"
                          : fault);
    return true;
fault:
    return false;
}

must_check static always_inline bool guarded_store128(void *to, const void *from)
{
    __asm__ volatile goto("movups %[from], %%xmm0\n\t1: movups %%xmm0, %[to]\n\t" GUARD_ENTRY
                          :
                          : [from] "m"(*(const uint128_t *)from), [to] "m"(*(uint128_t *)to)
                          : "memory", "xmm0"
                          : fault);
    return true;
fault:
    return false;
}

/* The same for the instruction at local label n. */
#define GUARD_ENTRY_AT(n)                                                                          \
    ".pushsection owhp_guard,\"a\",@progbits\n\t.balign 4\n\t.long " #n "b - .\n\t.long %l[fault] - .\n\t" \
    ".popsection\n\t"

/* 64 bytes at any addresses, which do not overlap. False: some of them may have been copied. */
must_check static always_inline bool guarded_copy512(void *to, const void *from)
{
    __asm__ volatile goto("1: movups (%[from]), %%xmm0\n\t" GUARD_ENTRY_AT(1)
                          "2: movups 16(%[from]), %%xmm1\n\t" GUARD_ENTRY_AT(2)
                          "3: movups 32(%[from]), %%xmm2\n\t" GUARD_ENTRY_AT(3)
                          "4: movups 48(%[from]), %%xmm3\n\t" GUARD_ENTRY_AT(4)
                          "5: movups %%xmm0, (%[to])\n\t" GUARD_ENTRY_AT(5)
                          "6: movups %%xmm1, 16(%[to])\n\t" GUARD_ENTRY_AT(6)
                          "7: movups %%xmm2, 32(%[to])\n\t" GUARD_ENTRY_AT(7)
                          "8: movups %%xmm3, 48(%[to])\n\t" GUARD_ENTRY_AT(8)
                          :
                          : [from] "r"(from), [to] "r"(to)
                          : "memory", "xmm0", "xmm1", "xmm2", "xmm3"
                          : fault);
    return true;
fault:
    return false;
}

/*
 * Copy or fill any number of bytes, one by one in ascending order (so a copy onto higher overlapping addresses repeats
 * what it copied, as MOVS does). On a fault they return the number of bytes that were not transferred (the rest was), 0 when
 * all went well.
 */
must_check size_t guarded_copy_partial(void *to, const void *from, size_t size);
must_check size_t guarded_fill_partial(void *to, int byte, size_t size);

must_check static inline bool guarded_copy(void *to, const void *from, size_t size)
{
    return guarded_copy_partial(to, from, size) == 0;
}

/* 16-byte compare-exchange (CMPXCHG16B); `at` is 16-byte aligned. */
must_check bool guarded_cas128(void *at, uint64_t expected[2], const uint64_t desired[2], bool *done);

#endif
