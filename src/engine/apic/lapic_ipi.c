/*
 * Interprocessor interrupts: what a write to ICR or SELF IPI sends (SDM
 * 3A 11.6, 11.12.9, 11.12.11).
 *
 *   63         32/56         20 19:18     15    14      12      11    10:8   7:0
 *   | destination |   ...   | shorthand | trg | level | (busy) | log | mode | vector |
 */
#include "engine/apic/lapic_state.h"

enum shorthand { TO_DESTINATION, TO_SELF, TO_ALL, TO_OTHERS };

#define ICR_LOGICAL (1u << 11)
#define ICR_ASSERT  (1u << 14)
#define ICR_LEVEL   (1u << 15)

static enum shorthand icr_shorthand(uint64_t icr)
{
    return (enum shorthand)(icr >> 18 & 3);
}

static enum delivery_mode icr_mode(uint64_t icr)
{
    return (enum delivery_mode)(icr >> 8 & 7);
}

/* INIT level de-assert only tells P6-era APICs to copy their arbitration IDs (SDM 3A 11.6.1). */
static bool is_init_deassert(uint64_t icr)
{
    return icr_mode(icr) == DELIVERY_INIT && (icr & ICR_LEVEL) && !(icr & ICR_ASSERT);
}

/* The client asked to see these instead of having them done. */
static bool is_trapped(const struct lapic *lapic, uint64_t icr, struct vcpu_exit *exit)
{
    uint64_t traps = atomic_load_explicit(&lapic->traps, memory_order_relaxed);
    enum delivery_mode mode = icr_mode(icr);
    if ((mode == DELIVERY_INIT || mode == DELIVERY_SIPI) && (traps & EXTENDED_EXIT_APIC_INIT_SIPI))
        exit->reason = EXIT_APIC_INIT_SIPI_TRAP;
    else if (mode == DELIVERY_SMI && (traps & EXTENDED_EXIT_APIC_SMI))
        exit->reason = EXIT_APIC_SMI_TRAP;
    else
        return false;
    exit->apic_icr.icr = icr;
    return true;
}

/*
 * SDM 3A table 11-3 calls all but fixed interrupts invalid with the shorthands that include the
 * sender. Real processors send NMI and SMI all the same and kernels rely on it (an NMI to oneself);
 * INIT and SIPI to oneself they do not, and neither does this.
 */
static bool is_sendable(uint64_t icr)
{
    bool includes_self = icr_shorthand(icr) == TO_SELF || icr_shorthand(icr) == TO_ALL;
    switch (icr_mode(icr)) {
    case DELIVERY_INIT:
    case DELIVERY_SIPI:
        return !includes_self && !is_init_deassert(icr);
    case DELIVERY_RESERVED:
    case DELIVERY_EXTINT:
        return false;
    default:
        return true;
    }
}

/* Fixed and lowest-priority messages carry a real vector, others do not or use it differently
 * (SIPI). */
static bool has_illegal_vector(uint64_t icr)
{
    enum delivery_mode mode = icr_mode(icr);
    return (mode == DELIVERY_FIXED || mode == DELIVERY_LOWEST) && (icr & 0xff) < LAPIC_FIRST_VECTOR;
}

/* Trigger mode: IPIs are edge-triggered whatever bit 15 says (SDM 3A 11.6.1). */
static struct apic_message message_from_icr(const struct lapic *lapic, uint64_t icr)
{
    bool x2apic = lapic_is_x2apic(lapic);
    return (struct apic_message){
        .mode = icr_mode(icr),
        .source = x2apic ? SOURCE_X2APIC : SOURCE_XAPIC,
        .destination = (uint32_t)(icr >> (x2apic ? 32 : 56)),
        .vector = (uint8_t)icr,
        .is_logical = icr & ICR_LOGICAL,
    };
}

static void dispatch(struct lapic *lapic, uint64_t icr)
{
    struct apic_message message = message_from_icr(lapic, icr);
    switch (icr_shorthand(icr)) {
    case TO_SELF:
        lapic_count(&lapic->self_count);
        lapic_receive(lapic, &message);
        break;
    case TO_ALL:
        apic_bus_broadcast(lapic->bus, &message, NULL);
        break;
    case TO_OTHERS:
        apic_bus_broadcast(lapic->bus, &message, lapic);
        break;
    case TO_DESTINATION:
        apic_bus_send(lapic->bus, &message);
        break;
    }
}

enum lapic_result lapic_send(struct lapic *lapic, struct vcpu_exit *exit)
{
    uint64_t icr = lapic->icr;
    if (has_illegal_vector(icr)) {
        lapic_error(lapic, ESR_SEND_VECTOR);
        return LAPIC_DONE;
    }
    if (!is_sendable(icr))
        return LAPIC_DONE;
    lapic_count(&lapic->sent_count);
    if (is_trapped(lapic, icr, exit))
        return LAPIC_DONE_EXIT;
    dispatch(lapic, icr);
    return LAPIC_DONE;
}

void lapic_send_self(struct lapic *lapic, uint8_t vector)
{
    struct apic_message message = {.mode = DELIVERY_FIXED, .vector = vector};
    if (vector < LAPIC_FIRST_VECTOR) {
        lapic_error(lapic, ESR_SEND_VECTOR);
        return;
    }
    lapic_count(&lapic->sent_count);
    lapic_count(&lapic->self_count);
    lapic_receive(lapic, &message);
}
