/* What a case is, by its decoded instruction. */
#include "form_cases.h"

#include <stdio.h>

#include "x86/cpu.h"

bool form_is_string(const struct form_case *c)
{
    return c->insn.meta.category == ZYDIS_CATEGORY_STRINGOP || c->insn.meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

static bool is_memory(const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type != ZYDIS_MEMOP_TYPE_AGEN;
}

bool form_touches_memory(const struct form_case *c)
{
    for (unsigned i = 0; i < c->insn.operand_count; i++)
        if (is_memory(&c->operands[i]))
            return true;
    return false;
}

bool form_touches_port(const struct form_case *c)
{
    return c->insn.meta.category == ZYDIS_CATEGORY_IO || c->insn.meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

const ZydisDecodedOperand *form_explicit_memory(const struct form_case *c)
{
    for (unsigned i = 0; i < c->insn.operand_count_visible; i++)
        if (is_memory(&c->operands[i]) && !form_is_string(c))
            return &c->operands[i];
    return NULL;
}

const ZydisDecodedOperand *form_stack_memory(const struct form_case *c)
{
    for (unsigned i = c->insn.operand_count_visible; i < c->insn.operand_count; i++)
        if (is_memory(&c->operands[i]) && c->operands[i].mem.segment == ZYDIS_REGISTER_SS)
            return &c->operands[i];
    return NULL;
}

unsigned form_operand_bytes(const ZydisDecodedOperand *o)
{
    const unsigned size = o->size / 8u;

    return size < 1 ? 8 : size > CASE_BYTES - 64 ? CASE_BYTES - 64 : size;
}

bool form_is_split_lock(const struct form_case *c)
{
    const ZydisDecodedOperand *o = form_explicit_memory(c);

    return o && ((c->insn.attributes & ZYDIS_ATTRIB_HAS_LOCK) || c->insn.mnemonic == ZYDIS_MNEMONIC_XCHG) &&
           (c->memory[0].at & 63) + form_operand_bytes(o) > 64;
}

void form_print(const struct form_case *c)
{
    fprintf(stderr, "%u-bit code, [", c->bits);
    for (unsigned i = 0; i < c->size; i++)
        fprintf(stderr, "%s%02x", i ? " " : "", c->code[i]);
    fprintf(stderr, "] %s, place %u, values %u, flags %u, rCX %llx\n", c->is_valid ? ZydisMnemonicGetString(c->insn.mnemonic) : "nothing",
            c->place, c->value, c->flags, (unsigned long long)c->state.gpr[REG_RCX]);
}
