/* MOV, PUSH, POP with segment registers, LDS .. LGS, SWAPGS, RDFSBASE .. WRGSBASE. */
#include "x86/system/control.h"
#include "x86/system/descriptor.h"
#include "x86/system/exec_system.h"
#include "x86/vendor.h"

/* After MOV SS and POP SS the next instruction runs before interrupts are taken (SDM 3A 6.8.3). */
static enum exec_result after_load(struct cpu *cpu, unsigned index)
{
    if (index != SEG_SS)
        /* The decode mode depends on CS and SS only. */
        return EXEC_NEXT;
    cpu->interrupt_shadow = cpu->debug_shadow = true;
    cpu_interrupts_enabled(cpu);
    return EXEC_END;
}

enum exec_result exec_mov_to_segment(struct cpu *cpu, const struct insn *insn)
{
    unsigned index = insn->operand[0].number;
    uint64_t selector;

    if (index == SEG_CS)
        return exec_done(raise_ud(cpu));
    if (!operand_read(cpu, insn, 1, &selector) || !load_segment(cpu, index, (uint16_t)selector))
        return EXEC_LEAVE;
    return after_load(cpu, index);
}

enum exec_result exec_mov_from_segment(struct cpu *cpu, const struct insn *insn)
{
    /* Registers are zero-extended to the operand size, memory gets 16 bits (SDM 2B MOV). */
    return exec_done(operand_write(cpu, insn, 0, cpu->segment[insn->operand[1].number].selector));
}

enum exec_result exec_push_segment(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand_size;

    /* Intel does not write the upper half of a 32-bit slot (SDM 2B PUSH: recent processors; seen on silicon). */
    if (!stack_write(cpu, -(int64_t)size, size == 4 && vendor_pushes_16_bits(cpu) ? 2 : size,
                     cpu->segment[insn->operand[0].number].selector))
        return EXEC_LEAVE;
    stack_adjust(cpu, -(int64_t)size);
    return EXEC_NEXT;
}

enum exec_result exec_pop_segment(struct cpu *cpu, const struct insn *insn)
{
    unsigned index = insn->operand[0].number;
    uint64_t selector = 0;
    struct segment loaded;

    /* Only the 16 bits that are used must be readable (SDM 2B POP); the pointer moves by the operand size. */
    if (!stack_read(cpu, 0, 2, &selector) || !segment_check(cpu, index, (uint16_t)selector, &loaded))
        return EXEC_LEAVE;
    stack_adjust(cpu, insn->operand_size);
    cpu->segment[index] = loaded;
    cpu_update_mode(cpu);
    return after_load(cpu, index);
}

/* ---- far pointers ---- */

static enum exec_result load_far_pointer(struct cpu *cpu, const struct insn *insn, enum segment_index index)
{
    uint64_t offset = 0;
    uint16_t selector;
    gva_t linear;
    struct segment loaded;
    const unsigned size = vendor_far_size(cpu, insn->operand_size);

    /* Two accesses, each with an alignment of its own. */
    if (!operand_linear(cpu, insn, size + 2, ACCESS_READ, &linear) || !mem_read(cpu, linear, &offset, size, MEM_CURRENT) ||
        !mem_read16(cpu, linear + size, &selector) || !segment_check(cpu, index, selector, &loaded))
        return EXEC_LEAVE;
    cpu->segment[index] = loaded;
    gpr_write(cpu, insn->operand[0].number, size, offset);
    cpu_update_mode(cpu);
    return index == SEG_SS ? EXEC_END : EXEC_NEXT;
}

/* clang-format off */
#define LOAD_FAR_POINTER(name, index) \
    enum exec_result exec_##name(struct cpu *cpu, const struct insn *insn) { return load_far_pointer(cpu, insn, index); }
LOAD_FAR_POINTER(lds, SEG_DS) LOAD_FAR_POINTER(les, SEG_ES) LOAD_FAR_POINTER(lss, SEG_SS)
LOAD_FAR_POINTER(lfs, SEG_FS) LOAD_FAR_POINTER(lgs, SEG_GS)
/* clang-format on */

/* ---- FS and GS bases ---- */

enum exec_result exec_swapgs(struct cpu *cpu, const struct insn *insn)
{
    uint64_t base = cpu->segment[SEG_GS].base;

    (void)insn;
    if (!cpu_is_64(cpu))
        return exec_done(raise_ud(cpu));
    if (!require_supervisor(cpu))
        return EXEC_LEAVE;
    cpu->segment[SEG_GS].base = cpu->kernel_gs_base;
    cpu->kernel_gs_base = base;
    return EXEC_NEXT;
}

static bool may_use_bases(struct cpu *cpu)
{
    return (cpu_is_64(cpu) && (cpu->cr4 & CR4_FSGSBASE)) || raise_ud(cpu);
}

static enum exec_result read_base(struct cpu *cpu, const struct insn *insn, enum segment_index index)
{
    if (!may_use_bases(cpu))
        return EXEC_LEAVE;
    gpr_write(cpu, insn->operand[0].number, insn->operand[0].size, cpu->segment[index].base);
    return EXEC_NEXT;
}

static enum exec_result write_base(struct cpu *cpu, const struct insn *insn, enum segment_index index)
{
    uint64_t base = gpr_read(cpu, insn->operand[0].number, insn->operand[0].size);

    if (!may_use_bases(cpu))
        return EXEC_LEAVE;
    if (!cpu_is_canonical(cpu, base)) /* unlike WRMSR (seen on silicon) */
        return exec_done(raise_gp(cpu, 0));
    cpu->segment[index].base = base;
    return EXEC_NEXT;
}

/* clang-format off */
enum exec_result exec_rdfsbase(struct cpu *cpu, const struct insn *insn) { return read_base(cpu, insn, SEG_FS); }
enum exec_result exec_rdgsbase(struct cpu *cpu, const struct insn *insn) { return read_base(cpu, insn, SEG_GS); }
enum exec_result exec_wrfsbase(struct cpu *cpu, const struct insn *insn) { return write_base(cpu, insn, SEG_FS); }
enum exec_result exec_wrgsbase(struct cpu *cpu, const struct insn *insn) { return write_base(cpu, insn, SEG_GS); }
/* clang-format on */
