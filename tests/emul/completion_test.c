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

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("CM-1", "H", rows_by_next_access),
        CASE("CM-2", "H", rows_by_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
