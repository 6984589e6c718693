#include "opcode_rows.h"

#include <stdio.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "duel/duel_code.h"
#include "x86/code/decode.h"

/* One ModRM byte under one prefix. */
struct cell {
    uint16_t mnemonic, set;
    uint8_t state[2], forms;
};

static struct cell cells[4][2][8][8]; /* prefix, mod, reg, rm */
static ZydisDecoder decoders[2];

/* ---- one encoding ---- */

static bool is_unknown(const ZydisDecodedInstruction *z)
{
    return z->meta.isa_set >= ZYDIS_ISA_SET_KNCE && z->meta.isa_set <= ZYDIS_ISA_SET_KNCV;
}

/* NOP and UD carry many names; a row is about what happens. */
static void look(struct cell *cell, const uint8_t code[15], unsigned form)
{
    for (unsigned mode = 0; mode < 2; mode++) {
        ZydisDecodedInstruction z;
        const bool known = ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoders[mode], NULL, code, 15, &z)) && !is_unknown(&z);
        const uint8_t state = !known ? ROW_UD : code_is_implemented(mode == 0 ? 64 : 32, code) ? ROW_DONE : ROW_ABSENT;

        if (state == ROW_UD)
            continue;
        if (cell->mnemonic == 0 || state == ROW_DONE) {
            cell->mnemonic = (uint16_t)z.mnemonic;
            cell->set = (uint16_t)z.meta.isa_set;
        }
        if (cell->state[mode] != ROW_DONE)
            cell->state[mode] = state;
        cell->forms |= (uint8_t)(1u << form);
    }
}

static unsigned put_legacy(uint8_t *code, unsigned map, unsigned opcode, unsigned prefix)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2}, escapes[4][2] = {{0}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
    unsigned n = 0;

    if (prefix != ANY && prefixes[prefix])
        code[n++] = prefixes[prefix];
    for (unsigned i = 0; i < 2 && escapes[map][i]; i++)
        code[n++] = escapes[map][i];
    code[n++] = (uint8_t)opcode;
    return n;
}

static unsigned put_vex(uint8_t *code, unsigned map, unsigned opcode, unsigned prefix, unsigned form, unsigned vvvv)
{
    code[0] = 0xc4;
    code[1] = (uint8_t)(0xe0 | map);
    code[2] = (uint8_t)((form & 2) << 6 | (~vvvv & 15) << 3 | (form & 1) << 2 | (prefix == ANY ? 0 : prefix));
    code[3] = (uint8_t)opcode;
    return 4;
}

/* REX, and where VEX and EVEX take the place of LES, LDS and BOUND. */
static bool is_prefix(unsigned mode, unsigned opcode, unsigned modrm)
{
    const bool is_vector = opcode == 0xc4 || opcode == 0xc5 || opcode == 0x62;

    return mode == 0 ? is_vector || (opcode & 0xf0) == 0x40 : is_vector && modrm >= 0xc0;
}

/* Memory is [eBX] with no or (where a vector index must be) one SIB byte. */
static void look_at(struct cell *cell, bool is_vex, unsigned map, unsigned opcode, unsigned prefix, unsigned modrm)
{
    for (unsigned form = 0; form < (is_vex ? 4u : 1u); form++)
        for (unsigned variant = 0; variant < (is_vex ? 4u : 1u); variant++) {
            uint8_t code[15] = {0};
            unsigned n = is_vex ? put_vex(code, map, opcode, prefix, form, variant & 1) : put_legacy(code, map, opcode, prefix);
            code[n++] = (uint8_t)modrm;
            if (variant & 2) {
                if (modrm >= 0xc0)
                    continue;
                code[n - 1] = (uint8_t)((modrm & 0x38) | 4);
                code[n] = (uint8_t)((((modrm >> 3) + 3) & 7) << 3 | 3); /* a vector index is not the destination */
            }
            look(cell, code, form);
        }
    for (unsigned mode = 0; mode < 2; mode++)
        if (!is_vex && map == 0 && is_prefix(mode, opcode, modrm))
            cell->state[mode] = ROW_PREFIX;
}

/* ---- rows of one opcode ---- */

static bool same(const struct cell *a, const struct cell *b) { return memcmp(a, b, sizeof(*a)) == 0; }

static unsigned add(struct opcode_row *rows, unsigned count, const struct opcode_row *row, const struct cell *cell)
{
    if (count >= OPCODE_ROWS_MOST)
        return count;
    rows[count] = *row;
    rows[count].mnemonic = cell->mnemonic;
    rows[count].set = cell->set;
    rows[count].forms = cell->forms;
    memcpy(rows[count].state, cell->state, 2);
    return count + 1;
}

static bool all_rm_same(const struct cell rm[8])
{
    for (unsigned i = 1; i < 8; i++)
        if (!same(&rm[0], &rm[i]))
            return false;
    return true;
}

static bool all_reg_same(const struct cell reg[8][8])
{
    for (unsigned i = 0; i < 8; i++)
        if (!all_rm_same(reg[i]) || !same(&reg[0][0], &reg[i][0]))
            return false;
    return true;
}

static unsigned add_mod(struct opcode_row *rows, unsigned count, struct opcode_row row, const struct cell reg[8][8])
{
    row.reg = row.rm = ANY;
    if (all_reg_same(reg))
        return add(rows, count, &row, &reg[0][0]);
    for (row.reg = 0; row.reg < 8; row.reg++) {
        row.rm = ANY;
        if (all_rm_same(reg[row.reg])) {
            count = add(rows, count, &row, &reg[row.reg][0]);
            continue;
        }
        for (row.rm = 0; row.rm < 8; row.rm++)
            count = add(rows, count, &row, &reg[row.reg][row.rm]);
    }
    return count;
}

static bool mods_are_same(const struct cell mod[2][8][8]) { return memcmp(mod[0], mod[1], sizeof(mod[0])) == 0; }

static unsigned add_prefix(struct opcode_row *rows, unsigned count, struct opcode_row row, const struct cell mod[2][8][8])
{
    row.mod = ANY;
    if (mods_are_same(mod))
        return add_mod(rows, count, row, mod[0]);
    for (row.mod = 0; row.mod < 2; row.mod++)
        count = add_mod(rows, count, row, mod[row.mod]);
    return count;
}

static unsigned add_opcode(struct opcode_row *rows, unsigned count, bool is_vex, unsigned map, unsigned opcode)
{
    struct opcode_row row = {.is_vex = is_vex, .map = (uint8_t)map, .opcode = (uint8_t)opcode, .prefix = ANY};

    memset(cells, 0, sizeof(cells));
    for (unsigned p = 0; p < 4; p++)
        for (unsigned modrm = 0; modrm < 256; modrm++) {
            struct cell *cell = &cells[p][modrm >> 6 == 3][modrm >> 3 & 7][modrm & 7];
            if (modrm >= 0xc0)
                look_at(cell, is_vex, map, opcode, p, modrm);
            else if (modrm < 0x40)
                look_at(cell, is_vex, map, opcode, p, (modrm & 0x38) | 3); /* one kind of memory */
        }
    bool one = true;
    for (unsigned p = 1; p < 4; p++)
        one &= memcmp(cells[0], cells[p], sizeof(cells[0])) == 0;
    if (one)
        return add_prefix(rows, count, row, cells[0]);
    for (row.prefix = 0; row.prefix < 4; row.prefix++)
        count = add_prefix(rows, count, row, cells[row.prefix]);
    return count;
}

/* Bytes that are no opcodes: prefixes and escapes. */
static bool is_opcode(bool is_vex, unsigned map, unsigned opcode)
{
    static const uint8_t prefixes[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x0f};

    if (is_vex || map > 1)
        return true;
    if (map == 1)
        return opcode != 0x38 && opcode != 0x3a;
    return memchr(prefixes, (int)opcode, sizeof(prefixes)) == NULL;
}

unsigned opcode_rows(struct opcode_row rows[OPCODE_ROWS_MOST])
{
    unsigned count = 0;

    code_decoder(64, &decoders[0]);
    code_decoder(32, &decoders[1]);
    for (unsigned vex = 0; vex < 2; vex++)
        for (unsigned map = vex; map < 4; map++)
            for (unsigned opcode = 0; opcode < 256; opcode++)
                if (is_opcode(vex, map, opcode))
                    count = add_opcode(rows, count, vex, map, opcode);
    return count;
}

/* ---- encodings and names ---- */

bool opcode_row_is_gather(const struct opcode_row *row)
{
    return row->set == ZYDIS_ISA_SET_AVX2GATHER;
}

unsigned opcode_row_encode(const struct opcode_row *row, bool is_64, uint64_t random, uint8_t code[15])
{
    unsigned form = (unsigned)(random >> 32) & 3, n;

    while (row->is_vex && row->forms && !(row->forms >> form & 1))
        form = (form + 1) & 3;
    if (row->is_vex)
        n = put_vex(code, row->map, row->opcode, row->prefix, form, random >> 34 & 1 ? (unsigned)(random >> 36) & (is_64 ? 15 : 7) : 0);
    else
        n = put_legacy(code, row->map, row->opcode, row->prefix);
    const unsigned mod = row->mod == ANY ? (random >> 40 & 1 ? 3 : (unsigned)(random >> 41) % 3) : row->mod ? 3 : (unsigned)(random >> 41) % 3;
    const unsigned reg = row->reg == ANY ? (unsigned)(random >> 44) & 7 : row->reg, rm = row->rm == ANY ? (unsigned)(random >> 48) & 7 : row->rm;
    code[n] = (uint8_t)(mod << 6 | reg << 3 | (opcode_row_is_gather(row) ? 4 : rm));
    return n;
}

void opcode_row_name(const struct opcode_row *row, char text[64])
{
    static const char *const maps[] = {"", "0F ", "0F38 ", "0F3A "}, *const prefixes[] = {" NP", " 66", " F3", " F2"};
    int n = snprintf(text, 64, "%s%s%02X", row->is_vex ? "VEX." : "", maps[row->map], row->opcode);

    if (row->prefix != ANY)
        n += snprintf(text + n, (size_t)(64 - n), "%s", prefixes[row->prefix]);
    if (row->mod != ANY && row->rm == ANY)
        n += snprintf(text + n, (size_t)(64 - n), " %s", row->mod ? "reg" : "mem");
    if (row->rm != ANY)
        n += snprintf(text + n, (size_t)(64 - n), " %02X", 0xc0u | (unsigned)row->reg << 3 | row->rm);
    else if (row->reg != ANY)
        n += snprintf(text + n, (size_t)(64 - n), " /%u", row->reg);
    if (row->is_vex && row->forms && row->forms != 15)
        for (unsigned f = 0; f < 4; f++)
            if (row->forms >> f & 1)
                n += snprintf(text + n, (size_t)(64 - n), " W%u.L%u", f >> 1, f & 1);
}

const char *opcode_row_cpuid(const struct opcode_row *row)
{
    static const struct {
        const char *set, *bit;
    } bits[] = {
        {"AVX512", "7.0:EBX[16]"}, {"AVX_GFNI", "7.0:ECX[8]"}, {"AMD3DNOW", "80000001:EDX[31]"}, {"AVX_VNNI", "7.1:EAX[4]"}, {"XOP", "80000001:ECX[11]"}, {"FMA4", "80000001:ECX[16]"},
        {"TBM", "80000001:ECX[21]"}, {"LWP", "80000001:ECX[15]"}, {"3DNOW", "80000001:EDX[31]"}, {"SSE4A", "80000001:ECX[6]"},
        {"AMX", "7.0:EDX[24]"}, {"VTX", "1:ECX[5]"}, {"VMFUNC", "1:ECX[5]"}, {"SVM", "80000001:ECX[2]"}, {"SGX", "7.0:EBX[2]"},
        {"RTM", "7.0:EBX[11]"}, {"MPX", "7.0:EBX[14]"}, {"CET", "7.0:ECX[7]"}, {"PKU", "7.0:ECX[3]"}, {"GFNI", "7.0:ECX[8]"},
        {"WAITPKG", "7.0:ECX[5]"}, {"MOVDIR", "7.0:ECX[27]"}, {"ENQCMD", "7.0:ECX[29]"}, {"SERIALIZE", "7.0:EDX[14]"},
        {"CLZERO", "80000008:EBX[0]"}, {"RDPRU", "80000008:EBX[4]"}, {"MCOMMIT", "80000008:EBX[8]"}, {"AMD_INVLPGB", "80000008:EBX[3]"},
        {"SNP", "8000001F:EAX[4]"}, {"MONITORX", "80000001:ECX[29]"}, {"MONITOR", "1:ECX[3]"}, {"SMX", "1:ECX[6]"},
        {"PT", "14.0:EBX[4]"}, {"PCONFIG", "7.0:EDX[18]"}, {"TSX_LDTRK", "7.0:EDX[16]"}, {"UINTR", "7.0:EDX[5]"},
        {"KEYLOCKER", "7.0:ECX[23]"}, {"HRESET", "7.1:EAX[22]"}, {"PADLOCK", "C0000001:EDX"}, {"PREFETCHWT1", "7.0:ECX[0]"},
        {"CLDEMOTE", "7.0:ECX[25]"}, {"WBNOINVD", "80000008:EBX[9]"}, {"VAES", "7.0:ECX[9]"}, {"VPCLMUL", "7.0:ECX[10]"},
        {"TDX", "none (SEAM)"}, {"AMD_", "80000001"}, {"SVME", "80000001:ECX[2]"}, {"SMM", "none"}, {"PREFETCH", "80000001:EDX[31]"},
        {"AMD", "80000001"}, {"I186", "none (RSM: no SMM)"}, {"I486", "none (RSM: no SMM)"}, {"PENTIUM", "none (RSM: no SMM)"},
        {"SEAM", "none (SEAM)"}, {"CLWB", "7.0:EBX[24]"},
    };
    const char *name = ZydisISASetGetString((ZydisISASet)row->set);

    for (unsigned i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
        if (strncmp(name, bits[i].set, strlen(bits[i].set)) == 0)
            return bits[i].bit;
    return "";
}
