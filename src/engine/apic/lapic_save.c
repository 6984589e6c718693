/*
 * The host's ways in: the state as a page of registers, and single registers by name. Values are
 * stored, not acted on: a restored ICR sends nothing. The processor is not running.
 */
#include "engine/apic/lapic_state.h"

#include <string.h>

#include "util/last_error.h"

#define HIDDEN_ERRORS (LAPIC_ESR * 16 + 4) /* byte offset, see lapic.h */

static void put_vectors(struct lapic *lapic, unsigned number, uint32_t value)
{
    unsigned word = (number & 7) / 2, shift = number & 1 ? 32 : 0;
    uint64_t keep = UINT64_C(0xffffffff) << (32 - shift);
    uint64_t bits = (uint64_t)value << shift;
    if ((number & 7) == 0)
        bits &= ~UINT64_C(0xffff); /* vectors 0 to 15 do not exist */
    if ((number & ~7u) == LAPIC_ISR) {
        lapic->isr[word] = (lapic->isr[word] & keep) | bits;
        return;
    }
    _Atomic uint64_t *where = (number & ~7u) == LAPIC_TMR ? &lapic->tmr[word] : &lapic->irr[word];
    atomic_fetch_and(where, keep);
    atomic_fetch_or(where, bits);
}

/* A register that is nothing but its value. Reserved bits are dropped, derived registers are left
 * alone. */
static void put_plain(struct lapic *lapic, unsigned number, uint32_t value)
{
    uint32_t bits = lapic_writable_bits(number);
    value &= bits;
    switch (number) {
    case LAPIC_TPR:
        lapic_store(&lapic->tpr, value);
        break;
    case LAPIC_LDR:
        if (!lapic_is_x2apic(lapic))
            lapic_store(&lapic->ldr, value);
        break;
    case LAPIC_DFR:
        lapic_store(&lapic->dfr, value | ~bits);
        break;
    case LAPIC_SVR:
        lapic_put_svr(lapic, value);
        break;
    case LAPIC_ESR:
        lapic->esr = value & ESR_ALL;
        break;
    case LAPIC_LVT ... LAPIC_LVT + LVT_COUNT - 1:
        lapic_put_lvt(lapic, (enum lvt)(number - LAPIC_LVT), value);
        break;
    default:
        break;
    }
}

/* In x2APIC mode all of the high half is the destination. */
static void put_icr(struct lapic *lapic, uint64_t value)
{
    uint64_t bits = lapic_writable_bits(LAPIC_ICR);
    bits |= lapic_is_x2apic(lapic) ? UINT64_C(0xffffffff00000000)
                                   : (uint64_t)lapic_writable_bits(LAPIC_ICR_HIGH) << 32;
    lapic->icr = value & bits;
}

/* ---- the page ---- */

static uint32_t page_get(const void *page, size_t offset)
{
    uint32_t value;
    memcpy(&value, (const char *)page + offset, sizeof(value));
    return value;
}

static void page_put(void *page, size_t offset, uint32_t value)
{
    memcpy((char *)page + offset, &value, sizeof(value));
}

void lapic_save(struct lapic *lapic, void *page)
{
    memset(page, 0, LAPIC_STATE_SIZE);
    for (unsigned number = 0; number < LAPIC_REGISTERS; number++)
        page_put(page, number * 16, lapic_read_register(lapic, number));
    page_put(page, HIDDEN_ERRORS, atomic_load(&lapic->errors));
}

/* The old timer must not fire into the new state. SVR before the LVT entries: it decides whether
 * they can be unmasked. The new timer last: it needs its LVT entry. */
void lapic_restore(struct lapic *lapic, const void *page)
{
    lapic_timer_reset(lapic);
    put_plain(lapic, LAPIC_SVR, page_get(page, LAPIC_SVR * 16));
    for (unsigned number = 0; number < LAPIC_REGISTERS; number++) {
        uint32_t value = page_get(page, number * 16);
        if (number >= LAPIC_ISR && number < LAPIC_IRR + 8)
            put_vectors(lapic, number, value);
        else if (number != LAPIC_SVR)
            put_plain(lapic, number, value);
    }
    atomic_store(&lapic->errors, page_get(page, HIDDEN_ERRORS) & ESR_ALL);
    put_icr(lapic, page_get(page, LAPIC_ICR * 16) | (uint64_t)page_get(page, LAPIC_ICR_HIGH * 16)
                                                        << 32);
    lapic_timer_restore(lapic, page_get(page, LAPIC_INITIAL_COUNT * 16),
                        page_get(page, LAPIC_CURRENT_COUNT * 16),
                        page_get(page, LAPIC_DIVIDE * 16) & lapic_writable_bits(LAPIC_DIVIDE));
    lapic_update_ppr(lapic);
    lapic_reconsider(lapic);
}

/* ---- all of it ---- */

void lapic_save_state(struct lapic *lapic, struct apic_state *state)
{
    memset(state, 0, sizeof(*state));
    state->base = lapic_base(lapic);
    for (unsigned i = 0; i < 4; i++) {
        state->irr[i] = atomic_load(&lapic->irr[i]);
        state->tmr[i] = atomic_load(&lapic->tmr[i]);
        state->isr[i] = lapic->isr[i];
    }
    state->icr = lapic->icr;
    state->svr = lapic_load(&lapic->svr);
    state->ldr = lapic_load(&lapic->ldr);
    state->dfr = lapic_load(&lapic->dfr);
    state->tpr = lapic_load(&lapic->tpr);
    state->esr = lapic->esr;
    state->errors = lapic_load(&lapic->errors);
    for (unsigned i = LVT_TIMER + 1; i < LVT_COUNT; i++)
        state->lvt[i] = lapic_load(&lapic->lvt[i]);
    lapic_timer_save_state(lapic, state);
}

/* Bits of a register that are neither writable nor always one. */
static bool fits(unsigned number, uint32_t value)
{
    return !(value & ~lapic_writable_bits(number));
}

static const char *state_problem(const struct lapic *lapic, const struct apic_state *s)
{
    if (!lapic_base_is_legal(lapic, s->base))
        return "IA32_APIC_BASE";
    if (!fits(LAPIC_TPR, s->tpr) || !fits(LAPIC_LDR, s->ldr) || !fits(LAPIC_SVR, s->svr) ||
        s->dfr != (s->dfr | ~lapic_writable_bits(LAPIC_DFR)))
        return "TPR, LDR, DFR or SVR";
    for (unsigned i = 0; i < LVT_COUNT; i++)
        if (!fits(LAPIC_LVT + i, s->lvt[i]))
            return "an LVT entry";
    if ((s->irr[0] | s->tmr[0] | s->isr[0]) & 0xffff)
        return "a vector below 16";
    if ((s->esr | s->errors) & ~ESR_ALL)
        return "ESR";
    if ((uint32_t)s->icr & ~lapic_writable_bits(LAPIC_ICR))
        return "ICR";
    if (!fits(LAPIC_DIVIDE, s->timer_divide) || s->timer_running > 1 || s->timer_armed > 1 ||
        (s->timer_running && !s->timer_initial))
        return "the timer";
    return NULL;
}

enum status lapic_check_state(const struct lapic *lapic, const struct apic_state *state)
{
    const char *problem = state_problem(lapic, state);

    return problem ? fail(STATUS_HV_INVALID_REGISTER_VALUE, "local APIC of processor %u: %s", lapic->id, problem)
                   : STATUS_OK;
}

/* The timer first: afterwards it cannot raise anything of the old state. */
void lapic_load_state(struct lapic *lapic, const struct apic_state *state)
{
    lapic_timer_load_state(lapic, state);
    lapic_store_base(lapic, state->base);
    for (unsigned i = 0; i < 4; i++) {
        atomic_store_explicit(&lapic->tmr[i], state->tmr[i], memory_order_relaxed);
        atomic_store_explicit(&lapic->irr[i], state->irr[i], memory_order_release);
        lapic->isr[i] = state->isr[i];
    }
    lapic->icr = state->icr;
    lapic_store(&lapic->svr, state->svr);
    lapic_store(&lapic->ldr, state->ldr);
    lapic_store(&lapic->dfr, state->dfr);
    lapic_store(&lapic->tpr, state->tpr);
    lapic->esr = state->esr;
    lapic_store(&lapic->errors, state->errors);
    for (unsigned i = LVT_TIMER + 1; i < LVT_COUNT; i++)
        lapic_store(&lapic->lvt[i], state->lvt[i]);
    lapic_update_ppr(lapic);
}

/* ---- by name ---- */

#define NAME_BASE 0x3000u

static bool is_named(unsigned number)
{
    switch (number) {
    case LAPIC_ID:
    case LAPIC_VERSION:
    case LAPIC_TPR:
    case LAPIC_PPR:
    case LAPIC_EOI:
    case LAPIC_LDR:
    case LAPIC_SVR:
    case LAPIC_ISR ... LAPIC_ESR:
    case LAPIC_ICR:
    case LAPIC_LVT ... LAPIC_CURRENT_COUNT:
    case LAPIC_DIVIDE:
    case LAPIC_SELF_IPI:
        return true;
    default:
        return false;
    }
}

/* The four names outside the block, and the block. */
static enum status check_name(const struct lapic *lapic, uint32_t name)
{
    switch (name) {
    case VREG_APIC_BASE:
    case VREG_INITIAL_APIC_ID:
    case VREG_TSC_DEADLINE:
    case VREG_CR8:
        return STATUS_OK;
    default:
        break;
    }
    if (name < NAME_BASE || !is_named(name - NAME_BASE))
        return fail(STATUS_INVALID_VP_REGISTER_NAME,
                    "register %#x is not a register of the local APIC", name);
    if (name == NAME_BASE + LAPIC_TPR && apic_bus_config(lapic->bus)->apic_mode == APIC_MODE_X2APIC)
        return fail(STATUS_HV_INVALID_PARAMETER, "ApicTpr cannot be used with an x2APIC: use Cr8");
    return STATUS_OK;
}

static uint64_t get_register(struct lapic *lapic, uint32_t name)
{
    switch (name) {
    case VREG_APIC_BASE:
        return lapic_base(lapic);
    case VREG_INITIAL_APIC_ID:
        return lapic->id;
    case VREG_TSC_DEADLINE:
        return lapic_timer_deadline(lapic);
    case VREG_CR8:
        return lapic_cr8(lapic);
    case NAME_BASE + LAPIC_ICR:
        return lapic->icr;
    default:
        return lapic_read_register(lapic, name - NAME_BASE);
    }
}

enum status lapic_get_register(struct lapic *lapic, uint32_t name, union vreg_value *value)
{
    enum status status = check_name(lapic, name);
    if (status == STATUS_OK)
        *value = (union vreg_value){.q = {get_register(lapic, name), 0}};
    return status;
}

/*
 * The ID may come in the form of either mode: a batch can hold IA32_APIC_BASE as well. Derived
 * registers (PPR, and LDR in x2APIC mode) take any value and drop it, so that a batch saved whole
 * can be set whole.
 */
static enum status check_number(const struct lapic *lapic, unsigned number, uint64_t value)
{
    bool is_id = value == lapic->id || value == lapic->id << 24;
    if ((number == LAPIC_ID && !is_id) || (number == LAPIC_VERSION && value != LAPIC_VERSION_VALUE))
        return fail(STATUS_HV_INVALID_PARAMETER, "the local APIC's %s is fixed",
                    number == LAPIC_ID ? "ID (the processor's index)" : "version");
    if (value > UINT32_MAX && number != LAPIC_ICR)
        return fail(STATUS_HV_INVALID_REGISTER_VALUE, "APIC register %#x has 32 bits", number);
    return STATUS_OK;
}

enum status lapic_check_register(const struct lapic *lapic, uint32_t name,
                                 const union vreg_value *value)
{
    enum status status = check_name(lapic, name);
    uint64_t wanted = value->q[0];
    if (status != STATUS_OK)
        return status;
    switch (name) {
    case VREG_APIC_BASE:
        return lapic_base_is_legal(lapic, wanted)
                   ? STATUS_OK
                   : fail(STATUS_HV_INVALID_REGISTER_VALUE, "APIC base %#llx is not legal here",
                          (unsigned long long)wanted);
    case VREG_INITIAL_APIC_ID:
        return wanted == lapic->id
                   ? STATUS_OK
                   : fail(STATUS_HV_INVALID_PARAMETER, "the APIC ID is the processor's index");
    case VREG_CR8:
        return wanted <= 15
                   ? STATUS_OK
                   : fail(STATUS_HV_INVALID_REGISTER_VALUE, "CR8 is a number from 0 to 15");
    case VREG_TSC_DEADLINE:
        return STATUS_OK;
    default:
        return check_number(lapic, name - NAME_BASE, wanted);
    }
}

/* EOI and SELF IPI hold nothing: setting them can only mean to do it. A level-triggered EOI goes
 * unannounced. */
static void set_number(struct lapic *lapic, unsigned number, uint64_t value)
{
    struct vcpu_exit ignored;
    switch (number) {
    case LAPIC_EOI:
        (void)lapic_eoi(lapic, &ignored);
        break;
    case LAPIC_SELF_IPI:
        lapic_send_self(lapic, (uint8_t)value);
        break;
    case LAPIC_ISR ... LAPIC_IRR + 7:
        put_vectors(lapic, number, (uint32_t)value);
        break;
    case LAPIC_ICR:
        put_icr(lapic, value);
        break;
    case LAPIC_INITIAL_COUNT:
        lapic_timer_set_count(lapic, (uint32_t)value);
        break;
    case LAPIC_CURRENT_COUNT:
        lapic_timer_restore(lapic, lapic_timer_initial(lapic), (uint32_t)value,
                            lapic_timer_divide(lapic));
        break;
    case LAPIC_DIVIDE:
        lapic_timer_set_divide(lapic, (uint32_t)value & lapic_writable_bits(number));
        break;
    default:
        put_plain(lapic, number, (uint32_t)value);
        break;
    }
}

enum status lapic_set_register(struct lapic *lapic, uint32_t name, const union vreg_value *value)
{
    enum status status = lapic_check_register(lapic, name, value);
    if (status != STATUS_OK)
        return status;
    switch (name) {
    case VREG_APIC_BASE:
        lapic_put_base(lapic, value->q[0]);
        break;
    case VREG_TSC_DEADLINE:
        lapic_timer_set_deadline(lapic, value->q[0]);
        break;
    case VREG_CR8:
        lapic_set_cr8(lapic, value->q[0]);
        break;
    case VREG_INITIAL_APIC_ID:
        break;
    default:
        set_number(lapic, name - NAME_BASE, value->q[0]);
        lapic_update_ppr(lapic);
        lapic_reconsider(lapic);
        break;
    }
    return STATUS_OK;
}
