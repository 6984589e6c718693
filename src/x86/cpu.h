/*
 * The processor: its registers and what the interpreter keeps beside them.
 *
 * `struct cpu` is one x86-64 processor. Everything in src/x86 works on it; it reaches the world only
 * through its port (x86/port.h). The layout of the first part is fixed: decoded operations hold byte
 * offsets into it, and a translator's code will too.
 *
 * State is exact at every instruction boundary. Inside a block, `block_rip` is the RIP of the block's
 * first instruction and `rip` is not maintained; handlers that need it compute it from their
 * operation. Outside a block, and while an exec function (x86/exec.h) runs, `rip` is valid.
 *
 * Thread: a cpu belongs to the thread that runs it; other threads touch only `request`.
 */
#ifndef OWHP_X86_CPU_H
#define OWHP_X86_CPU_H

#include <stdatomic.h>

#include "util/compiler.h"
#include "util/types.h"
#include "x86/bits.h"
#include "x86/system/cpuid.h"

struct cpu;
struct cpu_port;
struct tlb;
struct block_cache;
struct random_buffer;

/* A general register. Byte registers AH..BH are at byte 1 of RAX..RBX. */
union gpr {
    uint64_t q;
    uint32_t d;
    uint16_t w;
    uint8_t b[2];
};

/* Segment register with its hidden part; `attributes` as in a descriptor (SDM 3A 3.4.5):
 * type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15. `limit` is in bytes, already scaled. */
struct segment {
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    uint16_t attributes;
};

struct table_register {
    uint64_t base;
    uint16_t limit;
};

enum { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8 };

enum segment_index { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, SEG_COUNT };

/* A vector register: XMM is the low 16 bytes of YMM. */
union vector {
    uint64_t q[4];
    uint32_t d[8];
    uint8_t b[32];
};

/*
 * x87/MMX state in the head of the FXSAVE64 image (SDM 1 10.5.1), so that FXRSTOR64 takes it as it is.
 * The XMM part of the image is not used (registers are in cpu.vector), MXCSR is in cpu.mxcsr.
 */
struct x87_image {
    uint16_t control;
    uint16_t status;
    uint8_t tag; /* abridged: bit i set when physical register i is not empty */
    uint8_t reserved;
    uint16_t opcode;
    uint64_t instruction_pointer;
    uint64_t data_pointer;
    uint32_t mxcsr;
    uint32_t mxcsr_mask;
    struct {
        uint64_t mantissa;
        uint16_t exponent;
        uint8_t reserved[6];
    } st[8]; /* ST(0) first */
    uint8_t rest[352];
} __attribute__((aligned(16)));

/* Why the interpreter left, or why an instruction did not complete. */
enum cpu_leave {
    LEAVE_NONE,
    LEAVE_FAULT,    /* cpu->fault is to be delivered; the instruction has not happened */
    LEAVE_EXIT,     /* the port recorded an exit; the instruction has not happened (RIP at it) */
    LEAVE_DONE_EXIT,/* the port recorded an exit; the instruction has happened (RIP behind it) */
    LEAVE_HALT,     /* HLT was executed; RIP is behind it */
    LEAVE_SHUTDOWN, /* triple fault */
    LEAVE_REQUEST,  /* cpu->request has work for the engine, or the instruction is to be tried again; at its boundary */
};

struct cpu_fault {
    uint8_t vector;
    bool has_error;
    bool is_trap;       /* RIP to push is behind the instruction (single step, data breakpoint) */
    uint32_t error;
    uint64_t address;   /* #PF: goes to CR2 at delivery */
    uint64_t debug;     /* #DB: bits to set in DR6 at delivery */
};

/* Bits of cpu->request: work for the engine at the next block boundary. */
enum {
    REQUEST_CANCEL = 1u << 0,
    REQUEST_HOLD = 1u << 1,      /* come to a safe point */
    REQUEST_INTERRUPT = 1u << 2, /* something may be deliverable */
    REQUEST_FLUSH = 1u << 3,     /* work is queued for this processor (TLB, decoded code) */
    REQUEST_SERVICE = 1u << 4,   /* INIT, SIPI, timer and the like */
    /* The processor's own: it must go instruction by instruction (interrupt shadow, single step, breakpoints). */
    REQUEST_ATTENTION = 1u << 31,
};

/* The decode mode: part of a block's key. */
enum {
    MODE_64 = 1u << 0,      /* 64-bit code (EFER.LMA and CS.L) */
    MODE_CS32 = 1u << 1,    /* CS.D: 32-bit default sizes */
    MODE_SS32 = 1u << 2,    /* SS.B: ESP is the stack pointer */
    MODE_SINGLE = 1u << 3,  /* one instruction only: interrupt shadow, single step */
    MODE_PROTECTED = 1u << 4, /* CR0.PE and not virtual-8086 */
    MODE_LONG = 1u << 5,      /* EFER.LMA */
    MODE_AMD_BRANCHES = 1u << 6, /* prefix 66 counts for near branches of 64-bit code (x86/vendor.h) */
};

/* Instructions that the owner wants to know the number of. */
enum cpu_count { CPU_COUNT_INVALIDATION, CPU_COUNT_CONTROL, CPU_COUNT_DEBUG, CPU_COUNT_RDPMC, CPU_COUNTS };

struct cpu {
    /* ---- fixed part: offsets are in decoded operations ---- */
    union gpr gpr[16];
    uint64_t zero;      /* always 0: the base or index of an operand that has none */
    uint64_t block_rip; /* RIP of the first instruction of the running block */
    uint32_t aflags;    /* arithmetic flags as LAHF/SETO leave them in AX (x86/integer/aflags.h) */
    uint32_t mode;      /* MODE_* */
    _Atomic uint32_t request;
    uint32_t leave;     /* enum cpu_leave, set by whoever makes a handler return NULL */
    struct tlb_entry *tlb_entries; /* x86/memory/tlb.h */
    uint64_t tlb_mask;
    uint64_t read_key;  /* tag keys of data accesses at the current privilege (x86/memory/tlb.h) */
    uint64_t write_key;
    uint64_t verify_epoch; /* see x86/code/code.h; never 0 */
    uint64_t jump_key;
    struct jump_entry *jump_cache;
    struct segment segment[SEG_COUNT];
    /* Legacy modes: offsets below these bounds are valid for the segment without further checks; 0: always check. */
    uint64_t read_bound[SEG_COUNT], write_bound[SEG_COUNT];

    /* ---- registers ---- */
    uint64_t rip;       /* valid outside blocks and in exec functions */
    uint64_t next_rip;  /* in exec functions: the following instruction; a branch replaces it */
    uint64_t rflags;    /* all but CF PF AF ZF SF OF, which live in aflags; bit 1 set */
    struct table_register gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, cr8, xcr0;
    uint64_t dr[4], dr6, dr7;
    uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_aux, misc_enable, spec_ctrl, xss, debug_control;
    uint64_t mtrr_def_type, mtrr_base[16], mtrr_mask[16], mtrr_fixed[11];
    uint64_t pdpte[4];  /* PAE: loaded with CR3 */
    uint32_t mxcsr;
    uint8_t cpl;
    uint8_t physical_bits; /* physical address width, fixed after init */
    bool interrupt_shadow; /* the next instruction runs before interrupts are looked at */
    bool nmi_masked;
    bool memory_event;     /* an event is being delivered: exits carry InterruptionPending */
    bool nmi_waiting;       /* the engine has an NMI that the shadow or the mask blocks: likewise */
    bool interrupt_waiting; /* the engine has an interrupt that IF or the shadow blocks: tell it when that ends */
    union vector vector[16] __attribute__((aligned(32)));
    struct x87_image x87;

    union vector scratch __attribute__((aligned(32))); /* a memory operand on its way to a host stub */

    struct cpu_fault fault;
    const struct cpu_port *port;
    void *port_context;
    struct tlb *tlb;
    struct block_cache *blocks;
    uint64_t code_base; /* CS base and limit that the code cache last saw */
    uint32_t code_limit;

    struct cpuid_config cpuid;  /* what the guest sees, what instructions exist (x86/system/cpuid.h) */
    uint64_t tsc_offset;        /* when the port leaves the time stamp to the processor: host TSC + this */
    uint64_t tsc_adjust;        /* IA32_TSC_ADJUST */
    uint64_t apic_base;         /* IA32_APIC_BASE, when the port leaves it to the processor */
    uint64_t mcg_status;
    uint32_t pkru;              /* protection keys of user pages; to be changed by cpu_set_pkru */
    uint64_t pkrs;              /* IA32_PKRS: of supervisor pages; by cpu_set_pkrs */
    const struct insn *insn;    /* the instruction whose exec function runs (interpreter only) */
    uint64_t debug_pending;     /* debug traps that wait for the end of the instruction: bits of DR6 (x86/system/debug.h) */
    uint64_t debug_held;        /* those of them from before the running instruction: MOV SS delayed them */
    uint64_t resume_rip;        /* the RIP that RFLAGS.RF is for */
    uint8_t debug_watch;        /* DEBUG_*: breakpoints that DR7 enables */
    bool debug_shadow;          /* MOV SS, POP SS: no debug exception before the next instruction is done */
    bool trap_cancelled;        /* INT n, SYSCALL and the like: no single-step trap although TF was set before */
    bool stepping;              /* one instruction is being run by itself */
    uint32_t pauses;            /* PAUSE instructions executed, for yielding (exec_hint.c) */
    struct random_buffer *random; /* RDRAND, RDSEED; NULL until the first */
    _Atomic uint64_t counts[CPU_COUNTS]; /* since creation; written by the cpu's thread, read by any */
    /* ---- additions by other parts of src/x86 go here ---- */
};

/* RFLAGS as the architecture shows them, put together and taken apart. */
uint64_t cpu_rflags(const struct cpu *cpu);
void cpu_set_rflags(struct cpu *cpu, uint64_t rflags);

/*
 * To be called after anything that decoding or address translation depends on has changed: CR0, CR3,
 * CR4, EFER, CPL, DR7, any segment register, RFLAGS.VM/AC/TF (cpu_set_rflags does it for those). cpu_update_mode
 * recomputes `mode`, tag keys, segment bounds; cpu_flush_tlb drops all translations, of all PCIDs (global
 * ones too unless keep_global).
 */
void cpu_update_mode(struct cpu *cpu);
void cpu_flush_tlb(struct cpu *cpu, bool keep_global);
void cpu_flush_page(struct cpu *cpu, gva_t address);

/* Allocate/free the parts behind the pointers; registers are zero, call cpu_reset. NULL: no memory. */
struct cpu *cpu_create(const struct cpu_port *port, void *port_context, unsigned physical_bits);
/* One that only executes decoded instructions (insn->exec): no block cache, cpu_run and cpu_step are not for it. Its port
 * has no page(). */
struct cpu *cpu_create_bare(const struct cpu_port *port, void *port_context, unsigned physical_bits);
void cpu_destroy(struct cpu *cpu);

/* Power-up state (SDM 3A 9.1.1), CS base as WHP has it (whp-facts 9.3). `init`: INIT instead of RESET
 * (keeps CR0.CD/NW, x87/SSE state and MSRs that INIT leaves alone). */
void cpu_reset(struct cpu *cpu, bool init);

/* Run until something asks to leave; see enum cpu_leave (never LEAVE_NONE or LEAVE_FAULT). */
struct event;
enum cpu_leave cpu_run(struct cpu *cpu, struct event *pending);
/* `pending` is filled when LEAVE_EXIT happened while an event was being delivered (cpu->memory_event is set). */
/* The same for one instruction and the fault it raises; LEAVE_NONE: done, nothing else asks to leave. */
enum cpu_leave cpu_run_one(struct cpu *cpu, struct event *pending);
/* Run exactly one instruction (or deliver the fault it raises: LEAVE_FAULT is returned undelivered). */
enum cpu_leave cpu_step(struct cpu *cpu);

/* The memory behind the guest's pages has changed: forget every host address, or only the right to write. */
void cpu_drop_memory(struct cpu *cpu, bool writes_only);

/* The host may have changed memory since (after an exit, with an interrupt from outside): look at code again before it runs. */
static inline void cpu_verify_code(struct cpu *cpu)
{
    cpu->verify_epoch++;
}

/* IF was set or an interrupt shadow began or ended: see whether the engine or single-stepping wants to know. */
void cpu_interrupts_enabled(struct cpu *cpu);

/* Bytes of code at CS:RIP, up to 16 and not beyond the page or the segment; returns the count, raises nothing. */
unsigned cpu_peek_code(struct cpu *cpu, uint8_t bytes[16]);

/* Decoded code of [gpa, gpa+size) is stale: another party stored there. Only from the cpu's thread. */
void cpu_invalidate_code(struct cpu *cpu, gpa_t gpa, uint64_t size);

/*
 * Raise an exception from a handler or exec function. They return false so that
 * `return raise_gp(cpu, 0);` reads well in functions whose false means "did not happen".
 */
must_check bool raise_fault(struct cpu *cpu, uint8_t vector);                    /* no error code */
must_check bool raise_error(struct cpu *cpu, uint8_t vector, uint32_t error);
must_check bool raise_page_fault(struct cpu *cpu, gva_t address, uint32_t error);
#define raise_ud(cpu)        raise_fault((cpu), VECTOR_UD)
#define raise_nm(cpu)        raise_fault((cpu), VECTOR_NM)
#define raise_de(cpu)        raise_fault((cpu), VECTOR_DE)
#define raise_gp(cpu, error) raise_error((cpu), VECTOR_GP, (error))
#define raise_ss(cpu, error) raise_error((cpu), VECTOR_SS, (error))
#define raise_np(cpu, error) raise_error((cpu), VECTOR_NP, (error))
#define raise_ts(cpu, error) raise_error((cpu), VECTOR_TS, (error))

static inline void cpu_count(struct cpu *cpu, enum cpu_count what)
{
    uint64_t before = atomic_load_explicit(&cpu->counts[what], memory_order_relaxed);
    atomic_store_explicit(&cpu->counts[what], before + 1, memory_order_relaxed);
}

static inline bool cpu_is_64(const struct cpu *cpu) { return cpu->mode & MODE_64; }
static inline bool cpu_is_long(const struct cpu *cpu) { return cpu->efer & EFER_LMA; }
static inline bool cpu_is_protected(const struct cpu *cpu)
{
    return (cpu->cr0 & CR0_PE) && !(cpu->rflags & RFLAGS_VM);
}
static inline bool cpu_is_v86(const struct cpu *cpu) { return cpu->rflags & RFLAGS_VM; }
static inline bool cpu_is_real(const struct cpu *cpu) { return !(cpu->cr0 & CR0_PE); }

#endif
