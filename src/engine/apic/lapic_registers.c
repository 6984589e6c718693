/*
 * The registers: one table says which exist in which mode and what of them can be written; MMIO and
 * MSR accesses differ only in what they do about an access that the table does not allow.
 */
#include "engine/apic/lapic_state.h"

#include "util/compiler.h"

enum {
    XR = 1,
    XW = 2,
    X2R = 4,
    X2W = 8,
    RO = XR | X2R,
    RW = RO | XW | X2W,
    XRO = XR,
    XRW = XR | XW
};

struct rule {
    uint8_t access;
    uint32_t bits; /* that can be written; in x2APIC mode a 1 elsewhere is #GP */
};

#define LVT_RULE(bits_)                                                                            \
    {                                                                                              \
        RW, (bits_) | LVT_MASKED | 0xff                                                            \
    }

/* SDM 3A tables 11-1 and 11-6. LVT bits 12 (delivery status) and 14 (remote IRR) are read-only,
 * always 0 here. SVR bit 9 (focus checking) does nothing but can be set, as kernels made for older
 * processors do. */
/* clang-format off */
static const struct rule rules[LAPIC_REGISTERS] = {
    [LAPIC_ID]             = {RO,                 0},
    [LAPIC_VERSION]        = {RO,                 0},
    [LAPIC_TPR]            = {RW,                 0xff},
    [LAPIC_APR]            = {XRO,                0},
    [LAPIC_PPR]            = {RO,                 0},
    [LAPIC_EOI]            = {XRW | X2W,          0xffffffff},
    [LAPIC_RRD]            = {XRO,                0},
    [LAPIC_LDR]            = {RO | XW,            0xff000000},
    [LAPIC_DFR]            = {XRW,                0xf0000000},
    [LAPIC_SVR]            = {RW,                 0x3ff},
    [LAPIC_ISR ... LAPIC_ISR + 7] = {RO,          0},
    [LAPIC_TMR ... LAPIC_TMR + 7] = {RO,          0},
    [LAPIC_IRR ... LAPIC_IRR + 7] = {RO,          0},
    [LAPIC_ESR]            = {RW,                 0xffffffff},
    [LAPIC_ICR]            = {RW,                 0x000ccfff},
    [LAPIC_ICR_HIGH]       = {XRW,                0xff000000},
    [LAPIC_LVT + LVT_TIMER]   = LVT_RULE(3u << LVT_TIMER_SHIFT),
    [LAPIC_LVT + LVT_THERMAL] = LVT_RULE(7u << LVT_MODE_SHIFT),
    [LAPIC_LVT + LVT_PERFMON] = LVT_RULE(7u << LVT_MODE_SHIFT),
    [LAPIC_LVT + LVT_LINT0]   = LVT_RULE(7u << LVT_MODE_SHIFT | 1u << 13 | 1u << 15),
    [LAPIC_LVT + LVT_LINT1]   = LVT_RULE(7u << LVT_MODE_SHIFT | 1u << 13 | 1u << 15),
    [LAPIC_LVT + LVT_ERROR]   = LVT_RULE(0),
    [LAPIC_INITIAL_COUNT]  = {RW,                 0xffffffff},
    [LAPIC_CURRENT_COUNT]  = {RO,                 0},
    [LAPIC_DIVIDE]         = {RW,                 0xb},
    [LAPIC_SELF_IPI]       = {X2W,                0xff},
};
/* clang-format on */

bool lapic_is_readable(const struct lapic *lapic, unsigned number)
{
    return number < LAPIC_REGISTERS && (rules[number].access & (lapic_is_x2apic(lapic) ? X2R : XR));
}

bool lapic_is_writable(const struct lapic *lapic, unsigned number)
{
    return number < LAPIC_REGISTERS && (rules[number].access & (lapic_is_x2apic(lapic) ? X2W : XW));
}

uint32_t lapic_writable_bits(unsigned number)
{
    return number < LAPIC_REGISTERS ? rules[number].bits : 0;
}

/* ---- reading ---- */

/* Arbitration priority, of historical interest (SDM 3A 11.6.2.4). */
static uint32_t arbitration_priority(const struct lapic *lapic)
{
    int requested = lapic_requested(lapic), in_service = lapic_highest(lapic->isr);
    uint32_t irrv = requested < 0 ? 0 : (uint32_t)requested & 0xf0;
    uint32_t isrv = in_service < 0 ? 0 : (uint32_t)in_service & 0xf0;
    uint32_t tpr = lapic_load(&lapic->tpr);
    if ((tpr & 0xf0) >= irrv && (tpr & 0xf0) > isrv)
        return tpr;
    uint32_t highest = irrv > isrv ? irrv : isrv;
    return highest > (tpr & 0xf0) ? highest : tpr & 0xf0;
}

static uint32_t half_of(uint64_t bits, unsigned number)
{
    return (uint32_t)(bits >> (number & 1 ? 32 : 0));
}

static uint32_t read_vectors(const struct lapic *lapic, unsigned number)
{
    unsigned word = (number & 7) / 2;
    switch (number & ~7u) {
    case LAPIC_ISR:
        return half_of(lapic->isr[word], number);
    case LAPIC_TMR:
        return half_of(atomic_load_explicit(&lapic->tmr[word], memory_order_relaxed), number);
    default:
        return half_of(atomic_load_explicit(&lapic->irr[word], memory_order_relaxed), number);
    }
}

/* Anything that is not there reads 0; who may ask is the caller's business. */
uint32_t lapic_read_register(struct lapic *lapic, unsigned number)
{
    switch (number) {
    case LAPIC_ID:
        return lapic_is_x2apic(lapic) ? lapic->id : lapic->id << 24;
    case LAPIC_VERSION:
        return LAPIC_VERSION_VALUE;
    case LAPIC_TPR:
        return lapic_load(&lapic->tpr);
    case LAPIC_APR:
        return arbitration_priority(lapic);
    case LAPIC_PPR:
        return lapic_load(&lapic->ppr);
    case LAPIC_LDR:
        return lapic_is_x2apic(lapic) ? lapic_x2apic_ldr(lapic->id) : lapic_load(&lapic->ldr);
    case LAPIC_DFR:
        return lapic_load(&lapic->dfr);
    case LAPIC_SVR:
        return lapic_load(&lapic->svr);
    case LAPIC_ISR ... LAPIC_IRR + 7:
        return read_vectors(lapic, number);
    case LAPIC_ESR:
        return lapic->esr;
    case LAPIC_ICR:
        return (uint32_t)lapic->icr;
    case LAPIC_ICR_HIGH:
        return (uint32_t)(lapic->icr >> 32);
    case LAPIC_LVT ... LAPIC_LVT + LVT_COUNT - 1:
        return lapic_load(&lapic->lvt[number - LAPIC_LVT]);
    case LAPIC_INITIAL_COUNT:
        return lapic_timer_initial(lapic);
    case LAPIC_CURRENT_COUNT:
        return lapic_timer_count(lapic);
    case LAPIC_DIVIDE:
        return lapic_timer_divide(lapic);
    default:
        return 0;
    }
}

/* ---- writing ---- */

/* While the APIC is disabled by software all entries are masked and stay so (SDM 3A 11.4.7.2). */
void lapic_put_lvt(struct lapic *lapic, enum lvt entry, uint32_t value)
{
    if (!(lapic_load(&lapic->svr) & SVR_ENABLE))
        value |= LVT_MASKED;
    if (entry == LVT_TIMER)
        lapic_timer_set_lvt(lapic, value);
    else
        lapic_store(&lapic->lvt[entry], value);
}

void lapic_put_svr(struct lapic *lapic, uint32_t value)
{
    lapic_store(&lapic->svr, value);
    if (value & SVR_ENABLE)
        return;
    for (unsigned i = 0; i < LVT_COUNT; i++)
        lapic_put_lvt(lapic, (enum lvt)i, lapic_load(&lapic->lvt[i]));
}

/* Registers whose writes the client can ask to see, by register number; the exit names the MMIO
 * offset. */
static enum lapic_result trap_write(const struct lapic *lapic, unsigned number, uint32_t value,
                                    struct vcpu_exit *exit)
{
    static const struct {
        uint8_t number;
        uint32_t trap;
    } traps[] = {
        {LAPIC_LDR, EXTENDED_EXIT_APIC_LDR},         {LAPIC_DFR, EXTENDED_EXIT_APIC_DFR},
        {LAPIC_SVR, EXTENDED_EXIT_APIC_SVR},         {LAPIC_LVT_LINT0, EXTENDED_EXIT_APIC_LINT0},
        {LAPIC_LVT_LINT1, EXTENDED_EXIT_APIC_LINT1},
    };
    uint64_t wanted = atomic_load_explicit(&lapic->traps, memory_order_relaxed);
    for (size_t i = 0; i < array_size(traps); i++) {
        if (traps[i].number != number || !(wanted & traps[i].trap))
            continue;
        exit->reason = EXIT_APIC_WRITE_TRAP;
        exit->apic_write.type = number * 16;
        exit->apic_write.value = value;
        return LAPIC_DONE_EXIT;
    }
    return LAPIC_DONE;
}

static enum lapic_result write_icr(struct lapic *lapic, uint32_t low, struct vcpu_exit *exit)
{
    lapic->icr = (lapic->icr & ~UINT64_C(0xffffffff)) | low;
    return lapic_send(lapic, exit);
}

/* The register exists and is writable; bits that cannot be written are dropped here. */
enum lapic_result lapic_write_register(struct lapic *lapic, unsigned number, uint32_t value,
                                       struct vcpu_exit *exit)
{
    uint32_t bits = rules[number].bits;
    uint32_t stored = value & bits;
    switch (number) {
    case LAPIC_TPR:
        lapic_count(&lapic->tpr_count);
        lapic_set_tpr(lapic, stored);
        return LAPIC_DONE;
    case LAPIC_EOI:
        return lapic_eoi(lapic, exit);
    case LAPIC_LDR:
        lapic_store(&lapic->ldr, stored);
        break;
    case LAPIC_DFR:
        lapic_store(&lapic->dfr, stored | ~bits);
        break;
    case LAPIC_SVR:
        lapic_put_svr(lapic, stored);
        break;
    case LAPIC_ESR: /* shows what has happened since the last write (SDM 3A 11.5.3) */
        lapic->esr = atomic_exchange(&lapic->errors, 0);
        return LAPIC_DONE;
    case LAPIC_ICR:
        return write_icr(lapic, stored, exit);
    case LAPIC_ICR_HIGH:
        lapic->icr = (uint32_t)lapic->icr | (uint64_t)stored << 32;
        return LAPIC_DONE;
    case LAPIC_LVT ... LAPIC_LVT + LVT_COUNT - 1:
        lapic_put_lvt(lapic, (enum lvt)(number - LAPIC_LVT), stored);
        break;
    case LAPIC_INITIAL_COUNT:
        lapic_timer_set_count(lapic, stored);
        return LAPIC_DONE;
    case LAPIC_DIVIDE:
        lapic_timer_set_divide(lapic, stored);
        return LAPIC_DONE;
    case LAPIC_SELF_IPI:
        lapic_send_self(lapic, (uint8_t)stored);
        return LAPIC_DONE;
    default:
        return LAPIC_DONE;
    }
    return trap_write(lapic, number, value, exit);
}
