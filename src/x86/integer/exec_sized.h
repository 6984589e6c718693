/*
 * What the exec_ files of the integer instructions share: kernels chosen by operand size, and the
 * read-modify-write of operand 0 that ends in new flags.
 */
#ifndef OWHP_X86_EXEC_SIZED_H
#define OWHP_X86_EXEC_SIZED_H

#include "x86/exec.h"
#include "x86/integer/alu.h"
#include "x86/system/cpuid.h"

/* a: destination's old value, b: source. *aflags: before in, after out. */
typedef uint64_t sized_kernel(uint64_t a, uint64_t b, unsigned size, uint32_t *aflags);

/* Define name_sized() from the four (or three, or two) kernels prefix##name##bits. */
#define SIZED_KERNEL(name, function)                                                               \
    static uint64_t name##_sized(uint64_t a, uint64_t b, unsigned size, uint32_t *aflags)          \
    {                                                                                              \
        switch (size) {                                                                            \
        case 1: return function##8((uint8_t)a, (uint8_t)b, aflags);                                \
        case 2: return function##16((uint16_t)a, (uint16_t)b, aflags);                             \
        case 4: return function##32((uint32_t)a, (uint32_t)b, aflags);                             \
        default: return function##64(a, b, aflags);                                                \
        }                                                                                          \
    }
#define SIZED_KERNEL_WORDS(name, function)                                                         \
    static uint64_t name##_sized(uint64_t a, uint64_t b, unsigned size, uint32_t *aflags)          \
    {                                                                                              \
        switch (size) {                                                                            \
        case 2: return function##16((uint16_t)a, (uint16_t)b, aflags);                             \
        case 4: return function##32((uint32_t)a, (uint32_t)b, aflags);                             \
        default: return function##64(a, b, aflags);                                                \
        }                                                                                          \
    }
/* Kernels of one value; b is not used. */
#define SIZED_KERNEL_UNARY(name, function)                                                         \
    static uint64_t name##_sized(uint64_t a, uint64_t b, unsigned size, uint32_t *aflags)          \
    {                                                                                              \
        (void)b;                                                                                   \
        switch (size) {                                                                            \
        case 1: return function##8((uint8_t)a, aflags);                                            \
        case 2: return function##16((uint16_t)a, aflags);                                          \
        case 4: return function##32((uint32_t)a, aflags);                                          \
        default: return function##64(a, aflags);                                                   \
        }                                                                                          \
    }

#define SIZED_KERNEL_UNARY_WORDS(name, function)                                                   \
    static uint64_t name##_sized(uint64_t a, uint64_t b, unsigned size, uint32_t *aflags)          \
    {                                                                                              \
        (void)b;                                                                                   \
        switch (size) {                                                                            \
        case 2: return function##16((uint16_t)a, aflags);                                          \
        case 4: return function##32((uint32_t)a, aflags);                                          \
        default: return function##64(a, aflags);                                                   \
        }                                                                                          \
    }

/* Context of an operand_modify(); `before` stays so that the computation may be repeated. */
struct sized_work {
    sized_kernel *kernel;
    uint64_t b;
    uint64_t old;
    unsigned size;
    uint32_t before, after;
};

uint64_t sized_compute(uint64_t old, void *context);

/* operand 0 = kernel(operand 0, b), flags after. */
enum exec_result sized_modify(struct cpu *cpu, const struct insn *insn, sized_kernel *kernel, uint64_t b);
/* The same with b = operand 1. */
enum exec_result sized_binary(struct cpu *cpu, const struct insn *insn, sized_kernel *kernel);
/* operand 0 = kernel(operand 1, b), flags after: operand 0 is only written. */
enum exec_result sized_assign(struct cpu *cpu, const struct insn *insn, sized_kernel *kernel, uint64_t b);

/* The instruction belongs to a feature that may have been taken away: false with #UD. */
must_check static inline bool require(struct cpu *cpu, enum cpu_feature feature)
{
    return likely(cpuid_has(&cpu->cpuid, feature)) || raise_ud(cpu);
}

/* The same for VEX-encoded instructions, which real and virtual-8086 mode do not have (SDM 2A 2.3.2). */
must_check static inline bool require_vex(struct cpu *cpu, enum cpu_feature feature)
{
    return likely(cpu->mode & MODE_PROTECTED) ? require(cpu, feature) : raise_ud(cpu);
}

static inline bool operand_is_memory(const struct insn *insn, unsigned i)
{
    return insn->operand[i].kind == OPERAND_MEMORY;
}

static inline uint64_t size_mask(unsigned size)
{
    return size >= 8 ? ~(uint64_t)0 : (1ull << (size * 8)) - 1;
}

static inline uint64_t sign_extend(uint64_t value, unsigned size)
{
    const unsigned shift = 64 - size * 8;

    return (uint64_t)((int64_t)(value << shift) >> shift);
}

#endif
