/*
 * Binding the MMX and SSE families, and their execution by stubs: the general shapes (register to
 * register, load of 4, 8, 16 or other sizes, store), each with and without MXCSR.
 */
#include "x86/exec_simd.h"

#include <cpuid.h>
#include <pthread.h>

/* ---- what is there ---- */

enum cpuid_register { LEAF1_ECX, LEAF1_EDX, LEAF7_EBX, LEAF7_ECX };

/* One feature bit of CPUID and the instruction sets (as Zydis names them) it stands for. */
struct feature {
    uint8_t where; /* enum cpuid_register */
    uint8_t bit;
    uint8_t sets[2]; /* ZydisISASet; 0: none */
};

/* clang-format off */
static const struct feature features[] = {
    {LEAF1_EDX, 0,  {ZYDIS_ISA_SET_X87, ZYDIS_ISA_SET_FCMOV}},
    {LEAF1_EDX, 23, {ZYDIS_ISA_SET_PENTIUMMMX}},
    {LEAF1_EDX, 24, {ZYDIS_ISA_SET_FXSAVE, ZYDIS_ISA_SET_FXSAVE64}},
    {LEAF1_EDX, 25, {ZYDIS_ISA_SET_SSE, ZYDIS_ISA_SET_SSEMXCSR}},
    {LEAF1_EDX, 26, {ZYDIS_ISA_SET_SSE2, ZYDIS_ISA_SET_SSE2MMX}},
    {LEAF1_ECX, 0,  {ZYDIS_ISA_SET_SSE3, ZYDIS_ISA_SET_SSE3X87}},
    {LEAF1_ECX, 1,  {ZYDIS_ISA_SET_PCLMULQDQ}},
    {LEAF1_ECX, 9,  {ZYDIS_ISA_SET_SSSE3, ZYDIS_ISA_SET_SSSE3MMX}},
    {LEAF1_ECX, 19, {ZYDIS_ISA_SET_SSE4}},
    {LEAF1_ECX, 20, {ZYDIS_ISA_SET_SSE42}},
    {LEAF1_ECX, 25, {ZYDIS_ISA_SET_AES}},
    {LEAF7_EBX, 29, {ZYDIS_ISA_SET_SHA}},
    {LEAF7_ECX, 8,  {ZYDIS_ISA_SET_GFNI}},
};

/* Not in the table above because they name no instructions: x87 data pointer only on exceptions, no FCS and FDS. */
#define LEAF7_EBX_FDP_EXCPTN_ONLY (1u << 6)
#define LEAF7_EBX_NO_FCS_FDS      (1u << 13)
/* clang-format on */

static uint32_t shown_words[4]; /* by enum cpuid_register; set once: CPUID is slow on a virtual host */
static bool host_has_fdp_exceptions_only;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void find_features(void)
{
    unsigned leaf1[4] = {0}, leaf7[4] = {0};
    (void)__get_cpuid(1, &leaf1[0], &leaf1[1], &leaf1[2], &leaf1[3]);
    (void)__get_cpuid_count(7, 0, &leaf7[0], &leaf7[1], &leaf7[2], &leaf7[3]);
    const uint32_t host[4] = {
        [LEAF1_ECX] = leaf1[2], [LEAF1_EDX] = leaf1[3], [LEAF7_EBX] = leaf7[1], [LEAF7_ECX] = leaf7[2]};
    for (size_t i = 0; i < array_size(features); i++)
        shown_words[features[i].where] |= host[features[i].where] & 1u << features[i].bit;
    host_has_fdp_exceptions_only = leaf7[1] & LEAF7_EBX_FDP_EXCPTN_ONLY;
}

void exec_simd_cpuid(uint32_t leaf, uint32_t *ebx, uint32_t *ecx, uint32_t *edx)
{
    pthread_once(&once, find_features);
    *ebx = leaf == 7 ? shown_words[LEAF7_EBX] : 0;
    *ecx = leaf == 7 ? shown_words[LEAF7_ECX] : leaf == 1 ? shown_words[LEAF1_ECX] : 0;
    *edx = leaf == 1 ? shown_words[LEAF1_EDX] : 0;
    if (leaf == 7)
        *ebx |= LEAF7_EBX_NO_FCS_FDS | (host_has_fdp_exceptions_only ? LEAF7_EBX_FDP_EXCPTN_ONLY : 0);
}

bool exec_simd_allowed(const ZydisDecodedInstruction *decoded)
{
    pthread_once(&once, find_features);
    for (size_t i = 0; i < array_size(features); i++) {
        const struct feature *feature = &features[i];
        if (decoded->meta.isa_set == feature->sets[0] || decoded->meta.isa_set == feature->sets[1])
            return shown_words[feature->where] & 1u << feature->bit;
    }
    return false;
}

bool simd_usable_slow(struct cpu *cpu)
{
    if ((cpu->cr0 & CR0_EM) || !(cpu->cr4 & CR4_OSFXSR))
        return raise_ud(cpu);
    if (cpu->cr0 & CR0_TS)
        return raise_nm(cpu);
    return true;
}

/* ---- memory operands ---- */

bool simd_load(struct cpu *cpu, const struct insn *insn, union simd_buffer *buffer, size_t size, bool aligned)
{
    gva_t linear;
    if (!operand_linear(cpu, insn, size, ACCESS_READ, &linear))
        return false;
    if (aligned && (linear & 15))
        return raise_gp(cpu, 0);
    switch (size) {
    case 4: return mem_read32(cpu, linear, &buffer->d[0]);
    case 8: return mem_read64(cpu, linear, &buffer->q[0]);
    default: return mem_read(cpu, linear, buffer, size, MEM_CURRENT);
    }
}

bool simd_store(struct cpu *cpu, const struct insn *insn, const void *from, size_t size, bool aligned)
{
    gva_t linear;
    if (!operand_linear(cpu, insn, size, ACCESS_WRITE, &linear))
        return false;
    if (aligned && (linear & 15))
        return raise_gp(cpu, 0);
    return mem_write(cpu, linear, from, size, MEM_CURRENT);
}

/* ---- the shapes ---- */

static simd_stub *stub_of(const struct insn *insn)
{
    return (simd_stub *)(uintptr_t)insn->extra;
}

/* Both operands in registers, or only the first (shifts by an immediate). */
static enum exec_result exec_registers(struct cpu *cpu, const struct insn *insn)
{
    if (!simd_usable(cpu))
        return EXEC_LEAVE;
    stub_of(insn)(simd_place(cpu, &insn->operand[0]), simd_place(cpu, &insn->operand[1]), cpu);
    return EXEC_NEXT;
}

static enum exec_result exec_registers_float(struct cpu *cpu, const struct insn *insn)
{
    if (!simd_usable(cpu))
        return EXEC_LEAVE;
    size_t first_size = insn->operand[0].reg_class == CLASS_GPR ? 8 : 16;
    return exec_done(simd_run_float(cpu, stub_of(insn), simd_place(cpu, &insn->operand[0]), first_size,
                                    simd_place(cpu, &insn->operand[1])));
}

static always_inline enum exec_result load_and_run(struct cpu *cpu, const struct insn *insn, size_t size, bool aligned)
{
    union simd_buffer buffer;
    if (!simd_usable(cpu) || !simd_load(cpu, insn, &buffer, size, aligned))
        return EXEC_LEAVE;
    stub_of(insn)(simd_place(cpu, &insn->operand[0]), &buffer, cpu);
    return EXEC_NEXT;
}

static always_inline enum exec_result load_and_run_float(struct cpu *cpu, const struct insn *insn, size_t size, bool aligned)
{
    union simd_buffer buffer;
    if (!simd_usable(cpu) || !simd_load(cpu, insn, &buffer, size, aligned))
        return EXEC_LEAVE;
    size_t first_size = insn->operand[0].reg_class == CLASS_GPR ? 8 : 16;
    return exec_done(simd_run_float(cpu, stub_of(insn), simd_place(cpu, &insn->operand[0]), first_size, &buffer));
}

#define LOAD_SHAPE(name, size, aligned)                                                            \
    static enum exec_result exec_##name(struct cpu *cpu, const struct insn *insn)                  \
    {                                                                                              \
        return load_and_run(cpu, insn, size, aligned);                                             \
    }                                                                                              \
    static enum exec_result exec_##name##_float(struct cpu *cpu, const struct insn *insn)          \
    {                                                                                              \
        return load_and_run_float(cpu, insn, size, aligned);                                       \
    }

LOAD_SHAPE(load, insn->operand[1].size, false)
LOAD_SHAPE(load4, 4, false)
LOAD_SHAPE(load8, 8, false)
LOAD_SHAPE(load16, 16, false)
LOAD_SHAPE(load16_aligned, 16, true)

/* Operand 0 in memory, only written: PEXTRB and its relatives. */
static enum exec_result exec_store(struct cpu *cpu, const struct insn *insn)
{
    union simd_buffer buffer;
    if (!simd_usable(cpu))
        return EXEC_LEAVE;
    stub_of(insn)(&buffer, simd_place(cpu, &insn->operand[1]), cpu);
    return exec_done(simd_store(cpu, insn, &buffer, insn->operand[0].size, false));
}

/* ---- binding ---- */

/* Instructions of these instruction sets that belong to other families. */
static bool is_foreign(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_CRC32:
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_PAUSE:
    case ZYDIS_MNEMONIC_CLFLUSH: return true;
    default: return false;
    }
}

/* The few that have functions of their own. */
static exec_fn *special(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_EMMS: return exec_emms;
    case ZYDIS_MNEMONIC_MASKMOVQ: return exec_maskmovq;
    case ZYDIS_MNEMONIC_MASKMOVDQU: return exec_maskmovdqu;
    case ZYDIS_MNEMONIC_LDMXCSR: return exec_ldmxcsr;
    case ZYDIS_MNEMONIC_STMXCSR: return exec_stmxcsr;
    default: return NULL;
    }
}

/* Does MXCSR govern it, may it raise #XM? Exception classes 2 and 3 (SDM 2A 2.4), and conversions with MMX registers. */
static bool uses_mxcsr(const ZydisDecodedInstruction *decoded)
{
    switch (decoded->mnemonic) {
    case ZYDIS_MNEMONIC_CVTPI2PS:
    case ZYDIS_MNEMONIC_CVTPS2PI:
    case ZYDIS_MNEMONIC_CVTTPS2PI:
    case ZYDIS_MNEMONIC_CVTPD2PI:
    case ZYDIS_MNEMONIC_CVTTPD2PI: return true;
    default:
        return decoded->meta.exception_class == ZYDIS_EXCEPTION_CLASS_SSE2 ||
               decoded->meta.exception_class == ZYDIS_EXCEPTION_CLASS_SSE3;
    }
}

/* 16-byte memory operands are aligned, with these exceptions; conversions to MMX have no class in the tables. */
static bool needs_alignment(const ZydisDecodedInstruction *decoded)
{
    switch (decoded->mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM: return false;
    default: return true;
    }
}

static exec_fn *mmx_shape(const struct insn *insn, bool is_float)
{
    bool sse = insn->operand[0].reg_class == CLASS_XMM || insn->operand[1].reg_class == CLASS_XMM || is_float;
    if (sse)
        return is_float ? exec_mmx_sse_float : exec_mmx_sse;
    return exec_mmx;
}

static exec_fn *load_shape(size_t size, bool aligned, bool is_float)
{
    switch (size) {
    case 4: return is_float ? exec_load4_float : exec_load4;
    case 8: return is_float ? exec_load8_float : exec_load8;
    case 16:
        if (aligned)
            return is_float ? exec_load16_aligned_float : exec_load16_aligned;
        return is_float ? exec_load16_float : exec_load16;
    default: return is_float ? exec_load_float : exec_load;
    }
}

static exec_fn *shape_of(const struct insn *insn, const ZydisDecodedInstruction *decoded)
{
    bool is_float = uses_mxcsr(decoded);
    const struct operand *first = &insn->operand[0], *second = &insn->operand[1];
    bool mmx = (first->kind == OPERAND_REGISTER && first->reg_class == CLASS_MMX) ||
               (second->kind == OPERAND_REGISTER && second->reg_class == CLASS_MMX);
    if (mmx)
        return mmx_shape(insn, is_float);
    if (first->kind == OPERAND_MEMORY)
        return exec_store;
    if (second->kind == OPERAND_MEMORY)
        return load_shape(second->size, needs_alignment(decoded), is_float);
    return is_float ? exec_registers_float : exec_registers;
}

/* Vector registers get their byte offset in struct cpu, as general registers have it. */
static void place_vectors(struct insn *insn)
{
    for (unsigned i = 0; i < array_size(insn->operand); i++) {
        struct operand *operand = &insn->operand[i];
        if (operand->kind == OPERAND_REGISTER && operand->reg_class == CLASS_XMM)
            operand->offset = (uint16_t)(offsetof(struct cpu, vector) + operand->number * sizeof(union vector));
    }
}

bool exec_simd_bind(struct insn *insn, const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands)
{
    if (decoded->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || decoded->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ||
        decoded->meta.isa_set == ZYDIS_ISA_SET_FXSAVE || decoded->meta.isa_set == ZYDIS_ISA_SET_FXSAVE64 ||
        is_foreign(decoded->mnemonic) || !exec_simd_allowed(decoded))
        return false;
    place_vectors(insn);
    insn->exec = special(decoded->mnemonic);
    if (!insn->exec)
        insn->exec = simd_plain_move(insn);
    if (insn->exec)
        return true;
    insn->extra = (const void *)(uintptr_t)simd_stub_for(decoded, operands);
    if (!insn->extra)
        return false;
    insn->exec = shape_of(insn, decoded);
    return true;
}
