#include "silicon.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "support/flat_cpu.h"
#include "x86/code/decode.h"

enum { GUEST_ARENA = 0x100000, PRINTED = 25 };
#define COMPARED_FLAGS (RFLAGS_ARITHMETIC | RFLAGS_DF | RFLAGS_ID | RFLAGS_AC)

static struct flat_cpu *flat;
static struct silicon_code code;
static enum silicon_way way;
static unsigned long cases, faults, failures, placed;
static uint64_t random_state = 0x2545f4914f6cdd1d;

const uint64_t silicon_edges[] = {
    0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
    0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff,
};
const unsigned silicon_edge_count = array_size(silicon_edges);

uint64_t silicon_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x9e3779b97f4a7c15;
}

uint64_t silicon_value(void)
{
    const uint64_t r = silicon_random();

    switch (r & 7) {
    case 0: return silicon_random();
    case 1: return (uint8_t)silicon_random();
    case 2: return silicon_edges[(r >> 8) % silicon_edge_count] + (r >> 32) % 3 - 1;
    case 3: return 1ull << (r >> 8 & 63);
    case 4: return ~(1ull << (r >> 8 & 63));
    default: return silicon_edges[(r >> 8) % silicon_edge_count];
    }
}

/* Consecutive pages of the arena are consecutive for the host, but lie in descending order in our physical memory. */
static gpa_t guest_page(uint64_t address)
{
    return GUEST_ARENA + (ARENA_SIZE - PAGE_SIZE) - ((address - ARENA_BASE) & PAGE_MASK);
}
static uint8_t *guest(uint64_t address) { return flat->memory + guest_page(address) + (address & ~PAGE_MASK); }
static const uint8_t *host(uint64_t address) { return (const uint8_t *)address; }

static void map_guest(void)
{
    static const struct {
        uint64_t address;
        unsigned rights;
    } pages[] = {
        {ARENA_CODE, FLAT_READ}, {ARENA_DATA, FLAT_WRITE}, {ARENA_DATA + 0x1000, FLAT_WRITE},
        {ARENA_READ_ONLY, FLAT_READ}, {ARENA_STACK, FLAT_WRITE},
    };

    for (unsigned i = 0; i < array_size(pages); i++)
        flat_map(flat, pages[i].address, guest_page(pages[i].address), pages[i].rights);
}

int silicon_init(enum silicon_way chosen)
{
    if (!native_init()) {
        fprintf(stderr, "SKIPPED: the host does not allow code at a fixed address\n");
        return 77;
    }
    flat = flat_create();
    if (!flat)
        return 1;
    way = chosen;
    flat->direct = way != SILICON_PORT;
    flat_long(flat, true, 3);
    map_guest();
    return 0;
}

void silicon_fini(void) { flat_destroy(flat); }

bool silicon_has_32(void)
{
    if (native_has_32())
        return true;
    fprintf(stderr, "SKIPPED: 32-bit code does not run on this host\n");
    return false;
}

void silicon_store(uint64_t address, const void *from, size_t size)
{
    const uint8_t *bytes = from;

    for (size_t i = 0; i < size; i++)
        *(uint8_t *)(address + i) = *guest(address + i) = bytes[i];
}

void silicon_place(const struct silicon_code *c)
{
    if (c->is_32 != code.is_32) {
        flat_long(flat, !c->is_32, 3);
        map_guest();
    }
    code = *c;
    placed++;
    native_place(c->bytes, c->length, c->is_32);
    memcpy(guest(ARENA_CODE), host(ARENA_CODE), PAGE_SIZE);
    cpu_invalidate_code(flat->cpu, guest_page(ARENA_CODE), PAGE_SIZE);
}

/* One instruction by its exec function. */
static enum cpu_leave execute(struct cpu *cpu)
{
    struct decoded decoded;

    if (decode(cpu->mode, code.bytes, sizeof(code.bytes), &decoded) != DECODE_OK) {
        (void)!raise_ud(cpu);
        return LEAVE_FAULT;
    }
    cpu->next_rip = cpu->rip + decoded.insn.length;
    if (decoded.insn.exec(cpu, &decoded.insn) == EXEC_LEAVE)
        return cpu->leave;
    cpu->rip = cpu->next_rip;
    return LEAVE_NONE;
}

/* Ours: repeated strings come back to themselves after a bounded number of elements. */
static void run_ours(const struct silicon_input *input, struct native_state *out)
{
    struct cpu *cpu = flat->cpu;
    enum cpu_leave leave;

    for (unsigned i = 0; i < 16; i++)
        cpu->gpr[i].q = code.is_32 ? (i < 8 ? (uint32_t)input->gpr[i] : 0) : input->gpr[i];
    cpu_set_rflags(cpu, input->rflags | RFLAGS_IF);
    cpu->rip = NATIVE_AT;
    for (unsigned i = 0; i < 10000; i++) {
        leave = way == SILICON_EXEC       ? execute(cpu)
                : way == SILICON_EMULATOR ? silicon_emulate(cpu, code.bytes, code.length)
                                          : cpu_step(cpu);
        if (leave != LEAVE_NONE || cpu->rip != NATIVE_AT)
            break;
    }
    for (unsigned i = 0; i < 16; i++)
        out->gpr[i] = cpu->gpr[i].q;
    out->rflags = cpu_rflags(cpu);
    out->rip = cpu->rip;
    out->has_fault = leave == LEAVE_FAULT;
    out->went_elsewhere = false;
    out->vector = cpu->fault.vector;
    out->error = cpu->fault.has_error ? cpu->fault.error : 0;
    out->address = cpu->fault.address;
}

static bool same_registers(const struct native_state *a, const struct native_state *b)
{
    if (!code.is_32)
        return memcmp(a->gpr, b->gpr, sizeof(a->gpr)) == 0;
    for (unsigned i = 0; i < 8; i++)
        if ((uint32_t)a->gpr[i] != (uint32_t)b->gpr[i])
            return false;
    return true;
}

static bool same_outcome(const struct native_state *a, const struct native_state *b)
{
    if (a->has_fault != b->has_fault || a->rip != b->rip)
        return false;
    if (!a->has_fault)
        return true;
    if (a->vector != b->vector)
        return false;
    if (a->vector != VECTOR_PF)
        return a->error == b->error;
    /* The kernel says "present" of all its own addresses, so as not to tell which are. */
    return a->address == b->address && ((a->error ^ b->error) & ~(a->address >= 0x7ffffffff000 ? PF_P : 0)) == 0;
}

static const uint64_t compared_pages[] = {ARENA_DATA, ARENA_DATA + 0x1000, ARENA_STACK};

static bool same_memory(void)
{
    for (unsigned i = 0; i < array_size(compared_pages); i++)
        if (memcmp(guest(compared_pages[i]), host(compared_pages[i]), PAGE_SIZE) != 0)
            return false;
    return true;
}

static void take_over_memory(void)
{
    for (unsigned i = 0; i < array_size(compared_pages); i++)
        memcpy(guest(compared_pages[i]), host(compared_pages[i]), PAGE_SIZE);
}

static void print_state(const char *title, const struct native_state *s)
{
    static const char names[16][4] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                      "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};

    fprintf(stderr, "  %s: rip %" PRIx64 " flags %05" PRIx64, title, s->rip,
            (uint64_t)(s->rflags & COMPARED_FLAGS));
    if (s->has_fault)
        fprintf(stderr, " FAULT vector %u error %x address %" PRIx64, s->vector, s->error, s->address);
    for (unsigned i = 0; i < (code.is_32 ? 8 : 16); i++)
        fprintf(stderr, "%s%s %" PRIx64, i % 8 == 0 ? "\n      " : "  ", names[i], s->gpr[i]);
    fprintf(stderr, "\n");
}

static void print_memory(void)
{
    unsigned shown = 0;

    for (unsigned p = 0; p < array_size(compared_pages); p++)
        for (uint64_t at = compared_pages[p]; at < compared_pages[p] + PAGE_SIZE && shown < 16; at++)
            if (*guest(at) != *host(at)) {
                fprintf(stderr, "  memory %" PRIx64 ": silicon %02x ours %02x\n", at, *host(at), *guest(at));
                shown++;
            }
}

static void print_difference(const struct silicon_input *input, const struct native_state *theirs,
                             const struct native_state *ours)
{
    struct native_state before = {.rflags = input->rflags, .rip = NATIVE_AT};
    ZydisDisassembledInstruction text;

    ZydisDisassembleIntel(code.is_32 ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LONG_64, NATIVE_AT, code.bytes,
                          code.length, &text);
    memcpy(before.gpr, input->gpr, sizeof(before.gpr));
    fprintf(stderr, "DIFFERENT: %s   [", text.text);
    for (unsigned i = 0; i < code.length; i++)
        fprintf(stderr, "%s%02x", i ? " " : "", code.bytes[i]);
    fprintf(stderr, "]%s\n", code.is_32 ? " (32-bit code)" : "");
    print_state("before ", &before);
    print_state("silicon", theirs);
    print_state("ours   ", ours);
    print_memory();
}

void silicon_compare(const struct silicon_input *input)
{
    struct native_state theirs = {.rflags = input->rflags | RFLAGS_IF | RFLAGS_ONE}, ours;
    const uint64_t flags = COMPARED_FLAGS & ~code.ignored_flags;

    memcpy(theirs.gpr, input->gpr, sizeof(theirs.gpr));
    native_run(&theirs);
    run_ours(input, &ours);
    cases++;
    faults += theirs.has_fault;
    if (same_outcome(&theirs, &ours) && same_registers(&theirs, &ours) && same_memory() &&
        ((theirs.rflags ^ ours.rflags) & flags) == 0)
        return;
    if (failures++ < PRINTED)
        print_difference(input, &theirs, &ours);
    take_over_memory();
}

int silicon_result(const char *name)
{
    printf("%s: %lu instructions, %lu cases, %lu of them faults, %lu different\n", name, placed, cases, faults, failures);
    return failures == 0 && cases != 0 ? 0 : 1;
}
