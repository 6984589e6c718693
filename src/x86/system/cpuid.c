/*
 * CPUID (SDM 2A CPUID, APM 3 appendix E): one function a leaf, found through a table.
 */
#include "x86/system/cpuid.h"

#include <cpuid.h>
#include <string.h>

#include "x86/cpu.h"
#include "x86/system/control.h"
#include "x86/vector/exec_simd.h"

enum { EAX, EBX, ECX, EDX };

static const char brand[48] = "OpenWHP x86-64 virtual processor";
static const char hypervisor_signature[12] = "OpenWHP";

static const struct feature_row {
    uint16_t feature;
    uint8_t bank;
} feature_rows[] = {
#define X(name, word, bit, bank) {FEATURE_##name, bank},
    CPU_FEATURE_LIST(X)
#undef X
};

/* ---- the feature set ---- */

static void drop_dependent(struct cpuid_config *config);

void cpuid_init(struct cpuid_config *config)
{
    unsigned a, b, c, d;

    *config = (struct cpuid_config){.processor_count = 1, .clflush_size = 64, .apic_frequency = 200000000};
    for (size_t i = 0; i < sizeof(feature_rows) / sizeof(feature_rows[0]); i++)
        cpuid_set(config, feature_rows[i].feature, feature_rows[i].bank != BANK_RESULT);
    cpuid_set(config, FEATURE_X2APIC, false);
    cpuid_set(config, FEATURE_TSC_DEADLINE, false);
    exec_simd_limit(config);
    drop_dependent(config);
    if (__get_cpuid(0, &a, &b, &c, &d))
        cpuid_set_vendor(config, (uint32_t[4]){a, b, c, d});
}

void cpuid_set_vendor(struct cpuid_config *config, const uint32_t leaf_0[4])
{
    memcpy(config->vendor, &leaf_0[EBX], 4);
    memcpy(config->vendor + 4, &leaf_0[EDX], 4);
    memcpy(config->vendor + 8, &leaf_0[ECX], 4);
    config->is_amd = memcmp(config->vendor, "AuthenticAMD", 12) == 0 || memcmp(config->vendor, "HygonGenuine", 12) == 0;
    cpuid_set(config, FEATURE_ARCH_CAPABILITIES, !config->is_amd);
    cpuid_set(config, FEATURE_BHI_CTRL, !config->is_amd);
}

void cpuid_get_banks(const struct cpuid_config *config, uint64_t banks[2])
{
    banks[0] = banks[1] = 0;
    for (size_t i = 0; i < sizeof(feature_rows) / sizeof(feature_rows[0]); i++) {
        const struct feature_row *row = &feature_rows[i];
        if (row->bank < BANK_XSAVE && cpuid_has(config, row->feature))
            banks[row->bank / 64] |= BIT64(row->bank % 64);
    }
    /* IBPB shares the CPUID bit of IBRS but has a bank bit of its own. */
    if (cpuid_has(config, FEATURE_SPEC_CTRL))
        banks[0] |= BIT64(46);
}

void cpuid_mask_banks(struct cpuid_config *config, const uint64_t banks[2])
{
    for (size_t i = 0; i < sizeof(feature_rows) / sizeof(feature_rows[0]); i++) {
        const struct feature_row *row = &feature_rows[i];
        if (row->bank < BANK_XSAVE && !((banks[row->bank / 64] >> (row->bank % 64)) & 1))
            cpuid_set(config, row->feature, false);
    }
}

static unsigned xsave_bit(const struct feature_row *row)
{
    return row->bank < BANK_XSAVE || row->bank >= BANK_RESULT ? 64 : row->bank - BANK_XSAVE;
}

uint64_t cpuid_get_xsave(const struct cpuid_config *config)
{
    uint64_t features = 0;

    for (size_t i = 0; i < sizeof(feature_rows) / sizeof(feature_rows[0]); i++)
        if (xsave_bit(&feature_rows[i]) < 64 && cpuid_has(config, feature_rows[i].feature))
            features |= BIT64(xsave_bit(&feature_rows[i]));
    return features;
}

/* AVX state is enabled through XSAVE's registers; every other VEX set extends AVX. */
static void drop_dependent(struct cpuid_config *config)
{
    static const uint16_t needs[][2] = {
        {FEATURE_XSAVEOPT, FEATURE_XSAVE}, {FEATURE_XSAVEC, FEATURE_XSAVE},   {FEATURE_XGETBV1, FEATURE_XSAVE},
        {FEATURE_XSAVES, FEATURE_XSAVEC},  {FEATURE_AVX, FEATURE_XSAVE},      {FEATURE_AVX2, FEATURE_AVX},
        {FEATURE_FMA, FEATURE_AVX},        {FEATURE_F16C, FEATURE_AVX},       {FEATURE_VAES, FEATURE_AVX},
        {FEATURE_VPCLMULQDQ, FEATURE_AVX}, {FEATURE_VAES, FEATURE_AES},       {FEATURE_VPCLMULQDQ, FEATURE_PCLMULQDQ},
        {FEATURE_PKU, FEATURE_XSAVE},
    };

    for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++)
        if (!cpuid_has(config, needs[i][1]))
            cpuid_set(config, needs[i][0], false);
}

void cpuid_mask_xsave(struct cpuid_config *config, uint64_t features)
{
    for (size_t i = 0; i < sizeof(feature_rows) / sizeof(feature_rows[0]); i++)
        if (xsave_bit(&feature_rows[i]) < 64 && !(features & BIT64(xsave_bit(&feature_rows[i]))))
            cpuid_set(config, feature_rows[i].feature, false);
    drop_dependent(config);
}

void cpuid_get_on_request(uint64_t banks[2], uint64_t *xsave)
{
    static const uint16_t features[] = {FEATURE_LA57, FEATURE_SHA, FEATURE_VAES, FEATURE_VPCLMULQDQ};
    struct cpuid_config chosen = {0};

    for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++)
        cpuid_set(&chosen, features[i], true);
    cpuid_get_banks(&chosen, banks);
    *xsave = cpuid_get_xsave(&chosen);
}

/* Where the words are shown. The last is no leaf's. */
static const struct {
    uint32_t leaf, subleaf;
    uint8_t reg;
} places[CPUID_ARCH_CAPABILITIES] = {
    [CPUID_1_ECX] = {1, 0, ECX},           [CPUID_1_EDX] = {1, 0, EDX},           [CPUID_7_EBX] = {7, 0, EBX},
    [CPUID_7_ECX] = {7, 0, ECX},           [CPUID_7_EDX] = {7, 0, EDX},           [CPUID_72_EDX] = {7, 2, EDX},
    [CPUID_D1_EAX] = {0xd, 1, EAX},        [CPUID_81_ECX] = {0x80000001, 0, ECX}, [CPUID_81_EDX] = {0x80000001, 0, EDX},
    [CPUID_87_EDX] = {0x80000007, 0, EDX}, [CPUID_88_EBX] = {0x80000008, 0, EBX},
};

bool cpuid_word_place(unsigned word, uint32_t *leaf, uint32_t *subleaf, unsigned *reg)
{
    if (word >= CPUID_ARCH_CAPABILITIES)
        return false;
    *leaf = places[word].leaf;
    *subleaf = places[word].subleaf;
    *reg = places[word].reg;
    return true;
}

void cpuid_hide(struct cpuid_config *config, unsigned word, uint32_t bits)
{
    for (size_t i = 0; i < sizeof(feature_rows) / sizeof(feature_rows[0]); i++) {
        const struct feature_row *row = &feature_rows[i];
        if (row->bank != BANK_NONE && row->feature >> 5 == word && (bits >> (row->feature & 31) & 1))
            cpuid_set(config, row->feature, false);
    }
    drop_dependent(config);
}

void cpuid_offer(struct cpuid_config *config, unsigned word, uint32_t bits)
{
    for (size_t i = 0; i < sizeof(feature_rows) / sizeof(feature_rows[0]); i++) {
        const struct feature_row *row = &feature_rows[i];
        if (row->bank == BANK_RESULT && row->feature >> 5 == word && (bits >> (row->feature & 31) & 1))
            cpuid_set(config, row->feature, true);
    }
}

/* ---- leaves ---- */

typedef void leaf_fn(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);

static uint32_t maximum_basic(const struct cpuid_config *config)
{
    return config->is_amd ? 0xd : 0x16;
}

static void leaf_0(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)leaf, (void)subleaf;
    out[EAX] = maximum_basic(&cpu->cpuid);
    memcpy(&out[EBX], cpu->cpuid.vendor, 4);
    memcpy(&out[EDX], cpu->cpuid.vendor + 4, 4);
    memcpy(&out[ECX], cpu->cpuid.vendor + 8, 4);
}

/* Family, model, stepping: models whose feature set is closest to what is implemented. */
static uint32_t signature(const struct cpuid_config *config)
{
    return config->is_amd ? 0x00830f10u /* family 17h model 31h */ : 0x000306d4u /* family 6 model 3Dh */;
}

/* Bits a shift makes room for `count` values in an APIC identifier. */
static uint32_t id_bits(uint32_t count)
{
    return count <= 1 ? 0 : 32 - (uint32_t)__builtin_clz(count - 1);
}

static void leaf_1(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const struct cpuid_config *config = &cpu->cpuid;
    uint32_t ids = 1u << id_bits(config->processor_count);

    (void)leaf, (void)subleaf;
    out[EAX] = signature(config);
    out[EBX] = config->apic_id << 24 | (ids > 255 ? 255 : ids) << 16 | (uint32_t)(config->clflush_size / 8) << 8;
    out[ECX] = config->word[CPUID_1_ECX];
    out[EDX] = config->word[CPUID_1_EDX];
    if (cpu->cr4 & CR4_OSXSAVE)
        out[ECX] |= 1u << 27;
    if (config->processor_count <= 1)
        out[EDX] &= ~(1u << (FEATURE_HTT & 31));
}

static void leaf_2(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)leaf, (void)subleaf;
    if (cpu->cpuid.is_amd)
        return;
    out[EAX] = 0x0000ff01; /* caches are described by leaf 4 */
    out[EBX] = 0x000000f0; /* 64-byte prefetch */
}

/* Deterministic cache parameters: type (1 data, 2 code, 3 unified), level, ways, sets; 64-byte lines. */
static void leaf_4(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    static const struct {
        uint8_t type, level, ways;
        uint32_t sets;
    } caches[] = {{1, 1, 8, 64}, {2, 1, 8, 64}, {3, 2, 16, 1024}, {3, 3, 16, 16384}};
    uint32_t ids = 1u << id_bits(cpu->cpuid.processor_count);

    (void)leaf;
    if (cpu->cpuid.is_amd || subleaf >= sizeof(caches) / sizeof(caches[0]))
        return;
    uint32_t sharing = caches[subleaf].level == 3 ? ids : 1;
    out[EAX] = caches[subleaf].type | (uint32_t)caches[subleaf].level << 5 | 1u << 8 |
               ((sharing - 1) & 0xfff) << 14 | (((ids > 64 ? 64 : ids) - 1) & 0x3f) << 26;
    out[EBX] = 63u | (caches[subleaf].ways - 1u) << 22;
    out[ECX] = caches[subleaf].sets - 1;
    out[EDX] = caches[subleaf].level == 3 ? 1u << 1 : 0; /* inclusive of lower levels */
}

/* Lines of 64 bytes; masked interrupts can end MWAIT; one way to sleep, C1. */
static void leaf_5(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)leaf, (void)subleaf;
    if (!cpuid_has(&cpu->cpuid, FEATURE_MONITOR))
        return;
    out[EAX] = out[EBX] = 64;
    out[ECX] = 3;
    out[EDX] = 1u << 4;
}

static void leaf_6(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)cpu, (void)leaf, (void)subleaf;
    out[EAX] = 1u << 2; /* the APIC timer never stops */
}

static void leaf_7(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)leaf;
    if (subleaf == 2)
        out[EDX] = cpu->cpuid.word[CPUID_72_EDX];
    if (subleaf != 0)
        return;
    out[EAX] = 2; /* the last subleaf */
    out[EBX] = cpu->cpuid.word[CPUID_7_EBX];
    out[ECX] = cpu->cpuid.word[CPUID_7_ECX];
    out[EDX] = cpu->cpuid.word[CPUID_7_EDX];
    if (cpu->cr4 & CR4_PKE)
        out[ECX] |= 1u << 4;
}

/* Extended topology: one thread a core, all cores in one package. */
static void leaf_b(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)leaf;
    out[ECX] = subleaf & 0xff;
    out[EDX] = cpu->cpuid.apic_id;
    if (subleaf == 0) {
        out[EBX] = 1;
        out[ECX] |= 1u << 8; /* SMT level */
    } else if (subleaf == 1) {
        out[EAX] = id_bits(cpu->cpuid.processor_count);
        out[EBX] = cpu->cpuid.processor_count & 0xffff;
        out[ECX] |= 2u << 8; /* core level */
    }
}

/* State components of XSAVE: x87 and SSE in 576 bytes, AVX in 256 behind them, PKRU in 8. */
static uint32_t xsave_size(uint64_t components, bool is_compacted)
{
    if (components & XCR0_PKRU)
        return is_compacted && !(components & XCR0_AVX) ? XSAVE_SIZE_SSE + 8 : XSAVE_SIZE_PKRU;
    return components & XCR0_AVX ? XSAVE_SIZE_AVX : XSAVE_SIZE_SSE;
}

static void leaf_d(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const uint64_t all = cpu_xcr0_mask(cpu);

    (void)leaf;
    if (!cpuid_has(&cpu->cpuid, FEATURE_XSAVE))
        return;
    switch (subleaf) {
    case 0:
        out[EAX] = (uint32_t)all;
        out[EBX] = xsave_size(cpu->xcr0, false);
        out[ECX] = xsave_size(all, false);
        break;
    case 1:
        out[EAX] = cpu->cpuid.word[CPUID_D1_EAX];
        if (cpuid_has(&cpu->cpuid, FEATURE_XSAVEC))
            out[EBX] = xsave_size(cpu->xcr0, true);
        break;
    case 2:
        if (!(all & XCR0_AVX))
            break;
        out[EAX] = XSAVE_SIZE_AVX - XSAVE_SIZE_SSE;
        out[EBX] = XSAVE_SIZE_SSE;
        break;
    case 9:
        if (!(all & XCR0_PKRU))
            break;
        out[EAX] = XSAVE_SIZE_PKRU - XSAVE_SIZE_AVX;
        out[EBX] = XSAVE_SIZE_AVX;
        break;
    default:
        break;
    }
}

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/*
 * TSC frequency as a ratio to the APIC timer's clock (the "core crystal clock": guests take the timer's rate from it).
 * The exact ratio when its terms are small; else rounded, because guests multiply kHz by the numerator in 32 bits.
 */
static void leaf_15(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const struct cpuid_config *config = &cpu->cpuid;
    uint64_t tsc = config->tsc_frequency, crystal = config->apic_frequency;

    (void)leaf, (void)subleaf;
    if (!tsc || !crystal || crystal > UINT32_MAX || config->is_amd)
        return;
    uint64_t divisor = greatest_common_divisor(tsc, crystal);
    uint64_t numerator = tsc / divisor, denominator = crystal / divisor;
    uint64_t limit = UINT32_MAX / (crystal / 1000 + 1);
    if (numerator > limit) {
        denominator = limit * crystal / tsc;
        denominator = denominator ? denominator : 1;
        numerator = (tsc * denominator + crystal / 2) / crystal;
    }
    out[EAX] = (uint32_t)denominator;
    out[EBX] = (uint32_t)numerator;
    out[ECX] = (uint32_t)crystal;
}

static void leaf_16(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    uint32_t mhz = (uint32_t)((cpu->cpuid.tsc_frequency + 500000) / 1000000);

    (void)leaf, (void)subleaf;
    if (!mhz || cpu->cpuid.is_amd)
        return;
    out[EAX] = out[EBX] = mhz;
    out[ECX] = 100;
}

static void leaf_40000000(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)leaf, (void)subleaf;
    if (!cpuid_has(&cpu->cpuid, FEATURE_HYPERVISOR))
        return;
    out[EAX] = 0x40000000;
    memcpy(&out[EBX], hypervisor_signature, 12);
}

static void leaf_80000000(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)leaf, (void)subleaf;
    out[EAX] = 0x80000008;
    if (!cpu->cpuid.is_amd)
        return;
    memcpy(&out[EBX], cpu->cpuid.vendor, 4);
    memcpy(&out[EDX], cpu->cpuid.vendor + 4, 4);
    memcpy(&out[ECX], cpu->cpuid.vendor + 8, 4);
}

/* On AMD, EDX repeats these bits of leaf 1 (APM 3 E.4.2). */
#define AMD_REPEATED 0x0183f3ffu

static void leaf_80000001(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)leaf, (void)subleaf;
    out[ECX] = cpu->cpuid.word[CPUID_81_ECX];
    out[EDX] = cpu->cpuid.word[CPUID_81_EDX];
    if (cpu->cpuid.is_amd) {
        out[EAX] = signature(&cpu->cpuid);
        out[EDX] |= cpu->cpuid.word[CPUID_1_EDX] & AMD_REPEATED;
    } else if (!cpu_is_64(cpu)) {
        out[EDX] &= ~(1u << (FEATURE_SYSCALL & 31)); /* Intel: only in 64-bit mode */
    }
}

static void leaf_brand(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)cpu, (void)subleaf;
    memcpy(out, brand + (leaf - 0x80000002) * 16, 16);
}

static void leaf_80000005(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)leaf, (void)subleaf;
    if (cpu->cpuid.is_amd)
        out[ECX] = out[EDX] = 32u << 24 | 8u << 16 | 1u << 8 | 64;
}

static void leaf_80000006(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)leaf, (void)subleaf;
    out[ECX] = 1024u << 16 | 8u << 12 | (cpu->cpuid.is_amd ? 1u << 8 : 0) | 64; /* L2, 16 ways */
    if (cpu->cpuid.is_amd)
        out[EDX] = 32u << 18 | 8u << 12 | 1u << 8 | 64; /* L3: 32 times 512 KiB */
}

static void leaf_80000007(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)leaf, (void)subleaf;
    out[EDX] = cpu->cpuid.word[CPUID_87_EDX];
}

static void leaf_80000008(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)leaf, (void)subleaf;
    out[EAX] = cpu->physical_bits | (cpuid_has(&cpu->cpuid, FEATURE_LA57) ? 57u : 48u) << 8;
    out[EBX] = cpu->cpuid.word[CPUID_88_EBX];
    if (cpu->cpuid.is_amd)
        out[ECX] = id_bits(cpu->cpuid.processor_count) << 12 | ((cpu->cpuid.processor_count - 1) & 0xff);
}

static const struct {
    uint32_t leaf;
    leaf_fn *answer;
} leaves[] = {
    {0x00, leaf_0}, {0x01, leaf_1}, {0x02, leaf_2}, {0x04, leaf_4}, {0x05, leaf_5}, {0x06, leaf_6},
    {0x07, leaf_7}, {0x0b, leaf_b}, {0x0d, leaf_d}, {0x15, leaf_15}, {0x16, leaf_16},
    {0x40000000, leaf_40000000},
    {0x80000000, leaf_80000000}, {0x80000001, leaf_80000001},
    {0x80000002, leaf_brand}, {0x80000003, leaf_brand}, {0x80000004, leaf_brand},
    {0x80000005, leaf_80000005}, {0x80000006, leaf_80000006}, {0x80000007, leaf_80000007}, {0x80000008, leaf_80000008},
};

/* Beyond the last leaf Intel answers with the highest basic one (SDM 2A CPUID), AMD with zero. */
static uint32_t clamp(const struct cpuid_config *config, uint32_t leaf)
{
    uint32_t first = leaf & 0xc0000000u;
    bool beyond = first == 0x80000000u ? leaf > 0x80000008u
                                       : leaf > maximum_basic(config) && (leaf < 0x40000000u || leaf > 0x400000ffu);
    return beyond && !config->is_amd ? maximum_basic(config) : leaf;
}

void cpuid_read(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    memset(out, 0, 4 * sizeof(*out));
    leaf = clamp(&cpu->cpuid, leaf);
    for (size_t i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++)
        if (leaves[i].leaf == leaf)
            leaves[i].answer(cpu, leaf, subleaf, out);
}
