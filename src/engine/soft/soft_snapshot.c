/*
 * A processor's state for snapshots: one table of the members that are the same on both sides, and a pair of functions for
 * each group of the rest.
 *
 * What is not here follows from what is: mode, bounds and keys (cpu_update_mode), the request bits (the next run looks at
 * everything), translations (forgotten on both sides, so that a guest that relies on an old one sees no difference), decoded
 * code (compared with memory before it runs). Counters and cancels belong to the client and stay.
 */
#include <string.h>

#include "engine/soft/soft.h"
#include "util/last_error.h"
#include "x86/system/control.h"
#include "x86/system/debug.h"
#include "x86/system/msr.h"

/* ---- time ---- */

void soft_save_time(struct engine_partition *p, struct time_state *state)
{
    clock_save_state(&p->clock, state);
}

void soft_load_time(struct engine_partition *p, const struct time_state *state)
{
    clock_load_state(&p->clock, state);
}

/* ---- members that need no conversion ---- */

struct member {
    uint16_t in_cpu, in_state, size;
};

#define MEMBER(cpu_member, state_member)                                                                                      \
    {offsetof(struct cpu, cpu_member), offsetof(struct vcpu_state, state_member), sizeof(((struct vcpu_state *)0)->state_member)}
#define SAME(member) MEMBER(member, member)
#define ASSERT_SAME_SIZE(member)                                                                                                 \
    _Static_assert(sizeof(((struct cpu *)0)->member) == sizeof(((struct vcpu_state *)0)->member), #member)

/* clang-format off */
static const struct member members[] = {
    SAME(gpr), SAME(rip), SAME(segment), MEMBER(gdtr.base, gdtr_base), MEMBER(idtr.base, idtr_base),
    SAME(cr0), SAME(cr2), SAME(cr3), SAME(cr4), SAME(cr8), SAME(xcr0), SAME(pdpte), SAME(dr), SAME(dr6), SAME(dr7),
    SAME(efer), SAME(star), SAME(lstar), SAME(cstar), SAME(sfmask), SAME(kernel_gs_base),
    SAME(sysenter_cs), SAME(sysenter_esp), SAME(sysenter_eip),
    SAME(pat), SAME(tsc_aux), SAME(misc_enable), SAME(spec_ctrl), SAME(xss), SAME(mcg_status), SAME(debug_control),
    SAME(mtrr_def_type), SAME(mtrr_base), SAME(mtrr_mask), SAME(mtrr_fixed),
    MEMBER(x87, x87), SAME(vector), SAME(mxcsr),
};
/* clang-format on */
ASSERT_SAME_SIZE(gpr);
ASSERT_SAME_SIZE(segment);
ASSERT_SAME_SIZE(dr);
ASSERT_SAME_SIZE(pdpte);
ASSERT_SAME_SIZE(mtrr_base);
ASSERT_SAME_SIZE(mtrr_fixed);
ASSERT_SAME_SIZE(vector);
_Static_assert(offsetof(struct segment, selector) == offsetof(struct segment_state, selector) &&
                   offsetof(struct segment, attributes) == offsetof(struct segment_state, attributes),
               "segments are laid out alike");

static void save_members(const struct cpu *cpu, struct vcpu_state *s)
{
    for (size_t i = 0; i < array_size(members); i++)
        memcpy((uint8_t *)s + members[i].in_state, (const uint8_t *)cpu + members[i].in_cpu, members[i].size);
    s->rflags = cpu_rflags(cpu) & ~(cpu->rflags & RFLAGS_ONE ? 0 : RFLAGS_ONE);
    s->gdtr_limit = cpu->gdtr.limit;
    s->idtr_limit = cpu->idtr.limit;
    s->pkru = cpu->pkru;
    s->pkrs = cpu->pkrs;
    s->cpl = cpu->cpl;
    s->interrupt_shadow = cpu->interrupt_shadow;
    s->nmi_masked = cpu->nmi_masked;
    s->debug_shadow = cpu->debug_shadow;
    s->pending_debug = cpu->debug_pending;
}

static void load_members(struct cpu *cpu, const struct vcpu_state *s)
{
    for (size_t i = 0; i < array_size(members); i++)
        memcpy((uint8_t *)cpu + members[i].in_cpu, (const uint8_t *)s + members[i].in_state, members[i].size);
    cpu_set_rflags(cpu, s->rflags);
    if (!(s->rflags & RFLAGS_ONE))
        cpu->rflags &= ~RFLAGS_ONE; /* a client has set it so: refused at the next run */
    cpu->gdtr.limit = (uint16_t)s->gdtr_limit;
    cpu->idtr.limit = (uint16_t)s->idtr_limit;
    cpu->pkru = (uint32_t)s->pkru; /* translations are forgotten anyway */
    cpu->pkrs = (uint32_t)s->pkrs;
    cpu->cpl = s->cpl;
    cpu->interrupt_shadow = s->interrupt_shadow;
    cpu->nmi_masked = s->nmi_masked;
    cpu->debug_shadow = s->debug_shadow;
    cpu->debug_pending = s->pending_debug;
    cpu->debug_held = 0;
    cpu->memory_event = false;
}

/* ---- events ---- */

static void save_trailing_exit(const struct engine_vcpu *vcpu, struct trailing_exit_state *s)
{
    const struct vcpu_exit *exit = &vcpu->stored_exit;

    if (!vcpu->exit_pending)
        return;
    s->reason = exit->reason;
    switch (exit->reason) {
    case EXIT_APIC_EOI:
        s->value = exit->eoi.vector;
        break;
    case EXIT_APIC_WRITE_TRAP:
        s->type = exit->apic_write.type;
        s->value = exit->apic_write.value;
        break;
    default: /* EXIT_APIC_SMI_TRAP, EXIT_APIC_INIT_SIPI_TRAP */
        s->value = exit->apic_icr.icr;
        break;
    }
}

static void load_trailing_exit(struct engine_vcpu *vcpu, const struct trailing_exit_state *s)
{
    struct vcpu_exit *exit = &vcpu->stored_exit;

    vcpu->exit_pending = s->reason != EXIT_NONE;
    *exit = (struct vcpu_exit){.reason = (enum exit_reason)s->reason};
    switch (s->reason) {
    case EXIT_APIC_EOI:
        exit->eoi.vector = (uint32_t)s->value;
        break;
    case EXIT_APIC_WRITE_TRAP:
        exit->apic_write.type = s->type;
        exit->apic_write.value = s->value;
        break;
    default:
        exit->apic_icr.icr = s->value;
        break;
    }
}

_Static_assert((int)EVENT_EXTERNAL == (int)EVENT_STATE_EXTERNAL && (int)EVENT_NMI == (int)EVENT_STATE_NMI &&
                   (int)EVENT_EXCEPTION == (int)EVENT_STATE_EXCEPTION && (int)EVENT_SOFTWARE == (int)EVENT_STATE_SOFTWARE &&
                   (int)EVENT_SOFT_EXCEPTION == (int)EVENT_STATE_SOFT_EXCEPTION && (int)EVENT_ICEBP == (int)EVENT_STATE_ICEBP,
               "the same numbers");

static void save_events(struct engine_vcpu *vcpu, struct vcpu_state *s)
{
    const struct pending_interruption *p = &vcpu->interruption;
    uint32_t pending = atomic_load(&vcpu->pending);

    s->halted = vcpu->halted;
    s->wait_for_sipi = vcpu->wait_for_sipi;
    s->is_unchecked = vcpu->control_unchecked;
    s->pending = (pending & PENDING_NMI ? VCPU_STATE_NMI : 0) | (pending & PENDING_INIT ? VCPU_STATE_INIT : 0) |
                 (pending & PENDING_SIPI ? VCPU_STATE_SIPI : 0);
    s->sipi_vector = atomic_load(&vcpu->sipi_vector);
    if (p->is_pending)
        s->interruption = (struct event_state){.is_pending = 1, .type = (uint8_t)p->event.type, .vector = p->event.vector,
                                               .has_error = p->event.has_error, .error = p->event.error,
                                               .instruction_length = p->instruction_length, .is_detect = p->event.is_detect};
    memcpy(s->pending_event, &vcpu->pending_event, sizeof(s->pending_event));
    s->notifications = vcpu->notifications;
    save_trailing_exit(vcpu, &s->trailing_exit);
}

static void load_events(struct engine_vcpu *vcpu, const struct vcpu_state *s)
{
    const struct event_state *e = &s->interruption;
    uint32_t pending = (s->pending & VCPU_STATE_NMI ? PENDING_NMI : 0) | (s->pending & VCPU_STATE_INIT ? PENDING_INIT : 0) |
                       (s->pending & VCPU_STATE_SIPI ? PENDING_SIPI : 0);

    vcpu->halted = s->halted;
    vcpu->wait_for_sipi = s->wait_for_sipi;
    vcpu->control_unchecked = s->is_unchecked;
    vcpu->segments_unchecked = s->is_unchecked ? 0xff : 0; /* which of them is not kept: those of a guest pass anyway */
    atomic_fetch_and(&vcpu->pending, ~(uint32_t)(PENDING_NMI | PENDING_INIT | PENDING_SIPI));
    atomic_fetch_or(&vcpu->pending, pending);
    atomic_store(&vcpu->sipi_vector, s->sipi_vector);
    vcpu->interruption = (struct pending_interruption){
        .is_pending = e->is_pending,
        .event = {.type = (enum event_type)e->type, .vector = e->vector, .has_error = e->has_error, .error = e->error,
                  .is_detect = e->is_detect},
        .instruction_length = e->instruction_length};
    memcpy(&vcpu->pending_event, s->pending_event, sizeof(s->pending_event));
    vcpu->notifications = s->notifications;
    load_trailing_exit(vcpu, &s->trailing_exit);
}

/* ---- an access that is being completed ---- */

static void save_completion(const struct completion *c, struct completion_state *s)
{
    s->due = c->due;
    s->type = c->type;
    s->size = c->size;
    s->at = c->at;
    s->piece = c->piece;
    s->gpa = c->gpa;
    s->gva = c->gva;
    s->exit_rip = c->exit_rip;
    s->exit_gpa = c->exit_gpa;
    memcpy(s->data, c->data, sizeof(s->data));
    s->rip = c->rip;
    s->rcx = c->rcx;
    s->rsi = c->rsi;
    s->rdi = c->rdi;
    s->count = c->count;
    for (uint32_t i = 0; i < c->count; i++)
        s->answers[i] = (struct answer_state){.gpa = c->answers[i].gpa, .data = c->answers[i].data, .size = c->answers[i].size,
                                              .type = c->answers[i].type};
}

/* A plain move is not kept as one: it is executed again, with the same result. */
static void load_completion(struct completion *c, const struct completion_state *s)
{
    c->due = s->due;
    c->type = s->type;
    c->size = s->size;
    c->at = s->at;
    c->piece = s->piece;
    c->gpa = s->gpa;
    c->gva = s->gva;
    c->exit_rip = s->exit_rip;
    c->exit_gpa = s->exit_gpa;
    memcpy(c->data, s->data, sizeof(c->data));
    c->move.is_plain = c->is_executing = c->is_used = false;
    c->rip = s->rip;
    c->rcx = s->rcx;
    c->rsi = s->rsi;
    c->rdi = s->rdi;
    c->next = 0;
    c->count = s->count;
    for (uint32_t i = 0; i < c->count; i++)
        c->answers[i] = (struct completion_answer){.gpa = s->answers[i].gpa, .data = s->answers[i].data,
                                                   .size = s->answers[i].size, .type = s->answers[i].type};
}
_Static_assert((int)COMPLETION_STATE_ANSWERS == (int)COMPLETION_ANSWERS, "all of them");

/* ---- a processor ---- */

enum status soft_save_vcpu(struct engine_vcpu *vcpu, struct vcpu_state *s)
{
    memset(s, 0, offsetof(struct vcpu_state, completion.answers));
    save_members(vcpu->cpu, s);
    save_events(vcpu, s);
    s->unfinished_hits = vcpu->unfinished.hits;
    s->unfinished_rip = vcpu->unfinished.rip;
    s->unfinished_next_rip = vcpu->unfinished.next_rip;
    s->unfinished_rcx = vcpu->unfinished.rcx;
    s->tsc_offset = atomic_load(&vcpu->tsc.offset);
    s->tsc_adjust = atomic_load(&vcpu->tsc.adjust);
    s->has_apic = vcpu->lapic != NULL;
    if (vcpu->lapic)
        lapic_save_state(vcpu->lapic, &s->apic);
    save_completion(&vcpu->completion, &s->completion);
    soft_monitor_forget(vcpu);
    cpu_flush_tlb(vcpu->cpu, false);
    return STATUS_OK;
}

static gpa_t apic_page(const struct engine_vcpu *vcpu)
{
    return vcpu->lapic ? lapic_page(vcpu->lapic) : LAPIC_NO_PAGE;
}

enum status soft_load_vcpu(struct engine_vcpu *vcpu, const struct vcpu_state *s)
{
    struct cpu *cpu = vcpu->cpu;
    gpa_t page = apic_page(vcpu);

    load_members(cpu, s);
    load_events(vcpu, s);
    vcpu->unfinished = (struct unfinished){
        .hits = s->unfinished_hits, .rip = s->unfinished_rip, .next_rip = s->unfinished_next_rip, .rcx = s->unfinished_rcx};
    atomic_store(&vcpu->tsc.offset, s->tsc_offset);
    atomic_store(&vcpu->tsc.adjust, s->tsc_adjust);
    if (vcpu->lapic)
        lapic_load_state(vcpu->lapic, &s->apic);
    load_completion(&vcpu->completion, &s->completion);
    soft_monitor_forget(vcpu);
    cpu_update_mode(cpu);
    if (apic_page(vcpu) == page)
        cpu_flush_tlb(cpu, false);
    else
        cpu_drop_memory(cpu, false);
    cpu_interrupts_enabled(cpu);
    atomic_fetch_or(&cpu->request, REQUEST_INTERRUPT);
    return STATUS_OK;
}

/* ---- states from elsewhere ---- */

static bool is_flag(uint8_t value)
{
    return value <= 1;
}

static const char *flags_problem(const struct vcpu_state *s)
{
    if (!is_flag(s->interrupt_shadow) || !is_flag(s->nmi_masked) || !is_flag(s->halted) || !is_flag(s->wait_for_sipi) ||
        !is_flag(s->is_unchecked) || !is_flag(s->has_apic) || !is_flag(s->interruption.is_pending) ||
        !is_flag(s->interruption.has_error) || !is_flag(s->debug_shadow) || !is_flag(s->interruption.is_detect))
        return "a flag that is neither 0 nor 1";
    return NULL;
}

static const char *event_problem(const struct vcpu_state *s)
{
    const struct event_state *e = &s->interruption;

    if (e->type >= EVENT_STATE_COUNT || e->instruction_length > 15 ||
        (e->is_pending &&
         (e->type == EVENT_STATE_EXCEPTION ? e->vector > 31 : e->type == EVENT_STATE_NMI && e->vector != VECTOR_NMI)))
        return "a pending event that does not exist";
    if ((s->pending & ~(uint32_t)VCPU_STATE_PENDING_ALL) || s->sipi_vector > 255 || (s->notifications & ~(uint64_t)0x3f) ||
        (s->pending_debug & ~(uint64_t)DR6_WRITABLE) || (s->unfinished_hits & ~(uint64_t)15) ||
        (s->debug_control & ~DEBUG_CONTROL_BTF))
        return "reserved bits in pending events";
    if ((s->pending_event[0] & 1) && (s->pending_event[0] >> 1 & 7) != 0 && (s->pending_event[0] >> 1 & 7) != 5)
        return "PendingEvent of an unknown type";
    switch (s->trailing_exit.reason) {
    case EXIT_NONE:
    case EXIT_APIC_EOI:
    case EXIT_APIC_WRITE_TRAP:
    case EXIT_APIC_SMI_TRAP:
    case EXIT_APIC_INIT_SIPI_TRAP:
        return NULL;
    default:
        return "an exit that cannot wait";
    }
}

static bool is_piece(unsigned size)
{
    return size == 1 || size == 2 || size == 4 || size == 8;
}

static const char *completion_problem(const struct completion_state *c)
{
    static const char problem[] = "an access to complete that cannot be";

    if (c->due > DUE_WITHOUT_DATA || c->count > COMPLETION_ANSWERS || c->size > sizeof(c->data) || c->at > c->size)
        return problem;
    if (c->due == DUE_ACCESS && (c->type > ACCESS_WRITE || !is_piece(c->piece) || c->at + c->piece > c->size))
        return problem;
    for (uint32_t i = 0; i < c->count; i++)
        if (!is_piece(c->answers[i].size) || c->answers[i].type > ACCESS_WRITE)
            return problem;
    return NULL;
}

/* Does any processor have these registers? Judged by a copy that is one as far as that goes. */
static const char *registers_problem(const struct cpu *cpu, const struct vcpu_state *s)
{
    struct cpu *copy = cpu_create_bare(cpu->port, NULL, cpu->physical_bits);
    const char *problem;

    if (!copy)
        return "no memory to look at its registers";
    copy->cpuid = cpu->cpuid;
    load_members(copy, s);
    cpu_update_mode(copy);
    problem = s->is_unchecked ? NULL : cpu_control_problem(copy);
    if (!problem && (!cpu_xcr0_is_valid(copy, s->xcr0) || !msr_pat_is_valid(s->pat) ||
                     !msr_mtrr_def_type_is_valid(s->mtrr_def_type)))
        problem = "XCR0, PAT or MTRRdefType cannot hold its value";
    cpu_destroy(copy);
    return problem;
}

static const char *bounds_problem(const struct vcpu_state *s)
{
    if (s->cpl > 3 || s->cr8 > 15 || s->mxcsr >> 16 || s->gdtr_limit > 0xffff || s->idtr_limit > 0xffff || s->pkru >> 32 ||
        s->pkrs >> 32)
        return "CPL, CR8, MXCSR, PKRU or a table limit is out of bounds";
    return NULL;
}

enum status soft_check_vcpu(struct engine_vcpu *vcpu, const struct vcpu_state *s)
{
    const char *problem = flags_problem(s);

    problem = problem ? problem : event_problem(s);
    problem = problem ? problem : completion_problem(&s->completion);
    problem = problem ? problem : bounds_problem(s);
    problem = problem ? problem : registers_problem(vcpu->cpu, s);
    if (problem)
        return fail(STATUS_HV_INVALID_REGISTER_VALUE, "processor %u: %s", vcpu->index, problem);
    if (s->has_apic != (vcpu->lapic != NULL))
        return fail(STATUS_HV_INVALID_REGISTER_VALUE, "processor %u: a local APIC that is not here, or none where one is",
                    vcpu->index);
    return vcpu->lapic ? lapic_check_state(vcpu->lapic, &s->apic) : STATUS_OK;
}
