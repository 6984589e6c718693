/*
 * Every instruction form with a memory operand (form_cases.h) three times on the same bytes, registers, flags and memory: by this
 * host's processor, by ours, and by the emulator. Registers, flags, x87 and vector state, memory and faults must be the same
 * in all three. On the way everything that can fail in the emulator fails (form_emulate.h).
 *
 *     form_host_test 64|32|16 PART [all]
 *
 * PART is a map of the opcode table (0, 0f, 0f38, vex, or "strings") or "every"; "all" is the full product of the cases.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "duel/duel_code.h"
#include "emul/form_emulate.h"
#include "insn/simd_values.h"

static struct opcode_row rows[OPCODE_ROWS_MOST];
static unsigned long cases, same_processor, same_emulator, only_ours, failures;
static unsigned row_count, rows_run, row_same;
static const struct form_case *current;
static enum form_end emulated;

/* The emulator, in our processor's place. What it refuses the processor carries out. */
static bool emulate_first(struct cpu *cpu)
{
    emulated = form_emulate(current, cpu, DUEL_PHYSICAL, DUEL_SIZE);
    if (emulated == FORM_REFUSED)
        duel_soft_first = NULL;
    return emulated != FORM_FAULT;
}

static void store_memory(const struct form_case *c)
{
    duel_reset_memory();
    for (unsigned i = 0; i < c->memory_count; i++)
        for (unsigned k = 0; k < c->memory[i].size; k++) {
            const uint64_t at = c->memory[i].at + k + (c->bits == 16 ? DUEL_BASE : 0);
            if (duel_soft_page(at) && (at & PAGE_MASK) != DUEL_READ_ONLY)
                duel_store(at, &c->memory[i].bytes[k], 1);
        }
}

static void failed(const char *what, const struct form_case *c)
{
    if (failures++ >= 20)
        return;
    fprintf(stderr, "FAILED: %s: ", what);
    form_print(c);
}

static enum duel_result compare(const struct form_case *c, bool by_emulator)
{
    const struct duel_case duel = {.state = c->state, .code = c->code, .size = c->size, .repeats = c->repeats, .direct = true};

    store_memory(c);
    current = c;
    duel_soft_first = by_emulator ? emulate_first : NULL;
    const enum duel_result result = duel_compare(&duel, failures < 3);
    duel_soft_first = NULL;
    return result;
}

static void one_case(const struct form_case *c)
{
    if (form_is_split_lock(c) || !code_is_comparable_bytes(c->bits, c->code)) {
        only_ours++;
        return;
    }
    cases++;
    switch (compare(c, false)) {
    case DUEL_SAME: same_processor++; break;
    case DUEL_DIFFERENT: failed("the processor differs from silicon", c); break;
    default: only_ours++; return;
    }
    emulated = FORM_DONE;
    switch (compare(c, true)) {
    case DUEL_SAME: same_emulator++, row_same++; break;
    case DUEL_DIFFERENT: failed("the emulator differs from silicon", c); break;
    default: only_ours++; break;
    }
    if (emulated == FORM_REFUSED && !form_may_be_refused(c) && duel_theirs.vector != VECTOR_UD)
        failed("refused without need", c);
}

static bool is_part(const struct opcode_row *row, const char *part)
{
    static const char *const maps[] = {"0", "0f", "0f38", "0f38"};
    const bool string = row->map == 0 && (row->opcode & 0xf0) >= 0x60 && ((row->opcode >= 0xa4 && row->opcode <= 0xaf) || (row->opcode & 0xfc) == 0x6c);

    if (!strcmp(part, "every"))
        return true;
    return !strcmp(part, row->is_vex ? "vex" : string ? "strings" : maps[row->map]);
}

int main(int argc, char **argv)
{
    const unsigned bits = argc > 2 ? (unsigned)atoi(argv[1]) : 0;
    const uint64_t base = bits == 16 ? DUEL_BASE : 0;
    const struct case_layout layout = {
        .code = DUEL_CODE + 0x400 - base, .data = DUEL_DATA + 0x1000 - base, .stack = DUEL_STACK + 0x1000 - base, .idle_stack = DUEL_STACK + 0xf00 - base,
        .read_only = DUEL_READ_ONLY - base, .nothing = DUEL_DATA + 0x3000 - base, .short_bias = DUEL_BASE, .components = 7,
        .code_selector = bits == 64 ? DUEL_CS64 : bits == 32 ? DUEL_CS32 : DUEL_CODE16,
        .data_selector = bits == 16 ? DUEL_DATA16 : DUEL_DS, .short_selector = DUEL_DATA16, .other_selector = DUEL_CS32};

    if (bits != 64 && bits != 32 && bits != 16)
        return 2;
    if (!__builtin_cpu_supports("avx2")) {
        fprintf(stderr, "SKIPPED: without AVX2 the host has not all there is\n");
        return 77;
    }
    row_count = opcode_rows(rows);
    const int result = duel_init();
    if (result != 0)
        return result;
    for (unsigned i = 0; i < row_count; i++) {
        if (!is_part(&rows[i], argv[2]))
            continue;
        row_same = 0;
        form_cases(&rows[i], bits, &layout, argc > 3, one_case);
        rows_run += row_same != 0;
    }
    printf("%u-bit code, %s: %u rows, %lu cases; on the host as on our processor %lu, as in the emulator %lu; %lu not for the host; "
           "%lu failures\n", bits, argv[2], rows_run, cases, same_processor, same_emulator, only_ours, failures);
    failures += form_report();
    duel_fini();
    return failures == 0 && same_emulator != 0 ? 0 : 1;
}
