/*
 * XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR, XRSTORS (SDM 1 chapter 13).
 *
 * The components are x87 (0), SSE (1), AVX (2) and PKRU (9), none of them a supervisor's. AVX has
 * the same place, byte 576, in the standard and in the compacted format. PKRU comes behind it, or
 * takes its place in a compacted area without AVX.
 *
 *      0    as FXSAVE: x87, MXCSR and its mask at 24, XMM at 160
 *      512  header: XSTATE_BV, XCOMP_BV, 48 reserved bytes
 *      576  upper halves of YMM0..YMM15
 *      832  PKRU (32 bits, and 32 that are zero)
 *
 * XSAVEOPT has the init optimization only: it need not know whether memory still holds what
 * XRSTOR took from there, and writes it again.
 */
#include "x86/vector/exec_xsave.h"

#include <stddef.h>
#include <string.h>

#include "x86/system/control.h"
#include "x86/system/exec_system.h"
#include "x86/vector/exec_simd.h"
#include "x86/vector/exec_x87.h"

#define COMPACTED    BIT64(63)
#define HEADER       512u
#define HEADER_END   576u
#define OFFSET_MXCSR 24u
#define OFFSET_ST    32u
#define OFFSET_XMM   160u
#define OFFSET_AVX   576u
#define OFFSET_PKRU  832u
#define INITIAL_MXCSR 0x1f80u

struct area {
    struct x87_image legacy;
    uint64_t xstate_bv, xcomp_bv, reserved[6];
    uint64_t avx[16][2];
    uint32_t pkru, pkru_rest;
    uint64_t end[1]; /* the structure is aligned; nothing is here */
};
_Static_assert(offsetof(struct area, end) == XSAVE_SIZE_PKRU, "as the processor lays it out");

/* Where an area is and what is wanted of it. */
struct request {
    gva_t linear;
    uint64_t components; /* RFBM */
    unsigned offset_pkru;
    unsigned registers;  /* 16, or 8 outside 64-bit mode */
    bool is_wide;        /* REX.W: 64-bit FIP and FDP */
};

static uint8_t *legacy_bytes(struct area *area)
{
    return (uint8_t *)&area->legacy;
}

static bool x87_in_use(const struct x87_image *x87)
{
    if (x87->control != X87_INITIAL_CONTROL || x87->status || x87->tag || x87->opcode ||
        x87->instruction_pointer || x87->data_pointer)
        return true;
    for (unsigned i = 0; i < 8; i++) {
        if (x87->st[i].mantissa || x87->st[i].exponent)
            return true;
    }
    return false;
}

uint64_t xsave_in_use(const struct cpu *cpu)
{
    uint64_t low = 0, high = 0;
    /* Outside 64-bit mode XMM8 and up, and their upper halves, do not count (SDM 1 13.6). */
    for (unsigned i = 0; i < (cpu_is_64(cpu) ? 16u : 8u); i++) {
        low |= cpu->vector[i].q[0] | cpu->vector[i].q[1];
        high |= cpu->vector[i].q[2] | cpu->vector[i].q[3];
    }
    return (x87_in_use(&cpu->x87) ? XCR0_X87 : 0) | (low ? XCR0_SSE : 0) | (high ? XCR0_AVX : 0) |
           (cpu->pkru ? XCR0_PKRU : 0);
}

/* #UD, #GP for the supervisor's forms, #NM, the operand's address and alignment, in this order. */
static bool begin(struct cpu *cpu, const struct insn *insn, enum cpu_feature feature, bool is_wide,
                  enum access_type type, struct request *request)
{
    if (!(cpu->cr4 & CR4_OSXSAVE) || !cpuid_has(&cpu->cpuid, feature))
        return raise_ud(cpu);
    if (feature == FEATURE_XSAVES && !require_supervisor(cpu))
        return false;
    if (cpu->cr0 & CR0_TS)
        return raise_nm(cpu);
    request->components =
        cpu->xcr0 & (cpu->gpr[REG_RAX].d | (uint64_t)cpu->gpr[REG_RDX].d << 32);
    request->registers = cpu_is_64(cpu) ? 16 : 8;
    request->is_wide = is_wide;
    request->offset_pkru = OFFSET_PKRU;
    if (!operand_linear(cpu, insn, HEADER_END, type, &request->linear))
        return false;
    return (request->linear & 63) == 0 || raise_gp(cpu, 0);
}

static size_t area_size(const struct request *request)
{
    if (request->components & XCR0_PKRU)
        return request->offset_pkru + 8;
    /* All 16 registers' room must be there, in modes with 8 too. */
    return request->components & XCR0_AVX ? OFFSET_AVX + 16 * 16 : HEADER_END;
}

/* Where the area begins that is accessed: at the header when nothing of x87 and SSE (MXCSR) is asked for. */
static bool probe_area(struct cpu *cpu, const struct request *request, uint64_t legacy, enum access_type type)
{
    const size_t from = request->components & legacy ? 0 : HEADER;

    return mem_probe(cpu, request->linear + from, area_size(request) - from, type, MEM_CURRENT);
}

static unsigned compacted_pkru(uint64_t layout)
{
    return layout & XCR0_AVX ? OFFSET_PKRU : OFFSET_AVX;
}

/* ---- saving ---- */

static void collect(const struct cpu *cpu, const struct request *request, struct area *area)
{
    uint8_t *bytes = legacy_bytes(area);

    area->legacy = cpu->x87;
    area->legacy.reserved = 0;
    if (!request->is_wide) {
        area->legacy.instruction_pointer = (uint32_t)area->legacy.instruction_pointer;
        area->legacy.data_pointer = (uint32_t)area->legacy.data_pointer;
    }
    area->legacy.mxcsr = cpu->mxcsr;
    area->legacy.mxcsr_mask = MXCSR_VALID;
    for (unsigned i = 0; i < 8; i++)
        memset(area->legacy.st[i].reserved, 0, sizeof(area->legacy.st[i].reserved));
    for (unsigned i = 0; i < request->registers; i++) {
        memcpy(bytes + OFFSET_XMM + 16 * i, &cpu->vector[i], 16);
        memcpy(area->avx[i], &cpu->vector[i].q[2], 16);
    }
    area->pkru = cpu->pkru;
    area->pkru_rest = 0;
}

static bool put(struct cpu *cpu, const struct request *request, const struct area *area,
                size_t offset, size_t size)
{
    return mem_write(cpu, request->linear + offset, (const uint8_t *)area + offset, size,
                     MEM_CURRENT);
}

/* Write the parts of `saved`, MXCSR with `mxcsr`, and `header_size` bytes of header. */
static bool put_area(struct cpu *cpu, const struct request *request, const struct area *area,
                     uint64_t saved, bool mxcsr, size_t header_size)
{
    if ((saved & XCR0_X87) && (!put(cpu, request, area, 0, OFFSET_MXCSR) ||
                               !put(cpu, request, area, OFFSET_ST, OFFSET_XMM - OFFSET_ST)))
        return false;
    if (mxcsr && !put(cpu, request, area, OFFSET_MXCSR, 8))
        return false;
    if ((saved & XCR0_SSE) && !put(cpu, request, area, OFFSET_XMM, 16 * request->registers))
        return false;
    if ((saved & XCR0_AVX) && !put(cpu, request, area, OFFSET_AVX, 16 * request->registers))
        return false;
    if ((saved & XCR0_PKRU) &&
        !mem_write(cpu, request->linear + request->offset_pkru, &area->pkru, 8, MEM_CURRENT))
        return false;
    return put(cpu, request, area, HEADER, header_size);
}

static enum exec_result save_standard(struct cpu *cpu, const struct insn *insn,
                                      enum cpu_feature feature, bool is_wide)
{
    struct area area;
    struct request request;
    uint64_t old;

    if (!begin(cpu, insn, feature, is_wide, ACCESS_WRITE, &request) ||
        !probe_area(cpu, &request, XCR0_X87 | XCR0_SSE | XCR0_AVX, ACCESS_WRITE) ||
        !mem_read64(cpu, request.linear + HEADER, &old))
        return EXEC_LEAVE;
    const uint64_t used = request.components & xsave_in_use(cpu);
    collect(cpu, &request, &area);
    area.xstate_bv = (old & ~request.components) | used;
    return exec_done(put_area(cpu, &request, &area,
                              feature == FEATURE_XSAVEOPT ? used : request.components,
                              request.components & (XCR0_SSE | XCR0_AVX), 8));
}

static enum exec_result save_compacted(struct cpu *cpu, const struct insn *insn,
                                       enum cpu_feature feature, bool is_wide)
{
    struct area area;
    struct request request;

    if (!begin(cpu, insn, feature, is_wide, ACCESS_WRITE, &request))
        return EXEC_LEAVE;
    request.offset_pkru = compacted_pkru(request.components);
    if (!probe_area(cpu, &request, XCR0_X87 | XCR0_SSE, ACCESS_WRITE))
        return EXEC_LEAVE;
    uint64_t used = request.components & xsave_in_use(cpu);
    if (cpu->mxcsr != INITIAL_MXCSR)
        used |= request.components & XCR0_SSE;
    collect(cpu, &request, &area);
    area.xstate_bv = used;
    area.xcomp_bv = COMPACTED | request.components;
    return exec_done(put_area(cpu, &request, &area, used, used & XCR0_SSE, 16));
}

/* clang-format off */
enum exec_result exec_xsave(struct cpu *cpu, const struct insn *insn) { return save_standard(cpu, insn, FEATURE_XSAVE, false); }
enum exec_result exec_xsave64(struct cpu *cpu, const struct insn *insn) { return save_standard(cpu, insn, FEATURE_XSAVE, true); }
enum exec_result exec_xsaveopt(struct cpu *cpu, const struct insn *insn) { return save_standard(cpu, insn, FEATURE_XSAVEOPT, false); }
enum exec_result exec_xsaveopt64(struct cpu *cpu, const struct insn *insn) { return save_standard(cpu, insn, FEATURE_XSAVEOPT, true); }
enum exec_result exec_xsavec(struct cpu *cpu, const struct insn *insn) { return save_compacted(cpu, insn, FEATURE_XSAVEC, false); }
enum exec_result exec_xsavec64(struct cpu *cpu, const struct insn *insn) { return save_compacted(cpu, insn, FEATURE_XSAVEC, true); }
enum exec_result exec_xsaves(struct cpu *cpu, const struct insn *insn) { return save_compacted(cpu, insn, FEATURE_XSAVES, false); }
enum exec_result exec_xsaves64(struct cpu *cpu, const struct insn *insn) { return save_compacted(cpu, insn, FEATURE_XSAVES, true); }
/* clang-format on */

/* ---- restoring ---- */

/* SDM 1 13.8: which headers raise #GP. The standard format's check ends at byte 23 of the header. */
static bool header_is_valid(const struct cpu *cpu, const struct area *area, bool only_compacted)
{
    const uint64_t state = area->xstate_bv, layout = area->xcomp_bv & ~COMPACTED;
    uint64_t rest = 0;

    if (!(area->xcomp_bv & COMPACTED))
        return !only_compacted && layout == 0 && area->reserved[0] == 0 && !(state & ~cpu->xcr0);
    if (!cpuid_has(&cpu->cpuid, FEATURE_XSAVEC) || (layout & ~cpu->xcr0) || (state & ~layout))
        return false;
    for (unsigned i = 0; i < 6; i++)
        rest |= area->reserved[i];
    return rest == 0;
}

static void restore_x87(struct cpu *cpu, const struct request *request, struct area *area,
                        bool present)
{
    struct x87_image *legacy = &area->legacy;

    if (!present) {
        memset(&cpu->x87, 0, OFFSET_MXCSR);
        memset(cpu->x87.st, 0, sizeof(cpu->x87.st));
        cpu->x87.control = X87_INITIAL_CONTROL;
        return;
    }
    if (!request->is_wide) {
        legacy->instruction_pointer = (uint32_t)legacy->instruction_pointer;
        legacy->data_pointer = (uint32_t)legacy->data_pointer;
    }
    legacy->opcode &= 0x7ff;
    memcpy(&cpu->x87, legacy, OFFSET_MXCSR);
    memcpy(cpu->x87.st, legacy->st, sizeof(legacy->st));
    x87_settle(&cpu->x87);
}

/* The component's 16 bytes of every register: from the area, or zero. */
static void restore_vectors(struct cpu *cpu, const struct request *request, const uint8_t *from,
                            bool present, unsigned half)
{
    for (unsigned i = 0; i < request->registers; i++) {
        if (present)
            memcpy(&cpu->vector[i].q[2 * half], from + 16 * i, 16);
        else
            memset(&cpu->vector[i].q[2 * half], 0, 16);
    }
}

static enum exec_result restore(struct cpu *cpu, const struct insn *insn, enum cpu_feature feature,
                                bool is_wide)
{
    struct area area;
    struct request request;

    if (!begin(cpu, insn, feature, is_wide, ACCESS_READ, &request) ||
        !mem_read(cpu, request.linear + HEADER, (uint8_t *)&area + HEADER, HEADER_END - HEADER, MEM_CURRENT))
        return EXEC_LEAVE;
    if (!header_is_valid(cpu, &area, feature == FEATURE_XSAVES))
        return exec_done(raise_gp(cpu, 0));
    const uint64_t wanted = request.components, present = area.xstate_bv;
    const bool is_compacted = area.xcomp_bv & COMPACTED;
    /* The standard format loads MXCSR whatever XSTATE_BV says; it comes along with AVX too. */
    const bool loads_mxcsr =
        is_compacted ? wanted & present & XCR0_SSE : wanted & (XCR0_SSE | XCR0_AVX);
    if (!probe_area(cpu, &request, XCR0_X87 | XCR0_SSE, ACCESS_READ))
        return EXEC_LEAVE;
    if (((wanted & (XCR0_X87 | XCR0_SSE)) || loads_mxcsr) && !mem_read(cpu, request.linear, &area, HEADER, MEM_CURRENT))
        return EXEC_LEAVE;
    if (loads_mxcsr && (area.legacy.mxcsr & ~MXCSR_VALID))
        return exec_done(raise_gp(cpu, 0));
    if ((wanted & present & XCR0_AVX) &&
        !mem_read(cpu, request.linear + OFFSET_AVX, area.avx, 16 * request.registers, MEM_CURRENT))
        return EXEC_LEAVE;
    if (is_compacted)
        request.offset_pkru = compacted_pkru(area.xcomp_bv);
    if ((wanted & present & XCR0_PKRU) &&
        !mem_read(cpu, request.linear + request.offset_pkru, &area.pkru, 4, MEM_CURRENT))
        return EXEC_LEAVE;

    if (loads_mxcsr)
        cpu->mxcsr = area.legacy.mxcsr;
    else if (is_compacted && (wanted & XCR0_SSE))
        cpu->mxcsr = INITIAL_MXCSR;
    if (wanted & XCR0_SSE)
        restore_vectors(cpu, &request, legacy_bytes(&area) + OFFSET_XMM, present & XCR0_SSE, 0);
    if (wanted & XCR0_AVX)
        restore_vectors(cpu, &request, (const uint8_t *)area.avx, present & XCR0_AVX, 1);
    if (wanted & XCR0_X87)
        restore_x87(cpu, &request, &area, present & XCR0_X87);
    if (wanted & XCR0_PKRU)
        cpu_set_pkru(cpu, present & XCR0_PKRU ? area.pkru : 0);
    return EXEC_NEXT;
}

/* clang-format off */
enum exec_result exec_xrstor(struct cpu *cpu, const struct insn *insn) { return restore(cpu, insn, FEATURE_XSAVE, false); }
enum exec_result exec_xrstor64(struct cpu *cpu, const struct insn *insn) { return restore(cpu, insn, FEATURE_XSAVE, true); }
enum exec_result exec_xrstors(struct cpu *cpu, const struct insn *insn) { return restore(cpu, insn, FEATURE_XSAVES, false); }
enum exec_result exec_xrstors64(struct cpu *cpu, const struct insn *insn) { return restore(cpu, insn, FEATURE_XSAVES, true); }
/* clang-format on */
