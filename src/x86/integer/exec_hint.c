/*
 * Instructions without operands' effects: NOPs, hints, fences, cache control, random numbers, and those
 * that exist to be undefined (SDM 2A, 2B).
 */
#include "x86/integer/exec_sized.h"

#include <sched.h>

#include "x86/system/random.h"

static enum exec_result exec_nop(struct cpu *cpu, const struct insn *insn)
{
    (void)cpu, (void)insn;
    return EXEC_NEXT;
}

/* Guest memory is host memory: the host's fence is the guest's. LFENCE also keeps RDTSC from being early (SDM 2B RDTSC). */
static enum exec_result exec_fence(struct cpu *cpu, const struct insn *insn)
{
    (void)cpu, (void)insn;
    __asm__ volatile("mfence\n\tlfence" : : : "memory");
    return EXEC_NEXT;
}

/* Rounds of a spinning guest after which the host may run somebody else: perhaps the processor that is waited for. */
enum { PAUSES_BEFORE_YIELD = 64 };

static enum exec_result exec_pause(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (++cpu->pauses % PAUSES_BEFORE_YIELD)
        __builtin_ia32_pause();
    else
        sched_yield();
    return EXEC_NEXT;
}

/* A segment that nothing can be loaded from may be flushed yet if it is code (SDM 2A CLFLUSH; so it is with CLWB, on silicon). */
static enum access_type flush_type(const struct cpu *cpu, const struct insn *insn)
{
    return cpu->segment[insn->memory.segment].attributes & SEG_TYPE_CODE ? ACCESS_EXECUTE : ACCESS_READ;
}

/* CLFLUSH, CLFLUSHOPT, CLWB: permissions and faults are those of a load of one byte (SDM 2A CLFLUSH), and so is, where there is no
 * memory, the exit (SDM 3C "EPT Violations": a data read). The caches are coherent. PREFETCHh and CLDEMOTE are hints:
 * they do not even fault (SDM 2B PREFETCHh). */
static enum exec_result exec_flush_line(struct cpu *cpu, const struct insn *insn)
{
    gva_t linear;

    return exec_done(operand_linear(cpu, insn, 1, flush_type(cpu, insn), &linear) && mem_touch(cpu, linear));
}

static enum exec_result exec_clflushopt(struct cpu *cpu, const struct insn *insn)
{
    return require(cpu, FEATURE_CLFLUSHOPT) ? exec_flush_line(cpu, insn) : EXEC_LEAVE;
}

static enum exec_result exec_clwb(struct cpu *cpu, const struct insn *insn)
{
    return require(cpu, FEATURE_CLWB) ? exec_flush_line(cpu, insn) : EXEC_LEAVE;
}

static enum exec_result exec_ud(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return exec_done(raise_ud(cpu));
}

/* CF tells whether there was a number; all other flags are 0, and so is the destination without one. */
static enum exec_result random_number(struct cpu *cpu, const struct insn *insn, enum cpu_feature feature)
{
    uint64_t value = 0;
    bool good;

    if (!require(cpu, feature))
        return EXEC_LEAVE;
    if (unlikely(!cpu->random))
        cpu->random = random_create();
    good = random_take(cpu->random, &value);
    if (!operand_write(cpu, insn, 0, good ? value : 0))
        return EXEC_LEAVE;
    cpu->aflags = aflags_from_rflags(good ? RFLAGS_CF : 0);
    return EXEC_NEXT;
}

static enum exec_result exec_rdrand(struct cpu *cpu, const struct insn *insn)
{
    return random_number(cpu, insn, FEATURE_RDRAND);
}

static enum exec_result exec_rdseed(struct cpu *cpu, const struct insn *insn)
{
    return random_number(cpu, insn, FEATURE_RDSEED);
}

/* clang-format off */
const struct exec_entry exec_hint_table[] = {
    {ZYDIS_MNEMONIC_NOP, exec_nop, 0},               /* 90, 0f 0d, 0f 18-1f */
    {ZYDIS_MNEMONIC_PAUSE, exec_pause, 0},           /* f3 90 */
    {ZYDIS_MNEMONIC_ENDBR32, exec_nop, 0},           /* f3 0f 1e fb */
    {ZYDIS_MNEMONIC_ENDBR64, exec_nop, 0},           /* f3 0f 1e fa */
    {ZYDIS_MNEMONIC_PREFETCH, exec_nop, 0},          /* 0f 0d /0 */
    {ZYDIS_MNEMONIC_PREFETCHW, exec_nop, 0},         /* 0f 0d /1 */
    {ZYDIS_MNEMONIC_PREFETCHWT1, exec_nop, 0},       /* 0f 0d /2 */
    {ZYDIS_MNEMONIC_PREFETCHNTA, exec_nop, 0},       /* 0f 18 /0 */
    {ZYDIS_MNEMONIC_PREFETCHT0, exec_nop, 0},        /* 0f 18 /1 */
    {ZYDIS_MNEMONIC_PREFETCHT1, exec_nop, 0},        /* 0f 18 /2 */
    {ZYDIS_MNEMONIC_PREFETCHT2, exec_nop, 0},        /* 0f 18 /3 */
    {ZYDIS_MNEMONIC_CLDEMOTE, exec_nop, 0},          /* 0f 1c /0 */
    {ZYDIS_MNEMONIC_LFENCE, exec_fence, 0},          /* 0f ae e8 */
    {ZYDIS_MNEMONIC_MFENCE, exec_fence, 0},          /* 0f ae f0 */
    {ZYDIS_MNEMONIC_SFENCE, exec_fence, 0},          /* 0f ae f8 */
    {ZYDIS_MNEMONIC_CLFLUSH, exec_flush_line, 0},    /* 0f ae /7 */
    {ZYDIS_MNEMONIC_CLFLUSHOPT, exec_clflushopt, 0}, /* 66 0f ae /7 */
    {ZYDIS_MNEMONIC_CLWB, exec_clwb, 0},             /* 66 0f ae /6 */
    {ZYDIS_MNEMONIC_RDRAND, exec_rdrand, 0},         /* 0f c7 /6 */
    {ZYDIS_MNEMONIC_RDSEED, exec_rdseed, 0},         /* 0f c7 /7 */
    {ZYDIS_MNEMONIC_UD0, exec_ud, 1},                /* 0f ff */
    {ZYDIS_MNEMONIC_UD1, exec_ud, 1},                /* 0f b9 */
    {ZYDIS_MNEMONIC_UD2, exec_ud, 1},                /* 0f 0b */
    {ZYDIS_MNEMONIC_INVALID, NULL, 0},
};
/* clang-format on */
