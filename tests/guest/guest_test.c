/*
 * Run one payload (the first argument): with direct memory, with every data access through the port, and with exits in the
 * middle of instructions, deliveries and page walks, which must leave no trace.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "guest.h"

static const char *payload;

static void run(bool direct, unsigned exit_one_in, uint64_t seed)
{
    struct guest guest;

    assert_true(guest_create(&guest, payload, direct));
    guest.exit_one_in = exit_one_in;
    guest.exit_random = seed;
    const enum cpu_leave leave = guest_run(&guest);
    const struct cpu *cpu = guest.cpu;
    if (!guest.ended || guest.code != 0)
        print_error("%s (one in %u, seed %llu, %u exits): leave %d ended %d check %u (0x%x)\n  output: %s\n  cs %#x rip %#llx "
                    "rsp %#llx rflags %#llx cr0 %#llx cr2 %#llx "
                    "cr3 %#llx cr4 %#llx efer %#llx cpl %u\n  rax %#llx rbx %#llx rcx %#llx rdx %#llx; last fault %u error %#x\n",
                    payload, exit_one_in, (unsigned long long)seed, guest.exits, leave, guest.ended, guest.code, guest.code,
                    guest.output, cpu->segment[SEG_CS].selector, (unsigned long long)cpu->rip,
                    (unsigned long long)cpu->gpr[REG_RSP].q, (unsigned long long)cpu_rflags(cpu), (unsigned long long)cpu->cr0,
                    (unsigned long long)cpu->cr2, (unsigned long long)cpu->cr3, (unsigned long long)cpu->cr4,
                    (unsigned long long)cpu->efer, cpu->cpl, (unsigned long long)cpu->gpr[REG_RAX].q,
                    (unsigned long long)cpu->gpr[REG_RBX].q, (unsigned long long)cpu->gpr[REG_RCX].q,
                    (unsigned long long)cpu->gpr[REG_RDX].q, cpu->fault.vector, cpu->fault.error);
    const bool passed = guest.ended && guest.code == 0;
    guest_destroy(&guest);
    assert_true(passed);
}

static void test_direct_memory(void **unused)
{
    (void)unused;
    run(true, 0, 0);
}

static void test_every_access_through_the_port(void **unused)
{
    (void)unused;
    run(false, 0, 0);
}

static void test_exits_leave_no_trace(void **unused)
{
    static const unsigned one_in[] = {200, 40, 10, 4};

    (void)unused;
    for (unsigned i = 0; i < 4; i++)
        for (uint64_t seed = 1; seed <= 5; seed++)
            run(false, one_in[i], seed);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_direct_memory),
        cmocka_unit_test(test_every_access_through_the_port),
        cmocka_unit_test(test_exits_leave_no_trace),
    };

    if (argc != 2)
        return EXIT_FAILURE;
    payload = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
