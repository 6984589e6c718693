/*
 * Locked instructions are atomic between processors: two of them over one memory, each on its own thread, and the
 * locked kernels of x86/integer/alu_lock.h on memory that two threads share or that has vanished.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "support/flat_cpu.h"
#include "util/compiler.h"
#include "x86/integer/alu_lock.h"
#include "x86/system/event.h"

/* Enough for the two to be scheduled at the same time. */
enum { ROUNDS = 1000000, COUNTER = 0x8000, LOCK = 0x8040, CODE = 0x10000 };

/* 32-bit registers in real mode: RCX rounds, RBX the counter, RDX = 1, HLT at the end. */
struct program {
    const char *name;
    uint8_t bytes[64];
    uint32_t expected; /* in the counter after both, per round */
};

/* clang-format off */
static const struct program programs[] = {
    /* lock add dword [bx], 3 / dec ecx / jnz / hlt */
    {"LOCK ADD", {0x66, 0xf0, 0x83, 0x07, 0x03, 0x66, 0x49, 0x75, 0xf7, 0xf4}, 3},
    /* lock inc dword [bx] */
    {"LOCK INC", {0x66, 0xf0, 0xff, 0x07, 0x66, 0x49, 0x75, 0xf8, 0xf4}, 1},
    /* stc / lock adc dword [bx], 0 */
    {"LOCK ADC", {0xf9, 0x66, 0xf0, 0x83, 0x17, 0x00, 0x66, 0x49, 0x75, 0xf6, 0xf4}, 1},
    /* mov eax, edx / lock xadd [bx], eax */
    {"LOCK XADD", {0x66, 0x89, 0xd0, 0x66, 0xf0, 0x0f, 0xc1, 0x07, 0x66, 0x49, 0x75, 0xf4, 0xf4}, 1},
    /* again: mov eax, [bx] / mov esi, eax / inc esi / lock cmpxchg [bx], esi / jnz again */
    {"LOCK CMPXCHG", {0x66, 0x8b, 0x07, 0x66, 0x89, 0xc6, 0x66, 0x46, 0x66, 0xf0, 0x0f, 0xb1, 0x37, 0x75, 0xf1, 0x66, 0x49, 0x75, 0xed, 0xf4}, 1},
    /* spin: mov al, 1 / xchg [bx+40h], al / test al, al / jnz spin / inc dword [bx] / mov byte [bx+40h], 0 */
    {"XCHG", {0xb0, 0x01, 0x86, 0x47, 0x40, 0x84, 0xc0, 0x75, 0xf7, 0x66, 0xff, 0x07, 0xc6, 0x47, 0x40, 0x00, 0x66, 0x49, 0x75, 0xec, 0xf4}, 1},
    /* spin: lock bts dword [bx+40h], 0 / jc spin / inc dword [bx] / lock btr dword [bx+40h], 0 */
    {"LOCK BTS", {0x66, 0xf0, 0x0f, 0xba, 0x6f, 0x40, 0x00, 0x72, 0xf7, 0x66, 0xff, 0x07, 0x66, 0xf0, 0x0f, 0xba, 0x77, 0x40, 0x00, 0x66, 0x49, 0x75, 0xe9, 0xf4}, 1},
};
/* clang-format on */

static pthread_barrier_t together;

static void *run_to_halt(void *argument)
{
    struct flat_cpu *f = argument;
    struct event event;

    pthread_barrier_wait(&together);
    return (void *)(uintptr_t)cpu_run(f->cpu, &event);
}

static void prepare(struct flat_cpu *f)
{
    flat_real(f);
    f->cpu->gpr[REG_RCX].q = ROUNDS;
    f->cpu->gpr[REG_RBX].q = COUNTER;
    f->cpu->gpr[REG_RDX].q = 1;
    flat_real_segment(f, SEG_CS, CODE >> 4);
    cpu_update_mode(f->cpu);
    f->cpu->rip = 0;
    cpu_set_rflags(f->cpu, RFLAGS_ONE);
    cpu_invalidate_code(f->cpu, CODE, PAGE_SIZE);
}

static void run_both(struct flat_cpu *f[2], const struct program *p)
{
    pthread_t thread[2];
    void *leave;

    memset(f[0]->memory + COUNTER, 0, 0x100);
    memcpy(f[0]->memory + CODE, p->bytes, sizeof(p->bytes));
    for (unsigned i = 0; i < 2; i++) {
        prepare(f[i]);
        assert_int_equal(pthread_create(&thread[i], NULL, run_to_halt, f[i]), 0);
    }
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(thread[i], &leave), 0);
        assert_int_equal((uintptr_t)leave, LEAVE_HALT);
    }
}

static void processors_count_together(void **state)
{
    struct flat_cpu *f[2] = {flat_create(), flat_create()};
    uint8_t *own;
    uint32_t counter;

    (void)state;
    assert_non_null(f[0]);
    assert_non_null(f[1]);
    own = f[1]->memory;
    f[1]->memory = f[0]->memory;
    for (unsigned i = 0; i < array_size(programs); i++) {
        run_both(f, &programs[i]);
        memcpy(&counter, f[0]->memory + COUNTER, sizeof(counter));
        if (counter != 2 * ROUNDS * programs[i].expected)
            fail_msg("%s: %u instead of %u", programs[i].name, counter, 2 * ROUNDS * programs[i].expected);
    }
    f[1]->memory = own;
    flat_destroy(f[0]);
    flat_destroy(f[1]);
}

/* ---- the kernels ---- */

static uint64_t shared[8];

static void *count(void *argument)
{
    uint32_t flags = 0;
    bool good = true;

    (void)argument;
    pthread_barrier_wait(&together);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint16_t v = 1;
        good = alu_lock_add32(&shared[0], 1, &flags) && good;
        good = alu_lock_sub64(&shared[1], 1, &flags) && good;
        good = alu_lock_inc8(&shared[2], &flags) && good;
        good = alu_lock_xadd16(&shared[3], &v, &flags) && good;
        flags |= AFLAG_CF;
        good = alu_lock_adc64(&shared[4], 0, &flags) && good;
        good = alu_lock_btc32(&shared[5], 5, &flags) && good;
        good = alu_lock_not8(&shared[6]) && good;
    }
    return (void *)(uintptr_t)good;
}

static void kernels_count_together(void **state)
{
    pthread_t thread[2];
    void *good;

    (void)state;
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, count, NULL), 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(thread[i], &good), 0);
        assert_true(good);
    }
    assert_int_equal(shared[0], 2 * ROUNDS);
    assert_int_equal(shared[1], 0 - (uint64_t)(2 * ROUNDS));
    assert_int_equal(shared[2], (uint8_t)(2 * ROUNDS));
    assert_int_equal(shared[3], (uint16_t)(2 * ROUNDS));
    assert_int_equal(shared[4], 2 * ROUNDS);
    assert_int_equal(shared[5], 0);
    assert_int_equal(shared[6], 0);
}

static void kernels_deliver_flags(void **state)
{
    uint32_t value = 0xffffffff, flags = 0, old = 5;

    (void)state;
    assert_true(alu_lock_add32(&value, 1, &flags));
    assert_int_equal(flags & AFLAG_ALL, AFLAG_CF | AFLAG_ZF | AFLAG_AF | AFLAG_PF);
    flags = AFLAG_CF;
    assert_true(alu_lock_dec32(&value, &flags));
    assert_int_equal(flags & AFLAG_ALL, AFLAG_CF | AFLAG_SF | AFLAG_AF | AFLAG_PF);
    assert_true(alu_lock_xchg32(&value, &old));
    assert_int_equal(old, 0xffffffff);
    flags = AFLAG_ZF | AFLAG_OF;
    assert_true(alu_lock_btr32(&value, 32 + 2, &flags));
    assert_int_equal(value, 1);
    assert_int_equal(flags & (AFLAG_CF | AFLAG_ZF), AFLAG_CF | AFLAG_ZF);
}

static void kernels_survive_vanished_memory(void **state)
{
    uint32_t flags = 7, value = 1;
    void *page = mmap(NULL, PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)state;
    assert_ptr_not_equal(page, MAP_FAILED);
    assert_true(guarded_init());
    assert_false(alu_lock_add32(page, 1, &flags));
    assert_false(alu_lock_adc32(page, 1, &flags));
    assert_false(alu_lock_neg32(page, &flags));
    assert_false(alu_lock_not32(page));
    assert_false(alu_lock_xadd32(page, &value, &flags));
    assert_false(alu_lock_xchg32(page, &value));
    assert_false(alu_lock_bts32(page, 1, &flags));
    assert_int_equal(flags, 7);
    assert_int_equal(value, 1);
    munmap(page, PAGE_SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* First: cmocka puts its own signal handlers back after the test that installs ours. */
        cmocka_unit_test(kernels_survive_vanished_memory),
        cmocka_unit_test(kernels_count_together),
        cmocka_unit_test(kernels_deliver_flags),
        cmocka_unit_test(processors_count_together),
    };

    if (pthread_barrier_init(&together, NULL, 2) != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
