/*
 * All there is to a processor between two instructions, and to a partition's time, as numbers: what a snapshot keeps and what
 * its file holds. Engine-neutral: no pointers, no host addresses, nothing that follows from something else in here.
 *
 * The layout is that of the file (core/snapshot_file.h): members of fixed width at fixed places, little endian, no holes.
 * Changing it means a new STATE_VERSION.
 */
#ifndef OWHP_CORE_STATE_H
#define OWHP_CORE_STATE_H

#include <stddef.h>

#include "util/types.h"

enum { STATE_VERSION = 2 };

struct segment_state {
    uint64_t base;
    uint32_t limit; /* bytes */
    uint16_t selector, attributes;
};

/* An event that waits to be delivered (PendingInterruption). */
struct event_state {
    uint8_t is_pending, type; /* EVENT_STATE_* */
    uint8_t vector, has_error;
    uint32_t error;
    uint8_t instruction_length, is_detect; /* #DB of DR7.GD */
    uint8_t reserved[6];
};

enum {
    EVENT_STATE_EXTERNAL,
    EVENT_STATE_NMI,
    EVENT_STATE_EXCEPTION,
    EVENT_STATE_SOFTWARE,
    EVENT_STATE_SOFT_EXCEPTION,
    EVENT_STATE_ICEBP,
    EVENT_STATE_COUNT,
};

/* The local APIC: registers as software sees them, the timer as what it will do. Times are ticks of the partition's TSC. */
struct apic_state {
    uint64_t base; /* IA32_APIC_BASE */
    uint64_t irr[4], tmr[4], isr[4];
    uint64_t icr;
    uint32_t svr, ldr, dfr, tpr, esr, errors; /* errors: not yet shown in ESR */
    uint32_t lvt[6];
    uint32_t timer_initial, timer_divide;
    uint64_t timer_start;    /* when the count was, or would have been, the initial count */
    uint64_t timer_due;      /* when the next interrupt comes, if timer_armed */
    uint64_t timer_deadline; /* IA32_TSC_DEADLINE: ticks of the processor's TSC; 0: none */
    uint8_t timer_running, timer_armed;
    uint8_t reserved[6];
};

/* An instruction whose memory accesses are being completed one by one: the answers it was given. */
enum { COMPLETION_STATE_ANSWERS = 512 };

struct answer_state {
    uint64_t gpa, data;
    uint8_t size, type;
    uint8_t reserved[6];
};

struct completion_state {
    uint8_t due;                   /* 0 nothing, 1 an access, 2 one that cannot be completed */
    uint8_t type, size, at, piece; /* of the access that is due: bytes in all, done, asked for now */
    uint8_t reserved[3];
    uint64_t gpa, gva, exit_rip, exit_gpa;
    uint8_t data[64];
    uint64_t rip, rcx, rsi, rdi; /* what the answers belong to */
    uint32_t count, reserved2;
    struct answer_state answers[COMPLETION_STATE_ANSWERS]; /* only `count` of them mean something */
};

/* An exit that follows an instruction which is complete: it is the first thing that happens in the next run. */
struct trailing_exit_state {
    uint32_t reason; /* enum exit_reason; 0: none */
    uint32_t type;   /* of a register write */
    uint64_t value;  /* vector, ICR, register value */
};

enum {
    VCPU_STATE_NMI = 1u << 0, /* arrived, not yet taken */
    VCPU_STATE_INIT = 1u << 1,
    VCPU_STATE_SIPI = 1u << 2,
    VCPU_STATE_PENDING_ALL = 7,
};

struct vcpu_state {
    uint64_t gpr[16]; /* RAX RCX RDX RBX RSP RBP RSI RDI R8..R15 */
    uint64_t rip, rflags;
    struct segment_state segment[8]; /* ES CS SS DS FS GS LDTR TR */
    uint64_t gdtr_base, idtr_base;
    uint64_t gdtr_limit, idtr_limit;
    uint64_t cr0, cr2, cr3, cr4, cr8, xcr0;
    uint64_t pdpte[4]; /* PAE paging */
    uint64_t dr[4], dr6, dr7;
    uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_aux, misc_enable, spec_ctrl, xss, mcg_status, pkru, pkrs;
    uint64_t mtrr_def_type, mtrr_base[16], mtrr_mask[16], mtrr_fixed[11];
    uint64_t tsc_offset; /* to the partition's TSC */
    uint64_t tsc_adjust;
    uint8_t x87[160]; /* the head of an FXSAVE64 image; MXCSR is below */
    uint64_t vector[16][4];
    uint32_t mxcsr;

    uint8_t cpl, interrupt_shadow, nmi_masked;
    uint8_t halted, wait_for_sipi;
    uint8_t is_unchecked; /* registers were set from outside and not yet looked at */
    uint8_t has_apic;
    uint8_t debug_shadow; /* of MOV SS: no debug exception before the next instruction is done */
    uint32_t pending; /* VCPU_STATE_* */
    uint32_t sipi_vector, reserved2;
    struct event_state interruption;
    uint64_t pending_event[2]; /* PendingEvent and DeliverabilityNotifications as the API has them */
    uint64_t notifications;
    uint64_t pending_debug; /* debug traps that are due: bits of DR6 */
    /* Those that are due when the client has finished the last exit's instruction: bits of DR6; and where it is. */
    uint64_t unfinished_hits, unfinished_rip, unfinished_next_rip, unfinished_rcx;
    uint64_t debug_control;
    struct trailing_exit_state trailing_exit;
    struct apic_state apic; /* zero without an APIC */
    struct completion_state completion;
};

struct time_state {
    uint64_t tsc;   /* the partition's */
    uint64_t epoch; /* of it, when the reference time began */
    uint64_t started; /* 0: it has not */
};

_Static_assert(sizeof(struct apic_state) == 200, "no holes");
_Static_assert(sizeof(struct completion_state) == 144 + 24 * COMPLETION_STATE_ANSWERS, "no holes");
_Static_assert(sizeof(struct vcpu_state) == offsetof(struct vcpu_state, completion) + sizeof(struct completion_state) &&
                   offsetof(struct vcpu_state, interruption) == offsetof(struct vcpu_state, mxcsr) + 24,
               "no holes");

#endif
