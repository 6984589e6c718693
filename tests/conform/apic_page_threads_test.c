/*
 * WHvReadGpaRange and WHvWriteGpaRange at the register page of a processor's emulated local APIC: what the processor's own loads
 * and stores would find and do there, memory or none behind it, while it runs too.
 */
#include "guest.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#define R(name) WHvX64Register##name
#define CODE_BYTES(...) (const UINT8[]){__VA_ARGS__}, sizeof((const UINT8[]){__VA_ARGS__})

enum {
    PAGE = 4096,
    APIC = 0x100000, /* where the tests put the page: into RAM */
    MARK = 0x77,
    HANDLED = 0x99,
    ENABLED = 0x800,
    X2APIC = 0x400,
};
/* Registers, SDM 3A table 11-1. */
enum { ID = 0x20, VERSION = 0x30, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, SVR = 0xf0, ISR = 0x100, IRR = 0x200, ESR = 0x280,
       ICR = 0x300, ICR_HIGH = 0x310, LVT_TIMER = 0x320, INITIAL = 0x380, CURRENT = 0x390, DIVIDE = 0x3e0 };

static const WHV_ACCESS_GPA_CONTROLS controls = {.AsUINT64 = WHvCacheTypeWriteBack};

static HRESULT read_gpa(struct guest *g, UINT32 vp, UINT64 gpa, void *data, UINT32 size)
{
    return WHvReadGpaRange(g->partition, vp, gpa, controls, data, size);
}

static HRESULT write_gpa(struct guest *g, UINT32 vp, UINT64 gpa, const void *data, UINT32 size)
{
    return WHvWriteGpaRange(g->partition, vp, gpa, controls, data, size);
}

static UINT32 read_register(struct guest *g, UINT32 vp, UINT32 offset)
{
    UINT32 value = 0xdeadbeef;

    assert_ok(read_gpa(g, vp, APIC + offset, &value, 4));
    return value;
}

static void write_register(struct guest *g, UINT32 vp, UINT32 offset, UINT32 value)
{
    assert_ok(write_gpa(g, vp, APIC + offset, &value, 4));
}

static UINT32 bit_of(struct guest *g, UINT32 vp, UINT32 first, UINT32 vector)
{
    return read_register(g, vp, first + vector / 32 * 16) >> vector % 32 & 1;
}

static void set(struct guest *g, UINT32 vp, WHV_REGISTER_NAME name, UINT64 number)
{
    const WHV_REGISTER_VALUE value = {.Reg64 = number};

    assert_ok(WHvSetVirtualProcessorRegisters(g->partition, vp, &name, 1, &value));
}

/* 64-bit mode, two processors may be; the page of processor 0 in RAM, its APIC enabled. Handlers say OUT HANDLED. */
static void begin(struct guest *g, UINT64 extended_exits)
{
    static const UINT8 handler[] = {0xe6, HANDLED};

    guest_begin(g, &(struct guest_options){
                       .apic_mode = WHvX64LocalApicEmulationModeXApic, .processors = 2, .extended_exits = extended_exits});
    guest_long_mode(g, 0);
    for (unsigned i = 0; i < 256; i++)
        guest_load(g, HANDLERS + 16 * i, handler, sizeof(handler));
    memset(g->ram + APIC - PAGE, 0xee, 3 * PAGE);
    set(g, 0, R(ApicBase), APIC | ENABLED | 0x100);
    set(g, 0, R(ApicSpurious), 0x1ff);
}

static void assert_memory_behind(const struct guest *g)
{
    for (unsigned i = 0; i < PAGE; i++)
        if (g->ram[APIC + i] != 0xee)
            fail_msg("memory behind the page was written at %#x", i);
}

/* ---- reads ---- */

static void load_as_guest(struct guest *g, UINT64 gpa, UINT32 size, UINT8 out[16])
{
    static const struct {
        UINT32 size;
        UINT8 code[6], length;
    } loads[] = {
        {1, {0x8a, 0x06, 0xe6, MARK}, 4},                 /* mov al, [rsi]; out */
        {2, {0x66, 0x8b, 0x06, 0xe6, MARK}, 5},           /* mov ax, [rsi] */
        {4, {0x8b, 0x06, 0xe6, MARK}, 4},                 /* mov eax, [rsi] */
        {8, {0x48, 0x8b, 0x06, 0xe6, MARK}, 5},           /* mov rax, [rsi] */
        {16, {0xf3, 0x0f, 0x6f, 0x06, 0xe6, MARK}, 6},    /* movdqu xmm0, [rsi] */
    };
    WHV_REGISTER_VALUE value;

    UINT64 out_at = 0;

    for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++)
        if (loads[i].size == size) {
            guest_load(g, CODE, loads[i].code, loads[i].length);
            out_at = CODE + loads[i].length - 2u;
        }
    guest_set(g, R(Rip), CODE);
    guest_set(g, R(Rsi), gpa);
    guest_set(g, R(Rax), 0);
    run_to(g, WHvRunVpExitReasonX64IoPortAccess);
    assert_field(g, VpContext.Rip, out_at);
    value = guest_get_value(g, size == 16 ? R(Xmm0) : R(Rax));
    memcpy(out, &value, 16);
}

/* One offset: of all sizes that stay within a register's 16 bytes. */
static void compare_loads(struct guest *g, UINT32 offset)
{
    for (UINT32 size = 1; offset % 16 + size <= 16; size *= 2) {
        UINT8 loaded[16], read[16];

        load_as_guest(g, APIC + offset, size, loaded);
        memset(read, 0xcc, sizeof(read));
        assert_ok(read_gpa(g, 0, APIC + offset, read, size));
        if (memcmp(read, loaded, size))
            fail_msg("%u bytes at %#x: the processor loads %02x %02x.., the call reads %02x %02x..", size, offset, loaded[0],
                     loaded[1], read[0], read[1]);
        for (UINT32 i = size; i < sizeof(read); i++)
            assert_int_equal(read[i], 0xcc);
    }
}

static void reads_as_the_processor(void **state)
{
    const unsigned step = test_rounds(16) == 16 ? 1 : 3;
    UINT8 page[PAGE], expected[PAGE] = {0}, image[PAGE];
    struct guest g;
    UINT32 version;

    (void)state;
    begin(&g, 0);
    guest_set(&g, R(Cr4), guest_get(&g, R(Cr4)) | 0x200); /* for SSE */
    write_register(&g, 0, TPR, 0x23);
    write_register(&g, 0, LVT_TIMER, 0x10077);
    write_register(&g, 0, ICR_HIGH, 0x55000000);
    assert_int_equal(read_register(&g, 0, ID), 0);
    assert_int_equal(read_register(&g, 0, VERSION) & 0xff, 0x14);
    assert_int_equal(read_register(&g, 0, TPR), 0x23);
    assert_int_equal(read_register(&g, 0, PPR), 0x23);
    assert_int_equal(read_register(&g, 0, SVR), 0x1ff);
    assert_int_equal(read_register(&g, 0, LVT_TIMER), 0x10077);
    assert_int_equal(read_register(&g, 0, ICR_HIGH), 0x55000000);
    for (UINT32 offset = 0; offset < 0x410; offset += step)
        compare_loads(&g, offset);
    compare_loads(&g, 0xff0);

    /* All at once: register by register. What its state has that a load does not: registers that cannot be read. */
    assert_ok(WHvGetVirtualProcessorInterruptControllerState2(g.partition, 0, image, PAGE, NULL));
    assert_ok(read_gpa(&g, 0, APIC, page, PAGE));
    for (UINT32 at = 0; at < 0x400; at += 16)
        memcpy(expected + at, image + at, 4);
    memset(expected + EOI, 0, 4);
    for (UINT32 i = 0; i < PAGE; i++)
        if (page[i] != expected[i])
            fail_msg("byte %#x of the page is %#x, not %#x", i, page[i], expected[i]);
    /* A register that does not exist is an error of the guest, this too. */
    write_register(&g, 0, ESR, 0);
    assert_int_equal(read_register(&g, 0, ESR), 0x80);
    write_register(&g, 0, ESR, 0);
    assert_int_equal(read_register(&g, 0, ESR), 0);
    assert_memory_behind(&g);

    /* Where it is by itself nothing is mapped. */
    set(&g, 0, R(ApicBase), 0xfee00000 | ENABLED | 0x100);
    assert_ok(read_gpa(&g, 0, 0xfee00000 + VERSION, &version, 4));
    assert_int_equal(version & 0xff, 0x14);
    assert_refused(WHvReadGpaRange(g.partition, 0, 0xfee01000, controls, &version, 4), E_ACCESSDENIED);
    guest_end(&g);
}

/* A line of the page that is flushed is not read: no register is there, and no error says so. */
static void flushed_is_not_read(void **state)
{
    struct guest g;

    (void)state;
    begin(&g, 0);
    for (UINT32 offset = 0; offset < PAGE; offset += 16) {
        guest_load(&g, CODE, CODE_BYTES(0x0f, 0xae, 0x3e, 0xe6, MARK)); /* clflush [rsi]; out */
        guest_set(&g, R(Rip), CODE);
        guest_set(&g, R(Rsi), APIC + offset);
        run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
        assert_field(&g, VpContext.Rip, CODE + 3);
    }
    write_register(&g, 0, ESR, 0);
    assert_int_equal(read_register(&g, 0, ESR), 0);
    guest_end(&g);
}

/* ---- writes ---- */

/* Run to the next OUT; its address. */
static UINT64 run_to_out(struct guest *g)
{
    run_to(g, WHvRunVpExitReasonX64IoPortAccess);
    return g->exit.VpContext.Rip;
}

static UINT64 handler_of(UINT32 vector)
{
    return HANDLERS + 16 * vector;
}

static void ready_for_interrupts(struct guest *g)
{
    guest_code(g, 0x90, 0xeb, 0xfd); /* again: nop; jmp again */
    guest_set(g, R(Rip), CODE);
    guest_set(g, R(Rsp), STACK);
    guest_set(g, R(Rflags), 0x202);
    guest_set(g, WHvRegisterInterruptState, 0);
}

static void request(struct guest *g, UINT32 vector, bool level)
{
    const WHV_INTERRUPT_CONTROL control = {.Type = WHvX64InterruptTypeFixed, .TriggerMode = level, .Vector = vector};

    assert_ok(WHvRequestInterrupt(g->partition, &control, sizeof(control)));
}

static void writes_act(void **state)
{
    struct guest g;
    UINT8 bytes[16];
    UINT64 bits = 99;

    (void)state;
    begin(&g, 0);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(g.partition, APIC, PAGE, &bits, 8));
    write_register(&g, 0, TPR, 0x45);
    assert_int_equal(guest_get(&g, R(ApicTpr)), 0x45);
    assert_int_equal(guest_get(&g, R(Cr8)), 4);

    /* Only 4 bytes at a register's beginning are a write. */
    memset(bytes, 0x11, sizeof(bytes));
    for (UINT32 offset = 0; offset < 16; offset++)
        for (UINT32 size = 1; offset + size <= 16; size++)
            if (offset != 0 || size != 4)
                assert_ok(write_gpa(&g, 0, APIC + TPR + offset, bytes, size));
    assert_int_equal(guest_get(&g, R(ApicTpr)), 0x45);
    write_register(&g, 0, VERSION, 0);
    assert_int_equal(read_register(&g, 0, VERSION) & 0xff, 0x14);
    write_register(&g, 0, TPR, 0);

    /* EOI */
    ready_for_interrupts(&g);
    request(&g, 0x41, false);
    assert_int_equal(bit_of(&g, 0, IRR, 0x41), 1);
    assert_int_equal(run_to_out(&g), handler_of(0x41));
    assert_int_equal(bit_of(&g, 0, ISR, 0x41), 1);
    assert_int_equal(read_register(&g, 0, PPR), 0x40);
    write_register(&g, 0, EOI, 0);
    assert_int_equal(bit_of(&g, 0, ISR, 0x41), 0);

    /* ICR: to itself, to the other processor. */
    ready_for_interrupts(&g);
    write_register(&g, 0, ICR, 0x44051);
    assert_int_equal(run_to_out(&g), handler_of(0x51));
    write_register(&g, 0, EOI, 0);
    assert_ok(WHvCreateVirtualProcessor(g.partition, 1, 0));
    set(&g, 1, R(ApicSpurious), 0x1ff);
    write_register(&g, 0, ICR_HIGH, 1u << 24);
    write_register(&g, 0, ICR, 0x4061);
    UINT32 requested = 0;
    assert_ok(read_gpa(&g, 1, 0xfee00000 + IRR + 0x61 / 32 * 16, &requested, 4));
    assert_int_equal(requested, 1u << 0x61 % 32);
    assert_int_equal(bit_of(&g, 0, IRR, 0x61), 0);

    /* The timer */
    ready_for_interrupts(&g);
    write_register(&g, 0, LVT_TIMER, 0x71);
    write_register(&g, 0, DIVIDE, 0xb);
    write_register(&g, 0, INITIAL, 1000);
    assert_int_equal(read_register(&g, 0, INITIAL), 1000);
    assert_int_equal(run_to_out(&g), handler_of(0x71));
    assert_int_equal(read_register(&g, 0, CURRENT), 0);
    write_register(&g, 0, EOI, 0);

    assert_memory_behind(&g);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(g.partition, APIC, PAGE, &bits, 8));
    assert_int_equal(bits, 0);
    guest_end(&g);
}

/* What such a write makes exit goes out once, with the next run; until then there can be no second one. */
static void writes_that_exit(void **state)
{
    enum { TRAP_SVR = 1 << 9 };
    const UINT32 value = 0x67;
    struct guest g;

    (void)state;
    begin(&g, TRAP_SVR);
    ready_for_interrupts(&g);
    request(&g, 0x42, true);
    assert_int_equal(run_to_out(&g), handler_of(0x42));
    const UINT64 rip = guest_get(&g, R(Rip));
    write_register(&g, 0, EOI, 0);
    assert_int_equal(bit_of(&g, 0, ISR, 0x42), 0);
    assert_refused(WHvWriteGpaRange(g.partition, 0, APIC + TPR, controls, &value, 4), WHV_E_INVALID_VP_STATE);
    assert_int_equal(read_register(&g, 0, TPR), 0);
    run_to(&g, WHvRunVpExitReasonX64ApicEoi);
    assert_field(&g, ApicEoi.InterruptVector, 0x42);
    assert_field(&g, VpContext.Rip, rip);
    write_register(&g, 0, TPR, value);
    assert_int_equal(read_register(&g, 0, TPR), value);

    write_register(&g, 0, SVR, 0x1fe);
    run_to(&g, WHvRunVpExitReasonX64ApicWriteTrap);
    assert_field(&g, ApicWrite.Type, WHvX64ApicWriteTypeSvr);
    assert_field(&g, ApicWrite.WriteValue, 0x1fe);
    assert_field(&g, VpContext.Rip, rip);
    assert_int_equal(run_to_out(&g), rip); /* and no more */
    guest_end(&g);
}

/* ---- into it and out of it ---- */

static void crossing(void **state)
{
    UINT8 buffer[3 * PAGE], data[3 * PAGE], registers[PAGE];
    struct guest g;
    UINT64 bits = 99;

    (void)state;
    begin(&g, 0);
    write_register(&g, 0, TPR, 0x33);
    assert_ok(read_gpa(&g, 0, APIC, registers, PAGE));
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (UINT8)(i * 7 + i / 256);
    memcpy(g.ram + APIC - PAGE, data, PAGE);
    memcpy(g.ram + APIC + PAGE, data + 2 * PAGE, PAGE);

    memset(buffer, 0xcc, sizeof(buffer));
    assert_ok(read_gpa(&g, 0, APIC - PAGE, buffer, sizeof(buffer)));
    assert_memory_equal(buffer, data, PAGE);
    assert_memory_equal(buffer + PAGE, registers, PAGE);
    assert_memory_equal(buffer + 2 * PAGE, data + 2 * PAGE, PAGE);
    assert_ok(read_gpa(&g, 0, APIC - 8, buffer, 16)); /* in, out, and around a register */
    assert_memory_equal(buffer, data + PAGE - 8, 8);
    assert_memory_equal(buffer + 8, registers, 8);
    assert_ok(read_gpa(&g, 0, APIC + PAGE - 8, buffer, 16));
    assert_memory_equal(buffer, registers + PAGE - 8, 8);
    assert_memory_equal(buffer + 8, data + 2 * PAGE, 8);
    assert_ok(read_gpa(&g, 0, APIC + TPR - 8, buffer, 16));
    assert_memory_equal(buffer, registers + TPR - 8, 16);

    /* Written is the memory, and the register that the last 4 bytes are; all pages are marked that were stored to. */
    assert_ok(WHvQueryGpaRangeDirtyBitmap(g.partition, APIC - PAGE, 3 * PAGE, &bits, 8));
    memset(buffer, 0, sizeof(buffer));
    buffer[PAGE + TPR] = 0x56;
    assert_ok(write_gpa(&g, 0, APIC - 100, buffer + PAGE - 100, 100 + TPR + 4));
    assert_int_equal(read_register(&g, 0, TPR), 0x56);
    assert_int_equal(read_register(&g, 0, SVR), 0x1ff);
    assert_memory_equal(g.ram + APIC - 100, buffer, 100);
    assert_int_equal(g.ram[APIC - 101], data[PAGE - 101]);
    assert_ok(write_gpa(&g, 0, APIC - 10, data + PAGE - 10, 2 * PAGE));
    assert_memory_equal(g.ram + APIC + PAGE, data + 2 * PAGE, PAGE - 10);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(g.partition, APIC - PAGE, 3 * PAGE, &bits, 8));
    assert_int_equal(bits, 5);
    assert_memory_behind(&g);
    guest_end(&g);
}

/* All or nothing. */
static void refused_as_a_whole(void **state)
{
    UINT8 *missing = host_pages(2);
    UINT8 buffer[3 * PAGE];
    struct guest g;

    (void)state;
    begin(&g, 0);
    assert_ok(WHvUnmapGpaRange(g.partition, APIC + PAGE, PAGE));
    memset(buffer, 0xcc, sizeof(buffer));
    assert_refused(WHvReadGpaRange(g.partition, 0, APIC + PAGE - 8, controls, buffer, 16), E_ACCESSDENIED);
    assert_refused(WHvReadGpaRange(g.partition, 0, APIC - PAGE, controls, buffer, sizeof(buffer)), E_ACCESSDENIED);
    for (unsigned i = 0; i < sizeof(buffer); i++)
        assert_int_equal(buffer[i], 0xcc);
    memset(buffer, 0x11, sizeof(buffer));
    assert_refused(WHvWriteGpaRange(g.partition, 0, APIC - PAGE, controls, buffer, sizeof(buffer)), E_ACCESSDENIED);
    assert_int_equal(g.ram[APIC - PAGE], 0xee);
    assert_ok(WHvMapGpaRange(g.partition, missing, APIC - PAGE, PAGE, WHvMapGpaRangeFlagRead));
    assert_refused(WHvWriteGpaRange(g.partition, 0, APIC - 8, controls, buffer, 8 + TPR + 4), E_ACCESSDENIED);
    assert_int_equal(read_register(&g, 0, TPR), 0);
    assert_int_equal(missing[PAGE - 8], 0);
    assert_refused(WHvReadGpaRange(g.partition, 0, APIC + TPR, controls, WILD, 4), E_POINTER);
    assert_refused(WHvWriteGpaRange(g.partition, 0, APIC + TPR, controls, WILD, 4), E_POINTER);
    assert_refused(WHvReadGpaRange(g.partition, 0, APIC + TPR, controls, NULL, 4), E_POINTER);
    assert_refused(WHvReadGpaRange(g.partition, 0, APIC + TPR, controls, buffer, 0), E_INVALIDARG);
    assert_refused(WHvReadGpaRange(g.partition, 0, ~0ull - 100, controls, buffer, 8), E_ACCESSDENIED);
    assert_refused(WHvReadGpaRange(g.partition, 0, ~0ull - 100, controls, buffer, 4096), E_INVALIDARG);
    assert_refused(WHvReadGpaRange(g.partition, 0, ~0ull - 100, controls, buffer, 0xffffffff), E_INVALIDARG);
    assert_refused(WHvReadGpaRange(g.partition, 1, APIC + TPR, controls, buffer, 4), WHV_E_VP_DOES_NOT_EXIST);
    guest_end(&g);
}

/* ---- where it is ---- */

static void assert_is_memory(struct guest *g, UINT32 vp, UINT64 gpa)
{
    UINT32 value = 0;

    for (int i = 0; i < 3; i++) { /* as a thread remembers what it found */
        assert_ok(read_gpa(g, vp, gpa + VERSION, &value, 4));
        assert_int_equal(value, 0xeeeeeeee);
    }
}

static void assert_is_apic(struct guest *g, UINT32 vp, UINT64 gpa)
{
    UINT32 value = 0;

    for (int i = 0; i < 3; i++) {
        assert_ok(read_gpa(g, vp, gpa + VERSION, &value, 4));
        assert_int_equal(value & 0xff, 0x14);
    }
}

/* By the guest's own hand. */
static void write_apic_base(struct guest *g, UINT64 value)
{
    guest_code(g, 0x0f, 0x30, 0xe6, MARK); /* wrmsr; out */
    guest_set(g, R(Rip), CODE);
    guest_set(g, R(Rcx), 0x1b);
    guest_set(g, R(Rax), value & 0xffffffff);
    guest_set(g, R(Rdx), value >> 32);
    assert_int_equal(run_to_out(g), CODE + 2);
}

static void where_it_is(void **state)
{
    OWHP_SNAPSHOT_HANDLE snapshot;
    struct guest g;

    (void)state;
    begin(&g, 0);
    assert_is_apic(&g, 0, APIC);
    assert_is_memory(&g, 0, APIC + PAGE);
    assert_ok(OwhpCreateSnapshot(g.partition, 0, &snapshot));
    write_apic_base(&g, (APIC + PAGE) | ENABLED | 0x100); /* moved: right behind a read of memory there, and of the page here */
    assert_is_apic(&g, 0, APIC + PAGE);
    assert_is_memory(&g, 0, APIC);
    write_apic_base(&g, APIC | 0x100); /* disabled */
    assert_is_memory(&g, 0, APIC);
    assert_is_memory(&g, 0, APIC + PAGE);
    assert_ok(OwhpRestoreSnapshot(g.partition, snapshot, OwhpRestoreFlagNone, NULL));
    assert_ok(OwhpDestroySnapshot(snapshot));
    assert_is_apic(&g, 0, APIC);

    /* Each processor has its own. */
    assert_ok(WHvCreateVirtualProcessor(g.partition, 1, 0));
    assert_is_memory(&g, 1, APIC);
    assert_is_apic(&g, 1, 0xfee00000);
    set(&g, 1, R(ApicBase), (APIC + PAGE) | ENABLED);
    assert_is_apic(&g, 1, APIC + PAGE);
    assert_is_memory(&g, 0, APIC + PAGE);
    UINT32 id = 0;
    assert_ok(read_gpa(&g, 1, APIC + PAGE + ID, &id, 4));
    assert_int_equal(id, 1u << 24);
    assert_ok(WHvDeleteVirtualProcessor(g.partition, 1));
    assert_refused(WHvReadGpaRange(g.partition, 1, APIC + PAGE, controls, &id, 4), WHV_E_VP_DOES_NOT_EXIST);
    assert_ok(WHvCreateVirtualProcessor(g.partition, 1, 0));
    assert_is_memory(&g, 1, APIC + PAGE);
    assert_is_apic(&g, 1, 0xfee00000);

    assert_ok(WHvResetPartition(g.partition));
    assert_is_memory(&g, 0, APIC);
    assert_is_apic(&g, 0, 0xfee00000);
    guest_end(&g);
}

static void where_it_is_not(void **state)
{
    UINT32 value = 0;
    struct guest g;

    (void)state;
    guest_begin(&g, &(struct guest_options){.apic_mode = WHvX64LocalApicEmulationModeX2Apic});
    guest_long_mode(&g, 0);
    memset(g.ram + APIC, 0xee, PAGE);
    guest_set(&g, R(ApicBase), APIC | ENABLED | 0x100);
    assert_is_apic(&g, 0, APIC); /* not in x2APIC mode yet */
    guest_set(&g, R(ApicBase), APIC | ENABLED | X2APIC | 0x100);
    assert_is_memory(&g, 0, APIC);
    guest_end(&g);

    guest_begin(&g, &(struct guest_options){.apic_mode = WHvX64LocalApicEmulationModeNone});
    assert_refused(WHvReadGpaRange(g.partition, 0, 0xfee00000 + VERSION, controls, &value, 4), E_ACCESSDENIED);
    assert_ok(WHvMapGpaRange(g.partition, g.ram, 0xfee00000, PAGE, WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite));
    memset(g.ram, 0xee, PAGE);
    assert_is_memory(&g, 0, 0xfee00000);
    guest_end(&g);
}

/* ---- while it runs ---- */

static struct {
    struct guest g;
    atomic_bool ended;
} running;

static void *run_until_canceled(void *context)
{
    (void)context;
    do
        assert_ok(WHvRunVirtualProcessor(running.g.partition, 0, &running.g.exit, sizeof(running.g.exit)));
    while (running.g.exit.ExitReason != WHvRunVpExitReasonCanceled);
    atomic_store(&running.ended, true);
    return NULL;
}

enum { COUNT = 0x3000, INTERRUPTS = 0x3008 }; /* where the guest counts */

static UINT64 number_at(struct guest *g, UINT64 gpa)
{
    UINT64 value = 0;

    assert_ok(read_gpa(g, 0, gpa, &value, 8));
    return value;
}

static void start(pthread_t *thread)
{
    struct guest *g = &running.g;

    begin(g, 0);
    ready_for_interrupts(g);
    /* again: inc qword [COUNT]; mov eax, [APIC + VERSION]; mov dword [APIC + ESR], 0; jmp again */
    guest_code(g, 0x48, 0xff, 0x04, 0x25, 0x00, 0x30, 0x00, 0x00, 0x8b, 0x04, 0x25, 0x30, 0x00, 0x10, 0x00, 0xc7, 0x04, 0x25, 0x80,
               0x02, 0x10, 0x00, 0, 0, 0, 0, 0xeb, 0xe4);
    /* jmp 0x4000; there: inc qword [INTERRUPTS]; mov dword [APIC + EOI], 0; iretq */
    const INT32 distance = 0x4000 - (INT32)(handler_of(0x81) + 5);
    guest_load(g, handler_of(0x81), CODE_BYTES(0xe9));
    guest_load(g, handler_of(0x81) + 1, &distance, sizeof(distance));
    guest_load(g, 0x4000,
               CODE_BYTES(0x48, 0xff, 0x04, 0x25, 0x08, 0x30, 0x00, 0x00, 0xc7, 0x04, 0x25, 0xb0, 0x00, 0x10, 0x00, 0, 0, 0, 0, 0x48,
                          0xcf));
    atomic_store(&running.ended, false);
    assert_int_equal(pthread_create(thread, NULL, run_until_canceled, NULL), 0);
}

static void stop(pthread_t thread)
{
    assert_ok(WHvCancelRunVirtualProcessor(running.g.partition, 0, 0));
    pthread_join(thread, NULL);
    guest_end(&running.g);
}

/* Interrupts that this thread sends by the processor's own registers, while it runs: each arrives once, and the run goes on. */
static void while_it_runs(void **state)
{
    const unsigned rounds = test_rounds(300);
    struct guest *g = &running.g;
    pthread_t thread;

    (void)state;
    start(&thread);
    for (unsigned i = 1; i <= rounds; i++) {
        assert_int_equal(read_register(g, 0, VERSION) & 0xff, 0x14);
        write_register(g, 0, TPR, i & 7);
        assert_int_equal(read_register(g, 0, TPR), i & 7);
        write_register(g, 0, ICR, 0x44081);
        while (number_at(g, INTERRUPTS) < i)
            sched_yield();
        const UINT64 before = number_at(g, COUNT);
        while (number_at(g, COUNT) == before)
            sched_yield();
        assert_int_equal(number_at(g, INTERRUPTS), i);
    }
    assert_false(atomic_load(&running.ended));
    stop(thread);
}

/* Many threads, all ways at once, and one that takes memory behind the page away and puts it back. */
static void *use_registers(void *context)
{
    UINT8 page[PAGE + 16];
    atomic_bool *end = context;

    while (!atomic_load(end)) {
        assert_ok(read_gpa(&running.g, 0, APIC - 8, page, sizeof(page)));
        assert_ok(write_gpa(&running.g, 0, APIC + EOI, page + 100, 4));
        assert_ok(write_gpa(&running.g, 0, APIC - 12, page, 16));
        sched_yield();
    }
    return NULL;
}

static void many_at_once(void **state)
{
    const unsigned rounds = test_rounds(200);
    struct guest *g = &running.g;
    pthread_t runner, users[2];
    atomic_bool end = false;

    (void)state;
    start(&runner);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&users[i], NULL, use_registers, &end), 0);
    for (unsigned i = 0; i < rounds; i++) {
        assert_ok(WHvUnmapGpaRange(g->partition, APIC, PAGE));
        assert_int_equal(read_register(g, 0, VERSION) & 0xff, 0x14);
        assert_ok(WHvMapGpaRange(g->partition, g->ram + APIC, APIC, PAGE, WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite));
        const UINT64 before = number_at(g, COUNT);
        while (number_at(g, COUNT) == before)
            sched_yield();
    }
    atomic_store(&end, true);
    for (int i = 0; i < 2; i++)
        pthread_join(users[i], NULL);
    assert_memory_behind(g);
    stop(runner);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("GPA-10", "F 5: its APIC page, reads", reads_as_the_processor),
        CASE("GPA-11", "F 5: its APIC page, writes", writes_act),
        CASE("GPA-12", "F 5: its APIC page, writes that exit", writes_that_exit),
        CASE("GPA-13", "F 5: into and out of its APIC page", crossing),
        CASE("GPA-14", "F 5, S: all or nothing at its APIC page", refused_as_a_whole),
        CASE("GPA-15", "F 5: where its APIC page is", where_it_is),
        CASE("GPA-16", "F 5, 9.9: where there is none", where_it_is_not),
        CASE("GPA-17", "F 5, S: its APIC page while it runs", while_it_runs),
        CASE("GPA-18", "F 5, S: its APIC page, many threads", many_at_once),
        CASE("GPA-20", "F 9.9, SDM CLFLUSH: a flush is no read of a register", flushed_is_not_read),
    };

    return cmocka_run_group_tests_name("apic page threads", tests, NULL, NULL);
}
