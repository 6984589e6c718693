/* Random states, both executions, and the comparison. */
#include "simd_case.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "simd_soft.h"
#include "simd_values.h"
#include "x86/vector/exec_simd.h"

#define ARENA 8192u

static uint8_t *arena; /* two pages, nothing behind */

void simd_case_init(void)
{
    const char *text = getenv("SIMD_SEED");
    if (text && !arena)
        simd_seed(strtoull(text, NULL, 0) * 0x100000001b3ull);
    native_init();
    if (arena)
        return;
    arena = mmap(NULL, ARENA + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED || mprotect(arena + ARENA, 4096, PROT_NONE) != 0)
        abort();
    simd_soft_init(arena, ARENA);
}

unsigned simd_rounds(unsigned usual)
{
    const char *text = getenv("SIMD_ROUNDS");
    return text ? (unsigned)strtoul(text, NULL, 0) : usual;
}

bool simd_case_decode(struct simd_case *c, const uint8_t *code, unsigned size)
{
    memset(c, 0, sizeof(*c));
    if (decode(MODE_64 | MODE_PROTECTED | MODE_LONG, code, size, &c->decoded) != DECODE_OK ||
        !c->decoded.insn.uses_vector)
        return false;
    c->size = c->decoded.zydis.length;
    memcpy(c->code, code, c->size);
    return true;
}

/* ---- state ---- */

static uint64_t operand_address(void)
{
    uint64_t base = (uint64_t)arena + ARENA / 2 + 16 * (simd_random() % 16);
    if (simd_one_in(8))
        return base + simd_random() % 16;
    if (simd_one_in(24)) /* across the end of memory, or behind it */
        return (uint64_t)arena + ARENA - 16 * (simd_random() % 40) +
               (simd_one_in(2) ? simd_random() % 16 : 0);
    return base;
}

static void random_state(const struct simd_case *c, struct native_state *state)
{
    uint32_t mxcsr = simd_random_mxcsr(), mask = 0xffff;
    memset(state, 0, sizeof(*state));
    for (unsigned i = 0; i < 16; i++)
        state->gpr[i] = simd_one_in(3) ? simd_random() % 24 : simd_random_lane();
    state->gpr[REG_RSP] = 0;
    state->gpr[REG_RBX] = operand_address();
    if (c->decoded.insn.mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
        c->decoded.insn.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ)
        state->gpr[REG_RDI] = operand_address();
    state->rflags = 0x202 | (simd_random() & RFLAGS_ARITHMETIC);
    simd_random_x87(state->fxsave);
    memcpy(state->fxsave + 24, &mxcsr, 4);
    memcpy(state->fxsave + 28, &mask, 4);
    for (unsigned i = 0; i < 32; i++) {
        uint64_t lane = simd_random_lane();
        memcpy(state->fxsave + 160 + 8 * i, &lane, 8);
        lane = simd_random_lane();
        memcpy(&state->upper[i / 2][8 * (i % 2)], &lane, 8);
    }
}

/* Memory around the operand: lanes, extended numbers, and for the state loads an image that is
 * mostly valid. */
static void random_memory(const struct simd_case *c)
{
    for (unsigned i = 0; i < ARENA / 8; i++) {
        uint64_t lane = simd_random_lane();
        memcpy(arena + 8 * i, &lane, 8);
    }
    if (c->decoded.zydis.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT) {
        for (unsigned i = ARENA / 2; i < ARENA / 2 + 320; i += 16)
            simd_random_extended(arena + i);
        if (simd_one_in(4)) /* packed decimal */
            for (unsigned i = ARENA / 2; i < ARENA / 2 + 320; i++)
                arena[i] = (uint8_t)(simd_random() % 10 << 4 | simd_random() % 10);
    }
}

static bool is_xsave(const struct simd_case *c)
{
    return c->decoded.zydis.meta.isa_set >= ZYDIS_ISA_SET_XSAVE &&
           c->decoded.zydis.meta.isa_set <= ZYDIS_ISA_SET_XSAVES;
}

/* The host may have more state components than the soft processor: ask for the common ones. */
static void prepare_xsave(struct native_state *state)
{
    state->gpr[REG_RAX] = simd_one_in(3) ? 7 : simd_random() & 7;
    state->gpr[REG_RDX] = 0;
    if (!simd_one_in(8))
        state->gpr[REG_RBX] &= ~63ull;
}

/* A header that XRSTOR mostly takes, in either format. */
static void prepare_header(uint8_t *area)
{
    uint64_t header[8] = {simd_random() & 7};
    if (simd_one_in(2))
        header[1] = 1ull << 63 | header[0] | (simd_random() & 7);
    if (simd_one_in(16))
        header[0] ^= 1ull << (simd_one_in(2) ? 62 : simd_random() % 3);
    if (simd_one_in(16))
        header[1] ^= 1ull << (simd_one_in(2) ? 61 : simd_random() % 3);
    if (simd_one_in(16))
        header[2 + simd_random() % 6] = 1;
    memcpy(area + 512, header, sizeof(header));
}

/* Indices of a gather that stay around the operand, sometimes beyond the end of memory. */
static void prepare_indices(const struct simd_case *c, struct native_state *state)
{
    unsigned index = (unsigned)ZydisRegisterGetId(c->decoded.operands[1].mem.index);
    const char *name = ZydisMnemonicGetString(c->decoded.insn.mnemonic); /* v[p]gather{d,q}.. */
    bool is_dword = name[name[1] == 'p' ? 8 : 7] == 'd';
    for (unsigned i = 0; i < 8; i++) {
        int64_t value = (int64_t)(simd_random() % 256) - 128;
        uint8_t *to = i < 4 ? state->fxsave + 160 + 16 * index : state->upper[index];
        if (is_dword)
            memcpy(to + 4 * (i % 4), &value, 4);
        else if (i % 2 == 0)
            memcpy(to + 8 * (i / 2 % 2), &value, 8);
    }
}

/* State loads from memory: make a valid image at the operand in most cases. */
static void prepare_loads(const struct simd_case *c, uint64_t address)
{
    uint8_t *at = (uint8_t *)(uintptr_t)address;
    uint32_t mxcsr;
    if (address + 832 > (uint64_t)arena + ARENA)
        return;
    switch (c->decoded.insn.mnemonic) {
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        prepare_header(at);
        mxcsr = simd_random_mxcsr();
        simd_random_x87(at);
        memcpy(at + 24, &mxcsr, 4);
        break;
    case ZYDIS_MNEMONIC_LDMXCSR:
        mxcsr = (uint32_t)simd_random() & (simd_one_in(4) ? ~0u : 0xffffu);
        memcpy(at, &mxcsr, 4);
        break;
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        for (unsigned i = 0; i < 8; i++)
            simd_random_extended(at + 32 + 16 * i);
        memset(at + 8, (int)(simd_random() & 0x7f), 16);
        at[14] = at[15] = at[22] = at[23] = 0;
        mxcsr = (uint32_t)simd_random() & (simd_one_in(8) ? ~0u : 0xffffu);
        memcpy(at + 24, &mxcsr, 4);
        break;
    default:
        break;
    }
}

/* ---- comparison ---- */

static void print_bytes(const char *what, const uint8_t *bytes, size_t size)
{
    fprintf(stderr, "  %s", what);
    for (size_t i = 0; i < size; i++)
        fprintf(stderr, "%s%02x", i % 8 ? "" : " ", bytes[i]);
    fputc('\n', stderr);
}

/* Set aside what is not state: RSP, reserved bytes, the status word's ES and B that follow from the
 * rest. */
static void normalize(struct native_state *state)
{
    static const uint32_t mask = 0xffff;
    state->gpr[REG_RSP] = 0;
    state->rflags &= RFLAGS_ARITHMETIC;
    state->fxsave[5] = 0;
    memcpy(state->fxsave + 28, &mask, 4);
    for (unsigned i = 0; i < 8; i++)
        memset(state->fxsave + 32 + 16 * i + 10, 0, 6);
    memset(state->fxsave + 416, 0, 96);
}

static void describe(const struct simd_case *c, const struct native_state *before)
{
    ZydisFormatter formatter;
    char text[128] = "?";
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterFormatInstruction(&formatter, &c->decoded.zydis, c->decoded.operands,
                                    c->decoded.zydis.operand_count_visible, text, sizeof(text), 0,
                                    NULL);
    fprintf(stderr, "DIFFERENCE: %s\n", text);
    print_bytes("code", c->code, c->size);
    fprintf(stderr, "  before: rbx %016llx mxcsr %02x%02x\n",
            (unsigned long long)before->gpr[REG_RBX], before->fxsave[25], before->fxsave[24]);
    print_bytes("x87 head", before->fxsave, 32);
    for (unsigned i = 0; i < 2 && i < c->decoded.zydis.operand_count_visible; i++) {
        const struct operand *operand = &c->decoded.insn.operand[i];
        if (operand->kind == OPERAND_REGISTER && operand->reg_class == CLASS_XMM)
            print_bytes("operand", before->fxsave + 160 + 16 * operand->number, 16);
        if (operand->kind == OPERAND_REGISTER && operand->reg_class == CLASS_X87)
            print_bytes("st(i)", before->fxsave + 32 + 16 * operand->number, 10);
    }
    print_bytes("st(0)", before->fxsave + 32, 10);
    print_bytes("st(1)", before->fxsave + 48, 10);
}

static bool compare(const struct simd_case *c, const struct native_state *before,
                    const struct native_state *soft, const struct native_state *host,
                    const uint8_t *soft_memory)
{
    if (soft->fault == host->fault && !memcmp(soft->gpr, host->gpr, sizeof(host->gpr)) &&
        soft->rflags == host->rflags && !memcmp(soft->fxsave, host->fxsave, 512) &&
        !memcmp(soft->upper, host->upper, sizeof(host->upper)) &&
        !memcmp(soft_memory, arena, ARENA))
        return true;
    describe(c, before);
    if (soft->fault != host->fault)
        fprintf(stderr, "  exception: soft %d, host %d\n", soft->fault, host->fault);
    for (unsigned i = 0; i < 16; i++) {
        if (soft->gpr[i] != host->gpr[i])
            fprintf(stderr, "  gpr %u: soft %016llx host %016llx\n", i,
                    (unsigned long long)soft->gpr[i], (unsigned long long)host->gpr[i]);
    }
    if (soft->rflags != host->rflags)
        fprintf(stderr, "  flags: soft %llx host %llx\n", (unsigned long long)soft->rflags,
                (unsigned long long)host->rflags);
    for (unsigned i = 0; i < 512; i += 16) {
        if (memcmp(soft->fxsave + i, host->fxsave + i, 16)) {
            fprintf(stderr, "  fxsave + %u\n", i);
            print_bytes("soft", soft->fxsave + i, 16);
            print_bytes("host", host->fxsave + i, 16);
        }
    }
    for (unsigned i = 0; i < 16; i++) {
        if (memcmp(soft->upper[i], host->upper[i], 16)) {
            fprintf(stderr, "  upper half of ymm%u\n", i);
            print_bytes("soft", soft->upper[i], 16);
            print_bytes("host", host->upper[i], 16);
        }
    }
    for (unsigned i = 0; i < ARENA; i += 16) {
        if (memcmp(soft_memory + i, arena + i, 16)) {
            fprintf(stderr, "  memory %p\n", (void *)(arena + i));
            print_bytes("soft", soft_memory + i, 16);
            print_bytes("host", arena + i, 16);
        }
    }
    return false;
}

static bool run_one(struct simd_case *c)
{
    static uint8_t before_memory[ARENA], soft_memory[ARENA];
    struct native_state before, soft, host;

    random_state(c, &before);
    if (is_xsave(c))
        prepare_xsave(&before);
    if (c->decoded.insn.memory.is_vsib)
        prepare_indices(c, &before);
    if (simd_one_in(16))
        random_memory(c);
    prepare_loads(c, before.gpr[REG_RBX]);
    memcpy(before_memory, arena, ARENA);

    soft = before;
    simd_soft_run(&soft);
    memcpy(soft_memory, arena, ARENA);

    memcpy(arena, before_memory, ARENA);
    host = before;
    native_run(&host, c->code, c->size);
    normalize(&soft);
    normalize(&host);
    if (soft.fault == VECTOR_PF && host.fault == VECTOR_PF)
        memcpy(arena, before_memory,
               ARENA); /* FBSTP writes its first 8 bytes; the soft processor nothing */
    /* Where the area's end is missing, the host may see that before it looks at the header. */
    if (is_xsave(c) && soft.fault == VECTOR_GP && host.fault == VECTOR_PF)
        soft.fault = host.fault;
    return compare(c, &before, &soft, &host, soft_memory);
}

bool simd_case_compare(struct simd_case *c, unsigned rounds)
{
    random_memory(c);
    simd_soft_place(c->code, c->size);
    for (unsigned i = 0; i < rounds; i++) {
        if (!run_one(c))
            return false;
    }
    return true;
}
