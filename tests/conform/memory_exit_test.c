/*
 * The matrix of memory exits: every reason why memory cannot be had, times every way in which an instruction, or the processor on
 * its own account, reaches for it, times every field of the exit. Rules, not examples: what the exit must be is computed from
 * the row and the column.
 *
 *   type       of the first access that the reason refuses; a read-modify-write reads first
 *   Gpa, Gva   the lowest refused byte; of page tables the entry, without a Gva
 *   bytes      16, or up to the end of the page, where nothing is mapped; none where it is, in delivery, and of fetches
 *   the rest   RIP at the instruction, length 0, registers and memory as before; the instruction runs when the reason is gone
 */
#include "guest.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { R = 1, W = 2, X = 4, RWX = 7, PAGE_SIZE = 4096 };

/* ---- why ---- */

struct why {
    const char *name;
    UINT32 flags;   /* of the mapping */
    int protection; /* of the host memory */
    UINT32 refused; /* kinds of access */
    bool unmapped, released;
};

static const struct why whys[] = {
    {"nothing mapped", 0, PROT_READ | PROT_WRITE, RWX, true, false},
    {"no access", 0, PROT_READ | PROT_WRITE, RWX, false, false},
    {"read only", R, PROT_READ | PROT_WRITE, W | X, false, false},
    {"read and execute", R | X, PROT_READ | PROT_WRITE, W, false, false},
    {"read and write", R | W, PROT_READ | PROT_WRITE, X, false, false},
    {"read only, tracked", R | 8, PROT_READ | PROT_WRITE, W | X, false, false},
    {"host memory without access", RWX | 8, PROT_NONE, RWX, false, false},
    {"host memory read only", RWX | 8, PROT_READ, W, false, false},
    {"host memory read only, untracked", RWX, PROT_READ, W, false, false},
    {"host memory released", RWX, PROT_READ | PROT_WRITE, RWX, false, true},
};
enum { WHYS = sizeof(whys) / sizeof(whys[0]) };

/* A page of the guest's in the state `why`; its bytes are in the guest's RAM too. */
static UINT8 *spoil(struct guest *g, const struct why *why, UINT64 page)
{
    UINT8 *host = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(host != MAP_FAILED);
    memcpy(host, g->ram + page, PAGE_SIZE);
    if (why->unmapped)
        assert_ok(WHvUnmapGpaRange(g->partition, page, PAGE_SIZE));
    else
        assert_ok(WHvMapGpaRange(g->partition, host, page, PAGE_SIZE, (WHV_MAP_GPA_RANGE_FLAGS)why->flags));
    if (why->released)
        assert_int_equal(munmap(host, PAGE_SIZE), 0);
    else
        assert_int_equal(mprotect(host, PAGE_SIZE, why->protection), 0);
    return why->released ? NULL : host;
}

static void mend(struct guest *g, UINT64 page, UINT8 *host)
{
    assert_ok(WHvMapGpaRange(g->partition, g->ram + page, page, PAGE_SIZE, (WHV_MAP_GPA_RANGE_FLAGS)RWX));
    if (host)
        munmap(host, PAGE_SIZE);
}

/* ---- what is compared ---- */

static const WHV_REGISTER_NAME names[] = {
    WHvX64RegisterRax, WHvX64RegisterRcx, WHvX64RegisterRdx, WHvX64RegisterRbx, WHvX64RegisterRsp, WHvX64RegisterRbp,
    WHvX64RegisterRsi, WHvX64RegisterRdi, WHvX64RegisterR8,  WHvX64RegisterR15, WHvX64RegisterRip, WHvX64RegisterRflags,
    WHvX64RegisterCr2, WHvX64RegisterCs,  WHvX64RegisterSs,  WHvX64RegisterDs,  WHvX64RegisterTr,  WHvX64RegisterLdtr,
    WHvX64RegisterGdtr, WHvX64RegisterXmm0,
};
enum { NAMES = sizeof(names) / sizeof(names[0]) };

struct state {
    WHV_REGISTER_VALUE values[NAMES];
};

static struct state registers(struct guest *g)
{
    struct state s;

    memset(&s, 0, sizeof(s));
    assert_ok(WHvGetVirtualProcessorRegisters(g->partition, 0, names, NAMES, s.values));
    return s;
}

struct expected {
    const char *what;
    const struct why *why;
    UINT32 type; /* WHvMemoryAccess... */
    UINT64 gpa, gva;
    bool has_gva;
    bool in_delivery;
    UINT64 event; /* in delivery: the pending interruption */
    unsigned cpl;
};

static unsigned bytes_expected(const struct expected *e, UINT64 rip)
{
    if (!e->why->unmapped || e->type == WHvMemoryAccessExecute || e->in_delivery)
        return 0;
    return (unsigned)(PAGE_SIZE - rip % PAGE_SIZE < 16 ? PAGE_SIZE - rip % PAGE_SIZE : 16);
}

#define SAME(member, value)                                                                        \
    do {                                                                                           \
        if ((UINT64)g->exit.member != (UINT64)(value)) {                                           \
            print_exit(&g->exit);                                                                  \
            fail_msg("%s, %s: " #member " is %#llx, not %#llx", e->what, e->why->name,              \
                     (unsigned long long)g->exit.member, (unsigned long long)(value));              \
        }                                                                                          \
    } while (0)

/* Run into the exit; compare all of it, and what must not have changed. */
static void expect(struct guest *g, const struct expected *e)
{
    const struct state before = registers(g);
    const UINT64 rip = before.values[10].Reg64;

    memset(&g->exit, 0xcc, sizeof(g->exit));
    assert_ok(WHvRunVirtualProcessor(g->partition, 0, &g->exit, sizeof(g->exit)));
    SAME(ExitReason, WHvRunVpExitReasonMemoryAccess);
    SAME(MemoryAccess.AccessInfo.AccessType, e->type);
    SAME(MemoryAccess.AccessInfo.GpaUnmapped, e->why->unmapped);
    SAME(MemoryAccess.AccessInfo.GvaValid, e->has_gva);
    SAME(MemoryAccess.AccessInfo.Reserved, 0);
    SAME(MemoryAccess.Gpa, e->gpa);
    SAME(MemoryAccess.Gva, e->has_gva ? e->gva : 0);
    const unsigned count = bytes_expected(e, rip);
    SAME(MemoryAccess.InstructionByteCount, count);
    for (unsigned i = 0; i < 16; i++)
        SAME(MemoryAccess.InstructionBytes[i], i < count ? g->ram[rip + i] : 0);
    for (unsigned i = 0; i < 3; i++)
        SAME(MemoryAccess.Reserved[i], 0);
    SAME(Reserved, 0);

    const struct state after = registers(g);
    const WHV_REGISTER_VALUE *cs = &after.values[13];
    const bool is_fetch = e->type == WHvMemoryAccessExecute && e->has_gva;
    SAME(VpContext.Rip, is_fetch ? e->gva : rip);
    SAME(VpContext.Rflags, after.values[11].Reg64);
    SAME(VpContext.InstructionLength, 0);
    SAME(VpContext.Cr8, 0);
    SAME(VpContext.Reserved, 0);
    SAME(VpContext.Reserved2, 0);
    SAME(VpContext.Cs.Selector, cs->Segment.Selector);
    SAME(VpContext.Cs.Base, cs->Segment.Base);
    SAME(VpContext.Cs.Limit, cs->Segment.Limit);
    SAME(VpContext.Cs.Attributes, cs->Segment.Attributes);
    SAME(VpContext.ExecutionState.Cpl, e->cpl);
    SAME(VpContext.ExecutionState.Cr0Pe, 1);
    SAME(VpContext.ExecutionState.Cr0Am, 0);
    SAME(VpContext.ExecutionState.EferLma, 1);
    SAME(VpContext.ExecutionState.DebugActive, 0);
    SAME(VpContext.ExecutionState.InterruptionPending, e->in_delivery);
    SAME(VpContext.ExecutionState.InterruptShadow, 0);
    if (!is_fetch && memcmp(&before, &after, sizeof(before)))
        for (unsigned i = 0; i < NAMES; i++)
            if (memcmp(&before.values[i], &after.values[i], sizeof(before.values[i])))
                fail_msg("%s, %s: register %#x was %#llx and is %#llx", e->what, e->why->name, (unsigned)names[i],
                         (unsigned long long)before.values[i].Reg64, (unsigned long long)after.values[i].Reg64);
    const UINT64 pending = guest_get(g, WHvRegisterPendingInterruption);
    if (pending != (e->in_delivery ? e->event : 0))
        fail_msg("%s, %s: the pending interruption is %#llx", e->what, e->why->name, (unsigned long long)pending);
}

/* ---- data ---- */

enum { TARGET = 0x60000 };

struct data {
    const char *name;
    UINT8 code[8];
    unsigned length;
    int size;     /* of the access */
    UINT32 kinds; /* in this order: R, W */
    int from_rsp; /* the access is at RSP + this; 0: at RDI */
    bool is_supervisors;
};

static const struct data datas[] = {
    {"mov eax, [rdi]", {0x8b, 0x07}, 2, 4, R, 0, false},
    {"mov [rdi], eax", {0x89, 0x07}, 2, 4, W, 0, false},
    {"mov [rdi], al", {0x88, 0x07}, 2, 1, W, 0, false},
    {"mov rax, [rdi]", {0x48, 0x8b, 0x07}, 3, 8, R, 0, false},
    {"add [rdi], eax", {0x01, 0x07}, 2, 4, R | W, 0, false},
    {"lock xadd [rdi], eax", {0xf0, 0x0f, 0xc1, 0x07}, 4, 4, R | W, 0, false},
    {"xchg [rdi], rax", {0x48, 0x87, 0x07}, 3, 8, R | W, 0, false},
    {"lock bts dword [rdi], 5", {0xf0, 0x0f, 0xba, 0x2f, 0x05}, 5, 4, R | W, 0, false},
    {"movups xmm0, [rdi]", {0x0f, 0x10, 0x07}, 3, 16, R, 0, false},
    {"movups [rdi], xmm0", {0x0f, 0x11, 0x07}, 3, 16, W, 0, false},
    {"fld qword [rdi]", {0xdd, 0x07}, 2, 8, R, 0, false},
    {"fst qword [rdi]", {0xdd, 0x17}, 2, 8, W, 0, false},
    {"push qword [rdi]", {0xff, 0x37}, 2, 8, R, 0, false},
    {"stosd", {0xab}, 1, 4, W, 0, false},
    {"scasd", {0xaf}, 1, 4, R, 0, false},
    {"push rax", {0x50}, 1, 8, W, -8, false},
    {"pop rax", {0x58}, 1, 8, R, 8, false}, /* 8: at RSP + 0 */
    {"call", {0xe8, 0, 0, 0, 0}, 5, 8, W, -8, false},
    {"ret", {0xc3}, 1, 8, R, 8, false},
    {"pushfq", {0x9c}, 1, 8, W, -8, false},
    {"lgdt [rdi]", {0x0f, 0x01, 0x17}, 3, 10, R, 0, true},
    {"sgdt [rdi]", {0x0f, 0x01, 0x07}, 3, 10, W, 0, false},
    {"fxsave [rdi]", {0x0f, 0xae, 0x07}, 3, 512, W, 0, false},
    {"fxrstor [rdi]", {0x0f, 0xae, 0x0f}, 3, 512, R, 0, false},
    {"iretq", {0x48, 0xcf}, 2, 40, R, 8, true},
};
enum { DATAS = sizeof(datas) / sizeof(datas[0]) };

/* Loads of a byte as far as permissions go. The bits of CPUID leaf 7, EBX: without, not tried. */
static const struct flush {
    struct data data;
    unsigned feature; /* 0: always there */
} flushes[] = {
    {{"clflush [rdi]", {0x0f, 0xae, 0x3f}, 3, 1, R, 0, false}, 0},
    {{"clflushopt [rdi]", {0x66, 0x0f, 0xae, 0x3f}, 4, 1, R, 0, false}, 23},
    {{"clwb [rdi]", {0x66, 0x0f, 0xae, 0x37}, 4, 1, R, 0, false}, 24},
};

/* They never are anything but hints. */
static const struct data hints[] = {
    {"prefetcht0 [rdi]", {0x0f, 0x18, 0x0f}, 3, 1, R, 0, false},
    {"prefetcht1 [rdi]", {0x0f, 0x18, 0x17}, 3, 1, R, 0, false},
    {"prefetcht2 [rdi]", {0x0f, 0x18, 0x1f}, 3, 1, R, 0, false},
    {"prefetchnta [rdi]", {0x0f, 0x18, 0x07}, 3, 1, R, 0, false},
    {"prefetch [rdi]", {0x0f, 0x0d, 0x07}, 3, 1, R, 0, false},
    {"prefetchw [rdi]", {0x0f, 0x0d, 0x0f}, 3, 1, R, 0, false},
    {"prefetchwt1 [rdi]", {0x0f, 0x0d, 0x17}, 3, 1, R, 0, false},
    {"cldemote [rdi]", {0x0f, 0x1c, 0x07}, 3, 1, R, 0, false},
};

/* Where the access begins: in the page; or at its end and into the next, before it and into it. */
static const int inside[] = {0x120, 0}, across[] = {PAGE_SIZE - 1, -1};

static void begin(struct guest *g, unsigned cpl)
{
    guest_begin(g, NULL);
    guest_long_mode(g, cpl);
    guest_set(g, WHvX64RegisterCr4, 0x620); /* PAE, OSFXSR, OSXMMEXCPT */
    guest_set(g, WHvX64RegisterRax, 0x1122334455667788);
}

static void one_access(struct guest *g, const struct data *d, const struct why *why, int place, unsigned cpl)
{
    const UINT64 at = (UINT64)((INT64)TARGET + place);
    struct expected e = {.what = d->name, .why = why, .cpl = cpl, .has_gva = true};

    if (!(d->kinds & why->refused) || (at % 16 && (d->size == 1 || d->size == 512)))
        return;
    e.type = d->kinds & why->refused & R ? WHvMemoryAccessRead : WHvMemoryAccessWrite;
    e.gpa = e.gva = at < TARGET ? TARGET : at;
    memset(g->ram + TARGET - PAGE_SIZE, 0x5a, 3 * PAGE_SIZE);
    memcpy(g->ram + CODE, d->code, d->length);
    memset(g->ram + CODE + d->length, 0xf4, 32);
    guest_set(g, WHvX64RegisterRip, CODE);
    guest_set(g, WHvX64RegisterRdi, d->from_rsp ? 0 : at);
    guest_set(g, WHvX64RegisterRsp, d->from_rsp == -8 ? at + 8 : d->from_rsp ? at : STACK);
    UINT8 *host = spoil(g, why, TARGET);
    for (int again = 0; again < 2; again++)
        expect(g, &e);
    for (size_t i = 0; i < 3 * PAGE_SIZE; i++)
        if (g->ram[TARGET - PAGE_SIZE + i] != 0x5a)
            fail_msg("%s, %s: byte %#zx was written", d->name, why->name, TARGET - PAGE_SIZE + i);
    mend(g, TARGET, host);
}

static void all_data(const int *places, bool modify)
{
    for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
        struct guest g;
        begin(&g, cpl);
        for (size_t d = 0; d < DATAS; d++)
            for (size_t w = 0; w < WHYS; w++)
                for (size_t p = 0; p < 2 && !(cpl && datas[d].is_supervisors) && (datas[d].kinds == (R | W)) == modify; p++)
                    one_access(&g, &datas[d], &whys[w], places[p], cpl);
        guest_end(&g);
    }
}

static void data_accesses(void **state)
{
    (void)state;
    all_data(inside, false);
}

static void modified_data(void **state)
{
    (void)state;
    all_data(inside, true);
}

static void data_across_pages(void **state)
{
    (void)state;
    all_data(across, false);
    all_data(across, true);
}

static bool has_feature(struct guest *g, unsigned bit)
{
    WHV_CPUID_OUTPUT leaf;

    assert_ok(WHvGetVirtualProcessorCpuidOutput(g->partition, 0, 7, 0, &leaf));
    return bit == 0 || leaf.Ebx >> bit & 1;
}

/* The line of a page that cannot be read is not flushed: an exit like that of a load, which can be completed like one. */
static void flushed_lines(void **state)
{
    (void)state;
    for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
        struct guest g;
        begin(&g, cpl);
        for (size_t f = 0; f < sizeof(flushes) / sizeof(flushes[0]); f++)
            for (size_t w = 0; w < WHYS && has_feature(&g, flushes[f].feature); w++)
                one_access(&g, &flushes[f].data, &whys[w], 0x123, cpl);
        guest_end(&g);
    }
    struct guest g;
    OWHP_MEMORY_ACCESS access;
    begin(&g, 0);
    guest_code(&g, 0x0f, 0xae, 0x3f, 0xf4); /* clflush [rdi]; hlt */
    guest_set(&g, WHvX64RegisterRdi, TARGET + 5);
    assert_ok(WHvUnmapGpaRange(g.partition, TARGET, PAGE_SIZE));
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_ok(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &access));
    assert_int_equal(access.AccessType, WHvMemoryAccessRead);
    assert_int_equal(access.SizeInBytes, 1);
    assert_int_equal(access.Gpa, TARGET + 5);
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &access));
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, CODE + 4);
    guest_end(&g);
}

/* At TARGET - 1, eight bytes and more; then the low half, which has memory, is as it was. */
static void modify(struct guest *g, const struct data *d)
{
    memset(g->ram + TARGET - PAGE_SIZE, 0x5a, 3 * PAGE_SIZE);
    memcpy(g->ram + CODE, d->code, d->length);
    memset(g->ram + CODE + d->length, 0xf4, 32);
    guest_set(g, WHvX64RegisterRip, CODE);
    guest_set(g, WHvX64RegisterRdi, TARGET - 1);
    guest_set(g, WHvX64RegisterRsp, STACK);
    guest_set(g, WHvX64RegisterRflags, 2);
    guest_set(g, WHvX64RegisterRax, 0x1122334455667788);
}

/* What exits for the page that half of it is in, and runs again when the page is there, is done once. */
static void modified_once(void **state)
{
    struct guest g;
    UINT8 expected[32];

    (void)state;
    begin(&g, 0);
    for (size_t i = 0; i < DATAS; i++) {
        const struct data *d = &datas[i];
        if (d->kinds != (R | W) || d->from_rsp || d->size == 1)
            continue;
        modify(&g, d);
        run_to(&g, WHvRunVpExitReasonX64Halt);
        const UINT64 rax = guest_get(&g, WHvX64RegisterRax);
        memcpy(expected, g.ram + TARGET - 16, 32);
        modify(&g, d);
        assert_ok(WHvUnmapGpaRange(g.partition, TARGET, PAGE_SIZE));
        run_to(&g, WHvRunVpExitReasonMemoryAccess);
        if (g.ram[TARGET - 1] != 0x5a)
            fail_msg("%s: begun at the exit", d->name);
        assert_ok(WHvMapGpaRange(g.partition, g.ram + TARGET, TARGET, PAGE_SIZE, (WHV_MAP_GPA_RANGE_FLAGS)RWX));
        run_to(&g, WHvRunVpExitReasonX64Halt);
        if (memcmp(expected, g.ram + TARGET - 16, 32) || guest_get(&g, WHvX64RegisterRax) != rax)
            fail_msg("%s: not what it is without an exit", d->name);
    }
    guest_end(&g);
}

/* CALL by a pointer that is not there: no return address is on the stack. */
static void call_not_begun(void **state)
{
    static const struct {
        UINT8 code[3], length;
    } calls[] = {{{0xff, 0x17}, 2}, {{0xff, 0x1f}, 2}, {{0x48, 0xff, 0x1f}, 3}}; /* call [rdi]; call far, two sizes */
    struct guest g;

    (void)state;
    begin(&g, 0);
    assert_ok(WHvUnmapGpaRange(g.partition, TARGET, PAGE_SIZE));
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        memcpy(g.ram + CODE, calls[i].code, 3);
        memset(g.ram + STACK - 32, 0x5a, 32);
        guest_set(&g, WHvX64RegisterRip, CODE);
        guest_set(&g, WHvX64RegisterRsp, STACK);
        guest_set(&g, WHvX64RegisterRdi, TARGET + 0x80);
        run_to(&g, WHvRunVpExitReasonMemoryAccess);
        assert_field(&g, VpContext.Rip, CODE);
        for (int at = -32; at < 0; at++)
            assert_int_equal(g.ram[STACK + at], 0x5a);
    }
    guest_end(&g);
}

/* Hints neither exit nor fault, wherever they point. */
static void hints_do_nothing(void **state)
{
    static const UINT64 places[] = {TARGET, 0x7f0000000000, 0x8000000000000000};
    struct guest g;

    (void)state;
    begin(&g, 0);
    for (size_t h = 0; h < sizeof(hints) / sizeof(hints[0]); h++)
        for (size_t w = 0; w < WHYS; w++)
            for (size_t p = 0; p < sizeof(places) / sizeof(places[0]); p++) {
                UINT8 *host = spoil(&g, &whys[w], TARGET);
                memcpy(g.ram + CODE, hints[h].code, hints[h].length);
                memset(g.ram + CODE + hints[h].length, 0xf4, 8);
                guest_set(&g, WHvX64RegisterRip, CODE);
                guest_set(&g, WHvX64RegisterRdi, places[p]);
                assert_ok(WHvRunVirtualProcessor(g.partition, 0, &g.exit, sizeof(g.exit)));
                if (g.exit.ExitReason != WHvRunVpExitReasonX64Halt || g.exit.VpContext.Rip != CODE + hints[h].length + 1) {
                    print_exit(&g.exit);
                    fail_msg("%s, %s, at %#llx: does something", hints[h].name, whys[w].name, (unsigned long long)places[p]);
                }
                mend(&g, TARGET, host);
            }
    guest_end(&g);
}

/* Near the limit of CS, in real mode: fewer bytes. mov ax, [bx] with DS where nothing is mapped. */
static void bytes_below_the_limit(void)
{
    WHV_REGISTER_NAME segments[] = {WHvX64RegisterCs, WHvX64RegisterDs};
    WHV_REGISTER_VALUE values[2];
    struct guest g;

    guest_begin(&g, NULL);
    guest_code(&g, 0x8b, 0x07);
    guest_set(&g, WHvX64RegisterRbx, 0x20);
    assert_ok(WHvGetVirtualProcessorRegisters(g.partition, 0, segments, 2, values));
    values[1].Segment.Base = RAM_SIZE;
    for (UINT32 left = 2; left < 20; left++) {
        values[0].Segment.Limit = CODE + left - 1;
        assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, segments, 2, values));
        run_to(&g, WHvRunVpExitReasonMemoryAccess);
        assert_field(&g, MemoryAccess.Gpa, RAM_SIZE + 0x20);
        assert_field(&g, MemoryAccess.InstructionByteCount, left < 16 ? left : 16);
        assert_memory_equal(g.exit.MemoryAccess.InstructionBytes, g.ram + CODE, left < 16 ? left : 16);
    }
    guest_end(&g);
}

/* The same instruction near the end of its page: fewer bytes. */
static void bytes_of_code(void **state)
{
    struct guest g;

    (void)state;
    bytes_below_the_limit();
    begin(&g, 0);
    for (unsigned left = 2; left < 20; left++) {
        const UINT64 rip = CODE + PAGE_SIZE - left;
        struct expected e = {"mov eax, [rdi]", &whys[0], WHvMemoryAccessRead, TARGET, TARGET, true, false, 0, 0};
        memset(g.ram + CODE, 0x90, 2 * PAGE_SIZE);
        memcpy(g.ram + rip, "\x8b\x07", 2);
        guest_set(&g, WHvX64RegisterRip, rip);
        guest_set(&g, WHvX64RegisterRdi, TARGET);
        UINT8 *host = spoil(&g, &whys[0], TARGET);
        expect(&g, &e);
        mend(&g, TARGET, host);
    }
    guest_end(&g);
}

/* ---- fetches ---- */

static void fetches(void **state)
{
    struct guest g;

    (void)state;
    for (unsigned cpl = 0; cpl <= 3; cpl += 3)
        for (size_t w = 0; w < WHYS; w++) {
            if (!(whys[w].refused & X))
                continue;
            struct expected e = {"jmp rdi", &whys[w], WHvMemoryAccessExecute, TARGET + 0x40, TARGET + 0x40, true, false, 0, cpl};
            begin(&g, cpl);
            guest_code(&g, 0xff, 0xe7);
            guest_set(&g, WHvX64RegisterRdi, TARGET + 0x40);
            memset(g.ram + TARGET - PAGE_SIZE, 0x90, 2 * PAGE_SIZE);
            UINT8 *host = spoil(&g, &whys[w], TARGET);
            expect(&g, &e);
            /* An instruction that reaches over from the page before: its first byte there. RIP stays at its start. */
            memcpy(g.ram + TARGET - 2, "\x48\x89", 2);
            guest_set(&g, WHvX64RegisterRip, TARGET - 2);
            memset(&g.exit, 0xcc, sizeof(g.exit));
            run_to(&g, WHvRunVpExitReasonMemoryAccess);
            assert_field(&g, MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessExecute);
            assert_field(&g, MemoryAccess.Gpa, TARGET);
            assert_field(&g, MemoryAccess.Gva, TARGET);
            assert_field(&g, MemoryAccess.InstructionByteCount, 0);
            assert_field(&g, VpContext.Rip, TARGET - 2);
            mend(&g, TARGET, host);
            guest_end(&g);
        }
}

/* ---- page tables ---- */

enum { OTHER_TABLES = 0x31000, OTHER_PAGE = 0x35000 };
#define OTHER (1ull << 39) /* an address with tables of its own below the top */

static UINT64 *entry_of(struct guest *g, unsigned level) /* 0: the top */
{
    return (UINT64 *)(void *)(g->ram + (level ? OTHER_TABLES + (level - 1) * PAGE_SIZE : TABLES + 8));
}

/* All entries are accessed, but that of `unset`; the leaf is dirty if it says so. */
static void other_tables(struct guest *g, unsigned unset, bool dirty)
{
    for (unsigned level = 0; level < 4; level++)
        *entry_of(g, level) = (UINT64)(OTHER_TABLES + level * PAGE_SIZE) | 7 | (level == unset ? 0 : 0x20) |
                              (level == 3 && dirty ? 0x40 : 0);
    *entry_of(g, 3) = (*entry_of(g, 3) & 0xfff) | OTHER_PAGE;
}

static void table(struct guest *g, const struct why *why, unsigned level, unsigned unset, bool dirty, bool store)
{
    const UINT64 page = OTHER_TABLES + (level - 1) * PAGE_SIZE;
    const bool reads = why->refused & R, writes = why->refused & W && (unset == level || (store && !dirty && level == 3));
    struct expected e = {store ? "page tables, store" : "page tables, load", why,
                         reads ? WHvMemoryAccessRead : WHvMemoryAccessWrite, page, 0, false, false, 0, 0};

    other_tables(g, unset, dirty);
    if (store)
        guest_code(g, 0x89, 0x07, 0xf4);
    else
        guest_code(g, 0x8b, 0x07, 0xf4);
    guest_set(g, WHvX64RegisterRip, CODE);
    guest_set(g, WHvX64RegisterRdi, OTHER + 0x10);
    guest_set(g, WHvX64RegisterCr3, TABLES); /* nothing is cached */
    UINT8 *host = spoil(g, why, page);
    if (reads || writes)
        expect(g, &e);
    else
        run_to(g, WHvRunVpExitReasonX64Halt);
    mend(g, page, host);
}

static void page_tables(void **state)
{
    struct guest g;

    (void)state;
    begin(&g, 0);
    for (size_t w = 0; w < WHYS; w++)
        for (unsigned level = 1; level < 4; level++)
            for (unsigned unset = 0; unset < 5; unset++)
                for (unsigned more = 0; more < 4; more++)
                    table(&g, &whys[w], level, unset, more & 1, more & 2);
    guest_end(&g);
}

/* ---- descriptor tables, TSS, IDT, stacks ---- */

enum { OWN_GDT = 0x40000, OWN_TSS = 0x42000, OWN_IDT = 0x44000, OWN_STACK = 0x46000, OWN_LDT = 0x48000 };

static void set_table(struct guest *g, WHV_REGISTER_NAME name, UINT64 base, UINT16 limit)
{
    WHV_REGISTER_VALUE value = {.Table = {.Base = base, .Limit = limit}};

    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, &name, 1, &value));
}

/* Each structure in a page of its own. */
static void begin_structures(struct guest *g, unsigned cpl)
{
    WHV_REGISTER_NAME name = WHvX64RegisterTr;
    WHV_REGISTER_VALUE tr;
    const UINT64 stack = OWN_STACK + 0x800, ldt = (UINT64)OWN_LDT << 16 | 0x00008200000007full;

    begin(g, cpl);
    memcpy(g->ram + OWN_GDT, g->ram + GDT, 0x38);
    memcpy(g->ram + OWN_TSS, g->ram + TSS, 0x68);
    memcpy(g->ram + OWN_IDT, g->ram + IDT, PAGE_SIZE);
    memcpy(g->ram + OWN_TSS + 4, &stack, 8);    /* RSP0 */
    memcpy(g->ram + OWN_TSS + 0x24, &stack, 8); /* IST1 */
    memcpy(g->ram + OWN_GDT + 0x40, (UINT64[]){0x0000920000000000, 0, ((UINT64)OWN_TSS << 16) | 0x0000890000000067ull, 0, ldt, 0}, 48);
    memcpy(g->ram + OWN_LDT + 8, (UINT64[]){0x0000930000000000}, 8);
    set_table(g, WHvX64RegisterGdtr, OWN_GDT, 0x6f);
    set_table(g, WHvX64RegisterIdtr, OWN_IDT, 0xfff);
    assert_ok(WHvGetVirtualProcessorRegisters(g->partition, 0, &name, 1, &tr));
    tr.Segment.Base = OWN_TSS;
    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, &name, 1, &tr));
}

struct structure {
    const char *name;
    UINT8 code[8];
    UINT64 page;     /* that is spoiled */
    UINT32 kinds;
    UINT64 read_at, write_at; /* the first byte that is asked for */
    UINT64 event;    /* pending meanwhile; 0: it is an instruction's own access */
    unsigned cpl;
    UINT64 rax;
    UINT8 ist;       /* of the #UD gate */
};

#define EXCEPTION(vector) (1ull | 3 << 1 | (vector) << 16)

static const struct structure structures[] = {
    {"a segment load, GDT", {0x8e, 0xd8}, OWN_GDT, R, OWN_GDT + 0x10, 0, 0, 0, 0x10, 0},
    {"a segment load that sets accessed, GDT", {0x8e, 0xd8}, OWN_GDT, R | W, OWN_GDT + 0x40, OWN_GDT + 0x44, 0, 0, 0x40, 0},
    {"ltr, GDT", {0x0f, 0x00, 0xd8}, OWN_GDT, R | W, OWN_GDT + 0x50, OWN_GDT + 0x54, 0, 0, 0x50, 0},
    {"lldt, GDT", {0x0f, 0x00, 0xd0}, OWN_GDT, R, OWN_GDT + 0x60, 0, 0, 0, 0x60, 0},
    {"verr, GDT", {0x0f, 0x00, 0xe0}, OWN_GDT, R, OWN_GDT + 0x10, 0, 0, 0, 0x10, 0},
    {"#UD, IDT", {0x0f, 0x0b}, OWN_IDT, R, OWN_IDT + 0x60, 0, EXCEPTION(6), 0, 0, 0},
    {"#UD from user mode, IDT", {0x0f, 0x0b}, OWN_IDT, R, OWN_IDT + 0x60, 0, EXCEPTION(6), 3, 0, 0},
    {"#UD, GDT", {0x0f, 0x0b}, OWN_GDT, R, OWN_GDT + 8, 0, EXCEPTION(6), 0, 0, 0},
    {"#UD from user mode, TSS", {0x0f, 0x0b}, OWN_TSS, R, OWN_TSS + 4, 0, EXCEPTION(6), 3, 0, 0},
    {"#UD, IST", {0x0f, 0x0b}, OWN_TSS, R, OWN_TSS + 0x24, 0, EXCEPTION(6), 0, 0, 1},
    {"#UD from user mode, its stack", {0x0f, 0x0b}, OWN_STACK, W, 0, OWN_STACK + 0x7d8, EXCEPTION(6), 3, 0, 0},
    {"#UD, the IST's stack", {0x0f, 0x0b}, OWN_STACK, W, 0, OWN_STACK + 0x7d8, EXCEPTION(6), 0, 0, 1},
};

static void one_structure(const struct structure *s, const struct why *why)
{
    struct guest g;
    const UINT32 refused = s->kinds & why->refused;
    struct expected e = {s->name, why, refused & R ? WHvMemoryAccessRead : WHvMemoryAccessWrite,
                         refused & R ? s->read_at : s->write_at, 0, true, s->event != 0, s->event, s->cpl};

    e.gva = e.gpa;
    if (!refused)
        return;
    begin_structures(&g, s->cpl);
    g.ram[OWN_IDT + 0x60 + 4] = s->ist;
    guest_load(&g, CODE, s->code, sizeof(s->code));
    guest_set(&g, WHvX64RegisterRip, CODE);
    guest_set(&g, WHvX64RegisterRax, s->rax);
    UINT8 *host = spoil(&g, why, s->page);
    for (int again = 0; again < 2; again++)
        expect(&g, &e);
    mend(&g, s->page, host);
    if (s->event) { /* the delivery is made good */
        run_to(&g, WHvRunVpExitReasonX64Halt);
        assert_field(&g, VpContext.Rip, HANDLERS + 16 * 6 + 1);
        assert_field(&g, VpContext.ExecutionState.InterruptionPending, 0);
    }
    guest_end(&g);
}

static void system_structures(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof(structures) / sizeof(structures[0]); s++)
        for (size_t w = 0; w < WHYS; w++)
            one_structure(&structures[s], &whys[w]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("MEX-1", "F 7.1, 7.2, 7.3, 7.4: data", data_accesses),
        CASE("MEX-7", "F 7.3: read-modify-write", modified_data),
        CASE("MEX-6", "F 7.3: across pages", data_across_pages),
        CASE("MEX-22", "F 7.2: done once", modified_once),
        CASE("MEX-23", "F 7.2: nothing has happened", call_not_begun),
        CASE("MEX-20", "F 7.2, 7.3; SDM CLFLUSH", flushed_lines),
        CASE("MEX-21", "SDM PREFETCHh, CLDEMOTE", hints_do_nothing),
        CASE("MEX-2", "F 7.4: bytes", bytes_of_code),
        CASE("MEX-3", "F 7.2, 7.3, 7.4: fetches", fetches),
        CASE("MEX-4", "F 7.2, 7.3: page tables", page_tables),
        CASE("MEX-5", "F 7.2, 7.3, 7.4: descriptor tables, TSS, IDT, stacks", system_structures),
    };

    return cmocka_run_group_tests_name("memory exits", tests, NULL, NULL);
}
