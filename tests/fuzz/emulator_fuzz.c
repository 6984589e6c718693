/*
 * Random instructions in random states, with one property: the emulator finishes exactly like the processor, or it fails with a
 * documented status and nothing has changed.
 *
 * The first bytes of the input choose mode, code and which callback fails when; the rest is the state. As a libFuzzer target
 * (scripts/fuzz) it is endless; as a test it runs FUZZ_CASES inputs of a fixed generator.
 *
 *     emulator_fuzz [--count N | --seconds N] [--seed N]
 *     emulator_fuzz FILE                     an input; one that fails is left in emulator_fuzz.input
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "emul/flat_emulator.h"
#include "fuzz_limits.h"
#include "support/flat_cpu.h"
#include "util/check.h"
#include "x86/system/control.h"
#include "x86/memory/tlb.h"
#include "x86/system/control.h"

enum { DATA_PAGES = 4, GUEST = 0x80000, INPUT = 16 + 16 * 9 + 8, FUZZ_CASES = 20000 };

#define SNAPSHOT_BYTES ((1 + DATA_PAGES) * PAGE_SIZE)

/* What the bytes at the end of the input choose. */
enum { IN_FLAGS = INPUT - 2, IN_WHICH = INPUT - 3, IN_FAILS_AT = INPUT - 4, IN_GIVE = INPUT - 5, IN_MODE = INPUT - 6 };

enum mode { MODE_LONG_64, MODE_COMPATIBILITY, MODE_PROTECTED_32, MODE_PROTECTED_16, MODE_REAL, MODE_V86, MODES };

/* A page of code and pages of data behind it are at this address of the mode, and in memory at GUEST. */
static uint64_t base_of(enum mode mode)
{
    return mode <= MODE_COMPATIBILITY ? 0x30000000 : 0;
}

static struct flat_cpu *flat;

struct snapshot {
    uint64_t gpr[16], rip, rflags, cr0;
    struct segment segment[SEG_COUNT];
    struct table_register gdtr, idtr;
    bool interrupt_shadow;
    uint8_t cpl;
    union vector vector[16];
    struct x87_image x87;
    uint32_t mxcsr, pkru;
    uint8_t memory[SNAPSHOT_BYTES];
};

static void take(struct snapshot *s)
{
    const struct cpu *cpu = flat->cpu;

    memcpy(s->gpr, cpu->gpr, sizeof(s->gpr));
    s->rip = cpu->rip;
    s->rflags = cpu_rflags(cpu);
    s->cr0 = cpu->cr0;
    memcpy(s->segment, cpu->segment, sizeof(s->segment));
    s->gdtr = cpu->gdtr;
    s->idtr = cpu->idtr;
    s->interrupt_shadow = cpu->interrupt_shadow;
    s->cpl = cpu->cpl;
    memcpy(s->vector, cpu->vector, sizeof(s->vector));
    s->x87 = cpu->x87;
    s->mxcsr = cpu->mxcsr;
    s->pkru = cpu->pkru;
    memcpy(s->memory, flat->memory + GUEST, sizeof(s->memory));
}

static void put(const struct snapshot *s)
{
    struct cpu *cpu = flat->cpu;

    memcpy(cpu->gpr, s->gpr, sizeof(s->gpr));
    cpu->rip = s->rip;
    cpu->cr0 = s->cr0;
    cpu->cpl = s->cpl;
    cpu_set_rflags(cpu, s->rflags);
    memcpy(cpu->segment, s->segment, sizeof(s->segment));
    cpu->gdtr = s->gdtr;
    cpu->idtr = s->idtr;
    cpu->interrupt_shadow = s->interrupt_shadow;
    cpu->debug_shadow = false;
    cpu->debug_pending = cpu->debug_held = 0;
    memcpy(cpu->vector, s->vector, sizeof(s->vector));
    cpu->x87 = s->x87;
    cpu->mxcsr = s->mxcsr;
    cpu->pkru = s->pkru;
    memcpy(flat->memory + GUEST, s->memory, sizeof(s->memory));
    cpu_update_mode(cpu);
    cpu_drop_memory(cpu, false);
    cpu_invalidate_code(cpu, GUEST, PAGE_SIZE);
}

/* What is state in the image: its MXCSR is the stubs' scratch, its reserved bytes are nobody's. */
static bool same_x87(const struct x87_image *a, const struct x87_image *b)
{
    bool same = a->control == b->control && a->status == b->status && a->tag == b->tag && a->opcode == b->opcode &&
                a->instruction_pointer == b->instruction_pointer && a->data_pointer == b->data_pointer;

    for (unsigned i = 0; i < 8; i++)
        same &= a->st[i].mantissa == b->st[i].mantissa && a->st[i].exponent == b->st[i].exponent;
    return same;
}

/* Flags that the manual leaves undefined: the processor's fast operations and its exec functions may differ in them. */
static uint64_t undefined_flags(const uint8_t *code, enum mode mode)
{
    static const struct {
        ZydisMachineMode machine;
        ZydisStackWidth stack;
    } modes[MODES] = {
        [MODE_LONG_64] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
        [MODE_COMPATIBILITY] = {ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32},
        [MODE_PROTECTED_32] = {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
        [MODE_PROTECTED_16] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
        [MODE_REAL] = {ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16},
        [MODE_V86] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
    };
    ZydisDecoder decoder;
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

    ZydisDecoderInit(&decoder, modes[mode].machine, modes[mode].stack);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, 15, &decoded, operands)) || !decoded.cpu_flags)
        return 0;
    bool shifts = decoded.meta.category == ZYDIS_CATEGORY_ROTATE || decoded.meta.category == ZYDIS_CATEGORY_SHIFT;

    return decoded.cpu_flags->undefined | (shifts ? RFLAGS_OF : 0); /* for counts above 1 */
}

static bool same_registers(const struct snapshot *a, const struct snapshot *b, uint64_t undefined)
{
    return !memcmp(a->gpr, b->gpr, sizeof(a->gpr)) && a->rip == b->rip && !((a->rflags ^ b->rflags) & ~undefined) &&
           a->cr0 == b->cr0 && a->cpl == b->cpl && a->interrupt_shadow == b->interrupt_shadow &&
           a->gdtr.base == b->gdtr.base && a->gdtr.limit == b->gdtr.limit && a->idtr.base == b->idtr.base &&
           a->idtr.limit == b->idtr.limit && !memcmp(a->segment, b->segment, sizeof(a->segment)) &&
           !memcmp(a->vector, b->vector, sizeof(a->vector)) && same_x87(&a->x87, &b->x87) && a->mxcsr == b->mxcsr && a->pkru == b->pkru;
}

/* ---- the input ---- */

static void enter_paged(enum mode mode)
{
    flat_long(flat, mode == MODE_LONG_64, 3);
    flat_map(flat, base_of(mode), GUEST, FLAT_READ);
    for (unsigned i = 1; i <= DATA_PAGES; i++) /* the last one is read only */
        flat_map(flat, base_of(mode) + i * PAGE_SIZE, GUEST + i * PAGE_SIZE, i == DATA_PAGES ? FLAT_READ : FLAT_WRITE);
}

/* Without paging, segments at GUEST, as long as what a snapshot keeps. */
static void enter_segmented(enum mode mode)
{
    struct cpu *cpu = flat->cpu;
    bool is_protected = mode == MODE_PROTECTED_16 || mode == MODE_PROTECTED_32;

    flat_real(flat);
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        flat_real_segment(flat, i, GUEST >> 4);
    cpu->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
    if (mode != MODE_REAL)
        cpu->cr0 |= CR0_PE;
    cpu->cpl = mode == MODE_V86 ? 3 : 0;
    cpu->segment[SEG_TR].limit = 0;
    for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
        struct segment *s = &cpu->segment[i];

        if (is_protected)
            s->selector = i == SEG_CS ? 8 : 16;
        s->limit = SNAPSHOT_BYTES - 1;
        if (mode == MODE_PROTECTED_32)
            s->attributes |= SEG_DB;
        if (mode == MODE_V86)
            s->attributes = SEG_P | SEG_S | 3 << SEG_DPL_SHIFT | SEG_TYPE_WRITABLE | SEG_TYPE_ACCESSED;
    }
}

/* From the input, so that a case does not depend on those before it. */
static void fill_data(const uint8_t *in)
{
    uint64_t state;

    memcpy(&state, in + 17, sizeof(state));
    memset(flat->memory + GUEST, 0x90, PAGE_SIZE);
    for (unsigned i = 0; i < DATA_PAGES * PAGE_SIZE; i += 8) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        memcpy(flat->memory + GUEST + PAGE_SIZE + i, &state, 8);
    }
}

static void prepare(const uint8_t *in, enum mode mode)
{
    const uint64_t all = RFLAGS_ARITHMETIC | RFLAGS_DF | RFLAGS_TF;
    struct cpu *cpu = flat->cpu;
    uint64_t flags =
        in[IN_FLAGS] & 0x40 ? (in[IN_FLAGS] & 0x80 ? all : 0) : all & ((uint64_t)in[IN_FLAGS] << 8 | in[IN_FLAGS + 1]);

    cpu_set_rflags(cpu, 0);
    if (mode <= MODE_COMPATIBILITY)
        enter_paged(mode);
    else
        enter_segmented(mode);
    fill_data(in);
    memcpy(flat->memory + GUEST + 0x800, in + 1, 15);
    for (unsigned i = 0; i < 16; i++) {
        const uint8_t *at = in + 16 + 9 * i;
        uint64_t value;
        memcpy(&value, at + 1, 8);
        if (at[0] & 3) /* mostly an address near the data */
            value = base_of(mode) + PAGE_SIZE + value % (DATA_PAGES * PAGE_SIZE);
        memcpy(&cpu->vector[i].q[i & 3], at + 1, 8);
        cpu->gpr[i].q = mode == MODE_LONG_64 ? value : i < 8 ? (uint32_t)value : 0;
    }
    cpu->gpr[REG_RCX].q = (in[0] & 0xd) == 0xd ? cpu->gpr[REG_RCX].q : in[0] >> 4;
    cpu->gdtr = (struct table_register){.base = mode <= MODE_COMPATIBILITY ? base_of(mode) + PAGE_SIZE : GUEST + PAGE_SIZE,
                                        .limit = 0xfff};
    cpu->idtr = (struct table_register){.base = 0, .limit = 0x3ff};
    cpu->cr4 |= CR4_OSXSAVE;
    cpu->xcr0 = cpu_xcr0_mask(cpu);
    cpu->pkru = cpu->gpr[REG_RBX].d;
    cpu->interrupt_shadow = false;
    cpu_set_rflags(cpu, flags | (mode == MODE_V86 ? RFLAGS_VM : 0));
    cpu_update_mode(cpu);
    cpu->rip = base_of(mode) + 0x800;
}

/* As far as the processor goes with it: a repeated string comes back to itself. */
static enum cpu_leave run_processor(uint64_t rip, bool once)
{
    enum cpu_leave leave = LEAVE_NONE;

    for (unsigned i = 0; i < 100; i++) {
        leave = cpu_step(flat->cpu);
        if (leave != LEAVE_NONE || flat->cpu->rip != rip || once)
            break;
    }
    return leave;
}

static _Noreturn void differ(const char *what, const uint8_t *in)
{
    fprintf(stderr, "%s: mode %u, flags %#x, code", what, in[IN_MODE] % MODES, in[IN_FLAGS]);
    for (unsigned i = 1; i < 16; i++)
        fprintf(stderr, " %02x", in[i]);
    fprintf(stderr, "\n");
    FILE *f = fopen("emulator_fuzz.input", "wb"); /* to be given as the argument */
    if (f && fwrite(in, INPUT, 1, f) == 1)
        fclose(f);
    abort();
}

static void print_number(const char *what, uint64_t processor, uint64_t emulated)
{
    if (processor != emulated)
        fprintf(stderr, "%s: processor %llx, emulator %llx\n", what, (unsigned long long)processor, (unsigned long long)emulated);
}

static void print_difference(const struct snapshot *a, const struct snapshot *b)
{
    char name[32];

    for (unsigned i = 0; i < 16; i++) {
        snprintf(name, sizeof(name), "register %u", i);
        print_number(name, a->gpr[i], b->gpr[i]);
    }
    print_number("RIP", a->rip, b->rip);
    print_number("RFLAGS", a->rflags, b->rflags);
    print_number("CR0", a->cr0, b->cr0);
    print_number("CPL", a->cpl, b->cpl);
    print_number("shadow", a->interrupt_shadow, b->interrupt_shadow);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        snprintf(name, sizeof(name), "segment %u", i);
        print_number(name, a->segment[i].selector, b->segment[i].selector);
        print_number(name, a->segment[i].base, b->segment[i].base);
        print_number(name, a->segment[i].attributes, b->segment[i].attributes);
    }
    for (unsigned i = 0; i < sizeof(a->memory); i++) {
        snprintf(name, sizeof(name), "memory %x", i);
        print_number(name, a->memory[i], b->memory[i]);
    }
}

/* What the emulator refuses is judged by tests/emul; here it must only be without effect. Otherwise the status is that of the
 * callback that failed. */
static void check_failure(const uint8_t *in, const struct flat_emulation *done, const struct snapshot *before, const struct snapshot *after)
{
    static const enum emulator_outcome failures[FLAT_CALLBACKS] = {
        [FLAT_GET] = EMULATOR_GET_REGISTERS_FAILED, [FLAT_SET] = EMULATOR_SET_REGISTERS_FAILED, [FLAT_MEMORY] = EMULATOR_MEMORY_FAILED,
        [FLAT_IO] = EMULATOR_IO_FAILED, [FLAT_TRANSLATE] = EMULATOR_TRANSLATE_FAILED};

    if (done->outcome != EMULATOR_INTERNAL_FAILURE && !((in[0] & 2) && done->outcome == failures[in[IN_WHICH] % FLAT_CALLBACKS]))
        differ("a status of something else", in);
    if (done->outcome == EMULATOR_INTERNAL_FAILURE && (done->writes || done->calls[FLAT_SET]))
        differ("refused after something had happened", in);
    if (!done->calls[FLAT_SET] && !same_registers(before, after, 0))
        differ("failed, and registers have changed", in);
}

static void check_success(const uint8_t *in, const struct flat_emulation *done, const struct snapshot *before,
                          const struct snapshot *emulated)
{
    static struct snapshot processor;
    struct cpu_fault event = flat->cpu->fault;

    put(before);
    enum cpu_leave leave = run_processor(before->rip, before->rflags & RFLAGS_TF);
    take(&processor);
    if (leave != LEAVE_NONE && leave != LEAVE_FAULT)
        return;
    if (memcmp(before->memory + 0x800, processor.memory + 0x800, 15))
        return; /* a repeated instruction that overwrites itself: how soon the new bytes count is not said */
    if (done->has_event != (leave == LEAVE_FAULT))
        differ("one of them faults", in);
    if (done->has_event && (event.vector != flat->cpu->fault.vector || event.error != flat->cpu->fault.error ||
                            event.address != flat->cpu->fault.address)) {
        print_number("vector", flat->cpu->fault.vector, event.vector);
        print_number("error", flat->cpu->fault.error, event.error);
        print_number("address", flat->cpu->fault.address, event.address);
        differ("they fault differently", in);
    }
    if (done->traps !=
        ((before->rflags & RFLAGS_TF) && leave == LEAVE_NONE && !flat->cpu->interrupt_shadow && !flat->cpu->trap_cancelled))
        differ("one of them traps", in);
    /* RF tells how often the processor has paused in a repetition before the fault. */
    uint64_t undefined = undefined_flags(in + 1, in[IN_MODE] % MODES) | (leave == LEAVE_FAULT ? RFLAGS_RF : 0);
    if (!same_registers(&processor, emulated, undefined) ||
        memcmp(processor.memory, emulated->memory, sizeof(processor.memory))) {
        print_difference(&processor, emulated);
        differ("they end differently", in);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size)
{
    static struct snapshot before, after;
    struct flat_emulation done;

    if (size < INPUT)
        return 0;
    if (!flat)
        flat = flat_create();
    check(flat != NULL);
    prepare(in, in[IN_MODE] % MODES);
    take(&before);
    put(&before);
    unsigned fails_at = in[0] & 2 ? 1 + in[IN_FAILS_AT] % 4u : 0;
    flat_emulate(flat->cpu, in + 1, in[IN_GIVE] % 16, (enum flat_callback)(in[IN_WHICH] % FLAT_CALLBACKS), fails_at, &done);
    take(&after);
    if (done.outcome == EMULATOR_SUCCESS)
        check_success(in, &done, &before, &after);
    else
        check_failure(in, &done, &before, &after);
    return 0;
}

#ifndef OWHP_LIBFUZZER
static uint64_t state;

static uint64_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x9e3779b97f4a7c15;
}

/* Random bytes are mostly plain instructions: prefixes and the second and third opcode maps more often. */
static void shape(uint8_t *code)
{
    static const uint8_t prefixes[] = {0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x64, 0x48, 0x41, 0x4c};
    static const uint8_t maps[] = {0x38, 0x3a, 0xae, 0xc7, 0xb0, 0x01};
    uint64_t r = next_random();
    unsigned at = 0;

    for (; r & 1 && at < 3; r >>= 1)
        code[at++] = prefixes[next_random() % sizeof(prefixes)];
    r >>= 1;
    if ((r >> 8 & 7) == 0) { /* VEX of either kind, maps 0F to 0F3A; in 64-bit mode with R and X set */
        code[at] = (uint8_t)(0xc4 | (r >> 11 & 1));
        code[at + 1] |= 0xc0;
        if (code[at] == 0xc4)
            code[at + 1] = (uint8_t)((code[at + 1] & 0xe0) | (1 + (code[at + 1] & 0x1f) % 3));
        return;
    }
    if (r & 1)
        code[at++] = 0x0f;
    if ((r & 7) == 7)
        code[at] = maps[next_random() % sizeof(maps)];
}

static int replay(const char *path)
{
    uint8_t input[INPUT];
    FILE *f = fopen(path, "rb");

    if (!f || fread(input, INPUT, 1, f) != 1) {
        fprintf(stderr, "%s: not an input\n", path);
        return 1;
    }
    fclose(f);
    return LLVMFuzzerTestOneInput(input, INPUT);
}

int main(int argc, char **argv)
{
    const struct fuzz_limits limits = fuzz_limits(argc, argv, FUZZ_CASES);
    uint8_t input[INPUT];
    uint64_t i;

    if (argc == 2)
        return replay(argv[1]);
    for (i = 0; fuzz_goes_on(&limits, i); i++) {
        state = fuzz_state(limits.seed + i);
        for (unsigned k = 0; k < INPUT; k++)
            input[k] = (uint8_t)(next_random() >> 32);
        shape(input + 1);
        (void)LLVMFuzzerTestOneInput(input, sizeof(input));
    }
    printf("%llu random instructions from seed %llu\n", (unsigned long long)i, (unsigned long long)limits.seed);
    return 0;
}
#endif
