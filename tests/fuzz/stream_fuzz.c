/*
 * Streams of random instructions, on the host's processor and on ours: 64-, 32- and 16-bit code of an unprivileged
 * process, up to the first fault.
 *
 *     stream_fuzz BITS [--count N | --seconds N] [--seed N] [--longest N]
 *
 * A difference is reduced to the instructions that make it, and printed with its seed: `--seed N --count 1` repeats it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "duel/duel.h"
#include "duel/duel_code.h"
#include "fuzz_limits.h"
#include "insn/simd_values.h"

enum { MOST = 50, PRINTED = 12 };

struct stream {
    uint8_t code[MOST][CODE_LONGEST];
    unsigned length[MOST];
    unsigned count;
    struct duel_state state;
    bool direct;
};

static unsigned bits;
static unsigned long cases, skipped, different, by_vector[256];

static bool has_repeat(const uint8_t *code, unsigned length)
{
    for (unsigned i = 1; i < length; i++)
        if ((code[i - 1] & 0xfe) == 0xf2)
            return true;
    return false;
}

static enum duel_result run(const struct stream *s, bool print)
{
    uint8_t code[MOST * CODE_LONGEST];
    struct duel_case c = {.state = s->state, .code = code, .direct = s->direct};

    for (unsigned i = 0; i < s->count; i++) {
        memcpy(code + c.size, s->code[i], s->length[i]);
        c.size += s->length[i];
        c.repeats |= has_repeat(s->code[i], s->length[i]);
    }
    duel_reset_memory();
    return duel_compare(&c, print);
}

static void make(struct stream *s, uint64_t seed, unsigned longest)
{
    uint64_t at;

    simd_restart(seed);
    duel_random_state(&s->state, bits);
    if (simd_one_in(8))
        s->state.rip += simd_one_in(2) ? 0xbd0 : 0x1bc0 + (simd_random() & 63); /* across the page, to the end */
    s->direct = !simd_one_in(4);
    at = s->state.rip;
    s->count = 1 + (unsigned)(simd_random() % longest);
    for (unsigned i = 0; i < s->count; i++) {
        s->length[i] = code_random(bits, at, s->code[i]);
        at += s->length[i];
    }
}

static void reduce(struct stream *s)
{
    for (unsigned i = s->count; i-- > 0;) {
        struct stream without = *s;
        memmove(without.code[i], without.code[i + 1], sizeof(without.code[0]) * (s->count - i - 1));
        memmove(&without.length[i], &without.length[i + 1], sizeof(without.length[0]) * (s->count - i - 1));
        without.count--;
        if (run(&without, false) == DUEL_DIFFERENT)
            *s = without;
    }
}

static void print_stream(const struct stream *s)
{
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    uint64_t at = s->state.rip;

    code_decoder(bits, &decoder);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    for (unsigned i = 0; i < s->count; i++)
        for (unsigned k = 0; k < s->length[i];) {
            ZydisDecodedInstruction insn = {.length = 1};
            ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
            char text[128] = "?";
            if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, s->code[i] + k, s->length[i] - k, &insn, operands)))
                ZydisFormatterFormatInstruction(&formatter, &insn, operands, insn.operand_count_visible, text, sizeof(text), at,
                                                NULL);
            else
                insn.length = (uint8_t)(s->length[i] - k);
            fprintf(stderr, "  %08" PRIx64 "  ", at);
            for (unsigned n = 0; n < 15; n++)
                n < insn.length ? fprintf(stderr, "%02x ", s->code[i][k + n]) : fprintf(stderr, "   ");
            fprintf(stderr, "%s\n", text);
            k += insn.length;
            at += insn.length;
        }
}

static void one(uint64_t seed, unsigned longest)
{
    static struct stream s;

    make(&s, seed, longest);
    cases++;
    switch (run(&s, false)) {
    case DUEL_SAME:
        by_vector[duel_theirs.vector]++;
        return;
    case DUEL_SKIPPED:
        skipped++;
        return;
    default:
        break;
    }
    if (different++ >= PRINTED)
        return;
    reduce(&s);
    fprintf(stderr, "DIFFERENT: %u-bit code, --seed %" PRIu64 " --longest %u%s\n", bits, seed, longest,
            s.direct ? "" : ", through the port");
    print_stream(&s);
    run(&s, true);
}

int main(int argc, char **argv)
{
    const struct fuzz_limits limits = fuzz_limits(argc, argv, 15000);
    const uint64_t wish = fuzz_number(argc, argv, "--longest", NULL);
    const unsigned longest = wish > 0 && wish < MOST ? (unsigned)wish : MOST;

    bits = argc > 1 ? (unsigned)atoi(argv[1]) : 64;
    if (bits != 16 && bits != 32 && bits != 64) {
        fprintf(stderr, "usage: stream_fuzz [16|32|64 [--seed N] [--count N] [--seconds N] [--longest N]]\n");
        return 2;
    }
    const int result = duel_init();
    if (result != 0)
        return result;
    code_catalogue(bits);
    for (uint64_t i = 0; fuzz_goes_on(&limits, i); i++)
        one(limits.seed + i, longest);
    printf("%u-bit code: %u instructions, %lu streams from seed %" PRIu64 ", %lu skipped, %lu different; ended with", bits,
           code_catalogue_size(), cases, limits.seed, skipped, different);
    for (unsigned i = 0; i < 256; i++)
        if (by_vector[i])
            printf(" #%u: %lu", i, by_vector[i]);
    printf("\n");
    duel_fini();
    return different == 0 ? 0 : 1;
}
