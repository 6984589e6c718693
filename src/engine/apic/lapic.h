/*
 * The local APIC of one processor (SDM 3A chapter 11), xAPIC and x2APIC, in partitions whose APIC
 * is emulated (APIC_MODE_XAPIC, APIC_MODE_X2APIC; in APIC_MODE_NONE nobody creates one).
 *
 * Threads. A local APIC belongs to its processor: everything here is called on the thread that runs
 * the processor, or by one thread while it does not run. Interrupts come from any thread (other
 * processors' ICR, apic_bus_request, the timer thread) and only set bits that are atomic; then they
 * call `notify`.
 *
 * What the run loop has to do:
 *   - on notify (any thread): set REQUEST_INTERRUPT and wake the processor's thread.
 *   - at an instruction boundary with REQUEST_INTERRUPT seen, RFLAGS.IF = 1 and no shadow:
 *     lapic_pending() >= 0, then lapic_acknowledge() and deliver that vector. If IF = 0, ask again
 * when it becomes 1: notify comes once per interrupt (and again when TPR, EOI or state changes make
 * one deliverable).
 *   - on init/sipi/nmi/smi (any thread): remember it and wake. The processor's thread then calls
 * lapic_init_signal when it takes INIT. Whether a SIPI is heard (wait-for-SIPI) is the run loop's
 * to decide.
 */
#ifndef OWHP_ENGINE_SOFT_LAPIC_H
#define OWHP_ENGINE_SOFT_LAPIC_H

#include "core/config.h"
#include "core/exit.h"
#include "core/state.h"
#include "engine/engine.h"
#include "engine/apic/apic_bus.h"
#include "engine/apic/clock.h"
#include "engine/apic/timer.h"
#include "util/status.h"

struct lapic;

/* Called from any thread, also from inside calls made on the processor's own thread; they must not
 * call back into this APIC and should only take short locks. None may be NULL. */
struct lapic_callbacks {
    void (*notify)(void *context); /* an interrupt may be deliverable */
    void (*init)(void *context);
    void (*sipi)(void *context, uint8_t vector);
    void (*nmi)(void *context);
    void (*smi)(void *context);
};

/* How an access of the guest ended. */
enum lapic_result {
    LAPIC_DONE,      /* done; the instruction completes */
    LAPIC_DONE_EXIT, /* done, the instruction completes, and then *exit (reason and its union member
                        set) goes out: EXIT_APIC_EOI, EXIT_APIC_WRITE_TRAP,
                        EXIT_APIC_INIT_SIPI_TRAP, EXIT_APIC_SMI_TRAP */
    LAPIC_DONE_MOVED, /* done, and lapic_page() changed: cached translations to physical pages are
                         stale */
    LAPIC_GP,         /* nothing happened: #GP(0) */
    LAPIC_NOT_MINE,   /* not a register of the APIC: the caller handles it */
};

#define LAPIC_NO_PAGE NO_APIC_PAGE

/*
 * Create the APIC of processor `index` (its APIC ID) in RESET state and put it on the bus;
 * processor 0 is the bootstrap processor. `tsc` and `context` stay valid until lapic_destroy. NULL:
 * no memory (last error set).
 */
struct lapic *lapic_create(struct apic_bus *bus, uint32_t index, const struct tsc *tsc,
                           const struct lapic_callbacks *callbacks, void *context);
/* Off the bus; when it returns no callback runs or will run. NULL: nothing. */
void lapic_destroy(struct lapic *lapic);

void lapic_reset(struct lapic *lapic);       /* RESET: xAPIC mode, default base */
void lapic_init_signal(struct lapic *lapic); /* INIT: as RESET but mode, base and ID stay (SDM
                                                3A 11.4.7.3, 11.12.5.1) */

/* Extended exits in force (EXTENDED_EXIT_APIC_*); call at run entry. Cheap. */
void lapic_set_traps(struct lapic *lapic, uint64_t extended_exits);

/* ---- interrupts ---- */

/* Highest interrupt above the processor priority, or -1. A few loads. */
int lapic_pending(const struct lapic *lapic);
/* The processor takes it: IRR to ISR, PPR rises. The vector, or -1 when there is none any more.
 * (SDM 11.9: what TPR masks between the two calls cannot happen, both are on the processor's
 * thread.) */
int lapic_acknowledge(struct lapic *lapic);
/* An ExtINT (8259, given through PendingEvent) gets through: APIC disabled by hardware or by
 * software, or LINT0 unmasked with delivery mode ExtINT (virtual wire). */
bool lapic_accepts_extint(const struct lapic *lapic);
/* The highest requested vector whatever the priorities, or -1 (to decide about waking and for
 * reports). */
int lapic_requested(const struct lapic *lapic);

/* CR8: task priority class, 0..15. */
uint64_t lapic_cr8(const struct lapic *lapic);
void lapic_set_cr8(struct lapic *lapic, uint64_t value);

/* The guest has read or written CR8: an access to TPR. */
void lapic_count_tpr(struct lapic *lapic);

/* ---- guest accesses ---- */

/* IA32_APIC_BASE.EN: only then CPUID shows an APIC (SDM 3A 11.4.3). */
bool lapic_is_shown(const struct lapic *lapic);
/* Where the register page is now: page address, or LAPIC_NO_PAGE (disabled, or x2APIC mode). */
gpa_t lapic_page(const struct lapic *lapic);
/* Keep *page at lapic_page() from here on, for who asks from any thread; it stays valid until lapic_destroy. */
void lapic_publish_page(struct lapic *lapic, _Atomic uint64_t *page);
/* An access of 1..64 bytes inside the page. Reads of anything that is not within the first 4 bytes
 * of a register give zeros, writes that are not 4 aligned bytes do nothing (SDM 11.4.1.2 leaves
 * them undefined). */
void lapic_mmio_read(struct lapic *lapic, uint32_t offset, uint8_t size, void *data);
enum lapic_result lapic_mmio_write(struct lapic *lapic, uint32_t offset, uint8_t size,
                                   const void *data, struct vcpu_exit *exit);

/* RDMSR, WRMSR of IA32_APIC_BASE (0x1B), IA32_TSC_DEADLINE (0x6E0) and 0x800-0x8FF; others:
 * LAPIC_NOT_MINE. On LAPIC_GP *value is not touched. */
enum lapic_result lapic_msr_read(struct lapic *lapic, uint32_t index, uint64_t *value);
enum lapic_result lapic_msr_write(struct lapic *lapic, uint32_t index, uint64_t value,
                                  struct vcpu_exit *exit);

/* The processor's TSC was written: a TSC deadline moves. */
void lapic_tsc_changed(struct lapic *lapic);

/* ---- host accesses ---- */

/*
 * Register names VREG_APIC_BASE, VREG_INITIAL_APIC_ID, VREG_TSC_DEADLINE, VREG_CR8 and 0x3000 + n.
 * STATUS_INVALID_VP_REGISTER_NAME: not a register of the APIC. STATUS_HV_INVALID_PARAMETER: a name
 * that cannot be used now (ApicTpr when the partition's APIC is x2APIC: CR8 is the name to use; a
 * read-only register is set to another value). STATUS_HV_INVALID_REGISTER_VALUE: reserved bits, a
 * mode the partition does not have. ICR is stored without sending; EOI and SELF IPI act. LAPIC
 * state changes may move lapic_page().
 */
enum status lapic_get_register(struct lapic *lapic, uint32_t name, union vreg_value *value);
enum status lapic_set_register(struct lapic *lapic, uint32_t name, const union vreg_value *value);
/* What lapic_set_register would answer, changing nothing (batches are all or nothing). */
enum status lapic_check_register(const struct lapic *lapic, uint32_t name,
                                 const union vreg_value *value);

/*
 * State as a page of registers, register n at byte 16 * n (32 bits; ICR's high half at 0x310). The
 * ID and, in x2APIC mode, LDR are not taken from it. Bits that cannot be set are dropped.
 * IA32_APIC_BASE and IA32_TSC_DEADLINE are not part of it (set APIC_BASE first, the deadline
 * afterwards). Errors not yet shown in ESR are kept in bytes 4-7 of ESR's place, which hardware
 * leaves undefined.
 */
#define LAPIC_STATE_SIZE 4096u
void lapic_save(struct lapic *lapic, void *page);
void lapic_restore(struct lapic *lapic, const void *page);

/*
 * Everything, hidden state included, as it is at this moment of the partition's TSC, and back into an APIC of a partition
 * whose TSC stands there. lapic_check_state: could such an APIC exist here? The text says what could not.
 * STATUS_HV_INVALID_REGISTER_VALUE
 */
void lapic_save_state(struct lapic *lapic, struct apic_state *state);
enum status lapic_check_state(const struct lapic *lapic, const struct apic_state *state);
void lapic_load_state(struct lapic *lapic, const struct apic_state *state);

/* Fills the apic_* members; any thread, any time. */
void lapic_counters(const struct lapic *lapic, struct vcpu_counters *counters);

#endif
