/*
 * WHvEmulatorTryMmioEmulation and WHvEmulatorTryIoEmulation by their callbacks: which ones come, in which order, with what
 * in them, and what the status says.
 */
#include "scripted_client.h"

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

enum { NONE = 0, ON = 0x20000000, A = ON | WHvX64RegisterRax, C = ON | WHvX64RegisterRcx, B = ON | WHvX64RegisterRbx,
       SI = ON | WHvX64RegisterRsi, DI = ON | WHvX64RegisterRdi, SP = ON | WHvX64RegisterRsp, FL = ON | WHvX64RegisterRflags,
       X0 = ON | WHvX64RegisterXmm0, X7 = ON | WHvX64RegisterXmm7, Y0 = ON | OwhpX64RegisterYmmHigh(0), Y1 = ON | OwhpX64RegisterYmmHigh(1),
       Y7 = ON | OwhpX64RegisterYmmHigh(7), XCR0 = ON | WHvX64RegisterXCr0, CR4 = ON | WHvX64RegisterCr4, FP = ON | WHvX64RegisterFpControlStatus };
#define CODE(...) sizeof((const UINT8[]){__VA_ARGS__}), {__VA_ARGS__}

/* clang-format off */
static const struct row rows[] = {
    {"LD4", "mov eax, [rbx]", MODE_LONG, 0, CODE(0x8b, 0x03), "get t5000/11 r105000/4 set ", {{A, ~0ull}}, {{A, 0x04030201}}},
    {"LD1", "mov al, [rbx]", MODE_LONG, 0, CODE(0x8a, 0x03), "get t5000/11 r105000/1 set ", {{A, 0x1122}}, {{A, 0x1101}}},
    {"LD8", "mov rax, [rbx]", MODE_LONG, 0, CODE(0x48, 0x8b, 0x03), "get t5000/11 r105000/8 set ", {{0}}, {{A, 0x0807060504030201}}},
    {"CLF", "clflush [rbx]: checked like a load, which it is not", MODE_LONG, 0, CODE(0x0f, 0xae, 0x3b), "get t5000/11 set ", {{A, 5}}, {{A, 5}}},
    {"PRF", "prefetcht0 [rbx]: a hint", MODE_LONG, 0, CODE(0x0f, 0x18, 0x0b), NULL, {{A, 5}}, {{A, 5}}},
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
    {"VXL", "vmovups xmm0, [rbx]: the upper half is cleared", MODE_LONG, 0, CODE(0xc5, 0xf8, 0x10, 0x03), "get get get t5000/11 r105000/8 r105008/8 set ", {{CR4, 0x40620}, {Y0, 9}, {Y7, 5}}, {{X0, 0x0807060504030201}, {Y0, 0}, {Y7, 5}}},
    {"VYL", "vmovups ymm0, [rbx]", MODE_LONG, 0, CODE(0xc5, 0xfc, 0x10, 0x03), "get get get t5000/11 r105000/8 r105008/8 r105010/8 r105018/8 set ", {{CR4, 0x40620}}, {{X0, 0x0807060504030201}, {Y0, 0x1817161514131211}}},
    {"VYS", "vmovdqa [rbx], ymm0", MODE_LONG, 0, CODE(0xc5, 0xfd, 0x7f, 0x03), "get get get t5000/13 w105000/8=5 w105008/8=0 w105010/8=6 w105018/8=0 set ", {{CR4, 0x40620}, {X0, 5}, {Y0, 6}}, {{Y0, 6}}},
    {"VMS", "vpmaskmovq [rbx], ymm0, ymm1: the third and fourth", MODE_LONG, 0, CODE(0xc4, 0xe2, 0xfd, 0x8e, 0x0b), "get get get t5000/13 w105010/8=7 set ", {{CR4, 0x40620}, {Y0, 1ull << 63}, {Y1, 7}}, {{Y1, 7}}},
    {"VGA", "vpgatherqq ymm0, [rbx + ymm7], ymm1: the third", MODE_LONG, 0, CODE(0xc4, 0xe2, 0xf5, 0x91, 0x04, 0x3b), "get get get t5000/11 r105020/8 set ", {{CR4, 0x40620}, {Y7, 0x20}, {Y1, 1ull << 63}}, {{Y0, 0x2827262524232221}, {Y1, 0}, {Y7, 0x20}}},
    {"XSV", "xsave [rbx] of AVX", MODE_LONG, 0, CODE(0x0f, 0xae, 0x23), NULL, {{CR4, 0x40620}, {XCR0, 7}, {A, 4}}, {{A, 4}}},
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
        if (row->transcript && strcmp(client.transcript, row->transcript)) {
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
        {2, {0x0f, 0x0b}, "ud2"}, {3, {0xc5, 0xf8, 0x77}, "vzeroupper"}, {5, {0x66, 0x0f, 0x38, 0x82, 0x03}, "invpcid"}, {2, {0x06, 0x90}, "cannot be decoded"},
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

/* FA-5: a client that knows the API's registers only is told which instruction needs more, and which name. */
static void no_upper_halves(void **state)
{
    static const UINT8 loads[] = {0xc5, 0xfc, 0x10, 0x03}, stores[] = {0xc5, 0xf8, 0x11, 0x03}, saves[] = {0x0f, 0xae, 0x23};

    (void)state;
    enter(MODE_LONG);
    client.knows_extensions = false;
    set64(WHvX64RegisterCr4, 0x40620);
    assert_int_equal(mmio(loads, sizeof(loads)), 1 << 6);
    assert_string_equal(client.transcript, "get get ");
    assert_non_null(strstr(OwhpGetLastErrorText(), "vmovups ymm0, [rbx] (c5 fc 10 03)"));
    assert_non_null(strstr(OwhpGetLastErrorText(), "OwhpX64RegisterYmmHigh"));
    /* What does not touch them is done. */
    assert_int_equal(mmio(stores, sizeof(stores)), 1);
    set64(WHvX64RegisterRip, 0x2000);
    set64(WHvX64RegisterXCr0, 7);
    set64(WHvX64RegisterRax, 3);
    assert_int_equal(mmio(saves, sizeof(saves)), 1);
    set64(WHvX64RegisterRip, 0x2000);
    set64(WHvX64RegisterRax, 7);
    assert_int_equal(mmio(saves, sizeof(saves)), 1 << 6);
    assert_int_equal(get64(WHvX64RegisterRip), 0x2000);
}

/* FA-6: extended state that nobody has a name for. */
static void unknown_state(void **state)
{
    (void)state;
    enter(MODE_LONG);
    set64(WHvX64RegisterCr4, 0x40620);
    set64(WHvX64RegisterXCr0, 0xe7); /* AVX-512 */
    set64(WHvX64RegisterRax, 0xff);
    assert_int_equal(MMIO(0x0f, 0xae, 0x23), 1 << 1); /* xsave [rbx] */
    assert_string_equal(client.transcript, "get get get ");
    assert_non_null(strstr(OwhpGetLastErrorText(), "xsave"));
    enter(MODE_LONG);
    set64(WHvX64RegisterCr4, 0x40620);
    set64(WHvX64RegisterXCr0, 3);
    set64(WHvX64RegisterXss, 0x800); /* a shadow stack's */
    set64(WHvX64RegisterRax, 0x800);
    assert_int_equal(MMIO(0x0f, 0xc7, 0x2b), 1 << 1); /* xsaves [rbx] */
    assert_non_null(strstr(OwhpGetLastErrorText(), "xsaves"));
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
        CASE("FA-5", "as documented in openwhp.h", no_upper_halves),
        CASE("FA-6", "as documented", unknown_state),
        CASE("FA-4", "F 8.3", port_permission),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
