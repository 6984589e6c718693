/*
 * Registers by name. One table of plain 64-bit members, and a function per kind of the rest.
 *
 * A batch is set all or nothing: everything is written to the processor, and when one is refused the state from before is put
 * back. Whether the registers fit together is judged at the next run (InvalidVpRegisterValue), because a client sets them in any
 * order and in several batches.
 */
#include <string.h>

#include "engine/soft/soft.h"
#include "util/last_error.h"
#include "x86/control.h"
#include "x86/msr.h"

/* ---- plain members ---- */

/*
 * Offsets in struct cpu by name: names below 0x100 directly, 0x2000.. from entry 0x100 on. 0: not a plain register (no register
 * but RAX is at offset 0, and RAX comes first).
 */
#define AT(name, field) [((name) & 0xff) | ((name) >= 0x2000 ? 0x100 : 0)] = offsetof(struct cpu, field)
static const uint16_t plain_offset[0x200] = {
    AT(VREG_RIP, rip),
    AT(VREG_CR0, cr0), AT(VREG_CR2, cr2), AT(VREG_CR3, cr3), AT(VREG_CR4, cr4),
    AT(VREG_DR0, dr[0]), AT(VREG_DR1, dr[1]), AT(VREG_DR2, dr[2]), AT(VREG_DR3, dr[3]),
    AT(VREG_DR6, dr6), AT(VREG_DR7, dr7), AT(VREG_XCR0, xcr0),
    AT(VREG_EFER, efer), AT(VREG_KERNEL_GS_BASE, kernel_gs_base), AT(VREG_PAT, pat),
    AT(VREG_SYSENTER_CS, sysenter_cs), AT(VREG_SYSENTER_EIP, sysenter_eip), AT(VREG_SYSENTER_ESP, sysenter_esp),
    AT(VREG_STAR, star), AT(VREG_LSTAR, lstar), AT(VREG_CSTAR, cstar), AT(VREG_SFMASK, sfmask),
    AT(VREG_MTRR_DEF_TYPE, mtrr_def_type), AT(VREG_TSC_AUX, tsc_aux), AT(VREG_SPEC_CTRL, spec_ctrl),
    AT(VREG_XSS, xss), AT(VREG_MISC_ENABLE, misc_enable),
};
#undef AT

static uint64_t *plain_register(struct cpu *cpu, uint32_t name)
{
    if (name <= VREG_R15)
        return &cpu->gpr[name].q;
    if (name < 0x100 || (name >= 0x2000 && name < 0x2100)) {
        uint16_t offset = plain_offset[(name & 0xff) | (name >= 0x2000 ? 0x100 : 0)];
        if (offset)
            return (uint64_t *)(void *)((uint8_t *)cpu + offset);
    }
    if (name >= VREG_MTRR_PHYS_BASE0 && name < VREG_MTRR_PHYS_BASE0 + 8)
        return &cpu->mtrr_base[name - VREG_MTRR_PHYS_BASE0];
    if (name >= VREG_MTRR_PHYS_MASK0 && name < VREG_MTRR_PHYS_MASK0 + 8)
        return &cpu->mtrr_mask[name - VREG_MTRR_PHYS_MASK0];
    if (name >= VREG_MTRR_FIX64K_00000 && name <= VREG_MTRR_FIX4K_F8000)
        return &cpu->mtrr_fixed[name - VREG_MTRR_FIX64K_00000];
    return NULL;
}

/* Values that no processor can hold are refused at once (whp-facts 9.3). */
static enum status check_plain(const struct cpu *cpu, uint32_t name, uint64_t value)
{
    static const uint32_t canonical[] = {VREG_KERNEL_GS_BASE, VREG_LSTAR, VREG_CSTAR, VREG_SYSENTER_EIP, VREG_SYSENTER_ESP};

    for (size_t i = 0; i < array_size(canonical); i++)
        if (canonical[i] == name && !cpu_is_canonical(cpu, value))
            return fail(STATUS_HV_INVALID_REGISTER_VALUE, "register 0x%x: 0x%llx is not a canonical address", name, (unsigned long long)value);
    if ((name == VREG_PAT && !msr_pat_is_valid(value)) || (name == VREG_MTRR_DEF_TYPE && !msr_mtrr_def_type_is_valid(value)) ||
        (name == VREG_XCR0 && !cpu_xcr0_is_valid(cpu, value)))
        return fail(STATUS_HV_INVALID_REGISTER_VALUE, "register 0x%x cannot hold 0x%llx", name, (unsigned long long)value);
    return STATUS_OK;
}

/* ---- segments and tables ---- */

static struct segment *segment_register(struct cpu *cpu, uint32_t name)
{
    return name >= VREG_ES && name <= VREG_TR ? &cpu->segment[name - VREG_ES] : NULL;
}

static struct table_register *table_register(struct cpu *cpu, uint32_t name)
{
    return name == VREG_IDTR ? &cpu->idtr : name == VREG_GDTR ? &cpu->gdtr : NULL;
}

/* ---- floating point ---- */

static bool get_floating_point(const struct cpu *cpu, uint32_t name, union vreg_value *v)
{
    if (name >= VREG_XMM0 && name <= VREG_XMM15) {
        memcpy(v, &cpu->vector[name - VREG_XMM0], 16);
    } else if (name >= VREG_FPMMX0 && name <= VREG_FPMMX7) {
        /* By physical register number; the image has them from the top of the stack. */
        unsigned top = cpu->x87.status >> 11 & 7, i = (name - VREG_FPMMX0 - top) & 7;
        v->q[0] = cpu->x87.st[i].mantissa;
        v->q[1] = cpu->x87.st[i].exponent;
    } else if (name == VREG_FP_CONTROL_STATUS) {
        v->w[0] = cpu->x87.control;
        v->w[1] = cpu->x87.status;
        v->w[2] = cpu->x87.tag;
        v->w[3] = cpu->x87.opcode;
        v->q[1] = cpu->x87.instruction_pointer;
    } else if (name == VREG_XMM_CONTROL_STATUS) {
        v->q[0] = cpu->x87.data_pointer;
        v->d[2] = cpu->mxcsr;
        v->d[3] = 0xffff;
    } else {
        return false;
    }
    return true;
}

static bool set_floating_point(struct cpu *cpu, uint32_t name, const union vreg_value *v, enum status *status)
{
    if (name >= VREG_XMM0 && name <= VREG_XMM15) {
        memcpy(&cpu->vector[name - VREG_XMM0], v, 16);
    } else if (name >= VREG_FPMMX0 && name <= VREG_FPMMX7) {
        unsigned top = cpu->x87.status >> 11 & 7, i = (name - VREG_FPMMX0 - top) & 7;
        cpu->x87.st[i].mantissa = v->q[0];
        cpu->x87.st[i].exponent = v->w[4];
    } else if (name == VREG_FP_CONTROL_STATUS) {
        cpu->x87.control = v->w[0];
        cpu->x87.status = v->w[1];
        cpu->x87.tag = (uint8_t)v->w[2];
        cpu->x87.opcode = v->w[3] & 0x7ff;
        cpu->x87.instruction_pointer = v->q[1];
    } else if (name == VREG_XMM_CONTROL_STATUS) {
        if (v->d[2] & 0xffff0000u)
            *status = fail(STATUS_HV_INVALID_REGISTER_VALUE, "MXCSR 0x%x has reserved bits", v->d[2]);
        else
            cpu->mxcsr = v->d[2];
        cpu->x87.data_pointer = v->q[0];
    } else {
        return false;
    }
    return true;
}

/* ---- time ---- */

static bool get_time(struct engine_vcpu *vcpu, uint32_t name, uint64_t *value)
{
    switch (name) {
    case VREG_TSC: *value = tsc_read(&vcpu->tsc); return true;
    case VREG_TSC_ADJUST: *value = tsc_adjust(&vcpu->tsc); return true;
    case VREG_TSC_VIRTUAL_OFFSET: *value = tsc_offset(&vcpu->tsc); return true;
    case VREG_VP_RUNTIME: *value = vcpu->counters.runtime_100ns; return true;
    case VREG_MTRR_CAP: *value = MTRR_CAPABILITIES; return true;
    case VREG_PRED_CMD: *value = 0; return true;
    default: return false;
    }
}

static bool set_time(struct engine_vcpu *vcpu, uint32_t name, uint64_t value, enum status *status)
{
    switch (name) {
    case VREG_TSC: tsc_set(&vcpu->tsc, value); break;
    case VREG_TSC_ADJUST: tsc_set_adjust(&vcpu->tsc, value); break;
    case VREG_TSC_VIRTUAL_OFFSET: tsc_set_offset(&vcpu->tsc, value); break;
    case VREG_PRED_CMD: return true;
    case VREG_MTRR_CAP:
    case VREG_VP_RUNTIME:
        *status = fail(STATUS_HV_INVALID_PARAMETER, "register 0x%x is read only", name);
        return true;
    default: return false;
    }
    if (vcpu->lapic)
        lapic_tsc_changed(vcpu->lapic);
    return true;
}

/* ---- pending events and activity ---- */

/* WHV_X64_PENDING_INTERRUPTION_REGISTER: pending 0, type 1-3 (0 interrupt, 2 NMI, 3 exception), has error 4, length 5-8,
 * vector 16-31, error 32-63. */
static uint64_t get_interruption(const struct engine_vcpu *vcpu)
{
    const struct event *e = &vcpu->interruption.event;
    static const uint8_t types[] = {[EVENT_EXTERNAL] = 0, [EVENT_NMI] = 2, [EVENT_EXCEPTION] = 3, [EVENT_SOFTWARE] = 3,
                                    [EVENT_SOFT_EXCEPTION] = 3, [EVENT_ICEBP] = 3};

    if (!vcpu->interruption.is_pending)
        return 0;
    return 1 | (uint64_t)types[e->type] << 1 | (uint64_t)e->has_error << 4 | (uint64_t)(vcpu->interruption.instruction_length & 15) << 5 |
           (uint64_t)e->vector << 16 | (uint64_t)e->error << 32;
}

static enum status set_interruption(struct engine_vcpu *vcpu, uint64_t value)
{
    unsigned type = value >> 1 & 7, vector = value >> 16 & 0xffff;

    if ((value & 1) && ((type != 0 && type != 2 && type != 3) || vector > 255 || (type == 3 && vector > 31)))
        return fail(STATUS_HV_INVALID_PARAMETER, "pending interruption of type %u with vector %u does not exist", type, vector);
    vcpu->interruption = (struct pending_interruption){
        .is_pending = value & 1,
        .event = {.type = type == 0 ? EVENT_EXTERNAL : type == 2 ? EVENT_NMI : EVENT_EXCEPTION,
                  .vector = type == 2 ? VECTOR_NMI : (uint8_t)vector,
                  .has_error = value >> 4 & 1,
                  .error = (uint32_t)(value >> 32)},
        .instruction_length = value >> 5 & 15,
    };
    return STATUS_OK;
}

static enum status set_notifications(struct engine_vcpu *vcpu, uint64_t value)
{
    if (value & ~(uint64_t)0x3f)
        return fail(STATUS_HV_INVALID_PARAMETER, "deliverability notifications 0x%llx: reserved or SynIC bits", (unsigned long long)value);
    vcpu->notifications = value;
    return STATUS_OK;
}

/* StartupSuspend 0, HaltSuspend 1, IdleSuspend 2. Without an APIC HLT exits, so there is nothing to suspend. */
static enum status set_activity(struct engine_vcpu *vcpu, uint64_t value)
{
    if (!vcpu->lapic)
        return fail(STATUS_HV_ACCESS_DENIED, "the activity state needs local APIC emulation");
    if (value & ~(uint64_t)7)
        return fail(STATUS_HV_INVALID_PARAMETER, "activity state 0x%llx has reserved bits", (unsigned long long)value);
    vcpu->wait_for_sipi = value & 1;
    vcpu->halted = value & 6;
    return STATUS_OK;
}

static bool get_event(const struct engine_vcpu *vcpu, uint32_t name, union vreg_value *v)
{
    const struct cpu *cpu = vcpu->cpu;

    switch ((int)name) {
    case VREG_PENDING_INTERRUPTION: v->q[0] = get_interruption(vcpu); return true;
    case VREG_INTERRUPT_STATE: v->q[0] = (uint64_t)cpu->interrupt_shadow | (uint64_t)cpu->nmi_masked << 1; return true;
    case VREG_PENDING_EVENT: *v = vcpu->pending_event; return true;
    case VREG_PENDING_EVENT1:
    case VREG_PENDING_EVENT2:
    case VREG_PENDING_EVENT3: return true;
    case VREG_DELIVERABILITY_NOTIFICATIONS: v->q[0] = vcpu->notifications; return true;
    case VREG_INTERNAL_ACTIVITY_STATE: v->q[0] = (uint64_t)vcpu->wait_for_sipi | (uint64_t)vcpu->halted << 1; return true;
    case VREG_PENDING_DEBUG_EXCEPTION: v->q[0] = vcpu->pending_debug; return true;
    default: return false;
    }
}

static bool set_event(struct engine_vcpu *vcpu, uint32_t name, const union vreg_value *v, enum status *status)
{
    struct cpu *cpu = vcpu->cpu;

    switch ((int)name) {
    case VREG_PENDING_INTERRUPTION:
        *status = set_interruption(vcpu, v->q[0]);
        return true;
    case VREG_INTERRUPT_STATE:
        cpu->interrupt_shadow = v->q[0] & 1;
        cpu->nmi_masked = v->q[0] >> 1 & 1;
        return true;
    case VREG_PENDING_EVENT:
        if ((v->q[0] & 1) && (v->q[0] >> 1 & 7) != 0 && (v->q[0] >> 1 & 7) != 5)
            *status = fail(STATUS_HV_INVALID_PARAMETER, "pending event type %u is not supported", (unsigned)(v->q[0] >> 1 & 7));
        else
            vcpu->pending_event = v->q[0] & 1 ? *v : (union vreg_value){0};
        return true;
    case VREG_PENDING_EVENT1:
    case VREG_PENDING_EVENT2:
    case VREG_PENDING_EVENT3:
        if (v->q[0] || v->q[1])
            *status = fail(STATUS_HV_INVALID_PARAMETER, "nested virtualization events are not supported");
        return true;
    case VREG_DELIVERABILITY_NOTIFICATIONS:
        *status = set_notifications(vcpu, v->q[0]);
        return true;
    case VREG_INTERNAL_ACTIVITY_STATE:
        *status = set_activity(vcpu, v->q[0]);
        return true;
    case VREG_PENDING_DEBUG_EXCEPTION:
        vcpu->pending_debug = v->q[0] & 0x1f;
        return true;
    default:
        return false;
    }
}

static bool is_apic_name(uint32_t name)
{
    return name == VREG_APIC_BASE || name == VREG_INITIAL_APIC_ID || name == VREG_TSC_DEADLINE ||
           (name >= VREG_APIC_FIRST && name <= VREG_APIC_LAST);
}

/* ---- reading ---- */

static enum status get_apic_register(struct engine_vcpu *vcpu, uint32_t name, union vreg_value *v)
{
    if (vcpu->lapic)
        return lapic_get_register(vcpu->lapic, name, v);
    switch (name) {
    case VREG_APIC_BASE: v->q[0] = APIC_BASE_RESET | (vcpu->index ? 0 : BIT64(8)); return STATUS_OK;
    case VREG_INITIAL_APIC_ID: v->q[0] = vcpu->index; return STATUS_OK;
    default: return fail(STATUS_HV_INVALID_PARAMETER, "register 0x%x needs local APIC emulation", name);
    }
}

static enum status get_register(struct engine_vcpu *vcpu, uint32_t name, union vreg_value *v)
{
    struct cpu *cpu = vcpu->cpu;
    const uint64_t *member = plain_register(cpu, name);
    const struct segment *segment = segment_register(cpu, name);
    const struct table_register *table = table_register(cpu, name);

    memset(v, 0, sizeof(*v));
    if (member) {
        v->q[0] = *member;
    } else if (segment) {
        v->segment.base = segment->base;
        v->segment.limit = segment->limit;
        v->segment.selector = segment->selector;
        v->segment.attributes = segment->attributes;
    } else if (table) {
        v->table.base = table->base;
        v->table.limit = table->limit;
    } else if (name == VREG_RFLAGS) {
        v->q[0] = cpu_rflags(cpu);
    } else if (name == VREG_CR8) {
        v->q[0] = vcpu->lapic ? lapic_cr8(vcpu->lapic) : cpu->cr8;
    } else if (is_apic_name(name)) {
        return get_apic_register(vcpu, name, v);
    } else if (!get_floating_point(cpu, name, v) && !get_time(vcpu, name, &v->q[0]) && !get_event(vcpu, name, v)) {
        return fail(STATUS_INVALID_VP_REGISTER_NAME, "register name 0x%x is not known", name);
    }
    return STATUS_OK;
}

enum status soft_get_registers(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, union vreg_value *values)
{
    for (uint32_t i = 0; i < count; i++) {
        enum status status = get_register(vcpu, names[i], &values[i]);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

/* ---- writing ---- */

static enum status set_apic_register(struct engine_vcpu *vcpu, uint32_t name, const union vreg_value *v)
{
    if (!vcpu->lapic)
        return fail(STATUS_HV_INVALID_PARAMETER, "register 0x%x needs local APIC emulation", name);
    gpa_t page = lapic_page(vcpu->lapic);
    enum status status = lapic_set_register(vcpu->lapic, name, v);
    if (lapic_page(vcpu->lapic) != page)
        cpu_drop_memory(vcpu->cpu, false);
    return status;
}

static enum status set_cr8(struct engine_vcpu *vcpu, uint64_t value)
{
    if (value > 15)
        return fail(STATUS_HV_INVALID_REGISTER_VALUE, "CR8 0x%llx is above 15", (unsigned long long)value);
    vcpu->cpu->cr8 = value;
    if (vcpu->lapic)
        lapic_set_cr8(vcpu->lapic, value);
    return STATUS_OK;
}

static enum status set_register(struct engine_vcpu *vcpu, uint32_t name, const union vreg_value *v)
{
    struct cpu *cpu = vcpu->cpu;
    uint64_t *member = plain_register(cpu, name);
    struct segment *segment = segment_register(cpu, name);
    struct table_register *table = table_register(cpu, name);
    enum status status = STATUS_OK;

    if (member) {
        status = check_plain(cpu, name, v->q[0]);
        if (status == STATUS_OK)
            *member = v->q[0];
    } else if (segment) {
        *segment = (struct segment){.base = v->segment.base, .limit = v->segment.limit, .selector = v->segment.selector,
                                    .attributes = v->segment.attributes};
    } else if (table) {
        *table = (struct table_register){.base = v->table.base, .limit = v->table.limit};
    } else if (name == VREG_RFLAGS) {
        cpu_set_rflags(cpu, v->q[0]);
        if (!(v->q[0] & RFLAGS_ONE))
            cpu->rflags &= ~RFLAGS_ONE; /* refused at the next run */
    } else if (name == VREG_CR8) {
        status = set_cr8(vcpu, v->q[0]);
    } else if (is_apic_name(name)) {
        status = set_apic_register(vcpu, name, v);
    } else if (!set_floating_point(cpu, name, v, &status) && !set_time(vcpu, name, v->q[0], &status) && !set_event(vcpu, name, v, &status)) {
        return fail(STATUS_INVALID_VP_REGISTER_NAME, "register name 0x%x is not known", name);
    }
    return status;
}

/* Writing RIP, RFLAGS or SS ends an interrupt shadow, unless the batch sets InterruptState too (whp-facts 9.3). */
static bool ends_shadow(const uint32_t *names, uint32_t count)
{
    bool ends = false;

    for (uint32_t i = 0; i < count; i++) {
        if (names[i] == (uint32_t)VREG_INTERRUPT_STATE)
            return false;
        ends |= names[i] == VREG_RIP || names[i] == VREG_RFLAGS || names[i] == VREG_SS;
    }
    return ends;
}

/* Does a register of the batch change what translation or decoding depends on? */
static bool changes_control(const uint32_t *names, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if ((names[i] >= VREG_ES && names[i] <= VREG_CR4) || names[i] == VREG_EFER || names[i] == VREG_DR7 || names[i] == VREG_XCR0)
            return true;
    return false;
}

/* The privilege level is SS.DPL (SDM 3A 5.5; APM 2 4.8.1), in real mode 0, in virtual-8086 mode 3. */
static uint8_t privilege_level(const struct cpu *cpu)
{
    if (cpu_is_real(cpu))
        return 0;
    return cpu_is_v86(cpu) ? 3 : (uint8_t)(cpu->segment[SEG_SS].attributes >> SEG_DPL_SHIFT & 3);
}

static enum status check_names(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, const union vreg_value *values)
{
    union vreg_value scratch;

    for (uint32_t i = 0; i < count; i++) {
        enum status status = get_register(vcpu, names[i], &scratch);
        if (status == STATUS_OK && is_apic_name(names[i]))
            status = vcpu->lapic ? lapic_check_register(vcpu->lapic, names[i], &values[i])
                                 : fail(STATUS_HV_INVALID_PARAMETER, "register 0x%x needs local APIC emulation", names[i]);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

/* Undo: the values from before, in reverse. They were readable, so they can be written. */
static void put_back(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, const union vreg_value *before)
{
    while (count--)
        if (!is_apic_name(names[count]))
            (void)set_register(vcpu, names[count], &before[count]);
}

/* The APIC's registers were all checked before: they come last and cannot fail. */
static void set_apic_registers(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, const union vreg_value *values)
{
    for (uint32_t i = 0; i < count; i++)
        if (is_apic_name(names[i]))
            (void)set_apic_register(vcpu, names[i], &values[i]);
}

enum { BATCH_LIMIT = 256 };

static enum status set_batch(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, const union vreg_value *values)
{
    union vreg_value before[BATCH_LIMIT];
    enum status status = check_names(vcpu, names, count, values);

    for (uint32_t i = 0; i < count && status == STATUS_OK; i++) {
        if (is_apic_name(names[i]))
            continue;
        (void)get_register(vcpu, names[i], &before[i]);
        status = set_register(vcpu, names[i], &values[i]);
        if (status != STATUS_OK)
            put_back(vcpu, names, i, before);
    }
    if (status == STATUS_OK)
        set_apic_registers(vcpu, names, count, values);
    return status;
}

enum status soft_set_registers(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, const union vreg_value *values)
{
    enum status status;

    if (count > BATCH_LIMIT)
        return fail(STATUS_INVALID_ARGUMENT, "more than %u registers in one call", BATCH_LIMIT);
    status = set_batch(vcpu, names, count, values);
    if (status != STATUS_OK)
        return status;
    if (ends_shadow(names, count))
        vcpu->cpu->interrupt_shadow = false;
    if (changes_control(names, count) || vcpu->cpu->cpl != privilege_level(vcpu->cpu)) {
        vcpu->cpu->cpl = privilege_level(vcpu->cpu);
        cpu_control_changed(vcpu->cpu);
    }
    vcpu->control_unchecked = true;
    cpu_interrupts_enabled(vcpu->cpu);
    atomic_fetch_or(&vcpu->cpu->request, REQUEST_INTERRUPT);
    return STATUS_OK;
}
