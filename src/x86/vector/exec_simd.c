/*
 * Binding the MMX and SSE families, and their execution by stubs: the general shapes (register to
 * register, load of 4, 8, 16 or other sizes, store), each with and without MXCSR.
 */
#include "x86/vector/exec_simd.h"

#include <cpuid.h>
#include <pthread.h>

/* ---- what is there ---- */

/* A CPUID feature and the instruction sets (as Zydis names them) it stands for. */
struct feature {
    uint16_t feature; /* enum cpu_feature */
    bool is_optional; /* a partition may take it away */
    uint8_t sets[2];  /* ZydisISASet; 0: none */
};

/* clang-format off */
static const struct feature features[] = {
    {FEATURE_FPU,       false, {ZYDIS_ISA_SET_X87, ZYDIS_ISA_SET_FCMOV}},
    {FEATURE_MMX,       false, {ZYDIS_ISA_SET_PENTIUMMMX}},
    {FEATURE_FXSR,      false, {ZYDIS_ISA_SET_FXSAVE, ZYDIS_ISA_SET_FXSAVE64}},
    {FEATURE_SSE,       false, {ZYDIS_ISA_SET_SSE, ZYDIS_ISA_SET_SSEMXCSR}},
    {FEATURE_SSE2,      false, {ZYDIS_ISA_SET_SSE2, ZYDIS_ISA_SET_SSE2MMX}},
    {FEATURE_SSE3,      true,  {ZYDIS_ISA_SET_SSE3, ZYDIS_ISA_SET_SSE3X87}},
    {FEATURE_PCLMULQDQ, true,  {ZYDIS_ISA_SET_PCLMULQDQ}},
    {FEATURE_SSSE3,     true,  {ZYDIS_ISA_SET_SSSE3, ZYDIS_ISA_SET_SSSE3MMX}},
    {FEATURE_SSE4_1,    true,  {ZYDIS_ISA_SET_SSE4}},
    {FEATURE_SSE4_2,    true,  {ZYDIS_ISA_SET_SSE42}},
    {FEATURE_AES,       true,  {ZYDIS_ISA_SET_AES}},
    {FEATURE_SHA,       true,  {ZYDIS_ISA_SET_SHA}},
};
/* clang-format on */

static uint32_t
    host_words[CPUID_WORDS]; /* of leaves 1 and 7; set once: CPUID is slow on a virtual host */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Does the host's kernel keep the upper halves of YMM registers? */
static bool host_enables_avx(uint32_t leaf1_ecx)
{
    uint32_t low, high;
    if (!(leaf1_ecx & bit_OSXSAVE))
        return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 6) == 6;
}

static void ask_host(void)
{
    unsigned leaf1[4] = {0}, leaf7[4] = {0};
    (void)__get_cpuid(1, &leaf1[0], &leaf1[1], &leaf1[2], &leaf1[3]);
    (void)__get_cpuid_count(7, 0, &leaf7[0], &leaf7[1], &leaf7[2], &leaf7[3]);
    host_words[CPUID_1_ECX] = leaf1[2];
    host_words[CPUID_1_EDX] = leaf1[3];
    host_words[CPUID_7_EBX] = leaf7[1];
    host_words[CPUID_7_ECX] = leaf7[2];
    if (!host_enables_avx(leaf1[2])) /* what extends AVX goes with it, see cpuid.c */
        host_words[CPUID_1_ECX] &= ~(1u << (FEATURE_AVX & 31));
}

bool simd_host_has(enum cpu_feature feature)
{
    pthread_once(&once, ask_host);
    return host_words[feature >> 5] & 1u << (feature & 31);
}

void exec_simd_limit(struct cpuid_config *config)
{
    for (size_t i = 0; i < array_size(features); i++) {
        if (!simd_host_has(features[i].feature))
            cpuid_set(config, features[i].feature, false);
    }
    static const uint16_t vex[] = {FEATURE_AVX,  FEATURE_AVX2, FEATURE_FMA,
                                   FEATURE_F16C, FEATURE_VAES, FEATURE_VPCLMULQDQ};
    for (size_t i = 0; i < array_size(vex); i++) {
        if (!simd_host_has(vex[i]) || !simd_host_has(FEATURE_AVX))
            cpuid_set(config, vex[i], false);
    }
    if (!simd_host_has(FEATURE_FDP_EXCPTN_ONLY))
        cpuid_set(config, FEATURE_FDP_EXCPTN_ONLY, false);
}

static const struct feature *feature_of(const ZydisDecodedInstruction *decoded)
{
    for (size_t i = 0; i < array_size(features); i++) {
        if (decoded->meta.isa_set == features[i].sets[0] ||
            decoded->meta.isa_set == features[i].sets[1])
            return &features[i];
    }
    return NULL;
}

/* Is it of an instruction set that is implemented here, and in the host? */
static bool is_executable(const ZydisDecodedInstruction *decoded)
{
    const struct feature *feature = feature_of(decoded);
    return feature && simd_host_has(feature->feature);
}

uint8_t simd_feature_tag(const ZydisDecodedInstruction *decoded)
{
    const struct feature *feature = feature_of(decoded);
    return feature && feature->is_optional ? (uint8_t)(feature - features + 1) : 0;
}

bool simd_has_feature_slow(struct cpu *cpu, uint8_t tag)
{
    return cpuid_has(&cpu->cpuid, features[tag - 1].feature) || raise_ud(cpu);
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

bool simd_load(struct cpu *cpu, const struct insn *insn, union simd_buffer *buffer, size_t size,
               bool aligned)
{
    gva_t linear;
    if (!operand_linear_aligned(cpu, insn, size, aligned ? 16 : 1, ACCESS_READ, &linear))
        return false;
    switch (size) {
    case 4:
        return mem_read32(cpu, linear, &buffer->d[0]);
    case 8:
        return mem_read64(cpu, linear, &buffer->q[0]);
    case 16:
        return simd_read16(cpu, linear, buffer);
    default:
        return mem_read(cpu, linear, buffer, size, MEM_CURRENT);
    }
}

bool simd_store(struct cpu *cpu, const struct insn *insn, const void *from, size_t size,
                bool aligned)
{
    gva_t linear;
    if (!operand_linear_aligned(cpu, insn, size, aligned ? 16 : 1, ACCESS_WRITE, &linear))
        return false;
    return mem_write(cpu, linear, from, size, MEM_CURRENT);
}

/* ---- the shapes ---- */

static simd_stub *stub_of(const struct insn *insn)
{
    return (simd_stub *)(uintptr_t)insn->extra;
}

static always_inline bool may_run(struct cpu *cpu, const struct insn *insn)
{
    return simd_has_feature(cpu, insn->extra) && simd_usable(cpu);
}

/* Both operands in registers, or only the first (shifts by an immediate). */
static enum exec_result exec_registers(struct cpu *cpu, const struct insn *insn)
{
    if (!may_run(cpu, insn))
        return EXEC_LEAVE;
    stub_of(insn)(simd_place(cpu, &insn->operand[0]), simd_place(cpu, &insn->operand[1]), cpu);
    return EXEC_NEXT;
}

static enum exec_result exec_registers_float(struct cpu *cpu, const struct insn *insn)
{
    if (!may_run(cpu, insn))
        return EXEC_LEAVE;
    size_t first_size = insn->operand[0].reg_class == CLASS_GPR ? 8 : 16;
    return exec_done(simd_run_float(cpu, stub_of(insn), simd_place(cpu, &insn->operand[0]),
                                    first_size, simd_place(cpu, &insn->operand[1])));
}

static always_inline enum exec_result load_and_run(struct cpu *cpu, const struct insn *insn,
                                                   size_t size, bool aligned)
{
    union simd_buffer buffer;
    if (!may_run(cpu, insn) || !simd_load(cpu, insn, &buffer, size, aligned))
        return EXEC_LEAVE;
    stub_of(insn)(simd_place(cpu, &insn->operand[0]), &buffer, cpu);
    return EXEC_NEXT;
}

static always_inline enum exec_result load_and_run_float(struct cpu *cpu, const struct insn *insn,
                                                         size_t size, bool aligned)
{
    union simd_buffer buffer;
    if (!may_run(cpu, insn) || !simd_load(cpu, insn, &buffer, size, aligned))
        return EXEC_LEAVE;
    size_t first_size = insn->operand[0].reg_class == CLASS_GPR ? 8 : 16;
    return exec_done(simd_run_float(cpu, stub_of(insn), simd_place(cpu, &insn->operand[0]),
                                    first_size, &buffer));
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
    if (!may_run(cpu, insn))
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
    case ZYDIS_MNEMONIC_CLFLUSH:
        return true;
    default:
        return false;
    }
}

/* The few that have functions of their own. */
static exec_fn *special(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_EMMS:
        return exec_emms;
    case ZYDIS_MNEMONIC_MASKMOVQ:
        return exec_maskmovq;
    case ZYDIS_MNEMONIC_MASKMOVDQU:
        return exec_maskmovdqu;
    case ZYDIS_MNEMONIC_LDMXCSR:
        return exec_ldmxcsr;
    case ZYDIS_MNEMONIC_STMXCSR:
        return exec_stmxcsr;
    default:
        return NULL;
    }
}

/* Does MXCSR govern it, may it raise #XM? Exception classes 2 and 3 (SDM 2A 2.4), and conversions
 * with MMX registers. */
static bool uses_mxcsr(const ZydisDecodedInstruction *decoded)
{
    switch (decoded->mnemonic) {
    case ZYDIS_MNEMONIC_CVTPI2PS:
    case ZYDIS_MNEMONIC_CVTPS2PI:
    case ZYDIS_MNEMONIC_CVTTPS2PI:
    case ZYDIS_MNEMONIC_CVTPD2PI:
    case ZYDIS_MNEMONIC_CVTTPD2PI:
        return true;
    default:
        return decoded->meta.exception_class == ZYDIS_EXCEPTION_CLASS_SSE2 ||
               decoded->meta.exception_class == ZYDIS_EXCEPTION_CLASS_SSE3;
    }
}

/* 16-byte memory operands are aligned, with these exceptions; conversions to MMX have no class in
 * the tables. */
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
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return false;
    default:
        return true;
    }
}

static exec_fn *mmx_shape(const struct insn *insn, bool is_float)
{
    bool sse = insn->operand[0].reg_class == CLASS_XMM || insn->operand[1].reg_class == CLASS_XMM ||
               is_float;
    if (sse)
        return is_float ? exec_mmx_sse_float : exec_mmx_sse;
    return exec_mmx;
}

static exec_fn *load_shape(size_t size, bool aligned, bool is_float)
{
    switch (size) {
    case 4:
        return is_float ? exec_load4_float : exec_load4;
    case 8:
        return is_float ? exec_load8_float : exec_load8;
    case 16:
        if (aligned)
            return is_float ? exec_load16_aligned_float : exec_load16_aligned;
        return is_float ? exec_load16_float : exec_load16;
    default:
        return is_float ? exec_load_float : exec_load;
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
            operand->offset =
                (uint16_t)(offsetof(struct cpu, vector) + operand->number * sizeof(union vector));
    }
}

bool exec_simd_bind(struct insn *insn, const ZydisDecodedInstruction *decoded,
                    const ZydisDecodedOperand *operands)
{
    if (decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        return exec_vex_bind(insn, decoded, operands);
    if (decoded->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
        decoded->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ||
        decoded->meta.isa_set == ZYDIS_ISA_SET_FXSAVE ||
        decoded->meta.isa_set == ZYDIS_ISA_SET_FXSAVE64 || is_foreign(decoded->mnemonic) ||
        !is_executable(decoded))
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

/* ---- shapes by function ---- */

unsigned simd_shape(const struct insn *insn)
{
    static const struct {
        exec_fn *exec;
        unsigned shape;
    } shapes[] = {
        {exec_registers, SIMD_SHAPE_REGISTERS},
        {exec_registers_float, SIMD_SHAPE_REGISTERS + SIMD_SHAPE_FLOAT},
        {exec_load4, SIMD_SHAPE_LOAD4},
        {exec_load4_float, SIMD_SHAPE_LOAD4 + SIMD_SHAPE_FLOAT},
        {exec_load8, SIMD_SHAPE_LOAD8},
        {exec_load8_float, SIMD_SHAPE_LOAD8 + SIMD_SHAPE_FLOAT},
        {exec_load16, SIMD_SHAPE_LOAD16},
        {exec_load16_float, SIMD_SHAPE_LOAD16 + SIMD_SHAPE_FLOAT},
        {exec_load16_aligned, SIMD_SHAPE_LOAD16_ALIGNED},
        {exec_load16_aligned_float, SIMD_SHAPE_LOAD16_ALIGNED + SIMD_SHAPE_FLOAT},
    };

    for (size_t i = 0; i < array_size(shapes); i++)
        if (shapes[i].exec == insn->exec)
            return shapes[i].shape;
    return SIMD_SHAPE_OTHER;
}
