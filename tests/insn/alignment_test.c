/*
 * Alignment checks (#AC) against silicon: every row of the opcode table that can have memory, in 64-, 32- and 16-bit code with
 * RFLAGS.AC set, at every address modulo 64; and every row with a stack pointer that is misaligned. Which sizes are checked,
 * against which alignment, what comes first: the host says.
 */
#include <stdio.h>
#include <string.h>

#include "duel/duel.h"
#include "duel/duel_code.h"
#include "insn/opcode_rows.h"
#include "insn/simd_values.h"
#include "x86/cpu.h"

enum { AREA = DUEL_DATA + 0x800, PRINTED = 12 };

static struct opcode_row rows[OPCODE_ROWS_MOST];
static unsigned long compared, checks, skipped, failures;

/* Registers that hold no addresses are small: bit offsets, counts. Vector registers but the last are random. */
static void state_for(struct duel_state *s, unsigned bits, unsigned data_offset, unsigned stack_offset)
{
    const uint64_t base = bits == 16 ? DUEL_BASE : 0;

    duel_random_state(s, bits);
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        if (i != SEG_CS)
            s->selector[i] = i >= SEG_FS ? 0 : bits == 16 ? DUEL_DATA16 : DUEL_DS;
    s->selector[SEG_CS] = bits == 64 ? DUEL_CS64 : bits == 32 ? DUEL_CS32 : DUEL_CODE16;
    s->base[0] = s->base[1] = 0;
    s->rip = (bits == 16 ? 0 : DUEL_BASE) + 0x400;
    memset(s->gpr, 0, sizeof(s->gpr));
    s->gpr[REG_RCX] = 1;
    s->gpr[REG_RBX] = s->gpr[REG_RSI] = AREA + data_offset - base;
    s->gpr[REG_RDI] = AREA + 0x400 + data_offset - base;
    s->gpr[REG_RSP] = DUEL_STACK + 0x1000 + stack_offset - base;
    s->gpr[REG_RBP] = s->gpr[REG_RSP] + 64;
    memset(s->fxsave + 160 + 16 * 7, 0, 16);
    memset(s->upper[7], 0, 16);
    s->rflags = RFLAGS_ONE | RFLAGS_IF | RFLAGS_AC;
}

/* [rBX], [rBX + XMM7], or an absolute address. */
static unsigned encode(const struct opcode_row *row, unsigned bits, uint64_t address, uint8_t code[15])
{
    memset(code, 0, 15);
    const unsigned modrm = opcode_row_encode(row, bits == 64, simd_random(), code);

    if (!row->is_vex && row->map == 0 && row->opcode >= 0xa0 && row->opcode <= 0xa3) {
        memcpy(code + modrm, &address, bits / 8);
        return modrm + bits / 8;
    }
    if (row->mod == 1)
        return 15;
    code[modrm] = (uint8_t)((code[modrm] & 0x38) | (opcode_row_is_gather(row) ? 4 : bits == 16 ? 7 : 3));
    if (opcode_row_is_gather(row))
        code[modrm + 1] = 7 << 3 | 3;
    return 15;
}

static void report(const struct opcode_row *row, unsigned bits, unsigned offset, const uint8_t *code)
{
    char name[64];

    if (failures++ >= PRINTED)
        return;
    opcode_row_name(row, name);
    fprintf(stderr, "FAILED: %s (%s), %u-bit code, offset %u [", name, ZydisMnemonicGetString((ZydisMnemonic)row->mnemonic), bits,
            offset);
    for (unsigned i = 0; i < 8; i++)
        fprintf(stderr, "%02x ", code[i]);
    fprintf(stderr, "]\n");
}

static void run_row(const struct opcode_row *row, unsigned bits)
{
    for (unsigned k = 0; k < 80; k++) {
        const unsigned data = k < 64 ? k : 0, stack = k < 64 ? 0 : k - 64;
        uint8_t code[15];
        struct duel_case c = {.code = code, .direct = k & 1, .repeats = true};

        state_for(&c.state, bits, data, stack);
        c.size = encode(row, bits, c.state.gpr[REG_RBX], code);
        if (!code_is_comparable_bytes(bits, code))
            return;
        duel_reset_memory();
        switch (duel_compare(&c, failures < 3)) {
        case DUEL_SAME:
            compared++;
            checks += duel_theirs.vector == VECTOR_AC;
            break;
        case DUEL_DIFFERENT:
            report(row, bits, k, code);
            break;
        default:
            skipped++;
        }
    }
}

int main(void)
{
    static const unsigned modes[] = {64, 32, 16};
    const unsigned count = opcode_rows(rows);

    if (!__builtin_cpu_supports("avx2")) {
        fprintf(stderr, "SKIPPED: without AVX2 the host has not all there is\n");
        return 77;
    }
    const int result = duel_init();
    if (result != 0)
        return result;
    for (unsigned i = 0; i < count; i++) {
        simd_restart(i);
        for (unsigned m = 0; m < array_size(modes); m++)
            if (rows[i].state[modes[m] != 64] == ROW_DONE)
                run_row(&rows[i], modes[m]);
    }
    duel_fini();
    printf("%lu compared, %lu of them #AC; %lu skipped, %lu failures\n", compared, checks, skipped, failures);
    return failures == 0 && checks > 10000 ? 0 : 1;
}
