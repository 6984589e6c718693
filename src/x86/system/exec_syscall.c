/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM 2B under each name, APM 3). The two vendors differ outside 64-bit mode: Intel has
 * SYSCALL only in 64-bit mode, AMD has SYSENTER only in legacy mode; the guest sees the vendor that CPUID names.
 */
#include "x86/system/control.h"
#include "x86/system/descriptor.h"
#include "x86/system/exec_system.h"
#include "x86/vendor.h"

/* CS and SS of these instructions are fixed, no descriptor is read. */
static struct segment flat_code(uint16_t selector, unsigned dpl, bool is_64)
{
    return (struct segment){
        .limit = 0xffffffff,
        .selector = selector,
        .attributes = (uint16_t)(SEG_P | SEG_S | SEG_TYPE_CODE | SEG_TYPE_READABLE | SEG_TYPE_ACCESSED |
                                 dpl << SEG_DPL_SHIFT | SEG_G | (is_64 ? SEG_L : SEG_DB)),
    };
}

static struct segment flat_data(uint16_t selector, unsigned dpl)
{
    return (struct segment){
        .limit = 0xffffffff,
        .selector = selector,
        .attributes = (uint16_t)(SEG_P | SEG_S | SEG_TYPE_WRITABLE | SEG_TYPE_ACCESSED | dpl << SEG_DPL_SHIFT | SEG_G | SEG_DB),
    };
}

static void set_segments(struct cpu *cpu, struct segment cs, struct segment ss, unsigned cpl)
{
    cpu->segment[SEG_CS] = cs;
    cpu->segment[SEG_SS] = ss;
    cpu->cpl = (uint8_t)cpl;
}

/* ---- SYSCALL, SYSRET ---- */

static bool syscall_exists(const struct cpu *cpu)
{
    if (!(cpu->efer & EFER_SCE) || !cpu_is_protected(cpu))
        return false;
    return cpu_is_64(cpu) || vendor_has_legacy_syscall(cpu);
}

enum exec_result exec_syscall(struct cpu *cpu, const struct insn *insn)
{
    const uint16_t selector = (uint16_t)(cpu->star >> 32);

    (void)insn;
    if (!syscall_exists(cpu))
        return exec_done(raise_ud(cpu));
    if (!cpu_is_long(cpu)) {
        /* AMD, legacy mode: the target is in STAR, flags but IF, VM and RF survive. */
        cpu->gpr[REG_RCX].q = (uint32_t)cpu->next_rip;
        cpu->next_rip = (uint32_t)cpu->star;
        set_segments(cpu, flat_code(selector & 0xfffc, 0, false), flat_data((uint16_t)(selector + 8) & 0xfffc, 0), 0);
        cpu_set_rflags(cpu, cpu_rflags(cpu) & ~(RFLAGS_IF | RFLAGS_VM | RFLAGS_RF));
    } else {
        const uint64_t flags = cpu_rflags(cpu) & ~RFLAGS_RF;
        cpu->gpr[REG_RCX].q = cpu->next_rip;
        cpu->gpr[REG_R8 + 3].q = flags;
        cpu->next_rip = cpu_is_64(cpu) ? cpu->lstar : cpu->cstar;
        set_segments(cpu, flat_code(selector & 0xfffc, 0, true), flat_data((uint16_t)(selector + 8) & 0xfffc, 0), 0);
        cpu_set_rflags(cpu, flags & ~cpu->sfmask);
        /* The single-step trap follows the new TF. */
        cpu->trap_cancelled = !(cpu->rflags & RFLAGS_TF);
    }
    cpu_update_mode(cpu);
    return EXEC_END;
}

enum exec_result exec_sysret(struct cpu *cpu, const struct insn *insn)
{
    const uint16_t base = (uint16_t)(cpu->star >> 48);
    const bool to_64 = insn->operand_size == 8;
    const uint64_t rcx = cpu->gpr[REG_RCX].q;

    if (!syscall_exists(cpu))
        return exec_done(raise_ud(cpu));
    if (!require_supervisor(cpu))
        return EXEC_LEAVE;
    if (to_64 && vendor_checks_sysret(cpu) && !cpu_is_canonical(cpu, rcx))
        return exec_done(raise_gp(cpu, 0));
    struct segment ss = flat_data((uint16_t)((base + 8) | 3), 3);
    if (vendor_sysret_keeps_ss(cpu)) {
        ss = cpu->segment[SEG_SS];
        ss.selector = (uint16_t)((base + 8) | 3);
        ss.attributes |= 3u << SEG_DPL_SHIFT;
    }
    cpu->next_rip = to_64 ? rcx : (uint32_t)rcx;
    set_segments(cpu, flat_code((uint16_t)((base + (to_64 ? 16 : 0)) | 3), 3, to_64), ss, 3);
    if (cpu_is_long(cpu)) {
        const uint64_t loaded = RFLAGS_ALL & ~(RFLAGS_RF | RFLAGS_VM);
        cpu_set_rflags(cpu, cpu->gpr[REG_R8 + 3].q & loaded);
    } else {
        cpu_set_rflags(cpu, cpu_rflags(cpu) | RFLAGS_IF);
    }
    cpu_update_mode(cpu);
    return EXEC_END;
}

/* ---- SYSENTER, SYSEXIT ---- */

static bool sysenter_exists(const struct cpu *cpu)
{
    return cpuid_has(&cpu->cpuid, FEATURE_SEP) && (vendor_has_long_sysenter(cpu) || !cpu_is_long(cpu));
}

enum exec_result exec_sysenter(struct cpu *cpu, const struct insn *insn)
{
    const uint16_t selector = (uint16_t)(cpu->sysenter_cs & 0xfffc);
    const bool is_long = cpu_is_long(cpu);

    (void)insn;
    if (!sysenter_exists(cpu))
        return exec_done(raise_ud(cpu));
    if (cpu_is_real(cpu) || !selector)
        return exec_done(raise_gp(cpu, 0));
    cpu->gpr[REG_RSP].q = is_long ? cpu->sysenter_esp : (uint32_t)cpu->sysenter_esp;
    cpu->next_rip = is_long ? cpu->sysenter_eip : (uint32_t)cpu->sysenter_eip;
    set_segments(cpu, flat_code(selector, 0, is_long), flat_data((uint16_t)(selector + 8), 0), 0);
    cpu_set_rflags(cpu, cpu_rflags(cpu) & ~(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF));
    cpu_update_mode(cpu);
    return EXEC_END;
}

enum exec_result exec_sysexit(struct cpu *cpu, const struct insn *insn)
{
    const uint16_t base = (uint16_t)(cpu->sysenter_cs & 0xfffc);
    const bool to_64 = insn->operand_size == 8;
    const uint64_t rip = cpu->gpr[REG_RDX].q, rsp = cpu->gpr[REG_RCX].q;

    if (!sysenter_exists(cpu))
        return exec_done(raise_ud(cpu));
    if (!cpu_is_protected(cpu) || cpu->cpl != 0 || !base)
        return exec_done(raise_gp(cpu, 0));
    if (to_64 && (!cpu_is_canonical(cpu, rip) || !cpu_is_canonical(cpu, rsp)))
        return exec_done(raise_gp(cpu, 0));
    cpu->next_rip = to_64 ? rip : (uint32_t)rip;
    cpu->gpr[REG_RSP].q = to_64 ? rsp : (uint32_t)rsp;
    const uint16_t cs = (uint16_t)((base + (to_64 ? 32 : 16)) | 3);
    set_segments(cpu, flat_code(cs, 3, to_64), flat_data((uint16_t)(cs + 8), 3), 3);
    cpu_update_mode(cpu);
    return EXEC_END;
}
