/* The processor's own MSRs: one table, found by index; the contract is in msr.h. */
#include "x86/system/msr.h"

#include <stddef.h>
#include <x86intrin.h>

#include "x86/system/control.h"
#include "x86/system/debug.h"

struct row {
    uint32_t first, last;
    uint16_t feature;      /* the register exists with this feature; NO_FEATURE: always */
    uint16_t offset;       /* stored: where in struct cpu (8 bytes each) */
    uint64_t valid;        /* stored: bits that may be set; CANONICAL: a canonical address */
    enum msr_status (*read)(struct cpu *cpu, uint32_t index, uint64_t *value);  /* NULL: stored */
    enum msr_status (*write)(struct cpu *cpu, uint32_t index, uint64_t value); /* NULL: stored */
};

#define NO_FEATURE 0xffff
#define CANONICAL  0 /* no stored register has no valid bit, so 0 is free to mean this */

/* ---- behaviours ---- */

static enum msr_status read_zero(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    (void)cpu, (void)index;
    *value = 0;
    return MSR_OK;
}

/* The time stamp counts at one rate, whatever the processor does (PPR, TscFreqSel): Linux calls its absence a firmware's bug. */
static enum msr_status read_hwcr(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    (void)cpu, (void)index;
    *value = BIT64(24);
    return MSR_OK;
}

static enum msr_status write_ignored(struct cpu *cpu, uint32_t index, uint64_t value)
{
    (void)cpu, (void)index, (void)value;
    return MSR_OK;
}

static enum msr_status write_only_zero(struct cpu *cpu, uint32_t index, uint64_t value)
{
    (void)cpu, (void)index;
    return value ? MSR_REFUSED : MSR_OK;
}

static enum msr_status read_refused(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    (void)cpu, (void)index, (void)value;
    return MSR_REFUSED;
}

static enum msr_status write_refused(struct cpu *cpu, uint32_t index, uint64_t value)
{
    (void)cpu, (void)index, (void)value;
    return MSR_REFUSED;
}

/* ---- time ---- */

uint64_t msr_tsc(const struct cpu *cpu)
{
    return __rdtsc() + cpu->tsc_offset;
}

static enum msr_status read_tsc(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    (void)index;
    *value = msr_tsc(cpu);
    return MSR_OK;
}

/* A write to the TSC moves IA32_TSC_ADJUST by the same amount, and the other way round (SDM 3B 17.17.3). */
static enum msr_status write_tsc(struct cpu *cpu, uint32_t index, uint64_t value)
{
    uint64_t moved = value - msr_tsc(cpu);

    (void)index;
    cpu->tsc_offset += moved;
    cpu->tsc_adjust += moved;
    return MSR_OK;
}

static enum msr_status write_tsc_adjust(struct cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index;
    cpu->tsc_offset += value - cpu->tsc_adjust;
    cpu->tsc_adjust = value;
    return MSR_OK;
}

/* ---- identification ---- */

static enum msr_status read_feature_control(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    (void)cpu, (void)index;
    *value = FEATURE_CONTROL_LOCKED;
    return MSR_OK;
}

static enum msr_status read_microcode(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    (void)index;
    *value = cpu->cpuid.is_amd ? 0x01000065 : 0x100000000;
    return MSR_OK;
}

static enum msr_status read_arch_capabilities(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    (void)index;
    *value = cpu->cpuid.word[CPUID_ARCH_CAPABILITIES];
    return MSR_OK;
}

static enum msr_status write_apic_base(struct cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index;
    if (value & ~(((BIT64(cpu->physical_bits) - 1) & PAGE_MASK) | 0x900))
        return MSR_REFUSED;
    cpu->apic_base = value;
    return MSR_OK;
}

/* The bits that are not there (records of branches, performance monitoring) are ignored. */
static enum msr_status write_debug_control(struct cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index;
    cpu->debug_control = value & DEBUG_CONTROL_BTF;
    return MSR_OK;
}

/* ---- memory types: 0 UC, 1 WC, 4 WT, 5 WP, 6 WB, and in the PAT 7 UC- (SDM 3A 11.11, 11.12) ---- */

static bool types_are_valid(uint64_t value, unsigned allowed)
{
    for (unsigned i = 0; i < 64; i += 8) {
        uint64_t type = (value >> i) & 0xff;
        if (type > 7 || !((allowed >> type) & 1))
            return false;
    }
    return true;
}

enum { MTRR_TYPES = 0x73, PAT_TYPES = 0xf3 };

bool msr_pat_is_valid(uint64_t value)
{
    return types_are_valid(value, PAT_TYPES);
}

bool msr_mtrr_def_type_is_valid(uint64_t value)
{
    return !(value & ~0xcffull) && types_are_valid(value & 0xff, MTRR_TYPES);
}

static uint64_t address_bits(const struct cpu *cpu)
{
    return (BIT64(cpu->physical_bits) - 1) & PAGE_MASK;
}

bool msr_mtrr_base_is_valid(const struct cpu *cpu, uint64_t value)
{
    return !(value & ~(address_bits(cpu) | 0xff)) && types_are_valid(value & 0xff, MTRR_TYPES);
}

bool msr_mtrr_mask_is_valid(const struct cpu *cpu, uint64_t value)
{
    return !(value & ~(address_bits(cpu) | 0x800));
}

bool msr_mtrr_fixed_is_valid(uint64_t value)
{
    return types_are_valid(value, MTRR_TYPES);
}

static enum msr_status write_pat(struct cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index;
    if (!msr_pat_is_valid(value))
        return MSR_REFUSED;
    cpu->pat = value;
    return MSR_OK;
}

static enum msr_status read_mtrr_cap(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    (void)cpu, (void)index;
    *value = MTRR_CAPABILITIES;
    return MSR_OK;
}

static enum msr_status read_mtrr_range(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    unsigned range = (index - MSR_MTRR_BASE_0) / 2;

    *value = index & 1 ? cpu->mtrr_mask[range] : cpu->mtrr_base[range];
    return MSR_OK;
}

static enum msr_status write_mtrr_range(struct cpu *cpu, uint32_t index, uint64_t value)
{
    unsigned range = (index - MSR_MTRR_BASE_0) / 2;

    if (index & 1) {
        if (!msr_mtrr_mask_is_valid(cpu, value))
            return MSR_REFUSED;
        cpu->mtrr_mask[range] = value;
    } else {
        if (!msr_mtrr_base_is_valid(cpu, value))
            return MSR_REFUSED;
        cpu->mtrr_base[range] = value;
    }
    return MSR_OK;
}

static unsigned fixed_range(uint32_t index)
{
    if (index == MSR_MTRR_FIX64K_00000)
        return 0;
    return index <= MSR_MTRR_FIX16K_A0000 ? 1 + index - MSR_MTRR_FIX16K_80000 : 3 + index - MSR_MTRR_FIX4K_C0000;
}

static enum msr_status read_mtrr_fixed(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    *value = cpu->mtrr_fixed[fixed_range(index)];
    return MSR_OK;
}

static enum msr_status write_mtrr_fixed(struct cpu *cpu, uint32_t index, uint64_t value)
{
    if (!msr_mtrr_fixed_is_valid(value))
        return MSR_REFUSED;
    cpu->mtrr_fixed[fixed_range(index)] = value;
    return MSR_OK;
}

static enum msr_status write_mtrr_def_type(struct cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index;
    if (!msr_mtrr_def_type_is_valid(value))
        return MSR_REFUSED;
    cpu->mtrr_def_type = value;
    return MSR_OK;
}

static enum msr_status write_pkrs(struct cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index;
    if (value >> 32)
        return MSR_REFUSED;
    cpu_set_pkrs(cpu, (uint32_t)value);
    return MSR_OK;
}

/* ---- long mode ---- */

static enum msr_status write_efer(struct cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index;
    return cpu_set_efer(cpu, value) ? MSR_OK : MSR_REFUSED;
}

static enum msr_status read_segment_base(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    *value = cpu->segment[index == MSR_FS_BASE ? SEG_FS : SEG_GS].base;
    return MSR_OK;
}

static enum msr_status write_segment_base(struct cpu *cpu, uint32_t index, uint64_t value)
{
    if (!cpu_is_storable(cpu, value))
        return MSR_REFUSED;
    cpu->segment[index == MSR_FS_BASE ? SEG_FS : SEG_GS].base = value;
    cpu_update_mode(cpu);
    return MSR_OK;
}

/* ---- the table ---- */

#define STORED(field) offsetof(struct cpu, field)
#define ANY           (~0ull)

/* clang-format off */
static const struct row rows[] = {
    {MSR_P5_MC_ADDR,        MSR_P5_MC_TYPE,        NO_FEATURE, 0, 0, read_zero, write_only_zero},
    {MSR_TSC,               MSR_TSC,               FEATURE_TSC, 0, 0, read_tsc, write_tsc},
    {MSR_PLATFORM_ID,       MSR_PLATFORM_ID,       NO_FEATURE, 0, 0, read_zero, write_refused},
    {MSR_APIC_BASE,         MSR_APIC_BASE,         FEATURE_APIC, STORED(apic_base), ANY, NULL, write_apic_base},
    {MSR_FEATURE_CONTROL,   MSR_FEATURE_CONTROL,   NO_FEATURE, 0, 0, read_feature_control, write_refused},
    {MSR_TSC_ADJUST,        MSR_TSC_ADJUST,        FEATURE_TSC_ADJUST, STORED(tsc_adjust), ANY, NULL, write_tsc_adjust},
    {MSR_SPEC_CTRL,         MSR_SPEC_CTRL,         FEATURE_SPEC_CTRL, STORED(spec_ctrl), MSR_SPEC_CTRL_BITS, NULL, NULL},
    {MSR_PRED_CMD,          MSR_PRED_CMD,          FEATURE_SPEC_CTRL, 0, 0, read_refused, write_ignored},
    {MSR_MICROCODE_UPDATE,  MSR_MICROCODE_UPDATE,  NO_FEATURE, 0, 0, read_refused, write_ignored},
    {MSR_MICROCODE_REVISION, MSR_MICROCODE_REVISION, NO_FEATURE, 0, 0, read_microcode, write_ignored},
    {MSR_MTRR_CAP,          MSR_MTRR_CAP,          FEATURE_MTRR, 0, 0, read_mtrr_cap, write_refused},
    {MSR_ARCH_CAPABILITIES, MSR_ARCH_CAPABILITIES, FEATURE_ARCH_CAPABILITIES, 0, 0, read_arch_capabilities, write_refused},
    {MSR_SYSENTER_CS,       MSR_SYSENTER_CS,       FEATURE_SEP, STORED(sysenter_cs), 0xffffffff, NULL, NULL},
    {MSR_SYSENTER_ESP,      MSR_SYSENTER_ESP,      FEATURE_SEP, STORED(sysenter_esp), CANONICAL, NULL, NULL},
    {MSR_SYSENTER_EIP,      MSR_SYSENTER_EIP,      FEATURE_SEP, STORED(sysenter_eip), CANONICAL, NULL, NULL},
    {MSR_MCG_CAP,           MSR_MCG_CAP,           FEATURE_MCA, 0, 0, read_zero, write_refused},
    {MSR_MCG_STATUS,        MSR_MCG_STATUS,        FEATURE_MCA, STORED(mcg_status), 7, NULL, NULL},
    {MSR_MISC_ENABLE,       MSR_MISC_ENABLE,       NO_FEATURE, STORED(misc_enable), ANY, NULL, NULL},
    {MSR_PKRS,              MSR_PKRS,              FEATURE_PKS, STORED(pkrs), 0xffffffff, NULL, write_pkrs},
    {MSR_XSS,               MSR_XSS,               FEATURE_XSAVES, 0, 0, read_zero, write_only_zero}, /* no supervisor state */
    {MSR_DEBUG_CONTROL,     MSR_DEBUG_CONTROL,     NO_FEATURE, STORED(debug_control), 0, NULL, write_debug_control},
    {MSR_MTRR_BASE_0,       MSR_MTRR_MASK_7,       FEATURE_MTRR, 0, 0, read_mtrr_range, write_mtrr_range},
    {MSR_MTRR_FIX64K_00000, MSR_MTRR_FIX64K_00000, FEATURE_MTRR, 0, 0, read_mtrr_fixed, write_mtrr_fixed},
    {MSR_MTRR_FIX16K_80000, MSR_MTRR_FIX16K_A0000, FEATURE_MTRR, 0, 0, read_mtrr_fixed, write_mtrr_fixed},
    {MSR_MTRR_FIX4K_C0000,  MSR_MTRR_FIX4K_F8000,  FEATURE_MTRR, 0, 0, read_mtrr_fixed, write_mtrr_fixed},
    {MSR_PAT,               MSR_PAT,               FEATURE_PAT, STORED(pat), ANY, NULL, write_pat},
    {MSR_MTRR_DEF_TYPE,     MSR_MTRR_DEF_TYPE,     FEATURE_MTRR, STORED(mtrr_def_type), ANY, NULL, write_mtrr_def_type},
    {MSR_EFER,              MSR_EFER,              NO_FEATURE, STORED(efer), ANY, NULL, write_efer},
    {MSR_STAR,              MSR_STAR,              FEATURE_SYSCALL, STORED(star), ANY, NULL, NULL},
    {MSR_LSTAR,             MSR_LSTAR,             FEATURE_LM, STORED(lstar), CANONICAL, NULL, NULL},
    {MSR_CSTAR,             MSR_CSTAR,             FEATURE_LM, STORED(cstar), CANONICAL, NULL, NULL},
    {MSR_SFMASK,            MSR_SFMASK,            FEATURE_SYSCALL, STORED(sfmask), 0xffffffff, NULL, NULL},
    {MSR_FS_BASE,           MSR_GS_BASE,           FEATURE_LM, 0, 0, read_segment_base, write_segment_base},
    {MSR_KERNEL_GS_BASE,    MSR_KERNEL_GS_BASE,    FEATURE_LM, STORED(kernel_gs_base), CANONICAL, NULL, NULL},
    {MSR_TSC_AUX,           MSR_TSC_AUX,           FEATURE_RDTSCP, STORED(tsc_aux), 0xffffffff, NULL, NULL},
};

/* AMD registers that its kernels read or set without asking CPUID; they have no effect here. */
static const struct row amd_rows[] = {
    {0xc0010010, 0xc0010010, NO_FEATURE, 0, 0, read_zero, write_ignored}, /* SYSCFG */
    {0xc0010015, 0xc0010015, NO_FEATURE, 0, 0, read_hwcr, write_ignored}, /* HWCR */
    {0xc001001f, 0xc001001f, NO_FEATURE, 0, 0, read_zero, write_ignored}, /* NB_CFG */
    {0xc0010055, 0xc0010055, NO_FEATURE, 0, 0, read_zero, write_ignored}, /* interrupt pending message */
    {0xc0010058, 0xc0010058, NO_FEATURE, 0, 0, read_zero, write_ignored}, /* MMIO configuration base */
    {0xc0011020, 0xc001102f, NO_FEATURE, 0, 0, read_zero, write_ignored}, /* LS_CFG .. DE_CFG */
};
/* clang-format on */

static const struct row *find_in(const struct row *table, size_t count, uint32_t index)
{
    for (size_t i = 0; i < count; i++)
        if (index >= table[i].first && index <= table[i].last)
            return &table[i];
    return NULL;
}

static const struct row *find(const struct cpu *cpu, uint32_t index)
{
    const struct row *row = find_in(rows, array_size(rows), index);

    if (!row && cpu->cpuid.is_amd)
        row = find_in(amd_rows, array_size(amd_rows), index);
    if (row && row->feature != NO_FEATURE && !cpuid_has(&cpu->cpuid, row->feature))
        return NULL;
    return row;
}

bool msr_is_known(const struct cpu *cpu, uint32_t index)
{
    return find(cpu, index) != NULL;
}

enum msr_status msr_read(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    const struct row *row = find(cpu, index);

    if (!row)
        return MSR_UNKNOWN;
    if (row->read)
        return row->read(cpu, index, value);
    *value = *(const uint64_t *)(const void *)((const char *)cpu + row->offset);
    return MSR_OK;
}

enum msr_status msr_write(struct cpu *cpu, uint32_t index, uint64_t value)
{
    const struct row *row = find(cpu, index);

    if (!row)
        return MSR_UNKNOWN;
    if (row->write)
        return row->write(cpu, index, value);
    if (row->valid == CANONICAL ? !cpu_is_storable(cpu, value) : (value & ~row->valid) != 0)
        return MSR_REFUSED;
    *(uint64_t *)(void *)((char *)cpu + row->offset) = value;
    return MSR_OK;
}
