/* Which exec function carries out an instruction: the families' tables joined into one array. */
#include <pthread.h>

#include "x86/code/decode.h"
#include "x86/exec.h"

static struct {
    exec_fn *exec;
    uint8_t ends_block;
} by_mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1];

static pthread_once_t once = PTHREAD_ONCE_INIT;

static enum exec_result exec_undefined(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return exec_done(raise_ud(cpu));
}

static void join_tables(void)
{
    static const struct exec_entry *const tables[] = {EXEC_TABLES};

    for (size_t t = 0; t < array_size(tables); t++)
        for (const struct exec_entry *e = tables[t]; e->exec; e++) {
            by_mnemonic[e->mnemonic].exec = e->exec;
            by_mnemonic[e->mnemonic].ends_block = e->ends_block;
        }
}

/* Two SSE2 instructions (F2 0F 10/11, F2 0F C2) bear the names of string instructions (A5, A7). */
static bool is_vector_namesake(const ZydisDecodedInstruction *zydis)
{
    return (zydis->mnemonic == ZYDIS_MNEMONIC_MOVSD || zydis->mnemonic == ZYDIS_MNEMONIC_CMPSD) &&
           zydis->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT;
}

void insn_bind(struct insn *insn, const ZydisDecodedInstruction *zydis, const ZydisDecodedOperand *operands)
{
    pthread_once(&once, join_tables);
    if (exec_system_bind(insn))
        return;
    if (!is_vector_namesake(zydis)) {
        insn->exec = by_mnemonic[insn->mnemonic].exec;
        insn->ends_block = by_mnemonic[insn->mnemonic].ends_block;
    }
    if (insn->exec)
        return;
    insn->uses_vector = exec_simd_bind(insn, zydis, operands) || exec_x87_bind(insn, zydis, operands);
    if (insn->uses_vector)
        return;
    insn->exec = exec_undefined;
    insn->ends_block = true;
}
