/*
 * Host stubs: small pieces of host code made at run time, through which the processor executes a
 * guest instruction itself.
 *
 * A stub is bytes, position independent, ending in RET. It lives forever and is shared by
 * everybody: the same bytes give the same address. The writable view of the code is never
 * executable and the executable one never writable; both map the same memory file.
 *
 * Threads: all functions may be called from any thread; a look-up of a stub that is there takes no
 * lock.
 */
#ifndef OWHP_X86_HOST_STUB_H
#define OWHP_X86_HOST_STUB_H

#include "util/compiler.h"
#include "util/types.h"

#define HOST_STUB_MAX 112u /* bytes of one stub */

/* A stub under construction. Overlong code is remembered as such and refused by host_stub_get. */
struct stub_code {
    uint8_t bytes[HOST_STUB_MAX];
    unsigned size;
    bool overflow;
    uint8_t tag; /* the owner's note on the code, see host_stub_tag; equal code has equal tags */
};

/* Registers as the encoding numbers them. */
enum { HOST_RAX, HOST_RCX, HOST_RDX, HOST_RBX, HOST_RSP, HOST_RBP, HOST_RSI, HOST_RDI, HOST_R8 };

void stub_byte(struct stub_code *code, unsigned byte);
void stub_bytes(struct stub_code *code, const void *bytes, size_t size);
/* Append [base + displacement] as ModRM and displacement, with `reg` in the reg field. Base: any
 * but RSP, RBP, R12, R13; the caller has put the REX prefix (REX.B for R8 and up). */
void stub_modrm_memory(struct stub_code *code, unsigned reg, unsigned base, uint32_t displacement);

/*
 * The executable address of these bytes, made when it is not there yet. NULL: the code is overlong,
 * the host refuses executable memory, or the bound on all stubs is reached (HOST_STUB_LIMIT in
 * host_stub.c: more than the families that use stubs can ask for, so a guest cannot get there).
 */
const void *host_stub_get(const struct stub_code *code);

/* The tag that the code was given. */
static inline uint8_t host_stub_tag(const void *stub)
{
    return ((const uint8_t *)stub)[-2];
}

/* Can stubs be made at all? To be asked once, before a guest is promised instructions that need
 * them. */
must_check bool host_stub_available(void);

#endif
