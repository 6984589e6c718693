/*
 * Prefixes, legal and illegal, in front of every opcode of the maps, and instructions of 15 and 16 bytes, as duels with the
 * host's processor in 64-, 32- and 16-bit code: what is #UD, #GP or #PF, how long the instruction is, and what it does where it
 * is executed.
 *
 *     prefix_test BITS [--all] [--every N]
 *
 * Without more, each single prefix and one in 1201 of all other combinations (--every N: one in N), and one place at the end of
 * a page for each opcode. --all: every combination (of opcodes that are undefined, and of VEX, one in 101) and every place.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "duel/duel.h"
#include "duel/duel_code.h"
#include "insn/prefix_forms.h"
#include "insn/simd_values.h"
#include "x86/cpu.h"

enum { LONGEST = 15, PRINTED = 12, EVERY_UNDEFINED = 101, CODE_END = DUEL_CODE + 0x2000 };

static struct prefix_form forms[PREFIX_FORMS_MOST];
static struct skeleton list[SKELETONS_MOST];
static unsigned form_count, skeleton_count, singles, bits, every = 1201;
static bool is_all;
static unsigned long compared, skipped, left_out, absent, too_long, unknown, failures, by_vector[256];

/* ---- one duel ---- */

/* The host's hypervisor answers VMCALL and VMMCALL under any prefix. */
static bool is_hypercall(const struct skeleton *s)
{
    return !s->is_vex && s->bytes[0] == 0x0f && s->bytes[1] == 0x01 && (s->bytes[2] == 0xc1 || s->bytes[2] == 0xd9);
}

static bool saves_state(const struct skeleton *s)
{
    return !s->is_vex && s->bytes[0] == 0x0f && (s->bytes[1] == 0xae || s->bytes[1] == 0xc7);
}

/* What memory operands, strings and stack need points to data; the rest is anything. */
static void make_state(struct duel_state *state, const struct skeleton *s)
{
    static const uint8_t addresses[] = {REG_RBX, REG_RSI, REG_RDI, REG_RBP, 11, 8};
    const uint64_t base = bits == 16 ? DUEL_BASE : 0;

    duel_random_state(state, bits);
    for (unsigned i = 0; i < array_size(addresses); i++)
        if (addresses[i] < 8 || bits == 64)
            state->gpr[addresses[i]] = DUEL_DATA + 0x800 + i * 0x80 - base;
    if (bits == 16) /* [BP+DI] */
        state->gpr[REG_RBP] = 0x40;
    state->gpr[REG_RCX] = simd_random() & 3;
    state->gpr[REG_RSP] = DUEL_STACK + 0x1000 - base;
    if (saves_state(s)) {
        state->gpr[REG_RAX] = simd_random() & 7;
        state->gpr[REG_RDX] = 0;
    }
}

static void report(const char *what, const uint8_t *code, unsigned size, unsigned left)
{
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    char text[128] = "?";

    if (failures++ >= PRINTED)
        return;
    code_decoder(bits, &decoder);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, size, &z, o)))
        ZydisFormatterFormatInstruction(&formatter, &z, o, z.operand_count_visible, text, sizeof(text), 0, NULL);
    fprintf(stderr, "FAILED: %s, %u-bit code: %s [", what, bits, text);
    for (unsigned i = 0; i < size; i++)
        fprintf(stderr, "%s%02x", i ? " " : "", code[i]);
    fprintf(stderr, "] at %u bytes before the end; silicon #%u\n", left, duel_theirs.vector);
}

static bool is_known(const uint8_t *code)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction z;

    code_decoder(bits, &decoder);
    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code, LONGEST, &z));
}

static void duel(struct duel_case *c, const struct skeleton *s, unsigned left)
{
    uint8_t alone[LONGEST] = {0};

    memcpy(alone, s->bytes, s->length);
    duel_reset_memory();
    switch (duel_compare(c, false)) {
    case DUEL_SAME:
        compared++;
        by_vector[duel_theirs.vector]++;
        return;
    case DUEL_SKIPPED:
        skipped++;
        return;
    default:
        break;
    }
    /* How long an opcode is that is none, nobody says: with many prefixes it may be too long. */
    if (duel_theirs.vector == VECTOR_GP && !is_known(alone) && !is_known(c->code)) {
        unknown++;
        return;
    }
    if (failures < 4)
        (void)duel_compare(c, true);
    report("not as silicon", c->code, c->size, left);
}

/* Bytes in front of a skeleton, and what follows it: displacements and immediates of use. Returns the size up to its end; 0: it
 * is not for the host. */
static unsigned make_code(const struct skeleton *s, const uint8_t *prefixes, unsigned prefix_count, uint64_t at,
                          uint8_t code[CODE_LONGEST])
{
    uint8_t bytes[LONGEST];

    for (unsigned i = 0; i < LONGEST; i += 8) {
        const uint64_t r = simd_random();
        memcpy(bytes + i, &r, LONGEST - i < 8 ? LONGEST - i : 8);
    }
    if (prefix_count)
        memcpy(bytes, prefixes, prefix_count);
    memcpy(bytes + prefix_count, s->bytes, prefix_count + s->length > LONGEST ? LONGEST - prefix_count : s->length);
    if (is_hypercall(s) || !code_is_comparable_bytes(bits, bytes)) {
        left_out++;
        return 0;
    }
    return code_steered(bits, at, bytes, 0, false, code);
}

static bool is_absent(const uint8_t *code, unsigned size)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction z;
    uint8_t bytes[LONGEST] = {0};

    code_decoder(bits, &decoder);
    memcpy(bytes, code, size < LONGEST ? size : LONGEST);
    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, bytes, LONGEST, &z)) && !code_is_implemented(bits, bytes);
}

/* ---- every prefix in front of every opcode ---- */

static void prefixed(const struct skeleton *s, const struct prefix_form *form)
{
    uint8_t code[CODE_LONGEST];
    struct duel_case c = {.code = code, .repeats = true, .direct = !simd_one_in(4)};

    make_state(&c.state, s);
    c.size = make_code(s, form->bytes, form->length, c.state.rip, code);
    if (c.size == 0)
        return;
    if (!is_absent(code, c.size)) {
        duel(&c, s, 0);
        return;
    }
    absent++;
    if (duel_only_ours(&c) != VECTOR_UD)
        report("should be #UD", code, c.size, 0);
}

static void all_prefixes(void)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < skeleton_count; i++) {
        uint8_t alone[LONGEST] = {0};
        memcpy(alone, list[i].bytes, list[i].length);
        const unsigned step = !is_all ? every : list[i].is_vex || !is_known(alone) ? EVERY_UNDEFINED : 1;
        for (unsigned f = 0; f < form_count; f++)
            if (f < singles || n++ % step == 0) {
                simd_restart((uint64_t)i * PREFIX_FORMS_MOST + f);
                prefixed(&list[i], &forms[f]);
            }
    }
}

/* ---- fifteen bytes ---- */

static unsigned length_of(const uint8_t *code)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction z;

    code_decoder(bits, &decoder);
    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code, LONGEST, &z)) ? z.length : 0;
}

/* The prefix that stands in front so often that the instruction is `length` bytes long; then at `left` bytes before the end of
 * the code's pages, behind which nothing is (0: not there). The first one is LOCK, now and then. */
static void padded(const struct skeleton *s, uint8_t first, uint8_t prefix, unsigned length, unsigned left)
{
    uint8_t plain[CODE_LONGEST], code[LONGEST + 1];
    struct duel_case c = {.code = code, .repeats = true, .direct = true};

    make_state(&c.state, s);
    const unsigned size = make_code(s, NULL, 0, c.state.rip, plain);
    if (size == 0 || size >= LONGEST || is_absent(plain, size))
        return; /* of what is undefined the length is not known */
    memset(code, prefix, length - size);
    memcpy(code + length - size, plain, size);
    if (length_of(code + length - LONGEST) != LONGEST || !code_is_comparable_bytes(bits, code + length - LONGEST))
        return; /* 66 and 67 change it, now and then */
    code[0] = first;
    c.size = length;
    if (left) {
        if (bits == 32 && simd_one_in(4))
            c.state.selector[SEG_CS] = DUEL_CODE32; /* its limit is there, too */
        c.state.rip =
            CODE_END - left - (c.state.selector[SEG_CS] == DUEL_CS64 || c.state.selector[SEG_CS] == DUEL_CS32 ? 0 : DUEL_BASE);
    }
    duel(&c, s, left);
    too_long += length > LONGEST;
    if (length > LONGEST && left == 0 && duel_theirs.vector != VECTOR_GP)
        report("16 bytes and no #GP", code, c.size, left);
}

static void all_lengths(void)
{
    static const uint8_t prefixes[] = {0x3e, 0x66, 0x67, 0x26};

    for (unsigned i = 0; i < skeleton_count; i++)
        for (unsigned length = LONGEST; length <= LONGEST + 1; length++) {
            simd_restart(i);
            const unsigned one = 1 + (unsigned)(simd_random() % (length - 1));
            const uint8_t pad = prefixes[list[i].is_vex ? 0 : simd_random() & 3];
            padded(&list[i], pad, pad, length, 0);
            padded(&list[i], list[i].is_vex && simd_one_in(2) ? 0x66 : 0xf0, pad, length, 0);
            for (unsigned left = is_all ? 1 : one; left <= (is_all ? length : one); left++)
                padded(&list[i], simd_one_in(4) ? 0xf0 : pad, pad, length, left);
        }
}

/* ---- what was different once ---- */

static void known_finds(void)
{
    static const struct {
        uint8_t bits, size, code[15];
    } finds[] = {
        {32, 7, {0x9a, 0x0a, 0x04, 0x00, 0x30, 0x07, 0x00}}, /* a far call beyond the limit: what is on the stack */
        {32, 9, {0x67, 0x2e, 0x9a, 0x0a, 0x04, 0x00, 0x30, 0x3f, 0x00}},
        {16,
         5,
         {0x66, 0x62, 0x2e, 0xfa, 0xff}}, /* BOUND at the limit: absent memory in its first half, the limit in the second */
        {64,
         15,
         {0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x05, 0x13, 0xe4, 0xf8}}, /* and one byte more */
        {64,
         15,
         {0xf0, 0xf2, 0x66, 0x67, 0x36, 0x36, 0x48, 0x40, 0xc4, 0xe1, 0x79, 0x91, 0x14, 0xfd, 0xeb}}, /* undefined, too long */
    };
    static const struct skeleton none = {.length = 1, .bytes = {0x90}};

    for (unsigned i = 0; i < array_size(finds); i++)
        for (unsigned n = 0; n < 32 && finds[i].bits == bits; n++) {
            struct duel_case c = {.code = finds[i].code, .size = finds[i].size, .direct = n & 1};
            simd_restart(n);
            make_state(&c.state, &none);
            if (n & 2 && finds[i].size == LONGEST)
                c.state.rip = CODE_END - 1 - n % LONGEST;
            duel(&c, &none, 0);
        }
}

/* ---- */

int main(int argc, char **argv)
{
    bits = argc > 1 ? (unsigned)atoi(argv[1]) : 64;
    for (int i = 2; i < argc; i++) {
        is_all |= strcmp(argv[i], "--all") == 0;
        if (strcmp(argv[i], "--every") == 0 && i + 1 < argc && atoi(argv[i + 1]) > 0)
            every = (unsigned)atoi(argv[i + 1]);
    }
    if (!__builtin_cpu_supports("avx2")) {
        fprintf(stderr, "SKIPPED: without AVX2 the host has not all there is\n");
        return 77;
    }
    const int result = duel_init();
    if (result != 0)
        return result;
    form_count = prefix_forms(bits == 64, forms, &singles);
    skeleton_count = skeletons(list);
    all_prefixes();
    all_lengths();
    known_finds();
    printf("%u-bit code: %u opcodes, %u combinations of prefixes; %lu compared with silicon, %lu of them of 16 bytes; %lu "
           "skipped, %lu of sets "
           "that are absent, %lu not for the host, %lu undefined and of unknown length, %lu failures;",
           bits, skeleton_count, form_count, compared, too_long, skipped, absent, left_out, unknown, failures);
    for (unsigned i = 0; i < 256; i++)
        if (by_vector[i])
            printf(" #%u: %lu", i, by_vector[i]);
    printf("\n");
    duel_fini();
    return failures == 0 && compared > 10000 && too_long > 1000 ? 0 : 1;
}
