/*
 * The registers of what waits to happen: PendingInterruption, PendingEvent, InterruptState, DeliverabilityNotifications,
 * InternalActivityState, PendingDebugException. soft_run.c acts on them.
 */
#include "engine/soft/soft.h"
#include "util/last_error.h"
#include "x86/system/control.h"

/* WHV_X64_PENDING_INTERRUPTION_REGISTER: pending 0, type 1-3 (0 interrupt, 2 NMI, 3 exception), has error 4, length 5-8,
 * nested 9, vector 16-31, error 32-63. */
#define INTERRUPTION_RESERVED 0xfe00ull
/* WHV_X64_PENDING_EXCEPTION_EVENT: pending 0, type 1-3, has error 8, vector 16-31, error 32-63, parameter in the high half. The
 * type is looked at with the reserved bit above it, as the events of nested virtualization use that too. */
#define EXCEPTION_RESERVED 0xfef0ull
/* WHV_X64_PENDING_EXT_INT_EVENT: pending 0, type 1-3, vector 8-15. */
#define EXT_INT_RESERVED 0xffffffffffff00f0ull

static uint64_t get_interruption(const struct engine_vcpu *vcpu)
{
    const struct event *e = &vcpu->interruption.event;
    static const uint8_t types[] = {[EVENT_EXTERNAL] = 0, [EVENT_NMI] = 2, [EVENT_EXCEPTION] = 3, [EVENT_SOFTWARE] = 3,
                                    [EVENT_SOFT_EXCEPTION] = 3, [EVENT_ICEBP] = 3};

    if (!vcpu->interruption.is_pending)
        return 0;
    return 1 | (uint64_t)types[e->type] << 1 | (uint64_t)e->has_error << 4 |
           (uint64_t)(vcpu->interruption.instruction_length & 15) << 5 | (uint64_t)e->vector << 16 | (uint64_t)e->error << 32;
}

static enum status set_interruption(struct engine_vcpu *vcpu, uint64_t value)
{
    unsigned type = value >> 1 & 7, vector = value >> 16 & 0xffff;

    if ((value & 1) &&
        ((value & INTERRUPTION_RESERVED) || (type != 0 && type != 2 && type != 3) || vector > 255 || (type == 3 && vector > 31)))
        return fail(STATUS_HV_INVALID_PARAMETER,
                    "pending interruption of type %u with vector %u does not exist, or reserved bits", type, vector);
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

static enum status set_pending_event(struct engine_vcpu *vcpu, const union vreg_value *v)
{
    const unsigned type = v->q[0] >> 1 & 15, vector = v->q[0] >> 16 & 0xffff;
    bool exists = type == 0 ? !(v->q[0] & EXCEPTION_RESERVED) && vector < 32
                            : type == 5 && !(v->q[0] & EXT_INT_RESERVED) && !v->q[1];

    if (!(v->q[0] & 1)) {
        vcpu->pending_event = (union vreg_value){0};
        return STATUS_OK;
    }
    if (!exists)
        return fail(STATUS_HV_INVALID_PARAMETER, "pending event 0x%llx of type %u: no such type or vector, or reserved bits",
                    (unsigned long long)v->q[0], type);
    vcpu->pending_event = *v;
    return STATUS_OK;
}

static enum status set_interrupt_state(struct cpu *cpu, uint64_t value)
{
    if (value & ~3ull)
        return fail(STATUS_HV_INVALID_PARAMETER, "interrupt state 0x%llx has reserved bits", (unsigned long long)value);
    cpu->interrupt_shadow = value & 1;
    cpu->debug_shadow &= cpu->interrupt_shadow;
    cpu->nmi_masked = value >> 1 & 1;
    return STATUS_OK;
}

/* WHV_X64_PENDING_DEBUG_EXCEPTION: breakpoints 0-3, single step 4. Delivered at the next boundary, DR6 set from it. */
static enum status set_pending_debug(struct cpu *cpu, uint64_t value)
{
    if (value & ~0x1full)
        return fail(STATUS_HV_INVALID_PARAMETER, "pending debug exception 0x%llx has reserved bits", (unsigned long long)value);
    cpu->debug_pending = (value & 15) | (value & 16 ? DR6_BS : 0);
    return STATUS_OK;
}

static enum status set_notifications(struct engine_vcpu *vcpu, uint64_t value)
{
    if (value & ~(uint64_t)0x3f)
        return fail(STATUS_HV_INVALID_PARAMETER, "deliverability notifications 0x%llx: reserved or SynIC bits",
                    (unsigned long long)value);
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

bool soft_get_event(const struct engine_vcpu *vcpu, uint32_t name, union vreg_value *v)
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
    case VREG_PENDING_DEBUG_EXCEPTION: v->q[0] = (cpu->debug_pending & 15) | (cpu->debug_pending & DR6_BS ? 16 : 0); return true;
    default: return false;
    }
}

bool soft_set_event(struct engine_vcpu *vcpu, uint32_t name, const union vreg_value *v, enum status *status)
{
    switch ((int)name) {
    case VREG_PENDING_INTERRUPTION:
        *status = set_interruption(vcpu, v->q[0]);
        return true;
    case VREG_INTERRUPT_STATE:
        *status = set_interrupt_state(vcpu->cpu, v->q[0]);
        return true;
    case VREG_PENDING_EVENT:
        *status = set_pending_event(vcpu, v);
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
        *status = set_pending_debug(vcpu->cpu, v->q[0]);
        return true;
    default:
        return false;
    }
}
