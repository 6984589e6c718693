/*
 * The port: all a processor knows of the world around it.
 *
 * The soft engine implements it over the guest memory and the exits of a partition; the instruction
 * emulator implements it over its client's callbacks; tests implement it over an array. Every
 * function is called on the processor's thread, with the instruction not yet committed.
 */
#ifndef OWHP_X86_PORT_H
#define OWHP_X86_PORT_H

#include "x86/cpu.h"

enum port_result {
    PORT_DONE,    /* the effect has happened, or the data is there */
    PORT_EXIT,    /* an exit was recorded: abandon the instruction, leave with LEAVE_EXIT */
    PORT_FAULT,   /* cpu->fault is set: deliver it */
    PORT_DEFAULT, /* the port has no opinion: do what the processor does by itself */
};

enum access_type { ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE };

enum {
    PAGE_READ = 1,
    PAGE_WRITE = 2,
    PAGE_EXECUTE = 4,
    /* Some processor has decoded code of this memory: stores are allowed (with PAGE_WRITE) but must not be cached,
     * and each is reported through code_written(). */
    PAGE_CODE = 8,
};

/* Host memory behind one guest page. */
struct port_page {
    uint8_t *host;   /* start of the page */
    uint32_t rights; /* PAGE_*: what may be done directly from now on until the page is invalidated */
};

/* One access that memory cannot serve directly. It does not cross a page. */
struct port_access {
    gpa_t gpa;
    gva_t gva;
    bool gva_valid;          /* false for page-table accesses */
    bool is_atomic;          /* part of a locked read-modify-write */
    bool is_touch;           /* nothing is wanted but the exit or fault that a read would be */
    enum access_type type;
    uint8_t size;            /* bytes, 1..64 */
    void *data;              /* filled by a read, holds what to write; NULL for execute */
    /* Update of a page-table entry: store only if the entry is `expected`, else set *lost. NULL: another kind of access. */
    bool *lost;
    uint64_t expected;
};

struct port_io {
    uint16_t port;
    uint8_t size;            /* 1, 2 or 4 */
    bool is_write, is_string, has_rep;
    uint8_t segment;         /* OUTS: enum segment_index */
    uint8_t address_size;    /* strings: 2, 4, 8 */
    uint32_t *data;
};

struct cpu_port {
    /*
     * Find host memory for a page and an access. True: `page` is filled, its rights include the access
     * (write was granted only after the page was marked dirty). False: go through access().
     * NULL function: there is never direct memory.
     */
    bool (*page)(struct cpu *cpu, gpa_t page_address, enum access_type type, struct port_page *page);

    /* The access that page() refused: a device, a hole, a missing right, vanished host memory. */
    enum port_result (*access)(struct cpu *cpu, const struct port_access *access);

    /* Will access() serve this access to the page from memory, so that it does not exit? Of a store that crosses pages such
     * parts come last, as those of host memory do. NULL: never. */
    bool (*serves)(struct cpu *cpu, gpa_t page_address, enum access_type type);

    /* Guest virtual to physical in place of the processor's own walk (emulator); NULL: own walk. */
    enum port_result (*translate)(struct cpu *cpu, gva_t gva, enum access_type type, bool user, gpa_t *gpa);

    enum port_result (*io)(struct cpu *cpu, const struct port_io *io);
    /* Was the permission to use the port checked before (emulator: before the exit)? NULL: no. */
    bool (*io_checked)(const struct cpu *cpu);

    /* Before the processor's own handling; PORT_DEFAULT to leave it to that. */
    enum port_result (*msr_read)(struct cpu *cpu, uint32_t index, uint64_t *value);
    enum port_result (*msr_write)(struct cpu *cpu, uint32_t index, uint64_t value);
    enum port_result (*cpuid)(struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
    enum port_result (*rdtsc)(struct cpu *cpu, bool is_rdtscp, uint64_t *value);
    enum port_result (*hypercall)(struct cpu *cpu); /* VMCALL/VMMCALL; PORT_DEFAULT: #UD */

    /* An exception is about to be delivered (exception exits). PORT_DEFAULT: deliver. */
    enum port_result (*exception)(struct cpu *cpu, const struct cpu_fault *fault);

    /* CR8 = task priority class, 0..15. */
    uint64_t (*read_cr8)(struct cpu *cpu);
    void (*write_cr8)(struct cpu *cpu, uint64_t value);

    /* Code of a guest page is about to be decoded from this page of memory, which page() gave: when it returns, no other
     * processor stores there unnoticed, through whatever guest page (page() answers PAGE_CODE). It may wait; what the guest
     * page is then, is to be asked anew. Told once for each guest page and processor. NULL: nobody else. */
    void (*code_page)(struct cpu *cpu, const uint8_t *host);
    /* The opposite of code_page: this processor has no decoded code of one of the guest pages any more. The memory may be gone by
     * now. NULL: nobody else. */
    void (*code_page_dropped)(struct cpu *cpu, const uint8_t *host);
    /* This processor stored to a PAGE_CODE page, here: tell the others. NULL: nobody else. */
    void (*code_written)(struct cpu *cpu, const uint8_t *host, uint64_t size);

    /* MONITOR was executed: from now on notice stores of others to the 64-byte line of this address. NULL: nothing is watched. */
    void (*monitor)(struct cpu *cpu, gpa_t gpa);
    /* MWAIT was executed: wait for such a store, or an interrupt (with `masked`: one that IF holds back, too). Returns at once;
     * the waiting is done at the end of the instruction. NULL: no wait. */
    void (*wait)(struct cpu *cpu, bool masked);

    /* Hold and let go of all other processors around an access that must be atomic but cannot be
     * made so by one host instruction (split locks, locked device accesses). NULL: nobody else.
     * begin answers false when another processor is at it: the instruction is to be tried again (LEAVE_REQUEST). */
    bool (*exclusive_begin)(struct cpu *cpu);
    void (*exclusive_end)(struct cpu *cpu);
};

#endif
