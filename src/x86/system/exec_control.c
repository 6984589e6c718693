/* MOV CR, MOV DR, LMSW, SMSW, CLTS, XGETBV, XSETBV, RDPKRU, WRPKRU, INVLPG, INVPCID (SDM 2A-2C under each name). */
#include "x86/memory/tlb.h"
#include "x86/system/control.h"
#include "x86/system/exec_system.h"
#include "x86/vector/exec_xsave.h"

/* Width of the general register: 8 bytes in 64-bit mode, else 4; operand-size prefixes do not matter. */
static unsigned register_size(const struct cpu *cpu)
{
    return cpu_is_64(cpu) ? 8 : 4;
}

/* ---- control registers ---- */

static bool read_control(struct cpu *cpu, unsigned number, uint64_t *value)
{
    switch (number) {
    case 0: *value = cpu->cr0; return true;
    case 2: *value = cpu->cr2; return true;
    case 3: *value = cpu->cr3; return true;
    case 4: *value = cpu->cr4; return true;
    case 8: *value = cpu->port->read_cr8 ? cpu->port->read_cr8(cpu) : cpu->cr8; return true;
    default: return raise_ud(cpu);
    }
}

static bool write_control(struct cpu *cpu, unsigned number, uint64_t value)
{
    switch (number) {
    case 0: return cpu_set_cr0(cpu, value);
    case 2: cpu->cr2 = value; return true;
    case 3: return cpu_set_cr3(cpu, value);
    case 4: return cpu_set_cr4(cpu, value);
    case 8: return cpu_set_cr8(cpu, value);
    default: return raise_ud(cpu);
    }
}

static bool control_exists(unsigned number)
{
    return number == 0 || number == 2 || number == 3 || number == 4 || number == 8;
}

enum exec_result exec_mov_control(struct cpu *cpu, const struct insn *insn)
{
    const struct operand *to = &insn->operand[0], *from = &insn->operand[1];
    bool is_write = to->reg_class == CLASS_CONTROL;
    unsigned number = is_write ? to->number : from->number;
    uint64_t value = 0;

    if (!control_exists(number))
        return exec_done(raise_ud(cpu));
    if (!require_supervisor(cpu))
        return EXEC_LEAVE;
    cpu_count(cpu, CPU_COUNT_CONTROL);
    if (is_write) {
        value = gpr_read(cpu, from->number, register_size(cpu));
        return write_control(cpu, number, value) ? EXEC_END : EXEC_LEAVE;
    }
    if (!read_control(cpu, number, &value))
        return EXEC_LEAVE;
    gpr_write(cpu, to->number, register_size(cpu), value);
    return EXEC_NEXT;
}

enum exec_result exec_lmsw(struct cpu *cpu, const struct insn *insn)
{
    const uint64_t loaded = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
    uint64_t value;

    if (!require_supervisor(cpu) || !operand_read(cpu, insn, 0, &value))
        return EXEC_LEAVE;
    cpu_count(cpu, CPU_COUNT_CONTROL);
    /* PE can be set but not cleared. */
    value = (cpu->cr0 & ~(loaded & ~CR0_PE)) | (value & loaded);
    return cpu_set_cr0(cpu, value) ? EXEC_END : EXEC_LEAVE;
}

enum exec_result exec_smsw(struct cpu *cpu, const struct insn *insn)
{
    if (!check_umip(cpu))
        return EXEC_LEAVE;
    return exec_done(operand_write(cpu, insn, 0, cpu->cr0));
}

enum exec_result exec_clts(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (!require_supervisor(cpu))
        return EXEC_LEAVE;
    cpu_count(cpu, CPU_COUNT_CONTROL);
    cpu->cr0 &= ~CR0_TS;
    return EXEC_END;
}

/* ---- debug registers ---- */

static bool debug_access_allowed(struct cpu *cpu, unsigned number)
{
    if (number > 7 || ((number == 4 || number == 5) && (cpu->cr4 & CR4_DE)))
        return raise_ud(cpu);
    if (!require_supervisor(cpu))
        return false;
    if (cpu->dr7 & DR7_GD) {
        cpu->fault = (struct cpu_fault){.vector = VECTOR_DB, .debug = DR6_BD};
        cpu->leave = LEAVE_FAULT;
        return false;
    }
    return true;
}

enum exec_result exec_mov_debug(struct cpu *cpu, const struct insn *insn)
{
    const struct operand *to = &insn->operand[0], *from = &insn->operand[1];
    bool is_write = to->reg_class == CLASS_DEBUG;
    unsigned number = is_write ? to->number : from->number;

    if (!debug_access_allowed(cpu, number))
        return EXEC_LEAVE;
    cpu_count(cpu, CPU_COUNT_DEBUG);
    if (is_write)
        return cpu_set_dr(cpu, number, gpr_read(cpu, from->number, register_size(cpu))) ? EXEC_END : EXEC_LEAVE;
    uint64_t value = number < 4                   ? cpu->dr[number]
                     : number == 6 || number == 4 ? cpu->dr6
                                                  : cpu->dr7;
    gpr_write(cpu, to->number, register_size(cpu), value);
    return EXEC_NEXT;
}

/* ---- extended control registers ---- */

enum exec_result exec_xgetbv(struct cpu *cpu, const struct insn *insn)
{
    const uint32_t number = cpu->gpr[REG_RCX].d;

    (void)insn;
    if (!(cpu->cr4 & CR4_OSXSAVE))
        return exec_done(raise_ud(cpu));
    if (number > 1 || (number == 1 && !cpuid_has(&cpu->cpuid, FEATURE_XGETBV1)))
        return exec_done(raise_gp(cpu, 0));
    const uint64_t value = number ? cpu->xcr0 & xsave_in_use(cpu) : cpu->xcr0;
    gpr_write(cpu, REG_RAX, 4, (uint32_t)value);
    gpr_write(cpu, REG_RDX, 4, value >> 32);
    return EXEC_NEXT;
}

enum exec_result exec_xsetbv(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value = (uint64_t)cpu->gpr[REG_RDX].d << 32 | cpu->gpr[REG_RAX].d;

    (void)insn;
    if (!(cpu->cr4 & CR4_OSXSAVE))
        return exec_done(raise_ud(cpu));
    if (!require_supervisor(cpu))
        return EXEC_LEAVE;
    if (cpu->gpr[REG_RCX].d != 0 || !cpu_xcr0_is_valid(cpu, value))
        return exec_done(raise_gp(cpu, 0));
    cpu->xcr0 = value;
    cpu_update_mode(cpu);
    return EXEC_END;
}

/* ---- protection keys of user pages ---- */

/* #UD without CR4.PKE, #GP(0) unless ECX is 0. */
static bool pkru_allowed(struct cpu *cpu)
{
    if (!(cpu->cr4 & CR4_PKE))
        return raise_ud(cpu);
    return !cpu->gpr[REG_RCX].d || raise_gp(cpu, 0);
}

enum exec_result exec_rdpkru(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (!pkru_allowed(cpu))
        return EXEC_LEAVE;
    gpr_write(cpu, REG_RAX, 4, cpu->pkru);
    gpr_write(cpu, REG_RDX, 4, 0);
    return EXEC_NEXT;
}

enum exec_result exec_wrpkru(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (!pkru_allowed(cpu))
        return EXEC_LEAVE;
    if (cpu->gpr[REG_RDX].d)
        return exec_done(raise_gp(cpu, 0));
    cpu_set_pkru(cpu, cpu->gpr[REG_RAX].d);
    return EXEC_NEXT;
}

/* ---- translations ---- */

enum exec_result exec_invlpg(struct cpu *cpu, const struct insn *insn)
{
    const struct memory_operand *memory = &insn->memory;
    uint64_t linear = operand_offset(cpu, insn);

    if (!require_supervisor(cpu))
        return EXEC_LEAVE;
    cpu_count(cpu, CPU_COUNT_INVALIDATION);
    /* No limit or type check; a non-canonical address does nothing (SDM 2A INVLPG). */
    if (!cpu_is_64(cpu))
        linear = (uint32_t)(linear + cpu->segment[memory->segment].base);
    else if (memory->segment == SEG_FS || memory->segment == SEG_GS)
        linear += cpu->segment[memory->segment].base;
    if (cpu_is_storable(cpu, linear))
        cpu_flush_page(cpu, linear);
    return EXEC_END;
}

enum { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL, INVPCID_ALL_BUT_GLOBAL };

static bool invpcid_is_valid(const struct cpu *cpu, uint64_t type, uint64_t pcid, uint64_t address)
{
    if (type > INVPCID_ALL_BUT_GLOBAL || (pcid & ~0xfffull))
        return false;
    if (type <= INVPCID_CONTEXT && pcid != 0 && !(cpu->cr4 & CR4_PCIDE))
        return false;
    return type != INVPCID_ADDRESS || cpu_is_storable(cpu, address);
}

enum exec_result exec_invpcid(struct cpu *cpu, const struct insn *insn)
{
    uint64_t type = gpr_read(cpu, insn->operand[0].number, register_size(cpu));
    uint64_t descriptor[2];

    if (!require_feature(cpu, FEATURE_INVPCID) || !require_supervisor(cpu) ||
        !operand_read_bytes(cpu, insn, descriptor, sizeof(descriptor)))
        return EXEC_LEAVE;
    cpu_count(cpu, CPU_COUNT_INVALIDATION);
    if (!invpcid_is_valid(cpu, type, descriptor[0], descriptor[1]))
        return exec_done(raise_gp(cpu, 0));
    const unsigned pcid = (unsigned)descriptor[0];
    switch (type) {
    case INVPCID_ADDRESS: tlb_flush_space_page(cpu, pcid, descriptor[1]); break;
    case INVPCID_CONTEXT: tlb_flush_space(cpu, pcid); break;
    case INVPCID_ALL: tlb_flush(cpu); break;
    default: tlb_flush_local(cpu); break;
    }
    return EXEC_END;
}
