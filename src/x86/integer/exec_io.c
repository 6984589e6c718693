/* IN and OUT (SDM 2A, 2B). Permission first, then the port. */
#include "x86/integer/exec_io.h"

#include "x86/integer/exec_sized.h"
#include "x86/system/debug.h"

bool io_transfer(struct cpu *cpu, const struct port_io *io)
{
    const enum port_result result = cpu->port->io ? cpu->port->io(cpu, io) : PORT_DEFAULT;

    if (result != PORT_DEFAULT && !exec_port(cpu, result))
        return false;
    if (result == PORT_DEFAULT && !io->is_write)
        *io->data = (uint32_t)size_mask(io->size);
    debug_io(cpu, io->port, io->size);
    return true;
}

/* operand `port_operand` is imm8 or DX, the other one AL, AX or EAX. */
static bool transfer(struct cpu *cpu, const struct insn *insn, unsigned port_operand, uint32_t *data)
{
    struct port_io io = {
        .size = insn->operand[1 - port_operand].size, .is_write = port_operand == 0, .data = data};
    uint64_t port;

    if (!operand_read(cpu, insn, port_operand, &port))
        return false;
    io.port = insn->operand[port_operand].kind == OPERAND_IMMEDIATE ? (uint8_t)port : (uint16_t)port;
    return io_allowed(cpu, io.port, io.size) && io_transfer(cpu, &io);
}

/* e4 e5 ec ed */
static enum exec_result exec_in(struct cpu *cpu, const struct insn *insn)
{
    uint32_t data = 0;

    if (!transfer(cpu, insn, 1, &data))
        return EXEC_LEAVE;
    gpr_write(cpu, REG_RAX, insn->operand[0].size, data);
    return EXEC_NEXT;
}

/* e6 e7 ee ef */
static enum exec_result exec_out(struct cpu *cpu, const struct insn *insn)
{
    uint32_t data = (uint32_t)gpr_read(cpu, REG_RAX, insn->operand[1].size);

    return exec_done(transfer(cpu, insn, 0, &data));
}

const struct exec_entry exec_io_table[] = {
    {ZYDIS_MNEMONIC_IN, exec_in, 0},
    {ZYDIS_MNEMONIC_OUT, exec_out, 0},
    {ZYDIS_MNEMONIC_INVALID, NULL, 0},
};
