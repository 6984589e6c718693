/* What MONITOR and MWAIT check, and what they tell their port. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "os/guarded.h"
#include "util/compiler.h"
#include "x86/cpu.h"
#include "x86/port.h"
#include "x86/system/debug.h"

enum { MEMORY = 16 * 4096, CODE = 0x1000, HOLE = 0x10000, NOTHING = 0xdead };

static uint8_t memory[MEMORY] __attribute__((aligned(4096)));
static struct cpu *cpu;
static gpa_t monitored;
static int waited; /* -1: not; else `masked` */

static bool page(struct cpu *c, gpa_t address, enum access_type type, struct port_page *out)
{
    (void)c, (void)type;
    *out = (struct port_page){.host = memory + address % MEMORY, .rights = PAGE_READ | PAGE_WRITE | PAGE_EXECUTE};
    return true;
}

/* Not the identity; from HOLE on nothing is present. */
static enum port_result translate(struct cpu *c, gva_t gva, enum access_type type, bool user, gpa_t *gpa)
{
    (void)type;
    if (gva >= HOLE && gva < 2 * HOLE) {
        (void)!raise_page_fault(c, gva, user ? PF_U : 0);
        return PORT_FAULT;
    }
    *gpa = gva % MEMORY + (gva >= 2 * HOLE ? 0x100000 : 0);
    return PORT_DONE;
}

static void on_monitor(struct cpu *c, gpa_t gpa)
{
    (void)c;
    monitored = gpa;
}

static void on_wait(struct cpu *c, bool masked)
{
    (void)c;
    waited = masked;
}

static const struct cpu_port port = {.page = page, .translate = translate, .monitor = on_monitor, .wait = on_wait};
static const struct cpu_port port_without = {.page = page, .translate = translate};

enum kind { LONG, COMPATIBILITY, REAL };

static void prepare(enum kind kind, const char *code, size_t size)
{
    memset(memory, 0x90, sizeof(memory));
    memcpy(memory + CODE, code, size);
    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    cpu->cr0 = kind == REAL ? CR0_ET : CR0_PE | CR0_PG | CR0_ET;
    cpu->cr4 = kind == REAL ? 0 : CR4_PAE;
    cpu->efer = kind == REAL ? 0 : EFER_LME | EFER_LMA;
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        cpu->segment[i] = (struct segment){.limit = kind == REAL ? 0xffff : 0xffffffff, .selector = 0x10, .attributes = 0xc093};
    cpu->segment[SEG_CS].attributes = kind == LONG ? 0xa09b : kind == COMPATIBILITY ? 0xc09b : 0x9b;
    cpu->cpl = 0;
    cpu->rip = CODE;
    cpu_set_rflags(cpu, RFLAGS_ONE);
    cpu_update_mode(cpu);
    cpu_flush_tlb(cpu, false);
    cpu_verify_code(cpu);
    monitored = NOTHING;
    waited = -1;
}

/* The vector of its fault, -1: none. */
static int step(void)
{
    const enum cpu_leave leave = cpu_step(cpu);
    return leave == LEAVE_NONE ? -1 : leave == LEAVE_FAULT ? cpu->fault.vector : -2;
}

#define MONITOR "\x0f\x01\xc8"
#define MWAIT   "\x0f\x01\xc9"
#define PREPARE(kind, code) prepare(kind, code, sizeof(code) - 1)

static void test_address(void **unused)
{
    (void)unused;
    PREPARE(LONG, MONITOR);
    cpu->gpr[REG_RAX].q = 0x2345;
    assert_int_equal(step(), -1);
    assert_int_equal(monitored, 0x2345);
    assert_int_equal(cpu->rip, CODE + 3);
    PREPARE(LONG, MONITOR);
    cpu->gpr[REG_RAX].q = 0x7fff00002345;
    assert_int_equal(step(), -1);
    assert_int_equal(monitored, 0x102345);
    PREPARE(LONG, "\x67" MONITOR); /* EAX */
    cpu->gpr[REG_RAX].q = 0xffffffff00003456;
    assert_int_equal(step(), -1);
    assert_int_equal(monitored, 0x3456);
    PREPARE(LONG, "\x64" MONITOR); /* FS */
    cpu->gpr[REG_RAX].q = 0x10;
    cpu->segment[SEG_FS].base = 0x4000;
    assert_int_equal(step(), -1);
    assert_int_equal(monitored, 0x4010);
    PREPARE(LONG, "\x2e" MONITOR); /* CS counts for nothing in 64-bit mode */
    cpu->gpr[REG_RAX].q = 0x10;
    cpu->segment[SEG_CS].base = 0;
    assert_int_equal(step(), -1);
    assert_int_equal(monitored, 0x10);
    PREPARE(COMPATIBILITY, "\x26" MONITOR); /* ES */
    cpu->gpr[REG_RAX].q = 0x10;
    cpu->segment[SEG_ES].base = 0x5000;
    cpu_update_mode(cpu);
    assert_int_equal(step(), -1);
    assert_int_equal(monitored, 0x5010);
    PREPARE(REAL, MONITOR); /* AX */
    cpu->gpr[REG_RAX].q = 0x12340020;
    cpu->segment[SEG_DS].base = 0x6000;
    cpu_update_mode(cpu);
    assert_int_equal(step(), -1);
    assert_int_equal(monitored, 0x6020);
}

static void test_faults(void **unused)
{
    (void)unused;
    PREPARE(LONG, MONITOR);
    cpu->gpr[REG_RAX].q = 0x800000000000;
    assert_int_equal(step(), VECTOR_GP);
    PREPARE(LONG, MONITOR);
    cpu->gpr[REG_RAX].q = HOLE + 5;
    assert_int_equal(step(), VECTOR_PF);
    assert_int_equal(cpu->fault.address, HOLE + 5);
    assert_int_equal(cpu->fault.error, 0); /* a load */
    PREPARE(COMPATIBILITY, MONITOR);
    cpu->segment[SEG_DS].limit = 0xfff;
    cpu_update_mode(cpu);
    cpu->gpr[REG_RAX].q = 0x1000;
    assert_int_equal(step(), VECTOR_GP);
    PREPARE(COMPATIBILITY, "\x36" MONITOR);
    cpu->segment[SEG_SS].limit = 0xfff;
    cpu_update_mode(cpu);
    cpu->gpr[REG_RAX].q = 0x1000;
    assert_int_equal(step(), VECTOR_SS);
    assert_int_equal(monitored, NOTHING);
    PREPARE(LONG, "\xf0" MONITOR);
    assert_int_equal(step(), VECTOR_UD);
}

static void test_extensions(void **unused)
{
    (void)unused;
    PREPARE(LONG, MONITOR);
    cpu->gpr[REG_RCX].q = 1;
    assert_int_equal(step(), VECTOR_GP);
    PREPARE(LONG, MONITOR);
    cpu->gpr[REG_RCX].q = 1ull << 32;
    assert_int_equal(step(), VECTOR_GP);
    PREPARE(COMPATIBILITY, MONITOR);
    cpu->gpr[REG_RCX].q = 1ull << 32;
    assert_int_equal(step(), -1);
    PREPARE(LONG, MWAIT);
    cpu->gpr[REG_RCX].q = 2;
    assert_int_equal(step(), VECTOR_GP);
    PREPARE(LONG, MWAIT);
    cpu->gpr[REG_RCX].q = 1ull << 32 | 1;
    assert_int_equal(step(), VECTOR_GP);
    assert_int_equal(waited, -1);
    for (int masked = 0; masked < 2; masked++) {
        PREPARE(LONG, MWAIT);
        cpu->gpr[REG_RCX].q = (uint64_t)masked;
        cpu->gpr[REG_RAX].q = 0xf0; /* hints */
        assert_int_equal(step(), -1);
        assert_int_equal(waited, masked);
        assert_int_equal(cpu->rip, CODE + 3);
    }
}

static void test_privilege_and_presence(void **unused)
{
    static const char *const code[] = {MONITOR, MWAIT};

    (void)unused;
    for (unsigned i = 0; i < 2; i++) {
        prepare(LONG, code[i], 3);
        cpu->cpl = 3;
        cpu_update_mode(cpu);
        cpu->gpr[REG_RCX].q = 1; /* #UD comes first */
        assert_int_equal(step(), VECTOR_UD);
        prepare(LONG, code[i], 3);
        cpuid_set(&cpu->cpuid, FEATURE_MONITOR, false);
        assert_int_equal(step(), VECTOR_UD);
        cpuid_set(&cpu->cpuid, FEATURE_MONITOR, true);
        prepare(LONG, code[i], 3);
        cpu->port = &port_without;
        assert_int_equal(step(), -1);
        cpu->port = &port;
    }
    assert_int_equal(monitored, NOTHING);
}

/* The trap behind MWAIT would end the wait at once. */
static void test_single_step(void **unused)
{
    (void)unused;
    PREPARE(LONG, MWAIT);
    cpu_set_rflags(cpu, RFLAGS_ONE | RFLAGS_TF);
    assert_int_equal(step(), -1);
    assert_int_equal(waited, -1);
    assert_int_equal(cpu->debug_pending, DR6_BS);
    cpu->debug_pending = 0;
}

static int set_up(void **unused)
{
    (void)unused;
    cpu = guarded_init() ? cpu_create(&port, NULL, 40) : NULL;
    if (!cpu)
        return -1;
    cpuid_set(&cpu->cpuid, FEATURE_MONITOR, true);
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    cpu_destroy(cpu);
    return 0;
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {CASE(test_address), CASE(test_faults), CASE(test_extensions),
                                       CASE(test_privilege_and_presence), CASE(test_single_step)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
