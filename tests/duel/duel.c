/* Both runs and the comparison. */
#include "duel.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "duel_code.h"
#include "insn/simd_values.h"
#include "x86/cpu.h"

struct duel_state duel_theirs;
static struct duel_state ours;

static const uint64_t pages[] = {DUEL_CODE, DUEL_CODE + 0x1000, DUEL_DATA, DUEL_DATA + 0x1000, DUEL_DATA + 0x2000,
                                 DUEL_STACK, DUEL_STACK + 0x1000};
static uint8_t before[array_size(pages)][PAGE_SIZE], pristine[array_size(pages)][PAGE_SIZE];

static uint8_t *host(uint64_t address) { return (uint8_t *)address; }

int duel_init(void)
{
    duel_native_pin();
    if (!duel_soft_init())
        return 1;
    const int result = duel_native_init();
    if (result != 0)
        return result;
    duel_native_watch(duel_soft_cancel);
    for (unsigned i = 0; i < array_size(pages); i++)
        for (unsigned k = 0; k < PAGE_SIZE; k += 8) {
            const uint64_t value = pages[i] < DUEL_DATA ? 0xf4f4f4f4f4f4f4f4 : simd_random_lane();
            memcpy(pristine[i] + k, &value, 8);
        }
    duel_reset_memory();
    memset(duel_soft_page(DUEL_READ_ONLY), 0, PAGE_SIZE);
    return 0;
}

void duel_reset_memory(void)
{
    for (unsigned i = 0; i < array_size(pages); i++) {
        memcpy(host(pages[i]), pristine[i], PAGE_SIZE);
        memcpy(duel_soft_page(pages[i]), pristine[i], PAGE_SIZE);
    }
}

void duel_fini(void) { duel_soft_fini(); }

bool duel_is_64(const struct duel_state *s) { return s->selector[SEG_CS] == DUEL_CS64; }
bool duel_is_16(const struct duel_state *s) { return s->selector[SEG_CS] == DUEL_CODE16; }

uint64_t duel_linear_rip(const struct duel_state *s)
{
    const uint16_t cs = s->selector[SEG_CS];
    return s->rip + (cs == DUEL_CODE16 || cs == DUEL_CODE32 ? DUEL_BASE : 0);
}

void duel_store(uint64_t address, const void *from, size_t size)
{
    for (size_t i = 0; i < size; i++)
        duel_soft_page(address + i)[(address + i) & ~PAGE_MASK] = *host(address + i) = ((const uint8_t *)from)[i];
}

/* ---- comparison ---- */

#define COMPARED_FLAGS (RFLAGS_ALL & ~RFLAGS_IF)

/* Set aside what is no state: bytes that are reserved. */
static void normalize(struct duel_state *s, const struct duel_case *c)
{
    /* A null selector becomes 0 whenever the kernel returns to the process (SDM 2A IRET), for an interrupt too. */
    for (unsigned i = 0; i < 6; i++)
        if (s->selector[i] < 4)
            s->selector[i] = 0;
    s->rflags &= COMPARED_FLAGS & ~c->ignored_flags;
    s->fxsave[5] = 0;
    /* FIP and FDP have as many bits as the processor's linear addresses: 48 or 57. */
    memcpy(s->fxsave + 14, s->fxsave[13] & 0x80 ? "\xff\xff" : "\0\0", 2);
    memcpy(s->fxsave + 22, s->fxsave[21] & 0x80 ? "\xff\xff" : "\0\0", 2);
    memset(s->fxsave + 28, 0, 4);
    for (unsigned i = 0; i < 8; i++)
        memset(s->fxsave + 32 + 16 * i + 10, 0, 6);
    memset(s->fxsave + 416, 0, 96);
    /* The kernel says "present" of all its own addresses, so as not to tell which are. */
    if (s->vector == VECTOR_PF && s->address >= 0x7ffffffff000)
        s->error |= PF_P;
}

static bool is_of_memory(uint8_t vector)
{
    return vector == VECTOR_SS || vector == VECTOR_GP || vector == VECTOR_PF || vector == VECTOR_AC;
}

/*
 * Which part of an operand of several parts is tried first is the processor's choice: Intel's begin with the last byte of
 * an area that is saved, with the header of one that is restored, with the offset of a far pointer. Page faults and limit
 * violations anywhere in the operand are the same here, and so is #AC where a misaligned area is #GP otherwise (SDM 2A
 * FXSAVE: it is not told which of them comes).
 */
static void settle_address(const struct duel_state *theirs, struct duel_state *mine)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction z;
    const uint64_t at = duel_linear_rip(mine), distance = (uint16_t)(theirs->address - mine->address + 1024);
    const uint64_t left = PAGE_SIZE - (at & ~PAGE_MASK);
    static const ZydisMnemonic large[] = {
        ZYDIS_MNEMONIC_FXSAVE, ZYDIS_MNEMONIC_FXSAVE64, ZYDIS_MNEMONIC_FXRSTOR, ZYDIS_MNEMONIC_FXRSTOR64, ZYDIS_MNEMONIC_FNSAVE,
        ZYDIS_MNEMONIC_FRSTOR, ZYDIS_MNEMONIC_FNSTENV, ZYDIS_MNEMONIC_FLDENV, ZYDIS_MNEMONIC_MASKMOVDQU,
        ZYDIS_MNEMONIC_VMASKMOVDQU, ZYDIS_MNEMONIC_MASKMOVQ, ZYDIS_MNEMONIC_VMASKMOVPS, ZYDIS_MNEMONIC_VMASKMOVPD,
        ZYDIS_MNEMONIC_VPMASKMOVD, ZYDIS_MNEMONIC_VPMASKMOVQ, ZYDIS_MNEMONIC_LES, ZYDIS_MNEMONIC_LDS, ZYDIS_MNEMONIC_LSS,
        ZYDIS_MNEMONIC_LFS, ZYDIS_MNEMONIC_LGS, ZYDIS_MNEMONIC_IRET, ZYDIS_MNEMONIC_IRETD, ZYDIS_MNEMONIC_IRETQ,
        ZYDIS_MNEMONIC_FBLD, ZYDIS_MNEMONIC_FBSTP,
    };

    /* The rest of an undefined instruction is fetched, or not: a fault of that comes first, or not at all. */
    if (mine->vector == VECTOR_UD && mine->rip == theirs->rip && left < 15 &&
        (theirs->vector == VECTOR_GP || (theirs->vector == VECTOR_PF && (theirs->error & PF_I)))) {
        mine->vector = theirs->vector;
        mine->address = theirs->address;
        mine->error = theirs->error;
        return;
    }
    if (!is_of_memory(mine->vector) || !is_of_memory(theirs->vector) ||
        mine->rip != theirs->rip || at < DUEL_CODE || at >= DUEL_CODE + 0x2000 ||
        (mine->vector == VECTOR_PF && theirs->vector == VECTOR_PF && distance > 2048))
        return;
    code_decoder(mine->selector[SEG_CS] == DUEL_CS64 ? 64 : duel_is_16(mine) ? 16 : 32, &decoder);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, host(at), DUEL_CODE + 0x2000 - at, &z)))
        return;
    bool is_large = (z.mnemonic == ZYDIS_MNEMONIC_RET && z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) ||
                    (z.meta.isa_set >= ZYDIS_ISA_SET_XSAVE && z.meta.isa_set <= ZYDIS_ISA_SET_XSAVES);
    for (unsigned i = 0; i < array_size(large); i++)
        is_large |= z.mnemonic == large[i];
    if (is_large) {
        mine->vector = theirs->vector;
        mine->address = theirs->address;
        mine->error = theirs->error;
    }
}

static bool same_memory(void)
{
    for (unsigned i = 0; i < array_size(pages); i++)
        if (memcmp(duel_soft_page(pages[i]), host(pages[i]), PAGE_SIZE) != 0)
            return false;
    return true;
}

static bool same(const struct duel_state *a, const struct duel_state *b)
{
    return memcmp(a->gpr, b->gpr, sizeof(a->gpr)) == 0 && a->rip == b->rip && a->rflags == b->rflags &&
           memcmp(a->selector, b->selector, sizeof(a->selector)) == 0 && memcmp(a->base, b->base, sizeof(a->base)) == 0 &&
           memcmp(a->fxsave, b->fxsave, sizeof(a->fxsave)) == 0 && a->vector == b->vector && a->error == b->error &&
           a->address == b->address && (!duel_native_has_avx() || memcmp(a->upper, b->upper, sizeof(a->upper)) == 0);
}

static void save_memory(void)
{
    for (unsigned i = 0; i < array_size(pages); i++)
        memcpy(before[i], host(pages[i]), PAGE_SIZE);
}

static void restore_memory(bool ours_too)
{
    for (unsigned i = 0; i < array_size(pages); i++) {
        memcpy(host(pages[i]), before[i], PAGE_SIZE);
        if (ours_too)
            memcpy(duel_soft_page(pages[i]), before[i], PAGE_SIZE);
    }
    if (ours_too)
        duel_soft_code_changed();
}

/* ---- report ---- */

static void print_bytes(const char *title, const uint8_t *a, const uint8_t *b, const uint8_t *was, size_t size)
{
    if (memcmp(a, b, size) == 0)
        return;
    for (unsigned k = 0; k < 3; k++) {
        fprintf(stderr, "  %s %s", title, k == 0 ? "before " : k == 1 ? "silicon" : "ours   ");
        for (size_t i = 0; i < size; i++)
            fprintf(stderr, "%s%02x", i % 8 ? "" : " ", (k == 0 ? was : k == 1 ? a : b)[i]);
        fprintf(stderr, "\n");
    }
}

static void print_state(const char *title, const struct duel_state *s)
{
    static const char names[16][4] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                      "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};

    fprintf(stderr,
            "  %s: vector %u error %x address %" PRIx64 " rip %04x:%" PRIx64 " flags %06" PRIx64
            " es %x ss %x ds %x fs %x gs %x base %" PRIx64 " %" PRIx64,
            title, s->vector, s->error, s->address, s->selector[SEG_CS], s->rip, s->rflags, s->selector[SEG_ES],
            s->selector[SEG_SS], s->selector[SEG_DS], s->selector[SEG_FS], s->selector[SEG_GS], s->base[0], s->base[1]);
    for (unsigned i = 0; i < 16; i++)
        fprintf(stderr, "%s%s %" PRIx64, i % 8 == 0 ? "\n      " : "  ", names[i], s->gpr[i]);
    fprintf(stderr, "\n");
}

static void print_memory(void)
{
    unsigned shown = 0;

    for (unsigned p = 0; p < array_size(pages); p++)
        for (unsigned i = 0; i < PAGE_SIZE && shown < 16; i++)
            if (duel_soft_page(pages[p])[i] != host(pages[p])[i]) {
                fprintf(stderr, "  memory %" PRIx64 ": before %02x silicon %02x ours %02x\n", pages[p] + i, before[p][i],
                        host(pages[p])[i], duel_soft_page(pages[p])[i]);
                shown++;
            }
}

static void print_difference(const struct duel_case *c)
{
    const struct duel_state *s = &c->state;

    print_state("before ", s);
    print_state("silicon", &duel_theirs);
    print_state("ours   ", &ours);
    print_bytes("x87 ", duel_theirs.fxsave, ours.fxsave, s->fxsave, 32);
    for (unsigned i = 0; i < 8; i++)
        print_bytes("st(i)", duel_theirs.fxsave + 32 + 16 * i, ours.fxsave + 32 + 16 * i, s->fxsave + 32 + 16 * i, 10);
    for (unsigned i = 0; i < 16; i++) {
        print_bytes("xmm ", duel_theirs.fxsave + 160 + 16 * i, ours.fxsave + 160 + 16 * i, s->fxsave + 160 + 16 * i, 16);
        print_bytes("high", duel_theirs.upper[i], ours.upper[i], s->upper[i], 16);
    }
    print_memory();
}

/* ---- one case ---- */

static enum duel_result both(const struct duel_case *c)
{
    enum duel_end end;

    ours = duel_theirs = c->state;
    duel_native_next();
    end = duel_soft_run(&ours, c->direct);
    if (end != DUEL_FAULT)
        return DUEL_SKIPPED;
    end = duel_native_run(&duel_theirs);
    if (end != DUEL_FAULT)
        return end == DUEL_CALL ? DUEL_SKIPPED : DUEL_DIFFERENT;
    normalize(&ours, c);
    normalize(&duel_theirs, c);
    settle_address(&duel_theirs, &ours);
    return same(&ours, &duel_theirs) && same_memory() ? DUEL_SAME : DUEL_DIFFERENT;
}

/* The code's surroundings are HLT again, for the next case. */
static void place(const struct duel_case *c)
{
    const uint64_t at = duel_linear_rip(&c->state);
    const size_t room = at < DUEL_CODE + 0x2000 ? DUEL_CODE + 0x2000 - at : 0;
    const size_t size = c->size < room ? c->size : room;

    memset(host(DUEL_CODE), 0xf4, 0x2000);
    memcpy(host(at), c->code, size);
    memcpy(duel_soft_page(DUEL_CODE), host(DUEL_CODE), PAGE_SIZE);
    memcpy(duel_soft_page(DUEL_CODE + 0x1000), host(DUEL_CODE + 0x1000), PAGE_SIZE);
    duel_soft_code_changed();
}

/* Different by more than what is undefined? Leaves the memory of the last run. */
static enum duel_result is_defined(const struct duel_case *c)
{
    struct duel_case again = *c;
    uint64_t undefined;

    restore_memory(true);
    if (!duel_soft_trace(&c->state, &undefined))
        return DUEL_SKIPPED;
    again.ignored_flags |= undefined;
    restore_memory(true);
    return both(&again);
}

static bool code_has_changed(void)
{
    return memcmp(host(DUEL_CODE), before[0], PAGE_SIZE) != 0 || memcmp(host(DUEL_CODE + 0x1000), before[1], PAGE_SIZE) != 0 ||
           memcmp(duel_soft_page(DUEL_CODE), before[0], PAGE_SIZE) != 0 ||
           memcmp(duel_soft_page(DUEL_CODE + 0x1000), before[1], PAGE_SIZE) != 0;
}

enum duel_result duel_compare(const struct duel_case *c, bool print)
{
    enum duel_result result;

    place(c);
    save_memory();
    result = both(c);
    if (result == DUEL_DIFFERENT) {
        /* Is it one? Some things are never twice the same: the time, a processor's number. */
        const struct duel_state first = duel_theirs;
        restore_memory(true);
        result = both(c);
        if (result == DUEL_DIFFERENT && !same(&first, &duel_theirs))
            result = DUEL_SKIPPED;
    }
    if (result == DUEL_DIFFERENT)
        result = is_defined(c);
    /* When a repeated store notices that it changed its own code is the processor's choice; and memory behind the port is
     * no place for code that changes. */
    if (result == DUEL_DIFFERENT && (c->repeats || !c->direct) && code_has_changed())
        result = DUEL_SKIPPED;
    if (result == DUEL_DIFFERENT && print)
        print_difference(c);
    if (result != DUEL_SAME)
        restore_memory(true);
    return result;
}

uint8_t duel_only_ours(const struct duel_case *c)
{
    place(c);
    save_memory();
    ours = c->state;
    duel_native_next();
    const enum duel_end end = duel_soft_run(&ours, c->direct);
    restore_memory(true);
    return end == DUEL_FAULT ? ours.vector : 0xfe;
}
