/*
 * Life of a local APIC: creation, the states after RESET and INIT, mode changes, counters.
 */
#include "engine/apic/lapic.h"

#include <sched.h>

#include "engine/apic/lapic_state.h"
#include "util/last_error.h"

/* Registers after RESET, INIT and re-enabling (SDM 3A 11.4.7.1): all but the ID and IA32_APIC_BASE.
 */
static void clear_registers(struct lapic *lapic)
{
    lapic_timer_reset(lapic);
    for (unsigned i = 0; i < 4; i++) {
        atomic_store_explicit(&lapic->irr[i], 0, memory_order_relaxed);
        atomic_store_explicit(&lapic->tmr[i], 0, memory_order_relaxed);
        lapic->isr[i] = 0;
    }
    for (unsigned i = LVT_TIMER + 1; i < LVT_COUNT; i++)
        lapic_store(&lapic->lvt[i], LVT_MASKED);
    lapic_store(&lapic->svr, 0xff);
    lapic_store(&lapic->ldr, 0);
    lapic_store(&lapic->dfr, DFR_FLAT);
    lapic_store(&lapic->tpr, 0);
    lapic_store(&lapic->ppr, 0);
    lapic_store(&lapic->errors, 0);
    lapic->esr = 0;
    lapic->icr = 0;
}

static void publish(const struct lapic *lapic)
{
    if (lapic->published_page)
        atomic_store_explicit(lapic->published_page, lapic_page(lapic), memory_order_relaxed);
}

void lapic_publish_page(struct lapic *lapic, _Atomic uint64_t *page)
{
    lapic->published_page = page;
    publish(lapic);
}

void lapic_store_base(struct lapic *lapic, uint64_t value)
{
    atomic_store_explicit(&lapic->base, value, memory_order_relaxed);
    publish(lapic);
}

void lapic_reset(struct lapic *lapic)
{
    uint64_t bsp = lapic->id == 0 ? APIC_BASE_BSP : 0;
    clear_registers(lapic);
    lapic_store_base(lapic, APIC_BASE_DEFAULT | APIC_BASE_ENABLE | bsp);
}

void lapic_init_signal(struct lapic *lapic)
{
    clear_registers(lapic);
}

/*
 * A disabled APIC forgets everything but its ID (SDM 3A 11.4.3, 11.12.5.1). Between xAPIC and
 * x2APIC registers stay, but the destination in ICR has another form and DFR is gone.
 */
bool lapic_put_base(struct lapic *lapic, uint64_t value)
{
    gpa_t before = lapic_page(lapic);
    bool was_enabled = lapic_is_enabled(lapic), was_x2apic = lapic_is_x2apic(lapic);
    lapic_store_base(lapic, value);
    if (was_enabled != lapic_is_enabled(lapic))
        clear_registers(lapic);
    else if (was_x2apic != lapic_is_x2apic(lapic))
        lapic->icr = (uint32_t)lapic->icr;
    return lapic_page(lapic) != before;
}

/* ---- life ---- */

struct lapic *lapic_create(struct apic_bus *bus, uint32_t index, const struct tsc *tsc,
                           const struct lapic_callbacks *callbacks, void *context)
{
    struct lapic *lapic = apic_bus_attach(bus, index);
    if (!lapic) {
        (void)fail(STATUS_NO_MEMORY, "no memory for the local APIC of processor %u", index);
        return NULL;
    }
    lapic->published_page = NULL;
    lapic->tsc = tsc;
    lapic->callbacks = *callbacks;
    lapic->context = context;
    if (!lapic_timer_create(lapic))
        return NULL;
    _Atomic uint64_t *counters[] = {&lapic->mmio_count, &lapic->eoi_count,  &lapic->tpr_count,
                                    &lapic->sent_count, &lapic->self_count, &lapic->traps};
    for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
        atomic_store_explicit(counters[i], 0, memory_order_relaxed);
    lapic_reset(lapic);
    atomic_store(&lapic->attached, true);
    return lapic;
}

/* Senders that are in the middle of a callback are short; new ones find it detached. */
void lapic_destroy(struct lapic *lapic)
{
    if (!lapic)
        return;
    atomic_store(&lapic->attached, false);
    while (atomic_load(&lapic->users))
        sched_yield();
    lapic_timer_destroy(lapic);
}

void lapic_set_traps(struct lapic *lapic, uint64_t extended_exits)
{
    atomic_store_explicit(&lapic->traps, extended_exits, memory_order_relaxed);
}

void lapic_tsc_changed(struct lapic *lapic)
{
    lapic_timer_changed(lapic);
}

void lapic_counters(const struct lapic *lapic, struct vcpu_counters *counters)
{
    counters->apic_mmio = atomic_load_explicit(&lapic->mmio_count, memory_order_relaxed);
    counters->apic_eoi = atomic_load_explicit(&lapic->eoi_count, memory_order_relaxed);
    counters->apic_tpr = atomic_load_explicit(&lapic->tpr_count, memory_order_relaxed);
    counters->apic_sent_ipi = atomic_load_explicit(&lapic->sent_count, memory_order_relaxed);
    counters->apic_self_ipi = atomic_load_explicit(&lapic->self_count, memory_order_relaxed);
}
