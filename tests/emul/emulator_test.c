/*
 * WHvEmulatorTryMmioEmulation and WHvEmulatorTryIoEmulation by their callbacks: which ones come, in which order, with what
 * in them, and what the status says. The client is a script: registers in a table, memory that answers each byte with the low
 * byte of its address plus 1, page tables as a rule (GPA = GVA + SHIFT). Every callback leaves a word in a transcript.
 */
#include "conform/conform.h"

#include <WinHvEmulation.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { SHIFT = 0x100000, REGISTERS = 128 };

enum { GET = 'G', SET = 'S', MEMORY = 'M', IO = 'I', TRANSLATE = 'T' };

static struct client {
    struct {
        UINT32 name;
        WHV_REGISTER_VALUE value;
    } registers[REGISTERS];
    unsigned register_count;
    UINT8 code[32];
    UINT64 code_gpa;
    char transcript[1024];
    /* what goes wrong */
    char failing;          /* this callback, */
    unsigned failing_at;   /* at its n-th call */
    unsigned calls[128];
    UINT64 bad_page;       /* translation of this GVA answers bad_code */
    UINT32 bad_code;
    UINT64 misaligned_page;
    UINT32 set_names[64], set_count; /* of the last SetRegs */
} client;

static VOID *const CONTEXT = &client.calls[5];

/* ---- the script ---- */

static WHV_REGISTER_VALUE *register_at(UINT32 name)
{
    for (unsigned i = 0; i < client.register_count; i++)
        if (client.registers[i].name == name)
            return &client.registers[i].value;
    assert_true(client.register_count < REGISTERS);
    client.registers[client.register_count].name = name;
    return &client.registers[client.register_count++].value;
}

static void set64(UINT32 name, UINT64 value) { register_at(name)->Reg64 = value; }
static UINT64 get64(UINT32 name) { return register_at(name)->Reg64; }

static void note(const char *format, unsigned long long a, unsigned long long b, unsigned long long c)
{
    size_t used = strlen(client.transcript);

    snprintf(client.transcript + used, sizeof(client.transcript) - used, format, a, b, c);
}

static bool fails(char which)
{
    return ++client.calls[(int)which] == client.failing_at && client.failing == which;
}

/* The registers that a client may be asked for (F 8.3), and the events that it is told. */
static void check_name(UINT32 name)
{
    const bool known = name <= WHvX64RegisterGdtr || (name >= WHvX64RegisterCr0 && name <= WHvX64RegisterCr4) ||
                       (name >= WHvX64RegisterXmm0 && name <= WHvX64RegisterXmmControlStatus) || name == WHvX64RegisterEfer ||
                       name == WHvX64RegisterXCr0 || name == WHvRegisterInterruptState || name == WHvRegisterPendingEvent;

    if (!known)
        print_error("register %#x is asked for\n", name);
    assert_true(known);
}

static HRESULT CALLBACK on_get(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count, WHV_REGISTER_VALUE *values)
{
    assert_ptr_equal(context, CONTEXT);
    assert_int_equal((uintptr_t)values % _Alignof(WHV_REGISTER_VALUE), 0);
    if (fails(GET))
        return E_FAIL;
    for (UINT32 i = 0; i < count; i++)
        values[i] = *register_at((UINT32)names[i]), check_name((UINT32)names[i]);
    note("get ", 0, 0, 0);
    return S_OK;
}

static HRESULT CALLBACK on_set(VOID *context, const WHV_REGISTER_NAME *names, UINT32 count, const WHV_REGISTER_VALUE *values)
{
    assert_ptr_equal(context, CONTEXT);
    if (fails(SET))
        return E_FAIL;
    client.set_count = count;
    for (UINT32 i = 0; i < count; i++) {
        client.set_names[i] = (UINT32)names[i];
        *register_at((UINT32)names[i]) = values[i];
    }
    note("set ", 0, 0, 0);
    return S_OK;
}

static HRESULT CALLBACK on_translate(VOID *context, WHV_GUEST_VIRTUAL_ADDRESS gva, WHV_TRANSLATE_GVA_FLAGS flags,
                                     WHV_TRANSLATE_GVA_RESULT_CODE *code, WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    assert_ptr_equal(context, CONTEXT);
    assert_int_equal(gva & 0xfff, 0);
    if (fails(TRANSLATE))
        return E_FAIL;
    note("t%llx/%llx ", gva, (UINT32)flags, 0);
    *code = gva == client.bad_page && client.bad_code ? (WHV_TRANSLATE_GVA_RESULT_CODE)client.bad_code : WHvTranslateGvaResultSuccess;
    *gpa = gva + SHIFT + (client.misaligned_page && gva == client.misaligned_page ? 8 : 0);
    return S_OK;
}

static HRESULT CALLBACK on_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    UINT64 data = 0;

    assert_ptr_equal(context, CONTEXT);
    assert_in_range(access->AccessSize, 1, 8);
    assert_true((access->GpaAddress & 0xfff) + access->AccessSize <= 0x1000);
    if (fails(MEMORY))
        return E_FAIL;
    if (access->Direction) {
        memcpy(&data, access->Data, access->AccessSize);
        note("w%llx/%llu=%llx ", access->GpaAddress, access->AccessSize, data);
        return S_OK;
    }
    note("r%llx/%llu ", access->GpaAddress, access->AccessSize, 0);
    for (unsigned i = 0; i < access->AccessSize; i++) {
        UINT64 at = access->GpaAddress + i;
        access->Data[i] = at - client.code_gpa < sizeof(client.code) ? client.code[at - client.code_gpa] : (UINT8)(at + 1);
    }
    return S_OK;
}

static HRESULT CALLBACK on_io(VOID *context, WHV_EMULATOR_IO_ACCESS_INFO *io)
{
    assert_ptr_equal(context, CONTEXT);
    if (fails(IO))
        return E_FAIL;
    if (io->Direction) {
        note("o%llx/%llu=%llx ", io->Port, io->AccessSize, io->Data);
    } else {
        note("i%llx/%llu ", io->Port, io->AccessSize, 0);
        io->Data = 0x99887766;
    }
    return S_OK;
}

static const WHV_EMULATOR_CALLBACKS callbacks = {
    .Size = sizeof(callbacks), .WHvEmulatorIoPortCallback = on_io, .WHvEmulatorMemoryCallback = on_memory,
    .WHvEmulatorGetVirtualProcessorRegisters = on_get, .WHvEmulatorSetVirtualProcessorRegisters = on_set,
    .WHvEmulatorTranslateGvaPage = on_translate};

/* ---- modes ---- */

enum mode { MODE_REAL, MODE_V86, MODE_PROTECTED_16, MODE_PROTECTED_32, MODE_COMPATIBILITY, MODE_LONG, MODE_COUNT };

static void set_segment(UINT32 name, UINT64 base, UINT32 limit, UINT16 selector, UINT16 attributes)
{
    register_at(name)->Segment = (WHV_X64_SEGMENT_REGISTER){.Base = base, .Limit = limit, .Selector = selector, .Attributes = attributes};
}

static void enter(enum mode mode)
{
    static const struct {
        UINT64 cr0, cr4, efer, rflags;
        UINT32 limit;
        UINT16 code, data;
    } modes[MODE_COUNT] = {
        [MODE_REAL] = {0x10, 0, 0, 2, 0xffff, 0x9b, 0x93},
        [MODE_V86] = {0x80000011, 0, 0, 0x20002, 0xffff, 0xfb, 0xf3},
        [MODE_PROTECTED_16] = {0x11, 0, 0, 2, 0xffff, 0x9b, 0x93},
        [MODE_PROTECTED_32] = {0x80000011, 0, 0, 2, 0xffffffff, 0xc09b, 0xc093},
        [MODE_COMPATIBILITY] = {0x80000011, 0x620, 0xd00, 2, 0xffffffff, 0xc0fb, 0xc0f3},
        [MODE_LONG] = {0x80000011, 0x620, 0xd00, 2, 0xffffffff, 0xa09b, 0xc093},
    };

    memset(&client, 0, sizeof(client));
    set64(WHvX64RegisterCr0, modes[mode].cr0);
    set64(WHvX64RegisterCr4, modes[mode].cr4);
    set64(WHvX64RegisterEfer, modes[mode].efer);
    set64(WHvX64RegisterRflags, modes[mode].rflags);
    for (UINT32 s = WHvX64RegisterEs; s <= WHvX64RegisterGs; s++)
        set_segment(s, 0, modes[mode].limit, 0, modes[mode].data);
    set_segment(WHvX64RegisterCs, 0, modes[mode].limit, 8, modes[mode].code);
    set64(WHvX64RegisterRip, 0x2000);
    set64(WHvX64RegisterRbx, 0x5000);
    set64(WHvX64RegisterRsi, 0x6000);
    set64(WHvX64RegisterRdi, 0x7000);
    set64(WHvX64RegisterRsp, 0x8000);
    set64(WHvX64RegisterRdx, 0x60);
}

/* ---- one call ---- */

struct call {
    WHV_VP_EXIT_CONTEXT vp;
    WHV_MEMORY_ACCESS_CONTEXT memory;
    WHV_X64_IO_PORT_ACCESS_CONTEXT io;
};

static UINT32 emulate(const struct call *call, bool is_io)
{
    WHV_EMULATOR_HANDLE emulator;
    WHV_EMULATOR_STATUS status = {.AsUINT32 = 0xffffffff};

    assert_ok(WHvEmulatorCreateEmulator(&callbacks, &emulator));
    if (is_io)
        assert_ok(WHvEmulatorTryIoEmulation(emulator, CONTEXT, &call->vp, &call->io, &status));
    else
        assert_ok(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, &call->vp, &call->memory, &status));
    assert_ok(WHvEmulatorDestroyEmulator(emulator));
    return status.AsUINT32;
}

static UINT32 mmio(const UINT8 *code, size_t size)
{
    struct call call = {.memory.InstructionByteCount = (UINT8)size};

    memcpy(call.memory.InstructionBytes, code, size);
    return emulate(&call, false);
}

static UINT32 port(const UINT8 *code, size_t size)
{
    struct call call = {.vp.InstructionLength = (UINT8)(size & 15), .io.InstructionByteCount = (UINT8)size};

    memcpy(call.io.InstructionBytes, code, size);
    return emulate(&call, true);
}

/* ---- the table: instruction, callbacks, results ---- */

struct row {
    const char *id, *text;
    UINT8 mode, is_io, length, code[12];
    const char *transcript;
    struct {
        UINT32 name;
        UINT64 value;
    } before[3], after[3]; /* closed by a name of NONE */
};

enum { NONE = 0, ON = 0x40000000, A = ON | WHvX64RegisterRax, C = ON | WHvX64RegisterRcx, B = ON | WHvX64RegisterRbx,
       SI = ON | WHvX64RegisterRsi, DI = ON | WHvX64RegisterRdi, SP = ON | WHvX64RegisterRsp, FL = ON | WHvX64RegisterRflags,
       X0 = ON | WHvX64RegisterXmm0, CR4 = ON | WHvX64RegisterCr4, FP = ON | WHvX64RegisterFpControlStatus };
#define CODE(...) sizeof((const UINT8[]){__VA_ARGS__}), {__VA_ARGS__}

/* clang-format off */
static const struct row rows[] = {
    {"LD4", "mov eax, [rbx]", MODE_LONG, 0, CODE(0x8b, 0x03), "get t5000/11 r105000/4 set ", {{A, ~0ull}}, {{A, 0x04030201}}},
    {"LD1", "mov al, [rbx]", MODE_LONG, 0, CODE(0x8a, 0x03), "get t5000/11 r105000/1 set ", {{A, 0x1122}}, {{A, 0x1101}}},
    {"LD8", "mov rax, [rbx]", MODE_LONG, 0, CODE(0x48, 0x8b, 0x03), "get t5000/11 r105000/8 set ", {{0}}, {{A, 0x0807060504030201}}},
    {"ST4", "mov [rbx], eax", MODE_LONG, 0, CODE(0x89, 0x03), "get t5000/13 w105000/4=11223344 set ", {{A, 0x11223344}}, {{0}}},
    {"ST8", "mov [rbx], rax", MODE_LONG, 0, CODE(0x48, 0x89, 0x03), "get t5000/13 w105000/8=1 set ", {{A, 1}}, {{0}}},
    {"SPL", "mov rax, [rbx], across pages: 2 + 6", MODE_LONG, 0, CODE(0x48, 0x8b, 0x03), "get t5000/11 t6000/11 r105ffe/2 r106000/6 set ", {{B, 0x5ffe}}, {{A, 0x06050403020100ff}}},
    {"SPS", "mov [rbx], rax, across pages: both translated first", MODE_LONG, 0, CODE(0x48, 0x89, 0x03), "get t5000/13 t6000/13 w105ffd/3=665544 w106000/5=8811223377 set ", {{B, 0x5ffd}, {A, 0x8811223377665544}}, {{0}}},
    {"RMW", "add [rbx], eax", MODE_LONG, 0, CODE(0x01, 0x03), "get t5000/13 r105000/4 w105000/4=4030202 set ", {{A, 1}}, {{FL, 2}}},
    {"LCK", "lock add [rbx], eax", MODE_LONG, 0, CODE(0xf0, 0x01, 0x03), "get t5000/13 r105000/4 w105000/4=4030202 set ", {{A, 1}}, {{FL, 2}}},
    {"C16", "cmpxchg16b [rbx]", MODE_LONG, 0, CODE(0x48, 0x0f, 0xc7, 0x0b), "get t5000/13 r105000/8 r105008/8 w105000/8=807060504030201 w105008/8=100f0e0d0c0b0a09 set ", {{0}}, {{A, 0x0807060504030201}}},
    {"CXE", "cmpxchg [rbx], edx: equal", MODE_LONG, 0, CODE(0x0f, 0xb1, 0x13), "get t5000/13 r105000/4 w105000/4=60 set ", {{A, 0x04030201}}, {{FL, 0x46}}},
    {"CXN", "cmpxchg [rbx], edx: not equal, the old value is written", MODE_LONG, 0, CODE(0x0f, 0xb1, 0x13), "get t5000/13 r105000/4 w105000/4=4030201 set ", {{A, 0}}, {{A, 0x04030201}}},
    {"SSE", "movups xmm0, [rbx]: low half first", MODE_LONG, 0, CODE(0x0f, 0x10, 0x03), "get get t5000/11 r105000/8 r105008/8 set ", {{0}}, {{X0, 0x0807060504030201}}},
    {"VEX", "vmovups [rbx], xmm0", MODE_LONG, 0, CODE(0xc5, 0xf8, 0x11, 0x03), "get get t5000/13 w105000/8=5 w105008/8=0 set ", {{CR4, 0x40620}, {X0, 5}}, {{0}}},
    {"F80", "fld tbyte [rbx]", MODE_LONG, 0, CODE(0xdb, 0x2b), "get get t5000/11 r105000/8 r105008/2 set ", {{FP, 0x37f}}, {{0}}},
    {"PSH", "push [rbx]", MODE_LONG, 0, CODE(0xff, 0x33), "get t5000/11 r105000/8 t7000/13 w107ff8/8=807060504030201 set ", {{0}}, {{SP, 0x7ff8}}},
    {"MVS", "rep movsb", MODE_LONG, 0, CODE(0xf3, 0xa4), "get t6000/11 r106000/1 t7000/13 w107000/1=1 r106001/1 w107001/1=2 set ", {{C, 2}}, {{C, 0}, {SI, 0x6002}, {DI, 0x7002}}},
    {"RP0", "rep stosd, nothing to do", MODE_LONG, 0, CODE(0xf3, 0xab), "get set ", {{C, 0}}, {{DI, 0x7000}}},
    {"RP1", "rep stosd", MODE_LONG, 0, CODE(0xf3, 0xab), "get t7000/13 w107000/4=5 set ", {{C, 1}, {A, 5}}, {{DI, 0x7004}, {C, 0}}},
    {"IN1", "in al, dx", MODE_LONG, 1, CODE(0xec), "get i60/1 set ", {{A, 0x1122}}, {{A, 0x1166}}},
    {"IN4", "in eax, 0x20", MODE_LONG, 1, CODE(0xe5, 0x20), "get i20/4 set ", {{A, ~0ull}}, {{A, 0x99887766}}},
    {"OU2", "out dx, ax", MODE_LONG, 1, CODE(0x66, 0xef), "get o60/2=2211 set ", {{A, 0x332211}}, {{0}}},
    {"INS", "rep insb", MODE_LONG, 1, CODE(0xf3, 0x6c), "get t7000/13 i60/1 w107000/1=66 i60/1 w107001/1=66 set ", {{C, 2}}, {{C, 0}, {DI, 0x7002}}},
    {"OUS", "rep outsb", MODE_LONG, 1, CODE(0xf3, 0x6e), "get t6000/11 r106000/1 o60/1=1 r106001/1 o60/1=2 set ", {{C, 2}}, {{C, 0}, {SI, 0x6002}}},
    {"RM", "mov ax, [bx], real mode", MODE_REAL, 0, CODE(0x8b, 0x07), "get t5000/11 r105000/2 set ", {{0}}, {{A, 0x0201}}},
    {"V86", "mov ax, [bx], virtual-8086 mode", MODE_V86, 0, CODE(0x8b, 0x07), "get t5000/11 r105000/2 set ", {{0}}, {{A, 0x0201}}},
    {"P16", "mov ax, [bx], 16-bit protected mode", MODE_PROTECTED_16, 0, CODE(0x8b, 0x07), "get t5000/11 r105000/2 set ", {{0}}, {{A, 0x0201}}},
    {"P32", "mov eax, [ebx], 32-bit protected mode", MODE_PROTECTED_32, 0, CODE(0x8b, 0x03), "get t5000/11 r105000/4 set ", {{0}}, {{A, 0x04030201}}},
    {"IV8", "in al, dx, virtual-8086 mode: permission is the exit's matter", MODE_V86, 1, CODE(0xec), "get i60/1 set ", {{A, 0x1122}}, {{A, 0x1166}}},
    {"CMP", "mov eax, [ebx], compatibility mode", MODE_COMPATIBILITY, 0, CODE(0x8b, 0x03), "get t5000/11 r105000/4 set ", {{0}}, {{A, 0x04030201}}},
};
/* clang-format on */

static UINT32 run_row(const struct row *row)
{
    enter((enum mode)row->mode);
    for (unsigned i = 0; i < 3 && row->before[i].name; i++)
        set64(row->before[i].name & ~(UINT32)ON, row->before[i].value);
    return row->is_io ? port(row->code, row->length) : mmio(row->code, row->length);
}

static void check_u64(const struct row *row, const char *what, UINT64 actual, UINT64 expected)
{
    if (actual == expected)
        return;
    print_error("%s %s: %s is %#llx, not %#llx\n", row->id, row->text, what, (unsigned long long)actual, (unsigned long long)expected);
    fail();
}

/* MM-1: callbacks in their order, their contents, results, RIP moved by the emulator. */
static void the_table(void **state)
{
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct row *row = &rows[i];

        check_u64(row, "status", run_row(row), 1);
        if (strcmp(client.transcript, row->transcript)) {
            print_error("%s %s:\n  is  %s\n  not %s\n", row->id, row->text, client.transcript, row->transcript);
            fail();
        }
        for (unsigned k = 0; k < 3 && row->after[k].name; k++)
            check_u64(row, "a register", get64(row->after[k].name & ~(UINT32)ON), row->after[k].value);
        check_u64(row, "RIP", get64(WHvX64RegisterRip), 0x2000 + row->length);
    }
}

static unsigned writes_noted(void)
{
    unsigned count = 0;

    for (const char *at = client.transcript; (at = strstr(at, " w")); at++)
        count++;
    return count;
}

/* MM-2: each callback fails in turn, at each of its calls. Status says which; registers are as before, but for the
 * completed elements of a repeated string instruction. */
static void each_callback_fails(void **state)
{
    static const struct {
        char which;
        UINT32 status;
    } kinds[] = {{GET, 1 << 6}, {SET, 1 << 7}, {MEMORY, 1 << 3}, {IO, 1 << 2}, {TRANSLATE, 1 << 4}};

    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (unsigned k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
            for (unsigned at = 1;; at++) {
                const struct row *row = &rows[i];
                bool repeats = row->code[0] == 0xf3;

                enter((enum mode)row->mode);
                for (unsigned b = 0; b < 3 && row->before[b].name; b++)
                    set64(row->before[b].name & ~(UINT32)ON, row->before[b].value);
                client.failing = kinds[k].which;
                client.failing_at = at;
                struct client before = client;
                UINT32 status = row->is_io ? port(row->code, row->length) : mmio(row->code, row->length);
                if (client.calls[(int)kinds[k].which] < at)
                    break; /* it is not called that often */
                check_u64(row, "status", status, kinds[k].status);
                check_u64(row, "RIP", get64(WHvX64RegisterRip), 0x2000);
                if (!repeats) {
                    assert_null(strstr(client.transcript, "set"));
                    assert_memory_equal(client.registers, before.registers, before.register_count * sizeof(client.registers[0]));
                } else {
                    UINT64 left = get64(WHvX64RegisterRcx), done = 2 - left;
                    if (row->code[1] == 0xa4) { /* MOVSB: the registers agree on how many elements are done */
                        assert_true(left <= 2);
                        check_u64(row, "RSI", get64(WHvX64RegisterRsi), 0x6000 + done);
                        check_u64(row, "RDI", get64(WHvX64RegisterRdi), 0x7000 + done);
                        if (kinds[k].which != SET)
                            check_u64(row, "elements", done, writes_noted());
                    }
                }
            }
}

/* ---- cases of their own ---- */

#define MMIO(...) mmio((const UINT8[]){__VA_ARGS__}, sizeof((const UINT8[]){__VA_ARGS__}))
#define PORT(...) port((const UINT8[]){__VA_ARGS__}, sizeof((const UINT8[]){__VA_ARGS__}))

static UINT32 without_bytes(UINT8 count)
{
    struct call call = {.memory.InstructionByteCount = count};

    memcpy(call.memory.InstructionBytes, client.code, count);
    return emulate(&call, false);
}

/* FT-1: the instruction straddles 0xfff/0x1000 and the exit has what the first page has: 8 bytes are read at 0x1000. */
static void fetch_of_the_second_page(void **state)
{
    (void)state;
    enter(MODE_LONG);
    set64(WHvX64RegisterRip, 0x1fff);
    client.code_gpa = 0x1fff + SHIFT;
    memcpy(client.code, "\x8b\x03", 2);
    assert_int_equal(without_bytes(1), 1);
    assert_string_equal(client.transcript, "get t2000/4 r102000/8 t5000/11 r105000/4 set ");
    assert_int_equal(get64(WHvX64RegisterRip), 0x2001);
}

/* FT-2: no bytes at all; a long instruction takes two reads. */
static void fetch_of_everything(void **state)
{
    (void)state;
    enter(MODE_LONG);
    client.code_gpa = 0x2000 + SHIFT;
    memcpy(client.code, "\x48\xc7\x83\x10\0\0\0\x44\x33\x22\x11", 11); /* mov qword [rbx + 16], 0x11223344 */
    assert_int_equal(without_bytes(0), 1);
    assert_string_equal(client.transcript, "get t2000/4 r102000/8 r102008/7 t5000/13 w105010/8=11223344 set ");
}

/* FT-3: up to the end of the segment, and #GP beyond. */
static void fetch_beyond_the_segment(void **state)
{
    (void)state;
    enter(MODE_REAL);
    set_segment(WHvX64RegisterCs, 0, 0x2000, 0, 0x9b);
    client.code_gpa = 0x2000 + SHIFT;
    memcpy(client.code, "\x8b\x07", 2);
    assert_int_equal(without_bytes(0), 1);
    assert_string_equal(client.transcript, "get t2000/4 r102000/1 get set ");
    assert_int_equal(get64(WHvRegisterPendingEvent), 1 | 1 << 8 | 13 << 16);
    assert_int_equal(get64(WHvX64RegisterRip), 0x2000);
}

/* TR-1: what the exit knows need not be asked; for another page, or to write after an exit of a read, it is. */
static void translation_of_the_exit(void **state)
{
    struct call call = {.memory = {.InstructionByteCount = 2, .InstructionBytes = {0x89, 0x03}}};

    (void)state;
    enter(MODE_LONG);
    call.memory.AccessInfo.GvaValid = 1;
    call.memory.AccessInfo.AccessType = WHvMemoryAccessWrite;
    call.memory.Gva = 0x5000;
    call.memory.Gpa = 0xfee55000;
    assert_int_equal(emulate(&call, false), 1);
    assert_string_equal(client.transcript, "get wfee55000/4=0 set ");

    enter(MODE_LONG);
    call.memory.Gva = 0x9000;
    assert_int_equal(emulate(&call, false), 1);
    assert_string_equal(client.transcript, "get t5000/13 w105000/4=0 set ");

    enter(MODE_LONG);
    call.memory.Gva = 0x5000;
    call.memory.AccessInfo.AccessType = WHvMemoryAccessRead;
    assert_int_equal(emulate(&call, false), 1);
    assert_string_equal(client.transcript, "get t5000/13 w105000/4=0 set ");
}

/* TR-2: the guest's fault, by result code: page faults with the error code of the access, #GP(0) for tables out of reach. */
static void translation_faults(void **state)
{
    static const struct {
        UINT32 code;
        bool is_write, is_user;
        UINT64 low, address;
    } cases[] = {
        {WHvTranslateGvaResultPageNotPresent, false, false, 1 | 1 << 8 | 14 << 16, 0x5123},
        {WHvTranslateGvaResultPageNotPresent, true, false, 1 | 1 << 8 | 14 << 16 | 2ull << 32, 0x5123},
        {WHvTranslateGvaResultPrivilegeViolation, true, true, 1 | 1 << 8 | 14 << 16 | 7ull << 32, 0x5123},
        {WHvTranslateGvaResultInvalidPageTableFlags, false, false, 1 | 1 << 8 | 14 << 16 | 9ull << 32, 0x5123},
        {WHvTranslateGvaResultGpaUnmapped, false, false, 1 | 1 << 8 | 13 << 16, 0},
        {WHvTranslateGvaResultGpaNoReadAccess, false, false, 1 | 1 << 8 | 13 << 16, 0},
        {WHvTranslateGvaResultGpaNoWriteAccess, false, false, 1 | 1 << 8 | 13 << 16, 0},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        enter(MODE_LONG);
        if (cases[i].is_user)
            set_segment(WHvX64RegisterSs, 0, 0xffffffff, 0x2b, 0xc0f3);
        client.bad_page = 0x5000;
        client.bad_code = cases[i].code;
        set64(WHvX64RegisterRbx, 0x5123);
        assert_int_equal(cases[i].is_write ? MMIO(0x89, 0x03) : MMIO(0x8b, 0x03), 1);
        assert_int_equal(register_at(WHvRegisterPendingEvent)->Reg128.Low64, cases[i].low);
        assert_int_equal(register_at(WHvRegisterPendingEvent)->Reg128.High64, cases[i].address);
        assert_int_equal(get64(WHvX64RegisterRip), 0x2000);
        assert_null(strstr(client.transcript, "r1"));
    }
    enter(MODE_LONG); /* Intercept is nobody's fault */
    client.bad_page = 0x5000;
    client.bad_code = WHvTranslateGvaResultIntercept;
    assert_int_equal(MMIO(0x8b, 0x03), 1 << 4);
}

/* TR-3: of a repeated instruction the completed elements show when the fault is given. */
static void fault_in_a_repetition(void **state)
{
    (void)state;
    enter(MODE_LONG);
    set64(WHvX64RegisterRcx, 4);
    set64(WHvX64RegisterRdi, 0x7ffe);
    client.bad_page = 0x8000;
    client.bad_code = WHvTranslateGvaResultPageNotPresent;
    assert_int_equal(MMIO(0xf3, 0xaa), 1); /* rep stosb */
    assert_string_equal(client.transcript, "get t7000/13 w107ffe/1=0 w107fff/1=0 t8000/13 get set ");
    assert_int_equal(get64(WHvX64RegisterRcx), 2);
    assert_int_equal(get64(WHvX64RegisterRdi), 0x8000);
    assert_int_equal(get64(WHvX64RegisterRip), 0x2000);
    assert_int_equal(register_at(WHvRegisterPendingEvent)->Reg128.High64, 0x8000);
}

/* TR-4: a page that is not one. */
static void misaligned_translation(void **state)
{
    (void)state;
    enter(MODE_LONG);
    client.misaligned_page = 0x5000;
    assert_int_equal(MMIO(0x8b, 0x03), 1 << 5);
    assert_string_equal(client.transcript, "get t5000/11 ");
}

/* TR-5: an event that waits already is not overwritten. */
static void cannot_be_faulted(void **state)
{
    (void)state;
    enter(MODE_LONG);
    set64(WHvRegisterPendingEvent, 1 | 5 << 1 | 0x20 << 8);
    client.bad_page = 0x5000;
    client.bad_code = WHvTranslateGvaResultPageNotPresent;
    assert_int_equal(MMIO(0x8b, 0x03), 1 << 9);
    assert_string_equal(client.transcript, "get t5000/11 get ");
    assert_int_equal(get64(WHvRegisterPendingEvent), 1 | 5 << 1 | 0x20 << 8);
}

/* TR-6: the processor's own structures are translated as privilege 0 would see them: LLDT at CPL 0, the I/O bitmap at CPL 3. */
static void system_structures(void **state)
{
    (void)state;
    enter(MODE_PROTECTED_32);
    set_segment(WHvX64RegisterCs, 0, 0xffffffff, 0x1b, 0xc0fb);
    set_segment(WHvX64RegisterSs, 0, 0xffffffff, 0x23, 0xc0f3);
    set_segment(WHvX64RegisterTr, 0x9000, 0x2067, 0x28, 0x8b);
    set64(WHvX64RegisterRdx, 0x3f8);
    (void)MMIO(0x6c); /* insb of a memory exit: the permission is still to be looked up */
    assert_non_null(strstr(client.transcript, "get get t9000/19 r109066/2 "));
}

/* FA-1: an event's delivery has no instruction. */
static void interrupt_caused_intercept(void **state)
{
    struct call call = {.memory = {.InstructionByteCount = 2, .InstructionBytes = {0x8b, 0x03}}};

    (void)state;
    enter(MODE_LONG);
    call.vp.ExecutionState.InterruptionPending = 1;
    assert_int_equal(emulate(&call, false), 1 << 8);
    assert_string_equal(client.transcript, "");
}

/* FA-2: given up: nothing was called but for the registers, and the text names the instruction. */
static void given_up(void **state)
{
    static const struct {
        UINT8 length, code[8];
        const char *text;
    } cases[] = {
        {1, {0x90}, "nop"}, {1, {0xf4}, "hlt"}, {2, {0x0f, 0x30}, "wrmsr"}, {3, {0x0f, 0x22, 0xd8}, "mov cr3, rax"},
        {2, {0x0f, 0x05}, "syscall"}, {3, {0x48, 0x8d, 0x03}, "lea rax"}, {3, {0x0f, 0x01, 0x3b}, "invlpg"},
        {2, {0x0f, 0x0b}, "ud2"}, {4, {0xc5, 0xfc, 0x10, 0x03}, "vmovups ymm0"}, {4, {0xc5, 0xfd, 0x7f, 0x03}, "vmovdqa [rbx], ymm0"},
        {4, {0xc5, 0xf8, 0x10, 0x03}, "vmovups xmm0"}, {5, {0x66, 0x0f, 0x38, 0x82, 0x03}, "invpcid"}, {2, {0x06, 0x90}, "cannot be decoded"},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        enter(MODE_LONG);
        OwhpSetLastErrorText("before");
        UINT32 status = mmio(cases[i].code, cases[i].length);
        if (status != 1 << 1)
            print_error("%s: status %#x, %s\n", cases[i].text, status, client.transcript);
        assert_int_equal(status, 1 << 1);
        assert_string_equal(client.transcript, "get ");
        if (!strstr(OwhpGetLastErrorText(), cases[i].text))
            print_error("\"%s\" does not speak of %s\n", OwhpGetLastErrorText(), cases[i].text);
        assert_non_null(strstr(OwhpGetLastErrorText(), cases[i].text));
        assert_non_null(strstr(OwhpGetLastErrorText(), "WHvEmulatorTryMmioEmulation: "));
    }
}

/* FA-3: a port exit is of a port instruction. */
static void not_a_port_instruction(void **state)
{
    (void)state;
    enter(MODE_LONG);
    assert_int_equal(PORT(0x8b, 0x03), 1 << 1);
    assert_string_equal(client.transcript, "get ");
}

/* FA-4: permission was checked before the exit: no look at IOPL or the bitmap. */
static void port_permission(void **state)
{
    (void)state;
    enter(MODE_LONG);
    set_segment(WHvX64RegisterSs, 0, 0xffffffff, 0x2b, 0xc0f3);
    assert_int_equal(PORT(0xec), 1);
    assert_string_equal(client.transcript, "get i60/1 set ");
    assert_int_equal(get64(WHvX64RegisterRflags), 2);
}

/* SG-1: segments and tables that an instruction loads from memory go back with the rest. */
static void segments_and_tables(void **state)
{
    (void)state;
    enter(MODE_REAL);
    assert_int_equal(MMIO(0x8e, 0x1f), 1); /* mov ds, [bx] */
    assert_int_equal(register_at(WHvX64RegisterDs)->Segment.Selector, 0x0201);
    assert_int_equal(register_at(WHvX64RegisterDs)->Segment.Base, 0x2010);

    enter(MODE_REAL);
    assert_int_equal(MMIO(0x8e, 0x17), 1); /* mov ss, [bx]: an interrupt shadow */
    assert_int_equal(get64(WHvRegisterInterruptState), 1);

    enter(MODE_PROTECTED_32);
    assert_int_equal(MMIO(0x0f, 0x01, 0x13), 1); /* lgdt [ebx] */
    assert_int_equal(register_at(WHvX64RegisterGdtr)->Table.Limit, 0x0201);
    assert_int_equal(register_at(WHvX64RegisterGdtr)->Table.Base, 0x06050403);

    enter(MODE_REAL);
    assert_int_equal(MMIO(0xff, 0x2f), 1); /* jmp far [bx] */
    assert_int_equal(get64(WHvX64RegisterRip), 0x0201);
    assert_int_equal(register_at(WHvX64RegisterCs)->Segment.Base, 0x4030);
}

/* SG-2: what touches memory by its descriptors alone: a far jump and a segment load through a table in a ROM, which the
 * processor wants to mark as accessed. */
static void descriptors(void **state)
{
    static const UINT8 jump[] = {0xea, 0, 0x30, 0, 0, 8, 0}, load[] = {0x8e, 0xd8}; /* jmp 8:0x3000; mov ds, eax */

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        enter(MODE_PROTECTED_32);
        register_at(WHvX64RegisterGdtr)->Table.Base = 0x9000;
        register_at(WHvX64RegisterGdtr)->Table.Limit = 0xff;
        set64(WHvX64RegisterRax, 8);
        client.code_gpa = 0x9008 + SHIFT;
        memcpy(client.code, i ? "\xff\xff\0\0\0\x92\xcf" : "\xff\xff\0\0\0\x9a\xcf", 8);
        assert_int_equal(i ? mmio(load, sizeof(load)) : mmio(jump, sizeof(jump)), 1);
        assert_non_null(strstr(client.transcript, "r109008/8 "));
        assert_non_null(strstr(client.transcript, i ? "w10900c/4=cf9300 " : "w10900c/4=cf9b00 "));
        assert_int_equal(register_at(i ? WHvX64RegisterDs : WHvX64RegisterCs)->Segment.Selector, 8);
        assert_int_equal(register_at(i ? WHvX64RegisterDs : WHvX64RegisterCs)->Segment.Attributes, i ? 0xc093 : 0xc09b);
        assert_int_equal(get64(WHvX64RegisterRip), i ? 0x2002 : 0x3000);
    }
}

/* SG-3: a task switch to a task that cannot go on: what is loaded is the new task, and the fault is its. */
static void fault_of_a_new_task(void **state)
{
    (void)state;
    enter(MODE_PROTECTED_16);
    register_at(WHvX64RegisterGdtr)->Table.Base = 0x9000;
    register_at(WHvX64RegisterGdtr)->Table.Limit = 0xff;
    set_segment(WHvX64RegisterTr, 0xa000, 0x67, 0x20, 0x8b);
    client.code_gpa = 0x9008 + SHIFT;
    memcpy(client.code, "\x67\0\x06\x40\0\x89\0\0", 8); /* a TSS at 4006: a byte is its address plus 1 */
    assert_int_equal(MMIO(0xea, 0, 0, 8, 0), 1);           /* jmp 8:0 */
    assert_int_equal(get64(WHvX64RegisterRip), 0x2a292827);
    assert_int_equal(get64(WHvX64RegisterRax), 0x3231302f);
    assert_int_equal(register_at(WHvX64RegisterTr)->Segment.Selector, 8);
    assert_int_equal(register_at(WHvX64RegisterSs)->Segment.Attributes >> 5 & 3, 3); /* CPL: of CS, 5453 */
    assert_int_equal(get64(WHvRegisterPendingEvent), 1 | 1 << 8 | 10 << 16 | 0x6864ull << 32); /* #TS: the LDT's selector */
}

/* ST-1: RFLAGS.TF: the trap becomes pending in the same call, behind the instruction or behind one element of a repeated one;
 * what has loaded SS holds it back. Nothing of that without TF, or when the instruction did not happen. */
static void single_step(void **state)
{
    (void)state;
    enter(MODE_LONG);
    set64(WHvX64RegisterRflags, 0x102);
    assert_int_equal(MMIO(0x8b, 0x03), 1);
    assert_string_equal(client.transcript, "get t5000/11 r105000/4 set ");
    assert_int_equal(get64(WHvX64RegisterPendingDebugException), 0x10);
    assert_int_equal(get64(WHvX64RegisterRip), 0x2002);

    enter(MODE_LONG);
    set64(WHvX64RegisterRflags, 0x102);
    set64(WHvX64RegisterRcx, 2);
    assert_int_equal(MMIO(0xf3, 0xaa), 1); /* rep stosb */
    assert_int_equal(get64(WHvX64RegisterRcx), 1);
    assert_int_equal(get64(WHvX64RegisterRip), 0x2000);
    assert_int_equal(get64(WHvX64RegisterPendingDebugException), 0x10);

    enter(MODE_LONG);
    set64(WHvX64RegisterRflags, 0x102);
    assert_int_equal(PORT(0xec), 1);
    assert_int_equal(get64(WHvX64RegisterPendingDebugException), 0x10);

    enter(MODE_REAL);
    set64(WHvX64RegisterRflags, 0x102);
    assert_int_equal(MMIO(0x8e, 0x17), 1); /* mov ss, [bx] */
    assert_int_equal(get64(WHvX64RegisterPendingDebugException), 0);
    assert_int_equal(get64(WHvRegisterInterruptState), 1);

    enter(MODE_LONG);
    set64(WHvX64RegisterRflags, 0x102);
    client.bad_page = 0x5000;
    client.bad_code = WHvTranslateGvaResultPageNotPresent;
    assert_int_equal(MMIO(0x8b, 0x03), 1);
    assert_int_equal(get64(WHvX64RegisterPendingDebugException), 0);
}

/* ST-2: RFLAGS.RF is for the beginning of one instruction: cleared when that is complete, kept when it faults. */
static void resume_flag(void **state)
{
    (void)state;
    enter(MODE_LONG);
    set64(WHvX64RegisterRflags, 0x10002);
    assert_int_equal(MMIO(0x8b, 0x03), 1);
    assert_int_equal(get64(WHvX64RegisterRflags), 2);

    enter(MODE_LONG);
    set64(WHvX64RegisterRflags, 0x10002);
    client.bad_page = 0x5000;
    client.bad_code = WHvTranslateGvaResultPageNotPresent;
    assert_int_equal(MMIO(0x8b, 0x03), 1);
    assert_int_equal(get64(WHvX64RegisterRflags), 0x10002);
}

/* ST-3: an interrupt shadow ends with the instruction that stands in it; whether NMIs are masked stays. */
static void shadow_ends(void **state)
{
    struct call call = {.vp.ExecutionState.InterruptShadow = 1, .memory = {.InstructionByteCount = 2, .InstructionBytes = {0x8b, 0x03}}};

    (void)state;
    for (UINT64 masked = 0; masked < 4; masked += 2) {
        enter(MODE_LONG);
        set64(WHvRegisterInterruptState, 1 | masked);
        assert_int_equal(emulate(&call, false), 1);
        assert_string_equal(client.transcript, "get get t5000/11 r105000/4 set ");
        assert_int_equal(get64(WHvRegisterInterruptState), masked);
    }
    enter(MODE_LONG); /* one that fails leaves it */
    set64(WHvRegisterInterruptState, 1);
    client.failing = MEMORY;
    client.failing_at = 1;
    assert_int_equal(emulate(&call, false), 1 << 3);
    assert_int_equal(get64(WHvRegisterInterruptState), 1);
}

/* AR-1: arguments. */
static void arguments(void **state)
{
    WHV_EMULATOR_HANDLE emulator, other;
    WHV_EMULATOR_STATUS status;
    WHV_EMULATOR_CALLBACKS bad = callbacks;
    struct call call = {.vp.InstructionLength = 1, .memory = {.InstructionByteCount = 17}, .io = {.InstructionByteCount = 17}};

    (void)state;
    enter(MODE_LONG);
    assert_refused(WHvEmulatorCreateEmulator(NULL, &emulator), E_INVALIDARG);
    assert_refused(WHvEmulatorCreateEmulator(&callbacks, NULL), E_INVALIDARG);
    assert_refused(WHvEmulatorCreateEmulator(WILD, &emulator), E_INVALIDARG);
    assert_refused(WHvEmulatorCreateEmulator(&callbacks, WILD), E_INVALIDARG);
    bad.Size++;
    assert_refused(WHvEmulatorCreateEmulator(&bad, &emulator), E_INVALIDARG);
    bad = callbacks;
    bad.Reserved = 1;
    assert_refused(WHvEmulatorCreateEmulator(&bad, &emulator), E_INVALIDARG);
    bad = callbacks;
    bad.WHvEmulatorMemoryCallback = NULL;
    assert_refused(WHvEmulatorCreateEmulator(&bad, &emulator), E_INVALIDARG);

    assert_ok(WHvEmulatorCreateEmulator(&callbacks, &emulator));
    assert_ok(WHvEmulatorCreateEmulator(&callbacks, &other));
    assert_refused(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, NULL, &call.memory, &status), E_INVALIDARG);
    assert_refused(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, &call.vp, NULL, &status), E_INVALIDARG);
    assert_refused(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, &call.vp, &call.memory, NULL), E_INVALIDARG);
    assert_refused(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, WILD, &call.memory, &status), E_INVALIDARG);
    assert_refused(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, &call.vp, &call.memory, &status), E_INVALIDARG);
    assert_refused(WHvEmulatorTryIoEmulation(emulator, CONTEXT, &call.vp, &call.io, &status), E_INVALIDARG);
    call.io.InstructionByteCount = 1;
    call.vp.InstructionLength = 0;
    assert_refused(WHvEmulatorTryIoEmulation(emulator, CONTEXT, &call.vp, &call.io, &status), E_INVALIDARG);
    assert_refused(WHvEmulatorTryMmioEmulation(NULL, CONTEXT, &call.vp, &call.memory, &status), E_INVALIDARG);
    assert_refused(WHvEmulatorTryMmioEmulation(WILD, CONTEXT, &call.vp, &call.memory, &status), E_INVALIDARG);
    assert_ok(WHvEmulatorDestroyEmulator(emulator));
    assert_refused(WHvEmulatorDestroyEmulator(emulator), E_INVALIDARG);
    assert_refused(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, &call.vp, &call.memory, &status), E_INVALIDARG);
    assert_refused(WHvEmulatorDestroyEmulator(NULL), E_INVALIDARG);
    assert_ok(WHvEmulatorDestroyEmulator(other));
    assert_string_equal(client.transcript, "");
}

/* AR-2: the table of callbacks is copied. */
static void table_is_copied(void **state)
{
    WHV_EMULATOR_CALLBACKS table = callbacks;
    struct call call = {.memory = {.InstructionByteCount = 2, .InstructionBytes = {0x8b, 0x03}}};
    WHV_EMULATOR_HANDLE emulator;
    WHV_EMULATOR_STATUS status;

    (void)state;
    enter(MODE_LONG);
    assert_ok(WHvEmulatorCreateEmulator(&table, &emulator));
    memset(&table, 0, sizeof(table));
    assert_ok(WHvEmulatorTryMmioEmulation(emulator, CONTEXT, &call.vp, &call.memory, &status));
    assert_int_equal(status.AsUINT32, 1);
    assert_ok(WHvEmulatorDestroyEmulator(emulator));
}

/* AR-3: contexts of zeros are arguments like others: code is fetched, and found to be what it is. */
static void contexts_of_zeros(void **state)
{
    const struct call call = {.vp.Rip = 0};

    (void)state;
    enter(MODE_LONG);
    client.code_gpa = 0x2000 + SHIFT;
    memset(client.code, 0x06, sizeof(client.code)); /* nothing in 64-bit mode */
    assert_int_equal(emulate(&call, false), 1 << 1);
    assert_string_equal(client.transcript, "get t2000/4 r102000/8 ");
}

/* AR-4: one call at a time. */
static WHV_EMULATOR_HANDLE busy_emulator;
static unsigned busy_calls;

static HRESULT CALLBACK on_busy_memory(VOID *context, WHV_EMULATOR_MEMORY_ACCESS_INFO *access)
{
    const struct call call = {.memory = {.InstructionByteCount = 2, .InstructionBytes = {0x8b, 0x03}}};
    WHV_EMULATOR_STATUS status = {.AsUINT32 = 77};

    assert_refused(WHvEmulatorTryMmioEmulation(busy_emulator, context, &call.vp, &call.memory, &status), E_INVALIDARG);
    assert_int_equal(status.AsUINT32, 77);
    assert_refused(WHvEmulatorDestroyEmulator(busy_emulator), E_INVALIDARG);
    busy_calls++;
    return on_memory(context, access);
}

static void one_call_at_a_time(void **state)
{
    const struct call call = {.memory = {.InstructionByteCount = 2, .InstructionBytes = {0x8b, 0x03}}};
    WHV_EMULATOR_CALLBACKS table = callbacks;
    WHV_EMULATOR_STATUS status;

    (void)state;
    enter(MODE_LONG);
    table.WHvEmulatorMemoryCallback = on_busy_memory;
    assert_ok(WHvEmulatorCreateEmulator(&table, &busy_emulator));
    assert_ok(WHvEmulatorTryMmioEmulation(busy_emulator, CONTEXT, &call.vp, &call.memory, &status));
    assert_int_equal(status.AsUINT32, 1);
    assert_int_equal(busy_calls, 1);
    assert_ok(WHvEmulatorDestroyEmulator(busy_emulator));
}

/* SG-4: a linear address wraps at 4 GiB outside of 64-bit mode, in a string instruction too. */
static void segment_base_wraps(void **state)
{
    (void)state;
    enter(MODE_PROTECTED_32);
    set_segment(WHvX64RegisterEs, 0xfffa0000, 0xffffffff, 16, 0xc093);
    set64(WHvX64RegisterRdi, 0x100000);
    set64(WHvX64RegisterRcx, 2);
    assert_int_equal(MMIO(0xf3, 0xa4), 1); /* rep movsb to 0xa0000 */
    assert_string_equal(client.transcript, "get t6000/11 r106000/1 ta0000/13 w1a0000/1=1 r106001/1 w1a0001/1=2 set ");
}

int before(void **state)
{
    (void)state;
    return 0;
}

int after(void **state)
{
    (void)state;
    return 0;
}

/* Both libraries catch faults on the caller's memory; cmocka puts its own handlers in their place before each case. */
static struct sigaction guard[2];

static void install_handlers(void)
{
    WHV_EMULATOR_HANDLE emulator;
    char reason;

    (void)OwhpQueryEngine(OwhpEngineSoft, &reason, 1);
    (void)WHvEmulatorCreateEmulator(WILD, &emulator);
    sigaction(SIGSEGV, NULL, &guard[0]);
    sigaction(SIGBUS, NULL, &guard[1]);
}

static void run_guarded(void **state)
{
    void (*function)(void **) = (void (*)(void **))*state;

    sigaction(SIGSEGV, &guard[0], NULL);
    sigaction(SIGBUS, &guard[1], NULL);
    function(state);
}

#undef CASE
#define CASE(id, fact, function)                                                                   \
    {                                                                                              \
        id " [" fact "] " #function, run_guarded, before, after, (void *)(function)                \
    }

int main(void)
{
    install_handlers();
    const struct CMUnitTest tests[] = {
        CASE("MM-1", "F 8.3", the_table),
        CASE("MM-2", "F 8.2", each_callback_fails),
        CASE("FT-1", "F 8.3", fetch_of_the_second_page),
        CASE("FT-2", "F 8.3", fetch_of_everything),
        CASE("FT-3", "F 8.3", fetch_beyond_the_segment),
        CASE("TR-1", "F 8.3", translation_of_the_exit),
        CASE("TR-2", "F 8.3", translation_faults),
        CASE("TR-3", "F 8.3", fault_in_a_repetition),
        CASE("TR-4", "F 8.3", misaligned_translation),
        CASE("TR-5", "F 8.4", cannot_be_faulted),
        CASE("TR-6", "F 8.3", system_structures),
        CASE("FA-1", "F 8.4", interrupt_caused_intercept),
        CASE("FA-2", "F 8.4", given_up),
        CASE("FA-3", "F 8.4", not_a_port_instruction),
        CASE("FA-4", "F 8.3", port_permission),
        CASE("SG-1", "F 8.3", segments_and_tables),
        CASE("SG-2", "F 8.3", descriptors),
        CASE("SG-3", "F 8.3", fault_of_a_new_task),
        CASE("SG-4", "F 8.4", segment_base_wraps),
        CASE("ST-1", "F 8.1", single_step),
        CASE("ST-2", "F 8.1", resume_flag),
        CASE("ST-3", "F 8.4", shadow_ends),
        CASE("AR-1", "F 8.2", arguments),
        CASE("AR-2", "F 8.1", table_is_copied),
        CASE("AR-3", "F 8.2", contexts_of_zeros),
        CASE("AR-4", "F 8.5", one_call_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
