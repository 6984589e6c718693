/* IRET in every mode (SDM 2A IRET/IRETD/IRETQ; 3A 6.12.1, 6.14.3, 7.3, 20.2.2). */
#include "x86/system/debug.h"
#include "x86/system/exec_far.h"
#include "x86/system/task.h"

/* What IRET loads into RFLAGS beside IF, IOPL, VIF and VIP, which depend on privilege. */
#define FLAGS_ALWAYS (RFLAGS_ARITHMETIC | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT)
#define FLAGS_WIDE   (RFLAGS_RF | RFLAGS_AC | RFLAGS_ID) /* not with a 16-bit operand */

/* The popped image of RIP, CS, RFLAGS. */
struct image {
    uint64_t rip, cs, flags;
};

static bool pop_image(struct cpu *cpu, unsigned size, struct image *image)
{
    return stack_read(cpu, 0, size, &image->rip) && stack_read(cpu, size, size, &image->cs) &&
           stack_read(cpu, (int64_t)(2 * size), size, &image->flags);
}

static void load_flags(struct cpu *cpu, uint64_t flags, uint64_t mask)
{
    cpu_set_rflags(cpu, (cpu_rflags(cpu) & ~mask) | (flags & mask));
}

/* The bits that the privilege before the return allows to change. */
static uint64_t flags_mask(const struct cpu *cpu, unsigned size)
{
    const unsigned iopl = (cpu->rflags >> 12) & 3;
    uint64_t mask = FLAGS_ALWAYS;

    if (size > 2)
        mask |= FLAGS_WIDE;
    if (cpu->cpl <= iopl)
        mask |= RFLAGS_IF;
    if (cpu->cpl == 0)
        mask |= RFLAGS_IOPL | (size > 2 ? RFLAGS_VIF | RFLAGS_VIP : 0);
    return mask;
}

/* IRET ends the blocking of NMIs, even when it faults on some processors; here only when it completes. */
static enum exec_result done(struct cpu *cpu)
{
    if (cpu->nmi_masked) {
        cpu->nmi_masked = false;
        if (cpu->interrupt_waiting || cpu->nmi_waiting)
            atomic_fetch_or_explicit(&cpu->request, REQUEST_INTERRUPT, memory_order_relaxed);
    }
    cpu->resume_rip = cpu->next_rip; /* should RF be set now */
    cpu_update_mode(cpu);
    return EXEC_END;
}

/* ---- real and virtual-8086 mode ---- */

/* VME: IF of the image is for VIF; #GP when it would let a pending virtual interrupt in, or for TF (SDM 2A IRET). */
static bool virtual_image(struct cpu *cpu, struct image *image, uint64_t *mask)
{
    if ((image->flags & RFLAGS_TF) || ((image->flags & RFLAGS_IF) && (cpu->rflags & RFLAGS_VIP)))
        return raise_gp(cpu, 0);
    *mask = (*mask & ~RFLAGS_IF) | RFLAGS_VIF;
    image->flags = (image->flags & ~RFLAGS_VIF) | (image->flags & RFLAGS_IF ? RFLAGS_VIF : 0);
    return true;
}

static enum exec_result iret_real(struct cpu *cpu, unsigned size)
{
    struct image image;
    struct segment cs;
    uint64_t mask = FLAGS_ALWAYS | RFLAGS_IF | (size > 2 ? FLAGS_WIDE : 0);

    /* IOPL is loaded in real mode, not in virtual-8086 mode, where it must be 3, or VME helps. */
    const bool is_virtual = cpu_is_v86(cpu) && (cpu->rflags & RFLAGS_IOPL) != RFLAGS_IOPL;
    if (is_virtual && (!(cpu->cr4 & CR4_VME) || size != 2))
        return exec_done(raise_gp(cpu, 0));
    if (!cpu_is_v86(cpu))
        mask |= RFLAGS_IOPL;
    if (!pop_image(cpu, size, &image))
        return EXEC_LEAVE;
    if (is_virtual && !virtual_image(cpu, &image, &mask))
        return EXEC_LEAVE;
    segment_real(cpu, &cpu->segment[SEG_CS], (uint16_t)image.cs, &cs);
    if (!far_check_rip(cpu, &cs, image.rip))
        return EXEC_LEAVE;
    stack_adjust(cpu, (int64_t)(3 * size));
    far_commit(cpu, &cs, cpu->cpl, image.rip);
    load_flags(cpu, image.flags, mask);
    return done(cpu);
}

/* ---- protected mode to virtual-8086 mode ---- */

static enum exec_result iret_to_v86(struct cpu *cpu, const struct image *image)
{
    static const enum segment_index order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    uint64_t esp, selector[array_size(order)];

    if (!stack_read(cpu, 12, 4, &esp))
        return EXEC_LEAVE;
    for (unsigned i = 0; i < array_size(order); i++)
        if (!stack_read(cpu, 16 + (int64_t)(4 * i), 4, &selector[i]))
            return EXEC_LEAVE;
    if (image->rip > 0xffff)
        return exec_done(raise_gp(cpu, 0));

    cpu->rflags |= RFLAGS_VM; /* segment_real() makes virtual-8086 segments from here on */
    for (unsigned i = 0; i < array_size(order); i++)
        segment_real(cpu, &cpu->segment[order[i]], (uint16_t)selector[i], &cpu->segment[order[i]]);
    segment_real(cpu, &cpu->segment[SEG_CS], (uint16_t)image->cs, &cpu->segment[SEG_CS]);
    cpu->gpr[REG_RSP].q = (uint32_t)esp;
    cpu->cpl = 3;
    cpu->next_rip = image->rip;
    cpu_set_rflags(cpu, (image->flags & RFLAGS_ALL) | RFLAGS_VM);
    return done(cpu);
}

/* ---- protected and long mode ---- */

static enum exec_result iret_nested_task(struct cpu *cpu)
{
    struct task_request request = {.reason = TASK_IRET, .return_rip = cpu->next_rip};

    if (cpu_is_long(cpu))
        return exec_done(raise_gp(cpu, 0));
    if (!task_link(cpu, &request.selector) || !task_switch(cpu, &request))
        return EXEC_LEAVE;
    return done(cpu);
}

static enum exec_result iret_same_level(struct cpu *cpu, unsigned size, const struct image *image, const struct segment *cs)
{
    const uint64_t mask = flags_mask(cpu, size);

    if (!far_check_rip(cpu, cs, image->rip))
        return EXEC_LEAVE;
    stack_adjust(cpu, (int64_t)(3 * size));
    far_commit(cpu, cs, cpu->cpl, image->rip);
    load_flags(cpu, image->flags, mask);
    return done(cpu);
}

/* To an outer level; from 64-bit mode always with SS:RSP. */
static enum exec_result iret_with_stack(struct cpu *cpu, unsigned size, const struct image *image, const struct segment *cs)
{
    const unsigned level = cs->selector & SELECTOR_RPL;
    const uint64_t mask = flags_mask(cpu, size);
    const bool to_64 = cpu_is_long(cpu) && (cs->attributes & SEG_L);
    const bool outward = level > cpu->cpl;
    uint64_t rsp, selector;
    struct segment ss;

    if (!stack_read(cpu, (int64_t)(3 * size), size, &rsp) || !stack_read(cpu, (int64_t)(4 * size), size, &selector) ||
        !far_check_outer_stack(cpu, (uint16_t)selector, level, cs, &ss) || !far_check_rip(cpu, cs, image->rip))
        return EXEC_LEAVE;
    const struct stack stack = {.ss = ss, .sp = rsp, .width = to_64 ? 8 : ss.attributes & SEG_DB ? 4 : 2};
    far_commit(cpu, cs, level, image->rip);
    stack_commit(cpu, &stack);
    if (outward)
        far_drop_segments(cpu);
    load_flags(cpu, image->flags, mask);
    return done(cpu);
}

enum exec_result exec_iret(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->operand_size;
    struct image image;
    struct segment cs;

    if (!cpu_is_protected(cpu))
        return iret_real(cpu, size);
    if (cpu->rflags & RFLAGS_NT)
        return iret_nested_task(cpu);
    if (!pop_image(cpu, size, &image))
        return EXEC_LEAVE;
    if (size == 4 && (image.flags & RFLAGS_VM) && cpu->cpl == 0 && !cpu_is_long(cpu))
        return iret_to_v86(cpu, &image);
    if (!far_check_return(cpu, (uint16_t)image.cs, &cs))
        return EXEC_LEAVE;
    if (cpu_is_64(cpu) || (cs.selector & SELECTOR_RPL) > cpu->cpl)
        return iret_with_stack(cpu, size, &image, &cs);
    return iret_same_level(cpu, size, &image, &cs);
}
