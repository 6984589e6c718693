/*
 * INT n in virtual-8086 mode with CR4.VME: the redirection bitmap (SDM 3B 20.3, APM 2 8.9).
 *
 * The 32 bytes in front of the I/O permission bitmap have a bit for each vector. Set: the interrupt goes through the IDT as
 * without VME (IOPL 3, or #GP). Clear: it is the program's own, through the table of far pointers at linear address 0, without
 * leaving virtual-8086 mode. Below IOPL 3 the program sees VIF where it looks for IF, and an IOPL of 3.
 */
#include "x86/system/descriptor.h"
#include "x86/system/exec_system.h"
#include "x86/system/stack_frame.h"

enum { IO_MAP_BASE = 102, BITMAP_SIZE = 32 };

static unsigned iopl(const struct cpu *cpu) { return (cpu->rflags >> 12) & 3; }

/* The vector's bit. False: #GP (no bitmap), or what reading raised. */
static bool read_bit(struct cpu *cpu, uint8_t vector, bool *set)
{
    const struct segment *tr = &cpu->segment[SEG_TR];
    uint16_t base;
    uint8_t bits;

    if (!(tr->attributes & SEG_P) || !(tr->attributes & 8) || tr->limit < IO_MAP_BASE + 1)
        return raise_gp(cpu, 0);
    if (!mem_read(cpu, (uint32_t)(tr->base + IO_MAP_BASE), &base, 2, MEM_SYSTEM))
        return false;
    const uint32_t at = (uint32_t)base - BITMAP_SIZE + vector / 8u;
    if (at > tr->limit)
        return raise_gp(cpu, 0);
    if (!mem_read(cpu, (uint32_t)(tr->base + at), &bits, 1, MEM_SYSTEM))
        return false;
    *set = bits >> (vector & 7) & 1;
    return true;
}

static uint64_t visible_flags(const struct cpu *cpu)
{
    const uint64_t flags = cpu_rflags(cpu);

    if (iopl(cpu) == 3)
        return flags;
    return (flags & ~RFLAGS_IF) | RFLAGS_IOPL | (flags & RFLAGS_VIF ? RFLAGS_IF : 0);
}

static bool enter(struct cpu *cpu, uint8_t vector)
{
    struct stack stack = stack_current(cpu, 0);
    struct frame frame = {0};
    uint16_t pointer[2];

    if (!mem_read(cpu, vector * 4u, pointer, sizeof(pointer), MEM_SYSTEM))
        return false;
    frame_add(&frame, visible_flags(cpu));
    frame_add(&frame, cpu->segment[SEG_CS].selector);
    frame_add(&frame, cpu->next_rip);
    if (!stack_push_frame(cpu, &stack, &frame, 2))
        return false;
    stack_commit(cpu, &stack);
    segment_real(cpu, &cpu->segment[SEG_CS], pointer[1], &cpu->segment[SEG_CS]);
    cpu->next_rip = pointer[0];
    cpu_set_rflags(cpu, cpu_rflags(cpu) & ~(RFLAGS_TF | RFLAGS_RF | (iopl(cpu) == 3 ? RFLAGS_IF : RFLAGS_VIF)));
    cpu_update_mode(cpu);
    return true;
}

enum exec_result exec_int_v86(struct cpu *cpu, uint8_t vector, bool *through_idt)
{
    bool set = true;

    *through_idt = false;
    if ((cpu->cr4 & CR4_VME) && !read_bit(cpu, vector, &set))
        return EXEC_LEAVE;
    if (!set) {
        if (!enter(cpu, vector))
            return EXEC_LEAVE;
        cpu->trap_cancelled = true;
        return EXEC_END;
    }
    if (iopl(cpu) != 3)
        return exec_done(raise_gp(cpu, 0));
    *through_idt = true;
    return EXEC_NEXT;
}
