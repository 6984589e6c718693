/*
 * Making the stub of a VEX-encoded instruction.
 *
 * Explicit operand i becomes YMM(1+i), RAX (i = 0) or RCX (i > 0), or memory at [RDI] (i = 0) or
 * [R9]. The VEX prefix is always the long one, with the opcode map, W, L and pp of the guest's
 * instruction and new register numbers. An /is4 register is in the immediate's upper half.
 */
#include "x86/vector/exec_vex.h"

#define OFFSET_GPR(n) ((uint32_t)(offsetof(struct cpu, gpr) + (n) * sizeof(union gpr)))
#define OFFSET_XMM0   ((uint32_t)offsetof(struct cpu, vector))
#define OFFSET_AFLAGS ((uint32_t)offsetof(struct cpu, aflags))

static bool is_vector(const ZydisDecodedOperand *operand)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(operand->reg.value);
    return operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
           (class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM);
}

static bool is_general(const ZydisDecodedOperand *operand)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(operand->reg.value);
    return operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
           (class == ZYDIS_REGCLASS_GPR32 || class == ZYDIS_REGCLASS_GPR64);
}

static unsigned renamed(const ZydisDecodedOperand *operand, unsigned i)
{
    if (is_vector(operand))
        return 1 + i;
    return i == 0 ? HOST_RAX : HOST_RCX;
}

/* R9 = places[i]: mov r9, [rsi + 8 * i] */
static void emit_place(struct stub_code *code, unsigned i)
{
    stub_bytes(code, "\x4c\x8b\x4e", 3);
    stub_byte(code, 8 * i);
}

/* Source operand i into its register. */
static void emit_load(struct stub_code *code, const ZydisDecodedOperand *operand, unsigned i)
{
    emit_place(code, i);
    if (is_vector(operand)) { /* vmovups ymm, [r9] */
        stub_bytes(code, "\xc4\xc1\x7c\x10", 4);
        stub_byte(code, (1 + i) << 3 | 1);
    } else { /* mov reg, [r9] */
        stub_bytes(code, "\x49\x8b", 2);
        stub_byte(code, renamed(operand, i) << 3 | 1);
    }
}

/* Operand 0 from its register to [RDI]. */
static void emit_store(struct stub_code *code, const ZydisDecodedOperand *operand)
{
    if (is_vector(operand))
        stub_bytes(code, "\xc5\xfc\x11\x0f", 4); /* vmovups [rdi], ymm1 */
    else
        stub_bytes(code, "\x48\x89\x07", 3); /* mov [rdi], rax */
}

struct implicit {
    bool reads_rax_rdx, writes_rcx, writes_xmm0, writes_flags;
};

/* What VPCMPxSTRx, VPTEST, VCOMISD and the like use without naming it. */
static struct implicit implicit_of(const ZydisDecodedInstruction *decoded,
                                   const ZydisDecodedOperand *operands)
{
    struct implicit implicit = {0};
    for (unsigned i = decoded->operand_count_visible; i < decoded->operand_count; i++) {
        const ZydisDecodedOperand *operand = &operands[i];
        if (operand->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        switch (operand->reg.value) {
        case ZYDIS_REGISTER_EAX:
        case ZYDIS_REGISTER_RAX:
            implicit.reads_rax_rdx = true;
            break;
        case ZYDIS_REGISTER_ECX:
        case ZYDIS_REGISTER_RCX:
            implicit.writes_rcx = true;
            break;
        case ZYDIS_REGISTER_XMM0:
            implicit.writes_xmm0 = true;
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

static void emit_implicit_loads(struct stub_code *code, const struct implicit *implicit)
{
    stub_bytes(code, "\x49\x89\xd0", 3); /* mov r8, rdx */
    if (!implicit->reads_rax_rdx)
        return;
    stub_bytes(code, "\x49\x8b", 2);
    stub_modrm_memory(code, HOST_RAX, HOST_R8, OFFSET_GPR(REG_RAX));
    stub_bytes(code, "\x49\x8b", 2);
    stub_modrm_memory(code, HOST_RDX, HOST_R8, OFFSET_GPR(REG_RDX));
}

static void emit_implicit_stores(struct stub_code *code, const struct implicit *implicit)
{
    if (implicit->writes_xmm0) { /* vmovups [r8 + ..], ymm0 */
        stub_bytes(code, "\xc4\xc1\x7c\x11", 4);
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

/* W selects 64-bit general registers, which only 64-bit mode has: elsewhere it is ignored where it
 * would do that. */
static unsigned effective_w(const ZydisDecodedInstruction *decoded)
{
    if (decoded->machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
        return decoded->raw.vex.W;
    switch (decoded->mnemonic) {
    case ZYDIS_MNEMONIC_VCVTSI2SS:
    case ZYDIS_MNEMONIC_VCVTSI2SD:
    case ZYDIS_MNEMONIC_VCVTSS2SI:
    case ZYDIS_MNEMONIC_VCVTSD2SI:
    case ZYDIS_MNEMONIC_VCVTTSS2SI:
    case ZYDIS_MNEMONIC_VCVTTSD2SI:
    case ZYDIS_MNEMONIC_VMOVD:
    case ZYDIS_MNEMONIC_VMOVQ:
    case ZYDIS_MNEMONIC_VPINSRD:
    case ZYDIS_MNEMONIC_VPINSRQ:
    case ZYDIS_MNEMONIC_VPEXTRD:
    case ZYDIS_MNEMONIC_VPEXTRQ:
    case ZYDIS_MNEMONIC_VPCMPESTRI:
    case ZYDIS_MNEMONIC_VPCMPESTRM:
        return 0;
    default:
        return decoded->raw.vex.W;
    }
}

/* The operand with this encoding; -1: none. */
static int encoded_as(const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands,
                      ZydisOperandEncoding encoding)
{
    for (unsigned i = 0; i < decoded->operand_count_visible && i < 4; i++) {
        if (operands[i].encoding == encoding)
            return (int)i;
    }
    return -1;
}

static unsigned register_encoded_as(const ZydisDecodedInstruction *decoded,
                                    const ZydisDecodedOperand *operands,
                                    ZydisOperandEncoding encoding, unsigned otherwise)
{
    int i = encoded_as(decoded, operands, encoding);
    return i < 0 ? otherwise : renamed(&operands[i], (unsigned)i);
}

static bool emit_instruction(struct stub_code *code, const ZydisDecodedInstruction *decoded,
                             const ZydisDecodedOperand *operands)
{
    int rm = encoded_as(decoded, operands, ZYDIS_OPERAND_ENCODING_MODRM_RM);
    if (rm < 0)
        return false;
    bool is_memory = operands[rm].type == ZYDIS_OPERAND_TYPE_MEMORY;
    bool is_place = is_memory && rm > 0;
    unsigned vvvv =
        register_encoded_as(decoded, operands, ZYDIS_OPERAND_ENCODING_NDSNDD, 0);
    unsigned reg = register_encoded_as(decoded, operands, ZYDIS_OPERAND_ENCODING_MODRM_REG,
                                       decoded->raw.modrm.reg);
    int is4 = encoded_as(decoded, operands, ZYDIS_OPERAND_ENCODING_IS4);

    if (is_place)
        emit_place(code, (unsigned)rm);
    stub_byte(code, 0xc4);
    stub_byte(code, (is_place ? 0xc0u : 0xe0u) | decoded->raw.vex.m_mmmm);
    stub_byte(code, effective_w(decoded) << 7 | (~vvvv & 15) << 3 |
                        (unsigned)decoded->raw.vex.L << 2 | decoded->raw.vex.pp);
    stub_byte(code, decoded->opcode);
    if (is_memory)
        stub_byte(code, reg << 3 | (is_place ? 1 : HOST_RDI));
    else
        stub_byte(code, 0xc0 | reg << 3 | renamed(&operands[rm], (unsigned)rm));
    if (is4 >= 0)
        stub_byte(code, (1 + (unsigned)is4) << 4);
    else if (decoded->raw.imm[0].size == 8)
        stub_byte(code, (unsigned)decoded->raw.imm[0].value.u & 0xff);
    return true;
}

simd_stub *vex_stub_for(const ZydisDecodedInstruction *decoded,
                        const ZydisDecodedOperand *operands, unsigned tag)
{
    struct stub_code code = {.tag = (uint8_t)tag};
    struct implicit implicit = implicit_of(decoded, operands);
    const ZydisDecodedOperand *first = &operands[0];
    bool is_register = is_vector(first) || is_general(first);

    emit_implicit_loads(&code, &implicit);
    for (unsigned i = 0; i < decoded->operand_count_visible && i < 4; i++) {
        const ZydisDecodedOperand *operand = &operands[i];
        if (!is_vector(operand) && !is_general(operand))
            continue;
        if (i == 0 && (operand->actions & ZYDIS_OPERAND_ACTION_MASK_READ)) {
            stub_bytes(&code, "\xc5\xfc\x10\x0f", 4); /* vmovups ymm1, [rdi] */
            if (!is_vector(operand))
                return NULL;
        } else if (i > 0) {
            emit_load(&code, operand, i);
        }
    }
    if (!emit_instruction(&code, decoded, operands))
        return NULL;
    if (is_register && (first->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
        emit_store(&code, first);
    emit_implicit_stores(&code, &implicit);
    stub_bytes(&code, "\xc5\xf8\x77\xc3", 4); /* vzeroupper; ret */
    return (simd_stub *)(uintptr_t)host_stub_get(&code);
}
