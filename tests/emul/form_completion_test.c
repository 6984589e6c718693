/*
 * Every instruction form with a memory operand (form_cases.h), its accesses answered one after the other by
 * OwhpCompleteMemoryAccess, against the same instruction on RAM (completion_pair.h): upper halves of YMM registers, gathers,
 * XSAVE, far transfers, segments and tables from device memory among them.
 *
 *     form_completion_test user|kernel|compatibility|protected|real [all]
 */
#include <stdio.h>
#include <string.h>

#include "emul/completion_pair.h"
#include "emul/form_cases.h"

static const char *const mode_names[] = {"user", "kernel", "compatibility", "protected", "real"};
static enum pair_mode mode;
static struct opcode_row rows[OPCODE_ROWS_MOST];
static unsigned results[4];
static unsigned rows_run, row_same, row_unanswered, never_same;

static void set_vectors(const struct form_case *c)
{
    const UINT64 components[2] = {7, 1ull << 63 | 7};

    memset(pair_start.xsave, 0, sizeof(pair_start.xsave));
    memcpy(pair_start.xsave, c->state.fxsave, 416);
    memcpy(pair_start.xsave + 512, components, 16);
    memcpy(pair_start.xsave + 576, c->state.upper, 256);
}

static void store(UINT64 at, UINT8 byte)
{
    if (at < KEPT)
        pair_start.memory[at] = byte;
}

static void set_memory(const struct form_case *c)
{
    const bool is_flat = mode <= PAIR_COMPATIBILITY;

    memset(pair_start.memory + WINDOW - 0x3000, 0x5a, WINDOW_SIZE + 0x3000);
    for (unsigned i = 0; i < c->memory_count; i++)
        for (unsigned k = 0; k < c->memory[i].size; k++)
            store(c->memory[i].at + k + (is_flat || c->memory[i].is_stack ? 0 : WINDOW), c->memory[i].bytes[k]);
    memset(pair_start.memory + CODE, 0xf4, 0x100);
    memcpy(pair_start.memory + CODE, c->code, c->size);
}

/* In real mode and in protected mode with little of a table a branch or fault leads anywhere: not the same way twice. */
static bool is_left_out(const struct form_case *c)
{
    switch (c->insn.mnemonic) {
    case ZYDIS_MNEMONIC_INT: case ZYDIS_MNEMONIC_INT1: case ZYDIS_MNEMONIC_INT3: case ZYDIS_MNEMONIC_INTO:
        return mode >= PAIR_PROTECTED;
    default:
        return !c->is_valid || form_touches_port(c) ||
               (c->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && mode >= PAIR_PROTECTED && c->value != 0 && c->value != 3);
    }
}

static void one_case(const struct form_case *c)
{
    if (is_left_out(c))
        return;
    for (unsigned i = 0; i < 16; i++)
        pair_start.registers[i].Reg64 = c->state.gpr[i];
    pair_start.registers[PAIR_RFLAGS].Reg64 = c->state.rflags & ~0x200ull;
    set_vectors(c);
    set_memory(c);
    const enum pair_result result = pair_try(pair_undefined_flags(&c->insn), !c->repeats);
    results[result]++;
    row_same += result == PAIR_SAME;
    row_unanswered += result == PAIR_UNANSWERED;
    if (result == PAIR_DIFFERENT && results[result] < 5)
        form_print(c);
}

/* At privilege 0 only what needs it: the second map's tables, segments, far transfers. */
static bool is_system(const struct opcode_row *row)
{
    static const uint8_t one[] = {0x62, 0x63, 0x8e, 0xc4, 0xc5, 0xca, 0xcb, 0xcf, 0xff, 0x07, 0x17, 0x1f},
                         two[] = {0x00, 0x01, 0x02, 0x03, 0xa1, 0xa9, 0xb2, 0xb4, 0xb5, 0xae, 0xc7};

    if (row->is_vex || row->map > 1)
        return false;
    return row->map ? memchr(two, row->opcode, sizeof(two)) : memchr(one, row->opcode, sizeof(one));
}

static struct case_layout layout_of(void)
{
    const bool is_paged = mode <= PAIR_COMPATIBILITY;
    const UINT64 base = is_paged ? WINDOW : 0;

    return (struct case_layout){
        .code = CODE, .data = base + 0x1000, .stack = mode == PAIR_KERNEL ? STACK : WINDOW + 0x3000, .idle_stack = STACK,
        .read_only = is_paged ? PAIR_READ_ONLY : 0x2000, .nothing = is_paged ? PAIR_NOTHING : WINDOW_SIZE,
        .code_selector = mode == PAIR_USER ? 0x23 : mode == PAIR_REAL ? 0 : 8,
        .data_selector = mode == PAIR_USER || mode == PAIR_COMPATIBILITY ? 0x1b : mode == PAIR_REAL ? WINDOW >> 4 : 16,
        .components = 7, .other_selector = 0x23};
}

int main(int argc, char **argv)
{
    while (mode <= PAIR_REAL && (argc < 2 || strcmp(argv[1], mode_names[mode])))
        mode++;
    if (mode > PAIR_REAL)
        return 2;
    const unsigned bits = mode <= PAIR_KERNEL ? 64 : mode == PAIR_REAL ? 16 : 32, count = opcode_rows(rows);
    const struct case_layout layout = layout_of();

    pair_begin(1u << mode);
    pair_choose(mode);
    for (unsigned i = 0; i < count; i++) {
        if (mode == PAIR_KERNEL && !is_system(&rows[i]))
            continue;
        row_same = row_unanswered = 0;
        form_cases(&rows[i], bits, &layout, argc > 2, one_case);
        rows_run += row_same != 0;
        never_same += !row_same && row_unanswered;
    }
    pair_end();
    printf("%s: %u rows; %u the same completed as on RAM, by %u accesses, %u different; %u could not be answered, %u end otherwise; "
           "%u rows only unanswered\n", mode_names[mode], rows_run, results[PAIR_SAME], pair_accesses, results[PAIR_DIFFERENT],
           results[PAIR_UNANSWERED], results[PAIR_OTHERWISE], never_same);
    return results[PAIR_DIFFERENT] == 0 && results[PAIR_SAME] && pair_accesses ? 0 : 1;
}
