/*
 * Hardware task switching; the contract is in task.h, the rules in SDM 3A 7.3 and tables 7-1, 7-2.
 *
 * Order: everything about the two TSSs that can fault is checked first, against the old task. Then the old TSS and the link
 * are written (again, should the switch have to be repeated: that does no harm) and the new task's registers are loaded,
 * segments with their checks; a fault from there on belongs to the new task. The busy bits come last. An exit at any
 * point takes the registers back to where they were, so that the instruction or event can be tried again.
 */
#include "x86/system/task.h"

#include <string.h>

#include "x86/system/control.h"
#include "x86/system/debug.h"
#include "x86/system/descriptor.h"
#include "x86/system/stack_frame.h"

/* 32-bit TSS from offset 28 on; the 16-bit one from 14 on is narrower and ends with LDT. */
struct state {
    uint32_t cr3, eip, eflags;
    uint32_t gpr[8];
    uint16_t segment[6]; /* ES CS SS DS FS GS */
    uint16_t ldt, link;
    bool trap;
};

struct tss {
    uint16_t selector;
    struct descriptor descriptor;
    struct segment segment;
    bool is_32;
};

enum {
    TSS32_CR3 = 28, TSS32_EIP = 32, TSS32_EFLAGS = 36, TSS32_GPR = 40, TSS32_SEGMENTS = 72, TSS32_LDT = 96, TSS32_TRAP = 100,
    TSS32_SIZE = 104,
    TSS16_IP = 14, TSS16_FLAGS = 16, TSS16_GPR = 18, TSS16_SEGMENTS = 34, TSS16_LDT = 42, TSS16_SIZE = 44,
};

/* ---- TSS images ---- */

static uint32_t get(const uint8_t *at, unsigned size)
{
    uint32_t value = 0;
    memcpy(&value, at, size);
    return value;
}

static void unpack32(const uint8_t *image, struct state *s)
{
    s->cr3 = get(image + TSS32_CR3, 4);
    s->eip = get(image + TSS32_EIP, 4);
    s->eflags = get(image + TSS32_EFLAGS, 4);
    for (unsigned i = 0; i < 8; i++)
        s->gpr[i] = get(image + TSS32_GPR + 4 * i, 4);
    for (unsigned i = 0; i < 6; i++)
        s->segment[i] = (uint16_t)get(image + TSS32_SEGMENTS + 4 * i, 2);
    s->ldt = (uint16_t)get(image + TSS32_LDT, 2);
    s->trap = image[TSS32_TRAP] & 1;
}

static void unpack16(const uint8_t *image, struct state *s)
{
    s->eip = get(image + TSS16_IP, 2);
    s->eflags = get(image + TSS16_FLAGS, 2);
    for (unsigned i = 0; i < 8; i++)
        s->gpr[i] = get(image + TSS16_GPR + 2 * i, 2) | 0xffff0000;
    for (unsigned i = 0; i < 4; i++)
        s->segment[i] = (uint16_t)get(image + TSS16_SEGMENTS + 2 * i, 2);
    s->ldt = (uint16_t)get(image + TSS16_LDT, 2);
}

static bool load_state(struct cpu *cpu, const struct tss *tss, struct state *s)
{
    uint8_t image[TSS32_SIZE];

    *s = (struct state){0};
    if (!mem_read(cpu, tss->segment.base, image, tss->is_32 ? TSS32_SIZE : TSS16_SIZE, MEM_SYSTEM))
        return false;
    s->link = (uint16_t)get(image, 2);
    if (tss->is_32)
        unpack32(image, s);
    else
        unpack16(image, s);
    return true;
}

/* The dynamic part of the old TSS: EIP up to the segment selectors, contiguous in both formats. */
static bool save_state(struct cpu *cpu, const struct tss *tss, uint32_t eip, uint32_t eflags)
{
    uint8_t image[64] = {0};
    const unsigned size = tss->is_32 ? 4 : 2;
    const unsigned first = tss->is_32 ? TSS32_EIP : TSS16_IP, end = tss->is_32 ? TSS32_LDT : TSS16_LDT;

    memcpy(image, &eip, size);
    memcpy(image + size, &eflags, size);
    for (unsigned i = 0; i < 8; i++)
        memcpy(image + (2 + i) * size, &cpu->gpr[i].d, size);
    for (unsigned i = 0; i < (tss->is_32 ? 6u : 4u); i++)
        memcpy(image + (10 + i) * size, &cpu->segment[i].selector, 2);
    return mem_write(cpu, (uint32_t)(tss->segment.base + first), image, end - first, MEM_SYSTEM);
}

/* ---- checks against the old task ---- */

static bool read_tss(struct cpu *cpu, const struct task_request *request, struct tss *tss)
{
    const bool returning = request->reason == TASK_IRET;
    const uint8_t vector = returning ? VECTOR_TS : VECTOR_GP;
    const uint32_t error = SELECTOR_ERROR(request->selector, request->ext);
    struct descriptor *d = &tss->descriptor;

    tss->selector = request->selector;
    if (selector_is_null(request->selector) || (request->selector & SELECTOR_TI))
        return raise_error(cpu, vector, error);
    if (!descriptor_read(cpu, request->selector, vector, request->ext, d))
        return false;
    const unsigned type = descriptor_type(d);
    const unsigned busy = returning ? 2 : 0;
    tss->is_32 = type & 8;
    if (!descriptor_is_system(d) || (type & 7) != (1 | busy))
        return raise_error(cpu, vector, error);
    if (!descriptor_is_present(d))
        return raise_np(cpu, error);
    descriptor_to_segment(d, request->selector, &tss->segment);
    if (tss->segment.limit < (tss->is_32 ? TSS32_SIZE : TSS16_SIZE) - 1u)
        return raise_ts(cpu, error);
    return true;
}

static void current_tss(const struct cpu *cpu, struct tss *tss)
{
    tss->segment = cpu->segment[SEG_TR];
    tss->selector = tss->segment.selector;
    tss->is_32 = tss->segment.attributes & 8;
}

/* All that will be written or read must be there before anything is written. */
static bool probe(struct cpu *cpu, const struct tss *old, const struct tss *new)
{
    return mem_probe(cpu, (uint32_t)old->segment.base, old->is_32 ? TSS32_SIZE : TSS16_SIZE, ACCESS_WRITE, MEM_SYSTEM) &&
           mem_probe(cpu, (uint32_t)new->segment.base, 2, ACCESS_WRITE, MEM_SYSTEM);
}

bool task_link(struct cpu *cpu, uint16_t *selector)
{
    const struct segment *tr = &cpu->segment[SEG_TR];

    if (tr->limit < 1)
        return raise_ts(cpu, SELECTOR_ERROR(tr->selector, 0));
    return mem_read(cpu, (uint32_t)tr->base, selector, 2, MEM_SYSTEM);
}

/* ---- in the new task ---- */

static bool load_ldt(struct cpu *cpu, uint16_t selector, uint32_t ext)
{
    const uint32_t error = SELECTOR_ERROR(selector, ext);
    struct descriptor d;

    if (selector_is_null(selector))
        return true;
    if (selector & SELECTOR_TI)
        return raise_ts(cpu, error);
    if (!descriptor_read(cpu, selector, VECTOR_TS, ext, &d))
        return false;
    if (!descriptor_is_system(&d) || descriptor_type(&d) != SYSTEM_LDT || !descriptor_is_present(&d))
        return raise_ts(cpu, error);
    descriptor_to_segment(&d, selector, &cpu->segment[SEG_LDTR]);
    return true;
}

static bool load_code(struct cpu *cpu, uint16_t selector, uint32_t ext)
{
    const uint32_t error = SELECTOR_ERROR(selector, ext);
    const unsigned rpl = selector & SELECTOR_RPL;
    struct descriptor d;

    if (selector_is_null(selector))
        return raise_ts(cpu, error);
    if (!descriptor_read(cpu, selector, VECTOR_TS, ext, &d))
        return false;
    if (!descriptor_is_code(&d) || (descriptor_is_conforming(&d) ? descriptor_dpl(&d) > rpl : descriptor_dpl(&d) != rpl))
        return raise_ts(cpu, error);
    if (!descriptor_is_present(&d))
        return raise_np(cpu, error);
    if (!descriptor_set_accessed(cpu, selector, &d))
        return false;
    descriptor_to_segment(&d, selector, &cpu->segment[SEG_CS]);
    return true;
}

static bool load_data(struct cpu *cpu, enum segment_index index, uint16_t selector, uint32_t ext)
{
    struct segment loaded;

    if (!segment_check(cpu, index, selector, &loaded)) {
        /* The same checks as MOV, but a bad selector is #TS here (SDM 3A table 7-1). */
        if (cpu->leave == LEAVE_FAULT && cpu->fault.vector == VECTOR_GP)
            cpu->fault.vector = VECTOR_TS;
        if (cpu->leave == LEAVE_FAULT && cpu->fault.vector != VECTOR_PF)
            cpu->fault.error |= ext;
        return false;
    }
    cpu->segment[index] = loaded;
    return true;
}

static bool load_segments(struct cpu *cpu, const struct state *s, uint32_t ext)
{
    static const enum segment_index data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

    if (!load_ldt(cpu, s->ldt, ext))
        return false;
    if (cpu_is_v86(cpu)) {
        for (unsigned i = 0; i < 6; i++)
            segment_real(cpu, &cpu->segment[i], s->segment[i], &cpu->segment[i]);
        return true;
    }
    if (!load_code(cpu, s->segment[SEG_CS], ext))
        return false;
    if (!segment_check_stack(cpu, s->segment[SEG_SS], cpu->cpl, VECTOR_TS, ext, &cpu->segment[SEG_SS]))
        return false;
    for (size_t i = 0; i < array_size(data); i++)
        if (!load_data(cpu, data[i], s->segment[data[i]], ext))
            return false;
    return true;
}

/* Registers of the new task; hidden parts of segments are invalid until they have been loaded. */
static void load_registers(struct cpu *cpu, const struct state *s, uint32_t eflags)
{
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i].q = s->gpr[i];
    for (unsigned i = 0; i < 6; i++)
        segment_null(s->segment[i], 0, &cpu->segment[i]);
    segment_null(s->ldt, 0, &cpu->segment[SEG_LDTR]);
    cpu->rip = cpu->next_rip = cpu->resume_rip = s->eip;
    cpu_set_rflags(cpu, (eflags & RFLAGS_ALL) | RFLAGS_ONE);
    cpu->cpl = cpu_is_v86(cpu) ? 3 : s->segment[SEG_CS] & SELECTOR_RPL;
    segment_null(s->segment[SEG_SS], cpu->cpl, &cpu->segment[SEG_SS]); /* who sees the registers only, sees CPL there */
}

static bool push_error(struct cpu *cpu, const struct task_request *request, bool is_32)
{
    struct frame frame = {0};
    struct stack stack;

    if (!request->has_error)
        return true;
    stack = stack_current(cpu, request->ext);
    frame_add(&frame, request->error);
    if (!stack_push_frame(cpu, &stack, &frame, is_32 ? 4 : 2))
        return false;
    stack_commit(cpu, &stack);
    return true;
}

static bool enter_task(struct cpu *cpu, const struct task_request *request, const struct tss *tss, const struct state *s)
{
    bool ok = load_segments(cpu, s, request->ext);

    cpu_update_mode(cpu);
    if (!ok)
        return false;
    if (s->eip > cpu->segment[SEG_CS].limit)
        return raise_gp(cpu, request->ext);
    if (!push_error(cpu, request, tss->is_32))
        return false;
    if (s->trap) {
        cpu->fault = (struct cpu_fault){.vector = VECTOR_DB, .is_trap = true, .debug = DR6_BT};
        cpu->leave = LEAVE_FAULT;
        return false;
    }
    return true;
}

/* ---- the switch ---- */

/* What a switch changes in the processor. */
struct registers {
    union gpr gpr[16];
    struct segment segment[SEG_COUNT];
    uint64_t rip, next_rip, rflags, cr0, cr3, dr7, pdpte[4];
    uint8_t cpl;
    bool interrupt_shadow;
};

static void remember(const struct cpu *cpu, struct registers *r)
{
    memcpy(r->gpr, cpu->gpr, sizeof(r->gpr));
    memcpy(r->segment, cpu->segment, sizeof(r->segment));
    memcpy(r->pdpte, cpu->pdpte, sizeof(r->pdpte));
    r->rip = cpu->rip, r->next_rip = cpu->next_rip, r->rflags = cpu_rflags(cpu);
    r->cr0 = cpu->cr0, r->cr3 = cpu->cr3, r->dr7 = cpu->dr7;
    r->cpl = cpu->cpl, r->interrupt_shadow = cpu->interrupt_shadow;
}

static void take_back(struct cpu *cpu, const struct registers *r)
{
    memcpy(cpu->gpr, r->gpr, sizeof(r->gpr));
    memcpy(cpu->segment, r->segment, sizeof(r->segment));
    memcpy(cpu->pdpte, r->pdpte, sizeof(r->pdpte));
    cpu->rip = r->rip, cpu->next_rip = r->next_rip;
    cpu->cr0 = r->cr0, cpu->dr7 = r->dr7;
    cpu->cpl = r->cpl, cpu->interrupt_shadow = r->interrupt_shadow;
    if (cpu->cr3 != r->cr3) {
        cpu->cr3 = r->cr3;
        cpu_flush_tlb(cpu, true);
    }
    cpu_set_rflags(cpu, r->rflags);
    cpu_update_mode(cpu);
}

/* The new task's registers; false with LEAVE_FAULT: the switch has happened, the fault is the new task's. */
static bool load_task(struct cpu *cpu, const struct task_request *request, const struct tss *new, const struct state *state,
                      bool nests)
{
    cpu->segment[SEG_TR] = new->segment;
    cpu->segment[SEG_TR].attributes |= 2; /* busy */
    cpu->cr0 |= CR0_TS;
    load_registers(cpu, state, nests ? state->eflags | (uint32_t)RFLAGS_NT : state->eflags);
    cpu->dr7 &= ~0x155ull; /* local breakpoints */
    cpu->interrupt_shadow = false;
    if (new->is_32 && (cpu->cr0 & CR0_PG) && !cpu_set_cr3(cpu, state->cr3)) {
        cpu_update_mode(cpu);
        return false;
    }
    return enter_task(cpu, request, new, state);
}

static bool set_busy_bits(struct cpu *cpu, const struct task_request *request, const struct tss *old, const struct tss *new,
                          bool nests)
{
    struct descriptor d = {0};

    if (!nests && !descriptor_set_busy(cpu, old->selector, false, &d))
        return false;
    return request->reason == TASK_IRET || descriptor_set_busy(cpu, new->selector, true, &d);
}

bool task_switch(struct cpu *cpu, const struct task_request *request)
{
    const bool nests = request->reason == TASK_CALL || request->reason == TASK_EVENT;
    uint32_t old_flags = (uint32_t)debug_flags(cpu) | (request->sets_rf ? (uint32_t)RFLAGS_RF : 0);
    struct registers before;
    struct tss old, new;
    struct state state;

    current_tss(cpu, &old);
    if (!read_tss(cpu, request, &new) || !probe(cpu, &old, &new) || !load_state(cpu, &new, &state))
        return false;
    if (request->reason == TASK_IRET)
        old_flags &= ~(uint32_t)RFLAGS_NT;
    if (!save_state(cpu, &old, (uint32_t)request->return_rip, old_flags))
        return false;
    if (nests && !mem_write(cpu, new.segment.base, &old.selector, 2, MEM_SYSTEM))
        return false;

    remember(cpu, &before);
    const bool loaded = load_task(cpu, request, &new, &state, nests);
    const uint32_t leave = cpu->leave;
    const struct cpu_fault fault = cpu->fault;
    if ((!loaded && leave != LEAVE_FAULT) || !set_busy_bits(cpu, request, &old, &new, nests)) {
        take_back(cpu, &before);
        return false;
    }
    cpu->leave = leave;
    cpu->fault = fault;
    return loaded;
}
