/*
 * What the processor says of itself: CPUID, and the feature set behind it.
 *
 * A guest is shown exactly what is implemented. Each feature is one row of CPU_FEATURE_LIST: its CPUID
 * word and bit, its bit in the API's processor feature banks (bank 0: 0..63, bank 1: 64..127), and who
 * implements it. A row is added when its instructions exist, never before. A partition may take features
 * away; instructions ask cpu_has() and raise #UD for what was taken.
 */
#ifndef OWHP_X86_CPUID_H
#define OWHP_X86_CPUID_H

#include "util/compiler.h"
#include "util/types.h"

struct cpu;

/* CPUID registers that hold feature bits. */
enum cpuid_word {
    CPUID_1_ECX, CPUID_1_EDX, CPUID_7_EBX, CPUID_7_ECX, CPUID_7_EDX, CPUID_72_EDX, /* 7.0, 7.2 */
    CPUID_D1_EAX,                                           /* 0xD.1: the XSAVE family */
    CPUID_81_ECX, CPUID_81_EDX, CPUID_87_EDX, CPUID_88_EBX, /* 0x8000000n */
    CPUID_ARCH_CAPABILITIES,                                /* bits of IA32_ARCH_CAPABILITIES, shown by RDMSR */
    CPUID_WORDS
};

#define BANK_NONE 255 /* no bit in the feature banks: always there */
#define BANK_CPUID 254 /* no bit there either, but CPUID results that hide it take it away */
#define BANK_RESULT 253 /* no bit there, and not there either: until CPUID results show it */
#define BANK_XSAVE 128 /* and up: bit n - 128 of the API's XSAVE features */

/* clang-format off */
/*    name             word            bit bank          implemented by */
#define CPU_FEATURE_LIST(X)                                                                        \
    X(SSE3,            CPUID_1_ECX,     0, 0)         /* exec_simd */                              \
    X(PCLMULQDQ,       CPUID_1_ECX,     1, 17)        /* exec_simd */                              \
    X(MONITOR,         CPUID_1_ECX,     3, BANK_RESULT) /* exec_monitor, the port */               \
    X(SSSE3,           CPUID_1_ECX,     9, 2)         /* exec_simd */                              \
    X(FMA,             CPUID_1_ECX,    12, BANK_XSAVE + 4) /* exec_vex */                          \
    X(CX16,            CPUID_1_ECX,    13, 8)         /* exec_integer: CMPXCHG16B */               \
    X(PCID,            CPUID_1_ECX,    17, 18)        /* control: CR4.PCIDE, CR3 */                \
    X(SSE4_1,          CPUID_1_ECX,    19, 3)         /* exec_simd */                              \
    X(SSE4_2,          CPUID_1_ECX,    20, 4)         /* exec_simd */                              \
    X(X2APIC,          CPUID_1_ECX,    21, BANK_NONE) /* the port's local APIC, when it has one */ \
    X(MOVBE,           CPUID_1_ECX,    22, 29)        /* exec_integer */                           \
    X(POPCNT,          CPUID_1_ECX,    23, 7)         /* exec_integer */                           \
    X(TSC_DEADLINE,    CPUID_1_ECX,    24, 81)        /* the port's local APIC, when it has one */ \
    X(AES,             CPUID_1_ECX,    25, 16)        /* exec_simd */                              \
    X(XSAVE,           CPUID_1_ECX,    26, BANK_XSAVE + 0) /* exec_xsave */                        \
    X(AVX,             CPUID_1_ECX,    28, BANK_XSAVE + 2) /* exec_vex */                          \
    X(F16C,            CPUID_1_ECX,    29, 20)      /* exec_vex */                                 \
    X(RDRAND,          CPUID_1_ECX,    30, 21)        /* exec_random */                            \
    X(HYPERVISOR,      CPUID_1_ECX,    31, BANK_NONE) /* leaf 0x40000000 */                        \
    X(FPU,             CPUID_1_EDX,     0, BANK_NONE) /* exec_x87 */                               \
    X(VME,             CPUID_1_EDX,     1, BANK_NONE) /* exec_v86, exec_stack, exec_iret, exec_system: CR4.VME, PVI */ \
    X(DE,              CPUID_1_EDX,     2, BANK_NONE) /* debug, exec_control                   */ \
    X(PSE,             CPUID_1_EDX,     3, BANK_NONE) /* walk */                                   \
    X(TSC,             CPUID_1_EDX,     4, BANK_NONE) /* exec_msr, tsc */                          \
    X(MSR,             CPUID_1_EDX,     5, BANK_NONE) /* exec_msr, msr */                          \
    X(PAE,             CPUID_1_EDX,     6, BANK_NONE) /* walk */                                   \
    X(MCE,             CPUID_1_EDX,     7, BANK_NONE) /* control, msr: no bank, no event */        \
    X(CX8,             CPUID_1_EDX,     8, BANK_NONE) /* exec_integer: CMPXCHG8B */                \
    X(APIC,            CPUID_1_EDX,     9, BANK_NONE) /* the port's local APIC; and APIC_BASE.EN */\
    X(SEP,             CPUID_1_EDX,    11, BANK_NONE) /* exec_syscall */                           \
    X(MTRR,            CPUID_1_EDX,    12, BANK_NONE) /* msr */                                    \
    X(PGE,             CPUID_1_EDX,    13, BANK_NONE) /* walk, TLB */                              \
    X(MCA,             CPUID_1_EDX,    14, BANK_NONE) /* msr */                                    \
    X(CMOV,            CPUID_1_EDX,    15, BANK_NONE) /* exec_integer */                           \
    X(PAT,             CPUID_1_EDX,    16, BANK_NONE) /* msr, walk */                              \
    X(PSE36,           CPUID_1_EDX,    17, BANK_NONE) /* walk */                                   \
    X(CLFSH,           CPUID_1_EDX,    19, BANK_NONE) /* exec_misc */                              \
    X(MMX,             CPUID_1_EDX,    23, BANK_NONE) /* exec_simd */                              \
    X(FXSR,            CPUID_1_EDX,    24, BANK_NONE) /* exec_x87 */                               \
    X(SSE,             CPUID_1_EDX,    25, BANK_NONE) /* exec_simd */                              \
    X(SSE2,            CPUID_1_EDX,    26, BANK_NONE) /* exec_simd */                              \
    X(SS,              CPUID_1_EDX,    27, BANK_NONE) /* self-snoop: memory is coherent */         \
    X(HTT,             CPUID_1_EDX,    28, BANK_NONE) /* cpuid: more than one processor */         \
    X(FSGSBASE,        CPUID_7_EBX,     0, 22)        /* exec_segment */                           \
    X(TSC_ADJUST,      CPUID_7_EBX,     1, 82)        /* msr */                                    \
    X(BMI1,            CPUID_7_EBX,     3, 25)        /* exec_integer */                           \
    X(AVX2,            CPUID_7_EBX,     5, BANK_XSAVE + 3) /* exec_vex */                          \
    X(FDP_EXCPTN_ONLY, CPUID_7_EBX,     6, BANK_NONE) /* exec_x87: when the host does so */        \
    X(SMEP,            CPUID_7_EBX,     7, 23)        /* walk */                                   \
    X(BMI2,            CPUID_7_EBX,     8, 26)        /* exec_integer */                           \
    X(ERMS,            CPUID_7_EBX,     9, 24)        /* exec_string: by host string operations */ \
    X(INVPCID,         CPUID_7_EBX,    10, 43)        /* exec_control */                           \
    X(NO_FCS_FDS,      CPUID_7_EBX,    13, 31)        /* exec_x87: FCS and FDS are zero */         \
    X(RDSEED,          CPUID_7_EBX,    18, 32)        /* exec_random */                            \
    X(ADX,             CPUID_7_EBX,    19, 33)        /* exec_integer */                           \
    X(SMAP,            CPUID_7_EBX,    20, 35)        /* walk, exec_system: STAC, CLAC */          \
    X(CLFLUSHOPT,      CPUID_7_EBX,    23, 39)        /* exec_misc */                              \
    X(CLWB,            CPUID_7_EBX,    24, 40)        /* exec_misc */                              \
    X(SHA,             CPUID_7_EBX,    29, 41)        /* exec_simd */                              \
    X(UMIP,            CPUID_7_ECX,     2, 58)        /* exec_table */                             \
    X(PKU,             CPUID_7_ECX,     3, BANK_CPUID)       /* walk, TLB, exec_control, exec_xsave */ \
    X(VAES,            CPUID_7_ECX,     9, BANK_XSAVE + 20) /* exec_vex */                         \
    X(VPCLMULQDQ,      CPUID_7_ECX,    10, BANK_XSAVE + 22) /* exec_vex */                         \
    X(LA57,            CPUID_7_ECX,    16, 68)        /* walk, control */                          \
    X(RDPID,           CPUID_7_ECX,    22, 57)        /* exec_msr */                               \
    X(PKS,             CPUID_7_ECX,    31, BANK_CPUID)/* walk, TLB, msr */                         \
    X(FSRM,            CPUID_7_EDX,     4, 49)        /* exec_string */                            \
    X(SPEC_CTRL,       CPUID_7_EDX,    26, 44)        /* msr: SPEC_CTRL, PRED_CMD */               \
    X(STIBP,           CPUID_7_EDX,    27, 45)        /* msr: SPEC_CTRL */                         \
    X(ARCH_CAPABILITIES, CPUID_7_EDX,  29, BANK_NONE) /* msr */                                    \
    X(BHI_CTRL,        CPUID_72_EDX,    4, BANK_NONE) /* msr: SPEC_CTRL.BHI_DIS_S; spares guests a loop a system call */ \
    X(XSAVEOPT,        CPUID_D1_EAX,    0, BANK_XSAVE + 1) /* exec_xsave */                        \
    X(XSAVEC,          CPUID_D1_EAX,    1, BANK_XSAVE + 11) /* exec_xsave */                       \
    X(XGETBV1,         CPUID_D1_EAX,    2, BANK_XSAVE + 13) /* exec_control */                     \
    X(XSAVES,          CPUID_D1_EAX,    3, BANK_XSAVE + 12) /* exec_xsave */                       \
    X(LAHF64,          CPUID_81_ECX,    0, 1)         /* exec_integer */                           \
    X(LZCNT,           CPUID_81_ECX,    5, 10)        /* exec_integer */                           \
    X(PREFETCHW,       CPUID_81_ECX,    8, 34)        /* exec_misc */                              \
    X(SYSCALL,         CPUID_81_EDX,   11, BANK_NONE) /* exec_syscall */                           \
    X(NX,              CPUID_81_EDX,   20, BANK_NONE) /* walk */                                   \
    X(PAGE1GB,         CPUID_81_EDX,   26, 15)        /* walk */                                   \
    X(RDTSCP,          CPUID_81_EDX,   27, 38)        /* exec_msr */                               \
    X(LM,              CPUID_81_EDX,   29, BANK_NONE) /* everything */                             \
    X(TSC_INVARIANT,   CPUID_87_EDX,    8, 65)        /* tsc: one rate for the partition's life */ \
    /* An interpreter does not speculate across the guest's privilege levels, so it has none of these leaks. */ \
    X(RDCL_NO,         CPUID_ARCH_CAPABILITIES,  0, 51) X(IBRS_ALL,      CPUID_ARCH_CAPABILITIES,  1, 52)        \
    X(L1DFL_NO,        CPUID_ARCH_CAPABILITIES,  3, BANK_NONE) X(SSB_NO, CPUID_ARCH_CAPABILITIES,  4, 54)        \
    X(MDS_NO,          CPUID_ARCH_CAPABILITIES,  5, 59) X(PSCHANGE_NO,   CPUID_ARCH_CAPABILITIES,  6, BANK_NONE) \
    X(TAA_NO,          CPUID_ARCH_CAPABILITIES,  8, 61) X(SBDR_NO,       CPUID_ARCH_CAPABILITIES, 13, 89)        \
    X(FBSDP_NO,        CPUID_ARCH_CAPABILITIES, 14, 90) X(PSDP_NO,       CPUID_ARCH_CAPABILITIES, 15, 91)        \
    X(BHI_NO,          CPUID_ARCH_CAPABILITIES, 20, BANK_NONE) X(PBRSB_NO, CPUID_ARCH_CAPABILITIES, 24, BANK_NONE) \
    X(GDS_NO,          CPUID_ARCH_CAPABILITIES, 26, BANK_NONE) X(RFDS_NO, CPUID_ARCH_CAPABILITIES, 27, BANK_NONE)
/* clang-format on */

enum cpu_feature {
#define X(name, word, bit, bank) FEATURE_##name = (word)*32 + (bit),
    CPU_FEATURE_LIST(X)
#undef X
};

/* Per processor; written before the first run (cpuid_init, then the owner of the processor). */
struct cpuid_config {
    uint32_t word[CPUID_WORDS];
    char vendor[12];             /* not terminated */
    bool is_amd;                 /* what that means: x86/vendor.h */
    uint32_t apic_id;
    uint32_t processor_count;    /* in the partition, at least 1 */
    uint64_t tsc_frequency;      /* Hz, 0: unknown (leaves 0x15 and 0x16 are zero) */
    uint64_t apic_frequency;     /* Hz of the local APIC timer's clock */
    uint8_t clflush_size;        /* bytes */
};

/* Everything implemented, the host's vendor, one processor. No local APIC: the owner adds FEATURE_X2APIC and
 * FEATURE_TSC_DEADLINE (cpuid_set) when its port has one. */
void cpuid_init(struct cpuid_config *config);
/* Another vendor, as leaf 0 shows it: its features, its leaves, and what instructions do (x86/vendor.h). Anybody but AMD and
 * Hygon is as Intel. After cpuid_init, before anything is masked. */
void cpuid_set_vendor(struct cpuid_config *config, const uint32_t leaf_0[4]);

static inline void cpuid_set(struct cpuid_config *config, enum cpu_feature feature, bool on)
{
    uint32_t bit = 1u << (feature & 31);
    config->word[feature >> 5] = (config->word[feature >> 5] & ~bit) | (on ? bit : 0);
}
static inline bool cpuid_has(const struct cpuid_config *config, enum cpu_feature feature)
{
    return (config->word[feature >> 5] >> (feature & 31)) & 1;
}

/* The features that have a bit in the API's banks: what is there, and taking away what `banks` lacks. */
void cpuid_get_banks(const struct cpuid_config *config, uint64_t banks[2]);
void cpuid_mask_banks(struct cpuid_config *config, const uint64_t banks[2]);

/* The same for the API's XSAVE features. Masking also takes away what needs something that is gone (AVX2 without AVX):
 * to be called after cpuid_mask_banks. */
uint64_t cpuid_get_xsave(const struct cpuid_config *config);
void cpuid_mask_xsave(struct cpuid_config *config, uint64_t features);

/* The leaf, subleaf and register (0 EAX .. 3 EDX) that show a word; false: none does. */
must_check bool cpuid_word_place(unsigned word, uint32_t *leaf, uint32_t *subleaf, unsigned *reg);
/* Take away those features of a word that can be taken away (every x86-64 processor has the others), and what needs them. */
void cpuid_hide(struct cpuid_config *config, unsigned word, uint32_t bits);
/* Give those that are there on such a word only (BANK_RESULT). */
void cpuid_offer(struct cpuid_config *config, unsigned word, uint32_t bits);

/*
 * Bits of the banks and of the XSAVE features that guests get only when their client asks for them: what is beyond the
 * x86-64-v3 level and hangs on the host's processor, so that by default guests see the same on all hosts of that level;
 * and LA57, which makes every walk longer, for address space that a guest of 48 physical address bits has no use for.
 */
void cpuid_get_on_request(uint64_t banks[2], uint64_t *xsave);

/* The processor's own answer: EAX, EBX, ECX, EDX. Depends on CR4 and APIC_BASE too. */
void cpuid_read(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);

#endif
