/*
 * Inside the local APIC: its state and what its files share. Included by lapic*.c and apic_bus.c
 * only.
 *
 * Who may write what:
 *   anyone         irr, tmr, errors (atomic read-modify-write)
 *   the processor  everything else; what other threads read of it is atomic
 *   timer.lock     the timer's members, and an LVT timer entry while the timer thread may look at
 * it IRR is published with release and taken with acquire: what a sender wrote before its IPI is
 * seen behind it.
 */
#ifndef OWHP_ENGINE_SOFT_LAPIC_STATE_H
#define OWHP_ENGINE_SOFT_LAPIC_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/apic/lapic.h"

/* Register numbers: MMIO offset / 16 = MSR - 0x800 = register name - 0x3000 (SDM 3A tables 11-1,
 * 11-6). */
enum {
    LAPIC_ID = 0x02,
    LAPIC_VERSION = 0x03,
    LAPIC_TPR = 0x08,
    LAPIC_APR = 0x09,
    LAPIC_PPR = 0x0a,
    LAPIC_EOI = 0x0b,
    LAPIC_RRD = 0x0c,
    LAPIC_LDR = 0x0d,
    LAPIC_DFR = 0x0e,
    LAPIC_SVR = 0x0f,
    LAPIC_ISR = 0x10,
    LAPIC_TMR = 0x18,
    LAPIC_IRR = 0x20,
    LAPIC_ESR = 0x28,
    LAPIC_ICR = 0x30,
    LAPIC_ICR_HIGH = 0x31,
    LAPIC_LVT = 0x32,
    LAPIC_LVT_LINT0 = 0x35,
    LAPIC_LVT_LINT1 = 0x36,
    LAPIC_INITIAL_COUNT = 0x38,
    LAPIC_CURRENT_COUNT = 0x39,
    LAPIC_DIVIDE = 0x3e,
    LAPIC_SELF_IPI = 0x3f,
    LAPIC_REGISTERS = 0x40,
};

enum lvt { LVT_TIMER, LVT_THERMAL, LVT_PERFMON, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

/* IA32_APIC_BASE (SDM 3A 11.4.4, 11.12.1) */
#define APIC_BASE_BSP     (UINT64_C(1) << 8)
#define APIC_BASE_EXTD    (UINT64_C(1) << 10)
#define APIC_BASE_ENABLE  (UINT64_C(1) << 11)
#define APIC_BASE_DEFAULT UINT64_C(0xfee00000)

#define SVR_ENABLE      (1u << 8)
#define LVT_MASKED      (1u << 16)
#define LVT_MODE_SHIFT  8
#define LVT_TIMER_SHIFT 17
#define DFR_FLAT        0xffffffffu
#define LAPIC_VERSION_VALUE                                                                        \
    0x00050014u /* integrated APIC, six LVT entries, no EOI-broadcast suppression */
#define LAPIC_FIRST_VECTOR 16

enum delivery_mode {
    DELIVERY_FIXED,
    DELIVERY_LOWEST,
    DELIVERY_SMI,
    DELIVERY_RESERVED,
    DELIVERY_NMI,
    DELIVERY_INIT,
    DELIVERY_SIPI,
    DELIVERY_EXTINT,
};

enum timer_mode { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_DEADLINE, TIMER_RESERVED };

/* Error status register (SDM 3A 11.5.3) */
#define ESR_SEND_VECTOR    (1u << 5)
#define ESR_RECEIVE_VECTOR (1u << 6)
#define ESR_REGISTER       (1u << 7)
#define ESR_ALL            (ESR_SEND_VECTOR | ESR_RECEIVE_VECTOR | ESR_REGISTER)

struct lapic_timer {
    pthread_mutex_t lock;
    struct timer timer;
    uint32_t initial_count, divide;
    bool running; /* one-shot or periodic: the count is not at rest */
    bool armed;   /* an interrupt is due at `due`, and the queue knows */
    uint64_t
        start;    /* partition TSC at which the count was (or would have been) the initial count */
    uint64_t due; /* partition TSC */
    uint64_t deadline; /* IA32_TSC_DEADLINE: processor TSC, 0: disarmed */
};

struct lapic {
    /* Written by senders. */
    _Alignas(64) _Atomic uint64_t irr[4];
    _Atomic uint64_t tmr[4];
    _Alignas(64) _Atomic uint32_t users; /* threads that are about to call back; see lapic_enter */
    _Atomic bool attached;
    _Atomic uint32_t errors; /* not yet shown in ESR */

    /* Written by the processor, read by senders. */
    _Alignas(64) _Atomic uint64_t base; /* IA32_APIC_BASE */
    _Atomic uint32_t svr, ldr, dfr, tpr, ppr;
    _Atomic uint32_t lvt[LVT_COUNT];

    /* The processor's own. */
    uint64_t isr[4];
    uint32_t esr;
    uint64_t icr;
    _Atomic uint64_t traps; /* EXTENDED_EXIT_APIC_* */
    _Atomic uint64_t mmio_count, eoi_count, tpr_count, sent_count, self_count; /* read by anyone */

    struct lapic_timer timer;

    /* Fixed when the bus makes the memory. */
    uint32_t id;
    struct apic_bus *bus;

    _Atomic uint64_t *published_page; /* NULL: nobody wants to know; the processor's */

    /* Fixed while attached. */
    const struct tsc *tsc;
    struct lapic_callbacks callbacks;
    void *context;
};

/* What the bus carries. */
enum message_source { SOURCE_XAPIC, SOURCE_X2APIC, SOURCE_EXTERNAL };

struct apic_message {
    enum delivery_mode mode;
    enum message_source source; /* decides which destination means everybody */
    uint32_t destination;
    uint8_t vector;
    bool is_logical, is_level;
};

/* ---- apic_bus.c ---- */

struct lapic *apic_bus_attach(struct apic_bus *bus,
                              uint32_t index); /* the slot's memory; NULL: none. lapic.c fills it */
const struct partition_config *apic_bus_config(const struct apic_bus *bus);
struct timer_queue *apic_bus_timers(const struct apic_bus *bus);
uint64_t apic_bus_frequency(const struct apic_bus *bus); /* of the APIC timer, Hz */
void apic_bus_send(struct apic_bus *bus, const struct apic_message *message);
/* To all, or (except != NULL) to all others. */
void apic_bus_broadcast(struct apic_bus *bus, const struct apic_message *message,
                        const struct lapic *except);

/* ---- lapic_deliver.c ---- */

bool lapic_enter(struct lapic *lapic); /* true: stays attached until lapic_leave */
void lapic_leave(struct lapic *lapic);
bool lapic_accept(struct lapic *lapic, uint8_t vector,
                  bool is_level); /* true: newly requested: notify */
void lapic_receive(struct lapic *lapic, const struct apic_message *message);
void lapic_receive_lint1(struct lapic *lapic);
bool lapic_local(struct lapic *lapic, enum lvt entry); /* an LVT source fires; true: notify */
void lapic_error(struct lapic *lapic, uint32_t bit);
void lapic_update_ppr(struct lapic *lapic);
void lapic_reconsider(struct lapic *lapic); /* notify when something is deliverable */
int lapic_highest(const uint64_t bits[4]);
void lapic_set_tpr(struct lapic *lapic, uint32_t value);
enum lapic_result lapic_eoi(struct lapic *lapic, struct vcpu_exit *exit);

/* ---- lapic_ipi.c ---- */

enum lapic_result lapic_send(struct lapic *lapic, struct vcpu_exit *exit); /* what icr says */
void lapic_send_self(struct lapic *lapic, uint8_t vector);

/* ---- lapic_timer.c ---- */

bool lapic_timer_create(struct lapic *lapic);
void lapic_timer_destroy(struct lapic *lapic);
void lapic_timer_reset(struct lapic *lapic);
void lapic_timer_set_lvt(struct lapic *lapic, uint32_t value); /* the value as it is to be stored */
void lapic_timer_set_count(struct lapic *lapic, uint32_t count);
void lapic_timer_set_divide(struct lapic *lapic, uint32_t value);
uint32_t lapic_timer_count(struct lapic *lapic);
uint32_t lapic_timer_initial(struct lapic *lapic);
uint32_t lapic_timer_divide(struct lapic *lapic);
uint64_t lapic_timer_deadline(struct lapic *lapic);
void lapic_timer_set_deadline(struct lapic *lapic, uint64_t deadline);
/* From saved state: LVT mode is in place; the count is at `current` of `initial`. */
void lapic_timer_restore(struct lapic *lapic, uint32_t initial, uint32_t current, uint32_t divide);
void lapic_timer_save_state(struct lapic *lapic, struct apic_state *state);
void lapic_timer_load_state(struct lapic *lapic, const struct apic_state *state);
void lapic_timer_changed(struct lapic *lapic); /* TSC or APIC state changed: settle and arm anew */

/* ---- lapic_registers.c ---- */

uint32_t lapic_read_register(struct lapic *lapic, unsigned number);
enum lapic_result lapic_write_register(struct lapic *lapic, unsigned number, uint32_t value,
                                       struct vcpu_exit *exit);
bool lapic_is_readable(const struct lapic *lapic, unsigned number); /* in the present mode */
bool lapic_is_writable(const struct lapic *lapic, unsigned number);
uint32_t lapic_writable_bits(unsigned number);
void lapic_put_lvt(struct lapic *lapic, enum lvt entry, uint32_t value);
void lapic_put_svr(struct lapic *lapic, uint32_t value);

/* ---- lapic_access.c, lapic.c ---- */

bool lapic_base_is_legal(const struct lapic *lapic,
                         uint64_t value); /* as a value, whatever came before */
enum lapic_result lapic_write_base(struct lapic *lapic, uint64_t value);
bool lapic_put_base(struct lapic *lapic, uint64_t value); /* true: the page moved */
void lapic_store_base(struct lapic *lapic, uint64_t value); /* the value alone; the only place that writes it */

/* ---- small things ---- */

static inline uint32_t lapic_load(const _Atomic uint32_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static inline void lapic_store(_Atomic uint32_t *value, uint32_t to)
{
    atomic_store_explicit(value, to, memory_order_relaxed);
}

static inline void lapic_count(_Atomic uint64_t *counter) /* one writer */
{
    uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, value + 1, memory_order_relaxed);
}

static inline uint64_t lapic_base(const struct lapic *lapic)
{
    return atomic_load_explicit(&lapic->base, memory_order_relaxed);
}

static inline bool lapic_is_enabled(const struct lapic *lapic)
{
    return lapic_base(lapic) & APIC_BASE_ENABLE;
}

static inline bool lapic_is_x2apic(const struct lapic *lapic)
{
    return lapic_base(lapic) & APIC_BASE_EXTD;
}

static inline bool lapic_is_software_enabled(const struct lapic *lapic)
{
    return lapic_is_enabled(lapic) && (lapic_load(&lapic->svr) & SVR_ENABLE);
}

/* x2APIC's fixed logical ID (SDM 3A 11.12.10.2): cluster in the high half, one bit of 16 in the low
 * half. */
static inline uint32_t lapic_x2apic_ldr(uint32_t id)
{
    return (id >> 4) << 16 | 1u << (id & 15);
}

#endif
