/*
 * INS and OUTS (SDM 2A, 2B). Permission, then the memory, then the port: of INS the destination must be
 * writable before a value is taken from the device, for it cannot be given back.
 */
#include "x86/integer/exec_io.h"
#include "x86/integer/exec_string.h"

static struct port_io describe(const struct cpu *cpu, const struct string *s, bool is_write, uint32_t *data)
{
    return (struct port_io){
        .port = cpu->gpr[REG_RDX].w, .size = (uint8_t)s->size, .is_write = is_write, .is_string = true,
        .has_rep = s->repeat != 0, .segment = is_write ? s->insn->memory.segment : SEG_ES,
        .address_size = (uint8_t)s->address_size, .data = data};
}

static uint64_t ins_step(struct cpu *cpu, struct string *s)
{
    uint32_t data = 0;
    const struct port_io io = describe(cpu, s, false, &data);
    struct string_end to;

    return string_destination(cpu, s, ACCESS_WRITE, &to) &&
           mem_probe(cpu, to.linear, s->size, ACCESS_WRITE, MEM_CURRENT) && io_transfer(cpu, &io) &&
           string_write(cpu, s, to.linear, data);
}

/* Even when there is nothing to do: the permission comes before the count, as on silicon. */
static bool is_allowed(struct cpu *cpu, const struct insn *insn)
{
    const unsigned size = insn->opcode & 1 ? insn->operand_size : 1;

    return io_allowed(cpu, cpu->gpr[REG_RDX].w, size < 4 ? size : 4);
}

enum exec_result exec_ins(struct cpu *cpu, const struct insn *insn)
{
    if (!is_allowed(cpu, insn))
        return EXEC_LEAVE;
    return string_run(cpu, insn, ins_step, STRING_DESTINATION);
}

static uint64_t outs_step(struct cpu *cpu, struct string *s)
{
    uint32_t data;
    const struct port_io io = describe(cpu, s, true, &data);
    struct string_end from;
    uint64_t value;

    if (!string_source(cpu, s, &from) || !string_read(cpu, s, from.linear, &value))
        return 0;
    data = (uint32_t)value;
    return io_transfer(cpu, &io);
}

enum exec_result exec_outs(struct cpu *cpu, const struct insn *insn)
{
    if (!is_allowed(cpu, insn))
        return EXEC_LEAVE;
    return string_run(cpu, insn, outs_step, STRING_SOURCE);
}
