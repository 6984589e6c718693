/*
 * The opcode table (tests/data/opcodes.tsv; docs/opcodes.md is made of it) against the processor, and both against silicon.
 *
 * Every encoding of the maps is in a row, and the table holds exactly these rows. Each row is executed in 64-, 32- and 16-bit
 * code of an unprivileged process, several times with random operands and state, on ours and on the host: what is done must
 * not be #UD and do as the host does; everything else must be #UD.
 *
 *     opcode_table_test TABLE          checks
 *     opcode_table_test --write TABLE  writes the table anew
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "duel/duel.h"
#include "duel/duel_code.h"
#include "insn/opcode_rows.h"
#include "insn/simd_values.h"

enum { CASES = 12, ENOUGH = 6, PRINTED = 12 };

static struct opcode_row rows[OPCODE_ROWS_MOST];
static unsigned row_count;
static const char *const state_names[] = {"#UD", "done", "absent", "prefix"};

/* ---- the file ---- */

/* Encodings that are whole maps of their own. */
static const struct {
    const char *key, *what, *cpuid;
    uint8_t bytes[4], length;
} whole_maps[] = {
    {"62 (EVEX)", "AVX-512", "7.0:EBX[16]", {0x62, 0xf1, 0x7c, 0x48}, 4},
    {"8F (XOP 8)", "XOP", "80000001:ECX[11]", {0x8f, 0xe8, 0x78}, 3},
    {"8F (XOP 9)", "XOP", "80000001:ECX[11]", {0x8f, 0xe9, 0x78}, 3},
    {"8F (XOP A)", "XOP", "80000001:ECX[11]", {0x8f, 0xea, 0x78}, 3},
    {"D5 (REX2)", "APX", "7.1:EDX[21]", {0xd5, 0x00}, 2},
    {"0F 0F", "3DNow!", "80000001:EDX[31]", {0x0f, 0x0f}, 2},
};

static void print_table(FILE *to)
{
    fprintf(to, "encoding\tinstruction\tset\t64-bit\t32-bit\tCPUID\n");
    for (unsigned i = 0; i < row_count; i++) {
        const struct opcode_row *r = &rows[i];
        const bool is_absent = r->state[0] == ROW_ABSENT || r->state[1] == ROW_ABSENT, exists = r->mnemonic != 0;
        char name[64];
        opcode_row_name(r, name);
        fprintf(to, "%s\t%s\t%s\t%s\t%s\t%s\n", name, exists ? ZydisMnemonicGetString((ZydisMnemonic)r->mnemonic) : "-",
                exists ? ZydisISASetGetString((ZydisISASet)r->set) : "-", state_names[r->state[0]], state_names[r->state[1]],
                is_absent ? opcode_row_cpuid(r) : "");
    }
    for (unsigned i = 0; i < array_size(whole_maps); i++)
        fprintf(to, "%s\t(all)\t%s\tabsent\t%s\t%s\n", whole_maps[i].key, whole_maps[i].what,
                whole_maps[i].bytes[0] == 0xd5 ? "-" : "absent", whole_maps[i].cpuid);
}

/* The file is exactly the rows. */
static bool table_is_current(const char *path)
{
    char *text = NULL, line[256], wanted[256];
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size), *file = fopen(path, "r");
    unsigned number = 0;
    bool good = file != NULL;

    print_table(memory);
    fclose(memory);
    FILE *now = fmemopen(text, size, "r");
    while (good && fgets(wanted, sizeof(wanted), now)) {
        number++;
        if (!fgets(line, sizeof(line), file) || strcmp(line, wanted) != 0) {
            fprintf(stderr, "%s, line %u: the table has %sthe maps have %s", path, number, feof(file) ? "(nothing)\n" : line,
                    wanted);
            good = false;
        }
    }
    good = good && !fgets(line, sizeof(line), file);
    if (file)
        fclose(file);
    fclose(now);
    free(text);
    return good;
}

/* ---- execution ---- */

static unsigned long executed, compared, failures;
static unsigned covered, uncovered, only_ours;

/* Done, and #UD for a program all the same. */
static bool is_undefined_by_design(const struct opcode_row *r)
{
    static const ZydisMnemonic known[] = {
        ZYDIS_MNEMONIC_UD0, ZYDIS_MNEMONIC_UD1, ZYDIS_MNEMONIC_UD2,
        ZYDIS_MNEMONIC_VMCALL, ZYDIS_MNEMONIC_VMMCALL, /* the client's, if it wants them */
        ZYDIS_MNEMONIC_SYSCALL, ZYDIS_MNEMONIC_SYSRET, /* 64-bit code only, by the host's vendor */
        ZYDIS_MNEMONIC_MONITOR, ZYDIS_MNEMONIC_MWAIT, ZYDIS_MNEMONIC_SWAPGS, ZYDIS_MNEMONIC_STAC, ZYDIS_MNEMONIC_CLAC,
    };

    for (unsigned i = 0; i < array_size(known); i++)
        if (r->mnemonic == known[i])
            return true;
    return false;
}

static void report(const struct opcode_row *r, unsigned bits, const char *what, const uint8_t *code, unsigned size)
{
    char name[64];

    if (failures++ >= PRINTED)
        return;
    opcode_row_name(r, name);
    fprintf(stderr, "FAILED: %s (%s), %u-bit code: %s [", name,
            r->mnemonic ? ZydisMnemonicGetString((ZydisMnemonic)r->mnemonic) : "-", bits, what);
    for (unsigned i = 0; i < size; i++)
        fprintf(stderr, "%s%02x", i ? " " : "", code[i]);
    fprintf(stderr, "]\n");
}

/* One row in one mode. Returns how many cases agreed with the host. */
static unsigned run_row(const struct opcode_row *r, unsigned bits)
{
    const unsigned state = r->state[bits != 64];
    unsigned same = 0, undefined = 0;
    uint8_t code[CODE_LONGEST];
    unsigned size = 0;

    for (unsigned i = 0; i < (state == ROW_DONE ? CASES : 2); i++) {
        struct duel_case c = {.code = code, .direct = !simd_one_in(4), .repeats = true};
        uint8_t bytes[15];
        for (unsigned k = 0; k < sizeof(bytes); k++)
            bytes[k] = (uint8_t)simd_random();
        const unsigned modrm = opcode_row_encode(r, bits == 64, simd_random(), bytes);
        duel_random_state(&c.state, bits);
        c.size = size = code_steered(bits, c.state.rip, bytes, modrm, state == ROW_DONE, code);
        duel_reset_memory();
        executed++;
        if (state == ROW_DONE && code_is_comparable_bytes(bits, bytes)) {
            const enum duel_result result = duel_compare(&c, failures < 3);
            if (result == DUEL_DIFFERENT)
                report(r, bits, "not as silicon", code, size);
            same += result == DUEL_SAME;
            undefined += duel_theirs.vector == VECTOR_UD;
        } else {
            const uint8_t vector = duel_only_ours(&c);
            undefined += vector == VECTOR_UD;
            if (state != ROW_DONE && vector != VECTOR_UD)
                report(r, bits, "should be #UD", code, size);
        }
    }
    if (state == ROW_DONE && undefined == CASES && !is_undefined_by_design(r) && !(bits == 16 && opcode_row_is_gather(r)))
        report(r, bits, "always #UD", code, size);
    compared += same;
    return same;
}

static void run_rows(bool print_uncovered)
{
    static const unsigned modes[] = {64, 32, 16};

    for (unsigned i = 0; i < row_count; i++) {
        unsigned most = 0;
        bool is_done = false;
        simd_restart(i);
        for (unsigned m = 0; m < array_size(modes); m++) {
            const unsigned state = rows[i].state[modes[m] != 64];
            if (state == ROW_PREFIX)
                continue;
            const unsigned same = run_row(&rows[i], modes[m]);
            is_done |= state == ROW_DONE;
            most = same > most ? same : most;
        }
        if (!is_done)
            continue;
        const char *reason = code_reason((ZydisMnemonic)rows[i].mnemonic);
        char name[64];
        opcode_row_name(&rows[i], name);
        if (most >= ENOUGH) {
            covered++;
        } else if (reason) {
            only_ours++;
            if (print_uncovered)
                printf("not compared: %s %s: %s\n", name, ZydisMnemonicGetString((ZydisMnemonic)rows[i].mnemonic), reason);
        } else {
            uncovered++;
            fprintf(stderr, "FAILED: %s (%s): %u cases compared with silicon, %u wanted\n", name,
                    ZydisMnemonicGetString((ZydisMnemonic)rows[i].mnemonic), most, ENOUGH);
        }
    }
}

static void run_whole_maps(void)
{
    for (unsigned i = 0; i < array_size(whole_maps); i++)
        for (unsigned n = 0; n < 64; n++) {
            uint8_t code[15];
            struct duel_case c = {.code = code, .size = sizeof(code), .direct = true};
            for (unsigned k = 0; k < sizeof(code); k++)
                code[k] = (uint8_t)simd_random();
            memcpy(code, whole_maps[i].bytes, whole_maps[i].length);
            duel_random_state(&c.state, 64);
            duel_reset_memory();
            executed++;
            if (duel_only_ours(&c) != VECTOR_UD && failures++ < PRINTED)
                fprintf(stderr, "FAILED: %s %02x %02x should be #UD\n", whole_maps[i].key, code[whole_maps[i].length],
                        code[whole_maps[i].length + 1]);
        }
}

int main(int argc, char **argv)
{
    row_count = opcode_rows(rows);
    if (argc == 3 && strcmp(argv[1], "--write") == 0) {
        FILE *file = fopen(argv[2], "w");
        if (!file)
            return 1;
        print_table(file);
        return fclose(file) == 0 ? 0 : 1;
    }
    if (!__builtin_cpu_supports("avx2")) {
        fprintf(stderr, "SKIPPED: without AVX2 the host has not all there is\n");
        return 77;
    }
    if (argc < 2 || !table_is_current(argv[1])) {
        fprintf(stderr, "opcode_table_test --write makes it anew\n");
        return 1;
    }
    const int result = duel_init();
    if (result != 0)
        return result;
    run_rows(argc > 2);
    run_whole_maps();
    printf("%u rows; %u done and compared with silicon (at least %u cases each), %u done and only executed, %u without enough; "
           "%lu executions, "
           "%lu compared, %lu failures\n",
           row_count, covered, ENOUGH, only_ours, uncovered, executed, compared, failures);
    duel_fini();
    return failures == 0 && uncovered == 0 ? 0 : 1;
}
