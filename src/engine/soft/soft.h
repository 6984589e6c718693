/*
 * Inside the soft engine: what its files share.
 *
 *   engine_soft.c    the engine table, partitions
 *   soft_vcpu.c      processors: create, reset, kick, sleep
 *   soft_hold.c      safe points: the change protocol of mem/gpa_space.h, exclusive access
 *   soft_code.c      who has decoded what memory, and hears of stores to it
 *   soft_run.c       the run loop: requests, events, leaving
 *   soft_copied.c    memory of another process, which is reached by copying
 *   soft_monitor.c   MONITOR and MWAIT
 *   soft_doorbell.c  stores that signal an event
 *   soft_port.c      the processor's port: memory, I/O, MSRs, CPUID
 *   soft_exit.c      filling exits
 *   soft_completion.c finishing the instruction of a memory exit, access by access
 *   soft_registers.c registers from and to the API's names
 *   soft_pending.c   the registers of events that wait
 *   soft_state.c     XSAVE and APIC state
 *   soft_snapshot.c  all state, for snapshots
 */
#ifndef OWHP_ENGINE_SOFT_H
#define OWHP_ENGINE_SOFT_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/apic/apic_bus.h"
#include "engine/apic/clock.h"
#include "engine/apic/lapic.h"
#include "engine/apic/timer.h"
#include "engine/engine.h"
#include "engine/soft/completion.h"
#include "engine/soft/counters.h"
#include "x86/cpu.h"
#include "x86/port.h"
#include "x86/system/cpuid.h"
#include "x86/system/event.h"

enum { SOFT_MAXIMUM_PROCESSORS = 64 };
/* Counters of code pages, by the number of the host's page modulo this; shared slots only cost slow stores. */
enum { CODE_SLOTS = 1 << 20 };

/*
 * What runs guest code when it is not the interpreter (engine/kvm). On the processor's thread, inside, but for interrupt().
 */
struct executor {
    enum cpu_leave (*run)(struct engine_vcpu *vcpu, struct event *event);  /* in place of cpu_run */
    void (*interrupt)(struct engine_vcpu *vcpu);                           /* any thread: cpu->request has work, come back */
    void (*memory_changed)(struct engine_partition *partition, const struct gpa_change *change); /* all processors are held */
    void (*limit_cpuid)(struct cpuid_config *config);                      /* a new processor: take away what cannot be had */
};

struct engine_partition {
    const struct executor *executor; /* NULL: the interpreter */
    struct kvm_partition *kvm;       /* the executor's own */
    const struct partition_config *config;
    struct gpa_space *space;
    struct gpa_listener listener;
    struct clock clock;
    struct timer_queue *timers;
    struct apic_bus *bus;
    pthread_rwlock_t members;    /* readers look at vcpus; a processor is taken out under the write lock, before it is freed */
    struct engine_vcpu *vcpus[SOFT_MAXIMUM_PROCESSORS];
    uint64_t members_set;        /* bit i: vcpus[i] is there */
    _Atomic uint8_t *code_users; /* CODE_SLOTS counters of pages with decoded code: soft_code.c */

    /* Safe points (soft_hold.c). */
    pthread_mutex_t lock;
    pthread_cond_t changed;      /* a processor came to a safe point, or the hold ended */
    _Atomic uint32_t holds;      /* processors must stay at safe points while this is not 0 */
    _Atomic uint32_t waiting;    /* processors that wait for that */
    pthread_mutex_t exclusive;

    /* soft_monitor.c: by processor, place | 1 or 0. */
    _Atomic uint32_t monitors;                              /* how many pages */
    _Atomic uint64_t monitor_page[SOFT_MAXIMUM_PROCESSORS]; /* stores to it are noticed */
    _Atomic uint64_t monitor_line[SOFT_MAXIMUM_PROCESSORS]; /* armed; 0 as soon as somebody has stored there */
};

_Static_assert(SOFT_MAXIMUM_PROCESSORS <= 64, "a word has a bit for each");

/* The first processor of a set that begins as members_set, which loses it; NULL: it is empty. Under `members`. */
static inline struct engine_vcpu *soft_next_member(const struct engine_partition *p, uint64_t *set)
{
    struct engine_vcpu *vcpu = *set ? p->vcpus[__builtin_ctzll(*set)] : NULL;

    *set &= *set - 1;
    return vcpu;
}

/* Copies of code pages. */
struct copied_page;
struct copied_code {
    struct copied_page **buckets; /* NULL: never had one */
    size_t count;
};

/* Work queued for a processor by others: bits of engine_vcpu.pending. */
enum {
    PENDING_DROP_MEMORY = 1u << 0, /* forget all host addresses */
    PENDING_DROP_WRITES = 1u << 1, /* forget permission to write */
    PENDING_VERIFY_CODE = 1u << 2, /* somebody stored into code pages */
    PENDING_NMI = 1u << 3,
    PENDING_INIT = 1u << 4,
    PENDING_SIPI = 1u << 5,
};

/* What waits to be injected, as the API's registers describe it. */
struct pending_interruption {
    bool is_pending;
    struct event event;
    uint8_t instruction_length;
};

/* MONITOR and MWAIT: soft_monitor.c. The processor's thread's, but for what the partition has of it. */
struct monitor {
    gpa_t wanted;    /* MONITOR was executed: this line is to be watched, | 1; 0: none */
    gpa_t line;      /* the one that was armed last */
    bool is_waiting; /* in MWAIT */
    bool breaks_on_masked;
    uint8_t look_ms; /* when the line was last looked at, in this wait */
    uint8_t bytes[64]; /* of the line, when it was armed */
};

/*
 * An exit's instruction that breakpoints would have trapped behind, had it not exited: of its port, of the memory it exits for.
 * The client carries it out, and the processor cannot see how; but when it runs on behind the instruction (of a repeated
 * one: there, and RCX has changed), the instruction is done, and the trap is due. Zero but between such an exit and the next run.
 */
struct unfinished {
    uint64_t rip, next_rip, rcx;
    uint64_t hits; /* bits of DR6 */
};

struct engine_vcpu {
    struct engine_partition *partition;
    struct kvm_vcpu *kvm; /* the executor's own */
    uint32_t index;
    struct cpu *cpu;
    struct lapic *lapic; /* NULL: APIC_MODE_NONE */
    struct tsc tsc;

    _Atomic uint32_t pending;
    _Atomic uint32_t sipi_vector;
    _Atomic bool inside;   /* may touch guest memory: not at a safe point */
    _Atomic bool kicked;
    _Atomic bool sleeping;
    pthread_mutex_t sleep_lock;
    pthread_cond_t wake;

    bool halted, wait_for_sipi;
    struct monitor monitor;
    struct unfinished unfinished;
    bool control_unchecked; /* registers were set from outside: do they fit together? */
    uint8_t segments_unchecked; /* by SEG_*: these were set from outside */
    bool exit_pending;     /* `exit` was filled by an instruction that completed */
    struct vcpu_exit *exit;
    struct vcpu_exit stored_exit;
    struct pending_interruption interruption;
    union vreg_value pending_event; /* PendingEvent: exception or ExtInt */
    uint64_t notifications;         /* DeliverabilityNotifications */
    struct gpa_view view, other_view; /* the mappings or holes looked up last; .. before */
    struct copied_code copied;      /* soft_copied.c */
    struct counters counters;
    uint64_t runs;
    struct completion completion;
};

extern const struct cpu_port soft_port;
extern const struct lapic_callbacks soft_lapic_callbacks;

/* engine_soft.c: what the table of another engine on this machine takes over */
void soft_time_suspend(struct engine_partition *partition);
void soft_time_resume(struct engine_partition *partition);
uint64_t soft_reference_time(struct engine_partition *partition);
enum status soft_request_interrupt(struct engine_partition *partition, const struct interrupt_request *request);
enum status soft_interrupt_targets(struct engine_partition *partition, uint64_t destination, bool is_logical, uint64_t *set,
                                   size_t words);
enum status soft_vcpu_cpuid(struct engine_vcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
void soft_vcpu_walk_state(struct engine_vcpu *vcpu, struct walk_state *state, uint8_t *cpl);
void soft_vcpu_counters(struct engine_vcpu *vcpu, struct vcpu_counters *out);

/* soft_vcpu.c */
void soft_vcpu_interrupt(struct engine_vcpu *vcpu); /* any thread: cpu->request has work that cannot wait */
/* Queue work for all processors but `except` (may be NULL). Any thread. */
void soft_pend_all(struct engine_partition *partition, const struct engine_vcpu *except, uint32_t pending, uint32_t request);
enum status soft_vcpu_create(struct engine_partition *partition, uint32_t index, struct engine_vcpu **out);
void soft_vcpu_destroy(struct engine_vcpu *vcpu);
void soft_vcpu_reset(struct engine_vcpu *vcpu);
void soft_vcpu_request(struct engine_vcpu *vcpu, uint32_t request); /* any thread: set and wake */
void soft_vcpu_pend(struct engine_vcpu *vcpu, uint32_t pending, uint32_t request);
void soft_vcpu_sleep(struct engine_vcpu *vcpu, unsigned most_ms); /* 0: as long as it takes */
void soft_kick(struct engine_vcpu *vcpu);
void soft_clear_kick(struct engine_vcpu *vcpu);

/* soft_hold.c */
void soft_hold(void *partition);
void soft_release(void *partition, const struct gpa_change *change);
void soft_enter(struct engine_vcpu *vcpu);  /* from a safe point into the guest; waits while held */
void soft_leave(struct engine_vcpu *vcpu);  /* to a safe point */
void soft_do_pending_memory(struct engine_vcpu *vcpu, uint32_t pending);
/* Around a change that makes stores to some page noticeable: no other processor has a write tag from before it afterwards. Only
 * at a boundary: this processor comes to a safe point, too. */
void soft_write_tags_begin(struct engine_vcpu *vcpu);
void soft_write_tags_end(struct engine_vcpu *vcpu);
bool soft_exclusive_begin(struct cpu *cpu);
void soft_exclusive_end(struct cpu *cpu);

/* soft_code.c. Places are gpa_view_place's; any byte of the page. */
void soft_code_page(struct cpu *cpu, const uint8_t *host); /* of the port, and the next two */
void soft_code_page_dropped(struct cpu *cpu, const uint8_t *host);
void soft_code_written(struct cpu *cpu, const uint8_t *host, uint64_t size);
void soft_wrote(void *partition, uint64_t place, uint64_t size); /* of the listener */
bool soft_is_code(const struct engine_partition *partition, uint64_t place);
void soft_code_count(struct engine_partition *partition, uint64_t place);
void soft_code_uncount(struct engine_partition *partition, uint64_t place);
/* The processor stored there, within a page of which it has counted `own`: tell the others. */
void soft_code_stored(struct engine_vcpu *vcpu, uint64_t place, uint64_t size, unsigned own);

/* soft_monitor.c */
void soft_monitor_executed(struct cpu *cpu, gpa_t gpa); /* of the port: MONITOR */
void soft_monitor_wait(struct cpu *cpu, bool masked);   /* MWAIT */
void soft_monitor_arm(struct engine_vcpu *vcpu);        /* at the boundary behind MONITOR */
bool soft_monitor_waits(struct engine_vcpu *vcpu);      /* in MWAIT: is there nothing yet that ends it? */
unsigned soft_monitor_look_ms(struct engine_vcpu *vcpu); /* how long to sleep before the next such look; 0: not in MWAIT */
void soft_monitor_forget(struct engine_vcpu *vcpu);     /* disarm, and nothing waits; its thread, or nobody runs it */
bool soft_monitor_is_page(const struct engine_partition *partition, uint64_t place); /* of a page */
/* Somebody has stored: any thread, after the store. `writer`: a processor, which does not wake itself; NULL: another. */
void soft_monitor_wrote(struct engine_partition *partition, const struct engine_vcpu *writer, uint64_t place, uint64_t size);
void soft_monitor_remapped(struct engine_partition *partition); /* the mappings have changed; processors are held */

/* soft_port.c: look the address up in vcpu->view; false: nothing is mapped there. */
bool soft_find_view(struct engine_vcpu *vcpu, gpa_t gpa);

/* soft_doorbell.c: does this write, to where nothing is mapped, ring one? Then it is done. */
bool soft_rings_doorbell(struct engine_vcpu *vcpu, const struct port_access *access);

/* soft_copied.c: of pages whose view has a source. On the processor's thread, inside. */
bool soft_copied_code(struct engine_vcpu *vcpu, gpa_t page, struct port_page *out);
bool soft_copied_access(struct engine_vcpu *vcpu, const struct port_access *access);
bool soft_copied_serves(struct engine_vcpu *vcpu, gpa_t page, enum access_type type);
void soft_copied_refresh(struct engine_vcpu *vcpu); /* the code may have changed over there */
void soft_copied_forget(struct engine_vcpu *vcpu);  /* the processor has no pointer to the copies */

/* soft_run.c */
enum status soft_run(struct engine_vcpu *vcpu, struct vcpu_exit *exit);
void soft_memory_work(struct engine_vcpu *vcpu); /* what others have queued: after soft_enter, before the guest runs */

/* soft_exit.c: each fills vcpu->exit */
void soft_exit_state(struct engine_vcpu *vcpu, struct vcpu_exit *exit);
struct vcpu_exit *soft_exit_begin(struct engine_vcpu *vcpu, enum exit_reason reason, bool with_length);
/* An exit of an instruction that completes: it goes out at the next boundary. */
void soft_exit_after(struct engine_vcpu *vcpu, const struct vcpu_exit *exit);

/* soft_registers.c */
enum status soft_get_registers(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, union vreg_value *values);
enum status soft_set_registers(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, const union vreg_value *values);

/* soft_pending.c: false: not one of its registers. A value that is refused: *status, and nothing is changed. */
bool soft_get_event(const struct engine_vcpu *vcpu, uint32_t name, union vreg_value *v);
bool soft_set_event(struct engine_vcpu *vcpu, uint32_t name, const union vreg_value *v, enum status *status);

/* soft_state.c */
enum status soft_get_xsave(struct engine_vcpu *vcpu, void *buffer, uint32_t size, uint32_t *written);
enum status soft_set_xsave(struct engine_vcpu *vcpu, const void *buffer, uint32_t size);
enum status soft_get_apic(struct engine_vcpu *vcpu, void *buffer, uint32_t size, uint32_t *written);
enum status soft_set_apic(struct engine_vcpu *vcpu, const void *buffer, uint32_t size);
void soft_apic_publish(struct engine_vcpu *vcpu, _Atomic uint64_t *page);
bool soft_apic_accepts_write(const struct engine_vcpu *vcpu);
void soft_apic_access(struct engine_vcpu *vcpu, uint32_t offset, uint32_t size, uint8_t *data, bool is_write);
void soft_counters(struct engine_vcpu *vcpu, struct vcpu_counters *out);
uint64_t soft_runtime_100ns(const struct engine_vcpu *vcpu);

/* soft_snapshot.c: of the engine table */
void soft_save_time(struct engine_partition *partition, struct time_state *state);
void soft_load_time(struct engine_partition *partition, const struct time_state *state);
enum status soft_save_vcpu(struct engine_vcpu *vcpu, struct vcpu_state *state);
enum status soft_check_vcpu(struct engine_vcpu *vcpu, const struct vcpu_state *state);
enum status soft_load_vcpu(struct engine_vcpu *vcpu, const struct vcpu_state *state);

/* soft_port.c: does the client want to see this exception? Then *vcpu->exit is filled. */
bool soft_exception_exit(struct engine_vcpu *vcpu, const struct cpu_fault *fault);
/* What the partition's CPUID results make of an answer. */
void soft_override_cpuid(const struct engine_vcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
/* The answer the guest gets, overrides included. */
void soft_cpuid(struct engine_vcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);

static inline struct engine_vcpu *vcpu_of(const struct cpu *cpu)
{
    return cpu->port_context;
}

#endif
