/*
 * Every register name of the API, by a table: a name is implemented (a value that is set is read back, and the guest reads it with
 * an instruction of its own) or refused with the code that the header gives. The list of names is the published one
 * (tests/data/whp-enums.tsv), so a name that nobody thought of fails.
 */
#include "guest.h"
#include "differences.h"
#include "host_x87.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define R(name) WHvX64Register##name
#define END_CODE 0xe6, 0x99 /* out 99h, al: the exit has RAX */

enum { IMAGE = 0x40000 }; /* where the guest stores what does not fit RAX */

/* How the guest reads it. */
enum how {
    NOT,      /* no instruction reads it (or another case looks at its effect) */
    CODE_RAX, /* `code` puts it into RAX */
    MSR,      /* RDMSR of `number`, plus one (or two: MSR2) for each following name */
    MSR2,
    FXSAVE,   /* `number`: byte offset in the image; 16 bytes for each following name */
    APIC,     /* the register page */
    SEGMENT,  /* `code` puts the selector into RAX */
    TABLE,    /* `code` stores it at IMAGE */
    GPR,
};

struct row {
    UINT32 first, last;
    enum how how;
    UINT32 number;
    UINT8 code[12];
    UINT64 values[3]; /* to be set; 0 after the first ends the list */
    UINT64 mask;      /* of the bits compared; 0: all */
};

/* clang-format off */
static const struct row rows[] = {
    {R(Rax), R(R15), GPR, 0, {0}, {0x8000000000000001, 0x1122334455667788}, 0},
    {R(Rip), R(Rip), CODE_RAX, 0, {0x48, 0x8d, 0x05, 0xf9, 0xff, 0xff, 0xff}, {CODE}, 0},           /* lea rax, [rip-7] */
    {R(Rflags), R(Rflags), CODE_RAX, 0, {0x9c, 0x58}, {2, 0x3ed7 & ~0x300, 0x244ed7 & ~0x300}, 0},   /* pushfq; pop rax */
    {R(Es), R(Es), SEGMENT, 0, {0x66, 0x8c, 0xc0}, {0}, 0},
    {R(Cs), R(Cs), SEGMENT, 0, {0x66, 0x8c, 0xc8}, {0}, 0},
    {R(Ss), R(Ss), SEGMENT, 0, {0x66, 0x8c, 0xd0}, {0}, 0},
    {R(Ds), R(Ds), SEGMENT, 0, {0x66, 0x8c, 0xd8}, {0}, 0},
    {R(Fs), R(Fs), SEGMENT, 0, {0x66, 0x8c, 0xe0}, {0}, 0},
    {R(Gs), R(Gs), SEGMENT, 0, {0x66, 0x8c, 0xe8}, {0}, 0},
    {R(Ldtr), R(Ldtr), SEGMENT, 0, {0x0f, 0x00, 0xc0}, {0}, 0},
    {R(Tr), R(Tr), SEGMENT, 0, {0x0f, 0x00, 0xc8}, {0}, 0},
    {R(Idtr), R(Idtr), TABLE, 0, {0x0f, 0x01, 0x0c, 0x25, 0, 0, 4, 0}, {0}, 0},                      /* sidt [40000h] */
    {R(Gdtr), R(Gdtr), TABLE, 0, {0x0f, 0x01, 0x04, 0x25, 0, 0, 4, 0}, {0}, 0},
    {R(Cr0), R(Cr0), CODE_RAX, 0, {0x0f, 0x20, 0xc0}, {0x80010031, 0x8005003b}, 0},
    {R(Cr2), R(Cr2), CODE_RAX, 0, {0x0f, 0x20, 0xd0}, {0xfffffffffffff123, 0x7fff0000}, 0},
    {R(Cr3), R(Cr3), CODE_RAX, 0, {0x0f, 0x20, 0xd8}, {TABLES, TABLES | 0x18}, 0},
    {R(Cr4), R(Cr4), CODE_RAX, 0, {0x0f, 0x20, 0xe0}, {0x20, 0x406a8, 0x6a0}, 0},
    {R(Cr8), R(Cr8), CODE_RAX, 0, {0x44, 0x0f, 0x20, 0xc0}, {15, 3}, 0},
    {R(Dr0), R(Dr0), CODE_RAX, 0, {0x0f, 0x21, 0xc0}, {0xffff800000001234}, 0},
    {R(Dr1), R(Dr1), CODE_RAX, 0, {0x0f, 0x21, 0xc8}, {0xffff800000001235}, 0},
    {R(Dr2), R(Dr2), CODE_RAX, 0, {0x0f, 0x21, 0xd0}, {0xffff800000001236}, 0},
    {R(Dr3), R(Dr3), CODE_RAX, 0, {0x0f, 0x21, 0xd8}, {0xffff800000001237}, 0},
    {R(Dr6), R(Dr6), CODE_RAX, 0, {0x0f, 0x21, 0xf0}, {0xffff4ff5, 0xffff0ff0}, 0},
    {R(Dr7), R(Dr7), CODE_RAX, 0, {0x0f, 0x21, 0xf8}, {0x400, 0xfff00700}, 0},
    {R(XCr0), R(XCr0), CODE_RAX, 0, {0x31, 0xc9, 0x0f, 0x01, 0xd0}, {1, 3}, 0},                      /* xor ecx, ecx; xgetbv */
    {R(Xmm0), R(Xmm15), FXSAVE, 160, {0}, {0x0123456789abcdef, 1}, 0},
    {R(FpMmx0), R(FpMmx7), FXSAVE, 32, {0}, {0x8123456789abcdef, 1}, 0},
    {R(FpControlStatus), R(FpControlStatus), FXSAVE, 0, {0}, {0x05a5000f3800037f, 0x07ff00ff0000037f}, 0},
    {R(XmmControlStatus), R(XmmControlStatus), FXSAVE, 16, {0}, {0x1234567}, 0},
    {R(Tsc), R(Tsc), NOT, 0, {0}, {0}, 0},
    {R(Efer), R(Efer), MSR, 0xc0000080, {0}, {0xd00, 0xd01, 0x501}, 0},
    {R(KernelGsBase), R(KernelGsBase), MSR, 0xc0000102, {0}, {0xffff800000000123, 5}, 0},
    {R(ApicBase), R(ApicBase), NOT, 0, {0}, {0xfee00900, 0xfed00900, 0xfee00800}, 0},
    {R(Pat), R(Pat), MSR, 0x277, {0}, {0x0007040600070406, 0x0606060606060606}, 0},
    {R(SysenterCs), R(SysenterCs), MSR, 0x174, {0}, {0x10, 0xffffffff}, 0},
    {R(SysenterEip), R(SysenterEip), MSR, 0x176, {0}, {0xffffffff80000000, 7}, 0},
    {R(SysenterEsp), R(SysenterEsp), MSR, 0x175, {0}, {0xffffffff80000000, 7}, 0},
    {R(Star), R(Star), MSR, 0xc0000081, {0}, {0x1b00080000000000}, 0},
    {R(Lstar), R(Lstar), MSR, 0xc0000082, {0}, {0xffff800000000123}, 0},
    {R(Cstar), R(Cstar), MSR, 0xc0000083, {0}, {0xffff800000000124}, 0},
    {R(Sfmask), R(Sfmask), MSR, 0xc0000084, {0}, {0x47700}, 0},
    {R(InitialApicId), R(InitialApicId), NOT, 0, {0}, {0}, 0},
    {R(MsrMtrrCap), R(MsrMtrrCap), MSR, 0xfe, {0}, {0x508}, 0},
    {R(MsrMtrrDefType), R(MsrMtrrDefType), MSR, 0x2ff, {0}, {0xc06, 0x800}, 0},
    {R(MsrMtrrPhysBase0), R(MsrMtrrPhysBase7), MSR2, 0x200, {0}, {0xc0000006, 0x100001}, 0},
    {R(MsrMtrrPhysMask0), R(MsrMtrrPhysMask7), MSR2, 0x201, {0}, {0xff000800}, 0},
    {R(MsrMtrrFix64k00000), R(MsrMtrrFix64k00000), MSR, 0x250, {0}, {0x0606060606060606, 0x0001040506010405}, 0},
    {R(MsrMtrrFix16k80000), R(MsrMtrrFix16kA0000), MSR, 0x258, {0}, {0x0606060606060606, 0x0001040506010405}, 0},
    {R(MsrMtrrFix4kC0000), R(MsrMtrrFix4kF8000), MSR, 0x268, {0}, {0x0606060606060606, 0x0001040506010405}, 0},
    {R(TscAux), R(TscAux), MSR, 0xc0000103, {0}, {0x12345678}, 0},
    {R(SpecCtrl), R(SpecCtrl), MSR, 0x48, {0}, {3, 1}, 0},
    {R(PredCmd), R(PredCmd), NOT, 0, {0}, {0}, 0},                     /* write only */
    {R(TscVirtualOffset), R(TscVirtualOffset), NOT, 0, {0}, {0x100000000000, 5}, 0},
    {R(Xss), R(Xss), NOT, 0, {0}, {0}, 0},
    {R(TscDeadline), R(TscDeadline), NOT, 0, {0}, {0}, 0},             /* with the APIC */
    {R(TscAdjust), R(TscAdjust), MSR, 0x3b, {0}, {0x1000, 0xfffffffffffff000}, 0},
    {R(MsrIa32MiscEnable), R(MsrIa32MiscEnable), MSR, 0x1a0, {0}, {0x1801, 0x1800}, 0},
    {R(Ia32FeatureControl), R(Ia32FeatureControl), MSR, 0x3a, {0}, {1}, 0},
    {WHvRegisterVpRuntime, WHvRegisterVpRuntime, NOT, 0, {0}, {0}, 0},
    {WHvRegisterPendingInterruption, WHvRegisterPendingInterruption, NOT, 0, {0}, {0x55000d0017, 0x200001}, 0},
    {WHvRegisterInterruptState, WHvRegisterInterruptState, NOT, 0, {0}, {3, 1}, 0},
    {WHvRegisterPendingEvent, WHvRegisterPendingEvent, NOT, 0, {0}, {0x55000d0101, 0x200b}, 0},
    {WHvRegisterPendingEvent1, WHvRegisterPendingEvent1, NOT, 0, {0}, {0}, 0}, /* halves of nested exits: 0 only */
    {R(DeliverabilityNotifications), R(DeliverabilityNotifications), NOT, 0, {0}, {2, 0x3f}, 0},
    {WHvRegisterInternalActivityState, WHvRegisterInternalActivityState, NOT, 0, {0}, {0}, 0},
    {R(PendingDebugException), R(PendingDebugException), NOT, 0, {0}, {0x1f, 1}, 0},
    {WHvRegisterPendingEvent2, WHvRegisterPendingEvent3, NOT, 0, {0}, {0}, 0},
    /* The local APIC's; without one they are refused. */
    {R(ApicId), R(ApicId), APIC, 0, {0}, {0}, 0},
    {R(ApicVersion), R(ApicVersion), APIC, 0, {0}, {0}, 0},
    {R(ApicTpr), R(ApicTpr), APIC, 0, {0}, {0x35, 0xf0}, 0},
    {R(ApicPpr), R(ApicPpr), APIC, 0, {0}, {0}, 0},
    {R(ApicEoi), R(ApicEoi), NOT, 0, {0}, {0}, 0},                     /* setting it is an EOI */
    {R(ApicLdr), R(ApicLdr), APIC, 0, {0}, {0x42000000, 0x01000000}, 0},
    {R(ApicSpurious), R(ApicSpurious), APIC, 0, {0}, {0x1ff, 0x13f}, 0},
    {R(ApicIsr0), R(ApicIsr7), APIC, 0, {0}, {0x80010000, 0x20000}, 0},
    {R(ApicTmr0), R(ApicTmr7), APIC, 0, {0}, {0x80010000, 0x20000}, 0},
    {R(ApicIrr0), R(ApicIrr7), APIC, 0, {0}, {0x80010000, 0x20000}, 0},
    {R(ApicEse), R(ApicEse), APIC, 0, {0}, {0x40, 0x80}, 0},
    {R(ApicIcr), R(ApicIcr), APIC, 0, {0}, {0x03000000000c4031, 0xc0000}, 0},
    {R(ApicLvtTimer), R(ApicLvtTimer), APIC, 0, {0}, {0x10031, 0x20032}, 0},
    {R(ApicLvtThermal), R(ApicLvtPerfmon), APIC, 0, {0}, {0x10031, 0x432}, 0},
    {R(ApicLvtLint0), R(ApicLvtLint1), APIC, 0, {0}, {0x10700, 0x8032}, 0},
    {R(ApicLvtError), R(ApicLvtError), APIC, 0, {0}, {0x10031, 0x32}, 0},
    {R(ApicInitCount), R(ApicInitCount), APIC, 0, {0}, {0xfffffff0}, 0},
    {R(ApicCurrentCount), R(ApicCurrentCount), NOT, 0, {0}, {0}, 0},   /* counts */
    {R(ApicDivide), R(ApicDivide), APIC, 0, {0}, {0xb, 3}, 0},
    {R(ApicSelfIpi), R(ApicSelfIpi), NOT, 0, {0}, {0}, 0},             /* setting it sends */
};
/* clang-format on */

static bool is_apic(UINT32 name)
{
    return (name >= R(ApicId) && name <= R(ApicSelfIpi)) || name == R(TscDeadline);
}

static const struct row *row_of(UINT32 name)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (name >= rows[i].first && name <= rows[i].last)
            return &rows[i];
    return NULL;
}

/* ---- the published names ---- */

static struct {
    char text[64];
    UINT32 name;
} published[300];
static size_t published_count;

static void read_names(void)
{
    const char *path = getenv("WHP_ENUMS");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256], of[64];

    assert_non_null(file);
    while (fgets(line, sizeof(line), file)) {
        unsigned value;
        char text[64];
        if (sscanf(line, "%63s %x %63s", text, &value, of) != 3 || strcmp(of, "WHV_REGISTER_NAME") != 0)
            continue;
        if (value >= 0x80000009u && value < 0xffffffffu && strstr(text, "Arm"))
            continue;
        assert_true(published_count < sizeof(published) / sizeof(published[0]));
        strcpy(published[published_count].text, text);
        published[published_count++].name = value;
    }
    fclose(file);
    assert_true(published_count > 200);
}

/* ---- one register ---- */

static HRESULT set_value(struct guest *g, UINT32 name, WHV_REGISTER_VALUE value)
{
    const WHV_REGISTER_NAME names = (WHV_REGISTER_NAME)name;

    return WHvSetVirtualProcessorRegisters(g->partition, 0, &names, 1, &value);
}

static void begin(struct guest *g, UINT32 name)
{
    const struct guest_options with_apic = {.apic_mode = WHvX64LocalApicEmulationModeXApic};

    guest_begin(g, is_apic(name) ? &with_apic : NULL);
    if (is_apic(name)) { /* in real mode, the register page under DS */
        WHV_REGISTER_VALUE ds = {.Segment = {.Base = 0xfee00000, .Limit = 0xffff, .Attributes = 0x93}};
        assert_ok(set_value(g, R(Ds), ds));
        guest_set(g, R(ApicSpurious), 0x1ff);
        return;
    }
    guest_long_mode(g, 0);
    guest_set(g, R(Cr4), 0x40620); /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
}

/* What the guest reads. */
static UINT64 guest_reads(struct guest *g, const struct row *row, UINT32 name)
{
    static const UINT8 rdmsr[] = {0x0f, 0x32, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, END_CODE}; /* rdmsr; rax |= rdx << 32 */
    static const UINT8 fxsave[] = {0x48, 0x0f, 0xae, 0x04, 0x25, 0, 0, 4, 0, END_CODE};
    static const UINT8 end[] = {END_CODE};
    UINT32 step = name - row->first;
    UINT64 value;

    switch (row->how) {
    case MSR:
    case MSR2:
        guest_load(g, CODE, rdmsr, sizeof(rdmsr));
        guest_set(g, R(Rcx), row->number + step * (row->how == MSR2 ? 2 : 1));
        break;
    case FXSAVE:
        guest_load(g, CODE, fxsave, sizeof(fxsave));
        break;
    case GPR: {
        /* mov [40000h], reg */
        const UINT8 store[] = {step < 8 ? 0x48 : 0x4c, 0x89, (UINT8)(0x04 | (step & 7) << 3), 0x25, 0, 0, 4, 0, END_CODE};
        guest_load(g, CODE, store, sizeof(store));
        break;
    }
    case APIC: {
        /* mov eax, [16 * number] */
        UINT32 offset = (name & 0x3f) * 16;
        const UINT8 load[] = {0x66, 0xa1, (UINT8)offset, (UINT8)(offset >> 8), END_CODE};
        guest_load(g, CODE, load, sizeof(load));
        break;
    }
    default:
        guest_load(g, CODE, row->code, sizeof(row->code));
        for (size_t i = sizeof(row->code); i > 0; i--)
            if (row->code[i - 1] || (i == 8 && row->how == TABLE)) { /* the last byte is not 0, or has this place */
                guest_load(g, CODE + i, end, sizeof(end));
                break;
            }
        break;
    }
    guest_set(g, R(Rip), CODE);
    run_to(g, WHvRunVpExitReasonX64IoPortAccess);
    if (row->how == GPR && step == 0)
        value = g->exit.IoPortAccess.Rax;
    else if (row->how == FXSAVE)
        memcpy(&value, g->ram + IMAGE + row->number + 16 * step, 8);
    else if (row->how == GPR)
        memcpy(&value, g->ram + IMAGE, 8);
    else
        value = g->exit.IoPortAccess.Rax;
    return value;
}

static void check_equal(const char *text, const char *what, UINT64 actual, UINT64 expected)
{
    if (actual == expected)
        return;
    print_error("%s, %s: %#llx, not %#llx\n", text, what, (unsigned long long)actual, (unsigned long long)expected);
    fail();
}

/* The bits that a guest sees: some processors do not keep all (host_x87.h; APM 2, 6.1.2: SYSENTER is for legacy mode). */
static UINT64 seen_bits(UINT32 name)
{
    if (!engine_differs(OwhpEngineDifferenceHostVendor))
        return ~0ull;
    if ((name == R(SysenterEip) || name == R(SysenterEsp)) && __builtin_cpu_is("amd"))
        return 0xffffffff;
    if ((name == R(FpControlStatus) || name == R(XmmControlStatus)) && !host_keeps_fp_pointers())
        return name == R(FpControlStatus) ? 0x0000ffffffffffff : 0;
    return ~0ull;
}

static void try_number(struct guest *g, const struct row *row, UINT32 name, const char *text, UINT64 number)
{
    WHV_REGISTER_VALUE value = {.Reg64 = number};
    const bool guest_sees = row->how != NOT;
    bool is_wide = (name >= R(Xmm0) && name <= R(Xmm15)) || (name >= R(FpMmx0) && name <= R(FpMmx7));

    value.Reg128.High64 = is_wide ? 0x4001 + number : 0;
    if (name == R(FpControlStatus))
        value.Reg128.High64 = 0xabcdef;
    if (name == R(XmmControlStatus))
        value.Reg128.High64 = 0xffff00009fc0;
    if (name >= R(FpMmx0) && name <= R(FpMmx7))
        value.Reg128.High64 &= 0xffff;
    check_hr(set_value(g, name, value), S_OK, text, __FILE__, __LINE__);
    WHV_REGISTER_VALUE read = guest_get_value(g, (WHV_REGISTER_NAME)name);
    check_equal(text, "read back", read.Reg128.Low64, value.Reg128.Low64);
    check_equal(text, "high half read back", read.Reg128.High64, value.Reg128.High64);
    if (!guest_sees || name == R(Rsp))
        return;
    UINT64 seen = guest_reads(g, row, name);
    if (row->how == APIC)
        number &= 0xffffffff;
    check_equal(text, "seen by the guest", seen & seen_bits(name), number & seen_bits(name));
}

static void try_segment(struct guest *g, const struct row *row, UINT32 name, const char *text)
{
    bool is_system = name == R(Ldtr) || name == R(Tr);
    WHV_REGISTER_VALUE value = guest_get_value(g, (WHV_REGISTER_NAME)name);

    if (name != R(Cs))
        value.Segment.Base = is_system || name == R(Fs) || name == R(Gs) ? 0xffff800000001000 : 0x12345000;
    value.Segment.Limit = is_system ? 0xfff : 0xffffffff;
    value.Segment.Selector = name == R(Cs) ? 0x38 : 0x58;
    if (name == R(Ldtr))
        value.Segment.Attributes = 0x82;
    else if (!is_system)
        value.Segment.Attributes |= 0x9000; /* G, AVL */
    check_hr(set_value(g, name, value), S_OK, text, __FILE__, __LINE__);
    WHV_REGISTER_VALUE read = guest_get_value(g, (WHV_REGISTER_NAME)name);
    check_equal(text, "base", read.Reg128.Low64, value.Reg128.Low64);
    check_equal(text, "limit, selector, attributes", read.Reg128.High64, value.Reg128.High64);
    guest_set(g, R(Rax), 0);
    check_equal(text, "selector seen by the guest", guest_reads(g, row, name), value.Segment.Selector);
    if (name == R(Fs) || name == R(Gs)) {
        const struct row base = {.first = 0, .how = MSR, .number = name == R(Fs) ? 0xc0000100 : 0xc0000101};
        check_equal(text, "base seen by the guest", guest_reads(g, &base, 0), value.Segment.Base);
    }
}

static void try_table(struct guest *g, const struct row *row, UINT32 name, const char *text)
{
    WHV_REGISTER_VALUE value = {.Table = {.Base = 0xffff800000001230, .Limit = 0x1ff}};
    UINT64 base;
    UINT16 limit;

    check_hr(set_value(g, name, value), S_OK, text, __FILE__, __LINE__);
    WHV_REGISTER_VALUE read = guest_get_value(g, (WHV_REGISTER_NAME)name);
    check_equal(text, "base", read.Table.Base, value.Table.Base);
    check_equal(text, "limit", read.Table.Limit, value.Table.Limit);
    (void)guest_reads(g, row, name);
    memcpy(&limit, g->ram + IMAGE, 2);
    memcpy(&base, g->ram + IMAGE + 2, 8);
    check_equal(text, "limit seen by the guest", limit, value.Table.Limit);
    check_equal(text, "base seen by the guest", base, value.Table.Base);
}

static void try_implemented(const struct row *row, UINT32 name, const char *text)
{
    struct guest g;

    for (unsigned i = 0; i < 3 && (i == 0 || row->values[i]); i++) {
        begin(&g, name);
        if (row->how == SEGMENT)
            try_segment(&g, row, name, text);
        else if (row->how == TABLE)
            try_table(&g, row, name, text);
        else if (row->values[0])
            try_number(&g, row, name, text, row->values[i]);
        else /* a fixed or acting one: what is read may be set */
            (void)guest_get_value(&g, (WHV_REGISTER_NAME)name);
        guest_end(&g);
    }
}

/* Guests have speculation control only where an engine offers it: not on KVM. */
static bool is_hidden(UINT32 name)
{
    UINT64 features = 0;

    assert_ok(WHvGetCapability(WHvCapabilityCodeProcessorFeatures, &features, sizeof(features), NULL));
    return name == (UINT32)R(SpecCtrl) && !(features >> 44 & 1);
}

static void every_name(void **state)
{
    unsigned implemented = 0, refused = 0;

    (void)state;
    for (size_t i = 0; i < published_count; i++) {
        UINT32 name = published[i].name;
        const WHV_REGISTER_NAME names = (WHV_REGISTER_NAME)name;
        const struct row *row = row_of(name);
        WHV_REGISTER_VALUE value = {0};
        struct guest g;

        if (row) {
            if (!is_hidden(name))
                try_implemented(row, name, published[i].text);
            implemented++;
        }
        if (row && !is_apic(name))
            continue;
        /* Refused, for there is no such feature: with the header's code, singly and among others. */
        guest_begin(&g, NULL);
        check_hr(WHvGetVirtualProcessorRegisters(g.partition, 0, &names, 1, &value), ERROR_HV_INVALID_PARAMETER, published[i].text,
                 __FILE__, __LINE__);
        check_hr(WHvSetVirtualProcessorRegisters(g.partition, 0, &names, 1, &value), ERROR_HV_INVALID_PARAMETER, published[i].text,
                 __FILE__, __LINE__);
        guest_end(&g);
        refused += !row;
    }
    assert_int_equal(implemented + refused, published_count);
    print_message("%u names implemented, %u refused\n", implemented, refused);
}

static void no_such_name(void **state)
{
    static const UINT32 names[] = {0x2c, 0xff, 0x101a, 0x1fff, 0x200f, 0x20b5, 0x3000, 0x3031, 0x3040, 0x4015, 0x80000009, 0xffffffff};
    WHV_REGISTER_VALUE value = {0};
    struct guest g;

    (void)state;
    for (unsigned apic = 0; apic < 2; apic++) {
        const struct guest_options options = {.apic_mode = apic};
        guest_begin(&g, &options);
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
            const WHV_REGISTER_NAME pair[2] = {(WHV_REGISTER_NAME)names[i], R(VirtualCr0)};
            WHV_REGISTER_VALUE values[2];
            bool is_of_apic = names[i] >= 0x3002 && names[i] < 0x3040;
            HRESULT expected = is_of_apic && !apic ? ERROR_HV_INVALID_PARAMETER : WHV_E_INVALID_VP_REGISTER_NAME;
            assert_hr(WHvGetVirtualProcessorRegisters(g.partition, 0, pair, 1, &value), expected);
            assert_hr(WHvSetVirtualProcessorRegisters(g.partition, 0, pair, 1, &value), expected);
            assert_hr(WHvGetVirtualProcessorRegisters(g.partition, 0, pair, 2, values), expected);
        }
        guest_end(&g);
    }
}

/* ---- values ---- */

static void impossible_values(void **state)
{
    static const struct {
        UINT32 name;
        UINT64 value;
    } table[] = {
        {R(KernelGsBase), 0x8000000000000000}, {R(Lstar), 0x0000800000000000}, {R(Cstar), 0x0000800000000000},
        {R(SysenterEip), 0x0000800000000000},  {R(SysenterEsp), 1ull << 63},   {R(SysenterCs), 1ull << 32},
        {R(Sfmask), 1ull << 32},               {R(TscAux), 1ull << 32},        {R(SpecCtrl), 1ull << 63},
        {R(Pat), 2},                           {R(Pat), 8},                    {R(MsrMtrrDefType), 2},
        {R(MsrMtrrDefType), 0x100},            {R(MsrMtrrPhysBase0), 2},       {R(MsrMtrrPhysBase7), 1ull << 48},
        {R(MsrMtrrPhysMask0), 0x400},          {R(MsrMtrrPhysMask7), 1ull << 48}, {R(MsrMtrrFix64k00000), 2},
        {R(MsrMtrrFix4kF8000), 3ull << 56},    {R(XCr0), 0},                   {R(XCr0), 5},
        {R(XCr0), 1ull << 63 | 1},             {R(Cr8), 16},                   {R(Dr6), 1ull << 32},
        {R(Dr7), 1ull << 32},                  {R(Xss), 1},                    {R(ApicBase), 0xfee00200},
        {R(ApicBase), 1ull << 48},
    };
    const WHV_REGISTER_NAME mxcsr[] = {R(Rax), R(XmmControlStatus)};
    WHV_REGISTER_VALUE values[2] = {{.Reg64 = 5}, {.XmmControlStatus = {{.LastFpRdp = 7, .XmmStatusControl = 0x10000}}}};
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        UINT64 old = guest_get(&g, (WHV_REGISTER_NAME)table[i].name);
        const WHV_REGISTER_NAME names[] = {R(Rbx), (WHV_REGISTER_NAME)table[i].name, R(Rax)};
        const WHV_REGISTER_VALUE bad[] = {{.Reg64 = 77}, {.Reg64 = table[i].value}, {.Reg64 = 78}};
        HRESULT result = WHvSetVirtualProcessorRegisters(g.partition, 0, names, 3, bad);
        if (result != ERROR_HV_INVALID_REGISTER_VALUE)
            print_error("register %#x, value %#llx\n", table[i].name, (unsigned long long)table[i].value);
        assert_hr(result, ERROR_HV_INVALID_REGISTER_VALUE);
        assert_int_equal(guest_get(&g, R(Rbx)), 0); /* all or nothing */
        assert_int_equal(guest_get(&g, R(Rax)), 0);
        assert_int_equal(guest_get(&g, (WHV_REGISTER_NAME)table[i].name), old);
    }
    assert_hr(WHvSetVirtualProcessorRegisters(g.partition, 0, mxcsr, 2, values), ERROR_HV_INVALID_REGISTER_VALUE);
    assert_int_equal(guest_get(&g, R(Rax)), 0);
    assert_int_equal(guest_get_value(&g, R(XmmControlStatus)).XmmControlStatus.LastFpRdp, 0);
    guest_end(&g);
}

static void impossible_events(void **state)
{
    static const struct {
        UINT32 name;
        UINT64 low, high;
    } table[] = {
        {WHvRegisterPendingInterruption, 1 | 1 << 1, 0},              /* types that do not exist */
        {WHvRegisterPendingInterruption, 1 | 4 << 1, 0},
        {WHvRegisterPendingInterruption, 1 | 0x100ull << 16, 0},      /* vector above 255 */
        {WHvRegisterPendingInterruption, 1 | 3 << 1 | 32 << 16, 0},   /* no exception */
        {WHvRegisterPendingInterruption, 1 | 1 << 9, 0},              /* nested */
        {WHvRegisterPendingInterruption, 1 | 1 << 15, 0},
        {WHvRegisterPendingEvent, 1 | 1 << 1, 0},                     /* types that do not exist, or are of nested guests */
        {WHvRegisterPendingEvent, 1 | 7 << 1, 0},
        {WHvRegisterPendingEvent, 1 | 8 << 1, 0},
        {WHvRegisterPendingEvent, 1 | 32 << 16, 0},
        {WHvRegisterPendingEvent, 1 | 1 << 9, 0},
        {WHvRegisterPendingEvent, 1 | 5 << 1 | 1 << 16, 0},
        {WHvRegisterPendingEvent, 1 | 5 << 1, 1},
        {WHvRegisterPendingEvent1, 1, 0},
        {WHvRegisterPendingEvent2, 0, 1},
        {WHvRegisterPendingEvent3, 1, 0},
        {WHvRegisterInterruptState, 4, 0},
        {R(DeliverabilityNotifications), 0x40, 0},
        {R(DeliverabilityNotifications), 1ull << 48, 0},              /* there is no SynIC */
        {R(PendingDebugException), 0x20, 0},
    };
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const WHV_REGISTER_VALUE value = {.Reg128 = {.Low64 = table[i].low, .High64 = table[i].high}};
        HRESULT result = set_value(&g, table[i].name, value);
        if (result != ERROR_HV_INVALID_PARAMETER)
            print_error("register %#x, value %#llx\n", table[i].name, (unsigned long long)table[i].low);
        assert_hr(result, ERROR_HV_INVALID_PARAMETER);
        assert_int_equal(guest_get(&g, (WHV_REGISTER_NAME)table[i].name), 0);
    }
    /* Without APIC emulation HLT exits and nothing is suspended. */
    assert_hr(set_value(&g, WHvRegisterInternalActivityState, (WHV_REGISTER_VALUE){.Reg64 = 0}), ERROR_HV_ACCESS_DENIED);
    assert_int_equal(guest_get(&g, WHvRegisterInternalActivityState), 0);
    guest_end(&g);
}

/* What is read only may be set to what it is. */
static void fixed_registers(void **state)
{
    static const UINT32 names[] = {R(MsrMtrrCap), R(Ia32FeatureControl), WHvRegisterVpRuntime};
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    for (size_t i = 0; i < 3; i++) {
        UINT64 value = guest_get(&g, (WHV_REGISTER_NAME)names[i]);
        assert_ok(set_value(&g, names[i], (WHV_REGISTER_VALUE){.Reg64 = value}));
        assert_hr(set_value(&g, names[i], (WHV_REGISTER_VALUE){.Reg64 = value + 2}), ERROR_HV_ACCESS_DENIED);
    }
    assert_hr(set_value(&g, R(InitialApicId), (WHV_REGISTER_VALUE){.Reg64 = 1}), ERROR_HV_INVALID_PARAMETER);
    guest_end(&g);
}

/* ---- x87 ---- */

/* FpMmx0 is ST(0): TOP and the registers can be set in any order, and neither disturbs the other. */
static void x87_top(void **state)
{
    static const UINT8 fxsave[] = {0x48, 0x0f, 0xae, 0x04, 0x25, 0, 0, 4, 0, END_CODE};
    static const UINT8 pop[] = {0xdd, 0xd8, 0x48, 0x0f, 0xae, 0x04, 0x25, 0, 0, 4, 0, END_CODE}; /* fstp st(0); fxsave */

    (void)state;
    for (unsigned top = 0; top < 8; top++) {
        for (unsigned status_first = 0; status_first < 2; status_first++) {
            WHV_REGISTER_NAME names[9];
            WHV_REGISTER_VALUE values[9];
            UINT64 mantissa;
            struct guest g;
            memset(values, 0, sizeof(values));
            guest_begin(&g, NULL);
            guest_long_mode(&g, 0);
            guest_set(&g, R(Cr4), 0x620);
            for (unsigned i = 0; i < 9; i++) {
                unsigned at = status_first ? (i + 8) % 9 : i; /* 8: control and status */
                names[i] = at == 8 ? R(FpControlStatus) : (WHV_REGISTER_NAME)(R(FpMmx0) + at);
                if (at == 8)
                    values[i].FpControlStatus.AsUINT128.Low64 = 0xff0000037f | (UINT64)top << 27;
                else
                    values[i].Fp.AsUINT128 = (WHV_UINT128){.Low64 = 0x8000000000000000 + at, .High64 = 0x3fff};
            }
            assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, names, 9, values));
            guest_load(&g, CODE, fxsave, sizeof(fxsave));
            run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
            for (unsigned i = 0; i < 8; i++) {
                memcpy(&mantissa, g.ram + IMAGE + 32 + 16 * i, 8);
                assert_int_equal(mantissa, 0x8000000000000000 + i);
                assert_int_equal(guest_get(&g, (WHV_REGISTER_NAME)(R(FpMmx0) + i)), 0x8000000000000000 + i);
            }
            guest_load(&g, CODE, pop, sizeof(pop)); /* now ST(1) is ST(0) */
            guest_set(&g, R(Rip), CODE);
            run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
            assert_int_equal(guest_get(&g, R(FpMmx0)), 0x8000000000000001);
            assert_int_equal(guest_get(&g, R(FpControlStatus)) >> 27 & 7, (top + 1) % 8);
            assert_int_equal(guest_get(&g, R(FpControlStatus)) >> 32 & 0xff, 0xff & ~(1u << top));
            guest_end(&g);
        }
    }
}

/* MMX registers are the mantissas, from R0: MMX instructions set TOP to 0. */
static void mmx_aliases(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    guest_set(&g, R(Cr4), 0x620);
    guest_set(&g, R(Rbx), 0x1122334455667788);
    guest_code(&g, 0x48, 0x0f, 0x6e, 0xdb, 0x48, 0x0f, 0x7e, 0xd0, END_CODE); /* movq mm3, rbx; movq rax, mm2 */
    const WHV_REGISTER_NAME name = R(FpMmx2);
    WHV_REGISTER_VALUE value = {.Fp.AsUINT128 = {.Low64 = 0xabcdef, .High64 = 0x3fff}};
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value));
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_field(&g, IoPortAccess.Rax, 0xabcdef);
    value = guest_get_value(&g, R(FpMmx3));
    assert_int_equal(value.Fp.AsUINT128.Low64, 0x1122334455667788);
    if (!engine_differs(OwhpEngineDifferenceHostVendor) || host_mmx_sets_exponents())
        assert_int_equal(value.Fp.AsUINT128.High64, 0xffff);
    else
        print_message("the host's processor sets no exponents under MMX registers\n");
    assert_int_equal(guest_get(&g, R(FpControlStatus)) >> 27 & 7, 0);
    guest_end(&g);
}

/* ---- in bulk, in every state ---- */

/* All names that can be read. */
static UINT32 all_names(bool apic, WHV_REGISTER_NAME *names)
{
    UINT32 count = 0;

    for (size_t i = 0; i < published_count; i++)
        if (row_of(published[i].name) && (apic || !is_apic(published[i].name)))
            names[count++] = (WHV_REGISTER_NAME)published[i].name;
    return count;
}

static bool keeps_still(UINT32 name)
{
    return name != R(Tsc) && name != R(ApicCurrentCount) && name != R(TscVirtualOffset) && name != R(TscAdjust);
}

static void in_bulk(void **state)
{
    static WHV_REGISTER_NAME names[300];
    static WHV_REGISTER_VALUE values[300], again[300];

    (void)state;
    for (unsigned apic = 0; apic < 2; apic++) {
        const struct guest_options options = {.apic_mode = apic};
        UINT32 count = all_names(apic, names), kept = 0;
        struct guest g;
        guest_begin(&g, &options);
        assert_ok(WHvGetVirtualProcessorRegisters(g.partition, 0, names, count, values));
        for (UINT32 i = 0; i < count; i++) { /* one by one they say the same */
            assert_ok(WHvGetVirtualProcessorRegisters(g.partition, 0, &names[i], 1, again));
            if (keeps_still(names[i]))
                assert_memory_equal(&values[i], again, sizeof(again[0]));
        }
        /* What was read can be written, all but what acts, and the state that only exists with an APIC. */
        for (UINT32 i = 0; i < count; i++)
            if ((UINT32)names[i] != R(ApicEoi) && (UINT32)names[i] != R(ApicSelfIpi) &&
                (apic || (UINT32)names[i] != WHvRegisterInternalActivityState)) {
                names[kept] = names[i];
                values[kept++] = values[i];
            }
        assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, names, kept, values));
        assert_ok(WHvGetVirtualProcessorRegisters(g.partition, 0, names, kept, again));
        for (UINT32 i = 0; i < kept; i++)
            if (keeps_still(names[i]))
                assert_memory_equal(&values[i], &again[i], sizeof(again[0]));
        guest_end(&g);
    }
}

/* More than any processor has, with repetitions: the last one counts. */
static void many_at_once(void **state)
{
    static WHV_REGISTER_NAME names[5000];
    static WHV_REGISTER_VALUE values[5000];
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    for (UINT32 i = 0; i < 5000; i++) {
        names[i] = (WHV_REGISTER_NAME)(i % 16);
        values[i].Reg64 = i;
    }
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, names, 5000, values));
    assert_int_equal(guest_get(&g, R(Rax)), 4992);
    names[4999] = R(Pat);
    values[4999].Reg64 = 2;
    values[0].Reg64 = 1;
    assert_hr(WHvSetVirtualProcessorRegisters(g.partition, 0, names, 5000, values), ERROR_HV_INVALID_REGISTER_VALUE);
    assert_int_equal(guest_get(&g, R(Rax)), 4992);
    guest_end(&g);
}

static void *run_thread(void *argument)
{
    struct guest *g = argument;

    assert_ok(WHvRunVirtualProcessor(g->partition, 0, &g->exit, sizeof(g->exit)));
    return NULL;
}

/* Nobody looks at the registers of a processor that runs. */
static void while_running(void **state)
{
    struct guest g;
    pthread_t thread;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0xc6, 0x06, 0x00, 0x50, 1, 0xeb, 0xfe); /* mov byte [5000h], 1; jmp $ */
    assert_int_equal(pthread_create(&thread, NULL, run_thread, &g), 0);
    while (!*(volatile UINT8 *)(g.ram + 0x5000))
        continue;
    for (size_t i = 0; i < published_count; i++) {
        const WHV_REGISTER_NAME name = (WHV_REGISTER_NAME)published[i].name;
        WHV_REGISTER_VALUE value = {0};
        assert_hr(WHvGetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value), WHV_E_INVALID_VP_STATE);
        assert_hr(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value), WHV_E_INVALID_VP_STATE);
    }
    assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
    pthread_join(thread, NULL);
    assert_field(&g, ExitReason, WHvRunVpExitReasonCanceled);
    assert_int_equal(guest_get(&g, R(Rip)), CODE + 5);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("REG-1", "F 9.3: every name", every_name),
        CASE("REG-2", "F 9.3: WHV_E_INVALID_VP_REGISTER_NAME", no_such_name),
        CASE("REG-3", "F 9.3: values refused at set; H all or nothing", impossible_values),
        CASE("REG-4", "F 9.5: values of pending events", impossible_events),
        CASE("REG-5", "H ERROR_HV_ACCESS_DENIED", fixed_registers),
        CASE("REG-6", "F 9.3 FpMmx, FpControlStatus", x87_top),
        CASE("REG-7", "F 9.3 FpMmx", mmx_aliases),
        CASE("REG-8", "H: in bulk and singly", in_bulk),
        CASE("REG-9", "H: any count", many_at_once),
        CASE("REG-10", "F 9.2: registers of a running processor", while_running),
    };
    read_names();
    return cmocka_run_group_tests_name("registers", tests, NULL, NULL);
}
