/*
 * Random instructions whose memory is answered by OwhpCompleteMemoryAccess, against the same instructions with RAM there:
 * registers, vector state and memory must be the same in the end.
 *
 * A case is one instruction with HLT behind it, in 64-bit mode at privilege 3 or in real mode (emul/completion_pair.h). What
 * does not end with HLT on RAM (a port, nowhere) is left out, and so is what cannot be answered: an event's delivery on a stack
 * in the window.
 *
 *     completion_fuzz [--count N | --seconds N] [--seed N]
 *
 * The same as a target of libFuzzer (scripts/fuzz): the input is where the random numbers come from first.
 */
#include "emul/completion_pair.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz_limits.h"

enum { CASES = 6000 };

static UINT8 code[16];
static UINT64 results[PAIR_UNANSWERED + 1], seed, state;
static const UINT8 *food;
static size_t food_size;

static UINT64 next_random(void)
{
    if (food_size >= sizeof(UINT64)) {
        UINT64 eaten;
        memcpy(&eaten, food, sizeof(eaten));
        food += sizeof(eaten);
        food_size -= sizeof(eaten);
        return eaten;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x9e3779b97f4a7c15;
}

/* ---- cases ---- */

/* Time, chance, other processors' business, and what may go round in circles. */
static bool is_left_out(const ZydisDecodedInstruction *insn, bool is_long)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_RDTSC: case ZYDIS_MNEMONIC_RDTSCP: case ZYDIS_MNEMONIC_RDRAND: case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_WRMSR: case ZYDIS_MNEMONIC_RDMSR: case ZYDIS_MNEMONIC_HLT:
        return true;
    default:
        /* In real mode anything can be executed. */
        return is_long ? insn->raw.imm[0].is_relative : insn->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;
    }
}

static bool make_code(bool is_long, UINT64 *undefined)
{
    static const UINT8 prefixes[] = {0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x48, 0x41, 0x4c};
    ZydisDecoder decoder;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    UINT64 r = next_random();
    unsigned at = 0;

    for (unsigned i = 0; i < sizeof(code); i++)
        code[i] = (UINT8)(next_random() >> 32);
    for (; (r & 1) && at < 3; r >>= 1)
        code[at++] = prefixes[next_random() % sizeof(prefixes)];
    if (r & 2)
        code[at++] = 0x0f;
    if ((r & 0xfc) == 0xfc) {
        code[0] = is_long ? 0xc5 : 0x0f;
        at = 3;
    }
    code[at + 1] = (UINT8)(code[at + 1] & (r & 0x100 ? 0x3f : 0x7f)); /* a memory operand */
    ZydisDecoderInit(&decoder, is_long ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_REAL_16,
                     is_long ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_16);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, 15, &insn, operands)) || is_left_out(&insn, is_long))
        return false;
    *undefined = pair_undefined_flags(&insn);
    memset(code + insn.length, 0xf4, sizeof(code) - insn.length);
    return true;
}

static void make_state(bool is_long)
{
    for (unsigned i = 0; i < 16; i++) {
        UINT64 r = next_random(), at = next_random() % WINDOW_SIZE;

        pair_start.registers[i].Reg64 = (r & 7) == 7 ? r : is_long ? WINDOW + at : at;
    }
    pair_start.registers[WHvX64RegisterRcx].Reg64 =
        next_random() & 1 ? next_random() % 4 : pair_start.registers[WHvX64RegisterRcx].Reg64 & 0xff;
    if (next_random() & 3)
        pair_start.registers[WHvX64RegisterRsp].Reg64 = STACK;
    pair_start.registers[PAIR_RFLAGS].Reg64 = next_random() & 1 ? 2 : 2 | (next_random() & 0xcd5);
    for (unsigned i = 0; i < 16 * 16; i += 8) {
        UINT64 r = next_random();
        memcpy(pair_start.xsave + 160 + i, &r, 8);
    }
    pair_start.xsave[512] |= 2; /* XSTATE_BV: SSE */
    UINT64 content = next_random();
    for (unsigned i = 0; i < WINDOW_SIZE; i += 8) {
        content = fuzz_state(content);
        memcpy(pair_start.memory + WINDOW + i, &content, 8);
    }
    memcpy(pair_start.memory + CODE, code, sizeof(code));
}

static void try_case(bool is_long)
{
    UINT64 undefined;

    if (!make_code(is_long, &undefined))
        return;
    pair_choose(is_long ? PAIR_USER : PAIR_REAL);
    make_state(is_long);
    const enum pair_result result = pair_try(undefined, false);
    results[result]++;
    if (result != PAIR_DIFFERENT)
        return;
    print_error("--seed %llu --count 1\n", (unsigned long long)seed);
    exit(1);
}

/* ---- running ---- */

static void prepare(void)
{
    pair_begin(1u << PAIR_USER | 1u << PAIR_REAL);
}

#ifdef OWHP_LIBFUZZER

int LLVMFuzzerTestOneInput(const UINT8 *data, size_t size);
int LLVMFuzzerTestOneInput(const UINT8 *data, size_t size)
{
    static bool is_prepared;

    if (size == 0)
        return 0;
    if (!is_prepared)
        prepare();
    is_prepared = true;
    state = fuzz_state(size);
    food = data + 1;
    food_size = size - 1;
    try_case(data[0] & 1);
    return 0;
}

#else

int main(int argc, char **argv)
{
    const struct fuzz_limits limits = fuzz_limits(argc, argv, CASES);

    prepare();
    for (UINT64 i = 0; fuzz_goes_on(&limits, i); i++) {
        seed = limits.seed + i;
        state = fuzz_state(seed);
        try_case(seed & 1);
    }
    pair_end();
    printf("%llu instructions compared from seed %llu, %u accesses answered; %llu could not be answered, %llu end otherwise\n",
           (unsigned long long)results[PAIR_SAME], (unsigned long long)limits.seed, pair_accesses,
           (unsigned long long)results[PAIR_UNANSWERED], (unsigned long long)results[PAIR_OTHERWISE]);
    return limits.count == 1 || (results[PAIR_SAME] && pair_accesses) ? 0 : 1;
}

#endif
