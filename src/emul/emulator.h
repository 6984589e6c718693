/*
 * The instruction emulator: carries out one instruction of a processor that it knows only through callbacks.
 *
 * It is the soft engine's processor core (src/x86) with another port: registers are fetched through a callback, every memory
 * access, port access and translation goes through one, and what the instruction made of the registers goes back in a single
 * call at the end. So it can do whatever the processor can, in every mode, as far as callbacks can say it (emulator_insn.h).
 *
 * Thread: an emulator is used by one thread at a time.
 */
#ifndef OWHP_EMUL_EMULATOR_H
#define OWHP_EMUL_EMULATOR_H

#include "core/registers.h"
#include "util/compiler.h"
#include "util/types.h"

struct emulator;

/* What a translation callback can say. */
enum emulator_translation {
    TRANSLATION_DONE,
    TRANSLATION_FAILED,      /* the callback failed */
    TRANSLATION_NOT_PRESENT, /* these three become a page fault of the guest */
    TRANSLATION_PRIVILEGE,
    TRANSLATION_RESERVED_BITS,
    TRANSLATION_OTHER,       /* page tables out of reach: #GP(0) */
};

struct emulator_memory {
    uint64_t gpa;
    bool is_write;
    uint8_t size; /* 1..8, within a page */
    uint8_t data[8];
};

struct emulator_io {
    uint16_t port;
    bool is_write;
    uint8_t size; /* 1, 2, 4 */
    uint32_t data;
};

/* All callbacks get the context of the call; false: the client failed. */
struct emulator_callbacks {
    bool (*get_registers)(void *context, const uint32_t *names, uint32_t count, union vreg_value *values);
    bool (*set_registers)(void *context, const uint32_t *names, uint32_t count, const union vreg_value *values);
    bool (*memory)(void *context, struct emulator_memory *access);
    bool (*io)(void *context, struct emulator_io *access);
    /*
     * `page` is page aligned, and so must be what comes back in *gpa. type: 0 read, 1 write, 2 execute. Privilege is the
     * processor's present one unless `is_exempt`: an access to a system structure, which has privilege 0 at any level.
     */
    enum emulator_translation (*translate)(void *context, uint64_t page, unsigned type, bool is_exempt, uint64_t *gpa);
};

/* How it ended; each but success is one bit of WHV_EMULATOR_STATUS, and last_error_text() tells more. */
enum emulator_outcome {
    EMULATOR_SUCCESS,          /* done, or the guest was given its fault */
    EMULATOR_INTERNAL_FAILURE, /* not an instruction, or not one that callbacks can carry out */
    EMULATOR_IO_FAILED,
    EMULATOR_MEMORY_FAILED,
    EMULATOR_TRANSLATE_FAILED,
    EMULATOR_TRANSLATE_MISALIGNED,
    EMULATOR_GET_REGISTERS_FAILED,
    EMULATOR_SET_REGISTERS_FAILED,
    EMULATOR_CANNOT_FAULT,     /* an event waits in the guest already */
};

/* What is known from the exit. */
struct emulator_request {
    uint8_t byte_count;      /* of the instruction, 0..16; the emulator fetches what is missing */
    const uint8_t *bytes;
    bool has_translation;    /* the access of type `type` at `gva` is at `gpa` */
    uint8_t type;
    uint64_t gva, gpa;
    bool is_io;              /* a port instruction: permission was checked before the exit */
    bool in_shadow;          /* it stands in an interrupt shadow, which ends with it */
};

struct emulator *emulator_create(const struct emulator_callbacks *callbacks); /* NULL: no memory */
void emulator_destroy(struct emulator *emulator);

/*
 * One instruction; of a REP as many iterations as it takes (a very long one is left half way, to be executed again).
 *
 * With RFLAGS.TF the single-step trap becomes pending (PendingDebugException), RFLAGS.RF is cleared.
 *
 * Unless it ends with EMULATOR_SUCCESS no register has changed, but for the completed iterations of a REP, which show in
 * registers as the processor would leave them.
 */
must_check enum emulator_outcome emulator_run(struct emulator *emulator, void *context, const struct emulator_request *request);

#endif
