/*
 * State in bulk (XSAVE image, local APIC), counters, reset and re-creation, on real guests.
 */
#include "guest.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define R(name) WHvX64Register##name
#define END_CODE 0xe6, 0x99 /* out 99h, al */

enum { SSE_SIZE = 576, AVX_SIZE = 832, XSTATE_BV = 512, XCOMP_BV = 520 };

/* ---- the XSAVE image ---- */

struct image {
    _Alignas(64) UINT8 bytes[1024];
    UINT32 size;
};

static UINT64 get64(const struct image *image, size_t at)
{
    UINT64 value;

    memcpy(&value, image->bytes + at, 8);
    return value;
}

static void put64(struct image *image, size_t at, UINT64 value)
{
    memcpy(image->bytes + at, &value, 8);
}

static void get_image(struct guest *g, struct image *image)
{
    struct image other;
    UINT32 size;

    assert_ok(WHvGetVirtualProcessorXsaveState(g->partition, 0, image->bytes, sizeof(image->bytes), &image->size));
    assert_ok(WHvGetVirtualProcessorState(g->partition, 0, WHvVirtualProcessorStateTypeXsaveState, other.bytes, sizeof(other.bytes),
                                          &size));
    assert_int_equal(size, image->size); /* both calls say the same */
    assert_memory_equal(image->bytes, other.bytes, size);
}

static HRESULT set_old(struct guest *g, const struct image *image, UINT32 size)
{
    return WHvSetVirtualProcessorXsaveState(g->partition, 0, image->bytes, size);
}

static HRESULT set_new(struct guest *g, const struct image *image, UINT32 size)
{
    return WHvSetVirtualProcessorState(g->partition, 0, WHvVirtualProcessorStateTypeXsaveState, image->bytes, size);
}

static bool has_avx(void)
{
    WHV_PROCESSOR_XSAVE_FEATURES features;

    assert_ok(WHvGetCapability(WHvCapabilityCodeProcessorXsaveFeatures, &features, sizeof(features), NULL));
    return features.AvxSupport;
}

/* The components of an image: x87, SSE, AVX, and PKRU behind them (8 bytes) where the processor has protection keys. */
static void assert_image(const struct image *image, UINT64 components)
{
    UINT64 keys = get64(image, XCOMP_BV) & 1 << 9;

    assert_int_equal(get64(image, XCOMP_BV), 1ull << 63 | keys | components);
    assert_int_equal(image->size, (components & 4 ? AVX_SIZE : SSE_SIZE) + (keys ? 8 : 0));
}


/* Every part of the image is the register of that name, and the guest's. */
static void image_is_registers(void **state)
{
    struct guest g;
    struct image image;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    guest_set(&g, R(Cr4), 0x40620);
    guest_set(&g, R(XCr0), has_avx() ? 7 : 3);
    get_image(&g, &image);
    assert_image(&image, has_avx() ? 7 : 3);
    for (UINT32 i = 0; i < 16; i++) {
        put64(&image, 160 + 16 * i, 0x100 + i);
        put64(&image, 168 + 16 * i, 0x200 + i);
        if (has_avx()) {
            put64(&image, SSE_SIZE + 16 * i, 0x300 + i);
            put64(&image, SSE_SIZE + 8 + 16 * i, 0x400 + i);
        }
    }
    for (UINT32 i = 0; i < 8; i++) {
        put64(&image, 32 + 16 * i, 0x8000000000000000 + i);
        put64(&image, 40 + 16 * i, 0x3ff0 + i);
    }
    put64(&image, 0, 0x07a500ff1800037f); /* FCW, FSW (TOP 3), tag, opcode */
    put64(&image, 8, 0x1234);
    put64(&image, 16, 0x5678);
    put64(&image, 24, 0xffff00009f80);
    put64(&image, XSTATE_BV, (has_avx() ? 7 : 3) | (get64(&image, XCOMP_BV) & 1 << 9));
    assert_ok(set_old(&g, &image, image.size));
    for (UINT32 i = 0; i < 16; i++) {
        WHV_REGISTER_VALUE v = guest_get_value(&g, (WHV_REGISTER_NAME)(R(Xmm0) + i));
        assert_int_equal(v.Reg128.Low64, 0x100 + i);
        assert_int_equal(v.Reg128.High64, 0x200 + i);
    }
    for (UINT32 i = 0; i < 8; i++)
        assert_int_equal(guest_get(&g, (WHV_REGISTER_NAME)(R(FpMmx0) + i)), 0x8000000000000000 + i);
    WHV_REGISTER_VALUE control = guest_get_value(&g, R(FpControlStatus)), mxcsr = guest_get_value(&g, R(XmmControlStatus));
    assert_int_equal(control.Reg128.Low64, 0x07a500ff1800037f);
    assert_int_equal(control.Reg128.High64, 0x1234);
    assert_int_equal(mxcsr.Reg128.Low64, 0x5678);
    assert_int_equal(mxcsr.XmmControlStatus.XmmStatusControl, 0x9f80);
    /* The guest: vmovups [40000h], ymm9 (or movups xmm9). */
    if (has_avx())
        guest_code(&g, 0xc5, 0x7c, 0x11, 0x0c, 0x25, 0, 0, 4, 0, END_CODE);
    else
        guest_code(&g, 0x44, 0x0f, 0x11, 0x0c, 0x25, 0, 0, 4, 0, END_CODE);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    const UINT64 expected[] = {0x109, 0x209, 0x309, 0x409};
    assert_memory_equal(g.ram + 0x40000, expected, has_avx() ? 32 : 16);
    /* And back. */
    struct image again;
    get_image(&g, &again);
    assert_memory_equal(again.bytes, image.bytes, image.size);
    guest_end(&g);
}

/* PKRU: what the guest writes is in the image, what is set by either call the guest reads, and its accesses go by it. */
static void image_has_keys(void **state)
{
    /* xor ecx, ecx; rdpkru; mov ebx, eax; mov eax, esi; xor edx, edx; wrpkru; out */
    static const UINT8 code[] = {0x31, 0xc9, 0x0f, 0x01, 0xee, 0x89, 0xc3, 0x89, 0xf0, 0x31, 0xd2, 0x0f, 0x01, 0xef, END_CODE};
    struct guest g;
    struct image image;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    get_image(&g, &image);
    if (!(get64(&image, XCOMP_BV) & 1 << 9)) {
        guest_end(&g);
        print_message("SKIPPED: this processor has no protection keys\n");
        skip();
    }
    guest_set(&g, R(Cr4), 0x440620); /* PKE, OSXSAVE */
    guest_set(&g, R(XCr0), has_avx() ? 0x207 : 0x203);
    guest_load(&g, CODE, code, sizeof(code));
    const size_t at = image.size - 8;
    UINT64 last = 0;
    for (unsigned i = 0; i < 8; i++) {
        const UINT64 given = 0x01234567u * (i + 1) & 0xfffffffc, wanted = 0x89abcdefu / (i + 1) & 0xfffffffc; /* key 0 may do all */
        get_image(&g, &image);
        assert_int_equal(get64(&image, XSTATE_BV) >> 9 & 1 ? get64(&image, at) : 0, last);
        put64(&image, at, given);
        put64(&image, XSTATE_BV, get64(&image, XSTATE_BV) | 1 << 9);
        assert_ok(i % 2 ? set_new(&g, &image, image.size) : set_old(&g, &image, image.size));
        guest_set(&g, R(Rip), CODE);
        guest_set(&g, R(Rsi), wanted);
        run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
        assert_int_equal(guest_get(&g, R(Rbx)), given);
        last = wanted;
    }
    guest_end(&g);
}

/* A component that XSTATE_BV does not name gets its initial configuration. */
static void absent_components(void **state)
{
    struct guest g;
    struct image image, again;

    (void)state;
    guest_begin(&g, NULL);
    get_image(&g, &image);
    for (UINT32 i = 0; i < 16; i++)
        put64(&image, 160 + 16 * i, 0x100 + i);
    put64(&image, 0, 0xff1800027f);
    put64(&image, 24, 0xffff00001fa0);
    assert_ok(set_new(&g, &image, image.size));
    put64(&image, XSTATE_BV, 1);
    assert_ok(set_new(&g, &image, image.size));
    get_image(&g, &again);
    assert_int_equal(get64(&again, 0), 0xff1800027f);
    assert_int_equal(get64(&again, 160), 0);
    assert_int_equal(get64(&again, 24) & 0xffffffff, 0x1f80);
    put64(&image, XSTATE_BV, 0);
    assert_ok(set_old(&g, &image, image.size));
    get_image(&g, &again);
    assert_int_equal(get64(&again, 0), 0x37f);
    /* An image without the AVX part is shorter. */
    put64(&image, XCOMP_BV, 1ull << 63 | 3);
    put64(&image, XSTATE_BV, 3);
    assert_ok(set_old(&g, &image, SSE_SIZE));
    guest_end(&g);
}

static void malformed_images(void **state)
{
    static const struct {
        size_t at;
        UINT64 value;
    } table[] = {
        {XCOMP_BV, 0},                     /* the standard form */
        {XCOMP_BV, 7},
        {XCOMP_BV, 1ull << 63 | 1 << 8 | 7}, /* components that the processor does not have */
        {XCOMP_BV, 1ull << 63 | 1ull << 62 | 7},
        {XCOMP_BV, 1ull << 63 | 1},        /* fewer than XSTATE_BV */
        {XSTATE_BV, 1 << 5 | 3},
        {XSTATE_BV, 1ull << 63 | 3},
        {528, 1},                          /* reserved bytes of the header */
        {568, 1ull << 63},
        {24, 0x10000 | 0x1f80},            /* MXCSR */
    };
    struct guest g;
    struct image good, bad, after;

    (void)state;
    guest_begin(&g, NULL);
    get_image(&g, &good);
    put64(&good, 160, 0x77);
    assert_ok(set_new(&g, &good, good.size));
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        bad = good;
        put64(&bad, 160, 0x88);
        put64(&bad, table[i].at, table[i].value);
        HRESULT result = set_old(&g, &bad, good.size);
        if (result != E_INVALIDARG)
            print_error("byte %zu: %#llx\n", table[i].at, (unsigned long long)table[i].value);
        assert_hr(result, E_INVALIDARG);
        assert_hr(set_new(&g, &bad, good.size), E_INVALIDARG);
        get_image(&g, &after);
        assert_memory_equal(after.bytes, good.bytes, good.size);
    }
    /* Sizes: the newer call wants its own, the older at least the image's. */
    static const UINT32 sizes[] = {0, 1, 511, 512, 575, 831};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        if (sizes[i] < good.size) {
            assert_hr(set_old(&g, &good, sizes[i]), E_INVALIDARG);
            assert_hr(set_new(&g, &good, sizes[i]), E_INVALIDARG);
            assert_hr(WHvGetVirtualProcessorXsaveState(g.partition, 0, bad.bytes, sizes[i], &after.size), WHV_E_INSUFFICIENT_BUFFER);
            assert_int_equal(after.size, good.size);
        }
    assert_hr(set_new(&g, &good, good.size + 1), E_INVALIDARG);
    assert_hr(set_old(&g, &good, 1u << 20), E_INVALIDARG);
    guest_end(&g);
}

/* A processor without AVX has the smaller image, and no place for the rest. */
static void image_without_avx(void **state)
{
    WHV_PROCESSOR_XSAVE_FEATURES features;
    struct guest g = {0};
    struct image image;
    UINT32 count = 1;

    (void)state;
    assert_ok(WHvGetCapability(WHvCapabilityCodeProcessorXsaveFeatures, &features, sizeof(features), NULL));
    features.AvxSupport = 0;
    assert_ok(WHvCreatePartition(&g.partition));
    assert_ok(WHvSetPartitionProperty(g.partition, WHvPartitionPropertyCodeProcessorCount, &count, 4));
    assert_ok(WHvSetPartitionProperty(g.partition, WHvPartitionPropertyCodeProcessorXsaveFeatures, &features, 8));
    assert_ok(WHvSetupPartition(g.partition));
    assert_ok(WHvCreateVirtualProcessor(g.partition, 0, 0));
    get_image(&g, &image);
    assert_image(&image, 3);
    put64(&image, XCOMP_BV, 1ull << 63 | 7);
    assert_hr(set_old(&g, &image, AVX_SIZE), E_INVALIDARG);
    guest_end(&g);
}

/* ---- the local APIC, old and new calls ---- */

static void apic_calls_agree(void **state)
{
    static const WHV_REGISTER_NAME names[] = {R(ApicLdr), R(ApicSpurious), R(ApicIsr1), R(ApicIrr2), R(ApicTmr1), R(ApicIcr),
                                              R(ApicLvtLint0), R(ApicLvtError), R(ApicDivide), R(ApicTpr), R(ApicEse)};
    static const UINT64 values[] = {0x42000000, 0x1ff, 1 << 17, 1 << 5, 1 << 17, 0x03000000000c4031, 0x8032, 0x32, 0xb, 0x20, 0x40};
    static UINT8 old[1024], page[4096], typed[4096], fresh[4096];

    (void)state;
    for (UINT32 mode = WHvX64LocalApicEmulationModeXApic; mode <= WHvX64LocalApicEmulationModeX2Apic; mode++) {
        const struct guest_options options = {.apic_mode = mode};
        struct guest g;
        UINT32 size;
        guest_begin(&g, &options);
        assert_ok(WHvGetVirtualProcessorInterruptControllerState2(g.partition, 0, fresh, 4096, &size));
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
            if (names[i] != R(ApicTpr) || mode == WHvX64LocalApicEmulationModeXApic)
                guest_set(&g, names[i], values[i]);
        if (mode == WHvX64LocalApicEmulationModeX2Apic)
            guest_set(&g, R(Cr8), 2);
        assert_ok(WHvGetVirtualProcessorInterruptControllerState(g.partition, 0, old, 1024, &size));
        assert_int_equal(size, 1024);
        assert_ok(WHvGetVirtualProcessorInterruptControllerState2(g.partition, 0, page, 4096, &size));
        assert_int_equal(size, 4096);
        assert_ok(WHvGetVirtualProcessorState(g.partition, 0, WHvVirtualProcessorStateTypeInterruptControllerState2, typed, 4096, &size));
        assert_int_equal(size, 4096);
        assert_memory_equal(page, typed, 4096);
        assert_memory_equal(page, old, 1024);
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) { /* the page is the registers */
            UINT32 value;
            memcpy(&value, page + (names[i] & 0x3f) * 16, 4);
            assert_int_equal(value, (UINT32)values[i]);
        }
        /* Each way of writing brings all of it back. */
        for (int way = 0; way < 3; way++) {
            assert_ok(WHvSetVirtualProcessorInterruptControllerState2(g.partition, 0, fresh, 4096));
            assert_ok(WHvGetVirtualProcessorInterruptControllerState2(g.partition, 0, typed, 4096, NULL));
            assert_memory_equal(typed, fresh, 4096);
            if (way == 0)
                assert_ok(WHvSetVirtualProcessorInterruptControllerState(g.partition, 0, old, 1024));
            else if (way == 1)
                assert_ok(WHvSetVirtualProcessorInterruptControllerState2(g.partition, 0, page, 4096));
            else
                assert_ok(WHvSetVirtualProcessorState(g.partition, 0, WHvVirtualProcessorStateTypeInterruptControllerState2, page, 4096));
            assert_ok(WHvGetVirtualProcessorInterruptControllerState2(g.partition, 0, typed, 4096, NULL));
            assert_memory_equal(typed, page, 4096);
        }
        assert_hr(WHvSetVirtualProcessorState(g.partition, 0, WHvVirtualProcessorStateTypeInterruptControllerState2, page, 4095),
                  E_INVALIDARG);
        guest_end(&g);
    }
}

static void state_types(void **state)
{
    static const UINT32 absent[] = {0, 1, 2, 0x1002}, unknown[] = {3, 0xfff, 0x1003, 0x80001000};
    static UINT8 buffer[4096];
    struct guest g;
    UINT32 size;

    (void)state;
    guest_begin(&g, NULL);
    for (size_t i = 0; i < 4; i++) {
        const WHV_VIRTUAL_PROCESSOR_STATE_TYPE no = (WHV_VIRTUAL_PROCESSOR_STATE_TYPE)absent[i];
        const WHV_VIRTUAL_PROCESSOR_STATE_TYPE what = (WHV_VIRTUAL_PROCESSOR_STATE_TYPE)unknown[i];
        assert_hr(WHvGetVirtualProcessorState(g.partition, 0, no, buffer, 4096, &size), WHV_E_INVALID_VP_STATE);
        assert_hr(WHvSetVirtualProcessorState(g.partition, 0, no, buffer, 4096), WHV_E_INVALID_VP_STATE);
        assert_hr(WHvGetVirtualProcessorState(g.partition, 0, what, buffer, 4096, &size), E_INVALIDARG);
        assert_hr(WHvSetVirtualProcessorState(g.partition, 0, what, buffer, 4096), E_INVALIDARG);
    }
    assert_hr(WHvGetVirtualProcessorState(g.partition, 0, WHvVirtualProcessorStateTypeInterruptControllerState2, buffer, 4096, &size),
              WHV_E_INVALID_VP_STATE); /* no APIC */
    guest_end(&g);
}

/* ---- counters ---- */

struct counted {
    WHV_PROCESSOR_RUNTIME_COUNTERS runtime;
    WHV_PROCESSOR_ACTIVITY_COUNTERS intercepts;
    WHV_PROCESSOR_GUEST_EVENT_COUNTERS events;
    WHV_PROCESSOR_APIC_COUNTERS apic;
};

static struct counted counters_of(struct guest *g)
{
    struct counted c;
    UINT32 size;

    assert_ok(WHvGetVirtualProcessorCounters(g->partition, 0, WHvProcessorCounterSetRuntime, &c.runtime, sizeof(c.runtime), &size));
    assert_int_equal(size, sizeof(c.runtime));
    assert_ok(WHvGetVirtualProcessorCounters(g->partition, 0, WHvProcessorCounterSetIntercepts, &c.intercepts, sizeof(c.intercepts),
                                             &size));
    assert_int_equal(size, sizeof(c.intercepts));
    assert_ok(WHvGetVirtualProcessorCounters(g->partition, 0, WHvProcessorCounterSetEvents, &c.events, sizeof(c.events), &size));
    assert_int_equal(size, sizeof(c.events));
    assert_ok(WHvGetVirtualProcessorCounters(g->partition, 0, WHvProcessorCounterSetApic, &c.apic, sizeof(c.apic), &size));
    assert_int_equal(size, sizeof(c.apic));
    return c;
}

#define COUNTER(member) (offsetof(struct counted, member))

/* Each guest does its thing `times` times (run to the end by skipping exits); of all counters only the named ones have grown. */
struct count_case {
    const char *name;
    UINT8 code[16], size;
    UINT8 length; /* of the instruction that exits, to be skipped; 0: the guest goes on by itself */
    UINT64 exceptions;
    struct {
        size_t at;
        UINT64 count;
    } grown[4];
};

#define BYTES(...) {__VA_ARGS__}, sizeof((const UINT8[]){__VA_ARGS__})
#define INTERCEPT(kind) COUNTER(intercepts.kind.Count)

/* clang-format off */
static const struct count_case count_cases[] = {
    {"out x3", BYTES(0xe6, 0x98, 0xe6, 0x98, 0xe6, 0x98), 2, 0, {{INTERCEPT(IoInstructions), 4}}}, /* and the end's */
    {"cpuid x2", BYTES(0x0f, 0xa2, 0x31, 0xc0, 0x0f, 0xa2), 0, 0, {{INTERCEPT(CpuidInstructions), 2}}},
    {"rdmsr pat x2", BYTES(0xb9, 0x77, 2, 0, 0, 0x0f, 0x32, 0x0f, 0x32), 0, 0, {{INTERCEPT(MsrAccesses), 2}}},
    {"mov cr2, rax; mov rax, cr3", BYTES(0x0f, 0x22, 0xd0, 0x0f, 0x20, 0xd8), 0, 0, {{INTERCEPT(ControlRegisterAccesses), 2}}},
    {"clts; lmsw ax", BYTES(0x0f, 0x06, 0x0f, 0x20, 0xc0, 0x0f, 0x01, 0xf0), 0, 0, {{INTERCEPT(ControlRegisterAccesses), 3}}},
    {"mov dr0, rax; mov rax, dr6", BYTES(0x0f, 0x23, 0xc0, 0x0f, 0x21, 0xf0), 0, 0, {{INTERCEPT(DebugRegisterAccesses), 2}}},
    {"invlpg [rax]", BYTES(0x0f, 0x01, 0x38), 0, 0, {{INTERCEPT(PageInvalidations), 1}}},
    {"vmcall x2", BYTES(0x0f, 0x01, 0xc1, 0x0f, 0x01, 0xc1), 3, 0, {{INTERCEPT(Hypercalls), 2}}},
    {"rdtsc", BYTES(0x0f, 0x31), 2, 0, {{INTERCEPT(OtherIntercepts), 1}}},
    {"ud2, intercepted", BYTES(0x0f, 0x0b), 2, 1 << 6, {{INTERCEPT(OtherIntercepts), 1}}},
    {"#PF, intercepted", BYTES(0xa0, 0, 0, 6, 0, 0, 0, 0, 0), 9, 1 << 14, {{INTERCEPT(PageFaultIntercepts), 1}}}, /* mov al, [60000h] */
    {"nothing mapped", BYTES(0xa0, 0, 0, 0x30, 0, 0, 0, 0, 0), 9, 0, {{INTERCEPT(NestedPageFaultIntercepts), 1}}},
    {"ud2", BYTES(0x0f, 0x0b), 0, 0, {{COUNTER(events.ExceptionCount), 1}}},
    {"#PF", BYTES(0xa0, 0, 0, 6, 0, 0, 0, 0, 0), 0, 0, {{COUNTER(events.ExceptionCount), 1}, {COUNTER(events.PageFaultCount), 1}}},
    {"rdpmc", BYTES(0x0f, 0x33), 0, 0, {{INTERCEPT(RdpmcInstructions), 1}, {COUNTER(events.ExceptionCount), 1}}},
};
/* clang-format on */

static void check_grown(const char *name, const struct counted *before, const struct counted *after, const struct count_case *c)
{
    for (size_t at = sizeof(before->runtime); at < sizeof(*before); at += 8) {
        UINT64 old, new, expected = 0;
        memcpy(&old, (const char *)before + at, 8);
        memcpy(&new, (const char *)after + at, 8);
        if (at == INTERCEPT(IoInstructions))
            expected = 1; /* the one that ends the guest */
        for (size_t i = 0; i < 4 && c->grown[i].count; i++)
            if (c->grown[i].at == at)
                expected = c->grown[i].count;
        if (new - old != expected)
            print_error("%s: the counter at %zu has grown by %llu, not %llu\n", name, at, (unsigned long long)(new - old),
                        (unsigned long long)expected);
        assert_int_equal(new - old, expected);
    }
}

static void intercepts_are_counted(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(count_cases) / sizeof(count_cases[0]); i++) {
        const struct count_case *c = &count_cases[i];
        const struct guest_options options = {.extended_exits = 4 | 8 | 0x20, .exceptions = c->exceptions};
        static const UINT8 end[] = {END_CODE};
        struct guest g;
        guest_begin(&g, &options);
        guest_long_mode(&g, 0);
        *guest_pte(&g, 0x60000) = 0;
        guest_load(&g, CODE, c->code, c->size);
        guest_load(&g, CODE + c->size, end, sizeof(end));
        for (UINT32 v = 0; v < 32; v++)
            guest_load(&g, HANDLERS + 16 * v, end, sizeof(end));
        struct counted before = counters_of(&g);
        for (;;) {
            memset(&g.exit, 0, sizeof(g.exit));
            assert_ok(WHvRunVirtualProcessor(g.partition, 0, &g.exit, sizeof(g.exit)));
            if (g.exit.ExitReason == WHvRunVpExitReasonX64IoPortAccess && g.exit.IoPortAccess.PortNumber == 0x99)
                break;
            assert_true(c->length);
            guest_set(&g, R(Rip), g.exit.VpContext.Rip + c->length);
        }
        struct counted after = counters_of(&g);
        check_grown(c->name, &before, &after, c);
        assert_true(after.runtime.TotalRuntime100ns >= before.runtime.TotalRuntime100ns);
        assert_true(after.runtime.TotalRuntime100ns > 0);
        guest_end(&g);
    }
}

/* Halts, interrupts and the APIC, in x2APIC mode and by the register page. */
static void apic_is_counted(void **state)
{
    const struct guest_options options = {.apic_mode = WHvX64LocalApicEmulationModeXApic};
    const WHV_REGISTER_NAME ds = R(Ds);
    WHV_REGISTER_VALUE value = {.Segment = {.Base = 0xfee00000, .Limit = 0xffff, .Attributes = 0x93}};
    struct guest g;

    (void)state;
    guest_begin(&g, &options);
    guest_set(&g, R(ApicSpurious), 0x1ff);
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &ds, 1, &value));
    guest_set(&g, R(Rflags), 2);
    /* mov eax, [80h]; mov [80h], eax; mov dword [300h], 40031h (self); sti; hlt; handler: mov [0b0h], eax; out 99h, al */
    guest_code(&g, 0x66, 0xa1, 0x80, 0, 0x66, 0xa3, 0x80, 0, 0x66, 0xc7, 0x06, 0, 3, 0x31, 0, 4, 0, 0xfb, 0xf4, 0xeb, 0xfe);
    const UINT8 handler[] = {0x66, 0xa3, 0xb0, 0, END_CODE};
    guest_load(&g, HANDLERS + 16 * 0x31, handler, sizeof(handler));
    struct counted before = counters_of(&g);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    struct counted after = counters_of(&g);
    assert_int_equal(after.apic.MmioAccessCount - before.apic.MmioAccessCount, 4);
    assert_int_equal(after.apic.TprAccessCount - before.apic.TprAccessCount, 2);
    assert_int_equal(after.apic.EoiAccessCount - before.apic.EoiAccessCount, 1);
    assert_int_equal(after.apic.SentIpiCount - before.apic.SentIpiCount, 1); /* all that were sent, */
    assert_int_equal(after.apic.SelfIpiCount - before.apic.SelfIpiCount, 1); /* and those of them to itself */
    assert_int_equal(after.intercepts.EmulatedInstructions.Count - before.intercepts.EmulatedInstructions.Count, 4);
    assert_int_equal(after.events.InterruptCount - before.events.InterruptCount, 1);
    /* The host's own accesses are not the guest's. */
    guest_set(&g, R(Cr8), 3);
    guest_set(&g, R(ApicTpr), 0x30);
    (void)guest_get(&g, R(Cr8));
    struct counted host = counters_of(&g);
    assert_memory_equal(&host.apic, &after.apic, sizeof(host.apic));
    guest_end(&g);
}

static void *run_thread(void *argument)
{
    struct guest *g = argument;

    assert_ok(WHvRunVirtualProcessor(g->partition, 0, &g->exit, sizeof(g->exit)));
    return NULL;
}

static UINT64 runtime_of(struct guest *g)
{
    return counters_of(g).runtime.TotalRuntime100ns;
}

/* Runtime grows while the processor runs, never goes back, and stands still while it sleeps in HLT and while nobody runs it. */
static void runtime_is_true(void **state)
{
    const struct guest_options options = {.apic_mode = WHvX64LocalApicEmulationModeXApic};
    struct guest g;
    pthread_t thread;

    (void)state;
    guest_begin(&g, &options);
    assert_int_equal(runtime_of(&g), 0);
    guest_code(&g, 0xeb, 0xfe);
    assert_int_equal(pthread_create(&thread, NULL, run_thread, &g), 0);
    UINT64 last = 0, start = runtime_of(&g);
    while (last < start + 50000) { /* 5 ms: comes while it runs, however long that takes */
        UINT64 now = runtime_of(&g);
        assert_true(now >= last);
        last = now;
    }
    assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
    pthread_join(thread, NULL);
    UINT64 stopped = runtime_of(&g);
    assert_true(stopped >= last);
    usleep(2000);
    assert_int_equal(runtime_of(&g), stopped);
    assert_int_equal(guest_get(&g, WHvRegisterVpRuntime), stopped);
    /* Asleep: two looks that find the same. */
    guest_code(&g, 0xf4, 0xeb, 0xfd);
    guest_set(&g, R(Rip), CODE);
    assert_int_equal(pthread_create(&thread, NULL, run_thread, &g), 0);
    do {
        last = runtime_of(&g);
        usleep(1000);
    } while (last == stopped || runtime_of(&g) != last);
    assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
    pthread_join(thread, NULL);
    assert_true(runtime_of(&g) >= last);
    assert_true(counters_of(&g).intercepts.HaltInstructions.Count >= 1);
    guest_end(&g);
}

static void memory_is_counted(void **state)
{
    WHV_PARTITION_MEMORY_COUNTERS c;
    struct guest g;
    UINT32 size;

    (void)state;
    guest_begin(&g, NULL);
    static const struct {
        UINT64 gpa, pages;
        bool unmap;
        UINT64 total;
    } steps[] = {
        {0x400000, 16, false, RAM_SIZE / 4096 + 16}, {0x404000, 16, false, RAM_SIZE / 4096 + 20}, /* over the one before */
        {0x401000, 1, true, RAM_SIZE / 4096 + 19},   {0x401000, 1, true, RAM_SIZE / 4096 + 19},
        {0x3ff000, 1000, true, RAM_SIZE / 4096},
    };
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        if (steps[i].unmap)
            assert_ok(WHvUnmapGpaRange(g.partition, steps[i].gpa, steps[i].pages * 4096));
        else
            assert_ok(WHvMapGpaRange(g.partition, g.ram, steps[i].gpa, steps[i].pages * 4096, WHvMapGpaRangeFlagRead));
        assert_ok(WHvGetPartitionCounters(g.partition, WHvPartitionCounterSetMemory, &c, sizeof(c), &size));
        assert_int_equal(size, 24);
        assert_int_equal(c.Mapped4KPageCount, steps[i].total);
        assert_int_equal(c.Mapped2MPageCount, 0);
        assert_int_equal(c.Mapped1GPageCount, 0);
    }
    assert_hr(WHvGetPartitionCounters(g.partition, (WHV_PARTITION_COUNTER_SET)1, &c, sizeof(c), &size), WHV_E_UNKNOWN_PROPERTY);
    assert_hr(WHvGetPartitionCounters(g.partition, WHvPartitionCounterSetMemory, &c, 23, &size), WHV_E_INSUFFICIENT_BUFFER);
    assert_int_equal(size, 24);
    assert_hr(WHvGetVirtualProcessorCounters(g.partition, 0, (WHV_PROCESSOR_COUNTER_SET)5, &c, sizeof(c), &size), WHV_E_UNKNOWN_PROPERTY);
    UINT8 synthetic[48];
    memset(synthetic, 0xcc, sizeof(synthetic));
    assert_ok(WHvGetVirtualProcessorCounters(g.partition, 0, WHvProcessorCounterSetSyntheticFeatures, synthetic, 48, &size));
    for (size_t i = 0; i < 48; i++)
        assert_int_equal(synthetic[i], 0); /* there is no Hyper-V interface */
    guest_end(&g);
}

/* ---- reset ---- */

/* All registers with a reset value, by the ranges of their names. */
static UINT32 reset_names(UINT32 mode, WHV_REGISTER_NAME *names)
{
    static const struct {
        UINT32 first, last;
        bool apic;
    } ranges[] = {
        {R(Rax), R(XCr0), false},          {R(Xmm0), R(XmmControlStatus), false},     {R(Efer), R(MsrMtrrDefType), false},
        {R(MsrMtrrPhysBase0), R(MsrMtrrPhysBase7), false}, {R(MsrMtrrPhysMask0), R(MsrMtrrPhysMask7), false},
        {R(MsrMtrrFix64k00000), R(TscAux), false}, {R(SpecCtrl), R(SpecCtrl), false}, {R(Xss), R(Xss), false},
        {R(TscAdjust), R(TscAdjust), false}, {R(MsrIa32MiscEnable), R(Ia32FeatureControl), false},
        {WHvRegisterPendingInterruption, WHvRegisterPendingEvent3, false},
        {R(TscDeadline), R(TscDeadline), true}, {R(ApicId), R(ApicVersion), true}, {R(ApicPpr), R(ApicPpr), true},
        {R(ApicLdr), R(ApicLdr), true}, {R(ApicSpurious), R(ApicEse), true}, {R(ApicIcr), R(ApicIcr), true},
        {R(ApicLvtTimer), R(ApicCurrentCount), true}, {R(ApicDivide), R(ApicDivide), true},
    };
    UINT32 count = 0;

    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++)
        for (UINT32 name = ranges[i].first; name <= ranges[i].last; name++)
            if (!ranges[i].apic || mode)
                names[count++] = (WHV_REGISTER_NAME)name;
    return count;
}

struct everything {
    WHV_REGISTER_VALUE values[300];
    struct image image;
    UINT8 apic[4096];
};

static void read_everything(struct guest *g, UINT32 vp, UINT32 mode, struct everything *e)
{
    static WHV_REGISTER_NAME names[300];
    UINT32 count = reset_names(mode, names);

    memset(e, 0, sizeof(*e));
    assert_ok(WHvGetVirtualProcessorRegisters(g->partition, vp, names, count, e->values));
    assert_ok(WHvGetVirtualProcessorXsaveState(g->partition, vp, e->image.bytes, sizeof(e->image.bytes), &e->image.size));
    if (mode)
        assert_ok(WHvGetVirtualProcessorInterruptControllerState2(g->partition, vp, e->apic, 4096, NULL));
}

static void compare_everything(const struct everything *is, const struct everything *was, UINT32 mode, const char *what)
{
    static WHV_REGISTER_NAME names[300];
    UINT32 count = reset_names(mode, names);

    for (UINT32 i = 0; i < count; i++)
        if (memcmp(&is->values[i], &was->values[i], 16) != 0) {
            print_error("%s: register %#x is %#llx %#llx, was %#llx %#llx\n", what, (unsigned)names[i],
                        (unsigned long long)is->values[i].Reg128.Low64, (unsigned long long)is->values[i].Reg128.High64,
                        (unsigned long long)was->values[i].Reg128.Low64, (unsigned long long)was->values[i].Reg128.High64);
            fail();
        }
    assert_memory_equal(&is->image, &was->image, sizeof(is->image));
    assert_memory_equal(is->apic, was->apic, 4096);
}

/* Something else in all that can be set. */
static void scramble(struct guest *g, UINT32 vp, UINT32 mode)
{
    static const WHV_REGISTER_NAME numbers[] = {
        R(Rip), R(Cr2), R(Cr3), R(Dr0), R(Dr1), R(Dr2), R(Dr3), R(KernelGsBase), R(SysenterCs), R(SysenterEip), R(SysenterEsp), R(Star),
        R(Lstar), R(Cstar), R(Sfmask), R(TscAux), R(TscAdjust), R(Tsc)};
    static const struct {
        WHV_REGISTER_NAME name;
        UINT64 value;
    } special[] = {
        {R(Rflags), 0x244ed7}, {R(Cr0), 0x8005003b}, {R(Cr4), 0x20}, {R(Cr8), 5}, {R(Dr6), 0xffff4ff5}, {R(Dr7), 0x700}, {R(Efer), 0xd01},
        {R(XCr0), 3}, {R(Pat), 0x0606060606060606}, {R(MsrMtrrDefType), 0xc06}, {R(SpecCtrl), 1}, {R(MsrIa32MiscEnable), 0x1800},
        {WHvRegisterInterruptState, 3}, {WHvRegisterPendingInterruption, 0x55000d0017}, {WHvRegisterPendingEvent, 0x55000d0101},
        {R(DeliverabilityNotifications), 3}, {R(PendingDebugException), 0x11}};
    static const struct {
        WHV_REGISTER_NAME name;
        UINT64 value;
    } of_apic[] = {
        {WHvRegisterInternalActivityState, 2}, {R(ApicLdr), 0x42000000}, {R(ApicSpurious), 0x1ff}, {R(ApicIsr3), 0x80}, {R(ApicIrr2), 2},
        {R(ApicTmr2), 2}, {R(ApicEse), 0x40}, {R(ApicIcr), 0xc0031}, {R(ApicLvtTimer), 0x20031}, {R(ApicLvtLint0), 0x32},
        {R(ApicDivide), 0xb}, {R(ApicInitCount), 0x7fffffff}, {R(ApicBase), 0xfed00800}};
    WHV_REGISTER_VALUE value = {{.Low64 = 0, .High64 = 0}};
    WHV_REGISTER_NAME name;

#define SET(what, number)                                                                          \
    do {                                                                                           \
        name = (WHV_REGISTER_NAME)(what);                                                          \
        value = (WHV_REGISTER_VALUE){.Reg128 = {.Low64 = (number)}};                               \
        assert_ok(WHvSetVirtualProcessorRegisters(g->partition, vp, &name, 1, &value));            \
    } while (0)
    for (UINT32 i = 0; i < 16; i++)
        SET(i, 0x1000 + i);
    for (UINT32 i = R(Es); i <= (UINT32)R(Tr); i++) {
        name = (WHV_REGISTER_NAME)i;
        value = (WHV_REGISTER_VALUE){.Segment = {.Base = 0x3000, .Limit = 0xfff, .Selector = 0x48, .Attributes = 0x1083}};
        assert_ok(WHvSetVirtualProcessorRegisters(g->partition, vp, &name, 1, &value));
    }
    for (UINT32 i = R(Idtr); i <= (UINT32)R(Gdtr); i++) {
        name = (WHV_REGISTER_NAME)i;
        value = (WHV_REGISTER_VALUE){.Table = {.Base = 0x3000, .Limit = 0xff}};
        assert_ok(WHvSetVirtualProcessorRegisters(g->partition, vp, &name, 1, &value));
    }
    for (UINT32 i = R(Xmm0); i <= (UINT32)R(FpMmx7); i++)
        SET(i, 0x2000 + i);
    SET(R(FpControlStatus), 0x07ff00ff1800027f);
    SET(R(XmmControlStatus), 0x55);
    for (UINT32 i = 0; i < 8; i++) {
        SET(R(MsrMtrrPhysBase0) + i, 0x1006);
        SET(R(MsrMtrrPhysMask0) + i, 0xff000800);
    }
    for (UINT32 i = R(MsrMtrrFix64k00000); i <= (UINT32)R(MsrMtrrFix4kF8000); i++)
        SET(i, 0x0606060606060606);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        SET(numbers[i], 0x5550 + i);
    for (size_t i = 0; i < sizeof(special) / sizeof(special[0]); i++)
        SET(special[i].name, special[i].value);
    for (size_t i = 0; mode && i < sizeof(of_apic) / sizeof(of_apic[0]); i++)
        SET(of_apic[i].name, of_apic[i].value);
    if (!mode)
        SET(R(ApicBase), 0xfed00800);
#undef SET
}

/* After reset, and after delete and create: the state of a fresh processor, in every mode of the APIC, first and other processors. */
static void reset_is_power_on(void **state)
{
    static struct everything fresh, changed, after;

    (void)state;
    for (UINT32 mode = 0; mode <= 2; mode++) {
        const struct guest_options options = {.apic_mode = mode, .processors = 2};
        struct guest g = {0};
        guest_begin(&g, &options);
        assert_ok(WHvCreateVirtualProcessor(g.partition, 1, 0));
        assert_ok(WHvResetPartition(g.partition)); /* guest_begin has set registers */
        for (UINT32 vp = 0; vp < 2; vp++) {
            assert_ok(WHvDeleteVirtualProcessor(g.partition, vp));
            assert_ok(WHvCreateVirtualProcessor(g.partition, vp, 0));
            read_everything(&g, vp, mode, &fresh);
            for (int again = 0; again < 2; again++) {
                scramble(&g, vp, mode);
                read_everything(&g, vp, mode, &changed);
                assert_memory_not_equal(&changed, &fresh, sizeof(fresh));
                if (again) {
                    assert_ok(WHvDeleteVirtualProcessor(g.partition, vp));
                    assert_ok(WHvCreateVirtualProcessor(g.partition, vp, 0));
                } else {
                    assert_ok(WHvResetPartition(g.partition));
                }
                read_everything(&g, vp, mode, &after);
                compare_everything(&after, &fresh, mode, again ? "delete and create" : "reset");
            }
        }
        guest_end(&g);
    }
}

/* Mappings, their contents and dirty bits, properties stay; cancels, notifications and pending interrupts do not; time stands still. */
static void reset_keeps_memory(void **state)
{
    const struct guest_options options = {.extended_exits = 1, .cpuid_exits = {0}, .cpuid_exit_count = 1};
    struct guest g;
    UINT64 bitmap = 0;

    (void)state;
    guest_begin(&g, &options);
    guest_code(&g, 0xc6, 0x06, 0x00, 0x50, 0x77, 0xf4); /* mov byte [5000h], 77h; hlt */
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
    struct counted before = counters_of(&g);
    assert_ok(WHvResetPartition(g.partition));
    struct counted after = counters_of(&g); /* the processor exists all along */
    assert_memory_equal(&before, &after, sizeof(after));
    UINT64 time[2], tsc = guest_get(&g, R(Tsc));
    assert_ok(WHvGetPartitionProperty(g.partition, WHvPartitionPropertyCodeReferenceTime, &time[0], 8, NULL));
    usleep(2000);
    assert_ok(WHvGetPartitionProperty(g.partition, WHvPartitionPropertyCodeReferenceTime, &time[1], 8, NULL));
    assert_int_equal(time[0], time[1]);
    assert_int_equal(guest_get(&g, R(Tsc)), tsc);
    assert_int_equal(g.ram[0x5000], 0x77);
    assert_ok(WHvQueryGpaRangeDirtyBitmap(g.partition, 0x5000, 4096, &bitmap, 8));
    assert_int_equal(bitmap, 1);
    /* From the reset vector, in RAM at FFFF0h: cpuid; hlt. No cancel waits, properties hold. */
    const WHV_REGISTER_NAME cs = R(Cs);
    WHV_REGISTER_VALUE value = guest_get_value(&g, cs);
    assert_int_equal(value.Segment.Base, 0xf0000);
    static const UINT8 boot[] = {0x31, 0xc0, 0x0f, 0xa2, 0xf4};
    guest_load(&g, 0xffff0, boot, sizeof(boot));
    run_to(&g, WHvRunVpExitReasonX64Cpuid);
    assert_field(&g, VpContext.Rip, 0xfff2);
    assert_field(&g, VpContext.Cs.Selector, 0xf000);
    guest_end(&g);
}

static void reset_while_running(void **state)
{
    struct guest g;
    pthread_t thread;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0xc6, 0x06, 0x00, 0x50, 1, 0xeb, 0xfe);
    assert_int_equal(pthread_create(&thread, NULL, run_thread, &g), 0);
    while (!*(volatile UINT8 *)(g.ram + 0x5000))
        continue;
    assert_hr(WHvResetPartition(g.partition), E_INVALID_STATE);
    assert_hr(WHvDeleteVirtualProcessor(g.partition, 0), WHV_E_INVALID_VP_STATE);
    assert_ok(WHvCancelRunVirtualProcessor(g.partition, 0, 0));
    pthread_join(thread, NULL);
    assert_ok(WHvResetPartition(g.partition));
    guest_end(&g);
}

/* ---- exceptions of deliveries ---- */

/* The #DF that two faults make exits like any other exception, and so does the second fault; the event stays pending. */
static void double_fault_exit(void **state)
{
    const WHV_REGISTER_NAME idtr = R(Idtr);
    const WHV_REGISTER_VALUE none = {.Table = {.Limit = 0}};

    (void)state;
    for (UINT32 vector = 8; vector <= 13; vector += 5) {
        const struct guest_options options = {.extended_exits = 4, .exceptions = 1ull << vector};
        struct guest g;
        guest_begin(&g, &options);
        guest_long_mode(&g, 0);
        assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &idtr, 1, &none));
        guest_code(&g, 0x0f, 0x0b);
        for (int again = 0; again < 2; again++) {
            run_to(&g, WHvRunVpExitReasonException);
            assert_field(&g, VpException.ExceptionType, vector);
            assert_field(&g, VpException.ExceptionInfo.AsUINT32, 1);
            assert_field(&g, VpContext.ExecutionState.InterruptionPending, 1);
            assert_field(&g, VpContext.Rip, CODE);
        }
        guest_set(&g, WHvRegisterPendingInterruption, 0);
        guest_code(&g, 0xf4);
        run_to(&g, WHvRunVpExitReasonX64Halt);
        guest_end(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("STATE-1", "F 1.1 Xsave: the image and the registers", image_is_registers),
        CASE("STATE-2", "H XSAVE: absent components", absent_components),
        CASE("STATE-3", "H WHvSetVirtualProcessorXsaveState: E_INVALIDARG", malformed_images),
        CASE("STATE-4", "F 9.7 ProcessorXsaveFeatures", image_without_avx),
        CASE("STATE-5", "F 1.1 InterruptControllerState, State2, VirtualProcessorState", apic_calls_agree),
        CASE("STATE-6", "F 1.1 VirtualProcessorState: other types", state_types),
        CASE("STATE-7", "F 1.1 WHvGetVirtualProcessorCounters: intercepts, events", intercepts_are_counted),
        CASE("STATE-8", "F 1.1 WHvGetVirtualProcessorCounters: APIC", apic_is_counted),
        CASE("STATE-9", "F 1.1 WHvGetVirtualProcessorCounters: runtime", runtime_is_true),
        CASE("STATE-10", "F 1.1 WHvGetPartitionCounters", memory_is_counted),
        CASE("STATE-11", "F 1.1 WHvResetPartition, WHvDeleteVirtualProcessor", reset_is_power_on),
        CASE("STATE-12", "F 1.1 WHvResetPartition: what stays", reset_keeps_memory),
        CASE("STATE-13", "F 1.1 WHvResetPartition: ERROR_INVALID_STATE", reset_while_running),
        CASE("STATE-15", "F 1.1 Xsave: PKRU", image_has_keys),
        CASE("STATE-14", "F 9.7 ExceptionExitBitmap: #DF and nested faults", double_fault_exit),
    };
    return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
