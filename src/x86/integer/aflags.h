/*
 * Arithmetic flags as the host leaves them.
 *
 * Guest and host are the same architecture, so an ALU kernel lets the host compute the flags and keeps
 * them as LAHF and SETO AL deliver them in AX:
 *
 *      15  14  13  12  11  10   9   8   7..1  0
 *      SF  ZF   0  AF   0  PF   1  CF    0   OF
 *
 * Three host instructions and one store per guest instruction; nothing lazy, exact at any time.
 */
#ifndef OWHP_X86_AFLAGS_H
#define OWHP_X86_AFLAGS_H

#include "x86/bits.h"
#include "util/types.h"

#define AFLAG_OF 0x0001u
#define AFLAG_CF 0x0100u
#define AFLAG_PF 0x0400u
#define AFLAG_AF 0x1000u
#define AFLAG_ZF 0x4000u
#define AFLAG_SF 0x8000u
#define AFLAG_ALL (AFLAG_OF | AFLAG_CF | AFLAG_PF | AFLAG_AF | AFLAG_ZF | AFLAG_SF)

static inline uint64_t aflags_to_rflags(uint32_t aflags)
{
    return ((aflags >> 8) & (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF)) |
           ((uint64_t)(aflags & AFLAG_OF) << 11);
}

static inline uint32_t aflags_from_rflags(uint64_t rflags)
{
    return (uint32_t)((rflags & (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF)) << 8) |
           (uint32_t)((rflags >> 11) & 1) | 0x0200u;
}

#endif
