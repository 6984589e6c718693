/*
 * OwhpGetMemoryAccess, OwhpCompleteMemoryAccess: which accesses an instruction makes on a device, one after the other, and
 * what it has done in the end. A row is a guest, the accesses, and the registers and memory afterwards.
 */
#include "conform/guest.h"

#include <stdio.h>
#include <string.h>

/* Nothing is mapped there. In real mode segment ES and DS can reach DEVICE_LOW only. */
enum { DEVICE = 0x400000, DEVICE_LOW = 0xb8000, DATA = 0x3000, NEXT = 0x1800 };

enum { R = WHvMemoryAccessRead, W = WHvMemoryAccessWrite };
enum { LONG_MODE, REAL_MODE };

struct step {
    UINT8 type, size;
    UINT64 gpa, data; /* size 0: the end */
};

struct set {
    UINT32 name;
    UINT64 value;
};

/* Register names with a bit that tells them from the end of a list. */
enum {
    NAMED = 0x40000000,
    RAX = NAMED | WHvX64RegisterRax, RCX, RDX, RBX, RSP, RBP, RSI, RDI,
    FLAGS = NAMED | WHvX64RegisterRflags,
    CR4 = NAMED | WHvX64RegisterCr4,
    XMM0 = NAMED | WHvX64RegisterXmm0,
};

struct row {
    const char *id, *text;
    UINT8 mode, length;
    UINT8 code[12];
    struct set before[5];   /* RBX is DEVICE already, RDI too */
    struct step steps[10];
    struct set after[4];    /* general registers not named are as before; RIP is behind the code */
    UINT64 memory[2];       /* address of 8 bytes, and what they are afterwards */
};

#define CODE_BYTES(...) sizeof((const UINT8[]){__VA_ARGS__}), {__VA_ARGS__}

/* clang-format off */
static const struct row rows[] = {
    {"L1", "mov al, [rbx]", LONG_MODE, CODE_BYTES(0x8a, 0x03), {{RAX, 0x1122334455667788}}, {{R, 1, DEVICE, 0xee}}, {{RAX, 0x11223344556677ee}}, {0}},
    {"L2", "mov ax, [rbx]", LONG_MODE, CODE_BYTES(0x66, 0x8b, 0x03), {{RAX, 0x1122334455667788}}, {{R, 2, DEVICE, 0xeeff}}, {{RAX, 0x112233445566eeff}}, {0}},
    {"L4", "mov eax, [rbx]", LONG_MODE, CODE_BYTES(0x8b, 0x03), {{RAX, 0x1122334455667788}}, {{R, 4, DEVICE, 0x89abcdef}}, {{RAX, 0x89abcdef}}, {0}},
    {"L8", "mov rax, [rbx]", LONG_MODE, CODE_BYTES(0x48, 0x8b, 0x03), {{0}}, {{R, 8, DEVICE, 0x8899aabbccddeeff}}, {{RAX, 0x8899aabbccddeeff}}, {0}},
    {"LZ", "movzx eax, word [rbx]", LONG_MODE, CODE_BYTES(0x0f, 0xb7, 0x03), {{RAX, ~0ull}}, {{R, 2, DEVICE, 0xfffe}}, {{RAX, 0xfffe}}, {0}},
    {"LS", "movsx rax, byte [rbx]", LONG_MODE, CODE_BYTES(0x48, 0x0f, 0xbe, 0x03), {{0}}, {{R, 1, DEVICE, 0x80}}, {{RAX, 0xffffffffffffff80}}, {0}},
    {"LA", "add eax, [rbx]", LONG_MODE, CODE_BYTES(0x03, 0x03), {{RAX, 1}}, {{R, 4, DEVICE, 0xffffffff}}, {{RAX, 0}, {FLAGS, 0x57}}, {0}},
    {"LX", "movups xmm0, [rbx]", LONG_MODE, CODE_BYTES(0x0f, 0x10, 0x03), {{CR4, 0x620}}, {{R, 8, DEVICE, 1}, {R, 8, DEVICE + 8, 2}}, {{XMM0, 1}}, {0}},
    {"LC", "mov eax, [rbx], across pages", LONG_MODE, CODE_BYTES(0x8b, 0x03), {{RBX, DEVICE + 0xffe}}, {{R, 2, DEVICE + 0xffe, 0x1122}, {R, 2, DEVICE + 0x1000, 0x3344}}, {{RAX, 0x33441122}}, {0}},
    {"LO", "mov rax, [rbx], across pages, odd", LONG_MODE, CODE_BYTES(0x48, 0x8b, 0x03), {{RBX, DEVICE + 0xffd}},
     {{R, 2, DEVICE + 0xffd, 0x0201}, {R, 1, DEVICE + 0xfff, 3}, {R, 4, DEVICE + 0x1000, 0x07060504}, {R, 1, DEVICE + 0x1004, 8}}, {{RAX, 0x0807060504030201}}, {0}},
    {"LM", "mov eax, [rbx], RAM before the device", LONG_MODE, CODE_BYTES(0x8b, 0x03), {{RBX, RAM_SIZE - 2}}, {{R, 2, RAM_SIZE, 0x3344}}, {{RAX, 0x33440000}}, {0}},
    {"S1", "mov [rbx], al", LONG_MODE, CODE_BYTES(0x88, 0x03), {{RAX, 0x1122}}, {{W, 1, DEVICE, 0x22}}, {{0}}, {0}},
    {"S2", "mov [rbx], ax", LONG_MODE, CODE_BYTES(0x66, 0x89, 0x03), {{RAX, 0x332211}}, {{W, 2, DEVICE, 0x2211}}, {{0}}, {0}},
    {"S4", "mov [rbx], eax", LONG_MODE, CODE_BYTES(0x89, 0x03), {{RAX, 0x5544332211}}, {{W, 4, DEVICE, 0x44332211}}, {{0}}, {0}},
    {"S8", "mov [rbx], rax", LONG_MODE, CODE_BYTES(0x48, 0x89, 0x03), {{RAX, 0x8877665544332211}}, {{W, 8, DEVICE, 0x8877665544332211}}, {{0}}, {0}},
    {"SI", "mov dword [rbx], imm", LONG_MODE, CODE_BYTES(0xc7, 0x03, 1, 2, 3, 4), {{0}}, {{W, 4, DEVICE, 0x04030201}}, {{0}}, {0}},
    {"SC", "mov [rbx], eax, RAM before the device", LONG_MODE, CODE_BYTES(0x89, 0x03), {{RBX, RAM_SIZE - 2}, {RAX, 0x44332211}}, {{W, 2, RAM_SIZE, 0x4433}}, {{0}}, {RAM_SIZE - 8, 0x2211000000000000}},
    {"M1", "add [rbx], eax", LONG_MODE, CODE_BYTES(0x01, 0x03), {{RAX, 2}}, {{R, 4, DEVICE, 0xffffffff}, {W, 4, DEVICE, 1}}, {{FLAGS, 0x13}}, {0}},
    {"M2", "lock xadd [rbx], eax", LONG_MODE, CODE_BYTES(0xf0, 0x0f, 0xc1, 0x03), {{RAX, 5}}, {{R, 4, DEVICE, 7}, {W, 4, DEVICE, 12}}, {{RAX, 7}, {FLAGS, 6}}, {0}},
    {"M3", "cmpxchg8b [rbx]", LONG_MODE, CODE_BYTES(0x0f, 0xc7, 0x0b), {{RAX, 1}, {RDX, 2}, {RCX, 9}},
     {{R, 8, DEVICE, 0x200000001}, {W, 8, DEVICE, 0x900400000}}, {{FLAGS, 0x42}}, {0}},
    {"M4", "bts [rbx], rax with a far bit", LONG_MODE, CODE_BYTES(0x48, 0x0f, 0xab, 0x03), {{RAX, 130}}, {{R, 8, DEVICE + 16, 0}, {W, 8, DEVICE + 16, 4}}, {{0}}, {0}},
    {"M5", "not byte [rbx]", LONG_MODE, CODE_BYTES(0xf6, 0x13), {{0}}, {{R, 1, DEVICE, 0x0f}, {W, 1, DEVICE, 0xf0}}, {{0}}, {0}},
    {"K1", "push [rbx]", LONG_MODE, CODE_BYTES(0xff, 0x33), {{0}}, {{R, 8, DEVICE, 0x55}}, {{RSP, STACK - 8}}, {STACK - 8, 0x55}},
    {"K2", "pop [rbx]", LONG_MODE, CODE_BYTES(0x8f, 0x03), {{RSP, DATA}}, {{W, 8, DEVICE, 0}}, {{RSP, DATA + 8}}, {0}},
    {"K3", "push rax on a device", LONG_MODE, CODE_BYTES(0x50), {{RSP, DEVICE + 8}, {RAX, 3}}, {{W, 8, DEVICE, 3}}, {{RSP, DEVICE}}, {0}},
    {"T1", "rep movsb, device to RAM", LONG_MODE, CODE_BYTES(0xf3, 0xa4), {{RSI, DEVICE}, {RDI, DATA}, {RCX, 3}},
     {{R, 1, DEVICE, 1}, {R, 1, DEVICE + 1, 2}, {R, 1, DEVICE + 2, 3}}, {{RSI, DEVICE + 3}, {RDI, DATA + 3}, {RCX, 0}}, {DATA, 0x030201}},
    {"T2", "rep movsw, device to device", LONG_MODE, CODE_BYTES(0x66, 0xf3, 0xa5), {{RSI, DEVICE}, {RDI, DEVICE + 0x100}, {RCX, 2}},
     {{R, 2, DEVICE, 1}, {W, 2, DEVICE + 0x100, 1}, {R, 2, DEVICE + 2, 2}, {W, 2, DEVICE + 0x102, 2}}, {{RSI, DEVICE + 4}, {RDI, DEVICE + 0x104}, {RCX, 0}}, {0}},
    {"T3", "rep stosd", LONG_MODE, CODE_BYTES(0xf3, 0xab), {{RAX, 7}, {RCX, 2}}, {{W, 4, DEVICE, 7}, {W, 4, DEVICE + 4, 7}}, {{RDI, DEVICE + 8}, {RCX, 0}}, {0}},
    {"T4", "repne scasb", LONG_MODE, CODE_BYTES(0xf2, 0xae), {{RAX, 9}, {RCX, 5}}, {{R, 1, DEVICE, 1}, {R, 1, DEVICE + 1, 9}}, {{RDI, DEVICE + 2}, {RCX, 3}, {FLAGS, 0x46}}, {0}},
    {"X1", "xchg [rbx], eax", LONG_MODE, CODE_BYTES(0x87, 0x03), {{RAX, 5}}, {{R, 4, DEVICE, 6}, {W, 4, DEVICE, 5}}, {{RAX, 6}}, {0}},
    {"R1", "mov ax, [bx], real mode", REAL_MODE, CODE_BYTES(0x8b, 0x07), {{RBX, 0x8000}}, {{R, 2, DEVICE_LOW, 0x1234}}, {{RAX, 0x1234}}, {0}},
    {"R2", "rep stosw, real mode", REAL_MODE, CODE_BYTES(0xf3, 0xab), {{RAX, 0x0720}, {RDI, 0x8000}, {RCX, 2}},
     {{W, 2, DEVICE_LOW, 0x720}, {W, 2, DEVICE_LOW + 2, 0x720}}, {{RDI, 0x8004}, {RCX, 0}}, {0}},
};
/* clang-format on */

static void set_value(struct guest *g, UINT32 name, UINT64 value)
{
    WHV_REGISTER_NAME n = (WHV_REGISTER_NAME)(name & ~(UINT32)NAMED);
    WHV_REGISTER_VALUE v = {.Reg128 = {.Low64 = value}};

    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, &n, 1, &v));
}

static void real_mode_device(struct guest *g)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterDs, WHvX64RegisterEs};
    const WHV_REGISTER_VALUE value = {.Segment = {.Base = DEVICE_LOW - 0x8000, .Limit = 0xffff, .Selector = 0xb000, .Attributes = 0x93}};
    const WHV_REGISTER_VALUE values[] = {value, value};

    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, 0, names, 2, values));
    assert_ok(WHvUnmapGpaRange(g->partition, DEVICE_LOW, 0x8000));
}

static void begin_row(struct guest *g, const struct row *row)
{
    guest_begin(g, NULL);
    if (row->mode == LONG_MODE)
        guest_long_mode(g, 0);
    else
        real_mode_device(g);
    guest_load(g, CODE, row->code, row->length);
    g->ram[CODE + row->length] = 0xf4;
    set_value(g, RBX, DEVICE);
    set_value(g, RDI, DEVICE);
    for (unsigned i = 0; i < 5 && row->before[i].name; i++)
        set_value(g, row->before[i].name, row->before[i].value);
}

static void print_access(const char *what, const OWHP_MEMORY_ACCESS *a)
{
    print_error("%s: %s of %u bytes at %#llx (GVA %#llx), data %#llx\n", what, (int)a->AccessType == R ? "read" : "write", a->SizeInBytes,
                (unsigned long long)a->Gpa, (unsigned long long)a->Gva, (unsigned long long)a->Data);
}

static void check_step(const struct row *row, unsigned i, const OWHP_MEMORY_ACCESS *a)
{
    const struct step *s = &row->steps[i];

    if (a->AccessType == (WHV_MEMORY_ACCESS_TYPE)s->type && a->SizeInBytes == s->size && a->Gpa == s->gpa && (s->type == R || a->Data == s->data))
        return;
    print_error("%s %s, access %u\n", row->id, row->text, i);
    print_access("is", a);
    print_access("not", &(OWHP_MEMORY_ACCESS){.Gpa = s->gpa, .AccessType = (WHV_MEMORY_ACCESS_TYPE)s->type, .SizeInBytes = s->size, .Data = s->data});
    fail();
}

/* All accesses after one exit; how they are served: by S_FALSE, or (again) by running into each of them. */
static void serve(struct guest *g, const struct row *row, bool again)
{
    OWHP_MEMORY_ACCESS a;
    bool same_exit = false;

    for (unsigned i = 0; i < 10 && row->steps[i].size; i++) {
        if (!same_exit) {
            run_to(g, WHvRunVpExitReasonMemoryAccess);
            assert_ok(OwhpGetMemoryAccess(g->partition, 0, &g->exit, &a));
        }
        check_step(row, i, &a);
        if ((int)a.AccessType == R)
            a.Data = row->steps[i].data;
        HRESULT result = OwhpCompleteMemoryAccess(g->partition, 0, &a);
        if (result != S_OK && result != S_FALSE)
            assert_ok(result);
        same_exit = result == S_FALSE && !again;
    }
}

static UINT64 expected_value(const struct row *row, UINT32 name, UINT64 before)
{
    for (unsigned i = 0; i < 4; i++)
        if (row->after[i].name == (NAMED | name))
            return row->after[i].value;
    return before;
}

static void check_register(struct guest *g, const struct row *row, UINT32 name, UINT64 expected)
{
    UINT64 actual = guest_get(g, (WHV_REGISTER_NAME)name);

    if (actual == expected)
        return;
    print_error("%s %s: register %#x is %#llx, not %#llx\n", row->id, row->text, name, (unsigned long long)actual,
                (unsigned long long)expected);
    fail();
}

static void check_result(struct guest *g, const struct row *row, const UINT64 before[18])
{
    for (UINT32 name = 0; name < 16; name++)
        check_register(g, row, name, expected_value(row, name, before[name]));
    check_register(g, row, WHvX64RegisterRip, CODE + row->length);
    check_register(g, row, WHvX64RegisterRflags, expected_value(row, WHvX64RegisterRflags, before[17]));
    if (expected_value(row, WHvX64RegisterXmm0, 0))
        check_register(g, row, WHvX64RegisterXmm0, expected_value(row, WHvX64RegisterXmm0, 0));
    if (row->memory[0])
        assert_memory_equal(g->ram + row->memory[0], &row->memory[1], 8);
}

static void run_row(const struct row *row, bool again)
{
    struct guest g;
    UINT64 before[18];

    begin_row(&g, row);
    for (UINT32 name = 0; name < 18; name++)
        before[name] = guest_get(&g, (WHV_REGISTER_NAME)name);
    serve(&g, row, again);
    check_result(&g, row, before);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, CODE + row->length + 1);
    guest_end(&g);
}

static void rows_by_next_access(void **state)
{
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        run_row(&rows[i], false);
}

/* S_FALSE ignored: the next run exits with the access that is due, and what was answered stays answered. */
static void rows_by_runs(void **state)
{
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        run_row(&rows[i], true);
}

/* ---- what cannot be put in a row ---- */

static OWHP_MEMORY_ACCESS exit_with_access(struct guest *g)
{
    OWHP_MEMORY_ACCESS access;

    run_to(g, WHvRunVpExitReasonMemoryAccess);
    assert_ok(OwhpGetMemoryAccess(g->partition, 0, &g->exit, &access));
    return access;
}

static void begin_long(struct guest *g, const struct guest_options *options)
{
    guest_begin(g, options);
    guest_long_mode(g, 0);
    guest_set(g, WHvX64RegisterRbx, DEVICE);
    guest_set(g, WHvX64RegisterRdi, DEVICE);
}

/* Until the last access nothing of the instruction shows; the general purpose one. */
static void registers_until_the_last_access(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0x01, 0x03, 0xf4); /* add [rbx], eax */
    guest_set(&g, WHvX64RegisterRax, 1);
    a = exit_with_access(&g);
    assert_int_equal(a.Gva, DEVICE);
    a.Data = 0xffffffff;
    assert_hr(OwhpCompleteMemoryAccess(g.partition, 0, &a), S_FALSE);
    assert_int_equal(guest_get(&g, WHvX64RegisterRip), CODE);
    assert_int_equal(guest_get(&g, WHvX64RegisterRflags), 2);
    assert_ok(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a)); /* the exit's context is still good for what is due */
    assert_int_equal(a.AccessType, WHvMemoryAccessWrite);
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
    assert_int_equal(guest_get(&g, WHvX64RegisterRip), CODE + 2);
    assert_int_equal(guest_get(&g, WHvX64RegisterRflags), 0x57);
    guest_end(&g);
}

/* A divisor of 0 from the device: the access is done, the fault is the next run's. */
static void fault_after_the_access(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0xf7, 0x33, 0xf4); /* div dword [rbx] */
    a = exit_with_access(&g);
    a.Data = 0;
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
    assert_int_equal(guest_get(&g, WHvX64RegisterRip), CODE);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, HANDLERS + 1);
    assert_int_equal(*(UINT64 *)(void *)(g.ram + STACK - 40), CODE);
    guest_end(&g);
}

static void fault_goes_out_as_an_exit(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, &(struct guest_options){.extended_exits = 4, .exceptions = 1}); /* #DE */
    guest_code(&g, 0xf7, 0x33, 0xf4);
    a = exit_with_access(&g);
    a.Data = 0;
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
    run_to(&g, WHvRunVpExitReasonException);
    assert_field(&g, VpException.ExceptionType, 0);
    assert_field(&g, VpContext.Rip, CODE);
    guest_end(&g);
}

/* RFLAGS.TF: the instruction is done within the run that then takes the trap. */
static void trap_after_the_access(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0x8b, 0x03, 0xf4);
    guest_set(&g, WHvX64RegisterRflags, 0x102);
    a = exit_with_access(&g);
    a.Data = 77;
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, HANDLERS + 16 + 1);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax), 77);
    assert_int_equal(*(UINT64 *)(void *)(g.ram + STACK - 40), CODE + 2);
    guest_end(&g);
}

/* An event in place of the instruction: afterwards it starts from its first access. */
static void event_drops_the_answers(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0x87, 0x03, 0xf4); /* xchg [rbx], eax */
    g.ram[HANDLERS + 16 * 3] = 0x48;  /* iretq */
    g.ram[HANDLERS + 16 * 3 + 1] = 0xcf;
    a = exit_with_access(&g);
    a.Data = 5;
    assert_hr(OwhpCompleteMemoryAccess(g.partition, 0, &a), S_FALSE);
    guest_set(&g, WHvRegisterPendingInterruption, 1 | 3 << 1 | 3 << 16);
    assert_ok(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a)); /* it does not change what the instruction computes with */
    a = exit_with_access(&g);
    assert_int_equal(a.AccessType, WHvMemoryAccessRead);
    assert_field(&g, VpContext.Rip, CODE);
    guest_end(&g);
}

static void shadow_lasts_for_one_instruction(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0xfb, 0x8b, 0x03, 0x90, 0xf4); /* sti; mov eax, [rbx]; nop */
    a = exit_with_access(&g);
    guest_set(&g, WHvX64RegisterDeliverabilityNotifications, 2);
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
    run_to(&g, WHvRunVpExitReasonX64InterruptWindow);
    assert_field(&g, VpContext.Rip, CODE + 3);
    guest_end(&g);
}

/* RFLAGS.RF is for the beginning of one instruction, whether that is finished here or executed again. */
static void resume_flag(void **state)
{
    static const UINT8 code[][3] = {{0x8b, 0x03, 0xf4}, {0x03, 0x03, 0xf4}}; /* mov eax, [rbx]; add eax, [rbx] */

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct guest g;
        OWHP_MEMORY_ACCESS a;

        begin_long(&g, NULL);
        guest_load(&g, CODE, code[i], 3);
        guest_set(&g, WHvX64RegisterRflags, 0x10002);
        a = exit_with_access(&g);
        a.Data = 1;
        assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
        assert_int_equal(guest_get(&g, WHvX64RegisterRflags) & 0x10000, 0);
        guest_end(&g);
    }
}

/* An access costs one run and the two calls on it, and no run that only finishes what was answered: nine instructions on a device,
 * their accesses, and how often the processor was run. */
static void one_run_an_exit(void **state)
{
    static const UINT8 code[] = {0x8b, 0x03, 0x89, 0x03, 0x01, 0x03, 0x87, 0x03, 0x0f, 0x10, 0x03, 0xff, 0x33, 0xf0, 0xff, 0x03,
                                 0xaa, 0x0f, 0xb6, 0x03, 0xf4};
    enum { INSTRUCTIONS = 9, ACCESSES = 13 };
    unsigned runs = 0, accesses = 0;
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_set(&g, WHvX64RegisterCr4, 0x620);
    guest_load(&g, CODE, code, sizeof(code));
    for (;; runs++) {
        HRESULT result = S_FALSE;

        assert_ok(WHvRunVirtualProcessor(g.partition, 0, &g.exit, sizeof(g.exit)));
        if (g.exit.ExitReason == WHvRunVpExitReasonX64Halt)
            break;
        assert_int_equal(g.exit.ExitReason, WHvRunVpExitReasonMemoryAccess);
        assert_ok(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a));
        for (; result == S_FALSE; accesses++)
            result = OwhpCompleteMemoryAccess(g.partition, 0, &a);
        assert_ok(result);
    }
    assert_int_equal(runs, INSTRUCTIONS);
    assert_int_equal(accesses, ACCESSES);
    guest_end(&g);
}

/* ROM: reads are RAM's, the write is the client's; a locked operation has read before. */
static void read_only_memory(void **state)
{
    static const UINT8 code[][4] = {{0x01, 0x03, 0xf4}, {0xf0, 0x01, 0x03, 0xf4}}; /* add [rbx], eax; lock */

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct guest g;
        OWHP_MEMORY_ACCESS a;

        begin_long(&g, NULL);
        guest_load(&g, CODE, code[i], 4);
        guest_set(&g, WHvX64RegisterRbx, DATA);
        guest_set(&g, WHvX64RegisterRax, 1);
        memcpy(g.ram + DATA, "\x02\0\0\0", 4);
        assert_ok(WHvMapGpaRange(g.partition, g.ram + DATA, DATA, 4096, WHvMapGpaRangeFlagRead));
        a = exit_with_access(&g);
        assert_field(&g, MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessWrite);
        assert_field(&g, MemoryAccess.AccessInfo.GpaUnmapped, 0);
        assert_int_equal(a.AccessType, WHvMemoryAccessWrite);
        assert_int_equal(a.Data, 3);
        assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
        assert_int_equal(g.ram[DATA], 2);
        run_to(&g, WHvRunVpExitReasonX64Halt);
        guest_end(&g);
    }
}

/* OUTS from a device: the memory half is completed, the port is the next exit. */
static void port_after_the_access(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0x6e, 0xf4); /* outsb */
    guest_set(&g, WHvX64RegisterRsi, DEVICE);
    guest_set(&g, WHvX64RegisterRdx, 0x80);
    a = exit_with_access(&g);
    a.Data = 0x5a;
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a));
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_field(&g, IoPortAccess.PortNumber, 0x80);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess); /* not the memory again */
    guest_end(&g);
}

static void refused(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a, other;
    WHV_RUN_VP_EXIT_CONTEXT old;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0xee, 0x8b, 0x03, 0x8b, 0x43, 0x04, 0xf4); /* out dx, al; mov eax, [rbx]; mov eax, [rbx + 4] */
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a), E_INVALIDARG);
    memset(&a, 0, sizeof(a));
    assert_refused(OwhpCompleteMemoryAccess(g.partition, 0, &a), E_INVALIDARG);
    guest_set(&g, WHvX64RegisterRip, CODE + 1);
    a = exit_with_access(&g);
    old = g.exit;
    for (unsigned i = 0; i < 4; i++) {
        other = a;
        other.Gpa += i == 0;
        other.SizeInBytes -= i == 1;
        other.AccessType = i == 2 ? WHvMemoryAccessWrite : i == 3 ? WHvMemoryAccessExecute : WHvMemoryAccessRead;
        assert_refused(OwhpCompleteMemoryAccess(g.partition, 0, &other), E_INVALIDARG);
    }
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, NULL, &a), E_POINTER);
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, &g.exit, NULL), E_POINTER);
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, &g.exit, WILD), E_POINTER);
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, WILD, &a), E_POINTER);
    assert_refused(OwhpCompleteMemoryAccess(g.partition, 0, NULL), E_POINTER);
    assert_refused(OwhpCompleteMemoryAccess(g.partition, 0, WILD), E_POINTER);
    assert_refused(OwhpGetMemoryAccess(g.partition, 1, &g.exit, &a), WHV_E_VP_DOES_NOT_EXIST);
    assert_refused(OwhpCompleteMemoryAccess(g.partition, 1, &a), WHV_E_VP_DOES_NOT_EXIST);
    assert_ok(OwhpCompleteMemoryAccess(g.partition, 0, &a)); /* none of that did any harm */
    assert_refused(OwhpCompleteMemoryAccess(g.partition, 0, &a), E_INVALIDARG);
    a = exit_with_access(&g);
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, &old, &a), E_INVALIDARG);
    guest_set(&g, WHvX64RegisterRax, 1); /* what is due may depend on it */
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a), E_INVALIDARG);
    guest_end(&g);
}

static void accesses_without_data(void **state)
{
    struct guest g;
    OWHP_MEMORY_ACCESS a;

    (void)state;
    begin_long(&g, NULL);
    guest_code(&g, 0xff, 0xe3); /* jmp rbx */
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&g, MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessExecute);
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a), E_NOT_SUPPORTED);
    guest_end(&g);

    begin_long(&g, NULL);
    guest_code(&g, 0x8b, 0x04, 0x25, 0x00, 0x50, 0, 0); /* mov eax, [0x5000] through page tables at nothing */
    *guest_pte(&g, 0x5000) = 7;
    ((UINT64 *)(void *)(g.ram + TABLES + 0x2000))[2] = 0x800000 | 7;
    guest_code(&g, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x40, 0x00);
    run_to(&g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&g, MemoryAccess.AccessInfo.GvaValid, 0);
    assert_refused(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a), E_NOT_SUPPORTED);
    guest_end(&g);
}

/* Delivery of an event, its table or its stack on a device: no data either, and the exit says that an interruption is pending. */
static void delivery_without_data(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct guest g;
        OWHP_MEMORY_ACCESS a;

        begin_long(&g, NULL);
        guest_code(&g, 0x0f, 0x0b); /* ud2 */
        if (i == 0) {
            WHV_REGISTER_VALUE idtr = guest_get_value(&g, WHvX64RegisterIdtr);
            const WHV_REGISTER_NAME name = WHvX64RegisterIdtr;
            idtr.Table.Base = DEVICE;
            assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &idtr));
        } else {
            guest_set(&g, WHvX64RegisterRsp, DEVICE + 0x800);
        }
        run_to(&g, WHvRunVpExitReasonMemoryAccess);
        assert_field(&g, VpContext.ExecutionState.InterruptionPending, 1);
        assert_field(&g, MemoryAccess.AccessInfo.AccessType, i ? WHvMemoryAccessWrite : WHvMemoryAccessRead);
        assert_refused(OwhpGetMemoryAccess(g.partition, 0, &g.exit, &a), E_NOT_SUPPORTED);
        memset(&a, 0, sizeof(a));
        assert_refused(OwhpCompleteMemoryAccess(g.partition, 0, &a), E_NOT_SUPPORTED);
        guest_end(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("CM-1", "H", rows_by_next_access),
        CASE("CM-2", "H", rows_by_runs),
        CASE("CM-3", "H", registers_until_the_last_access),
        CASE("CM-4", "H", fault_after_the_access),
        CASE("CM-5", "H", fault_goes_out_as_an_exit),
        CASE("CM-6", "H", trap_after_the_access),
        CASE("CM-7", "H", event_drops_the_answers),
        CASE("CM-8", "H", shadow_lasts_for_one_instruction),
        CASE("CM-9", "H", read_only_memory),
        CASE("CM-10", "H", port_after_the_access),
        CASE("CM-11", "H", refused),
        CASE("CM-13", "H", resume_flag),
        CASE("CM-14", "H", one_run_an_exit),
        CASE("CM-12", "H", accesses_without_data),
        CASE("CM-15", "H", delivery_without_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
