/*
 * Random instructions whose memory is answered by OwhpCompleteMemoryAccess, against the same instructions with RAM there:
 * registers, vector state and memory must be the same in the end.
 *
 * A case is one instruction with HLT behind it, in 64-bit mode at privilege 3 or in real mode. First it runs on RAM; then the
 * data window is unmapped and each access served from a buffer. What the RAM run does not end with HLT (a port, nowhere) is
 * left out, and so is what cannot be answered: an event's delivery on a stack in the window.
 *
 *     completion_fuzz [--count N | --seconds N] [--seed N]
 *
 * The same as a target of libFuzzer (scripts/fuzz): the input is where the random numbers come from first.
 */
#include "conform/guest.h"

#include <Zydis/Zydis.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fuzz/fuzz_limits.h"

/* The window is behind the stack; memory is kept and compared up to the page tables. */
enum { WINDOW = 0xa000, WINDOW_SIZE = 0x4000, KEPT = TABLES, CASES = 6000, XSAVE_SIZE = 4096 };

static const WHV_REGISTER_NAME names[] = {
    WHvX64RegisterRax, WHvX64RegisterRcx, WHvX64RegisterRdx, WHvX64RegisterRbx, WHvX64RegisterRsp, WHvX64RegisterRbp,
    WHvX64RegisterRsi, WHvX64RegisterRdi, WHvX64RegisterR8, WHvX64RegisterR9, WHvX64RegisterR10, WHvX64RegisterR11,
    WHvX64RegisterR12, WHvX64RegisterR13, WHvX64RegisterR14, WHvX64RegisterR15, WHvX64RegisterRip, WHvX64RegisterRflags,
    WHvX64RegisterEs, WHvX64RegisterCs, WHvX64RegisterSs, WHvX64RegisterDs, WHvX64RegisterFs, WHvX64RegisterGs,
    WHvX64RegisterLdtr, WHvX64RegisterTr, WHvX64RegisterIdtr, WHvX64RegisterGdtr, WHvX64RegisterCr0, WHvX64RegisterCr2,
    WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterEfer, WHvX64RegisterXCr0, WHvRegisterPendingInterruption,
    WHvRegisterInterruptState, WHvRegisterPendingEvent, WHvX64RegisterDr0, WHvX64RegisterDr1, WHvX64RegisterDr2,
    WHvX64RegisterDr3, WHvX64RegisterDr6, WHvX64RegisterDr7,
};
enum { NAMES = sizeof(names) / sizeof(names[0]), RFLAGS = 17, FLAGS_PUSHED = STACK - 0x18 };

struct state {
    WHV_REGISTER_VALUE registers[NAMES];
    UINT8 xsave[XSAVE_SIZE];
    UINT32 xsave_size;
    UINT8 memory[KEPT]; /* from GPA 0 */
};

static struct guest guest, guests[2];
static struct state start, starts[2], on_ram, completed;
static UINT8 code[16];
static UINT64 compared, unanswered, others, accesses, seed, state;
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

/* ---- states ---- */

static void take(struct state *s)
{
    assert_ok(WHvGetVirtualProcessorRegisters(guest.partition, 0, names, NAMES, s->registers));
    memset(s->xsave, 0, sizeof(s->xsave));
    assert_ok(WHvGetVirtualProcessorXsaveState(guest.partition, 0, s->xsave, sizeof(s->xsave), &s->xsave_size));
    memcpy(s->memory, guest.ram, KEPT);
}

static void put(const struct state *s)
{
    assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, 0, names, NAMES, s->registers));
    assert_ok(WHvSetVirtualProcessorXsaveState(guest.partition, 0, s->xsave, s->xsave_size));
    memcpy(guest.ram, s->memory, KEPT);
}

static void begin(bool is_long)
{
    guest_begin(&guest, NULL);
    if (is_long) {
        guest_long_mode(&guest, 3);
        for (UINT64 page = 0; page < RAM_SIZE; page += 0x1000) {
            if (page != CODE && page != HANDLERS) /* what is not code is not to be executed, */
                *guest_pte(&guest, page) |= 1ull << 63;
            if (page >= KEPT) /* and what is not kept not to be written */
                *guest_pte(&guest, page) &= ~2ull;
        }
        guest_set(&guest, WHvX64RegisterCr4, 0x40620);
    } else {
        const WHV_REGISTER_VALUE data = {
            .Segment = {.Base = WINDOW, .Limit = WINDOW_SIZE - 1, .Selector = WINDOW >> 4, .Attributes = 0x93}};
        const WHV_REGISTER_VALUE values[] = {data, data};

        assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, 0, &names[18], 1, values));
        assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, 0, &names[21], 1, values));
        guest_set(&guest, WHvX64RegisterCr4, 0x40600);
    }
    guest_set(&guest, WHvX64RegisterXCr0, 7);
    memset(guest.ram + CODE, 0xf4, 0x1000);
    take(&start);
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

/* Flags that the manual leaves undefined: the processor's fast operations and its exec functions may differ in them. */
static UINT64 undefined_flags(const ZydisDecodedInstruction *insn)
{
    UINT64 undefined = insn->cpu_flags ? insn->cpu_flags->undefined : 0;
    bool shifts = insn->meta.category == ZYDIS_CATEGORY_ROTATE || insn->meta.category == ZYDIS_CATEGORY_SHIFT;

    return undefined | (shifts ? 0x800 : 0); /* OF: for counts above 1 */
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
    *undefined = undefined_flags(&insn);
    memset(code + insn.length, 0xf4, sizeof(code) - insn.length);
    return true;
}

static void make_state(bool is_long)
{
    for (unsigned i = 0; i < 16; i++) {
        UINT64 r = next_random(), at = next_random() % WINDOW_SIZE;

        start.registers[i].Reg64 = (r & 7) == 7 ? r : is_long ? WINDOW + at : at;
    }
    start.registers[WHvX64RegisterRcx].Reg64 =
        next_random() & 1 ? next_random() % 4 : start.registers[WHvX64RegisterRcx].Reg64 & 0xff;
    if (next_random() & 3)
        start.registers[WHvX64RegisterRsp].Reg64 = STACK;
    start.registers[RFLAGS].Reg64 = next_random() & 1 ? 2 : 2 | (next_random() & 0xcd5);
    for (unsigned i = 0; i < 16 * 16; i += 8) {
        UINT64 r = next_random();
        memcpy(start.xsave + 160 + i, &r, 8);
    }
    start.xsave[512] |= 2; /* XSTATE_BV: SSE */
    UINT64 content = next_random();
    for (unsigned i = 0; i < WINDOW_SIZE; i += 8) {
        content = fuzz_state(content);
        memcpy(start.memory + WINDOW + i, &content, 8);
    }
    memcpy(start.memory + CODE, code, sizeof(code));
}

static void run(void)
{
    assert_ok(WHvRunVirtualProcessor(guest.partition, 0, &guest.exit, sizeof(guest.exit)));
}

/* Something may go round in circles for ever (an interrupt through a table that was overwritten). */
static void *cancel_now_and_then(void *stop)
{
    for (unsigned i = 0; !atomic_load((_Atomic bool *)stop); i++) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        if (i % 8 < 2)
            (void)WHvCancelRunVirtualProcessor(guests[i % 8].partition, 0, 0);
    }
    return NULL;
}

/* ---- the two ways ---- */

static bool run_on_ram(void)
{
    put(&start);
    run();
    take(&on_ram);
    return guest.exit.ExitReason == WHvRunVpExitReasonX64Halt;
}

/* All accesses of an instruction; false: one cannot be answered. */
static bool answer(UINT8 *window)
{
    OWHP_MEMORY_ACCESS a;
    HRESULT result = OwhpGetMemoryAccess(guest.partition, 0, &guest.exit, &a);

    if (result == S_OK)
        result = S_FALSE;
    while (result == S_FALSE) {
        UINT64 at = a.Gpa - WINDOW;

        assert_true(at < WINDOW_SIZE && a.SizeInBytes <= WINDOW_SIZE - at);
        if (a.AccessType == WHvMemoryAccessRead)
            memcpy(&a.Data, window + at, a.SizeInBytes);
        else
            memcpy(window + at, &a.Data, a.SizeInBytes);
        result = OwhpCompleteMemoryAccess(guest.partition, 0, &a);
        accesses++;
    }
    return result == S_OK;
}

static bool run_completed(void)
{
    static UINT8 window[WINDOW_SIZE];
    bool is_answered = true;

    put(&start);
    memcpy(window, guest.ram + WINDOW, WINDOW_SIZE);
    assert_ok(WHvUnmapGpaRange(guest.partition, WINDOW, WINDOW_SIZE));
    for (unsigned i = 0; i < 3000 && is_answered; i++) {
        run();
        if (guest.exit.ExitReason != WHvRunVpExitReasonMemoryAccess)
            break;
        is_answered = answer(window);
    }
    assert_ok(WHvMapGpaRange(guest.partition, guest.ram + WINDOW, WINDOW, WINDOW_SIZE,
                             WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
    memcpy(guest.ram + WINDOW, window, WINDOW_SIZE);
    is_answered &= guest.exit.ExitReason == WHvRunVpExitReasonX64Halt;
    if (is_answered)
        take(&completed);
    return is_answered;
}

/* ---- comparing ---- */

static void print_numbers(const char *what, unsigned index, UINT64 ram, UINT64 done)
{
    if (ram != done)
        print_error("%s %u: on RAM %#llx, completed %#llx\n", what, index, (unsigned long long)ram, (unsigned long long)done);
}

static void print_difference(void)
{
    for (unsigned i = 0; i < NAMES; i++) {
        print_numbers("register", (unsigned)names[i], on_ram.registers[i].Reg128.Low64, completed.registers[i].Reg128.Low64);
        print_numbers("register's upper half", (unsigned)names[i], on_ram.registers[i].Reg128.High64,
                      completed.registers[i].Reg128.High64);
    }
    for (unsigned i = 0; i < on_ram.xsave_size; i++)
        print_numbers("XSAVE byte", i, on_ram.xsave[i], completed.xsave[i]);
    for (unsigned i = 0; i < KEPT; i++)
        print_numbers("memory", i, on_ram.memory[i], completed.memory[i]);
}

static void compare(bool is_long, UINT64 undefined)
{
    static WHV_REGISTER_VALUE ram[NAMES];

    memcpy(ram, on_ram.registers, sizeof(ram));
    ram[RFLAGS].Reg64 ^= (ram[RFLAGS].Reg64 ^ completed.registers[RFLAGS].Reg64) & undefined;
    if (is_long) { /* HLT at privilege 3 is a fault, which pushes RFLAGS */
        on_ram.memory[FLAGS_PUSHED] = completed.memory[FLAGS_PUSHED];
        on_ram.memory[FLAGS_PUSHED + 1] = completed.memory[FLAGS_PUSHED + 1];
    }
    compared++;
    if (!memcmp(ram, completed.registers, sizeof(ram)) && !memcmp(on_ram.xsave, completed.xsave, on_ram.xsave_size) &&
        !memcmp(on_ram.memory, completed.memory, KEPT))
        return;
    print_error("--seed %llu --count 1, %s:", (unsigned long long)seed, is_long ? "64-bit mode" : "real mode");
    for (unsigned i = 0; i < sizeof(code); i++)
        print_error(" %02x", code[i]);
    print_error("\n");
    print_difference();
    exit(1);
}

static void try_case(bool is_long)
{
    UINT64 undefined;

    if (!make_code(is_long, &undefined))
        return;
    make_state(is_long);
    if (!run_on_ram())
        others++;
    else if (!run_completed())
        unanswered++;
    else
        compare(is_long, undefined);
}

/* ---- running ---- */

static void prepare(pthread_t *canceler, _Atomic bool *stop)
{
    for (unsigned mode = 0; mode < 2; mode++) {
        begin(mode);
        guests[mode] = guest;
        starts[mode] = start;
    }
    assert_int_equal(pthread_create(canceler, NULL, cancel_now_and_then, stop), 0);
}

static void one(bool is_long)
{
    guest = guests[is_long];
    start = starts[is_long];
    try_case(is_long);
}

#ifdef OWHP_LIBFUZZER

int LLVMFuzzerTestOneInput(const UINT8 *data, size_t size);
int LLVMFuzzerTestOneInput(const UINT8 *data, size_t size)
{
    static _Atomic bool never;
    static pthread_t canceler;

    if (size == 0)
        return 0;
    if (!guests[0].partition)
        prepare(&canceler, &never);
    state = fuzz_state(size);
    food = data + 1;
    food_size = size - 1;
    one(data[0] & 1);
    return 0;
}

#else

int main(int argc, char **argv)
{
    const struct fuzz_limits limits = fuzz_limits(argc, argv, CASES);
    _Atomic bool stop = false;
    pthread_t canceler;

    prepare(&canceler, &stop);
    for (UINT64 i = 0; fuzz_goes_on(&limits, i); i++) {
        seed = limits.seed + i;
        state = fuzz_state(seed);
        one(seed & 1);
    }
    atomic_store(&stop, true);
    pthread_join(canceler, NULL);
    for (unsigned mode = 0; mode < 2; mode++)
        guest_end(&guests[mode]);
    printf("%llu instructions compared from seed %llu, %llu accesses answered; %llu could not be answered, %llu end otherwise\n",
           (unsigned long long)compared, (unsigned long long)limits.seed, (unsigned long long)accesses,
           (unsigned long long)unanswered, (unsigned long long)others);
    return limits.count == 1 || (compared && accesses) ? 0 : 1;
}

#endif
