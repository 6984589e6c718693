/* The processor core's part in the tests of the SIMD and x87 families. */
#include "simd_stand_in.h"

#include <string.h>

uint64_t stand_in_start, stand_in_end;

/* ---- faults ---- */

bool raise_error(struct cpu *cpu, uint8_t vector, uint32_t error)
{
    cpu->leave = LEAVE_FAULT;
    cpu->fault = (struct cpu_fault){.vector = vector, .has_error = true, .error = error};
    return false;
}

bool raise_fault(struct cpu *cpu, uint8_t vector) { return raise_error(cpu, vector, 0); }

/* ---- memory ---- */

static bool is_there(struct cpu *cpu, gva_t linear, size_t size)
{
    if (linear >= stand_in_start && linear + size <= stand_in_end)
        return true;
    return raise_error(cpu, VECTOR_PF, 0);
}

bool mem_read(struct cpu *cpu, gva_t linear, void *to, size_t size, enum mem_privilege privilege)
{
    (void)privilege;
    if (!is_there(cpu, linear, size))
        return false;
    memcpy(to, (const void *)(uintptr_t)linear, size);
    return true;
}

bool mem_write(struct cpu *cpu, gva_t linear, const void *from, size_t size, enum mem_privilege privilege)
{
    (void)privilege;
    if (!is_there(cpu, linear, size))
        return false;
    memcpy((void *)(uintptr_t)linear, from, size);
    return true;
}

bool mem_probe(struct cpu *cpu, gva_t linear, size_t size, enum access_type type, enum mem_privilege privilege)
{
    (void)type, (void)privilege;
    return is_there(cpu, linear, size);
}

bool mem_read32(struct cpu *cpu, gva_t linear, uint32_t *value) { return mem_read(cpu, linear, value, 4, MEM_CURRENT); }
bool mem_read64(struct cpu *cpu, gva_t linear, uint64_t *value) { return mem_read(cpu, linear, value, 8, MEM_CURRENT); }
bool mem_write32(struct cpu *cpu, gva_t linear, uint32_t value) { return mem_write(cpu, linear, &value, 4, MEM_CURRENT); }
bool mem_write64(struct cpu *cpu, gva_t linear, uint64_t value) { return mem_write(cpu, linear, &value, 8, MEM_CURRENT); }

/* ---- operands ---- */

uint64_t operand_offset(const struct cpu *cpu, const struct insn *insn)
{
    const char *base = (const char *)cpu;
    uint64_t offset = (uint64_t)insn->memory.displacement;
    offset += *(const uint64_t *)(const void *)(base + insn->memory.base);
    return offset + (*(const uint64_t *)(const void *)(base + insn->memory.index) << insn->memory.scale_shift);
}

bool operand_linear(struct cpu *cpu, const struct insn *insn, size_t size, enum access_type type, gva_t *linear)
{
    (void)size, (void)type;
    *linear = operand_offset(cpu, insn);
    return true;
}

bool operand_read_bytes(struct cpu *cpu, const struct insn *insn, void *to, size_t size)
{
    return mem_read(cpu, operand_offset(cpu, insn), to, size, MEM_CURRENT);
}

bool operand_write_bytes(struct cpu *cpu, const struct insn *insn, const void *from, size_t size)
{
    return mem_write(cpu, operand_offset(cpu, insn), from, size, MEM_CURRENT);
}

bool operand_read(struct cpu *cpu, const struct insn *insn, unsigned i, uint64_t *value)
{
    *value = 0;
    return operand_read_bytes(cpu, insn, value, insn->operand[i].size);
}

bool operand_write(struct cpu *cpu, const struct insn *insn, unsigned i, uint64_t value)
{
    const struct operand *operand = &insn->operand[i];
    if (operand->kind == OPERAND_MEMORY)
        return operand_write_bytes(cpu, insn, &value, operand->size);
    gpr_write(cpu, operand->number, operand->size, value);
    return true;
}

/* ---- decoding ---- */

static uint16_t gpr_place(ZydisRegister reg)
{
    if (reg == ZYDIS_REGISTER_NONE)
        return offsetof(struct cpu, zero);
    return (uint16_t)(offsetof(struct cpu, gpr) + 8 * (unsigned)ZydisRegisterGetId(reg));
}

static void convert(const ZydisDecodedOperand *from, struct insn *insn, unsigned i)
{
    struct operand *to = &insn->operand[i];
    *to = (struct operand){.size = (uint8_t)(from->size / 8),
                           .is_read = from->actions & ZYDIS_OPERAND_ACTION_MASK_READ,
                           .is_written = from->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE};
    if (from->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        to->kind = OPERAND_MEMORY;
    } else if (from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        to->kind = OPERAND_IMMEDIATE;
    } else {
        ZydisRegisterClass class = ZydisRegisterGetClass(from->reg.value);
        to->kind = OPERAND_REGISTER;
        to->number = (uint8_t)ZydisRegisterGetId(from->reg.value);
        to->reg_class = class == ZYDIS_REGCLASS_XMM   ? CLASS_XMM
                        : class == ZYDIS_REGCLASS_MMX ? CLASS_MMX
                        : class == ZYDIS_REGCLASS_X87 ? CLASS_X87
                                                      : CLASS_GPR;
        if (to->reg_class == CLASS_GPR)
            to->offset = gpr_place(from->reg.value);
    }
}

bool stand_in_decode(const uint8_t *bytes, size_t size, struct insn *insn, ZydisDecodedInstruction *decoded,
                     ZydisDecodedOperand *operands)
{
    static const uint8_t shifts[9] = {[2] = 1, [4] = 2, [8] = 3};
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, size, decoded, operands)))
        return false;
    *insn = (struct insn){.mnemonic = decoded->mnemonic,
                          .length = decoded->length,
                          .operand_size = decoded->operand_width == 16 ? 2 : decoded->operand_width == 64 ? 8 : 4,
                          .opcode_map = (uint8_t)decoded->opcode_map,
                          .opcode = decoded->opcode,
                          .modrm = (uint8_t)(decoded->raw.modrm.mod << 6 | decoded->raw.modrm.reg << 3 | decoded->raw.modrm.rm),
                          .operand_count = decoded->operand_count_visible};
    for (unsigned i = 0; i < decoded->operand_count_visible && i < 5; i++)
        convert(&operands[i], insn, i);
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        if (operands[i].type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        insn->memory = (struct memory_operand){.base = gpr_place(operands[i].mem.base),
                                               .index = gpr_place(operands[i].mem.index),
                                               .scale_shift = shifts[operands[i].mem.scale],
                                               .displacement = operands[i].mem.disp.value};
    }
    memcpy(insn->bytes, bytes, decoded->length);
    return exec_simd_bind(insn, decoded, operands) || exec_x87_bind(insn, decoded, operands);
}
