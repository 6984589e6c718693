/*
 * The rows of the opcode table that a program cannot compare with the host (opcode_table_test names each with its reason): what
 * they answer, from what the processor was given. Where the answers are used for real, other tests are named.
 *
 *   SLDT STR SGDT SIDT SMSW      here; by mode and UMIP in tests/guest (real, long)
 *   XGETBV RDPKRU WRPKRU         here; protection keys in guest_paging
 *   RDTSC RDTSCP RDPMC           here; guest_threads_time, conform: TSC
 *   RDPID                        here
 *   RDRAND RDSEED                here; guest_feature (no number twice)
 *   CPUID                        here (upper halves); guest_feature, conform: CPUID, VENDOR
 *   VMCALL VMMCALL               here; conform: EXIT-14
 *   SYSCALL SYSENTER             guest_long, guest_vendor
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "support/flat_cpu.h"
#include "x86/system/control.h"

enum { CODE = 0x400000, DATA = 0x500000, CODE_GPA = 0x100000, DATA_GPA = 0x200000 };

static const uint64_t junk = 0xa5a5a5a5a5a5a5a5;

static void start(struct flat_cpu *f, bool is_64, uint8_t cpl, const void *bytes, size_t size)
{
    flat_long(f, is_64, cpl);
    flat_map(f, CODE, CODE_GPA, cpl == 3 ? FLAT_WRITE : FLAT_WRITE | FLAT_SUPERVISOR);
    flat_map(f, DATA, DATA_GPA, FLAT_WRITE);
    memcpy(f->memory + CODE_GPA, bytes, size);
    memset(f->memory + DATA_GPA, 0xa5, 16);
    cpu_invalidate_code(f->cpu, CODE_GPA, PAGE_SIZE);
    cpu_set_rflags(f->cpu, RFLAGS_ONE);
    f->cpu->rip = CODE;
    f->cpu->gpr[REG_RAX].q = f->cpu->gpr[REG_RCX].q = f->cpu->gpr[REG_RDX].q = junk;
    f->cpu->gpr[REG_RBX].q = DATA;
    f->cpu->gdtr = (struct table_register){.base = 0xffff800012345678, .limit = 0x1234};
    f->cpu->idtr = (struct table_register){.base = 0xffff8000abcdef01, .limit = 0x0fff};
    f->cpu->segment[SEG_LDTR].selector = 0xbeef;
    f->cpu->segment[SEG_TR].selector = 0x8765;
    f->cpu->tsc_aux = 0x89abcdef;
}

#define START(f, is_64, cpl, ...)                                                                  \
    do {                                                                                           \
        const uint8_t code_[] = {__VA_ARGS__};                                                     \
        start((f), (is_64), (cpl), code_, sizeof(code_));                                          \
    } while (0)

/* One instruction; -1 or the vector of its fault. */
static int step(struct flat_cpu *f)
{
    const enum cpu_leave leave = cpu_step(f->cpu);
    return leave == LEAVE_NONE ? -1 : leave == LEAVE_FAULT ? f->cpu->fault.vector : -2;
}

static uint64_t rax(struct flat_cpu *f) { return f->cpu->gpr[REG_RAX].q; }

static void assert_stored(struct flat_cpu *f, const void *bytes, size_t size)
{
    static const uint8_t untouched[16] = {0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5,
                                          0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5};

    assert_memory_equal(f->memory + DATA_GPA, bytes, size);
    assert_memory_equal(f->memory + DATA_GPA + size, untouched, 16 - size);
}

/* SLDT, STR: registers are extended to the operand size, memory gets 16 bits whatever that is. SMSW: all of CR0. */
static void selectors_and_status(void **state)
{
    static const struct {
        uint8_t escape, reg, mem;
    } rows[] = {{0x00, 0xc0, 0x03}, {0x00, 0xc8, 0x0b}, {0x01, 0xe0, 0x23}};
    struct flat_cpu *f = *state;

    for (unsigned i = 0; i < 3; i++) {
        START(f, true, 0, 0x0f, rows[i].escape, rows[i].reg);
        const uint64_t cr0 = f->cpu->cr0, value = i == 0 ? 0xbeef : i == 1 ? 0x8765 : cr0;
        assert_int_equal(step(f), -1);
        assert_int_equal(rax(f), (uint32_t)value);
        START(f, true, 0, 0x66, 0x0f, rows[i].escape, rows[i].reg);
        assert_int_equal(step(f), -1);
        assert_int_equal(rax(f), (junk & ~0xffffull) | (value & 0xffff));
        START(f, true, 0, 0x48, 0x0f, rows[i].escape, rows[i].reg);
        assert_int_equal(step(f), -1);
        assert_int_equal(rax(f), value);
        for (unsigned prefix = 0; prefix < 3; prefix++) {
            START(f, true, 0, prefix == 0 ? 0x3e : prefix == 1 ? 0x66 : 0x48, 0x0f, rows[i].escape, rows[i].mem);
            assert_int_equal(step(f), -1);
            assert_stored(f, &value, 2);
        }
    }
}

/* SGDT, SIDT: 10 bytes in 64-bit code, else 6, prefix 66 or not (SDM 2B SGDT: all of the base on processors of today). */
static void table_registers(void **state)
{
    struct flat_cpu *f = *state;

    for (unsigned i = 0; i < 2; i++)
        for (unsigned is_64 = 0; is_64 < 2; is_64++)
            for (unsigned prefix = 0; prefix < 4; prefix++) {
                static const uint8_t prefixes[] = {0x3e, 0x66, 0xf2, 0xf3};
                START(f, is_64, 0, prefixes[prefix], 0x0f, 0x01, (uint8_t)(i ? 0x0b : 0x03));
                const struct table_register *table = i ? &f->cpu->idtr : &f->cpu->gdtr;
                uint8_t expected[10];
                memcpy(expected, &table->limit, 2);
                memcpy(expected + 2, &table->base, 8);
                assert_int_equal(step(f), -1);
                assert_stored(f, expected, is_64 ? 10 : 6);
            }
}

static void umip(void **state)
{
    static const uint8_t code[][3] = {
        {0x0f, 0x00, 0xc0}, {0x0f, 0x00, 0xc8}, {0x0f, 0x01, 0x03}, {0x0f, 0x01, 0x0b}, {0x0f, 0x01, 0xe0}};
    struct flat_cpu *f = *state;

    for (unsigned i = 0; i < 5; i++)
        for (unsigned on = 0; on < 2; on++) {
            start(f, true, 3, code[i], 3);
            f->cpu->cr4 = on ? f->cpu->cr4 | CR4_UMIP : f->cpu->cr4 & ~CR4_UMIP;
            assert_int_equal(step(f), on ? VECTOR_GP : -1);
            start(f, true, 0, code[i], 3);
            assert_int_equal(step(f), -1);
        }
}

static void extended_control(void **state)
{
    struct flat_cpu *f = *state;

    for (unsigned register_ = 0; register_ < 3; register_++) {
        START(f, true, 3, 0x0f, 0x01, 0xd0);
        f->cpu->cr4 |= CR4_OSXSAVE;
        f->cpu->xcr0 = 7;
        f->cpu->gpr[REG_RCX].q = register_ | 1ull << 40;
        memset(f->cpu->vector, 0, sizeof(f->cpu->vector));
        f->cpu->vector[3].q[2] = 1; /* AVX is in use, SSE is not */
        f->cpu->mxcsr = 0x1f80;
        assert_int_equal(step(f), register_ == 2 ? VECTOR_GP : -1);
        if (register_ == 2)
            break;
        assert_int_equal(rax(f) & ~1ull, register_ == 0 ? 6 : 4);
        assert_int_equal(f->cpu->gpr[REG_RDX].q, 0);
    }
    START(f, true, 0, 0x0f, 0x01, 0xd0);
    f->cpu->cr4 &= ~CR4_OSXSAVE;
    assert_int_equal(step(f), VECTOR_UD);
}

/* RCX must be 0, of WRPKRU RDX too; all of it in EAX. */
static void protection_keys(void **state)
{
    struct flat_cpu *f = *state;

    START(f, true, 3, 0x0f, 0x01, 0xee, 0x0f, 0x01, 0xef);
    f->cpu->cr4 |= CR4_PKE;
    cpu_set_pkru(f->cpu, 0x55555554);
    f->cpu->gpr[REG_RCX].q = junk << 32;
    assert_int_equal(step(f), -1);
    assert_int_equal(rax(f), 0x55555554);
    assert_int_equal(f->cpu->gpr[REG_RDX].q, 0);
    f->cpu->gpr[REG_RAX].q = junk << 32 | 0xfffffff0;
    assert_int_equal(step(f), -1);
    assert_int_equal(f->cpu->pkru, 0xfffffff0);
    for (unsigned bad = 0; bad < 3; bad++) {
        START(f, true, 3, 0x0f, 0x01, bad == 0 ? 0xee : 0xef);
        f->cpu->cr4 |= CR4_PKE;
        f->cpu->gpr[REG_RCX].q = bad < 2;
        f->cpu->gpr[REG_RDX].q = bad == 2;
        assert_int_equal(step(f), VECTOR_GP);
    }
    START(f, true, 3, 0x0f, 0x01, 0xee);
    f->cpu->cr4 &= ~CR4_PKE;
    assert_int_equal(step(f), VECTOR_UD);
    cpu_set_pkru(f->cpu, 0);
}

static void time_stamps(void **state)
{
    struct flat_cpu *f = *state;
    uint64_t last = 0;

    for (unsigned i = 0; i < 100; i++) {
        if (i & 1)
            START(f, true, 3, 0x0f, 0x01, 0xf9);
        else
            START(f, true, 3, 0x0f, 0x31);
        f->cpu->cr4 &= ~CR4_TSD;
        assert_int_equal(step(f), -1);
        assert_int_equal(rax(f) >> 32 | f->cpu->gpr[REG_RDX].q >> 32, 0);
        assert_true((f->cpu->gpr[REG_RDX].q << 32 | rax(f)) > last);
        last = f->cpu->gpr[REG_RDX].q << 32 | rax(f);
        assert_int_equal(f->cpu->gpr[REG_RCX].q, i & 1 ? 0x89abcdef : junk);
    }
    for (unsigned cpl = 0; cpl < 4; cpl += 3)
        for (unsigned i = 0; i < 2; i++) {
            if (i)
                START(f, true, (uint8_t)cpl, 0x0f, 0x01, 0xf9);
            else
                START(f, true, (uint8_t)cpl, 0x0f, 0x31);
            f->cpu->cr4 |= CR4_TSD;
            assert_int_equal(step(f), cpl == 3 ? VECTOR_GP : -1);
        }
    f->cpu->cr4 &= ~CR4_TSD;
    START(f, true, 0, 0x0f, 0x33); /* RDPMC: no counters */
    assert_int_equal(step(f), VECTOR_GP);
}

static void processor_numbers(void **state)
{
    struct flat_cpu *f = *state;

    START(f, true, 3, 0xf3, 0x0f, 0xc7, 0xf8); /* RDPID RAX */
    assert_int_equal(step(f), -1);
    assert_int_equal(rax(f), 0x89abcdef);
    START(f, true, 3, 0x66, 0xf3, 0x0f, 0xc7, 0xf8); /* the operand size does not count */
    assert_int_equal(step(f), -1);
    assert_int_equal(rax(f), 0x89abcdef);
}

/* The flags but CF are 0, the upper half follows the operand size. */
static void random_numbers(void **state)
{
    struct flat_cpu *f = *state;

    for (unsigned i = 0; i < 2; i++) {
        const uint8_t modrm = i ? 0xf8 : 0xf0;
        START(f, true, 3, 0x66, 0x0f, 0xc7, modrm);
        cpu_set_rflags(f->cpu, RFLAGS_ONE | RFLAGS_ARITHMETIC);
        assert_int_equal(step(f), -1);
        assert_int_equal(rax(f) >> 16, junk >> 16);
        assert_int_equal(cpu_rflags(f->cpu) & RFLAGS_ARITHMETIC, RFLAGS_CF);
        START(f, true, 3, 0x0f, 0xc7, modrm);
        assert_int_equal(step(f), -1);
        assert_int_equal(rax(f) >> 32, 0);
        START(f, true, 3, 0x48, 0x0f, 0xc7, modrm);
        uint64_t all = 0;
        for (unsigned n = 0; n < 64; n++) {
            f->cpu->rip = CODE;
            assert_int_equal(step(f), -1);
            all |= rax(f);
        }
        assert_int_equal(all, ~0ull); /* each bit once in 64 numbers */
    }
}

static void identification(void **state)
{
    struct flat_cpu *f = *state;

    START(f, true, 3, 0x0f, 0xa2);
    f->cpu->gpr[REG_RAX].q = junk << 32;
    assert_int_equal(step(f), -1);
    assert_int_equal((rax(f) | f->cpu->gpr[REG_RBX].q | f->cpu->gpr[REG_RCX].q | f->cpu->gpr[REG_RDX].q) >> 32, 0);
    assert_memory_equal(&f->cpu->gpr[REG_RBX].q, f->cpu->cpuid.vendor, 4);
    assert_memory_equal(&f->cpu->gpr[REG_RDX].q, f->cpu->cpuid.vendor + 4, 4);
    assert_memory_equal(&f->cpu->gpr[REG_RCX].q, f->cpu->cpuid.vendor + 8, 4);
}

/* Without a client that wants them. */
static void hypercalls(void **state)
{
    static const uint8_t prefixes[] = {0x3e, 0x66, 0xf2, 0xf3};
    struct flat_cpu *f = *state;

    for (unsigned cpl = 0; cpl < 4; cpl += 3)
        for (unsigned i = 0; i < 4; i++) {
            START(f, true, (uint8_t)cpl, prefixes[i], 0x0f, 0x01, 0xd9);
            assert_int_equal(step(f), VECTOR_UD);
            START(f, true, (uint8_t)cpl, 0x0f, 0x01, 0xc1);
            assert_int_equal(step(f), VECTOR_UD);
        }
}

static int setup(void **state)
{
    *state = flat_create();
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    flat_destroy(*state);
    return 0;
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(selectors_and_status), CASE(table_registers),   CASE(umip),           CASE(extended_control), CASE(protection_keys),
        CASE(time_stamps),          CASE(processor_numbers), CASE(random_numbers), CASE(identification),   CASE(hypercalls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
