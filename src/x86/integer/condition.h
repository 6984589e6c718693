/*
 * The sixteen conditions of Jcc, SETcc and CMOVcc over aflags (SDM 1 appendix B), numbered as in the
 * opcodes' low four bits; an odd number is the negation of the even one before it.
 */
#ifndef OWHP_X86_CONDITION_H
#define OWHP_X86_CONDITION_H

#include "util/compiler.h"
#include "x86/integer/aflags.h"

enum condition { CC_O, CC_NO, CC_B, CC_NB, CC_Z, CC_NZ, CC_BE, CC_NBE, CC_S, CC_NS, CC_P, CC_NP, CC_L, CC_NL, CC_LE, CC_NLE };

/* clang-format off */
static always_inline bool cond_o(uint32_t aflags)  { return aflags & AFLAG_OF; }
static always_inline bool cond_b(uint32_t aflags)  { return aflags & AFLAG_CF; }
static always_inline bool cond_z(uint32_t aflags)  { return aflags & AFLAG_ZF; }
static always_inline bool cond_be(uint32_t aflags) { return aflags & (AFLAG_CF | AFLAG_ZF); }
static always_inline bool cond_s(uint32_t aflags)  { return aflags & AFLAG_SF; }
static always_inline bool cond_p(uint32_t aflags)  { return aflags & AFLAG_PF; }
static always_inline bool cond_l(uint32_t aflags)  { return ((aflags >> 15) ^ aflags) & 1; } /* SF != OF */
static always_inline bool cond_le(uint32_t aflags) { return (aflags & AFLAG_ZF) | (((aflags >> 15) ^ aflags) & 1); }

static always_inline bool cond_no(uint32_t aflags)  { return !cond_o(aflags); }
static always_inline bool cond_nb(uint32_t aflags)  { return !cond_b(aflags); }
static always_inline bool cond_nz(uint32_t aflags)  { return !cond_z(aflags); }
static always_inline bool cond_nbe(uint32_t aflags) { return !cond_be(aflags); }
static always_inline bool cond_ns(uint32_t aflags)  { return !cond_s(aflags); }
static always_inline bool cond_np(uint32_t aflags)  { return !cond_p(aflags); }
static always_inline bool cond_nl(uint32_t aflags)  { return !cond_l(aflags); }
static always_inline bool cond_nle(uint32_t aflags) { return !cond_le(aflags); }
/* clang-format on */

static always_inline bool condition(uint32_t aflags, unsigned cc)
{
    bool is;

    switch (cc & 14) {
    case CC_O: is = cond_o(aflags); break;
    case CC_B: is = cond_b(aflags); break;
    case CC_Z: is = cond_z(aflags); break;
    case CC_BE: is = cond_be(aflags); break;
    case CC_S: is = cond_s(aflags); break;
    case CC_P: is = cond_p(aflags); break;
    case CC_L: is = cond_l(aflags); break;
    default: is = cond_le(aflags); break;
    }
    return is != (cc & 1);
}

#endif
