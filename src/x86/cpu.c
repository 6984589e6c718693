/* The processor as a whole: creation, reset, mode and flags, raising exceptions. */
#include "x86/cpu.h"

#include <stdlib.h>
#include <string.h>

#include "util/check.h"
#include "x86/code/code.h"
#include "x86/integer/aflags.h"
#include "x86/memory/tlb.h"
#include "x86/system/debug.h"
#include "x86/system/msr.h"
#include "x86/system/random.h"
#include "x86/vendor.h"

struct cpu *cpu_create(const struct cpu_port *port, void *port_context, unsigned physical_bits)
{
    struct cpu *cpu = cpu_create_bare(port, port_context, physical_bits);

    if (cpu && !code_create(cpu)) {
        cpu_destroy(cpu);
        return NULL;
    }
    return cpu;
}

struct cpu *cpu_create_bare(const struct cpu_port *port, void *port_context, unsigned physical_bits)
{
    struct cpu *cpu = aligned_alloc(64, (sizeof(*cpu) + 63) & ~(size_t)63);

    if (!cpu)
        return NULL;
    memset(cpu, 0, sizeof(*cpu));
    cpu->port = port;
    cpu->port_context = port_context;
    cpu->physical_bits = (uint8_t)physical_bits;
    cpu->verify_epoch = 1;
    cpuid_init(&cpu->cpuid);
    if (!tlb_create(cpu)) {
        cpu_destroy(cpu);
        return NULL;
    }
    cpu_reset(cpu, false);
    return cpu;
}

void cpu_destroy(struct cpu *cpu)
{
    if (!cpu)
        return;
    code_destroy(cpu);
    tlb_destroy(cpu);
    random_destroy(cpu->random);
    free(cpu);
}

/* ---- flags ---- */

uint64_t cpu_rflags(const struct cpu *cpu)
{
    return cpu->rflags | aflags_to_rflags(cpu->aflags);
}

void cpu_set_rflags(struct cpu *cpu, uint64_t rflags)
{
    uint64_t changed;

    cpu->aflags = aflags_from_rflags(rflags);
    rflags = (rflags & ~RFLAGS_ARITHMETIC) | RFLAGS_ONE;
    changed = cpu->rflags ^ rflags;
    cpu->rflags = rflags;
    if (changed & (RFLAGS_VM | RFLAGS_AC))
        cpu_update_mode(cpu);
    if (changed & (RFLAGS_IF | RFLAGS_TF))
        cpu_interrupts_enabled(cpu);
}

/* ---- what follows from control and segment registers ---- */

/* Offsets below the bound are valid without a look at the descriptor. */
static void update_bounds(struct cpu *cpu, unsigned i)
{
    const struct segment *s = &cpu->segment[i];
    bool usable = (s->attributes & (SEG_P | SEG_S)) == (SEG_P | SEG_S);
    bool code = s->attributes & SEG_TYPE_CODE;
    bool expand_down = !code && (s->attributes & SEG_TYPE_EXPAND_DOWN);
    uint64_t bound = usable && !expand_down ? (uint64_t)s->limit + 1 : 0;

    cpu->read_bound[i] = code && !(s->attributes & SEG_TYPE_READABLE) ? 0 : bound;
    cpu->write_bound[i] = !code && (s->attributes & SEG_TYPE_WRITABLE) ? bound : 0;
}

static unsigned tlb_mode(const struct cpu *cpu)
{
    bool alignment = cpu->cpl == 3 && (cpu->cr0 & CR0_AM) && (cpu->rflags & RFLAGS_AC);

    if (alignment || (cpu->debug_watch & DEBUG_DATA))
        return TLB_MODE_SLOW;
    if (cpu->cpl == 3)
        return TLB_MODE_USER;
    return (cpu->cr4 & CR4_SMAP) && (cpu->rflags & RFLAGS_AC) ? TLB_MODE_NO_SMAP : TLB_MODE_SUPERVISOR;
}

void cpu_update_mode(struct cpu *cpu)
{
    const struct segment *cs = &cpu->segment[SEG_CS];
    uint32_t mode = 0;

    if (cpu_is_long(cpu))
        mode |= MODE_LONG;
    if (cpu_is_long(cpu) && (cs->attributes & SEG_L))
        mode |= MODE_64 | vendor_mode(cpu);
    else if (cs->attributes & SEG_DB)
        mode |= MODE_CS32;
    if (cpu->segment[SEG_SS].attributes & SEG_DB)
        mode |= MODE_SS32;
    if (cpu_is_protected(cpu))
        mode |= MODE_PROTECTED;
    cpu->mode = mode;
    if (!(mode & MODE_64)) {
        for (unsigned i = SEG_ES; i <= SEG_GS; i++)
            update_bounds(cpu, i);
        if (cpu->code_base != cs->base || cpu->code_limit != cs->limit) {
            /* Look-ups by linear address and links between blocks assume the base and the limit. */
            cpu->code_base = cs->base;
            cpu->code_limit = cs->limit;
            tlb_forget_jumps(cpu);
            cpu_verify_code(cpu);
        }
    }
    debug_update(cpu);
    tlb_update_keys(cpu, tlb_mode(cpu));
    code_update_jump_key(cpu);
}

void cpu_flush_tlb(struct cpu *cpu, bool keep_global)
{
    if (keep_global)
        tlb_flush_local(cpu);
    else
        tlb_flush(cpu);
}

void cpu_flush_page(struct cpu *cpu, gva_t address)
{
    tlb_flush_page(cpu, address);
}

void cpu_drop_memory(struct cpu *cpu, bool writes_only)
{
    if (writes_only)
        tlb_flush_writes(cpu);
    else
        tlb_forget_host(cpu);
}

/* ---- reset ---- */

static void reset_segments(struct cpu *cpu)
{
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->segment[i] = (struct segment){.limit = 0xffff, .attributes = SEG_P | SEG_S | SEG_TYPE_WRITABLE | SEG_TYPE_ACCESSED};
    cpu->segment[SEG_CS] = (struct segment){.base = 0xf0000, .limit = 0xffff, .selector = 0xf000,
                                            .attributes = SEG_P | SEG_S | SEG_TYPE_CODE | SEG_TYPE_READABLE | SEG_TYPE_ACCESSED};
    cpu->segment[SEG_LDTR] = (struct segment){.limit = 0xffff, .attributes = SEG_P | 2};
    cpu->segment[SEG_TR] = (struct segment){.limit = 0xffff, .attributes = SEG_P | 11};
    cpu->gdtr = cpu->idtr = (struct table_register){.limit = 0xffff};
}

/* What INIT leaves alone (SDM 3A table 9-1). */
static void reset_floating_point(struct cpu *cpu)
{
    memset(cpu->vector, 0, sizeof(cpu->vector));
    memset(&cpu->x87, 0, sizeof(cpu->x87));
    cpu->x87.control = 0x37f;
    cpu->mxcsr = cpu->x87.mxcsr = 0x1f80;
    cpu->x87.mxcsr_mask = 0xffff;
    cpu->xcr0 = 1;
    cpu->pkru = 0;
}

static void reset_msrs(struct cpu *cpu)
{
    cpu->pat = PAT_RESET;
    cpu->misc_enable = MISC_ENABLE_RESET;
    cpu->debug_control = 0;
    cpu->star = cpu->lstar = cpu->cstar = cpu->sfmask = cpu->kernel_gs_base = 0;
    cpu->sysenter_cs = cpu->sysenter_esp = cpu->sysenter_eip = 0;
    cpu->tsc_aux = cpu->spec_ctrl = cpu->xss = 0;
    cpu->pkrs = 0;
    cpu->mtrr_def_type = 0;
    cpu->apic_base = APIC_BASE_RESET | 0x900; /* enabled, bootstrap processor */
    cpu->tsc_adjust = cpu->mcg_status = 0;
    memset(cpu->mtrr_base, 0, sizeof(cpu->mtrr_base));
    memset(cpu->mtrr_mask, 0, sizeof(cpu->mtrr_mask));
    memset(cpu->mtrr_fixed, 0, sizeof(cpu->mtrr_fixed));
}

void cpu_reset(struct cpu *cpu, bool init)
{
    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    cpu->gpr[REG_RDX].q = 0x600; /* family 6 */
    cpu->rip = 0xfff0;
    cpu->aflags = aflags_from_rflags(0);
    cpu->rflags = RFLAGS_ONE;
    reset_segments(cpu);
    cpu->cr0 = init ? (cpu->cr0 & (CR0_CD | CR0_NW)) | CR0_ET : CR0_CD | CR0_NW | CR0_ET;
    cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->cr8 = cpu->efer = 0;
    memset(cpu->dr, 0, sizeof(cpu->dr));
    cpu->dr6 = 0xffff0ff0;
    cpu->dr7 = 0x400;
    cpu->cpl = 0;
    cpu->debug_pending = cpu->debug_held = 0;
    cpu->interrupt_shadow = cpu->debug_shadow = cpu->nmi_masked = cpu->memory_event = false;
    if (!init) {
        reset_floating_point(cpu);
        reset_msrs(cpu);
    }
    cpu_flush_tlb(cpu, false);
    cpu_update_mode(cpu);
}

/* ---- exceptions ---- */

static bool raise(struct cpu *cpu, struct cpu_fault fault)
{
    cpu->fault = fault;
    cpu->leave = LEAVE_FAULT;
    return false;
}

bool raise_fault(struct cpu *cpu, uint8_t vector)
{
    return raise(cpu, (struct cpu_fault){.vector = vector});
}

bool raise_error(struct cpu *cpu, uint8_t vector, uint32_t error)
{
    return raise(cpu, (struct cpu_fault){.vector = vector, .has_error = true, .error = error});
}

bool raise_page_fault(struct cpu *cpu, gva_t address, uint32_t error)
{
    return raise(cpu, (struct cpu_fault){.vector = VECTOR_PF, .has_error = true, .error = error, .address = address});
}
