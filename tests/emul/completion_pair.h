/*
 * One instruction twice: on RAM, and with the same memory behind OwhpCompleteMemoryAccess. Registers, vector state and memory must
 * be the same in the end.
 *
 * The instruction is at CODE with HLT behind it. Where the data window is RAM it just runs; then the window is unmapped and each
 * access served from a buffer.
 */
#ifndef OWHP_TESTS_EMUL_COMPLETION_PAIR_H
#define OWHP_TESTS_EMUL_COMPLETION_PAIR_H

#include "conform/guest.h"

#include <Zydis/Zydis.h>

/* The window is behind the stack; memory is kept and compared up to the page tables. */
enum { WINDOW = 0xa000, WINDOW_SIZE = 0x4000, KEPT = TABLES, XSAVE_SIZE = 4096 };
enum { PAIR_READ_ONLY = 0x9000, PAIR_NOTHING = WINDOW + WINDOW_SIZE }; /* under paging: a page that is only read, and none */

/* In real mode and PAIR_PROTECTED (32-bit code without paging) data segments begin at WINDOW and are as long. */
enum pair_mode { PAIR_USER, PAIR_KERNEL, PAIR_COMPATIBILITY, PAIR_PROTECTED, PAIR_REAL, PAIR_MODES };

enum { PAIR_RSP = 4, PAIR_RFLAGS = 17, PAIR_ES, PAIR_CS, PAIR_SS, PAIR_DS, PAIR_FS, PAIR_GS, PAIR_NAMES = 43 };

struct pair_state {
    WHV_REGISTER_VALUE registers[PAIR_NAMES]; /* the general ones first */
    UINT8 xsave[XSAVE_SIZE];
    UINT32 xsave_size;
    UINT8 memory[KEPT]; /* from GPA 0 */
};

extern struct pair_state pair_start; /* filled by pair_choose; to be changed for a case */
extern unsigned pair_accesses;       /* answered so far */

void pair_begin(unsigned modes); /* bit n: mode n will be chosen */
void pair_choose(enum pair_mode mode);
void pair_end(void);

enum pair_result {
    PAIR_SAME,
    PAIR_DIFFERENT,  /* printed */
    PAIR_OTHERWISE,  /* on RAM it does not end with HLT (a port, nowhere) */
    PAIR_UNANSWERED, /* an access without data: an event's delivery on a stack in the window */
};

/* Flags that may differ. `is_whole`: until its last access nothing of the instruction shows (no repetition). */
enum pair_result pair_try(UINT64 undefined_flags, bool is_whole);

/* Flags that the manual leaves undefined: the processor's fast operations and its exec functions may differ in them. */
UINT64 pair_undefined_flags(const ZydisDecodedInstruction *insn);

#endif
