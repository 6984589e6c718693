/* Stores that signal an event instead of exiting: which of them do (mem/gpa_doorbell.h has the rest). */
#include "engine/soft/soft.h"
#include "mem/gpa_doorbell.h"
#include "x86/code/insn.h"

/* Plain stores of whole registers or immediate values: nothing in such an instruction can fail behind its store, so that no
 * doorbell rings twice. The others exit, as the API allows. */
static bool is_plain_store(const struct cpu *cpu, const struct port_access *access)
{
    const struct operand *to = &cpu->insn->operand[0];

    switch (cpu->insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_MOVBE:
        return to->kind == OPERAND_MEMORY && to->size == access->size;
    default:
        return false;
    }
}

bool soft_rings_doorbell(struct engine_vcpu *vcpu, const struct port_access *access)
{
    const struct cpu *cpu = vcpu->cpu;

    return access->gva_valid && !cpu->memory_event && is_plain_store(cpu, access) &&
           gpa_doorbell_ring(vcpu->partition->space, access->gpa, access->data, access->size);
}
