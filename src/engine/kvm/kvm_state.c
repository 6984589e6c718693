/*
 * Registers between the processor (struct cpu) and KVM.
 *
 * Outside of KVM_RUN the processor's registers are the ones that count. After a run those that any exit needs are taken over at
 * once from the shared page (KVM_CAP_SYNC_REGS); vector registers, debug registers and MSRs cost a system call each and follow
 * when somebody needs them (kvm_state_complete). Before a run everything that differs from what KVM is known to hold
 * (struct kvm_mirror) is handed over.
 *
 * KVM never has an event of ours to deliver: events go through the software processor. An event that KVM was delivering on its
 * own when it came out (an exception of the guest whose stack is a device, say) is taken over as pending.
 */
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm.h"
#include "x86/system/control.h"
#include "x86/system/msr.h"

/* ---- general registers ---- */

/* In the order of struct kvm_regs: RAX RBX RCX RDX RSI RDI RSP RBP R8.. */
static const uint8_t gpr_order[16] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_RSP, REG_RBP,
                                      8,       9,       10,      11,      12,      13,      14,      15};

static void regs_to_kvm(const struct cpu *cpu, struct kvm_regs *regs)
{
    uint64_t values[18];

    for (unsigned i = 0; i < 16; i++)
        values[i] = cpu->gpr[gpr_order[i]].q;
    values[16] = cpu->rip;
    values[17] = cpu_rflags(cpu);
    memcpy(regs, values, sizeof(*regs));
}
_Static_assert(sizeof(struct kvm_regs) == 18 * 8, "sixteen registers, RIP, RFLAGS");

static void regs_from_kvm(struct cpu *cpu, const struct kvm_regs *regs)
{
    uint64_t values[18];

    memcpy(values, regs, sizeof(*regs));
    for (unsigned i = 0; i < 16; i++)
        cpu->gpr[gpr_order[i]].q = values[i];
    cpu->rip = values[16];
    cpu_set_rflags(cpu, values[17]);
}

/* ---- segments and control registers ---- */

static struct kvm_segment segment_to_kvm(const struct segment *s)
{
    const uint16_t a = s->attributes;

    return (struct kvm_segment){.base = s->base, .limit = s->limit, .selector = s->selector, .type = a & 15, .s = a >> 4 & 1,
                                .dpl = a >> 5 & 3, .present = a >> 7 & 1, .avl = a >> 12 & 1, .l = a >> 13 & 1, .db = a >> 14 & 1,
                                .g = a >> 15 & 1, .unusable = !(a >> 7 & 1)};
}

static struct segment segment_from_kvm(const struct kvm_segment *s)
{
    unsigned present = s->present && !s->unusable;

    return (struct segment){.base = s->base,
                            .limit = s->limit,
                            .selector = s->selector,
                            .attributes = (uint16_t)(s->type | s->s << 4 | s->dpl << 5 | present << 7 | s->avl << 12 |
                                                     s->l << 13 | s->db << 14 | s->g << 15)};
}

#define SEGMENTS(X)                                                                                                              \
    X(es, SEG_ES) X(cs, SEG_CS) X(ss, SEG_SS) X(ds, SEG_DS) X(fs, SEG_FS) X(gs, SEG_GS) X(ldt, SEG_LDTR) X(tr, SEG_TR)

static bool shows_apic(const struct engine_vcpu *vcpu)
{
    return vcpu->lapic && lapic_is_shown(vcpu->lapic) && cpuid_has(&vcpu->cpu->cpuid, FEATURE_APIC);
}

#define APIC_BASE_ENABLE BIT64(11)

static void sregs_to_kvm(const struct engine_vcpu *vcpu, struct kvm_sregs *sregs)
{
    const struct cpu *cpu = vcpu->cpu;

#define X(name, index) sregs->name = segment_to_kvm(&cpu->segment[index]);
    SEGMENTS(X)
#undef X
    sregs->gdt = (struct kvm_dtable){.base = cpu->gdtr.base, .limit = cpu->gdtr.limit};
    sregs->idt = (struct kvm_dtable){.base = cpu->idtr.base, .limit = cpu->idtr.limit};
    sregs->cr0 = cpu->cr0;
    sregs->cr2 = cpu->cr2;
    sregs->cr3 = cpu->cr3;
    sregs->cr4 = cpu->cr4;
    sregs->efer = cpu->efer;
    /* KVM has no local APIC; but whether CPUID tells of one goes by this. */
    sregs->apic_base = 0xfee00000 | (shows_apic(vcpu) ? APIC_BASE_ENABLE : 0);
    memset(sregs->interrupt_bitmap, 0, sizeof(sregs->interrupt_bitmap));
}

static void sregs_from_kvm(struct cpu *cpu, const struct kvm_sregs *sregs)
{
#define X(name, index) cpu->segment[index] = segment_from_kvm(&sregs->name);
    SEGMENTS(X)
#undef X
    cpu->gdtr = (struct table_register){.base = sregs->gdt.base, .limit = sregs->gdt.limit};
    cpu->idtr = (struct table_register){.base = sregs->idt.base, .limit = sregs->idt.limit};
    cpu->cr0 = sregs->cr0;
    cpu->cr2 = sregs->cr2;
    cpu->cr3 = sregs->cr3;
    cpu->cr4 = sregs->cr4;
    cpu->efer = sregs->efer;
}

/* Most exits change none of it: it is compared as the processor has it, and converted only when it differs. */
static void control_note(const struct engine_vcpu *vcpu, struct kvm_control *c)
{
    const struct cpu *cpu = vcpu->cpu;

    memcpy(c->segment, cpu->segment, sizeof(c->segment));
    memcpy(&c->gdtr, &cpu->gdtr, sizeof(c->gdtr));
    memcpy(&c->idtr, &cpu->idtr, sizeof(c->idtr));
    c->cr0 = cpu->cr0;
    c->cr2 = cpu->cr2;
    c->cr3 = cpu->cr3;
    c->cr4 = cpu->cr4;
    c->efer = cpu->efer;
    c->shows_apic = shows_apic(vcpu);
}

static bool control_is(const struct engine_vcpu *vcpu, const struct kvm_control *c)
{
    const struct cpu *cpu = vcpu->cpu;
    const uint64_t different = (c->cr0 ^ cpu->cr0) | (c->cr2 ^ cpu->cr2) | (c->cr3 ^ cpu->cr3) | (c->cr4 ^ cpu->cr4) |
                               (c->efer ^ cpu->efer) | (c->shows_apic ^ shows_apic(vcpu));

    return !different && kvm_same(c->segment, cpu->segment, sizeof(c->segment)) &&
           kvm_same(&c->gdtr, &cpu->gdtr, sizeof(c->gdtr)) && kvm_same(&c->idtr, &cpu->idtr, sizeof(c->idtr));
}

static uint8_t privilege_level(const struct cpu *cpu)
{
    if (!(cpu->cr0 & CR0_PE))
        return 0;
    return cpu->rflags & RFLAGS_VM ? 3 : (uint8_t)(cpu->segment[SEG_SS].attributes >> 5 & 3);
}

/* ---- events ---- */

/* INT3, INTO and INT n are not taken over: RIP is at the instruction, which is executed again. */
static void take_event(struct engine_vcpu *vcpu, const struct kvm_vcpu_events *events)
{
    struct event event;

    if (events->nmi.injected || events->nmi.pending)
        event = (struct event){.type = EVENT_NMI, .vector = VECTOR_NMI};
    else if (events->exception.injected && events->exception.nr != 3 && events->exception.nr != 4)
        event = (struct event){.type = EVENT_EXCEPTION,
                               .vector = events->exception.nr,
                               .has_error = events->exception.has_error_code,
                               .error = events->exception.error_code};
    else if (events->interrupt.injected && !events->interrupt.soft)
        event = (struct event){.type = EVENT_EXTERNAL, .vector = events->interrupt.nr};
    else
        return;
    vcpu->interruption = (struct pending_interruption){.is_pending = true, .event = event};
    atomic_fetch_or(&vcpu->cpu->request, REQUEST_INTERRUPT);
}

static bool had_event(const struct kvm_vcpu_events *events)
{
    return events->exception.injected || events->exception.pending || events->interrupt.injected || events->nmi.injected ||
           events->nmi.pending;
}

/* The control part is as it was handed over: but the guest may have changed its page tables. */
static bool is_only_flushed(const struct cpu *cpu)
{
    const bool has_pdptes = (cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !cpu_is_long(cpu); /* loaded with CR3 */

    return !has_pdptes && cpu->cpl == privilege_level(cpu);
}

static void control_from_kvm(struct engine_vcpu *vcpu, bool same)
{
    struct kvm_mirror *m = &vcpu->kvm->mirror;
    struct cpu *cpu = vcpu->cpu;

    if (likely(same && is_only_flushed(cpu))) {
        cpu_flush_tlb(cpu, false);
        return;
    }
    cpu->cpl = privilege_level(cpu);
    cpu_control_changed(cpu);
    control_note(vcpu, &m->control);
}

void kvm_state_pull(struct engine_vcpu *vcpu)
{
    struct kvm_vcpu *k = vcpu->kvm;
    const struct kvm_sync_regs *s = &k->run->s.regs;
    struct cpu *cpu = vcpu->cpu;
    const bool same = likely(k->mirror.valid && kvm_same(&s->sregs, &k->mirror.sregs, sizeof(s->sregs)));

    if (!same) {
        sregs_from_kvm(cpu, &s->sregs);
        k->mirror.sregs = s->sregs;
    }
    regs_from_kvm(cpu, &s->regs);
    control_from_kvm(vcpu, same);
    cpu->interrupt_shadow = s->events.interrupt.shadow;
    cpu->debug_shadow = s->events.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS;
    cpu->nmi_masked = s->events.nmi.masked;
    take_event(vcpu, &s->events);
    if (vcpu->lapic && lapic_cr8(vcpu->lapic) != k->run->cr8) /* the task priority has four bits more */
        lapic_set_cr8(vcpu->lapic, k->run->cr8);
    cpu->cr8 = k->run->cr8;
    cpu_verify_code(cpu);
    k->mirror.regs = s->regs;
    k->mirror.shadow = s->events.interrupt.shadow;
    k->mirror.nmi_masked = cpu->nmi_masked;
    k->mirror.valid = !had_event(&s->events);
    k->whole = false;
}

/* ---- the rest ---- */

/* The XSAVE image (standard format): 512 bytes as FXSAVE64, the header, upper halves of YMM registers at 576. */
enum { XSAVE_XMM = 160, XSAVE_HEADER = 512, XSAVE_YMM = 576, XSAVE_MXCSR = 24 };

/*
 * Where the last x87 instruction was: some processors keep that only while an exception is pending (AMD), emulated ones never.
 * As long as the guest has not changed anything else there, it is what it was.
 */
static bool has_lost_pointers(const struct x87_image *now, const struct x87_image *then)
{
    return !now->instruction_pointer && !now->data_pointer && (!now->opcode || now->opcode == then->opcode) &&
           now->control == then->control && now->status == then->status && now->tag == then->tag &&
           memcmp(now->st, then->st, sizeof(now->st)) == 0;
}

static void xsave_from_kvm(struct cpu *cpu, const struct kvm_xsave *xsave)
{
    const uint8_t *image = (const uint8_t *)xsave->region;
    const struct x87_image initial = {.control = 0x37f}, then = cpu->x87;
    uint64_t present;

    memcpy(&present, image + XSAVE_HEADER, 8);
    if (present & XCR0_X87)
        memcpy(&cpu->x87, image, XSAVE_XMM);
    else
        cpu->x87 = initial;
    if (has_lost_pointers(&cpu->x87, &then))
        cpu->x87 = then;
    memcpy(&cpu->mxcsr, image + XSAVE_MXCSR, 4);
    memset(cpu->vector, 0, sizeof(cpu->vector));
    for (unsigned i = 0; i < 16; i++) {
        if (present & XCR0_SSE)
            memcpy(&cpu->vector[i], image + XSAVE_XMM + 16 * i, 16);
        if (present & XCR0_AVX)
            memcpy(&cpu->vector[i].q[2], image + XSAVE_YMM + 16 * i, 16);
    }
}

static void xsave_to_kvm(const struct cpu *cpu, struct kvm_xsave *xsave)
{
    uint8_t *image = (uint8_t *)xsave->region;
    const uint64_t present = cpu_xcr0_mask(cpu) & (XCR0_X87 | XCR0_SSE | XCR0_AVX);
    const uint32_t mask = 0xffff;

    memset(xsave, 0, sizeof(*xsave));
    memcpy(image, &cpu->x87, XSAVE_XMM);
    memcpy(image + XSAVE_MXCSR, &cpu->mxcsr, 4);
    memcpy(image + XSAVE_MXCSR + 4, &mask, 4);
    memcpy(image + XSAVE_HEADER, &present, 8);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(image + XSAVE_XMM + 16 * i, &cpu->vector[i], 16);
        if (present & XCR0_AVX)
            memcpy(image + XSAVE_YMM + 16 * i, &cpu->vector[i].q[2], 16);
    }
}

static void debug_from_kvm(struct cpu *cpu, const struct kvm_debugregs *debug)
{
    memcpy(cpu->dr, debug->db, sizeof(cpu->dr));
    cpu->dr6 = debug->dr6;
    cpu->dr7 = debug->dr7;
}

static bool xcr_from_kvm(struct engine_vcpu *vcpu)
{
    struct kvm_xcrs xcrs;

    if (kvm_call(vcpu->kvm->fd, KVM_GET_XCRS, &xcrs))
        return false;
    for (uint32_t i = 0; i < xcrs.nr_xcrs; i++)
        if (xcrs.xcrs[i].xcr == 0)
            vcpu->cpu->xcr0 = vcpu->kvm->mirror.xcr0 = xcrs.xcrs[i].value;
    return true;
}

bool kvm_state_complete(struct engine_vcpu *vcpu)
{
    struct kvm_vcpu *k = vcpu->kvm;
    struct kvm_mirror *m = &k->mirror;

    if (k->whole)
        return true;
    if (kvm_call(k->fd, KVM_GET_XSAVE, &m->xsave) || kvm_call(k->fd, KVM_GET_DEBUGREGS, &m->debug) || !xcr_from_kvm(vcpu) ||
        !kvm_msrs_pull(vcpu))
        return false;
    xsave_from_kvm(vcpu->cpu, &m->xsave);
    debug_from_kvm(vcpu->cpu, &m->debug);
    /* In the mirror as we would hand it over. */
    xsave_to_kvm(vcpu->cpu, &m->xsave);
    k->whole = true;
    return true;
}

static bool xcr_to_kvm(struct engine_vcpu *vcpu)
{
    struct kvm_mirror *m = &vcpu->kvm->mirror;
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = vcpu->cpu->xcr0}}};

    if (m->rest_valid && m->xcr0 == vcpu->cpu->xcr0)
        return true;
    m->xcr0 = vcpu->cpu->xcr0;
    return !kvm_call(vcpu->kvm->fd, KVM_SET_XCRS, &xcrs);
}

static bool push_rest(struct engine_vcpu *vcpu)
{
    struct kvm_vcpu *k = vcpu->kvm;
    struct kvm_mirror *m = &k->mirror;
    struct cpu *cpu = vcpu->cpu;
    struct kvm_debugregs debug = {.dr6 = cpu->dr6, .dr7 = cpu->dr7};
    struct kvm_xsave xsave;
    bool ok = kvm_msrs_push(vcpu) && xcr_to_kvm(vcpu);

    memcpy(debug.db, cpu->dr, sizeof(cpu->dr));
    if (!m->rest_valid || memcmp(&debug, &m->debug, sizeof(debug)) != 0) {
        m->debug = debug;
        ok = !kvm_call(k->fd, KVM_SET_DEBUGREGS, &debug) && ok;
    }
    xsave_to_kvm(cpu, &xsave);
    if (!m->rest_valid || memcmp(&xsave, &m->xsave, sizeof(xsave)) != 0) {
        m->xsave = xsave;
        ok = !kvm_call(k->fd, KVM_SET_XSAVE, &xsave) && ok;
    }
    m->rest_valid = ok;
    return ok;
}

/* ---- time ---- */

/* The guest's clock is the host's plus an offset; it moves when time was suspended, or the guest or the client set it. */
static void push_tsc(struct engine_vcpu *vcpu)
{
    enum { TOLERANCE = 4096 };
    struct kvm_mirror *m = &vcpu->kvm->mirror;
    uint64_t offset = tsc_read(&vcpu->tsc) - __builtin_ia32_rdtsc();
    struct kvm_device_attr attribute = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};
    struct { struct kvm_msrs head; struct kvm_msr_entry entry; } list = {.head = {.nmsrs = 1}, .entry = {.index = MSR_TSC}};

    if (m->tsc_valid && offset - m->tsc_offset + TOLERANCE < 2 * TOLERANCE)
        return;
    m->tsc_offset = offset;
    m->tsc_valid = true;
    if (vcpu->partition->kvm->has_tsc_offset && !kvm_call(vcpu->kvm->fd, KVM_SET_DEVICE_ATTR, &attribute))
        return;
    list.entry.data = tsc_read(&vcpu->tsc);
    (void)ioctl(vcpu->kvm->fd, KVM_SET_MSRS, &list);
}

/* ---- before a run ---- */

static uint8_t shadow_of(const struct cpu *cpu)
{
    return !cpu->interrupt_shadow ? 0 : cpu->debug_shadow ? KVM_X86_SHADOW_INT_MOV_SS : KVM_X86_SHADOW_INT_STI;
}

static void sregs_push(struct engine_vcpu *vcpu)
{
    struct kvm_vcpu *k = vcpu->kvm;
    struct kvm_mirror *m = &k->mirror;
    struct kvm_sregs sregs = m->sregs;

    sregs_to_kvm(vcpu, &sregs);
    control_note(vcpu, &m->control);
    if (m->valid && kvm_same(&sregs, &m->sregs, sizeof(sregs)))
        return;
    k->run->s.regs.sregs = m->sregs = sregs;
    k->run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
}

static void events_push(struct engine_vcpu *vcpu)
{
    struct kvm_vcpu *k = vcpu->kvm;
    const struct cpu *cpu = vcpu->cpu;

    k->run->s.regs.events = (struct kvm_vcpu_events){.nmi = {.masked = cpu->nmi_masked},
                                                     .interrupt = {.shadow = shadow_of(cpu)},
                                                     .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW};
    k->mirror.shadow = shadow_of(cpu);
    k->mirror.nmi_masked = cpu->nmi_masked;
    k->run->kvm_dirty_regs |= KVM_SYNC_X86_EVENTS;
}

bool kvm_state_is_new(const struct engine_vcpu *vcpu)
{
    const struct kvm_run *run = vcpu->kvm->run;

    return !(run->kvm_dirty_regs & KVM_SYNC_X86_REGS) && run->s.regs.regs.rflags; /* of which bit 1 is always set */
}

/*
 * Only a client can make TR anything but a busy TSS, and processors do not agree on what it is then: some refuse to run (SDM 3C
 * 27.3.1.2), some take what is there, emulated ones have been seen to stop altogether. The software processor does what it
 * always does.
 */
static bool has_task(const struct cpu *cpu)
{
    const unsigned what = cpu->segment[SEG_TR].attributes & (SEG_P | SEG_S | SEG_TYPE_MASK);

    return likely(what == (SEG_P | 11)) || (what == (SEG_P | 3) && !(cpu->efer & EFER_LMA));
}

bool kvm_state_push(struct engine_vcpu *vcpu)
{
    struct kvm_vcpu *k = vcpu->kvm;
    struct kvm_mirror *m = &k->mirror;
    struct cpu *cpu = vcpu->cpu;
    struct kvm_regs regs;

    if (k->whole && !push_rest(vcpu))
        return false;
    push_tsc(vcpu);
    regs_to_kvm(cpu, &regs);
    const bool same_control = m->valid && control_is(vcpu, &m->control);
    if (!same_control && !has_task(cpu))
        return false;
    const bool same_events = m->valid && m->shadow == shadow_of(cpu) && m->nmi_masked == cpu->nmi_masked;
    if (k->open.is_open) {
        if (same_control && same_events && kvm_open_settle(vcpu, &regs))
            m->regs = regs;
        else
            kvm_open_forget(vcpu);
    }
    if (!m->valid || !kvm_same(&regs, &m->regs, sizeof(regs))) {
        k->run->s.regs.regs = m->regs = regs;
        k->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
    } else {
        k->run->s.regs.regs.rflags = 0; /* kvm_state_is_new */
    }
    if (!same_control)
        sregs_push(vcpu);
    if (!same_events)
        events_push(vcpu);
    k->run->cr8 = vcpu->lapic ? lapic_cr8(vcpu->lapic) : cpu->cr8;
    m->valid = true;
    return true;
}
