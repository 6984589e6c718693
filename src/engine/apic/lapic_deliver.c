/*
 * Interrupts on their way into a local APIC and from there to its processor: acceptance (IRR, TMR),
 * priorities (TPR, PPR), acknowledgement (ISR) and EOI (SDM 3A 11.8).
 *
 * A sender may be at work while the processor is being deleted. Memory stays (apic_bus.h), but the
 * callbacks' context does not: a sender counts itself in `users` before it looks at `attached`, and
 * lapic_destroy clears `attached` before it waits for `users` to become zero, so one of them sees
 * the other.
 */
#include "engine/apic/lapic_state.h"

#include "util/compiler.h"

bool lapic_enter(struct lapic *lapic)
{
    atomic_fetch_add(&lapic->users, 1);
    if (likely(atomic_load(&lapic->attached)))
        return true;
    lapic_leave(lapic);
    return false;
}

void lapic_leave(struct lapic *lapic)
{
    atomic_fetch_sub_explicit(&lapic->users, 1, memory_order_release);
}

/* ---- in ---- */

/* TMR first: whoever sees the request must see its trigger mode (SDM 3A 11.8.4). */
bool lapic_accept(struct lapic *lapic, uint8_t vector, bool is_level)
{
    unsigned word = vector / 64;
    uint64_t bit = UINT64_C(1) << (vector % 64);
    bool was_level = atomic_load_explicit(&lapic->tmr[word], memory_order_relaxed) & bit;
    if (is_level && !was_level)
        atomic_fetch_or_explicit(&lapic->tmr[word], bit, memory_order_relaxed);
    else if (!is_level && was_level)
        atomic_fetch_and_explicit(&lapic->tmr[word], ~bit, memory_order_relaxed);
    return !(atomic_fetch_or_explicit(&lapic->irr[word], bit, memory_order_acq_rel) & bit);
}

static void receive_vector(struct lapic *lapic, uint8_t vector, bool is_level)
{
    if (!lapic_is_software_enabled(lapic))
        return; /* SDM 3A 11.4.7.2: a software-disabled APIC takes NMI, INIT, SMI and SIPI only */
    if (vector < LAPIC_FIRST_VECTOR)
        lapic_error(lapic, ESR_RECEIVE_VECTOR);
    else if (lapic_accept(lapic, vector, is_level))
        lapic->callbacks.notify(lapic->context);
}

void lapic_receive(struct lapic *lapic, const struct apic_message *message)
{
    if (!lapic_enter(lapic))
        return;
    switch (message->mode) {
    case DELIVERY_FIXED:
    case DELIVERY_LOWEST:
        receive_vector(lapic, message->vector, message->is_level);
        break;
    case DELIVERY_SMI:
        lapic->callbacks.smi(lapic->context);
        break;
    case DELIVERY_NMI:
        lapic->callbacks.nmi(lapic->context);
        break;
    case DELIVERY_INIT:
        lapic->callbacks.init(lapic->context);
        break;
    case DELIVERY_SIPI:
        lapic->callbacks.sipi(lapic->context, message->vector);
        break;
    case DELIVERY_RESERVED:
    case DELIVERY_EXTINT: /* an 8259 speaks through PendingEvent, not through messages */
        break;
    }
    lapic_leave(lapic);
}

/* Timer and error entries have no delivery mode: their bits 10:8 are never set, which is fixed. */
bool lapic_local(struct lapic *lapic, enum lvt entry)
{
    uint32_t value = lapic_load(&lapic->lvt[entry]);
    uint8_t vector = (uint8_t)value;
    if ((value & LVT_MASKED) || !lapic_is_enabled(lapic))
        return false;
    switch ((enum delivery_mode)(value >> LVT_MODE_SHIFT & 7)) {
    case DELIVERY_FIXED:
        if (vector >= LAPIC_FIRST_VECTOR)
            return lapic_accept(lapic, vector, false);
        if (entry == LVT_ERROR) /* would report itself for ever */
            atomic_fetch_or(&lapic->errors, ESR_RECEIVE_VECTOR);
        else
            lapic_error(lapic, ESR_RECEIVE_VECTOR);
        break;
    case DELIVERY_SMI:
        lapic->callbacks.smi(lapic->context);
        break;
    case DELIVERY_NMI:
        lapic->callbacks.nmi(lapic->context);
        break;
    case DELIVERY_INIT:
        lapic->callbacks.init(lapic->context);
        break;
    default:
        break;
    }
    return false;
}

void lapic_receive_lint1(struct lapic *lapic)
{
    if (!lapic_enter(lapic))
        return;
    if (lapic_local(lapic, LVT_LINT1))
        lapic->callbacks.notify(lapic->context);
    lapic_leave(lapic);
}

/* One interrupt until software has looked: a write to ESR re-arms it (SDM 3A 11.5.3). */
void lapic_error(struct lapic *lapic, uint32_t bit)
{
    if (!atomic_fetch_or(&lapic->errors, bit) && lapic_local(lapic, LVT_ERROR))
        lapic->callbacks.notify(lapic->context);
}

/* ---- priorities ---- */

int lapic_highest(const uint64_t bits[4])
{
    for (int word = 3; word >= 0; word--)
        if (bits[word])
            return 64 * word + 63 - __builtin_clzll(bits[word]);
    return -1;
}

int lapic_requested(const struct lapic *lapic)
{
    for (int word = 3; word >= 0; word--) {
        uint64_t bits = atomic_load_explicit(&lapic->irr[word], memory_order_acquire);
        if (bits)
            return 64 * word + 63 - __builtin_clzll(bits);
    }
    return -1;
}

/* SDM 3A 11.8.3.1. With equal classes TPR's low bits show, as on processors since the P6. */
void lapic_update_ppr(struct lapic *lapic)
{
    int in_service = lapic_highest(lapic->isr);
    uint32_t isrv = in_service < 0 ? 0 : (uint32_t)in_service;
    uint32_t tpr = lapic_load(&lapic->tpr);
    lapic_store(&lapic->ppr, (tpr & 0xf0) >= (isrv & 0xf0) ? tpr : isrv & 0xf0);
}

int lapic_pending(const struct lapic *lapic)
{
    int vector = lapic_requested(lapic);
    if (likely(vector < 0))
        return -1;
    if (((uint32_t)vector & 0xf0) <= (lapic_load(&lapic->ppr) & 0xf0) || !lapic_is_enabled(lapic))
        return -1;
    return vector;
}

int lapic_acknowledge(struct lapic *lapic)
{
    int vector = lapic_pending(lapic);
    if (vector < 0)
        return -1;
    uint64_t bit = UINT64_C(1) << (vector % 64);
    atomic_fetch_and_explicit(&lapic->irr[vector / 64], ~bit, memory_order_acq_rel);
    lapic->isr[vector / 64] |= bit;
    lapic_update_ppr(lapic);
    return vector;
}

void lapic_reconsider(struct lapic *lapic)
{
    if (lapic_pending(lapic) >= 0)
        lapic->callbacks.notify(lapic->context);
}

void lapic_set_tpr(struct lapic *lapic, uint32_t value)
{
    lapic_store(&lapic->tpr, value & 0xff);
    lapic_update_ppr(lapic);
    lapic_reconsider(lapic);
}

void lapic_count_tpr(struct lapic *lapic)
{
    lapic_count(&lapic->tpr_count);
}

uint64_t lapic_cr8(const struct lapic *lapic)
{
    return lapic_load(&lapic->tpr) >> 4;
}

/* SDM 3A 11.8.6.1: CR8 is TPR[7:4], and writing it clears TPR[3:0]. */
void lapic_set_cr8(struct lapic *lapic, uint64_t value)
{
    lapic_set_tpr(lapic, (uint32_t)(value & 15) << 4);
}

/* ---- out ---- */

/* SDM 3A 11.8.5. The client holds the IOAPIC, so the end of a level-triggered interrupt goes out to
 * it. */
enum lapic_result lapic_eoi(struct lapic *lapic, struct vcpu_exit *exit)
{
    lapic_count(&lapic->eoi_count);
    int vector = lapic_highest(lapic->isr);
    if (vector < 0)
        return LAPIC_DONE;
    uint64_t bit = UINT64_C(1) << (vector % 64);
    lapic->isr[vector / 64] &= ~bit;
    lapic_update_ppr(lapic);
    lapic_reconsider(lapic);
    if (!(atomic_load_explicit(&lapic->tmr[vector / 64], memory_order_relaxed) & bit))
        return LAPIC_DONE;
    exit->reason = EXIT_APIC_EOI;
    exit->eoi.vector = (uint32_t)vector;
    return LAPIC_DONE_EXIT;
}

bool lapic_accepts_extint(const struct lapic *lapic)
{
    if (!lapic_is_software_enabled(lapic))
        return true;
    uint32_t lint0 = lapic_load(&lapic->lvt[LVT_LINT0]);
    return !(lint0 & LVT_MASKED) && (lint0 >> LVT_MODE_SHIFT & 7) == DELIVERY_EXTINT;
}
