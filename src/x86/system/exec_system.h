/* The system instructions' exec functions, shared between their files and the table in exec_system.c. */
#ifndef OWHP_X86_EXEC_SYSTEM_H
#define OWHP_X86_EXEC_SYSTEM_H

#include "x86/exec.h"

/* exec_control.c: control and debug registers, extended control registers, TLB */
exec_fn exec_mov_control, exec_mov_debug, exec_lmsw, exec_smsw, exec_clts;
exec_fn exec_xgetbv, exec_xsetbv, exec_rdpkru, exec_wrpkru, exec_invlpg, exec_invpcid;

/* exec_table.c: descriptor tables, LDTR, TR, looking at descriptors */
exec_fn exec_lgdt, exec_lidt, exec_sgdt, exec_sidt, exec_lldt, exec_ltr, exec_sldt, exec_str;
exec_fn exec_lar, exec_lsl, exec_verr, exec_verw, exec_arpl;

/* exec_segment.c: segment registers */
exec_fn exec_mov_to_segment, exec_mov_from_segment, exec_push_segment, exec_pop_segment;
exec_fn exec_lds, exec_les, exec_lss, exec_lfs, exec_lgs;
exec_fn exec_swapgs, exec_rdfsbase, exec_rdgsbase, exec_wrfsbase, exec_wrgsbase;

/* exec_msr.c: model-specific registers, counters, identification */
exec_fn exec_rdmsr, exec_wrmsr, exec_rdtsc, exec_rdtscp, exec_rdpmc, exec_rdpid, exec_cpuid;

/* exec_far.c, exec_iret.c, exec_syscall.c, exec_int.c */
exec_fn exec_jmp_far, exec_call_far, exec_ret_far, exec_iret;
exec_fn exec_syscall, exec_sysret, exec_sysenter, exec_sysexit;
exec_fn exec_int, exec_int3, exec_int1, exec_into;

/* exec_v86.c: INT n in virtual-8086 mode. *through_idt: nothing has happened, it is for the IDT. Else all is done or raised. */
enum exec_result exec_int_v86(struct cpu *cpu, uint8_t vector, bool *through_idt);

/* CPL 0, or #GP(0). */
must_check static inline bool require_supervisor(struct cpu *cpu)
{
    return likely(cpu->cpl == 0) || raise_gp(cpu, 0);
}

/* Protected mode (not real, not virtual-8086), or #UD. */
must_check static inline bool require_protected(struct cpu *cpu)
{
    return likely(cpu_is_protected(cpu)) || raise_ud(cpu);
}

must_check static inline bool require_feature(struct cpu *cpu, enum cpu_feature feature)
{
    return likely(cpuid_has(&cpu->cpuid, feature)) || raise_ud(cpu);
}

/* User-mode instruction prevention: SGDT, SIDT, SLDT, STR, SMSW (SDM 3A 2.5, CR4.UMIP). */
must_check static inline bool check_umip(struct cpu *cpu)
{
    return likely(!(cpu->cr4 & CR4_UMIP) || cpu->cpl == 0) || raise_gp(cpu, 0);
}

#endif
