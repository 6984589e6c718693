/* Operands, the stack, and port results for exec functions. Contract in exec.h. */
#include <string.h>

#include "os/guarded.h"
#include "x86/code/code.h"
#include "x86/exec.h"
#include "x86/memory/tlb.h"

static uint64_t truncate(uint64_t value, unsigned size)
{
    return size >= 8 ? value : value & ((1ull << (size * 8)) - 1);
}

bool exec_port(struct cpu *cpu, enum port_result result)
{
    if (result == PORT_DONE)
        return true;
    cpu->leave = result == PORT_FAULT ? LEAVE_FAULT : LEAVE_EXIT;
    return false;
}

uint64_t operand_offset(const struct cpu *cpu, const struct insn *insn)
{
    const struct memory_operand *m = &insn->memory;
    uint64_t base = m->is_rip_relative ? cpu->next_rip : *(const uint64_t *)((const uint8_t *)cpu + m->base);
    uint64_t index = *(const uint64_t *)((const uint8_t *)cpu + m->index);

    return truncate(base + (index << m->scale_shift) + (uint64_t)m->displacement, insn->address_size);
}

/* In 64-bit mode most segments begin at 0 and have no limit: all there is to ask is whether both ends are canonical. */
static always_inline bool linear_of(struct cpu *cpu, const struct insn *insn, size_t size, enum access_type type, gva_t *linear)
{
    const uint64_t offset = operand_offset(cpu, insn), sign = (uint64_t)((int64_t)offset >> 47);

    *linear = offset;
    if (likely(cpu_is_64(cpu) && insn->memory.segment < SEG_FS && sign + 1 <= 1 &&
               (uint64_t)((int64_t)(offset + size - 1) >> 47) == sign))
        return true;
    return seg_linear(cpu, insn->memory.segment, offset, size, type, linear);
}

bool operand_linear(struct cpu *cpu, const struct insn *insn, size_t size, enum access_type type, gva_t *linear)
{
    return linear_of(cpu, insn, size, type, linear);
}

bool operand_linear_aligned(struct cpu *cpu, const struct insn *insn, size_t size, size_t alignment, enum access_type type,
                            gva_t *linear)
{
    if (likely(operand_linear(cpu, insn, size, type, linear)))
        return likely((*linear & (alignment - 1)) == 0) || raise_gp(cpu, 0);
    const uint64_t base = cpu_is_64(cpu) ? 0 : cpu->segment[insn->memory.segment].base;
    if (cpu->fault.vector == VECTOR_SS && ((base + operand_offset(cpu, insn)) & (alignment - 1)))
        return raise_gp(cpu, 0);
    return false;
}

static bool read_memory(struct cpu *cpu, gva_t linear, unsigned size, uint64_t *value)
{
    uint8_t v8;
    uint16_t v16;
    uint32_t v32;
    bool ok;

    switch (size) {
    case 1: ok = mem_read8(cpu, linear, &v8); *value = ok ? v8 : 0; return ok;
    case 2: ok = mem_read16(cpu, linear, &v16); *value = ok ? v16 : 0; return ok;
    case 4: ok = mem_read32(cpu, linear, &v32); *value = ok ? v32 : 0; return ok;
    case 8: return mem_read64(cpu, linear, value);
    default: *value = 0; return mem_read(cpu, linear, value, size, MEM_CURRENT);
    }
}

static bool write_memory(struct cpu *cpu, gva_t linear, unsigned size, uint64_t value)
{
    switch (size) {
    case 1: return mem_write8(cpu, linear, (uint8_t)value);
    case 2: return mem_write16(cpu, linear, (uint16_t)value);
    case 4: return mem_write32(cpu, linear, (uint32_t)value);
    case 8: return mem_write64(cpu, linear, value);
    default: return mem_write(cpu, linear, &value, size, MEM_CURRENT);
    }
}

static uint64_t read_register(const struct cpu *cpu, const struct operand *o)
{
    if (o->reg_class == CLASS_SEGMENT)
        return cpu->segment[o->number].selector;
    return truncate(*(const uint64_t *)((const uint8_t *)cpu + (o->offset & ~(uint16_t)1)) >> (o->offset & 1 ? 8 : 0), o->size);
}

static void write_register(struct cpu *cpu, const struct operand *o, uint64_t value)
{
    uint8_t *at = (uint8_t *)cpu + o->offset;

    switch (o->size) {
    case 1: *at = (uint8_t)value; break;
    case 2: *(uint16_t *)(void *)at = (uint16_t)value; break;
    case 4: *(uint64_t *)(void *)at = (uint32_t)value; break;
    default: *(uint64_t *)(void *)at = value; break;
    }
}

bool operand_read(struct cpu *cpu, const struct insn *insn, unsigned i, uint64_t *value)
{
    const struct operand *o = &insn->operand[i];
    gva_t linear;

    switch (o->kind) {
    case OPERAND_REGISTER:
        *value = read_register(cpu, o);
        return true;
    case OPERAND_MEMORY:
        return linear_of(cpu, insn, o->size, ACCESS_READ, &linear) && read_memory(cpu, linear, o->size, value);
    default:
        *value = o->immediate;
        return true;
    }
}

bool operand_write(struct cpu *cpu, const struct insn *insn, unsigned i, uint64_t value)
{
    const struct operand *o = &insn->operand[i];
    gva_t linear;

    if (o->kind == OPERAND_REGISTER) {
        write_register(cpu, o, value);
        return true;
    }
    return linear_of(cpu, insn, o->size, ACCESS_WRITE, &linear) && write_memory(cpu, linear, o->size, value);
}

bool operand_read_bytes(struct cpu *cpu, const struct insn *insn, void *to, size_t size)
{
    gva_t linear;

    return operand_linear(cpu, insn, size, ACCESS_READ, &linear) && mem_read(cpu, linear, to, size, MEM_CURRENT);
}

bool operand_write_bytes(struct cpu *cpu, const struct insn *insn, const void *from, size_t size)
{
    gva_t linear;

    return operand_linear(cpu, insn, size, ACCESS_WRITE, &linear) && mem_write(cpu, linear, from, size, MEM_CURRENT);
}

/* ---- read-modify-write ---- */

bool operand_modify(struct cpu *cpu, const struct insn *insn, unsigned i, operand_compute *compute, void *context)
{
    const struct operand *o = &insn->operand[i];
    uint64_t value;
    gva_t linear;

    if (o->kind == OPERAND_REGISTER) {
        write_register(cpu, o, compute(read_register(cpu, o), context));
        return true;
    }
    if (!operand_linear(cpu, insn, o->size, ACCESS_WRITE, &linear))
        return false;
    if (insn->has_lock || insn->mnemonic == ZYDIS_MNEMONIC_XCHG)
        return mem_modify_locked(cpu, linear, o->size, compute, context);
    /* The write's permission first: the page fault of a read-modify-write is a write fault (SDM 3A 4.7). */
    return mem_probe(cpu, linear, o->size, ACCESS_WRITE, MEM_CURRENT) && read_memory(cpu, linear, o->size, &value) &&
           write_memory(cpu, linear, o->size, compute(value, context));
}

/* ---- stack ---- */

static unsigned stack_width(const struct cpu *cpu)
{
    return cpu->mode & MODE_64 ? 8 : cpu->mode & MODE_SS32 ? 4 : 2;
}

static bool stack_linear(struct cpu *cpu, int64_t displacement, unsigned size, enum access_type type, gva_t *linear)
{
    uint64_t offset = truncate(cpu->gpr[REG_RSP].q + (uint64_t)displacement, stack_width(cpu));

    return seg_linear(cpu, SEG_SS, offset, size, type, linear);
}

bool stack_read(struct cpu *cpu, int64_t displacement, unsigned size, uint64_t *value)
{
    gva_t linear;

    return stack_linear(cpu, displacement, size, ACCESS_READ, &linear) && read_memory(cpu, linear, size, value);
}

bool stack_write(struct cpu *cpu, int64_t displacement, unsigned size, uint64_t value)
{
    gva_t linear;

    return stack_linear(cpu, displacement, size, ACCESS_WRITE, &linear) && write_memory(cpu, linear, size, value);
}

void stack_adjust(struct cpu *cpu, int64_t delta)
{
    gpr_write(cpu, REG_RSP, stack_width(cpu), cpu->gpr[REG_RSP].q + (uint64_t)delta);
}

bool stack_push(struct cpu *cpu, unsigned size, uint64_t value)
{
    if (!stack_write(cpu, -(int64_t)size, size, value))
        return false;
    stack_adjust(cpu, -(int64_t)size);
    return true;
}

bool stack_pop(struct cpu *cpu, unsigned size, uint64_t *value)
{
    if (!stack_read(cpu, 0, size, value))
        return false;
    stack_adjust(cpu, size);
    return true;
}
