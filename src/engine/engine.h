/*
 * The contract between the core and an engine. An engine runs virtual processors over a guest memory space;
 * `soft` and `kvm` implement this table and know nothing of each other or of the API.
 *
 * Threads: unless said otherwise a function that takes a vcpu is called by one thread at a time per vcpu, and
 * never while that vcpu runs (the core's state machine sees to it). kick and request_interrupt: any thread.
 * Every function that can fail leaves everything as it was when it fails.
 */
#ifndef OWHP_ENGINE_ENGINE_H
#define OWHP_ENGINE_ENGINE_H

#include "core/config.h"
#include "core/exit.h"
#include "core/state.h"
#include "mem/gpa_space.h"
#include "util/compiler.h"
#include "util/status.h"
#include "x86/memory/walk.h"

struct engine_partition; /* defined by each engine */
struct engine_vcpu;

/* As in WHV_INTERRUPT_CONTROL. */
struct interrupt_request {
    uint8_t type;        /* 0 fixed, 1 lowest priority, 4 NMI, 5 INIT, 6 SIPI, 9 LINT1 */
    bool is_logical;     /* destination mode */
    bool is_level;
    uint32_t destination;
    uint32_t vector;
};

/* Beyond every address width. */
#define NO_APIC_PAGE (~(uint64_t)0 & PAGE_MASK)

/* As OWHP_ENGINE_DIFFERENCES. */
enum engine_difference {
    DIFFERENCE_READS_MAY_BE_DIRTY = 1,
    DIFFERENCE_SPLIT_STORES = 2,
    DIFFERENCE_UNMAPPED_PAGE_TABLES = 4,
    DIFFERENCE_DEBUG_CHAINS = 8,
    DIFFERENCE_INTERPRETED = 16,
    DIFFERENCE_HOST_VENDOR = 32,
    DIFFERENCE_NO_MONITOR = 64,
    DIFFERENCE_NO_FLUSH_EXITS = 128,
};

/* What the engine can do, for WHvGetCapability (bits as in the API). */
struct engine_capabilities {
    uint64_t features, extended_exits, exception_exits, msr_exits;
    uint64_t processor_features[2], xsave_features;
    uint64_t features_on_request[2], xsave_on_request; /* of those: a partition has them only if its client asks */
    uint64_t differences; /* enum engine_difference */
    uint32_t vendor; /* 0 AMD, 1 Intel */
    uint8_t clflush_size_log2, physical_address_bits;
    uint64_t tsc_frequency, apic_frequency;
    uint32_t maximum_processors;
};

enum vcpu_counter_set { COUNTERS_RUNTIME, COUNTERS_INTERCEPTS, COUNTERS_EVENTS, COUNTERS_APIC, COUNTERS_SYNTHETIC };

/* WHV_PROCESSOR_ACTIVITY_COUNTERS order. */
enum { INTERCEPT_PAGE_INVALIDATION, INTERCEPT_CONTROL_REGISTER, INTERCEPT_IO, INTERCEPT_HALT, INTERCEPT_CPUID, INTERCEPT_MSR,
       INTERCEPT_OTHER, INTERCEPT_PENDING_INTERRUPT, INTERCEPT_EMULATED, INTERCEPT_DEBUG_REGISTER, INTERCEPT_PAGE_FAULT,
       INTERCEPT_NESTED_PAGE_FAULT, INTERCEPT_HYPERCALL, INTERCEPT_RDPMC, INTERCEPT_COUNT };

struct vcpu_counters {
    uint64_t runtime_100ns, hypervisor_100ns;
    struct { uint64_t count, time_100ns; } intercept[INTERCEPT_COUNT];
    uint64_t page_faults, exceptions, interrupts;
    uint64_t apic_mmio, apic_eoi, apic_tpr, apic_sent_ipi, apic_self_ipi;
};

/* One access of the instruction that the latest exit left unexecuted. */
struct memory_access {
    uint64_t gpa, gva, data;      /* data: write: what it stores; read: to be filled in */
    uint8_t type;                 /* 0 read, 1 write */
    uint8_t size;                 /* 1, 2, 4, 8 */
    uint64_t exit_rip, exit_gpa;  /* of the exit that the run returned */
};

struct engine {
    const char *name; /* "soft", "kvm" */
    bool copies_memory; /* processors reach mappings whose view has a source (mem/process_source.h) */

    /* Usable here? When not, `why` says what is missing (no device, no permission, capability by name).
     * STATUS_ACCESS_DENIED (not by this user), STATUS_UNSUPPORTED_HYPERVISOR_CONFIG */
    enum status (*usable)(char *why, size_t size);
    /* Worth choosing when nobody has asked for an engine? `why` says what was found, either way. */
    bool (*is_fast)(char *why, size_t size);
    void (*capabilities)(struct engine_capabilities *out);

    /* At set-up: config is final but for the run-time settable members and outlives the engine partition. */
    enum status (*partition_create)(const struct partition_config *config, struct gpa_space *space,
                                    struct engine_partition **out);
    void (*partition_destroy)(struct engine_partition *partition);       /* all vcpus are gone */
    enum status (*partition_reset)(struct engine_partition *partition);  /* no vcpu runs: all to reset state */
    void (*time_suspend)(struct engine_partition *partition);            /* freeze TSC and reference time */
    void (*time_resume)(struct engine_partition *partition);
    uint64_t (*reference_time)(struct engine_partition *partition);      /* 100 ns since the first run */
    enum status (*request_interrupt)(struct engine_partition *partition, const struct interrupt_request *request);
    /* Bit set of vcpu indexes (up to 64 per word, `words` words) an interrupt destination selects. */
    enum status (*interrupt_targets)(struct engine_partition *partition, uint64_t destination, bool is_logical,
                                     uint64_t *set, size_t words);

    enum status (*vcpu_create)(struct engine_partition *partition, uint32_t index, struct engine_vcpu **out);
    void (*vcpu_destroy)(struct engine_vcpu *vcpu);

    /* Run until an exit. Returns STATUS_OK with *exit filled, EXIT_CANCELED included: it returns that as soon as
     * it sees that kick() was called since run began; the core decides whether the cancel counts. */
    enum status (*run)(struct engine_vcpu *vcpu, struct vcpu_exit *exit);
    void (*kick)(struct engine_vcpu *vcpu); /* any thread; sticky until the run that it ends */
    void (*clear_kick)(struct engine_vcpu *vcpu);

    /* Unknown name: STATUS_INVALID_VP_REGISTER_NAME. set: all or nothing. get: on failure `values` is undefined. */
    enum status (*get_registers)(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, union vreg_value *values);
    enum status (*set_registers)(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, const union vreg_value *values);

    /*
     * Completing an exit's memory access. get_access: the one that is due. complete_access: it is done, with the data of a
     * read. *more: the instruction makes another access, which *access now is; else it is finished or, when something other
     * than memory keeps it (a fault, a port, RFLAGS.TF), the next run sees to that with what it was given.
     * STATUS_INVALID_ARGUMENT: none is due, or another one. STATUS_NOT_SUPPORTED: one without data. NULL functions: cannot.
     */
    enum status (*get_access)(struct engine_vcpu *vcpu, struct memory_access *access);
    enum status (*complete_access)(struct engine_vcpu *vcpu, struct memory_access *access, bool *more);

    /* State blobs; *written is the needed size when the buffer is too small (STATUS_INSUFFICIENT_BUFFER). */
    enum status (*get_xsave)(struct engine_vcpu *vcpu, void *buffer, uint32_t size, uint32_t *written);
    enum status (*set_xsave)(struct engine_vcpu *vcpu, const void *buffer, uint32_t size);
    enum status (*get_apic)(struct engine_vcpu *vcpu, void *buffer, uint32_t size, uint32_t *written);
    enum status (*set_apic)(struct engine_vcpu *vcpu, const void *buffer, uint32_t size);

    /*
     * The register page of the local APIC. publish: keep *page at its address (NO_APIC_PAGE: there is none now) while the
     * processor lives. access: `size` bytes from `offset` of it, as the processor's own loads and stores do it, in pieces that
     * end where a register's 16 bytes end. accepts_write: false while an exit that such a write has made waits for the next
     * run. NULL functions: no local APICs.
     */
    void (*apic_publish)(struct engine_vcpu *vcpu, _Atomic uint64_t *page);
    bool (*apic_accepts_write)(const struct engine_vcpu *vcpu);
    void (*apic_access)(struct engine_vcpu *vcpu, uint32_t offset, uint32_t size, uint8_t *data, bool is_write);

    /*
     * Snapshots (core/state.h); no processor of the partition runs, no interrupt comes from outside. save_time: the time as it
     * is now. load_time: it stands there until time_resume or a run; before the processors' states are loaded. save_vcpu
     * forgets what a processor has cached (translations), as load_vcpu does: what runs on from either is the same.
     * check_vcpu: could such a processor be here? STATUS_HV_INVALID_REGISTER_VALUE, STATUS_INVALID_ARGUMENT. load_vcpu: a
     * state that save_vcpu made, or that passed the check; it can only fail before it changes anything. NULL functions: no
     * snapshots.
     */
    void (*save_time)(struct engine_partition *partition, struct time_state *state);
    void (*load_time)(struct engine_partition *partition, const struct time_state *state);
    enum status (*save_vcpu)(struct engine_vcpu *vcpu, struct vcpu_state *state);
    enum status (*check_vcpu)(struct engine_vcpu *vcpu, const struct vcpu_state *state);
    enum status (*load_vcpu)(struct engine_vcpu *vcpu, const struct vcpu_state *state);

    enum status (*cpuid)(struct engine_vcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
    void (*walk_state)(struct engine_vcpu *vcpu, struct walk_state *state, uint8_t *cpl); /* for translation */
    void (*counters)(struct engine_vcpu *vcpu, struct vcpu_counters *out); /* any time, any thread */
};

extern const struct engine engine_soft, engine_kvm;

#endif
