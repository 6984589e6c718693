/*
 * Small guests for conformance tests that run on every engine through the installed API alone: a partition, RAM, a
 * few bytes of code, one processor in real or long mode.
 */
#ifndef OWHP_TESTS_CONFORM_GUEST_H
#define OWHP_TESTS_CONFORM_GUEST_H

#include <stdbool.h>

#include "conform.h"

enum {
    RAM_SIZE = 0x200000, /* at GPA 0, readable, writable, executable, tracked */
    CODE = 0x1000,       /* where code is put and RIP starts */
    STACK = 0x8000,      /* RSP */
    TABLES = 0x10000,    /* long mode: PML4, PDPT, PD; PT of the first 2 MiB at TABLES + 0x3000 */
    IDT = 0x20000,       /* long mode: 256 gates, all to HANDLERS + 16 * vector */
    HANDLERS = 0x21000,  /* each HLT (long mode; in real mode the same by the table at 0) */
    GDT = 0x23000,       /* long mode: 0x08 code, 0x10 data, 0x1b user data, 0x23 user code, 0x28 TSS */
    TSS = 0x24000,
};

struct guest {
    WHV_PARTITION_HANDLE partition;
    UINT8 *ram;
    WHV_RUN_VP_EXIT_CONTEXT exit;
};

/* Partition properties of a guest; zero: nothing of that. */
struct guest_options {
    UINT64 extended_exits, exceptions, msrs;
    UINT32 apic_mode, processors;
    UINT32 cpuid_exits[4], cpuid_exit_count;
    WHV_X64_CPUID_RESULT2 cpuid_results[4];
    UINT32 cpuid_result_count;
};

/* With RAM and processor 0, in real mode: segments 0 with limit FFFF, RIP = CODE, RSP = STACK, IF 0. */
void guest_begin(struct guest *guest, const struct guest_options *options);
void guest_end(struct guest *guest);

/* Put bytes at CODE (or elsewhere). */
void guest_load(struct guest *guest, UINT64 gpa, const void *bytes, size_t size);
#define guest_code(guest, ...)                                                                     \
    guest_load(guest, CODE, (const UINT8[]){__VA_ARGS__}, sizeof((const UINT8[]){__VA_ARGS__}))

/* 64-bit mode at CPL 0 (or 3), identity map of the first GiB: 4 KiB pages below 2 MiB, then 2 MiB; all user pages. */
void guest_long_mode(struct guest *guest, unsigned cpl);

/* The entry that maps a page below 2 MiB. */
UINT64 *guest_pte(struct guest *guest, UINT64 address);

void guest_set(struct guest *guest, WHV_REGISTER_NAME name, UINT64 value);
UINT64 guest_get(struct guest *guest, WHV_REGISTER_NAME name);
WHV_REGISTER_VALUE guest_get_value(struct guest *guest, WHV_REGISTER_NAME name);

/* Run to the next exit, which must be this; the buffer is full of CC before. */
void guest_run_to(struct guest *guest, UINT32 reason, const char *file, int line);
#define run_to(guest, reason) guest_run_to((guest), (reason), __FILE__, __LINE__)

/* Print an exit; for failures. */
void print_exit(const WHV_RUN_VP_EXIT_CONTEXT *exit);

#define assert_field(guest, member, expected)                                                      \
    do {                                                                                           \
        UINT64 actual_ = (UINT64)(guest)->exit.member, expected_ = (UINT64)(expected);             \
        if (actual_ != expected_) {                                                                \
            print_exit(&(guest)->exit);                                                            \
            print_error(#member " is %#llx, not %#llx\n", (unsigned long long)actual_,             \
                        (unsigned long long)expected_);                                            \
            _fail(__FILE__, __LINE__);                                                             \
        }                                                                                          \
    } while (0)

#endif
