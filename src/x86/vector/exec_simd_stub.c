/*
 * Making the stub of an MMX or SSE instruction.
 *
 * Operands are renamed: explicit operand i becomes XMM(1+i), MM(i), RAX (i = 0) or RCX (i = 1), or
 * memory at [RDI] (i = 0) or [RSI] (i = 1); XMM0 stays free for the instructions that use it
 * implicitly. Of the prefixes only the mandatory one and REX.W remain: what else may stand there
 * selects registers and addresses, or is ignored by the processor.
 */
#include "x86/vector/exec_simd.h"

static const unsigned gpr_of[2] = {HOST_RAX, HOST_RCX};
static const unsigned place_of[2] = {HOST_RDI, HOST_RSI};

/* Offsets the stubs use of struct cpu, which is in R8 where it is needed. */
#define OFFSET_GPR(n) ((uint32_t)(offsetof(struct cpu, gpr) + (n) * sizeof(union gpr)))
#define OFFSET_XMM0   ((uint32_t)offsetof(struct cpu, vector))
#define OFFSET_AFLAGS ((uint32_t)offsetof(struct cpu, aflags))

/* Registers an instruction uses without naming them. */
struct implicit {
    bool reads_xmm0, writes_xmm0, reads_rax_rdx, writes_rcx, writes_flags;
};

static struct implicit implicit_of(const ZydisDecodedInstruction *decoded,
                                   const ZydisDecodedOperand *operands)
{
    struct implicit implicit = {0};
    for (unsigned i = decoded->operand_count_visible; i < decoded->operand_count; i++) {
        const ZydisDecodedOperand *operand = &operands[i];
        if (operand->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        bool read = operand->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
        bool written = operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
        switch (operand->reg.value) {
        case ZYDIS_REGISTER_XMM0:
            implicit.reads_xmm0 |= read;
            implicit.writes_xmm0 |= written;
            break;
        case ZYDIS_REGISTER_EAX:
        case ZYDIS_REGISTER_RAX:
            implicit.reads_rax_rdx = true;
            break;
        case ZYDIS_REGISTER_ECX:
        case ZYDIS_REGISTER_RCX:
            implicit.writes_rcx = true;
            break;
        case ZYDIS_REGISTER_FLAGS:
        case ZYDIS_REGISTER_EFLAGS:
        case ZYDIS_REGISTER_RFLAGS:
            implicit.writes_flags = true;
            break;
        default:
            break;
        }
    }
    return implicit;
}

/* Move explicit register operand i from or to its place. */
static void emit_transfer(struct stub_code *code, const ZydisDecodedOperand *operand, unsigned i,
                          bool store)
{
    switch (ZydisRegisterGetClass(operand->reg.value)) {
    case ZYDIS_REGCLASS_XMM: /* MOVUPS */
        stub_bytes(code, store ? "\x0f\x11" : "\x0f\x10", 2);
        stub_modrm_memory(code, 1 + i, place_of[i], 0);
        break;
    case ZYDIS_REGCLASS_MMX: /* MOVQ */
        stub_bytes(code, store ? "\x0f\x7f" : "\x0f\x6f", 2);
        stub_modrm_memory(code, i, place_of[i], 0);
        break;
    default: /* MOV of 64 bits: results of 32 bits are zero-extended in the register already */
        stub_bytes(code, store ? "\x48\x89" : "\x48\x8b", 2);
        stub_modrm_memory(code, gpr_of[i], place_of[i], 0);
        break;
    }
}

/* Does the whole register get a new value, whatever was in it? */
static bool is_overwritten(const ZydisDecodedOperand *operand)
{
    if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
        return false;
    switch (ZydisRegisterGetClass(operand->reg.value)) {
    case ZYDIS_REGCLASS_XMM:
        return operand->size == 128;
    case ZYDIS_REGCLASS_MMX:
        return operand->size == 64;
    default:
        return true; /* no vector instruction writes less than 32 bits of a general register */
    }
}

static void emit_implicit_loads(struct stub_code *code, const struct implicit *implicit)
{
    if (implicit->reads_xmm0 || implicit->writes_xmm0 || implicit->reads_rax_rdx ||
        implicit->writes_rcx || implicit->writes_flags)
        stub_bytes(code, "\x49\x89\xd0", 3); /* mov r8, rdx */
    if (implicit->reads_xmm0) {
        stub_bytes(code, "\x41\x0f\x10", 3);
        stub_modrm_memory(code, 0, HOST_R8, OFFSET_XMM0);
    }
    if (implicit->reads_rax_rdx) {
        stub_bytes(code, "\x49\x8b", 2);
        stub_modrm_memory(code, HOST_RAX, HOST_R8, OFFSET_GPR(REG_RAX));
        stub_bytes(code, "\x49\x8b", 2);
        stub_modrm_memory(code, HOST_RDX, HOST_R8, OFFSET_GPR(REG_RDX));
    }
}

static void emit_implicit_stores(struct stub_code *code, const struct implicit *implicit)
{
    if (implicit->writes_xmm0) {
        stub_bytes(code, "\x41\x0f\x11", 3);
        stub_modrm_memory(code, 0, HOST_R8, OFFSET_XMM0);
    }
    if (implicit->writes_rcx) {
        stub_bytes(code, "\x49\x89", 2);
        stub_modrm_memory(code, HOST_RCX, HOST_R8, OFFSET_GPR(REG_RCX));
    }
    if (implicit->writes_flags) {
        stub_bytes(code, "\x9f\x0f\x90\xc0\x0f\xb7\xc0\x41\x89",
                   9); /* lahf; seto al; movzx eax, ax; mov */
        stub_modrm_memory(code, HOST_RAX, HOST_R8, OFFSET_AFLAGS);
    }
}

static const ZydisDecodedOperand *operand_encoded(const ZydisDecodedInstruction *decoded,
                                                  const ZydisDecodedOperand *operands,
                                                  ZydisOperandEncoding encoding, unsigned *number)
{
    for (unsigned i = 0; i < decoded->operand_count_visible && i < 2; i++) {
        if (operands[i].encoding == encoding) {
            *number = i;
            return &operands[i];
        }
    }
    return NULL;
}

/* What register operand i is called in the stub. */
static unsigned renamed(const ZydisDecodedOperand *operand, unsigned i)
{
    switch (ZydisRegisterGetClass(operand->reg.value)) {
    case ZYDIS_REGCLASS_XMM:
        return 1 + i;
    case ZYDIS_REGCLASS_MMX:
        return i;
    default:
        return gpr_of[i];
    }
}

/* REX.W matters where a 64-bit general register or memory operand, or RAX and RDX, take part. */
static bool needs_rex_w(const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands)
{
    if (!(decoded->attributes & ZYDIS_ATTRIB_HAS_REX) || !decoded->raw.rex.W)
        return false;
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        bool is_general = operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY ||
                          (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                           ZydisRegisterGetClass(operands[i].reg.value) == ZYDIS_REGCLASS_GPR64);
        if (is_general && operands[i].size == 64)
            return true;
    }
    return false;
}

static bool emit_instruction(struct stub_code *code, const ZydisDecodedInstruction *decoded,
                             const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < decoded->raw.prefix_count; i++) {
        if (decoded->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
            stub_byte(code, decoded->raw.prefixes[i].value);
    }
    if (needs_rex_w(decoded, operands))
        stub_byte(code, 0x48);
    stub_byte(code, 0x0f);
    switch (decoded->opcode_map) {
    case ZYDIS_OPCODE_MAP_0F:
        break;
    case ZYDIS_OPCODE_MAP_0F38:
        stub_byte(code, 0x38);
        break;
    case ZYDIS_OPCODE_MAP_0F3A:
        stub_byte(code, 0x3a);
        break;
    default:
        return false;
    }
    stub_byte(code, decoded->opcode);

    unsigned i = 0;
    const ZydisDecodedOperand *reg =
        operand_encoded(decoded, operands, ZYDIS_OPERAND_ENCODING_MODRM_REG, &i);
    unsigned reg_field = reg ? renamed(reg, i) : decoded->raw.modrm.reg;
    const ZydisDecodedOperand *rm =
        operand_encoded(decoded, operands, ZYDIS_OPERAND_ENCODING_MODRM_RM, &i);
    if (!rm)
        return false;
    if (rm->type == ZYDIS_OPERAND_TYPE_MEMORY)
        stub_modrm_memory(code, reg_field, place_of[i], 0);
    else
        stub_byte(code, 0xc0 | reg_field << 3 | renamed(rm, i));
    if (decoded->raw.imm[0].size == 8)
        stub_byte(code, (unsigned)decoded->raw.imm[0].value.u & 0xff);
    return true;
}

simd_stub *simd_stub_for(const ZydisDecodedInstruction *decoded,
                         const ZydisDecodedOperand *operands)
{
    struct stub_code code = {.tag = simd_feature_tag(decoded)};
    struct implicit implicit = implicit_of(decoded, operands);
    unsigned explicit_count =
        decoded->operand_count_visible < 2 ? decoded->operand_count_visible : 2;
    bool uses_mmx = false;

    emit_implicit_loads(&code, &implicit);
    for (unsigned i = 0; i < explicit_count; i++) {
        if (operands[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        uses_mmx |= ZydisRegisterGetClass(operands[i].reg.value) == ZYDIS_REGCLASS_MMX;
        if (!is_overwritten(&operands[i]))
            emit_transfer(&code, &operands[i], i, false);
    }
    if (!emit_instruction(&code, decoded, operands))
        return NULL;
    for (unsigned i = 0; i < explicit_count; i++) {
        if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            emit_transfer(&code, &operands[i], i, true);
    }
    emit_implicit_stores(&code, &implicit);
    if (uses_mmx)
        stub_bytes(&code, "\x0f\x77", 2); /* emms: the host's x87 is empty between functions */
    stub_byte(&code, 0xc3);
    return (simd_stub *)(uintptr_t)host_stub_get(&code);
}
