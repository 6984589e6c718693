/*
 * Single-instruction tests in real mode, captured from an 80286 (public project SingleStepTests/80286, MIT) and reduced
 * to what a current processor does. The file is not part of this project: its directory is in OWHP_VECTORS, or is the
 * program's argument. Without it the test is skipped.
 *
 * Format (little endian): "SST286P1", u32 count; per test: u8 length and name, u16 mask of flags to compare, u8
 * exception (255: none), u32 address of the flags image an exception pushed, u8 length and instruction bytes, 14 u16
 * registers before, 14 after (ax bx cx dx cs ss ds es sp bp si di ip flags), u16 count and (u32 address, u8 value) of
 * memory before, the same for after. The code ends with HLT; IN reads ones.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/flat_cpu.h"
#include "util/compiler.h"
#include "x86/system/event.h"

enum { AX, BX, CX, DX, CS, SS, DS, ES, SP, BP, SI, DI, IP, FLAGS, REGISTERS };
enum { STEPS = 100000, PRINTED = 25, MEMORY = 0x110000 };

static const char register_names[REGISTERS][6] = {"ax", "bx", "cx", "dx", "cs", "ss", "ds",
                                                  "es", "sp", "bp", "si", "di", "ip", "flags"};

struct reader {
    const uint8_t *at, *end;
};

/* One test; the memory lists stay in the file: 5 bytes an entry. */
struct vector_test {
    char name[64];
    uint16_t flags_mask;
    uint8_t exception;
    uint32_t flags_image;
    uint8_t length;
    const uint8_t *bytes;
    uint16_t before[REGISTERS], after[REGISTERS];
    uint16_t before_count, after_count;
    const uint8_t *memory_before, *memory_after;
};

static struct flat_cpu *flat;
static unsigned failures;

/* ---- the file ---- */

static const uint8_t *take(struct reader *r, size_t size)
{
    const uint8_t *at = r->at;

    if ((size_t)(r->end - r->at) < size) {
        fprintf(stderr, "the vector file ends too early\n");
        exit(1);
    }
    r->at += size;
    return at;
}

static uint8_t take8(struct reader *r) { return *take(r, 1); }

static uint16_t take16(struct reader *r)
{
    const uint8_t *p = take(r, 2);
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void take_registers(struct reader *r, uint16_t registers[REGISTERS])
{
    for (unsigned i = 0; i < REGISTERS; i++)
        registers[i] = take16(r);
}

static void take_test(struct reader *r, struct vector_test *t)
{
    const uint8_t length = take8(r);

    memset(t, 0, sizeof(*t));
    memcpy(t->name, take(r, length), length < sizeof(t->name) ? length : sizeof(t->name) - 1);
    t->flags_mask = take16(r);
    t->exception = take8(r);
    t->flags_image = get32(take(r, 4));
    t->length = take8(r);
    t->bytes = take(r, t->length);
    take_registers(r, t->before);
    take_registers(r, t->after);
    t->before_count = take16(r);
    t->memory_before = take(r, t->before_count * 5u);
    t->after_count = take16(r);
    t->memory_after = take(r, t->after_count * 5u);
}

static uint8_t *read_whole(const char *directory, size_t *size)
{
    char path[4096];
    FILE *file;
    uint8_t *bytes = NULL;
    long length;

    snprintf(path, sizeof(path), "%s/80286-real-mode.pack", directory);
    file = fopen(path, "rb");
    if (!file)
        return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && (length = ftell(file)) > 12) {
        rewind(file);
        *size = (size_t)length;
        bytes = malloc(*size);
        if (bytes && fread(bytes, 1, *size, file) != *size) {
            free(bytes);
            bytes = NULL;
        }
    }
    fclose(file);
    return bytes;
}

/* ---- running ---- */

static void set_memory(const uint8_t *list, unsigned count, bool clear)
{
    for (unsigned i = 0; i < count; i++)
        if (get32(list + i * 5) < FLAT_SIZE)
            flat->memory[get32(list + i * 5)] = clear ? 0 : list[i * 5 + 4];
}

static const unsigned gpr_of[] = {[AX] = REG_RAX, [BX] = REG_RBX, [CX] = REG_RCX, [DX] = REG_RDX,
                                  [SP] = REG_RSP, [BP] = REG_RBP, [SI] = REG_RSI, [DI] = REG_RDI};
static const enum segment_index segment_of[] = {[CS] = SEG_CS, [SS] = SEG_SS, [DS] = SEG_DS, [ES] = SEG_ES};

static bool is_segment(unsigned i) { return i >= CS && i <= ES; }

static void load(const struct vector_test *t)
{
    struct cpu *cpu = flat->cpu;

    cpu_reset(cpu, false);
    flat_real(flat);
    for (unsigned i = AX; i <= DI; i++) {
        if (is_segment(i))
            flat_real_segment(flat, segment_of[i], t->before[i]);
        else
            cpu->gpr[gpr_of[i]].q = t->before[i];
    }
    cpu->rip = t->before[IP];
    cpu_set_rflags(cpu, t->before[FLAGS]);
    cpu_update_mode(cpu);
    set_memory(t->memory_before, t->before_count, false);
    cpu_invalidate_code(cpu, 0, FLAT_SIZE);
}

/* To HLT, delivering what is raised on the way. */
static enum cpu_leave run_to_halt(void)
{
    struct cpu *cpu = flat->cpu;
    enum cpu_leave leave = LEAVE_NONE;

    for (unsigned i = 0; i < STEPS && leave == LEAVE_NONE; i++) {
        leave = cpu_step(cpu);
        if (leave == LEAVE_FAULT) {
            struct event event = event_from_fault(cpu);
            leave = event_dispatch(cpu, &event);
        }
    }
    return leave;
}

static void store(uint16_t registers[REGISTERS])
{
    const struct cpu *cpu = flat->cpu;

    for (unsigned i = AX; i <= DI; i++)
        registers[i] = is_segment(i) ? cpu->segment[segment_of[i]].selector : cpu->gpr[gpr_of[i]].w;
    registers[IP] = (uint16_t)cpu->rip;
    registers[FLAGS] = (uint16_t)cpu_rflags(cpu);
}

/* ---- comparing ---- */

static bool complain(const struct vector_test *t, bool is_first)
{
    if (is_first && failures++ < PRINTED) {
        fprintf(stderr, "DIFFERENT: %s  [", t->name);
        for (unsigned i = 0; i < t->length; i++)
            fprintf(stderr, "%s%02x", i ? " " : "", t->bytes[i]);
        fprintf(stderr, "] exception %d\n  before:", t->exception == 255 ? -1 : t->exception);
        for (unsigned i = 0; i < REGISTERS; i++)
            fprintf(stderr, " %s %04x", register_names[i], t->before[i]);
        fprintf(stderr, "\n");
    }
    return failures <= PRINTED;
}

static bool compare_registers(const struct vector_test *t)
{
    uint16_t ours[REGISTERS];
    bool same = true;

    store(ours);
    for (unsigned i = 0; i < REGISTERS; i++) {
        const uint16_t mask = i == FLAGS ? t->flags_mask : 0xffff;
        if (((ours[i] ^ t->after[i]) & mask) == 0)
            continue;
        if (complain(t, same))
            fprintf(stderr, "  %s: expected %04x, have %04x (mask %04x)\n", register_names[i], t->after[i], ours[i], mask);
        same = false;
    }
    return same;
}

static bool compare_memory(const struct vector_test *t, bool same)
{
    for (unsigned i = 0; i < t->after_count; i++) {
        const uint32_t address = get32(t->memory_after + i * 5);
        const uint8_t expected = t->memory_after[i * 5 + 4], ours = flat->memory[address];
        uint8_t mask = 0xff;

        if (t->exception != 255 && (address == t->flags_image || address == t->flags_image + 1))
            mask = (uint8_t)(t->flags_mask >> (address == t->flags_image ? 0 : 8));
        if (((ours ^ expected) & mask) == 0)
            continue;
        if (complain(t, same))
            fprintf(stderr, "  [%05" PRIx32 "]: expected %02x, have %02x\n", address, expected, ours);
        same = false;
    }
    return same;
}

/* Nothing else may have been written: clear what belongs to the test and look for the rest. */
static void compare_rest(const struct vector_test *t, bool same)
{
    static const uint8_t zero[MEMORY];

    set_memory(t->memory_before, t->before_count, true);
    set_memory(t->memory_after, t->after_count, true);
    if (memcmp(flat->memory, zero, MEMORY) == 0)
        return;
    for (uint32_t i = 0; i < MEMORY; i++)
        if (flat->memory[i]) {
            if (complain(t, same))
                fprintf(stderr, "  [%05" PRIx32 "]: was written: %02x\n", i, flat->memory[i]);
            same = false;
            flat->memory[i] = 0;
        }
}

static void run_test(const struct vector_test *t)
{
    bool same = true;

    load(t);
    if (run_to_halt() != LEAVE_HALT) {
        if (complain(t, true))
            fprintf(stderr, "  did not come to HLT\n");
        same = false;
    }
    same = compare_registers(t) && same;
    same = compare_memory(t, same);
    compare_rest(t, same);
}

int main(int argc, char **argv)
{
    const char *directory = getenv("OWHP_VECTORS");
    struct vector_test test;
    size_t size = 0;
    uint8_t *bytes;
    uint32_t count;

    if (!directory)
        directory = argc > 1 ? argv[1] : ".";
    bytes = read_whole(directory, &size);
    if (!bytes) {
        fprintf(stderr, "SKIPPED: no 80286-real-mode.pack in %s (set OWHP_VECTORS)\n", directory);
        return 77;
    }
    flat = flat_create();
    if (!flat || memcmp(bytes, "SST286P1", 8) != 0) {
        fprintf(stderr, "%s\n", flat ? "not a vector file" : "out of memory");
        return 1;
    }
    struct reader reader = {bytes + 12, bytes + size};
    count = get32(bytes + 8);
    for (uint32_t i = 0; i < count; i++) {
        take_test(&reader, &test);
        run_test(&test);
    }
    printf("80286 vectors: %" PRIu32 " tests, %u different\n", count, failures);
    flat_destroy(flat);
    free(bytes);
    return failures == 0 && count != 0 ? 0 : 1;
}
