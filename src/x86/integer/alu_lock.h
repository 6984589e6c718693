/*
 * Locked read-modify-write on host memory that may vanish (os/guarded.h): one host instruction with LOCK,
 * its flags as in x86/integer/alu.h. All return false when the memory was not there; nothing has happened then.
 * `at` is naturally aligned: a split lock is the caller's business.
 */
#ifndef OWHP_X86_ALU_LOCK_H
#define OWHP_X86_ALU_LOCK_H

#include "os/guarded.h"
#include "x86/integer/alu.h"

#define ALU_LOCK_BINARY(name, bits, suffix)                                                        \
    must_check static always_inline bool alu_lock_##name##bits(void *at, uint##bits##_t b,         \
                                                               uint32_t *aflags)                   \
    {                                                                                              \
        uint16_t flags;                                                                            \
        __asm__ volatile goto("1: lock " #name suffix " %[b], %[at]\n\t" ALU_CAPTURE "\n\t" GUARD_ENTRY \
                              : "=&a"(flags)                                                       \
                              : [at] "m"(*(uint##bits##_t *)at), [b] "r"(b)                        \
                              : "memory", "cc"                                                     \
                              : fault);                                                            \
        *aflags = flags;                                                                           \
        return true;                                                                               \
    fault:                                                                                         \
        return false;                                                                              \
    }

#define ALU_LOCK_BINARY_CARRY(name, bits, suffix)                                                  \
    must_check static always_inline bool alu_lock_##name##bits(void *at, uint##bits##_t b,         \
                                                               uint32_t *aflags)                   \
    {                                                                                              \
        uint16_t flags;                                                                            \
        __asm__ volatile goto(ALU_RESTORE_CF "1: lock " #name suffix                               \
                                             " %[b], %[at]\n\t" ALU_CAPTURE "\n\t" GUARD_ENTRY     \
                              : "=&a"(flags)                                                       \
                              : [at] "m"(*(uint##bits##_t *)at), [b] "r"(b), [in] "r"(*aflags)     \
                              : "memory", "cc"                                                     \
                              : fault);                                                            \
        *aflags = flags;                                                                           \
        return true;                                                                               \
    fault:                                                                                         \
        return false;                                                                              \
    }

#define ALU_LOCK_UNARY(name, bits, suffix)                                                         \
    must_check static always_inline bool alu_lock_##name##bits(void *at, uint32_t *aflags)         \
    {                                                                                              \
        uint16_t flags;                                                                            \
        __asm__ volatile goto(ALU_RESTORE_CF "1: lock " #name suffix                               \
                                             " %[at]\n\t" ALU_CAPTURE "\n\t" GUARD_ENTRY           \
                              : "=&a"(flags)                                                       \
                              : [at] "m"(*(uint##bits##_t *)at), [in] "r"(*aflags)                 \
                              : "memory", "cc"                                                     \
                              : fault);                                                            \
        *aflags = flags;                                                                           \
        return true;                                                                               \
    fault:                                                                                         \
        return false;                                                                              \
    }

#define ALU_LOCK_NOT(name, bits, suffix)                                                           \
    must_check static always_inline bool alu_lock_##name##bits(void *at)                           \
    {                                                                                              \
        __asm__ volatile goto("1: lock " #name suffix " %[at]\n\t" GUARD_ENTRY                     \
                              :                                                                    \
                              : [at] "m"(*(uint##bits##_t *)at)                                    \
                              : "memory"                                                           \
                              : fault);                                                            \
        return true;                                                                               \
    fault:                                                                                         \
        return false;                                                                              \
    }

/* XADD: *value is added; it becomes what was in memory. */
#define ALU_LOCK_XADD(name, bits, suffix)                                                          \
    must_check static always_inline bool alu_lock_xadd##bits(void *at, uint##bits##_t *value,      \
                                                             uint32_t *aflags)                     \
    {                                                                                              \
        uint##bits##_t v = *value;                                                                 \
        uint16_t flags;                                                                            \
        __asm__ volatile goto("1: lock xadd" suffix " %[v], %[at]\n\t" ALU_CAPTURE "\n\t" GUARD_ENTRY \
                              : [v] "+&r"(v), "=&a"(flags)                                         \
                              : [at] "m"(*(uint##bits##_t *)at)                                    \
                              : "memory", "cc"                                                     \
                              : fault);                                                            \
        *value = v;                                                                                \
        *aflags = flags;                                                                           \
        return true;                                                                               \
    fault:                                                                                         \
        return false;                                                                              \
    }

/* XCHG, locked with or without the prefix. */
#define ALU_LOCK_XCHG(name, bits, suffix)                                                          \
    must_check static always_inline bool alu_lock_xchg##bits(void *at, uint##bits##_t *value)      \
    {                                                                                              \
        uint##bits##_t v = *value;                                                                 \
        __asm__ volatile goto("1: xchg" suffix " %[v], %[at]\n\t" GUARD_ENTRY                      \
                              : [v] "+&r"(v)                                                       \
                              : [at] "m"(*(uint##bits##_t *)at)                                    \
                              : "memory"                                                           \
                              : fault);                                                            \
        *value = v;                                                                                \
        return true;                                                                               \
    fault:                                                                                         \
        return false;                                                                              \
    }

/* BTS BTR BTC: `index` counts within the operand (it is masked here, too). */
#define ALU_LOCK_BIT(name, bits, suffix)                                                           \
    must_check static always_inline bool alu_lock_##name##bits(void *at, unsigned index,           \
                                                               uint32_t *aflags)                   \
    {                                                                                              \
        uint16_t flags = (uint16_t)*aflags;                                                        \
        const uint##bits##_t masked = (uint##bits##_t)(index & (bits - 1));                        \
        __asm__ volatile goto(ALU_RESTORE "1: lock " #name suffix                                  \
                                          " %[index], %[at]\n\t" ALU_CAPTURE "\n\t" GUARD_ENTRY    \
                              : "+&a"(flags)                                                       \
                              : [at] "m"(*(uint##bits##_t *)at), [index] "r"(masked)               \
                              : "memory", "cc"                                                     \
                              : fault);                                                            \
        *aflags = flags;                                                                           \
        return true;                                                                               \
    fault:                                                                                         \
        return false;                                                                              \
    }

/* clang-format off */
ALU_ALL_SIZES(ALU_LOCK_BINARY, add)
ALU_ALL_SIZES(ALU_LOCK_BINARY, or)
ALU_ALL_SIZES(ALU_LOCK_BINARY_CARRY, adc)
ALU_ALL_SIZES(ALU_LOCK_BINARY_CARRY, sbb)
ALU_ALL_SIZES(ALU_LOCK_BINARY, and)
ALU_ALL_SIZES(ALU_LOCK_BINARY, sub)
ALU_ALL_SIZES(ALU_LOCK_BINARY, xor)
ALU_ALL_SIZES(ALU_LOCK_UNARY, inc)
ALU_ALL_SIZES(ALU_LOCK_UNARY, dec)
ALU_ALL_SIZES(ALU_LOCK_UNARY, neg)
ALU_ALL_SIZES(ALU_LOCK_NOT, not)
ALU_ALL_SIZES(ALU_LOCK_XADD, xadd)
ALU_ALL_SIZES(ALU_LOCK_XCHG, xchg)
ALU_WORD_SIZES(ALU_LOCK_BIT, bts)
ALU_WORD_SIZES(ALU_LOCK_BIT, btr)
ALU_WORD_SIZES(ALU_LOCK_BIT, btc)
/* clang-format on */

#endif
