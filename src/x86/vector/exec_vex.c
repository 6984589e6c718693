/*
 * Binding VEX-encoded vector instructions, and running their stubs: registers only, load, store,
 * each with and without MXCSR.
 */
#include "x86/vector/exec_vex.h"

#include <string.h>

#include "x86/system/control.h"

static const uint16_t tag_features[VEX_TAG_COUNT] = {
    [VEX_TAG_AVX] = FEATURE_AVX,       [VEX_TAG_AVX2] = FEATURE_AVX2,
    [VEX_TAG_FMA] = FEATURE_FMA,       [VEX_TAG_F16C] = FEATURE_F16C,
    [VEX_TAG_AES] = FEATURE_AES,       [VEX_TAG_PCLMULQDQ] = FEATURE_PCLMULQDQ,
    [VEX_TAG_VAES] = FEATURE_VAES,     [VEX_TAG_VPCLMULQDQ] = FEATURE_VPCLMULQDQ,
};

#define AVX_STATE (XCR0_SSE | XCR0_AVX)

bool vex_usable(struct cpu *cpu, unsigned tag)
{
    if (unlikely(!(cpu->cr4 & CR4_OSXSAVE) || (cpu->xcr0 & AVX_STATE) != AVX_STATE ||
                 !cpu_is_protected(cpu)))
        return raise_ud(cpu);
    if (tag && unlikely(!cpuid_has(&cpu->cpuid, tag_features[tag])))
        return raise_ud(cpu);
    return likely(!(cpu->cr0 & CR0_TS)) || raise_nm(cpu);
}

/* ---- memory operands ---- */

static bool vex_linear(struct cpu *cpu, const struct insn *insn, size_t size, bool aligned,
                       enum access_type type, gva_t *linear)
{
    return operand_linear_aligned(cpu, insn, size, aligned ? size : 1, type, linear);
}

bool vex_load(struct cpu *cpu, const struct insn *insn, void *buffer, size_t size, bool aligned)
{
    gva_t linear;
    if (!vex_linear(cpu, insn, size, aligned, ACCESS_READ, &linear))
        return false;
    if (likely(size == 32)) {
        const uint8_t *host = tlb_read(cpu, linear, 32);
        if (likely(host) && likely(guarded_load128(host, buffer)) &&
            likely(guarded_load128(host + 16, (uint8_t *)buffer + 16)))
            return true;
    } else if (size == 16) {
        return simd_read16(cpu, linear, buffer);
    } else if (size == 8) {
        return mem_read64(cpu, linear, buffer);
    } else if (size == 4) {
        return mem_read32(cpu, linear, buffer);
    }
    return mem_read(cpu, linear, buffer, size, MEM_CURRENT);
}

bool vex_store(struct cpu *cpu, const struct insn *insn, const void *from, size_t size,
               bool aligned)
{
    gva_t linear;
    if (!vex_linear(cpu, insn, size, aligned, ACCESS_WRITE, &linear))
        return false;
    if (likely(size == 32)) {
        uint8_t *host = tlb_write(cpu, linear, 32);
        if (likely(host) && likely(guarded_store128(host, from)) &&
            likely(guarded_store128(host + 16, (const uint8_t *)from + 16)))
            return true;
    } else if (size == 16) {
        return simd_write16(cpu, linear, from);
    }
    return mem_write(cpu, linear, from, size, MEM_CURRENT);
}

/* ---- the shapes ---- */

static simd_stub *stub_of(const struct insn *insn)
{
    return (simd_stub *)(uintptr_t)insn->extra;
}

static always_inline void run(struct cpu *cpu, const struct insn *insn)
{
    void *places[4];
    for (unsigned i = 0; i < 4; i++)
        places[i] = simd_place(cpu, &insn->operand[i]);
    stub_of(insn)(places[0], places, cpu);
}

static always_inline bool run_float(struct cpu *cpu, const struct insn *insn)
{
    void *places[4];
    for (unsigned i = 0; i < 4; i++)
        places[i] = simd_place(cpu, &insn->operand[i]);
    const struct operand *first = &insn->operand[0];
    bool is_general = first->kind == OPERAND_REGISTER && first->reg_class == CLASS_GPR;
    size_t first_size = is_general ? 8 : 32;
    return simd_run_float(cpu, stub_of(insn), places[0], first_size, places);
}

static always_inline bool may_run(struct cpu *cpu, const struct insn *insn)
{
    return vex_usable(cpu, host_stub_tag(insn->extra));
}

static enum exec_result exec_registers(struct cpu *cpu, const struct insn *insn)
{
    if (!may_run(cpu, insn))
        return EXEC_LEAVE;
    run(cpu, insn);
    return EXEC_NEXT;
}

static enum exec_result exec_registers_float(struct cpu *cpu, const struct insn *insn)
{
    return exec_done(may_run(cpu, insn) && run_float(cpu, insn));
}

/* The memory operand among the sources; its size is in operand 4, which no instruction has. */
#define LOAD_SIZE(insn) ((insn)->operand[4].size)

static enum exec_result exec_load(struct cpu *cpu, const struct insn *insn)
{
    if (!may_run(cpu, insn) || !vex_load(cpu, insn, &cpu->scratch, LOAD_SIZE(insn), false))
        return EXEC_LEAVE;
    run(cpu, insn);
    return EXEC_NEXT;
}

static enum exec_result exec_load_float(struct cpu *cpu, const struct insn *insn)
{
    return exec_done(may_run(cpu, insn) &&
                     vex_load(cpu, insn, &cpu->scratch, LOAD_SIZE(insn), false) &&
                     run_float(cpu, insn));
}

static enum exec_result exec_store(struct cpu *cpu, const struct insn *insn)
{
    if (!may_run(cpu, insn))
        return EXEC_LEAVE;
    run(cpu, insn);
    return exec_done(vex_store(cpu, insn, &cpu->scratch, insn->operand[0].size, false));
}

/*
 * VCVTPS2PH does not heed MXCSR.FTZ, by which simd_run_float finds tiny results that are exact: with
 * an unmasked exception the host is let run into it (exec_simd_trap.h).
 */
static bool run_to_half(struct cpu *cpu, const struct insn *insn)
{
    union simd_buffer result;
    void *places[4];
    uint32_t mxcsr = cpu->mxcsr;

    if (unlikely((mxcsr & MXCSR_MASKS) != MXCSR_MASKS)) {
        for (unsigned i = 0; i < 4; i++)
            places[i] = simd_place(cpu, &insn->operand[i]);
        if (simd_trap_flags(&mxcsr, stub_of(insn), &result, places, cpu)) {
            cpu->mxcsr = mxcsr;
            return simd_raise_xm(cpu);
        }
    }
    return run_float(cpu, insn);
}

static enum exec_result exec_registers_half(struct cpu *cpu, const struct insn *insn)
{
    return exec_done(may_run(cpu, insn) && run_to_half(cpu, insn));
}

/* Memory with half precision is not checked for alignment, whatever its size (as on silicon). */
static enum mem_privilege half_privilege(const struct cpu *cpu) { return cpu->cpl == 3 ? MEM_USER : MEM_CURRENT; }

/* Flags are in MXCSR also when the store then faults, as processors do it. */
static enum exec_result exec_store_half(struct cpu *cpu, const struct insn *insn)
{
    const size_t size = insn->operand[0].size;
    gva_t linear;

    return exec_done(may_run(cpu, insn) && run_to_half(cpu, insn) && vex_linear(cpu, insn, size, false, ACCESS_WRITE, &linear) &&
                     mem_write(cpu, linear, &cpu->scratch, size, half_privilege(cpu)));
}

static enum exec_result exec_load_half(struct cpu *cpu, const struct insn *insn)
{
    gva_t linear;

    return exec_done(may_run(cpu, insn) && vex_linear(cpu, insn, LOAD_SIZE(insn), false, ACCESS_READ, &linear) &&
                     mem_read(cpu, linear, &cpu->scratch, LOAD_SIZE(insn), half_privilege(cpu)) && run_float(cpu, insn));
}

/* ---- binding ---- */

static bool tag_of(const ZydisDecodedInstruction *decoded, unsigned *tag)
{
    static const struct {
        ZydisISASet set;
        enum vex_tag tag;
    } sets[] = {
        {ZYDIS_ISA_SET_AVX, VEX_TAG_AVX},   {ZYDIS_ISA_SET_AVX2, VEX_TAG_AVX2},
        {ZYDIS_ISA_SET_FMA, VEX_TAG_FMA},   {ZYDIS_ISA_SET_AVX2GATHER, VEX_TAG_AVX2},
        {ZYDIS_ISA_SET_F16C, VEX_TAG_F16C}, {ZYDIS_ISA_SET_AVXAES, VEX_TAG_AES},
        {ZYDIS_ISA_SET_VAES, VEX_TAG_VAES}, {ZYDIS_ISA_SET_VPCLMULQDQ, VEX_TAG_VPCLMULQDQ},
    };
    for (size_t i = 0; i < array_size(sets); i++) {
        if (decoded->meta.isa_set == sets[i].set) {
            *tag = sets[i].tag;
            if (decoded->mnemonic == ZYDIS_MNEMONIC_VPCLMULQDQ && *tag == VEX_TAG_AVX)
                *tag = VEX_TAG_PCLMULQDQ;
            return true;
        }
    }
    return false;
}

static bool uses_mxcsr(const ZydisDecodedInstruction *decoded)
{
    switch (decoded->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11:
        return true;
    default:
        return false;
    }
}

/* Where each operand is in struct cpu: vector registers, and memory in the scratch buffer. */
static int place_operands(struct insn *insn)
{
    int memory = -1;
    for (unsigned i = 0; i < 4; i++) {
        struct operand *operand = &insn->operand[i];
        if (operand->kind == OPERAND_MEMORY) {
            memory = (int)i;
            operand->offset = offsetof(struct cpu, scratch);
        } else if (operand->kind == OPERAND_REGISTER &&
                   (operand->reg_class == CLASS_XMM || operand->reg_class == CLASS_YMM)) {
            operand->offset =
                (uint16_t)(offsetof(struct cpu, vector) + operand->number * sizeof(union vector));
        }
    }
    return memory;
}

bool exec_vex_bind(struct insn *insn, const ZydisDecodedInstruction *decoded,
                   const ZydisDecodedOperand *operands)
{
    unsigned tag;
    if (!tag_of(decoded, &tag) || !simd_host_has(tag_features[tag]))
        return false;
    int memory = place_operands(insn);
    insn->extra = (const void *)(uintptr_t)tag;
    insn->exec = vex_special(insn, operands);
    if (insn->exec)
        return true;
    if (insn->memory.is_vsib)
        return false;
    insn->extra = (const void *)(uintptr_t)vex_stub_for(decoded, operands, tag);
    if (!insn->extra)
        return false;
    bool is_float = uses_mxcsr(decoded);
    if (decoded->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH) {
        insn->exec = memory == 0 ? exec_store_half : exec_registers_half;
    } else if (memory == 0) {
        insn->exec = exec_store;
    } else if (memory > 0) {
        insn->operand[4].size = insn->operand[memory].size;
        insn->exec = decoded->mnemonic == ZYDIS_MNEMONIC_VCVTPH2PS ? exec_load_half : is_float ? exec_load_float : exec_load;
    } else {
        insn->exec = is_float ? exec_registers_float : exec_registers;
    }
    return true;
}
