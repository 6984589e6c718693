/* Writes to control registers, debug registers and EFER; the contract is in control.h. */
#include "x86/system/control.h"

#include <string.h>

#include "x86/memory/memory.h"
#include "x86/memory/physical.h"
#include "x86/memory/tlb.h"
#include "x86/port.h"

#define CR0_MASK (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR3_NO_FLUSH BIT64(63)
#define PAE_PDPTE_RESERVED 0x1e6ull

/* Bits whose change makes translations stale (SDM 3A 4.10.4.1). */
#define CR0_PAGING (CR0_PG | CR0_WP)
#define CR4_PAGING (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS | CR4_LA57)

static bool is_extended(uint64_t address, unsigned bits)
{
    return (uint64_t)((int64_t)(address << (64 - bits)) >> (64 - bits)) == address;
}

bool cpu_is_canonical(const struct cpu *cpu, uint64_t address)
{
    return is_extended(address, cpu->cr4 & CR4_LA57 ? 57 : 48);
}

bool cpu_is_storable(const struct cpu *cpu, uint64_t address)
{
    return is_extended(address, cpuid_has(&cpu->cpuid, FEATURE_LA57) ? 57 : 48);
}

static bool uses_pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

/* ---- page-directory-pointer entries (SDM 3A 4.4.1) ---- */

/* Read the four entries CR3 points at. False: #GP(0) for a reserved bit, or an exit. */
static bool read_pdptes(struct cpu *cpu, uint64_t cr3, uint64_t pdpte[4])
{
    const uint64_t reserved = ~(BIT64(cpu->physical_bits) - 1) | PAE_PDPTE_RESERVED;

    for (unsigned i = 0; i < 4; i++) {
        if (!physical_read64(cpu, (cr3 & 0xffffffe0u) + i * 8, &pdpte[i]))
            return false;
        if ((pdpte[i] & PTE_P) && (pdpte[i] & reserved))
            return raise_gp(cpu, 0);
    }
    return true;
}

/* ---- CR0 ---- */

static bool cr0_is_consistent(uint64_t value)
{
    if (value >> 32)
        return false;
    if ((value & CR0_PG) && !(value & CR0_PE))
        return false;
    return !(value & CR0_NW) || (value & CR0_CD);
}

static bool has_16bit_tss(const struct cpu *cpu)
{
    unsigned type = cpu->segment[SEG_TR].attributes & (SEG_TYPE_MASK | SEG_S);
    return type == 1 || type == 3;
}

/* May paging be switched on or off here? SDM 3A 9.8.5, 2B MOV CR. */
static bool paging_switch_allowed(const struct cpu *cpu, uint64_t value)
{
    const bool cs_long = cpu->segment[SEG_CS].attributes & SEG_L;

    if ((value & CR0_PG) && (cpu->efer & EFER_LME))
        return (cpu->cr4 & CR4_PAE) && !cs_long && !has_16bit_tss(cpu);
    if (!(value & CR0_PG))
        return !cpu_is_64(cpu) && !(cpu->cr4 & CR4_PCIDE);
    return true;
}

bool cpu_set_cr0(struct cpu *cpu, uint64_t value)
{
    uint64_t pdpte[4], efer = cpu->efer;
    uint64_t changed;

    if (!cr0_is_consistent(value))
        return raise_gp(cpu, 0);
    value = (value & CR0_MASK) | CR0_ET;
    changed = cpu->cr0 ^ value;
    if ((changed & CR0_PG) && !paging_switch_allowed(cpu, value))
        return raise_gp(cpu, 0);
    if (changed & CR0_PG)
        efer = (value & CR0_PG) && (efer & EFER_LME) ? efer | EFER_LMA : efer & ~EFER_LMA;
    bool loads = uses_pae_paging(value, cpu->cr4, efer) && (changed & (CR0_PG | CR0_CD | CR0_NW));
    if (loads && !read_pdptes(cpu, cpu->cr3, pdpte))
        return false;

    if (loads)
        memcpy(cpu->pdpte, pdpte, sizeof(pdpte));
    cpu->cr0 = value;
    cpu->efer = efer;
    cpu_update_mode(cpu);
    if (changed & CR0_PAGING)
        cpu_flush_tlb(cpu, false);
    return true;
}

/* ---- CR3 ---- */

static bool cr3_is_valid(const struct cpu *cpu, uint64_t value)
{
    return !(cpu->efer & EFER_LMA) || !(value >> cpu->physical_bits);
}

bool cpu_set_cr3(struct cpu *cpu, uint64_t value)
{
    uint64_t pdpte[4];
    bool pae = uses_pae_paging(cpu->cr0, cpu->cr4, cpu->efer);

    const bool has_pcid = cpu->cr4 & CR4_PCIDE;
    const bool keep = has_pcid && (value & CR3_NO_FLUSH);

    if (has_pcid)
        value &= ~CR3_NO_FLUSH; /* not stored */
    if (!cr3_is_valid(cpu, value))
        return raise_gp(cpu, 0);
    if (pae && !read_pdptes(cpu, value, pdpte))
        return false;
    if (pae)
        memcpy(cpu->pdpte, pdpte, sizeof(pdpte));
    cpu->cr3 = value;
    tlb_enter_space(cpu, has_pcid ? value & 0xfff : 0, keep);
    return true;
}

/* ---- CR4 ---- */

uint64_t cpu_cr4_mask(const struct cpu *cpu)
{
    static const struct {
        uint16_t feature;
        uint64_t bits;
    } by_feature[] = {
        {FEATURE_VME, CR4_VME | CR4_PVI}, {FEATURE_DE, CR4_DE},       {FEATURE_PSE, CR4_PSE},         {FEATURE_PAE, CR4_PAE},
        {FEATURE_MCE, CR4_MCE},     {FEATURE_PGE, CR4_PGE},         {FEATURE_FXSR, CR4_OSFXSR},
        {FEATURE_SSE, CR4_OSXMMEXCPT}, {FEATURE_UMIP, CR4_UMIP},    {FEATURE_FSGSBASE, CR4_FSGSBASE},
        {FEATURE_PCID, CR4_PCIDE},  {FEATURE_SMEP, CR4_SMEP},       {FEATURE_SMAP, CR4_SMAP},
        {FEATURE_TSC, CR4_TSD},     {FEATURE_XSAVE, CR4_OSXSAVE},   {FEATURE_PKU, CR4_PKE},
        {FEATURE_PKS, CR4_PKS},     {FEATURE_LA57, CR4_LA57},
    };
    uint64_t mask = CR4_PCE;

    for (size_t i = 0; i < array_size(by_feature); i++)
        if (cpuid_has(&cpu->cpuid, by_feature[i].feature))
            mask |= by_feature[i].bits;
    return mask;
}

uint64_t cpu_xcr0_mask(const struct cpu *cpu)
{
    return XCR0_X87 | XCR0_SSE | (cpuid_has(&cpu->cpuid, FEATURE_AVX) ? XCR0_AVX : 0) |
           (cpuid_has(&cpu->cpuid, FEATURE_PKU) ? XCR0_PKRU : 0);
}

/* x87 is always on, AVX needs SSE (SDM 3A 2.6). */
bool cpu_xcr0_is_valid(const struct cpu *cpu, uint64_t value)
{
    return (value & XCR0_X87) && !(value & ~cpu_xcr0_mask(cpu)) && (!(value & XCR0_AVX) || (value & XCR0_SSE));
}

static bool cr4_switch_allowed(const struct cpu *cpu, uint64_t value)
{
    const uint64_t changed = cpu->cr4 ^ value;
    const bool is_long = cpu->efer & EFER_LMA;

    if (value & ~cpu_cr4_mask(cpu))
        return false;
    if (is_long && (!(value & CR4_PAE) || (changed & CR4_LA57)))
        return false;
    if ((changed & CR4_PCIDE) && (value & CR4_PCIDE))
        return is_long && !(cpu->cr3 & 0xfff);
    return true;
}

bool cpu_set_cr4(struct cpu *cpu, uint64_t value)
{
    const uint64_t changed = cpu->cr4 ^ value;
    uint64_t pdpte[4];

    if (!cr4_switch_allowed(cpu, value))
        return raise_gp(cpu, 0);
    bool loads = uses_pae_paging(cpu->cr0, value, cpu->efer) && (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP));
    if (loads && !read_pdptes(cpu, cpu->cr3, pdpte))
        return false;

    if (loads)
        memcpy(cpu->pdpte, pdpte, sizeof(pdpte));
    cpu->cr4 = value;
    cpu_update_mode(cpu);
    if (changed & CR4_PAGING)
        cpu_flush_tlb(cpu, false);
    return true;
}

/* ---- CR8, EFER, debug registers ---- */

bool cpu_set_cr8(struct cpu *cpu, uint64_t value)
{
    if (value > 15)
        return raise_gp(cpu, 0);
    cpu->cr8 = value;
    if (cpu->port->write_cr8)
        cpu->port->write_cr8(cpu, value);
    return true;
}

uint64_t cpu_efer_mask(const struct cpu *cpu)
{
    uint64_t mask = 0;

    if (cpuid_has(&cpu->cpuid, FEATURE_SYSCALL))
        mask |= EFER_SCE;
    if (cpuid_has(&cpu->cpuid, FEATURE_LM))
        mask |= EFER_LME | EFER_LMA;
    if (cpuid_has(&cpu->cpuid, FEATURE_NX))
        mask |= EFER_NXE;
    return mask;
}

bool cpu_set_efer(struct cpu *cpu, uint64_t value)
{
    const uint64_t changed = cpu->efer ^ value;

    if (value & ~cpu_efer_mask(cpu))
        return raise_gp(cpu, 0);
    if ((changed & EFER_LME) && (cpu->cr0 & CR0_PG))
        return raise_gp(cpu, 0);
    cpu->efer = (value & ~EFER_LMA) | (cpu->efer & EFER_LMA);
    cpu_update_mode(cpu);
    if (changed & EFER_NXE)
        cpu_flush_tlb(cpu, false);
    return true;
}

bool cpu_set_dr(struct cpu *cpu, unsigned number, uint64_t value)
{
    if (number < 4) {
        cpu->dr[number] = value;
    } else if (value >> 32) {
        return raise_gp(cpu, 0);
    } else if (number == 6 || number == 4) {
        cpu->dr6 = (value & DR6_WRITABLE) | DR6_FIXED;
    } else {
        cpu->dr7 = (value & DR7_WRITABLE) | DR7_FIXED;
    }
    cpu_update_mode(cpu);
    return true;
}

/* ---- protection keys (SDM 3A 4.6.2) ---- */

/* Keys for which a right is denied that was not before: bits 2n and 2n+1 deny access and writes with key n. */
static unsigned restricted(uint32_t before, uint32_t after)
{
    unsigned keys = 0;

    for (unsigned key = 0; key < 16; key++)
        if ((after & ~before) >> 2 * key & 3)
            keys |= 1u << key;
    return keys;
}

static void keys_changed(struct cpu *cpu, uint64_t enabled_by, uint32_t before, uint32_t after)
{
    /* Allowing more needs nothing: what was denied is in no TLB. */
    if ((cpu->cr4 & enabled_by) && (after & ~before))
        tlb_restrict_keys(cpu, restricted(before, after));
}

void cpu_set_pkru(struct cpu *cpu, uint32_t value)
{
    const uint32_t before = cpu->pkru;

    cpu->pkru = value;
    keys_changed(cpu, CR4_PKE, before, value);
}

void cpu_set_pkrs(struct cpu *cpu, uint32_t value)
{
    const uint32_t before = (uint32_t)cpu->pkrs;

    cpu->pkrs = value;
    keys_changed(cpu, CR4_PKS, before, value);
}

/* ---- registers set from outside ---- */

const char *cpu_control_problem(const struct cpu *cpu)
{
    const bool paging = cpu->cr0 & CR0_PG;
    const bool is_long = cpu->efer & EFER_LMA;

    if (!cr0_is_consistent(cpu->cr0))
        return "CR0: bits above 31, PG without PE, or NW without CD";
    if (cpu->cr4 & ~cpu_cr4_mask(cpu))
        return "CR4: a bit of a feature the processor does not have";
    if (cpu->efer & ~cpu_efer_mask(cpu))
        return "EFER: a reserved bit";
    if (is_long != (paging && (cpu->efer & EFER_LME)))
        return "EFER.LMA is not EFER.LME and CR0.PG";
    if (is_long && !(cpu->cr4 & CR4_PAE))
        return "long mode without CR4.PAE";
    if (!is_long && (cpu->cr4 & CR4_PCIDE))
        return "CR4.PCIDE outside long mode";
    if (is_long && (cpu->rflags & RFLAGS_VM))
        return "RFLAGS.VM in long mode";
    if (!cr3_is_valid(cpu, cpu->cr3))
        return "CR3: bits beyond the physical address width";
    if (cpu->cr8 > 15)
        return "CR8 above 15";
    if ((cpu->dr6 >> 32) || (cpu->dr7 >> 32))
        return "DR6 or DR7: bits above 31";
    if ((cpu->rflags & ~RFLAGS_ALL & ~RFLAGS_ONE) || !(cpu->rflags & RFLAGS_ONE))
        return "RFLAGS: a reserved bit";
    if (cpu_is_64(cpu) && !cpu_is_canonical(cpu, cpu->rip))
        return "RIP is not canonical";
    return NULL;
}

/* With byte granularity a limit has 20 bits, with page granularity its low 12 are ones. */
static bool limit_is_possible(const struct segment *s)
{
    return s->attributes & SEG_G ? (s->limit & 0xfff) == 0xfff : s->limit <= 0xfffff;
}

static bool base_is_possible(const struct cpu *cpu, unsigned i, uint64_t base)
{
    if (!(cpu->efer & EFER_LMA) || (i != SEG_FS && i != SEG_GS && i != SEG_LDTR && i != SEG_TR))
        return !(base >> 32);
    return cpu_is_storable(cpu, base);
}

const char *cpu_segment_problem(const struct cpu *cpu, unsigned which)
{
    const uint16_t both = SEG_L | SEG_DB;

    if ((which & 1u << SEG_CS) && (cpu->efer & EFER_LMA) && (cpu->segment[SEG_CS].attributes & both) == both)
        return "CS: L and D";
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        const struct segment *s = &cpu->segment[i];
        if (!(which >> i & 1) || !(s->attributes & SEG_P))
            continue;
        if (!limit_is_possible(s))
            return "a segment's limit does not fit its granularity";
        if (!base_is_possible(cpu, i, s->base))
            return "a segment's base is not an address";
    }
    return NULL;
}

void cpu_control_changed(struct cpu *cpu)
{
    memset(cpu->pdpte, 0, sizeof(cpu->pdpte));
    if (uses_pae_paging(cpu->cr0, cpu->cr4, cpu->efer))
        for (unsigned i = 0; i < 4; i++)
            if (!physical_peek64(cpu, (cpu->cr3 & 0xffffffe0u) + i * 8, &cpu->pdpte[i]))
                cpu->pdpte[i] = 0;
    cpu_update_mode(cpu);
    cpu_flush_tlb(cpu, false);
}
