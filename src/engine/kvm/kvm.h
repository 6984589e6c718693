/*
 * Inside the kvm engine: what its files share.
 *
 * The engine is the machine of engine/soft (registers by name, events, local APICs, time, exits, completion) in which KVM
 * takes the interpreter's place. KVM runs guest code; whatever it cannot do as the API promises is done by the software
 * processor, one instruction at a time, on the state that KVM left. So both engines give the same answers by construction.
 *
 *   engine_kvm.c     the engine table: partitions and processors are the machine's, with a virtual machine beside them
 *   kvm_host.c       /dev/kvm: is it usable, and is it fast
 *   kvm_cpuid.c      which features a guest may have, and what CPUID says
 *   kvm_slots.c      memory slots mirror the guest memory space
 *   kvm_dirty.c      which pages KVM saw written
 *   kvm_state.c      registers between the processor and KVM
 *   kvm_msr.c        model-specific registers: which of them KVM serves
 *   kvm_run.c        running, and what each of KVM's exits means
 *   kvm_half_done.c  accesses that KVM began and has not finished
 *   kvm_forget.c     finishing such an access so that nothing has happened
 *   kvm_go_back.c    from behind an instruction to its start
 *   kvm_plain.c      instructions that are one access and one register
 */
#ifndef OWHP_ENGINE_KVM_H
#define OWHP_ENGINE_KVM_H

#include <linux/kvm.h>
#include <string.h>

#include "engine/soft/soft.h"
#include "x86/code/decode.h"

/* Are these bytes the same? `size` is known here and a multiple of 8: no call, no branch until the end. */
static always_inline bool kvm_same(const void *a, const void *b, size_t size)
{
    uint64_t x, y, different = 0;

    for (size_t at = 0; at < size; at += 8) {
        memcpy(&x, (const char *)a + at, 8);
        memcpy(&y, (const char *)b + at, 8);
        different |= x ^ y;
    }
    return !different;
}

/* ---- the host (kvm_host.c) ---- */

/* /dev/kvm opened and all that we need there. -1: `why` (at least 128 bytes) says what is missing. */
int kvm_open(char *why, size_t size);
/* After -1, at once: STATUS_ACCESS_DENIED or STATUS_UNSUPPORTED_HYPERVISOR_CONFIG. */
enum status kvm_open_status(void);
enum status kvm_usable(char *why, size_t size);
/* Does guest code run on the hardware? Measured once; `why` (at least 128 bytes) says what was found. */
bool kvm_is_fast(char *why, size_t size);
/* ioctl, again when a signal interrupts it. */
int kvm_call(int fd, unsigned long request, void *argument);

/* ---- what its processors have (kvm_cpuid.c) ---- */

/* Takes away the features that guests cannot have here. */
void kvm_cpuid_limit(struct cpuid_config *config);
/* Bits of guest physical addresses, at most `most`. */
uint8_t kvm_address_bits(uint8_t most);
/* Before the first run. False: KVM refuses it, or there are more leaves than it takes. */
bool kvm_cpuid_set(struct engine_vcpu *vcpu);

/* ---- a virtual machine ---- */

struct kvm_slot {
    gpa_t gpa;
    uint64_t size;
    uint8_t *host;
    uint32_t id, flags; /* KVM_MEM_* */
};

struct kvm_partition {
    int device, vm;
    size_t run_size;
    uint32_t ring_size;          /* bytes of a dirty ring; 0: no rings (kvm_dirty.c) */
    struct kvm_slot *slots;      /* by address */
    size_t slot_count, slot_room;
    uint8_t *wall;               /* host memory without access (kvm_slots.c); NULL: none */
    uint32_t *free_ids;          /* ids below next_id that are not in use */
    size_t free_count, free_room;
    uint32_t next_id, id_limit;
    bool has_tsc_offset;
    bool interprets;             /* no hardware underneath */
    bool clears_log;             /* reading the log does not clear it (kvm_dirty.c) */
    _Atomic bool was_entered;    /* since the log was collected */
    uint64_t *bitmap;            /* of the log; whoever holds all processors */
    uint64_t bitmap_room;        /* words */
    /* File descriptors of processors that were deleted: KVM cannot make them anew. -1: none. */
    int parked[SOFT_MAXIMUM_PROCESSORS];
};

/* Of the processor, what struct kvm_sregs tells of. */
struct kvm_control {
    struct segment segment[SEG_COUNT];
    struct table_register gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, efer, shows_apic;
};

/* What a processor's KVM side holds, so that only what differs is handed over. */
struct kvm_mirror {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_control control; /* what `sregs` was made from, or became */
    struct kvm_xsave xsave;
    struct kvm_debugregs debug;
    uint64_t xcr0, tsc_offset;
    uint64_t msr[16];
    uint8_t shadow;    /* KVM_X86_SHADOW_* */
    bool nmi_masked;
    bool valid;        /* regs, sregs, shadow and NMI masking are as KVM has them */
    bool rest_valid;   /* and so is the rest */
    bool tsc_valid;
};

/* What KVM reported of an access. */
struct effect {
    bool is_port, is_store;
    gpa_t gpa;
    uint16_t port;
    uint8_t size;
    uint8_t data[8];
};

/* A MOV, MOVZX, IN or OUT that makes one access (kvm_plain.c). */
struct kvm_plain {
    uint64_t reported;         /* RIP, as KVM reported it with the access */
    uint64_t rip;
    uint32_t mode;
    uint8_t length;            /* 0: none is known */
    bool is_port, is_store;
    uint8_t size;              /* of the access */
    uint8_t reg, reg_size;     /* general register that it loads or stores; NO_REGISTER */
    uint64_t word[2], mask[2]; /* its bytes, and which bits of the words are theirs */
    struct insn insn;
};
#define NO_REGISTER 255
enum { PLAIN_KNOWN = 16 };     /* by the RIP reported; a power of two */

/* Such an instruction that KVM has begun and keeps pending. */
struct kvm_open {
    bool is_open;
    const struct kvm_plain *plain;
    struct effect effect;
    uint64_t behind;        /* RIP after it */
    struct kvm_regs before; /* as KVM reported them */
};

struct kvm_vcpu {
    int fd;
    struct kvm_run *run;
    struct kvm_dirty_gfn *ring; /* NULL: none */
    uint32_t ring_entries, ring_next, ring_given_back;
    struct kvm_mirror mirror;
    struct kvm_open open;
    struct kvm_plain known[PLAIN_KNOWN];
    bool whole;             /* the processor's registers are complete: nothing newer is in KVM */
    bool lost;              /* the run is to fail: they could not be completed */
    bool half_done;         /* and then: in the middle of an access, to be looked at again by the next run */
    _Atomic bool in_kvm;
    _Atomic int thread;     /* the kernel's id of the thread that runs it */
};

/* ---- kvm_slots.c: all processors are held ---- */

void kvm_slots_init(struct kvm_partition *kvm);
void kvm_slots_fini(struct kvm_partition *kvm);
void kvm_memory_changed(struct engine_partition *partition, const struct gpa_change *change);
/* On the processor's thread, inside: is there memory for KVM where the processor has moved its local APIC to? */
bool kvm_apic_is_hidden(const struct engine_vcpu *vcpu);

/* ---- kvm_dirty.c ---- */

/* On the processor's thread, inside: mark what KVM has recorded in its ring. */
void kvm_ring_drain(struct engine_vcpu *vcpu);
/* Before KVM_RUN: there may be something in the log. (soft_leave makes it seen.) */
static inline void kvm_log_grows(const struct engine_vcpu *vcpu)
{
    atomic_store_explicit(&vcpu->partition->kvm->was_entered, true, memory_order_relaxed);
}
/* All processors are held: mark what KVM's log has recorded of any of them. */
void kvm_log_collect(struct engine_partition *partition);
/* All processors are held, or it is for room: stores to pages that were marked are to be recorded again. */
void kvm_dirty_cleared(struct engine_partition *partition);

/* ---- kvm_state.c ---- */

/* After a run: general, segment and control registers into the processor; an event that KVM was delivering becomes pending. */
void kvm_state_pull(struct engine_vcpu *vcpu);
/* The rest too: vector registers, MSRs, debug registers. False: KVM does not give them (for lack of memory); try again. */
bool kvm_state_complete(struct engine_vcpu *vcpu);
/* Before a run. False: KVM refuses the state. */
bool kvm_state_push(struct engine_vcpu *vcpu);
/* After a run: has KVM reported registers? When it fails before it has done anything, those of the run before are still there. */
bool kvm_state_is_new(const struct engine_vcpu *vcpu);

/* ---- kvm_msr.c: of a whole state ---- */

bool kvm_msrs_pull(struct engine_vcpu *vcpu);
bool kvm_msrs_push(struct engine_vcpu *vcpu);
/* Before the first processor. */
bool kvm_msrs_set_filter(const struct engine_partition *partition);

/* ---- kvm_half_done.c ---- */

/*
 * KVM has come back in the middle of an access to `run->mmio` or `run->io`. True: the processor is as before the instruction, and
 * KVM has forgotten it or keeps it pending (open). False: the instruction was not found; or, if half_done is set, there was no
 * memory to find it with, and everything is as KVM left it.
 */
bool kvm_half_done(struct engine_vcpu *vcpu);

/* Something is open: may KVM finish it and then have these registers? True: it is prepared, the next KVM_RUN does it. */
bool kvm_open_settle(struct engine_vcpu *vcpu, const struct kvm_regs *wanted);
/*
 * Serve what is open. LEAVE_EXIT: it is the client's. LEAVE_NONE: it is done, KVM is to finish it. LEAVE_FAULT: neither; the
 * software processor runs the instruction.
 */
enum cpu_leave kvm_open_serve(struct engine_vcpu *vcpu);
/* KVM is to forget what is open, if anything. The registers in KVM are then to be handed over. */
void kvm_open_forget(struct engine_vcpu *vcpu);

/* ---- kvm_forget.c ---- */

/* KVM finishes what is pending, if anything, and memory is as it was before. The registers in KVM are then to be handed over. */
void kvm_forget(struct engine_vcpu *vcpu);

/* ---- kvm_go_back.c ---- */

/* The processor is behind an instruction that made this store or OUT. True: it is before it now. False: it was not found. */
bool kvm_go_back(struct engine_vcpu *vcpu, const struct effect *wanted);

/* ---- kvm_plain.c ---- */

/* RIP as it wraps in the processor's mode. */
uint64_t kvm_rip_within(const struct cpu *cpu, uint64_t rip);
/* The instruction at RIP. */
bool kvm_decode_here(struct cpu *cpu, struct decoded *d);

/* Is it a plain one? All but the RIPs are filled in. */
bool kvm_plain_find(struct cpu *cpu, struct kvm_plain *plain);
/* Is it still what is at RIP, in this mode? */
bool kvm_plain_is_here(struct cpu *cpu, const struct kvm_plain *plain);
/* Does it make the access that was reported? */
bool kvm_plain_fits(const struct cpu *cpu, const struct kvm_plain *plain, const struct effect *effect);
/* Where in the address space it accesses `gpa`. False: it does not. */
bool kvm_plain_address(struct cpu *cpu, const struct kvm_plain *plain, gpa_t gpa, gva_t *linear);
/* Into its register goes what was loaded. */
void kvm_plain_load(struct cpu *cpu, const struct kvm_plain *plain, uint64_t data);
uint64_t *kvm_plain_destination(const struct kvm_plain *plain, struct kvm_regs *regs);
/* Could it have left this value in its register, and by loading what? */
bool kvm_plain_could_load(const struct kvm_plain *plain, uint64_t before, uint64_t value, uint64_t *data);

/* ---- kvm_run.c ---- */

enum cpu_leave kvm_execute(struct engine_vcpu *vcpu, struct event *event);
/* soft_run(); STATUS_NO_MEMORY: KVM had none. The processor is where it was, and may run again. */
enum status kvm_run_vcpu(struct engine_vcpu *vcpu, struct vcpu_exit *exit);
void kvm_interrupt(struct engine_vcpu *vcpu);

#endif
