/*
 * The table of system instructions, the short ones themselves (HLT, CLI, STI, CLAC, STAC, cache control, VMCALL), and the
 * binding of instructions that share a mnemonic with ordinary ones.
 */
#include "x86/system/exec_system.h"

/* ---- interrupt flag (SDM 2A CLI, 2B STI; CR4.PVI and CR4.VME: VIF instead of IF) ---- */

enum flag_choice { FLAG_IF, FLAG_VIF, FLAG_REFUSED };

static enum flag_choice interrupt_flag_choice(const struct cpu *cpu)
{
    const unsigned iopl = (cpu->rflags >> 12) & 3;

    if (cpu_is_real(cpu) || cpu->cpl <= iopl)
        return FLAG_IF;
    if (cpu_is_v86(cpu))
        return cpu->cr4 & CR4_VME ? FLAG_VIF : FLAG_REFUSED;
    return cpu->cpl == 3 && (cpu->cr4 & CR4_PVI) ? FLAG_VIF : FLAG_REFUSED;
}

static enum exec_result exec_cli(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    switch (interrupt_flag_choice(cpu)) {
    case FLAG_IF: cpu->rflags &= ~RFLAGS_IF; return EXEC_NEXT;
    case FLAG_VIF: cpu->rflags &= ~RFLAGS_VIF; return EXEC_NEXT;
    default: return exec_done(raise_gp(cpu, 0));
    }
}

static enum exec_result exec_sti(struct cpu *cpu, const struct insn *insn)
{
    const enum flag_choice choice = interrupt_flag_choice(cpu);

    (void)insn;
    if (choice == FLAG_REFUSED || (choice == FLAG_VIF && (cpu->rflags & RFLAGS_VIP)))
        return exec_done(raise_gp(cpu, 0));
    if (choice == FLAG_VIF) {
        cpu->rflags |= RFLAGS_VIF;
        return EXEC_NEXT;
    }
    if (cpu->rflags & RFLAGS_IF)
        return EXEC_NEXT;
    cpu->rflags |= RFLAGS_IF;
    cpu->interrupt_shadow = true;
    cpu_interrupts_enabled(cpu);
    return EXEC_END;
}

/* ---- SMAP's window ---- */

static enum exec_result set_ac(struct cpu *cpu, bool value)
{
    if (!cpuid_has(&cpu->cpuid, FEATURE_SMAP) || cpu->cpl != 0)
        return exec_done(raise_ud(cpu));
    cpu->rflags = (cpu->rflags & ~RFLAGS_AC) | (value ? RFLAGS_AC : 0);
    cpu_update_mode(cpu);
    return EXEC_NEXT;
}

static enum exec_result exec_stac(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return set_ac(cpu, true);
}

static enum exec_result exec_clac(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return set_ac(cpu, false);
}

/* ---- the rest ---- */

static enum exec_result exec_hlt(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (!require_supervisor(cpu))
        return EXEC_LEAVE;
    cpu->rip = cpu->next_rip;
    cpu->leave = LEAVE_HALT;
    return EXEC_LEAVE;
}

/* INVD, WBINVD: there is no cache to write back. */
static enum exec_result exec_cache(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return exec_done(require_supervisor(cpu));
}

static enum exec_result exec_vmcall(struct cpu *cpu, const struct insn *insn)
{
    enum port_result answer = cpu->port->hypercall ? cpu->port->hypercall(cpu) : PORT_DEFAULT;

    (void)insn;
    if (answer == PORT_DEFAULT)
        return exec_done(raise_ud(cpu));
    return exec_port(cpu, answer) ? EXEC_END : EXEC_LEAVE;
}

/* Serializing instructions end their block (SDM 3A 8.3): code that another processor has changed before is seen behind them. */
/* clang-format off */
const struct exec_entry exec_system_table[] = {
    {ZYDIS_MNEMONIC_LMSW, exec_lmsw, true},     {ZYDIS_MNEMONIC_SMSW, exec_smsw, false},   {ZYDIS_MNEMONIC_CLTS, exec_clts, true},
    {ZYDIS_MNEMONIC_XGETBV, exec_xgetbv, false}, {ZYDIS_MNEMONIC_XSETBV, exec_xsetbv, true},
    {ZYDIS_MNEMONIC_RDPKRU, exec_rdpkru, false}, {ZYDIS_MNEMONIC_WRPKRU, exec_wrpkru, false},
    {ZYDIS_MNEMONIC_INVLPG, exec_invlpg, true}, {ZYDIS_MNEMONIC_INVPCID, exec_invpcid, true},
    {ZYDIS_MNEMONIC_LGDT, exec_lgdt, true},    {ZYDIS_MNEMONIC_LIDT, exec_lidt, true},
    {ZYDIS_MNEMONIC_SGDT, exec_sgdt, false},    {ZYDIS_MNEMONIC_SIDT, exec_sidt, false},
    {ZYDIS_MNEMONIC_LLDT, exec_lldt, true},    {ZYDIS_MNEMONIC_LTR, exec_ltr, true},
    {ZYDIS_MNEMONIC_SLDT, exec_sldt, false},    {ZYDIS_MNEMONIC_STR, exec_str, false},
    {ZYDIS_MNEMONIC_LAR, exec_lar, false},      {ZYDIS_MNEMONIC_LSL, exec_lsl, false},
    {ZYDIS_MNEMONIC_VERR, exec_verr, false},    {ZYDIS_MNEMONIC_VERW, exec_verw, false},   {ZYDIS_MNEMONIC_ARPL, exec_arpl, false},
    {ZYDIS_MNEMONIC_LDS, exec_lds, false},      {ZYDIS_MNEMONIC_LES, exec_les, false},     {ZYDIS_MNEMONIC_LSS, exec_lss, true},
    {ZYDIS_MNEMONIC_LFS, exec_lfs, false},      {ZYDIS_MNEMONIC_LGS, exec_lgs, false},
    {ZYDIS_MNEMONIC_SWAPGS, exec_swapgs, false},
    {ZYDIS_MNEMONIC_RDFSBASE, exec_rdfsbase, false}, {ZYDIS_MNEMONIC_RDGSBASE, exec_rdgsbase, false},
    {ZYDIS_MNEMONIC_WRFSBASE, exec_wrfsbase, false}, {ZYDIS_MNEMONIC_WRGSBASE, exec_wrgsbase, false},
    {ZYDIS_MNEMONIC_RDMSR, exec_rdmsr, false},  {ZYDIS_MNEMONIC_WRMSR, exec_wrmsr, true},
    {ZYDIS_MNEMONIC_RDTSC, exec_rdtsc, false},  {ZYDIS_MNEMONIC_RDTSCP, exec_rdtscp, false},
    {ZYDIS_MNEMONIC_RDPMC, exec_rdpmc, false},  {ZYDIS_MNEMONIC_RDPID, exec_rdpid, false}, {ZYDIS_MNEMONIC_CPUID, exec_cpuid, true},
    {ZYDIS_MNEMONIC_CLI, exec_cli, false},      {ZYDIS_MNEMONIC_STI, exec_sti, true},
    {ZYDIS_MNEMONIC_STAC, exec_stac, false},    {ZYDIS_MNEMONIC_CLAC, exec_clac, false},
    {ZYDIS_MNEMONIC_HLT, exec_hlt, true},
    {ZYDIS_MNEMONIC_INVD, exec_cache, true},   {ZYDIS_MNEMONIC_WBINVD, exec_cache, true},
    {ZYDIS_MNEMONIC_VMCALL, exec_vmcall, true}, {ZYDIS_MNEMONIC_VMMCALL, exec_vmcall, true},
    {ZYDIS_MNEMONIC_INVALID, NULL, false},
};

const struct exec_entry exec_far_table[] = {
    {ZYDIS_MNEMONIC_IRET, exec_iret, true},     {ZYDIS_MNEMONIC_IRETD, exec_iret, true},   {ZYDIS_MNEMONIC_IRETQ, exec_iret, true},
    {ZYDIS_MNEMONIC_INT, exec_int, true},       {ZYDIS_MNEMONIC_INT3, exec_int3, true},
    {ZYDIS_MNEMONIC_INT1, exec_int1, true},     {ZYDIS_MNEMONIC_INTO, exec_into, true},
    {ZYDIS_MNEMONIC_SYSCALL, exec_syscall, true}, {ZYDIS_MNEMONIC_SYSRET, exec_sysret, true},
    {ZYDIS_MNEMONIC_SYSENTER, exec_sysenter, true}, {ZYDIS_MNEMONIC_SYSEXIT, exec_sysexit, true},
    {ZYDIS_MNEMONIC_INVALID, NULL, false},
};
/* clang-format on */

/* ---- shared mnemonics ---- */

static bool is_register(const struct insn *insn, unsigned i, enum register_class class)
{
    return insn->operand_count > i && insn->operand[i].kind == OPERAND_REGISTER && insn->operand[i].reg_class == class;
}

static exec_fn *special_move(const struct insn *insn)
{
    if (is_register(insn, 0, CLASS_SEGMENT))
        return exec_mov_to_segment;
    if (is_register(insn, 1, CLASS_SEGMENT))
        return exec_mov_from_segment;
    if (is_register(insn, 0, CLASS_CONTROL) || is_register(insn, 1, CLASS_CONTROL))
        return exec_mov_control;
    if (is_register(insn, 0, CLASS_DEBUG) || is_register(insn, 1, CLASS_DEBUG))
        return exec_mov_debug;
    return NULL;
}

/* Far forms by opcode: 9A CALL, EA JMP, CA and CB RET, FF /3 CALL, FF /5 JMP. */
static exec_fn *far_branch(const struct insn *insn)
{
    const unsigned extension = (insn->modrm >> 3) & 7;

    if (insn->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
        return NULL;
    switch (insn->opcode) {
    case 0x9a: return exec_call_far;
    case 0xea: return exec_jmp_far;
    case 0xca: case 0xcb: return exec_ret_far;
    case 0xff: return extension == 3 ? exec_call_far : extension == 5 ? exec_jmp_far : NULL;
    default: return NULL;
    }
}

bool exec_system_bind(struct insn *insn)
{
    exec_fn *found = NULL;

    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        found = special_move(insn);
        break;
    case ZYDIS_MNEMONIC_PUSH:
        found = is_register(insn, 0, CLASS_SEGMENT) ? exec_push_segment : NULL;
        break;
    case ZYDIS_MNEMONIC_POP:
        found = is_register(insn, 0, CLASS_SEGMENT) ? exec_pop_segment : NULL;
        break;
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_RET:
        found = far_branch(insn);
        break;
    default:
        break;
    }
    if (!found)
        return false;
    insn->exec = found;
    /* Conservative for moves to segment, control and debug registers: all of them may change what follows. */
    insn->ends_block = found != exec_mov_from_segment && found != exec_push_segment;
    return true;
}
