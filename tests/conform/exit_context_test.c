/*
 * Whole exit contexts: for every exit and every mode that can have it, all 224 bytes that WHvRunVirtualProcessor writes are
 * compared with what they must be. guest_exit_test.c looks at single fields and what follows from them.
 */
#include "guest.h"

#include <string.h>

#define R(name) WHvX64Register##name

/* ---- modes ---- */

enum { REAL = 1, PROTECTED = 2, V86 = 4, COMPATIBILITY = 8, LONG_MODE = 16, USER = 32, ALL = 63, RING0 = ALL & ~(V86 | USER) };

enum { PE = 1 << 2, AM = 1 << 3, LMA = 1 << 4, DEBUG_ACTIVE = 1 << 5, PENDING = 1 << 6, SHADOW = 1 << 12 };

enum { CR8 = 4, UNMAPPED = 0x60000, READ_ONLY = 0x61000 };

static void set_segment(struct guest *g, WHV_REGISTER_NAME name, UINT16 selector, UINT32 limit, UINT16 attributes)
{
    const WHV_REGISTER_VALUE value = {.Segment = {.Limit = limit, .Selector = selector, .Attributes = attributes}};

    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, &name, 1, &value));
}

static void set_segments(struct guest *g, UINT16 code, UINT16 data, UINT32 limit, UINT16 code_type, UINT16 data_type)
{
    static const WHV_REGISTER_NAME names[] = {R(Ss), R(Ds), R(Es), R(Fs), R(Gs)};

    set_segment(g, R(Cs), code, limit, code_type);
    for (size_t i = 0; i < 5; i++)
        set_segment(g, names[i], data, limit, data_type);
}

static void enter_real(struct guest *g)
{
    guest_set(g, R(Cr0), 0x40010);
}

static void enter_protected(struct guest *g)
{
    guest_set(g, R(Cr0), 0x40031);
    set_segments(g, 8, 0x10, 0xffffffff, 0xc09b, 0xc093);
}

/* With a TSS whose bitmap allows all ports. */
static void enter_v86(struct guest *g)
{
    const WHV_REGISTER_NAME tr = R(Tr);
    const WHV_REGISTER_VALUE value = {.Segment = {.Base = TSS, .Limit = 0x2068, .Selector = 0x28, .Attributes = 0x8b}};

    memset(g->ram + TSS, 0, 0x2069);
    g->ram[TSS + 0x66] = 0x68;
    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, &tr, 1, &value));
    guest_set(g, R(Cr0), 0x40031);
    guest_set(g, R(Rflags), 0x23002);
    set_segments(g, 0, 0, 0xffff, 0xf3, 0xf3);
}

static void enter_long(struct guest *g)
{
    guest_long_mode(g, 0);
    guest_set(g, R(Cr0), 0x80050031);
}

static void enter_compatibility(struct guest *g)
{
    enter_long(g);
    set_segment(g, R(Cs), 0x30, 0xffffffff, 0xc09b);
}

static void enter_user(struct guest *g)
{
    guest_long_mode(g, 3);
    guest_set(g, R(Cr0), 0x80050031);
    guest_set(g, R(Rflags), 0x3002);
}

static const struct mode {
    const char *name;
    UINT32 bit;
    void (*enter)(struct guest *g);
    UINT16 state;
    UINT64 rflags;
    WHV_X64_SEGMENT_REGISTER cs;
} modes[] = {
    {"real", REAL, enter_real, AM, 2, {0, 0xffff, 0, {.Attributes = 0x9b}}},
    {"protected", PROTECTED, enter_protected, PE | AM, 2, {0, 0xffffffff, 8, {.Attributes = 0xc09b}}},
    {"virtual-8086", V86, enter_v86, 3 | PE | AM, 0x23002, {0, 0xffff, 0, {.Attributes = 0xf3}}},
    {"compatibility", COMPATIBILITY, enter_compatibility, PE | AM | LMA, 2, {0, 0xffffffff, 0x30, {.Attributes = 0xc09b}}},
    {"64-bit", LONG_MODE, enter_long, PE | AM | LMA, 2, {0, 0xffffffff, 8, {.Attributes = 0xa09b}}},
    {"64-bit user", USER, enter_user, 3 | PE | AM | LMA, 0x3002, {0, 0xffffffff, 0x23, {.Attributes = 0xa0fb}}},
};

/* ---- one exit ---- */

typedef WHV_RUN_VP_EXIT_CONTEXT CONTEXT;

struct exit_case {
    const char *name;
    WHV_RUN_VP_EXIT_REASON reason;
    UINT32 modes;
    UINT8 code[16], code_size;
    UINT8 length;      /* InstructionLength */
    UINT8 advance;     /* RIP at the exit */
    UINT16 state;      /* ExecutionState bits besides the mode's */
    UINT64 flags;      /* RFLAGS bits besides the mode's */
    UINT64 exceptions; /* bitmap */
    void (*prepare)(struct guest *g);
    void (*expect)(struct guest *g, CONTEXT *e); /* fills the exit's own structure */
};

static UINT8 expect_bytes(const struct guest *g, UINT8 *bytes)
{
    memcpy(bytes, g->ram + g->exit.VpContext.Rip, 16);
    return 16;
}

static void expect_port(struct guest *g, CONTEXT *e, UINT32 info, UINT16 port)
{
    WHV_X64_IO_PORT_ACCESS_CONTEXT *io = &e->IoPortAccess;

    io->InstructionByteCount = expect_bytes(g, io->InstructionBytes);
    io->AccessInfo.AsUINT32 = info;
    io->PortNumber = port;
    io->Rax = guest_get(g, R(Rax));
    io->Rcx = guest_get(g, R(Rcx));
    io->Rsi = guest_get(g, R(Rsi));
    io->Rdi = guest_get(g, R(Rdi));
    io->Ds = guest_get_value(g, R(Ds)).Segment;
    io->Es = guest_get_value(g, R(Es)).Segment;
}

static void expect_out(struct guest *g, CONTEXT *e) { expect_port(g, e, 1 | 1 << 1, 0x99); }
static void expect_in(struct guest *g, CONTEXT *e) { expect_port(g, e, 2 << 1, 0x1234); }
static void expect_outs(struct guest *g, CONTEXT *e) { expect_port(g, e, 1 | 1 << 1 | 1 << 4 | 1 << 5, 0x1234); }

static void expect_outs_fs(struct guest *g, CONTEXT *e)
{
    expect_port(g, e, 1 | 4 << 1 | 1 << 4, 0x1234);
    e->IoPortAccess.Ds = guest_get_value(g, R(Fs)).Segment; /* the segment of the source */
}

static void expect_ins(struct guest *g, CONTEXT *e) { expect_port(g, e, 1 << 1 | 1 << 4, 0x1234); }

static void expect_cpuid(struct guest *g, CONTEXT *e)
{
    WHV_CPUID_OUTPUT output;

    assert_ok(WHvGetVirtualProcessorCpuidOutput(g->partition, 0, 1, 7, &output));
    e->CpuidAccess.Rax = 0x1122334400000001;
    e->CpuidAccess.Rcx = 0x7700000007;
    e->CpuidAccess.Rdx = 0x1234;
    e->CpuidAccess.Rbx = 0xbbbb;
    e->CpuidAccess.DefaultResultRax = output.Eax;
    e->CpuidAccess.DefaultResultRcx = output.Ecx;
    e->CpuidAccess.DefaultResultRdx = output.Edx;
    e->CpuidAccess.DefaultResultRbx = output.Ebx;
}

static void prepare_cpuid(struct guest *g) { guest_set(g, R(Rcx), 0x7700000007); }
static void prepare_msr(struct guest *g) { guest_set(g, R(Rcx), 0x5500004321); }

static void expect_msr(CONTEXT *e, UINT32 is_write)
{
    e->MsrAccess.AccessInfo.AsUINT32 = is_write;
    e->MsrAccess.MsrNumber = 0x4321;
    e->MsrAccess.Rax = 0x1122334400000001;
    e->MsrAccess.Rdx = 0x1234;
}

static void expect_rdmsr(struct guest *g, CONTEXT *e) { (void)g, expect_msr(e, 0); }
static void expect_wrmsr(struct guest *g, CONTEXT *e) { (void)g, expect_msr(e, 1); }

static void prepare_tsc(struct guest *g)
{
    guest_set(g, R(TscAux), 0x5a);
    guest_set(g, R(TscVirtualOffset), 0x1000000000000);
}

/* Time is what it is; it has not gone on much since. */
static void expect_tsc(struct guest *g, CONTEXT *e, UINT64 is_rdtscp)
{
    UINT64 now = guest_get(g, R(Tsc)), tsc = g->exit.ReadTsc.Tsc, reference = 0;

    assert_true(tsc >= 0x1000000000000 && tsc <= now);
    assert_ok(WHvGetPartitionProperty(g->partition, WHvPartitionPropertyCodeReferenceTime, &reference, 8, NULL));
    assert_true(g->exit.ReadTsc.ReferenceTime <= reference);
    e->ReadTsc.TscAux = 0x5a;
    e->ReadTsc.VirtualOffset = 0x1000000000000;
    e->ReadTsc.Tsc = tsc;
    e->ReadTsc.ReferenceTime = g->exit.ReadTsc.ReferenceTime;
    e->ReadTsc.RdtscInfo.AsUINT64 = is_rdtscp;
}

static void expect_rdtsc(struct guest *g, CONTEXT *e) { expect_tsc(g, e, 0); }
static void expect_rdtscp(struct guest *g, CONTEXT *e) { expect_tsc(g, e, 1); }

static void expect_exception(struct guest *g, CONTEXT *e, UINT8 vector, UINT32 info, UINT32 error, UINT64 parameter)
{
    WHV_VP_EXCEPTION_CONTEXT *x = &e->VpException;

    x->InstructionByteCount = expect_bytes(g, x->InstructionBytes);
    x->ExceptionInfo.AsUINT32 = info;
    x->ExceptionType = vector;
    x->ErrorCode = error;
    x->ExceptionParameter = parameter;
}

static void expect_ud(struct guest *g, CONTEXT *e) { expect_exception(g, e, 6, 0, 0, 0); }
static void expect_bp(struct guest *g, CONTEXT *e) { expect_exception(g, e, 3, 2, 0, 0); }
static void expect_icebp(struct guest *g, CONTEXT *e) { expect_exception(g, e, 1, 2, 0, 0); }
static void expect_gp(struct guest *g, CONTEXT *e) { expect_exception(g, e, 13, 1, 0x1230, 0); }
static void expect_step(struct guest *g, CONTEXT *e) { expect_exception(g, e, 1, 0, 0, 0x4000); }

static void expect_pf(struct guest *g, CONTEXT *e)
{
    unsigned user = e->VpContext.ExecutionState.Cpl == 3 ? 4 : 0;

    expect_exception(g, e, 14, 1, 2 | user, 0x62345);
    assert_int_equal(guest_get(g, R(Cr2)), 0); /* not written yet */
}

static void prepare_gp(struct guest *g) { guest_set(g, R(Rbx), 0x1230); }

static void prepare_pf(struct guest *g)
{
    *guest_pte(g, 0x62000) = 0;
    guest_set(g, R(Rbx), 0x62345);
}

static void prepare_step(struct guest *g) { guest_set(g, R(Rflags), guest_get(g, R(Rflags)) | 0x100); }

static void prepare_memory(struct guest *g)
{
    static const WHV_REGISTER_NAME name = R(Ds);
    WHV_REGISTER_VALUE value = guest_get_value(g, name);

    /* Reach it with 16-bit addresses too. */
    if (value.Segment.Limit == 0xffff) {
        value.Segment.Base = UNMAPPED;
        value.Segment.Selector = UNMAPPED / 16;
        assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, &name, 1, &value));
        guest_set(g, R(Rbx), 0x123);
    } else {
        guest_set(g, R(Rbx), UNMAPPED + 0x123);
    }
}

static void expect_access(struct guest *g, CONTEXT *e, UINT32 info, UINT64 address)
{
    e->MemoryAccess.InstructionByteCount = expect_bytes(g, e->MemoryAccess.InstructionBytes);
    e->MemoryAccess.AccessInfo.AsUINT32 = info;
    e->MemoryAccess.Gpa = e->MemoryAccess.Gva = address;
}

static void expect_write_unmapped(struct guest *g, CONTEXT *e) { expect_access(g, e, 1 | 4 | 8, UNMAPPED + 0x123); }
static void expect_read_unmapped(struct guest *g, CONTEXT *e) { expect_access(g, e, 4 | 8, UNMAPPED + 0x123); }

static void prepare_read_only(struct guest *g)
{
    assert_ok(WHvMapGpaRange(g->partition, g->ram + UNMAPPED, UNMAPPED, 4096, WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagExecute));
    prepare_memory(g);
}

/* No bytes of the instruction (F 7.4). */
static void expect_write_read_only(struct guest *g, CONTEXT *e)
{
    expect_access(g, e, 1 | 8, UNMAPPED + 0x123);
    memset(e->MemoryAccess.InstructionBytes, 0, 16);
    e->MemoryAccess.InstructionByteCount = 0;
}

static void expect_fetch(struct guest *g, CONTEXT *e)
{
    (void)g;
    e->MemoryAccess.AccessInfo.AsUINT32 = 2 | 4 | 8;
    e->MemoryAccess.Gpa = e->MemoryAccess.Gva = 0x3000;
}

static void prepare_fetch(struct guest *g)
{
    assert_ok(WHvUnmapGpaRange(g->partition, 0x3000, 4096));
    guest_set(g, R(Rip), 0x3000);
}

/* An interrupt whose handler's table is not there: the event waits, the exit says so (F 7.2). */
static void prepare_event(struct guest *g)
{
    const WHV_REGISTER_NAME name = R(Idtr);
    const WHV_REGISTER_VALUE value = {.Table = {.Base = UNMAPPED, .Limit = 0xfff}};

    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, &name, 1, &value));
    guest_set(g, WHvRegisterPendingInterruption, 1 | 0x31 << 16);
}

static void expect_event(struct guest *g, CONTEXT *e)
{
    unsigned size = !e->VpContext.ExecutionState.Cr0Pe ? 4 : e->VpContext.ExecutionState.EferLma ? 16 : 8;

    e->MemoryAccess.AccessInfo.AsUINT32 = 4 | 8;
    e->MemoryAccess.Gpa = e->MemoryAccess.Gva = UNMAPPED + 0x31 * size;
    assert_int_equal(guest_get(g, WHvRegisterPendingInterruption), 1 | 0x31 << 16);
}

static void prepare_cancel(struct guest *g) { assert_ok(WHvCancelRunVirtualProcessor(g->partition, 0, 0)); }

static void prepare_window(struct guest *g)
{
    guest_set(g, R(Rflags), guest_get(g, R(Rflags)) | 0x200);
    guest_set(g, R(DeliverabilityNotifications), 2);
}

static void prepare_nmi_window(struct guest *g) { guest_set(g, R(DeliverabilityNotifications), 1); }
static void expect_nmi_window(struct guest *g, CONTEXT *e) { (void)g, e->InterruptWindow.DeliverableType = WHvX64PendingNmi; }

/* No table at all: #UD, #DF, the end. */
static void prepare_triple(struct guest *g)
{
    const WHV_REGISTER_NAME name = R(Idtr);
    const WHV_REGISTER_VALUE value = {.Table = {.Limit = 0}};

    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, &name, 1, &value));
}

static void prepare_invalid(struct guest *g) { guest_set(g, R(Efer), guest_get(g, R(Efer)) | 1 << 20); }

static void prepare_hypercall(struct guest *g)
{
    for (UINT32 i = 0; i < 6; i++) {
        const WHV_REGISTER_NAME name = (WHV_REGISTER_NAME)(R(Xmm0) + i);
        const WHV_REGISTER_VALUE value = {.Reg128 = {.Low64 = 0x10 + i, .High64 = 0x20 + i}};
        assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, &name, 1, &value));
    }
    guest_set(g, R(R8), 0x888);
}

static void expect_hypercall(struct guest *g, CONTEXT *e)
{
    WHV_HYPERCALL_CONTEXT *h = &e->Hypercall;

    (void)g;
    h->Rax = 0x1122334400000001;
    h->Rbx = 0xbbbb;
    h->Rcx = 3;
    h->Rdx = 0x1234;
    h->R8 = 0x888;
    h->Rsi = 0x7000;
    h->Rdi = 0x7800;
    for (UINT32 i = 0; i < 6; i++)
        h->XmmRegisters[i] = (WHV_UINT128){.Low64 = 0x10 + i, .High64 = 0x20 + i};
}

#define CODE_(...) {__VA_ARGS__}, sizeof((const UINT8[]){__VA_ARGS__})
#define REASON(name) WHvRunVpExitReason##name
#define WIDE (ALL & ~(REAL | V86))

/* clang-format off */
static const struct exit_case cases[] = {
    {"out 99h, al", REASON(X64IoPortAccess), ALL, CODE_(0xe6, 0x99), 2, 0, 0, 0, 0, NULL, expect_out},
    {"in ax, dx", REASON(X64IoPortAccess), REAL | V86, CODE_(0xed), 1, 0, 0, 0, 0, NULL, expect_in},
    {"in ax, dx", REASON(X64IoPortAccess), WIDE, CODE_(0x66, 0xed), 2, 0, 0, 0, 0, NULL, expect_in},
    {"rep outsb", REASON(X64IoPortAccess), ALL, CODE_(0xf3, 0x6e), 2, 0, 0, 0, 0, NULL, expect_outs},
    {"fs outsd", REASON(X64IoPortAccess), WIDE, CODE_(0x64, 0x6f), 2, 0, 0, 0, 0, NULL, expect_outs_fs},
    {"fs outsd", REASON(X64IoPortAccess), REAL | V86, CODE_(0x64, 0x66, 0x6f), 3, 0, 0, 0, 0, NULL, expect_outs_fs},
    {"insb", REASON(X64IoPortAccess), ALL, CODE_(0x6c), 1, 0, 0, 0, 0, NULL, expect_ins},
    {"sti; out", REASON(X64IoPortAccess), ALL, CODE_(0xfb, 0xe6, 0x99), 2, 1, SHADOW, 0x200, 0, NULL, expect_out},
    {"cpuid", REASON(X64Cpuid), ALL, CODE_(0x0f, 0xa2), 2, 0, 0, 0, 0, prepare_cpuid, expect_cpuid},
    {"rdmsr", REASON(X64MsrAccess), RING0, CODE_(0x0f, 0x32), 2, 0, 0, 0, 0, prepare_msr, expect_rdmsr},
    {"wrmsr", REASON(X64MsrAccess), RING0, CODE_(0x0f, 0x30), 2, 0, 0, 0, 0, prepare_msr, expect_wrmsr},
    {"rdtsc", REASON(X64Rdtsc), ALL, CODE_(0x0f, 0x31), 2, 0, 0, 0, 0, prepare_tsc, expect_rdtsc},
    {"rdtscp", REASON(X64Rdtsc), ALL, CODE_(0x0f, 0x01, 0xf9), 3, 0, 0, 0, 0, prepare_tsc, expect_rdtscp},
    {"hlt", REASON(X64Halt), RING0, CODE_(0xf4), 0, 1, 0, 0, 0, NULL, NULL},
    {"vmcall", REASON(Hypercall), RING0, CODE_(0x0f, 0x01, 0xc1), 3, 0, 0, 0, 0, prepare_hypercall, expect_hypercall},
    {"#UD", REASON(Exception), ALL, CODE_(0x0f, 0x0b), 0, 0, 0, 0, 1 << 6, NULL, expect_ud},
    {"int3", REASON(Exception), ALL, CODE_(0xcc), 0, 0, 0, 0, 1 << 3, NULL, expect_bp},
    {"int1", REASON(Exception), ALL, CODE_(0xf1), 0, 0, 0, 0, 1 << 1, NULL, expect_icebp},
    {"#GP", REASON(Exception), WIDE, CODE_(0x8e, 0xdb), 0, 0, 0, 0, 1 << 13, prepare_gp, expect_gp}, /* mov ds, bx */
    {"#PF", REASON(Exception), LONG_MODE | USER | COMPATIBILITY, CODE_(0x88, 0x03), 0, 0, 0, 0, 1 << 14, prepare_pf, expect_pf},
    {"single step", REASON(Exception), ALL, CODE_(0x90, 0x90), 0, 1, 0, 0x100, 1 << 1, prepare_step, expect_step},
    {"write, nothing mapped", REASON(MemoryAccess), WIDE, CODE_(0x88, 0x03), 0, 0, 0, 0, 0, prepare_memory, expect_write_unmapped},
    {"write, nothing mapped", REASON(MemoryAccess), REAL | V86, CODE_(0x88, 0x07), 0, 0, 0, 0, 0, prepare_memory,
     expect_write_unmapped},
    {"read, nothing mapped", REASON(MemoryAccess), WIDE, CODE_(0x8a, 0x03), 0, 0, 0, 0, 0, prepare_memory, expect_read_unmapped},
    {"write, read only", REASON(MemoryAccess), WIDE, CODE_(0x88, 0x03), 0, 0, 0, 0, 0, prepare_read_only, expect_write_read_only},
    {"fetch, nothing mapped", REASON(MemoryAccess), ALL, CODE_(0x90), 0, 0, 0, 0, 0, prepare_fetch, expect_fetch},
    {"delivery", REASON(MemoryAccess), ALL, CODE_(0x90), 0, 0, PENDING, 0, 0, prepare_event, expect_event},
    {"canceled", REASON(Canceled), ALL, CODE_(0x90), 0, 0, 0, 0, 0, prepare_cancel, NULL},
    {"interrupt window", REASON(X64InterruptWindow), ALL, CODE_(0x90), 0, 0, 0, 0x200, 0, prepare_window, NULL},
    {"NMI window", REASON(X64InterruptWindow), ALL, CODE_(0x90), 0, 0, 0, 0, 0, prepare_nmi_window, expect_nmi_window},
    {"triple fault", REASON(UnrecoverableException), ALL, CODE_(0x0f, 0x0b), 0, 0, 0, 0, 0, prepare_triple, NULL},
    {"invalid registers", REASON(InvalidVpRegisterValue), ALL, CODE_(0x90), 0, 0, 0, 0, 0, prepare_invalid, NULL},
};
/* clang-format on */

static void compare(const struct exit_case *c, const struct mode *mode, const struct guest *g, const CONTEXT *expected)
{
    if (!memcmp(&g->exit, expected, sizeof(*expected)))
        return;
    print_error("%s in %s mode: is\n", c->name, mode->name);
    print_exit(&g->exit);
    print_error("must be\n");
    print_exit(expected);
    fail();
}

static void begin_case(struct guest *g, const struct exit_case *c, const struct mode *mode)
{
    const struct guest_options options = {.extended_exits = 1 | 2 | 4 | 8 | 0x20, .exceptions = c->exceptions, .msrs = 0x3f,
                                          .cpuid_exits = {1}, .cpuid_exit_count = 1};

    guest_begin(g, &options);
    assert_ok(WHvUnmapGpaRange(g->partition, UNMAPPED, 4096));
    mode->enter(g);
    guest_set(g, R(Cr8), CR8);
    guest_set(g, R(Dr0), 0x77777000); /* armed, and never met */
    guest_set(g, R(Dr7), 0x401);
    guest_set(g, R(Rax), 0x1122334400000001);
    guest_set(g, R(Rbx), 0xbbbb);
    guest_set(g, R(Rcx), 3);
    guest_set(g, R(Rdx), 0x1234);
    guest_set(g, R(Rsi), 0x7000);
    guest_set(g, R(Rdi), 0x7800);
    guest_load(g, CODE, c->code, c->code_size);
    if (c->prepare)
        c->prepare(g);
}

static void one(const struct exit_case *c, const struct mode *mode)
{
    struct guest g;
    CONTEXT expected;

    begin_case(&g, c, mode);
    UINT64 rip = guest_get(&g, R(Rip)) + c->advance;
    run_to(&g, c->reason);
    memset(&expected, 0, sizeof(expected));
    expected.ExitReason = c->reason;
    expected.VpContext.ExecutionState.AsUINT16 = (UINT16)(mode->state | DEBUG_ACTIVE | c->state);
    expected.VpContext.InstructionLength = c->length & 15u;
    expected.VpContext.Cr8 = CR8;
    expected.VpContext.Cs = mode->cs;
    expected.VpContext.Rip = rip;
    expected.VpContext.Rflags = mode->rflags | c->flags;
    if (c->expect)
        c->expect(&g, &expected);
    compare(c, mode, &g, &expected);
    assert_int_equal(guest_get(&g, R(Rip)), rip);
    assert_int_equal(guest_get(&g, R(Rflags)), expected.VpContext.Rflags);
    guest_end(&g);
}

static void every_context(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (size_t m = 0; m < sizeof(modes) / sizeof(modes[0]); m++)
            if (cases[i].modes & modes[m].bit)
                one(&cases[i], &modes[m]);
}

/* ---- the local APIC's exits ---- */

struct apic_case {
    const char *name;
    WHV_RUN_VP_EXIT_REASON reason;
    UINT32 offset, value; /* written to the register page */
    UINT64 exits;         /* ExtendedVmExits */
    bool level;           /* with a level-triggered interrupt in service */
    UINT64 first, second; /* the exit's own structure: two 64-bit words */
};

static const struct apic_case apic_cases[] = {
    {"EOI", REASON(X64ApicEoi), 0xb0, 0, 0, true, 0x31, 0},
    {"SMI", REASON(X64ApicSmiTrap), 0x300, 0x40200, 0x10, false, 0x0300000000040200, 0},
    {"INIT", REASON(X64ApicInitSipiTrap), 0x300, 0x4500, 0x40, false, 0x0300000000004500, 0},
    {"SIPI", REASON(X64ApicInitSipiTrap), 0x300, 0x4612, 0x40, false, 0x0300000000004612, 0},
    {"LINT0", REASON(X64ApicWriteTrap), 0x350, 0x10700, 0x80, false, WHvX64ApicWriteTypeLint0, 0x10700},
    {"LINT1", REASON(X64ApicWriteTrap), 0x360, 0x10400, 0x100, false, WHvX64ApicWriteTypeLint1, 0x10400},
    {"SVR", REASON(X64ApicWriteTrap), 0xf0, 0x1fe, 0x200, false, WHvX64ApicWriteTypeSvr, 0x1fe},
    {"LDR", REASON(X64ApicWriteTrap), 0xd0, 0x02000000, 0x1000, false, WHvX64ApicWriteTypeLdr, 0x02000000},
    {"DFR", REASON(X64ApicWriteTrap), 0xe0, 0x0fffffff, 0x2000, false, WHvX64ApicWriteTypeDfr, 0x0fffffff},
};

static void one_apic(const struct apic_case *c)
{
    const struct guest_options options = {.apic_mode = WHvX64LocalApicEmulationModeXApic, .extended_exits = c->exits};
    const WHV_REGISTER_NAME ds = R(Ds);
    WHV_REGISTER_VALUE value = {.Segment = {.Base = 0xfee00000, .Limit = 0xffff, .Attributes = 0x93}};
    struct guest g;
    CONTEXT expected;

    guest_begin(&g, &options);
    guest_set(&g, R(ApicSpurious), 0x1ff);
    guest_set(&g, R(ApicIcr), 0x0300000000000000);
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &ds, 1, &value));
    if (c->level) {
        guest_set(&g, R(ApicIsr1), 1 << 17);
        guest_set(&g, R(ApicTmr1), 1 << 17);
    }
    guest_set(&g, R(ApicTpr), 0x70);
    guest_set(&g, R(Rax), c->value);
    const UINT8 code[] = {0x66, 0xa3, (UINT8)c->offset, (UINT8)(c->offset >> 8), 0xe6, 0x99}; /* mov [offset], eax; out 99h, al */
    guest_load(&g, CODE, code, sizeof(code));
    run_to(&g, c->reason);
    memset(&expected, 0, sizeof(expected));
    expected.ExitReason = c->reason;
    expected.VpContext.Cr8 = 7;
    expected.VpContext.Cs = modes[0].cs;
    expected.VpContext.Rip = CODE + 4; /* behind it: the write is done (F 9.1) */
    expected.VpContext.Rflags = 2;
    expected.AsUINT64[0] = c->first;
    expected.AsUINT64[1] = c->second;
    compare(&(struct exit_case){.name = c->name}, &modes[0], &g, &expected);
    if (c->level)
        assert_int_equal(guest_get(&g, R(ApicIsr1)), 0);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess); /* once */
    guest_end(&g);
}

static void apic_contexts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(apic_cases) / sizeof(apic_cases[0]); i++)
        one_apic(&apic_cases[i]);
}

/* ---- what follows ---- */

/* An exit that did not fit the caller's buffer comes again, whatever it is. */
static void too_small_is_not_lost(void **state)
{
    CONTEXT small;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct exit_case *c = &cases[i];
        struct guest g;
        if (!(c->modes & LONG_MODE) || c->reason == REASON(X64Halt) || c->reason == REASON(UnrecoverableException) ||
            c->reason == REASON(InvalidVpRegisterValue))
            continue;
        begin_case(&g, c, &modes[4]);
        UINT64 rip = guest_get(&g, R(Rip)) + c->advance;
        UINT32 size = c->reason == REASON(X64IoPortAccess) ? 143 : 87;
        assert_hr(WHvRunVirtualProcessor(g.partition, 0, &small, size), WHV_E_INSUFFICIENT_BUFFER);
        run_to(&g, c->reason);
        assert_field(&g, VpContext.Rip, rip);
        guest_end(&g);
    }
    for (UINT32 i = 0; i < 3; i++) {
        const struct guest_options options = {.apic_mode = WHvX64LocalApicEmulationModeXApic, .extended_exits = 0x200};
        const WHV_REGISTER_NAME ds = R(Ds);
        WHV_REGISTER_VALUE value = {.Segment = {.Base = 0xfee00000, .Limit = 0xffff, .Attributes = 0x93}};
        struct guest g;
        guest_begin(&g, &options);
        assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &ds, 1, &value));
        guest_set(&g, R(Rax), 0x1ff);
        guest_code(&g, 0x66, 0xa3, 0xf0, 0, 0xe6, 0x99);
        assert_hr(WHvRunVirtualProcessor(g.partition, 0, &small, 47 + 20 * i), WHV_E_INSUFFICIENT_BUFFER);
        run_to(&g, WHvRunVpExitReasonX64ApicWriteTrap);
        assert_field(&g, ApicWrite.WriteValue, 0x1ff);
        run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
        guest_end(&g);
    }
}

/* What the client sets up to be left over from the instruction before: #DB with these causes (F 9.3). */
static void pending_debug(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    guest_code(&g, 0xeb, 0xfe);
    guest_set(&g, R(PendingDebugException), 0x12); /* breakpoint 1, single step */
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, HANDLERS + 16 * 1 + 1);
    assert_int_equal(guest_get(&g, R(Dr6)), 0xffff4ff2);
    assert_int_equal(guest_get(&g, R(PendingDebugException)), 0);
    guest_end(&g);

    /* As an exit. */
    const struct guest_options options = {.extended_exits = 4, .exceptions = 2};
    guest_begin(&g, &options);
    guest_long_mode(&g, 0);
    guest_set(&g, R(PendingDebugException), 0x11);
    run_to(&g, WHvRunVpExitReasonException);
    assert_field(&g, VpException.ExceptionType, 1);
    assert_field(&g, VpException.ExceptionInfo.AsUINT32, 0);
    assert_field(&g, VpException.ExceptionParameter, 0x4001);
    assert_field(&g, VpContext.Rip, CODE);
    guest_end(&g);
}

/* An ExtInt event needs an emulated APIC: Set takes it, Run does not (F 9.5). */
static void ext_int_without_apic(void **state)
{
    const WHV_REGISTER_NAME name = WHvRegisterPendingEvent;
    WHV_REGISTER_VALUE value = {.ExtIntEvent = {{.EventPending = 1, .EventType = WHvX64PendingEventExtInt, .Vector = 0x31}}};
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0xf4);
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value));
    for (int i = 0; i < 2; i++) {
        run_to(&g, WHvRunVpExitReasonInvalidVpRegisterValue);
        assert_field(&g, VpContext.Rip, CODE);
    }
    value = (WHV_REGISTER_VALUE){.Reg64 = 0};
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value));
    run_to(&g, WHvRunVpExitReasonX64Halt);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("CTX-1", "F 7.1, 9.1: every exit, every mode", every_context),
        CASE("CTX-2", "F 9.1 ApicEoi, ApicSmiTrap, ApicInitSipiTrap, ApicWriteTrap", apic_contexts),
        CASE("CTX-3", "H WHvRunVirtualProcessor: an exit that did not fit", too_small_is_not_lost),
        CASE("CTX-4", "F 9.3 PendingDebugException", pending_debug),
        CASE("CTX-5", "F 9.5 ExtInt, APIC mode None", ext_int_without_apic),
    };
    return cmocka_run_group_tests_name("exit contexts", tests, NULL, NULL);
}
