/*
 * A client of the emulator that is a script: registers in a table, memory that answers each byte with the low byte of its address
 * plus 1, page tables as a rule (GPA = GVA + SHIFT). Every callback leaves a word in a transcript:
 *
 *      get, set           registers
 *      t5000/11           translation of a page, with these flags
 *      r105000/4          a read of 4 bytes; w105000/4=1: a write of 1
 *      i60/1, o60/1=5     ports
 */
#ifndef OWHP_TESTS_EMUL_SCRIPTED_CLIENT_H
#define OWHP_TESTS_EMUL_SCRIPTED_CLIENT_H

#include "conform/conform.h"

#include <WinHvEmulation.h>
#include <stdbool.h>
#include <string.h>

enum { SHIFT = 0x100000, REGISTERS = 128 };

enum { GET = 'G', SET = 'S', MEMORY = 'M', IO = 'I', TRANSLATE = 'T' };

struct client {
    struct {
        UINT32 name;
        WHV_REGISTER_VALUE value;
    } registers[REGISTERS];
    unsigned register_count;
    UINT8 code[32];
    UINT64 code_gpa;
    char transcript[1024];
    /* what goes wrong */
    char failing;          /* this callback, */
    unsigned failing_at;   /* at its n-th call */
    unsigned calls[128];
    UINT64 bad_page;       /* translation of this GVA answers bad_code */
    UINT32 bad_code;
    UINT64 misaligned_page;
    UINT32 set_names[64], set_count; /* of the last SetRegs */
    bool knows_extensions; /* or is it asked for OwhpX64Register.. in vain? */
};

extern struct client client; /* as enter() and then the test left it */

#define CONTEXT ((VOID *)&client.calls[5])

extern const WHV_EMULATOR_CALLBACKS callbacks;
HRESULT CALLBACK on_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access);

WHV_REGISTER_VALUE *register_at(UINT32 name);
void set64(UINT32 name, UINT64 value);
UINT64 get64(UINT32 name);
void set_segment(UINT32 name, UINT64 base, UINT32 limit, UINT16 selector, UINT16 attributes);

/* ---- modes ---- */

enum mode { MODE_REAL, MODE_V86, MODE_PROTECTED_16, MODE_PROTECTED_32, MODE_COMPATIBILITY, MODE_LONG, MODE_COUNT };

/* A fresh client whose processor is in that mode. */
void enter(enum mode mode);

/* ---- one call ---- */

struct call {
    WHV_VP_EXIT_CONTEXT vp;
    WHV_MEMORY_ACCESS_CONTEXT memory;
    WHV_X64_IO_PORT_ACCESS_CONTEXT io;
};

/* All return the status. */
UINT32 emulate(const struct call *call, bool is_io);
UINT32 mmio(const UINT8 *code, size_t size);
UINT32 port(const UINT8 *code, size_t size);

#define MMIO(...) mmio((const UINT8[]){__VA_ARGS__}, sizeof((const UINT8[]){__VA_ARGS__}))
#define PORT(...) port((const UINT8[]){__VA_ARGS__}, sizeof((const UINT8[]){__VA_ARGS__}))

/* ---- programs of cases ---- */

/* Before cmocka_run_group_tests. */
void install_handlers(void);
void run_guarded(void **state);

#undef CASE
#define CASE(id, fact, function)                                                                   \
    {                                                                                              \
        id " [" fact "] " #function, run_guarded, before, after, (void *)(function)                \
    }

#endif
