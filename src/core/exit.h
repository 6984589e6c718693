/*
 * The engine-neutral exit: why a processor stopped and all it takes to go on. Precise: unless said otherwise,
 * nothing of the instruction has happened and RIP is at it. api_exit.c turns it into WHV_RUN_VP_EXIT_CONTEXT.
 */
#ifndef OWHP_CORE_EXIT_H
#define OWHP_CORE_EXIT_H

#include "core/registers.h"
#include "util/types.h"

/* Values are the API's exit reasons (asserted in api_exit.c). */
enum exit_reason {
    EXIT_NONE = 0,
    EXIT_MEMORY_ACCESS = 1,
    EXIT_IO_PORT = 2,
    EXIT_UNRECOVERABLE_EXCEPTION = 4,
    EXIT_INVALID_REGISTER_VALUE = 5,
    EXIT_UNSUPPORTED_FEATURE = 6,
    EXIT_INTERRUPT_WINDOW = 7,
    EXIT_HALT = 8,
    EXIT_APIC_EOI = 9,
    EXIT_MSR_ACCESS = 0x1000,
    EXIT_CPUID = 0x1001,
    EXIT_EXCEPTION = 0x1002,
    EXIT_RDTSC = 0x1003,
    EXIT_APIC_SMI_TRAP = 0x1004,
    EXIT_HYPERCALL = 0x1005,
    EXIT_APIC_INIT_SIPI_TRAP = 0x1006,
    EXIT_APIC_WRITE_TRAP = 0x1007,
    EXIT_CANCELED = 0x2001,
};

/* What every exit carries (WHV_X64_VP_EXIT_CONTEXT). */
struct exit_state {
    union vreg_value cs;
    uint64_t rip, rflags;
    uint8_t cpl, cr8, instruction_length;
    bool cr0_pe, cr0_am, efer_lma, debug_active, interruption_pending, interrupt_shadow;
};

struct exit_bytes {
    uint8_t count; /* 0..16 */
    uint8_t bytes[16];
};

struct vcpu_exit {
    enum exit_reason reason;
    struct exit_state state;
    struct exit_bytes code; /* memory access, I/O port, exception */
    union {
        struct {
            uint64_t gpa, gva;
            uint8_t type; /* 0 read, 1 write, 2 execute */
            bool gpa_unmapped, gva_valid;
        } memory;
        struct {
            uint16_t port;
            uint8_t size;
            bool is_write, is_string, has_rep;
            uint64_t rax, rcx, rsi, rdi;
            union vreg_value ds, es; /* OUTS with a segment override: ds holds that segment */
        } io;
        struct {
            bool is_write;
            uint32_t index;
            uint64_t rax, rdx;
        } msr;
        struct {
            uint64_t rax, rcx, rdx, rbx;
            uint64_t default_rax, default_rcx, default_rdx, default_rbx;
        } cpuid;
        struct {
            bool has_error, is_software;
            uint8_t vector;
            uint32_t error;
            uint64_t parameter; /* #PF: address; #DB: DR6 bits */
        } exception;
        struct {
            uint64_t tsc_aux, virtual_offset, tsc, reference_time;
            bool is_rdtscp;
        } rdtsc;
        struct {
            uint32_t code; /* 1 intercept, 2 task switch */
            uint64_t parameter;
        } unsupported;
        struct {
            uint8_t type; /* deliverable: 0 interrupt, 2 NMI, 3 exception */
        } window;
        struct {
            uint32_t vector;
        } eoi;
        struct {
            uint64_t icr;
        } apic_icr; /* SMI and INIT/SIPI traps */
        struct {
            uint32_t type;
            uint64_t value;
        } apic_write;
        struct {
            uint64_t rax, rbx, rcx, rdx, r8, rsi, rdi;
            uint64_t xmm[6][2];
        } hypercall;
    };
};

#endif
