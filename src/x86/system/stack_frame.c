/* Frames of stack elements, inner stacks; the contract is in stack_frame.h. */
#include "x86/system/stack_frame.h"

#include <string.h>

#include "util/check.h"
#include "x86/system/control.h"
#include "x86/system/descriptor.h"

static uint64_t truncate(uint64_t value, unsigned width)
{
    return width == 8 ? value : width == 4 ? (uint32_t)value : (uint16_t)value;
}

struct stack stack_current(const struct cpu *cpu, uint32_t error)
{
    struct stack stack = {
        .ss = cpu->segment[SEG_SS],
        .width = cpu_is_64(cpu) ? 8 : cpu->segment[SEG_SS].attributes & SEG_DB ? 4 : 2,
        .privilege = MEM_CURRENT,
        .error = error,
    };
    stack.sp = truncate(cpu->gpr[REG_RSP].q, stack.width);
    return stack;
}

void stack_commit(struct cpu *cpu, const struct stack *stack)
{
    cpu->segment[SEG_SS] = stack->ss;
    if (stack->width == 2)
        cpu->gpr[REG_RSP].w = (uint16_t)stack->sp;
    else
        cpu->gpr[REG_RSP].q = truncate(stack->sp, stack->width);
}

/* ---- pushing ---- */

static bool is_writable(const struct cpu *cpu, const struct segment *ss)
{
    const unsigned need = SEG_P | SEG_S | SEG_TYPE_WRITABLE;
    return !cpu_is_protected(cpu) || (ss->attributes & (need | SEG_TYPE_CODE)) == need;
}

/* Linear address of an element or a run of them; false: outside the segment. */
static bool element_linear(const struct cpu *cpu, const struct stack *stack, uint64_t sp, uint64_t size, gva_t *linear)
{
    if (stack->width == 8) {
        *linear = sp;
        return cpu_is_canonical(cpu, sp) && cpu_is_canonical(cpu, sp + size - 1);
    }
    *linear = (uint32_t)(stack->ss.base + sp);
    return is_writable(cpu, &stack->ss) && segment_contains(&stack->ss, sp, size);
}

/* The page fault of a frame is that of the first element, in the order of pushes, that cannot be written. */
static bool find_fault(struct cpu *cpu, const struct stack *stack, const struct frame *frame, unsigned size)
{
    const struct cpu_fault fault = cpu->fault;
    gva_t linear;

    if (cpu->leave != LEAVE_FAULT || fault.vector != VECTOR_PF)
        return false;
    for (unsigned i = 1; i <= frame->count; i++)
        if (element_linear(cpu, stack, stack->sp - i * size, size, &linear) &&
            !mem_probe(cpu, linear, size, ACCESS_WRITE, stack->privilege))
            return false;
    /* Somebody mapped the page in between. */
    cpu->fault = fault;
    return false;
}

static bool push_whole(struct cpu *cpu, struct stack *stack, const struct frame *frame, unsigned size)
{
    uint8_t image[FRAME_MAXIMUM * 8];
    const unsigned total = frame->count * size;
    const uint64_t sp = stack->sp - total;
    gva_t linear;

    for (unsigned i = 0; i < frame->count; i++)
        memcpy(image + (frame->count - 1 - i) * size, &frame->value[i], size);
    if (!element_linear(cpu, stack, sp, total, &linear))
        return raise_ss(cpu, stack->error);
    if (!mem_write(cpu, linear, image, total, stack->privilege))
        return find_fault(cpu, stack, frame, size);
    stack->sp = sp;
    return true;
}

/* The stack pointer wraps inside the frame: only possible with 16 and 32 bits. */
static bool push_wrapping(struct cpu *cpu, struct stack *stack, const struct frame *frame, unsigned size)
{
    gva_t linear;
    uint64_t sp = stack->sp;

    for (unsigned i = 0; i < frame->count; i++) {
        sp = truncate(sp - size, stack->width);
        if (!element_linear(cpu, stack, sp, size, &linear))
            return raise_ss(cpu, stack->error);
        if (!mem_probe(cpu, linear, size, ACCESS_WRITE, stack->privilege))
            return false;
    }
    sp = stack->sp;
    for (unsigned i = 0; i < frame->count; i++) {
        sp = truncate(sp - size, stack->width);
        (void)element_linear(cpu, stack, sp, size, &linear);
        if (!mem_write(cpu, linear, &frame->value[i], size, stack->privilege))
            return false;
    }
    stack->sp = sp;
    return true;
}

bool stack_push_frame(struct cpu *cpu, struct stack *stack, const struct frame *frame, unsigned size)
{
    const uint64_t total = (uint64_t)frame->count * size;

    check(frame->count <= FRAME_MAXIMUM);
    if (stack->width != 8 && stack->sp == 0)
        /* The first element ends at the top: nothing wraps but the pointer itself. */
        stack->sp = stack->width == 4 ? BIT64(32) : BIT64(16);
    if (stack->width != 8 && stack->sp < total)
        return push_wrapping(cpu, stack, frame, size);
    return push_whole(cpu, stack, frame, size);
}

/* ---- inner stacks ---- */

static bool read_tss(struct cpu *cpu, unsigned offset, unsigned size, uint32_t ext, void *to)
{
    const struct segment *tr = &cpu->segment[SEG_TR];

    if ((uint64_t)offset + size - 1 > tr->limit)
        return raise_ts(cpu, SELECTOR_ERROR(tr->selector, ext));
    return mem_read(cpu, cpu_is_long(cpu) ? tr->base + offset : (uint32_t)(tr->base + offset), to, size, MEM_SYSTEM);
}

static bool long_stack(struct cpu *cpu, unsigned offset, uint32_t ext, struct stack *out)
{
    *out = (struct stack){.width = 8, .privilege = MEM_SYSTEM, .error = ext};
    return read_tss(cpu, offset, 8, ext, &out->sp);
}

bool stack_from_ist(struct cpu *cpu, unsigned index, uint32_t ext, struct stack *out)
{
    return long_stack(cpu, 36 + (index - 1) * 8, ext, out);
}

static bool stack_from_tss32(struct cpu *cpu, unsigned level, uint32_t ext, uint32_t *esp, uint16_t *ss)
{
    uint8_t image[6];

    if (!read_tss(cpu, 4 + level * 8, sizeof(image), ext, image))
        return false;
    memcpy(esp, image, 4);
    memcpy(ss, image + 4, 2);
    return true;
}

static bool stack_from_tss16(struct cpu *cpu, unsigned level, uint32_t ext, uint32_t *esp, uint16_t *ss)
{
    uint16_t image[2];

    if (!read_tss(cpu, 2 + level * 4, sizeof(image), ext, image))
        return false;
    *esp = image[0];
    *ss = image[1];
    return true;
}

bool stack_from_tss(struct cpu *cpu, unsigned level, uint32_t ext, struct stack *out)
{
    const unsigned type = cpu->segment[SEG_TR].attributes & SEG_TYPE_MASK;
    uint32_t esp;
    uint16_t ss;

    if (cpu_is_long(cpu)) {
        if (!long_stack(cpu, 4 + level * 8, ext, out))
            return false;
        segment_null((uint16_t)level, level, &out->ss);
        return true;
    }
    *out = (struct stack){.privilege = MEM_SYSTEM};
    if (!(type & 8 ? stack_from_tss32(cpu, level, ext, &esp, &ss) : stack_from_tss16(cpu, level, ext, &esp, &ss)))
        return false;
    if (!segment_check_stack(cpu, ss, level, VECTOR_TS, ext, &out->ss))
        return false;
    out->width = out->ss.attributes & SEG_DB ? 4 : 2;
    out->sp = truncate(esp, out->width);
    out->error = SELECTOR_ERROR(ss, ext);
    return true;
}
